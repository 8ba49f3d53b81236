//! What is learnt, from the database and from IG, before rooms can be built.

use std::sync::Arc;
use std::time::Duration;

use super::chronicle::{self, Chronicle, LastRun};
use super::house::{Purpose, RunFlags};
use super::notify::Standing;
use super::tenure::{self};
use crate::aggregator::FeedStart;
use crate::aggregator::actor::SETTING_MATCHED_OF_ANYONE;
use crate::aggregator::finalizer::Depth;
use crate::aggregator::inference::RecordKeys;
use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::config::{Config, Environment, Login};
use crate::domain::coverage::Run;
use crate::domain::scale::Verdict;
use crate::domain::{Fact, FactBatch, Mark, Pair, Reason, State, Timeframe, Timestamp};
use crate::exit::{Exit, Failure};
use crate::healer::plan::GiveUp;
use crate::ig::IgError;
use crate::ig::history::pace::allowed_per_minute;
use crate::ig::markets::{self, Instrument};
use crate::ig::rest::RestClient;
use crate::ig::session::actor::SessionSettings;
use crate::ig::session::fingerprint;
use crate::ig::session::tokens::Tokens;
use crate::ig::stream::actor::{Memory, SETTING_SILENT_EXITS, SETTING_VERSION};
use crate::ig::stream::probes::{self, Probes};
use crate::messages::{GetTokens, SessionLines, TokensRefused};
use crate::store::{AllowanceKey, Feed, Lease, Store, StoreError, StoreHandle};
use crate::tlcp::Version;
use crate::writer::journal::{Journal, JournalHandle};
use crate::writer::recovery::{RecoveryError, recover};

/// Pauses between attempts to learn at start what the house is built from.
const START_RETRY_FIRST: Duration = Duration::from_secs(2);
const START_RETRY_LAST: Duration = Duration::from_secs(60);
/// An attempt to learn from IG what there is to build ends within this time.
const LEARNT_WITHIN: Duration = Duration::from_secs(900);
/// The evidence of what a start, of the process or of a room, cannot know any more.
pub(super) const RESTART: &str = "restart";
/// The longest time in dispute, a holiday's, is looked at as a whole, seconds.
const IN_DISPUTE_MAX_S: i64 = 3 * 86_400;
/// Where the requests a minute are kept for those who reckon how long healing takes.
pub const SETTING_PACE: &str = "history.requests_per_minute";
/// How many bars of 5 and of 15 minutes a first start was last to bring.
const SETTING_DEPTH: &str = "history.depth";

/// When a missing bucket is lost. The first history reaches back over weekends and holidays.
pub(super) fn give_up(config: &Config) -> GiveUp {
    let Depth { m5, m15 } = depth(config);
    let reach_s = (i64::from(m5) * Timeframe::M5.seconds()).max(i64::from(m15) * Timeframe::M15.seconds());
    let after_s = i64::from(config.history.give_up_days) * 86_400;
    GiveUp { after_s, first_start_after_s: after_s + reach_s * 7 / 5 + 7 * 86_400 }
}

/// The lengths of which a first start would bring more bars than `kept` says that those of this database did, and how
/// many.
fn deeper(kept: &str, now: Depth) -> Vec<(Timeframe, u32)> {
    let mut kept = kept.split(' ').map(|bars| bars.parse().unwrap_or(u32::MAX));
    let both = [(Timeframe::M5, now.m5), (Timeframe::M15, now.m15)];
    both.into_iter().filter(|(_, bars)| kept.next().is_some_and(|kept| kept < *bars)).collect()
}

