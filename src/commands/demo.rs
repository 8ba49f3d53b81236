//! `candlekeep demo`: simulator and service in one process.

use crate::cli::Demo;
use crate::config::Flags;
use crate::exit::{Exit, Failure};

/// Fails: the demonstration is not part of this build.
///
/// # Errors
/// Always.
pub fn execute(_args: &Demo, _flags: &Flags) -> Result<Exit, Failure> {
    Err(Failure::failed("`demo` is not part of this build"))
}
