//! Durability: a process that writes through writer, spool and store is killed at a named place or
//! at a random instant, again and again, while another process locks the database now and then.
//! After each kill a fresh start must find everything that was acknowledged, and nothing wrong.
//!
//! `CANDLEKEEP_KILL_ROUNDS` says how often; a failure prints its seed, which
//! `CANDLEKEEP_KILL_SEED` plays again as far as chance allows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use actix::Actor;
use candlekeep::clock::Clock;
use candlekeep::domain::coverage::Run;
use candlekeep::domain::{
    Bar, BarKey, Fact, FactBatch, Mark, Ohlc, Pair, Price, Reason, Source, State, Timeframe, Timestamp,
};
use candlekeep::failpoint;
use candlekeep::messages::StoreFacts;
use candlekeep::stats::Stats;
use candlekeep::store::{BarQuery, DatabaseUrl, RevisionKind, Store, StoreError, StoreHandle};
use candlekeep::supervisor::Alarm;
use candlekeep::writer::actor::WriterActor;
use candlekeep::writer::batch::Batch;
use candlekeep::writer::journal::{self, JournalHandle};
use candlekeep::writer::modes::Modes;
use candlekeep::writer::recovery::{RecoveryError, recover};
use futures_util::stream::{FuturesOrdered, StreamExt};
use rusqlite::Connection;

use super::world::START;

/// Where the child is to write, from which message on, and where it dies.
const DATABASE: &str = "CANDLEKEEP_TEST_KILLED_DATABASE";
const FIRST: &str = "CANDLEKEEP_TEST_KILLED_FIRST";
const POINT: &str = "CANDLEKEEP_TEST_KILLED_POINT";

/// Rounds on one database, and messages in it, before another is begun.
const ROUNDS_PER_DATABASE: u32 = 20;
const MESSAGES_PER_DATABASE: i64 = 2_000;
/// Messages that a child sends at most, and how many wait for an answer.
const MESSAGES_PER_CHILD: i64 = 1_500;
const OUTSTANDING: usize = 8;
/// So many messages at once, then a pause: so that locks come and go meanwhile.
const MESSAGES_AT_ONCE: i64 = 3;
const PAUSE: Duration = Duration::from_millis(1);
/// How long the child waits for a lock, and for an answer to a flush.
const LOCK_PATIENCE: Duration = Duration::from_millis(4);
const FLUSH_PATIENCE: Duration = Duration::from_millis(10);
/// How long a place to die at may be waited for.
const POINT_PATIENCE: Duration = Duration::from_millis(700);
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
        volume: 50 + (number % 40) as u32 + u32::from(corrected),
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

/// Opens and recovers, again and again while another process has the lock.
fn start(path: &Path) -> (Store, journal::Journal) {
    let url = DatabaseUrl::sqlite(path);
    loop {
        let started = Store::open(&url).map_err(RecoveryError::from).and_then(|mut store| {
            store.wait_for_others(LOCK_PATIENCE)?;
            let lease = store.acquire_lease("run", NOW)?;
            let journal = recover(&mut store, &lease, &url, None, NOW)?.expect("a spool can be made");
            Ok((store, journal))
        });
        match started {
            Ok(started) => return started,
            Err(RecoveryError::Store(StoreError::Busy { .. })) => thread::sleep(Duration::from_millis(2)),
            Err(error) => panic!("the database does not open: {error}"),
        }
    }
}

