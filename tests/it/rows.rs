//! Rows and subscriptions that do not come as they should, scripted as a user scripts them, and
//! what is stored all the same.

use candlekeep::simulator::faults::Script;
use candlekeep::simulator::{Options, Speed, Unfiltered};

use super::world::{Database, Holes, START, STEP, World, market};

/// Plays a script to the end of the market; answers the world and the program's log.
fn played(script: &str, options: Options, variables: &[(&str, &str)]) -> (World, Vec<String>) {
    let faults = Script::parse(script).expect("the script is sound");
    let world = World::new(Options { faults, ..options });
    let mut service = world.start("run", variables);
    world.wait_complete(&mut service);
    let log = service.stop();
    (world, log)
}

/// A market slow enough for answers over REST to come while it lasts.
fn slow(hours: i64) -> Options {
    Options { rows_per_bar: Some(20), speed: Speed::Times(3_600.0), ..market(hours) }
}

/// How many lines contain this.
fn said(log: &[String], text: &str) -> usize {
    log.iter().filter(|line| line.contains(text)).count()
}

/// 5-minute bars of a pair from the start on that have this source.
fn bars_of(world: &World, pair: &str, source: &str) -> i64 {
    let query = format!(
        "SELECT count(*) FROM candles WHERE pair = '{pair}' AND timeframe = '5' AND source = '{source}' \
         AND timestamp >= {}",
        START.0
    );
    world.number(&query)
}

#[test]
fn a_close_that_does_not_come_is_fetched_and_one_that_comes_late_or_again_changes_nothing() {
    let script = r#"[
        {"do": "closes", "how": "merge", "pairs": ["EUR_USD"], "bars": 12, "after_s": 600},
        {"do": "closes", "how": "drop", "pairs": ["GBP_USD"], "bars": 12, "after_s": 600},
        {"do": "closes", "how": "late", "pairs": ["AUD_USD"], "bars": 12, "after_s": 600, "by_s": 90},
        {"do": "closes", "how": "repeat", "pairs": ["NZD_USD"], "bars": 12, "after_s": 600, "by_s": 400}
    ]"#;
    let (world, _) = played(script, slow(3), &[]);
    world.verify(Holes::None);
    for pair in ["EUR_USD", "GBP_USD"] {
        let fetched = bars_of(&world, pair, "ig_rest");
        assert!((12..=14).contains(&fetched), "{pair}: {fetched} fetched");
    }
    // A late one is there before an answer over REST, or REST says the same.
    assert!(bars_of(&world, "NZD_USD", "ig_rest") <= 2, "repeated closes cost nothing");
}

