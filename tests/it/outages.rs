//! That healing is right and cheap: outages of a minute to four days at every hour of the week, in
//! simulated time alone. The real aggregation, planner and reading of answers stand between a
//! made-up market that knows what is true and a broker's history that charges for every bar.
//!
//! `CANDLEKEEP_OUTAGES=all` plays every hour of two weeks and prints what it cost; else a few.

mod house;
mod truth;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use candlekeep::domain::{Reason, State, Timeframe, Timestamp};
use house::{House, PACE_MS, TERMS, WEEKLY};
use truth::{DAY, FEEDS, HOUR, QUARTER, STEP, Truth, Week, march, mix, winter};

/// How long each outage lasts, and what it is called.
const DURATIONS: [(&str, i64); 9] = [
    ("1 min", 60),
    ("5 min", 300),
    ("20 min", 1_200),
    ("1 h", HOUR),
    ("3 h", 3 * HOUR),
    ("8 h", 8 * HOUR),
    ("1 day", DAY),
    ("2 days", 2 * DAY),
    ("4 days", 4 * DAY),
];
/// Watched before an outage, seconds.
const WATCHED_BEFORE_S: i64 = HOUR;
/// Buckets that are quiet at the end of an outage are proved so by history half an hour later, at a
/// time when it is asked again: nothing takes longer than this.
const HEALED_WITHIN_S: i64 = 6 * HOUR;
/// Buckets younger than this at the outage's end are not proved quiet by the first answer, seconds.
const TOO_YOUNG_S: i64 = 1_800;
/// How often a hole is asked about at most, on the average, before it is proved quiet. It may grow
/// meanwhile, by buckets that were not asked about yet.
const ASKED_IN_VAIN_MAX: u32 = 24;
/// Points of a quarter of an hour: what comes to be a day old while healing goes on loses its claim
/// to the reserve and its place before what is older.
const OF_A_QUARTER: u32 = 3 * FEEDS as u32;
/// Besides the pace, healing may take so long: the end of a bucket, the half minute for which
/// history is not counted on, and the next look.
const HEAL_SLACK_MS: i64 = 60_000;

/// One outage.
#[derive(Clone, Debug)]
struct Scenario {
    week: Week,
    /// When the stream breaks and when it is there again.
    start: Timestamp,
    end: Timestamp,
    /// Points left and seconds until all are there again; none where the week has just begun.
    left: Option<(u32, i64)>,
    /// Whether every open bucket has a price.
    busy: bool,
    /// Whether history can be asked during the outage.
    stream_alone: bool,
}

impl Scenario {
    /// An outage somewhere within an hour of the week.
    fn new(week: &Week, hour: i64, seconds: i64) -> Scenario {
        let within = mix((hour * 100_000 + seconds) as u64) % HOUR as u64;
        let start = week.sunday.plus(hour * HOUR + within as i64);
        Scenario::between(week, start, start.plus(seconds))
    }

    fn between(week: &Week, start: Timestamp, end: Timestamp) -> Scenario {
        Scenario { week: week.clone(), start, end, left: None, busy: false, stream_alone: false }
    }

    fn truth(&self) -> Truth {
        Truth::new(7, self.week.clone(), self.busy)
    }

    fn watched_from(&self) -> Timestamp {
        self.start.floor(QUARTER).plus(-WATCHED_BEFORE_S)
    }

    /// When all points are there again, if that is so soon that 5-minute bars wait for it.
    fn renewed_soon(&self) -> Option<Timestamp> {
        let at = self.left.map(|(_, renews_in_s)| self.watched_from().plus(renews_in_s));
        at.filter(|at| at.since(self.end) < DAY)
    }

    /// The first bucket that begins after the outage.
    fn over_from(&self) -> Timestamp {
        self.end.ceil(STEP)
    }

    /// The bars whose end-of-candle row fell into the outage, by bucket and feed, ascending: the
    /// bars that history must bring, those of the disputed hour too.
    fn lost_bars(&self) -> Vec<(Timestamp, usize)> {
        let truth = self.truth();
        let mut lost = Vec::new();
        let mut bucket = self.start.floor(STEP).plus(-STEP);
        while bucket.plus(STEP) < self.end {
            let is_due = |feed: &usize| bucket.plus(STEP) > self.start && truth.has_price(*feed, bucket);
            lost.extend((0..FEEDS).filter(is_due).map(|feed| (bucket, feed)));
            bucket = bucket.plus(STEP);
        }
        lost
    }
}

