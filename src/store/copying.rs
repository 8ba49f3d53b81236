//! Moves every table from one database to another, and proves it: rows are read from one consistent state
//! of the source, written a page at a time, read back, and both sides counted and summed up.
//!
//! The lease stays behind, being a process's and not the data's, and so does the database's own id. While
//! rows are missing the target says so ([`UNFINISHED`]), so that nobody collects into half a database.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Double, Integer, Nullable, Text};
use ring::digest::{Context, SHA256};

use super::Store;
use super::backend::{Connection, on_backend};
use super::error::StoreError;
use super::many::Statement;
use super::postgres::number_on;
use super::schema::{
    NUMBERED_TABLES, allowance, candle_revisions, candles, coverage, feeds, fetch_requests, heal_attempts,
    market_hours, settings, stream_breaks, watched_bars,
};
use super::sequence::COPIED;
use super::settings as words;

/// The setting that says that a copy into the database has begun and not ended.
pub(super) const UNFINISHED: &str = "copy.unfinished";
/// Settings that belong to one database and are not copied.
const OWN_SETTINGS: [&str; 4] = [UNFINISHED, "database_id", "service.run", COPIED];
/// Rows in memory at a time.
const PAGE_ROWS: i64 = 5_000;

/// How many rows a table has, and the sum of what they say, whatever their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSum {
    /// The table.
    pub table: &'static str,
    /// Its rows.
    pub rows: u64,
    /// The sum of the first halves of their SHA-256, modulo 2¹²⁸.
    pub sum: u128,
}

/// A value as it is summed up, the same from either database.
trait Summed {
    fn add_to(&self, digest: &mut Context);
}

impl Summed for i64 {
    fn add_to(&self, digest: &mut Context) {
        digest.update(&self.to_le_bytes());
    }
}

impl Summed for i32 {
    fn add_to(&self, digest: &mut Context) {
        digest.update(&self.to_le_bytes());
    }
}

impl Summed for f64 {
    fn add_to(&self, digest: &mut Context) {
        digest.update(&self.to_bits().to_le_bytes());
    }
}

impl Summed for String {
    fn add_to(&self, digest: &mut Context) {
        digest.update(&self.len().to_le_bytes());
        digest.update(self.as_bytes());
    }
}

impl<T: Summed> Summed for Option<T> {
    fn add_to(&self, digest: &mut Context) {
        digest.update(&[u8::from(self.is_some())]);
        if let Some(value) = self {
            value.add_to(digest);
        }
    }
}

/// A whole row, every column as the database has it.
trait WholeRow: Sized {
    fn sum(&self) -> u128;
    fn write(connection: &mut Connection, rows: &[Self]) -> QueryResult<()>;
}

/// Rows of one table, all columns of it, and how they are written.
macro_rules! whole_row {
    ($row:ident of $table:ident { $($column:ident: $rust:ty => $sql:ty),* $(,)? }) => {
        #[derive(Queryable, Selectable, Insertable)]
        #[diesel(table_name = $table, treat_none_as_default_value = false)]
        struct $row { $($column: $rust),* }

        impl WholeRow for $row {
            fn sum(&self) -> u128 {
                let mut digest = Context::new(&SHA256);
                $(self.$column.add_to(&mut digest);)*
                let half = digest.finish().as_ref()[..16].try_into();
                u128::from_le_bytes(half.expect("a SHA-256 has 32 bytes"))
            }

            fn write(connection: &mut Connection, rows: &[$row]) -> QueryResult<()> {
                match connection {
                    Connection::Sqlite(connection) => rows.iter().try_for_each(|row| {
                        diesel::insert_into($table::table).values(row).execute(connection).map(drop)
                    }),
                    Connection::Postgres(server) => {
                        let columns = [$(stringify!($column)),*].join(", ");
                        let before = format!(
                            "INSERT INTO {} ({columns}) OVERRIDING SYSTEM VALUE SELECT * FROM unnest",
                            stringify!($table),
                        );
                        let statement = Statement::<$row>::new(before, "");
                        $(let statement = statement.column::<$sql, _>(rows.iter().map(|row| &row.$column));)*
                        statement.execute(&mut server.wire).map(drop)
                    }
                }
            }
        }
    };
}

