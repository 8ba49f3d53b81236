//! What the command line can ask for, one file each.

pub mod candles;
pub mod demo;
pub mod init;
pub mod run;
pub mod simulate;

use crate::cli::{Cli, Command};
use crate::config::{self, Flags};
use crate::exit::{Exit, Failure};

/// Does what was asked.
///
/// # Errors
/// The reason, in one line, and the exit code.
pub fn execute(cli: Cli) -> Result<Exit, Failure> {
    let flags = Flags::from(cli.global);
    match &cli.command {
        Command::Init(args) => init::execute(args),
        Command::Candles(args) => candles::execute(args, &config::read(&flags)?),
        Command::Run(args) => run::execute(args, config::read(&flags)?),
        Command::Demo(args) => demo::execute(args, &flags),
        Command::Simulate(args) => simulate::execute(args),
    }
}
