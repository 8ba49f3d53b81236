//! What healing costs and when it waits: the whole program against the simulator.

use candlekeep::simulator::faults::{Fault, Script};
use candlekeep::simulator::{Options, Speed};
use rusqlite::Connection;

use serde_json::json;

use super::api::serving;
use super::api_bars::{get, post};
use super::world::{Database, START, STEP, World, market};

/// Changes the database behind the program's back, as time that passes would.
fn change(world: &World, statement: &str) {
    let connection = Connection::open(world.database()).unwrap();
    connection.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    connection.execute_batch(statement).unwrap();
}

fn leave_points(world: &World, left: u32) {
    let simulator = world.simulator();
    simulator.control().schedule(simulator.now(), Fault::Allowance { left });
}

/// Buckets of a stretch of two hours before the market begins.
const STRETCH: &str = "backfill --pairs EURUSD";

fn stretch(line: &str) -> String {
    format!("{line} --from {} --to {}", START.plus(-5 * 3600).0, START.plus(-3 * 3600).0)
}

#[test]
fn a_spent_allowance_is_not_asked_again_before_its_time_and_then_with_care() {
    let world = World::new(market(1));
    let reserve = ("CANDLEKEEP_HISTORY_RESERVE", "0");
    let output = world.output(&stretch(STRETCH), &[reserve]);
    assert_eq!(output.status.code(), Some(0));
    let spent = world.simulator().stats().points_spent;

    // Somebody else has spent the rest, which no number has told.
    leave_points(&world, 0);
    let line = stretch("backfill --pairs GBPUSD");
    let told = |code: i32| {
        let output = world.output(&line, &[reserve]);
        let told = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{told}");
        told
    };
    assert!(told(3).contains("IG says that the week's points are spent"));
    let (refusals, logins) = (world.simulator().stats().rest_refusals, world.simulator().stats().logins);
    assert_eq!(refusals, 1);
    assert!(told(3).contains("IG says that the week's points are spent"));
    let stats = world.simulator().stats();
    assert_eq!((stats.rest_refusals, stats.logins), (refusals, logins), "it was left alone");
    assert_eq!(stats.points_spent, spent);

    // A minute later it is tried again.
    leave_points(&world, 5_000);
    change(&world, "UPDATE allowance SET settled_at = settled_at - 61, booked_at = booked_at - 61");
    assert!(told(0).contains("24 buckets healed for "));
}

#[test]
fn while_the_points_are_spent_the_stream_goes_on_and_a_single_bar_tells_that_there_are_some() {
    let options = Options { speed: Speed::Times(600.0), rows_per_bar: Some(20), ..market(48) };
    let world = World::new(options);
    leave_points(&world, 0);
    let mut service = world.run();
    service.wait_said("the week's points are spent", 1);
    world.wait(&mut service, "streamed bars", |world| world.stored() > 28 * 2);
    let status = String::from_utf8(world.output("status", &[]).stdout).unwrap();
    assert!(status.contains("IG says that the week's points are spent"), "{status}");
    service.stop();
    assert_eq!(world.number("SELECT count(*) FROM allowance"), 1, "it was asked once");

    // An hour later it is tried with a single bar, and still in vain.
    let later = "UPDATE allowance SET settled_at = settled_at - 3601, booked_at = booked_at - 3601";
    change(&world, later);
    let mut service = world.run();
    let length = "SELECT to_ts - from_ts FROM allowance ORDER BY id DESC LIMIT 1";
    service.wait("a probe", || world.number("SELECT count(*) FROM allowance") > 1);
    world.wait(&mut service, "the stream", |world| world.simulator().stats().sessions == 2);
    service.stop();
    assert_eq!((world.number("SELECT count(*) FROM allowance"), world.number(length)), (2, 300));

    // Once there are points again, it heals.
    leave_points(&world, 10_000);
    change(&world, later);
    let mut service = world.run();
    let fetched = "SELECT count(*) FROM candles WHERE source = 'ig_rest'";
    service.wait("history", || world.number(fetched) > 28);
    service.stop();
    let first = "SELECT points FROM allowance WHERE state = 'settled' ORDER BY id LIMIT 1";
    assert_eq!(world.number(first), 1, "the first of them was a single bar");
}

