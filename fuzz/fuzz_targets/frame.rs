//! Any bytes as a frame of a pack.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backstop_store::fuzzing::frame(bytes));
