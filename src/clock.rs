//! What time it is. The only file that reads a clock; everything else takes time as an argument.
//!
//! Three clocks, and which rule goes by which (DESIGN, "Clocks"):
//! *wall* for allowance expiry, `created_at` and leases; *monotonic* for timers, backoff, pacing
//! and silence; *event* ([`EventClock`]) for settling, grace, calendar and the staleness of items.
//! Where the event clock is the wall's, it is corrected by what the broker's answers say of the
//! time ([`Skew`]).

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use futures_util::stream::{self, Stream};

use crate::domain::{Timeframe, Timestamp};
use crate::skew::{News, Reading, Skew};

/// The source of wall and monotonic time. Clones share one time.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// `None`: the machine's own clocks.
    simulated: Option<Arc<Simulated>>,
}

/// A wall clock that starts at an epoch and runs at a multiple of monotonic time.
#[derive(Debug)]
struct Simulated {
    epoch: Timestamp,
    started: Instant,
    speed: u32,
    /// Time skipped by [`Clock::advance`], on top of what has passed.
    skipped_ms: AtomicU64,
    /// By how much its wall was set forward with [`Clock::set_forward`].
    set_ms: AtomicI64,
}

impl Clock {
    /// The machine's clocks.
    pub fn system() -> Clock {
        Clock::default()
    }

    /// A clock that shows `epoch` now and runs `speed` times as fast as monotonic time; with
    /// speed 0 it stands still but for [`Clock::advance`]. Under tokio's paused time it follows
    /// that, so timers and stamps share one base.
    pub fn simulated(epoch: Timestamp, speed: u32) -> Clock {
        let simulated = Simulated {
            epoch,
            started: monotonic_now(),
            speed,
            skipped_ms: AtomicU64::new(0),
            set_ms: AtomicI64::new(0),
        };
        Clock { simulated: Some(Arc::new(simulated)) }
    }

    /// Moves a simulated clock forward, wall and monotonic alike. Does nothing to the machine's.
    pub fn advance(&self, by: Duration) {
        if let Some(simulated) = &self.simulated {
            let by_ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
            simulated.skipped_ms.fetch_add(by_ms, Ordering::Relaxed);
        }
    }

    /// Sets a simulated clock's wall forward, or back, as an operator does: monotonic time knows
    /// nothing of it. Does nothing to the machine's.
    pub fn set_forward(&self, seconds: i64) {
        if let Some(simulated) = &self.simulated {
            simulated.set_ms.fetch_add(seconds.saturating_mul(1000), Ordering::Relaxed);
        }
    }

    /// Civil time, to the second. May jump in either direction.
    pub fn wall(&self) -> Timestamp {
        Timestamp::from_millis(self.wall_ms())
    }

    fn wall_ms(&self) -> i64 {
        match &self.simulated {
            None => system_wall_ms(),
            Some(simulated) => {
                let passed_ms = monotonic_now().duration_since(simulated.started).as_millis() as u64;
                let ran_ms = passed_ms.saturating_mul(u64::from(simulated.speed));
                let ms = ran_ms.saturating_add(simulated.skipped_ms.load(Ordering::Relaxed));
                let ms = i64::try_from(ms).unwrap_or(i64::MAX);
                let epoch_ms = simulated.epoch.0.saturating_mul(1000);
                epoch_ms.saturating_add(ms).saturating_add(simulated.set_ms.load(Ordering::Relaxed))
            }
        }
    }

    /// Wall and monotonic time of one moment.
    pub fn reading(&self) -> Reading {
        Reading { wall_ms: self.wall_ms(), monotonic: self.monotonic() }
    }

