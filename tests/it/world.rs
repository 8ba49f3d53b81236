//! A whole world for a test: the simulated broker in a thread of this process, the real program
//! as a child process, a database file between them, and the comparison of the two.
//!
//! Nothing here waits for a time to pass: [`World::wait`] waits for an event, within a bound.
//! The database is read with bare SQL, so that the program's own reading proves nothing.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use candlekeep::clock::Clock;
use candlekeep::domain::{Bar, Pair, Price, Timeframe, Timestamp};
use candlekeep::simulator::{self, Credentials, MarketOptions, Options, Simulator, Speed, Truth};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::postgres;

/// Where the market of most tests begins: Wednesday 2024-01-17 10:00 UTC, far from any close.
pub const START: Timestamp = Timestamp(1_705_485_600);
/// Length of a 5-minute bucket, seconds.
pub const STEP: i64 = 300;
/// Length of a 15-minute bucket, seconds.
const QUARTER: i64 = 900;
/// Bars of history fetched on a first start, of each length; few, to be quick.
pub const DEPTH: i64 = 12;
/// How often an awaited event is looked for.
const POLL: Duration = Duration::from_millis(20);
/// Longest wait for an event on a slow and busy machine, pauses of the program's own included.
const PATIENCE: Duration = Duration::from_secs(480);
/// How long the program may take to stop when told to (DESIGN, command line).
pub const STOP_WITHIN: Duration = Duration::from_secs(10);
/// Differences that a failure shows.
const SHOWN_MAX: usize = 12;

/// Makes a market of `hours` hours of all 28 pairs, as fast as the client takes it.
pub fn market(hours: i64) -> Options {
    Options {
        market: MarketOptions::Seeded { seed: 7, start: Some(START) },
        speed: Speed::Max,
        rows_per_bar: Some(4),
        wait_for_items: Some(28),
        end: Some(START.plus(hours * 3600)),
        ..Options::default()
    }
}

fn now() -> Instant {
    Clock::system().monotonic()
}

/// Looks for an event until it has come; false if it does not within [`PATIENCE`]. The one place
/// where a test sleeps.
pub fn poll(mut event: impl FnMut() -> bool) -> bool {
    let began = now();
    loop {
        if event() {
            return true;
        }
        if now() - began > PATIENCE {
            return false;
        }
        std::thread::sleep(POLL);
    }
}

/// The simulator and a folder for the program.
pub struct World {
    simulator: Option<Simulator>,
    stop: Option<oneshot::Sender<Simulator>>,
    thread: Option<JoinHandle<()>>,
    credentials: Credentials,
    start: Timestamp,
    folder: TempDir,
    /// Address of a database on a server, in place of the file in the folder.
    server: Option<String>,
}

impl World {
    /// The same with its database on a server.
    pub fn on_server(self, address: String) -> World {
        let mut world = self;
        world.server = Some(address);
        world
    }

    /// A world whose seeded market begins at another time.
    pub fn with_start(start: Timestamp, options: Options) -> World {
        let MarketOptions::Seeded { seed, .. } = options.market else { panic!("a replay has its own") };
        World::new(Options { market: MarketOptions::Seeded { seed, start: Some(start) }, ..options })
    }

    /// Starts the simulator. Market time stands still until the program has subscribed.
    pub fn new(options: Options) -> World {
        let credentials = options.credentials.clone();
        let (started, starting) = mpsc::channel();
        let (stop, stopping) = oneshot::channel::<Simulator>();
        let thread = std::thread::spawn(move || {
            actix::System::new().block_on(async move {
                started.send(simulator::start(options).expect("the options are sound")).unwrap();
                if let Ok(simulator) = stopping.await {
                    simulator.stop().await;
                }
            });
        });
        let simulator = starting.recv().expect("the simulator starts");
        let start = simulator.now();
        World {
            simulator: Some(simulator),
            stop: Some(stop),
            thread: Some(thread),
            credentials,
            start,
            folder: tempfile::tempdir().unwrap(),
            server: None,
        }
    }

    /// The simulator's handle: truth, control, totals.
    pub fn simulator(&self) -> &Simulator {
        self.simulator.as_ref().expect("it is there until the world ends")
    }

