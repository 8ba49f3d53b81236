//! The parameters of a query: what each is read from, and what is wrong with it. Pure.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use serde_json::json;

use super::{COUNT_MAX, Chosen, Known, Wrong, names};
use crate::cli;
use crate::domain::{Pair, Timeframe, Timestamp};

/// The longest text that is shown back, in characters.
const SHOWN_MAX: usize = 40;

/// The parameters of a query.
pub(super) struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    pub(super) fn read(text: &'a str, allowed: &[&str]) -> Result<Query<'a>, Wrong> {
        let mut parameters: Vec<(Cow<'_, str>, Cow<'_, str>)> = Vec::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (name, value) = (decoded(name)?, decoded(value)?);
            if !allowed.contains(&&*name) {
                return Err(unknown_parameter(&name, allowed));
            }
            if parameters.iter().any(|(known, _)| *known == name) {
                let reason = format_args!("{name} is given more than once").to_string();
                return Err(Wrong::new(400, "repeated_parameter", reason));
            }
            parameters.push((name, value));
        }
        Ok(Query(parameters))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// The parts of a list, whose commas may be encoded.
    pub(super) fn list(&self, name: &str) -> impl Iterator<Item = &str> {
        self.get(name).into_iter().flat_map(|text| text.split(','))
    }

    /// Those of the watched pairs and kept lengths that are named.
    pub(super) fn chosen(&self, known: Known<'_>) -> Result<Chosen, Wrong> {
        let pairs: Vec<_> = self.list("pairs").map(|text| pair(text, known)).collect::<Result<_, _>>()?;
        let timeframes = self.list("timeframes").map(|text| timeframe(text, known));
        let timeframes: Vec<_> = timeframes.collect::<Result<_, _>>()?;
        if let Some(pair) = pairs.iter().find(|pair| !known.pairs.contains(pair)) {
            return Err(Wrong::unknown_pair(*pair, known.pairs));
        }
        if let Some(timeframe) = timeframes.iter().find(|timeframe| !known.timeframes.contains(timeframe)) {
            return Err(Wrong::unknown_timeframe(*timeframe, known.timeframes));
        }
        Ok(Chosen { pairs, timeframes })
    }

    fn required(&self, name: &str) -> Result<&str, Wrong> {
        let missing = || Wrong::new(400, "missing_parameter", format_args!("{name} is missing"));
        self.get(name).filter(|text| !text.is_empty()).ok_or_else(missing)
    }

    pub(super) fn pair(&self, known: Known<'_>) -> Result<Pair, Wrong> {
        self.required("pair")
            .map_err(|wrong| wrong.with("pairs", names(known.pairs)))
            .and_then(|text| pair(text, known))
    }

    pub(super) fn timeframe(&self, known: Known<'_>) -> Result<Timeframe, Wrong> {
        let text = self.required("timeframe");
        text.map_err(|wrong| wrong.with("timeframes", names(known.timeframes)))
            .and_then(|text| timeframe(text, known))
    }

    pub(super) fn range(&self) -> Result<(Option<Timestamp>, Option<Timestamp>), Wrong> {
        let end = |name| self.get(name).map(|text| time(name, text)).transpose();
        let (from, to) = (end("from")?, end("to")?);
        if let (Some(from), Some(to)) = (from, to) {
            ordered(from, to)?;
        }
        Ok((from, to))
    }
}

fn decoded(text: &str) -> Result<Cow<'_, str>, Wrong> {
    let spaced = text.replace('+', " ");
    let unreadable = |_| Wrong::new(400, "bad_query", "the query is not UTF-8");
    percent_decode_str(&spaced).decode_utf8().map(|text| text.into_owned().into()).map_err(unreadable)
}

fn unknown_parameter(name: &str, allowed: &[&str]) -> Wrong {
    let near = allowed.iter().find(|known| strsim::damerau_levenshtein(name, known) <= 2);
    let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    let reason = format!("there is no parameter {}{hint}", cut(name));
    Wrong::new(400, "unknown_parameter", reason).with("parameters", json!(allowed))
}

pub(super) fn no_choice(name: &str, text: &str, choices: &[&str]) -> Wrong {
    let reason = format!("{name} is one of {}, not {}", choices.join(", "), cut(text));
    Wrong::new(400, &format!("bad_{name}"), reason)
}

pub(super) fn cut(text: &str) -> String {
    format!("\"{}\"", text.chars().take(SHOWN_MAX).collect::<String>())
}

pub(super) fn pair(text: &str, known: Known<'_>) -> Result<Pair, Wrong> {
    let bad = |error| Wrong::new(400, "bad_pair", error).with("pairs", names(known.pairs));
    text.parse().map_err(bad)
}

pub(super) fn timeframe(text: &str, known: Known<'_>) -> Result<Timeframe, Wrong> {
    let bad = |error| Wrong::new(400, "bad_timeframe", error).with("timeframes", names(known.timeframes));
    text.parse().map_err(bad)
}

pub(super) fn count(text: &str) -> Result<u32, Wrong> {
    let count = text.parse().ok().filter(|count| (1..=COUNT_MAX).contains(count));
    let bad = || {
        let reason = format!("count is a whole number from 1 to {COUNT_MAX}, not {}", cut(text));
        Wrong::new(400, "bad_count", reason).with("limit", COUNT_MAX.into())
    };
    count.ok_or_else(bad)
}

pub(super) fn time(name: &str, text: &str) -> Result<Timestamp, Wrong> {
    // A plus that was not encoded has come as a space: `2026-01-05T21:00 01:00`.
    let with_plus = || {
        let (time, zone) = text.rsplit_once(' ')?;
        cli::parse_time(&format!("{time}+{zone}")).ok()
    };
    match cli::parse_time(text) {
        Ok(time) => Ok(time),
        Err(error) => with_plus().ok_or_else(|| {
            Wrong::new(400, &format!("bad_{name}"), format_args!("{name} {}: {error}", cut(text)))
        }),
    }
}

pub(super) fn ordered(from: Timestamp, to: Timestamp) -> Result<(), Wrong> {
    if from < to {
        return Ok(());
    }
    Err(Wrong::new(400, "bad_range", format_args!("from {from} is not before to {to}")))
}
