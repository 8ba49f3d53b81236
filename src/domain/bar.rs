//! Our settled view of a bucket.

use std::fmt;
use std::str::FromStr;

use super::{CandleUpdate, Mid, Ohlc, Pair, Timeframe, Timestamp};

/// Which bar: the primary key of table `candles`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BarKey {
    /// Currency pair.
    pub pair: Pair,
    /// Bar length.
    pub timeframe: Timeframe,
    /// Bucket start, UTC.
    pub start: Timestamp,
}

/// Where a bar came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Settled from the stream.
    Stream,
    /// Fetched over REST.
    Rest,
    /// Folded from shorter bars of ours.
    Derived,
    /// Brought by the user; yields to all others.
    Import,
}

impl Source {
    /// How the database spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Source::Stream => "websocket",
            Source::Rest => "ig_rest",
            Source::Derived => "derived",
            Source::Import => "import",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no source of bars.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown source of bars \"{0}\"")]
pub struct UnknownSource(String);

impl FromStr for Source {
    type Err = UnknownSource;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Source::Stream, Source::Rest, Source::Derived, Source::Import]
            .into_iter()
            .find(|source| source.as_str() == text)
            .ok_or_else(|| UnknownSource(text.chars().take(20).collect()))
    }
}

/// A settled bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Pair, timeframe and bucket start.
    pub key: BarKey,
    /// Bid side.
    pub bid: Ohlc,
    /// Ask side.
    pub ask: Ohlc,
    /// Tick count of the bucket, 0 where the broker gives none.
    pub volume: u32,
    /// Where it came from.
    pub source: Source,
}

impl Bar {
    /// The 5-minute bar of a candle that is complete.
    pub fn from_candle(pair: Pair, candle: &CandleUpdate) -> Bar {
        Bar {
            key: BarKey { pair, timeframe: Timeframe::M5, start: candle.start },
            bid: candle.bid,
            ask: candle.ask,
            volume: candle.ticks,
            source: Source::Stream,
        }
    }

    /// Mid open, high, low and close: half of bid plus ask per field, exact.
    pub fn mid(&self) -> [Mid; 4] {
        let (bid, ask) = (self.bid.prices(), self.ask.prices());
        std::array::from_fn(|field| bid[field].mid(ask[field]))
    }

    /// Whether bid lies above ask in any of the four prices, as it does in some bars of brokers'
    /// records. Such a bar is odd and no error.
    pub fn is_crossed(&self) -> bool {
        std::iter::zip(self.bid.prices(), self.ask.prices()).any(|(bid, ask)| bid > ask)
    }

    /// Whether the two bars tell the same prices and volume, whatever their source.
    pub fn same_values(&self, other: &Bar) -> bool {
        self.bid == other.bid && self.ask == other.ask && self.volume == other.volume
    }

    /// Whether both bars have the same eight prices.
    pub fn same_prices(&self, other: &Bar) -> bool {
        self.bid == other.bid && self.ask == other.ask
    }
}
