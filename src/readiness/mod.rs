//! Whether what is stored is fit to trade on, and why not: what `/readyz` and `status` tell. Pure but for `keeper.rs`
//! and for what is read from the database here.
//!
//! The view `freshness` decides which bars are owed, for SQL and HTTP alike. This is what it reckons with ([`Watched`]),
//! and what is said of its answers.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::completeness::{Gap, SETTLING_S, incomplete_each};
use crate::config::Config;
use crate::domain::{Calendar, Expectation, Pair, Timeframe, Timestamp};
use crate::ig::stream::state::{Phase, StreamState};
use crate::store::{ExpectedBars, Freshness, Store, StoreError};

pub mod keeper;

const DAY_S: i64 = 86_400;
/// How far back hours of markets are kept: a pair without a bar for longer is stale by what came since.
const HOURS_BACK_S: i64 = 28 * DAY_S;
/// How far ahead. A service that is dead for longer has had every pair stale since its first hour.
const HOURS_AHEAD_S: i64 = 70 * DAY_S;
/// By how much what is kept may lag behind.
const RENEW_AFTER_S: i64 = DAY_S;
/// A stream that is down for less is being taken up again, and costs no bar.
const STREAM_DOWN_S: i64 = 60;

/// Of which bars there ought to be new ones, and by which calendars.
#[derive(Clone, Debug)]
pub struct Watched {
    pairs: Vec<(Pair, String)>,
    timeframes: Vec<Timeframe>,
    calendars: BTreeMap<String, Arc<Calendar>>,
}

impl Watched {
    /// All that the configuration has.
    pub fn of(config: &Config) -> Watched {
        let feeds = config.feeds.iter();
        let pairs = feeds.clone().map(|feed| (feed.pair, feed.calendar.clone())).collect();
        let calendars = feeds.map(|feed| feed.calendar.clone()).zip(config.feed_calendars()).collect();
        Watched { pairs, timeframes: config.timeframes.clone(), calendars }
    }

    /// What the database is to know at `now`, the market's time.
    pub fn expected(&self, now: Timestamp) -> ExpectedBars {
        let step = Timeframe::M5.seconds();
        let span = now.plus(-HOURS_BACK_S).floor(step)..now.plus(HOURS_AHEAD_S).floor(step);
        let hours =
            self.calendars.iter().map(|(name, calendar)| (name.clone(), hours(calendar, span.clone())));
        ExpectedBars {
            pairs: self.pairs.clone(),
            timeframes: self.timeframes.clone(),
            hours: hours.collect(),
            hours_to: span.end,
        }
    }
}

/// When a market is sure to trade, ascending.
fn hours(calendar: &Calendar, span: Range<Timestamp>) -> Vec<Range<Timestamp>> {
    let runs = calendar.runs(span).into_iter();
    runs.filter(|(_, expectation)| *expectation == Expectation::Expected).map(|(run, _)| run).collect()
}

/// Whether hours that are known up to `hours_to` are to be worked out anew; also where the clock was set back.
fn is_outdated(hours_to: Timestamp, now: Timestamp) -> bool {
    now.plus(HOURS_AHEAD_S).since(hours_to).abs() >= RENEW_AFTER_S
}

/// How fresh the newest bar of a pair and length is, and what is owed where it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairReadiness {
    /// What the view says.
    pub row: Freshness,
    /// Why it is not fresh; none where it is.
    pub why: Option<String>,
    /// Since when the ledger says nothing, where that is why.
    pub unreached: Option<Timestamp>,
}

impl PairReadiness {
    /// Whether no bar is owed.
    pub fn is_fresh(&self) -> bool {
        self.why.is_none()
    }

    /// When the next bar ought to be durable at the latest; none where there was never one.
    pub fn expected_by(&self) -> Option<Timestamp> {
        self.row.last.map(|_| self.row.expected_by)
    }
}

/// What the database says at `now`, the market's time: of each watched pair and length, and whether one of their
/// markets is sure to trade. To be read in one consistent look.
///
/// # Errors
/// Those of any read.
pub fn read(store: &mut Store, config: &Config, now: Timestamp) -> Result<Vec<PairReadiness>, StoreError> {
    let rows = store.freshness()?;
    let stale: Vec<_> =
        rows.iter().filter(|row| !row.is_fresh(now) && row.last.is_some()).map(owed).collect();
    let mut lacking = stale.iter().zip(incomplete_each(store, config, &stale)?);
    let judge = |row: &Freshness| {
        if row.is_fresh(now) {
            return PairReadiness { row: *row, why: None, unreached: None };
        }
        let (why, unreached) = match row.last.and_then(|_| lacking.next()) {
            None => ("there is no bar yet".to_owned(), None),
            Some(((_, _, bucket), gaps)) => {
                let first = gaps.first();
                let why = first.map_or("its hours are not known that far ahead", Gap::why);
                let unreached = first.filter(|gap| gap.is_not_reached()).map(|gap| gap.span.start);
                (format!("no bar of {}: {why}", bucket.start), unreached)
            }
        };
        PairReadiness { row: *row, why: Some(why), unreached }
    };
    Ok(rows.iter().map(judge).collect())
}

