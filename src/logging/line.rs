//! One event as one line. Pure.

use std::fmt::{self, Write as _};

use log::kv::{self, Key, Value, VisitSource};
use log::{Level, Record};

use crate::domain::Timestamp;

/// Bytes of a message that are shown.
const MESSAGE_BYTES_MAX: usize = 4_096;
/// Bytes of a value that are shown.
const VALUE_BYTES_MAX: usize = 2_048;
/// Bytes of a line: journald cuts lines at 48 KiB (`LineMax=`), and makes several entries of one.
pub const LINE_BYTES_MAX: usize = 32_768;
/// What stands for what was cut.
const CUT: char = '…';

/// How a line begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Syslog priority, no time.
    Journal,
    /// Time of day, UTC, and the level by name.
    Terminal {
        /// Whether the level is coloured.
        colored: bool,
    },
}

/// The priority of sd-daemon(3), its name on a terminal, and its colour there (an SGR parameter).
fn level(level: Level) -> (u8, &'static str, u8) {
    match level {
        Level::Error => (3, "error", 31),
        Level::Warn => (4, "warn ", 33),
        Level::Info => (6, "info ", 32),
        Level::Debug => (7, "debug", 34),
        Level::Trace => (7, "trace", 36),
    }
}

/// One event as one line, without its end and no longer than [`LINE_BYTES_MAX`].
pub fn line(form: Form, now: Timestamp, record: &Record<'_>) -> String {
    let mut line = Line(String::with_capacity(128));
    let (priority, name, color) = level(record.level());
    let target = record.target();
    // Writing to a String cannot fail; a failing Display of somebody's cuts the line short.
    let _ = match form {
        Form::Journal => write!(line.0, "<{priority}>"),
        Form::Terminal { colored } => {
            let time = now.utc().format("%H:%M:%S");
            if colored {
                write!(line.0, "{time} \u{1b}[{color}m{name}\u{1b}[0m ")
            } else {
                write!(line.0, "{time} {name} ")
            }
        }
    };
    let target = match form {
        Form::Journal => target,
        Form::Terminal { .. } => target.strip_prefix("candlekeep::").unwrap_or(target),
    };
    let _ = write!(Bounded::new(&mut line.0, VALUE_BYTES_MAX), "{target}");
    line.0.push_str(": ");
    let _ = write!(Bounded::new(&mut line.0, MESSAGE_BYTES_MAX), "{}", record.args());
    // Fails where there is no room for more values.
    if record.key_values().visit(&mut line).is_err() {
        line.0.push(' ');
        line.0.push(CUT);
    }
    line.0
}

/// Collects the structured values of an event.
struct Line(String);

impl<'kvs> VisitSource<'kvs> for Line {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        const MARGIN: usize = 16;
        if self.0.len() + key.as_str().len() + VALUE_BYTES_MAX + MARGIN > LINE_BYTES_MAX {
            return Err(kv::Error::msg("the line is full"));
        }
        let text = value.to_string();
        let _ = write!(self.0, " {key}=");
        if needs_quotes(&text) {
            self.0.push('"');
            let _ = write!(Bounded::new(&mut self.0, VALUE_BYTES_MAX), "{}", Quoted(&text));
            self.0.push('"');
        } else {
            let _ = Bounded::new(&mut self.0, VALUE_BYTES_MAX).write_str(&text);
        }
        Ok(())
    }
}

/// Whether a bare value would be misread: it would end early, or not look like a value at all.
fn needs_quotes(text: &str) -> bool {
    text.is_empty()
        || text.chars().any(|c| c.is_whitespace() || breaks_line(c) || matches!(c, '"' | '=' | '\\'))
}

/// Whether a character must not reach a log as it is: it would end the line, or drive a terminal.
fn breaks_line(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Escapes what would break the line, and cuts what is too long.
struct Bounded<'a> {
    out: &'a mut String,
    /// Bytes that may still be written.
    left: usize,
    is_cut: bool,
}

impl<'a> Bounded<'a> {
    fn new(out: &'a mut String, bytes_max: usize) -> Bounded<'a> {
        Bounded { out, left: bytes_max, is_cut: false }
    }

    /// Writes all of it or, where it does not fit, the mark that something was cut.
    fn push(&mut self, text: &str) {
        if self.is_cut {
            return;
        }
        match self.left.checked_sub(text.len()) {
            Some(left) => {
                self.left = left;
                self.out.push_str(text);
            }
            None => {
                self.is_cut = true;
                self.out.push(CUT);
            }
        }
    }
}

impl fmt::Write for Bounded<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut buffer = [0; 4];
        for c in text.chars() {
            if breaks_line(c) {
                self.push(&c.escape_default().to_string());
            } else {
                self.push(c.encode_utf8(&mut buffer));
            }
            if self.is_cut {
                break;
            }
        }
        Ok(())
    }
}

