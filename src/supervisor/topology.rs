//! Who is built from what: the one place that knows all rooms.

use std::sync::Arc;

use actix::prelude::*;
use futures_util::FutureExt;
use tokio::sync::mpsc::UnboundedReceiver;

use super::tenure::{self, Tenure};
use super::{Alarm, Alert};
use crate::aggregator::actor::{
    AccountTo, AggregatorActor, Drain, Meet, Neighbours, SETTING_MATCHED_OF_ANYONE, UNSTORED_MAX,
};
use crate::aggregator::finalizer::Depth;
use crate::aggregator::inference::RecordKeys;
use crate::aggregator::{Aggregation, FeedStart};
use crate::backoff::Backoff;
use crate::clock::{Clock, EventClock};
use crate::config::{Config, Environment, Login, Retention};
use crate::domain::coverage::Run;
use crate::domain::scale::Verdict;
use crate::domain::{Fact, FactBatch, Mark, Pair, Reason, State, Timeframe, Timestamp};
use crate::exit::{Exit, Failure};
use crate::healer::actor::{HealerActor, HealerSettings};
use crate::healer::book::{Scope, Watched};
use crate::healer::plan::GiveUp;
use crate::ig::IgError;
use crate::ig::history::actor::{HistoryActor, HistorySettings};
use crate::ig::history::pace::allowed_per_minute;
use crate::ig::markets::{self, Instrument};
use crate::ig::rest::{RestClient, http_client};
use crate::ig::session::actor::{SessionActor, SessionSettings};
use crate::ig::session::fingerprint;
use crate::ig::session::tokens::Tokens;
use crate::ig::stream::actor::{
    Memory, SETTING_SILENT_EXITS, SETTING_VERSION, StopStreaming, StreamActor, StreamSettings,
};
use crate::ig::stream::probes::{self, Probes};
use crate::messages::{GetTokens, HistoryError, HolesRecorded, LearnTime, LogOut};
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
const START_RETRY_FIRST: std::time::Duration = std::time::Duration::from_secs(2);
const START_RETRY_LAST: std::time::Duration = std::time::Duration::from_secs(60);
/// Messages that may wait in front of the aggregator.
const MAILBOX: usize = 256;
/// Messages that may wait in front of the writer: as many as the aggregator lets out, so that
/// none ever finds the mailbox full and is overtaken.
const WRITER_MAILBOX: usize = 2 * UNSTORED_MAX;

/// Time for making durable what is held at the end, in the spool if need be.
const DRAIN_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);
/// Time for a start that is told to stop to log out.
const HEED_WITHIN: std::time::Duration = std::time::Duration::from_secs(3);
/// Time for folding the database's log, which the next start does as well.
const FOLD_WITHIN: std::time::Duration = std::time::Duration::from_secs(1);

/// The longest time in dispute, a holiday's, is looked at as a whole, seconds.
const IN_DISPUTE_MAX_S: i64 = 3 * 86_400;
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

