//! The ledger's invariant: every bucket of every watched pair is accounted for exactly once, and
//! what is stored is what the ledger says is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::aggregator::rollup::{Slot, fold};
use crate::domain::coverage::{Run, has_no_bar};
use crate::domain::{Bar, Pair, Source, State, Timeframe, Timestamp};
use crate::exit::Failure;
use crate::store::{BarQuery, IMPORT_EVIDENCE, Store, WatchedFeed};

/// Violations that are told; more are counted.
pub const TOLD_MAX: usize = 50;
/// Bars are compared with their parts in stretches of so many seconds, whole days.
const STRETCH_S: i64 = 30 * 86_400;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// 5-minute buckets by state.
    pub buckets: BTreeMap<&'static str, u64>,
    /// Bars of all lengths that were looked at.
    pub bars: u64,
    /// What does not hold, at most [`TOLD_MAX`] of it.
    pub violations: Vec<String>,
    /// How often something does not hold.
    pub count: u64,
}

impl Verdict {
    fn violated(&mut self, what: String) {
        self.count += 1;
        if self.violations.len() < TOLD_MAX {
            self.violations.push(what);
        }
    }
}

/// Looks at the whole database.
///
/// # Errors
/// When it cannot be read.
pub fn verify(store: &mut Store) -> Result<Verdict, Failure> {
    let mut verdict = Verdict::default();
    let feeds = store.feeds()?;
    let mut keys: BTreeSet<(Pair, Timeframe)> = store.known_keys()?.into_iter().collect();
    keys.extend(feeds.iter().map(|watched| (watched.feed.pair, Timeframe::M5)));
    for (pair, timeframe) in keys {
        let everything = Timestamp(i64::MIN)..Timestamp(i64::MAX);
        let runs = store.coverage(pair, timeframe, everything)?;
        let starts: BTreeSet<Timestamp> = store.bar_starts(pair, timeframe)?.into_iter().collect();
        verdict.bars += starts.len() as u64;
        let watched = watched(&feeds, pair);
        let asked = asked(store, pair, timeframe)?;
        let kept_from = store.deleted_before(timeframe)?.unwrap_or(Timestamp(i64::MIN));
        let excuses = Excuses { watched: &watched, asked: &asked, kept_from };
        ledger(&mut verdict, pair, timeframe, &runs, &starts, excuses);
        if timeframe != Timeframe::M5 {
            parts(&mut verdict, store, pair, timeframe, kept_from)?;
        }
    }
    Ok(verdict)
}

/// When a pair was watched.
fn watched(feeds: &[WatchedFeed], pair: Pair) -> Vec<Range<Timestamp>> {
    let of_pair = feeds.iter().filter(|watched| watched.feed.pair == pair);
    let mut spans: Vec<Range<Timestamp>> = of_pair
        .map(|watched| watched.watched_from..watched.watched_to.unwrap_or(Timestamp(i64::MAX)))
        .collect();
    spans.sort_by_key(|span| span.start);
    spans
}

/// Stretches that somebody asked for by hand.
fn asked(store: &mut Store, pair: Pair, timeframe: Timeframe) -> Result<Vec<Range<Timestamp>>, Failure> {
    let requests = store.requests_of(pair, timeframe)?;
    let step = timeframe.seconds();
    Ok(requests.iter().map(|request| request.span.start.floor(step)..request.span.end.ceil(step)).collect())
}

/// The buckets of a span, in runs, that were watched from their beginning to their end.
fn watched_part(span: &Range<Timestamp>, watched: &[Range<Timestamp>], step: i64) -> Vec<Range<Timestamp>> {
    let mut parts: Vec<Range<Timestamp>> = Vec::new();
    for watched in watched {
        let part = watched.start.max(span.start).ceil(step)..watched.end.min(span.end).floor(step);
        match parts.last_mut() {
            _ if part.start >= part.end => {}
            Some(last) if part.start <= last.end => last.end = last.end.max(part.end),
            _ => parts.push(part),
        }
    }
    parts
}

/// What the ledger need not say anything of.
#[derive(Clone, Copy)]
struct Excuses<'a> {
    /// All but these times, where there are any.
    watched: &'a [Range<Timestamp>],
    /// What lies beside stretches that were asked for by hand.
    asked: &'a [Range<Timestamp>],
    /// What is older and was deleted.
    kept_from: Timestamp,
}

