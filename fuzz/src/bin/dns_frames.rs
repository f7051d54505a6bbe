//! Any bytes as DNS over TCP.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| seventh_parsers::dns::fuzz_frames(input));
