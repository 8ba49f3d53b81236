//! What outlives an aggregator: its findings on their way to the writer, and up to where each feed is
//! accounted for. An aggregator that is built anew goes on from there, so its death costs nothing that
//! was found, and no bucket is accounted for twice or not at all.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::outbox::{Offer, Outbox};
use crate::clock::Clock;
use crate::domain::{FactBatch, Timestamp};
use crate::messages::{HolesRecorded, StoreFacts};
use crate::supervisor::{Alarm, Line};

/// Findings that may wait for the writer before the stream is read no further.
pub const UNSTORED_MAX: usize = 65_536;
/// Ticks after which what an idle writer has not acknowledged is offered again.
const UNHEARD_TICKS: u32 = 120;
/// Pause before what the writer could not take is offered again.
const OFFER_AGAIN: Duration = Duration::from_millis(500);

/// The way out of the aggregator. Clones are one.
#[derive(Clone)]
pub struct Outbound(Rc<Inner>);

struct Inner {
    writer: Line<StoreFacts>,
    healer: Line<HolesRecorded>,
    clock: Clock,
    alarm: Alarm,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    outbox: Outbox,
    /// Who waits for which batch to be durable, and whether it has holes that REST may fill.
    told: Vec<(u64, bool, oneshot::Sender<()>)>,
    waiting_for_room: Vec<oneshot::Sender<()>>,
    /// The first bucket of each feed that nothing here tells of.
    frontiers: Vec<Option<Timestamp>>,
    matched: u32,
    /// Ticks in a row in which something was to become durable and the writer had nothing to do.
    unheard_ticks: u32,
}

impl Outbound {
    /// The way to this writer, for feeds that are accounted for up to here. `matched`: what guessed
    /// closes have earned.
    pub fn new(
        (writer, healer): (Line<StoreFacts>, Line<HolesRecorded>),
        (clock, alarm): (Clock, Alarm),
        frontiers: Vec<Option<Timestamp>>,
        matched: u32,
    ) -> Outbound {
        let state = RefCell::new(State { frontiers, matched, ..State::default() });
        Outbound(Rc::new(Inner { writer, healer, clock, alarm, state }))
    }

    /// Up to where each feed is accounted for, by what has been handed out.
    pub fn frontiers(&self) -> Vec<Option<Timestamp>> {
        self.0.state.borrow().frontiers.clone()
    }

    /// What guessed closes have earned.
    pub fn matched(&self) -> u32 {
        self.0.state.borrow().matched
    }

    /// Takes note of how far it has come, once all that this rests on is handed out.
    pub fn account(&self, frontiers: impl Iterator<Item = Option<Timestamp>>, matched: u32) {
        let mut state = self.0.state.borrow_mut();
        state.frontiers.clear();
        state.frontiers.extend(frontiers);
        state.matched = matched;
    }

    /// Hands findings to the writer, behind those before; answers once they are durable. `holes`: the
    /// healer is to be told then.
    pub fn hand_out(&self, batch: Arc<FactBatch>, holes: bool) -> oneshot::Receiver<()> {
        let (durable, waiting) = oneshot::channel();
        {
            let mut state = self.0.state.borrow_mut();
            let id = state.outbox.push(batch, self.0.clock.monotonic());
            state.told.push((id, holes, durable));
        }
        self.pump();
        waiting
    }

    /// Answers at once while little waits for the writer, else when that is so again.
    pub fn room(&self) -> Option<oneshot::Receiver<()>> {
        let mut state = self.0.state.borrow_mut();
        if state.outbox.facts() < UNSTORED_MAX {
            return None;
        }
        let (room, waiting) = oneshot::channel();
        state.waiting_for_room.push(room);
        Some(waiting)
    }

    /// A second has passed; `writer_idle`: the writer has nothing that it could still answer for. What is not
    /// durable then was lost on the way, and is offered again.
    pub fn tick(&self, writer_idle: bool) {
        {
            let mut state = self.0.state.borrow_mut();
            let unheard = writer_idle && !state.outbox.is_empty();
            state.unheard_ticks = if unheard { state.unheard_ticks + 1 } else { 0 };
            if state.unheard_ticks < UNHEARD_TICKS {
                return;
            }
            state.unheard_ticks = 0;
            log::error!(facts = state.outbox.facts(); "findings were never acknowledged, offering them again");
            state.outbox.begin_again();
        }
        self.pump();
    }

    /// Whether all that was handed out is durable.
    pub fn is_empty(&self) -> bool {
        self.0.state.borrow().outbox.is_empty()
    }

    /// Offers what is to be offered. Queued here and not in the tasks, so that it arrives in its order.
    fn pump(&self) {
        loop {
            let Some(offer) = self.0.state.borrow_mut().outbox.next_offer() else { return };
            let Offer { id, round, batch, found } = offer;
            let facts = batch.facts.len();
            let (sent, outbound) = (self.0.writer.send(StoreFacts { batch, found }), self.clone());
            let awaiting = async move {
                match sent.await {
                    Ok(Ok(())) => outbound.durable(id),
                    // Several are under way, and fail together.
                    outcome if !outbound.0.state.borrow_mut().outbox.failed(round) => drop(outcome),
                    Ok(Err(error)) => {
                        log::error!(error:% = error, facts; "the writer could not store, offering again");
                        outbound.offer_again().await;
                    }
                    Err(_) => {
                        log::warn!("the writer is gone, holding what it had");
                        outbound.offer_again().await;
                    }
                }
            };
            let alarm = self.0.alarm.clone();
            actix_rt::spawn(async move { alarm.vital("the way to the writer", awaiting).await });
        }
    }

    async fn offer_again(&self) {
        actix_rt::time::sleep(OFFER_AGAIN).await;
        self.0.state.borrow_mut().outbox.begin_again();
        self.pump();
    }

    fn durable(&self, id: u64) {
        let mut state = self.0.state.borrow_mut();
        state.outbox.durable(id);
        if state.outbox.facts() < UNSTORED_MAX {
            // Whoever waited may have gone.
            for room in state.waiting_for_room.drain(..) {
                let _ = room.send(());
            }
        }
        if let Some(ix) = state.told.iter().position(|(of, ..)| *of == id) {
            let (_, holes, durable) = state.told.remove(ix);
            if holes {
                self.0.healer.hint(HolesRecorded);
            }
            let _ = durable.send(());
        }
    }
}
