//! Table `coverage`: what is known of each bucket, read in runs, changed in memory by
//! [`overlay`], written back where it changed.

use std::collections::BTreeMap;
use std::ops::Range;

use diesel::dsl::{auto_type, sql};
use diesel::prelude::*;
use diesel::result::QueryResult;
use diesel::sql_types::BigInt;
use diesel::sqlite::{Sqlite, SqliteConnection};
use diesel_async::AsyncPgConnection;
use futures_util::future::{try_join, try_join_all};

use super::backend::{Connection, on_backend};
use super::error::StoreError;
use super::many::{put_runs, remove_runs};
use super::rows::{CoverageRow, PairText, ReadCoverage};
use super::schema::coverage;
use crate::domain::coverage::{Run, overlay};
use crate::domain::{Pair, Reason, State, Timeframe, Timestamp};

/// Several pairs are read with one statement as long as what is asked of them lies within so
/// many seconds: what is known of a day of all pairs is little. Else each pair is read for itself.
const ONE_READ_SPAN_MAX_S: i64 = 24 * 3600;

/// What is asked of each pair, in as few reads as are sensible.
fn few_reads(spans: &BTreeMap<Pair, Range<Timestamp>>) -> Vec<(Vec<Pair>, Range<Timestamp>)> {
    let hull = spans.values().cloned().reduce(|a, b| a.start.min(b.start)..a.end.max(b.end));
    match hull {
        Some(hull) if hull.end.since(hull.start) <= ONE_READ_SPAN_MAX_S => {
            vec![(spans.keys().copied().collect(), hull)]
        }
        _ => spans.iter().map(|(pair, span)| (vec![*pair], span.clone())).collect(),
    }
}

/// The end of the latest bucket that anything is known of, by pair.
pub(super) fn ends(
    connection: &mut Connection,
    timeframe: Timeframe,
) -> Result<BTreeMap<Pair, Timestamp>, StoreError> {
    let rows: Vec<(String, Option<i64>)> = on_backend!(connection, connection => {
        coverage::table
            .filter(coverage::timeframe.eq(timeframe.as_str()))
            .group_by(coverage::pair)
            .select((coverage::pair, diesel::dsl::max(coverage::to_ts)))
            .load(connection)
    })?;
    let mut ends = BTreeMap::new();
    for (pair, end) in rows {
        let pair: Pair = pair.parse().map_err(StoreError::corrupt)?;
        ends.extend(end.map(|end| (pair, Timestamp(end))));
    }
    Ok(ends)
}

/// How many buckets are in each state.
pub(super) fn buckets_by_state(
    connection: &mut Connection,
    timeframe: Timeframe,
) -> Result<Vec<(State, u64)>, StoreError> {
    // A sum of whole numbers is none on PostgreSQL.
    let seconds = || sql::<BigInt>("CAST(sum(to_ts - from_ts) AS BIGINT)");
    let rows: Vec<(String, i64)> = on_backend!(connection, connection => {
        coverage::table
            .filter(coverage::timeframe.eq(timeframe.as_str()))
            .group_by(coverage::state)
            .select((coverage::state, seconds()))
            .load(connection)
    })?;
    let counted = |(state, seconds): (String, i64)| {
        let state: State = state.parse().map_err(StoreError::corrupt)?;
        Ok((state, (seconds / timeframe.seconds()).unsigned_abs()))
    };
    rows.into_iter().map(counted).collect()
}

/// Pair, timeframe and start of a run.
type RunKey<'a> = (&'a str, &'static str, i64);

/// The part of the ledger that a transaction touches.
#[derive(Default)]
pub(super) struct Ledger {
    runs: BTreeMap<(Pair, Timeframe), Runs>,
}

/// Runs of one pair and timeframe, ascending and disjoint.
#[derive(Default)]
struct Runs {
    before: Vec<Run>,
    after: Vec<Run>,
}

impl Ledger {
    /// Reads the runs of every timeframe that touch each pair's span from an SQLite file.
    pub(super) fn load(
        file: &mut SqliteConnection,
        spans: &BTreeMap<Pair, Range<Timestamp>>,
    ) -> Result<Ledger, StoreError> {
        let mut ledger = Ledger::default();
        for (pairs, span) in few_reads(spans) {
            ledger.add(match pairs[..] {
                [pair] => touching_of(PairText::new(pair).as_str(), span.start.0, span.end.0).load(file),
                _ => touching(span.start.0, span.end.0).load(file),
            }?)?;
        }
        Ok(ledger)
    }

