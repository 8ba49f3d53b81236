//! Tests of the whole program, in one binary.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests, which clippy cannot tell")]

mod command_line;