/// Which bar is owed.
fn owed(row: &Freshness) -> (Pair, Timeframe, Range<Timestamp>) {
    let end = row.expected_by.plus(-SETTLING_S);
    (row.pair, row.timeframe, end.plus(-row.timeframe.seconds())..end)
}

/// Whether the market of one of the watched pairs that are meant is sure to trade at `now`.
pub fn trades(config: &Config, now: Timestamp, is_meant: impl Fn(Pair) -> bool) -> bool {
    let bucket = Timeframe::M5.bucket(now);
    let calendars = config.feeds.iter().zip(config.feed_calendars());
    let mut meant = calendars.filter(|(feed, _)| is_meant(feed.pair));
    meant.any(|(_, calendar)| calendar.expectation(bucket) == Expectation::Expected)
}

/// What there is to say of the process that collects.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// What it is at instead of collecting.
    pub at: Option<String>,
    /// Facts that wait in the spool, of which the database knows nothing yet.
    pub spooled: u64,
    /// How the stream stands.
    pub stream: Option<StreamState>,
    /// It lives, and gives no sign of it.
    pub is_silent: bool,
}

impl Process {
    /// Whether it hears the market.
    fn streams(&self) -> bool {
        let is_up = self.stream.as_ref().is_some_and(|stream| stream.phase == Phase::Streaming);
        is_up && self.at.is_none() && !self.is_silent
    }
}

/// Whether what is stored is fit to trade on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// What is the matter with all of it.
    pub why: Vec<String>,
    /// Each pair and length.
    pub pairs: Vec<PairReadiness>,
}

impl Readiness {
    /// Judges at wall time `now`; `trades` says whether a market is sure to.
    pub fn judge(
        mut pairs: Vec<PairReadiness>,
        process: &Process,
        trades: bool,
        now: Timestamp,
    ) -> Readiness {
        let mut why: Vec<String> = process.at.clone().into_iter().collect();
        if process.spooled > 0 {
            why.push(format!("{} facts wait in the spool for the database", process.spooled));
        }
        // While it is not collecting at all there is no more to say of the stream.
        if let Some(stream) = &process.stream
            && process.at.is_none()
            && trades
            && stream.phase != Phase::Streaming
            && now.since(Timestamp(stream.since)) >= STREAM_DOWN_S
        {
            let cause = stream.cause.as_deref().map(|cause| format!(": {cause}")).unwrap_or_default();
            why.push(format!(
                "the stream is {} since {}{cause}",
                stream.phase.as_str(),
                Timestamp(stream.since)
            ));
        }
        // What the ledger does not reach of a service that hears the market is what no price has come of.
        for pair in pairs.iter_mut().filter(|_| process.streams()) {
            if let Some(since) = pair.unreached {
                let words = format!("no price since {since}: quiet, or a broken feed; not proved yet");
                pair.why = Some(words);
            }
        }
        if pairs.is_empty() {
            why.push("nothing is watched yet".to_owned());
        }
        Readiness { why, pairs }
    }

    /// The same for people: whether all is fresh, else what is the matter, and the first pair with what it lacks.
    pub fn in_words(&self) -> String {
        let stale: Vec<&PairReadiness> = self.pairs.iter().filter(|pair| !pair.is_fresh()).collect();
        let mut told = self.why.clone();
        if let Some(first @ PairReadiness { row, why: Some(why), .. }) = stale.first() {
            let (pair, timeframe) = (first.row.pair, row.timeframe);
            let more = match stale.len() {
                1 => String::new(),
                stale => format!(" ({stale} of {} lack their newest bar)", self.pairs.len()),
            };
            told.push(format!("{pair} {timeframe}: {why}{more}"));
        }
        match told.is_empty() {
            true => "yes: every pair has the newest bar that it should have".to_owned(),
            false => format!("no: {}", told.join("; ")),
        }
    }

