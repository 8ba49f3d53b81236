//! What to ask of REST, in which order, at which cost. Pure: ledger, allowance, calendar, limits
//! and now in, requests out (DESIGN, rule of truth 6).
//!
//! A bucket costs a point. Newest buckets first across all pairs, as many as may be paid for; one
//! request for what one request can bring. What cannot be paid for waits; where it would wait for
//! days, its 15-minute bars are bought instead, at a third of the price, so that as many 5-minute
//! bars as possible come with all of the 15-minute bars.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::ops::Range;

use super::attempts::Attempts;
use super::holes::{Hole, Kind, Page, clip, count, holes, without};
use crate::domain::coverage::has_no_bar;
use crate::domain::{FeedIx, Mark, Pair, Reason, State, Timeframe, Timestamp};

/// Bars asked for in one request: larger ones have been refused, and charged, on some accounts.
pub const BARS_PER_REQUEST_MAX: u32 = 400;
/// The size below which requests are not made smaller, however IG refuses them.
pub const BARS_PER_REQUEST_MIN: u32 = 50;
/// What a probe may cost: a bar, and the forming one.
const PROBE_POINTS: u32 = 2;
/// Buckets lost so recently may use the reserve, seconds.
const URGENT_S: i64 = 24 * 3600;
/// Where the allowance is renewed within this, 5-minute bars wait for it, seconds.
const RENEWED_SOON_S: i64 = 24 * 3600;
const QUARTER: i64 = Timeframe::M15.seconds();

/// What the configuration and IG's ways demand of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Points that backfill and buckets lost more than a day ago leave untouched.
    pub reserve: u32,
    /// Most points for one incident within a week.
    pub incident_cap: u32,
    /// Most bars a request.
    pub bars_max: u32,
    /// Whether 15-minute bars are kept.
    pub quarters: bool,
    /// Points by which a request that reaches the present is dearer: 1 where it is asked for as the
    /// last N bars, which include the forming one.
    pub reaching_now: u32,
}

/// What may be spent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purse {
    /// Points left of the week's.
    pub remaining: u32,
    /// Seconds until all of the week's points are there again, where IG has told.
    pub renews_in_s: Option<i64>,
    /// What was spent on incidents within the week: the incident, as far as it was unhealed then,
    /// and points.
    pub spent: Vec<(Range<Timestamp>, u32)>,
    /// Nothing can be paid for only because it is not known what some requests have cost, and that for
    /// so long that IG may be asked with a single bar.
    pub in_doubt: bool,
    /// Set where IG has refused for want of points, whatever its numbers were: whether it may be
    /// tried again now.
    pub refused: Option<Refused>,
}

/// What to do about a spent allowance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Wait.
    Wait,
    /// Try with the smallest useful request.
    Probe,
}

/// The present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// By the market, complete buckets end before it.
    pub event: Timestamp,
    /// By the wall clock.
    pub wall: Timestamp,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which feed.
    pub feed: FeedIx,
    /// Bar length, 5 or 15 minutes.
    pub timeframe: Timeframe,
    /// First bucket's start to the end of the last.
    pub span: Range<Timestamp>,
    /// What it is about.
    pub kind: Kind,
    /// Most points that it can cost.
    pub points: u32,
    /// Whether it may use the reserve.
    pub urgent: bool,
    /// Whether it may be asked for as the last N bars: it reaches the present, and none of its
    /// buckets is stored.
    pub reaches_now: bool,
    /// The incident that it is spent on, as far as that is unhealed: none for backfill.
    pub incident: Option<Range<Timestamp>>,
}

impl Request {
    /// The smallest request that is of use: its newest bucket.
    #[must_use]
    pub fn smallest(mut self) -> Request {
        let extra = u32::from(self.reaches_now);
        self.span.start = self.span.start.max(self.span.end.plus(-self.timeframe.seconds()));
        self.points = self.points.min(1 + extra);
        self
    }
}