/// The lengths of which pairs that are collected already lack older bars, since more are to be brought at first than
/// before; each is told of once.
fn note_depth(store: &mut Store, now: Depth, is_known: bool) -> Result<Vec<(Timeframe, u32)>, StoreError> {
    let text = format!("{} {}", now.m5, now.m15);
    let kept = store.setting(SETTING_DEPTH)?;
    if kept.as_ref() != Some(&text) {
        store.set_setting(SETTING_DEPTH, &text)?;
    }
    Ok(kept.filter(|_| is_known).map(|kept| deeper(&kept, now)).unwrap_or_default())
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
pub(super) async fn open_store(
    config: &Config,
    flags: &RunFlags,
    clock: &Clock,
    standing: &Standing,
    chronicle: &Chronicle,
) -> Result<(StoreHandle, Lease, Option<JournalHandle>), Failure> {
    let opened = tenure::open(&config.database, standing).await?;
    let waits = flags.purpose == Purpose::Collect;
    let mut lease = tenure::acquire(&opened, flags.command, waits, clock, standing).await?;
    let (store, mut waiting) = (opened.store, tenure::Waiting::begin(standing));
    let run = (flags.purpose == Purpose::Collect).then(|| LastRun::begun(&lease));
    if let Some(run) = &run {
        chronicle.begins(&store, run.clone());
    }
    let prepared = loop {
        let (config, accepts, now) = (config.clone(), flags.accept_feed_change, clock.wall());
        let begun = run.as_ref().map(LastRun::text);
        let prepared = store.run(move |store| {
            let begun = begun.map_or(Ok(()), |run| store.set_setting(chronicle::SETTING, &run));
            let prepared = begun.map_err(RecoveryError::from);
            Ok((prepared.and_then(|()| prepare(store, &config, accepts, &lease, now)), lease))
        });
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

pub(super) fn session_settings(config: &Config, login: &Login, flags: &RunFlags) -> SessionSettings {
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
pub(super) async fn learn(
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
    let resolved = markets::resolve(rest, &tokens, &config.feeds, config.ig.product).await;
    let instruments = resolved.map_err(|error| match error {
        // Whether IG refuses the credentials is for a login to say.
        IgError::CredentialsRefused(why) | IgError::Unauthorized(why) => {
            session.refused.hint(TokensRefused { generation: tokens.generation, certain: true });
            IgError::Retryable(format!("IG refuses to tell of the instruments: {why}"))
        }
        other => other,
    })?;
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

/// The database, for what is asked of it once between the login and the first room: what is the matter with
/// it, and passes, is waited for as before the login.
pub(super) struct Patient<'a> {
    pub(super) store: &'a StoreHandle,
    pub(super) standing: &'a Standing,
    /// Whether somebody waits at all.
    pub(super) waits: bool,
}

impl Patient<'_> {
    /// Does this, as often as it takes.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Fn(&mut Store) -> Result<T, StoreError> + Clone + Send + 'static,
    ) -> Result<T, StoreError> {
        let mut waiting = tenure::Waiting::begin(self.standing);
        loop {
            match self.store.run(work.clone()).await {
                Err(error) if self.waits && error.is_retryable() => waiting.wait(&error).await,
                done => return done,
            }
        }
    }
}

/// Writes the watched feeds down and finds where an earlier run stopped accounting for each.
pub(super) async fn watch(
    config: &Config,
    purpose: &Purpose,
    shelf: &Patient<'_>,
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
    let depth = depth(config);
    let resume = shelf
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
            if watches {
                for (timeframe, bars) in note_depth(store, depth, !resume.is_empty())? {
                    log::info!(
                        "history.depth is for pairs that are new: those that are collected already get as much with \
                         `candlekeep candles PAIR {timeframe} --count {bars} --fetch`"
                    );
                }
            }
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
pub(super) fn unproven(store: &mut Store, ends: &[(Pair, Timestamp)]) -> Result<Vec<Fact>, StoreError> {
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
pub(super) async fn read_matched(shelf: &Patient<'_>, record: &RecordKeys) -> Result<u32, Failure> {
    let key = record.matched.clone();
    let text = shelf
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

/// Reads what earlier processes left for the stream.
pub(super) fn recall(
    tlcp_version: &str,
) -> impl Fn(&mut Store) -> Result<Memory, StoreError> + Clone + use<> {
    let wanted = tlcp_version.to_owned();
    move |store| {
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
    }
}

pub(super) async fn allowance_key(
    config: &Config,
    shelf: &Patient<'_>,
    login: &Login,
    tokens: &Tokens,
    clock: &Clock,
) -> Result<AllowanceKey, Failure> {
    let known = shelf.run(|store| store.setting(fingerprint::SETTING_KEY)).await?;
    let fingerprint_key = match known {
        Some(key) => key,
        None => fingerprint::key(shelf.store).await.map_err(Failure::failed)?,
    };
    let key = AllowanceKey {
        environment: config.ig.environment.as_str().to_owned(),
        account: tokens.account_id.clone(),
        key_fingerprint: fingerprint::of(&fingerprint_key, &[login.api_key.expose()]),
    };
    // What the last process had booked and not settled will never be.
    let (spender, now) = (key.clone(), clock.wall());
    shelf.run(move |store| store.give_up_booked_spends(&spender, now)).await?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::DatabaseUrl;

    #[test]
    fn a_depth_that_grows_is_told_of_once() {
        let depth = |m5, m15| Depth { m5, m15 };
        assert_eq!(deeper("100 100", depth(300, 100)), [(Timeframe::M5, 300)]);
        assert_eq!(deeper("100 0", depth(100, 50)), [(Timeframe::M15, 50)]);
        assert_eq!(deeper("100 100", depth(50, 100)), []);
        assert_eq!(deeper("rubbish", depth(300, 100)), []);
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(&DatabaseUrl::sqlite(dir.path().join("c.db"))).unwrap();
        let mut told = |m5, is_known| note_depth(&mut store, depth(m5, 100), is_known).unwrap();
        assert_eq!(told(100, true), [], "nobody knows what it was before");
        assert_eq!(told(300, true), [(Timeframe::M5, 300)]);
        assert_eq!(told(300, true), []);
        assert_eq!(told(400, false), [], "nothing has been collected yet");
        assert_eq!(told(500, true), [(Timeframe::M5, 500)]);
    }
}
