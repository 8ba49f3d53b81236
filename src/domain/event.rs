//! What a stream tells, whoever streams.

use std::sync::Arc;

use super::{CandleUpdate, FeedIx, Ohlc, Price, Reason, Timestamp};

/// What the stream told of one feed, in the order told.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamEvent {
    /// A streaming session began; what it tells from here on is its evidence.
    SessionBegan {
        /// `ls:` and the start of the session's id.
        evidence: Arc<str>,
    },
    /// The server confirmed a subscription: continuity begins.
    Subscribed {
        /// Which feed.
        feed: FeedIx,
    },
    /// Whether the server promised to merge nothing away.
    Configured {
        /// Which feed.
        feed: FeedIx,
        /// `CONF` said `unfiltered`.
        unfiltered: bool,
    },
    /// A candle moved or closed.
    Candle {
        /// Which feed.
        feed: FeedIx,
        /// Its whole state.
        candle: CandleUpdate,
    },
    /// A row came that cannot be trusted, so the forming candle may not be what it seems.
    Rejected {
        /// Which feed.
        feed: FeedIx,
        /// The bucket that it shows to have had prices.
        bucket: Option<Timestamp>,
    },
    /// The session has no connection for a while, after a break or by the server's wish. Whether rows
    /// were lost shows when it goes on or ends.
    Interrupted,
    /// Continuity is broken for one feed, or for all.
    Broken {
        /// Which feed, or all of them.
        feed: Option<FeedIx>,
        /// Why.
        reason: Reason,
    },
}

impl StreamEvent {
    /// Appends that a candle moved or closed. It is copied to where it stays: on its way through a value of its own the
    /// processor would have to wait for it.
    #[inline]
    pub fn push_candle(told: &mut Vec<StreamEvent>, feed: FeedIx, candle: &CandleUpdate) {
        const SIDE: Ohlc = Ohlc { open: Price::ONE, high: Price::ONE, low: Price::ONE, close: Price::ONE };
        const ANY: StreamEvent = StreamEvent::Candle {
            feed: FeedIx(0),
            candle: CandleUpdate { start: Timestamp(0), bid: SIDE, ask: SIDE, ticks: 0, closed: false },
        };
        told.push(ANY);
        if let Some(StreamEvent::Candle { feed: its_feed, candle: its_candle }) = told.last_mut() {
            *its_feed = feed;
            *its_candle = *candle;
        }
    }
}