/// Holds the runs of one pair and timeframe against each other and against the stored bars.
fn ledger(
    verdict: &mut Verdict,
    pair: Pair,
    timeframe: Timeframe,
    runs: &[Run],
    starts: &BTreeSet<Timestamp>,
    Excuses { watched, asked, kept_from }: Excuses<'_>,
) {
    let step = timeframe.seconds();
    for run in runs {
        let Range { start, end } = run.span;
        if start >= end || start.floor(step) != start || end.floor(step) != end {
            verdict.violated(format!("{pair} {timeframe}: a run from {start} to {end} is not on the grid"));
            continue;
        }
        if timeframe == Timeframe::M5 {
            *verdict.buckets.entry(run.state.as_str()).or_default() += (end.since(start) / step) as u64;
        }
        let inside = starts.range(start..end).count() as i64;
        match run.state {
            State::Stored if inside != end.since(start) / step => verdict.violated(format!(
                "{pair} {timeframe}: of {} buckets stored from {start} to {end} {inside} have bars",
                end.since(start) / step
            )),
            State::Quiet | State::Closed | State::Missing | State::Lost if inside != 0 => {
                verdict.violated(format!(
                    "{pair} {timeframe}: {inside} bars lie from {start} to {end}, which is called {} ({})",
                    run.state, run.reason
                ));
            }
            _ => {}
        }
    }
    let mut holes = Vec::new();
    for two in runs.windows(2) {
        let hole = two[0].span.end..two[1].span.start;
        if hole.start > hole.end {
            verdict.violated(format!("{pair} {timeframe}: two things are said of {}", hole.end));
        }
        holes.push(hole);
    }
    // Of longer buckets the ledger need not say anything.
    if timeframe == Timeframe::M5
        && let (Some(first), Some(last)) = (runs.first(), runs.last())
    {
        // Between a stretch that was asked for by hand and others nobody need have watched.
        let is_beside_asked = |hole: &Range<Timestamp>| {
            asked.iter().any(|span| span.contains(&hole.start.plus(-step)) || span.contains(&hole.end))
        };
        // Where all of the watching lies behind the ledger's end, the ledger is one of a simulated
        // market, whose time is another: then nothing excuses a hole, and its beginning is unknown.
        if let Some(since) = watched.first().filter(|span| span.start < last.span.end) {
            holes.insert(0, since.start..first.span.start);
            holes = holes.iter().flat_map(|hole| watched_part(hole, watched, step)).collect();
        } else {
            holes.retain(|hole| !is_beside_asked(hole) && !is_beside_import(runs, hole));
        }
        holes.iter_mut().for_each(|hole| hole.start = hole.start.max(kept_from));
        for hole in holes.iter().filter(|hole| hole.start < hole.end) {
            verdict.violated(format!("{pair} 5: nothing is said of {} to {}", hole.start, hole.end));
        }
    }
    for start in starts {
        let next = runs.partition_point(|run| run.span.start <= *start);
        let known = next.checked_sub(1).is_some_and(|place| runs[place].span.contains(start));
        if !known {
            verdict.violated(format!("{pair} {timeframe}: the bar of {start} is not in the ledger"));
        }
    }
}

/// Whether a hole adjoins bars of a user's file, which does not say why it lacks others.
fn is_beside_import(runs: &[Run], hole: &Range<Timestamp>) -> bool {
    let next = runs.partition_point(|run| run.span.start < hole.end);
    let beside = [next.checked_sub(1).and_then(|before| runs.get(before)), runs.get(next)];
    beside.into_iter().flatten().any(|run| run.evidence.starts_with(IMPORT_EVIDENCE))
}

