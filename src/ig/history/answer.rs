//! What an answer of IG's price API proves. Pure.
//!
//! A bucket that an answer speaks of and has no row for is called quiet for good, and a longer
//! bar is folded without it, so an answer proves something only where every row of it was
//! understood and lies where it was asked for: an answer shifted by an hour would otherwise pass
//! for an hour of silence.
//!
//! A row is read on the scale that its own price fits: no number is plausible on two, so a row
//! cannot be stored on the wrong one, whatever the stream or an earlier answer was quoted in.

use std::ops::Range;

use crate::domain::scale::{self, Scale, Verdict};
use crate::domain::{Bar, FetchedBar, Pair, Price, Timeframe, Timestamp};
use crate::ig::models::{PriceRow, Prices};
use crate::ig::parse::price_row;

/// Offsets of local time from UTC beyond this are not on this planet, seconds.
const OFFSET_MAX_S: i64 = 15 * 3600;

/// Why an answer proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    /// Pages of it are missing.
    #[error("pages of the answer are missing")]
    PagesMissing,
    /// A row's time cannot be read, or fits no bucket.
    #[error("a row of the answer has no readable time")]
    RowUnreadable,
    /// Rows lie outside the range asked for: the range was read in another zone.
    #[error("the answer lies outside the range that was asked for")]
    OutsideRange,
    /// No row at all, and none that could show that the range was read as meant.
    #[error("the answer is empty")]
    Empty,
}

/// Reads the rows of all pages: ascending, one a bucket (the later one wins). Where the operator
/// has not `fixed` the scale, a row whose prices this pair cannot have counts as one with a null
/// price.
///
/// # Errors
/// [`Unproven`] where pages are missing or a row cannot be read.
pub fn rows(
    pair: Pair,
    timeframe: Timeframe,
    fixed: Option<Scale>,
    pages: &[Prices],
) -> Result<Vec<FetchedBar>, Unproven> {
    let told = pages.iter().filter_map(|page| page.metadata.as_ref()?.page_data).map(|data| data.total_pages);
    if told.max().unwrap_or(1) > pages.len() as i64 {
        return Err(Unproven::PagesMissing);
    }
    let mut rows = Vec::new();
    for row in pages.iter().flat_map(|page| &page.prices) {
        let scale = fixed.or_else(|| scale_of(pair, row)).unwrap_or(Scale::Decimal);
        let mut row = price_row(pair, timeframe, scale.points_shift(), row).ok_or(Unproven::RowUnreadable)?;
        row.bar = row.bar.filter(|bar| fixed.is_some() || is_plausible(pair, bar));
        rows.push(row);
    }
    rows.reverse();
    rows.sort_by_key(|row| row.start);
    rows.dedup_by_key(|row| row.start);
    Ok(rows)
}

/// The scale that a row's first price fits.
fn scale_of(pair: Pair, row: &PriceRow) -> Option<Scale> {
    let bid = Price::parse(row.open_price.as_ref()?.bid.as_ref()?.get(), 0).ok()?;
    match scale::classify(pair, Some(bid), None) {
        Verdict::Scale(scale) => Some(scale),
        Verdict::NoPriceYet | Verdict::Ambiguous => None,
    }
}

fn is_plausible(pair: Pair, bar: &Bar) -> bool {
    let ends = [bar.bid.low, bar.bid.high, bar.ask.low, bar.ask.high];
    ends.into_iter().all(|price| scale::is_plausible(pair, price))
}

/// Checks that an answer to a range is one to the range that was meant.
///
/// # Errors
/// [`Unproven::OutsideRange`], [`Unproven::Empty`].
pub fn check_range(rows: &[FetchedBar], asked: &Range<Timestamp>) -> Result<(), Unproven> {
    match rows {
        [] => Err(Unproven::Empty),
        rows if rows.iter().all(|row| asked.contains(&row.start)) => Ok(()),
        _ => Err(Unproven::OutsideRange),
    }
}

