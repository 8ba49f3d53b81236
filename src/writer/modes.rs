//! Where findings go: to the database, or to the journal while that is away. Pure.
//!
//! ```text
//! direct    batch → database
//! away      batch → journal; the database is tried with the journal's oldest facts
//! ```
//!
//! It is away from the first failure that may pass, or from the first flush that is not answered in
//! time, until the journal is drained and emptied. In between all that is new goes behind what the
//! journal holds, so the database gets everything in the order learnt. A flush that was given up and
//! succeeds after all does no harm: the same facts once more change nothing.
//!
//! Where there is no journal, or it cannot be written, what waits stays here, unacknowledged.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::{Batch, FACTS_PER_COMMIT_MAX};
use crate::backoff::Backoff;
use crate::domain::FactBatch;

/// How long a flush may go unanswered before its facts are taken to the journal.
pub const FLUSH_PATIENCE: Duration = Duration::from_secs(15);
/// The same once the process is to end.
pub const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// Pauses between attempts while the database, or the journal, is away.
const RETRY_FIRST: Duration = Duration::from_millis(100);
pub(super) const RETRY_LAST: Duration = Duration::from_secs(10);

/// What is to be done next. Each is answered by the method of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Commit these: [`Modes::flushed`].
    Flush(Vec<Arc<FactBatch>>),
    /// Append these to the journal: [`Modes::appended`].
    Append(Vec<Arc<FactBatch>>),
    /// Commit the journal's oldest facts, so many at most: [`Modes::drained`].
    Drain(usize),
    /// Empty the journal: [`Modes::emptied`].
    Empty,
}

