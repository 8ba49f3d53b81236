//! Stretches that somebody wants fetched, in the ledger's words. Pure.

use std::fmt;
use std::ops::Range;

use super::holes::without;
use crate::domain::coverage::Run;
use crate::domain::{Calendar, Expectation, Mark, Pair, Reason, State, Timeframe, Timestamp};
use crate::store::{REOPENED_KEPT_S, Reopened};

/// The longest stretch that is taken, seconds: IG's deepest history of minutes is reported to reach
/// back a year or two.
const STRETCH_MAX_S: i64 = 3 * 366 * 86_400;

/// A stretch in which lost buckets were reopened is not reopened again for so long, seconds: each time
/// costs points, and what could not be had is no likelier to be had at once.
pub const REOPENED_FOR_S: i64 = REOPENED_KEPT_S;

/// The stretches of buckets in which nothing is reopened at wall time `now`: those of wishes but `own`.
pub fn resting(
    reopened: &[Reopened],
    own: Option<i64>,
    timeframe: Timeframe,
    now: Timestamp,
) -> Vec<Range<Timestamp>> {
    // A clock that was set back delays nothing for ever.
    let is_young = |one: &&Reopened| (0..REOPENED_FOR_S).contains(&now.since(one.at));
    let others = reopened.iter().filter(|one| Some(one.id) != own).filter(is_young);
    others.map(|one| buckets(&one.span, timeframe)).collect()
}

/// Why a stretch is not fetched, if so.
pub fn refusal(span: &Range<Timestamp>, timeframe: Timeframe, quarters: bool) -> Option<String> {
    if span.start >= span.end {
        return Some("it ends before it begins".to_owned());
    }
    if span.end.since(span.start) > STRETCH_MAX_S {
        return Some("it is longer than three years".to_owned());
    }
    match timeframe {
        Timeframe::M5 => None,
        Timeframe::M15 if quarters => None,
        Timeframe::M15 => Some("15-minute bars are not kept here".to_owned()),
        Timeframe::M10 | Timeframe::M30 | Timeframe::H1 => {
            Some("bars of 5 and 15 minutes are fetched, longer ones are folded from them".to_owned())
        }
    }
}

/// Why a stretch is not fetched of which a part would be deleted again, if so.
pub fn too_old(span: &Range<Timestamp>, kept_from: Timestamp) -> Option<String> {
    (span.start < kept_from).then(|| format!("retention.days keeps only what is from {kept_from} on"))
}

/// Why a stretch is not fetched of which nothing has happened yet at event time `end`, if so. A bucket under way is
/// no reason.
pub fn too_early(span: &Range<Timestamp>, timeframe: Timeframe, end: Timestamp) -> Option<String> {
    (span.start > end.plus(timeframe.seconds())).then(|| format!("{} lies in the future", span.start))
}

/// The buckets that a stretch meets.
pub fn buckets(span: &Range<Timestamp>, timeframe: Timeframe) -> Range<Timestamp> {
    span.start.floor(timeframe.seconds())..span.end.ceil(timeframe.seconds())
}

/// The whole buckets of a stretch that are over at event time `end`.
pub fn whole(span: &Range<Timestamp>, timeframe: Timeframe, end: Timestamp) -> Range<Timestamp> {
    let step = timeframe.seconds();
    let start = span.start.floor(step);
    start..span.end.ceil(step).min(end.floor(step)).max(start)
}

/// The lost buckets that are reopened, where none of those that are `resting` is.
pub fn reopened(known: &[Run], resting: &[Range<Timestamp>]) -> Vec<Run> {
    let lost = known.iter().filter(|run| run.state == State::Lost);
    lost.flat_map(|run| without(&run.span, resting).into_iter().map(|span| Run { span, ..run.clone() }))
        .collect()
}

