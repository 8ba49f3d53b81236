//! At start: what an earlier process left in the journal goes to the database before anything
//! reads the ledger. Blocks.

use std::path::{Path, PathBuf};

use super::batch::FACTS_PER_COMMIT_MAX;
use super::journal::{self, Journal, JournalError, Tail};
use crate::domain::Timestamp;
use crate::failpoint;
use crate::store::{DatabaseUrl, Store, StoreError};

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

/// Opens the journal of a database, whose lease is held, and commits what is in it. None where a
/// journal cannot be made: that is told, and no reason not to collect.
///
/// # Errors
/// Where going on would be wrong.
pub fn recover(
    store: &mut Store,
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
        Err(error) => return Err(error.into()),
    };
    tell_aside(&journal);
    commit(store, &mut journal, now)?;
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
fn commit(store: &mut Store, journal: &mut Journal, now: Timestamp) -> Result<(), RecoveryError> {
    let facts = journal.facts();
    if facts == 0 {
        return Ok(());
    }
    // Bars keep the ids of the feeds that they were collected from.
    store.recall_feeds()?;
    while let Some(chunk) = journal.next_chunk(FACTS_PER_COMMIT_MAX)? {
        store.commit(&chunk.batches, now)?;
        failpoint::reach("replay.committed");
        journal.committed(&chunk);
    }
    log::info!(file:% = journal.path().display(), facts; "stored what was in the spool");
    Ok(())
}

fn tell_aside(journal: &Journal) {
    if let Some(aside) = journal.aside() {
        log::error!(
            file:% = aside.display();
            "a spool that is damaged, or another database's, was moved aside; nothing of it is stored"
        );
    }
}
