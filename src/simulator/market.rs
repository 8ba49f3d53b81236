//! What is true in the simulated market: for every pair and 5-minute bucket, its ticks.
//!
//! Everything the simulator tells (stream, REST, oracle) is a fold of these ticks, so the three
//! can only agree. Pure. A seeded market keeps no state: any bucket of any year is computed from
//! the seed, the pair and the bucket's start alone; a replayed one reads recorded bars
//! ([`ReplayMarket`]).

use std::sync::{Arc, LazyLock};

use chrono::{Datelike, Timelike, Weekday};

use super::replay::ReplayMarket;
use crate::domain::pair::MAJOR_PAIRS;
use crate::domain::{Bar, BarKey, Ohlc, Pair, Price, Source, Timeframe, Timestamp, Zone};

/// Length of the bucket that ticks are kept by, in seconds.
pub(crate) const BUCKET_S: i64 = 300;
/// How far back a last quote is looked for, in buckets: a long weekend.
const LAST_QUOTE_BUCKETS_MAX: usize = 5 * 288;

/// One price change, in points (the pair's last decimal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tick {
    /// Whole seconds since the bucket's start, `0..300`, ascending.
    pub offset_s: u16,
    /// Ticks of the broker that this one stands for: 1, in a replay any number.
    pub count: u32,
    pub bid: i32,
    pub ask: i32,
}

/// Open, high, low and close of one side, in points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Side {
    pub open: i32,
    pub high: i32,
    pub low: i32,
    pub close: i32,
}

impl Side {
    fn at(price: i32) -> Side {
        Side { open: price, high: price, low: price, close: price }
    }

    fn add(&mut self, price: i32) {
        self.high = self.high.max(price);
        self.low = self.low.min(price);
        self.close = price;
    }

    fn extend(&mut self, next: &Side) {
        self.high = self.high.max(next.high);
        self.low = self.low.min(next.low);
        self.close = next.close;
    }
}

/// What some ticks fold to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candle {
    pub bid: Side,
    pub ask: Side,
    pub ticks: u32,
}

impl Candle {
    /// The candle of a first tick.
    pub fn of(tick: &Tick) -> Candle {
        Candle { bid: Side::at(tick.bid), ask: Side::at(tick.ask), ticks: tick.count }
    }

    /// Takes one more tick in.
    pub fn add(&mut self, tick: &Tick) {
        self.bid.add(tick.bid);
        self.ask.add(tick.ask);
        self.ticks += tick.count;
    }

    /// Takes a later candle in.
    pub fn extend(&mut self, next: &Candle) {
        self.bid.extend(&next.bid);
        self.ask.extend(&next.ask);
        self.ticks += next.ticks;
    }

    /// Takes one more tick into a candle that may not have begun.
    pub fn fold(candle: &mut Option<Candle>, tick: &Tick) {
        match candle {
            Some(candle) => candle.add(tick),
            None => *candle = Some(Candle::of(tick)),
        }
    }
}

/// The price of a number of points.
pub(crate) fn price_of(points: i32, decimals: usize) -> Price {
    let units = i64::from(points) * 10_i64.pow(crate::domain::price::DECIMALS - decimals as u32);
    Price::from_units(units).expect("both markets hold positive prices of at most 21,475")
}

static NEW_YORK: LazyLock<Zone> = LazyLock::new(Zone::new_york);

/// Whether forex trades at `time`: Sunday 17:00 to Friday 17:00 in New York.
pub(crate) fn is_open(time: Timestamp) -> bool {
    let local = Timestamp(NEW_YORK.wall_s(time)).utc();
    match local.weekday() {
        Weekday::Sat => false,
        Weekday::Sun => local.hour() >= 17,
        Weekday::Fri => local.hour() < 17,
        _ => true,
    }
}

/// Where ticks come from.
#[derive(Clone, Debug)]
pub(crate) enum Market {
    Seeded(SeededMarket),
    Replay(Arc<ReplayMarket>),
}

impl Market {
    /// The pairs that have a market here.
    pub fn pairs(&self) -> &[Pair] {
        match self {
            Market::Seeded(_) => &MAJOR_PAIRS,
            Market::Replay(replay) => replay.pairs(),
        }
    }

    /// The first instant that has data, where there is one.
    pub fn begins(&self) -> Option<Timestamp> {
        match self {
            Market::Seeded(_) => None,
            Market::Replay(replay) => Some(replay.span().start),
        }
    }

