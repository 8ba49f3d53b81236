//! HealerActor: reads the ledger, has holes fetched, tells the aggregator.
//!
//! One path for first start, restart, reconnect, unconfirmed closes and what is asked for by hand:
//! whatever is missing in the ledger is planned for, and the first request of the plan is made;
//! then the ledger is read again. Woken when the aggregator has recorded holes and by timers.
//! Holds nothing that the database does not have, but for a pause while IG is in trouble.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use tokio::sync::Mutex;

use super::anchor;
use super::attempts::{Attempt, Attempts};
use super::book::{self, Scope, Watched};
use super::facts::{self, Reading};
use super::holes::{Kind, Page};
use super::outcome;
use super::plan::{
    self, BARS_PER_REQUEST_MAX, BARS_PER_REQUEST_MIN, GiveUp, Now, Plan, Purse, Request, Terms, Why,
};
use super::wishes;
use crate::clock::{self, Clock, EventClock};
use crate::config::Retention;
use crate::domain::{Fact, FactBatch, Mark, Pair, Timeframe, Timestamp};
use crate::failpoint;
use crate::ig::IgError;
use crate::messages::{FetchBars, HistoryError, HistoryTold, HolesRecorded};
use crate::stats::Stats;
use crate::store::{AllowanceKey, AttemptKey, AttemptRow, Store, StoreError, StoreHandle};
use crate::supervisor::{Lifeline, Line, Pulse, watched_over};

mod handing;

/// How often the ledger is looked at without being called.
pub const LOOK_EVERY: Duration = Duration::from_secs(30);
/// From one step to the next: what the database is asked meanwhile, each with a limit of its own.
const STEP_WITHIN: Duration = Duration::from_secs(900);
/// A look at a timer that is so late does not come any more.
const LOOKS_WITHIN: Duration = Duration::from_secs(300);
/// Pause before findings are told again to an aggregator that was not there.
const TELL_AGAIN: Duration = Duration::from_millis(200);
/// How often somebody's wishes are looked for, and the end of a pause.
const WISHES_EVERY: Duration = Duration::from_secs(5);
/// Pause after a request of which nobody knows what became; doubles up to the last. Meanwhile single
/// bars are asked for.
const TROUBLE_PAUSE_FIRST: Duration = Duration::from_secs(5);
const TROUBLE_PAUSE_LAST: Duration = Duration::from_secs(30);
/// How far from a hole a stored bucket is looked for: beyond a weekend, and the week's middle, seconds.
const ANCHOR_WITHIN_S: i64 = 4 * 86_400;
/// Remembers that IG refuses large requests: how many bars it takes, and since when.
pub const SETTING_BARS_MAX: &str = "history.bars_per_request";
/// After this larger requests are tried again, seconds.
const BARS_MAX_HOLDS_S: i64 = 7 * 86_400;
/// Why healing is not as it should be, for `status`: since when, and in words.
pub const SETTING_TROUBLE: &str = "history.trouble";
/// The evidence of what is given up.
const GIVEN_UP_EVIDENCE: &str = "healer";

/// What a healer goes by.
#[derive(Clone, Debug)]
pub struct HealerSettings {
    /// The watched pairs, in the order of their [`FeedIx`](crate::domain::FeedIx).
    pub feeds: Vec<Watched>,
    /// Whose allowance is spent.
    pub allowance: AllowanceKey,
    /// Points that backfill and old holes leave untouched.
    pub reserve: u32,
    /// Most points for one incident within a week.
    pub incident_cap: u32,
    /// Whether 15-minute bars are kept.
    pub quarters: bool,
    /// When a missing bucket is lost.
    pub give_up: GiveUp,
    /// Pairs whose time goes on being accounted for by the aggregator.
    pub accounted: Vec<Pair>,
    /// How long bars are kept: what is older is not fetched.
    pub retention: Retention,
    /// What healing is confined to.
    pub scope: Scope,
}

/// House → HealerActor: the process ends, so nothing more is asked for. Answered once what was being fetched
/// has been handed on.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct StopHealing;

/// Keeps the ledger free of holes.
pub struct HealerActor {
    healer: Rc<Healer>,
    _lifeline: Lifeline,
}

