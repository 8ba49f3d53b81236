//! Many rows in one statement, for a server that each statement is a journey to: columns go as
//! arrays, so that the text is the same however many rows there are, and is prepared once.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::ops::Range;

use diesel::expression::{AppearsOnTable, Expression, TypedExpressionType, ValidGrouping, is_aggregate};
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel::serialize::ToSql;
use diesel::sql_types::{Array, BigInt, Double, HasSqlType, Integer, Nullable, SqlType, Text};
use diesel_async::AsyncPgConnection;
use diesel_async::RunQueryDsl;

use super::rows::{CandleRow, CoverageRow};
use crate::domain::{Pair, Timeframe, Timestamp};

/// Rows in one statement; more hardly makes it cheaper, and the arrays are held in memory.
pub(super) const ROWS_MAX: usize = 1_000;

/// The columns of a bar, in the order in which they are written.
pub(super) const CANDLE_COLUMNS: &str = "pair, timeframe, timestamp, open, high, low, close, volume, source, created_at, \
    bid_open, bid_high, bid_low, bid_close, ask_open, ask_high, ask_low, ask_close, revision, updated_at, seq, feed_id";

/// What becomes of a bar that is there: every column of it is written over.
const REPLACE_CANDLE: &str = " ON CONFLICT (pair, timeframe, timestamp) DO UPDATE SET open = excluded.open, \
    high = excluded.high, low = excluded.low, close = excluded.close, volume = excluded.volume, \
    source = excluded.source, created_at = excluded.created_at, bid_open = excluded.bid_open, \
    bid_high = excluded.bid_high, bid_low = excluded.bid_low, bid_close = excluded.bid_close, \
    ask_open = excluded.ask_open, ask_high = excluded.ask_high, ask_low = excluded.ask_low, \
    ask_close = excluded.ask_close, revision = excluded.revision, updated_at = excluded.updated_at, \
    seq = excluded.seq, feed_id = excluded.feed_id";

/// Inserts bars, none of which may be there.
pub(super) async fn insert_candles(server: &AsyncPgConnection, rows: &[CandleRow<'_>]) -> QueryResult<()> {
    struct InsertCandles;
    write_candles::<InsertCandles>(server, rows, "").await
}

/// Writes bars over those of their keys.
pub(super) async fn replace_candles(server: &AsyncPgConnection, rows: &[CandleRow<'_>]) -> QueryResult<()> {
    struct ReplaceCandles;
    write_candles::<ReplaceCandles>(server, rows, REPLACE_CANDLE).await
}

async fn write_candles<K: Send + 'static>(
    mut server: &AsyncPgConnection,
    rows: &[CandleRow<'_>],
    after: &'static str,
) -> QueryResult<()> {
    for rows in rows.chunks(ROWS_MAX) {
        let statement = Statement::<K>::new(
            format!("INSERT INTO candles ({CANDLE_COLUMNS}) SELECT * FROM unnest"),
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
        statement.execute(&mut server).await?;
    }
    Ok(())
}

/// Writes runs of the ledger over whatever began at the same buckets.
pub(super) async fn put_runs(mut server: &AsyncPgConnection, rows: &[CoverageRow<'_>]) -> QueryResult<()> {
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
        statement.execute(&mut server).await?;
    }
    Ok(())
}

/// Removes runs of the ledger by pair, timeframe and start.
pub(super) async fn remove_runs(
    mut server: &AsyncPgConnection,
    keys: &[(&str, &str, i64)],
) -> QueryResult<()> {
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
        statement.execute(&mut server).await?;
    }
    Ok(())
}

/// What a query finds within each of these spans, which it names by [`Wanted`]. `K` stands for its text.
///
/// The server is to look each span up. Left to choose, it may walk through all that a pair has instead: it chooses once a
/// connection, maybe while the table is empty, and goes on so when it is not. `OFFSET 0` leaves it no choice.
pub(super) fn within_each<K, Q>(
    query: Q,
    spans: &[(Pair, Timeframe, Range<Timestamp>)],
) -> WithinEach<'_, K, Q> {
    let pairs = spans.iter().map(|(pair, _, _)| pair.to_string());
    let wanted = Statement::new("SELECT found.* FROM unnest", "")
        .column::<Text, _>(pairs)
        .column::<Text, _>(spans.iter().map(|(_, timeframe, _)| timeframe.as_str()))
        .column::<BigInt, _>(spans.iter().map(|(_, _, span)| span.start.0))
        .column::<BigInt, _>(spans.iter().map(|(_, _, span)| span.end.0));
    WithinEach { wanted, query }
}

/// See [`within_each`].
pub(super) struct WithinEach<'a, K, Q> {
    wanted: Statement<'a, K>,
    query: Q,
}

