//! Where the database is. Pure.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::postgres::Target;

/// Where the database is, as `database.url` says it.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(Place);

#[derive(Clone, PartialEq, Eq)]
enum Place {
    Sqlite(PathBuf),
    Postgres(String),
}

/// A text that is no address of a database. Shows no more of it than its scheme, since the rest
/// may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotADatabaseUrl {
    /// Neither kind of database.
    #[error(
        "not a database address: write sqlite://file.db, sqlite:////absolute/path/file.db or postgres://user@host/name"
    )]
    UnknownScheme,
    /// `sqlite://` and nothing usable after it.
    #[error(
        "not an SQLite file: write sqlite://file.db or sqlite:////absolute/path/file.db, without parameters"
    )]
    NotAFile,
    /// `postgres://` and something that PostgreSQL's clients do not understand.
    #[error("not a PostgreSQL address: {0}")]
    NotAServer(String),
}

impl DatabaseUrl {
    /// The address of an SQLite file.
    pub fn sqlite(path: impl Into<PathBuf>) -> DatabaseUrl {
        DatabaseUrl(Place::Sqlite(path.into()))
    }

    /// The file, if it is SQLite's.
    pub fn sqlite_path(&self) -> Option<&Path> {
        match &self.0 {
            Place::Sqlite(path) => Some(path),
            Place::Postgres(_) => None,
        }
    }

    /// Whether it holds a password.
    pub fn has_password(&self) -> bool {
        matches!(self.place(), Whereabouts::Server(target) if target.config.get_password().is_some())
    }

    /// What to connect to.
    pub(super) fn place(&self) -> Whereabouts<'_> {
        match &self.0 {
            Place::Sqlite(path) => Whereabouts::File(path),
            Place::Postgres(url) => {
                let target = Target::parse(url);
                Whereabouts::Server(Box::new(target.expect("it was parsed when this was made")))
            }
        }
    }
}

/// What to open.
pub(super) enum Whereabouts<'a> {
    /// An SQLite file.
    File(&'a Path),
    /// A PostgreSQL server.
    Server(Box<Target>),
}

impl FromStr for DatabaseUrl {
    type Err = NotADatabaseUrl;

    /// Accepts `sqlite://relative.db`, `sqlite:////absolute.db`, `sqlite:///absolute.db`,
    /// `postgres://…` and `postgresql://…`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            Target::parse(text).map_err(NotADatabaseUrl::NotAServer)?;
            return Ok(DatabaseUrl(Place::Postgres(text.to_owned())));
        }
        let path = text.strip_prefix("sqlite://").ok_or(NotADatabaseUrl::UnknownScheme)?;
        // Four slashes are the documented spelling of an absolute path, three are what comes out
        // of gluing scheme and path together.
        let path = if path.starts_with("//") { &path[1..] } else { path };
        // A parameter taken for a part of the name would quietly make another file, and a
        // database in memory would keep nothing.
        if path.is_empty() || path.ends_with('/') || path.contains(['?', '#', '\0']) || path == ":memory:" {
            return Err(NotADatabaseUrl::NotAFile);
        }
        Ok(DatabaseUrl::sqlite(path))
    }
}

impl fmt::Display for DatabaseUrl {
    /// The address without password and parameters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Sqlite(path) if path.is_absolute() => write!(f, "sqlite:///{}", path.display()),
            Place::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            Place::Postgres(url) => {
                let (scheme, rest) = url.split_once("://").unwrap_or(("postgres", ""));
                // Up to the last '@': a password that was not percent-encoded may hold '/', '?'
                // and '@', and whatever stands before the host is secret.
                let (user, place) = match rest.rsplit_once('@') {
                    Some((user_info, place)) => (user_info.split(':').next(), place),
                    None => (None, rest),
                };
                // Parameters may hold a password too.
                let place = place.split(['?', '#']).next().unwrap_or_default();
                write!(f, "{scheme}://")?;
                if let Some(user) = user {
                    write!(f, "{user}@")?;
                }
                f.write_str(place)
            }
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_path(text: &str, expected: Option<&str>) {
        let url = text.parse::<DatabaseUrl>();
        let path = url.ok().and_then(|url| url.sqlite_path().map(Path::to_owned));
        assert_eq!(path, expected.map(PathBuf::from), "{text}");
    }

    #[test]
    fn sqlite_files() {
        check_path("sqlite://candlekeep.db", Some("candlekeep.db"));
        check_path("sqlite://data/candles.db", Some("data/candles.db"));
        check_path("sqlite:////var/lib/c.db", Some("/var/lib/c.db"));
        check_path("sqlite:///var/lib/c.db", Some("/var/lib/c.db"));
        check_path(" sqlite://a b.db\n", Some("a b.db"));
        for text in
            ["", "c.db", "sqlite:c.db", "sqlite://", "sqlite:///", "sqlite://c.db?mode=rwc", "mysql://h/d"]
        {
            check_path(text, None);
        }
        check_path("sqlite://:memory:", None);
    }

    fn check_shown(text: &str, expected: &str) {
        let url: DatabaseUrl = text.parse().unwrap();
        assert_eq!(url.to_string(), expected);
        assert_eq!(format!("{url:?}"), expected);
    }

    #[test]
    fn no_password_is_shown() {
        check_shown("postgres://me:secret@host:5432/candles", "postgres://me@host:5432/candles");
        check_shown("postgresql://me@host/candles", "postgresql://me@host/candles");
        check_shown("postgres://host/candles?password=secret", "postgres://host/candles");
        check_shown("postgres://me:se@cr/et@host/candles", "postgres://me@host/candles");
        check_shown("postgres:///candles", "postgres:///candles");
    }

    #[test]
    fn a_file_is_shown_as_it_can_be_written() {
        check_shown("sqlite://candlekeep.db", "sqlite://candlekeep.db");
        check_shown("sqlite:////var/lib/c.db", "sqlite:////var/lib/c.db");
        check_shown("sqlite:///var/lib/c.db", "sqlite:////var/lib/c.db");
    }
}