whole_row!(Candle of candles {
    pair: String => Text, timeframe: String => Text, timestamp: i64 => BigInt,
    open: f64 => Double, high: f64 => Double, low: f64 => Double, close: f64 => Double,
    volume: i64 => BigInt, source: String => Text, created_at: i64 => BigInt,
    bid_open: f64 => Double, bid_high: f64 => Double, bid_low: f64 => Double, bid_close: f64 => Double,
    ask_open: f64 => Double, ask_high: f64 => Double, ask_low: f64 => Double, ask_close: f64 => Double,
    revision: i32 => Integer, updated_at: i64 => BigInt, seq: i64 => BigInt,
    feed_id: Option<i64> => Nullable<BigInt>,
});
whole_row!(CandleRevision of candle_revisions {
    pair: String => Text, timeframe: String => Text, timestamp: i64 => BigInt,
    seq: i64 => BigInt, kind: String => Text,
    open: f64 => Double, high: f64 => Double, low: f64 => Double, close: f64 => Double,
    volume: i64 => BigInt, source: String => Text,
    bid_open: f64 => Double, bid_high: f64 => Double, bid_low: f64 => Double, bid_close: f64 => Double,
    ask_open: f64 => Double, ask_high: f64 => Double, ask_low: f64 => Double, ask_close: f64 => Double,
    revision: i32 => Integer, valid_from: i64 => BigInt, valid_to: i64 => BigInt,
});
whole_row!(Coverage of coverage {
    pair: String => Text, timeframe: String => Text, from_ts: i64 => BigInt, to_ts: i64 => BigInt,
    state: String => Text, reason: String => Text, evidence: String => Text, updated_at: i64 => BigInt,
});
whole_row!(Feed of feeds {
    id: i64 => BigInt, pair: String => Text, epic: String => Text, environment: String => Text,
    account_type: String => Text, scale: String => Text, calendar: String => Text,
    watched_from: i64 => BigInt, watched_to: Option<i64> => Nullable<BigInt>,
});
whole_row!(Spend of allowance {
    id: i64 => BigInt, environment: String => Text, account: String => Text, key_fingerprint: String => Text,
    what: String => Text, state: String => Text, points: i64 => BigInt, booked_at: i64 => BigInt,
    settled_at: Option<i64> => Nullable<BigInt>, seen_remaining: Option<i64> => Nullable<BigInt>,
    seen_total: Option<i64> => Nullable<BigInt>, seen_expires_at: Option<i64> => Nullable<BigInt>,
    pair: Option<String> => Nullable<Text>, timeframe: Option<String> => Nullable<Text>,
    from_ts: Option<i64> => Nullable<BigInt>, to_ts: Option<i64> => Nullable<BigInt>,
    incident_from: Option<i64> => Nullable<BigInt>, incident_to: Option<i64> => Nullable<BigInt>,
    refusal: Option<String> => Nullable<Text>,
});
whole_row!(FetchRequest of fetch_requests {
    id: i64 => BigInt, pair: String => Text, timeframe: String => Text, from_ts: i64 => BigInt,
    to_ts: i64 => BigInt, state: String => Text, note: String => Text, asked_at: i64 => BigInt,
    updated_at: i64 => BigInt, reopened_at: Option<i64> => Nullable<BigInt>,
});
whole_row!(Attempt of heal_attempts {
    pair: String => Text, timeframe: String => Text, from_ts: i64 => BigInt, to_ts: i64 => BigInt,
    times: i64 => BigInt, next_at: i64 => BigInt,
});
whole_row!(Break of stream_breaks {
    id: i64 => BigInt, pair: Option<String> => Nullable<Text>, from_ts: i64 => BigInt, to_ts: i64 => BigInt,
    cause: String => Text, created_at: i64 => BigInt,
});
whole_row!(WatchedBar of watched_bars {
    pair: String => Text, timeframe: String => Text, calendar: String => Text, hours_to: i64 => BigInt,
});
whole_row!(MarketHours of market_hours { calendar: String => Text, from_ts: i64 => BigInt, to_ts: i64 => BigInt });
whole_row!(Setting of settings { key: String => Text, value: String => Text });

