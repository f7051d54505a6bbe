//! Any bytes as what happens to an opener's byte stream.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| seventh_engine::fuzz_stream(input));
