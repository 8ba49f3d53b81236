//! Who is built from what: the one place that knows all rooms.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures_util::FutureExt;

use super::keeper::{Builder, Handles, Keeper, start_is_stuck};
use super::notify::{self, Standing};
use super::tenure::{self, Tenure};
use super::{Alarm, Lifeline, Line, Room, Roster};
use crate::aggregator::actor::{AccountTo, AggregatorActor, Drain, SETTING_MATCHED_OF_ANYONE};
use crate::aggregator::finalizer::Depth;
use crate::aggregator::inference::RecordKeys;
use crate::aggregator::outbound::{Outbound, UNSTORED_MAX};
use crate::aggregator::{Aggregation, FeedStart};
use crate::backoff::Backoff;
use crate::clock::{Clock, EventClock};
use crate::config::{Config, Environment, Login, Retention};
use crate::domain::coverage::Run;
use crate::domain::scale::Verdict;
use crate::domain::{Fact, FactBatch, Mark, Pair, Reason, State, StreamEvent, Timeframe, Timestamp};
use crate::exit::{Exit, Failure};
use crate::healer::actor::{HealerActor, HealerSettings};
use crate::healer::book::{Scope, Watched};
use crate::healer::plan::GiveUp;
use crate::ig::IgError;
use crate::ig::history::actor::{HistoryActor, HistorySettings};
use crate::ig::history::pace::allowed_per_minute;
use crate::ig::markets::{self, Instrument};
use crate::ig::rest::{RestClient, http_client_for};
use crate::ig::session::actor::{Desk, SessionActor, SessionSettings};
use crate::ig::session::fingerprint;
use crate::ig::session::tokens::Tokens;
use crate::ig::stream::actor::{
    Memory, SETTING_SILENT_EXITS, SETTING_VERSION, StopStreaming, StreamActor, StreamSettings,
};
use crate::ig::stream::probes::{self, Probes};
use crate::ig::stream::state::Phase;
use crate::messages::{
    FetchBars, GetTokens, HistoryError, HistoryTold, HolesRecorded, LearnTime, LogOut, Resubscribe,
    SessionLines, StoreFacts, StreamTold,
};
use crate::retention::actor::RetentionActor;
use crate::stats::Stats;
use crate::store::{AllowanceKey, Feed, Lease, Store, StoreError, StoreHandle};
use crate::summary::{self, Speaking};
use crate::tlcp::Version;
use crate::transcript::Recorder;
use crate::writer::actor::{Hurry, WriterActor};
use crate::writer::batch::Batch;
use crate::writer::journal::{Journal, JournalHandle};
use crate::writer::modes::{FLUSH_PATIENCE, Modes};
use crate::writer::recovery::{RecoveryError, recover};

/// Pauses between attempts to learn at start what the house is built from.
const START_RETRY_FIRST: Duration = Duration::from_secs(2);
const START_RETRY_LAST: Duration = Duration::from_secs(60);
/// Messages that may wait in front of the aggregator.
const MAILBOX: usize = 256;
/// Messages that may wait in front of the writer: as many as the aggregator lets out, so that
/// none ever finds the mailbox full and is overtaken.
const WRITER_MAILBOX: usize = 2 * UNSTORED_MAX;

/// How often it is looked whether everything is durable.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
/// Time for closing the stream.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// Time for making durable what is held at the end, in the spool if need be.
const DRAIN_WITHIN: Duration = Duration::from_secs(4);
/// The same where the house has failed.
const SAVE_WITHIN: Duration = Duration::from_secs(3);
/// Time for logging out.
const LOG_OUT_WITHIN: Duration = Duration::from_secs(2);
/// Time for a start that is told to stop to log out.
const HEED_WITHIN: Duration = Duration::from_secs(3);
/// Time for folding the database's log, which the next start does as well.
const FOLD_WITHIN: Duration = Duration::from_secs(1);

/// An attempt to learn from IG what there is to build ends within this time.
const LEARNT_WITHIN: Duration = Duration::from_secs(900);
/// The rooms are built for the first time within this time.
const BUILT_WITHIN: Duration = Duration::from_secs(300);
/// How long what is known of the stream is waited for where the stream is built anew.
const RECALL_WITHIN: Duration = Duration::from_secs(2);
/// How often it is looked what there is to tell of the stream.
const SHOW_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether the ledger has caught up with what was handed out.
const UNPROVEN_LOOK: Duration = Duration::from_secs(1);
/// The evidence of what a start, of the process or of a room, cannot know any more.
const RESTART: &str = "restart";

