//! Bars as text: a table for reading, CSV for spreadsheets, JSON for programs. Pure.

use serde::Serialize;

use crate::cli::{Format, PriceSide};
use crate::columns::{Sides, csv, doubles, texts};
use crate::commands::grid::{Grid, numbers, words};
use crate::commands::paint::{BAD, FAINT, GOOD, WARN, paint};
use crate::store::StoredBar;

/// The bars, oldest first, as text that ends with a line end (an empty table is no text at all).
/// `width` is that of the terminal, in characters; a table that is wider goes without its least
/// important columns.
pub fn render(rows: &[StoredBar], format: Format, price: PriceSide, width: Option<usize>) -> String {
    match format {
        Format::Table => table(rows, price, width),
        Format::Csv => csv(rows, price),
        Format::Json => json(rows, price),
    }
}

fn table(rows: &[StoredBar], price: PriceSide, width: Option<usize>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut grid = Grid::new(&[
        words("time (UTC)"),
        numbers("open"),
        numbers("high"),
        numbers("low"),
        numbers("close"),
        numbers("volume").extra(),
        words("source").extra(),
        numbers("rev").extra(),
    ]);
    for (stored, [time, open, high, low, close, volume, source, revision]) in
        rows.iter().zip(table_cells(rows, price))
    {
        let [first, .., last] = doubles(stored, price);
        let side = if last >= first { GOOD } else { BAD };
        let corrected = if stored.revision > 0 { WARN } else { FAINT };
        grid.row([
            time,
            open,
            high,
            low,
            paint(side, close),
            volume,
            paint(FAINT, source),
            paint(corrected, revision),
        ]);
    }
    grid.lines(width).join("\n") + "\n"
}

fn table_cells(rows: &[StoredBar], price: PriceSide) -> Vec<[String; 8]> {
    let prices: Vec<_> = rows.iter().map(|row| texts(row, price)).collect();
    // The customary decimals of the pair, or as many as it takes to show every half pip: then
    // for all, so that the points stand below each other.
    let customary = rows.iter().map(|row| row.bar.key.pair.decimals()).max().unwrap_or(0);
    let decimals = prices.iter().flatten().map(|text| decimals_of(text)).max().unwrap_or(0).max(customary);
    rows.iter()
        .zip(prices)
        .map(|(stored, prices)| {
            let [open, high, low, close] = prices.map(|text| padded(text, decimals));
            [
                stored.bar.key.start.utc().format("%Y-%m-%d %H:%M").to_string(),
                open,
                high,
                low,
                close,
                stored.bar.volume.to_string(),
                stored.bar.source.to_string(),
                stored.revision.to_string(),
            ]
        })
        .collect()
}

fn decimals_of(text: &str) -> usize {
    text.split_once('.').map_or(0, |(_, fraction)| fraction.len())
}

fn padded(mut text: String, decimals: usize) -> String {
    let have = decimals_of(&text);
    if have == 0 && decimals > 0 {
        text.push('.');
    }
    text.extend(std::iter::repeat_n('0', decimals - have));
    text
}

/// A bar as programs read it: the columns of table `candles` by their names, except that `open`
/// to `close` are of the side that `price` names.
#[derive(Serialize)]
struct Row {
    timestamp: i64,
    open: f64,
    high: f64,
    low: f64,
    close: f64,
    volume: u32,
    source: &'static str,
    revision: u32,
    created_at: i64,
    updated_at: i64,
    seq: i64,
    feed_id: Option<i64>,
    pair: String,
    timeframe: &'static str,
    price: &'static str,
    #[serde(flatten)]
    sides: Sides,
}

impl Row {
    fn new(stored: &StoredBar, price: PriceSide) -> Row {
        let [open, high, low, close] = doubles(stored, price);
        let bar = &stored.bar;
        Row {
            timestamp: bar.key.start.0,
            open,
            high,
            low,
            close,
            volume: bar.volume,
            source: bar.source.as_str(),
            revision: stored.revision,
            created_at: stored.created_at.0,
            updated_at: stored.updated_at.0,
            seq: stored.seq,
            feed_id: stored.feed_id,
            pair: bar.key.pair.to_string(),
            timeframe: bar.key.timeframe.as_str(),
            price: price.as_str(),
            sides: Sides::of(stored),
        }
    }
}

