//! What can go wrong, and scripts that say when, in market time. Pure.
//!
//! A script is a JSON array. Each entry names a fault (`do`), its particulars, and its time: `after_s`
//! seconds from where the market begins, or `at`, an instant; `every_s` and `repeat` for more than
//! once. `candlekeep simulate --faults-help` prints [`HELP`].

mod plan;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use serde_json::{Map, Value};

use super::control::{Address, Cut, Refusal, RestGarbage, Rubbish};
use super::tlcp::{Field, TlcpVersion};
use crate::domain::{Pair, Timestamp};
pub(crate) use plan::Plan;

/// What `simulate --faults-help` prints.
pub const HELP: &str = include_str!("help.txt");
/// Largest script, bytes.
pub const SCRIPT_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Most entries of a script.
const ENTRIES_MAX: usize = 10_000;
/// Largest line of garbage, bytes: twice what a client may be expected to take.
const HUGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Something that goes wrong.
///
/// Where a fault concerns pairs, none given means all.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    // ---- connections ----
    /// Every stream's connection ends. The sessions live on and can be bound again.
    Cut {
        /// How.
        #[serde(default)]
        how: Cut,
    },
    /// Every stream falls silent, both ways, while its socket stays open.
    HalfOpen {},
    /// Every stream is dropped, its session forgotten, and new ones are refused for so long.
    Outage {
        /// Seconds of market time.
        for_s: u32,
    },
    /// The server ends and is there again: no session is known any more, nor any token.
    Restart {},
    /// WebSockets are refused, streams over HTTP are not.
    RefuseWebsockets {
        /// What is answered instead.
        #[serde(default)]
        with: Refusal,
        /// How many; 0: none from now on. All, unless given.
        #[serde(default = "always")]
        times: u32,
    },
    /// Streams over HTTP are refused, WebSockets are not.
    RefuseHttp {
        /// What is answered instead.
        #[serde(default)]
        with: Refusal,
        /// How many; 0: none from now on. All, unless given.
        #[serde(default = "always")]
        times: u32,
    },
    /// An address accepts no connections, and drops those that it has.
    Shut {
        /// Which.
        address: Address,
    },
    /// It accepts them again.
    Open {
        /// Which.
        address: Address,
    },
    /// How messages are cut into frames and pieces from now on.
    Framing {
        /// Longest frame of a message, or piece of an HTTP answer; 0: as long as it comes.
        #[serde(default)]
        fragment_bytes: u32,
        /// Whether each line is a message by itself.
        #[serde(default)]
        single_lines: bool,
        /// How long each of these waits for the one before it, milliseconds.
        #[serde(default)]
        apart_ms: u16,
    },
    /// Something on every stream that no client can use.
    Garbage {
        /// What.
        what: Rubbish,
    },

    // ---- sessions ----
    /// Every session is unbound with `LOOP,<delay>`.
    Loop {
        /// When to come back, milliseconds.
        #[serde(default)]
        delay_ms: u64,
    },
    /// Every session ends with `END,<code>,<text>`.
    End {
        /// Code.
        code: i32,
        /// Text.
        #[serde(default)]
        text: String,
    },
    /// `create_session` is answered by `CONERR,<code>,<text>`.
    RefuseCreates {
        /// How many.
        #[serde(default = "once")]
        times: u32,
        /// Code.
        code: i32,
        /// Text.
        #[serde(default)]
        text: String,
    },
    /// `bind_session` is answered by `CONERR,<code>,<text>`, and its session forgotten.
    RefuseBinds {
        /// How many.
        #[serde(default = "once")]
        times: u32,
        /// Code.
        code: i32,
        /// Text.
        #[serde(default)]
        text: String,
    },
    /// The next recovery begins so many data lines too early: they are sent again.
    Resend {
        /// How many.
        lines: u64,
    },
    /// The next recovery claims in `PROG` to begin so many data lines too late.
    WrongProg {
        /// How many.
        lines: u64,
    },
    /// An answer does not come.
    Withhold {
        /// Which.
        what: Withheld,
        /// How many times.
        #[serde(default = "once")]
        times: u32,
    },
    /// What `CONOK` gives as control link from now on.
    ControlLink {
        /// An address; `*`: stay here.
        link: String,
    },
    /// The newest protocol version that is spoken from now on.
    TlcpVersion {
        /// Such as 2.3.0.
        #[serde(deserialize_with = "parsed")]
        newest: TlcpVersion,
    },
    /// Every token is dead, as after weekend maintenance. Open streams go on.
    WipeTokens {},

    // ---- items ----
    /// Subscriptions are refused with `REQERR`.
    RefuseItems {
        /// Of these pairs.
        #[serde(default, deserialize_with = "pairs")]
        pairs: Vec<Pair>,
        /// How many times each.
        #[serde(default = "once")]
        times: u32,
        /// Code.
        code: i32,
        /// Text.
        #[serde(default)]
        text: String,
    },
    /// Rows are lost, and `OV` says so.
    Overflow {
        /// Of these pairs.
        #[serde(default, deserialize_with = "pairs")]
        pairs: Vec<Pair>,
        /// How many of each.
        rows: u32,
    },
    /// No rows come, while the connection lives.
    Stall {
        /// Of these pairs.
        #[serde(default, deserialize_with = "pairs")]
        pairs: Vec<Pair>,
        /// Seconds of market time.
        for_s: u32,
        /// Whether a new subscription brings rows all the same.
        #[serde(default)]
        cured_by_subscribing: bool,
    },
    /// Closing rows do not come as they should.
    Closes {
        /// Of these pairs.
        #[serde(default, deserialize_with = "pairs")]
        pairs: Vec<Pair>,
        /// How they come.
        how: Closing,
        /// How many of each.
        #[serde(default = "once")]
        bars: u32,
        /// How much later, where they come late or again, seconds of market time.
        #[serde(default = "a_minute")]
        by_s: u32,
    },
    /// Fields have other texts than they should.
    Values {
        /// Of these pairs.
        #[serde(default, deserialize_with = "pairs")]
        pairs: Vec<Pair>,
        /// Text by field; null: null.
        fields: BTreeMap<Field, Option<String>>,
        /// In how many rows of each.
        #[serde(default = "once")]
        rows: u32,
    },
    /// Updates have these values in the place of their own, to the letter.
    Raw {
        /// Of these pairs.
        #[serde(default, deserialize_with = "pairs")]
        pairs: Vec<Pair>,
        /// What stands behind `U,<subscription>,<item>,`.
        values: String,
        /// In how many updates of each.
        #[serde(default = "once")]
        rows: u32,
    },
    /// Snapshots show the candle before the forming one.
    OldSnapshot {
        /// How many.
        #[serde(default = "once")]
        times: u32,
    },
    /// Prices change their scale.
    Scale {
        /// Of these pairs.
        #[serde(default, deserialize_with = "pairs")]
        pairs: Vec<Pair>,
        /// Whether they are in points (11423.3) from now on, or in decimals (1.14233).
        in_points: bool,
        /// Where.
        #[serde(default)]
        side: ScaledSide,
    },

    // ---- REST ----
    /// Requests are refused.
    RefuseRest {
        /// How many.
        #[serde(default = "once")]
        times: u32,
        /// HTTP status.
        status: u16,
        /// IG's `errorCode`.
        code: String,
        /// Beginning of the path behind the base address, such as `prices`; all, unless given.
        #[serde(default)]
        path: String,
    },
    /// REST requests are answered with garbage after they have been done: tokens are handed out, points spent.
    GarbageRest {
        /// What.
        what: RestGarbage,
        /// How many.
        #[serde(default = "once")]
        times: u32,
        /// Beginning of the path behind the base address, such as `prices`; all, unless given.
        #[serde(default)]
        path: String,
    },
    /// History lacks its newest bars.
    RestBehind {
        /// What is younger is not served, seconds of market time.
        by_s: u32,
        /// Seconds of market time.
        for_s: u32,
    },
    /// Somebody else has spent data points of the account, or IG has given some back.
    Allowance {
        /// Points that are left of the week's.
        left: u32,
    },
    /// Answers of history have a bar with a null price.
    NullLegs {
        /// Of these pairs.
        #[serde(default, deserialize_with = "pairs")]
        pairs: Vec<Pair>,
        /// How many answers of each.
        #[serde(default = "once")]
        times: u32,
    },
}

