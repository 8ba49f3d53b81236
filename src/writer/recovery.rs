//! At start: what an earlier process left in the journal goes to the database before anything
//! reads the ledger. Blocks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::batch::FACTS_PER_COMMIT_MAX;
use super::journal::{self, Journal, JournalError, Tail};
use crate::domain::{BarKey, Fact, FactBatch, Mark, Pair, Reason, State, Timeframe, Timestamp};
use crate::failpoint;
use crate::store::{DatabaseUrl, Lease, Store, StoreError};

/// Why there can be no start.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal: another's, or with facts that cannot be read or got rid of.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Opens the journal of a database, whose lease is this, and commits what is in it. None where a
/// journal cannot be made, or is that of a leader before this one which lives: that is told, and no reason not to
/// collect.
///
/// # Errors
/// Where going on would be wrong.
pub fn recover(
    store: &mut Store,
    lease: &Lease,
    database: &DatabaseUrl,
    folder: Option<&Path>,
    now: Timestamp,
) -> Result<Option<Journal>, RecoveryError> {
    let path = spool_path(database, folder);
    let was_there = path.exists();
    let mut journal = match Journal::open(&path, &store.database_id()?) {
        Ok(journal) => journal,
        Err(JournalError::Io { error, .. }) if !was_there => {
            log::error!(
                file:% = path.display(), error:% = error;
                "no spool can be made: while the database is away, bars wait in memory alone"
            );
            return Ok(None);
        }
        // A leader that is paused has lost the lease but not its file. What is in that it stores itself,
        // once it leads again.
        Err(error @ JournalError::InUse { .. }) if store.has_standbys() => {
            log::error!(error:% = error; "while the database is away, bars wait in memory alone");
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    tell_aside(&journal);
    commit(store, lease, &mut journal, now)?;
    match journal.tail() {
        Tail::Whole => {}
        Tail::Torn => {
            log::warn!(file:% = path.display(); "the spool's last record was being written when the process ended; it is cut");
        }
        Tail::Damaged { lost } => {
            // What lies behind is not taken, though it can be read: without what is missing between, the
            // ledger would have a gap that nothing accounts for. Like this it ends before it, and the time since
            // then is listed as missing and fetched.
            log::error!(file:% = path.display(), records = lost; "the spool is damaged, what these records told is fetched again");
            let journal = journal.replace()?;
            tell_aside(&journal);
            return Ok(Some(journal));
        }
    }
    if !journal.is_empty() {
        journal.empty()?;
    }
    Ok(Some(journal))
}

/// Where the journal of a database is. Two names of one SQLite file have one.
pub fn spool_path(database: &DatabaseUrl, folder: Option<&Path>) -> PathBuf {
    let canonical = database.sqlite_path().and_then(|path| path.canonicalize().ok());
    journal::path(&canonical.map_or(database.clone(), DatabaseUrl::sqlite), folder)
}

/// Commits everything, a bounded part at a time.
fn commit(
    store: &mut Store,
    lease: &Lease,
    journal: &mut Journal,
    now: Timestamp,
) -> Result<(), RecoveryError> {
    let facts = journal.facts();
    if facts == 0 {
        return Ok(());
    }
    // Bars keep the ids of the feeds that they were collected from.
    store.recall_feeds()?;
    let mut ends = store.covered_to(Timeframe::M5)?;
    while let Some(chunk) = journal.next_chunk(FACTS_PER_COMMIT_MAX)? {
        // Nobody else renews it yet, and there may be much to do.
        store.renew_lease(lease, now)?;
        let mut batches = vec![unaccounted(&mut ends, &chunk.batches)];
        batches.extend(chunk.batches.iter().cloned());
        store.commit(&batches, now)?;
        failpoint::reach("replay.committed");
        journal.committed(&chunk);
    }
    log::info!(file:% = journal.path().display(), facts; "stored what was in the spool");
    Ok(())
}

/// Marks as missing what lies between the end of a pair's ledger and what is told of it next: nothing, but
/// where the database is older than the spool, a backup that was put back. `ends` moves on.
fn unaccounted(ends: &mut BTreeMap<Pair, Timestamp>, batches: &[Arc<FactBatch>]) -> Arc<FactBatch> {
    let mut facts = Vec::new();
    for fact in batches.iter().flat_map(|batch| &batch.facts) {
        let (pair, timeframe, span) = match fact {
            Fact::Settled(bar) => {
                let BarKey { pair, timeframe, start } = bar.key;
                (pair, timeframe, start..start.plus(timeframe.seconds()))
            }
            Fact::Marked(mark) => (mark.pair, mark.timeframe, mark.span.clone()),
        };
        if timeframe != Timeframe::M5 {
            continue;
        }
        let end = ends.entry(pair).or_insert(span.start);
        if *end < span.start {
            let (state, reason) = (State::Missing, Reason::Offline);
            facts.push(Fact::Marked(Mark { pair, timeframe, span: *end..span.start, state, reason }));
        }
        *end = span.end.max(*end);
    }
    Arc::new(FactBatch { evidence: "spool".into(), facts })
}

fn tell_aside(journal: &Journal) {
    if let Some(aside) = journal.aside() {
        log::error!(
            file:% = aside.display();
            "a spool that is damaged, or another database's, was moved aside; nothing of it is stored"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::domain::{Bar, Ohlc, Price, Source};
    use crate::store::{BarQuery, Feed};

    const NOW: Timestamp = Timestamp(1_705_490_000);
    const START: Timestamp = Timestamp(1_705_485_600);

    fn pair() -> Pair {
        "EURUSD".parse().unwrap()
    }

    fn bar(slot: i64) -> Arc<FactBatch> {
        let price = Price::from_units(100_000_000 + slot).unwrap();
        let side = Ohlc { open: price, high: price, low: price, close: price };
        let key = BarKey { pair: pair(), timeframe: Timeframe::M5, start: START.plus(slot * 300) };
        let bar = Bar { key, bid: side, ask: side, volume: 1, source: Source::Stream };
        Arc::new(FactBatch { evidence: "ls:1".into(), facts: vec![Fact::Settled(bar)] })
    }

    struct Place {
        folder: tempfile::TempDir,
        url: DatabaseUrl,
    }

    impl Place {
        /// A database whose spool holds the bars of so many slots, a record each.
        fn new(slots: i64) -> Place {
            let folder = tempfile::tempdir().unwrap();
            let url = DatabaseUrl::sqlite(folder.path().join("c.db"));
            let place = Place { folder, url };
            let mut journal = place.recover(&mut place.store()).unwrap();
            for slot in 0..slots {
                journal.append(&[bar(slot)]).unwrap();
            }
            place
        }

        fn store(&self) -> Store {
            Store::open(&self.url).unwrap()
        }

        fn recover(&self, store: &mut Store) -> Option<Journal> {
            self.try_recover(store, None).unwrap()
        }

        fn try_recover(
            &self,
            store: &mut Store,
            folder: Option<&Path>,
        ) -> Result<Option<Journal>, RecoveryError> {
            let lease = store.acquire_lease("run", NOW).unwrap();
            recover(store, &lease, &self.url, folder, NOW)
        }

        fn spool(&self) -> PathBuf {
            self.folder.path().join("c.db.spool")
        }
    }

    fn stored(store: &mut Store) -> Vec<i64> {
        let bars = store.bars(pair(), Timeframe::M5, &BarQuery::default()).unwrap();
        bars.iter().map(|row| row.bar.key.start.since(START) / 300).collect()
    }

    #[test]
    fn what_is_in_the_spool_is_stored_with_the_feed_it_came_from() {
        let place = Place::new(3);
        let feed = Feed {
            pair: pair(),
            epic: "CS.D.EURUSD.CFD.IP".to_owned(),
            environment: "demo".to_owned(),
            account_type: "CFD".to_owned(),
            scale: "1".to_owned(),
            calendar: "forex".to_owned(),
        };
        let ids = place.store().watch_feeds(&[feed], START).unwrap();
        let mut store = place.store();
        let journal = place.recover(&mut store).unwrap();
        assert!(journal.is_empty() && journal.aside().is_none());
        assert_eq!(stored(&mut store), [0, 1, 2]);
        let row = &store.bars(pair(), Timeframe::M5, &BarQuery::default()).unwrap()[0];
        assert_eq!(row.feed_id, Some(ids[0]));
        drop(journal);
        place.recover(&mut store).unwrap();
        assert_eq!(stored(&mut store), [0, 1, 2], "once");
    }

    #[test]
    fn behind_damage_nothing_is_stored_so_that_the_ledger_ends_before_it() {
        let place = Place::new(4);
        let mut bytes = fs::read(place.spool()).unwrap();
        let second = memchr::memmem::find_iter(&bytes, b"E ls:1").nth(1).unwrap();
        bytes[second + 30] ^= 1;
        fs::write(place.spool(), &bytes).unwrap();
        let mut store = place.store();
        let journal = place.recover(&mut store).unwrap();
        assert_eq!(stored(&mut store), [0]);
        assert_eq!(store.covered_to(Timeframe::M5).unwrap()[&pair()], START.plus(300));
        let runs = store.coverage(pair(), Timeframe::M5, START..START.plus(3_000)).unwrap();
        assert_eq!(runs.len(), 1);
        assert_eq!(runs[0].state, State::Stored);
        let aside = journal.aside().unwrap();
        assert_eq!(fs::read(aside).unwrap(), bytes, "kept as it was");
        assert!(journal.is_empty());
    }

    #[test]
    fn what_lies_before_the_spool_in_an_older_database_is_missing_and_not_forgotten() {
        let place = Place::new(2);
        let mut store = place.store();
        // A backup from ten slots before.
        store.commit(&[bar(-10)], NOW).unwrap();
        place.recover(&mut store).unwrap();
        let runs = store.coverage(pair(), Timeframe::M5, START.plus(-3_000)..START.plus(3_000)).unwrap();
        let told: Vec<_> = runs
            .iter()
            .map(|run| (run.span.start.since(START) / 300, run.span.end.since(START) / 300, run.state))
            .collect();
        assert_eq!(told, [(-10, -9, State::Stored), (-9, 0, State::Missing), (0, 2, State::Stored)]);
    }

    #[test]
    fn a_new_database_does_not_take_over_an_old_one_s_bars() {
        let place = Place::new(2);
        for ending in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(place.folder.path().join(format!("c.db{ending}")));
        }
        let mut store = place.store();
        let journal = place.recover(&mut store).unwrap();
        assert_eq!(stored(&mut store), [0; 0]);
        assert!(journal.aside().is_some());
    }

    #[test]
    fn a_spool_that_cannot_be_made_is_no_reason_not_to_collect_but_one_that_cannot_be_read_is() {
        let place = Place::new(1);
        let mut store = place.store();
        let nowhere = place.folder.path().join("nowhere");
        assert!(place.try_recover(&mut store, Some(&nowhere)).unwrap().is_none());
        fs::remove_file(place.spool()).unwrap();
        fs::create_dir(place.spool()).unwrap();
        let refused = place.try_recover(&mut store, None);
        assert!(matches!(refused, Err(RecoveryError::Journal(JournalError::Io { .. }))));
    }

    #[test]
    fn two_names_of_a_database_have_one_spool() {
        let place = Place::new(1);
        let link = place.folder.path().join("link.db");
        std::os::unix::fs::symlink(place.folder.path().join("c.db"), &link).unwrap();
        let paths = [&place.url, &DatabaseUrl::sqlite(link)].map(|url| spool_path(url, None));
        assert_eq!(paths[0], paths[1]);
    }
}
