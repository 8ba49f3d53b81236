//! Account-local time against UTC, by trading week. Pure.
//!
//! IG reads the bounds of a range in local time, and that changes with daylight saving, while the
//! market is closed. So one offset holds for a week, from Sunday on, and a range is asked for
//! within weeks of one offset.

use std::collections::BTreeMap;
use std::ops::Range;

use super::answer;
use crate::domain::{FetchedBar, Timestamp};

const WEEK_S: i64 = 7 * 86_400;
/// 1970-01-04 was a Sunday.
const FIRST_SUNDAY_S: i64 = 3 * 86_400;
/// Weeks that are remembered.
const WEEKS_MAX: usize = 400;

/// What is known of the offset of local time, seconds that it is ahead of UTC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    by_week: BTreeMap<i64, i64>,
    /// As the login told, which is that of the day.
    of_login: Option<i64>,
}

impl Offsets {
    /// What the login told.
    pub fn note_login(&mut self, offset_s: i64) {
        self.of_login = Some(offset_s);
    }

    /// Takes what the rows of an answer tell.
    pub fn note(&mut self, rows: &[FetchedBar]) {
        for row in rows {
            if let Some(offset_s) = row.local_offset_s.filter(|offset_s| answer::is_of_this_planet(*offset_s))
            {
                self.by_week.insert(week(row.start), offset_s);
            }
        }
        while self.by_week.len() > WEEKS_MAX {
            self.by_week.pop_first();
        }
    }

    /// The offset in the week of `time`, where a row has told it.
    pub fn seen(&self, time: Timestamp) -> Option<i64> {
        self.by_week.get(&week(time)).copied()
    }

    /// Whether rows have told any offset.
    pub fn are_told(&self) -> bool {
        !self.by_week.is_empty()
    }

    /// The offset in the week of `time`, else in the nearest week that is known, else as at login.
    pub fn guess(&self, time: Timestamp) -> i64 {
        let nearest = self.by_week.iter().min_by_key(|(known, _)| (*known - week(time)).abs());
        nearest.map(|(_, offset_s)| *offset_s).or(self.of_login).unwrap_or(0)
    }

    /// The newest part of a span, not empty, in which one offset holds as far as is known.
    pub fn of_one(&self, span: &Range<Timestamp>) -> Range<Timestamp> {
        let last = span.end.plus(-1);
        let (mut first_week, offset_s) = (week(last), self.seen(last));
        while offset_s.is_some() && self.by_week.get(&(first_week - 1)).copied() == offset_s {
            first_week -= 1;
        }
        span.start.max(Timestamp(FIRST_SUNDAY_S + first_week * WEEK_S))..span.end
    }
}

/// Whether no row tells of another offset than this.
pub fn agree(rows: &[FetchedBar], offset_s: i64) -> bool {
    rows.iter().all(|row| row.local_offset_s.is_none_or(|told| told == offset_s))
}

/// Which week, from Sunday 00:00 UTC on.
fn week(time: Timestamp) -> i64 {
    time.week().since(Timestamp(FIRST_SUNDAY_S)) / WEEK_S
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wednesday 2020-03-25 12:00 UTC; London puts its clocks forward on the Sunday after.
    const MARCH: Timestamp = Timestamp(1_585_137_600);
    const DAY: i64 = 86_400;

    fn row(start: Timestamp, offset_s: i64) -> FetchedBar {
        FetchedBar { start, local_offset_s: Some(offset_s), bar: None }
    }

    #[test]
    fn an_offset_holds_for_its_week_and_is_a_guess_for_others() {
        let mut offsets = Offsets::default();
        assert_eq!((offsets.seen(MARCH), offsets.guess(MARCH)), (None, 0));
        offsets.note_login(7_200);
        assert_eq!((offsets.seen(MARCH), offsets.guess(MARCH)), (None, 7_200));
        offsets.note(&[row(MARCH, 0), row(MARCH.plus(5 * DAY), 3_600), row(MARCH, 99 * 3_600)]);
        assert!(offsets.are_told() && !Offsets::default().are_told());
        assert_eq!(offsets.seen(MARCH.plus(2 * DAY)), Some(0));
        assert_eq!(offsets.seen(MARCH.plus(4 * DAY)), Some(3_600), "from Sunday on");
        assert_eq!((offsets.seen(MARCH.plus(40 * DAY)), offsets.guess(MARCH.plus(40 * DAY))), (None, 3_600));
        assert_eq!(offsets.guess(MARCH.plus(-40 * DAY)), 0);
    }

    #[test]
    fn a_range_is_asked_for_within_weeks_of_one_offset() {
        let mut offsets = Offsets::default();
        let span = MARCH..MARCH.plus(14 * DAY);
        let sunday = |weeks: i64| MARCH.plus(4 * DAY - DAY / 2 + weeks * 7 * DAY);
        assert_eq!(offsets.of_one(&span), sunday(1)..span.end, "nothing is known");
        offsets.note(&[row(MARCH, 0), row(MARCH.plus(7 * DAY), 3_600), row(MARCH.plus(13 * DAY), 3_600)]);
        assert_eq!(offsets.of_one(&span), sunday(0)..span.end);
        assert_eq!(offsets.of_one(&(MARCH..MARCH.plus(300))), MARCH..MARCH.plus(300));
        assert_eq!(offsets.of_one(&(MARCH..sunday(0))), MARCH..sunday(0));
    }

    #[test]
    fn rows_of_another_offset_disagree() {
        assert!(agree(&[row(MARCH, 0)], 0) && agree(&[], 0));
        assert!(!agree(&[row(MARCH, 0), row(MARCH, 3_600)], 0));
    }
}
