//! StreamActor: the socket to Lightstreamer around the pure [`TlcpSession`].
//!
//! Asks the SessionActor for tokens, feeds the AggregatorActor. One message a batch of frames,
//! not one an update; the socket is read on only when the aggregator has taken the last batch,
//! while timers and outgoing requests go on. Holds each item's folded row. At this stage any
//! break means a new session, and says so downstream; a restart of this actor is such a break.

use std::str;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use actix_http::ws::Item;
use awc::error::WsProtocolError;
use awc::ws::{Frame, Message as WsMessage};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::mpsc;

use super::chart::{self, ChartFault, ChartItem, Knowledge};
use crate::backoff::Backoff;
use crate::clock::{Clock, ClockKind, EventClock};
use crate::domain::scale::Verdict;
use crate::domain::{Calendar, Expectation, FeedIx, Reason, StreamEvent, Timeframe, Timestamp};
use crate::exit::Exit;
use crate::ig::error::{IgError, cut};
use crate::ig::markets::Instrument;
use crate::ig::session::actor::SessionActor;
use crate::messages::{GetTokens, Resubscribe, StreamTold, TokensRefused};
use crate::secret::Secret;
use crate::stats::Stats;
use crate::supervisor::{Alarm, Lifeline};
use crate::tlcp::code::Step;
use crate::tlcp::{EndCause, Event, Options, SubscriptionSpec, TlcpSession, Verdict as Refusal, Version};

/// Largest WebSocket message taken, whole or in parts.
const MESSAGE_MAX: usize = 8 * 1024 * 1024;
/// Frames handed over in one message, where that many are ready.
const FRAMES_PER_BATCH: usize = 64;
/// Messages on their way out; more waiting means that the socket is stuck.
const OUTGOING_MAX: usize = 64;
/// Shortest and longest pause between attempts.
const RECONNECT_FIRST: Duration = Duration::from_millis(500);
const RECONNECT_LAST: Duration = Duration::from_secs(60);
/// A session that lived so long was a working one: the next attempt may come soon.
const STABLE_AFTER: Duration = Duration::from_secs(60);
/// Pauses before a refused subscription is tried again; the last one repeats.
const REFUSED_PAUSES_S: [u64; 4] = [5, 30, 120, 900];
/// Rows in a row that are too far from the system's clock before the clock is to blame.
const APART_ROWS_MAX: u32 = 5;
/// System clock and stream may differ by this much, seconds.
const CLOCK_APART_MAX_S: i64 = 3_600;
/// A subscription's first row shows the last candle there was, at most so many seconds ago: any
/// holiday is shorter.
const SNAPSHOT_AGE_MAX_S: i64 = 14 * 86_400;
/// With the clock that follows the stream, a row may be ahead of all others by this much.
const STREAM_LEAP_MAX_S: i64 = 60 * 86_400;

/// What the stream needs to know.
pub struct StreamSettings {
    /// Instruments by [`FeedIx`].
    pub instruments: Vec<Instrument>,
    /// Version to claim first.
    pub version: Version,
    /// The hours in which rows are fresh.
    pub calendar: Calendar,
    /// Which clock the rows are compared with.
    pub clock_kind: ClockKind,
}

/// Streams.
pub struct StreamActor {
    client: awc::Client,
    session: Addr<SessionActor>,
    aggregator: Recipient<StreamTold>,
    clock: Clock,
    event_clock: EventClock,
    alarm: Alarm,
    stats: Arc<Stats>,
    settings: StreamSettings,
    version: Version,
    items: Vec<StreamItem>,
    link: Option<Link>,
    /// Grows with each socket, so that late news of an old one is told apart.
    socket: u64,
    /// Rows in a row whose time was too far from the system's.
    apart_rows: u32,
    next_request_id: u64,
    backoff: Backoff,
    stopping: bool,
    _lifeline: Lifeline,
}

/// One feed's part in the stream.
struct StreamItem {
    chart: ChartItem,
    /// Its prices are held back, and the aggregator knows.
    scale_in_doubt: bool,
    unfiltered: bool,
    /// The next row is the first of its subscription and may be old.
    first: bool,
    refusals: usize,
    rejected: u64,
}

