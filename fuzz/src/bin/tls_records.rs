//! Any bytes as TLS records.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| seventh_parsers::tls::fuzz_records(input));