/// Walks through a table by a number that no two rows share.
macro_rules! walk_numbered {
    ($connection:expr, $table:ident, $number:ident, $row:ident, $visit:expr) => {{
        let mut last = i64::MIN;
        loop {
            let page: Vec<$row> = on_backend!(&mut *$connection, connection => {
                $table::table
                    .filter($table::$number.gt(last))
                    .order($table::$number.asc())
                    .limit(PAGE_ROWS)
                    .select($row::as_select())
                    .load(connection)
            })?;
            let Some(end) = page.last() else { break };
            last = end.$number;
            $visit(page)?;
        }
    }};
}

/// Walks through a table by pair: one pair's rows are few.
macro_rules! walk_by_pair {
    ($connection:expr, $table:ident, $row:ident, $visit:expr) => {{
        let pairs: Vec<String> = on_backend!(&mut *$connection, connection => {
            $table::table.select($table::pair).distinct().load(connection)
        })?;
        for pair in pairs {
            let page: Vec<$row> = on_backend!(&mut *$connection, connection => {
                $table::table.filter($table::pair.eq(&pair)).select($row::as_select()).load(connection)
            })?;
            $visit(page)?;
        }
    }};
}

/// What is done with each page of each table.
pub(super) trait Visitor {
    fn table(&mut self, table: &'static str);
    fn page(
        &mut self,
        rows: usize,
        sums: u128,
        write: &dyn Fn(&mut Connection) -> QueryResult<()>,
    ) -> Result<(), StoreError>;
}

/// Shows every row that is copied to `visitor`, table by table.
pub(super) fn walk(source: &mut Connection, visitor: &mut dyn Visitor) -> Result<(), StoreError> {
    fn show<R: WholeRow>(visitor: &mut dyn Visitor, rows: &[R]) -> Result<(), StoreError> {
        let sum = rows.iter().fold(0, |sum: u128, row| sum.wrapping_add(row.sum()));
        visitor.page(rows.len(), sum, &|connection| {
            // A statement's arrays are held in memory once more.
            rows.chunks(super::many::ROWS_MAX).try_for_each(|rows| R::write(connection, rows))
        })
    }
    visitor.table("settings");
    let rows: Vec<Setting> = on_backend!(&mut *source, connection => {
        settings::table.filter(settings::key.ne_all(OWN_SETTINGS)).select(Setting::as_select()).load(connection)
    })?;
    show(visitor, &rows)?;
    visitor.table("feeds");
    walk_numbered!(source, feeds, id, Feed, |rows: Vec<_>| show(visitor, &rows));
    visitor.table("allowance");
    walk_numbered!(source, allowance, id, Spend, |rows: Vec<_>| show(visitor, &rows));
    visitor.table("fetch_requests");
    walk_numbered!(source, fetch_requests, id, FetchRequest, |rows: Vec<_>| show(visitor, &rows));
    visitor.table("heal_attempts");
    walk_by_pair!(source, heal_attempts, Attempt, |rows: Vec<_>| show(visitor, &rows));
    visitor.table("stream_breaks");
    walk_numbered!(source, stream_breaks, id, Break, |rows: Vec<_>| show(visitor, &rows));
    visitor.table("watched_bars");
    walk_by_pair!(source, watched_bars, WatchedBar, |rows: Vec<_>| show(visitor, &rows));
    visitor.table("market_hours");
    // A few weeks of a few calendars.
    let rows: Vec<MarketHours> = on_backend!(&mut *source, connection => {
        market_hours::table.select(MarketHours::as_select()).load(connection)
    })?;
    show(visitor, &rows)?;
    visitor.table("coverage");
    walk_by_pair!(source, coverage, Coverage, |rows: Vec<_>| show(visitor, &rows));
    visitor.table("candle_revisions");
    walk_numbered!(source, candle_revisions, seq, CandleRevision, |rows: Vec<_>| show(visitor, &rows));
    visitor.table("candles");
    walk_numbered!(source, candles, seq, Candle, |rows: Vec<_>| show(visitor, &rows));
    Ok(())
}

/// Counts rows and sums them up.
#[derive(Default)]
pub(super) struct Sums(pub(super) Vec<TableSum>);

impl Sums {
    pub(super) fn begin(&mut self, table: &'static str) {
        self.0.push(TableSum { table, rows: 0, sum: 0 });
    }

