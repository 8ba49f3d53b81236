//! The database is a PostgreSQL server, and is away while the program runs: stopped, hanging, or cut off.
//! Bars go to the spool, and back from there.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use candlekeep::simulator::{Options, Speed};
use candlekeep::writer::journal;
use rustix::process::{Pid, Signal, kill_process};

use super::api::{ask, serving};
use super::away::SmallDisk;
use super::postgres::{self, Server};
use super::proxy::{Passing, Proxy};
use super::world::{DEPTH, Holes, START, STEP, STOP_WITHIN, Service, World, market};

/// A flush without an answer is given up after so long (`writer/modes.rs`), and the connection after so long
/// (`store/postgres`).
const PATIENCE: Duration = Duration::from_secs(15);
const CONNECTION_PATIENCE: Duration = Duration::from_secs(30);
/// A lease lasts so long.
const LEASE: Duration = Duration::from_secs(10);

/// A market that flies by, and the place of its bars on a server.
struct Scene {
    world: World,
    /// By which the program knows the place.
    address: String,
}

impl Scene {
    /// Starts a service whose spool lies in a folder of its own, as on another machine.
    fn run_in(&self, folder: &str) -> Service {
        let folder = self.world.folder().join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        self.world.start("run", &[("CANDLEKEEP_STORE_SPOOL_DIR", &folder.display().to_string())])
    }

    fn new(hours: i64, times: f64, address: String) -> Scene {
        let options = Options { speed: Speed::Times(times), rows_per_bar: Some(8), ..market(hours) };
        Scene { world: World::new(options).on_server(address.clone()), address }
    }

    /// The same for a program that goes through a network.
    fn through(self, proxy: &Proxy) -> Scene {
        Scene { address: proxy.lead(&self.address), ..self }
    }

    fn run(&self) -> Service {
        self.world.start("run", &[("DATABASE_URL", &self.address)])
    }

    fn spool_in(&self, folder: &str) -> PathBuf {
        let folder = self.world.folder().join(folder);
        journal::paths(&self.address.parse().unwrap(), Some(&folder)).remove(0)
    }

    fn spooled_in(&self, folder: &str) -> u64 {
        journal::facts_waiting(&self.spool_in(folder)).unwrap_or(0)
    }

    fn spooled(&self) -> u64 {
        self.spooled_in("")
    }

    /// Waits until bars are streamed and stored.
    fn collects(&self, service: &mut Service) {
        self.world.wait(service, "bars", |world| {
            world.number("SELECT count(*) FROM candles WHERE source = 'websocket'") > 28
        });
    }

    /// Waits until the bars of so many buckets are in the spool. Asks the server nothing.
    fn spools(&self, service: &mut Service, folder: &str, buckets: i64) {
        let from = self.world.simulator().now();
        self.world.wait(service, "bars in the spool", |world| {
            world.simulator().now() > from.plus(buckets * STEP) && self.spooled_in(folder) > 28
        });
    }

    /// Compares all with what happened, from when the first history was asked for while the market flew by.
    /// Bars that were lost and fetched again would be too many of REST's.
    fn expect_streamed(&self, started_in: usize) {
        let summary = self.world.verify_from(START.plus(3_600), Holes::None);
        let fetched = summary.bars("5", "ig_rest");
        assert!(fetched <= 28 * (DEPTH as usize + 2 + started_in), "{summary:?}");
        assert_eq!(self.spooled(), 0);
        let verified = self.world.output("gaps --verify", &[]);
        assert!(verified.status.success(), "{verified:?}");
    }
}

fn said(log: &[String], what: &str) -> usize {
    log.iter().filter(|line| line.contains(what)).count()
}

const AWAY: &str = "the database is away, bars go to the spool";
const BACK: &str = "the database is back, everything is stored";

#[expect(clippy::disallowed_methods, reason = "leases and patience go by real time")]
fn now() -> Instant {
    Instant::now()
}

fn pass_time(service: &mut Service, time: Duration) {
    let begun = now();
    service.wait("time to pass", || begun.elapsed() >= time);
}

fn signal(service: &Service, signal: Signal) {
    kill_process(Pid::from_raw(service.pid().cast_signed()).unwrap(), signal).unwrap();
}

#[test]
fn a_server_that_is_stopped_for_long_costs_no_bar() {
    let Some(mut server) = Server::start(&[]) else { return };
    let scene = Scene::new(4, 400.0, server.place());
    let mut service = scene.run();
    for (round, signal) in ["INT", "KILL"].into_iter().enumerate() {
        scene.collects(&mut service);
        server.stop(signal);
        service.wait_said(AWAY, round + 1);
        scene.spools(&mut service, "", 8);
        server.resume();
        service.wait_said(BACK, round + 1);
    }
    scene.world.wait_complete(&mut service);
    let log = service.stop();
    scene.expect_streamed(6);
    assert_eq!(said(&log, AWAY), 2, "{log:#?}");
    assert_eq!(scene.world.simulator().stats().sessions, 1);
}

