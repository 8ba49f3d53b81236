//! When a close may be inferred instead of seen: the second half of rule 1. Pure.
//!
//! An end-of-candle row can be merged away by the server. Where the server promised not to merge,
//! the last row before the next bucket is most likely the final one, but that has to be earned:
//! every such guess is kept and compared with what REST says of the bucket.

use std::collections::BTreeMap;

use crate::domain::{Bar, BarKey};

/// Guesses that must have matched REST before any is trusted.
pub const MATCHES_TO_EARN: u32 = 200;
/// Once earned, one in this many is still checked over REST.
pub const AUDIT_ONE_IN: u32 = 100;
/// Guesses kept for comparison; the oldest is forgotten first.
const CANDIDATES_MAX: usize = 2_048;

/// The record of guessed closes on one account.
#[derive(Clone, Debug, Default)]
pub struct Inference {
    matched: u32,
    trusted: u32,
    candidates: BTreeMap<BarKey, Bar>,
    /// Guesses that were settled.
    settled: BTreeMap<BarKey, Bar>,
}

/// What to do with a bucket whose close was not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guess {
    /// Settle it.
    Trust,
    /// Leave it to REST.
    Ask,
}

impl Inference {
    /// Starts from what was earned before, as [`Inference::matched`] told.
    pub fn new(matched: u32) -> Inference {
        Inference { matched, ..Inference::default() }
    }

    /// Guesses that matched in a row: to be kept across restarts.
    pub fn matched(&self) -> u32 {
        self.matched
    }

    /// Decides about a bar whose close was not seen although nothing was merged or lost.
    pub fn guess(&mut self, bar: &Bar) -> Guess {
        if self.matched >= MATCHES_TO_EARN {
            self.trusted = self.trusted.wrapping_add(1);
            if !self.trusted.is_multiple_of(AUDIT_ONE_IN) {
                keep(&mut self.settled, bar);
                return Guess::Trust;
            }
        }
        keep(&mut self.candidates, bar);
        Guess::Ask
    }

    /// Compares an end-of-candle row that came late with what was settled by a guess. True if the
    /// guess was wrong, which loses all trust.
    pub fn late_close(&mut self, closed: &Bar) -> bool {
        let wrong = self.settled.remove(&closed.key).is_some_and(|guessed| !guessed.same_prices(closed));
        if wrong {
            self.matched = 0;
        }
        wrong
    }

    /// Compares REST's bar with a guess about the same bucket. True if the count changed. One
    /// mismatch loses all trust.
    pub fn confirm(&mut self, fetched: &Bar) -> bool {
        let Some(guessed) = self.candidates.remove(&fetched.key) else { return false };
        if guessed.same_prices(fetched) {
            self.matched = self.matched.saturating_add(1);
        } else {
            self.matched = 0;
        }
        true
    }
}

fn keep(guesses: &mut BTreeMap<BarKey, Bar>, bar: &Bar) {
    if guesses.len() >= CANDIDATES_MAX {
        guesses.pop_first();
    }
    guesses.insert(bar.key, *bar);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregator::testing::bar;

    #[test]
    fn trust_is_earned_by_matches_audited_and_lost_by_one_mismatch() {
        let mut inference = Inference::new(MATCHES_TO_EARN - 1);
        let guess = bar("EURUSD", 0, "1.1");
        assert_eq!(inference.guess(&guess), Guess::Ask);
        assert!(inference.confirm(&guess));
        assert!(!inference.confirm(&guess), "each guess counts once");
        let asked = (0..AUDIT_ONE_IN * 3)
            .filter(|ix| inference.guess(&bar("EURUSD", i64::from(*ix) * 300, "1.1")) == Guess::Ask);
        assert_eq!(asked.count(), 3, "one in a hundred is audited");
        let audited = *inference.candidates.keys().next().unwrap();
        let mut other = bar("EURUSD", 0, "1.2");
        other.key = audited;
        assert!(inference.confirm(&other));
        assert_eq!((inference.matched(), inference.guess(&guess)), (0, Guess::Ask));
    }

    #[test]
    fn a_late_close_that_contradicts_a_trusted_guess_loses_all_trust() {
        let mut inference = Inference::new(MATCHES_TO_EARN);
        let guess = bar("EURUSD", 0, "1.1");
        assert_eq!(inference.guess(&guess), Guess::Trust);
        assert!(!inference.late_close(&bar("EURUSD", 300, "1.2")), "nothing was guessed there");
        assert!(inference.late_close(&bar("EURUSD", 0, "1.2")));
        assert_eq!((inference.matched(), inference.guess(&guess)), (0, Guess::Ask));
    }

    #[test]
    fn forgotten_guesses_bound_the_memory() {
        let mut inference = Inference::new(0);
        for ix in 0..CANDIDATES_MAX as i64 + 10 {
            inference.guess(&bar("EURUSD", ix * 300, "1.1"));
        }
        assert_eq!(inference.candidates.len(), CANDIDATES_MAX);
    }
}
