//! Every value that bars have had, in the order of commits: what is in `candles`, and what corrections have replaced
//! there. So a listener who was away hears what he would have heard.

use super::backend::Connection;
use super::bars;
use super::error::StoreError;
use super::rows::{Revision, RevisionKind, StoredBar};
use super::settings;
use crate::domain::Bar;

/// The setting that says up to which `seq` values may have been deleted.
const DELETED_TO: &str = "retention/seq";

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
    /// There was never such a `seq` here.
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
