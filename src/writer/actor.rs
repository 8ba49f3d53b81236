//! WriterActor: makes findings durable, in batches, one transaction a flush.
//!
//! Fed by the AggregatorActor, which holds everything until it is answered; feeds the database's
//! thread, and the journal's while the database is away. Never more than one flush is in flight:
//! what comes meanwhile joins the next. Holds nothing that its sender, or the journal, does not
//! hold too.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use tokio::sync::oneshot;

use super::journal::{JournalError, JournalHandle};
use super::modes::{Modes, News, Step};
use crate::clock::Clock;
use crate::domain::{Fact, FactBatch, Source, Timestamp};
use crate::exit::Exit;
use crate::failpoint;
use crate::live::Live;
use crate::messages::StoreFacts;
use crate::stats::Stats;
use crate::store::{CommitReport, StoreError, StoreHandle};
use crate::supervisor::{Lifeline, watched_over};

/// The timer goes off within this time of when it is due.
const STEP_WITHIN: Duration = Duration::from_secs(60);

/// Who waits for a batch, when it was found, and how many streamed bars it has.
struct Waiting {
    answer: oneshot::Sender<Result<(), Arc<StoreError>>>,
    found: Instant,
    bars: u64,
}

/// Topology → WriterActor: the process is to end, so what the database does not take soon is to
/// go to the journal.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Hurry;

/// Writes.
pub struct WriterActor {
    core: Modes,
    store: StoreHandle,
    /// Where the facts go while the database is away, if there is such a place.
    journal: Option<JournalHandle>,
    clock: Clock,
    /// Who waits for each batch that the core has and has not called durable, in order.
    waiting: VecDeque<Waiting>,
    /// What found no room in the core. Its senders hold it too, and each is bounded.
    overflow: VecDeque<(Arc<FactBatch>, Waiting)>,
    /// When it is to look again by itself, unless something happens earlier.
    timer: Option<(Instant, SpawnHandle)>,
    stats: Arc<Stats>,
    live: Live,
    lifeline: Lifeline,
}

/// Why the process cannot go on.
enum Fatal {
    Store(StoreError),
    Journal(JournalError),
}

impl WriterActor {
    /// A writer around its core, which knows of the journal what there is to know.
    pub fn new(
        core: Modes,
        store: StoreHandle,
        journal: Option<JournalHandle>,
        clock: Clock,
        (stats, live): (Arc<Stats>, Live),
        lifeline: Lifeline,
    ) -> WriterActor {
        WriterActor {
            core,
            store,
            journal,
            clock,
            waiting: VecDeque::new(),
            overflow: VecDeque::new(),
            timer: None,
            stats,
            live,
            lifeline,
        }
    }

    /// Does whatever is to be done now, and comes back when there is more.
    fn drive(&mut self, ctx: &mut Context<Self>) {
        loop {
            let step = self.core.poll(self.clock.monotonic());
            self.refill();
            self.tell();
            match step {
                Some(step) => self.take(step, ctx),
                None => break,
            }
        }
        self.stats.writer_holds.set((self.waiting.len() + self.overflow.len()) as u64);
        self.arm_timer(ctx);
        self.expect_step();
    }

    /// The threads that it waits for are watched by themselves. Else it is for its timer to go off.
    fn expect_step(&self) {
        let due = self.core.next_timeout().filter(|_| !self.core.is_in_flight() && self.core.is_busy());
        match due {
            Some(due) => {
                let wait = due.saturating_duration_since(self.clock.monotonic());
                self.lifeline.pulse().step(wait + STEP_WITHIN);
            }
            None => self.lifeline.pulse().rest(),
        }
    }

    /// A timer that goes off too early finds nothing to do and is armed anew.
    fn arm_timer(&mut self, ctx: &mut Context<Self>) {
        let Some(due) = self.core.next_timeout() else { return };
        if self.timer.is_some_and(|(armed, _)| armed <= due) {
            return;
        }
        if let Some((_, handle)) = self.timer.take() {
            ctx.cancel_future(handle);
        }
        let wait = due.saturating_duration_since(self.clock.monotonic());
        let handle = ctx.run_later(wait, |act, ctx| {
            act.timer = None;
            act.drive(ctx);
        });
        self.timer = Some((due, handle));
    }

