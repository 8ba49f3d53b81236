//! One feed's candles into settled bars and findings: rules 1 and 2. Pure.
//!
//! Every bucket from the feed's *frontier* on is accounted for exactly once, in order, as soon as
//! something is known of it: settled by its end-of-candle row, quiet by proof, closed by the
//! calendar, or missing with a reason. What is learnt later (a late close, a proof of quiet) is
//! told as a further finding; the ledger decides which of two findings stands.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::absent;
use super::inference::{Guess, Inference};
use super::patience::Patience;
use crate::domain::{
    Bar, Calendar, CandleUpdate, Expectation, Fact, Mark, Pair, Reason, State, Timeframe, Timestamp,
};

const STEP: i64 = Timeframe::M5.seconds();
/// Seconds after its end in which a bucket's end-of-candle row may still come before the bucket
/// is called unconfirmed or silent.
pub const GRACE_S: i64 = 15;

/// Seconds in which the first row may come and say where the account of a new feed begins. Rows
/// also show a clock that is wrong before anything is written down by it.
const FIRST_ROW_WAIT_S: i64 = 10;

/// A row of a bucket that lies so far in the future, seconds, is wrong about its time, or the
/// clock is: it proves nothing of the buckets before it.
const AHEAD_MAX_S: i64 = 30;

/// A close is inferred from silence only where the connection has brought a row of a later
/// bucket, of any feed, so many seconds after the bucket's end: else it may be dead.
const HEARD_AFTER_S: i64 = 5;

/// Buckets with prices that settle nothing, kept a feed at a time; more are taken for silent.
const SHOWN_MAX: usize = 64;

/// The start of continuity of a subscription that is not dated yet.
const UNDATED: Timestamp = Timestamp(i64::MAX);

/// Whether rows of this feed can be trusted to follow each other without loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// Not subscribed, for this reason.
    Down(Reason),
    /// Subscribed without a break since this bucket's start (or within the one before it).
    Up {
        since: Timestamp,
        /// When the subscription began by the clock, where that could tell.
        dated: Option<Timestamp>,
        /// Seconds that rows have shown that clock to be slow, at most.
        slow_s: i64,
    },
}

/// The state of one feed.
#[derive(Clone, Debug)]
pub struct Finalizer {
    pair: Pair,
    /// The hours of its market.
    calendar: Arc<Calendar>,
    link: Link,
    /// What broke the link that is up now repaired: the reason for buckets lost before it.
    lost_by: Reason,
    unfiltered: bool,
    /// The first bucket not accounted for. `None` until the first row or moment is known.
    frontier: Option<Timestamp>,
    /// The forming candle, which starts at the frontier.
    forming: Option<CandleUpdate>,
    /// A row of the forming candle was held back or may be lost, so its last values may not be
    /// final.
    tainted: bool,
    /// Buckets from the frontier on that had prices, as rows have shown which settle nothing:
    /// rows that were held back, and candles over whose forming the link broke.
    shown: BTreeSet<Timestamp>,
    /// Buckets marked silent that a later row on this link would prove quiet.
    silent: Option<Range<Timestamp>>,
    /// How long it may be silent.
    patience: Patience,
    /// When the last silence ended of which no row proves anything, and why. The row that ended it may have been of a
    /// bucket long past, and then another one tells of those in between.
    unproved: Option<(Timestamp, Reason)>,
    first_tick: Option<Timestamp>,
    /// Where accounting began in this process: older rows are not its business.
    first: Option<Timestamp>,
}

/// What a feed needs of the house around it.
pub struct Surroundings<'a> {
    /// The account's record of guessed closes.
    pub inference: &'a mut Inference,
    /// Where findings go.
    pub facts: &'a mut Vec<Fact>,
    /// The shortest silence of an item, event seconds in expected hours, that is too long.
    pub stale_s: i64,
    /// The latest bucket of which a row of any feed has come, and when the last one came.
    pub heard: Option<(Timestamp, Timestamp)>,
    /// Bars of the first backfill, in 5-minute and in 15-minute buckets.
    pub depth: Depth,
}

/// How many bars of each length the first backfill brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// 5-minute bars.
    pub m5: u32,
    /// 15-minute bars; those that the 5-minute bars cover are derived, not fetched.
    pub m15: u32,
}

impl Finalizer {
    /// A feed accounted for up to `resume` in an earlier run, or never watched before.
    pub fn new(pair: Pair, calendar: Arc<Calendar>, resume: Option<Timestamp>) -> Finalizer {
        Finalizer {
            pair,
            calendar,
            link: Link::Down(Reason::Offline),
            lost_by: Reason::Offline,
            unfiltered: false,
            frontier: resume,
            forming: None,
            tainted: false,
            shown: BTreeSet::new(),
            silent: None,
            patience: Patience::default(),
            unproved: None,
            first_tick: None,
            first: resume,
        }
    }

    /// Currency pair.
    pub fn pair(&self) -> Pair {
        self.pair
    }

    /// The first bucket that is not accounted for, if anything is known yet.
    pub fn frontier(&self) -> Option<Timestamp> {
        self.frontier
    }

    /// The candle under way, as its last row told it.
    pub fn forming(&self) -> Option<&CandleUpdate> {
        self.forming.as_ref()
    }

    /// The hours of its market.
    pub fn calendar(&self) -> &Calendar {
        &self.calendar
    }