#[test]
fn a_corrected_close_becomes_a_revision_and_a_worse_one_is_refused() {
    let script = r#"[
        {"do": "closes", "how": "correct", "pairs": ["EUR_USD"], "bars": 3, "after_s": 600, "by_s": 280},
        {"do": "closes", "how": "worsen", "pairs": ["GBP_USD"], "bars": 3, "after_s": 600}
    ]"#;
    // Slow enough for a correction to find what it corrects stored, and folded into a longer bar.
    let options = Options { speed: Speed::Times(600.0), ..slow(1) };
    let (world, _) = played(script, options, &[]);
    world.verify_revised();
    let database = Database::open(&world.database()).unwrap();
    let number = |query: &str| database.number(query).unwrap();
    let revised = "SELECT count(*) FROM candles WHERE pair = 'EUR_USD' AND timeframe = '5' AND revision = 1";
    let kept = "SELECT count(*) FROM candle_revisions WHERE pair = 'EUR_USD' AND timeframe = '5' AND kind = 'superseded'";
    assert_eq!((number(revised), number(kept)), (3, 3));
    // A longer bar that was there before the correction of its part has followed it.
    let longer = "SELECT count(*) FROM candle_revisions WHERE timeframe = '15' AND kind = 'superseded'";
    assert!(number(longer) >= 1);
    let refused = "SELECT count(*) FROM candle_revisions WHERE pair = 'GBP_USD' AND kind = 'refused'";
    assert_eq!(number(refused), 3);
    assert_eq!(number("SELECT count(*) FROM candles WHERE pair = 'GBP_USD' AND revision > 0"), 0);
    let explained = |line: &str, expected: &[&str]| {
        let output = world.output(line, &[]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{line}");
        for expected in expected {
            assert!(text.contains(expected), "{line}: no {expected:?} in\n{text}");
        }
    };
    let bar = "EUR_USD 5 min, Wed 2024-01-17 10:10 to 10:15 UTC: the market is expected to trade";
    explained(
        "explain eurusd 2024-01-17T10:12",
        &[bar, "the stream (websocket)", "revision 1", "before    mid open"],
    );
    explained("explain GBP_USD 2024-01-17T10:12 --format json", &[r#""kind":"refused""#, r#""revision":0"#]);
    explained(
        "explain EUR_USD 2024-01-17T10:12 --timeframe 15",
        &["folded from its", "part      10:10 stored"],
    );
    explained("explain EUR_USD 2024-01-17T09:30", &["IG's history (ig_rest)", "request \"EUR_USD 5 "]);
    explained("explain EUR_USD 2024-01-17T10:12 15", &["EUR_USD 15 min"]);
    explained("explain EUR_USD 2024-01-13T12:00", &["the market is closed", "nothing is known"]);
}

#[test]
fn values_that_no_candle_has_are_held_back_and_healed() {
    let mut script = Vec::new();
    let texts = ["null", "\"\"", "\"NaN\"", "\"-1.1\"", "\"0\"", "\"1e300\"", "\"99999999999999999999\""];
    let fields = ["BID_OPEN", "BID_HIGH", "BID_LOW", "OFR_CLOSE", "UTM", "CONS_END", "CONS_TICK_COUNT"];
    for (place, (text, field)) in texts.iter().zip(fields).enumerate() {
        let after_s = 600 + place * 400;
        script.push(format!(
            r#"{{"do": "values", "pairs": ["EUR_USD"], "fields": {{"{field}": {text}}}, "rows": 4, "after_s": {after_s}}}"#
        ));
    }
    let (world, _) = played(&format!("[{}]", script.join(",")), slow(3), &[]);
    world.verify(Holes::None);
}

#[test]
fn a_new_scale_is_confirmed_over_rest_and_costs_no_bar() {
    let script = r#"[{"do": "scale", "pairs": ["EUR_USD", "USD_JPY"], "in_points": true, "after_s": 3700}]"#;
    let (world, log) = played(script, slow(6), &[]);
    world.verify(Holes::None);
    assert_eq!(said(&log, "prices are on another scale than before"), 2);
    assert_eq!(said(&log, "IG confirms a price, subscribing again"), 2);
    // From then on it streams again.
    let streamed = world.number(&format!(
        "SELECT count(*) FROM candles WHERE pair = 'EUR_USD' AND timeframe = '5' AND source = 'websocket' \
         AND timestamp > {}",
        START.0 + 5 * 3_600
    ));
    assert!(streamed >= 10, "{streamed} bars");
}

#[test]
fn a_new_scale_is_confirmed_although_the_tokens_are_dead() {
    // The open stream needs none, and history is out of order, so nobody else finds out.
    let script = r#"[
        {"do": "refuse_rest", "path": "prices", "times": 100000, "status": 500, "code": "system.error", "after_s": 3500},
        {"do": "wipe_tokens", "after_s": 3600},
        {"do": "scale", "pairs": ["EUR_USD"], "in_points": true, "after_s": 3700}
    ]"#;
    let faults = Script::parse(script).unwrap();
    let world = World::new(Options { faults, speed: Speed::Times(600.0), ..slow(12) });
    let mut service = world.run();
    service.wait_said("IG confirms a price, subscribing again", 1);
    assert_eq!(world.simulator().stats().logins, 2, "{:#?}", service.log());
    let streamed = bars_of(&world, "EUR_USD", "websocket");
    world.wait(&mut service, "bars on the new scale", |world| {
        bars_of(world, "EUR_USD", "websocket") > streamed
    });
    let log = service.stop();
    assert_eq!(said(&log, "IG was asked about a price scale in vain"), 1);
}

#[test]
fn a_scale_that_only_the_stream_has_is_known_by_the_price_that_rest_tells() {
    let script = r#"[
        {"do": "scale", "pairs": ["EUR_USD"], "in_points": true, "side": "stream", "after_s": 3700},
        {"do": "scale", "pairs": ["EUR_USD"], "in_points": false, "side": "stream", "after_s": 18100}
    ]"#;
    let (world, log) = played(script, slow(14), &[]);
    world.verify(Holes::None);
    assert_eq!(said(&log, "prices are on another scale than before"), 2, "there and back");
    assert!(said(&log, "IG confirms a price, subscribing again") >= 2);
    assert!(bars_of(&world, "EUR_USD", "websocket") >= 40, "on either scale it streams again");
}