/// The running house.
pub struct House {
    /// What it has done so far.
    pub stats: Arc<Stats>,
    /// The watched instruments.
    pub instruments: Vec<Instrument>,
    clock: Clock,
    store: StoreHandle,
    tenure: Arc<Tenure>,
    session: Addr<SessionActor>,
    /// None where only history is fetched.
    stream: Option<Addr<StreamActor>>,
    history: Addr<HistoryActor>,
    event_clock: EventClock,
    writer: Addr<WriterActor>,
    aggregator: Addr<AggregatorActor>,
    healer: Addr<HealerActor>,
    /// Says once a bucket what was collected; none where only history is fetched.
    _summary: Option<Speaking>,
    /// None where everything is kept, or only history is fetched. It lives as long as its address.
    _retention: Option<Addr<RetentionActor>>,
    alerts: UnboundedReceiver<Alert>,
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
        recorder: Recorder,
        stop: impl Future<Output = ()>,
    ) -> Result<Option<House>, Failure> {
        let login = config.credentials.require()?;
        let clock = Clock::system();
        let (alarm, alerts) = Alarm::new();
        let stop = stop.shared();
        let (store, lease, journal) = tokio::select! {
            opened = open_store(config, &flags, &clock) => opened?,
            () = stop.clone() => return Ok(None),
        };
        let tenure = Arc::new(Tenure::begin(lease, store.clone(), clock.clone(), alarm.clone()));
        let ground = Ground {
            clock: clock.clone(),
            store: store.clone(),
            journal,
            tenure: tenure.clone(),
            alarm,
            alerts,
        };
        let built = tokio::select! {
            built = House::build(config, flags, login, ground, recorder, stop.clone()) => built,
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
        recorder: Recorder,
        stop: impl Future<Output = ()>,
    ) -> Result<Option<House>, Failure> {
        let Ground { clock, store, journal, tenure, alarm, mut alerts } = ground;
        let event_clock = EventClock::new(config.clock, clock.clone());
        let stats = Arc::new(Stats::default());
        let client = http_client();
        let rest = RestClient::new(client.clone(), &config.ig.api_url, login.api_key.clone())
            .recorded_by(recorder.clone())
            .with_clock(event_clock.clone());
        let session = SessionActor::new(
            rest.clone(),
            store.clone(),
            clock.clone(),
            session_settings(config, &login, &flags),
            alarm.clone(),
        )
        .start();

        let (tokens, instruments, per_minute) = tokio::select! {
            learnt = learn(config, &login, &rest, &session) => learnt?,
            alert = alerts.recv() => return Err(failure(alert)),
            () = stop => {
                let _ = session.send(LogOut).await;
                return Ok(None);
            }
        };
        let pace = per_minute.to_string();
        store.run(move |store| store.set_setting(SETTING_PACE, &pace)).await?;
        let calendars = config.feed_calendars();
        let mut feeds = watch(config, &flags.purpose, &store, &tokens, &instruments, &clock).await?;
        if matches!(flags.purpose, Purpose::Backfill { watches: false, .. }) {
            // Of others there is nothing to account for.
            feeds.retain(|feed| feed.resume.is_some());
        }
        let accounted: Vec<Pair> = feeds.iter().map(|feed| feed.pair).collect();
        let record = RecordKeys::of(config.ig.environment.as_str(), &tokens.account_id);
        let matched = read_matched(&store, &record).await?;
        let pairs: Vec<Pair> = instruments.iter().map(|instrument| instrument.pair).collect();

        let modes = Modes::new(Batch::new(config.store.flush), journal.is_some(), FLUSH_PATIENCE);
        let (to_store, to_stats) = (store.clone(), stats.clone());
        let writer = WriterActor::new(modes, to_store, journal, clock.clone(), alarm.clone(), to_stats)
            .start_with(WRITER_MAILBOX);
        let stale_s = i64::try_from(config.stream.stale.as_secs()).unwrap_or(i64::MAX);
        let core = Aggregation::new(&feeds, depth(config), stale_s, matched);
        let aggregator = AggregatorActor::new(
            core,
            event_clock.clone(),
            writer.clone().recipient(),
            store.clone(),
            record,
            stats.clone(),
            alarm.lifeline("aggregator"),
        )
        .start_with(MAILBOX);
        let stream = match flags.purpose {
            Purpose::Backfill { .. } => None,
            Purpose::Collect => {
                let settings = StreamSettings {
                    rest: rest.clone(),
                    instruments: instruments.clone(),
                    version: Version::parse(&config.stream.tlcp_version)
                        .ok_or_else(|| Failure::configuration("stream.tlcp_version is none we speak"))?,
                    calendars: calendars.clone(),
                    clock_kind: config.clock,
                    options: config.stream.clone(),
                    memory: recall(config, &store).await?,
                    recorder,
                };
                let stream = StreamActor::new(
                    client,
                    session.clone(),
                    aggregator.clone().recipient(),
                    store.clone(),
                    (clock.clone(), event_clock.clone()),
                    settings,
                    alarm.clone(),
                    stats.clone(),
                );
                Some(stream.start())
            }
        };
        let allowance = allowance_key(config, &store, &login, &tokens, &clock).await?;
        let settings = HistorySettings {
            instruments: instruments.clone(),
            allowance: allowance.clone(),
            calendars: calendars.clone(),
            reserve: config.history.reserve,
            per_minute,
        };
        let history = HistoryActor::new(
            rest,
            session.clone(),
            store.clone(),
            (clock.clone(), event_clock.clone()),
            settings,
            alarm.lifeline("history"),
        )
        .start();
        let summary = stream
            .is_some()
            .then(|| summary::spawn(stats.clone(), clock.clone(), event_clock.clone(), calendars.clone()));
        let watched = pairs.into_iter().zip(calendars);
        let retention = (stream.is_some() && config.retention != Retention::default()).then(|| {
            let lifeline = alarm.lifeline("retention");
            RetentionActor::new(store.clone(), event_clock.clone(), config.retention.clone(), lifeline)
                .start()
        });
        let settings = HealerSettings {
            feeds: watched.map(|(pair, calendar)| Watched { pair, calendar }).collect(),
            allowance,
            reserve: config.history.reserve,
            incident_cap: config.history.incident_cap,
            quarters: config.timeframes.contains(&Timeframe::M15),
            give_up: give_up(config),
            accounted,
            retention: config.retention.clone(),
            scope: match flags.purpose {
                Purpose::Collect => Scope::default(),
                Purpose::Backfill { scope, .. } => scope,
            },
        };
        let healer = HealerActor::new(
            store.clone(),
            history.clone(),
            aggregator.clone().recipient(),
            (clock.clone(), event_clock.clone()),
            settings,
            stats.clone(),
            alarm.lifeline("healer"),
        )
        .start();
        aggregator.do_send(Meet(Neighbours {
            stream: stream.clone().map(Addr::recipient),
            healer: Some(healer.clone().recipient()),
        }));
        Ok(Some(House {
            stats,
            instruments,
            clock,
            store,
            tenure,
            session,
            stream,
            history,
            event_clock,
            writer,
            aggregator,
            healer,
            _summary: summary,
            _retention: retention,
            alerts,
        }))
    }

    /// Where nothing is streamed: learns what time it is in the market, and accounts for everything up
    /// to then of the pairs that are watched.
    ///
    /// # Errors
    /// Why the time cannot be learnt.
    pub async fn catch_up(&self) -> Result<(), HistoryError> {
        let gone = |_| IgError::Unreachable("a room is gone".to_owned());
        self.history.send(LearnTime).await.map_err(gone)??;
        let now = self.event_clock.settled().ok_or(HistoryError::NoTimeYet)?;
        self.aggregator.send(AccountTo(now)).await.map_err(gone)?;
        Ok(())
    }

    /// Has the healer look at once.
    pub fn heal(&self) {
        self.healer.do_send(HolesRecorded);
    }

    /// Hands work to the thread of the database.
    pub fn store(&self) -> &StoreHandle {
        &self.store
    }

    /// Waits until something ends the house; never returns while all is well.
    pub async fn failed(&mut self) -> Failure {
        failure(self.alerts.recv().await)
    }

    /// Gives the lease back where there is no more to be done in good order.
    pub async fn give_back_lease(&self) {
        self.tenure.end(&self.store, &self.clock).await;
    }

    /// Stops streaming, makes durable what is held, logs out, gives the lease back. None of it waits
    /// for long for a database that is away.
    ///
    /// # Errors
    /// Where what is held could not be made durable.
    pub async fn stop(self) -> Result<(), Failure> {
        if let Some(stream) = &self.stream {
            let _ = stream.send(StopStreaming).await;
        }
        self.writer.do_send(Hurry);
        let drained = tokio::time::timeout(DRAIN_WITHIN, self.aggregator.send(Drain)).await;
        let spooled = self.stats.facts_spooled.get();
        if spooled > 0 {
            log::warn!(facts = spooled; "the database is away; what is in the spool is stored by the next start");
        }
        let _ = self.session.send(LogOut).await;
        self.give_back_lease().await;
        let folded = tokio::time::timeout(FOLD_WITHIN, self.store.run(Store::fold_log)).await;
        if let Ok(Err(error)) = folded {
            log::warn!(error:% = error; "the database's log could not be folded in, which the next start does");
        }
        drained.map(drop).map_err(|_| {
            Failure::failed("what was held could not be stored; the next start heals what is missing")
        })
    }
}

