//! Table `allowance`: every spend of data points, booked before it is made, and the broker's own
//! numbers as last seen.

use std::ops::Range;

use diesel::prelude::*;

use super::backend::{Connection, on_backend};
use super::error::StoreError;
use super::rows::{PairText, ReadSpend, SettleRow, SpendRow};
use super::schema::allowance;
use crate::domain::{Pair, Timeframe, Timestamp};

/// Spends older than this no longer matter: the broker's allowance is one of a week.
const REMEMBERED_S: i64 = 14 * 24 * 3600;
/// With no numbers of the broker's, what was spent in the last so many seconds counts: its week.
const WEEK_S: i64 = 7 * 24 * 3600;

/// Whose allowance: the broker counts by account and by API key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowanceKey {
    /// `demo`, `live` or `custom`.
    pub environment: String,
    /// The account's identifier.
    pub account: String,
    /// Keyed fingerprint of the API key; never the key itself.
    pub key_fingerprint: String,
}

/// What points are spent on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpendOn {
    /// The pair whose bars are asked for.
    pub pair: Pair,
    /// Their length.
    pub timeframe: Timeframe,
    /// First bucket's start to the end of the last.
    pub span: Range<Timestamp>,
    /// The incident that these buckets are lost by, as far as it is unhealed; none for backfill.
    pub incident: Option<Range<Timestamp>>,
    /// The request, for people.
    pub what: String,
}

/// Which spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpendId(pub(super) i64);

impl std::fmt::Display for SpendId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The broker's numbers, as an answer of its told them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllowanceSeen {
    /// Points left.
    pub remaining: u32,
    /// Points of a whole week.
    pub total: u32,
    /// When all of them are there again.
    pub expires_at: Timestamp,
}

/// What is known of an allowance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowanceState {
    /// The broker's numbers as last seen within two weeks, and when.
    pub seen: Option<(AllowanceSeen, Timestamp)>,
    /// Points spent since: those that the numbers seen cannot know of. Where the numbers have
    /// expired, points spent since then; where there are none, within a week.
    pub spent_since: u32,
    /// Of these, points of requests of which nobody knows what became.
    pub in_doubt: u32,
    /// When the last spend was booked.
    pub last_booked_at: Option<Timestamp>,
    /// Points spent on incidents since the week began: the incident, as far as it was unhealed
    /// then, and points.
    pub on_incidents: Vec<(Range<Timestamp>, u32)>,
    /// Refusals for want of points, where the last word was one and the week is not over.
    pub refusals: Option<Refusals>,
}

/// Refusals for want of points, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusals {
    /// How many in a row.
    pub times: u32,
    /// The last one.
    pub last_at: Timestamp,
}

/// Points of a week where the broker has not told them yet (IG's documented default).
pub const WEEKLY_POINTS: u32 = 10_000;

impl AllowanceState {
    /// Points left, as far as is known.
    pub fn remaining(&self, now: Timestamp) -> u32 {
        let left = match self.seen {
            // Past its expiry the whole week's points are there again.
            Some((seen, _)) if now >= seen.expires_at => seen.total,
            Some((seen, _)) => seen.remaining,
            None => WEEKLY_POINTS,
        };
        left.saturating_sub(self.spent_since)
    }

    /// When all of the week's points are there again, where the broker has told.
    pub fn renews_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.seen.map(|(seen, _)| seen.expires_at).filter(|at| *at > now)
    }
}

/// One spend, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spend {
    /// What was asked for.
    pub what: String,
    /// `booked`, `settled`, `refused` for want of points, or `unknown` where nothing told what it
    /// came to.
    pub state: String,
    /// Points, as booked or as charged.
    pub points: i64,
    /// When it was booked.
    pub booked_at: Timestamp,
}

/// One spend, if it is still kept.
pub(super) fn find(connection: &mut Connection, id: i64) -> Result<Option<Spend>, StoreError> {
    let row: Option<(String, String, i64, i64)> = on_backend!(connection, connection => {
        allowance::table
            .find(id)
            .select((allowance::what, allowance::state, allowance::points, allowance::booked_at))
            .get_result(connection)
            .optional()
    })?;
    Ok(row.map(|(what, state, points, at)| Spend { what, state, points, booked_at: Timestamp(at) }))
}

const BOOKED: &str = "booked";
const SETTLED: &str = "settled";
const UNKNOWN: &str = "unknown";
const REFUSED: &str = "refused";

