//! What the database tells. Reads only.

use std::time::Duration;

use super::machine::within;
use crate::api::{Place, place};
use crate::commands::gaps::verify;
use crate::config::{Config, Login};
use crate::domain::{Timeframe, Timestamp};
use crate::healer::actor::SETTING_TROUBLE;
use crate::ig::session::fingerprint;
use crate::ig::session::logins::{Logins, SETTING_REFUSED};
use crate::ig::stream::probes::{self, Probes};
use crate::ig::stream::state::{self, StreamState};
use crate::store::{AllowanceState, DatabaseUrl, LeaseState, ServerFacts, Store, StoreError};
use crate::supervisor::chronicle::LastRun;

/// Longest that the file, and then the ledger, is looked through.
pub const LOOK_WITHIN: Duration = Duration::from_secs(20);

/// What was read.
pub struct Known {
    /// Who collects, or did last.
    pub lease: Option<LeaseState>,
    /// The service's last run, where it has left a record.
    pub last_run: Option<LastRun>,
    /// Who waits for his turn.
    pub standbys: Vec<LeaseState>,
    /// The environment that it belongs to.
    pub environment: Option<String>,
    /// What was found out about IG.
    pub probes: Probes,
    /// How the stream stood when it last changed.
    pub stream: Option<StreamState>,
    /// What keeps the healer from healing.
    pub trouble: Option<String>,
    /// The last login, and those that failed.
    pub logins: Logins,
    /// Data points, as far as is known.
    pub allowance: Option<AllowanceState>,
    /// The end of the newest bar.
    pub newest: Option<Timestamp>,
    /// Where its HTTP interface is served, as the process said that did so last.
    pub http: Option<Place>,
    /// What the server is; none for a file.
    pub server: Option<ServerFacts>,
    /// By what refused credentials are known, and those that were.
    refused: Option<(String, String)>,
}

impl Known {
    /// Whether IG has refused exactly these before.
    pub fn has_refused(&self, api_url: &str, login: &Login) -> bool {
        let refused = self.refused.as_ref();
        refused.is_some_and(|(key, print)| fingerprint::of_login(key, api_url, login) == *print)
    }

    /// Numbers of the processes that collect or stand by.
    pub fn processes(&self) -> Vec<i64> {
        self.collector().into_iter().chain(&self.standbys).map(|process| process.pid).collect()
    }

    /// Whether one who listens on this address and does not answer is the process that collects: it says that it serves
    /// there, or shows no sign of life.
    pub fn may_be_frozen_at(&self, address: &str) -> bool {
        self.collector().is_some_and(|lease| {
            let place = self.http.as_ref().filter(|place| place.is_of(lease));
            lease.silent_s().is_some()
                || place
                    .is_some_and(|place| place.error.is_none() && place.address.as_deref() == Some(address))
        })
    }

    /// Whether the process that collects streams now.
    pub fn streams(&self) -> bool {
        let both = self.collector().zip(self.stream.as_ref());
        both.is_some_and(|(lease, stream)| stream.streams_of(lease))
    }

    /// The process that collects now.
    pub fn collector(&self) -> Option<&LeaseState> {
        self.lease.as_ref().filter(|lease| lease.alive)
    }
}

/// Reads what a report needs.
///
/// # Errors
/// Those of opening and reading.
pub fn read(config: &Config, now: Timestamp) -> Result<Known, StoreError> {
    let mut store = Store::open_read_only(&config.database)?;
    let server = store.server_facts()?;
    store.consistently(|store| {
        let key = store.setting(fingerprint::SETTING_KEY)?;
        let refused = store.setting(SETTING_REFUSED)?.filter(|print| !print.is_empty());
        // Whoever reads may be configured for another one, or for none.
        let bound = store.environment()?;
        let environment = bound.as_deref().unwrap_or(config.ig.environment.as_str());
        let allowance = store.latest_allowance_key(environment)?;
        let newest = store.last_bars()?.into_iter().filter(|(_, timeframe, _)| *timeframe == Timeframe::M5);
        let lease = store.lease(now)?;
        Ok(Known {
            last_run: LastRun::find(store, lease.as_ref())?,
            lease,
            standbys: store.standbys(now)?,
            environment: bound,
            probes: store.setting(probes::SETTING)?.map(|text| Probes::read(&text)).unwrap_or_default(),
            stream: store.setting(state::SETTING)?.and_then(|text| StreamState::read(&text)),
            trouble: store.setting(SETTING_TROUBLE)?.filter(|text| !text.is_empty()),
            logins: Logins::read(store)?,
            allowance: allowance.map(|key| store.allowance(&key, now)).transpose()?,
            newest: newest.map(|(_, timeframe, start)| start.plus(timeframe.seconds())).max(),
            http: store.setting(place::SETTING)?.and_then(|text| Place::read(&text)),
            server: server.clone(),
            refused: key.zip(refused),
        })
    })
}

/// What is wrong with an SQLite file; none where it takes too long to look.
pub fn integrity(url: &DatabaseUrl) -> Option<Result<Vec<String>, StoreError>> {
    let url = url.clone();
    within(LOOK_WITHIN, move || Store::open_read_only(&url)?.findings())
}

/// How many things in the ledger do not fit, and the first; none where it takes too long to look.
pub fn ledger(url: &DatabaseUrl) -> Option<Result<(u64, Option<String>), String>> {
    let url = url.clone();
    within(LOOK_WITHIN, move || {
        let mut store = Store::open_read_only(&url).map_err(|error| error.to_string())?;
        let verdict = verify::verify(&mut store).map_err(|failure| failure.to_string())?;
        Ok((verdict.count, verdict.violations.into_iter().next()))
    })
}
