//! Growing pauses between attempts: reconnect, retry, restart. Pure: the random number is an argument.

use std::time::Duration;

/// A delay strays from its plan by at most this share, either way, so that clients which failed
/// together do not return together.
const JITTER: f64 = 0.2;

/// A sequence of delays that grows by a factor up to a cap.
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: Duration,
    factor: f64,
    cap: Duration,
    next: Duration,
}

impl Backoff {
    /// A sequence that starts at `initial`, is multiplied by `factor` (at least 1) after each
    /// delay and levels off at `cap`.
    pub fn new(initial: Duration, factor: f64, cap: Duration) -> Backoff {
        assert!(factor >= 1.0, "a backoff must not shrink");
        let initial = initial.min(cap);
        Backoff { initial, factor, cap, next: initial }
    }

    /// The next delay, within 20 % of its plan and never above the cap by more than that.
    /// `random` is uniform in 0..1; values outside are clamped.
    pub fn next_delay(&mut self, random: f64) -> Duration {
        let planned = self.next;
        self.next = Duration::try_from_secs_f64(planned.as_secs_f64() * self.factor)
            .map_or(self.cap, |grown| grown.min(self.cap));
        let random = if random.is_nan() { 0.5 } else { random.clamp(0.0, 1.0) };
        planned.mul_f64(1.0 - JITTER + 2.0 * JITTER * random)
    }

    /// Starts over: what was tried has worked.
    pub fn reset(&mut self) {
        self.next = self.initial;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    /// Half-way through the jitter: the delays as planned.
    fn planned(backoff: &mut Backoff, count: usize) -> Vec<u64> {
        (0..count).map(|_| backoff.next_delay(0.5).as_secs_f64().round() as u64).collect()
    }

    #[test]
    fn delays_grow_to_the_cap_and_start_over_after_a_reset() {
        let mut backoff = Backoff::new(S, 2.0, 10 * S);
        assert_eq!(planned(&mut backoff, 6), [1, 2, 4, 8, 10, 10]);
        backoff.reset();
        assert_eq!(planned(&mut backoff, 2), [1, 2]);
    }

    #[test]
    fn an_initial_delay_above_the_cap_is_the_cap() {
        assert_eq!(planned(&mut Backoff::new(9 * S, 2.0, 3 * S), 2), [3, 3]);
    }

    #[test]
    fn jitter_spans_twenty_percent_either_way() {
        let mut backoff = Backoff::new(10 * S, 1.0, 10 * S);
        assert_eq!(backoff.next_delay(0.0), 8 * S);
        assert_eq!(backoff.next_delay(1.0), 12 * S);
        assert_eq!(backoff.next_delay(f64::NAN), 10 * S);
    }

    proptest! {
        #[test]
        fn no_delay_leaves_its_bounds(
            initial_ms in 1u64..100_000, factor in 1.0..1e6_f64, cap_ms in 1u64..10_000_000,
            randoms in prop::collection::vec(any::<f64>(), 0..40),
        ) {
            let cap = Duration::from_millis(cap_ms);
            let mut backoff = Backoff::new(Duration::from_millis(initial_ms), factor, cap);
            let least = Duration::from_millis(initial_ms).min(cap).mul_f64(0.79);
            for random in randoms {
                let delay = backoff.next_delay(random);
                prop_assert!(delay >= least && delay <= cap.mul_f64(1.21), "{delay:?}");
            }
        }
    }
}
