//! Which server, which database, and how sure to be of the server: a `postgres://` address taken
//! apart. Pure.
//!
//! Parameters mean what they mean to libpq (PostgreSQL manual, "Parameter Key Words"). Those of
//! TLS are read here, the rest by `tokio-postgres`, which refuses what it does not know.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_postgres::config::SslMode;

/// Where a server of this machine listens where the address names no host (Debian's and Red Hat's
/// place; libpq's own is set when it is built).
const SOCKET_DIR: &str = "/var/run/postgresql";
/// How long to wait for a connection, unless `connect_timeout` says otherwise.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// A peer that has not taken what it was sent for so long is gone, unless `tcp_user_timeout` says otherwise.
const SENT_WITHIN: Duration = Duration::from_secs(10);
/// The kernel asks a silent peer after so long, unless the `keepalives_*` say otherwise…
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// …and again after so long…
const KEEPALIVE_EVERY: Duration = Duration::from_secs(3);
/// …so often, before it is taken for gone.
const KEEPALIVE_TRIES: u32 = 3;

/// What the server has to prove (`sslmode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Tls {
    /// No TLS.
    Off,
    /// TLS where the server offers it; the server proves nothing.
    Prefer,
    /// TLS; the server proves nothing.
    Require,
    /// TLS; a known authority vouches for the server's certificate.
    VerifyCa,
    /// TLS; and the certificate is for this host.
    VerifyFull,
}

/// An address taken apart.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::store) struct Target {
    /// Server, user, database, password.
    pub(in crate::store) config: tokio_postgres::Config,
    /// What the server has to prove.
    pub(in crate::store) tls: Tls,
    /// Authorities to believe (`sslrootcert`); none: those of the web.
    pub(in crate::store) root_file: Option<PathBuf>,
    /// Where the password stands, if not in the address (`passfile`).
    pub(in crate::store) pass_file: Option<PathBuf>,
    /// Certificate and key by which we prove ourselves (`sslcert`, `sslkey`).
    pub(in crate::store) own_files: Option<(PathBuf, PathBuf)>,
}

impl Target {
    /// Takes an address apart.
    ///
    /// # Errors
    /// What is wrong with it, in words that show none of its values.
    pub(in crate::store) fn parse(url: &str) -> Result<Target, String> {
        let (place, parameters) = url.split_once('?').unwrap_or((url, ""));
        let (mut rest, mut ours) = (String::new(), Ours::default());
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            let (key, value) = parameter.split_once('=').ok_or("a parameter has no value")?;
            if !ours.take(key, value)? {
                let separator = if rest.is_empty() { '?' } else { '&' };
                let _ = write!(rest, "{separator}{key}={value}");
            }
        }
        let mut config: tokio_postgres::Config =
            format!("{place}{rest}").parse().map_err(|error: tokio_postgres::Error| in_words(&error))?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            config.host_path(SOCKET_DIR);
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_WITHIN);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(SENT_WITHIN);
        }
        if !rest.contains("keepalives") {
            config
                .keepalives_idle(KEEPALIVE_IDLE)
                .keepalives_interval(KEEPALIVE_EVERY)
                .keepalives_retries(KEEPALIVE_TRIES);
        }
        if config.get_application_name().is_none() {
            config.application_name("candlekeep");
        }
        let tls = match ours.tls.unwrap_or(Tls::Prefer) {
            // As libpq has it: who names authorities wants them asked.
            Tls::Require if ours.root_file.is_some() => Tls::VerifyCa,
            tls => tls,
        };
        config.ssl_mode(match tls {
            Tls::Off => SslMode::Disable,
            Tls::Prefer => SslMode::Prefer,
            Tls::Require | Tls::VerifyCa | Tls::VerifyFull => SslMode::Require,
        });
        let own_files = match (ours.cert, ours.key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err("sslcert and sslkey go together".to_owned()),
        };
        Ok(Target { config, tls, root_file: ours.root_file, pass_file: ours.pass_file, own_files })
    }
}

