//! Bars as a reader would have seen them at an earlier wall time: rows of `candles` that had their
//! present value then, and for the others the value of then from `candle_revisions`.

use std::collections::HashMap;
use std::ops::Range;

use diesel::prelude::*;

use super::backend::{Connection, on_backend};
use super::error::StoreError;
use super::rows::{PairText, ReadCandle, ReadRevision, Revision, RevisionKind, StoredBar};
use super::schema::{candle_revisions, candles};
use crate::domain::{Pair, Timeframe, Timestamp};

/// The newest `count_max` bars that start within `span` and were stored at wall time `at`, newest
/// first. The caller sees to it that both tables are read in one state.
pub(super) fn newest(
    connection: &mut Connection,
    pair: Pair,
    timeframe: Timeframe,
    span: Range<Timestamp>,
    (at, count_max): (Timestamp, usize),
) -> Result<Vec<StoredBar>, StoreError> {
    let text = PairText::new(pair);
    let rows: Vec<ReadCandle> = on_backend!(connection, connection => {
        candles::table
            .filter(candles::pair.eq(text.as_str()))
            .filter(candles::timeframe.eq(timeframe.as_str()))
            .filter(candles::timestamp.ge(span.start.0))
            .filter(candles::timestamp.lt(span.end.0))
            .filter(candles::created_at.le(at.0))
            .order(candles::timestamp.desc())
            .limit(i64::try_from(count_max).unwrap_or(i64::MAX))
            .select(ReadCandle::as_select())
            .load(connection)
    })?;
    let mut bars =
        rows.iter().map(|row| row.stored_bar(pair, timeframe)).collect::<Result<Vec<_>, StoreError>>()?;
    let changed = || bars.iter().filter(|bar| bar.updated_at > at).map(|bar| bar.bar.key.start);
    let (Some(first), Some(last)) = (changed().min(), changed().max()) else { return Ok(bars) };
    let then = valid(connection, pair, timeframe, first..last.plus(1), at)?;
    for bar in bars.iter_mut().filter(|bar| bar.updated_at > at) {
        let start = bar.bar.key.start;
        let old = then.get(&start).ok_or_else(|| {
            StoreError::corrupt(format!("nothing tells what {pair} {timeframe} {start} was at {at}"))
        })?;
        // Which feed a value came from is kept for the present one alone.
        *bar = StoredBar {
            bar: old.bar,
            created_at: bar.created_at,
            updated_at: old.valid_from,
            revision: old.revision,
            seq: old.seq,
            feed_id: None,
        };
    }
    Ok(bars)
}

/// The replaced values that bars within `span` had at wall time `at`, by start.
fn valid(
    connection: &mut Connection,
    pair: Pair,
    timeframe: Timeframe,
    span: Range<Timestamp>,
    at: Timestamp,
) -> Result<HashMap<Timestamp, Revision>, StoreError> {
    let text = PairText::new(pair);
    let rows: Vec<ReadRevision> = on_backend!(connection, connection => {
        candle_revisions::table
            .filter(candle_revisions::pair.eq(text.as_str()))
            .filter(candle_revisions::timeframe.eq(timeframe.as_str()))
            .filter(candle_revisions::timestamp.ge(span.start.0))
            .filter(candle_revisions::timestamp.lt(span.end.0))
            .filter(candle_revisions::kind.eq(RevisionKind::Superseded.as_str()))
            .filter(candle_revisions::valid_from.le(at.0))
            .filter(candle_revisions::valid_to.gt(at.0))
            .select(ReadRevision::as_select())
            .load(connection)
    })?;
    rows.iter()
        .map(|row| row.revision(pair, timeframe).map(|revision| (revision.bar.key.start, revision)))
        .collect()
}
