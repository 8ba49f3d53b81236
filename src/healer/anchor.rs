//! A stored bucket near a hole, by whose bar it is tested how IG reads ranges. Pure.
//!
//! The offset of local time may change between weeks, so one of the hole's own week proves most; and the
//! further it is from the market's hours of rest, the more surely a range that is read aside has bars to
//! tell so.

use std::ops::Range;

use crate::domain::coverage::Run;
use crate::domain::{State, Timeframe, Timestamp};

/// Half a week: its middle is Wednesday noon.
const HALF_WEEK_S: i64 = 7 * 43_200;
/// Bars that ended so long ago history has, seconds, however it lags behind the stream.
const IN_HISTORY_S: i64 = 3_600;

/// The bucket to test by at event time `now`, of the ledger's runs around the hole `span`, ascending: one of
/// the week in which it ends, nearest to that week's middle; else one before it rather than after.
pub fn anchor(
    runs: &[Run],
    timeframe: Timeframe,
    span: &Range<Timestamp>,
    now: Timestamp,
) -> Option<Timestamp> {
    let step = timeframe.seconds();
    let stored = || runs.iter().filter(|run| run.state == State::Stored);
    let week = span.end.plus(-1).week();
    let in_history = now.plus(-IN_HISTORY_S);
    let middle = timeframe.bucket(week.plus(HALF_WEEK_S));
    let of_its_week = stored().filter_map(|run| {
        let start = run.span.start.max(week);
        let end = run.span.end.min(week.plus(2 * HALF_WEEK_S)).min(timeframe.bucket(in_history));
        (start < end).then(|| middle.clamp(start, end.plus(-step)))
    });
    let nearest = of_its_week.min_by_key(|bucket| bucket.since(middle).abs());
    let before = || stored().rev().find(|run| run.span.end <= span.start).map(|run| run.span.end.plus(-step));
    let after = || stored().find(|run| run.span.start >= span.end).map(|run| run.span.start);
    nearest.or_else(before).or_else(after)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NOON, at, runs};
    use super::*;

    /// Which bucket a hole is tested by, both counted from Wednesday noon, where the ledger's runs begin
    /// `shift` buckets from there.
    fn check(ledger: &str, shift: i64, hole: Range<i64>, now: i64, expected: Option<i64>) {
        let mut ledger = runs(ledger, Timeframe::M5);
        for run in &mut ledger {
            run.span = run.span.start.plus(shift * 300)..run.span.end.plus(shift * 300);
        }
        let told = anchor(&ledger, Timeframe::M5, &(at(hole.start)..at(hole.end)), at(now));
        assert_eq!(told.map(|bucket| bucket.since(NOON) / 300), expected, "{ledger:?} {hole:?}");
    }

    #[test]
    fn a_hole_is_tested_by_a_bar_of_its_own_week_far_from_the_weekend() {
        check("ssddss", 10, 12..14, 10_000, Some(10));
        check("ssddss", -3, -1..1, 10_000, Some(1));
        check("ddssss", -1_005, -1_005..-1_003, 10_000, Some(-1_000));
        // A bar of the week before is no better for being nearer.
        check("ssss", -1_010, -1_000..-990, 10_000, Some(-1_007));
        check("ss", -1_010, -1_000..-990, 10_000, Some(-1_009));
        check("ss", 1_008, 1_000..1_005, 10_000, Some(1_008));
        // Nor is one that history may not have yet.
        check("ddssss", -6, -6..-4, 12, Some(-1));
        check("ddssss", -6, -6..-4, 10, Some(-3));
        check("sddss", -6, -5..-3, -1, Some(-6));
        check("dd", 10, 10..12, 10_000, None);
        check("", 10, 10..12, 10_000, None);
    }
}
