//! The command line on a terminal and off it: colours, widths, what is watched, and what programs read.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use candlekeep::cli::Cli;
use candlekeep::clock::Clock;
use candlekeep::domain::coverage::Mark;
use candlekeep::domain::{
    Bar, BarKey, Fact, FactBatch, Ohlc, Price, Reason, Source, State, Timeframe, Timestamp,
};
use candlekeep::store::Store;
use clap::CommandFactory as _;
use rustix::fs::{CWD, Mode, OFlags, mkfifoat};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::Value;
use tempfile::TempDir;

use super::world::{START, STEP, Service};

/// Where no line may be longer.
const WIDTHS: [u16; 4] = [60, 80, 120, 200];
/// What a terminal is told to go back to its upper left corner with, and to be as it was.
const HOME: &str = "\u{1b}[H";
const LEFT: &str = "\u{1b}[?1049l";

/// A terminal of this size, whose other end the test reads.
struct Terminal {
    inner: Option<OwnedFd>,
    said: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Terminal {
    fn new(columns: u16, rows: u16) -> Terminal {
        let outer = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("there are terminals");
        grantpt(&outer).unwrap();
        unlockpt(&outer).unwrap();
        let name = ptsname(&outer, Vec::new()).unwrap();
        let inner = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        tcsetwinsize(&inner, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let said: Arc<Mutex<Vec<u8>>> = Arc::default();
        let kept = said.clone();
        let mut outer = File::from(outer);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Once the program has gone reading fails: the terminal has hung up.
            while let Ok(count @ 1..) = outer.read(&mut buffer) {
                kept.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Terminal { inner: Some(inner), said, reader }
    }

    fn stdout(&mut self) -> Stdio {
        self.inner.take().expect("it is given away once").into()
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().unwrap()).into_owned()
    }

    /// All that was said; the program has to have ended, and whatever held the terminal for it.
    fn said(self) -> String {
        drop(self.inner);
        self.reader.join().unwrap();
        let said = self.said.lock().unwrap();
        String::from_utf8(said.clone()).expect("the program prints UTF-8")
    }
}

/// A folder with a database: 40 bars, a hole in them, and another that is lost.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let pair = "EURUSD".parse().unwrap();
    let at = |index: i64| START.plus(index * STEP);
    let price = |text: &str| Price::parse(text, 0).unwrap();
    let bar = |index: i64| {
        let prices =
            |close| Ohlc::from_prices([price("1.3045"), price("1.3049"), price("1.3041"), price(close)]);
        let close = if index % 2 == 0 { "1.3047" } else { "1.3043" };
        let key = BarKey { pair, timeframe: Timeframe::M5, start: at(index) };
        Fact::Settled(Bar { key, bid: prices(close), ask: prices(close), volume: 7, source: Source::Stream })
    };
    let mark = |from, to, state, reason| {
        Fact::Marked(Mark { pair, timeframe: Timeframe::M5, span: at(from)..at(to), state, reason })
    };
    let mut facts: Vec<Fact> = (0..20).map(bar).collect();
    facts.push(mark(20, 23, State::Missing, Reason::Disconnected));
    facts.push(mark(23, 24, State::Lost, Reason::NoHistory));
    facts.extend((24..44).map(bar));
    let batch = Arc::new(FactBatch { evidence: "test".into(), facts });
    let url = format!("sqlite://{}", folder.path().join("candlekeep.db").display());
    let mut store = Store::open(&url.parse().unwrap()).unwrap();
    store.commit(&[batch], Timestamp(at(44).0)).unwrap();
    folder
}

fn command(folder: &Path, line: &str, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_candlekeep"));
    command.args(line.split_whitespace()).current_dir(folder).env_clear();
    command.env("TERM", "xterm-256color").env("CANDLEKEEP_CLOCK", "stream").envs(variables.iter().copied());
    command
}

fn piped(folder: &Path, line: &str, variables: &[(&str, &str)]) -> Output {
    command(folder, line, variables).stdin(Stdio::null()).output().expect("the program starts")
}

/// What the program says to a terminal of this size.
fn shown(folder: &Path, line: &str, variables: &[(&str, &str)], size: (u16, u16)) -> String {
    let mut terminal = Terminal::new(size.0, size.1);
    let service = Service::spawn(command(folder, line, variables).stdout(terminal.stdout()));
    let ended = service.ended();
    assert!(matches!(ended.code, Some(0 | 1 | 3)), "{line}: {ended:?}");
    terminal.said()
}

fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

/// Commands that print for people, and what each is sure to have in colours.
const REPORTS: [&str; 8] = [
    "status",
    "gaps",
    "gaps --complete EUR_USD 5 2024-01-17T10:00 2024-01-17T10:30",
    "explain EUR_USD 2024-01-17T10:05",
    "candles EUR_USD 5",
    "candles EUR_USD 5 --chart",
    "backfill --plan",
    "doctor --offline",
];

#[test]
fn colours_are_where_they_are_wanted_and_say_nothing_else() {
    let folder = folder();
    let size = (100, 40);
    for report in REPORTS {
        let bare = String::from_utf8(piped(folder.path(), report, &[]).stdout).unwrap();
        assert!(!bare.is_empty() && !bare.contains('\u{1b}'), "{report}: {bare}");
        let check = |line: String, variables: &[(&str, &str)], on_terminal: bool, expected: bool| {
            let told = match on_terminal {
                true => shown(folder.path(), &line, variables, size),
                false => String::from_utf8(piped(folder.path(), &line, variables).stdout).unwrap(),
            };
            assert_eq!(
                told.contains("\u{1b}["),
                expected,
                "{line} {variables:?} terminal {on_terminal}: {told}"
            );
        };
        let with = |option: &str| format!("{report} {option}");
        check(with(""), &[], true, true);
        check(with(""), &[("NO_COLOR", "1")], true, false);
        check(with(""), &[("TERM", "dumb")], true, false);
        check(with("--color never"), &[], true, false);
        check(with("--color=always"), &[("NO_COLOR", "1")], true, true);
        check(with(""), &[("CLICOLOR_FORCE", "1")], false, true);
        check(with("--color always"), &[], false, true);
        check(with("--color auto"), &[], false, false);
    }
    for report in ["status", "gaps", "explain EUR_USD 2024-01-17T10:05", "candles EUR_USD 5"] {
        let line = format!("{report} --format json --color always");
        let told = piped(folder.path(), &line, &[]).stdout;
        serde_json::from_slice::<Value>(&told).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    // What explains itself, and what goes wrong, follow the same.
    let check = |line: &str, expected: bool| {
        let Output { stdout, stderr, .. } = piped(folder.path(), line, &[]);
        let told = String::from_utf8([stdout, stderr].concat()).unwrap();
        assert_eq!(told.contains("\u{1b}["), expected, "{line}: {told}");
    };
    for line in ["--help", "candles XAU_SEK 5", "candles EUR_USD"] {
        check(line, false);
        check(&format!("{line} --color always"), true);
        check(&format!("--color=never {line}"), false);
    }
}

#[test]
fn no_line_is_longer_than_its_terminal() {
    let folder = folder();
    for columns in WIDTHS {
        for report in REPORTS {
            let told = plain(&shown(folder.path(), report, &[], (columns, 30)));
            for line in told.lines() {
                // A path, or what is to be copied, is never folded.
                let fits =
                    line.chars().count() <= usize::from(columns) || line.trim().split(' ').count() == 1;
                let has_path = line.contains("/tmp") || line.contains("candlekeep.db");
                assert!(fits || has_path, "{report} at {columns}: {line}\n{told}");
            }
        }
    }
    // As much as there is room for, and no more.
    let bars = |columns| plain(&shown(folder.path(), "candles EUR_USD 5 --chart", &[], (columns, 30)));
    assert!(bars(60).replace("\r\n", " ").contains(" 20 bars"), "{}", bars(60));
    assert!(bars(120).contains(" 40 bars"), "{}", bars(120));
    assert!(bars(120).contains("▒ 4 missing"), "{}", bars(120));
    let dumb = shown(folder.path(), "candles EUR_USD 5 --chart", &[("TERM", "dumb")], (80, 30));
    assert!(dumb.is_ascii() && dumb.contains("? 4 missing"), "{dumb}");
}

#[test]
fn what_is_watched_is_redrawn_in_place_until_it_is_told_to_end() {
    let folder = folder();
    let mut terminal = Terminal::new(70, 12);
    let mut service =
        Service::spawn(command(folder.path(), "status --watch=1", &[]).stdout(terminal.stdout()));
    service.wait("it is drawn again", || terminal.so_far().matches(HOME).count() >= 3);
    let ended = service.interrupt();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let told = terminal.said();
    assert!(told.ends_with(LEFT), "{told:?}");
    // Twelve rows are eleven line ends: one more, and the terminal would scroll.
    let frames: Vec<&str> = told.split(HOME).skip(1).collect();
    assert!(frames.iter().all(|frame| frame.matches('\n').count() == 11), "{frames:#?}");
    assert!(frames[0].contains("more lines"), "{}", frames[0]);
}

#[test]
fn a_terminal_without_a_cursor_has_one_report_after_the_other() {
    let folder = folder();
    let mut terminal = Terminal::new(70, 12);
    let mut service = Service::spawn(
        command(folder.path(), "status --watch=1", &[("TERM", "dumb")]).stdout(terminal.stdout()),
    );
    service.wait("it is told again", || terminal.so_far().matches("database ").count() >= 2);
    assert_eq!(service.interrupt().code, Some(0));
    let told = terminal.said();
    assert!(!told.contains('\u{1b}'), "{told:?}");
}

#[test]
fn where_there_is_no_terminal_one_report_follows_the_other() {
    let folder = folder();
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let mut child = command(folder.path(), "status --watch=1 --format json", &[])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let stdout = child.stdout.take().unwrap();
    // A reader that has seen enough is a way to end it, too.
    let read = lines.clone();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().take(2) {
            read.lock().unwrap().push(line.unwrap());
        }
    });
    reader.join().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    for line in lines.lock().unwrap().iter() {
        let told: Value = serde_json::from_str(line).unwrap();
        assert!(told["pairs"].is_array(), "{line}");
    }
    assert_eq!(lines.lock().unwrap().len(), 2);
    let absent = tempfile::tempdir().unwrap();
    let output = piped(absent.path(), "status --watch", &[]);
    assert_eq!(output.status.code(), Some(1), "what cannot be told at first is not waited for");
}

