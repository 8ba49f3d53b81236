//! HistoryActor: answers [`FetchBars`] over REST, inside IG's allowance and pace.
//!
//! Fed by the HealerActor alone. Requests are made one after the other; every spend is booked in
//! the database before it is made and settled after, and one whose outcome is unknown stays
//! booked as spent. A restart loses only what was learnt about zone and pace, and learns it again.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use tokio::sync::Mutex;

use super::answer::{self, Asked, Emptiness, Unproven};
use super::form::{self, Form};
use super::offsets::{self, Offsets};
use super::pace::Pace;
use super::zone::{self, Zone};
use crate::clock::{Clock, EventClock};
use crate::domain::scale::{self, Scale, Verdict};
use crate::domain::{Calendar, FeedIx, Fetched, FetchedBar, Price, Timeframe, Timestamp};
use crate::failpoint;
use crate::healer::holes::Kind;
use crate::healer::plan::Request;
use crate::ig::error::{IgError, RATE_LIMIT_PAUSE};
use crate::ig::markets::{self, Confirmed, Instrument};
use crate::ig::models::Prices;
use crate::ig::rest::RestClient;
use crate::ig::session::tokens::Tokens;
use crate::messages::{FetchBars, GetTokens, HistoryError, LearnTime, SessionLines, TokensRefused};
use crate::store::{AllowanceKey, AllowanceSeen, SpendId, SpendOn, StoreError, StoreHandle};
use crate::supervisor::{Lifeline, Pulse, watched_over};

/// How long one range that was read as meant speaks for others of its pair: no change of daylight saving, and
/// no other account, comes unseen so fast.
const RANGES_HOLD_FOR: Duration = Duration::from_secs(600);
/// Bars of a range up to which the offset of its week is guessed where it is not known.
const OFFSET_GUESSED_FOR_MAX: u32 = 12;
/// From one request to the next: its turn at the slowest pace, after a refusal for it, and IG's answer.
const STEP_WITHIN: Duration = Duration::from_secs(1_500);
/// Pages followed of one answer; with paging switched off there should be one.
const PAGES_MAX: i64 = 50;

/// What the history needs to know.
#[derive(Clone)]
pub struct HistorySettings {
    /// Instruments by [`FeedIx`].
    pub instruments: Vec<Instrument>,
    /// Whose allowance is spent.
    pub allowance: AllowanceKey,
    /// The hours in which bars cost points, by [`FeedIx`].
    pub calendars: Vec<Arc<Calendar>>,
    /// Points that only urgent requests may use.
    pub reserve: u32,
    /// Requests a minute.
    pub per_minute: u32,
}

/// Fetches bars.
pub struct HistoryActor {
    history: Rc<History>,
    _lifeline: Lifeline,
}

struct History {
    rest: RestClient,
    session: SessionLines,
    store: StoreHandle,
    clock: Clock,
    event_clock: EventClock,
    settings: HistorySettings,
    pulse: Pulse,
    /// Pieces of work under way.
    at_work: Cell<u32>,
    state: Mutex<State>,
}

struct State {
    pace: Pace,
    /// The pace has let a request be made that was not made yet.
    has_turn: bool,
    zone: Zone,
    /// By which bucket a range of each feed's was last seen to be read as it was meant, and when.
    ranges_read: Vec<Option<(Timestamp, Instant)>>,
    /// When the last bar was asked for, to learn the offset of the week.
    offset_asked_at: Option<Instant>,
    /// The last answer left no points, so that it may have been cut short.
    took_the_last: bool,
    /// Tokens that IG complained of with a history request.
    complained_of: Option<u64>,
    offsets: Offsets,
    scales: Vec<Verdict>,
}

