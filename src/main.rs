//! The process: parse, log, do, exit.

use std::io::Write;
use std::process::ExitCode;

use candlekeep::cli;
use candlekeep::commands::paint::BAD;
use candlekeep::exit::{Exit, Failure};
use candlekeep::{commands, logging, privacy};

fn main() -> ExitCode {
    commands::choose_colors(cli::color_of(std::env::args_os()));
    let cli = match cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    logging::init(cli.command.is_watched());
    privacy::forbid_dumps();
    let outcome = commands::execute(cli);
    logging::finish();
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => leave(&failure),
    }
}

/// Help and version go to stdout and are no failure; for the rest one line has to do.
fn explain(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader that goes away in the middle of a help text has seen enough.
            let _ = error.print();
            Exit::Done.into()
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            Exit::Usage.into()
        }
        _ => leave(&Failure::usage(cli::error_line(error, std::env::args_os()))),
    }
}

/// Says why, in one line.
fn leave(failure: &Failure) -> ExitCode {
    let priority = if logging::is_journal() { "<3>" } else { "" };
    // With stderr closed there is nobody to tell; the exit code still does.
    let _ =
        writeln!(anstream::stderr(), "{priority}{}: {failure}", commands::paint::paint(BAD, "candlekeep"));
    failure.exit().into()
}
