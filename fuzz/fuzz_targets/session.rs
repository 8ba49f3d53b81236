#![no_main]

use std::time::Instant;

use candlekeep_fuzz::tlcp::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::session(bytes, Instant::now()));
