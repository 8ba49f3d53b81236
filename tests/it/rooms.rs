//! A room of the running program fails: it panics, ends, hangs, or blocks its thread. What the program
//! does about it, and that the database is right afterwards.

use candlekeep::simulator::{Options, Speed};

use super::world::{DEPTH, Ended, Holes, START, STEP, Service, World, market};

/// Seconds after which a room counts as stuck here.
const PATIENCE: &str = "12";

/// A market of three hours that flies by in 36 seconds: longer than it takes to find who is stuck.
fn world() -> World {
    world_at(300.0)
}

fn world_at(speed: f64) -> World {
    World::new(Options { speed: Speed::Times(speed), rows_per_bar: Some(8), ..market(3) })
}

fn start(world: &World, failpoint: &str) -> Service {
    let line = format!("run --patience {PATIENCE} --failpoint {failpoint}");
    // So that there is a room for it, though nothing is so old.
    world.start(&line, &[("CANDLEKEEP_RETENTION_DAYS", "90")])
}

fn said(log: &[String], what: &str) -> usize {
    log.iter().filter(|line| line.contains(what)).count()
}

/// Has this go wrong in the middle of the stream, and expects that the room is built anew, that nothing
/// is lost, and that IG is asked for no more than an outage of these rooms' length would cost. Answers
/// how many bars came over REST that the first start had not asked for.
fn survives(failpoint: &str, found: &str, rooms: &[&str]) -> usize {
    let world = if found.starts_with(STUCK) { world() } else { world_at(900.0) };
    let mut service = start(&world, failpoint);
    service.wait_said(found, 1);
    for room in rooms {
        service.wait_said(&format!("a room stands again room={room} "), 1);
    }
    world.wait_complete(&mut service);
    let status = world.output("status --format json", &[]).stdout;
    let log = service.stop();
    let summary = world.verify(Holes::None);
    assert_eq!(said(&log, "a room stands again"), rooms.len(), "{failpoint}: {:#?}", excerpt(&log));
    assert_eq!(world.simulator().stats().logins, 1, "{failpoint}: a failure of a room costs no login");
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    let failed = rooms[0];
    assert_eq!(status["rooms"]["failed"][failed]["restarts"], 1, "{failpoint}: {}", status["rooms"]);
    summary.bars("5", "ig_rest").saturating_sub(28 * (DEPTH as usize + 1))
}

/// What the log says of rooms and trouble.
fn excerpt(log: &[String]) -> Vec<&String> {
    log.iter().filter(|line| !line.starts_with("<6>") || line.contains("room")).collect()
}

const DIED: &str = "a room has died, building it anew room=";
const STUCK: &str = "a room is stuck, building it anew room=";

#[test]
fn a_writer_that_dies_costs_no_bar_and_no_point() {
    for failpoint in ["writer.facts:40=panic", "writer.flushed:9=panic", "writer.facts:40=stop"] {
        let fetched = survives(failpoint, &format!("{DIED}writer"), &["writer"]);
        assert_eq!(fetched, 0, "{failpoint}");
    }
}

#[test]
fn an_aggregator_that_dies_goes_on_where_it_was_with_a_new_stream() {
    for failpoint in ["aggregator.told:60=panic", "aggregator.told:60=stop", "aggregator.history:20=panic"] {
        survives(failpoint, &format!("{DIED}aggregator"), &["aggregator", "stream"]);
    }
}

#[test]
fn a_stream_that_dies_is_an_outage_like_any_other() {
    for failpoint in ["stream.arrived:60=panic", "stream.arrived:60=stop"] {
        survives(failpoint, &format!("{DIED}stream"), &["stream"]);
    }
}

#[test]
fn a_session_that_dies_keeps_its_tokens() {
    survives("session.tokens:9=panic", &format!("{DIED}session"), &["session"]);
}

#[test]
fn a_session_that_hangs_lets_its_tokens_go() {
    survives("session.tokens:9=hang", &format!("{STUCK}session"), &["session"]);
}

#[test]
fn a_history_that_dies_or_hangs_is_asked_again() {
    survives("history.fetch:9=panic", &format!("{DIED}history"), &["history"]);
    survives("history.fetch:9=hang", &format!("{STUCK}history"), &["history"]);
}

#[test]
fn a_healer_that_dies_or_hangs_looks_anew() {
    survives("healer.look:2=panic", &format!("{DIED}healer"), &["healer"]);
    survives("healer.look:2=hang", &format!("{STUCK}healer"), &["healer"]);
}

#[test]
fn a_retention_that_dies_or_hangs_is_built_anew() {
    survives("retention.look:2=panic", &format!("{DIED}retention"), &["retention"]);
    survives("retention.look:2=hang", &format!("{STUCK}retention"), &["retention"]);
}

