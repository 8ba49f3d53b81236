//! Readers never block the writer, nor it them; and another user of the group may read at any time.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use candlekeep::clock::Clock;
use candlekeep::domain::pair::MAJOR_PAIRS;
use candlekeep::domain::{Bar, BarKey, Fact, FactBatch, Ohlc, Pair, Price, Source, Timeframe, Timestamp};
use candlekeep::simulator::Options;
use candlekeep::store::{DatabaseUrl, Store};
use rusqlite::{Connection, OpenFlags};

use super::front::Front;
use super::postgres;
use super::world::{World, market};

const DAY_S: i64 = 86_400;
const NOON: Timestamp = Timestamp(1_583_755_200);
const NOW: Timestamp = Timestamp(1_600_000_000);
/// What the log is cut back to.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// What a few transactions may add before it is.
const SLACK: u64 = 4 * 1024 * 1024;

/// A thousand bars a transaction, as of a long replay.
fn bars(round: i64) -> Arc<FactBatch> {
    let price = Price::parse("1.10123", 0).unwrap();
    let side = Ohlc { open: price, high: price, low: price, close: price };
    let bar = |slot: i64, pair: Pair| {
        let key = BarKey { pair, timeframe: Timeframe::M5, start: NOON.plus(slot * 300) };
        Fact::Settled(Bar { key, bid: side, ask: side, volume: 7, source: Source::Stream })
    };
    let slots = (round * 36..(round + 1) * 36).flat_map(|slot| MAJOR_PAIRS.map(|pair| bar(slot, pair)));
    Arc::new(FactBatch { evidence: "test".into(), facts: slots.collect() })
}

/// A bot's connection.
fn reader(path: &Path) -> Connection {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags).unwrap()
}

fn log_length(path: &Path) -> u64 {
    fs::metadata(path.with_extension("db-wal")).map_or(0, |file| file.len())
}

fn count(reader: &Connection) -> i64 {
    reader.query_row("SELECT count(*) FROM candles WHERE timeframe = '5'", [], |row| row.get(0)).unwrap()
}

#[test]
fn a_transaction_kept_open_holds_up_no_commit_and_the_log_shrinks_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("candles.db");
    let mut store = Store::open(&DatabaseUrl::sqlite(&path)).unwrap();
    store.commit(&[bars(0)], NOW).unwrap();
    let bot = reader(&path);
    bot.execute_batch("BEGIN").unwrap();
    let seen = count(&bot);
    let mut round = 1;
    // As much as months of bars.
    while log_length(&path) < 2 * LOG_BYTES_MAX {
        store.commit(&[bars(round)], NOW).unwrap();
        round += 1;
    }
    assert_eq!(count(&bot), seen, "what it reads does not change under it");
    bot.execute_batch("COMMIT").unwrap();
    // The log is looked at when it has grown by some more.
    let until = round + 40;
    while round < until {
        store.commit(&[bars(round)], NOW).unwrap();
        round += 1;
    }
    assert!(log_length(&path) <= LOG_BYTES_MAX + SLACK, "{}", log_length(&path));
    assert_eq!(count(&bot), round * 36 * 28);
}

#[test]
fn bots_that_read_without_a_pause_neither_stop_the_writer_nor_let_the_log_grow() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("candles.db");
    let mut store = Store::open(&DatabaseUrl::sqlite(&path)).unwrap();
    store.commit(&[bars(0)], NOW).unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let bot = reader(&path);
                let mut seen = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let now = count(&bot);
                    assert!(now >= seen && now % (36 * 28) == 0, "{seen}, {now}");
                    seen = now;
                }
            });
        }
        let mut longest = 0;
        for round in 1..150 {
            store.commit(&[bars(round)], NOW).unwrap();
            longest = longest.max(log_length(&path));
        }
        is_over.store(true, Ordering::Relaxed);
        // Where nothing folds it in it has ten times as much; a machine that is busy with other things folds late.
        assert!(longest <= 3 * LOG_BYTES_MAX, "{longest}");
    });
    assert_eq!(count(&reader(&path)), 150 * 36 * 28);
}

/// What another user, of the group that the files belong to, reads: bars, or why not.
fn read_as_another_user(path: &Path, group: u32) -> Result<i64, String> {
    let script = "import sqlite3, sys\n\
                  db = sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True)\n\
                  print(db.execute('SELECT count(*) FROM candles').fetchone()[0])";
    let output = Command::new("python3")
        .args(["-c", script])
        .arg(path)
        .uid(65_534)
        .gid(group)
        .current_dir("/")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    match output.status.success() {
        true => Ok(text(output.stdout).trim().parse().unwrap()),
        false => Err(text(output.stderr)),
    }
}

