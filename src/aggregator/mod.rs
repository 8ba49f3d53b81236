//! Settles candles into bars and accounts for every bucket without one.
//!
//! [`Aggregation`] is the pure whole: one [`finalizer::Finalizer`] a feed, the calendar, the
//! account's record of guessed closes. The actor around it only moves messages. Longer bars are
//! folded by [`rollup`], which the database's door calls in the transaction that stores a part,
//! so that a 15-minute bar appears together with its last 5 minutes whichever way these came.

pub mod actor;
pub mod finalizer;
pub mod inference;
pub mod rollup;

use crate::domain::{Calendar, Fact, FeedIx, Pair, StreamEvent, Timestamp};
use finalizer::{Depth, Finalizer, Surroundings};
use inference::Inference;

/// One feed as the aggregation sees it.
#[derive(Clone, Debug)]
pub struct FeedStart {
    /// Currency pair.
    pub pair: Pair,
    /// The end of what an earlier run accounted for, if the feed was watched before.
    pub resume: Option<Timestamp>,
}

/// Settling for all feeds. Time comes in as an argument: event time, `None` while unknown.
#[derive(Debug)]
pub struct Aggregation {
    feeds: Vec<Finalizer>,
    calendar: Calendar,
    inference: Inference,
    depth: Depth,
    stale_s: i64,
    facts: Vec<Fact>,
    stale: Vec<FeedIx>,
    last_tick: Option<Timestamp>,
}

impl Aggregation {
    /// `stale_s`: event seconds of silence in expected hours after which an item is subscribed
    /// again. `matched`: what [`Inference`] had earned before.
    pub fn new(feeds: &[FeedStart], calendar: Calendar, depth: Depth, stale_s: i64, matched: u32) -> Self {
        Aggregation {
            feeds: feeds.iter().map(|feed| Finalizer::new(feed.pair, feed.resume)).collect(),
            calendar,
            inference: Inference::new(matched),
            depth,
            stale_s,
            facts: Vec::new(),
            stale: Vec::new(),
            last_tick: None,
        }
    }

    /// Takes one thing that the stream told at event time `now`. `steady` says whether that time
    /// goes on by itself, so that it can tell when a subscription began.
    pub fn handle(&mut self, event: &StreamEvent, now: Option<Timestamp>, steady: bool) {
        let mut around = Surroundings {
            calendar: &self.calendar,
            inference: &mut self.inference,
            facts: &mut self.facts,
            depth: self.depth,
        };
        let feeds = &mut self.feeds;
        match *event {
            StreamEvent::SessionBegan { .. } => {}
            StreamEvent::Subscribed { feed } => feeds[feed.ix()].subscribed(now.filter(|_| steady)),
            StreamEvent::Configured { feed, unfiltered } => feeds[feed.ix()].configured(unfiltered),
            StreamEvent::Candle { feed, candle } => feeds[feed.ix()].row(candle, now, &mut around),
            StreamEvent::Rejected { feed } => feeds[feed.ix()].rejected(),
            StreamEvent::Broken { feed: Some(feed), reason } => feeds[feed.ix()].broken(reason, &mut around),
            StreamEvent::Broken { feed: None, reason } => {
                feeds.iter_mut().for_each(|feed| feed.broken(reason, &mut around));
            }
        }
    }

    /// Takes what REST told, to be stored in order with the rest. True if the record of guessed
    /// closes changed and should be kept.
    pub fn handle_history(&mut self, facts: &[Fact]) -> bool {
        let mut record_changed = false;
        for fact in facts {
            if let Fact::Settled(bar) = fact {
                record_changed |= self.inference.confirm(bar);
            }
        }
        self.facts.extend_from_slice(facts);
        record_changed
    }

    /// Event time has come to `now`. Does nothing within the same second as the last call.
    pub fn tick(&mut self, now: Timestamp) {
        if self.last_tick.is_some_and(|last| last >= now) {
            return;
        }
        self.last_tick = Some(now);
        let mut around = Surroundings {
            calendar: &self.calendar,
            inference: &mut self.inference,
            facts: &mut self.facts,
            depth: self.depth,
        };
        for (ix, feed) in self.feeds.iter_mut().enumerate() {
            if feed.tick(now, self.stale_s, &mut around) {
                self.stale.push(FeedIx(ix as u16));
            }
        }
    }

    /// Everything found since the last call, in order.
    pub fn take_facts(&mut self) -> Vec<Fact> {
        std::mem::take(&mut self.facts)
    }

    /// Feeds to subscribe again.
    pub fn take_stale(&mut self) -> Vec<FeedIx> {
        std::mem::take(&mut self.stale)
    }

    /// What the record of guessed closes has earned.
    pub fn matched(&self) -> u32 {
        self.inference.matched()
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
