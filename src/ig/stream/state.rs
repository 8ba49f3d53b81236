//! How the stream stands, kept as one JSON text in table `settings` so that `status` can show it,
//! also beside a service that is dead.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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

    /// The text to keep.
    pub fn write(&self) -> String {
        serde_json::to_string(self).expect("plain numbers and texts make JSON")
    }

    /// Begins a phase.
    pub fn enter(&mut self, phase: Phase, cause: Option<String>) {
        (self.phase, self.cause) = (phase, cause);
    }
}