struct Healer {
    store: StoreHandle,
    history: Line<FetchBars>,
    aggregator: Line<HistoryTold>,
    clock: Clock,
    event_clock: EventClock,
    settings: HealerSettings,
    stats: Arc<Stats>,
    pulse: Pulse,
    /// Called again while at work.
    called: Cell<bool>,
    /// Somebody's wishes are being looked for.
    is_looking: Cell<bool>,
    /// No more is to be asked for.
    has_stopped: Cell<bool>,
    work: Mutex<Work>,
}

struct Work {
    attempts: Attempts,
    /// The attempts as they are in the database; `None` before they are read.
    kept: Option<HashMap<AttemptKey, (u32, Timestamp)>>,
    /// How many bars IG takes at a time, and since when that is known.
    bars_max: Option<(u32, Timestamp)>,
    /// Until when IG is left alone, and the pause that led to it.
    trouble: Option<(Instant, Duration)>,
    /// What the database says of the trouble; `None` before it was read.
    told_trouble: Option<String>,
    /// What was last said about buckets that wait.
    said: Option<BTreeSet<&'static str>>,
}

impl HealerActor {
    /// A healer that has looked at nothing yet.
    pub fn new(
        store: StoreHandle,
        history: Line<FetchBars>,
        aggregator: Line<HistoryTold>,
        (clock, event_clock): (Clock, EventClock),
        settings: HealerSettings,
        stats: Arc<Stats>,
        lifeline: Lifeline,
    ) -> HealerActor {
        let work = Work {
            attempts: Attempts::default(),
            kept: None,
            bars_max: None,
            trouble: None,
            told_trouble: None,
            said: None,
        };
        let (called, work) = (Cell::new(false), Mutex::new(work));
        let pulse = lifeline.pulse().clone();
        let healer = Healer {
            store,
            history,
            aggregator,
            clock,
            event_clock,
            settings,
            stats,
            pulse,
            called,
            is_looking: Cell::new(false),
            has_stopped: Cell::new(false),
            work,
        };
        HealerActor { healer: Rc::new(healer), _lifeline: lifeline }
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        let healer = self.healer.clone();
        ctx.spawn(async move { healer.reconcile().await }.into_actor(self));
    }

    fn look_for_wishes(&mut self, ctx: &mut Context<Self>) {
        let healer = self.healer.clone();
        if healer.work.try_lock().is_ok() {
            healer.pulse.step(LOOKS_WITHIN);
        }
        // One look at a time: a database that hangs is not to be asked again and again.
        if healer.is_looking.replace(true) {
            return;
        }
        let wishes = async move {
            let has_some = healer.may_try_again() || healer.has_new_wishes().await;
            healer.is_looking.set(false);
            has_some
        };
        ctx.spawn(wishes.into_actor(self).map(|has_some, act, ctx| {
            if has_some {
                act.look(ctx);
            }
        }));
    }
}

impl Actor for HealerActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.look(ctx);
        let looks = clock::beats(LOOK_EVERY).into_actor(self).map(|(), act, ctx| act.look(ctx));
        ctx.spawn(looks.finish());
        let wishes = clock::beats(WISHES_EVERY).into_actor(self).map(|(), act, ctx| act.look_for_wishes(ctx));
        ctx.spawn(wishes.finish());
    }
}

watched_over!(HealerActor);

impl Handler<HolesRecorded> for HealerActor {
    type Result = ();

    fn handle(&mut self, _: HolesRecorded, ctx: &mut Self::Context) {
        self.look(ctx);
    }
}

impl Handler<StopHealing> for HealerActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: StopHealing, _: &mut Self::Context) -> Self::Result {
        let healer = self.healer.clone();
        healer.has_stopped.set(true);
        Box::pin(async move { drop(healer.work.lock().await) })
    }
}

/// What the database knows that a plan rests on.
struct Known {
    pages: Vec<Page>,
    purse: Purse,
    /// Stretches in which open requests have reopened lost buckets.
    reopened: Vec<(Pair, Timeframe, Range<Timestamp>)>,
}

