//! Any bytes as a ClientHello.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| seventh_parsers::tls::fuzz_hello(input));