    /// Ends the simulator with all its sessions, and starts another on the same port.
    pub fn replace(&mut self, options: Options) {
        let listen = self.simulator().address();
        self.end();
        let World { simulator, stop, thread, .. } = &mut World::new(Options { listen, ..options });
        (self.simulator, self.stop, self.thread) = (simulator.take(), stop.take(), thread.take());
    }

    fn end(&mut self) {
        if let (Some(stop), Some(simulator)) = (self.stop.take(), self.simulator.take()) {
            let _ = stop.send(simulator);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    /// Where the program runs and has its database.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The database file.
    pub fn database(&self) -> PathBuf {
        self.folder.path().join("candlekeep.db")
    }

    fn database_url(&self) -> String {
        self.server.clone().unwrap_or_else(|| format!("sqlite:///{}", self.database().display()))
    }

    /// The database, if there is one yet.
    fn open(&self) -> Option<Database> {
        match &self.server {
            None => Database::open(&self.database()),
            Some(address) => Some(Database::Server(address.clone())),
        }
    }

    /// All that a user of the simulator sets, and nothing of the tester's own environment.
    fn variables(&self) -> BTreeMap<String, String> {
        [
            ("IG_API_URL", self.simulator().api_url()),
            ("IG_API_KEY", self.credentials.api_key.clone()),
            ("IG_USERNAME", self.credentials.identifier.clone()),
            ("IG_PASSWORD", self.credentials.password.clone()),
            ("DATABASE_URL", self.database_url()),
            ("CANDLEKEEP_CLOCK", "stream".to_owned()),
            ("CANDLEKEEP_SESSION_LOGIN_SPACING_S", "0".to_owned()),
            ("CANDLEKEEP_HISTORY_REQUESTS_PER_MINUTE", "10000".to_owned()),
            ("CANDLEKEEP_HISTORY_DEPTH", DEPTH.to_string()),
            // Of a market that flies by an outage of a second costs more than one of hours.
            ("CANDLEKEEP_HISTORY_INCIDENT_CAP", "1000000".to_owned()),
            ("CANDLEKEEP_STREAM_RETRY_MS", "250".to_owned()),
            // Many worlds at a time would want the same address.
            ("CANDLEKEEP_HTTP", "off".to_owned()),
            // As under systemd, so that the line that says why it ended has its priority too.
            ("JOURNAL_STREAM", "9:1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    fn command(&self, line: &str, variables: &[(&str, &str)]) -> Command {
        let mut all = self.variables();
        for (name, value) in variables {
            match *value {
                "" => all.remove(*name),
                value => all.insert((*name).to_owned(), value.to_owned()),
            };
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_candlekeep"));
        command.args(line.split_whitespace()).current_dir(self.folder()).env_clear().envs(all);
        command
    }

    /// Starts `candlekeep run` and whatever else stands in `line`. A variable with an empty value
    /// is not set.
    pub fn start(&self, line: &str, variables: &[(&str, &str)]) -> Service {
        Service::spawn(&mut self.command(line, variables))
    }

    /// The same by way of another program, which is told what to run behind its own words.
    pub fn start_by(&self, words: &[&str], line: &str, variables: &[(&str, &str)]) -> Service {
        let inner = self.command(line, variables);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(inner.get_program()).args(inner.get_args());
        command.current_dir(self.folder()).env_clear();
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Service::spawn(&mut command)
    }

    /// Starts the service as it is.
    pub fn run(&self) -> Service {
        self.start("run", &[])
    }

    /// A command that ends by itself.
    pub fn output(&self, line: &str, variables: &[(&str, &str)]) -> Output {
        self.command(line, variables).output().expect("the program starts")
    }

    /// Waits until `event` has come.
    pub fn wait(&self, service: &mut Service, what: &str, mut event: impl FnMut(&World) -> bool) {
        service.wait(what, || event(self));
    }

    /// Waits for an event while no program runs.
    pub fn wait_for(&self, what: &str, mut event: impl FnMut(&World) -> bool) {
        assert!(poll(|| event(self)), "waited in vain for {what}");
    }

    /// Waits until market time has ended and nothing is left that could still be stored.
    pub fn wait_complete(&self, service: &mut Service) {
        // Silence after the last bar is proved by nothing.
        let to_heal = "SELECT count(*) FROM coverage AS run WHERE state = 'missing' AND (reason <> 'silent' \
             OR from_ts < (SELECT max(timestamp) FROM candles AS bar WHERE bar.pair = run.pair AND timeframe = '5'))";
        if !self.wait_end(service, |database| database.number(to_heal) == Some(0)) {
            self.verify(Holes::None);
            panic!("the database was not complete in time");
        }
    }

    /// Has a service go on to the end of market time, stops it, and compares everything with what happened. Answers
    /// its log and what was found.
    pub fn finish(&self, mut service: Service) -> (Vec<String>, Summary) {
        self.wait_complete(&mut service);
        let log = service.stop();
        (log, self.verify(Holes::None))
    }

    /// Waits until market time has ended and the stream is stored to its end.
    pub fn wait_streamed(&self, service: &mut Service) {
        assert!(self.wait_end(service, |_| true), "the stream's last bars do not come");
    }

    fn wait_end(&self, service: &mut Service, also: impl Fn(&Database) -> bool) -> bool {
        let newest = "SELECT pair, max(timestamp) FROM candles WHERE timeframe = '5' GROUP BY pair";
        let mut last = None;
        poll(|| {
            service.expect_alive("the end of market time");
            let Some(database) = self.open() else { return false };
            self.simulator().has_ended()
                && database.pairs(newest) == *last.get_or_insert_with(|| self.last_bars())
                && also(&database)
        })
    }

    /// The start of the bucket that market time is in.
    fn settled_to(&self) -> Timestamp {
        self.simulator().now().floor(STEP)
    }

    /// The last complete bar of each pair.
    fn last_bars(&self) -> BTreeMap<String, i64> {
        let (truth, end) = (self.simulator().truth(), self.settled_to());
        truth.pairs().iter().filter_map(|pair| Some((name(*pair), last_bar(&truth, *pair, end)?))).collect()
    }

    /// Bars stored so far, of both lengths.
    pub fn stored(&self) -> i64 {
        self.open().and_then(|database| database.number("SELECT count(*) FROM candles")).unwrap_or(0)
    }

    /// A number that the database tells, 0 while it cannot.
    pub fn number(&self, query: &str) -> i64 {
        self.open().and_then(|database| database.number(query)).unwrap_or(0)
    }

    /// Compares the whole database with what happened.
    ///
    /// # Panics
    /// Where they differ in anything.
    pub fn verify(&self, holes: Holes) -> Summary {
        self.verify_from(self.start, holes)
    }

    /// The same, leaving some pairs aside.
    pub fn verify_but(&self, aside: &[&str], holes: Holes) -> Summary {
        let truth = self.simulator().truth();
        let wanted = |pair: &str| !aside.contains(&pair);
        let settled = self.start..self.settled_to();
        verify_pairs(&self.known(), &truth, settled, DEPTH, Tolerance { holes, revised: false }, wanted)
    }

    /// The same where bars were corrected: what is stored now is what happened.
    pub fn verify_revised(&self) -> Summary {
        let truth = self.simulator().truth();
        let tolerance = Tolerance { holes: Holes::None, revised: true };
        verify_pairs(&self.known(), &truth, self.start..self.settled_to(), DEPTH, tolerance, |_| true)
    }

    /// The same for a database that knows of the market from this time on.
    pub fn verify_from(&self, start: Timestamp, holes: Holes) -> Summary {
        let truth = self.simulator().truth();
        let tolerance = Tolerance { holes, revised: false };
        verify_pairs(&self.known(), &truth, start..self.settled_to(), DEPTH, tolerance, |_| true)
    }

    pub fn known(&self) -> Database {
        self.open().expect("there is a database")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.end();
    }
}

/// The program while it runs. Dropping it kills it; where a test fails, its last words are shown.
pub struct Service {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

/// How the program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code, none where a signal ended it.
    pub code: Option<i32>,
    /// From the signal to the end.
    pub took: Duration,
    /// All that it wrote to stderr.
    pub log: Vec<String>,
}

impl Ended {
    /// Expects the end of a program that was told to stop; answers its log.
    pub fn orderly(self) -> Vec<String> {
        assert_eq!(self.code, Some(0), "{:?}", self.reason());
        assert!(self.took < STOP_WITHIN, "took {:?} to stop", self.took);
        self.log
    }

    /// The line that says why it ended.
    pub fn reason(&self) -> &str {
        self.log.last().map_or("", String::as_str)
    }
}

impl Service {
    /// Starts a process whose stderr is kept.
    pub fn spawn(command: &mut Command) -> Service {
        let mut child =
            command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let (stderr, lines) = (child.stderr.take().expect("it is piped"), log.clone());
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                lines.lock().unwrap().push(String::from_utf8(line).expect("the program writes UTF-8"));
            }
        });
        Service { child, log, reader: Some(reader) }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The lines of stderr so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Waits for so many lines of stderr, or for a second without a new one.
    pub fn wait_lines(&mut self, count: usize) {
        let log = self.log.clone();
        let (mut seen, mut since) = (0, now());
        self.wait("lines of its log", || {
            let lines = log.lock().unwrap().len();
            if lines > seen {
                (seen, since) = (lines, now());
            }
            lines >= count || now() - since > Duration::from_secs(1)
        });
    }

    /// What it prints, for the one who reads it.
    pub fn stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("stdout is piped")
    }

    /// The first line on stdout of a process that was given a pipe, whose end is closed then.
    pub fn first_line(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.stdout()).read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child is ours")
    }

    fn expect_alive(&mut self, what: &str) {
        if let Some(status) = self.has_ended() {
            panic!("waited for {what}, but the program ended with {status}");
        }
    }

    /// Waits until `event` has come.
    ///
    /// # Panics
    /// When it does not come in time, or the program ends before it.
    pub fn wait(&mut self, what: &str, mut event: impl FnMut() -> bool) {
        let came = poll(|| {
            let came = event();
            if !came {
                self.expect_alive(what);
            }
            came
        });
        assert!(came, "waited in vain for {what}");
    }

    /// Waits until so many lines of stderr contain this.
    pub fn wait_said(&mut self, text: &str, times: usize) {
        let log = self.log.clone();
        let said = || log.lock().unwrap().iter().filter(|line| line.contains(text)).count();
        self.wait(text, || said() >= times);
    }

    /// Waits until a line of stderr contains one of these texts; which.
    pub fn wait_said_one(&mut self, texts: &[&str]) -> usize {
        let log = self.log.clone();
        let said =
            || texts.iter().position(|text| log.lock().unwrap().iter().any(|line| line.contains(text)));
        self.wait(&texts.join(" or "), || said().is_some());
        said().expect("it was waited for")
    }

    /// Where its HTTP interface listens, once it does.
    pub fn http_address(&mut self) -> SocketAddr {
        self.wait_said("serving HTTP", 1);
        let log = self.log();
        let line = log.iter().find(|line| line.contains("serving HTTP")).unwrap();
        let (_, address) = line.split_once("address=").expect("it says where");
        address.parse().unwrap()
    }

    /// Sends it a signal: `-TERM`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(status.expect("there is a kill command").success());
    }