    /// The same on a server, together with what else is asked.
    pub(super) async fn load_on(
        server: &AsyncPgConnection,
        spans: &BTreeMap<Pair, Range<Timestamp>>,
    ) -> Result<Ledger, StoreError> {
        let reads = few_reads(spans).into_iter().map(async |(pairs, span)| {
            let mut server = server;
            match pairs[..] {
                [pair] => {
                    let pair = PairText::new(pair);
                    let wanted = touching_of(pair.as_str(), span.start.0, span.end.0);
                    diesel_async::RunQueryDsl::load(wanted, &mut server).await
                }
                _ => {
                    let wanted = touching(span.start.0, span.end.0);
                    diesel_async::RunQueryDsl::load(wanted, &mut server).await
                }
            }
        });
        let mut ledger = Ledger::default();
        try_join_all(reads).await?.into_iter().try_for_each(|rows| ledger.add(rows))?;
        Ok(ledger)
    }

    fn add(&mut self, rows: Vec<ReadCoverage>) -> Result<(), StoreError> {
        for row in rows {
            let (pair, timeframe, run) = row.run()?;
            let runs = self.runs.entry((pair, timeframe)).or_default();
            if runs.after.last().is_some_and(|last| last.span.end > run.span.start) {
                return Err(StoreError::corrupt(format!(
                    "runs of {pair} {timeframe} overlap at {}",
                    run.span.start
                )));
            }
            runs.before.push(run.clone());
            runs.after.push(run);
        }
        Ok(())
    }

    /// Lays a finding over what is known. It must lie within the span that was read.
    pub(super) fn lay(&mut self, pair: Pair, timeframe: Timeframe, finding: &Run) {
        let runs = &mut self.runs.entry((pair, timeframe)).or_default().after;
        // Only runs that meet or adjoin the finding can change.
        let first = runs.partition_point(|run| run.span.end < finding.span.start);
        let end = runs.partition_point(|run| run.span.start <= finding.span.end);
        let laid = overlay(&runs[first..end], finding);
        runs.splice(first..end, laid);
    }

    /// The state of the bucket that holds `time` and its reason, if anything is known of it.
    pub(super) fn state(&self, pair: Pair, timeframe: Timeframe, time: Timestamp) -> Option<(State, Reason)> {
        let runs = &self.runs.get(&(pair, timeframe))?.after;
        let next = runs.partition_point(|run| run.span.start <= time);
        let run = &runs[next.checked_sub(1)?];
        run.span.contains(&time).then_some((run.state, run.reason))
    }

    /// The runs of stored bars that meet `span`.
    pub(super) fn stored_runs<'a>(
        &'a self,
        pair: Pair,
        timeframe: Timeframe,
        span: &'a Range<Timestamp>,
    ) -> impl Iterator<Item = &'a Range<Timestamp>> {
        let runs = self.runs.get(&(pair, timeframe)).map_or(&[][..], |runs| &runs.after);
        let first = runs.partition_point(|run| run.span.end <= span.start);
        runs[first..]
            .iter()
            .take_while(|run| run.span.start < span.end)
            .filter(|run| run.state == State::Stored)
            .map(|run| &run.span)
    }

    /// Writes what changed since the reading.
    pub(super) fn save(&self, connection: &mut SqliteConnection, now: Timestamp) -> QueryResult<()> {
        let texts = self.texts();
        let (changed, gone) = self.changes(&texts, now);
        for row in &changed {
            diesel::replace_into(coverage::table).values(row).execute(connection)?;
        }
        for key in &gone {
            diesel::delete(coverage::table.find(*key)).execute(connection)?;
        }
        Ok(())
    }

    /// The same on a server, together with what else is asked.
    pub(super) async fn save_on(&self, server: &AsyncPgConnection, now: Timestamp) -> QueryResult<()> {
        let texts = self.texts();
        let (changed, gone) = self.changes(&texts, now);
        try_join(put_runs(server, &changed), remove_runs(server, &gone)).await.map(drop)
    }

    /// The pair of each of `runs`, in their order.
    fn texts(&self) -> Vec<PairText> {
        self.runs.keys().map(|(pair, _)| PairText::new(*pair)).collect()
    }

    /// The runs that are new or other than read, and the keys of those that are gone.
    fn changes<'a>(
        &'a self,
        texts: &'a [PairText],
        now: Timestamp,
    ) -> (Vec<CoverageRow<'a>>, Vec<RunKey<'a>>) {
        let (mut changed, mut gone) = (Vec::new(), Vec::new());
        for (((_, timeframe), runs), text) in self.runs.iter().zip(texts) {
            let mut after = runs.after.iter().peekable();
            for old in &runs.before {
                let mut kept = false;
                while let Some(new) = after.next_if(|new| new.span.start <= old.span.start) {
                    kept |= new.span.start == old.span.start;
                    if new != old {
                        changed.push(CoverageRow::new(text, *timeframe, new, now));
                    }
                }
                if !kept {
                    gone.push((text.as_str(), timeframe.as_str(), old.span.start.0));
                }
            }
            changed.extend(after.map(|new| CoverageRow::new(text, *timeframe, new, now)));
        }
        (changed, gone)
    }
}

