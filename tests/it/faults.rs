//! What goes wrong, and that nothing of it reaches the stored bars.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use candlekeep::clock::Clock;
use candlekeep::domain::{Fact, FactBatch, Mark, Reason, State, Timeframe, Timestamp};
use candlekeep::simulator::faults::Fault;
use candlekeep::simulator::{MarketOptions, Options, RequestZone, RestGarbage, Speed};
use candlekeep::store::{DatabaseUrl, Store};

use super::world::{DEPTH, Database, Holes, START, STEP, STOP_WITHIN, Service, World, market};

#[test]
fn an_outage_is_healed_over_rest() {
    let world = World::new(market(4));
    let outage = START.plus(12 * STEP)..START.plus(20 * STEP);
    world.simulator().control().schedule_outage(outage.start, outage.end);
    let mut service = world.run();
    world.wait_complete(&mut service);
    service.stop();
    let summary = world.verify(Holes::None);

    let database = Database::open(&world.database()).unwrap();
    for (pair, runs) in database.ledger("5") {
        for run in runs.iter().filter(|run| run.to > outage.start.0 && run.from < outage.end.0) {
            assert!(run.evidence.starts_with("rest:"), "{pair}: {run:?}");
        }
    }
    // A point for each bar that came over REST, and two to learn the zone of its dates.
    let fetched = summary.bars("5", "ig_rest") + summary.bars("15", "ig_rest");
    let stats = world.simulator().stats();
    assert!(stats.points_spent <= fetched as u64 + 2, "{} points for {fetched} bars", stats.points_spent);
    // History before the start, the outage, and the bucket under way on each side of it.
    let most = 28 * (2 * DEPTH as usize + 8 + 2);
    assert!(fetched <= most, "{fetched} bars fetched");
    assert_eq!(stats.sessions, 2);
    assert_eq!(stats.logins, 1);
}

#[test]
fn history_that_lags_behind_the_stream_calls_nothing_quiet() {
    // What it lacks at first is asked for again a minute later, by which time it lags no more.
    let world = World::new(Options { speed: Speed::Times(3_600.0), rows_per_bar: Some(20), ..market(6) });
    let control = world.simulator().control();
    let at = START.plus(12 * STEP);
    control.schedule(at.plus(-STEP), Fault::RestBehind { by_s: 1_000, for_s: 4 * 3_600 });
    control.schedule_outage(at, at.plus(4 * STEP + 77));
    let mut service = world.run();
    world.wait_complete(&mut service);
    service.stop();
    world.verify(Holes::None);
}

#[test]
fn holes_are_healed_whatever_the_zone_of_the_account() {
    let heals = |timezone_offset_hours, request_zone| {
        let world = World::new(Options { timezone_offset_hours, request_zone, ..market(2) });
        let at = START.plus(12 * STEP);
        world.simulator().control().schedule_outage(at, at.plus(4 * STEP + 77));
        let mut service = world.run();
        world.wait_complete(&mut service);
        service.stop();
        let summary = world.verify(Holes::None);
        let fetched = summary.bars("5", "ig_rest");
        assert!(fetched >= 28 * 15, "{timezone_offset_hours} {request_zone:?}: {summary:?}");
    };
    std::thread::scope(|scope| {
        for (offset_hours, zone) in [
            (0, RequestZone::AccountLocal),
            (11, RequestZone::AccountLocal),
            (-5, RequestZone::AccountLocal),
            (1, RequestZone::Utc),
            (-5, RequestZone::Utc),
        ] {
            scope.spawn(move || heals(offset_hours, zone));
        }
    });
}

