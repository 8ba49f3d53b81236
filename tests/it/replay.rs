//! A recorded week of all 28 pairs, through the simulator and the program: every bar of the
//! recording is stored, and nothing else.
//!
//! The recording stays out of the repository; `CANDLEKEEP_TEST_DATA` names its folder. It is read
//! here by other means than the simulator's, in whole points, so that a misreading there cannot
//! hide.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use candlekeep::domain::Timestamp;
use candlekeep::simulator::{MarketOptions, Options};
use flate2::read::GzDecoder;

use super::world::{Database, Holes, STEP, World, market};

/// Friday 2020-03-06 20:00 UTC. Two days later New York goes on summer time, London does not.
const FROM: i64 = 1_583_524_800;
/// Sunday 2020-03-15 22:00 UTC: an hour into the next week, whose rows prove how this one ended.
const TO: i64 = 1_584_309_600;
/// Opening of the week after the change, 17:00 in New York: an hour earlier by UTC than before.
const OPENING: i64 = 1_583_701_200;
/// Distance of ask from bid, in points: two pips.
const SPREAD_POINTS: i64 = 20;

/// Open, high, low, close of bid in points, and the ticks.
type Recorded = ([i64; 4], i64);

/// The folder of the recording, if this machine has it.
fn recording() -> Option<PathBuf> {
    match std::env::var_os("CANDLEKEEP_TEST_DATA") {
        Some(folder) => Some(Path::new(&folder).join("m5_bid")),
        None if std::env::var_os("CI").is_some() => panic!("CANDLEKEEP_TEST_DATA is not set"),
        None => {
            eprintln!("SKIPPED: CANDLEKEEP_TEST_DATA is not set, so no recorded week was replayed");
            None
        }
    }
}

/// A price's digits without their point.
fn points(text: &str, decimals: usize) -> i64 {
    let (whole, part) = text.split_once('.').expect("prices have decimals");
    assert_eq!(part.len(), decimals, "{text}");
    format!("{whole}{part}").parse().unwrap()
}

/// All bars of a file that start in the replayed time.
fn read(path: &Path, decimals: usize) -> BTreeMap<i64, Recorded> {
    let mut reader = csv::Reader::from_reader(GzDecoder::new(File::open(path).unwrap()));
    let mut bars = BTreeMap::new();
    for row in reader.records() {
        let row = row.unwrap();
        let start = row[1].parse::<i64>().unwrap() / 1000;
        if (FROM..TO).contains(&start) {
            let prices = [2, 3, 4, 5].map(|column| points(&row[column], decimals));
            bars.insert(start, (prices, row[10].parse().unwrap()));
        }
    }
    bars
}

/// Bars of 15 minutes by hand.
fn fold(bars: &BTreeMap<i64, Recorded>) -> BTreeMap<i64, Recorded> {
    let mut folded: BTreeMap<i64, Recorded> = BTreeMap::new();
    for (start, (prices, ticks)) in bars {
        folded
            .entry(start / 900 * 900)
            .and_modify(|(whole, sum)| {
                whole[1] = whole[1].max(prices[1]);
                whole[2] = whole[2].min(prices[2]);
                whole[3] = prices[3];
                *sum += ticks;
            })
            .or_insert((*prices, *ticks));
    }
    folded
}

/// The double nearest to a number of units of the last of so many decimals.
fn double(units: i64, decimals: usize) -> f64 {
    let one = 10_i64.pow(decimals as u32);
    format!("{}.{:0decimals$}", units / one, units % one).parse().unwrap()
}

/// Mid, bid and ask as the table is to have them.
fn doubles(bid: [i64; 4], decimals: usize) -> [[f64; 4]; 3] {
    [
        bid.map(|bid| double((bid + bid + SPREAD_POINTS) * 10 / 2, decimals + 1)),
        bid.map(|bid| double(bid, decimals)),
        bid.map(|bid| double(bid + SPREAD_POINTS, decimals)),
    ]
}

#[test]
fn a_recorded_week_is_stored_bar_for_bar() {
    let Some(dir) = recording() else { return };
    let world = World::new(Options {
        market: MarketOptions::Replay {
            dir: dir.clone(),
            from: Some(Timestamp(FROM)),
            to: Some(Timestamp(TO)),
            spread_pips: SPREAD_POINTS as f64 / 10.0,
        },
        rows_per_bar: Some(5),
        end: None,
        ..market(0)
    });
    assert_eq!(world.simulator().truth().pairs().len(), 28);
    let mut service = world.run();
    world.wait_complete(&mut service);
    service.stop();
    world.verify(Holes::None);

    let database = Database::open(&world.database()).unwrap();
    let stored = [database.bars("5"), database.bars("15")];
    let mut compared = 0;
    for pair in world.simulator().truth().pairs() {
        let decimals = if pair.quote() == "JPY" { 3 } else { 5 };
        let recorded = read(&dir.join(format!("{}.csv.gz", pair.letters())), decimals);
        let opened = recorded.range(OPENING..).next().map(|(start, _)| *start);
        assert!(opened.is_some_and(|start| start < OPENING + 1800), "{pair}: the recording is another");
        for (expected, stored) in [(fold(&recorded), &stored[1]), (recorded, &stored[0])] {
            let stored = &stored[&super::world::name(*pair)];
            let in_time = stored.range(FROM..TO).map(|(start, _)| *start).collect::<Vec<_>>();
            assert_eq!(in_time, expected.keys().copied().collect::<Vec<_>>(), "{pair}: which bars there are");
            for (start, (bid, ticks)) in &expected {
                let bar = &stored[start];
                let at = Timestamp(*start);
                assert_eq!((bar.prices, bar.volume), (doubles(*bid, decimals), *ticks), "{pair} {at}");
                compared += 1;
            }
            assert!(in_time.len() > 400, "{pair}: {} bars", in_time.len());
        }
    }
    // Of the week's 1436 buckets nearly all have a bar in every pair.
    assert!(compared > 28 * (1_430 + 480), "{compared} bars");
    // The hours of Friday and Saturday in which nothing trades are known to be closed.
    let closed = database.ledger("5")["EUR_USD"]
        .iter()
        .filter(|run| run.state == "closed" && run.from < OPENING)
        .map(|run| (run.to.min(OPENING) - run.from) / STEP)
        .sum::<i64>();
    assert!(closed >= 47 * 12, "{closed} closed buckets");
}
