//! Settles candles into bars and accounts for every bucket without one.
//!
//! [`Aggregation`] is the pure whole: one [`finalizer::Finalizer`] a feed, which goes by the feed's
//! calendar, and the account's record of guessed closes. The actor around it only moves messages. Longer bars are
//! folded by [`rollup`], which the database's door calls in the transaction that stores a part,
//! so that a 15-minute bar appears together with its last 5 minutes whichever way these came.

pub mod absent;
pub mod actor;
pub mod finalizer;
pub mod inference;
pub mod outbound;
pub mod outbox;
pub mod patience;
pub mod rollup;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::{Bar, Calendar, CandleUpdate, Expectation, Fact, FeedIx, Pair, StreamEvent, Timestamp};
use finalizer::{Depth, Finalizer, Surroundings};
use inference::{Granted, Inference};

/// Longest time between two ticks of a steady clock that still counts as watched, seconds. The
/// grace of a close is shorter than a bucket, so a gap below it hides nothing.
const UNSEEN_S: i64 = 10;

/// Bars out of hours that follow each other within this are one piece of news, seconds.
const OUT_OF_HOURS_APART_S: i64 = 3_600;

/// One feed as the aggregation sees it.
#[derive(Clone, Debug)]
pub struct FeedStart {
    /// Currency pair.
    pub pair: Pair,
    /// The end of what an earlier run accounted for, if the feed was watched before.
    pub resume: Option<Timestamp>,
    /// The hours of its market.
    pub calendar: Arc<Calendar>,
}

/// An item that has been silent for too long and should be subscribed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale {
    /// Which feed.
    pub feed: FeedIx,
    /// How many subscriptions in a row, before this one, have not ended the silence.
    pub in_vain: u32,
}

/// Settling for all feeds. Time comes in as an argument: event time, `None` while unknown.
#[derive(Debug)]
pub struct Aggregation {
    feeds: Vec<Finalizer>,
    inference: Inference,
    depth: Depth,
    stale_s: i64,
    facts: Vec<Fact>,
    stale: Vec<Stale>,
    last_tick: Option<Timestamp>,
    /// The latest bucket of which a row has come, and when the last one came.
    heard: Option<(Timestamp, Timestamp)>,
    /// What `CONF` last said of each feed: whether its rows are merged.
    granted: Vec<Option<bool>>,
    /// The last bar of each feed that came while the market should be closed.
    out_of_hours: BTreeMap<Pair, Timestamp>,
}

impl Aggregation {
    /// `stale_s`: the least event seconds of silence in expected hours after which an item is
    /// subscribed again. `matched`: what [`Inference`] had earned before.
    pub fn new(feeds: &[FeedStart], depth: Depth, stale_s: i64, matched: u32) -> Self {
        Aggregation {
            feeds: feeds
                .iter()
                .map(|feed| Finalizer::new(feed.pair, feed.calendar.clone(), feed.resume))
                .collect(),
            inference: Inference::new(matched),
            depth,
            stale_s,
            facts: Vec::new(),
            stale: Vec::new(),
            last_tick: None,
            heard: None,
            granted: vec![None; feeds.len()],
            out_of_hours: BTreeMap::new(),
        }
    }

    /// Takes one thing that the stream told at event time `now`. `steady` says whether that time
    /// goes on by itself, so that it can tell when a subscription began.
    pub fn handle(&mut self, event: &StreamEvent, now: Option<Timestamp>, steady: bool) {
        if let StreamEvent::Candle { feed, candle } = event {
            return self.candle(*feed, candle, now);
        }
        if let StreamEvent::Configured { feed, unfiltered } = *event {
            self.granted[feed.ix()] = Some(unfiltered);
        }
        let (feeds, mut around) = self.parts();
        match *event {
            StreamEvent::SessionBegan { .. } | StreamEvent::Candle { .. } => {}
            StreamEvent::Subscribed { feed } => {
                feeds[feed.ix()].subscribed(now.filter(|_| steady), &mut around)
            }
            StreamEvent::Configured { feed, unfiltered } => feeds[feed.ix()].configured(unfiltered),
            StreamEvent::Rejected { feed, bucket } => feeds[feed.ix()].rejected(bucket),
            StreamEvent::Interrupted => feeds.iter_mut().for_each(Finalizer::link_in_doubt),
            StreamEvent::Broken { feed: Some(feed), reason } => feeds[feed.ix()].broken(reason, &mut around),
            StreamEvent::Broken { feed: None, reason } => {
                feeds.iter_mut().for_each(|feed| feed.broken(reason, &mut around));
            }
        }
    }