    /// Stops it in its tracks, as a machine does that sleeps.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on after that.
    pub fn go_on(&self) {
        self.signal("-CONT");
    }

    /// Tells it to stop, as systemd does, and waits for its end.
    pub fn terminate(self) -> Ended {
        self.signal("-TERM");
        self.ended()
    }

    /// Tells it to stop, as Ctrl-C does, and waits for its end.
    pub fn interrupt(self) -> Ended {
        self.signal("-INT");
        self.ended()
    }

    /// Ends it without a word.
    pub fn kill(self) -> Ended {
        self.signal("-KILL");
        self.ended()
    }

    /// Waits for its end.
    pub fn ended(mut self) -> Ended {
        let began = now();
        let mut status = None;
        let ended = poll(|| {
            status = self.has_ended();
            status.is_some()
        });
        assert!(ended, "the program does not end");
        let status = status.expect("it has ended");
        let took = now() - began;
        self.reader.take().expect("it is joined once").join().unwrap();
        Ended { code: status.code(), took, log: self.log() }
    }

    /// Tells it to stop and expects the orderly end.
    pub fn stop(self) -> Vec<String> {
        self.terminate().orderly()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            eprintln!("the program's last words:");
            log.iter().rev().take(40).rev().for_each(|line| eprintln!("  {line}"));
        }
    }
}

