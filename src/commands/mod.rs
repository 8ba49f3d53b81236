//! What the command line can ask for, one file each.

pub mod backfill;
pub mod backup;
pub mod candles;
pub mod completions;
pub mod copy;
pub mod demo;
pub mod doctor;
pub mod explain;
pub mod export;
pub mod gaps;
mod grid;
pub mod import;
pub mod init;
pub mod man;
mod margin;
mod market;
pub mod outlook;
pub mod paint;
pub mod run;
pub mod simulate;
pub mod status;
mod watch;
mod whole_file;

use std::ops::Range;
use std::time::Duration;

use anstream::ColorChoice;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::{Cli, Command};
use crate::clock::{self, Clock, ClockKind};
use crate::completeness::{OtherClock, calendar_of, other_clock};
use crate::config::{self, Config, Flags};
use crate::domain::{Pair, Timeframe, Timestamp};
use crate::exit::{Exit, Failure};
use crate::store::{Store, StoreError};
use crate::writer::journal::JournalError;
use crate::writer::recovery::RecoveryError;

/// How often a count is drawn.
const COUNTS_A_SECOND: u8 = 4;

/// Does what was asked.
///
/// # Errors
/// The reason, in one line, and the exit code.
pub fn execute(cli: Cli) -> Result<Exit, Failure> {
    let flags = Flags::from(cli.global);
    match &cli.command {
        Command::Init(args) => init::execute(args, &flags),
        Command::Completions(args) => completions::execute(args),
        Command::Man(args) => man::execute(args),
        Command::Status(args) => status::execute(args, &config::read(&flags)?),
        Command::Explain(args) => explain::execute(args, &config::read(&flags)?),
        Command::Export(args) => export::execute(args, &config::read(&flags)?),
        Command::Gaps(args) => gaps::execute(args, &config::read(&flags)?),
        Command::Copy(args) => copy::execute(args),
        Command::Backup(args) => backup::execute(args, &config::read(&flags)?),
        Command::Import(args) => import::execute(args, &config::read(&flags)?),
        Command::Doctor(args) => doctor::execute(args, &flags),
        Command::Backfill(args) => backfill::execute(args, config::read(&flags)?),
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
            StoreError::Absent { .. } => Failure::failed(format_args!(
                "{error}: `candlekeep run` makes one, `candlekeep demo` one without an account; \
                     --database, DATABASE_URL or database.url names another"
            )),
            StoreError::Unopenable { .. }
            | StoreError::NotOurs { .. }
            | StoreError::NewerSchema { .. }
            | StoreError::HalfCopied { .. }
            | StoreError::OtherEnvironment { .. } => Failure::configuration(error),
            StoreError::Busy { .. } => Failure::failed(format_args!(
                "{error}; another process writes to it: try again once that is done"
            )),
            StoreError::OlderSchema { .. }
            | StoreError::Unwritable { .. }
            | StoreError::Unreachable { .. }
            | StoreError::Corrupt { .. }
            | StoreError::Statement(_)
            | StoreError::Panicked { .. }
            | StoreError::Leased { .. }
            | StoreError::LeaseLost { .. }
            | StoreError::TooManyRequests { .. }
            | StoreError::NotEmpty { .. }
            | StoreError::WentBack { .. }
            | StoreError::CopyDiffers { .. }
            | StoreError::NoRandomness
            | StoreError::Closed => Failure::failed(error),
        }
    }
}

impl From<RecoveryError> for Failure {
    /// Another process's spool, or a newer program's, stays so until somebody changes something.
    fn from(error: RecoveryError) -> Failure {
        match error {
            RecoveryError::Store(error) => error.into(),
            RecoveryError::Journal(JournalError::InUse { .. } | JournalError::Newer { .. }) => {
                Failure::configuration(error)
            }
            RecoveryError::Journal(_) => Failure::failed(error),
        }
    }
}

/// Runs a command that needs the actors' world around it.
pub fn on_actix<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    // Fails only where a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = clock::with_beats(runtime).map_err(Failure::failed)?;
    actix::System::with_tokio_rt(|| runtime).block_on(command)
}

/// Warns of secrets that others than their owner may read, or that cross a network in the clear.
fn warn_of_exposed(config: &Config) {
    for exposure in config::exposures(config) {
        let (state, mend) = (exposure.state(), exposure.mend());
        log::warn!(what = state.as_str(), mend = mend.as_str(); "a file with a secret can be read by others");
    }
    if config.ig.is_in_the_clear() {
        log::warn!(
            "password and tokens go over a network in the clear: ig.api_url begins with http, not https"
        );
    }
}

