//! The house: how the process begins, keeps its rooms standing, and ends.

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinHandle;

use super::chronicle::Chronicle;
use super::groundwork::{
    Patient, SETTING_PACE, allowance_key, depth, give_up, learn, open_store, read_matched, recall,
    session_settings, watch,
};
use super::keeper::{Keeper, start_is_stuck};
use super::notify::{self, Standing};
use super::tenure::Tenure;
use super::topology::{AggregationPlan, Blueprint, Entrance, Ground, Lines};
use super::{Alarm, Room, Roster};
use crate::aggregator::actor::AccountTo;
use crate::aggregator::inference::RecordKeys;
use crate::aggregator::outbound::Outbound;
use crate::clock::{self, Clock, EventClock};
use crate::config::{Config, Login, Retention};
use crate::domain::Timeframe;
use crate::exit::Failure;
use crate::healer::actor::{HealerSettings, StopHealing};
use crate::healer::book::{Scope, Watched};
use crate::ig::IgError;
use crate::ig::history::actor::HistorySettings;
use crate::ig::lull::Lull;
use crate::ig::markets::Instrument;
use crate::ig::rest::{RestClient, clients_for};
use crate::ig::session::actor::Desk;
use crate::ig::session::logins::Logins;
use crate::ig::stream::actor::{StopStreaming, StreamSettings};
use crate::ig::stream::socket::Clients;
use crate::ig::stream::state::Phase;
use crate::live::Live;
use crate::messages::{HistoryError, HolesRecorded, LearnTime, LogOut};
use crate::readiness;
use crate::stats::Stats;
use crate::store::{Store, StoreHandle};
use crate::summary::{self, Speaking};
use crate::tlcp::Version;
use crate::transcript::Recorder;

/// Time for closing the stream.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// Time for an answer of IG's to come that was asked for before.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Time for giving the lease back where something has failed.
const GIVE_BACK_WITHIN: Duration = Duration::from_secs(2);
/// Time for making durable what is held at the end, in the spool if need be.
const DRAIN_WITHIN: Duration = Duration::from_secs(4);
/// The same where the house has failed.
const SAVE_WITHIN: Duration = Duration::from_secs(3);
/// Time for logging out.
const LOG_OUT_WITHIN: Duration = Duration::from_secs(2);
/// Time for a start that is told to stop to log out.
const HEED_WITHIN: Duration = Duration::from_secs(3);
/// Time for noting that the login has led to an orderly end.
const NOTE_WITHIN: Duration = Duration::from_secs(1);
/// Time for folding the database's log, which the next start does as well: as long as for logging out, which
/// goes on meanwhile.
const FOLD_WITHIN: Duration = LOG_OUT_WITHIN;
/// The rooms are built for the first time within this time.
const BUILT_WITHIN: Duration = Duration::from_secs(300);
/// How often it is looked what there is to tell of the stream.
const SHOW_EVERY: Duration = Duration::from_secs(1);
/// What was not made durable in time is fetched again.
const NOT_STORED: &str = "what was held could not be stored; the next start heals what is missing";
/// Where it is kept what a process is at, behind the number it has as the lease's holder: after a reboot another may
/// have the same process id.
pub const SETTING_AT: &str = "service.at";

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
    /// What is shown to those who follow.
    pub live: Live,
    /// What is known of the rooms.
    pub roster: Roster,
    /// What it is at.
    pub standing: Standing,
    /// How its run began, and ends.
    pub chronicle: Chronicle,
}

