//! The database, its files, and the service that collects into it. Pure.

use std::path::{Path, PathBuf};

use super::listed;
use crate::commands::doctor::check::Check;
use crate::commands::status::no_sign_of_life;
use crate::exit::Exit;
use crate::store::{LeaseState, ServerFacts, StoreError};
use crate::supervisor::chronicle::LastRun;

/// What a run ends with that no restart mends.
const REFUSED: u8 = Exit::CredentialsRefused.code();
const MISCONFIGURED: u8 = Exit::Configuration.code();

/// How the database is.
pub fn database(place: &str, opened: Result<Option<&str>, &StoreError>, environment: &str) -> Check {
    let error = match opened {
        Ok(Some(bound)) if bound != environment => {
            let state =
                format!("{place} belongs to environment {bound}, the configuration says {environment}");
            return Check::fix(
                "database",
                state,
                "change ig.account_type or ig.api_url, or name another in database.url",
            );
        }
        Ok(_) => return Check::ok("database", format!("{place}, its schema is this program's")),
        Err(StoreError::Absent { .. }) => {
            return Check::ok("database", format!("none yet at {place}, `candlekeep run` makes it"));
        }
        Err(error) => error,
    };
    let mend = match error {
        StoreError::OlderSchema { .. } => {
            return Check::warn("database", error.to_string(), "candlekeep run");
        }
        StoreError::NotOurs { .. } => "name another file in database.url",
        StoreError::NewerSchema { .. } => "install the newer candlekeep again",
        StoreError::HalfCopied { .. } => "candlekeep copy --replace",
        StoreError::Corrupt { .. } => RESTORE,
        StoreError::Busy { .. } => "end what holds its lock",
        StoreError::Unreachable { .. } => "bring the server back, or change database.url",
        _ => "look at the path in database.url and at who may read it",
    };
    Check::fix("database", error.to_string(), mend)
}

const RESTORE: &str =
    "stop the service and put a backup in its place (candlekeep backup --help), what came since is healed";

/// Whether the file is sound; `None`: it was not looked through in time.
pub fn integrity(found: Option<Result<Vec<String>, StoreError>>, within_s: u64) -> Check {
    match found {
        Some(Ok(findings)) if findings.is_empty() => Check::ok("integrity", "SQLite finds the file sound"),
        Some(Ok(findings)) => {
            Check::fix("integrity", format!("the file is damaged: {}", findings.join("; ")), RESTORE)
        }
        Some(Err(error @ StoreError::Corrupt { .. })) => Check::fix("integrity", error.to_string(), RESTORE),
        Some(Err(error)) => Check::warn("integrity", format!("cannot be looked at: {error}"), "try again"),
        None => Check::ok("integrity", format!("not looked through: it takes longer than {within_s} s")),
    }
}

/// Whether ledger and bars agree: how many things do not, and the first of them.
pub fn ledger(found: Option<Result<(u64, Option<String>), String>>, within_s: u64) -> Check {
    match found {
        Some(Ok((0, _))) => Check::ok("ledger", "every bucket is accounted for once"),
        Some(Ok((count, first))) => {
            let state = format!("{count} things do not fit, first: {}", first.unwrap_or_default());
            Check::fix("ledger", state, "candlekeep gaps --verify")
        }
        Some(Err(why)) => {
            Check::warn("ledger", format!("cannot be looked at: {why}"), "candlekeep gaps --verify")
        }
        None => Check::ok(
            "ledger",
            format!("not looked through within {within_s} s: `candlekeep gaps --verify` does"),
        ),
    }
}

/// What a PostgreSQL server lets this user do.
pub fn server(facts: &ServerFacts) -> Check {
    let ServerFacts { version, may_write, may_create, is_replica } = facts;
    let version = format!("PostgreSQL {version}");
    if *is_replica {
        let state = format!("{version} is a replica, which takes no bars");
        return Check::fix("server", state, "name the primary in database.url");
    }
    if !may_write {
        let state = format!("{version} does not let this user change candles");
        return Check::fix(
            "server",
            state,
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO the user",
        );
    }
    if !may_create {
        let state = format!("{version} does not let this user make tables, which the next schema may need");
        return Check::warn("server", state, "GRANT CREATE ON SCHEMA public TO the user");
    }
    Check::ok("server", format!("{version}, this user may do all that is needed"))
}

