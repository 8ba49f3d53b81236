//! The journal's file: preallocated, appended to, read back in order, emptied. Blocks.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::form::{self, FACTS_PER_RECORD_MAX, Found, HEAD_BYTES, HEADER_BYTES, Header, RECORDS_AT, Slots};
use crate::domain::{Fact, FactBatch};
use crate::failpoint;
use crate::files::{beside, sync_folder};

/// Bytes written at start, so that a full disk still has room: days of bars of 28 pairs.
pub const PREALLOCATED: u64 = 8 << 20;
/// How far the file grows while there is room.
pub const JOURNAL_BYTES_MAX: u64 = 64 << 20;
/// Files that may be moved aside under one name; then somebody has to look.
const ASIDE_MAX: u32 = 100;

/// Why the journal could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It cannot be read or written: missing rights, a full or failing disk.
    #[error("the spool {} fails: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It holds as much as it may.
    #[error("the spool {} is full", path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// Another process has it.
    #[error("the spool {} belongs to another process; give this one a `store.spool_dir` of its own", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A newer program has written it: this one could misread it.
    #[error("the spool {} was written by a newer program", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
    },
    /// What was appended cannot be read back.
    #[error("the spool {} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// Its thread is gone.
    #[error("the spool is closed")]
    Closed,
}

/// How what an earlier process left ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// As it should.
    Whole,
    /// With a record that was being written when the process died, and that nobody was told of.
    Torn,
    /// With one that was whole once: so many lie behind it, out of reach.
    Damaged {
        /// Records out of reach.
        lost: usize,
    },
}

/// Facts read back, and where the next ones begin.
#[derive(Debug)]
pub struct Chunk {
    /// In the order appended.
    pub batches: Vec<Arc<FactBatch>>,
    /// How many facts.
    pub facts: u64,
    next: Place,
}

/// Where a record begins, and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    at: u64,
    sequence: u64,
}

const BEGINNING: Place = Place { at: RECORDS_AT, sequence: 0 };

/// Facts on the disk that wait for the database.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    header: Header,
    /// What is committed to the database ends here.
    drained: Place,
    /// What is appended ends here.
    end: Place,
    /// Facts between the two.
    facts: u64,
    tail: Tail,
    aside: Option<PathBuf>,
}