impl HistoryActor {
    /// An actor that has asked nothing yet.
    pub fn new(
        rest: RestClient,
        session: SessionLines,
        store: StoreHandle,
        (clock, event_clock): (Clock, EventClock),
        settings: HistorySettings,
        lifeline: Lifeline,
    ) -> HistoryActor {
        let state = Mutex::new(State {
            pace: Pace::new(settings.per_minute),
            has_turn: false,
            zone: Zone::Unknown,
            ranges_read: vec![None; settings.instruments.len()],
            offset_asked_at: None,
            took_the_last: false,
            complained_of: None,
            offsets: Offsets::default(),
            scales: settings.instruments.iter().map(|instrument| instrument.scale).collect(),
        });
        let pulse = lifeline.pulse().clone();
        let history = History {
            rest,
            session,
            store,
            clock,
            event_clock,
            settings,
            pulse,
            at_work: Cell::new(0),
            state,
        };
        HistoryActor { history: Rc::new(history), _lifeline: lifeline }
    }
}

impl Actor for HistoryActor {
    type Context = Context<Self>;
}

watched_over!(HistoryActor);

impl Handler<FetchBars> for HistoryActor {
    // Ends with the actor, so that a successor never asks beside it.
    type Result = ResponseActFuture<Self, Result<Fetched, HistoryError>>;

    fn handle(&mut self, fetch: FetchBars, _: &mut Self::Context) -> Self::Result {
        let history = self.history.clone();
        Box::pin(async move { history.at_work(history.fetch(&fetch)).await }.into_actor(self))
    }
}

impl Handler<LearnTime> for HistoryActor {
    type Result = ResponseActFuture<Self, Result<(), HistoryError>>;

    fn handle(&mut self, _: LearnTime, _: &mut Self::Context) -> Self::Result {
        let history = self.history.clone();
        Box::pin(async move { history.at_work(history.learn_time()).await }.into_actor(self))
    }
}

impl History {
    /// Does this, as the work that a step is expected of.
    async fn at_work<T>(&self, work: impl Future<Output = T>) -> T {
        self.at_work.set(self.at_work.get() + 1);
        self.pulse.begin(STEP_WITHIN);
        let done = work.await;
        self.at_work.set(self.at_work.get() - 1);
        // Whose asker is gone may end while another's is under way.
        if self.at_work.get() == 0 {
            self.pulse.rest();
        }
        done
    }

    /// Spends a point on the last bar of the first pair, to see what time it is in the market.
    async fn learn_time(&self) -> Result<(), HistoryError> {
        if self.event_clock.now().is_some() {
            return Ok(());
        }
        let mut state = self.state.lock().await;
        let span = Timestamp(0)..Timestamp(0);
        let request = Request {
            feed: FeedIx(0),
            timeframe: Timeframe::M5,
            span: span.clone(),
            kind: Kind::Backfill,
            points: 1,
            // Without the time nothing can be done at all.
            urgent: true,
            reaches_now: false,
            incident: None,
        };
        let fetch = FetchBars { request, anchor: None, probe: false };
        let (rows, _) = self.ask(&mut state, &fetch, &span, "max=1", 1).await?;
        let last = rows.last().ok_or(Unproven::Empty)?;
        // The forming one, while the market trades.
        self.event_clock.observe(last.start, false);
        Ok(())
    }

