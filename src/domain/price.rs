//! Prices as fixed-point numbers. Floats appear only at the database's door.

use std::fmt;
use std::num::NonZeroI64;

use super::digits::Digits;

/// Decimal places that a [`Price`] keeps: finer than any forex quote IG is known to send.
pub const DECIMALS: u32 = 8;
const UNITS_PER_ONE: i64 = 10_i64.pow(DECIMALS);
/// Largest price accepted. Twice this, in half units, still fits a double exactly.
const MAX_UNITS: i64 = 10_000_000 * UNITS_PER_ONE;
/// More digits than this in one number is garbage, not a price.
const MAX_DIGITS: usize = 25;
/// A number that has come to this has all the digits that a price keeps, or too many of them.
const ENOUGH: u64 = 10_u64.pow(17);
/// 10 to the power of each index.
const POWERS_OF_TEN: [u64; 20] = {
    let mut powers = [1; 20];
    let mut ix = 1;
    while ix < powers.len() {
        powers[ix] = powers[ix - 1] * 10;
        ix += 1;
    }
    powers
};

/// A positive price in units of 10⁻⁸ of the quote currency. An absent one takes no more room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Price(NonZeroI64);

/// Why a text is not a price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// Not a plain decimal number such as `1.30450`.
    #[error("not a decimal number")]
    NotANumber,
    /// Zero, negative, or above ten million: no currency pair trades there.
    #[error("outside any plausible price")]
    OutOfRange,
}

impl Price {
    /// One unit of the quote currency.
    pub const ONE: Price = Price(NonZeroI64::new(UNITS_PER_ONE).expect("one is not zero"));

    /// Reads a plain decimal number and divides it exactly by 10^`points_shift`.
    ///
    /// `points_shift` is 0 for a decimal quote; 4 (2 for JPY) where the broker quotes in points.
    /// Digits beyond the eighth decimal are rounded half up: they are artefacts of the sender's
    /// binary arithmetic, as in `1.3045000000000002`.
    ///
    /// # Errors
    /// [`PriceError::NotANumber`] for anything but digits with at most one point;
    /// [`PriceError::OutOfRange`] for zero, negative and absurd values.
    #[inline]
    pub fn parse(text: &str, points_shift: u32) -> Result<Price, PriceError> {
        match Digits::of(text.as_bytes()).and_then(Digits::decimal) {
            Some((number, decimals)) if decimals + points_shift <= DECIMALS => {
                Price::of_short(number, decimals + points_shift)
            }
            _ => Price::parse_any(text, points_shift),
        }
    }

    /// As [`Price::parse`] for `text[start..end]`, which is read together with what comes before it.
    ///
    /// # Errors
    /// As [`Price::parse`]; [`PriceError::NotANumber`] too where there is no such part.
    #[inline]
    pub fn parse_within(
        text: &[u8],
        (start, end): (usize, usize),
        points_shift: u32,
    ) -> Result<Price, PriceError> {
        let length = end.wrapping_sub(start);
        // One byte may be a point alone.
        if length > 1
            && let Some((number, decimals)) = Digits::before(text, end, length).and_then(Digits::decimal)
            && decimals + points_shift <= DECIMALS
        {
            return Price::of_short(number, decimals + points_shift);
        }
        let text = text.get(start..end).and_then(|text| std::str::from_utf8(text).ok());
        Price::parse_any(text.ok_or(PriceError::NotANumber)?, points_shift)
    }

    /// The price of a number of up to eight digits, of which so many are decimals.
    #[inline]
    fn of_short(number: u64, decimals: u32) -> Result<Price, PriceError> {
        // Eight digits and as many zeros.
        let units = number * POWERS_OF_TEN[(DECIMALS - decimals) as usize];
        i64::try_from(units).ok().and_then(Price::from_units).ok_or(PriceError::OutOfRange)
    }

    /// As [`Price::parse`], for texts of any length.
    #[cold]
    fn parse_any(text: &str, points_shift: u32) -> Result<Price, PriceError> {
        let (negative, digits) = match text.as_bytes() {
            [b'-', digits @ ..] => (true, digits),
            digits => (false, digits),
        };
        if digits.len() > MAX_DIGITS {
            return Err(PriceError::NotANumber);
        }
        let mut number = 0_u64;
        let (mut has_digit, mut has_point, mut decimals, mut too_long) = (false, false, 0, false);
        for &byte in digits {
            let digit = byte.wrapping_sub(b'0');
            if digit < 10 {
                has_digit = true;
                if number < ENOUGH {
                    number = number * 10 + u64::from(digit);
                    decimals += usize::from(has_point);
                } else {
                    too_long |= !has_point;
                }
            } else if byte == b'.' && !has_point {
                has_point = true;
            } else {
                return Err(PriceError::NotANumber);
            }
        }
        if !has_digit {
            return Err(PriceError::NotANumber);
        }
        let decimals = decimals + points_shift as usize;
        let units = if decimals <= DECIMALS as usize {
            number.saturating_mul(POWERS_OF_TEN[DECIMALS as usize - decimals])
        } else {
            match POWERS_OF_TEN.get(decimals - DECIMALS as usize) {
                Some(power) => (number + power / 2) / power,
                // Too small by far.
                None => 0,
            }
        };
        let units = i64::try_from(units).ok().filter(|_| !negative && !too_long);
        units.and_then(Price::from_units).ok_or(PriceError::OutOfRange)
    }