/// Why buckets wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The week's points, or those beyond the reserve, do not suffice.
    Points,
    /// Their incident has had its share of the week's points.
    Incident,
}

/// Buckets that are not asked for for want of points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Which feed.
    pub feed: FeedIx,
    /// Bucket length.
    pub timeframe: Timeframe,
    /// How many.
    pub buckets: u32,
    /// Why.
    pub why: Why,
}

/// What to ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order to be made.
    pub requests: Vec<Request>,
    /// They only try whether there are points, whatever the numbers known.
    pub is_probe: bool,
    /// What they leave out for want of points.
    pub waiting: Vec<Waiting>,
}

impl Plan {
    /// Most points that all requests can cost.
    pub fn points(&self) -> u32 {
        self.requests.iter().map(|request| request.points).sum()
    }

    /// Buckets that wait for points.
    pub fn buckets_waiting(&self) -> u32 {
        self.waiting.iter().map(|waiting| waiting.buckets).sum()
    }
}

/// Plans all requests that can be made now.
pub fn plan(pages: &[Page], attempts: &Attempts, purse: &Purse, terms: &Terms, now: Now) -> Plan {
    let plan = plan_within(pages, attempts, purse, terms, now);
    if plan.requests.is_empty() && !plan.waiting.is_empty() && purse.in_doubt && purse.refused.is_none() {
        let probing = Purse { refused: Some(Refused::Probe), ..purse.clone() };
        return plan_within(pages, attempts, &probing, terms, now);
    }
    plan
}

fn plan_within(pages: &[Page], attempts: &Attempts, purse: &Purse, terms: &Terms, now: Now) -> Plan {
    let mut planner = Planner::new(pages, attempts, purse, terms, now);
    planner.grant_newest();
    planner.buy_quarters();
    let mut plan = planner.into_plan();
    match purse.refused {
        None => {}
        Some(Refused::Probe) => {
            plan.is_probe = true;
            plan.requests.truncate(1);
            plan.requests = plan.requests.into_iter().map(Request::smallest).collect();
        }
        Some(Refused::Wait) => plan.requests.clear(),
    }
    plan
}

/// After which event time what is missing counts as lost, seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GiveUp {
    /// For what was missed while it was watched.
    pub after_s: i64,
    /// For the first history, which was old already when it was first asked for.
    pub first_start_after_s: i64,
}

/// What is missing for so long that it counts as lost. What was asked for by hand is as old as it is
/// and not given up here; a null price only once it was asked for often enough. Where a bucket is known
/// to have had prices that stays its reason; of such ones those within `reopened`, as somebody wished,
/// are tried once more.
pub fn given_up(
    pages: &[Page],
    attempts: &Attempts,
    reopened: &[(Pair, Timeframe, Range<Timestamp>)],
    give_up: GiveUp,
    now: Timestamp,
) -> Vec<Mark> {
    let mut marks = Vec::new();
    for page in pages {
        for timeframe in [Timeframe::M5, Timeframe::M15] {
            for run in page.runs(timeframe).iter().filter(|run| run.state == State::Missing) {
                let after_s = match run.reason {
                    Reason::Requested => continue,
                    Reason::FirstStart => give_up.first_start_after_s,
                    _ => give_up.after_s,
                };
                let span = run.span.start..run.span.end.min(timeframe.bucket(now.plus(-after_s)));
                if span.start >= span.end {
                    continue;
                }
                let (pair, state) = (page.pair, State::Lost);
                let had_prices = run.reason.had_prices();
                let reason = if had_prices { run.reason } else { Reason::GivenUp };
                let again: Vec<Range<Timestamp>> = reopened
                    .iter()
                    .filter(|(of, length, _)| had_prices && (*of, *length) == (pair, timeframe))
                    .map(|(_, _, span)| span.clone())
                    .collect();
                let others = without(&span, &again);
                let tried = attempts.tried(pair, timeframe, &span);
                let mut spans: Vec<Range<Timestamp>> =
                    tried.iter().flat_map(|part| without(part, &others)).collect();
                match run.reason {
                    Reason::NullLeg => {
                        spans.extend(others.iter().flat_map(|part| attempts.hopeless(pair, timeframe, part)))
                    }
                    _ => spans.extend(others),
                }
                marks.extend(spans.into_iter().map(|span| Mark { pair, timeframe, span, state, reason }));
            }
        }
    }
    marks
}