/// Not a test: the process that the next one kills.
#[test]
#[ignore = "run as a child process by killed_anywhere_nothing_acknowledged_is_lost"]
fn child_that_writes_until_killed() {
    let Some(path) = std::env::var_os(DATABASE).map(PathBuf::from) else { return };
    let first: i64 = std::env::var(FIRST).unwrap().parse().unwrap();
    if let Ok(point) = std::env::var(POINT) {
        failpoint::arm(&point).unwrap();
    }
    actix::System::new().block_on(async move {
        let (store, journal) = start(&path);
        let (store, _) = StoreHandle::spawn("store", store).unwrap();
        let (journal, _) = JournalHandle::spawn("spool", journal).unwrap();
        let (alarm, _alerts) = Alarm::new();
        let modes = Modes::new(Batch::new(Duration::ZERO), true, FLUSH_PATIENCE);
        let stats = Arc::new(Stats::default());
        let writer = WriterActor::new(modes, store, Some(journal), Clock::system(), alarm, stats).start();
        let mut waiting = FuturesOrdered::new();
        for number in first..first + MESSAGES_PER_CHILD {
            let answer = writer.send(StoreFacts(message(number)));
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

/// Locks the database for a while, again and again, as long as it lives.
struct Locker {
    is_over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Locker {
    fn start(path: PathBuf, mut random: fastrand::Rng) -> Locker {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let thread = thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(random.u64(2..80)));
                let Ok(connection) = Connection::open(&path) else { continue };
                // The child may be at it, which is as good.
                if connection.execute_batch("BEGIN EXCLUSIVE").is_ok() {
                    thread::sleep(Duration::from_millis(random.u64(1..40)));
                    connection.execute_batch("ROLLBACK").unwrap();
                }
            }
        });
        Locker { is_over, thread: Some(thread) }
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is joined once");
        let outcome = thread.join();
        if !thread::panicking() {
            outcome.expect("the locker lives");
        }
    }
}

/// A database, and what was acknowledged of it.
struct House {
    folder: tempfile::TempDir,
    rounds: u32,
    acknowledged: i64,
    random: fastrand::Rng,
}

impl House {
    fn new(mut random: fastrand::Rng) -> House {
        let random = random.fork();
        House { folder: tempfile::tempdir().unwrap(), rounds: 0, acknowledged: -1, random }
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("candles.db")
    }

    fn spooled(&self) -> u64 {
        journal::facts_waiting(&self.folder.path().join("candles.db.spool")).unwrap_or(0)
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
            .env(DATABASE, self.database())
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
        let is_locked = self.database().exists() && (needs_lock || self.random.u8(..3) > 0);
        let locker = is_locked.then(|| Locker::start(self.database(), self.random.fork()));
        let mut child = self.child(point, first, count);
        let stdout = child.stdout.take().unwrap();
        let told = thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            lines.filter_map(|line| line.strip_prefix("stored ")?.parse::<i64>().ok()).last()
        });
        let patience = point.map_or(Duration::from_millis(self.random.u64(5..150)), |_| POINT_PATIENCE);
        let (clock, mut ended) = (Clock::system(), None);
        let until = clock.monotonic() + patience;
        while ended.is_none() && clock.monotonic() < until {
            thread::sleep(Duration::from_millis(1));
            ended = child.try_wait().unwrap();
        }
        let _ = child.kill();
        let status = child.wait().unwrap();
        drop(locker);
        self.acknowledged = self.acknowledged.max(told.join().unwrap().unwrap_or(-1));
        self.rounds += 1;
        if status.code().is_some_and(|code| code != 0) {
            let mut words = String::new();
            std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut words).unwrap();
            panic!("the child failed: {words}");
        }
        match (point, ended.is_some() && status.code().is_none()) {
            (Some(point), true) => point.to_owned(),
            (Some(_), false) => "not reached".to_owned(),
            (None, _) => "random instant".to_owned(),
        }
    }

    /// A fresh start on a copy, so that the next child has the same before it.
    fn verify(&self) -> i64 {
        let copy = tempfile::tempdir().unwrap();
        for file in fs::read_dir(self.folder.path()).unwrap().map(Result::unwrap) {
            fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
        let path = copy.path().join("candles.db");
        let (mut store, journal) = start(&path);
        assert!(journal.is_empty() && journal.aside().is_none(), "{:?}", journal.aside());
        assert_eq!(fs::metadata(journal.path()).unwrap().len(), journal::PREALLOCATED);
        verify(&mut store, self.acknowledged);
        let connection = Connection::open(&path).unwrap();
        let one = |query| connection.query_row(query, [], |row| row.get::<_, i64>(0)).unwrap();
        let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        assert_eq!(one("SELECT count(DISTINCT seq) FROM candles"), one("SELECT count(*) FROM candles"));
        i64::from(self.spooled() > 0)
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
    // More in `.ci/full`.
    let rounds = std::env::var("CANDLEKEEP_KILL_ROUNDS").map_or(20, |rounds| rounds.parse().unwrap());
    let seed = std::env::var("CANDLEKEEP_KILL_SEED")
        .map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut house = House::new(random.fork());
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
        if house.database().exists() {
            spooled += house.verify();
        }
        if house.rounds >= ROUNDS_PER_DATABASE || house.acknowledged >= MESSAGES_PER_DATABASE {
            messages += house.acknowledged + 1;
            house = House::new(random.fork());
        }
    }
    messages += house.acknowledged + 1;
    let took = Clock::system().monotonic() - began;
    println!(
        "{rounds} kills, {messages} messages acknowledged, {spooled} times with facts in the spool, {took:?}"
    );
    for (end, count) in &ends {
        println!("  {end:<18} {count:>4}");
    }
    assert!(messages > 0, "nothing was ever acknowledged");
}