/// What makes the ledger miss the buckets of a stretch that it does not know, or calls lost, as far as
/// these are not `resting`. That there were prices in a lost one is not forgotten.
pub fn marks(
    pair: Pair,
    timeframe: Timeframe,
    span: &Range<Timestamp>,
    known: &[Run],
    resting: &[Range<Timestamp>],
    calendar: &Calendar,
) -> Vec<Mark> {
    let step = timeframe.seconds();
    let mut marks = Vec::new();
    let mut mark = |span: Range<Timestamp>, state, reason| {
        if span.start < span.end {
            marks.push(Mark { pair, timeframe, span, state, reason });
        }
    };
    let unknown = |span: Range<Timestamp>, mark: &mut dyn FnMut(Range<Timestamp>, State, Reason)| {
        let mut from = span.start;
        for (run, expectation) in calendar.runs(span.clone()) {
            // A bucket of which a part is open is one that may have a bar.
            let end = match expectation {
                Expectation::Expected => run.end.ceil(step).min(span.end),
                Expectation::Possible | Expectation::Closed => run.end.floor(step),
            };
            let part = from..end.max(from);
            from = part.end;
            match expectation {
                Expectation::Expected => mark(part, State::Missing, Reason::Requested),
                Expectation::Possible => mark(part, State::Closed, Reason::PossiblyOpen),
                Expectation::Closed => mark(part, State::Closed, Reason::Calendar),
            }
        }
    };
    let mut from = span.start;
    for run in known {
        unknown(from..run.span.start, &mut mark);
        for lost in reopened(std::slice::from_ref(run), resting) {
            let reason = if lost.reason.had_prices() { lost.reason } else { Reason::Requested };
            mark(lost.span, State::Missing, reason);
        }
        from = run.span.end;
    }
    unknown(from..span.end, &mut mark);
    marks
}

/// What gives up the buckets that were asked for and did not come.
pub fn given_up(pair: Pair, timeframe: Timeframe, known: &[Run]) -> Vec<Mark> {
    let asked = known.iter().filter(|run| (run.state, run.reason) == (State::Missing, Reason::Requested));
    asked
        .map(|run| Mark {
            pair,
            timeframe,
            span: run.span.clone(),
            state: State::Lost,
            reason: Reason::GivenUp,
        })
        .collect()
}

/// How far the healing of a stretch has come, in buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// With a bar.
    pub stored: u64,
    /// Quiet or closed.
    pub without_bar: u64,
    /// To be asked for.
    pub missing: u64,
    /// Not to be had.
    pub lost: u64,
}

impl Progress {
    /// Counts the buckets of these runs.
    pub fn of(runs: &[Run], timeframe: Timeframe) -> Progress {
        let mut progress = Progress::default();
        for run in runs {
            let buckets = (run.span.end.since(run.span.start) / timeframe.seconds()).unsigned_abs();
            let count = match run.state {
                State::Stored => &mut progress.stored,
                State::Quiet | State::Closed => &mut progress.without_bar,
                State::Missing => &mut progress.missing,
                State::Lost => &mut progress.lost,
            };
            *count += buckets;
        }
        progress
    }
}

