//! What the findings mean: each function takes what was found and answers with the line to print. Pure.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::check::Check;
use super::machine::{FileFacts, Me, Room};
use crate::commands::margin::lasting;
use crate::commands::status::no_sign_of_life;
use crate::config::keys::SECRETS;
use crate::config::{Access, Config, ConfigError, Exposure, Meant, SecretFrom};
use crate::domain::scale::Verdict;
use crate::domain::{Timeframe, Timestamp};
use crate::exit::Exit;
use crate::ig::IgError;
use crate::ig::markets::{Instrument, Listing};
use crate::ig::rest::{Hurdle, NoWay};
use crate::skew::WARN_FROM_MS;
use crate::store::{AllowanceState, LeaseState, ServerFacts, StoreError};
use crate::supervisor::chronicle::LastRun;
use crate::tls::Mistrust;
use crate::writer::journal::JOURNAL_BYTES_MAX;

/// Free space below this is to be mended: as much as the spool may take while the database is away.
pub const SPACE_MIN_BYTES: u64 = JOURNAL_BYTES_MAX;
/// Free space for fewer days of bars than this is warned about.
pub const SPACE_MIN_DAYS: u64 = 30;
/// What a bar takes in the database, bytes: twice the 205 that a file of 62,000 took with keys and ledger, for what is
/// corrected, copied before a migration, or waits in SQLite's log.
pub const BAR_BYTES: u64 = 400;
/// Fewer free inodes than this are to be mended: the files of the database, its log, lock and spool.
const INODES_MIN: u64 = 16;
/// Fewer are warned about.
const INODES_FEW: u64 = 1_000;
/// Descriptors that the service itself needs: standard streams, the database's files and anchor, lock and spool, polls
/// and wake-ups of each thread, sockets to IG and where it listens; some twice what a collecting service has open, for
/// copies, reconnects and readers of the HTTP interface.
const DESCRIPTORS_MIN: u64 = 64;
/// Fewer are too few once as many clients of the HTTP interface are there as are let in.
const DESCRIPTORS_FEW: u64 = DESCRIPTORS_MIN + crate::api::CLIENT_DESCRIPTORS_MAX;
/// A clock that differs from IG's by more than this ends the service (DESIGN, clocks), ms.
const CLOCK_OFF_MAX_MS: i64 = 3_600_000;
/// No clock is right that shows an earlier time: 2025-01-01.
const WRITTEN_AFTER: Timestamp = Timestamp(1_735_689_600);
/// What a run ends with that no restart mends.
const REFUSED: u8 = Exit::CredentialsRefused.code();
const MISCONFIGURED: u8 = Exit::Configuration.code();
/// Names of pairs that a line tells; more are counted.
const NAMES_MAX: usize = 6;

/// What was read.
pub fn configuration(config: &Config) -> Check {
    let from = match &config.origin.file {
        Some(file) => file.display().to_string(),
        None => "no file, defaults and environment".to_owned(),
    };
    let (environment, pairs) = (config.ig.environment.as_str(), config.pairs().count());
    Check::ok("configuration", format!("{from}: {environment} account, {pairs} pairs"))
}

/// What is wrong with the configuration, and the key to change.
pub fn misconfigured(error: &ConfigError) -> Check {
    let mend = match error {
        ConfigError::Unreadable { path, mend, .. } => {
            let mend = mend.clone().unwrap_or_else(|| format!("ls -l {path}"));
            format!("{mend}; or name another file with --config")
        }
        ConfigError::Malformed { path, line, .. } => format!("mend line {line} of {path}"),
        ConfigError::UnknownKey { key, meant: Meant::Nearest(nearest), .. } => {
            format!("write {nearest} in place of {key}, or remove it")
        }
        ConfigError::UnknownKey { key, meant: Meant::OneOf(_), .. } => {
            format!("write one of these in place of {key}, or remove it")
        }
        ConfigError::UnknownVariable { name, nearest } => format!("set {nearest}, and unset {name}"),
        ConfigError::SecretInFile { key, variable, .. } => format!("remove {key}, and set {variable}"),
        ConfigError::Invalid { place, .. } => {
            format!("change {}", place.rsplit(": ").next().unwrap_or(place))
        }
        ConfigError::MissingCredentials { names, .. } => format!("set {names}"),
    };
    Check::fix("configuration", error.to_string(), mend)
}