/// The longest time in dispute, a holiday's, is looked at as a whole, seconds.
const IN_DISPUTE_MAX_S: i64 = 3 * 86_400;
/// Where it is kept what a process is at, behind its number.
pub const SETTING_AT: &str = "service.at";
/// Where the requests a minute are kept for those who reckon how long healing takes.
pub const SETTING_PACE: &str = "history.requests_per_minute";

/// What the house is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To stream, and heal what the stream loses.
    Collect,
    /// To fetch history alone.
    Backfill {
        /// What.
        scope: Scope,
        /// Whether the pairs count as watched from now on, so that time without a bar is a hole.
        /// Not where somebody wants a stretch of the past and no more.
        watches: bool,
    },
}

/// What a run may do that the configuration does not say.
#[derive(Clone, Debug)]
pub struct RunFlags {
    /// The command that collects, for those who find the database taken.
    pub command: &'static str,
    /// Try credentials again that IG has refused.
    pub retry_credentials: bool,
    /// Accept a database filled from another environment.
    pub accept_feed_change: bool,
    /// What it is for.
    pub purpose: Purpose,
}

/// What a process shows of itself from its beginning, before there is a house. Clones are one.
#[derive(Clone, Debug)]
pub struct Signs {
    /// What was counted.
    pub stats: Arc<Stats>,
    /// What is known of the rooms.
    pub roster: Roster,
    /// What it is at.
    pub standing: Standing,
}

impl Signs {
    /// Nothing has happened yet. For tests: no step of any room is waited for longer than `patience`.
    pub fn new(clock: &Clock, patience: Option<Duration>) -> Signs {
        let roster = Roster::new(clock.clone(), patience);
        let standing = Standing::new(&roster);
        Signs { stats: Arc::default(), roster, standing }
    }
}

/// The running house.
pub struct House {
    /// What it has done so far.
    pub stats: Arc<Stats>,
    /// The watched instruments.
    pub instruments: Vec<Instrument>,
    blueprint: Rc<Blueprint>,
    tenure: Arc<Tenure>,
    keeper: Keeper,
    /// Says once a bucket what was collected; none where only history is fetched.
    summary: Option<Speaking>,
}

impl House {
    /// Opens the database, takes its lease, logs in, and builds every room. Returns once the stream is being
    /// connected; history is fetched while it already runs. `None` where `stop` came first.
    ///
    /// # Errors
    /// With the exit code and the reason, where going on makes no sense.
    pub async fn start(
        config: &Config,
        flags: RunFlags,
        signs: Signs,
        recorder: Recorder,
        stop: impl Future<Output = ()>,
    ) -> Result<Option<House>, Failure> {
        let login = config.credentials.require()?;
        let clock = Clock::system();
        let (alarm, alerts) = Alarm::new();
        let Signs { stats, roster, standing } = signs;
        notify::tell(standing.clone(), roster.clone(), clock.clone());
        let stop = stop.shared();
        let (store, lease, journal) = tokio::select! {
            opened = open_store(config, &flags, &clock, &standing) => opened?,
            failure = start_is_stuck(&roster, &clock) => return Err(failure),
            () = stop.clone() => return Ok(None),
        };
        let tenure = Arc::new(Tenure::begin(lease, store.clone(), clock.clone(), alarm.clone()));
        actix_rt::spawn(keep_at(standing.clone(), store.clone()));
        let keeper = Keeper::new(roster.clone(), clock.clone(), store.clone(), alerts);
        let ground = Ground {
            clock: clock.clone(),
            store: store.clone(),
            journal,
            roster: roster.clone(),
            alarm,
            standing,
            stats,
        };
        let rooms = (keeper, tenure.clone());
        let built = tokio::select! {
            built = House::build(config, flags, login, ground, rooms, recorder, stop.clone()) => built,
            failure = start_is_stuck(&roster, &clock) => Err(failure),
            () = told_for_long(stop) => Ok(None),
        };
        if !matches!(built, Ok(Some(_))) {
            tenure.end(&store, &clock).await;
        }
        built
    }

