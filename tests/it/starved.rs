//! What a program lives on is taken from it for a while: descriptors, names, time, logins. It says so, does not
//! spin, and is back by itself when it gets it again.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use candlekeep::clock::Clock;
use candlekeep::ig::session::failed::EXCUSED_MAX;
use candlekeep::simulator::faults::Fault;
use candlekeep::simulator::{Options, Speed};
use rusqlite::Connection;
use serde_json::Value;

use super::postgres;
use super::process::Process;
use super::world::{Holes, START, STEP, STOP_WITHIN, Service, World, market};

/// How long a program is starved.
const STARVED: Duration = Duration::from_secs(6);
/// Lines of its log for that time.
const LINES_MAX: usize = 40;
/// Threads that stand still in the meantime, above those that it always has.
const THREADS_MAX: u64 = 16;

/// A market of so many hours, an hour in so many seconds.
fn world(hours: i64, hour_s: f64) -> World {
    // Within a bucket, so that a stream that comes back after the end still tells what time it is.
    let end = Some(START.plus(hours * 3_600 + STEP / 2));
    let speed = Speed::Times(3_600.0 / hour_s);
    World::new(Options { speed, rows_per_bar: Some(10), end, ..market(0) })
}

/// Bars that came over the stream.
fn streamed(world: &World) -> i64 {
    world.number("SELECT count(*) FROM candles WHERE source = 'websocket'")
}

/// Watches the program for a while that it is not to spend in a loop.
fn expect_calm(service: &mut Service, what: &str) {
    let (clock, process) = (Clock::system(), Process(service.pid()));
    let (began, used, lines) = (clock.monotonic(), process.usage(), service.log().len());
    service.wait("time to pass", || clock.monotonic() - began >= STARVED);
    let (used, log) = (process.usage().since(&used).cpu(), service.log());
    println!(
        "{what}: {} ms of processor, {} lines, {} threads, {} KiB",
        used.as_millis(),
        log.len() - lines,
        process.status("Threads:"),
        process.status("VmRSS:")
    );
    for line in log.iter().skip(lines).take(6) {
        println!("    {line}");
    }
    assert!(used < STARVED / 2, "{what}: {used:?} of processor within {STARVED:?}");
    assert!(log.len() - lines <= LINES_MAX, "{what}: {log:#?}");
    assert!(!log.iter().any(|line| line.contains("panicked")), "{what}: {log:#?}");
}

fn limit_descriptors(service: &Service, count: usize) {
    let (pid, limit) = (format!("--pid={}", service.pid()), format!("--nofile={count}:4096"));
    assert!(Command::new("prlimit").args([pid, limit]).status().unwrap().success());
}

/// The number that the next descriptor of the program would get.
fn next_descriptor(service: &Service) -> usize {
    let open = fs::read_dir(format!("/proc/{}/fd", service.pid())).unwrap();
    let open: Vec<usize> = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    (0..).find(|number| !open.contains(number)).unwrap()
}

#[test]
fn without_descriptors_it_says_so_and_comes_back() {
    without_descriptors(&world(6, 8.0));
}

#[test]
fn without_descriptors_on_a_server_it_says_so_and_comes_back() {
    let Some(server) = postgres::shared() else { return };
    without_descriptors(&world(6, 8.0).on_server(server.place()));
}

fn without_descriptors(world: &World) {
    if !postgres::sees_descriptors() {
        return;
    }
    let mut service = world.run();
    world.wait(&mut service, "an hour of bars", |world| {
        world.simulator().now() > START.plus(12 * STEP) && streamed(world) > 28 * 8
    });
    let control = world.simulator().control();
    // What it has is enough as long as nothing breaks: bars are stored.
    limit_descriptors(&service, next_descriptor(&service));
    let before = streamed(world);
    world.wait(&mut service, "bars without a descriptor to spare", |world| streamed(world) > before + 28);
    // One is free again, and two are needed.
    control.cut_streams();
    expect_calm(&mut service, "a descriptor too few");
    limit_descriptors(&service, 3);
    control.cut_streams();
    expect_calm(&mut service, "no descriptors");
    limit_descriptors(&service, 1_024);
    let before = streamed(world);
    world.wait(&mut service, "its stream", |world| streamed(world) > before + 28);
    world.wait_complete(&mut service);
    let log = service.stop();
    assert!(log.iter().any(|line| line.contains("Too many open files")), "{log:#?}");
    world.verify(Holes::None);
}

