//! The journal's bytes: two slots for a header, then records. Pure.
//!
//! ```text
//! 0      header: magic, version, generation, id of the database, checksum
//! 4096   the same; the valid one of the higher generation counts
//! 8192   records: length, checksum, generation, sequence number, text; then zeros
//! ```
//!
//! Numbers are little-endian. A generation is one filling of the file: to empty it is to write a
//! header of the next generation, into the slot that does not count, so that one torn while it is
//! written leaves the other. A record is written and synced before the next one begins, so of all
//! records only the last can be torn; a sound one behind a broken one tells of damage.

use crate::domain::{Fact, FactBatch};

use super::text;

/// Bytes of a header's slot.
pub(super) const SLOT_BYTES: usize = 4_096;
/// Where the records begin.
pub(super) const RECORDS_AT: u64 = 2 * SLOT_BYTES as u64;
/// Bytes before a record's text.
pub(super) const HEAD_BYTES: usize = 24;
/// Facts in one record: as many as one transaction takes.
pub(super) const FACTS_PER_RECORD_MAX: usize = crate::writer::batch::FACTS_PER_COMMIT_MAX;
/// Bytes of text in one record; no thousand facts take more.
pub(super) const TEXT_BYTES_MAX: usize = 4 << 20;

const MAGIC: [u8; 8] = *b"CKSPOOL\n";
const VERSION: u32 = 1;
/// Longest id of a database, in bytes.
const ID_BYTES: usize = 64;
/// Where a header's checksum stands, behind what it is of.
const CHECKSUM_AT: usize = 24 + ID_BYTES;
/// Bytes of a header; the rest of its slot is zeros.
pub(super) const HEADER_BYTES: usize = CHECKSUM_AT + 4;

/// Whose the file is, and which filling of it is the present one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) generation: u64,
    pub(super) database_id: String,
}

/// What the two slots say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Slots {
    Ours(Header),
    /// A newer program has written it.
    Newer,
    Unreadable,
}

/// What stands where a record may begin.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Record(Vec<FactBatch>),
    /// Nothing was ever written here in this generation.
    End,
    /// Something that is no whole record of this generation and number.
    Broken,
}

impl Header {
    pub(super) fn to_slot(&self) -> [u8; SLOT_BYTES] {
        let id = self.database_id.as_bytes();
        assert!(id.len() <= ID_BYTES, "the id of a database has 32 digits");
        let mut slot = [0; SLOT_BYTES];
        slot[..8].copy_from_slice(&MAGIC);
        slot[8..12].copy_from_slice(&VERSION.to_le_bytes());
        slot[12..16].copy_from_slice(&(id.len() as u32).to_le_bytes());
        slot[16..24].copy_from_slice(&self.generation.to_le_bytes());
        slot[24..24 + id.len()].copy_from_slice(id);
        let checksum = crc32fast::hash(&slot[..CHECKSUM_AT]);
        slot[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
        slot
    }

    /// Where the slot of this generation begins.
    pub(super) fn slot_at(&self) -> u64 {
        (self.generation % 2) * SLOT_BYTES as u64
    }

    fn read(slot: &[u8]) -> Option<Result<Header, u32>> {
        let sound = slot.get(..8)? == MAGIC
            && number32(slot, CHECKSUM_AT)? == crc32fast::hash(slot.get(..CHECKSUM_AT)?);
        if !sound {
            return None;
        }
        let version = number32(slot, 8)?;
        if version != VERSION {
            return Some(Err(version));
        }
        let id = slot.get(24..CHECKSUM_AT)?.get(..number32(slot, 12)? as usize)?;
        let database_id = std::str::from_utf8(id).ok()?.to_owned();
        Some(Ok(Header { generation: number64(slot, 16)?, database_id }))
    }
}

/// Reads both slots.
pub(super) fn slots(bytes: &[u8]) -> Slots {
    let read = bytes.chunks(SLOT_BYTES).take(2).filter_map(Header::read);
    let mut newest: Option<Header> = None;
    for header in read {
        match header {
            Err(_) => return Slots::Newer,
            Ok(header) if newest.as_ref().is_none_or(|known| known.generation < header.generation) => {
                newest = Some(header);
            }
            Ok(_) => {}
        }
    }
    newest.map_or(Slots::Unreadable, Slots::Ours)
}

/// One record and the zeros that end the file for now. The record's own length is that without
/// [`HEAD_BYTES`].
pub(super) fn record(generation: u64, sequence: u64, facts: &[(&str, &[Fact])]) -> Vec<u8> {
    let mut words = String::new();
    for (evidence, facts) in facts {
        text::write(evidence, facts, &mut words);
    }
    assert!(words.len() <= TEXT_BYTES_MAX, "a record's facts are counted");
    let mut bytes = vec![0; HEAD_BYTES];
    bytes.extend_from_slice(words.as_bytes());
    bytes[..4].copy_from_slice(&(words.len() as u32).to_le_bytes());
    bytes[8..16].copy_from_slice(&generation.to_le_bytes());
    bytes[16..24].copy_from_slice(&sequence.to_le_bytes());
    let checksum = checksum(&bytes);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
    bytes.resize(bytes.len() + HEAD_BYTES, 0);
    bytes
}

/// Of all but the checksum itself.
fn checksum(record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&record[..4]);
    hasher.update(&record[8..]);
    hasher.finalize()
}

