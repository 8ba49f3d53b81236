//! AggregatorActor: moves what the stream and REST tell through [`Aggregation`] to the writer.
//!
//! Fed by the StreamActor and the HealerActor, feeds the WriterActor through [`Outbound`], which holds
//! findings until the writer says that they are durable, and outlives this actor. A restart loses the
//! forming candles; the next rows bring them again. The stream begins a new session then, since what a
//! new aggregator knows of subscriptions it has to be told from the beginning.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;

use super::inference::{Granted, RecordKeys};
use super::outbound::Outbound;
use super::{Aggregation, Stale};
use crate::clock::{self, EventClock};
use crate::domain::{Fact, FactBatch, Reason, State, StreamEvent, Timestamp};
use crate::failpoint;
use crate::live::Live;
use crate::messages::{HistoryTold, Resubscribe, StreamTold};
use crate::stats::Stats;
use crate::store::StoreHandle;
use crate::supervisor::{Lifeline, Line, watched_over};

/// How often silence is looked for.
const TICK: Duration = Duration::from_secs(1);
/// A tick that is so late does not come any more.
const TICKS_WITHIN: Duration = Duration::from_secs(30);
/// Where the record of guessed closes was kept when it did not say whose it was.
pub const SETTING_MATCHED_OF_ANYONE: &str = "inference.matched";

/// Asks the aggregator to hand over everything and say when it is durable.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Drain;

/// Asks the aggregator to account for everything up to this event time, where nothing is streamed.
/// Answered once that is durable.
#[derive(Message)]
#[rtype(result = "()")]
pub struct AccountTo(pub Timestamp);

/// Settles candles.
pub struct AggregatorActor {
    core: Aggregation,
    event_clock: EventClock,
    evidence: Arc<str>,
    outbound: Outbound,
    /// To the stream, which is told of stale items.
    resubscribe: Line<Resubscribe>,
    store: StoreHandle,
    record: RecordKeys,
    granted: Option<Granted>,
    stats: Arc<Stats>,
    live: Live,
    /// Partings of the clocks that the core knows of.
    partings: u32,
    /// Nobody knows yet what the time is since the last one.
    uncertain: bool,
    lifeline: Lifeline,
}

impl AggregatorActor {
    /// An aggregator around its core.
    pub fn new(
        core: Aggregation,
        event_clock: EventClock,
        (outbound, resubscribe): (Outbound, Line<Resubscribe>),
        store: StoreHandle,
        record: RecordKeys,
        (stats, live): (Arc<Stats>, Live),
        lifeline: Lifeline,
    ) -> AggregatorActor {
        AggregatorActor {
            core,
            partings: event_clock.partings(),
            event_clock,
            evidence: "ls:none".into(),
            outbound,
            resubscribe,
            store,
            record,
            granted: None,
            stats,
            live,
            uncertain: false,
            lifeline,
        }
    }

    /// Hands what the core has found to the writer. The answer comes once it is durable.
    fn forward(&mut self, evidence: Arc<str>) -> Option<oneshot::Receiver<()>> {
        let facts = self.core.take_facts();
        for Stale { feed, in_vain } in self.core.take_stale() {
            self.stats.items_stale.add(1);
            log::warn!(pair:% = self.core.pair(feed), in_vain; "a pair has been silent for long, subscribing it again");
            self.resubscribe.hint(Resubscribe { feed, in_vain });
        }
        self.keep_record();
        let durable = (!facts.is_empty()).then(|| {
            self.stats.found(&facts);
            self.warn_out_of_hours(&facts);
            let holes = has_holes(&facts);
            self.outbound.hand_out(Arc::new(FactBatch { evidence, facts }), holes)
        });
        self.outbound.account(self.core.frontiers(), self.core.matched());
        durable
    }

    /// The clock was set or the machine has slept: nothing is known to follow what was before.
    fn notice_parting(&mut self, now: Timestamp, steady: bool) {
        let partings = self.event_clock.partings();
        if std::mem::replace(&mut self.partings, partings) != partings {
            log::warn!(event_time:% = now; "the system's clock was set, or the machine has slept");
            self.uncertain = !steady;
            self.core.interrupt(steady.then_some(now));
        } else if self.uncertain && steady {
            // What was believed of the time since then was the earlier of two; the later holds.
            self.uncertain = false;
            self.core.interrupt(Some(now));
        }
    }

