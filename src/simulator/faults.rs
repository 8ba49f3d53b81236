//! What can be made to go wrong while the simulator runs.

use std::sync::Arc;

use super::Shared;
use crate::domain::Timestamp;

/// Whether new streams are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusing {
    Never,
    /// Until told otherwise.
    Always,
    /// Until virtual time reaches this.
    Until(Timestamp),
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
        self.shared.feed().cut();
        self.shared.wake.notify_one();
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