/// Holds longer bars against their parts: derived where all of these are known, and equal to them.
fn parts(
    verdict: &mut Verdict,
    store: &mut Store,
    pair: Pair,
    timeframe: Timeframe,
    kept_from: Timestamp,
) -> Result<(), Failure> {
    let all = Timestamp(i64::MIN)..Timestamp(i64::MAX);
    let runs = store.coverage(pair, Timeframe::M5, all)?;
    let (Some(first), Some(last)) = (runs.first(), runs.last()) else { return Ok(()) };
    let known = first.span.start.ceil(timeframe.seconds())..last.span.end.floor(timeframe.seconds());
    let mut from = known.start.max(kept_from.ceil(timeframe.seconds()));
    while from < known.end {
        let to = from.plus(STRETCH_S).min(known.end);
        let mut read = |timeframe| {
            let query = BarQuery { from: Some(from), to: Some(to), count: None };
            let bars = store.bars(pair, timeframe, &query)?;
            Ok::<_, Failure>(
                bars.into_iter().map(|stored| (stored.bar.key.start, stored.bar)).collect::<BTreeMap<_, _>>(),
            )
        };
        let (short, long) = (read(Timeframe::M5)?, read(timeframe)?);
        compare(verdict, timeframe, from..to, &runs, &short, &long, pair);
        from = to;
    }
    Ok(())
}

