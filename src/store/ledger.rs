//! Table `coverage`: what is known of each bucket, read in runs, changed in memory by
//! [`overlay`], written back where it changed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use diesel::backend::Backend;
use diesel::dsl::{auto_type, sql};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel::serialize::ToSql;
use diesel::sql_types::{BigInt, HasSqlType, Nullable, Text};
use diesel::sqlite::{Sqlite, SqliteConnection};
use diesel_async::AsyncPgConnection;
use futures_util::future::try_join;

use super::backend::{Connection, keep_run, on_backend};
use super::error::StoreError;
use super::many::{Wanted, put_runs, remove_runs, within_each};
use super::rows::{CoverageRow, PairText, ReadCoverage};
use super::schema::coverage;
use crate::domain::coverage::{Run, overlay};
use crate::domain::{Pair, Reason, State, Timeframe, Timestamp};

/// Of a file, each pair and timeframe that is asked for is looked up as long as they are no more than these. More are read
/// with one statement where what is asked lies within so many seconds of the ledger's end: that statement reads
/// all that there is behind it.
const LOOKED_UP_MAX: usize = 5;
const ONE_READ_BACK_MAX_S: i64 = 7 * 24 * 3600;
/// And where it is not longer than this, seconds: what is known of a day of all pairs is little.
const ONE_READ_SPAN_MAX_S: i64 = 24 * 3600;

/// What is asked of a pair and timeframe: where.
type Stretch = (Pair, Timeframe, Range<Timestamp>);

/// The pairs of which anything is known, as table `known`: from each the next one is looked up. A query that asks for
/// them plainly walks the whole ledger, in either database.
const KNOWN_PAIRS: &str = "WITH RECURSIVE known (pair) AS (SELECT min(pair) FROM coverage UNION ALL \
    SELECT (SELECT min(later.pair) FROM coverage AS later WHERE later.pair > known.pair) FROM known \
    WHERE known.pair IS NOT NULL)";

/// Of a run: it begins in the week before the ledger's end. See [`Wanted::RUN_BEFORE`].
const IN_THE_LAST_WEEK: &str = " AND run.from_ts >= \
    (SELECT GREATEST(newest.to_ts, 0) - 604800 FROM coverage AS newest ORDER BY newest.to_ts DESC LIMIT 1)";

/// By pair, the end of the last run of a timeframe. A file keeps it prepared, since it is found by its type; a server
/// plans it anew: what it had planned while the ledger was empty would walk all of that.
#[derive(QueryId)]
struct Ends(&'static str);

impl Ends {
    /// The end of the last run, of those where `and` holds too.
    fn last<'b, DB>(&'b self, and: &str, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()>
    where
        DB: Backend + HasSqlType<Text>,
        str: ToSql<Text, DB>,
    {
        out.push_sql(
            "(SELECT run.to_ts FROM coverage AS run WHERE run.pair = known.pair AND run.timeframe = ",
        );
        out.push_bind_param::<Text, _>(self.0)?;
        out.push_sql(and);
        out.push_sql(" ORDER BY run.from_ts DESC LIMIT 1)");
        Ok(())
    }
}

impl QueryFragment<Sqlite> for Ends {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        out.push_sql(KNOWN_PAIRS);
        out.push_sql(" SELECT known.pair, ");
        self.last("", out.reborrow())?;
        out.push_sql(" FROM known WHERE known.pair IS NOT NULL");
        Ok(())
    }
}

impl QueryFragment<Pg> for Ends {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.unsafe_to_cache_prepared();
        out.push_sql(KNOWN_PAIRS);
        out.push_sql(" SELECT known.pair, COALESCE(");
        self.last(IN_THE_LAST_WEEK, out.reborrow())?;
        out.push_sql(", ");
        self.last("", out.reborrow())?;
        out.push_sql(") FROM known WHERE known.pair IS NOT NULL");
        Ok(())
    }
}

impl Query for Ends {
    type SqlType = (Text, Nullable<BigInt>);
}

