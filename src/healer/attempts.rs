//! How often REST was asked in vain, by stretch of buckets, and when it may be asked again. Pure.
//!
//! What an answer has brought is no longer missing, and is forgotten here; what it has not brought
//! waits, ever longer.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use super::holes::without;
use crate::domain::{Pair, Timeframe, Timestamp};

/// Times that REST is asked for a bar which it has with a null price, or has shown that it lacks
/// though there was one; then the bar is beyond its reach.
pub const TRIES_MAX: u32 = 8;
/// First pause after buckets were asked for and nothing came of it; doubles up to the last.
pub const RETRY_FIRST: Duration = Duration::from_secs(60);
/// The longest pause.
pub const RETRY_LAST: Duration = Duration::from_secs(24 * 3600);
/// Stretches that are remembered; beyond, all are forgotten and may be asked about again.
pub const ATTEMPTS_MAX: usize = 20_000;

/// Buckets that were asked about together, and in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// First bucket's start to the end of the last.
    pub span: Range<Timestamp>,
    /// How often.
    pub times: u32,
    /// When they may be asked about again, wall time.
    pub next_at: Timestamp,
}

/// Every stretch that was asked about in vain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempts {
    /// Ascending and disjoint.
    made: BTreeMap<(Pair, Timeframe), Vec<Attempt>>,
}

impl Attempts {
    /// What an earlier process has remembered, in any order. Where stretches overlap the one that
    /// was asked about more often counts.
    pub fn from_kept(kept: impl IntoIterator<Item = (Pair, Timeframe, Attempt)>) -> Attempts {
        let mut attempts = Attempts::default();
        for (pair, timeframe, attempt) in kept {
            attempts.lay(
                (pair, timeframe),
                attempt,
                |old, new| if old.times > new.times { old } else { new },
            );
        }
        attempts
    }

    /// Each stretch, by pair and timeframe, ascending.
    pub fn all(&self) -> impl Iterator<Item = (Pair, Timeframe, &Attempt)> {
        self.made.iter().flat_map(|((pair, timeframe), made)| made.iter().map(|one| (*pair, *timeframe, one)))
    }

    /// These buckets have been asked about at wall time `now`; whether that was in vain shows when
    /// the ledger is read the next time.
    pub fn note(&mut self, pair: Pair, timeframe: Timeframe, span: Range<Timestamp>, now: Timestamp) {
        if self.made.values().map(Vec::len).sum::<usize>() >= ATTEMPTS_MAX {
            self.made.clear();
        }
        let first = Attempt { span, times: 1, next_at: now.plus(pause_s(1)) };
        self.lay((pair, timeframe), first, |old, new| Attempt {
            times: old.times + 1,
            next_at: now.plus(pause_s(old.times + 1)),
            ..new
        });
    }

    /// Forgets buckets that are no longer missing. `missing` answers whether any of a stretch is.
    pub fn forget(&mut self, mut missing: impl FnMut(Pair, Timeframe, &Range<Timestamp>) -> bool) {
        for ((pair, timeframe), made) in &mut self.made {
            made.retain(|attempt| missing(*pair, *timeframe, &attempt.span));
        }
        self.made.retain(|_, made| !made.is_empty());
    }

    /// Forgets what is known of these buckets: they are asked about anew.
    pub fn clear(&mut self, pair: Pair, timeframe: Timeframe, span: &Range<Timestamp>) {
        let Some(made) = self.made.get_mut(&(pair, timeframe)) else { return };
        *made = std::mem::take(made)
            .into_iter()
            .flat_map(|attempt| {
                let rest = without(&attempt.span, std::slice::from_ref(span));
                rest.into_iter().map(move |span| Attempt { span, ..attempt })
            })
            .collect();
    }

    /// The parts of a stretch that were asked about.
    pub fn tried(&self, pair: Pair, timeframe: Timeframe, span: &Range<Timestamp>) -> Vec<Range<Timestamp>> {
        self.parts(pair, timeframe, span, |attempt| attempt.is_some())
    }

    /// The parts of a stretch that may be asked about at wall time `now`, ascending.
    pub fn open(
        &self,
        pair: Pair,
        timeframe: Timeframe,
        span: &Range<Timestamp>,
        now: Timestamp,
    ) -> Vec<Range<Timestamp>> {
        // No pause is longer than the last one, however the clock was set meanwhile.
        let waits = |attempt: &Attempt| {
            attempt.next_at > now && attempt.next_at.since(now) <= RETRY_LAST.as_secs() as i64
        };
        self.parts(pair, timeframe, span, |attempt| attempt.is_none_or(|attempt| !waits(attempt)))
    }