    /// Replaces `ticks` by those of the 5-minute bucket that starts at `bucket`; none where the
    /// market is closed or was silent.
    pub fn ticks(&self, pair: Pair, bucket: Timestamp, ticks: &mut Vec<Tick>) {
        ticks.clear();
        match self {
            Market::Seeded(seeded) => seeded.ticks(pair, bucket, ticks),
            Market::Replay(replay) => replay.ticks(pair, bucket, ticks),
        }
    }

    /// The candle of all ticks in `from..to` (whole seconds), `None` where there is none.
    pub fn candle(&self, pair: Pair, from: Timestamp, to: Timestamp) -> Option<Candle> {
        let mut ticks = Vec::new();
        let mut folded: Option<Candle> = None;
        let mut bucket = from.floor(BUCKET_S);
        while bucket < to {
            self.ticks(pair, bucket, &mut ticks);
            for tick in &ticks {
                let time = bucket.plus(i64::from(tick.offset_s));
                if from <= time && time < to {
                    Candle::fold(&mut folded, tick);
                }
            }
            bucket = bucket.plus(BUCKET_S);
        }
        folded
    }

    /// The last tick before `now`, looked for over a long weekend.
    pub fn last_quote(&self, pair: Pair, now: Timestamp) -> Option<Tick> {
        let mut ticks = Vec::new();
        let mut bucket = now.floor(BUCKET_S);
        for _ in 0..LAST_QUOTE_BUCKETS_MAX {
            self.ticks(pair, bucket, &mut ticks);
            let last = ticks.iter().rfind(|tick| bucket.plus(i64::from(tick.offset_s)) < now);
            if let Some(tick) = last {
                return Some(*tick);
            }
            bucket = bucket.plus(-BUCKET_S);
        }
        None
    }

    /// The complete bar of the bucket that starts at `start`, `None` where it has no tick.
    pub fn bar(&self, pair: Pair, timeframe: Timeframe, start: Timestamp) -> Option<Bar> {
        let candle = self.candle(pair, start, start.plus(timeframe.seconds()))?;
        let side = |side: Side| {
            let price = |points| price_of(points, pair.decimals());
            Ohlc {
                open: price(side.open),
                high: price(side.high),
                low: price(side.low),
                close: price(side.close),
            }
        };
        Some(Bar {
            key: BarKey { pair, timeframe, start },
            bid: side(candle.bid),
            ask: side(candle.ask),
            volume: candle.ticks,
            source: if timeframe == Timeframe::M5 { Source::Stream } else { Source::Derived },
        })
    }
}

/// Fractions of a point that a path is computed in.
const SUBPOINTS: i64 = 1024;
/// A currency's worth in USD is kept in units of 10⁻⁹.
const NANO: i64 = 1_000_000_000;
/// Length in buckets and amplitude in millionths of each octave of a currency's worth. The
/// amplitude grows with the root of the length, as a random walk's does.
const OCTAVES: [(i64, i64); 7] =
    [(1, 50), (6, 130), (36, 320), (216, 800), (1_296, 2_000), (7_776, 5_000), (46_656, 12_000)];
/// A random walk inside a bucket strays this far from its straight line, in millionths.
const STRAY_MILLIONTHS: i64 = 90;
/// Most ticks of one bucket.
pub(super) const TICKS_MAX: u32 = 1_200;
/// Share of a busy hour's ticks that come in each hour of the day, UTC, in percent.
const HOUR_PERCENT: [u64; 24] =
    [45, 50, 50, 40, 35, 35, 50, 80, 100, 95, 85, 80, 90, 100, 100, 100, 90, 65, 45, 40, 30, 8, 12, 35];

/// One of the eight major currencies: worth in USD × 10⁻⁹, and how much it trades.
fn currency(code: &str) -> (i64, u64) {
    match code {
        "USD" => (NANO, 10),
        "EUR" => (1_112_000_000, 9),
        "GBP" => (1_284_000_000, 7),
        "JPY" => (6_810_000, 7),
        "AUD" => (664_000_000, 4),
        "CAD" => (741_000_000, 4),
        "CHF" => (1_131_000_000, 3),
        "NZD" => (609_000_000, 2),
        // No pair outside MAJOR_PAIRS is served by a seeded market.
        _ => (NANO, 1),
    }
}

/// A market that is a pure function of its seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SeededMarket {
    seed: u64,
    /// Ticks of every bucket in which it trades; else as many as there would be at that time of the day.
    ticks_per_bar: Option<u32>,
}

