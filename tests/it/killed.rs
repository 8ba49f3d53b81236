//! Durability: a process that writes through writer, spool and store is killed at a named place or
//! at a random instant, again and again, while another process locks the database now and then. Where that is
//! on a PostgreSQL server, its connections are ended and cut besides, commits lose their answer, and the
//! server itself is killed. After each kill a fresh start must find everything that was acknowledged, and
//! nothing wrong.
//!
//! `CANDLEKEEP_KILL_ROUNDS` says how often; a failure prints its seed, which
//! `CANDLEKEEP_KILL_SEED` plays again as far as chance allows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use actix::Actor;
use candlekeep::clock::Clock;
use candlekeep::domain::coverage::Run;
use candlekeep::domain::{
    Bar, BarKey, Fact, FactBatch, Mark, Ohlc, Pair, Price, Reason, Source, State, Timeframe, Timestamp,
};
use candlekeep::failpoint;
use candlekeep::live::Live;
use candlekeep::messages::StoreFacts;
use candlekeep::stats::Stats;
use candlekeep::store::{BarQuery, DatabaseUrl, RevisionKind, Standby, Store, StoreError, StoreHandle};
use candlekeep::supervisor::{Alarm, Lifeline, Room};
use candlekeep::writer::actor::WriterActor;
use candlekeep::writer::batch::Batch;
use candlekeep::writer::journal::{self, JournalHandle};
use candlekeep::writer::modes::Modes;
use candlekeep::writer::recovery::{RecoveryError, recover};
use futures_util::stream::{FuturesOrdered, StreamExt};
use rusqlite::Connection;

use super::postgres::{self, Server};
use super::proxy::{Passing, Proxy};
use super::world::START;

/// Where the child is to write, where its spool lies, from which message on, and where it dies.
const DATABASE: &str = "CANDLEKEEP_TEST_KILLED_DATABASE";
const FOLDER: &str = "CANDLEKEEP_TEST_KILLED_FOLDER";
const FIRST: &str = "CANDLEKEEP_TEST_KILLED_FIRST";
const POINT: &str = "CANDLEKEEP_TEST_KILLED_POINT";

/// Rounds on one database, and messages in it, before another is begun.
const ROUNDS_PER_DATABASE: u32 = 20;
const MESSAGES_PER_DATABASE: i64 = 2_000;
/// Messages that wait for an answer at most.
const OUTSTANDING: usize = 8;
/// So many messages at once, then a pause: so that locks come and go meanwhile.
const MESSAGES_AT_ONCE: i64 = 3;
const PAUSE: Duration = Duration::from_millis(1);
/// In so many rounds somebody dies at every place.
const ENOUGH_FOR_EVERY_PLACE: u32 = 400;

/// How things go with a file, and with a server, to which each statement is a journey.
struct Pace {
    /// Messages that a child sends at most.
    messages: i64,
    /// How long the child waits for a lock, and for an answer to a flush.
    lock_patience: Duration,
    flush_patience: Duration,
    /// How long a place to die at may be waited for.
    point_patience: Duration,
    /// When it dies at no place, milliseconds.
    instant_ms: Range<u64>,
    /// Pauses between troubles, milliseconds.
    trouble_ms: Range<u64>,
}

const WITH_FILE: Pace = Pace {
    messages: 1_500,
    lock_patience: Duration::from_millis(4),
    flush_patience: Duration::from_millis(10),
    point_patience: Duration::from_millis(700),
    instant_ms: 5..150,
    trouble_ms: 2..80,
};

const WITH_SERVER: Pace = Pace {
    messages: 300,
    lock_patience: Duration::from_millis(20),
    flush_patience: Duration::from_millis(25),
    point_patience: Duration::from_millis(2_500),
    instant_ms: 50..900,
    trouble_ms: 10..200,
};