    /// Time for deadlines: never goes back, says nothing about the date.
    pub fn monotonic(&self) -> Instant {
        let now = monotonic_now();
        match &self.simulated {
            None => now,
            Some(simulated) => {
                let skipped = Duration::from_millis(simulated.skipped_ms.load(Ordering::Relaxed));
                now.checked_add(skipped).unwrap_or(now)
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this file is where wall time is read")]
fn system_wall_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// Tokio's clock, which is the machine's unless a test has paused it.
#[expect(clippy::disallowed_methods, reason = "this file is where monotonic time is read")]
fn monotonic_now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// What time is cut into for who only looks now and then: a whole number of the 64 ms in which tokio's wheel keeps what is not
/// due at once. What is due at the beginning of one wakes its thread once; at any other time twice, the first time to be sorted anew.
pub const BEAT: Duration = Duration::from_millis(1_024);

/// When the first beat was: all others are whole distances from here.
static FIRST_BEAT: OnceLock<Instant> = OnceLock::new();

/// A runtime whose making is interrupted is made anew, so many times in all; what it costs where none succeeds is a wake-up a beat.
const RUNTIME_TRIES: usize = 5;

/// A runtime made by `build`, for whose timers each beat is the beginning of a slot. They count milliseconds from a moment while it is
/// made, so that must take less than one. Beats that have begun already stay as they are.
pub fn with_beats<R>(build: impl Fn() -> R) -> R {
    let mut tries = 1;
    loop {
        let began = monotonic_now();
        let runtime = build();
        if tries == RUNTIME_TRIES || monotonic_now() - began < Duration::from_millis(1) {
            FIRST_BEAT.get_or_init(|| began);
            return runtime;
        }
        tries += 1;
    }
}

/// Sleeps until the next time that is a whole multiple of `every`, rounded up to whole [`BEAT`]s, from a moment that the whole
/// process shares: for no longer than that, and at times for less. Who only looks now and then waits for this and not
/// for a time of its own, so that a thread wakes up once for all who look.
pub async fn beat(every: Duration) {
    tokio::time::sleep_until(next_beat(every).into()).await;
}

/// All of these beats to come.
pub fn beats(every: Duration) -> impl Stream<Item = ()> {
    stream::unfold((), move |()| async move {
        beat(every).await;
        Some(((), ()))
    })
}

/// How long it is until [`next_beat`].
pub fn until_beat(every: Duration) -> Duration {
    next_beat(every).saturating_duration_since(monotonic_now())
}

/// When the next [`beat`] is.
pub fn next_beat(every: Duration) -> Instant {
    let now = monotonic_now();
    next_after(*FIRST_BEAT.get_or_init(|| now), now, every)
}

fn next_after(first: Instant, now: Instant, every: Duration) -> Instant {
    // A clock that a test has paused may be before the first.
    let first = first.min(now);
    let beats = every.as_millis().div_ceil(BEAT.as_millis()).max(1);
    let (passed_ms, every_ms) = (now.duration_since(first).as_millis(), beats * BEAT.as_millis());
    first + Duration::from_millis(((passed_ms / every_ms + 1) * every_ms) as u64)
}

/// Which clock settles bars: configuration key `clock`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClockKind {
    /// The wall clock, corrected by the broker's: for IG itself.
    #[default]
    System,
    /// The stream's own stamps: for replays and simulators that run faster than time.
    Stream,
}

/// A broker's history may lag behind its stream by this much, seconds.
const HISTORY_LAG_S: i64 = 30;

/// No row seen yet.
const UNSET: i64 = i64::MIN;

/// The clock of the market's events. Clones share one time.
#[derive(Clone, Debug)]
pub struct EventClock(Inner);

#[derive(Clone, Debug)]
enum Inner {
    Wall(Clock, Arc<Mutex<Skew>>),
    /// Epoch seconds of the latest event, or [`UNSET`].
    Stream(Arc<AtomicI64>),
}

/// What an [`EventClock`] says at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// [`EventClock::now`].
    pub now: Option<Timestamp>,
    /// [`EventClock::is_steady`].
    pub is_steady: bool,
}

impl EventClock {
    /// The event clock of this kind; `clock` is what [`ClockKind::System`] reads.
    pub fn new(kind: ClockKind, clock: Clock) -> EventClock {
        EventClock(match kind {
            ClockKind::System => Inner::Wall(clock, Arc::default()),
            ClockKind::Stream => Inner::Stream(Arc::new(AtomicI64::new(UNSET))),
        })
    }

    /// Takes note of a row of the bucket that starts at `start`; `closed` if it was the bucket's
    /// last (`CONS_END=1`), which proves that the bucket is over. To a clock that goes by the wall
    /// it can tell that the machine has slept, or that the clock is slow. The caller has checked
    /// that `start` is plausible: a clock that follows the stream never goes back.
    pub fn observe(&self, start: Timestamp, closed: bool) {
        let reached = reached(start, closed);
        match &self.0 {
            // Hardly any row is later than all others, and to read is cheaper than to write.
            Inner::Stream(latest) if latest.load(Ordering::Relaxed) >= reached.0 => {}
            Inner::Stream(latest) => drop(latest.fetch_max(reached.0, Ordering::Relaxed)),
            Inner::Wall(clock, skew) => {
                report(locked(skew).row(reached.0.saturating_mul(1000), clock.reading()));
            }
        }
    }

    /// What this clock says at this moment.
    pub fn moment(&self) -> Moment {
        match &self.0 {
            Inner::Wall(clock, skew) => Moment::of(&mut locked(skew), clock.reading()),
            Inner::Stream(_) => Moment { now: self.now(), is_steady: false },
        }
    }

    /// [`EventClock::observe`], and what this clock says then, where it said `before` a short while ago. A row that shows no later
    /// time than that tells a wall nothing, so neither is looked at: rows come in thousands.
    pub fn observe_after(&self, before: Moment, start: Timestamp, closed: bool) -> Moment {
        let reached = reached(start, closed);
        match &self.0 {
            Inner::Wall(..) if before.now.is_some_and(|now| reached <= now) => before,
            Inner::Wall(clock, skew) => {
                let (mut skew, reading) = (locked(skew), clock.reading());
                report(skew.row(reached.0.saturating_mul(1000), reading));
                Moment::of(&mut skew, reading)
            }
            Inner::Stream(_) => {
                self.observe(start, closed);
                self.moment()
            }
        }
    }

    /// The moment before a request, where the answer's `Date` is of use to this clock.
    pub fn reading(&self) -> Option<Reading> {
        match &self.0 {
            Inner::Wall(clock, _) => Some(clock.reading()),
            Inner::Stream(_) => None,
        }
    }

    /// An answer has just come to the request sent at `sent`, and its `Date` said this.
    pub fn answered(&self, date: Timestamp, sent: Reading) {
        if let Inner::Wall(clock, skew) = &self.0 {
            report(locked(skew).answered(date.0, sent, clock.reading()));
        }
    }

    /// How often the wall clock was set or the machine has slept, as far as was seen: rows after
    /// such a moment are not known to follow those before it.
    pub fn partings(&self) -> u32 {
        match &self.0 {
            Inner::Wall(_, skew) => locked(skew).partings(),
            Inner::Stream(_) => 0,
        }
    }

    /// What the system's clock says without correction, where this clock goes by it; else event time. For the rule
    /// that system and stream must not be an hour apart, which is about how a machine is set up: what was set while
    /// this clock was watched does not count. Two times, while it is not known whether it was set or has slept.
    pub fn uncorrected(&self) -> Option<(Timestamp, Timestamp)> {
        match &self.0 {
            Inner::Wall(clock, skew) => {
                let (slept_ms, set_ms) = locked(skew).as_started_ms(clock.reading());
                Some((Timestamp::from_millis(slept_ms), Timestamp::from_millis(set_ms)))
            }
            Inner::Stream(_) => self.now().map(|now| (now, now)),
        }
    }

    /// Event time up to which a broker's history can be taken as complete: half a minute ago by
    /// the wall, since neither the broker's books nor two clocks are in step to the second.
    pub fn settled(&self) -> Option<Timestamp> {
        let lag_s = if matches!(self.0, Inner::Wall(..)) { HISTORY_LAG_S } else { 0 };
        self.now().map(|now| now.plus(-lag_s))
    }

    /// Whether this clock goes on while the stream is silent. One that follows the stream stands
    /// still through an outage, so it cannot tell when a subscription began; nor can one that was
    /// just set or has slept, until an answer or a row says what the time is.
    pub fn is_steady(&self) -> bool {
        match &self.0 {
            Inner::Wall(_, skew) => locked(skew).is_certain(),
            Inner::Stream(_) => false,
        }
    }

    /// Event time, or `None` while the stream has shown no row.
    pub fn now(&self) -> Option<Timestamp> {
        match &self.0 {
            Inner::Wall(clock, skew) => Some(Timestamp::from_millis(locked(skew).now_ms(clock.reading()))),
            Inner::Stream(latest) => match latest.load(Ordering::Relaxed) {
                UNSET => None,
                seconds => Some(Timestamp(seconds)),
            },
        }
    }
}

impl Moment {
    fn of(skew: &mut Skew, reading: Reading) -> Moment {
        let now = Some(Timestamp::from_millis(skew.now_ms(reading)));
        Moment { now, is_steady: skew.is_certain() }
    }
}

/// The time that has come where a row says this.
fn reached(start: Timestamp, closed: bool) -> Timestamp {
    if closed { start.plus(Timeframe::M5.seconds()) } else { start }
}

fn locked(skew: &Mutex<Skew>) -> MutexGuard<'_, Skew> {
    skew.lock().expect("nothing panics while holding this")
}

fn report(news: Option<News>) {
    match news {
        None => {}
        Some(News::Off { by_ms }) => {
            log::warn!(ahead_ms = by_ms; "the system's clock differs from IG's and is corrected for: set it right");
        }
        Some(News::SlowByRow { by_ms }) => {
            log::warn!(behind_ms = by_ms; "a candle ended before its time: the system's clock is slow, set it right");
        }
        Some(News::Right) => log::info!("the system's clock agrees with IG's again"),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const NOON: Timestamp = Timestamp(1_583_668_800);

    #[test]
    fn the_stream_clock_is_unset_until_the_first_row_and_never_goes_back() {
        let clock = EventClock::new(ClockKind::Stream, Clock::system());
        let clone = clock.clone();
        assert_eq!(clock.now(), None);
        clone.observe(NOON, false);
        assert_eq!(clock.now(), Some(NOON));
        clock.observe(NOON, true);
        assert_eq!(clone.now(), Some(NOON.plus(300)));
        clock.observe(NOON.plus(-300), false);
        assert_eq!(clock.now(), Some(NOON.plus(300)));
        clock.observe(NOON.plus(300), false);
        assert_eq!(clock.now(), Some(NOON.plus(300)));
    }

    #[test]
    fn the_system_event_clock_is_the_wall_corrected_by_answers_whatever_the_stream_says() {
        let wall = Clock::simulated(NOON, 0);
        let clock = EventClock::new(ClockKind::System, wall.clone());
        clock.observe(NOON.plus(86_400), true);
        assert_eq!(clock.now(), Some(NOON));
        wall.advance(Duration::from_secs(61));
        assert_eq!(clock.now(), Some(NOON.plus(61)));
        assert_eq!(clock.settled(), Some(NOON.plus(31)));
        // The broker says that it is two minutes earlier.
        for _ in 0..2 {
            let sent = clock.reading().unwrap();
            clock.answered(NOON.plus(61 - 120), sent);
        }
        let error_s = clock.now().unwrap().since(NOON.plus(61 - 120));
        assert!((0..=1).contains(&error_s), "{error_s}");
        assert_eq!(clock.uncorrected(), Some((NOON.plus(61), NOON.plus(61))));
    }

    #[test]
    fn rows_of_a_moment_that_has_come_tell_a_wall_nothing() {
        let wall = Clock::simulated(NOON, 0);
        let clock = EventClock::new(ClockKind::System, wall.clone());
        let before = clock.moment();
        assert_eq!(before, Moment { now: Some(NOON), is_steady: true });
        wall.advance(Duration::from_secs(5));
        wall.set_forward(600);
        assert_eq!(clock.observe_after(before, NOON, false), before);
        assert_eq!(clock.observe_after(before, NOON.plus(-300), true), before);
        // A later one has it looked at: it was set, or the machine has slept.
        let late = Moment { now: Some(NOON.plus(5)), is_steady: false };
        assert_eq!(clock.observe_after(before, NOON.plus(1), false), late);
        // And one that only the later of both times explains tells which it was.
        let slept = Moment { now: Some(NOON.plus(605)), is_steady: true };
        assert_eq!(clock.observe_after(late, NOON.plus(600), false), slept);
        // The stream's clock knows by nothing else.
        let stream = EventClock::new(ClockKind::Stream, wall);
        let none = stream.moment();
        let closed = Moment { now: Some(NOON.plus(300)), is_steady: false };
        assert_eq!(none, Moment { now: None, is_steady: false });
        assert_eq!(stream.observe_after(none, NOON, true), closed);
        assert_eq!(stream.observe_after(closed, NOON, false), closed);
    }

    #[test]
    fn a_wall_that_is_set_moves_event_time_only_when_an_answer_agrees() {
        let wall = Clock::simulated(NOON, 0);
        let clock = EventClock::new(ClockKind::System, wall.clone());
        assert_eq!((clock.now(), clock.is_steady()), (Some(NOON), true));
        wall.set_forward(600);
        wall.advance(Duration::from_secs(5));
        assert_eq!((clock.now(), clock.is_steady(), clock.partings()), (Some(NOON.plus(5)), false, 1));
        assert_eq!(clock.uncorrected(), Some((NOON.plus(605), NOON.plus(5))));
        let sent = clock.reading().unwrap();
        clock.answered(NOON.plus(605), sent);
        assert_eq!((clock.now(), clock.is_steady()), (Some(NOON.plus(605)), true));
    }

    #[test]
    fn a_simulated_clock_moves_wall_and_monotonic_alike() {
        let clock = Clock::simulated(NOON, 0);
        let before = clock.monotonic();
        clock.clone().advance(Duration::from_millis(1500));
        assert_eq!(clock.wall(), NOON.plus(1));
        assert!(clock.monotonic().duration_since(before) >= Duration::from_millis(1500));
    }

    #[test]
    fn beats_are_whole_distances_from_the_first_and_lie_ahead() {
        let first = monotonic_now();
        let next = |now_ms: u64, every_s| {
            let now = first + Duration::from_micros(now_ms * 1_000 + 7);
            next_after(first, now, Duration::from_secs(every_s)).duration_since(first).as_millis()
        };
        assert_eq!(
            [0, 1_023, 1_024, 1_025, 62_463].map(|now| next(now, 1)),
            [1_024, 1_024, 2_048, 2_048, 62_464]
        );
        assert_eq!([0, 5_119, 5_120, 14_000].map(|now| next(now, 5)), [5_120, 5_120, 10_240, 15_360]);
        assert_eq!([2, 3, 10].map(|every_s| next(0, every_s)), [2_048, 3_072, 10_240]);
        let earlier = next_after(first + Duration::from_secs(9), first, Duration::from_secs(5));
        assert_eq!(earlier.duration_since(first).as_millis(), 5_120);
    }

    #[test]
    fn a_runtime_whose_making_was_interrupted_is_made_again() {
        let made = Cell::new(0);
        with_beats(|| {
            let (began, is_first) = (monotonic_now(), made.replace(made.get() + 1) == 0);
            while is_first && monotonic_now() - began < Duration::from_millis(2) {}
        });
        assert!(made.get() >= 2);
    }

    #[test]
    fn who_looks_equally_often_wakes_up_at_one_time() {
        let every = Duration::from_secs(360_000);
        let first = next_beat(every);
        while FIRST_BEAT.get().is_some_and(|began| monotonic_now() == *began) {}
        assert_eq!(next_beat(every), first);
    }

    #[test]
    fn the_system_clock_shows_this_century() {
        assert!(Clock::system().wall() > Timestamp(1_577_836_800));
    }
}
