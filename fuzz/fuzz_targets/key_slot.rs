//! Any bytes as a key slot.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backstop_store::fuzzing::key_slot(bytes));
