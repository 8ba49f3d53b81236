//! When the market trades: which buckets must have a bar, may have one, cannot have one.

use std::collections::BTreeSet;
use std::ops::Range;

use chrono::{Datelike, NaiveDate};

use super::{Timeframe, Timestamp, Zone};

const MINUTES_PER_DAY: u32 = 24 * 60;
const DAY_S: i64 = 86_400;
/// 1970-01-01 was a Thursday: so many minutes after the beginning of its week.
const EPOCH_WEEK_MINUTE: i64 = 4 * 24 * 60;
/// How far back buckets are counted, and in what stretches, seconds.
const BACK_MAX_S: i64 = 366 * DAY_S;
const BACK_STRETCH_S: i64 = 6 * DAY_S;

/// Minute of the day at which the forex market's day begins and ends, New York.
const FOREX_ROLLOVER: u32 = 17 * 60;
/// Christmas and New Year, month and day.
const FOREX_HOLIDAYS: &[(u32, u32)] = &[(12, 25), (1, 1)];

/// What the calendar says of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// The market trades by every account of its hours: no bar is a gap.
    Expected,
    /// It trades by one account and not by another, or the day is a holiday that no account tells
    /// of for sure: a bar is stored, none is no gap.
    Possible,
    /// It does not trade.
    Closed,
}

/// One trading week, in the wall time of one city.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Week {
    zone: Zone,
    /// Whether the days go by this city's clock too: to compare zones is dear.
    is_days: bool,
    /// Minutes since Sunday 00:00, local wall time.
    open: Range<u32>,
}

/// The hours of a market. A bucket is judged by its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calendar {
    /// Accounts of the week.
    weeks: Vec<Week>,
    /// The city by whose clock the days go.
    zone: Zone,
    /// Minutes before local midnight at which a day begins; its date is that of its end.
    begins_early: u32,
    /// Daily pause, minutes since local midnight.
    daily_break: Option<Range<u32>>,
    closed: BTreeSet<NaiveDate>,
    /// Month and day of days that are at most possible.
    holidays: &'static [(u32, u32)],
}

impl Calendar {
    /// IG's forex hours. Sources disagree: IG's pages say Sunday 21:00 to Friday 22:00 London,
    /// the market's custom is Sunday to Friday 17:00 New York. Both move with their city's
    /// daylight saving.
    ///
    /// A date stands for the trading day that *ends* on it: from 17:00 New York of the day before
    /// to 17:00. The days of 25 December and 1 January are at most possible: recordings of other
    /// brokers show the market shut for just these days, while IG's pages do not say. Were they
    /// closed, a bar would be reported as strange; were they expected, an absence as a gap.
    pub fn forex() -> Calendar {
        let friday = 5 * MINUTES_PER_DAY;
        Calendar {
            weeks: vec![
                Week { zone: Zone::london(), is_days: false, open: 21 * 60..friday + 22 * 60 },
                Week { zone: Zone::new_york(), is_days: true, open: FOREX_ROLLOVER..friday + FOREX_ROLLOVER },
            ],
            zone: Zone::new_york(),
            begins_early: MINUTES_PER_DAY - FOREX_ROLLOVER,
            daily_break: None,
            closed: BTreeSet::new(),
            holidays: FOREX_HOLIDAYS,
        }
    }

    /// Hours in one city's wall time: `week` in minutes since Sunday 00:00, `daily_break` in
    /// minutes since midnight, both half-open. Dates go from midnight to midnight there.
    pub fn new(zone: Zone, week: Range<u32>, daily_break: Option<Range<u32>>) -> Calendar {
        Calendar {
            weeks: vec![Week { zone: zone.clone(), is_days: true, open: week }],
            zone,
            begins_early: 0,
            daily_break,
            closed: BTreeSet::new(),
            holidays: &[],
        }
    }

    /// The same with these dates closed, besides those that are already.
    #[must_use]
    pub fn closed_on(mut self, dates: impl IntoIterator<Item = NaiveDate>) -> Calendar {
        self.closed.extend(dates);
        self
    }

