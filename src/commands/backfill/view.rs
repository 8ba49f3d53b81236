//! A plan, and what came of it, for people and for programs.

use serde_json::{Value, json};

use super::follow::Followed;
use crate::commands::grid::{Grid, numbers, words};
use crate::commands::margin::hang;
use crate::commands::outlook::words::{
    allowance, allowance_json, counted, nothing_now, waiting, waiting_json,
};
use crate::commands::outlook::{Outlook, pair_of};
use crate::domain::Timestamp;
use crate::healer::holes::Kind;
use crate::healer::plan::Request;

/// Requests that the table shows; the JSON has all.
const SHOWN_MAX: usize = 120;

/// The plan as a table, and what it comes to.
pub fn text(outlook: &Outlook, columns: Option<usize>) -> String {
    let mut out = String::new();
    let requests = &outlook.plan.requests;
    if !requests.is_empty() {
        let mut grid = Grid::new(&[
            words("pair"),
            numbers("tf"),
            words("from (UTC)"),
            words("to"),
            numbers("points"),
            words("for").extra(),
        ]);
        for request in requests.iter().take(SHOWN_MAX) {
            grid.row([
                pair_of(outlook, request.feed).to_string(),
                request.timeframe.as_str().to_owned(),
                time(request.span.start),
                time(request.span.end),
                request.points.to_string(),
                purpose(request).to_owned(),
            ]);
        }
        out = format!("{}\n", grid.lines(columns).join("\n"));
        if requests.len() > SHOWN_MAX {
            out += &format!("… and {} more\n", requests.len() - SHOWN_MAX);
        }
        out += "\n";
    }
    let sums: Vec<String> = sums(outlook).iter().map(|line| hang(line, 0, columns)).collect();
    out += &sums.join("\n");
    out
}

fn purpose(request: &Request) -> &'static str {
    match (request.kind, request.urgent) {
        (Kind::Backfill, _) => "backfill",
        (Kind::NullLeg, _) => "a null price",
        (_, true) => "a hole",
        (_, false) => "an old hole",
    }
}

/// What the plan comes to, and what it is held against, a line each.
pub fn sums(outlook: &Outlook) -> Vec<String> {
    let Outlook { plan, .. } = outlook;
    let mut lines = Vec::new();
    lines.push(match (plan.requests.len(), outlook.buckets_missing()) {
        (0, 0) => "Nothing is missing, so nothing would be asked for.".to_owned(),
        (0, _) => format!("{} are missing; {}.", outlook.missing_in_words(), nothing_now(outlook)),
        (requests, _) => format!(
            "{}, at most {} data points, about {} min at {} a minute.",
            counted(requests, "request"),
            plan.points(),
            outlook.minutes(),
            counted(outlook.per_minute as usize, "request"),
        ),
    });
    if let Some(known_to) = outlook.known_to {
        lines.push(format!(
            "The ledger ends at {known_to}: what lies behind it can be had only if the market has come so far, which \
             a service knows once it runs."
        ));
    }
    lines.push(format!("{}.", allowance(outlook)));
    lines.extend(waiting(outlook));
    lines
}

/// The plan for programs.
pub fn json(outlook: &Outlook) -> Value {
    let requests: Vec<Value> = outlook
        .plan
        .requests
        .iter()
        .map(|request| {
            json!({
                "pair": pair_of(outlook, request.feed).to_string(),
                "timeframe": request.timeframe.as_str(),
                "from": request.span.start.0,
                "to": request.span.end.0,
                "points": request.points,
                "urgent": request.urgent,
                "for": purpose(request),
            })
        })
        .collect();
    json!({
        "requests": requests,
        "points": outlook.plan.points(),
        "minutes": outlook.minutes(),
        "requests_per_minute": outlook.per_minute,
        "known_to": outlook.known_to.map(|end| end.0),
        "allowance": allowance_json(outlook),
        "waiting": waiting_json(outlook),
    })
}

/// What came of it.
pub fn ended(followed: &Followed) -> String {
    let Followed { outlook, healed, spent, refused, interrupted, left_alone, is_beside } = followed;
    let mut lines = vec![format!("{healed} buckets healed for {spent} data points.")];
    lines.extend(refused.iter().map(|why| format!("Refused: {why}.")));
    let missing = outlook.buckets_missing();
    if missing > 0 {
        lines
            .push(format!("{} are still missing; `candlekeep gaps` lists them.", outlook.missing_in_words()));
        lines.extend(waiting(outlook));
    }
    if *interrupted && *is_beside {
        lines.push("Looking on no longer; the service goes on.".to_owned());
    } else if *interrupted {
        lines.push("Stopped; the same command goes on from here.".to_owned());
    }
    if *left_alone {
        lines.push(
            "The service that was fetching has ended; the same command, or `candlekeep run`, goes on."
                .to_owned(),
        );
    }
    lines.push(format!("{}.", allowance(outlook)));
    lines.join("\n")
}

/// The same for programs.
pub fn ended_json(followed: &Followed) -> Value {
    let Followed { outlook, healed, spent, refused, interrupted, .. } = followed;
    json!({
        "complete": followed.is_complete(),
        "healed": healed,
        "points": spent,
        "missing": outlook.buckets_missing(),
        "refused": refused,
        "interrupted": interrupted,
        "allowance": allowance_json(outlook),
        "waiting": waiting_json(outlook),
    })
}

fn time(at: Timestamp) -> String {
    at.utc().format("%Y-%m-%d %H:%M").to_string()
}
