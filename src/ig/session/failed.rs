//! Logins that led nowhere, and how long IG is left alone after them. Pure.
//!
//! Brokers lock accounts and revoke keys that log in without end. A login that IG refuses for good is never
//! repeated; each other one that IG has heard of and that led nowhere doubles the distance to the next, in
//! this process and in those after it. One that IG grants has led nowhere until the service has streamed for
//! a while: a process that dies each time after its login would else log in as often as it is started. An
//! orderly end before that is excused a few times, which is a person who tries things; whatever stops it
//! again and again is as bad as a crash.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::backoff::Backoff;

/// Where failed logins in a row are kept.
pub const SETTING: &str = "session.failed_logins";
/// The longest distance between logins, before jitter. What IG's limits of requests ask for is over
/// within minutes, and what a night of maintenance costs beyond its end is little to heal.
pub const DISTANCE_LAST: Duration = Duration::from_secs(30 * 60);
/// A login that has led to streaming for so long has led somewhere. No shorter than the longest distance, so
/// that a process that dies whenever it has come so far logs in no more often than one whose logins fail.
pub const LASTS_AFTER: Duration = DISTANCE_LAST;
/// So many orderly ends in a row, before the login has led anywhere, are excused.
pub const EXCUSED_MAX: u32 = 3;
/// Where no login was for so long, they are excused anew: whoever fetches history once an hour is no storm. Longer
/// than the longest distance with its jitter, so that nothing that stops the service without end gets there.
pub const EXCUSED_ANEW_AFTER: Duration = Duration::from_secs(45 * 60);
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
    /// IG has granted the last, and what it leads to is to be seen.
    #[serde(default)]
    pub granted: bool,
    /// Orderly ends that were excused since one has led somewhere.
    #[serde(default)]
    pub excused: u32,
}

