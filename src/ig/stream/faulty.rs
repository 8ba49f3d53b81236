//! Items whose rows could not be read, again and again: when each is subscribed to once more, so
//! that the others stream meanwhile. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::domain::FeedIx;

/// Pauses before such an item is tried again; the last one repeats.
const PAUSES_S: [u64; 4] = [5, 30, 120, 900];
/// One that was tried again so long ago, and has not failed since, is an item like any other.
const FORGIVEN_AFTER: Duration = Duration::from_secs(3_600);

/// Items on probation.
#[derive(Debug, Default)]
pub struct Faulty {
    items: BTreeMap<FeedIx, Probation>,
}

#[derive(Debug)]
struct Probation {
    failures: usize,
    /// When it is tried again, or was.
    due: Instant,
}

impl Faulty {
    /// The item has failed, once more if it is on probation. Answers for how long to leave it out.
    pub fn failed(&mut self, feed: FeedIx, now: Instant) -> Duration {
        self.forgive(now);
        let item = self.items.entry(feed).or_insert(Probation { failures: 0, due: now });
        let pause = Duration::from_secs(PAUSES_S[item.failures.min(PAUSES_S.len() - 1)]);
        item.failures += 1;
        item.due = now + pause;
        pause
    }

    /// For how long an item on probation is to be left out yet; none for any other.
    pub fn wait(&mut self, feed: FeedIx, now: Instant) -> Option<Duration> {
        self.forgive(now);
        self.items.get(&feed).map(|item| item.due.saturating_duration_since(now))
    }

    /// For how long to leave out an item that the server refuses, where `pause` is due: longer only
    /// where it has just failed too.
    pub fn refused(&mut self, feed: FeedIx, pause: Duration, now: Instant) -> Duration {
        self.wait(feed, now).unwrap_or_default().max(pause)
    }

    fn forgive(&mut self, now: Instant) {
        self.items.retain(|_, item| now.saturating_duration_since(item.due) < FORGIVEN_AFTER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn an_item_that_fails_again_is_left_out_ever_longer_until_it_was_good_for_an_hour() {
        let (mut faulty, mut now) = (Faulty::default(), Clock::system().monotonic());
        let (bad, good) = (FeedIx(7), FeedIx(8));
        let after = |now: &mut Instant, s| *now += Duration::from_secs(s);
        assert_eq!(faulty.wait(bad, now), None);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            let pause = faulty.failed(bad, now);
            pauses.push(pause.as_secs());
            assert_eq!((faulty.wait(bad, now), faulty.wait(good, now)), (Some(pause), None));
            // A new session in between finds it left out for the rest of the time.
            after(&mut now, 3);
            assert_eq!(faulty.wait(bad, now), Some(pause - Duration::from_secs(3)));
            after(&mut now, pause.as_secs() - 3);
            assert_eq!(faulty.wait(bad, now), Some(Duration::ZERO));
            after(&mut now, 10);
            assert_eq!(faulty.wait(bad, now), Some(Duration::ZERO), "tried again, and still on probation");
        }
        assert_eq!(pauses, [5, 30, 120, 900, 900, 900]);
        after(&mut now, 3_590);
        assert_eq!(faulty.wait(bad, now), None);
        assert_eq!(faulty.failed(bad, now).as_secs(), 5);
    }

    #[test]
    fn a_refusal_is_no_failure_and_waits_no_longer_than_any_other() {
        let (mut faulty, mut now) = (Faulty::default(), Clock::system().monotonic());
        let (item, five) = (FeedIx(7), Duration::from_secs(5));
        assert_eq!(faulty.refused(item, five, now), five);
        for pause_s in [5, 30, 120] {
            // Turned off for its faults, it is left out; served again, it is refused and refused.
            faulty.failed(item, now);
            assert_eq!(faulty.refused(item, five, now).as_secs(), pause_s);
            now += Duration::from_secs(pause_s);
            for _ in 0..3 {
                now += Duration::from_secs(60);
                assert_eq!(faulty.refused(item, five, now), five);
            }
        }
    }
}
