//! Tokens and the rules of their age. Pure.

use std::time::{Duration, Instant};

use crate::domain::Timestamp;
use crate::secret::Secret;

/// Tokens end after 72 h even in use (IG's REST guide); a planned login comes before that.
pub const RENEW_AFTER: Duration = Duration::from_secs(70 * 3600);
/// A bearer token is refreshed this long before it expires.
pub const REFRESH_MARGIN: Duration = Duration::from_secs(10);
/// A refresh token lives about ten minutes; it is renewed this often so that it never lapses.
pub const REFRESH_EVERY: Duration = Duration::from_secs(5 * 60);

/// Client and account token of a version 1 or 2 session; also what streaming needs.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// Client token.
    pub cst: Secret,
    /// Account token, bound to the active account.
    pub xst: Secret,
}

/// OAuth tokens of a version 3 session.
#[derive(Clone, PartialEq, Eq)]
pub struct Bearer {
    /// Sent with each call, lives about a minute.
    pub access: Secret,
    /// Buys the next pair.
    pub refresh: Secret,
    /// When `access` ends.
    pub expires_at: Instant,
}

/// A session with IG.
#[derive(Clone)]
pub struct Tokens {
    /// Grows with each login.
    pub generation: u64,
    /// For streaming, and for REST unless there is a bearer token.
    pub pair: Pair,
    /// Version 3 only.
    pub bearer: Option<Bearer>,
    /// The account that this session streams on.
    pub account_id: String,
    /// `CFD`, `SPREADBET`, `PHYSICAL`, where IG told it.
    pub account_type: Option<String>,
    /// Where to stream from.
    pub lightstreamer_endpoint: String,
    /// Account-local time minus UTC as of the login.
    pub timezone_offset_s: i64,
    /// When the login was.
    pub since: Instant,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl Tokens {
    /// Lightstreamer's password, made of both tokens (IG streaming guide).
    pub fn stream_password(&self) -> Secret {
        Secret::new(format!("CST-{}|XST-{}", self.pair.cst.expose(), self.pair.xst.expose()))
    }

    /// Whether a new login is due by age.
    pub fn is_old(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= RENEW_AFTER
    }

    /// Whether the bearer token has to be refreshed before the next call.
    pub fn needs_refresh(&self, now: Instant) -> bool {
        self.bearer.as_ref().is_some_and(|bearer| now + REFRESH_MARGIN >= bearer.expires_at)
    }
}

/// How long to wait before the next login. IG answers logins repeated within a minute from a
/// cache whose tokens may be dead, so logins keep a distance, across restarts too. A clock that
/// went back never makes the wait longer than the distance.
pub fn login_wait(last_login: Option<Timestamp>, spacing: Duration, now: Timestamp) -> Duration {
    let Some(last_login) = last_login else { return Duration::ZERO };
    let passed = u64::try_from(now.since(last_login)).unwrap_or(0);
    spacing.saturating_sub(Duration::from_secs(passed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_keep_their_distance() {
        let spacing = Duration::from_secs(61);
        let wait =
            |last: Option<i64>, now| login_wait(last.map(Timestamp), spacing, Timestamp(now)).as_secs();
        assert_eq!(wait(None, 1000), 0);
        assert_eq!(wait(Some(1000), 1000), 61);
        assert_eq!(wait(Some(1000), 1060), 1);
        assert_eq!(wait(Some(1000), 1061), 0);
        assert_eq!(wait(Some(5000), 1000), 61, "the clock went back");
    }
}