/// A socket and the session on it.
struct Link {
    session: TlcpSession,
    outgoing: mpsc::Sender<WsMessage>,
    partial: Vec<u8>,
    since: Instant,
    /// Which login the session's password is made of.
    tokens_generation: u64,
    timer: Option<(Instant, SpawnHandle)>,
    _reader: actix_rt::task::JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self._reader.abort();
    }
}

/// The reader's news of one socket.
#[derive(Message)]
#[rtype(result = "()")]
struct Arrived {
    socket: u64,
    frames: Vec<Result<Frame, WsProtocolError>>,
    ended: bool,
}

/// Asks the actor to close the stream for good.
#[derive(Message)]
#[rtype(result = "()")]
pub struct StopStreaming;

impl StreamActor {
    /// A stream that connects when it starts.
    pub fn new(
        client: awc::Client,
        session: Addr<SessionActor>,
        aggregator: Recipient<StreamTold>,
        (clock, event_clock): (Clock, EventClock),
        settings: StreamSettings,
        alarm: Alarm,
        stats: Arc<Stats>,
    ) -> StreamActor {
        let lifeline = alarm.lifeline("stream");
        let item = |instrument: &Instrument| StreamItem {
            chart: ChartItem::new(instrument.pair, knowledge(instrument)),
            scale_in_doubt: false,
            unfiltered: false,
            first: true,
            refusals: 0,
            rejected: 0,
        };
        StreamActor {
            client,
            session,
            aggregator,
            clock,
            event_clock,
            alarm,
            stats,
            version: settings.version,
            items: settings.instruments.iter().map(item).collect(),
            settings,
            link: None,
            socket: 0,
            apart_rows: 0,
            next_request_id: 1,
            backoff: Backoff::new(RECONNECT_FIRST, 2.0, RECONNECT_LAST),
            stopping: false,
            _lifeline: lifeline,
        }
    }

    /// Gets tokens, opens a socket, begins a session.
    fn connect(&mut self, ctx: &mut Context<Self>) {
        if self.stopping {
            return;
        }
        self.socket += 1;
        let (session, client, version) = (self.session.clone(), self.client.clone(), self.version);
        let (socket, address) = (self.socket, ctx.address());
        let opening = async move { open(&session, &client, version, socket, address).await };
        ctx.spawn(opening.into_actor(self).map(move |opened, act, ctx| {
            if act.stopping || act.socket != socket {
                return;
            }
            match opened {
                Ok(opened) => act.begin(opened, ctx),
                // The session has asked for the process to end.
                Err(IgError::CredentialsRefused(_) | IgError::Misconfigured(_)) => {}
                Err(error) => {
                    log::warn!(error:% = error; "no stream");
                    act.connect_later(ctx);
                }
            }
        }));
    }

    fn connect_later(&mut self, ctx: &mut Context<Self>) {
        let pause = self.backoff.next_delay(fastrand::f64());
        log::info!(pause_ms = pause.as_millis() as u64; "connecting again soon");
        ctx.run_later(pause, Self::connect);
    }

    fn begin(&mut self, opened: Opened, ctx: &mut Context<Self>) {
        let options =
            Options { version: self.version, first_request_id: self.next_request_id, ..Options::default() };
        let Opened { account_id, password, tokens_generation, outgoing, reader } = opened;
        let mut session = TlcpSession::new(options, account_id, password.expose().to_owned());
        for feed in 0..self.items.len() {
            session.subscribe(self.spec(FeedIx(feed as u16)));
        }
        session.handle_open(self.clock.monotonic());
        self.link = Some(Link {
            session,
            outgoing,
            partial: Vec::new(),
            since: self.clock.monotonic(),
            tokens_generation,
            timer: None,
            _reader: reader,
        });
        self.pump(ctx);
    }

    fn spec(&self, feed: FeedIx) -> SubscriptionSpec {
        SubscriptionSpec {
            group: chart::group(&self.settings.instruments[feed.ix()].epic),
            schema: chart::SCHEMA.to_owned(),
            fields: chart::FIELDS,
            snapshot: true,
            unfiltered: true,
            tag: feed.0,
        }
    }

