//! How far the system's clock is from the broker's, and what time it must be by both. Pure.
//!
//! Every answer over REST carries the broker's time to the second (`Date`), so it bounds the
//! difference from both sides: the answer was written after the request left and before it came
//! in. Where such bounds agree, what most of them allow is the difference.
//!
//! Between answers the system's clock is watched against monotonic time. Where the two part, the
//! clock was set or the machine has slept, and only an answer or a row can say which: until then
//! it is the earlier of the two times, since a clock that is late makes nothing wrong, and one that
//! is early takes unfinished bars for finished.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Smaller differences are not corrected, ms: an answer tells no better than to a second.
pub const CORRECT_FROM_MS: i64 = 3_000;
/// A difference that is corrected stays so until it is smaller than this, ms.
const CORRECT_TO_MS: i64 = 2_000;
/// A correction within this of the last changes nothing, ms.
const SAME_MS: i64 = 1_000;
/// Differences above this are told to the operator, ms.
pub const WARN_FROM_MS: i64 = 5_000;
/// Wall and monotonic time that part by this between two readings have parted for good, ms.
const PARTED_MS: i64 = 2_000;
/// A slower answer tells too little, ms.
const ROUND_TRIP_MAX_MS: i64 = 10_000;
/// Answers that are compared, how old they may be, and how many have to agree.
const SAMPLES_MAX: usize = 8;
const SAMPLE_AGE_MAX: Duration = Duration::from_secs(3_600);
const AGREE_MIN: usize = 2;

/// A row names the start of its bucket, which was so long ago at most, ms.
const ROW_AGE_MAX_MS: i64 = 330_000;

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Milliseconds since 1970 by the system's clock.
    pub wall_ms: i64,
    /// Monotonic time.
    pub monotonic: Instant,
}

/// What the operator should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The system's clock is ahead of the broker's by so much (behind, where negative).
    Off {
        /// Milliseconds.
        by_ms: i64,
    },
    /// A candle ended before its time by the corrected clock, which is slow by so much at least.
    SlowByRow {
        /// Milliseconds.
        by_ms: i64,
    },
    /// The clocks agree again.
    Right,
}

/// The difference lies between these: the system's clock minus the broker's, ms.
#[derive(Clone, Copy, Debug)]
struct Sample {
    low_ms: i64,
    high_ms: i64,
    at: Instant,
}

/// The system's clock, watched and corrected.
#[derive(Clone, Debug, Default)]
pub struct Skew {
    samples: VecDeque<Sample>,
    /// What is taken off the system's clock, ms.
    applied_ms: i64,
    last: Option<Reading>,
    /// By how much the system's clock has parted from monotonic time, while nobody has said
    /// which of them is right, ms.
    parted_ms: i64,
    partings: u32,
    /// By how much the system's clock was set while it was watched, ms: what of its difference is no mistake of who
    /// set up the machine.
    set_ms: i64,
    told_off: bool,
    told_slow: bool,
}

impl Skew {
    /// The time by all that is known, ms since 1970.
    pub fn now_ms(&mut self, reading: Reading) -> i64 {
        self.watch(reading);
        reading.wall_ms - self.applied_ms - self.parted_ms.max(0)
    }

    /// Whether the time can date what happens: not while clocks have parted unexplained.
    pub fn is_certain(&self) -> bool {
        self.parted_ms == 0
    }

    /// What the system's clock says, ms since 1970, as it was before it was set under the eyes of this; and the same
    /// if what has just happened to it was no sleep. They differ while nobody has said which it was.
    pub fn as_started_ms(&mut self, reading: Reading) -> (i64, i64) {
        self.watch(reading);
        let wall_ms = reading.wall_ms - self.set_ms;
        (wall_ms, wall_ms - self.parted_ms)
    }

    /// How often the clock was set, or the machine has slept. What follows such a moment is not
    /// known to follow what was before it.
    pub fn partings(&self) -> u32 {
        self.partings
    }

