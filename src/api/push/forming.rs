//! Candles under way, of 5 minutes and of longer buckets that they are a part of, as events. Pure.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::page::{self, Wants};
use crate::aggregator::rollup::{Slot, fold};
use crate::domain::{Bar, CandleUpdate, Pair, Timeframe, Timestamp};

const STEP: i64 = Timeframe::M5.seconds();
const LONGEST_S: i64 = Timeframe::H1.seconds();

/// What is under way, as events. Whoever has seen a version needs those events that are newer.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// Which state of it this is.
    pub version: u64,
    /// What is stored up to this `seq` is not among it.
    pub at: i64,
    events: Vec<Event>,
}

#[derive(Clone, Debug)]
struct Event {
    bar: Bar,
    version: u64,
    text: Bytes,
}

impl Shown {
    /// What has changed since a version for whoever wants this.
    pub fn since(&self, version: u64, wants: &Wants) -> Option<Bytes> {
        let is_news = |event: &&Event| {
            event.version > version && wants.has(event.bar.key.pair, event.bar.key.timeframe)
        };
        let text: Vec<u8> = self.events.iter().filter(is_news).flat_map(|event| event.text.clone()).collect();
        (!text.is_empty()).then(|| text.into())
    }
}

/// What is under way, and what is known of the buckets before it that it forms longer ones with.
#[derive(Debug)]
pub struct UnderWay {
    timeframes: Vec<Timeframe>,
    /// 5-minute buckets that are over: their bar, or that there is none. Those of the longest bucket under way.
    slots: BTreeMap<(Pair, Timestamp), Option<Bar>>,
    /// End of the newest bar of 5 minutes that was told of as stored.
    settled_to: BTreeMap<Pair, Timestamp>,
    shown: Shown,
}

impl UnderWay {
    /// Nothing is known yet. Versions go on behind those of what was shown before.
    pub fn following(before: &Shown, timeframes: &[Timeframe]) -> UnderWay {
        UnderWay {
            timeframes: timeframes.to_vec(),
            slots: BTreeMap::new(),
            settled_to: BTreeMap::new(),
            shown: Shown { version: before.version, at: before.at, events: Vec::new() },
        }
    }

    /// What is shown now.
    pub fn shown(&self) -> Arc<Shown> {
        Arc::new(self.shown.clone())
    }

    /// All bars up to this `seq` have been told of as stored, or are about to be.
    pub fn is_at(&mut self, seq: i64) {
        self.shown.at = seq;
    }

    /// A bar is about to be told of as stored.
    pub fn settled(&mut self, bar: &Bar) {
        let Bar { key, .. } = bar;
        if key.timeframe != Timeframe::M5 {
            return;
        }
        let end = key.start.plus(STEP);
        let to = self.settled_to.get(&key.pair).map_or(end, |known| end.max(*known));
        self.settled_to.insert(key.pair, to);
        self.slots.insert((key.pair, key.start), Some(*bar));
        // No longer bucket under way begins earlier, however much is healed.
        self.slots.retain(|(pair, start), _| *pair != key.pair || to.since(*start) <= LONGEST_S);
        self.shown.events.retain(|Event { bar: Bar { key: of, .. }, .. }| {
            of.pair != key.pair || of.start.plus(of.timeframe.seconds()) > to
        });
    }

    /// Where a longer bucket under way begins with buckets of which nothing is known.
    pub fn lacks(&self, forming: &[(Pair, CandleUpdate)]) -> Vec<(Pair, Range<Timestamp>)> {
        let spans = forming.iter().map(|(pair, candle)| (*pair, self.begin(candle.start)..candle.start));
        spans
            .filter(|(pair, span)| starts(span).any(|start| !self.slots.contains_key(&(*pair, start))))
            .collect()
    }

    /// The earliest bucket that one under way forms a longer one with.
    fn begin(&self, start: Timestamp) -> Timestamp {
        self.timeframes.iter().map(|timeframe| timeframe.bucket(start)).min().unwrap_or(start)
    }

