//! Lines on their way to one socket.
//!
//! The feed pushes whole lines in, the socket's task takes them out as fast as the peer reads.
//! Whoever makes lines can wait until few are left: that is how a slow client slows the
//! simulated world down instead of losing rows.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

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

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    /// What the latest ping of the peer carried, until it is answered.
    ping: Option<Bytes>,
    upkeep: Option<Upkeep>,
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    closed: AtomicBool,
    cut: AtomicBool,
    filled: Notify,
    drained: Notify,
    severed: Notify,
}

impl Outbox {
    /// Appends `lines`, leaving it empty.
    pub fn push(&self, lines: &mut Vec<u8>) {
        if lines.is_empty() {
            return;
        }
        let mut state = self.lock();
        if state.bytes.is_empty() {
            std::mem::swap(&mut state.bytes, lines);
        } else {
            state.bytes.extend_from_slice(lines);
        }
        lines.clear();
        drop(state);
        self.filled.notify_one();
    }

    /// Takes everything that waits; empty where nothing does.
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.lock().bytes)
    }

    /// Tells the makers of lines that the socket took some.
    pub fn sent(&self) {
        self.drained.notify_one();
    }

    /// Waits until something was pushed, bound, unbound or closed.
    pub async fn changed(&self) {
        self.filled.notified().await;
    }

    /// Waits until few bytes wait, or the socket is gone.
    pub async fn room(&self) {
        while !self.is_closed() && self.lock().bytes.len() > WAITING_BYTES {
            self.drained.notified().await;
        }
    }

    /// A session was bound to the socket.
    pub fn bind(&self, keepalive_ms: u64, sync: bool) {
        self.lock().upkeep = Some(Upkeep { keepalive_ms, sync });
        self.filled.notify_one();
    }

    /// The session has ended; the socket may live on.
    pub fn unbind(&self) {
        self.lock().upkeep = None;
        self.filled.notify_one();
    }

    /// What the bound session wants, if one is.
    pub fn upkeep(&self) -> Option<Upkeep> {
        self.lock().upkeep
    }

    /// The peer sent a ping; the latest one is answered.
    pub fn ping(&self, payload: Bytes) {
        self.lock().ping = Some(payload);
        self.filled.notify_one();
    }

    /// Takes the ping that is to be answered.
    pub fn take_ping(&self) -> Option<Bytes> {
        self.lock().ping.take()
    }

    /// The socket is to be dropped at once, with all that waits.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.severed.notify_one();
        self.close();
    }

    /// Waits until the socket is to be dropped.
    pub async fn until_cut(&self) {
        while !self.cut.load(Ordering::Acquire) {
            self.severed.notified().await;
        }
    }

    /// The socket is to be closed once what waits is sent, or is gone.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.filled.notify_one();
        self.drained.notify_one();
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while holding an outbox")
    }
}