/// Account-local time minus UTC, as the latest row that tells it does.
pub fn local_offset_s(rows: &[FetchedBar]) -> Option<i64> {
    rows.iter().rev().find_map(|row| row.local_offset_s).filter(|offset| offset.abs() <= OFFSET_MAX_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rows_json: &str, pages: u32) -> Result<Vec<i64>, Unproven> {
        let json = format!(
            r#"{{"prices":[{rows_json}],"metadata":{{"pageData":{{"pageNumber":1,"totalPages":{pages}}}}}}}"#
        );
        let page: Prices = serde_json::from_str(&json).expect("test JSON");
        let read = rows("GBPUSD".parse().unwrap(), Timeframe::M5, None, &[page])?;
        Ok(read.iter().map(|row| row.start.0 % 86_400 / 60).collect())
    }

    const AT_50: &str = r#"{"snapshotTimeUTC":"2020-10-12T20:50:00"}"#;
    const AT_45: &str = r#"{"snapshotTimeUTC":"2020-10-12T20:45:00"}"#;

    #[test]
    fn rows_come_ascending_and_once() {
        assert_eq!(read(&format!("{AT_50},{AT_45},{AT_50}"), 1), Ok(vec![20 * 60 + 45, 20 * 60 + 50]));
        assert_eq!(read("", 0), Ok(vec![]));
    }

    /// The bid open that is read of rows whose eight prices are these, none where it is no bar.
    fn opens(fixed: Option<Scale>, prices: &[&str]) -> Vec<Option<String>> {
        let row = |(ix, price): (usize, &&str)| {
            let legs = format!(r#"{{"bid":{price},"ask":{price}}}"#);
            format!(
                r#"{{"snapshotTimeUTC":"2020-10-12T20:{:02}:00","openPrice":{legs},"highPrice":{legs},
                "lowPrice":{legs},"closePrice":{legs}}}"#,
                ix * 5
            )
        };
        let rows_json: Vec<String> = prices.iter().enumerate().map(row).collect();
        let page = serde_json::from_str(&format!(r#"{{"prices":[{}]}}"#, rows_json.join(","))).unwrap();
        let read = rows("GBPUSD".parse().unwrap(), Timeframe::M5, fixed, &[page]).unwrap();
        read.iter().map(|row| row.bar.map(|bar| bar.bid.open.to_string())).collect()
    }

    #[test]
    fn each_row_is_read_on_the_scale_that_its_price_fits() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(opens(None, &["1.3045", "13045.8"]), [some("1.3045"), some("1.30458")]);
        assert_eq!(opens(None, &["130458000", "0.0001", "500"]), [None, None, None], "no scale fits");
        assert_eq!(opens(Some(Scale::Points(4)), &["13045.8", "500"]), [some("1.30458"), some("0.05")]);
    }

    #[test]
    fn a_row_of_two_scales_is_no_bar() {
        let mixed = r#"{"prices":[{"snapshotTimeUTC":"2020-10-12T20:00:00",
            "openPrice":{"bid":1.3,"ask":1.3},"highPrice":{"bid":13010,"ask":1.3},
            "lowPrice":{"bid":1.3,"ask":1.3},"closePrice":{"bid":1.3,"ask":1.3}}]}"#;
        let page = serde_json::from_str(mixed).unwrap();
        let read = rows("GBPUSD".parse().unwrap(), Timeframe::M5, None, &[page]).unwrap();
        assert_eq!(read[0].bar, None);
    }

    #[test]
    fn what_was_not_understood_proves_nothing() {
        assert_eq!(read(AT_50, 2), Err(Unproven::PagesMissing));
        for bad in [
            r#"{"snapshotTimeUTC":"2020-10-12T20:50:00.000"}"#,
            r#"{"snapshotTimeUTC":"2020-10-12T20:51:00"}"#,
            "{}",
        ] {
            assert_eq!(read(&format!("{AT_45},{bad}"), 1), Err(Unproven::RowUnreadable), "{bad}");
        }
    }

    #[test]
    fn an_answer_beside_the_range_proves_nothing() {
        let row = |start: i64| FetchedBar { start: Timestamp(start), local_offset_s: None, bar: None };
        let asked = Timestamp(3600)..Timestamp(7200);
        assert_eq!(check_range(&[row(3600), row(6900)], &asked), Ok(()));
        assert_eq!(check_range(&[row(3600), row(7200)], &asked), Err(Unproven::OutsideRange));
        assert_eq!(check_range(&[row(3300)], &asked), Err(Unproven::OutsideRange));
        assert_eq!(check_range(&[], &asked), Err(Unproven::Empty));
    }

    #[test]
    fn an_offset_from_another_planet_is_not_believed() {
        let row = |offset| FetchedBar { start: Timestamp(0), local_offset_s: Some(offset), bar: None };
        assert_eq!(local_offset_s(&[row(0), row(3600)]), Some(3600));
        assert_eq!(local_offset_s(&[row(90_000)]), None);
    }
}
