//! What an answer of IG's price API proves. Pure.
//!
//! A bucket that an answer speaks of and has no row for is called quiet for good, and a longer
//! bar is folded without it, so an answer proves something only where every row of it was
//! understood and lies where it was asked for: an answer shifted by an hour would otherwise pass
//! for an hour of silence.

use std::ops::Range;

use super::zone::Zone;
use crate::domain::scale::{self, Scale};
use crate::domain::{Bar, Calendar, Expectation, FetchedBar, Pair, Timeframe, Timestamp};
use crate::ig::models::Prices;
use crate::ig::parse::price_row;

/// Offsets of local time from UTC beyond this are not on this planet, seconds.
const OFFSET_MAX_S: i64 = 15 * 3600;

/// History may lag behind the stream: behind its last bar an answer says nothing of the last so
/// many seconds.
const LAG_MAX_S: i64 = 1_800;

/// Expected hours without any row at an end of an answer, seconds, that it is not trusted with.
const BARE_MAX_S: i64 = 3_600;

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
    /// Rows tell that local time had another offset then than the bounds were written with.
    #[error("the range was written in local time of another offset")]
    OtherOffset,
    /// No row at all, and none that could show that the range was read as meant.
    #[error("the answer is empty")]
    Empty,
}

/// Reads the rows of all pages: ascending, one a bucket (the later one wins).
///
/// # Errors
/// [`Unproven`] where pages are missing or a row cannot be read.
pub fn rows(
    pair: Pair,
    timeframe: Timeframe,
    scale: Scale,
    pages: &[Prices],
) -> Result<Vec<FetchedBar>, Unproven> {
    let told = pages.iter().filter_map(|page| page.metadata.as_ref()?.page_data).map(|data| data.total_pages);
    if told.max().unwrap_or(1) > pages.len() as i64 {
        return Err(Unproven::PagesMissing);
    }
    let mut rows = Vec::new();
    for row in pages.iter().flat_map(|page| &page.prices) {
        let row = price_row(pair, timeframe, scale.points_shift(), row).ok_or(Unproven::RowUnreadable)?;
        rows.push(row);
    }
    rows.reverse();
    rows.sort_by_key(|row| row.start);
    rows.dedup_by_key(|row| row.start);
    Ok(rows)
}

/// Takes out bars with a price that this pair cannot have on the scale it was read by; their
/// buckets then count as having a null price. An answer of nothing but such bars is one on
/// another scale, or speaks of another market.
///
/// # Errors
/// [`OffScale`] where there are bars and not one is plausible.
pub fn plausible(pair: Pair, mut rows: Vec<FetchedBar>) -> Result<Vec<FetchedBar>, OffScale> {
    let fits = |bar: &Bar| {
        let mut prices = bar.bid.prices().into_iter().chain(bar.ask.prices());
        prices.all(|price| scale::is_plausible(pair, price))
    };
    let told = rows.iter().filter(|row| row.bar.is_some()).count();
    for row in &mut rows {
        row.bar = row.bar.filter(fits);
    }
    if told > 0 && rows.iter().all(|row| row.bar.is_none()) { Err(OffScale) } else { Ok(rows) }
}

/// No price of an answer is one that the pair can have on the scale it was read by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no price of the answer is plausible on the scale that is known")]
pub struct OffScale;

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

/// The part of what was asked for that an answer of these rows, ascending, speaks of at event time
/// `now`.
pub fn speaks_of(
    asked: &Range<Timestamp>,
    rows: &[FetchedBar],
    timeframe: Timeframe,
    now: Timestamp,
) -> Range<Timestamp> {
    let last_end = rows.last().map_or(asked.start, |row| row.start.plus(timeframe.seconds()));
    let known_to = last_end.max(timeframe.bucket(now.plus(-LAG_MAX_S)));
    asked.start..known_to.min(asked.end).max(asked.start)
}

