//! `candlekeep explain`: where a bar came from, when, what it replaced, or why it is absent. Reads
//! the database alone.

use anstyle::Style;
use serde_json::{Value, json};

use super::margin::{self, hang};
use super::outlook::words::counted;
use super::paint::{BAD, NAME, WARN, paint};
use super::{calendar_of, check_pair, say, tell_other_clock};
use crate::cli::{Explain, Report};
use crate::clock::Clock;
use crate::completeness::{in_the_future, market_now};
use crate::config::Config;
use crate::domain::coverage::Run;
use crate::domain::{
    Bar, BarKey, Calendar, Expectation, Mid, Price, Reason, Source, State, Timeframe, Timestamp,
};
use crate::exit::{Exit, Failure};
use crate::store::{AttemptRow, Revision, RevisionKind, Spend, Store, StoredBar};

/// Where the text of a line begins, behind what it is about.
const TEXT_AT: usize = 10;

/// What the database knows of one bucket.
struct Findings {
    key: BarKey,
    /// What the calendar says of its first 5 minutes.
    expected: Expectation,
    bar: Option<StoredBar>,
    run: Option<Run>,
    /// The request that the evidence names.
    spend: Option<Spend>,
    revisions: Vec<Revision>,
    /// How often it was asked for in vain, and when it may be asked for again.
    attempt: Option<AttemptRow>,
    /// Bars of this length that are older were deleted.
    deleted_before: Option<Timestamp>,
    /// It has not begun: in words.
    future: Option<String>,
    /// Of a longer bucket: what is known of its parts.
    parts: Vec<(Timestamp, Option<Run>)>,
}

/// Prints what is known of the bucket that holds a time.
///
/// # Errors
/// When there is no database, or it cannot be read.
pub fn execute(args: &Explain, config: &Config) -> Result<Exit, Failure> {
    let mut store = Store::open_read_only(&config.database)?;
    tell_other_clock(&mut store, config)?;
    check_pair(&mut store, config, args.pair)?;
    let timeframe = args.length.unwrap_or(args.timeframe);
    let start = timeframe.bucket(args.time);
    let calendar = calendar_of(&mut store, config, args.pair)?;
    let key = BarKey { pair: args.pair, timeframe, start };
    let now = market_now(&mut store, config, Clock::system().wall())?;
    let future = in_the_future(start, now, config.clock);
    let findings = Findings { future, ..find(&mut store, key, &calendar)? };
    match args.format {
        Report::Text => {
            let columns = margin::columns();
            text(&findings).lines().for_each(|line| say(hang(line, TEXT_AT, columns)));
        }
        Report::Json => say(json(&findings)),
    }
    Ok(Exit::Done)
}

fn find(store: &mut Store, key: BarKey, calendar: &Calendar) -> Result<Findings, Failure> {
    let span = key.start..key.start.plus(key.timeframe.seconds());
    let mut run_at = |timeframe, span| Ok::<_, Failure>(store.coverage(key.pair, timeframe, span)?.pop());
    let run = run_at(key.timeframe, span.clone())?;
    let mut parts = Vec::new();
    if key.timeframe != Timeframe::M5 {
        for part in (span.start.0..span.end.0).step_by(300).map(Timestamp) {
            parts.push((part, run_at(Timeframe::M5, part..part.plus(300))?));
        }
    }
    let request = run.as_ref().and_then(|run| run.evidence.strip_prefix("rest:")?.parse().ok());
    Ok(Findings {
        bar: store.bar(key)?,
        spend: request.map(|id| store.spend(id)).transpose()?.flatten(),
        revisions: store.revisions(key.pair, key.timeframe, span)?,
        attempt: store.attempts()?.into_iter().find(|attempt| {
            (attempt.pair, attempt.timeframe) == (key.pair, key.timeframe)
                && attempt.span.contains(&key.start)
        }),
        deleted_before: store.deleted_before(key.timeframe)?,
        key,
        expected: calendar.expectation(key.start.floor(Timeframe::M5.seconds())),
        run,
        future: None,
        parts,
    })
}

