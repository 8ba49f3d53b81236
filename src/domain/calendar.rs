//! When the market trades: which buckets must have a bar, may have one, cannot have one.

use std::ops::Range;

use chrono::{Datelike, TimeZone, Timelike};
use chrono_tz::Tz;

use super::{Timeframe, Timestamp};

const MINUTES_PER_DAY: u32 = 24 * 60;

/// What the calendar says of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// The market trades by every account of its hours: no bar is a gap.
    Expected,
    /// It trades by one account and not by another: a bar is stored, none is no gap.
    Possible,
    /// It does not trade.
    Closed,
}

/// One trading week, in the wall time of one city.
#[derive(Clone, Copy, Debug)]
struct Week {
    zone: Tz,
    /// Minutes since Sunday 00:00, local wall time.
    opens: u32,
    closes: u32,
}

impl Week {
    fn holds(&self, time: Timestamp) -> bool {
        let local = self.zone.from_utc_datetime(&time.utc().naive_utc());
        let minute =
            local.weekday().num_days_from_sunday() * MINUTES_PER_DAY + local.hour() * 60 + local.minute();
        (self.opens..self.closes).contains(&minute)
    }
}

/// The hours of a market.
#[derive(Clone, Debug)]
pub struct Calendar {
    weeks: Vec<Week>,
}

impl Calendar {
    /// IG's forex hours. Sources disagree: IG's pages say Sunday 21:00 to Friday 22:00 London,
    /// the market's custom is Sunday to Friday 17:00 New York. Both move with their city's
    /// daylight saving.
    pub fn forex() -> Calendar {
        let friday = 5 * MINUTES_PER_DAY;
        Calendar {
            weeks: vec![
                Week { zone: Tz::Europe__London, opens: 21 * 60, closes: friday + 22 * 60 },
                Week { zone: Tz::America__New_York, opens: 17 * 60, closes: friday + 17 * 60 },
            ],
        }
    }

    /// What is expected of the 5-minute bucket that starts at `start`.
    pub fn expectation(&self, start: Timestamp) -> Expectation {
        let open = self.weeks.iter().filter(|week| week.holds(start)).count();
        match open {
            0 => Expectation::Closed,
            n if n == self.weeks.len() => Expectation::Expected,
            _ => Expectation::Possible,
        }
    }

    /// Cuts a span of 5-minute buckets into runs of one expectation each, ascending.
    pub fn runs(&self, span: Range<Timestamp>) -> Vec<(Range<Timestamp>, Expectation)> {
        let step = Timeframe::M5.seconds();
        let mut runs: Vec<(Range<Timestamp>, Expectation)> = Vec::new();
        let mut start = span.start;
        while start < span.end {
            let expectation = self.expectation(start);
            let end = start.plus(step);
            match runs.last_mut() {
                Some((run, last)) if *last == expectation => run.end = end,
                _ => runs.push((start..end, expectation)),
            }
            start = end;
        }
        runs
    }