    #[inline]
    fn candle(&mut self, feed: FeedIx, candle: &CandleUpdate, now: Option<Timestamp>) {
        if let Some(now) = now
            && self.heard.is_none_or(|(bucket, _)| bucket <= candle.start)
        {
            self.heard = Some((candle.start, now));
        }
        // So does nearly every row.
        if self.feeds[feed.ix()].goes_on(candle, now) {
            return;
        }
        let (feeds, mut around) = self.parts();
        feeds[feed.ix()].row(candle, now, &mut around);
    }

    /// Takes what REST told, to be stored in order with the rest.
    pub fn handle_history(&mut self, facts: &[Fact]) {
        for fact in facts {
            if let Fact::Settled(bar) = fact {
                self.inference.confirm(bar);
            }
        }
        self.facts.extend_from_slice(facts);
    }

    /// Time has passed that nobody saw, or the clock was set: what comes next does not follow what
    /// came before. `now` is `None` while no clock can date it.
    pub fn interrupt(&mut self, now: Option<Timestamp>) {
        let (feeds, mut around) = self.parts();
        feeds.iter_mut().for_each(|feed| feed.interrupted(now, &mut around));
    }

    /// Event time has come to `now`. Does nothing within the same second as the last call. Where
    /// time goes on by itself (`steady`), a gap between calls is time that nobody saw.
    pub fn tick(&mut self, now: Timestamp, steady: bool) {
        let Some(last) = self.last_tick.replace(now) else { return };
        if last >= now {
            return;
        }
        if steady && now.since(last) > UNSEEN_S {
            self.interrupt(Some(now));
        }
        let (feeds, mut around) = self.parts();
        let mut stale = Vec::new();
        for (ix, feed) in feeds.iter_mut().enumerate() {
            if let Some(in_vain) = feed.tick(now, &mut around) {
                stale.push(Stale { feed: FeedIx(ix as u16), in_vain });
            }
        }
        self.stale.extend(stale);
    }

    /// Accounts for everything up to event time `now` at once, where nothing is streamed: a feed never
    /// watched before begins.
    pub fn account_to(&mut self, now: Timestamp) {
        let (feeds, mut around) = self.parts();
        feeds.iter_mut().for_each(|feed| feed.account_unseen(now, &mut around));
    }

    /// The feeds, and what each needs of the house around it.
    fn parts(&mut self) -> (&mut [Finalizer], Surroundings<'_>) {
        let around = Surroundings {
            inference: &mut self.inference,
            facts: &mut self.facts,
            stale_s: self.stale_s,
            heard: self.heard,
            depth: self.depth,
        };
        (&mut self.feeds, around)
    }

    /// Everything found since the last call, in order.
    pub fn take_facts(&mut self) -> Vec<Fact> {
        std::mem::take(&mut self.facts)
    }

    /// The pair of a feed.
    pub fn pair(&self, feed: FeedIx) -> Pair {
        self.feeds[feed.ix()].pair()
    }

    /// Feeds to subscribe again.
    pub fn take_stale(&mut self) -> Vec<Stale> {
        std::mem::take(&mut self.stale)
    }

    /// What the record of guessed closes has earned, if that has changed since the last call: to
    /// be kept across restarts.
    pub fn take_matched(&mut self) -> Option<u32> {
        self.inference.take_changed()
    }

    /// What the record of guessed closes has earned.
    pub fn matched(&self) -> u32 {
        self.inference.matched()
    }

    /// The first bucket of each feed that is not accounted for; none where nothing is known of the feed.
    pub fn frontiers(&self) -> impl Iterator<Item = Option<Timestamp>> {
        self.feeds.iter().map(Finalizer::frontier)
    }

    /// The candles under way, as their last rows told them; none of a feed whose link is broken.
    pub fn forming(&self) -> Vec<(Pair, CandleUpdate)> {
        self.feeds.iter().filter_map(|feed| Some((feed.pair(), *feed.forming()?))).collect()
    }

