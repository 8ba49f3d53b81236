//! Many bars, a page at a time: for those who walk through more of them than memory should hold.

use std::ops::Range;

use diesel::prelude::*;

use super::backend::{Connection, on_backend};
use super::error::StoreError;
use super::rows::{PairText, ReadCandle, StoredBar};
use super::schema::candles;
use crate::domain::{Pair, Timeframe, Timestamp};

/// The oldest `count_max` bars that start within `span`, ascending.
pub(super) fn oldest(
    connection: &mut Connection,
    pair: Pair,
    timeframe: Timeframe,
    span: Range<Timestamp>,
    count_max: u32,
) -> Result<Vec<StoredBar>, StoreError> {
    let text = PairText::new(pair);
    let rows: Vec<ReadCandle> = on_backend!(connection, connection => {
        candles::table
            .filter(candles::pair.eq(text.as_str()))
            .filter(candles::timeframe.eq(timeframe.as_str()))
            .filter(candles::timestamp.ge(span.start.0))
            .filter(candles::timestamp.lt(span.end.0))
            .order(candles::timestamp.asc())
            .limit(count_max.into())
            .select(ReadCandle::as_select())
            .load(connection)
    })?;
    rows.iter().map(|row| row.stored_bar(pair, timeframe)).collect()
}
