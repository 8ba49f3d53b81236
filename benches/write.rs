//! What the store costs over the bare database, measured in one run: `cargo bench --bench write`.
//!
//! The floor is a prepared upsert over the same SQLite, the same table, the same rows in the same
//! transactions, and nothing else: no ledger, no derivation, no reading back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use candlekeep::domain::pair::MAJOR_PAIRS;
use candlekeep::domain::{Bar, BarKey, Fact, FactBatch, Ohlc, Pair, Price, Source, Timeframe, Timestamp};
use candlekeep::store::{BarQuery, DatabaseUrl, Store, StoredBar};
use rustix::time::{ClockId, clock_gettime};

mod timing;
use timing::{quantiles, time};

/// 2020-01-05 22:00:00 UTC, a Sunday.
const START: Timestamp = Timestamp(1_578_261_600);
/// 5-minute buckets of the bulk load: four trading weeks.
const BUCKETS: i64 = 4 * 5 * 288;
/// Buckets a transaction: some 1,000 5-minute bars of 28 pairs.
const BUCKETS_PER_COMMIT: i64 = 36;
/// Commits of one bucket each, for latency.
const LIVE_COMMITS: i64 = 600;
/// Commits on one side before it is the other's turn.
const COMMITS_PER_TURN: usize = 20;

fn main() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let batches: Vec<Arc<FactBatch>> = (0..BUCKETS / BUCKETS_PER_COMMIT)
        .map(|ix| bars_of(ix * BUCKETS_PER_COMMIT, BUCKETS_PER_COMMIT))
        .collect();
    let live: Vec<Arc<FactBatch>> = (0..LIVE_COMMITS).map(|ix| bars_of(BUCKETS + ix, 1)).collect();
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
        println!("  {synchronous:<6} {}", quantiles(&mut sides.price_of(synchronous)));
    }
}

/// Two databases that get the same rows in the same transactions, by turns.
struct Sides {
    store: DatabaseUrl,
    floor: PathBuf,
    seq: i64,
}

/// One transaction on either side.
struct Turn {
    by_store: Cost,
    by_floor: Cost,
    rows: usize,
}

/// What work took: by the clock, and on a processor. The second knows of no neighbours, nor of
/// the disk.
#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    cpu: Duration,
}

/// The sums of both sides.
fn total(turns: &[Turn], of: impl Fn(&Cost) -> Duration) -> [Duration; 2] {
    [turns.iter().map(|turn| of(&turn.by_store)).sum(), turns.iter().map(|turn| of(&turn.by_floor)).sum()]
}

impl Sides {
    fn new(dir: &Path) -> Sides {
        let (store, floor) = (dir.join("store.db"), dir.join("floor.db"));
        drop(Store::open(&DatabaseUrl::sqlite(&floor)).expect("its tables"));
        Sides { store: DatabaseUrl::sqlite(store), floor, seq: 0 }
    }

    /// How long bare transactions of a bucket take at this setting of `synchronous`.
    fn price_of(&mut self, synchronous: &str) -> Vec<Duration> {
        let floor = Floor::open(&self.floor);
        floor.0.pragma_update(None, "synchronous", synchronous).expect("a pragma");
        let mut floor = floor;
        (0..LIVE_COMMITS)
            .map(|ix| {
                self.seq += 1_000;
                let bucket = BUCKETS * 2 + self.seq + ix;
                let rows: Vec<StoredBar> = MAJOR_PAIRS
                    .into_iter()
                    .zip(0..)
                    .map(|(pair, n)| stored(bar(pair, n, bucket), self.seq + n))
                    .collect();
                time(|| floor.upsert(&rows))
            })
            .collect()
    }

    fn store(&self) -> Store {
        Store::open(&self.store).expect("a store")
    }

    /// Some transactions on the one side, then on the other: a noisy neighbour disturbs both.
    /// Never are both open at once: they were seen to push each other's pages out of memory.
    fn write(&mut self, batches: &[Arc<FactBatch>], rows_max: usize) -> Vec<Turn> {
        let mut turns = Vec::new();
        for batches in batches.chunks(COMMITS_PER_TURN) {
            let mut store = self.store();
            let by_store: Vec<Cost> = batches
                .iter()
                .map(|batch| cost(|| commit_each(&mut store, std::slice::from_ref(batch))))
                .collect();
            // The rows that came of it, in the order written, are what the floor writes.
            let rows = store.bars_after(self.seq, usize::MAX).expect("its rows");
            drop(store);
            self.seq += rows.len() as i64;
            let mut floor = Floor::open(&self.floor);
            // A transaction's rows begin with what was settled and end with what was derived.
            let mut rest = &rows[..];
            for (batch, by_store) in batches.iter().zip(by_store) {
                let of_batch = rest.iter().take_while(|row| belongs_to(row, batch)).count();
                let (rows, later) = rest.split_at(of_batch);
                rest = later;
                let by_floor = cost(|| floor.upsert(&rows[..rows.len().min(rows_max)]));
                turns.push(Turn { by_store, by_floor, rows: rows.len() });
            }
            assert!(rest.is_empty(), "every row is of some transaction");
        }
        turns
    }
}

