//! StreamActor: the connections to Lightstreamer around the pure [`TlcpSession`].
//!
//! Asks the SessionActor for tokens, feeds the AggregatorActor. One message a batch of frames,
//! not one an update; the connection is read on only when the aggregator has taken the last
//! batch, and in the middle of a candle once a second ([`calm`](super::calm)), while timers and outgoing requests go on. What happens is decided elsewhere: in the
//! session, in [`Reconnect`] between sessions, in [`Silence`] when nothing comes, and
//! [`translate`](super::translate) turns what is told into the house's words. Holds each item's
//! folded row. A restart of this actor is a break of continuity.
//!
//! Its handlers and helpers follow the walk: `sessions`, `connections`, `arrivals`, what is told
//! here, and aside `remedies` for silence, `doubts` about scales, `keeping`.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;

use self::connections::Link;
use self::keeping::KEEP_PROBES_EVERY;
use super::faulty::Faulty;
use super::probes::Probes;
use super::silence::{Silence, SilentItems};
use super::socket::Clients;
use super::state::{Phase, StreamState};
use super::translate::{Carried, FollowUp, Translation, Translator};
use crate::clock::{BEAT, Clock, ClockKind, EventClock};
use crate::config;
use crate::domain::{Calendar, FeedIx, StreamEvent};
use crate::exit::Exit;
use crate::ig::markets::Instrument;
use crate::ig::rest::RestClient;
use crate::messages::{SessionLines, StreamTold};
use crate::stats::Stats;
use crate::store::StoreHandle;
use crate::supervisor::{Lifeline, Line, watched_over};
use crate::tlcp::reconnect::{Attempt, Plan, Reconnect};
use crate::tlcp::{Event, TlcpSession, Verdict, Version};
use crate::transcript::Recorder;

mod arrivals;
mod connections;
mod doubts;
mod keeping;
mod remedies;
mod sessions;

/// Longest random pause before the first attempt after a working connection broke.
const FIRST_RETRY_MAX: Duration = Duration::from_millis(100);
/// Where it is kept how many processes in a row ended because nothing came.
pub const SETTING_SILENT_EXITS: &str = "stream.silent_exits";
/// Where the version that worked last is kept, behind the one that was wanted.
pub const SETTING_VERSION: &str = "stream.version_worked";

/// What the stream needs to know.
#[derive(Clone)]
pub struct StreamSettings {
    /// Asked at which price a feed trades whose scale is in doubt.
    pub rest: RestClient,
    /// Instruments by [`FeedIx`].
    pub instruments: Vec<Instrument>,
    /// Version to claim first.
    pub version: Version,
    /// The hours in which rows are fresh, by [`FeedIx`].
    pub calendars: Vec<Arc<Calendar>>,
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
    clients: Clients,
    rest: RestClient,
    session: SessionLines,
    aggregator: Line<StreamTold>,
    store: StoreHandle,
    clock: Clock,
    event_clock: EventClock,
    stats: Arc<Stats>,
    version_wanted: Version,
    options: config::Stream,
    known: Translator,
    kept_probes: Probes,
    kept_state: StreamState,
    /// The number of the last note of it that the database has answered, and whether it did not take that one. The answers may be
    /// heard in another order.
    state_unkept: Rc<Cell<(u64, bool)>>,
    notes_of_state: u64,
    reconnect: Reconnect,
    silence: Option<Silence>,
    silent_items: SilentItems,
    recorder: Recorder,
    /// Whether rows may ever wait to be read: not where a market goes by its own clock, which may be faster than time, nor where
    /// they would be missed meanwhile.
    rows_may_wait: bool,
    faulty: Faulty,
    /// The login of which it is noted that it has led to a good while of streaming.
    lasting: Option<u64>,
    /// Feeds whose scale is in doubt, and how often REST was asked in a row.
    doubted: BTreeSet<FeedIx>,
    confirmations: usize,
    link: Option<Link>,
    /// Grows with each session, so that what was planned for an old one is told apart.
    links: u64,
    /// Grows with each connection, so that late news of an old one is told apart.
    socket: u64,
    next_request_id: u64,
    /// How much the last batch told: the next will tell about as much.
    told_last: usize,
    /// News that the aggregator has not taken yet, and since when there are any. Meanwhile the
    /// connection is not read.
    untaken: u32,
    untaken_since: Instant,
    stopping: bool,
    lifeline: Lifeline,
}