impl fmt::Display for Progress {
    /// `120 stored, 3 without a bar, 2 missing, 1 lost`, without what there is none of.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.stored, "stored"),
            (self.without_bar, "without a bar"),
            (self.missing, "missing"),
            (self.lost, "lost"),
        ];
        let told: Vec<String> = parts
            .iter()
            .filter(|(count, word)| *count > 0 || *word == "stored")
            .map(|(count, word)| format!("{count} {word}"))
            .collect();
        f.write_str(&told.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NOON, at, pair, runs};
    use super::*;

    fn check(timeframe: Timeframe, span: Range<Timestamp>, known: &str, expected: &[&str]) {
        let known = runs(known, timeframe);
        let told: Vec<String> = marks(pair(0), timeframe, &span, &known, &[], &Calendar::forex())
            .iter()
            .map(|mark| {
                let bucket = |time: Timestamp| time.since(NOON) / timeframe.seconds();
                format!(
                    "{} {} {}-{}",
                    mark.state,
                    mark.reason,
                    bucket(mark.span.start),
                    bucket(mark.span.end)
                )
            })
            .collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn what_is_not_known_or_lost_is_asked_for() {
        check(
            Timeframe::M5,
            at(0)..at(8),
            "ssl.qd",
            &["missing requested 2-3", "missing requested 3-4", "missing requested 6-8"],
        );
        check(Timeframe::M15, at(0)..at(9), "s", &["missing requested 1-3"]);
    }

    #[test]
    fn what_was_seen_is_reopened_as_that() {
        check(
            Timeframe::M5,
            at(0)..at(3),
            "xls",
            &["missing unconfirmed_close 0-1", "missing requested 1-2"],
        );
    }

    #[test]
    fn lost_buckets_are_reopened_once_a_day() {
        let reopened = |id, span, at| Reopened { id, span, at };
        let known = [
            reopened(1, at(4)..at(9), NOON),
            reopened(2, at(1).plus(60)..at(2).plus(-60), NOON.plus(60)),
            reopened(3, at(0)..at(1), NOON.plus(120)),
        ];
        let told = |own, now: i64| {
            let resting = resting(&known, own, Timeframe::M5, NOON.plus(now));
            let marks = marks(
                pair(0),
                Timeframe::M5,
                &(at(0)..at(8)),
                &runs("llll..ls", Timeframe::M5),
                &resting,
                &Calendar::forex(),
            );
            let bucket = |time: Timestamp| time.since(NOON) / 300;
            marks.iter().map(|mark| (bucket(mark.span.start), bucket(mark.span.end))).collect::<Vec<_>>()
        };
        let unknown = (4, 6);
        assert_eq!(told(None, 200), [(2, 4), unknown], "what is not known was never asked for");
        assert_eq!(told(Some(2), 200), [(1, 4), unknown], "a wish is not in its own way");
        assert_eq!(told(None, REOPENED_FOR_S + 59), [(2, 4), unknown, (6, 7)]);
        assert_eq!(told(None, REOPENED_FOR_S + 60), [(1, 4), unknown, (6, 7)]);
        assert_eq!(told(None, REOPENED_FOR_S + 120), [(0, 4), unknown, (6, 7)]);
        assert_eq!(told(None, -1), [(0, 4), unknown, (6, 7)], "a clock that was set back");
    }

    #[test]
    fn of_a_weekend_nothing_is_asked_for() {
        // Friday noon to Sunday midnight: ten hours, closed, the disputed hour, two hours.
        let (friday, hour) = (2 * 288, 12);
        check(
            Timeframe::M5,
            at(friday)..at(friday + 60 * hour),
            "",
            &[
                &format!("missing requested {}-{}", friday, friday + 120),
                &format!("closed calendar {}-{}", friday + 120, friday + 57 * hour),
                &format!("closed possibly_open {}-{}", friday + 57 * hour, friday + 58 * hour),
                &format!("missing requested {}-{}", friday + 58 * hour, friday + 60 * hour),
            ],
        );
    }

    #[test]
    fn only_whole_buckets_that_are_over_are_asked_for() {
        let span = at(1).plus(60)..at(3).plus(60);
        assert_eq!(whole(&span, Timeframe::M5, at(99)), at(1)..at(4));
        assert_eq!(whole(&span, Timeframe::M15, at(99)), at(0)..at(6));
        assert_eq!(whole(&span, Timeframe::M5, at(2).plus(9)), at(1)..at(2));
        assert!(whole(&span, Timeframe::M5, at(0)).is_empty());
    }

    #[test]
    fn what_cannot_be_fetched_is_refused() {
        assert_eq!(refusal(&(at(0)..at(1)), Timeframe::M5, false), None);
        assert!(refusal(&(at(1)..at(1)), Timeframe::M5, true).is_some());
        assert!(refusal(&(at(0)..at(288 * 1_200)), Timeframe::M5, true).is_some());
        assert!(refusal(&(at(0)..at(3)), Timeframe::M15, false).is_some());
        assert!(refusal(&(at(0)..at(6)), Timeframe::M30, true).is_some());
        assert_eq!(too_early(&(at(3)..at(9)), Timeframe::M5, at(2).plus(10)), None);
        assert!(too_early(&(at(4)..at(9)), Timeframe::M5, at(2).plus(10)).is_some());
        assert_eq!(too_old(&(at(1)..at(9)), at(1)), None);
        assert!(too_old(&(at(0)..at(9)), at(1)).is_some());
    }

    #[test]
    fn progress_is_told_in_buckets() {
        let progress = Progress::of(&runs("ssqcdl", Timeframe::M5), Timeframe::M5);
        assert_eq!(progress.to_string(), "2 stored, 2 without a bar, 1 missing, 1 lost");
        assert_eq!(Progress::default().to_string(), "0 stored");
        assert_eq!(given_up(pair(0), Timeframe::M5, &runs("sd", Timeframe::M5)), []);
    }
}
