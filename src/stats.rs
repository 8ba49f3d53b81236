//! Counters that rooms add to and that summaries and metrics read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::domain::{Fact, Mark, Reason, Source, State};

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

/// A number that comes and goes.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// What it is now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that is not known at first.
#[derive(Debug)]
pub struct Known(AtomicU64);

impl Known {
    const UNKNOWN: u64 = u64::MAX;

    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// What it is, if that is known.
    pub fn get(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|value| *value != Known::UNKNOWN)
    }
}

impl Default for Known {
    fn default() -> Known {
        Known(AtomicU64::new(Known::UNKNOWN))
    }
}

/// Upper bounds of what durations are counted by, milliseconds. What is longer than the last is counted there.
pub const LAG_BOUNDS_MS: [u64; 20] =
    [1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200, 500, 1_000, 2_000, 10_000, 60_000, 600_000, 3_600_000];

/// Counts durations by how long they were.
#[derive(Debug, Default)]
pub struct Lags {
    counts: [AtomicU64; LAG_BOUNDS_MS.len()],
    sum_us: AtomicU64,
}

impl Lags {
    /// Counts `count` durations of this length.
    pub fn add(&self, lag: Duration, count: u64) {
        let us = u64::try_from(lag.as_micros()).unwrap_or(u64::MAX);
        let place = LAG_BOUNDS_MS.iter().position(|bound_ms| us <= bound_ms * 1_000);
        self.counts[place.unwrap_or(LAG_BOUNDS_MS.len() - 1)].fetch_add(count, Ordering::Relaxed);
        self.sum_us.fetch_add(us.saturating_mul(count), Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn counts(&self) -> LagCounts {
        LagCounts {
            counts: std::array::from_fn(|place| self.counts[place].load(Ordering::Relaxed)),
            sum_us: self.sum_us.load(Ordering::Relaxed),
        }
    }
}

/// How many durations there were of which length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LagCounts {
    /// By [`LAG_BOUNDS_MS`], each for itself.
    pub counts: [u64; LAG_BOUNDS_MS.len()],
    /// All together, microseconds.
    pub sum_us: u64,
}

impl LagCounts {
    /// Those that came after `earlier` was read.
    pub fn since(&self, earlier: &LagCounts) -> LagCounts {
        LagCounts {
            counts: std::array::from_fn(|place| self.counts[place].saturating_sub(earlier.counts[place])),
            sum_us: self.sum_us.saturating_sub(earlier.sum_us),
        }
    }

    /// How many.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The bound, milliseconds, that half of them keep within; none where there are none.
    pub fn median_ms(&self) -> Option<u64> {
        let half = self.total().div_ceil(2);
        let mut seen = 0;
        let place = self.counts.iter().position(|count| {
            seen += count;
            seen >= half
        });
        place.filter(|_| half > 0).map(|place| LAG_BOUNDS_MS[place])
    }

