//! Bars that a user brings. They take the way of all others, [`commit`](super::commit); what is added is
//! that the ledger of a watched pair stays without a hole.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use diesel::prelude::*;
use diesel::result::QueryResult;

use super::backend::{Connection, on_backend};
use super::error::StoreError;
use super::feeds;
use super::rows::PairText;
use super::schema::coverage;
use crate::domain::{Bar, Fact, Mark, Pair, Timeframe, Timestamp};

/// How the evidence of such bars begins; the name of their file follows.
pub const IMPORT_EVIDENCE: &str = "import:";

/// The bars as facts, each after what `unseen` says of the time between the end of its pair's ledger
/// and itself. A start goes on from that end, so what lies before it would never be looked at again.
pub(super) fn facts(
    connection: &mut Connection,
    bars: &[Bar],
    unseen: &dyn Fn(Pair, Range<Timestamp>) -> Vec<Mark>,
) -> Result<Vec<Fact>, StoreError> {
    let watched: BTreeSet<Pair> = feeds::all(connection)?
        .into_iter()
        .filter(|watched| watched.watched_to.is_none())
        .map(|watched| watched.feed.pair)
        .collect();
    let mut ends: HashMap<Pair, Option<Timestamp>> = HashMap::new();
    let mut facts = Vec::with_capacity(bars.len());
    for bar in bars {
        let (pair, start) = (bar.key.pair, bar.key.start);
        if bar.key.timeframe == Timeframe::M5 && watched.contains(&pair) {
            let end = match ends.get(&pair) {
                Some(end) => *end,
                None => end_of(connection, pair)?,
            };
            if let Some(end) = end.filter(|end| *end < start) {
                facts.extend(unseen(pair, end..start).into_iter().map(Fact::Marked));
            }
            ends.insert(pair, end.map(|end| end.max(start.plus(Timeframe::M5.seconds()))));
        }
        facts.push(Fact::Settled(*bar));
    }
    Ok(facts)
}

/// Where the ledger of a pair's 5-minute buckets ends.
fn end_of(connection: &mut Connection, pair: Pair) -> QueryResult<Option<Timestamp>> {
    let pair = PairText::new(pair);
    let end: Option<i64> = on_backend!(connection, connection => {
        coverage::table
            .filter(coverage::pair.eq(pair.as_str()))
            .filter(coverage::timeframe.eq(Timeframe::M5.as_str()))
            .order(coverage::from_ts.desc())
            .select(coverage::to_ts)
            .first(connection)
            .optional()
    })?;
    Ok(end.map(Timestamp))
}
