//! A database of years, made at once.

use std::path::Path;

use candlekeep::domain::Timestamp;
use candlekeep::domain::pair::MAJOR_PAIRS;
use candlekeep::store::{DatabaseUrl, Store};

/// Seconds of a bucket.
const STEP: i64 = 300;
/// And of a session.
const SESSION: i64 = 4 * 3_600;

/// So many 5-minute buckets of all pairs up to a time, the bars derived from them, and a ledger in which each four hours
/// have another session.
pub fn fill(path: &Path, end: Timestamp, buckets: i64) {
    drop(Store::open(&DatabaseUrl::sqlite(path)).expect("its tables"));
    let file = rusqlite::Connection::open(path).expect("a connection");
    // Whoever is interrupted makes it again.
    file.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; DROP INDEX candles_seq; BEGIN")
        .expect("an empty table");
    let mut pairs: Vec<String> = MAJOR_PAIRS.iter().map(ToString::to_string).collect();
    // In the order of the key.
    pairs.sort();
    let first = end.plus(-buckets * STEP).floor(900).0;
    for (pair, n) in pairs.iter().zip(0..) {
        // As many digits as the pair has in the market.
        let unit = if pair.ends_with("JPY") { 100.0 } else { 1.0 };
        for (timeframe, step) in [("15", 3 * STEP), ("5", STEP)] {
            let source = if timeframe == "5" { "websocket" } else { "derived" };
            let seq = format!("(at - {first}) / {STEP} * 56 + {n} * 2 + {}", i64::from(timeframe == "15"));
            let prices = format!("{unit} * (1.1 + at % 977 / 1e4), {unit} * 1.3, {unit} * 1.0, {unit} * 1.2");
            let count = (end.0 - first) / step;
            file.execute_batch(&format!(
                "WITH RECURSIVE buckets (at, left) AS (SELECT {first}, {count} - 1 UNION ALL \
                 SELECT at + {step}, left - 1 FROM buckets WHERE left > 0) \
                 INSERT INTO candles SELECT '{pair}', '{timeframe}', at, {prices}, 300, '{source}', at, {prices}, {prices}, \
                 0, at, {seq} + 1, NULL FROM buckets"
            ))
            .expect("its bars");
        }
    }
    // As it came about: one after the other.
    let lengths = "SELECT '5' AS timeframe UNION ALL SELECT '15'";
    let pairs =
        pairs.iter().map(|pair| format!("SELECT '{pair}' AS pair")).collect::<Vec<_>>().join(" UNION ALL ");
    file.execute_batch(&format!(
        "WITH RECURSIVE sessions (at) AS (SELECT {first} UNION ALL SELECT at + {SESSION} FROM sessions WHERE at + {SESSION} < {end}) \
         INSERT INTO coverage SELECT pair, timeframe, at, min(at + {SESSION}, {end}), 'stored', 'settled', 'session ' || at, at \
         FROM sessions CROSS JOIN ({lengths}) CROSS JOIN ({pairs}) ORDER BY at",
        end = end.0
    ))
    .expect("its ledger");
    file.execute_batch("COMMIT; CREATE UNIQUE INDEX candles_seq ON candles (seq)").expect("the index again");
}
