//! How the service's last run ended, as the database keeps it and `status` and `doctor` tell it; and that a service which
//! is frozen is not taken for a sound one.

use std::net::TcpListener;

use candlekeep::simulator::{Options, Speed};
use serde_json::{Value, json};

use super::world::{World, market};

/// Ten hours of market time that last ten minutes: longer than any test.
fn world() -> World {
    World::new(Options { speed: Speed::Times(60.0), ..market(10) })
}

fn printed(world: &World, line: &str) -> String {
    String::from_utf8(world.output(line, &[]).stdout).unwrap()
}

/// What `status` says of the last run, for programs.
fn last_run(world: &World) -> Value {
    let told: Value = serde_json::from_str(&printed(world, "status --format json")).unwrap();
    told["last_run"].clone()
}

/// The line of a report that is about this: with its name first, or behind its level.
fn line<'a>(report: &'a str, about: &str) -> &'a str {
    let is_it = |line: &&str| line.split_whitespace().take(2).any(|word| word == about);
    report.lines().find(is_it).unwrap_or_else(|| panic!("{about} in {report}"))
}

/// Expects this end of the last run in `status`, and these words of doctor's about it.
fn expect_end(world: &World, exit: Option<u8>, why: &str, doctor: &[&str]) {
    let run = last_run(world);
    assert_eq!((&run["exit"], &run["running"]), (&json!(exit), &json!(false)), "{run}");
    if exit.is_some() {
        assert_eq!(run["why"], why, "{run}");
        assert!(run["ended_at"].as_i64() >= run["began_at"].as_i64(), "{run}");
    }
    let status = printed(world, "status");
    let service = line(&status, "service");
    let how = exit.map_or("ended without a word".to_owned(), |exit| format!(" with exit {exit}: {why}"));
    assert!(
        service.starts_with("service   not running; the last run began ") && service.contains(&how),
        "{service}"
    );
    // It takes the lease to log in, and leaves the record as it was.
    for _ in 0..2 {
        let report = printed(world, "doctor");
        let service = line(&report, "service");
        assert!(doctor.iter().all(|words| service.contains(words)), "{doctor:?} in {service}");
    }
    assert_eq!(last_run(world), run, "doctor leaves it as it is");
}

#[test]
fn each_end_of_the_service_is_kept_and_told_with_what_mends_it() {
    let world = world();
    let refused = world.start("run", &[("IG_PASSWORD", "wrong")]).ended();
    let why = refused.reason().strip_prefix("<3>candlekeep: ").unwrap().to_owned();
    expect_end(&world, Some(77), &why, &["WARN ", &why, "change IG_API_KEY"]);

    let mut service = world.start("run --retry-credentials", &[]);
    service.wait_said("collecting", 1);
    let run = last_run(&world);
    assert_eq!((&run["pid"], &run["running"]), (&json!(service.pid()), &json!(true)), "{run}");
    assert_eq!((&run["exit"], &run["ended_at"]), (&Value::Null, &Value::Null), "{run}");
    let status = printed(&world, "status");
    let expected = format!("service   run, pid {} on ", service.pid());
    assert!(status.contains(&expected) && line(&status, "service").contains(", running since "), "{status}");
    // Who is refused beside it leaves its record alone.
    assert_eq!(world.run().ended().code, Some(1));
    assert_eq!(last_run(&world), run);
    service.stop();
    expect_end(&world, Some(0), "told to stop", &["ok    service"]);

    let mut service = world.run();
    service.wait_said("collecting", 1);
    service.kill();
    expect_end(&world, None, "", &["WARN ", "ended without a word", "candlekeep run", "journalctl"]);

    // A start that ends before IG is asked for anything: the database is of the simulator.
    let other = world.start("run", &[("IG_API_URL", "")]).ended();
    let why = other.reason().strip_prefix("<3>candlekeep: ").unwrap().to_owned();
    assert_eq!(other.code, Some(78), "{:#?}", other.log);
    assert!(why.contains("environment"), "{why}");
    expect_end(&world, Some(78), &why, &["WARN ", &why, "change what it names"]);
}

#[test]
fn a_room_that_fails_again_and_again_and_a_blocked_thread_are_told_as_the_reason() {
    for (options, reason) in [
        ("--failpoint aggregator.told:60+=panic", "the aggregator room has failed 6 times"),
        ("--patience 12 --failpoint aggregator.told:30=block", "the thread of the rooms is blocked"),
    ] {
        // Where much happens in little time.
        let world = World::new(Options { speed: Speed::Times(300.0), ..market(3) });
        let ended = world.start(&format!("run {options}"), &[]).ended();
        assert_eq!(ended.code, Some(1), "{:#?}", ended.log);
        let run = last_run(&world);
        let why = run["why"].as_str().unwrap_or_else(|| panic!("{run}"));
        assert!(ended.reason().contains(why) && why.contains(reason), "{why} of {}", ended.reason());
        assert_eq!(run["exit"], 1);
    }
}

#[test]
fn a_frozen_service_is_not_called_sound_nor_its_address_another_programs() {
    let world = world();
    // An address that is free now; whoever takes it meanwhile makes the service say so.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let http = [("CANDLEKEEP_HTTP", address.as_str())];
    let mut service = world.start("run", &http);
    service.http_address();
    service.wait_said("collecting", 1);
    let doctor = |world: &World| String::from_utf8(world.output("doctor", &http).stdout).unwrap();
    let report = doctor(&world);
    assert!(line(&report, "service").starts_with("ok "), "{report}");
    assert!(line(&report, "http").contains("is the service's, pid"), "{report}");
    assert!(!printed(&world, "status").contains("no sign of life"));

    service.pause();
    // As if it had been so for long.
    let database = rusqlite::Connection::open(world.database()).unwrap();
    database
        .execute("UPDATE lease SET renewed_at = renewed_at - 60, expires_at = expires_at - 60", [])
        .unwrap();
    drop(database);
    let status = printed(&world, "status");
    assert!(status.contains("\n          WARN: no sign of life for "), "{status}");
    let report = doctor(&world);
    let told = line(&report, "service");
    assert!(told.starts_with("WARN ") && told.contains(&format!("kill -CONT {}", service.pid())), "{told}");
    let told = line(&report, "http");
    assert!(told.starts_with("WARN ") && told.contains("it is the service's"), "{told}");
    assert!(!report.contains("another program"), "{report}");

    service.go_on();
    world.wait(&mut service, "a sign of life", |world| !printed(world, "status").contains("no sign of life"));
    service.stop();
}
