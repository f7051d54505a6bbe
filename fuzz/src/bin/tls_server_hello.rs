//! Any bytes as a ServerHello.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| seventh_parsers::tls::fuzz_server_hello(input));