#[test]
fn a_line_for_programs_is_json_also_while_the_database_is_away() {
    let folder = folder();
    let database = folder.path().join("candlekeep.db");
    let away = folder.path().join("away.db");
    let mut child = command(folder.path(), "status --watch=1 --format json", &[])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut told = lines.map(|line| -> Value {
        let line = line.unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    });
    // Files of the log beside it are of readers that come and go.
    let mut until = |what: &str, is_so: fn(&Value) -> bool| {
        assert!(told.by_ref().take(10).any(|told| is_so(&told)), "waited in vain for {what}");
    };
    until("the report", |told| told["pairs"].is_array());
    std::fs::rename(&database, &away).unwrap();
    until("why there is none", |told| {
        told["error"].as_str().is_some_and(|error| error.starts_with("no database at "))
    });
    std::fs::rename(&away, &database).unwrap();
    until("the report, once the database is back", |told| told["pairs"].is_array());
    drop(told);
    assert_eq!(child.wait().unwrap().code(), Some(0), "nobody reads any more");
}

#[test]
fn who_watches_a_database_that_hangs_sees_how_old_it_is_and_can_leave() {
    let folder = folder();
    let database = folder.path().join("candlekeep.db");
    let mut terminal = Terminal::new(70, 12);
    let mut service =
        Service::spawn(command(folder.path(), "status --watch=1", &[]).stdout(terminal.stdout()));
    service.wait("it is drawn again", || terminal.so_far().matches(HOME).count() >= 2);
    // Whoever opens this waits for one who writes to it.
    std::fs::rename(&database, folder.path().join("away.db")).unwrap();
    mkfifoat(CWD, &database, Mode::RUSR | Mode::WUSR).unwrap();
    let clock = Clock::system();
    let (mut frames, mut since) = (0, clock.monotonic());
    service.wait("nothing to be drawn any more", || {
        let drawn = terminal.so_far().matches(HOME).count();
        if drawn > frames {
            (frames, since) = (drawn, clock.monotonic());
        }
        clock.monotonic() - since > Duration::from_secs(3)
    });
    let ended = service.interrupt();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let told = terminal.said();
    assert!(told.ends_with(LEFT), "{told:?}");
    let heads: BTreeSet<String> = told
        .split(HOME)
        .skip(1)
        .map(|frame| plain(frame).lines().next().unwrap_or_default().trim_end().to_owned())
        .collect();
    assert!(heads.len() >= 2, "{heads:?}");
    assert!(heads.iter().all(|head| head.starts_with("at ") && head.ends_with(" UTC")), "{heads:?}");
}

