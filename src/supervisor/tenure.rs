//! Opens the database, waits for its lease, and keeps it while the house stands.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::Alarm;
use super::notify::Standing;
use crate::backoff::Backoff;
use crate::clock::{self, Clock};
use crate::domain::Timestamp;
use crate::exit::{Exit, Failure};
use crate::failpoint;
use crate::store::{
    DatabaseUrl, LEASE_S, Lease, LeaseState, Standby, Store, StoreError, StoreHandle, Unchanged,
};

/// A third of what a lease lasts, so that one failed write does not cost it.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// How long a lease lasts.
const LEASE: Duration = Duration::from_secs(LEASE_S.cast_unsigned());
/// How often one that waits looks whether it is its turn.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often one that waits says that it does.
const TELL_EVERY: Duration = Duration::from_secs(3);
/// An attempt to open the database ends within this time, a migration of years of bars too.
const OPENED_WITHIN: Duration = Duration::from_secs(600);
/// Pauses between attempts to reach a database that is away.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(10);

/// A database that is open, and whether it had to be waited for.
pub struct Opened {
    /// Its thread.
    pub store: StoreHandle,
    /// It was away at first.
    pub was_away: bool,
    /// Several processes may wait for its lease.
    pub has_standbys: bool,
}

/// Opens the database on a thread of its own, again and again while it is away.
///
/// # Errors
/// Where trying again makes no sense.
pub async fn open(url: &DatabaseUrl, standing: &Standing) -> Result<Opened, Failure> {
    let mut waiting = Waiting::begin(standing);
    standing.starts("opening the database", OPENED_WITHIN);
    loop {
        match open_once(url).await? {
            Ok(store) => {
                let has_standbys = store.has_standbys();
                let spawned = StoreHandle::spawn("candlekeep-store", store);
                let (store, _thread) = spawned
                    .map_err(|error| Failure::failed(format!("no thread for the database: {error}")))?;
                return Ok(Opened { store, was_away: waiting.has_waited, has_standbys });
            }
            Err(error) if error.is_retryable() => waiting.wait(&error).await,
            Err(error) => return Err(error.into()),
        }
    }
}

/// On a thread of its own, and none of the runtime's, which would wait at its end for a server that answers
/// nothing.
async fn open_once(url: &DatabaseUrl) -> Result<Result<Store, StoreError>, Failure> {
    let (opened, opening) = tokio::sync::oneshot::channel();
    let url = url.clone();
    let thread = thread::Builder::new().name("candlekeep-open".to_owned());
    // Whoever asked may have been told to stop.
    let spawned = thread.spawn(move || drop(opened.send(Store::open(&url))));
    spawned.map_err(|error| Failure::failed(format!("no thread for opening the database: {error}")))?;
    opening.await.map_err(|_| Failure::failed("opening the database panicked"))
}

/// Waiting for a database that is away at the start.
pub struct Waiting {
    backoff: Backoff,
    has_waited: bool,
    standing: Standing,
}

impl Waiting {
    /// Nothing was waited for yet.
    pub fn begin(standing: &Standing) -> Waiting {
        let backoff = Backoff::new(RETRY_FIRST, 2.0, RETRY_LAST);
        Waiting { backoff, has_waited: false, standing: standing.clone() }
    }

    /// Says why, and waits a little.
    pub async fn wait(&mut self, error: &StoreError) {
        self.has_waited = true;
        let pause = self.backoff.next_delay(fastrand::f64());
        log::warn!(error:% = error, pause_ms = pause.as_millis() as u64; "the database is away, waiting for it");
        self.standing.waits(format_args!("waiting for the database: {error}"), pause + OPENED_WITHIN);
        actix_rt::time::sleep(pause).await;
    }
}

