//! Bars over HTTP, against what the database says in bare SQL; what is missing, refused and fetched.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use candlekeep::simulator::Options;
use serde_json::{Value, json};

use super::api::{Answer, ask, exchange, serving, slow_market};
use super::document::{fits, fits_named};
use super::postgres;
use super::push;
use super::world::{Holes, START, STEP, Service, StoredRow, World, market};

/// Asks for a path and what stands behind it.
pub(super) fn get(address: SocketAddr, target: &str) -> Answer {
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
        ("/v1/candles?pair=EURUSD&timeframe=5&from=2030-01-01", 400, "in_the_future"),
        ("/v1/coverage?pair=EURUSD&timeframe=5&from=2030-01-01", 400, "in_the_future"),
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
        (&answer["candles"], &answer["fresh"], &answer["complete"], &answer["expected_by"]),
        (&json!([]), &json!(false), &json!(false), &json!(null)),
        "{answer}"
    );
    let csv = get(address, "/v1/candles?pair=EUR_USD&timeframe=5&format=csv");
    assert!(csv.status == 200 && csv.body.starts_with("timestamp,open,") && csv.body.lines().count() == 1);
    let ledger = get(address, "/v1/coverage?pair=EUR_USD&timeframe=5").json();
    assert_eq!(ledger["runs"], json!([]));
    service.stop();
}

#[test]
fn the_tag_says_whether_anything_has_changed() {
    let world = World::new(market(2));
    let (mut service, address) = serving(&world, &[]);
    world.wait_complete(&mut service);
    service.wait("what is watched", || world.number("SELECT count(*) FROM freshness") > 0);
    let target = "/v1/candles?pair=EUR_USD&timeframe=5&count=12";
    let known = |tag: &str, target: &str| {
        ask(address, &format!("GET {target}"), &format!("If-None-Match: {tag}\r\n"))
    };
    let whole = get(address, target);
    let tag = whole.header("ETag").expect("a tag").to_owned();
    assert_eq!(whole.header("Cache-Control"), Some("private, no-cache"));
    assert_eq!(whole.header("X-Candlekeep-Complete"), Some("true"));
    let again = known(&tag, target);
    assert_eq!((again.status, again.body.as_str(), again.header("ETag")), (304, "", Some(&*tag)));
    for (tags, status) in [
        (format!("\"other\", W/{tag}"), 304),
        ("*".to_owned(), 304),
        ("\"other\"".to_owned(), 200),
        ("nonsense".to_owned(), 200),
    ] {
        assert_eq!(known(&tags, target).status, status, "{tags}");
    }
    let csv = format!("{target}&format=csv");
    let csv_tag = get(address, &csv).header("ETag").unwrap().to_owned();
    assert_ne!(csv_tag, tag);
    assert_eq!(known(&csv_tag, &csv).status, 304);
    // By when the next bar is owed is what the view says, in every format.
    let by = world.number("SELECT expected_by FROM freshness WHERE pair = 'EUR_USD' AND timeframe = '5'");
    assert_eq!(whole.json()["expected_by"], json!(by));
    assert_eq!(get(address, &csv).header("X-Candlekeep-Expected-By"), Some(&*by.to_string()));
    let newest = world.number("SELECT max(to_ts) FROM coverage WHERE timeframe = '5'");
    assert_eq!(whole.json()["market_time"], json!(newest));

    // The same bars, of which one is called lost: nothing asks for it any more.
    let hole = bars_of(&whole.json(), 0)[6].0;
    let database = rusqlite::Connection::open(world.database()).unwrap();
    let run = "SELECT pair, timeframe, {from}, {to}, {state}, reason, evidence, updated_at FROM coverage \
         WHERE pair = 'EUR_USD' AND timeframe = '5' AND from_ts <= {hole} AND to_ts > {hole}";
    let part = |from: &str, to: &str, state: &str| {
        let select = run.replace("{from}", from).replace("{to}", to).replace("{state}", state);
        let select = select.replace("{hole}", &hole.to_string());
        format!("INSERT INTO parts {select};")
    };
    let (begin, end) = (hole.to_string(), (hole + STEP).to_string());
    let statements = [
        "BEGIN IMMEDIATE; CREATE TEMP TABLE parts AS SELECT * FROM coverage WHERE 0;".to_owned(),
        part("from_ts", &begin, "state"),
        part(&begin, &end, "'lost'"),
        part(&end, "to_ts", "state"),
        "DELETE FROM parts WHERE from_ts >= to_ts;".to_owned(),
        "UPDATE parts SET reason = 'given_up' WHERE state = 'lost';".to_owned(),
        format!(
            "DELETE FROM coverage WHERE pair = 'EUR_USD' AND timeframe = '5' AND from_ts <= {hole} AND to_ts > {hole};"
        ),
        "INSERT INTO coverage SELECT * FROM parts; COMMIT;".to_owned(),
    ];
    database.execute_batch(&statements.concat()).unwrap();
    let changed = known(&tag, target);
    let told = changed.json();
    assert_eq!(changed.status, 200);
    assert_eq!(told["candles"], whole.json()["candles"], "the bars are the same");
    assert_eq!(
        told["missing"],
        json!([{ "from": hole, "to": hole + STEP, "state": "lost", "reason": "given_up" }])
    );
    assert_eq!(told["complete"], false);
    // CSV says the same bars, and the rest in its head.
    let changed = known(&csv_tag, &csv);
    assert_eq!((changed.status, changed.header("X-Candlekeep-Complete")), (200, Some("false")));
    let runs = get(address, &format!("/v1/coverage?pair=EUR_USD&timeframe=5&from={begin}&to={end}")).json();
    assert_eq!(
        runs,
        json!({
            "pair": "EUR_USD", "timeframe": "5", "from": hole, "to": hole + STEP,
            "runs": [{ "from": hole, "to": hole + STEP, "state": "lost", "reason": "given_up" }],
        })
    );
    service.stop();
}