/// A reader of the database that shares nothing with the program.
pub enum Database {
    /// A file.
    File(Connection),
    /// A server's, by its address.
    Server(String),
}

/// One bar as it stands in the table.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredRow {
    /// Open, high, low, close: mid, bid, ask.
    pub prices: [[f64; 4]; 3],
    /// Ticks.
    pub volume: i64,
    /// Where it came from.
    pub source: String,
    /// 0: as first stored.
    pub revision: i64,
}

/// One run of the ledger.
#[derive(Clone, Debug)]
pub struct StoredRun {
    /// First bucket's start.
    pub from: i64,
    /// Last bucket's end.
    pub to: i64,
    /// What is known.
    pub state: String,
    /// Why.
    pub reason: String,
    /// Who says so.
    pub evidence: String,
}

impl Database {
    /// The database, if there is one yet.
    pub fn open(path: &Path) -> Option<Database> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).ok()?;
        connection.busy_timeout(Duration::from_secs(5)).ok()?;
        Some(Database::File(connection))
    }

    /// What a query answers, as text; nothing while it cannot.
    pub fn rows(&self, query: &str) -> Option<Vec<Vec<String>>> {
        let connection = match self {
            Database::File(connection) => connection,
            Database::Server(address) => return postgres::query(address, query).ok(),
        };
        let mut statement = connection.prepare(query).ok()?;
        let columns = statement.column_count();
        let text = |value: ValueRef<'_>| match value {
            ValueRef::Null => String::new(),
            ValueRef::Integer(number) => number.to_string(),
            ValueRef::Real(number) => number.to_string(),
            ValueRef::Text(text) | ValueRef::Blob(text) => String::from_utf8_lossy(text).into_owned(),
        };
        let row = |row: &rusqlite::Row<'_>| (0..columns).map(|ix| row.get_ref(ix).map(text)).collect();
        statement.query_map([], row).ok()?.collect::<Result<_, _>>().ok()
    }

    /// The one number that a query answers.
    pub fn number(&self, query: &str) -> Option<i64> {
        self.text(query)?.parse().ok()
    }

    /// The one text that a query answers.
    pub fn text(&self, query: &str) -> Option<String> {
        self.rows(query)?.pop()?.pop()
    }

    /// Text and number of each row; nothing while there are no tables.
    fn pairs(&self, query: &str) -> BTreeMap<String, i64> {
        let rows = self.rows(query).unwrap_or_default();
        rows.into_iter().map(|row| (row[0].clone(), row[1].parse().unwrap())).collect()
    }

    /// Every bar of one length, by pair and start.
    pub fn bars(&self, timeframe: &str) -> BTreeMap<String, BTreeMap<i64, StoredRow>> {
        let mut bars: BTreeMap<String, BTreeMap<i64, StoredRow>> = BTreeMap::new();
        let query = format!(
            "SELECT pair, timestamp, open, high, low, close, bid_open, bid_high, bid_low, bid_close, \
             ask_open, ask_high, ask_low, ask_close, volume, source, revision \
             FROM candles WHERE timeframe = '{timeframe}' ORDER BY timestamp"
        );
        for row in self.rows(&query).expect("the table of bars") {
            let side =
                |first: usize| -> [f64; 4] { std::array::from_fn(|ix| row[first + ix].parse().unwrap()) };
            let stored = StoredRow {
                prices: [side(2), side(6), side(10)],
                volume: row[14].parse().unwrap(),
                source: row[15].clone(),
                revision: row[16].parse().unwrap(),
            };
            bars.entry(row[0].clone()).or_default().insert(row[1].parse().unwrap(), stored);
        }
        bars
    }

    /// The ledger of one length, by pair, ascending.
    pub fn ledger(&self, timeframe: &str) -> BTreeMap<String, Vec<StoredRun>> {
        let mut ledger: BTreeMap<String, Vec<StoredRun>> = BTreeMap::new();
        let query = format!(
            "SELECT pair, from_ts, to_ts, state, reason, evidence FROM coverage \
             WHERE timeframe = '{timeframe}' ORDER BY pair, from_ts"
        );
        for row in self.rows(&query).expect("the ledger") {
            let run = StoredRun {
                from: row[1].parse().unwrap(),
                to: row[2].parse().unwrap(),
                state: row[3].clone(),
                reason: row[4].clone(),
                evidence: row[5].clone(),
            };
            ledger.entry(row[0].clone()).or_default().push(run);
        }
        ledger
    }
}

