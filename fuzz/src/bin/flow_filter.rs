//! Any bytes as a filter, and a flow.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| seventh_flows::fuzz_filter(input));
