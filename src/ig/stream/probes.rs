//! What the service has seen of IG that nobody has established: listed by `status` and `doctor`.
//!
//! Each finding is about one account's streaming, kept across restarts as one JSON text in table
//! `settings`. Counts only grow; words are the latest.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::Timestamp;

/// Where the findings are kept.
pub const SETTING: &str = "probes";
/// Upper bounds of the classes of delay, seconds; one more class is beyond the last.
pub const DELAYS_S: [i64; 6] = [0, 1, 2, 5, 10, 30];

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Probes {
    /// Version of the protocol that IG accepted last.
    pub tlcp_version: Option<String>,
    /// Versions that IG refused, in words.
    pub versions_refused: Vec<String>,
    /// Whether IG accepted `LS_supported_diffs=` (empty), which 2.4.0 and later send.
    pub empty_diffs_accepted: Option<bool>,
    /// Transport of the last session.
    pub transport: Option<String>,
    /// Sessions that were begun.
    pub sessions: u64,
    /// Broken connections that were recovered over a WebSocket and over HTTP.
    pub recovered_websocket: u64,
    /// See above.
    pub recovered_http: u64,
    /// Broken connections whose sessions could not be recovered.
    pub unrecovered: u64,
    /// What IG said to the last recovery that it refused.
    pub recovery_refused: Option<String>,
    /// `LOOP`s that were followed without loss.
    pub loops: u64,
    /// Keepalive that IG chose, milliseconds.
    pub keepalive_ms: Option<u64>,
    /// Whether IG gave a control link.
    pub control_link: Option<bool>,
    /// Subscriptions whose `CONF` said `unfiltered`.
    pub unfiltered_granted: u64,
    /// Subscriptions whose `CONF` said `filtered`.
    pub filtered: u64,
    /// Subscriptions that began with a row of the bucket under way.
    pub snapshots_forming: u64,
    /// Subscriptions that began with a row of an older bucket.
    pub snapshots_old: u64,
    /// End-of-candle rows by their delay behind the bucket's end; see [`DELAYS_S`].
    pub close_delays: [u64; DELAYS_S.len() + 1],
    /// End-of-candle rows that came before the bucket's end by our clock.
    pub closes_early: u64,
    /// End-of-candle rows that were sent again.
    pub closes_repeated: u64,
    /// Rows that the server said to have dropped.
    pub rows_dropped: u64,
    /// Latest change, epoch seconds, UTC.
    pub updated_at: i64,
}

impl Probes {
    /// Reads what was kept; anything unreadable is as good as nothing.
    pub fn read(text: &str) -> Probes {
        serde_json::from_str(text).unwrap_or_default()
    }

    /// The text to keep.
    pub fn write(&self) -> String {
        serde_json::to_string(self).expect("plain numbers and texts make JSON")
    }

    /// A session was made.
    pub fn session_made(
        &mut self,
        version: &str,
        transport: &str,
        keepalive: Duration,
        link: bool,
        diffs: bool,
    ) {
        self.sessions += 1;
        self.tlcp_version = Some(version.to_owned());
        self.transport = Some(transport.to_owned());
        self.keepalive_ms = u64::try_from(keepalive.as_millis()).ok();
        self.control_link = Some(link);
        if diffs {
            self.empty_diffs_accepted = Some(true);
        }
    }

    /// A version was refused, in these words.
    pub fn version_refused(&mut self, version: &str, text: &str) {
        let told = format!("{version}: {text}");
        if text.to_ascii_lowercase().contains("diffs") {
            self.empty_diffs_accepted = Some(false);
        }
        if !self.versions_refused.contains(&told) && self.versions_refused.len() < 8 {
            self.versions_refused.push(told);
        }
    }

    /// The end-of-candle row of a bucket that ended at `end` came at `now`.
    pub fn closed(&mut self, end: Timestamp, now: Timestamp) {
        let delay_s = now.since(end);
        if delay_s < 0 {
            self.closes_early += 1;
        } else {
            let class = DELAYS_S.iter().position(|most| delay_s <= *most).unwrap_or(DELAYS_S.len());
            self.close_delays[class] += 1;
        }
    }

