//! Logins that failed, and how long IG is left alone after them. Pure.
//!
//! Brokers lock accounts and revoke keys that log in without end. A login that IG refuses for good is never
//! repeated; each other one that IG has heard of and that led nowhere doubles the distance to the next, in
//! this process and in those after it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::backoff::Backoff;

/// Where failed logins in a row are kept.
pub const SETTING: &str = "session.failed_logins";
/// The longest distance between logins, before jitter. What IG's limits of requests ask for is over
/// within minutes, and what a night of maintenance costs beyond its end is little to heal.
pub const DISTANCE_LAST: Duration = Duration::from_secs(30 * 60);
/// Doublings after which any distance has long reached the last.
const DOUBLINGS_MAX: u32 = 16;
/// Of a login that was begun and of whose end nothing is known, as when the process is killed.
const UNKNOWN: &str = "its outcome is not known";

/// Logins in a row that led nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// How many.
    pub count: u32,
    /// Seconds from the last to the next, where the spacing is not longer.
    pub distance_s: u64,
    /// What came of the last.
    pub why: String,
}

impl Failed {
    /// Reads what was kept; anything unreadable is as good as nothing.
    pub fn read(text: &str) -> Failed {
        serde_json::from_str(text).unwrap_or_default()
    }

    /// The text to keep.
    pub fn write(&self) -> String {
        serde_json::to_string(self).expect("plain numbers and texts make JSON")
    }

    /// With one login more, which counts as failed until it has succeeded, or is known not to have reached
    /// IG. The first distance is the spacing of logins, and each is twice the one before. `random` is
    /// uniform in 0..1.
    pub fn and_one(&self, spacing: Duration, random: f64) -> Failed {
        let mut distances = Backoff::new(spacing, 2.0, DISTANCE_LAST);
        for _ in 0..self.count.min(DOUBLINGS_MAX) {
            distances.next_delay(random);
        }
        let distance_s = distances.next_delay(random).as_secs();
        Failed { count: self.count.saturating_add(1), distance_s, why: UNKNOWN.to_owned() }
    }

    /// The least time from the last login to the next.
    pub fn distance(&self, spacing: Duration) -> Duration {
        Duration::from_secs(self.distance_s).max(spacing)
    }

    /// For people.
    pub fn in_words(&self) -> String {
        match self.count {
            1 => format!("the last failed: {}", self.why),
            count => format!("the last {count} failed: {}", self.why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;
    use crate::ig::session::tokens::login_wait;

    const SPACING: Duration = Duration::from_secs(61);
    const DAY_S: i64 = 24 * 3_600;
    /// Logins of a day without a success: six until the longest distance is reached, less a fifth each.
    const LOGINS_A_DAY_MAX: u32 = 65;

    /// Logins within a day of processes of which each lives for so many seconds at most, where none succeeds.
    fn logins_a_day(random: f64, lives_s: i64) -> u32 {
        let (mut kept, mut last, mut logins) = (String::new(), None, 0);
        let mut now = 0;
        while now < DAY_S {
            // All that a new process knows.
            let failed = Failed::read(&kept);
            let wait = login_wait(last, failed.distance(SPACING), Timestamp(now)).as_secs() as i64;
            if wait > lives_s {
                now += lives_s;
                continue;
            }
            now += wait;
            kept = failed.and_one(SPACING, random).write();
            last = Some(Timestamp(now));
            logins += 1;
        }
        logins
    }

    #[test]
    fn a_day_of_failed_logins_has_few_of_them_however_often_it_starts() {
        let (most, least) = (logins_a_day(0.0, DAY_S), logins_a_day(1.0, DAY_S));
        assert_eq!((most, logins_a_day(0.5, DAY_S), least), (LOGINS_A_DAY_MAX, 53, 45));
        // Some 1,000 processes.
        assert!((60..=LOGINS_A_DAY_MAX).contains(&logins_a_day(0.0, 86)));
        assert!((60..=LOGINS_A_DAY_MAX).contains(&logins_a_day(0.0, 1)));
    }

    #[test]
    fn distances_double_from_the_spacing_to_the_last() {
        let mut failed = Failed::default();
        let distances = std::iter::repeat_with(|| {
            failed = failed.and_one(SPACING, 0.5);
            failed.distance(SPACING).as_secs()
        });
        assert_eq!(distances.take(7).collect::<Vec<_>>(), [61, 122, 244, 488, 976, 1_800, 1_800]);
        let often = Failed { count: u32::MAX, ..Failed::default() }.and_one(SPACING, 1.0);
        assert_eq!((often.count, often.distance_s), (u32::MAX, 2_160));
    }

    #[test]
    fn the_spacing_is_kept_whatever_the_jitter_and_the_settings() {
        let distance = |spacing| Failed::default().and_one(spacing, 0.0).distance(spacing).as_secs();
        assert_eq!(distance(SPACING), 61);
        assert_eq!(distance(Duration::from_secs(7_200)), 7_200);
        assert_eq!(distance(Duration::ZERO), 0, "as a simulator wants it");
    }

    #[test]
    fn what_was_kept_is_read_and_what_is_no_such_thing_is_nothing() {
        let failed = Failed { count: 3, distance_s: 250, why: "a \"code\"".to_owned() };
        assert_eq!(Failed::read(&failed.write()), failed);
        for text in ["", "3", "{}", r#"{"count":-1}"#] {
            assert_eq!(Failed::read(text), Failed::default(), "{text}");
        }
    }
}
