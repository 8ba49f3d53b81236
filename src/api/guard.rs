//! Who may ask, and how much. Pure.
//!
//! A page of some other site in an operator's browser reaches whatever listens on loopback. It cannot read an answer,
//! since no answer allows that (there is no CORS), unless its name is made to point here (DNS rebinding): so a request
//! must name a host that is ours. And it may not cause anything: what is not a mere question must come from here.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ring::hmac;
use ring::rand::SecureRandom;

/// Bytes of a request's head, names and values of its headers, and its target.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Bytes of a request's body.
pub const BODY_BYTES_MAX: u64 = 64 * 1024;
/// Bytes of a token that are too few to withstand guessing.
const TOKEN_BYTES_MIN: usize = 16;
/// Bytes of a token.
const TOKEN_BYTES_MAX: usize = 1_024;

/// What clients must present. Shows nothing of itself, and compares in a time that tells nothing.
pub struct Token {
    /// Made at the start, so that what is compared is the same length for every text.
    key: hmac::Key,
    tag: hmac::Tag,
}

/// Why a text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAToken {
    /// Too short or too long.
    #[error(
        "a token has {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} characters: `openssl rand -hex 32` makes one"
    )]
    Length,
    /// Something that no header can carry.
    #[error("a token is one line of visible ASCII characters")]
    Characters,
    /// The system has no random numbers.
    #[error("the system gives no random numbers")]
    NoRandomness,
}

impl Token {
    /// The token of a file with this text, compared by a key out of `random`.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(text: &str, random: &dyn SecureRandom) -> Result<Token, NotAToken> {
        let text = text.trim();
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(NotAToken::Characters);
        }
        if !(TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&text.len()) {
            return Err(NotAToken::Length);
        }
        let key = hmac::Key::generate(hmac::HMAC_SHA256, random);
        let key = key.map_err(|_| NotAToken::NoRandomness)?;
        let tag = hmac::sign(&key, text.as_bytes());
        Ok(Token { key, tag })
    }

    fn is(&self, presented: &[u8]) -> bool {
        hmac::verify(&self.key, presented, self.tag.as_ref()).is_ok()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// What a request says of itself before its body.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head<'a> {
    /// Its method.
    pub method: &'a str,
    /// Every `Host` it has.
    pub hosts: &'a [&'a [u8]],
    /// The host in its target, where a proxy would look.
    pub authority: Option<&'a str>,
    /// Length of target and headers.
    pub bytes: usize,
    /// Length of its body, as announced; none where it comes in chunks.
    pub body_bytes: Option<u64>,
    /// It asks for what is the same for everybody and tells nothing of what is collected: the page itself, which a
    /// browser cannot ask for with a token.
    pub is_open: bool,
    /// `Authorization`.
    pub authorization: Option<&'a [u8]>,
    /// `Origin`.
    pub origin: Option<&'a [u8]>,
    /// `Sec-Fetch-Site`.
    pub fetch_site: Option<&'a [u8]>,
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It names no host, or several.
    NoHost,
    /// It names a host that is not ours.
    OtherHost,
    /// Its head is too long.
    LongHead,
    /// Its body is too long, or it should have none.
    LongBody,
    /// No token, or a wrong one.
    Unauthorized,
    /// A page of another site wants to cause something.
    OtherSite,
}

impl Refusal {
    /// Status, a word for programs, and the reason.
    pub const fn told(self) -> (u16, &'static str, &'static str) {
        match self {
            Refusal::NoHost => (400, "bad_host", "a request names one host"),
            Refusal::OtherHost => (
                421,
                "other_host",
                "this host name is not served here: name it in http.allowed_hosts, or ask localhost",
            ),
            Refusal::LongHead => (431, "long_head", "the request's head is too long"),
            Refusal::LongBody => (413, "long_body", "the request's body is too long, or it should have none"),
            Refusal::Unauthorized => {
                (401, "unauthorized", "present the token of http.token_file: Authorization: Bearer …")
            }
            Refusal::OtherSite => (403, "other_site", "pages of other sites may cause nothing here"),
        }
    }
}

/// Judges requests.
#[derive(Debug)]
pub struct Guard {
    listen: SocketAddr,
    allowed_hosts: Vec<String>,
    token: Option<Token>,
}

impl Guard {
    /// A guard of what listens here.
    pub fn new(listen: SocketAddr, allowed_hosts: Vec<String>, token: Option<Token>) -> Guard {
        let allowed_hosts =
            allowed_hosts.iter().map(|host| without_port(host).to_ascii_lowercase()).collect();
        Guard { listen, allowed_hosts, token }
    }

