//! What the database knows, as the planner reads it. Pure.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::attempts::RETRY_FIRST;
use super::holes::Page;
use super::plan::{Purse, Refused};
use crate::domain::coverage::Run;
use crate::domain::{Calendar, FeedIx, Pair, Timeframe, Timestamp};
use crate::store::AllowanceState;

/// The longest pause between two probes of a spent allowance.
const PROBE_LAST: Duration = Duration::from_secs(3600);

/// A watched pair.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Which pair.
    pub pair: Pair,
    /// Its hours.
    pub calendar: Arc<Calendar>,
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
        refused,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::NOON;
    use super::*;
    use crate::store::Refusals;

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
}
