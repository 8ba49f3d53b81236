//! Several collectors on one PostgreSQL: one collects, the others wait for their turn.

use std::time::{Duration, Instant};

use candlekeep::simulator::{Options, Speed};
use rustix::process::{Pid, Signal, kill_process};

use super::postgres::{self, Server};
use super::world::{Holes, START, Service, World, market};

/// A lease is another's so long after its holder has shown its last sign of life.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(15);

/// Two hours of market time in a minute, in which leaders come and go.
fn world(server: &Server) -> World {
    World::new(Options { speed: Speed::Times(120.0), ..market(2) }).on_server(server.place())
}

/// Compares all with what happened, from when the first history was asked for while the market flew by.
fn verify(world: &World) {
    world.verify_from(START.plus(3_600), Holes::None);
}

fn leader(world: &World) -> i64 {
    world.number("SELECT pid FROM lease WHERE name = 'collector'")
}

fn signal(service: &Service, signal: Signal) {
    kill_process(Pid::from_raw(service.pid().cast_signed()).unwrap(), signal).unwrap();
}

/// One that collects, and one that waits for its turn.
fn leader_and_standby(world: &World) -> (Service, Service) {
    let mut first = world.run();
    first.wait_said("collecting", 1);
    let mut second = world.run();
    second.wait_said("standing by", 1);
    (first, second)
}

/// Waits until this one leads; answers how long that took.
fn wait_leading(world: &World, service: &mut Service) -> Duration {
    let (begun, pid) = (now(), i64::from(service.pid()));
    world.wait(service, "the lease", |world| leader(world) == pid);
    begun.elapsed()
}

#[expect(clippy::disallowed_methods, reason = "leases expire in real time")]
fn now() -> Instant {
    Instant::now()
}

fn printed(world: &World, line: &str) -> String {
    String::from_utf8(world.output(line, &[]).stdout).unwrap()
}

#[test]
fn on_a_server_it_collects_and_reads_as_on_a_file() {
    let Some(server) = postgres::shared() else { return };
    let world = World::new(market(3)).on_server(server.place());
    let mut service = world.run();
    world.wait_complete(&mut service);
    world.verify(Holes::None);
    service.stop();
    let status = printed(&world, "status");
    assert!(status.contains("database  postgres://candlekeep@127.0.0.1:"), "{status}");
    assert!(status.contains("service   not running; the last run began "), "{status}");
    let verified = world.output("gaps --verify", &[]);
    assert!(verified.status.success(), "{verified:?}");
    let bars = printed(&world, "candles EURUSD 5m --count 3 --format csv");
    assert_eq!(bars.lines().count(), 4, "{bars}");
    let explained = printed(&world, "explain EURUSD 2024-01-17T10:05Z");
    assert!(explained.contains("websocket"), "{explained}");
}

#[test]
fn a_killed_leader_is_followed_by_one_that_waited() {
    // One's own: an answer that others hold up starts the time anew.
    let Some(server) = Server::start(&[]) else { return };
    let world = world(&server);
    let (first, mut second) = leader_and_standby(&world);
    let status = printed(&world, "status");
    for (role, pid) in [("service", first.pid()), ("standby", second.pid())] {
        assert!(status.contains(&format!("{role}   run, pid {pid} on ")), "{status}");
    }
    assert_eq!(world.simulator().stats().logins, 1, "who waits does not log in");

    first.kill();
    let took = wait_leading(&world, &mut second);
    assert!(took <= TAKEN_OVER_WITHIN, "{took:?}");
    // One that ends in good order leaves the lease at once.
    let mut third = world.run();
    third.wait_said("standing by", 1);
    second.wait_said("collecting", 1);
    second.stop();
    let took = wait_leading(&world, &mut third);
    assert!(took < Duration::from_secs(5), "{took:?}");
    world.wait_complete(&mut third);
    verify(&world);
    assert_eq!(world.number("SELECT epoch FROM lease WHERE name = 'collector'"), 3);
    assert_eq!(world.simulator().stats().logins, 3);
    third.stop();
}

