//! `backfill`, `candles --fetch` and the hand-over to a running service: the real binary against the
//! simulator.

use std::process::Output;

use candlekeep::clock::Clock;
use candlekeep::domain::Timestamp;
use candlekeep::simulator::Options;

use crate::world::{DEPTH, Holes, START, World, market};

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs a command that must end with this code; what it says.
fn ends(world: &World, line: &str, variables: &[(&str, &str)], code: i32) -> String {
    let output = world.output(line, variables);
    assert_eq!(output.status.code(), Some(code), "{line}\n{}", text(&output));
    text(&output)
}

fn points(world: &World) -> u64 {
    world.simulator().stats().points_spent
}

/// A stretch of two hours before the market of the tests begins, all pairs open: 24 buckets.
fn two_hours() -> String {
    format!("--from {} --to {}", START.plus(-5 * 3600).0, START.plus(-3 * 3600).0)
}

/// The 5-minute bars stored of a pair that are not those that happened.
fn wrong_bars(world: &World, pair: &str) -> usize {
    let database = crate::world::Database::open(&world.database()).expect("there is a database");
    let truth = world.simulator().truth();
    let known = truth.pairs().iter().find(|known| crate::world::name(**known) == pair).copied().unwrap();
    let bars = database.bars("5").remove(pair).unwrap_or_default();
    bars.iter()
        .filter(|(start, row)| {
            let happened = truth.bar(known, candlekeep::domain::Timeframe::M5, Timestamp(**start));
            happened.is_none_or(|bar| crate::world::row_of(&bar) != (row.prices, row.volume))
        })
        .count()
}

#[test]
fn a_plan_asks_nothing_of_anybody() {
    let world = World::new(market(1));
    let told = ends(&world, "backfill --plan", &[], 0);
    assert!(told.contains("\nEUR_USD   5  ") && told.contains("56 requests, at most "), "{told}");
    assert!(told.contains("10000 data points left"), "{told}");
    let stretch = ends(&world, &format!("backfill --plan --pairs EURUSD,gbpusd {}", two_hours()), &[], 0);
    assert!(stretch.contains("2 requests, at most 48 data points"), "{stretch}");
    let json = ends(&world, &format!("backfill --plan --format json {}", two_hours()), &[], 0);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["points"], &json["requests"][0]["points"]), (&(28 * 24).into(), &24.into()));
    assert_eq!(world.simulator().stats().rest_requests, 0, "nobody was asked");
    assert!(!world.database().exists(), "no database was made");
}

#[test]
fn the_first_history_is_fetched_without_a_stream_and_the_second_time_costs_nothing() {
    let world = World::new(market(1));
    let told = ends(&world, "backfill", &[], 0);
    assert!(told.contains(" buckets healed for "), "{told}");
    let spent = points(&world);
    // Twelve bars of each length, of which the last are derived, and one to learn the time.
    assert!(spent <= 28 * (DEPTH as u64 * 2) + 1, "{spent}");
    assert_eq!(world.number("SELECT count(*) FROM coverage WHERE state = 'missing'"), 0);
    let bars = world.number("SELECT count(*) FROM candles");
    assert!(bars >= 28 * 2 * (DEPTH - 1), "{bars}");
    ends(&world, "backfill", &[], 0);
    assert_eq!(points(&world), spent + 1, "but for the time");
    ends(&world, "gaps --verify", &[], 0);
    // What streams later goes on from there.
    let mut service = world.run();
    world.wait_complete(&mut service);
    service.stop();
    world.verify(Holes::None);
}

