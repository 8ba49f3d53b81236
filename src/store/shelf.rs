//! The bars that a transaction comes across: looked up, put, replaced.
//!
//! On SQLite each is a statement of its own, since those are cheap there. On a server each is a journey:
//! what may be met is read at once, and what is new is written at once.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::backend::Connection;
use super::bars;
use super::error::StoreError;
use super::rows::StoredBar;
use crate::domain::{Bar, BarKey, Pair, Timeframe, Timestamp};

/// See the module.
#[derive(Default)]
pub(super) struct Shelf {
    /// Of a server: the time of each pair that was read.
    looked: BTreeMap<Pair, Range<Timestamp>>,
    /// Of a server: what is stored in that time, and what will be.
    known: HashMap<BarKey, StoredBar>,
    /// Of a server: what is to be inserted, in the order of `seq`.
    new: Vec<StoredBar>,
}

impl Shelf {
    /// Reads what is stored of each pair within its span, if that is better done at once.
    pub(super) fn look(
        connection: &mut Connection,
        spans: BTreeMap<Pair, Range<Timestamp>>,
    ) -> Result<Shelf, StoreError> {
        if !connection.is_remote() || spans.is_empty() {
            return Ok(Shelf::default());
        }
        let stored = bars::within(connection, &spans)?;
        let known = stored.into_iter().map(|stored| (stored.bar.key, stored)).collect();
        Ok(Shelf { looked: spans, known, new: Vec::new() })
    }

    /// Stores a bar unless there is one of its key, which is what is answered then.
    pub(super) fn put(
        &mut self,
        connection: &mut Connection,
        bar: &StoredBar,
    ) -> Result<Option<StoredBar>, StoreError> {
        let key = bar.bar.key;
        if !connection.is_remote() {
            if bars::insert_or_ignore(connection, bar)? {
                return Ok(None);
            }
            let stored = bars::find(connection, key)?.ok_or_else(|| {
                StoreError::corrupt(format!(
                    "{} {} {} is neither there nor accepted",
                    key.pair, key.timeframe, key.start
                ))
            })?;
            return Ok(Some(stored));
        }
        let stored = match self.known.get(&key) {
            Some(stored) => Some(*stored),
            None if self.has_looked(key.pair, &(key.start..key.start.plus(1))) => None,
            None => bars::find(connection, key)?,
        };
        if stored.is_none() {
            self.known.insert(key, *bar);
            self.new.push(*bar);
        }
        Ok(stored)
    }

    /// Writes a bar over the stored one of its key.
    pub(super) fn replace(&mut self, connection: &mut Connection, bar: &StoredBar) -> Result<(), StoreError> {
        if connection.is_remote() {
            // The stored one may be among the new.
            self.flush(connection)?;
            self.known.insert(bar.bar.key, *bar);
        }
        Ok(bars::replace(connection, bar)?)
    }

    /// The 5-minute bars that start within `span`.
    pub(super) fn parts(
        &self,
        connection: &mut Connection,
        pair: Pair,
        span: Range<Timestamp>,
    ) -> Result<Vec<Bar>, StoreError> {
        if self.has_looked(pair, &span) {
            let slots = std::iter::successors(Some(span.start), |slot| {
                Some(slot.plus(Timeframe::M5.seconds())).filter(|slot| *slot < span.end)
            });
            let key = |start| BarKey { pair, timeframe: Timeframe::M5, start };
            return Ok(slots
                .filter_map(|slot| self.known.get(&key(slot)))
                .map(|stored| stored.bar)
                .collect());
        }
        let stored = bars::newest(connection, pair, Timeframe::M5, span, usize::MAX)?;
        Ok(stored.into_iter().map(|stored| stored.bar).collect())
    }

    /// Inserts what waits for it.
    pub(super) fn flush(&mut self, connection: &mut Connection) -> Result<(), StoreError> {
        if let Connection::Postgres(server) = connection {
            bars::insert_many(&mut server.wire, &self.new)?;
            self.new.clear();
        }
        Ok(())
    }

    fn has_looked(&self, pair: Pair, span: &Range<Timestamp>) -> bool {
        self.looked.get(&pair).is_some_and(|looked| looked.start <= span.start && span.end <= looked.end)
    }
}
