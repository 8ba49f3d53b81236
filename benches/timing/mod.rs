//! How long something takes, and how that is told.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// The machine's time.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures the machine's time")]
pub fn now() -> Instant {
    Instant::now()
}

/// How long `work` takes by the wall clock.
pub fn time(work: impl FnOnce()) -> Duration {
    let start = now();
    work();
    start.elapsed()
}

/// What this thread was on a processor for: waiting for one is the neighbours' doing.
pub fn cpu_time(work: impl FnOnce()) -> Duration {
    let on_cpu = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("time goes on");
    let start = on_cpu();
    work();
    on_cpu() - start
}

/// What work took: by the clock, and on a processor. The second knows of no neighbours, nor of
/// the disk.
#[derive(Clone, Copy)]
pub struct Cost {
    pub wall: Duration,
    pub cpu: Duration,
}

/// Both.
pub fn cost(work: impl FnOnce()) -> Cost {
    let mut wall = Duration::ZERO;
    let cpu = cpu_time(|| wall = time(work));
    Cost { wall, cpu }
}

/// That within which this share of the sorted times lies.
pub fn at(times: &[Duration], share: f64) -> Duration {
    times[((times.len() - 1) as f64 * share) as usize]
}

/// Within what half, 90 and 99 of 100 and all of the sorted times lie, in words.
#[allow(dead_code, reason = "most tell of two of these")]
pub fn shares(times: &[Duration]) -> String {
    let told = |share: f64| {
        format!("{:.0} of 100 within {:.2} ms", share * 100.0, at(times, share).as_secs_f64() * 1e3)
    };
    [0.5, 0.9, 0.99, 1.0].map(told).join(", ")
}

/// Median and 99th percentile.
pub fn quantiles(times: &mut [Duration]) -> String {
    times.sort();
    format!("median {:?}, p99 {:?}", at(times, 0.5), at(times, 0.99))
}