/// The best healing.
///
/// Where every lost bar can be paid for, it is a point for each. Where not, it is all that may be
/// spent, on what is counted by trying: what was lost within the last day comes first, then what is
/// older, of which the reserve is left alone. Of each of the two, for every quarter of an hour X, it
/// is counted what all 5-minute bars from X on and all 15-minute bars before X would cost, and the
/// earliest X counts that can be paid for. Where not even the 15-minute bars can, as many of these
/// as there are points are the best, from the newest. What comes before that is left to the next
/// week.
#[derive(Clone, Debug, Default)]
struct Best {
    /// The least number of points, or all that may be spent where that is not enough.
    points: u32,
    /// 5-minute bars that it brings.
    bars: usize,
    /// Whether that is all.
    is_all: bool,
    /// From here on every 15-minute bar is there.
    quarters_from: Option<Timestamp>,
    /// But for so many, where the points end with them: the newest quarter of an hour is over only
    /// when older ones have been bought in its stead, and a bar may be taken to cost more than it does.
    quarters_absent_max: usize,
}

impl Best {
    fn of(scenario: &Scenario) -> Best {
        let lost = scenario.lost_bars();
        let left = match scenario.left {
            Some((left, _)) if scenario.renewed_soon().is_none() => left,
            _ => WEEKLY,
        };
        let day_ago = scenario.end.plus(-DAY).ceil(QUARTER);
        let (older, urgent) = lost.split_at(lost.partition_point(|(start, _)| *start < day_ago));
        let mut best = Best { is_all: true, ..Best::default() };
        for (bars, kept) in [(urgent, 0), (older, TERMS.reserve)] {
            let of_incident = TERMS.incident_cap - best.points;
            let budget = of_incident.min((left - best.points).saturating_sub(kept)) as usize;
            let quarters: BTreeSet<(Timestamp, usize)> =
                bars.iter().map(|(start, feed)| (start.floor(QUARTER), *feed)).collect();
            let quarters: Vec<(Timestamp, usize)> = quarters.into_iter().collect();
            let cost = |x: Timestamp| {
                let short = bars.len() - bars.partition_point(|(start, _)| *start < x);
                (short, quarters.partition_point(|(start, _)| *start < x))
            };
            let Some((last, _)) = bars.last() else { continue };
            let (first, end) = (bars[0].0.floor(QUARTER), last.floor(QUARTER).plus(QUARTER));
            let splits = (first.0..=end.0).step_by(QUARTER as usize).map(Timestamp);
            let affordable = |x: &Timestamp| {
                let (short, long) = cost(*x);
                short + long <= budget
            };
            match splits.clone().find(affordable) {
                Some(x) => {
                    let (short, long) = cost(x);
                    best.points += if long == 0 { short } else { budget } as u32;
                    best.bars += short;
                    best.is_all &= long == 0;
                    best.quarters_from = Some(first);
                }
                None => {
                    best.points += budget as u32;
                    best.is_all = false;
                    let newest = quarters.len().checked_sub(budget).and_then(|ix| quarters.get(ix));
                    // Of the oldest of them not all pairs' bars are there.
                    best.quarters_from = newest.map(|(start, _)| start.plus(QUARTER)).or(best.quarters_from);
                    best.quarters_absent_max = 2 * FEEDS;
                }
            }
            if !best.is_all {
                break;
            }
        }
        best
    }
}

/// What came of an outage.
#[derive(Clone, Debug, Default)]
struct Outcome {
    holes: usize,
    lost: usize,
    healed: usize,
    waiting: usize,
    quarters: u32,
    requests: u32,
    paid: u32,
    proofs: u32,
    points: u32,
    optimum: u32,
    bars: usize,
    bars_best: usize,
    is_all: bool,
    /// Seconds after the outage's end until the last bar was there that could be paid for, and
    /// until the last quiet bucket was proved so.
    healed_s: i64,
    proved_s: i64,
}

