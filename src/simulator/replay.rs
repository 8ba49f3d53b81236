//! A market of recorded bars.
//!
//! Format: gzip CSV, one `<PAIR>.csv.gz` per pair with the header
//! `pair,time_ms,bid_o,bid_h,bid_l,bid_c,ask_o,ask_h,ask_l,ask_c,volume`, ascending in time, bars
//! of 5 minutes or shorter (shorter ones are folded). Where a row has no ask, ask is bid plus a
//! stated spread. Volume serves as tick count, 0 where there is none.
//!
//! Ticks inside a bar are made up, because the stream needs a forming candle: open, the nearer
//! extreme, the other, close. They fold to exactly the recorded bar.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use super::market::{BUCKET_S, Candle, Side, Tick};
use crate::domain::{Pair, Price, Timestamp};

/// Fewest ticks that a bar is taken apart into: open, two extremes, close.
const TICKS_MIN: u32 = 4;
/// Most ticks: one a second, the last second left for the close.
const TICKS_MAX: u32 = 299;
/// Largest price in points that a replay takes, 20,000.00000.
const POINTS_MAX: i64 = 2_000_000_000;
/// Length of a file's name that the pair is read from: the name up to this.
const SUFFIX: &str = ".csv.gz";

/// Why recorded data cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A file or the folder cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A row is not of the format.
    #[error("{} line {line}: {what}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Line number, the header is 1.
        line: u64,
        /// What is wrong.
        what: String,
    },
    /// No file of the folder has a bar in the wanted span.
    #[error("{} has no <PAIR>.csv.gz with bars in the wanted span", path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
    },
}

/// One recorded 5-minute bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Recorded {
    start: Timestamp,
    candle: Candle,
}

/// Recorded bars of some pairs.
#[derive(Debug)]
pub(crate) struct ReplayMarket {
    pairs: Vec<Pair>,
    bars: BTreeMap<Pair, Vec<Recorded>>,
    ticks_per_bar: u32,
}

impl ReplayMarket {
    /// Reads every `<PAIR>.csv.gz` of a folder, of which bars that start before `before` count.
    /// `spread_points` is the ask's distance where a row has none (JPY: of the third decimal).
    /// A bar is taken apart so that it can be streamed as `rows_per_bar` rows.
    ///
    /// # Errors
    /// An unreadable or malformed file, or nothing to serve.
    pub fn load(
        dir: &Path,
        before: Timestamp,
        spread_points: i32,
        rows_per_bar: u32,
    ) -> Result<ReplayMarket, ReplayError> {
        let unreadable = |source| ReplayError::Unreadable { path: dir.to_owned(), source };
        let mut bars = BTreeMap::new();
        for entry in std::fs::read_dir(dir).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(Ok(pair)) = name.strip_suffix(SUFFIX).map(str::parse::<Pair>) else { continue };
            let file =
                File::open(&path).map_err(|source| ReplayError::Unreadable { path: path.clone(), source })?;
            let read = read_bars(GzDecoder::new(file), pair, before, spread_points)
                .map_err(|(line, what)| ReplayError::Malformed { path: path.clone(), line, what })?;
            if !read.is_empty() {
                bars.insert(pair, read);
            }
        }
        if bars.is_empty() {
            return Err(ReplayError::Empty { path: dir.to_owned() });
        }
        let pairs = bars.keys().copied().collect();
        Ok(ReplayMarket { pairs, bars, ticks_per_bar: ticks_per_bar(rows_per_bar) })
    }

    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// From the first bar's start to the last bar's end, over all pairs.
    pub fn span(&self) -> Range<Timestamp> {
        let first = self.bars.values().filter_map(|bars| bars.first()).map(|bar| bar.start).min();
        let last = self.bars.values().filter_map(|bars| bars.last()).map(|bar| bar.start).max();
        let (Some(first), Some(last)) = (first, last) else { return Timestamp(0)..Timestamp(0) };
        first..last.plus(BUCKET_S)
    }

    pub fn ticks(&self, pair: Pair, bucket: Timestamp, ticks: &mut Vec<Tick>) {
        let Some(bars) = self.bars.get(&pair) else { return };
        if let Ok(place) = bars.binary_search_by_key(&bucket, |bar| bar.start) {
            take_apart(&bars[place].candle, self.ticks_per_bar, ticks);
        }
    }
}