    /// The price of `units` × 10⁻⁸, or `None` where no pair trades there.
    #[inline]
    pub fn from_units(units: i64) -> Option<Price> {
        NonZeroI64::new(units).filter(|units| units.is_positive() && units.get() <= MAX_UNITS).map(Price)
    }

    /// This price in units of 10⁻⁸.
    pub fn units(self) -> i64 {
        self.0.get()
    }

    /// Reads a double from the database back into the price that it was written from.
    ///
    /// # Errors
    /// [`PriceError::OutOfRange`] for NaN, infinities and values no pair trades at.
    pub fn from_f64(value: f64) -> Result<Price, PriceError> {
        let units = (value * UNITS_PER_ONE as f64).round();
        // The cast sends NaN to zero and saturates.
        Price::from_units(units as i64).ok_or(PriceError::OutOfRange)
    }

    /// The nearest double. One correctly rounded division of two exact integers, so it equals
    /// what parsing the decimal text would give.
    pub fn to_f64(self) -> f64 {
        self.units() as f64 / UNITS_PER_ONE as f64
    }

    /// Half of `self` plus `ask`, exact.
    pub fn mid(self, ask: Price) -> Mid {
        Mid(self.units() + ask.units())
    }
}

impl fmt::Display for Price {
    /// Plain decimal text without trailing zeros.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_decimal(f, self.units(), UNITS_PER_ONE, DECIMALS as usize)
    }
}

/// A mid price, exact: it is kept in half units of [`Price`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mid(i64);

impl Mid {
    /// The nearest double to the exact mid.
    pub fn to_f64(self) -> f64 {
        self.0 as f64 / (2 * UNITS_PER_ONE) as f64
    }
}

impl fmt::Display for Mid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Half a unit is five of the ninth decimal.
        write_decimal(f, self.0 * 5, UNITS_PER_ONE * 10, DECIMALS as usize + 1)
    }
}

fn write_decimal(f: &mut fmt::Formatter<'_>, units: i64, units_per_one: i64, decimals: usize) -> fmt::Result {
    let (whole, fraction) = (units / units_per_one, units % units_per_one);
    if fraction == 0 {
        return write!(f, "{whole}");
    }
    let text = format!("{fraction:0decimals$}");
    write!(f, "{whole}.{}", text.trim_end_matches('0'))
}

/// Open, high, low and close of one side of the book over one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ohlc {
    /// First price.
    pub open: Price,
    /// Highest price.
    pub high: Price,
    /// Lowest price.
    pub low: Price,
    /// Last price.
    pub close: Price,
}

impl Ohlc {
    /// Whether high and low enclose open and close.
    #[inline]
    pub fn is_ordered(&self) -> bool {
        self.low <= self.open.min(self.close) && self.high >= self.open.max(self.close)
    }

    /// The side's values over this bucket followed by `next`.
    #[must_use]
    pub fn then(mut self, next: &Ohlc) -> Ohlc {
        self.extend(next);
        self
    }

    /// Goes on to the end of `next`, the side's values over the bucket that follows.
    pub fn extend(&mut self, next: &Ohlc) {
        self.high = self.high.max(next.high);
        self.low = self.low.min(next.low);
        self.close = next.close;
    }

    /// The four prices in the order open, high, low, close.
    pub fn prices(&self) -> [Price; 4] {
        [self.open, self.high, self.low, self.close]
    }

    /// The inverse of [`Ohlc::prices`].
    pub fn from_prices([open, high, low, close]: [Price; 4]) -> Ohlc {
        Ohlc { open, high, low, close }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, shift: u32, expected: Result<&str, PriceError>) {
        assert_eq!(
            Price::parse(text, shift).map(|price| price.to_string()),
            expected.map(str::to_owned),
            "{text} shifted by {shift}"
        );
    }