/// An answer that can be withheld.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Withheld {
    /// `WSOK`.
    Wsok,
    /// `CONOK`, and with it the session.
    Conok,
}

/// How a candle's closing row comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Closing {
    /// With all its values, but not marked as the end.
    Drop,
    /// Not at all: the next one is of the next candle.
    Merge,
    /// Behind rows of the next candle.
    Late,
    /// As it should, and once more later.
    Repeat,
    /// With wrong closes and one tick too few; later with the right ones.
    Correct,
    /// As it should; later with wrong closes and one tick too few.
    Worsen,
}

/// Where prices change their scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaledSide {
    /// On the stream and over REST.
    #[default]
    Both,
    /// On the stream alone.
    Stream,
    /// Over REST alone.
    Rest,
}

impl Fault {
    /// The pairs that are concerned; none where all are, or where it is not about pairs.
    fn pairs(&self) -> &[Pair] {
        match self {
            Fault::RefuseItems { pairs, .. }
            | Fault::Overflow { pairs, .. }
            | Fault::Stall { pairs, .. }
            | Fault::Closes { pairs, .. }
            | Fault::Values { pairs, .. }
            | Fault::Raw { pairs, .. }
            | Fault::Scale { pairs, .. }
            | Fault::NullLegs { pairs, .. } => pairs,
            _ => &[],
        }
    }
}

