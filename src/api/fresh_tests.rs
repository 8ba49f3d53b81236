//! Whether bars are fresh, as everybody tells it: the view, `/v1/candles`, `/readyz` and `status`, through weeks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::Value;

use super::asked::{self, Known};
use super::bars::{self, Judge};
use crate::clock::Clock;
use crate::commands::status;
use crate::completeness::SETTLING_S;
use crate::config::{self, Config, Flags};
use crate::domain::pair::MAJOR_PAIRS;
use crate::domain::{
    Bar, BarKey, Calendar, Expectation, Fact, FactBatch, Mark, Ohlc, Pair, Price, Reason, Source, State,
    Timeframe, Timestamp,
};
use crate::readiness::{self, Watched};
use crate::store::Store;

const STEP: i64 = 300;
const HOUR: i64 = 3_600;

fn at(time: &str) -> Timestamp {
    Timestamp::from(time.parse::<chrono::DateTime<chrono::Utc>>().unwrap())
}

/// A service that has told of every bucket of two pairs up to a time, and what can be asked about it.
struct Scene {
    _folder: tempfile::TempDir,
    config: Config,
    store: Store,
    pairs: Vec<Pair>,
}

impl Scene {
    fn new(now: Timestamp) -> Scene {
        Scene::of(["EURUSD", "GBPUSD"].map(|pair| pair.parse().unwrap()).into(), now)
    }

    fn of(pairs: Vec<Pair>, now: Timestamp) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let database = Some(format!("sqlite://{}", folder.path().join("c.db").display()));
        let config = config::load(None, &BTreeMap::new(), &Flags { config: None, database }).unwrap();
        let mut store = Store::open(&config.database).unwrap();
        let mut expected = Watched::of(&config).expected(now);
        expected.pairs.retain(|(pair, _)| pairs.contains(pair));
        store.expect_bars(&expected).unwrap();
        Scene { _folder: folder, config, store, pairs }
    }

    /// Tells of buckets as a service does that misses nothing, but finds one in seven quiet.
    fn tell(&mut self, buckets: impl Iterator<Item = Timestamp>) {
        let calendar = Calendar::forex();
        let mut facts = Vec::new();
        for start in buckets {
            for pair in self.pairs.iter().copied() {
                let (state, reason) = match calendar.expectation(start) {
                    Expectation::Closed => (State::Closed, Reason::Calendar),
                    Expectation::Possible => (State::Closed, Reason::PossiblyOpen),
                    Expectation::Expected if start.0 / STEP % 7 == 0 => (State::Quiet, Reason::LaterRow),
                    Expectation::Expected => {
                        let side = Ohlc::from_prices([Price::ONE; 4]);
                        let key = BarKey { pair, timeframe: Timeframe::M5, start };
                        facts.push(Fact::Settled(Bar {
                            key,
                            bid: side,
                            ask: side,
                            volume: 1,
                            source: Source::Stream,
                        }));
                        continue;
                    }
                };
                let span = start..start.plus(STEP);
                facts.push(Fact::Marked(Mark { pair, timeframe: Timeframe::M5, span, state, reason }));
            }
        }
        self.store.commit(&[Arc::new(FactBatch { evidence: "e".into(), facts })], Timestamp(0)).unwrap();
    }

    /// By pair and length whether it is fresh at `now`, as all of them tell.
    fn fresh(&mut self, now: Timestamp) -> Vec<bool> {
        let view: Vec<bool> = self.store.freshness().unwrap().iter().map(|row| row.is_fresh(now)).collect();
        let view_by: Vec<Option<Timestamp>> =
            self.store.freshness().unwrap().iter().map(|row| row.last.map(|_| row.expected_by)).collect();
        let (mut over_http, mut by) = (Vec::new(), Vec::new());
        let (pairs, timeframes) = (&self.pairs, [Timeframe::M5, Timeframe::M15]);
        for &pair in pairs {
            for timeframe in timeframes {
                let known = Known { pairs, timeframes: &timeframes };
                let query = format!("pair={pair}&timeframe={timeframe}&count=1");
                let asked = asked::candles(&query, known).unwrap();
                let clock = Clock::simulated(now, 0);
                let judge = Judge { config: &self.config, clock: &clock };
                let told = bars::candles(&mut self.store, judge, &asked).unwrap().unwrap();
                over_http.push(told.judged.unwrap().fresh);
                by.push(told.judged.unwrap().expected_by);
            }
        }
        assert_eq!(over_http, view, "/v1/candles and the view at {now}");
        assert_eq!(by, view_by, "/v1/candles and the view at {now}");
        let ready = readiness::read(&mut self.store, &self.config, now).unwrap();
        assert_eq!(ready.iter().map(|pair| pair.is_fresh()).collect::<Vec<_>>(), view, "/readyz at {now}");
        let told: Value = serde_json::from_str(&status::read_json(&self.config, now).unwrap()).unwrap();
        let status = told["readiness"]["pairs"].as_array().unwrap().iter();
        assert_eq!(status.map(|pair| pair["fresh"] == true).collect::<Vec<_>>(), view, "status at {now}");
        view
    }
}