#[test]
fn status_names_the_address_of_a_demonstration_that_runs() {
    let folder = tempfile::tempdir().unwrap();
    let database = "--database sqlite://demo.db";
    let mut demo =
        Service::spawn(command(folder.path(), &format!("{database} demo"), &[]).stdout(Stdio::null()));
    let mut told = Value::Null;
    demo.wait("status to name the address", || {
        let status = piped(folder.path(), &format!("{database} status --format json"), &[]);
        told = serde_json::from_slice(&status.stdout).unwrap_or_default();
        told["http"]["address"].is_string()
    });
    let address = told["http"]["address"].as_str().unwrap();
    assert!(TcpStream::connect(address).is_ok(), "{told}");
    assert_eq!((&told["http"]["pid"], &told["lease"]["command"]), (&demo.pid().into(), &"demo".into()));
    assert!(demo.interrupt().code.is_some());
}

/// The lines of a demonstration that is told to end as soon as it has said where its dashboard is, and has a database.
fn demonstrated(folder: &Path, variables: &[(&str, &str)]) -> Vec<String> {
    let mut command = command(folder, "demo", variables);
    let mut demo = Service::spawn(command.env("TMPDIR", folder).stdout(Stdio::piped()));
    let mut lines = BufReader::new(demo.stdout()).lines().map(|line| line.unwrap());
    let mut told: Vec<String> = Vec::new();
    while !told.last().is_some_and(|line| line.starts_with("Dashboard")) {
        told.push(lines.next().unwrap_or_else(|| panic!("{told:?}")));
    }
    let database = told.iter().find_map(|line| line.strip_prefix("Database  sqlite:///")).unwrap();
    demo.wait("its database", || Path::new(database).exists());
    assert!(demo.interrupt().code.is_some());
    told.extend(lines);
    told
}

