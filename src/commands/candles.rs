//! `candlekeep candles`: prints stored bars.

use crate::cli::Candles;
use crate::config::Config;
use crate::exit::{Exit, Failure};

/// Fails: there is no store to read from yet.
///
/// # Errors
/// Always.
pub fn execute(_args: &Candles, _config: &Config) -> Result<Exit, Failure> {
    Err(Failure::failed("`candles` is not part of this build"))
}
