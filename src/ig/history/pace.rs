//! The distance between requests. Pure.
//!
//! IG grants no bursts and refuses past its limit for about a minute; requests are spaced evenly
//! and after a refusal twice as wide for ten minutes.

use std::time::{Duration, Instant};

/// Requests a minute until IG has told its limits.
pub const DEFAULT_PER_MINUTE: u32 = 8;
/// On demo no more than this, whatever IG says (its real limit is lower than its answer).
pub const DEMO_PER_MINUTE_MAX: u32 = 8;
/// Left to other users of the key and account.
const HEADROOM: u32 = 2;
const HALVED_FOR: Duration = Duration::from_secs(600);

/// The pace that IG's answers allow: the lower of its limits, less headroom.
pub fn allowed_per_minute(account: Option<u32>, application: Option<u32>, demo: bool) -> u32 {
    let told = match (account, application) {
        (Some(account), Some(application)) => account.min(application),
        (one, other) => one.or(other).unwrap_or(DEFAULT_PER_MINUTE + HEADROOM),
    };
    let allowed = told.saturating_sub(HEADROOM).max(1);
    if demo { allowed.min(DEMO_PER_MINUTE_MAX) } else { allowed }
}

/// Hands out the moments at which requests may be made.
#[derive(Clone, Debug)]
pub struct Pace {
    per_minute: u32,
    next: Option<Instant>,
    halved_until: Option<Instant>,
}

impl Pace {
    /// Requests spaced evenly over the minute.
    pub fn new(per_minute: u32) -> Pace {
        Pace { per_minute: per_minute.max(1), next: None, halved_until: None }
    }

    /// Reserves the next moment, at or after `now`.
    pub fn reserve(&mut self, now: Instant) -> Instant {
        let mut distance = Duration::from_secs(60) / self.per_minute;
        if self.halved_until.is_some_and(|until| now < until) {
            distance *= 2;
        }
        let at = self.next.map_or(now, |next| next.max(now));
        self.next = Some(at + distance);
        at
    }

    /// IG refused for its limit: pause, then half the pace for ten minutes.
    pub fn refused(&mut self, now: Instant, pause: Duration) {
        self.halved_until = Some(now + HALVED_FOR);
        self.next = Some(now + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn the_lower_limit_less_headroom_and_never_more_than_eight_on_demo() {
        assert_eq!(allowed_per_minute(Some(30), Some(60), false), 28);
        assert_eq!(allowed_per_minute(Some(30), Some(60), true), 8);
        assert_eq!(allowed_per_minute(Some(5), None, true), 3);
        assert_eq!(allowed_per_minute(None, None, true), 8);
        assert_eq!(allowed_per_minute(Some(1), Some(0), false), 1);
    }

    #[test]
    fn requests_are_spaced_evenly_and_wider_after_a_refusal() {
        let start = Clock::system().monotonic();
        let s = Duration::from_secs;
        let mut pace = Pace::new(6);
        let mut passed = |now: u64| pace.reserve(start + s(now)).duration_since(start).as_secs();
        assert_eq!([passed(0), passed(0), passed(0), passed(100)], [0, 10, 20, 100]);
        pace.refused(start + s(100), s(60));
        let mut passed = |now: u64| pace.reserve(start + s(now)).duration_since(start).as_secs();
        assert_eq!([passed(100), passed(100), passed(100)], [160, 180, 200]);
        assert_eq!([passed(701), passed(701)], [701, 711], "ten minutes later at the old pace");
    }
}