impl Journal {
    /// Opens the journal of this database, and makes one where there is none. A file that cannot
    /// be read, or holds facts of another database, is moved aside and never replayed.
    ///
    /// # Errors
    /// [`JournalError::InUse`], [`JournalError::Newer`]; [`JournalError::Io`] where it can
    /// neither be opened nor made.
    pub fn open(path: &Path, database_id: &str) -> Result<Journal, JournalError> {
        let failed = |error| JournalError::Io { path: path.to_owned(), error };
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Journal::create(path, database_id, None);
            }
            Err(error) => return Err(failed(error)),
        };
        lock(&file, path)?;
        let mut slots = vec![0; RECORDS_AT as usize];
        let read = read_up_to(&file, &mut slots, 0).map_err(failed)?;
        let header = match form::slots(&slots[..read]) {
            Slots::Ours(header) => header,
            Slots::Newer => return Err(JournalError::Newer { path: path.to_owned() }),
            // Another file of this name is not lost to a start either.
            Slots::Unreadable => {
                let aside = move_aside(path, "bad").map_err(failed)?;
                return Journal::create(path, database_id, Some(aside));
            }
        };
        let is_foreign = header.database_id != database_id;
        let (drained, tail, aside) = (BEGINNING, Tail::Whole, None);
        let mut journal =
            Journal { path: path.to_owned(), file, header, drained, end: BEGINNING, facts: 0, tail, aside };
        journal.find_end()?;
        if !is_foreign {
            return Ok(journal);
        }
        if journal.is_empty() && journal.tail == Tail::Whole {
            // It was another database's and holds nothing.
            journal.header.database_id = database_id.to_owned();
            journal.empty()?;
            return Ok(journal);
        }
        let aside = move_aside(path, "foreign").map_err(failed)?;
        Journal::create(path, database_id, Some(aside))
    }

    /// Makes the file under another name first, so that under its own it is there as a whole.
    fn create(path: &Path, database_id: &str, aside: Option<PathBuf>) -> Result<Journal, JournalError> {
        let failed = |error| JournalError::Io { path: path.to_owned(), error };
        let half_made = beside(path, ".new");
        let header = Header { generation: 1, database_id: database_id.to_owned() };
        // Emptied only when it is locked: another process may be making one of this name.
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&half_made).map_err(failed)?;
        lock(&file, path)?;
        preallocate(&file, &header).map_err(|error| {
            // Where the disk is full, this is what filled it.
            let _ = fs::remove_file(&half_made);
            failed(error)
        })?;
        failpoint::reach("spool.created");
        fs::rename(&half_made, path).and_then(|()| sync_folder(path)).map_err(failed)?;
        let (drained, end, tail) = (BEGINNING, BEGINNING, Tail::Whole);
        Ok(Journal { path: path.to_owned(), file, header, drained, end, facts: 0, tail, aside })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How what was found at opening ends.
    pub fn tail(&self) -> Tail {
        self.tail
    }

    /// Where the file that stood in this one's place is now.
    pub fn aside(&self) -> Option<&Path> {
        self.aside.as_deref()
    }

    /// Facts that are not in the database yet.
    pub fn facts(&self) -> u64 {
        self.facts
    }

    /// Bytes that are in use.
    pub fn bytes(&self) -> u64 {
        self.end.at - BEGINNING.at
    }

    /// Whether nothing was appended since it was emptied.
    pub fn is_empty(&self) -> bool {
        self.end == BEGINNING
    }

    /// Appends facts; answers how many. When it returns, all of them are on the disk.
    ///
    /// # Errors
    /// [`JournalError::Full`] and [`JournalError::Io`]. Then none of them is in it.
    pub fn append(&mut self, batches: &[Arc<FactBatch>]) -> Result<u64, JournalError> {
        let (end, facts) = (self.end, self.facts);
        let mut begun = Vec::new();
        let outcome = records_of(batches).iter().try_for_each(|facts| {
            begun.push(self.end.at);
            self.append_record(facts)
        });
        if let Err(error) = outcome {
            (self.end, self.facts) = (end, facts);
            // Best effort: what is left there is true, and would be committed after a crash. From behind, so that
            // none that is whole is left behind one that is not.
            for at in begun.into_iter().rev() {
                let _ = self.file.write_all_at(&[0; HEAD_BYTES], at);
            }
            return Err(error);
        }
        Ok(self.facts - facts)
    }

    fn append_record(&mut self, facts: &[(&str, &[Fact])]) -> Result<(), JournalError> {
        let bytes = form::record(self.header.generation, self.end.sequence, facts);
        let at = self.end.at;
        if at + bytes.len() as u64 > JOURNAL_BYTES_MAX {
            return Err(JournalError::Full { path: self.path.clone() });
        }
        self.write(&bytes, at, "journal.half", bytes.len() / 2)?;
        failpoint::reach("journal.written");
        self.sync()?;
        failpoint::reach("journal.synced");
        self.end = Place { at: at + (bytes.len() - HEAD_BYTES) as u64, sequence: self.end.sequence + 1 };
        self.facts += facts.iter().map(|(_, facts)| facts.len() as u64).sum::<u64>();
        Ok(())
    }

    /// Reads the oldest facts that are not committed yet: about `facts_max`, and at least one
    /// record; none where there are none.
    ///
    /// # Errors
    /// [`JournalError::Io`]; [`JournalError::Damaged`] where what was appended is not there.
    pub fn next_chunk(&mut self, facts_max: usize) -> Result<Option<Chunk>, JournalError> {
        let mut chunk = Chunk { batches: Vec::new(), facts: 0, next: self.drained };
        while chunk.next != self.end && (chunk.facts as usize) < facts_max {
            let Some((batches, next)) = self.record_at(chunk.next)? else {
                return Err(JournalError::Damaged { path: self.path.clone() });
            };
            chunk.facts += batches.iter().map(|batch| batch.facts.len() as u64).sum::<u64>();
            chunk.batches.extend(batches.into_iter().map(Arc::new));
            chunk.next = next;
        }
        Ok((!chunk.batches.is_empty()).then_some(chunk))
    }

    /// Notes that these facts are in the database; answers how many they are. They stay in the
    /// file until it is emptied, and after a crash are committed once more, which changes nothing.
    pub fn committed(&mut self, chunk: &Chunk) -> u64 {
        self.drained = chunk.next;
        self.facts -= chunk.facts;
        chunk.facts
    }

    /// Begins anew, once everything is committed.
    ///
    /// # Errors
    /// [`JournalError::Io`]. The old facts may still be there then.
    ///
    /// # Panics
    /// If something is not committed.
    pub fn empty(&mut self) -> Result<(), JournalError> {
        assert_eq!(self.facts, 0, "a journal is emptied when all of it is committed");
        let header = Header { generation: self.header.generation + 1, ..self.header.clone() };
        self.write(&header.to_slot(), header.slot_at(), "empty.half", HEADER_BYTES / 2)?;
        failpoint::reach("empty.written");
        self.sync()?;
        self.header = header;
        (self.drained, self.end) = (BEGINNING, BEGINNING);
        // Room that was borrowed from the disk; what is kept stays allocated. A failure costs space alone.
        if self.file.metadata().is_ok_and(|metadata| metadata.len() > PREALLOCATED) {
            let _ = self.file.set_len(PREALLOCATED);
        }
        Ok(())
    }

    /// Moves the file out of the way, as what cannot be read any more, and makes another.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub fn replace(self) -> Result<Journal, JournalError> {
        let failed = |error| JournalError::Io { path: self.path.clone(), error };
        let aside = move_aside(&self.path, "bad").map_err(failed)?;
        Journal::create(&self.path, &self.header.database_id, Some(aside))
    }

    /// Finds where what an earlier process appended ends.
    fn find_end(&mut self) -> Result<(), JournalError> {
        while let Some((batches, next)) = self.record_at(self.end)? {
            self.end = next;
            self.facts += batches.iter().map(|batch| batch.facts.len() as u64).sum::<u64>();
        }
        let failed = |error| JournalError::Io { path: self.path.clone(), error };
        let length = self.file.metadata().map_err(failed)?.len().min(JOURNAL_BYTES_MAX);
        let mut rest = vec![0; length.saturating_sub(self.end.at) as usize];
        let read = read_up_to(&self.file, &mut rest, self.end.at).map_err(failed)?;
        let rest = &rest[..read];
        let (generation, sequence) = (self.header.generation, self.end.sequence);
        self.tail = match form::records_within(rest, generation, sequence) {
            0 if form::read(rest, generation, sequence) == Found::End => Tail::Whole,
            0 => Tail::Torn,
            lost => Tail::Damaged { lost },
        };
        Ok(())
    }

    /// The record at a place, and the next place; none where there is no such record.
    fn record_at(&self, place: Place) -> Result<Option<(Vec<FactBatch>, Place)>, JournalError> {
        let failed = |error| JournalError::Io { path: self.path.clone(), error };
        read_record(&self.file, &self.header, place).map_err(failed)
    }

    /// Writes in one go, or in two where somebody is to die between them.
    fn write(&self, bytes: &[u8], at: u64, halfway: &'static str, cut: usize) -> Result<(), JournalError> {
        let first = if failpoint::is_armed(halfway) { cut } else { 0 };
        let written = self.file.write_all_at(&bytes[..first], at).and_then(|()| {
            failpoint::reach(halfway);
            self.file.write_all_at(&bytes[first..], at + first as u64)
        });
        written.map_err(|error| JournalError::Io { path: self.path.clone(), error })
    }

    fn sync(&self) -> Result<(), JournalError> {
        self.file.sync_data().map_err(|error| JournalError::Io { path: self.path.clone(), error })
    }
}