    async fn fetch(&self, fetch: &FetchBars) -> Result<Fetched, HistoryError> {
        let mut state = self.state.lock().await;
        // What is complete by then is what counts, so the turn comes first.
        self.turn(&mut state).await;
        failpoint::in_task("history.fetch").await;
        let Request { timeframe, .. } = fetch.request;
        let now = self.event_clock.settled().ok_or(HistoryError::NoTimeYet)?;
        let complete_to = timeframe.bucket(now);
        let span = fetch.request.span.start..fetch.request.span.end.min(complete_to);
        // In the half minute for which a complete bar is not counted on, the last N are others.
        let is_plain = self.event_clock.is_steady()
            && self.event_clock.now().is_some_and(|now| timeframe.bucket(now) == complete_to);
        // Where local time is UTC there is one reading, and no need for the dearer form.
        let zone = if state.offsets.seen(span.end.plus(-1)) == Some(0) { Zone::Local } else { state.zone };
        let known = (zone, is_plain, fetch.request.reaches_now);
        if let Form::Last(count) = form::choose(&span, timeframe, known, complete_to, self.calendar(fetch)) {
            let query = format!("max={count}");
            let (mut rows, evidence) = self.ask(&mut state, fetch, &span, &query, count).await?;
            let first = rows.first().ok_or(Unproven::Empty)?.start;
            let covered = answer::speaks_of(&(first.max(span.start)..complete_to), &rows, timeframe, now);
            // Judged by all of its rows: where they end long before the present, it is of another time.
            let covered = self.trusted(&state, fetch, covered, &rows);
            rows.retain(|row| covered.contains(&row.start));
            return Ok(Fetched { rows, covered, asked: span, evidence });
        }
        let (span, offset_s) = self.prepare(&mut state, fetch, span, complete_to).await?;
        let (rows, evidence) = self.ask_span(&mut state, fetch, &span, offset_s).await?;
        if state.zone != Zone::Utc && !offsets::agree(&rows, offset_s) {
            // The next one is written as these rows tell.
            return Err(Unproven::OtherOffset.into());
        }
        match answer::check_range(&rows, &span) {
            Ok(()) => self.note_read(&mut state, fetch, span.end.plus(-1)),
            // Where it says nothing there is nothing to prove.
            Err(Unproven::Empty) if answer::speaks_of(&span, &rows, timeframe, now).is_empty() => {}
            Err(Unproven::Empty) => self.prove_empty(&mut state, fetch, span.end.plus(-1)).await?,
            Err(error) => {
                log::warn!(pair:% = self.settings.instruments[fetch.request.feed.ix()].pair, zone:? = state.zone; "an answer lies beside the range that was asked for");
                state.zone = Zone::Unknown;
                state.ranges_read.fill(None);
                return Err(error.into());
            }
        }
        let covered = answer::speaks_of(&span, &rows, timeframe, now);
        let covered = self.trusted(&state, fetch, covered, &rows);
        Ok(Fetched { rows, covered, asked: span, evidence })
    }

    /// Gets ready to ask for a range: learns how IG reads it where that is not known, and cuts it to
    /// where one offset of local time holds. Answers the range and the offset.
    async fn prepare(
        &self,
        state: &mut State,
        fetch: &FetchBars,
        span: Range<Timestamp>,
        complete_to: Timestamp,
    ) -> Result<(Range<Timestamp>, i64), HistoryError> {
        let last = span.end.plus(-1);
        let is_unseen = state.offsets.are_told() && state.offsets.seen(last).is_none();
        if state.zone != Zone::Utc && is_unseen && last.week() == complete_to.week() {
            self.learn_offset(state, fetch).await?;
        }
        if state.zone == Zone::Unknown {
            self.learn_zone(state, fetch, &span, complete_to).await?;
        }
        if state.zone == Zone::Utc {
            return Ok((span, 0));
        }
        let span = state.offsets.of_one(&span);
        let timeframe = fetch.request.timeframe;
        let bars = self.calendar(fetch).bars_at_most(span.clone(), timeframe);
        let is_guess = state.offsets.are_told() && state.offsets.seen(last).is_none();
        if is_guess && bars > OFFSET_GUESSED_FOR_MAX {
            // A bar of that week tells: one amidst the others, since the guess may be an hour off.
            let middle = timeframe.bucket(span.start.plus(span.end.since(span.start) / 2));
            let probe = middle..middle.plus(timeframe.seconds());
            let guess = state.offsets.guess(last);
            self.ask_span(state, fetch, &probe, guess).await?;
        }
        Ok((span, state.offsets.guess(last)))
    }

    /// What an answer is trusted to speak of: of one that took the last points, its rows alone.
    fn trusted(
        &self,
        state: &State,
        fetch: &FetchBars,
        covered: Range<Timestamp>,
        rows: &[FetchedBar],
    ) -> Range<Timestamp> {
        let timeframe = fetch.request.timeframe;
        if state.took_the_last {
            let start = rows.first().map_or(covered.start, |row| row.start);
            let end = rows.last().map_or(start, |row| row.start.plus(timeframe.seconds()));
            return start..end;
        }
        answer::trusted(covered, rows, timeframe, self.calendar(fetch))
    }

