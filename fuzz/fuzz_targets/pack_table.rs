//! Any bytes as the table of a pack.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backstop_store::fuzzing::pack_table(bytes));