#[test]
fn a_demonstration_is_served_where_it_is_told_to_and_says_what_it_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    let variables = [("CANDLEKEEP_HTTP", address.as_str())];
    let taken = piped(folder.path(), "demo", &variables);
    assert_eq!(taken.status.code(), Some(78), "{taken:?}");
    let why = String::from_utf8_lossy(&taken.stderr);
    assert!(why.contains(&address) && why.contains("CANDLEKEEP_HTTP"), "{why}");
    drop(free);
    let told = demonstrated(folder.path(), &variables);
    assert!(told.contains(&format!("Dashboard http://{address}/")), "{told:?}");
    let left = told.last().unwrap().strip_prefix("The database is kept at ").expect("it says what it leaves");
    let (path, command) = left.split_once("; delete it with ").unwrap();
    assert!(Path::new(path).starts_with(folder.path()) && Path::new(path).exists(), "{left}");
    assert_eq!(command, format!("rm {path}*"));

    // Nobody says where: at the usual address, or elsewhere, with a word why.
    let usual = TcpListener::bind("127.0.0.1:8017");
    let told = demonstrated(folder.path(), &[]);
    let at = told.iter().find(|line| line.starts_with("Dashboard")).unwrap();
    assert!(at.ends_with("/  (127.0.0.1:8017 is taken, CANDLEKEEP_HTTP names another)"), "{at}");
    drop(usual);
}

/// Commands that report nothing of which a program could make use.
const NO_JSON: [(&str, &str); 5] = [
    ("run", "it reports by its log, which journald keeps as fields, and over HTTP"),
    ("simulate", "it serves until it is told to end, and its log tells how far it is"),
    ("export", "what it prints is the bars, as CSV or Parquet; with --output one line says how many"),
    ("completions", "what it prints is a script"),
    ("man", "what it prints is a manual page"),
];