impl<K, Q: QueryFragment<Pg>> QueryFragment<Pg> for WithinEach<'_, K, Q> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.wanted.walk_ast(out.reborrow())?;
        out.push_sql(" AS wanted (pair, timeframe, from_ts, to_ts) CROSS JOIN LATERAL (");
        self.query.walk_ast(out.reborrow())?;
        out.push_sql(" OFFSET 0) AS found");
        Ok(())
    }
}

impl<K, Q: Query> Query for WithinEach<'_, K, Q> {
    type SqlType = Q::SqlType;
}

impl<K: 'static, Q> QueryId for WithinEach<'_, K, Q> {
    type QueryId = Statement<'static, K>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

/// What the query of [`within_each`] is to look for. Not diesel's `sql`, by which a statement is prepared anew each time.
pub(super) struct Wanted<ST> {
    name: &'static str,
    kind: PhantomData<ST>,
}

impl Wanted<Text> {
    pub(super) const PAIR: Self = Wanted { name: "wanted.pair", kind: PhantomData };
    pub(super) const TIMEFRAME: Self = Wanted { name: "wanted.timeframe", kind: PhantomData };
}

impl Wanted<BigInt> {
    pub(super) const FROM: Self = Wanted { name: "wanted.from_ts", kind: PhantomData };
    pub(super) const TO: Self = Wanted { name: "wanted.to_ts", kind: PhantomData };
    /// Where the last run of the ledger begins that begins before the span; runs are disjoint, so no earlier one
    /// reaches it.
    ///
    /// Whatever of the page of the index where a search begins lies within its bounds, the server takes down before it hands out
    /// the first: of a ledger of a year that is a page of nothing else. So the week before is searched first, and all that is earlier only where it
    /// has none. `GREATEST`, since a span may begin with the first of all numbers.
    pub(super) const RUN_BEFORE: Self = Wanted {
        name: "COALESCE((SELECT MAX(earlier.from_ts) FROM coverage AS earlier WHERE earlier.pair = wanted.pair \
               AND earlier.timeframe = wanted.timeframe AND earlier.from_ts < wanted.from_ts \
               AND earlier.from_ts >= GREATEST(wanted.from_ts, 0) - 604800), \
               (SELECT MAX(earlier.from_ts) FROM coverage AS earlier WHERE earlier.pair = wanted.pair \
               AND earlier.timeframe = wanted.timeframe AND earlier.from_ts < wanted.from_ts), wanted.from_ts)",
        kind: PhantomData,
    };
}

impl<ST: SqlType + TypedExpressionType> Expression for Wanted<ST> {
    type SqlType = ST;
}

impl<ST, T> AppearsOnTable<T> for Wanted<ST> where Self: Expression {}

impl<ST> ValidGrouping<()> for Wanted<ST> {
    type IsAggregate = is_aggregate::Never;
}

impl<ST> QueryFragment<Pg> for Wanted<ST> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(self.name);
        Ok(())
    }
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

impl<K, C> diesel::RunQueryDsl<C> for Statement<'_, K> {}

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