/// The weeks in which New York and then London go to summer time, and London and then New York leave it.
const WEEKS: [&str; 4] =
    ["2020-03-06T18:00:00Z", "2020-03-27T18:00:00Z", "2020-10-23T18:00:00Z", "2020-10-30T18:00:00Z"];

#[test]
fn a_service_that_misses_nothing_is_ready_through_every_weekend() {
    for week in WEEKS {
        let start = at(week);
        let mut scene = Scene::new(start);
        scene.tell((0..12).map(|bucket| start.plus((bucket - 12) * STEP)));
        for hour in 0..74 {
            let hour = start.plus(hour * HOUR);
            for part in 0..12 {
                let bucket = hour.plus(part * STEP);
                scene.tell([bucket].into_iter());
            }
            // Just before the next bucket is owed.
            let now = hour.plus(HOUR + STEP + SETTLING_S - 1);
            assert_eq!(scene.fresh(now), [true; 4], "{now}");
        }
    }
}

#[test]
fn of_a_service_that_has_died_every_pair_is_stale_once_the_market_has_gone_on_without_it() {
    let calendar = Calendar::forex();
    for week in WEEKS {
        let start = at(week);
        let mut scene = Scene::new(start);
        scene.tell((0..12).map(|bucket| start.plus((bucket - 12) * STEP)));
        // It dies after each hour of the weekend, and lives again.
        for hour in 0..74 {
            let died = start.plus(hour * HOUR);
            let owed = (0..).map(|bucket| died.plus(bucket * STEP));
            let owed = owed.into_iter().find(|start| calendar.expectation(*start) == Expectation::Expected);
            let owed = owed.unwrap();
            let by = [Timeframe::M5, Timeframe::M15]
                .map(|timeframe| timeframe.bucket(owed).plus(timeframe.seconds() + SETTLING_S));
            let told: Vec<Timestamp> =
                scene.store.freshness().unwrap().iter().map(|row| row.expected_by).collect();
            assert_eq!(told, [by, by].concat(), "died at {died}");
            if hour % 5 == 0 {
                assert_eq!(scene.fresh(by[0].plus(-1)), [true; 4], "died at {died}");
                assert_eq!(scene.fresh(by[0]), [false, true, false, true], "died at {died}");
                assert_eq!(scene.fresh(by[1]), [false; 4], "died at {died}");
                assert_eq!(scene.fresh(by[1].plus(30 * 86_400)), [false; 4], "died at {died}");
            }
            scene.tell((0..12).map(|part| died.plus(part * STEP)));
        }
    }
}

#[test]
fn a_longer_bar_of_hours_in_dispute_is_owed_to_nobody() {
    let friday = at("2020-01-17T21:00:00Z");
    let mut scene = Scene::new(friday);
    scene.tell((0..12).map(|bucket| friday.plus(bucket * STEP)));
    // London opens on Sunday at nine, New York at ten: one bar comes in between, and nothing after it.
    let sunday = at("2020-01-19T21:00:00Z");
    scene.tell((0..(sunday.since(friday) / STEP - 12)).map(|bucket| friday.plus((12 + bucket) * STEP)));
    let side = Ohlc::from_prices([Price::ONE; 4]);
    let facts = scene.pairs.iter().copied().map(|pair| {
        let key = BarKey { pair, timeframe: Timeframe::M5, start: sunday };
        Fact::Settled(Bar { key, bid: side, ask: side, volume: 1, source: Source::Stream })
    });
    let batch = FactBatch { evidence: "e".into(), facts: facts.collect() };
    scene.store.commit(&[Arc::new(batch)], Timestamp(0)).unwrap();
    scene.tell((1..12).map(|bucket| sunday.plus(bucket * STEP)));
    assert_eq!(scene.fresh(sunday.plus(HOUR)), [true; 4]);
    assert_eq!(scene.fresh(sunday.plus(HOUR + STEP + SETTLING_S)), [false, true, false, true]);
}