/// Takes the lease for `command`. One that `waits` does so where it could be its turn later, and for a
/// database that is away.
///
/// # Errors
/// [`StoreError::Leased`] where another has it and nobody waits; those of any write.
pub async fn acquire(
    opened: &Opened,
    command: &'static str,
    waits: bool,
    clock: &Clock,
    standing: &Standing,
) -> Result<Lease, StoreError> {
    let (store, answers_since) = (opened.store.clone(), clock.monotonic());
    let mut turn = Turn {
        standby: Standby::new(command, clock.wall())?,
        store: store.clone(),
        clock: clock.clone(),
        seen: None,
        answers_since,
        looks: waits && opened.has_standbys && opened.was_away,
        told_at: None,
        standing: standing.clone(),
    };
    let mut waiting = Waiting::begin(standing);
    loop {
        match turn.ask().await {
            Ok(lease) => {
                if turn.told_at.is_some() {
                    log::info!(epoch = lease.epoch(); "it is this one's turn to collect");
                }
                return Ok(lease);
            }
            Err(StoreError::Leased { by }) if waits && opened.has_standbys => {
                turn.wait(by.as_deref()).await;
            }
            // It is away, and so it is for the one that collects.
            Err(error) if waits && error.is_retryable() => {
                // Where a lock decides there is nothing to look at.
                turn.looks = opened.has_standbys;
                match turn.told_at {
                    Some(_) => turn.wait(None).await,
                    None => waiting.wait(&error).await,
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Waiting for the lease.
struct Turn {
    standby: Standby,
    store: StoreHandle,
    clock: Clock,
    /// The holder's last sign of life, and since when there has been no other.
    seen: Option<((i64, Timestamp), Instant)>,
    /// Since when the database answers this one.
    answers_since: Instant,
    /// It looks at the lease before it takes it: it has waited, or the database was away.
    looks: bool,
    told_at: Option<Instant>,
    standing: Standing,
}

impl Drop for Turn {
    /// Says that this one waits no more; done by the store's thread, whoever is gone by then.
    fn drop(&mut self) {
        if self.told_at.is_some() {
            let (standby, now) = (self.standby.clone(), self.clock.wall());
            drop(self.store.run(move |store| store.leave_standby(&standby, now)));
        }
    }
}

impl Turn {
    /// Takes the lease if it is to be had.
    async fn ask(&mut self) -> Result<Lease, StoreError> {
        if self.looks {
            self.look().await?;
        }
        let (standby, now) = (self.standby.clone(), self.clock.wall());
        let seconds = self.unchanged_s(self.clock.monotonic());
        let unchanged = self.seen.map(|(sign, _)| Unchanged { sign, seconds });
        self.store.run(move |store| store.take_turn(&standby, unchanged, now)).await
    }

    /// Refuses while the holder lives, or may. Where the database was away it was so for the holder too,
    /// which goes first once it is back: what it has kept meanwhile is with it.
    async fn look(&mut self) -> Result<(), StoreError> {
        let (asked_at, wall) = (self.clock.monotonic(), self.clock.wall());
        let looked = self.store.run(move |store| store.consistently(|store| store.lease(wall))).await;
        let now = self.clock.monotonic();
        if looked.is_err() || now.saturating_duration_since(asked_at) >= RENEW_EVERY {
            self.answers_since = now;
        }
        let Some(holder) = looked?.filter(|holder| !holder.released) else { return Ok(()) };
        self.note(&holder, now);
        let is_back_long = now.saturating_duration_since(self.answers_since) >= LEASE;
        if is_back_long && (!holder.alive || self.unchanged_s(now) >= LEASE_S) {
            return Ok(());
        }
        Err(StoreError::Leased { by: Some(Box::new(holder)) })
    }

    /// Notes when the holder has last shown that it lives.
    fn note(&mut self, holder: &LeaseState, now: Instant) {
        let sign = (holder.epoch, holder.renewed_at);
        if self.seen.is_none_or(|(seen, _)| seen != sign) {
            self.seen = Some((sign, now));
        }
    }

    /// For how long the holder has shown no sign of life, seconds.
    fn unchanged_s(&self, now: Instant) -> i64 {
        self.seen.map_or(0, |(_, since)| now.saturating_duration_since(since).as_secs().cast_signed())
    }

    /// Notes whether the holder lives, says so once, says that this one waits, and pauses.
    async fn wait(&mut self, holder: Option<&LeaseState>) {
        let now = self.clock.monotonic();
        self.looks = true;
        if let Some(holder) = holder {
            self.note(holder, now);
            if self.told_at.is_none() {
                log::info!(leader:% = holder.who(); "another process collects into this database, standing by");
            }
        }
        if self.told_at.is_none_or(|at| now.saturating_duration_since(at) >= TELL_EVERY) {
            self.told_at = Some(now);
            let (standby, wall) = (self.standby.clone(), self.clock.wall());
            // For people: that it fails is told by what follows.
            let _ = self.store.run(move |store| store.stand_by(&standby, wall)).await;
        }
        self.standing.waits("standing by: another process collects", LOOK_EVERY + OPENED_WITHIN);
        actix_rt::time::sleep(LOOK_EVERY).await;
    }
}

/// How long giving the lease back waits for a database that is away.
const GIVE_BACK_WITHIN: Duration = Duration::from_secs(1);

/// A lease that renews itself until it ends or is dropped.
#[derive(Debug)]
pub struct Tenure {
    lease: Arc<Lease>,
    renewing: actix_rt::task::JoinHandle<()>,
}

impl Tenure {
    /// Renews `lease` from now on, on the current arbiter. Raises an alarm once it is lost.
    pub fn begin(lease: Lease, store: StoreHandle, clock: Clock, alarm: Alarm) -> Tenure {
        let lease = Arc::new(lease);
        let (vital, renewing) = (alarm.clone(), renew(lease.clone(), store, clock, alarm));
        let renewing = actix_rt::spawn(async move { vital.vital("renewing the lease", renewing).await });
        Tenure { lease, renewing }
    }

    /// Number of this holder of the lease.
    pub fn epoch(&self) -> i64 {
        self.lease.epoch()
    }

    /// Writes down that the holder ends in good order. A lock is given back when this is dropped.
    pub async fn end(&self, store: &StoreHandle, clock: &Clock) {
        self.renewing.abort();
        let (lease, now) = (self.lease.clone(), clock.wall());
        let given_back = store.run(move |store| store.release_lease(&lease, now));
        match tokio::time::timeout(GIVE_BACK_WITHIN, given_back).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                log::warn!(error:% = error; "the lease could not be given back; the next start takes it");
            }
            Err(_) => log::warn!("the lease could not be given back in time; the next start takes it"),
        }
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

/// A write that fails is tried again with the next renewal, and told once.
async fn renew(lease: Arc<Lease>, store: StoreHandle, clock: Clock, alarm: Alarm) {
    let mut fails = false;
    loop {
        clock::beat(RENEW_EVERY).await;
        failpoint::in_task("lease.renew").await;
        let (lease, now) = (lease.clone(), clock.wall());
        match store.run(move |store| store.renew_lease(&lease, now)).await {
            Ok(()) if fails => {
                fails = false;
                log::info!("the lease is renewed again");
            }
            Ok(()) => {}
            Err(error @ StoreError::LeaseLost { .. }) => return alarm.exit(Exit::Failed, error.to_string()),
            Err(error @ StoreError::Closed) => return alarm.exit(Exit::Failed, error.to_string()),
            Err(error) if !fails => {
                fails = true;
                log::warn!(error:% = error; "the lease could not be renewed, trying again");
            }
            Err(_) => {}
        }
    }
}
