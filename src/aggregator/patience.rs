//! How long an item may be silent before something must be wrong with it. Pure.
//!
//! A busy pair moves every second, a thin one at night not for a quarter of an hour. So each item
//! is measured by itself: the longest silence in each hour of trading is averaged over the hours,
//! and a silence several times as long is too long. The configured time is the least that counts.

use crate::domain::{Calendar, Expectation, Timeframe, Timestamp};

const HOUR_S: i64 = 3_600;
/// A silence so many times as long as usual is too long.
const USUAL_TIMES: i64 = 3;
/// However quiet a pair is, this silence is too long, seconds.
const LIMIT_MAX_S: i64 = HOUR_S;
/// Weight of one hour in the average of all: one in so many.
const HOURS_AVERAGED: i64 = 8;
/// A silence beyond this is no habit but a closure or an outage, seconds.
const LEARNT_MAX_S: i64 = 2 * HOUR_S;
/// After an opening quotes come late and thin: silence in the first hour is excused, seconds.
const OPENING_S: i64 = HOUR_S;
/// Doublings of the time between subscriptions that were all in vain, and the longest, seconds.
const DOUBLINGS_MAX: u32 = 4;
const DISTANCE_MAX_S: i64 = 4 * HOUR_S;

/// What a row says of its candle: bucket, ticks, whether it is the last.
pub type Told = (Timestamp, u32, bool);

/// What one item's silences were like, and what was done about the one that lasts.
#[derive(Clone, Debug, Default)]
pub struct Patience {
    /// The last row that said something new.
    told: Option<Told>,
    /// When that was, unless the stream was away since.
    moved_at: Option<Timestamp>,
    /// Since when nothing new was heard: the last move or the last subscription.
    silent_since: Option<Timestamp>,
    /// The hour under way.
    hour: Timestamp,
    /// Longest silence that ended in this hour, and the average of earlier hours, seconds.
    longest_s: i64,
    usual_s: i64,
    /// Subscriptions in a row that have ended no silence.
    in_vain: u32,
}

impl Patience {
    /// The item was subscribed; `on_silence` if that was because of its silence, in which it may
    /// have had nothing to tell.
    pub fn subscribed(&mut self, now: Option<Timestamp>, on_silence: bool) {
        self.silent_since = now.or(self.silent_since);
        if !on_silence {
            self.moved_at = None;
        }
    }

    /// A row came at `now`. A snapshot that shows the same candle as before ends no silence.
    #[inline]
    pub fn row(&mut self, (bucket, ticks, closed): Told, now: Timestamp, calendar: &Calendar) {
        // Each by itself: what is written in small pieces cannot be read in one at once.
        match &mut self.told {
            Some(told) if (told.0, told.1, told.2) == (bucket, ticks, closed) => return,
            Some(told) => (told.0, told.1, told.2) = (bucket, ticks, closed),
            None => self.told = Some((bucket, ticks, closed)),
        }
        self.moved(now, calendar);
    }

    #[inline]
    fn moved(&mut self, now: Timestamp, calendar: &Calendar) {
        if !(0..HOUR_S).contains(&now.since(self.hour)) {
            self.hour = now.floor(HOUR_S);
            if self.longest_s > 0 {
                self.usual_s += (self.longest_s - self.usual_s) / HOURS_AVERAGED;
                self.longest_s = 0;
            }
        }
        if let Some(before) = self.moved_at
            && (self.longest_s + 1..=LEARNT_MAX_S).contains(&now.since(before))
            && is_open(calendar, before)
            && is_open(calendar, now)
        {
            self.longest_s = now.since(before);
        }
        (self.moved_at, self.silent_since, self.in_vain) = (Some(now), Some(now), 0);
    }