impl<C> RunQueryDsl<C> for Ends {}

/// The end of the latest bucket that anything is known of, by pair.
pub(super) fn ends(
    connection: &mut Connection,
    timeframe: Timeframe,
) -> Result<BTreeMap<Pair, Timestamp>, StoreError> {
    let rows: Vec<(String, Option<i64>)> =
        on_backend!(connection, connection => Ends(timeframe.as_str()).get_results(connection))?;
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
    // Grouped, SQLite either looks up each run that an index on the state names, or sorts them all: twice as long. A sum
    // of whole numbers is none on PostgreSQL.
    let columns = State::ALL.map(|state| {
        let seconds =
            format!("SUM(CASE state WHEN '{state}' THEN to_ts - from_ts END)", state = state.as_str());
        format!("CAST(COALESCE({seconds}, 0) AS BIGINT)")
    });
    let [stored, quiet, closed, missing, lost] = columns.each_ref().map(|column| sql::<BigInt>(column));
    let all = sql::<BigInt>("CAST(COALESCE(SUM(to_ts - from_ts), 0) AS BIGINT)");
    let (all, seconds): (i64, (i64, i64, i64, i64, i64)) = on_backend!(connection, connection => {
        coverage::table
            .filter(coverage::timeframe.eq(timeframe.as_str()))
            .select((all, (stored, quiet, closed, missing, lost)))
            .get_result(connection)
    })?;
    let seconds = [seconds.0, seconds.1, seconds.2, seconds.3, seconds.4];
    if seconds.iter().sum::<i64>() != all {
        return Err(StoreError::corrupt("the ledger has runs of no known state"));
    }
    let counts = State::ALL.into_iter().zip(seconds);
    let counts = counts.map(|(state, seconds)| (state, (seconds / timeframe.seconds()).unsigned_abs()));
    Ok(counts.filter(|(_, buckets)| *buckets > 0).collect())
}

/// Pair, timeframe and start of a run.
type RunKey<'a> = (&'a str, &'static str, i64);

