//! Arguments to [`Command`], and nothing else.

use std::ffi::OsString;
use std::path::PathBuf;

use chrono::{DateTime, NaiveDate, NaiveDateTime};
use clap::error::ErrorKind;
use clap::{Arg, Args, ColorChoice, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};

use crate::config::Flags;
use crate::domain::{Pair, Timeframe, Timestamp};
use crate::exit::one_line;
use crate::simulator::{Speed, TICKS_PER_BAR_MAX, TlcpVersion};

const ABOUT: &str = "Collects IG's 5-minute forex candles, heals every hole, and keeps them in a database";

const LONG_ABOUT: &str = "\
candlekeep logs in to IG, streams 5-minute candles for 28 forex pairs, fetches what is missing over \
REST inside IG's weekly allowance, derives longer bars, and keeps all of it in SQLite or PostgreSQL, \
so that trading bots query a database and never the API. It places no orders.";

const EXAMPLES: &str = "\
Try it without an account:
  candlekeep demo

With an IG account (demo is the default):
  candlekeep init                  # writes candlekeep.toml, which explains itself
  export IG_API_KEY=... IG_USERNAME=... IG_PASSWORD=...
  candlekeep run

Look at what is stored, also while `run` writes:
  candlekeep candles EUR_USD 5 --count 20

Exit codes:
  0 done   1 failed   2 wrong usage   3 incomplete
  77 IG refuses these credentials for good   78 the configuration must be changed";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "candlekeep",
    version,
    about = ABOUT,
    long_about = LONG_ABOUT,
    after_help = EXAMPLES,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Arguments that every command takes.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Global {
    /// Configuration file; else CANDLEKEEP_CONFIG, ./candlekeep.toml, ~/.config/candlekeep/ or /etc/candlekeep/
    #[arg(long, global = true, value_name = "FILE", help_heading = "Configuration")]
    pub config: Option<PathBuf>,
    /// Database, for example sqlite://candlekeep.db; else DATABASE_URL or what the file says
    #[arg(long, global = true, value_name = "URL", help_heading = "Configuration")]
    pub database: Option<String>,
    /// Colours: where stdout or stderr is a terminal and NO_COLOR is not set, always, or never
    #[arg(long, global = true, value_name = "WHEN", default_value_t = ColorChoice::Auto, help_heading = "Output")]
    pub color: ColorChoice,
}

/// What a command makes nothing of, though every other takes it: not shown by its help, and refused by [`read`].
fn ignored<const N: usize>(names: [&'static str; N]) -> [Arg; N] {
    names.map(|name| Arg::new(name).long(name).hide(true))
}

/// Reads a command line.
///
/// # Errors
/// Where it is none of ours, or says something of which its command would make nothing.
pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut program = Cli::command();
    let matches = program.try_get_matches_from_mut(words)?;
    if let Some((name, _)) = matches.subcommand() {
        let command = program.find_subcommand(name);
        let hidden = command.into_iter().flat_map(clap::Command::get_arguments).filter(|it| it.is_hide_set());
        let mut ids = hidden.map(|it| it.get_id().as_str()).filter(|id| matches!(*id, "config" | "database"));
        if let Some(id) = ids.find(|id| matches.contains_id(id)) {
            let says = format!("`candlekeep {name}` makes no use of --{id}");
            return Err(clap::Error::raw(ErrorKind::UnknownArgument, says));
        }
    }
    Cli::from_arg_matches(&matches)
}

/// Whether a command line asks for colours, before it is read as a whole: the explanation of a wrong one has colours too.
pub fn color_of(arguments: impl IntoIterator<Item = OsString>) -> ColorChoice {
    let mut chosen = ColorChoice::Auto;
    let mut is_next = false;
    for argument in arguments {
        let argument = argument.to_string_lossy();
        let value = match (is_next, argument.strip_prefix("--color")) {
            (true, _) => Some(argument.as_ref()),
            (false, Some(rest)) => rest.strip_prefix('='),
            (false, None) => None,
        };
        is_next = !is_next && argument == "--color";
        if let Some(value) = value.and_then(|value| value.parse().ok()) {
            chosen = value;
        }
    }
    chosen
}

impl From<Global> for Flags {
    fn from(global: Global) -> Flags {
        Flags { config: global.config, database: global.database }
    }
}

/// What to do.
#[derive(Debug, PartialEq, Subcommand)]
pub enum Command {
    /// Collect candles until told to stop: the service
    #[command(
        long_about = "\
Opens the database, logs in, subscribes, and fetches history while the stream already runs. On SIGTERM \
or Ctrl-C it writes what it holds, logs out and exits with 0.

Takes IG_API_KEY, IG_USERNAME and IG_PASSWORD from the environment, from the files that IG_API_KEY_FILE \
and so on name, or from systemd's credentials. Wrong credentials are tried once, because IG locks \
accounts: the refusal is remembered until they change.",
        after_help = "\
Examples:
  candlekeep run
  candlekeep run --database sqlite:////var/lib/candlekeep/candlekeep.db
  candlekeep run --config live.toml --retry-credentials
  candlekeep run --record ig.jsonl             # what IG says, to show to others"
    )]
    Run(Run),
    /// See the whole thing work, without an account
    #[command(
        long_about = "\
Runs the simulator and the service in one process with a database of its own, streams at high speed, \
breaks the connection, heals what that cost, and prints what it proved. Needs no account and no network.

