//! What a session is made with, and what it tells its caller.

use std::fmt;
use std::time::Duration;

use super::code::{Policy, Verdict};
use super::lines::Excerpt;
use super::notification::LineFault;
use super::recovery::OutOfStep;
use super::update::{Changes, UpdateFault};
use super::{Transport, Version};

/// The id of a subscription: on the wire, and towards the caller the first it had there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubId(pub u32);

impl fmt::Display for SubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// How a session is made and kept. The defaults are those of the official clients.
#[derive(Clone, Debug)]
pub struct Options {
    /// Version to claim; a WebSocket's upgrade must ask for its subprotocol.
    pub version: Version,
    /// How the session's first connection is made.
    pub transport: Transport,
    /// Whether later ones may be made the other way, where this one fails or to come back from
    /// HTTP to a WebSocket.
    pub both_transports: bool,
    /// Adapter set; the server's default if absent.
    pub adapter_set: Option<String>,
    /// Longest silence wanted from the server, if not its own choice.
    pub keepalive: Option<Duration>,
    /// Longest silence promised by us; heartbeats go out at half of it. None promised if absent.
    pub inactivity: Option<Duration>,
    /// Whether the server shall send its clock.
    pub send_sync: bool,
    /// Longest time from [`TlcpSession::handle_connecting`](super::TlcpSession::handle_connecting)
    /// to `CONOK`, and the distance between the starts of two attempts to bind anew.
    pub retry: Duration,
    /// Grace after the server's keepalive passed in silence.
    pub stalled: Duration,
    /// Further silence after which the connection is given up.
    pub reconnect: Duration,
    /// How long a broken connection is tried to be recovered before the session is given up. The
    /// server keeps what it sent for a time of its own that it does not tell.
    pub recovery: Duration,
    /// Longest random pause before the first attempt after a working connection broke.
    pub first_retry_max: Duration,
    /// Bytes after which an HTTP connection is to be bound anew.
    pub content_length: u64,
    /// Time on HTTP after which a WebSocket is tried again.
    pub websocket_again: Duration,
    /// First request id. Ids must not come back for some minutes, so a process that makes one
    /// session after the other goes on from [`TlcpSession::next_request_id`](super::TlcpSession::next_request_id).
    pub first_request_id: u64,
    /// Seed of the random pauses.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            version: Version::default(),
            transport: Transport::WebSocket,
            both_transports: true,
            adapter_set: None,
            keepalive: None,
            inactivity: None,
            send_sync: false,
            retry: Duration::from_millis(4000),
            stalled: Duration::from_millis(2000),
            reconnect: Duration::from_millis(3000),
            recovery: Duration::from_millis(15_000),
            first_retry_max: Duration::from_millis(100),
            content_length: 50_000_000,
            websocket_again: Duration::from_secs(600),
            first_request_id: 1,
            seed: 0,
        }
    }
}

/// What becomes of a connection that ends without a word in the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// It was open and is no more.
    #[error("connection closed")]
    Closed,
    /// It could not be had: no address, no route, no listener, no TLS.
    #[error("server unreachable")]
    Unreachable,
    /// Something answered, but not as a Lightstreamer server: a proxy that lets no WebSocket
    /// through, or an HTTP status that means failure.
    #[error("connection refused by an HTTP answer")]
    Refused,
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
        /// Where further connections of this session must go, if not to the configured address.
        control_link: Option<&'a str>,
    },
    /// The connection is gone or the server wants another; the session goes on.
    Interrupted {
        /// Why; what would have ended a session that cannot be bound anew.
        cause: &'a EndCause,
    },
    /// The session is bound to another connection. After a `LOOP` nothing was lost.
    Rebound {
        /// The server is never silent for longer than this.
        keepalive: Duration,
        /// Whether the connection before had broken; [`Event::Recovered`] follows then.
        recovering: bool,
        /// Where further connections of this session must go, if not to the configured address.
        control_link: Option<&'a str>,
    },
    /// The server goes on where the broken connection stopped: nothing was lost.
    Recovered {
        /// Data notifications that it sends again, which are skipped.
        repeated: u64,
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
        /// What changed, in the order of the schema; everything where it is the first.
        changes: &'a Changes<'a>,
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
        /// The server's code (table of request codes), or [`MISMATCH_CODE`](super::session::MISMATCH_CODE).
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
    /// A line that is none of the protocol's, and may have swallowed one that was.
    #[error("garbage on the connection")]
    Garbled,
    /// No `CONOK` in time. Without `WSOK` either, something between us and the server may not let
    /// WebSockets through.
    #[error("no session in time (WebSocket works: {wsok})")]
    ConnectTimeout { wsok: bool },
    /// The connection is gone, or could not be had.
    #[error("{0}")]
    Connection(Lost),
    /// The session could not be recovered in time.
    #[error("not recovered in time after: {first}")]
    Unrecovered { first: Box<EndCause> },
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
    /// A bind answered with another session.
    #[error("bound to another session")]
    AnotherSession,
    /// Its count of data notifications is not ours.
    #[error(transparent)]
    OutOfStep(#[from] OutOfStep),
    /// A message that begins in the middle of a line, behind one that ended without a line end.
    #[error("a line cut in two by the end of a message")]
    SplitLine,
    /// Data on a connection that is not bound yet.
    #[error("data before CONOK")]
    DataBeforeConok,
    /// Data after a recovery, before it said from where it goes on.
    #[error("data before PROG in a recovery")]
    DataBeforeProg,
    /// One item had two faults within [`FAULT_WINDOW`](super::session::FAULT_WINDOW).
    #[error("subscription {tag} faulty again: {reason}")]
    Faults {
        /// The caller's name for the subscription.
        tag: u16,
        /// What was wrong the last time.
        reason: FaultReason,
    },
}
