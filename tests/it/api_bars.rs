//! Bars over HTTP, against what the database says in bare SQL; what is missing, refused and fetched.

use std::net::SocketAddr;

use candlekeep::simulator::Options;
use serde_json::{Value, json};

use super::api::{Answer, ask, serving, slow_market};
use super::postgres;
use super::world::{Holes, START, STEP, Service, StoredRow, World, market};

/// Asks for a path and what stands behind it.
fn get(address: SocketAddr, target: &str) -> Answer {
    ask(address, &format!("GET {target}"), "")
}

/// A market of two hours that is over, on a file and on a server, and the service that has all of it.
fn each_place(test: impl Fn(&World, SocketAddr)) {
    let mut worlds = vec![World::new(market(2))];
    worlds.extend(postgres::shared().map(|server| World::new(market(2)).on_server(server.place())));
    for world in worlds {
        let (mut service, address) = serving(&world, &[]);
        world.wait_complete(&mut service);
        test(&world, address);
        service.stop();
        world.verify(Holes::None);
    }
}

/// The bars of an answer, as they are in the table: start, the prices of one side, volume, source, revision.
fn bars_of(answer: &Value, side: usize) -> Vec<(i64, StoredRow)> {
    let bars = answer["candles"].as_array().unwrap_or_else(|| panic!("no candles: {answer}")).iter();
    bars.map(|bar| {
        let price = |name: &str| bar[name].as_f64().unwrap();
        let mut prices = [[0.0; 4]; 3];
        prices[side] = ["open", "high", "low", "close"].map(price);
        let row = StoredRow {
            prices,
            volume: bar["volume"].as_i64().unwrap(),
            source: bar["source"].as_str().unwrap().to_owned(),
            revision: bar["revision"].as_i64().unwrap(),
        };
        (bar["time"].as_i64().unwrap(), row)
    })
    .collect()
}

#[test]
fn bars_are_those_of_the_database_to_the_last_digit() {
    each_place(|world, address| {
        for timeframe in ["5", "15"] {
            let stored = world.known().bars(timeframe);
            assert_eq!(stored.len(), 28);
            for (pair, stored) in stored {
                for (side, price) in ["mid", "bid", "ask"].into_iter().enumerate() {
                    let only = |row: &StoredRow| {
                        let mut prices = [[0.0; 4]; 3];
                        prices[side] = row.prices[side];
                        StoredRow { prices, ..row.clone() }
                    };
                    let expected: Vec<_> = stored.iter().map(|(start, row)| (*start, only(row))).collect();
                    let target =
                        format!("/v1/candles?pair={pair}&timeframe={timeframe}&price={price}&count=");
                    let all = get(address, &format!("{target}10000")).json();
                    assert_eq!(bars_of(&all, side), expected, "{target}");
                    let five = get(address, &format!("{target}5")).json();
                    assert_eq!(bars_of(&five, side), expected[expected.len() - 5..], "{target}");
                    assert_eq!(
                        (&five["pair"], &five["timeframe"], &five["price"]),
                        (&json!(pair), &json!(timeframe), &json!(price))
                    );
                    assert_eq!((&five["complete"], &five["missing"]), (&json!(true), &json!([])), "{five}");
                }
            }
        }
        let (from, to) = (START.0 + 2 * STEP, START.0 + 4 * STEP);
        let answer = get(address, &format!("/v1/candles?pair=eurusd&timeframe=5m&from={from}&to={to}"));
        let starts: Vec<i64> = bars_of(&answer.json(), 0).iter().map(|(start, _)| *start).collect();
        assert_eq!(starts, [from, from + STEP]);
        let seqs = get(address, "/v1/candles?pair=EUR_USD&timeframe=5&count=3").json();
        let newest = seqs["candles"][2]["seq"].as_i64().unwrap();
        let query = "SELECT seq FROM candles WHERE pair = 'EUR_USD' AND timeframe = '5' \
             AND timestamp = (SELECT max(timestamp) FROM candles WHERE pair = 'EUR_USD' AND timeframe = '5')";
        assert_eq!(newest, world.number(query));

        let csv = get(address, "/v1/candles?pair=EUR_USD&timeframe=15&count=4&format=csv&price=bid");
        assert_eq!(csv.header("Content-Type"), Some("text/csv; charset=utf-8; header=present"));
        let printed = world.output("candles EUR_USD 15 --count 4 --price bid --format csv", &[]).stdout;
        assert_eq!(csv.body, String::from_utf8(printed).unwrap());
        assert_eq!(csv.body.lines().count(), 5);
    });
}