    /// The server confirmed the subscription at event time `now`, if a clock can tell that.
    pub fn subscribed(&mut self, now: Option<Timestamp>, around: &mut Surroundings<'_>) {
        if matches!(self.link, Link::Up { .. }) {
            // News of the break was overtaken.
            self.broken(Reason::Disconnected, around);
        }
        if let Link::Down(reason) = self.link {
            self.lost_by = reason;
        }
        // The snapshot row tells of the bucket under way; only later ones are seen whole. Where
        // no clock tells the time, the first row of a bucket still open dates the subscription.
        let since = now.map_or(UNDATED, |now| now.ceil(STEP));
        self.link = Link::Up { since, dated: now, slow_s: 0 };
        self.unfiltered = false;
        self.patience.subscribed(now, self.lost_by == Reason::Stale);
    }

    /// `CONF` told whether rows of this subscription can be merged away.
    pub fn configured(&mut self, unfiltered: bool) {
        self.unfiltered = unfiltered;
    }

    /// A row was held back that shows this bucket to have had prices, if any.
    pub fn rejected(&mut self, bucket: Option<Timestamp>) {
        self.tainted = true;
        if let Some(bucket) = bucket {
            self.show(bucket);
        }
    }

    /// The connection is gone: until a row comes the last values may not be final.
    pub fn link_in_doubt(&mut self) {
        self.tainted = true;
    }

    fn show(&mut self, bucket: Timestamp) {
        if self.frontier.is_some_and(|frontier| frontier <= bucket) && self.shown.len() < SHOWN_MAX {
            self.shown.insert(bucket);
        }
    }

    /// Continuity is broken. What was silent can no longer be proved quiet.
    pub fn broken(&mut self, reason: Reason, around: &mut Surroundings<'_>) {
        if let Some(silent) = self.silent.take() {
            self.mark(silent, State::Missing, reason, around.facts);
        }
        if matches!(self.link, Link::Up { .. }) {
            self.link = Link::Down(reason);
        }
        // The bucket under way may yet be completed by rows after the reconnect.
        if let Some(forming) = self.forming.take() {
            self.show(forming.start);
        }
        self.tainted = false;
    }

    /// Takes a row that came at event time `now`, if it only moves the candle under way and nothing else is to be said
    /// of it. Returns whether that is so; if not, nothing has happened: see [`Finalizer::row`].
    #[inline]
    pub fn goes_on(&mut self, candle: &CandleUpdate, now: Option<Timestamp>) -> bool {
        let Some(forming) = &mut self.forming else { return false };
        let now = now.unwrap_or(candle.start);
        let is_dated = !matches!(self.link, Link::Up { since: UNDATED, .. });
        let goes_on = forming.start == candle.start
            && self.frontier == Some(candle.start)
            && (candle.start..candle.start.plus(STEP)).contains(&now)
            && forming.ticks <= candle.ticks
            && !candle.closed
            && is_dated
            && self.silent.is_none()
            && self.shown.is_empty();
        if goes_on {
            *forming = *candle;
            self.tainted = false;
            self.patience.row((candle.start, candle.ticks, false), now, &self.calendar);
        }
        goes_on
    }

    /// A row came, at event time `now`.
    pub fn row(&mut self, candle: &CandleUpdate, now: Option<Timestamp>, around: &mut Surroundings<'_>) {
        let start = candle.start;
        let clock = now.unwrap_or(start);
        let ahead_s = start.since(clock).max(0);
        let now = clock.plus(ahead_s);
        // A row after too long a silence ends it and proves nothing of it.
        let proof = if ahead_s > AHEAD_MAX_S {
            Err(Reason::Silent)
        } else if self.patience.is_overdue(now, around.stale_s, &self.calendar) {
            Err(Reason::Stale)
        } else {
            Ok(())
        };
        self.unproved = proof.err().map(|reason| (now, reason)).or(self.unproved);
        self.patience.row((start, candle.ticks, candle.closed), now, &self.calendar);
        let frontier = match self.frontier {
            Some(frontier) => frontier,
            None => self.begin(start, around),
        };
        if start < frontier {
            return self.late_row(candle, proof, around);
        }
        if let Link::Up { since, dated, slow_s } = &mut self.link {
            if *since == UNDATED {
                *since = start.plus(STEP).max(now.ceil(STEP));
            } else if let Some(dated) = dated.filter(|_| ahead_s > *slow_s) {
                // The clock that dated the subscription was slow by so much at least.
                *slow_s = ahead_s;
                *since = (*since).max(dated.plus(ahead_s).ceil(STEP));
            }
        }
        if let Some(unclosed) = self.forming.take_if(|forming| forming.start < start) {
            self.close_unseen(&unclosed, around);
        }
        self.account_to(start, proof, around);
        self.shown.remove(&start);
        if candle.closed {
            if self.forming.is_some_and(|forming| candle.ticks < forming.ticks) {
                // A candle's last row has counted them all: this one is not what it says it is.
                self.mark(start..start.plus(STEP), State::Missing, Reason::UnconfirmedClose, around.facts);
            } else {
                around.facts.push(Fact::Settled(Bar::from_candle(self.pair, candle)));
            }
            self.forming = None;
            self.frontier = Some(start.plus(STEP));
            self.tainted = false;
        } else if self.forming.is_some_and(|forming| candle.ticks < forming.ticks) {
            // Overtaken by a later one, or counted anew: which of them is the last is not known.
            self.tainted = true;
        } else {
            self.tainted = false;
            self.forming = Some(*candle);
        }
    }

