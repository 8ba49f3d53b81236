//! The protocol's room alone, so that the fuzzer builds it in seconds without the rest of the house.

#[path = "../../src/tlcp/mod.rs"]
pub mod tlcp;
