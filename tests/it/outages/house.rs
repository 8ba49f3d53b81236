//! A house without walls: the aggregation, a ledger in memory and a healer's loop, on virtual time.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use candlekeep::aggregator::finalizer::Depth;
use candlekeep::aggregator::rollup::{Slot, fold};
use candlekeep::aggregator::{Aggregation, FeedStart, Stale};
use candlekeep::domain::coverage::{Run, overlay};
use candlekeep::domain::pair::MAJOR_PAIRS;
use candlekeep::domain::{
    Bar, BarKey, Calendar, CandleUpdate, Fact, FeedIx, Fetched, FetchedBar, Pair, Reason, State, StreamEvent,
    Timeframe, Timestamp,
};
use candlekeep::healer::attempts::Attempts;
use candlekeep::healer::book::{self, Watched};
use candlekeep::healer::facts::{self, Reading};
use candlekeep::healer::plan::{self, GiveUp, Now, Plan, Refused, Request, Terms};
use candlekeep::ig::history::answer;
use candlekeep::store::{AllowanceSeen, AllowanceState, Refusals};

use super::truth::{DAY, FEEDS, QUARTER, STEP, Truth};

/// What a plan goes by: the program's defaults, and a steady clock.
pub const TERMS: Terms =
    Terms { reserve: 1_000, incident_cap: 3_000, bars_max: 400, quarters: true, reaching_now: 1 };
/// Points of a whole week.
pub const WEEKLY: u32 = 10_000;
/// Milliseconds between two requests: eight a minute.
pub const PACE_MS: i64 = 7_500;
/// Seconds between two ticks while rows may come: fewer than would count as time that nobody saw.
const TICK_S: i64 = 5;
/// As the program's own: when the ledger is looked at uncalled, and how far back event time lies up
/// to which history is counted on.
const LOOK_EVERY_S: i64 = 30;
const HISTORY_LAG_S: i64 = 30;
const GIVE_UP_S: i64 = 28 * DAY;
const STALE_S: i64 = 600;
/// A silent item is subscribed again after so many seconds.
const RESUBSCRIBED_AFTER_S: i64 = 2;

/// What is stored and known, by the laws of the database's door.
pub struct Ledger {
    truth: Truth,
    /// Of 5 and of 15 minutes, by feed.
    runs: [Vec<Vec<Run>>; 2],
    bars: HashMap<BarKey, Bar>,
    /// The buckets of this span that were ever missing, but for such as were just silent.
    lost_within: Range<Timestamp>,
    pub lost: BTreeSet<(usize, Timestamp)>,
}

fn place(timeframe: Timeframe) -> usize {
    usize::from(timeframe != Timeframe::M5)
}

fn feed_of(pair: Pair) -> usize {
    MAJOR_PAIRS.iter().position(|of| *of == pair).unwrap()
}

impl Ledger {
    fn new(truth: Truth, lost_within: Range<Timestamp>) -> Ledger {
        let runs = [vec![Vec::new(); FEEDS], vec![Vec::new(); FEEDS]];
        Ledger { truth, runs, bars: HashMap::new(), lost_within, lost: BTreeSet::new() }
    }

    /// What is known of the bucket that starts at `start`.
    pub fn known(&self, feed: usize, timeframe: Timeframe, start: Timestamp) -> Option<&Run> {
        let runs = &self.runs[place(timeframe)][feed];
        let next = runs.partition_point(|run| run.span.start <= start);
        next.checked_sub(1).map(|ix| &runs[ix]).filter(|run| run.span.contains(&start))
    }

    fn has_no_bar(&self, feed: usize, slot: Timestamp) -> bool {
        let known = self.known(feed, Timeframe::M5, slot);
        known.is_some_and(|run| candlekeep::domain::coverage::has_no_bar(run.state, run.reason))
    }

    fn state(&self, feed: usize, timeframe: Timeframe, start: Timestamp) -> Option<State> {
        self.known(feed, timeframe, start).map(|run| run.state)
    }

    /// Whether a bar is stored.
    pub fn has_bar(&self, feed: usize, timeframe: Timeframe, start: Timestamp) -> bool {
        self.bars.contains_key(&BarKey { pair: MAJOR_PAIRS[feed], timeframe, start })
    }

    fn lay(&mut self, feed: usize, timeframe: Timeframe, finding: &Run) {
        let runs = &mut self.runs[place(timeframe)][feed];
        let first = runs.partition_point(|run| run.span.end < finding.span.start);
        let end = runs.partition_point(|run| run.span.start <= finding.span.end);
        let laid = overlay(&runs[first..end], finding);
        runs.splice(first..end, laid);
    }

