//! Finds what is missing and has it fetched.

pub mod actor;
pub mod plan;
