//! Many rows in one statement, for a server that each statement is a journey to: columns go as
//! arrays, so that the text is the same however many rows there are, and is prepared once.

use std::borrow::Cow;
use std::marker::PhantomData;

use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel::serialize::ToSql;
use diesel::sql_types::{Array, BigInt, Double, HasSqlType, Integer, Nullable, Text};

use super::postgres::Wire;
use super::rows::{CandleRow, CoverageRow};

/// Rows in one statement; more hardly makes it cheaper, and the arrays are held in memory.
pub(super) const ROWS_MAX: usize = 1_000;

/// What becomes of a bar that is there: every column of it is written over.
const REPLACE_CANDLE: &str = " ON CONFLICT (pair, timeframe, timestamp) DO UPDATE SET open = excluded.open, \
    high = excluded.high, low = excluded.low, close = excluded.close, volume = excluded.volume, \
    source = excluded.source, created_at = excluded.created_at, bid_open = excluded.bid_open, \
    bid_high = excluded.bid_high, bid_low = excluded.bid_low, bid_close = excluded.bid_close, \
    ask_open = excluded.ask_open, ask_high = excluded.ask_high, ask_low = excluded.ask_low, \
    ask_close = excluded.ask_close, revision = excluded.revision, updated_at = excluded.updated_at, \
    seq = excluded.seq, feed_id = excluded.feed_id";