/// All rows but the last, which only adds the end-of-candle flag, show one more tick.
fn ticks_per_bar(rows_per_bar: u32) -> u32 {
    rows_per_bar.saturating_sub(1).clamp(TICKS_MIN, TICKS_MAX)
}

/// Ticks that fold to `candle`.
fn take_apart(candle: &Candle, count: u32, ticks: &mut Vec<Tick>) {
    let rising = candle.bid.close >= candle.bid.open;
    let corners = |side: &Side| match rising {
        true => [side.open, side.low, side.high, side.close],
        false => [side.open, side.high, side.low, side.close],
    };
    let (bid, ask) = (corners(&candle.bid), corners(&candle.ask));
    let steps = count - 1;
    // Corner number k sits exactly at this tick; between corners the price moves evenly.
    let place_of = |corner: u32| corner * steps / 3;
    let mut corner = 0;
    for place in 0..count {
        while corner < 2 && place >= place_of(corner as u32 + 1) {
            corner += 1;
        }
        let (from, to) = (place_of(corner as u32), place_of(corner as u32 + 1));
        let (part, whole) = (i64::from(place - from), i64::from((to - from).max(1)));
        let between = |side: &[i32; 4]| {
            let (a, b) = (i64::from(side[corner]), i64::from(side[corner + 1]));
            (a + (b - a) * part / whole) as i32
        };
        let counted =
            |place: u32| (u64::from(candle.ticks) * u64::from(place)).div_ceil(u64::from(count)) as u32;
        ticks.push(Tick {
            offset_s: (place * BUCKET_S as u32 / (count + 1)) as u16,
            count: counted(place + 1) - counted(place),
            bid: between(&bid),
            ask: between(&ask),
        });
    }
}

/// Reads the rows of one file and folds them to 5-minute bars. An error names its line.
fn read_bars(
    source: impl Read,
    pair: Pair,
    before: Timestamp,
    spread_points: i32,
) -> Result<Vec<Recorded>, (u64, String)> {
    let mut reader = csv::ReaderBuilder::new().from_reader(source);
    let mut row = csv::StringRecord::new();
    let mut bars: Vec<Recorded> = Vec::new();
    let mut line = 1;
    while reader.read_record(&mut row).map_err(|error| (line + 1, error.to_string()))? {
        line += 1;
        let bar = read_row(&row, pair, spread_points).map_err(|what| (line, what))?;
        let start = bar.start.floor(BUCKET_S);
        if start >= before {
            break;
        }
        match bars.last_mut() {
            Some(last) if last.start == start => last.candle.extend(&bar.candle),
            Some(last) if last.start > start => return Err((line, "time goes backwards".to_owned())),
            _ => bars.push(Recorded { start, candle: bar.candle }),
        }
    }
    Ok(bars)
}

fn read_row(row: &csv::StringRecord, pair: Pair, spread_points: i32) -> Result<Recorded, String> {
    let field = |ix: usize| row.get(ix).ok_or_else(|| format!("column {} is missing", ix + 1));
    let millis: i64 = field(1)?.parse().map_err(|_| "time_ms is not a number".to_owned())?;
    let side = |first: usize| -> Result<Side, String> {
        let points = |ix| points(field(ix)?, pair);
        Ok(Side {
            open: points(first)?,
            high: points(first + 1)?,
            low: points(first + 2)?,
            close: points(first + 3)?,
        })
    };
    let bid = side(2)?;
    let ask = if field(6)?.is_empty() {
        let plus = |points: i32| points + spread_points;
        Side { open: plus(bid.open), high: plus(bid.high), low: plus(bid.low), close: plus(bid.close) }
    } else {
        side(6)?
    };
    let enclosed =
        |side: &Side| side.low <= side.open.min(side.close) && side.high >= side.open.max(side.close);
    if !enclosed(&bid) || !enclosed(&ask) {
        return Err("high and low do not enclose open and close".to_owned());
    }
    let ticks = match field(10)? {
        "" => 0,
        text => text.parse().map_err(|_| format!("volume {text} is not a number"))?,
    };
    Ok(Recorded { start: Timestamp::from_millis(millis), candle: Candle { bid, ask, ticks } })
}

