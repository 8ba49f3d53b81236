//! What can go wrong with the broker, sorted by what the caller does about it.
//!
//! IG's error bodies guarantee one field, `errorCode`, whose spelling varies (doubled prefixes,
//! field names as suffix), so codes are matched by family, case-insensitively.

use std::time::Duration;

use crate::domain::Timestamp;

/// Characters of outside text that an error may carry.
const TEXT_MAX: usize = 160;

/// A failed call to IG.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IgError {
    /// Network trouble, a 5xx, or a surprise on IG's side: try again later.
    #[error("IG is in trouble: {0}")]
    Retryable(String),
    /// The request did not reach IG: no name, no route, no listener. Try again later.
    #[error("IG cannot be reached: {0}")]
    Unreachable(String),
    /// The session's tokens are dead: get new ones, then try again once.
    #[error("IG no longer accepts the session's tokens ({0})")]
    Unauthorized(String),
    /// Too many requests within a minute: wait, then try again.
    #[error("IG's limit of requests a minute is reached ({0})")]
    RateLimited(String),
    /// Logins have failed, and the next is not to be made yet: nothing was asked.
    #[error("the next login is not before {at}: {why}")]
    LoginLater {
        /// When it may be made, UTC.
        at: Timestamp,
        /// From now until then.
        wait: Duration,
        /// What came of those before.
        why: String,
    },
    /// The week's historical data points are spent: wait for days, the stream goes on.
    #[error("IG's weekly allowance of historical data is spent ({0})")]
    AllowanceSpent(String),
    /// IG refuses these credentials or this key for good: an operator is needed.
    #[error("IG refuses the credentials: {}", explain(.0))]
    CredentialsRefused(String),
    /// The configuration names something that IG does not have: an operator is needed.
    #[error("{0}")]
    Misconfigured(String),
    /// The connection broke under a request: what became of it is unknown.
    #[error("the connection to IG broke: {0}")]
    Broken(String),
    /// This one request can never succeed; others can.
    #[error("IG refuses the request ({0})")]
    Refused(String),
    /// Not IG's API has answered but something on the way to it: a redirect, or a page in the place of JSON.
    /// IG was asked for nothing: try again later.
    #[error("something else than IG has answered: {0}")]
    NotIg(String),
    /// IG answered something that is not what its reference describes.
    #[error("IG's answer cannot be read: {0}")]
    Malformed(String),
}

/// How long to leave IG alone after [`IgError::RateLimited`] (recovers "in about a minute").
pub const RATE_LIMIT_PAUSE: Duration = Duration::from_secs(60);

/// Families of refusals that come before any history is read, and so cost no data point. A failed
/// request for too many bars has been charged, so others count as spent.
const REFUSED_UNREAD: [&str; 7] = [
    "unsupported.epic",
    "epic-not-found",
    "market.not-found",
    "equity.exception",
    "validation.",
    "date",
    "invalid.",
];

impl IgError {
    /// Whether a request for history that failed so has surely cost nothing.
    pub fn came_before_any_history(&self) -> bool {
        match self {
            IgError::Unauthorized(_) | IgError::RateLimited(_) | IgError::AllowanceSpent(_) => true,
            IgError::Unreachable(_) | IgError::NotIg(_) => true,
            IgError::CredentialsRefused(_) | IgError::LoginLater { .. } => true,
            IgError::Refused(code) => REFUSED_UNREAD.iter().any(|part| code.contains(part)),
            _ => false,
        }
    }

    /// How long nobody need ask again, where that is known: until then there is no login.
    pub fn pause(&self) -> Duration {
        match self {
            IgError::LoginLater { wait, .. } => *wait,
            _ => Duration::ZERO,
        }
    }

