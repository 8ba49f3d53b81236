//! Every value that bars have had, in the order of commits: what is in `candles`, and what corrections have replaced
//! there. So a listener who was away hears what he would have heard.

use super::backend::Connection;
use super::bars;
use super::error::StoreError;
use super::identity::random_number;
use super::rows::{Revision, RevisionKind, StoredBar};
use super::settings;
use crate::domain::Bar;

/// The setting that says up to which `seq` values may have been deleted.
const DELETED_TO: &str = "retention/seq";
/// The setting of a copy that has given no `seq` since it was made: what it was made of may have gone on meanwhile, and
/// given others the numbers that come next.
pub(super) const COPIED: &str = "sequence.copied";
/// The setting that lists the numbers that were left out: `12..2147483659 2147483700..2147500000`, each after the first
/// and up to the second.
const LEFT_OUT: &str = "sequence.left_out";
/// Stretches that are listed. Where there are more, the oldest two become one with all between: who comes from there
/// begins anew, though he need not.
const LEFT_OUT_MAX: usize = 64;
/// What a copy leaves out at least: more than is stored while a copy is put in the place of what it was made of.
const DISTANCE_MIN: i64 = 1 << 20;

/// A value that a bar has or had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// The value.
    pub bar: Bar,
    /// Which revision of the bar this is: 0 as first stored.
    pub revision: u32,
    /// Place in the order of commits.
    pub seq: i64,
}

/// Which values a listener wants to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Among {
    /// All that there were: where some are deleted he has to know.
    All,
    /// Those that are still there, as one wants them who has heard nothing yet.
    Stored,
}

/// What there is after a `seq`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogRead {
    /// The next values.
    Page(LogPage),
    /// Of the values after it some are deleted. The highest `seq` of those, and of all.
    Deleted {
        /// Up to here.
        to: i64,
        /// The highest `seq` given so far.
        last: i64,
    },
    /// There was never such a `seq` here, though there may have been in what this is a copy of.
    Unknown {
        /// The highest `seq` given so far.
        last: i64,
    },
}

/// Values in the order of their `seq`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPage {
    /// The values.
    pub entries: Vec<LogEntry>,
    /// There are no others up to this `seq`.
    pub upto: i64,
    /// There may be more after it.
    pub has_more: bool,
}

/// At most `count_max` values after `seq`, of those `among`. To be read in one transaction.
pub(super) fn after(
    connection: &mut Connection,
    seq: i64,
    count_max: usize,
    among: Among,
) -> Result<LogRead, StoreError> {
    let last = bars::last_seq(connection)?;
    if seq > last {
        return Ok(LogRead::Unknown { last });
    }
    if seq == last {
        return Ok(LogRead::Page(LogPage { entries: Vec::new(), upto: last, has_more: false }));
    }
    if left_out(connection)?.iter().any(|stretch| stretch.holds(seq)) {
        return Ok(LogRead::Unknown { last });
    }
    if among == Among::All {
        let to = deleted_to(connection)?;
        if seq < to {
            return Ok(LogRead::Deleted { to, last });
        }
    }
    // What was refused is no value of a bar, and takes its room on the page all the same: so none takes long to read.
    let stored = bars::after(connection, seq, count_max)?.into_iter();
    let mut rows: Vec<(i64, Option<LogEntry>)> = stored
        .map(|StoredBar { bar, revision, seq, .. }| (seq, Some(LogEntry { bar, revision, seq })))
        .collect();
    let revisions = bars::revisions_after(connection, seq, count_max)?.into_iter();
    rows.extend(revisions.map(|Revision { kind, bar, revision, seq, .. }| {
        (seq, (kind == RevisionKind::Superseded).then_some(LogEntry { bar, revision, seq }))
    }));
    rows.sort_unstable_by_key(|(seq, _)| *seq);
    rows.truncate(count_max);
    let has_more = rows.len() == count_max;
    let upto = rows.last().filter(|_| has_more).map_or(last, |(seq, _)| *seq);
    let entries = rows.into_iter().filter_map(|(_, entry)| entry).collect();
    Ok(LogRead::Page(LogPage { entries, upto, has_more }))
}

/// Numbers that no value has: those after `after` and up to `upto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LeftOut {
    after: i64,
    upto: i64,
}

impl LeftOut {
    fn holds(&self, seq: i64) -> bool {
        self.after < seq && seq <= self.upto
    }
}

/// Where the numbers of a transaction begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begin {
    /// The highest that was given so far.
    last: i64,
    /// The next one is one more than this.
    pub(super) base: i64,
}

impl Begin {
    /// Where they begin after `last`. In a copy, far off: a listener who has heard of later values than the copy has
    /// would else take others' numbers for theirs, and miss those. How far is by chance, so that two copies of one
    /// state do not give the same.
    pub(super) fn after(
        connection: &mut Connection,
        last: i64,
        may_be_copy: bool,
    ) -> Result<Begin, StoreError> {
        let is_copy = may_be_copy && settings::get(connection, COPIED)?.is_some();
        let distance = if is_copy { DISTANCE_MIN + i64::from(random_number()?) } else { 0 };
        Ok(Begin { last, base: last + distance })
    }

    /// Whether numbers are left out.
    pub(super) fn leaves_out(&self) -> bool {
        self.base > self.last
    }

    /// The transaction ends, in which `given` was the highest so far: what was left out is noted with the first number
    /// that is given. Answers the highest of all.
    pub(super) fn end(&self, connection: &mut Connection, given: i64) -> Result<i64, StoreError> {
        if !self.leaves_out() {
            return Ok(given);
        }
        if given <= self.base {
            return Ok(self.last);
        }
        let mut stretches = left_out(connection)?;
        stretches.push(LeftOut { after: self.last, upto: self.base });
        while stretches.len() > LEFT_OUT_MAX {
            let oldest = stretches.remove(0);
            stretches[0].after = oldest.after;
        }
        let listed = stretches.iter().map(|LeftOut { after, upto }| format!("{after}..{upto}"));
        settings::set(connection, LEFT_OUT, &listed.collect::<Vec<_>>().join(" "))?;
        settings::remove(connection, COPIED)?;
        Ok(given)
    }
}

/// The stretches that were left out, ascending.
fn left_out(connection: &mut Connection) -> Result<Vec<LeftOut>, StoreError> {
    let listed = settings::get(connection, LEFT_OUT)?.unwrap_or_default();
    let read = |stretch: &str| {
        let (after, upto) = stretch.split_once("..")?;
        Some(LeftOut { after: after.parse().ok()?, upto: upto.parse().ok()? })
    };
    Ok(listed.split(' ').filter_map(read).collect())
}

fn deleted_to(connection: &mut Connection) -> Result<i64, StoreError> {
    let known = settings::get(connection, DELETED_TO)?;
    Ok(known.and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// Notes that values up to this `seq` may be gone.
pub(super) fn note_deleted(connection: &mut Connection, seq: i64) -> Result<(), StoreError> {
    if seq > deleted_to(connection)? {
        settings::set(connection, DELETED_TO, &seq.to_string())?;
    }
    Ok(())
}