    /// Sends what the session wants sent and arms its timer.
    fn pump(&mut self, ctx: &mut Context<Self>) {
        let Some(link) = &mut self.link else { return };
        while let Some(text) = link.session.poll_transmit() {
            if link.outgoing.try_send(WsMessage::Text(text.into())).is_err() {
                log::warn!("the socket takes nothing any more");
                let mut told = Vec::new();
                self.handle(&mut told, |session, now, on_event| session.handle_closed(now, on_event), ctx);
                let sending = self.aggregator.send(StreamTold(told));
                ctx.spawn(sending.into_actor(self).map(|_, _, _| ()));
                return;
            }
        }
        let Some(due) = link.session.next_timeout() else { return };
        if link.timer.as_ref().is_some_and(|(armed, _)| *armed <= due) {
            return;
        }
        if let Some((_, handle)) = link.timer.take() {
            ctx.cancel_future(handle);
        }
        let wait = due.saturating_duration_since(self.clock.monotonic());
        let handle = ctx.run_later(wait, |act, ctx| {
            if let Some(link) = &mut act.link {
                link.timer = None;
            }
            let mut told = Vec::new();
            act.handle(&mut told, |session, now, on_event| session.handle_timeout(now, on_event), ctx);
            if !told.is_empty() {
                let sending = act.aggregator.send(StreamTold(told));
                ctx.spawn(sending.into_actor(act).map(|_, _, _| ()));
            }
            act.pump(ctx);
        });
        link.timer = Some((due, handle));
    }

