//! What a transaction that writes begins with: the lock that all writers take, a look whether the lease is still the
//! writer's, and, where facts are to be stored, what is stored that they may come across.
//!
//! On a server all of it goes out together and is one journey. The server works through it in that order, and what follows
//! the lock is read behind it, under a snapshot of its own: so nobody can write in between.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use diesel::connection::SimpleConnection;
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use futures_util::future::{try_join, try_join3};

use super::backend::{Connection, Lasting, begin_write, begin_write_on};
use super::bars;
use super::error::StoreError;
use super::lease::{self, Fence};
use super::ledger::Ledger;
use super::postgres::Server;
use super::shelf::Shelf;
use crate::domain::{Bar, Fact, FactBatch, Mark, Pair, Timeframe, Timestamp};

/// Where the bars and the ledger lie that facts may come across.
pub(super) struct Reach {
    /// Of each pair, the longer buckets that its settled bars lie in.
    bars: BTreeMap<Pair, Range<Timestamp>>,
    /// The timeframes of those bars, of their parts, and of what they may complete.
    timeframes: BTreeSet<Timeframe>,
    /// Of each pair, the longer buckets that anything said of it lies in.
    ledger: BTreeMap<Pair, Range<Timestamp>>,
    /// The timeframes of which anything is said, and of what it may complete.
    told_of: BTreeSet<Timeframe>,
}

impl Reach {
    /// Of these facts, with these `longer` timeframes to derive.
    pub(super) fn of(batches: &[Arc<FactBatch>], longer: &[Timeframe]) -> Reach {
        let timeframes: BTreeSet<Timeframe> = longer.iter().copied().chain([Timeframe::M5]).collect();
        let (told_of, bars, ledger) = (timeframes.clone(), BTreeMap::new(), BTreeMap::new());
        let mut reach = Reach { bars, timeframes, ledger, told_of };
        for fact in batches.iter().flat_map(|batch| &batch.facts) {
            match fact {
                Fact::Settled(Bar { key, .. }) => {
                    let around = around(longer, &(key.start..key.start.plus(key.timeframe.seconds())));
                    reach.timeframes.insert(key.timeframe);
                    reach.told_of.insert(key.timeframe);
                    widen(&mut reach.bars, key.pair, around.clone());
                    widen(&mut reach.ledger, key.pair, around);
                }
                Fact::Marked(Mark { pair, timeframe, span, .. }) if span.start < span.end => {
                    reach.told_of.insert(*timeframe);
                    widen(&mut reach.ledger, *pair, around(longer, span));
                }
                Fact::Marked(_) => {}
            }
        }
        reach
    }
}

/// The longer buckets that meet a span, whole.
fn around(longer: &[Timeframe], span: &Range<Timestamp>) -> Range<Timestamp> {
    // Each timeframe is asked: buckets of 10 and 15 minutes do not nest.
    let lengths = || longer.iter().map(|longer| longer.seconds());
    let start = lengths().map(|length| span.start.floor(length)).min();
    let end = lengths().map(|length| span.end.ceil(length)).max();
    start.unwrap_or(span.start)..end.unwrap_or(span.end)
}

fn widen(spans: &mut BTreeMap<Pair, Range<Timestamp>>, pair: Pair, span: Range<Timestamp>) {
    let hull = spans.entry(pair).or_insert(span.clone());
    *hull = hull.start.min(span.start)..hull.end.max(span.end);
}

/// What is stored that facts may come across.
pub(super) struct Outset {
    /// The highest `seq` given so far.
    pub(super) last_seq: i64,
    pub(super) shelf: Shelf,
    pub(super) ledger: Ledger,
}

impl Outset {
    /// Reads it, in a transaction that has begun.
    pub(super) fn read(connection: &mut Connection, reach: Reach) -> Result<Outset, StoreError> {
        match connection {
            Connection::Sqlite(file) => {
                let ledger = Ledger::load(file, &reach.ledger, &reach.told_of)?;
                Ok(Outset { last_seq: bars::last_seq(connection)?, shelf: Shelf::default(), ledger })
            }
            Connection::Postgres(server) => server.together(Outset::read_on(server.shared(), reach)),
        }
    }