    async fn build(
        config: &Config,
        flags: RunFlags,
        login: Login,
        ground: Ground,
        (mut keeper, tenure): (Keeper, Arc<Tenure>),
        recorder: Recorder,
        stop: impl Future<Output = ()>,
    ) -> Result<Option<House>, Failure> {
        let Ground { clock, store, standing, stats, .. } = ground.clone();
        let event_clock = EventClock::new(config.clock, clock.clone());
        let client = http_client_for(config.ig.ca_file.as_deref()).map_err(Failure::configuration)?;
        let rest = RestClient::new(client.clone(), &config.ig.api_url, login.api_key.clone())
            .recorded_by(recorder.clone())
            .with_clock(event_clock.clone());
        let entrance = Entrance {
            ground: ground.clone(),
            rest: rest.clone(),
            desk: Desk::default(),
            settings: session_settings(config, &login, &flags),
            lines: Lines::default(),
        };
        keeper.stands(Room::Session, entrance.session());
        let lines = entrance.lines.clone();

        let (tokens, instruments, per_minute) = tokio::select! {
            learnt = learn(config, &login, &rest, &lines.session, &standing) => learnt?,
            failure = keeper.first_failure() => return Err(failure),
            () = stop => {
                let _ = lines.log_out.send(LogOut).await;
                return Ok(None);
            }
        };
        standing.starts("building the rooms", BUILT_WITHIN);
        let pace = per_minute.to_string();
        store.run(move |store| store.set_setting(SETTING_PACE, &pace)).await?;
        let calendars = config.feed_calendars();
        let mut feeds = watch(config, &flags.purpose, &store, &tokens, &instruments, &clock).await?;
        if matches!(flags.purpose, Purpose::Backfill { watches: false, .. }) {
            // Of others there is nothing to account for.
            feeds.retain(|feed| feed.resume.is_some());
        }
        let record = RecordKeys::of(config.ig.environment.as_str(), &tokens.account_id);
        let matched = read_matched(&store, &record).await?;
        let frontiers = feeds.iter().map(|feed| feed.resume).collect();
        let ways = (lines.facts.clone(), lines.holes.clone());
        let outbound = Outbound::new(ways, ground.alarm.clone(), frontiers, matched);
        let stream = match flags.purpose {
            Purpose::Backfill { .. } => None,
            Purpose::Collect => Some(StreamSettings {
                rest: rest.clone(),
                instruments: instruments.clone(),
                version: Version::parse(&config.stream.tlcp_version)
                    .ok_or_else(|| Failure::configuration("stream.tlcp_version is none we speak"))?,
                calendars: calendars.clone(),
                clock_kind: config.clock,
                options: config.stream.clone(),
                memory: recall(&config.stream.tlcp_version, &store).await?,
                recorder,
            }),
        };
        let allowance = allowance_key(config, &store, &login, &tokens, &clock).await?;
        let history = HistorySettings {
            instruments: instruments.clone(),
            allowance: allowance.clone(),
            calendars: calendars.clone(),
            reserve: config.history.reserve,
            per_minute,
        };
        let summary = stream
            .is_some()
            .then(|| summary::spawn(stats.clone(), clock.clone(), event_clock.clone(), calendars.clone()));
        let watched = instruments.iter().map(|instrument| instrument.pair).zip(calendars);
        let healer = HealerSettings {
            feeds: watched.map(|(pair, calendar)| Watched { pair, calendar }).collect(),
            allowance,
            reserve: config.history.reserve,
            incident_cap: config.history.incident_cap,
            quarters: config.timeframes.contains(&Timeframe::M15),
            give_up: give_up(config),
            accounted: feeds.iter().map(|feed| feed.pair).collect(),
            retention: config.retention.clone(),
            scope: match flags.purpose {
                Purpose::Collect => Scope::default(),
                Purpose::Backfill { scope, .. } => scope,
            },
        };
        let retention =
            (stream.is_some() && config.retention != Retention::default()).then(|| config.retention.clone());
        let blueprint = Rc::new(Blueprint {
            entrance,
            client,
            event_clock,
            stats: stats.clone(),
            flush: config.store.flush,
            tlcp_version: config.stream.tlcp_version.clone(),
            aggregation: AggregationPlan {
                feeds,
                depth: depth(config),
                stale_s: i64::try_from(config.stream.stale.as_secs()).unwrap_or(i64::MAX),
                record,
            },
            outbound,
            stream,
            history,
            healer,
            retention,
            hurries: Cell::new(false),
        });
        if let Some(journal) = &ground.journal {
            keeper.watch_thread("spool", journal.busy().clone());
        }
        // The spool is empty: what was in it is stored.
        keeper.stands(Room::Writer, blueprint.writer(blueprint.modes()));
        keeper.stands(Room::Aggregator, blueprint.aggregator());
        if let Some(settings) = blueprint.stream.clone() {
            keeper.stands(Room::Stream, blueprint.stream(settings));
        }
        keeper.stands(Room::History, blueprint.history());
        if let Some(retention) = blueprint.retention.clone() {
            keeper.stands(Room::Retention, blueprint.retention(retention));
        }
        keeper.stands(Room::Healer, blueprint.healer());
        keeper.keep_failures();
        keeper.begins();
        standing.has_started();
        standing.is_at("connecting to the stream");
        Ok(Some(House { stats, instruments, blueprint, tenure, keeper, summary }))
    }

