//! What others want fetched, handed over in table `fetch_requests`: put into the ledger as missing,
//! healed like the rest, and told of when nothing of it is missing any more.

use super::{Healer, Work};
use crate::domain::{Fact, Mark, Timeframe, Timestamp};
use crate::healer::wishes::{self, Progress};
use crate::store::{FetchRequest, RequestState, Store, StoreError};

impl Healer {
    /// Whether somebody has asked for something since the last look.
    pub(super) async fn has_new_wishes(&self) -> bool {
        let open = self.store.run(Store::open_requests).await;
        // The next look tells of a database that cannot be read.
        open.is_ok_and(|open| open.iter().any(|wish| wish.state == RequestState::Asked))
    }

    /// Puts what was asked for into the ledger.
    pub(super) async fn take_wishes(&self, work: &mut Work) -> Result<(), StoreError> {
        let Some(now) = self.event_clock.settled() else { return Ok(()) };
        let open = self.store.run(Store::open_requests).await?;
        let asked = open.into_iter().filter(|wish| wish.state == RequestState::Asked);
        // One who heals a part alone leaves others' wishes to whoever comes after it.
        let scope = &self.settings.scope;
        for wish in asked.filter(|wish| scope.holds(wish.pair, wish.timeframe, &wish.span)) {
            let feed = self.settings.feeds.iter().find(|feed| feed.pair == wish.pair);
            let refused = match feed {
                None => Some(format!("{} is not collected here", wish.pair)),
                Some(_) => {
                    let refusal = wishes::refusal(&wish.span, wish.timeframe, self.settings.quarters);
                    let too_early = || wishes::too_early(&wish.span, wish.timeframe, now);
                    refusal.or_else(too_early).or_else(|| {
                        let kept_from = self.settings.retention.limit(wish.timeframe, now)?;
                        wishes::too_old(&wish.span, kept_from)
                    })
                }
            };
            if let Some(why) = refused {
                self.end(&wish, RequestState::Refused, why).await?;
                continue;
            }
            let Some(feed) = feed else { continue };
            let (pair, timeframe) = (wish.pair, wish.timeframe);
            let ends = self.store.run(move |store| store.covered_to(timeframe)).await?;
            // What is not accounted for yet is the aggregator's business.
            let is_accounted = timeframe == Timeframe::M5 && self.settings.accounted.contains(&pair);
            let end = ends.get(&pair).filter(|_| is_accounted).map_or(now, |end| now.min(*end));
            let span = wishes::whole(&wish.span, timeframe, end);
            let (known, wall) = (span.clone(), self.clock.wall());
            let read = move |store: &mut Store| {
                Ok((store.coverage(pair, timeframe, known)?, store.reopened(pair, timeframe, wall)?))
            };
            let (runs, reopened) = self.store.run(read).await?;
            let resting = wishes::resting(&reopened, Some(wish.id), timeframe, wall);
            let marks = wishes::marks(pair, timeframe, &span, &runs, &resting, &feed.calendar);
            let lost = wishes::reopened(&runs, &resting);
            if !lost.is_empty() {
                // Before they are asked for: who dies in between has not given a second time.
                let id = wish.id;
                self.store.run(move |store| store.set_reopened(id, wall)).await?;
                lost.iter().for_each(|run| work.attempts.clear(pair, timeframe, &run.span));
            }
            log::info!(pair:% = pair, timeframe:% = timeframe, from:% = span.start, to:% = span.end; "asked for by hand");
            self.tell(format!("asked:{}", wish.id).into(), marks.into_iter().map(Fact::Marked).collect())
                .await?;
            self.end(&wish, RequestState::Taken, String::new()).await?;
        }
        Ok(())
    }

    /// Tells of wishes of which nothing is missing any more, and gives up old ones.
    pub(super) async fn end_wishes(&self) -> Result<(), StoreError> {
        let Some(now) = self.event_clock.settled() else { return Ok(()) };
        let old_before = self.clock.wall().plus(-self.settings.give_up.after_s);
        for (wish, note, lost) in self.store.run(move |store| ended(store, now, old_before)).await? {
            self.give_up(lost).await?;
            self.end(&wish, RequestState::Done, note).await?;
        }
        Ok(())
    }

    async fn end(&self, wish: &FetchRequest, state: RequestState, note: String) -> Result<(), StoreError> {
        let (id, now) = (wish.id, self.clock.wall());
        self.store.run(move |store| store.set_request(id, state, &note, now)).await?;
        Ok(())
    }
}

/// The wishes that are over at event time `now`, or are given up since they were made before wall time
/// `old_before`: what to note of each, and what it gives up. All in one read, since many may be open.
fn ended(
    store: &mut Store,
    now: Timestamp,
    old_before: Timestamp,
) -> Result<Vec<(FetchRequest, String, Vec<Mark>)>, StoreError> {
    let mut ended = Vec::new();
    for wish in store.open_requests()?.into_iter().filter(|wish| wish.state == RequestState::Taken) {
        let (pair, timeframe) = (wish.pair, wish.timeframe);
        let runs = store.coverage(pair, timeframe, wishes::whole(&wish.span, timeframe, now))?;
        let progress = Progress::of(&runs, timeframe);
        if progress.missing == 0 {
            ended.push((wish, progress.to_string(), Vec::new()));
        } else if wish.asked_at < old_before {
            ended.push((wish, format!("given up: {progress}"), wishes::given_up(pair, timeframe, &runs)));
        }
    }
    Ok(ended)
}
