//! [`TlcpSession`]: one Lightstreamer session, without its connections.
//!
//! The shell brings the connection that the session wants ([`TlcpSession::wanted`]), tells it what
//! happened and when (`handle_*`), sends what it wants sent ([`TlcpSession::poll_transmit`]) and
//! calls back when time is up ([`TlcpSession::next_timeout`]).
//!
//! ```text
//!              CONOK                    LOOP, broken connection
//! Opening ───────────────▶ Bound ──────────────────────────────▶ Unbound
//!  (create)                  ▲                                      │ handle_connecting
//!                            └──────── CONOK ──── Opening ◀─────────┘
//!                                              (bind, recover)
//! ```
//!
//! A session outlives its connections: after a `LOOP` it is bound again, after a break it is
//! recovered, and data notifications that come twice are skipped. Only when the server cannot go
//! on exactly where it stopped is the session over ([`Event::Ended`]) and continuity lost.
//!
//! Every data notification is counted, whatever becomes of it, and an update is applied whole or
//! not at all. An item whose update cannot be read is subscribed anew; the others go on. Where that
//! does not help the session ends, but only once for the same item: see
//! [`TlcpSession::subscribe_on_probation`].

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use super::Transport;
use super::code::{self, Verdict};
use super::event::{
    Corruption, EndCause, Event, FaultReason, Lost, Options, SkipReason, SubId, SubscriptionSpec,
};
use super::lines::{self, Excerpt, Line, LineBuffer};
use super::notification::{self, LineFault, Notification, NotificationError, UpdateLine};
use super::recovery::DataCount;
use super::request::{self, Control, ControlBatch, Credentials, Streaming, Transmit};
use super::update::{self, Change};

/// How long an `add` may stay without any answer before it is made again, and then given up. A
/// `delete` is asked for once more after this time.
pub const ADD_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Two faults of one item within this time end the session.
pub const FAULT_WINDOW: Duration = Duration::from_secs(60);
/// Subscriptions held at a time. Far above any broker's limit.
pub const SUBSCRIPTIONS_MAX: usize = 1000;
/// Subscriptions remembered while the server has not yet confirmed their end.
pub const LEAVING_MAX: usize = SUBSCRIPTIONS_MAX;
/// Unknown subscriptions that are remembered and deleted; lines of any more are only counted.
pub const STRAYS_MAX: usize = 64;
/// No keepalive from the server is taken to be longer than this.
pub const KEEPALIVE_MAX: Duration = Duration::from_secs(3600);
/// No `LOOP` is waited for longer than this: the server would have discarded the session.
pub const LOOP_DELAY_MAX: Duration = Duration::from_secs(30);
/// The code official clients report when `SUBOK`, or the values of an update, do not fit the request.
pub const MISMATCH_CODE: i32 = 61;

/// One Lightstreamer session. See the [module](self) for how to drive it.
pub struct TlcpSession {
    options: Options,
    credentials: Credentials,
    phase: Phase,
    /// What carries the session, or will carry its next connection.
    transport: Transport,
    /// What begins the connection and is not sent yet.
    handshake: VecDeque<Outgoing>,
    /// Set while the session is without a sound connection.
    recovery: Option<Recovery>,
    /// When a WebSocket may be tried again, for a session that came down to HTTP.
    websocket_at: Option<Instant>,
    /// A new bind was asked for, to be made over a WebSocket.
    websocket_wanted: bool,
    /// When the present connection was bound.
    bound_at: Option<Instant>,
    /// Data notifications until then.
    count_at_bind: u64,
    /// Where connections of this session go, if the server has said so.
    control_link: Option<String>,
    keepalive: Duration,
    /// The line under way on an HTTP stream.
    line_buffer: LineBuffer,
    /// What the last WebSocket message ended in.
    tail: Tail,
    random: fastrand::Rng,
    /// Wanted subscriptions, by growing id.
    subs: Vec<Sub>,
    /// Subscriptions that the server was told to delete and has not confirmed, oldest first.
    leaving: Vec<Leaving>,
    /// Ids that we do not know and had deleted.
    strays: Vec<SubId>,
    /// At most one entry per element of the three above, and the session's own few.
    outbox: VecDeque<Outgoing>,
    count: DataCount,
    skipped: u64,
    next_sub_id: u32,
    next_request_id: u64,
    session_id: String,
    request_limit_bytes: usize,
    /// Whether the server showed that WebSocket messages get through.
    wsok: bool,
    destroying: bool,
    /// Some `add` or `delete` has no deadline for its answer yet.
    answers_unarmed: bool,
    /// Earliest such deadline; may be that of an answered one.
    answer_deadline: Option<Instant>,
    heartbeat_at: Option<Instant>,
    /// Memory for the changes of one update.
    changes: Vec<Change<'static>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Wants a connection, not before this moment.
    Unbound {
        purpose: Purpose,
        not_before: Option<Instant>,
    },
    /// A connection is being made (`open`: is there), and `CONOK` awaited.
    Opening {
        purpose: Purpose,
        since: Instant,
        open: bool,
    },
    /// Silence longer than `limit` ends the connection.
    Bound {
        last_heard: Instant,
        limit: Duration,
    },
    Ended,
}

/// The end of a WebSocket message behind its last line end. It may be a line, or half of one, and
/// only what comes next tells.
#[derive(Debug)]
enum Tail {
    /// There was none.
    None,
    /// It was taken as a line at once.
    Taken,
    /// It is data, and neither told nor counted yet: half a row may look like a whole one. If the
    /// connection ends before anything follows, it is for the recovery to bring it again.
    Held(String),
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A new session.
    Create,
    /// To go on after a `LOOP`.
    Bind,
    /// To go on after a break.
    Recover,
}

/// The connection that a session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// What for.
    pub purpose: Purpose,
    /// Over what.
    pub transport: Transport,
    /// Not before this moment.
    pub not_before: Option<Instant>,
    /// Where to, in place of the configured address; see [`super::address`].
    pub control_link: Option<&'a str>,
}

/// An attempt to go on with a session whose connection broke.
#[derive(Clone, Debug)]
struct Recovery {
    since: Instant,
    /// What broke the connection.
    first: EndCause,
}

#[derive(Debug)]
struct Sub {
    id: SubId,
    /// What the caller knows it by, across changes of `id`.
    handle: SubId,
    spec: SubscriptionSpec,
    /// As in `spec` until the server refused it.
    unfiltered: bool,
    /// Whether the first `add` was never answered.
    asked_twice: bool,
    /// Its faults turn it off and do not end the session.
    on_probation: bool,
    last_fault: Option<Instant>,
    life: Life,
}

#[derive(Debug)]
enum Life {
    /// Waits for the session.
    Waiting,
    /// Asked for.
    Added { request_id: u64, answer_by: Option<Instant> },
    /// Confirmed; for each item whether an update came.
    Active { seen: Vec<bool> },
}

