//! When rows may wait to be read. Pure.
//!
//! IG sends a row a second of each pair; whether those of all pairs come together is not known. A frame that comes by itself wakes the process
//! up, and a processor that has slept has none of what a row passes through in its memory: that takes ten times what the row does. In the
//! middle of a candle nobody waits for it, so what has come is read once a second, at the [beat](crate::clock::beat) at which all else is
//! looked at. Around a candle's end, and where somebody watches candles under way, rows are read as they come.

use crate::domain::{Timeframe, Timestamp};

/// Around the end of a candle none wait. Before it, seconds: they must have been read by then, also where this clock is slow by what is
/// not corrected for ([`CORRECT_FROM_MS`](crate::skew::CORRECT_FROM_MS)).
const BEFORE_END_S: i64 = 5;
/// After it they do once all pairs' last rows have come, or so many seconds later: IG's come within a few seconds, and one may stay away.
const AFTER_END_S: i64 = 10;
/// Nor at the beginning of a session, in which much else is said, seconds.
const BEGINNING_S: i64 = 10;

/// For how many seconds what comes may wait for the next beat each time, at this time of the market, when there have been rows for so
/// many seconds. The last argument says whether all candles that began at a time have ended.
pub fn may_wait(now: Timestamp, streaming_s: i64, have_ended: impl FnOnce(Timestamp) -> bool) -> Option<u64> {
    let candle = Timeframe::M5;
    let begin = candle.bucket(now);
    let (passed_s, last_s) = (now.since(begin), candle.seconds() - BEFORE_END_S);
    let is_calm =
        streaming_s >= BEGINNING_S && (passed_s >= AFTER_END_S || have_ended(begin.plus(-candle.seconds())));
    u64::try_from(last_s - passed_s).ok().filter(|left_s| is_calm && *left_s > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::skew::CORRECT_FROM_MS;

    #[test]
    fn around_the_end_of_a_candle_and_at_the_beginning_nothing_waits() {
        // 12:00:00 UTC.
        let end = Timestamp(1_579_089_600);
        let waits = |seconds: i64| may_wait(end.plus(seconds), 10, |_| false);
        let expected = [Some(1), None, None, None, Some(285), Some(1), None];
        assert_eq!([-6, -5, 0, 9, 10, 294, 295].map(waits), expected);
        assert_eq!(may_wait(end.plus(100), 9, |_| true), None, "a session has just begun");
    }

    #[test]
    fn when_all_candles_have_ended_nothing_is_waited_for() {
        let end = Timestamp(1_579_089_600);
        let the_one_before = |begin| begin == end.plus(-300);
        let waits = |seconds: i64| may_wait(end.plus(seconds), 10, the_one_before);
        assert_eq!([-5, 0, 1, 10, 295].map(waits), [None, Some(295), Some(294), Some(285), None]);
    }

    #[test]
    fn who_waits_has_read_before_the_candle_ends() {
        for now in (0..600).map(Timestamp) {
            let Some(left_s) = may_wait(now, 10, |_| true) else { continue };
            // Times are in whole seconds, so it may be nearly one more, and the clock that much slow.
            let last = now.plus(left_s as i64 + 1 + CORRECT_FROM_MS / 1_000);
            assert_eq!(Timeframe::M5.bucket(now), Timeframe::M5.bucket(last), "{now}");
        }
    }
}
