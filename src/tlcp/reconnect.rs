//! When a new session may be tried, and how: pauses, protocol version, transport, login. Pure.
//!
//! The pauses are those of the official clients (`RetryDelayCounter`), with jitter and without an
//! end: a collector never gives up for good. They run from the start of one attempt to the start
//! of the next, and begin anew when real data came, not when a session was merely made.

use std::time::{Duration, Instant};

use super::code::{Policy, Step};
use super::event::Corruption;
use super::update::UpdateFault;
use super::{EndCause, Lost, Transport, Version};

/// Attempts that keep the first distance before it begins to double.
const FIRST_PAUSES: u32 = 11;
/// Longest distance between two attempts.
pub const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Share by which a pause strays from its plan, either way.
const JITTER: f64 = 0.2;
/// For the same reason tokens are replaced this often at most, whether real data comes in between
/// or not: a login that did not help once hardly helps a minute later, and brokers lock accounts
/// that log in without end.
pub const LOGIN_AGAIN: Duration = Duration::from_secs(30 * 60);
/// No more than two connections are begun within this time, whoever wants them.
pub const TWO_ATTEMPTS_WITHIN: Duration = Duration::from_secs(1);

/// What a reconnecting client is told once.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Version to claim where nothing better is known.
    pub version: Version,
    /// Version that worked last time, if that is known.
    pub worked: Option<Version>,
    /// The only transport to use, if not both.
    pub transport: Option<Transport>,
    /// First distance between attempts.
    pub retry: Duration,
    /// Longest random pause after a working connection broke.
    pub first_retry_max: Duration,
    /// Time on HTTP after which a WebSocket is tried again.
    pub websocket_again: Duration,
}

/// How the next session is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Not before this moment.
    pub at: Instant,
    /// Version to claim.
    pub version: Version,
    /// Over what.
    pub transport: Transport,
}

/// What the end of a session asks for besides another attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consequences {
    /// The broker's tokens are to be replaced first.
    pub login: bool,
    /// An operator is needed, which is said once for a run of the same trouble.
    pub alarm: bool,
    /// The subscription with this tag is to be left out at first: its faults ended the session,
    /// and would end the next one too.
    pub leave_out: Option<u16>,
}

/// The memory of a client that connects for ever.
#[derive(Clone, Debug)]
pub struct Reconnect {
    plan: Plan,
    version: Version,
    /// Attempts in a row without real data.
    failures: u32,
    /// Starts of the last two connections, the older first.
    begun: [Option<Instant>; 2],
    /// Since when a WebSocket is known not to be had.
    no_websocket_since: Option<Instant>,
    /// The code of the last refusals, and how many in a row.
    refusals: Option<(i32, u8)>,
    /// When a login was last asked for, whatever for.
    login_at: Option<Instant>,
    /// When one was last asked for because tokens were refused.
    refused_login_at: Option<Instant>,
    /// Whether every version was refused since real data came.
    versions_refused: bool,
    random: fastrand::Rng,
}

