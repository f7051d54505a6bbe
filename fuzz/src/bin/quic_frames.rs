//! Any bytes as the frames of a QUIC Initial packet.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| seventh_parsers::quic::fuzz_frames(input));
