//! Any bytes as a frame.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| seventh_parsers::packet::fuzz_frame(input));
