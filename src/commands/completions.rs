//! `candlekeep completions`: what a shell needs to complete the command line.

use clap::builder::PossibleValuesParser;
use clap::{Arg, CommandFactory as _};

use super::print;
use crate::cli::{Cli, Completions};
use crate::domain::Timeframe;
use crate::domain::pair::MAJOR_PAIRS;
use crate::exit::{Exit, Failure};

/// Prints the shell's script.
///
/// # Errors
/// When it cannot be written.
pub fn execute(args: &Completions) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut shown(&Cli::command(), &[]), "candlekeep", &mut script);
    print(&script)?;
    Ok(Exit::Done)
}

/// An argument with the values that a shell may offer: the usual pairs, and all timeframes. What else is configured can be
/// written, and a script that is made once cannot know it.
fn with_values(argument: Arg) -> Arg {
    let names = argument.get_value_names().unwrap_or_default();
    let values: Vec<String> = match names {
        [name] if name == "PAIR" => MAJOR_PAIRS.map(|pair| pair.to_string()).into(),
        [name] if name == "TIMEFRAME" => Timeframe::ALL.iter().map(|kept| kept.as_str().to_owned()).collect(),
        _ => return argument,
    };
    argument.value_parser(PossibleValuesParser::new(values))
}

/// What a shell should know of a command, and of those that take `globals` from it: the generator would offer hidden
/// options too, and all that is global everywhere.
fn shown(command: &clap::Command, globals: &[Arg]) -> clap::Command {
    let own: Vec<_> = command.get_arguments().cloned().collect();
    let is_own = |argument: &&Arg| own.iter().any(|one| one.get_id() == argument.get_id());
    let all = own.iter().chain(globals.iter().filter(|argument| !is_own(argument)));
    let arguments =
        all.filter(|argument| !argument.is_hide_set()).cloned().map(|it| with_values(it.global(false)));
    let handed_on: Vec<_> = own.iter().filter(|argument| argument.is_global_set()).cloned().collect();
    let shown = clap::Command::new(command.get_name().to_owned())
        .disable_help_subcommand(true)
        .args(arguments)
        .subcommands(command.get_subcommands().map(|command| shown(command, &handed_on)));
    let shown = match command.get_about() {
        Some(about) => shown.about(about.clone()),
        None => shown,
    };
    match command.get_version() {
        Some(version) => shown.version(version.to_owned()),
        None => shown,
    }
}
