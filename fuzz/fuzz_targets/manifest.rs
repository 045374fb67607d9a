//! Any bytes as a recovery point's root.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backstop_store::fuzzing::manifest(bytes));