/// A name server on an address of this machine's own.
struct NameServer {
    address: Ipv4Addr,
    manner: Arc<AtomicU8>,
    asked: Arc<AtomicU64>,
}

/// How it answers.
#[derive(Clone, Copy)]
enum Manner {
    /// Not at all.
    Silent,
    /// There is no such name.
    Unknown,
    /// Every name is this machine.
    Here,
}

impl NameServer {
    /// Starts one, where the user may: its port belongs to the system.
    fn start() -> Option<NameServer> {
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(127, 53, high, low.max(1));
        let socket = UdpSocket::bind((address, 53)).ok()?;
        let server = NameServer { address, manner: Arc::default(), asked: Arc::default() };
        let (manner, asked) = (server.manner.clone(), server.asked.clone());
        // It ends with the test's process.
        std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query) {
                asked.fetch_add(1, Ordering::SeqCst);
                let manner = [Manner::Silent, Manner::Unknown, Manner::Here]
                    [usize::from(manner.load(Ordering::SeqCst))];
                if let Some(answer) = answer(&query[..length], manner) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Some(server)
    }

    fn set(&self, manner: Manner) {
        self.manner.store(manner as u8, Ordering::SeqCst);
    }

    /// Starts the program so that it asks this server, and no other one.
    fn run(&self, world: &World) -> Service {
        let file = self.file(world);
        let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        let words = ["unshare", "-m", "sh", "-c", script, file.to_str().unwrap()];
        let port = world.simulator().address().port();
        let address = format!("http://ig.candlekeep.test:{port}/gateway/deal");
        world.start_by(&words, "run", &[("IG_API_URL", &address)])
    }

    fn file(&self, world: &World) -> PathBuf {
        let file = world.folder().join("resolv.conf");
        fs::write(&file, format!("nameserver {}\noptions timeout:30 attempts:2\n", self.address)).unwrap();
        file
    }
}

/// An answer to a query for one name (RFC 1035, section 4.1).
fn answer(query: &[u8], manner: Manner) -> Option<Vec<u8>> {
    let question_end = 12 + query.get(12..)?.iter().position(|byte| *byte == 0)? + 5;
    let question = query.get(12..question_end)?;
    let is_v4 = question[question.len() - 4..] == [0, 1, 0, 1];
    let (code, answers) = match manner {
        Manner::Silent => return None,
        Manner::Unknown => (3, 0),
        Manner::Here => (0, u8::from(is_v4)),
    };
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, 0x80 | code, 0, 1, 0, answers, 0, 0, 0, 0]);
    answer.extend(question);
    if answers > 0 {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
    }
    Some(answer)
}

