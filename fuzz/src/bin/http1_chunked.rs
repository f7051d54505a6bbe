//! Any bytes as a chunked body.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| seventh_parsers::http1::fuzz_chunked(input));
