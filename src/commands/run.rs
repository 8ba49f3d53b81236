//! `candlekeep run`: the service.

use crate::cli::Run;
use crate::config::Config;
use crate::exit::{Exit, Failure};

/// Fails: the service is not part of this build.
///
/// # Errors
/// Always. Missing credentials are found first.
pub fn execute(_args: &Run, config: Config) -> Result<Exit, Failure> {
    config.credentials.require()?;
    Err(Failure::failed("`run` is not part of this build"))
}