    /// The database has told of such a beginning: its bars, and where there are none to have.
    pub fn learns(&mut self, pair: Pair, bars: impl IntoIterator<Item = Bar>, empty: &[Range<Timestamp>]) {
        for start in empty.iter().flat_map(starts) {
            self.slots.entry((pair, start)).or_insert(None);
        }
        for bar in bars {
            self.slots.insert((pair, bar.key.start), Some(bar));
        }
    }

    /// Takes what is under way. Answers whether anything is new.
    pub fn takes(&mut self, forming: &[(Pair, CandleUpdate)]) -> bool {
        let version = self.shown.version + 1;
        let before = std::mem::take(&mut self.shown.events);
        let mut is_news = false;
        for (pair, candle) in forming {
            if self.settled_to.get(pair).is_some_and(|to| candle.start < *to) {
                // What is stored is not under way, whatever was said a moment ago.
                continue;
            }
            for timeframe in &self.timeframes {
                let Some(bar) = self.bar(*pair, candle, *timeframe) else { continue };
                let known = before.iter().find(|event| event.bar == bar);
                is_news |= known.is_none();
                let event = known.cloned().unwrap_or_else(|| Event {
                    bar,
                    version,
                    text: page::forming(&bar).into(),
                });
                self.shown.events.push(event);
            }
        }
        let begins: BTreeMap<Pair, Timestamp> =
            forming.iter().map(|(pair, candle)| (*pair, self.begin(candle.start))).collect();
        self.slots.retain(|(pair, start), _| begins.get(pair).is_none_or(|begin| begin <= start));
        if is_news {
            self.shown.version = version;
        }
        is_news || self.shown.events.len() != before.len()
    }

    /// The longer bar under way: none where something that lies before the candle is not known.
    fn bar(&self, pair: Pair, candle: &CandleUpdate, timeframe: Timeframe) -> Option<Bar> {
        let now = Bar::from_candle(pair, candle);
        if timeframe == Timeframe::M5 {
            return Some(now);
        }
        let start = timeframe.bucket(candle.start);
        let slots: Vec<Slot<'_>> = starts(&(start..start.plus(timeframe.seconds())))
            .map(|slot| match self.slots.get(&(pair, slot)) {
                _ if slot == candle.start => Slot::Bar(&now),
                _ if slot > candle.start => Slot::NoBar,
                Some(Some(bar)) => Slot::Bar(bar),
                Some(None) => Slot::NoBar,
                None => Slot::Unknown,
            })
            .collect();
        fold(timeframe, start, &slots)
    }
}