/// What a transaction makes of the runs that it touches.
#[derive(Default)]
struct Changes<'a> {
    /// Runs that are new, or of another state than the one that began there.
    put: Vec<CoverageRow<'a>>,
    /// Runs that only end elsewhere, or for another reason, or are known from elsewhere.
    kept: Vec<CoverageRow<'a>>,
    gone: Vec<RunKey<'a>>,
}

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
    /// Reads the runs of these timeframes that meet or adjoin each pair's span from an SQLite file.
    pub(super) fn load(
        file: &mut SqliteConnection,
        spans: &BTreeMap<Pair, Range<Timestamp>>,
        timeframes: &BTreeSet<Timeframe>,
    ) -> Result<Ledger, StoreError> {
        let stretches: Vec<Stretch> = stretches(spans, timeframes).collect();
        let mut ledger = Ledger::default();
        ledger.add(touching_in(file, &stretches)?)?;
        Ok(ledger)
    }

    /// The same on a server, together with what else is asked.
    pub(super) async fn load_on(
        server: &AsyncPgConnection,
        spans: &BTreeMap<Pair, Range<Timestamp>>,
        timeframes: &BTreeSet<Timeframe>,
    ) -> Result<Ledger, StoreError> {
        let stretches: Vec<Stretch> = stretches(spans, timeframes).collect();
        let mut ledger = Ledger::default();
        ledger.add(touching_each(server, &stretches).await?)?;
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
    pub(super) fn save(&self, connection: &mut SqliteConnection, now: Timestamp) -> Result<(), StoreError> {
        let texts = self.texts();
        let Changes { put, kept, gone } = self.changes(&texts, now);
        for row in &put {
            diesel::replace_into(coverage::table).values(row).execute(connection)?;
        }
        for row in &kept {
            if keep_run(connection, row)? != 1 {
                let (pair, timeframe, start) = (row.pair, row.timeframe, row.from_ts);
                return Err(StoreError::corrupt(format!("the run of {pair} {timeframe} at {start} is gone")));
            }
        }
        for key in &gone {
            diesel::delete(coverage::table.find(*key)).execute(connection)?;
        }
        Ok(())
    }

    /// The same on a server, together with what else is asked.
    pub(super) async fn save_on(&self, server: &AsyncPgConnection, now: Timestamp) -> QueryResult<()> {
        let texts = self.texts();
        let Changes { mut put, kept, gone } = self.changes(&texts, now);
        put.extend(kept);
        try_join(put_runs(server, &put), remove_runs(server, &gone)).await.map(drop)
    }

    /// The pair of each of `runs`, in their order.
    fn texts(&self) -> Vec<PairText> {
        self.runs.keys().map(|(pair, _)| PairText::new(*pair)).collect()
    }

    /// What is other than read.
    fn changes<'a>(&'a self, texts: &'a [PairText], now: Timestamp) -> Changes<'a> {
        let mut changes = Changes::default();
        for (((_, timeframe), runs), text) in self.runs.iter().zip(texts) {
            let row = |run| CoverageRow::new(text, *timeframe, run, now);
            let mut after = runs.after.iter().peekable();
            for old in &runs.before {
                let mut is_there = false;
                while let Some(new) = after.next_if(|new| new.span.start <= old.span.start) {
                    let is_same = new.span.start == old.span.start;
                    is_there |= is_same;
                    if is_same && new.state == old.state {
                        changes.kept.extend((new != old).then(|| row(new)));
                    } else {
                        changes.put.push(row(new));
                    }
                }
                if !is_there {
                    changes.gone.push((text.as_str(), timeframe.as_str(), old.span.start.0));
                }
            }
            changes.put.extend(after.map(row));
        }
        changes
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

/// What is read of a run, from either database.
type RunColumns = <ReadCoverage as Selectable<Sqlite>>::SelectExpression;

fn run_columns() -> RunColumns {
    <ReadCoverage as Selectable<Sqlite>>::construct_selection()
}

/// Each of the pairs with each of the timeframes.
fn stretches(
    spans: &BTreeMap<Pair, Range<Timestamp>>,
    timeframes: &BTreeSet<Timeframe>,
) -> impl Iterator<Item = Stretch> {
    let of = |(pair, span): (&Pair, &Range<Timestamp>)| {
        let (pair, span) = (*pair, span.clone());
        timeframes.iter().map(move |timeframe| (pair, *timeframe, span.clone()))
    };
    spans.iter().flat_map(of)
}

/// Runs in a file that meet or adjoin each of the stretches, maybe others beside them, ascending for each pair and timeframe
/// as far as its stretches are.
fn touching_in(connection: &mut SqliteConnection, stretches: &[Stretch]) -> QueryResult<Vec<ReadCoverage>> {
    let spans = stretches.iter().map(|(_, _, span)| span.start.0..span.end.0);
    let hull = spans.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).unwrap_or_default();
    if stretches.len() > LOOKED_UP_MAX && is_recent(connection, &hull)? {
        return touching(hull.start, hull.end).load(connection);
    }
    let mut all = Vec::new();
    for (pair, timeframe, span) in stretches {
        all.append(&mut touching_of(connection, *pair, *timeframe, span)?);
    }
    Ok(all)
}

/// Whether all that a file knows of this span and later is little.
fn is_recent(connection: &mut SqliteConnection, span: &Range<i64>) -> QueryResult<bool> {
    if span.end.saturating_sub(span.start) > ONE_READ_SPAN_MAX_S {
        return Ok(false);
    }
    let end: Option<i64> =
        coverage::table.select(diesel::dsl::max(coverage::to_ts)).get_result(connection)?;
    Ok(end.is_none_or(|end| end - span.start <= ONE_READ_BACK_MAX_S))
}

/// Runs of one pair and timeframe in a file that meet or adjoin a span, ascending. Read from the newest on, up to one that
/// ends before the span: they are disjoint, so all others do too. A query that names both bounds walks all of them.
fn touching_of(
    connection: &mut SqliteConnection,
    pair: Pair,
    timeframe: Timeframe,
    span: &Range<Timestamp>,
) -> QueryResult<Vec<ReadCoverage>> {
    let text = PairText::new(pair);
    let newest_first = coverage::table
        .filter(coverage::pair.eq(text.as_str()))
        .filter(coverage::timeframe.eq(timeframe.as_str()))
        .filter(coverage::from_ts.le(span.end.0))
        .order(coverage::from_ts.desc())
        .select(ReadCoverage::as_select());
    let rows = newest_first.load_iter::<ReadCoverage, _>(connection)?;
    let touches = |row: &QueryResult<ReadCoverage>| row.as_ref().map_or(true, |row| row.ends() >= span.start);
    let mut rows = rows.take_while(touches).collect::<QueryResult<Vec<_>>>()?;
    rows.reverse();
    Ok(rows)
}

/// The same of each stretch, on a server, together with what else is asked.
async fn touching_each(
    mut server: &AsyncPgConnection,
    stretches: &[Stretch],
) -> QueryResult<Vec<ReadCoverage>> {
    struct TouchingEach;
    let of_one = coverage::table
        .filter(coverage::pair.eq(Wanted::PAIR))
        .filter(coverage::timeframe.eq(Wanted::TIMEFRAME))
        .filter(coverage::from_ts.ge(Wanted::RUN_BEFORE))
        .filter(coverage::from_ts.le(Wanted::TO))
        .filter(coverage::to_ts.ge(Wanted::FROM))
        .select(ReadCoverage::as_select());
    let all = within_each::<TouchingEach, _>(of_one, stretches);
    let mut rows: Vec<ReadCoverage> = diesel_async::RunQueryDsl::load(all, &mut server).await?;
    rows.sort_by_key(ReadCoverage::starts);
    Ok(rows)
}

/// The same from either database; from a file maybe others beside them.
fn touching_any(connection: &mut Connection, stretches: &[Stretch]) -> QueryResult<Vec<ReadCoverage>> {
    match connection {
        Connection::Sqlite(file) => touching_in(file, stretches),
        Connection::Postgres(server) => {
            server.together(async { touching_each(server.shared(), stretches).await })
        }
    }
}

/// The runs of one pair and timeframe that meet `span`, cut to it, ascending.
pub(super) fn runs(
    connection: &mut Connection,
    pair: Pair,
    timeframe: Timeframe,
    span: Range<Timestamp>,
) -> Result<Vec<Run>, StoreError> {
    if span.is_empty() {
        return Ok(Vec::new());
    }
    let mut runs = Vec::new();
    for row in touching_any(connection, &[(pair, timeframe, span.clone())])? {
        let (_, _, run) = row.run()?;
        if meets(&run, &span) {
            runs.push(cut(run, &span));
        }
    }
    Ok(runs)
}

fn meets(run: &Run, span: &Range<Timestamp>) -> bool {
    run.span.start < span.end && run.span.end > span.start
}

/// The part within a span of a run that meets it.
fn cut(run: Run, span: &Range<Timestamp>) -> Run {
    Run { span: run.span.start.max(span.start)..run.span.end.min(span.end), ..run }
}

/// The runs that meet each of the stretches, cut to it, ascending, in the order of the stretches.
pub(super) fn runs_of_each(
    connection: &mut Connection,
    stretches: &[Stretch],
) -> Result<Vec<Vec<Run>>, StoreError> {
    let mut known: BTreeMap<(Pair, Timeframe), Vec<Run>> = BTreeMap::new();
    for row in touching_any(connection, stretches)? {
        let (pair, timeframe, run) = row.run()?;
        known.entry((pair, timeframe)).or_default().push(run);
    }
    for runs in known.values_mut() {
        // Stretches of one pair may overlap.
        runs.sort_by_key(|run| run.span.start);
        runs.dedup_by_key(|run| run.span.start);
    }
    let of = |(pair, timeframe, span): &Stretch| {
        let runs = known.get(&(*pair, *timeframe)).map_or(&[][..], Vec::as_slice);
        let first = runs.partition_point(|run| run.span.end <= span.start);
        let met = runs[first..].iter().take_while(|run| run.span.start < span.end);
        met.map(|run| cut(run.clone(), span)).collect()
    };
    Ok(stretches.iter().map(of).collect())
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
    let oldest: Vec<(String, Option<i64>)> = on_backend!(connection, connection => {
        coverage::table
            .filter(coverage::state.eq(State::Missing.as_str()))
            .filter(
                coverage::timeframe.eq(Timeframe::M5.as_str()).or(coverage::timeframe.eq(Timeframe::M15.as_str())),
            )
            .group_by(coverage::pair)
            .select((coverage::pair, diesel::dsl::min(coverage::from_ts)))
            .load(connection)
    })?;
    let mut oldest_of = BTreeMap::new();
    let mut stretches: Vec<Stretch> = Vec::new();
    for (pair, from) in oldest {
        let (Some(from), pair) = (from, super::rows::pair(&pair)?) else { continue };
        oldest_of.insert(pair, from);
        let from = Timestamp(from).floor(Timeframe::M15.seconds());
        // What ends there is no part of it.
        let span = from.plus(1)..Timestamp(i64::MAX);
        stretches.extend([Timeframe::M5, Timeframe::M15].map(|timeframe| (pair, timeframe, span.clone())));
    }
    let runs = touching_any(connection, &stretches)?;
    let mut runs = runs.iter().map(ReadCoverage::run).collect::<Result<Vec<_>, StoreError>>()?;
    // Whose hole is oldest comes first, in either database.
    runs.sort_by_key(|(pair, timeframe, run)| {
        (oldest_of.get(pair).copied(), *pair, Reverse(*timeframe), run.span.start)
    });
    Ok(runs)
}

/// The pairs and timeframes of which anything is known. Walks the ledger from end to end.
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

/// Start of the newest bar of each pair and timeframe that has one, looked up by the pairs of which anything is known: what no
/// program of ours has written is not found.
pub(super) fn newest_bars(
    connection: &mut Connection,
) -> Result<Vec<(Pair, Timeframe, Timestamp)>, StoreError> {
    #[derive(QueryableByName)]
    struct Newest {
        #[diesel(sql_type = Text)]
        pair: String,
        #[diesel(sql_type = Text)]
        timeframe: String,
        #[diesel(sql_type = Nullable<BigInt>)]
        start: Option<i64>,
    }
    let timeframes = Timeframe::ALL.map(|timeframe| format!("SELECT '{}' AS timeframe", timeframe.as_str()));
    // One journey to a server, which plans it anew each time. Not `max`, for which a plan of empty tables may walk all of a pair.
    let text = format!(
        "{KNOWN_PAIRS} SELECT known.pair AS pair, lengths.timeframe AS timeframe, \
         (SELECT candle.timestamp FROM candles AS candle WHERE candle.pair = known.pair \
         AND candle.timeframe = lengths.timeframe ORDER BY candle.timestamp DESC LIMIT 1) AS start \
         FROM known CROSS JOIN ({}) AS lengths WHERE known.pair IS NOT NULL",
        timeframes.join(" UNION ALL ")
    );
    let rows: Vec<Newest> =
        on_backend!(connection, connection => diesel::sql_query(text).get_results(connection))?;
    let mut newest = Vec::with_capacity(rows.len());
    for Newest { pair, timeframe, start } in rows {
        if let Some(start) = start {
            newest.push((super::rows::pair(&pair)?, super::rows::timeframe(&timeframe)?, Timestamp(start)));
        }
    }
    newest.sort();
    Ok(newest)
}
