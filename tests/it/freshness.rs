//! The view `freshness` on each database, against a walk through the buckets one by one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candlekeep::completeness::SETTLING_S;
use candlekeep::config::{self, Config, FileText, Flags};
use candlekeep::domain::{
    Bar, BarKey, Calendar, Expectation, Fact, FactBatch, Mark, Ohlc, Pair, Price, Reason, Source, State,
    Timeframe, Timestamp,
};
use candlekeep::readiness::Watched;
use candlekeep::store::{Freshness, Store};

use super::store_contract::on_each_place;

const STEP: i64 = 300;
const DAY: i64 = 86_400;
/// Friday 2020-03-27 20:00 UTC: two hours before London closes, and on Sunday it goes to summer time.
const FRIDAY: Timestamp = Timestamp(1_585_339_200);
/// Pairs that are tried, each with a ledger of its own.
const PAIRS: usize = 300;

fn configuration(text: &str) -> Config {
    let file = FileText { path: Path::new("candlekeep.toml"), text };
    config::load(Some(file), &BTreeMap::new(), &Flags::default()).unwrap()
}

/// Pairs of currencies that there are not.
fn pairs() -> Vec<Pair> {
    let letter = |number: usize| char::from(b'A' + (number % 26) as u8);
    let pair = |number: usize| format!("Q{}{}_USD", letter(number / 26), letter(number));
    (0..PAIRS).map(|number| pair(number).parse().unwrap()).collect()
}

fn bar(pair: Pair, start: Timestamp) -> Fact {
    let side = Ohlc::from_prices([Price::ONE; 4]);
    let key = BarKey { pair, timeframe: Timeframe::M5, start };
    Fact::Settled(Bar { key, bid: side, ask: side, volume: 1, source: Source::Stream })
}

fn mark(pair: Pair, start: Timestamp, (state, reason): (State, Reason)) -> Fact {
    let span = start..start.plus(STEP);
    Fact::Marked(Mark { pair, timeframe: Timeframe::M5, span, state, reason })
}

/// What a bucket may be, besides stored.
const STATES: [(State, Reason); 5] = [
    (State::Quiet, Reason::LaterRow),
    (State::Missing, Reason::Disconnected),
    (State::Lost, Reason::GivenUp),
    (State::Closed, Reason::Calendar),
    (State::Closed, Reason::PossiblyOpen),
];

/// A ledger of up to six hours, in which each state lasts for a while, and some buckets are not told of.
fn ledger(random: &mut fastrand::Rng, pair: Pair) -> (Vec<Fact>, BTreeMap<Timestamp, State>) {
    // Mostly about a close or an opening, by either account of the hours.
    let about = [0, 2 * DAY, -7 * DAY, -5 * DAY, -19 * DAY, 3 * DAY][random.usize(..6)];
    let mut start = FRIDAY.plus(about + STEP * random.i64(-12..36));
    let end = start.plus(STEP * random.i64(1..72));
    let (mut facts, mut states) = (Vec::new(), BTreeMap::new());
    let mut is = random.usize(..12);
    if random.u8(..4) == 0 {
        // The run that the first bar goes on with has lasted for weeks.
        let span = start.plus(-DAY * random.i64(8..20))..start;
        let (state, reason) = (State::Stored, Reason::Settled);
        facts.push(Fact::Marked(Mark { pair, timeframe: Timeframe::M5, span, state, reason }));
        is = 11;
    }
    while start < end {
        if random.u8(..4) == 0 {
            is = random.usize(..12);
        }
        match is {
            0 => {}
            1..=5 => {
                facts.push(mark(pair, start, STATES[is - 1]));
                states.insert(start, STATES[is - 1].0);
            }
            _ => {
                facts.push(bar(pair, start));
                states.insert(start, State::Stored);
            }
        }
        start = start.plus(STEP);
    }
    (facts, states)
}

/// When the next bar ought to be durable at the latest, bucket by bucket.
fn expected_by(
    last: Option<Timestamp>,
    timeframe: Timeframe,
    states: &BTreeMap<Timestamp, State>,
    calendar: &Calendar,
    hours_to: Timestamp,
) -> Timestamp {
    let Some(last) = last else { return Timestamp(0) };
    let mut bucket = last.plus(timeframe.seconds());
    while bucket < hours_to {
        let owed = match states.get(&bucket) {
            Some(State::Missing | State::Lost) => true,
            Some(_) => false,
            None => calendar.expectation(bucket) == Expectation::Expected,
        };
        if owed {
            return timeframe.bucket(bucket).plus(timeframe.seconds() + SETTLING_S);
        }
        bucket = bucket.plus(STEP);
    }
    hours_to
}

#[test]
fn the_next_bar_is_owed_after_the_first_bucket_that_is_not_accounted_for() {
    on_each_place(|place| {
        let timeframes = [Timeframe::M5, Timeframe::M15, Timeframe::H1];
        let config = configuration(
            "timeframes = [\"5\", \"15\", \"60\"]\n\
             [calendars.nordic]\nzone = \"Europe/Oslo\"\nweek = \"Mon 09:00 - Fri 17:00\"\n\
             [pairs]\nUSD_NOK = { epic = \"CS.D.USDNOK.CFD.IP\", calendar = \"nordic\" }\n",
        );
        let mut expected = Watched::of(&config).expected(FRIDAY);
        // More than IG would stream.
        let names = ["forex", "forex", "nordic"].map(str::to_owned).into_iter().cycle();
        expected.pairs = pairs().into_iter().zip(names).collect();
        let mut store = Store::open(&place.url).unwrap();
        store.set_timeframes(&timeframes);
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut facts, mut states) = (Vec::new(), BTreeMap::new());
        for pair in pairs() {
            let (of_pair, its_states) = ledger(&mut random, pair);
            facts.extend(of_pair);
            states.insert(pair, its_states);
        }
        store.commit(&[Arc::new(FactBatch { evidence: "e".into(), facts })], FRIDAY).unwrap();
        assert_eq!(store.freshness().unwrap(), [], "nothing is watched");
        store.expect_bars(&expected).unwrap();
        // Once more in the place of what was said before.
        store.expect_bars(&expected).unwrap();
        let told = store.freshness().unwrap();
        assert_eq!(told.len(), PAIRS * timeframes.len());
        let (mut never, mut ends) = (0, 0);
        for row in told {
            let name = &expected.pairs.iter().find(|(pair, _)| *pair == row.pair).unwrap().1;
            let calendar = config.calendar(name);
            let last = store.last_start(row.pair, row.timeframe).unwrap();
            let by = expected_by(last, row.timeframe, &states[&row.pair], &calendar, expected.hours_to);
            let right = Freshness { last, expected_by: by, ..row };
            assert_eq!(row, right, "{name} {:?}", states[&row.pair]);
            never += usize::from(last.is_none());
            ends += usize::from(by == expected.hours_to);
        }
        assert!(never > 5 && ends == 0, "{never} without a bar, {ends} without any that is owed");
        assert_eq!(place.number("SELECT COUNT(*) FROM freshness"), 900);
        let plain = "SELECT COUNT(*) FROM freshness WHERE last_timestamp IS NULL AND expected_by = 0";
        assert_eq!(place.number(plain), never as i64);
    });
}
