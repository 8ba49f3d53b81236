//! What the database knows of logins, for the processes after this one: when the last was, which led nowhere,
//! and which credentials IG has refused for good.

use std::time::Duration;

use super::failed::{self, Failed};
use super::tokens::login_wait;
use crate::domain::Timestamp;
use crate::store::{Store, StoreError};

/// Where the time of the last login is kept, epoch seconds.
pub const SETTING_LAST_LOGIN: &str = "session.last_login";
/// Where the fingerprint of credentials that IG has refused is kept.
pub const SETTING_REFUSED: &str = "session.refused_fingerprint";

/// What the database knows of logins.
#[derive(Clone, Debug, Default)]
pub struct Logins {
    /// The last one.
    pub last: Option<Timestamp>,
    /// Those since one has led somewhere, and what is excused.
    pub failed: Failed,
}

impl Logins {
    /// Reads it.
    ///
    /// # Errors
    /// Those of reading.
    pub fn read(store: &mut Store) -> Result<Logins, StoreError> {
        let last = store.setting(SETTING_LAST_LOGIN)?.and_then(|text| text.parse().ok()).map(Timestamp);
        let failed = store.setting(failed::SETTING)?.map(|text| Failed::read(&text)).unwrap_or_default();
        Ok(Logins { last, failed })
    }

    /// Writes it over what was known.
    ///
    /// # Errors
    /// Those of writing.
    pub fn note(&self, store: &mut Store) -> Result<(), StoreError> {
        store.set_setting(failed::SETTING, &self.failed.write())?;
        let last = self.last.map(|at| at.0.to_string());
        store.set_setting(SETTING_LAST_LOGIN, &last.unwrap_or_default())
    }

    /// Why the last has failed; counted it is already.
    ///
    /// # Errors
    /// Those of reading and writing.
    pub fn note_failed(store: &mut Store, why: String) -> Result<(), StoreError> {
        let failed = Failed { why, ..Logins::read(store)?.failed };
        store.set_setting(failed::SETTING, &failed.write())
    }

    /// IG has granted the last. That it refused these credentials is forgotten; whether the login leads
    /// anywhere is to be seen.
    ///
    /// # Errors
    /// Those of writing.
    pub fn note_granted(store: &mut Store) -> Result<(), StoreError> {
        store.set_setting(SETTING_REFUSED, "")?;
        let failed = Logins::read(store)?.failed.and_granted();
        store.set_setting(failed::SETTING, &failed.write())
    }

    /// The last login has led to a good while of streaming: those before it are forgotten. Nothing where IG
    /// has not granted it.
    ///
    /// # Errors
    /// Those of reading and writing.
    pub fn note_lasting(store: &mut Store) -> Result<(), StoreError> {
        if Logins::read(store)?.failed.granted {
            store.set_setting(failed::SETTING, "")?;
        }
        Ok(())
    }

    /// The last login has led to an orderly end, see [`Failed::and_stopped`].
    ///
    /// # Errors
    /// Those of reading and writing.
    pub fn note_stopped(store: &mut Store) -> Result<(), StoreError> {
        let failed = Logins::read(store)?.failed;
        let stopped = failed.clone().and_stopped();
        if stopped != failed {
            store.set_setting(failed::SETTING, &stopped.write())?;
        }
        Ok(())
    }

    /// How long there is to be no other.
    pub fn wait(&self, spacing: Duration, now: Timestamp) -> Duration {
        login_wait(self.last, self.failed.distance(spacing), now)
    }

    /// Whether those that failed are anybody's concern: not while the last has led to a stream that still runs
    /// (`streams`) and no delay is owed. They count until it has run for long enough.
    pub fn are_told(&self, streams: bool, spacing: Duration, now: Timestamp) -> bool {
        self.failed.is_told() && !(streams && self.wait(spacing, now).is_zero())
    }
}