    /// What was seen, one line each: what it is about, and what is known.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let unknown = || "not seen yet".to_owned();
        // What the stream's own clock cannot tell.
        let timed = |told: String| match told == unknown() {
            true => "not seen yet (measured with clock = \"system\" only)".to_owned(),
            false => told,
        };
        let counted = |what: &[(u64, &str)]| {
            let told: Vec<String> = what
                .iter()
                .filter(|(count, _)| *count > 0)
                .map(|(count, what)| format!("{count} {what}"))
                .collect();
            if told.is_empty() { unknown() } else { told.join(", ") }
        };
        let refused = |text: String| match self.versions_refused.as_slice() {
            [] => text,
            refused => format!("{text} (refused: {})", refused.join("; ")),
        };
        let delays: Vec<(u64, String)> = self
            .close_delays
            .iter()
            .enumerate()
            .map(|(class, count)| match DELAYS_S.get(class) {
                Some(most) => (*count, format!("within {most} s")),
                None => (*count, format!("after more than {} s", DELAYS_S[DELAYS_S.len() - 1])),
            })
            .chain([(self.closes_early, "before the bucket's end by our clock".to_owned())])
            .collect();
        let delays: Vec<(u64, &str)> = delays.iter().map(|(count, what)| (*count, what.as_str())).collect();
        vec![
            ("TLCP version", refused(self.tlcp_version.clone().unwrap_or_else(unknown))),
            (
                "empty LS_supported_diffs",
                match self.empty_diffs_accepted {
                    Some(true) => "accepted".to_owned(),
                    Some(false) => "refused".to_owned(),
                    None => unknown(),
                },
            ),
            ("transport", self.transport.clone().unwrap_or_else(unknown)),
            ("keepalive", self.keepalive_ms.map_or_else(unknown, |ms| format!("{ms} ms"))),
            (
                "control link",
                match self.control_link {
                    Some(true) => "given".to_owned(),
                    Some(false) => "none".to_owned(),
                    None => unknown(),
                },
            ),
            (
                "session recovery",
                match (
                    &self.recovery_refused,
                    self.recovered_websocket + self.recovered_http + self.unrecovered,
                ) {
                    (_, 0) => unknown(),
                    (refused, _) => {
                        let counts = counted(&[
                            (self.recovered_websocket, "recovered over WebSocket"),
                            (self.recovered_http, "recovered over HTTP"),
                            (self.unrecovered, "lost"),
                        ]);
                        refused
                            .as_ref()
                            .map_or(counts.clone(), |text| format!("{counts} (last refusal: {text})"))
                    }
                },
            ),
            ("LOOP", counted(&[(self.loops, "followed")])),
            (
                "unfiltered",
                counted(&[
                    (self.unfiltered_granted, "subscriptions granted"),
                    (self.filtered, "subscriptions filtered"),
                ]),
            ),
            (
                "snapshot",
                timed(counted(&[
                    (self.snapshots_forming, "of the bucket under way"),
                    (self.snapshots_old, "of an older bucket"),
                ])),
            ),
            ("CONS_END comes", timed(counted(&delays))),
            ("CONS_END repeated", counted(&[(self.closes_repeated, "times")])),
            ("rows dropped (OV)", counted(&[(self.rows_dropped, "rows")])),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_kept_and_what_is_missing_in_an_older_text_is_unknown() {
        let mut probes = Probes::default();
        probes.session_made("2.4.0", "websocket", Duration::from_secs(5), true, true);
        probes.version_refused("2.5.0", "Unsupported protocol version: 2.5.0");
        probes.version_refused("2.5.0", "Unsupported protocol version: 2.5.0");
        for now in [99, 100, 101, 104, 111, 131] {
            probes.closed(Timestamp(100), Timestamp(now));
        }
        assert_eq!(Probes::read(&probes.write()), probes);
        assert_eq!(Probes::read(r#"{"loops": 3, "later": 1}"#), Probes { loops: 3, ..Probes::default() });
        assert_eq!(Probes::read("nonsense"), Probes::default());
        let lines = probes.lines();
        let told = |name: &str| lines.iter().find(|(about, _)| *about == name).unwrap().1.as_str();
        assert_eq!(told("TLCP version"), "2.4.0 (refused: 2.5.0: Unsupported protocol version: 2.5.0)");
        assert_eq!(told("empty LS_supported_diffs"), "accepted");
        assert_eq!(
            told("CONS_END comes"),
            "1 within 0 s, 1 within 1 s, 1 within 5 s, 1 within 30 s, 1 after more than 30 s, \
             1 before the bucket's end by our clock"
        );
        assert_eq!(told("session recovery"), "not seen yet");
    }
}