    fn store(&mut self, bar: &Bar, evidence: &Arc<str>) {
        let BarKey { pair, timeframe, start } = bar.key;
        let feed = feed_of(pair);
        let truth = self.truth.bar_of(feed, timeframe, start);
        let is_true = truth.is_some_and(|truth| truth.same_values(bar));
        assert!(is_true, "{bar:?} is stored, true is {truth:?}");
        self.bars.entry(bar.key).or_insert(*bar);
        let span = start..start.plus(timeframe.seconds());
        let (state, reason) = (State::Stored, Reason::Settled);
        self.lay(feed, timeframe, &Run { span, state, reason, evidence: evidence.clone() });
    }

    /// Takes facts in the order learnt, then folds what they complete.
    fn apply(&mut self, facts: &[Fact], evidence: &Arc<str>) {
        let mut touched: BTreeSet<(usize, Timestamp)> = BTreeSet::new();
        for fact in facts {
            let (pair, timeframe, span) = match fact {
                Fact::Settled(bar) => {
                    self.store(bar, evidence);
                    let start = bar.key.start;
                    (bar.key.pair, bar.key.timeframe, start..start.plus(STEP))
                }
                Fact::Marked(mark) => {
                    let (feed, span) = (feed_of(mark.pair), mark.span.clone());
                    let run = Run {
                        span: span.clone(),
                        state: mark.state,
                        reason: mark.reason,
                        evidence: evidence.clone(),
                    };
                    self.lay(feed, mark.timeframe, &run);
                    if mark.state == State::Missing {
                        if mark.reason != Reason::Silent {
                            self.note_lost(feed, &span);
                        }
                        continue;
                    }
                    (mark.pair, mark.timeframe, span)
                }
            };
            if timeframe == Timeframe::M5 {
                let quarters = span.start.floor(QUARTER).0..span.end.0;
                let feed = feed_of(pair);
                touched.extend(quarters.step_by(QUARTER as usize).map(|start| (feed, Timestamp(start))));
            }
        }
        for (feed, start) in touched {
            if let Some(bar) = self.fold(feed, start)
                && !self.bars.contains_key(&bar.key)
            {
                self.store(&bar, &"fold".into());
            }
        }
    }

    fn note_lost(&mut self, feed: usize, span: &Range<Timestamp>) {
        let within = span.start.max(self.lost_within.start).0..span.end.min(self.lost_within.end).0;
        for start in within.step_by(STEP as usize).map(Timestamp) {
            if self.state(feed, Timeframe::M5, start) == Some(State::Missing) {
                self.lost.insert((feed, start));
            }
        }
    }

    fn fold(&self, feed: usize, start: Timestamp) -> Option<Bar> {
        let slots: Vec<Slot<'_>> = (0..3)
            .map(|part| start.plus(part * STEP))
            .map(|slot| match self.state(feed, Timeframe::M5, slot) {
                Some(State::Stored) => {
                    let pair = MAJOR_PAIRS[feed];
                    Slot::Bar(&self.bars[&BarKey { pair, timeframe: Timeframe::M5, start: slot }])
                }
                Some(_) if self.has_no_bar(feed, slot) => Slot::NoBar,
                _ => Slot::Unknown,
            })
            .collect();
        fold(Timeframe::M15, start, &slots)
    }

    /// Everything from the oldest missing bucket on.
    fn since_oldest_missing(&self) -> Vec<(Pair, Timeframe, Run)> {
        let all = || self.runs.iter().flatten().flatten();
        let missing = all().filter(|run| run.state == State::Missing);
        let Some(oldest) = missing.map(|run| run.span.start).min() else { return Vec::new() };
        let from = oldest.floor(QUARTER);
        let mut found = Vec::new();
        for (timeframe, feeds) in [Timeframe::M5, Timeframe::M15].into_iter().zip(&self.runs) {
            for (pair, runs) in MAJOR_PAIRS.iter().zip(feeds) {
                let late = runs.iter().filter(|run| run.span.end > from);
                found.extend(late.map(|run| (*pair, timeframe, run.clone())));
            }
        }
        found
    }
}

/// What was asked of the broker's history, and what came of it.
#[derive(Clone, Debug, Default)]
pub struct Spent {
    pub requests: u32,
    /// Requests that have brought bars.
    pub paid: u32,
    pub points: u32,
    pub quarters: u32,
    /// Answers without a bar that prove buckets quiet. The program spends a point more on each, on
    /// a bar that it knows, to see that its range was read as it was meant.
    pub proofs: u32,
    /// Requests about the outage that have brought no bar.
    pub in_vain: u32,
    /// When the last 5-minute bar came, and how many requests had been made by then.
    pub last_bar: Option<(Timestamp, u32)>,
    /// When the last bar of either length came.
    pub last_point: Option<Timestamp>,
    /// When the last answer came that proved something.
    pub last_news: Option<Timestamp>,
}

