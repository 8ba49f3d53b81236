//! One line a bucket says what was collected: all that grows with the market's activity in a log of info level.
//!
//! [`Summary`] decides, without I/O, what is said and when; `speaker.rs` feeds it and speaks. Where the market is closed
//! and nothing happens, that is said once an hour.

mod speaker;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use speaker::{Speaking, spawn};

use crate::domain::{Calendar, Expectation, Timeframe, Timestamp};
use crate::stats::{LagCounts, Stats};

/// A bucket is summed up so long after its end, event time in seconds: its bars are stored by then, and what the
/// stream missed of it is known.
const AFTER_END_S: i64 = 30;
/// Where market time flies, one line sums up all buckets of so long, monotonic.
const EVERY_MIN: Duration = Duration::from_secs(5);
/// Distance between lines while there is nothing to collect.
const CLOSED_EVERY: Duration = Duration::from_secs(3_600);

/// What the counters read at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bars settled, from the stream and from REST.
    pub bars: u64,
    /// Buckets that proved to be quiet.
    pub quiet: u64,
    /// Bars that came over REST.
    pub healed: u64,
    /// Buckets found missing.
    pub missing: u64,
    /// Candle rows taken from the stream.
    pub rows: u64,
    /// How long bars took to become durable.
    pub lag: LagCounts,
}

impl Totals {
    /// What they read now.
    pub fn read(stats: &Stats) -> Totals {
        Totals {
            bars: stats.bars_settled.get(),
            quiet: stats.buckets_quiet.get(),
            healed: stats.bars_fetched.get(),
            missing: stats.buckets_missed.get(),
            rows: stats.rows.get(),
            lag: stats.close_to_durable.counts(),
        }
    }

    /// Whether nothing has happened.
    fn is_nothing(&self) -> bool {
        self.bars + self.quiet + self.healed + self.missing + self.rows == 0
    }

    fn since(&self, earlier: &Totals) -> Totals {
        Totals {
            bars: self.bars.saturating_sub(earlier.bars),
            quiet: self.quiet.saturating_sub(earlier.quiet),
            healed: self.healed.saturating_sub(earlier.healed),
            missing: self.missing.saturating_sub(earlier.missing),
            rows: self.rows.saturating_sub(earlier.rows),
            lag: self.lag.since(&earlier.lag),
        }
    }
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// What was collected since the last line.
    Collected {
        /// End of the last bucket that is summed up; at the process's end the time that it has come to.
        to: Timestamp,
        /// How many buckets are: more than one where market time flies or nothing was said for a while.
        buckets: u64,
        /// What happened.
        done: Box<Totals>,
    },
    /// Nothing, and nothing is expected.
    Closed {
        /// Start of the next bucket in which something is, within two weeks.
        opens: Option<Timestamp>,
    },
}

/// Decides what is said and when.
#[derive(Debug)]
pub struct Summary {
    calendars: Vec<Arc<Calendar>>,
    /// Up to which bucket's end everything was summed up, and what the counters read then.
    told: Option<(Timestamp, Totals)>,
    said_at: Instant,
    /// When it was last said that the market is closed, if nothing has happened since.
    closed_at: Option<Instant>,
}

impl Summary {
    /// How far ahead the opening of the market is looked for, seconds.
    const AHEAD_S: i64 = 14 * 86_400;

    /// A summary of pairs with these calendars, from `now` on.
    pub fn new(mut calendars: Vec<Arc<Calendar>>, now: Instant) -> Summary {
        calendars.dedup();
        Summary { calendars, told: None, said_at: now, closed_at: None }
    }

    /// What is to be said at event time `event`; `now` is monotonic.
    pub fn tick(&mut self, event: Option<Timestamp>, totals: &Totals, now: Instant) -> Option<Line> {
        let step = Timeframe::M5.seconds();
        let to = event?.plus(-AFTER_END_S).floor(step);
        let Some((told_to, before)) = &self.told else {
            self.told = Some((to, totals.clone()));
            return None;
        };
        if to <= *told_to || now.saturating_duration_since(self.said_at) < EVERY_MIN {
            return None;
        }
        let (done, passed_s) = (totals.since(before), to.since(*told_to));
        self.told = Some((to, totals.clone()));
        if done.is_nothing() && !self.expects(to.plus(-step)) {
            let is_due = |at| now.saturating_duration_since(at) >= CLOSED_EVERY;
            if !self.closed_at.is_none_or(is_due) {
                return None;
            }
            (self.said_at, self.closed_at) = (now, Some(now));
            return Some(Line::Closed { opens: self.opens(to) });
        }
        (self.said_at, self.closed_at) = (now, None);
        Some(Line::Collected { to, buckets: (passed_s / step).unsigned_abs(), done: Box::new(done) })
    }

    /// What is to be said at the end: what came since the last line. Nothing where nothing did.
    pub fn last(&self, event: Option<Timestamp>, totals: &Totals) -> Option<Line> {
        let (told_to, before) = self.told.as_ref()?;
        let (to, done) = (event?.max(*told_to), totals.since(before));
        let buckets = (to.since(*told_to) / Timeframe::M5.seconds()).unsigned_abs();
        (!done.is_nothing()).then(|| Line::Collected { to, buckets, done: Box::new(done) })
    }

    fn expects(&self, start: Timestamp) -> bool {
        self.calendars.iter().any(|calendar| calendar.expectation(start) == Expectation::Expected)
    }

