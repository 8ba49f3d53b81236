//! How a room shows that it lives, and that it has ended.

use std::thread;

use tokio::sync::mpsc;

use super::pulse::{Pulse, Roster};
use super::room::Room;
use crate::exit::Exit;

/// Something that the supervisor must react to.
#[derive(Debug)]
pub enum Alert {
    /// A room is gone.
    Died {
        /// Which.
        room: Room,
        /// Which of those that sat there, counted from 1.
        generation: u32,
    },
    /// A room asks for the process to end.
    Exit {
        /// With this code.
        code: Exit,
        /// And this reason, on one line.
        why: String,
    },
}

/// Where alerts are raised.
#[derive(Clone, Debug)]
pub struct Alarm(mpsc::UnboundedSender<Alert>);

impl Alarm {
    /// An alarm and where its alerts arrive. Alerts are few: at most one a room built, and requests
    /// to exit.
    pub fn new() -> (Alarm, mpsc::UnboundedReceiver<Alert>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Alarm(sender), receiver)
    }

    /// Asks for the process to end.
    pub fn exit(&self, code: Exit, why: impl Into<String>) {
        // Nobody listens any more only when the process is ending.
        let _ = self.0.send(Alert::Exit { code, why: why.into() });
    }

    /// Runs something that the house cannot do without and that is no room: if it panics, the process
    /// ends.
    pub async fn vital<F: Future>(&self, what: &'static str, future: F) -> F::Output {
        let alarm = self.clone();
        let _tells = OnPanic(Some(move || alarm.exit(Exit::Failed, format!("{what} has panicked"))));
        future.await
    }

    fn raise(&self, alert: Alert) {
        let _ = self.0.send(alert);
    }
}

/// What an actor holds for as long as it lives: says "I am gone" when dropped, after a panic too.
#[derive(Debug)]
pub struct Lifeline {
    room: Room,
    generation: u32,
    alarm: Alarm,
    pulse: Pulse,
    roster: Roster,
}

impl Lifeline {
    /// The lifeline of who sits in this room next.
    pub fn begin(roster: &Roster, room: Room, alarm: &Alarm) -> Lifeline {
        let generation = roster.next_generation(room);
        let (pulse, roster) = (roster.pulse(room), roster.clone());
        Lifeline { room, generation, alarm: alarm.clone(), pulse, roster }
    }

    /// Of a room that stands alone.
    pub fn alone(room: Room, alarm: &Alarm) -> Lifeline {
        Lifeline::begin(&Roster::default(), room, alarm)
    }

    /// Where the room says what it is at.
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Where the room asks for the process to end.
    pub fn alarm(&self) -> &Alarm {
        &self.alarm
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        self.pulse.rest();
        self.roster.is_gone(self.room);
        self.alarm.raise(Alert::Died { room: self.room, generation: self.generation });
    }
}

/// Does something if it is dropped because of a panic.
struct OnPanic<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for OnPanic<F> {
    fn drop(&mut self) {
        if thread::panicking()
            && let Some(tell) = self.0.take()
        {
            tell();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix::test]
    async fn a_vital_task_that_panics_is_told_of_and_one_that_ends_is_not() {
        let (alarm, mut alerts) = Alarm::new();
        let lifeline = Lifeline::alone(Room::Healer, &alarm);
        alarm.vital("the lease", async {}).await;
        assert!(alerts.try_recv().is_err());
        let vital = alarm.clone();
        let panics = async move { vital.vital("the lease", async { panic!("for the test") }).await };
        let ended: Result<(), _> = actix_rt::spawn(panics).await;
        assert!(ended.is_err());
        assert!(matches!(alerts.try_recv(), Ok(Alert::Exit { why, .. }) if why == "the lease has panicked"));
        drop(lifeline);
        assert!(matches!(alerts.try_recv(), Ok(Alert::Died { room: Room::Healer, generation: 1 })));
    }
}