/// How many facts wait in the journal at `path`, for a reader beside the process that owns it. While
/// that drains it, those that are committed already count too. None where there is no journal that
/// this program can read.
pub fn facts_waiting(path: &Path) -> Option<u64> {
    let file = File::open(path).ok()?;
    let mut slots = vec![0; RECORDS_AT as usize];
    let read = read_up_to(&file, &mut slots, 0).ok()?;
    let Slots::Ours(header) = form::slots(&slots[..read]) else { return None };
    let (mut place, mut facts) = (BEGINNING, 0);
    while let Some((batches, next)) = read_record(&file, &header, place).ok()? {
        facts += batches.iter().map(|batch| batch.facts.len() as u64).sum::<u64>();
        place = next;
    }
    Some(facts)
}

fn read_record(file: &File, header: &Header, place: Place) -> io::Result<Option<(Vec<FactBatch>, Place)>> {
    let mut head = [0; HEAD_BYTES];
    let read = read_up_to(file, &mut head, place.at)?;
    let Some(length) = form::record_bytes(&head[..read]) else { return Ok(None) };
    let mut bytes = vec![0; length];
    let read = read_up_to(file, &mut bytes, place.at)?;
    let next = Place { at: place.at + length as u64, sequence: place.sequence + 1 };
    Ok(match form::read(&bytes[..read], header.generation, place.sequence) {
        Found::Record(batches) => Some((batches, next)),
        Found::End | Found::Broken => None,
    })
}

/// Cuts facts into records, in order: as few as their bound allows.
fn records_of(batches: &[Arc<FactBatch>]) -> Vec<Vec<(&str, &[Fact])>> {
    let (mut records, mut room) = (Vec::new(), 0);
    for batch in batches {
        let mut facts = &batch.facts[..];
        while !facts.is_empty() {
            if room == 0 {
                records.push(Vec::new());
                room = FACTS_PER_RECORD_MAX;
            }
            let (first, rest) = facts.split_at(facts.len().min(room));
            let record = records.last_mut().expect("one was begun where there was no room");
            record.push((&*batch.evidence, first));
            (facts, room) = (rest, room - first.len());
        }
    }
    records
}

/// Fills a file with zeros and a header. Written and not only reserved: some file systems keep no promise
/// of space, and none has to find blocks for what is there.
fn preallocate(file: &File, header: &Header) -> io::Result<()> {
    file.set_len(0)?;
    let zeros = vec![0; 1 << 20];
    for at in (0..PREALLOCATED).step_by(zeros.len()) {
        file.write_all_at(&zeros, at)?;
        failpoint::reach("spool.zeroed");
    }
    file.write_all_at(&header.to_slot(), header.slot_at())?;
    file.sync_all()
}

fn lock(file: &File, path: &Path) -> Result<(), JournalError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(JournalError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(JournalError::Io { path: path.to_owned(), error }),
    }
}

/// Gives the file another name, `<path>.<why>-N`.
fn move_aside(path: &Path, why: &str) -> io::Result<PathBuf> {
    let mut names = (1..=ASIDE_MAX).map(|number| beside(path, &format!(".{why}-{number}")));
    let aside = names.find(|name| !name.exists()).ok_or(io::ErrorKind::AlreadyExists)?;
    fs::rename(path, &aside)?;
    sync_folder(path)?;
    Ok(aside)
}

fn read_up_to(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], at + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