/// Which holes the comparison puts up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holes {
    /// None, but silence at the very end, which nothing has proved yet.
    None,
    /// Those that the ledger lists with a reason.
    Listed,
}

/// What the comparison puts up with.
#[derive(Clone, Copy, Debug)]
struct Tolerance {
    holes: Holes,
    /// Bars that were something else before.
    revised: bool,
}

/// What the comparison found in the database.
#[derive(Debug, Default)]
pub struct Summary {
    /// Bars of 5 and of 15 minutes by source.
    pub sources: BTreeMap<(String, String), usize>,
    /// Buckets of 5 minutes by state and reason.
    pub buckets: BTreeMap<(String, String), i64>,
}

impl Summary {
    /// How many bars of this length came from this source.
    pub fn bars(&self, timeframe: &str, source: &str) -> usize {
        self.sources.get(&(timeframe.to_owned(), source.to_owned())).copied().unwrap_or(0)
    }

    /// How many buckets of 5 minutes are in this state.
    pub fn in_state(&self, state: &str) -> i64 {
        self.buckets.iter().filter(|((of, _), _)| of == state).map(|(_, count)| count).sum()
    }
}

/// A pair as the database writes it.
pub fn name(pair: Pair) -> String {
    format!("{}_{}", pair.base(), pair.quote())
}

