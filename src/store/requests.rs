//! Table `fetch_requests`: stretches that somebody wants fetched, handed to whoever collects.

use std::collections::HashMap;
use std::ops::Range;

use diesel::prelude::*;

use super::backend::{Connection, on_backend};
use super::error::{StoreError, cut};
use super::rows::{self, PairText};
use super::schema::fetch_requests;
use crate::domain::{Pair, Timeframe, Timestamp};

/// Requests remembered; the oldest that are done or refused give way.
pub const REQUESTS_MAX: usize = 10_000;
/// Those that have reopened lost buckets within so long are remembered, seconds: meanwhile no other may
/// reopen them.
pub const REOPENED_KEPT_S: i64 = 24 * 3600;
/// Requests that may be open at a time.
pub const OPEN_REQUESTS_MAX: usize = 1_000;

/// What has become of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestState {
    /// Nobody has looked at it yet.
    Asked,
    /// The collector is at it.
    Taken,
    /// What could be fetched is.
    Done,
    /// It will not be fetched; the note says why.
    Refused,
}

impl RequestState {
    /// Every state.
    pub const ALL: [RequestState; 4] =
        [RequestState::Asked, RequestState::Taken, RequestState::Done, RequestState::Refused];

    /// How the database spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            RequestState::Asked => "asked",
            RequestState::Taken => "taken",
            RequestState::Done => "done",
            RequestState::Refused => "refused",
        }
    }

    /// Whether something is still to be done.
    pub const fn is_open(self) -> bool {
        matches!(self, RequestState::Asked | RequestState::Taken)
    }
}

/// A stretch that somebody wants fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchRequest {
    /// Grows with each request.
    pub id: i64,
    /// Of which pair.
    pub pair: Pair,
    /// Bars of which length.
    pub timeframe: Timeframe,
    /// Which buckets, half-open.
    pub span: Range<Timestamp>,
    /// What has become of it.
    pub state: RequestState,
    /// More about that, for people.
    pub note: String,
    /// When it was made.
    pub asked_at: Timestamp,
    /// When its state was last written.
    pub updated_at: Timestamp,
    /// When it had lost buckets asked for again, if it did.
    pub reopened_at: Option<Timestamp>,
}

/// A stretch in which lost buckets were asked for again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reopened {
    /// By which request.
    pub id: i64,
    /// Which buckets, half-open.
    pub span: Range<Timestamp>,
    /// When, wall time.
    pub at: Timestamp,
}

#[derive(Insertable)]
#[diesel(table_name = fetch_requests)]
struct RequestRow<'a> {
    pair: &'a str,
    timeframe: &'static str,
    from_ts: i64,
    to_ts: i64,
    state: &'static str,
    note: &'static str,
    asked_at: i64,
    updated_at: i64,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = fetch_requests)]
struct ReadRequest {
    id: i64,
    pair: String,
    timeframe: String,
    from_ts: i64,
    to_ts: i64,
    state: String,
    note: String,
    asked_at: i64,
    updated_at: i64,
    reopened_at: Option<i64>,
}

impl ReadRequest {
    fn request(self) -> Result<FetchRequest, StoreError> {
        let state = RequestState::ALL
            .into_iter()
            .find(|state| state.as_str() == self.state)
            .ok_or_else(|| StoreError::corrupt(format!("unknown state of a request \"{}\"", self.state)))?;
        Ok(FetchRequest {
            id: self.id,
            pair: rows::pair(&self.pair)?,
            timeframe: rows::timeframe(&self.timeframe)?,
            span: Timestamp(self.from_ts)..Timestamp(self.to_ts),
            state,
            note: self.note,
            asked_at: Timestamp(self.asked_at),
            updated_at: Timestamp(self.updated_at),
            reopened_at: self.reopened_at.map(Timestamp),
        })
    }
}

const OPEN: [&str; 2] = [RequestState::Asked.as_str(), RequestState::Taken.as_str()];

/// Makes requests, or finds the open ones that ask as much or more; answers their ids in order.
pub(super) fn ask(
    connection: &mut Connection,
    wanted: &[(Pair, Timeframe, Range<Timestamp>)],
    now: Timestamp,
) -> Result<Vec<i64>, StoreError> {
    let mut open_ones = 0;
    let mut known: HashMap<_, Vec<(Range<Timestamp>, i64)>> = HashMap::new();
    for request in open(connection)? {
        open_ones += 1;
        known.entry((request.pair, request.timeframe)).or_default().push((request.span, request.id));
    }
    let mut ids = Vec::with_capacity(wanted.len());
    for (pair, timeframe, span) in wanted {
        assert!(span.start < span.end, "a request for nothing: {pair} {timeframe} {span:?}");
        let known = known.entry((*pair, *timeframe)).or_default();
        let holds = |(of, _): &&(Range<Timestamp>, i64)| of.start <= span.start && span.end <= of.end;
        if let Some((_, id)) = known.iter().find(holds) {
            ids.push(*id);
            continue;
        }
        if open_ones >= OPEN_REQUESTS_MAX {
            return Err(StoreError::TooManyRequests { most: OPEN_REQUESTS_MAX });
        }
        let text = PairText::new(*pair);
        let row = RequestRow {
            pair: text.as_str(),
            timeframe: timeframe.as_str(),
            from_ts: span.start.0,
            to_ts: span.end.0,
            state: RequestState::Asked.as_str(),
            note: "",
            asked_at: now.0,
            updated_at: now.0,
        };
        let id: i64 = on_backend!(connection, connection => {
            diesel::insert_into(fetch_requests::table)
                .values(&row)
                .returning(fetch_requests::id)
                .get_result(connection)
        })?;
        known.push((span.clone(), id));
        open_ones += 1;
        ids.push(id);
    }
    forget_oldest(connection, now)?;
    Ok(ids)
}