#[test]
fn a_stretch_of_the_past_is_fetched_once_and_is_right() {
    let world = World::new(market(1));
    let line = format!("backfill --pairs EURUSD,USDJPY {}", two_hours());
    let told = ends(&world, &line, &[], 0);
    // One point to learn the time, which the stream does not tell, and one for the zone of ranges.
    assert!(told.contains("48 buckets healed for 50 data points."), "{told}");
    assert_eq!(world.number("SELECT count(*) FROM candles WHERE timeframe = '5'"), 48);
    assert_eq!(world.number("SELECT count(*) FROM candles WHERE timeframe = '15'"), 16, "derived");
    assert_eq!(world.number("SELECT count(DISTINCT pair) FROM candles"), 2);
    assert_eq!((wrong_bars(&world, "EUR_USD"), wrong_bars(&world, "USD_JPY")), (0, 0));
    let (spent, logins) = (points(&world), world.simulator().stats().logins);
    let told = ends(&world, &line, &[], 0);
    assert!(told.contains("0 buckets healed for 0 data points."), "{told}");
    assert_eq!((points(&world), world.simulator().stats().logins), (spent, logins), "not even a login");
    // A longer stretch costs what it has besides.
    let longer = format!(
        "backfill --pairs EURUSD --from {} --to {}",
        START.plus(-5 * 3600).0,
        START.plus(-2 * 3600).0
    );
    ends(&world, &longer, &[], 0);
    assert_eq!(points(&world), spent + 12 + 2);
    // 15-minute bars alone cost a third.
    let quarters = format!(
        "backfill --pairs GBPUSD --timeframes 15 --from {} --to {}",
        START.plus(-5 * 3600).0,
        START.plus(-3 * 3600).0
    );
    ends(&world, &quarters, &[], 0);
    assert_eq!(points(&world), spent + 12 + 2 + 8 + 2);
    // Nobody watched, so nothing is missing since; and the first start is one all the same.
    ends(&world, "gaps --verify", &[], 0);
    let mut service = world.run();
    world.wait_complete(&mut service);
    service.stop();
    ends(&world, "gaps --verify", &[], 0);
    assert_eq!(world.number("SELECT count(*) FROM coverage WHERE reason = 'offline'"), 0);
}

#[test]
fn told_to_stop_it_goes_on_where_it_stopped() {
    let world = World::new(market(1));
    let line = format!("backfill {}", two_hours());
    // Four requests a second.
    let mut first = world.start(&line, &[("CANDLEKEEP_HISTORY_REQUESTS_PER_MINUTE", "240")]);
    first.wait("some bars", || world.number("SELECT count(*) FROM candles WHERE timeframe = '5'") >= 48);
    let ended = first.interrupt();
    assert_eq!(ended.code, Some(3), "{:#?}", ended.log);
    let stored = world.number("SELECT count(*) FROM candles WHERE timeframe = '5'");
    assert!(stored < 28 * 24, "there was nothing left to stop");
    ends(&world, &line, &[], 0);
    assert_eq!(world.number("SELECT count(*) FROM candles WHERE timeframe = '5'"), 28 * 24);
    assert_eq!(points(&world), 28 * 24 + 4, "each bar once, and time and zone twice");
}

#[test]
fn beside_a_running_service_that_does_the_fetching() {
    let world = World::new(market(4));
    let mut service = world.run();
    service.wait("the first bars", || world.stored() > 28);
    let told = ends(&world, &format!("backfill --pairs EURUSD {}", two_hours()), &[], 0);
    assert!(
        told.contains("The running service fetches it") && told.contains("24 buckets healed for "),
        "{told}"
    );
    let line = format!(
        "candles EURUSD 5 --from {} --to {} --fetch --format csv",
        START.plus(-6 * 3600).0,
        START.plus(-5 * 3600).0
    );
    let printed = world.output(&line, &[]);
    assert_eq!(printed.status.code(), Some(0), "{}", text(&printed));
    assert_eq!(String::from_utf8_lossy(&printed.stdout).lines().count(), 1 + 12);
    assert_eq!(world.simulator().stats().logins, 1, "the service's own");
    world.wait_complete(&mut service);
    service.stop();
    assert_eq!(wrong_bars(&world, "EUR_USD"), 0);
    ends(&world, "gaps --verify", &[], 0);
    let explained = ends(&world, &format!("explain EURUSD {}", START.plus(-5 * 3600).0), &[], 0);
    assert!(explained.contains("IG's history") && explained.contains("rest:"), "{explained}");
}