Of the configuration only what is said of HTTP counts: CANDLEKEEP_HTTP (http.listen), http.token_file and \
http.allowed_hosts. Without http.listen the dashboard is at 127.0.0.1:8017, or at another port where that is taken; \
with --exit there is none. --database names a database that is empty or not there yet; without it a new one is made \
among the temporary files, and kept.",
        after_help = "\
Examples:
  candlekeep demo
  candlekeep demo --exit --seed 7
  candlekeep demo --database sqlite://demo.db --speed 600"
    )]
    Demo(Demo),
    /// Play IG: the simulator alone, for testing bots and clients
    #[command(
        long_about = "\
Serves IG's REST interface and its Lightstreamer stream on one port, from a made-up market or from \
recorded data, so that a client can be tested without an account. Any key, user and password log in, unless a \
fault (refuse_rest) says otherwise.",
        after_help = "\
Examples:
  candlekeep simulate
  candlekeep simulate --speed max --wait-for-items 28 --seed 7
  candlekeep simulate --replay recordings --from 2014-05-05 --to 2014-05-10 --speed 3600
  candlekeep simulate --transcript ig.jsonl --speed max
  candlekeep simulate --speed 600 --faults faults.json     # --faults-help says how it is written

Then, in another terminal (the stream's own clock, since simulated time is not now):
  export IG_API_URL=http://127.0.0.1:8018/gateway/deal CANDLEKEEP_CLOCK=stream
  export IG_API_KEY=x IG_USERNAME=x IG_PASSWORD=x     # or whatever you like: any are taken
  export CANDLEKEEP_SESSION_LOGIN_SPACING_S=0
  candlekeep run --database sqlite://simulated.db",
        args = ignored(["config", "database"])
    )]
    Simulate(Simulate),
    /// Write a commented candlekeep.toml
    #[command(
        long_about = "\
Writes a candlekeep.toml in which every setting is explained and shows its default. It works as it is; \
secrets stay out of it.",
        after_help = "\
Examples:
  candlekeep init
  candlekeep init --path /etc/candlekeep/candlekeep.toml
  candlekeep init --force          # replaces the file that is there",
        args = ignored(["database"])
    )]
    Init(Init),
    /// Fetch history; with --plan show what that would cost
    #[command(
        long_about = "\
Fetches over REST what the database misses, inside IG's weekly allowance and newest first: what was missed while \
nothing ran, the first history of pairs that were never collected, and with --from (and --to) a stretch of the \
past. What is stored is never asked for again, so doing it twice costs nothing; Ctrl-C loses nothing, and the same \
command goes on from there. While `run` collects into the same database it does the fetching, and this looks on.

--plan shows every request and its data points against what is left, and asks IG for nothing.

Exit codes: 0 all is there; 3 something is still missing, for example for want of points.",
        after_help = "\
Examples:
  candlekeep backfill --plan
  candlekeep backfill
  candlekeep backfill --pairs EUR_USD,GBP_USD --from 2026-01-05 --to 2026-01-07
  candlekeep backfill --timeframes 15 --from 2026-01-05      # 15-minute bars alone, at a third of the price"
    )]
    Backfill(Backfill),
    /// Print stored bars
    #[command(
        long_about = "\
Prints settled bars from the database, oldest first, also while `run` writes to it. Without --fetch it never \
creates a database and never asks IG for anything. Times are UTC; a bar is named by its start.

--fetch has what is missing of these bars fetched first, inside IG's weekly allowance: by the running service, \
else by logging in. What cannot be had now is said on stderr, and the exit code is 3.

--chart draws them as candlesticks, as many as the terminal has room for where nobody says how many. Missing bars, up \
to now or --to, and closed hours are shown as such.

--as-of TIME prints the bars as a reader would have seen them at that time: a bar that was corrected since \
with its value of then, and none that was first stored later, so that a backtest knows no more than a bot did.",
        after_help = "\
Examples:
  candlekeep candles EUR_USD 5 --count 20
  candlekeep candles EUR_USD 15 --chart
  candlekeep candles eurusd 15m --price bid --format csv > eurusd.csv
  candlekeep candles EUR/USD 15 --from 2026-01-05 --to 2026-01-06T12:00 --format json
  candlekeep candles EUR_USD 5 --count 12 --as-of 2026-01-05T12:00
  candlekeep candles EUR_USD 15 --count 300 --fetch"
    )]
    Candles(Candles),
    /// List every missing bar and why; tell whether a stretch is complete, or the ledger holds
    #[command(
        long_about = "\
Reads the database, also while `run` writes to it, and asks IG for nothing. A bucket without a bar is quiet \
(no price came, which is proved), closed (outside the market's hours), missing (will be asked for) or lost. \
Missing and lost ones are listed.

--complete PAIR TIMEFRAME FROM TO exits with 0 if every bucket of the stretch is stored, quiet or closed, and \
with 3 if not. --verify holds the whole ledger against the bars and exits with 1 if anything does not fit.",
        after_help = "\
Examples:
  candlekeep gaps
  candlekeep gaps EUR_USD 15
  candlekeep gaps --pairs EUR_USD,GBP_USD --from 2026-01-05
  candlekeep gaps --complete EUR_USD 15 2026-01-05 2026-01-06     # exit code 0 or 3, for scripts
  candlekeep gaps --verify"
    )]
    Gaps(Gaps),
    /// Tell where a bar came from, when, what it replaced, or why it is absent
    #[command(
        long_about = "\
Tells all that the database knows of one bucket: its bar and where that came from, what it was before a \
correction, what was refused for it, or why there is none. Asks IG for nothing.",
        after_help = "\
Examples:
  candlekeep explain EUR_USD 2026-01-05T09:35
  candlekeep explain eurusd 2026-01-05T09:30Z 15 --format json"
    )]
    Explain(Explain),
    /// Write stored bars to a file, all or by range
    #[command(
        long_about = "\
Writes bars with all columns of table candles, as CSV or Parquet, ascending by pair, timeframe and timestamp, also \
while `run` writes: all of it is one state of the database. Prices in CSV are exact decimals, and `candlekeep import` \
reads the file. Memory does not grow with the number of bars. A file takes its place at once when it is complete.