#[test]
fn a_server_that_hangs_costs_no_bar() {
    let Some(server) = Server::start(&[]) else { return };
    let scene = Scene::new(2, 110.0, server.place());
    let mut service = scene.run();
    scene.collects(&mut service);
    server.signal(Signal::STOP);
    service.wait_said(AWAY, 1);
    service.wait_said("no answer from the database, the connection is given up", 1);
    scene.spools(&mut service, "", 2);
    server.signal(Signal::CONT);
    service.wait_said(BACK, 1);
    scene.world.wait_complete(&mut service);
    service.stop();
    scene.expect_streamed(3);
    assert_eq!(scene.world.simulator().stats().sessions, 1);
}

/// Prometheus gives up a scrape after ten seconds where nothing else is configured.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long HTTP waits for an answer of the database's (`api/cached.rs`).
const HTTP_PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn while_the_server_hangs_metrics_come_in_time_and_say_what_the_process_knows() {
    let Some(server) = Server::start(&[]) else { return };
    let scene = Scene::new(2, 110.0, server.place());
    let (mut service, address) = serving(&scene.world, &[("DATABASE_URL", &scene.address)]);
    scene.collects(&mut service);
    server.signal(Signal::STOP);
    for round in 1..=2 {
        let begun = now();
        let told = ask(address, "GET /metrics", "");
        let took = begun.elapsed();
        assert_eq!(told.status, 200, "{}", told.body);
        assert!(took >= HTTP_PATIENCE, "round {round}: it did not wait for the database: {took:?}");
        assert!(took < SCRAPE_TIMEOUT - Duration::from_secs(2), "round {round}: {took:?}");
        assert!(told.body.contains("\ncandlekeep_ready 0\n"), "{}", told.body);
        assert!(told.body.contains("\ncandlekeep_facts_spooled "), "{}", told.body);
        assert!(!told.body.contains("\ncandlekeep_coverage_buckets"), "{}", told.body);
    }
    server.signal(Signal::CONT);
    scene.world.wait_complete(&mut service);
    service.stop();
}

#[test]
fn what_a_network_holds_back_and_delivers_late_is_stored_once() {
    let Some(server) = Server::start(&[]) else { return };
    let proxy = Proxy::start(server.port());
    let scene = Scene::new(3, 160.0, server.place()).through(&proxy);
    let mut service = scene.run();
    scene.collects(&mut service);
    // Shorter than anybody's patience: nobody notices.
    proxy.pass(Passing::Later);
    pass_time(&mut service, Duration::from_secs(4));
    proxy.pass(Passing::All);
    assert_eq!(said(&service.log(), AWAY), 0, "{:#?}", service.log());
    // Longer than the patience of a flush, shorter than that of the connection.
    proxy.pass(Passing::Later);
    service.wait_said(AWAY, 1);
    pass_time(&mut service, Duration::from_secs(3));
    proxy.pass(Passing::All);
    service.wait_said(BACK, 1);
    scene.world.wait_complete(&mut service);
    let log = service.stop();
    scene.expect_streamed(4);
    assert_eq!(said(&log, "is given up"), 0, "{log:#?}");
}

#[test]
fn a_network_that_swallows_everything_costs_no_bar() {
    let Some(server) = Server::start(&[]) else { return };
    let proxy = Proxy::start(server.port());
    let scene = Scene::new(3, 150.0, server.place()).through(&proxy);
    let mut service = scene.run();
    scene.collects(&mut service);
    proxy.pass(Passing::Nothing);
    let begun = now();
    service.wait_said(AWAY, 1);
    assert!(begun.elapsed() >= PATIENCE - Duration::from_secs(1), "{:?}", begun.elapsed());
    // Neither end is told anything, not even when the network is there again.
    proxy.pass(Passing::All);
    service.wait_said(BACK, 1);
    let took = begun.elapsed();
    assert!(took < CONNECTION_PATIENCE + Duration::from_secs(15), "{took:?}");
    // And one that is broken at once is noticed at once.
    scene.world.wait(&mut service, "bars", |_| scene.spooled() == 0);
    proxy.pass(Passing::Nothing);
    pass_time(&mut service, Duration::from_secs(2));
    proxy.close();
    service.wait_said(AWAY, 2);
    proxy.pass(Passing::All);
    proxy.close();
    service.wait_said(BACK, 2);
    scene.world.wait_complete(&mut service);
    service.stop();
    scene.expect_streamed(3);
}