    /// What is expected of the 5-minute bucket that starts at `start`.
    pub fn expectation(&self, start: Timestamp) -> Expectation {
        let wall = self.zone.wall_s(start);
        let minute_of_day = wall.div_euclid(60).rem_euclid(i64::from(MINUTES_PER_DAY));
        let pauses = self.daily_break.as_ref().is_some_and(|pause| holds(pause, minute_of_day));
        let open = self
            .weeks
            .iter()
            .filter(|week| {
                let wall = if week.is_days { wall } else { week.zone.wall_s(start) };
                let minute = wall.div_euclid(60) + EPOCH_WEEK_MINUTE;
                holds(&week.open, minute.rem_euclid(7 * i64::from(MINUTES_PER_DAY)))
            })
            .count();
        if open == 0 || pauses {
            return Expectation::Closed;
        }
        let date = Timestamp(wall).plus(i64::from(self.begins_early) * 60).utc().date_naive();
        if self.closed.contains(&date) {
            Expectation::Closed
        } else if open < self.weeks.len() || self.holidays.contains(&(date.month(), date.day())) {
            Expectation::Possible
        } else {
            Expectation::Expected
        }
    }

    /// Cuts a span of 5-minute buckets into runs of one expectation each, ascending.
    pub fn runs(&self, span: Range<Timestamp>) -> Vec<(Range<Timestamp>, Expectation)> {
        let step = Timeframe::M5.seconds();
        let mut runs: Vec<(Range<Timestamp>, Expectation)> = Vec::new();
        let mut start = span.start;
        while start < span.end {
            let expectation = self.expectation(start);
            let steady_s = self.steady_s(start).min(span.end.since(start)).max(1);
            // As many buckets as start before anything changes.
            let end = start.plus((steady_s + step - 1) / step * step);
            match runs.last_mut() {
                Some((run, last)) if *last == expectation => run.end = end,
                _ => runs.push((start..end, expectation)),
            }
            start = end;
        }
        runs
    }

    /// How many bars of this length a span can have at most: its buckets in which the
    /// market may trade, all of the time or part of it.
    pub fn bars_at_most(&self, span: Range<Timestamp>, timeframe: Timeframe) -> u32 {
        let step = timeframe.seconds();
        let (mut bars, mut counted_to) = (0, span.start.floor(step));
        for (run, expectation) in self.runs(span) {
            if expectation != Expectation::Closed {
                let end = run.end.ceil(step);
                bars += end.since(run.start.floor(step).max(counted_to)).max(0) / step;
                counted_to = end;
            }
        }
        u32::try_from(bars).unwrap_or(u32::MAX)
    }

    /// Seconds for which the expectation is sure to stay as it is at `time`, at most a day. Zero
    /// where a clock is put forward or back before the next minute at which it may change.
    fn steady_s(&self, time: Timestamp) -> i64 {
        let weeks =
            self.weeks.iter().flat_map(|week| [(&week.zone, week.open.start), (&week.zone, week.open.end)]);
        let pauses = self.daily_break.iter().flat_map(|pause| [pause.start, pause.end]);
        let days = pauses.chain([MINUTES_PER_DAY - self.begins_early]).map(|minute| (&self.zone, minute));
        let until = |(zone, minute): (&Zone, u32)| {
            let wall = zone.wall_s(time);
            let until = (i64::from(minute) * 60 - wall - 1).rem_euclid(DAY_S) + 1;
            if zone.wall_s(time.plus(until)) == wall + until { until } else { 0 }
        };
        weeks.chain(days).map(until).min().unwrap_or(0)
    }

    /// The start of the 5-minute bucket from which on, up to `end`, there are exactly `count`
    /// buckets in which the market is expected to trade. Gives up after a year without.
    pub fn back_from(&self, end: Timestamp, count: usize) -> Timestamp {
        let step = Timeframe::M5.seconds();
        let limit = end.plus(-BACK_MAX_S);
        let (mut start, mut left) = (end, i64::try_from(count).unwrap_or(i64::MAX));
        while left > 0 && start > limit {
            let stretch = start.plus(-BACK_STRETCH_S).max(limit)..start;
            start = stretch.start;
            for (run, expectation) in self.runs(stretch).into_iter().rev() {
                let buckets = run.end.since(run.start) / step;
                match expectation {
                    Expectation::Expected if buckets >= left => {
                        return run.end.plus(-left.saturating_mul(step));
                    }
                    Expectation::Expected => left -= buckets,
                    Expectation::Possible | Expectation::Closed => {}
                }
            }
        }
        start
    }
}