impl Pace {
    fn with(url: &DatabaseUrl) -> &'static Pace {
        if url.sqlite_path().is_some() { &WITH_FILE } else { &WITH_SERVER }
    }
}

/// Of so many rounds on a server, one kills the server.
const ROUNDS_PER_CRASH: u8 = 5;
const NOW: Timestamp = Timestamp(START.0 + 86_400);
const STEP: i64 = 300;

fn pairs() -> [Pair; 2] {
    ["EURUSD", "USDJPY"].map(|pair| pair.parse().unwrap())
}

fn slot(number: i64) -> Timestamp {
    START.plus(number * STEP)
}

/// The bar of a slot: a function of its number, as first told or corrected.
fn bar(pair: usize, number: i64, corrected: bool) -> Bar {
    let price = |offset: i64| Price::from_units(100_000_000 + number * 10_000 + offset * 100 + pair as i64);
    let price = |offset| price(offset + 7 * i64::from(corrected)).unwrap();
    let side =
        |at| Ohlc { open: price(at), high: price(at + 30), low: price(at - 30), close: price(at + 10) };
    Bar {
        key: BarKey { pair: pairs()[pair], timeframe: Timeframe::M5, start: slot(number) },
        bid: side(40),
        ask: side(60),
        // Some corrections have as many ticks as what they correct.
        volume: 50 + (number % 40) as u32 + u32::from(corrected && number % 2 == 0),
        source: Source::Stream,
    }
}

/// Whether this message corrects the slot before its own.
fn corrects(number: i64) -> bool {
    number % 5 == 4
}

/// Whether the second pair is quiet in this slot.
fn is_quiet(number: i64) -> bool {
    number % 4 == 1
}

/// What the aggregator would tell after a bucket.
fn message(number: i64) -> Arc<FactBatch> {
    let mut facts = vec![Fact::Settled(bar(0, number, false))];
    if corrects(number) {
        facts.push(Fact::Settled(bar(0, number - 1, true)));
    }
    facts.push(if is_quiet(number) {
        Fact::Marked(Mark {
            pair: pairs()[1],
            timeframe: Timeframe::M5,
            span: slot(number)..slot(number + 1),
            state: State::Quiet,
            reason: Reason::LaterRow,
        })
    } else {
        Fact::Settled(bar(1, number, false))
    });
    Arc::new(FactBatch { evidence: "ls:killed".into(), facts })
}

/// Opens and recovers, again and again while another process has the lock or the server is away.
fn start(url: &DatabaseUrl, folder: &Path) -> (Store, journal::Journal) {
    // One that does not know whether it has taken the lease takes it again.
    let standby = Standby::new("run", NOW).unwrap();
    loop {
        let started = Store::open(url).map_err(RecoveryError::from).and_then(|mut store| {
            store.wait_for_others(Pace::with(url).lock_patience)?;
            let lease = store.take_turn(&standby, None, NOW)?;
            let journal = recover(&mut store, &lease, url, Some(folder), NOW)?.expect("a spool can be made");
            Ok((store, journal))
        });
        match started {
            Ok(started) => return started,
            Err(RecoveryError::Store(error)) if error.is_retryable() => {
                thread::sleep(Duration::from_millis(2));
            }
            Err(error) => panic!("the database does not open: {error}"),
        }
    }
}