    /// What the server granted the subscriptions that it has configured so far.
    pub fn granted(&self) -> Option<Granted> {
        let told = || self.granted.iter().flatten();
        match (told().any(|unfiltered| *unfiltered), told().any(|unfiltered| !unfiltered)) {
            (true, true) => Some(Granted::Mixed),
            (true, false) => Some(Granted::Unfiltered),
            (false, true) => Some(Granted::Filtered),
            (false, false) => None,
        }
    }

    /// Whether a bar lies where its feed's calendar has the market closed (rule 5: stored all the same).
    /// Also tells whether it is the first such bar of its pair for a while, to be warned about.
    pub fn out_of_hours(&mut self, bar: &Bar) -> Option<bool> {
        let feed = self.feeds.iter().find(|feed| feed.pair() == bar.key.pair)?;
        if feed.calendar().expectation(bar.key.start) != Expectation::Closed {
            return None;
        }
        let before = self.out_of_hours.insert(bar.key.pair, bar.key.start);
        Some(before.is_none_or(|before| bar.key.start.since(before).abs() > OUT_OF_HOURS_APART_S))
    }
}

#[cfg(test)]
mod tests {
    use super::testing::bar;
    use super::*;
    use crate::clock::{Clock, ClockKind, EventClock};
    use crate::domain::CandleUpdate;

    /// Wednesday 2020-01-15 12:00 UTC.
    const NOON: Timestamp = Timestamp(1_579_089_600);

    fn aggregation(feeds: usize) -> Aggregation {
        let calendar = Arc::new(Calendar::forex());
        let feed = FeedStart { pair: "EURUSD".parse().unwrap(), resume: Some(NOON), calendar };
        Aggregation::new(&vec![feed; feeds], Depth { m5: 0, m15: 0 }, 600, 0)
    }

    /// Two hours of an item that moves every ten seconds and closes every bucket, as the
    /// aggregator hears of it; the system's clock is set by so much at minute 32 of the first, and
    /// a broker's answer comes `answer_after_s` later.
    fn told_while_the_clock_is_set(set_s: i64, answer_after_s: i64) -> Vec<Fact> {
        let wall = Clock::simulated(NOON, 0);
        let clock = EventClock::new(ClockKind::System, wall.clone());
        let (mut core, feed, mut partings) = (aggregation(1), FeedIx(0), 0);
        core.handle(&StreamEvent::Subscribed { feed }, clock.now(), true);
        let Bar { bid, ask, .. } = bar("EURUSD", 0, "1.1");
        for s in 1..7_200 {
            wall.advance(std::time::Duration::from_secs(1));
            let truth = NOON.plus(s);
            if s == 1_920 {
                wall.set_forward(set_s);
            }
            if s == 1_920 + answer_after_s {
                clock.answered(truth, clock.reading().unwrap());
            }
            let now = clock.now();
            if std::mem::replace(&mut partings, clock.partings()) != clock.partings() {
                core.interrupt(now.filter(|_| clock.is_steady()));
            }
            let settled = clock.settled().unwrap();
            assert!(settled < truth, "history would be asked about what is not over: {settled} at {truth}");
            if s % 10 == 0 {
                let closed = s % 300 == 0;
                let start = truth.plus(-i64::from(closed)).floor(300);
                let candle = CandleUpdate { start, bid, ask, ticks: s as u32, closed };
                clock.observe(start, closed);
                core.handle(&StreamEvent::Candle { feed, candle }, clock.now(), clock.is_steady());
            }
            if let Some(now) = clock.now() {
                core.tick(now, clock.is_steady());
            }
        }
        core.take_facts()
    }

    #[test]
    fn a_clock_that_is_set_while_running_marks_nothing_and_settles_everything() {
        for (set_s, answer_after_s) in
            [(0, 1), (600, 1), (600, 1_500), (-600, 1), (-600, 1_500), (3_000, 60), (-3_000, 60), (25, 60)]
        {
            let facts = told_while_the_clock_is_set(set_s, answer_after_s);
            let marks: Vec<&Fact> = facts.iter().filter(|fact| !matches!(fact, Fact::Settled(_))).collect();
            assert!(marks.is_empty(), "set by {set_s} s, answer after {answer_after_s} s: {marks:?}");
            assert_eq!(facts.len(), 23, "set by {set_s} s, answer after {answer_after_s} s");
        }
    }

