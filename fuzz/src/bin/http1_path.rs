//! Any text as the path of a request.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| seventh_parsers::http1::fuzz_path(text));
