//! Makes findings durable: in the database, or in the spool while that is away.

pub mod actor;
pub mod batch;
pub mod journal;
pub mod modes;
#[cfg(test)]
mod modes_tests;
pub mod recovery;
