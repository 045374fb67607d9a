//! Any bytes as each message that goes between agents and a server.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backstop_transport_tcp::fuzzing::message(bytes));
