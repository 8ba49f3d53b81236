//! [`TlcpSession`]: one Lightstreamer session on one WebSocket, without the WebSocket.
//!
//! The shell tells it what happened and when (`handle_*`), sends what it wants sent
//! ([`TlcpSession::poll_transmit`]) and calls back when time is up
//! ([`TlcpSession::next_timeout`]). A session that broke is over: the shell opens a socket to the
//! configured address and makes a new one.
//!
//! Every data notification is counted, whatever becomes of it, and an update is applied whole or
//! not at all. An item whose update cannot be read is subscribed anew; the others go on.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use super::Version;
use super::code::{self, Policy, Verdict};
use super::lines::{self, Excerpt};
use super::notification::{self, LineFault, Notification, NotificationError, UpdateLine};
use super::recovery::{DataCount, OutOfStep};
use super::request::{self, Control, ControlBatch, Credentials, Streaming};
use super::update::{self, Change, UpdateFault};

/// How long an `add` may stay without any answer before it is made again, and then given up.
pub const ADD_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Two faults of one item within this time end the session.
pub const FAULT_WINDOW: Duration = Duration::from_secs(60);
/// Subscriptions held at a time. Far above any broker's limit.
pub const SUBSCRIPTIONS_MAX: usize = 1000;
/// Subscriptions remembered while the server has not yet confirmed their end.
pub const LEAVING_MAX: usize = SUBSCRIPTIONS_MAX;
/// Unknown subscriptions that are remembered and deleted; lines of any more are only counted.
pub const STRAYS_MAX: usize = 64;
/// No delay or keepalive from the server is taken to be longer than this.
pub const SERVER_DELAY_MAX: Duration = Duration::from_secs(3600);
/// The code official clients report when `SUBOK` does not fit the request.
pub const SUBOK_MISMATCH_CODE: i32 = 61;

/// The id of a subscription: on the wire, and towards the caller the first it had there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubId(pub u32);

impl fmt::Display for SubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// How a session is made. The defaults are those of the official clients.
#[derive(Clone, Debug)]
pub struct Options {
    /// Version to claim; the shell's upgrade must ask for its subprotocol.
    pub version: Version,
    /// Adapter set; the server's default if absent.
    pub adapter_set: Option<String>,
    /// Longest silence wanted from the server, if not its own choice.
    pub keepalive: Option<Duration>,
    /// Longest silence promised by us; heartbeats go out at half of it. None promised if absent.
    pub inactivity: Option<Duration>,
    /// Whether the server shall send its clock.
    pub send_sync: bool,
    /// Longest time from [`TlcpSession::handle_open`] to `CONOK`.
    pub connect: Duration,
    /// Grace after the server's keepalive passed in silence.
    pub stalled: Duration,
    /// Further silence after which the connection is given up.
    pub reconnect: Duration,
    /// First request id. Ids must not come back for some minutes, so a process that makes one
    /// session after the other goes on from [`TlcpSession::next_request_id`].
    pub first_request_id: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            version: Version::default(),
            adapter_set: None,
            keepalive: None,
            inactivity: None,
            send_sync: false,
            connect: Duration::from_millis(4000),
            stalled: Duration::from_millis(2000),
            reconnect: Duration::from_millis(3000),
            first_request_id: 1,
        }
    }
}

/// What to subscribe to, in MERGE mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionSpec {
    /// Item group. One item each, since a group is refused as a whole.
    pub group: String,
    /// Field schema, names separated by spaces.
    pub schema: String,
    /// How many fields that is; another number in `SUBOK` is a refusal.
    pub fields: u16,
    /// Whether the current row is wanted first.
    pub snapshot: bool,
    /// Whether merging shall be forbidden, if the server allows that.
    pub unfiltered: bool,
    /// The caller's own name for it, in every event. Unique among live subscriptions.
    pub tag: u16,
}

