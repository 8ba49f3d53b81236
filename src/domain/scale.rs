//! Whether an instrument is quoted as a decimal (1.14233) or in points (11423.3).
//!
//! It differs by product and account and has been seen to change under a running system, so it
//! is checked, not assumed: at start against a first price and IG's `scalingFactor`, while
//! running against the price before.

use std::fmt;
use std::ops::Range;

use super::{Pair, Price};

/// How the numbers of a feed relate to prices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scale {
    /// The number is the price.
    Decimal,
    /// The number is the price times 10 to this power: 4, or 2 for pairs quoted in JPY.
    Points(u32),
}

impl Scale {
    /// The scale of a points quote of this pair.
    pub fn points(pair: Pair) -> Scale {
        Scale::Points(if pair.is_jpy_quoted() { 2 } else { 4 })
    }

    /// What [`Price::parse`] has to shift by.
    pub const fn points_shift(self) -> u32 {
        match self {
            Scale::Decimal => 0,
            Scale::Points(shift) => shift,
        }
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scale::Decimal => "decimal",
            Scale::Points(_) => "points",
        })
    }
}

/// What a first look at an instrument says of its scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The price fits this scale and no other, and nothing contradicts it.
    Scale(Scale),
    /// Nothing to judge by; look again when there is a price.
    NoPriceYet,
    /// The price fits no scale, or IG's `scalingFactor` contradicts it: hold back, say so, and
    /// let the operator settle it with an explicit `scale`.
    Ambiguous,
}

/// Prices, in decimal, that a pair may have without raising a question. 10^shift times any of
/// these is outside the range again, so a number fits at most one scale.
fn plausible_range(pair: Pair) -> Range<Price> {
    let whole = |units: i64| Price::from_units(units).expect("the bounds are ordinary prices");
    const ONE: i64 = 100_000_000;
    if pair.is_jpy_quoted() { whole(10 * ONE)..whole(1_000 * ONE) } else { whole(ONE / 10)..whole(100 * ONE) }
}

/// Whether a price, already divided by its scale, is one that this pair may have.
pub fn is_plausible(pair: Pair, price: Price) -> bool {
    plausible_range(pair).contains(&price)
}

/// Classifies an instrument by its first bid, as sent (not divided by anything), checked against
/// IG's `scalingFactor` where there is one.
///
/// IG describes that factor as the multiplier from a level to pips: 10,000 (100 for JPY) says
/// decimal, 1 says points. Other values have been seen without pattern and say nothing.
pub fn classify(pair: Pair, bid: Option<Price>, scaling_factor: Option<f64>) -> Verdict {
    let Some(bid) = bid else { return Verdict::NoPriceYet };
    let points = Scale::points(pair);
    let units_per_pip = 10_i64.pow(points.points_shift());
    let divided = Price::from_units(bid.units() / units_per_pip);
    let by_price = if is_plausible(pair, bid) {
        Scale::Decimal
    } else if divided.is_some_and(|price| is_plausible(pair, price)) {
        points
    } else {
        return Verdict::Ambiguous;
    };
    let by_factor = match scaling_factor {
        Some(1.0) => Some(points),
        Some(factor) if factor == units_per_pip as f64 => Some(Scale::Decimal),
        _ => None,
    };
    match by_factor {
        Some(other) if other != by_price => Verdict::Ambiguous,
        _ => Verdict::Scale(by_price),
    }
}

/// A step by this factor, either way, is no move of the market: no major pair has moved by a
/// factor of two in a day. A change of scale is a factor of 100 or 10,000, garbage any other.
const JUMP_FACTOR: i64 = 5;