impl Healer {
    /// Heals until nothing is left that can be healed now. A call while at work is not lost.
    async fn reconcile(&self) {
        self.called.set(true);
        let Ok(mut work) = self.work.try_lock() else { return };
        // What is at work makes steps; with nothing at work the timer does.
        self.pulse.step(STEP_WITHIN);
        failpoint::in_task("healer.look").await;
        while self.called.replace(false) {
            let outcome = async {
                self.remember(&mut work).await?;
                while !self.ledger_lags() && !self.has_stopped.get() {
                    self.pulse.step(STEP_WITHIN);
                    self.take_wishes(&mut work).await?;
                    let goes_on = self.heal_one(&mut work).await?;
                    self.end_wishes().await?;
                    if !goes_on {
                        break;
                    }
                }
                self.keep_attempts(&mut work).await
            };
            if let Err(error) = outcome.await {
                log::warn!(error:% = error, again_within_s = LOOK_EVERY.as_secs(); "healing waits for the database");
                break;
            }
        }
    }

    /// Whether the ledger lacks what waits in the spool: a plan that goes by it would buy bars that
    /// are there. The next look finds it complete.
    fn ledger_lags(&self) -> bool {
        self.stats.facts_spooled.get() > 0
    }

    /// Whether a pause has ended and nobody is at work.
    fn may_try_again(&self) -> bool {
        let trouble = self.work.try_lock().ok().and_then(|work| work.trouble);
        trouble.is_some_and(|(until, _)| self.clock.monotonic() >= until)
    }

    /// Reads what earlier processes have learnt.
    async fn remember(&self, work: &mut Work) -> Result<(), StoreError> {
        if work.kept.is_some() {
            return Ok(());
        }
        let read = |store: &mut Store| Ok((store.attempts()?, store.setting(SETTING_BARS_MAX)?));
        let (rows, setting) = self.store.run(read).await?;
        work.attempts = Attempts::from_kept(rows.iter().map(|row| {
            let attempt = Attempt { span: row.span.clone(), times: row.times, next_at: row.next_at };
            (row.pair, row.timeframe, attempt)
        }));
        let kept = |row: AttemptRow| ((row.pair, row.timeframe, row.span), (row.times, row.next_at));
        work.kept = Some(rows.into_iter().map(kept).collect());
        work.bars_max = setting.as_deref().and_then(read_bars_max);
        Ok(())
    }

    /// Makes the first request that can be made now. False when there is none, or no point in
    /// making another at once.
    async fn heal_one(&self, work: &mut Work) -> Result<bool, StoreError> {
        let Some(event) = self.event_clock.settled() else { return Ok(false) };
        let now = Now { event, wall: self.clock.wall() };
        let Known { pages, purse, reopened } = self.read(now.wall).await?;
        let remaining = if purse.refused.is_some() { 0 } else { purse.remaining };
        self.stats.allowance_remaining.set(remaining.into());
        let both = [Timeframe::M5, Timeframe::M15];
        let missing =
            pages.iter().flat_map(|page| both.map(|timeframe| page.buckets_missing(timeframe))).sum();
        self.stats.buckets_missing.set(missing);
        work.attempts.forget(|pair, timeframe, span| {
            pages.iter().any(|page| page.pair == pair && page.wants(timeframe, span))
        });
        let lost = plan::given_up(&pages, &work.attempts, &reopened, self.settings.give_up, event);
        if !lost.is_empty() {
            return self.give_up(lost).await;
        }
        let is_refused = purse.refused.is_some();
        let is_left_alone = work.trouble.is_some_and(|(until, _)| self.clock.monotonic() < until);
        let terms = self.terms(work);
        let pages = self.settings.scope.narrow(pages);
        let plan = plan::plan(&pages, &work.attempts, &purse, &terms, now);
        self.tell_waiting(work, &plan, is_refused);
        self.keep_attempts(work).await?;
        let is_probe = plan.is_probe;
        let Some(request) = plan.requests.into_iter().next().filter(|_| !is_left_alone) else {
            return Ok(false);
        };
        // Of the last one nobody knows whether it was charged: this one is to cost little.
        let request = if work.trouble.is_some() { request.smallest() } else { request };
        let fetched = self.fetch(&request, is_probe).await;
        if was_answered(&fetched) {
            let pair = self.settings.feeds[request.feed.ix()].pair;
            let asked = fetched.as_ref().ok().unwrap_or(&request.span).clone();
            work.attempts.note(pair, request.timeframe, asked, self.clock.wall());
        }
        self.judge(work, &request, fetched).await
    }