impl SeededMarket {
    /// The market of a seed.
    pub fn new(seed: u64) -> SeededMarket {
        SeededMarket { seed, ticks_per_bar: None }
    }

    /// The same with so many ticks, spread evenly, in every bucket in which it trades.
    pub fn with_ticks(self, ticks_per_bar: Option<u32>) -> SeededMarket {
        SeededMarket { ticks_per_bar, ..self }
    }

    fn ticks(self, pair: Pair, bucket: Timestamp, ticks: &mut Vec<Tick>) {
        if !is_open(bucket) {
            return;
        }
        let mut rng = Rng(mix(self.seed ^ mix(letters(pair.letters()) ^ mix(bucket.0 as u64))));
        let usual = tick_count(pair, bucket, &mut rng);
        let count = self.ticks_per_bar.map_or(usual, u64::from);
        if count == 0 {
            return;
        }
        let from = self.anchor(pair, bucket);
        let to = self.anchor(pair, bucket.plus(BUCKET_S));
        // Steps of this size, one way or the other at random, stray as far as wanted. The square
        // root is exactly rounded everywhere, so the path is the same on every machine.
        let stray = from * STRAY_MILLIONTHS / 1_000_000 * (50 + rng.below(150) as i64) / 100;
        let step = ((stray * 2) as f64 / (count as f64).sqrt()) as i64;
        let spread = spread(pair, bucket);

        // First the free walk, then the line that bends its end to where the next bucket begins.
        let mut walk = 0;
        ticks.reserve(count as usize);
        for place in 0..count {
            let bits = rng.next();
            walk += ((bits & 0xffff) as i64 - 0x8000) * step / 0x8000;
            let offset_s = (place * 300 * 256 + ((bits >> 16) & 0xff) * 300) / count / 256;
            let wider = ((bits >> 32) & 3) as i32;
            ticks.push(Tick { offset_s: offset_s as u16, count: 1, bid: walk as i32, ask: spread + wider });
        }
        let bend = to - from - walk;
        for (place, tick) in ticks.iter_mut().enumerate() {
            let mid = from + i64::from(tick.bid) + bend * (place as i64 + 1) / count as i64;
            let spread = tick.ask;
            tick.bid = ((mid + SUBPOINTS / 2) / SUBPOINTS) as i32 - spread / 2;
            tick.ask = tick.bid + spread;
        }
    }

    /// Mid price at the start of a bucket, in sub-points. It belongs to both its neighbours, so
    /// prices are continuous; and it is the quotient of two currencies' worths, so crosses agree.
    fn anchor(self, pair: Pair, bucket: Timestamp) -> i64 {
        let scale = i128::from(10_i64.pow(pair.decimals() as u32) * SUBPOINTS);
        let quotient = i128::from(self.worth(pair.base(), bucket)) * scale
            / i128::from(self.worth(pair.quote(), bucket));
        quotient as i64
    }

    fn worth(self, code: &str, bucket: Timestamp) -> i64 {
        let (base, _) = currency(code);
        if code == "USD" {
            return base;
        }
        let index = bucket.0.div_euclid(BUCKET_S);
        let salt = self.seed ^ letters(code);
        let mut millionths = 1_000_000_i64 << 15;
        for (octave, (length, amplitude)) in OCTAVES.into_iter().enumerate() {
            millionths += amplitude * value_noise(mix(salt ^ mix(octave as u64)), index, length);
        }
        (i128::from(base) * i128::from(millionths) / (1_000_000 << 15)) as i64
    }
}

/// Smooth noise over whole numbers: random at multiples of `length`, eased between them.
/// From -2¹⁵ to 2¹⁵.
fn value_noise(salt: u64, index: i64, length: i64) -> i64 {
    let node = index.div_euclid(length);
    let value = |node: i64| (mix(salt ^ mix(node as u64)) & 0xffff) as i64 - 0x8000;
    let t = (index.rem_euclid(length) << 15) / length;
    let eased = (t * t / (1 << 15)) * (3 * (1 << 15) - 2 * t) / (1 << 15);
    let (a, b) = (value(node), value(node + 1));
    a + (b - a) * eased / (1 << 15)
}

fn tick_count(pair: Pair, bucket: Timestamp, rng: &mut Rng) -> u64 {
    let traded = currency(pair.base()).1 * currency(pair.quote()).1;
    let hour = HOUR_PERCENT[bucket.utc().hour() as usize];
    let usual = traded * 8 * hour / 100;
    let count = (usual * (20 + rng.below(160)) / 100).min(TICKS_MAX.into());
    // Thin pairs in thin hours have buckets with one or two ticks, and some with none.
    if count < 4 && rng.below(8) == 0 { 0 } else { count.max(1) }
}

