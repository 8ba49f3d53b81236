//! More than there should be: many times the usual rows, and servers that send what no client can use, without
//! an end. What it costs is measured and printed; asserted is what only a defect can exceed.

use std::time::Duration;

use candlekeep::clock::Clock;
use candlekeep::simulator::{Options, Speed};

use super::hostile::{HTTP, Hostile, REST, Siege, STREAM};
use super::process::Process;
use super::world::{Holes, Service, START, STEP, World, market};

/// Resident memory that nothing excuses, KiB: many times what the program needs, and less than what a
/// server can send within seconds.
const RESIDENT_MAX_KIB: u64 = 160 * 1024;
/// How long a server is hostile in one way.
const SIEGE: Duration = Duration::from_millis(2_500);
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

/// Has it sent for a while, and looks what that does to the program.
fn endure(world: &World, siege: &mut Siege, service: &mut Service, what: Hostile) {
    let process = Process(service.pid());
    let (lines, cpu) = (service.log().len(), process.usage());
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
    let ((connections, bytes), lines) = (siege.seen(), service.log().len() - lines);
    let used = process.usage().since(&cpu).cpu();
    let peak = process.status("VmHWM:");
    println!(
        "{what:?}: {connections} connections, {} MiB sent, {} ms of processor, peak {} KiB, {lines} lines of log, {} descriptors",
        bytes >> 20,
        used.as_millis(),
        peak,
        process.descriptors()
    );
    for line in service.log().iter().rev().take(lines.min(8)).rev() { println!("    {line}"); }
    service.wait("its stream again", || world.simulator().stats().items == 28);
    assert!(connections <= CONNECTIONS_MAX, "{what:?}: {connections} connections");
    assert!(lines <= LINES_MAX, "{what:?}: {lines} lines of log: {:#?}", service.log());
    assert!(peak <= RESIDENT_MAX_KIB, "{what:?}: {peak} KiB");
}

/// What is there afterwards is right, and complete.
fn expect_whole(world: &World, mut service: Service) {
    world.wait_complete(&mut service);
    service.stop();
    world.verify(Holes::None);
}

#[test]
fn a_stream_of_garbage_costs_no_bar_and_no_memory() {
    let (world, mut siege, mut service) = besieged(6, &[("CANDLEKEEP_STREAM_TRANSPORT", "websocket")]);
    for what in STREAM {
        endure(&world, &mut siege, &mut service, Hostile::WebSocket(what));
    }
    expect_whole(&world, service);
}

#[test]
fn a_stream_of_garbage_over_http_costs_no_bar_and_no_memory() {
    let (world, mut siege, mut service) = besieged(4, &[("CANDLEKEEP_STREAM_TRANSPORT", "http")]);
    for what in HTTP {
        endure(&world, &mut siege, &mut service, Hostile::Http(what));
    }
    expect_whole(&world, service);
}

#[test]
fn answers_of_garbage_cost_no_bar_and_no_memory() {
    let (world, mut siege, mut service) = besieged(6, &[]);
    for what in REST {
        endure(&world, &mut siege, &mut service, Hostile::Rest(what));
    }
    expect_whole(&world, service);
}