/// A hole on its way through the budget.
struct Lane {
    hole: Hole,
    class: usize,
    /// Points by which the request that brings its newest bucket is dearer.
    extra: u32,
    /// Its part from here on is paid for.
    granted_from: Option<Timestamp>,
    why: Option<Why>,
}

/// Holes that share a limit: class 0 is backfill, class 1 bars whose end was not seen, a point each
/// however long the stream has run well; each incident is one of its own.
const BACKFILL: usize = 0;
const SEEN: usize = 1;
/// An incident that ended so recently is still being healed, seconds: what was urgent at its end
/// stays so.
const BEING_HEALED_S: i64 = 3600;

struct Class {
    incident: Option<Range<Timestamp>>,
    /// Its buckets from here on are urgent.
    urgent_from: Timestamp,
    /// Points that may still be spent on it.
    left: u32,
    /// Where and why its budget ended, and what had been granted of that part.
    stopped: Option<Stop>,
    /// Granted so far: urgent, and not.
    granted: [u32; 2],
}

#[derive(Clone, Copy)]
struct Stop {
    urgent: bool,
    why: Why,
}

struct Planner<'a> {
    pages: &'a [Page],
    attempts: &'a Attempts,
    purse: &'a Purse,
    terms: &'a Terms,
    now: Now,
    lanes: Vec<Lane>,
    classes: Vec<Class>,
    remaining: u32,
}

