//! A room of the running program fails: it panics, ends, hangs, or blocks its thread. What the program
//! does about it, and that the database is right afterwards.

use std::collections::BTreeMap;

use candlekeep::simulator::{Options, Speed};

use serde_json::Value;

use super::world::{DEPTH, Ended, START, STEP, Service, World, market};

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
    let restarts = restarts(&world);
    let (log, summary) = world.finish(service);
    assert_eq!(said(&log, "a room stands again"), rooms.len(), "{failpoint}: {:#?}", excerpt(&log));
    assert_eq!(world.simulator().stats().logins, 1, "{failpoint}: a failure of a room costs no login");
    assert_eq!(restarts, [(rooms[0].to_owned(), 1)].into(), "{failpoint}");
    summary.bars("5", "ig_rest").saturating_sub(28 * (DEPTH as usize + 1))
}

/// What `status` says of rooms that have failed: how often each was built anew.
fn restarts(world: &World) -> BTreeMap<String, u64> {
    let status = world.output("status --format json", &[]).stdout;
    let status: Value = serde_json::from_slice(&status).unwrap();
    let failed = status["rooms"]["failed"].as_object().unwrap();
    failed.iter().map(|(room, failures)| (room.clone(), failures["restarts"].as_u64().unwrap())).collect()
}

/// Has this go wrong, and expects that the process ends with this reason, and that the next one brings the rest of
/// the market. Answers the log.
fn ends(failpoint: &str, reason: &str) -> Vec<String> {
    // To be found, not to end when told to, and to be saved takes half of that.
    let world = world_at(180.0);
    let Ended { code, log, .. } = start(&world, failpoint).ended();
    assert_eq!(code, Some(1), "{failpoint}: {:#?}", excerpt(&log));
    let last = log.last().unwrap();
    assert!(last.starts_with("<3>") && last.contains(reason), "{failpoint}: {last}");
    // What is done about a failure does not fail itself.
    let others = |line: &&String| {
        line.starts_with("<3>candlekeep::panic: ") && !line.contains("a failpoint has been reached")
    };
    assert_eq!(log.iter().find(others), None, "{failpoint}");
    after_a_restart(&world);
    log
}

/// What the log says of rooms and trouble.
fn excerpt(log: &[String]) -> Vec<&String> {
    log.iter().filter(|line| !line.starts_with("<6>") || line.contains("room")).collect()
}

/// All of these at once, each in a world of its own: most of their time is waiting.
fn each<T: Sync>(cases: &[T], check: impl Fn(&T) + Sync) {
    std::thread::scope(|scope| {
        for case in cases {
            scope.spawn(|| check(case));
        }
    });
}

const DIED: &str = "a room has died, building it anew room=";
const STUCK: &str = "a room is stuck, building it anew room=";

#[test]
fn a_writer_that_dies_costs_no_bar_and_no_point() {
    each(&["writer.facts:40=panic", "writer.flushed:9=panic", "writer.facts:40=stop"], |failpoint| {
        let fetched = survives(failpoint, &format!("{DIED}writer"), &["writer"]);
        assert_eq!(fetched, 0, "{failpoint}");
    });
}

#[test]
fn an_aggregator_that_dies_goes_on_where_it_was_with_a_new_stream() {
    each(
        &["aggregator.told:60=panic", "aggregator.told:60=stop", "aggregator.history:20=panic"],
        |failpoint| {
            survives(failpoint, &format!("{DIED}aggregator"), &["aggregator", "stream"]);
        },
    );
}

#[test]
fn a_stream_that_dies_is_an_outage_like_any_other() {
    each(&["stream.arrived:60=panic", "stream.arrived:60=stop"], |failpoint| {
        survives(failpoint, &format!("{DIED}stream"), &["stream"]);
    });
}

#[test]
fn a_session_that_dies_keeps_its_tokens_and_one_that_hangs_lets_them_go() {
    dies_or_hangs("session.tokens:9", "session");
}

#[test]
fn a_session_that_ends_while_it_is_asked_costs_no_login() {
    survives("session.asked:9=stop", &format!("{DIED}session"), &["session"]);
}

#[test]
fn a_history_that_dies_or_hangs_is_asked_again() {
    dies_or_hangs("history.fetch:9", "history");
}

#[test]
fn a_healer_that_dies_or_hangs_looks_anew() {
    dies_or_hangs("healer.look:2", "healer");
}

#[test]
fn a_retention_that_dies_or_hangs_is_built_anew() {
    dies_or_hangs("retention.look:2", "retention");
}

fn dies_or_hangs(place: &str, room: &str) {
    each(&[(DIED, "panic"), (STUCK, "hang")], |(found, action)| {
        survives(&format!("{place}={action}"), &format!("{found}{room}"), &[room]);
    });
}

#[test]
fn a_room_that_deals_with_no_message_any_more_ends_the_process() {
    let cases = [
        ("writer.facts:20=hang", "writer"),
        ("aggregator.told:30=hang", "aggregator"),
        ("aggregator.history:20=hang", "aggregator"),
        ("stream.arrived:30=hang", "stream"),
        // Where its first connection is to be made; nothing but the clock can tell.
        ("stream.begin=hang", "stream"),
    ];
    each(&cases, |(failpoint, room)| {
        let log = ends(failpoint, "room does not end when told to");
        assert!(said(&log, &format!("{STUCK}{room}")) >= 1, "{:#?}", excerpt(&log));
    });
}

#[test]
fn what_no_restart_of_a_room_mends_ends_the_process() {
    let cases = [
        ("commit.applied:9=block", "the thread of the database has been stuck"),
        ("commit.applied:9=panic", "work on the store panicked"),
        ("aggregator.told:60=block", "the thread of the rooms is blocked"),
        ("session.tokens:9=block", "the thread of the rooms is blocked"),
        ("lease.renew:2=panic", "renewing the lease has panicked"),
    ];
    each(&cases, |(failpoint, reason)| drop(ends(failpoint, reason)));
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
fn a_room_that_dies_again_and_again_ends_the_process_and_the_next_goes_on() {
    let reason = "the aggregator room has failed 6 times within 10 minutes";
    let log = ends("aggregator.told:60+=panic", reason);
    // What is repeated is not shown each time.
    assert!(said(&log, &format!("{DIED}aggregator")) >= 2, "{:#?}", excerpt(&log));
}

#[test]
fn many_rooms_that_fail_one_after_the_other_lose_nothing() {
    let world = world();
    let points = "writer.facts:30=panic,aggregator.told:50=panic,stream.arrived:70=panic,\
                  history.fetch:7=panic,healer.look:3=panic,session.tokens:8=panic,writer.flushed:20=stop,\
                  aggregator.told:90=stop";
    let mut service = start(&world, &points.replace(' ', ""));
    world.wait_complete(&mut service);
    let failed = restarts(&world);
    world.finish(service);
    let expected =
        [("writer", 2), ("aggregator", 2), ("stream", 1), ("history", 1), ("healer", 1), ("session", 1)];
    assert_eq!(failed, expected.map(|(room, times)| (room.to_owned(), times)).into());
    assert_eq!(world.simulator().stats().logins, 1);
}

/// The next start brings the rest of the market, and everything is right.
fn after_a_restart(world: &World) {
    assert!(world.simulator().now() < START.plus(34 * STEP), "something of the market is left");
    world.finish(world.run());
}
