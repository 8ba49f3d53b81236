//! The one log format: a line an event, to stderr.
//!
//! For journald each line begins with its syslog priority in angle brackets and carries no time,
//! since the journal has it: `<6>candlekeep::writer: bars stored pair=EUR_USD rows=12`. On a
//! terminal the same event reads `21:05:00 info  writer: bars stored pair=EUR_USD rows=12`, the
//! time being UTC. `RUST_LOG` chooses what is shown.

use std::fmt::{self, Write as _};
use std::io::{IsTerminal, Write as _};
use std::panic::PanicHookInfo;
use std::sync::{Mutex, PoisonError};

use indicatif::MultiProgress;
use log::kv::{self, Key, Value, VisitSource};
use log::{Level, Record, error};

use crate::clock::Clock;
use crate::domain::Timestamp;

/// What is shown when `RUST_LOG` does not say: our own life cycle, and others' troubles; but not that
/// a peer of the HTTP server, or the simulator at a script's wish, has cut a connection.
const DEFAULT_FILTER: &str = "warn,candlekeep=info,actix_http::h1::dispatcher=off";

/// The same where somebody looks on and is told of progress: only what is not as it should be, and what
/// becomes of the login, which may have to wait for a minute.
const WATCHED_FILTER: &str = "warn,candlekeep::ig::session=info,actix_http::h1::dispatcher=off";

/// How a line begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Syslog priority, no time.
    Journal,
    /// Time of day, UTC, and the level by name.
    Terminal,
}

/// Starts logging to stderr and turns panics into log lines. Later calls do nothing. `is_watched`:
/// somebody looks on, who is told of progress in other ways.
pub fn init(is_watched: bool) {
    let default = if is_watched { WATCHED_FILTER } else { DEFAULT_FILTER };
    let form = if std::io::stderr().is_terminal() { Form::Terminal } else { Form::Journal };
    let clock = Clock::system();
    let started = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(default))
        .format(move |out, record| writeln!(out, "{}", line(form, clock.wall(), record)))
        .target(env_logger::Target::Pipe(Box::new(AboveBars)))
        .try_init();
    if started.is_ok() {
        log_panics();
    }
}

/// The bars that are being drawn on stderr.
static BARS: Mutex<Option<MultiProgress>> = Mutex::new(None);

/// Has lines written above these bars from now on, or as they come where there are none.
pub fn draw_above(bars: Option<MultiProgress>) {
    *BARS.lock().unwrap_or_else(PoisonError::into_inner) = bars;
}

/// Stderr, with bars kept out of the way of its lines.
struct AboveBars;

impl std::io::Write for AboveBars {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        let bars = BARS.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match bars {
            Some(bars) => bars.suspend(|| std::io::stderr().write(text)),
            None => std::io::stderr().write(text),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// Whether stderr goes to the journal, where a line without a priority counts as information.
pub fn is_journal() -> bool {
    std::env::var_os("JOURNAL_STREAM").is_some()
}

/// A panic is one line like everything else; its backtrace follows only where one was asked for.
fn log_panics() {
    let previous = std::panic::take_hook();
    let wants_backtrace = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    std::panic::set_hook(Box::new(move |info| {
        let thread = std::thread::current();
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        error!(
            target: "candlekeep::panic",
            thread = thread.name().unwrap_or("unnamed"), place = place.as_str();
            "{}", panic_text(info)
        );
        if wants_backtrace {
            previous(info);
        }
    }));
}

fn panic_text<'a>(info: &'a PanicHookInfo<'_>) -> &'a str {
    let payload = info.payload();
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("panicked")
}

/// The priority of sd-daemon(3) and its name on a terminal.
fn level(level: Level) -> (u8, &'static str) {
    match level {
        Level::Error => (3, "error"),
        Level::Warn => (4, "warn "),
        Level::Info => (6, "info "),
        Level::Debug => (7, "debug"),
        Level::Trace => (7, "trace"),
    }
}

/// One event as one line, without its end.
fn line(form: Form, now: Timestamp, record: &Record<'_>) -> String {
    let mut line = Line(String::with_capacity(128));
    let (priority, name) = level(record.level());
    let target = record.target();
    // Writing to a String cannot fail; a failing Display of somebody's cuts the line short.
    let _ = match form {
        Form::Journal => write!(line.0, "<{priority}>{target}: "),
        Form::Terminal => {
            let target = target.strip_prefix("candlekeep::").unwrap_or(target);
            write!(line.0, "{} {name} {target}: ", now.utc().format("%H:%M:%S"))
        }
    };
    let _ = write!(Escaped(&mut line.0), "{}", record.args());
    let _ = record.key_values().visit(&mut line);
    line.0
}

/// Collects the structured values of an event.
struct Line(String);

impl<'kvs> VisitSource<'kvs> for Line {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let text = value.to_string();
        let _ = write!(self.0, " {key}=");
        if needs_quotes(&text) {
            self.0.push('"');
            let _ = write!(Escaped(&mut self.0), "{}", Quoted(&text));
            self.0.push('"');
        } else {
            self.0.push_str(&text);
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

/// Escapes what would break the line.
struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if breaks_line(c) { self.0.extend(c.escape_default()) } else { self.0.push(c) }
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
            shown(Form::Terminal, Level::Warn, "slow", &[("delay_ms", "7")]),
            "12:00:00 warn  writer: slow delay_ms=7"
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

    proptest! {
        #[test]
        fn one_event_is_one_line(message in any::<String>(), value in any::<String>()) {
            for form in [Form::Journal, Form::Terminal] {
                let line = shown(form, Level::Info, &message, &[("k", &value)]);
                prop_assert!(!line.chars().any(breaks_line), "{line:?}");
            }
        }
    }
}