/// Leaves out of what an answer speaks of a beginning and an end without any row, where the market was
/// expected to trade for an hour or more: perhaps the answer was cut short. What is left out is
/// asked for again, and then an answer without any row speaks of it.
pub fn trusted(
    covered: Range<Timestamp>,
    rows: &[FetchedBar],
    timeframe: Timeframe,
    calendar: &Calendar,
) -> Range<Timestamp> {
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return covered };
    let is_long = |span: Range<Timestamp>| {
        let expected = calendar.runs(span).into_iter().filter(|(_, told)| *told == Expectation::Expected);
        expected.map(|(run, _)| run.end.since(run.start)).sum::<i64>() >= BARE_MAX_S
    };
    let last_end = last.start.plus(timeframe.seconds());
    let start = if is_long(covered.start..first.start) { first.start } else { covered.start };
    let end = if is_long(last_end..covered.end) { last_end } else { covered.end };
    start..end.max(start)
}

/// What is known when an answer to a range has come without any row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The last second of the range.
    pub last: Timestamp,
    /// In which zone it was written.
    pub zone: Zone,
    /// Whether a row has told the offset of local time in its week.
    pub is_offset_seen: bool,
    /// The bucket by which the pair's last range was seen to be read as meant, while that holds.
    pub read: Option<Timestamp>,
    /// A bucket whose bar is known.
    pub anchor: Option<Timestamp>,
}

/// What an answer without any row proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emptiness {
    /// That IG has no bar there.
    Proved,
    /// That, if a range of this bucket, whose bar is known, is read as it is meant.
    IfRead(Timestamp),
    /// Nothing.
    Unproved,
}

/// What an answer without any row proves. A range that was written with an offset that nobody has seen in its
/// week is perhaps read an hour aside, in a closed market: a bar of another week says nothing against that,
/// since the offset changes with daylight saving.
pub fn emptiness(asked: &Asked) -> Emptiness {
    let is_of_its_week = |time: Timestamp| time.week() == asked.last.week();
    let is_written_aright = asked.zone == Zone::Utc || asked.is_offset_seen;
    if asked.read.is_some_and(is_of_its_week) {
        return Emptiness::Proved;
    }
    match asked.anchor {
        Some(anchor) if is_written_aright || is_of_its_week(anchor) => Emptiness::IfRead(anchor),
        _ => Emptiness::Unproved,
    }
}