#[test]
fn a_hole_over_a_change_of_daylight_saving_is_healed_bar_for_bar() {
    // Friday 2024-03-29 15:00 UTC, a year's end of winter time in London, and the Friday before its
    // end of summer time.
    for (friday, before, after) in [(1_711_724_400, 0, 1), (1_729_868_400, 1, 0)] {
        let start = Timestamp(friday);
        // Sunday 01:00 UTC.
        let change = start.plus(34 * 3_600);
        let world = World::with_start(
            start,
            Options {
                timezone_offset_hours: before,
                timezone_change: Some((change, after)),
                end: Some(start.plus(67 * 3_600)),
                ..market(0)
            },
        );
        // From an hour after the beginning to Monday 08:00.
        let (from, to) = (start.plus(3_600), start.plus(65 * 3_600));
        world.simulator().control().schedule_outage(from, to);
        let mut service = world.run();
        world.wait_complete(&mut service);
        service.stop();
        let summary = world.verify(Holes::None);
        assert!(summary.bars("5", "ig_rest") > 28 * 12 * 15, "{summary:?}");
        let output = world.output("gaps --verify", &[]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn a_hole_right_after_a_change_of_daylight_saving_is_not_called_quiet() {
    let heals = |start: Timestamp, (before, after), opens: Timestamp| {
        let options = Options {
            timezone_offset_hours: before,
            // Sunday 07:00 UTC or thereabouts.
            timezone_change: Some((opens.plus(-14 * 3_600), after)),
            end: Some(opens.plus(2 * 3_600)),
            ..market(0)
        };
        let world = World::with_start(start, options);
        let control = world.simulator().control();
        // One on Friday, by which the old offset is known, and one in the week's first minutes.
        control.schedule_outage(start.plus(12 * STEP), start.plus(16 * STEP));
        control.schedule_outage(opens.plus(STEP / 2), opens.plus(3 * STEP));
        world.finish(world.run());
        let healed = format!(
            "SELECT count(*) FROM coverage WHERE timeframe = '5' AND state = 'stored' AND evidence LIKE 'rest:%' \
             AND from_ts >= {} AND from_ts < {}",
            opens.0,
            opens.0 + 3 * STEP
        );
        assert!(world.number(&healed) >= 28, "{} runs healed", world.number(&healed));
    };
    // Friday 2024-03-08 20:00 UTC and the beginning of the week in New York's summer time, an hour earlier than
    // before; the Friday of 2024-11-01, and an hour later.
    std::thread::scope(|scope| {
        scope.spawn(|| heals(Timestamp(1_709_928_000), (-5, -4), Timestamp(1_710_104_400)));
        scope.spawn(|| heals(Timestamp(1_730_487_600), (-4, -5), Timestamp(1_730_671_200)));
    });
}

#[test]
fn history_that_is_refused_alone_brings_about_one_login_and_no_more() {
    let world = World::new(Options { speed: Speed::Times(600.0), ..market(48) });
    let (code, path) = ("error.security.client-token-invalid".to_owned(), "prices".to_owned());
    let refused = Fault::RefuseRest { times: u32::MAX, status: 401, code, path };
    world.simulator().control().apply(refused);
    let mut service = world.run();
    let clock = Clock::system();
    world.wait(&mut service, "a first look", |world| world.simulator().stats().rest_refusals >= 1);
    let first = clock.monotonic();
    // Two requests a look, and each look is longer after the one before: half a minute, then a whole.
    world.wait(&mut service, "a third look", |world| world.simulator().stats().rest_refusals >= 5);
    assert!(clock.monotonic() - first > Duration::from_secs(80), "it does not rest");
    // The first one, and the one that the complaint has brought about.
    assert_eq!(world.simulator().stats().logins, 2, "{:#?}", service.log());
    assert_eq!(world.simulator().stats().points_spent, 0);
    service.stop();
}

#[test]
fn instruments_that_are_refused_leave_the_verdict_to_a_login() {
    let world = World::new(market(3));
    // What would end the process for good if a login were answered so.
    let (code, path) = ("error.security.account-access-denied".to_owned(), "markets".to_owned());
    let refused = Fault::RefuseRest { times: 2, status: 403, code, path };
    world.simulator().control().apply(refused);
    let mut service = world.run();
    world.wait_complete(&mut service);
    let (log, _) = world.finish(service);
    assert!(log.iter().any(|line| line.contains("IG refuses to tell of the instruments")), "{log:#?}");
    assert_eq!(world.simulator().stats().logins, 2);
}

#[test]
fn killed_at_any_instant_it_loses_and_doubles_nothing() {
    // More in `.ci/full`.
    let rounds = std::env::var("CANDLEKEEP_KILL_ROUNDS").map_or(2, |rounds| rounds.parse().unwrap());
    let mut killed = 0;
    while killed < rounds {
        killed += kill_through_a_day();
        println!("{killed} kills");
    }
}

/// Kills the program up to five times while a day passes, and compares. Answers how many times.
fn kill_through_a_day() -> u32 {
    // Market time goes on while the program is down. It ends within a bucket, so that a program
    // that starts after the end still learns from the forming candle what time it is.
    let end = Some(START.plus(24 * 3600 + STEP / 2));
    let world =
        World::new(Options { speed: Speed::Times(7_200.0), rows_per_bar: Some(20), end, ..market(0) });
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    // What was seen by a program that was killed before it had written anything is not known.
    let (mut killed, mut known_from) = (0, None);
    while killed < 5 && !world.simulator().has_ended() {
        let mut service = world.run();
        // By lines of the log: while it logs in and fetches history. By bars: while it streams.
        if random.bool() {
            service.wait_lines(random.usize(0..60));
        } else {
            let bars = world.stored() + random.i64(1..1_500);
            world.wait(&mut service, "some bars", |world| {
                world.stored() >= bars || world.simulator().has_ended()
            });
        }
        assert_eq!(service.kill().code, None, "a signal ended it");
        killed += 1;
        if known_from.is_none() && world.number("SELECT count(DISTINCT pair) FROM coverage") == 28 {
            known_from = Some(world.simulator().now());
        }
    }
    assert!(killed > 1, "the market was over too soon");
    let mut service = world.run();
    world.wait_complete(&mut service);
    service.stop();
    let known_from = known_from.unwrap_or_else(|| world.simulator().now());
    let summary = world.verify_from(known_from, Holes::None);
    assert!(summary.bars("5", "websocket") > 0 && summary.bars("5", "ig_rest") >= 28 * 11, "{summary:?}");
    killed
}

#[test]
fn silence_that_a_kill_left_unproved_is_checked_over_rest() {
    let world = World::new(Options { speed: Speed::Times(3_600.0), ..market(5) });
    let mut service = world.run();
    world.wait(&mut service, "an hour of bars", |world| {
        world.simulator().now() > START.plus(12 * STEP) && world.stored() > 0
    });
    service.kill();
    // As if it had seen nothing of one pair for a bucket before it was killed.
    let mut store = Store::open(&DatabaseUrl::sqlite(world.database())).unwrap();
    let pair = "EURUSD".parse().unwrap();
    let seen = store.covered_to(Timeframe::M5).unwrap()[&pair];
    let (timeframe, span) = (Timeframe::M5, seen..seen.plus(STEP));
    let silent = Mark { pair, timeframe, span, state: State::Missing, reason: Reason::Silent };
    let facts = vec![Fact::Marked(silent)];
    store.commit(&[Arc::new(FactBatch { evidence: "ls:killed".into(), facts })], seen).unwrap();
    drop(store);

    world.wait_for("hours without the program", |world| world.simulator().now() > seen.plus(3 * 3600));
    let mut service = world.run();
    world.wait_complete(&mut service);
    service.stop();
    world.verify(Holes::None);
}

#[test]
fn stopped_in_mid_stream_it_goes_on_where_it_was() {
    let world = World::new(Options { speed: Speed::Times(3_600.0), ..market(4) });
    let mut service = world.run();
    world.wait(&mut service, "half an hour of bars", |world| {
        world.simulator().now() > START.plus(6 * STEP) && world.stored() > 0
    });
    service.stop();
    // While it is down, market time goes on.
    world.wait_for("an hour and a half", |world| world.simulator().now() > START.plus(18 * STEP));
    let mut service = world.run();
    world.wait_complete(&mut service);
    service.stop();
    let summary = world.verify(Holes::None);
    assert!(summary.bars("5", "websocket") > 0, "{summary:?}");
}

#[test]
fn wrong_credentials_are_tried_once() {
    let world = World::new(market(1));
    let wrong = [("IG_PASSWORD", "wrong")];
    let refused = |line: &str, variables: &[(&str, &str)], reason: &str, requests: u64| {
        let ended = world.start(line, variables).ended();
        assert_eq!(ended.code, Some(77), "{:#?}", ended.log);
        let begins = format!("<3>candlekeep: IG refuses the credentials: {reason}");
        assert!(ended.reason().starts_with(&begins), "{}", ended.reason());
        assert_eq!(world.simulator().stats().rest_requests, requests, "{line} {variables:?}");
        assert_eq!(world.simulator().stats().logins, requests);
    };
    refused("run", &wrong, "wrong user name or password (error.security.invalid-details)", 1);
    refused("run", &wrong, "refused before and not tried again", 1);
    refused("run --retry-credentials", &wrong, "wrong user name or password", 2);
    refused("run", &wrong, "refused before and not tried again", 2);
    refused("run", &[("IG_PASSWORD", "wrong too")], "wrong user name or password", 3);
    // The right one is not held up by what was wrong before.
    let mut service = world.run();
    world.wait_complete(&mut service);
    service.stop();
    world.verify(Holes::None);
}

#[test]
fn a_wrong_key_is_told_apart_from_a_wrong_password() {
    let world = World::new(market(1));
    let ended = world.start("run", &[("IG_API_KEY", "nonsense")]).ended();
    assert_eq!(ended.code, Some(77), "{:#?}", ended.log);
    assert!(ended.reason().contains("unknown API key, or a demo key on the live host"), "{}", ended.reason());
    assert_eq!(world.simulator().stats().rest_requests, 1);
}

#[test]
fn an_account_that_is_not_there_is_no_reason_to_go_on() {
    let world = World::new(market(1));
    let ended = world.start("run", &[("IG_ACCOUNT_ID", "SIM99")]).ended();
    assert_eq!(ended.code, Some(78), "{:#?}", ended.log);
    assert!(ended.reason().contains("IG_ACCOUNT_ID is none of this client's accounts"), "{}", ended.reason());
    assert_eq!(world.simulator().stats().logins, 1);
    // The user name and the password were right: with another account they are tried again.
    let mut service = world.start("run", &[("IG_ACCOUNT_ID", "SIM01")]);
    world.wait_complete(&mut service);
    service.stop();
}

#[test]
fn a_key_that_is_disabled_while_it_runs_ends_the_process() {
    let world = World::new(Options { speed: Speed::Times(3_600.0), ..market(4) });
    let mut service = world.run();
    world.wait(&mut service, "an hour of market time", |world| {
        world.simulator().now() > START.plus(12 * STEP) && world.stored() > 0
    });
    let control = world.simulator().control();
    let (code, path) = ("error.security.api-key-disabled".to_owned(), "session".to_owned());
    control.apply(Fault::RefuseRest { times: u32::MAX, status: 403, code, path });
    control.end_sessions(48, "Session duration expired");
    let ended = service.ended();
    assert_eq!(ended.code, Some(77), "{:#?}", ended.log);
    assert!(ended.reason().contains("the API key is disabled"), "{}", ended.reason());
    // The market has gone on meanwhile, which no ledger can know of.
    assert_eq!(world.output("gaps --verify", &[]).status.code(), Some(0));
}

#[test]
fn history_that_is_answered_with_garbage_is_asked_for_again() {
    let world = World::new(Options { speed: Speed::Times(3_600.0), ..market(4) });
    let control = world.simulator().control();
    use RestGarbage::{Binary, Empty, Half, Other, Page};
    for what in [Empty, Page, Half, Other, Binary] {
        control.apply(Fault::GarbageRest { what, times: 1, path: "prices".to_owned() });
    }
    let log = world.finish(world.run()).0;
    let unread = log.iter().filter(|line| line.contains("IG's answer cannot be read")).count();
    assert!(unread > 0, "{log:#?}");
}

#[test]
fn dead_tokens_cost_one_login() {
    let world = World::new(Options { speed: Speed::Times(3_600.0), ..market(4) });
    let mut service = world.run();
    world.wait(&mut service, "an hour of market time", |world| {
        world.simulator().now() > START.plus(12 * STEP) && world.stored() > 0
    });
    let control = world.simulator().control();
    control.wipe_tokens();
    control.cut_streams();
    world.wait_complete(&mut service);
    service.stop();
    world.verify(Holes::None);
    let stats = world.simulator().stats();
    assert_eq!((stats.logins, stats.sessions), (2, 2));
}

#[test]
fn a_broker_that_was_gone_altogether_is_met_again() {
    let seeded = |start| MarketOptions::Seeded { seed: 7, start: Some(start) };
    let hours = |from: Timestamp| Options {
        market: seeded(from),
        speed: Speed::Times(3_600.0),
        end: Some(START.plus(4 * 3600)),
        ..market(0)
    };
    let mut world = World::new(hours(START));
    let mut service = world.run();
    world.wait(&mut service, "an hour of market time", |world| {
        world.simulator().now() > START.plus(12 * STEP) && world.stored() > 0
    });
    // It comes back half an hour later, and has forgotten who was logged in.
    let later = world.simulator().now().plus(6 * STEP + 77);
    world.replace(hours(later));
    world.wait_complete(&mut service);
    let log = service.stop();
    world.verify(Holes::None);
    assert_eq!(world.simulator().stats().logins, 1);
    assert!(log.iter().any(|line| line.contains("streaming session over")), "{log:#?}");
}

#[test]
fn a_locked_database_is_waited_for() {
    let world = World::new(Options { speed: Speed::Times(3_600.0), ..market(4) });
    let mut service = world.run();
    world.wait(&mut service, "the first hour's bars", |world| {
        world.number("SELECT count(*) FROM candles WHERE source = 'websocket'") > 28 * 8
    });
    let held = rusqlite::Connection::open(world.database()).unwrap();
    held.execute_batch("BEGIN EXCLUSIVE").unwrap();
    service.wait_said("the database is away, bars go to the spool", 1);
    held.execute_batch("ROLLBACK").unwrap();
    drop(held);
    world.wait_complete(&mut service);
    service.stop();
    let summary = world.verify(Holes::None);
    // None was fetched again that had come over the stream.
    assert_eq!(summary.bars("5", "ig_rest"), 28 * DEPTH as usize, "{summary:?}");
}

/// A service that has logged in and finds its database locked before it has built anything.
fn locked_after_the_login(world: &World) -> (Service, rusqlite::Connection) {
    let (code, path) = ("error.service.marketdata.unavailable".to_owned(), "markets".to_owned());
    world.simulator().control().apply(Fault::RefuseRest { times: 1, status: 503, code, path });
    let mut service = world.run();
    // Made while it pauses before it asks again what there is to build.
    service.wait_said("cannot start yet", 1);
    let lock = rusqlite::Connection::open(world.database()).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    service.wait_said("instruments known", 1);
    (service, lock)
}

#[test]
fn a_database_that_is_locked_after_the_login_is_waited_for() {
    let world = World::new(Options { speed: Speed::Times(3_600.0), ..market(4) });
    let (mut service, lock) = locked_after_the_login(&world);
    service.wait_said("the database is away, waiting for it", 1);
    lock.execute_batch("ROLLBACK").unwrap();
    world.finish(service);
    assert_eq!(world.simulator().stats().logins, 1);
}

#[test]
fn told_to_stop_while_it_is_built_it_stops_in_good_order() {
    for gives_back in [true, false] {
        let world = World::new(Options { speed: Speed::Times(3_600.0), ..market(4) });
        let (service, lock) = locked_after_the_login(&world);
        service.signal("-TERM");
        if gives_back {
            // It is built to its end, and then hears of it.
            lock.execute_batch("ROLLBACK").unwrap();
        }
        let log = service.ended().orderly();
        for said in ["told to stop", "logged out"] {
            assert!(log.iter().any(|line| line.contains(said)), "{gives_back}: {said}: {log:#?}");
        }
    }
}

#[test]
fn time_in_which_a_pair_is_not_watched_is_no_gap() {
    let world = World::new(Options { speed: Speed::Times(3_600.0), ..market(6) });
    let without = [("CANDLEKEEP_PAIRS", "{ GBP_USD = false }")];
    let mut ends = Vec::new();
    for (line, hour) in [(&[][..], 1), (&without[..], 4)] {
        let mut service = world.start("run", line);
        let until = START.plus(hour * 3600);
        world.wait(&mut service, "hours of market time", |world| world.simulator().now() > until);
        service.stop();
        ends.push(world.simulator().now());
    }
    let mut service = world.run();
    world.wait_complete(&mut service);
    service.stop();
    let database = Database::open(&world.database()).unwrap();
    let ledger = database.ledger("5");
    let holes = |pair: &str| {
        let gaps = ledger[pair].windows(2).filter(|two| two[0].to < two[1].from);
        gaps.map(|two| (two[0].to, two[1].from)).collect::<Vec<_>>()
    };
    assert_eq!(holes("EUR_USD"), []);
    let [(from, to)] = holes("GBP_USD")[..] else { panic!("{:#?}", ledger["GBP_USD"]) };
    assert!(from <= ends[0].0 && to < ends[1].0, "{from} to {to}");
    assert!(to - from > 12 * STEP, "{from} to {to}");
    let bars = database.bars("5");
    assert_eq!(bars["GBP_USD"].range(from..to).count(), 0);
    let feeds = "SELECT count(*) FROM feeds WHERE pair = 'GBP_USD'";
    assert_eq!(database.number(feeds), Some(2));
    world.verify_but(&["GBP_USD"], Holes::None);
}

#[test]
fn an_unreachable_host_is_tried_again_and_again() {
    let world = World::new(market(1));
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{unused}/gateway/deal");
    let mut service = world.start("run", &[("IG_API_URL", &url)]);
    let attempt = "cannot start yet";
    service.wait_said(attempt, 2);
    let ended = service.terminate();
    assert_eq!(ended.code, Some(0), "{:#?}", ended.log);
    assert!(ended.took < STOP_WITHIN / 2, "{:?}", ended.took);
    for line in ended.log.iter().filter(|line| !line.contains("told to stop")) {
        assert!(
            line.starts_with("<4>") && line.contains(attempt),
            "one warning an attempt: {:#?}",
            ended.log
        );
        assert!(line.contains(&unused.to_string()), "{line}");
    }
    assert_eq!(world.stored(), 0);
    assert_eq!(world.number("SELECT count(*) FROM coverage"), 0);
    assert_eq!(world.number("SELECT count(*) FROM feeds"), 0);
    // The file is sound, and bound to no market that it knows nothing of.
    let mut service = world.run();
    world.wait_complete(&mut service);
    service.stop();
    world.verify(Holes::None);
}

#[test]
fn a_market_of_the_past_asks_for_the_clock_of_the_stream() {
    // Long enough for a slow machine: the first program hears some of it before it is gone.
    let world = World::new(market(72));
    let ended = world.start("run", &[("CANDLEKEEP_CLOCK", "")]).ended();
    assert_eq!(ended.code, Some(78), "{:#?}", ended.log);
    assert!(ended.reason().starts_with("<3>candlekeep: "), "{}", ended.reason());
    assert!(ended.reason().contains("CANDLEKEEP_CLOCK=stream"), "{}", ended.reason());
    // Taken at its word, it goes on with the same file, in which nothing stands yet.
    assert_eq!(world.number("SELECT count(*) FROM coverage"), 0);
    // Market time stands still once the simulator has seen that the program is gone.
    world.wait_for("nobody to listen", |world| world.simulator().stats().items == 0);
    let start = world.simulator().now();
    let mut service = world.run();
    world.wait_complete(&mut service);
    service.stop();
    world.verify_from(start, Holes::None);
}

#[test]
fn a_slow_market_of_the_past_leaves_no_trace_either() {
    // Its first rows are snapshots, and a second may pass before there are others.
    let start = START.plus(150);
    let world = World::new(Options {
        market: MarketOptions::Seeded { seed: 7, start: Some(start) },
        speed: Speed::Times(1.0),
        rows_per_bar: Some(100),
        ..market(1)
    });
    let ended = world.start("run", &[("CANDLEKEEP_CLOCK", "")]).ended();
    assert_eq!(ended.code, Some(78), "{:#?}", ended.log);
    assert!(ended.reason().contains("CANDLEKEEP_CLOCK=stream"), "{}", ended.reason());
    assert_eq!(world.number("SELECT count(*) FROM coverage"), 0);
}

#[test]
fn a_database_of_another_environment_is_left_alone() {
    let world = World::new(market(1));
    let url = DatabaseUrl::sqlite(world.database());
    Store::open(&url).unwrap().bind_environment("demo", false).unwrap();
    let ended = world.start("run", &[]).ended();
    assert_eq!(ended.code, Some(78), "{:#?}", ended.log);
    assert!(
        ended.reason().contains("bound to environment \"demo\", not to \"custom\""),
        "{}",
        ended.reason()
    );
    assert_eq!(ended.log.len(), 1, "{:#?}", ended.log);
    assert_eq!(world.simulator().stats().rest_requests, 0, "nothing was asked of the broker");
    let mut service = world.start("run --accept-feed-change", &[]);
    world.wait_complete(&mut service);
    service.stop();
    world.verify(Holes::None);
    // It is bound to the new one now.
    let mut service = world.run();
    world.wait(&mut service, "the stream", |world| world.simulator().stats().sessions == 2);
    service.stop();
}

#[test]
fn with_the_allowance_nearly_spent_the_stream_goes_on() {
    // The reserve of 1000 points is the operator's, which leaves 100.
    let world = World::new(Options { allowance: 1_100, ..market(2) });
    let mut service = world.run();
    world.wait_streamed(&mut service);
    service.wait_said("the allowance is short", 1);
    let log = service.stop();
    let summary = world.verify(Holes::Listed);
    let spent = world.simulator().stats().points_spent;
    assert!((1..=100).contains(&spent), "{spent} points");
    assert!(summary.bars("5", "websocket") > 28 * 20, "{summary:?}");
    let first_start = summary.buckets.get(&("missing".to_owned(), "first_start".to_owned()));
    assert!(first_start.is_some_and(|buckets| *buckets > 28 * 5), "{summary:?}");
    assert_eq!(log.iter().filter(|line| line.contains("the allowance is short")).count(), 1, "{log:#?}");

    // A restart does not forget what is spent.
    let mut service = world.run();
    world.wait(&mut service, "the stream", |world| world.simulator().stats().sessions == 2);
    service.stop();
    assert_eq!(world.simulator().stats().points_spent, spent);
}

#[test]
fn with_the_allowance_spent_the_stream_goes_on() {
    let world = World::new(Options { allowance: 0, ..market(2) });
    let mut service = world.run();
    world.wait_streamed(&mut service);
    service.wait_said("the week's points are spent", 1);
    service.stop();
    let summary = world.verify(Holes::Listed);
    let stats = world.simulator().stats();
    assert_eq!(stats.points_spent, 0);
    assert!(summary.bars("5", "websocket") > 28 * 20, "{summary:?}");
    assert!(stats.rest_refusals <= 2, "{} refusals", stats.rest_refusals);
}

#[test]
fn a_database_that_cannot_be_made_is_one_clear_line() {
    let world = World::new(market(1));
    std::fs::create_dir(world.folder().join("a_folder.db")).unwrap();
    std::fs::write(world.folder().join("a_file"), "").unwrap();
    for (path, names) in [
        ("missing/candlekeep.db", "missing/candlekeep.db"),
        ("a_folder.db", "a_folder.db"),
        ("a_file/candlekeep.db", "a_file/candlekeep.db"),
    ] {
        let url = format!("sqlite://{path}");
        let ended = world.start("run", &[("DATABASE_URL", &url)]).ended();
        assert_eq!(ended.code, Some(78), "{path}: {:#?}", ended.log);
        assert_eq!(ended.log.len(), 1, "{path}: {:#?}", ended.log);
        assert!(ended.reason().contains(names), "{path}: {}", ended.reason());
    }
    assert_eq!(world.simulator().stats().rest_requests, 0);
    let left = std::fs::read_dir(world.folder()).unwrap().count();
    assert_eq!(left, 2, "something was left behind");
}

#[test]
fn an_unknown_pair_is_a_wrong_usage() {
    let world = World::new(market(1));
    drop(Store::open(&DatabaseUrl::sqlite(world.database())).unwrap());
    let output = world.output("candles USD_EUR 5", &[]);
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.starts_with("<3>candlekeep: USD_EUR is not watched and has no bars; did you mean EUR_USD?")
    );
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(output.stdout.is_empty());
}

#[test]
fn outages_that_follow_each_other_are_each_healed() {
    let world = World::new(Options { speed: Speed::Times(7_200.0), ..market(16) });
    let mut service = world.run();
    for outage in 1..=3 {
        world.wait(&mut service, "the stream", |world| {
            let stats = world.simulator().stats();
            stats.sessions == outage && stats.items == 28
        });
        let at = world.simulator().now().plus(4 * STEP);
        world.simulator().control().schedule_outage(at, at.plus(3 * STEP + 100));
        world.wait(&mut service, "the outage", |world| world.simulator().stats().items == 0);
    }
    world.wait_complete(&mut service);
    service.stop();
    world.verify(Holes::None);
    assert!(world.simulator().stats().sessions >= 4);
}
