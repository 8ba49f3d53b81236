//! The ledger's missing runs as holes that REST may fill. Pure.

use std::ops::Range;
use std::sync::Arc;

use super::attempts::Attempts;
use crate::domain::coverage::Run;
use crate::domain::{Calendar, Expectation, FeedIx, Pair, Reason, State, Timeframe, Timestamp};

/// A bucket called silent so long ago is no longer watched over by its subscription, seconds.
const SILENT_FOR_LONG_S: i64 = 3600;

/// One feed's part of the ledger, from its oldest missing bucket on.
#[derive(Clone, Debug)]
pub struct Page {
    /// Which feed.
    pub feed: FeedIx,
    /// Its pair.
    pub pair: Pair,
    /// Its hours.
    pub calendar: Arc<Calendar>,
    /// What is known of its 5-minute buckets, ascending and disjoint.
    pub m5: Vec<Run>,
    /// What is known of its 15-minute buckets: bars, and what is asked for.
    pub m15: Vec<Run>,
}

impl Page {
    /// The runs of one of the two lengths that REST is asked for.
    pub fn runs(&self, timeframe: Timeframe) -> &[Run] {
        if timeframe == Timeframe::M5 { &self.m5 } else { &self.m15 }
    }

    /// What is known of the bucket that starts at `start`.
    pub fn at(&self, timeframe: Timeframe, start: Timestamp) -> Option<&Run> {
        let runs = self.runs(timeframe);
        let next = runs.partition_point(|run| run.span.start <= start);
        next.checked_sub(1).map(|place| &runs[place]).filter(|run| run.span.contains(&start))
    }

    /// The missing runs of one length that meet `span`.
    pub fn missing<'a>(
        &'a self,
        timeframe: Timeframe,
        span: &'a Range<Timestamp>,
    ) -> impl Iterator<Item = &'a Run> {
        let runs = self.runs(timeframe);
        let first = runs.partition_point(|run| run.span.end <= span.start);
        runs[first..]
            .iter()
            .take_while(|run| run.span.start < span.end)
            .filter(|run| run.state == State::Missing)
    }

    /// How many buckets of one of the two lengths are missing.
    pub fn buckets_missing(&self, timeframe: Timeframe) -> u64 {
        let runs = self.runs(timeframe).iter().filter(|run| run.state == State::Missing);
        let seconds: i64 = runs.map(|run| run.span.end.since(run.span.start)).sum();
        (seconds / timeframe.seconds()).unsigned_abs()
    }

    /// Whether something of a span is still to be asked for: it is missing, or it is a longer stretch
    /// that the ledger knows nothing of while parts of it are missing.
    pub fn wants(&self, timeframe: Timeframe, span: &Range<Timestamp>) -> bool {
        let is_missing = |timeframe| self.missing(timeframe, span).next().is_some();
        let step = timeframe.seconds();
        let mut buckets = (span.start.0..span.end.0).step_by(step as usize).map(Timestamp);
        is_missing(timeframe)
            || timeframe != Timeframe::M5
                && is_missing(Timeframe::M5)
                && buckets.any(|start| self.at(timeframe, start).is_none())
    }

    /// The parts of a span of buckets in which bars can cost points: those in which the calendar
    /// does not have the market closed. Buckets of 5 minutes are in the ledger for a reason of
    /// their own and all count.
    fn dear(&self, timeframe: Timeframe, span: Range<Timestamp>) -> Vec<Range<Timestamp>> {
        if timeframe == Timeframe::M5 {
            return vec![span];
        }
        let step = timeframe.seconds();
        let open =
            self.calendar.runs(span.clone()).into_iter().filter(|(_, told)| *told != Expectation::Closed);
        let mut parts: Vec<Range<Timestamp>> = Vec::new();
        for part in open.map(|(run, _)| run.start.floor(step)..run.end.ceil(step)) {
            match parts.last_mut() {
                Some(last) if part.start <= last.end => last.end = last.end.max(part.end),
                _ => parts.push(part),
            }
        }
        parts
    }
}