Parquet needs a candlekeep that is built with it: cargo install --path . --features parquet",
        after_help = "\
Examples:
  candlekeep export > candles.csv
  candlekeep export --pairs EUR_USD,GBP_USD --from 2026-01-05 --output new.csv
  candlekeep export --timeframes 15 --format parquet --output candles.parquet"
    )]
    Export(Export),
    /// Read bars from a CSV file of yours, or of `export`
    #[command(
        long_about = "\
Stores bars from a CSV file as source `import`, also while `run` writes. They fill what is missing or lost, longer bars \
are folded from them, and they yield to whatever IG says: a bar of IG's that is stored, or comes later, stays or takes \
their place. The same file again changes nothing.

The header names the columns, in any order: pair, timeframe (minutes), timestamp (the bar's start, epoch seconds or ISO \
8601, UTC), volume (may be left out: 0), and bid_open bid_high bid_low bid_close ask_open ask_high ask_low ask_close, or \
open high low close: mid prices alone are taken as bid and as ask, with no distance between them. Of each pair and \
timeframe the lines ascend by timestamp.

The whole file is checked before any of it is stored: an error names line and column.",
        after_help = "\
Examples:
  candlekeep import history.csv
  candlekeep import history.csv --dry-run     # checks it, stores nothing
  zcat history.csv.gz | candlekeep import -"
    )]
    Import(Import),
    /// Copy the database to a file while the service runs
    #[command(
        long_about = "\
Writes a compact copy of the SQLite database, as it is at one instant, and checks it: that it is sound, and that every \
table has as many rows as the database had then. `run` goes on writing meanwhile. The file takes its place once all of \
it is on the disk. Of PostgreSQL take pg_dump.

To restore: stop the service, move the database and its -wal and -shm files away, copy the backup to the place \
of the database, start the service. What came since is a hole that it heals, as far as IG's allowance goes.",
        after_help = "\
Examples:
  candlekeep backup candlekeep-monday.db
  candlekeep backup /backup/candlekeep.db --force"
    )]
    Backup(Backup),
    /// Copy every table from one database to another and compare
    #[command(
        long_about = "\
Copies every table, as it is at one instant, from one database into another that is empty, of the same kind or not: \
SQLite to PostgreSQL, back, or onto another server. Then reads the copy and compares, row by row, and prints how many rows each \
table has and their sum. The source may be collected into meanwhile; what comes later is not in the copy. A copy that was broken off is begun \
anew when asked for again, and nobody collects into half a one.

Addresses are given without a password, since everybody can read a program's arguments: PostgreSQL's password is taken from \
PGPASSWORD or from ~/.pgpass (PGPASSFILE names another file).",
        after_help = "\
Examples:
  candlekeep copy sqlite://candlekeep.db postgres://me@host/candles
  candlekeep copy 'postgres://me@host/candles?sslmode=verify-full' sqlite://candles.db
  candlekeep copy sqlite://candlekeep.db postgres://me@host/candles --replace     # once more, from anew",
        args = ignored(["config", "database"])
    )]
    Copy(Copy),
    /// Show how the stream stands, how fresh every pair is, and what was learnt about IG
    #[command(
        long_about = "\
Reads the database, also while `run` writes to it, and asks IG for nothing: how the stream stood when it \
last changed, the last bar of every pair and its age, how many buckets are missing, the last breaks of \
the stream, and what the service has found out about IG that nobody has documented.

--watch shows it anew every two seconds, in place, until Ctrl-C. Where stdout is no terminal one report follows the \
other: with --format json a line each.",
        after_help = "\
Examples:
  candlekeep status
  candlekeep status --watch
  candlekeep status --watch=10 --format json       # a line every 10 seconds, for programs
  candlekeep status --format json"
    )]
    Status(Status),
    /// Check what the service needs, one line each with the fix
    #[command(
        long_about = "\
Checks configuration, permissions, credentials, clock, database, free space, and the way to IG, a line each, and \
lists what the service has found out about IG. `ok` is well, `WARN` works and should be looked at, `FIX` is to be \
mended; such a line ends with the command or key that does it.

Logs in once, with the same spacing between logins as `run`, asks IG about every instrument, and logs out. Not so with \
--offline, nor while a service runs on the database: then it tells what that knows. Credentials that IG refuses are noted \
in the database, which is made for that where there is none yet, and are not tried again, by `run` neither.

Exit codes: 0 all is well, warnings included; 1 something is to be mended.",
        after_help = "\
Examples:
  candlekeep doctor
  candlekeep doctor --offline
  candlekeep doctor --format json"
    )]
    Doctor(Doctor),
    /// Print what a shell needs to complete the command line
    #[command(
        long_about = "\
Prints a script by which the shell completes commands and options. The Debian package brings those of bash, \
zsh and fish along.",
        after_help = "\
Examples:
  candlekeep completions bash > ~/.local/share/bash-completion/completions/candlekeep
  candlekeep completions zsh > ~/.zfunc/_candlekeep
  candlekeep completions fish > ~/.config/fish/completions/candlekeep.fish",
        args = ignored(["config", "database"])
    )]
    Completions(Completions),
    /// Print the manual page, or write one for every command
    #[command(
        long_about = "\
Prints the manual page of the program, or writes it and one for every command into a folder, which is made where \
there is none. The Debian package brings them along.",
        after_help = "\
Examples:
  candlekeep man > candlekeep.1                  # to read: man -l candlekeep.1
  candlekeep man ~/.local/share/man/man1         # to read: man candlekeep-run",
        args = ignored(["config", "database"])
    )]
    Man(Man),
}

