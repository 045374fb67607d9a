//! Any bytes as `vault.json`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backstop_store::fuzzing::vault_header(bytes));
