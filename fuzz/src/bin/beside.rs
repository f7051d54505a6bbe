//! Any bytes as what is shown of a connection beside the traffic.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| seventh_engine::fuzz_beside(input));