/// What leaves the machine in the clear.
pub fn in_the_clear(config: &Config) -> Option<Check> {
    let state = "password and tokens go over a network in the clear";
    config.ig.is_in_the_clear().then(|| Check::warn("configuration", state, "write https in ig.api_url"))
}

/// A file with a secret that others can read.
pub fn exposure(exposure: &Exposure) -> Check {
    Check::warn("permissions", exposure.state(), exposure.mend())
}

/// Whether this user can write what the service writes: the folder, and the files of the database in it.
pub fn permissions(me: &Me, folder: &FileFacts, files: &[FileFacts]) -> Check {
    let fix = |state: String, mend: String| Check::fix("permissions", state, mend);
    let shown = |path: &Path| path.display().to_string();
    let Some(access) = folder.access else {
        let path = shown(&folder.path);
        return fix(format!("there is no folder {path}"), format!("mkdir -p {path}"));
    };
    let names = |which: &dyn Fn(&FileFacts) -> bool| {
        let found: Vec<_> = files.iter().filter(|file| which(file)).map(|file| shown(&file.path)).collect();
        (!found.is_empty()).then(|| found.join(" "))
    };
    // Root may write everything, so it is asked about whoever has the folder.
    let (owner, name) =
        if me.is_root() { (access.owner, me.name_of(access.owner)) } else { (me.user, me.name_of(me.user)) };
    if !me.is_root() && !folder.is_writable {
        let path = shown(&folder.path);
        return fix(format!("{name} cannot write {path}"), format!("sudo chown {name} {path}"));
    }
    let is_anothers = |file: &FileFacts| file.access.is_some_and(|access| access.owner != owner);
    let cannot = |file: &FileFacts| file.access.is_some() && !file.is_writable;
    if let Some(names) = names(&|file| is_anothers(file) && (me.is_root() || cannot(file))) {
        return fix(format!("not {name}'s: {names}"), format!("sudo chown {name} {names}"));
    }
    if let Some(names) = names(&cannot) {
        return fix(format!("{name} cannot write {names}"), format!("chmod u+rw {names}"));
    }
    Check::ok(
        "permissions",
        format!("{name} can write {} and what the service has in it", shown(&folder.path)),
    )
}

/// Whether the group, whose members bots may be, can read an SQLite database; none while there is no file.
pub fn readers(me: &Me, folder: &FileFacts, files: &[FileFacts]) -> Option<Check> {
    let has =
        |file: &FileFacts, bits: u32| file.access.is_some_and(|access: Access| access.mode & bits == bits);
    let (database, beside) = files.split_first()?;
    database.access?;
    let group = me.group_of(database.group);
    let (path, folder_path) = (database.path.display(), folder.path.display());
    if database.group == 0 {
        // Nobody is to be told to make a bot a member of that.
        let how = format!("sudo chgrp BOTS {folder_path} {path}* lets those of a group BOTS");
        return Some(Check::ok("readers", format!("root's group alone reads the database; {how}")));
    }
    if !has(database, 0o040) {
        let how = format!("chmod g+r {path}* lets bots of group {group} do so");
        return Some(Check::ok("readers", format!("its owner alone reads the database; {how}")));
    }
    if !has(folder, 0o010) {
        let state = format!("group {group} may read the database, and cannot get to it");
        return Some(Check::warn("readers", state, format!("chmod g+rx {folder_path}")));
    }
    let hidden = |file: &&FileFacts| {
        let name = file.path.to_string_lossy();
        (name.ends_with("-wal") || name.ends_with("-shm")) && file.access.is_some() && !has(file, 0o040)
    };
    if let Some(file) = beside.iter().find(hidden) {
        let state = format!(
            "group {group} cannot read {}, without which the database does not open",
            file.path.display()
        );
        return Some(Check::warn("readers", state, format!("chmod g+r {}", file.path.display())));
    }
    Some(Check::ok(
        "readers",
        format!("group {group} reads the database; sudo usermod -aG {group} BOT lets a bot in"),
    ))
}

