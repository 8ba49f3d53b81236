//! Table `stream_breaks`: times in which rows of the stream may have been lost.

use diesel::prelude::*;

use super::backend::{Connection, on_backend};
use super::error::StoreError;
use super::schema::stream_breaks;
use crate::domain::Timestamp;

/// Breaks remembered; older ones give way.
pub const BREAKS_MAX: i64 = 10_000;

/// A time in which rows may have been lost: from the last row before to the first after, or to the
/// end of the process where none came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamBreak {
    /// Whose rows; `None`: every pair's.
    pub pair: Option<String>,
    /// Event time of the last row before.
    pub from: Timestamp,
    /// Event time of the first row after, or when the process ended before one came.
    pub to: Timestamp,
    /// Why, for people.
    pub cause: String,
}

#[derive(Insertable)]
#[diesel(table_name = stream_breaks)]
struct BreakRow<'a> {
    pair: Option<&'a str>,
    from_ts: i64,
    to_ts: i64,
    cause: &'a str,
    created_at: i64,
}

pub(super) fn record(
    connection: &mut Connection,
    told: &StreamBreak,
    now: Timestamp,
) -> Result<(), StoreError> {
    let row = BreakRow {
        pair: told.pair.as_deref(),
        from_ts: told.from.0,
        to_ts: told.to.0,
        cause: &told.cause,
        created_at: now.0,
    };
    let id: i64 = on_backend!(connection, connection => {
        diesel::insert_into(stream_breaks::table).values(&row).returning(stream_breaks::id).get_result(connection)
    })?;
    on_backend!(connection, connection => {
        diesel::delete(stream_breaks::table.filter(stream_breaks::id.le(id - BREAKS_MAX))).execute(connection)
    })?;
    Ok(())
}

/// The newest breaks, newest first.
pub(super) fn newest(connection: &mut Connection, count: i64) -> Result<Vec<StreamBreak>, StoreError> {
    let rows: Vec<(Option<String>, i64, i64, String)> = on_backend!(connection, connection => {
        stream_breaks::table
            .order(stream_breaks::id.desc())
            .limit(count)
            .select((stream_breaks::pair, stream_breaks::from_ts, stream_breaks::to_ts, stream_breaks::cause))
            .load(connection)
    })?;
    let told =
        |(pair, from, to, cause)| StreamBreak { pair, from: Timestamp(from), to: Timestamp(to), cause };
    Ok(rows.into_iter().map(told).collect())
}
