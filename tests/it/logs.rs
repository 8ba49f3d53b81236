//! What the real program writes to stderr while much happens: as much as an operator can read, and nothing is lost.

use candlekeep::simulator::faults::Script;
use candlekeep::simulator::{Options, Speed};

use super::world::{World, market};

/// Bytes of a line that journald takes as one entry (`LineMax=`).
const JOURNAL_LINE_BYTES: usize = 48 * 1024;
/// Pairs in the market.
const PAIRS: usize = 28;

/// Runs the program through so many hours at a fixed speed in which a script has things go wrong; its log, and the world.
fn heard(script: &str, hours: i64, speed: f64) -> (World, Vec<String>) {
    let faults = Script::parse(script).expect("the script is sound");
    let world =
        World::new(Options { faults, rows_per_bar: Some(20), speed: Speed::Times(speed), ..market(hours) });
    let mut service = world.run();
    world.wait(&mut service, "the end of market time", |world| world.simulator().has_ended());
    let log = service.stop();
    for line in &log {
        let has_priority = ["<3>", "<4>", "<6>"].iter().any(|priority| line.starts_with(priority));
        assert!(has_priority && line.len() < JOURNAL_LINE_BYTES, "{line}");
        assert!(!line.chars().any(char::is_control), "{line}");
    }
    (world, log)
}

/// The number that follows `key` in a line.
fn number(line: &str, key: &str) -> Option<u64> {
    let value = line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='))?;
    Some(value.parse().unwrap_or_else(|_| panic!("{key} is no number: {line}")))
}

#[test]
fn only_the_summary_grows_with_the_market() {
    let (hours, cuts) = (6, 5);
    // Every pair has something to heal in every hour, and closes that never come besides.
    let script = r#"[
        {"do": "cut", "how": "reset", "after_s": 900, "every_s": 3600},
        {"do": "closes", "how": "merge", "bars": 2, "after_s": 1800, "every_s": 1800},
        {"do": "overflow", "pairs": ["EUR_USD"], "rows": 1, "after_s": 3600}
    ]"#;
    let (_world, log) = heard(script, hours, 900.0);
    let (summaries, others): (Vec<_>, Vec<_>) = log
        .iter()
        .filter(|line| line.starts_with("<6>"))
        .partition(|line| line.contains("candlekeep::summary:"));
    // A start and an end, and after each cut that the stream goes on.
    assert!(others.len() <= 10 + 2 * cuts, "{} lines: {others:#?}", others.len());

    let sum = |key| summaries.iter().filter_map(|line| number(line, key)).sum::<u64>();
    let buckets = 12 * hours as u64;
    assert!(summaries.len() as u64 <= buckets, "{summaries:#?}");
    // The first tells of what follows it, and the end comes before the last.
    assert!((buckets - 24..=buckets).contains(&sum("buckets")), "{summaries:#?}");
    let expected = PAIRS as u64 * (buckets - 24);
    assert!(sum("bars") >= expected && sum("rows") >= 5 * expected, "{summaries:#?}");
    assert!(sum("healed") >= 2 * PAIRS as u64 && sum("missing") >= 2 * PAIRS as u64, "{summaries:#?}");
    assert!(summaries.iter().any(|line| number(line, "durable_ms_max").is_some()), "{summaries:#?}");
    let last = summaries.iter().rfind(|line| line.contains(" rows=")).unwrap();
    assert!(number(last, "still_missing").is_some(), "{last}");
}

#[test]
fn a_storm_is_told_in_few_lines_that_add_up() {
    let script = r#"[
        {"do": "overflow", "rows": 1, "after_s": 60, "every_s": 10},
        {"do": "garbage", "what": "line", "after_s": 60, "every_s": 5},
        {"do": "garbage", "what": "binary", "after_s": 65, "every_s": 300},
        {"do": "garbage", "what": {"huge": 300000}, "after_s": 600, "every_s": 1200}
    ]"#;
    let (world, log) = heard(script, 3, 600.0);
    let storm: Vec<&String> = log.iter().filter(|line| line.contains("the server dropped rows")).collect();
    // Eighteen seconds are one window: some of each pair, and one line for all others.
    assert!(storm.len() <= PAIRS * 3, "{} lines", storm.len());
    assert!(log.len() <= PAIRS * 3 + 120, "{} lines: {log:#?}", log.len());

    let shown = storm.iter().filter(|line| number(line, "dropped").is_some()).count() as u64;
    let repeated: u64 = storm.iter().filter_map(|line| number(line, "repeated")).sum();
    let status = world.output("status --format json", &[]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("status is JSON");
    let dropped = status["probes"]["rows_dropped"].as_u64().expect("rows were dropped");
    assert!(dropped > 20 * PAIRS as u64, "it was no storm: {dropped}");
    assert_eq!(shown + repeated, dropped);
}
