//! Where prices lie, and which are written beside the axis. Pure.

use anstyle::Style;

use super::{Candle, side};
use crate::commands::paint::FAINT;

/// Rows between two prices on the axis, at least.
const PRICE_EVERY: usize = 2;

/// Prices to half rows, counted from the bottom.
pub struct Scale {
    low: f64,
    span: f64,
    /// Rows of characters.
    pub rows: usize,
}

impl Scale {
    /// Of prices that fill so many rows.
    pub fn of(bars: &[Candle], rows: usize, decimals: usize) -> Scale {
        let low = bars.iter().map(|bar| bar.prices[2]).fold(f64::MAX, f64::min);
        let high = bars.iter().map(|bar| bar.prices[1]).fold(f64::MIN, f64::max);
        // Prices that never moved have their line in the middle.
        let least = 10f64.powi(-i32::try_from(decimals).unwrap_or(0)) * rows as f64 / 2.0;
        let span = (high - low).max(least);
        Scale { low: (high + low - span) / 2.0, span, rows }
    }

    /// The half row of a price.
    pub fn half(&self, price: f64) -> usize {
        let halves = (self.rows * 2) as f64;
        // A float beyond the ends of an integer becomes its end.
        (((price - self.low) / self.span * halves) as usize).min(self.rows * 2 - 1)
    }

    /// Round prices on the axis, and the last one in its colour: row from the bottom, text, style.
    pub fn labels(&self, last: &Candle, decimals: usize) -> Vec<(usize, String, Style)> {
        let close = last.prices[3];
        let mut labels =
            vec![(self.half(close) / 2, format!("{close:.decimals$}"), side(last.rises()).bold())];
        let unit = 10f64.powi(-i32::try_from(decimals).unwrap_or(0));
        let least = self.span * PRICE_EVERY as f64 / self.rows as f64 / unit;
        // 1, 2 or 5 times a power of ten, in the pair's last decimal.
        let power = 10f64.powf(least.max(1.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|times| times * power).find(|step| *step >= least);
        let step = step.unwrap_or(power * 10.0).max(1.0) * unit;
        let mut nth = (self.low / step).ceil();
        while nth * step < self.low + self.span {
            let row = self.half(nth * step) / 2;
            if row.abs_diff(labels[0].0) > 0 {
                labels.push((row, format!("{:.decimals$}", nth * step), FAINT));
            }
            nth += 1.0;
        }
        labels
    }
}
