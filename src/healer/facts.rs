//! What an answer of REST's tells the ledger. Pure.

use std::ops::Range;

use crate::domain::{Calendar, Expectation, Fact, Fetched, Mark, Pair, Reason, State, Timeframe, Timestamp};

/// Buckets younger than this IG is sure to have history of, if they had a price, seconds: its
/// 5-minute history is reported to reach weeks back at least.
const HISTORY_SURE_S: i64 = 14 * 86_400;
/// An hour without any price at the beginning of an old answer is the beginning of IG's history.
const BARE_HOUR_S: i64 = 3_600;

/// What is known besides the answer.
pub struct Reading<'a> {
    /// The pair's hours.
    pub calendar: &'a Calendar,
    /// Event time.
    pub now: Timestamp,
}

/// What an answer tells: its bars; the buckets it speaks of and has no bar for are quiet (or
/// closed), and a bar with a null price stays missing. Where IG's history seems to begin only
/// within the answer, what lies before is lost.
pub fn facts(pair: Pair, timeframe: Timeframe, fetched: &Fetched, reading: &Reading<'_>) -> Vec<Fact> {
    let step = timeframe.seconds();
    let mut facts = Vec::new();
    let mut bare_from = fetched.covered.start;
    let mark = |facts: &mut Vec<Fact>, span: Range<Timestamp>, state, reason| {
        if span.start < span.end {
            facts.push(Fact::Marked(Mark { pair, timeframe, span, state, reason }));
        }
    };
    let bare = |facts: &mut Vec<Fact>, span: Range<Timestamp>| {
        let (state, reason) = if begins_history(&span, fetched, reading) {
            (State::Lost, Reason::NoHistory)
        } else {
            (State::Quiet, Reason::NotInRest)
        };
        if timeframe != Timeframe::M5 {
            // The calendar speaks of 5-minute buckets; a longer one without a bar is just quiet.
            return mark(facts, span, state, reason);
        }
        for (run, expectation) in reading.calendar.runs(span) {
            match expectation {
                Expectation::Closed => mark(facts, run, State::Closed, Reason::Calendar),
                _ => mark(facts, run, state, reason),
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

/// Whether a stretch without bars is one that IG has no history of, and not one without prices.
fn begins_history(span: &Range<Timestamp>, fetched: &Fetched, reading: &Reading<'_>) -> bool {
    // That an older bar is stored says nothing: it may have been streamed then.
    if span.start != fetched.covered.start || reading.now.since(span.end) < HISTORY_SURE_S {
        return false;
    }
    let expected = reading.calendar.runs(span.clone()).into_iter();
    let expected = expected.filter(|(_, expectation)| *expectation == Expectation::Expected);
    let bare_s: i64 = expected.map(|(run, _)| run.end.since(run.start)).sum();
    bare_s >= if fetched.rows.is_empty() { 1 } else { BARE_HOUR_S }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregator::testing::bar;
    use crate::domain::FetchedBar;

    const NOON: Timestamp = Timestamp(1_579_089_600); // a Wednesday

    fn at(bucket: i64) -> Timestamp {
        NOON.plus(bucket * 300)
    }

    fn pair() -> Pair {
        "EURUSD".parse().unwrap()
    }

    /// What an answer with these rows, whole or with a null, over 14 buckets tells.
    fn check(rows: &[(i64, bool)], age_s: i64, expected: &[&str]) {
        let row = |(bucket, whole): &(i64, bool)| FetchedBar {
            start: at(*bucket),
            local_offset_s: None,
            bar: whole.then(|| bar("EURUSD", at(*bucket).0, "1.1")),
        };
        let fetched = Fetched {
            rows: rows.iter().map(row).collect(),
            covered: at(0)..at(14),
            asked: at(0)..at(14),
            evidence: "rest:1".into(),
        };
        let reading = Reading { calendar: &Calendar::forex(), now: at(14).plus(age_s) };
        let told: Vec<String> = facts(pair(), Timeframe::M5, &fetched, &reading)
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
        assert_eq!(told, expected, "{rows:?} {age_s}");
    }

    #[test]
    fn an_answer_tells_bars_quiet_buckets_and_null_legs() {
        check(
            &[(0, true), (1, false), (4, true)],
            0,
            &["bar 0", "missing null_leg 1..2", "quiet not_in_rest 2..4", "bar 4", "quiet not_in_rest 5..14"],
        );
    }

    #[test]
    fn what_lies_before_the_broker_s_history_is_lost_and_not_quiet() {
        let (young, old) = (86_400, 30 * 86_400);
        check(&[], young, &["quiet not_in_rest 0..14"]);
        check(&[], old, &["lost no_history 0..14"]);
        check(&[(13, true)], young, &["quiet not_in_rest 0..13", "bar 13"]);
        check(&[(13, true)], old, &["lost no_history 0..13", "bar 13"]);
        check(&[(11, true)], old, &["quiet not_in_rest 0..11", "bar 11", "quiet not_in_rest 12..14"]);
    }
}