/// What the session tells its caller.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<'a> {
    /// The session is made; subscriptions go out now.
    Established {
        /// The server's id of it.
        session_id: &'a str,
        /// The server is never silent for longer than this.
        keepalive: Duration,
        /// Largest request that the server takes, in bytes.
        request_limit_bytes: usize,
        /// Where further sockets of this session must go, if not to the configured address.
        control_link: Option<&'a str>,
    },
    /// A subscription is active.
    Subscribed {
        /// The caller's name for it.
        tag: u16,
        /// Items in its group.
        items: u16,
        /// Fields in its schema.
        fields: u16,
    },
    /// How updates of a subscription will come.
    Configured {
        /// The caller's name for it.
        tag: u16,
        /// Whether every update comes, or the server may merge several into one.
        unfiltered: bool,
        /// Updates a second as a decimal, or `unlimited`.
        frequency: &'a str,
    },
    /// An update.
    Update {
        /// The caller's name for the subscription.
        tag: u16,
        /// Item in its group, from 1.
        item: u16,
        /// Whether it is the item's first since it was subscribed, and so a whole row.
        first: bool,
        /// One change per field, in the order of the schema.
        changes: &'a [Change<'a>],
    },
    /// The server dropped updates of an unfiltered item.
    Overflow {
        /// The caller's name for the subscription.
        tag: u16,
        /// Item in its group, from 1.
        item: u16,
        /// How many.
        dropped: u64,
    },
    /// A subscription was refused and is off. Refusals of unfiltered delivery are not reported:
    /// it is asked for again without, once.
    Refused {
        /// The caller's name for it.
        tag: u16,
        /// The server's code (table of request codes), or [`SUBOK_MISMATCH_CODE`].
        code: i32,
        /// The server's words.
        text: &'a str,
        /// What to do about it.
        verdict: Verdict,
    },
    /// A subscription was asked for twice, never answered, and is off. As [`Verdict::RetryLater`].
    Unanswered {
        /// The caller's name for it.
        tag: u16,
    },
    /// A subscription is gone.
    Unsubscribed {
        /// The caller's name for it.
        tag: u16,
        /// Whether the caller asked for that; otherwise as [`Verdict::RetryLater`].
        asked: bool,
    },
    /// A line of a subscription could not be read. It is subscribed anew; its continuity is
    /// broken.
    Fault {
        /// The caller's name for it.
        tag: u16,
        /// What was wrong.
        reason: FaultReason,
        /// The line.
        line: Excerpt<'a>,
    },
    /// A line was of no use and nothing is lost by it.
    Skipped {
        /// Why.
        reason: SkipReason,
        /// The line.
        line: Excerpt<'a>,
    },
    /// The session is over. Nothing follows.
    Ended {
        /// Why.
        cause: EndCause,
    },
}

