//! Lines of CSV to bars. Every line is hostile until it is a bar. Pure.

use std::collections::{BTreeSet, HashMap};

use crate::cli::parse_time;
use crate::domain::{Bar, BarKey, Ohlc, Pair, Price, Source, Timeframe, Timestamp};
use crate::exit::one_line;

/// Columns of `export` that are not taken: they belong to the database that they were in.
const NOT_TAKEN: [&str; 6] = ["source", "created_at", "revision", "updated_at", "seq", "feed_id"];
/// Columns in a file at most.
const COLUMNS_MAX: usize = 100;
/// Characters of a field that an error shows.
const SHOWN_CHARS_MAX: usize = 40;

const MID: [&str; 4] = ["open", "high", "low", "close"];
const BID: [&str; 4] = ["bid_open", "bid_high", "bid_low", "bid_close"];
const ASK: [&str; 4] = ["ask_open", "ask_high", "ask_low", "ask_close"];

/// What is wrong with a line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// With one of its fields.
    #[error("column {number} ({name}): {why}")]
    Field {
        /// Which column, from 1.
        number: usize,
        /// Its name.
        name: String,
        /// What.
        why: String,
    },
    /// With the line as a whole.
    #[error("{0}")]
    Line(String),
}

/// What decides which bars are taken.
pub struct Terms<'a> {
    /// Wall time: no bar that ends later has settled.
    pub now: Timestamp,
    /// The timeframes that are kept.
    pub kept: &'a [Timeframe],
    /// Where what is kept of a timeframe begins, if not everything is.
    pub oldest: &'a dyn Fn(Timeframe) -> Option<Timestamp>,
}

/// Which column holds what.
#[derive(Debug, PartialEq, Eq)]
pub struct Layout {
    names: Vec<String>,
    pair: usize,
    timeframe: usize,
    timestamp: usize,
    volume: Option<usize>,
    /// Bid and ask; none where there are mid prices alone.
    sides: Option<[[usize; 4]; 2]>,
    /// Mid prices; beside both sides those that are there are held against them.
    mid: [Option<usize>; 4],
}

impl Layout {
    /// Reads the header.
    ///
    /// # Errors
    /// A column that is missing or there twice.
    pub fn parse(header: &str) -> Result<Layout, RowError> {
        let names: Vec<String> =
            header.split(',').take(COLUMNS_MAX + 1).map(|name| bare(name).to_ascii_lowercase()).collect();
        if names.len() > COLUMNS_MAX {
            return Err(RowError::Line(format!("more than {COLUMNS_MAX} columns")));
        }
        let find = |name: &str| names.iter().position(|known| known == name);
        for (ix, name) in names.iter().enumerate() {
            if find(name) != Some(ix) && !name.is_empty() {
                return Err(field(&names, ix, "is there twice"));
            }
        }
        let need = |name: &str| {
            find(name).ok_or_else(|| {
                RowError::Line(format!(
                    "no column {name}; the first line names the columns (--help explains)"
                ))
            })
        };
        let all = |wanted: [&str; 4]| -> Result<[usize; 4], RowError> {
            let mut places = [0; 4];
            for (place, name) in places.iter_mut().zip(wanted) {
                *place = need(name)?;
            }
            Ok(places)
        };
        let has_sides = BID.iter().chain(&ASK).any(|name| find(name).is_some());
        let mid = MID.map(find);
        if !has_sides {
            all(MID)?;
        }
        Ok(Layout {
            pair: need("pair")?,
            timeframe: need("timeframe")?,
            timestamp: need("timestamp")?,
            volume: find("volume"),
            sides: if has_sides { Some([all(BID)?, all(ASK)?]) } else { None },
            mid,
            names,
        })
    }

    /// Whether bid and ask are taken to be the mid.
    pub fn is_mid_alone(&self) -> bool {
        self.sides.is_none()
    }

    /// Columns of which nothing is known here, cut to a bound.
    pub fn ignored(&self) -> Vec<String> {
        let known =
            [&MID[..], &BID, &ASK, &NOT_TAKEN, &["pair", "timeframe", "timestamp", "volume"]].concat();
        let unknown = self.names.iter().filter(|name| !known.contains(&name.as_str()));
        unknown.take(10).map(|name| cut(name)).collect()
    }

