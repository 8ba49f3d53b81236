//! What each room is at, and until when it has to have come a step further.
//!
//! A room that begins something says within which time it will have made a step; each step says so anew;
//! with nothing under way it rests, and so it does while it waits for another room: that is for that room's
//! pulse to tell. Who is past its time is stuck, whatever the reason: an answer that
//! never comes, a timer that was lost, a lock that nobody lets go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::room::Room;
use crate::clock::Clock;

/// Nothing is due.
const NEVER: u64 = 0;

/// Until when something has to have come a step further. Clones are one.
#[derive(Clone, Debug)]
pub struct Pulse {
    /// Milliseconds since the roster was made.
    due_ms: Arc<AtomicU64>,
    ground: Arc<Ground>,
}

#[derive(Debug)]
struct Ground {
    clock: Clock,
    base: Instant,
    /// The longest that is waited for any step, milliseconds: for tests of what is stuck.
    within_max_ms: u64,
}

impl Ground {
    fn ms(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.base).as_millis() as u64
    }
}

impl Pulse {
    /// A step has been made; the next will be within this time.
    pub fn step(&self, within: Duration) {
        let within_ms = (within.as_millis() as u64).min(self.ground.within_max_ms);
        let due_ms = self.ground.ms(self.ground.clock.monotonic()) + within_ms;
        self.due_ms.store(due_ms.max(NEVER + 1), Ordering::Relaxed);
    }

    /// Something is under way: if nothing was before, a step will be made within this time.
    pub fn begin(&self, within: Duration) {
        if self.due_ms.load(Ordering::Relaxed) == NEVER {
            self.step(within);
        }
    }

    /// Nothing is under way.
    pub fn rest(&self) {
        self.due_ms.store(NEVER, Ordering::Relaxed);
    }

    /// Waits for another room, which has a pulse of its own; then the next step will be within this time.
    pub async fn waiting<F: Future>(&self, other: F, within: Duration) -> F::Output {
        self.rest();
        let answer = other.await;
        self.step(within);
        answer
    }

    /// By how much it is past its time at `now`, if it is.
    pub fn overdue(&self, now: Instant) -> Option<Duration> {
        let (due_ms, now_ms) = (self.due_ms.load(Ordering::Relaxed), self.ground.ms(now));
        (due_ms != NEVER && due_ms < now_ms).then(|| Duration::from_millis(now_ms - due_ms))
    }

    /// Time has passed in which nobody on this thread could do anything: it does not count.
    fn excuse(&self, lost: Duration) {
        let lost_ms = (lost.as_millis() as u64).min(self.ground.within_max_ms);
        let due_ms = self.due_ms.load(Ordering::Relaxed);
        if due_ms != NEVER {
            self.due_ms.store(due_ms.saturating_add(lost_ms), Ordering::Relaxed);
        }
    }
}

/// Pulses that are no room's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Other {
    /// What comes before the rooms stand.
    Start,
    /// The supervisor itself.
    Supervisor,
}

/// All that is known of the rooms. Clones are one; any thread may read it.
#[derive(Clone, Debug)]
pub struct Roster {
    /// Of the rooms, in their order: what they are at.
    at: Arc<[Pulse; Room::ALL.len()]>,
    /// And whether they answer.
    answers: Arc<[Pulse; Room::ALL.len()]>,
    others: Arc<[Pulse; 2]>,
    generations: Arc<[AtomicU32; Room::ALL.len()]>,
    up: Arc<[AtomicBool; Room::ALL.len()]>,
}

impl Roster {
    /// Nobody sits anywhere yet. Of no step more than `within_max` is waited for, if that is given.
    pub fn new(clock: Clock, within_max: Option<Duration>) -> Roster {
        let base = clock.monotonic();
        let within_max_ms = within_max.map_or(u64::MAX / 2, |within| within.as_millis() as u64);
        let ground = Arc::new(Ground { clock, base, within_max_ms });
        let pulse = || Pulse { due_ms: Arc::default(), ground: ground.clone() };
        Roster {
            at: Arc::new(Room::ALL.map(|_| pulse())),
            answers: Arc::new(Room::ALL.map(|_| pulse())),
            others: Arc::new([pulse(), pulse()]),
            generations: Arc::default(),
            up: Arc::default(),
        }
    }

    /// Where this room says what it is at.
    pub fn pulse(&self, room: Room) -> Pulse {
        self.at[room.ix()].clone()
    }

    /// Whether this room answers.
    pub fn answers(&self, room: Room) -> Pulse {
        self.answers[room.ix()].clone()
    }

    /// Where those say what they are at who build the rooms for the first time.
    pub fn start(&self) -> Pulse {
        self.others[Other::Start as usize].clone()
    }

    /// Where the supervisor says what it is at.
    pub fn supervisor(&self) -> Pulse {
        self.others[Other::Supervisor as usize].clone()
    }

    /// Which one sits in the room now, counted from 1.
    pub fn generation(&self, room: Room) -> u32 {
        self.generations[room.ix()].load(Ordering::Relaxed)
    }