/// Why the lines of a subscription can no longer be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultReason {
    /// Values that do not fit.
    #[error(transparent)]
    Values(#[from] UpdateFault),
    /// No such item in the group.
    #[error("no such item")]
    NoSuchItem,
    /// Not readable as a line of its kind.
    #[error(transparent)]
    Line(#[from] LineFault),
}

/// Why a line was of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SkipReason {
    /// Not readable.
    #[error(transparent)]
    Line(#[from] LineFault),
    /// For a subscription that we do not have.
    #[error("unknown subscription")]
    UnknownSubscription,
    /// Readable, but it has no business at this point.
    #[error("out of place")]
    OutOfPlace,
}

/// Why a session is over. Texts are the server's, cut and escaped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "code, text and policy mean the same in every variant")]
pub enum EndCause {
    /// No session was made (`CONERR`).
    #[error("session refused: {code} {text}")]
    Refused { code: i32, text: String, policy: Policy },
    /// The server closed it (`END`).
    #[error("session closed by the server: {code} {text}")]
    Closed { code: i32, text: String, policy: Policy },
    /// A request was answered in a way that voids the session (`REQERR`, `ERROR`).
    #[error("session void after a request: {code} {text}")]
    Request { code: i32, text: String, policy: Policy },
    /// The server wants the session bound anew after this delay.
    #[error("server asks for a new bind in {delay:?}")]
    Loop { delay: Duration },
    /// Not a line for this long.
    #[error("silent for {silence:?}")]
    Stalled { silence: Duration },
    /// No `CONOK` in time. Without `WSOK` either, something between us and the server does not
    /// let WebSockets through.
    #[error("no session in time (WebSocket works: {wsok})")]
    ConnectTimeout { wsok: bool },
    /// The socket is gone.
    #[error("socket closed")]
    SocketClosed,
    /// The server contradicts itself.
    #[error("{0}")]
    Corrupt(#[from] Corruption),
    /// We destroyed it.
    #[error("session destroyed")]
    Destroyed,
}

/// How the server contradicted itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Corruption {
    /// `CONOK` that cannot be read.
    #[error("bad CONOK: {0}")]
    BadConok(LineFault),
    /// `CONOK` where none was asked for.
    #[error("unexpected CONOK")]
    UnexpectedConok,
    /// Its count of data notifications is not ours.
    #[error(transparent)]
    OutOfStep(#[from] OutOfStep),
    /// One item had two faults within [`FAULT_WINDOW`].
    #[error("subscription {tag} faulty again: {reason}")]
    Faults {
        /// The caller's name for the subscription.
        tag: u16,
        /// What was wrong the last time.
        reason: FaultReason,
    },
}

/// One Lightstreamer session. See the [module](self) for how to drive it.
pub struct TlcpSession {
    options: Options,
    credentials: Credentials,
    phase: Phase,
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
    /// Some `add` in the outbox has no deadline for its answer yet.
    adds_unarmed: bool,
    /// Earliest such deadline; may be that of an answered one.
    add_deadline: Option<Instant>,
    heartbeat_at: Option<Instant>,
    /// Memory for the changes of one update.
    changes: Vec<Change<'static>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No socket yet.
    Idle,
    /// Waiting for `CONOK`.
    Opening {
        since: Instant,
    },
    /// Silence longer than `limit` ends it.
    Bound {
        last_heard: Instant,
        limit: Duration,
    },
    Ended,
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outgoing {
    Wsok,
    CreateSession,
    Heartbeat,
    Add { id: SubId, request_id: u64 },
    Delete { id: SubId, request_id: u64 },
    Destroy { request_id: u64 },
}

/// Where events go.
type OnEvent<'f> = &'f mut dyn FnMut(Event<'_>);

impl TlcpSession {
    /// Makes a session that waits for its socket.
    pub fn new(options: Options, user: String, password: String) -> TlcpSession {
        TlcpSession {
            next_request_id: options.first_request_id,
            options,
            credentials: Credentials::new(user, password),
            phase: Phase::Idle,
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
            adds_unarmed: false,
            add_deadline: None,
            heartbeat_at: None,
            changes: Vec::new(),
        }
    }

    // What the caller wants.

    /// Asks for a subscription, to be sent as soon as the session is made. The id stays good for
    /// [`TlcpSession::unsubscribe`] however often the subscription is made again on the wire.
    ///
    /// # Panics
    /// If the schema has no fields, or [`SUBSCRIPTIONS_MAX`] subscriptions are held already.
    pub fn subscribe(&mut self, spec: SubscriptionSpec) -> SubId {
        assert!(spec.fields > 0, "a schema has fields");
        assert!(self.subs.len() < SUBSCRIPTIONS_MAX, "more subscriptions than any broker allows");
        let id = self.take_sub_id();
        self.subs.push(Sub {
            id,
            handle: id,
            unfiltered: spec.unfiltered,
            spec,
            asked_twice: false,
            last_fault: None,
            life: Life::Waiting,
        });
        self.add_last();
        id
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
        self.arm_adds(now);
        true
    }

    /// Asks the server to end the session. [`EndCause::Destroyed`] follows with whatever ends the
    /// connection; there is no need to wait for it.
    pub fn destroy(&mut self) {
        if self.destroying || self.phase == Phase::Ended {
            return;
        }
        self.destroying = true;
        self.outbox.retain(|out| matches!(out, Outgoing::Wsok | Outgoing::CreateSession));
        // Without an id to name, an old server must find out from the closed socket.
        let nameable = self.options.version.has_wsok() || !self.session_id.is_empty();
        if self.phase != Phase::Idle && nameable {
            let request_id = self.take_request_id();
            self.outbox.push_back(Outgoing::Destroy { request_id });
        }
    }

    // What happened.

    /// Takes note that the WebSocket is open. Only the first call counts.
    pub fn handle_open(&mut self, now: Instant) {
        if self.phase != Phase::Idle || self.destroying {
            return;
        }
        self.phase = Phase::Opening { since: now };
        if self.options.version.has_wsok() {
            self.outbox.push_back(Outgoing::Wsok);
        }
        self.outbox.push_back(Outgoing::CreateSession);
    }

    /// Takes one whole WebSocket text message.
    pub fn handle_message(&mut self, now: Instant, message: &str, on_event: OnEvent<'_>) {
        let mut changes: Vec<Change<'_>> = std::mem::take(&mut self.changes);
        for line in lines::message_lines(message) {
            match &mut self.phase {
                Phase::Bound { last_heard, .. } => *last_heard = now,
                // What comes behind the end of a session is to be ignored.
                Phase::Ended => break,
                Phase::Idle | Phase::Opening { .. } => {}
            }
            match line {
                Ok(line) => self.handle_line(now, line, &mut changes, on_event),
                Err((why, head)) => {
                    self.handle_unreadable(now, &notification::describe(why.into(), head), on_event);
                }
            }
        }
        self.changes = update::recycle(changes);
        if self.adds_unarmed {
            self.arm_adds(now);
        }
    }

    /// Takes note that the socket is gone, or could not be had.
    pub fn handle_closed(&mut self, _now: Instant, on_event: OnEvent<'_>) {
        self.end(EndCause::SocketClosed, on_event);
    }

    /// Does what is due by `now`. Harmless when nothing is.
    pub fn handle_timeout(&mut self, now: Instant, on_event: OnEvent<'_>) {
        match self.phase {
            Phase::Opening { since } if is_due(since.checked_add(self.options.connect), now) => {
                return self.end(EndCause::ConnectTimeout { wsok: self.wsok }, on_event);
            }
            Phase::Bound { last_heard, limit } if is_due(last_heard.checked_add(limit), now) => {
                return self.end(EndCause::Stalled { silence: limit }, on_event);
            }
            Phase::Bound { .. } => {}
            Phase::Idle | Phase::Opening { .. } | Phase::Ended => return,
        }
        if is_due(self.heartbeat_at, now) {
            if !self.outbox.contains(&Outgoing::Heartbeat) {
                self.outbox.push_back(Outgoing::Heartbeat);
            }
            self.arm_heartbeat(now);
        }
        if is_due(self.add_deadline, now) {
            self.give_up_unanswered(now, on_event);
        }
        self.arm_adds(now);
    }

    /// Returns when [`TlcpSession::handle_timeout`] must be called, unless something else happens
    /// before; possibly a moment that is past already. To be asked again after every other call.
    pub fn next_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Idle | Phase::Ended => None,
            Phase::Opening { since } => since.checked_add(self.options.connect),
            // At once: only then do we learn the time from which an answer is awaited.
            Phase::Bound { last_heard, .. } if self.adds_unarmed => Some(last_heard),
            Phase::Bound { last_heard, limit } => {
                [last_heard.checked_add(limit), self.heartbeat_at, self.add_deadline]
                    .into_iter()
                    .flatten()
                    .min()
            }
        }
    }

    /// Returns the next WebSocket text message to send. One of them holds the password, so none
    /// is for a log.
    pub fn poll_transmit(&mut self) -> Option<String> {
        let session = request::Session { version: self.options.version, id: &self.session_id };
        let mut batch: Option<ControlBatch> = None;
        while let Some(&next) = self.outbox.front() {
            let (control, request_id) = match (next, &batch) {
                (Outgoing::Wsok | Outgoing::CreateSession | Outgoing::Heartbeat, Some(_)) => break,
                (Outgoing::Wsok, None) => {
                    self.outbox.pop_front();
                    return Some(request::wsok());
                }
                (Outgoing::CreateSession, None) => {
                    self.outbox.pop_front();
                    let adapter_set = self.options.adapter_set.as_deref();
                    let streaming = self.options.streaming();
                    return Some(request::create_session(
                        session.version,
                        streaming,
                        adapter_set,
                        &self.credentials,
                    ));
                }
                (Outgoing::Heartbeat, None) => {
                    self.outbox.pop_front();
                    return Some(request::heartbeat(session));
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
                (Outgoing::Destroy { request_id }, _) => (Control::Destroy, request_id),
            };
            let line = control.line(session, request_id);
            if !batch.get_or_insert_with(|| ControlBatch::new(self.request_limit_bytes)).push(&line) {
                break;
            }
            self.outbox.pop_front();
        }
        batch.map(ControlBatch::finish)
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

    /// Whether the session is over.
    pub fn is_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    // Lines.

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
            return;
        }
        let Some(at) = find(&self.subs, sub_id) else { return self.handle_stray(sub_id, line, on_event) };
        let Sub { spec, life: Life::Active { seen }, .. } = &mut self.subs[at] else {
            return self.skip(SkipReason::OutOfPlace, Excerpt::of(line), on_event);
        };
        let Some(seen) = usize::from(item).checked_sub(1).and_then(|item| seen.get_mut(item)) else {
            return self.handle_fault(now, at, FaultReason::NoSuchItem, Excerpt::of(line), on_event);
        };
        let first = !*seen;
        match update::decode(values, spec.fields, first, changes) {
            Ok(()) => {
                *seen = true;
                on_event(Event::Update { tag: spec.tag, item, first, changes });
            }
            Err(fault) => self.handle_fault(now, at, fault.into(), Excerpt::of(line), on_event),
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
            return;
        }
        match notification {
            Notification::Wsok => self.wsok = true,
            Notification::Conok { session_id, request_limit_bytes, keepalive_ms, control_link } => {
                if !matches!(self.phase, Phase::Opening { .. }) {
                    return self.end(Corruption::UnexpectedConok.into(), on_event);
                }
                let keepalive = server_delay(keepalive_ms);
                self.handle_conok(now, session_id.into_owned(), request_limit_bytes, keepalive);
                on_event(Event::Established {
                    session_id: &self.session_id,
                    keepalive,
                    request_limit_bytes: self.request_limit_bytes,
                    control_link: (control_link != "*").then_some(&*control_link),
                });
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
                self.end(EndCause::Loop { delay: server_delay(delay_ms) }, on_event);
            }
            Notification::Prog { count } => {
                if let Err(out_of_step) = self.count.check(count) {
                    self.end(Corruption::from(out_of_step).into(), on_event);
                }
            }
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
            return;
        }
        if error.line.bytes().starts_with(b"CONOK,") {
            return self.end(Corruption::BadConok(error.fault).into(), on_event);
        }
        match error.sub_id.and_then(|sub_id| find(&self.subs, sub_id)) {
            // Whatever it said about this subscription is lost.
            Some(at) if !matches!(self.subs[at].life, Life::Waiting) => {
                self.handle_fault(now, at, error.fault.into(), error.line, on_event);
            }
            _ => self.skip(error.fault.into(), error.line, on_event),
        }
    }

    fn handle_conok(
        &mut self,
        now: Instant,
        session_id: String,
        request_limit_bytes: u64,
        keepalive: Duration,
    ) {
        let limit = keepalive.saturating_add(self.options.stalled).saturating_add(self.options.reconnect);
        self.phase = Phase::Bound { last_heard: now, limit };
        self.session_id = session_id;
        self.request_limit_bytes = usize::try_from(request_limit_bytes).unwrap_or(usize::MAX);
        self.arm_heartbeat(now);
        for at in 0..self.subs.len() {
            self.add(at);
        }
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
            self.adds_unarmed = true;
            return on_event(Event::Subscribed { tag, items, fields });
        }
        let sub = self.subs.remove(at);
        self.leave(&sub, None);
        let text = format!("expected {wanted} fields, the server has {fields} (items: {items})");
        on_event(Event::Refused { tag, code: SUBOK_MISMATCH_CODE, text: &text, verdict: Verdict::Config });
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
            if let Some(tag) = self.leaving.remove(at).tag {
                on_event(Event::Unsubscribed { tag, asked: true });
            }
        } else if let Some(at) = self.strays.iter().position(|&stray| stray == sub_id) {
            self.strays.remove(at);
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
            if let Some(tag) = self.leaving.remove(at).tag {
                on_event(Event::Unsubscribed { tag, asked: true });
            }
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
        let bound = matches!(self.phase, Phase::Bound { .. }) && !self.destroying;
        if bound && !self.strays.contains(&sub_id) && self.strays.len() < STRAYS_MAX {
            self.strays.push(sub_id);
            let request_id = self.take_request_id();
            self.outbox.push_back(Outgoing::Delete { id: sub_id, request_id });
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
        on_event(Event::Fault { tag, reason, line });
        if again {
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
        if !matches!(self.phase, Phase::Bound { .. }) || self.destroying {
            return;
        }
        let request_id = self.take_request_id();
        let sub = &mut self.subs[at];
        sub.life = Life::Added { request_id, answer_by: None };
        self.outbox.push_back(Outgoing::Add { id: sub.id, request_id });
        self.adds_unarmed = true;
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
            self.outbox.retain(|out| !matches!(out, Outgoing::Delete { id, .. } if *id == forgotten.id));
        }
        let request_id = self.take_request_id();
        self.leaving.push(Leaving { id: sub.id, request_id, tag });
        if !self.destroying {
            self.outbox.push_back(Outgoing::Delete { id: sub.id, request_id });
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
    }

    // Timers.

    /// Gives every new `add` its deadline, and finds the earliest of all.
    fn arm_adds(&mut self, now: Instant) {
        self.adds_unarmed = false;
        self.add_deadline = None;
        for sub in &mut self.subs {
            if let Life::Added { answer_by, .. } = &mut sub.life {
                let by = *answer_by.get_or_insert(now + ADD_ANSWER_TIMEOUT);
                self.add_deadline = Some(self.add_deadline.map_or(by, |earliest| earliest.min(by)));
            }
        }
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

    fn streaming(&self) -> Streaming {
        Streaming {
            keepalive: self.keepalive,
            inactivity: self.promised_inactivity(),
            send_sync: self.send_sync,
        }
    }
}

impl fmt::Debug for TlcpSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlcpSession")
            .field("phase", &self.phase)
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

fn is_due(at: Option<Instant>, now: Instant) -> bool {
    at.is_some_and(|at| at <= now)
}

fn server_delay(delay_ms: u64) -> Duration {
    Duration::from_millis(delay_ms).min(SERVER_DELAY_MAX)
}

fn cut(text: &str) -> String {
    Excerpt::of(text).to_string()
}