    /// Where nothing is streamed: learns what time it is in the market, and accounts for everything up
    /// to then of the pairs that are watched.
    ///
    /// # Errors
    /// Why the time cannot be learnt.
    pub fn catch_up(&self) -> impl Future<Output = Result<(), HistoryError>> + use<> {
        let blueprint = self.blueprint.clone();
        async move {
            let gone = |_| IgError::Unreachable("a room is gone".to_owned());
            let lines = &blueprint.entrance.lines;
            lines.learn_time.send(LearnTime).await.map_err(gone)??;
            let now = blueprint.event_clock.settled().ok_or(HistoryError::NoTimeYet)?;
            lines.account_to.send(AccountTo(now)).await.map_err(gone)?;
            Ok(())
        }
    }

    /// Has the healer look at once.
    pub fn heal(&self) {
        self.blueprint.entrance.lines.holes.hint(HolesRecorded);
    }

    /// Hands work to the thread of the database.
    pub fn store(&self) -> &StoreHandle {
        &self.blueprint.entrance.ground.store
    }

    /// Keeps the rooms standing, until something ends the house; never returns while all is well.
    pub async fn failed(&mut self) -> Failure {
        let House { stats, instruments, blueprint, keeper, .. } = self;
        let standing = &blueprint.entrance.ground.standing;
        tokio::select! {
            failure = keeper.keep(blueprint) => failure,
            never = show(stats, instruments.len(), standing) => match never {},
        }
    }

    /// Makes durable what is held, where the house has failed and its rooms may not.
    pub async fn save(&self) {
        let saved = tokio::time::timeout(SAVE_WITHIN, self.blueprint.clone().drain()).await;
        if saved.is_err() {
            log::warn!("what was held could not be stored; the next start heals what is missing");
        }
    }

    /// Gives the lease back where there is no more to be done in good order.
    pub async fn give_back_lease(&self) {
        self.tenure.end(self.store(), &self.blueprint.entrance.ground.clock).await;
    }

    /// Stops streaming, makes durable what is held, logs out, gives the lease back. None of it waits
    /// for long for a database that is away. A room that fails meanwhile is built anew.
    ///
    /// # Errors
    /// Where what is held could not be made durable.
    pub async fn stop(mut self) -> Result<(), Failure> {
        self.blueprint.entrance.ground.standing.stops();
        let lines = self.blueprint.entrance.lines.clone();
        // One that hangs has no more to say.
        let _ = tokio::time::timeout(CLOSE_WITHIN, lines.stop_streaming.send(StopStreaming)).await;
        [Room::Stream, Room::Healer, Room::Retention].into_iter().for_each(|room| self.keeper.dismiss(room));
        let drained = self.blueprint.clone().drain();
        let is_drained = tokio::select! {
            drained = tokio::time::timeout(DRAIN_WITHIN, drained) => drained.is_ok(),
            failure = self.keeper.keep(&self.blueprint) => {
                log::error!(failure:% = failure; "a failure while stopping");
                false
            }
        };
        if let Some(summary) = self.summary.take() {
            summary.finish();
        }
        let spooled = self.stats.facts_spooled.get();
        if spooled > 0 {
            log::warn!(facts = spooled; "the database is away; what is in the spool is stored by the next start");
        }
        self.give_back_lease().await;
        let folded = tokio::time::timeout(FOLD_WITHIN, self.store().run(Store::fold_log)).await;
        if let Ok(Err(error)) = folded {
            log::warn!(error:% = error; "the database's log could not be folded in, which the next start does");
        }
        // Last, since it is IG that it may have to wait for.
        if tokio::time::timeout(LOG_OUT_WITHIN, lines.log_out.send(LogOut)).await.is_err() {
            log::warn!("IG does not answer, so the session there ends by itself");
        }
        if is_drained {
            return Ok(());
        }
        Err(Failure::failed("what was held could not be stored; the next start heals what is missing"))
    }
}