/// Whether the credentials are all there, from where, and whether IG has refused them before.
pub fn credentials(
    given: Result<(), &ConfigError>,
    from: &[Option<SecretFrom>; SECRETS.len()],
    are_refused: bool,
) -> Check {
    if let Err(error) = given {
        let (state, mend) = match error {
            ConfigError::MissingCredentials { names, hint } => (
                format!("missing: {names}{hint}"),
                format!("set {names} in the environment, or NAME_FILE, or systemd's LoadCredential"),
            ),
            ConfigError::Unreadable { path, mend, .. } => {
                (error.to_string(), mend.clone().unwrap_or_else(|| format!("ls -l {path}")))
            }
            _ => (error.to_string(), "unset one of the two, or fill the file".to_owned()),
        };
        return Check::fix("credentials", state, mend);
    }
    if are_refused {
        return Check::fix(
            "credentials",
            "IG has refused exactly these before, and they are not tried again, since it locks accounts",
            "change IG_API_KEY, IG_USERNAME or IG_PASSWORD, or `candlekeep run --retry-credentials`",
        );
    }
    if from.iter().all(|from| matches!(from, None | Some(SecretFrom::Variable))) {
        return Check::ok("credentials", "all there, from the environment");
    }
    let mut told = String::new();
    for (name, from) in SECRETS.iter().zip(from) {
        let from = match from {
            None | Some(SecretFrom::Variable) => "the environment".to_owned(),
            Some(SecretFrom::File(path) | SecretFrom::Systemd(path)) => path.display().to_string(),
        };
        let separator = if told.is_empty() { "" } else { ", " };
        write!(told, "{separator}{name} from {from}").expect("a String takes any text");
    }
    Check::ok("credentials", told)
}

/// Whether the system's clock can be right: not before this was written, nor before what has happened.
pub fn clock(now: Timestamp, newest: Option<Timestamp>, is_synchronised: Option<bool>) -> Check {
    let mend = "sudo timedatectl set-ntp true, or set the clock";
    if now < WRITTEN_AFTER {
        let state = format!("it shows {now}, which is before this program was written");
        return Check::fix("clock", state, mend);
    }
    if let Some(newest) = newest.filter(|newest| now < *newest) {
        return Check::fix("clock", format!("it shows {now}, and the newest bar is of {newest}"), mend);
    }
    match is_synchronised {
        Some(false) => Check::warn("clock", format!("it shows {now}, and nobody sets it right"), mend),
        Some(true) => Check::ok("clock", format!("{now}, synchronised")),
        None => Check::ok("clock", format!("{now}; whether it is synchronised cannot be told here")),
    }
}

/// By how much the system's clock is ahead of IG's, between the two, ms.
pub fn clock_of_ig((low_ms, high_ms): (i64, i64)) -> Check {
    let mend = "sudo timedatectl set-ntp true, or set the clock";
    let off_ms = if low_ms > 0 { low_ms } else { high_ms.min(0) };
    let words =
        format!("{} {}", lasting(off_ms.abs() / 1_000), if off_ms > 0 { "ahead of" } else { "behind" });
    if off_ms.abs() >= CLOCK_OFF_MAX_MS {
        let state = format!("the system's clock is {words} IG's, with which the service does not run");
        return Check::fix("clock of IG", state, mend);
    }
    if off_ms.abs() > WARN_FROM_MS {
        return Check::warn(
            "clock of IG",
            format!("the system's clock is {words} IG's, which is corrected for"),
            mend,
        );
    }
    Check::ok("clock of IG", "agrees with the system's")
}

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

/// Bytes that a day of bars takes.
pub fn bytes_a_day(pairs: usize, timeframes: &[Timeframe]) -> u64 {
    let bars: i64 = timeframes.iter().map(|timeframe| 86_400 / timeframe.seconds()).sum();
    pairs as u64 * bars.unsigned_abs() * BAR_BYTES
}

