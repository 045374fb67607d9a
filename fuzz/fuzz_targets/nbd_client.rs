//! Any bytes as all that the peer of an NBD client says.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backstop_source_nbd::fuzzing::nbd_client(bytes));