/// On what an SQLite file lies that cannot keep it safe; `kind` is the file system's magic number (statfs(2)).
pub fn file_system(path: &Path, kind: u64) -> Option<Check> {
    let network = match kind {
        0x6969 => "NFS",
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x0102_1997 => "9P",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x00c3_6400 => "Ceph",
        0x0bd0_0bd0 => "Lustre",
        0x7461_636f => "OCFS2",
        0x6573_5546 => "FUSE, which may be a network's",
        0x0102_1994 => {
            let state = format!(
                "{} lies in memory (tmpfs) and is gone with the next start of the machine",
                path.display()
            );
            return Some(Check::warn("file system", state, "name a file on a disk in database.url"));
        }
        _ => return None,
    };
    let state =
        format!("{} lies on {network}: SQLite's locks and its log are not safe there", path.display());
    Some(Check::warn("file system", state, "name a file on a local disk in database.url, or use PostgreSQL"))
}

/// Whether facts wait for the database; none where nobody has ever had to wait.
pub fn spool(facts: Option<u64>, is_collecting: bool) -> Option<Check> {
    let facts = facts?;
    let state = format!("{facts} facts wait for the database");
    Some(match (facts, is_collecting) {
        (0, _) => Check::ok("spool", "empty"),
        (_, true) => Check::fix(
            "spool",
            format!("{state}, which takes nothing"),
            "end what holds its lock, make room on its disk, or bring its server back",
        ),
        (_, false) => Check::fix("spool", state, "candlekeep run, whose start stores them"),
    })
}

/// Whether a service runs and lives, or how its last run ended; `told` says so in words.
/// `spooled`: facts that wait for the database.
pub fn service(lease: Option<&LeaseState>, run: Option<&LastRun>, told: String, spooled: u64) -> Check {
    let warn = |mend: &str| Check::warn("service", told.clone(), mend);
    match (lease, run) {
        (Some(lease), _) if lease.alive => match lease.silent_s() {
            Some(silent_s) if spooled > 0 => Check::warn(
                "service",
                format!("{told}; {}", no_sign_of_life(silent_s)),
                format!(
                    "what the line on the spool says, and leave the service alone; kill -CONT {} if somebody has stopped it",
                    lease.pid
                ),
            ),
            Some(silent_s) => Check::warn(
                "service",
                format!("{told}; {}", no_sign_of_life(silent_s)),
                format!(
                    "kill -CONT {} if somebody has stopped it, else systemctl restart candlekeep",
                    lease.pid
                ),
            ),
            None => Check::ok("service", told),
        },
        (_, Some(run)) if run.is_well() => Check::ok("service", told),
        (_, Some(LastRun { end: Some(end), .. })) => warn(match end.exit {
            REFUSED => "change IG_API_KEY, IG_USERNAME or IG_PASSWORD, then systemctl restart candlekeep",
            MISCONFIGURED => "change what it names, then systemctl restart candlekeep",
            _ => "journalctl -u candlekeep -e shows what came before",
        }),
        (_, Some(LastRun { end: None, .. })) => {
            warn("candlekeep run goes on from there; journalctl -u candlekeep -e shows what came before")
        }
        (Some(lease), None) if !lease.released => warn("candlekeep run, which goes on from there"),
        _ => Check::ok("service", told),
    }
}

/// How its stream stands, and what keeps it from healing.
pub fn of_the_service(
    logins: Option<&str>,
    stream: Option<(&str, &str)>,
    refused: &[String],
    trouble: Option<&str>,
) -> Vec<Check> {
    let mut checks = Vec::new();
    if let Some(failed) = logins {
        checks.push(Check::warn("login", failed.to_owned(), "candlekeep status says when the next is made"));
    }
    match stream {
        Some(("streaming", since)) => checks.push(Check::ok("stream", format!("streaming since {since}"))),
        Some((phase, since)) => {
            checks.push(Check::warn(
                "stream",
                format!("{phase} since {since}"),
                "candlekeep status tells more",
            ));
        }
        None => {}
    }
    if !refused.is_empty() {
        let state = format!("IG does not stream {}", listed(refused));
        checks.push(Check::fix("epics", state, "pairs.NAME = \"EPIC\", or pairs.NAME = false"));
    }
    if let Some(trouble) = trouble {
        checks.push(Check::warn("healing", format!("held up: {trouble}"), "candlekeep status tells more"));
    }
    checks
}

/// The files of an SQLite database: itself first, then what lies beside it.
pub fn files_of(database: &Path, spools: &[PathBuf]) -> Vec<PathBuf> {
    let beside = ["-wal", "-shm", ".lock"].map(|ending| crate::files::beside(database, ending));
    std::iter::once(database.to_owned()).chain(beside).chain(spools.iter().cloned()).collect()
}