/// What a bar has to look like in the table; its source is another matter.
pub fn row_of(bar: &Bar) -> ([[f64; 4]; 3], i64) {
    let side = |prices: [Price; 4]| prices.map(Price::to_f64);
    let mid = bar.mid().map(|mid| mid.to_f64());
    ([mid, side(bar.bid.prices()), side(bar.ask.prices())], i64::from(bar.volume))
}

fn last_bar(truth: &Truth, pair: Pair, end: Timestamp) -> Option<i64> {
    truth.bars(pair, Timeframe::M5, end.plus(-3 * 86_400)..end).last().map(|bar| bar.key.start.0)
}

/// Compares a database with what happened: every bar, every bucket, of every pair.
///
/// `watched` is the market time from the first subscription on; `depth` says how many bars of
/// each length before it were to be fetched. It has to lie in the middle of a week.
///
/// # Panics
/// Where they differ in anything.
pub fn verify(
    path: &Path,
    truth: &Truth,
    watched: std::ops::Range<Timestamp>,
    depth: i64,
    holes: Holes,
) -> Summary {
    let database = Database::open(path).expect("there is a database");
    verify_pairs(&database, truth, watched, depth, Tolerance { holes, revised: false }, |_| true)
}

fn verify_pairs(
    database: &Database,
    truth: &Truth,
    watched: std::ops::Range<Timestamp>,
    depth: i64,
    tolerance: Tolerance,
    wanted: impl Fn(&str) -> bool,
) -> Summary {
    if let Database::File(_) = database {
        assert_eq!(database.text("PRAGMA integrity_check").as_deref(), Some("ok"));
    }
    let revisions = database.number("SELECT count(*) FROM candle_revisions");
    assert!(tolerance.revised || revisions == Some(0), "something was corrected: {revisions:?}");
    let mut comparison = Comparison {
        truth,
        tolerance,
        differences: Vec::new(),
        summary: Summary::default(),
        watched,
        depth,
        bars: [database.bars("5"), database.bars("15")],
        ledgers: [database.ledger("5"), database.ledger("15")],
    };
    for pair in truth.pairs().iter().filter(|pair| wanted(&name(**pair))) {
        comparison.pair(*pair);
    }
    let pairs: Vec<String> = truth.pairs().iter().map(|pair| name(*pair)).collect();
    for known in comparison.bars.iter().flat_map(BTreeMap::keys) {
        assert!(pairs.contains(known), "bars of {known}, which has no market");
    }
    let Comparison { differences, summary, .. } = comparison;
    let shown = differences.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join("\n  ");
    assert!(differences.is_empty(), "{} differences:\n  {shown}\n{summary:#?}", differences.len());
    assert!(summary.sources.values().sum::<usize>() > 0, "nothing was stored");
    summary
}

