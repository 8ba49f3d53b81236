//! What the ledger says of time in which a pair was not streamed. Pure.

use std::ops::Range;

use super::finalizer::Depth;
use crate::domain::{Calendar, Expectation, Mark, Pair, Reason, State, Timeframe, Timestamp};

/// Accounts for a span of which nothing was seen: missing where the market is expected to trade, and
/// where it possibly does if nobody was there to see. History is not asked for over such hours.
pub fn unseen(
    pair: Pair,
    calendar: &Calendar,
    timeframe: Timeframe,
    span: Range<Timestamp>,
    reason: Reason,
) -> impl Iterator<Item = Mark> {
    let step = timeframe.seconds();
    calendar.runs(span).into_iter().filter_map(move |(run, expectation)| {
        let (state, reason) = match expectation {
            Expectation::Expected => (State::Missing, reason),
            Expectation::Possible if reason.is_loss() => (State::Missing, reason),
            Expectation::Possible => (State::Closed, Reason::PossiblyOpen),
            Expectation::Closed => (State::Closed, Reason::Calendar),
        };
        // A longer bucket belongs to the run in which it ends.
        let span = run.start.floor(step)..run.end.floor(step);
        (span.start < span.end).then_some(Mark { pair, timeframe, span, state, reason })
    })
}

/// What the first backfill of a pair asks for: so many 5-minute bars before `start`, and before
/// those the 15-minute bars that will not be derived from them.
pub fn first_start(pair: Pair, calendar: &Calendar, start: Timestamp, depth: Depth) -> Vec<Mark> {
    let step15 = Timeframe::M15.seconds();
    let m5_start = calendar.back_from(start, depth.m5 as usize);
    let m15_start = calendar.back_from(start, depth.m15 as usize * 3).floor(step15);
    let derived_from = m5_start.ceil(step15);
    let mut marks: Vec<Mark> =
        unseen(pair, calendar, Timeframe::M5, m5_start..start, Reason::FirstStart).collect();
    if depth.m15 > 0 && m15_start < derived_from {
        let span = m15_start..derived_from;
        marks.extend(unseen(pair, calendar, Timeframe::M15, span, Reason::FirstStart));
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_start_asks_for_open_hours_alone() {
        // Monday 2020-01-13 01:00 UTC: the market has been open for three hours, or four.
        let start = Timestamp(1_578_877_200);
        let marks =
            first_start("EURUSD".parse().unwrap(), &Calendar::forex(), start, Depth { m5: 40, m15: 20 });
        let told: Vec<_> = marks
            .iter()
            .map(|mark| {
                let hour = |time: Timestamp| time.utc().format("%a %H:%M").to_string();
                format!("{} {} {}-{}", mark.timeframe, mark.state, hour(mark.span.start), hour(mark.span.end))
            })
            .collect();
        assert_eq!(
            told,
            [
                "5 missing Fri 21:40-Fri 22:00",
                "5 closed Fri 22:00-Sun 21:00",
                "5 closed Sun 21:00-Sun 22:00",
                "5 missing Sun 22:00-Mon 01:00",
                "15 missing Fri 20:00-Fri 21:45",
            ]
        );
    }

    #[test]
    fn nothing_is_asked_for_where_nothing_is_wanted() {
        let start = Timestamp(1_578_877_200);
        let marks = |m5, m15| {
            first_start("EURUSD".parse().unwrap(), &Calendar::forex(), start, Depth { m5, m15 })
                .iter()
                .filter(|mark| mark.state == State::Missing)
                .map(|mark| mark.timeframe)
                .collect::<Vec<_>>()
        };
        assert_eq!(marks(0, 0), []);
        assert_eq!(marks(3, 0), [Timeframe::M5]);
        assert_eq!(marks(0, 1), [Timeframe::M15]);
    }
}
