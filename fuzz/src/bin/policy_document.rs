//! Any bytes as a file of policies.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| seventh_policy::fuzz_document(input));