    /// The bound, milliseconds, that all of them keep within, as far as there is one; none where there are none.
    pub fn max_ms(&self) -> Option<u64> {
        self.counts.iter().rposition(|count| *count > 0).map(|place| LAG_BOUNDS_MS[place])
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
    /// Bars settled by the stream, corrections included.
    pub bars_streamed: Counter,
    /// Settled bars with bid above ask in some price: kept, since brokers' records have them.
    pub bars_crossed: Counter,
    /// Bars of hours in which the calendar has the market closed: kept, since reality wins.
    pub bars_out_of_hours: Counter,
    /// Bars that came over REST.
    pub bars_fetched: Counter,
    /// Buckets found missing after the first start, whether or not they were healed since.
    pub buckets_missed: Counter,
    /// Buckets that proved to be quiet.
    pub buckets_quiet: Counter,
    /// Items subscribed again because they were silent for too long.
    pub items_stale: Counter,
    /// Streaming sessions begun.
    pub stream_sessions: Counter,
    /// Streaming connections that broke.
    pub stream_breaks: Counter,
    /// Broken connections after which the stream went on exactly where it had stopped.
    pub stream_recoveries: Counter,
    /// Times that the server asked for a new connection, which costs nothing.
    pub stream_loops: Counter,
    /// Bytes that came over streaming connections, as text: without TLS and framing.
    pub stream_bytes: Counter,
    /// Batches of findings that the writer has taken and not answered for.
    pub writer_holds: Gauge,
    /// Attempts to stream that came to nothing before there was a session.
    pub stream_attempts_failed: Counter,
    /// What the stream does: the number of its phase (`ig::stream::state::Phase`).
    pub stream_phase: Gauge,
    /// Since when it does so, epoch seconds; not known before it does anything.
    pub stream_since: Known,
    /// Wakes who tells of it when it has changed.
    pub stream_news: Notify,
    /// Rows written or changed in the database.
    pub rows_stored: Counter,
    /// Facts that are durable in the spool and not in the database: while there are any, the ledger
    /// lags behind what is known.
    pub facts_spooled: Gauge,
    /// Bytes of the spool that are in use, as of when it was last written.
    pub spool_bytes: Gauge,
    /// Pieces of work that wait for the database's thread, as of the last look.
    pub store_waiting: Gauge,
    /// How long the writer waited for each answer of the database, be it a refusal.
    pub database_commit: Lags,
    /// IG has granted a session and has not complained about it, as of the last look: 0 or 1.
    pub logged_in: Gauge,
    /// How long streamed bars took from when their candle was found to be over to the disk, of the database or of the spool.
    pub close_to_durable: Lags,
    /// Clients of `/v1/stream` that are told of candles under way.
    pub forming_followers: Gauge,
    /// Clients of `/v1/stream` that were ended since bars for them alone could not be read.
    pub followers_unread: Counter,
    /// Data points of IG's weekly allowance that are left, as far as they are known.
    pub allowance_remaining: Known,
    /// Buckets of 5 and of 15 minutes that are missing, as of the healer's last look.
    pub buckets_missing: Known,
}

impl Stats {
    /// Counts findings.
    pub fn found(&self, facts: &[Fact]) {
        for fact in facts {
            match fact {
                Fact::Settled(bar) => {
                    self.bars_settled.add(1);
                    self.bars_streamed.add(u64::from(bar.source == Source::Stream));
                    self.bars_crossed.add(u64::from(bar.is_crossed()));
                }
                Fact::Marked(mark)
                    if mark.state == State::Missing
                        && !matches!(mark.reason, Reason::Silent | Reason::FirstStart) =>
                {
                    self.buckets_missed.add(buckets(mark));
                }
                Fact::Marked(mark) if mark.state == State::Quiet => self.buckets_quiet.add(buckets(mark)),
                Fact::Marked(_) => {}
            }
        }
    }
}

fn buckets(mark: &Mark) -> u64 {
    (mark.span.end.since(mark.span.start) / mark.timeframe.seconds()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_told_by_the_bound_they_keep_within() {
        let lags = Lags::default();
        assert_eq!((lags.counts().median_ms(), lags.counts().max_ms()), (None, None));
        lags.add(Duration::from_micros(1), 3);
        let before = lags.counts();
        lags.add(Duration::from_micros(1_000), 1);
        lags.add(Duration::from_micros(1_001), 1);
        lags.add(Duration::from_secs(86_400), 1);
        let since = lags.counts().since(&before);
        assert_eq!((since.total(), since.median_ms(), since.max_ms()), (3, Some(2), Some(3_600_000)));
        assert_eq!((lags.counts().total(), lags.counts().median_ms()), (6, Some(1)));
        assert_eq!(before.sum_us, 3);
    }

    #[test]
    fn what_is_not_known_is_not_nought() {
        let left = Known::default();
        assert_eq!(left.get(), None);
        left.set(0);
        assert_eq!(left.get(), Some(0));
    }
}
