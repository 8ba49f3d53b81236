//! `candlekeep doctor`: what the service needs, one line each with what mends it.
//!
//! | file | does |
//! |---|---|
//! | `check` | one line: level, state, what mends it; for people and for programs |
//! | `judge` | what the findings mean (pure) |
//! | `machine`, `database`, `broker` | find: files, space and limits; what the database tells; a login |

mod broker;
mod check;
mod database;
mod judge;
mod machine;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use self::broker::NotDone;
use self::check::Check;
use self::database::{Known, LOOK_WITHIN};
use self::judge::{NoLogin, Ours};
use self::machine::{FileFacts, Me, folder_of};
use super::margin::{self, hang};
use super::say;
use super::status::service_line;
use crate::api::Door;
use crate::cli::{Doctor, Report};
use crate::clock::{Clock, ClockKind};
use crate::config::{self, Config, ConfigError, Flags, Login};
use crate::domain::Timestamp;
use crate::exit::{Exit, Failure};
use crate::ig::rest::{http_client_for, reach};
use crate::ig::stream::probes::Probes;
use crate::store::StoreError;
use crate::writer::recovery;

/// Prints the checks.
///
/// # Errors
/// None: what is wrong is what it prints, and the exit code says so.
pub fn execute(args: &Doctor, flags: &Flags) -> Result<Exit, Failure> {
    let (checks, probes) = match config::read(flags) {
        Ok(config) => examine(&config, args.offline)?,
        Err(error) => (vec![judge::misconfigured(&error)], Probes::default()),
    };
    let is_well = checks.iter().all(Check::is_well);
    match args.format {
        Report::Text => text(&checks, &probes),
        Report::Json => {
            let checks: Vec<_> = checks.iter().map(Check::json).collect();
            say(json!({ "ok": is_well, "checks": checks, "probes": probes }));
        }
    }
    Ok(if is_well { Exit::Done } else { Exit::Failed })
}

fn text(checks: &[Check], probes: &Probes) {
    let columns = margin::columns();
    for check in checks {
        say(check.line(columns));
    }
    if *probes == Probes::default() {
        return;
    }
    say("\nwhat was found out about IG:");
    for (about, known) in probes.lines() {
        say(hang(&format!("      {about:<25} {known}"), 32, columns));
    }
}

/// Looks at everything, in the order in which one thing needs the other.
fn examine(config: &Config, is_offline: bool) -> Result<(Vec<Check>, Probes), Failure> {
    let (clock, me) = (Clock::system(), Me::now());
    let now = clock.wall();
    let mut checks = vec![judge::configuration(config)];
    checks.extend(judge::in_the_clear(config));
    checks.extend(config::exposures(config).iter().map(judge::exposure));
    let spools = recovery::spool_paths(&config.database, config.store.spool_dir.as_deref());
    let files: Vec<FileFacts> = own_files(config, &spools).iter().map(|path| FileFacts::of(path)).collect();
    let folder = folder_of(&files[0].path);
    let folder = FileFacts::of(&folder);
    checks.push(judge::permissions(&me, &folder, &files));
    if config.database.sqlite_path().is_some() {
        checks.extend(judge::readers(&me, &folder, &files));
    }

    let known = match is_offline && config.database.sqlite_path().is_none() {
        true => None,
        false => Some(database::read(config, now)),
    };
    let read = known.as_ref().and_then(|known| known.as_ref().ok());
    let login = config.credentials.require();
    let are_refused = match (read, &login) {
        (Some(known), Ok(login)) => known.has_refused(&config.ig.api_url, login),
        _ => false,
    };
    checks.push(judge::credentials(login.as_ref().map(drop), &config.origin.secrets, are_refused));
    let newest = read.and_then(|known| known.newest).filter(|_| config.clock == ClockKind::System);
    checks.push(judge::clock(now, newest, machine::is_synchronised()));
    match &known {
        Some(known) => checks.extend(of_database(config, known)),
        None => checks.push(Check::ok("database", format!("{}: not asked (--offline)", config.database))),
    }
    checks.extend(of_machine(config, &spools, known.as_ref()));
    checks.extend(read.map(|known| {
        let (lease, run) = (known.lease.as_ref(), known.last_run.as_ref());
        judge::service(lease, run, service_line(lease, run), facts_waiting(config).unwrap_or(0))
    }));

    let why_not =
        why_not(config, &me, &files, known.as_ref(), login.as_ref().err(), are_refused, is_offline, now);
    checks.extend(of_broker(config, login.ok(), why_not, read, &clock)?);
    checks.push(judge::allowance(
        read.and_then(|known| known.allowance.as_ref()),
        config.history.reserve,
        now,
    ));
    let probes = known.and_then(Result::ok).map(|known| known.probes).unwrap_or_default();
    Ok((checks, probes))
}