impl Signs {
    /// Nothing has happened yet. For tests: no step of any room is waited for longer than `patience`.
    pub fn new(clock: &Clock, patience: Option<Duration>) -> Signs {
        let roster = Roster::new(clock.clone(), patience);
        let standing = Standing::new(&roster);
        Signs {
            stats: Arc::default(),
            live: Live::default(),
            roster,
            standing,
            chronicle: Chronicle::new(clock),
        }
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
    chronicle: Chronicle,
    /// Have `status` know what it is at, and bots when the markets trade.
    noting: Vec<JoinHandle<()>>,
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
        let Signs { stats, live, roster, standing, chronicle } = signs;
        notify::tell(standing.clone(), roster.clone(), clock.clone());
        let stop = stop.shared();
        let (store, lease, journal) = tokio::select! {
            opened = open_store(config, &flags, &clock, &standing, &chronicle) => opened?,
            failure = start_is_stuck(&roster, &clock) => return Err(failure),
            () = stop.clone() => return Ok(None),
        };
        let tenure = Arc::new(Tenure::begin(lease, store.clone(), clock.clone(), alarm.clone()));
        let noting = actix_rt::spawn(keep_at(standing.clone(), store.clone(), tenure.epoch()));
        let keeper = Keeper::new(roster.clone(), clock.clone(), store.clone(), alerts);
        let ground = Ground {
            clock: clock.clone(),
            store: store.clone(),
            journal,
            roster: roster.clone(),
            alarm,
            standing,
            stats,
            live,
        };
        let rooms = (keeper, tenure.clone(), chronicle.clone(), vec![noting]);
        let lines = Lines::default();
        let built = tokio::select! {
            built = House::build(config, flags, login, (ground, lines.clone()), rooms, recorder, stop.clone()) => built,
            failure = start_is_stuck(&roster, &clock) => Err(failure),
            () = told_for_long(stop) => Ok(None),
        };
        if !matches!(built, Ok(Some(_))) {
            // Before the lease is given back, so that nobody takes it for killed. It may be the database that is the matter.
            chronicle.ends(built.as_ref().map(drop)).await;
            let _ = tokio::time::timeout(GIVE_BACK_WITHIN, tenure.end(&store, &clock)).await;
            log_out(&lines).await;
        }
        built
    }

    async fn build(
        config: &Config,
        flags: RunFlags,
        login: Login,
        (ground, lines): (Ground, Lines),
        (mut keeper, tenure, chronicle, mut noting): (Keeper, Arc<Tenure>, Chronicle, Vec<JoinHandle<()>>),
        recorder: Recorder,
        stop: impl Future<Output = ()>,
    ) -> Result<Option<House>, Failure> {
        let Ground { clock, store, standing, stats, .. } = ground.clone();
        let event_clock = EventClock::new(config.clock, clock.clone());
        let lull = Lull::default();
        let clients = clients_for(config.ig.ca_file.as_deref(), lull.clone());
        let [client, streaming] = clients.map_err(Failure::configuration)?;
        let rest = RestClient::new(client.clone(), &config.ig.api_url, login.api_key.clone())
            .recorded_by(recorder.clone())
            .with_clock(event_clock.clone());
        let entrance = Entrance {
            ground: ground.clone(),
            rest: rest.clone(),
            desk: Desk::default(),
            settings: session_settings(config, &login, &flags),
            lines: lines.clone(),
        };
        keeper.stands(Room::Session, entrance.session());

        let (tokens, instruments, per_minute) = tokio::select! {
            learnt = learn(config, &login, &rest, &lines.session, &standing) => learnt?,
            failure = keeper.first_failure() => return Err(failure),
            () = stop => return Ok(None),
        };
        standing.starts("building the rooms", BUILT_WITHIN);
        let pace = per_minute.to_string();
        // Until here it was waited for, and a login is too dear to end over what passes.
        let waits = flags.purpose == Purpose::Collect;
        let shelf = &Patient { store: &store, standing: &standing, waits };
        shelf.run(move |store| store.set_setting(SETTING_PACE, &pace)).await?;
        let calendars = config.feed_calendars();
        let mut feeds = watch(config, &flags.purpose, shelf, &tokens, &instruments, &clock).await?;
        if matches!(flags.purpose, Purpose::Backfill { watches: false, .. }) {
            // Of others there is nothing to account for.
            feeds.retain(|feed| feed.resume.is_some());
        } else {
            let hours =
                readiness::keeper::keep(readiness::Watched::of(config), event_clock.clone(), store.clone());
            noting.push(actix_rt::spawn(hours));
        }
        let record = RecordKeys::of(config.ig.environment.as_str(), &tokens.account_id);
        let matched = read_matched(shelf, &record).await?;
        let frontiers = feeds.iter().map(|feed| feed.resume).collect();
        let ways = (lines.facts.clone(), lines.holes.clone());
        let outbound = Outbound::new(ways, (clock.clone(), ground.alarm.clone()), frontiers, matched);
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
                memory: shelf.run(recall(&config.stream.tlcp_version)).await?,
                recorder,
            }),
        };
        let allowance = allowance_key(config, shelf, &login, &tokens, &clock).await?;
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
            clients: Clients { asking: client, streaming, lull },
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
        Ok(Some(House { stats, instruments, blueprint, tenure, chronicle, noting, keeper, summary }))
    }

    /// Number of the holder of the lease that it is.
    pub fn epoch(&self) -> i64 {
        self.tenure.epoch()
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
            never = show(stats, instruments.len(), standing, &blueprint.entrance) => match never {},
        }
    }

    /// Ends a house that has failed: makes durable what is held, though its rooms may not, gives the lease back
    /// and logs out.
    pub async fn abandon(&self) {
        let saved = tokio::time::timeout(SAVE_WITHIN, self.blueprint.clone().drain()).await;
        if saved.is_err() {
            log::warn!("{NOT_STORED}");
        }
        // What failed may be the database.
        let _ = tokio::time::timeout(GIVE_BACK_WITHIN, self.give_back_lease()).await;
        log_out(&self.blueprint.entrance.lines).await;
    }

    async fn give_back_lease(&self) {
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
        let ending = [Room::Stream, Room::History, Room::Healer, Room::Retention];
        ending.into_iter().for_each(|room| self.keeper.dismiss(room));
        // One that hangs has no more to say. Nobody asks IG for anything more; an answer that is on its way was
        // paid for, and is waited for a little.
        let _ = tokio::join!(
            tokio::time::timeout(CLOSE_WITHIN, lines.stop_streaming.send(StopStreaming)),
            tokio::time::timeout(ANSWER_WITHIN, lines.stop_healing.send(StopHealing)),
        );
        [Room::Healer, Room::History].into_iter().for_each(|room| self.keeper.retire(room));
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
        // After the log is folded in nothing is written.
        [Room::Stream, Room::Retention].into_iter().for_each(|room| self.keeper.retire(room));
        self.noting.iter().for_each(JoinHandle::abort);
        let spooled = self.stats.facts_spooled.get();
        if spooled > 0 {
            log::warn!(facts = spooled; "the database is away; what is in the spool is stored by the next start");
        }
        let outcome = if is_drained { Ok(()) } else { Err(Failure::failed(NOT_STORED)) };
        // All at once: none of it waits for long.
        tokio::join!(
            self.note_stopped(is_drained && spooled == 0),
            self.chronicle.ends(outcome.as_ref().map(drop)),
            self.give_back_lease(),
        );
        // Last, since it is IG that it may have to wait for, or the disk.
        tokio::join!(self.fold_log(), log_out(&lines));
        outcome
    }

    /// Takes note of where the login has led. Where that fails the next one keeps a longer distance.
    async fn note_stopped(&self, in_good_order: bool) {
        if in_good_order {
            let _ = tokio::time::timeout(NOTE_WITHIN, self.store().run(Logins::note_stopped)).await;
        }
    }

    async fn fold_log(&self) {
        match tokio::time::timeout(FOLD_WITHIN, self.store().run(Store::fold_log)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                log::warn!(error:% = error; "the database's log could not be folded in, which the next start does");
            }
            Err(_) => log::info!("the database's log is not folded in yet, which the next start does"),
        }
    }
}