    /// Whether the silence has lasted too long by now: how many subscriptions in a row have not
    /// ended it before, if it is time for another. `least_s` is the shortest silence that counts.
    pub fn lost(&mut self, now: Timestamp, least_s: i64, calendar: &Calendar) -> Option<u32> {
        let limit_s = self.limit_s(least_s);
        let distance_s = (limit_s << self.in_vain.min(DOUBLINGS_MAX)).min(DISTANCE_MAX_S.max(limit_s));
        let is_due = now.since(self.silent_since?) >= distance_s
            && [0, limit_s, limit_s.max(OPENING_S)].iter().all(|ago_s| is_open(calendar, now.plus(-ago_s)));
        if !is_due {
            return None;
        }
        self.silent_since = Some(now);
        let in_vain = self.in_vain;
        self.in_vain = in_vain.saturating_add(1);
        Some(in_vain)
    }

    /// Whether by `now` it has not moved for so long, in expected hours, that a row which comes now
    /// proves nothing of the time before it. That it was subscribed anew meanwhile, for its
    /// silence, does not shorten this.
    #[inline]
    pub fn is_overdue(&self, now: Timestamp, least_s: i64, calendar: &Calendar) -> bool {
        let Some(since) = self.moved_at.or(self.silent_since) else { return false };
        let limit_s = self.limit_s(least_s);
        // The first says all for nearly every row.
        now.since(since) > limit_s && watched_s(since, now, calendar) > limit_s
    }

    fn limit_s(&self, least_s: i64) -> i64 {
        (self.usual_s * USUAL_TIMES).min(LIMIT_MAX_S).max(least_s)
    }
}

/// How many seconds of a silence lie in expected hours.
#[cold]
fn watched_s(since: Timestamp, now: Timestamp, calendar: &Calendar) -> i64 {
    let runs = calendar.runs(since.floor(Timeframe::M5.seconds())..now).into_iter();
    let expected = runs.filter(|(_, expectation)| *expectation == Expectation::Expected);
    expected.map(|(run, _)| run.end.min(now).since(run.start.max(since))).sum()
}

