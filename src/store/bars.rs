//! Queries on `candles` and `candle_revisions`. Each text stands here once, for both databases.
//!
//! On SQLite none has a `LIMIT`, nor diesel's `first`, which adds one: SQLite 3.47 and later prepares a
//! statement anew whenever a bound limit is bound again, which costs more than the query. Rows
//! come one by one, in the order of an index, so reading stops where enough are read. A server sends
//! all that it was not told to leave out.

use std::ops::Range;

use diesel::dsl::max;
use diesel::prelude::*;
use diesel::result::QueryResult;
use diesel::sqlite::SqliteConnection;
use diesel_async::AsyncPgConnection;
use futures_util::future::try_join;

use super::backend::{Connection, insert_candle_or_ignore, on_backend};
use super::error::StoreError;
use super::many::{ROWS_MAX, Wanted, insert_candles, replace_candles, within_each};
use super::rows::{self, CandleRow, PairText, ReadCandle, ReadRevision, Revision, RevisionRow, StoredBar};
use super::schema::{candle_revisions, candles};
use crate::domain::{BarKey, Pair, Timeframe, Timestamp};

/// The first rows that a query finds, as the head of this file says: these columns, read as this type.
macro_rules! at_most {
    ($connection:expr, $count_max:expr, $wanted:expr, $columns:expr => $row:ty) => {
        match $connection {
            Connection::Sqlite(file) => {
                let rows = $wanted.select($columns).load_iter::<$row, _>(file)?;
                rows.take($count_max).collect::<QueryResult<Vec<$row>>>()?
            }
            Connection::Postgres(server) => {
                let limit = i64::try_from($count_max).unwrap_or(i64::MAX);
                $wanted.select($columns).limit(limit).load(&mut server.wire)?
            }
        }
    };
}

/// Inserts a bar into an SQLite file unless one is stored under its key; answers whether it was inserted.
pub(super) fn insert_or_ignore(connection: &mut SqliteConnection, bar: &StoredBar) -> QueryResult<bool> {
    let pair = PairText::new(bar.bar.key.pair);
    Ok(insert_candle_or_ignore(connection, &CandleRow::new(&pair, bar))? == 1)
}

/// Inserts bars, none of which may be there, on a server.
pub(super) async fn insert_many(server: &AsyncPgConnection, bars: &[StoredBar]) -> QueryResult<()> {
    let pairs = pairs_of(bars);
    insert_candles(server, &rows_of(&pairs, bars)).await
}

/// Writes bars over those of their keys, on a server.
pub(super) async fn replace_many(server: &AsyncPgConnection, bars: &[StoredBar]) -> QueryResult<()> {
    let pairs = pairs_of(bars);
    replace_candles(server, &rows_of(&pairs, bars)).await
}

fn pairs_of(bars: &[StoredBar]) -> Vec<PairText> {
    bars.iter().map(|stored| PairText::new(stored.bar.key.pair)).collect()
}

fn rows_of<'a>(pairs: &'a [PairText], bars: &[StoredBar]) -> Vec<CandleRow<'a>> {
    pairs.iter().zip(bars).map(|(pair, stored)| CandleRow::new(pair, stored)).collect()
}

/// Keeps values that are not, or no longer, in `candles`, on a server.
pub(super) async fn insert_revisions(
    mut server: &AsyncPgConnection,
    revisions: &[Revision],
) -> QueryResult<()> {
    for revisions in revisions.chunks(ROWS_MAX) {
        let pairs: Vec<PairText> =
            revisions.iter().map(|revision| PairText::new(revision.bar.key.pair)).collect();
        let rows: Vec<RevisionRow<'_>> =
            pairs.iter().zip(revisions).map(|(pair, revision)| RevisionRow::new(pair, revision)).collect();
        let insert = diesel::insert_into(candle_revisions::table).values(&rows);
        diesel_async::RunQueryDsl::execute(insert, &mut server).await?;
    }
    Ok(())
}

/// Writes a corrected bar over the stored one.
pub(super) fn replace(connection: &mut Connection, bar: &StoredBar) -> QueryResult<()> {
    let key = bar.bar.key;
    let pair = PairText::new(key.pair);
    let row = CandleRow::new(&pair, bar);
    on_backend!(connection, connection => {
        diesel::update(candles::table.find((pair.as_str(), key.timeframe.as_str(), key.start.0)))
            .set(&row)
            .execute(connection)
            .map(drop)
    })
}

/// The stored bar of a key.
pub(super) fn find(connection: &mut Connection, key: BarKey) -> Result<Option<StoredBar>, StoreError> {
    let pair = PairText::new(key.pair);
    let row = on_backend!(connection, connection => {
        candles::table
            .find((pair.as_str(), key.timeframe.as_str(), key.start.0))
            .select(ReadCandle::as_select())
            .get_result(connection)
            .optional()
    })?;
    row.map(|row| row.stored_bar(key.pair, key.timeframe)).transpose()
}

