//! WriterActor: makes findings durable, in batches, one transaction a flush.
//!
//! Fed by the AggregatorActor, which holds everything until it is answered; feeds the database's
//! thread. Never more than one flush is in flight: what comes meanwhile joins the next. Holds
//! nothing that its sender does not hold too.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;

use super::batch::Batch;
use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::domain::FactBatch;
use crate::exit::Exit;
use crate::messages::StoreFacts;
use crate::stats::Stats;
use crate::store::{CommitReport, StoreError, StoreHandle};
use crate::supervisor::{Alarm, Lifeline};

/// Pauses between attempts while the database is away.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(10);

type Waiting = oneshot::Sender<Result<(), Arc<StoreError>>>;

/// Writes.
pub struct WriterActor {
    store: StoreHandle,
    clock: Clock,
    batch: Batch,
    waiting: VecDeque<Waiting>,
    /// What found no room in the batch. Its senders hold it too, and each is bounded.
    overflow: VecDeque<(Arc<FactBatch>, Waiting)>,
    flushing: bool,
    alarm: Alarm,
    stats: Arc<Stats>,
    _lifeline: Lifeline,
}

impl WriterActor {
    /// A writer that flushes as `batch` says.
    pub fn new(
        store: StoreHandle,
        clock: Clock,
        batch: Batch,
        alarm: Alarm,
        stats: Arc<Stats>,
    ) -> WriterActor {
        let lifeline = alarm.lifeline("writer");
        WriterActor {
            store,
            clock,
            batch,
            waiting: VecDeque::new(),
            overflow: VecDeque::new(),
            flushing: false,
            alarm,
            stats,
            _lifeline: lifeline,
        }
    }

    fn flush_if_due(&mut self, ctx: &mut Context<Self>) {
        let now = self.clock.monotonic();
        if self.flushing || self.batch.is_empty() {
            return;
        }
        if let Some(due) = self.batch.due_at().filter(|due| *due > now) {
            ctx.run_later(due - now, Self::flush_if_due);
            return;
        }
        self.flushing = true;
        let batches = self.batch.take();
        let waiting: Vec<Waiting> = self.waiting.drain(..batches.len()).collect();
        self.refill();
        let (store, clock) = (self.store.clone(), self.clock.clone());
        let flush = async move { commit(&store, &clock, batches).await };
        ctx.spawn(flush.into_actor(self).map(move |result, act, ctx| {
            act.flushing = false;
            let answer = match result {
                Ok(report) => {
                    act.stats
                        .rows_stored
                        .add((report.inserted + report.revised + report.derived + report.rederived) as u64);
                    Ok(())
                }
                Err(error) => {
                    // Nothing that comes later is stored before this, so going on makes no sense.
                    act.alarm.exit(Exit::Failed, error.to_string());
                    Err(Arc::new(error))
                }
            };
            for waiting in waiting {
                let _ = waiting.send(answer.clone());
            }
            act.flush_if_due(ctx);
        }));
    }
}

impl WriterActor {
    /// Moves what found no room into the batch, in order.
    fn refill(&mut self) {
        while let Some((facts, answer)) = self.overflow.pop_front() {
            match self.batch.offer(facts, self.clock.monotonic()) {
                Ok(()) => self.waiting.push_back(answer),
                Err(facts) => return self.overflow.push_front((facts, answer)),
            }
        }
    }
}

/// Commits, again and again while the database is away.
async fn commit(
    store: &StoreHandle,
    clock: &Clock,
    batches: Vec<Arc<FactBatch>>,
) -> Result<CommitReport, StoreError> {
    let mut backoff = Backoff::new(RETRY_FIRST, 2.0, RETRY_LAST);
    loop {
        let (now, these) = (clock.wall(), batches.clone());
        match store.run(move |store| store.commit(&these, now)).await {
            Err(error) if error.is_retryable() => {
                let wait = backoff.next_delay(fastrand::f64());
                log::warn!(error:% = error, retry_ms = wait.as_millis() as u64; "the database is away, bars wait");
                actix_rt::time::sleep(wait).await;
            }
            other => return other,
        }
    }
}

impl Actor for WriterActor {
    type Context = Context<Self>;
}

impl Handler<StoreFacts> for WriterActor {
    type Result = ResponseFuture<Result<(), Arc<StoreError>>>;

    fn handle(&mut self, StoreFacts(facts): StoreFacts, ctx: &mut Self::Context) -> Self::Result {
        let (answer, waiting) = oneshot::channel();
        self.overflow.push_back((facts, answer));
        self.refill();
        self.flush_if_due(ctx);
        Box::pin(async move { waiting.await.unwrap_or_else(|_| Err(Arc::new(StoreError::Closed))) })
    }
}
