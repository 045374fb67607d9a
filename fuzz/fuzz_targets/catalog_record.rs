//! Any bytes as a record of the catalog.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backstop_store::fuzzing::catalog_record(bytes));
