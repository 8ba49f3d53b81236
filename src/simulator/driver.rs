//! Drives virtual time: waits for subscribers, paces, and never runs ahead of the sockets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use super::clock::{Pace, Speed, monotonic};
use super::outbox::Severed;
use crate::domain::Timestamp;

/// Bytes of rows that are made for one connection before the sockets get their turn.
const BATCH_BYTES: usize = 24 * 1024;
/// Events that time passes before the feed is let go for others.
const BATCH_EVENTS: usize = 2_048;
/// Longest sleep: a cut or a stop is noticed within it.
const SLEEP_MAX: Duration = Duration::from_millis(100);
/// A client that takes nothing for so long in real time is dropped, or it would hold the
/// simulated world for ever.
const STUCK_CLIENT: Duration = Duration::from_secs(60);
/// Real time after the first subscription when time begins even if fewer came than expected.
const FEWER_ITEMS_AFTER: Duration = Duration::from_secs(3);

/// Decides whether time may pass.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Items that must be subscribed.
    items: usize,
    /// Whether fewer do after a while.
    fewer_in_time: bool,
    /// Whether time stops again once nobody is subscribed.
    closes_again: bool,
    open: bool,
    first_item: Option<Instant>,
}

impl Gate {
    /// A gate for `items` items; `None` = all `served`, or what came within three seconds. At
    /// [`Speed::Max`] time stands still whenever nobody is listening, or it would run away.
    pub fn new(speed: Speed, items: Option<usize>, served: usize, seeded: bool) -> Gate {
        let max = speed == Speed::Max;
        let default = if seeded && !max { 0 } else { served };
        Gate {
            items: items.unwrap_or(default).max(usize::from(max)),
            fewer_in_time: items.is_none(),
            closes_again: max,
            open: false,
            first_item: None,
        }
    }

    /// Whether time may pass while so many items are subscribed.
    pub fn is_open(&mut self, subscribed: usize, real: Instant) -> bool {
        if subscribed == 0 {
            self.first_item = None;
            self.open &= !self.closes_again;
        } else {
            let first = *self.first_item.get_or_insert(real);
            self.open |= self.fewer_in_time && real.saturating_duration_since(first) >= FEWER_ITEMS_AFTER;
        }
        self.open |= subscribed >= self.items;
        self.open
    }
}

/// Runs until the simulator stops.
pub(crate) async fn drive(shared: Arc<Shared>, speed: Speed, mut gate: Gate, end: Option<Timestamp>) {
    let end = end.unwrap_or(Timestamp(i64::MAX));
    let mut pace: Option<Pace> = None;
    while !shared.is_stopping() {
        let real = monotonic();
        let (now, items) = {
            let mut feed = shared.feed();
            feed.tend(real);
            (feed.now(), feed.items())
        };
        let to_come = shared.apply_due(now);
        let end = end.min(shared.hold());
        let outage_ends = shared.outage_ends().filter(|ends| speed == Speed::Max && *ends > now);
        if now >= end || !(gate.is_open(items, real) || outage_ends.is_some()) {
            pace = None;
            let _ = actix_rt::time::timeout(SLEEP_MAX, shared.wake.notified()).await;
            continue;
        }
        let until = match speed {
            Speed::Max => outage_ends.unwrap_or(end),
            Speed::Times(times) => pace.get_or_insert_with(|| Pace::new(times, now, real)).target(now, real),
        };
        let until = until.min(end).min(to_come.unwrap_or(end));
        let outboxes = {
            let mut feed = shared.feed();
            if items > 0 && feed.items() == 0 {
                // The last listener has left since: whether time may go on is to be asked anew.
                continue;
            }
            feed.advance(until, BATCH_BYTES, BATCH_EVENTS, real);
            shared.set_now(feed.now());
            feed.outboxes()
        };
        for outbox in outboxes {
            if actix_rt::time::timeout(STUCK_CLIENT, outbox.room()).await.is_err() {
                log::warn!("dropped a stream whose client takes nothing");
                outbox.sever(Severed::Dropped);
            }
        }
        match &pace {
            Some(pace) if shared.now() >= until => {
                let sleep = pace.until(shared.now().plus(1), monotonic()).min(SLEEP_MAX);
                actix_rt::time::sleep(sleep).await;
            }
            _ => actix_rt::task::yield_now().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seeded_market_at_a_fixed_speed_starts_at_once() {
        let mut gate = Gate::new(Speed::Times(1.0), None, 28, true);
        assert!(gate.is_open(0, monotonic()));
    }

    #[test]
    fn a_replay_waits_for_all_items_or_three_seconds() {
        let start = monotonic();
        let mut gate = Gate::new(Speed::Times(1.0), None, 28, false);
        assert!(!gate.is_open(0, start));
        assert!(!gate.is_open(27, start + Duration::from_secs(10)));
        assert!(!gate.is_open(27, start + Duration::from_millis(12_999)));
        assert!(gate.is_open(27, start + Duration::from_secs(13)));
        assert!(gate.is_open(0, start + Duration::from_secs(14)), "only maximum speed closes it again");
        assert!(Gate::new(Speed::Times(1.0), None, 28, false).is_open(28, start));
    }

    #[test]
    fn at_maximum_speed_time_stops_while_nobody_listens() {
        let start = monotonic();
        let mut gate = Gate::new(Speed::Max, Some(2), 28, true);
        assert!(!gate.is_open(1, start + Duration::from_secs(10)));
        assert!(gate.is_open(2, start));
        assert!(gate.is_open(1, start));
        assert!(!gate.is_open(0, start));
        assert!(!gate.is_open(1, start));
        assert!(!Gate::new(Speed::Max, Some(0), 28, true).is_open(0, start));
    }
}