/// The account whose spend was booked last in an environment.
pub(super) fn latest_key(
    connection: &mut Connection,
    environment: &str,
) -> Result<Option<AllowanceKey>, StoreError> {
    let row: Option<(String, String)> = on_backend!(connection, connection => {
        allowance::table
            .filter(allowance::environment.eq(environment))
            .order(allowance::id.desc())
            .select((allowance::account, allowance::key_fingerprint))
            .first(connection)
            .optional()
    })?;
    let key = |(account, key_fingerprint)| AllowanceKey {
        environment: environment.to_owned(),
        account,
        key_fingerprint,
    };
    Ok(row.map(key))
}

/// The number of the spend booked last, 0 where there is none.
pub(super) fn last(connection: &mut Connection) -> Result<i64, StoreError> {
    let last: Option<i64> = on_backend!(connection, connection => {
        allowance::table.select(diesel::dsl::max(allowance::id)).get_result(connection)
    })?;
    Ok(last.unwrap_or(0))
}

/// Pair, first bucket, end of the last, and points of a spend.
type ReadPoints = (Option<String>, Option<i64>, Option<i64>, i64);

/// Points of the spends booked after this one: of all, or of those on a bucket of these pairs within
/// this span.
pub(super) fn points_after(
    connection: &mut Connection,
    id: i64,
    only: Option<&(Vec<Pair>, Option<Range<Timestamp>>)>,
) -> Result<u32, StoreError> {
    let rows: Vec<ReadPoints> = on_backend!(connection, connection => {
        allowance::table
            .filter(allowance::id.gt(id))
            .select((allowance::pair, allowance::from_ts, allowance::to_ts, allowance::points))
            .load(connection)
    })?;
    let is_meant = |pair: Option<&str>, from: Option<i64>, to: Option<i64>| {
        let Some((pairs, span)) = only else { return true };
        let is_of_pair = pair.is_some_and(|pair| pairs.iter().any(|known| known.to_string() == pair));
        let meets = |span: &Range<Timestamp>| {
            from.is_some_and(|from| from < span.end.0) && to.is_some_and(|to| span.start.0 < to)
        };
        is_of_pair && span.as_ref().is_none_or(meets)
    };
    let meant = rows.into_iter().filter(|(pair, from, to, _)| is_meant(pair.as_deref(), *from, *to));
    u32::try_from(meant.map(|(_, _, _, points)| points).sum::<i64>()).map_err(StoreError::corrupt)
}

/// Books a spend that is about to be made.
pub(super) fn book(
    connection: &mut Connection,
    key: &AllowanceKey,
    points: u32,
    on: &SpendOn,
    now: Timestamp,
) -> Result<SpendId, StoreError> {
    let pair = PairText::new(on.pair);
    let row = SpendRow {
        environment: &key.environment,
        account: &key.account,
        key_fingerprint: &key.key_fingerprint,
        what: &on.what,
        state: BOOKED,
        points: i64::from(points),
        booked_at: now.0,
        pair: pair.as_str(),
        timeframe: on.timeframe.as_str(),
        from_ts: on.span.start.0,
        to_ts: on.span.end.0,
        incident_from: on.incident.as_ref().map(|incident| incident.start.0),
        incident_to: on.incident.as_ref().map(|incident| incident.end.0),
    };
    let id = on_backend!(connection, connection => {
        diesel::insert_into(allowance::table).values(&row).returning(allowance::id).get_result(connection)
    })?;
    Ok(SpendId(id))
}

/// Writes down what a spend came to.
pub(super) fn settle(
    connection: &mut Connection,
    id: SpendId,
    points: u32,
    seen: Option<AllowanceSeen>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let row = SettleRow {
        state: SETTLED,
        points: i64::from(points),
        settled_at: Some(now.0),
        seen_remaining: seen.map(|seen| i64::from(seen.remaining)),
        seen_total: seen.map(|seen| i64::from(seen.total)),
        seen_expires_at: seen.map(|seen| seen.expires_at.0),
    };
    on_backend!(connection, connection => {
        diesel::update(allowance::table.find(id.0)).set(&row).execute(connection)
    })?;
    Ok(())
}

/// Writes down that the broker refused for want of points: it cost none.
pub(super) fn refuse(
    connection: &mut Connection,
    id: SpendId,
    code: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    on_backend!(connection, connection => {
        diesel::update(allowance::table.find(id.0))
            .set((
                allowance::state.eq(REFUSED),
                allowance::points.eq(0),
                allowance::settled_at.eq(now.0),
                allowance::refusal.eq(code),
            ))
            .execute(connection)
    })?;
    Ok(())
}

/// Writes down that no answer told what a spend came to: it counts as spent.
pub(super) fn give_up(
    connection: &mut Connection,
    id: SpendId,
    why: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    on_backend!(connection, connection => {
        diesel::update(allowance::table.find(id.0))
            .set((
                allowance::state.eq(UNKNOWN),
                allowance::settled_at.eq(now.0),
                allowance::refusal.eq(why),
            ))
            .execute(connection)
    })?;
    Ok(())
}