/// Not a test: the process that the next one kills.
#[test]
#[ignore = "run as a child process by the tests below"]
fn child_that_writes_until_killed() {
    let Ok(url) = std::env::var(DATABASE) else { return };
    let url: DatabaseUrl = url.parse().unwrap();
    let (pace, folder) = (Pace::with(&url), PathBuf::from(std::env::var_os(FOLDER).unwrap()));
    let first: i64 = std::env::var(FIRST).unwrap().parse().unwrap();
    if let Ok(point) = std::env::var(POINT) {
        failpoint::arm(&point).unwrap();
    }
    actix::System::new().block_on(async move {
        let (store, journal) = start(&url, &folder);
        let (store, _) = StoreHandle::spawn("store", store).unwrap();
        let (journal, _) = JournalHandle::spawn("spool", journal).unwrap();
        let (alarm, _alerts) = Alarm::new();
        let modes = Modes::new(Batch::new(Duration::ZERO), true, pace.flush_patience);
        let shown = (Arc::new(Stats::default()), Live::default());
        let lifeline = Lifeline::alone(Room::Writer, &alarm);
        let clock = Clock::system();
        let writer = WriterActor::new(modes, store, Some(journal), clock.clone(), shown, lifeline).start();
        let mut waiting = FuturesOrdered::new();
        for number in first..first + pace.messages {
            let answer = writer.send(StoreFacts { batch: message(number), found: clock.monotonic() });
            waiting.push_back(async move { (number, answer.await.unwrap()) });
            if number % MESSAGES_AT_ONCE == 0 {
                actix_rt::time::sleep(PAUSE).await;
            }
            if waiting.len() >= OUTSTANDING {
                acknowledged(waiting.next().await);
            }
        }
        while !waiting.is_empty() {
            acknowledged(waiting.next().await);
        }
    });
}

fn acknowledged(answer: Option<(i64, Result<(), Arc<StoreError>>)>) {
    let (number, answer) = answer.unwrap();
    answer.unwrap();
    println!("\nstored {number}");
}

/// Where databases are made.
#[derive(Clone)]
enum Ground {
    /// In files.
    Files,
    /// On a server, and the network that leads there.
    Server(Rc<(Arc<Mutex<Server>>, Arc<Proxy>)>),
}

/// One database.
#[derive(Clone)]
enum Place {
    File(PathBuf),
    /// Its address as it is, its name, and what leads there.
    Server(String, String, Arc<Proxy>),
}

impl Place {
    /// Where a child finds it.
    fn url(&self) -> String {
        match self {
            Place::File(path) => format!("sqlite:///{}", path.display()),
            Place::Server(address, _, proxy) => proxy.lead(address),
        }
    }

    fn spool(&self, folder: &Path) -> PathBuf {
        journal::paths(&self.url().parse().unwrap(), Some(folder)).remove(0)
    }

    /// Makes it unavailable for a moment, in one way or another.
    fn disturb(&self, random: &mut fastrand::Rng) {
        let pause_ms = random.u64(1..40);
        match self {
            Place::File(path) => {
                let Ok(connection) = Connection::open(path) else { return };
                // The child may be at it, which is as good.
                if connection.execute_batch("BEGIN EXCLUSIVE").is_ok() {
                    thread::sleep(Duration::from_millis(pause_ms));
                    connection.execute_batch("ROLLBACK").unwrap();
                }
            }
            Place::Server(address, name, proxy) => {
                // Before the child has made the tables there are none, and it may be in the way.
                let try_to = |statements: &str| drop(postgres::query(address, statements));
                match random.u8(..6) {
                    0 => try_to(&format!(
                        "BEGIN; SET LOCAL lock_timeout = 50; LOCK TABLE candles IN ACCESS EXCLUSIVE MODE; \
                         SELECT pg_sleep(0.0{pause_ms:02}); ROLLBACK"
                    )),
                    1 => try_to(&format!(
                        "BEGIN; SET LOCAL lock_timeout = 50; SELECT 1 FROM lease WHERE name = 'writers' FOR UPDATE; \
                         SELECT pg_sleep(0.0{pause_ms:02}); ROLLBACK"
                    )),
                    2 => try_to(&format!("{} AND application_name = 'candlekeep'", end_sessions(name))),
                    3 => proxy.close(),
                    4 => proxy.cut_commits(2),
                    _ => {
                        proxy.pass(Passing::Later);
                        thread::sleep(Duration::from_millis(pause_ms));
                        proxy.pass(Passing::All);
                    }
                }
            }
        }
    }
}

