//! Real bars of bid and ask through the pure rooms into a database: two of the brokers' records
//! hold bars whose bid lies above their ask. They are stored as they are, and counted.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candlekeep::aggregator::finalizer::Depth;
use candlekeep::aggregator::{Aggregation, FeedStart};
use candlekeep::domain::{Calendar, FactBatch, FeedIx, Pair, StreamEvent, Timestamp};
use candlekeep::ig::stream::chart::{ChartItem, Knowledge};
use candlekeep::stats::Stats;
use candlekeep::store::{DatabaseUrl, Store};
use candlekeep::tlcp::Change;
use flate2::read::GzDecoder;

use super::world::{Database, STEP};

/// The folder of one record, if this machine has it.
fn recording(name: &str) -> Option<PathBuf> {
    match std::env::var_os("CANDLEKEEP_TEST_DATA") {
        Some(folder) => Some(Path::new(&folder).join("m1_bidask").join(name)),
        None if std::env::var_os("CI").is_some() => panic!("CANDLEKEEP_TEST_DATA is not set"),
        None => {
            eprintln!("SKIPPED: CANDLEKEEP_TEST_DATA is not set, so no record was read");
            None
        }
    }
}

/// The record's text of each minute: bid and ask, open, high, low, close.
fn minutes(path: &Path) -> BTreeMap<i64, [String; 8]> {
    let mut reader = csv::Reader::from_reader(GzDecoder::new(File::open(path).unwrap()));
    let rows = reader.records().map(|row| {
        let row = row.unwrap();
        let prices = std::array::from_fn(|ix| row[ix + 2].to_owned());
        (row[1].parse::<i64>().unwrap() / 1000, prices)
    });
    rows.collect()
}

/// Streams the last minute of each five as that bucket's end-of-candle row, and compares what is
/// stored with the record: how many bars, and how many crossed.
fn check(name: &str, pair: &str, bars: i64, crossed: u64) {
    let Some(folder) = recording(name) else { return };
    let mut buckets: BTreeMap<i64, [String; 8]> = BTreeMap::new();
    for (minute, prices) in minutes(&folder.join(format!("{pair}.csv.gz"))) {
        buckets.insert(minute - minute.rem_euclid(STEP), prices);
    }
    let pair: Pair = pair.parse().unwrap();
    let (mut item, feed) = (ChartItem::new(pair, Knowledge::ByPrice), FeedIx(0));
    let starts = [FeedStart { pair, resume: None }];
    let mut core = Aggregation::new(&starts, Calendar::forex(), Depth { m5: 0, m15: 0 }, 600, 0);
    core.handle(&StreamEvent::Subscribed { feed }, None, false);
    for (start, prices) in &buckets {
        let head = [format!("{}", start * 1000), "1".to_owned(), "1".to_owned(), "1".to_owned()];
        let changes: Vec<Change<'_>> =
            head.iter().chain(prices).map(|text| Change::Text(text.as_str().into())).collect();
        let candle = item.apply(&changes).expect("no bar is refused").expect("it is whole");
        core.handle(&StreamEvent::Candle { feed, candle }, Some(Timestamp(*start)), false);
    }
    let facts = core.take_facts();
    let stats = Stats::default();
    stats.found(&facts);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recorded.db");
    let mut store = Store::open(&DatabaseUrl::sqlite(&path)).unwrap();
    store.commit(&[Arc::new(FactBatch { evidence: "record".into(), facts })], Timestamp(0)).unwrap();
    drop(store);
    let stored = Database::open(&path).unwrap().bars("5").remove(&pair.to_string()).unwrap();
    for (start, prices) in &buckets {
        let recorded: Vec<f64> = prices.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(stored[start].prices[1..].concat(), recorded, "{name} {pair} {start}");
    }
    let above = stored.values().filter(|row| (0..4).any(|ix| row.prices[1][ix] > row.prices[2][ix])).count();
    assert_eq!((stored.len() as i64, above as u64), (bars, crossed), "{name} {pair}");
    assert_eq!(stats.bars_crossed.get(), crossed, "{name} {pair}: counted");
}

#[test]
fn bars_with_bid_above_ask_are_stored_and_counted() {
    check("fxcm_2012-02", "GBPUSD", 6_049, 268);
    check("fxcm_2013-02", "USDJPY", 5_761, 450);
    check("fxcm_2014-05", "EURUSD", 1_944, 231);
    check("fxcm_2014-05", "NZDUSD", 1_943, 57);
    check("oanda_2014-05", "EURUSD", 1_980, 0);
}