    pub(super) fn add(&mut self, rows: usize, sum: u128) {
        let table = self.0.last_mut().expect("a table has begun");
        table.rows += rows as u64;
        table.sum = table.sum.wrapping_add(sum);
    }
}

impl Visitor for Sums {
    fn table(&mut self, table: &'static str) {
        self.begin(table);
    }

    fn page(
        &mut self,
        rows: usize,
        sum: u128,
        _: &dyn Fn(&mut Connection) -> QueryResult<()>,
    ) -> Result<(), StoreError> {
        self.add(rows, sum);
        Ok(())
    }
}

/// Makes a target ready: refuses one that holds anything but what an unfinished copy has left, which it removes,
/// unless all that it holds may go.
pub(super) fn prepare(target: &mut Connection, from: &str, replaces: bool) -> Result<(), StoreError> {
    if replaces || words::get(target, UNFINISHED)?.is_some() {
        clear(target)?;
    }
    let mut found = Sums::default();
    walk(target, &mut found)?;
    if let Some(full) = found.0.iter().find(|table| table.rows > 0) {
        return Err(StoreError::NotEmpty { table: full.table, rows: full.rows });
    }
    words::set(target, UNFINISHED, from)
}

fn clear(target: &mut Connection) -> QueryResult<()> {
    on_backend!(target, connection => {
        diesel::delete(candles::table).execute(connection)?;
        diesel::delete(candle_revisions::table).execute(connection)?;
        diesel::delete(coverage::table).execute(connection)?;
        diesel::delete(feeds::table).execute(connection)?;
        diesel::delete(allowance::table).execute(connection)?;
        diesel::delete(fetch_requests::table).execute(connection)?;
        diesel::delete(heal_attempts::table).execute(connection)?;
        diesel::delete(stream_breaks::table).execute(connection)?;
        diesel::delete(watched_bars::table).execute(connection)?;
        diesel::delete(market_hours::table).execute(connection)?;
        diesel::delete(settings::table.filter(settings::key.ne_all(OWN_SETTINGS))).execute(connection)?;
    });
    Ok(())
}

/// Ends a copy: new rows get numbers after those that were copied, and what is stored next one that nothing has which
/// the source stores meanwhile.
pub(super) fn finish(target: &mut Connection) -> Result<(), StoreError> {
    if let Connection::Postgres(server) = target {
        for table in NUMBERED_TABLES {
            server.wire.batch_execute(&number_on(table))?;
        }
    }
    words::set(target, COPIED, "1")?;
    words::remove(target, UNFINISHED)
}

/// Writes what it is shown.
pub(super) struct Copying<'a> {
    pub(super) target: &'a mut Store,
    pub(super) sums: Sums,
    pub(super) told: &'a mut dyn FnMut(&'static str, u64),
}

impl Visitor for Copying<'_> {
    fn table(&mut self, table: &'static str) {
        self.sums.begin(table);
        (self.told)(table, 0);
    }

    fn page(
        &mut self,
        rows: usize,
        sum: u128,
        write: &dyn Fn(&mut Connection) -> QueryResult<()>,
    ) -> Result<(), StoreError> {
        self.target.writing(|target| Ok(write(&mut target.connection)?))?;
        self.sums.add(rows, sum);
        let table = self.sums.0.last().expect("a table has begun");
        (self.told)(table.table, table.rows);
        Ok(())
    }
}