fn once() -> u32 {
    1
}

fn always() -> u32 {
    u32::MAX
}

fn a_minute() -> u32 {
    60
}

/// A value that is written as a text.
fn parsed<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

fn pairs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Pair>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    names.iter().map(|name| name.parse()).collect::<Result<_, _>>().map_err(D::Error::custom)
}

/// When an entry's time comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// So many seconds after the market's beginning.
    After(i64),
    At(Timestamp),
}

/// One entry of a script.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    moment: Moment,
    /// Distance of repetitions, seconds.
    every_s: u32,
    /// How many times in all.
    times: u64,
    fault: Fault,
}

/// Faults and their times.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Script {
    entries: Vec<Entry>,
}

/// Why a text is no script.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// It is not JSON, or no array of objects.
    #[error("not a JSON array of objects: {0}")]
    NotJson(serde_json::Error),
    /// There are too many entries.
    #[error("more than {ENTRIES_MAX} entries")]
    TooLong,
    /// One entry cannot be understood.
    #[error("entry {number}: {why}")]
    BadEntry {
        /// Its place, from 1 on.
        number: usize,
        /// What is wrong with it.
        why: String,
    },
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    /// A text that is no array of objects, and any entry that is not understood wholly.
    pub fn parse(text: &str) -> Result<Script, ScriptError> {
        let objects: Vec<Map<String, Value>> = serde_json::from_str(text).map_err(ScriptError::NotJson)?;
        if objects.len() > ENTRIES_MAX {
            return Err(ScriptError::TooLong);
        }
        let numbered = (1..).zip(objects);
        let entries = numbered
            .map(|(number, object)| entry(object).map_err(|why| ScriptError::BadEntry { number, why }))
            .collect::<Result<_, _>>()?;
        Ok(Script { entries })
    }

    /// Adds a fault, so many seconds after the market's beginning.
    pub fn add(&mut self, after_s: i64, fault: Fault) {
        self.entries.push(Entry { moment: Moment::After(after_s), every_s: 0, times: 1, fault });
    }

    /// The first pair of an entry that is none of these, with the entry's number.
    pub(crate) fn unknown_pair(&self, known: &[Pair]) -> Option<(usize, Pair)> {
        let numbered = (1..).zip(&self.entries);
        numbered
            .flat_map(|(number, entry)| entry.fault.pairs().iter().map(move |pair| (number, *pair)))
            .find(|(_, pair)| !known.contains(pair))
    }

    /// The number of the first entry that is about the second address.
    pub(crate) fn second_address(&self) -> Option<usize> {
        let second = |entry: &Entry| {
            matches!(
                entry.fault,
                Fault::Shut { address: Address::Second } | Fault::Open { address: Address::Second }
            )
        };
        self.entries.iter().position(second).map(|place| place + 1)
    }

    /// What is to happen in a market that begins then. What lies before is left out.
    pub(crate) fn plan(&self, start: Timestamp) -> Plan {
        let mut plan = Plan::default();
        for entry in &self.entries {
            let at = match entry.moment {
                Moment::After(seconds) => start.plus(seconds),
                Moment::At(time) => time,
            };
            // What comes once comes no second later again.
            let every_s = i64::from(entry.every_s.max(1));
            let missed = (start.since(at).max(0) as u64).div_ceil(every_s as u64);
            let (at, times) =
                (at.plus((missed as i64).saturating_mul(every_s)), entry.times.saturating_sub(missed));
            plan.add(at, entry.every_s, times, entry.fault.clone());
        }
        plan
    }
}

