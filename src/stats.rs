//! Counters that rooms add to and that summaries and metrics read.

use std::sync::atomic::{AtomicU64, Ordering};

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to the count.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the house has done since it started.
#[derive(Debug, Default)]
pub struct Stats {
    /// Candle rows taken from the stream.
    pub rows: Counter,
    /// Rows held back because they could not be trusted.
    pub rows_rejected: Counter,
    /// Lines that were not understood.
    pub lines_skipped: Counter,
    /// Bars settled, from the stream and from REST, corrections included.
    pub bars_settled: Counter,
    /// Settled bars in which a bid is above its ask: stored as the broker told them.
    pub bars_crossed: Counter,
    /// Bars that came over REST.
    pub bars_fetched: Counter,
    /// Buckets found missing after the first start, whether or not they were healed since.
    pub buckets_missed: Counter,
    /// Streaming sessions begun.
    pub stream_sessions: Counter,
    /// Streaming connections that broke.
    pub stream_breaks: Counter,
    /// Broken connections after which the stream went on exactly where it had stopped.
    pub stream_recoveries: Counter,
    /// Times that the server asked for a new connection, which costs nothing.
    pub stream_loops: Counter,
    /// Rows written or changed in the database.
    pub rows_stored: Counter,
}