/// The files that the service writes; never none.
fn own_files(config: &Config, spools: &[PathBuf]) -> Vec<PathBuf> {
    let files = match config.database.sqlite_path() {
        Some(path) => judge::files_of(path, spools),
        None => spools.to_vec(),
    };
    // In a line that is to be copied, a name that means the same everywhere.
    files.into_iter().map(|path| std::path::absolute(&path).unwrap_or(path)).collect()
}

fn of_database(config: &Config, known: &Result<Known, StoreError>) -> Vec<Check> {
    let (place, environment) = (config.database.to_string(), config.ig.environment.as_str());
    let opened = known.as_ref().map(|known| known.environment.as_deref());
    let mut checks = vec![judge::database(&place, opened, environment)];
    let Ok(known) = known else { return checks };
    checks.extend(known.server.as_ref().map(judge::server));
    if config.database.sqlite_path().is_some() {
        checks.push(judge::integrity(database::integrity(&config.database), LOOK_WITHIN.as_secs()));
    }
    checks.push(judge::ledger(database::ledger(&config.database), LOOK_WITHIN.as_secs()));
    checks
}

fn of_machine(config: &Config, spools: &[PathBuf], known: Option<&Result<Known, StoreError>>) -> Vec<Check> {
    let read = known.and_then(|known| known.as_ref().ok());
    let is_collecting = read.is_some_and(|known| known.collector().is_some());
    let mut checks = Vec::new();
    let day_bytes = judge::bytes_a_day(config.feeds.len(), &config.timeframes);
    let database = config.database.sqlite_path().map(folder_of);
    let spool = spools.first().map(|path| folder_of(path));
    let both = database.as_deref().map(|folder| (folder, "database"));
    let mut seen = None;
    for (folder, what) in both.into_iter().chain(spool.as_deref().map(|folder| (folder, "spool"))) {
        let Some((room, device)) = machine::room(folder) else { continue };
        if seen.replace(device) != Some(device) {
            checks.push(judge::space(what, &room, day_bytes));
        }
    }
    if let Some(folder) = &database {
        let kind = machine::file_system(folder);
        checks.extend(kind.and_then(|kind| judge::file_system(folder, kind)));
    }
    checks.extend(judge::spool(facts_waiting(config), is_collecting));
    checks.push(judge::descriptors(machine::descriptors()));
    match config.http.listen {
        Some(address) => {
            let processes = match known {
                Some(Ok(known)) => Some(known.processes()),
                // Nobody collects into what is not there.
                Some(Err(StoreError::Absent { .. })) => Some(Vec::new()),
                Some(Err(_)) | None => None,
            };
            let why_not = if known.is_none() { "--offline" } else { "the database cannot be asked" };
            let may_be_frozen = read.is_some_and(|known| known.may_be_frozen_at(&address.to_string()));
            let ours = Ours { processes: processes.as_deref(), why_not, is_collecting, may_be_frozen };
            checks.push(judge::http(address, machine::listening(address), ours));
        }
        None => checks.push(Check::ok("http", "off")),
    }
    if let Err(unusable) = Door::new(&config.http) {
        checks.push(Check::fix("http", unusable.to_string(), "mend the file that http.token_file names"));
    }
    checks
}

/// Why a login is not to be tried, if so.
#[expect(clippy::too_many_arguments, reason = "it weighs all that is known")]
fn why_not(
    config: &Config,
    me: &Me,
    files: &[FileFacts],
    known: Option<&Result<Known, StoreError>>,
    credentials: Option<&ConfigError>,
    are_refused: bool,
    is_offline: bool,
    now: Timestamp,
) -> Option<NoLogin> {
    if is_offline {
        return Some(NoLogin::Offline);
    }
    if credentials.is_some() || are_refused {
        return Some(NoLogin::NoCredentials);
    }
    match known {
        Some(Ok(known)) => {
            if let Some(lease) = known.collector() {
                return Some(NoLogin::Running(lease.who()));
            }
            if known.environment.as_deref().is_some_and(|bound| bound != config.ig.environment.as_str()) {
                return Some(NoLogin::NoPlace("the database belongs to another environment".to_owned()));
            }
            let wait = known.logins.wait(config.session.login_spacing, now);
            if wait > broker::WAIT_MAX {
                return Some(NoLogin::TooSoon(wait.as_secs()));
            }
        }
        Some(Err(StoreError::Absent { .. })) => {}
        Some(Err(error)) => return Some(NoLogin::NoPlace(error.to_string())),
        None => return Some(NoLogin::Offline),
    }
    // On a server nothing is anybody's own.
    config.database.sqlite_path()?;
    // What is made beside another's files, or in another's folder, would be this user's.
    let owner = match files[0].access {
        Some(access) => access.owner,
        None => match FileFacts::of(&folder_of(&files[0].path)) {
            FileFacts { access: Some(access), is_writable: true, .. } => access.owner,
            FileFacts { path, .. } => {
                return Some(NoLogin::NoPlace(format!("no database can be made in {}", path.display())));
            }
        },
    };
    (owner != me.user).then(|| NoLogin::OfAnother(me.name_of(owner)))
}

