//! Bars to be stored by benches.

use std::sync::Arc;

use candlekeep::domain::pair::MAJOR_PAIRS;
use candlekeep::domain::{Bar, BarKey, Fact, FactBatch, Ohlc, Pair, Price, Source, Timeframe, Timestamp};

/// 2020-01-05 22:00:00 UTC, a Sunday: the start of bucket 0.
pub const START: Timestamp = Timestamp(1_578_261_600);

/// So many pairs: those that are collected by default, and made-up ones.
pub fn pairs(count: usize) -> Vec<Pair> {
    let letter = |place: usize| char::from(b'A' + (place % 26) as u8);
    let made_up = (0..).map(|n: usize| {
        let name: String = ['Q', letter(n / 676), letter(n / 26), letter(n), 'X', 'Q'].iter().collect();
        name.parse().expect("six letters are a pair")
    });
    MAJOR_PAIRS.into_iter().chain(made_up).take(count).collect()
}

/// The start of a 5-minute bucket.
pub fn start_of(bucket: i64) -> Timestamp {
    START.plus(bucket * 300)
}

/// Streamed bars of these pairs, as a replay of recorded weeks would settle them.
pub fn bars_of(pairs: &[Pair], first: i64, buckets: i64) -> Arc<FactBatch> {
    let facts = (first..first + buckets)
        .flat_map(|bucket| pairs.iter().zip(0..).map(move |(pair, n)| Fact::Settled(bar(*pair, n, bucket))))
        .collect();
    Arc::new(FactBatch { evidence: "session 1".into(), facts })
}

pub fn bar(pair: Pair, n: i64, bucket: i64) -> Bar {
    // Prices that wander a little: what they are does not matter, their digits do.
    let open = 110_000_000 + n % 1_000 * 1_000_000 + (bucket * 7_919 + n * 104_729) % 700_000;
    let side = |spread: i64| {
        let price =
            |offset: i64| Price::from_units((open + offset + spread) / 1_000 * 1_000).expect("a price");
        Ohlc { open: price(0), high: price(41_000), low: price(-37_000), close: price(12_000) }
    };
    let key = BarKey { pair, timeframe: Timeframe::M5, start: start_of(bucket) };
    Bar { key, bid: side(0), ask: side(9_000), volume: 300 + (bucket % 97) as u32, source: Source::Stream }
}