/// What decides how a hole is healed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// History from before the first connection or asked for by hand, which leaves the reserve of
    /// points alone.
    Backfill,
    /// REST has the bar with a null price: asked for a few times, not for ever.
    NullLeg,
    /// The stream has shown its candle: that REST lacks the bar would prove nothing.
    Seen,
    /// Anything else.
    Lost,
}

impl Kind {
    /// What the ledger's reason makes of a hole.
    pub fn of(reason: Reason) -> Kind {
        match reason {
            Reason::FirstStart | Reason::Requested => Kind::Backfill,
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

/// Buckets that one feed lacks and one request could bring: between its missing ones lie only such
/// as have no bar, which cost nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Which feed.
    pub feed: FeedIx,
    /// Bucket length.
    pub timeframe: Timeframe,
    /// First bucket's start to the end of the last.
    pub span: Range<Timestamp>,
    /// The buckets that may cost a point each, in runs, ascending and disjoint.
    pub dear: Vec<Range<Timestamp>>,
    /// What it is about, where that decides how it is healed.
    pub kind: Kind,
}

impl Hole {
    /// Buckets that may cost a point each.
    pub fn points(&self) -> u32 {
        count(&self.dear, self.timeframe)
    }

    /// The part from `from` on.
    pub fn from(&self, from: Timestamp) -> Option<Hole> {
        let dear = clip(&self.dear, &(from..self.span.end));
        let span = self.span.start.max(from)..self.span.end;
        (span.start < span.end && !dear.is_empty()).then(|| Hole { span, dear, ..self.clone() })
    }

    /// The part before `to`.
    pub fn before(&self, to: Timestamp) -> Option<Hole> {
        let dear = clip(&self.dear, &(self.span.start..to));
        let span = self.span.start..self.span.end.min(to);
        (span.start < span.end && !dear.is_empty()).then(|| Hole { span, dear, ..self.clone() })
    }

    /// Where its newest `points` buckets begin; its own start where it has no more.
    pub fn newest(&self, points: u32) -> Timestamp {
        let step = self.timeframe.seconds();
        let mut left = i64::from(points);
        for run in self.dear.iter().rev() {
            let buckets = run.end.since(run.start) / step;
            if buckets >= left {
                // What lies before a run costs nothing, but belongs to it only where it is all.
                let start = run.end.plus(-left * step);
                let is_all = start == run.start && self.dear[0].start == run.start;
                return if is_all { self.span.start } else { start };
            }
            left -= buckets;
        }
        self.span.start
    }
}

/// Buckets in runs.
pub fn count(runs: &[Range<Timestamp>], timeframe: Timeframe) -> u32 {
    let seconds: i64 = runs.iter().map(|run| run.end.since(run.start)).sum();
    u32::try_from(seconds / timeframe.seconds()).unwrap_or(u32::MAX)
}

/// The parts of runs that lie within a span.
pub fn clip(runs: &[Range<Timestamp>], span: &Range<Timestamp>) -> Vec<Range<Timestamp>> {
    let cut = |run: &Range<Timestamp>| run.start.max(span.start)..run.end.min(span.end);
    runs.iter().map(cut).filter(|run| run.start < run.end).collect()
}

/// The parts of a span that lie in none of `taken`, which may overlap and be in any order; ascending.
pub fn without(span: &Range<Timestamp>, taken: &[Range<Timestamp>]) -> Vec<Range<Timestamp>> {
    let mut parts = vec![span.clone()];
    for one in taken {
        let cut = |part: Range<Timestamp>| {
            [
                part.start..part.end.min(one.start.max(part.start)),
                part.start.max(one.end.min(part.end))..part.end,
            ]
        };
        parts = parts.into_iter().flat_map(cut).filter(|part| part.start < part.end).collect();
    }
    parts
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

/// The holes of one length that may be asked about, ascending. `now` is event time, `wall` dates
/// the attempts.
pub fn holes(
    page: &Page,
    timeframe: Timeframe,
    attempts: &Attempts,
    now: Timestamp,
    wall: Timestamp,
) -> Vec<Hole> {
    let mut found = Finder { page, timeframe, holes: Vec::new(), reach: None };
    let over = timeframe.bucket(now);
    for run in page.runs(timeframe) {
        match (run.state, run.reason) {
            (State::Missing, reason) if may_ask(run, now) => {
                let span = run.span.start..run.span.end.min(over);
                for part in attempts.open(page.pair, timeframe, &span, wall) {
                    let hopeless = match reason {
                        Reason::NullLeg => attempts.hopeless(page.pair, timeframe, &part),
                        _ => Vec::new(),
                    };
                    let mut from = part.start;
                    for beyond in hopeless {
                        found.missing(from..beyond.start, Kind::of(reason));
                        from = beyond.end;
                    }
                    found.missing(from..part.end, Kind::of(reason));
                }
            }
            (State::Quiet, _) | (State::Closed, Reason::Calendar) => found.without_bar(&run.span),
            _ => {}
        }
    }
    found.holes
}

/// Collects holes from left to right.
struct Finder<'a> {
    page: &'a Page,
    timeframe: Timeframe,
    holes: Vec<Hole>,
    /// How far the last hole reaches, with buckets behind it that have no bar.
    reach: Option<Timestamp>,
}

impl Finder<'_> {
    fn missing(&mut self, span: Range<Timestamp>, kind: Kind) {
        if span.start >= span.end {
            return;
        }
        let dear = self.page.dear(self.timeframe, span.clone());
        if dear.is_empty() {
            return self.without_bar(&span);
        }
        let reached = self.reach.replace(span.end) == Some(span.start);
        if let Some(last) = self.holes.last_mut().filter(|_| reached)
            && let Some(together) = last.kind.with(kind)
        {
            (last.span.end, last.kind) = (span.end, together);
            for part in dear {
                match last.dear.last_mut() {
                    Some(before) if before.end == part.start => before.end = part.end,
                    _ => last.dear.push(part),
                }
            }
            return;
        }
        let (feed, timeframe) = (self.page.feed, self.timeframe);
        self.holes.push(Hole { feed, timeframe, span, dear, kind });
    }

    fn without_bar(&mut self, span: &Range<Timestamp>) {
        if self.reach == Some(span.start) {
            self.reach = Some(span.end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NOON, at, page, pair};
    use super::*;

    /// Holes of 5-minute buckets as text: from-to, points in brackets, and kind.
    fn check(ledger: &str, expected: &str) {
        check_with(ledger, &Attempts::default(), expected);
    }

    fn check_with(ledger: &str, attempts: &Attempts, expected: &str) {
        let found = holes(&page(0, ledger, ""), Timeframe::M5, attempts, at(40), NOON);
        let one = |hole: &Hole| {
            let bucket = |time: Timestamp| time.since(NOON) / 300;
            format!(
                "{}-{}({}){}",
                bucket(hole.span.start),
                bucket(hole.span.end),
                hole.points(),
                match hole.kind {
                    Kind::Backfill => "b",
                    Kind::NullLeg => "n",
                    Kind::Seen => "u",
                    Kind::Lost => "",
                }
            )
        };
        assert_eq!(found.iter().map(one).collect::<Vec<_>>().join(" "), expected, "{ledger}");
    }

    #[test]
    fn missing_buckets_are_counted_of_each_length() {
        let page = page(0, "dsqdul", "dd.sd");
        assert_eq!([Timeframe::M5, Timeframe::M15].map(|timeframe| page.buckets_missing(timeframe)), [3, 3]);
    }

    #[test]
    fn touching_runs_are_one_hole() {
        check("dduss", "0-3(3)");
        check("ddsdd", "0-2(2) 3-5(2)");
        check("dd.dd", "0-2(2) 3-5(2)");
    }

    #[test]
    fn over_buckets_that_have_no_bar_one_request_asks_for_both_sides() {
        check("ddqqcd", "0-6(3)");
        check("qqddqq", "2-4(2)");
        check("dpd", "0-1(1) 2-3(1)");
        check("dld", "0-1(1) 2-3(1)");
        check("dqsqd", "0-1(1) 4-5(1)");
    }

    #[test]
    fn silence_is_asked_about_once_nobody_waits_for_its_proof() {
        // Bucket 27 ended an hour before.
        check(&format!("{}mmd", ".".repeat(27)), "29-30(1)");
        check(&format!("{}mmd", ".".repeat(26)), "26-29(3)");
    }

    #[test]
    fn what_the_stream_has_shown_is_asked_for_with_its_neighbours_and_alone_is_no_proof() {
        check("u", "0-1(1)u");
        check("udd", "0-3(3)");
        check("un", "0-1(1)u 1-2(1)n");
        check("fdf", "0-1(1)b 1-2(1) 2-3(1)b");
    }

    #[test]
    fn what_has_not_ended_is_left_out() {
        check(&format!("{}dddd", ".".repeat(38)), "38-40(2)");
    }

    #[test]
    fn what_waits_or_is_hopeless_is_left_out() {
        let mut attempts = Attempts::default();
        attempts.note(pair(0), Timeframe::M5, at(1)..at(2), NOON);
        check_with("ddd", &attempts, "0-1(1) 2-3(1)");
        let long_ago = NOON.plus(-100 * 86_400);
        (0..8).for_each(|_| attempts.note(pair(0), Timeframe::M5, at(1)..at(3), long_ago));
        check_with("nnnn", &attempts, "0-1(1)n 3-4(1)n");
        check_with("dddd", &attempts, "0-4(4)");
    }

    #[test]
    fn a_hole_is_cut_from_its_newest() {
        let found = holes(&page(0, "ddqqdd", ""), Timeframe::M5, &Attempts::default(), at(40), NOON);
        let newest = |points| found[0].newest(points).since(NOON) / 300;
        assert_eq!([newest(1), newest(2), newest(3), newest(4), newest(9)], [5, 4, 1, 0, 0]);
        assert_eq!(found[0].from(at(1)).unwrap().dear, [at(1)..at(2), at(4)..at(6)]);
        assert_eq!(found[0].before(at(3)).unwrap().points(), 2);
        assert_eq!(found[0].from(at(6)), None);
    }

    #[test]
    fn what_is_still_wanted_is_missing_or_a_longer_bar_of_missing_parts() {
        let page = page(0, "dddsssddd", "f.q");
        let wants = |timeframe, from, to| page.wants(timeframe, &(at(from)..at(to)));
        assert!(wants(Timeframe::M5, 0, 1) && wants(Timeframe::M5, 2, 5) && !wants(Timeframe::M5, 3, 6));
        assert!(wants(Timeframe::M15, 0, 3) && !wants(Timeframe::M15, 3, 6) && !wants(Timeframe::M15, 6, 9));
        assert!(super::super::testing::page(0, "ddd", "").wants(Timeframe::M15, &(at(0)..at(3))));
    }

    #[test]
    fn a_longer_hole_over_a_weekend_costs_its_open_part() {
        // Friday 21:00 to Sunday 23:00: an hour, the disputed hour, and an hour.
        let friday = Timestamp(1_579_294_800);
        let span = friday..friday.plus(50 * 3600);
        let mut page = page(0, "", "");
        page.m15 = vec![Run {
            span: span.clone(),
            state: State::Missing,
            reason: Reason::FirstStart,
            evidence: "e".into(),
        }];
        let found = holes(&page, Timeframe::M15, &Attempts::default(), span.end, NOON);
        assert_eq!(
            found.iter().map(|hole| (hole.span.clone(), hole.points())).collect::<Vec<_>>(),
            [(span, 12)]
        );
    }
}