/// What the way to IG, and a login, show; where a service runs, what that knows.
fn of_broker(
    config: &Config,
    login: Option<Login>,
    why_not: Option<NoLogin>,
    read: Option<&Known>,
    clock: &Clock,
) -> Result<Vec<Check>, Failure> {
    let mut checks = Vec::new();
    let is_running = matches!(why_not, Some(NoLogin::Running(_)));
    if let Some(why @ NoLogin::Offline) = &why_not {
        if let Err(why) = http_client_for(config.ig.ca_file.as_deref()) {
            checks.push(Check::fix("network", why, "change ig.ca_file"));
        }
        checks.push(judge::not_logged_in(why));
        return Ok(checks);
    }
    super::on_actix(async {
        let client = match http_client_for(config.ig.ca_file.as_deref()) {
            Ok(client) => client,
            Err(why) => {
                checks.push(Check::fix("network", why, "change ig.ca_file"));
                return Ok(());
            }
        };
        let reached = reach(&client, &config.ig.api_url, clock).await;
        checks.push(judge::network(&config.ig.api_url, reached.as_ref().map(drop)));
        if let (Ok(Some(between)), ClockKind::System) = (&reached, config.clock) {
            checks.push(judge::clock_of_ig(*between));
        }
        let why_not = why_not.or_else(|| reached.is_err().then_some(NoLogin::NoWay));
        match (why_not, login) {
            (None, Some(login)) => {
                // Before the lease is taken, so that a service that is started meanwhile is not kept out.
                let wait = read.map(|known| known.logins.wait(config.session.login_spacing, clock.wall()));
                actix_rt::time::sleep(wait.unwrap_or_default()).await;
                checks.extend(of_login(broker::log_in(config, &login, client, clock).await)?)
            }
            (why_not, _) => checks.push(judge::not_logged_in(&why_not.unwrap_or(NoLogin::NoCredentials))),
        }
        Ok(())
    })?;
    if let (true, Some(known)) = (is_running, read) {
        checks.extend(of_service(known, config.session.login_spacing, clock.wall()));
    }
    Ok(checks)
}

/// What a login has shown, or why there was none.
///
/// # Errors
/// It was told to stop meanwhile.
fn of_login(outcome: Result<judge::LoggedIn, NotDone>) -> Result<Vec<Check>, Failure> {
    Ok(match outcome {
        Ok(found) => {
            let mut checks = vec![judge::login(Ok(&found))];
            match &found.no_instruments {
                Some(error) => {
                    checks.push(Check::warn("epics", error.to_string(), "try again in a few minutes"))
                }
                None => checks.extend(judge::epics(&found.instruments)),
            }
            checks
        }
        Err(NotDone::Ig(error)) => vec![judge::login(Err(&error))],
        Err(NotDone::Taken(who)) => vec![judge::not_logged_in(&NoLogin::Running(who))],
        Err(NotDone::NoPlace(why)) => vec![judge::not_logged_in(&NoLogin::NoPlace(why))],
        Err(NotDone::Stopped) => return Err(Failure::failed("told to stop; it has logged out")),
    })
}

/// Facts that wait in the spool for the database.
fn facts_waiting(config: &Config) -> Option<u64> {
    recovery::facts_waiting(&config.database, config.store.spool_dir.as_deref())
}

fn of_service(known: &Known, spacing: Duration, now: Timestamp) -> Vec<Check> {
    let stream = known.stream.as_ref();
    let since = stream.map(|stream| Timestamp(stream.since).to_string()).unwrap_or_default();
    let refused: Vec<String> =
        stream.map(|stream| stream.refused.keys().cloned().collect()).unwrap_or_default();
    let failed = &known.logins.failed;
    judge::of_the_service(
        known.logins.are_told(known.streams(), spacing, now).then(|| failed.in_words()).as_deref(),
        stream.map(|stream| (stream.phase.as_str(), since.as_str())),
        &refused,
        known.trouble.as_deref(),
    )
}
