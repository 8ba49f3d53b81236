//! Deleting what is old: bars, what they were before, and what the ledger says of that time. The ledger's
//! beginning moves with them, so that nobody takes what was deleted for missing.

use diesel::prelude::*;
use diesel::result::QueryResult;

use super::backend::{Connection, on_backend};
use super::bars;
use super::error::StoreError;
use super::ledger;
use super::rows::{self, PairText, RevisionKind};
use super::schema::{candle_revisions, candles, coverage};
use super::sequence;
use super::settings;
use crate::domain::{Timeframe, Timestamp};

/// What a transaction deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Bars.
    pub bars: usize,
    /// Values that bars had before, or that were refused for them.
    pub revisions: usize,
    /// Runs of the ledger.
    pub runs: usize,
    /// There may be more that is old and can be deleted now.
    pub has_more: bool,
}

impl Deleted {
    /// Rows of all kinds.
    pub fn rows(&self) -> usize {
        self.bars + self.revisions + self.runs
    }
}

/// The setting that says from where on bars of a timeframe are kept.
fn setting(timeframe: Timeframe) -> String {
    format!("retention/{timeframe}")
}

pub(super) fn deleted_before(
    connection: &mut Connection,
    timeframe: Timeframe,
) -> Result<Option<Timestamp>, StoreError> {
    let kept = settings::get(connection, &setting(timeframe))?;
    Ok(kept.and_then(|text| text.parse().ok()).map(Timestamp))
}

pub(super) fn delete_before(
    connection: &mut Connection,
    timeframe: Timeframe,
    limit: Timestamp,
    rows_max: u32,
) -> Result<Deleted, StoreError> {
    assert_eq!(limit, timeframe.bucket(limit), "the limit is the start of a bucket");
    let mut deleted = Deleted::default();
    let kept = kept(connection)?;
    for (pair, known) in ledgers(connection, timeframe)? {
        let left = i64::from(rows_max) - deleted.rows() as i64;
        if left <= 0 {
            deleted.has_more = true;
            break;
        }
        let limit = match timeframe {
            // Where the ledger ends a start goes on.
            Timeframe::M5 => limit.min(known.end.plus(-timeframe.seconds())),
            _ => limit,
        };
        let of = Old { pair: PairText::new(pair), timeframe };
        let is_kept = |row: &&(String, String, i64)| row.0 == of.pair.as_str() && row.1 == timeframe.as_str();
        let limit = kept.iter().find(is_kept).map_or(limit, |(_, _, start)| limit.min(Timestamp(*start)));
        if known.start >= limit {
            continue;
        }
        let reach = of.reach(connection, limit, left)?;
        deleted.has_more |= reach < limit;
        of.delete(connection, reach, &mut deleted)?;
    }
    let is_news = deleted_before(connection, timeframe)?.is_none_or(|before| before < limit);
    if deleted.rows() > 0 && is_news {
        settings::set(connection, &setting(timeframe), &limit.0.to_string())?;
    }
    Ok(deleted)
}

/// The row with the highest `seq`, which stays until there is a higher one: the next `seq` is counted from it,
/// and none is to be given twice. Old bars have it where they were imported last.
fn kept(connection: &mut Connection) -> QueryResult<Vec<(String, String, i64)>> {
    let last = bars::last_seq(connection)?;
    let mut kept: Vec<(String, String, i64)> = on_backend!(connection, connection => {
        candles::table
            .filter(candles::seq.eq(last))
            .select((candles::pair, candles::timeframe, candles::timestamp))
            .load(connection)
    })?;
    kept.extend(on_backend!(connection, connection => {
        candle_revisions::table
            .filter(candle_revisions::seq.eq(last))
            .select((candle_revisions::pair, candle_revisions::timeframe, candle_revisions::timestamp))
            .load::<(String, String, i64)>(connection)
    })?);
    Ok(kept)
}

/// What is known of each pair's buckets: from the first to the end of the last.
fn ledgers(
    connection: &mut Connection,
    timeframe: Timeframe,
) -> Result<Vec<(crate::domain::Pair, std::ops::Range<Timestamp>)>, StoreError> {
    let of_timeframe = coverage::table.filter(coverage::timeframe.eq(timeframe.as_str()));
    match connection {
        // Pair by pair, so that an index has it at once: of all together each run would be looked up.
        Connection::Sqlite(_) => {
            let mut ledgers = Vec::new();
            for (pair, to) in ledger::ends(connection, timeframe)? {
                let Connection::Sqlite(file) = connection else { break };
                let text = PairText::new(pair);
                let first = of_timeframe.filter(coverage::pair.eq(text.as_str()));
                let from: Option<i64> = first.select(diesel::dsl::min(coverage::from_ts)).get_result(file)?;
                ledgers.extend(from.map(|from| (pair, Timestamp(from)..to)));
            }
            Ok(ledgers)
        }
        // One journey.
        Connection::Postgres(server) => {
            let (first, last) = (diesel::dsl::min(coverage::from_ts), diesel::dsl::max(coverage::to_ts));
            let found: Vec<(String, Option<i64>, Option<i64>)> = of_timeframe
                .group_by(coverage::pair)
                .select((coverage::pair, first, last))
                .load(&mut server.wire)?;
            let mut ledgers = Vec::with_capacity(found.len());
            for (pair, from, to) in found {
                if let (Some(from), Some(to)) = (from, to) {
                    ledgers.push((rows::pair(&pair)?, Timestamp(from)..Timestamp(to)));
                }
            }
            Ok(ledgers)
        }
    }
}

