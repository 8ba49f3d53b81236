//! StreamActor: the connections to Lightstreamer around the pure [`TlcpSession`].
//!
//! Asks the SessionActor for tokens, feeds the AggregatorActor. One message a batch of frames,
//! not one an update; the connection is read on only when the aggregator has taken the last
//! batch, while timers and outgoing requests go on. What happens is decided elsewhere: in the
//! session, in [`Reconnect`] between sessions, in [`Silence`] when nothing comes, and
//! [`translate`](super::translate) turns what is told into the house's words. Holds each item's
//! folded row. A restart of this actor is a break of continuity.

use std::collections::BTreeSet;
use std::str;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use awc::ws::Frame;

use super::faulty::Faulty;
use super::frames::{Framed, Frames};
use super::probes::{self, Probes};
use super::silence::{Remedy, Silence};
use super::socket::{self, Arrived, Connection, Piece};
use super::state::{self, Phase, StreamState};
use super::translate::{Carried, FollowUp, Translation, Translator};
use crate::clock::{Clock, ClockKind, EventClock};
use crate::config;
use crate::domain::{Calendar, FeedIx, Reason, StreamEvent};
use crate::exit::Exit;
use crate::ig::error::{IgError, cut};
use crate::ig::markets::{self, Instrument};
use crate::ig::rest::RestClient;
use crate::ig::session::actor::SessionActor;
use crate::ig::session::tokens::Tokens;
use crate::messages::{GetTokens, Resubscribe, StreamTold, TokensRefused};
use crate::stats::Stats;
use crate::store::{Store, StoreError, StoreHandle};
use crate::supervisor::{Alarm, Lifeline};
use crate::tlcp::reconnect::{Attempt, Plan, Reconnect};
use crate::tlcp::session::Purpose;
use crate::tlcp::{
    EndCause, Event, Lost, Options, Post, TlcpSession, Transmit, Transport, Version, address, code,
};
use crate::transcript::{Recorder, SocketKind};

/// Longest random pause before the first attempt after a working connection broke.
const FIRST_RETRY_MAX: Duration = Duration::from_millis(100);
/// Pauses before REST is asked about a scale in doubt, and asked again; the last one repeats.
const CONFIRM_PAUSES_S: [u64; 5] = [1, 5, 30, 120, 600];
/// How often new findings about the broker are kept.
const KEEP_PROBES_EVERY: Duration = Duration::from_secs(60);
/// A pair that so many new subscriptions in a row did not wake is given a new session.
const RENEW_FROM_IN_VAIN: u32 = 2;
/// And that so often at most: the other pairs pay for it, and a market may just be asleep.
const RENEW_EVERY: Duration = Duration::from_secs(3_600);
/// Where it is kept how many processes in a row ended because nothing came.
pub const SETTING_SILENT_EXITS: &str = "stream.silent_exits";
/// Why the process ends at last.
const SILENT: &str =
    "nothing comes although the market is open, and neither a new streaming session nor a new login helped";
/// Where the version that worked last is kept, behind the one that was wanted.
pub const SETTING_VERSION: &str = "stream.version_worked";

/// What the stream needs to know.
pub struct StreamSettings {
    /// Asked at which price a feed trades whose scale is in doubt.
    pub rest: RestClient,
    /// Instruments by [`FeedIx`].
    pub instruments: Vec<Instrument>,
    /// Version to claim first.
    pub version: Version,
    /// The hours in which rows are fresh.
    pub calendar: Calendar,
    /// Which clock the rows are compared with.
    pub clock_kind: ClockKind,
    /// Timers and transport.
    pub options: config::Stream,
    /// What earlier processes left.
    pub memory: Memory,
    /// Where what is said is written down.
    pub recorder: Recorder,
}

/// What is known from earlier processes.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// What was seen of the broker.
    pub probes: Probes,
    /// Processes in a row that ended because nothing came.
    pub silent_exits: u32,
    /// The version that worked last where the present one was wanted.
    pub version_worked: Option<Version>,
}

