//! HealerActor: reads the ledger, has holes fetched, tells the aggregator.
//!
//! One path for first start, restart, reconnect and unconfirmed closes: whatever is missing in
//! the ledger is asked for, newest first. Woken when the aggregator has recorded holes and by a
//! timer. Holds only which holes were asked about in vain; a restart forgets that.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::Mutex;

use super::plan::{self, Attempts, Hole, Kind};
use crate::clock::{Clock, EventClock};
use crate::domain::coverage::Run;
use crate::domain::{Calendar, FactBatch, FeedIx, Pair, State, Timeframe, Timestamp};
use crate::ig::IgError;
use crate::ig::history::actor::HistoryActor;
use crate::messages::{FetchBars, HistoryError, HistoryTold, HolesRecorded};
use crate::store::StoreHandle;
use crate::supervisor::Lifeline;

/// How often the ledger is looked at without being called.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Pause after the week's points were found spent; doubles up to the last.
const SPENT_PAUSE_FIRST: Duration = Duration::from_secs(60);
const SPENT_PAUSE_LAST: Duration = Duration::from_secs(3600);

/// How far from a hole a stored bucket is looked for: beyond a weekend, seconds.
const ANCHOR_WITHIN_S: i64 = 4 * 86_400;

/// Keeps the ledger free of holes.
pub struct HealerActor {
    healer: Rc<Healer>,
    _lifeline: Lifeline,
}

struct Healer {
    store: StoreHandle,
    history: Addr<HistoryActor>,
    aggregator: Recipient<HistoryTold>,
    /// The hours of each feed's market, by [`FeedIx`].
    calendars: Vec<Arc<Calendar>>,
    clock: Clock,
    event_clock: EventClock,
    pairs: Vec<Pair>,
    /// Timeframes that are asked for over REST.
    timeframes: Vec<Timeframe>,
    /// Called again while at work.
    called: Cell<bool>,
    work: Mutex<Work>,
}

#[derive(Default)]
struct Work {
    attempts: Attempts,
    spent_pause: Option<Duration>,
    blocked_until: Option<std::time::Instant>,
    short_of_points: bool,
}

impl HealerActor {
    /// A healer for these pairs, in the order of their [`FeedIx`].
    #[expect(clippy::too_many_arguments, reason = "one argument a neighbour")]
    pub fn new(
        store: StoreHandle,
        history: Addr<HistoryActor>,
        aggregator: Recipient<HistoryTold>,
        calendars: Vec<Arc<Calendar>>,
        (clock, event_clock): (Clock, EventClock),
        pairs: Vec<Pair>,
        timeframes: Vec<Timeframe>,
        lifeline: Lifeline,
    ) -> HealerActor {
        let (called, work) = (Cell::new(false), Mutex::new(Work::default()));
        let healer = Healer {
            store,
            history,
            aggregator,
            calendars,
            clock,
            event_clock,
            pairs,
            timeframes,
            called,
            work,
        };
        HealerActor { healer: Rc::new(healer), _lifeline: lifeline }
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        let healer = self.healer.clone();
        ctx.spawn(async move { healer.reconcile().await }.into_actor(self));
    }
}

impl Actor for HealerActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.look(ctx);
        ctx.run_interval(LOOK_EVERY, Self::look);
    }
}

impl Handler<HolesRecorded> for HealerActor {
    type Result = ();

    fn handle(&mut self, _: HolesRecorded, ctx: &mut Self::Context) {
        self.look(ctx);
    }
}

impl Healer {
    /// Heals until nothing is left that can be healed now. A call while at work is not lost.
    async fn reconcile(&self) {
        self.called.set(true);
        let Ok(mut work) = self.work.try_lock() else { return };
        while self.called.replace(false) {
            while self.heal_one(&mut work).await {}
        }
    }

