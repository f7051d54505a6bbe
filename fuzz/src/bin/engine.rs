//! Any bytes as what happens on a connection.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| seventh_engine::fuzz_engine(input));