    /// Whether a request is answered.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, head: &Head<'_>) -> Result<(), Refusal> {
        let [host] = head.hosts else { return Err(Refusal::NoHost) };
        let host = std::str::from_utf8(host).map_err(|_| Refusal::OtherHost)?;
        if !self.is_ours(host) || head.authority.is_some_and(|authority| !self.is_ours(authority)) {
            return Err(Refusal::OtherHost);
        }
        if head.bytes > HEAD_BYTES_MAX {
            return Err(Refusal::LongHead);
        }
        let is_question = matches!(head.method, "GET" | "HEAD");
        if let Some(token) = &self.token
            && !(head.is_open && is_question)
            && !head.authorization.and_then(bearer).is_some_and(|presented| token.is(presented))
        {
            return Err(Refusal::Unauthorized);
        }
        if !is_question && self.is_from_elsewhere(head) {
            return Err(Refusal::OtherSite);
        }
        let body_bytes_max = if is_question { 0 } else { BODY_BYTES_MAX };
        if head.body_bytes.is_none_or(|bytes| bytes > body_bytes_max) {
            return Err(Refusal::LongBody);
        }
        Ok(())
    }

    fn is_from_elsewhere(&self, head: &Head<'_>) -> bool {
        let is_own_fetch = |site: &[u8]| matches!(site, b"same-origin" | b"none");
        let is_own_origin = |origin: &[u8]| {
            let origin = std::str::from_utf8(origin).unwrap_or_default();
            let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            // The port too: another page on this machine is another site.
            host.is_some_and(|host| head.hosts.first() == Some(&host.as_bytes()))
        };
        head.fetch_site.is_some_and(|site| !is_own_fetch(site))
            || head.origin.is_some_and(|origin| !is_own_origin(origin))
    }

    /// Whether this is a name, with or without a port, under which clients may call.
    fn is_ours(&self, host: &str) -> bool {
        let name = without_port(host).to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        let inner = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        let address = match inner {
            Some(inner) => inner.parse().map(IpAddr::V6),
            None => name.parse(),
        };
        if let Ok(address) = address.map(|address| address.to_canonical()) {
            // No name leads to an address but itself, so it is no trick of a resolver's.
            let own = self.listen.ip().to_canonical();
            return address.is_loopback() || address == own || own.is_unspecified();
        }
        name == "localhost" || self.allowed_hosts.iter().any(|allowed| allowed == name)
    }
}

/// The name or address of a host, an address of version 6 in its brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            // `::1` without brackets has no port.
            if name.contains(':') && !name.ends_with(']') { host } else { name }
        }
        _ => host,
    }
}

