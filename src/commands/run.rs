//! `candlekeep run`: the service.

use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, Shared};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::outlook::{self, Wish, words};
use super::{backfill, status};
use crate::api::{self, Door, Place, Sources, Stretch, Wait, place};
use crate::cli::Run;
use crate::clock::{Clock, ClockKind};
use crate::config::Config;
use crate::domain::Epic;
use crate::exit::{Exit, Failure};
use crate::failpoint;
use crate::healer::book::Scope;
use crate::store::{Store, StoreHandle};
use crate::supervisor::house::{House, Purpose, RunFlags, Signs};
use crate::supervisor::watchdog;
use crate::transcript::secrets::Kind;
use crate::transcript::{Recorder, Recording};

/// Time for an orderly end; systemd would wait longer, an operator would not.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Collects candles until told to stop.
///
/// # Errors
/// Where the service cannot start, or ends for a reason that a restart or the operator must mend.
pub fn execute(args: &Run, config: Config) -> Result<Exit, Failure> {
    let flags = RunFlags {
        command: "run",
        retry_credentials: args.retry_credentials,
        accept_feed_change: args.accept_feed_change,
        purpose: Purpose::Collect,
    };
    if let Some(point) = &args.failpoint {
        failpoint::arm(point).map_err(Failure::usage)?;
    }
    super::warn_of_exposed(&config);
    let door = Door::new(&config.http)?;
    let recording = args.record.as_deref().map(|file| record(file, &config)).transpose()?;
    let recorder = recording.as_ref().map(Recording::recorder).unwrap_or_default();
    let patience = args.patience;
    let signs = Signs::new(&Clock::system(), patience.map(|seconds| Duration::from_secs(seconds.into())));
    let outcome = super::on_actix(async move {
        watchdog::watch(patience, signs.chronicle.clone())
            .map_err(|error| Failure::failed(format!("no thread for the watchdog: {error}")))?;
        let chronicle = signs.chronicle.clone();
        let outcome = collect(Arc::new(config), flags, signs, recorder, door).await;
        chronicle.ends(outcome.as_ref().map(drop)).await;
        outcome
    });
    if let Some(recording) = recording {
        recording.finish();
    }
    outcome
}

async fn collect(
    config: Arc<Config>,
    flags: RunFlags,
    signs: Signs,
    recorder: Recorder,
    door: Option<Door>,
) -> Result<Exit, Failure> {
    let told_to_stop = told_to_stop();
    let (place, placed) = watch::channel(Place::off(Clock::system().wall()));
    if let Some(door) = door {
        // Before all else: who waits for the database, its turn or IG tells so.
        actix_rt::spawn(api::serve(door, sources(config.clone(), signs.clone()), place));
    }
    let Some(house) = House::start(&config, flags, signs, recorder, told_to_stop.clone()).await? else {
        log::info!("told to stop");
        return Ok(Exit::Done);
    };
    log::info!(pairs = house.instruments.len(), database:% = config.database; "collecting");
    actix_rt::spawn(keep_place(house.store().clone(), house.epoch(), placed));
    // A task, since what is waited for outside of one is looked at whenever anything wakes the thread.
    let collecting = actix_rt::spawn(until_it_ends(house, told_to_stop));
    collecting.await.unwrap_or_else(|panicked| resume_unwind(panicked.into_panic()))
}

/// Collects until told to stop, or until it cannot go on.
async fn until_it_ends(mut house: House, told_to_stop: Stop) -> Result<Exit, Failure> {
    tokio::select! {
        failure = house.failed() => {
            house.abandon().await;
            Err(failure)
        }
        () = told_to_stop => {
            log::info!("told to stop");
            let Ok(stopped) = tokio::time::timeout(STOP_WITHIN, house.stop()).await else {
                return Err(Failure::failed("could not stop in time; the next start heals what is missing"));
            };
            stopped?;
            log::info!("stopped");
            Ok(Exit::Done)
        }
    }
}