impl Command {
    /// Whether it shows its progress to somebody who looks on, so that its log is kept to what is
    /// not as it should be.
    pub fn is_watched(&self) -> bool {
        matches!(
            self,
            Command::Backfill(_)
                | Command::Candles(_)
                | Command::Export(_)
                | Command::Import(_)
                | Command::Backup(_)
                | Command::Copy(_)
                | Command::Doctor(_)
        )
    }
}

/// Arguments of `backfill`.
#[derive(Args, Debug, PartialEq, Eq)]
pub struct Backfill {
    /// Show what would be asked for, and ask for nothing
    #[arg(long)]
    pub plan: bool,
    /// Only these pairs, separated by commas [default: all that are collected]
    #[arg(long, alias = "pair", value_delimiter = ',', value_name = "PAIR")]
    pub pairs: Vec<Pair>,
    /// Only these bar lengths, separated by commas [default: all that are kept]
    #[arg(long, alias = "timeframe", value_delimiter = ',', value_name = "TIMEFRAME")]
    pub timeframes: Vec<Timeframe>,
    /// A stretch from then on: epoch seconds or ISO 8601, UTC
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    pub from: Option<Timestamp>,
    /// Until then: epoch seconds or ISO 8601, UTC [default: now]
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    pub to: Option<Timestamp>,
    /// Output format
    #[arg(long, value_enum, default_value_t = Report::Text)]
    pub format: Report,
    /// Try credentials that IG has refused before once more
    #[arg(long)]
    pub retry_credentials: bool,
    /// Go on although the database was filled from another environment (demo, live, custom)
    #[arg(long)]
    pub accept_feed_change: bool,
}

/// Arguments of `gaps`.
#[derive(Args, Debug, PartialEq, Eq)]
pub struct Gaps {
    /// Only this pair: EUR_USD, EURUSD or EUR/USD, in any case
    #[arg(value_name = "PAIR", conflicts_with_all = ["pairs", "complete", "verify"])]
    pub pair: Option<Pair>,
    /// Only this bar length in minutes: 5, 10, 15, 30, 60; also 5m, 1h
    #[arg(value_name = "TIMEFRAME", conflicts_with = "timeframes")]
    pub length: Option<Timeframe>,
    /// Only these pairs, separated by commas
    #[arg(long, alias = "pair", value_delimiter = ',', value_name = "PAIR")]
    pub pairs: Vec<Pair>,
    /// Only these bar lengths, separated by commas [default: all that are kept]
    #[arg(long, alias = "timeframe", value_delimiter = ',', value_name = "TIMEFRAME")]
    pub timeframes: Vec<Timeframe>,
    /// From then on: epoch seconds or ISO 8601, UTC
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    pub from: Option<Timestamp>,
    /// Until then: epoch seconds or ISO 8601, UTC
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    pub to: Option<Timestamp>,
    /// Whether every bar of a stretch that there is to have is stored: exit code 0, else 3
    #[arg(
        long,
        num_args = 4,
        value_names = ["PAIR", "TIMEFRAME", "FROM", "TO"],
        conflicts_with_all = ["pairs", "timeframes", "from", "to", "verify"]
    )]
    pub complete: Option<Vec<String>>,
    /// Hold the ledger against the bars
    #[arg(long, conflicts_with_all = ["pairs", "timeframes", "from", "to"])]
    pub verify: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t = Report::Text)]
    pub format: Report,
}

/// Arguments of `explain`.
#[derive(Args, Debug, PartialEq, Eq)]
pub struct Explain {
    /// Currency pair: EUR_USD, EURUSD or EUR/USD, in any case
    #[arg(value_name = "PAIR")]
    pub pair: Pair,
    /// A time within the bar: epoch seconds or ISO 8601, UTC
    #[arg(value_parser = parse_time, value_name = "TIME")]
    pub time: Timestamp,
    /// Bar length in minutes: 5, 10, 15, 30, 60; also 5m, 1h
    #[arg(value_name = "TIMEFRAME", conflicts_with = "timeframe")]
    pub length: Option<Timeframe>,
    /// Bar length in minutes: 5, 10, 15, 30, 60; also 5m, 1h
    #[arg(long, alias = "timeframes", default_value = "5", value_name = "TIMEFRAME")]
    pub timeframe: Timeframe,
    /// Output format
    #[arg(long, value_enum, default_value_t = Report::Text)]
    pub format: Report,
}

/// Arguments of `export`.
#[derive(Args, Debug, PartialEq, Eq)]
pub struct Export {
    /// Only these pairs, separated by commas [default: all that have bars]
    #[arg(long, alias = "pair", value_delimiter = ',', value_name = "PAIR")]
    pub pairs: Vec<Pair>,
    /// Only these bar lengths, separated by commas [default: all that have bars]
    #[arg(long, alias = "timeframe", value_delimiter = ',', value_name = "TIMEFRAME")]
    pub timeframes: Vec<Timeframe>,
    /// First bar's start: epoch seconds or ISO 8601, UTC
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    pub from: Option<Timestamp>,
    /// Bars that start before this: epoch seconds or ISO 8601, UTC
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    pub to: Option<Timestamp>,
    /// Where to write; replaced if it is there [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How to write
    #[arg(long, value_enum, default_value_t = FileFormat::Csv)]
    pub format: FileFormat,
}

