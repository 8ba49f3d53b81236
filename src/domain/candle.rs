//! The broker's view of a bucket while it still moves.

use super::{Ohlc, Timestamp};

/// The place of a watched instrument in the configuration's list of feeds. Feeds are few (at
/// most 40), so every room keeps its state per feed in a plain vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FeedIx(pub u16);

impl FeedIx {
    /// The place as an index into a vector of feeds.
    pub fn ix(self) -> usize {
        usize::from(self.0)
    }
}

/// The whole state of one 5-minute candle as the broker last told it. Every update carries
/// values since the bucket's start, so the latest replaces all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CandleUpdate {
    /// Bucket start, UTC, on the 5-minute grid.
    pub start: Timestamp,
    /// Bid side.
    pub bid: Ohlc,
    /// Ask side (IG's wire calls it offer).
    pub ask: Ohlc,
    /// Price changes that the broker counted into this candle so far.
    pub ticks: u32,
    /// Whether the broker says that the candle is complete (`CONS_END=1`).
    pub closed: bool,
}
