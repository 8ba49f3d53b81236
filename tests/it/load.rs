//! More than there should be: many times the usual rows, and servers that send what no client can use, without
//! an end. What it costs is measured and printed; asserted is what only a defect can exceed.

use std::time::Duration;

use candlekeep::clock::Clock;
use candlekeep::simulator::{Options, Speed};

use super::hostile::{HTTP, Hostile, REST, STREAM, Siege};
use super::process::Process;
use super::world::{Holes, START, STEP, Service, World, market};

/// Resident memory that nothing excuses, KiB: many times what the program needs, and less than what a
/// server can send within seconds.
const RESIDENT_MAX_KIB: u64 = 160 * 1024;
/// How long a server is hostile in one way.
const SIEGE: Duration = Duration::from_millis(2_500);
/// What bursts of rows may add to it, KiB: much more than they hold.
const BURST_MAX_KIB: u64 = 16 * 1024;
/// Descriptors more than before that nothing excuses: of a connection that is being closed, and of one to REST.
const DESCRIPTORS_MAX: usize = 3;
/// Bars of 5 minutes that came over the stream.
const STREAMED: &str = "SELECT count(*) FROM candles WHERE source = 'websocket'";
/// Lines of its log for that time: a handful an attempt.
const LINES_MAX: usize = 60;
/// Connections within that time: two a second, and those that REST's own requests make.
const CONNECTIONS_MAX: u64 = 24;

/// A market in which the program has streamed for a while by way of a network that can be taken over.
fn besieged(hours: i64, variables: &[(&str, &str)]) -> (World, Siege, Service) {
    // Within a bucket, so that a stream that comes back after the end still tells what time it is.
    let end = Some(START.plus(hours * 3_600 + STEP / 2));
    let world = World::new(Options { speed: Speed::Times(300.0), rows_per_bar: Some(10), end, ..market(0) });
    let siege = Siege::new(world.simulator().address().port());
    let address = siege.lead(&world.simulator().api_url());
    let all = [&[("IG_API_URL", address.as_str())], variables].concat();
    let mut service = world.start("run", &all);
    world.wait(&mut service, "an hour of bars", |world| {
        world.simulator().now() > START.plus(12 * STEP) && world.stored() > 28 * 8
    });
    (world, siege, service)
}

/// Lines of its log, without those that say what was healed meanwhile.
fn lines_of(service: &Service) -> usize {
    service.log().iter().filter(|line| !line.contains("history fetched")).count()
}

/// Has it sent for a while, and looks what that does to the program.
fn endure(world: &World, siege: &mut Siege, service: &mut Service, what: Hostile) {
    let process = Process(service.pid());
    let (lines, cpu, descriptors) = (lines_of(service), process.usage(), process.descriptors());
    process.forget_peak();
    siege.begin(what);
    if let Hostile::Rest(_) = what {
        // Nothing asks REST while all is well.
        world.simulator().control().wipe_tokens();
        world.simulator().control().cut_streams();
    }
    let clock = Clock::system();
    service.wait("a connection to whom is hostile", || siege.seen().0 > 0);
    let began = clock.monotonic();
    service.wait("time to pass", || clock.monotonic() - began >= SIEGE);
    siege.end();
    let ((connections, bytes), lines) = (siege.seen(), lines_of(service) - lines);
    let used = process.usage().since(&cpu).cpu();
    let peak = process.status("VmHWM:");
    println!(
        "{what:?}: {connections} connections, {} MiB sent, {} ms of processor, peak {} KiB, {lines} lines of log, {} descriptors",
        bytes >> 20,
        used.as_millis(),
        peak,
        process.descriptors()
    );
    assert!(connections <= CONNECTIONS_MAX, "{what:?}: {connections} connections");
    assert!(lines <= LINES_MAX, "{what:?}: {lines} lines of log: {:#?}", service.log());
    assert!(peak <= RESIDENT_MAX_KIB, "{what:?}: {peak} KiB");
    let before = world.number(STREAMED);
    world.wait(service, "bars over its stream again", |world| world.number(STREAMED) > before);
    service.wait("its connections to be closed", || process.descriptors() <= descriptors + DESCRIPTORS_MAX);
}

/// Has it sent in one way after the other.
fn endure_all(hours: i64, variables: &[(&str, &str)], all: impl IntoIterator<Item = Hostile>) {
    let (world, mut siege, mut service) = besieged(hours, variables);
    for what in all {
        endure(&world, &mut siege, &mut service, what);
    }
    // What is there afterwards is right, and complete.
    world.finish(service);
}