/// An array with one object a line.
fn json(rows: &[StoredBar], price: PriceSide) -> String {
    let mut text = String::with_capacity(rows.len() * 400 + 4);
    text.push('[');
    for (index, stored) in rows.iter().enumerate() {
        text.push_str(if index == 0 { "\n" } else { ",\n" });
        let row = serde_json::to_string(&Row::new(stored, price));
        text.push_str(&row.expect("a row of numbers and plain text is always JSON"));
    }
    text.push_str(if rows.is_empty() { "]\n" } else { "\n]\n" });
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::CSV_COLUMNS;
    use crate::domain::{Bar, BarKey, Ohlc, Price, Source, Timeframe, Timestamp};

    /// As it is read where there are no colours.
    fn render(rows: &[StoredBar], format: Format, price: PriceSide, width: Option<usize>) -> String {
        anstream::adapter::strip_str(&super::render(rows, format, price, width)).to_string()
    }

    fn side(prices: [&str; 4]) -> Ohlc {
        Ohlc::from_prices(prices.map(|text| Price::parse(text, 0).unwrap()))
    }

    fn bar(pair: &str, minute: i64, bid: [&str; 4], ask: [&str; 4]) -> StoredBar {
        let start = Timestamp(1_583_701_200).plus(minute * 60); // 2020-03-08 21:00:00
        StoredBar {
            bar: Bar {
                key: BarKey { pair: pair.parse().unwrap(), timeframe: Timeframe::M5, start },
                bid: side(bid),
                ask: side(ask),
                volume: 17,
                source: Source::Stream,
            },
            created_at: start.plus(301),
            updated_at: start.plus(302),
            revision: 0,
            seq: 41,
            feed_id: Some(3),
        }
    }

    fn two() -> [StoredBar; 2] {
        let mut later = bar(
            "EUR_USD",
            5,
            ["1.3047", "1.3048", "1.3046", "1.3047"],
            ["1.30479", "1.3049", "1.3047", "1.30479"],
        );
        later.bar.source = Source::Rest;
        later.revision = 2;
        later.feed_id = None;
        [
            bar(
                "EUR_USD",
                0,
                ["1.3045", "1.3047", "1.3044", "1.3046"],
                ["1.3046", "1.3048", "1.3045", "1.3047"],
            ),
            later,
        ]
    }

    #[test]
    fn a_table_shows_half_pips_and_lines_up_its_points() {
        assert_eq!(
            render(&two(), Format::Table, PriceSide::Mid, None),
            "time (UTC)            open      high       low     close  volume  source     rev\n\
             2020-03-08 21:00  1.304550  1.304750  1.304450  1.304650      17  websocket    0\n\
             2020-03-08 21:05  1.304745  1.304850  1.304650  1.304745      17  ig_rest      2\n"
        );
    }

    #[test]
    fn a_table_shows_the_customary_decimals_of_its_pair() {
        let yen = bar("USD_JPY", 0, ["150", "150.25", "149.9", "150.125"], ["151", "151", "151", "151"]);
        let text = render(&[yen], Format::Table, PriceSide::Bid, None);
        assert!(text.contains("150.000  150.250  149.900  150.125"), "{text}");
        let text = render(&two(), Format::Table, PriceSide::Ask, None);
        assert!(text.contains("1.30460  1.30480  1.30450  1.30470"), "{text}");
    }

    #[test]
    fn a_narrow_terminal_gets_fewer_columns_but_always_time_and_prices() {
        let header = |width| {
            let text = render(&two(), Format::Table, PriceSide::Mid, width);
            text.lines().next().unwrap().split_whitespace().last().unwrap().to_owned()
        };
        assert_eq!(header(Some(80)), "rev");
        assert_eq!(header(Some(79)), "source");
        assert_eq!(header(Some(74)), "volume");
        assert_eq!(header(Some(56)), "close");
        assert_eq!(header(Some(1)), "close");
    }

    #[test]
    fn csv_begins_with_the_six_columns_of_the_contract() {
        let text = render(&two(), Format::Csv, PriceSide::Mid, Some(1));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines,
            [
                CSV_COLUMNS,
                "1583701200,1.30455,1.30475,1.30445,1.30465,17,websocket,0,1583701501,1583701502,41,3,\
                 EUR_USD,5,mid,1.3045,1.3047,1.3044,1.3046,1.3046,1.3048,1.3045,1.3047",
                "1583701500,1.304745,1.30485,1.30465,1.304745,17,ig_rest,2,1583701801,1583701802,41,,\
                 EUR_USD,5,mid,1.3047,1.3048,1.3046,1.3047,1.30479,1.3049,1.3047,1.30479",
            ]
        );
        assert!(CSV_COLUMNS.starts_with("timestamp,open,high,low,close,volume,"));
    }

    #[test]
    fn json_has_the_columns_of_the_csv_in_their_order() {
        let text = render(&two()[1..], Format::Json, PriceSide::Ask, None);
        assert_eq!(
            text,
            "[\n{\"timestamp\":1583701500,\"open\":1.30479,\"high\":1.3049,\"low\":1.3047,\"close\":1.30479,\
             \"volume\":17,\"source\":\"ig_rest\",\"revision\":2,\"created_at\":1583701801,\
             \"updated_at\":1583701802,\"seq\":41,\"feed_id\":null,\"pair\":\"EUR_USD\",\"timeframe\":\"5\",\
             \"price\":\"ask\",\"bid_open\":1.3047,\"bid_high\":1.3048,\"bid_low\":1.3046,\"bid_close\":1.3047,\
             \"ask_open\":1.30479,\"ask_high\":1.3049,\"ask_low\":1.3047,\"ask_close\":1.30479}\n]\n"
        );
        let pieces: Vec<_> = text.split("\":").collect();
        let keys: Vec<_> =
            pieces[..pieces.len() - 1].iter().filter_map(|piece| Some(piece.rsplit_once('"')?.1)).collect();
        assert_eq!(keys.join(","), CSV_COLUMNS);
    }

    #[test]
    fn json_numbers_are_the_doubles_of_the_database() {
        let text = render(&two(), Format::Json, PriceSide::Mid, None);
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        for (value, stored) in parsed.as_array().unwrap().iter().zip(two()) {
            assert_eq!(value["close"].as_f64(), Some(stored.bar.mid()[3].to_f64()));
        }
    }

    #[test]
    fn no_bars_are_still_well_formed() {
        assert_eq!(render(&[], Format::Table, PriceSide::Mid, None), "");
        assert_eq!(render(&[], Format::Csv, PriceSide::Mid, None), format!("{CSV_COLUMNS}\n"));
        assert_eq!(render(&[], Format::Json, PriceSide::Mid, None), "[]\n");
    }
}
