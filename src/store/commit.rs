//! One transaction: facts in the order learnt, then the ledger, then the longer bars that they
//! complete or change. Stream, healing, corrections and imports all come through here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use log::warn;

use super::backend::Connection;
use super::correction::{Verdict, judge};
use super::error::StoreError;
use super::ledger::Ledger;
use super::outset::{self, Outset};
use super::rows::{Revision, RevisionKind, StoredBar};
use super::sequence::Begin;
use super::shelf::Shelf;
use crate::aggregator::rollup::{Slot, fold};
use crate::domain::coverage::{Run, has_no_bar};
use crate::domain::{Bar, BarKey, Fact, FactBatch, Mark, Pair, Reason, Source, State, Timeframe, Timestamp};
use crate::failpoint;

/// `coverage.evidence` of a derived bar: its parts.
const FOLD_EVIDENCE: &str = "fold";

/// What a transaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitReport {
    /// Settled bars that were not stored yet.
    pub inserted: usize,
    /// Settled bars that said nothing new.
    pub unchanged: usize,
    /// Settled bars that corrected a stored one.
    pub revised: usize,
    /// Settled bars that differed from a stored one and were not taken.
    pub refused: usize,
    /// Longer bars that their parts completed.
    pub derived: usize,
    /// Longer bars that changed with their parts.
    pub rederived: usize,
    /// Marks laid.
    pub marks: usize,
    /// The highest `seq` given so far, in this transaction or before it.
    pub last_seq: i64,
    /// The database is a copy, and has given no number since it was made.
    pub is_copy: bool,
}

/// What the transaction needs to know besides the facts.
pub(super) struct Terms<'a> {
    /// Longer timeframes to derive.
    pub(super) longer: &'a [Timeframe],
    /// Ids of the feeds that are watched.
    pub(super) feed_ids: &'a HashMap<Pair, i64>,
    /// The highest `seq` that this process has committed.
    pub(super) last_seq: i64,
    /// Whether the database may be a copy that has given no `seq` yet.
    pub(super) may_be_copy: bool,
    /// Wall time.
    pub(super) now: Timestamp,
}

/// Applies the batches. The caller has begun a transaction, read in it what they may come across, and ends it.
pub(super) fn apply(
    connection: &mut Connection,
    terms: &Terms<'_>,
    outset: Outset,
    batches: &[Arc<FactBatch>],
) -> Result<CommitReport, StoreError> {
    let Outset { last_seq, shelf, ledger } = outset;
    if last_seq < terms.last_seq {
        return Err(StoreError::WentBack { known: terms.last_seq, found: last_seq });
    }
    let begin = Begin::after(connection, last_seq, terms.may_be_copy)?;
    let mut commit = Commit {
        connection,
        shelf,
        ledger,
        terms,
        report: CommitReport { last_seq: begin.base, ..CommitReport::default() },
        findings: BTreeMap::new(),
        parts: HashMap::new(),
        touched: BTreeSet::new(),
    };
    for batch in batches {
        for fact in &batch.facts {
            match fact {
                Fact::Settled(bar) => commit.settle(bar, &batch.evidence)?,
                Fact::Marked(mark) => commit.mark(mark, &batch.evidence),
            }
        }
    }
    failpoint::reach("commit.bars");
    let report = commit.finish()?;
    let last_seq = begin.end(connection, report.last_seq)?;
    Ok(CommitReport { last_seq, is_copy: begin.leaves_out() && last_seq < begin.base, ..report })
}

/// What became of a bar.
enum Placed {
    Inserted,
    Revised,
    /// The bar that is stored is this one.
    Kept(Bar, Verdict),
}

struct Commit<'a> {
    connection: &'a mut Connection,
    shelf: Shelf,
    ledger: Ledger,
    terms: &'a Terms<'a>,
    report: CommitReport,
    /// What to lay over the ledger, in the order learnt.
    findings: BTreeMap<(Pair, Timeframe), Vec<Run>>,
    /// The 5-minute bars that this transaction has come across, as they are stored now.
    parts: HashMap<(Pair, Timestamp), Bar>,
    /// Longer buckets in which a 5-minute bar is new or has changed, in the order that their
    /// bars are to be committed.
    touched: BTreeSet<(Timestamp, Timeframe, Pair)>,
}

