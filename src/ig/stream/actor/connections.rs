//! A session and its connections: brings the one that it wants, sends what it wants sent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;

use super::StreamActor;
use crate::ig::error::cut;
use crate::ig::session::tokens::Tokens;
use crate::ig::stream::frames::Frames;
use crate::ig::stream::socket::{self, Arrived, Clients, Connection};
use crate::tlcp::{Lost, Post, TlcpSession, Transmit, Transport, Version, address};
use crate::transcript::{Recorder, SocketKind};

/// A session's timer goes off, or its connection is made or given up, within this time of when that is due.
const STEP_WITHIN: Duration = Duration::from_secs(180);

/// A session, and what carries it at present.
pub(super) struct Link {
    pub(super) session: TlcpSession,
    pub(super) tokens: Arc<Tokens>,
    pub(super) version: Version,
    pub(super) connection: Option<Connection>,
    pub(super) connecting: Connecting,
    pub(super) frames: Frames,
    pub(super) timer: Option<(Instant, SpawnHandle)>,
    /// Moving rows came, so that the pauses between attempts begin anew.
    pub(super) works: bool,
}

/// How far the connection is that the session wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connecting {
    /// None is wanted, or it is there.
    No,
    /// Its time is to come.
    Later,
    /// It is being made.
    Now,
}

impl StreamActor {
    /// Brings the connection that the session wants, when its time has come.
    fn bring_connection(&mut self, ctx: &mut Context<Self>) {
        let now = self.clock.monotonic();
        let Some(link) = &mut self.link else { return };
        let Some(wanted) = link.session.wanted() else { return };
        // One that is being made while another is wanted was given up: it took too long.
        if link.connecting == Connecting::Later {
            return;
        }
        let at = self.reconnect.earliest(wanted.not_before.unwrap_or(now).max(now));
        link.connecting = Connecting::Later;
        link.connection = None;
        link.frames = Frames::default();
        self.socket += 1;
        let socket = self.socket;
        let wait = at.saturating_duration_since(now);
        if wait.is_zero() {
            return self.connect(socket, ctx);
        }
        ctx.run_later(wait, move |act, ctx| act.connect(socket, ctx));
    }

    fn connect(&mut self, socket: u64, ctx: &mut Context<Self>) {
        let now = self.clock.monotonic();
        if self.socket != socket || self.stopping {
            return;
        }
        let Some(link) = &mut self.link else { return };
        let Some(wanted) = link.session.wanted() else { return };
        let endpoint = &link.tokens.lightstreamer_endpoint;
        let control_link = wanted.control_link.filter(|_| self.options.control_link);
        let transport = wanted.transport;
        let base = address::base(endpoint, control_link).or_else(|bad| {
            log::warn!(link = cut(control_link.unwrap_or_default()).as_str(), why:% = bad; "the control link is not followed");
            address::base(endpoint, None)
        });
        let Ok(base) = base else { return };
        let kind = if transport == Transport::Http { SocketKind::Http } else { SocketKind::Ws };
        self.recorder.stream_opened(socket, kind, &base);
        self.reconnect.begun(now);
        self.clients.lull.end();
        link.connecting = Connecting::Now;
        link.session.handle_connecting(now);
        match transport {
            Transport::Http => self.opened(socket, Connection::Http { base, reader: None }, ctx),
            Transport::WebSocket => {
                let (client, version, actor) = (self.clients.streaming.clone(), link.version, ctx.address());
                let opening =
                    async move { socket::open_websocket(&client, &base, version, socket, actor).await };
                ctx.spawn(opening.into_actor(self).map(move |opened, act, ctx| match opened {
                    Ok(connection) => act.opened(socket, connection, ctx),
                    Err((lost, why)) => {
                        ctx.notify(Arrived { socket, pieces: Vec::new(), lost: Some((lost, why)) })
                    }
                }));
            }
        }
        self.pump(ctx);
    }

    fn opened(&mut self, socket: u64, connection: Connection, ctx: &mut Context<Self>) {
        let now = self.clock.monotonic();
        if self.socket != socket {
            return;
        }
        if let Some(link) = &mut self.link {
            link.session.handle_open(now);
            link.connection = Some(connection);
            link.connecting = Connecting::No;
        }
        self.pump(ctx);
    }

    /// Sends what the session wants sent, brings the connection that it wants, arms its timer.
    pub(super) fn pump(&mut self, ctx: &mut Context<Self>) {
        let address = ctx.address();
        let Some(link) = &mut self.link else { return };
        while let Some(transmit) = link.session.poll_transmit() {
            record(&self.recorder, self.socket, &transmit);
            if !send(link, transmit, self.socket, &self.clients, &address) {
                log::warn!("the connection takes nothing any more");
                let stuck = Some((Lost::Closed, "stuck".to_owned()));
                ctx.notify(Arrived { socket: self.socket, pieces: Vec::new(), lost: stuck });
                break;
            }
        }
        if link.session.wanted().is_some() {
            self.bring_connection(ctx);
        }
        self.arm_timer(ctx);
        self.expect_step();
    }

    /// Something happens before the session's timer goes off, or then; where it has none, a connection is
    /// to be made.
    fn expect_step(&self) {
        let Some(link) = &self.link else { return };
        let now = self.clock.monotonic();
        let wanted = link.session.wanted().map(|wanted| wanted.not_before.unwrap_or(now));
        let due = link.session.next_timeout().into_iter().chain(wanted).max().unwrap_or(now);
        self.lifeline.pulse().step(due.saturating_duration_since(now) + STEP_WITHIN);
    }

    fn arm_timer(&mut self, ctx: &mut Context<Self>) {
        let now = self.clock.monotonic();
        let Some(link) = &mut self.link else { return };
        let Some(due) = link.session.next_timeout() else { return };
        if link.timer.as_ref().is_some_and(|(armed, _)| *armed <= due) {
            return;
        }
        if let Some((_, handle)) = link.timer.take() {
            ctx.cancel_future(handle);
        }
        let handle = ctx.run_later(due.saturating_duration_since(now), |act, ctx| {
            if let Some(link) = &mut act.link {
                link.timer = None;
            }
            act.excuse_unread();
            let mut told = Vec::new();
            act.drive(&mut told, |session, now, on_event| session.handle_timeout(now, on_event), ctx);
            act.tell(told, ctx);
            act.pump(ctx);
        });
        link.timer = Some((due, handle));
    }
}

/// Writes down what is sent; over HTTP in the form that it would have on a WebSocket.
pub(super) fn record(recorder: &Recorder, socket: u64, transmit: &Transmit) {
    match transmit {
        Transmit::Message(text) => recorder.stream_sent(socket, text),
        Transmit::Post(Post { path, body, .. }) => {
            let name = path.trim_start_matches('/').split('.').next().unwrap_or_default();
            recorder.stream_sent(socket, &format!("{name}\r\n{body}"));
        }
    }
}

/// Puts what the session wants sent on its way. False where that is impossible.
pub(super) fn send(
    link: &mut Link,
    transmit: Transmit,
    socket: u64,
    clients: &Clients,
    actor: &Addr<StreamActor>,
) -> bool {
    link.connection
        .as_mut()
        .is_some_and(|connection| connection.send(transmit, socket, clients, actor).is_ok())
}
