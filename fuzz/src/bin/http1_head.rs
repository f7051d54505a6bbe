//! Any bytes as an HTTP/1 request head.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| seventh_parsers::http1::fuzz_head(input));