/// Sends a body.
pub(super) fn post(address: SocketAddr, target: &str, content_type: &str, body: &str) -> Answer {
    let headers = format!("Content-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    // What ends the head is there already.
    ask(address, &format!("POST {target}"), headers.as_str())
}

#[test]
fn bars_from_before_the_start_are_fetched_when_asked_for() {
    let world = World::new(market(2));
    let (mut service, address) = serving(&world, &[]);
    world.wait_complete(&mut service);
    let (from, to) = (START.0 - 40 * STEP, START.0 - 20 * STEP);
    let target = format!("/v1/candles?pair=EUR_USD&timeframe=5&from={from}&to={to}");
    let before = get(address, &target).json();
    assert_eq!((&before["candles"], &before["complete"]), (&json!([]), &json!(false)));
    let points = world.simulator().stats().rest_requests;
    let body = json!({ "pair": "EUR_USD", "timeframe": 5, "from": from, "to": to }).to_string();
    let too_long =
        json!({ "pair": "EUR_USD", "timeframe": 5, "from": START.0 - 20_001 * STEP, "to": START.0 })
            .to_string();
    for (target, content_type, body, status, word) in [
        ("/v1/fetch", "text/plain", body.as_str(), 415, "bad_type"),
        ("/v1/fetch", "application/x-www-form-urlencoded", "pair=EURUSD", 415, "bad_type"),
        ("/v1/fetch", "application/json", "{", 400, "bad_body"),
        (
            "/v1/fetch",
            "application/json",
            r#"{"pair":"USDSEK","timeframe":5,"count":1}"#,
            404,
            "unknown_pair",
        ),
        (
            "/v1/fetch",
            "application/json",
            r#"{"pair":"EURUSD","timeframe":30,"count":1}"#,
            404,
            "unknown_timeframe",
        ),
        (
            "/v1/fetch",
            "application/json",
            r#"{"pair":"EURUSD","timeframe":5,"from":0,"to":1700000000}"#,
            400,
            "bad_range",
        ),
        ("/v1/fetch", "application/json", too_long.as_str(), 400, "long_range"),
        (
            "/v1/fetch",
            "application/json",
            r#"{"pair":"EURUSD","timeframe":5,"from":"2030-01-01","to":"2030-01-02"}"#,
            400,
            "in_the_future",
        ),
        ("/v1/fetch?pair=EURUSD", "application/json", body.as_str(), 400, "unknown_parameter"),
    ] {
        let answer = post(address, target, content_type, body);
        assert_eq!((answer.status, &answer.json()["error"]), (status, &json!(word)), "{body}: {answer:?}");
    }
    let evil = format!(
        "Origin: http://evil.example\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(ask(address, "POST /v1/fetch", &evil).status, 403);
    let read = get(address, "/v1/fetch");
    assert_eq!((read.status, read.header("Allow")), (405, Some("POST")));
    for unknown in ["1", "0", "-1", "x", "99999999999999999999"] {
        let answer = get(address, &format!("/v1/fetch/{unknown}"));
        assert_eq!((answer.status, &answer.json()["error"]), (404, &json!("unknown_fetch")), "{unknown}");
    }
    assert_eq!(world.number("SELECT count(*) FROM fetch_requests"), 0, "what is refused is not written down");

    let answer = post(address, "/v1/fetch", "application/json; charset=utf-8", &body);
    let told = answer.json();
    assert_eq!(answer.status, 202, "{told}");
    let place = format!("/v1/fetch/{}", told["id"]);
    assert_eq!(answer.header("Location"), Some(&*place));
    assert_eq!((&told["from"], &told["to"], &told["pair"]), (&json!(from), &json!(to), &json!("EUR_USD")));
    world.wait(&mut service, "the bars", |_| {
        let told = get(address, &place).json();
        assert_ne!(told["state"], "refused", "{told}");
        told["state"] == "done"
    });
    let done = get(address, &place).json();
    assert_eq!((&done["buckets"]["missing"], &done["buckets"]["lost"]), (&json!(0), &json!(0)), "{done}");
    let after = get(address, &target).json();
    let starts: Vec<i64> = bars_of(&after, 0).iter().map(|(start, _)| *start).collect();
    assert_eq!(starts, (0..20).map(|bucket| from + bucket * STEP).collect::<Vec<_>>());
    assert_eq!(after["complete"], true, "{after}");
    assert!(world.simulator().stats().rest_requests > points);
    service.stop();
}

#[test]
fn asking_again_for_what_waits_already_is_no_new_request() {
    // Too few points for anything but the newest.
    let world = World::new(Options { allowance: 1_000, ..market(1) });
    let (mut service, address) = serving(&world, &[]);
    world.wait_streamed(&mut service);
    let ask = |wanted: Value| {
        let mut body = json!({ "pair": "EUR_USD", "timeframe": 5 });
        body.as_object_mut().unwrap().extend(wanted.as_object().unwrap().clone());
        let told = post(address, "/v1/fetch", "application/json", &body.to_string()).json();
        (told["id"].as_i64().unwrap(), told["from"].as_i64().unwrap(), told["to"].as_i64().unwrap())
    };
    let (first, from, to) = ask(json!({ "count": 100 }));
    assert!((1..100).contains(&((to - from) / STEP)), "only what is missing is asked for: {from} {to}");
    for count in [90, 80, 99] {
        assert_eq!(ask(json!({ "count": count })), (first, from, to), "{count}");
    }
    // What nobody has asked for before.
    let older = |from: i64, to: i64| json!({ "from": START.0 - from * STEP, "to": START.0 - to * STEP });
    let (second, ..) = ask(older(200, 150));
    assert_ne!(second, first);
    for (from, to) in [(200, 150), (180, 160), (199, 150)] {
        assert_eq!(ask(older(from, to)).0, second, "{from} {to}");
    }
    assert_eq!(world.number("SELECT count(*) FROM fetch_requests"), 2);
    service.stop();
}

/// What the document says of itself, and what a route answers: every route is in it, and answers are as it says.
#[test]
fn the_openapi_document_says_what_is_answered() {
    let world = World::new(market(1));
    let (mut service, address) = serving(&world, &[]);
    world.wait_complete(&mut service);
    let document = get(address, "/v1/openapi.json").json();
    assert_eq!(document["openapi"], "3.1.0");
    let routes = get(address, "/nothing").json()["routes"].clone();
    let routes: BTreeSet<&str> =
        routes.as_array().unwrap().iter().map(|route| route.as_str().unwrap()).collect();
    let told: BTreeSet<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(told, routes);
    let fetch =
        post(address, "/v1/fetch", "application/json", r#"{"pair":"EURUSD","timeframe":"15","count":3}"#);
    let fetched = format!("/v1/fetch/{}", fetch.json()["id"]);
    let mut tried: Vec<(&str, &str, Answer)> = vec![("/v1/fetch", "post", fetch)];
    for (route, target) in [
        ("/v1/candles", "/v1/candles?pair=EURUSD&timeframe=5&count=3"),
        ("/v1/candles", "/v1/candles?pair=EURUSD&timeframe=15&count=1000&price=ask"),
        ("/v1/candles", "/v1/candles?pair=EURUSD&timeframe=15&count=3&price=all"),
        ("/v1/candles", "/v1/candles?pair=EURUSD&timeframe=15&count=3&format=csv"),
        ("/v1/candles", "/v1/candles?pair=EURUSD"),
        ("/v1/candles", "/v1/candles?pair=EURUSD&timeframe=5&limit=3"),
        ("/v1/candles", "/v1/candles?pair=USDSEK&timeframe=5"),
        ("/v1/candles", "/v1/candles?pair=EURUSD&timeframe=5&count=0"),
        ("/v1/stream", "/v1/stream?after=x"),
        ("/v1/stream", "/v1/stream?pairs=USDSEK"),
        ("/v1/coverage", "/v1/coverage?pair=EURUSD&timeframe=5"),
        ("/v1/coverage", "/v1/coverage?pair=USDSEK&timeframe=5"),
        ("/v1/fetch/{id}", &fetched),
        ("/v1/fetch/{id}", "/v1/fetch/777"),
        ("/v1/fetch/{id}", "/v1/fetch/777?x=1"),
        ("/v1/status", "/v1/status"),
        ("/v1/openapi.json", "/v1/openapi.json"),
        ("/", "/"),
        ("/assets/{name}", "/assets/main.js"),
        ("/assets/{name}", "/assets/page.css"),
        ("/assets/{name}", "/assets/icon.svg"),
        ("/assets/{name}", "/assets/nothing.js"),
        ("/healthz", "/healthz"),
        ("/readyz", "/readyz"),
        ("/readyz", "/readyz?pairs=EURUSD&timeframes=5"),
        ("/readyz", "/readyz?pairs=USDSEK"),
        ("/metrics", "/metrics"),
    ] {
        tried.push((route, "get", get(address, target)));
    }
    let is_held = |(route, method, answer): &&(&str, &str, Answer)| holds(&document, (route, method), answer);
    let held = tried.iter().filter(is_held).count();
    assert!(held >= 12, "{held} answers were held against the document");
    for (route, methods) in document["paths"].as_object().unwrap() {
        let is_tried = |method: &String| tried.iter().any(|(tried, by, _)| tried == route && by == method);
        assert!(methods.as_object().unwrap().keys().all(is_tried), "{route} was not tried");
    }
    for (last_id, event, schema) in [
        ("0", "candle", "StreamBar"),
        ("999999999", "reset", "StreamReset"),
        ("of none", "reset", "StreamReset"),
    ] {
        fits_named(&document, schema, &push::data_of(address, "", Some(last_id), event));
    }
    let targets = [
        ("/v1/candles", "get", "/v1/candles?pair=EURUSD&timeframe=5"),
        ("/v1/coverage", "get", "/v1/coverage?pair=EURUSD&timeframe=5"),
        ("/v1/stream", "get", "/v1/stream?after=0"),
        ("/v1/fetch", "post", "/v1/fetch"),
        ("/v1/fetch/{id}", "get", &*fetched),
        ("/v1/status", "get", "/v1/status"),
        ("/v1/openapi.json", "get", "/v1/openapi.json"),
        ("/", "get", "/"),
        ("/assets/{name}", "get", "/assets/main.js"),
        ("/healthz", "get", "/healthz"),
        ("/readyz", "get", "/readyz"),
        ("/metrics", "get", "/metrics"),
    ];
    assert_eq!(targets.map(|(route, ..)| route).into_iter().collect::<BTreeSet<_>>(), routes);
    refused_everywhere(address, &document, &targets);
    // Somebody has taken away what there was to read: no other attempt mends that.
    let database = rusqlite::Connection::open(world.database()).unwrap();
    let renamed = ["candles", "coverage", "fetch_requests"]
        .map(|table| format!("ALTER TABLE {table} RENAME TO {table}_gone;"));
    database.execute_batch(&format!("DROP VIEW freshness; {}", renamed.concat())).unwrap();
    for (route, method, target) in &targets[..5] {
        let answer = match *method {
            "post" => {
                post(address, target, "application/json", r#"{"pair":"EURUSD","timeframe":5,"count":3}"#)
            }
            _ => get(address, target),
        };
        assert_eq!(answer.status, 500, "{target}: {answer:?}");
        assert!(holds(&document, (route, method), &answer), "{answer:?}");
    }
    service.kill();
}

/// What the document says of an answer with this status.
fn told_of<'a>(document: &'a Value, (route, method): (&str, &str), answer: &Answer) -> &'a Value {
    let response = &document["paths"][route][method]["responses"][answer.status.to_string()];
    let response = match response["$ref"].as_str() {
        Some(place) => document.pointer(place.trim_start_matches('#')).expect("it leads into the document"),
        None => response,
    };
    assert!(response.is_object(), "{method} {route} does not tell of {answer:?}");
    response
}

/// Holds an answer against the document; whether there was JSON to hold.
fn holds(document: &Value, of: (&str, &str), answer: &Answer) -> bool {
    let response = told_of(document, of, answer);
    let content_type = answer.header("Content-Type").unwrap().split(';').next().unwrap();
    let content = &response["content"][content_type];
    assert!(content.is_object(), "{of:?} does not tell of {content_type}");
    let is_json = content_type == "application/json";
    if is_json {
        fits(document, &content["schema"], &answer.json(), &format!("{of:?} {}", answer.status));
    }
    is_json
}

/// What is refused before anybody looks at the question is told of for every route.
fn refused_everywhere(address: SocketAddr, document: &Value, targets: &[(&str, &str, &str)]) {
    for (route, method, target) in targets {
        let (by, other) = if *method == "post" { ("POST", "GET") } else { ("GET", "POST") };
        let too_long = format!("X-Long: {}\r\n", "x".repeat(9_000));
        let body = if *method == "post" { 100_000 } else { 1 };
        for (line, headers, status) in [
            (format!("{other} {target}"), String::new(), 405),
            (format!("{by} {target}"), format!("Content-Length: {body}\r\n"), 413),
            (format!("{by} http://evil.example{target}"), String::new(), 421),
            (format!("{by} {target}"), too_long, 431),
        ] {
            let answer = ask(address, &line, &headers);
            assert_eq!(answer.status, status, "{line}: {answer:?}");
            assert!(holds(document, (route, method), &answer), "{line}: {answer:?}");
        }
        // HTTP/1.0 asks without a host.
        let nameless = exchange(address, &format!("{by} {target} HTTP/1.0\r\nContent-Length: 0\r\n\r\n"))
            .expect("an answer");
        assert_eq!(nameless.json()["error"], "bad_host", "{nameless:?}");
        assert!(holds(document, (route, method), &nameless), "{nameless:?}");
    }
}
