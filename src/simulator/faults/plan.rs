//! Which fault comes next. Pure.

use std::collections::BTreeMap;

use super::Fault;
use crate::domain::Timestamp;

/// Faults that are to come, in the order of their times; of the same time, as they were added.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    to_come: BTreeMap<(Timestamp, u64), Coming>,
    added: u64,
}

#[derive(Debug)]
struct Coming {
    fault: Fault,
    every_s: u32,
    left: u64,
}

impl Plan {
    /// Adds a fault that comes `times` times, `every_s` seconds apart.
    pub fn add(&mut self, at: Timestamp, every_s: u32, times: u64, fault: Fault) {
        if let Some(left) = times.checked_sub(1) {
            self.added += 1;
            self.to_come.insert((at, self.added), Coming { fault, every_s, left });
        }
    }

    /// When the next one comes.
    pub fn next(&self) -> Option<Timestamp> {
        self.to_come.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next one, if its time has come.
    pub fn due(&mut self, now: Timestamp) -> Option<Fault> {
        let first = self.to_come.first_entry().filter(|entry| entry.key().0 <= now)?;
        let ((at, _), Coming { fault, every_s, left }) = first.remove_entry();
        self.add(at.plus(i64::from(every_s)), every_s, left, fault.clone());
        Some(fault)
    }
}
