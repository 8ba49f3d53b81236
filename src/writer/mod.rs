//! writer

pub mod batch;
