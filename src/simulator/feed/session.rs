//! What the server remembers of one session and of its subscriptions. Pure.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use crate::simulator::desk::AccountType;
use crate::simulator::sent::Sent;
use crate::simulator::tlcp::{Field, ItemState, write_line};

/// Request ids remembered for the check that none comes twice; then the memory starts afresh.
const REQUEST_IDS_MAX: usize = 10_000;

#[derive(Debug)]
pub(crate) struct Item {
    pub series: usize,
    pub decimals: usize,
    /// `U,<subscription>,<item>,`
    pub prefix: Vec<u8>,
    pub state: ItemState,
}

#[derive(Debug)]
pub(crate) struct Subscription {
    pub schema: Vec<Field>,
    pub unfiltered: bool,
    pub items: Vec<Item>,
}

/// A Lightstreamer session.
#[derive(Debug)]
pub(crate) struct Session {
    pub id: String,
    /// What its account may see; `None` for a client that named no user.
    pub account_type: Option<AccountType>,
    pub subscriptions: BTreeMap<u32, Subscription>,
    pub highest_sub_id: u32,
    request_ids: HashSet<String>,
    /// Lines of the current call, handed to the bound connection at its end.
    pub lines: Vec<u8>,
    /// The data lines among those.
    pub sent: Sent,
    /// Data lines that were handed to a connection; the others wait for one.
    pub delivered: u64,
    /// Number of the connection that it is bound to.
    pub bound: Option<u64>,
    /// Since when it is bound to none, in real time.
    pub unbound_since: Option<Instant>,
}

impl Session {
    /// A session that keeps so many bytes of what it was sent.
    pub fn new(id: String, account_type: Option<AccountType>, recovery_bytes: usize) -> Session {
        Session {
            id,
            account_type,
            subscriptions: BTreeMap::new(),
            highest_sub_id: 0,
            request_ids: HashSet::new(),
            lines: Vec::new(),
            sent: Sent::new(recovery_bytes),
            delivered: 0,
            bound: None,
            unbound_since: None,
        }
    }

    /// Items that are subscribed to.
    pub fn items(&self) -> usize {
        self.subscriptions.values().map(|subscription| subscription.items.len()).sum()
    }

    /// The series of all items.
    pub fn series(&self) -> impl Iterator<Item = usize> + '_ {
        self.subscriptions.values().flat_map(|subscription| subscription.items.iter().map(|item| item.series))
    }

    /// It is bound to no connection any more.
    pub fn unbind(&mut self, real: Instant) {
        (self.bound, self.unbound_since) = (None, Some(real));
    }

    /// Writes a line that counts for a recovery.
    pub fn write_data(&mut self, text: std::fmt::Arguments<'_>) {
        let begin = self.lines.len();
        write_line(&mut self.lines, text);
        self.sent.append(&self.lines[begin..], 1);
    }

    /// Whether a request id is used for the first time.
    pub fn takes_request_id(&mut self, id: &str) -> bool {
        if self.request_ids.len() >= REQUEST_IDS_MAX {
            self.request_ids.clear();
        }
        self.request_ids.insert(id.to_owned())
    }
}