#[test]
fn a_null_price_is_asked_for_a_few_times_across_restarts_and_then_bought_as_fifteen_minutes() {
    let script = r#"[{"do": "null_legs", "pairs": ["EUR_USD"], "times": 1000}]"#;
    let faults = Script::parse(script).unwrap();
    let world = World::new(Options { faults, ..market(2) });
    let mut service = world.run();
    let null_leg = "SELECT from_ts FROM coverage WHERE reason = 'null_leg' AND timeframe = '5' LIMIT 1";
    service.wait("a null price", || world.number(null_leg) > 0);
    world.wait_streamed(&mut service);
    service.stop();
    let bucket = world.number(null_leg);
    let attempts = format!(
        "SELECT times FROM heal_attempts WHERE pair = 'EUR_USD' AND timeframe = '5' AND from_ts <= {bucket} AND to_ts > {bucket}"
    );
    let times = world.number(&attempts);
    assert!(times >= 1, "it is remembered");
    let spent = world.simulator().stats().points_spent;
    let mut service = world.run();
    world.wait(&mut service, "the stream", |world| world.simulator().stats().sessions == 2);
    service.stop();
    // It need not be told anything new: the market has ended.
    assert_eq!(world.simulator().stats().points_spent, spent, "a restart does not forget when to ask again");
    assert_eq!(world.number(&attempts), times);

    // As if it had been asked for seven more times.
    change(&world, "UPDATE heal_attempts SET times = 8, next_at = 0");
    let quarter = bucket - bucket % 900;
    let longer = format!(
        "SELECT count(*) FROM candles WHERE pair = 'EUR_USD' AND timeframe = '15' AND timestamp = {quarter}"
    );
    assert_eq!(world.number(&longer), 0);
    let asked = format!(
        "SELECT count(*) FROM allowance WHERE pair = 'EUR_USD' AND timeframe = '15' AND from_ts <= {quarter} AND to_ts > {quarter}"
    );
    let output = world.output("backfill", &[]);
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(world.number(&asked) > 0, "the longer bar was asked for");
    assert_eq!(world.number(&attempts), 8, "the short one is not asked for any more");
}

