//! What the command line can ask for, one file each.

pub mod candles;
pub mod demo;
pub mod doctor;
pub mod explain;
pub mod gaps;
pub mod init;
mod market;
pub mod run;
pub mod simulate;
pub mod status;

use comfy_table::{Table, presets};

use crate::cli::{Cli, Command};
use crate::config::{self, Flags};
use crate::exit::{Exit, Failure};
use crate::store::StoreError;

/// Does what was asked.
///
/// # Errors
/// The reason, in one line, and the exit code.
pub fn execute(cli: Cli) -> Result<Exit, Failure> {
    let flags = Flags::from(cli.global);
    match &cli.command {
        Command::Init(args) => init::execute(args),
        Command::Status(args) => status::execute(args, &config::read(&flags)?),
        Command::Explain(args) => explain::execute(args, &config::read(&flags)?),
        Command::Gaps(args) => gaps::execute(args, &config::read(&flags)?),
        Command::Doctor(args) => doctor::execute(args, &flags),
        Command::Candles(args) => candles::execute(args, &config::read(&flags)?),
        Command::Run(args) => run::execute(args, config::read(&flags)?),
        Command::Demo(args) => demo::execute(args, &flags),
        Command::Simulate(args) => simulate::execute(args),
    }
}

impl From<StoreError> for Failure {
    /// What somebody has to change before it can work is configuration; the rest may pass.
    fn from(error: StoreError) -> Failure {
        match error {
            StoreError::Absent { path } => {
                // Relative to what, is what one wants to know.
                let path = std::path::absolute(&path).unwrap_or(path);
                Failure::failed(format_args!(
                    "no database at {}: `candlekeep run` makes one, --database names another",
                    path.display()
                ))
            }
            StoreError::Unopenable { .. }
            | StoreError::NotOurs { .. }
            | StoreError::NewerSchema { .. }
            | StoreError::OtherEnvironment { .. }
            | StoreError::NotBuilt { .. } => Failure::configuration(error),
            StoreError::OlderSchema { .. }
            | StoreError::Busy { .. }
            | StoreError::Unwritable { .. }
            | StoreError::Corrupt { .. }
            | StoreError::Statement(_)
            | StoreError::Panicked { .. }
            | StoreError::Leased { .. }
            | StoreError::LeaseLost { .. }
            | StoreError::TooManyRequests { .. }
            | StoreError::NoRandomness
            | StoreError::Closed => Failure::failed(error),
        }
    }
}

/// Runs a command that needs the actors' world around it.
pub fn on_actix<F>(command: F) -> Result<Exit, Failure>
where
    F: Future<Output = Result<Exit, Failure>>,
{
    // Fails only where a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    actix::System::new().block_on(command)
}

/// A table without lines, for people.
fn plain_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header.to_vec());
    table
}

/// Prints a line to stdout. A reader that has gone away is no reason to stop.
fn say(line: impl std::fmt::Display) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{line}");
}