/// The credentials of RFC 6750, whose scheme is written in any case.
fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer ";
    let (scheme, presented) = authorization.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then(|| presented.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn parse(text: &str) -> Result<Token, NotAToken> {
        Token::parse(text, &ring::rand::SystemRandom::new())
    }

    fn guard(listen: &str, token: Option<&str>) -> Guard {
        let token = token.map(|token| parse(token).unwrap());
        Guard::new(listen.parse().unwrap(), vec!["Bars.example".to_owned()], token)
    }

    fn get<'a>(hosts: &'a [&'a [u8]]) -> Head<'a> {
        Head { method: "GET", hosts, body_bytes: Some(0), ..Head::default() }
    }

    #[test]
    fn only_names_of_ours_are_served() {
        for (listen, host, expected) in [
            ("127.0.0.1:8017", "127.0.0.1:8017", true),
            ("127.0.0.1:8017", "localhost", true),
            ("127.0.0.1:8017", "LOCALHOST.:8017", true),
            ("127.0.0.1:8017", "[::1]:8017", true),
            ("127.0.0.1:8017", "127.0.0.2", true),
            ("127.0.0.1:8017", "bars.example:8017", true),
            ("127.0.0.1:8017", "bars.example", true),
            ("127.0.0.1:8017", "evil.example", false),
            ("127.0.0.1:8017", "bars.example.evil.example", false),
            ("127.0.0.1:8017", "evil.bars.example", false),
            ("127.0.0.1:8017", "localhost.evil.example", false),
            ("127.0.0.1:8017", "127.0.0.1.evil.example", false),
            ("127.0.0.1:8017", "localhost:evil.example", false),
            ("127.0.0.1:8017", "192.0.2.1", false),
            ("127.0.0.1:8017", "", false),
            ("127.0.0.1:8017", ":8017", false),
            ("192.0.2.1:80", "192.0.2.1", true),
            ("192.0.2.1:80", "192.0.2.2", false),
            ("0.0.0.0:80", "192.0.2.2", true),
            ("0.0.0.0:80", "evil.example", false),
            ("[::]:80", "[2001:db8::1]:80", true),
            ("[::]:80", "2001:db8::1", true),
        ] {
            let answer = guard(listen, None).check(&get(&[host.as_bytes()]));
            let expected = if expected { Ok(()) } else { Err(Refusal::OtherHost) };
            assert_eq!(answer, expected, "{host} at {listen}");
        }
        let guard = guard("127.0.0.1:8017", None);
        assert_eq!(guard.check(&get(&[])), Err(Refusal::NoHost));
        assert_eq!(guard.check(&get(&[b"localhost", b"evil.example"])), Err(Refusal::NoHost));
        assert_eq!(guard.check(&get(&[b"\xff"])), Err(Refusal::OtherHost));
        let elsewhere = Head { authority: Some("evil.example"), ..get(&[b"localhost"]) };
        assert_eq!(guard.check(&elsewhere), Err(Refusal::OtherHost));
    }

    #[test]
    fn the_token_is_asked_for_of_every_request_where_there_is_one() {
        let guard = guard("127.0.0.1:8017", Some(TOKEN));
        let with = |authorization: Option<&str>| {
            let authorization = authorization.map(str::as_bytes);
            guard.check(&Head { authorization, ..get(&[b"localhost"]) })
        };
        assert_eq!(with(Some(&format!("Bearer {TOKEN}"))), Ok(()));
        assert_eq!(with(Some(&format!("bEARER  {TOKEN} "))), Ok(()));
        for wrong in [
            None,
            Some(""),
            Some("Bearer"),
            Some("Bearer "),
            Some("Bearer 0123456789abcdef0123456789abcdee"),
            Some("Bearer 0123456789abcdef"),
            Some(TOKEN),
            Some("Basic 0123456789abcdef0123456789abcdef"),
        ] {
            assert_eq!(with(wrong), Err(Refusal::Unauthorized), "{wrong:?}");
        }
    }

    #[test]
    fn what_tells_nothing_needs_no_token_and_all_else_of_a_request() {
        let guard = guard("127.0.0.1:8017", Some(TOKEN));
        let open = Head { is_open: true, ..get(&[b"localhost"]) };
        assert_eq!(guard.check(&open), Ok(()));
        assert_eq!(guard.check(&Head { method: "HEAD", ..open }), Ok(()));
        assert_eq!(guard.check(&Head { method: "POST", ..open }), Err(Refusal::Unauthorized));
        assert_eq!(guard.check(&Head { hosts: &[b"evil.example"], ..open }), Err(Refusal::OtherHost));
        assert_eq!(guard.check(&Head { body_bytes: Some(1), ..open }), Err(Refusal::LongBody));
    }

    #[test]
    fn what_is_no_token_is_refused_and_a_token_does_not_print() {
        for (text, expected) in [
            ("", NotAToken::Length),
            ("short", NotAToken::Length),
            ("two words are no token", NotAToken::Characters),
            ("0123456789abcdefü", NotAToken::Characters),
        ] {
            assert_eq!(parse(text).unwrap_err(), expected, "{text}");
        }
        assert_eq!(parse(&"x".repeat(TOKEN_BYTES_MAX + 1)).unwrap_err(), NotAToken::Length);
        let token = parse(&format!("{TOKEN}\n")).unwrap();
        assert!(token.is(TOKEN.as_bytes()) && !format!("{token:?}").contains(TOKEN));
    }

    #[test]
    fn other_sites_may_ask_and_cause_nothing() {
        let guard = guard("127.0.0.1:8017", None);
        let check = |method, fetch_site: Option<&'static str>, origin: Option<&'static str>| {
            let (fetch_site, origin) = (fetch_site.map(str::as_bytes), origin.map(str::as_bytes));
            guard.check(&Head { method, fetch_site, origin, ..get(&[b"localhost:8017"]) })
        };
        for (fetch_site, origin, expected) in [
            (None, None, Ok(())),
            (Some("same-origin"), Some("http://localhost:8017"), Ok(())),
            (Some("none"), None, Ok(())),
            (Some("cross-site"), None, Err(Refusal::OtherSite)),
            (Some("same-site"), None, Err(Refusal::OtherSite)),
            (None, Some("http://evil.example"), Err(Refusal::OtherSite)),
            (None, Some("http://localhost:9999"), Err(Refusal::OtherSite)),
            (None, Some("null"), Err(Refusal::OtherSite)),
        ] {
            assert_eq!(check("POST", fetch_site, origin), expected, "{fetch_site:?} {origin:?}");
            assert_eq!(check("GET", fetch_site, origin), Ok(()), "{fetch_site:?} {origin:?}");
        }
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let guard = guard("127.0.0.1:8017", None);
        let head = get(&[b"localhost"]);
        assert_eq!(guard.check(&Head { bytes: HEAD_BYTES_MAX, ..head }), Ok(()));
        assert_eq!(guard.check(&Head { bytes: HEAD_BYTES_MAX + 1, ..head }), Err(Refusal::LongHead));
        for (method, body_bytes, expected) in [
            ("GET", Some(0), Ok(())),
            ("GET", Some(1), Err(Refusal::LongBody)),
            ("GET", None, Err(Refusal::LongBody)),
            ("POST", Some(BODY_BYTES_MAX), Ok(())),
            ("POST", Some(BODY_BYTES_MAX + 1), Err(Refusal::LongBody)),
            ("POST", None, Err(Refusal::LongBody)),
        ] {
            assert_eq!(
                guard.check(&Head { method, body_bytes, ..head }),
                expected,
                "{method} {body_bytes:?}"
            );
        }
    }
}
