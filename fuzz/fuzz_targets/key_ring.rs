//! Any bytes as a ring of vault keys, after its seal.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backstop_store::fuzzing::key_ring(bytes));
