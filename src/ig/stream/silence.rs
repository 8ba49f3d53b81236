//! What to do about a connection that lives and brings nothing: ever stronger remedies. Pure.
//!
//! Counted are rows that move a candle, not the first row of a subscription, which a dead feed
//! sends too. Times are monotonic; whether the market trades is for the caller to say. How long
//! is long depends on what is watched: the quieter the usual stream, the longer it may be silent.

use std::time::{Duration, Instant};

/// Silence is remarkable from this many times the usual distance between rows on.
const USUAL_GAPS: u32 = 20;
/// Longest silence that is ever waited for.
const LIMIT_MAX: Duration = Duration::from_secs(4 * 3600);
/// Share of a new distance in the usual one.
const LEARNING: f64 = 0.05;
/// The limit is at least this in the first hour of trading, when quotes come late at times.
const AFTER_OPENING_MIN: Duration = Duration::from_secs(900);
/// After each process that ended in silence the next waits twice as long, so many times at most:
/// a holiday that the calendar does not know must not cost a login every few minutes.
pub const FRUITLESS_MAX: u32 = 5;
/// A single item that so many new subscriptions in a row did not wake is given a new session.
const RENEW_FROM_IN_VAIN: u32 = 2;
/// And that so often at most: the other items pay for it, and a market may just be asleep.
const RENEW_EVERY: Duration = Duration::from_secs(3_600);

/// What to try next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Subscribe everything anew.
    Resubscribe,
    /// Make a new Lightstreamer session.
    NewSession,
    /// Log in anew, and make a new Lightstreamer session.
    NewLogin,
    /// End the process, for systemd to start it again.
    Exit,
}

/// Whether the market is expected to bring rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Market {
    /// No row is missed.
    Closed,
    /// It has been open for less than an hour.
    JustOpened,
    /// Rows are expected.
    Open,
}

/// The watch over one stream, across its connections and sessions.
#[derive(Clone, Debug)]
pub struct Silence {
    limit: Duration,
    fruitless: u32,
    /// Since when nothing has come and nothing was tried.
    since: Option<Instant>,
    last_row: Option<Instant>,
    usual_gap_s: f64,
    tried: usize,
}

impl Silence {
    /// A watch that finds `limit` long, at least. `fruitless`: processes before this one that
    /// ended in silence.
    pub fn new(limit: Duration, fruitless: u32) -> Silence {
        let fruitless = fruitless.min(FRUITLESS_MAX);
        Silence { limit, fruitless, since: None, last_row: None, usual_gap_s: 0.0, tried: 0 }
    }

    /// Rows came. True if they end a silence that something was tried against, or that earlier
    /// processes ended in.
    pub fn rows(&mut self, now: Instant) -> bool {
        if let Some(last) = self.last_row {
            let gap_s = now.saturating_duration_since(last).as_secs_f64();
            // An outage is not usual, whatever its length.
            let gap_s = gap_s.min(self.threshold(Market::Open).as_secs_f64());
            self.usual_gap_s += LEARNING * (gap_s - self.usual_gap_s);
        }
        (self.since, self.last_row) = (Some(now), Some(now));
        let ended = self.tried > 0 || self.fruitless > 0;
        (self.tried, self.fruitless) = (0, 0);
        ended
    }

    /// Looks at the time. Answers the next remedy when it is due, and how long it has been silent.
    pub fn look(&mut self, now: Instant, market: Market) -> Option<(Remedy, Duration)> {
        let since = *self.since.get_or_insert(now);
        if market == Market::Closed {
            self.since = Some(now);
            return None;
        }
        let silent = now.saturating_duration_since(since);
        if silent < self.threshold(market) {
            return None;
        }
        const LADDER: [Remedy; 4] = [Remedy::Resubscribe, Remedy::NewSession, Remedy::NewLogin, Remedy::Exit];
        let remedy = LADDER[self.tried.min(LADDER.len() - 1)];
        self.tried += 1;
        self.since = Some(now);
        Some((remedy, silent))
    }

    /// Processes before this one that ended in silence, as far as no row has come since.
    pub fn fruitless(&self) -> u32 {
        self.fruitless
    }

    /// How often to look.
    pub fn look_every(&self) -> Duration {
        (self.limit / 4).clamp(Duration::from_millis(250), Duration::from_secs(30))
    }

    fn threshold(&self, market: Market) -> Duration {
        let usual = Duration::from_secs_f64(self.usual_gap_s) * USUAL_GAPS;
        let limit = self.limit.max(usual);
        let limit = if market == Market::JustOpened { limit.max(AFTER_OPENING_MIN) } else { limit };
        (limit * (1 << self.fruitless)).min(LIMIT_MAX)
    }
}

/// The watch over items that are silent while others are not; how long is long is for others to
/// say.
#[derive(Clone, Debug, Default)]
pub struct SilentItems {
    /// When a session was last given up for the sake of one item.
    renewed_at: Option<Instant>,
}