/// Whether a login of that time, which is streamed with now, has led somewhere.
pub fn lasts(login: Instant, now: Instant) -> bool {
    now.saturating_duration_since(login) >= LASTS_AFTER
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

    /// With one login more, which counts as failed until it has led somewhere, or is known not to have reached
    /// IG. The first distance is the spacing of logins, and each is twice the one before. `random` is
    /// uniform in 0..1.
    pub fn and_one(&self, spacing: Duration, random: f64) -> Failed {
        let mut distances = Backoff::new(spacing, 2.0, DISTANCE_LAST);
        for _ in 0..self.count.min(DOUBLINGS_MAX) {
            distances.next_delay(random);
        }
        // Who is killed once keeps the distance of any login, no jitter's more.
        let distance_s = if self.count == 0 { spacing } else { distances.next_delay(random) }.as_secs();
        Failed {
            count: self.count.saturating_add(1),
            distance_s,
            why: UNKNOWN.to_owned(),
            granted: false,
            excused: self.excused,
        }
    }

    /// As it is where the last login was so long ago.
    #[must_use]
    pub fn after(self, rest: Duration) -> Failed {
        let excused = if rest >= EXCUSED_ANEW_AFTER { 0 } else { self.excused };
        Failed { excused, ..self }
    }

    /// With an orderly end: the last login is taken out of the count where IG has granted it, but not again and
    /// again.
    #[must_use]
    pub fn and_stopped(self) -> Failed {
        if !self.granted || self.excused >= EXCUSED_MAX {
            return self;
        }
        let count = self.count.saturating_sub(1);
        let distance_s = if count == 0 { 0 } else { self.distance_s / 2 };
        Failed { count, distance_s, excused: self.excused + 1, ..self }
    }

    /// With the last one granted, which does not take it out of the count yet.
    #[must_use]
    pub fn and_granted(self) -> Failed {
        Failed { why: String::new(), granted: true, ..self }
    }

    /// Whether there is anything to tell: one login that was granted is as it should be.
    pub fn is_told(&self) -> bool {
        self.count > u32::from(self.granted)
    }

    /// The least time from the last login to the next.
    pub fn distance(&self, spacing: Duration) -> Duration {
        Duration::from_secs(self.distance_s).max(spacing)
    }

    /// For people.
    pub fn in_words(&self) -> String {
        match self.count {
            count if self.granted => {
                format!("none of the last {count} has led to {} min of streaming", LASTS_AFTER.as_secs() / 60)
            }
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

    /// Seconds after its end that a process is started again.
    const STARTED_AGAIN_S: i64 = 5;

    /// What becomes of processes after a login.
    #[derive(Clone, Copy, PartialEq)]
    enum End {
        /// The login fails.
        Refused,
        /// It is granted, and the process dies.
        Dies,
        /// It is granted, and the process is told to stop.
        Stops,
    }

    /// Logins within a day of processes of which each lives for so many seconds at most.
    fn logins_a_day(random: f64, lives_s: i64, end: End) -> u32 {
        let (mut kept, mut last, mut logins) = (String::new(), None, 0);
        let mut now = 0;
        while now < DAY_S {
            // All that a new process knows.
            let rest = last.map_or(0, |Timestamp(last)| now - last).cast_unsigned();
            let failed = Failed::read(&kept).after(Duration::from_secs(rest));
            let wait = login_wait(last, failed.distance(SPACING), Timestamp(now)).as_secs() as i64;
            if wait > lives_s {
                now += lives_s;
                continue;
            }
            now += wait;
            last = Some(Timestamp(now));
            logins += 1;
            let failed = failed.and_one(SPACING, random);
            kept = match end {
                End::Refused => failed,
                End::Dies => failed.and_granted(),
                End::Stops => failed.and_granted().and_stopped(),
            }
            .write();
            if end != End::Refused {
                now += lives_s + STARTED_AGAIN_S;
                if lives_s >= LASTS_AFTER.as_secs() as i64 {
                    kept.clear();
                }
            }
        }
        logins
    }

    #[test]
    fn a_day_of_failed_logins_has_few_of_them_however_often_it_starts() {
        let few = |random, lives_s| logins_a_day(random, lives_s, End::Refused);
        assert_eq!((few(0.0, DAY_S), few(0.5, DAY_S), few(1.0, DAY_S)), (LOGINS_A_DAY_MAX, 53, 45));
        // Some 1,000 processes.
        assert!((60..=LOGINS_A_DAY_MAX).contains(&few(0.0, 86)));
        assert!((60..=LOGINS_A_DAY_MAX).contains(&few(0.0, 1)));
    }

    #[test]
    fn a_day_of_processes_that_die_after_their_login_has_few_logins_too() {
        for lives_s in [1, 20, 60, 600, 1_200, 1_799, 1_800, 1_801, 3_600] {
            for random in [0.0, 0.5, 1.0] {
                let logins = logins_a_day(random, lives_s, End::Dies);
                assert!((20..=LOGINS_A_DAY_MAX).contains(&logins), "{lives_s} s, {random}: {logins}");
                // Each that is excused is one more.
                let logins = logins_a_day(random, lives_s, End::Stops);
                let most = LOGINS_A_DAY_MAX + EXCUSED_MAX;
                assert!((20..=most).contains(&logins), "{lives_s} s, {random}: {logins} that were stopped");
            }
        }
    }

    #[test]
    fn one_login_that_is_granted_is_not_told_of_and_several_are() {
        let once = Failed::default().and_one(SPACING, 0.5);
        assert!(!Failed::default().is_told() && once.is_told());
        let granted = once.and_granted();
        assert!(!granted.is_told());
        let latest = Failed::default().and_one(SPACING, 1.0).and_granted();
        assert_eq!(latest.distance(SPACING), SPACING, "a restart waits no longer than any login");
        let again = granted.and_one(SPACING, 0.5);
        assert_eq!(again.in_words(), "the last 2 failed: its outcome is not known");
        let again = again.and_granted();
        assert!(again.is_told());
        assert_eq!(again.in_words(), "none of the last 2 has led to 30 min of streaming");
    }

    #[test]
    fn who_is_stopped_and_started_a_few_times_waits_for_the_spacing_alone() {
        let mut failed = Failed::default();
        let mut distances = Vec::new();
        for _ in 0..6 {
            failed = failed.and_one(SPACING, 0.5).and_granted().and_stopped();
            distances.push(failed.distance(SPACING).as_secs());
        }
        assert_eq!(distances, [61, 61, 61, 61, 122, 244]);
        assert_eq!(failed.in_words(), "none of the last 3 has led to 30 min of streaming");
        // What is not granted is not excused, nor is what came before.
        let refused = Failed::default().and_one(SPACING, 0.5).and_one(SPACING, 0.5);
        assert_eq!(refused.clone().and_stopped(), refused);
        let tried = refused.and_one(SPACING, 0.5).and_granted().and_stopped();
        assert_eq!((tried.count, tried.distance_s), (2, 122));
        // After a long time without any, all is as it was.
        let often = failed.after(EXCUSED_ANEW_AFTER).and_one(SPACING, 0.5).and_granted();
        assert_eq!((often.count, often.and_stopped().count), (4, 3));
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
        let failed = Failed { count: 3, distance_s: 250, why: "a \"code\"".to_owned(), ..Failed::default() };
        assert_eq!(Failed::read(&failed.write()), failed);
        assert_eq!(Failed::read(r#"{"count":3,"distance_s":250,"why":"a \"code\""}"#), failed);
        let granted = failed.and_granted();
        assert_eq!(Failed::read(&granted.write()), granted);
        for text in ["", "3", "{}", r#"{"count":-1}"#] {
            assert_eq!(Failed::read(text), Failed::default(), "{text}");
        }
    }
}