/// Whether there is room where something is written; `day_bytes` is what a day of bars takes there.
pub fn space(what: &str, room: &Room, day_bytes: u64) -> Check {
    let Room { path, bytes, inodes } = room;
    let mib = bytes >> 20;
    let days = bytes.saturating_sub(SPACE_MIN_BYTES) / day_bytes.max(1);
    let place = format!("{} ({what})", path.display());
    let mend = format!("make room there: du -xh {} | sort -h | tail", path.display());
    if *bytes < SPACE_MIN_BYTES {
        let state =
            format!("{mib} MiB are free at {place}, less than the {} that are needed", SPACE_MIN_BYTES >> 20);
        return Check::fix("space", state, mend);
    }
    if let Some(inodes) = inodes.filter(|inodes| *inodes < INODES_FEW) {
        let state = format!("{inodes} more files can be made at {place}");
        let mend = format!("remove files there: df -i {}", path.display());
        return match inodes < INODES_MIN {
            true => Check::fix("space", state, mend),
            false => Check::warn("space", state, mend),
        };
    }
    if days < SPACE_MIN_DAYS {
        return Check::warn("space", format!("{mib} MiB are free at {place}, enough for {days} days"), mend);
    }
    let years = days / 365;
    let time = if years > 1 { format!("{years} years") } else { format!("{days} days") };
    Check::ok("space", format!("{mib} MiB are free at {place}, enough for {time}"))
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

/// Whether enough descriptors may be open; `None`: as many as one likes.
pub fn descriptors(most: Option<u64>) -> Check {
    let mend = "LimitNOFILE=1024 in the unit, or ulimit -n 1024";
    match most {
        Some(most) if most < DESCRIPTORS_MIN => {
            Check::fix("descriptors", format!("{most} files and sockets may be open at once"), mend)
        }
        Some(most) if most < DESCRIPTORS_FEW => {
            Check::warn("descriptors", format!("{most} files and sockets may be open at once"), mend)
        }
        Some(most) => Check::ok("descriptors", format!("{most} files and sockets may be open at once")),
        None => Check::ok("descriptors", "as many files and sockets may be open as are needed"),
    }
}

/// How listening where the HTTP interface is to be was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listening {
    /// It worked.
    Free,
    /// Somebody does already.
    InUse(Answerer),
    /// This machine has no such address.
    NoSuchAddress,
    /// This user may not.
    Forbidden,
    /// Something else.
    Failed,
}

/// Who listens where the HTTP interface is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answerer {
    /// A service like ours, and the number of its process; none where it wants a token to tell.
    Service(Option<i64>),
    /// Another program.
    Stranger,
    /// Somebody who takes the question and does not answer.
    Silent,
}

impl Answerer {
    /// Who answers `/healthz` with this body.
    pub fn of(body: &str) -> Answerer {
        let told: Value = serde_json::from_str(body.trim()).unwrap_or_default();
        match (&told["version"], &told["pid"], &told["error"]) {
            (Value::String(_), Value::Number(pid), _) => Answerer::Service(pid.as_i64()),
            (_, _, Value::String(error)) if error == "unauthorized" => Answerer::Service(None),
            _ => Answerer::Stranger,
        }
    }
}

/// Who could have the address of the HTTP interface.
#[derive(Clone, Copy, Debug)]
pub struct Ours<'a> {
    /// The processes that collect into this database, or stand by.
    pub processes: &'a [i64],
    /// One of them collects.
    pub is_collecting: bool,
    /// It shows no sign of life, or has said itself that it serves there.
    pub may_be_frozen: bool,
}

/// Whether the HTTP interface has its address.
pub fn http(address: SocketAddr, listening: Listening, ours: Ours<'_>) -> Check {
    let Ours { processes, is_collecting, may_be_frozen } = ours;
    let port = address.port();
    let taken = |who: String| {
        let mend = format!("`ss -ltnp sport = :{port}` shows it; http.listen names another address");
        // What is collected does not depend on it.
        let judge = if is_collecting { Check::warn } else { Check::fix };
        judge("http", format!("{who} listens on {address}"), mend)
    };
    match listening {
        Listening::Free if is_collecting => {
            Check::ok("http", format!("{address} is free; the service does not listen there"))
        }
        Listening::Free => Check::ok("http", format!("{address} is free")),
        Listening::InUse(Answerer::Service(Some(pid))) if processes.contains(&pid) => {
            Check::ok("http", format!("{address} is the service's, pid {pid}"))
        }
        Listening::InUse(Answerer::Service(None)) if is_collecting => {
            Check::ok("http", format!("a service listens on {address} and wants its token"))
        }
        Listening::InUse(Answerer::Service(Some(pid))) => {
            taken(format!("the service of another database, pid {pid},"))
        }
        Listening::InUse(Answerer::Service(None)) => taken("another service".to_owned()),
        Listening::InUse(Answerer::Silent) if may_be_frozen => Check::warn(
            "http",
            format!("nobody answers on {address}: it is the service's, which is frozen or overwhelmed"),
            "candlekeep status tells more; systemctl restart candlekeep if it stays so",
        ),
        Listening::InUse(Answerer::Stranger | Answerer::Silent) => taken("another program".to_owned()),
        Listening::NoSuchAddress => {
            Check::fix("http", format!("this machine has no address {}", address.ip()), "change http.listen")
        }
        Listening::Forbidden => Check::fix(
            "http",
            format!("this user may not listen on {address}"),
            "name a port from 1024 on in http.listen",
        ),
        Listening::Failed => Check::fix("http", format!("cannot listen on {address}"), "change http.listen"),
    }
}