    /// What came of a request; whether to make another at once.
    async fn judge(
        &self,
        work: &mut Work,
        request: &Request,
        fetched: Result<Range<Timestamp>, HistoryError>,
    ) -> Result<bool, StoreError> {
        let pair = self.settings.feeds[request.feed.ix()].pair;
        let timeframe = request.timeframe;
        if matches!(
            fetched,
            Ok(_) | Err(HistoryError::Unproven(_) | HistoryError::Ig(IgError::AllowanceSpent(_)))
        ) {
            // IG answers.
            work.trouble = None;
            self.tell_trouble(work, String::new()).await?;
        }
        match fetched {
            Ok(_) => Ok(true),
            Err(HistoryError::Store(error)) => Err(error),
            Err(HistoryError::NotAffordable { .. } | HistoryError::NoTimeYet) => Ok(false),
            Err(HistoryError::Ig(IgError::AllowanceSpent(code))) => {
                log::warn!(code = code.as_str(); "IG says that the week's points are spent; healing tries again with single bars");
                Ok(false)
            }
            Err(HistoryError::Ig(IgError::Refused(code))) => {
                log::warn!(pair:% = pair, timeframe:% = timeframe, code = code.as_str(); "IG refused a request for history");
                if !IgError::Refused(code).came_before_any_history() {
                    self.step_back(work, request).await?;
                }
                Ok(true)
            }
            Err(error @ HistoryError::NoTokens(_)) => {
                log::warn!(error:% = error; "healing waits");
                self.tell_trouble(work, error.to_string()).await?;
                Ok(false)
            }
            // Another hole may tell the zone, or be on a scale that is known.
            Err(HistoryError::ScaleInDoubt | HistoryError::ZoneUnknown) => Ok(true),
            Err(HistoryError::Unproven(error)) => {
                log::warn!(pair:% = pair, timeframe:% = timeframe, error:% = error; "an answer proves nothing, the hole stays");
                Ok(true)
            }
            Err(HistoryError::Ig(error)) => {
                if let Some(pause) = outcome::refused_pause(&error, work.trouble.map(|(_, pause)| pause)) {
                    work.trouble = Some((self.clock.monotonic() + pause, pause));
                }
                if !error.came_before_any_history() {
                    self.step_back(work, request).await?;
                }
                log::warn!(error:% = error; "healing waits");
                self.tell_trouble(work, error.to_string()).await?;
                Ok(false)
            }
        }
    }

    /// Has `status` know what is the matter, or that nothing is.
    async fn tell_trouble(&self, work: &mut Work, what: String) -> Result<(), StoreError> {
        if work.told_trouble.as_ref() == Some(&what) {
            return Ok(());
        }
        let value = if what.is_empty() { String::new() } else { format!("{} {what}", self.clock.wall().0) };
        self.store.run(move |store| store.set_setting(SETTING_TROUBLE, &value)).await?;
        work.told_trouble = Some(what);
        Ok(())
    }

    /// A request may have been charged that brought nothing: the next one is small, and not at once. Some
    /// accounts are refused large ones, so half as many bars are asked for from then on.
    async fn step_back(&self, work: &mut Work, request: &Request) -> Result<(), StoreError> {
        let pause = work.trouble.map_or(TROUBLE_PAUSE_FIRST, |(_, pause)| pause * 2).min(TROUBLE_PAUSE_LAST);
        work.trouble = Some((self.clock.monotonic() + pause, pause));
        if request.points <= BARS_PER_REQUEST_MIN {
            return Ok(());
        }
        let now = self.clock.wall();
        let bars = (request.points / 2).max(BARS_PER_REQUEST_MIN).min(self.bars_max(work));
        work.bars_max = Some((bars, now));
        log::warn!(bars_max = bars; "asking for fewer bars at a time");
        let value = format!("{bars} {}", now.0);
        self.store.run(move |store| store.set_setting(SETTING_BARS_MAX, &value)).await
    }

    /// How many bars IG takes at a time, as far as is known.
    fn bars_max(&self, work: &Work) -> u32 {
        let known = work.bars_max.and_then(|known| bars_max(known, self.clock.wall()));
        known.unwrap_or(BARS_PER_REQUEST_MAX)
    }