#[test]
fn a_commit_whose_answer_is_lost_is_stored_once() {
    let Some(server) = Server::start(&[]) else { return };
    let proxy = Proxy::start(server.port());
    let scene = Scene::new(4, 400.0, server.place()).through(&proxy);
    let mut service = scene.run();
    scene.collects(&mut service);
    proxy.cut_commits(20);
    service.wait("commits to be cut", || proxy.commits_to_cut() == 0);
    scene.world.wait_complete(&mut service);
    let log = service.stop();
    assert!(said(&log, AWAY) > 0, "{log:#?}");
    scene.expect_streamed(6);
    let doubles =
        "SELECT count(*) FROM (SELECT seq FROM candles GROUP BY seq HAVING count(*) > 1) AS doubles";
    assert_eq!(scene.world.number(doubles), 0);
    assert_eq!(scene.world.number("SELECT count(*) FROM candle_revisions"), 0);
}

#[test]
fn a_full_disk_of_the_server_s_costs_no_bar() {
    let Some(server) = Server::start(&[]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&folder.path().join("disk"), 48 << 20) else {
        return postgres::say_skipped("NOT RUN: no file system can be mounted here");
    };
    let space = folder.path().join("disk/space");
    std::fs::create_dir(&space).unwrap();
    postgres::own(&space);
    postgres::own(folder.path());
    server.run(&format!("CREATE TABLESPACE small LOCATION '{}'", space.display()));
    server.run("CREATE DATABASE small TABLESPACE small");
    let scene = Scene::new(4, 400.0, server.address("small"));
    let mut service = scene.run();
    scene.collects(&mut service);
    let filler = disk.fill();
    service.wait_said(AWAY, 1);
    scene.spools(&mut service, "", 4);
    std::fs::remove_file(filler).unwrap();
    service.wait_said(BACK, 1);
    scene.world.wait_complete(&mut service);
    let log = service.stop();
    assert!(log.iter().any(|line| line.contains("No space left on device")), "{log:#?}");
    scene.expect_streamed(6);
    drop(server);
    drop(disk);
}

#[test]
fn stopped_while_the_server_is_away_it_ends_in_time_and_the_next_start_stores_the_spool() {
    let Some(mut server) = Server::start(&[]) else { return };
    let scene = Scene::new(5, 300.0, server.place());
    let mut service = scene.run();
    scene.collects(&mut service);
    server.stop("INT");
    scene.spools(&mut service, "", 3);
    let log = service.stop();
    assert_eq!(said(&log, "what is in the spool is stored by the next start"), 1, "{log:#?}");
    let spooled = scene.spooled();
    assert!(spooled > 0);
    // The next one waits for the server, and for the lease of the first, which could not be given back.
    let mut service = scene.run();
    service.wait_said("the database is away, waiting for it", 1);
    server.resume();
    service.wait_said("stored what was in the spool", 1);
    service.wait_said("collecting", 1);
    pass_time(&mut service, Duration::from_secs(2));
    // One that hangs has told nobody yet that it is away.
    server.signal(Signal::STOP);
    pass_time(&mut service, Duration::from_secs(2));
    service.stop();
    assert!(scene.spooled() > 0);
    server.signal(Signal::CONT);
    let mut service = scene.run();
    service.wait_said("stored what was in the spool", 1);
    // And in the middle of a start.
    server.signal(Signal::STOP);
    pass_time(&mut service, Duration::from_secs(1));
    service.stop();
    server.signal(Signal::CONT);
    let mut service = scene.run();
    scene.world.wait_complete(&mut service);
    service.stop();
    scene.world.verify_from(START.plus(3_600), Holes::None);
    assert_eq!(scene.spooled(), 0);
}

#[test]
fn a_start_that_waits_for_a_server_that_hangs_stops_when_told_to() {
    let Some(server) = Server::start(&[]) else { return };
    let scene = Scene::new(1, 80.0, server.place());
    server.signal(Signal::STOP);
    let mut service = scene.run();
    pass_time(&mut service, Duration::from_secs(1));
    let begun = now();
    service.stop();
    assert!(begun.elapsed() < STOP_WITHIN / 2, "{:?}", begun.elapsed());
    server.signal(Signal::CONT);
}

#[test]
fn killed_while_the_server_is_away_it_stores_what_was_spooled() {
    let Some(mut server) = Server::start(&[]) else { return };
    let scene = Scene::new(4, 300.0, server.place());
    let mut service = scene.run();
    scene.collects(&mut service);
    server.stop("QUIT");
    scene.spools(&mut service, "", 4);
    service.kill();
    let facts = scene.spooled();
    server.resume();
    let stored = scene.world.stored();
    let mut service = scene.run();
    service.wait_said("stored what was in the spool", 1);
    assert!(scene.world.stored() >= stored + facts as i64 / 2, "{facts} facts, {stored} bars before");
    scene.world.wait_complete(&mut service);
    service.stop();
    scene.world.verify_from(START.plus(3_600), Holes::None);
    assert_eq!(scene.spooled(), 0);
}