    #[test]
    fn a_bar_of_closed_hours_is_warned_about_once_for_a_while() {
        let mut core = aggregation(1);
        let saturday = NOON.plus(3 * 86_400);
        let mut told = |start: Timestamp| core.out_of_hours(&bar("EURUSD", start.0, "1.1"));
        assert_eq!(told(NOON), None);
        assert_eq!([told(saturday), told(saturday.plus(300))], [Some(true), Some(false)]);
        assert_eq!(told(saturday.plus(3_900)), Some(false), "they still come");
        assert_eq!(told(saturday.plus(86_400)), Some(true));
    }

    #[test]
    fn each_feed_goes_by_its_own_calendar() {
        let holiday = Calendar::new(crate::domain::Zone::named("UTC").unwrap(), 0..7 * 24 * 60, None)
            .closed_on(["2020-01-15".parse().unwrap()]);
        let feed = |pair: &str, calendar| FeedStart {
            pair: pair.parse().unwrap(),
            resume: Some(NOON.plus(-600)),
            calendar: Arc::new(calendar),
        };
        let feeds = [feed("EURUSD", Calendar::forex()), feed("USDNOK", holiday)];
        let mut core = Aggregation::new(&feeds, Depth { m5: 0, m15: 0 }, 600, 0);
        for feed in [FeedIx(0), FeedIx(1)] {
            core.handle(&StreamEvent::Subscribed { feed }, Some(NOON), true);
        }
        for s in 0..2_000 {
            core.tick(NOON.plus(s), true);
        }
        let of = |pair: &str| {
            let facts = core.facts.iter().filter_map(|fact| match fact {
                Fact::Marked(mark) if mark.pair == pair.parse().unwrap() => Some(mark),
                _ => None,
            });
            let told =
                facts.map(|mark| format!("{} {} {}", mark.span.start.since(NOON), mark.state, mark.reason));
            told.collect::<Vec<_>>()
        };
        let eur_usd = of("EURUSD");
        assert!(eur_usd.iter().all(|told| told.contains("missing")) && eur_usd.len() >= 2, "{eur_usd:?}");
        let usd_nok = of("USDNOK");
        assert!(
            usd_nok.iter().all(|told| told.contains("closed calendar")) && !usd_nok.is_empty(),
            "{usd_nok:?}"
        );
        let stale: Vec<FeedIx> = core.take_stale().iter().map(|stale| stale.feed).collect();
        assert_eq!(stale.first(), Some(&FeedIx(0)), "it should have moved");
        assert!(!stale.contains(&FeedIx(1)), "it is closed");
        assert_eq!(core.out_of_hours(&bar("EURUSD", NOON.0, "1.1")), None);
        assert_eq!(core.out_of_hours(&bar("USDNOK", NOON.0, "9.1")), Some(true));
    }

    #[test]
    fn what_was_granted_is_what_conf_said_of_each_feed() {
        let mut core = aggregation(2);
        assert_eq!(core.granted(), None);
        let mut conf = |feed, unfiltered| {
            core.handle(&StreamEvent::Configured { feed: FeedIx(feed), unfiltered }, Some(NOON), true);
            core.granted()
        };
        assert_eq!(conf(0, true), Some(Granted::Unfiltered));
        assert_eq!(conf(1, false), Some(Granted::Mixed));
        assert_eq!(conf(0, false), Some(Granted::Filtered));
    }

    #[test]
    fn a_silent_item_is_told_of_with_what_was_tried_before() {
        let mut core = aggregation(1);
        let subscribed = StreamEvent::Subscribed { feed: FeedIx(0) };
        core.handle(&subscribed, Some(NOON), true);
        let mut told = Vec::new();
        for s in 0..2_000 {
            core.tick(NOON.plus(s), true);
            for Stale { feed, in_vain } in core.take_stale() {
                told.push((s, feed.0, in_vain));
                core.handle(&subscribed, Some(NOON.plus(s)), true);
            }
        }
        assert_eq!(told, [(600, 0, 0), (1_800, 0, 1)]);
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use crate::domain::{Bar, BarKey, Ohlc, Price, Source, Timeframe, Timestamp};

    /// A flat streamed 5-minute bar.
    pub fn bar(pair: &str, start: i64, price: &str) -> Bar {
        let price = Price::parse(price, 0).unwrap();
        let side = Ohlc { open: price, high: price, low: price, close: price };
        let pair = pair.parse().unwrap();
        let key = BarKey { pair, timeframe: Timeframe::M5, start: Timestamp(start) };
        Bar { key, bid: side, ask: side, volume: 1, source: Source::Stream }
    }
}