#[test]
fn without_names_it_says_so_and_comes_back() {
    let Some(server) = NameServer::start() else {
        return postgres::say_skipped("NOT RUN: no name server can be made here");
    };
    // Long enough for questions asked in the silence, which the system asks again after half a minute.
    let world = world(12, 8.0);
    // Nobody answers from the beginning: it waits, and ends in time when told to.
    let mut service = server.run(&world);
    service.wait("a question", || server.asked.load(Ordering::SeqCst) > 0);
    expect_calm(&mut service, "silence at the start");
    let ended = service.terminate();
    assert!(ended.took < STOP_WITHIN, "took {:?} to stop: {:#?}", ended.took, ended.log);
    server.set(Manner::Here);
    let mut service = server.run(&world);
    world.wait(&mut service, "bars", |world| streamed(world) > 28 * 2);
    for (manner, what) in [(Manner::Silent, "silence"), (Manner::Unknown, "no such name")] {
        server.set(manner);
        let threads = Process(service.pid()).status("Threads:");
        world.simulator().control().cut_streams();
        expect_calm(&mut service, what);
        let now = Process(service.pid()).status("Threads:");
        assert!(now <= threads + THREADS_MAX, "{threads} threads have become {now}");
        service.wait_said("DNS", 1);
        server.set(Manner::Here);
        let before = streamed(&world);
        world.wait(&mut service, "its stream", |world| streamed(world) > before + 28);
    }
    world.wait_complete(&mut service);
    let log = service.stop();
    assert!(log.iter().any(|line| line.contains("DNS")), "{log:#?}");
    world.verify(Holes::None);
}

#[test]
fn three_hours_of_sleep_are_healed_without_a_storm() {
    let world = world(7, 4.0);
    let mut service = world.run();
    world.wait(&mut service, "an hour of bars", |world| {
        world.simulator().now() > START.plus(12 * STEP) && streamed(world) > 28 * 8
    });
    let (before, asleep_from) = (world.simulator().stats(), world.simulator().now());
    service.pause();
    world.wait_for("three hours", |world| world.simulator().now() > asleep_from.plus(3 * 3_600));
    // Tokens do not outlive it.
    world.simulator().control().wipe_tokens();
    world.simulator().control().cut_streams();
    service.go_on();
    service.wait_said("streaming session begun", 2);
    let missed = world.simulator().now().since(asleep_from) / STEP;
    world.wait_complete(&mut service);
    service.stop();
    let stats = world.simulator().stats();
    let (logins, requests) = (stats.logins - before.logins, stats.rest_requests - before.rest_requests);
    let points = stats.points_spent - before.points_spent;
    println!("{logins} logins, {requests} requests, {points} points");
    assert_eq!(logins, 1);
    // One request a pair for the hole, and what the buckets at its two ends, tokens and zones cost.
    assert!(requests <= 28 * 4 + 20, "{requests} requests");
    assert!(points <= 28 * (missed + 6).cast_unsigned() + 2, "{points} points for {missed} buckets");
    world.verify(Holes::None);
}

#[test]
fn a_locked_account_is_left_alone_however_often_it_starts() {
    let starts = std::env::var("CANDLEKEEP_STARTS").map_or(50, |starts| starts.parse().unwrap());
    let world = World::new(market(1));
    let code = "error.security.too-many-failed-attempts".to_owned();
    let refuse = Fault::RefuseRest { times: u32::MAX, status: 401, code, path: "session".to_owned() };
    world.simulator().control().apply(refuse);
    for start in 0..starts {
        let ended = world.run().ended();
        assert_eq!(ended.code, Some(77), "{:#?}", ended.log);
        let reason = if start == 0 { "unlock it with IG" } else { "refused before and not tried again" };
        assert!(ended.reason().contains(reason), "{}", ended.reason());
    }
    assert_eq!(world.simulator().stats().rest_requests, 1, "{starts} starts");
}

/// The most logins that can lead nowhere within this time, where the first two are a second apart.
fn fruitless_logins_max(within: Duration) -> u64 {
    let (mut logins, mut least_s) = (1, 0.0);
    loop {
        // Each distance is twice the one before, less a fifth, in whole seconds of a clock that tells no parts.
        least_s += (0.8 * f64::powi(2.0, logins - 1)).floor().max(1.0) - 1.0;
        if least_s > within.as_secs_f64() {
            return u64::try_from(logins).unwrap();
        }
        logins += 1;
    }
}

/// How often a program is started whose logins lead nowhere.
fn starts() -> u32 {
    std::env::var("CANDLEKEEP_STARTS").map_or(16, |starts| starts.parse().unwrap())
}