/// Deletes the oldest requests that are not open, as far as there are too many in all.
fn forget_oldest(connection: &mut Connection, now: Timestamp) -> Result<(), StoreError> {
    let kept: i64 =
        on_backend!(connection, connection => fetch_requests::table.count().get_result(connection))?;
    let excess = kept - REQUESTS_MAX as i64;
    if excess <= 0 {
        return Ok(());
    }
    let young = now.plus(-REOPENED_KEPT_S).0;
    let oldest: Vec<i64> = on_backend!(connection, connection => {
        fetch_requests::table
            .filter(fetch_requests::state.ne_all(OPEN))
            .filter(fetch_requests::reopened_at.is_null().or(fetch_requests::reopened_at.le(young)))
            .order(fetch_requests::id.asc())
            .limit(excess)
            .select(fetch_requests::id)
            .load(connection)
    })?;
    if (oldest.len() as i64) < excess {
        return Err(StoreError::TooManyRequests { most: REQUESTS_MAX });
    }
    let Some(last) = oldest.last() else { return Ok(()) };
    on_backend!(connection, connection => {
        diesel::delete(
            fetch_requests::table
                .filter(fetch_requests::state.ne_all(OPEN))
                .filter(fetch_requests::reopened_at.is_null().or(fetch_requests::reopened_at.le(young)))
                .filter(fetch_requests::id.le(*last)),
        )
        .execute(connection)
    })?;
    Ok(())
}

/// Every request of one pair and length that is remembered, in the order asked.
pub(super) fn of(
    connection: &mut Connection,
    pair: Pair,
    timeframe: Timeframe,
) -> Result<Vec<FetchRequest>, StoreError> {
    let text = PairText::new(pair);
    let rows: Vec<ReadRequest> = on_backend!(connection, connection => {
        fetch_requests::table
            .filter(fetch_requests::pair.eq(text.as_str()))
            .filter(fetch_requests::timeframe.eq(timeframe.as_str()))
            .order(fetch_requests::id.asc())
            .select(ReadRequest::as_select())
            .load(connection)
    })?;
    rows.into_iter().map(ReadRequest::request).collect()
}

/// Requests asked or taken, in the order asked.
pub(super) fn open(connection: &mut Connection) -> Result<Vec<FetchRequest>, StoreError> {
    let rows: Vec<ReadRequest> = on_backend!(connection, connection => {
        fetch_requests::table
            // Of a list diesel makes a statement that is prepared anew each time, and this is asked all the time.
            .filter(fetch_requests::state.eq(OPEN[0]).or(fetch_requests::state.eq(OPEN[1])))
            .order(fetch_requests::id.asc())
            .select(ReadRequest::as_select())
            .load(connection)
    })?;
    rows.into_iter().map(ReadRequest::request).collect()
}

/// One request, if it is still remembered.
pub(super) fn find(connection: &mut Connection, id: i64) -> Result<Option<FetchRequest>, StoreError> {
    let row: Option<ReadRequest> = on_backend!(connection, connection => {
        fetch_requests::table
            .find(id)
            .select(ReadRequest::as_select())
            .get_result(connection)
            .optional()
    })?;
    row.map(ReadRequest::request).transpose()
}

/// The requests of one pair and length that have reopened lost buckets since `since`, in the order asked.
pub(super) fn reopened(
    connection: &mut Connection,
    pair: Pair,
    timeframe: Timeframe,
    since: Timestamp,
) -> Result<Vec<Reopened>, StoreError> {
    let text = PairText::new(pair);
    let rows: Vec<(i64, i64, i64, Option<i64>)> = on_backend!(connection, connection => {
        fetch_requests::table
            .filter(fetch_requests::pair.eq(text.as_str()))
            .filter(fetch_requests::timeframe.eq(timeframe.as_str()))
            .filter(fetch_requests::reopened_at.gt(since.0))
            .order(fetch_requests::id.asc())
            .select((
                fetch_requests::id,
                fetch_requests::from_ts,
                fetch_requests::to_ts,
                fetch_requests::reopened_at,
            ))
            .load(connection)
    })?;
    let reopened = rows.into_iter().filter_map(|(id, from, to, at)| {
        Some(Reopened { id, span: Timestamp(from)..Timestamp(to), at: Timestamp(at?) })
    });
    Ok(reopened.collect())
}

/// Writes down that a request has lost buckets asked for again.
pub(super) fn set_reopened(connection: &mut Connection, id: i64, now: Timestamp) -> Result<(), StoreError> {
    on_backend!(connection, connection => {
        diesel::update(fetch_requests::table.find(id))
            .set(fetch_requests::reopened_at.eq(now.0))
            .execute(connection)
    })?;
    Ok(())
}

/// Writes down what has become of a request; answers whether it is still remembered.
pub(super) fn set(
    connection: &mut Connection,
    id: i64,
    state: RequestState,
    note: &str,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let changed = on_backend!(connection, connection => {
        diesel::update(fetch_requests::table.find(id))
            .set((
                fetch_requests::state.eq(state.as_str()),
                fetch_requests::note.eq(cut(note)),
                fetch_requests::updated_at.eq(now.0),
            ))
            .execute(connection)
    })?;
    Ok(changed > 0)
}
