//! `candlekeep completions`: what a shell needs to complete the command line.

use clap::CommandFactory as _;

use super::print;
use crate::cli::{Cli, Completions};
use crate::exit::{Exit, Failure};

/// Prints the shell's script.
///
/// # Errors
/// When it cannot be written.
pub fn execute(args: &Completions) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut shown(&Cli::command()), "candlekeep", &mut script);
    print(&script)?;
    Ok(Exit::Done)
}

/// What a shell should know of a command: the generator would offer hidden options too.
fn shown(command: &clap::Command) -> clap::Command {
    let arguments = command.get_arguments().filter(|argument| !argument.is_hide_set()).cloned();
    let shown = clap::Command::new(command.get_name().to_owned())
        .disable_help_subcommand(true)
        .args(arguments)
        .subcommands(command.get_subcommands().map(shown));
    let shown = match command.get_about() {
        Some(about) => shown.about(about.clone()),
        None => shown,
    };
    match command.get_version() {
        Some(version) => shown.version(version.to_owned()),
        None => shown,
    }
}