    fn take(&mut self, step: Step, ctx: &mut Context<Self>) {
        let (store, now) = (self.store.clone(), self.clock.wall());
        let begun = self.clock.monotonic();
        match step {
            Step::Flush(batches) => {
                let flush = store.run(move |store| store.commit(&batches, now));
                ctx.spawn(flush.into_actor(self).map(move |outcome, act, ctx| {
                    act.count_answer(begun);
                    let outcome = outcome.map(|report| act.count(&report));
                    act.after(outcome.map_err(Fatal::Store), ctx, Modes::flushed);
                }));
            }
            Step::Append(batches) => {
                let append = self.journal().run(move |journal| {
                    let appended = journal.append(&batches);
                    appended.map(|_| journal.bytes())
                });
                ctx.spawn(append.into_actor(self).map(|outcome, act, ctx| {
                    if let Err(error @ JournalError::Closed) = outcome {
                        return act.end(Fatal::Journal(error));
                    }
                    // Whatever is the matter with the file, its facts are held here still.
                    let outcome = outcome.map(|bytes| act.stats.spool_bytes.set(bytes));
                    let outcome = outcome.map_err(|error| error.to_string());
                    act.core.appended(outcome, act.clock.monotonic());
                    failpoint::in_room("writer.appended", ctx);
                    act.settle(ctx);
                }));
            }
            Step::Drain(facts_max) => {
                let drain = drain(store, self.journal(), facts_max, now);
                ctx.spawn(drain.into_actor(self).map(move |outcome, act, ctx| {
                    act.count_answer(begun);
                    let outcome = outcome.map(|(facts, report)| {
                        act.count(&report);
                        facts
                    });
                    act.after(outcome, ctx, Modes::drained);
                }));
            }
            Step::Empty => {
                let empty = self.journal().run(|journal| journal.empty());
                ctx.spawn(empty.into_actor(self).map(|outcome, act, ctx| match outcome {
                    Ok(()) => {
                        act.stats.spool_bytes.set(0);
                        act.core.emptied(act.clock.monotonic());
                        act.settle(ctx);
                    }
                    // What is in it is stored, and would be stored again over what comes next.
                    Err(error) => act.end(Fatal::Journal(error)),
                }));
            }
        }
    }

    fn journal(&self) -> JournalHandle {
        self.journal.clone().expect("the core was told whether there is a journal")
    }

    /// Tells the core how the database has answered, where going on makes sense.
    fn after<T>(
        &mut self,
        outcome: Result<T, Fatal>,
        ctx: &mut Context<Self>,
        tell: impl FnOnce(&mut Modes, Result<T, String>, Instant),
    ) {
        let outcome = match outcome {
            Ok(done) => Ok(done),
            Err(Fatal::Store(error)) if error.is_retryable() => Err(error.to_string()),
            Err(fatal) => return self.end(fatal),
        };
        tell(&mut self.core, outcome, self.clock.monotonic());
        failpoint::in_room("writer.flushed", ctx);
        self.settle(ctx);
    }

    /// Answers those whose findings are durable, and goes on.
    fn settle(&mut self, ctx: &mut Context<Self>) {
        // Before anybody is answered: who reads the ledger then must know that it lags.
        self.stats.facts_spooled.set(self.core.spooled());
        let durable = self.core.take_durable();
        let now = self.clock.monotonic();
        for Waiting { answer, found, bars } in self.waiting.drain(..durable) {
            if bars > 0 {
                self.stats.close_to_durable.add(now.saturating_duration_since(found), bars);
            }
            let _ = answer.send(Ok(()));
        }
        self.drive(ctx);
    }