    /// Whether all of it is.
    pub fn is_ready(&self) -> bool {
        self.why.is_empty() && self.pairs.iter().all(PairReadiness::is_fresh)
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let pairs = self.pairs.iter().map(|pair| {
            json!({
                "pair": pair.row.pair.to_string(),
                "timeframe": pair.row.timeframe.as_str(),
                "last": pair.row.last.map(|last| last.0),
                "expected_by": pair.expected_by().map(|by| by.0),
                "fresh": pair.is_fresh(),
                "why": pair.why,
            })
        });
        json!({ "ready": self.is_ready(), "why": self.why, "pairs": pairs.collect::<Vec<_>>() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_705_485_600);

    fn pair(why: Option<&str>) -> PairReadiness {
        let row = Freshness {
            pair: "EURUSD".parse().unwrap(),
            timeframe: Timeframe::M5,
            last: Some(NOW.plus(-600)),
            expected_by: NOW.plus(60),
        };
        PairReadiness { row, why: why.map(str::to_owned), unreached: None }
    }

    fn stream(phase: Phase, for_s: i64) -> Process {
        let cause = Some("closed".to_owned());
        let stream = StreamState { phase, since: NOW.0 - for_s, cause, ..StreamState::default() };
        Process { stream: Some(stream), ..Process::default() }
    }

    #[test]
    fn what_keeps_all_pairs_from_being_fit_to_trade_on_is_told() {
        let check = |process: Process, trades: bool, expected: &str| {
            let readiness = Readiness::judge(vec![pair(None)], &process, trades, NOW);
            assert_eq!(readiness.why.join("; "), expected);
            assert_eq!(readiness.is_ready(), expected.is_empty());
        };
        check(Process::default(), true, "");
        check(
            Process { spooled: 3, ..Process::default() },
            false,
            "3 facts wait in the spool for the database",
        );
        check(stream(Phase::Streaming, 900), true, "");
        check(stream(Phase::Interrupted, STREAM_DOWN_S - 1), true, "");
        let told = "the stream is interrupted since 2024-01-17T09:59:00Z: closed";
        check(stream(Phase::Interrupted, STREAM_DOWN_S), true, told);
        check(stream(Phase::Interrupted, STREAM_DOWN_S), false, "");
        let starting = Process { at: Some("starting: logging in".to_owned()), ..stream(Phase::Stopped, 900) };
        check(starting, true, "starting: logging in");
        let nothing = Readiness::judge(Vec::new(), &Process::default(), true, NOW);
        assert!(!nothing.is_ready(), "{nothing:?}");
    }

    #[test]
    fn what_no_price_has_come_of_is_not_blamed_on_a_service_that_hears_the_market() {
        let beyond = "no bar of 10:00: the service is not running, or behind";
        let quiet = "no price since 2024-01-17T09:55:00Z: quiet, or a broken feed; not proved yet";
        let check = |process: Process, unreached: Option<Timestamp>, expected: &str| {
            let pair = PairReadiness { unreached, ..pair(Some(beyond)) };
            let readiness = Readiness::judge(vec![pair], &process, true, NOW);
            assert_eq!(readiness.pairs[0].why.as_deref(), Some(expected));
            assert!(!readiness.is_ready());
        };
        let since = Some(NOW.plus(-300));
        check(stream(Phase::Streaming, 900), since, quiet);
        check(stream(Phase::Streaming, 900), None, beyond);
        check(stream(Phase::Interrupted, 5), since, beyond);
        check(Process::default(), since, beyond);
        check(Process { is_silent: true, ..stream(Phase::Streaming, 900) }, since, beyond);
        let at = Some("nobody collects".to_owned());
        check(Process { at, ..stream(Phase::Streaming, 900) }, since, beyond);
    }

    #[test]
    fn one_pair_that_lacks_its_bar_is_enough() {
        let judge = |pairs| Readiness::judge(pairs, &Process::default(), true, NOW);
        let readiness = judge(vec![pair(None), pair(Some("no bar of 10:00: the stream was broken"))]);
        assert!(!readiness.is_ready());
        assert_eq!(readiness.in_words(), "no: EUR_USD 5: no bar of 10:00: the stream was broken");
        let told = readiness.json();
        assert_eq!(told["pairs"][0]["why"], Value::Null);
        assert_eq!((&told["pairs"][1]["fresh"], &told["ready"]), (&json!(false), &json!(false)));
        assert!(judge(vec![pair(None)]).in_words().starts_with("yes"));
    }

    #[test]
    fn hours_are_worked_out_anew_each_day_and_where_the_clock_was_set_back() {
        let config = crate::config::load(None, &BTreeMap::new(), &Default::default()).unwrap();
        let expected = Watched::of(&config).expected(NOW);
        assert_eq!((expected.pairs.len(), expected.timeframes.len(), expected.hours.len()), (28, 2, 1));
        for (later_s, outdated) in
            [(0, false), (DAY_S - 1, false), (DAY_S, true), (-DAY_S, true), (-60, false)]
        {
            assert_eq!(is_outdated(expected.hours_to, NOW.plus(later_s)), outdated, "{later_s}");
        }
        let hours = &expected.hours["forex"];
        assert!(hours.first().unwrap().start <= NOW.plus(-HOURS_BACK_S + 3 * DAY_S));
        assert!(hours.last().unwrap().end >= NOW.plus(HOURS_AHEAD_S - 3 * DAY_S));
        assert!(hours.windows(2).all(|two| two[0].end < two[1].start), "{hours:?}");
    }
}
