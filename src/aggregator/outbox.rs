//! Findings that are not durable yet, in the order in which they were made. Pure.
//!
//! Each is offered to the writer once, in order. Where the writer refuses one or is gone, all that are not
//! durable are offered again from the oldest on, before anything that came later: what is stored last
//! stands, so none may overtake another. What is offered twice is stored once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::domain::FactBatch;

/// A batch on its way to the writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Which batch.
    pub id: u64,
    /// In which round of offers: an old round's failure says nothing of the present one.
    pub round: u64,
    /// What it holds.
    pub batch: Arc<FactBatch>,
    /// When that was found, whatever the round.
    pub found: Instant,
}

#[derive(Debug)]
struct Held {
    id: u64,
    batch: Arc<FactBatch>,
    found: Instant,
}

/// What waits to become durable.
#[derive(Debug, Default)]
pub struct Outbox {
    batches: VecDeque<Held>,
    /// So many of the oldest are offered in this round.
    offered: usize,
    next_id: u64,
    round: u64,
    /// An offer has failed and the next round has not begun.
    rests: bool,
    facts: usize,
}

impl Outbox {
    /// Takes a batch in that was found at this moment; answers its id.
    pub fn push(&mut self, batch: Arc<FactBatch>, found: Instant) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.facts += batch.facts.len();
        self.batches.push_back(Held { id, batch, found });
        id
    }

    /// The next batch to offer now, if there is one.
    pub fn next_offer(&mut self) -> Option<Offer> {
        let Held { id, batch, found } = self.batches.get(self.offered).filter(|_| !self.rests)?;
        self.offered += 1;
        Some(Offer { id: *id, round: self.round, batch: batch.clone(), found: *found })
    }

    /// The batch is durable.
    pub fn durable(&mut self, id: u64) {
        let Some(ix) = self.batches.iter().position(|held| held.id == id) else { return };
        if let Some(held) = self.batches.remove(ix) {
            self.facts -= held.batch.facts.len();
        }
        self.offered -= usize::from(ix < self.offered);
    }

    /// An offer of this round has failed. True where that is news: then nothing more is offered before
    /// [`Outbox::begin_again`].
    pub fn failed(&mut self, round: u64) -> bool {
        if round != self.round || self.rests {
            return false;
        }
        self.rests = true;
        true
    }

    /// Offers everything that is not durable again.
    pub fn begin_again(&mut self) {
        (self.rests, self.offered) = (false, 0);
        self.round += 1;
    }

    /// Facts that are not durable yet.
    pub fn facts(&self) -> usize {
        self.facts
    }

    /// Whether everything is durable.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::clock::Clock;

    fn batch(facts: usize) -> Arc<FactBatch> {
        use crate::domain::{Fact, Mark, Reason, State, Timeframe, Timestamp};
        let mark = Mark {
            pair: "EURUSD".parse().unwrap(),
            timeframe: Timeframe::M5,
            span: Timestamp(0)..Timestamp(300),
            state: State::Missing,
            reason: Reason::Offline,
        };
        Arc::new(FactBatch { evidence: "e".into(), facts: vec![Fact::Marked(mark); facts] })
    }

    fn offers(outbox: &mut Outbox) -> Vec<u64> {
        std::iter::from_fn(|| outbox.next_offer()).map(|offer| offer.id).collect()
    }

    #[test]
    fn each_is_offered_once_in_order_and_goes_when_it_is_durable() {
        let (mut outbox, found) = (Outbox::default(), Clock::system().monotonic());
        for facts in [1, 2, 3] {
            outbox.push(batch(facts), found);
        }
        assert_eq!((offers(&mut outbox), outbox.facts()), (vec![0, 1, 2], 6));
        assert!(offers(&mut outbox).is_empty());
        outbox.durable(0);
        outbox.durable(0);
        assert_eq!((outbox.facts(), outbox.push(batch(1), found)), (5, 3));
        assert_eq!(offers(&mut outbox), [3]);
        [1, 2, 3].into_iter().for_each(|id| outbox.durable(id));
        assert!(outbox.is_empty() && outbox.facts() == 0);
    }

    #[test]
    fn after_a_failure_what_is_not_durable_comes_before_what_is_new() {
        let (mut outbox, found) = (Outbox::default(), Clock::system().monotonic());
        let later = |seconds| found + Duration::from_secs(seconds);
        for seconds in 0..3 {
            outbox.push(batch(1), later(seconds));
        }
        offers(&mut outbox);
        outbox.durable(0);
        assert!(outbox.failed(0));
        assert!(!outbox.failed(0), "the others of the round fail with it");
        outbox.push(batch(1), later(3));
        assert!(offers(&mut outbox).is_empty(), "nothing overtakes them");
        outbox.begin_again();
        assert!(!outbox.failed(0), "of a round that is over");
        let again: Vec<_> =
            std::iter::from_fn(|| outbox.next_offer()).map(|offer| (offer.id, offer.found)).collect();
        assert_eq!(again, [(1, later(1)), (2, later(2)), (3, later(3))], "found when they were, not offered");
        // What the old writer had done after all.
        outbox.durable(2);
        outbox.push(batch(1), found);
        assert_eq!(offers(&mut outbox), [4]);
    }

    proptest! {
        /// A writer takes in order and dies at any time: what it has stored, each first time counted,
        /// is in order, and in the end everything is stored.
        #[test]
        fn nothing_is_lost_and_nothing_overtakes(
            events in prop::collection::vec(0u8..4, 0..200)
        ) {
            let (mut outbox, found) = (Outbox::default(), Clock::system().monotonic());
            let (mut stored, mut mailbox) = (Vec::new(), VecDeque::new());
            let mut events = events.into_iter();
            loop {
                match events.next() {
                    Some(0) => _ = outbox.push(batch(1), found),
                    Some(1) => mailbox.extend(std::iter::from_fn(|| outbox.next_offer())),
                    // It dies, what it had not stored is lost with it, and another comes.
                    Some(2) => {
                        if mailbox.drain(..).any(|offer: Offer| outbox.failed(offer.round)) {
                            outbox.begin_again();
                        }
                    }
                    Some(_) => {
                        if let Some(offer) = mailbox.pop_front() {
                            stored.push(offer.id);
                            outbox.durable(offer.id);
                        }
                    }
                    None => {
                        mailbox.extend(std::iter::from_fn(|| outbox.next_offer()));
                        if mailbox.is_empty() { break }
                        for offer in mailbox.drain(..) {
                            stored.push(offer.id);
                            outbox.durable(offer.id);
                        }
                    }
                }
            }
            prop_assert!(outbox.is_empty());
            prop_assert!(stored.iter().copied().eq(0..outbox.next_id), "{stored:?}");
        }
    }
}