#[test]
fn what_is_owed_is_told_with_its_reason() {
    let start = at("2020-03-10T12:00:00Z");
    let mut scene = Scene::new(start);
    scene.tell((0..6).map(|bucket| start.plus(bucket * STEP)));
    let mark = |state, reason, buckets: std::ops::Range<i64>| {
        let span = start.plus(buckets.start * STEP)..start.plus(buckets.end * STEP);
        let pair = "EURUSD".parse().unwrap();
        Fact::Marked(Mark { pair, timeframe: Timeframe::M5, span, state, reason })
    };
    let facts =
        vec![mark(State::Quiet, Reason::LaterRow, 6..7), mark(State::Missing, Reason::Disconnected, 7..9)];
    scene.store.commit(&[Arc::new(FactBatch { evidence: "e".into(), facts })], start).unwrap();
    let now = start.plus(15 * STEP);
    let told = readiness::read(&mut scene.store, &scene.config, now).unwrap();
    let told: Vec<String> = told
        .iter()
        .map(|pair| format!("{} {} {}", pair.row.pair, pair.row.timeframe, pair.why.as_deref().unwrap()))
        .collect();
    let beyond = "the ledger does not reach it: the service is not running, or behind";
    assert_eq!(
        told,
        [
            "EUR_USD 5 no bar of 2020-03-10T12:35:00Z: the stream was broken".to_owned(),
            "EUR_USD 15 no bar of 2020-03-10T12:30:00Z: the stream was broken".to_owned(),
            format!("GBP_USD 5 no bar of 2020-03-10T12:30:00Z: {beyond}"),
            format!("GBP_USD 15 no bar of 2020-03-10T12:30:00Z: {beyond}"),
        ]
    );
    let since = Some(at("2020-03-10T12:30:00Z"));
    let pairs = readiness::read(&mut scene.store, &scene.config, now).unwrap();
    assert_eq!(pairs.iter().map(|pair| pair.unreached).collect::<Vec<_>>(), [None, None, since, since]);
}

/// How many statements `work` sends.
fn statements(store: &mut Store, work: impl FnOnce(&mut Store)) -> usize {
    let count = store.count_statements();
    work(store);
    count.load(Ordering::Relaxed)
}

#[test]
fn reasons_of_all_pairs_cost_few_statements() {
    let start = at("2020-03-10T12:00:00Z");
    let mut scene = Scene::of(MAJOR_PAIRS.to_vec(), start);
    scene.tell((0..6).map(|bucket| start.plus(bucket * STEP)));
    // 5-minute bars are owed first.
    let due = start.plus(7 * STEP + SETTLING_S);
    let config = scene.config.clone();
    let mut told = |now: Timestamp, stale: usize| {
        statements(&mut scene.store, |store| {
            let told = readiness::read(store, &config, now).unwrap();
            assert_eq!(told.iter().filter(|pair| !pair.is_fresh()).count(), stale);
            let beyond = |why: &String| why.contains("the ledger does not reach it");
            assert!(told.iter().filter_map(|pair| pair.why.as_ref()).all(beyond), "{told:?}");
        })
    };
    assert_eq!(told(due.plus(-1), 0), 1, "the view alone");
    let few = told(due, MAJOR_PAIRS.len());
    assert_eq!(told(due.plus(HOUR), 2 * MAJOR_PAIRS.len()), few);
    assert!(few <= 4, "{few} statements");
}

#[test]
fn hours_of_markets_are_written_down_with_a_few_statements() {
    let now = at("2020-03-10T12:00:00Z");
    let mut scene = Scene::new(now);
    let expected = Watched::of(&scene.config).expected(now);
    let sent = statements(&mut scene.store, |store| store.expect_bars(&expected).unwrap());
    assert_eq!(scene.store.freshness().unwrap().len(), 28 * 2);
    assert!(sent <= 5, "{sent} statements");
}
