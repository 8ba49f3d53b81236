//! The bars that a transaction comes across: looked up, put, replaced.
//!
//! On SQLite each is a statement of its own, since those are cheap there. On a server each is a journey:
//! what may be met is read at once, and what is new is written at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use diesel::result::QueryResult;
use diesel_async::AsyncPgConnection;
use futures_util::future::{try_join, try_join3};

use super::backend::Connection;
use super::bars;
use super::error::StoreError;
use super::rows::{Revision, StoredBar};
use crate::domain::{Bar, BarKey, Pair, Timeframe, Timestamp};

/// A pair's time is read at once as long as it is no longer: two weeks of its bars are some 6,000. Where a
/// transaction has bars of last year and of today, each is looked up.
const LOOK_SPAN_MAX_S: i64 = 14 * 86_400;

/// See the module.
#[derive(Default)]
pub(super) struct Shelf {
    /// Of a server: the time of each pair that was read.
    looked: BTreeMap<Pair, Range<Timestamp>>,
    /// Of a server: the timeframes of the bars that were read.
    timeframes: BTreeSet<Timeframe>,
    /// Of a server: what is stored in that time, and what will be.
    known: HashMap<BarKey, StoredBar>,
    /// Of a server: what was, or was refused, in that time.
    revisions: Vec<Revision>,
    /// Of a server: keys of bars to be inserted, and of bars to be written over.
    new: BTreeSet<BarKey>,
    changed: BTreeSet<BarKey>,
    /// Of a server: how many of `revisions` are stored.
    kept: usize,
}

impl Shelf {
    /// Reads the bars of these timeframes that a server has of each pair within its span, together with what else is asked.
    pub(super) async fn look(
        server: &AsyncPgConnection,
        mut spans: BTreeMap<Pair, Range<Timestamp>>,
        timeframes: BTreeSet<Timeframe>,
    ) -> Result<Shelf, StoreError> {
        spans.retain(|_, span| span.end.since(span.start) <= LOOK_SPAN_MAX_S);
        let each: Vec<_> = spans
            .iter()
            .flat_map(|(pair, span)| timeframes.iter().map(|timeframe| (*pair, *timeframe, span.clone())))
            .collect();
        let (stored, revisions) =
            try_join(bars::within(server, &each), bars::revisions_within(server, &each)).await?;
        let known = stored.into_iter().map(|stored| (stored.bar.key, stored)).collect();
        let kept = revisions.len();
        Ok(Shelf { looked: spans, timeframes, known, revisions, kept, ..Shelf::default() })
    }

    /// Stores a bar unless there is one of its key, which is what is answered then.
    pub(super) fn put(
        &mut self,
        connection: &mut Connection,
        bar: &StoredBar,
    ) -> Result<Option<StoredBar>, StoreError> {
        let key = bar.bar.key;
        if let Connection::Sqlite(file) = connection {
            if bars::insert_or_ignore(file, bar)? {
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
            None if self.has_looked(key.pair, key.timeframe, &(key.start..key.start.plus(1))) => None,
            None => bars::find(connection, key)?,
        };
        if stored.is_none() {
            self.known.insert(key, *bar);
            self.new.insert(key);
        }
        Ok(stored)
    }

    /// Writes a bar over the stored one of its key.
    pub(super) fn replace(&mut self, connection: &mut Connection, bar: &StoredBar) -> Result<(), StoreError> {
        if !connection.is_remote() {
            return Ok(bars::replace(connection, bar)?);
        }
        let key = bar.bar.key;
        self.known.insert(key, *bar);
        // One that is new itself is only inserted otherwise.
        if !self.new.contains(&key) {
            self.changed.insert(key);
        }
        Ok(())
    }

    /// What a bar was before, and what was refused for it.
    pub(super) fn revisions(
        &mut self,
        connection: &mut Connection,
        key: BarKey,
    ) -> Result<Vec<Revision>, StoreError> {
        let span = key.start..key.start.plus(1);
        let has_looked = self.has_looked(key.pair, key.timeframe, &span);
        let is_of_key = |revision: &&Revision| revision.bar.key == key;
        if has_looked {
            return Ok(self.revisions.iter().filter(is_of_key).copied().collect());
        }
        let mut found = bars::revisions(connection, key.pair, key.timeframe, span)?;
        found.extend(self.revisions[self.kept..].iter().filter(is_of_key));
        Ok(found)
    }

    /// Keeps a value that is not, or no longer, in `candles`.
    pub(super) fn keep(
        &mut self,
        connection: &mut Connection,
        revision: &Revision,
    ) -> Result<(), StoreError> {
        if connection.is_remote() {
            self.revisions.push(*revision);
            return Ok(());
        }
        Ok(bars::insert_revision(connection, revision)?)
    }

    /// The 5-minute bars that start within `span`.
    pub(super) fn parts(
        &mut self,
        connection: &mut Connection,
        pair: Pair,
        span: Range<Timestamp>,
    ) -> Result<Vec<Bar>, StoreError> {
        if self.has_looked(pair, Timeframe::M5, &span) {
            let slots = std::iter::successors(Some(span.start), |slot| {
                Some(slot.plus(Timeframe::M5.seconds())).filter(|slot| *slot < span.end)
            });
            let key = |start| BarKey { pair, timeframe: Timeframe::M5, start };
            return Ok(slots
                .filter_map(|slot| self.known.get(&key(slot)))
                .map(|stored| stored.bar)
                .collect());
        }
        // What is read below is what was written.
        self.flush(connection)?;
        let stored = bars::newest(connection, pair, Timeframe::M5, span, usize::MAX)?;
        Ok(stored.into_iter().map(|stored| stored.bar).collect())
    }

    /// Writes what waits for it.
    pub(super) fn flush(&mut self, connection: &mut Connection) -> Result<(), StoreError> {
        let Connection::Postgres(server) = connection else { return Ok(()) };
        Ok(server.together(self.flush_to(server.shared()))?)
    }

    /// The same on a server, together with what else is asked.
    pub(super) async fn flush_to(&mut self, server: &AsyncPgConnection) -> QueryResult<()> {
        let [new, changed] = [&mut self.new, &mut self.changed].map(|keys| {
            let bars = std::mem::take(keys).into_iter().map(|key| self.known[&key]);
            bars.collect::<Vec<StoredBar>>()
        });
        try_join3(
            bars::insert_many(server, &new),
            bars::replace_many(server, &changed),
            bars::insert_revisions(server, &self.revisions[self.kept..]),
        )
        .await?;
        self.kept = self.revisions.len();
        Ok(())
    }

    fn has_looked(&self, pair: Pair, timeframe: Timeframe, span: &Range<Timestamp>) -> bool {
        self.timeframes.contains(&timeframe)
            && self
                .looked
                .get(&pair)
                .is_some_and(|looked| looked.start <= span.start && span.end <= looked.end)
    }
}