    fn calendar(&self, fetch: &FetchBars) -> &Calendar {
        &self.settings.calendars[fetch.request.feed.ix()]
    }

    /// Waits until IG's pace lets another request be made.
    async fn turn(&self, state: &mut State) {
        if !std::mem::replace(&mut state.has_turn, true) {
            let at = state.pace.reserve(self.clock.monotonic());
            actix_rt::time::sleep_until(at.into()).await;
        }
    }

    fn note_read(&self, state: &mut State, fetch: &FetchBars, by: Timestamp) {
        state.ranges_read[fetch.request.feed.ix()] = Some((by, self.clock.monotonic()));
    }

    /// Whether so little time has passed since.
    fn is_recent(&self, at: Instant) -> bool {
        self.clock.monotonic().saturating_duration_since(at) < RANGES_HOLD_FOR
    }

    /// Spends a point on the last bar of all, which no range is needed for: it tells the offset of its week,
    /// which is the present one where the market has traded in it.
    async fn learn_offset(&self, state: &mut State, fetch: &FetchBars) -> Result<(), HistoryError> {
        // History may lag behind a week that has just begun: it is not asked again and again.
        if state.offset_asked_at.is_some_and(|at| self.is_recent(at)) {
            return Ok(());
        }
        state.offset_asked_at = Some(self.clock.monotonic());
        self.ask(state, fetch, &fetch.request.span, "max=1", 1).await?;
        Ok(())
    }

    /// After an empty answer to a range that ends with the second `last`: spends a point on a bar that is
    /// known, where need be, to see that ranges are still read as they are meant.
    async fn prove_empty(
        &self,
        state: &mut State,
        fetch: &FetchBars,
        last: Timestamp,
    ) -> Result<(), HistoryError> {
        let read = state.ranges_read[fetch.request.feed.ix()].filter(|(_, at)| self.is_recent(*at));
        let asked = Asked {
            last,
            zone: state.zone,
            is_offset_seen: state.offsets.seen(last).is_some(),
            read: read.map(|(by, _)| by),
            anchor: fetch.anchor,
        };
        let anchor = match answer::emptiness(&asked) {
            Emptiness::Proved => return Ok(()),
            Emptiness::IfRead(anchor) => anchor,
            Emptiness::Unproved => return Err(Unproven::Empty.into()),
        };
        let span = anchor..anchor.plus(fetch.request.timeframe.seconds());
        let offset_s = state.offsets.guess(anchor);
        let (rows, _) = self.ask_span(state, fetch, &span, offset_s).await?;
        if state.zone != Zone::Utc && !offsets::agree(&rows, offset_s) {
            // The next one is written as these rows tell.
            return Err(Unproven::OtherOffset.into());
        }
        match answer::check_range(&rows, &span) {
            Ok(()) => {
                self.note_read(state, fetch, anchor);
                Ok(())
            }
            Err(error) => {
                state.zone = Zone::Unknown;
                Err(error.into())
            }
        }
    }

    /// Spends a point on a bucket of the span, or before it, to see how IG reads a range.
    async fn learn_zone(
        &self,
        state: &mut State,
        fetch: &FetchBars,
        span: &Range<Timestamp>,
        complete_to: Timestamp,
    ) -> Result<(), HistoryError> {
        let tokens = self.tokens().await.map_err(HistoryError::NoTokens)?;
        state.offsets.note_login(tokens.timezone_offset_s);
        let offset = state.offsets.guess(span.end.plus(-1));
        if offset == 0 {
            // Both readings are the same, for now: nothing is learnt.
            return Ok(());
        }
        // Local time ahead of UTC, read as UTC, is in the future, where there is no bar to learn by:
        // the probe goes back so far that both readings have passed, if the market traded then.
        let step = fetch.request.timeframe.seconds();
        let passed = fetch.request.timeframe.bucket(complete_to.plus(-offset.max(0))).min(span.end);
        let traded =
            self.calendar(fetch).bars_at_most(passed.plus(-step)..passed, fetch.request.timeframe) == 1;
        let end = if traded { passed } else { span.end };
        let probe = end.plus(-step)..end;
        let (rows, _) = self.ask_span(state, fetch, &probe, offset).await?;
        if rows.is_empty() && state.offsets.seen(probe.start).is_none() {
            // Perhaps it was written with an offset of before a change.
            self.learn_offset(state, fetch).await?;
        }
        let starts: Vec<Timestamp> = rows.iter().map(|row| row.start).collect();
        if !offsets::agree(&rows, offset) {
            // The next attempt is written as these rows tell.
            return Err(HistoryError::ZoneUnknown);
        }
        state.zone = zone::learn(&probe, &starts, offset);
        match state.zone {
            Zone::Unknown => Err(HistoryError::ZoneUnknown),
            zone => {
                log::info!(zone:? = zone, offset_s = offset; "learnt how IG reads date ranges");
                Ok(())
            }
        }
    }

