//! Keeps the ledger free of holes: finds them, plans what to ask of REST within the allowance, and
//! tells what the answers say.

pub mod actor;
pub mod anchor;
pub mod attempts;
pub mod book;
pub mod facts;
pub mod holes;
pub mod outcome;
pub mod plan;
pub mod wishes;

#[cfg(test)]
pub(crate) mod testing {
    use std::sync::Arc;

    use super::holes::Page;
    use crate::domain::coverage::{Run, testing};
    use crate::domain::{Calendar, FeedIx, Pair, Timeframe, Timestamp};

    /// Wednesday 2020-01-15 12:00 UTC, far from any close: bucket 0 of every ledger.
    pub const NOON: Timestamp = Timestamp(1_579_089_600);

    /// The start of a 5-minute bucket.
    pub fn at(bucket: i64) -> Timestamp {
        NOON.plus(bucket * 300)
    }

    /// One of three pairs.
    pub fn pair(feed: u16) -> Pair {
        ["EURUSD", "GBPUSD", "USDJPY"][usize::from(feed)].parse().unwrap()
    }

    /// Runs as text, from noon on.
    pub fn runs(text: &str, timeframe: Timeframe) -> Vec<Run> {
        testing::runs(text, NOON, timeframe)
    }

    /// A page of the ledger from its text.
    pub fn page(feed: u16, m5: &str, m15: &str) -> Page {
        Page {
            feed: FeedIx(feed),
            pair: pair(feed),
            calendar: Arc::new(Calendar::forex()),
            m5: runs(m5, Timeframe::M5),
            m15: runs(m15, Timeframe::M15),
        }
    }
}
