//! `/readyz` of the real binary, beside what the view says in bare SQL.

use std::time::Duration;

use serde_json::{Value, json};

use super::api::{ask, serving};
use super::away;
use super::clock::{self, Dial};
use super::world::World;

#[test]
fn a_service_is_ready_unless_its_bars_wait_in_the_spool() {
    let world = away::world();
    let (mut service, address) = serving(&world, &[]);
    let ready = || ask(address, "GET /readyz", "");
    service.wait("all pairs ready", || ready().status == 200);
    let lock = away::lock_out(&world, &mut service, 2);
    service.wait("not ready", || ready().status == 503);
    let told = ready().json();
    let why = told["why"][0].as_str().unwrap();
    assert!(why.ends_with("facts wait in the spool for the database"), "{told}");
    assert!(ask(address, "GET /metrics", "").body.contains("\ncandlekeep_ready 0\n"));
    lock.give_back();
    world.wait_complete(&mut service);
    service.wait("all pairs ready", || ready().status == 200);
    let told = ready().json();
    assert_eq!((&told["ready"], &told["why"]), (&json!(true), &json!([])));
    let pairs = told["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 28 * 2);
    for pair in pairs {
        let of = |column: &str| {
            let (name, timeframe) = (pair["pair"].as_str().unwrap(), pair["timeframe"].as_str().unwrap());
            world.number(&format!(
                "SELECT {column} FROM freshness WHERE pair = '{name}' AND timeframe = '{timeframe}'"
            ))
        };
        assert_eq!((&pair["fresh"], &pair["why"]), (&json!(true), &Value::Null), "{pair}");
        assert_eq!(pair["last"], of("last_timestamp"), "{pair}");
        assert_eq!(pair["expected_by"], of("expected_by"), "{pair}");
    }
    assert!(ask(address, "GET /metrics", "").body.contains("\ncandlekeep_ready 1\n"));
    // One that is long without its bar keeps nobody from trading another.
    let forget = "DELETE FROM candles WHERE pair = 'USD_JPY' AND timeframe = '5'";
    assert!(writing(&world).execute(forget, []).unwrap() > 0);
    service.wait("not ready", || ready().status == 503);
    for (query, status, count) in [
        ("pairs=USD_JPY,EUR_USD", 503, 4),
        ("pairs=USD_JPY&timeframes=15", 200, 1),
        ("pairs=EUR_USD,GBP_USD&timeframes=5", 200, 2),
        ("timeframes=15", 200, 28),
    ] {
        let told = ask(address, &format!("GET /readyz?{query}"), "");
        assert_eq!(told.status, status, "{query}: {told:?}");
        assert_eq!(told.json()["pairs"].as_array().unwrap().len(), count, "{query}");
    }
    let told = ask(address, "GET /readyz?pairs=EUR_USD,USD_SEK", "");
    assert_eq!((told.status, told.json()["pairs"].as_array().unwrap().len()), (400, 28), "{told:?}");
    service.stop();
}

/// Another who writes into the database.
fn writing(world: &World) -> rusqlite::Connection {
    let database = rusqlite::Connection::open(world.database()).unwrap();
    database.busy_timeout(Duration::from_secs(10)).unwrap();
    database
}

#[test]
fn a_service_is_ready_by_its_own_stream_and_not_by_what_was_noted_of_one() {
    let Some(library) = clock::library() else { return };
    let world = away::world();
    let dial = Dial::new(&world);
    dial.set(0);
    let (mut service, address) = serving(&world, &dial.variables(library));
    let ready = || ask(address, "GET /readyz", "");
    let of_the_stream = |told: &Value| {
        let why = told["why"].as_array().unwrap().iter().map(|why| why.as_str().unwrap());
        why.filter(|why| why.contains("the stream")).collect::<Vec<_>>().join("; ")
    };
    service.wait("all pairs ready", || ready().status == 200);
    // As where the database has not taken the note that it streams again.
    let note = r#"{"phase": "interrupted", "since": 1700000000, "cause": "closed"}"#;
    let change = "UPDATE settings SET value = ? WHERE key = 'stream.state'";
    assert_eq!(writing(&world).execute(change, [note]).unwrap(), 1);
    let newest = world.number("SELECT max(timestamp) FROM candles WHERE timeframe = '5'");
    // What is told later was read later.
    service.wait("news of the database", || {
        let told = ready().json();
        assert_eq!(of_the_stream(&told), "", "{told}");
        told["pairs"].as_array().unwrap().iter().any(|pair| pair["last"].as_i64() > Some(newest))
    });

    world.simulator().control().refuse_streams(true);
    world.simulator().control().cut_streams();
    let phase = || ask(address, "GET /v1/status", "").json()["stream"]["phase"].clone();
    service.wait("a stream that cannot be had", || phase() == "connecting");
    dial.set(61);
    service.wait("not ready", || !of_the_stream(&ready().json()).is_empty());
    let told = ready();
    assert_eq!(told.status, 503, "{told:?}");
    let why = of_the_stream(&told.json());
    assert!(why.starts_with("the stream is connecting since 20") && why.contains("Z: "), "{why}");
    assert!(ask(address, "GET /metrics", "").body.contains("\ncandlekeep_ready 0\n"));

    world.simulator().control().refuse_streams(false);
    service.wait("a stream", || of_the_stream(&ready().json()).is_empty());
    service.stop();
}