#[test]
fn one_pair_refused_leaves_the_others_and_is_asked_for_again() {
    let script = r#"[
        {"do": "refuse_items", "pairs": ["EUR_USD"], "code": -1, "text": "Insufficient permissions"}
    ]"#;
    let options = Options { wait_for_items: Some(27), speed: Speed::Times(600.0), ..slow(3) };
    let (world, log) = played(script, options, &[]);
    // It is watched from its first subscription on.
    world.verify_but(&["EUR_USD"], Holes::None);
    assert_eq!(said(&log, "the server refuses a subscription, the others go on"), 1);
    assert!(bars_of(&world, "GBP_USD", "websocket") >= 34, "the others ran all the time");
    let streamed = bars_of(&world, "EUR_USD", "websocket");
    assert!(streamed >= 15, "{streamed} streamed");
    assert_eq!(world.simulator().stats().sessions, 1);
}

#[test]
fn rows_that_the_server_dropped_are_a_break_of_their_item_alone() {
    let script = r#"[{"do": "overflow", "pairs": ["EUR_USD"], "rows": 30, "after_s": 3650}]"#;
    let (world, log) = played(script, slow(3), &[]);
    world.verify(Holes::None);
    assert_eq!(said(&log, "the server dropped rows"), 1);
    let breaks =
        "SELECT count(*) FROM stream_breaks WHERE pair = 'EUR_USD' AND cause = 'the server dropped rows'";
    assert_eq!((world.number(breaks), world.number("SELECT count(*) FROM stream_breaks")), (1, 1));
}

#[test]
fn a_pair_that_falls_silent_is_subscribed_anew_and_what_it_missed_is_healed() {
    let script = r#"[
        {"do": "stall", "pairs": ["EUR_USD", "USD_JPY"], "for_s": 36000, "cured_by_subscribing": true, "after_s": 3650}
    ]"#;
    let (world, log) = played(script, slow(6), &[]);
    world.verify(Holes::None);
    assert!(said(&log, "a pair has been silent for long, subscribing it again") >= 2, "{log:#?}");
    assert_eq!(world.simulator().stats().sessions, 1, "the others are left alone");
    assert!(bars_of(&world, "EUR_USD", "websocket") >= 40);
    let breaks = "SELECT count(DISTINCT pair) FROM stream_breaks WHERE pair IN ('EUR_USD', 'USD_JPY')";
    assert_eq!(world.number(breaks), 2, "each is written down");
}

#[test]
fn a_pair_that_no_subscription_wakes_gets_a_new_session() {
    // The stall ends with the session: whoever is new hears it again.
    let script = r#"[{"do": "stall", "pairs": ["EUR_USD"], "for_s": 28800, "after_s": 3650}]"#;
    let (world, log) = played(script, slow(12), &[]);
    world.verify(Holes::None);
    assert!(said(&log, "subscribing again does not help, making a new session") >= 1, "{log:#?}");
    assert!(world.simulator().stats().sessions >= 2);
}