struct Healer {
    feeds: Vec<Watched>,
    attempts: Attempts,
    allowance: AllowanceState,
    /// What IG has left, and when all is there again.
    left: u32,
    renews_at: Timestamp,
    /// The request whose turn comes then.
    pending: Option<(Timestamp, Request, bool)>,
    next_turn_ms: i64,
    look_at: Timestamp,
    /// Where the buckets begin that the last plan asks for.
    planned: Vec<Timestamp>,
    waiting: u32,
    spent: Spent,
}

/// All rooms of a scenario.
pub struct House {
    pub truth: Truth,
    pub now: Timestamp,
    core: Aggregation,
    pub ledger: Ledger,
    healer: Healer,
    is_up: bool,
    /// Whether history can be asked.
    is_reachable: bool,
    rows: VecDeque<(Timestamp, usize, Timestamp, bool)>,
    resubscribe: VecDeque<(Timestamp, FeedIx)>,
    ls: Arc<str>,
}

impl House {
    /// A house that is subscribed to all pairs from `now` on, a bucket's start. `left` of the week's
    /// points are there, all of them again after `renews_in_s`; where IG has not told, all.
    pub fn new(
        truth: Truth,
        now: Timestamp,
        lost_within: Range<Timestamp>,
        left: Option<(u32, i64)>,
    ) -> House {
        let calendar = Arc::new(Calendar::forex());
        let feeds: Vec<FeedStart> = MAJOR_PAIRS
            .map(|pair| FeedStart { pair, resume: Some(now), calendar: calendar.clone() })
            .to_vec();
        let allowance = AllowanceState {
            seen: left.map(|(remaining, renews_in_s)| {
                let expires_at = now.plus(renews_in_s);
                (AllowanceSeen { remaining, total: WEEKLY, expires_at }, now)
            }),
            ..AllowanceState::default()
        };
        let (left, renews_in_s) = left.unwrap_or((WEEKLY, 7 * DAY));
        let healer = Healer {
            feeds: MAJOR_PAIRS.map(|pair| Watched { pair, calendar: calendar.clone() }).to_vec(),
            attempts: Attempts::default(),
            allowance,
            left,
            renews_at: now.plus(renews_in_s),
            pending: None,
            next_turn_ms: 0,
            look_at: now,
            planned: Vec::new(),
            waiting: 0,
            spent: Spent::default(),
        };
        let mut house = House {
            ledger: Ledger::new(truth.clone(), lost_within),
            truth,
            now,
            core: Aggregation::new(&feeds, Depth { m5: 0, m15: 0 }, STALE_S, 0),
            healer,
            is_up: false,
            is_reachable: true,
            rows: VecDeque::new(),
            resubscribe: VecDeque::new(),
            ls: "ls".into(),
        };
        house.connect();
        house
    }

    /// What was spent on healing.
    pub fn spent(&self) -> &Spent {
        &self.healer.spent
    }

    /// Buckets that wait for points by the last plan.
    pub fn waiting(&self) -> u32 {
        self.healer.waiting
    }

    /// Whether there is nothing more to ask for before `end`: nothing is planned, and nothing waits for
    /// another try but such as was planned for then and could not be paid for.
    pub fn is_done_before(&self, end: Timestamp) -> bool {
        let mut attempts = self.healer.attempts.all();
        let planned_at = self.healer.look_at.plus(-LOOK_EVERY_S);
        self.healer.planned.iter().all(|start| *start >= end)
            && attempts.all(|(_, _, attempt)| attempt.span.start >= end || attempt.next_at <= planned_at)
    }

    /// The stream is broken: no row comes. Perhaps history can be asked all the same.
    pub fn disconnect(&mut self, is_reachable: bool) {
        (self.is_up, self.is_reachable) = (false, is_reachable);
        self.rows.clear();
        self.resubscribe.clear();
        if !is_reachable {
            self.healer.pending = None;
        }
        self.core.handle(
            &StreamEvent::Broken { feed: None, reason: Reason::Disconnected },
            Some(self.now),
            true,
        );
        self.take_facts();
    }

    /// Lets an outage in which nothing can be reached last until then. What the aggregation finds
    /// meanwhile depends on nothing but that each bucket's end and grace have passed, since no link is
    /// up that unseen time could break: a tick for each is enough.
    pub fn stay_away(&mut self, until: Timestamp) {
        loop {
            let next = self.now.plus(-16).floor(STEP).plus(STEP + 16);
            if next >= until {
                break;
            }
            self.now = next;
            self.tick();
        }
        self.now = until;
    }