/// Whether there is a way to IG.
pub fn network(api_url: &str, outcome: Result<(), &NoWay>) -> Check {
    let NoWay { error, hurdle } = match outcome {
        Ok(()) if api_url.starts_with("https") => {
            return Check::ok("network", format!("{api_url} answers, its certificate is trusted"));
        }
        Ok(()) => return Check::ok("network", format!("{api_url} answers")),
        Err(no_way) => no_way,
    };
    let place = api_url.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or(api_url);
    let mend = match hurdle {
        Hurdle::Mistrust(Mistrust::Time) => {
            "date -u shows the clock, sudo timedatectl set-ntp true sets it".to_owned()
        }
        Hurdle::Mistrust(Mistrust::Name) | Hurdle::Redirect => {
            "is ig.api_url right, or does a proxy or a portal of this network step in?".to_owned()
        }
        Hurdle::Mistrust(Mistrust::Certificate) => {
            "openssl s_client -connect shows who has signed it; ig.ca_file trusts a proxy of your own"
                .to_owned()
        }
        Hurdle::Name => {
            let name = place.rsplit_once(':').map_or(place, |(name, _)| name);
            format!("getent hosts {name} asks once more; mend /etc/resolv.conf, or ig.api_url")
        }
        Hurdle::Mistrust(Mistrust::Protocol) | Hurdle::Other => {
            format!("curl -sSI {api_url}/session shows what is in the way: a firewall, a proxy, ig.api_url")
        }
    };
    Check::fix("network", error.to_string(), mend)
}

/// Why nobody logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoLogin {
    /// It is not wanted.
    Offline,
    /// The credentials are not all there, or were refused before.
    NoCredentials,
    /// Another process is logged in.
    Running(String),
    /// There is nothing to note a refusal in, for this reason.
    NoPlace(String),
    /// The database is this user's, who would leave files of another's beside it.
    OfAnother(String),
    /// The last login was so shortly before that it would take so many seconds, or the way to IG is not open.
    TooSoon(u64),
    /// There is no way to IG.
    NoWay,
}

/// The line about a login that was not made.
pub fn not_logged_in(why: &NoLogin) -> Check {
    let ok = |state: String| Check::ok("login", state);
    match why {
        NoLogin::Offline => ok("not tried (--offline)".to_owned()),
        NoLogin::NoCredentials => ok("not tried: see credentials".to_owned()),
        NoLogin::NoWay => ok("not tried: see network".to_owned()),
        NoLogin::Running(who) => ok(format!("not tried, since {who} has the login: what it knows follows")),
        NoLogin::NoPlace(why) => Check::warn(
            "login",
            format!("not tried, since a refusal could not be noted: {why}"),
            "mend database and permissions, and try again",
        ),
        NoLogin::OfAnother(name) => Check::warn(
            "login",
            format!(
                "not tried: the database is {name}'s, and files of another's beside it would be in its way"
            ),
            format!("sudo -u {name} candlekeep doctor"),
        ),
        NoLogin::TooSoon(wait_s) => Check::warn(
            "login",
            format!("not tried: IG is to be left alone for {wait_s} s after the last login"),
            "try again then",
        ),
    }
}