/// Arguments of `import`.
#[derive(Args, Debug, PartialEq, Eq)]
pub struct Import {
    /// CSV file, or - for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Check the file and store nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t = Report::Text)]
    pub format: Report,
}

/// Arguments of `backup`.
#[derive(Args, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Where to write the copy
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Replace an existing file
    #[arg(long)]
    pub force: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t = Report::Text)]
    pub format: Report,
}

/// Arguments of `copy`.
#[derive(Args, Debug, PartialEq, Eq)]
pub struct Copy {
    /// The database to read
    #[arg(value_name = "FROM_URL")]
    pub from: String,
    /// The empty database to fill
    #[arg(value_name = "TO_URL")]
    pub to: String,
    /// Empty the target first, whatever it holds
    #[arg(long)]
    pub replace: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t = Report::Text)]
    pub format: Report,
}

/// How to write a file of bars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FileFormat {
    /// Text with exact decimals
    Csv,
    /// Columns, compressed
    Parquet,
}

/// Arguments of `status`.
#[derive(Args, Debug, PartialEq, Eq)]
pub struct Status {
    /// Show it anew every so many seconds, until Ctrl-C [default: 2]
    #[arg(
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2",
        value_parser = clap::value_parser!(u16).range(1..=3600),
        value_name = "SECONDS"
    )]
    pub watch: Option<u16>,
    /// Output format
    #[arg(long, value_enum, default_value_t = Report::Text)]
    pub format: Report,
}

/// Arguments of `doctor`.
#[derive(Args, Debug, PartialEq, Eq)]
pub struct Doctor {
    /// Ask the machine and the database alone: no network, no login
    #[arg(long)]
    pub offline: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t = Report::Text)]
    pub format: Report,
}

/// Arguments of `completions`.
#[derive(Args, Debug, PartialEq, Eq)]
pub struct Completions {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(Args, Debug, PartialEq, Eq)]
pub struct Man {
    /// Folder to write all pages to [default: the main page alone, to standard output]
    #[arg(value_name = "DIR")]
    pub folder: Option<PathBuf>,
}

/// How to print a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Report {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Arguments of `run`.
#[derive(Args, Debug, PartialEq, Eq)]
pub struct Run {
    /// Try credentials that IG has refused before once more
    #[arg(long)]
    pub retry_credentials: bool,
    /// Go on although the database was filled from another environment (demo, live, custom)
    #[arg(long)]
    pub accept_feed_change: bool,
    /// Write what is said over REST and stream to a new file, without secrets, tokens and account ids
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// For tests: have something go wrong at these places
    #[arg(long, value_name = "NAME[:N[+]][=ACTION],…", hide = true)]
    pub failpoint: Option<String>,
    /// For tests: seconds after which a room counts as stuck, whatever it is at
    #[arg(long, value_name = "SECONDS", hide = true)]
    pub patience: Option<u32>,
}

/// Arguments of `demo`.
#[derive(Args, Debug, PartialEq)]
pub struct Demo {
    /// Leave when done instead of waiting for Ctrl-C
    #[arg(long)]
    pub exit: bool,
    /// Which market to make up; the same seed makes the same market
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    pub seed: u64,
    /// Market seconds per second, or "max" for as fast as it goes
    #[arg(long, default_value = "max", value_name = "N|max")]
    pub speed: Speed,
    /// Output format of what it proved
    #[arg(long, value_enum, default_value_t = Report::Text)]
    pub format: Report,
}

/// Arguments of `simulate`.
#[derive(Args, Debug, PartialEq)]
pub struct Simulate {
    /// Address to serve on
    #[arg(long, default_value = "127.0.0.1:8018", value_name = "ADDRESS")]
    pub listen: std::net::SocketAddr,
    /// Which market to make up; the same seed makes the same market
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    pub seed: u64,
    /// Market seconds per second, or "max" for as fast as the client takes it
    #[arg(long, default_value = "1", value_name = "N|max")]
    pub speed: Speed,
    /// Replay the recorded bars in this folder instead of making up a market
    #[arg(long, value_name = "DIR")]
    pub replay: Option<PathBuf>,
    /// Play back what `run --record` has written instead of simulating anything
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = [
            "seed", "replay", "from", "to", "spread_pips", "rows_per_bar", "ticks_per_bar", "wait_for_items", "allowance",
            "requests_per_minute", "max_tlcp_version", "unfiltered", "timezone_offset", "faults",
            "second_listen",
        ]
    )]
    pub transcript: Option<PathBuf>,
    /// Market time to begin at: epoch seconds or ISO 8601, UTC
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    pub from: Option<Timestamp>,
    /// Market time to end before: epoch seconds or ISO 8601, UTC
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    pub to: Option<Timestamp>,
    /// Distance of ask from bid where the recording has bids only
    #[arg(long, default_value_t = 1.5, value_parser = parse_pips, value_name = "PIPS")]
    pub spread_pips: f64,
    /// Stream at most so many rows for each 5-minute candle, 1 to 300: one where ticks came since the last [default: 300 made up; 5 replayed]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=300), value_name = "ROWS")]
    pub rows_per_bar: Option<u32>,
    /// Ticks of each 5-minute candle made up, 1 to 1200, spread evenly: 300 are one a second [default: as many as the time of the day has]
    #[arg(
        long, value_parser = clap::value_parser!(u32).range(1..=i64::from(TICKS_PER_BAR_MAX)), value_name = "TICKS",
        conflicts_with = "replay"
    )]
    pub ticks_per_bar: Option<u32>,
    /// Hold the market still until this many items are subscribed [default: none at a fixed speed of a made-up market, else all]
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=40), value_name = "ITEMS")]
    pub wait_for_items: Option<u32>,
    /// Weekly allowance of historical data points
    #[arg(long, default_value_t = 10_000, value_name = "POINTS")]
    pub allowance: u32,
    /// REST requests accepted in a market minute, as IG's limit per account; none at --speed max
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub requests_per_minute: u32,
    /// Newest Lightstreamer protocol to accept
    #[arg(long, default_value = "2.4.0", value_name = "VERSION")]
    pub max_tlcp_version: TlcpVersion,
    /// What becomes of a request for an unfiltered subscription
    #[arg(long, value_enum, default_value_t = Unfiltered::Ignored)]
    pub unfiltered: Unfiltered,
    /// Let go wrong what this file says, and when (see --faults-help)
    #[arg(long, value_name = "FILE")]
    pub faults: Option<PathBuf>,
    /// Print how a file of faults is written, and leave
    #[arg(long, exclusive = true)]
    pub faults_help: bool,
    /// A second address to serve on, given as control link, as a load balancer does
    #[arg(long, value_name = "ADDRESS")]
    pub second_listen: Option<std::net::SocketAddr>,
    /// The account's offset from UTC in hours, for the times that IG gives in local time
    #[arg(
        long,
        default_value_t = 0,
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i8).range(-12..=14),
        value_name = "HOURS"
    )]
    pub timezone_offset: i8,
}

