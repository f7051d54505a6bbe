//! Any bytes as a datagram of QUIC.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| seventh_parsers::quic::fuzz_datagram(input));
