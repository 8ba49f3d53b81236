//! What the database knows, as the planner reads it. Pure.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::attempts::RETRY_FIRST;
use super::holes::Page;
use super::plan::{Purse, Refused};
use crate::domain::coverage::Run;
use crate::domain::{Calendar, FeedIx, Pair, State, Timeframe, Timestamp};
use crate::store::AllowanceState;

/// The longest pause between two probes of a spent allowance.
const PROBE_LAST: Duration = Duration::from_secs(3600);

/// Seconds after the last spend after which a doubt about what is left may be settled with a bar.
const DOUBT_S: i64 = 3600;

/// A watched pair.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Which pair.
    pub pair: Pair,
    /// Its hours.
    pub calendar: Arc<Calendar>,
}

/// What a plan is confined to: `None` is everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// These pairs.
    pub pairs: Option<Vec<Pair>>,
    /// Buckets that meet this span.
    pub span: Option<Range<Timestamp>>,
    /// These lengths.
    pub timeframes: Option<Vec<Timeframe>>,
}

impl Scope {
    /// Whether all of a stretch lies within the scope.
    pub fn holds(&self, pair: Pair, timeframe: Timeframe, span: &Range<Timestamp>) -> bool {
        self.pairs.as_ref().is_none_or(|pairs| pairs.contains(&pair))
            && self.timeframes.as_ref().is_none_or(|wanted| wanted.contains(&timeframe))
            && self.span.as_ref().is_none_or(|own| own.start <= span.start && span.end <= own.end)
    }

    /// Leaves out what is missing beyond the scope.
    pub fn narrow(&self, mut pages: Vec<Page>) -> Vec<Page> {
        if let Some(pairs) = &self.pairs {
            pages.retain(|page| pairs.contains(&page.pair));
        }
        for page in &mut pages {
            for (timeframe, runs) in [(Timeframe::M5, &mut page.m5), (Timeframe::M15, &mut page.m15)] {
                let is_wanted = self.timeframes.as_ref().is_none_or(|wanted| wanted.contains(&timeframe));
                let step = timeframe.seconds();
                let span = self.span.as_ref().map(|span| span.start.floor(step)..span.end.ceil(step));
                runs.retain_mut(|run| {
                    if run.state != State::Missing {
                        return true;
                    }
                    if let Some(span) = &span {
                        run.span = run.span.start.max(span.start)..run.span.end.min(span.end);
                    }
                    is_wanted && run.span.start < run.span.end
                });
            }
        }
        pages
    }
}

/// Sorts runs by feed, whose place in `feeds` is its index. Those of pairs that are not watched are
/// left out.
pub fn pages(runs: Vec<(Pair, Timeframe, Run)>, feeds: &[Watched]) -> Vec<Page> {
    let places: HashMap<Pair, usize> = feeds.iter().enumerate().map(|(ix, feed)| (feed.pair, ix)).collect();
    let blank = |(ix, feed): (usize, &Watched)| Page {
        feed: FeedIx(ix as u16),
        pair: feed.pair,
        calendar: feed.calendar.clone(),
        m5: Vec::new(),
        m15: Vec::new(),
    };
    let mut pages: Vec<Page> = feeds.iter().enumerate().map(blank).collect();
    for (pair, timeframe, run) in runs {
        let Some(place) = places.get(&pair) else { continue };
        match timeframe {
            Timeframe::M5 => pages[*place].m5.push(run),
            Timeframe::M15 => pages[*place].m15.push(run),
            Timeframe::M10 | Timeframe::M30 | Timeframe::H1 => {}
        }
    }
    pages.retain(|page| !page.m5.is_empty() || !page.m15.is_empty());
    pages
}

/// What may be spent at wall time `now`. After a refusal for want of points IG is asked again after
/// a minute, then after twice as long each time, an hour at most (DESIGN, rule of truth 6).
pub fn purse(state: &AllowanceState, now: Timestamp) -> Purse {
    let refused = state.refusals.map(|refusals| {
        let doubled = RETRY_FIRST.saturating_mul(1 << (refusals.times.saturating_sub(1)).min(6));
        let pause_s = doubled.min(PROBE_LAST).as_secs() as i64;
        let waited_s = now.since(refusals.last_at);
        // A clock that was set back delays nothing for ever.
        if (0..pause_s).contains(&waited_s) { Refused::Wait } else { Refused::Probe }
    });
    Purse {
        remaining: state.remaining(now),
        renews_in_s: state.renews_at(now).map(|at| at.since(now)),
        spent: state.on_incidents.clone(),
        in_doubt: state.in_doubt > 0
            && state.last_booked_at.is_none_or(|at| !(0..DOUBT_S).contains(&now.since(at))),
        refused,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NOON, at, page, pair};
    use super::*;
    use crate::store::Refusals;

    #[test]
    fn a_scope_leaves_out_what_is_missing_beyond_it() {
        let pages = || vec![page(0, "ddsdd", "ff"), page(1, "ddsdd", "ff")];
        let check = |scope: &Scope, expected: &[(u16, Timeframe, i64, i64)]| {
            let mut told = Vec::new();
            for page in scope.narrow(pages()) {
                for timeframe in [Timeframe::M5, Timeframe::M15] {
                    let missing = page.runs(timeframe).iter().filter(|run| run.state == State::Missing);
                    told.extend(missing.map(|run| {
                        let bucket = |time: Timestamp| time.since(NOON) / 300;
                        (page.feed.0, timeframe, bucket(run.span.start), bucket(run.span.end))
                    }));
                }
            }
            assert_eq!(told, expected, "{scope:?}");
        };
        let (m5, m15) = (Timeframe::M5, Timeframe::M15);
        let one = Some(vec![pair(0)]);
        let all = [(0, m5, 0, 2), (0, m5, 3, 5), (0, m15, 0, 6)];
        check(&Scope { pairs: one.clone(), ..Scope::default() }, &all);
        let span = Some(at(1)..at(4));
        let within = [(0, m5, 1, 2), (0, m5, 3, 4), (0, m15, 0, 6)];
        check(&Scope { pairs: one.clone(), span, ..Scope::default() }, &within);
        check(&Scope { pairs: one, timeframes: Some(vec![m15]), ..Scope::default() }, &[(0, m15, 0, 6)]);
    }

    #[test]
    fn a_spent_allowance_is_probed_after_a_minute_and_ever_more_rarely() {
        let check = |times: u32, waited_s: i64| {
            let refusals = Some(Refusals { times, last_at: NOON });
            purse(&AllowanceState { refusals, ..AllowanceState::default() }, NOON.plus(waited_s)).refused
        };
        for (times, pause_s) in [(1, 60), (2, 120), (3, 240), (6, 1_920), (7, 3_600), (1_000, 3_600)] {
            assert_eq!(check(times, pause_s - 1), Some(Refused::Wait), "{times}");
            assert_eq!(check(times, pause_s), Some(Refused::Probe), "{times}");
        }
        assert_eq!(check(9, -1), Some(Refused::Probe));
        assert_eq!(purse(&AllowanceState::default(), NOON).refused, None);
    }

    #[test]
    fn a_doubt_may_be_settled_after_an_hour() {
        let check = |in_doubt: u32, waited_s: i64| {
            let last_booked_at = Some(NOON);
            let state = AllowanceState { in_doubt, last_booked_at, ..AllowanceState::default() };
            purse(&state, NOON.plus(waited_s)).in_doubt
        };
        assert!(!check(400, 3_599) && check(400, 3_600) && check(400, -1) && !check(0, 3_600));
    }
}
