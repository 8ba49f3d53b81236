//! In which form a stretch of bars is asked for. Pure.
//!
//! As "the last N" it needs no knowledge of the zone in which IG reads dates, at the price of the
//! forming bar; as a range it costs its own bars alone.

use std::ops::Range;

use super::zone::Zone;
use crate::domain::{Calendar, Timeframe, Timestamp};

/// Bars from which on asking for the last N is worth the forming one.
const LAST_MIN: u32 = 3;

/// The form of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// So many last bars, which may cost a point each. The forming one is among them.
    Last(u32),
    /// From one time to another.
    Range,
}

/// Chooses the form for a span of complete buckets. `reaches_now`: no bar is stored between its
/// start and the present. `is_steady`: the event clock goes on by itself, and no bar is complete
/// that is not counted on yet; where market time may outrun the request the last bars are others
/// by the time that they are asked for.
pub fn choose(
    span: &Range<Timestamp>,
    timeframe: Timeframe,
    (zone, is_steady, reaches_now): (Zone, bool, bool),
    complete_to: Timestamp,
    calendar: &Calendar,
) -> Form {
    let bars = calendar.bars_at_most(span.clone(), timeframe);
    // Buckets in which no bar is certain would have the last N reach further back.
    let is_plain = i64::from(bars) == span.end.since(span.start) / timeframe.seconds();
    // For a few bars it is cheaper to learn the zone once.
    if bars >= LAST_MIN
        && zone == Zone::Unknown
        && is_steady
        && reaches_now
        && span.end == complete_to
        && is_plain
    {
        Form::Last(bars + 1)
    } else {
        Form::Range
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wednesday noon.
    const NOON: Timestamp = Timestamp(1_579_089_600);

    #[test]
    fn the_last_bars_are_asked_for_where_the_zone_is_not_known_and_nothing_is_stored_since() {
        let calendar = Calendar::forex();
        let check = |buckets: i64, known: (Zone, bool, bool), since: i64| {
            let span = NOON.plus(-buckets * 300)..NOON;
            choose(&span, Timeframe::M5, known, NOON.plus(since * 300), &calendar)
        };
        assert_eq!(check(100, (Zone::Unknown, true, true), 0), Form::Last(101));
        assert_eq!(check(100, (Zone::Unknown, true, true), 1), Form::Range, "a bar has come since");
        assert_eq!(check(100, (Zone::Unknown, true, false), 0), Form::Range, "some are stored");
        assert_eq!(check(100, (Zone::Unknown, false, true), 0), Form::Range, "time may outrun it");
        assert_eq!(check(100, (Zone::Utc, true, true), 0), Form::Range);
        assert_eq!(check(2, (Zone::Unknown, true, true), 0), Form::Range, "the zone is learnt instead");
        assert_eq!(check(1_000, (Zone::Unknown, true, true), 0), Form::Range, "a weekend lies in it");
    }
}