    /// Reads a line.
    ///
    /// # Errors
    /// The first field that cannot be right.
    pub fn bar(&self, line: &str, terms: &Terms<'_>) -> Result<Bar, RowError> {
        let mut fields = [""; COLUMNS_MAX];
        let mut count = 0;
        for text in line.split(',') {
            if let Some(place) = fields.get_mut(count) {
                *place = bare(text);
            }
            count += 1;
        }
        if count != self.names.len() {
            let expected = self.names.len();
            return Err(RowError::Line(format!("{count} fields, the first line names {expected}")));
        }
        let at = |ix: usize, why: &dyn std::fmt::Display| field(&self.names, ix, why);
        let pair: Pair = fields[self.pair].parse().map_err(|error| at(self.pair, &error))?;
        let timeframe: Timeframe =
            fields[self.timeframe].parse().map_err(|error| at(self.timeframe, &error))?;
        if !terms.kept.contains(&timeframe) {
            let why = format!(
                "{timeframe} is not among the timeframes kept; add it to `timeframes` in the configuration"
            );
            return Err(at(self.timeframe, &why));
        }
        let start = self.start(fields[self.timestamp], timeframe, terms)?;
        let volume = match self.volume.map(|ix| (ix, fields[ix])) {
            None | Some((_, "")) => 0,
            Some((ix, text)) => text
                .parse()
                .map_err(|_| at(ix, &format_args!("not a whole number of ticks: \"{}\"", cut(text))))?,
        };
        let side = |places: [usize; 4]| self.side(&fields, places);
        let (bid, ask) = match self.sides {
            Some([bid, ask]) => (side(bid)?, side(ask)?),
            None => {
                let mid = side(self.mid.map(|ix| ix.expect("the header has all four")))?;
                (mid, mid)
            }
        };
        let key = BarKey { pair, timeframe, start };
        let bar = Bar { key, bid, ask, volume, source: Source::Import };
        if self.sides.is_some() {
            self.check_mid(&fields, &bar)?;
        }
        Ok(bar)
    }

    fn start(&self, text: &str, timeframe: Timeframe, terms: &Terms<'_>) -> Result<Timestamp, RowError> {
        let at = |why: &dyn std::fmt::Display| field(&self.names, self.timestamp, why);
        let start = parse_time(text).map_err(|error| at(&error))?;
        if timeframe.bucket(start) != start {
            return Err(at(&format_args!("{start} is not the start of a bar of {timeframe} minutes")));
        }
        if start < Timestamp(0) {
            return Err(at(&format_args!("{start} is before 1970")));
        }
        if start.plus(timeframe.seconds()) > terms.now {
            return Err(at(&format_args!("the bar of {start} is not over yet")));
        }
        if let Some(oldest) = (terms.oldest)(timeframe).filter(|oldest| start < *oldest) {
            return Err(at(&format_args!(
                "{start} is older than what retention.days keeps, from {oldest} on"
            )));
        }
        Ok(start)
    }

    fn side(&self, fields: &[&str], places: [usize; 4]) -> Result<Ohlc, RowError> {
        let at = |ix: usize, why: &dyn std::fmt::Display| field(&self.names, ix, why);
        let mut prices = [Price::ONE; 4];
        for (price, ix) in prices.iter_mut().zip(places) {
            *price = Price::parse(fields[ix], 0)
                .map_err(|error| at(ix, &format_args!("{error}: \"{}\"", cut(fields[ix]))))?;
        }
        let [_, high_at, low_at, _] = places;
        let side = Ohlc::from_prices(prices);
        if side.high < side.open.max(side.close).max(side.low) {
            return Err(at(high_at, &format_args!("{} is not the highest of the four", side.high)));
        }
        if side.low > side.open.min(side.close) {
            return Err(at(low_at, &format_args!("{} is not the lowest of the four", side.low)));
        }
        Ok(side)
    }

    /// A mid price beside both sides must be theirs, as far as eight decimals tell: else a column is
    /// not what its name says.
    fn check_mid(&self, fields: &[&str], bar: &Bar) -> Result<(), RowError> {
        let prices = bar.bid.prices().into_iter().zip(bar.ask.prices());
        for (ix, (bid, ask)) in self.mid.iter().zip(prices) {
            let Some(ix) = *ix else { continue };
            let at = |why: &dyn std::fmt::Display| field(&self.names, ix, why);
            let told = Price::parse(fields[ix], 0)
                .map_err(|error| at(&format_args!("{error}: \"{}\"", cut(fields[ix]))))?;
            if (2 * told.units() - bid.units() - ask.units()).abs() > 1 {
                return Err(at(&format_args!("{told} is not half of bid {bid} plus ask {ask}")));
            }
        }
        Ok(())
    }
}

/// Sees to it that the bars of each pair and timeframe ascend, so that none is there twice.
#[derive(Debug, Default)]
pub struct Order {
    last: HashMap<(Pair, Timeframe), Timestamp>,
}

