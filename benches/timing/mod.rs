//! How long something takes, and how that is told.

use std::time::{Duration, Instant};

/// How long `work` takes by the wall clock.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures the machine's time")]
pub fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// Median and 99th percentile.
pub fn quantiles(times: &mut [Duration]) -> String {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    format!("median {:?}, p99 {:?}", at(0.5), at(0.99))
}