    /// An answer said that it was `date_s` (seconds since 1970) when it was written.
    pub fn answered(&mut self, date_s: i64, sent: Reading, received: Reading) -> Option<News> {
        self.watch(received);
        let took_ms = millis(received.monotonic.saturating_duration_since(sent.monotonic));
        let parted = (received.wall_ms - sent.wall_ms - took_ms).abs() >= PARTED_MS;
        if parted || took_ms > ROUND_TRIP_MAX_MS {
            return None;
        }
        let (low_ms, high_ms) = between_ms(date_s, sent, received);
        let sample = Sample { low_ms, high_ms, at: received.monotonic };
        if self.samples.len() >= SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
        self.samples.retain(|old| received.monotonic.saturating_duration_since(old.at) <= SAMPLE_AGE_MAX);
        let explains =
            |skew_ms: i64| (low_ms - CORRECT_FROM_MS..=high_ms + CORRECT_FROM_MS).contains(&skew_ms);
        if self.parted_ms != 0 && (explains(self.applied_ms) || explains(self.applied_ms + self.parted_ms)) {
            self.adopt(i64::midpoint(low_ms, high_ms));
        } else if let Some(agreed_ms) = self.agreed_ms() {
            self.adopt(agreed_ms);
        }
        self.news()
    }

    /// A row shows that the time `reached_ms` has come.
    pub fn row(&mut self, reached_ms: i64, reading: Reading) -> Option<News> {
        let by_ms = reached_ms - self.now_ms(reading);
        if by_ms < CORRECT_FROM_MS {
            return None;
        }
        // No machine sleeps backwards, and this row fits the time that has gone on all the same.
        let ahead_ms = by_ms + self.parted_ms;
        if self.parted_ms < 0 && (-ROW_AGE_MAX_MS..=CORRECT_FROM_MS).contains(&ahead_ms) {
            self.set_ms += self.parted_ms;
            self.applied_ms += self.parted_ms;
            self.parted_ms = 0;
            return self.news();
        }
        let left_ms = self.parted_ms - by_ms;
        if self.parted_ms > 0 && (-CORRECT_FROM_MS..=by_ms.min(ROW_AGE_MAX_MS)).contains(&left_ms) {
            // The machine has slept, and its clock went on rightly.
            self.parted_ms = 0;
            return None;
        }
        // While the clocks have parted it is late on purpose.
        let is_slow = self.is_certain() && by_ms >= WARN_FROM_MS;
        let is_news = is_slow && !std::mem::replace(&mut self.told_slow, true);
        is_news.then_some(News::SlowByRow { by_ms })
    }

    fn watch(&mut self, reading: Reading) {
        if let Some(last) = self.last
            && reading.monotonic >= last.monotonic
        {
            let passed_ms = millis(reading.monotonic - last.monotonic);
            let parted_ms = reading.wall_ms - last.wall_ms - passed_ms;
            if parted_ms.abs() >= PARTED_MS {
                self.parted_ms += parted_ms;
                self.partings = self.partings.wrapping_add(1);
                self.samples.clear();
                if self.parted_ms.abs() < PARTED_MS {
                    // It was set back to where it had been.
                    self.parted_ms = 0;
                }
            }
        } else if self.last.is_some() {
            return;
        }
        self.last = Some(reading);
    }

    /// The middle of what most answers allow, where enough of them agree.
    fn agreed_ms(&self) -> Option<i64> {
        let shared = |low_ms: i64| {
            let holding = || self.samples.iter().filter(move |s| (s.low_ms..=s.high_ms).contains(&low_ms));
            let high_ms = holding().map(|sample| sample.high_ms).min()?;
            Some((holding().count(), low_ms, high_ms))
        };
        let (agree, low_ms, high_ms) =
            self.samples.iter().filter_map(|sample| shared(sample.low_ms)).max()?;
        (agree >= AGREE_MIN && agree * 2 > self.samples.len()).then(|| i64::midpoint(low_ms, high_ms))
    }