/// A market that stands still however much is subscribed, so that the one after it begins where it did.
fn held() -> World {
    World::new(Options { wait_for_items: Some(usize::MAX), ..market(1) })
}

/// A second between logins.
const SPACING: [(&str, &str); 1] = [("CANDLEKEEP_SESSION_LOGIN_SPACING_S", "1")];

/// Holds logins that led nowhere against the time for which they did, and has the program run and end as it
/// should, which counts as none more.
fn expect_few(world: &mut World, logins: u64, took: Duration) {
    println!("{logins} logins in {} starts within {took:?}", starts());
    assert!(logins <= fruitless_logins_max(took), "{logins} logins within {took:?}");
    let status = world.output("status", &[]);
    let told = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(told.contains("login     ") && told.contains("; the next not before 20"), "{told}");
    // The time that is to pass until the next has passed.
    let database = Connection::open(world.database()).unwrap();
    let last = "UPDATE settings SET value = value - 3600 WHERE key = 'session.last_login'";
    assert_eq!(database.execute(last, []).unwrap(), 1);
    let failed = |world: &World| {
        let failed =
            world.known().text("SELECT value FROM settings WHERE key = 'session.failed_logins'").unwrap();
        serde_json::from_str::<Value>(&failed).unwrap()["count"].as_u64().unwrap()
    };
    let before = failed(world);
    world.replace(market(1));
    let mut service = world.start("run", &SPACING);
    world.wait_complete(&mut service);
    service.stop();
    assert_eq!(failed(world), before);
    world.verify(Holes::None);
}

#[test]
fn logins_become_rare_where_the_process_is_told_to_stop_after_each() {
    let mut world = held();
    let clock = Clock::system();
    let began = clock.monotonic();
    for start in 0..starts() {
        let mut service = world.start("run", &SPACING);
        let has_logged_in = service.wait_said_one(&["collecting", "cannot start yet"]) == 0;
        assert!(has_logged_in || start > 4, "a few times nobody waits: {:#?}", service.log());
        service.stop();
    }
    // A few are excused, as long as it takes.
    let logins = world.simulator().stats().logins - u64::from(EXCUSED_MAX);
    expect_few(&mut world, logins, clock.monotonic() - began);
}

#[test]
fn logins_that_fail_become_rare_however_often_it_starts() {
    let mut world = held();
    let (code, path) = ("error.public-api.exceeded-api-key-allowance".to_owned(), "session".to_owned());
    world.simulator().control().apply(Fault::RefuseRest { times: u32::MAX, status: 403, code, path });
    let clock = Clock::system();
    let began = clock.monotonic();
    for start in 0..starts() {
        let mut service = world.start("run", &SPACING);
        service.wait_said("cannot start yet", 1);
        if start % 2 == 0 {
            service.kill();
        } else {
            service.stop();
        }
    }
    let logins = world.simulator().stats().rest_requests;
    expect_few(&mut world, logins, clock.monotonic() - began);
}

#[test]
fn logins_that_are_granted_become_rare_where_the_process_dies_after_each() {
    let mut world = held();
    let clock = Clock::system();
    let began = clock.monotonic();
    for start in 0..starts() {
        let mut service = world.start("run", &SPACING);
        let has_logged_in = service.wait_said_one(&["logged in", "cannot start yet"]) == 0;
        assert!(has_logged_in || start > 1, "killed once it logs in at once: {:#?}", service.log());
        service.kill();
    }
    let logins = world.simulator().stats().logins;
    expect_few(&mut world, logins, clock.monotonic() - began);
}

#[test]
fn a_log_that_cannot_be_written_costs_nothing_else() {
    let world = world(2, 8.0);
    // Every write says that the disk is full.
    let service = world.start_by(&["sh", "-c", "exec \"$@\" 2> /dev/full", "sh"], "run", &[]);
    world.finish(service);
}