impl<'a> Planner<'a> {
    fn new(
        pages: &'a [Page],
        attempts: &'a Attempts,
        purse: &'a Purse,
        terms: &'a Terms,
        now: Now,
    ) -> Planner<'a> {
        let a_day_ago = now.event.plus(-URGENT_S).ceil(QUARTER);
        let free = |urgent_from| Class {
            incident: None,
            urgent_from,
            left: u32::MAX,
            stopped: None,
            granted: [0; 2],
        };
        let mut classes = vec![free(Timestamp(i64::MAX)), free(a_day_ago)];
        classes.extend(incidents(pages).into_iter().map(|incident| {
            let (whole, spent) = so_far(&incident, &purse.spent);
            let ended_s = now.event.since(whole.end);
            let urgent_from = if (0..=BEING_HEALED_S).contains(&ended_s) {
                whole.end.plus(-URGENT_S).ceil(QUARTER)
            } else {
                a_day_ago
            };
            let left = terms.incident_cap.saturating_sub(spent);
            Class { incident: Some(incident), left, ..free(urgent_from) }
        }));
        let mut planner = Planner {
            pages,
            attempts,
            purse,
            terms,
            now,
            lanes: Vec::new(),
            classes,
            // A probe is one bar, whatever is left by the numbers.
            remaining: if purse.refused.is_some() { PROBE_POINTS } else { purse.remaining },
        };
        for page in pages {
            let mut found = holes(page, Timeframe::M5, attempts, now.event, now.wall);
            if terms.quarters {
                found.extend(planner.quarter_holes(page));
            }
            for hole in found {
                let class = planner.class_of(&hole);
                let reaches_now = hole.span.end == hole.timeframe.bucket(now.event);
                let extra = if reaches_now { terms.reaching_now } else { 0 };
                planner.lanes.push(Lane { hole, class, extra, granted_from: None, why: None });
            }
        }
        planner
    }

    fn class_of(&self, hole: &Hole) -> usize {
        match hole.kind {
            Kind::Backfill => return BACKFILL,
            Kind::Seen => return SEEN,
            Kind::NullLeg | Kind::Lost => {}
        }
        let holds = |class: &Class| {
            class
                .incident
                .as_ref()
                .is_some_and(|span| span.start < hole.span.end && hole.span.start < span.end)
        };
        self.classes.iter().position(holds).unwrap_or(SEEN)
    }

    /// 15-minute buckets to be asked for as such: those the ledger misses and that will not be
    /// derived, and those that a part is beyond REST's reach of.
    fn quarter_holes(&self, page: &Page) -> Vec<Hole> {
        let mut found = Vec::new();
        for hole in holes(page, Timeframe::M15, self.attempts, self.now.event, self.now.wall) {
            let dear = hole.dear.iter().flat_map(|run| quarters(run.clone()));
            let not_derived: Vec<Timestamp> =
                dear.filter(|start| !self.will_be_derived(page, *start)).collect();
            if not_derived.len() as u32 == hole.points() {
                found.push(hole);
            } else {
                let kind = hole.kind;
                found.extend(joined(page.feed, &not_derived, kind));
            }
        }
        let nulls = page.m5.iter().filter(|run| (run.state, run.reason) == (State::Missing, Reason::NullLeg));
        let beyond: BTreeSet<Timestamp> = nulls
            .flat_map(|run| self.attempts.hopeless(page.pair, Timeframe::M5, &run.span))
            .flat_map(|span| quarters(span.start.floor(QUARTER)..span.end.ceil(QUARTER)))
            .filter(|start| self.may_buy(page, *start))
            .collect();
        found.extend(joined(page.feed, &beyond.into_iter().collect::<Vec<_>>(), Kind::Lost));
        found
    }

    /// Whether a 15-minute bucket's parts are stored, have no bar, or will be asked for, at least one
    /// of them: it is derived when that comes.
    fn will_be_derived(&self, page: &Page, start: Timestamp) -> bool {
        let step = Timeframe::M5.seconds();
        let mut comes = false;
        (0..3).map(|part| start.plus(part * step)).all(|part| match page.at(Timeframe::M5, part) {
            None => false,
            Some(run) if run.state == State::Missing => {
                comes = true;
                self.attempts.hopeless(page.pair, Timeframe::M5, &(part..part.plus(step))).is_empty()
            }
            Some(run) => run.state == State::Stored || has_no_bar(run.state, run.reason),
        }) && comes
    }

    /// Whether a 15-minute bar can be bought where its parts are dear: it is over, nothing is known
    /// of it, and it was not asked for of late.
    fn may_buy(&self, page: &Page, start: Timestamp) -> bool {
        let span = start..start.plus(QUARTER);
        span.end <= Timeframe::M15.bucket(self.now.event)
            && page.at(Timeframe::M15, start).is_none()
            && !self.attempts.open(page.pair, Timeframe::M15, &span, self.now.wall).is_empty()
    }

    fn is_urgent(&self, class: usize, bucket: Timestamp) -> bool {
        bucket >= self.classes[class].urgent_from
    }

    /// Grants the newest buckets of all holes, one after the other, until the money is gone; urgent
    /// ones before others, so that these leave the reserve alone in whatever order all are made.
    fn grant_newest(&mut self) {
        // The newest on top, of the same time the shorter, then by feed.
        let mut heap = BinaryHeap::new();
        let next = |planner: &Self, ix: usize, run: usize, end: Timestamp| {
            let Lane { hole, class, .. } = &planner.lanes[ix];
            let urgent = planner.is_urgent(*class, end.plus(-hole.timeframe.seconds()));
            ((urgent, end, Reverse(hole.timeframe), Reverse(hole.feed), ix), run)
        };
        for (ix, lane) in self.lanes.iter().enumerate() {
            let last = lane.hole.dear.len() - 1;
            heap.push(next(self, ix, last, lane.hole.dear[last].end));
        }
        while let Some(((urgent, end, _, _, ix), run)) = heap.pop() {
            let lane = &self.lanes[ix];
            let bucket = end.plus(-lane.hole.timeframe.seconds());
            let points = 1 + if lane.granted_from.is_none() { lane.extra } else { 0 };
            if let Err(why) = self.take(lane.class, urgent, points) {
                self.lanes[ix].why = Some(why);
                continue;
            }
            let lane = &mut self.lanes[ix];
            // A hole's beginning may be free.
            let is_all = run == 0 && bucket == lane.hole.dear[0].start;
            lane.granted_from = Some(if is_all { lane.hole.span.start } else { bucket });
            if bucket > lane.hole.dear[run].start {
                heap.push(next(self, ix, run, bucket));
            } else if let Some(before) = run.checked_sub(1) {
                let end = lane.hole.dear[before].end;
                heap.push(next(self, ix, before, end));
            }
        }
    }

    fn take(&mut self, class: usize, urgent: bool, points: u32) -> Result<(), Why> {
        let of_class = &mut self.classes[class];
        let kept = if urgent || self.purse.refused.is_some() { 0 } else { self.terms.reserve };
        let why = if let Some(stop) = of_class.stopped {
            stop.why
        } else if of_class.left < points {
            Why::Incident
        } else if self.remaining.saturating_sub(kept) < points {
            Why::Points
        } else {
            self.remaining -= points;
            of_class.left -= points;
            of_class.granted[usize::from(!urgent)] += points;
            return Ok(());
        };
        of_class.stopped.get_or_insert(Stop { urgent, why });
        Err(why)
    }

    /// Where an incident's money ended and none comes soon: takes what was granted of that part
    /// and buys as many 5-minute bars as leave enough for the other 15-minute bars.
    fn buy_quarters(&mut self) {
        if !self.terms.quarters || self.purse.refused.is_some() {
            return;
        }
        for class in SEEN..self.classes.len() {
            let Some(stop) = self.classes[class].stopped else { continue };
            let soon = self.purse.renews_in_s.is_some_and(|seconds| seconds <= RENEWED_SOON_S);
            if stop.why == Why::Points && soon {
                continue;
            }
            self.split(class, stop);
        }
    }

    fn split(&mut self, class: usize, stop: Stop) {
        let granted = self.classes[class].granted[usize::from(!stop.urgent)];
        let urgent_from = self.classes[class].urgent_from;
        let part =
            if stop.urgent { urgent_from..Timestamp(i64::MAX) } else { Timestamp(i64::MIN)..urgent_from };
        let of_class = |lane: &&Lane| lane.class == class && lane.hole.timeframe == Timeframe::M5;
        let of_quarters = |lane: &&Lane| lane.class == class && lane.hole.timeframe != Timeframe::M5;
        // What is granted besides 5-minute buckets stays so.
        let extras: u32 = self.lanes.iter().filter(of_class).map(|lane| lane.extra).sum();
        let others = self.lanes.iter().filter(of_quarters).map(|lane| lane.hole.points() + lane.extra);
        let budget = granted.saturating_sub(extras).saturating_sub(others.sum());
        let dear: Vec<(FeedIx, Vec<Range<Timestamp>>)> = self
            .lanes
            .iter()
            .filter(of_class)
            .map(|lane| (lane.hole.feed, clip(&lane.hole.dear, &part)))
            .filter(|(_, dear)| !dear.is_empty())
            .collect();
        let mut to_buy: BTreeSet<(Timestamp, FeedIx)> = BTreeSet::new();
        for (feed, runs) in &dear {
            let Some(page) = self.pages.iter().find(|page| page.feed == *feed) else { continue };
            for start in runs.iter().flat_map(|run| quarters(run.start.floor(QUARTER)..run.end.ceil(QUARTER)))
            {
                // An incident beside this one may have its part in the same quarter.
                let is_planned = self.lanes.iter().any(|lane| {
                    lane.hole.timeframe == Timeframe::M15
                        && lane.hole.feed == *feed
                        && lane.hole.span.contains(&start)
                });
                if !is_planned && self.may_buy(page, start) {
                    to_buy.insert((start, *feed));
                }
            }
        }
        if to_buy.is_empty() {
            return;
        }
        let to_buy: Vec<(Timestamp, FeedIx)> = to_buy.into_iter().collect();
        let short_from = |from: Timestamp| {
            let span = from..Timestamp(i64::MAX);
            dear.iter().map(|(_, runs)| count(&clip(runs, &span), Timeframe::M5)).sum::<u32>()
        };
        let long_before = |to: Timestamp| to_buy.partition_point(|(start, _)| *start < to);
        // The earliest quarter of an hour from which on 5-minute bars can be paid for.
        let starts = dear.iter().flat_map(|(_, runs)| runs.first().map(|run| run.start.floor(QUARTER)));
        let ends = dear.iter().flat_map(|(_, runs)| runs.last().map(|run| run.end.ceil(QUARTER)));
        let (Some(mut low), Some(mut high)) = (starts.min(), ends.max()) else { return };
        let end = high;
        while low < high {
            let middle = low.plus(high.since(low) / 2).floor(QUARTER);
            if short_from(middle) + long_before(middle) as u32 <= budget {
                high = middle;
            } else {
                low = middle.plus(QUARTER);
            }
        }
        let from = low.min(end);
        if long_before(from) == 0 {
            return;
        }
        let affordable = budget.saturating_sub(short_from(from)) as usize;
        let older = &to_buy[..long_before(from)];
        let bought = &older[older.len().saturating_sub(affordable)..];
        for lane in self.lanes.iter_mut().filter(|lane| {
            lane.class == class && lane.hole.timeframe == Timeframe::M5 && lane.hole.span.start < part.end
        }) {
            let granted = lane.hole.from(from.max(part.start)).map(|hole| hole.span.start);
            lane.granted_from = granted;
            lane.why = Some(stop.why);
        }
        let feeds: BTreeSet<FeedIx> = bought.iter().map(|(_, feed)| *feed).collect();
        for feed in feeds {
            let starts: Vec<Timestamp> =
                bought.iter().filter(|(_, of)| *of == feed).map(|(start, _)| *start).collect();
            for hole in joined(feed, &starts, Kind::Lost) {
                let granted_from = Some(hole.span.start);
                self.lanes.push(Lane { hole, class, extra: 0, granted_from, why: None });
            }
        }
    }

    fn into_plan(self) -> Plan {
        let mut plan = Plan::default();
        for lane in &self.lanes {
            let granted = lane.granted_from.and_then(|from| lane.hole.from(from));
            let left_out = lane.hole.points() - granted.as_ref().map_or(0, Hole::points);
            if left_out > 0 {
                plan.waiting.push(Waiting {
                    feed: lane.hole.feed,
                    timeframe: lane.hole.timeframe,
                    buckets: left_out,
                    why: lane.why.unwrap_or(Why::Points),
                });
            }
            let Some(granted) = granted else { continue };
            let Class { incident, urgent_from, .. } = &self.classes[lane.class];
            // Where nobody needs the reserve, one request may ask for both.
            let parts = if self.remaining >= self.terms.reserve {
                [Some(granted), None]
            } else {
                [granted.from(*urgent_from), granted.before(*urgent_from)]
            };
            for part in parts.into_iter().flatten() {
                plan.requests.extend(self.requests(part, lane, incident.as_ref()));
            }
        }
        plan.requests.sort_by_key(|request| (Reverse(request.span.end), request.timeframe, request.feed));
        plan
    }

    /// One request, or as many as it takes, from the newest.
    fn requests(&self, hole: Hole, lane: &Lane, incident: Option<&Range<Timestamp>>) -> Vec<Request> {
        let mut requests = Vec::new();
        let mut rest = Some(hole);
        while let Some(hole) = rest.take() {
            let start = hole.newest(self.terms.bars_max.max(1));
            let Some(part) = hole.from(start) else { break };
            rest = hole.before(start);
            let extra = if part.span.end == lane.hole.span.end { lane.extra } else { 0 };
            requests.push(Request {
                feed: part.feed,
                timeframe: part.timeframe,
                points: part.points() + extra,
                urgent: self.is_urgent(lane.class, part.span.start),
                reaches_now: extra > 0,
                kind: part.kind,
                span: part.span,
                incident: incident.cloned(),
            });
        }
        requests
    }
}

