//! The store and, next to it, a bare prepared upsert over the same SQLite, the same table, the same rows in the same
//! transactions, and nothing else: no ledger, no derivation, no reading back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use candlekeep::domain::pair::MAJOR_PAIRS;
use candlekeep::domain::{Bar, Fact, FactBatch, Price};
use candlekeep::store::{DatabaseUrl, Store, StoredBar};

use super::bars::{START, bar};
use super::timing::{Cost, cost, time};

/// Commits on one side before it is the other's turn.
const COMMITS_PER_TURN: usize = 20;

/// Two databases that get the same rows in the same transactions, by turns.
pub struct Sides {
    store: DatabaseUrl,
    floor: PathBuf,
    seq: i64,
}

/// One transaction on either side.
pub struct Turn {
    pub by_store: Cost,
    pub by_floor: Cost,
    pub rows: usize,
}

/// The sums of both sides.
pub fn total(turns: &[Turn], of: impl Fn(&Cost) -> Duration) -> [Duration; 2] {
    [turns.iter().map(|turn| of(&turn.by_store)).sum(), turns.iter().map(|turn| of(&turn.by_floor)).sum()]
}

impl Sides {
    pub fn new(dir: &Path) -> Sides {
        let (store, floor) = (dir.join("store.db"), dir.join("floor.db"));
        drop(Store::open(&DatabaseUrl::sqlite(&floor)).expect("its tables"));
        Sides { store: DatabaseUrl::sqlite(store), floor, seq: 0 }
    }

    /// How long bare transactions of a bucket take at this setting of `synchronous`.
    pub fn price_of(&mut self, synchronous: &str, commits: usize) -> Vec<Duration> {
        let floor = Floor::open(&self.floor);
        floor.0.pragma_update(None, "synchronous", synchronous).expect("a pragma");
        let mut floor = floor;
        (0..commits)
            .map(|_| {
                self.seq += 1_000;
                // Beyond all that is written else.
                let bucket = 1_000_000 + self.seq;
                let rows: Vec<StoredBar> = MAJOR_PAIRS
                    .into_iter()
                    .zip(0..)
                    .map(|(pair, n)| stored(bar(pair, n, bucket), self.seq + n))
                    .collect();
                time(|| floor.upsert(&rows))
            })
            .collect()
    }

    pub fn store(&self) -> Store {
        Store::open(&self.store).expect("a store")
    }

    /// Some transactions on the one side, then on the other: a noisy neighbour disturbs both.
    /// Never are both open at once: neither is to find the other's pages in the processor's memory.
    pub fn write(&mut self, batches: &[Arc<FactBatch>], rows_max: usize) -> Vec<Turn> {
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

pub fn commit_each(store: &mut Store, batches: &[Arc<FactBatch>]) {
    for batch in batches {
        store.commit(std::slice::from_ref(batch), START).expect("a commit");
    }
}

pub fn stored(bar: Bar, seq: i64) -> StoredBar {
    StoredBar { bar, created_at: START, updated_at: START, revision: 0, seq, feed_id: None }
}

/// A prepared upsert and nothing else.
pub struct Floor(pub rusqlite::Connection);

impl Floor {
    pub fn open(path: &Path) -> Floor {
        let connection = rusqlite::Connection::open(path).expect("a connection");
        connection.pragma_update(None, "synchronous", "FULL").expect("a pragma");
        // Who closes the last connection takes the log with it. It is made anew here, where nobody counts that.
        let version: i64 =
            connection.query_row("PRAGMA user_version", [], |row| row.get(0)).expect("a number");
        connection.pragma_update(None, "user_version", version).expect("a pragma");
        Floor(connection)
    }

    #[allow(dead_code, reason = "most begin with an empty table")]
    pub fn last_seq(&self) -> i64 {
        self.0.query_row("SELECT max(seq) FROM candles", [], |row| row.get(0)).expect("a bar")
    }

    pub fn upsert(&mut self, rows: &[StoredBar]) {
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
                    statement.raw_bind_parameter(1, bar.key.pair.to_string())?;
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