/// The parameters that are read here.
#[derive(Default)]
struct Ours {
    tls: Option<Tls>,
    root_file: Option<PathBuf>,
    pass_file: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Ours {
    /// Takes a parameter; answers whether it is one of these.
    fn take(&mut self, key: &str, value: &str) -> Result<bool, String> {
        let text = || {
            let decoded = percent_decode_str(value).decode_utf8();
            decoded.map(String::from).map_err(|_| format!("{key} is not UTF-8"))
        };
        match key {
            "sslmode" => {
                self.tls = Some(match value {
                    "disable" => Tls::Off,
                    "allow" | "prefer" => Tls::Prefer,
                    "require" => Tls::Require,
                    "verify-ca" => Tls::VerifyCa,
                    "verify-full" => Tls::VerifyFull,
                    _ => {
                        return Err("sslmode is one of disable, prefer, require, verify-ca and verify-full"
                            .to_owned());
                    }
                });
            }
            // libpq's word for the authorities that the machine believes; here they are built in.
            "sslrootcert" if value == "system" => {}
            "sslrootcert" => self.root_file = Some(text()?.into()),
            "passfile" => self.pass_file = Some(text()?.into()),
            "sslcert" => self.cert = Some(text()?.into()),
            "sslkey" => self.key = Some(text()?.into()),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// What the parser says, with its cause, which names a parameter and never its value.
fn in_words(error: &tokio_postgres::Error) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::Host;

    use super::*;

    fn target(url: &str) -> Target {
        Target::parse(url).unwrap_or_else(|why| panic!("{url}: {why}"))
    }

    #[test]
    fn the_server_must_prove_what_sslmode_says() {
        let check = |parameters: &str, tls: Tls, mode: SslMode| {
            let target = target(&format!("postgres://me@host/db{parameters}"));
            assert_eq!((target.tls, target.config.get_ssl_mode()), (tls, mode), "{parameters}");
        };
        check("", Tls::Prefer, SslMode::Prefer);
        check("?sslmode=disable", Tls::Off, SslMode::Disable);
        check("?sslmode=allow", Tls::Prefer, SslMode::Prefer);
        check("?sslmode=require", Tls::Require, SslMode::Require);
        check("?sslmode=verify-ca", Tls::VerifyCa, SslMode::Require);
        check("?sslmode=verify-full", Tls::VerifyFull, SslMode::Require);
        check("?sslmode=verify-full&sslrootcert=system", Tls::VerifyFull, SslMode::Require);
        check("?sslrootcert=/ca.pem&sslmode=require", Tls::VerifyCa, SslMode::Require);
    }

    #[test]
    fn files_are_decoded_and_the_rest_is_passed_on() {
        let target = target(
            "postgres://me:pw@host:5433/db?sslrootcert=%2Fmy%20ca.pem&application_name=x&sslcert=a&sslkey=b",
        );
        assert_eq!(target.root_file, Some("/my ca.pem".into()));
        assert_eq!(target.own_files, Some(("a".into(), "b".into())));
        assert_eq!(target.config.get_application_name(), Some("x"));
        assert_eq!(target.config.get_ports(), [5433]);
        assert_eq!(target.config.get_dbname(), Some("db"));
    }

    #[test]
    fn without_a_host_it_is_this_machines_server() {
        for url in ["postgres:///db", "postgresql:///db?user=me"] {
            assert_eq!(target(url).config.get_hosts(), [Host::Unix(SOCKET_DIR.into())], "{url}");
        }
        let other = target("postgres:///db?host=/tmp");
        assert_eq!(other.config.get_hosts(), [Host::Unix("/tmp".into())]);
    }

    #[test]
    fn a_dead_peer_is_noticed_unless_told_otherwise() {
        let given = target("postgres://host/db");
        assert_eq!(given.config.get_connect_timeout(), Some(&CONNECT_WITHIN));
        assert_eq!(given.config.get_tcp_user_timeout(), Some(&SENT_WITHIN));
        assert_eq!(given.config.get_keepalives_idle(), KEEPALIVE_IDLE);
        let told = target("postgres://host/db?connect_timeout=3&keepalives_idle=60&tcp_user_timeout=5");
        assert_eq!(told.config.get_connect_timeout(), Some(&Duration::from_secs(3)));
        assert_eq!(told.config.get_tcp_user_timeout(), Some(&Duration::from_secs(5)));
        assert_eq!(told.config.get_keepalives_idle(), Duration::from_secs(60));
    }

    #[test]
    fn what_is_wrong_is_said_without_values() {
        for (url, says) in [
            ("postgres://me:secret@host/db?sslmode=secret", "sslmode is one of"),
            ("postgres://me:secret@host/db?nonsense=secret", "nonsense"),
            ("postgres://me:secret@host/db?sslcert=secret", "go together"),
            ("postgres://me:secret@host:secret/db", "port"),
            ("postgres://me:secret@host/db?secret", "no value"),
            ("postgres://me:secret@host/db?connect_timeout=secret", "connect_timeout"),
        ] {
            let why = Target::parse(url).map(drop).unwrap_err();
            assert!(why.contains(says) && !why.contains("secret"), "{url}: {why}");
        }
    }
}
