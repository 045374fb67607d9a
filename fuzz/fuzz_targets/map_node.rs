//! Any bytes as a node of an image map.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backstop_store::fuzzing::map_node(bytes));