/// Arguments of `init`.
#[derive(Args, Debug, PartialEq, Eq)]
pub struct Init {
    /// Where to write it; --config says the same [default: candlekeep.toml]
    #[arg(long, value_name = "FILE")]
    pub path: Option<PathBuf>,
    /// Replace an existing file
    #[arg(long)]
    pub force: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t = Report::Text)]
    pub format: Report,
}

/// Arguments of `candles`.
#[derive(Args, Debug, PartialEq, Eq)]
pub struct Candles {
    /// Currency pair: EUR_USD, EURUSD or EUR/USD, in any case
    #[arg(value_name = "PAIR")]
    pub pair: Pair,
    /// Bar length in minutes: 5, 10, 15, 30, 60; also 5m, 1h
    #[arg(value_name = "TIMEFRAME")]
    pub timeframe: Timeframe,
    /// Print at most this many, the latest [default: 100; with --from, all]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(COUNT_MAX)), value_name = "BARS")]
    pub count: Option<u32>,
    /// First bar's start: epoch seconds or ISO 8601, UTC
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    pub from: Option<Timestamp>,
    /// Print bars that start before this: epoch seconds or ISO 8601, UTC
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    pub to: Option<Timestamp>,
    /// Which prices go into open, high, low and close
    #[arg(long, value_enum, default_value_t = PriceSide::Mid)]
    pub price: PriceSide,
    /// Print them as they were stored at that wall time: epoch seconds or ISO 8601, UTC
    #[arg(long, value_parser = parse_time, value_name = "TIME", conflicts_with = "fetch")]
    pub as_of: Option<Timestamp>,
    /// Have what is missing of them fetched first, inside the allowance
    #[arg(long)]
    pub fetch: bool,
    /// Draw candlesticks, as many as there is room for
    #[arg(long, conflicts_with = "format")]
    pub chart: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// Most bars that one call prints.
const COUNT_MAX: u32 = 1_000_000;
/// Bars printed when nobody says how many.
const COUNT_DEFAULT: u32 = 100;

impl Candles {
    /// How many bars to print at most, the latest.
    pub fn count_max(&self) -> u32 {
        self.count.unwrap_or(if self.from.is_some() { COUNT_MAX } else { COUNT_DEFAULT })
    }
}

/// Which prices to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PriceSide {
    /// Half of bid plus ask
    Mid,
    /// What one sells at
    Bid,
    /// What one buys at
    Ask,
}

impl PriceSide {
    /// How the command line and the output spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            PriceSide::Mid => "mid",
            PriceSide::Bid => "bid",
            PriceSide::Ask => "ask",
        }
    }
}

/// How to print bars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For reading
    Table,
    /// For spreadsheets
    Csv,
    /// For programs
    Json,
}

/// What the simulator makes of a request for an unfiltered subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Unfiltered {
    /// Granted and confirmed
    Granted,
    /// Subscribed, but filtered
    Ignored,
    /// The subscription is refused
    Refused,
}

/// Why a text is not a point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotATime {
    /// Neither of the two forms.
    #[error("not a time: write epoch seconds or ISO 8601 such as 2026-01-05T21:00Z")]
    Unreadable,
    /// A number far beyond any date.
    #[error("this looks like milliseconds: write epoch seconds")]
    Milliseconds,
}

/// Epoch seconds from here on (the year 5138) are milliseconds by mistake.
const SECONDS_MAX: i64 = 100_000_000_000;

/// Reads epoch seconds or ISO 8601; without a zone it is UTC, without a time midnight.
///
/// # Errors
/// [`NotATime`], for anything else.
pub fn parse_time(text: &str) -> Result<Timestamp, NotATime> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<i64>() {
        let in_range = (-SECONDS_MAX..SECONDS_MAX).contains(&seconds);
        return if in_range { Ok(Timestamp(seconds)) } else { Err(NotATime::Milliseconds) };
    }
    let zoned = ["%Y-%m-%dT%H:%M:%S%#z", "%Y-%m-%d %H:%M:%S%#z", "%Y-%m-%dT%H:%M%#z", "%Y-%m-%d %H:%M%#z"];
    let utc = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    let local = ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"];
    zoned
        .iter()
        .find_map(|form| DateTime::parse_from_str(text, form).ok())
        .map(|time| time.to_utc())
        .or_else(|| {
            local.iter().find_map(|form| NaiveDateTime::parse_from_str(utc, form).ok()).map(|t| t.and_utc())
        })
        .or_else(|| utc.parse::<NaiveDate>().ok()?.and_hms_opt(0, 0, 0).map(|time| time.and_utc()))
        .map(Timestamp::from)
        .filter(|time| (-SECONDS_MAX..SECONDS_MAX).contains(&time.0))
        .ok_or(NotATime::Unreadable)
}

