//! Any bytes as a request that the kernel judges by itself.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    seventh_engine::fuzz_passed_request(input);
});