    /// Drives the session and translates what it says.
    fn handle(
        &mut self,
        told: &mut Vec<StreamEvent>,
        drive: impl FnOnce(&mut TlcpSession, Instant, &mut dyn FnMut(Event<'_>)),
        ctx: &mut Context<Self>,
    ) {
        let Some(link) = &mut self.link else { return };
        let mut later = Vec::new();
        let mut translation = Translation {
            items: &mut self.items,
            instruments: &self.settings.instruments,
            clock_kind: self.settings.clock_kind,
            event_now: self.event_clock.uncorrected(),
            calendar: &self.settings.calendar,
            apart_rows: &mut self.apart_rows,
            stats: &self.stats,
            told,
            later: &mut later,
        };
        drive(&mut link.session, self.clock.monotonic(), &mut |event| translation.take(event));
        for what in later {
            self.follow_up(what, told, ctx);
        }
    }

    fn follow_up(&mut self, what: Later, told: &mut Vec<StreamEvent>, ctx: &mut Context<Self>) {
        match what {
            Later::Retry { feed, pause } => {
                let socket = self.socket;
                ctx.run_later(pause, move |act, ctx| {
                    let spec = act.spec(feed);
                    if act.socket == socket
                        && let Some(link) = &mut act.link
                    {
                        link.session.subscribe(spec);
                        act.pump(ctx);
                    }
                });
            }
            Later::ClocksApart { stream, system } => {
                self.alarm.exit(
                    Exit::Configuration,
                    format!(
                        "the stream's clock says {stream} and the system's {system}: set the system's clock, or \
                         CANDLEKEEP_CLOCK=stream if this is a replay or a simulator"
                    ),
                );
            }
            Later::Ended(cause) => self.ended(&cause, told, ctx),
        }
    }

    /// The session is over: tells it on, and begins anew as the cause asks for.
    fn ended(&mut self, cause: &EndCause, told: &mut Vec<StreamEvent>, ctx: &mut Context<Self>) {
        if let Some(mut link) = self.link.take() {
            self.next_request_id = link.session.next_request_id();
            let lived = self.clock.monotonic().saturating_duration_since(link.since);
            if lived >= STABLE_AFTER {
                self.backoff.reset();
            }
            if let EndCause::Refused { policy, .. } | EndCause::Closed { policy, .. } = cause
                && matches!(policy.step, Step::LoginThenBackoff | Step::LoginThenSlow)
            {
                let generation = link.tokens_generation;
                self.session.do_send(TokensRefused { generation, certain: true });
            }
            if let Some((_, handle)) = link.timer.take() {
                ctx.cancel_future(handle);
            }
        }
        told.push(StreamEvent::Broken { feed: None, reason: Reason::Disconnected });
        if self.stopping {
            return;
        }
        log::warn!(cause:% = cause; "stream broken");
        let step = match cause {
            EndCause::Refused { policy, .. }
            | EndCause::Closed { policy, .. }
            | EndCause::Request { policy, .. } => policy.step,
            EndCause::Loop { .. } => Step::AtOnce,
            _ => Step::Backoff,
        };
        match step {
            Step::OlderVersion => match self.version.older() {
                Some(older) => {
                    log::info!(version = older.number(); "claiming an older protocol version");
                    self.version = older;
                    self.connect(ctx);
                }
                None => drop(ctx.run_later(RECONNECT_LAST, Self::connect)),
            },
            Step::AtOnce | Step::Backoff | Step::LoginThenBackoff => self.connect_later(ctx),
            Step::Slow | Step::LoginThenSlow => {
                log::error!(cause:% = cause; "only the operator can mend this; trying slowly");
                ctx.run_later(RECONNECT_LAST, Self::connect);
            }
        }
    }

    /// One frame: a whole message, a part of one, or the socket's own business.
    fn frame(&mut self, frame: Frame, told: &mut Vec<StreamEvent>, ctx: &mut Context<Self>) {
        let Some(link) = &mut self.link else { return };
        match frame {
            Frame::Text(bytes) => self.message(&bytes, told, ctx),
            Frame::Continuation(item) => match item {
                Item::FirstText(bytes) | Item::FirstBinary(bytes) => link.partial = bytes.to_vec(),
                Item::Continue(bytes) if link.partial.len() + bytes.len() <= MESSAGE_MAX => {
                    link.partial.extend_from_slice(&bytes);
                }
                Item::Last(bytes) if link.partial.len() + bytes.len() <= MESSAGE_MAX => {
                    link.partial.extend_from_slice(&bytes);
                    let whole = std::mem::take(&mut link.partial);
                    self.message(&whole, told, ctx);
                }
                Item::Continue(_) | Item::Last(_) => {
                    log::warn!(bytes_max = MESSAGE_MAX; "a message is too long");
                    self.handle(told, |session, now, on_event| session.handle_closed(now, on_event), ctx);
                }
            },
            // Pings are not answered for us; a full queue means a stuck socket, found elsewhere.
            Frame::Ping(bytes) => drop(link.outgoing.try_send(WsMessage::Pong(bytes))),
            Frame::Pong(_) => {}
            Frame::Binary(_) => log::warn!("a binary frame was ignored"),
            Frame::Close(reason) => {
                drop(link.outgoing.try_send(WsMessage::Close(reason)));
                self.handle(told, |session, now, on_event| session.handle_closed(now, on_event), ctx);
            }
        }
    }

    fn message(&mut self, bytes: &[u8], told: &mut Vec<StreamEvent>, ctx: &mut Context<Self>) {
        match str::from_utf8(bytes) {
            Ok(text) => {
                self.handle(told, |session, now, on_event| session.handle_message(now, text, on_event), ctx);
            }
            Err(_) => {
                // Which lines were in it cannot be known, so none can be trusted to follow.
                log::warn!(text = cut(&String::from_utf8_lossy(bytes)).as_str(); "a message is not UTF-8");
                self.handle(told, |session, now, on_event| session.handle_closed(now, on_event), ctx);
            }
        }
    }
}

impl Actor for StreamActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.connect(ctx);
    }
}

impl Handler<Arrived> for StreamActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, arrived: Arrived, ctx: &mut Self::Context) -> Self::Result {
        let mut told = Vec::new();
        if arrived.socket == self.socket {
            for frame in arrived.frames {
                match frame {
                    Ok(frame) => self.frame(frame, &mut told, ctx),
                    Err(error) => {
                        log::warn!(error:% = error; "the socket speaks no WebSocket");
                        self.handle(
                            &mut told,
                            |session, now, on_event| session.handle_closed(now, on_event),
                            ctx,
                        );
                    }
                }
            }
            if arrived.ended {
                self.handle(&mut told, |session, now, on_event| session.handle_closed(now, on_event), ctx);
            }
        }
        // Told before anything is sent: that the socket takes nothing any more is news that
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