#[derive(Debug)]
struct Leaving {
    id: SubId,
    request_id: u64,
    /// Whom to tell, if the caller asked for it.
    tag: Option<u16>,
    /// Whether the first `delete` on this connection was never answered.
    asked_twice: bool,
    answer_by: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outgoing {
    Wsok,
    CreateSession,
    BindSession { recover: bool },
    Heartbeat,
    ForceRebind { request_id: u64 },
    Add { id: SubId, request_id: u64 },
    Delete { id: SubId, request_id: u64 },
    Destroy { request_id: u64 },
}

/// Where events go.
type OnEvent<'f> = &'f mut dyn FnMut(Event<'_>);

impl TlcpSession {
    /// Makes a session that waits for its first connection.
    pub fn new(options: Options, user: String, password: String) -> TlcpSession {
        TlcpSession {
            next_request_id: options.first_request_id,
            phase: Phase::Unbound { purpose: Purpose::Create, not_before: None },
            transport: options.transport,
            random: fastrand::Rng::with_seed(options.seed),
            options,
            credentials: Credentials::new(user, password),
            handshake: VecDeque::new(),
            recovery: None,
            websocket_at: None,
            websocket_wanted: false,
            bound_at: None,
            count_at_bind: 0,
            control_link: None,
            keepalive: Duration::ZERO,
            line_buffer: LineBuffer::default(),
            tail: Tail::None,
            subs: Vec::new(),
            leaving: Vec::new(),
            strays: Vec::new(),
            outbox: VecDeque::new(),
            count: DataCount::default(),
            skipped: 0,
            next_sub_id: 1,
            session_id: String::new(),
            request_limit_bytes: 0,
            wsok: false,
            destroying: false,
            answers_unarmed: false,
            answer_deadline: None,
            heartbeat_at: None,
            changes: Vec::new(),
        }
    }

    // What the caller wants.

    /// Asks for a subscription, to be sent as soon as the session is made. The id stays good for
    /// [`TlcpSession::unsubscribe`] however often the subscription is made again on the wire. One
    /// whose tag is held already is not made twice.
    ///
    /// # Panics
    /// If the schema has no fields, or [`SUBSCRIPTIONS_MAX`] subscriptions are held already.
    pub fn subscribe(&mut self, spec: SubscriptionSpec) -> SubId {
        self.hold(spec, false)
    }

    /// As [`TlcpSession::subscribe`], for one whose faults have ended a session before: more of
    /// them turn it off ([`Event::Refused`] with [`Verdict::Faulty`]), and this session goes on.
    ///
    /// # Panics
    /// As [`TlcpSession::subscribe`].
    pub fn subscribe_on_probation(&mut self, spec: SubscriptionSpec) -> SubId {
        self.hold(spec, true)
    }

    fn hold(&mut self, spec: SubscriptionSpec, on_probation: bool) -> SubId {
        assert!(spec.fields > 0, "a schema has fields");
        if let Some(held) = self.subs.iter().find(|held| held.spec.tag == spec.tag) {
            return held.handle;
        }
        assert!(self.subs.len() < SUBSCRIPTIONS_MAX, "more subscriptions than any broker allows");
        let id = self.take_sub_id();
        self.subs.push(Sub {
            id,
            handle: id,
            unfiltered: spec.unfiltered,
            spec,
            asked_twice: false,
            on_probation,
            last_fault: None,
            life: Life::Waiting,
        });
        self.add_last();
        id
    }

    /// Whether a subscription with this tag is held, on the wire or waiting for it.
    pub fn holds(&self, tag: u16) -> bool {
        self.subs.iter().any(|sub| sub.spec.tag == tag)
    }

    /// Drops a subscription. [`Event::Unsubscribed`] follows once the server confirms, except for
    /// one that it never heard of. Unknown ids are ignored.
    pub fn unsubscribe(&mut self, sub: SubId) {
        if let Some(at) = self.subs.iter().position(|held| held.handle == sub) {
            let sub = self.subs.remove(at);
            self.leave(&sub, Some(sub.spec.tag));
        }
    }

    /// Subscribes anew, with a fresh first update: the cure for an item that fell silent. Returns
    /// whether there was a subscription with this tag.
    pub fn resubscribe(&mut self, now: Instant, tag: u16) -> bool {
        let Some(at) = self.subs.iter().position(|held| held.spec.tag == tag) else { return false };
        self.add_again(at);
        self.arm_answers(now);
        true
    }

    /// Asks the server to end the session, if there is a connection for it. [`EndCause::Destroyed`]
    /// follows with whatever ends the connection, or with the next timeout where there is none;
    /// there is no need to wait for it.
    pub fn destroy(&mut self) {
        if self.destroying || self.phase == Phase::Ended {
            return;
        }
        self.destroying = true;
        self.outbox.clear();
        let request_id = self.take_request_id();
        self.outbox.push_back(Outgoing::Destroy { request_id });
    }

    // What happened.

    /// Takes note that the wanted connection is being made from now on.
    pub fn handle_connecting(&mut self, now: Instant) {
        let Phase::Unbound { purpose, .. } = self.phase else { return };
        if self.destroying {
            return;
        }
        self.phase = Phase::Opening { purpose, since: now, open: false };
        self.wsok = false;
        self.line_buffer = LineBuffer::default();
        self.tail = Tail::None;
        self.handshake.clear();
        if self.transport == Transport::WebSocket && self.options.version.has_wsok() {
            self.handshake.push_back(Outgoing::Wsok);
        }
        self.handshake.push_back(match purpose {
            Purpose::Create => Outgoing::CreateSession,
            Purpose::Bind => Outgoing::BindSession { recover: false },
            Purpose::Recover => Outgoing::BindSession { recover: true },
        });
    }

    /// Takes note that the wanted connection is there: a WebSocket is open, or requests can be
    /// posted. Only the first call counts.
    pub fn handle_open(&mut self, now: Instant) {
        self.handle_connecting(now);
        if let Phase::Opening { open, .. } = &mut self.phase {
            *open = true;
        }
    }

    /// Takes one whole WebSocket text message. A row at its end without a line end waits for the
    /// next message.
    pub fn handle_message(&mut self, now: Instant, message: &str, on_event: OnEvent<'_>) {
        if message.is_empty() {
            return;
        }
        let before = std::mem::replace(&mut self.tail, Tail::None);
        if self.is_bound() && !matches!(before, Tail::None) {
            if let Some(rest) = lines::rest_of_a_line(message) {
                // Half a line was obeyed, or held. What it would have been nobody knows.
                self.skip(LineFault::UnknownTag.into(), Excerpt::of(rest), on_event);
                return self.end(Corruption::SplitLine.into(), on_event);
            }
            if let Tail::Held(line) = before {
                self.handle_lines(now, &line, on_event);
            }
        }
        let (ended, tail) = lines::ended_lines(message);
        self.handle_lines(now, ended, on_event);
        if !tail.is_empty() {
            self.handle_tail(now, tail, on_event);
        }
        if self.answers_unarmed {
            self.arm_answers(now);
        }
    }

    #[inline]
    fn handle_lines(&mut self, now: Instant, lines: &str, on_event: OnEvent<'_>) {
        let mut changes: Vec<Change<'_>> = std::mem::take(&mut self.changes);
        let mut lines = lines::message_lines(lines);
        loop {
            lines.advance(self.handle_plain_updates(now, lines.rest(), on_event));
            let Some(line) = lines.next() else { break };
            if !self.handle_any_line(now, line, &mut changes, on_event) {
                break;
            }
        }
        self.changes = update::recycle(changes);
    }

    /// Takes the lines with which `lines` begins, as long as each is a new update of nothing but plain texts for an item
    /// that had one before: so nearly all are. Tells how many bytes they are. What it does not take is as if never looked at.
    #[inline]
    fn handle_plain_updates(&mut self, now: Instant, lines: &str, on_event: OnEvent<'_>) -> usize {
        let Phase::Bound { last_heard, .. } = &mut self.phase else { return 0 };
        let mut taken = 0;
        while let Some((sub_id, item, values_at)) = UpdateLine::parse_head(lines, taken)
            && let Some(Sub { spec, life: Life::Active { seen }, .. }) =
                find(&self.subs, sub_id).map(|at| &self.subs[at])
            && seen.get(usize::from(item).wrapping_sub(1)) == Some(&true)
            && let Some((changes, end)) = update::plain_at(lines, values_at, spec.fields)
            && let Some(next) = lines::line_end(lines, end)
            && self.count.take_new()
        {
            *last_heard = now;
            on_event(Event::Update { tag: spec.tag, item, first: false, changes: &changes });
            taken = next;
        }
        taken
    }

    #[cold]
    fn handle_tail(&mut self, now: Instant, tail: &str, on_event: OnEvent<'_>) {
        self.tail = Tail::Taken;
        match (&mut self.phase, lines::message_lines(tail).next()) {
            (Phase::Bound { last_heard, .. }, Some(Ok(line))) if notification::is_data(line.as_bytes()) => {
                *last_heard = now;
                self.tail = Tail::Held(line.to_owned());
            }
            _ => self.handle_lines(now, tail, on_event),
        }
    }

    /// Takes the next bytes of an HTTP stream, cut anywhere.
    pub fn handle_bytes(&mut self, now: Instant, bytes: &[u8], on_event: OnEvent<'_>) {
        let mut buffer = std::mem::take(&mut self.line_buffer);
        let mut goes_on = true;
        buffer.push(bytes, &mut |line| {
            if goes_on {
                let mut changes = update::recycle(std::mem::take(&mut self.changes));
                goes_on = self.handle_any_line(now, line, &mut changes, on_event);
                self.changes = update::recycle(changes);
            }
        });
        self.line_buffer = buffer;
        if self.line_buffer.is_endless() {
            // Whoever sends it can do so as fast as it is read. Another connection brings what it was, or ends the session.
            self.line_buffer = LineBuffer::default();
            return self.handle_closed(now, Lost::Closed, on_event);
        }
        if self.answers_unarmed {
            self.arm_answers(now);
        }
    }

    /// Takes the whole answer to a [`request::Post`] that did not open a stream. It proves nothing
    /// about the stream, so it does not count as a sign of life.
    pub fn handle_answer(&mut self, now: Instant, answer: &str, on_event: OnEvent<'_>) {
        for line in lines::message_lines(answer) {
            match line.map(Notification::parse) {
                _ if !self.is_live() => break,
                Ok(Ok(Notification::Reqok { .. })) => {}
                Ok(Ok(answer @ (Notification::Reqerr { .. } | Notification::Error { .. }))) => {
                    self.handle_notification(now, "", answer, on_event);
                }
                // What follows a REQOK may be filler; nothing else has business here.
                _ => {}
            }
        }
        if self.answers_unarmed {
            self.arm_answers(now);
        }
    }

    /// Takes note that the connection is gone, or could not be had.
    pub fn handle_closed(&mut self, now: Instant, lost: Lost, on_event: OnEvent<'_>) {
        match self.phase {
            // News of a connection that was given up already.
            Phase::Unbound { .. } | Phase::Ended => {}
            Phase::Opening { .. } | Phase::Bound { .. } => {
                self.interrupt(now, EndCause::Connection(lost), on_event);
            }
        }
    }

    /// Says that the connection was not read until `now`, for want of room: what is not read is
    /// not silence, and an answer may lie in it.
    pub fn excuse_silence(&mut self, now: Instant) {
        if let Phase::Bound { last_heard, .. } = &mut self.phase {
            *last_heard = now;
        }
        let later = now.checked_add(self.options.retry);
        self.answer_deadline =
            self.answer_deadline.and_then(|deadline| later.map(|later| deadline.max(later)));
    }

    /// Does what is due by `now`. Harmless when nothing is.
    pub fn handle_timeout(&mut self, now: Instant, on_event: OnEvent<'_>) {
        match self.phase {
            Phase::Opening { since, .. } if is_due(since.checked_add(self.options.retry), now) => {
                return self.interrupt(now, EndCause::ConnectTimeout { wsok: self.wsok }, on_event);
            }
            Phase::Bound { last_heard, limit } if is_due(last_heard.checked_add(limit), now) => {
                return self.interrupt(now, EndCause::Stalled { silence: limit }, on_event);
            }
            // There is no connection on which the server could be asked.
            Phase::Unbound { .. } if self.destroying => return self.end(EndCause::Destroyed, on_event),
            Phase::Unbound { .. } if is_due(self.recovery_ends(), now) => return self.give_up(on_event),
            Phase::Bound { .. } => {}
            Phase::Unbound { .. } | Phase::Opening { .. } | Phase::Ended => return,
        }
        if is_due(self.heartbeat_at, now) {
            if !self.outbox.contains(&Outgoing::Heartbeat) {
                self.outbox.push_back(Outgoing::Heartbeat);
            }
            self.arm_heartbeat(now);
        }
        if is_due(self.websocket_at, now) {
            self.websocket_at = now.checked_add(self.options.websocket_again);
            self.request_websocket();
        }
        if is_due(self.answer_deadline, now) {
            self.give_up_unanswered(now, on_event);
        }
        self.arm_answers(now);
    }

    /// Returns when [`TlcpSession::handle_timeout`] must be called, unless something else happens
    /// before; possibly a moment that is past already. To be asked again after every other call.
    pub fn next_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Ended => None,
            Phase::Unbound { not_before, .. } if self.destroying => not_before,
            Phase::Unbound { .. } => self.recovery_ends(),
            Phase::Opening { since, .. } => since.checked_add(self.options.retry),
            // At once: only then do we learn the time from which an answer is awaited.
            Phase::Bound { last_heard, .. } if self.answers_unarmed => Some(last_heard),
            Phase::Bound { last_heard, limit } => {
                [last_heard.checked_add(limit), self.heartbeat_at, self.answer_deadline, self.websocket_at]
                    .into_iter()
                    .flatten()
                    .min()
            }
        }
    }