#[test]
fn a_paused_leader_is_followed_and_writes_nothing_when_it_wakes() {
    // One's own: an answer that others hold up starts the time anew.
    let Some(server) = Server::start(&[]) else { return };
    let world = world(&server);
    let (first, mut second) = leader_and_standby(&world);
    signal(&first, Signal::STOP);
    let took = wait_leading(&world, &mut second);
    assert!(took <= TAKEN_OVER_WITHIN, "{took:?}");
    second.wait_said("collecting", 1);
    // They share a folder, and who is paused has its spool still.
    second.wait_said("another process has this spool, perhaps a paused one; it is left to it", 1);
    signal(&first, Signal::CONT);
    let ended = first.ended();
    assert_eq!(ended.code, Some(1), "{:#?}", ended.log);
    assert!(ended.reason().contains("is lost to another process: run, pid"), "{}", ended.reason());
    world.wait_complete(&mut second);
    verify(&world);
    second.stop();
}

#[test]
fn a_leader_that_was_frozen_for_hours_finds_another_and_costs_no_bar() {
    let Some(server) = postgres::shared() else { return };
    const HOUR_S: i64 = 3_600;
    // Fifteen minutes a second: the lease alone lasts for hours.
    let options = Options { speed: Speed::Times(900.0), rows_per_bar: Some(8), ..market(12) };
    let world = World::new(options).on_server(server.place());
    let (mut first, mut second) = leader_and_standby(&world);
    let streamed = |world: &World| world.number("SELECT count(*) FROM candles WHERE source = 'websocket'");
    world.wait(&mut first, "bars", |world| streamed(world) > 28);
    signal(&first, Signal::STOP);
    let (frozen_at, stored) = (world.simulator().now(), streamed(&world));
    wait_leading(&world, &mut second);
    world.wait(&mut second, "bars of its own", |world| {
        world.simulator().now() > frozen_at.plus(3 * HOUR_S) && streamed(world) > stored + 28
    });
    assert!(!world.simulator().has_ended(), "there is nothing left to collect");
    signal(&first, Signal::CONT);
    let ended = first.ended();
    assert_eq!(ended.code, Some(1), "{:#?}", ended.log);
    assert!(ended.reason().contains("is lost to another process: run, pid"), "{}", ended.reason());
    // From here on one alone collects, whose lease it stays.
    world.wait_complete(&mut second);
    assert_eq!(leader(&world), i64::from(second.pid()));
    assert_eq!(world.number("SELECT epoch FROM lease WHERE name = 'collector'"), 2);
    second.stop();
    // Nothing is corrected, nothing missing, and nothing there twice.
    verify(&world);
    let doubles =
        "SELECT count(*) FROM (SELECT seq FROM candles GROUP BY seq HAVING count(*) > 1) AS doubles";
    assert_eq!(world.number(doubles), 0);
    let verified = world.output("gaps --verify", &[]);
    assert!(verified.status.success(), "{verified:?}");
}

#[test]
fn a_server_that_restarts_costs_no_bar_and_no_leader() {
    let Some(mut server) = Server::start(&[]) else { return };
    let world = world(&server);
    let (mut first, mut second) = leader_and_standby(&world);
    let (mut stored, signals) = (0, ["INT", "QUIT", "KILL"]);
    for signal in signals {
        // Between two restarts it is at work again.
        world.wait(&mut first, "bars", |world| world.stored() > stored);
        server.stop(signal);
        server.resume();
        stored = world.stored();
    }
    world.wait_complete(&mut first);
    verify(&world);
    assert_eq!(leader(&world), i64::from(first.pid()));
    first.stop();
    wait_leading(&world, &mut second);
    second.stop();
}

#[test]
fn who_waits_stops_when_told_to() {
    let Some(server) = postgres::shared() else { return };
    let world = world(server);
    let (first, second) = leader_and_standby(&world);
    second.stop();
    first.stop();
}

#[test]
fn a_backfill_does_not_wait_but_hands_over() {
    let Some(server) = postgres::shared() else { return };
    let world = world(server);
    let mut first = world.run();
    first.wait_said("collecting", 1);
    let output = world.output("backfill --from 2024-01-17T08:00Z --to 2024-01-17T08:30Z --pairs EURUSD", &[]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(world.simulator().stats().logins, 1);
    let bars =
        "SELECT count(*) FROM candles WHERE pair = 'EUR_USD' AND timeframe = '5' AND timestamp < 1705480200";
    assert_eq!(world.number(bars), 6);
    first.stop();
}