struct Comparison<'a> {
    truth: &'a Truth,
    tolerance: Tolerance,
    watched: std::ops::Range<Timestamp>,
    depth: i64,
    bars: [BTreeMap<String, BTreeMap<i64, StoredRow>>; 2],
    ledgers: [BTreeMap<String, Vec<StoredRun>>; 2],
    differences: Vec<String>,
    summary: Summary,
}

impl Comparison<'_> {
    fn differ(&mut self, text: String) {
        self.differences.push(text);
    }

    fn pair(&mut self, pair: Pair) {
        let name = name(pair);
        let [bars5, bars15] = [0, 1].map(|ix: usize| self.bars[ix].get(&name).cloned().unwrap_or_default());
        let [runs5, runs15] =
            [0, 1].map(|ix: usize| self.ledgers[ix].get(&name).cloned().unwrap_or_default());
        let (Some(first), Some(last)) = (runs5.first(), runs5.last()) else {
            return self.differ(format!("{name}: nothing is known of it"));
        };
        let (from, to) = (first.from, last.to);
        for two in runs5.windows(2) {
            if two[0].to != two[1].from {
                self.differ(format!(
                    "{name}: nothing, or two things, known from {} to {}",
                    two[0].to, two[1].from
                ));
            }
        }
        for two in runs15.windows(2) {
            if two[0].to > two[1].from {
                self.differ(format!("{name} 15: two things known of {}", two[1].from));
            }
        }
        self.reaches_far_enough(pair, from, to);
        self.values(pair, Timeframe::M5, &bars5);
        self.values(pair, Timeframe::M15, &bars15);
        let mut states: BTreeMap<i64, &StoredRun> = BTreeMap::new();
        for run in &runs5 {
            for bucket in (run.from..run.to).step_by(STEP as usize) {
                states.insert(bucket, run);
                self.bucket(pair, bucket, run, bars5.get(&bucket));
            }
        }
        for start in bars5.keys().filter(|start| !states.contains_key(start)) {
            self.differ(format!("{name} 5 {}: stored and not in the ledger", Timestamp(*start)));
        }
        self.ledger_15(&name, &runs15, &bars15);
        self.quarters(pair, &states, &bars15);
    }

    /// Whether the ledger begins with the history asked for and ends with the last bar.
    fn reaches_far_enough(&mut self, pair: Pair, from: i64, to: i64) {
        let day = self.watched.start..self.watched.start.plus(86_400).min(self.watched.end);
        let first_bar = self.truth.bars(pair, Timeframe::M5, day).first().map(|bar| bar.key.start.0);
        if let Some(first_bar) = first_bar.filter(|first_bar| from > first_bar - self.depth * STEP) {
            self.differ(format!("{pair}: its ledger begins at {from}, its first bar was {first_bar}"));
        }
        if let Some(last) = last_bar(self.truth, pair, self.watched.end).filter(|last| to < last + STEP) {
            self.differ(format!("{pair}: its ledger ends at {to}, its last bar was {last}"));
        }
    }

    fn values(&mut self, pair: Pair, timeframe: Timeframe, bars: &BTreeMap<i64, StoredRow>) {
        for (start, stored) in bars {
            *self
                .summary
                .sources
                .entry((timeframe.as_str().to_owned(), stored.source.clone()))
                .or_default() += 1;
            let happened = self.truth.bar(pair, timeframe, Timestamp(*start)).map(|bar| row_of(&bar));
            let revised = stored.revision != 0 && !self.tolerance.revised;
            if happened != Some((stored.prices, stored.volume)) || revised {
                let start = Timestamp(*start);
                self.differ(format!("{pair} {timeframe} {start}: stored {stored:?}, happened {happened:?}"));
            }
            let derived = stored.source == "derived";
            if derived && timeframe == Timeframe::M5 || !derived && stored.source == "import" {
                self.differ(format!("{pair} {timeframe} {start}: source {}", stored.source));
            }
        }
    }

    /// What the ledger says of a 5-minute bucket, against what is stored and what happened.
    fn bucket(&mut self, pair: Pair, start: i64, run: &StoredRun, stored: Option<&StoredRow>) {
        *self.summary.buckets.entry((run.state.clone(), run.reason.clone())).or_default() += 1;
        let happened = self.truth.bar(pair, Timeframe::M5, Timestamp(start)).is_some();
        let fits = match run.state.as_str() {
            "stored" => stored.is_some(),
            // Nothing proves the silence after the last row.
            "quiet" if run.reason == "later_row" && start > self.last_bar(pair) => false,
            "quiet" | "closed" => stored.is_none() && !happened,
            "missing" if self.tolerance.holes == Holes::Listed => stored.is_none(),
            "missing" => stored.is_none() && run.reason == "silent" && start > self.last_bar(pair),
            _ => false,
        };
        if !fits {
            let start = Timestamp(start);
            self.differ(format!(
                "{pair} 5 {start}: {run:?}, stored: {}, happened: {happened}",
                stored.is_some()
            ));
        }
    }

    /// Start of the pair's last complete bar.
    fn last_bar(&self, pair: Pair) -> i64 {
        last_bar(self.truth, pair, self.watched.end).unwrap_or(i64::MIN)
    }

    /// The ledger of longer bars lists those that are stored, and holes.
    fn ledger_15(&mut self, pair: &str, runs: &[StoredRun], bars: &BTreeMap<i64, StoredRow>) {
        for run in runs {
            for start in (run.from..run.to).step_by(QUARTER as usize) {
                let fits = match run.state.as_str() {
                    "stored" => bars.contains_key(&start),
                    "missing" => self.tolerance.holes == Holes::Listed && !bars.contains_key(&start),
                    _ => !bars.contains_key(&start),
                };
                if !fits {
                    self.differ(format!("{pair} 15 {}: {run:?}", Timestamp(start)));
                }
            }
        }
        for start in bars.keys() {
            if !runs.iter().any(|run| (run.from..run.to).contains(start) && run.state == "stored") {
                self.differ(format!("{pair} 15 {}: stored and not in the ledger", Timestamp(*start)));
            }
        }
    }

    /// Every longer bar whose parts are all known is there.
    fn quarters(&mut self, pair: Pair, states: &BTreeMap<i64, &StoredRun>, bars: &BTreeMap<i64, StoredRow>) {
        let settled = |start: i64| {
            let known = states.get(&start).map(|run| run.state.as_str());
            matches!(known, Some("stored" | "quiet" | "closed"))
        };
        let Some((first, last)) = states.first_key_value().zip(states.last_key_value()) else { return };
        let derived_from = Timestamp(*first.0).ceil(QUARTER).0;
        let history_from = (self.watched.start.0 - self.depth * QUARTER).min(derived_from);
        for start in (Timestamp(history_from).ceil(QUARTER).0..*last.0 + STEP).step_by(QUARTER as usize) {
            let is_due = match start < derived_from {
                true => self.tolerance.holes == Holes::None,
                false => (0..3).all(|slot| settled(start + slot * STEP)),
            };
            let happened = self.truth.bar(pair, Timeframe::M15, Timestamp(start)).is_some();
            if is_due && happened != bars.contains_key(&start) {
                self.differ(format!(
                    "{pair} 15 {}: happened: {happened}, stored: {}",
                    Timestamp(start),
                    !happened
                ));
            }
            if !is_due && start >= derived_from && bars.contains_key(&start) {
                self.differ(format!(
                    "{pair} 15 {}: stored before all its parts were known",
                    Timestamp(start)
                ));
            }
        }
    }
}
