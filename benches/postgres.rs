//! What the store costs on PostgreSQL over a bare client, measured in one run on a server of its own:
//! `cargo bench --bench postgres`. Needs PostgreSQL's binaries.
//!
//! The floor copies the same rows, binary, to a temporary table and inserts them from there where there is
//! no conflict, in the same transactions and nothing else: no ledger, no derivation, no lease. For comparison, a loop over
//! one prepared insert does the same, a journey a row. Ends with 1 where the budget is missed.

use std::process::ExitCode;
use std::time::Duration;

use candlekeep::domain::pair::MAJOR_PAIRS;
use candlekeep::domain::{Fact, Price, Timeframe};
use candlekeep::store::{BarQuery, Store, StoredBar};
use tokio::runtime::Runtime;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, NoTls, Statement};

#[expect(dead_code, clippy::unwrap_used, reason = "it is a part of the tests, which use the rest")]
#[path = "../tests/it/postgres.rs"]
mod postgres;

#[expect(dead_code, reason = "other benches use the rest")]
mod bars;
mod budget;
#[expect(dead_code, reason = "other benches use the rest")]
mod timing;
use bars::{START, bars_of};
use budget::Budget;
use timing::{at, quantiles, time};

/// Buckets of one transaction of the bulk load: some 1,000 bars of 28 pairs.
const BULK: i64 = 36;
/// Transactions of the bulk load, and of one bucket each.
const BULK_COMMITS: i64 = 100;
const LIVE_COMMITS: i64 = 600;
/// Transactions on one side before it is the other's turn.
const PER_TURN: usize = 20;
/// The budget of the bulk load: rows a second as a share of the floor's.
const SHARE_MIN: f64 = 80.0;
/// What one bucket may take, in buckets of the loop: with three journeys 1.7, with nine it was 2.7.
const ONE_BUCKET_MAX: f64 = 2.3;

fn main() -> ExitCode {
    let mut budget = Budget::new();
    if std::env::args().any(|arg| arg == "--test") {
        println!("not run: it takes a server");
        return budget.end();
    }
    let Some(server) = postgres::Server::start(&["shared_buffers = 256MB", "max_wal_size = 4GB"]) else {
        budget.not_measured("bars into PostgreSQL", "there is no server");
        return budget.end();
    };
    let mut sides = Sides::new(&server);
    for (what, first, buckets, commits) in
        [("bulk", 0, BULK, BULK_COMMITS), ("one bucket", BULK * BULK_COMMITS, 1, LIVE_COMMITS)]
    {
        let batches: Vec<_> =
            (0..commits).map(|ix| bars_of(&MAJOR_PAIRS, first + ix * buckets, buckets)).collect();
        let [mut by_store, mut by_floor, mut by_row] = [const { Vec::new() }; 3];
        let mut rows = 0;
        for batches in batches.chunks(PER_TURN) {
            for batch in batches {
                by_store.push(time(|| {
                    sides.store.commit(std::slice::from_ref(batch), START).map(drop).expect("a commit");
                }));
            }
            let written = sides.store.bars_after(sides.seq, usize::MAX).expect("its rows");
            sides.seq += written.len() as i64;
            rows += written.len();
            let mut rest = &written[..];
            for batch in batches {
                let Some(Fact::Settled(last)) = batch.facts.last() else { unreachable!("bars only") };
                let of_batch = rest.iter().take_while(|row| row.bar.key.start <= last.key.start).count();
                let (these, later) = rest.split_at(of_batch);
                rest = later;
                by_floor.push(time(|| sides.copy(these)));
                by_row.push(time(|| sides.insert(these)));
            }
        }
        let per_second = |times: &[Duration]| rows as f64 / times.iter().sum::<Duration>().as_secs_f64();
        let (store, floor) = (per_second(&by_store), per_second(&by_floor));
        println!("{what}, {} rows a transaction:", rows / by_store.len());
        println!("  floor  {floor:>9.0} rows/s, {}", quantiles(&mut by_floor));
        println!("  by row {:>9.0} rows/s, {}", per_second(&by_row), quantiles(&mut by_row));
        println!(
            "  store  {store:>9.0} rows/s, {}; {:.0} % of the floor",
            quantiles(&mut by_store),
            100.0 * store / floor
        );
        if buckets == BULK {
            let what = format!("bars into PostgreSQL, {} rows a transaction", rows / by_store.len());
            budget.at_least(&what, 100.0 * store / floor, SHARE_MIN, "% of COPY and insert");
        } else {
            let [store, by_row] = [&by_store, &by_row].map(|times| at(times, 0.5).as_secs_f64());
            let what = format!("… one bucket of {} pairs, median", MAJOR_PAIRS.len());
            budget.at_most(&what, store / by_row, ONE_BUCKET_MAX, "loops of prepared inserts");
        }
    }
    let last_hundred = BarQuery { count: Some(100), ..BarQuery::default() };
    let mut reads: Vec<Duration> = (0..1_000)
        .map(|ix| {
            let pair = MAJOR_PAIRS[ix % MAJOR_PAIRS.len()];
            time(|| drop(sides.store.bars(pair, Timeframe::M5, &last_hundred).expect("bars")))
        })
        .collect();
    println!("last 100 bars of one pair:\n  store  {}", quantiles(&mut reads));
    budget.end()
}