fn parse_pips(text: &str) -> Result<f64, &'static str> {
    text.parse().ok().filter(|pips| (0.0..=1000.0).contains(pips)).ok_or("write a number of pips such as 1.5")
}

/// Clap's explanation of a wrong command line as one line, without its usage text, and which help says more: that of the
/// command among the `words`, where there is one.
pub fn error_line(error: &clap::Error, words: impl IntoIterator<Item = OsString>) -> String {
    let program = Cli::command();
    let known = |word: OsString| program.find_subcommand(word).map(|command| command.get_name().to_owned());
    let help = match words.into_iter().skip(1).find_map(known) {
        Some(command) => format!("`candlekeep {command} --help`"),
        None => "--help".to_owned(),
    };
    let text = error.to_string();
    let kept: Vec<_> = text
        .split("\n\n")
        .take_while(|part| !part.starts_with("Usage:"))
        .filter(|part| !part.starts_with("For more information"))
        .map(one_line)
        .collect();
    let line = kept.join("; ");
    format!("{} ({help} explains)", line.strip_prefix("error: ").unwrap_or(&line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(line: &str) -> String {
        error_line(&parse(line).unwrap_err(), line.split_whitespace().map(OsString::from))
    }

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Every line of a help text that calls us, cut to the call itself.
    fn examples(help: &str) -> Vec<String> {
        help.lines()
            .filter(|line| line.starts_with("  "))
            .map(|line| line.split(['#', '>']).next().unwrap_or(line).trim())
            .map(|line| {
                let words =
                    line.split_whitespace().skip_while(|word| word.contains('=') && !word.starts_with('-'));
                words.collect::<Vec<_>>().join(" ")
            })
            .filter(|line| line.starts_with("candlekeep "))
            .collect()
    }

    #[test]
    fn every_example_of_every_help_text_is_understood() {
        let mut command = Cli::command();
        let mut helps = vec![command.render_long_help().to_string()];
        helps.extend(command.get_subcommands().map(|sub| sub.get_after_help().unwrap().to_string()));
        let mut count = 0;
        for help in helps {
            for example in examples(&help) {
                parse(&example).unwrap_or_else(|error| panic!("{example}: {error}"));
                count += 1;
            }
        }
        assert!(count >= 15, "only {count} examples found");
    }

    #[test]
    fn the_long_help_of_a_command_teaches_more_than_its_short_one() {
        for mut command in Cli::command().get_subcommands().cloned() {
            let (short, long) = (command.render_help().to_string(), command.render_long_help().to_string());
            let long_about = command.get_long_about().unwrap().to_string();
            let opening = long_about.split_whitespace().take(4).collect::<Vec<_>>().join(" ");
            assert!(long.contains(&opening) && !short.contains(&opening), "{}", command.get_name());
            assert!(long.contains("Examples:"), "{}", command.get_name());
        }
    }

    #[test]
    fn a_range_shows_all_its_bars_unless_told_otherwise() {
        for (arguments, expected) in
            [("", 100), ("--from 0", COUNT_MAX), ("--from 0 --count 5", 5), ("--to 9", 100)]
        {
            let Command::Candles(candles) =
                parse(&format!("candlekeep candles EURUSD 5 {arguments}")).unwrap().command
            else {
                panic!("{arguments}");
            };
            assert_eq!(candles.count_max(), expected, "{arguments}");
        }
    }

    #[test]
    fn pairs_and_timeframes_are_taken_in_every_spelling() {
        for line in ["candles EUR_USD 5", "candles eurusd 5m", "candles EUR/USD 5M", "candles eur-usd 5"] {
            let Command::Candles(candles) = parse(&format!("candlekeep {line}")).unwrap().command else {
                panic!("{line}");
            };
            assert_eq!((candles.pair.to_string().as_str(), candles.timeframe), ("EUR_USD", Timeframe::M5));
            assert_eq!((candles.count, candles.price, candles.format), (None, PriceSide::Mid, Format::Table));
        }
    }

    #[test]
    fn a_transcript_is_played_as_it_is_or_not_at_all() {
        let simulate = Cli::command().find_subcommand("simulate").unwrap().clone();
        let transcript = simulate.get_arguments().find(|argument| argument.get_id() == "transcript").unwrap();
        let refused: Vec<_> =
            simulate.get_arg_conflicts_with(transcript).iter().map(|arg| arg.get_id()).collect();
        // The help of faults goes with nothing at all.
        let go_together =
            ["transcript", "listen", "speed", "help", "version", "config", "database", "faults_help"];
        for argument in simulate.get_arguments().map(|argument| argument.get_id()) {
            let expected = !go_together.contains(&argument.as_str());
            assert_eq!(refused.contains(&argument), expected, "{argument}");
        }
        assert_eq!(
            explained("candlekeep simulate --transcript t --seed 1"),
            "the argument '--transcript <FILE>' cannot be used with '--seed <NUMBER>' \
             (`candlekeep simulate --help` explains)"
        );
    }

    #[test]
    fn global_flags_stand_before_or_after_the_command() {
        for line in [
            "candlekeep --database sqlite://x.db --config c.toml candles EUR_USD 5",
            "candlekeep candles EUR_USD 5 --database sqlite://x.db --config c.toml",
        ] {
            let flags = Flags::from(parse(line).unwrap().global);
            assert_eq!(
                flags,
                Flags { config: Some("c.toml".into()), database: Some("sqlite://x.db".into()) }
            );
        }
    }

    #[test]
    fn what_a_command_makes_no_use_of_is_not_shown_and_refused() {
        let read = |line: &str| read(line.split_whitespace().map(OsString::from));
        for (line, says) in [
            (
                "candlekeep copy --database sqlite://x.db sqlite://a.db sqlite://b.db",
                "`candlekeep copy` makes no use of --database",
            ),
            (
                "candlekeep --config c.toml copy sqlite://a.db sqlite://b.db",
                "`candlekeep copy` makes no use of --config",
            ),
            ("candlekeep init --database sqlite://x.db", "`candlekeep init` makes no use of --database"),
            ("candlekeep simulate --config c.toml", "`candlekeep simulate` makes no use of --config"),
            ("candlekeep --database sqlite://x.db man", "`candlekeep man` makes no use of --database"),
            (
                "candlekeep completions bash --database=x",
                "`candlekeep completions` makes no use of --database",
            ),
        ] {
            let error = read(line).unwrap_err();
            assert!(error_line(&error, []).starts_with(says), "{line}: {error}");
        }
        assert_eq!(read("candlekeep init --config c.toml").unwrap().global.config, Some("c.toml".into()));
        assert_eq!(read("candlekeep --database x status").unwrap().global.database.as_deref(), Some("x"));
        for (name, shown) in [
            ("copy", false),
            ("man", false),
            ("completions", false),
            ("simulate", false),
            ("init", false),
            ("run", true),
        ] {
            let mut program = Cli::command();
            program.build();
            let help = program.find_subcommand_mut(name).unwrap().render_help().to_string();
            assert_eq!(help.contains("--database <URL>"), shown, "{name}: {help}");
            assert_eq!(help.contains("--config <FILE>"), shown || name == "init", "{name}: {help}");
        }
    }

    #[test]
    fn pairs_and_timeframes_are_asked_for_by_one_or_by_more_everywhere() {
        for command in ["gaps", "export", "backfill"] {
            for words in
                ["--pair EUR_USD --timeframe 15", "--pairs EUR_USD --timeframes 15", "--timeframe 5,15"]
            {
                parse(&format!("candlekeep {command} {words}"))
                    .unwrap_or_else(|error| panic!("{command}: {error}"));
            }
        }
        parse("candlekeep explain EUR_USD 0 --timeframes 15").unwrap();
        let Command::Gaps(gaps) = parse("candlekeep gaps --timeframe 15,5").unwrap().command else {
            panic!()
        };
        assert_eq!(gaps.timeframes, [Timeframe::M15, Timeframe::M5]);
    }

    #[test]
    fn times_are_epoch_seconds_or_iso_8601() {
        let noon = Timestamp(1_583_668_800); // 2020-03-08 12:00:00
        for (text, expected) in [
            ("1583668800", Ok(noon)),
            ("2020-03-08T12:00:00Z", Ok(noon)),
            ("2020-03-08T12:00Z", Ok(noon)),
            ("2020-03-08T12:00", Ok(noon)),
            ("2020-03-08 12:00:00", Ok(noon)),
            ("2020-03-08T13:00:00+01:00", Ok(noon)),
            ("2020-03-08T13:00+01", Ok(noon)),
            ("2020-03-08", Ok(noon.plus(-12 * 3600))),
            ("-5", Ok(Timestamp(-5))),
            ("1583668800000", Err(NotATime::Milliseconds)),
            ("", Err(NotATime::Unreadable)),
            ("yesterday", Err(NotATime::Unreadable)),
            ("2020-02-30", Err(NotATime::Unreadable)),
            ("2020-03-08T25:00", Err(NotATime::Unreadable)),
        ] {
            assert_eq!(parse_time(text), expected, "{text}");
        }
    }

    #[test]
    fn colours_are_asked_for_before_the_rest_is_understood() {
        let check = |line: &str, expected| {
            assert_eq!(color_of(line.split_whitespace().map(OsString::from)), expected, "{line}");
        };
        check("candlekeep --color always candels", ColorChoice::Always);
        check("candlekeep candels --color=never", ColorChoice::Never);
        check("candlekeep --color", ColorChoice::Auto);
        check("candlekeep --color blue", ColorChoice::Auto);
        check("candlekeep --colors=never --color --color", ColorChoice::Auto);
        check("candlekeep always", ColorChoice::Auto);
    }

    #[test]
    fn a_wrong_command_line_is_explained_in_one_line() {
        for (line, expected) in [
            (
                "candlekeep candels EUR_USD 5",
                "unrecognized subcommand 'candels'; tip: a similar subcommand exists: 'candles' (--help explains)",
            ),
            (
                "candlekeep candles EUR_US 5",
                "invalid value 'EUR_US' for '<PAIR>': not a currency pair: \"EUR_US\" \
                 (write EUR_USD, EURUSD or EUR/USD) (`candlekeep candles --help` explains)",
            ),
            (
                "candlekeep candles EUR_USD 7",
                "invalid value '7' for '<TIMEFRAME>': unknown timeframe \"7\": \
                 use 5, 10, 15, 30 or 60 (also 5m, 1h) (`candlekeep candles --help` explains)",
            ),
            (
                "candlekeep candles EUR_USD",
                "the following required arguments were not provided: <TIMEFRAME> (`candlekeep candles --help` explains)",
            ),
        ] {
            assert_eq!(explained(line), expected);
        }
    }
}