    fn terms(&self, work: &Work) -> Terms {
        Terms {
            reserve: self.settings.reserve,
            incident_cap: self.settings.incident_cap,
            bars_max: self.bars_max(work),
            quarters: self.settings.quarters,
            reaching_now: u32::from(self.event_clock.is_steady()),
        }
    }

    async fn read(&self, wall: Timestamp) -> Result<Known, StoreError> {
        let key = self.settings.allowance.clone();
        let read = move |store: &mut Store| {
            store.consistently(|store| {
                Ok((store.since_oldest_missing()?, store.allowance(&key, wall)?, store.open_requests()?))
            })
        };
        let (runs, allowance, open) = self.store.run(read).await?;
        let reopened = open.into_iter().filter(|wish| wish.reopened_at.is_some());
        Ok(Known {
            pages: book::pages(runs, &self.settings.feeds),
            purse: book::purse(&allowance, wall),
            reopened: reopened
                .map(|wish| (wish.pair, wish.timeframe, wishes::buckets(&wish.span, wish.timeframe)))
                .collect(),
        })
    }

    /// Tells the aggregator what nobody can bring any more; whether the ledger has changed.
    async fn give_up(&self, lost: Vec<Mark>) -> Result<bool, StoreError> {
        for mark in &lost {
            log::error!(pair:% = mark.pair, timeframe:% = mark.timeframe, from:% = mark.span.start, to:% = mark.span.end; "buckets could not be healed in time and are lost");
        }
        self.tell(GIVEN_UP_EVIDENCE.into(), lost.into_iter().map(Fact::Marked).collect()).await
    }

    /// Says once, and again when it changes, that buckets wait.
    fn tell_waiting(&self, work: &mut Work, plan: &Plan, is_refused: bool) {
        let mut whys: BTreeSet<&'static str> = plan
            .waiting
            .iter()
            .map(|waiting| match waiting.why {
                Why::Points => "the allowance is short",
                Why::Incident => "the incident has had its share of the week",
            })
            .collect();
        if is_refused {
            whys = [("the week's points are spent")].into();
        }
        let buckets = plan.buckets_waiting();
        if buckets == 0 && !is_refused {
            whys.clear();
        }
        if !whys.is_empty() && work.said.as_ref() != Some(&whys) {
            let why = whys.iter().copied().collect::<Vec<_>>().join(", ");
            log::warn!(why = why.as_str(), buckets; "healing waits for points");
        }
        work.said = Some(whys);
    }

    /// Brings the database up to date with the attempts.
    async fn keep_attempts(&self, work: &mut Work) -> Result<(), StoreError> {
        let known: HashMap<AttemptKey, (u32, Timestamp)> = work
            .attempts
            .all()
            .map(|(pair, timeframe, attempt)| {
                ((pair, timeframe, attempt.span.clone()), (attempt.times, attempt.next_at))
            })
            .collect();
        let Some(kept) = &work.kept else { return Ok(()) };
        if *kept == known {
            return Ok(());
        }
        let gone: Vec<AttemptKey> = kept.keys().filter(|key| !known.contains_key(*key)).cloned().collect();
        let news: Vec<AttemptRow> = known
            .iter()
            .filter(|(key, value)| kept.get(*key) != Some(*value))
            .map(|((pair, timeframe, span), (times, next_at))| AttemptRow {
                pair: *pair,
                timeframe: *timeframe,
                span: span.clone(),
                times: *times,
                next_at: *next_at,
            })
            .collect();
        let write = move |store: &mut Store| {
            store.forget_attempts(&gone)?;
            news.iter().try_for_each(|row| store.put_attempt(row))
        };
        self.store.run(write).await?;
        work.kept = Some(known);
        Ok(())
    }

