//! The whole program against the simulated broker: what is stored is what happened.

use std::process::Stdio;

use candlekeep::domain::{Timeframe, Timestamp};
use candlekeep::simulator::{
    Account, AccountType, Credentials, MarketOptions, Options, Product, RequestLimits, RequestZone, Speed,
    TlcpVersion, TokenLifetimes, Unfiltered,
};
use std::time::Duration;

use super::world::{Database, Holes, START, STEP, Service, Summary, World, market, verify};

/// Runs the service over the whole market and compares.
fn stores_the_truth(options: Options, variables: &[(&str, &str)]) -> (World, Summary, Vec<String>) {
    let world = World::new(options);
    let mut service = world.start("run", variables);
    world.wait_complete(&mut service);
    let log = service.stop();
    let summary = world.verify(Holes::None);
    (world, summary, log)
}

#[test]
fn hours_of_streaming_are_stored_as_they_happened() {
    let (_world, summary, log) = stores_the_truth(market(4), &[]);
    // Of each pair most buckets had ticks; what came before the start came over REST.
    assert!(summary.bars("5", "websocket") > 28 * 40, "{summary:?}");
    assert!(summary.bars("5", "ig_rest") >= 28 * 11, "{summary:?}");
    assert!(summary.bars("15", "derived") > 28 * 15, "{summary:?}");
    assert!(log.iter().any(|line| line.contains("logged out")), "{log:#?}");
}

#[test]
fn the_journal_has_priorities_and_no_secrets() {
    let account = |id: &str, account_type, preferred| Account {
        id: id.to_owned(),
        name: "Somebody-Private".to_owned(),
        account_type,
        preferred,
    };
    let secrets = ["hush-user", "hush-password", "hush-key", "HUSH1", "HUSH2"];
    let credentials = Credentials {
        identifier: secrets[0].to_owned(),
        password: secrets[1].to_owned(),
        api_key: secrets[2].to_owned(),
        accounts: vec![
            account(secrets[3], AccountType::Cfd, true),
            account(secrets[4], AccountType::Spreadbet, false),
        ],
        accept_any: false,
    };
    for level in ["info", "trace"] {
        let world = World::new(Options { credentials: credentials.clone(), ..market(1) });
        let variables = [("RUST_LOG", level), ("IG_ACCOUNT_ID", secrets[4])];
        let mut service = world.start("run", &variables);
        world.wait_complete(&mut service);
        let log = service.stop();
        world.verify(Holes::None);
        assert!(log.iter().any(|line| line.starts_with("<6>candlekeep::")), "{level}: {log:#?}");
        for line in &log {
            let digit = line.strip_prefix('<').and_then(|rest| rest.split_once('>')).map(|(digit, _)| digit);
            assert!(matches!(digit, Some("3" | "4" | "6" | "7")), "{level}: {line}");
            for secret in secrets {
                assert!(!line.contains(secret), "{level}: {line}");
            }
            // The tokens are 64 hexadecimal digits, and nothing else has half as many.
            let hex = line.split(|c: char| !c.is_ascii_hexdigit()).map(str::len).max().unwrap_or(0);
            assert!(hex < 32, "{level}: {line}");
        }
        let file = std::fs::read(world.database()).unwrap();
        for secret in &secrets[..3] {
            let found = file.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{secret} is in the database");
        }
    }
}

#[test]
fn the_server_may_grant_ignore_or_refuse_unfiltered_rows() {
    for unfiltered in [Unfiltered::Granted, Unfiltered::Ignored, Unfiltered::Refused] {
        let (_world, summary, _) = stores_the_truth(Options { unfiltered, ..market(1) }, &[]);
        assert!(summary.bars("5", "websocket") > 28 * 9, "{unfiltered:?}: {summary:?}");
    }
}

#[test]
fn a_server_of_an_older_protocol_is_served() {
    let max_tlcp_version = TlcpVersion { major: 2, minor: 1, patch: 0 };
    let (world, _, log) = stores_the_truth(Options { max_tlcp_version, ..market(1) }, &[]);
    assert!(log.iter().any(|line| line.contains("version=2.1.0")), "{log:#?}");
    assert_eq!(world.simulator().stats().sessions, 1);
}