fn holds(span: &Range<u32>, minute: i64) -> bool {
    (i64::from(span.start)..i64::from(span.end)).contains(&minute)
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use proptest::prelude::*;

    use super::*;

    fn at(time: &str) -> Timestamp {
        Timestamp::from(time.parse::<DateTime<chrono::Utc>>().unwrap())
    }

    fn zone(name: &str) -> Zone {
        Zone::named(name).unwrap()
    }

    fn date(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    fn check(time: &str, expected: Expectation) {
        assert_eq!(Calendar::forex().expectation(at(time)), expected, "{time}");
    }

    /// The runs of a span as text: seconds are left out, expectations are their first letters.
    fn shape(calendar: &Calendar, from: &str, to: &str) -> Vec<String> {
        let runs = calendar.runs(at(from)..at(to)).into_iter();
        runs.map(|(run, e)| format!("{} {}", run.start.utc().format("%a %d %H:%M"), &format!("{e:?}")[..1]))
            .collect()
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

    /// Runs in which the trading days of Christmas and New Year are not expected: from 22:00 UTC to
    /// 22:00, since New York is five hours behind then.
    fn with_holidays(runs: Vec<(Range<Timestamp>, Expectation)>) -> Vec<(Range<Timestamp>, Expectation)> {
        let mut with: Vec<(Range<Timestamp>, Expectation)> = Vec::new();
        let mut push = |span: Range<Timestamp>, expectation| match with.last_mut() {
            _ if span.start >= span.end => {}
            Some((last, before)) if *before == expectation => last.end = span.end,
            _ => with.push((span, expectation)),
        };
        for (span, expectation) in runs {
            let mut from = span.start;
            if expectation == Expectation::Expected {
                for (year, month, day) in
                    (span.start.utc().year()..=span.end.utc().year()).flat_map(|y| [(y, 1, 1), (y, 12, 25)])
                {
                    let end = at(&format!("{year}-{month:02}-{day:02}T22:00:00Z"));
                    let holiday = end.plus(-86_400).max(from)..end.min(span.end);
                    if holiday.start < holiday.end {
                        push(from..holiday.start, Expectation::Expected);
                        push(holiday.clone(), Expectation::Possible);
                        from = holiday.end;
                    }
                }
            }
            push(from..span.end, expectation);
        }
        with
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
            let expected = vec![
                (week..first, Expectation::Closed),
                (first..open, Expectation::Possible),
                (open..close, Expectation::Expected),
                (close..last, Expectation::Possible),
                (last..week.plus(7 * 86_400), Expectation::Closed),
            ];
            let expected = with_holidays(expected);
            assert_eq!(calendar.runs(week..week.plus(7 * 86_400)), expected, "the week of {week}");
            (week, weeks) = (week.plus(7 * 86_400), weeks + 1);
        }
        assert_eq!(weeks, 1096);
    }

    #[test]
    fn a_span_is_cut_into_runs() {
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
        let start = Calendar::forex().back_from(at("2020-01-19T22:10:00Z"), 3);
        assert_eq!(start, at("2020-01-17T21:55:00Z"));
    }

    #[test]
    fn a_longer_bar_is_to_be_had_where_a_part_of_its_time_is() {
        let monday = |time: &str| at(&format!("2026-06-01T{time}:00Z"));
        let calendar = Calendar::new(zone("UTC"), 0..10_080, Some(13 * 60 - 5..13 * 60 + 20));
        let bars =
            |from: &str, to: &str, timeframe| calendar.bars_at_most(monday(from)..monday(to), timeframe);
        assert_eq!(bars("12:00", "14:00", Timeframe::M5), 24 - 5);
        assert_eq!(bars("12:00", "14:00", Timeframe::M15), 8 - 1, "two are cut, one is gone");
        assert_eq!(bars("12:00", "14:00", Timeframe::H1), 2);
        assert_eq!(bars("13:00", "13:15", Timeframe::M15), 0);
        assert_eq!(bars("14:00", "14:00", Timeframe::M5), 0);
        let forex = Calendar::forex()
            .bars_at_most(at("2020-01-12T00:00:00Z")..at("2020-01-19T00:00:00Z"), Timeframe::M15);
        assert_eq!(forex, (5 * 24 + 1) * 4, "the hour of London's account too");
    }

    #[test]
    fn counting_back_gives_up_after_a_year() {
        let never = Calendar::new(zone("UTC"), 0..0, None);
        let end = at("2020-01-19T22:10:00Z");
        assert_eq!(never.back_from(end, 0), end);
        assert_eq!(never.back_from(end, 1), end.plus(-366 * 86_400));
    }

    #[test]
    fn christmas_and_new_year_are_possible_from_rollover_to_rollover() {
        let calendar = Calendar::forex();
        assert_eq!(
            shape(&calendar, "2019-12-23T00:00:00Z", "2020-01-02T00:00:00Z"),
            [
                "Mon 23 00:00 E",
                "Tue 24 22:00 P",
                "Wed 25 22:00 E",
                "Fri 27 22:00 C",
                "Sun 29 21:00 P",
                "Sun 29 22:00 E",
                "Tue 31 22:00 P",
                "Wed 01 22:00 E",
            ]
        );
        // On a Saturday nothing is to be had in any case; a Monday's begins on Sunday.
        assert_eq!(
            shape(&calendar, "2021-12-24T12:00:00Z", "2021-12-27T12:00:00Z"),
            ["Fri 24 12:00 E", "Fri 24 22:00 C", "Sun 26 21:00 P", "Sun 26 22:00 E"]
        );
        assert_eq!(
            shape(&calendar, "2023-12-22T12:00:00Z", "2023-12-26T12:00:00Z"),
            ["Fri 22 12:00 E", "Fri 22 22:00 C", "Sun 24 21:00 P", "Mon 25 22:00 E"]
        );
    }

    #[test]
    fn a_closed_date_of_forex_is_the_trading_day_that_ends_on_it() {
        let calendar = Calendar::forex().closed_on([date("2020-07-15"), date("2019-12-25")]);
        assert_eq!(
            shape(&calendar, "2020-07-14T00:00:00Z", "2020-07-16T00:00:00Z"),
            ["Tue 14 00:00 E", "Tue 14 21:00 C", "Wed 15 21:00 E"]
        );
        assert_eq!(
            shape(&calendar, "2019-12-24T12:00:00Z", "2019-12-26T00:00:00Z"),
            ["Tue 24 12:00 E", "Tue 24 22:00 C", "Wed 25 22:00 E"]
        );
        // That of a Monday begins with the week, at which London's account is an hour ahead.
        assert_eq!(
            shape(
                &Calendar::forex().closed_on([date("2020-01-13")]),
                "2020-01-12T12:00:00Z",
                "2020-01-14T00:00:00Z"
            ),
            ["Sun 12 12:00 C", "Sun 12 21:00 P", "Sun 12 22:00 C", "Mon 13 22:00 E"]
        );
    }

    #[test]
    fn a_configured_calendar_has_its_own_week_breaks_and_dates() {
        let week = 22 * 60..5 * MINUTES_PER_DAY + 21 * 60;
        let calendar = Calendar::new(zone("Europe/London"), week, Some(22 * 60..22 * 60 + 5))
            .closed_on([date("2026-06-03")]);
        assert_eq!(
            // London is an hour ahead of UTC.
            shape(&calendar, "2026-05-31T00:00:00Z", "2026-06-07T00:00:00Z"),
            [
                "Sun 31 00:00 C",
                "Sun 31 21:05 E", // the week opens into its break
                "Mon 01 21:00 C",
                "Mon 01 21:05 E",
                "Tue 02 21:00 C",
                "Tue 02 21:05 E",
                "Tue 02 23:00 C", // midnight in London: the closed date
                "Wed 03 23:00 E",
                "Thu 04 21:00 C",
                "Thu 04 21:05 E",
                "Fri 05 20:00 C",
            ]
        );
        // Christmas is a day like another where nobody says otherwise.
        assert_eq!(calendar.expectation(at("2026-12-25T12:00:00Z")), Expectation::Expected);
    }

    #[test]
    fn hours_follow_the_citys_clocks() {
        // Sunday 01:00 to 04:00 in Berlin, with a break from 02:30 to 03:30. On 2026-03-29 the clocks
        // go from 02:00 to 03:00, on 2026-10-25 from 03:00 back to 02:00.
        let calendar = Calendar::new(zone("Europe/Berlin"), 60..4 * 60, Some(150..210));
        assert_eq!(
            shape(&calendar, "2026-03-28T23:00:00Z", "2026-03-29T04:00:00Z"),
            ["Sat 28 23:00 C", "Sun 29 00:00 E", "Sun 29 01:00 C", "Sun 29 01:30 E", "Sun 29 02:00 C"]
        );
        assert_eq!(
            shape(&calendar, "2026-10-24T22:00:00Z", "2026-10-25T04:00:00Z"),
            [
                "Sat 24 22:00 C",
                "Sat 24 23:00 E",
                "Sun 25 00:30 C",
                "Sun 25 01:00 E", // 02:00 again
                "Sun 25 01:30 C",
                "Sun 25 02:30 E",
                "Sun 25 03:00 C",
            ]
        );
    }

    fn calendars() -> impl Strategy<Value = Calendar> {
        let zones = [
            zone("UTC"),
            zone("America/New_York"),
            zone("America/St_Johns"),
            zone("Europe/London"),
            zone("Africa/Casablanca"),
            zone("Asia/Kathmandu"),
            zone("Australia/Lord_Howe"),
        ];
        let dates = || {
            let day = (0..4_000_u64).prop_map(|day| date("2019-01-01") + chrono::Days::new(day));
            proptest::collection::vec(day, 0..200)
        };
        let own = (prop::sample::select(zones.to_vec()), 0..10_080_u32, 0..10_080_u32)
            .prop_flat_map(|(zone, a, b)| {
                let pause = proptest::option::of((0..1_440_u32, 0..=1_440_u32));
                pause.prop_map(move |pause| {
                    let pause = pause.map(|(a, b)| a.min(b)..a.max(b));
                    Calendar::new(zone.clone(), a.min(b)..a.max(b), pause)
                })
            })
            .boxed();
        (prop_oneof![own, Just(Calendar::forex())], dates())
            .prop_map(|(calendar, days)| calendar.closed_on(days))
    }

    proptest! {
        /// Steps over time that cannot change anything lose nothing against looking at each bucket.
        #[test]
        fn runs_and_counts_are_those_of_single_buckets(
            calendar in calendars(),
            // 2019 to 2029, at any second.
            start in 1_546_300_800_i64..1_861_920_000,
            buckets in 0..3_000_i64,
            count in 0..2_500_usize,
        ) {
            let (start, end) = (Timestamp(start), Timestamp(start + buckets * 300));
            let mut walked: Vec<(Range<Timestamp>, Expectation)> = Vec::new();
            for bucket in 0..buckets {
                let bucket = start.plus(bucket * 300);
                let expectation = calendar.expectation(bucket);
                match walked.last_mut() {
                    Some((run, last)) if *last == expectation => run.end = bucket.plus(300),
                    _ => walked.push((bucket..bucket.plus(300), expectation)),
                }
            }
            prop_assert_eq!(calendar.runs(start..end), walked);
            prop_assert_eq!(calendar.runs(start..end.plus(-299)), calendar.runs(start..end), "a bucket begun counts whole");
            let (mut back, mut found) = (end, 0);
            while found < count && back > end.plus(-366 * 86_400) {
                back = back.plus(-300);
                found += usize::from(calendar.expectation(back) == Expectation::Expected);
            }
            prop_assert_eq!(calendar.back_from(end, count), back);
        }
    }
}