/// From when on bars of a timeframe are kept: by the configuration, where time is the system's, and by what has been
/// deleted already.
fn kept_from(config: &Config, timeframe: Timeframe) -> Option<Timestamp> {
    let by_age = match config.clock {
        ClockKind::System => config.retention.limit(timeframe, Clock::system().wall()),
        // By a market's own time only the service can tell what is old.
        ClockKind::Stream => None,
    };
    // One that cannot be read is told of by who goes on to read or write it.
    let store = Store::open_read_only(&config.database).ok();
    let deleted = store.and_then(|mut store| store.deleted_before(timeframe).ok().flatten());
    by_age.max(deleted)
}

/// Refuses a pair that is neither collected nor known of.
fn check_pair(store: &mut Store, config: &Config, pair: Pair) -> Result<(), Failure> {
    let is_known = config.pairs().any(|known| known == pair)
        || store.known_keys()?.iter().any(|(known, _)| *known == pair);
    if is_known { Ok(()) } else { Err(Failure::usage(candles::unknown_pair(pair, config))) }
}

/// Says on stderr that the newest bar is of a market that goes by another clock, where it is: what else is told then of
/// ages, and of what is missing, is by one that is not the market's.
fn tell_other_clock(store: &mut Store, config: &Config) -> Result<(), Failure> {
    let other = other_clock(store, config.clock, Clock::system().wall())?;
    other.into_iter().for_each(|other| remark(format_args!("candlekeep: {}", of_other_clock(other))));
    Ok(())
}

/// What tells of another clock, and what to do.
fn of_other_clock(other: OtherClock) -> String {
    match other {
        OtherClock::Ahead(by_s) => format!(
            "the newest bar ends {} after this machine's clock: a simulated market goes by its own with \
             CANDLEKEEP_CLOCK=stream; else the clock is wrong",
            margin::lasting(by_s)
        ),
        OtherClock::Late(by_s) => format!(
            "the newest bar was first stored {} after its end: a simulated market goes by its own clock, with \
             CANDLEKEEP_CLOCK=stream; else the clock was wrong then",
            margin::lasting(by_s)
        ),
    }
}

/// The span that `--from` and `--to` name.
fn span_of(from: Option<Timestamp>, to: Option<Timestamp>) -> Result<Range<Timestamp>, Failure> {
    match (from, to) {
        (Some(from), Some(to)) if from >= to => {
            Err(Failure::usage(format_args!("--from {from} is not before --to {to}")))
        }
        _ => Ok(from.unwrap_or(Timestamp(i64::MIN))..to.unwrap_or(Timestamp(i64::MAX))),
    }
}

/// What shows people how far something has come: nothing where stderr is no terminal.
fn counter(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(COUNTS_A_SECOND));
    let style = ProgressStyle::with_template("{spinner} {human_pos} {msg}, {elapsed}");
    bar.with_style(style.expect("the template is sound")).with_message(what)
}

/// What shows people that something goes on of which nobody knows how far it is.
fn ticking(what: &'static str, every: Duration) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(COUNTS_A_SECOND));
    let style = ProgressStyle::with_template("{spinner} {msg}, {elapsed}");
    let bar = bar.with_style(style.expect("the template is sound")).with_message(what);
    bar.enable_steady_tick(every);
    bar
}

/// Has all that is printed follow this choice. What is to be chosen by itself follows NO_COLOR, CLICOLOR,
/// CLICOLOR_FORCE, TERM, and whether it goes to a terminal.
pub fn choose_colors(choice: clap::ColorChoice) {
    let choice = match choice {
        clap::ColorChoice::Auto => ColorChoice::Auto,
        clap::ColorChoice::Always => ColorChoice::Always,
        clap::ColorChoice::Never => ColorChoice::Never,
    };
    choice.write_global();
}

/// Whether colours are seen on stdout.
fn has_colors() -> bool {
    anstream::AutoStream::choice(&std::io::stdout()) != ColorChoice::Never
}

/// Prints a line to stdout. A reader that has gone away is no reason to stop.
fn say(line: impl std::fmt::Display) {
    use std::io::Write as _;
    let _ = writeln!(anstream::stdout(), "{line}");
}

/// Prints a line for whoever looks on. A disk that is full, or a reader that is gone, is no reason to end.
fn remark(line: impl std::fmt::Display) {
    use std::io::Write as _;
    let _ = writeln!(anstream::stderr(), "{line}");
}

/// Prints a whole text to stdout. A reader that has seen enough is no failure, a full disk is one.
fn print(text: &[u8]) -> Result<(), Failure> {
    use std::io::{ErrorKind, Write as _};
    // As it is: a manual page has no colours to be taken out.
    let mut stdout = std::io::stdout();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::failed(format_args!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}