/// The 5-minute buckets of a span.
fn starts(span: &Range<Timestamp>) -> impl Iterator<Item = Timestamp> + use<> {
    (span.start.0..span.end.0).step_by(STEP as usize).map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{BarKey, Ohlc, Price, Source};

    const PAIR: &str = "EURUSD";

    /// A candle of the bucket with this number whose only price is this many.
    fn candle(bucket: i64, price: i64) -> CandleUpdate {
        let side = Ohlc::from_prices([Price::from_units(price).unwrap(); 4]);
        CandleUpdate { start: Timestamp(bucket * STEP), bid: side, ask: side, ticks: 1, closed: false }
    }

    fn forming(bucket: i64, price: i64) -> [(Pair, CandleUpdate); 1] {
        [(PAIR.parse().unwrap(), candle(bucket, price))]
    }

    fn stored(bucket: i64, price: i64) -> Bar {
        Bar::from_candle(PAIR.parse().unwrap(), &candle(bucket, price))
    }

    fn under_way() -> UnderWay {
        UnderWay::following(&Shown::default(), &[Timeframe::M5, Timeframe::M15])
    }

    /// What is shown since a version: length, bucket, ticks and open of each.
    fn told(under_way: &UnderWay, version: u64) -> String {
        let text = under_way.shown().since(version, &Wants::default()).unwrap_or_default();
        let data = std::str::from_utf8(&text).unwrap().lines().filter_map(|line| line.strip_prefix("data: "));
        let short = data.map(|data| {
            let data: serde_json::Value = serde_json::from_str(data).unwrap();
            let bucket = data["time"].as_i64().unwrap() / STEP;
            let open = (data["open"].as_f64().unwrap() * 1e8).round();
            format!("{}@{bucket} {}x{open}", data["timeframe"].as_str().unwrap(), data["volume"])
        });
        short.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn a_longer_candle_is_folded_of_what_is_stored_and_what_is_under_way() {
        let mut under_way = under_way();
        assert!(under_way.takes(&forming(3, 10)));
        assert_eq!(told(&under_way, 0), "5@3 1x10, 15@3 1x10");
        under_way.settled(&stored(3, 11));
        assert_eq!(told(&under_way, 0), "15@3 1x10", "the quarter goes on");
        assert!(under_way.takes(&forming(4, 20)));
        assert_eq!(told(&under_way, 1), "5@4 1x20, 15@3 2x11");
        assert!(!under_way.takes(&forming(4, 20)), "nothing is told twice");
        assert_eq!(told(&under_way, under_way.shown().version), "");
        under_way.settled(&stored(4, 20));
        under_way.takes(&forming(5, 30));
        assert_eq!(told(&under_way, 2), "5@5 1x30, 15@3 3x11");
        under_way.settled(&stored(5, 30));
        assert_eq!(told(&under_way, 0), "", "both are over");
    }

    #[test]
    fn what_is_stored_is_not_under_way_though_it_was_said_to_be_a_moment_ago() {
        let mut under_way = under_way();
        under_way.takes(&forming(3, 10));
        under_way.settled(&stored(3, 11));
        under_way.takes(&forming(3, 11));
        assert_eq!(told(&under_way, 0), "");
        under_way.settled(&stored(1, 9));
        under_way.takes(&forming(4, 20));
        assert_eq!(told(&under_way, 0), "5@4 1x20, 15@3 2x11", "a bar that is healed ends nothing");
    }

    #[test]
    fn nothing_is_shown_of_a_longer_bucket_whose_beginning_is_not_known() {
        let mut under_way = under_way();
        let (pair, now) = (PAIR.parse().unwrap(), forming(5, 30));
        under_way.takes(&now);
        assert_eq!(told(&under_way, 0), "5@5 1x30");
        let span = |from: i64, to: i64| Timestamp(from * STEP)..Timestamp(to * STEP);
        assert_eq!(under_way.lacks(&now), [(pair, span(3, 5))]);
        under_way.learns(pair, [stored(3, 10)], &[]);
        under_way.takes(&now);
        assert_eq!(told(&under_way, 0), "5@5 1x30");
        assert_eq!(under_way.lacks(&now), [(pair, span(3, 5))]);
        under_way.learns(pair, [], &[span(4, 5)]);
        assert_eq!(under_way.lacks(&now), []);
        assert!(under_way.takes(&now));
        assert_eq!(told(&under_way, 1), "15@3 2x10");
        assert_eq!(under_way.lacks(&forming(6, 1)), [], "a bucket that begins a quarter needs nothing");
    }

    #[test]
    fn everybody_is_shown_what_he_wants_and_a_feed_that_is_gone_is_not_shown() {
        let mut under_way = under_way();
        under_way.takes(&forming(3, 10));
        let since = |under_way: &UnderWay, timeframe: Timeframe| {
            let wants = Wants { pairs: Vec::new(), timeframes: vec![timeframe] };
            under_way.shown().since(0, &wants).is_some()
        };
        assert!(since(&under_way, Timeframe::M5) && !since(&under_way, Timeframe::H1));
        assert!(under_way.takes(&[]));
        assert!(!since(&under_way, Timeframe::M5));
    }

    #[test]
    fn what_was_before_the_longest_bucket_is_forgotten() {
        let mut under_way = under_way();
        for bucket in 0..100 {
            under_way.takes(&forming(bucket, 10));
            under_way.settled(&stored(bucket, 10));
        }
        for bucket in 0..90 {
            under_way.settled(&stored(bucket, 10));
        }
        assert!(under_way.slots.len() <= 13, "{}", under_way.slots.len());
        let key = BarKey { timeframe: Timeframe::M15, ..stored(0, 1).key };
        under_way.takes(&forming(100, 10));
        let before = told(&under_way, 0);
        under_way.settled(&Bar { key, source: Source::Derived, ..stored(100, 1) });
        assert_eq!(told(&under_way, 0), before, "a longer bar ends nothing: its last part does");
    }
}