/// Resolves once `stop` has been for so long that whoever is to heed it does not: it waits for a database
/// that does not answer.
async fn told_for_long(stop: impl Future<Output = ()>) {
    stop.await;
    actix_rt::time::sleep(HEED_WITHIN).await;
}

/// What the rooms are built on.
struct Ground {
    clock: Clock,
    store: StoreHandle,
    journal: Option<JournalHandle>,
    tenure: Arc<Tenure>,
    alarm: Alarm,
    alerts: UnboundedReceiver<Alert>,
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

fn failure(alert: Option<Alert>) -> Failure {
    match alert {
        Some(Alert::Exit { code, why }) => Failure::new(code, why),
        Some(Alert::Died(actor)) => Failure::failed(format!("the {actor} room died")),
        None => Failure::failed("every room died"),
    }
}

/// Opens the database and takes its lease, before anything else is done with it; then the spool,
/// whose facts are stored before anything reads the ledger.
async fn open_store(
    config: &Config,
    flags: &RunFlags,
    clock: &Clock,
) -> Result<(StoreHandle, Lease, Option<JournalHandle>), Failure> {
    let opened = tenure::open(&config.database).await?;
    let waits = flags.purpose == Purpose::Collect;
    let mut lease = tenure::acquire(&opened, flags.command, waits, clock).await?;
    let (store, mut waiting) = (opened.store, tenure::Waiting::begin());
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
    session: &Addr<SessionActor>,
) -> Result<(Arc<Tokens>, Vec<Instrument>, u32), Failure> {
    let mut backoff = Backoff::new(START_RETRY_FIRST, 2.0, START_RETRY_LAST);
    loop {
        match learn_once(config, login, rest, session).await {
            Ok(learnt) => return Ok(learnt),
            Err(error @ IgError::CredentialsRefused(_)) => {
                return Err(Failure::new(Exit::CredentialsRefused, error));
            }
            Err(error @ IgError::Misconfigured(_)) => return Err(Failure::configuration(error)),
            Err(error) => {
                let pause = backoff.next_delay(fastrand::f64());
                log::warn!(error:% = error, pause_ms = pause.as_millis() as u64; "cannot start yet");
                actix_rt::time::sleep(pause).await;
            }
        }
    }
}

async fn learn_once(
    config: &Config,
    login: &Login,
    rest: &RestClient,
    session: &Addr<SessionActor>,
) -> Result<(Arc<Tokens>, Vec<Instrument>, u32), IgError> {
    let tokens = session
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
            // That nothing came at last in hours in dispute waited for a proof that died with its process.
            let mut facts = Vec::new();
            for (pair, end) in &resume {
                let last = store.coverage(*pair, Timeframe::M5, end.plus(-IN_DISPUTE_MAX_S)..*end)?.pop();
                if let Some(Run { span, reason: Reason::PossiblyOpen, .. }) = last {
                    let (pair, timeframe, state) = (*pair, Timeframe::M5, State::Missing);
                    facts.push(Fact::Marked(Mark { pair, timeframe, span, state, reason: Reason::Offline }));
                }
            }
            store.commit(&[Arc::new(FactBatch { evidence: "restart".into(), facts })], now)?;
            Ok(resume)
        })
        .await?;
    let started = pairs.into_iter().zip(config.feed_calendars());
    Ok(started
        .map(|(pair, calendar)| FeedStart { pair, resume: resume.get(&pair).copied(), calendar })
        .collect())
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
async fn recall(config: &Config, store: &StoreHandle) -> Result<Memory, Failure> {
    let wanted = config.stream.tlcp_version.clone();
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