/// What people are to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The database is away.
    Away(String),
    /// It is back.
    Back {
        /// Facts that the journal has kept meanwhile.
        kept: u64,
        /// For how long it was away.
        after: Duration,
    },
    /// The journal takes nothing.
    NoJournal(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Database {
    Idle,
    Flushing { since: Instant },
    Draining,
    Resting { until: Instant },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Journal {
    Absent,
    Idle,
    Busy,
    Resting { until: Instant },
}

/// While the database is away.
#[derive(Clone, Copy, Debug)]
struct Away {
    since: Instant,
    /// Facts appended to the journal since then.
    kept: u64,
    told_of_journal: bool,
}

/// What waits, and for what.
#[derive(Debug)]
pub struct Modes {
    batch: Batch,
    /// Taken out of the batch and not durable yet: at most what one flush takes.
    held: Vec<Arc<FactBatch>>,
    /// Whether `held` is what is being flushed.
    is_held_in_flight: bool,
    /// Batches that are durable and not acknowledged yet, the oldest.
    durable: usize,
    database: Database,
    journal: Journal,
    /// Facts in the journal that are not committed.
    spooled: u64,
    /// Whether nothing is in the journal, committed or not.
    is_journal_empty: bool,
    away: Option<Away>,
    patience: Duration,
    database_retry: Backoff,
    journal_retry: Backoff,
    news: VecDeque<News>,
}

impl Modes {
    /// Nothing waits; the journal, where there is one, is empty.
    pub fn new(batch: Batch, has_journal: bool, patience: Duration) -> Modes {
        let retry = Backoff::new(RETRY_FIRST, 2.0, RETRY_LAST);
        Modes {
            batch,
            held: Vec::new(),
            is_held_in_flight: false,
            durable: 0,
            database: Database::Idle,
            journal: if has_journal { Journal::Idle } else { Journal::Absent },
            spooled: 0,
            is_journal_empty: true,
            away: None,
            patience,
            database_retry: retry.clone(),
            journal_retry: retry,
            news: VecDeque::new(),
        }
    }

    /// The same where a writer before this one has left so many facts in the journal; none, but not
    /// emptied, is possible too. The database counts as away until they are stored.
    pub fn after(mut self, spooled: u64, is_journal_empty: bool, now: Instant) -> Modes {
        (self.spooled, self.is_journal_empty) = (spooled, is_journal_empty);
        if !is_journal_empty {
            self.away = Some(Away { since: now, kept: spooled, told_of_journal: false });
        }
        self
    }

    /// Takes findings in.
    ///
    /// # Errors
    /// Gives them back where there is no room.
    pub fn offer(&mut self, findings: Arc<FactBatch>, now: Instant) -> Result<(), Arc<FactBatch>> {
        self.batch.offer(findings, now)
    }

    /// What is to be done now, until there is nothing.
    pub fn poll(&mut self, now: Instant) -> Option<Step> {
        if self.away.is_none() && self.overdue_at().is_some_and(|overdue| overdue <= now) {
            self.go_away(now, format!("no answer for {} s", self.patience.as_secs_f32()));
        }
        let to_journal = if self.away.is_some() { self.poll_journal(now) } else { None };
        to_journal.or_else(|| self.poll_database(now))
    }

    /// When to poll again though nothing has happened.
    pub fn next_timeout(&self) -> Option<Instant> {
        let database = match self.database {
            Database::Idle if self.away.is_none() => self.batch.due_at(),
            Database::Idle | Database::Draining => None,
            Database::Flushing { .. } if self.away.is_none() => self.overdue_at(),
            Database::Flushing { .. } => None,
            Database::Resting { until } => Some(until),
        };
        let journal = match self.journal {
            Journal::Resting { until } => Some(until),
            Journal::Absent | Journal::Idle | Journal::Busy => None,
        };
        [database, journal].into_iter().flatten().min()
    }

    /// A flush has ended; where not well, why, and it may pass.
    pub fn flushed(&mut self, outcome: Result<(), String>, now: Instant) {
        // Given up meanwhile and held by the journal, or about to be.
        let was_given_up = !self.is_held_in_flight || self.journal == Journal::Busy;
        self.is_held_in_flight = false;
        match outcome {
            Ok(()) => {
                self.database = Database::Idle;
                self.database_retry.reset();
                if was_given_up {
                    return;
                }
                self.durable += self.held.len();
                self.held.clear();
                if self.is_journal_empty {
                    self.come_back(now);
                }
            }
            Err(why) => {
                self.rest(now);
                self.go_away(now, why);
            }
        }
    }

    /// The journal has taken what was held, or not, and why.
    pub fn appended(&mut self, outcome: Result<(), String>, now: Instant) {
        match outcome {
            Ok(()) => {
                let facts = self.held.iter().map(|batch| batch.facts.len() as u64).sum::<u64>();
                self.durable += self.held.len();
                self.held.clear();
                self.is_held_in_flight = false;
                self.spooled += facts;
                self.is_journal_empty = false;
                self.journal = Journal::Idle;
                self.journal_retry.reset();
                if let Some(away) = &mut self.away {
                    away.kept += facts;
                }
            }
            Err(why) => {
                let pause = self.journal_retry.next_delay(fastrand::f64());
                self.journal = Journal::Resting { until: now + pause };
                if let Some(away) = self.away.as_mut().filter(|away| !away.told_of_journal) {
                    away.told_of_journal = true;
                    self.news.push_back(News::NoJournal(why));
                }
            }
        }
    }

    /// So many of the journal's facts are committed; or none, and why, and it may pass.
    pub fn drained(&mut self, outcome: Result<u64, String>, now: Instant) {
        match outcome {
            Ok(facts) => {
                self.database = Database::Idle;
                self.database_retry.reset();
                self.spooled = self.spooled.saturating_sub(facts);
            }
            Err(_) => self.rest(now),
        }
    }

    /// The journal is empty.
    pub fn emptied(&mut self, now: Instant) {
        self.journal = Journal::Idle;
        self.is_journal_empty = true;
        self.come_back(now);
    }

    /// The process is to end: what is not durable soon goes to the journal.
    pub fn hurry(&mut self) {
        self.batch.hurry();
        self.patience = self.patience.min(STOP_PATIENCE);
    }

    /// How many of the oldest batches have become durable since last asked.
    pub fn take_durable(&mut self) -> usize {
        std::mem::take(&mut self.durable)
    }

    /// What people are to know, in order.
    pub fn take_news(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    /// Whether the database or the journal is to answer something.
    pub fn is_in_flight(&self) -> bool {
        matches!(self.database, Database::Flushing { .. } | Database::Draining)
            || self.journal == Journal::Busy
    }

    /// Whether anything waits to become durable.
    pub fn is_busy(&self) -> bool {
        !self.held.is_empty() || !self.batch.is_empty() || self.spooled > 0
    }

    /// Facts that are in the journal and not in the database.
    pub fn spooled(&self) -> u64 {
        self.spooled
    }

    fn poll_journal(&mut self, now: Instant) -> Option<Step> {
        match self.journal {
            Journal::Idle => {}
            Journal::Resting { until } if until <= now => self.journal = Journal::Idle,
            Journal::Resting { .. } | Journal::Absent | Journal::Busy => return None,
        }
        if self.is_drained() {
            self.journal = Journal::Busy;
            return Some(Step::Empty);
        }
        self.fill_held();
        if self.held.is_empty() {
            return None;
        }
        self.journal = Journal::Busy;
        Some(Step::Append(self.held.clone()))
    }

    fn poll_database(&mut self, now: Instant) -> Option<Step> {
        match self.database {
            Database::Idle => {}
            Database::Resting { until } if until <= now => self.database = Database::Idle,
            Database::Resting { .. } | Database::Flushing { .. } | Database::Draining => return None,
        }
        // What is held here was meant for a journal that took nothing until the database was back.
        if self.away.is_none() && self.held.is_empty() && !self.batch.is_due(now) {
            return None;
        }
        if self.spooled > 0 {
            self.database = Database::Draining;
            return Some(Step::Drain(FACTS_PER_COMMIT_MAX));
        }
        if !self.is_journal_empty || self.journal == Journal::Busy {
            return None;
        }
        self.fill_held();
        if self.held.is_empty() {
            self.come_back(now);
            return None;
        }
        self.is_held_in_flight = true;
        self.database = Database::Flushing { since: now };
        Some(Step::Flush(self.held.clone()))
    }

    /// Whether all that is in the journal is committed.
    fn is_drained(&self) -> bool {
        !self.is_journal_empty && self.spooled == 0
    }

    fn fill_held(&mut self) {
        if self.held.is_empty() {
            self.held = self.batch.take();
        }
    }

    fn overdue_at(&self) -> Option<Instant> {
        match self.database {
            Database::Flushing { since } => Some(since + self.patience),
            Database::Idle | Database::Draining | Database::Resting { .. } => None,
        }
    }

    fn rest(&mut self, now: Instant) {
        let pause = self.database_retry.next_delay(fastrand::f64());
        self.database = Database::Resting { until: now + pause };
    }

    fn go_away(&mut self, now: Instant, why: String) {
        if self.away.is_none() {
            self.away = Some(Away { since: now, kept: 0, told_of_journal: false });
            self.news.push_back(News::Away(why));
        }
    }

    fn come_back(&mut self, now: Instant) {
        if let Some(Away { since, kept, .. }) = self.away.take() {
            self.news.push_back(News::Back { kept, after: now.saturating_duration_since(since) });
        }
    }
}