    /// Sorts an HTTP error answer. `login` says whether the call was a login, where a 400 or 401 is
    /// about the credentials and not about tokens.
    ///
    /// IG promises every error of its own a code. A body without one is a page of whatever stands in
    /// between (gateway, proxy, maintenance), so its words say nothing, and nothing is refused for good.
    pub fn from_response(status: u16, body: &str, login: bool) -> IgError {
        let Some(code) = error_code(body) else {
            let page = format!("HTTP {status}, {}", cut(body));
            return match status {
                401 if !login => IgError::Unauthorized(page),
                429 => IgError::RateLimited(page),
                500.. => IgError::Retryable(page),
                _ if begins_like_json(body.as_bytes()) => IgError::Malformed(page),
                _ => IgError::NotIg(page),
            };
        };
        let lower = code.to_ascii_lowercase();
        let has = |part: &str| lower.contains(part);
        if has("historical-data-allowance") {
            return IgError::AllowanceSpent(code);
        }
        if has("exceeded-") && has("allowance") || status == 429 {
            return IgError::RateLimited(code);
        }
        if ["client-token", "account-token", "oauth-token"].iter().any(|part| has(part)) {
            return IgError::Unauthorized(code);
        }
        if REFUSED_FOR_GOOD.iter().any(|part| has(part)) {
            return IgError::CredentialsRefused(code);
        }
        if has("security.generic") || has("session.timeout") || has("authentication.timeout") {
            return IgError::Retryable(code);
        }
        match status {
            400 | 401 if login => IgError::CredentialsRefused(code),
            401 => IgError::Unauthorized(code),
            500.. => IgError::Retryable(code),
            _ => IgError::Refused(code),
        }
    }
}

/// Families of error codes after which trying again can only do harm.
const REFUSED_FOR_GOOD: [&str; 21] = [
    "invalid-details",
    "too-many-failed-attempts",
    "api-key-missing",
    "api-key-disabled",
    "api-key-invalid",
    "api-key-restricted",
    "api-key-revoked",
    "api-key.revoked",
    "api-key.mismatch",
    "endpoint.unavailable.for.api-key",
    "encryption.required",
    "kyc.required",
    "pending.agreements.required",
    "preferred.account",
    "stockbroking-not-supported",
    "account-access-denied",
    "account-suspended",
    "client-suspended",
    "accounts-suspended",
    "invalid-application",
    "not-a-client-account",
];

/// The code of an error of IG's own; none in any other body, or where it is empty.
fn error_code(body: &str) -> Option<String> {
    let body: serde_json::Value = serde_json::from_str(body).ok()?;
    let code = body.get("errorCode")?.as_str()?;
    (!code.trim().is_empty()).then(|| cut(code))
}

/// Whether a text can be an answer of IG's: all are objects or lists.
pub fn begins_like_json(body: &[u8]) -> bool {
    body.trim_ascii_start().first().is_none_or(|first| matches!(first, b'{' | b'['))
}

