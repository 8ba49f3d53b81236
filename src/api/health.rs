//! What the rooms tell of themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::clock::Clock;

/// How often the actors' thread shows that it goes on.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// Without a beat for so long it is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(15);

/// How a room does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomState {
    /// It makes progress, or there is nothing for it to do.
    Running,
    /// It is being built anew.
    Restarting,
    /// It has something to do and does not do it.
    Stuck,
}

impl RoomState {
    /// As programs read it.
    pub const fn as_str(self) -> &'static str {
        match self {
            RoomState::Running => "running",
            RoomState::Restarting => "restarting",
            RoomState::Stuck => "stuck",
        }
    }
}

/// What is known of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Its name.
    pub name: &'static str,
    /// How it does.
    pub state: RoomState,
    /// How long ago it last showed that it goes on.
    pub seen: Duration,
    /// How often it was built anew since the process began.
    pub restarts: u64,
}

/// What is known of all rooms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthReport {
    /// Each of them.
    pub rooms: Vec<Room>,
}

impl HealthReport {
    /// Whether none is stuck. One that is being built anew is looked after.
    pub fn is_well(&self) -> bool {
        self.rooms.iter().all(|room| room.state != RoomState::Stuck)
    }
}

/// Who knows how the rooms do. Asked from the thread that serves HTTP, so it must not wait for anything.
pub trait Health: Send + Sync {
    /// How they do now.
    fn report(&self) -> HealthReport;
}

/// Knows of the thread that all actors share: whether it goes on.
#[derive(Debug)]
pub struct Pulse {
    clock: Clock,
    began: Instant,
    /// Of the last beat, since it began.
    beat_ms: AtomicU64,
}

impl Pulse {
    /// Beats on the thread that calls, as long as anybody has the pulse.
    pub fn start(clock: Clock) -> Arc<Pulse> {
        let pulse = Arc::new(Pulse::new(clock));
        let beating = Arc::downgrade(&pulse);
        actix_rt::spawn(async move {
            while let Some(pulse) = beating.upgrade() {
                pulse.beat();
                drop(pulse);
                actix_rt::time::sleep(BEAT_EVERY).await;
            }
        });
        pulse
    }

    fn new(clock: Clock) -> Pulse {
        let began = clock.monotonic();
        Pulse { clock, began, beat_ms: AtomicU64::new(0) }
    }

    fn since_began(&self) -> Duration {
        self.clock.monotonic().saturating_duration_since(self.began)
    }

    fn beat(&self) {
        self.beat_ms.store(self.since_began().as_millis() as u64, Ordering::Relaxed);
    }
}

impl Health for Pulse {
    fn report(&self) -> HealthReport {
        let beat = Duration::from_millis(self.beat_ms.load(Ordering::Relaxed));
        let seen = self.since_began().saturating_sub(beat);
        let state = if seen < STUCK_AFTER { RoomState::Running } else { RoomState::Stuck };
        HealthReport { rooms: vec![Room { name: "actors", state, seen, restarts: 0 }] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;

    #[test]
    fn a_thread_that_does_not_beat_is_stuck() {
        let clock = Clock::simulated(Timestamp(1_705_485_600), 0);
        let pulse = Pulse::new(clock.clone());
        let check = |expected| assert_eq!(pulse.report().is_well(), expected, "{:?}", pulse.report());
        clock.advance(STUCK_AFTER / 2);
        check(true);
        clock.advance(STUCK_AFTER);
        check(false);
        pulse.beat();
        check(true);
    }

    #[test]
    fn a_room_that_is_being_built_anew_is_looked_after() {
        let room = |state| Room { name: "writer", state, seen: Duration::ZERO, restarts: 1 };
        assert!(HealthReport { rooms: vec![room(RoomState::Restarting)] }.is_well());
        assert!(!HealthReport { rooms: vec![room(RoomState::Running), room(RoomState::Stuck)] }.is_well());
    }
}