/// Asks the actor to close the stream for good.
#[derive(Message)]
#[rtype(result = "()")]
pub struct StopStreaming;

impl StreamActor {
    /// A stream that connects when it starts.
    #[expect(clippy::too_many_arguments, reason = "one argument a neighbour")]
    pub fn new(
        clients: Clients,
        session: SessionLines,
        aggregator: Line<StreamTold>,
        store: StoreHandle,
        (clock, event_clock): (Clock, EventClock),
        settings: StreamSettings,
        stats: Arc<Stats>,
        lifeline: Lifeline,
    ) -> StreamActor {
        let StreamSettings { rest, instruments, version, calendars, clock_kind, options, memory, recorder } =
            settings;
        let plan = Plan {
            version,
            worked: memory.version_worked,
            transport: options.transport,
            retry: options.retry,
            first_retry_max: FIRST_RETRY_MAX,
            websocket_again: options.websocket_again,
        };
        let now = clock.monotonic();
        StreamActor {
            clients,
            rest,
            session,
            aggregator,
            store,
            clock,
            event_clock,
            stats,
            version_wanted: version,
            silence: options.silence.map(|limit| Silence::new(limit, memory.silent_exits)),
            rows_may_wait: clock_kind == ClockKind::System
                && !recorder.is_recording()
                && options.stalled + options.reconnect > BEAT,
            recorder,
            silent_items: SilentItems::default(),
            options,
            known: Translator::new(&instruments, calendars, clock_kind, memory.probes.clone()),
            kept_probes: memory.probes,
            kept_state: StreamState::default(),
            state_unkept: Rc::default(),
            notes_of_state: 0,
            reconnect: Reconnect::new(plan, fastrand::u64(..)),
            faulty: Faulty::default(),
            lasting: None,
            doubted: BTreeSet::new(),
            confirmations: 0,
            link: None,
            links: 0,
            socket: 0,
            next_request_id: 1,
            told_last: 0,
            untaken: 0,
            untaken_since: now,
            stopping: false,
            lifeline,
        }
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
        let moment = self.event_clock.moment();
        let mut later = Vec::new();
        let mut translation = Translation {
            known: &mut self.known,
            now: moment.now,
            system_now: self.event_clock.uncorrected(),
            steady: moment.is_steady,
            carried: Carried { version: link.version, transport: link.session.transport() },
            stats: &self.stats,
            told,
            later: &mut later,
        };
        let faulty = &mut self.faulty;
        drive(&mut link.session, now, &mut |event| {
            if let Event::Refused { tag, verdict: Verdict::Faulty, .. } = event {
                faulty.failed(FeedIx(tag), now);
            }
            translation.take(event);
        });
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
                let pause = self.faulty.refused(feed, pause, self.clock.monotonic());
                self.subscribe_later(feed, pause, ctx);
            }
            FollowUp::ClocksApart { stream, system } => {
                self.lifeline.alarm().exit(
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
            // One that is open when the stream is told to stop was written down then.
            FollowUp::Mended(_) if self.stopping => {}
            FollowUp::Mended(told) => {
                let now = self.clock.wall();
                self.save(move |store| store.record_break(&told, now));
            }
            FollowUp::Ended(cause) => self.ended(&cause, told, ctx),
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
}

impl Actor for StreamActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // What the database says is of the one before.
        self.begin_state();
        self.attempt(self.reconnect.first(self.clock.monotonic()), ctx);
        ctx.run_interval(KEEP_PROBES_EVERY, |act, _| {
            act.keep_probes();
            act.keep_lasting();
            act.keep_state_again();
        });
        if let Some(silence) = &self.silence {
            ctx.run_interval(silence.look_every(), Self::look_for_silence);
        }
    }
}

watched_over!(StreamActor);

impl Handler<StopStreaming> for StreamActor {
    type Result = ();

    fn handle(&mut self, _: StopStreaming, ctx: &mut Self::Context) {
        self.stopping = true;
        self.keep_open_breaks();
        self.keep_probes();
        self.known.state.enter(Phase::Stopped, None);
        self.keep_state();
        if let Some(link) = &mut self.link {
            link.session.destroy();
        }
        self.pump(ctx);
        self.lifeline.pulse().rest();
    }
}
