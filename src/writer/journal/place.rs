//! Which file is the spool of which database. Pure.

use std::path::{Path, PathBuf};

use crate::store::DatabaseUrl;

/// Longest part of a server's address that goes into the name, in characters.
const NAME_CHARS_MAX: usize = 80;
/// What every spool's name ends in.
const ENDING: &str = ".spool";

/// Processes that stand by for each other in one folder at most; each has a spool of its own.
const SPOOLS_MAX: usize = 8;

/// The journals that a database may have: one beside an SQLite file, which one process collects into; of a
/// server one for each of those that stand by for each other here.
pub fn paths(database: &DatabaseUrl, folder: Option<&Path>) -> Vec<PathBuf> {
    let first = path(database, folder);
    if database.sqlite_path().is_some() {
        return vec![first];
    }
    let numbered = |number: usize| PathBuf::from(format!("{}-{number}", first.display()));
    [first.clone()].into_iter().chain((2..=SPOOLS_MAX).map(numbered)).collect()
}

/// The journal of a database: in `folder`, else beside an SQLite file, else in the working
/// directory. The name is the file's, or a server's address without user and password; in a folder that
/// several databases may share, with a sum of the file's path.
fn path(database: &DatabaseUrl, folder: Option<&Path>) -> PathBuf {
    let (beside, name) = match database.sqlite_path() {
        Some(file) => {
            let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let sum = crc32fast::hash(file.as_os_str().as_encoded_bytes());
            let name = if folder.is_some() { format!("{name}-{sum:08x}") } else { name };
            (file.parent().map(Path::to_owned), name)
        }
        None => (None, server_name(&database.to_string())),
    };
    folder.map(Path::to_owned).or(beside).unwrap_or_default().join(name + ENDING)
}

/// A name for `postgres://user@host:5432/name`: readable, and another for another address.
fn server_name(shown: &str) -> String {
    let place = shown.split_once("://").map_or(shown, |(_, rest)| rest);
    let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '_' };
    let name: String = place.chars().take(NAME_CHARS_MAX).map(plain).collect();
    format!("postgres-{}-{:08x}", name.trim_matches('.'), crc32fast::hash(place.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, folder: Option<&str>, expected: &str) {
        let found = path(&url.parse().unwrap(), folder.map(Path::new));
        assert_eq!(found, PathBuf::from(expected), "{url}");
    }

    #[test]
    fn a_file_s_spool_lies_beside_it() {
        check("sqlite://candlekeep.db", None, "candlekeep.db.spool");
        check("sqlite:////var/lib/c.db", None, "/var/lib/c.db.spool");
        check("sqlite:////var/lib/c.db", Some("/spool"), "/spool/c.db-48099aef.spool");
        let [one, other] = ["sqlite:////a/c.db", "sqlite:////b/c.db"]
            .map(|url| path(&url.parse().unwrap(), Some(Path::new("/spool"))));
        assert_ne!(one, other);
        assert_eq!(paths(&"sqlite://c.db".parse().unwrap(), None).len(), 1);
    }

    #[test]
    fn a_server_s_spool_has_a_name_of_its_own_and_no_secret() {
        let of = |url: &str| path(&url.parse().unwrap(), None).to_string_lossy().into_owned();
        let several = paths(&"postgres://h/a".parse().unwrap(), None);
        assert_eq!(several.len(), SPOOLS_MAX);
        assert!(several[1].to_string_lossy().ends_with(".spool-2"));
        let name = of("postgres://me:secret@db.example.org:5432/candles");
        assert!(name.starts_with("postgres-db.example.org_5432_candles-"), "{name}");
        assert!(!name.contains("secret") && !name.contains("me@"));
        // Who asks is not what is asked.
        assert_eq!(name, of("postgresql://other@db.example.org:5432/candles?sslmode=require"));
        assert_ne!(of("postgres://h/a_b"), of("postgres://h/a-b"));
        assert_ne!(of("postgres://h/a/b"), of("postgres://h/a_b"));
        assert!(of("postgres:///..").starts_with("postgres-"));
        check("postgres://h/c", Some("/spool"), &format!("/spool/{}", of("postgres://h/c")));
    }
}