    /// Asks about one hole. False when there is nothing to ask, or no point in asking now.
    async fn heal_one(&self, work: &mut Work) -> bool {
        let now = self.clock.monotonic();
        if work.blocked_until.is_some_and(|until| now < until) {
            return false;
        }
        let Some(event_now) = self.event_clock.settled() else { return false };
        let Some(holes) = self.holes(event_now).await else { return false };
        let Some(hole) = plan::next(&holes, &work.attempts, &self.calendars, event_now, now) else {
            return false;
        };
        let fetched = self.fetch(&hole, hole.is_urgent(event_now)).await;
        let now = self.clock.monotonic();
        if was_answered(&fetched) {
            work.attempts.note(&hole, now);
        }
        match fetched {
            Ok(()) => {
                (work.spent_pause, work.short_of_points) = (None, false);
                true
            }
            Err(HistoryError::NotAffordable { cost, available }) => {
                if !std::mem::replace(&mut work.short_of_points, true) {
                    log::warn!(cost, available, holes = holes.len(); "healing waits: the allowance is short");
                }
                false
            }
            Err(HistoryError::Ig(IgError::AllowanceSpent(code))) => {
                let pause =
                    work.spent_pause.map_or(SPENT_PAUSE_FIRST, |pause| (pause * 2).min(SPENT_PAUSE_LAST));
                log::warn!(code = code.as_str(), pause_s = pause.as_secs(); "healing waits: the week's points are spent");
                (work.spent_pause, work.blocked_until) = (Some(pause), Some(now + pause));
                false
            }
            Err(HistoryError::Ig(IgError::Refused(code))) => {
                let pair = self.pairs[hole.feed.ix()];
                log::warn!(pair:% = pair, timeframe:% = hole.timeframe, code = code.as_str(); "IG refused a request for history");
                true
            }
            // Another hole may tell the zone, or be on a scale that is known.
            Err(HistoryError::ScaleInDoubt | HistoryError::ZoneUnknown) => true,
            Err(HistoryError::Unproven(error)) => {
                let pair = self.pairs[hole.feed.ix()];
                log::warn!(pair:% = pair, timeframe:% = hole.timeframe, error:% = error; "an answer proves nothing, the hole stays");
                true
            }
            Err(HistoryError::NoTimeYet) => false,
            Err(error) => {
                log::warn!(error:% = error, again_within_s = LOOK_EVERY.as_secs(); "healing waits");
                false
            }
        }
    }

    async fn holes(&self, now: Timestamp) -> Option<Vec<Hole>> {
        let mut holes = Vec::new();
        for timeframe in self.timeframes.iter().copied() {
            match self.store.run(move |store| store.missing(timeframe)).await {
                Ok(missing) => holes.extend(plan::holes(&missing, timeframe, now, |pair| self.feed_of(pair))),
                Err(error) => {
                    log::warn!(error:% = error; "the ledger cannot be read");
                    return None;
                }
            }
        }
        Some(holes)
    }

    /// Fetches and hands the answer on; returns once it is durable, so that the ledger read next
    /// knows of it.
    async fn fetch(&self, hole: &Hole, urgent: bool) -> Result<(), HistoryError> {
        let anchor = self.anchor(hole).await?;
        let (feed, timeframe, span) = (hole.feed, hole.timeframe, hole.span.clone());
        let request = FetchBars { feed, timeframe, span, anchor, urgent };
        let fetched = match self.history.send(request).await {
            Ok(result) => result?,
            Err(_) => return Err(IgError::Retryable("the history room is being rebuilt".to_owned()).into()),
        };
        let pair = self.pairs[hole.feed.ix()];
        let facts = plan::facts(pair, hole.timeframe, &fetched, &self.calendars[hole.feed.ix()]);
        log::info!(
            pair:% = pair, timeframe:% = hole.timeframe, bars = fetched.rows.len(),
            from:% = fetched.covered.start, to:% = fetched.covered.end;
            "history fetched"
        );
        if !facts.is_empty() {
            let told = HistoryTold(FactBatch { evidence: fetched.evidence, facts });
            if self.aggregator.send(told).await.is_err() {
                return Err(IgError::Retryable("the aggregator is being rebuilt".to_owned()).into());
            }
        }
        Ok(())
    }

    /// A stored bucket near the hole, before it rather than after.
    async fn anchor(&self, hole: &Hole) -> Result<Option<Timestamp>, HistoryError> {
        if hole.kind == Kind::Seen {
            // An empty answer proves nothing of it, so no point is spent on believing one.
            return Ok(None);
        }
        let (pair, timeframe, span) = (self.pairs[hole.feed.ix()], hole.timeframe, hole.span.clone());
        let around = span.start.plus(-ANCHOR_WITHIN_S)..span.end.plus(ANCHOR_WITHIN_S);
        let runs = self.store.run(move |store| store.coverage(pair, timeframe, around)).await?;
        let stored = |run: &&Run| run.state == State::Stored;
        let before = runs.iter().rev().filter(stored).find(|run| run.span.end <= span.start);
        let after = runs.iter().filter(stored).find(|run| run.span.start >= span.end);
        let last_of = |run: &Run| run.span.end.plus(-timeframe.seconds());
        Ok(before.map(last_of).or(after.map(|run| run.span.start)))
    }

    fn feed_of(&self, pair: Pair) -> Option<FeedIx> {
        self.pairs.iter().position(|watched| *watched == pair).map(|ix| FeedIx(ix as u16))
    }
}

/// Whether asking again at once would be asking the same twice.
fn was_answered(fetched: &Result<(), HistoryError>) -> bool {
    match fetched {
        Ok(()) | Err(HistoryError::Unproven(_) | HistoryError::ZoneUnknown | HistoryError::ScaleInDoubt) => {
            true
        }
        Err(HistoryError::Ig(error)) => matches!(error, IgError::Refused(_) | IgError::Malformed(_)),
        Err(HistoryError::NotAffordable { .. } | HistoryError::Store(_) | HistoryError::NoTimeYet) => false,
    }
}