/// Whether a local time can be so far from UTC.
pub fn is_of_this_planet(offset_s: i64) -> bool {
    offset_s.abs() <= OFFSET_MAX_S
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rows_json: &str, pages: u32) -> Result<Vec<i64>, Unproven> {
        let json = format!(
            r#"{{"prices":[{rows_json}],"metadata":{{"pageData":{{"pageNumber":1,"totalPages":{pages}}}}}}}"#
        );
        let page: Prices = serde_json::from_str(&json).expect("test JSON");
        let read = rows("GBPUSD".parse().unwrap(), Timeframe::M5, Scale::Decimal, &[page])?;
        Ok(read.iter().map(|row| row.start.0 % 86_400 / 60).collect())
    }

    const AT_50: &str = r#"{"snapshotTimeUTC":"2020-10-12T20:50:00"}"#;
    const AT_45: &str = r#"{"snapshotTimeUTC":"2020-10-12T20:45:00"}"#;

    #[test]
    fn rows_come_ascending_and_once() {
        assert_eq!(read(&format!("{AT_50},{AT_45},{AT_50}"), 1), Ok(vec![20 * 60 + 45, 20 * 60 + 50]));
        assert_eq!(read("", 0), Ok(vec![]));
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
    fn behind_its_last_bar_an_answer_says_nothing_of_the_last_half_hour() {
        let row = |start: i64| FetchedBar { start: Timestamp(start), local_offset_s: None, bar: None };
        let check = |rows: &[i64], now: i64| {
            let rows: Vec<_> = rows.iter().map(|start| row(*start)).collect();
            let told = speaks_of(&(Timestamp(3_600)..Timestamp(7_200)), &rows, Timeframe::M5, Timestamp(now));
            (told.start.0, told.end.0)
        };
        assert_eq!(check(&[3_600, 4_200], 7_200), (3_600, 5_400), "half an hour ago");
        assert_eq!(check(&[3_600, 6_000], 7_200), (3_600, 6_300), "its last bar");
        assert_eq!(check(&[6_900], 7_200), (3_600, 7_200));
        assert_eq!(check(&[], 7_200), (3_600, 5_400));
        assert_eq!(check(&[], 4_000), (3_600, 3_600), "nothing");
        assert_eq!(check(&[], 9_000), (3_600, 7_200));
    }

    #[test]
    fn an_answer_that_may_be_cut_short_is_not_trusted_at_its_ends() {
        // Wednesday noon.
        let noon = Timestamp(1_579_089_600);
        let row =
            |bucket: i64| FetchedBar { start: noon.plus(bucket * 300), local_offset_s: None, bar: None };
        let check = |rows: &[i64], from: i64, to: i64| {
            let rows: Vec<_> = rows.iter().map(|bucket| row(*bucket)).collect();
            let covered = noon.plus(from * 300)..noon.plus(to * 300);
            let told = trusted(covered, &rows, Timeframe::M5, &Calendar::forex());
            (told.start.since(noon) / 300, told.end.since(noon) / 300)
        };
        assert_eq!(check(&[11, 40], 0, 52), (0, 52), "less than an hour");
        assert_eq!(check(&[12, 40], 0, 53), (12, 41));
        assert_eq!(check(&[-900, -800], 0, 52), (0, 0), "one of another time");
        assert_eq!(check(&[], 0, 53), (0, 53), "an answer without any row speaks for itself");
        // Friday's close lies between.
        let friday = 2 * 288 + 119;
        assert_eq!(check(&[friday], friday, friday + 500), (friday, friday + 500), "no hour of trading");
    }

    #[test]
    fn an_empty_answer_is_believed_only_as_far_as_its_own_week_is_known() {
        use Emptiness::{IfRead, Proved, Unproved};
        // The first hour of a week, and the Friday before.
        let (sunday, friday) = (Timestamp(1_710_104_400), Timestamp(1_709_931_600));
        let monday = sunday.plus(12 * 3_600);
        let check = |zone, is_offset_seen, read, anchor, expected| {
            let asked = Asked { last: sunday.plus(899), zone, is_offset_seen, read, anchor };
            assert_eq!(emptiness(&asked), expected, "{asked:?}");
        };
        for zone in [Zone::Local, Zone::Unknown] {
            check(zone, false, None, None, Unproved);
            check(zone, false, None, Some(friday), Unproved);
            check(zone, false, Some(friday), Some(friday), Unproved);
            check(zone, false, Some(friday), Some(monday), IfRead(monday));
            check(zone, false, Some(monday), None, Proved);
            check(zone, true, None, Some(friday), IfRead(friday));
            check(zone, true, Some(friday), None, Unproved);
            check(zone, true, Some(friday), Some(friday), IfRead(friday));
            check(zone, true, Some(monday), None, Proved);
        }
        check(Zone::Utc, false, None, Some(friday), IfRead(friday));
        check(Zone::Utc, false, None, None, Unproved);
        check(Zone::Utc, false, Some(monday), None, Proved);
    }

    /// Judges flat bars, each told as bid and ask, of GBP/USD. `#` stands for a null.
    fn check_scale(bars: &[&str], expected: Result<&str, OffScale>) {
        let pair: Pair = "GBPUSD".parse().unwrap();
        let price = |text| crate::domain::Price::parse(text, 0).unwrap();
        let flat = |price| crate::domain::Ohlc::from_prices([price; 4]);
        let rows = bars.iter().map(|text| {
            let bar = text.split_once(' ').map(|(bid, ask)| Bar {
                key: crate::domain::BarKey { pair, timeframe: Timeframe::M5, start: Timestamp(0) },
                bid: flat(price(bid)),
                ask: flat(price(ask)),
                volume: 1,
                source: crate::domain::Source::Rest,
            });
            FetchedBar { start: Timestamp(0), local_offset_s: None, bar }
        });
        let kept = plausible(pair, rows.collect())
            .map(|rows| rows.iter().map(|row| if row.bar.is_some() { 'x' } else { '#' }).collect::<String>());
        assert_eq!(kept, expected.map(str::to_owned), "{bars:?}");
    }

    #[test]
    fn a_bar_off_the_scale_is_taken_out_and_an_answer_of_none_else_is_refused() {
        check_scale(&["1.3 1.4", "#"], Ok("x#"));
        check_scale(&["1.3 1.4", "13000 1.4", "1.3 13000"], Ok("x##"));
        check_scale(&["13000 13001", "#"], Err(OffScale));
        check_scale(&["0.00013 0.00014"], Err(OffScale));
        check_scale(&["#"], Ok("#"));
        check_scale(&[], Ok(""));
    }
}