/// Streams.
pub struct StreamActor {
    client: awc::Client,
    rest: RestClient,
    session: Addr<SessionActor>,
    aggregator: Recipient<StreamTold>,
    store: StoreHandle,
    clock: Clock,
    event_clock: EventClock,
    alarm: Alarm,
    stats: Arc<Stats>,
    version_wanted: Version,
    options: config::Stream,
    known: Translator,
    kept_probes: Probes,
    kept_state: StreamState,
    reconnect: Reconnect,
    silence: Option<Silence>,
    recorder: Recorder,
    faulty: Faulty,
    /// Feeds whose scale is in doubt, and how often REST was asked in a row.
    doubted: BTreeSet<FeedIx>,
    confirmations: usize,
    /// When a session was last given up for the sake of one pair.
    renewed_at: Option<Instant>,
    link: Option<Link>,
    /// Grows with each session, so that what was planned for an old one is told apart.
    links: u64,
    /// Grows with each connection, so that late news of an old one is told apart.
    socket: u64,
    next_request_id: u64,
    stopping: bool,
    _lifeline: Lifeline,
}

/// A session, and what carries it at present.
struct Link {
    session: TlcpSession,
    tokens: Arc<Tokens>,
    version: Version,
    connection: Option<Connection>,
    connecting: Connecting,
    frames: Frames,
    timer: Option<(Instant, SpawnHandle)>,
    /// Moving rows came, so that the pauses between attempts begin anew.
    works: bool,
}

/// How far the connection is that the session wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Connecting {
    /// None is wanted, or it is there.
    No,
    /// Its time is to come.
    Later,
    /// It is being made.
    Now,
}

/// Asks the actor to close the stream for good.
#[derive(Message)]
#[rtype(result = "()")]
pub struct StopStreaming;

impl StreamActor {
    /// A stream that connects when it starts.
    #[expect(clippy::too_many_arguments, reason = "one argument a neighbour")]
    pub fn new(
        client: awc::Client,
        session: Addr<SessionActor>,
        aggregator: Recipient<StreamTold>,
        store: StoreHandle,
        (clock, event_clock): (Clock, EventClock),
        settings: StreamSettings,
        alarm: Alarm,
        stats: Arc<Stats>,
    ) -> StreamActor {
        let StreamSettings { rest, instruments, version, calendar, clock_kind, options, memory, recorder } =
            settings;
        let plan = Plan {
            version,
            worked: memory.version_worked,
            transport: options.transport,
            retry: options.retry,
            first_retry_max: FIRST_RETRY_MAX,
            websocket_again: options.websocket_again,
        };
        StreamActor {
            client,
            rest,
            session,
            aggregator,
            store,
            clock,
            event_clock,
            stats,
            version_wanted: version,
            silence: options.silence.map(|limit| Silence::new(limit, memory.silent_exits)),
            recorder,
            renewed_at: None,
            options,
            known: Translator::new(&instruments, calendar, clock_kind, memory.probes.clone()),
            kept_probes: memory.probes,
            kept_state: StreamState::default(),
            reconnect: Reconnect::new(plan, fastrand::u64(..)),
            faulty: Faulty::default(),
            doubted: BTreeSet::new(),
            confirmations: 0,
            link: None,
            links: 0,
            socket: 0,
            next_request_id: 1,
            stopping: false,
            _lifeline: alarm.lifeline("stream"),
            alarm,
        }
    }

    // From attempt to session.

    /// Makes a new session when its time has come.
    fn attempt(&mut self, attempt: Attempt, ctx: &mut Context<Self>) {
        let pause = attempt.at.saturating_duration_since(self.clock.monotonic());
        ctx.run_later(pause, move |act, ctx| act.begin(attempt, ctx));
    }