    /// A row of a bucket already accounted for: a repeated or late close is told again and the
    /// ledger decides; any other row shows that the bucket had prices, if it is not stored.
    fn late_row(&mut self, candle: &CandleUpdate, proof: Result<(), Reason>, around: &mut Surroundings<'_>) {
        let bucket = candle.start..candle.start.plus(STEP);
        let silent = self.silent.clone().filter(|silent| silent.contains(&candle.start));
        if let Some(silent) = silent {
            self.quiet_if(proof, silent.start..bucket.start, around);
            self.silent = (bucket.end < silent.end).then_some(bucket.end..silent.end);
        }
        let bar = Bar::from_candle(self.pair, candle);
        around.inference.late_row(&bar, candle.closed);
        if candle.closed {
            around.facts.push(Fact::Settled(bar));
        } else if self.first.is_some_and(|first| first <= bucket.start) {
            self.mark(bucket, State::Missing, Reason::UnconfirmedClose, around.facts);
        }
    }

    /// Time has passed that nobody saw, as in a suspended machine: rows after it do not follow
    /// those before it. The subscription itself goes on.
    pub fn interrupted(&mut self, now: Option<Timestamp>, around: &mut Surroundings<'_>) {
        if matches!(self.link, Link::Up { .. }) {
            let unfiltered = self.unfiltered;
            self.broken(Reason::Disconnected, around);
            self.subscribed(now, around);
            self.unfiltered = unfiltered;
        }
    }

    /// Event time has reached `now`: accounts for buckets that ended without a word. Where the feed
    /// has been silent in expected hours for longer than it ever is and should be subscribed
    /// again, tells how many times in a row that has been done in vain.
    pub fn tick(&mut self, now: Timestamp, around: &mut Surroundings<'_>) -> Option<u32> {
        let mut frontier = match self.frontier {
            Some(frontier) => frontier,
            None if now.since(*self.first_tick.get_or_insert(now)) < FIRST_ROW_WAIT_S => return None,
            None => self.begin(now.floor(STEP), around),
        };
        while frontier.plus(STEP + GRACE_S) <= now {
            match self.forming.take_if(|forming| forming.start == frontier) {
                Some(unclosed) => {
                    let end = frontier.plus(STEP);
                    let heard = around.heard.filter(|(bucket, _)| *bucket >= end);
                    // A link that has brought nothing since may be dead without anybody knowing.
                    self.tainted |= heard.is_none_or(|(_, at)| at < end.plus(HEARD_AFTER_S));
                    self.close_unseen(&unclosed, around);
                }
                None => self.silent_bucket(frontier, around),
            }
            frontier = frontier.plus(STEP);
            self.frontier = Some(frontier);
        }
        if !matches!(self.link, Link::Up { .. }) {
            return None;
        }
        let in_vain = self.patience.lost(now, around.stale_s, &self.calendar);
        if in_vain.is_some() {
            self.broken(Reason::Stale, around);
        }
        in_vain
    }

    /// Accounts for the buckets up to event time `now`, where nobody streams: not for one who may be
    /// proved quiet yet.
    pub fn account_unseen(&mut self, now: Timestamp, around: &mut Surroundings<'_>) {
        if self.frontier.is_none() {
            self.begin(now.floor(STEP), around);
        }
        self.tick(now, around);
    }

    /// First knowledge of a feed never watched before: asks the first backfill for what lies
    /// before `start`.
    fn begin(&mut self, start: Timestamp, around: &mut Surroundings<'_>) -> Timestamp {
        let marks = absent::first_start(self.pair, &self.calendar, start, around.depth);
        around.facts.extend(marks.into_iter().map(Fact::Marked));
        (self.frontier, self.first) = (Some(start), Some(start));
        start
    }

    /// Accounts for the buckets from the frontier up to the one that a row has just told of. Those
    /// in between were quiet only if the row is proof of it.
    fn account_to(&mut self, start: Timestamp, proof: Result<(), Reason>, around: &mut Surroundings<'_>) {
        // So it is for nearly every row.
        if self.frontier == Some(start) && self.silent.is_none() {
            return;
        }
        if let Some(silent) = self.silent.take() {
            self.quiet_if(proof, silent, around);
        }
        let Some(frontier) = self.frontier.replace(start) else { return };
        let seen_from = match self.link {
            Link::Up { since, .. } => since.clamp(frontier, start.max(frontier)),
            Link::Down(_) => start,
        };
        let lost_by = match self.link {
            Link::Up { .. } => self.lost_by,
            Link::Down(reason) => reason,
        };
        self.mark_by_calendar(frontier..seen_from, lost_by, around);
        self.quiet_if(proof, seen_from..start, around);
    }

    /// A bucket whose rows ended without the end-of-candle row.
    fn close_unseen(&mut self, unclosed: &CandleUpdate, around: &mut Surroundings<'_>) {
        let bucket = unclosed.start..unclosed.start.plus(STEP);
        self.frontier = Some(bucket.end);
        let bar = Bar::from_candle(self.pair, unclosed);
        let unbroken = matches!(self.link, Link::Up { since, .. } if since <= unclosed.start);
        let may_guess = self.unfiltered && unbroken && !self.tainted;
        if may_guess && around.inference.guess(&bar) == Guess::Trust {
            around.facts.push(Fact::Settled(bar));
        } else {
            self.mark(bucket, State::Missing, Reason::UnconfirmedClose, around.facts);
        }
    }