fn text(findings: &Findings) -> String {
    let Findings { key, expected, bar, run, spend, revisions, attempt, deleted_before, future, parts } =
        findings;
    let mut lines = vec![
        format!(
            "{} {} min, {} to {} UTC: {}",
            paint(NAME, key.pair),
            key.timeframe,
            key.start.utc().format("%a %Y-%m-%d %H:%M"),
            key.start.plus(key.timeframe.seconds()).utc().format("%H:%M"),
            hours(*expected)
        ),
        String::new(),
    ];
    let mut say = |name: &str, what: String| {
        let padding = " ".repeat(TEXT_AT.saturating_sub(name.len()));
        lines.push(format!("{}{padding}{what}", paint(style_of(name), name)));
    };
    match bar {
        Some(stored) => {
            say("mid", prices(stored.bar.mid().map(|mid: Mid| mid.to_string())));
            say("bid", prices(stored.bar.bid.prices().map(|price: Price| price.to_string())));
            say("ask", prices(stored.bar.ask.prices().map(|price: Price| price.to_string())));
            say("volume", format!("{} ticks", stored.bar.volume));
            say("from", from(&stored.bar).to_owned());
            say("stored", format!("{}, revision {}, seq {}", stored.created_at, stored.revision, stored.seq));
            if stored.revision > 0 {
                say("corrected", stored.updated_at.to_string());
            }
        }
        None => match run {
            Some(run) => say(run.state.as_str(), format!("{} ({})", run.reason.in_words(), run.reason)),
            None if deleted_before.is_some_and(|before| key.start < before) => {
                say("deleted", "it is older than what retention.days keeps".to_owned());
            }
            None if parts.iter().any(|(_, part)| part.is_some()) => {
                say("absent", "a longer bar is folded once all of its parts are known".to_owned());
            }
            None if future.is_some() => say("future", future.clone().unwrap_or_default()),
            None => say(
                "unknown",
                "nothing is known: the pair was not watched then, or the service has not come so far"
                    .to_owned(),
            ),
        },
    }
    if let Some(run) = run {
        say("evidence", evidence(run, spend.as_ref()));
        if bar.is_none() && run.state == State::Missing {
            if let Some(attempt) = attempt {
                say(
                    "asked",
                    format!(
                        "{} in vain; again from {} on",
                        counted(attempt.times as usize, "time"),
                        attempt.next_at
                    ),
                );
            }
            say(
                "next",
                "`candlekeep run` asks for it over REST, newest first, as the allowance allows; \
                 `candlekeep backfill --plan` tells when"
                    .to_owned(),
            );
        }
    }
    for (start, part) in parts {
        let known = part.as_ref().map_or("nothing is known".to_owned(), |part| {
            format!("{}: {} ({})", part.state, part.reason.in_words(), part.reason)
        });
        say("part", format!("{} {known}", start.utc().format("%H:%M")));
    }
    for revision in revisions {
        let values = prices(revision.bar.mid().map(|mid: Mid| mid.to_string()));
        let (name, when) = match revision.kind {
            RevisionKind::Superseded => {
                ("before", format!("from {} to {}", revision.valid_from, revision.valid_to))
            }
            RevisionKind::Refused => ("refused", format!("at {}", revision.valid_from)),
        };
        say(name, format!("mid {values}, {} ticks, {}; {when}", revision.bar.volume, revision.bar.source));
    }
    lines.join("\n")
}

/// How well it is what a line is about.
fn style_of(name: &str) -> Style {
    match name {
        "missing" | "unknown" | "absent" | "corrected" | "refused" => WARN.bold(),
        "lost" => BAD.bold(),
        _ => NAME,
    }
}

fn prices([open, high, low, close]: [String; 4]) -> String {
    format!("open {open}  high {high}  low {low}  close {close}")
}