    /// Gets tokens that IG says work, and begins a session with them.
    fn begin(&mut self, attempt: Attempt, ctx: &mut Context<Self>) {
        if self.stopping {
            return;
        }
        let asking = self.session.send(GetTokens { validate: true });
        ctx.spawn(asking.into_actor(self).map(move |answer, act, ctx| {
            if act.stopping || act.link.is_some() {
                return;
            }
            match answer.unwrap_or_else(|_| Err(IgError::Retryable("the session room is gone".to_owned()))) {
                Ok(tokens) => act.begin_with(tokens, attempt, ctx),
                // Also where the session has asked for the process to end: it ends anyway.
                Err(error) => {
                    let next = act.reconnect.after_no_tokens(act.clock.monotonic());
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
    fn subscribe_later(&mut self, feed: FeedIx, pause: Duration, ctx: &mut Context<Self>) {
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

    // Connections.

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
        link.connecting = Connecting::Now;
        link.session.handle_connecting(now);
        match transport {
            Transport::Http => self.opened(socket, Connection::Http { base, reader: None }, ctx),
            Transport::WebSocket => {
                let (client, version, actor) = (self.client.clone(), link.version, ctx.address());
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
    fn pump(&mut self, ctx: &mut Context<Self>) {
        let address = ctx.address();
        let Some(link) = &mut self.link else { return };
        while let Some(transmit) = link.session.poll_transmit() {
            record(&self.recorder, self.socket, &transmit);
            if !send(link, transmit, self.socket, &self.client, &address) {
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
            let mut told = Vec::new();
            act.drive(&mut told, |session, now, on_event| session.handle_timeout(now, on_event), ctx);
            act.tell(told, ctx);
            act.pump(ctx);
        });
        link.timer = Some((due, handle));
    }

    // What is told.

    /// Drives the session and translates what it says.
    fn drive(
        &mut self,
        told: &mut Vec<StreamEvent>,
        drive: impl FnOnce(&mut TlcpSession, Instant, &mut dyn FnMut(Event<'_>)),
        ctx: &mut Context<Self>,
    ) {
        let Some(link) = &mut self.link else { return };
        let now = self.clock.monotonic();
        let moved = self.known.moving_rows;
        let mut later = Vec::new();
        let mut translation = Translation {
            known: &mut self.known,
            now: self.event_clock.now(),
            system_now: self.event_clock.uncorrected(),
            steady: self.event_clock.is_steady(),
            carried: Carried { version: link.version, transport: link.session.transport() },
            stats: &self.stats,
            told,
            later: &mut later,
        };
        drive(&mut link.session, now, &mut |event| translation.take(event));
        if self.known.moving_rows > moved {
            self.rows_came(now);
        }
        for what in later {
            self.follow_up(what, told, ctx);
        }
        self.keep_state();
    }

    fn rows_came(&mut self, now: Instant) {
        if let Some(link) = self.link.as_mut().filter(|link| !link.works) {
            link.works = true;
            let worked = format!("{} {}", self.version_wanted.number(), link.version.number());
            self.reconnect.works();
            self.keep(SETTING_VERSION, worked);
            // Somebody who looks at a new session should not wait for the next round.
            self.keep_probes();
        }
        if self.silence.as_mut().is_some_and(|silence| silence.rows(now)) {
            log::info!("rows come again");
            self.keep(SETTING_SILENT_EXITS, "0".to_owned());
        }
    }

    fn follow_up(&mut self, what: FollowUp, told: &mut Vec<StreamEvent>, ctx: &mut Context<Self>) {
        match what {
            FollowUp::Retry { feed, pause } => {
                let now = self.clock.monotonic();
                let faulty = self.faulty.wait(feed, now).map(|_| self.faulty.failed(feed, now));
                self.subscribe_later(feed, pause.max(faulty.unwrap_or_default()), ctx);
            }
            FollowUp::ClocksApart { stream, system } => {
                self.alarm.exit(
                    Exit::Configuration,
                    format!(
                        "the stream's clock says {stream} and the system's {system}: set the system's clock, or \
                         CANDLEKEEP_CLOCK=stream if this is a replay or a simulator"
                    ),
                );
            }
            FollowUp::ConfirmScale { feed } => {
                if self.doubted.insert(feed) && self.doubted.len() == 1 {
                    self.confirm_later(ctx);
                }
            }
            FollowUp::Mended(told) => {
                let now = self.clock.wall();
                self.save(move |store| store.record_break(&told, now));
            }
            FollowUp::Ended(cause) => self.ended(&cause, told, ctx),
        }
    }

    /// The session is over: tells it on, and begins anew as the cause asks for.
    fn ended(&mut self, cause: &EndCause, told: &mut Vec<StreamEvent>, ctx: &mut Context<Self>) {
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
            self.session.do_send(TokensRefused { generation: link.tokens.generation, certain: true });
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

    /// Hands the news on. Their order is that of the mailbox.
    fn tell(&self, told: Vec<StreamEvent>, ctx: &mut Context<Self>) {
        if !told.is_empty() {
            let sending = self.aggregator.send(StreamTold(told));
            ctx.spawn(sending.into_actor(self).map(|_, _, _| ()));
        }
    }

    fn pause_ms(&self, next: Attempt) -> u64 {
        next.at.saturating_duration_since(self.clock.monotonic()).as_millis() as u64
    }

    // Frames.

    fn piece(&mut self, piece: Piece, told: &mut Vec<StreamEvent>, ctx: &mut Context<Self>) {
        match piece {
            Piece::Frame(frame) => self.frame(frame, told, ctx),
            Piece::Bytes(bytes) => {
                self.recorder.stream_received(self.socket, &String::from_utf8_lossy(&bytes));
                self.drive(told, |session, now, on_event| session.handle_bytes(now, &bytes, on_event), ctx);
            }
            Piece::Answer(answer) => {
                self.recorder.stream_received(self.socket, &answer);
                self.drive(told, |session, now, on_event| session.handle_answer(now, &answer, on_event), ctx);
            }
        }
    }

    /// One frame: a whole message, a part of one, or the connection's own business.
    fn frame(&mut self, frame: Frame, told: &mut Vec<StreamEvent>, ctx: &mut Context<Self>) {
        let Some(Link { frames, connection, .. }) = &mut self.link else { return };
        match frames.take(frame) {
            Framed::Message(bytes) => self.message(&bytes, told, ctx),
            Framed::Nothing => {}
            Framed::Asked(answer) => {
                if let Some(connection) = connection {
                    connection.send_frame(answer);
                }
            }
            Framed::Closed(answer) => {
                if let Some(connection) = connection {
                    connection.send_frame(answer);
                }
                self.lose(told, Lost::Closed, ctx);
            }
            // How many lines were in it cannot be known. A recovery tells what they were.
            Framed::Unreadable(why) => {
                log::warn!(why; "a message cannot be read");
                self.lose(told, Lost::Closed, ctx);
            }
        }
    }

    fn message(&mut self, bytes: &[u8], told: &mut Vec<StreamEvent>, ctx: &mut Context<Self>) {
        match str::from_utf8(bytes) {
            Ok(text) => {
                self.recorder.stream_received(self.socket, text);
                self.drive(told, |session, now, on_event| session.handle_message(now, text, on_event), ctx);
            }
            Err(_) => {
                // As with one that is binary.
                log::warn!(text = cut(&String::from_utf8_lossy(bytes)).as_str(); "a message is not UTF-8");
                self.lose(told, Lost::Closed, ctx);
            }
        }
    }

    /// The connection is gone, or of no use.
    fn lose(&mut self, told: &mut Vec<StreamEvent>, lost: Lost, ctx: &mut Context<Self>) {
        let Some(link) = &mut self.link else { return };
        link.connecting = Connecting::No;
        // A WebSocket on which not even WSOK came is one that something in between only pretends.
        let session = &link.session;
        let hollow = session.transport() == Transport::WebSocket
            && session.opening() == Some(Purpose::Create)
            && !session.websocket_works()
            && link.connection.is_some();
        let lost = if hollow { Lost::Refused } else { lost };
        self.drive(told, |session, now, on_event| session.handle_closed(now, lost, on_event), ctx);
    }

    // Silence.

    fn look_for_silence(&mut self, ctx: &mut Context<Self>) {
        let (now, event_now) = (self.clock.monotonic(), self.event_clock.now());
        let (Some(silence), Some(event_now)) = (&mut self.silence, event_now) else { return };
        let market = self.known.market(event_now);
        // Without a connection it is the attempts to make one that count.
        let market = if self.link.is_some() { market } else { super::silence::Market::Closed };
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
                self.tell(vec![StreamEvent::Broken { feed: None, reason: Reason::Stale }], ctx);
                self.pump(ctx);
            }
            Remedy::NewSession => self.renew_session(silent, ctx),
            Remedy::NewLogin => {
                if let Some(link) = &self.link {
                    let generation = link.tokens.generation;
                    self.session.do_send(TokensRefused { generation, certain: true });
                }
                self.renew_session(silent, ctx);
            }
            Remedy::Exit => {
                let (alarm, exits) = (self.alarm.clone(), (fruitless + 1).to_string());
                let saving = self.store.run(move |store| store.set_setting(SETTING_SILENT_EXITS, &exits));
                actix_rt::spawn(async move {
                    if let Err(error) = saving.await {
                        log::warn!(error:% = error; "the next process will not know that this one ended in silence");
                    }
                    alarm.exit(Exit::Failed, SILENT);
                });
            }
        }
    }

    /// Gives the session up and makes another.
    fn renew_session(&mut self, silence: Duration, ctx: &mut Context<Self>) {
        let address = ctx.address();
        let Some(link) = &mut self.link else { return };
        link.session.destroy();
        while let Some(transmit) = link.session.poll_transmit() {
            record(&self.recorder, self.socket, &transmit);
            send(link, transmit, self.socket, &self.client, &address);
        }
        let mut told = Vec::new();
        self.ended(&EndCause::Stalled { silence }, &mut told, ctx);
        self.tell(told, ctx);
    }

    // Scales in doubt.

    /// Asks REST about the feeds in doubt, ever more rarely while some stay so.
    fn confirm_later(&mut self, ctx: &mut Context<Self>) {
        let pause_s = CONFIRM_PAUSES_S[self.confirmations.min(CONFIRM_PAUSES_S.len() - 1)];
        ctx.run_later(Duration::from_secs(pause_s), |act, ctx| {
            let items = &act.known.items;
            act.doubted.retain(|feed| items[feed.ix()].in_doubt().is_some());
            if act.doubted.is_empty() || act.stopping {
                (act.confirmations, act.doubted) = (0, BTreeSet::new());
                return;
            }
            act.confirmations += 1;
            let asked: Vec<(FeedIx, Instrument)> = act
                .doubted
                .iter()
                .filter_map(|feed| Some((*feed, items[feed.ix()].in_doubt()?.clone())))
                .take(markets::EPICS_PER_CALL)
                .collect();
            let (session, rest) = (act.session.clone(), act.rest.clone());
            let asking = async move {
                let tokens = session
                    .send(GetTokens { validate: false })
                    .await
                    .map_err(|_| IgError::Retryable("the session room is gone".to_owned()))??;
                let (feeds, instruments): (Vec<FeedIx>, Vec<Instrument>) = asked.into_iter().unzip();
                let told = markets::confirm(&rest, &tokens, &instruments).await?;
                Ok::<_, IgError>(feeds.into_iter().zip(told).collect::<Vec<_>>())
            };
            ctx.spawn(asking.into_actor(act).map(|told, act, ctx| {
                match told {
                    Ok(told) => act.confirmed(told, ctx),
                    Err(error) => log::warn!(error:% = error; "IG was asked about a price scale in vain"),
                }
                act.confirm_later(ctx);
            }));
        });
    }

    fn confirmed(&mut self, told: Vec<(FeedIx, Option<markets::Confirmed>)>, ctx: &mut Context<Self>) {
        let now = self.clock.monotonic();
        for (feed, confirmed) in told {
            let item = &mut self.known.items[feed.ix()];
            let Some(markets::Confirmed { bid, scale }) = confirmed.filter(|_| item.in_doubt().is_some())
            else {
                continue;
            };
            log::info!(pair:% = item.pair(), bid:% = bid, scale:% = scale; "IG confirms a price, subscribing again");
            item.confirm(bid);
            if let Some(link) = &mut self.link {
                link.session.resubscribe(now, feed.0);
            }
        }
        self.pump(ctx);
    }

    // What is kept.

    fn keep(&self, key: &'static str, value: String) {
        self.save(move |store| store.set_setting(key, &value));
    }

    /// Writes something down that may be lost, but not silently.
    fn save(&self, what: impl FnOnce(&mut Store) -> Result<(), StoreError> + Send + 'static) {
        let saving = self.store.run(what);
        actix_rt::spawn(async move {
            if let Err(error) = saving.await {
                log::warn!(error:% = error; "the database did not take a note of the stream's");
            }
        });
    }

    /// Keeps how the stream stands, if it has changed.
    fn keep_state(&mut self) {
        let state = &mut self.known.state;
        if *state == self.kept_state {
            return;
        }
        if state.phase != self.kept_state.phase || state.since == 0 {
            state.since = self.clock.wall().0;
        }
        self.kept_state = state.clone();
        self.keep(state::SETTING, self.kept_state.write());
    }

    fn keep_probes(&mut self) {
        if self.known.probes != self.kept_probes {
            self.known.probes.updated_at = self.clock.wall().0;
            self.kept_probes = self.known.probes.clone();
            self.keep(probes::SETTING, self.kept_probes.write());
        }
    }
}

/// Writes down what is sent; over HTTP in the form that it would have on a WebSocket.
fn record(recorder: &Recorder, socket: u64, transmit: &Transmit) {
    match transmit {
        Transmit::Message(text) => recorder.stream_sent(socket, text),
        Transmit::Post(Post { path, body, .. }) => {
            let name = path.trim_start_matches('/').split('.').next().unwrap_or_default();
            recorder.stream_sent(socket, &format!("{name}\r\n{body}"));
        }
    }
}

/// Puts what the session wants sent on its way. False where that is impossible.
fn send(
    link: &mut Link,
    transmit: Transmit,
    socket: u64,
    client: &awc::Client,
    actor: &Addr<StreamActor>,
) -> bool {
    link.connection
        .as_mut()
        .is_some_and(|connection| connection.send(transmit, socket, client, actor).is_ok())
}

impl Actor for StreamActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.attempt(self.reconnect.first(self.clock.monotonic()), ctx);
        ctx.run_interval(KEEP_PROBES_EVERY, |act, _| act.keep_probes());
        if let Some(silence) = &self.silence {
            ctx.run_interval(silence.look_every(), Self::look_for_silence);
        }
    }
}

impl Handler<Arrived> for StreamActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, arrived: Arrived, ctx: &mut Self::Context) -> Self::Result {
        let mut told = Vec::new();
        if arrived.socket == self.socket {
            for piece in arrived.pieces {
                self.piece(piece, &mut told, ctx);
            }
            if let Some((lost, why)) = arrived.lost.filter(|_| arrived.socket == self.socket) {
                let opening = self.link.as_ref().is_some_and(|link| link.session.opening().is_some());
                let level = if opening { log::Level::Warn } else { log::Level::Debug };
                log::log!(level, why = why.as_str(); "no connection to the stream");
                self.recorder.stream_closed(self.socket, &why);
                self.lose(&mut told, lost, ctx);
            }
        }
        // Told before anything is sent: that the connection takes nothing any more is news that
        // belongs behind what it has still brought.
        let sending = (!told.is_empty()).then(|| self.aggregator.send(StreamTold(told)));
        self.pump(ctx);
        Box::pin(async move {
            if let Some(sending) = sending {
                // A dead aggregator takes the process down; nothing to do here.
                let _ = sending.await;
            }
        })
    }
}

impl Handler<Resubscribe> for StreamActor {
    type Result = ();

    fn handle(&mut self, Resubscribe { feed, in_vain }: Resubscribe, ctx: &mut Self::Context) {
        let now = self.clock.monotonic();
        // What the server refuses, or sends in a form that cannot be read, has a plan of its own.
        if self.link.as_ref().is_some_and(|link| !link.session.holds(feed.0)) {
            return;
        }
        let renewed = self.renewed_at.is_some_and(|at| now.saturating_duration_since(at) < RENEW_EVERY);
        if in_vain >= RENEW_FROM_IN_VAIN && !renewed {
            log::warn!(pair:% = self.known.items[feed.ix()].pair(), in_vain; "subscribing again does not help, making a new session");
            self.renewed_at = Some(now);
            return self.renew_session(self.options.stale, ctx);
        }
        if let Some(link) = &mut self.link {
            link.session.resubscribe(now, feed.0);
            self.pump(ctx);
        }
    }
}

impl Handler<StopStreaming> for StreamActor {
    type Result = ();

    fn handle(&mut self, _: StopStreaming, ctx: &mut Self::Context) {
        self.stopping = true;
        self.keep_probes();
        self.known.state.enter(Phase::Stopped, None);
        self.keep_state();
        if let Some(link) = &mut self.link {
            link.session.destroy();
        }
        self.pump(ctx);
    }
}