    /// A bucket that ended without any row.
    fn silent_bucket(&mut self, start: Timestamp, around: &mut Surroundings<'_>) {
        let bucket = start..start.plus(STEP);
        match (self.calendar.expectation(start), self.link) {
            _ if self.shown.contains(&start) => {
                self.mark(bucket, State::Missing, Reason::UnconfirmedClose, around.facts);
            }
            (Expectation::Closed, _) => self.mark(bucket, State::Closed, Reason::Calendar, around.facts),
            (expectation, Link::Up { since, .. }) if since <= start => {
                let (state, reason) = match expectation {
                    Expectation::Possible => (State::Closed, Reason::PossiblyOpen),
                    _ => (State::Missing, Reason::Silent),
                };
                self.mark(bucket.clone(), state, reason, around.facts);
                // A later row proves it quiet, whatever the calendar says.
                match &mut self.silent {
                    Some(silent) => silent.end = bucket.end,
                    None => self.silent = Some(bucket),
                }
            }
            (_, Link::Up { .. }) => self.mark(bucket, State::Missing, self.lost_by, around.facts),
            (_, Link::Down(reason)) => self.mark(bucket, State::Missing, reason, around.facts),
        }
    }

    fn quiet_if(&mut self, proof: Result<(), Reason>, span: Range<Timestamp>, around: &mut Surroundings<'_>) {
        if let Err(reason) = proof {
            return self.mark_by_calendar(span, reason, around);
        }
        // What began before the last silence ended is not proved by what came after.
        let from = match self.unproved {
            Some((ended, reason)) => {
                let from = ended.ceil(STEP).clamp(span.start, span.end.max(span.start));
                self.mark_by_calendar(span.start..from, reason, around);
                from
            }
            None => span.start,
        };
        self.quiet(from..span.end, around);
    }

    fn quiet(&mut self, span: Range<Timestamp>, around: &mut Surroundings<'_>) {
        for (run, expectation) in self.calendar.runs(span) {
            match expectation {
                Expectation::Closed => self.mark(run, State::Closed, Reason::Calendar, around.facts),
                _ => self.mark(run, State::Quiet, Reason::LaterRow, around.facts),
            }
        }
    }

    fn mark_by_calendar(&mut self, span: Range<Timestamp>, reason: Reason, around: &mut Surroundings<'_>) {
        let calendar = self.calendar.clone();
        for mark in absent::unseen(self.pair, &calendar, Timeframe::M5, span, reason) {
            self.mark(mark.span, mark.state, mark.reason, around.facts);
        }
    }

    /// Tells a finding. Buckets inside that had prices are missing whatever else is found.
    fn mark(&mut self, span: Range<Timestamp>, state: State, reason: Reason, facts: &mut Vec<Fact>) {
        let mut from = span.start;
        while let Some(bucket) = self.shown.range(from..span.end.max(from)).next().copied() {
            self.shown.remove(&bucket);
            self.tell(from..bucket, state, reason, facts);
            from = bucket.plus(STEP);
            self.tell(bucket..from, State::Missing, Reason::UnconfirmedClose, facts);
        }
        self.tell(from..span.end, state, reason, facts);
    }