/// Cuts outside text to a bound and makes it safe to print on one line.
pub fn cut(text: &str) -> String {
    let mut out: String = text.chars().take(TEXT_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(TEXT_MAX).is_some() {
        out.push('…');
    }
    out
}

/// The plain reason behind a code that ends everything.
fn explain(code: &str) -> String {
    let lower = code.to_ascii_lowercase();
    let reasons = [
        ("invalid-details", "wrong user name or password"),
        ("too-many-failed", "the account is locked after too many failed logins; unlock it with IG"),
        ("api-key-missing", "no API key was sent"),
        ("api-key-disabled", "the API key is disabled"),
        ("api-key-restricted", "the API key is restricted"),
        ("revoked", "the API key is revoked"),
        ("api-key-invalid", "unknown API key, or a demo key on the live host or the reverse"),
        ("unavailable.for.api-key", "the API key belongs to the other environment (demo or live)"),
        ("mismatch", "the API key belongs to another client"),
        (
            "encryption.required",
            "this account must log in with an encrypted password, which is not supported yet",
        ),
        ("stockbroking", "the profile's default account is a share account; set session.version = 3"),
        ("agreements", "an agreement waits to be accepted on IG's web platform"),
        ("kyc", "IG wants identity papers first; see its web platform"),
        ("authenticationrequest.identifier", "the user name has characters that the API does not accept"),
    ];
    match reasons.iter().find(|(part, _)| lower.contains(part)) {
        Some((_, reason)) => format!("{reason} ({code})"),
        None => code.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(status: u16, code: &str, login: bool) -> &'static str {
        kind_of_body(status, &format!(r#"{{"errorCode":"{code}"}}"#), login)
    }

    fn kind_of_body(status: u16, body: &str, login: bool) -> &'static str {
        match IgError::from_response(status, body, login) {
            IgError::Retryable(_) | IgError::Unreachable(_) | IgError::Broken(_) => "retry",
            IgError::Misconfigured(_) => "misconfigured",
            IgError::Unauthorized(_) => "re-login",
            IgError::RateLimited(_) | IgError::LoginLater { .. } => "wait",
            IgError::AllowanceSpent(_) => "week",
            IgError::CredentialsRefused(_) => "give up",
            IgError::Refused(_) => "refused",
            IgError::Malformed(_) => "malformed",
            IgError::NotIg(_) => "not IG",
        }
    }

    #[test]
    fn each_family_of_codes_has_its_consequence() {
        for (status, code, login, expected) in [
            (401, "error.security.invalid-details", true, "give up"),
            (401, "error.security.too-many-failed-attempts", true, "give up"),
            (403, "error.security.api-key-invalid", true, "give up"),
            (403, "endpoint.unavailable.for.api-key", true, "give up"),
            (403, "error.security.api-key-disabled", false, "give up"),
            (403, "unauthorised.clientId.api-key.mismatch", true, "give up"),
            (400, "validation.pattern.invalid.authenticationRequest.identifier", true, "give up"),
            (403, "error.public-api.failure.stockbroking-not-supported", true, "give up"),
            (401, "error.security.generic", true, "retry"),
            (504, "error.security.authentication.timeout", true, "retry"),
            (500, "system.error", true, "retry"),
            (503, "whatever", false, "retry"),
            (401, "error.security.client-token-invalid", false, "re-login"),
            (401, "ERROR.public-api.failure.account-token-invalid", false, "re-login"),
            (401, "error.security.oauth-token-invalid", false, "re-login"),
            (401, "some.new.code", false, "re-login"),
            (401, "some.new.code", true, "give up"),
            (403, "some.new.code", true, "refused"),
            (403, "some.new.code", false, "refused"),
            (403, "error.public-api.exceeded-api-key-allowance", false, "wait"),
            (403, "error.public-api.exceeded-account-allowance", true, "wait"),
            (429, "", false, "wait"),
            (429, "some.new.code", true, "wait"),
            (403, "error.public-api.exceeded-account-historical-data-allowance", false, "week"),
            (404, "error.error.price-history.io-error", false, "refused"),
            (403, "unauthorised.access.to.equity.exception", false, "refused"),
            (400, "error.invalid.daterange", false, "refused"),
        ] {
            assert_eq!(kind(status, code, login), expected, "{status} {code}");
        }
    }

    #[test]
    fn a_body_without_a_code_of_igs_refuses_nothing_for_good() {
        let bodies = [
            "",
            " ",
            "null",
            r#"["error.security.invalid-details"]"#,
            "{}",
            r#""error.security.invalid-details""#,
            r#"{"errorCode":null}"#,
            r#"{"errorCode":" "}"#,
            r#"{"errorCode":{"code":"error.security.invalid-details"}}"#,
            r#"{"error":"error.security.invalid-details"}"#,
            r#"{"message":"Forbidden"}"#,
            "<html>Blocked: api-key-invalid, account-suspended, too-many-failed-attempts</html>",
            "<html>exceeded-account-historical-data-allowance; client-token-invalid; session.timeout</html>",
        ];
        for (status, at_login, otherwise) in [
            (400, "malformed", "malformed"),
            (401, "malformed", "re-login"),
            (403, "malformed", "malformed"),
            (404, "malformed", "malformed"),
            (407, "malformed", "malformed"),
            (429, "wait", "wait"),
            (500, "retry", "retry"),
            (503, "retry", "retry"),
        ] {
            for body in bodies {
                // What is neither an object nor a list is not even of IG's kind.
                let told = |kind| match kind {
                    "malformed" if !begins_like_json(body.as_bytes()) => "not IG",
                    kind => kind,
                };
                assert_eq!(kind_of_body(status, body, true), told(at_login), "{status} {body}");
                assert_eq!(kind_of_body(status, body, false), told(otherwise), "{status} {body}");
            }
        }
    }

    #[test]
    fn only_a_refusal_before_any_history_is_known_to_cost_nothing() {
        let refused = |code: &str| IgError::Refused(code.to_owned()).came_before_any_history();
        assert!(refused("error.unsupported.epic") && refused("error.invalid.daterange"));
        assert!(!refused("error.error.price-history.io-error"));
        assert!(!IgError::Broken(String::new()).came_before_any_history());
    }

    #[test]
    fn an_answer_that_is_no_json_is_cut_and_escaped() {
        let body = format!("<html>\n{}", "x".repeat(1000));
        let IgError::Retryable(text) = IgError::from_response(502, &body, false) else { panic!() };
        assert!(text.starts_with(r"HTTP 502, <html>\nxxx"), "{text}");
        assert!(text.len() < 300);
    }

    #[test]
    fn the_reason_is_plain() {
        let error = IgError::from_response(401, r#"{"errorCode":"error.security.invalid-details"}"#, true);
        assert_eq!(
            error.to_string(),
            "IG refuses the credentials: wrong user name or password (error.security.invalid-details)"
        );
    }
}