/// Has `status` know what this process is at, for as long as it runs.
async fn keep_at(standing: Standing, store: StoreHandle) {
    let mut kept = String::new();
    loop {
        let at = standing.told();
        if at != kept {
            let value = format!("{} {at}", std::process::id());
            match store.run(move |store| store.set_setting(SETTING_AT, &value)).await {
                Ok(()) => kept = at,
                Err(error) => {
                    log::debug!(error:% = error; "what this process is at could not be written down")
                }
            }
        }
        actix_rt::time::sleep(SHOW_EVERY).await;
    }
}

/// What the process of this number is at, by what was kept; nothing of another's.
pub fn at_of(kept: &str, pid: i64) -> Option<&str> {
    let (whose, at) = kept.split_once(' ')?;
    (whose.parse() == Ok(pid) && !at.is_empty()).then_some(at)
}

/// Has systemd know what the stream is at. Ready is who streams, or has tried and knows why not.
async fn show(stats: &Stats, pairs: usize, standing: &Standing) -> Infallible {
    loop {
        let phase = Phase::numbered(stats.stream_phase.get());
        let mut line = match phase {
            Phase::Streaming => format!("streaming {pairs} pairs"),
            Phase::Connecting => "connecting to the stream".to_owned(),
            Phase::Interrupted => "the stream is interrupted, taking it up again".to_owned(),
            Phase::Stopped => "stopped".to_owned(),
        };
        let spooled = stats.facts_spooled.get();
        if spooled > 0 {
            line += &format!("; the database is away, {spooled} facts wait in the spool");
        }
        standing.is_at(line);
        if phase == Phase::Streaming || stats.stream_attempts_failed.get() > 0 {
            standing.ready();
        }
        actix_rt::time::sleep(SHOW_EVERY).await;
    }
}

/// The ways to all rooms.
#[derive(Clone, Debug, Default)]
struct Lines {
    session: SessionLines,
    log_out: Line<LogOut>,
    facts: Line<StoreFacts>,
    hurry: Line<Hurry>,
    told: Line<StreamTold>,
    history_told: Line<HistoryTold>,
    account_to: Line<AccountTo>,
    drain: Line<Drain>,
    resubscribe: Line<Resubscribe>,
    stop_streaming: Line<StopStreaming>,
    fetch: Line<FetchBars>,
    learn_time: Line<LearnTime>,
    holes: Line<HolesRecorded>,
}

/// What the rooms are built on.
#[derive(Clone)]
struct Ground {
    clock: Clock,
    store: StoreHandle,
    journal: Option<JournalHandle>,
    roster: Roster,
    alarm: Alarm,
    standing: Standing,
    stats: Arc<Stats>,
}

impl Ground {
    fn lifeline(&self, room: Room) -> Lifeline {
        Lifeline::begin(&self.roster, room, &self.alarm)
    }
}

/// What the session is built from, which stands before it is known what else there is to build.
struct Entrance {
    ground: Ground,
    rest: RestClient,
    desk: Desk,
    settings: SessionSettings,
    lines: Lines,
}