    /// Tells a finding, joined to the one before where it only makes that longer.
    fn tell(&self, span: Range<Timestamp>, state: State, reason: Reason, facts: &mut Vec<Fact>) {
        if span.start >= span.end {
            return;
        }
        if let Some(Fact::Marked(last)) = facts.last_mut()
            && (last.pair, last.timeframe, last.state, last.reason)
                == (self.pair, Timeframe::M5, state, reason)
            && last.span.end == span.start
        {
            last.span.end = span.end;
            return;
        }
        facts.push(Fact::Marked(Mark { pair: self.pair, timeframe: Timeframe::M5, span, state, reason }));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::inference::MATCHES_TO_EARN;
    use super::*;
    use crate::aggregator::testing::bar;

    /// Wednesday 2020-01-15 12:00 UTC: bucket 0 of every script, far from any close.
    const NOON: i64 = 1_579_089_600;
    const STALE_S: i64 = 1_800;

    /// Runs a script and returns what was found, both as text. Words of a script:
    /// `sub@M` subscribed at minute M (`sub@?` before any time is known), `unf` CONF unfiltered,
    /// `rN` row of bucket N, `cN` end-of-candle row, `cN*` the same with another price, `rN:T` with
    /// T ticks, `rN!` a row that the clock has not caught up with, `bad` a
    /// row held back, `badN` one of bucket N, `hN` another feed's row of bucket N, `cut` the
    /// connection is gone, `lost` broken, `doubt` held back for its scale, `gap@M` the machine wakes at minute M, `@M` event time reaches minute M.
    fn run(resume: Option<i64>, matched: u32, script: &str) -> (String, Inference) {
        let mut inference = Inference::new(matched);
        let mut facts = Vec::new();
        let (mut now, mut heard) = (None, None);
        let at = |bucket: i64| Timestamp(NOON + bucket * STEP);
        let mut feed = Finalizer::new("EURUSD".parse().unwrap(), Arc::new(Calendar::forex()), resume.map(at));
        let mut told = Vec::new();
        for word in script.split_whitespace() {
            let mut around = Surroundings {
                inference: &mut inference,
                facts: &mut facts,
                stale_s: STALE_S,
                heard,
                depth: Depth { m5: 4, m15: 3 },
            };
            let minute = |text: &str| {
                text.parse::<f64>().ok().map(|minute| Timestamp(NOON + (minute * 60.0).round() as i64))
            };
            if let Some(time) = word.strip_prefix("sub@") {
                let since = minute(time);
                now = since.or(now);
                feed.subscribed(since, &mut around);
            } else if let Some(time) = word.strip_prefix("gap@") {
                now = minute(time);
                feed.interrupted(now, &mut around);
                feed.tick(now.unwrap(), &mut around);
            } else if let Some(time) = word.strip_prefix('@') {
                now = minute(time);
                if let Some(in_vain) = feed.tick(now.unwrap(), &mut around) {
                    told.push(format!("stale{in_vain}@{time}"));
                }
            } else if let Some(bucket) = word.strip_prefix("bad").filter(|bucket| !bucket.is_empty()) {
                feed.rejected(Some(at(bucket.parse().unwrap())));
            } else if let Some(bucket) = word.strip_prefix('h') {
                let start = at(bucket.parse().unwrap());
                now = now.max(Some(start));
                heard = now.map(|now| (start, now));
            } else if let Some(bucket) = word.strip_prefix(['r', 'c']).filter(|_| word != "cut") {
                let price = if bucket.ends_with('*') { "1.2" } else { "1.1" };
                let slow = bucket.ends_with('!');
                let (bucket, ticks) = bucket
                    .trim_end_matches(['*', '!'])
                    .split_once(':')
                    .unwrap_or((bucket.trim_end_matches(['*', '!']), "1"));
                let (start, ticks) = (at(bucket.parse().unwrap()), ticks.parse().unwrap());
                let Bar { bid, ask, .. } = bar("EURUSD", 0, price);
                let closed = word.starts_with('c');
                now = if slow { now } else { now.max(Some(start)) };
                feed.row(&CandleUpdate { start, bid, ask, ticks, closed }, now, &mut around);
            } else {
                match word {
                    "unf" => feed.configured(true),
                    "bad" => feed.rejected(None),
                    "cut" => feed.link_in_doubt(),
                    "lost" => feed.broken(Reason::Disconnected, &mut around),
                    "doubt" => feed.broken(Reason::ScaleInDoubt, &mut around),
                    other => panic!("unknown word {other}"),
                }
            }
        }
        let bucket = |time: Timestamp| (time.0 - NOON) as f64 / STEP as f64;
        told.extend(facts.iter().map(|fact| match fact {
            Fact::Settled(bar) => format!("bar {}", bucket(bar.key.start)),
            Fact::Marked(Mark { timeframe, span, reason, state, .. }) => {
                let length = if *timeframe == Timeframe::M5 { "" } else { " 15m" };
                format!("{state} {reason}{length} {}..{}", bucket(span.start), bucket(span.end))
            }
        }));
        (told.join(", "), inference)
    }

    fn check(script: &str, expected: &str) {
        assert_eq!(run(Some(0), 0, script).0, expected, "{script}");
    }

    #[test]
    fn an_end_of_candle_row_settles_its_bucket() {
        check("sub@0 r0 r0 c0 r1 c1", "bar 0, bar 1");
        check("sub@0 c0 c1 c2", "bar 0, bar 1, bar 2");
    }

    #[test]
    fn a_row_taken_after_a_reconnect_inside_the_bucket_is_as_good_as_any() {
        check("sub@0 r0 lost sub@3 r0 c0", "bar 0");
    }

    #[test]
    fn a_close_that_was_not_seen_is_a_gap_until_confirmed() {
        check("sub@0 r0 r1 c1", "missing unconfirmed_close 0..1, bar 1");
        check("sub@0 unf r0 r1 c1", "missing unconfirmed_close 0..1, bar 1");
        check("sub@0 r0 @5 @6", "missing unconfirmed_close 0..1");
    }

    #[test]
    fn a_close_is_inferred_only_where_earned_unmerged_untainted_and_unbroken() {
        let earned = |script: &str| run(Some(0), MATCHES_TO_EARN, script).0;
        assert_eq!(earned("sub@0 unf r0 r1 c1"), "bar 0, bar 1");
        assert_eq!(earned("sub@0 unf r0 @5.2 h1 @6"), "bar 0", "silence past the grace");
        let unconfirmed = "missing unconfirmed_close 0..1";
        assert_eq!(earned("sub@0 unf r0 @6"), unconfirmed, "the link may be dead");
        assert_eq!(earned("sub@0 unf r0 @5.2 h0 @6"), unconfirmed, "a row from before its end");
        assert_eq!(earned("sub@0 unf r0 h1 @6"), unconfirmed, "a row of just after its end");
        assert_eq!(earned("sub@0 unf r0 cut @5.2 h1 @6"), unconfirmed, "interrupted");
        assert_eq!(earned("sub@0 unf r0 cut r0 @5.2 h1 @6"), "bar 0", "and gone on");
        assert_eq!(earned("sub@0 r0 r1"), "missing unconfirmed_close 0..1", "filtered");
        assert_eq!(earned("sub@0 unf r0 bad r1"), "missing unconfirmed_close 0..1", "held back row");
        assert_eq!(earned("sub@0 unf r0 lost sub@6 r1"), "missing unconfirmed_close 0..1", "broken");
    }

    #[test]
    fn a_guess_is_compared_with_rest() {
        let (_, mut inference) = run(Some(0), 0, "sub@0 unf r0 r1");
        inference.confirm(&bar("EURUSD", NOON, "1.1"));
        assert_eq!(inference.matched(), 1);
        let (_, mut filtered) = run(Some(0), 0, "sub@0 r0 r1");
        filtered.confirm(&bar("EURUSD", NOON, "1.1"));
        assert_eq!(filtered.matched(), 0, "a merged row is no guess");
    }

    #[test]
    fn a_later_row_on_the_same_subscription_proves_quiet() {
        check("sub@0 c0 c3", "bar 0, quiet later_row 1..3, bar 3");
        check("sub@0 c0 @21 c4", "bar 0, missing silent 1..4, quiet later_row 1..4, bar 4");
    }

    #[test]
    fn a_row_after_too_long_a_silence_proves_nothing_of_it() {
        // Half an hour is too long; no tick has looked at it.
        check("sub@0 c0 c6", "bar 0, quiet later_row 1..6, bar 6");
        check("sub@0 c0 c7 c9", "bar 0, missing stale 1..7, bar 7, quiet later_row 8..9, bar 9");
        // The row that ends it is late itself: the next one proves no more.
        check("sub@0 c0 r1 h12 c1 r12", "bar 0, bar 1, missing stale 2..12");
        check("sub@0 c0 r1 h12 r1:2 r12", "bar 0, missing unconfirmed_close 1..2, missing stale 2..12");
        check("sub@0 c0 r1 h12 c1 c13", "bar 0, bar 1, missing stale 2..12, quiet later_row 12..13, bar 13");
        check("sub@0 c0 c1 h12 c1 c8", "bar 0, bar 1, bar 1, missing stale 2..8, bar 8");
        // Subscribed anew for its silence, and silent still: its first row proves nothing of that.
        check(
            "sub@0 c0 @30 sub@30 @41 c8",
            "stale0@30, bar 0, missing silent 1..5, missing stale 1..6, missing silent 6..8, missing stale 6..8, bar 8",
        );
    }

    #[test]
    fn a_bucket_of_which_rows_were_held_back_is_not_quiet() {
        check("sub@0 c0 bad1 r2", "bar 0, missing unconfirmed_close 1..2");
        check("sub@0 c0 bad1 @11 r3", "bar 0, missing unconfirmed_close 1..2, quiet later_row 2..3");
        check("sub@0 c0 bad1 c1 bad2 r2 c2", "bar 0, bar 1, bar 2");
        check("sub@0 c0 bad r2", "bar 0, quiet later_row 1..2");
    }

    #[test]
    fn a_bucket_whose_candle_was_seen_before_a_break_is_not_quiet_either() {
        check(
            "sub@0 c0 r1 lost sub@12 c3",
            "bar 0, missing unconfirmed_close 1..2, missing disconnected 2..3, bar 3",
        );
        check("sub@0 c0 r1 lost sub@8 r1 c1 c2", "bar 0, bar 1, bar 2");
        check("sub@0 c0 r1 lost @16", "bar 0, missing unconfirmed_close 1..2, missing disconnected 2..3");
    }

    #[test]
    fn a_break_leaves_what_was_silent_in_doubt() {
        check("sub@0 c0 @11 lost sub@12 c3", "bar 0, missing silent 1..2, missing disconnected 1..3, bar 3");
    }

    #[test]
    fn buckets_of_an_outage_are_missing_with_its_reason() {
        check("sub@0 c0 lost sub@17 r3 c3 c4", "bar 0, missing disconnected 1..3, bar 3, bar 4");
        check("sub@0 c0 lost @21", "bar 0, missing disconnected 1..4");
        check("@16 sub@16 r3 c3", "missing offline 0..3, bar 3");
        check("sub@? c2 c4", "missing offline 0..2, bar 2, quiet later_row 3..4, bar 4");
    }

    #[test]
    fn buckets_held_back_for_their_scale_say_so() {
        let seen = "bar 0, missing unconfirmed_close 1..2, missing scale_in_doubt 2..3";
        check("sub@0 c0 r1 doubt bad @16", seen);
        check("sub@0 c0 doubt bad @16", "bar 0, missing scale_in_doubt 1..3");
        check("sub@0 c0 r1 doubt bad @11 sub@16 r3 c3 c4", &format!("{seen}, bar 3, bar 4"));
        check("sub@0 c0 r1 doubt bad sub@8 r1 c1", "bar 0, bar 1");
    }

    #[test]
    fn a_subscription_without_a_time_is_dated_by_its_first_row_of_an_open_bucket() {
        check(
            "sub@0 c0 lost sub@? c3 c5",
            "bar 0, missing disconnected 1..3, bar 3, quiet later_row 4..5, bar 5",
        );
        check("sub@0 c0 lost sub@? c0 c3", "bar 0, bar 0, missing disconnected 1..3, bar 3");
    }

    #[test]
    fn the_bucket_in_which_a_subscription_began_is_not_proved_quiet_by_it() {
        check("sub@2 c1", "missing offline 0..1, bar 1");
        check("sub@0 c1", "quiet later_row 0..1, bar 1");
    }

    #[test]
    fn rows_after_an_unseen_gap_prove_nothing_of_it() {
        let earned = |script: &str| run(Some(0), MATCHES_TO_EARN, script).0;
        // News of the break was overtaken by the next subscription.
        let missing = "missing unconfirmed_close 1..2, missing disconnected 2..5";
        assert_eq!(earned("sub@0 unf r1 sub@27 unf r5"), format!("quiet later_row 0..1, {missing}"));
        // The machine slept: the candle of minute 1 is not its last.
        let missing = "missing unconfirmed_close 0..1, missing disconnected 1..6";
        assert_eq!(earned("sub@0 unf r0 @1 gap@31"), missing);
        assert_eq!(earned("sub@0 unf c0 r1 gap@9 c1 r2"), "bar 0, bar 1");
    }

    #[test]
    fn a_clock_that_is_slow_by_a_second_costs_no_bucket_its_proof() {
        // Each row comes before its time by the clock, as IG's do where it is slow by little.
        let closed = "sub@-5 @-0.02 r0! c0! @4.98 r1! c1! @9.98 r2! c2! @14.98 r3! c3! @24.98 r5!";
        check(closed, "bar 0, bar 1, bar 2, bar 3, quiet later_row 4..5");
        let unclosed = "sub@-5 unf @-0.02 r0! @4.98 r1! @9.98 r2! @14.98 r3!";
        assert_eq!(run(Some(0), MATCHES_TO_EARN, unclosed).0, "bar 0, bar 1, bar 2");
    }

    #[test]
    fn late_and_repeated_closes_are_told_again_and_late_moves_show_prices() {
        // The ledger keeps what is stored.
        check("sub@0 c0 r1 c0* r0", "bar 0, bar 0, missing unconfirmed_close 0..1");
        check("sub@0 c0 r2 r1", "bar 0, quiet later_row 1..2, missing unconfirmed_close 1..2");
        check(
            "sub@0 c0 lost @16 sub@16 r1",
            "bar 0, missing disconnected 1..3, missing unconfirmed_close 1..2",
        );
        check("sub@0 r0 @6 c0 c1", "missing unconfirmed_close 0..1, bar 0, bar 1");
    }

    #[test]
    fn a_late_row_of_a_silent_bucket_keeps_it_from_being_called_quiet() {
        check(
            "sub@0 c0 @16 r1 c3",
            "bar 0, missing silent 1..3, missing unconfirmed_close 1..2, quiet later_row 2..3, bar 3",
        );
        check("sub@0 c0 @16 c2 c3", "bar 0, missing silent 1..3, quiet later_row 1..2, bar 2, bar 3");
    }

    #[test]
    fn a_feed_never_watched_asks_for_the_first_backfill() {
        let (told, _) = run(None, 0, "sub@0 r0 c0");
        assert_eq!(told, "missing first_start -4..0, missing first_start 15m -9..-3, bar 0");
        assert_eq!(run(None, 0, "sub@0 @1").0, "");
        assert_eq!(
            run(None, 0, "sub@0 @1 @2").0,
            "missing first_start -4..0, missing first_start 15m -9..-3"
        );
    }

    #[test]
    fn an_item_silent_for_long_in_expected_hours_is_subscribed_again() {
        check("sub@0 c0 @29", "bar 0, missing silent 1..5");
        check("sub@0 c0 @30", "stale0@30, bar 0, missing silent 1..5, missing stale 1..5");
        check("sub@0 c0 @30 sub@31 c6", "stale0@30, bar 0, missing silent 1..5, missing stale 1..6, bar 6");
    }

    #[test]
    fn a_row_that_says_nothing_new_does_not_end_the_silence() {
        // The snapshot of each new subscription shows the old candle.
        let stale = |script: &str| {
            let told = run(Some(0), 0, script).0;
            told.split(", ").filter(|text| text.starts_with("stale")).collect::<Vec<_>>().join(" ")
        };
        let twice = "sub@0 r0 @30 sub@31 r0 @61 @90 @91 sub@92 r0";
        assert_eq!(stale(twice), "stale0@30 stale1@91", "after twice the time");
        assert_eq!(stale(&format!("{twice} @211 @212")), "stale0@30 stale1@91 stale2@212");
        assert_eq!(stale(&format!("{twice} r18:2 @120 @121 @122")), "stale0@30 stale1@91 stale0@122");
    }

    #[test]
    fn a_row_from_the_future_proves_nothing_of_the_buckets_before_it() {
        check("sub@0 c0 c1 c2 @16 c5!", "bar 0, bar 1, bar 2, missing silent 3..5, bar 5");
        check(
            "sub@0 c0 c1 c2 @16 c5! c3 c4",
            "bar 0, bar 1, bar 2, missing silent 3..5, bar 5, bar 3, bar 4",
        );
    }

    #[test]
    fn a_subscription_dated_by_a_slow_clock_proves_nothing_before_its_first_row() {
        // The clock says minute 6 and is slow by 9 at least: the subscription began at 14 or later.
        check("sub@5 @6 c3!", "missing offline 0..3, bar 3");
    }

    #[test]
    fn a_close_is_not_inferred_from_a_snapshot_of_a_bucket_that_is_over() {
        let earned = |script: &str| run(Some(0), MATCHES_TO_EARN, script).0;
        assert_eq!(earned("sub@7 unf r0 r1 c1"), "missing unconfirmed_close 0..1, bar 1");
    }

    #[test]
    fn a_close_is_not_inferred_where_continuity_began_within_the_bucket() {
        let earned = |script: &str| run(Some(0), MATCHES_TO_EARN, script).0;
        // As after rows that the server dropped.
        assert_eq!(earned("sub@0 unf r0 lost sub@1 unf r0 r1"), "missing unconfirmed_close 0..1");
        assert_eq!(earned("sub@0 unf r0 lost sub@1 unf r0 c0"), "bar 0");
    }

    #[test]
    fn a_row_with_fewer_ticks_than_the_one_before_leaves_the_close_in_doubt() {
        let earned = |script: &str| run(Some(0), MATCHES_TO_EARN, script).0;
        assert_eq!(earned("sub@0 unf r0:5 r0:4 r1"), "missing unconfirmed_close 0..1");
        assert_eq!(earned("sub@0 unf r0:5 r0:4 r0:6 r1"), "bar 0");
        assert_eq!(earned("sub@0 unf r0:5 r0:4 c0:6 r1"), "bar 0");
        assert_eq!(earned("sub@0 unf r0:5 c0:4 r1"), "missing unconfirmed_close 0..1");
        assert_eq!(earned("sub@0 unf r0:5 c0:0 c0:6 c1"), "missing unconfirmed_close 0..1, bar 0, bar 1");
    }

    #[test]
    fn a_late_row_with_more_ticks_than_an_inferred_close_loses_all_trust() {
        let matched = |script: &str| run(Some(0), MATCHES_TO_EARN, script).1.matched();
        assert_eq!(matched("sub@0 unf r0:5 r1 r0:5"), MATCHES_TO_EARN);
        assert_eq!(matched("sub@0 unf r0:5 r1 r0:6"), 0);
        assert_eq!(matched("sub@0 unf r0:5 r1 c0:5"), MATCHES_TO_EARN);
        assert_eq!(matched("sub@0 unf r0:5 r1 c0:5*"), 0);
    }

    #[test]
    fn an_old_snapshot_of_a_closed_market_heals_and_invents_nothing() {
        // Subscribed at the weekend; the snapshot shows Friday's last candle, closed or not.
        let friday = 2 * 288 + 119;
        let saturday = (friday + 100) * 5;
        let told = |row: &str| run(Some(friday), 0, &format!("sub@{saturday} {row}")).0;
        assert_eq!(told(&format!("c{friday}")), format!("bar {friday}"));
        let unclosed = format!("r{friday} @{}", saturday + 5);
        let closed = format!("closed calendar {}..{}", friday + 1, friday + 100);
        assert_eq!(told(&unclosed), format!("missing unconfirmed_close {friday}..{}, {closed}", friday + 1));
    }

    #[test]
    fn a_row_before_the_market_opens_is_stored() {
        let sunday = 4 * 288 + 60; // 17:00 UTC, hours before anybody opens
        let script = format!("sub@{} c{}", sunday * 5, sunday + 1);
        let expected = format!("closed calendar {sunday}..{}, bar {}", sunday + 1, sunday + 1);
        assert_eq!(run(Some(sunday), 0, &script).0, expected);
    }

    #[test]
    fn of_hours_in_dispute_a_bucket_is_missing_where_nobody_was_there_to_see() {
        // Sunday 21:00, from when on one account has the market open; an hour later both do.
        let sunday = 4 * 288 + 108;
        let at = |bucket: i64, minutes: i64| (sunday + bucket) * 5 + minutes;
        let told = |script: &str| {
            let told = run(Some(sunday), 0, script).0;
            // Buckets counted from there.
            let number =
                |text: &str| text.parse::<i64>().map_or(text.to_owned(), |n| (n - sunday).to_string());
            let word = |word: &str| {
                let (digits, rest) = word.split_at(word.find(',').unwrap_or(word.len()));
                let span = digits.split("..").map(number).collect::<Vec<_>>().join("..");
                format!("{span}{rest}")
            };
            told.split(' ').map(word).collect::<Vec<_>>().join(" ")
        };
        let (first, third) = (sunday, sunday + 2);
        let silent = format!("sub@{} c{first} @{} c{third}", at(0, 0), at(2, 1));
        assert_eq!(told(&silent), "bar 0, closed possibly_open 1..2, quiet later_row 1..2, bar 2");
        let away = format!("sub@{} c{first} lost @{} sub@{} c{third}", at(0, 0), at(2, 1), at(2, 1));
        assert_eq!(told(&away), "bar 0, missing disconnected 1..2, bar 2");
        let broken = format!("sub@{} c{first} @{} lost sub@{} c{third}", at(0, 0), at(2, 1), at(2, 2));
        assert_eq!(told(&broken), "bar 0, closed possibly_open 1..2, missing disconnected 1..2, bar 2");
    }

    #[test]
    fn the_weekend_is_closed_and_no_reason_to_subscribe_again() {
        // Buckets of Friday 21:55, the close, Sunday 21:00 (London opens) and 22:00 (New York).
        let friday = 2 * 288 + 119;
        let (close, london, open) = (friday + 1, friday + 1 + 47 * 12, friday + 1 + 48 * 12);
        let script = format!("sub@{0} c{friday} @{1} @{2} c{open}", friday * 5, close * 5 + 600, london * 5);
        assert_eq!(
            run(Some(friday), 0, &script).0,
            format!(
                "bar {friday}, closed calendar {close}..{london}, quiet later_row {london}..{open}, bar {open}"
            )
        );
    }

    proptest! {
        /// Whatever happens, the buckets up to the frontier are accounted for without a hole.
        #[test]
        fn every_bucket_is_accounted_for(
            words in prop::collection::vec((0u8..6, 0i64..3), 1..60),
        ) {
            let (mut minute, mut script) = (0, String::new());
            for (kind, step) in words {
                minute += step * 4;
                let bucket = minute / 5;
                script += &match kind {
                    0 => format!("sub@{minute} "),
                    1 => format!("r{bucket} "),
                    2 => format!("c{bucket} "),
                    3 => "lost ".to_owned(),
                    4 => "bad ".to_owned(),
                    _ => format!("@{minute} "),
                };
            }
            let (told, _) = run(Some(0), 0, &script);
            let mut known = std::collections::BTreeSet::new();
            for finding in told.split(", ").filter(|text| !text.is_empty() && !text.starts_with("stale")) {
                let place = finding.rsplit(' ').next().unwrap();
                match place.split_once("..") {
                    Some((from, to)) => known.extend(from.parse::<i64>().unwrap()..to.parse().unwrap()),
                    None => { known.insert(place.parse::<i64>().unwrap()); }
                }
            }
            let last = known.last().copied().unwrap_or(-1);
            prop_assert_eq!(known.len() as i64, last + 1, "{} gave {}", script, told);
        }
    }
}
