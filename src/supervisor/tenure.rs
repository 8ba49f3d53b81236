//! Keeps the lease of the database while the house stands.

use std::sync::Arc;
use std::time::Duration;

use super::Alarm;
use crate::clock::Clock;
use crate::exit::Exit;
use crate::store::{Lease, StoreError, StoreHandle};

/// A third of what a lease lasts, so that one failed write does not cost it.
const RENEW_EVERY: Duration = Duration::from_secs(5);

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