/// Ends all that is connected to a database, but for who asks.
fn end_sessions(name: &str) -> String {
    format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()"
    )
}

/// Makes the database unavailable for a while, again and again, as long as it lives.
struct Trouble {
    is_over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Trouble {
    fn start(place: Place, pace: &'static Pace, mut random: fastrand::Rng) -> Trouble {
        Trouble::of(move || {
            thread::sleep(Duration::from_millis(random.u64(pace.trouble_ms.clone())));
            place.disturb(&mut random);
            true
        })
    }

    /// Has the server die, once, and come back.
    fn crash(server: Arc<Mutex<Server>>, after: Duration) -> Trouble {
        Trouble::of(move || {
            thread::sleep(after);
            let mut server = server.lock().unwrap();
            server.crash();
            server.resume();
            false
        })
    }

    fn of(mut disturb: impl FnMut() -> bool + Send + 'static) -> Trouble {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let thread = thread::spawn(move || while disturb() && !over.load(Ordering::Relaxed) {});
        Trouble { is_over, thread: Some(thread) }
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is joined once");
        let outcome = thread.join();
        if !thread::panicking() {
            outcome.expect("who makes trouble lives");
        }
    }
}

/// A database, and what was acknowledged of it.
struct House {
    ground: Ground,
    place: Place,
    folder: tempfile::TempDir,
    rounds: u32,
    acknowledged: i64,
    random: fastrand::Rng,
}

impl House {
    fn new(ground: &Ground, mut random: fastrand::Rng) -> House {
        let (random, folder) = (random.fork(), tempfile::tempdir().unwrap());
        let place = ground.new_place(folder.path(), None);
        House { ground: ground.clone(), place, folder, rounds: 0, acknowledged: -1, random }
    }

    fn pace(&self) -> &'static Pace {
        match self.ground {
            Ground::Files => &WITH_FILE,
            Ground::Server(_) => &WITH_SERVER,
        }
    }

    fn is_made(&self) -> bool {
        match &self.place {
            Place::File(path) => path.exists(),
            Place::Server(..) => true,
        }
    }

    fn spooled(&self) -> u64 {
        journal::facts_waiting(&self.place.spool(self.folder.path())).unwrap_or(0)
    }

