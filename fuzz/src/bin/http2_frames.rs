//! Any bytes as a client's HTTP/2 connection.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| seventh_parsers::http2::fuzz_frames(input));
