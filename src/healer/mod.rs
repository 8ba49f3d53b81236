//! Keeps the ledger free of holes: finds them, plans what to ask of REST within the allowance, and
//! tells what the answers say.

pub mod actor;
pub mod attempts;
pub mod book;
pub mod facts;
pub mod holes;
pub mod plan;
pub mod wishes;

#[cfg(test)]
pub(crate) mod testing {
    use std::sync::Arc;

    use super::holes::Page;
    use crate::domain::coverage::Run;
    use crate::domain::{Calendar, FeedIx, Pair, Reason, State, Timeframe, Timestamp};

    /// Wednesday 2020-01-15 12:00 UTC, far from any close: bucket 0 of every ledger.
    pub const NOON: Timestamp = Timestamp(1_579_089_600);

    /// The start of a 5-minute bucket.
    pub fn at(bucket: i64) -> Timestamp {
        NOON.plus(bucket * 300)
    }

    /// One of three pairs.
    pub fn pair(feed: u16) -> Pair {
        ["EURUSD", "GBPUSD", "USDJPY"][usize::from(feed)].parse().unwrap()
    }

    /// Runs as text, a letter a bucket, from noon on: `s` stored, `q` quiet, `c` closed, `p` possibly
    /// open, `l` lost, and of what is missing `d` disconnected, `u` unconfirmed, `n` null leg, `m`
    /// silent, `f` first start. Nothing is known of a `.`.
    pub fn runs(text: &str, timeframe: Timeframe) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (ix, letter) in text.chars().enumerate() {
            let (state, reason) = match letter {
                '.' => continue,
                's' => (State::Stored, Reason::Settled),
                'q' => (State::Quiet, Reason::LaterRow),
                'c' => (State::Closed, Reason::Calendar),
                'p' => (State::Closed, Reason::PossiblyOpen),
                'l' => (State::Lost, Reason::GivenUp),
                'd' => (State::Missing, Reason::Disconnected),
                'u' => (State::Missing, Reason::UnconfirmedClose),
                'n' => (State::Missing, Reason::NullLeg),
                'm' => (State::Missing, Reason::Silent),
                'f' => (State::Missing, Reason::FirstStart),
                other => panic!("unknown letter {other}"),
            };
            let start = NOON.plus(ix as i64 * timeframe.seconds());
            let end = start.plus(timeframe.seconds());
            match runs.last_mut() {
                Some(last) if (last.span.end, last.state, last.reason) == (start, state, reason) => {
                    last.span.end = end;
                }
                _ => runs.push(Run { span: start..end, state, reason, evidence: "e".into() }),
            }
        }
        runs
    }

    /// A page of the ledger from its text.
    pub fn page(feed: u16, m5: &str, m15: &str) -> Page {
        Page {
            feed: FeedIx(feed),
            pair: pair(feed),
            calendar: Arc::new(Calendar::forex()),
            m5: runs(m5, Timeframe::M5),
            m15: runs(m15, Timeframe::M15),
        }
    }
}