/// Pairs and timeframes in a file at most.
const KEYS_MAX: usize = 5_000;

impl Order {
    /// Takes the next bar.
    ///
    /// # Errors
    /// Where it is not after the one before it.
    pub fn check(&mut self, layout: &Layout, key: BarKey) -> Result<(), RowError> {
        let BarKey { pair, timeframe, start } = key;
        let at = |ix: usize, why: &dyn std::fmt::Display| field(&layout.names, ix, why);
        if let Some(last) = self.last.insert((pair, timeframe), start).filter(|last| *last >= start) {
            let why = if last == start {
                format!("the bar of {start} of {pair} {timeframe} is there twice")
            } else {
                format!("{start} comes after {last} of {pair} {timeframe}: sort the lines by timestamp")
            };
            return Err(at(layout.timestamp, &why));
        }
        if self.last.len() > KEYS_MAX {
            return Err(at(
                layout.pair,
                &format_args!("more than {KEYS_MAX} pairs and timeframes in one file"),
            ));
        }
        Ok(())
    }

    /// Which pairs there were.
    pub fn pairs(&self) -> BTreeSet<Pair> {
        self.last.keys().map(|(pair, _)| *pair).collect()
    }
}

/// A field without blanks and quotes around it. None of ours has any inside.
fn bare(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix('"').and_then(|inner| inner.strip_suffix('"')).map_or(text, str::trim)
}

fn field(names: &[String], ix: usize, why: impl std::fmt::Display) -> RowError {
    RowError::Field { number: ix + 1, name: cut(&names[ix]), why: why.to_string() }
}

