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

/// What the server granted of `unfiltered`, as it said itself: remembered for the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    /// No row of any subscription is merged away.
    Unfiltered,
    /// Rows of every subscription may be.
    Filtered,
    /// Of some they may, of others not.
    Mixed,
}

impl Granted {
    /// How the database spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Granted::Unfiltered => "unfiltered",
            Granted::Filtered => "filtered",
            Granted::Mixed => "some",
        }
    }
}

/// What is kept of one account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// `demo`, `live` or `custom`.
    pub environment: String,
    /// Guesses in a row that matched.
    pub matched: u32,
    /// What the server granted, as [`Granted::as_str`] spells it.
    pub granted: Option<String>,
}

/// Where the records are kept, each behind its environment and account.
pub const SETTINGS_MATCHED: &str = "inference.matched/";
/// Where it is kept what the server granted, likewise.
pub const SETTINGS_GRANTED: &str = "stream.granted/";

/// The records of all accounts, without the names of these, from the settings that hold them.
pub fn records(matched: &[(String, String)], granted: &[(String, String)]) -> Vec<Record> {
    let mut records: BTreeMap<&str, Record> = BTreeMap::new();
    let settings = matched.iter().map(|kept| (SETTINGS_MATCHED, kept));
    for (prefix, (key, value)) in settings.chain(granted.iter().map(|kept| (SETTINGS_GRANTED, kept))) {
        let Some(account) = key.strip_prefix(prefix) else { continue };
        let record = records.entry(account).or_default();
        record.environment = account.split('/').next().unwrap_or_default().to_owned();
        match prefix {
            SETTINGS_MATCHED => record.matched = value.parse().unwrap_or(0),
            _ => record.granted = Some(value.clone()),
        }
    }
    records.into_values().collect()
}

/// Names of the settings in which an account's record is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordKeys {
    /// Guesses in a row that matched.
    pub matched: String,
    /// What the server granted.
    pub granted: String,
}

impl RecordKeys {
    /// The record of one account in one environment: another account is served by other rules.
    pub fn of(environment: &str, account: &str) -> RecordKeys {
        RecordKeys {
            matched: format!("{SETTINGS_MATCHED}{environment}/{account}"),
            granted: format!("{SETTINGS_GRANTED}{environment}/{account}"),
        }
    }
}

/// The record of guessed closes on one account.
#[derive(Clone, Debug, Default)]
pub struct Inference {
    matched: u32,
    trusted: u32,
    candidates: BTreeMap<BarKey, Bar>,
    /// Guesses that were settled.
    settled: BTreeMap<BarKey, Bar>,
    /// `matched` is not the number last kept.
    changed: bool,
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

    /// Compares a row that came late with what was settled by a guess about the same bucket. An
    /// end-of-candle row with other prices, or any row with more ticks, shows that the guess was
    /// wrong, which loses all trust.
    pub fn late_row(&mut self, row: &Bar, closed: bool) {
        let Some(guessed) = self.settled.get(&row.key) else { return };
        if row.volume > guessed.volume || closed && !guessed.same_prices(row) {
            self.earn(0);
        }
        if closed {
            self.settled.remove(&row.key);
        }
    }

    /// Compares REST's bar with a guess about the same bucket. One mismatch loses all trust.
    pub fn confirm(&mut self, fetched: &Bar) {
        if let Some(guessed) = self.candidates.remove(&fetched.key) {
            self.earn(if guessed.same_prices(fetched) { self.matched.saturating_add(1) } else { 0 });
        }
    }

    /// The count, if it has changed since it was last asked for.
    pub fn take_changed(&mut self) -> Option<u32> {
        std::mem::take(&mut self.changed).then_some(self.matched)
    }

    fn earn(&mut self, matched: u32) {
        self.changed |= matched != self.matched;
        self.matched = matched;
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
    fn records_are_read_back_without_their_accounts_names() {
        let keys = RecordKeys::of("demo", "ABC12");
        let kept = |key: &str, value: &str| vec![(key.to_owned(), value.to_owned())];
        let told = records(&kept(&keys.matched, "57"), &kept(&keys.granted, "unfiltered"));
        let (environment, granted) = ("demo".to_owned(), Some("unfiltered".to_owned()));
        assert_eq!(told, [Record { environment, matched: 57, granted }]);
        assert_eq!(records(&[], &[]), []);
    }

    #[test]
    fn trust_is_earned_by_matches_audited_and_lost_by_one_mismatch() {
        let mut inference = Inference::new(MATCHES_TO_EARN - 1);
        let guess = bar("EURUSD", 0, "1.1");
        assert_eq!(inference.guess(&guess), Guess::Ask);
        inference.confirm(&guess);
        assert_eq!(inference.take_changed(), Some(MATCHES_TO_EARN));
        inference.confirm(&guess);
        assert_eq!(inference.take_changed(), None, "each guess counts once");
        let asked = (0..AUDIT_ONE_IN * 3)
            .filter(|ix| inference.guess(&bar("EURUSD", i64::from(*ix) * 300, "1.1")) == Guess::Ask);
        assert_eq!(asked.count(), 3, "one in a hundred is audited");
        let audited = *inference.candidates.keys().next().unwrap();
        let mut other = bar("EURUSD", 0, "1.2");
        other.key = audited;
        inference.confirm(&other);
        assert_eq!(inference.take_changed(), Some(0));
        assert_eq!((inference.matched(), inference.guess(&guess)), (0, Guess::Ask));
    }

    #[test]
    fn a_late_close_that_contradicts_a_trusted_guess_loses_all_trust() {
        let mut inference = Inference::new(MATCHES_TO_EARN);
        let guess = bar("EURUSD", 0, "1.1");
        assert_eq!(inference.guess(&guess), Guess::Trust);
        inference.late_row(&bar("EURUSD", 300, "1.2"), true);
        assert_eq!(inference.take_changed(), None, "nothing was guessed there");
        inference.late_row(&bar("EURUSD", 0, "1.2"), false);
        assert_eq!(inference.take_changed(), None, "what is not closed may yet move back");
        inference.late_row(&bar("EURUSD", 0, "1.2"), true);
        assert_eq!(inference.take_changed(), Some(0), "to be kept across restarts");
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