/// Escapes quotes and backslashes, for text between quotes.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if matches!(c, '"' | '\\') {
                f.write_char('\\')?;
            }
            f.write_char(c)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOON: Timestamp = Timestamp(1_583_668_800);

    fn shown(form: Form, level: Level, message: &str, pairs: &[(&str, &str)]) -> String {
        let pairs: Vec<(Key, Value)> =
            pairs.iter().map(|(key, value)| (Key::from(*key), Value::from(*value))).collect();
        line(
            form,
            NOON,
            &Record::builder()
                .level(level)
                .target("candlekeep::writer")
                .args(format_args!("{message}"))
                .key_values(&pairs.as_slice())
                .build(),
        )
    }

    #[test]
    fn a_journal_line_begins_with_its_priority() {
        for (level, expected) in [
            (Level::Error, "<3>candlekeep::writer: bars stored rows=12"),
            (Level::Warn, "<4>candlekeep::writer: bars stored rows=12"),
            (Level::Info, "<6>candlekeep::writer: bars stored rows=12"),
            (Level::Debug, "<7>candlekeep::writer: bars stored rows=12"),
            (Level::Trace, "<7>candlekeep::writer: bars stored rows=12"),
        ] {
            assert_eq!(shown(Form::Journal, level, "bars stored", &[("rows", "12")]), expected);
        }
    }

    #[test]
    fn a_terminal_line_begins_with_the_time() {
        assert_eq!(
            shown(Form::Terminal { colored: false }, Level::Warn, "slow", &[("delay_ms", "7")]),
            "12:00:00 warn  writer: slow delay_ms=7"
        );
        assert_eq!(
            shown(Form::Terminal { colored: true }, Level::Warn, "slow", &[("delay_ms", "7")]),
            "12:00:00 \u{1b}[33mwarn \u{1b}[0m writer: slow delay_ms=7"
        );
    }

    #[test]
    fn values_that_could_be_misread_are_quoted() {
        for (value, expected) in [
            ("plain", "plain"),
            ("2020-03-08T12:00:00Z", "2020-03-08T12:00:00Z"),
            ("", "\"\""),
            ("two words", "\"two words\""),
            ("say \"hi\"", "\"say \\\"hi\\\"\""),
            ("a=b", "\"a=b\""),
            ("c:\\x", "\"c:\\\\x\""),
            ("line\nbreak", "\"line\\nbreak\""),
            ("\u{1b}[31m", "\"\\u{1b}[31m\""),
            ("sep\u{2028}", "\"sep\\u{2028}\""),
        ] {
            assert_eq!(
                shown(Form::Journal, Level::Info, "m", &[("k", value)]),
                format!("<6>candlekeep::writer: m k={expected}")
            );
        }
    }

    #[test]
    fn a_message_cannot_forge_a_second_line() {
        let forged = shown(Form::Journal, Level::Info, "U,1,1\r\n<3>candlekeep: all is lost", &[]);
        assert_eq!(forged, "<6>candlekeep::writer: U,1,1\\r\\n<3>candlekeep: all is lost");
    }

    #[test]
    fn what_is_too_long_is_cut_and_says_so() {
        let long = "x".repeat(1_000_000);
        let line = shown(Form::Journal, Level::Info, &long, &[("bare", &long), ("after", "1")]);
        let expected = |count| format!("{}{CUT}", "x".repeat(count));
        let message = format!("<6>candlekeep::writer: {}", expected(MESSAGE_BYTES_MAX));
        assert_eq!(line, format!("{message} bare={} after=1", expected(VALUE_BYTES_MAX)));

        // A quote that was opened is closed, and escapes count as they are written.
        let line = shown(Form::Journal, Level::Info, "m", &[("k", &"\n".repeat(1_000_000))]);
        assert_eq!(
            line,
            format!("<6>candlekeep::writer: m k=\"{}{CUT}\"", "\\n".repeat(VALUE_BYTES_MAX / 2))
        );

        let values: Vec<(String, String)> = (0..100).map(|ix| (format!("k{ix}"), long.clone())).collect();
        let values: Vec<(&str, &str)> =
            values.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let line = shown(Form::Journal, Level::Info, &long, &values);
        assert!(line.len() <= LINE_BYTES_MAX, "{}", line.len());
        assert!(line.ends_with(&format!(" {CUT}")), "it does not say that values are missing");
    }

    proptest! {
        #[test]
        fn one_event_is_one_line(message in any::<String>(), value in any::<String>()) {
            for form in [Form::Journal, Form::Terminal { colored: false }] {
                let line = shown(form, Level::Info, &message, &[("k", &value)]);
                prop_assert!(!line.chars().any(breaks_line), "{line:?}");
            }
        }
    }
}
