//! Where a connection goes: the address from the configuration or the broker, unless the server
//! has given the session a control link (official client test suite, `TestControlLink`).

use std::borrow::Cow;

/// Longest control link that is followed, in bytes.
const LINK_BYTES_MAX: usize = 300;

/// Why a control link is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLink {
    /// Not a host, with or without port and path.
    #[error("not a host name")]
    NotAHost,
    /// It would have what was encrypted go on in the clear.
    #[error("it leaves TLS")]
    Downgrade,
}

/// Returns the address below which requests go, without a slash at its end:
/// `https://host:port/prefix/lightstreamer`.
///
/// What the link leaves out, scheme and port, is taken from `configured`; the path is its own.
///
/// # Errors
/// A link that cannot be followed; the caller stays with the configured address.
pub fn base(configured: &str, link: Option<&str>) -> Result<String, BadLink> {
    let configured = configured.trim_end_matches('/');
    let Some(link) = link else { return Ok(format!("{configured}/lightstreamer")) };
    let (scheme, rest) = configured.split_once("://").unwrap_or(("https", configured));
    let (link_scheme, target) = link.split_once("://").unwrap_or((scheme, link));
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~:/[]".contains(c);
    if target.len() > LINK_BYTES_MAX || !target.chars().all(is_plain) {
        return Err(BadLink::NotAHost);
    }
    let scheme = match (scheme, link_scheme) {
        (own, told) if own == told => own,
        ("http", "https") => "https",
        ("https", "http") => return Err(BadLink::Downgrade),
        _ => return Err(BadLink::NotAHost),
    };
    let target = target.trim_end_matches('/');
    let (host, path) = target.split_at(target.find('/').unwrap_or(target.len()));
    let (name, port) = split_port(host);
    let is_bracketed = name.starts_with('[') && name.ends_with(']');
    let is_host = !name.is_empty() && (is_bracketed || !name.contains([':', '[', ']']));
    if !is_host || port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(BadLink::NotAHost);
    }
    let own_port = split_port(rest.split('/').next().unwrap_or_default()).1;
    let host: Cow<'_, str> = match (port, own_port) {
        (None, Some(port)) => format!("{host}:{port}").into(),
        _ => host.into(),
    };
    Ok(format!("{scheme}://{host}{path}/lightstreamer"))
}

/// A host and its port, if it names one; the colons of an IPv6 address are none.
fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(configured: &str, link: &str, expected: Result<&str, BadLink>) {
        assert_eq!(
            base(configured, Some(link)).as_deref().map_err(|bad| *bad),
            expected,
            "{configured} {link}"
        );
    }

    #[test]
    fn without_a_link_the_configured_address_counts() {
        assert_eq!(base("https://a.b/", None).unwrap(), "https://a.b/lightstreamer");
        assert_eq!(base("http://a.b:80/x", None).unwrap(), "http://a.b:80/x/lightstreamer");
    }

    #[test]
    fn a_link_brings_its_own_path_and_borrows_scheme_and_port() {
        check("http://server", "host.com:90", Ok("http://host.com:90/lightstreamer"));
        check("http://server:8080", "host.com", Ok("http://host.com:8080/lightstreamer"));
        check(
            "http://server.com/TestPrefix",
            "host.com/TestPrefix",
            Ok("http://host.com/TestPrefix/lightstreamer"),
        );
        check("https://server/Prefix", "host.com", Ok("https://host.com/lightstreamer"));
        check(
            "https://a",
            "apd245f.marketdatasystems.com",
            Ok("https://apd245f.marketdatasystems.com/lightstreamer"),
        );
        check("https://a:443", "https://10.0.0.1/", Ok("https://10.0.0.1:443/lightstreamer"));
        check("http://a", "https://b:444/", Ok("https://b:444/lightstreamer"));
        check("http://a:80", "[::1]", Ok("http://[::1]:80/lightstreamer"));
        check("http://[::1]:80", "[::2]:81", Ok("http://[::2]:81/lightstreamer"));
    }

    #[test]
    fn a_link_that_leaves_tls_or_is_no_host_is_not_followed() {
        check("https://a", "http://b", Err(BadLink::Downgrade));
        for link in [
            "",
            "/",
            ":80",
            "b:port",
            "b:99999",
            "user@b",
            "::1",
            "[::1",
            "a:b:80",
            "b?x=1",
            "b#x",
            "b c",
            "ftp://b",
            "b\r\nX: 1",
            "ü",
        ] {
            check("https://a", link, Err(BadLink::NotAHost));
        }
        check("https://a", &"x".repeat(301), Err(BadLink::NotAHost));
    }
}