    /// Nothing that comes later is stored before what has failed, so going on makes no sense. What
    /// is in the journal stays there for the next process. Who waits goes on waiting: the core has his
    /// findings still, and is about to be told to put them into the journal.
    fn end(&mut self, fatal: Fatal) {
        let why = match fatal {
            Fatal::Store(error) => error.to_string(),
            Fatal::Journal(error) => error.to_string(),
        };
        self.lifeline.alarm().exit(Exit::Failed, why);
    }

    /// Moves what found no room into the core, in order.
    fn refill(&mut self) {
        while let Some((facts, answer)) = self.overflow.pop_front() {
            match self.core.offer(facts, self.clock.monotonic()) {
                Ok(()) => self.waiting.push_back(answer),
                Err(facts) => return self.overflow.push_front((facts, answer)),
            }
        }
    }

    fn count_answer(&self, begun: Instant) {
        self.stats.database_commit.add(self.clock.monotonic().saturating_duration_since(begun), 1);
    }

    fn count(&self, report: &CommitReport) {
        let rows = report.inserted + report.revised + report.derived + report.rederived;
        self.stats.rows_stored.add(rows as u64);
        // A commit of nothing does not say how far all have come.
        if report.last_seq > 0 {
            self.live.committed(report.last_seq);
        }
    }

    fn tell(&mut self) {
        while let Some(news) = self.core.take_news() {
            match news {
                News::Away(why) if self.journal.is_some() => {
                    log::warn!(error = why.as_str(); "the database is away, bars go to the spool");
                }
                News::Away(why) => log::warn!(error = why.as_str(); "the database is away, bars wait"),
                News::Back { kept, after } => {
                    let away_ms = after.as_millis() as u64;
                    log::info!(facts_kept = kept, away_ms; "the database is back, everything is stored");
                }
                News::NoJournal(why) => {
                    log::error!(error = why.as_str(); "bars wait in memory, and a crash would lose them");
                }
            }
        }
    }
}

/// Commits the journal's oldest facts; answers how many, and what the commit did.
async fn drain(
    store: StoreHandle,
    journal: JournalHandle,
    facts_max: usize,
    now: Timestamp,
) -> Result<(u64, CommitReport), Fatal> {
    let chunk = journal.run(move |journal| journal.next_chunk(facts_max)).await.map_err(Fatal::Journal)?;
    let Some(chunk) = chunk else { return Ok((0, CommitReport::default())) };
    let batches = chunk.batches.clone();
    let report = store.run(move |store| store.commit(&batches, now)).await.map_err(Fatal::Store)?;
    failpoint::reach("drain.committed");
    let facts = journal.run(move |journal| Ok(journal.committed(&chunk))).await.map_err(Fatal::Journal)?;
    Ok((facts, report))
}

fn is_streamed(fact: &Fact) -> bool {
    matches!(fact, Fact::Settled(bar) if bar.source == Source::Stream)
}

impl Actor for WriterActor {
    type Context = Context<Self>;

    /// What a writer before this one has left in the journal waits for nobody's findings.
    fn started(&mut self, ctx: &mut Self::Context) {
        self.stats.facts_spooled.set(self.core.spooled());
        self.drive(ctx);
    }
}

watched_over!(WriterActor);

impl Handler<StoreFacts> for WriterActor {
    type Result = ResponseFuture<Result<(), Arc<StoreError>>>;

    fn handle(&mut self, StoreFacts { batch, found }: StoreFacts, ctx: &mut Self::Context) -> Self::Result {
        failpoint::in_room("writer.facts", ctx);
        let (answer, waiting) = oneshot::channel();
        let bars = batch.facts.iter().filter(|fact| is_streamed(fact)).count() as u64;
        self.overflow.push_back((batch, Waiting { answer, found, bars }));
        self.refill();
        self.drive(ctx);
        Box::pin(async move { waiting.await.unwrap_or_else(|_| Err(Arc::new(StoreError::Closed))) })
    }
}

impl Handler<Hurry> for WriterActor {
    type Result = ();

    fn handle(&mut self, _: Hurry, ctx: &mut Self::Context) {
        self.core.hurry();
        self.drive(ctx);
    }
}
