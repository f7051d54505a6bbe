//! Any bytes as a flow record.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| seventh_flows::fuzz_record(input));