impl Reconnect {
    /// A memory of nothing yet. `seed` is for the jitter.
    pub fn new(plan: Plan, seed: u64) -> Reconnect {
        Reconnect {
            version: plan.worked.filter(|worked| *worked <= plan.version).unwrap_or(plan.version),
            plan,
            failures: 0,
            begun: [None; 2],
            no_websocket_since: None,
            refusals: None,
            login_at: None,
            refused_login_at: None,
            versions_refused: false,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Returns the version to claim next, which after a success is the one that worked.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns the first attempt of all.
    pub fn first(&self, now: Instant) -> Attempt {
        self.attempt(now, now)
    }

    /// Returns the earliest moment from `wanted` on at which a connection may be begun.
    pub fn earliest(&self, wanted: Instant) -> Instant {
        let free = self.begun[0].and_then(|begun| begun.checked_add(TWO_ATTEMPTS_WITHIN));
        free.map_or(wanted, |free| wanted.max(free))
    }

    /// A connection is begun, for whatever purpose.
    pub fn begun(&mut self, now: Instant) {
        self.begun = [self.begun[1], Some(now)];
    }

    /// Real data came: what was tried works. Logins keep their distance even so: a server may end
    /// each session after some rows.
    pub fn works(&mut self) {
        (self.failures, self.refusals, self.versions_refused) = (0, None, false);
    }

    /// No session could be tried for want of tokens. No connection was begun, so the pause runs
    /// from here: nothing else keeps the broker from being asked for tokens without a rest.
    pub fn after_no_tokens(&mut self, now: Instant) -> Attempt {
        let at = self.next_pause(now);
        self.attempt(now, at)
    }

    /// A session on `transport` ended, or was not made. `had_data`: whether it worked.
    pub fn after(
        &mut self,
        cause: &EndCause,
        transport: Transport,
        had_data: bool,
        now: Instant,
    ) -> (Attempt, Consequences) {
        if had_data {
            self.works();
        }
        let mut leave_out = None;
        let (step, mut alarm) = match cause {
            EndCause::Refused { code, policy, .. }
            | EndCause::Closed { code, policy, .. }
            | EndCause::Request { code, policy, .. } => (policy.step, self.alarms(*code, policy)),
            // Recovery was refused or came too late: the session is void, the server may be well.
            EndCause::Unrecovered { .. } | EndCause::Loop { .. } => (Step::AtOnce, false),
            EndCause::Stalled { .. } if had_data => (Step::AtOnce, false),
            EndCause::Connection(Lost::Closed) if had_data => (Step::AtOnce, false),
            // Here it is the version that is at fault, and not the subscription.
            EndCause::Corrupt(Corruption::Faults { reason, .. })
                if *reason == UpdateFault::Difference.into() && self.version.has_diffs() =>
            {
                self.version = self.version.without_diffs();
                (Step::AtOnce, false)
            }
            EndCause::Corrupt(Corruption::Faults { tag, .. }) => {
                leave_out = Some(*tag);
                (Step::AtOnce, false)
            }
            _ => (Step::Backoff, false),
        };
        let no_websocket = transport == Transport::WebSocket
            && matches!(
                cause,
                EndCause::Connection(Lost::Refused) | EndCause::ConnectTimeout { wsok: false }
            );
        if transport == Transport::WebSocket && !no_websocket {
            self.no_websocket_since = None;
        }
        let at = match step {
            Step::OlderVersion => match self.version.older() {
                Some(older) => {
                    self.version = older;
                    now
                }
                // Refused down to the oldest: start over, slowly.
                None => {
                    self.version = self.plan.version;
                    alarm |= !std::mem::replace(&mut self.versions_refused, true);
                    self.jittered_from(now, PAUSE_MAX)
                }
            },
            // Proxies are the usual reason, so the other transport deserves a try at once.
            // One is only tried while HTTP is not known to be the way.
            _ if no_websocket && self.plan.transport.is_none() => {
                self.no_websocket_since = Some(now);
                now
            }
            Step::AtOnce if self.failures == 0 => {
                self.failures = 1;
                now + self.up_to(self.plan.first_retry_max)
            }
            Step::AtOnce | Step::Backoff | Step::LoginThenBackoff => self.next_attempt(now),
            // The first login has not been tried yet.
            Step::LoginThenSlow if self.refusals.is_some_and(|(_, count)| count == 1) => {
                self.next_attempt(now)
            }
            Step::Slow | Step::LoginThenSlow => self.jittered_from(now, PAUSE_MAX),
        };
        let tokens_refused = matches!(step, Step::LoginThenBackoff | Step::LoginThenSlow);
        let login = self.login_is_due(tokens_refused, now);
        // HTTP does not work either: the WebSocket gets its turn again.
        if transport == Transport::Http && !had_data {
            self.no_websocket_since = None;
        }
        (self.attempt(now, at), Consequences { login, alarm, leave_out })
    }

    /// Whether tokens are to be replaced: where they were refused, and after many failures of any
    /// kind, since the address may be an old one and only a login tells the new.
    fn login_is_due(&mut self, tokens_refused: bool, now: Instant) -> bool {
        let rested =
            |last: Option<Instant>| last.is_none_or(|at| now.saturating_duration_since(at) >= LOGIN_AGAIN);
        let due = match tokens_refused {
            true => rested(self.refused_login_at),
            false => self.failures >= FIRST_PAUSES && rested(self.login_at),
        };
        if due {
            self.login_at = Some(now);
        }
        if due && tokens_refused {
            self.refused_login_at = Some(now);
        }
        due
    }

    fn attempt(&self, now: Instant, at: Instant) -> Attempt {
        let again =
            |since: Instant| since.checked_add(self.plan.websocket_again).is_some_and(|due| due <= now);
        let transport = self.plan.transport.unwrap_or(match self.no_websocket_since {
            Some(since) if !again(since) => Transport::Http,
            _ => Transport::WebSocket,
        });
        Attempt { at: self.earliest(at), version: self.version, transport }
    }

    /// Counts a code, and says whether an operator should hear of it now.
    fn alarms(&mut self, code: i32, policy: &Policy) -> bool {
        let count = match self.refusals {
            Some((last, count)) if last == code => count.saturating_add(1),
            _ => 1,
        };
        self.refusals = Some((code, count));
        policy.alarm_at == Some(count)
    }

    /// The end of the sequence's next pause, counted from the start of the last connection.
    fn next_attempt(&mut self, now: Instant) -> Instant {
        self.next_pause(self.begun[1].unwrap_or(now)).max(now)
    }

    /// The end of the sequence's next pause, counted from `start`.
    fn next_pause(&mut self, start: Instant) -> Instant {
        self.failures = self.failures.saturating_add(1);
        let doublings = self.failures.saturating_sub(FIRST_PAUSES).min(16);
        let pause = self.plan.retry.saturating_mul(1 << doublings).min(PAUSE_MAX);
        self.jittered_from(start, pause)
    }

    fn jittered_from(&mut self, start: Instant, pause: Duration) -> Instant {
        start + pause.mul_f64(1.0 - JITTER + 2.0 * JITTER * self.random.f64()).min(PAUSE_MAX)
    }

    fn up_to(&mut self, longest: Duration) -> Duration {
        longest.mul_f64(self.random.f64())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::code;
    use super::*;

    const PLAN: Plan = Plan {
        version: Version::V2_4_0,
        worked: None,
        transport: None,
        retry: Duration::from_millis(4000),
        first_retry_max: Duration::from_millis(100),
        websocket_again: Duration::from_secs(600),
    };

    #[expect(clippy::disallowed_methods, reason = "an Instant has no other source; only distances matter")]
    fn base() -> Instant {
        Instant::now()
    }

    fn refused(code: i32, text: &str) -> EndCause {
        EndCause::Refused { code, text: text.to_owned(), policy: code::session_policy(code, text) }
    }

    /// Plays ends of sessions, each a moment after its attempt began, and returns for each the
    /// seconds from start to start, rounded, and how the next is made.
    fn play(plan: Plan, ends: &[EndCause]) -> Vec<String> {
        let mut reconnect = Reconnect::new(plan, 1);
        let mut attempt = reconnect.first(base());
        let mut told = Vec::new();
        for end in ends {
            let began = attempt.at;
            reconnect.begun(began);
            let (next, consequences) = reconnect.after(end, attempt.transport, false, began);
            let pause_s = (next.at - began).as_secs_f64();
            assert!(pause_s <= 60.0);
            let way = if next.transport == Transport::Http { " http" } else { "" };
            let login = if consequences.login { " login" } else { "" };
            let alarm = if consequences.alarm { " alarm" } else { "" };
            let rung = [0.0, 1.0, 4.0, 8.0, 16.0, 32.0, 60.0]
                .into_iter()
                .min_by(|a: &f64, b: &f64| (a - pause_s).abs().total_cmp(&(b - pause_s).abs()))
                .unwrap_or_default();
            assert!((pause_s - rung).abs() <= 0.2 * rung + 0.101, "{pause_s}");
            told.push(format!("{rung}s {}{way}{login}{alarm}", next.version.number()));
            attempt = next;
        }
        told
    }

    #[test]
    fn pauses_are_those_of_the_official_clients_without_an_end() {
        let told = play(PLAN, &vec![EndCause::Connection(Lost::Unreachable); 18]);
        assert_eq!(told.iter().position(|line| line.contains("login")), Some(10), "{told:?}");
        let pauses: Vec<&str> = told.iter().map(|line| line.split(' ').next().unwrap_or_default()).collect();
        assert_eq!(pauses[..11], ["4s"; 11]);
        assert_eq!(pauses[11..], ["8s", "16s", "32s", "60s", "60s", "60s", "60s"]);
    }

    #[test]
    fn a_refused_version_is_stepped_down_at_once_and_from_the_bottom_begun_again_slowly() {
        let version = refused(65, "Unsupported protocol version: 2.5.0");
        let told = play(Plan { version: Version::V2_5_0, ..PLAN }, &vec![version; 8]);
        // The third in a row has to wait for the two attempts a second. An operator hears of it once.
        let first = ["0s 2.4.0", "1s 2.3.0", "0s 2.1.0", "60s 2.5.0 alarm"];
        assert_eq!(told[..4], first);
        assert_eq!(told[4..], ["0s 2.4.0", "1s 2.3.0", "0s 2.1.0", "60s 2.5.0"]);
    }

    #[test]
    fn what_worked_is_claimed_again_but_nothing_above_what_is_wanted() {
        let version = |worked| Reconnect::new(Plan { worked, ..PLAN }, 1).version();
        assert_eq!(version(Some(Version::V2_1_0)), Version::V2_1_0);
        assert_eq!(version(Some(Version::V2_5_0)), Version::V2_4_0);
        assert_eq!(version(None), Version::V2_4_0);
    }

    #[test]
    fn without_a_websocket_http_is_tried_at_once_and_then_in_turn() {
        for cause in [EndCause::Connection(Lost::Refused), EndCause::ConnectTimeout { wsok: false }] {
            let http = EndCause::Connection(Lost::Refused);
            assert_eq!(
                play(PLAN, &[cause.clone(), http, cause]),
                ["0s 2.4.0 http", "4s 2.4.0", "0s 2.4.0 http"]
            );
        }
        assert_eq!(play(PLAN, &[EndCause::ConnectTimeout { wsok: true }]), ["4s 2.4.0"]);
        let alone = Plan { transport: Some(Transport::WebSocket), ..PLAN };
        assert_eq!(play(alone, &[EndCause::Connection(Lost::Refused)]), ["4s 2.4.0"]);
    }

    #[test]
    fn a_websocket_is_tried_again_after_a_while() {
        let (mut reconnect, now) = (Reconnect::new(PLAN, 1), base());
        reconnect.begun(now);
        let (attempt, _) =
            reconnect.after(&EndCause::Connection(Lost::Refused), Transport::WebSocket, false, now);
        assert_eq!(attempt.transport, Transport::Http);
        let stalled = EndCause::Stalled { silence: Duration::from_secs(10) };
        let later = |s| now + Duration::from_secs(s);
        assert_eq!(reconnect.after(&stalled, Transport::Http, true, later(599)).0.transport, Transport::Http);
        assert_eq!(
            reconnect.after(&stalled, Transport::Http, true, later(600)).0.transport,
            Transport::WebSocket
        );
        let refused = EndCause::Connection(Lost::Refused);
        assert_eq!(
            reconnect.after(&refused, Transport::WebSocket, false, later(601)).0.transport,
            Transport::Http
        );
        assert_eq!(
            reconnect.after(&stalled, Transport::Http, true, later(1200)).0.transport,
            Transport::Http,
            "the time begins anew"
        );
    }

    #[test]
    fn refused_tokens_ask_for_one_login_and_an_alarm_where_it_does_not_help() {
        let adapter = refused(-1, "Invalid account type");
        assert_eq!(
            play(PLAN, &vec![adapter; 4]),
            ["4s 2.4.0 login", "4s 2.4.0", "4s 2.4.0 alarm", "4s 2.4.0"]
        );
        let check = refused(1, "User/password check failed");
        assert_eq!(play(PLAN, &vec![check; 3]), ["4s 2.4.0 login", "60s 2.4.0 alarm", "60s 2.4.0"]);
        let other = refused(35, "Another session");
        assert_eq!(play(PLAN, &vec![other; 2]), ["60s 2.4.0 alarm", "60s 2.4.0"]);
    }

    #[test]
    fn an_item_that_cannot_be_read_is_left_out_unless_an_older_version_cures_it() {
        let faults =
            |reason: UpdateFault| EndCause::from(Corruption::Faults { tag: 7, reason: reason.into() });
        for (version, reason, next, leave_out) in [
            (Version::V2_4_0, UpdateFault::TooFew, Version::V2_4_0, Some(7)),
            (Version::V2_4_0, UpdateFault::BadCaret, Version::V2_4_0, Some(7)),
            (Version::V2_5_0, UpdateFault::Difference, Version::V2_3_0, None),
            (Version::V2_4_0, UpdateFault::Difference, Version::V2_3_0, None),
            // What has no differences cannot be cured of them.
            (Version::V2_3_0, UpdateFault::Difference, Version::V2_3_0, Some(7)),
        ] {
            let (mut reconnect, now) = (Reconnect::new(Plan { version, ..PLAN }, 1), base());
            reconnect.begun(now);
            let (attempt, consequences) = reconnect.after(&faults(reason), Transport::WebSocket, true, now);
            assert_eq!((attempt.version, consequences.leave_out), (next, leave_out), "{reason}");
            assert!(attempt.at <= now + PLAN.first_retry_max && !consequences.login && !consequences.alarm);
        }
    }

    #[test]
    fn what_goes_on_for_long_costs_a_login_each_half_hour() {
        let check = refused(1, "User/password check failed");
        let unreachable = EndCause::Connection(Lost::Unreachable);
        let slow = refused(2, "Requested Adapter Set not available");
        for (ends, logins) in [
            (vec![check.clone(); 600], 18..=20),
            // Steps that leave the count of failures where it is ask for none of their own.
            ([vec![unreachable.clone(); 11], vec![slow; 600]].concat(), 18..=20),
            (vec![unreachable.clone(); 600], 18..=20),
            // The first refusal is given its login even so.
            ([vec![unreachable; 11], vec![check; 20]].concat(), 2..=2),
        ] {
            let mut reconnect = Reconnect::new(PLAN, 1);
            let (mut now, mut asked) = (base(), Vec::new());
            for end in &ends {
                reconnect.begun(now);
                let (next, consequences) = reconnect.after(end, Transport::WebSocket, false, now);
                asked.extend(consequences.login.then_some(now));
                now = next.at;
            }
            assert!(logins.contains(&asked.len()), "{} logins after {:?}", asked.len(), ends.last());
            let hurried = asked.windows(2).filter(|two| two[1] - two[0] < LOGIN_AGAIN).count();
            assert_eq!(hurried, usize::from(*logins.start() == 2));
        }
    }

    #[test]
    fn rows_in_between_do_not_bring_the_next_login_nearer() {
        let (mut reconnect, mut now) = (Reconnect::new(PLAN, 1), base());
        let mut asked = Vec::new();
        for _ in 0..600 {
            reconnect.begun(now);
            let minute = now + Duration::from_secs(60);
            reconnect.works();
            let (next, consequences) =
                reconnect.after(&refused(-1, "Invalid account type"), Transport::WebSocket, true, minute);
            asked.extend(consequences.login.then_some(minute));
            now = next.at;
        }
        assert!((18..=20).contains(&asked.len()), "{} logins in ten hours", asked.len());
        assert!(asked.windows(2).all(|two| two[1] - two[0] >= LOGIN_AGAIN));
    }

    #[test]
    fn an_expected_end_is_followed_at_once_but_not_again_and_again() {
        let ends = vec![refused(48, "Session duration expired"); 3];
        assert_eq!(play(PLAN, &ends), ["0s 2.4.0", "4s 2.4.0", "4s 2.4.0"]);
        let unrecovered = EndCause::Unrecovered { first: Box::new(EndCause::Connection(Lost::Closed)) };
        assert_eq!(play(PLAN, &[unrecovered.clone(), unrecovered]), ["0s 2.4.0", "4s 2.4.0"]);
    }

    #[test]
    fn tokens_are_asked_for_at_a_distance_however_long_ago_the_last_connection_was() {
        let (mut reconnect, mut now) = (Reconnect::new(PLAN, 1), base());
        reconnect.begun(now);
        now += Duration::from_secs(12 * 3600);
        for asked in 0..30 {
            let next = reconnect.after_no_tokens(now);
            let longest = if asked < 11 { PLAN.retry } else { PAUSE_MAX };
            assert!(next.at >= now + PLAN.retry.mul_f64(1.0 - JITTER), "{:?}", next.at - now);
            assert!(next.at <= now + longest.mul_f64(1.0 + JITTER).min(PAUSE_MAX), "{:?}", next.at - now);
            now = next.at;
        }
    }

    fn any_end() -> impl Strategy<Value = EndCause> {
        prop_oneof![
            Just(EndCause::Connection(Lost::Closed)),
            Just(EndCause::Connection(Lost::Refused)),
            Just(EndCause::Connection(Lost::Unreachable)),
            Just(EndCause::ConnectTimeout { wsok: false }),
            Just(EndCause::Stalled { silence: Duration::from_secs(10) }),
            Just(EndCause::Loop { delay: Duration::ZERO }),
            (-3..75).prop_map(|code| refused(code, "Unsupported protocol version")),
        ]
    }

    proptest! {
        /// Whatever happens: never a third connection within a second of two others, never a
        /// pause beyond the longest, tokens never asked for again without one, never an end.
        #[test]
        fn no_server_makes_a_storm(
            ends in prop::collection::vec((any_end(), any::<bool>(), 0_u64..3_000, 0_usize..4), 3..60),
            seed: u64,
        ) {
            let mut reconnect = Reconnect::new(PLAN, seed);
            let mut attempt = reconnect.first(base());
            let mut begun = Vec::new();
            for (end, had_data, lived_ms, without_tokens) in ends {
                for _ in 0..without_tokens {
                    let next = reconnect.after_no_tokens(attempt.at);
                    prop_assert!(next.at >= attempt.at + PLAN.retry.mul_f64(1.0 - JITTER));
                    prop_assert!(next.at <= attempt.at + PAUSE_MAX);
                    attempt = next;
                }
                reconnect.begun(attempt.at);
                begun.push(attempt.at);
                let over = attempt.at + Duration::from_millis(lived_ms);
                let (next, _) = reconnect.after(&end, attempt.transport, had_data, over);
                prop_assert!(next.at >= over && next.at <= over + PAUSE_MAX);
                attempt = next;
            }
            for three in begun.windows(3) {
                prop_assert!(three[2] - three[0] >= TWO_ATTEMPTS_WITHIN);
            }
        }
    }
}
