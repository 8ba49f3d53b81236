//! The journal over real files.

use super::*;
use crate::domain::{Mark, Reason, State, Timeframe, Timestamp};

const ID: &str = "00112233445566778899aabbccddeeff";

fn facts(first: i64, count: i64) -> Arc<FactBatch> {
    let marks = (first..first + count).map(|slot| {
        Fact::Marked(Mark {
            pair: "EURUSD".parse().unwrap(),
            timeframe: Timeframe::M5,
            span: Timestamp(slot * 300)..Timestamp(slot * 300 + 300),
            state: State::Quiet,
            reason: Reason::LaterRow,
        })
    });
    Arc::new(FactBatch { evidence: "ls:1".into(), facts: marks.collect() })
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("c.db.spool")
    }

    fn open(&self) -> Journal {
        Journal::open(&self.path(), ID).unwrap()
    }

    /// What is in the journal, by slot.
    fn slots(&self) -> Vec<i64> {
        drain(&mut self.open())
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Changes the file as a failing disk would.
    fn damage(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.path()).unwrap();
        change(&mut bytes);
        fs::write(self.path(), bytes).unwrap();
    }
}

fn slots_of(chunk: &Chunk) -> Vec<i64> {
    let facts = chunk.batches.iter().flat_map(|batch| &batch.facts);
    let slot = |fact: &Fact| match fact {
        Fact::Marked(mark) => mark.span.start.0 / 300,
        Fact::Settled(_) => panic!("there are marks only"),
    };
    facts.map(slot).collect()
}

fn drain(journal: &mut Journal) -> Vec<i64> {
    let mut slots = Vec::new();
    while let Some(chunk) = journal.next_chunk(1_000).unwrap() {
        slots.extend(slots_of(&chunk));
        journal.committed(&chunk);
    }
    slots
}

#[test]
fn what_is_appended_is_read_in_order_also_by_another_process() {
    let folder = Folder::new();
    let mut journal = folder.open();
    journal.append(&[facts(0, 3), facts(3, 2)]).unwrap();
    journal.append(&[facts(5, 1)]).unwrap();
    assert_eq!((journal.facts(), facts_waiting(&folder.path())), (6, Some(6)));
    drop(journal);
    let mut journal = folder.open();
    assert_eq!((journal.facts(), journal.tail()), (6, Tail::Whole));
    journal.append(&[facts(6, 1)]).unwrap();
    assert_eq!(drain(&mut journal), [0, 1, 2, 3, 4, 5, 6]);
    drop(journal);
    assert_eq!(folder.slots(), [0, 1, 2, 3, 4, 5, 6], "not emptied");
}

#[test]
fn what_was_emptied_stays_empty() {
    let folder = Folder::new();
    let mut journal = folder.open();
    for round in 0..5 {
        journal.append(&[facts(round, 10 - round)]).unwrap();
        drain(&mut journal);
        journal.empty().unwrap();
        assert!(journal.is_empty());
        assert_eq!(facts_waiting(&folder.path()), Some(0));
        drop(journal);
        journal = folder.open();
        assert_eq!((journal.facts(), journal.tail()), (0, Tail::Whole), "{round}");
    }
    // A shorter filling than the one before.
    journal.append(&[facts(90, 1)]).unwrap();
    drop(journal);
    assert_eq!(folder.slots(), [90]);
}

#[test]
fn a_chunk_is_bounded_and_no_record_is_larger() {
    let folder = Folder::new();
    let mut journal = folder.open();
    journal.append(&[facts(0, 2_500), facts(2_500, 100)]).unwrap();
    journal.append(&[facts(2_600, 1)]).unwrap();
    let mut sizes = Vec::new();
    while let Some(chunk) = journal.next_chunk(1_000).unwrap() {
        sizes.push(journal.committed(&chunk));
    }
    assert_eq!(sizes, [1_000, 1_000, 601]);
}

#[test]
fn room_is_made_beforehand_and_more_is_given_back() {
    let folder = Folder::new();
    let mut journal = folder.open();
    use std::os::unix::fs::MetadataExt;
    let metadata = || fs::metadata(folder.path()).unwrap();
    assert_eq!((metadata().len(), metadata().mode() & 0o777), (PREALLOCATED, 0o600));
    assert!(metadata().blocks() * 512 >= PREALLOCATED, "zeros are written, not left out");
    let many = facts(0, 1_000);
    while metadata().len() == PREALLOCATED {
        journal.append(std::slice::from_ref(&many)).unwrap();
    }
    drain(&mut journal);
    journal.empty().unwrap();
    assert_eq!(metadata().len(), PREALLOCATED);
}

