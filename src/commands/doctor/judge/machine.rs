//! The machine, its files and the configuration. Pure.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;

use crate::commands::doctor::check::Check;
use crate::commands::doctor::machine::{FileFacts, Me, Room};
use crate::config::keys::SECRETS;
use crate::config::{Access, Config, ConfigError, Exposure, Meant, SecretFrom};
use crate::domain::{Timeframe, Timestamp};
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
pub(super) const DESCRIPTORS_FEW: u64 = DESCRIPTORS_MIN + crate::api::CLIENT_DESCRIPTORS_MAX;
/// No clock is right that shows an earlier time: 2025-01-01.
const WRITTEN_AFTER: Timestamp = Timestamp(1_735_689_600);

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
        return cannot_write(me, &folder.path, access, files);
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

/// Of a folder that this user cannot write. It may be the service's, or the system's, which nobody is to be told to
/// take away from them.
fn cannot_write(me: &Me, folder: &Path, access: Access, files: &[FileFacts]) -> Check {
    let (name, path) = (me.name_of(me.user), folder.display());
    let state = format!("{name} cannot write {path}");
    let elsewhere = format!("name a database in a folder of {name}'s in DATABASE_URL");
    let has_database = files.first().is_some_and(|database| database.access.is_some());
    let mend = if access.owner != 0 && (has_database || access.owner != me.user) {
        let owner = me.name_of(access.owner);
        format!("sudo -u {owner} candlekeep doctor, where the service runs as {owner}; else {elsewhere}")
    } else if access.owner == me.user {
        format!("chmod u+rwx {path}")
    } else if folder.components().count() > 2 {
        format!("{elsewhere}; or, where {path} is for the service alone, sudo chown {name} {path}")
    } else {
        elsewhere
    };
    Check::fix("permissions", state, mend)
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
                format!(
                    "set {names} in the environment, or the same names with _FILE behind, or systemd's LoadCredential"
                ),
            ),
            ConfigError::Unreadable { path, mend, .. } => {
                (error.to_string(), mend.clone().unwrap_or_else(|| format!("ls -l {path}")))
            }
            _ => (error.to_string(), "unset one where two are set, or fill the file".to_owned()),
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
    /// The processes that collect into this database, or stand by; none where it did not tell.
    pub processes: Option<&'a [i64]>,
    /// Why it did not.
    pub why_not: &'a str,
    /// One of them collects.
    pub is_collecting: bool,
    /// It shows no sign of life, or has said itself that it serves there.
    pub may_be_frozen: bool,
}

/// Whether the HTTP interface has its address.
pub fn http(address: SocketAddr, listening: Listening, ours: Ours<'_>) -> Check {
    let Ours { processes, why_not, is_collecting, may_be_frozen } = ours;
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
        // Whose it is, the database alone knows.
        Listening::InUse(Answerer::Service(pid)) if processes.is_none() => {
            let who = pid.map_or("a service that wants its token".to_owned(), |pid| format!("pid {pid}"));
            Check::ok("http", format!("not told ({why_not}): {who} listens on {address}"))
        }
        Listening::InUse(Answerer::Service(Some(pid)))
            if processes.is_some_and(|ours| ours.contains(&pid)) =>
        {
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
