//! The database is away while the program runs: locked by another process, or on a full disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use candlekeep::simulator::{Options, Speed};
use candlekeep::writer::journal;
use rusqlite::Connection;

use super::postgres;
use super::world::{DEPTH, Holes, START, STEP, Service, World, market};

/// A market of six hours that flies by in 24 seconds: longer than a write waits for a lock.
pub(super) fn world() -> World {
    World::new(Options { speed: Speed::Times(900.0), rows_per_bar: Some(8), ..market(6) })
}

/// Another process that has the database to itself.
pub(super) struct Lock(Connection);

impl Lock {
    fn take(world: &World) -> Lock {
        let connection = Connection::open(world.database()).unwrap();
        connection.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
        connection.execute_batch("BEGIN EXCLUSIVE").unwrap();
        Lock(connection)
    }

    pub(super) fn give_back(self) {
        self.0.execute_batch("ROLLBACK").unwrap();
    }
}

fn spool(world: &World) -> PathBuf {
    world.folder().join("candlekeep.db.spool")
}

fn spooled(world: &World) -> u64 {
    journal::facts_waiting(&spool(world)).unwrap_or(0)
}

/// Has the program collect for half an hour, and then lock it out until bars of `buckets` buckets
/// are in the spool.
pub(super) fn lock_out(world: &World, service: &mut Service, buckets: i64) -> Lock {
    world.wait(service, "half an hour of bars", |world| {
        world.simulator().now() > START.plus(6 * STEP)
            && world.number("SELECT count(*) FROM candles WHERE source = 'websocket'") > 28
    });
    let lock = Lock::take(world);
    service.wait_said("the database is away, bars go to the spool", 1);
    let from = world.simulator().now();
    world.wait(service, "bars in the spool", |world| {
        world.simulator().now() > from.plus(buckets * STEP) && spooled(world) > 28
    });
    lock
}

fn said(log: &[String], what: &str) -> usize {
    log.iter().filter(|line| line.contains(what)).count()
}

/// Whatever was in the spool is in the database, and was not bought over REST.
fn expect_streamed(world: &World) {
    let summary = world.verify(Holes::None);
    let fetched = summary.bars("5", "ig_rest");
    // History before the start, and the bucket under way then.
    assert!(fetched <= 28 * (DEPTH as usize + 2), "{summary:?}");
    assert_eq!(journal::facts_waiting(&spool(world)), Some(0));
}

#[test]
fn a_long_lock_costs_no_bar() {
    let world = world();
    let mut service = world.run();
    let lock = lock_out(&world, &mut service, 12);
    let status = world.output("status --format json", &[]).stdout;
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    assert!(status["spool"]["facts"].as_u64() > Some(28), "{}", status["spool"]);
    assert_eq!(
        world.output("status", &[]).stdout.windows(10).filter(|text| text == b"\nspool    ").count(),
        1
    );
    lock.give_back();
    service.wait_said("the database is back, everything is stored", 1);
    world.wait_complete(&mut service);
    let log = service.stop();
    expect_streamed(&world);
    // A line when it goes and one when it is back, none for each attempt.
    assert_eq!(said(&log, "the database is away"), 1, "{log:#?}");
    assert_eq!(said(&log, "the database is back"), 1, "{log:#?}");
    assert_eq!(world.simulator().stats().sessions, 1);
    let spent = world.output("status --format json", &[]).stdout;
    let spent: serde_json::Value = serde_json::from_slice(&spent).unwrap();
    assert_eq!(spent["spool"]["facts"], 0);
}

#[test]
fn killed_while_the_database_is_away_it_stores_what_was_spooled() {
    let world = world();
    let mut service = world.run();
    let lock = lock_out(&world, &mut service, 6);
    let (stored, facts) = (world.stored(), spooled(&world));
    assert_eq!(service.kill().code, None, "a signal ended it");
    // A start beside the lock waits for it, and is in nobody's way: who is dead has no lease.
    let mut service = world.run();
    service.wait_said("the database is away, waiting for it", 2);
    lock.give_back();
    service.wait_said("stored what was in the spool", 1);
    assert!(world.stored() >= stored + facts as i64 / 2, "{facts} facts, {stored} bars before");
    world.finish(service);
}