    async fn ask_span(
        &self,
        state: &mut State,
        fetch: &FetchBars,
        span: &Range<Timestamp>,
        offset: i64,
    ) -> Result<(Vec<FetchedBar>, Arc<str>), HistoryError> {
        let bars = self.calendar(fetch).bars_at_most(span.clone(), fetch.request.timeframe);
        // A bar is named by its start, so the last second before the span's end takes in the
        // last bar and not the one after it.
        let query = format!(
            "from={}&to={}",
            zone::bound(span.start, state.zone, offset),
            zone::bound(span.end.plus(-1), state.zone, offset)
        );
        // Of its own span the planner knows better which buckets have no bar.
        let points = if *span == fetch.request.span { fetch.request.points } else { bars };
        self.ask(state, fetch, span, &query, points).await
    }

    /// Asks, and once more with other tokens where IG does not accept those it was asked with.
    async fn ask(
        &self,
        state: &mut State,
        fetch: &FetchBars,
        span: &Range<Timestamp>,
        query: &str,
        points: u32,
    ) -> Result<(Vec<FetchedBar>, Arc<str>), HistoryError> {
        match self.ask_once(state, fetch, span, query, points).await {
            Err(HistoryError::Ig(IgError::Unauthorized(_))) => {
                self.ask_once(state, fetch, span, query, points).await
            }
            other => other,
        }
    }

    /// Books `points`, asks, settles. Answers every row that has a place on the grid.
    async fn ask_once(
        &self,
        state: &mut State,
        fetch: &FetchBars,
        span: &Range<Timestamp>,
        query: &str,
        points: u32,
    ) -> Result<(Vec<FetchedBar>, Arc<str>), HistoryError> {
        let instrument = &self.settings.instruments[fetch.request.feed.ix()];
        if state.scales[fetch.request.feed.ix()] == Verdict::Ambiguous {
            self.confirm_scale(state, fetch).await?;
        }
        let available = self.available(fetch.request.urgent).await?;
        if points > available && !fetch.probe {
            return Err(HistoryError::NotAffordable { cost: points, available });
        }
        self.turn(state).await;
        state.has_turn = false;
        self.pulse.step(STEP_WITHIN);

        let on = SpendOn {
            pair: instrument.pair,
            timeframe: fetch.request.timeframe,
            span: span.clone(),
            incident: fetch.request.incident.clone(),
            what: format!("{} {} {query}", instrument.pair, fetch.request.timeframe),
        };
        let (key, now) = (self.settings.allowance.clone(), self.clock.wall());
        let spend = self.store.run(move |store| store.book_spend(&key, points, &on, now)).await?;
        let evidence: Arc<str> = format!("rest:{spend}").into();
        let query = format!("resolution={}&{query}&pageSize=0", resolution(fetch.request.timeframe));
        // Tokens may live no longer than the pace makes a request wait, so they come last.
        let tokens = self.tokens().await;
        let answer = match &tokens {
            Ok(tokens) => self.pages(state, tokens, instrument, &query).await,
            Err(error) => Err(error.clone()),
        };

        if let Err(error) = self.settle(spend, &answer, tokens.is_err()).await {
            // It stays booked, which counts as spent. What was paid for is not thrown away.
            log::error!(error:% = error; "what a request came to could not be written down");
        }
        state.took_the_last =
            answer.as_ref().is_ok_and(|pages| self.seen(pages).is_some_and(|seen| seen.remaining == 0));
        match (&answer, &tokens) {
            (Err(IgError::Unauthorized(_)), Ok(tokens)) => {
                // Complained of twice in a row, they are dead whatever a cheap test of them says.
                let generation = tokens.generation;
                let certain = state.complained_of.replace(generation) == Some(generation);
                self.session.refused.hint(TokensRefused { generation, certain });
            }
            // For good, says IG: the login decides that, and ends the process.
            (Err(IgError::CredentialsRefused(_)), Ok(tokens)) => {
                self.session.refused.hint(TokensRefused { generation: tokens.generation, certain: true });
            }
            (Err(IgError::RateLimited(_)), _) => {
                state.pace.refused(self.clock.monotonic(), RATE_LIMIT_PAUSE);
            }
            (Ok(_), _) => state.complained_of = None,
            _ => {}
        }
        // A login that failed is no word about this request.
        tokens.map_err(HistoryError::NoTokens)?;
        let pages = answer?;
        log::debug!(pair:% = instrument.pair, timeframe:% = fetch.request.timeframe, query = query.as_str(); "asked for history");
        let rows = match self.rows(state, fetch, &pages) {
            // What was paid for is read again by the scale that IG now tells.
            Err(HistoryError::ScaleInDoubt) => {
                state.scales[fetch.request.feed.ix()] = Verdict::Ambiguous;
                self.confirm_scale(state, fetch).await?;
                self.rows(state, fetch, &pages)?
            }
            rows => rows?,
        };
        Ok((rows, evidence))
    }