    /// All items are subscribed; each shows the candle under way, if it has any price yet.
    pub fn connect(&mut self) {
        (self.is_up, self.is_reachable) = (true, true);
        self.healer.look_at = self.now.plus(LOOK_EVERY_S);
        let bucket = self.now.floor(STEP);
        for feed in 0..FEEDS {
            self.subscribe(FeedIx(feed as u16));
        }
        self.schedule(bucket.plus(-STEP));
        self.schedule(bucket);
        let now = self.now;
        self.rows.retain(|(at, ..)| *at >= now);
        self.take_facts();
    }

    fn subscribe(&mut self, feed: FeedIx) {
        self.core.handle(&StreamEvent::Subscribed { feed }, Some(self.now), true);
        let bucket = self.now.floor(STEP);
        if self.truth.first_row_at(feed.ix(), bucket) < self.now {
            self.row(feed.ix(), bucket, false);
        }
    }

    fn schedule(&mut self, bucket: Timestamp) {
        let mut rows = Vec::new();
        for feed in (0..FEEDS).filter(|feed| self.truth.has_price(*feed, bucket)) {
            rows.push((self.truth.first_row_at(feed, bucket), feed, bucket, false));
            rows.push((bucket.plus(STEP), feed, bucket, true));
        }
        rows.sort();
        self.rows.extend(rows);
    }

    fn row(&mut self, feed: usize, start: Timestamp, closed: bool) {
        let Some(Bar { bid, ask, volume, .. }) = self.truth.bar(feed, start) else { return };
        let ticks = if closed { volume } else { 1 };
        let candle = CandleUpdate { start, bid, ask, ticks, closed };
        let feed = FeedIx(feed as u16);
        self.core.handle(&StreamEvent::Candle { feed, candle }, Some(self.now), true);
    }

    fn tick(&mut self) {
        self.core.tick(self.now, true);
        for Stale { feed, .. } in self.core.take_stale() {
            self.resubscribe.push_back((self.now.plus(RESUBSCRIBED_AFTER_S), feed));
        }
        self.take_facts();
    }

    /// Makes durable what was found, and calls the healer where it has work.
    fn take_facts(&mut self) {
        let facts = self.core.take_facts();
        if facts.is_empty() {
            return;
        }
        self.ledger.apply(&facts, &self.ls);
        let is_hole = |fact: &Fact| matches!(fact, Fact::Marked(mark) if mark.state == State::Missing && mark.reason != Reason::Silent);
        if self.is_reachable && facts.iter().any(is_hole) {
            self.healer.look_at = self.now;
        }
    }

    /// A second passes while history can be asked.
    pub fn pass(&mut self) {
        self.now = self.now.plus(1);
        while let Some((_, feed, bucket, closed)) = self.rows.front().copied().filter(|row| row.0 <= self.now)
        {
            self.rows.pop_front();
            self.row(feed, bucket, closed);
        }
        if self.is_up && self.now.0 % STEP == 0 {
            self.schedule(self.now);
        }
        while let Some((_, feed)) = self.resubscribe.front().copied().filter(|(at, _)| *at <= self.now) {
            self.resubscribe.pop_front();
            self.subscribe(feed);
        }
        self.take_facts();
        if self.now.0 % TICK_S == 0 {
            self.tick();
        }
        if let Some((_, request, probe)) = self.healer.pending.take_if(|(at, ..)| *at <= self.now) {
            if self.ask(&request, probe) {
                self.look();
            }
        } else if self.healer.pending.is_none() && self.healer.look_at <= self.now {
            self.look();
        }
    }

    /// Event time up to which history is counted on.
    fn settled(&self) -> Timestamp {
        self.now.plus(-HISTORY_LAG_S)
    }