/// What is told over HTTP.
pub(super) fn sources(config: Arc<Config>, signs: Signs) -> Sources {
    let clock = Clock::system();
    let status = {
        let (config, clock) = (config.clone(), clock.clone());
        move || status::read_json(&config, clock.wall()).map_err(|failure| failure.to_string())
    };
    let order = {
        let config = config.clone();
        move |(pair, timeframe, span): Stretch| {
            let order = backfill::order(&[pair], &[timeframe], Some(span), &config);
            order.map(|order| order.wish.stretches).map_err(|failure| failure.to_string())
        }
    };
    let wait = {
        let config = config.clone();
        move |store: &mut Store, (pair, timeframe, span): Stretch| {
            let (pairs, timeframes) = (Some(vec![pair]), Some(vec![timeframe]));
            let scope = Scope { pairs, span: Some(span), timeframes };
            let outlook = outlook::look(Some(store), &config, &scope, &Wish::default(), false)
                .map_err(|failure| failure.to_string())?;
            Ok(words::standstill(&outlook).map(|(why, until)| Wait { why, until }))
        }
    };
    Sources { config, signs, status: Arc::new(status), order: Arc::new(order), wait: Arc::new(wait), clock }
}

/// Has `status` know where HTTP is served, or why it is not, by this holder of the lease.
pub(super) async fn keep_place(store: StoreHandle, epoch: i64, mut placed: watch::Receiver<Place>) {
    loop {
        let text = Place { epoch, ..placed.borrow_and_update().clone() }.text();
        if let Err(error) = store.run(move |store| store.set_setting(place::SETTING, &text)).await {
            log::debug!(error:% = error; "where HTTP is served could not be written down");
        }
        if placed.changed().await.is_err() {
            return;
        }
    }
}

/// Begins a recording that knows all secrets that the user has configured.
fn record(file: &Path, config: &Config) -> Result<Recording, Failure> {
    let login = config.credentials.require()?;
    let mut secrets = vec![
        (Kind::Key, login.api_key.expose()),
        (Kind::User, login.username.expose()),
        (Kind::Password, login.password.expose()),
    ];
    secrets.extend(config.ig.account_id.as_deref().map(|id| (Kind::Account, id)));
    let recording = Recording::start(file, Clock::system(), &secrets, told(config));
    let recording = recording.map_err(Failure::configuration)?;
    log::info!(file:% = file.display(); "recording REST and stream, without secrets");
    Ok(recording)
}

/// What a transcript tells of the configuration: what the conversation with IG depends on.
/// Addresses, paths and names of accounts are the user's own business.
fn told(config: &Config) -> Value {
    let feeds =
        config.feeds.iter().map(|feed| (feed.pair.to_string(), json!(feed.epic.as_ref().map(Epic::as_str))));
    json!({
        "environment": config.ig.environment.as_str(),
        "account_type": config.ig.account_type.as_str(),
        "account_is_chosen": config.ig.account_id.is_some(),
        "clock": match config.clock { ClockKind::System => "system", ClockKind::Stream => "stream" },
        "timeframes": config.timeframes.iter().map(|timeframe| timeframe.as_str()).collect::<Vec<_>>(),
        "pairs": feeds.collect::<serde_json::Map<_, _>>(),
        "session_version": config.session.version,
        "tlcp_version": config.stream.tlcp_version,
    })
}

/// Told to stop: by SIGTERM, SIGINT, or SIGHUP, that of a terminal that is closed. Each clone hears of it, also
/// where it came before anybody waited.
pub type Stop = Shared<LocalBoxFuture<'static, ()>>;

/// From now on a signal is heard and ends nothing by itself.
pub fn told_to_stop() -> Stop {
    let mut terminate = signal(SignalKind::terminate()).expect("signal handlers can be installed");
    let mut interrupt = signal(SignalKind::interrupt()).expect("signal handlers can be installed");
    // Who has started it with `nohup` wants it to go on.
    let hangs_up = !ignores_hangup(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
    let hangup = hangs_up.then(|| signal(SignalKind::hangup()).ok()).flatten();
    let told = async move {
        let hangup = async {
            match hangup {
                Some(mut hangup) => _ = hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = hangup => {}
        }
    };
    told.boxed_local().shared()
}

/// Whether a process with this `/proc/PID/status` ignores SIGHUP.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hangup_that_is_ignored_is_told_by_the_first_bit() {
        assert!(ignores_hangup("Name:\tx\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hangup("Name:\tx\nSigIgn:\t0000000000001000\n"));
        assert!(!ignores_hangup(""));
    }
}