/// Reads an entry: its time apart from its fault, which knows nothing of times.
fn entry(mut object: Map<String, Value>) -> Result<Entry, String> {
    let mut take = |name: &str| object.remove(name);
    let number = |name: &str, value: Option<Value>| {
        let number = |value: Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
        value.map(|value| number(value).ok_or_else(|| format!("`{name}` is a whole number"))).transpose()
    };
    let moment = match (take("after_s"), take("at")) {
        (Some(_), Some(_)) => return Err("either `after_s` or `at`".to_owned()),
        (None, Some(at)) => Moment::At(instant(&at)?),
        (after_s, None) => Moment::After(i64::from(number("after_s", after_s)?.unwrap_or(0))),
    };
    let every_s = number("every_s", take("every_s"))?;
    let repeat = number("repeat", take("repeat"))?;
    let (every_s, times) = match (every_s, repeat) {
        (None, None) => (0, 1),
        (Some(every_s @ 1..), repeat) => (every_s, repeat.map_or(u64::MAX, u64::from)),
        _ => return Err("`repeat` needs `every_s`, at least 1".to_owned()),
    };
    let fault: Fault = serde_json::from_value(Value::Object(object)).map_err(|error| error.to_string())?;
    if let Fault::Garbage { what: Rubbish::Huge(bytes) } = fault
        && bytes > HUGE_BYTES_MAX
    {
        return Err(format!("`huge` is at most {HUGE_BYTES_MAX}"));
    }
    Ok(Entry { moment, every_s, times, fault })
}

