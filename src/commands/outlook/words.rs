//! The allowance and what waits for it, for people and for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Outlook, pair_of};
use crate::domain::Timestamp;
use crate::healer::plan::{Refused, Why};

/// A number and its noun: `1 request`, `2 requests`.
pub fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// That there is nothing to ask for at the moment, and until when.
pub fn nothing_now(outlook: &Outlook) -> String {
    match outlook.again_at {
        Some(at) => format!("nothing can be asked for now; what came in vain is, from {at} on"),
        None => "nothing can be asked for now".to_owned(),
    }
}

/// What is left of the week's points.
pub fn allowance(outlook: &Outlook) -> String {
    let (remaining, reserve) = (outlook.remaining(), outlook.reserve);
    let mut line = match outlook.allowance.seen {
        Some((seen, at)) => {
            let at = at.utc().format("%a %H:%M");
            format!("{remaining} of {} data points left (IG, {at})", seen.total)
        }
        None => format!("{remaining} data points left, for all that is known before IG's first answer"),
    };
    if let Some(refusals) = outlook.refusals() {
        // Whatever its numbers were before.
        line = format!("no data points left, as IG said on {}", refusals.last_at.utc().format("%a %H:%M"));
    } else if reserve > 0 {
        write!(line, ", {reserve} kept for holes of the last day").expect("a String takes any text");
    }
    if let Some(at) = outlook.allowance.renews_at(outlook.now.wall) {
        write!(line, "; renewed {} UTC", day(at)).expect("a String takes any text");
    }
    line
}

/// What waits for points, and until when.
pub fn waiting(outlook: &Outlook) -> Vec<String> {
    let mut lines = Vec::new();
    let of = |why: Why| {
        let waiting = outlook.plan.waiting.iter().filter(|waiting| waiting.why == why);
        waiting.map(|waiting| u64::from(waiting.buckets)).sum::<u64>()
    };
    let until = match outlook.allowance.renews_at(outlook.now.wall) {
        Some(at) => format!("until {} UTC", day(at)),
        None => "until there are more".to_owned(),
    };
    if let Some(refused) = outlook.purse.refused {
        lines.push(format!(
            "IG says that the week's points are spent; {}.",
            match refused {
                Refused::Wait => "it is asked again with a single bar after a pause of a minute to an hour",
                Refused::Probe => "it is asked again with a single bar",
            }
        ));
    }
    if of(Why::Points) > 0 {
        lines.push(format!(
            "{} buckets wait for points, {until}; backfill and old holes leave history.reserve alone.",
            of(Why::Points)
        ));
    }
    if of(Why::Incident) > 0 {
        lines.push(format!(
            "{} buckets wait because their incident has had its share of the week (history.incident_cap), {until}.",
            of(Why::Incident)
        ));
    }
    lines
}

/// Why nothing of what is missing can be asked for now, in one line, and until when where that is known; none while
/// something can, or nothing is missing.
pub fn standstill(outlook: &Outlook) -> Option<(String, Option<Timestamp>)> {
    if !outlook.plan.requests.is_empty() || outlook.buckets_missing() == 0 {
        return None;
    }
    let lines = waiting(outlook);
    let renews_at = outlook.allowance.renews_at(outlook.now.wall).filter(|_| !lines.is_empty());
    let why = if lines.is_empty() { nothing_now(outlook) } else { lines.join(" ") };
    Some((why, renews_at.into_iter().chain(outlook.again_at).min()))
}

/// The allowance for programs.
pub fn allowance_json(outlook: &Outlook) -> Value {
    let seen = outlook.allowance.seen;
    json!({
        "remaining": outlook.remaining(),
        "total": seen.map(|(seen, _)| seen.total),
        "seen_at": seen.map(|(_, at)| at.0),
        "renews_at": outlook.allowance.renews_at(outlook.now.wall).map(|at| at.0),
        "reserve": outlook.reserve,
        "refused": outlook.refusals().map(|refusals| json!({
            "times": refusals.times,
            "last_at": refusals.last_at.0,
        })),
    })
}

/// What waits for points, for programs.
pub fn waiting_json(outlook: &Outlook) -> Value {
    let waiting: Vec<Value> = outlook
        .plan
        .waiting
        .iter()
        .map(|waiting| {
            json!({
                "pair": pair_of(outlook, waiting.feed).to_string(),
                "timeframe": waiting.timeframe.as_str(),
                "buckets": waiting.buckets,
                "why": match waiting.why {
                    Why::Points => "points",
                    Why::Incident => "incident_cap",
                },
            })
        })
        .collect();
    json!({ "buckets": outlook.plan.buckets_waiting(), "by_pair": waiting })
}

fn day(at: Timestamp) -> String {
    at.utc().format("%a %Y-%m-%d %H:%M").to_string()
}