/// Plays an outage and judges what is left of it.
fn play(scenario: &Scenario) -> Outcome {
    let (from, over_from) = (scenario.watched_from(), scenario.over_from());
    let mut house = House::new(scenario.truth(), from, from..over_from, scenario.left);
    while house.now < scenario.start {
        house.pass();
    }
    let before = house.spent().clone();
    assert_eq!(before.points, 0, "nothing was lost before");
    house.disconnect(scenario.stream_alone);
    if scenario.stream_alone {
        while house.now < scenario.end {
            house.pass();
        }
    } else {
        house.stay_away(scenario.end);
    }
    house.connect();
    let begun = scenario.renewed_soon().unwrap_or(scenario.end);
    while house.now < begun.plus(QUARTER) || !house.is_done_before(over_from) {
        house.pass();
        assert!(house.now.since(begun) < HEALED_WITHIN_S, "healing has no end");
    }

    let best = Best::of(scenario);
    let spent = house.spent();
    let ledger = &house.ledger;
    let mut outcome = Outcome {
        lost: ledger.lost.len(),
        quarters: spent.quarters,
        requests: spent.requests - before.requests,
        paid: spent.paid,
        proofs: spent.proofs,
        points: spent.points,
        optimum: best.points,
        bars_best: best.bars,
        is_all: best.is_all,
        healed_s: spent.last_bar.map_or(0, |(at, _)| at.since(scenario.end).max(0)),
        proved_s: spent.last_news.map_or(0, |at| at.since(scenario.end).max(0)),
        ..Outcome::default()
    };
    for (feed, start) in &ledger.lost {
        outcome.holes += usize::from(!ledger.lost.contains(&(*feed, start.plus(-STEP))));
        match ledger.known(*feed, Timeframe::M5, *start).map(|run| run.state) {
            Some(State::Missing) => outcome.waiting += 1,
            _ => outcome.healed += 1,
        }
    }
    outcome.bars = scenario
        .lost_bars()
        .iter()
        .filter(|(start, feed)| ledger.has_bar(*feed, Timeframe::M5, *start))
        .count();
    // No bucket ended meanwhile, so no end-of-candle row was lost.
    let is_within_bucket = scenario.start.floor(STEP) == scenario.end.floor(STEP);
    assert!(!is_within_bucket || outcome.points == 0, "{} points", outcome.points);
    // What an answer does not tell is asked for again, ever more rarely.
    let in_vain = spent.in_vain - before.in_vain;
    assert!(in_vain <= ASKED_IN_VAIN_MAX * outcome.holes as u32, "asked {in_vain} times in vain");
    judge_buckets(&house, scenario, &best);
    judge_cost(&house, scenario, &outcome, before.requests);
    outcome
}

/// Every bucket that was watched is what it truly is, or waits for points.
fn judge_buckets(house: &House, scenario: &Scenario, best: &Best) {
    let (truth, ledger) = (&house.truth, &house.ledger);
    let (from, over_from) = (scenario.watched_from(), scenario.over_from());
    let mut quarters_absent = Vec::new();
    for feed in 0..FEEDS {
        for start in (from.0..over_from.0).step_by(STEP as usize).map(Timestamp) {
            let told = ledger.known(feed, Timeframe::M5, start).map(|run| (run.state, run.reason));
            let is_right = match told {
                Some((State::Stored, _)) => ledger.has_bar(feed, Timeframe::M5, start),
                Some((State::Quiet, _)) => !truth.has_price(feed, start),
                Some((State::Closed, Reason::PossiblyOpen)) => truth.is_disputed(start),
                Some((State::Closed, _)) => !truth.is_open(start),
                // A quiet one may wait for the point that it might cost.
                Some((State::Missing, _)) => {
                    let may_wait = !best.is_all || scenario.left.is_some() && !truth.has_price(feed, start);
                    may_wait && ledger.lost.contains(&(feed, start))
                }
                Some((State::Lost, _)) | None => false,
            };
            assert!(is_right, "feed {feed} {start}: {told:?}, price: {}", truth.has_price(feed, start));
        }
        // The stream brings what comes after the outage.
        for start in (over_from.0..house.now.0 - STEP - 1).step_by(STEP as usize).map(Timestamp) {
            let has_bar = ledger.has_bar(feed, Timeframe::M5, start);
            assert_eq!(has_bar, truth.has_price(feed, start), "feed {feed} {start}, after the outage");
        }
        let quarters_from = if best.is_all { Some(from) } else { best.quarters_from };
        // What comes to be a day old before its turn has come is left to the next week too.
        let turned = house.spent().last_point.map_or(from, |at| at.plus(-DAY).ceil(QUARTER));
        let Some(quarters_from) = quarters_from.map(|at| if best.is_all { at } else { at.max(turned) })
        else {
            continue;
        };
        for start in (quarters_from.0..over_from.0 - QUARTER).step_by(QUARTER as usize).map(Timestamp) {
            // Behind the last bar history proves nothing for half an hour; by then all points may be
            // spent, so that a quiet bucket there waits, and its 15 minutes with it. Where points are
            // short from the beginning any may.
            let waits = |slot: Timestamp| {
                (slot.plus(TOO_YOUNG_S) > scenario.end || scenario.left.is_some())
                    && !truth.has_price(feed, slot)
                    && ledger.known(feed, Timeframe::M5, slot).is_some_and(|run| run.state == State::Missing)
            };
            let is_due = truth.bar_of(feed, Timeframe::M15, start).is_some()
                && !(0..3).any(|slot| waits(start.plus(slot * STEP)));
            if is_due && !ledger.has_bar(feed, Timeframe::M15, start) {
                quarters_absent.push((feed, start));
            }
        }
    }
    assert!(quarters_absent.len() <= best.quarters_absent_max, "no 15 minutes: {quarters_absent:?}");
}

