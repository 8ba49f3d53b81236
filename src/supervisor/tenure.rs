//! Opens the database, waits for its lease, and keeps it while the house stands.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::Alarm;
use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::domain::Timestamp;
use crate::exit::{Exit, Failure};
use crate::store::{DatabaseUrl, LEASE_S, Lease, LeaseState, Standby, Store, StoreError, StoreHandle};

/// A third of what a lease lasts, so that one failed write does not cost it.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// How long a lease lasts.
const LEASE: Duration = Duration::from_secs(LEASE_S.cast_unsigned());
/// How often one that waits looks whether it is its turn.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often one that waits says that it does.
const TELL_EVERY: Duration = Duration::from_secs(3);
/// Pauses between attempts to reach a database that is away.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(10);

/// Opens the database on a thread of its own, again and again while it is away; answers too whether it was.
///
/// # Errors
/// Where trying again makes no sense.
pub async fn open(url: &DatabaseUrl) -> Result<(StoreHandle, bool), Failure> {
    let mut backoff = Backoff::new(RETRY_FIRST, 2.0, RETRY_LAST);
    let mut was_away = false;
    loop {
        match open_once(url).await? {
            Ok(store) => {
                let spawned = StoreHandle::spawn("candlekeep-store", store);
                let (handle, _thread) = spawned
                    .map_err(|error| Failure::failed(format!("no thread for the database: {error}")))?;
                return Ok((handle, was_away));
            }
            Err(error) if error.is_retryable() => {
                was_away = true;
                let pause = backoff.next_delay(fastrand::f64());
                log::warn!(error:% = error, pause_ms = pause.as_millis() as u64; "the database is away, waiting for it");
                actix_rt::time::sleep(pause).await;
            }
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

/// Takes the lease for `command`. Where several processes may wait for it, and this one wants to, it
/// waits until it is its turn. `was_away` says whether the database was away until now.
///
/// # Errors
/// [`StoreError::Leased`] where another has it and nobody waits; those of any write.
pub async fn acquire(
    store: &StoreHandle,
    command: &'static str,
    waits: bool,
    was_away: bool,
    clock: &Clock,
) -> Result<Lease, StoreError> {
    let standby = Standby::new(command, clock.wall())?;
    let mut turn = Turn {
        standby,
        store: store.clone(),
        clock: clock.clone(),
        seen: None,
        answers_since: clock.monotonic(),
        looks: waits && was_away,
        told_at: None,
    };
    loop {
        match turn.ask().await {
            Ok(lease) => {
                if turn.told_at.is_some() {
                    log::info!(epoch = lease.epoch(); "it is this one's turn to collect");
                }
                return Ok(lease);
            }
            // None but a server fails to answer that.
            Err(StoreError::Leased { by })
                if waits && store.run(|store| Ok(store.has_standbys())).await.unwrap_or(true) =>
            {
                turn.wait(by.as_deref()).await;
            }
            // It is away, and so it is for the one that collects.
            Err(error) if turn.told_at.is_some() && error.is_retryable() => turn.wait(None).await,
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
    /// Whether it looks before it takes what is to be had.
    looks: bool,
    told_at: Option<Instant>,
}

impl Turn {
    /// Takes the lease if it is to be had.
    async fn ask(&mut self) -> Result<Lease, StoreError> {
        if self.looks {
            self.look().await?;
        }
        let (standby, now) = (self.standby.clone(), self.clock.wall());
        let unchanged_s = self.unchanged_s(self.clock.monotonic());
        self.store.run(move |store| store.take_turn(&standby, unchanged_s, now)).await
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
        let renewing = actix_rt::spawn(renew(lease.clone(), store, clock, alarm));
        Tenure { lease, renewing }
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
        actix_rt::time::sleep(RENEW_EVERY).await;
        let (lease, now) = (lease.clone(), clock.wall());
        match store.run(move |store| store.renew_lease(&lease, now)).await {
            Ok(()) if fails => {
                fails = false;
                log::info!("the lease is renewed again");
            }
            Ok(()) => {}
            Err(error @ StoreError::LeaseLost { .. }) => return alarm.exit(Exit::Failed, error.to_string()),
            Err(StoreError::Closed) => return,
            Err(error) if !fails => {
                fails = true;
                log::warn!(error:% = error; "the lease could not be renewed, trying again");
            }
            Err(_) => {}
        }
    }
}
