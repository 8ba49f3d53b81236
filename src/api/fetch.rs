//! Requests to have bars fetched: written down for the healer, which decides, within the allowance, what comes of them.

use super::OrderStretch;
use super::asked::{self, Wrong};
use super::bars::{Answer, Judge};
use super::views::{FetchView, ProgressView};
use crate::completeness::calendar_of;
use crate::domain::Timeframe;
use crate::healer::wishes::Progress;
use crate::store::{FetchRequest, Store, StoreError};

/// When to come again where too many requests are open, seconds.
pub const RETRY_AFTER_S: &str = "60";

/// Writes a request down; the same again while it is open is that one.
///
/// # Errors
/// Those of any write.
pub fn ask(
    store: &mut Store,
    judge: Judge<'_>,
    order: &OrderStretch,
    asked: asked::Fetch,
) -> Answer<FetchView> {
    let asked::Fetch { pair, timeframe, what } = asked;
    if let Err(wrong) = judge.is_known(pair, timeframe) {
        return Ok(Err(wrong));
    }
    let span = match what {
        asked::Stretch::Span(span) => span,
        asked::Stretch::Newest(count) => {
            let (calendar, end) =
                (calendar_of(store, judge.config, pair)?, timeframe.bucket(judge.now(store)?));
            let parts = (timeframe.minutes() / Timeframe::M5.minutes()) as usize;
            timeframe.bucket(calendar.back_from(end, count as usize * parts))..end
        }
    };
    let stretches = match order((pair, timeframe, span)) {
        Ok(stretches) => stretches,
        Err(why) => return Ok(Err(Wrong::new(400, "bad_range", why))),
    };
    let ids = match store.ask_fetch(&stretches, judge.clock.wall()) {
        Ok(ids) => ids,
        Err(error @ StoreError::TooManyRequests { .. }) => {
            return Ok(Err(Wrong::new(429, "too_many_requests", error)));
        }
        Err(error) => return Err(error),
    };
    // One pair and length is one stretch.
    match ids.first() {
        Some(id) => look(store, *id),
        None => Ok(Err(Wrong::new(400, "bad_range", "there is nothing to fetch in that time"))),
    }
}

/// What has become of a request.
///
/// # Errors
/// Those of any read.
pub fn look(store: &mut Store, id: i64) -> Answer<FetchView> {
    store.consistently(|store| {
        let Some(request) = store.requests(&[id])?.pop() else {
            return Ok(Err(unknown(&id)));
        };
        let FetchRequest { pair, timeframe, ref span, .. } = request;
        let progress = Progress::of(&store.coverage(pair, timeframe, span.clone())?, timeframe);
        Ok(Ok(FetchView::of(&request, ProgressView::of(progress))))
    })
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
