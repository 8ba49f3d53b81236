//! What was true: a made-up market, by arithmetic that shares nothing with the product's calendar.

use std::ops::Range;

use candlekeep::domain::pair::MAJOR_PAIRS;
use candlekeep::domain::{Bar, BarKey, Ohlc, Price, Source, Timeframe, Timestamp};

pub const STEP: i64 = 300;
pub const QUARTER: i64 = 900;
pub const HOUR: i64 = 3_600;
pub const DAY: i64 = 24 * HOUR;
const WEEK: i64 = 7 * DAY;
/// All major pairs.
pub const FEEDS: usize = MAJOR_PAIRS.len();
/// Pairs from here on are traded less.
const THIN_FROM: usize = 14;

/// A week in which outages begin.
#[derive(Clone, Debug)]
pub struct Week {
    /// For people.
    pub name: &'static str,
    /// Its Sunday, 00:00 UTC.
    pub sunday: Timestamp,
    /// The hour in which London trades and New York does not, seconds since Sunday.
    disputed: Range<i64>,
}

/// Both cities on winter time: London opens an hour before New York.
pub fn winter() -> Week {
    Week { name: "winter", sunday: Timestamp(1_578_787_200), disputed: 21 * HOUR..22 * HOUR }
}

/// New York has gone over to summer time that Sunday, London has not: it closes an hour later.
pub fn march() -> Week {
    let friday = 5 * DAY;
    Week { name: "march", sunday: Timestamp(1_583_625_600), disputed: friday + 21 * HOUR..friday + 22 * HOUR }
}

/// A market that is a function of its seed.
#[derive(Clone, Debug)]
pub struct Truth {
    seed: u64,
    week: Week,
    /// Whether every open bucket has a price.
    busy: bool,
}

impl Truth {
    /// The market of a seed.
    pub fn new(seed: u64, week: Week, busy: bool) -> Truth {
        Truth { seed, week, busy }
    }

    /// Whether the broker trades: Sunday 21:00 to Friday 22:00, London, which is on winter time in
    /// both weeks.
    pub fn is_open(&self, start: Timestamp) -> bool {
        (21 * HOUR..5 * DAY + 22 * HOUR).contains(&self.of_week(start))
    }

    /// Whether it is the hour in which the broker trades though not all accounts of its hours say so.
    pub fn is_disputed(&self, start: Timestamp) -> bool {
        self.week.disputed.contains(&self.of_week(start))
    }

    fn of_week(&self, time: Timestamp) -> i64 {
        time.since(self.week.sunday).rem_euclid(WEEK)
    }

    fn dice(&self, feed: usize, start: Timestamp, what: u64) -> u64 {
        mix(self.seed ^ mix(what ^ mix(feed as u64 ^ mix(start.0 as u64))))
    }

    /// Whether a 5-minute bucket has a price.
    pub fn has_price(&self, feed: usize, start: Timestamp) -> bool {
        let is_night = !(5..21).contains(&(self.of_week(start) % DAY / HOUR));
        let quiet_permille = match (feed >= THIN_FROM, is_night) {
            _ if self.busy => 0,
            (true, true) => 150,
            (true, false) | (false, true) => 15,
            (false, false) => 0,
        };
        self.is_open(start) && self.dice(feed, start, 1) % 1_000 >= quiet_permille
    }

    /// The 5-minute bar of a bucket that has one. No two bars have a price in common.
    pub fn bar(&self, feed: usize, start: Timestamp) -> Option<Bar> {
        let bucket = start.0 / STEP % 1_000_000;
        let units = 100_000_000 * (feed as i64 + 1) + bucket * 20;
        let side = |units: i64| {
            let price = |units| Price::from_units(units).unwrap();
            Ohlc {
                open: price(units + 1),
                high: price(units + 3),
                low: price(units),
                close: price(units + 2),
            }
        };
        self.has_price(feed, start).then(|| Bar {
            key: BarKey { pair: MAJOR_PAIRS[feed], timeframe: Timeframe::M5, start },
            bid: side(units),
            ask: side(units + 10),
            volume: 2 + (self.dice(feed, start, 2) % 90) as u32,
            source: Source::Rest,
        })
    }

    /// The bar of a bucket of either length that has one.
    pub fn bar_of(&self, feed: usize, timeframe: Timeframe, start: Timestamp) -> Option<Bar> {
        if timeframe == Timeframe::M5 {
            return self.bar(feed, start);
        }
        let parts: Vec<Bar> = (0..3).filter_map(|part| self.bar(feed, start.plus(part * STEP))).collect();
        let (first, last) = (parts.first()?, parts.last()?);
        let side = |of: fn(&Bar) -> &Ohlc| Ohlc {
            open: of(first).open,
            high: parts.iter().map(|part| of(part).high).max().unwrap(),
            low: parts.iter().map(|part| of(part).low).min().unwrap(),
            close: of(last).close,
        };
        Some(Bar {
            key: BarKey { pair: MAJOR_PAIRS[feed], timeframe, start },
            bid: side(|bar| &bar.bid),
            ask: side(|bar| &bar.ask),
            volume: parts.iter().map(|part| part.volume).sum(),
            source: Source::Rest,
        })
    }

    /// When the first price of a bucket comes, if it has any.
    pub fn first_row_at(&self, feed: usize, start: Timestamp) -> Timestamp {
        start.plus(3 + (self.dice(feed, start, 3) % 240) as i64)
    }

    /// How far the broker's history lags behind at a moment, seconds.
    pub fn lag_s(&self, now: Timestamp) -> i64 {
        (self.dice(0, now, 4) % 21) as i64
    }
}

/// The finalizer of SplitMix64.
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
