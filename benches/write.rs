//! What the store costs over the bare database, measured in one run: `cargo bench --bench write`.
//!
//! The floor is a prepared upsert over the same SQLite, the same table, the same rows in the same
//! transactions, and nothing else: no ledger, no derivation, no reading back. Ends with 1 where a bound is missed.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use candlekeep::domain::pair::MAJOR_PAIRS;
use candlekeep::domain::{FactBatch, Timeframe};
use candlekeep::store::BarQuery;

#[expect(dead_code, reason = "other benches use the rest")]
mod bars;
mod budget;
mod sides;
mod timing;
use bars::bars_of;
use budget::Budget;
use sides::{Sides, commit_each, total};
use timing::{at, quantiles, time};

/// 5-minute buckets of the bulk load: four trading weeks.
const BUCKETS: i64 = 4 * 5 * 288;
/// Buckets a transaction: some 1,000 5-minute bars of 28 pairs.
const BUCKETS_PER_COMMIT: i64 = 36;
/// Commits of one bucket each, for latency.
const LIVE_COMMITS: i64 = 600;
/// The budget: rows a second as a share of the floor's, and how much longer a bucket takes at the median and for 99 of 100.
const SHARE_MIN: f64 = 60.0;
const MEDIAN_MAX: f64 = 2.0;
const P99_MAX: f64 = 4.0;

fn main() -> ExitCode {
    let mut budget = Budget::new();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let batches: Vec<Arc<FactBatch>> = (0..BUCKETS / BUCKETS_PER_COMMIT)
        .map(|ix| bars_of(&MAJOR_PAIRS, ix * BUCKETS_PER_COMMIT, BUCKETS_PER_COMMIT))
        .collect();
    let live: Vec<Arc<FactBatch>> =
        (0..LIVE_COMMITS).map(|ix| bars_of(&MAJOR_PAIRS, BUCKETS + ix, 1)).collect();
    let facts: usize = batches.iter().map(|batch| batch.facts.len()).sum();

    let mut sides = Sides::new(dir.path());
    let bulk = sides.write(&batches, usize::MAX);
    let bulk_rows: usize = bulk.iter().map(|turn| turn.rows).sum();
    let rows_per_commit = bulk_rows / batches.len();
    let [store_bulk, floor_bulk] = total(&bulk, |cost| cost.wall);
    let [store_cpu, floor_cpu] = total(&bulk, |cost| cost.cpu);
    // The floor leaves out the derived rows, which every third bucket brings.
    let live = sides.write(&live, MAJOR_PAIRS.len());
    let mut store_live: Vec<Duration> = live.iter().map(|turn| turn.by_store.wall).collect();
    let mut floor_live: Vec<Duration> = live.iter().map(|turn| turn.by_floor.wall).collect();

    let mut store = sides.store();
    let again = time(|| commit_each(&mut store, &batches));
    let last_hundred = BarQuery { count: Some(100), ..BarQuery::default() };
    let mut reads: Vec<Duration> = (0..1000)
        .map(|ix| {
            let pair = MAJOR_PAIRS[ix % MAJOR_PAIRS.len()];
            time(|| assert_eq!(store.bars(pair, Timeframe::M5, &last_hundred).expect("bars").len(), 100))
        })
        .collect();

    let per_second = |count: usize, took: Duration| count as f64 / took.as_secs_f64();
    println!("bulk, {facts} 5-minute bars, {bulk_rows} rows, {rows_per_commit} rows a transaction:");
    println!("  floor  {:>9.0} rows/s", per_second(bulk_rows, floor_bulk));
    println!(
        "  store  {:>9.0} rows/s, {:.0} 5-minute bars/s, {:.0} % of the floor",
        per_second(bulk_rows, store_bulk),
        per_second(facts, store_bulk),
        100.0 * floor_bulk.as_secs_f64() / store_bulk.as_secs_f64()
    );
    println!(
        "  on a processor: floor {:.1} µs a row, store {:.1} µs",
        floor_cpu.as_secs_f64() * 1e6 / bulk_rows as f64,
        store_cpu.as_secs_f64() * 1e6 / bulk_rows as f64
    );
    println!("  again  {:>9.0} 5-minute bars/s, all of them known", per_second(facts, again));
    println!("one bucket of 28 pairs a transaction:");
    println!("  floor  {}", quantiles(&mut floor_live));
    println!("  store  {}", quantiles(&mut store_live));
    println!("last 100 bars of one pair:\n  store  {}", quantiles(&mut reads));
    drop(store);
    println!("what it costs that a commit is on the disk, 28 rows a transaction:");
    for synchronous in ["FULL", "NORMAL", "OFF"] {
        println!("  {synchronous:<6} {}", quantiles(&mut sides.price_of(synchronous, LIVE_COMMITS as usize)));
    }
    let share = 100.0 * floor_bulk.as_secs_f64() / store_bulk.as_secs_f64();
    let what = format!("bars into SQLite, {rows_per_commit} rows a transaction");
    budget.at_least(&what, share, SHARE_MIN, "% of a bare upsert");
    for (which, share, most) in [("median", 0.5, MEDIAN_MAX), ("99 of 100", 0.99, P99_MAX)] {
        let factor = at(&store_live, share).as_secs_f64() / at(&floor_live, share).as_secs_f64();
        budget.at_most(&format!("… one bucket of 28 pairs, {which}"), factor, most, "bare commits");
    }
    budget.end()
}