fn cut(text: &str) -> String {
    one_line(&text.chars().take(SHOWN_CHARS_MAX).collect::<String>())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOON: Timestamp = Timestamp(1_583_755_200); // 2020-03-09 12:00:00
    const FULL: &str = "pair,timeframe,timestamp,bid_open,bid_high,bid_low,bid_close,\
                        ask_open,ask_high,ask_low,ask_close,volume";

    fn terms() -> Terms<'static> {
        Terms {
            now: NOON.plus(900),
            kept: &[Timeframe::M5, Timeframe::M15],
            oldest: &|_| Some(Timestamp(86_400)),
        }
    }

    fn read(header: &str, line: &str) -> Result<Bar, String> {
        let layout = Layout::parse(header).map_err(|error| error.to_string())?;
        layout.bar(line, &terms()).map_err(|error| error.to_string())
    }

    fn refused(header: &str, line: &str, begins: &str) {
        let why = read(header, line).expect_err(line);
        assert!(why.starts_with(begins), "{line}: {why}");
    }

    #[test]
    fn columns_stand_in_any_order_and_times_in_both_forms() {
        let bar = read(FULL, "EUR_USD,5,1583755200,1.1,1.3,1.0,1.2,1.2,1.4,1.1,1.3,7").unwrap();
        assert_eq!(bar.mid().map(|mid| mid.to_string()), ["1.15", "1.35", "1.05", "1.25"]);
        assert_eq!((bar.key.start, bar.volume, bar.source), (NOON, 7, Source::Import));
        let turned: Vec<&str> = FULL.split(',').rev().collect();
        let line = "\"7\", 1.3 ,1.1,1.4,1.2,1.2,1.0,1.3,1.1,2020-03-09T12:00Z,5m,eurusd";
        assert_eq!(read(&turned.join(","), line), Ok(bar));
        assert_eq!(
            read(&FULL.to_uppercase(), "EUR/USD,5,1583755200,1.1,1.3,1.0,1.2,1.2,1.4,1.1,1.3,7"),
            Ok(bar)
        );
    }

    #[test]
    fn mid_alone_is_bid_and_ask() {
        let header = "timestamp,pair,timeframe,open,high,low,close";
        let bar = read(header, "1583755200,EUR_USD,15,1.1,1.3,1.0,1.2").unwrap();
        assert_eq!(bar.bid, bar.ask);
        assert_eq!((bar.bid.high.to_string().as_str(), bar.volume), ("1.3", 0));
        assert!(Layout::parse(header).unwrap().is_mid_alone());
    }

    #[test]
    fn a_header_says_all_that_is_needed_or_is_refused() {
        let check = |header: &str, begins: &str| {
            let why = Layout::parse(header).unwrap_err().to_string();
            assert!(why.starts_with(begins), "{header}: {why}");
        };
        check("", "no column open");
        check("pair,timeframe,open,high,low,close", "no column timestamp");
        check("pair,timeframe,timestamp,open,high,low,close,bid_open", "no column bid_high");
        check("pair,timeframe,timestamp,bid_open,bid_high,bid_low,bid_close", "no column ask_open");
        check("pair,timeframe,timestamp,open,high,low,close,Pair", "column 8 (pair): is there twice");
        check(&"x,".repeat(200), "more than 100 columns");
        let layout = Layout::parse(&format!("{FULL},spread,seq")).unwrap();
        assert_eq!(layout.ignored(), ["spread"]);
    }

    #[test]
    fn each_field_must_be_right() {
        let check = |ix: usize, text: &str, begins: &str| {
            let mut fields =
                "EUR_USD,5,1583755200,1.1,1.3,1.0,1.2,1.2,1.4,1.1,1.3,7".split(',').collect::<Vec<_>>();
            fields[ix] = text;
            refused(FULL, &fields.join(","), begins);
        };
        check(0, "EURO", "column 1 (pair): not a currency pair: \"EURO\"");
        check(1, "7", "column 2 (timeframe): unknown timeframe \"7\"");
        check(1, "60", "column 2 (timeframe): 60 is not among the timeframes kept");
        check(2, "noon", "column 3 (timestamp): not a time");
        check(2, "1583755200000", "column 3 (timestamp): this looks like milliseconds");
        check(2, "1583755201", "column 3 (timestamp): 2020-03-09T12:00:01Z is not the start of a bar of 5");
        check(2, "1583756100", "column 3 (timestamp): the bar of 2020-03-09T12:15:00Z is not over yet");
        check(2, "-300", "column 3 (timestamp): 1969-12-31T23:55:00Z is before 1970");
        check(2, "300", "column 3 (timestamp): 1970-01-01T00:05:00Z is older than what retention.days keeps");
        check(3, "", "column 4 (bid_open): not a decimal number: \"\"");
        check(3, "1e0", "column 4 (bid_open): not a decimal number");
        check(3, "NaN", "column 4 (bid_open): not a decimal number");
        check(4, "0", "column 5 (bid_high): outside any plausible price");
        check(4, "1.15", "column 5 (bid_high): 1.15 is not the highest of the four");
        check(5, "1.11", "column 6 (bid_low): 1.11 is not the lowest of the four");
        check(9, "1.5", "column 9 (ask_high): 1.4 is not the highest of the four");
        check(11, "-1", "column 12 (volume): not a whole number of ticks: \"-1\"");
        check(11, "1.5", "column 12 (volume): not a whole number of ticks");
        check(11, "7,8", "13 fields, the first line names 12");
        refused(FULL, "EUR_USD", "1 fields, the first line names 12");
    }

    #[test]
    fn mid_beside_both_sides_must_be_theirs() {
        let header = format!("{FULL},open,close");
        let line = |open: &str| format!("EUR_USD,5,1583755200,1.1,1.3,1.0,1.2,1.2,1.4,1.1,1.3,7,{open},1.25");
        assert!(read(&header, &line("1.15")).is_ok());
        assert!(read(&header, &line("1.1499999999999999")).is_ok());
        refused(&header, &line("1.16"), "column 13 (open): 1.16 is not half of bid 1.1 plus ask 1.2");
    }

    #[test]
    fn lines_ascend_for_each_pair_and_timeframe() {
        let layout = Layout::parse(FULL).unwrap();
        let mut order = Order::default();
        let mut check = |pair: &str, timeframe, after_s: i64| {
            let key = BarKey { pair: pair.parse().unwrap(), timeframe, start: NOON.plus(after_s) };
            order.check(&layout, key).map_err(|error| error.to_string())
        };
        assert_eq!(check("EURUSD", Timeframe::M5, 300), Ok(()));
        assert_eq!(check("EURUSD", Timeframe::M15, 0), Ok(()));
        assert_eq!(check("GBPUSD", Timeframe::M5, 0), Ok(()));
        assert_eq!(check("EURUSD", Timeframe::M5, 600), Ok(()));
        let twice = check("EURUSD", Timeframe::M5, 600).unwrap_err();
        assert!(twice.starts_with(
            "column 3 (timestamp): the bar of 2020-03-09T12:10:00Z of EUR_USD 5 is there twice"
        ));
        assert!(check("EURUSD", Timeframe::M5, 0).unwrap_err().contains("sort the lines by timestamp"));
    }

    proptest! {
        #[test]
        fn no_line_panics(header in ".{0,80}", line in ".{0,120}", fields in "[A-Z0-9_,.:-]{0,120}") {
            let _ = Layout::parse(&header);
            let layout = Layout::parse(FULL).unwrap();
            let _ = layout.bar(&line, &terms());
            let _ = layout.bar(&fields, &terms());
        }
    }
}