#[test]
fn killed_between_a_commit_and_the_note_of_it_it_stores_nothing_twice() {
    let world = world();
    let mut service = world.start("run --failpoint drain.committed", &[]);
    lock_out(&world, &mut service, 3).give_back();
    assert_eq!(service.ended().code, None, "it killed itself");
    assert!(spooled(&world) > 0);
    let mut service = world.run();
    service.wait_said("stored what was in the spool", 1);
    // Neither superseded nor refused, which this looks at too.
    world.finish(service);
}

#[test]
fn a_writer_that_dies_while_the_database_is_away_goes_on_with_the_spool() {
    let world = world();
    let mut service = world.start("run --failpoint writer.appended:3=panic", &[]);
    let lock = lock_out(&world, &mut service, 3);
    service.wait_said("a room stands again room=writer", 1);
    let (from, facts) = (world.simulator().now(), spooled(&world));
    world.wait(&mut service, "more bars in the spool", |world| {
        world.simulator().now() > from.plus(6 * STEP) && spooled(world) > facts
    });
    lock.give_back();
    service.wait_said("the database is back, everything is stored", 1);
    world.wait_complete(&mut service);
    service.stop();
    expect_streamed(&world);
    assert_eq!(world.simulator().stats().sessions, 1);
}

#[test]
fn an_aggregator_that_dies_while_the_database_is_away_goes_on_where_it_was() {
    let world = world();
    let mut service = world.start("run --failpoint aggregator.told:100=panic", &[]);
    let lock = lock_out(&world, &mut service, 3);
    // Its account of what has come is ahead of the ledger, which it cannot read.
    service.wait_said("a room stands again room=aggregator", 1);
    service.wait_said("streaming session begun", 2);
    let from = world.simulator().now();
    world.wait(&mut service, "bars of the new one", |world| world.simulator().now() > from.plus(6 * STEP));
    lock.give_back();
    service.wait_said("the database is back, everything is stored", 1);
    world.finish(service);
}

#[test]
fn stopped_while_the_database_is_away_it_ends_in_time_and_loses_nothing() {
    let world = world();
    let mut service = world.run();
    let lock = lock_out(&world, &mut service, 3);
    let log = service.stop();
    assert_eq!(said(&log, "what is in the spool is stored by the next start"), 1, "{log:#?}");
    assert!(spooled(&world) > 0);
    lock.give_back();
    world.finish(world.run());
}

#[test]
fn stopped_within_the_first_moments_of_a_lock_it_ends_in_time() {
    // Before any write has failed: what is held goes to the spool all the same.
    let world = world();
    let mut service = world.run();
    world.wait(&mut service, "an hour of bars", |world| world.simulator().now() > START.plus(12 * STEP));
    let lock = Lock::take(&world);
    let from = world.simulator().now();
    world.wait(&mut service, "a bucket's end", |world| world.simulator().now() > from.plus(STEP));
    service.stop();
    assert!(spooled(&world) > 0);
    lock.give_back();
    world.finish(world.run());
}