#[test]
fn it_grows_to_its_bound_and_no_further() {
    let folder = Folder::new();
    let mut journal = folder.open();
    let many = facts(0, 1_000);
    let error = loop {
        match journal.append(std::slice::from_ref(&many)) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, JournalError::Full { .. }), "{error}");
    assert!(fs::metadata(folder.path()).unwrap().len() <= JOURNAL_BYTES_MAX);
    assert_eq!(drain(&mut journal).len() as u64 % 1_000, 0, "what was taken is whole");
}

#[test]
fn a_torn_tail_is_cut() {
    let folder = Folder::new();
    let mut journal = folder.open();
    journal.append(&[facts(0, 3)]).unwrap();
    let torn_at = journal.end.at as usize;
    journal.append(&[facts(3, 3)]).unwrap();
    drop(journal);
    folder.damage(|bytes| bytes[torn_at + 40..].fill(0));
    let mut journal = folder.open();
    assert_eq!((journal.facts(), journal.tail(), journal.aside()), (3, Tail::Torn, None));
    journal.append(&[facts(7, 1)]).unwrap();
    drop(journal);
    assert_eq!(folder.slots(), [0, 1, 2, 7]);
}

#[test]
fn damage_in_the_midst_is_told_from_a_torn_tail() {
    let folder = Folder::new();
    let mut journal = folder.open();
    journal.append(&[facts(0, 1)]).unwrap();
    let damaged_at = journal.end.at as usize;
    for slot in 1..4 {
        journal.append(&[facts(slot, 1)]).unwrap();
    }
    drop(journal);
    // Flipped, or gone: zeros look like the end.
    for change in [|byte: &mut u8| *byte ^= 1, |byte: &mut u8| *byte = 0] {
        folder.damage(|bytes| bytes[damaged_at..damaged_at + 40].iter_mut().for_each(change));
        let journal = folder.open();
        assert_eq!((journal.facts(), journal.tail()), (1, Tail::Damaged { lost: 2 }));
    }
    let mut journal = folder.open().replace().unwrap();
    assert_eq!(journal.aside(), Some(&*beside(&folder.path(), ".bad-1")));
    journal.append(&[facts(9, 1)]).unwrap();
    drop(journal);
    assert_eq!(folder.slots(), [9]);
    assert_eq!(folder.names(), ["c.db.spool", "c.db.spool.bad-1"]);
}

#[test]
fn what_is_no_journal_is_moved_aside() {
    let folder = Folder::new();
    fs::write(folder.path(), "dear diary").unwrap();
    let journal = folder.open();
    assert!(journal.is_empty() && journal.aside().is_some());
    drop(journal);
    assert_eq!(fs::read(beside(&folder.path(), ".bad-1")).unwrap(), b"dear diary");
}

#[test]
fn another_database_s_facts_are_never_replayed() {
    let folder = Folder::new();
    let other = |folder: &Folder| Journal::open(&folder.path(), "another database").unwrap();
    folder.open().append(&[facts(0, 2)]).unwrap();
    let mut journal = other(&folder);
    assert_eq!(drain(&mut journal), [0; 0]);
    assert_eq!(journal.aside(), Some(&*beside(&folder.path(), ".foreign-1")));
    drop(journal);
    // Nor is one wiped whose first record cannot be read.
    let mut bytes = fs::read(beside(&folder.path(), ".foreign-1")).unwrap();
    bytes[RECORDS_AT as usize + 30] ^= 1;
    fs::write(folder.path(), bytes).unwrap();
    assert_eq!(other(&folder).aside(), Some(&*beside(&folder.path(), ".foreign-2")));
    // An empty one is simply taken over.
    assert_eq!(folder.open().aside(), None);
    assert_eq!(folder.names(), ["c.db.spool", "c.db.spool.foreign-1", "c.db.spool.foreign-2"]);
    fs::rename(beside(&folder.path(), ".foreign-1"), folder.path()).unwrap();
    assert_eq!(folder.slots(), [0, 1], "it is all there");
}

#[test]
fn two_processes_do_not_share_one() {
    let folder = Folder::new();
    let _journal = folder.open();
    assert!(matches!(Journal::open(&folder.path(), ID), Err(JournalError::InUse { .. })));
}

#[test]
fn what_cannot_be_made_leaves_nothing_behind() {
    let folder = Folder::new();
    let absent = folder.0.path().join("absent/c.db.spool");
    assert!(matches!(Journal::open(&absent, ID), Err(JournalError::Io { .. })));
    assert!(folder.names().is_empty());
}
