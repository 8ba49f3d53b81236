//! Table `heal_attempts`: stretches that REST was asked about in vain, and when they may be asked
//! about again. It holds no more than there are holes, since whoever fills one forgets it here.

use std::ops::Range;

use diesel::prelude::*;

use super::backend::{Connection, on_backend, put_attempt};
use super::error::StoreError;
use super::rows::{self, PairText};
use super::schema::heal_attempts;
use crate::domain::{Pair, Timeframe, Timestamp};

/// Which stretch: pair, length of its bars, buckets.
pub type AttemptKey = (Pair, Timeframe, Range<Timestamp>);

/// A stretch that was asked about in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRow {
    /// Of which pair.
    pub pair: Pair,
    /// Bars of which length.
    pub timeframe: Timeframe,
    /// Which buckets, half-open.
    pub span: Range<Timestamp>,
    /// How often.
    pub times: u32,
    /// When it may be asked about again, wall time.
    pub next_at: Timestamp,
}

#[derive(Insertable)]
#[diesel(table_name = heal_attempts)]
pub(super) struct WriteAttempt<'a> {
    pair: &'a str,
    timeframe: &'static str,
    from_ts: i64,
    to_ts: i64,
    times: i64,
    next_at: i64,
}

/// Every stretch, by pair, length and start.
pub(super) fn all(connection: &mut Connection) -> Result<Vec<AttemptRow>, StoreError> {
    let rows: Vec<(String, String, i64, i64, i64, i64)> = on_backend!(connection, connection => {
        heal_attempts::table
            .order((
                heal_attempts::pair,
                heal_attempts::timeframe,
                heal_attempts::from_ts,
                heal_attempts::to_ts,
            ))
            .load(connection)
    })?;
    rows.into_iter()
        .map(|(pair, timeframe, from, to, times, next_at)| {
            Ok(AttemptRow {
                pair: rows::pair(&pair)?,
                timeframe: rows::timeframe(&timeframe)?,
                span: Timestamp(from)..Timestamp(to),
                times: u32::try_from(times).map_err(StoreError::corrupt)?,
                next_at: Timestamp(next_at),
            })
        })
        .collect()
}

/// Writes a stretch over what was known of the same one.
pub(super) fn put(connection: &mut Connection, attempt: &AttemptRow) -> Result<(), StoreError> {
    let pair = PairText::new(attempt.pair);
    let row = WriteAttempt {
        pair: pair.as_str(),
        timeframe: attempt.timeframe.as_str(),
        from_ts: attempt.span.start.0,
        to_ts: attempt.span.end.0,
        times: i64::from(attempt.times),
        next_at: attempt.next_at.0,
    };
    put_attempt(connection, &row)?;
    Ok(())
}

/// Deletes these stretches; one that is not there is no error.
pub(super) fn forget(connection: &mut Connection, keys: &[AttemptKey]) -> Result<(), StoreError> {
    for (pair, timeframe, span) in keys {
        let pair = PairText::new(*pair);
        let key = (pair.as_str(), timeframe.as_str(), span.start.0, span.end.0);
        on_backend!(connection, connection => {
            diesel::delete(heal_attempts::table.find(key)).execute(connection)
        })?;
    }
    Ok(())
}
