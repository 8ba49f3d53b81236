//! Virtual time: how fast it goes, and how it is paced by the real one.
//!
//! The driver owns virtual time: it moves from event to event, and everybody else reads where it
//! stands. This file alone reads the machine's clocks on the simulator's behalf.

use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::domain::Timestamp;

/// Real time that virtual time may be behind before the rest is forgiven: a client that does not
/// read stops the simulated world instead of being flooded afterwards.
const LAG_MAX: Duration = Duration::from_secs(1);
/// Fastest and slowest multiple of real time.
const TIMES: std::ops::RangeInclusive<f64> = 0.001..=1_000_000.0;

/// How fast virtual time goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// So many virtual seconds in a real one.
    Times(f64),
    /// As fast as the sockets take the rows.
    Max,
}

/// A text that is no speed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a speed: \"{0}\" (a number from 0.001 to 1000000, or max)")]
pub struct NotASpeed(String);

impl FromStr for Speed {
    type Err = NotASpeed;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.eq_ignore_ascii_case("max") {
            return Ok(Speed::Max);
        }
        match text.strip_suffix('x').unwrap_or(text).parse() {
            Ok(times) if TIMES.contains(&times) => Ok(Speed::Times(times)),
            _ => Err(NotASpeed(text.chars().take(20).collect())),
        }
    }
}

/// The monotonic clock.
#[expect(clippy::disallowed_methods, reason = "the simulator's own clock file")]
pub(crate) fn monotonic() -> Instant {
    Instant::now()
}

/// The wall clock, in whole seconds.
#[expect(clippy::disallowed_methods, reason = "the simulator's own clock file")]
pub(crate) fn wall() -> Timestamp {
    chrono::Utc::now().into()
}

/// Maps real time to virtual time at a fixed rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    times: f64,
    from_real: Instant,
    from_virtual: Timestamp,
}

impl Pace {
    /// Virtual time stands at `now` when the monotonic clock shows `real`.
    pub fn new(times: f64, now: Timestamp, real: Instant) -> Pace {
        Pace { times, from_real: real, from_virtual: now }
    }

    /// How far virtual time should have come, given how far it has.
    pub fn target(&mut self, reached: Timestamp, real: Instant) -> Timestamp {
        let wanted = self.from_virtual.plus((self.elapsed(real) * self.times) as i64);
        let lag_max_s = (LAG_MAX.as_secs_f64() * self.times).max(1.0) as i64;
        if wanted.since(reached) > lag_max_s {
            *self = Pace::new(self.times, reached.plus(lag_max_s), real);
            return reached.plus(lag_max_s);
        }
        wanted
    }

    /// Real time until virtual time should reach `next`.
    pub fn until(&self, next: Timestamp, real: Instant) -> Duration {
        let at_s = next.since(self.from_virtual) as f64 / self.times;
        Duration::try_from_secs_f64(at_s - self.elapsed(real)).unwrap_or_default()
    }

    fn elapsed(&self, real: Instant) -> f64 {
        real.saturating_duration_since(self.from_real).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_spellings_of_speed() {
        for (text, expected) in [
            ("1", Speed::Times(1.0)),
            ("0.5", Speed::Times(0.5)),
            ("300x", Speed::Times(300.0)),
            ("max", Speed::Max),
            ("MAX", Speed::Max),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in ["", "0", "-1", "nan", "inf", "1e9", "fast"] {
            assert!(text.parse::<Speed>().is_err(), "{text}");
        }
    }

    #[test]
    fn virtual_time_runs_at_its_multiple() {
        let real = monotonic();
        let mut pace = Pace::new(60.0, Timestamp(1000), real);
        assert_eq!(pace.target(Timestamp(1000), real + Duration::from_millis(500)), Timestamp(1030));
        assert_eq!(pace.until(Timestamp(1060), real + Duration::from_millis(500)).as_millis(), 500);
        assert_eq!(pace.until(Timestamp(1000), real + Duration::from_millis(500)), Duration::ZERO);
    }

    #[test]
    fn a_stalled_client_stalls_the_world_and_is_not_flooded_later() {
        let real = monotonic();
        let mut pace = Pace::new(10.0, Timestamp(0), real);
        let later = real + Duration::from_secs(60);
        assert_eq!(pace.target(Timestamp(0), later), Timestamp(10));
        assert_eq!(pace.target(Timestamp(10), later), Timestamp(10));
        assert_eq!(pace.target(Timestamp(10), later + Duration::from_millis(100)), Timestamp(11));
    }
}