#[test]
fn what_cannot_be_healed_for_four_weeks_is_lost_and_can_be_asked_for_again() {
    // Too few points for anything.
    let world = World::new(Options { allowance: 1_000, ..market(2) });
    let mut service = world.run();
    world.wait_streamed(&mut service);
    service.stop();
    let missing =
        world.number("SELECT count(*) FROM coverage WHERE state = 'missing' AND reason = 'first_start'");
    assert!(missing > 0);
    // Six weeks go by: the ledger's own past moves back.
    let days = 42 * 86_400;
    change(
        &world,
        &format!(
            "CREATE TEMP TABLE moved AS SELECT * FROM coverage; DELETE FROM coverage;
             INSERT INTO coverage SELECT pair, timeframe, from_ts - {days}, to_ts - {days}, state, reason, evidence, updated_at
             FROM moved WHERE state = 'missing';
             INSERT INTO coverage SELECT * FROM moved WHERE state <> 'missing';"
        ),
    );
    let output = world.output("backfill", &[]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("are lost"));
    assert!(world.number("SELECT count(*) FROM coverage WHERE state = 'lost' AND reason = 'given_up'") > 0);
    assert_eq!(
        world.number("SELECT count(*) FROM coverage WHERE state = 'missing' AND reason = 'first_start'"),
        0
    );
    let database = Database::open(&world.database()).unwrap();
    let from = database
        .number("SELECT min(from_ts) FROM coverage WHERE state = 'lost' AND timeframe = '5'")
        .unwrap();
    leave_points(&world, 1_000);
    let line = format!("backfill --pairs EURUSD --from {from} --to {}", from + 12 * STEP);
    let output = world.output(&line, &[("CANDLEKEEP_HISTORY_RESERVE", "0")]);
    let again = format!(
        "SELECT count(*) FROM candles WHERE pair = 'EUR_USD' AND timeframe = '5' AND timestamp BETWEEN {from} AND {}",
        from + 12 * STEP
    );
    assert!(world.number(&again) > 0, "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn lost_buckets_are_bought_once_a_day_however_often_they_are_asked_for() {
    let world = World::new(market(1));
    let (mut service, address) = serving(&world, &[]);
    world.wait_complete(&mut service);
    world
        .simulator()
        .control()
        .apply(Fault::NullLegs { pairs: vec!["EURUSD".parse().unwrap()], times: 1_000 });
    // A quarter of an hour, eight weeks ago.
    let from = START.plus(-56 * 86_400).0;
    let to = from + 3 * STEP;
    change(
        &world,
        &format!(
            "INSERT INTO coverage VALUES ('EUR_USD', '5', {from}, {to}, 'lost', 'null_leg', 'healer', 0)"
        ),
    );
    let old = to + 86_400;
    let bought = || world.number(&format!("SELECT total(points) FROM allowance WHERE to_ts <= {old}"));
    let null_leg = format!(
        "SELECT count(*) FROM coverage WHERE from_ts = {from} AND to_ts = {} AND state = 'lost' AND reason = 'null_leg'",
        from + STEP
    );
    let body = json!({ "pair": "EUR_USD", "timeframe": 5, "from": from, "to": to }).to_string();
    let mut ask = || {
        let told = post(address, "/v1/fetch", "application/json", &body).json();
        let place = format!("/v1/fetch/{}", told["id"]);
        world.wait(&mut service, "an end", |_| get(address, &place).json()["state"] == "done");
        let buckets = get(address, &place).json()["buckets"].clone();
        (bought(), buckets["stored"].as_i64().unwrap(), buckets["lost"].as_i64().unwrap())
    };
    assert_eq!(ask(), (3, 2, 1), "the first one has all bought, the null price once");
    assert_eq!(world.number(&null_leg), 1);
    assert_eq!(ask(), (3, 2, 1), "the second one nothing");
    change(&world, "UPDATE fetch_requests SET reopened_at = reopened_at - 86401");
    assert_eq!(ask(), (4, 0, 1), "a day later what is lost is tried again");
    assert_eq!(ask(), (4, 2, 1));
    service.stop();
}

#[test]
fn a_request_that_waits_for_points_says_so_and_until_when() {
    // What the first start wants is more than there is beyond the reserve.
    let world = World::new(Options { allowance: 1_100, ..market(1) });
    let (mut service, address) = serving(&world, &[("CANDLEKEEP_HISTORY_RESERVE", "1000")]);
    service.wait_said("healing waits for points", 1);
    let body = json!({ "pair": "EUR_USD", "timeframe": 5, "from": START.plus(-20 * 3_600).0, "to": START.plus(-18 * 3_600).0 });
    let told = post(address, "/v1/fetch", "application/json", &body.to_string()).json();
    let place = format!("/v1/fetch/{}", told["id"]);
    world.wait(&mut service, "a word", |_| get(address, &place).json()["state"] == "waiting");
    let told = get(address, &place).json();
    let (note, until) = (told["note"].as_str().unwrap(), told["until"].as_i64().unwrap());
    assert!(note.contains(" buckets wait for points, until "), "{told}");
    assert!(until > told["asked_at"].as_i64().unwrap(), "{told}");
    assert!(told["buckets"]["missing"].as_i64().unwrap() > 0, "{told}");
    // Who asks for as much again is told at once.
    let again = post(address, "/v1/fetch", "application/json", &body.to_string()).json();
    assert_eq!((&again["id"], &again["state"], &again["note"]), (&told["id"], &told["state"], &told["note"]));
    assert_eq!(world.number("SELECT count(*) FROM fetch_requests WHERE state = 'taken'"), 1);
    service.stop();
}

#[test]
fn a_login_that_is_refused_is_no_word_about_the_history_that_was_to_be_asked_for() {
    let world = World::new(market(1));
    let mut service = world.run();
    world.wait_complete(&mut service);
    let control = world.simulator().control();
    let (code, path) = ("some.new.code".to_owned(), "session".to_owned());
    // The test of the tokens that have died, and the login that follows.
    control.apply(Fault::RefuseRest { times: 2, status: 403, code, path });
    control.wipe_tokens();
    let first = world.start(&stretch(STRETCH), &[]);
    let is_blamed = service.wait_said_one(&["healing waits", "IG refused a request for history"]) == 1;
    let log = service.log();
    assert!(!is_blamed, "{log:#?}");
    let waits = log.iter().find(|line| line.contains("healing waits")).unwrap();
    assert!(waits.contains("no tokens to ask with") && waits.contains("some.new.code"), "{waits}");
    // Another wish has it look again, and the login succeeds.
    let output = world.output(&stretch("backfill --pairs GBPUSD"), &[]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(first.ended().code, Some(0));
    let log = service.stop();
    let blames = ["refused a request for history", "asking for fewer bars"];
    assert!(!log.iter().any(|line| blames.iter().any(|blame| line.contains(blame))), "{log:#?}");
    let halved = "SELECT count(*) FROM settings WHERE key = 'history.bars_per_request'";
    assert_eq!(world.number(halved), 0);
    // What was booked for the request that was not made is given back.
    assert_eq!(world.number("SELECT count(*) FROM allowance WHERE state <> 'settled'"), 0);
}