fn is_open(calendar: &Calendar, time: Timestamp) -> bool {
    calendar.expectation(time.floor(Timeframe::M5.seconds())) == Expectation::Expected
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Wednesday 2020-01-15 12:00 UTC.
    const NOON: Timestamp = Timestamp(1_579_089_600);
    const LEAST_S: i64 = 600;

    /// An item that moved for eight days, each time after so many seconds, and when it last did.
    fn item(every_s: i64) -> (Patience, Timestamp) {
        let (mut item, calendar) = (Patience::default(), Calendar::forex());
        let mut now = NOON;
        for ticks in 0..(8 * 24 * HOUR_S / every_s) as u32 {
            now = NOON.plus(i64::from(ticks) * every_s);
            item.row((now.floor(300), ticks, false), now, &calendar);
        }
        (item, now)
    }

    /// The first second of silence in which it is too long.
    fn limit_s(every_s: i64) -> i64 {
        let (item, now) = item(every_s);
        let calendar = Calendar::forex();
        let too_long = |s: &i64| item.clone().lost(now.plus(*s), LEAST_S, &calendar).is_some();
        (1..3 * HOUR_S).find(too_long).unwrap()
    }

    #[test]
    fn a_quiet_pair_is_given_longer_within_bounds() {
        assert_eq!(limit_s(1), 600);
        assert_eq!(limit_s(150), 600);
        let quiet = limit_s(600);
        assert!((1_700..=1_800).contains(&quiet), "{quiet}");
        assert_eq!(limit_s(1_800), LIMIT_MAX_S);
    }

    #[test]
    fn an_outage_and_a_weekend_teach_nothing() {
        let calendar = Calendar::forex();
        let (mut item, now) = item(1);
        item.subscribed(Some(now.plus(HOUR_S)), false);
        item.row((now.plus(HOUR_S), 1, false), now.plus(HOUR_S), &calendar);
        item.row((now.plus(10 * HOUR_S), 2, false), now.plus(10 * HOUR_S), &calendar);
        assert_eq!(item.limit_s(LEAST_S), LEAST_S);
    }

    #[test]
    fn the_first_hour_after_the_opening_is_excused() {
        let calendar = Calendar::forex();
        let opening = Timestamp(1_579_471_200); // Sunday 2020-01-19 22:00 UTC
        let mut item = Patience::default();
        item.row((NOON, 1, false), NOON, &calendar);
        let lost = |s: i64| item.clone().lost(opening.plus(s), LEAST_S, &calendar);
        assert_eq!([lost(-HOUR_S), lost(0), lost(HOUR_S - 1), lost(HOUR_S)], [None, None, None, Some(0)]);
    }

    #[test]
    fn a_row_after_too_long_a_silence_proves_nothing_whatever_was_subscribed_meanwhile() {
        let calendar = Calendar::forex();
        let mut item = Patience::default();
        item.row((NOON, 1, false), NOON, &calendar);
        let overdue = |item: &Patience, s: i64| item.is_overdue(NOON.plus(s), LEAST_S, &calendar);
        assert_eq!([overdue(&item, LEAST_S), overdue(&item, LEAST_S + 1)], [false, true]);
        item.subscribed(Some(NOON.plus(LEAST_S)), true);
        assert!(overdue(&item, LEAST_S + 60), "subscribed for its silence");
        item.subscribed(Some(NOON.plus(LEAST_S)), false);
        assert!(!overdue(&item, LEAST_S + 60), "a new session");
        // From Friday 21:55 to Sunday 22:04 the market is expected to trade for nine minutes.
        let friday = NOON.plus(2 * 86_400 + 9 * HOUR_S + 55 * 60);
        item.row((friday, 1, false), friday, &calendar);
        let after =
            |minutes: i64| item.is_overdue(friday.plus(2 * 86_400 + minutes * 60), LEAST_S, &calendar);
        assert_eq!([after(9), after(10), after(11)], [false, false, true]);
    }

    #[test]
    fn subscriptions_in_vain_are_made_at_doubling_distance_until_a_row_comes() {
        let calendar = Calendar::forex();
        let mut item = Patience::default();
        item.subscribed(Some(NOON), false);
        let mut told = Vec::new();
        for s in 0..12 * HOUR_S {
            if let Some(in_vain) = item.lost(NOON.plus(s), LEAST_S, &calendar) {
                told.push((s / 60, in_vain));
                item.subscribed(Some(NOON.plus(s)), true);
            }
        }
        assert_eq!(told, [(10, 0), (30, 1), (70, 2), (150, 3), (310, 4), (470, 5), (630, 6)]);
        item.row((NOON, 1, false), NOON.plus(12 * HOUR_S), &calendar);
        assert_eq!(item.lost(NOON.plus(12 * HOUR_S + LEAST_S), LEAST_S, &calendar), Some(0));
    }

    #[test]
    fn a_snapshot_of_the_same_candle_ends_no_silence() {
        let calendar = Calendar::forex();
        let mut item = Patience::default();
        item.row((NOON, 7, false), NOON, &calendar);
        item.row((NOON, 7, false), NOON.plus(LEAST_S - 1), &calendar);
        assert_eq!(item.lost(NOON.plus(LEAST_S), LEAST_S, &calendar), Some(0));
    }

    proptest! {
        /// Never called silent before the configured time, always within an hour.
        #[test]
        fn patience_has_bounds(gaps in prop::collection::vec(0i64..20_000, 0..200)) {
            let calendar = Calendar::forex();
            let (mut item, mut now) = (Patience::default(), NOON);
            for (ticks, gap) in gaps.iter().enumerate() {
                now = now.plus(*gap);
                item.row((now.floor(300), ticks as u32, false), now, &calendar);
            }
            prop_assert!((LEAST_S..=LIMIT_MAX_S).contains(&item.limit_s(LEAST_S)));
        }
    }
}