/// The columns' types.
const TYPES: [Type; 22] = [
    Type::TEXT,
    Type::TEXT,
    Type::INT8,
    Type::FLOAT8,
    Type::FLOAT8,
    Type::FLOAT8,
    Type::FLOAT8,
    Type::INT8,
    Type::TEXT,
    Type::INT8,
    Type::FLOAT8,
    Type::FLOAT8,
    Type::FLOAT8,
    Type::FLOAT8,
    Type::FLOAT8,
    Type::FLOAT8,
    Type::FLOAT8,
    Type::FLOAT8,
    Type::INT4,
    Type::INT8,
    Type::INT8,
    Type::INT8,
];

/// A row's values, as these.
struct Values<'a> {
    row: &'a StoredBar,
    pair: String,
    timeframe: &'static str,
    volume: i64,
    source: &'static str,
    prices: [[f64; 4]; 3],
}

impl Values<'_> {
    fn of(row: &StoredBar) -> Values<'_> {
        let bar = &row.bar;
        let prices = [
            bar.mid().map(|mid| mid.to_f64()),
            bar.bid.prices().map(Price::to_f64),
            bar.ask.prices().map(Price::to_f64),
        ];
        let (pair, timeframe) = (bar.key.pair.to_string(), bar.key.timeframe.as_str());
        Values { row, pair, timeframe, volume: bar.volume.into(), source: bar.source.as_str(), prices }
    }

    fn each(&self) -> [&(dyn ToSql + Sync); 22] {
        let Values { row, prices: [mid, bid, ask], .. } = self;
        [
            &self.pair,
            &self.timeframe,
            &row.bar.key.start.0,
            &mid[0],
            &mid[1],
            &mid[2],
            &mid[3],
            &self.volume,
            &self.source,
            &row.created_at.0,
            &bid[0],
            &bid[1],
            &bid[2],
            &bid[3],
            &ask[0],
            &ask[1],
            &ask[2],
            &ask[3],
            &0_i32,
            &row.updated_at.0,
            &row.seq,
            &row.feed_id,
        ]
    }
}

struct Sides {
    store: Store,
    runtime: Runtime,
    floor: Client,
    by_row: (Client, Statement),
    seq: i64,
}

impl Sides {
    fn new(server: &postgres::Server) -> Sides {
        let store = Store::open(&server.url()).expect("a store");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let client = || {
            let address = server.place();
            drop(Store::open(&address.parse().expect("an address")).expect("its tables"));
            runtime.block_on(async {
                let (client, connection) =
                    tokio_postgres::connect(&address, NoTls).await.expect("a connection");
                tokio::spawn(connection);
                client
            })
        };
        let (floor, by_row) = (client(), client());
        let insert = runtime.block_on(async {
            let table = "CREATE TEMPORARY TABLE arriving (LIKE candles) ON COMMIT DELETE ROWS";
            floor.batch_execute(table).await.expect("a table");
            let places: Vec<String> = (1..=TYPES.len()).map(|place| format!("${place}")).collect();
            let insert = format!("INSERT INTO candles VALUES ({}) ON CONFLICT DO NOTHING", places.join(", "));
            by_row.prepare_typed(&insert, &TYPES).await.expect("a statement")
        });
        Sides { store, runtime, floor, by_row: (by_row, insert), seq: 0 }
    }

    /// The floor.
    fn copy(&mut self, rows: &[StoredBar]) {
        let Sides { runtime, floor, .. } = self;
        runtime.block_on(async {
            let transaction = floor.transaction().await.expect("a transaction");
            let sink = transaction.copy_in("COPY arriving FROM STDIN BINARY").await.expect("a copy");
            let writer = BinaryCopyInWriter::new(sink, &TYPES);
            let mut writer = std::pin::pin!(writer);
            for row in rows {
                writer.as_mut().write(&Values::of(row).each()).await.expect("a row");
            }
            writer.finish().await.expect("the rows");
            let insert = "INSERT INTO candles SELECT * FROM arriving ON CONFLICT DO NOTHING";
            transaction.batch_execute(insert).await.expect("an insert");
            transaction.commit().await.expect("a commit");
        });
    }

    /// The loop.
    fn insert(&mut self, rows: &[StoredBar]) {
        let Sides { runtime, by_row: (client, insert), .. } = self;
        runtime.block_on(async {
            let transaction = client.transaction().await.expect("a transaction");
            for row in rows {
                transaction.execute(insert, &Values::of(row).each()).await.expect("a row");
            }
            transaction.commit().await.expect("a commit");
        });
    }
}