/// Runs of all pairs and timeframes that meet or adjoin a span, ascending for each.
#[auto_type]
fn touching(start: i64, end: i64) -> _ {
    let columns: RunColumns = run_columns();
    coverage::table
        .filter(coverage::to_ts.ge(start))
        .filter(coverage::from_ts.le(end))
        .order(coverage::to_ts.asc())
        .select(columns)
}

/// Runs of one pair in all timeframes that meet or adjoin a span, ascending for each.
#[auto_type]
fn touching_of<'a>(pair: &'a str, start: i64, end: i64) -> _ {
    let columns: RunColumns = run_columns();
    coverage::table
        .filter(coverage::pair.eq(pair))
        .filter(coverage::to_ts.ge(start))
        .filter(coverage::from_ts.le(end))
        .order((coverage::timeframe.asc(), coverage::from_ts.asc()))
        .select(columns)
}

/// What is read of a run, from either database.
type RunColumns = <ReadCoverage as Selectable<Sqlite>>::SelectExpression;

fn run_columns() -> RunColumns {
    <ReadCoverage as Selectable<Sqlite>>::construct_selection()
}

/// The runs of one pair and timeframe that meet `span`, cut to it, ascending.
pub(super) fn runs(
    connection: &mut Connection,
    pair: Pair,
    timeframe: Timeframe,
    span: Range<Timestamp>,
) -> Result<Vec<Run>, StoreError> {
    let text = PairText::new(pair);
    let rows = on_backend!(connection, connection => {
        coverage::table
            .filter(coverage::pair.eq(text.as_str()))
            .filter(coverage::timeframe.eq(timeframe.as_str()))
            .filter(coverage::to_ts.gt(span.start.0))
            .filter(coverage::from_ts.lt(span.end.0))
            .order(coverage::from_ts.asc())
            .select(ReadCoverage::as_select())
            .load(connection)
    })?;
    let runs = rows.iter().map(|row| row.run().map(|(_, _, run)| cut(run, &span)));
    runs.collect()
}

/// The part within a span of a run that meets it.
fn cut(run: Run, span: &Range<Timestamp>) -> Run {
    Run { span: run.span.start.max(span.start)..run.span.end.min(span.end), ..run }
}

