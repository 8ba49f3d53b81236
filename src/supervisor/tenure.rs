//! Opens the database, waits for its lease, and keeps it while the house stands.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Alarm;
use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::domain::Timestamp;
use crate::exit::{Exit, Failure};
use crate::store::{DatabaseUrl, Lease, LeaseState, Standby, Store, StoreError, StoreHandle};

/// A third of what a lease lasts, so that one failed write does not cost it.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// How often one that waits looks whether it is its turn.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often one that waits says that it does.
const TELL_EVERY: Duration = Duration::from_secs(3);
/// Pauses between attempts to reach a database that is away.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(10);

/// Opens the database on a thread of its own, again and again while it is away.
///
/// # Errors
/// Where trying again makes no sense.
pub async fn open(url: &DatabaseUrl) -> Result<StoreHandle, Failure> {
    let mut backoff = Backoff::new(RETRY_FIRST, 2.0, RETRY_LAST);
    loop {
        let wanted = url.clone();
        let opened = tokio::task::spawn_blocking(move || Store::open(&wanted)).await;
        match opened.map_err(|error| Failure::failed(format!("opening the database ended: {error}")))? {
            Ok(store) => {
                let spawned = StoreHandle::spawn("candlekeep-store", store);
                let (handle, _thread) = spawned
                    .map_err(|error| Failure::failed(format!("no thread for the database: {error}")))?;
                return Ok(handle);
            }
            Err(error) if error.is_retryable() => {
                let pause = backoff.next_delay(fastrand::f64());
                log::warn!(error:% = error, pause_ms = pause.as_millis() as u64; "the database is away, waiting for it");
                actix_rt::time::sleep(pause).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes the lease for `command`. Where several processes may wait for it, and this one wants to, it
/// waits until it is its turn.
///
/// # Errors
/// [`StoreError::Leased`] where another has it and nobody waits; those of any write.
pub async fn acquire(
    store: &StoreHandle,
    command: &'static str,
    waits: bool,
    clock: &Clock,
) -> Result<Lease, StoreError> {
    let standby = Standby::new(command, clock.wall())?;
    let mut turn = Turn { standby, store: store.clone(), clock: clock.clone(), seen: None, told_at: None };
    loop {
        match turn.ask().await {
            Ok(lease) => {
                if turn.told_at.is_some() {
                    log::info!(epoch = lease.epoch(); "it is this one's turn to collect");
                }
                return Ok(lease);
            }
            Err(StoreError::Leased { by })
                if waits && store.run(|store| Ok(store.has_standbys())).await? =>
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
    told_at: Option<Instant>,
}

impl Turn {
    /// Takes the lease if it is to be had.
    async fn ask(&mut self) -> Result<Lease, StoreError> {
        let (standby, now) = (self.standby.clone(), self.clock.wall());
        let unchanged = self.seen.map(|(_, since)| self.clock.monotonic().saturating_duration_since(since));
        let unchanged_s = unchanged.map_or(0, |unchanged| unchanged.as_secs().cast_signed());
        self.store.run(move |store| store.take_turn(&standby, unchanged_s, now)).await
    }

    /// Notes whether the holder lives, says so once, says that this one waits, and pauses.
    async fn wait(&mut self, holder: Option<&LeaseState>) {
        let now = self.clock.monotonic();
        if let Some(holder) = holder {
            let sign = (holder.epoch, holder.renewed_at);
            if self.seen.is_none_or(|(seen, _)| seen != sign) {
                self.seen = Some((sign, now));
            }
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