    fn handle(&mut self, Resubscribe { feed, .. }: Resubscribe, ctx: &mut Self::Context) {
        let now = self.clock.monotonic();
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
        if let Some(link) = &mut self.link {
            link.session.destroy();
        }
        self.pump(ctx);
    }
}

fn knowledge(instrument: &Instrument) -> Knowledge {
    match instrument.scale {
        Verdict::Scale(scale) if instrument.scale_is_fixed => Knowledge::Fixed(scale),
        Verdict::Ambiguous => Knowledge::InDoubt,
        Verdict::Scale(_) | Verdict::NoPriceYet => Knowledge::ByPrice,
    }
}

/// A socket that is open, and who to be on it.
struct Opened {
    account_id: String,
    password: Secret,
    tokens_generation: u64,
    outgoing: mpsc::Sender<WsMessage>,
    reader: actix_rt::task::JoinHandle<()>,
}

/// Tokens that IG says work, then a WebSocket to the address that came with them.
async fn open(
    session: &Addr<SessionActor>,
    client: &awc::Client,
    version: Version,
    socket: u64,
    address: Addr<StreamActor>,
) -> Result<Opened, IgError> {
    let tokens = session
        .send(GetTokens { validate: true })
        .await
        .map_err(|_| IgError::Retryable("the session room is being rebuilt".to_owned()))??;
    let url = format!("{}/lightstreamer", tokens.lightstreamer_endpoint.trim_end_matches('/'));
    let (response, framed) = client
        .ws(&url)
        .protocols([version.subprotocol()])
        .max_frame_size(MESSAGE_MAX)
        .connect()
        .await
        .map_err(|error| IgError::Retryable(format!("WebSocket to {url}: {}", cut(&error.to_string()))))?;
    let echoed = response.headers().get("Sec-WebSocket-Protocol").and_then(|value| value.to_str().ok());
    if let Some(other) = echoed.filter(|echoed| *echoed != version.subprotocol()) {
        return Err(IgError::Retryable(format!("WebSocket to {url} speaks {}", cut(other))));
    }
    let (mut sink, stream) = framed.split();
    let (outgoing, mut queue) = mpsc::channel(OUTGOING_MAX);
    actix_rt::spawn(async move {
        while let Some(message) = queue.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
        // All senders are gone: the session is over, and so is the socket.
        let _ = sink.close().await;
    });
    let reader = actix_rt::spawn(async move {
        let mut frames = stream.ready_chunks(FRAMES_PER_BATCH);
        while let Some(frames) = frames.next().await {
            if address.send(Arrived { socket, frames, ended: false }).await.is_err() {
                return;
            }
        }
        address.do_send(Arrived { socket, frames: Vec::new(), ended: true });
    });
    Ok(Opened {
        account_id: tokens.account_id.clone(),
        password: tokens.stream_password(),
        tokens_generation: tokens.generation,
        outgoing,
        reader,
    })
}

/// What cannot be done while the session is being driven.
enum Later {
    Retry { feed: FeedIx, pause: Duration },
    ClocksApart { stream: Timestamp, system: Timestamp },
    Ended(EndCause),
}

/// The session's events into the house's, row by row.
struct Translation<'a> {
    items: &'a mut [StreamItem],
    instruments: &'a [Instrument],
    clock_kind: ClockKind,
    /// By the system's own clock, where rows are compared with that.
    event_now: Option<Timestamp>,
    calendar: &'a Calendar,
    apart_rows: &'a mut u32,
    stats: &'a Stats,
    told: &'a mut Vec<StreamEvent>,
    later: &'a mut Vec<Later>,
}

