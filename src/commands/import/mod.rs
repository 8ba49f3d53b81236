//! `candlekeep import`: bars of the user's from a CSV file, also while `run` writes. The file is read
//! twice: checked as a whole, then stored in transactions of a bounded number of bars.

mod lines;
mod rows;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufReader, Seek};
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::json;

use self::lines::Lines;
use self::rows::{Layout, Order, RowError, Terms};
use super::outlook::words::counted;
use super::{calendar_of, counter, say};
use crate::aggregator::absent::unseen;
use crate::cli::{Import, Report};
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::{Bar, Calendar, Mark, Pair, Reason, Timeframe, Timestamp};
use crate::exit::{Exit, Failure, one_line};
use crate::store::{CommitReport, IMPORT_EVIDENCE, Store, StoreError};

/// Bars in a transaction. Beside a running service it is over before a bar of the stream's has waited
/// for long.
const COMMIT_BARS: usize = 1_000;
/// How often a transaction is tried that found the database busy, each time for some seconds.
const BUSY_TIMES: u32 = 5;
/// The longest pause between two transactions.
const PAUSE_LAST: Duration = Duration::from_millis(200);
/// Characters of the file's name that the ledger keeps.
const NAME_CHARS_MAX: usize = 60;

/// What a file holds, as the first reading found it.
#[derive(Debug)]
struct Checked {
    layout: Layout,
    rows: u64,
    pairs: usize,
    /// Those that are not collected.
    unwatched: Vec<String>,
    /// First start and last.
    times: Option<(Timestamp, Timestamp)>,
}

/// Checks the file, then stores it.
///
/// # Errors
/// A file that cannot be read, or has a line that is no bar: then nothing is stored. A database that
/// cannot be written.
pub fn execute(args: &Import, config: &Config) -> Result<Exit, Failure> {
    let name = if args.file == Path::new("-") { "standard input".to_owned() } else { shown(&args.file) };
    let unreadable = |error: io::Error| Failure::failed(format_args!("cannot read {name}: {error}"));
    let mut file = open(&args.file).map_err(unreadable)?;
    let now = Clock::system().wall();
    let kept_from: HashMap<Timeframe, Timestamp> = Timeframe::ALL
        .into_iter()
        .filter_map(|timeframe| Some((timeframe, super::kept_from(config, timeframe)?)))
        .collect();
    let oldest = |timeframe| kept_from.get(&timeframe).copied();
    let terms = Terms { now, kept: &config.timeframes, oldest: &oldest };
    let checked = check(&file, &name, &terms, &config.pairs().collect())?;
    let report = if args.dry_run {
        None
    } else {
        file.rewind().map_err(unreadable)?;
        Some(store(&file, args, &name, &terms, &checked, config)?)
    };
    match args.format {
        Report::Text => say(text(&name, &checked, report.as_ref())),
        Report::Json => say(told(&name, &checked, report.as_ref())),
    }
    Ok(Exit::Done)
}

/// Reads the file once.
fn check(file: &File, name: &str, terms: &Terms<'_>, watched: &HashSet<Pair>) -> Result<Checked, Failure> {
    let (mut order, mut rows, mut times) = (Order::default(), 0, None);
    let progress = counter("lines checked");
    let read = walk(file, name, terms, &mut order, |bar| {
        let start = bar.key.start;
        rows += 1;
        let (first, last) = times.unwrap_or((start, start));
        times = Some((start.min(first), start.max(last)));
        if rows % COMMIT_BARS as u64 == 0 {
            progress.set_position(rows);
        }
        Ok(())
    });
    progress.finish_and_clear();
    let pairs = order.pairs();
    let unwatched = pairs.iter().filter(|pair| !watched.contains(pair)).map(ToString::to_string).collect();
    Ok(Checked { layout: read?, rows, pairs: pairs.len(), unwatched, times })
}

/// Opens the file, or puts standard input aside, which cannot be read twice.
fn open(path: &Path) -> io::Result<File> {
    let mut file = if path == Path::new("-") { None } else { Some(File::open(path)?) };
    // A pipe cannot be read twice either.
    if let Some(file) = file.take_if(|file| file.stream_position().is_ok()) {
        return Ok(file);
    }
    let mut aside = tempfile::tempfile()?;
    match file {
        Some(mut pipe) => io::copy(&mut pipe, &mut aside)?,
        None => io::copy(&mut io::stdin().lock(), &mut aside)?,
    };
    aside.rewind()?;
    Ok(aside)
}

/// Reads the file from where it is to its end and hands on every bar.
fn walk(
    file: &File,
    name: &str,
    terms: &Terms<'_>,
    order: &mut Order,
    mut take: impl FnMut(Bar) -> Result<(), Failure>,
) -> Result<Layout, Failure> {
    let mut lines = Lines::new(BufReader::new(file));
    let at =
        |number: u64, why: &dyn std::fmt::Display| Failure::failed(format_args!("{name}:{number}: {why}"));
    let header = lines.next_line().map_err(|error| (1, error.to_string()));
    let layout = match header {
        Ok(Some(header)) => Layout::parse(header).map_err(|error| at(1, &error))?,
        Ok(None) => return Err(Failure::failed(format_args!("{name} is empty"))),
        Err((number, why)) => return Err(at(number, &why)),
    };
    loop {
        let bar = match lines.next_line() {
            Ok(None) => return Ok(layout),
            Ok(Some(line)) => layout.bar(line, terms),
            Err(error) => Err(RowError::Line(error.to_string())),
        };
        let checked = bar.and_then(|bar| order.check(&layout, bar.key).map(|()| bar));
        take(checked.map_err(|error| at(lines.number(), &error))?)?;
    }
}