    /// Where the next child is to die: a place that it may come by; none: at a random instant.
    fn choose(&mut self) -> Option<&'static str> {
        let at_first = ["spool.zeroed", "spool.created"];
        if self.rounds == 0 && self.random.u8(..3) > 0 {
            return Some(at_first[self.random.usize(..2)]);
        }
        if self.spooled() > 0 && self.random.bool() {
            return Some(["replay.committed", "empty.half", "empty.written"][self.random.usize(..3)]);
        }
        let later: Vec<_> = failpoint::POINTS
            .into_iter()
            .filter(|point| !at_first.contains(point) && *point != "replay.committed")
            .collect();
        let choice = self.random.usize(..later.len() + 3);
        later.get(choice).copied()
    }

    fn child(&self, point: Option<&str>, first: i64, count: u64) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "killed::child_that_writes_until_killed", "--ignored", "--nocapture"])
            .env(DATABASE, self.place.url())
            .env(FOLDER, self.folder.path())
            .env(FIRST, first.to_string())
            .env("RUST_LOG", "off")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(point) = point {
            command.env(POINT, format!("{point}:{count}"));
        }
        command.spawn().unwrap()
    }

    /// One life and death; answers how it ended.
    fn round(&mut self) -> String {
        let point = self.choose();
        let count = match point {
            Some("spool.zeroed") => self.random.u64(1..9),
            Some("replay.committed" | "spool.created") => 1,
            Some(point) if point.starts_with("empty") || point.starts_with("drain") => self.random.u64(1..3),
            _ => self.random.u64(1..8),
        };
        // The restarted process learns some of it again.
        let first = (self.acknowledged + 1 - self.random.i64(0..3)).max(0);
        let needs_lock = point.is_some_and(|point| !point.starts_with("commit"));
        let is_disturbed = self.is_made() && (needs_lock || self.random.u8(..3) > 0);
        let trouble =
            is_disturbed.then(|| Trouble::start(self.place.clone(), self.pace(), self.random.fork()));
        let crash = match &self.ground {
            Ground::Server(server) if self.random.u8(..ROUNDS_PER_CRASH) == 0 => {
                let after = Duration::from_millis(self.random.u64(1..400));
                Some(Trouble::crash(server.0.clone(), after))
            }
            _ => None,
        };
        let mut child = self.child(point, first, count);
        let stdout = child.stdout.take().unwrap();
        let told = thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            lines.filter_map(|line| line.strip_prefix("stored ")?.parse::<i64>().ok()).last()
        });
        let instant = Duration::from_millis(self.random.u64(self.pace().instant_ms.clone()));
        let patience = point.map_or(instant, |_| self.pace().point_patience);
        let (clock, mut ended) = (Clock::system(), None);
        let until = clock.monotonic() + patience;
        while ended.is_none() && clock.monotonic() < until {
            thread::sleep(Duration::from_millis(1));
            ended = child.try_wait().unwrap();
        }
        let _ = child.kill();
        let status = child.wait().unwrap();
        let crashed = crash.is_some();
        drop((trouble, crash));
        self.place.settle();
        self.acknowledged = self.acknowledged.max(told.join().unwrap().unwrap_or(-1));
        self.rounds += 1;
        if status.code().is_some_and(|code| code != 0) {
            let mut words = String::new();
            std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut words).unwrap();
            panic!("the child failed: {words}");
        }
        let end = match (point, ended.is_some() && status.code().is_none()) {
            (Some(point), true) => point,
            (Some(_), false) => "not reached",
            (None, _) => "random instant",
        };
        if crashed { format!("{end}, server killed") } else { end.to_owned() }
    }

    /// A fresh start on a copy, so that the next child has the same before it.
    fn verify(&self) -> i64 {
        let folder = tempfile::tempdir().unwrap();
        let place = self.ground.new_place(folder.path(), Some(&self.place));
        let (spool, spool_too) = (self.place.spool(self.folder.path()), place.spool(folder.path()));
        for file in fs::read_dir(self.folder.path()).unwrap().map(Result::unwrap) {
            // On a server it has the name of its database.
            let is_spool = file.path() == spool;
            let to = if is_spool { spool_too.clone() } else { folder.path().join(file.file_name()) };
            fs::copy(file.path(), to).unwrap();
        }
        let (mut store, journal) = start(&place.url().parse().unwrap(), folder.path());
        assert!(journal.is_empty() && journal.aside().is_none(), "{:?}", journal.aside());
        assert_eq!(fs::metadata(journal.path()).unwrap().len(), journal::PREALLOCATED);
        verify(&mut store, self.acknowledged);
        drop(store);
        place.check();
        i64::from(self.spooled() > 0)
    }
}

impl Ground {
    /// A new database: an empty one, or on a server a copy of another.
    fn new_place(&self, folder: &Path, copied: Option<&Place>) -> Place {
        match self {
            Ground::Files => Place::File(folder.join("candles.db")),
            Ground::Server(ground) => {
                static NAMES: AtomicU32 = AtomicU32::new(0);
                let (server, proxy) = &**ground;
                let name = format!("killed_{}", NAMES.fetch_add(1, Ordering::Relaxed));
                let server = server.lock().unwrap();
                let template = match copied {
                    Some(Place::Server(_, name, _)) => name,
                    _ => "template1",
                };
                server.run(&format!("CREATE DATABASE {name} TEMPLATE {template}"));
                Place::Server(server.address(&name), name, proxy.clone())
            }
        }
    }
}