    /// Plans, and waits for the turn of the first request.
    fn look(&mut self) {
        let (now, event) = (self.now, self.settled());
        let healer = &mut self.healer;
        healer.look_at = now.plus(LOOK_EVERY_S);
        let pages = book::pages(self.ledger.since_oldest_missing(), &healer.feeds);
        healer.attempts.forget(|pair, timeframe, span| {
            pages.iter().any(|page| page.pair == pair && page.wants(timeframe, span))
        });
        let give_up = GiveUp { after_s: GIVE_UP_S, first_start_after_s: GIVE_UP_S };
        assert_eq!(plan::given_up(&pages, &healer.attempts, &[], give_up, event), [], "nothing is so old");
        let purse = book::purse(&healer.allowance, now);
        let is_probe = purse.refused == Some(Refused::Probe);
        let plan: Plan = plan::plan(&pages, &healer.attempts, &purse, &TERMS, Now { event, wall: now });
        healer.waiting = plan.buckets_waiting();
        healer.planned = plan.requests.iter().map(|request| request.span.start).collect();
        if let Some(request) = plan.requests.into_iter().next() {
            let at_ms = (now.0 * 1_000).max(healer.next_turn_ms);
            healer.next_turn_ms = at_ms + PACE_MS;
            healer.pending = Some((Timestamp((at_ms + 999) / 1_000), request, is_probe));
        }
    }

    /// Asks for a range, as an account does of which it is known how IG reads one: nothing is asked
    /// for as the last N bars, and the point that a plan keeps for the forming bar is not spent.
    /// Answers whether to go on at once.
    fn ask(&mut self, request: &Request, is_probe: bool) -> bool {
        let (now, settled) = (self.now, self.settled());
        let (feed, timeframe) = (request.feed.ix(), request.timeframe);
        let pair = MAJOR_PAIRS[feed];
        let span = request.span.start..request.span.end.min(timeframe.bucket(settled));
        let kept = if request.urgent { 0 } else { TERMS.reserve };
        let available = self.healer.allowance.remaining(now).saturating_sub(kept);
        assert!(is_probe || request.points <= available, "{request:?} with {available} points");

        let told_to = now.plus(-self.truth.lag_s(now));
        let rows: Vec<FetchedBar> = (span.start.0..span.end.0)
            .step_by(timeframe.seconds() as usize)
            .map(Timestamp)
            .filter(|start| start.plus(timeframe.seconds()) <= told_to)
            .filter_map(|start| self.truth.bar_of(feed, timeframe, start))
            .map(|bar| FetchedBar { start: bar.key.start, local_offset_s: None, bar: Some(bar) })
            .collect();
        let points = rows.len() as u32;
        let healer = &mut self.healer;
        healer.spent.requests += 1;
        if now >= healer.renews_at {
            (healer.left, healer.renews_at) = (WEEKLY, healer.renews_at.plus(7 * DAY));
            healer.allowance.on_incidents.clear();
        }
        if points > healer.left {
            let times = healer.allowance.refusals.map_or(0, |refusals| refusals.times) + 1;
            healer.allowance.refusals = Some(Refusals { times, last_at: now });
            return false;
        }
        healer.left -= points;
        healer.spent.points += points;
        healer.spent.paid += u32::from(points > 0);
        let is_of_outage = request.span.start < self.ledger.lost_within.end;
        healer.spent.in_vain += u32::from(is_of_outage && points == 0);
        assert!(points <= request.points, "{request:?} has cost {points}");
        let seen = AllowanceSeen { remaining: healer.left, total: WEEKLY, expires_at: healer.renews_at };
        healer.allowance.seen = Some((seen, now));
        healer.allowance.refusals = None;
        if let Some(incident) = request.incident.clone().filter(|_| points > 0) {
            healer.allowance.on_incidents.push((incident, points));
        }
        healer.attempts.note(pair, timeframe, request.span.clone(), now);
        for row in &rows {
            let state = self.ledger.state(feed, timeframe, row.start);
            let is_missing = match timeframe {
                Timeframe::M5 => state == Some(State::Missing),
                _ => state != Some(State::Stored),
            };
            assert!(is_missing, "{pair} {timeframe} {} was {state:?} and is paid for", row.start);
        }
        if points > 0 {
            healer.spent.last_point = Some(now);
        }
        match (timeframe, points) {
            (_, 0) => {}
            (Timeframe::M5, _) => healer.spent.last_bar = Some((now, healer.spent.requests)),
            _ => healer.spent.quarters += points,
        }

        let covered = answer::speaks_of(&span, &rows, timeframe, settled);
        let evidence: Arc<str> = format!("rest:{}", healer.spent.requests).into();
        if covered.start < covered.end {
            healer.spent.last_news = Some(now);
            healer.spent.proofs += u32::from(points == 0);
        }
        let fetched = Fetched { rows, covered, asked: request.span.clone(), evidence: evidence.clone() };
        // Everything is younger than what history could lack.
        let reading = Reading { calendar: &healer.feeds[feed].calendar, now: settled };
        let facts = facts::facts(pair, timeframe, &fetched, &reading);
        self.take_facts();
        self.core.handle_history(&facts);
        let facts = self.core.take_facts();
        self.ledger.apply(&facts, &evidence);
        true
    }
}