/// Least distance of bid and ask, in points.
fn spread(pair: Pair, bucket: Timestamp) -> i32 {
    let traded = currency(pair.base()).1 * currency(pair.quote()).1;
    let usual = 5 + 240 / traded as i32;
    let rollover = HOUR_PERCENT[bucket.utc().hour() as usize] < 20;
    if rollover { usual * 3 } else { usual }
}

fn letters(text: &str) -> u64 {
    text.bytes().fold(0, |sum, byte| sum << 8 | u64::from(byte))
}

/// The finalizer of SplitMix64: every input bit changes every output bit.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// SplitMix64, kept here so that a seed means the same market in every release.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        let value = mix(self.0);
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        value
    }

    fn below(&mut self, limit: u64) -> u64 {
        ((self.next() >> 32) * limit) >> 32
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use chrono::{DateTime, Utc};
    use proptest::prelude::*;

    use super::*;

    /// The instant of an ISO 8601 text.
    pub(crate) fn at(time: &str) -> Timestamp {
        Timestamp::from(time.parse::<DateTime<Utc>>().unwrap())
    }

    fn market(seed: u64) -> Market {
        Market::Seeded(SeededMarket::new(seed))
    }

    fn ticks(seed: u64, pair: Pair, bucket: Timestamp) -> Vec<Tick> {
        let mut ticks = Vec::new();
        market(seed).ticks(pair, bucket, &mut ticks);
        ticks
    }

    fn pair(text: &str) -> Pair {
        text.parse().unwrap()
    }

    #[test]
    fn trading_hours_follow_new_york() {
        for (time, open) in [
            ("2020-01-12T21:59:59Z", false),
            ("2020-01-12T22:00:00Z", true),
            ("2020-01-17T21:59:59Z", true),
            ("2020-01-17T22:00:00Z", false),
            ("2020-01-18T12:00:00Z", false),
            ("2020-03-08T20:59:59Z", false), // clocks went forward that morning
            ("2020-03-08T21:00:00Z", true),
            ("2020-03-13T21:00:00Z", false),
        ] {
            assert_eq!(is_open(at(time)), open, "{time}");
        }
    }

    #[test]
    fn a_closed_market_has_no_ticks() {
        assert!(ticks(1, pair("EURUSD"), at("2020-01-18T12:00:00Z")).is_empty());
        assert!(!ticks(1, pair("EURUSD"), at("2020-01-15T12:00:00Z")).is_empty());
    }

    #[test]
    fn another_seed_is_another_market() {
        let noon = at("2020-01-15T12:00:00Z");
        assert_eq!(ticks(1, pair("EURUSD"), noon), ticks(1, pair("EURUSD"), noon));
        assert_ne!(ticks(1, pair("EURUSD"), noon), ticks(2, pair("EURUSD"), noon));
    }

    #[test]
    fn thin_pairs_have_silent_buckets_and_busy_ones_do_not() {
        let (from, week) = (at("2020-01-12T22:00:00Z"), 1_440);
        let silent = |pair| (0..week).filter(|i| ticks(7, pair, from.plus(i * 300)).is_empty()).count();
        assert_eq!(silent(pair("EURUSD")), 0);
        let thin = silent(pair("NZDCHF"));
        assert!((1..50).contains(&thin), "{thin}");
    }

    #[test]
    fn busy_buckets_have_a_tick_nearly_every_second() {
        let ticks = ticks(7, pair("EURUSD"), at("2020-01-15T13:00:00Z"));
        assert!(ticks.len() > 100, "{}", ticks.len());
        assert!(ticks.len() <= TICKS_MAX as usize);
    }

    #[test]
    fn where_so_many_ticks_are_wanted_each_second_has_as_many() {
        let market = SeededMarket::new(7).with_ticks(Some(600));
        let mut ticks = Vec::new();
        market.ticks(pair("NZDCHF"), at("2020-01-15T21:00:00Z"), &mut ticks);
        let seconds: Vec<u16> = ticks.iter().map(|tick| tick.offset_s).collect();
        assert_eq!(seconds, (0..600).map(|place| place / 2).collect::<Vec<u16>>());
        ticks.clear();
        market.ticks(pair("NZDCHF"), at("2020-01-18T12:00:00Z"), &mut ticks);
        assert_eq!(ticks.len(), 0, "on a Saturday there are none");
    }

    #[test]
    fn crosses_agree_with_their_legs() {
        let seeded = SeededMarket::new(3);
        let noon = at("2020-01-15T12:00:00Z");
        let mid = |text| {
            let pair = pair(text);
            seeded.anchor(pair, noon) as f64 / SUBPOINTS as f64 / 10_f64.powi(pair.decimals() as i32)
        };
        assert!((mid("EURUSD") * mid("USDJPY") / mid("EURJPY") - 1.0).abs() < 1e-5);
        assert!((0.9..1.4).contains(&mid("EURUSD")));
        assert!((100.0..200.0).contains(&mid("USDJPY")));
    }

    #[test]
    fn longer_bars_are_folds_of_the_buckets_inside() {
        let market = market(5);
        let pair = pair("GBPJPY");
        let start = at("2020-01-15T12:00:00Z");
        let parts: Vec<Bar> =
            (0..3).filter_map(|i| market.bar(pair, Timeframe::M5, start.plus(i * 300))).collect();
        let whole = market.bar(pair, Timeframe::M15, start).unwrap();
        assert_eq!(parts.len(), 3);
        assert_eq!(whole.bid, parts[0].bid.then(&parts[1].bid).then(&parts[2].bid));
        assert_eq!(whole.ask, parts[0].ask.then(&parts[1].ask).then(&parts[2].ask));
        assert_eq!(whole.volume, parts.iter().map(|bar| bar.volume).sum::<u32>());
    }

    #[test]
    fn the_last_quote_of_a_weekend_is_fridays() {
        let market = market(5);
        let friday = market.last_quote(pair("EURUSD"), at("2020-01-17T22:00:00Z"));
        assert!(friday.is_some());
        assert_eq!(market.last_quote(pair("EURUSD"), at("2020-01-19T12:00:00Z")), friday);
    }

    /// Any pair, seed, and open bucket between 2001 and 2060.
    fn any_bucket() -> impl Strategy<Value = (u64, Pair, Timestamp)> {
        (any::<u64>(), 0..MAJOR_PAIRS.len(), 3_300_000_i64..9_500_000)
            .prop_map(|(seed, pair, index)| (seed, MAJOR_PAIRS[pair], Timestamp(index * BUCKET_S)))
            .prop_filter("open", |(_, _, bucket)| is_open(*bucket))
    }

    proptest! {
        #[test]
        fn ticks_ascend_inside_their_bucket_and_are_never_crossed((seed, pair, bucket) in any_bucket()) {
            let ticks = ticks(seed, pair, bucket);
            prop_assert!(ticks.iter().all(|tick| tick.offset_s < 300 && 0 < tick.bid && tick.bid < tick.ask));
            prop_assert!(ticks.is_sorted_by_key(|tick| tick.offset_s));
        }

        #[test]
        fn prices_are_continuous_across_buckets((seed, pair, bucket) in any_bucket()) {
            let next = bucket.plus(BUCKET_S);
            let (before, after) = (ticks(seed, pair, bucket), ticks(seed, pair, next));
            if let (Some(last), Some(first)) = (before.last(), after.first())
                && HOUR_PERCENT[bucket.utc().hour() as usize] == HOUR_PERCENT[next.utc().hour() as usize]
            {
                let mid = |tick: &Tick| f64::from(tick.bid + tick.ask) / 2.0;
                let jump = (mid(first) / mid(last) - 1.0).abs();
                // A bucket of one tick moves by its whole range at once.
                prop_assert!(jump < 0.002, "{jump}");
            }
        }

        #[test]
        fn a_forming_candle_converges_to_the_bar((seed, pair, bucket) in any_bucket()) {
            let market = market(seed);
            let end = bucket.plus(BUCKET_S);
            let whole = market.candle(pair, bucket, end);
            let mut forming: Option<Candle> = None;
            for second in 1..=300 {
                let now = market.candle(pair, bucket, bucket.plus(second));
                if let (Some(before), Some(now)) = (forming, now) {
                    prop_assert_eq!(before.bid.open, now.bid.open);
                    prop_assert!(before.bid.high <= now.bid.high && before.ask.low >= now.ask.low);
                    prop_assert!(before.ticks <= now.ticks);
                }
                forming = now;
            }
            prop_assert_eq!(forming, whole);
            if let Some(bar) = market.bar(pair, Timeframe::M5, bucket) {
                prop_assert!(bar.bid.is_ordered() && bar.ask.is_ordered());
            }
        }
    }
}