#[test]
fn of_the_future_nothing_is_fetched_planned_or_called_healed() {
    let world = World::new(market(1));
    let future = "--pairs EUR_USD --from 2030-01-01 --to 2030-01-02";
    let line = format!("backfill {future}");
    // Nobody knows what time it is in the market until it is asked.
    let told = ends(&world, &line, &[], 3);
    assert!(told.contains("0 buckets healed for "), "{told}");
    assert!(told.contains("Refused: EUR_USD 5: 2030-01-01T00:00:00Z lies in the future."), "{told}");
    let mut service = world.run();
    world.wait_streamed(&mut service);
    for line in [&*line, &format!("backfill --plan {future}"), "candles EUR_USD 5 --fetch --from 2030-01-01"]
    {
        let told = ends(&world, line, &[], 2);
        assert!(told.contains("2030-01-01T00:00:00Z lies in the future: the market's own clock"), "{told}");
    }
    let explained = ends(&world, "explain EUR_USD 2030-01-01 15", &[], 0);
    assert!(explained.contains("future    2030-01-01T00:00:00Z lies in the future"), "{explained}");
    assert_eq!(world.number("SELECT count(*) FROM fetch_requests"), 1, "of before the service");
    service.stop();
}

#[test]
fn a_plan_ends_at_this_machines_clock_and_says_what_the_market_may_not_have_come_to() {
    let world = World::new(market(1));
    let future = ends(&world, "backfill --plan --from 2099-01-01 --to 2099-01-02", &[], 2);
    assert!(future.contains("2099-01-01T00:00:00Z lies in the future"), "{future}");
    let plan = |line: &str| {
        let told = ends(&world, &format!("backfill --plan --format json --pairs EURUSD {line}"), &[], 0);
        serde_json::from_str::<serde_json::Value>(&told).unwrap()
    };
    assert!(plan(&two_hours())["known_to"].is_null(), "there is no ledger");
    let mut service = world.run();
    world.wait_complete(&mut service);
    service.stop();
    let (end, wall) =
        (world.number("SELECT max(to_ts) FROM coverage WHERE timeframe = '5'"), Clock::system().wall());
    assert!(plan(&two_hours())["known_to"].is_null(), "the ledger goes further");
    // In three days there is one on which the market trades.
    let line = format!("--from {} --to {}", wall.plus(-3 * 86_400).0, wall.plus(365 * 86_400).0);
    let told = plan(&line);
    let requests = told["requests"].as_array().unwrap();
    assert!(!requests.is_empty(), "{told}");
    let reaches = requests.iter().map(|request| request["to"].as_i64().unwrap()).max();
    assert!(reaches.unwrap() <= Clock::system().wall().0, "{told}");
    assert_eq!(told["known_to"], end);
    let told = ends(&world, &format!("backfill --plan --pairs EURUSD {line}"), &[], 0);
    let known_to = Timestamp(end);
    assert!(told.contains(&format!("The ledger ends at {known_to}: what lies behind it")), "{told}");
    let future = ends(&world, "backfill --plan --from 2099-01-01 --to 2099-01-02", &[], 2);
    assert!(future.contains("2099-01-01T00:00:00Z lies in the future"), "{future}");
}

#[test]
fn what_cannot_be_paid_for_is_said_and_nothing_beyond_is_asked() {
    let world = World::new(Options { allowance: 1_100, ..market(1) });
    // The first answer tells what is left: a thousand are kept.
    let told = ends(&world, &format!("backfill {}", two_hours()), &[], 3);
    assert!(told.contains("buckets wait for points, until "), "{told}");
    assert!(points(&world) <= 100, "{}", points(&world));
    let plan = ends(&world, &format!("backfill --plan --format json {}", two_hours()), &[], 0);
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    let waiting = plan["waiting"]["buckets"].as_i64().unwrap();
    assert_eq!(waiting + world.number("SELECT count(*) FROM candles WHERE timeframe = '5'"), 28 * 24);
    // The newest of all pairs came, not all of some.
    assert_eq!(world.number("SELECT count(DISTINCT pair) FROM candles"), 28);
}

#[test]
fn what_nobody_collects_is_refused() {
    let world = World::new(market(1));
    for (line, why) in [
        ("backfill --pairs EURNOK", "EUR_NOK is not collected"),
        ("backfill --timeframes 30", "30 is not among the timeframes kept"),
        ("backfill --to 2024-01-01", "--to needs a --from"),
        ("backfill --from 2024-01-02 --to 2024-01-01", "is not before"),
        ("backfill --from 2010-01-02 --to 2024-01-01", "longer than three years"),
    ] {
        let told = ends(&world, line, &[], 2);
        assert!(told.contains(why) && told.lines().count() == 1, "{line}: {told}");
    }
    assert_eq!(world.simulator().stats().rest_requests, 0);
    assert!(!world.database().exists());
}