impl SilentItems {
    /// An item has been silent for long, also after so many new subscriptions `in_vain`. Answers
    /// the remedy, one of the first two. None where no session holds it (`held`): what the server
    /// refuses, or sends in a form that cannot be read, has a plan of its own.
    pub fn silent(&mut self, held: bool, in_vain: u32, now: Instant) -> Option<Remedy> {
        let renewed = self.renewed_at.is_some_and(|at| now.saturating_duration_since(at) < RENEW_EVERY);
        match (held, in_vain >= RENEW_FROM_IN_VAIN && !renewed) {
            (false, _) => None,
            (true, false) => Some(Remedy::Resubscribe),
            (true, true) => {
                self.renewed_at = Some(now);
                Some(Remedy::NewSession)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "an Instant has no other source; only distances matter")]
    fn base() -> Instant {
        Instant::now()
    }

    /// Plays words: `rN` a row at second N, `oN`, `cN`, `jN` a look at second N while the market is
    /// open, closed, just opened. Answers what was due when.
    fn play(mut silence: Silence, script: &str) -> String {
        let start = base();
        let mut told = Vec::new();
        for word in script.split_whitespace() {
            let (what, second) = word.split_at(1);
            let now = start + Duration::from_secs(second.parse().unwrap());
            let market = match what {
                "r" => {
                    if silence.rows(now) {
                        told.push(format!("back@{second}"));
                    }
                    continue;
                }
                "o" => Market::Open,
                "j" => Market::JustOpened,
                "c" => Market::Closed,
                _ => panic!("not understood: {word}"),
            };
            if let Some((remedy, silent)) = silence.look(now, market) {
                told.push(format!("{remedy:?}@{second} after {silent:?}"));
            }
        }
        told.join(", ")
    }

    fn check(script: &str, expected: &str) {
        assert_eq!(play(Silence::new(Duration::from_secs(120), 0), script), expected, "{script}");
    }

    #[test]
    fn remedies_become_stronger_until_rows_come() {
        check(
            "r0 o119 o120 o239 o240 o360 o480 o600",
            "Resubscribe@120 after 120s, NewSession@240 after 120s, NewLogin@360 after 120s, \
             Exit@480 after 120s, Exit@600 after 120s",
        );
        check("r0 o120 r130 o249 o250", "Resubscribe@120 after 120s, back@130, Resubscribe@250 after 120s");
    }

    #[test]
    fn a_stream_that_never_spoke_is_silent_from_the_first_look_on() {
        check("o0 o119 o120", "Resubscribe@120 after 120s");
    }

    #[test]
    fn a_closed_market_is_silent_for_good_reason_and_slow_at_first() {
        check("r0 c100 c5000 o5100 o5120", "Resubscribe@5120 after 120s");
        check("r0 c100 j300 j999 j1000", "Resubscribe@1000 after 900s");
    }

    #[test]
    fn what_is_quiet_by_nature_may_be_silent_for_longer() {
        // A row every 50 seconds: silence is remarkable from about 1,000 seconds on.
        let rows: String = (0..100).map(|n| format!("r{} ", n * 50)).collect();
        check(&format!("{rows} o5500 o5900 o5960"), "Resubscribe@5960 after 1010s");
    }

    #[test]
    fn a_process_that_follows_silent_ones_waits_longer_until_rows_come() {
        let silence = |fruitless| Silence::new(Duration::from_secs(120), fruitless);
        assert_eq!(play(silence(2), "o0 o479 o480"), "Resubscribe@480 after 480s");
        assert_eq!(play(silence(2), "o0 r1 o120 o121"), "back@1, Resubscribe@121 after 120s");
        assert_eq!(play(silence(99), "o0 o3839 o3840"), "Resubscribe@3840 after 3840s");
    }

    #[test]
    fn an_item_that_does_not_wake_is_given_a_new_session_at_times() {
        let (start, mut items) = (base(), SilentItems::default());
        let mut check = |second, held, in_vain, expected| {
            let now = start + Duration::from_secs(second);
            assert_eq!(items.silent(held, in_vain, now), expected, "{in_vain} in vain at {second}");
        };
        check(0, true, 0, Some(Remedy::Resubscribe));
        check(60, true, 1, Some(Remedy::Resubscribe));
        // Nothing is done without a session, and so nothing is remembered.
        check(100, false, 2, None);
        check(120, true, 2, Some(Remedy::NewSession));
        // Another item in the same hour has to do with less.
        check(180, true, 2, Some(Remedy::Resubscribe));
        check(3_719, true, 60, Some(Remedy::Resubscribe));
        check(3_720, true, 1, Some(Remedy::Resubscribe));
        check(3_720, true, 2, Some(Remedy::NewSession));
        check(3_721, true, 3, Some(Remedy::Resubscribe));
    }
}
