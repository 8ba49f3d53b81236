//! Makes findings durable.

pub mod actor;
pub mod batch;
