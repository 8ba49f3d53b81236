//! How the stream stands, kept as one JSON text in table `settings` so that `status` can show it,
//! also beside a service that is dead.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::stats::Stats;
use crate::store::LeaseState;

/// Where it is kept.
pub const SETTING: &str = "stream.state";

/// What the stream does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// No session yet, or the next one is waited for.
    #[default]
    Connecting,
    /// Rows come, or would if there were any.
    Streaming,
    /// The connection is gone and the session is to go on over another.
    Interrupted,
    /// The service was told to stop.
    Stopped,
}

impl Phase {
    /// The phase of this number, as in [`Stats::stream_phase`](crate::stats::Stats::stream_phase).
    pub fn numbered(number: u64) -> Phase {
        let all = [Phase::Connecting, Phase::Streaming, Phase::Interrupted, Phase::Stopped];
        all.into_iter().find(|phase| *phase as u64 == number).unwrap_or_default()
    }

    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Connecting => "connecting",
            Phase::Streaming => "streaming",
            Phase::Interrupted => "interrupted",
            Phase::Stopped => "stopped",
        }
    }
}

/// How the stream stood when it last changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamState {
    /// Which holder of the lease it is the stream of; 0 where nobody said so.
    pub epoch: i64,
    /// What it does.
    pub phase: Phase,
    /// Since when, epoch seconds, UTC.
    pub since: i64,
    /// What ended the phase before, where something did.
    pub cause: Option<String>,
    /// What carries it.
    pub transport: Option<String>,
    /// Version of the protocol.
    pub version: Option<String>,
    /// Pairs that the server refuses to send, and why.
    pub refused: BTreeMap<String, String>,
}

impl StreamState {
    /// Reads what was kept; anything unreadable is as good as nothing.
    pub fn read(text: &str) -> Option<StreamState> {
        serde_json::from_str(text).ok()
    }

    /// Whether it is the stream of whoever has the lease, and not of one before him. Not to be told by the times: the
    /// lease's may be by another machine's clock.
    pub fn is_of(&self, lease: &LeaseState) -> bool {
        self.epoch == lease.epoch
    }

    /// Whether rows come to whoever has the lease.
    pub fn streams_of(&self, lease: &LeaseState) -> bool {
        self.phase == Phase::Streaming && self.is_of(lease)
    }

    /// The text to keep.
    pub fn write(&self) -> String {
        serde_json::to_string(self).expect("plain numbers and texts make JSON")
    }

    /// How the stream of this process stands, as it shows it; nothing before there is one. What the database was told
    /// is believed of no more than of the cause: a note of it may be late, or lost.
    pub fn shown(stats: &Stats, noted: Option<&StreamState>) -> Option<StreamState> {
        let since = i64::try_from(stats.stream_since.get()?).ok()?;
        let phase = Phase::numbered(stats.stream_phase.get());
        let noted = noted.filter(|noted| (noted.phase, noted.since) == (phase, since));
        Some(noted.cloned().unwrap_or(StreamState { phase, since, ..StreamState::default() }))
    }

    /// Begins a phase.
    pub fn enter(&mut self, phase: Phase, cause: Option<String>) {
        (self.phase, self.cause) = (phase, cause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_process_shows_goes_before_what_the_database_was_told() {
        let noted = |phase, since| {
            let cause = Some("closed".to_owned());
            StreamState { phase, since, cause, ..StreamState::default() }
        };
        let stats = Stats::default();
        let shown = |noted: Option<StreamState>| StreamState::shown(&stats, noted.as_ref());
        let interrupted = noted(Phase::Interrupted, 100);
        assert_eq!(shown(Some(interrupted.clone())), None, "there is none yet");
        stats.stream_phase.set(Phase::Streaming as u64);
        stats.stream_since.set(150);
        let streaming = StreamState { phase: Phase::Streaming, since: 150, ..StreamState::default() };
        assert_eq!(shown(Some(interrupted)), Some(streaming.clone()));
        assert_eq!(shown(None), Some(streaming));
        // The same, of which more is noted.
        stats.stream_phase.set(Phase::Interrupted as u64);
        let again = noted(Phase::Interrupted, 150);
        assert_eq!(shown(Some(again.clone())), Some(again));
        // Another time.
        let bare = StreamState { phase: Phase::Interrupted, since: 150, ..StreamState::default() };
        assert_eq!(shown(Some(noted(Phase::Interrupted, 100))), Some(bare));
    }
}