impl Place {
    /// Once the child is dead: what it had begun on a server has ended, and its lease is free, as it would be
    /// once it has expired.
    fn settle(&self) {
        let Place::Server(address, name, proxy) = self else { return };
        proxy.cut_commits(0);
        let others = format!("SELECT count(*) FROM ({}) AS ended", end_sessions(name));
        while postgres::query(address, &others).unwrap() != [["0"]] {
            thread::sleep(Duration::from_millis(1));
        }
        if postgres::query(address, "SELECT to_regclass('lease') IS NOT NULL").unwrap() == [["t"]] {
            postgres::query(address, "UPDATE lease SET expires_at = renewed_at").unwrap();
        }
        // Who has just asked is not to be in the way of a copy.
        let server = address.replace(&format!("/{name}"), "/postgres");
        while postgres::query(&server, &others).unwrap() != [["0"]] {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Looks with other eyes; what was a copy on a server is gone then.
    fn check(&self) {
        let unequal =
            "SELECT count(*) FROM (SELECT seq FROM candles GROUP BY seq HAVING count(*) > 1) AS doubles";
        match self {
            Place::File(path) => {
                let connection = Connection::open(path).unwrap();
                let check: String =
                    connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
                assert_eq!(check, "ok");
                assert_eq!(connection.query_row(unequal, [], |row| row.get::<_, i64>(0)), Ok(0));
            }
            Place::Server(address, name, _) => {
                assert_eq!(postgres::query(address, unequal).unwrap(), [["0"]]);
                let server = address.replace(&format!("/{name}"), "/postgres");
                postgres::query(&server, &format!("DROP DATABASE {name} WITH (FORCE)")).unwrap();
            }
        }
    }
}

/// Compares what is stored with what was told: a beginning of it, at least what was acknowledged.
fn verify(store: &mut Store, acknowledged: i64) {
    let [first, second] = pairs();
    let mut stored = |pair, timeframe| -> BTreeMap<i64, (Bar, u32)> {
        let bars = store.bars(pair, timeframe, &BarQuery::default()).unwrap();
        bars.iter().map(|row| (row.bar.key.start.since(START) / STEP, (row.bar, row.revision))).collect()
    };
    let (fives, seconds) = (stored(first, Timeframe::M5), stored(second, Timeframe::M5));
    let quarters = [stored(first, Timeframe::M15), stored(second, Timeframe::M15)];
    let count = fives.len() as i64;
    assert!(count > acknowledged, "{acknowledged} was acknowledged, {count} are stored");
    assert!(fives.keys().copied().eq(0..count), "a beginning, without a gap: {:?}", fives.keys());
    for (number, (found, revision)) in &fives {
        let may_be_corrected = corrects(number + 1);
        let must_be_corrected = may_be_corrected && number + 1 < count;
        let corrected = *found == bar(0, *number, true) && may_be_corrected;
        assert!(corrected || *found == bar(0, *number, false) && !must_be_corrected, "{number}: {found:?}");
        assert_eq!(*revision, u32::from(corrected), "{number}");
    }
    let loud = |number: &i64| !is_quiet(*number);
    let count = count.max(seconds.keys().max().map_or(0, |last| last + 1));
    assert!(seconds.keys().copied().eq((0..count).filter(loud)), "{:?}", seconds.keys());
    assert!(seconds.iter().all(|(number, (found, _))| *found == bar(1, *number, false)));

    // What was superseded is kept once, and nothing was refused.
    let revisions = store.revisions(first, Timeframe::M5, START..slot(count)).unwrap();
    let kinds: BTreeSet<_> = revisions.iter().map(|revision| revision.bar.key.start).collect();
    assert_eq!(kinds.len(), revisions.len());
    assert!(revisions.iter().all(|revision| revision.kind == RevisionKind::Superseded), "{revisions:?}");

    for (ix, (pair, fives)) in [(first, &fives), (second, &seconds)].into_iter().enumerate() {
        let runs = store.coverage(pair, Timeframe::M5, START..slot(count + 9)).unwrap();
        let mut states = BTreeMap::new();
        for Run { span, state, .. } in &runs {
            for number in span.start.since(START) / STEP..span.end.since(START) / STEP {
                assert!(states.insert(number, *state).is_none(), "one state a bucket");
            }
        }
        assert!(states.keys().copied().eq(0..count), "{pair}: {runs:?}");
        for (number, state) in &states {
            let expected = if fives.contains_key(number) { State::Stored } else { State::Quiet };
            assert_eq!(*state, expected, "{pair} {number}");
        }
        for quarter in (0..count - 2).step_by(3) {
            let parts: Vec<&Bar> =
                (quarter..quarter + 3).filter_map(|number| fives.get(&number)).map(|(bar, _)| bar).collect();
            let fold = |side: fn(&Bar) -> Ohlc| {
                let sides: Vec<Ohlc> = parts.iter().map(|part| side(part)).collect();
                sides[1..].iter().fold(sides[0], |folded, next| folded.then(next))
            };
            let (found, _) = &quarters[ix].get(&quarter).expect("a complete quarter has its bar");
            assert_eq!(
                (found.bid, found.ask),
                (fold(|bar| bar.bid), fold(|bar| bar.ask)),
                "{pair} {quarter}"
            );
            assert_eq!(found.volume, parts.iter().map(|part| part.volume).sum::<u32>());
        }
        assert_eq!(quarters[ix].len() as i64, count / 3, "{pair}: none before it is complete");
    }
}

#[test]
fn killed_anywhere_nothing_acknowledged_is_lost() {
    kill_again_and_again(&Ground::Files);
}

#[test]
fn killed_anywhere_nothing_acknowledged_is_lost_on_a_server() {
    let Some(server) = Server::start(&[]) else { return };
    let proxy = Arc::new(Proxy::start(server.port()));
    kill_again_and_again(&Ground::Server(Rc::new((Arc::new(Mutex::new(server)), proxy))));
}

fn kill_again_and_again(ground: &Ground) {
    // More in `.ci/full`.
    let rounds = std::env::var("CANDLEKEEP_KILL_ROUNDS").map_or(20, |rounds| rounds.parse().unwrap());
    let seed = std::env::var("CANDLEKEEP_KILL_SEED")
        .map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut house = House::new(ground, random.fork());
    let (mut ends, mut messages, mut spooled) = (BTreeMap::<String, u32>::new(), 0, 0);
    let began = Clock::system().monotonic();
    for round in 0..rounds {
        let end = house.round();
        println!(
            "round {round}: {end}, {} acknowledged, {} spooled",
            house.acknowledged + 1,
            house.spooled()
        );
        *ends.entry(end).or_default() += 1;
        if house.is_made() {
            spooled += house.verify();
        }
        if house.rounds >= ROUNDS_PER_DATABASE || house.acknowledged >= MESSAGES_PER_DATABASE {
            messages += house.acknowledged + 1;
            house = House::new(ground, random.fork());
        }
    }
    messages += house.acknowledged + 1;
    let took = Clock::system().monotonic() - began;
    println!(
        "{rounds} kills, {messages} messages acknowledged, {spooled} times with facts in the spool, {took:?}"
    );
    for (end, count) in &ends {
        println!("  {end:<34} {count:>4}");
    }
    assert!(messages > 0, "nothing was ever acknowledged");
    // A place that nobody ever dies at proves nothing.
    let is_died_at = |point: &str| ends.keys().any(|end| end.starts_with(point));
    let unreached: Vec<_> = failpoint::POINTS.iter().filter(|point| !is_died_at(point)).collect();
    assert!(rounds < ENOUGH_FOR_EVERY_PLACE || unreached.is_empty(), "nobody died at {unreached:?}");
}