#[test]
fn a_room_that_deals_with_no_message_any_more_ends_the_process() {
    for (failpoint, room) in [
        ("writer.facts:40=hang", "writer"),
        ("aggregator.told:60=hang", "aggregator"),
        ("aggregator.history:20=hang", "aggregator"),
        ("stream.arrived:60=hang", "stream"),
    ] {
        let world = world();
        let Ended { code, log, .. } = start(&world, failpoint).ended();
        assert_eq!(code, Some(1), "{log:#?}");
        assert!(said(&log, &format!("{STUCK}{room}")) >= 1, "{log:#?}");
        let reason = log.last().unwrap();
        assert!(reason.contains("room does not end when told to"), "{reason}");
        after_a_restart(&world);
    }
}

#[test]
fn a_database_that_never_answers_ends_the_process() {
    let world = world();
    let Ended { code, log, .. } = start(&world, "commit.applied:9=block").ended();
    assert_eq!(code, Some(1), "{log:#?}");
    assert!(log.last().unwrap().contains("the thread of the database has been stuck"), "{log:#?}");
    after_a_restart(&world);
}

#[test]
fn told_to_stop_it_waits_for_no_stream_that_hangs() {
    let world = world();
    // Longer than it takes to stop.
    let mut service = world.start("run --failpoint stream.arrived:60=hang", &[]);
    let stored =
        |world: &World| world.number("SELECT max(timestamp) FROM candles WHERE source = 'websocket'");
    let mut last = (0, 0);
    world.wait(&mut service, "bars to cease", |world| {
        let now = stored(world);
        last = if now == last.0 { (now, last.1 + 1) } else { (now, 0) };
        now > 0 && last.1 > 100
    });
    service.stop();
    after_a_restart(&world);
}

#[test]
fn a_stream_that_never_begins_is_found() {
    // Where its first connection is to be made; nothing but the clock can tell.
    let world = world();
    let service = start(&world, "stream.begin=hang");
    let Ended { code, log, .. } = service.ended();
    assert_eq!(code, Some(1), "{log:#?}");
    assert_eq!(said(&log, &format!("{STUCK}stream")), 1, "{log:#?}");
    assert!(log.last().unwrap().contains("the stream room does not end when told to"), "{log:#?}");
    after_a_restart(&world);
}

#[test]
fn a_room_that_dies_again_and_again_ends_the_process_and_the_next_goes_on() {
    let world = world();
    let service = start(&world, "aggregator.told:60+=panic");
    let Ended { code, log, .. } = service.ended();
    assert_eq!(code, Some(1), "{log:#?}");
    // What is repeated is not shown each time.
    assert!(said(&log, &format!("{DIED}aggregator")) >= 2, "{log:#?}");
    let reason = log.last().unwrap();
    assert!(reason.contains("the aggregator room has failed 6 times within 10 minutes"), "{reason}");
    assert!(reason.starts_with("<3>"), "{reason}");
    after_a_restart(&world);
}

#[test]
fn a_blocked_thread_ends_the_process_whatever_blocks_it() {
    for failpoint in ["aggregator.told:60=block", "session.tokens:9=block"] {
        let world = world();
        let Ended { code, log, .. } = start(&world, failpoint).ended();
        assert_eq!(code, Some(1), "{log:#?}");
        assert!(log.last().unwrap().contains("the thread of the rooms is blocked"), "{log:#?}");
        after_a_restart(&world);
    }
}

#[test]
fn what_renews_the_lease_ends_the_process_if_it_dies() {
    let world = world();
    let Ended { code, log, .. } = start(&world, "lease.renew:2=panic").ended();
    assert_eq!(code, Some(1), "{log:#?}");
    assert!(log.last().unwrap().contains("renewing the lease has panicked"), "{log:#?}");
    after_a_restart(&world);
}

#[test]
fn a_panic_of_the_databases_thread_ends_the_process_and_loses_nothing() {
    let world = world();
    let Ended { code, log, .. } = start(&world, "commit.applied:9=panic").ended();
    assert_eq!(code, Some(1), "{log:#?}");
    assert!(log.last().unwrap().contains("work on the store panicked"), "{log:#?}");
    after_a_restart(&world);
}

#[test]
fn many_rooms_that_fail_one_after_the_other_lose_nothing() {
    let world = world();
    let points = "writer.facts:30=panic,aggregator.told:50=panic,stream.arrived:70=panic,\
                  history.fetch:7=panic,healer.look:3=panic,session.tokens:8=panic,writer.flushed:20=stop,\
                  aggregator.told:90=stop";
    let mut service = start(&world, &points.replace(' ', ""));
    service.wait_said(&format!("{DIED}aggregator"), 1);
    world.wait_complete(&mut service);
    service.stop();
    world.verify(Holes::None);
    assert_eq!(world.simulator().stats().logins, 1);
}

/// The next start brings the rest of the market, and everything is right.
fn after_a_restart(world: &World) {
    assert!(world.simulator().now() < START.plus(34 * STEP), "something of the market is left");
    let mut service = world.run();
    world.wait_complete(&mut service);
    service.stop();
    world.verify(Holes::None);
}