    /// Writes down what a request came to.
    async fn settle(
        &self,
        spend: SpendId,
        answer: &Result<Vec<Prices>, IgError>,
        was_not_made: bool,
    ) -> Result<(), StoreError> {
        let now = self.clock.wall();
        match answer {
            Ok(pages) => {
                let points = pages.iter().map(|page| page.prices.len()).sum::<usize>() as u32;
                let seen = self.seen(pages);
                self.store.run(move |store| store.settle_spend(spend, points, seen, now)).await
            }
            Err(IgError::AllowanceSpent(code)) => {
                let code = code.clone();
                self.store.run(move |store| store.refuse_spend(spend, &code, now)).await
            }
            Err(error) if was_not_made || error.came_before_any_history() => {
                self.store.run(move |store| store.settle_spend(spend, 0, None, now)).await
            }
            // Perhaps charged, so it counts as spent.
            Err(error) => {
                let why = error.to_string();
                self.store.run(move |store| store.give_up_spend(spend, &why, now)).await
            }
        }
    }

    /// Asks IG, which costs no points, on which scale an instrument quotes now.
    ///
    /// # Errors
    /// [`HistoryError::ScaleInDoubt`] while that stays open.
    async fn confirm_scale(&self, state: &mut State, fetch: &FetchBars) -> Result<(), HistoryError> {
        let instrument = &self.settings.instruments[fetch.request.feed.ix()];
        let tokens = self.tokens().await.map_err(HistoryError::NoTokens)?;
        actix_rt::time::sleep_until(state.pace.reserve(self.clock.monotonic()).into()).await;
        let told = markets::confirm(&self.rest, &tokens, std::slice::from_ref(instrument)).await;
        if let Err(IgError::Unauthorized(_)) = &told {
            self.session.refused.hint(TokensRefused { generation: tokens.generation, certain: false });
        }
        let told = told?;
        let Some(Some(Confirmed { scale, .. })) = told.first() else {
            log::error!(pair:% = instrument.pair; "IG's price scale is in doubt, its history is not read: set the pair's scale");
            return Err(HistoryError::ScaleInDoubt);
        };
        log::info!(pair:% = instrument.pair, scale:% = scale; "IG confirms the scale of its history");
        state.scales[fetch.request.feed.ix()] = Verdict::Scale(*scale);
        Ok(())
    }

