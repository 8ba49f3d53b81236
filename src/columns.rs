//! What a bar looks like outside, whoever hands it out: its prices as text and as doubles, and its line of CSV. Pure.

use std::fmt::Write as _;

use serde::Serialize;

use crate::cli::PriceSide;
use crate::store::StoredBar;

/// Open, high, low and close of one side as exact decimal text.
pub fn texts(stored: &StoredBar, price: PriceSide) -> [String; 4] {
    match price {
        PriceSide::Mid => stored.bar.mid().map(|mid| mid.to_string()),
        PriceSide::Bid => stored.bar.bid.prices().map(|price| price.to_string()),
        PriceSide::Ask => stored.bar.ask.prices().map(|price| price.to_string()),
    }
}

/// The same as doubles, equal to those in the database.
pub fn doubles(stored: &StoredBar, price: PriceSide) -> [f64; 4] {
    match price {
        PriceSide::Mid => stored.bar.mid().map(|mid| mid.to_f64()),
        PriceSide::Bid => stored.bar.bid.prices().map(|price| price.to_f64()),
        PriceSide::Ask => stored.bar.ask.prices().map(|price| price.to_f64()),
    }
}

/// Both sides of a bar as doubles, named as in the database.
#[derive(Serialize)]
pub struct Sides {
    bid_open: f64,
    bid_high: f64,
    bid_low: f64,
    bid_close: f64,
    ask_open: f64,
    ask_high: f64,
    ask_low: f64,
    ask_close: f64,
}

impl Sides {
    /// Those of a bar.
    pub fn of(stored: &StoredBar) -> Sides {
        let [bid_open, bid_high, bid_low, bid_close] = doubles(stored, PriceSide::Bid);
        let [ask_open, ask_high, ask_low, ask_close] = doubles(stored, PriceSide::Ask);
        Sides { bid_open, bid_high, bid_low, bid_close, ask_open, ask_high, ask_low, ask_close }
    }
}

/// The columns of the CSV; new ones are added at the end.
pub const CSV_COLUMNS: &str = "timestamp,open,high,low,close,volume,source,revision,created_at,updated_at,seq,feed_id,\
     pair,timeframe,price,bid_open,bid_high,bid_low,bid_close,ask_open,ask_high,ask_low,ask_close";

/// The bars as CSV with a header, all columns. No value of ours holds a comma, quote or line end, so plain commas
/// are CSV.
pub fn csv(rows: &[StoredBar], price: PriceSide) -> String {
    let mut text = String::with_capacity((rows.len() + 1) * 256);
    text.push_str(CSV_COLUMNS);
    text.push('\n');
    for stored in rows {
        let bar = &stored.bar;
        let feed_id = stored.feed_id.map(|id| id.to_string()).unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "{},{},{},{},{},{},{},{},{},{},{},{}",
            bar.key.start.0,
            texts(stored, price).join(","),
            bar.volume,
            bar.source,
            stored.revision,
            stored.created_at.0,
            stored.updated_at.0,
            stored.seq,
            feed_id,
            bar.key.pair,
            bar.key.timeframe,
            price.as_str(),
        );
        for side in [PriceSide::Bid, PriceSide::Ask] {
            let _ = write!(text, ",{}", texts(stored, side).join(","));
        }
        text.push('\n');
    }
    text
}
