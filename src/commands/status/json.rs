//! How the service stands, for programs. Pure.

use serde_json::json;

use super::Findings;
use super::text::logins_next;
use crate::aggregator::inference::MATCHES_TO_EARN;
use crate::commands::outlook::words;
use crate::completeness::OtherClock;
use crate::domain::Timeframe;
use crate::store::LeaseState;

/// What there is to tell, for programs.
pub fn json(findings: &Findings) -> String {
    let pairs: Vec<_> = findings
        .pairs
        .iter()
        .map(|(pair, state)| {
            json!({
                "pair": pair.to_string(),
                "last_timestamp": state.last_bar.map(|start| start.0),
                "age_s": state.last_bar.map(|start| findings.now.since(start.plus(Timeframe::M5.seconds()))),
                "missing": state.missing,
            })
        })
        .collect();
    let breaks: Vec<_> = findings
        .breaks
        .iter()
        .map(|told| json!({ "pair": told.pair, "from": told.from.0, "to": told.to.0, "cause": told.cause }))
        .collect();
    let accounts: Vec<_> = findings
        .records
        .iter()
        .map(|record| {
            json!({
                "environment": record.environment,
                "granted": record.granted,
                "matched": record.matched,
                "to_earn": MATCHES_TO_EARN,
            })
        })
        .collect();
    let process = |lease: &LeaseState| {
        json!({
            "command": lease.command,
            "host": lease.host,
            "pid": lease.pid,
            "epoch": lease.epoch,
            "acquired_at": lease.acquired_at.0,
            "renewed_at": lease.renewed_at.0,
            "released": lease.released,
            "alive": lease.alive,
            "silent_s": lease.silent_s(),
        })
    };
    let (ahead_s, stored_late_s) = match findings.other_clock {
        Some(OtherClock::Ahead(by_s)) => (Some(by_s), None),
        Some(OtherClock::Late(by_s)) => (None, Some(by_s)),
        None => (None, None),
    };
    json!({
        "now": findings.now.0,
        "ahead_s": ahead_s,
        "stored_late_s": stored_late_s,
        "database": findings.database,
        "spool": { "facts": findings.spooled },
        "lease": findings.lease.as_ref().map(process),
        "last_run": findings.last_run.as_ref().map(|run| run.json(findings.lease.as_ref())),
        "standbys": findings.standbys.iter().map(process).collect::<Vec<_>>(),
        "login": {
            "last": findings.logins.last.map(|last| last.0),
            "failed": if findings.logins.failed.is_told() { findings.logins.failed.count } else { 0 },
            "next": logins_next(findings).map(|next| next.0),
        },
        "at": findings.at,
        "rooms": findings.rooms,
        "http": findings.http,
        "market": findings.market.json(),
        "readiness": findings.readiness.json(),
        "stream": findings.stream,
        "timeframes": findings.timeframes.iter().map(|timeframe| timeframe.as_str()).collect::<Vec<_>>(),
        "pairs": pairs,
        "breaks": breaks,
        "accounts": accounts,
        "allowance": words::allowance_json(&findings.outlook),
        "waiting": words::waiting_json(&findings.outlook),
        "trouble": findings.trouble.as_ref().map(|(since, what)| json!({ "since": since.0, "what": what })),
        "planned": {
            "requests": findings.outlook.plan.requests.len(),
            "points": findings.outlook.plan.points(),
            "minutes": findings.outlook.minutes(),
        },
        "probes": findings.probes.clone().unwrap_or_default(),
    })
    .to_string()
}
