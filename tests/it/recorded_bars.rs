//! Recorded minutes of two brokers, bid and ask, through the stream's pure rooms: every bar is
//! settled as it was recorded, those of a crossed book too, and the crossed ones are counted.
//!
//! A minute is played as the 5 minutes that IG's candles have, so that time runs five times as
//! fast and bars fall into hours in which the market is closed: they are settled all the same.
//! The recording stays out of the repository; `CANDLEKEEP_TEST_DATA` names its folder.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candlekeep::aggregator::finalizer::Depth;
use candlekeep::aggregator::{Aggregation, FeedStart};
use candlekeep::domain::{Calendar, Fact, FeedIx, StreamEvent, Timestamp};
use candlekeep::ig::stream::chart::{self, ChartItem, Knowledge};
use candlekeep::tlcp::update;
use flate2::read::GzDecoder;

/// The folder of the recording, if this machine has it.
fn recording() -> Option<PathBuf> {
    match std::env::var_os("CANDLEKEEP_TEST_DATA") {
        Some(folder) => Some(Path::new(&folder).join("m1_bidask")),
        None if std::env::var_os("CI").is_some() => panic!("CANDLEKEEP_TEST_DATA is not set"),
        None => {
            eprintln!("SKIPPED: CANDLEKEEP_TEST_DATA is not set, so no recorded minutes were played");
            None
        }
    }
}

/// Plays a file and compares: `crossed` bars of `bars` have a bid above their ask.
fn check(file: &str, bars: usize, crossed: usize) {
    let Some(folder) = recording() else { return };
    let path = folder.join(file);
    let mut reader = csv::Reader::from_reader(GzDecoder::new(File::open(&path).unwrap()));
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let pair = rows[0][0].parse().unwrap();
    let mut item = ChartItem::new(pair, Knowledge::ByPrice);
    let feed = FeedStart { pair, resume: None, calendar: Arc::new(Calendar::forex()) };
    let mut settling = Aggregation::new(&[feed], Depth { m5: 0, m15: 0 }, 600, 0);
    let feed = FeedIx(0);
    settling.handle(&StreamEvent::Subscribed { feed }, None, false);
    let mut settled = Vec::new();
    for row in &rows {
        let utm = row[1].parse::<i64>().unwrap() * 5;
        let prices = (2..10).map(|column| &row[column]);
        let values =
            [&utm.to_string(), "0", "1", "1"].into_iter().chain(prices).collect::<Vec<_>>().join("|");
        let changes = update::plain(&values, chart::FIELDS).unwrap();
        let candle = item.apply(&changes).unwrap_or_else(|fault| panic!("{file} {row:?}: {fault}"));
        let candle = *candle.unwrap();
        let now = Some(Timestamp(utm / 1000 + 300));
        settling.handle(&StreamEvent::Candle { feed, candle }, now, false);
        settled.extend(settling.take_facts().into_iter().filter_map(|fact| match fact {
            Fact::Settled(bar) => Some(bar),
            Fact::Marked(_) => None,
        }));
    }
    assert_eq!((rows.len(), settled.len()), (bars, bars), "{file}");
    for (row, bar) in rows.iter().zip(&settled) {
        assert_eq!(bar.key.start.0 * 200, row[1].parse::<i64>().unwrap(), "{file} {row:?}");
        let prices = bar.bid.prices().into_iter().chain(bar.ask.prices());
        for (price, column) in prices.zip(2..10) {
            assert_eq!(price.to_f64(), row[column].parse::<f64>().unwrap(), "{file} {row:?}");
        }
    }
    assert_eq!(settled.iter().filter(|bar| bar.is_crossed()).count(), crossed, "{file}");
}

#[test]
fn bars_of_a_crossed_book_are_settled_and_counted() {
    check("fxcm_2014-05/EURUSD.csv.gz", 9_590, 1_019);
    check("fxcm_2014-05/NZDUSD.csv.gz", 9_613, 286);
    check("fxcm_2012-02/GBPUSD.csv.gz", 30_117, 1_203);
    check("fxcm_2013-02/USDJPY.csv.gz", 28_761, 2_144);
}

#[test]
fn bars_of_an_uncrossed_book_are_settled() {
    check("oanda_2014-05/EURUSD.csv.gz", 9_552, 0);
    check("oanda_2014-05/NZDUSD.csv.gz", 9_706, 0);
}
