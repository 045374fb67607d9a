//! Any bytes as a value of the index.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backstop_store::fuzzing::index_entry(bytes));
