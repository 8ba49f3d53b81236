//! Who is built from what, at first and again: the one place that knows all rooms.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::groundwork::{RESTART, recall, unproven};
use super::keeper::{Builder, Handles};
use super::notify::Standing;
use super::{Alarm, Lifeline, Line, Room, Roster};
use crate::aggregator::actor::{AccountTo, AggregatorActor, Drain};
use crate::aggregator::finalizer::Depth;
use crate::aggregator::inference::RecordKeys;
use crate::aggregator::outbound::{Outbound, UNSTORED_MAX};
use crate::aggregator::{Aggregation, FeedStart};
use crate::clock::{Clock, EventClock};
use crate::config::Retention;
use crate::domain::{FactBatch, Pair, Reason, StreamEvent, Timestamp};
use crate::exit::Failure;
use crate::healer::actor::{HealerActor, HealerSettings, StopHealing};
use crate::ig::history::actor::{HistoryActor, HistorySettings};
use crate::ig::rest::RestClient;
use crate::ig::session::actor::{Desk, SessionActor, SessionSettings};
use crate::ig::stream::actor::{StopStreaming, StreamActor, StreamSettings};
use crate::ig::stream::socket::Clients;
use crate::live::Live;
use crate::messages::{
    FetchBars, HistoryTold, HolesRecorded, LearnTime, LogOut, Resubscribe, SessionLines, StoreFacts,
    StreamTold,
};
use crate::retention::actor::RetentionActor;
use crate::stats::Stats;
use crate::store::StoreHandle;
use crate::writer::actor::{Hurry, WriterActor};
use crate::writer::batch::Batch;
use crate::writer::journal::JournalHandle;
use crate::writer::modes::{FLUSH_PATIENCE, Modes};

/// Messages that may wait in front of the aggregator.
const MAILBOX: usize = 256;
/// Messages that may wait in front of the writer: as many as the aggregator lets out, so that
/// none ever finds the mailbox full and is overtaken.
const WRITER_MAILBOX: usize = 2 * UNSTORED_MAX;
/// How long what is known of the stream is waited for where the stream is built anew.
const RECALL_WITHIN: Duration = Duration::from_secs(2);
/// How often it is looked whether the ledger has caught up with what was handed out.
const UNPROVEN_LOOK: Duration = Duration::from_secs(1);
/// How often it is looked whether everything is durable.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// The ways to all rooms.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines {
    pub(super) session: SessionLines,
    pub(super) log_out: Line<LogOut>,
    pub(super) facts: Line<StoreFacts>,
    pub(super) hurry: Line<Hurry>,
    pub(super) told: Line<StreamTold>,
    pub(super) history_told: Line<HistoryTold>,
    pub(super) account_to: Line<AccountTo>,
    pub(super) drain: Line<Drain>,
    pub(super) resubscribe: Line<Resubscribe>,
    pub(super) stop_streaming: Line<StopStreaming>,
    pub(super) fetch: Line<FetchBars>,
    pub(super) learn_time: Line<LearnTime>,
    pub(super) holes: Line<HolesRecorded>,
    pub(super) stop_healing: Line<StopHealing>,
}

/// What the rooms are built on.
#[derive(Clone)]
pub(super) struct Ground {
    pub(super) clock: Clock,
    pub(super) store: StoreHandle,
    pub(super) journal: Option<JournalHandle>,
    pub(super) roster: Roster,
    pub(super) alarm: Alarm,
    pub(super) standing: Standing,
    pub(super) stats: Arc<Stats>,
    pub(super) live: Live,
}

impl Ground {
    pub(super) fn lifeline(&self, room: Room) -> Lifeline {
        Lifeline::begin(&self.roster, room, &self.alarm)
    }
}

/// What the session is built from, which stands before it is known what else there is to build.
pub(super) struct Entrance {
    pub(super) ground: Ground,
    pub(super) rest: RestClient,
    pub(super) desk: Desk,
    pub(super) settings: SessionSettings,
    pub(super) lines: Lines,
}

