//! Prices as fixed-point numbers. Floats appear only at the database's door.

use std::fmt;

/// Decimal places that a [`Price`] keeps: finer than any forex quote IG is known to send.
pub const DECIMALS: u32 = 8;
const UNITS_PER_ONE: i64 = 10_i64.pow(DECIMALS);
/// Largest price accepted. Twice this, in half units, still fits a double exactly.
const MAX_UNITS: i64 = 10_000_000 * UNITS_PER_ONE;
/// More digits than this in one number is garbage, not a price.
const MAX_DIGITS: usize = 25;

/// A positive price in units of 10⁻⁸ of the quote currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Price(i64);

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
    pub const ONE: Price = Price(UNITS_PER_ONE);

    /// Reads a plain decimal number and divides it exactly by 10^`points_shift`.
    ///
    /// `points_shift` is 0 for a decimal quote; 4 (2 for JPY) where the broker quotes in points.
    /// Digits beyond the eighth decimal are rounded half up: they are artefacts of the sender's
    /// binary arithmetic, as in `1.3045000000000002`.
    ///
    /// # Errors
    /// [`PriceError::NotANumber`] for anything but digits with at most one point;
    /// [`PriceError::OutOfRange`] for zero, negative and absurd values.
    pub fn parse(text: &str, points_shift: u32) -> Result<Price, PriceError> {
        let bytes = text.as_bytes();
        let (negative, digits) = match bytes.first() {
            Some(b'-') => (true, &bytes[1..]),
            _ => (false, bytes),
        };
        if digits.is_empty() || digits.len() > MAX_DIGITS {
            return Err(PriceError::NotANumber);
        }
        // Digits after the point that still count; those of the shift move left of it.
        let mut room = i64::from(DECIMALS) - i64::from(points_shift);
        let (mut units, mut seen_point, mut seen_digit) = (0_i64, false, false);
        let mut round_up = false;
        for &byte in digits {
            match byte {
                b'0'..=b'9' => {
                    seen_digit = true;
                    let digit = i64::from(byte - b'0');
                    if !seen_point {
                        units = units.saturating_mul(10).saturating_add(digit);
                    } else if room > 0 {
                        units = units.saturating_mul(10).saturating_add(digit);
                        room -= 1;
                    } else if room == 0 {
                        round_up = digit >= 5;
                        room -= 1;
                    }
                }
                b'.' if !seen_point => seen_point = true,
                _ => return Err(PriceError::NotANumber),
            }
        }
        if !seen_digit {
            return Err(PriceError::NotANumber);
        }
        if room > 0 {
            units = units.saturating_mul(10_i64.pow(u32::try_from(room).unwrap_or(0)));
        }
        units = units.saturating_add(i64::from(round_up));
        if negative || units <= 0 || units > MAX_UNITS {
            return Err(PriceError::OutOfRange);
        }
        Ok(Price(units))
    }

    /// The price of `units` × 10⁻⁸, or `None` where no pair trades there.
    pub fn from_units(units: i64) -> Option<Price> {
        (units > 0 && units <= MAX_UNITS).then_some(Price(units))
    }

    /// This price in units of 10⁻⁸.
    pub fn units(self) -> i64 {
        self.0
    }

    /// Reads a double from the database back into the price that it was written from.
    ///
    /// # Errors
    /// [`PriceError::OutOfRange`] for NaN, infinities and values no pair trades at.
    pub fn from_f64(value: f64) -> Result<Price, PriceError> {
        let units = (value * UNITS_PER_ONE as f64).round();
        if units >= 1.0 && units <= MAX_UNITS as f64 {
            Ok(Price(units as i64))
        } else {
            Err(PriceError::OutOfRange)
        }
    }

    /// The nearest double. One correctly rounded division of two exact integers, so it equals
    /// what parsing the decimal text would give.
    pub fn to_f64(self) -> f64 {
        self.0 as f64 / UNITS_PER_ONE as f64
    }

    /// Half of `self` plus `ask`, exact.
    pub fn mid(self, ask: Price) -> Mid {
        Mid(self.0 + ask.0)
    }
}

impl fmt::Display for Price {
    /// Plain decimal text without trailing zeros.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_decimal(f, self.0, UNITS_PER_ONE, DECIMALS as usize)
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
    pub fn is_ordered(&self) -> bool {
        self.low <= self.open.min(self.close) && self.high >= self.open.max(self.close)
    }

    /// The side's values over this bucket followed by `next`.
    #[must_use]
    pub fn then(&self, next: &Ohlc) -> Ohlc {
        Ohlc {
            open: self.open,
            high: self.high.max(next.high),
            low: self.low.min(next.low),
            close: next.close,
        }
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
        fn no_text_panics(text in ".{0,40}", shift in 0u32..=4) {
            let _ = Price::parse(&text, shift);
        }
    }
}