/// All of an incident of which this part is unhealed, and what was spent on it: as long as it goes on
/// it is healed bucket by bucket, so spends that adjoin are on the same one.
fn so_far(incident: &Range<Timestamp>, spent: &[(Range<Timestamp>, u32)]) -> (Range<Timestamp>, u32) {
    let mut whole = incident.clone();
    let mut rest: Vec<&(Range<Timestamp>, u32)> = spent.iter().collect();
    let mut points = 0u32;
    loop {
        let (on_it, others): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|(span, _)| span.start <= whole.end && whole.start <= span.end);
        if on_it.is_empty() {
            return (whole, points);
        }
        for (span, of_it) in on_it {
            whole = whole.start.min(span.start)..whole.end.max(span.end);
            points = points.saturating_add(*of_it);
        }
        rest = others;
    }
}

/// Incidents: stretches in which pairs lack buckets that the stream has lost, with those beside them
/// whose end was not seen and over such that have no bar, joined where those of several pairs meet.
/// Ascending.
fn incidents(pages: &[Page]) -> Vec<Range<Timestamp>> {
    let mut stretches: Vec<Range<Timestamp>> = Vec::new();
    for page in pages {
        let mut open: Option<Stretch> = None;
        for run in &page.m5 {
            let reached = open.as_ref().is_some_and(|open| open.reach == run.span.start);
            let kind = Kind::of(run.reason);
            match run.state {
                State::Missing if kind != Kind::Backfill => {
                    let is_lost = kind != Kind::Seen;
                    match &mut open {
                        Some(open) if reached => {
                            (open.span.end, open.reach) = (run.span.end, run.span.end);
                            open.is_lost |= is_lost;
                        }
                        _ => {
                            stretches.extend(open.take().and_then(Stretch::lost));
                            open = Some(Stretch { span: run.span.clone(), reach: run.span.end, is_lost });
                        }
                    }
                }
                State::Quiet | State::Closed => {
                    if let Some(open) = open.as_mut().filter(|_| reached) {
                        open.reach = run.span.end;
                    }
                }
                _ => {}
            }
        }
        stretches.extend(open.and_then(Stretch::lost));
    }
    stretches.sort_by_key(|stretch| (stretch.start, stretch.end));
    let mut joined: Vec<Range<Timestamp>> = Vec::new();
    for stretch in stretches {
        match joined.last_mut() {
            Some(last) if stretch.start <= last.end => last.end = last.end.max(stretch.end),
            _ => joined.push(stretch),
        }
    }
    joined
}

