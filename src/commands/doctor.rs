//! `candlekeep doctor`: what the service needs, one line each with the fix. Does not log in.

use serde_json::json;

use super::say;
use super::status::service_line;
use crate::cli::{Doctor, Report};
use crate::clock::Clock;
use crate::config::{self, Flags};
use crate::exit::{Exit, Failure};
use crate::ig::stream::probes::{self, Probes};
use crate::store::{Store, StoreError};
use crate::writer::recovery;

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq)]
struct Check {
    name: &'static str,
    /// How it is, or what to do about it.
    outcome: Result<String, String>,
}

/// Prints the checks.
///
/// # Errors
/// None: what is wrong is what it prints, and the exit code says so.
pub fn execute(args: &Doctor, flags: &Flags) -> Result<Exit, Failure> {
    let (checks, probes) = examine(flags);
    let is_well = checks.iter().all(|check| check.outcome.is_ok());
    match args.format {
        Report::Text => text(&checks, &probes),
        Report::Json => {
            let checks: Vec<_> = checks
                .iter()
                .map(|Check { name, outcome }| match outcome {
                    Ok(state) => json!({ "name": name, "ok": true, "state": state }),
                    Err(fix) => json!({ "name": name, "ok": false, "fix": fix }),
                })
                .collect();
            say(json!({ "ok": is_well, "checks": checks, "probes": probes }));
        }
    }
    Ok(if is_well { Exit::Done } else { Exit::Failed })
}

fn text(checks: &[Check], probes: &Probes) {
    for Check { name, outcome } in checks {
        match outcome {
            Ok(state) => say(format_args!("ok    {name:<14} {state}")),
            Err(fix) => say(format_args!("FIX   {name:<14} {fix}")),
        }
    }
    say("\nwhat was found out about IG:");
    for (about, known) in probes.lines() {
        say(format_args!("      {about:<25} {known}"));
    }
}

fn examine(flags: &Flags) -> (Vec<Check>, Probes) {
    let check = |name, outcome| Check { name, outcome };
    let config = match config::read(flags) {
        Ok(config) => config,
        Err(error) => return (vec![check("configuration", Err(error.to_string()))], Probes::default()),
    };
    let pairs = config.pairs().count();
    let mut checks = vec![
        check("configuration", Ok(format!("{} account, {pairs} pairs", config.ig.environment.as_str()))),
        check(
            "credentials",
            match config.credentials.require() {
                Ok(_) => Ok("given; whether IG takes them shows `candlekeep run`".to_owned()),
                Err(error) => Err(error.to_string()),
            },
        ),
    ];
    let mut probes = Probes::default();
    let mut service = None;
    let database = match Store::open_read_only(&config.database) {
        Ok(mut store) => store.lease(Clock::system().wall()).and_then(|lease| {
            // Either way is well: it is for those who wonder why another start is refused.
            service = Some(service_line(lease.as_ref()));
            let kept = store.setting(probes::SETTING)?;
            probes = kept.map(|text| Probes::read(&text)).unwrap_or_default();
            Ok(config.database.to_string())
        }),
        Err(StoreError::Absent { .. }) => {
            Ok(format!("none yet at {}, `candlekeep run` makes it", config.database))
        }
        Err(error) => Err(error),
    };
    let spooled = recovery::facts_waiting(&config.database, config.store.spool_dir.as_deref());
    if let Some(facts) = spooled.filter(|facts| *facts > 0) {
        let why = "end what holds its lock, make room on its disk, or bring its server back";
        checks.push(check("spool", Err(format!("{facts} facts wait, the database takes nothing: {why}"))));
    }
    checks.push(check("database", database.map_err(|error| error.to_string())));
    checks.extend(service.map(|service| check("service", Ok(service))));
    (checks, probes)
}