    /// Keeps what this account has earned and was granted, where that has changed.
    fn keep_record(&mut self) {
        let mut news = Vec::new();
        if let Some(matched) = self.core.take_matched() {
            news.push((self.record.matched.clone(), matched.to_string()));
        }
        if let Some(granted) = self.core.granted().filter(|granted| self.granted != Some(*granted)) {
            self.granted = Some(granted);
            news.push((self.record.granted.clone(), granted.as_str().to_owned()));
        }
        for (key, value) in news {
            let saving = self.store.run(move |store| store.set_setting(&key, &value));
            actix_rt::spawn(async move {
                if let Err(error) = saving.await {
                    log::warn!(error:% = error; "the account's record could not be kept");
                }
            });
        }
    }

    /// Rule 5: a bar that comes while the market should be closed is stored and warned about.
    fn warn_out_of_hours(&mut self, facts: &[Fact]) {
        for fact in facts {
            let Fact::Settled(bar) = fact else { continue };
            let Some(is_news) = self.core.out_of_hours(bar) else { continue };
            self.stats.bars_out_of_hours.add(1);
            if is_news {
                log::warn!(
                    pair:% = bar.key.pair, start:% = bar.key.start;
                    "a bar came while the calendar has the market closed; it is stored"
                );
            }
        }
    }
}

/// Whether some of these are holes that REST may fill.
fn has_holes(facts: &[Fact]) -> bool {
    facts.iter().any(|fact| match fact {
        Fact::Marked(mark) => mark.state == State::Missing && mark.reason != Reason::Silent,
        Fact::Settled(_) => false,
    })
}

watched_over!(AggregatorActor);

impl Actor for AggregatorActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.lifeline.pulse().step(TICKS_WITHIN);
        let ticks = clock::beats(TICK).into_actor(self).map(|(), act, _| {
            act.lifeline.pulse().step(TICKS_WITHIN);
            act.outbound.tick(act.stats.writer_holds.get() == 0);
            let moment = act.event_clock.moment();
            if let Some(now) = moment.now {
                act.notice_parting(now, moment.is_steady);
                act.core.tick(now, moment.is_steady);
                act.forward(act.evidence.clone());
            }
            act.live.show_forming(|| act.core.forming());
        });
        ctx.spawn(ticks.finish());
    }
}

impl Handler<StreamTold> for AggregatorActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, StreamTold(events): StreamTold, ctx: &mut Self::Context) -> Self::Result {
        let mut moment = self.event_clock.moment();
        if let Some(now) = moment.now {
            self.notice_parting(now, moment.is_steady);
        }
        for event in &events {
            match event {
                StreamEvent::SessionBegan { evidence } => {
                    // What is found from here on rests on the new session.
                    self.forward(self.evidence.clone());
                    self.evidence = evidence.clone();
                }
                StreamEvent::Candle { candle, .. } => {
                    moment = self.event_clock.observe_after(moment, candle.start, candle.closed);
                    if self.uncertain {
                        // Somebody else may have found out what time it is.
                        moment = self.event_clock.moment();
                        moment.now.into_iter().for_each(|now| self.notice_parting(now, moment.is_steady));
                    }
                }
                _ => {}
            }
            self.core.handle(event, moment.now, moment.is_steady);
        }
        // Where most is lost: taken in and not handed out.
        failpoint::in_room("aggregator.told", ctx);
        self.forward(self.evidence.clone());
        self.live.show_forming(|| self.core.forming());
        match self.outbound.room() {
            None => Box::pin(std::future::ready(())),
            Some(waiting) => Box::pin(async move { drop(waiting.await) }),
        }
    }
}

impl Handler<HistoryTold> for AggregatorActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, HistoryTold(batch): HistoryTold, ctx: &mut Self::Context) -> Self::Result {
        self.forward(self.evidence.clone());
        self.core.handle_history(&batch.facts);
        failpoint::in_room("aggregator.history", ctx);
        let healed = batch.facts.iter().filter(|fact| matches!(fact, Fact::Settled(_))).count();
        self.stats.bars_fetched.add(healed as u64);
        let durable = self.forward(batch.evidence);
        Box::pin(async move {
            if let Some(durable) = durable {
                let _ = durable.await;
            }
        })
    }
}

impl Handler<AccountTo> for AggregatorActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, AccountTo(now): AccountTo, _: &mut Self::Context) -> Self::Result {
        self.core.account_to(now);
        let durable = self.forward(self.evidence.clone());
        Box::pin(async move {
            if let Some(durable) = durable {
                // Whoever should answer is gone only when the process ends.
                let _ = durable.await;
            }
        })
    }
}

impl Handler<Drain> for AggregatorActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut Self::Context) -> Self::Result {
        self.forward(self.evidence.clone());
        let outbound = self.outbound.clone();
        Box::pin(async move {
            while !outbound.is_empty() {
                actix_rt::time::sleep(Duration::from_millis(10)).await;
            }
        })
    }
}
