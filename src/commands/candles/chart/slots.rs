//! What stands beside each other: bars, and what is there in place of one. Pure.

use std::ops::Range;

use super::Candle;
use crate::domain::{Timeframe, Timestamp};

/// The part of the room that what is missing at the end may have.
const TAIL_PART: usize = 4;

/// Why a bucket has no bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// Missing or lost.
    Missing,
    /// No price came.
    Quiet,
    /// The market was closed.
    Closed,
    /// It is not known.
    Unknown,
}

/// What stands beside each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Slot {
    /// A bar.
    Bar(Candle),
    /// A bucket without one; closed hours have one for all of them.
    None(Timestamp, Absent),
}

/// Bars, what lies between them, and what is missing behind the last one and before `end`, oldest first: the newest
/// `slots_max`. Of what is missing at the end there is so much that most of the room is left to bars; how many more
/// buckets are missing.
pub fn slots(
    candles: &[Candle],
    timeframe: Timeframe,
    end: Timestamp,
    slots_max: usize,
    why: impl Fn(Timestamp) -> Absent,
) -> (Vec<Slot>, usize) {
    let Some(last) = candles.last() else { return (Vec::new(), 0) };
    let step = timeframe.seconds();
    let (mut slots, beyond) = tail(last.start.plus(step)..end, timeframe, slots_max / TAIL_PART, &why);
    slots.reverse();
    let mut newer: Option<Timestamp> = None;
    for candle in candles.iter().rev() {
        let mut absent = newer.map_or(candle.start, |newer| newer.plus(-step));
        while absent > candle.start && slots.len() < slots_max {
            push(&mut slots, absent, why(absent));
            absent = absent.plus(-step);
        }
        if slots.len() >= slots_max {
            break;
        }
        slots.push(Slot::Bar(*candle));
        newer = Some(candle.start);
    }
    slots.reverse();
    // At the edge it is between nothing and a bar.
    let first = slots.iter().position(|slot| matches!(slot, Slot::Bar(_))).unwrap_or(slots.len());
    (slots.split_off(first), beyond)
}

/// What is there in place of bars behind the last one, up to the last bucket that is missing: at most so many slots,
/// and how many more buckets are missing.
fn tail(
    span: Range<Timestamp>,
    timeframe: Timeframe,
    slots_max: usize,
    why: impl Fn(Timestamp) -> Absent,
) -> (Vec<Slot>, usize) {
    let (mut slots, mut shown, mut beyond) = (Vec::new(), 0, 0);
    let mut at = span.start;
    while at < span.end {
        let reason = why(at);
        if slots.len() < slots_max {
            push(&mut slots, at, reason);
        } else if reason == Absent::Missing {
            beyond += 1;
        }
        if reason == Absent::Missing && beyond == 0 {
            shown = slots.len();
        }
        at = at.plus(timeframe.seconds());
    }
    slots.truncate(shown);
    (slots, beyond)
}

/// Adds a bucket without a bar; closed hours go on in the slot that they have.
fn push(slots: &mut Vec<Slot>, at: Timestamp, why: Absent) {
    let goes_on = matches!(slots.last(), Some(Slot::None(_, Absent::Closed)));
    if why != Absent::Closed || !goes_on {
        slots.push(Slot::None(at, why));
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::commands::candles::chart::tests::{START, candle};

    /// A letter for each slot.
    pub fn form(slots: &[Slot]) -> String {
        slots
            .iter()
            .map(|slot| match slot {
                Slot::Bar(_) => 'B',
                Slot::None(_, Absent::Quiet) => 'q',
                Slot::None(_, Absent::Missing) => 'm',
                Slot::None(_, Absent::Closed) => 'c',
                Slot::None(_, Absent::Unknown) => 'u',
            })
            .collect()
    }

    #[test]
    fn what_is_missing_behind_the_last_bar_is_shown_as_far_as_bars_leave_room() {
        let bars: Vec<Candle> = (0..20).map(|index| candle(index, [1.0; 4])).collect();
        // Two hours that are missing, a break, and some that are missing again.
        let why = |at: Timestamp| match at.since(START) / 300 {
            24..40 => Absent::Closed,
            42 | 50.. => Absent::Quiet,
            _ => Absent::Missing,
        };
        let check = |buckets: i64, slots_max, expected: &str, more| {
            let (slots, beyond) = slots(&bars, Timeframe::M5, START.plus(buckets * 300), slots_max, why);
            assert_eq!((&*form(&slots), beyond), (expected, more), "to {buckets}, {slots_max} slots");
        };
        check(0, 8, "BBBBBBBB", 0);
        check(20, 8, "BBBBBBBB", 0);
        check(21, 8, "BBBBBBBm", 0);
        check(22, 8, "BBBBBBmm", 0);
        check(24, 8, "BBBBBBmm", 2);
        check(24, 16, "BBBBBBBBBBBBmmmm", 0);
        // Closed hours and quiet ones are told between what is missing, and not at the end.
        check(40, 24, "BBBBBBBBBBBBBBBBBBBBmmmm", 0);
        check(41, 24, "BBBBBBBBBBBBBBBBBBmmmmcm", 0);
        check(43, 32, "BBBBBBBBBBBBBBBBBBBBmmmmcmm", 0);
        check(60, 32, "BBBBBBBBBBBBBBBBBBBBmmmmcmm", 7);
        assert_eq!(slots(&[], Timeframe::M5, START, 8, why), (Vec::new(), 0));
    }
}
