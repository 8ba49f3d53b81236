//! `candlekeep simulate`: the simulator alone.

use crate::cli::Simulate;
use crate::exit::{Exit, Failure};

/// Fails: the simulator is not part of this build.
///
/// # Errors
/// Always.
pub fn execute(_args: &Simulate) -> Result<Exit, Failure> {
    Err(Failure::failed("`simulate` is not part of this build"))
}