/// What is old of one pair and timeframe.
struct Old {
    pair: PairText,
    timeframe: Timeframe,
}

impl Old {
    /// Up to where about `rows_max` rows of each kind reach, no further than `limit`.
    fn reach(&self, connection: &mut Connection, limit: Timestamp, rows_max: i64) -> QueryResult<Timestamp> {
        let (pair, timeframe) = (self.pair.as_str(), self.timeframe.as_str());
        let bars: Vec<i64> = on_backend!(connection, connection => {
            candles::table
                .filter(candles::pair.eq(pair))
                .filter(candles::timeframe.eq(timeframe))
                .filter(candles::timestamp.lt(limit.0))
                .order(candles::timestamp.asc())
                .limit(rows_max)
                .select(candles::timestamp)
                .load(connection)
        })?;
        let revisions: Vec<i64> = on_backend!(connection, connection => {
            candle_revisions::table
                .filter(candle_revisions::pair.eq(pair))
                .filter(candle_revisions::timeframe.eq(timeframe))
                .filter(candle_revisions::timestamp.lt(limit.0))
                .order(candle_revisions::timestamp.asc())
                .limit(rows_max)
                .select(candle_revisions::timestamp)
                .load(connection)
        })?;
        let runs: Vec<i64> = on_backend!(connection, connection => {
            coverage::table
                .filter(coverage::pair.eq(pair))
                .filter(coverage::timeframe.eq(timeframe))
                .filter(coverage::from_ts.lt(limit.0))
                .order(coverage::from_ts.asc())
                .limit(rows_max)
                .select(coverage::to_ts)
                .load(connection)
        })?;
        let step = self.timeframe.seconds();
        let full = |rows: &[i64]| rows.last().copied().filter(|_| rows.len() as i64 == rows_max);
        let ends = [
            full(&bars).map(|start| Timestamp(start).plus(step)),
            full(&revisions).map(|start| Timestamp(start).plus(step)),
            full(&runs).map(Timestamp),
        ];
        Ok(ends.into_iter().flatten().fold(limit, Timestamp::min))
    }

    /// Deletes what lies before `cut`, and cuts the run that it lies in.
    fn delete(
        &self,
        connection: &mut Connection,
        cut: Timestamp,
        deleted: &mut Deleted,
    ) -> Result<(), StoreError> {
        let (pair, timeframe) = (self.pair.as_str(), self.timeframe.as_str());
        let bars: Vec<i64> = on_backend!(connection, connection => {
            diesel::delete(
                candles::table
                    .filter(candles::pair.eq(pair))
                    .filter(candles::timeframe.eq(timeframe))
                    .filter(candles::timestamp.lt(cut.0)),
            )
            .returning(candles::seq)
            .get_results(connection)
        })?;
        let revisions: Vec<(i64, String)> = on_backend!(connection, connection => {
            diesel::delete(
                candle_revisions::table
                    .filter(candle_revisions::pair.eq(pair))
                    .filter(candle_revisions::timeframe.eq(timeframe))
                    .filter(candle_revisions::timestamp.lt(cut.0)),
            )
            .returning((candle_revisions::seq, candle_revisions::kind))
            .get_results(connection)
        })?;
        (deleted.bars, deleted.revisions) = (deleted.bars + bars.len(), deleted.revisions + revisions.len());
        let superseded = revisions.into_iter().filter(|(_, kind)| kind == RevisionKind::Superseded.as_str());
        // Who has heard less than this hears that there was more. Nobody hears of what was refused.
        if let Some(last) = bars.into_iter().chain(superseded.map(|(seq, _)| seq)).max() {
            sequence::note_deleted(connection, last)?;
        }
        deleted.runs += on_backend!(connection, connection => {
            diesel::delete(
                coverage::table
                    .filter(coverage::pair.eq(pair))
                    .filter(coverage::timeframe.eq(timeframe))
                    // All of these are such, and only so does the index know where to end.
                    .filter(coverage::from_ts.lt(cut.0))
                    .filter(coverage::to_ts.le(cut.0)),
            )
            .execute(connection)
        })?;
        deleted.runs += on_backend!(connection, connection => {
            diesel::update(
                coverage::table
                    .filter(coverage::pair.eq(pair))
                    .filter(coverage::timeframe.eq(timeframe))
                    .filter(coverage::from_ts.lt(cut.0)),
            )
            .set(coverage::from_ts.eq(cut.0))
            .execute(connection)
        })?;
        Ok(())
    }
}