impl Commit<'_> {
    fn settle(&mut self, bar: &Bar, evidence: &Arc<str>) -> Result<(), StoreError> {
        let BarKey { pair, timeframe, start } = bar.key;
        assert_eq!(start, timeframe.bucket(start), "a bar is named by the start of its bucket");
        let placed = self.place(bar)?;
        if timeframe == Timeframe::M5 {
            let stored = match &placed {
                Placed::Kept(stored, _) => *stored,
                Placed::Inserted | Placed::Revised => *bar,
            };
            self.parts.insert((pair, start), stored);
        }
        match placed {
            Placed::Kept(_, Verdict::Refuse) => {
                self.report.refused += 1;
                return Ok(());
            }
            Placed::Kept(..) => {
                self.report.unchanged += 1;
                return Ok(());
            }
            Placed::Inserted => self.report.inserted += 1,
            Placed::Revised => self.report.revised += 1,
        }
        self.find_stored(bar.key, evidence);
        if timeframe == Timeframe::M5 {
            for longer in self.terms.longer {
                self.touched.insert((longer.bucket(start), *longer, pair));
            }
        }
        Ok(())
    }

    fn mark(&mut self, mark: &Mark, evidence: &Arc<str>) {
        let span = mark.span.clone();
        assert_eq!(span.start, mark.timeframe.bucket(span.start), "a mark begins with a bucket");
        assert_eq!(span.end, mark.timeframe.bucket(span.end), "a mark ends with a bucket");
        if span.start >= span.end {
            return;
        }
        self.report.marks += 1;
        let run = Run { span, state: mark.state, reason: mark.reason, evidence: evidence.clone() };
        self.find((mark.pair, mark.timeframe), run);
    }

    fn find_stored(&mut self, key: BarKey, evidence: &Arc<str>) {
        let span = key.start..key.start.plus(key.timeframe.seconds());
        let run = Run { span, state: State::Stored, reason: Reason::Settled, evidence: evidence.clone() };
        self.find((key.pair, key.timeframe), run);
    }

    /// Notes a finding; one that goes on where the last left off lengthens it.
    fn find(&mut self, key: (Pair, Timeframe), run: Run) {
        let findings = self.findings.entry(key).or_default();
        match findings.last_mut() {
            Some(last)
                if (last.span.start..=last.span.end).contains(&run.span.start)
                    && last.state == run.state
                    && last.reason == run.reason
                    && last.evidence == run.evidence =>
            {
                last.span.end = last.span.end.max(run.span.end);
            }
            _ => findings.push(run),
        }
    }

    /// Stores a bar if rule of truth 4 lets it in.
    fn place(&mut self, bar: &Bar) -> Result<Placed, StoreError> {
        let now = self.terms.now;
        let feed_id = match bar.source {
            Source::Import => None,
            Source::Stream | Source::Rest | Source::Derived => {
                self.terms.feed_ids.get(&bar.key.pair).copied()
            }
        };
        let seq = self.report.last_seq + 1;
        let new = StoredBar { bar: *bar, created_at: now, updated_at: now, revision: 0, seq, feed_id };
        let Some(stored) = self.shelf.put(self.connection, &new)? else {
            self.report.last_seq = seq;
            return Ok(Placed::Inserted);
        };
        match judge(&stored.bar, bar) {
            Verdict::Unchanged => Ok(Placed::Kept(stored.bar, Verdict::Unchanged)),
            Verdict::Refuse => {
                self.keep_refused(bar, &stored)?;
                Ok(Placed::Kept(stored.bar, Verdict::Refuse))
            }
            Verdict::Supersede if self.was_superseded(bar, &stored)? => {
                Ok(Placed::Kept(stored.bar, Verdict::Unchanged))
            }
            Verdict::Supersede => {
                self.supersede(&stored, &new)?;
                Ok(Placed::Revised)
            }
        }
    }

    /// Whether the broker has corrected this very value of the bar before, with as many ticks. Then it comes
    /// again from where nobody knew whether it was stored, and is no correction of its correction.
    fn was_superseded(&mut self, offered: &Bar, stored: &StoredBar) -> Result<bool, StoreError> {
        if offered.source != Source::Stream || stored.revision == 0 || offered.volume != stored.bar.volume {
            return Ok(false);
        }
        let known = self.shelf.revisions(self.connection, offered.key)?;
        Ok(known.iter().any(|known| known.kind == RevisionKind::Superseded && known.bar == *offered))
    }

    fn supersede(&mut self, old: &StoredBar, new: &StoredBar) -> Result<(), StoreError> {
        let revision = Revision {
            bar: old.bar,
            kind: RevisionKind::Superseded,
            seq: old.seq,
            revision: old.revision,
            valid_from: old.updated_at,
            // The wall clock may have been set back.
            valid_to: self.terms.now.max(old.updated_at),
        };
        self.shelf.keep(self.connection, &revision)?;
        let new = StoredBar {
            created_at: old.created_at,
            updated_at: revision.valid_to,
            revision: old.revision.saturating_add(1),
            ..*new
        };
        self.shelf.replace(self.connection, &new)?;
        self.report.last_seq = new.seq;
        Ok(())
    }

    /// Keeps a refused value, once however often it is offered. One that was stored here before is
    /// known as such: a batch that is committed again, since nobody knew whether it was, tells nothing new.
    fn keep_refused(&mut self, offered: &Bar, stored: &StoredBar) -> Result<(), StoreError> {
        let known = self.shelf.revisions(self.connection, offered.key)?;
        if known.iter().any(|revision| revision.bar == *offered) {
            return Ok(());
        }
        let seq = self.report.last_seq + 1;
        let revision = Revision {
            bar: *offered,
            kind: RevisionKind::Refused,
            seq,
            revision: stored.revision,
            valid_from: self.terms.now,
            valid_to: self.terms.now,
        };
        self.shelf.keep(self.connection, &revision)?;
        self.report.last_seq = seq;
        Ok(())
    }

    /// Brings the ledger up to date, and the longer bars with it.
    fn finish(mut self) -> Result<CommitReport, StoreError> {
        if self.findings.is_empty() {
            // What was refused may have been kept.
            self.shelf.flush(self.connection)?;
            return Ok(self.report);
        }
        let mut ledger = std::mem::take(&mut self.ledger);
        let findings = std::mem::take(&mut self.findings);
        for ((pair, timeframe), runs) in &findings {
            runs.iter().for_each(|run| ledger.lay(*pair, *timeframe, run));
            if *timeframe == Timeframe::M5 {
                self.touch_beside_marks(&ledger, *pair, runs);
            }
        }
        self.derive(&ledger)?;
        // What was derived just now.
        for ((pair, timeframe), runs) in &self.findings {
            runs.iter().for_each(|run| ledger.lay(*pair, *timeframe, run));
        }
        outset::finish(self.connection, &mut self.shelf, &ledger, self.terms.now)?;
        Ok(self.report)
    }

    /// A slot now known to have no bar may complete a longer bucket: one with bars beside it.
    /// Such a bucket holds an end of a run of stored bars.
    fn touch_beside_marks(&mut self, ledger: &Ledger, pair: Pair, findings: &[Run]) {
        let slot = Timeframe::M5.seconds();
        for finding in findings.iter().filter(|run| matches!(run.state, State::Quiet | State::Closed)) {
            for longer in self.terms.longer {
                let length = longer.seconds();
                let around = finding.span.start.floor(length)..finding.span.end.ceil(length);
                for stored in ledger.stored_runs(pair, Timeframe::M5, &around) {
                    for slot in [stored.start, stored.end.plus(-slot)] {
                        if around.contains(&slot) {
                            self.touched.insert((longer.bucket(slot), *longer, pair));
                        }
                    }
                }
            }
        }
    }

    /// Folds every touched bucket that is complete.
    fn derive(&mut self, ledger: &Ledger) -> Result<(), StoreError> {
        let evidence: Arc<str> = FOLD_EVIDENCE.into();
        for (start, timeframe, pair) in std::mem::take(&mut self.touched) {
            let Some(bar) = self.fold(ledger, pair, timeframe, start)? else { continue };
            match self.place(&bar)? {
                Placed::Inserted => self.report.derived += 1,
                Placed::Revised => self.report.rederived += 1,
                Placed::Kept(..) => continue,
            }
            self.find_stored(bar.key, &evidence);
        }
        Ok(())
    }

    fn fold(
        &mut self,
        ledger: &Ledger,
        pair: Pair,
        timeframe: Timeframe,
        start: Timestamp,
    ) -> Result<Option<Bar>, StoreError> {
        let end = start.plus(timeframe.seconds());
        let starts = || {
            std::iter::successors(Some(start), |slot| Some(slot.plus(Timeframe::M5.seconds())))
                .take_while(move |slot| *slot < end)
        };
        let state = |slot| ledger.state(pair, Timeframe::M5, slot);
        let mut parts_are_here = true;
        for slot in starts() {
            if self.parts.contains_key(&(pair, slot)) {
                continue;
            }
            match state(slot) {
                Some((State::Stored, _)) => parts_are_here = false,
                Some((state, reason)) if has_no_bar(state, reason) => {}
                Some(_) | None => return Ok(None),
            }
        }
        if !parts_are_here {
            for part in self.shelf.parts(self.connection, pair, start..end)? {
                self.parts.insert((pair, part.key.start), part);
            }
        }
        let slots: Vec<Slot<'_>> = starts()
            .map(|slot| match self.parts.get(&(pair, slot)) {
                Some(bar) => Slot::Bar(bar),
                None if state(slot).is_some_and(|(state, _)| state == State::Stored) => {
                    warn!(pair:% = pair, start:% = slot; "a bar that the ledger calls stored is not there");
                    Slot::Unknown
                }
                None => Slot::NoBar,
            })
            .collect();
        Ok(fold(timeframe, start, &slots))
    }
}
