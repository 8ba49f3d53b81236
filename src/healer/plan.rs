//! What to ask of REST next, and what an answer tells. Pure.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::domain::coverage::Run;
use crate::domain::{
    Calendar, Expectation, Fact, FeedIx, Fetched, Mark, Pair, Reason, State, Timeframe, Timestamp,
};

/// Bars asked for in one request: larger ones have been refused, and charged, on some accounts.
pub const BARS_PER_REQUEST_MAX: u32 = 400;
/// Holes younger than this may use the reserve of points, seconds.
const URGENT_S: i64 = 24 * 3600;
/// A bucket called silent so long ago is no longer watched over by its subscription, seconds.
const SILENT_FOR_LONG_S: i64 = 3600;
/// Times that REST is asked for a bar which it has with a null price.
const NULL_LEG_TRIES_MAX: u32 = 8;
/// First pause after a hole was asked for and nothing came of it; doubles up to the last.
const RETRY_FIRST: Duration = Duration::from_secs(60);
const RETRY_LAST: Duration = Duration::from_secs(24 * 3600);
/// Holes whose failures are remembered; beyond, all are forgotten and may be asked again.
const ATTEMPTS_MAX: usize = 20_000;

/// A contiguous run of buckets that REST may fill.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Hole {
    /// Which feed.
    pub feed: FeedIx,
    /// Bucket length.
    pub timeframe: Timeframe,
    /// First bucket's start to the end of the last.
    pub span: Range<Timestamp>,
    /// What it is about, where that decides how it is healed.
    pub kind: Kind,
}

/// What decides how a hole is healed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// History from before the first connection, which leaves the reserve of points alone.
    Backfill,
    /// REST has the bar with a null price: asked for a few times, not for ever.
    NullLeg,
    /// The stream has shown its candle: that REST lacks the bar would prove nothing.
    Seen,
    /// Anything else.
    Lost,
}

impl Kind {
    fn of(reason: Reason) -> Kind {
        match reason {
            Reason::FirstStart => Kind::Backfill,
            Reason::NullLeg => Kind::NullLeg,
            Reason::UnconfirmedClose => Kind::Seen,
            _ => Kind::Lost,
        }
    }

    /// What both are together, if one request may ask for both.
    fn with(self, next: Kind) -> Option<Kind> {
        match (self, next) {
            (one, other) if one == other => Some(one),
            (Kind::Seen, Kind::Lost) | (Kind::Lost, Kind::Seen) => Some(Kind::Lost),
            _ => None,
        }
    }
}

impl Hole {
    /// Whether the reserve may be spent on it: it was lost within the last day.
    pub fn is_urgent(&self, event_now: Timestamp) -> bool {
        self.kind != Kind::Backfill && event_now.since(self.span.start) <= URGENT_S
    }
}

/// Whether REST should be asked about a run. A silent bucket waits for its proof: most are quiet,
/// and the stream tells for free. One that has waited for long waits for a subscription that is
/// no more, as after a restart.
fn may_ask(run: &Run, now: Timestamp) -> bool {
    match run.reason {
        Reason::Silent => now.since(run.span.end) >= SILENT_FOR_LONG_S,
        _ => true,
    }
}

/// Joins the ledger's missing runs of one timeframe into holes, newest first.
pub fn holes(
    missing: &[(Pair, Run)],
    timeframe: Timeframe,
    now: Timestamp,
    feed_of: impl Fn(Pair) -> Option<FeedIx>,
) -> Vec<Hole> {
    let mut holes: Vec<Hole> = Vec::new();
    let mut runs: Vec<(FeedIx, &Run)> = missing
        .iter()
        .filter(|(_, run)| may_ask(run, now))
        .filter_map(|(pair, run)| Some((feed_of(*pair)?, run)))
        .collect();
    runs.sort_by_key(|(feed, run)| (*feed, run.span.start));
    for (feed, run) in runs {
        let kind = Kind::of(run.reason);
        if let Some(last) = holes.last_mut()
            && last.feed == feed
            && last.span.end == run.span.start
            && let Some(together) = last.kind.with(kind)
        {
            (last.span.end, last.kind) = (run.span.end, together);
        } else {
            holes.push(Hole { feed, timeframe, span: run.span.clone(), kind });
        }
    }
    holes.sort_by_key(|hole| (std::cmp::Reverse(hole.span.end), hole.feed));
    holes
}

/// Failures per hole: one that did not shrink when asked about waits before it is asked again.
#[derive(Debug, Default)]
pub struct Attempts {
    made: HashMap<Hole, (u32, Instant)>,
}

impl Attempts {
    /// The hole is being asked about.
    pub fn note(&mut self, hole: &Hole, now: Instant) {
        if self.made.len() >= ATTEMPTS_MAX {
            self.made.clear();
        }
        let (times, not_before) = self.made.entry(hole.clone()).or_insert((0, now));
        let pause = RETRY_FIRST.saturating_mul(1 << (*times).min(11)).min(RETRY_LAST);
        (*times, *not_before) = (*times + 1, now + pause);
    }

