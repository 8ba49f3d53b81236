//! The rooms that are watched over, and what each one's end means for the others.

use actix::prelude::*;

/// An actor of the house.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Room {
    /// The one login.
    Session,
    /// Makes findings durable.
    Writer,
    /// Settles candles.
    Aggregator,
    /// The connection to Lightstreamer.
    Stream,
    /// Bars over REST.
    History,
    /// Plans what is fetched.
    Healer,
    /// Deletes what is old.
    Retention,
}

impl Room {
    /// All of them, in the order in which they are built: downstream first.
    pub const ALL: [Room; 7] = [
        Room::Session,
        Room::Writer,
        Room::Aggregator,
        Room::Stream,
        Room::History,
        Room::Healer,
        Room::Retention,
    ];

    /// Its name in logs, metrics and `status`.
    pub const fn name(self) -> &'static str {
        match self {
            Room::Session => "session",
            Room::Writer => "writer",
            Room::Aggregator => "aggregator",
            Room::Stream => "stream",
            Room::History => "history",
            Room::Healer => "healer",
            Room::Retention => "retention",
        }
    }

    /// Its place in [`Room::ALL`].
    pub const fn ix(self) -> usize {
        self as usize
    }

    /// The rooms upstream of it that are built anew along with it, because what they know rests on what
    /// has died: an aggregator that begins anew has to be told from the beginning of a streaming
    /// session. A writer takes nobody along: what it held is with the aggregator's outbox.
    pub const fn takes_along(self) -> &'static [Room] {
        match self {
            Room::Aggregator => &[Room::Stream],
            _ => &[],
        }
    }

    /// The rooms that have to stand before it is built.
    pub const fn rests_on(self) -> &'static [Room] {
        match self {
            Room::Stream => &[Room::Aggregator],
            _ => &[],
        }
    }
}

/// Supervisor → any room: answer, to show that messages are still dealt with.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Ping;

/// Supervisor → any room: end at once; a successor is built.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Retire;

/// Lets the supervisor ask an actor whether it lives, and end it.
macro_rules! watched_over {
    ($actor:ty) => {
        impl actix::Handler<$crate::supervisor::room::Ping> for $actor {
            type Result = ();

            fn handle(&mut self, _: $crate::supervisor::room::Ping, _: &mut Self::Context) {}
        }

        impl actix::Handler<$crate::supervisor::room::Retire> for $actor {
            type Result = ();

            fn handle(&mut self, _: $crate::supervisor::room::Retire, ctx: &mut Self::Context) {
                actix::ActorContext::terminate(ctx);
            }
        }
    };
}

pub(crate) use watched_over;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_room_is_at_its_place_and_rests_on_those_built_before() {
        for (ix, room) in Room::ALL.into_iter().enumerate() {
            assert_eq!(room.ix(), ix, "{room:?}");
            assert!(room.rests_on().iter().all(|below| below.ix() < ix), "{room:?}");
            // Who falls with a room is built after it, and waits for it.
            assert!(room.takes_along().iter().all(|up| up.rests_on().contains(&room)), "{room:?}");
        }
    }
}