#[test]
fn a_wrong_prog_ends_the_session_and_the_break_is_written_down() {
    let script = r#"[
        {"do": "wrong_prog", "lines": 3, "after_s": 3650},
        {"do": "cut", "after_s": 3650}
    ]"#;
    let (world, _) = played(script, slow(3), &[]);
    world.verify(Holes::None);
    assert_eq!(world.simulator().stats().sessions, 2);
    assert!(world.number("SELECT count(*) FROM stream_breaks WHERE pair IS NULL") == 1);
}

#[test]
fn messages_in_any_pieces_are_read_as_they_are() {
    for transport in ["auto", "http"] {
        let script = r#"[
            {"do": "framing", "fragment_bytes": 1, "after_s": 600},
            {"do": "framing", "fragment_bytes": 7, "single_lines": true, "after_s": 1800},
            {"do": "framing", "single_lines": true, "after_s": 3600},
            {"do": "garbage", "what": {"huge": 1000000}, "after_s": 4200},
            {"do": "framing", "fragment_bytes": 1000, "after_s": 4800}
        ]"#;
        let (world, _) = played(script, slow(2), &[("CANDLEKEEP_STREAM_TRANSPORT", transport)]);
        world.verify(Holes::None);
        assert_eq!(world.simulator().stats().sessions, 1, "{transport}");
    }
}

#[test]
fn a_snapshot_of_the_candle_before_is_no_news() {
    let script = r#"[
        {"do": "old_snapshot", "times": 28},
        {"do": "old_snapshot", "times": 28, "after_s": 3650},
        {"do": "end", "code": 48, "after_s": 3650}
    ]"#;
    let (world, _) = played(script, slow(3), &[]);
    world.verify(Holes::None);
    assert_eq!(world.simulator().stats().sessions, 2);
}

#[test]
fn closes_are_inferred_once_they_have_earned_it() {
    // Every close of every pair is dropped but those of the last half hour: REST is asked about
    // the first two hundred and a few, and one in a hundred.
    let script = r#"[{"do": "closes", "how": "drop", "bars": 66}]"#;
    let faults = Script::parse(script).unwrap();
    let world = World::new(Options { faults, unfiltered: Unfiltered::Granted, ..slow(6) });
    // The market does not run away from the answers by which they earn it.
    world.simulator().control().hold_at(Some(START.plus(12 * STEP)));
    let mut service = world.start("run", &[]);
    let stored = format!("SELECT count(*) FROM candles WHERE timeframe = '5' AND timestamp >= {}", START.0);
    world.wait(&mut service, "the first bars", |world| world.number(&stored) >= 28 * 10);
    world.simulator().control().hold_at(None);
    let (_, summary) = world.finish(service);
    let (inferred, fetched) = (summary.bars("5", "websocket"), summary.bars("5", "ig_rest"));
    assert!(inferred > 28 * 30, "{inferred} inferred, {fetched} fetched");
    assert!(fetched > 200, "{inferred} inferred, {fetched} fetched");
}