/// It was as cheap and as quick as it can be.
fn judge_cost(house: &House, scenario: &Scenario, outcome: &Outcome, requests_before: u32) {
    let Outcome { points, optimum, bars, bars_best, .. } = *outcome;
    assert!(points <= optimum, "{points} points for {optimum}");
    if outcome.is_all {
        assert_eq!(points, optimum, "points");
        assert_eq!((bars, outcome.quarters), (bars_best, 0));
        // A quiet bucket older than a day may wait where the reserve is all that is left.
        let may_wait = scenario.left.is_some();
        assert!(may_wait || (outcome.waiting, house.waiting()) == (0, 0), "{} wait", outcome.waiting);
        // One request for a hole, or one more for its last bucket, unless it takes several.
        let requests_max = 2 * outcome.holes as u32 + points / (TERMS.bars_max / 2);
        let is_at_once = !scenario.stream_alone && scenario.renewed_soon().is_none();
        assert!(!is_at_once || outcome.paid <= requests_max, "{} requests", outcome.paid);
        if let Some((_, requests)) = house.spent().last_bar.filter(|_| scenario.renewed_soon().is_none()) {
            let within_ms = i64::from(requests - requests_before) * PACE_MS + HEAL_SLACK_MS;
            assert!(outcome.healed_s * 1_000 <= within_ms, "{} s for {requests} requests", outcome.healed_s);
        }
    } else {
        assert!(outcome.waiting > 0);
        // Of what may be spent nothing is left but what is too little for anything.
        assert!(points + OF_A_QUARTER >= optimum, "{points} points for {optimum}");
        let bars_min = bars_best as f64 * 0.9 - f64::from(OF_A_QUARTER);
        assert!(bars as f64 >= bars_min, "{bars} bars, {bars_best} can be had");
    }
}

/// Plays scenarios on all cores; outcomes come in the order of the scenarios.
fn play_all(scenarios: &[Scenario]) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let outcomes: Mutex<Vec<(usize, Option<Outcome>)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let ix = next.fetch_add(1, Ordering::Relaxed);
                    let Some(scenario) = scenarios.get(ix) else { return };
                    let outcome = std::panic::catch_unwind(|| play(scenario));
                    if outcome.is_err() {
                        println!("failed: {} to {}, {scenario:?}", scenario.start, scenario.end);
                    }
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push((ix, outcome.ok()));
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by_key(|(ix, _)| *ix);
    let good: Vec<Outcome> = outcomes.into_iter().filter_map(|(_, outcome)| outcome).collect();
    assert_eq!(good.len(), scenarios.len(), "outages that were not healed as they should be, see above");
    good
}

/// Buckets that were lost, were healed (have a bar or are proved to have none) and wait for points;
/// 15-minute bars bought; requests, those that brought bars, and those that proved buckets quiet by
/// bringing none. Points beside the
/// optimum and the worst ratio of an outage; 5-minute bars beside those that can be had, of all and
/// of the worst; median and worst of the seconds until the last bar was there, and until the last
/// quiet bucket was proved so.
fn print_head(what: &str) {
    println!(
        "\n{what}\n{:>8} {:>9} {:>7} {:>9} {:>9} {:>9} {:>7} {:>8} {:>6} {:>6} {:>9} {:>9} {:>6} {:>6} {:>6} {:>13} {:>13}",
        "outage",
        "scenarios",
        "holes",
        "lost",
        "healed",
        "waiting",
        "15 min",
        "requests",
        "paid",
        "proofs",
        "points",
        "optimum",
        "worst",
        "bars",
        "fewest",
        "healed, s",
        "proved, s"
    );
}