#[test]
fn what_is_asked_wrongly_is_told_precisely() {
    let world = slow_market();
    let (service, address) = serving(&world, &[]);
    for (target, status, word) in [
        ("/v1/candles", 400, "missing_parameter"),
        ("/v1/candles?pair=EURUSD&timeframe=5&cuont=1", 400, "unknown_parameter"),
        ("/v1/candles?pair=EURUSD&timeframe=5&count=10001", 400, "bad_count"),
        ("/v1/candles?pair=EURUSD&timeframe=5&from=2&to=1", 400, "bad_range"),
        ("/v1/candles?pair=EURUSD&timeframe=5&from=0", 400, "long_range"),
        ("/v1/candles?pair=USD_SEK&timeframe=5", 404, "unknown_pair"),
        ("/v1/candles?pair=EURUSD&timeframe=30", 404, "unknown_timeframe"),
        ("/v1/coverage?pair=EURUSD&timeframe=5&from=0&to=2000000000", 400, "long_range"),
        ("/v1/coverage?pair=USD_SEK&timeframe=5", 404, "unknown_pair"),
        ("/v1/coverage?pair=EURUSD&timeframe=5&count=1", 400, "unknown_parameter"),
    ] {
        let answer = get(address, target);
        let told = answer.json();
        assert_eq!((answer.status, &told["error"]), (status, &json!(word)), "{target}: {told}");
        assert_eq!(answer.header("Content-Type"), Some("application/json"), "{target}");
        assert!(told["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{told}");
    }
    let pairs = get(address, "/v1/candles?pair=USD_SEK&timeframe=5").json()["pairs"].clone();
    assert_eq!(pairs.as_array().unwrap().len(), 28);
    assert_eq!(get(address, "/v1/candles?pair=EURUSD&timeframe=60").json()["timeframes"], json!(["5", "15"]));
    let other = ask(address, "POST /v1/candles", "Content-Length: 0\r\n");
    assert_eq!((other.status, other.header("Allow")), (405, Some("GET, HEAD")));
    service.stop();
}

#[test]
fn a_pair_without_bars_is_empty_and_a_database_that_is_not_there_is_said_to_be_away() {
    let world = World::new(market(1));
    // IG is away, so that there is a database and nothing in it.
    let away = [("IG_API_URL", "http://127.0.0.1:9/gateway/deal"), ("CANDLEKEEP_HTTP", "127.0.0.1:0")];
    let mut service: Service = world.start("run", &away);
    let address = service.http_address();
    service.wait("the database", || {
        let answer = get(address, "/v1/candles?pair=EUR_USD&timeframe=5");
        if answer.status == 503 {
            assert_eq!(answer.json()["error"], "unavailable", "{answer:?}");
            assert!(answer.header("Retry-After").is_some());
        }
        answer.status == 200
    });
    let answer = get(address, "/v1/candles?pair=EUR_USD&timeframe=5").json();
    assert_eq!(
        (&answer["candles"], &answer["fresh"], &answer["complete"]),
        (&json!([]), &json!(false), &json!(false)),
        "{answer}"
    );
    let csv = get(address, "/v1/candles?pair=EUR_USD&timeframe=5&format=csv");
    assert!(csv.status == 200 && csv.body.starts_with("timestamp,open,") && csv.body.lines().count() == 1);
    let ledger = get(address, "/v1/coverage?pair=EUR_USD&timeframe=5").json();
    assert_eq!(ledger["runs"], json!([]));
    service.stop();
}

#[test]
fn holes_are_listed_and_the_tag_changes_with_what_is_said() {
    // Bars that IG has no end of and no history for: the outage is never healed, since points are spent.
    let world = World::new(Options { allowance: 28 * 30, ..market(2) });
    let (mut service, address) = serving(&world, &[]);
    world.wait_complete(&mut service);
    let target = "/v1/candles?pair=EUR_USD&timeframe=5&count=12";
    let whole = get(address, target);
    let tag = whole.header("ETag").expect("a tag").to_owned();
    assert_eq!(whole.header("Cache-Control"), Some("private, no-cache"));
    let again = ask(address, &format!("GET {target}"), &format!("If-None-Match: {tag}\r\n"));
    assert_eq!((again.status, again.body.as_str(), again.header("ETag")), (304, "", Some(&*tag)));
    for (known, status) in [
        (format!("\"other\", W/{tag}"), 304),
        ("*".to_owned(), 304),
        ("\"other\"".to_owned(), 200),
        ("nonsense".to_owned(), 200),
    ] {
        let answer = ask(address, &format!("GET {target}"), &format!("If-None-Match: {known}\r\n"));
        assert_eq!(answer.status, status, "{known}");
    }
    assert_ne!(get(address, &format!("{target}&price=bid")).header("ETag"), Some(&*tag));
    service.stop();
    world.verify(Holes::None);
    // The same bars, but one of the buckets before the last is called missing.
    let bars = bars_of(&whole.json(), 0);
    let (hole, last) = (bars[bars.len() - 3].0, bars[bars.len() - 1].0);
    let database = rusqlite::Connection::open(world.database()).unwrap();
    let run: (i64, i64) = database
        .query_row(
            "SELECT from_ts, to_ts FROM coverage WHERE pair = 'EUR_USD' AND timeframe = '5' AND from_ts <= ?1 AND to_ts > ?1",
            [hole],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap();
    drop(database);
    assert!(run.0 <= hole && last < run.1);
}