/// What became of the login.
pub fn login(outcome: Result<&LoggedIn, &IgError>) -> Check {
    match outcome {
        Ok(LoggedIn { account_type, is_chosen, .. }) => {
            let account = account_type.as_deref().unwrap_or("unknown");
            let which = if *is_chosen { "the one of ig.account_id" } else { "where the login lands" };
            Check::ok("login", format!("IG takes these credentials; account {which}, type {account}"))
        }
        Err(error @ IgError::CredentialsRefused(_)) => Check::fix(
            "login",
            format!("{error}; this is noted, and they are not tried again"),
            "change IG_API_KEY, IG_USERNAME or IG_PASSWORD",
        ),
        Err(error @ IgError::Misconfigured(_)) => {
            Check::fix("login", error.to_string(), "change ig.account_id or ig.api_url")
        }
        Err(error) => Check::warn("login", error.to_string(), "try again in a few minutes"),
    }
}

/// What a login has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoggedIn {
    /// `CFD`, `SPREADBET`, where IG told it.
    pub account_type: Option<String>,
    /// The account is the configured one, and not where the login lands.
    pub is_chosen: bool,
    /// What IG says of each epic.
    pub instruments: Vec<(Instrument, Listing)>,
    /// Why nothing is known of these.
    pub no_instruments: Option<IgError>,
}

/// What IG says of the configured instruments.
pub fn epics(instruments: &[(Instrument, Listing)]) -> Vec<Check> {
    let those = |which: &dyn Fn(&Instrument, Listing) -> bool| -> Vec<String> {
        let found = instruments.iter().filter(|(instrument, listing)| which(instrument, *listing));
        found.map(|(instrument, _)| format!("{} ({})", instrument.pair, instrument.epic)).collect()
    };
    let mut checks = Vec::new();
    let mut fix = |names: Vec<String>, what: &str, mend: &str| {
        if !names.is_empty() {
            checks.push(Check::fix("epics", format!("{what}: {}", listed(&names)), mend));
        }
    };
    let unknown = those(&|_, listing| listing == Listing::Unknown);
    fix(
        unknown,
        "IG does not know on this account",
        "ig.product, or pairs.NAME = \"EPIC\", or pairs.NAME = false",
    );
    let silent = those(&|_, listing| listing == Listing::NotStreamed);
    fix(
        silent,
        "IG does not stream",
        "pairs.NAME = \"EPIC\" names another, pairs.NAME = false leaves it out",
    );
    let doubtful = those(&|instrument, _| instrument.scale == Verdict::Ambiguous);
    fix(doubtful, "price scale in doubt", "pairs.NAME = { scale = \"decimal\" } or \"points\"");
    if checks.is_empty() {
        let waiting = those(&|instrument, _| instrument.scale == Verdict::NoPriceYet).len();
        let later = match waiting {
            0 => String::new(),
            count => format!("; {count} without a price yet, whose scale shows later"),
        };
        checks.push(Check::ok("epics", format!("IG knows and streams all {}{later}", instruments.len())));
    }
    checks
}

/// A few names, and how many more there are.
fn listed(names: &[String]) -> String {
    let shown = names.iter().take(NAMES_MAX).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMES_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Data points left, as far as is known.
pub fn allowance(known: Option<&AllowanceState>, reserve: u32, now: Timestamp) -> Check {
    let Some(state) = known else {
        return Check::ok("allowance", "not known before the first request for history");
    };
    let (remaining, renews) = (state.remaining(now), state.renews_at(now));
    let renews = renews.map_or(String::new(), |at| format!("; renewed {at}"));
    let told = format!("{remaining} data points left{renews}");
    if remaining <= reserve {
        return Check::warn(
            "allowance",
            format!("{told}: backfill and holes older than a day wait"),
            "wait, or lower history.reserve",
        );
    }
    Check::ok("allowance", told)
}

/// Whether a service runs and lives, or how its last run ended; `told` says so in words.
pub fn service(lease: Option<&LeaseState>, run: Option<&LastRun>, told: String, now: Timestamp) -> Check {
    let warn = |mend: &str| Check::warn("service", told.clone(), mend);
    match (lease, run) {
        (Some(lease), _) if lease.alive => match lease.silent_s(now) {
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

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