fn print_line(name: &str, outcomes: &[Outcome]) {
    let sum = |of: fn(&Outcome) -> usize| outcomes.iter().map(of).sum::<usize>();
    let median_and_worst = |of: fn(&Outcome) -> i64| {
        let mut all: Vec<i64> = outcomes.iter().map(of).filter(|seconds| *seconds > 0).collect();
        all.sort();
        match all.last() {
            Some(worst) => format!("{}, {worst}", all[all.len() / 2]),
            None => "-".to_owned(),
        }
    };
    let ratio =
        |points: usize, optimum: usize| if optimum == 0 { 1.0 } else { points as f64 / optimum as f64 };
    let worst =
        outcomes.iter().map(|one| ratio(one.points as usize, one.optimum as usize)).fold(0.0, f64::max);
    let bars = ratio(sum(|one| one.bars), sum(|one| one.bars_best));
    let fewest = outcomes.iter().map(|one| ratio(one.bars, one.bars_best)).fold(1.0, f64::min);
    println!(
        "{name:>8} {:>9} {:>7} {:>9} {:>9} {:>9} {:>7} {:>8} {:>6} {:>6} {:>9} {:>9} {worst:>6.3} {bars:>6.3} {fewest:>6.3} {:>13} {:>13}",
        outcomes.len(),
        sum(|one| one.holes),
        sum(|one| one.lost),
        sum(|one| one.healed),
        sum(|one| one.waiting),
        sum(|one| one.quarters as usize),
        sum(|one| one.requests as usize),
        sum(|one| one.paid as usize),
        sum(|one| one.proofs as usize),
        sum(|one| one.points as usize),
        sum(|one| one.optimum as usize),
        median_and_worst(|one| one.healed_s),
        median_and_worst(|one| one.proved_s),
    );
}

/// Whether every hour is played.
fn is_all() -> bool {
    std::env::var("CANDLEKEEP_OUTAGES").is_ok_and(|value| value == "all")
}

/// Plays outages of some durations over the hours of the weeks, and prints what they cost; `change` makes the
/// scenario of an outage.
fn play_weeks(what: &str, durations: &[(&str, i64)], every: usize, change: fn(Scenario) -> Scenario) {
    let weeks = if is_all() { vec![winter(), march()] } else { vec![winter()] };
    for week in weeks {
        print_head(&format!("{what}, {}", week.name));
        for (name, seconds) in durations {
            let hours = (0..168).step_by(if is_all() { 1 } else { every });
            let scenarios: Vec<Scenario> =
                hours.map(|hour| change(Scenario::new(&week, hour, *seconds))).collect();
            print_line(name, &play_all(&scenarios));
        }
    }
}

#[test]
fn outages_at_every_hour_of_the_week_are_healed_at_the_least_cost() {
    play_weeks("All points there", &DURATIONS, 12, |outage| outage);
}

#[test]
fn with_few_points_left_as_many_bars_are_bought_as_there_are_points() {
    let few = |outage| Scenario { left: Some((1_400, 6 * DAY)), ..outage };
    play_weeks("1,400 points left", &DURATIONS[3..], 28, few);
}

#[test]
fn what_only_the_stream_loses_is_healed_while_it_is_away() {
    let alone = |outage| Scenario { stream_alone: true, ..outage };
    play_weeks("The stream alone", &DURATIONS[..6], 42, alone);
}

#[test]
fn a_weekend_within_an_outage_costs_nothing() {
    let play = |from_hour: i64, to_hour: i64| {
        let week = winter();
        let at = |hour: i64| week.sunday.plus(hour * HOUR + 130);
        play(&Scenario { busy: true, ..Scenario::between(&week, at(from_hour), at(to_hour)) })
    };
    // Friday 19:00 to the close, and from the first who may open, Sunday 21:00, to Monday 02:00.
    let with = play(5 * 24 + 19, 8 * 24 + 2);
    let without = play(3 * 24 + 8, 3 * 24 + 16);
    let cost = |outcome: &Outcome| (outcome.lost, outcome.points, outcome.waiting);
    assert_eq!(cost(&with), (8 * 12 * FEEDS, (8 * 12 * FEEDS) as u32, 0));
    assert_eq!(cost(&with), cost(&without));
    assert_eq!(with.requests, without.requests, "one request a pair asks for both sides");
    // And a weekend alone.
    let weekend = play(5 * 24 + 23, 7 * 24 + 20);
    assert_eq!((cost(&weekend), weekend.requests), ((0, 0, 0), 0));
}

#[test]
fn where_points_come_soon_bars_of_5_minutes_wait_for_them() {
    let week = winter();
    let outage = Scenario::new(&week, 2 * 24 + 9, 3 * HOUR);
    // All are there again five hours after the outage's beginning.
    let outcome = play(&Scenario { left: Some((300, 6 * HOUR)), ..outage });
    assert_eq!((outcome.quarters, outcome.waiting), (0, 0));
    assert_eq!(outcome.bars, outcome.bars_best);
}
