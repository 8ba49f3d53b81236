//! What waits for the next transaction, and when that is due. Pure.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::domain::FactBatch;

/// Facts in one transaction. More hardly makes a commit cheaper, and each keeps readers of the
/// write lock waiting longer.
pub const FACTS_PER_COMMIT_MAX: usize = 1_000;

/// Facts that wait at most: two days of 28 pairs. Whoever offers more has to hold it.
pub const FACTS_WAITING_MAX: usize = 16_384;

/// Findings on their way into the database, in the order learnt.
#[derive(Debug)]
pub struct Batch {
    flush_after: Duration,
    waiting: VecDeque<(Arc<FactBatch>, Instant)>,
    /// Facts in `waiting`.
    facts: usize,
}

impl Batch {
    /// An empty batch that is due once its oldest finding has waited for `flush_after`
    /// (`store.flush_ms`; zero: at once).
    pub fn new(flush_after: Duration) -> Batch {
        Batch { flush_after, waiting: VecDeque::new(), facts: 0 }
    }

    /// Takes findings in.
    ///
    /// # Errors
    /// Gives them back where they would bring what waits above [`FACTS_WAITING_MAX`]. An empty
    /// batch takes any one offer, so that nothing is refused for ever.
    pub fn offer(&mut self, findings: Arc<FactBatch>, now: Instant) -> Result<(), Arc<FactBatch>> {
        let facts = findings.facts.len();
        if !self.waiting.is_empty() && self.facts + facts > FACTS_WAITING_MAX {
            return Err(findings);
        }
        self.facts += facts;
        self.waiting.push_back((findings, now));
        Ok(())
    }

    /// Has whatever waits, now and later, be due at once.
    pub fn hurry(&mut self) {
        self.flush_after = Duration::ZERO;
    }

    /// When the batch is to be written, if it is not empty.
    pub fn due_at(&self) -> Option<Instant> {
        let (_, oldest) = self.waiting.front()?;
        Some(if self.facts >= FACTS_PER_COMMIT_MAX { *oldest } else { *oldest + self.flush_after })
    }

    /// Whether there is something that should be written now.
    pub fn is_due(&self, now: Instant) -> bool {
        self.due_at().is_some_and(|due| due <= now)
    }

    /// Takes out the oldest findings: as many as one transaction holds, and at least one.
    pub fn take(&mut self) -> Vec<Arc<FactBatch>> {
        let (mut taken, mut facts) = (Vec::new(), 0);
        while let Some((next, _)) = self.waiting.front() {
            if !taken.is_empty() && facts + next.facts.len() > FACTS_PER_COMMIT_MAX {
                break;
            }
            facts += next.facts.len();
            taken.extend(self.waiting.pop_front().map(|(findings, _)| findings));
        }
        self.facts -= facts;
        taken
    }

    /// Facts that wait.
    pub fn len(&self) -> usize {
        self.facts
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Fact, Mark, Reason, State, Timeframe, Timestamp};

    const FLUSH_AFTER: Duration = Duration::from_millis(50);

    #[expect(clippy::disallowed_methods, reason = "an Instant has no other origin; only differences count")]
    fn start() -> Instant {
        Instant::now()
    }

    fn findings(name: &str, facts: usize) -> Arc<FactBatch> {
        let mark = Fact::Marked(Mark {
            pair: "EURUSD".parse().unwrap(),
            timeframe: Timeframe::M5,
            span: Timestamp(0)..Timestamp(300),
            state: State::Quiet,
            reason: Reason::LaterRow,
        });
        Arc::new(FactBatch { evidence: name.into(), facts: vec![mark; facts] })
    }

    fn names(taken: &[Arc<FactBatch>]) -> Vec<&str> {
        taken.iter().map(|findings| &*findings.evidence).collect()
    }

    #[test]
    fn the_oldest_finding_decides_when_it_is_due() {
        let (mut batch, now) = (Batch::new(FLUSH_AFTER), start());
        assert!(!batch.is_due(now + FLUSH_AFTER * 10), "empty");
        batch.offer(findings("a", 1), now).unwrap();
        batch.offer(findings("b", 1), now + FLUSH_AFTER / 2).unwrap();
        assert!(!batch.is_due(now + FLUSH_AFTER - Duration::from_nanos(1)));
        assert!(batch.is_due(now + FLUSH_AFTER));
        assert_eq!(names(&batch.take()), ["a", "b"]);
        assert!(!batch.is_due(now + FLUSH_AFTER * 10), "taken");
    }

    #[test]
    fn a_full_transaction_does_not_wait() {
        let (mut batch, now) = (Batch::new(FLUSH_AFTER), start());
        batch.offer(findings("a", FACTS_PER_COMMIT_MAX - 1), now).unwrap();
        assert!(!batch.is_due(now));
        batch.offer(findings("b", 1), now).unwrap();
        assert!(batch.is_due(now));
        assert_eq!(names(&batch.take()), ["a", "b"]);
    }

    #[test]
    fn a_transaction_is_bounded_and_keeps_the_order() {
        let (mut batch, now) = (Batch::new(Duration::ZERO), start());
        for (name, facts) in [("a", 600), ("b", 400), ("c", 1), ("d", 5_000), ("e", 1)] {
            batch.offer(findings(name, facts), now).unwrap();
        }
        let mut taken = Vec::new();
        while !batch.is_empty() {
            taken.push(names(&batch.take()).join(""));
        }
        assert_eq!(taken, ["ab", "c", "d", "e"]);
        assert_eq!(batch.len(), 0);
    }

    #[test]
    fn what_does_not_fit_is_given_back() {
        let (mut batch, now) = (Batch::new(FLUSH_AFTER), start());
        batch.offer(findings("oversized", FACTS_WAITING_MAX + 1), now).unwrap();
        assert_eq!(batch.offer(findings("b", 1), now).unwrap_err().evidence.as_ref(), "b");
        batch.take();
        batch.offer(findings("b", 1), now).unwrap();
        assert_eq!(names(&batch.take()), ["b"]);
    }
}