#[test]
fn a_control_link_is_followed_to_another_address_and_left_when_that_is_gone() {
    let script = format!(
        r#"[
        {{"do": "cut", "after_s": {0}}},
        {{"do": "shut", "address": "second", "after_s": {1}}},
        {{"do": "open", "address": "second", "after_s": {2}}},
        {{"do": "cut", "after_s": {3}}}
    ]"#,
        4 * STEP,
        12 * STEP,
        36 * STEP,
        40 * STEP
    );
    let second_listen = Some(([127, 0, 0, 1], 0).into());
    // Shut for six seconds, of which a recovery is tried for half a one.
    let options = Options { second_listen, speed: Speed::Times(1_200.0), ..slow(4) };
    let (world, _) = played(&script, options, &[("CANDLEKEEP_STREAM_RECOVERY_MS", "500")]);
    world.verify(Holes::None);
    let simulator = world.simulator();
    assert_eq!(simulator.stats().logins, 1);
    let begun = simulator.stream_requests().into_iter().filter_map(|request| {
        let name = request.text.split("\r\n").next()?;
        ["create_session", "bind_session"].contains(&name).then(|| (name.to_owned(), request.came_to))
    });
    let (first, second) = (simulator.address(), simulator.second_address().expect("there is one"));
    let expected = [("create_session", first), ("bind_session", second)].repeat(2);
    let expected = expected.into_iter().map(|(name, address)| (name.to_owned(), address));
    assert_eq!(begun.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
}

#[test]
fn gaps_tells_what_is_missing_whether_a_stretch_is_complete_and_whether_the_ledger_holds() {
    let outage = r#"[{"do": "outage", "for_s": 3600, "after_s": 3600}]"#;
    // Slow enough for the program to have read what came before the outage.
    let faults = Script::parse(outage).unwrap();
    let options = Options { faults, allowance: 0, speed: Speed::Times(1_800.0), ..slow(3) };
    let world = World::new(options);
    // Nothing can be fetched: what the outage cost stays missing.
    let mut service = world.start("run", &[]);
    world.wait_streamed(&mut service);
    service.stop();
    world.verify(Holes::Listed);
    let told = |line: &str, code: i32| {
        let output = world.output(line, &[]);
        assert_eq!(output.status.code(), Some(code), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let listed = told("gaps --pairs eurusd,gbpusd --timeframe 5", 0);
    let broken = |line: &str| {
        line.split_whitespace().take(2).eq(["EUR_USD", "5"]) && line.contains("the stream was broken")
    };
    assert!(listed.lines().any(broken), "{listed}");
    let json: serde_json::Value = serde_json::from_str(&told("gaps --timeframe 5 --format json", 0)).unwrap();
    let missing = world.number(
        "SELECT sum((to_ts - from_ts) / 300) FROM coverage WHERE timeframe = '5' AND state = 'missing'",
    );
    assert_eq!(json["buckets"].as_i64(), Some(missing));
    assert_eq!(told("gaps --complete EUR_USD 5 2024-01-17T10:00 2024-01-17T10:45", 0), "complete\n");
    assert_eq!(told("gaps --complete EUR_USD 15 2024-01-17T10:00 2024-01-17T10:45", 0), "complete\n");
    for timeframe in ["5", "15"] {
        let line = format!("gaps --complete EUR_USD {timeframe} 2024-01-17T10:00 2024-01-17T12:30");
        assert!(told(&line, 3).contains("missing"));
    }
    assert!(told("gaps --complete EUR_USD 5 2024-01-17T10:00 2024-01-18", 3).contains("does not reach"));
    assert!(told("gaps --verify", 0).contains("The ledger holds"));

    // A bar that is taken away, one that is changed, and one more than the ledger knows.
    let meddle = |sql: &str| rusqlite::Connection::open(world.database()).unwrap().execute(sql, []).unwrap();
    let meddled = |sql: &str, expected: &str| {
        assert_eq!(meddle(sql), 1);
        let output = world.output("gaps --verify", &[]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.code() == Some(1) && text.contains(expected), "{text}");
    };
    let bar = format!("pair = 'EUR_USD' AND timeframe = '5' AND timestamp = {}", START.0);
    meddled(
        &format!("UPDATE candles SET bid_high = bid_high + 0.01 WHERE {bar}"),
        "is not the fold of its parts",
    );
    meddled(&format!("DELETE FROM candles WHERE {bar}"), "have bars");
    let outage = "pair = 'GBP_USD' AND timeframe = '5' AND reason = 'disconnected'";
    meddled(&format!("DELETE FROM coverage WHERE {outage}"), "nothing is said of");
}