#[test]
fn another_user_of_the_group_reads_at_any_time() {
    const GROUP: u32 = 54_321;
    if !rustix::process::geteuid().is_root() {
        return postgres::say_skipped(
            "the test of another user's reading DID NOT RUN: it takes root to be two users",
        );
    }
    // Killed where the disk is a day behind the stream, it has all of that to fetch.
    let world = World::new(Options { allowance: 100_000, ..market(48) });
    // As systemd's StateDirectory: members of the group may enter and read, and make nothing.
    std::os::unix::fs::chown(world.folder(), None, Some(GROUP)).unwrap();
    fs::set_permissions(world.folder(), fs::Permissions::from_mode(0o2750)).unwrap();
    let path = world.database();
    let check = |when: &str| {
        // First, since looking oneself may make the files beside it anew.
        let read = read_as_another_user(&path, GROUP);
        let stored = world.stored();
        assert!(read.as_ref().is_ok_and(|read| (1..=stored).contains(read)), "{when}: {read:?} of {stored}");
    };
    let mut service = world.run();
    world.wait(&mut service, "bars", |world| world.stored() > 100);
    check("while it runs");
    service.kill();
    check("after kill -9");
    let mut service = world.run();
    world.wait_complete(&mut service);
    service.stop();
    assert_eq!(log_length(&path), 0, "folded in at the end");
    check("after an orderly stop");
    // Who has nothing to do with it reads nothing.
    assert!(read_as_another_user(&path, 65_534).is_err());
    // Commands that may write leave it readable too.
    let output = world.output("backfill --plan", &[]);
    assert!(output.status.success(), "{output:?}");
    drop(Store::open(&DatabaseUrl::sqlite(&path)).unwrap());
    check("after another process had it open");
}

#[test]
fn of_bars_of_another_clock_it_is_said_that_this_machines_is_not_the_markets() {
    let world = World::new(market(1));
    let url = DatabaseUrl::sqlite(world.database());
    let mut store = Store::open(&url).unwrap();
    let (pair, timeframe) = ("EUR_USD".parse().unwrap(), Timeframe::M5);
    let side = Ohlc::from_prices([Price::parse("1.1", 0).unwrap(); 4]);
    let now = Clock::system().wall();
    // Which of the two is told of a bar that starts so much later than now, by each command; the same by all.
    let mut told_of = |later_s: i64, source: Source, stored_at: Timestamp, clock: &str| {
        let start = timeframe.bucket(now.plus(later_s));
        let key = BarKey { pair, timeframe, start };
        let fact = Fact::Settled(Bar { key, bid: side, ask: side, volume: 1, source });
        let batch = Arc::new(FactBatch { evidence: "test".into(), facts: vec![fact] });
        store.commit(&[batch], stored_at).unwrap();
        let explain = format!("explain EUR_USD {}", start.0);
        let lines = ["status", "candles EUR_USD 5", "gaps", &explain, "status --format json"];
        let told = lines.map(|line| {
            let output = world.output(line, &[("CANDLEKEEP_CLOCK", clock)]);
            assert!(output.status.success(), "{line}: {output:?}");
            let told = [output.stdout, output.stderr].concat();
            let told = String::from_utf8(told).unwrap();
            let says = |words: &str, field: &str| {
                told.contains(words) && told.contains("CANDLEKEEP_CLOCK=stream")
                    || told.contains(&format!("\"{field}\":2"))
            };
            match (says("after this machine's clock", "ahead_s"), says("after its end", "stored_late_s")) {
                (false, false) => "nothing",
                (true, false) => "ahead",
                (false, true) => "late",
                (true, true) => "both",
            }
        });
        assert!(told.iter().all(|word| *word == told[0]), "{told:?}");
        told[0]
    };
    let (stream, rest) = (Source::Stream, Source::Rest);
    let in_time = now.plus(-24 * DAY_S);
    assert_eq!(told_of(-32 * DAY_S, stream, now, "system"), "nothing", "of whom it is, is not known");
    Store::open(&url).unwrap().bind_environment("custom", false).unwrap();
    assert_eq!(told_of(-30 * DAY_S, stream, in_time, "system"), "nothing", "a spool may keep it so long");
    assert_eq!(told_of(-29 * DAY_S, rest, now, "system"), "nothing", "it was fetched");
    assert_eq!(told_of(-28 * DAY_S, stream, now, "system"), "late");
    assert_eq!(
        told_of(-27 * DAY_S, rest, now, "system"),
        "nothing",
        "the stream's of this pair is not its last"
    );
    assert_eq!(told_of(-26 * DAY_S, stream, now, "stream"), "nothing");
    assert_eq!(told_of(1_800, stream, now, "system"), "nothing", "within what a clock may be wrong by");
    assert_eq!(told_of(3 * DAY_S, stream, now, "system"), "ahead");
    assert_eq!(told_of(3 * DAY_S, stream, now, "stream"), "nothing");
}

#[test]
fn nothing_is_written_after_the_log_is_folded_in_however_long_the_logout_takes() {
    let world = World::new(market(48));
    let front = Front::start(world.simulator().address(), None);
    let url = front.api_url();
    let mut service = world.start("run", &[("IG_API_URL", &url)]);
    world.wait_complete(&mut service);
    front.swallow("DELETE");
    service.stop();
    assert_eq!(front.asked("DELETE /gateway/deal/session"), 1);
    assert_eq!(log_length(&world.database()), 0);
}
