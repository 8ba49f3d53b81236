//! What goes wrong with the stream, and that the program goes on where it was.

use candlekeep::domain::Timestamp;
use candlekeep::simulator::faults::Fault;
use candlekeep::simulator::{Control, Cut, Options, Refusal, Rubbish, Speed};

use super::world::{DEPTH, Holes, START, STEP, Service, World, market};

/// A slow enough market for things to happen in the middle of it.
fn hours(hours: i64) -> Options {
    Options { rows_per_bar: Some(60), speed: Speed::Times(2_400.0), ..market(hours) }
}

/// Timers that find a silent stream within a second.
const QUICK: [(&str, &str); 5] = [
    ("CANDLEKEEP_STREAM_KEEPALIVE_MS", "500"),
    ("CANDLEKEEP_STREAM_STALLED_MS", "100"),
    ("CANDLEKEEP_STREAM_RECONNECT_MS", "100"),
    ("CANDLEKEEP_STREAM_RECOVERY_MS", "20000"),
    ("CANDLEKEEP_STREAM_RETRY_MS", "250"),
];

const HTTP_ONLY: (&str, &str) = ("CANDLEKEEP_STREAM_TRANSPORT", "http");

/// Waits for market time.
fn wait_until(world: &World, service: &mut Service, time: Timestamp) {
    world.wait(service, &format!("market time {time}"), |world| {
        world.simulator().now() >= time && world.simulator().stats().items == 28
    });
}

/// Does something at so many moments of a market, and answers the world after its end.
fn disturbed(
    options: Options,
    more: &[(&str, &str)],
    times: i64,
    mut act: impl FnMut(&Control, i64),
) -> World {
    let length = options.end.expect("the market has an end").since(START);
    let world = World::new(options);
    let mut service = world.start("run", &[&QUICK[..], more].concat());
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let share = length / (times + 1);
    for time in 0..times {
        wait_until(&world, &mut service, START.plus(time * share + random.i64(1..share)));
        act(&world.simulator().control(), time);
    }
    world.wait_complete(&mut service);
    service.stop();
    world
}

/// Nothing was lost and nothing was fetched but the history of a first start.
fn verify_unbroken(world: &World) {
    let summary = world.verify(Holes::None);
    let stats = world.simulator().stats();
    assert_eq!((stats.sessions, stats.logins), (1, 1));
    let fetched = summary.bars("5", "ig_rest") + summary.bars("15", "ig_rest");
    // History before the start and the buckets under way at it.
    assert!(fetched <= 28 * (2 * DEPTH as usize + 2), "{fetched} bars fetched");
    assert!(stats.points_spent <= fetched as u64 + 2, "{} points", stats.points_spent);
    assert_eq!(world.number("SELECT count(*) FROM stream_breaks"), 0);
}

const CUTS: [Cut; 3] = [Cut::Reset, Cut::Drop, Cut::Close(1001)];

#[test]
fn cut_at_any_moment_it_goes_on_and_loses_nothing() {
    let world = disturbed(hours(4), &[], 12, |control, time| {
        control.resend_at_next_recovery(time as u64 * 3);
        control.cut_connections(CUTS[time as usize % 3]);
    });
    verify_unbroken(&world);
    let recoveries = requests(&world, "LS_recovery_from=");
    assert!(recoveries >= 12, "{recoveries} recoveries");
}

#[test]
fn over_http_it_goes_on_and_loses_nothing_either() {
    let world = disturbed(hours(4), &[HTTP_ONLY], 6, |control, time| {
        control.cut_connections(CUTS[time as usize % 3]);
    });
    verify_unbroken(&world);
    assert_eq!(requests(&world, "wsok"), 0);
}

#[test]
fn loops_of_a_short_content_length_lose_nothing() {
    let short = ("CANDLEKEEP_STREAM_CONTENT_LENGTH", "100000");
    let world = disturbed(hours(4), &[HTTP_ONLY, short], 0, |_, _| {});
    verify_unbroken(&world);
    let binds = requests(&world, "bind_session");
    assert!(binds > 10, "{binds} binds");
}

#[test]
fn told_to_come_back_it_does_and_loses_nothing() {
    let world = disturbed(hours(4), &[], 6, |control, time| control.rebind_sessions(time as u64 * 20));
    verify_unbroken(&world);
    assert_eq!(requests(&world, "LS_recovery_from="), 0, "what was delivered is known");
    assert!(requests(&world, "bind_session") >= 6);
}

#[test]
fn a_half_open_connection_is_found_and_left() {
    let world = disturbed(hours(2), &[], 2, |control, _| control.half_open());
    verify_unbroken(&world);
    assert!(requests(&world, "LS_recovery_from=") >= 2);
}

#[test]
fn where_no_websocket_is_to_be_had_http_is_taken_and_left_again() {
    let world = World::new(hours(12));
    let control = world.simulator().control();
    control.refuse_upgrades(Some(Refusal::Status(403)));
    let again = ("CANDLEKEEP_STREAM_WEBSOCKET_AGAIN_S", "1");
    let mut service = world.start("run", &[&QUICK[..], &[again]].concat());
    wait_until(&world, &mut service, START.plus(STEP));
    assert_eq!(requests(&world, "wsok"), 0);
    control.refuse_upgrades(None);
    world.wait(&mut service, "a WebSocket", |world| requests(world, "wsok") > 0);
    world.wait_complete(&mut service);
    service.stop();
    verify_unbroken(&world);
}