/// A file system of its own, of so many bytes, if that is allowed here.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one on a folder that is not there yet.
    pub fn mount(path: &Path, bytes: u64) -> Option<SmallDisk> {
        fs::create_dir(path).unwrap();
        let size = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).output();
        mounted.is_ok_and(|mounted| mounted.status.success()).then(|| SmallDisk(path.to_owned()))
    }

    /// Takes all the room that is left; what is answered gives it back.
    pub fn fill(&self) -> PathBuf {
        let filler = self.0.join("filler");
        let to = format!("of={}", filler.display());
        let full = Command::new("dd").args(["if=/dev/zero", "bs=4k", &to]).output().unwrap();
        assert!(!full.status.success(), "the disk was to be full");
        filler
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_costs_no_bar() {
    let world = world();
    // Room for the spool, and for a database of this market.
    let disk = world.folder().join("disk");
    let Some(disk) = SmallDisk::mount(&disk, journal::PREALLOCATED + (24 << 20)) else {
        return postgres::say_skipped("NOT RUN: no file system can be mounted here");
    };
    let database = disk.0.join("candlekeep.db");
    let url = format!("sqlite:///{}", database.display());
    let mut service = world.start("run", &[("DATABASE_URL", &url)]);
    let number = |query: &str| {
        let connection = Connection::open(&database).ok()?;
        connection.query_row(query, [], |row| row.get::<_, i64>(0)).ok()
    };
    service.wait("bars", || number("SELECT count(*) FROM candles WHERE source = 'websocket'") > Some(28));
    let filler = disk.fill();
    service.wait_said("the database is away, bars go to the spool", 1);
    let from = world.simulator().now();
    let facts = || journal::facts_waiting(&disk.0.join("candlekeep.db.spool")).unwrap_or(0);
    service.wait("bars in the spool", || world.simulator().now() > from.plus(6 * STEP) && facts() > 28);
    fs::remove_file(filler).unwrap();
    service.wait_said("the database is back, everything is stored", 1);
    // The world looks where it expects its database.
    std::os::unix::fs::symlink(&database, world.database()).unwrap();
    world.wait_complete(&mut service);
    let log = service.stop();
    assert!(log.iter().any(|line| line.contains("disk is full")), "{log:#?}");
    world.verify(Holes::None);
    drop(world);
    drop(disk);
}

/// What lies in a folder, by name.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn what_is_written_beside_the_database_leaves_nothing_half_on_a_full_disk() {
    let world = World::new(Options { speed: Speed::Times(900.0), ..market(3) });
    let disk = world.folder().join("disk");
    let Some(disk) = SmallDisk::mount(&disk, 64 << 10) else {
        return postgres::say_skipped("NOT RUN: no file system can be mounted here");
    };
    let place = |name: &str| disk.0.join(name).display().to_string();
    let mut service = world.start(&format!("run --record {}", place("recording")), &[]);
    service.wait_said("the recording cannot be written and ends here", 1);
    fs::remove_file(place("recording")).unwrap();
    world.wait(&mut service, "bars without a recording", |world| world.stored() > 28 * 16);
    for line in [format!("backup {}", place("copy.db")), format!("export --output {}", place("bars.csv"))] {
        let done = world.output(&line, &[]);
        let told = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{line}: {told}");
        assert!(told.contains("full") || told.contains("No space"), "{line}: {told}");
        assert_eq!(names_in(&disk.0), [""; 0], "{line}");
    }
    world.wait_complete(&mut service);
    let log = service.stop();
    assert_eq!(said(&log, "<3>"), 1, "{log:#?}");
    world.verify(Holes::None);
    drop(world);
    drop(disk);
}

#[test]
fn without_a_spool_a_lock_slows_the_stream_and_costs_no_bar() {
    // As fast as the client takes it: the market outruns what may wait, so reading slows down.
    let world = World::new(Options { rows_per_bar: Some(2), ..market(650) });
    let mut service = world.start(
        "run",
        &[
            ("CANDLEKEEP_STORE_SPOOL_DIR", "/nowhere/at/all"),
            // Who is not read for long is taken for dead, and so is who says nothing.
            ("CANDLEKEEP_STREAM_KEEPALIVE_MS", "3000"),
            ("CANDLEKEEP_STREAM_STALLED_MS", "2000"),
            ("CANDLEKEEP_STREAM_RECONNECT_MS", "1000"),
            ("CANDLEKEEP_STREAM_INACTIVITY_MS", "3000"),
        ],
    );
    // Until the database is locked, so that enough of it is left then.
    world.simulator().control().hold_at(Some(START.plus(100 * STEP)));
    service.wait_said("no spool can be made", 1);
    world.wait(&mut service, "bars", |world| world.stored() > 28 * 40);
    let lock = Lock::take(&world);
    world.simulator().control().hold_at(None);
    service.wait_said("writer::actor: the database is away, bars wait", 1);
    // Market time stands still once as many findings wait as may.
    let mut last = world.simulator().now();
    let mut since = candlekeep::clock::Clock::system().monotonic();
    service.wait("the reading to stop", || {
        let now = candlekeep::clock::Clock::system().monotonic();
        if world.simulator().now() != last {
            (last, since) = (world.simulator().now(), now);
        }
        now - since > std::time::Duration::from_secs(15)
    });
    assert!(!world.simulator().has_ended(), "it took everything in");
    lock.give_back();
    world.wait_complete(&mut service);
    let log = service.stop();
    assert_eq!(said(&log, "stream interrupted"), 0, "{log:#?}");
    assert_eq!(world.simulator().stats().sessions, 1);
    world.verify(Holes::None);
}