#[test]
fn quiet_buckets_of_thin_hours_are_proved_or_listed() {
    let (world, _) = ends_in_silence(0, 3_600.0);
    // Long enough for nobody to be called stale.
    let mut service = world.start("run", &[("CANDLEKEEP_STREAM_STALE_S", "7200")]);
    world.wait_complete(&mut service);
    world.wait(&mut service, "the silence at the end", |world| {
        world.number("SELECT count(*) FROM coverage WHERE state = 'missing' AND reason = 'silent'") > 0
    });
    let summary = world.verify(Holes::None);
    service.stop();
    let quiet = summary.buckets.get(&("quiet".to_owned(), "later_row".to_owned()));
    assert!(quiet.is_some_and(|buckets| *buckets > 5), "{summary:?}");
}

#[test]
fn a_stale_item_is_subscribed_again_and_its_silence_checked_over_rest() {
    // Slow enough for the silence to be looked at. History may lag, so what it lacks is believed
    // half an hour later.
    let (world, silent) = ends_in_silence(8 * STEP, 300.0);
    let mut service = world.start("run", &[("CANDLEKEEP_STREAM_STALE_S", "300")]);
    service.wait_said("a pair has been silent for long", 1);
    world.wait_streamed(&mut service);
    let missing = format!("SELECT count(*) FROM coverage WHERE state = 'missing' AND from_ts < {}", silent.0);
    world.wait(&mut service, "proof of the silence", |world| world.number(&missing) == 0);
    service.stop();
    let summary = world.verify(Holes::Listed);
    assert!(summary.buckets.contains_key(&("quiet".to_owned(), "not_in_rest".to_owned())), "{summary:?}");
    let stats = world.simulator().stats();
    assert_eq!((stats.sessions, stats.logins), (1, 1), "only the item was subscribed again");
}

/// New York's evening, in which some pairs do not move for a while: one of them for two buckets
/// before the time that is answered too. The market goes on for so many seconds more.
fn ends_in_silence(more_s: i64, speed: f64) -> (World, Timestamp) {
    let start = Timestamp(1_705_437_000); // 2024-01-16 20:30:00
    let until = |end| Options {
        market: MarketOptions::Seeded { seed: 18, start: Some(start) },
        speed: Speed::Times(speed),
        end: Some(end),
        ..market(0)
    };
    let truth = World::new(until(start)).simulator().truth();
    let is_silent = |end: Timestamp| {
        let last_two = end.plus(-2 * STEP)..end;
        truth.pairs().iter().any(|pair| truth.bars(*pair, Timeframe::M5, last_two.clone()).is_empty())
    };
    let mut ends = (18..30).map(|bucket| start.plus(bucket * STEP));
    let silent = ends.find(|end| is_silent(*end)).expect("there are thin pairs");
    (World::new(until(silent.plus(more_s))), silent)
}

#[test]
fn prices_quoted_in_points_are_stored_as_decimals() {
    let options = Options { in_points: vec![Product::Cfd], ..market(1) };
    let (world, ..) = stores_the_truth(options, &[]);
    let database = Database::open(&world.database()).unwrap();
    let scales = database.number("SELECT count(*) FROM feeds WHERE scale LIKE 'points%'");
    assert_eq!(scales, Some(28));
}

#[test]
fn an_account_is_switched_to_and_its_products_are_streamed() {
    let (world, ..) = stores_the_truth(market(1), &[("IG_ACCOUNT_ID", "SIM02")]);
    let database = Database::open(&world.database()).unwrap();
    let feeds = "SELECT count(*) FROM feeds WHERE epic LIKE '%.TODAY.IP' AND account_type = 'SPREADBET'";
    assert_eq!(database.number(feeds), Some(28));
    assert_eq!(database.number("SELECT count(*) FROM feeds"), Some(28));
}

#[test]
fn oauth_tokens_are_refreshed_before_they_are_needed() {
    // The access token lives for a second, and the pace spreads the requests for history over
    // several. Market time stands still while nobody is subscribed, so a slow reconnect misses
    // nothing but the outage.
    let lifetimes = TokenLifetimes { access: Duration::from_secs(1), ..TokenLifetimes::default() };
    let world = World::new(Options { token_lifetimes: lifetimes, ..market(4) });
    let outage = START.plus(30 * STEP)..START.plus(34 * STEP);
    world.simulator().control().schedule_outage(outage.start, outage.end);
    let paced = ("CANDLEKEEP_HISTORY_REQUESTS_PER_MINUTE", "1200");
    let mut service = world.start("run", &[("CANDLEKEEP_SESSION_VERSION", "3"), paced]);
    world.wait_complete(&mut service);
    service.stop();
    let summary = world.verify(Holes::None);
    assert!(summary.bars("5", "ig_rest") >= 28 * 14, "the outage was healed: {summary:?}");
    assert_eq!(world.simulator().stats().logins, 1);
}