fn compare(
    verdict: &mut Verdict,
    timeframe: Timeframe,
    span: Range<Timestamp>,
    runs: &[Run],
    short: &BTreeMap<Timestamp, Bar>,
    long: &BTreeMap<Timestamp, Bar>,
    pair: Pair,
) {
    let state = |time: Timestamp| {
        let next = runs.partition_point(|run| run.span.start <= time);
        next.checked_sub(1)
            .map(|place| &runs[place])
            .filter(|run| run.span.contains(&time))
            .map(|run| (run.state, run.reason))
    };
    for start in (span.start.0..span.end.0).step_by(timeframe.seconds() as usize).map(Timestamp) {
        let slots: Vec<Slot<'_>> = (start.0..start.plus(timeframe.seconds()).0)
            .step_by(Timeframe::M5.seconds() as usize)
            .map(|slot| match (state(Timestamp(slot)), short.get(&Timestamp(slot))) {
                (Some((State::Stored, _)), Some(bar)) => Slot::Bar(bar),
                (Some((state, reason)), None) if has_no_bar(state, reason) => Slot::NoBar,
                _ => Slot::Unknown,
            })
            .collect();
        match (fold(timeframe, start, &slots), long.get(&start)) {
            (Some(_), None) => {
                verdict.violated(format!(
                    "{pair} {timeframe}: the bar of {start} is missing although its parts are known"
                ));
            }
            // What the broker itself said of the longer bucket stands (rule of truth 4).
            (Some(folded), Some(bar)) if bar.source == Source::Derived && !folded.same_values(bar) => {
                verdict
                    .violated(format!("{pair} {timeframe}: the bar of {start} is not the fold of its parts"));
            }
            (None, Some(bar)) if bar.source == Source::Derived => {
                verdict.violated(format!(
                    "{pair} {timeframe}: the bar of {start} is derived from parts that are not known"
                ));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Reason;

    const STEP: i64 = 300;

    fn pair() -> Pair {
        "EURUSD".parse().unwrap()
    }

    /// Runs as text: a letter a bucket, `.` where nothing is said. Bars: `x` where there is one.
    fn check(runs: &str, bars: &str, watched: &[(i64, i64)]) -> Vec<String> {
        check_kept(0, runs, bars, watched)
    }

    /// The same where what is older than a bucket was deleted.
    fn check_kept(kept_from: i64, runs: &str, bars: &str, watched: &[(i64, i64)]) -> Vec<String> {
        let mut known: Vec<Run> = Vec::new();
        for (place, letter) in runs.chars().enumerate() {
            let (state, reason) = match letter {
                's' | 'i' => (State::Stored, Reason::Settled),
                'q' => (State::Quiet, Reason::LaterRow),
                'm' => (State::Missing, Reason::Offline),
                _ => continue,
            };
            let start = Timestamp(place as i64 * STEP);
            let evidence = if letter == 'i' { "import:a.csv" } else { "e" };
            let run = Run { span: start..start.plus(STEP), state, reason, evidence: evidence.into() };
            match known.last_mut() {
                Some(last)
                    if (last.state, &last.evidence, last.span.end) == (state, &run.evidence, start) =>
                {
                    last.span.end = run.span.end;
                }
                _ => known.push(run),
            }
        }
        let starts = bars.chars().enumerate().filter(|(_, letter)| *letter == 'x');
        let starts = starts.map(|(place, _)| Timestamp(place as i64 * STEP)).collect();
        let watched: Vec<_> =
            watched.iter().map(|(from, to)| Timestamp(from * STEP)..Timestamp(to * STEP)).collect();
        let mut verdict = Verdict::default();
        let excuses = Excuses { watched: &watched, asked: &[], kept_from: Timestamp(kept_from * STEP) };
        ledger(&mut verdict, pair(), Timeframe::M5, &known, &starts, excuses);
        verdict.violations
    }

    #[test]
    fn a_sound_ledger_passes() {
        assert_eq!(check("ssqmss", "xx..xx", &[(0, 9)]), [""; 0]);
        assert_eq!(check("ss..ss", "xx..xx", &[(0, 2), (4, 9)]), [""; 0], "not watched for a while");
        assert_eq!(check("mmss", "..xx", &[(3, 9)]), [""; 0], "history from before");
        assert_eq!(check("..ss", "..xx", &[(90, 99)]), [""; 0], "a simulated market begins where it does");
    }

    #[test]
    fn what_was_not_watched_excuses_itself_alone() {
        let told = check("s......s", "x......x", &[(0, 2), (3, 4), (4, 6), (7, 9)]);
        let said = |from: &str, to: &str| {
            format!("EUR_USD 5: nothing is said of 1970-01-01T00:{from}:00Z to 1970-01-01T00:{to}:00Z")
        };
        assert_eq!(told, [said("05", "10"), said("15", "30")]);
    }

    #[test]
    fn what_was_deleted_for_its_age_is_no_hole() {
        assert_eq!(check_kept(2, "..ss", "..xx", &[(0, 9)]), [""; 0]);
        assert_eq!(check_kept(2, ".sss", ".xxx", &[(0, 9)]), [""; 0], "not all of it yet");
        assert_eq!(check_kept(2, "...s", "...x", &[(0, 9)]).len(), 1);
        assert_eq!(check_kept(2, "..ss", ".xxx", &[(0, 9)]).len(), 1, "a bar was left");
    }

    #[test]
    fn a_file_need_not_say_what_it_lacks_unless_the_pair_was_watched() {
        assert_eq!(check("ii.i..i", "xx.x..x", &[]), [""; 0], "never watched");
        assert_eq!(check("i..ss", "x..xx", &[(3, 9)]), [""; 0], "from before");
        assert_eq!(check("i.i", "x.x", &[(90, 99)]), [""; 0]);
        assert_eq!(check("ss..i", "xx..x", &[(0, 9)]).len(), 1, "within the time watched");
        assert_eq!(check("s.si.i", "x.xx.x", &[]).len(), 1, "beside others");
    }

    #[test]
    fn whatever_does_not_hold_is_told() {
        let told = check("ss.s", "xx.x", &[(90, 99)]);
        assert!(told.len() == 1 && told[0].contains("nothing is said"), "a simulated market: {told:?}");
        for (runs, bars, expected) in [
            ("sss.s", "xxx.x", "nothing is said of 1970-01-01T00:15:00Z to 1970-01-01T00:20:00Z"),
            ("ss.s", "xx.x", "nothing is said of 1970-01-01T00:10:00Z to 1970-01-01T00:15:00Z"),
            ("..ss", "..xx", "nothing is said of 1970-01-01T00:00:00Z to 1970-01-01T00:10:00Z"),
            (
                "ssss",
                "xx.x",
                "of 4 buckets stored from 1970-01-01T00:00:00Z to 1970-01-01T00:20:00Z 3 have bars",
            ),
            (
                "sqs",
                "xxx",
                "1 bars lie from 1970-01-01T00:05:00Z to 1970-01-01T00:10:00Z, which is called quiet",
            ),
            ("sm", "xx", "which is called missing (offline)"),
            ("ss", "xxx", "the bar of 1970-01-01T00:10:00Z is not in the ledger"),
        ] {
            let told = check(runs, bars, &[(0, 9)]);
            assert!(told.len() == 1 && told[0].contains(expected), "{runs} {bars}: {told:?}");
        }
    }
}
