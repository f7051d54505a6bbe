//! Any bytes as header blocks of HTTP/2.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| seventh_parsers::http2::fuzz_hpack(input));