#[test]
fn every_command_that_reports_can_do_so_for_programs() {
    for command in Cli::command().get_subcommands() {
        let format = command.get_arguments().find(|argument| argument.get_id() == "format");
        let has_json = format.is_some_and(|format| {
            format.get_possible_values().iter().any(|value| value.get_name() == "json")
        });
        let is_excused = NO_JSON.iter().any(|(name, _)| *name == command.get_name());
        assert_ne!(has_json, is_excused, "{}", command.get_name());
    }
}

/// Where fields lie: `pairs[].missing`. Of lists the first entry is taken.
fn fields(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                found.push(at.clone());
                fields(value, &at, found);
            }
        }
        Value::Array(entries) => {
            if let Some(first) = entries.first() {
                fields(first, &format!("{at}[]"), found);
            }
        }
        _ => {}
    }
}

#[test]
fn fields_that_programs_read_stay() {
    let folder = folder();
    std::fs::write(
        folder.path().join("a.csv"),
        "pair,timeframe,timestamp,open,high,low,close\nEUR_USD,5,300,1,2,1,1\n",
    )
    .unwrap();
    let bar = "open high low close";
    let check = |line: &str, expected: &str| {
        let output = piped(folder.path(), &format!("{line} --format json"), &[]);
        let told: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{line}: {error}: {}", String::from_utf8_lossy(&output.stderr)));
        let mut found = Vec::new();
        fields(&told, "", &mut found);
        for field in expected.split_whitespace() {
            assert!(found.iter().any(|there| there == field), "{line}: {field} in {found:?}");
        }
    };
    check(
        "status",
        "now database spool.facts lease last_run standbys login.last login.failed login.next at rooms http market.calendar \
         market.state market.opens market.closes stream pairs[].pair pairs[].last_timestamp pairs[].age_s \
         pairs[].missing breaks accounts allowance.remaining allowance.total allowance.seen_at allowance.renews_at \
         allowance.reserve allowance.refused waiting.buckets waiting.by_pair trouble planned.requests planned.points \
         planned.minutes probes",
    );
    check(
        "gaps",
        "gaps[].pair gaps[].timeframe gaps[].from gaps[].to gaps[].buckets gaps[].state gaps[].reason buckets",
    );
    check(
        "gaps --complete EUR_USD 5 2024-01-17T10:00 2024-01-17T12:00",
        "complete missing[].pair missing[].timeframe missing[].from missing[].to missing[].state missing[].reason",
    );
    check("gaps --verify", "holds bars buckets violations violations_count");
    check(
        "explain EUR_USD 2024-01-17T10:05",
        "pair timeframe timestamp market deleted bar.mid.open bar.bid.high bar.ask.close bar.volume bar.source bar.created_at \
         bar.updated_at bar.revision bar.seq ledger.state ledger.reason ledger.in_words ledger.evidence request attempts \
         parts revisions",
    );
    let sides: Vec<String> =
        bar.split(' ').flat_map(|name| ["", "bid_", "ask_"].map(|side| format!("[].{side}{name}"))).collect();
    check(
        "candles EUR_USD 5",
        &format!(
            "[].timestamp [].volume [].source [].revision [].created_at [].updated_at [].seq [].feed_id [].pair [].timeframe \
             [].price {}",
            sides.join(" ")
        ),
    );
    check("doctor --offline", "ok checks[].name checks[].ok checks[].level checks[].state probes");
    check("init", "path");
    check(
        "backfill --plan",
        "allowance.remaining allowance.renews_at minutes points requests requests_per_minute waiting.buckets",
    );
    check(
        "import a.csv --dry-run",
        "file dry_run bars pairs from to inserted superseded refused unchanged derived rederived mid_alone unwatched \
         ignored_columns",
    );
    check("backup b.db", "file bytes bars rows.candles rows.coverage");
    check("copy sqlite://candlekeep.db sqlite://c.db", "from to tables[].table tables[].rows tables[].sum");
}