    fn adopt(&mut self, skew_ms: i64) {
        // It was set, and has not slept, where that is nearer to what is known now.
        if (skew_ms - self.applied_ms).abs() > (skew_ms - self.applied_ms - self.parted_ms).abs() {
            self.set_ms += self.parted_ms;
        }
        self.parted_ms = 0;
        let from_ms = if self.applied_ms == 0 { CORRECT_FROM_MS } else { CORRECT_TO_MS };
        if skew_ms.abs() < from_ms {
            self.applied_ms = 0;
        } else if (skew_ms - self.applied_ms).abs() >= SAME_MS {
            self.applied_ms = skew_ms;
        }
    }

    fn news(&mut self) -> Option<News> {
        if self.applied_ms.abs() > WARN_FROM_MS {
            let by_ms = self.applied_ms;
            return (!std::mem::replace(&mut self.told_off, true)).then_some(News::Off { by_ms });
        }
        self.told_slow &= self.applied_ms != 0;
        (self.applied_ms == 0 && std::mem::take(&mut self.told_off)).then_some(News::Right)
    }
}

/// Between which two values, ms, the system's clock is ahead of that of a server which said that it was `date_s`
/// (seconds since 1970) when it answered.
pub fn between_ms(date_s: i64, sent: Reading, received: Reading) -> (i64, i64) {
    let date_ms = date_s.saturating_mul(1_000);
    (sent.wall_ms.saturating_sub(date_ms.saturating_add(999)), received.wall_ms.saturating_sub(date_ms))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Clock;

    /// True time at which every test begins, ms.
    const START_MS: i64 = 1_579_089_600_000;

    /// A machine whose clock is `ahead_ms` of the truth.
    struct Machine {
        skew: Skew,
        boot: Instant,
        passed_ms: i64,
        slept_ms: i64,
        ahead_ms: i64,
    }

    impl Machine {
        fn new(ahead_ms: i64) -> Machine {
            let boot = Clock::system().monotonic();
            Machine { skew: Skew::default(), boot, passed_ms: 0, slept_ms: 0, ahead_ms }
        }

        fn truth_ms(&self) -> i64 {
            START_MS + self.passed_ms + self.slept_ms
        }

        fn reading(&self) -> Reading {
            let monotonic = self.boot + Duration::from_millis(self.passed_ms as u64);
            Reading { wall_ms: self.truth_ms() + self.ahead_ms, monotonic }
        }

        /// Time passes, read every second.
        fn pass(&mut self, seconds: i64) {
            for _ in 0..seconds {
                self.passed_ms += 1_000;
                self.skew.now_ms(self.reading());
            }
        }

        /// Asks; the broker's clock may be wrong by `lie_ms`.
        fn ask(&mut self, there_ms: i64, back_ms: i64, lie_ms: i64) -> Option<News> {
            let sent = self.reading();
            self.passed_ms += there_ms;
            let date_s = (self.truth_ms() + lie_ms).div_euclid(1_000);
            self.passed_ms += back_ms;
            self.skew.answered(date_s, sent, self.reading())
        }

        /// By how much the corrected time is ahead of the truth.
        fn error_ms(&mut self) -> i64 {
            self.skew.now_ms(self.reading()) - self.truth_ms()
        }
    }

    #[test]
    fn a_clock_that_is_right_is_left_alone() {
        let mut machine = Machine::new(1_900);
        for _ in 0..20 {
            assert_eq!(machine.ask(30, 30, 0), None);
            machine.pass(7);
        }
        assert_eq!(machine.error_ms(), 1_900);
    }

    #[test]
    fn a_wrong_clock_is_corrected_and_told_of_once_and_again_when_it_is_right() {
        for ahead_ms in [-1_800_000, -7_000, 7_000, 90_000, 3_000_000] {
            let mut machine = Machine::new(ahead_ms);
            assert_eq!(machine.ask(30, 30, 0), None, "one answer may lie");
            let told = machine.ask(30, 30, 0);
            assert!(matches!(told, Some(News::Off { by_ms }) if (by_ms - ahead_ms).abs() < 600), "{told:?}");
            assert!(machine.error_ms().abs() < 600);
            assert_eq!(machine.ask(30, 30, 0), None);
            // Somebody sets it right.
            machine.ahead_ms = 0;
            machine.pass(1);
            assert_eq!(machine.ask(30, 30, 0), Some(News::Right));
            assert_eq!((machine.error_ms(), machine.ask(30, 30, 0)), (0, None));
        }
    }

    #[test]
    fn a_clock_that_is_set_by_a_day_is_no_mistake_of_the_set_up() {
        for day_ms in [86_400_000, -86_400_000] {
            let mut machine = Machine::new(0);
            machine.ask(30, 30, 0);
            machine.pass(60);
            for (ahead_ms, certain_by_row) in [(day_ms, day_ms < 0), (0, day_ms > 0)] {
                machine.ahead_ms = ahead_ms;
                machine.pass(1);
                assert!(!machine.skew.is_certain(), "{day_ms}");
                let by_either = machine.skew.as_started_ms(machine.reading());
                assert!(
                    by_either.0 != machine.truth_ms() && by_either.1 == machine.truth_ms(),
                    "{by_either:?}"
                );
                // A row of the forming bucket: only the future proves anything.
                machine.skew.row(machine.truth_ms() - 100_000, machine.reading());
                assert_eq!(machine.skew.is_certain(), certain_by_row, "{day_ms} {ahead_ms}");
                machine.ask(30, 30, 0);
                machine.ask(30, 30, 0);
                assert!(machine.error_ms().abs() < 1_000, "{day_ms}: {}", machine.error_ms());
                let told = machine.skew.as_started_ms(machine.reading());
                assert_eq!(told, (machine.truth_ms(), machine.truth_ms()), "{day_ms} {ahead_ms}");
            }
        }
    }

    #[test]
    fn sleep_and_a_mistaken_clock_stay_what_the_clock_says() {
        // A day ahead from the beginning: that is how the machine is set up.
        let mut machine = Machine::new(86_400_000);
        machine.ask(30, 30, 0);
        machine.ask(30, 30, 0);
        let wall_ms = machine.reading().wall_ms;
        assert_eq!(machine.skew.as_started_ms(machine.reading()), (wall_ms, wall_ms));
        // Three hours of sleep.
        let mut machine = Machine::new(0);
        machine.ask(30, 30, 0);
        machine.slept_ms += 10_800_000;
        machine.pass(1);
        machine.ask(30, 30, 0);
        machine.ask(30, 30, 0);
        let wall_ms = machine.reading().wall_ms;
        assert_eq!(machine.skew.as_started_ms(machine.reading()), (wall_ms, wall_ms));
    }

    #[test]
    fn one_answer_with_another_time_moves_nothing() {
        let mut machine = Machine::new(0);
        for lie_ms in [0, 0, 600_000, 0, -600_000, 0, 0] {
            machine.ask(30, 30, lie_ms);
            assert_eq!(machine.error_ms(), 0, "{lie_ms}");
            machine.pass(60);
        }
    }

    #[test]
    fn an_answer_on_its_way_for_long_tells_nothing() {
        let mut machine = Machine::new(0);
        machine.ask(30_000, 30_000, 0);
        assert_eq!(machine.skew.samples.len(), 0);
    }

    #[test]
    fn a_clock_set_forward_or_back_runs_ahead_at_no_time() {
        for (before_ms, after_ms) in [(0, 600_000), (0, -600_000), (60_000, 0), (-60_000, 0), (0, 5_000)] {
            let mut machine = Machine::new(before_ms);
            for _ in 0..3 {
                machine.ask(30, 30, 0);
            }
            machine.pass(100);
            machine.ahead_ms = after_ms;
            for _ in 0..100 {
                machine.pass(1);
                assert!(machine.error_ms() <= 600, "{before_ms} to {after_ms}: {}", machine.error_ms());
            }
            assert!(!machine.skew.is_certain());
            machine.ask(30, 30, 0);
            assert!(
                machine.skew.is_certain() && machine.error_ms().abs() <= 600,
                "the first answer says which"
            );
            assert_eq!(machine.skew.partings(), 1);
        }
    }

    #[test]
    fn a_machine_that_slept_is_told_the_time_by_a_row_or_an_answer() {
        let slept = || {
            let mut machine = Machine::new(0);
            for _ in 0..3 {
                machine.ask(30, 30, 0);
            }
            machine.slept_ms = 7_200_000;
            machine.pass(1);
            assert_eq!((machine.skew.is_certain(), machine.error_ms()), (false, -7_200_000));
            machine
        };
        let mut machine = slept();
        machine.ask(30, 30, 0);
        assert_eq!((machine.skew.is_certain(), machine.error_ms()), (true, 0));
        let mut machine = slept();
        let (reached_ms, reading) = (machine.truth_ms() - 1_000_000, machine.reading());
        assert_eq!(machine.skew.row(reached_ms, reading), None);
        assert_eq!(
            (machine.skew.is_certain(), machine.error_ms()),
            (false, -7_200_000),
            "that candle is old"
        );
        let (reached_ms, reading) = (machine.truth_ms() - 299_000, machine.reading());
        machine.skew.row(reached_ms, reading);
        assert_eq!((machine.skew.is_certain(), machine.error_ms()), (true, 0));
    }

    #[test]
    fn a_clock_that_was_slow_and_is_set_wrong_is_not_taken_for_one_that_slept() {
        let mut machine = Machine::new(-4_000);
        machine.pass(10);
        machine.ahead_ms = 240_000;
        machine.pass(1);
        let (reached_ms, reading) = (machine.truth_ms(), machine.reading());
        machine.skew.row(reached_ms, reading);
        assert_eq!((machine.skew.is_certain(), machine.error_ms()), (false, -4_000));
    }

    #[test]
    fn a_row_before_its_time_shows_a_slow_clock_once() {
        let mut machine = Machine::new(-8_000);
        let (reached_ms, reading) = (machine.truth_ms(), machine.reading());
        assert_eq!(machine.skew.row(reached_ms, reading), Some(News::SlowByRow { by_ms: 8_000 }));
        assert_eq!(machine.skew.row(reached_ms, reading), None);
    }

    proptest! {
        /// Whatever the clock, the network and the moment, two answers find it to a second and
        /// half the round trip, and a clock that is set never runs ahead of the truth by more.
        #[test]
        fn the_difference_is_found(
            ahead_ms in -3_000_000i64..3_000_000,
            phase_ms in 0i64..1_000,
            trips in prop::collection::vec((0i64..400, 0i64..400, 0i64..5), 2..12),
            stepped_ms in -3_000_000i64..3_000_000,
        ) {
            let mut machine = Machine::new(ahead_ms);
            machine.passed_ms = phase_ms;
            for (there_ms, back_ms, wait_s) in trips {
                machine.ask(there_ms, back_ms, 0);
                machine.pass(wait_s);
            }
            let worst_ms = CORRECT_FROM_MS + 900;
            prop_assert!(machine.error_ms().abs() <= worst_ms, "{}", machine.error_ms());
            machine.ahead_ms += stepped_ms;
            machine.pass(3);
            prop_assert!(machine.error_ms() <= worst_ms + PARTED_MS, "{}", machine.error_ms());
            machine.ask(50, 50, 0);
            machine.ask(50, 50, 0);
            prop_assert!(machine.error_ms().abs() <= worst_ms, "{}", machine.error_ms());
        }
    }
}