impl Entrance {
    fn session(&self) -> Handles {
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
struct AggregationPlan {
    feeds: Vec<FeedStart>,
    depth: Depth,
    stale_s: i64,
    record: RecordKeys,
}

/// From what each room is built, again and again.
struct Blueprint {
    entrance: Entrance,
    client: awc::Client,
    event_clock: EventClock,
    stats: Arc<Stats>,
    flush: Duration,
    tlcp_version: String,
    aggregation: AggregationPlan,
    outbound: Outbound,
    /// None where only history is fetched.
    stream: Option<StreamSettings>,
    history: HistorySettings,
    healer: HealerSettings,
    /// None where everything is kept, or only history is fetched.
    retention: Option<Retention>,
    /// The process is to end: who is built from now on has little patience for the database.
    hurries: Cell<bool>,
}

impl Blueprint {
    fn clocks(&self) -> (Clock, EventClock) {
        (self.entrance.ground.clock.clone(), self.event_clock.clone())
    }

    /// Of a writer that finds nothing in the spool.
    fn modes(&self) -> Modes {
        let has_journal = self.entrance.ground.journal.is_some();
        let mut modes = Modes::new(Batch::new(self.flush), has_journal, FLUSH_PATIENCE);
        if self.hurries.get() {
            modes.hurry();
        }
        modes
    }

    /// Makes durable what is held, whoever has it, with little patience for the database.
    async fn drain(self: Rc<Self>) {
        self.hurries.set(true);
        self.entrance.lines.hurry.hint(Hurry);
        // An aggregator that dies meanwhile has handed out what it had; the rest died with it.
        let _ = self.entrance.lines.drain.send(Drain).await;
        while !self.outbound.is_empty() {
            actix_rt::time::sleep(DRAIN_LOOK).await;
        }
    }

    fn writer(&self, modes: Modes) -> Handles {
        let Ground { clock, store, journal, .. } = self.entrance.ground.clone();
        let lifeline = self.entrance.ground.lifeline(Room::Writer);
        let writer = WriterActor::new(modes, store, journal, clock, self.stats.clone(), lifeline)
            .start_with(WRITER_MAILBOX);
        self.entrance.lines.facts.lead(writer.clone().recipient());
        self.entrance.lines.hurry.lead(writer.clone().recipient());
        Handles::of(&writer)
    }

    /// One that goes on where what was handed out ends.
    fn aggregator(&self) -> Handles {
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
            self.stats.clone(),
            self.entrance.ground.lifeline(Room::Aggregator),
        )
        .start_with(MAILBOX);
        lines.told.lead(aggregator.clone().recipient());
        lines.history_told.lead(aggregator.clone().recipient());
        lines.account_to.lead(aggregator.clone().recipient());
        lines.drain.lead(aggregator.clone().recipient());
        Handles::of(&aggregator)
    }

    fn stream(&self, settings: StreamSettings) -> Handles {
        let lines = &self.entrance.lines;
        let stream = StreamActor::new(
            self.client.clone(),
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

    fn history(&self) -> Handles {
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

    fn healer(&self) -> Handles {
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
        Handles::of(&healer)
    }

    fn retention(&self, retention: Retention) -> Handles {
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
        let recalled = recall(&self.tlcp_version, &self.entrance.ground.store);
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

/// Resolves once `stop` has been for so long that whoever is to heed it does not: it waits for a database
/// that does not answer.
async fn told_for_long(stop: impl Future<Output = ()>) {
    stop.await;
    actix_rt::time::sleep(HEED_WITHIN).await;
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

/// When a missing bucket is lost. The first history reaches back over weekends and holidays.
fn give_up(config: &Config) -> GiveUp {
    let Depth { m5, m15 } = depth(config);
    let reach_s = (i64::from(m5) * Timeframe::M5.seconds()).max(i64::from(m15) * Timeframe::M15.seconds());
    let after_s = i64::from(config.history.give_up_days) * 86_400;
    GiveUp { after_s, first_start_after_s: after_s + reach_s * 7 / 5 + 7 * 86_400 }
}

/// How far back the first backfill reaches.
pub fn depth(config: &Config) -> Depth {
    let kept = |timeframe| {
        if config.timeframes.contains(&timeframe) { config.history.depth.bars(timeframe) } else { 0 }
    };
    Depth { m5: kept(Timeframe::M5), m15: kept(Timeframe::M15) }
}

/// Opens the database and takes its lease, before anything else is done with it; then the spool,
/// whose facts are stored before anything reads the ledger.
async fn open_store(
    config: &Config,
    flags: &RunFlags,
    clock: &Clock,
    standing: &Standing,
) -> Result<(StoreHandle, Lease, Option<JournalHandle>), Failure> {
    let opened = tenure::open(&config.database, standing).await?;
    let waits = flags.purpose == Purpose::Collect;
    let mut lease = tenure::acquire(&opened, flags.command, waits, clock, standing).await?;
    let (store, mut waiting) = (opened.store, tenure::Waiting::begin(standing));
    let prepared = loop {
        let (config, accepts, now) = (config.clone(), flags.accept_feed_change, clock.wall());
        let prepared = store.run(move |store| Ok((prepare(store, &config, accepts, &lease, now), lease)));
        let (prepared, same) = prepared.await?;
        lease = same;
        match prepared {
            Err(RecoveryError::Store(error)) if waits && error.is_retryable() => waiting.wait(&error).await,
            prepared => break prepared,
        }
    };
    if prepared.is_err() {
        let now = clock.wall();
        // Why it ends is told by the failure, not by whether this works.
        let _ = store.run(move |store| store.release_lease(&lease, now)).await;
        return Err(prepared.map(|_| ()).map_err(Failure::from).expect_err("it failed"));
    }
    let journal = prepared?.map(|journal| JournalHandle::spawn("candlekeep-spool", journal));
    let journal = journal.transpose();
    let journal = journal.map_err(|error| Failure::failed(format!("no thread for the spool: {error}")))?;
    Ok((store, lease, journal.map(|(journal, _thread)| journal)))
}

/// What is done with the database before anybody else has it.
fn prepare(
    store: &mut Store,
    config: &Config,
    accepts_change: bool,
    lease: &Lease,
    now: Timestamp,
) -> Result<Option<Journal>, RecoveryError> {
    store.bind_environment(config.ig.environment.as_str(), accepts_change)?;
    store.set_timeframes(&config.timeframes);
    recover(store, lease, &config.database, config.store.spool_dir.as_deref(), now)
}

fn session_settings(config: &Config, login: &Login, flags: &RunFlags) -> SessionSettings {
    SessionSettings {
        credentials: login.clone(),
        api_url: config.ig.api_url.clone(),
        account_id: config.ig.account_id.clone(),
        version: config.session.version,
        login_spacing: config.session.login_spacing,
        retry_refused: flags.retry_credentials,
    }
}

/// Logs in and asks what the house is built from, until IG answers.
async fn learn(
    config: &Config,
    login: &Login,
    rest: &RestClient,
    session: &SessionLines,
    standing: &Standing,
) -> Result<(Arc<Tokens>, Vec<Instrument>, u32), Failure> {
    let mut backoff = Backoff::new(START_RETRY_FIRST, 2.0, START_RETRY_LAST);
    loop {
        // Beside the distance that a login may have to keep.
        standing.starts("logging in", LEARNT_WITHIN + config.session.login_spacing);
        match learn_once(config, login, rest, session).await {
            Ok(learnt) => return Ok(learnt),
            Err(error @ IgError::CredentialsRefused(_)) => {
                return Err(Failure::new(Exit::CredentialsRefused, error));
            }
            Err(error @ IgError::Misconfigured(_)) => return Err(Failure::configuration(error)),
            Err(error) => {
                let pause = backoff.next_delay(fastrand::f64()).max(error.pause());
                log::warn!(error:% = error, pause_ms = pause.as_millis() as u64; "cannot start yet");
                standing.waits(format_args!("waiting for IG: {error}"), pause);
                actix_rt::time::sleep(pause).await;
            }
        }
    }
}

async fn learn_once(
    config: &Config,
    login: &Login,
    rest: &RestClient,
    session: &SessionLines,
) -> Result<(Arc<Tokens>, Vec<Instrument>, u32), IgError> {
    let tokens = session
        .tokens
        .send(GetTokens { validate: false })
        .await
        .map_err(|_| IgError::Retryable("the session room is gone".to_owned()))??;
    let instruments = markets::resolve(rest, &tokens, &config.feeds, config.ig.product).await?;
    let per_minute = match config.history.requests_per_minute {
        Some(per_minute) => per_minute,
        None => {
            // Only the pace depends on the answer, and there is a default for that.
            let told = rest.applications(&tokens).await.unwrap_or_else(|error| {
                log::warn!(error:% = error; "IG does not tell its limits, going by the default");
                Vec::new()
            });
            let ours = login.api_key.expose();
            let ours = told.iter().find(|limits| limits.api_key.as_deref() == Some(ours)).or(told.first());
            let account = ours.and_then(|limits| limits.allowance_account_overall);
            let application = ours.and_then(|limits| limits.allowance_application_overall);
            allowed_per_minute(account, application, config.ig.environment == Environment::Demo)
        }
    };
    log::info!(instruments = instruments.len(), requests_per_minute = per_minute; "instruments known");
    Ok((tokens, instruments, per_minute))
}

/// Writes the watched feeds down and finds where an earlier run stopped accounting for each.
async fn watch(
    config: &Config,
    purpose: &Purpose,
    store: &StoreHandle,
    tokens: &Tokens,
    instruments: &[Instrument],
    clock: &Clock,
) -> Result<Vec<FeedStart>, Failure> {
    let feeds: Vec<Feed> = instruments
        .iter()
        .zip(&config.feeds)
        .map(|(instrument, feed)| Feed {
            pair: instrument.pair,
            epic: instrument.epic.to_string(),
            environment: config.ig.environment.as_str().to_owned(),
            account_type: tokens.account_type.clone().unwrap_or_default(),
            scale: match instrument.scale {
                Verdict::Scale(scale) => scale.to_string(),
                Verdict::NoPriceYet | Verdict::Ambiguous => "auto".to_owned(),
            },
            calendar: feed.calendar.clone(),
        })
        .collect();
    let now = clock.wall();
    let pairs: Vec<Pair> = instruments.iter().map(|instrument| instrument.pair).collect();
    let watches = !matches!(purpose, Purpose::Backfill { watches: false, .. });
    let resume = store
        .run(move |store| {
            let before = store.feeds()?;
            if watches {
                store.watch_feeds(&feeds, now)?;
            } else {
                store.name_feeds(&feeds, now)?;
            }
            let mut resume = store.covered_to(Timeframe::M5)?;
            // Time in which a pair was not watched is no gap.
            resume.retain(|pair, _| {
                before.iter().any(|known| known.watched_to.is_none() && known.feed.pair == *pair)
            });
            let ends: Vec<(Pair, Timestamp)> = resume.iter().map(|(pair, end)| (*pair, *end)).collect();
            let facts = unproven(store, &ends)?;
            store.commit(&[Arc::new(FactBatch { evidence: RESTART.into(), facts })], now)?;
            Ok(resume)
        })
        .await?;
    let started = pairs.into_iter().zip(config.feed_calendars());
    Ok(started
        .map(|(pair, calendar)| FeedStart { pair, resume: resume.get(&pair).copied(), calendar })
        .collect())
}

/// That nothing came at last in hours in dispute waits for a proof, which dies with who waited: of each
/// pair that is accounted for up to here it is missing then.
fn unproven(store: &mut Store, ends: &[(Pair, Timestamp)]) -> Result<Vec<Fact>, StoreError> {
    let mut facts = Vec::new();
    for (pair, end) in ends {
        let last = store.coverage(*pair, Timeframe::M5, end.plus(-IN_DISPUTE_MAX_S)..*end)?.pop();
        if let Some(Run { span, reason: Reason::PossiblyOpen, .. }) = last {
            let (pair, timeframe, state) = (*pair, Timeframe::M5, State::Missing);
            facts.push(Fact::Marked(Mark { pair, timeframe, span, state, reason: Reason::Offline }));
        }
    }
    Ok(facts)
}

/// What this account's guessed closes have earned. A record from before it was kept by account goes
/// to the first account that asks: until then one database has mostly served one.
async fn read_matched(store: &StoreHandle, record: &RecordKeys) -> Result<u32, Failure> {
    let key = record.matched.clone();
    let text = store
        .run(move |store| {
            if let Some(own) = store.setting(&key)? {
                return Ok(Some(own));
            }
            let Some(inherited) = store.setting(SETTING_MATCHED_OF_ANYONE)?.filter(|text| !text.is_empty())
            else {
                return Ok(None);
            };
            store.set_setting(&key, &inherited)?;
            store.set_setting(SETTING_MATCHED_OF_ANYONE, "")?;
            Ok(Some(inherited))
        })
        .await?;
    Ok(text.and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// What earlier processes left for the stream.
async fn recall(tlcp_version: &str, store: &StoreHandle) -> Result<Memory, Failure> {
    let wanted = tlcp_version.to_owned();
    let memory = store
        .run(move |store| {
            let mut setting = |key| Ok::<_, StoreError>(store.setting(key)?.unwrap_or_default());
            let version = setting(SETTING_VERSION)?;
            Ok(Memory {
                probes: Probes::read(&setting(probes::SETTING)?),
                silent_exits: setting(SETTING_SILENT_EXITS)?.parse().unwrap_or(0),
                // What worked counts as long as the same is wanted.
                version_worked: version
                    .split_once(' ')
                    .filter(|(then, _)| *then == wanted)
                    .and_then(|(_, worked)| Version::parse(worked)),
            })
        })
        .await?;
    Ok(memory)
}

async fn allowance_key(
    config: &Config,
    store: &StoreHandle,
    login: &Login,
    tokens: &Tokens,
    clock: &Clock,
) -> Result<AllowanceKey, Failure> {
    let fingerprint_key = fingerprint::key(store).await.map_err(Failure::failed)?;
    let key = AllowanceKey {
        environment: config.ig.environment.as_str().to_owned(),
        account: tokens.account_id.clone(),
        key_fingerprint: fingerprint::of(&fingerprint_key, &[login.api_key.expose()]),
    };
    // What the last process had booked and not settled will never be.
    let (spender, now) = (key.clone(), clock.wall());
    store.run(move |store| store.give_up_booked_spends(&spender, now)).await?;
    Ok(key)
}

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