    /// The parts of a stretch that were asked about so often that it is no use.
    pub fn hopeless(
        &self,
        pair: Pair,
        timeframe: Timeframe,
        span: &Range<Timestamp>,
    ) -> Vec<Range<Timestamp>> {
        self.parts(pair, timeframe, span, |attempt| attempt.is_some_and(|attempt| attempt.times >= TRIES_MAX))
    }

    fn parts(
        &self,
        pair: Pair,
        timeframe: Timeframe,
        span: &Range<Timestamp>,
        wanted: impl Fn(Option<&Attempt>) -> bool,
    ) -> Vec<Range<Timestamp>> {
        let made = self.made.get(&(pair, timeframe)).map_or(&[][..], Vec::as_slice);
        let mut parts: Vec<Range<Timestamp>> = Vec::new();
        let mut add = |part: Range<Timestamp>, attempt: Option<&Attempt>| {
            if part.start >= part.end || !wanted(attempt) {
                return;
            }
            match parts.last_mut() {
                Some(last) if last.end == part.start => last.end = part.end,
                _ => parts.push(part),
            }
        };
        let mut from = span.start;
        for attempt in &made[made.partition_point(|attempt| attempt.span.end <= span.start)..] {
            if attempt.span.start >= span.end {
                break;
            }
            let meet = attempt.span.start.max(from)..attempt.span.end.min(span.end);
            add(from..meet.start, None);
            add(meet.clone(), Some(attempt));
            from = meet.end;
        }
        add(from..span.end, None);
        parts
    }

    /// Lays `new` over what is known; where they meet, `join` says what holds.
    fn lay(&mut self, key: (Pair, Timeframe), new: Attempt, join: impl Fn(Attempt, Attempt) -> Attempt) {
        if new.span.start >= new.span.end {
            return;
        }
        let made = self.made.entry(key).or_default();
        let mut laid: Vec<Attempt> = Vec::with_capacity(made.len() + 2);
        let mut add = |attempt: Attempt, span: Range<Timestamp>| {
            if span.start >= span.end {
                return;
            }
            match laid.last_mut() {
                Some(last)
                    if last.span.end == span.start
                        && (last.times, last.next_at) == (attempt.times, attempt.next_at) =>
                {
                    last.span.end = span.end;
                }
                _ => laid.push(Attempt { span, ..attempt }),
            }
        };
        let mut from = new.span.start;
        for old in std::mem::take(made) {
            let meet = old.span.start.max(new.span.start)..old.span.end.min(new.span.end);
            if meet.start >= meet.end {
                if old.span.start >= new.span.end {
                    add(new.clone(), from..new.span.end);
                    from = new.span.end;
                }
                let whole = old.span.clone();
                add(old, whole);
                continue;
            }
            add(old.clone(), old.span.start..meet.start);
            add(new.clone(), from..meet.start);
            let rest = meet.end..old.span.end;
            add(join(old.clone(), new.clone()), meet.clone());
            from = meet.end;
            if rest.start < rest.end {
                add(new.clone(), from..new.span.end);
                from = new.span.end;
            }
            add(old, rest);
        }
        add(new.clone(), from..new.span.end);
        *made = laid;
    }
}