/// Inserts bars, none of which may be there.
pub(super) fn insert_candles(wire: &mut Wire, rows: &[CandleRow<'_>]) -> QueryResult<()> {
    struct InsertCandles;
    write_candles::<InsertCandles>(wire, rows, "")
}

/// Writes bars over those of their keys.
pub(super) fn replace_candles(wire: &mut Wire, rows: &[CandleRow<'_>]) -> QueryResult<()> {
    struct ReplaceCandles;
    write_candles::<ReplaceCandles>(wire, rows, REPLACE_CANDLE)
}

fn write_candles<K: 'static>(
    wire: &mut Wire,
    rows: &[CandleRow<'_>],
    after: &'static str,
) -> QueryResult<()> {
    for rows in rows.chunks(ROWS_MAX) {
        let statement = Statement::<K>::new(
            "INSERT INTO candles (pair, timeframe, timestamp, open, high, low, close, volume, source, \
             created_at, bid_open, bid_high, bid_low, bid_close, ask_open, ask_high, ask_low, ask_close, \
             revision, updated_at, seq, feed_id) SELECT * FROM unnest",
            after,
        );
        let statement = statement
            .column::<Text, _>(rows.iter().map(|row| row.pair))
            .column::<Text, _>(rows.iter().map(|row| row.timeframe))
            .column::<BigInt, _>(rows.iter().map(|row| row.timestamp))
            .column::<Double, _>(rows.iter().map(|row| row.open))
            .column::<Double, _>(rows.iter().map(|row| row.high))
            .column::<Double, _>(rows.iter().map(|row| row.low))
            .column::<Double, _>(rows.iter().map(|row| row.close))
            .column::<BigInt, _>(rows.iter().map(|row| row.volume))
            .column::<Text, _>(rows.iter().map(|row| row.source))
            .column::<BigInt, _>(rows.iter().map(|row| row.created_at))
            .column::<Double, _>(rows.iter().map(|row| row.bid_open))
            .column::<Double, _>(rows.iter().map(|row| row.bid_high))
            .column::<Double, _>(rows.iter().map(|row| row.bid_low))
            .column::<Double, _>(rows.iter().map(|row| row.bid_close))
            .column::<Double, _>(rows.iter().map(|row| row.ask_open))
            .column::<Double, _>(rows.iter().map(|row| row.ask_high))
            .column::<Double, _>(rows.iter().map(|row| row.ask_low))
            .column::<Double, _>(rows.iter().map(|row| row.ask_close))
            .column::<Integer, _>(rows.iter().map(|row| row.revision))
            .column::<BigInt, _>(rows.iter().map(|row| row.updated_at))
            .column::<BigInt, _>(rows.iter().map(|row| row.seq))
            .column::<Nullable<BigInt>, _>(rows.iter().map(|row| row.feed_id));
        statement.execute(wire)?;
    }
    Ok(())
}

/// Writes runs of the ledger over whatever began at the same buckets.
pub(super) fn put_runs(wire: &mut Wire, rows: &[CoverageRow<'_>]) -> QueryResult<()> {
    struct PutRuns;
    for rows in rows.chunks(ROWS_MAX) {
        let statement = Statement::<PutRuns>::new(
            "INSERT INTO coverage (pair, timeframe, from_ts, to_ts, state, reason, evidence, updated_at) \
             SELECT * FROM unnest",
            " ON CONFLICT (pair, timeframe, from_ts) DO UPDATE SET to_ts = excluded.to_ts, \
             state = excluded.state, reason = excluded.reason, evidence = excluded.evidence, \
             updated_at = excluded.updated_at",
        );
        let statement = statement
            .column::<Text, _>(rows.iter().map(|row| row.pair))
            .column::<Text, _>(rows.iter().map(|row| row.timeframe))
            .column::<BigInt, _>(rows.iter().map(|row| row.from_ts))
            .column::<BigInt, _>(rows.iter().map(|row| row.to_ts))
            .column::<Text, _>(rows.iter().map(|row| row.state))
            .column::<Text, _>(rows.iter().map(|row| row.reason))
            .column::<Text, _>(rows.iter().map(|row| row.evidence))
            .column::<BigInt, _>(rows.iter().map(|row| row.updated_at));
        statement.execute(wire)?;
    }
    Ok(())
}

/// Removes runs of the ledger by pair, timeframe and start.
pub(super) fn remove_runs(wire: &mut Wire, keys: &[(&str, &str, i64)]) -> QueryResult<()> {
    struct RemoveRuns;
    for keys in keys.chunks(ROWS_MAX) {
        let statement = Statement::<RemoveRuns>::new(
            "DELETE FROM coverage USING unnest",
            " AS gone (pair, timeframe, from_ts) WHERE coverage.pair = gone.pair \
             AND coverage.timeframe = gone.timeframe AND coverage.from_ts = gone.from_ts",
        );
        let statement = statement
            .column::<Text, _>(keys.iter().map(|key| key.0))
            .column::<Text, _>(keys.iter().map(|key| key.1))
            .column::<BigInt, _>(keys.iter().map(|key| key.2));
        statement.execute(wire)?;
    }
    Ok(())
}

/// A statement over columns of values. `K` stands for its text, which is prepared once a connection:
/// diesel prepares `sql_query`, and an insert of a list of rows, anew each time, which costs half as
/// much again.
pub(super) struct Statement<'a, K> {
    before: Cow<'static, str>,
    columns: Vec<Box<dyn QueryFragment<Pg> + Send + 'a>>,
    after: &'static str,
    kind: PhantomData<K>,
}

impl<'a, K> Statement<'a, K> {
    pub(super) fn new(before: impl Into<Cow<'static, str>>, after: &'static str) -> Self {
        Statement { before: before.into(), columns: Vec::new(), after, kind: PhantomData }
    }

    pub(super) fn column<ST, T>(mut self, values: impl Iterator<Item = T>) -> Self
    where
        ST: Send + 'static,
        T: Send + 'a,
        Column<ST, T>: QueryFragment<Pg>,
    {
        self.columns.push(Box::new(Column { values: values.collect(), kind: PhantomData::<ST> }));
        self
    }
}

impl<K> QueryFragment<Pg> for Statement<'_, K> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(&self.before);
        for (ix, column) in self.columns.iter().enumerate() {
            out.push_sql(if ix == 0 { "(" } else { ", " });
            column.walk_ast(out.reborrow())?;
        }
        out.push_sql(")");
        out.push_sql(self.after);
        Ok(())
    }
}

impl<K: 'static> QueryId for Statement<'_, K> {
    type QueryId = Statement<'static, K>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<K, C> RunQueryDsl<C> for Statement<'_, K> {}

/// Values of one column.
pub(super) struct Column<ST, T> {
    values: Vec<T>,
    kind: PhantomData<ST>,
}

impl<ST, T> QueryFragment<Pg> for Column<ST, T>
where
    ST: 'static,
    Pg: HasSqlType<Array<ST>>,
    Vec<T>: ToSql<Array<ST>, Pg>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_bind_param::<Array<ST>, Vec<T>>(&self.values)
    }
}