/// The runs that meet each of the stretches, cut to it, ascending, in the order of the stretches. Those of one day are
/// read with one statement.
pub(super) fn runs_of_each(
    connection: &mut Connection,
    stretches: &[(Pair, Timeframe, Range<Timestamp>)],
) -> Result<Vec<Vec<Run>>, StoreError> {
    let mut by_start: Vec<usize> = (0..stretches.len()).collect();
    by_start.sort_by_key(|ix| stretches[*ix].2.start);
    let mut each = vec![Vec::new(); stretches.len()];
    let mut rest = &by_start[..];
    while let Some(first) = rest.first() {
        let start = stretches[*first].2.start;
        let fits = |ix: &usize| stretches[*ix].2.end.since(start) <= ONE_READ_SPAN_MAX_S;
        // One that is longer than a day is read for itself.
        let (now, later) = rest.split_at(rest.iter().take_while(|ix| fits(ix)).count().max(1));
        let end = now.iter().map(|ix| stretches[*ix].2.end).max().unwrap_or(start);
        let rows: Vec<ReadCoverage> =
            on_backend!(connection, connection => touching(start.0, end.0).load(connection))?;
        for row in rows {
            let (pair, timeframe, run) = row.run()?;
            let meets = |span: &Range<Timestamp>| run.span.start < span.end && run.span.end > span.start;
            for ix in now {
                let (of, length, span) = &stretches[*ix];
                if (*of, *length) == (pair, timeframe) && meets(span) {
                    each[*ix].push(cut(run.clone(), span));
                }
            }
        }
        rest = later;
    }
    Ok(each)
}

/// Every run of one timeframe in a given state, by pair, ascending.
pub(super) fn runs_in_state(
    connection: &mut Connection,
    timeframe: Timeframe,
    state: State,
) -> Result<Vec<(Pair, Run)>, StoreError> {
    let rows = on_backend!(connection, connection => {
        coverage::table
            .filter(coverage::timeframe.eq(timeframe.as_str()))
            .filter(coverage::state.eq(state.as_str()))
            .order((coverage::pair.asc(), coverage::from_ts.asc()))
            .select(ReadCoverage::as_select())
            .load(connection)
    })?;
    rows.iter().map(|row| row.run().map(|(pair, _, run)| (pair, run))).collect()
}

/// Everything known of 5-minute and 15-minute buckets of each pair that misses some, from its oldest
/// missing one of either on, ascending for each pair and length.
pub(super) fn since_oldest_missing(
    connection: &mut Connection,
) -> Result<Vec<(Pair, Timeframe, Run)>, StoreError> {
    let fetched = [Timeframe::M5.as_str(), Timeframe::M15.as_str()];
    let oldest: Vec<(String, Option<i64>)> = on_backend!(connection, connection => {
        coverage::table
            .filter(coverage::state.eq(State::Missing.as_str()))
            .filter(coverage::timeframe.eq_any(fetched))
            .group_by(coverage::pair)
            .select((coverage::pair, diesel::dsl::min(coverage::from_ts)))
            .load(connection)
    })?;
    let mut oldest: Vec<(i64, String)> =
        oldest.into_iter().filter_map(|(pair, from)| Some((from?, pair))).collect();
    oldest.sort();
    // One old hole does not have the whole ledger of every pair read.
    let mut reads: Vec<(i64, Vec<String>)> = Vec::new();
    for (from, pair) in oldest {
        match reads.last_mut() {
            Some((first, pairs)) if from - *first <= ONE_READ_SPAN_MAX_S => pairs.push(pair),
            _ => reads.push((from, vec![pair])),
        }
    }
    let mut known = Vec::new();
    for (from, pairs) in reads {
        let from = Timestamp(from).floor(Timeframe::M15.seconds());
        let rows = on_backend!(connection, connection => {
            coverage::table
                .filter(coverage::pair.eq_any(&pairs))
                .filter(coverage::to_ts.gt(from.0))
                .filter(coverage::timeframe.eq_any(fetched))
                .order((coverage::pair.asc(), coverage::timeframe.asc(), coverage::from_ts.asc()))
                .select(ReadCoverage::as_select())
                .load(connection)
        })?;
        for row in &rows {
            known.push(row.run()?);
        }
    }
    Ok(known)
}

/// The pairs and timeframes of which anything is known.
pub(super) fn keys(connection: &mut Connection) -> Result<Vec<(Pair, Timeframe)>, StoreError> {
    let rows: Vec<(String, String)> = on_backend!(connection, connection => {
        coverage::table
            .select((coverage::pair, coverage::timeframe))
            .distinct()
            .load(connection)
    })?;
    let mut keys = rows
        .iter()
        .map(|(pair, timeframe)| Ok((super::rows::pair(pair)?, super::rows::timeframe(timeframe)?)))
        .collect::<Result<Vec<_>, StoreError>>()?;
    keys.sort();
    Ok(keys)
}