impl Translation<'_> {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Update { tag, changes, .. } => self.row(FeedIx(tag), changes),
            Event::Established { session_id, keepalive, .. } => {
                let evidence: String = session_id.chars().take(24).collect();
                log::info!(session = evidence.as_str(), keepalive_ms = keepalive.as_millis() as u64; "streaming session begun");
                self.stats.stream_sessions.add(1);
                self.told.push(StreamEvent::SessionBegan { evidence: format!("ls:{evidence}").into() });
            }
            Event::Subscribed { tag, .. } => {
                let item = &mut self.items[usize::from(tag)];
                item.chart.reset();
                (item.first, item.refusals, item.unfiltered) = (true, 0, false);
                item.scale_in_doubt = false;
                self.told.push(StreamEvent::Subscribed { feed: FeedIx(tag) });
            }
            Event::Configured { tag, unfiltered, frequency } => {
                log::debug!(feed = tag, unfiltered, frequency; "subscription configured");
                if unfiltered { &self.stats.granted_unfiltered } else { &self.stats.granted_filtered }.add(1);
                self.items[usize::from(tag)].unfiltered = unfiltered;
                self.told.push(StreamEvent::Configured { feed: FeedIx(tag), unfiltered });
            }
            Event::Overflow { tag, dropped, .. } => {
                log::warn!(pair:% = self.pair(tag), dropped; "the server dropped rows");
                self.stats.rows_overflowed.add(dropped);
                self.lost(tag, Reason::DecodeFault);
                self.continues(FeedIx(tag));
            }
            Event::Refused { tag, code, text, verdict } => {
                log::warn!(
                    pair:% = self.pair(tag), code, text = cut(text).as_str(), verdict:? = verdict;
                    "the server refuses a subscription, the others go on"
                );
                self.refused(tag, verdict);
            }
            Event::Unanswered { tag } => {
                log::warn!(pair:% = self.pair(tag); "a subscription stays unanswered");
                self.refused(tag, Refusal::RetryLater);
            }
            Event::Unsubscribed { tag, asked } => {
                if !asked {
                    log::warn!(pair:% = self.pair(tag); "the server ended a subscription");
                    self.refused(tag, Refusal::RetryLater);
                }
            }
            Event::Fault { tag, reason, line } => {
                log::warn!(pair:% = self.pair(tag), reason:% = reason, line:% = line; "an update cannot be read, subscribing again");
                self.lost(tag, Reason::DecodeFault);
            }
            Event::Skipped { reason, line } => {
                self.stats.lines_skipped.add(1);
                log::debug!(reason:% = reason, line:% = line; "a line is of no use");
            }
            Event::Ended { cause } => self.later.push(Later::Ended(cause)),
        }
    }

    fn row(&mut self, feed: FeedIx, changes: &[crate::tlcp::Change<'_>]) {
        let item = &mut self.items[feed.ix()];
        self.stats.rows.add(1);
        match item.chart.apply(changes) {
            Ok(Some(candle)) => {
                if let Some(now) = self.event_now
                    && let Some(apart) =
                        implausible(self.clock_kind, candle.start, item.first, now, self.calendar)
                {
                    *self.apart_rows += 1;
                    if apart == Apart::Clocks && *self.apart_rows == APART_ROWS_MAX {
                        self.later.push(Later::ClocksApart { stream: candle.start, system: now });
                    }
                    return match apart {
                        // Told once, when it is clear which clock is to blame.
                        Apart::Clocks => self.told.push(StreamEvent::Rejected { feed }),
                        Apart::Row => self.reject(feed, "its time is implausible"),
                    };
                }
                *self.apart_rows = 0;
                let item = &mut self.items[feed.ix()];
                item.first = false;
                if std::mem::take(&mut item.scale_in_doubt) {
                    self.continues(feed);
                }
                self.told.push(StreamEvent::Candle { feed, candle });
            }
            // A price is missing: what is known of the candle is not its last state.
            Ok(None) => self.told.push(StreamEvent::Rejected { feed }),
            Err(fault) => {
                if fault.is_of_scale() && !std::mem::replace(&mut item.scale_in_doubt, true) {
                    self.lost(feed.0, Reason::ScaleInDoubt);
                }
                let why = match fault {
                    ChartFault::Unreadable => "unreadable field",
                    ChartFault::Disordered => "high and low do not enclose open and close",
                    ChartFault::ScaleInDoubt => "price scale in doubt: set the pair's scale",
                    ChartFault::ScaleJumped => "price scale jumped",
                };
                self.reject(feed, why);
            }
        }
    }

    fn reject(&mut self, feed: FeedIx, why: &str) {
        let item = &mut self.items[feed.ix()];
        item.rejected += 1;
        self.stats.rows_rejected.add(1);
        // The first of a kind is told, then ever fewer.
        if item.rejected.is_power_of_two() {
            log::warn!(pair:% = self.instruments[feed.ix()].pair, why, times = item.rejected; "a row was held back");
        }
        self.told.push(StreamEvent::Rejected { feed });
    }

    fn refused(&mut self, tag: u16, verdict: Refusal) {
        self.lost(tag, Reason::Refused);
        let item = &mut self.items[usize::from(tag)];
        let pause_s = REFUSED_PAUSES_S[item.refusals.min(REFUSED_PAUSES_S.len() - 1)];
        item.refusals += 1;
        if verdict != Refusal::NewSession {
            self.later.push(Later::Retry { feed: FeedIx(tag), pause: Duration::from_secs(pause_s) });
        }
    }

    /// After a break the subscription itself goes on: continuity begins anew here.
    fn continues(&mut self, feed: FeedIx) {
        let unfiltered = self.items[feed.ix()].unfiltered;
        self.told.push(StreamEvent::Subscribed { feed });
        self.told.push(StreamEvent::Configured { feed, unfiltered });
    }

    fn lost(&mut self, tag: u16, reason: Reason) {
        self.told.push(StreamEvent::Broken { feed: Some(FeedIx(tag)), reason });
    }

    fn pair(&self, tag: u16) -> crate::domain::Pair {
        self.instruments[usize::from(tag)].pair
    }
}

