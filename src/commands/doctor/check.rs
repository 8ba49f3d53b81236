//! One line of the report: how something is, and what mends it.

use serde_json::{Value, json};

use crate::commands::margin::hang;
use crate::commands::paint::{BAD, GOOD, WARN, paint};

/// Where the text of a line begins: behind level and name.
const TEXT_AT: usize = 21;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and may not for long or not for everybody.
    Warn,
    /// It does not work until somebody does something.
    Fix,
}

impl Level {
    /// As programs read it.
    const fn as_str(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fix => "fix",
        }
    }

    /// As people read it.
    const fn shown(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warn => "WARN",
            Level::Fix => "FIX",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// How bad it is.
    pub level: Level,
    /// How it is.
    pub state: String,
    /// The command or key that mends it; none where nothing is to be mended.
    pub mend: Option<String>,
}

impl Check {
    /// As it should be.
    pub fn ok(name: &'static str, state: impl Into<String>) -> Check {
        Check { name, level: Level::Ok, state: state.into(), mend: None }
    }

    /// Not as it should be, though it works.
    pub fn warn(name: &'static str, state: impl Into<String>, mend: impl Into<String>) -> Check {
        Check { name, level: Level::Warn, state: state.into(), mend: Some(mend.into()) }
    }

    /// To be mended.
    pub fn fix(name: &'static str, state: impl Into<String>, mend: impl Into<String>) -> Check {
        Check { name, level: Level::Fix, state: state.into(), mend: Some(mend.into()) }
    }

    /// Whether the service can do its work as far as this goes.
    pub fn is_well(&self) -> bool {
        self.level < Level::Fix
    }

    /// The line, for people; folded under its text where there are so many columns.
    pub fn line(&self, columns: Option<usize>) -> String {
        let Check { name, level, state, mend } = self;
        let text = match mend {
            Some(mend) => format!("{state}; {mend}"),
            None => state.clone(),
        };
        let style = match level {
            Level::Ok => GOOD,
            Level::Warn => WARN,
            Level::Fix => BAD,
        };
        // Padding counts characters, so it stands outside of the colour.
        let padding = " ".repeat(5 - level.shown().len());
        let line = format!("{}{padding} {name:<14} {text}", paint(style, level.shown()));
        hang(&line, TEXT_AT, columns)
    }

    /// The same, for programs.
    pub fn json(&self) -> Value {
        let Check { name, level, state, mend } = self;
        let mut told = json!({ "name": name, "ok": self.is_well(), "level": level.as_str(), "state": state });
        if let Some(mend) = mend {
            told["fix"] = json!(mend);
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;

    use super::*;

    #[test]
    fn a_line_ends_with_what_mends_it_and_is_folded_under_its_text() {
        let check =
            Check::fix("database", "no such folder: /var/lib/candlekeep", "mkdir -p /var/lib/candlekeep");
        let line = "FIX   database       no such folder: /var/lib/candlekeep; mkdir -p /var/lib/candlekeep";
        let shown = |columns| strip_str(&check.line(columns)).to_string();
        assert_eq!(shown(None), line);
        assert_eq!(shown(Some(200)), line);
        assert_eq!(
            shown(Some(60)),
            "FIX   database       no such folder: /var/lib/candlekeep;\n                     mkdir -p /var/lib/candlekeep"
        );
        assert_eq!(shown(Some(30)), line, "too narrow for anything");
    }

    #[test]
    fn programs_read_level_state_and_fix() {
        let told = Check::warn("space", "little", "make room").json();
        let expected =
            json!({ "name": "space", "ok": true, "level": "warn", "state": "little", "fix": "make room" });
        assert_eq!(told, expected);
        assert_eq!(Check::fix("a", "b", "c").json()["ok"], false);
        assert_eq!(
            Check::ok("a", "b").json(),
            json!({ "name": "a", "ok": true, "level": "ok", "state": "b" })
        );
    }
}
