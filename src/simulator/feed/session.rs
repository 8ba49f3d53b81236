//! What the server remembers of one session and of its subscriptions. Pure.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Instant;

use super::mischief::{Mischief, Telling};
use crate::domain::{Pair, Timestamp};
use crate::simulator::desk::AccountType;
use crate::simulator::sent::Sent;
use crate::simulator::tlcp::{Field, ItemState, Row, write_false_row, write_line, write_row};

/// Request ids remembered for the check that none comes twice; then the memory starts afresh.
const REQUEST_IDS_MAX: usize = 10_000;
/// Rows of one item that may wait to be told late; the oldest are lost.
const LATE_MAX: usize = 100;

#[derive(Debug)]
pub(crate) struct Item {
    pub pair: Pair,
    pub series: usize,
    pub decimals: usize,
    sub_id: u32,
    place: usize,
    /// `U,<subscription>,<item>,`
    prefix: Vec<u8>,
    state: ItemState,
    /// Nothing is told before, where there is a time.
    pub stalled_until: Option<Timestamp>,
    /// Rows that come late, or again.
    late: VecDeque<(Timestamp, Row)>,
}

impl Item {
    /// An item of which nothing was told yet: its subscription's, at this place from 1 on.
    pub fn new(pair: Pair, series: usize, decimals: usize, sub_id: u32, place: usize) -> Item {
        let prefix = format!("U,{sub_id},{place},").into_bytes();
        let (state, stalled_until, late) = (ItemState::default(), None, VecDeque::new());
        Item { pair, series, decimals, sub_id, place, prefix, state, stalled_until, late }
    }

    /// Its prices have so many decimals from now on.
    pub fn rescale(&mut self, decimals: usize) {
        (self.decimals, self.state) = (decimals, ItemState::default());
    }

    /// Whether nothing but the rows of the market is to be told.
    pub fn is_plain(&self) -> bool {
        self.stalled_until.is_none() && self.late.is_empty()
    }

    /// Tells what has changed; answers whether anything has.
    pub fn tell(&mut self, out: &mut Vec<u8>, schema: &[Field], row: &Row) -> bool {
        write_row(out, &self.prefix, schema, row, self.decimals, &mut self.state)
    }

    /// Tells the whole row.
    fn tell_whole(&mut self, out: &mut Vec<u8>, schema: &[Field], row: &Row) {
        self.state = ItemState::default();
        self.tell(out, schema, row);
    }

    /// Tells what is late, and the row of the present, if there is one, as it is to be told.
    /// Answers how many lines that took.
    pub fn tell_oddly(
        &mut self,
        out: &mut Vec<u8>,
        schema: &[Field],
        row: Option<&Row>,
        now: Timestamp,
        mischief: &mut Mischief,
    ) -> u64 {
        if self.stalled_until.is_some_and(|until| now < until) {
            return 0;
        }
        self.stalled_until = None;
        let mut told = 0;
        while self.late.front().is_some_and(|(at, _)| *at <= now)
            && let Some((_, late)) = self.late.pop_front()
        {
            self.tell_whole(out, schema, &late);
            told += 1;
        }
        let Some(row) = row else { return told };
        told + match mischief.telling(self.pair, row, now) {
            Telling::Plainly => u64::from(self.tell(out, schema, row)),
            Telling::Instead { now, later } => {
                self.late.extend(later);
                if self.late.len() > LATE_MAX {
                    self.late.pop_front();
                }
                now.map_or(0, |row| u64::from(self.tell(out, schema, &row)))
            }
            Telling::Lost(None) => 0,
            Telling::Lost(Some(count)) => {
                write_line(out, format_args!("OV,{},{},{count}", self.sub_id, self.place));
                1
            }
            Telling::Values(texts) => {
                write_false_row(out, &self.prefix, schema, row, self.decimals, &texts);
                self.state = ItemState::default();
                1
            }
            Telling::Raw(values) => {
                out.extend_from_slice(&self.prefix);
                write_line(out, format_args!("{}", values.replace(['\r', '\n'], "")));
                self.state = ItemState::default();
                1
            }
        }
    }
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