/// Whether `next` cannot be a price on the scale of `previous`.
#[inline]
pub fn jumped(previous: Price, next: Price) -> bool {
    let (low, high) = (previous.min(next), previous.max(next));
    high.units() >= low.units() * JUMP_FACTOR
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::pair::MAJOR_PAIRS;
    use super::*;

    fn price(text: &str) -> Price {
        Price::parse(text, 0).unwrap()
    }

    fn check(pair: &str, bid: &str, factor: Option<f64>, expected: Verdict) {
        let pair = pair.parse().unwrap();
        assert_eq!(classify(pair, Some(price(bid)), factor), expected, "{pair} {bid} {factor:?}");
    }

    const DECIMAL: Verdict = Verdict::Scale(Scale::Decimal);
    const POINTS_4: Verdict = Verdict::Scale(Scale::Points(4));
    const POINTS_2: Verdict = Verdict::Scale(Scale::Points(2));

    #[test]
    fn quotes_that_were_seen_in_the_wild() {
        check("GBP_USD", "13339.2", None, POINTS_4);
        check("AUD_USD", "7811.9", Some(1.0), POINTS_4);
        check("EUR_USD", "11423.3", Some(1.0), POINTS_4);
        check("EUR_USD", "1.1578", None, DECIMAL);
        check("GBP_USD", "1.3045", Some(10_000.0), DECIMAL);
        check("USD_JPY", "119.870", None, DECIMAL);
        check("USD_JPY", "11987.0", Some(1.0), POINTS_2);
        check("USD_JPY", "119.870", Some(100.0), DECIMAL);
        check("NZD_CHF", "0.4561", None, DECIMAL);
        check("NZD_CHF", "4561.2", None, POINTS_4);
    }

    #[test]
    fn a_factor_that_contradicts_the_price_leaves_it_open() {
        check("EUR_USD", "1.1578", Some(1.0), Verdict::Ambiguous);
        check("EUR_USD", "11578", Some(10_000.0), Verdict::Ambiguous);
        check("USD_JPY", "11987", Some(100.0), Verdict::Ambiguous);
    }

    #[test]
    fn a_factor_without_meaning_says_nothing() {
        check("EUR_USD", "1.1578", Some(0.0), DECIMAL);
        check("EUR_USD", "1.1578", Some(f64::NAN), DECIMAL);
        check("EUR_USD", "11578", Some(100.0), POINTS_4);
    }

    #[test]
    fn a_price_between_the_scales_is_ambiguous() {
        check("EUR_USD", "500", None, Verdict::Ambiguous);
        check("USD_JPY", "1.2", None, Verdict::Ambiguous);
        check("EUR_USD", "9999999", None, Verdict::Ambiguous);
        check("EUR_USD", "0.00000001", None, Verdict::Ambiguous);
    }

    #[test]
    fn no_price_defers_the_verdict() {
        assert_eq!(classify(MAJOR_PAIRS[0], None, Some(1.0)), Verdict::NoPriceYet);
    }

    #[test]
    fn only_what_no_market_does_is_a_jump() {
        for (previous, next, expected) in [
            ("1.1578", "11578", true),
            ("11423.3", "1.1423", true),
            ("119.87", "11987", true),
            ("1.2", "1.0", false),
            ("1.2", "2.4", false),
            ("1", "4.9", false),
            ("1", "5", true),
            ("5", "1", true),
        ] {
            assert_eq!(jumped(price(previous), price(next)), expected, "{previous} to {next}");
        }
    }

    proptest! {
        #[test]
        fn a_plausible_price_is_recognised_on_either_scale(
            pair in prop::sample::select(MAJOR_PAIRS.to_vec()), share in 0.0..1.0_f64,
        ) {
            let Range { start, end } = plausible_range(pair);
            let units = start.units() + ((end.units() - 1 - start.units()) as f64 * share) as i64;
            let decimal = Price::from_units(units).unwrap();
            prop_assert_eq!(classify(pair, Some(decimal), None), DECIMAL);
            let points = Scale::points(pair);
            let sent = Price::from_units(units * 10_i64.pow(points.points_shift())).unwrap();
            prop_assert_eq!(classify(pair, Some(sent), None), Verdict::Scale(points));
            prop_assert!(jumped(decimal, sent) && jumped(sent, decimal));
        }
    }
}