/// Gives up every spend still booked: those of a process that is gone.
pub(super) fn give_up_all(
    connection: &mut Connection,
    key: &AllowanceKey,
    now: Timestamp,
) -> Result<usize, StoreError> {
    Ok(on_backend!(connection, connection => {
        diesel::update(
            allowance::table
                .filter(allowance::environment.eq(&key.environment))
                .filter(allowance::account.eq(&key.account))
                .filter(allowance::key_fingerprint.eq(&key.key_fingerprint))
                .filter(allowance::state.eq(BOOKED)),
        )
        .set((allowance::state.eq(UNKNOWN), allowance::settled_at.eq(now.0)))
        .execute(connection)
    })?)
}

/// What is known of an allowance at `now`.
pub(super) fn state(
    connection: &mut Connection,
    key: &AllowanceKey,
    now: Timestamp,
) -> Result<AllowanceState, StoreError> {
    let spends: Vec<ReadSpend> = on_backend!(connection, connection => {
        allowance::table
            .filter(allowance::environment.eq(&key.environment))
            .filter(allowance::account.eq(&key.account))
            .filter(allowance::key_fingerprint.eq(&key.key_fingerprint))
            .filter(allowance::booked_at.gt(now.plus(-REMEMBERED_S).0))
            .select(ReadSpend::as_select())
            .load(connection)
    })?;
    reckon(&spends, now)
}

/// The last numbers seen, and which spends they cannot know of: those still under way and those
/// booked later. One process spends at a time, one request after the other.
fn reckon(spends: &[ReadSpend], now: Timestamp) -> Result<AllowanceState, StoreError> {
    let last = spends
        .iter()
        .filter_map(|spend| Some((spend.settled_at?, spend.id, seen(spend)?)))
        // One after the other, whatever the clock said.
        .max_by_key(|(_, id, _)| *id);
    let since: Vec<&ReadSpend> = spends
        .iter()
        .filter(|spend| match &last {
            Some((_, _, seen)) if seen.expires_at <= now => spend.booked_at >= seen.expires_at.0,
            Some((_, id, _)) => spend.id > *id || spend.state == BOOKED,
            None => spend.booked_at > now.plus(-WEEK_S).0,
        })
        .collect();
    let points = |of: &dyn Fn(&ReadSpend) -> bool| {
        let points: i64 = since.iter().filter(|spend| of(spend)).map(|spend| spend.points).sum();
        u32::try_from(points).map_err(StoreError::corrupt)
    };
    let week_began = match &last {
        Some((_, _, seen)) if seen.expires_at <= now => seen.expires_at,
        Some((_, _, seen)) => seen.expires_at.plus(-WEEK_S),
        None => now.plus(-WEEK_S),
    };
    let on_incidents = spends.iter().filter(|spend| spend.booked_at >= week_began.0).filter_map(|spend| {
        let incident = Timestamp(spend.incident_from?)..Timestamp(spend.incident_to?);
        Some((incident, u32::try_from(spend.points).ok()?))
    });
    Ok(AllowanceState {
        on_incidents: on_incidents.filter(|(_, points)| *points > 0).collect(),
        refusals: refusals(spends, week_began),
        seen: last.map(|(at, _, seen)| (seen, Timestamp(at))),
        spent_since: points(&|_| true)?,
        in_doubt: points(&|spend| spend.state != SETTLED)?,
        last_booked_at: spends.iter().max_by_key(|spend| spend.id).map(|spend| Timestamp(spend.booked_at)),
    })
}

/// The refusals for want of points that no answer has followed.
fn refusals(spends: &[ReadSpend], week_began: Timestamp) -> Option<Refusals> {
    let mut settled: Vec<&ReadSpend> = spends.iter().filter(|spend| spend.settled_at.is_some()).collect();
    settled.sort_by_key(|spend| spend.id);
    // One whose outcome is not known says nothing of the allowance.
    let told = settled.iter().rev().filter(|spend| spend.state == REFUSED || spend.seen_remaining.is_some());
    let last: Vec<&&ReadSpend> = told.take_while(|spend| spend.state == REFUSED).collect();
    let last_at = Timestamp(last.first()?.settled_at?);
    (last_at >= week_began)
        .then(|| Refusals { times: u32::try_from(last.len()).unwrap_or(u32::MAX), last_at })
}

fn seen(spend: &ReadSpend) -> Option<AllowanceSeen> {
    Some(AllowanceSeen {
        remaining: u32::try_from(spend.seen_remaining?).ok()?,
        total: u32::try_from(spend.seen_total?).ok()?,
        expires_at: Timestamp(spend.seen_expires_at?),
    })
}