/// A decimal price as a number of the pair's last decimal.
fn points(text: &str, pair: Pair) -> Result<i32, String> {
    let unit = 10_i64.pow(crate::domain::price::DECIMALS - pair.decimals() as u32);
    let units = Price::parse(text, 0).map_err(|error| format!("{text:.20}: {error}"))?.units();
    if units % unit != 0 || units / unit > POINTS_MAX {
        return Err(format!("{text:.20} has more than {} decimals or is too large", pair.decimals()));
    }
    Ok((units / unit) as i32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADER: &str = "pair,time_ms,bid_o,bid_h,bid_l,bid_c,ask_o,ask_h,ask_l,ask_c,volume\n";

    fn read(pair: &str, rows: &str) -> Result<Vec<Recorded>, (u64, String)> {
        let before = Timestamp(i64::MAX);
        read_bars(format!("{HEADER}{rows}").as_bytes(), pair.parse().unwrap(), before, 15)
    }

    #[test]
    fn a_row_without_ask_gets_the_stated_spread() {
        let bars = read("EURUSD", "EURUSD,600000,1.10000,1.10020,1.09990,1.10010,,,,,42\n").unwrap();
        let bid = Side { open: 110_000, high: 110_020, low: 109_990, close: 110_010 };
        let ask = Side { open: 110_015, high: 110_035, low: 110_005, close: 110_025 };
        assert_eq!(bars, [Recorded { start: Timestamp(600), candle: Candle { bid, ask, ticks: 42 } }]);
    }

    #[test]
    fn minutes_are_folded_to_five() {
        let bars = read(
            "USDJPY",
            "USDJPY,300000,101.000,101.100,100.900,101.050,101.010,101.110,100.910,101.060,\n\
             USDJPY,540000,101.050,101.500,101.000,101.200,101.060,101.510,101.010,101.210,\n\
             USDJPY,600000,101.200,101.200,101.200,101.200,101.210,101.210,101.210,101.210,3\n",
        )
        .unwrap();
        assert_eq!(bars.len(), 2);
        assert_eq!(bars[0].candle.bid, Side { open: 101_000, high: 101_500, low: 100_900, close: 101_200 });
        assert_eq!(bars[0].candle.ticks, 0);
        assert_eq!((bars[1].start, bars[1].candle.ticks), (Timestamp(600), 3));
    }

    #[test]
    fn a_malformed_row_names_its_line() {
        for (rows, line) in [
            ("EURUSD,x,1,1,1,1,,,,,1\n", 2),
            ("EURUSD,0,1,1,1,1,,,,,1\nEURUSD,300000,1,1,1,1.000001,,,,,1\n", 3),
            ("EURUSD,0,1,0.9,1,1,,,,,1\n", 2),
            ("EURUSD,600000,1,1,1,1,,,,,1\nEURUSD,0,1,1,1,1,,,,,1\n", 3),
            ("EURUSD,0,1,1\n", 2),
        ] {
            assert_eq!(read("EURUSD", rows).unwrap_err().0, line, "{rows}");
        }
    }

    #[test]
    fn five_rows_a_bar_begin_with_the_open_alone_and_end_with_the_whole() {
        let side = |shift| Side { open: 100 + shift, high: 120 + shift, low: 90 + shift, close: 110 + shift };
        let candle = Candle { bid: side(0), ask: side(2), ticks: 10 };
        let mut ticks = Vec::new();
        take_apart(&candle, ticks_per_bar(5), &mut ticks);
        let bids: Vec<_> = ticks.iter().map(|tick| (tick.offset_s, tick.bid)).collect();
        assert_eq!(bids, [(0, 100), (60, 90), (120, 120), (180, 110)]);
    }

    proptest! {
        #[test]
        fn a_bar_taken_apart_folds_back_to_itself(
            prices in prop::array::uniform4(1..1_000_000), wide in 0..50, count in 0_u32..1000, rows in 1_u32..400,
        ) {
            let [a, b, c, d]: [i32; 4] = prices;
            let (open, close) = (a, b);
            let side = |w: i32| Side {
                open: open + w, close: close + w,
                high: a.max(b).max(c).max(d) + w, low: a.min(b).min(c).min(d) + w,
            };
            let candle = Candle { bid: side(0), ask: side(wide), ticks: count };
            let mut ticks = Vec::new();
            take_apart(&candle, ticks_per_bar(rows), &mut ticks);
            let mut folded = None;
            for tick in &ticks {
                Candle::fold(&mut folded, tick);
            }
            prop_assert_eq!(folded, Some(candle));
            prop_assert!(ticks.iter().all(|tick| tick.offset_s < 300));
            prop_assert!(ticks.is_sorted_by_key(|tick| tick.offset_s));
        }
    }
}