impl Entrance {
    pub(super) fn session(&self) -> Handles {
        let Ground { clock, store, .. } = self.ground.clone();
        let (settings, desk) = (self.settings.clone(), self.desk.clone());
        let lifeline = self.ground.lifeline(Room::Session);
        let session = SessionActor::new(self.rest.clone(), store, clock, settings, desk, lifeline).start();
        self.lines.session.tokens.lead(session.clone().recipient());
        self.lines.session.refused.lead(session.clone().recipient());
        self.lines.log_out.lead(session.clone().recipient());
        Handles::of(&session)
    }
}

/// What an aggregation begins with, but for how far it has come.
pub(super) struct AggregationPlan {
    pub(super) feeds: Vec<FeedStart>,
    pub(super) depth: Depth,
    pub(super) stale_s: i64,
    pub(super) record: RecordKeys,
}

/// From what each room is built, again and again.
pub(super) struct Blueprint {
    pub(super) entrance: Entrance,
    pub(super) clients: Clients,
    pub(super) event_clock: EventClock,
    pub(super) stats: Arc<Stats>,
    pub(super) flush: Duration,
    pub(super) tlcp_version: String,
    pub(super) aggregation: AggregationPlan,
    pub(super) outbound: Outbound,
    /// None where only history is fetched.
    pub(super) stream: Option<StreamSettings>,
    pub(super) history: HistorySettings,
    pub(super) healer: HealerSettings,
    /// None where everything is kept, or only history is fetched.
    pub(super) retention: Option<Retention>,
    /// The process is to end: who is built from now on has little patience for the database.
    pub(super) hurries: Cell<bool>,
}

impl Blueprint {
    fn clocks(&self) -> (Clock, EventClock) {
        (self.entrance.ground.clock.clone(), self.event_clock.clone())
    }

    /// Of a writer that finds nothing in the spool.
    pub(super) fn modes(&self) -> Modes {
        let has_journal = self.entrance.ground.journal.is_some();
        let mut modes = Modes::new(Batch::new(self.flush), has_journal, FLUSH_PATIENCE);
        if self.hurries.get() {
            modes.hurry();
        }
        modes
    }

    /// Makes durable what is held, whoever has it, with little patience for the database.
    pub(super) async fn drain(self: Rc<Self>) {
        self.hurries.set(true);
        self.entrance.lines.hurry.hint(Hurry);
        // An aggregator that dies meanwhile has handed out what it had; the rest died with it.
        let _ = self.entrance.lines.drain.send(Drain).await;
        while !self.outbound.is_empty() {
            actix_rt::time::sleep(DRAIN_LOOK).await;
        }
    }

    pub(super) fn writer(&self, modes: Modes) -> Handles {
        let Ground { clock, store, journal, live, .. } = self.entrance.ground.clone();
        let lifeline = self.entrance.ground.lifeline(Room::Writer);
        let shown = (self.stats.clone(), live);
        let writer =
            WriterActor::new(modes, store, journal, clock, shown, lifeline).start_with(WRITER_MAILBOX);
        self.entrance.lines.facts.lead(writer.clone().recipient());
        self.entrance.lines.hurry.lead(writer.clone().recipient());
        Handles::of(&writer)
    }

