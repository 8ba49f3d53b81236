//! What is kept of the stream across processes, and for `status`.

use std::time::Duration;

use super::StreamActor;
use crate::ig::stream::{probes, state};
use crate::store::{Store, StoreError};

/// How often new findings about the broker are kept.
pub(super) const KEEP_PROBES_EVERY: Duration = Duration::from_secs(60);

impl StreamActor {
    pub(super) fn keep(&self, key: &'static str, value: String) {
        self.save(move |store| store.set_setting(key, &value));
    }

    /// Writes something down that may be lost, but not silently.
    pub(super) fn save(&self, what: impl FnOnce(&mut Store) -> Result<(), StoreError> + Send + 'static) {
        let saving = self.store.run(what);
        actix_rt::spawn(async move {
            if let Err(error) = saving.await {
                log::warn!(error:% = error; "the database did not take a note of the stream's");
            }
        });
    }

    /// Keeps how the stream stands, if it has changed.
    pub(super) fn keep_state(&mut self) {
        let state = &mut self.known.state;
        if *state == self.kept_state {
            return;
        }
        if state.phase != self.kept_state.phase || state.since == 0 {
            state.since = self.clock.wall().0;
        }
        self.kept_state = state.clone();
        self.keep(state::SETTING, self.kept_state.write());
    }

    pub(super) fn keep_probes(&mut self) {
        if self.known.probes != self.kept_probes {
            self.known.probes.updated_at = self.clock.wall().0;
            self.kept_probes = self.known.probes.clone();
            self.keep(probes::SETTING, self.kept_probes.write());
        }
    }
}