    /// Fetches and hands the answer on; returns what was asked for, once the answer is durable, so that
    /// the ledger read next knows of it.
    async fn fetch(&self, request: &Request, probe: bool) -> Result<Range<Timestamp>, HistoryError> {
        let anchor = self.anchor(request).await?;
        let message = FetchBars { request: request.clone(), anchor, probe };
        let fetched = match self.pulse.waiting(self.history.send(message), STEP_WITHIN).await {
            Ok(result) => result?,
            Err(_) => return Err(IgError::Unreachable("the history room is being rebuilt".to_owned()).into()),
        };
        let Watched { pair, calendar } = &self.settings.feeds[request.feed.ix()];
        let (pair, timeframe) = (*pair, request.timeframe);
        let now = self.event_clock.settled().ok_or(HistoryError::NoTimeYet)?;
        let reading = Reading { calendar, now };
        let facts = facts::facts(pair, timeframe, &fetched, &reading);
        // Every bucket may have some: the summary counts them.
        log::debug!(
            pair:% = pair, timeframe:% = timeframe, bars = fetched.rows.len(),
            from:% = fetched.covered.start, to:% = fetched.covered.end;
            "history fetched"
        );
        self.tell(fetched.evidence, facts).await?;
        Ok(fetched.asked)
    }

    /// Has facts stored; whether there were any.
    async fn tell(&self, evidence: Arc<str>, facts: Vec<Fact>) -> Result<bool, StoreError> {
        if facts.is_empty() {
            return Ok(false);
        }
        let batch = FactBatch { evidence, facts };
        // One that is being built anew hears of it in its turn: points were paid for it.
        while self.pulse.waiting(self.aggregator.send(HistoryTold(batch.clone())), STEP_WITHIN).await.is_err()
        {
            actix_rt::time::sleep(TELL_AGAIN).await;
        }
        Ok(true)
    }

    /// A stored bucket near the hole.
    async fn anchor(&self, request: &Request) -> Result<Option<Timestamp>, StoreError> {
        if request.kind == Kind::Seen {
            // An empty answer proves nothing of it, so no point is spent on believing one.
            return Ok(None);
        }
        let Request { timeframe, span, .. } = request.clone();
        let pair = self.settings.feeds[request.feed.ix()].pair;
        let around = span.start.plus(-ANCHOR_WITHIN_S)..span.end.plus(ANCHOR_WITHIN_S);
        let runs = self.store.run(move |store| store.coverage(pair, timeframe, around)).await?;
        Ok(self.event_clock.settled().and_then(|now| anchor::anchor(&runs, timeframe, &span, now)))
    }
}

/// Whether asking again at once would be asking the same twice. What nobody knows the outcome of may
/// have been charged, and may be again; and others are to have their turn.
fn was_answered(fetched: &Result<Range<Timestamp>, HistoryError>) -> bool {
    match fetched {
        Ok(_) | Err(HistoryError::Unproven(_) | HistoryError::ZoneUnknown | HistoryError::ScaleInDoubt) => {
            true
        }
        Err(HistoryError::Ig(IgError::Refused(_) | IgError::Malformed(_) | IgError::NotIg(_))) => true,
        Err(HistoryError::Ig(error)) => !error.came_before_any_history(),
        Err(
            HistoryError::NotAffordable { .. }
            | HistoryError::Store(_)
            | HistoryError::NoTimeYet
            | HistoryError::NoTokens(_),
        ) => false,
    }
}

/// Reads how many bars IG takes at a time, and since when that is known.
pub fn read_bars_max(kept: &str) -> Option<(u32, Timestamp)> {
    let (bars, since) = kept.split_once(' ')?;
    Some((bars.parse().ok()?, Timestamp(since.parse().ok()?)))
}

/// How many bars IG takes at a time, while what is known of it holds at wall time `now`.
pub fn bars_max((bars, since): (u32, Timestamp), now: Timestamp) -> Option<u32> {
    let holds = (0..BARS_MAX_HOLDS_S).contains(&now.since(since));
    (holds && (BARS_PER_REQUEST_MIN..=BARS_PER_REQUEST_MAX).contains(&bars)).then_some(bars)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_before_it_was_asked_for_is_no_attempt() {
        let refused = || IgError::Refused("some.new.code".to_owned());
        let malformed = || IgError::Malformed("HTTP 403, <html>".to_owned());
        for error in [refused(), malformed()] {
            assert!(was_answered(&Err(HistoryError::Ig(error.clone()))), "{error}");
            assert!(!was_answered(&Err(HistoryError::NoTokens(error.clone()))), "{error}");
        }
        assert!(!was_answered(&Err(HistoryError::NoTimeYet)));
        assert!(!was_answered(&Err(HistoryError::NotAffordable { cost: 2, available: 1 })));
    }
}