    fn opens(&self, from: Timestamp) -> Option<Timestamp> {
        let ahead = |calendar: &Arc<Calendar>| {
            let runs = calendar.runs(from..from.plus(Summary::AHEAD_S));
            runs.into_iter()
                .find(|(_, expected)| *expected == Expectation::Expected)
                .map(|(run, _)| run.start)
        };
        self.calendars.iter().filter_map(ahead).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    /// A Friday, half an hour before the market closes.
    const FRIDAY: Timestamp = Timestamp(1_705_699_800); // 2024-01-19 21:30
    const STEP: i64 = 300;

    struct Bench {
        summary: Summary,
        totals: Totals,
        event: Timestamp,
        began: Instant,
        now: Instant,
        said: Vec<(i64, Line)>,
    }

    impl Bench {
        fn at(event: Timestamp) -> Bench {
            let now = Clock::system().monotonic();
            let summary = Summary::new(std::iter::repeat_n(Arc::new(Calendar::forex()), 28).collect(), now);
            Bench { summary, totals: Totals::default(), event, began: now, now, said: Vec::new() }
        }

        /// So many seconds of event time, at `speed` times the monotonic.
        fn pass(&mut self, seconds: i64, speed: u32, mut happens: impl FnMut(&mut Totals)) {
            for _ in 0..seconds {
                self.event = self.event.plus(1);
                self.now += Duration::from_secs(1) / speed;
                happens(&mut self.totals);
                if let Some(line) = self.summary.tick(Some(self.event), &self.totals, self.now) {
                    self.said.push(((self.now - self.began).as_secs() as i64, line));
                }
            }
        }
    }

    #[test]
    fn each_bucket_has_its_line_after_its_end_and_all_is_summed_up_once() {
        let mut bench = Bench::at(FRIDAY.plus(-7_200 - STEP + 60));
        bench.pass(3 * STEP, 1, |totals| {
            totals.rows += 28;
            totals.bars += 1;
        });
        let lines: Vec<(i64, i64, u64)> = bench
            .said
            .iter()
            .map(|(at_s, line)| match line {
                Line::Collected { to, buckets: 1, done } => (*at_s, to.since(FRIDAY.plus(-7_200)), done.rows),
                other => panic!("{other:?}"),
            })
            .collect();
        let rows = 28 * STEP as u64;
        // The first reaches back to the start.
        assert_eq!(lines, [(270, 0, 28 * 269), (570, 300, rows), (870, 600, rows)]);
    }

    #[test]
    fn at_the_end_what_came_since_the_last_line_is_told() {
        let mut bench = Bench::at(FRIDAY.plus(-7_200));
        assert_eq!(bench.summary.last(Some(bench.event), &bench.totals), None);
        bench.pass(STEP + 30, 1, |totals| totals.rows += 1);
        assert_eq!(bench.said.len(), 2);
        assert_eq!(bench.summary.last(Some(bench.event), &bench.totals), None, "all is told");
        bench.pass(100, 1, |totals| totals.rows += 2);
        let Some(Line::Collected { to, buckets: 0, done }) =
            bench.summary.last(Some(bench.event), &bench.totals)
        else {
            panic!("it is not told");
        };
        assert_eq!((to, done.rows), (bench.event, 200));
    }

    #[test]
    fn an_open_market_that_brings_nothing_is_told_of_like_any_other() {
        let mut bench = Bench::at(FRIDAY.plus(-7_200 + 60));
        bench.pass(2 * STEP, 1, |_| {});
        assert_eq!(bench.said.len(), 2, "{:?}", bench.said);
        assert!(bench.said.iter().all(|(_, line)| matches!(line, Line::Collected { .. })));
    }

    #[test]
    fn a_closed_market_is_told_of_at_once_and_then_every_hour() {
        let mut bench = Bench::at(FRIDAY);
        bench.pass(1_800 + 3 * 3_600 + STEP + 90, 1, |_| {});
        let closed: Vec<i64> = bench
            .said
            .iter()
            .filter(|(_, line)| matches!(line, Line::Closed { .. }))
            .map(|(at_s, _)| at_s - 1_800)
            .collect();
        assert_eq!(closed, [STEP + 30, STEP + 30 + 3_600, STEP + 30 + 7_200, STEP + 30 + 10_800]);
        let opens = Timestamp(1_705_874_400); // Sunday 22:00
        assert_eq!(bench.said.last().unwrap().1, Line::Closed { opens: Some(opens) });
        // What comes all the same is told of, and then that nothing does.
        bench.pass(STEP, 1, |totals| totals.healed += 1);
        bench.pass(2 * STEP, 1, |_| {});
        let last: Vec<bool> =
            bench.said.iter().rev().map(|(_, line)| matches!(line, Line::Closed { .. })).collect();
        assert_eq!(last[..4], [true, false, false, true], "{:?}", bench.said);
    }

    #[test]
    fn where_market_time_flies_a_line_sums_up_many_buckets() {
        let mut bench = Bench::at(FRIDAY.plus(-86_400));
        bench.pass(86_400, 600, |totals| totals.rows += 1);
        // 144 seconds.
        assert!((20..=29).contains(&bench.said.len()), "{}", bench.said.len());
        let (mut buckets_told, mut rows) = (0, 0);
        for (_, line) in &bench.said {
            let Line::Collected { buckets, done, .. } = line else { panic!("{line:?}") };
            (buckets_told, rows) = (buckets_told + buckets, rows + done.rows);
        }
        assert!(buckets_told > 270 && rows > 81_000, "{buckets_told} {rows}");
    }

    #[test]
    fn without_time_nothing_is_said() {
        let mut bench = Bench::at(FRIDAY);
        let far = bench.began + Duration::from_secs(86_400);
        assert_eq!(bench.summary.tick(None, &bench.totals, far), None);
        bench.totals.rows = 1;
        assert_eq!(bench.summary.tick(Some(FRIDAY), &bench.totals, far), None);
        assert_eq!(bench.summary.tick(Some(FRIDAY.plus(-STEP)), &bench.totals, far), None);
    }
}