/// The newest `count_max` bars that start within `span`, newest first.
pub(super) fn newest(
    connection: &mut Connection,
    pair: Pair,
    timeframe: Timeframe,
    span: Range<Timestamp>,
    count_max: usize,
) -> Result<Vec<StoredBar>, StoreError> {
    let text = PairText::new(pair);
    let wanted = candles::table
        .filter(candles::pair.eq(text.as_str()))
        .filter(candles::timeframe.eq(timeframe.as_str()))
        .filter(candles::timestamp.ge(span.start.0))
        .filter(candles::timestamp.lt(span.end.0))
        .order(candles::timestamp.desc());
    let rows = at_most!(connection, count_max, wanted, ReadCandle::as_select() => ReadCandle);
    rows.iter().map(|row| row.stored_bar(pair, timeframe)).collect()
}

/// What bars that start within these spans were before, and what was refused for them, ascending by `seq`. On a server,
/// together with what else is asked.
pub(super) async fn revisions_within(
    mut server: &AsyncPgConnection,
    spans: &[(Pair, Timeframe, Range<Timestamp>)],
) -> Result<Vec<Revision>, StoreError> {
    struct RevisionsWithin;
    let of_one = candle_revisions::table
        .filter(candle_revisions::pair.eq(Wanted::PAIR))
        .filter(candle_revisions::timeframe.eq(Wanted::TIMEFRAME))
        .filter(candle_revisions::timestamp.ge(Wanted::FROM))
        .filter(candle_revisions::timestamp.lt(Wanted::TO))
        .select((candle_revisions::pair, candle_revisions::timeframe, ReadRevision::as_select()));
    let all = within_each::<RevisionsWithin, _>(of_one, spans);
    let rows: Vec<(String, String, ReadRevision)> = diesel_async::RunQueryDsl::load(all, &mut server).await?;
    let mut found = Vec::with_capacity(rows.len());
    for (pair, timeframe, row) in rows {
        found.push(row.revision(rows::pair(&pair)?, rows::timeframe(&timeframe)?)?);
    }
    found.sort_by_key(|revision| revision.seq);
    Ok(found)
}

/// The bars that start within these spans. On a server, together with what else is asked.
pub(super) async fn within(
    mut server: &AsyncPgConnection,
    spans: &[(Pair, Timeframe, Range<Timestamp>)],
) -> Result<Vec<StoredBar>, StoreError> {
    struct Within;
    let of_one = candles::table
        .filter(candles::pair.eq(Wanted::PAIR))
        .filter(candles::timeframe.eq(Wanted::TIMEFRAME))
        .filter(candles::timestamp.ge(Wanted::FROM))
        .filter(candles::timestamp.lt(Wanted::TO))
        .select((candles::pair, candles::timeframe, ReadCandle::as_select()));
    let all = within_each::<Within, _>(of_one, spans);
    let rows: Vec<(String, String, ReadCandle)> = diesel_async::RunQueryDsl::load(all, &mut server).await?;
    rows.iter()
        .map(|(pair, timeframe, row)| row.stored_bar(rows::pair(pair)?, rows::timeframe(timeframe)?))
        .collect()
}

/// At most `count_max` bars with a higher `seq`, ascending by it.
pub(super) fn after(
    connection: &mut Connection,
    seq: i64,
    count_max: usize,
) -> Result<Vec<StoredBar>, StoreError> {
    let wanted = candles::table.filter(candles::seq.gt(seq)).order(candles::seq.asc());
    let rows = at_most!(connection, count_max, wanted,
        (candles::pair, candles::timeframe, ReadCandle::as_select()) => (String, String, ReadCandle));
    rows.iter().map(|(pair, timeframe, row)| row.bar_of(pair, timeframe)).collect()
}

/// At most `count_max` values that were replaced or refused and have a higher `seq`, ascending by it. Of both kinds,
/// as the index on `seq` has them: to pass over the refused would be to walk all that an import may have left.
pub(super) fn revisions_after(
    connection: &mut Connection,
    seq: i64,
    count_max: usize,
) -> Result<Vec<Revision>, StoreError> {
    let wanted =
        candle_revisions::table.filter(candle_revisions::seq.gt(seq)).order(candle_revisions::seq.asc());
    let rows = at_most!(connection, count_max, wanted,
        (candle_revisions::pair, candle_revisions::timeframe, ReadRevision::as_select())
            => (String, String, ReadRevision));
    rows.iter().map(|(pair, timeframe, row)| row.revision_of(pair, timeframe)).collect()
}

