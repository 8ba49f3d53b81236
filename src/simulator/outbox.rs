//! Lines on their way to one socket.
//!
//! The feed pushes whole lines in, the socket's task takes them out as fast as the peer reads.
//! Whoever makes lines can wait until few are left: that is how a slow client slows the
//! simulated world down instead of losing rows.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use actix_web::web::Bytes;
use tokio::sync::Notify;

/// Bytes that may wait for a socket before the makers of lines are held up.
const WAITING_BYTES: usize = 32 * 1024;

/// What a bound connection must send by itself, in real time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Upkeep {
    /// Longest silence before a `PROBE`.
    pub keepalive_ms: u64,
    /// Whether `SYNC` lines are wanted.
    pub sync: bool,
}

/// How messages are cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Framing {
    /// Longest frame, or piece over HTTP; 0: as long as it comes.
    pub fragment_bytes: usize,
    /// Whether each line is a message by itself.
    pub single_lines: bool,
    /// How long each of these waits for the one before it, in real time.
    pub apart: Duration,
}

/// How a socket ends without what waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severed {
    /// As when the process behind it ends: FIN.
    Dropped,
    /// As when the host behind it no longer knows the connection: RST.
    Reset,
}

/// What waits, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parcel {
    /// Whole lines; how they are cut into messages is the socket's business.
    Lines(Vec<u8>),
    /// Exactly these frames.
    Frames(Vec<Frame>),
}

impl Parcel {
    fn len(&self) -> usize {
        match self {
            Parcel::Lines(lines) => lines.len(),
            Parcel::Frames(frames) => frames.iter().map(|frame| frame.bytes.len()).sum(),
        }
    }
}

/// One WebSocket frame. Over HTTP its bytes are sent as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub kind: FrameKind,
    /// Whether the message ends with it.
    pub is_last: bool,
    pub bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    Text,
    Binary,
    Continuation,
}

#[derive(Debug, Default)]
struct State {
    parcels: VecDeque<Parcel>,
    bytes: usize,
    /// What the latest ping of the peer carried, until it is answered.
    ping: Option<Bytes>,
    upkeep: Option<Upkeep>,
    framing: Framing,
    severed: Option<Severed>,
    close_code: Option<u16>,
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    closed: AtomicBool,
    muted: AtomicBool,
    /// Bytes of lines that the socket's task made up by itself.
    upkeep_bytes: AtomicU64,
    changed: Notify,
    drained: Notify,
}

impl Outbox {
    /// Appends `lines`, leaving it empty.
    pub fn push(&self, lines: &mut Vec<u8>) {
        if self.is_muted() {
            lines.clear();
        }
        if lines.is_empty() {
            return;
        }
        let mut state = self.lock();
        state.bytes += lines.len();
        match state.parcels.back_mut() {
            Some(Parcel::Lines(waiting)) => waiting.append(lines),
            _ => state.parcels.push_back(Parcel::Lines(std::mem::take(lines))),
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Appends one message in exactly these frames.
    pub fn push_frames(&self, frames: Vec<Frame>) {
        if self.is_muted() {
            return;
        }
        let parcel = Parcel::Frames(frames);
        let mut state = self.lock();
        state.bytes += parcel.len();
        state.parcels.push_back(parcel);
        drop(state);
        self.changed.notify_one();
    }

    /// Takes what waits longest, and tells the makers of lines that there is room.
    pub fn take(&self) -> Option<Parcel> {
        let mut state = self.lock();
        let parcel = state.parcels.pop_front()?;
        state.bytes -= parcel.len();
        drop(state);
        self.drained.notify_one();
        Some(parcel)
    }

    /// Waits until something was pushed, bound, unbound, closed or severed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Waits until few bytes wait, or the socket is gone.
    pub async fn room(&self) {
        while !self.is_closed() && !self.is_muted() && self.lock().bytes > WAITING_BYTES {
            self.drained.notified().await;
        }
    }

    /// A session was bound to the socket.
    pub fn bind(&self, upkeep: Option<Upkeep>) {
        self.lock().upkeep = upkeep;
        self.changed.notify_one();
    }

    /// The session has ended or gone elsewhere; the socket may live on.
    pub fn unbind(&self) {
        self.bind(None);
    }

    /// What the bound session wants, if one is.
    pub fn upkeep(&self) -> Option<Upkeep> {
        self.lock().upkeep
    }

    /// The socket's task sent a line of its own making.
    pub fn count_upkeep(&self, bytes: usize) {
        self.upkeep_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of lines that were of the task's own making.
    pub fn upkeep_bytes(&self) -> u64 {
        self.upkeep_bytes.load(Ordering::Relaxed)
    }

    /// Messages are cut so from now on.
    pub fn set_framing(&self, framing: Framing) {
        self.lock().framing = framing;
    }

    pub fn framing(&self) -> Framing {
        self.lock().framing
    }

    /// The peer sent a ping; the latest one is answered.
    pub fn ping(&self, payload: Bytes) {
        self.lock().ping = Some(payload);
        self.changed.notify_one();
    }

    /// Takes the ping that is to be answered.
    pub fn take_ping(&self) -> Option<Bytes> {
        self.lock().ping.take()
    }

    /// From now on nothing is sent and nothing answered, while the socket stays open: as when
    /// the way between two hosts is lost.
    pub fn mute(&self) {
        self.muted.store(true, Ordering::Release);
        let mut state = self.lock();
        state.parcels.clear();
        (state.bytes, state.ping, state.upkeep) = (0, None, None);
        drop(state);
        self.changed.notify_one();
        self.drained.notify_one();
    }

    pub fn is_muted(&self) -> bool {
        self.muted.load(Ordering::Acquire)
    }

    /// The socket is to be dropped at once, with all that waits.
    pub fn sever(&self, how: Severed) {
        self.lock().severed.get_or_insert(how);
        self.close();
    }

    /// Whether and how the socket is to be dropped.
    pub fn severed(&self) -> Option<Severed> {
        self.lock().severed
    }

    /// The socket is to be closed once what waits is sent, or is gone.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.changed.notify_one();
        self.drained.notify_one();
    }

    /// The same, with a code in the WebSocket's close frame.
    pub fn close_with(&self, code: u16) {
        self.lock().close_code = Some(code);
        self.close();
    }

    pub fn close_code(&self) -> Option<u16> {
        self.lock().close_code
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while holding an outbox")
    }
}
