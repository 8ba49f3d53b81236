//! Currency pairs.

use std::fmt;
use std::str::FromStr;

/// The 28 pairs of the eight major currencies, which are collected by default.
pub const MAJOR_PAIRS: [Pair; 28] = [
    Pair(*b"EURUSD"),
    Pair(*b"GBPUSD"),
    Pair(*b"AUDUSD"),
    Pair(*b"NZDUSD"),
    Pair(*b"USDCAD"),
    Pair(*b"USDCHF"),
    Pair(*b"USDJPY"),
    Pair(*b"EURGBP"),
    Pair(*b"EURAUD"),
    Pair(*b"EURNZD"),
    Pair(*b"EURCAD"),
    Pair(*b"EURCHF"),
    Pair(*b"EURJPY"),
    Pair(*b"GBPAUD"),
    Pair(*b"GBPNZD"),
    Pair(*b"GBPCAD"),
    Pair(*b"GBPCHF"),
    Pair(*b"GBPJPY"),
    Pair(*b"AUDNZD"),
    Pair(*b"AUDCAD"),
    Pair(*b"AUDCHF"),
    Pair(*b"AUDJPY"),
    Pair(*b"NZDCAD"),
    Pair(*b"NZDCHF"),
    Pair(*b"NZDJPY"),
    Pair(*b"CADCHF"),
    Pair(*b"CADJPY"),
    Pair(*b"CHFJPY"),
];

/// A currency pair: base and quote, three capital letters each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair([u8; 6]);

impl Pair {
    /// The six letters without a separator, as brokers spell it: `EURUSD`.
    pub fn letters(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a pair is made of ASCII letters")
    }

    /// The currency bought and sold: `EUR` of `EUR_USD`.
    pub fn base(&self) -> &str {
        &self.letters()[..3]
    }

    /// The currency that the price is in: `USD` of `EUR_USD`.
    pub fn quote(&self) -> &str {
        &self.letters()[3..]
    }

    /// Whether quotes of this pair have a pip of 0.01 instead of 0.0001.
    pub fn is_jpy_quoted(&self) -> bool {
        self.quote() == "JPY"
    }

    /// Decimal places of a customary quote: 3 for pairs quoted in JPY, else 5.
    pub fn decimals(&self) -> usize {
        if self.is_jpy_quoted() { 3 } else { 5 }
    }
}

impl fmt::Display for Pair {
    /// The product's spelling, also in the database: `EUR_USD`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.base(), self.quote())
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that names no currency pair.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a currency pair: \"{0}\" (write EUR_USD, EURUSD or EUR/USD)")]
pub struct NotAPair(String);

impl FromStr for Pair {
    type Err = NotAPair;

    /// Accepts `EUR_USD`, `EURUSD`, `EUR/USD` and `EUR-USD` in any case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || NotAPair(text.chars().take(20).collect());
        let bytes = text.trim().as_bytes();
        let (base, quote) = match bytes.len() {
            6 => bytes.split_at(3),
            7 if matches!(bytes[3], b'_' | b'/' | b'-') => (&bytes[..3], &bytes[4..]),
            _ => return Err(refuse()),
        };
        let mut letters = [0; 6];
        for (to, from) in letters.iter_mut().zip(base.iter().chain(quote)) {
            if !from.is_ascii_alphabetic() {
                return Err(refuse());
            }
            *to = from.to_ascii_uppercase();
        }
        Ok(Pair(letters))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_spellings() {
        for text in ["EUR_USD", "EURUSD", "EUR/USD", "eur-usd", " EurUsd "] {
            assert_eq!(text.parse::<Pair>().unwrap().to_string(), "EUR_USD", "{text}");
        }
        for text in ["", "EUR", "EURUSDX", "EUR USD", "EUR_US1", "€URUSD", "EU_RUSD"] {
            assert!(text.parse::<Pair>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_default_pairs_are_all_combinations_of_eight_currencies() {
        let mut seen = std::collections::BTreeSet::new();
        for pair in MAJOR_PAIRS {
            let mut legs = [pair.base().to_owned(), pair.quote().to_owned()];
            legs.sort();
            assert!(seen.insert(legs), "{pair} twice");
            assert_eq!(pair.to_string().parse(), Ok(pair));
        }
        let currencies: std::collections::BTreeSet<_> = seen.iter().flatten().collect();
        assert_eq!(currencies.len(), 8);
        assert_eq!(seen.len(), 8 * 7 / 2);
    }
}