/// Start of the newest bar.
pub(super) fn last_start(
    connection: &mut Connection,
    pair: Pair,
    timeframe: Timeframe,
) -> QueryResult<Option<Timestamp>> {
    let pair = PairText::new(pair);
    // Not `max`: a server that plans it of an empty table, and keeps the plan, walks through all of the pair.
    let wanted = candles::table
        .filter(candles::pair.eq(pair.as_str()))
        .filter(candles::timeframe.eq(timeframe.as_str()))
        .order(candles::timestamp.desc());
    let newest = at_most!(connection, 1, wanted, candles::timestamp => i64);
    Ok(newest.first().map(|start| Timestamp(*start)))
}

/// The starts of all bars, ascending.
pub(super) fn starts(
    connection: &mut Connection,
    pair: Pair,
    timeframe: Timeframe,
) -> Result<Vec<Timestamp>, StoreError> {
    let pair = PairText::new(pair);
    let starts: Vec<i64> = on_backend!(connection, connection => {
        candles::table
            .filter(candles::pair.eq(pair.as_str()))
            .filter(candles::timeframe.eq(timeframe.as_str()))
            .order(candles::timestamp.asc())
            .select(candles::timestamp)
            .load(connection)
    })?;
    Ok(starts.into_iter().map(Timestamp).collect())
}

/// The pairs and timeframes that have bars. Walks an index from end to end.
pub(super) fn keys(connection: &mut Connection) -> Result<Vec<(Pair, Timeframe)>, StoreError> {
    let rows: Vec<(String, String)> = on_backend!(connection, connection => {
        candles::table.select((candles::pair, candles::timeframe)).distinct().load(connection)
    })?;
    rows.iter().map(|(pair, timeframe)| Ok((rows::pair(pair)?, rows::timeframe(timeframe)?))).collect()
}

/// Bars by timeframe. Walks an index from end to end.
pub(super) fn counts(connection: &mut Connection) -> Result<Vec<(Timeframe, u64)>, StoreError> {
    let rows: Vec<(String, i64)> = on_backend!(connection, connection => {
        candles::table
            .group_by(candles::timeframe)
            .select((candles::timeframe, diesel::dsl::count_star()))
            .load(connection)
    })?;
    let mut counts = rows
        .iter()
        .map(|(timeframe, count)| Ok((rows::timeframe(timeframe)?, count.unsigned_abs())))
        .collect::<Result<Vec<_>, StoreError>>()?;
    counts.sort();
    Ok(counts)
}

/// The highest `seq` in a table.
macro_rules! highest_seq {
    ($table:ident) => {
        $table::table.select(max($table::seq))
    };
}

/// The highest `seq` given so far, 0 before the first.
pub(super) fn last_seq(connection: &mut Connection) -> QueryResult<i64> {
    let stored: Option<i64> =
        on_backend!(connection, connection => highest_seq!(candles).get_result(connection))?;
    let revised: Option<i64> =
        on_backend!(connection, connection => highest_seq!(candle_revisions).get_result(connection))?;
    Ok(stored.max(revised).unwrap_or(0))
}

/// The same on a server, together with what else is asked.
pub(super) async fn last_seq_on(server: &AsyncPgConnection) -> QueryResult<i64> {
    let (mut server, mut also) = (server, server);
    let (stored, revised): (Option<i64>, Option<i64>) = try_join(
        diesel_async::RunQueryDsl::get_result(highest_seq!(candles), &mut server),
        diesel_async::RunQueryDsl::get_result(highest_seq!(candle_revisions), &mut also),
    )
    .await?;
    Ok(stored.max(revised).unwrap_or(0))
}

/// Keeps a value that is not, or no longer, in `candles`.
pub(super) fn insert_revision(connection: &mut Connection, revision: &Revision) -> QueryResult<()> {
    let pair = PairText::new(revision.bar.key.pair);
    let row = RevisionRow::new(&pair, revision);
    on_backend!(connection, connection => {
        diesel::insert_into(candle_revisions::table).values(&row).execute(connection).map(drop)
    })
}

/// What the bars that start within `span` were before, and what was refused for them, ascending
/// by bar and `seq`.
pub(super) fn revisions(
    connection: &mut Connection,
    pair: Pair,
    timeframe: Timeframe,
    span: Range<Timestamp>,
) -> Result<Vec<Revision>, StoreError> {
    let text = PairText::new(pair);
    let rows = on_backend!(connection, connection => {
        candle_revisions::table
            .filter(candle_revisions::pair.eq(text.as_str()))
            .filter(candle_revisions::timeframe.eq(timeframe.as_str()))
            .filter(candle_revisions::timestamp.ge(span.start.0))
            .filter(candle_revisions::timestamp.lt(span.end.0))
            .order((candle_revisions::timestamp.asc(), candle_revisions::seq.asc()))
            .select(ReadRevision::as_select())
            .load(connection)
    })?;
    rows.iter().map(|row| row.revision(pair, timeframe)).collect()
}
