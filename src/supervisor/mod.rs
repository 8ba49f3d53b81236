//! Who notices that a room has died, hangs, or blocks its thread, and what then.
//!
//! Every actor holds a [`Lifeline`]; dropping it, after a panic too, raises an alert. What each is at it
//! tells on its [`Pulse`], so that one that makes no progress is found. [`care`] decides what is built
//! anew, with whom and when; [`keeper`] does it; [`topology`] knows how each room is built, [`groundwork`]
//! what has to be learnt before, and [`house`] how the process begins and ends. Rooms reach each other over
//! [`Line`]s, which lead to whoever sits there now. What cannot be mended so ends the process, for systemd
//! to start it anew from what is durable; [`watchdog`] sees to that where the thread of the rooms itself is
//! blocked, and [`notify`] tells systemd how things stand.

pub mod care;
pub mod chronicle;
pub mod groundwork;
pub mod house;
pub mod keeper;
mod lifeline;
mod line;
pub mod notify;
mod pulse;
pub mod room;
pub mod tenure;
pub mod topology;
pub mod watchdog;

pub use lifeline::{Alarm, Alert, Lifeline};
pub use line::Line;
pub use pulse::{Pulse, Roster};
pub use room::Room;
pub(crate) use room::watched_over;