    /// Returns the connection that the session waits for, if it waits for one. The one before is
    /// of no use any more.
    pub fn wanted(&self) -> Option<Wanted<'_>> {
        let Phase::Unbound { purpose, not_before } = self.phase else { return None };
        let wanted = Wanted {
            purpose,
            transport: self.transport,
            not_before,
            control_link: self.control_link.as_deref(),
        };
        (!self.destroying).then_some(wanted)
    }

    /// Returns the next thing to send. One of them holds the password, so none is for a log.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        if let Phase::Opening { open: true, .. } = self.phase
            && let Some(next) = self.handshake.pop_front()
        {
            return Some(self.handshake_request(next).transmit(self.on_wire()));
        }
        // A request without the session's id may follow right behind the one that makes it.
        let early = self.transport == Transport::WebSocket && self.options.version.has_wsok();
        match self.phase {
            Phase::Bound { .. } => {}
            Phase::Opening { open: true, .. } if self.destroying && early => {}
            _ => return None,
        }
        let mut batch: Option<ControlBatch> = None;
        while let Some(&next) = self.outbox.front() {
            let (control, request_id) = match (next, &batch) {
                (Outgoing::Heartbeat, Some(_)) => break,
                (Outgoing::Heartbeat, None) => {
                    self.outbox.pop_front();
                    return Some(request::heartbeat(self.on_wire()).transmit(self.on_wire()));
                }
                (Outgoing::Add { id, request_id }, _) => {
                    let at =
                        find(&self.subs, id).expect("an unsent add leaves the outbox with its subscription");
                    let Sub { spec, unfiltered, .. } = &self.subs[at];
                    let control = Control::Add {
                        sub_id: id,
                        group: &spec.group,
                        schema: &spec.schema,
                        snapshot: spec.snapshot,
                        unfiltered: *unfiltered,
                    };
                    (control, request_id)
                }
                (Outgoing::Delete { id, request_id }, _) => (Control::Delete { sub_id: id }, request_id),
                (Outgoing::ForceRebind { request_id }, _) => (Control::ForceRebind, request_id),
                (Outgoing::Destroy { request_id }, _) => (Control::Destroy, request_id),
                (Outgoing::Wsok | Outgoing::CreateSession | Outgoing::BindSession { .. }, _) => {
                    unreachable!("a connection begins with its handshake")
                }
            };
            let line = control.line(self.on_wire(), request_id);
            if !batch.get_or_insert_with(|| ControlBatch::new(self.request_limit_bytes)).push(&line) {
                break;
            }
            self.outbox.pop_front();
        }
        batch.map(|batch| batch.finish().transmit(self.on_wire()))
    }

    fn handshake_request(&self, next: Outgoing) -> request::Request {
        let options = &self.options;
        let streaming = Streaming {
            content_length: (self.transport == Transport::Http).then_some(options.content_length),
            // What the server chose once is asked for again.
            keepalive: options.keepalive.or((!self.keepalive.is_zero()).then_some(self.keepalive)),
            inactivity: options.promised_inactivity(),
            send_sync: options.send_sync,
        };
        match next {
            Outgoing::Wsok => request::wsok(),
            Outgoing::BindSession { recover } => {
                let from = recover.then(|| self.count.processed());
                request::bind_session(&self.session_id, from, streaming)
            }
            _ => {
                let adapter_set = options.adapter_set.as_deref();
                request::create_session(options.version, streaming, adapter_set, &self.credentials)
            }
        }
    }

    fn on_wire(&self) -> request::Session<'_> {
        request::Session { version: self.options.version, transport: self.transport, id: &self.session_id }
    }

    /// Checks what holds between any two calls.
    #[cfg(any(test, fuzzing))]
    pub(super) fn assert_sound(&self) {
        assert!(self.subs.is_sorted_by_key(|sub| sub.id), "found by their id");
        assert!(self.subs.len() <= SUBSCRIPTIONS_MAX);
        assert!(
            self.leaving.len() <= LEAVING_MAX && self.strays.len() <= STRAYS_MAX && self.handshake.len() <= 2
        );
        // One for each, and a heartbeat, a wish for a new bind and the end.
        assert!(self.outbox.len() <= self.subs.len() + self.leaving.len() + self.strays.len() + 3);
        for out in &self.outbox {
            if let Outgoing::Add { id, .. } = out {
                assert!(find(&self.subs, *id).is_some(), "an unsent add leaves with its subscription");
            }
        }
    }

    // What can be asked.

    /// Returns the data notifications of this session so far: the point to recover from.
    pub fn data_count(&self) -> u64 {
        self.count.processed()
    }

    /// Returns the lines so far that were of no use.
    pub fn skipped_count(&self) -> u64 {
        self.skipped
    }

    /// Returns the id that the next request would get; see [`Options::first_request_id`].
    pub fn next_request_id(&self) -> u64 {
        self.next_request_id
    }

    /// Returns what carries the session, or will carry its next connection.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Returns the purpose of the connection that is being made, if one is.
    pub fn opening(&self) -> Option<Purpose> {
        match self.phase {
            Phase::Opening { purpose, .. } => Some(purpose),
            _ => None,
        }
    }

    /// Whether the server has shown on the present connection that WebSocket messages get through.
    pub fn websocket_works(&self) -> bool {
        self.wsok
    }

    /// Whether the session is over.
    pub fn is_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    // Lines.

    /// Whether lines may still come.
    fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Bound { .. } | Phase::Opening { .. })
    }

    /// Takes one line, whatever it is. False once the connection has brought all that counts:
    /// what comes behind its end is to be ignored.
    #[inline]
    fn handle_any_line<'m>(
        &mut self,
        now: Instant,
        line: Line<'m>,
        changes: &mut Vec<Change<'m>>,
        on_event: OnEvent<'_>,
    ) -> bool {
        match &mut self.phase {
            Phase::Bound { last_heard, .. } => *last_heard = now,
            Phase::Opening { .. } if is_data(&line) => {
                // From where it goes on is not said yet: it cannot be counted.
                self.end(Corruption::DataBeforeConok.into(), on_event);
                return false;
            }
            Phase::Opening { .. } => {}
            Phase::Unbound { .. } | Phase::Ended => return false,
        }
        match line {
            Ok(line) => self.handle_line(now, line, changes, on_event),
            Err((why, head)) => {
                self.handle_unreadable(now, &notification::describe(why.into(), head), on_event);
            }
        }
        true
    }

    #[inline]
    fn handle_line<'m>(
        &mut self,
        now: Instant,
        line: &'m str,
        changes: &mut Vec<Change<'m>>,
        on_event: OnEvent<'_>,
    ) {
        match UpdateLine::parse(line) {
            Some(Ok(update)) => self.handle_update(now, line, update, changes, on_event),
            Some(Err(error)) => self.handle_unreadable(now, &error, on_event),
            None => match Notification::parse(line) {
                Ok(notification) => self.handle_notification(now, line, notification, on_event),
                Err(error) => self.handle_unreadable(now, &error, on_event),
            },
        }
    }

    #[inline]
    fn handle_update<'m>(
        &mut self,
        now: Instant,
        line: &'m str,
        UpdateLine { sub_id, item, values }: UpdateLine<'m>,
        changes: &mut Vec<Change<'m>>,
        on_event: OnEvent<'_>,
    ) {
        if !self.count.take() {
            return self.handle_repeat(on_event);
        }
        let Some(at) = find(&self.subs, sub_id) else { return self.handle_stray(sub_id, line, on_event) };
        let Sub { spec, life: Life::Active { seen }, .. } = &mut self.subs[at] else {
            return self.skip(SkipReason::OutOfPlace, Excerpt::of(line), on_event);
        };
        let Some(seen) = usize::from(item).checked_sub(1).and_then(|item| seen.get_mut(item)) else {
            return self.handle_fault(now, at, FaultReason::NoSuchItem, Excerpt::of(line), on_event);
        };
        let first = !*seen;
        if *seen && let Some(changes) = update::plain(values, spec.fields) {
            return on_event(Event::Update { tag: spec.tag, item, first: false, changes: &changes });
        }
        let told = update::list(values, spec.fields, first, changes).and_then(|()| {
            update::decoded(changes, |changes| {
                *seen = true;
                on_event(Event::Update { tag: spec.tag, item, first, changes: &changes.into() });
            })
        });
        if let Err(fault) = told {
            self.handle_fault(now, at, fault.into(), Excerpt::of(line), on_event);
        }
    }

    #[inline(never)]
    fn handle_notification(
        &mut self,
        now: Instant,
        line: &str,
        notification: Notification<'_>,
        on_event: OnEvent<'_>,
    ) {
        if notification.is_data() && !self.count.take() {
            return self.handle_repeat(on_event);
        }
        match notification {
            Notification::Wsok => self.wsok = true,
            Notification::Conok { session_id, request_limit_bytes, keepalive_ms, control_link } => {
                let Phase::Opening { purpose, .. } = self.phase else {
                    return self.end(Corruption::UnexpectedConok.into(), on_event);
                };
                if purpose != Purpose::Create && session_id != self.session_id {
                    return self.end(Corruption::AnotherSession.into(), on_event);
                }
                self.session_id = session_id.into_owned();
                self.request_limit_bytes = usize::try_from(request_limit_bytes).unwrap_or(usize::MAX);
                self.keepalive = server_delay(keepalive_ms, KEEPALIVE_MAX);
                // Without a new one the last stays good.
                if control_link != "*" {
                    self.control_link = Some(control_link.into_owned());
                }
                self.handle_bound(now, purpose, on_event);
            }
            Notification::Conerr { code, text } => {
                let policy = code::session_policy(code, &text);
                self.end(EndCause::Refused { code, text: cut(&text), policy }, on_event);
            }
            Notification::End { code, text } => {
                let policy = code::session_policy(code, &text);
                self.end(EndCause::Closed { code, text: cut(&text), policy }, on_event);
            }
            Notification::Error { code, text } => {
                let policy = code::error_policy(code);
                self.end(EndCause::Request { code, text: cut(&text), policy }, on_event);
            }
            Notification::Loop { delay_ms } => {
                self.handle_loop(now, server_delay(delay_ms, LOOP_DELAY_MAX), on_event);
            }
            Notification::Prog { count } => self.handle_prog(count, on_event),
            Notification::Reqerr { request_id, code, text } => {
                self.handle_reqerr(&request_id, code, &text, on_event);
            }
            Notification::Subok { sub_id, items, fields } => {
                self.handle_subok(line, sub_id, items, fields, on_event);
            }
            Notification::Conf { sub_id, frequency, unfiltered } => match find(&self.subs, sub_id) {
                Some(at) => {
                    let tag = self.subs[at].spec.tag;
                    on_event(Event::Configured { tag, unfiltered, frequency: &frequency });
                }
                None => self.handle_stray(sub_id, line, on_event),
            },
            Notification::Overflow { sub_id, item, dropped } => match find(&self.subs, sub_id) {
                Some(at) => {
                    let Sub { spec, life, .. } = &self.subs[at];
                    match life {
                        Life::Active { seen } if item > 0 && usize::from(item) <= seen.len() => {
                            on_event(Event::Overflow { tag: spec.tag, item, dropped });
                        }
                        Life::Active { .. } => {
                            self.handle_fault(now, at, FaultReason::NoSuchItem, Excerpt::of(line), on_event);
                        }
                        Life::Waiting | Life::Added { .. } => {
                            self.skip(SkipReason::OutOfPlace, Excerpt::of(line), on_event);
                        }
                    }
                }
                None => self.handle_stray(sub_id, line, on_event),
            },
            Notification::Unsub { sub_id } => self.handle_unsub(line, sub_id, on_event),
            // None of them belongs to MERGE mode.
            Notification::Subcmd { sub_id, .. }
            | Notification::Eos { sub_id, .. }
            | Notification::Cs { sub_id, .. } => match find(&self.subs, sub_id) {
                Some(_) => self.skip(SkipReason::OutOfPlace, Excerpt::of(line), on_event),
                None => self.handle_stray(sub_id, line, on_event),
            },
            Notification::Msgdone { .. } | Notification::Msgfail { .. } | Notification::Mpn => {
                self.skip(SkipReason::OutOfPlace, Excerpt::of(line), on_event);
            }
            Notification::Update(_) => unreachable!("updates have their own way"),
            Notification::Probe
            | Notification::Noop
            | Notification::Sync { .. }
            | Notification::Servname { .. }
            | Notification::Clientip { .. }
            | Notification::Cons { .. }
            | Notification::Reqok { .. } => {}
        }
    }

    #[cold]
    fn handle_unreadable(&mut self, now: Instant, error: &NotificationError<'_>, on_event: OnEvent<'_>) {
        if error.is_data && !self.count.take() {
            return self.handle_repeat(on_event);
        }
        let tag = error.line.bytes().split(|&byte| byte == b',').next().unwrap_or_default();
        if tag == b"CONOK" {
            return self.end(Corruption::BadConok(error.fault).into(), on_event);
        }
        if !notification::is_tag(tag) {
            // A data line may be hidden in it, uncounted. The recovery brings that again.
            self.skip(error.fault.into(), error.line, on_event);
            return self.interrupt(now, EndCause::Garbled, on_event);
        }
        match error.sub_id.and_then(|sub_id| find(&self.subs, sub_id)) {
            // Whatever it said about this subscription is lost.
            Some(at) if !matches!(self.subs[at].life, Life::Waiting) => {
                self.handle_fault(now, at, error.fault.into(), error.line, on_event);
            }
            _ => self.skip(error.fault.into(), error.line, on_event),
        }
    }

    /// The connection carries the session from now on.
    fn handle_bound(&mut self, now: Instant, purpose: Purpose, on_event: OnEvent<'_>) {
        let options = &self.options;
        let limit = self.keepalive.saturating_add(options.stalled).saturating_add(options.reconnect);
        self.phase = Phase::Bound { last_heard: now, limit };
        (self.bound_at, self.count_at_bind) = (Some(now), self.count.processed());
        self.websocket_wanted = false;
        self.websocket_at = match self.transport {
            Transport::Http if options.both_transports => now.checked_add(options.websocket_again),
            Transport::WebSocket | Transport::Http => None,
        };
        self.arm_heartbeat(now);
        if purpose == Purpose::Recover {
            self.count.await_recovery();
        }
        // What was asked of the connection before may have been lost with it.
        self.outbox.retain(|out| !matches!(out, Outgoing::ForceRebind { .. } | Outgoing::Heartbeat));
        self.delete_again();
        for sub in &mut self.subs {
            // The time without a connection is not the server's fault.
            if let Life::Added { answer_by, .. } = &mut sub.life {
                *answer_by = None;
            }
        }
        self.answers_unarmed = true;
        for at in 0..self.subs.len() {
            if matches!(self.subs[at].life, Life::Waiting) {
                self.add(at);
            }
        }
        let (keepalive, control_link) = (self.keepalive, self.control_link.as_deref());
        on_event(match purpose {
            Purpose::Create => Event::Established {
                session_id: &self.session_id,
                keepalive,
                request_limit_bytes: self.request_limit_bytes,
                control_link,
            },
            Purpose::Bind => Event::Rebound { keepalive, recovering: false, control_link },
            Purpose::Recover => Event::Rebound { keepalive, recovering: true, control_link },
        });
    }

    fn handle_prog(&mut self, count: u64, on_event: OnEvent<'_>) {
        let ours = self.count.processed();
        let told = match self.count.is_awaiting_recovery() {
            true => {
                self.count.recover_from(count).map(|()| on_event(Event::Recovered { repeated: ours - count }))
            }
            false => self.count.check(count),
        };
        if let Err(out_of_step) = told {
            self.end(Corruption::from(out_of_step).into(), on_event);
        }
    }

    /// A data notification that is not new.
    #[cold]
    fn handle_repeat(&mut self, on_event: OnEvent<'_>) {
        if self.count.is_awaiting_recovery() {
            self.end(Corruption::DataBeforeProg.into(), on_event);
        }
    }

    /// The server has had enough of this connection, and has sent everything up to here.
    fn handle_loop(&mut self, now: Instant, delay: Duration, on_event: OnEvent<'_>) {
        let cause = EndCause::Loop { delay };
        let Some(bound_at) = self.bound_at.filter(|_| !self.destroying && self.is_bound()) else {
            return self.end(cause, on_event);
        };
        let mut not_before = now.checked_add(delay);
        if !self.is_sound(now) {
            // A server that does nothing but ask for new binds is asked less often.
            not_before = not_before.max(bound_at.checked_add(self.options.retry));
        } else {
            self.recovery = None;
        }
        if self.websocket_wanted {
            self.transport = Transport::WebSocket;
        }
        // Where a recovery has not been answered, the server's account of what it sent is not ours.
        let answered = !self.count.is_awaiting_recovery();
        let purpose = if answered { Purpose::Bind } else { Purpose::Recover };
        self.phase = Phase::Unbound { purpose, not_before };
        on_event(Event::Interrupted { cause: &cause });
    }

    // Connections.

    fn is_bound(&self) -> bool {
        matches!(self.phase, Phase::Bound { .. })
    }

    /// Whether the present connection has proved its worth: by data, or by its age.
    fn is_sound(&self, now: Instant) -> bool {
        let aged = self.bound_at.and_then(|bound| bound.checked_add(self.options.recovery));
        self.count.processed() > self.count_at_bind || is_due(aged, now)
    }

    /// The connection is gone or of no use any more. A session that was made is to be recovered.
    fn interrupt(&mut self, now: Instant, cause: EndCause, on_event: OnEvent<'_>) {
        let (was_bound, opening) = match self.phase {
            Phase::Opening { purpose, since, .. } => (false, Some((purpose, since))),
            _ => (true, None),
        };
        let made = !matches!(opening, Some((Purpose::Create, _)));
        if !made || self.destroying || self.options.recovery.is_zero() {
            return self.end(cause, on_event);
        }
        if was_bound && self.is_sound(now) {
            self.recovery = None;
        }
        let first_try = self.recovery.is_none();
        let recovery = self.recovery.get_or_insert_with(|| Recovery { since: now, first: cause.clone() });
        let ends = recovery.since.checked_add(self.options.recovery);
        let began = opening.map_or(self.bound_at, |(_, since)| Some(since));
        let first_retry_max = u64::try_from(self.options.first_retry_max.as_millis()).unwrap_or(u64::MAX);
        let soon = now + Duration::from_millis(self.random.u64(0..=first_retry_max));
        let not_before = match first_try {
            true => soon,
            false => began.and_then(|began| began.checked_add(self.options.retry)).unwrap_or(soon).max(now),
        };
        if !first_try && ends.is_some_and(|ends| not_before >= ends) {
            return self.give_up(on_event);
        }
        // A WebSocket that is not to be had may be the only thing that is wrong.
        let other_way = self.options.both_transports
            && opening.is_some()
            && cause != EndCause::Connection(Lost::Unreachable);
        self.transport = match self.transport {
            same if !other_way => same,
            Transport::Http if self.websocket_at.is_none() => Transport::WebSocket,
            _ => Transport::Http,
        };
        self.phase = Phase::Unbound { purpose: Purpose::Recover, not_before: Some(not_before) };
        on_event(Event::Interrupted { cause: &cause });
    }

    /// When the attempt to go on with the session ends.
    fn recovery_ends(&self) -> Option<Instant> {
        self.recovery.as_ref().and_then(|recovery| recovery.since.checked_add(self.options.recovery))
    }

    fn give_up(&mut self, on_event: OnEvent<'_>) {
        let first =
            self.recovery.take().map_or(EndCause::Connection(Lost::Closed), |recovery| recovery.first);
        self.end(EndCause::Unrecovered { first: Box::new(first) }, on_event);
    }

    fn handle_subok(&mut self, line: &str, sub_id: SubId, items: u16, fields: u16, on_event: OnEvent<'_>) {
        let Some(at) = find(&self.subs, sub_id) else { return self.handle_stray(sub_id, line, on_event) };
        let sub = &mut self.subs[at];
        if !matches!(sub.life, Life::Added { .. }) {
            return self.skip(SkipReason::OutOfPlace, Excerpt::of(line), on_event);
        }
        let (tag, wanted) = (sub.spec.tag, sub.spec.fields);
        if items > 0 && fields == wanted {
            sub.life = Life::Active { seen: vec![false; usize::from(items)] };
            sub.asked_twice = false;
            // One deadline less.
            self.answers_unarmed = true;
            return on_event(Event::Subscribed { tag, items, fields });
        }
        let sub = self.subs.remove(at);
        self.leave(&sub, None);
        let text = format!("expected {wanted} fields, the server has {fields} (items: {items})");
        on_event(Event::Refused { tag, code: MISMATCH_CODE, text: &text, verdict: Verdict::Config });
    }

    fn handle_unsub(&mut self, line: &str, sub_id: SubId, on_event: OnEvent<'_>) {
        if let Some(at) = find(&self.subs, sub_id) {
            if matches!(self.subs[at].life, Life::Waiting) {
                return self.skip(SkipReason::OutOfPlace, Excerpt::of(line), on_event);
            }
            let sub = self.subs.remove(at);
            self.unqueue_add(sub.id);
            on_event(Event::Unsubscribed { tag: sub.spec.tag, asked: false });
        } else if let Some(at) = self.leaving.iter().position(|leaving| leaving.id == sub_id) {
            self.forget(at, on_event);
        } else if let Some(at) = self.strays.iter().position(|&stray| stray == sub_id) {
            self.strays.remove(at);
            self.unqueue_delete(sub_id);
        } else {
            self.skip(SkipReason::UnknownSubscription, Excerpt::of(line), on_event);
        }
    }

    fn handle_reqerr(&mut self, request_id: &str, code: i32, text: &str, on_event: OnEvent<'_>) {
        let Ok(request_id) = request_id.parse::<u64>() else { return };
        let added = self
            .subs
            .iter()
            .position(|sub| matches!(sub.life, Life::Added { request_id: asked, .. } if asked == request_id));
        let left = self.leaving.iter().position(|leaving| leaving.request_id == request_id);
        if let Some(at) = added {
            let verdict = code::add_verdict(code);
            let mut sub = self.subs.remove(at);
            // A server might guess the id of a request that is still here.
            self.unqueue_add(sub.id);
            if verdict == Verdict::WithoutUnfiltered && sub.unfiltered {
                sub.unfiltered = false;
                return self.add_anew(sub);
            }
            on_event(Event::Refused { tag: sub.spec.tag, code, text, verdict });
        } else if let Some(at) = left {
            // Mostly 19: there is no such subscription any more, which is what we wanted.
            self.forget(at, on_event);
        } else {
            // A late answer, or one to the deletion of a stray.
            return;
        }
        if let Some(policy) = code::request_policy(code) {
            self.end(EndCause::Request { code, text: cut(text), policy }, on_event);
        }
    }

    /// A data line for a subscription that is not, or no longer, wanted.
    fn handle_stray(&mut self, sub_id: SubId, line: &str, on_event: OnEvent<'_>) {
        if self.leaving.iter().any(|leaving| leaving.id == sub_id) {
            return;
        }
        if self.is_bound()
            && !self.destroying
            && !self.strays.contains(&sub_id)
            && self.strays.len() < STRAYS_MAX
        {
            self.strays.push(sub_id);
            self.queue_delete(sub_id);
        }
        self.skip(SkipReason::UnknownSubscription, Excerpt::of(line), on_event);
    }

    #[cold]
    fn handle_fault(
        &mut self,
        now: Instant,
        at: usize,
        reason: FaultReason,
        line: Excerpt<'_>,
        on_event: OnEvent<'_>,
    ) {
        let sub = &mut self.subs[at];
        let tag = sub.spec.tag;
        let again = sub.last_fault.is_some_and(|last| now.saturating_duration_since(last) < FAULT_WINDOW);
        sub.last_fault = Some(now);
        let on_probation = sub.on_probation;
        on_event(Event::Fault { tag, reason, line });
        if again && on_probation {
            let sub = self.subs.remove(at);
            self.leave(&sub, None);
            let (text, verdict) = (reason.to_string(), Verdict::Faulty);
            on_event(Event::Refused { tag, code: MISMATCH_CODE, text: &text, verdict });
        } else if again {
            self.end(Corruption::Faults { tag, reason }.into(), on_event);
        } else {
            self.add_again(at);
        }
    }

    #[cold]
    fn skip(&mut self, reason: SkipReason, line: Excerpt<'_>, on_event: OnEvent<'_>) {
        self.skipped += 1;
        on_event(Event::Skipped { reason, line });
    }

    /// Ends the session, once.
    fn end(&mut self, cause: EndCause, on_event: OnEvent<'_>) {
        if self.phase == Phase::Ended {
            return;
        }
        self.phase = Phase::Ended;
        self.handshake.clear();
        self.outbox.clear();
        self.subs.clear();
        self.leaving.clear();
        let cause = if self.destroying { EndCause::Destroyed } else { cause };
        on_event(Event::Ended { cause });
    }

    // Subscriptions on the wire.

    fn take_sub_id(&mut self) -> SubId {
        let id = SubId(self.next_sub_id);
        self.next_sub_id += 1;
        id
    }

    fn take_request_id(&mut self) -> u64 {
        let id = self.next_request_id;
        self.next_request_id += 1;
        id
    }

    /// Queues the `add` of the subscription at `at`, if the session is there to take it.
    fn add(&mut self, at: usize) {
        if !self.is_bound() || self.destroying {
            return;
        }
        let request_id = self.take_request_id();
        let sub = &mut self.subs[at];
        sub.life = Life::Added { request_id, answer_by: None };
        self.outbox.push_back(Outgoing::Add { id: sub.id, request_id });
        self.answers_unarmed = true;
    }

    fn add_last(&mut self) {
        self.add(self.subs.len() - 1);
    }

    /// Gives the subscription at `at` a new life on the wire and has the old one deleted.
    fn add_again(&mut self, at: usize) {
        let sub = self.subs.remove(at);
        self.leave(&sub, None);
        self.add_anew(sub);
    }

    fn add_anew(&mut self, mut sub: Sub) {
        sub.id = self.take_sub_id();
        sub.life = Life::Waiting;
        self.subs.push(sub);
        self.add_last();
    }

    /// Has `sub`, no longer in `subs`, deleted by the server if it may know of it.
    fn leave(&mut self, sub: &Sub, tag: Option<u16>) {
        if matches!(sub.life, Life::Waiting) || self.unqueue_add(sub.id) {
            return;
        }
        if self.leaving.len() >= LEAVING_MAX {
            let forgotten = self.leaving.remove(0);
            self.unqueue_delete(forgotten.id);
        }
        let request_id = self.queue_delete(sub.id);
        let (id, asked_twice, answer_by) = (sub.id, false, None);
        self.leaving.push(Leaving { id, request_id, tag, asked_twice, answer_by });
        self.answers_unarmed = true;
    }

    /// Asks for the end of everything that the server has not confirmed to be gone. Whether it was
    /// asked before is not known; the answer to a second request does no harm.
    fn delete_again(&mut self) {
        self.outbox.retain(|out| !matches!(out, Outgoing::Delete { .. }));
        for at in 0..self.leaving.len() {
            let request_id = self.queue_delete(self.leaving[at].id);
            let leaving = &mut self.leaving[at];
            *leaving = Leaving { request_id, asked_twice: false, answer_by: None, ..*leaving };
        }
        for at in 0..self.strays.len() {
            self.queue_delete(self.strays[at]);
        }
    }

    /// The subscription at `at` of those that leave is gone.
    fn forget(&mut self, at: usize, on_event: OnEvent<'_>) {
        let gone = self.leaving.remove(at);
        self.unqueue_delete(gone.id);
        if let Some(tag) = gone.tag {
            on_event(Event::Unsubscribed { tag, asked: true });
        }
    }

    /// Queues a `delete`, unless the whole session is to end. Returns the request's id.
    fn queue_delete(&mut self, id: SubId) -> u64 {
        let request_id = self.take_request_id();
        if !self.destroying {
            self.outbox.push_back(Outgoing::Delete { id, request_id });
        }
        request_id
    }

    fn unqueue_delete(&mut self, sub_id: SubId) {
        self.outbox.retain(|out| !matches!(out, Outgoing::Delete { id, .. } if *id == sub_id));
    }

    /// Has the server ask for a new bind, after which nothing is lost by another transport.
    fn request_websocket(&mut self) {
        let is_asked = self.outbox.iter().any(|out| matches!(out, Outgoing::ForceRebind { .. }));
        if !self.destroying && !is_asked {
            self.websocket_wanted = true;
            let request_id = self.take_request_id();
            self.outbox.push_back(Outgoing::ForceRebind { request_id });
        }
    }

    /// Takes an `add` back that was not sent yet. Returns whether there was one.
    fn unqueue_add(&mut self, sub_id: SubId) -> bool {
        let queued =
            self.outbox.iter().position(|out| matches!(out, Outgoing::Add { id, .. } if *id == sub_id));
        queued.and_then(|at| self.outbox.remove(at)).is_some()
    }

    /// Asks once more for what was not answered in time, and gives up what was not answered twice.
    fn give_up_unanswered(&mut self, now: Instant, on_event: OnEvent<'_>) {
        let is_late =
            |sub: &Sub| matches!(sub.life, Life::Added { answer_by: Some(by), .. } if is_due(Some(by), now));
        // Those asked for again have no deadline yet, so this ends.
        while let Some(at) = self.subs.iter().position(is_late) {
            let sub = &mut self.subs[at];
            if sub.asked_twice {
                let sub = self.subs.remove(at);
                self.leave(&sub, None);
                on_event(Event::Unanswered { tag: sub.spec.tag });
            } else {
                sub.asked_twice = true;
                self.add_again(at);
            }
        }
        for at in 0..self.leaving.len() {
            if is_due(self.leaving[at].answer_by, now) && !self.leaving[at].asked_twice {
                let id = self.leaving[at].id;
                self.unqueue_delete(id);
                let request_id = self.queue_delete(id);
                let leaving = &mut self.leaving[at];
                *leaving = Leaving { request_id, asked_twice: true, answer_by: None, ..*leaving };
            }
        }
    }

    // Timers.

    /// Gives every new `add` and `delete` its deadline, and finds the earliest of all.
    fn arm_answers(&mut self, now: Instant) {
        self.answers_unarmed = false;
        let added = self.subs.iter_mut().filter_map(|sub| match &mut sub.life {
            Life::Added { answer_by, .. } => Some(answer_by),
            Life::Waiting | Life::Active { .. } => None,
        });
        // What was deleted twice in vain will show itself by its lines, or not at all.
        let left = self.leaving.iter_mut().filter(|leaving| !leaving.asked_twice);
        self.answer_deadline = added
            .chain(left.map(|leaving| &mut leaving.answer_by))
            .map(|answer_by| *answer_by.get_or_insert(now + ADD_ANSWER_TIMEOUT))
            .min();
    }

    fn arm_heartbeat(&mut self, now: Instant) {
        self.heartbeat_at =
            self.options.promised_inactivity().and_then(|promised| now.checked_add(promised / 2));
    }
}