    #[test]
    fn decimal_quotes_are_read_exactly() {
        check("1.30450", 0, Ok("1.3045"));
        check("119.870", 0, Ok("119.87"));
        check("2", 0, Ok("2"));
        check(".5", 0, Ok("0.5"));
        check("1.", 0, Ok("1"));
        check("0.00000001", 0, Ok("0.00000001"));
        check("1.3045000000000002", 0, Ok("1.3045"));
        check("1.3044999999999998", 0, Ok("1.3045"));
    }

    #[test]
    fn point_quotes_are_divided_exactly() {
        check("13358.8", 4, Ok("1.33588"));
        check("13359", 4, Ok("1.3359"));
        check("11987.05", 2, Ok("119.8705"));
        check("13358.85", 4, Ok("1.335885"));
    }

    #[test]
    fn what_is_not_a_price_is_refused() {
        for text in ["", "-", ".", "NaN", "inf", "1e5", "1.2.3", "1,2", " 1", "+1", "１"] {
            check(text, 0, Err(PriceError::NotANumber));
        }
        check("12345678901234567890123456", 0, Err(PriceError::NotANumber));
        for text in ["0", "0.000", "-1.3", "10000001", "9999999999999999999999999"] {
            check(text, 0, Err(PriceError::OutOfRange));
        }
        for value in [f64::NAN, f64::INFINITY, -1.0, 0.0, 1e300] {
            assert_eq!(Price::from_f64(value), Err(PriceError::OutOfRange), "{value}");
        }
    }

    #[test]
    fn short_texts_are_read_as_all_others_are() {
        for length in 0..=9 {
            for place in 0..length {
                for byte in 0..128 {
                    let digits = ["123456789", "000000001", "99.999999", ".12345678"].into_iter();
                    for (text, shift) in digits.zip([0, 2, 4, 4]) {
                        let mut text = text.as_bytes()[..length].to_vec();
                        text[place] = byte;
                        let text = String::from_utf8(text).unwrap();
                        let expected = Price::parse_any(&text, shift);
                        assert_eq!(Price::parse(&text, shift), expected, "{text} shifted by {shift}");
                        for before in ["", "U,1,1,|", "17|1335.88|"] {
                            let (line, start) = (format!("{before}{text}|1"), before.len());
                            let price = Price::parse_within(line.as_bytes(), (start, start + length), shift);
                            assert_eq!(price, expected, "{text} within {line} shifted by {shift}");
                        }
                    }
                }
            }
        }
        check("1.3é", 0, Err(PriceError::NotANumber));
    }

    #[test]
    fn the_mid_of_an_odd_sum_keeps_its_half_unit() {
        let price = |text| Price::parse(text, 0).unwrap();
        let mid = price("1.30450").mid(price("1.30459"));
        assert_eq!(mid.to_string(), "1.304545");
        assert_eq!(mid.to_f64(), 1.304545);
        assert_eq!(price("0.00000001").mid(price("0.00000002")).to_string(), "0.000000015");
    }

    proptest! {
        #[test]
        fn text_double_and_back_is_the_same_price(units in 1..=MAX_UNITS) {
            let price = Price::from_units(units).unwrap();
            let text = price.to_string();
            prop_assert_eq!(Price::parse(&text, 0), Ok(price));
            prop_assert_eq!(price.to_f64(), text.parse::<f64>().unwrap());
            prop_assert_eq!(Price::from_f64(price.to_f64()), Ok(price));
        }

        #[test]
        fn the_mid_is_the_double_of_its_exact_decimal_text(
            bid in 1..=MAX_UNITS, ask in 1..=MAX_UNITS,
        ) {
            let mid = Price::from_units(bid).unwrap().mid(Price::from_units(ask).unwrap());
            prop_assert_eq!(mid.to_f64(), mid.to_string().parse::<f64>().unwrap());
        }

        #[test]
        fn every_number_is_rounded_half_up_at_the_eighth_decimal(
            whole in "[0-9]{0,12}", fraction in "[0-9]{0,12}", shift in 0u32..=4,
        ) {
            prop_assume!(!whole.is_empty() || !fraction.is_empty());
            // In units of 10⁻¹², in which each of these numbers is whole.
            let fine: i128 = format!("{whole}{fraction:0<12}").parse().unwrap();
            let per_unit = 10_i128.pow(4 + shift);
            let units = (fine + per_unit / 2) / per_unit;
            let expected = i64::try_from(units).ok().and_then(Price::from_units).ok_or(PriceError::OutOfRange);
            prop_assert_eq!(Price::parse(&format!("{whole}.{fraction}"), shift), expected);
        }

        #[test]
        fn no_text_panics(text in ".{0,40}", shift in 0u32..=4) {
            let _ = Price::parse(&text, shift);
        }
    }
}
