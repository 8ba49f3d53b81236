//! Counters that rooms add to and that summaries and metrics read.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::{Fact, Reason, State};

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
    /// Settled bars with bid above ask in some price: kept, since brokers' records have them.
    pub bars_crossed: Counter,
    /// Bars of hours in which the calendar has the market closed: kept, since reality wins.
    pub bars_out_of_hours: Counter,
    /// Bars that came over REST.
    pub bars_fetched: Counter,
    /// Buckets found missing after the first start, whether or not they were healed since.
    pub buckets_missed: Counter,
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
    /// Attempts to stream that came to nothing before there was a session.
    pub stream_attempts_failed: Counter,
    /// What the stream does: the number of its phase (`ig::stream::state::Phase`).
    pub stream_phase: Gauge,
    /// Rows written or changed in the database.
    pub rows_stored: Counter,
    /// Facts that are durable in the spool and not in the database: while there are any, the ledger
    /// lags behind what is known.
    pub facts_spooled: Gauge,
}

impl Stats {
    /// Counts findings.
    pub fn found(&self, facts: &[Fact]) {
        for fact in facts {
            match fact {
                Fact::Settled(bar) => {
                    self.bars_settled.add(1);
                    self.bars_crossed.add(u64::from(bar.is_crossed()));
                }
                Fact::Marked(mark)
                    if mark.state == State::Missing
                        && !matches!(mark.reason, Reason::Silent | Reason::FirstStart) =>
                {
                    let seconds = mark.span.end.since(mark.span.start);
                    self.buckets_missed.add((seconds / mark.timeframe.seconds()) as u64);
                }
                Fact::Marked(_) => {}
            }
        }
    }
}
