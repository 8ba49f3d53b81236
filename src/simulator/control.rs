//! What can be made to go wrong while the simulator runs.

use std::sync::{Arc, Mutex};

use super::Shared;
use super::clock::monotonic;
use super::door::Door;
use super::outbox::{Frame, FrameKind};
use crate::domain::Timestamp;

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// With a TCP reset.
    Reset,
    /// Without a word: FIN, and no close frame.
    Drop,
    /// With a close frame of this code, after what was written before; over HTTP the response
    /// ends.
    Close(u16),
}

/// Something on a stream that no client can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rubbish {
    /// A line with an unknown tag, in three frames.
    Line,
    /// A binary message.
    Binary,
    /// A text message that is not UTF-8.
    NotUtf8,
}

impl Rubbish {
    fn frames(self) -> Vec<Frame> {
        let frame = |kind, is_last, bytes: &[u8]| Frame { kind, is_last, bytes: bytes.to_vec() };
        match self {
            Rubbish::Line => vec![
                frame(FrameKind::Text, false, b"NON"),
                frame(FrameKind::Continuation, false, b"SENSE,1\r"),
                frame(FrameKind::Continuation, true, b"\n"),
            ],
            Rubbish::Binary => vec![frame(FrameKind::Binary, true, b"\x00\x01")],
            Rubbish::NotUtf8 => vec![frame(FrameKind::Text, true, b"PROBE\xff\r\n")],
        }
    }
}

/// One of the simulator's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// Where REST is, and the stream's sessions are created.
    First,
    /// The second one, where there is one.
    Second,
}

/// Whether new streams are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusing {
    Never,
    /// Until told otherwise.
    Always,
    /// Until virtual time reaches this.
    Until(Timestamp),
}

/// What is answered instead of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This HTTP status.
    Status(u16),
    /// A page of HTML with status 200, as from a proxy that wants something from its user.
    Page,
}

/// Requests of one kind that are to be refused.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<Option<(Refusal, u32)>>);

impl Refusals {
    /// Refuses the next so many; none from now on, where nothing is given.
    pub fn set(&self, refusals: Option<(Refusal, u32)>) {
        *self.0.lock().expect("nothing panics while holding this") = refusals;
    }

    /// What to answer to this one.
    pub fn next(&self) -> Option<Refusal> {
        let mut refusals = self.0.lock().expect("nothing panics while holding this");
        let (refusal, left) = (*refusals)?;
        *refusals = left.checked_sub(1).filter(|left| *left > 0).map(|left| (refusal, left));
        Some(refusal)
    }
}

/// A time without streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outage {
    pub at: Timestamp,
    pub until: Timestamp,
}

/// A hand on the running simulator. Cheap to clone, usable from any thread.
#[derive(Clone, Debug)]
pub struct Control {
    shared: Arc<Shared>,
}

impl Control {
    pub(crate) fn new(shared: Arc<Shared>) -> Control {
        Control { shared }
    }

    /// Drops every stream's socket without a word and forgets the Lightstreamer sessions.
    pub fn cut_streams(&self) {
        self.shared.cut(Cut::Drop, true);
    }

    /// Ends every stream's connection. The Lightstreamer sessions live on and can be bound again.
    pub fn cut_connections(&self, how: Cut) {
        self.shared.cut(how, false);
    }

    /// Every stream falls silent, both ways, while its socket stays open. The Lightstreamer
    /// sessions live on and can be bound again.
    pub fn half_open(&self) {
        self.shared.feed().half_open(monotonic());
        self.shared.wake.notify_one();
    }

    /// Sends `LOOP,<delay>` to every bound session, which is unbound then. WebSockets stay open.
    pub fn rebind_sessions(&self, delay_ms: u64) {
        self.shared.feed().rebind_all(delay_ms, monotonic());
        self.shared.wake.notify_one();
    }

    /// Ends every session with `END,<code>,<text>`. WebSockets stay open.
    pub fn end_sessions(&self, code: i32, text: &str) {
        self.shared.feed().end_all(code, text);
        self.shared.wake.notify_one();
    }

    /// Answers the next so many `create_session` with `CONERR,<code>,<text>`.
    pub fn refuse_creates(&self, times: u32, code: i32, text: &str) {
        self.shared.feed().refuse_creates(times, code, text);
    }

    /// Answers the next so many `bind_session` with `CONERR,<code>,<text>`. The session they name
    /// is forgotten.
    pub fn refuse_binds(&self, times: u32, code: i32, text: &str) {
        self.shared.feed().refuse_binds(times, code, text);
    }

    /// Lets the next recovery begin so many data lines before the one that it asks for: what was
    /// sent is sent again.
    pub fn resend_at_next_recovery(&self, lines: u64) {
        self.shared.feed().resend_at_next_recovery(lines);
    }

    /// What `CONOK` gives as control link from now on; `None` = `*`.
    pub fn set_control_link(&self, link: Option<String>) {
        self.shared.feed().set_control_link(link);
    }

    /// Sends rubbish on every connection, between what else is sent.
    pub fn send_rubbish(&self, rubbish: Rubbish) {
        for outbox in self.shared.feed().outboxes() {
            outbox.push_frames(rubbish.frames());
        }
    }

    /// Opens an address or shuts it, soon: [`Control::is_open`] tells when it is done. Shut, it
    /// refuses connections and has dropped those that came through it.
    pub fn set_open(&self, address: Address, open: bool) {
        if let Some(door) = self.door(address) {
            door.set_open(open);
        }
    }

    /// Whether an address accepts connections.
    pub fn is_open(&self, address: Address) -> bool {
        self.door(address).is_some_and(|door| door.is_open())
    }

    fn door(&self, address: Address) -> Option<&Arc<Door>> {
        self.shared.doors().get(address as usize)
    }

    /// Refuses WebSockets, while streams over HTTP are accepted; `None` accepts them again.
    pub fn refuse_upgrades(&self, refusal: Option<Refusal>) {
        self.shared.upgrades.set(refusal.map(|refusal| (refusal, u32::MAX)));
    }

    /// Refuses streams over HTTP, while WebSockets are accepted; `None` accepts them again.
    pub fn refuse_http_streams(&self, refusal: Option<Refusal>) {
        self.shared.http_streams.set(refusal.map(|refusal| (refusal, u32::MAX)));
    }

    /// Refuses new streams with HTTP 503, or accepts them again.
    pub fn refuse_streams(&self, refuse: bool) {
        self.shared.set_refusing(if refuse { Refusing::Always } else { Refusing::Never });
    }

    /// Refuses new streams until virtual time reaches `until`. At [`Speed::Max`] time, which
    /// otherwise waits for subscribers, goes there at once: the outage costs exactly its bars.
    ///
    /// [`Speed::Max`]: super::Speed::Max
    pub fn refuse_streams_until(&self, until: Timestamp) {
        self.shared.set_refusing(Refusing::Until(until));
        self.shared.wake.notify_one();
    }

    /// Cuts every stream when virtual time reaches `at`, and refuses new ones until it reaches
    /// `until`. A later call replaces an outage that has not begun.
    pub fn schedule_outage(&self, at: Timestamp, until: Timestamp) {
        self.shared.schedule_outage(Some(Outage { at, until }));
        self.shared.wake.notify_one();
    }

    /// Invalidates every token, as weekend maintenance does. Open streams go on.
    pub fn wipe_tokens(&self) {
        self.shared.desk().wipe_tokens();
    }
}