/// Seconds to wait after so many times in vain.
fn pause_s(times: u32) -> i64 {
    let pause = RETRY_FIRST.saturating_mul(1 << times.saturating_sub(1).min(11)).min(RETRY_LAST);
    i64::try_from(pause.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp(1_579_089_600);
    const M5: Timeframe = Timeframe::M5;

    fn pair() -> Pair {
        "EURUSD".parse().unwrap()
    }

    fn span(from: i64, to: i64) -> Range<Timestamp> {
        Timestamp(from * 300)..Timestamp(to * 300)
    }

    /// Attempts as text: from-to:times.
    fn shown(attempts: &Attempts) -> String {
        let one = |attempt: &Attempt| {
            format!("{}-{}:{}", attempt.span.start.0 / 300, attempt.span.end.0 / 300, attempt.times)
        };
        attempts.all().map(|(_, _, attempt)| one(attempt)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_bucket_has_its_own_count() {
        let mut attempts = Attempts::default();
        attempts.note(pair(), M5, span(4, 8), NOW);
        attempts.note(pair(), M5, span(6, 10), NOW);
        assert_eq!(shown(&attempts), "4-6:1 6-8:2 8-10:1");
        attempts.note(pair(), M5, span(0, 20), NOW);
        assert_eq!(shown(&attempts), "0-4:1 4-6:2 6-8:3 8-10:2 10-20:1");
        attempts.note(pair(), M5, span(7, 8), NOW);
        assert_eq!(shown(&attempts), "0-4:1 4-6:2 6-7:3 7-8:4 8-10:2 10-20:1");
    }

    #[test]
    fn what_was_asked_in_vain_waits_longer_each_time() {
        let mut attempts = Attempts::default();
        let open = |attempts: &Attempts, after_s: i64| {
            !attempts.open(pair(), M5, &span(0, 3), NOW.plus(after_s)).is_empty()
        };
        assert!(open(&attempts, 0));
        for (times, pause_s) in [(1, 60), (2, 120), (3, 240), (4, 480)] {
            attempts.note(pair(), M5, span(0, 3), NOW);
            assert!(!open(&attempts, pause_s - 1) && open(&attempts, pause_s), "{times}");
        }
        (0..100).for_each(|_| attempts.note(pair(), M5, span(0, 3), NOW));
        assert!(!open(&attempts, 24 * 3600 - 1) && open(&attempts, 24 * 3600));
        assert!(open(&attempts, -1), "a clock that was set back delays nothing for ever");
    }

    #[test]
    fn only_the_part_that_was_asked_about_waits() {
        let mut attempts = Attempts::default();
        attempts.note(pair(), M5, span(4, 8), NOW);
        assert_eq!(attempts.open(pair(), M5, &span(0, 10), NOW), [span(0, 4), span(8, 10)]);
        assert_eq!(attempts.open(pair(), M5, &span(5, 6), NOW), []);
        assert_eq!(attempts.open(pair(), Timeframe::M15, &span(0, 9), NOW), [span(0, 9)]);
        assert_eq!(attempts.open("GBPUSD".parse().unwrap(), M5, &span(0, 9), NOW), [span(0, 9)]);
    }

    #[test]
    fn what_is_cleared_is_asked_about_anew() {
        let mut attempts = Attempts::default();
        (0..3).for_each(|_| attempts.note(pair(), M5, span(2, 8), NOW));
        attempts.note(pair(), M5, span(9, 10), NOW);
        assert_eq!(attempts.tried(pair(), M5, &span(0, 20)), [span(2, 8), span(9, 10)]);
        attempts.clear(pair(), M5, &span(4, 6));
        attempts.clear(pair(), Timeframe::M15, &span(0, 9));
        assert_eq!(shown(&attempts), "2-4:3 6-8:3 9-10:1");
        attempts.clear(pair(), M5, &span(6, 20));
        assert_eq!(shown(&attempts), "2-4:3");
    }

    #[test]
    fn after_eight_times_it_is_no_use() {
        let mut attempts = Attempts::default();
        (0..TRIES_MAX - 1).for_each(|_| attempts.note(pair(), M5, span(0, 2), NOW));
        assert_eq!(attempts.hopeless(pair(), M5, &span(0, 4)), []);
        attempts.note(pair(), M5, span(1, 3), NOW);
        assert_eq!(attempts.hopeless(pair(), M5, &span(0, 4)), [span(1, 2)]);
    }

    #[test]
    fn what_came_is_forgotten_and_what_is_kept_is_read_back() {
        let mut attempts = Attempts::default();
        attempts.note(pair(), M5, span(0, 2), NOW);
        attempts.note(pair(), M5, span(5, 6), NOW);
        attempts.note(pair(), M5, span(5, 6), NOW);
        let kept: Vec<_> = attempts.all().map(|(pair, tf, attempt)| (pair, tf, attempt.clone())).collect();
        assert_eq!(Attempts::from_kept(kept.into_iter().rev()), attempts);
        attempts.forget(|_, _, span| span.start.0 > 0);
        assert_eq!(shown(&attempts), "5-6:2");
    }

    proptest! {
        /// Whatever is asked about in whatever order, each bucket knows how often it was.
        #[test]
        fn counts_are_those_of_the_buckets(asked in prop::collection::vec((0i64..30, 1i64..10), 0..20)) {
            let mut attempts = Attempts::default();
            let mut expected = [0u32; 40];
            for (from, length) in asked {
                attempts.note(pair(), M5, span(from, from + length), NOW);
                (from..from + length).for_each(|bucket| expected[bucket as usize] += 1);
            }
            let mut told = [0u32; 40];
            let mut end = i64::MIN;
            for (_, _, attempt) in attempts.all() {
                prop_assert!(attempt.span.start.0 >= end, "ascending and disjoint");
                end = attempt.span.end.0;
                let buckets = attempt.span.start.0 / 300..attempt.span.end.0 / 300;
                buckets.for_each(|bucket| told[bucket as usize] = attempt.times);
            }
            prop_assert_eq!(told, expected);
        }
    }
}