#[test]
fn bars_are_read_while_they_are_written() {
    let world = World::new(Options { speed: Speed::Times(7_200.0), ..market(8) });
    let truth = world.simulator().truth();
    let mut service = world.run();
    world.wait(&mut service, "the first bars", |world| {
        world.number("SELECT count(*) FROM candles WHERE pair = 'EUR_USD' AND timeframe = '15'") > 0
    });
    let mut counts = Vec::new();
    while !world.simulator().has_ended() {
        for format in ["table", "csv", "json"] {
            let timeframe = ["5", "15"][counts.len() % 2];
            let line = format!("candles eurusd {timeframe} --count 10000 --format {format}");
            let output = world.output(&line, &[("RUST_LOG", "warn")]);
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{line}");
            let text = String::from_utf8(output.stdout).unwrap();
            let rows = read_candles(format, &text);
            assert!(!rows.is_empty(), "{line}");
            counts.push(rows.len());
            for (start, prices) in rows {
                let bar = truth.bar("EURUSD".parse().unwrap(), timeframe.parse().unwrap(), start);
                let mid = bar.unwrap_or_else(|| panic!("{line}: no bar at {start}")).mid();
                assert_eq!(mid.map(|price| price.to_f64()), prices, "{line}: {start}");
            }
        }
    }
    assert!(counts.len() >= 6, "{counts:?}");
    assert!(counts.first() < counts.get(counts.len() - 2), "nothing was written meanwhile: {counts:?}");
    world.wait_complete(&mut service);
    service.stop();
    world.verify(Holes::None);
}

/// Start and mid prices of each printed bar.
fn read_candles(format: &str, text: &str) -> Vec<(Timestamp, [f64; 4])> {
    match format {
        "json" => {
            let bars: Vec<serde_json::Value> = serde_json::from_str(text).unwrap();
            let read = |bar: &serde_json::Value| {
                let price = |name: &str| bar[name].as_f64().unwrap();
                let start = Timestamp(bar["timestamp"].as_i64().unwrap());
                (start, ["open", "high", "low", "close"].map(price))
            };
            bars.iter().map(read).collect()
        }
        "csv" => {
            let read = |line: &str| {
                let fields: Vec<&str> = line.split(',').collect();
                let price = |ix: usize| fields[ix].parse().unwrap();
                (Timestamp(fields[0].parse().unwrap()), [1, 2, 3, 4].map(price))
            };
            text.lines().skip(1).map(read).collect()
        }
        _ => {
            let read = |line: &str| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let time = format!("{}T{}:00Z", words[0], words[1]);
                let start = time.parse::<chrono::DateTime<chrono::Utc>>().unwrap();
                let price = |ix: usize| words[ix].parse().unwrap();
                (Timestamp::from(start), [2, 3, 4, 5].map(price))
            };
            text.lines().skip(2).map(read).collect()
        }
    }
}

#[test]
fn two_processes_talk_over_real_sockets() {
    // An idle twin of the simulator knows what happens in the other.
    let end = START.plus(3600);
    let world = World::new(market(1));
    let line = format!(
        "simulate --listen 127.0.0.1:0 --seed 7 --from {START} --to {end} --speed max --rows-per-bar 4 \
         --wait-for-items 28 --timezone-offset 2"
    );
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_candlekeep"));
    command.args(line.split_whitespace()).env_clear().stdout(Stdio::piped());
    let mut simulator = Service::spawn(&mut command);
    let address = simulator.first_line();
    assert!(address.starts_with("http://127.0.0.1:"), "{address}");

    let mut service = world.start("run", &[("IG_API_URL", &address), ("IG_PASSWORD", "any")]);
    let last = end.plus(-STEP).0;
    world.wait(&mut service, "the last bar of every pair and nothing to heal", |world| {
        let bars = format!("SELECT count(*) FROM candles WHERE timeframe = '5' AND timestamp = {last}");
        let holes = "SELECT count(*) FROM coverage WHERE state = 'missing' AND reason <> 'silent'";
        world.number(&bars) == 28 && world.number(holes) == 0
    });
    service.stop();
    let truth = world.simulator().truth();
    verify(&world.database(), &truth, START..end, super::world::DEPTH, Holes::None);
    simulator.stop();
}

