//! What is done about silence, of one item or of all.

use std::time::Duration;

use actix::prelude::*;

use super::connections::{record, send};
use super::{SETTING_SILENT_EXITS, StreamActor};
use crate::domain::{Reason, StreamEvent};
use crate::exit::Exit;
use crate::ig::stream::silence::{Market, Remedy};
use crate::messages::{Resubscribe, TokensRefused};
use crate::tlcp::EndCause;

/// Why the process ends at last.
const SILENT: &str =
    "nothing comes although the market is open, and neither a new streaming session nor a new login helped";

impl Handler<Resubscribe> for StreamActor {
    type Result = ();

    fn handle(&mut self, Resubscribe { feed, in_vain }: Resubscribe, ctx: &mut Self::Context) {
        let now = self.clock.monotonic();
        let held = self.link.as_ref().is_some_and(|link| link.session.holds(feed.0));
        let Some(remedy) = self.silent_items.silent(held, in_vain, now) else { return };
        if remedy == Remedy::NewSession {
            log::warn!(pair:% = self.known.items[feed.ix()].pair(), in_vain; "subscribing again does not help, making a new session");
            return self.renew_session(self.options.stale, ctx);
        }
        if let Some(link) = &mut self.link {
            link.session.resubscribe(now, feed.0);
            self.known.silent(Some(feed));
            self.pump(ctx);
        }
    }
}

impl StreamActor {
    pub(super) fn look_for_silence(&mut self, ctx: &mut Context<Self>) {
        let (now, event_now) = (self.clock.monotonic(), self.event_clock.now());
        // Without a connection it is the attempts to make one that count, and nothing comes of one that
        // is not read.
        let may_come = self.link.is_some() && !self.is_unread();
        let (Some(silence), Some(event_now)) = (&mut self.silence, event_now) else { return };
        let market = self.known.market(event_now);
        let market = if may_come { market } else { Market::Closed };
        let fruitless = silence.fruitless();
        let Some((remedy, silent)) = silence.look(now, market) else { return };
        log::warn!(silent_s = silent.as_secs(), remedy:? = remedy; "nothing comes although the market is open");
        match remedy {
            Remedy::Resubscribe => {
                if let Some(link) = &mut self.link {
                    for feed in 0..self.known.items.len() {
                        link.session.resubscribe(now, feed as u16);
                    }
                }
                self.known.silent(None);
                self.tell(vec![StreamEvent::Broken { feed: None, reason: Reason::Stale }], ctx);
                self.pump(ctx);
            }
            Remedy::NewSession => self.renew_session(silent, ctx),
            Remedy::NewLogin => {
                if let Some(link) = &self.link {
                    let generation = link.tokens.generation;
                    self.session.refused.hint(TokensRefused { generation, certain: true });
                }
                self.renew_session(silent, ctx);
            }
            Remedy::Exit => self.exit_in_silence(fruitless),
        }
    }

    /// Ends the process once it is written down that it ended so. `fruitless`: those before it.
    pub(super) fn exit_in_silence(&self, fruitless: u32) {
        let (alarm, exits) = (self.lifeline.alarm().clone(), (fruitless + 1).to_string());
        self.keep_open_breaks();
        let saving = self.store.run(move |store| store.set_setting(SETTING_SILENT_EXITS, &exits));
        actix_rt::spawn(async move {
            if let Err(error) = saving.await {
                log::warn!(error:% = error; "the next process will not know that this one ended in silence");
            }
            alarm.exit(Exit::Failed, SILENT);
        });
    }

    /// Gives the session up and makes another.
    fn renew_session(&mut self, silence: Duration, ctx: &mut Context<Self>) {
        let address = ctx.address();
        let Some(link) = &mut self.link else { return };
        link.session.destroy();
        while let Some(transmit) = link.session.poll_transmit() {
            record(&self.recorder, self.socket, &transmit);
            send(link, transmit, self.socket, &self.clients, &address);
        }
        let mut told = Vec::new();
        self.ended(&EndCause::Stalled { silence }, &mut told, ctx);
        self.tell(told, ctx);
    }
}
