//! aggregator

pub mod rollup;