#[test]
fn a_spool_that_others_have_overtaken_is_stored_without_harm() {
    let Some(mut server) = Server::start(&[]) else { return };
    let scene = Scene::new(3, 150.0, server.place());
    let start = |folder: &str| scene.run_in(folder);
    let mut first = start("a");
    scene.collects(&mut first);
    let mut second = start("b");
    second.wait_said("standing by", 1);
    server.stop("QUIT");
    scene.spools(&mut first, "a", 3);
    first.kill();
    let spooled = scene.spooled_in("a");
    server.resume();
    // What the first has kept is missing, and fetched.
    second.wait_said("it is this one's turn to collect", 1);
    let fetched = "SELECT count(*) FROM candles WHERE source = 'ig_rest' AND timeframe = '5'";
    let before = scene.world.number(fetched);
    scene.world.wait(&mut second, "what the first has kept", |world| {
        world.number(fetched) > before
            && world.number("SELECT count(*) FROM coverage WHERE state = 'missing'") == 0
    });
    let mut first = start("a");
    first.wait_said("standing by", 1);
    assert_eq!(scene.spooled_in("a"), spooled, "who waits leaves it alone");
    second.stop();
    first.wait_said("stored what was in the spool", 1);
    scene.world.wait_complete(&mut first);
    first.stop();
    scene.world.verify_from(START.plus(3_600), Holes::None);
    assert_eq!(scene.spooled_in("a"), 0);
    let verified = scene.world.output("gaps --verify", &[]);
    assert!(verified.status.success(), "{verified:?}");
}

#[test]
fn a_leader_that_spools_while_the_server_is_away_is_the_leader_afterwards() {
    let Some(mut server) = Server::start(&[]) else { return };
    let scene = Scene::new(3, 130.0, server.place());
    let start = |folder: &str| scene.run_in(folder);
    let mut first = start("a");
    scene.collects(&mut first);
    let mut second = start("b");
    second.wait_said("standing by", 1);
    // Its lease has long expired when the server answers again, once stopped, once hanging.
    server.stop("INT");
    let begun = now();
    let mut third = start("c");
    scene.spools(&mut first, "a", 3);
    third.wait_said("the database is away, waiting for it", 1);
    pass_time(&mut first, (LEASE + Duration::from_secs(1)).saturating_sub(begun.elapsed()));
    server.resume();
    first.wait_said(BACK, 1);
    third.wait_said("standing by", 1);
    pass_time(&mut first, LEASE + Duration::from_secs(2));
    server.signal(Signal::STOP);
    pass_time(&mut first, LEASE + Duration::from_secs(2));
    server.signal(Signal::CONT);
    pass_time(&mut first, LEASE + Duration::from_secs(2));
    // Nor does one take it that slept while the leader was awake.
    signal(&second, Signal::STOP);
    pass_time(&mut first, LEASE + Duration::from_secs(2));
    signal(&second, Signal::CONT);
    pass_time(&mut first, Duration::from_secs(3));
    scene.world.wait_complete(&mut first);
    assert_eq!(scene.world.number("SELECT epoch FROM lease WHERE name = 'collector'"), 1);
    third.stop();
    first.stop();
    second.wait_said("it is this one's turn to collect", 1);
    second.stop();
    scene.world.verify_from(START.plus(3_600), Holes::None);
}

/// Whoever only reads gives up a connection without an answer after so long (`store/postgres`).
const READER_PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn who_reads_behind_a_lock_gives_up_and_says_so() {
    let Some(server) = Server::start(&[]) else { return };
    let scene = Scene::new(1, 80.0, server.place());
    let mut service = scene.run();
    scene.collects(&mut service);
    service.stop();
    let lock = postgres::Session::begin(&scene.address);
    lock.run("BEGIN; LOCK TABLE candles IN ACCESS EXCLUSIVE MODE");
    let begun = now();
    let readers =
        ["status", "candles EUR_USD 5", "gaps --verify", "explain EUR_USD 2024-01-17T09:30", "doctor"];
    let readers = readers.map(|line| (line, scene.world.start(line, &[])));
    for (line, reader) in readers {
        let ended = reader.ended();
        // One that opens another connection waits once more.
        assert!(begun.elapsed() >= READER_PATIENCE - Duration::from_secs(1), "{line}: {:?}", begun.elapsed());
        assert!(begun.elapsed() < 3 * READER_PATIENCE, "{line}: {:?}", begun.elapsed());
        assert_eq!(ended.code, Some(1), "{line}: {:#?}", ended.log);
        if line != "doctor" {
            assert!(ended.reason().contains("the database does not answer"), "{line}: {:#?}", ended.log);
        }
    }
    drop(lock);
    // It was the lock, and nothing else.
    assert!(scene.world.output("gaps --verify", &[]).status.success());
}
