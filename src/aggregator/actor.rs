//! AggregatorActor: moves what the stream and REST tell through [`Aggregation`] to the writer.
//!
//! Fed by the StreamActor and the HealerActor, feeds the WriterActor. Findings stay here until
//! the writer says that they are durable, so a writer that dies costs nothing. A restart of this
//! actor loses the forming candles; the next rows bring them again, and the healer what was lost.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::dev::RecipientRequest;
use actix::prelude::*;
use tokio::sync::oneshot;

use super::inference::{Granted, RecordKeys};
use super::{Aggregation, Stale};
use crate::clock::EventClock;
use crate::domain::{Fact, FactBatch, Reason, State, StreamEvent, Timestamp};
use crate::messages::{HistoryTold, HolesRecorded, Resubscribe, StoreFacts, StreamTold};
use crate::stats::Stats;
use crate::store::StoreHandle;
use crate::supervisor::Lifeline;

/// How often silence is looked for.
const TICK: Duration = Duration::from_secs(1);
/// Findings that may wait for the writer before the stream is read no further.
pub const UNSTORED_MAX: usize = 65_536;
/// Pause before a batch that the writer could not take is offered again.
const OFFER_AGAIN: Duration = Duration::from_millis(500);
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
    writer: Recipient<StoreFacts>,
    neighbours: Neighbours,
    store: StoreHandle,
    record: RecordKeys,
    granted: Option<Granted>,
    stats: Arc<Stats>,
    queue: Rc<RefCell<Queue>>,
    /// Partings of the clocks that the core knows of.
    partings: u32,
    /// Nobody knows yet what the time is since the last one.
    uncertain: bool,
    _lifeline: Lifeline,
}

/// Rooms that are told of things, where they exist yet: they are built after this one.
#[derive(Clone, Default)]
pub struct Neighbours {
    /// Told of stale items.
    pub stream: Option<Recipient<Resubscribe>>,
    /// Told of holes.
    pub healer: Option<Recipient<HolesRecorded>>,
}

/// Tells the aggregator who its later-built neighbours are.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Meet(pub Neighbours);

/// Findings under way to the database, and who waits for them.
#[derive(Default)]
struct Queue {
    unstored: usize,
    waiting_for_room: Vec<oneshot::Sender<()>>,
}

impl AggregatorActor {
    /// An aggregator around its core.
    pub fn new(
        core: Aggregation,
        event_clock: EventClock,
        writer: Recipient<StoreFacts>,
        store: StoreHandle,
        record: RecordKeys,
        stats: Arc<Stats>,
        lifeline: Lifeline,
    ) -> AggregatorActor {
        AggregatorActor {
            core,
            event_clock,
            evidence: "ls:none".into(),
            writer,
            neighbours: Neighbours::default(),
            store,
            record,
            granted: None,
            stats,
            queue: Rc::default(),
            partings: 0,
            uncertain: false,
            _lifeline: lifeline,
        }
    }

    /// Hands what the core has found to the writer. The answer comes once it is durable.
    fn forward(&mut self, evidence: Arc<str>) -> Option<oneshot::Receiver<()>> {
        let facts = self.core.take_facts();
        for Stale { feed, in_vain } in self.core.take_stale() {
            self.stats.items_stale.add(1);
            log::warn!(pair:% = self.core.pair(feed), in_vain; "a pair has been silent for long, subscribing it again");
            if let Some(stream) = &self.neighbours.stream {
                stream.do_send(Resubscribe { feed, in_vain });
            }
        }
        self.keep_record();
        if facts.is_empty() {
            return None;
        }
        self.stats.found(&facts);
        self.warn_out_of_hours(&facts);
        let holes = has_holes(&facts);
        let batch = Arc::new(FactBatch { evidence, facts });
        let (durable, waiting) = oneshot::channel();
        self.queue.borrow_mut().unstored += batch.facts.len();
        let (writer, queue, healer) =
            (self.writer.clone(), self.queue.clone(), self.neighbours.healer.clone());
        // Queued here and not in the task, so that findings reach the writer in their order.
        let first_offer = writer.send(StoreFacts(batch.clone()));
        actix_rt::spawn(async move {
            offer(first_offer, &writer, &batch).await;
            let mut queue = queue.borrow_mut();
            queue.unstored -= batch.facts.len();
            if queue.unstored < UNSTORED_MAX {
                for waiting in queue.waiting_for_room.drain(..) {
                    // Whoever waited may have gone.
                    let _ = waiting.send(());
                }
            }
            if holes && let Some(healer) = healer {
                healer.do_send(HolesRecorded);
            }
            let _ = durable.send(());
        });
        Some(waiting)
    }

    /// The clock was set or the machine has slept: nothing is known to follow what was before.
    fn notice_parting(&mut self, now: Timestamp) {
        let (partings, steady) = (self.event_clock.partings(), self.event_clock.is_steady());
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

/// Waits until a batch is durable, and offers it again where it could not be stored.
async fn offer(
    mut offered: RecipientRequest<StoreFacts>,
    writer: &Recipient<StoreFacts>,
    batch: &Arc<FactBatch>,
) {
    loop {
        match offered.await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                log::error!(error:% = error, facts = batch.facts.len(); "the writer could not store, offering again")
            }
            Err(_) => log::error!(facts = batch.facts.len(); "the writer is gone, holding what it had"),
        }
        actix_rt::time::sleep(OFFER_AGAIN).await;
        offered = writer.send(StoreFacts(batch.clone()));
    }
}

impl Actor for AggregatorActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(TICK, |act, _| {
            if let Some(now) = act.event_clock.now() {
                act.notice_parting(now);
                act.core.tick(now, act.event_clock.is_steady());
                act.forward(act.evidence.clone());
            }
        });
    }
}

impl Handler<Meet> for AggregatorActor {
    type Result = ();

    fn handle(&mut self, Meet(neighbours): Meet, _: &mut Self::Context) {
        self.neighbours = neighbours;
    }
}

impl Handler<StreamTold> for AggregatorActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, StreamTold(events): StreamTold, _: &mut Self::Context) -> Self::Result {
        if let Some(now) = self.event_clock.now() {
            self.notice_parting(now);
        }
        for event in &events {
            match event {
                StreamEvent::SessionBegan { evidence } => {
                    // What is found from here on rests on the new session.
                    self.forward(self.evidence.clone());
                    self.evidence = evidence.clone();
                }
                StreamEvent::Candle { candle, .. } => {
                    self.event_clock.observe(candle.start, candle.closed);
                    if let Some(now) = self.event_clock.now().filter(|_| self.uncertain) {
                        self.notice_parting(now);
                    }
                }
                _ => {}
            }
            self.core.handle(event, self.event_clock.now(), self.event_clock.is_steady());
        }
        self.forward(self.evidence.clone());
        let mut queue = self.queue.borrow_mut();
        if queue.unstored < UNSTORED_MAX {
            return Box::pin(std::future::ready(()));
        }
        let (room, waiting) = oneshot::channel();
        queue.waiting_for_room.push(room);
        Box::pin(async move { drop(waiting.await) })
    }
}

impl Handler<HistoryTold> for AggregatorActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, HistoryTold(batch): HistoryTold, _: &mut Self::Context) -> Self::Result {
        self.forward(self.evidence.clone());
        self.core.handle_history(&batch.facts);
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
        let queue = self.queue.clone();
        Box::pin(async move {
            while queue.borrow().unstored > 0 {
                actix_rt::time::sleep(Duration::from_millis(10)).await;
            }
        })
    }
}
