//! What the server's numeric codes ask of us. The same number can mean one thing for a session
//! (`CONERR`, `END`) and another for a request (`REQERR`, `ERROR`): the tag decides.

/// How to come back after a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A new session at once: the end was routine, or waiting would change nothing.
    AtOnce,
    /// A new session after the usual growing delay.
    Backoff,
    /// A new session at the slow pace of about a minute: only somebody else can mend this.
    Slow,
    /// New credentials first, then as [`Step::Backoff`].
    LoginThenBackoff,
    /// New credentials first, and if those are refused too as [`Step::Slow`].
    LoginThenSlow,
    /// A new session at once with [`Version::older`]; as [`Step::Slow`] when none is left.
    ///
    /// [`Version::older`]: super::Version::older
    OlderVersion,
}

/// What to do after a session ended with a code. An always-on collector never gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How to come back.
    pub step: Step,
    /// At which time in a row an operator should hear of it: 1 is the first, `None` is never.
    pub alarm_at: Option<u8>,
}

impl Policy {
    const AT_ONCE: Policy = Policy { step: Step::AtOnce, alarm_at: None };
    const BACKOFF: Policy = Policy { step: Step::Backoff, alarm_at: None };
    const SLOW: Policy = Policy { step: Step::Slow, alarm_at: Some(1) };
}

/// What a refused subscription means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The request names something the server does not have; only another configuration or
    /// another account is likely to change that.
    Config,
    /// Unfiltered delivery is not to be had; the session itself asks again without.
    WithoutUnfiltered,
    /// Not allowed or not understood; an operator should hear of it.
    Off,
    /// Trouble on the server's side, likely to pass.
    RetryLater,
    /// Refused by the broker's own adapter, whose reasons are its own.
    Adapter,
    /// Not refused by the server: its updates cannot be read, on probation too.
    Faulty,
    /// The session is void; the subscription will be made again in the next one.
    NewSession,
}

/// Returns what `CONERR` or `END` with this code asks for.
pub fn session_policy(code: i32, text: &str) -> Policy {
    match code {
        ..=0 => Policy { step: Step::LoginThenBackoff, alarm_at: Some(3) },
        1 => Policy { step: Step::LoginThenSlow, alarm_at: Some(2) },
        // Recovery point or session gone, longest duration reached, socket already in use: a
        // fresh session on a fresh socket is the whole cure.
        4 | 20 | 41 | 48 | 69 => Policy::AT_ONCE,
        // The session belongs to another instance behind the same name.
        21 => Policy { step: Step::Backoff, alarm_at: Some(2) },
        // Adapter set, licences and limits, ports, client types: an operator's affair.
        2 | 7 | 8 | 9 | 11 | 60 | 64 | 67 | 70 | 71 => Policy::SLOW,
        // The user opened another session. Fighting over the account makes both flap.
        35 => Policy::SLOW,
        65 if is_cured_by_an_older_version(text) => Policy { step: Step::OlderVersion, alarm_at: None },
        65 => Policy::SLOW,
        // 3 5 6 10 31 32 33 34 40 66 68, and whatever later servers may add.
        _ => Policy::BACKOFF,
    }
}

/// Code 65 is any syntax error or bad value; only its text tells a refused version apart.
/// Versions before 2.4.0 know no differences, and so nothing of the list that forbids them.
fn is_cured_by_an_older_version(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("protocol version") || text.contains("ls_supported_diffs")
}

/// Returns what `REQERR` with this code, in answer to a subscription, means for it.
pub fn add_verdict(code: i32) -> Verdict {
    match code {
        ..=0 => Verdict::Adapter,
        3 | 11 | 20 => Verdict::NewSession,
        15..=17 | 21..=25 => Verdict::Config,
        26..=28 => Verdict::WithoutUnfiltered,
        29 | 30 | 65 | 67 => Verdict::Off,
        _ => Verdict::RetryLater,
    }
}

/// Returns what to do about the whole session after a `REQERR` with this code; `None` if the
/// session lives on.
pub fn request_policy(code: i32) -> Option<Policy> {
    match code {
        3 => Some(Policy::BACKOFF),
        11 => Some(Policy { step: Step::Backoff, alarm_at: Some(2) }),
        20 => Some(Policy::AT_ONCE),
        67 => Some(Policy { step: Step::Backoff, alarm_at: Some(1) }),
        _ => None,
    }
}

/// Returns what to do after `ERROR`. It carries no id, so nobody in particular is to blame.
pub fn error_policy(_code: i32) -> Policy {
    Policy::BACKOFF
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_codes() {
        for (codes, step, alarm_at) in [
            (vec![-7, -1, 0], Step::LoginThenBackoff, Some(3)),
            (vec![1], Step::LoginThenSlow, Some(2)),
            (vec![4, 20, 41, 48, 69], Step::AtOnce, None),
            (vec![21], Step::Backoff, Some(2)),
            (vec![2, 7, 8, 9, 11, 35, 60, 65, 67, 70, 71], Step::Slow, Some(1)),
            (vec![3, 5, 6, 10, 31, 32, 33, 34, 40, 66, 68, 999], Step::Backoff, None),
        ] {
            for code in codes {
                assert_eq!(session_policy(code, "whatever"), Policy { step, alarm_at }, "{code}");
            }
        }
    }

    #[test]
    fn only_a_text_about_the_version_steps_down() {
        let step = |text| session_policy(65, text).step;
        assert_eq!(step("Unsupported protocol version: 2.5.0"), Step::OlderVersion);
        assert_eq!(step("Unsupported Protocol Version"), Step::OlderVersion);
        assert_eq!(step("Invalid value for parameter LS_supported_diffs"), Step::OlderVersion);
        assert_eq!(step("Bad value for LS_keepalive_millis"), Step::Slow);
    }

    #[test]
    fn request_codes_are_another_table() {
        for (codes, verdict) in [
            (vec![-1, 0], Verdict::Adapter),
            (vec![3, 11, 20], Verdict::NewSession),
            (vec![15, 16, 17, 21, 22, 23, 24, 25], Verdict::Config),
            (vec![26, 27, 28], Verdict::WithoutUnfiltered),
            (vec![29, 30, 65, 67], Verdict::Off),
            (vec![66, 68, 19, 999], Verdict::RetryLater),
        ] {
            for code in codes {
                assert_eq!(add_verdict(code), verdict, "{code}");
            }
        }
    }

    #[test]
    fn few_refusals_void_the_session() {
        let voiding: Vec<i32> = (-10..100).filter(|&code| request_policy(code).is_some()).collect();
        assert_eq!(voiding, [3, 11, 20, 67]);
    }
}