/// How long the record with this head is as a whole; none where it cannot be one.
pub(super) fn record_bytes(head: &[u8]) -> Option<usize> {
    let text = number32(head, 0)? as usize;
    (1..=TEXT_BYTES_MAX).contains(&text).then_some(HEAD_BYTES + text)
}

/// Reads the record that `bytes` begin with.
pub(super) fn read(bytes: &[u8], generation: u64, sequence: u64) -> Found {
    match bytes.get(..HEAD_BYTES) {
        // Zeros, or what an earlier filling has left.
        Some(head) if head.iter().all(|byte| *byte == 0) => return Found::End,
        Some(head) if number64(head, 8).is_some_and(|found| found < generation) => return Found::End,
        Some(_) => {}
        None => return Found::End,
    }
    match sound(bytes) {
        Some((found, number, words)) if (found, number) == (generation, sequence) => {
            std::str::from_utf8(words).ok().and_then(text::read).map_or(Found::Broken, Found::Record)
        }
        _ => Found::Broken,
    }
}

/// Generation, number and text of a whole record with the right checksum.
fn sound(bytes: &[u8]) -> Option<(u64, u64, &[u8])> {
    let record = bytes.get(..record_bytes(bytes)?)?;
    (number32(record, 4)? == checksum(record)).then_some(())?;
    Some((number64(record, 8)?, number64(record, 16)?, &record[HEAD_BYTES..]))
}

/// How many sound records of this generation, with this number or a later one, stand anywhere in
/// `bytes`: what is lost behind a broken one.
pub(super) fn records_within(bytes: &[u8], generation: u64, sequence: u64) -> usize {
    let (mut at, mut found) = (0, 0);
    let wanted = generation.to_le_bytes();
    // A head's generation stands eight bytes behind its beginning.
    while let Some(next) = memchr::memmem::find(bytes.get(at + 8..).unwrap_or_default(), &wanted) {
        let start = at + next;
        match sound(&bytes[start..]) {
            Some((_, number, words)) if number >= sequence => {
                found += 1;
                at = start + HEAD_BYTES + words.len();
            }
            _ => at = start + 1,
        }
    }
    found
}

fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn number64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::text::tests::any_fact;
    use super::*;

    fn header(generation: u64) -> Header {
        Header { generation, database_id: "0123456789abcdef".to_owned() }
    }

    fn both(a: &Header, b: &Header) -> Vec<u8> {
        [a.to_slot(), b.to_slot()].concat()
    }

    #[test]
    fn the_newer_sound_header_counts_and_a_torn_one_does_not() {
        let (old, new) = (header(6), header(7));
        assert_eq!(slots(&both(&old, &new)), Slots::Ours(new.clone()));
        // As torn as it may be: until the last byte is there, the old one counts.
        for written in 0..CHECKSUM_AT + 4 {
            let mut bytes = both(&old, &header(5));
            bytes[SLOT_BYTES..SLOT_BYTES + written].copy_from_slice(&new.to_slot()[..written]);
            let found = slots(&bytes);
            assert!(
                [Slots::Ours(old.clone()), Slots::Ours(new.clone())].contains(&found),
                "{written}: {found:?}"
            );
            if written < 16 {
                assert_eq!(found, Slots::Ours(old.clone()), "{written}");
            }
        }
        assert_eq!(slots(&[0; 2 * SLOT_BYTES]), Slots::Unreadable);
        assert_eq!(slots(b"short"), Slots::Unreadable);
    }

    #[test]
    fn a_newer_program_s_file_is_not_taken_for_damage() {
        let mut slot = header(1).to_slot();
        slot[8..12].copy_from_slice(&2u32.to_le_bytes());
        let checksum = crc32fast::hash(&slot[..CHECKSUM_AT]);
        slot[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(slots(&slot), Slots::Newer);
    }

    /// Records of these facts one behind the other, as the file has them.
    fn file(generation: u64, records: &[Vec<Fact>]) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut ends) = (vec![0; HEAD_BYTES], Vec::new());
        for (sequence, facts) in records.iter().enumerate() {
            bytes.truncate(bytes.len() - HEAD_BYTES);
            bytes.extend(record(generation, sequence as u64, &[("ls:1", facts)]));
            ends.push(bytes.len() - HEAD_BYTES);
        }
        (bytes, ends)
    }

    /// The facts of each record up to the first that is none, and how it ends.
    fn read_all(bytes: &[u8], generation: u64) -> (Vec<Vec<Fact>>, Found, usize) {
        let (mut at, mut records) = (0, Vec::new());
        loop {
            match read(&bytes[at..], generation, records.len() as u64) {
                Found::Record(batches) => {
                    records.push(batches.into_iter().flat_map(|batch| batch.facts).collect());
                    at += record_bytes(&bytes[at..]).unwrap();
                }
                end => return (records, end, at),
            }
        }
    }

    fn any_records() -> impl Strategy<Value = Vec<Vec<Fact>>> {
        prop::collection::vec(prop::collection::vec(any_fact(), 1..4), 0..5)
    }

    proptest! {
        #[test]
        fn records_are_read_as_written(records in any_records(), generation in 1u64..9) {
            let (bytes, _) = file(generation, &records);
            prop_assert_eq!(read_all(&bytes, generation), (records, Found::End, bytes.len() - HEAD_BYTES));
            // Another generation's are not.
            prop_assert_eq!(read_all(&bytes, generation + 1).0.len(), 0);
        }

        #[test]
        fn a_file_cut_anywhere_has_every_record_before_the_cut(
            records in any_records(), generation in 1u64..9, share in 0.0..1.0f64, garbage in any::<u8>(),
        ) {
            let (mut bytes, ends) = file(generation, &records);
            let cut = (bytes.len() as f64 * share) as usize;
            bytes[cut..].fill(garbage);
            let whole = ends.iter().filter(|end| **end <= cut).count();
            let (read, _, at) = read_all(&bytes, generation);
            // What was cut may by chance end in what stands there instead.
            prop_assert!(read.len() == whole || read.len() == whole + 1, "{} of {whole}", read.len());
            prop_assert_eq!(&read[..], &records[..read.len()]);
            prop_assert_eq!(records_within(&bytes[at..], generation, read.len() as u64), 0, "no tail is damage");
        }

        #[test]
        fn a_flipped_bit_ends_the_reading_and_what_lies_behind_it_is_counted(
            records in any_records().prop_filter("some", |records| !records.is_empty()),
            generation in 1u64..9, share in 0.0..1.0f64, bit in 0u8..8,
        ) {
            let (mut bytes, ends) = file(generation, &records);
            let at = ((bytes.len() - HEAD_BYTES) as f64 * share) as usize;
            bytes[at] ^= 1 << bit;
            let hit = ends.iter().filter(|end| **end <= at).count();
            let (read, _, stopped_at) = read_all(&bytes, generation);
            prop_assert_eq!(&read[..], &records[..hit]);
            let behind = records_within(&bytes[stopped_at..], generation, hit as u64);
            prop_assert_eq!(behind, records.len() - hit - 1);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), generation in 0u64..3) {
            read_all(&bytes, generation);
            slots(&bytes);
            records_within(&bytes, generation, 0);
        }
    }
}
