//! From attempt to session, and from its end to the next attempt.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::connections::{Connecting, Link};
use super::{FIRST_RETRY_MAX, StreamActor};
use crate::domain::{FeedIx, Reason, StreamEvent};
use crate::failpoint;
use crate::ig::error::IgError;
use crate::ig::session::tokens::Tokens;
use crate::ig::stream::frames::Frames;
use crate::ig::stream::state::Phase;
use crate::messages::{GetTokens, TokensRefused};
use crate::tlcp::reconnect::Attempt;
use crate::tlcp::{EndCause, Options, TlcpSession, code};

/// With tokens at hand a session is begun at once.
const BEGUN_WITHIN: Duration = Duration::from_secs(60);

impl StreamActor {
    /// Makes a new session when its time has come.
    pub(super) fn attempt(&mut self, attempt: Attempt, ctx: &mut Context<Self>) {
        let pause = attempt.at.saturating_duration_since(self.clock.monotonic());
        self.lifeline.pulse().step(pause + BEGUN_WITHIN);
        ctx.run_later(pause, move |act, ctx| act.begin(attempt, ctx));
    }

    /// Gets tokens that IG says work, and begins a session with them.
    fn begin(&mut self, attempt: Attempt, ctx: &mut Context<Self>) {
        if self.stopping {
            return;
        }
        failpoint::in_room("stream.begin", ctx);
        // Whether there are tokens is for the session to be watched over for.
        self.lifeline.pulse().rest();
        let asking = self.session.tokens.send(GetTokens { validate: true });
        ctx.spawn(asking.into_actor(self).map(move |answer, act, ctx| {
            act.lifeline.pulse().step(BEGUN_WITHIN);
            if act.stopping || act.link.is_some() {
                return;
            }
            match answer.unwrap_or_else(|_| Err(IgError::Retryable("the session room is gone".to_owned()))) {
                Ok(tokens) => act.begin_with(tokens, attempt, ctx),
                // Also where the session has asked for the process to end: it ends anyway.
                Err(error) => {
                    act.stats.stream_attempts_failed.add(1);
                    act.stats.stream_news.notify_one();
                    let mut next = act.reconnect.after_no_tokens(act.clock.monotonic());
                    next.at = next.at.max(act.clock.monotonic() + error.pause());
                    log::warn!(error:% = error, pause_ms = act.pause_ms(next); "no tokens for the stream");
                    act.attempt(next, ctx);
                }
            }
        }));
    }

    fn begin_with(&mut self, tokens: Arc<Tokens>, attempt: Attempt, ctx: &mut Context<Self>) {
        let own = &self.options;
        let options = Options {
            version: attempt.version,
            transport: attempt.transport,
            both_transports: own.transport.is_none(),
            adapter_set: None,
            keepalive: own.keepalive,
            inactivity: own.inactivity,
            send_sync: false,
            retry: own.retry,
            stalled: own.stalled,
            reconnect: own.reconnect,
            recovery: own.recovery,
            first_retry_max: FIRST_RETRY_MAX,
            content_length: own.content_length,
            websocket_again: own.websocket_again,
            first_request_id: self.next_request_id,
            seed: fastrand::u64(..),
        };
        let password = tokens.stream_password();
        let mut session = TlcpSession::new(options, tokens.account_id.clone(), password.expose().to_owned());
        let (now, mut left_out) = (self.clock.monotonic(), Vec::new());
        for (feed, item) in self.known.items.iter().enumerate() {
            let feed = FeedIx(feed as u16);
            match self.faulty.wait(feed, now) {
                None => _ = session.subscribe(item.spec(feed)),
                Some(wait) => left_out.push((feed, wait)),
            }
        }
        self.links += 1;
        self.link = Some(Link {
            session,
            tokens,
            version: attempt.version,
            connection: None,
            connecting: Connecting::No,
            frames: Frames::default(),
            timer: None,
            works: false,
        });
        for (feed, wait) in left_out {
            self.subscribe_later(feed, wait, ctx);
        }
        self.pump(ctx);
    }

    /// Subscribes a feed that this session does not hold. The next one decides for itself.
    pub(super) fn subscribe_later(&mut self, feed: FeedIx, pause: Duration, ctx: &mut Context<Self>) {
        let planned_for = self.links;
        ctx.run_later(pause, move |act, ctx| {
            let Some(link) = act.link.as_mut().filter(|_| act.links == planned_for) else { return };
            let spec = act.known.items[feed.ix()].spec(feed);
            match act.faulty.wait(feed, act.clock.monotonic()) {
                None => link.session.subscribe(spec),
                Some(_) => link.session.subscribe_on_probation(spec),
            };
            act.pump(ctx);
        });
    }

    /// The session is over: tells it on, and begins anew as the cause asks for.
    pub(super) fn ended(&mut self, cause: &EndCause, told: &mut Vec<StreamEvent>, ctx: &mut Context<Self>) {
        let Some(mut link) = self.link.take() else { return };
        if let Some((_, handle)) = link.timer.take() {
            ctx.cancel_future(handle);
        }
        self.next_request_id = link.session.next_request_id();
        self.socket += 1;
        self.known.session_over(cause);
        told.push(StreamEvent::Broken { feed: None, reason: Reason::Disconnected });
        if self.stopping {
            return;
        }
        self.stats.stream_attempts_failed.add(u64::from(!link.works));
        self.known.state.enter(Phase::Connecting, Some(cause.to_string()));
        self.probe_end(cause, &link);
        let transport = link.session.transport();
        let now = self.clock.monotonic();
        let (next, consequences) = self.reconnect.after(cause, transport, link.works, now);
        if let Some(tag) = consequences.leave_out {
            let (feed, pair) = (FeedIx(tag), self.known.items[usize::from(tag)].pair());
            let pause_ms = self.faulty.failed(feed, now).as_millis() as u64;
            log::error!(pair:% = pair, pause_ms; "rows cannot be read, leaving the pair out for a while");
            self.known.state.refused.insert(pair.to_string(), format!("left out for a while: {cause}"));
        }
        if consequences.login {
            self.session.refused.hint(TokensRefused { generation: link.tokens.generation, certain: true });
        }
        let pause_ms = self.pause_ms(next);
        if consequences.alarm {
            log::error!(cause:% = cause, pause_ms; "the stream needs an operator; trying on, slowly");
        } else {
            log::warn!(
                cause:% = cause, pause_ms, version = next.version.number(), transport = next.transport.as_str();
                "streaming session over, trying a new one"
            );
        }
        self.attempt(next, ctx);
    }

    fn probe_end(&mut self, cause: &EndCause, link: &Link) {
        let probes = &mut self.known.probes;
        match cause {
            EndCause::Refused { code, text, policy } if policy.step == code::Step::OlderVersion => {
                probes.version_refused(link.version.number(), &format!("{code} {text}"));
            }
            // A session that had begun was refused when it was to go on.
            EndCause::Refused { code, text, .. } if link.session.data_count() > 0 => {
                probes.unrecovered += 1;
                probes.recovery_refused = Some(format!("{code} {text}"));
            }
            EndCause::Unrecovered { .. } => probes.unrecovered += 1,
            _ => {}
        }
    }
}