fn store(
    file: &File,
    args: &Import,
    name: &str,
    terms: &Terms<'_>,
    checked: &Checked,
    config: &Config,
) -> Result<CommitReport, Failure> {
    let mut store = Store::open(&config.database)?;
    store.set_timeframes(&config.timeframes);
    let mut into = Into {
        is_beside: store.lease(terms.now)?.is_some_and(|lease| lease.alive),
        evidence: evidence(&args.file),
        store,
        config,
        clock: Clock::system(),
        waiting: Vec::with_capacity(COMMIT_BARS),
        report: CommitReport::default(),
    };
    let progress = counter("bars stored");
    let mut done = 0;
    let outcome = walk(file, name, terms, &mut Order::default(), |bar| {
        into.waiting.push(bar);
        if into.waiting.len() == COMMIT_BARS {
            into.flush()?;
            done += COMMIT_BARS as u64;
            progress.set_position(done);
        }
        Ok(())
    });
    let outcome = outcome.and_then(|_| into.flush());
    progress.finish_and_clear();
    match outcome {
        Ok(()) => Ok(into.report),
        Err(failure) if done == 0 => Err(failure),
        Err(failure) => Err(Failure::new(
            failure.exit(),
            format_args!("{failure}; {done} of {} bars are stored, the same command goes on", checked.rows),
        )),
    }
}

/// Where bars go.
struct Into<'a> {
    store: Store,
    config: &'a Config,
    clock: Clock,
    evidence: String,
    /// A service writes too.
    is_beside: bool,
    waiting: Vec<Bar>,
    report: CommitReport,
}

impl Into<'_> {
    /// Stores what waits in one transaction.
    fn flush(&mut self) -> Result<(), Failure> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let began = self.clock.monotonic();
        let mut calendars: Vec<(Pair, Calendar)> = Vec::new();
        for bar in &self.waiting {
            if calendars.last().is_none_or(|(pair, _)| *pair != bar.key.pair) {
                calendars.push((bar.key.pair, calendar_of(&mut self.store, self.config, bar.key.pair)?));
            }
        }
        let unseen = |pair: Pair, span: std::ops::Range<Timestamp>| -> Vec<Mark> {
            let known = calendars.iter().find(|(known, _)| *known == pair);
            let (_, calendar) = known.expect("every pair of the bars is there");
            unseen(pair, calendar, Timeframe::M5, span, Reason::Offline).collect()
        };
        let mut tried = 1;
        let report = loop {
            match self.store.import(&self.waiting, &self.evidence, &unseen, self.clock.wall()) {
                Err(StoreError::Busy { .. }) if tried < BUSY_TIMES => tried += 1,
                other => break other?,
            }
        };
        self.waiting.clear();
        let total = &mut self.report;
        total.inserted += report.inserted;
        total.unchanged += report.unchanged;
        total.revised += report.revised;
        total.refused += report.refused;
        total.derived += report.derived;
        total.rederived += report.rederived;
        if self.is_beside {
            // SQLite's lock goes to who happens to ask for it: the service gets as much time as this took.
            thread::sleep((self.clock.monotonic() - began).min(PAUSE_LAST));
        }
        Ok(())
    }
}

/// What the ledger names as the source of these bars.
fn evidence(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    one_line(&format!("{IMPORT_EVIDENCE}{}", name.chars().take(NAME_CHARS_MAX).collect::<String>()))
}

fn shown(path: &Path) -> String {
    one_line(&path.display().to_string())
}

fn text(name: &str, checked: &Checked, report: Option<&CommitReport>) -> String {
    let Checked { layout, rows, pairs, unwatched, times } = checked;
    let when = match times {
        Some((first, last)) => format!(", from {first} to {last}"),
        None => String::new(),
    };
    let (bars, pairs) = (counted(*rows as usize, "bar"), counted(*pairs, "pair"));
    let mut lines = vec![format!("{name}: {bars} of {pairs}{when}")];
    if !unwatched.is_empty() {
        lines.push(format!("not among the pairs that are collected: {}", unwatched.join(", ")));
    }
    if layout.is_mid_alone() {
        lines.push("mid prices alone: they are taken as bid and as ask".to_owned());
    }
    if !layout.ignored().is_empty() {
        lines.push(format!("columns without a meaning here: {}", layout.ignored().join(", ")));
    }
    match report {
        None => lines.push("every line is in order; nothing was stored".to_owned()),
        Some(report) => {
            let mut count = |count: usize, what: &str| lines.push(format!("{count:>9} {what}"));
            count(report.inserted, "inserted");
            count(report.unchanged, "unchanged: stored already");
            count(report.revised, "superseded an older import");
            count(report.refused, "refused: another source has the bar and stays (`candlekeep explain`)");
            count(report.derived + report.rederived, "longer bars folded from them");
        }
    }
    lines.join("\n")
}

fn told(name: &str, checked: &Checked, report: Option<&CommitReport>) -> serde_json::Value {
    let stored = report.copied().unwrap_or_default();
    json!({
        "file": name,
        "bars": checked.rows,
        "pairs": checked.pairs,
        "unwatched": checked.unwatched,
        "from": checked.times.map(|(first, _)| first.0),
        "to": checked.times.map(|(_, last)| last.0),
        "mid_alone": checked.layout.is_mid_alone(),
        "ignored_columns": checked.layout.ignored(),
        "dry_run": report.is_none(),
        "inserted": stored.inserted,
        "unchanged": stored.unchanged,
        "superseded": stored.revised,
        "refused": stored.refused,
        "derived": stored.derived,
        "rederived": stored.rederived,
    })
}