#[test]
fn garbage_on_a_websocket_costs_no_bar_and_no_memory() {
    let websocket = [("CANDLEKEEP_STREAM_TRANSPORT", "websocket")];
    std::thread::scope(|scope| {
        for half in STREAM.chunks(STREAM.len() / 2 + 1) {
            scope.spawn(move || endure_all(5, &websocket, half.iter().map(|what| Hostile::WebSocket(*what))));
        }
    });
}

#[test]
fn garbage_over_http_costs_no_bar_and_no_memory() {
    endure_all(5, &[("CANDLEKEEP_STREAM_TRANSPORT", "http")], HTTP.map(Hostile::Http));
}

#[test]
fn garbage_in_answers_costs_no_bar_and_no_memory() {
    std::thread::scope(|scope| {
        for half in REST.chunks(REST.len() / 2) {
            scope.spawn(move || endure_all(5, &[], half.iter().map(|what| Hostile::Rest(*what))));
        }
    });
}

/// Rows a second of each pair: twenty times what IG sends.
const ROWS_A_SECOND: f64 = 20.0;
/// Market time against time in which there are so many: in some seconds there is no row.
const FAST: f64 = 45.0;
/// Rows that come at once: a thousand seconds' usual ones.
const BURST: u64 = 28 * 1_000;

/// Bars of four lengths of a bucket with so many rows each; the program's peak of memory, KiB, and rows a second
/// of each pair.
fn streamed(rows_per_bar: u32) -> (u64, f64) {
    let begin = START.plus(STEP / 2);
    let end = Some(begin.plus(4 * STEP));
    let world =
        World::new(Options { speed: Speed::Times(FAST), rows_per_bar: Some(rows_per_bar), end, ..market(0) });
    let mut service = world.run();
    world.wait(&mut service, "its first rows", |world| world.simulator().now() > begin);
    let process = Process(service.pid());
    let (rows, used) = (world.simulator().stats().rows, process.usage());
    world.wait_complete(&mut service);
    let rows = world.simulator().stats().rows - rows;
    let (peak, used) = (process.status("VmHWM:"), process.usage().since(&used).cpu());
    let rate = rows as f64 / 28.0 / (4 * STEP) as f64 * FAST;
    println!(
        "{rows} rows, {rate:.1} a second and pair: {} ms of processor, peak {peak} KiB",
        used.as_millis()
    );
    service.stop();
    world.verify(Holes::None);
    assert_eq!(world.simulator().stats().sessions, 1, "it was given up while it was busy");
    (peak, rate)
}

#[test]
fn twenty_times_the_usual_rows_cost_no_bar_and_no_memory() {
    let (usual, twenty) = std::thread::scope(|scope| {
        let usual = scope.spawn(|| streamed(15));
        (usual.join().unwrap(), streamed(300))
    });
    assert!(twenty.1 >= ROWS_A_SECOND, "{} rows a second and pair", twenty.1);
    assert!(twenty.1 >= 10.0 * usual.1, "{} and {} rows a second and pair", usual.1, twenty.1);
    assert!(twenty.0 < usual.0 + BURST_MAX_KIB, "{} KiB have become {}", usual.0, twenty.0);
}

#[test]
fn a_thousand_seconds_of_rows_at_once_cost_no_bar_and_no_memory() {
    let end = Some(START.plus(3 * 3_600 + STEP / 2));
    let world =
        World::new(Options { speed: Speed::Times(1_500.0), rows_per_bar: Some(300), end, ..market(0) });
    let mut service = world.run();
    world.wait(&mut service, "bars", |world| world.number(STREAMED) >= 28);
    let process = Process(service.pid());
    let before = process.status("VmRSS:");
    process.forget_peak();
    for _ in 0..3 {
        service.pause();
        let rows = world.simulator().stats().rows;
        world.wait_for("what comes at once", |world| {
            world.simulator().stats().rows >= rows + BURST || world.simulator().has_ended()
        });
        let rows = world.simulator().stats().rows - rows;
        service.go_on();
        let bars = world.number(STREAMED);
        world.wait(&mut service, "more bars", |world| {
            world.number(STREAMED) > bars || world.simulator().has_ended()
        });
        println!("{rows} rows at once: peak {} KiB, {before} before", process.status("VmHWM:"));
    }
    world.wait_complete(&mut service);
    let peak = process.status("VmHWM:");
    println!("peak {peak} KiB, {} sessions", world.simulator().stats().sessions);
    assert!(peak < before + BURST_MAX_KIB, "{before} KiB have grown to {peak} KiB");
    service.stop();
    world.verify(Holes::None);
}
