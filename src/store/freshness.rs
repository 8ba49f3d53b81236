//! View `freshness`, and the tables that it reckons with: `watched_bars` and `market_hours`.

use std::collections::BTreeMap;
use std::ops::Range;

use diesel::prelude::*;

use super::backend::{Connection, on_backend};
use super::error::StoreError;
use super::many::ROWS_MAX;
use super::rows::{self, PairText};
use super::schema::{freshness, market_hours, watched_bars};
use crate::domain::{Pair, Timeframe, Timestamp};

/// Of which bars there ought to be new ones, and when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpectedBars {
    /// Each pair with the name of its calendar.
    pub pairs: Vec<(Pair, String)>,
    /// Lengths of the bars.
    pub timeframes: Vec<Timeframe>,
    /// By calendar, when its market is expected to trade: ascending, apart from each other.
    pub hours: BTreeMap<String, Vec<Range<Timestamp>>>,
    /// Up to when that is known.
    pub hours_to: Timestamp,
}

/// How fresh the newest bar of a pair and length is: a row of the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// Of which pair.
    pub pair: Pair,
    /// Of which length.
    pub timeframe: Timeframe,
    /// Start of the newest bar; none where there was never one.
    pub last: Option<Timestamp>,
    /// When the next one ought to be durable at the latest; long past where there was never one.
    pub expected_by: Timestamp,
}

impl Freshness {
    /// Whether no bar is owed at `now`.
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        now < self.expected_by
    }
}

/// A row of `watched_bars`.
#[derive(Insertable)]
#[diesel(table_name = watched_bars)]
// Else diesel inserts them into SQLite one by one, in a transaction of its own.
#[diesel(treat_none_as_default_value = false)]
struct WatchedBarsRow<'a> {
    pair: String,
    timeframe: &'static str,
    calendar: &'a str,
    hours_to: i64,
}

/// A row of `market_hours`.
#[derive(Insertable)]
#[diesel(table_name = market_hours)]
#[diesel(treat_none_as_default_value = false)]
struct MarketHoursRow<'a> {
    calendar: &'a str,
    from_ts: i64,
    to_ts: i64,
}

/// Writes what is expected over the one before.
pub(super) fn put(connection: &mut Connection, expected: &ExpectedBars) -> Result<(), StoreError> {
    let mut watched = Vec::new();
    for (pair, calendar) in &expected.pairs {
        for timeframe in &expected.timeframes {
            watched.push(WatchedBarsRow {
                pair: PairText::new(*pair).as_str().to_owned(),
                timeframe: timeframe.as_str(),
                calendar,
                hours_to: expected.hours_to.0,
            });
        }
    }
    let mut hours = Vec::new();
    for (calendar, spans) in &expected.hours {
        hours.extend(spans.iter().map(|span| MarketHoursRow {
            calendar,
            from_ts: span.start.0,
            to_ts: span.end.0,
        }));
    }
    // Whoever writes bars waits meanwhile: a statement for each row would be as many journeys to a server.
    on_backend!(connection, connection => {
        diesel::delete(watched_bars::table).execute(connection)?;
        diesel::delete(market_hours::table).execute(connection)?;
        for rows in watched.chunks(ROWS_MAX) {
            diesel::insert_into(watched_bars::table).values(rows).execute(connection)?;
        }
        for rows in hours.chunks(ROWS_MAX) {
            diesel::insert_into(market_hours::table).values(rows).execute(connection)?;
        }
    });
    Ok(())
}

/// `expected_by` of one pair and length; none where there was never a bar, or none is watched for.
pub(super) fn expected_by(
    connection: &mut Connection,
    pair: Pair,
    timeframe: Timeframe,
) -> Result<Option<Timestamp>, StoreError> {
    let expected_by: Option<i64> = on_backend!(connection, connection => {
        freshness::table
            .filter(freshness::pair.eq(PairText::new(pair).as_str()))
            .filter(freshness::timeframe.eq(timeframe.as_str()))
            .filter(freshness::last_timestamp.is_not_null())
            .select(freshness::expected_by)
            // Not `first`: the head of `bars.rs` says why.
            .get_result(connection)
            .optional()
    })?;
    Ok(expected_by.map(Timestamp))
}

/// Every row of the view, by pair and length.
pub(super) fn all(connection: &mut Connection) -> Result<Vec<Freshness>, StoreError> {
    let rows: Vec<(String, String, Option<i64>, i64)> = on_backend!(connection, connection => {
        freshness::table
            .select((freshness::pair, freshness::timeframe, freshness::last_timestamp, freshness::expected_by))
            .load(connection)
    })?;
    let mut all = Vec::with_capacity(rows.len());
    for (pair, timeframe, last, expected_by) in rows {
        all.push(Freshness {
            pair: rows::pair(&pair)?,
            timeframe: rows::timeframe(&timeframe)?,
            last: last.map(Timestamp),
            expected_by: Timestamp(expected_by),
        });
    }
    // The database's order of lengths is that of texts.
    all.sort_by_key(|row| (row.pair, row.timeframe));
    Ok(all)
}