/// Ends the session with IG, if there is one.
async fn log_out(lines: &Lines) {
    if tokio::time::timeout(LOG_OUT_WITHIN, lines.log_out.send(LogOut)).await.is_err() {
        log::warn!("IG does not answer, so the session there ends by itself");
    }
}

/// Has `status` know what this process is at, for as long as it runs.
async fn keep_at(standing: Standing, store: StoreHandle, epoch: i64) {
    let mut kept = String::new();
    loop {
        let at = standing.told();
        if at != kept {
            let value = format!("{epoch} {at}");
            match store.run(move |store| store.set_setting(SETTING_AT, &value)).await {
                Ok(()) => kept = at,
                Err(error) => {
                    log::debug!(error:% = error; "what this process is at could not be written down")
                }
            }
        }
        clock::beat(SHOW_EVERY).await;
    }
}

/// What this holder of the lease is at, by what was kept; nothing of another's.
pub fn at_of(kept: &str, epoch: i64) -> Option<&str> {
    let (whose, at) = kept.split_once(' ')?;
    (whose.parse() == Ok(epoch) && !at.is_empty()).then_some(at)
}

/// Has systemd know what the stream is at, and metrics what else can be seen of the house. Ready is who streams, or has tried and knows why not.
async fn show(stats: &Stats, pairs: usize, standing: &Standing, entrance: &Entrance) -> Infallible {
    loop {
        stats.store_waiting.set(entrance.ground.store.waiting() as u64);
        if let Some(logged_in) = entrance.desk.is_logged_in() {
            stats.logged_in.set(logged_in.into());
        }
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
        tokio::select! {
            () = clock::beat(SHOW_EVERY) => {}
            () = stats.stream_news.notified() => {}
        }
    }
}

/// Resolves once `stop` has been for so long that whoever is to heed it does not: it waits for a database
/// that does not answer.
async fn told_for_long(stop: impl Future<Output = ()>) {
    stop.await;
    actix_rt::time::sleep(HEED_WITHIN).await;
}
