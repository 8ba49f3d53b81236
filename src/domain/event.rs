//! What a stream tells, whoever streams.

use std::sync::Arc;

use super::{CandleUpdate, FeedIx, Reason, Timestamp};

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