    async fn read_on(server: &AsyncPgConnection, reach: Reach) -> Result<Outset, StoreError> {
        let (last_seq, shelf, ledger) = try_join3(
            async { Ok(bars::last_seq_on(server).await?) },
            Shelf::look(server, reach.bars, reach.timeframes),
            Ledger::load_on(server, &reach.ledger, &reach.told_of),
        )
        .await?;
        Ok(Outset { last_seq, shelf, ledger })
    }
}

/// Begins a transaction that may write. Whoever has had the lease is let in only while it has.
pub(super) fn begin(connection: &mut Connection, fence: Option<&Fence>) -> Result<(), StoreError> {
    match connection {
        Connection::Sqlite(file) => {
            file.batch_execute(begin_write(Lasting::Disk))?;
            fence.map_or(Ok(()), |fence| lease::check(file, fence))
        }
        Connection::Postgres(server) => begin_on(server, Lasting::Disk, fence, async |_| Ok(())),
    }
}

/// Begins a transaction for a sign of life, whose commit waits for no disk.
pub(super) fn begin_sign_of_life(connection: &mut Connection) -> Result<(), StoreError> {
    match connection {
        Connection::Sqlite(file) => Ok(file.batch_execute(begin_write(Lasting::Process))?),
        Connection::Postgres(server) => begin_on(server, Lasting::Process, None, async |_| Ok(())),
    }
}

/// The same, and reads what facts of this reach may come across.
pub(super) fn begin_reading(
    connection: &mut Connection,
    fence: Option<&Fence>,
    reach: Reach,
) -> Result<Outset, StoreError> {
    match connection {
        Connection::Sqlite(_) => {
            begin(connection, fence)?;
            Outset::read(connection, reach)
        }
        Connection::Postgres(server) => {
            begin_on(server, Lasting::Disk, fence, async |server| Outset::read_on(server, reach).await)
        }
    }
}

/// Begins on a server and asks `also` behind the lock. What fails first is what is told: the server does nothing in a
/// transaction that has failed.
fn begin_on<R>(
    server: &mut Server,
    lasting: Lasting,
    fence: Option<&Fence>,
    also: impl AsyncFnOnce(&AsyncPgConnection) -> Result<R, StoreError>,
) -> Result<R, StoreError> {
    let begin = begin_write_on(server, lasting)?;
    let shared = server.shared();
    let begun = async {
        let mut server = shared;
        Ok(server.batch_execute(&begin).await?)
    };
    let fenced = async {
        match fence {
            Some(fence) => lease::check_on(shared, fence).await,
            None => Ok(()),
        }
    };
    let (_, _, read) = server.together(try_join3(begun, fenced, also(shared)))?;
    Ok(read)
}

/// Writes what a transaction of facts has come to, on a server as one journey.
pub(super) fn finish(
    connection: &mut Connection,
    shelf: &mut Shelf,
    ledger: &Ledger,
    now: Timestamp,
) -> Result<(), StoreError> {
    match connection {
        // Its bars are written.
        Connection::Sqlite(connection) => ledger.save(connection, now)?,
        Connection::Postgres(server) => {
            let shared = server.shared();
            server.together(try_join(shelf.flush_to(shared), ledger.save_on(shared, now)))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use diesel::dsl::sql;
    use diesel::prelude::*;
    use diesel::sql_types::Integer;

    use super::*;
    use crate::store::backend::Connection;
    use crate::store::{DatabaseUrl, Store};

    #[test]
    fn only_signs_of_life_wait_for_no_disk() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&DatabaseUrl::sqlite(folder.path().join("bars.db"))).unwrap();
        let waits = |connection: &mut Connection| {
            let Connection::Sqlite(file) = connection else { unreachable!("a file") };
            let level = sql::<Integer>("(SELECT synchronous FROM pragma_synchronous)");
            // FULL is 2.
            diesel::select(level).get_result::<i32>(file).unwrap() == 2
        };
        for _ in 0..2 {
            begin_sign_of_life(&mut store.connection).unwrap();
            assert!(!waits(&mut store.connection));
            store.connection.roll_back();
            begin(&mut store.connection, None).unwrap();
            assert!(waits(&mut store.connection));
            store.connection.commit().unwrap();
        }
        // One that something was left open by is not made to wait for less, nor for more: it does not begin.
        begin_sign_of_life(&mut store.connection).unwrap();
        begin(&mut store.connection, None).unwrap_err();
        store.connection.roll_back();
        begin_reading(&mut store.connection, None, Reach::of(&[], &[])).unwrap();
        assert!(waits(&mut store.connection));
    }
}
