//! What the rooms tell of themselves.

use std::time::{Duration, Instant};

use crate::supervisor::Room;
use crate::supervisor::house::Signs;

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
pub struct RoomReport {
    /// Its name.
    pub name: &'static str,
    /// How it does.
    pub state: RoomState,
    /// By how much it is past its time; nothing where it is not.
    pub late: Duration,
    /// How often it was built anew since the process began.
    pub restarts: u32,
}

/// What is known of all rooms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthReport {
    /// Each of them.
    pub rooms: Vec<RoomReport>,
    /// They do not all stand yet.
    pub is_starting: bool,
    /// By how much the start is past its time, if it is.
    pub start_late: Option<Duration>,
    /// What the process is at, or waits for.
    pub at: String,
}

impl HealthReport {
    /// Whether nothing is stuck. One that is being built anew is looked after.
    pub fn is_well(&self) -> bool {
        self.stuck().next().is_none()
    }

    /// What is stuck.
    pub fn stuck(&self) -> impl Iterator<Item = &'static str> {
        let rooms = self.rooms.iter().filter(|room| room.state == RoomState::Stuck).map(|room| room.name);
        self.start_late.map(|_| "start").into_iter().chain(rooms)
    }

    /// How those of the rooms do that were ever built, at `now`; and whether the supervisor looks after them.
    /// Waits for nothing, and may be asked from any thread.
    pub fn of(Signs { roster, standing, .. }: &Signs, now: Instant) -> HealthReport {
        let built = Room::ALL.into_iter().filter(|room| roster.generation(*room) > 0);
        let rooms = built.map(|room| {
            let late = roster.late(room, now);
            let state = match late {
                _ if !roster.is_up(room) => RoomState::Restarting,
                None => RoomState::Running,
                Some(_) => RoomState::Stuck,
            };
            let (name, restarts) = (room.name(), roster.restarts(room));
            RoomReport { name, state, late: late.unwrap_or_default(), restarts }
        });
        let late = roster.supervisor().overdue(now);
        let state = if late.is_some() { RoomState::Stuck } else { RoomState::Running };
        let supervisor =
            RoomReport { name: "supervisor", state, late: late.unwrap_or_default(), restarts: 0 };
        HealthReport {
            rooms: rooms.chain([supervisor]).collect(),
            is_starting: standing.is_starting(),
            start_late: roster.start().overdue(now),
            at: standing.told(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::domain::Timestamp;
    use crate::supervisor::{Alarm, Lifeline};

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn each_room_that_was_built_runs_is_stuck_or_is_being_built_anew() {
        let clock = Clock::simulated(Timestamp(1_705_485_600), 0);
        let (alarm, _alerts) = Alarm::new();
        let signs = Signs::new(&clock, None);
        let roster = signs.roster.clone();
        let told = || {
            let report = HealthReport::of(&signs, clock.monotonic());
            let rooms = report.rooms.iter().map(|room| format!("{} {}", room.name, room.state.as_str()));
            (report.is_well(), rooms.collect::<Vec<_>>().join(", "))
        };
        assert_eq!(told(), (true, "supervisor running".to_owned()));
        let writer = Lifeline::begin(&roster, Room::Writer, &alarm);
        let healer = Lifeline::begin(&roster, Room::Healer, &alarm);
        writer.pulse().step(S);
        assert_eq!(told(), (true, "writer running, healer running, supervisor running".to_owned()));
        clock.advance(2 * S);
        drop(healer);
        assert_eq!(told(), (false, "writer stuck, healer restarting, supervisor running".to_owned()));
        writer.pulse().rest();
        assert_eq!(told(), (true, "writer running, healer restarting, supervisor running".to_owned()));
        let _healer = Lifeline::begin(&roster, Room::Healer, &alarm);
        let report = HealthReport::of(&signs, clock.monotonic());
        assert_eq!(report.rooms.iter().map(|room| room.restarts).collect::<Vec<_>>(), [0, 1, 0]);
        // A thread that is blocked blocks the supervisor too.
        roster.supervisor().step(S);
        clock.advance(2 * S);
        assert_eq!(told(), (false, "writer running, healer running, supervisor stuck".to_owned()));
    }

    #[test]
    fn a_start_tells_what_it_waits_for_and_may_be_stuck() {
        let clock = Clock::simulated(Timestamp(1_705_485_600), 0);
        let signs = Signs::new(&clock, None);
        let told = || {
            let report = HealthReport::of(&signs, clock.monotonic());
            (report.is_starting, report.stuck().collect::<Vec<_>>(), report.at)
        };
        assert_eq!(told(), (true, vec![], String::new()));
        signs.standing.starts("logging in", S);
        assert_eq!(told(), (true, vec![], "logging in".to_owned()));
        clock.advance(2 * S);
        assert_eq!(told(), (true, vec!["start"], "logging in".to_owned()));
        signs.standing.waits("waiting for IG", S);
        assert_eq!(told(), (true, vec![], "waiting for IG".to_owned()));
        signs.standing.has_started();
        clock.advance(100 * S);
        assert_eq!(told(), (false, vec![], "waiting for IG".to_owned()));
    }
}