/// Why a row's time cannot be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Apart {
    /// This row is off.
    Row,
    /// System and stream live in different times.
    Clocks,
}

/// Compares a candle's start with event time. The first row of a subscription may be old, since
/// a snapshot shows the last candle there was.
fn implausible(
    kind: ClockKind,
    start: Timestamp,
    first: bool,
    now: Timestamp,
    calendar: &Calendar,
) -> Option<Apart> {
    let ahead = start.since(now);
    // At a weekend the last candle may be sent again.
    let fresh_due =
        !first && calendar.expectation(now.floor(Timeframe::M5.seconds())) == Expectation::Expected;
    match kind {
        ClockKind::Stream => (ahead > STREAM_LEAP_MAX_S).then_some(Apart::Row),
        ClockKind::System if ahead > CLOCK_APART_MAX_S => Some(Apart::Clocks),
        ClockKind::System if -ahead > SNAPSHOT_AGE_MAX_S => Some(Apart::Clocks),
        ClockKind::System if fresh_due && -ahead > CLOCK_APART_MAX_S + Timeframe::M5.seconds() => {
            Some(Apart::Clocks)
        }
        ClockKind::System => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_more_than_an_hour_apart_are_noticed() {
        let now = Timestamp(1_579_089_600);
        let calendar = Calendar::forex();
        let check = |kind, ahead: i64, first| implausible(kind, now.plus(ahead), first, now, &calendar);
        let saturday = now.plus(3 * 86_400);
        let friday = saturday.plus(-15 * 3600);
        assert_eq!(implausible(ClockKind::System, friday, false, saturday, &calendar), None, "sent again");
        assert_eq!(check(ClockKind::System, 3_601, true), Some(Apart::Clocks));
        assert_eq!(check(ClockKind::System, 300, true), None);
        assert_eq!(check(ClockKind::System, -3_900, false), None);
        assert_eq!(check(ClockKind::System, -3_901, false), Some(Apart::Clocks));
        assert_eq!(check(ClockKind::System, -200_000, true), None, "an old snapshot on a weekend");
        assert_eq!(check(ClockKind::System, -15 * 86_400, true), Some(Apart::Clocks), "a market of the past");
        assert_eq!(check(ClockKind::Stream, 40 * 86_400, false), None, "a replay skips weeks");
        assert_eq!(check(ClockKind::Stream, 61 * 86_400, false), Some(Apart::Row));
    }
}