fn instant(value: &Value) -> Result<Timestamp, String> {
    let time = match value {
        Value::Number(seconds) => {
            seconds.as_i64().and_then(|seconds| DateTime::from_timestamp(seconds, 0)).map(Timestamp::from)
        }
        Value::String(text) => text.parse::<DateTime<Utc>>().ok().map(Timestamp::from),
        _ => None,
    };
    time.ok_or_else(|| "`at` is an instant such as \"2024-01-15T09:00:00Z\", or epoch seconds".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of the help that are entries.
    fn examples() -> Vec<&'static str> {
        HELP.lines()
            .map(|line| line.trim().trim_end_matches(','))
            .filter(|line| line.starts_with('{'))
            .collect()
    }

    fn parse_one(entry: &str) -> Result<Script, String> {
        Script::parse(&format!("[{entry}]")).map_err(|error| error.to_string())
    }

    /// The names that the enumeration knows, as it says itself where it is given another.
    fn names() -> Vec<String> {
        let error = parse_one(r#"{"do": "?"}"#).unwrap_err();
        error.split('`').skip(3).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn every_fault_has_an_example_in_the_help_that_is_understood() {
        for example in examples() {
            parse_one(example).unwrap_or_else(|error| panic!("{example}: {error}"));
        }
        let names = names();
        assert!(names.len() > 25, "{names:?}");
        for name in names {
            let named = |example: &&str| example.contains(&format!(r#""do": "{name}""#));
            assert!(examples().iter().any(named), "{name} has no example");
        }
    }

    #[test]
    fn the_documents_name_every_fault() {
        let document = include_str!("../../../docs/simulator.md");
        for name in names() {
            assert!(document.contains(&format!("`{name}`")), "{name}");
        }
    }

    #[test]
    fn times_are_relative_or_absolute_and_repeat() {
        let script = Script::parse(
            r#"[{"do": "half_open", "after_s": 60, "every_s": 30, "repeat": 2},
                {"do": "wipe_tokens", "at": "1970-01-01T00:17:40Z"},
                {"do": "restart"}]"#,
        );
        let mut plan = script.unwrap().plan(Timestamp(1_000));
        let mut happened = Vec::new();
        while let Some(time) = plan.next() {
            happened.push((time.0, plan.due(time).unwrap()));
        }
        let expected = [
            (1_000, Fault::Restart {}),
            (1_060, Fault::HalfOpen {}),
            (1_060, Fault::WipeTokens {}),
            (1_090, Fault::HalfOpen {}),
        ];
        assert_eq!(happened, expected);
    }

    #[test]
    fn what_lies_before_the_beginning_does_not_happen() {
        let times = |entry: &str| {
            let mut plan = parse_one(entry).unwrap().plan(Timestamp(1_000));
            let mut times = Vec::new();
            while let Some(time) = plan.next().filter(|time| time.0 < 1_100) {
                plan.due(time).unwrap();
                times.push(time.0);
            }
            times
        };
        for (when, expected) in [
            (r#""at": 999"#, &[][..]),
            (r#""at": 1000"#, &[1_000]),
            (r#""at": 0, "every_s": 40"#, &[1_000, 1_040, 1_080]),
            (r#""at": 1, "every_s": 40"#, &[1_001, 1_041, 1_081]),
            (r#""at": 0, "every_s": 40, "repeat": 27"#, &[1_000, 1_040]),
            (r#""at": 0, "every_s": 40, "repeat": 25"#, &[]),
            (r#""at": -5000000000, "every_s": 50"#, &[1_000, 1_050]),
            (r#""at": "-200000-01-01T00:00:00Z", "every_s": 4294967295"#, &[]),
        ] {
            assert_eq!(times(&format!(r#"{{"do": "restart", {when}}}"#)), expected, "{when}");
        }
    }

    #[test]
    fn what_is_not_understood_wholly_is_refused_with_its_place() {
        for (entry, expected) in [
            (r#"{"do": "cut", "hwo": "reset"}"#, "unknown field `hwo`"),
            (r#"{"do": "half_open", "how": "reset"}"#, "unknown field `how`"),
            (r#"{"do": "cut", "how": "gently"}"#, "unknown variant `gently`"),
            (r#"{"do": "end"}"#, "missing field `code`"),
            (r#"{"after_s": 3}"#, "missing field `do`"),
            (r#"{"do": "stall", "for_s": 3, "pairs": ["EURO"]}"#, "not a currency pair: \"EURO\""),
            (r#"{"do": "values", "fields": {"BID": "1"}}"#, "unknown variant `BID`"),
            (r#"{"do": "tlcp_version", "newest": "2"}"#, "not a protocol version"),
            (r#"{"do": "restart", "after_s": -1}"#, "`after_s` is a whole number"),
            (r#"{"do": "restart", "after_s": 1, "at": 2}"#, "either `after_s` or `at`"),
            (r#"{"do": "restart", "at": "noon"}"#, "`at` is an instant"),
            (r#"{"do": "restart", "at": -9223372036854775808}"#, "`at` is an instant"),
            (r#"{"do": "restart", "repeat": 2}"#, "`repeat` needs `every_s`"),
            (r#"{"do": "restart", "every_s": 0}"#, "`repeat` needs `every_s`, at least 1"),
            (r#"{"do": "garbage", "what": {"huge": 99999999999}}"#, "`huge` is at most"),
        ] {
            let error = parse_one(entry).unwrap_err();
            assert!(error.starts_with("entry 1: ") && error.contains(expected), "{entry}: {error}");
        }
        for text in ["", "{}", "[1]", "[{}", r#"{"do": "restart"}"#] {
            assert!(Script::parse(text).unwrap_err().to_string().starts_with("not a JSON array"), "{text}");
        }
    }

    #[test]
    fn a_pair_without_a_market_is_found() {
        let script = Script::parse(
            r#"[{"do": "restart"}, {"do": "stall", "for_s": 1, "pairs": ["EURUSD", "EURSEK"]}]"#,
        );
        let known = ["EURUSD".parse().unwrap()];
        assert_eq!(script.unwrap().unknown_pair(&known), Some((2, "EURSEK".parse().unwrap())));
    }
}