#[test]
fn a_first_start_keeps_inside_its_points() {
    let depth = [("CANDLEKEEP_HISTORY_DEPTH", "100")];
    let world = World::new(market(1));
    let mut service = world.start("run", &depth);
    world.wait_complete(&mut service);
    service.stop();
    let truth = world.simulator().truth();
    let summary = verify(&world.database(), &truth, START..START.plus(3600), 100, Holes::None);
    // A hundred bars of each length, of which a third of the longer are derived.
    assert!(summary.bars("15", "derived") >= 28 * 33, "{summary:?}");
    let spent = world.simulator().stats().points_spent;
    assert!((4_500..=4_750).contains(&spent), "{spent} points");

    // What is there already is not paid for again.
    let service = world.start("run", &depth);
    let log = {
        let mut service = service;
        world.wait(&mut service, "the stream", |world| world.simulator().stats().sessions == 2);
        service.stop()
    };
    assert_eq!(world.simulator().stats().points_spent, spent, "{log:#?}");
}

#[test]
fn the_clock_of_the_system_serves_a_market_of_now() {
    // Whatever the hour of the week: while the market is closed, the last bars are Friday's.
    let market_now = MarketOptions::Seeded { seed: 7, start: None };
    let world = World::new(Options {
        market: market_now,
        speed: Speed::Times(1.0),
        rows_per_bar: Some(100),
        end: None,
        requests_per_minute: RequestLimits { per_key: 1_000, per_account: 1_000 },
        timezone_offset_hours: -5,
        request_zone: RequestZone::Utc,
        ..market(0)
    });
    let mut service = world.start("run", &[("CANDLEKEEP_CLOCK", "")]);
    world.wait(&mut service, "the history of every pair", |world| {
        let accounted =
            "SELECT count(DISTINCT pair) FROM coverage WHERE timeframe = '5' AND state = 'stored'";
        let first_start = "SELECT count(*) FROM coverage WHERE reason = 'first_start'";
        world.number(accounted) == 28 && world.number(first_start) == 0
    });
    let log = service.interrupt().orderly();
    let summary = world.verify(Holes::Listed);
    assert!(summary.bars("5", "ig_rest") >= 28 * 11, "{summary:?}");
    assert!(summary.bars("15", "ig_rest") >= 28 * 7, "{summary:?}");
    assert!(summary.bars("15", "derived") >= 28 * 3, "{summary:?}");
    assert!(!log.iter().any(|line| line.starts_with("<3>") || line.starts_with("<4>")), "{log:#?}");
}

#[test]
fn a_market_that_begins_at_a_weekend_is_stored_from_its_opening() {
    // Friday 20:00 to Sunday 23:30 UTC, in winter.
    let start = Timestamp(1_705_694_400);
    let end = Timestamp(1_705_879_800);
    let options = Options {
        market: MarketOptions::Seeded { seed: 11, start: Some(start) },
        end: Some(end),
        ..market(0)
    };
    let (_world, summary, _) = stores_the_truth(options, &[]);
    assert!(summary.in_state("closed") > 28 * 500, "{summary:?}");
}

#[test]
fn status_and_doctor_tell_how_it_stands_and_what_was_found_out() {
    let (world, _, _) = stores_the_truth(Options { unfiltered: Unfiltered::Granted, ..market(1) }, &[]);
    let output = world.output("status --format json", &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["stream"]["phase"], "stopped");
    assert_eq!(told["stream"]["transport"], "websocket");
    assert_eq!(told["probes"]["tlcp_version"], "2.4.0");
    assert_eq!(told["probes"]["empty_diffs_accepted"], true);
    assert_eq!(told["probes"]["sessions"], 1);
    assert_eq!(told["probes"]["unfiltered_granted"], 28);
    assert_eq!(told["pairs"].as_array().unwrap().len(), 28);
    // Whoever looks need not be configured as the service is.
    assert!(told["allowance"]["remaining"].as_i64().unwrap() < 10_000, "{}", told["allowance"]);
    let elsewhere = world.output("status --format json", &[("IG_API_URL", "")]);
    let elsewhere: serde_json::Value = serde_json::from_slice(&elsewhere.stdout).unwrap();
    assert_eq!(elsewhere["allowance"], told["allowance"]);
    let doctor = world.output("doctor", &[]);
    let text = String::from_utf8(doctor.stdout).unwrap();
    assert_eq!(doctor.status.code(), Some(0), "{text}");
    assert!(text.contains("unfiltered                28 subscriptions granted"), "{text}");
    let doctor = world.output("doctor", &[("IG_PASSWORD", "")]);
    assert_eq!(doctor.status.code(), Some(1));
    assert!(String::from_utf8(doctor.stdout).unwrap().contains("FIX   credentials"));
}