impl Options {
    /// A promise of no silence at all cannot be kept.
    fn promised_inactivity(&self) -> Option<Duration> {
        self.inactivity.filter(|promised| promised.as_millis() > 0)
    }
}

impl fmt::Debug for TlcpSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlcpSession")
            .field("phase", &self.phase)
            .field("transport", &self.transport)
            .field("handshake", &self.handshake)
            .field("subs", &self.subs.len())
            .field("leaving", &self.leaving.len())
            .field("outbox", &self.outbox)
            .field("data_count", &self.data_count())
            .field("skipped", &self.skipped)
            .finish_non_exhaustive()
    }
}

/// Finds a subscription by its id on the wire.
#[inline]
fn find(subs: &[Sub], id: SubId) -> Option<usize> {
    let first = subs.first()?.id;
    // As long as nothing was subscribed anew, ids have no holes.
    let guess = id.0.wrapping_sub(first.0) as usize;
    match subs.get(guess) {
        Some(sub) if sub.id == id => Some(guess),
        _ => subs.binary_search_by_key(&id, |sub| sub.id).ok(),
    }
}

#[cold]
fn is_data(line: &Line<'_>) -> bool {
    match line {
        Ok(line) => notification::is_data(line.as_bytes()),
        Err((_, head)) => notification::is_data(head.bytes()),
    }
}

fn is_due(at: Option<Instant>, now: Instant) -> bool {
    at.is_some_and(|at| at <= now)
}

fn server_delay(delay_ms: u64, max: Duration) -> Duration {
    Duration::from_millis(delay_ms).min(max)
}

fn cut(text: &str) -> String {
    Excerpt::of(text).to_string()
}