/// Whether the transaction of this batch, and no later one, may have brought the row.
fn belongs_to(row: &StoredBar, batch: &FactBatch) -> bool {
    let Some(Fact::Settled(last)) = batch.facts.last() else { return false };
    row.bar.key.start <= last.key.start
}

fn commit_each(store: &mut Store, batches: &[Arc<FactBatch>]) {
    for batch in batches {
        store.commit(std::slice::from_ref(batch), START).expect("a commit");
    }
}

/// Streamed bars of all pairs, as a replay of recorded weeks would settle them.
fn bars_of(first: i64, buckets: i64) -> Arc<FactBatch> {
    let facts = (first..first + buckets)
        .flat_map(|bucket| {
            MAJOR_PAIRS.into_iter().zip(0..).map(move |(pair, n)| Fact::Settled(bar(pair, n, bucket)))
        })
        .collect();
    Arc::new(FactBatch { evidence: "session 1".into(), facts })
}

fn bar(pair: Pair, n: i64, bucket: i64) -> Bar {
    // Prices that wander a little: what they are does not matter, their digits do.
    let open = 110_000_000 + n * 1_000_000 + (bucket * 7_919 + n * 104_729) % 700_000;
    let side = |spread: i64| {
        let price =
            |offset: i64| Price::from_units((open + offset + spread) / 1_000 * 1_000).expect("a price");
        Ohlc { open: price(0), high: price(41_000), low: price(-37_000), close: price(12_000) }
    };
    let key = BarKey { pair, timeframe: Timeframe::M5, start: START.plus(bucket * 300) };
    Bar { key, bid: side(0), ask: side(9_000), volume: 300 + (bucket % 97) as u32, source: Source::Stream }
}

fn stored(bar: Bar, seq: i64) -> StoredBar {
    StoredBar { bar, created_at: START, updated_at: START, revision: 0, seq, feed_id: None }
}

struct Floor(rusqlite::Connection);

impl Floor {
    fn open(path: &Path) -> Floor {
        let connection = rusqlite::Connection::open(path).expect("a connection");
        connection.pragma_update(None, "synchronous", "FULL").expect("a pragma");
        Floor(connection)
    }

    fn upsert(&mut self, rows: &[StoredBar]) {
        let transaction = self.0.transaction().expect("a transaction");
        {
            let mut statement = transaction
                .prepare_cached(
                    "INSERT INTO candles VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) \
                     ON CONFLICT (pair, timeframe, timestamp) DO UPDATE SET open = excluded.open, \
                     high = excluded.high, low = excluded.low, close = excluded.close, \
                     volume = excluded.volume, seq = excluded.seq WHERE excluded.volume >= volume",
                )
                .expect("a statement");
            for row in rows {
                let bar = &row.bar;
                let mid = bar.mid().map(|mid| mid.to_f64());
                let bid = bar.bid.prices().map(Price::to_f64);
                let ask = bar.ask.prices().map(Price::to_f64);
                let bind = |statement: &mut rusqlite::CachedStatement<'_>| -> rusqlite::Result<()> {
                    statement.raw_bind_parameter(1, bar.key.pair.letters())?;
                    statement.raw_bind_parameter(2, bar.key.timeframe.as_str())?;
                    statement.raw_bind_parameter(3, bar.key.start.0)?;
                    (0..4).try_for_each(|ix| statement.raw_bind_parameter(4 + ix, mid[ix]))?;
                    statement.raw_bind_parameter(8, bar.volume)?;
                    statement.raw_bind_parameter(9, bar.source.as_str())?;
                    statement.raw_bind_parameter(10, row.created_at.0)?;
                    (0..4).try_for_each(|ix| statement.raw_bind_parameter(11 + ix, bid[ix]))?;
                    (0..4).try_for_each(|ix| statement.raw_bind_parameter(15 + ix, ask[ix]))?;
                    statement.raw_bind_parameter(19, row.revision)?;
                    statement.raw_bind_parameter(20, row.updated_at.0)?;
                    statement.raw_bind_parameter(21, row.seq)?;
                    statement.raw_bind_parameter(22, row.feed_id)
                };
                bind(&mut statement).expect("its parameters");
                statement.raw_execute().expect("an upsert");
            }
        }
        transaction.commit().expect("a commit");
    }
}

fn cost(work: impl FnOnce()) -> Cost {
    let on_cpu = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("time goes on");
    let start = on_cpu();
    let wall = time(work);
    Cost { wall, cpu: on_cpu() - start }
}