    /// One that goes on where what was handed out ends.
    pub(super) fn aggregator(&self) -> Handles {
        let AggregationPlan { feeds, depth, stale_s, record } = &self.aggregation;
        let come_to = feeds.iter().zip(self.outbound.frontiers());
        let feeds: Vec<FeedStart> =
            come_to.map(|(feed, resume)| FeedStart { resume, ..feed.clone() }).collect();
        let core = Aggregation::new(&feeds, *depth, *stale_s, self.outbound.matched());
        let lines = &self.entrance.lines;
        let aggregator = AggregatorActor::new(
            core,
            self.event_clock.clone(),
            (self.outbound.clone(), lines.resubscribe.clone()),
            self.entrance.ground.store.clone(),
            record.clone(),
            (self.stats.clone(), self.entrance.ground.live.clone()),
            self.entrance.ground.lifeline(Room::Aggregator),
        )
        .start_with(MAILBOX);
        lines.told.lead(aggregator.clone().recipient());
        lines.history_told.lead(aggregator.clone().recipient());
        lines.account_to.lead(aggregator.clone().recipient());
        lines.drain.lead(aggregator.clone().recipient());
        Handles::of(&aggregator)
    }

    pub(super) fn stream(&self, settings: StreamSettings) -> Handles {
        let lines = &self.entrance.lines;
        let stream = StreamActor::new(
            self.clients.clone(),
            lines.session.clone(),
            lines.told.clone(),
            self.entrance.ground.store.clone(),
            self.clocks(),
            settings,
            self.stats.clone(),
            self.entrance.ground.lifeline(Room::Stream),
        )
        .start();
        lines.resubscribe.lead(stream.clone().recipient());
        lines.stop_streaming.lead(stream.clone().recipient());
        Handles::of(&stream)
    }

    pub(super) fn history(&self) -> Handles {
        let lines = &self.entrance.lines;
        let history = HistoryActor::new(
            self.entrance.rest.clone(),
            lines.session.clone(),
            self.entrance.ground.store.clone(),
            self.clocks(),
            self.history.clone(),
            self.entrance.ground.lifeline(Room::History),
        )
        .start();
        lines.fetch.lead(history.clone().recipient());
        lines.learn_time.lead(history.clone().recipient());
        Handles::of(&history)
    }

    pub(super) fn healer(&self) -> Handles {
        let lines = &self.entrance.lines;
        let healer = HealerActor::new(
            self.entrance.ground.store.clone(),
            lines.fetch.clone(),
            lines.history_told.clone(),
            self.clocks(),
            self.healer.clone(),
            self.stats.clone(),
            self.entrance.ground.lifeline(Room::Healer),
        )
        .start();
        lines.holes.lead(healer.clone().recipient());
        lines.stop_healing.lead(healer.clone().recipient());
        Handles::of(&healer)
    }

    pub(super) fn retention(&self, retention: Retention) -> Handles {
        let (store, event_clock) = (self.entrance.ground.store.clone(), self.event_clock.clone());
        let lifeline = self.entrance.ground.lifeline(Room::Retention);
        Handles::of(&RetentionActor::new(store, event_clock, retention, lifeline).start())
    }

    /// A writer that goes on with what the one before it has left in the spool.
    async fn writer_after_another(&self) -> Result<Handles, Failure> {
        let Some(journal) = &self.entrance.ground.journal else { return Ok(self.writer(self.modes())) };
        // Behind whatever that one has asked of the spool last.
        let left = journal.run(|journal| Ok((journal.facts(), journal.is_empty()))).await;
        let (facts, is_empty) = left.map_err(Failure::failed)?;
        let now = self.entrance.ground.clock.monotonic();
        Ok(self.writer(self.modes().after(facts, is_empty, now)))
    }

    /// An aggregator that goes on where the one before it has come to. That nothing came at last in hours in
    /// dispute waited for a proof that has died with that one.
    fn aggregator_after_another(&self) -> Handles {
        let handles = self.aggregator();
        let ends = self.aggregation.feeds.iter().map(|feed| feed.pair).zip(self.outbound.frontiers());
        let ends: Vec<(Pair, Timestamp)> = ends.filter_map(|(pair, end)| Some((pair, end?))).collect();
        let store = self.entrance.ground.store.clone();
        let (told, outbound) = (self.entrance.lines.history_told.clone(), self.outbound.clone());
        actix_rt::spawn(async move {
            // The ledger lags behind what was handed out.
            while !outbound.is_empty() {
                actix_rt::time::sleep(UNPROVEN_LOOK).await;
            }
            match store.run(move |store| unproven(store, &ends)).await {
                Ok(facts) if facts.is_empty() => {}
                Ok(facts) => {
                    let batch = FactBatch { evidence: RESTART.into(), facts };
                    // One that is gone again has a successor that asks anew.
                    let _ = told.send(HistoryTold(batch)).await;
                }
                // The next start of the process sees to it.
                Err(error) => {
                    log::warn!(error:% = error; "what waited for a proof could not be read, and waits on");
                }
            }
        });
        handles
    }