/// Whether the market trades, in words.
const fn hours(expected: Expectation) -> &'static str {
    match expected {
        Expectation::Expected => "the market is expected to trade",
        Expectation::Possible => "it is not certain whether the market trades",
        Expectation::Closed => "the market is closed",
    }
}

fn from(bar: &Bar) -> &'static str {
    match bar.source {
        Source::Stream => "the stream (websocket)",
        Source::Rest => "IG's history (ig_rest)",
        Source::Derived => "folded from its 5-minute bars (derived)",
        Source::Import => "a file of yours (import)",
    }
}

fn evidence(run: &Run, spend: Option<&Spend>) -> String {
    let about = match spend {
        Some(spend) => format!(
            ": request \"{}\", booked {}, {} points ({})",
            spend.what, spend.booked_at, spend.points, spend.state
        ),
        // What the ledger names is only where the service stood when it wrote down that the market was closed.
        None if run.reason == Reason::Calendar => {
            return format!("the calendar of its market; noted with {}", run.evidence);
        }
        None if run.evidence.starts_with("ls:") => ": a Lightstreamer session".to_owned(),
        None => String::new(),
    };
    format!("{}{about}", run.evidence)
}

fn json(findings: &Findings) -> Value {
    let Findings { key, expected, bar, run, spend, revisions, attempt, deleted_before, future, parts } =
        findings;
    let side = |prices: [f64; 4]| {
        let [open, high, low, close] = prices;
        json!({ "open": open, "high": high, "low": low, "close": close })
    };
    let values = |bar: &Bar| {
        json!({
            "mid": side(bar.mid().map(Mid::to_f64)),
            "bid": side(bar.bid.prices().map(Price::to_f64)),
            "ask": side(bar.ask.prices().map(Price::to_f64)),
            "volume": bar.volume,
            "source": bar.source.as_str(),
        })
    };
    let known = |run: &Run| {
        json!({
            "state": run.state.as_str(),
            "reason": run.reason.as_str(),
            "in_words": run.reason.in_words(),
            "evidence": run.evidence.as_ref(),
        })
    };
    json!({
        "pair": key.pair.to_string(),
        "timeframe": key.timeframe.as_str(),
        "timestamp": key.start.0,
        "market": hours(*expected),
        "deleted": bar.is_none() && deleted_before.is_some_and(|before| key.start < before),
        "future": bar.is_none() && run.is_none() && future.is_some(),
        "bar": bar.as_ref().map(|stored| {
            let mut told = values(&stored.bar);
            told["created_at"] = stored.created_at.0.into();
            told["updated_at"] = stored.updated_at.0.into();
            told["revision"] = stored.revision.into();
            told["seq"] = stored.seq.into();
            told
        }),
        "ledger": run.as_ref().map(known),
        "request": spend.as_ref().map(|spend| json!({
            "what": spend.what,
            "points": spend.points,
            "state": spend.state,
            "booked_at": spend.booked_at.0,
        })),
        "attempts": attempt.as_ref().map(|attempt| json!({
            "times": attempt.times,
            "next_at": attempt.next_at.0,
        })),
        "parts": parts
            .iter()
            .map(|(start, run)| json!({ "timestamp": start.0, "ledger": run.as_ref().map(known) }))
            .collect::<Vec<_>>(),
        "revisions": revisions
            .iter()
            .map(|revision| {
                let mut told = values(&revision.bar);
                told["kind"] = revision.kind.as_str().into();
                told["valid_from"] = revision.valid_from.0.into();
                told["valid_to"] = revision.valid_to.0.into();
                told
            })
            .collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_the_market_was_closed_is_the_calendars_word() {
        let told = |state, reason| {
            let span = Timestamp(0)..Timestamp(300);
            evidence(&Run { span, state, reason, evidence: "ls:S1".into() }, None)
        };
        assert_eq!(told(State::Closed, Reason::Calendar), "the calendar of its market; noted with ls:S1");
        assert_eq!(told(State::Quiet, Reason::LaterRow), "ls:S1: a Lightstreamer session");
    }
}