    /// The start of the 5-minute bucket from which on, up to `end`, there are exactly `count`
    /// buckets in which the market is expected to trade. Gives up after a year without.
    pub fn back_from(&self, end: Timestamp, count: usize) -> Timestamp {
        let step = Timeframe::M5.seconds();
        let (mut start, mut found) = (end, 0);
        let limit = end.plus(-366 * 24 * 3600);
        while found < count && start > limit {
            start = start.plus(-step);
            if self.expectation(start) == Expectation::Expected {
                found += 1;
            }
        }
        start
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn check(time: &str, expected: Expectation) {
        let start = Timestamp::from(time.parse::<DateTime<chrono::Utc>>().unwrap());
        assert_eq!(Calendar::forex().expectation(start), expected, "{time}");
    }

    #[test]
    fn a_winter_week() {
        check("2020-01-12T20:55:00Z", Expectation::Closed);
        check("2020-01-12T21:00:00Z", Expectation::Possible); // London has opened
        check("2020-01-12T22:00:00Z", Expectation::Expected); // 17:00 New York
        check("2020-01-15T03:00:00Z", Expectation::Expected);
        check("2020-01-17T21:55:00Z", Expectation::Expected);
        check("2020-01-17T22:00:00Z", Expectation::Closed);
        check("2020-01-18T12:00:00Z", Expectation::Closed);
    }

    #[test]
    fn three_weeks_in_march_only_new_york_is_on_summer_time() {
        check("2020-03-08T20:55:00Z", Expectation::Closed);
        check("2020-03-08T21:00:00Z", Expectation::Expected); // both
        check("2020-03-13T20:55:00Z", Expectation::Expected);
        check("2020-03-13T21:00:00Z", Expectation::Possible); // New York has closed
        check("2020-03-13T22:00:00Z", Expectation::Closed);
        check("2020-03-29T20:00:00Z", Expectation::Possible); // London on summer time too
        check("2020-03-29T21:00:00Z", Expectation::Expected);
    }

    /// The `nth` Sunday of a month, from 1 on, or its last for 0, at 00:00 UTC.
    fn sunday(year: i32, month: u32, nth: i64) -> Timestamp {
        let first_of = |year, month| {
            let day = chrono::NaiveDate::from_ymd_opt(year, month, 1).unwrap();
            Timestamp::from(day.and_hms_opt(0, 0, 0).unwrap().and_utc())
        };
        let week = 7 * 86_400;
        // 1970-01-04 was a Sunday.
        let on_or_after = |time: Timestamp| time.plus(-3 * 86_400).ceil(week).plus(3 * 86_400);
        match nth {
            0 if month == 12 => on_or_after(first_of(year + 1, 1)).plus(-week),
            0 => on_or_after(first_of(year, month + 1)).plus(-week),
            nth => on_or_after(first_of(year, month)).plus((nth - 1) * week),
        }
    }

    /// Hours that London is ahead of UTC, by the law: summer time from the last Sunday of March
    /// to that of October, 01:00 UTC.
    fn london(time: Timestamp) -> i64 {
        let year = time.utc().year();
        let summer = sunday(year, 3, 0).plus(3_600)..sunday(year, 10, 0).plus(3_600);
        i64::from(summer.contains(&time))
    }

    /// The same for New York: from the second Sunday of March, 02:00 standard time, to the first of
    /// November, 02:00 summer time.
    fn new_york(time: Timestamp) -> i64 {
        let year = time.utc().year();
        let summer = sunday(year, 3, 2).plus(7 * 3_600)..sunday(year, 11, 1).plus(6 * 3_600);
        i64::from(summer.contains(&time)) - 5
    }

    /// Every week of twenty-one years against the hours worked out from the laws of daylight
    /// saving, which share nothing with the time zone database.
    #[test]
    fn every_week_from_2015_to_2035_opens_and_closes_when_it_should() {
        let calendar = Calendar::forex();
        let (mut week, mut weeks) = (sunday(2015, 1, 1), 0);
        while week < sunday(2036, 1, 1) {
            // Wall time in a city as UTC; no change falls between midnight and the opening or close
            // of these days but those of the Sunday's night, which are over by noon.
            let at = |days: i64, hour: i64, ahead: fn(Timestamp) -> i64| {
                let noon = week.plus(days * 86_400 + 12 * 3_600);
                noon.plus((hour - 12 - ahead(noon)) * 3_600)
            };
            let opens = [at(0, 21, london), at(0, 17, new_york)];
            let closes = [at(5, 22, london), at(5, 17, new_york)];
            let [first, last] = [opens[0].min(opens[1]), closes[0].max(closes[1])];
            let (open, close) = (opens[0].max(opens[1]), closes[0].min(closes[1]));
            let mut expected = vec![
                (week..first, Expectation::Closed),
                (first..open, Expectation::Possible),
                (open..close, Expectation::Expected),
                (close..last, Expectation::Possible),
                (last..week.plus(7 * 86_400), Expectation::Closed),
            ];
            expected.retain(|(span, _)| span.start < span.end);
            assert_eq!(calendar.runs(week..week.plus(7 * 86_400)), expected, "the week of {week}");
            (week, weeks) = (week.plus(7 * 86_400), weeks + 1);
        }
        assert_eq!(weeks, 1096);
    }

    #[test]
    fn a_span_is_cut_into_runs() {
        let at = |time: &str| Timestamp::from(time.parse::<DateTime<chrono::Utc>>().unwrap());
        let runs = Calendar::forex()
            .runs(at("2020-01-17T21:00:00Z")..at("2020-01-12T22:00:00Z").plus(7 * 86400 + 3600));
        let shape: Vec<_> = runs.iter().map(|(run, e)| (run.start.to_string(), *e)).collect();
        assert_eq!(
            shape,
            [
                ("2020-01-17T21:00:00Z".to_owned(), Expectation::Expected),
                ("2020-01-17T22:00:00Z".to_owned(), Expectation::Closed),
                ("2020-01-19T21:00:00Z".to_owned(), Expectation::Possible),
                ("2020-01-19T22:00:00Z".to_owned(), Expectation::Expected),
            ]
        );
    }

    #[test]
    fn counting_back_steps_over_the_weekend() {
        let at = |time: &str| Timestamp::from(time.parse::<DateTime<chrono::Utc>>().unwrap());
        let start = Calendar::forex().back_from(at("2020-01-19T22:10:00Z"), 3);
        assert_eq!(start, at("2020-01-17T21:55:00Z"));
    }
}