    fn allows(&self, hole: &Hole, now: Instant) -> bool {
        self.made.get(hole).is_none_or(|(times, not_before)| {
            now >= *not_before && !(hole.kind == Kind::NullLeg && *times >= NULL_LEG_TRIES_MAX)
        })
    }
}

/// The first hole that may be asked about now, cut to what one request may hold (its newest
/// part). `calendars`: the hours of each feed's market, by [`FeedIx`].
pub fn next(
    holes: &[Hole],
    attempts: &Attempts,
    calendars: &[Arc<Calendar>],
    event_now: Timestamp,
    now: Instant,
) -> Option<Hole> {
    holes
        .iter()
        .map(|hole| {
            // Only buckets in which the market trades count.
            let buckets = BARS_PER_REQUEST_MAX as usize * (hole.timeframe.minutes() / 5) as usize;
            let longest =
                calendars[hole.feed.ix()].back_from(hole.span.end, buckets).floor(hole.timeframe.seconds());
            Hole { span: hole.span.start.max(longest)..hole.span.end, ..hole.clone() }
        })
        .find(|hole| hole.span.end <= hole.timeframe.bucket(event_now) && attempts.allows(hole, now))
}

/// What an answer tells: its bars; the buckets it speaks of and has no bar for are quiet (or
/// closed), and a bar with a null price stays missing.
pub fn facts(pair: Pair, timeframe: Timeframe, fetched: &Fetched, calendar: &Calendar) -> Vec<Fact> {
    let step = timeframe.seconds();
    let mut facts = Vec::new();
    let mut bare_from = fetched.covered.start;
    let mark = |facts: &mut Vec<Fact>, span: Range<Timestamp>, state, reason| {
        if span.start < span.end {
            facts.push(Fact::Marked(Mark { pair, timeframe, span, state, reason }));
        }
    };
    let bare = |facts: &mut Vec<Fact>, span: Range<Timestamp>| {
        if timeframe != Timeframe::M5 {
            // The calendar speaks of 5-minute buckets; a longer one without a bar is just quiet.
            return mark(facts, span, State::Quiet, Reason::NotInRest);
        }
        for (run, expectation) in calendar.runs(span) {
            match expectation {
                Expectation::Closed => mark(facts, run, State::Closed, Reason::Calendar),
                _ => mark(facts, run, State::Quiet, Reason::NotInRest),
            }
        }
    };
    for row in &fetched.rows {
        bare(&mut facts, bare_from..row.start);
        match row.bar {
            Some(bar) => facts.push(Fact::Settled(bar)),
            None => facts.push(Fact::Marked(Mark {
                pair,
                timeframe,
                span: row.start..row.start.plus(step),
                state: State::Missing,
                reason: Reason::NullLeg,
            })),
        }
        bare_from = row.start.plus(step);
    }
    bare(&mut facts, bare_from..fetched.covered.end);
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregator::testing::bar;
    use crate::clock::Clock;
    use crate::domain::FetchedBar;

    const NOON: Timestamp = Timestamp(1_579_089_600); // a Wednesday

    fn at(bucket: i64) -> Timestamp {
        NOON.plus(bucket * 300)
    }

    fn run(from: i64, to: i64, reason: Reason) -> Run {
        Run { span: at(from)..at(to), state: State::Missing, reason, evidence: "e".into() }
    }

    fn pair() -> Pair {
        "EURUSD".parse().unwrap()
    }

    fn found(runs: &[Run]) -> Vec<(i64, i64)> {
        let missing: Vec<_> = runs.iter().map(|run| (pair(), run.clone())).collect();
        let bucket = |time: Timestamp| time.since(NOON) / 300;
        let feed = |_| Some(FeedIx(0));
        holes(&missing, Timeframe::M5, at(10), feed)
            .iter()
            .map(|h| (bucket(h.span.start), bucket(h.span.end)))
            .collect()
    }

    #[test]
    fn touching_runs_are_one_hole_and_the_newest_comes_first() {
        assert_eq!(
            found(&[
                run(0, 2, Reason::Offline),
                run(2, 3, Reason::UnconfirmedClose),
                run(5, 6, Reason::Stale)
            ]),
            [(5, 6), (0, 3)]
        );
    }

    #[test]
    fn silence_is_not_asked_about() {
        assert_eq!(found(&[run(0, 2, Reason::Silent), run(2, 3, Reason::Disconnected)]), [(2, 3)]);
        assert_eq!(found(&[run(-3, -2, Reason::Silent)]), [(-3, -2)], "nobody waits for its proof any more");
    }

    #[test]
    fn what_a_doubt_about_the_scale_cost_is_asked_about() {
        assert_eq!(found(&[run(0, 2, Reason::ScaleInDoubt)]), [(0, 2)]);
    }

    fn planned(from: i64, to: i64, now: i64) -> Option<(i64, i64)> {
        let hole =
            Hole { feed: FeedIx(0), timeframe: Timeframe::M5, span: at(from)..at(to), kind: Kind::Lost };
        let clock = Clock::system().monotonic();
        let bucket = |time: Timestamp| time.since(NOON) / 300;
        next(&[hole], &Attempts::default(), &[Arc::new(Calendar::forex())], at(now), clock)
            .map(|hole| (bucket(hole.span.start), bucket(hole.span.end)))
    }

    #[test]
    fn a_hole_that_has_not_ended_waits() {
        assert_eq!(planned(-3, 1, 0), None);
        assert_eq!(planned(-3, 0, 0), Some((-3, 0)));
    }

    #[test]
    fn only_what_was_lost_within_a_day_may_use_the_reserve() {
        let hole =
            |from: i64, kind| Hole { feed: FeedIx(0), timeframe: Timeframe::M5, span: at(from)..at(0), kind };
        assert!(hole(-288, Kind::Lost).is_urgent(at(0)));
        assert!(!hole(-289, Kind::Lost).is_urgent(at(0)));
        assert!(!hole(-3, Kind::Backfill).is_urgent(at(0)));
    }

    #[test]
    fn a_null_price_is_asked_for_eight_times() {
        let hole =
            Hole { feed: FeedIx(0), timeframe: Timeframe::M5, span: at(-1)..at(0), kind: Kind::NullLeg };
        let (mut attempts, start) = (Attempts::default(), Clock::system().monotonic());
        let later = start + RETRY_LAST;
        (0..NULL_LEG_TRIES_MAX - 1).for_each(|_| attempts.note(&hole, start));
        assert!(attempts.allows(&hole, later));
        attempts.note(&hole, start);
        assert!(!attempts.allows(&hole, later));
    }

    #[test]
    fn a_long_hole_is_asked_in_parts_from_its_newest() {
        assert_eq!(planned(-500, -50, 0), Some((-450, -50)));
    }

    #[test]
    fn the_weekend_counts_for_nothing() {
        let friday = 2 * 288 + 119; // 21:55
        let monday = friday + 1 + 3 * 288;
        assert_eq!(planned(friday, monday, monday), Some((friday, monday)));
    }

    #[test]
    fn what_the_stream_has_shown_is_asked_for_with_its_neighbours_and_alone_is_no_proof() {
        let run = |from: i64, to: i64, reason| {
            let span = at(from)..at(to);
            (pair(), Run { span, state: State::Missing, reason, evidence: "e".into() })
        };
        let kinds = |runs: &[(Pair, Run)]| {
            let told = holes(runs, Timeframe::M5, at(99), |_| Some(FeedIx(0)));
            told.into_iter().map(|hole| (hole.span.start, hole.kind)).collect::<Vec<_>>()
        };
        let (seen, lost) = (run(0, 1, Reason::UnconfirmedClose), run(1, 3, Reason::Disconnected));
        assert_eq!(kinds(std::slice::from_ref(&seen)), [(at(0), Kind::Seen)]);
        assert_eq!(kinds(&[seen.clone(), lost]), [(at(0), Kind::Lost)], "one request");
        let null = run(1, 2, Reason::NullLeg);
        assert_eq!(kinds(&[seen, null]), [(at(1), Kind::NullLeg), (at(0), Kind::Seen)]);
    }

    #[test]
    fn a_hole_that_did_not_shrink_waits_longer_each_time() {
        let hole = Hole { feed: FeedIx(0), timeframe: Timeframe::M5, span: at(-3)..at(0), kind: Kind::Lost };
        let mut attempts = Attempts::default();
        let start = Clock::system().monotonic();
        let calendars = [Arc::new(Calendar::forex())];
        let due = |attempts: &Attempts, s: u64| {
            next(std::slice::from_ref(&hole), attempts, &calendars, at(0), start + Duration::from_secs(s))
                .is_some()
        };
        assert!(due(&attempts, 0));
        attempts.note(&hole, start);
        assert!(!due(&attempts, 59) && due(&attempts, 60));
        attempts.note(&hole, start + Duration::from_secs(60));
        assert!(!due(&attempts, 179) && due(&attempts, 180));
        (0..100).for_each(|_| attempts.note(&hole, start));
        assert!(!due(&attempts, 24 * 3600 - 1) && due(&attempts, 24 * 3600));
    }

    #[test]
    fn an_answer_tells_bars_quiet_buckets_and_null_legs() {
        let row = |bucket: i64, whole: bool| FetchedBar {
            start: at(bucket),
            local_offset_s: None,
            bar: whole.then(|| bar("EURUSD", at(bucket).0, "1.1")),
        };
        let fetched = Fetched {
            rows: vec![row(0, true), row(1, false), row(4, true)],
            covered: at(0)..at(6),
            evidence: "rest:1".into(),
        };
        let told: Vec<String> = facts(pair(), Timeframe::M5, &fetched, &Calendar::forex())
            .iter()
            .map(|fact| match fact {
                Fact::Settled(bar) => format!("bar {}", bar.key.start.since(NOON) / 300),
                Fact::Marked(mark) => format!(
                    "{} {} {}..{}",
                    mark.state,
                    mark.reason,
                    mark.span.start.since(NOON) / 300,
                    mark.span.end.since(NOON) / 300
                ),
            })
            .collect();
        assert_eq!(
            told,
            ["bar 0", "missing null_leg 1..2", "quiet not_in_rest 2..4", "bar 4", "quiet not_in_rest 5..6"]
        );
    }
}
