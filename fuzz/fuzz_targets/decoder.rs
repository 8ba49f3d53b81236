#![no_main]

use candlekeep_fuzz::tlcp::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::decoder(bytes));
