//! Requests to have bars fetched: written down for the healer, which decides, within the allowance, what comes of them.

use std::ops::Range;

use super::asked::{self, Wrong};
use super::bars::{Answer, Judge};
use super::views::{FetchView, ProgressView};
use super::{OrderStretch, SayWait, Stretch};
use crate::completeness::calendar_of;
use crate::domain::{State, Timeframe, Timestamp};
use crate::healer::wishes::{self, Progress};
use crate::store::{FetchRequest, RequestState, Store, StoreError};

/// When to come again where too many requests are open, seconds.
pub const RETRY_AFTER_S: &str = "60";

/// Writes a request down for what is missing or can be reopened of a stretch. While one is open that asks for all of
/// it, it is that one; and so it is where nothing is new to the ledger, which has what is missing fetched anyway.
///
/// # Errors
/// Those of any write.
pub fn ask(
    store: &mut Store,
    judge: Judge<'_>,
    (order, wait): (&OrderStretch, &SayWait),
    asked: asked::Fetch,
) -> Answer<FetchView> {
    let asked::Fetch { pair, timeframe, what } = asked;
    if let Err(wrong) = judge.is_known(pair, timeframe) {
        return Ok(Err(wrong));
    }
    let span = match what {
        asked::Stretch::Span(span) => {
            let now = judge.now(store)?;
            if let Err(wrong) = judge.has_begun(Some(span.start), now) {
                return Ok(Err(wrong));
            }
            span
        }
        asked::Stretch::Newest(count) => {
            let (calendar, end) =
                (calendar_of(store, judge.config, pair)?, timeframe.bucket(judge.now(store)?));
            let parts = (timeframe.minutes() / Timeframe::M5.minutes()) as usize;
            timeframe.bucket(calendar.back_from(end, count as usize * parts))..end
        }
    };
    let mut stretches = match order((pair, timeframe, span.clone())) {
        Ok(stretches) => stretches,
        Err(why) => return Ok(Err(Wrong::new(400, "bad_range", why))),
    };
    for stretch in &mut stretches {
        if let Err(wrong) = asked::no_longer_than(&span, asked::BUCKETS_MAX * stretch.1.seconds()) {
            return Ok(Err(wrong));
        }
        let Some(wanted) = wanted(store, judge, stretch)? else { continue };
        if let Some(id) = wanted.open {
            return look(store, wait, id);
        }
        stretch.2 = wanted.span;
    }
    let ids = match store.ask_fetch(&stretches, judge.clock.wall()) {
        Ok(ids) => ids,
        Err(error @ StoreError::TooManyRequests { .. }) => {
            return Ok(Err(Wrong::new(429, "too_many_requests", error)));
        }
        Err(error) => return Err(error),
    };
    // One pair and length is one stretch.
    match ids.first() {
        Some(id) => look(store, wait, *id),
        None => Ok(Err(Wrong::new(400, "bad_range", "there is nothing to fetch in that time"))),
    }
}

/// What is to be asked for of a stretch.
struct Wanted {
    /// From the first bucket that is missing, or would be, to the last.
    span: Range<Timestamp>,
    /// An open request that is about some of it, where the ledger has all of it as missing already.
    open: Option<i64>,
}

/// None where nothing is missing nor can be reopened.
fn wanted(
    store: &mut Store,
    judge: Judge<'_>,
    (pair, timeframe, span): &Stretch,
) -> Result<Option<Wanted>, StoreError> {
    let (pair, timeframe, wall) = (*pair, *timeframe, judge.clock.wall());
    let (calendar, now) = (calendar_of(store, judge.config, pair)?, judge.now(store)?);
    // What is not accounted for yet is the aggregator's business.
    let accounted = store.covered_to(Timeframe::M5)?.get(&pair).copied();
    let end = accounted.filter(|_| timeframe == Timeframe::M5).map_or(now, |end| now.min(end));
    let span = wishes::whole(span, timeframe, end);
    let runs = store.coverage(pair, timeframe, span.clone())?;
    let resting = wishes::resting(&store.reopened(pair, timeframe, wall)?, None, timeframe, wall);
    let marks = wishes::marks(pair, timeframe, &span, &runs, &resting, &calendar);
    let new = marks.into_iter().filter(|mark| mark.state == State::Missing).map(|mark| mark.span);
    let new: Vec<Range<Timestamp>> = new.collect();
    let missing = runs.into_iter().filter(|run| run.state == State::Missing).map(|run| run.span);
    let hull =
        |one: Range<Timestamp>, other: Range<Timestamp>| one.start.min(other.start)..one.end.max(other.end);
    let Some(span) = missing.chain(new.iter().cloned()).reduce(hull) else { return Ok(None) };
    let meets = |open: &&FetchRequest| {
        (open.pair, open.timeframe) == (pair, timeframe)
            && open.span.start < span.end
            && span.start < open.span.end
    };
    let open = store.open_requests()?;
    let open = open.iter().filter(|_| new.is_empty()).rfind(meets).map(|open| open.id);
    Ok(Some(Wanted { span, open }))
}

/// What has become of a request. One that is taken, and of which nothing can be asked for now, waits: until when, and
/// why, `candlekeep candles --fetch` says in the same words.
///
/// # Errors
/// Those of any read.
pub fn look(store: &mut Store, wait: &SayWait, id: i64) -> Answer<FetchView> {
    let found = store.consistently(|store| {
        let Some(request) = store.requests(&[id])?.pop() else { return Ok(None) };
        let runs = store.coverage(request.pair, request.timeframe, request.span.clone())?;
        let progress = Progress::of(&runs, request.timeframe);
        Ok(Some((request, progress)))
    })?;
    let Some((request, progress)) = found else { return Ok(Err(unknown(&id))) };
    let FetchRequest { pair, timeframe, ref span, state, .. } = request;
    let told = match state == RequestState::Taken && progress.missing > 0 {
        true => wait(store, (pair, timeframe, wishes::buckets(span, timeframe))),
        false => Ok(None),
    };
    let waits = told.unwrap_or_else(|error| {
        // It is under way, for all that is known.
        log::debug!(id, error = error.as_str(); "whether a request waits cannot be told");
        None
    });
    Ok(Ok(FetchView::of(&request, ProgressView::of(progress), waits)))
}

/// There is no such request.
pub fn unknown(id: &dyn std::fmt::Display) -> Wrong {
    let id: String = id.to_string().chars().take(20).collect();
    Wrong::new(
        404,
        "unknown_fetch",
        format_args!("there is no request {id}, or it is too old to be remembered"),
    )
}