    /// Another one sits in the room from now on.
    pub(super) fn next_generation(&self, room: Room) -> u32 {
        self.up[room.ix()].store(true, Ordering::Relaxed);
        self.generations[room.ix()].fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whoever sat there is gone.
    pub(super) fn is_gone(&self, room: Room) {
        self.up[room.ix()].store(false, Ordering::Relaxed);
    }

    /// Whether somebody sits in the room.
    pub fn is_up(&self, room: Room) -> bool {
        self.up[room.ix()].load(Ordering::Relaxed)
    }

    /// By how much a room is past its time at `now`, if it is.
    pub fn late(&self, room: Room, now: Instant) -> Option<Duration> {
        self.at[room.ix()].overdue(now).or_else(|| self.answers[room.ix()].overdue(now))
    }

    /// How often the room was built anew.
    pub fn restarts(&self, room: Room) -> u32 {
        self.generation(room).saturating_sub(1)
    }

    /// Somebody in a room who is past his time at `now`, and how: of several the one that the others wait for.
    pub fn stuck(&self, now: Instant) -> Option<(Room, String)> {
        Room::ALL.into_iter().filter(|room| self.is_up(*room)).find_map(|room| {
            let told = |what: &str, by: Duration| format!("{what}, {} s past its time", by.as_secs());
            let stuck = self.at[room.ix()].overdue(now).map(|by| told("no progress", by));
            let unheard = || self.answers[room.ix()].overdue(now).map(|by| told("no answer", by));
            stuck.or_else(unheard).map(|how| (room, how))
        })
    }

    /// Whether nothing is past its time at `now`, an empty room that should have been built anew included: what a
    /// watchdog is fed by.
    pub fn is_well(&self, now: Instant) -> bool {
        self.at.iter().chain(&*self.answers).chain(&*self.others).all(|pulse| pulse.overdue(now).is_none())
    }

    /// This time, or less where steps are waited for less.
    pub fn at_most(&self, within: Duration) -> Duration {
        within.min(Duration::from_millis(self.others[0].ground.within_max_ms))
    }

    /// Time has passed in which nobody could do anything, as in a process that was stopped.
    pub fn excuse(&self, lost: Duration) {
        self.at.iter().chain(&*self.answers).chain(&*self.others).for_each(|pulse| pulse.excuse(lost));
    }
}

impl Default for Roster {
    fn default() -> Self {
        Roster::new(Clock::system(), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;

    const S: Duration = Duration::from_secs(1);

    /// Rooms in which somebody sits.
    fn stage() -> (Clock, Roster) {
        let clock = Clock::simulated(Timestamp(0), 0);
        let roster = Roster::new(clock.clone(), None);
        Room::ALL.into_iter().for_each(|room| assert_eq!(roster.next_generation(room), 1));
        (clock, roster)
    }

    #[test]
    fn a_room_that_stays_empty_is_nobody_who_is_stuck_and_yet_not_well() {
        let (clock, roster) = stage();
        roster.is_gone(Room::Writer);
        roster.answers(Room::Writer).step(10 * S);
        clock.advance(11 * S);
        assert_eq!((roster.stuck(clock.monotonic()), roster.is_well(clock.monotonic())), (None, false));
    }

    #[test]
    fn who_makes_no_step_in_time_is_stuck_and_who_rests_never() {
        let (clock, roster) = stage();
        let pulse = roster.pulse(Room::Writer);
        pulse.step(10 * S);
        clock.advance(9 * S);
        assert!(roster.is_well(clock.monotonic()));
        pulse.step(10 * S);
        clock.advance(12 * S);
        let stuck = roster.stuck(clock.monotonic());
        assert_eq!(stuck, Some((Room::Writer, "no progress, 2 s past its time".to_owned())));
        assert!(!roster.is_well(clock.monotonic()));
        pulse.rest();
        clock.advance(1000 * S);
        assert!(roster.is_well(clock.monotonic()));
    }

    #[test]
    fn what_comes_on_top_of_work_under_way_does_not_put_its_end_off() {
        let (clock, roster) = stage();
        let pulse = roster.pulse(Room::Writer);
        for _ in 0..11 {
            pulse.begin(10 * S);
            clock.advance(S);
        }
        assert_eq!(roster.stuck(clock.monotonic()).map(|(room, _)| room), Some(Room::Writer));
    }

    #[test]
    fn who_does_not_answer_is_stuck_as_are_the_start_and_the_supervisor_for_the_watchdog() {
        let (clock, roster) = stage();
        roster.answers(Room::Healer).step(S);
        clock.advance(3 * S);
        let stuck = roster.stuck(clock.monotonic());
        assert_eq!(stuck, Some((Room::Healer, "no answer, 2 s past its time".to_owned())));
        for pulse in [roster.start(), roster.supervisor()] {
            roster.answers(Room::Healer).rest();
            pulse.step(S);
            assert!(roster.is_well(clock.monotonic()));
            clock.advance(2 * S);
            assert!(!roster.is_well(clock.monotonic()));
            pulse.rest();
        }
    }

    #[test]
    fn time_in_which_nobody_could_do_anything_does_not_count() {
        let (clock, roster) = stage();
        roster.pulse(Room::Stream).step(10 * S);
        clock.advance(3600 * S);
        roster.excuse(3599 * S);
        assert!(roster.is_well(clock.monotonic()));
        clock.advance(10 * S);
        assert!(!roster.is_well(clock.monotonic()));
        // Who rests goes on resting.
        roster.pulse(Room::Stream).rest();
        roster.excuse(S);
        assert!(roster.is_well(clock.monotonic()));
    }

    #[test]
    fn steps_can_be_waited_for_less() {
        let clock = Clock::simulated(Timestamp(0), 0);
        let roster = Roster::new(clock.clone(), Some(2 * S));
        roster.pulse(Room::Session).step(1000 * S);
        clock.advance(3 * S);
        assert!(!roster.is_well(clock.monotonic()));
    }
}