    /// A stream after one that could not tell any more that its session is over.
    async fn stream_after_another(&self, mut settings: StreamSettings) -> Handles {
        // Before anything that the new one tells.
        tell_broken(&self.entrance.lines.told);
        let recalled = self.entrance.ground.store.run(recall(&self.tlcp_version));
        match tokio::time::timeout(RECALL_WITHIN, recalled).await {
            Ok(Ok(memory)) => settings.memory = memory,
            Ok(Err(_)) | Err(_) => log::warn!("the database does not tell what is known of the stream"),
        }
        self.stream(settings)
    }
}

/// Tells the aggregator what a stream that has died cannot tell any more. An aggregator that is gone has
/// forgotten all anyway.
fn tell_broken(told: &Line<StreamTold>) {
    let broken = StreamEvent::Broken { feed: None, reason: Reason::Disconnected };
    // Queued now; a message whose answer nobody waits for would be taken back.
    let telling = told.send(StreamTold(vec![broken]));
    actix_rt::spawn(async move { _ = telling.await });
}

impl Builder for Blueprint {
    fn build(self: Rc<Self>, room: Room) -> Pin<Box<dyn Future<Output = Result<Handles, Failure>>>> {
        Box::pin(async move {
            let absent = || Failure::failed(format!("there is no {} room in this house", room.name()));
            match room {
                Room::Session => Ok(self.entrance.session()),
                Room::Writer => self.writer_after_another().await,
                Room::Aggregator => Ok(self.aggregator_after_another()),
                Room::Stream => {
                    let settings = self.stream.clone().ok_or_else(absent)?;
                    Ok(self.stream_after_another(settings).await)
                }
                Room::History => Ok(self.history()),
                Room::Healer => Ok(self.healer()),
                Room::Retention => Ok(self.retention(self.retention.clone().ok_or_else(absent)?)),
            }
        })
    }
}
/// Actors whose mailbox is bounded differently from actix's default of 16.
trait StartWith: Actor<Context = Context<Self>> + Sized {
    fn start_with(self, mailbox: usize) -> Addr<Self> {
        Self::create(|ctx| {
            ctx.set_mailbox_capacity(mailbox);
            self
        })
    }
}

impl<A: Actor<Context = Context<A>>> StartWith for A {}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Takes down what it is told.
    struct Listener(Arc<Mutex<Vec<StreamEvent>>>);

    impl Actor for Listener {
        type Context = Context<Self>;
    }

    impl Handler<StreamTold> for Listener {
        type Result = ();

        fn handle(&mut self, StreamTold(events): StreamTold, _: &mut Self::Context) {
            self.0.lock().unwrap().extend(events);
        }
    }

    #[actix::test]
    async fn the_aggregator_hears_that_a_dead_stream_is_broken_before_anything_of_the_next() {
        let heard: Arc<Mutex<Vec<StreamEvent>>> = Arc::default();
        let told = Line::to(Listener(heard.clone()).start().recipient());
        tell_broken(&told);
        told.send(StreamTold(vec![StreamEvent::Interrupted])).await.unwrap();
        let broken = StreamEvent::Broken { feed: None, reason: Reason::Disconnected };
        assert_eq!(*heard.lock().unwrap(), [broken, StreamEvent::Interrupted]);
    }
}