    async fn pages(
        &self,
        state: &mut State,
        tokens: &Tokens,
        instrument: &Instrument,
        query: &str,
    ) -> Result<Vec<Prices>, IgError> {
        let mut pages = vec![self.rest.prices(tokens, &instrument.epic, query).await?];
        let total = |page: &Prices| {
            page.metadata.as_ref().and_then(|meta| meta.page_data).map_or(1, |data| data.total_pages)
        };
        let count = total(&pages[0]).min(PAGES_MAX);
        for number in 2..=count {
            actix_rt::time::sleep_until(state.pace.reserve(self.clock.monotonic()).into()).await;
            self.pulse.step(STEP_WITHIN);
            let query = format!("{query}&pageNumber={number}");
            let page = async { self.rest.prices(&*self.tokens().await?, &instrument.epic, &query).await };
            // The pages before were charged, so this is no refusal that cost nothing.
            pages.push(page.await.map_err(|error| IgError::Retryable(format!("page {number}: {error}")))?);
        }
        Ok(pages)
    }

    /// IG's own numbers of the last page that has some.
    fn seen(&self, pages: &[Prices]) -> Option<AllowanceSeen> {
        let allowance = pages.iter().rev().find_map(|page| page.metadata.as_ref()?.allowance)?;
        Some(AllowanceSeen {
            remaining: u32::try_from(allowance.remaining_allowance).unwrap_or(0),
            total: u32::try_from(allowance.total_allowance).unwrap_or(0),
            expires_at: self.clock.wall().plus(allowance.allowance_expiry.clamp(0, 31 * 86_400)),
        })
    }

    fn rows(
        &self,
        state: &mut State,
        fetch: &FetchBars,
        pages: &[Prices],
    ) -> Result<Vec<FetchedBar>, HistoryError> {
        let instrument = &self.settings.instruments[fetch.request.feed.ix()];
        let scale = &mut state.scales[fetch.request.feed.ix()];
        if *scale == Verdict::NoPriceYet {
            let mut bids = pages
                .iter()
                .flat_map(|page| &page.prices)
                .filter_map(|row| row.open_price.as_ref()?.bid.as_ref())
                .filter_map(|text| Price::parse(text.get(), 0).ok());
            *scale = scale::classify(instrument.pair, bids.next(), None);
        }
        let scale = match *scale {
            Verdict::Scale(scale) => scale,
            // Without a price there is no bar to misread, only times.
            Verdict::NoPriceYet => Scale::Decimal,
            Verdict::Ambiguous => return Err(HistoryError::ScaleInDoubt),
        };
        let mut rows = answer::rows(instrument.pair, fetch.request.timeframe, scale, pages)?;
        if !instrument.scale_is_fixed {
            rows = answer::plausible(instrument.pair, rows).map_err(|_| HistoryError::ScaleInDoubt)?;
        }
        state.offsets.note(&rows);
        Ok(rows)
    }

    /// Points that may be spent now: the reserve is for what was lost of late.
    async fn available(&self, urgent: bool) -> Result<u32, HistoryError> {
        let (key, now) = (self.settings.allowance.clone(), self.clock.wall());
        let state = self.store.run(move |store| store.allowance(&key, now)).await?;
        Ok(state.remaining(now).saturating_sub(if urgent { 0 } else { self.settings.reserve }))
    }

    async fn tokens(&self) -> Result<Arc<Tokens>, IgError> {
        let asking = self.session.tokens.send(GetTokens { validate: false });
        match self.pulse.waiting(asking, STEP_WITHIN).await {
            Ok(result) => result,
            Err(_) => Err(IgError::Retryable("the session room is being rebuilt".to_owned())),
        }
    }
}

/// IG's REST name of a bar length.
fn resolution(timeframe: Timeframe) -> &'static str {
    match timeframe {
        Timeframe::M5 => "MINUTE_5",
        Timeframe::M10 => "MINUTE_10",
        Timeframe::M15 => "MINUTE_15",
        Timeframe::M30 => "MINUTE_30",
        Timeframe::H1 => "HOUR",
    }
}
