//! Who notices that a room has died, and what then.
//!
//! Every actor holds a [`Lifeline`]; dropping it, after a panic too, raises an alert. At this
//! stage an alert ends the process with a failure, so that systemd starts it anew from what is
//! durable.

pub mod tenure;
pub mod topology;

use tokio::sync::mpsc;

use crate::exit::Exit;

/// Something that the process must react to.
#[derive(Debug)]
pub enum Alert {
    /// An actor is gone without having been asked.
    Died(&'static str),
    /// An actor asks for the process to end.
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
    /// An alarm and where its alerts arrive. Alerts are few: at most one an actor, and requests
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

    /// A lifeline for the actor of this name.
    pub fn lifeline(&self, actor: &'static str) -> Lifeline {
        Lifeline { actor, alarm: self.clone() }
    }
}

/// Says "I am gone" when dropped.
#[derive(Debug)]
pub struct Lifeline {
    actor: &'static str,
    alarm: Alarm,
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        let _ = self.alarm.0.send(Alert::Died(self.actor));
    }
}
