//! What a broker's history answers, whoever keeps it.

use std::ops::Range;
use std::sync::Arc;

use super::{Bar, Timestamp};

/// One row of a price answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchedBar {
    /// Bucket start, UTC.
    pub start: Timestamp,
    /// Account-local time minus UTC of this row, seconds, where the broker told both.
    pub local_offset_s: Option<i64>,
    /// The bar, or `None` where the broker sent a null, unreadable or contradictory price.
    pub bar: Option<Bar>,
}

/// What REST answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Fetched {
    /// Rows, ascending, at most one a bucket, none of a forming bucket.
    pub rows: Vec<FetchedBar>,
    /// The buckets that the answer speaks of: one of these that has no row had no price.
    pub covered: Range<Timestamp>,
    /// The buckets that were asked for, which may be fewer than were wanted.
    pub asked: Range<Timestamp>,
    /// Which answer it was.
    pub evidence: Arc<str>,
}
