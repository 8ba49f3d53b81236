//! RetentionActor: has old bars deleted, where the configuration says so.
//!
//! Fed by its own timer; feeds the database's thread. Deletes a bounded number of rows in a transaction, never
//! while other work waits there, and pauses in between. Age counts from the newest bar: a clock that was set
//! ahead deletes nothing. Holds what it has seen to; after a restart it looks again.

use std::time::Duration;

use actix::prelude::*;

use super::due;
use crate::clock::{self, EventClock};
use crate::config::Retention;
use crate::domain::{Timeframe, Timestamp};
use crate::failpoint;
use crate::store::{Deleted, Store, StoreError, StoreHandle};
use crate::supervisor::{Lifeline, watched_over};

/// How often it is looked whether something has become old.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Rows that a transaction deletes.
const ROWS_MAX: u32 = 1_000;
/// Pause between two transactions, and while other work waits.
const PAUSE: Duration = Duration::from_millis(100);
/// Years of bars are deleted within this time, and the pause after a refusal is shorter.
const SWEPT_WITHIN: Duration = Duration::from_secs(6 * 3_600);
/// Pause after the database refused.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(300);

watched_over!(RetentionActor);

/// Deletes what is old.
pub struct RetentionActor {
    store: StoreHandle,
    event_clock: EventClock,
    retention: Retention,
    lifeline: Lifeline,
}

impl RetentionActor {
    /// One that has deleted nothing yet.
    pub fn new(
        store: StoreHandle,
        event_clock: EventClock,
        retention: Retention,
        lifeline: Lifeline,
    ) -> RetentionActor {
        RetentionActor { store, event_clock, retention, lifeline }
    }
}

impl Actor for RetentionActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (store, event_clock, retention) =
            (self.store.clone(), self.event_clock.clone(), self.retention.clone());
        let pulse = self.lifeline.pulse().clone();
        ctx.spawn(
            async move {
                let mut done: Vec<(Timeframe, Timestamp)> = Vec::new();
                loop {
                    pulse.step(SWEPT_WITHIN);
                    failpoint::in_task("retention.look").await;
                    if let Some(now) = event_clock.settled()
                        && let Err(error) = sweep(&store, &retention, now, &mut done).await
                    {
                        log::warn!(error:% = error, again_s = TRY_AGAIN_AFTER.as_secs(); "old bars could not be deleted");
                        actix_rt::time::sleep(TRY_AGAIN_AFTER).await;
                    }
                    clock::beat(LOOK_EVERY).await;
                }
            }
            .into_actor(self),
        );
    }
}

/// Deletes all that is old at event time `now`, and notes what it has seen to.
async fn sweep(
    store: &StoreHandle,
    retention: &Retention,
    now: Timestamp,
    done: &mut Vec<(Timeframe, Timestamp)>,
) -> Result<(), StoreError> {
    if due(retention, now, done).is_empty() {
        return Ok(());
    }
    let newest = store.run(Store::last_bars).await?.into_iter().map(|(_, _, start)| start).max();
    let Some(newest) = newest else { return Ok(()) };
    for (timeframe, limit) in due(retention, now.min(newest), done) {
        delete(store, timeframe, limit).await?;
        done.retain(|(known, _)| *known != timeframe);
        done.push((timeframe, limit));
    }
    Ok(())
}

/// Deletes all that is old of one timeframe.
async fn delete(store: &StoreHandle, timeframe: Timeframe, limit: Timestamp) -> Result<(), StoreError> {
    let mut total = Deleted::default();
    loop {
        while !store.is_idle() {
            actix_rt::time::sleep(PAUSE).await;
        }
        let deleted = store.run(move |store| store.delete_before(timeframe, limit, ROWS_MAX)).await?;
        total.bars += deleted.bars;
        total.revisions += deleted.revisions;
        if !deleted.has_more {
            break;
        }
        actix_rt::time::sleep(PAUSE).await;
    }
    if total.bars > 0 {
        log::info!(timeframe:% = timeframe, bars = total.bars, revisions = total.revisions, before:% = limit; "old bars deleted");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::config::{self, Flags};
    use crate::domain::{Bar, BarKey, Fact, FactBatch, Ohlc, Pair, Price, Source};
    use crate::store::{BarQuery, DatabaseUrl};

    const NOON: Timestamp = Timestamp(1_583_755_200); // 2020-03-09 12:00:00

    fn pair() -> Pair {
        "EURUSD".parse().unwrap()
    }

    /// A bar a day, the newest at noon; what is left of 100 of them after a sweep at `now`.
    fn left(now: Timestamp) -> usize {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(&DatabaseUrl::sqlite(dir.path().join("c.db"))).unwrap();
        let side = Ohlc::from_prices([Price::ONE; 4]);
        let facts = (0..100)
            .map(|day| {
                let key =
                    BarKey { pair: pair(), timeframe: Timeframe::M5, start: NOON.plus((day - 99) * 86_400) };
                Fact::Settled(Bar { key, bid: side, ask: side, volume: 1, source: Source::Stream })
            })
            .collect();
        store.commit(&[Arc::new(FactBatch { evidence: "e".into(), facts })], NOON).unwrap();
        let (handle, _thread) = StoreHandle::spawn("store", store).unwrap();
        let days = ("CANDLEKEEP_RETENTION_DAYS".to_owned(), "{ 5 = 50 }".to_owned());
        let config = config::load(None, &BTreeMap::from([days]), &Flags::default()).unwrap();
        actix::System::new().block_on(async {
            let mut done = Vec::new();
            sweep(&handle, &config.retention, now, &mut done).await.unwrap();
            // Once more finds nothing to do.
            sweep(&handle, &config.retention, now, &mut done).await.unwrap();
            let read = |store: &mut Store| store.bars(pair(), Timeframe::M5, &BarQuery::default());
            handle.run(read).await.unwrap().len()
        })
    }

    #[test]
    fn age_counts_from_the_newest_bar_so_that_a_wrong_clock_deletes_nothing() {
        assert_eq!(left(NOON.plus(300)), 51);
        assert_eq!(left(NOON.plus(40 * 365 * 86_400)), 51, "a clock far ahead");
        assert_eq!(left(NOON.plus(-30 * 86_400)), 81, "a clock behind");
        assert_eq!(left(Timestamp(0)), 100);
    }
}