/// Missing buckets of one pair, and how far they reach with buckets behind them that have no bar.
struct Stretch {
    span: Range<Timestamp>,
    reach: Timestamp,
    /// The stream has lost some of them.
    is_lost: bool,
}

impl Stretch {
    fn lost(self) -> Option<Range<Timestamp>> {
        self.is_lost.then_some(self.span)
    }
}

/// The starts of the quarters of an hour that begin within a span on their grid.
fn quarters(span: Range<Timestamp>) -> impl Iterator<Item = Timestamp> {
    std::iter::successors(Some(span.start), |start| Some(start.plus(QUARTER)))
        .take_while(move |start| *start < span.end)
}

/// Holes of 15-minute buckets from their starts, ascending.
fn joined(feed: FeedIx, starts: &[Timestamp], kind: Kind) -> Vec<Hole> {
    let mut holes: Vec<Hole> = Vec::new();
    for start in starts {
        let span = *start..start.plus(QUARTER);
        match holes.last_mut() {
            Some(last) if last.span.end == span.start => {
                (last.span.end, last.dear[0].end) = (span.end, span.end);
            }
            _ => {
                let dear = vec![span.clone()];
                holes.push(Hole { feed, timeframe: Timeframe::M15, span, dear, kind });
            }
        }
    }
    holes
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