#[test]
fn rubbish_between_the_lines_costs_no_row() {
    for transport in [&[][..], &[HTTP_ONLY]] {
        let world = disturbed(hours(2), transport, 6, |control, time| {
            control.send_rubbish([Rubbish::Line, Rubbish::Binary, Rubbish::NotUtf8][time as usize % 3]);
        });
        verify_unbroken(&world);
        let recoveries = requests(&world, "LS_recovery_from=");
        assert!(recoveries >= 4, "what may have hidden a line is asked for again: {recoveries}");
    }
}

#[test]
fn a_refused_recovery_is_a_break_that_is_healed_and_written_down() {
    let world = disturbed(hours(4), &[], 2, |control, time| {
        control.refuse_binds(1, if time == 0 { 4 } else { 20 }, "gone");
        control.cut_connections(Cut::Drop);
    });
    world.verify(Holes::None);
    assert_eq!((world.simulator().stats().sessions, world.simulator().stats().logins), (3, 1));
    assert!(world.number("SELECT count(*) FROM stream_breaks") >= 2);
}

/// Requests on streams that contain this.
fn requests(world: &World, text: &str) -> usize {
    world.simulator().stream_requests().iter().filter(|request| request.text.contains(text)).count()
}

#[test]
fn silence_in_market_hours_is_answered_ever_more_strongly_and_at_last_by_an_exit() {
    // The market stops in the middle of a day; the connection lives and brings nothing but probes.
    let world = World::new(market(1));
    let silent = ("CANDLEKEEP_STREAM_SILENCE_S", "1");
    let ended = world.start("run", &[&QUICK[..], &[silent]].concat()).ended();
    assert_eq!(ended.code, Some(1), "{:#?}", ended.log);
    assert!(ended.reason().contains("nothing comes although the market is open"), "{}", ended.reason());
    let remedies: Vec<&str> = ["Resubscribe", "NewSession", "NewLogin", "Exit"]
        .into_iter()
        .filter(|remedy| ended.log.iter().any(|line| line.contains(&format!("remedy={remedy}"))))
        .collect();
    assert_eq!(remedies, ["Resubscribe", "NewSession", "NewLogin", "Exit"]);
    let stats = world.simulator().stats();
    assert_eq!((stats.sessions, stats.logins), (3, 2));
    assert_eq!(
        world.number("SELECT count(*) FROM settings WHERE key = 'stream.silent_exits' AND value = '1'"),
        1
    );
    world.verify(Holes::Listed);
}

/// What the stream's state, as `status` shows it, says of this.
fn state_says(world: &World, text: &str) -> bool {
    let query = format!("SELECT count(*) FROM settings WHERE key = 'stream.state' AND value LIKE '%{text}%'");
    world.number(&query) == 1
}

/// A row of EUR_USD that cannot be read, and another one once the pair is subscribed anew: two at once may both
/// be read before that, and count once.
fn unreadable_twice(world: &World, service: &mut Service, values: &str) {
    let row = || Fault::Raw { pairs: vec!["EURUSD".parse().unwrap()], values: values.to_owned(), rows: 1 };
    let adds = |world: &World| {
        let requests = world.simulator().stream_requests();
        requests.iter().map(|request| request.text.matches("LS_op=add").count()).sum::<usize>()
    };
    let asked = adds(world);
    world.simulator().control().apply(row());
    world.wait(service, "another subscription", |world| adds(world) > asked);
    world.simulator().control().apply(row());
}

#[test]
fn a_pair_that_cannot_be_read_is_left_out_and_the_others_stream_on() {
    let world = World::new(hours(8));
    let mut service = world.start("run", &QUICK);
    wait_until(&world, &mut service, START.plus(3 * STEP));
    // A second one ends the session. It is left out for longer than that takes, and tried again
    // long before the market ends.
    unreadable_twice(&world, &mut service, "^X");
    world.wait(&mut service, "one pair left out", |world| state_says(world, "EUR_USD"));
    world.wait(&mut service, "the other pairs", |world| world.simulator().stats().items == 27);
    world.wait(&mut service, "all pairs", |world| world.simulator().stats().items == 28);
    assert!(!world.simulator().has_ended(), "the machine is too slow");
    world.wait_complete(&mut service);
    service.stop();
    let summary = world.verify(Holes::None);
    assert!(!state_says(&world, "EUR_USD"));
    assert_eq!(world.simulator().stats().sessions, 2, "one new session");
    // Those of one pair, and the buckets under way when the session ended.
    let fetched = summary.bars("5", "ig_rest") - 28 * DEPTH as usize;
    assert!(fetched <= 6 * 12 + 3 * 28, "{fetched} bars fetched");
}

#[test]
fn differences_that_were_declined_are_answered_by_a_version_without_any() {
    let world = World::new(hours(12));
    let mut service = world.start("run", &QUICK);
    wait_until(&world, &mut service, START.plus(3 * STEP));
    unreadable_twice(&world, &mut service, "^Tdz|^12");
    world.wait(&mut service, "the older version", |world| state_says(world, "2.3.0"));
    wait_until(&world, &mut service, START.plus(24 * STEP));
    world.wait_complete(&mut service);
    service.stop();
    world.verify(Holes::None);
    assert_eq!((world.simulator().stats().sessions, world.simulator().stats().logins), (2, 1));
}
