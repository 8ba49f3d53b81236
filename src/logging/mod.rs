//! The one log format: a line an event, to stderr, and what comes again and again told once.
//!
//! For journald each line begins with its syslog priority in angle brackets and carries no time,
//! since the journal has it: `<6>candlekeep::writer: bars stored pair=EUR_USD rows=12`. On a
//! terminal the same event reads `21:05:00 info  writer: bars stored pair=EUR_USD rows=12`, the
//! time being UTC. `RUST_LOG` chooses what is shown. What is repeated at levels that a journal keeps is
//! held back by `repeats.rs` and told with `repeated=n`; panics and the summary never are, nor what only
//! somebody who looks for it sees.

mod line;
mod repeats;

use std::io::{IsTerminal, Write as _};
use std::os::unix::fs::FileTypeExt;
use std::panic::PanicHookInfo;
use std::sync::{Mutex, OnceLock, PoisonError};

use indicatif::MultiProgress;
use log::kv::{Error, Key, Value, VisitSource};
use log::{Level, Log, Metadata, Record, error};

use self::line::{Form, line};
use self::repeats::{Kind, Repeats, TEXT_BYTES_MAX, Told, WHO};
use crate::clock::Clock;

/// What is shown when `RUST_LOG` does not say: our own life cycle, and others' troubles; but not that
/// a peer of the HTTP server, or the simulator at a script's wish, has cut a connection or sent nonsense.
const DEFAULT_FILTER: &str = "warn,candlekeep=info,actix_http::h1=off";

/// The same where somebody looks on and is told of progress: only what is not as it should be, and what
/// becomes of the login, which may have to wait for a minute.
const WATCHED_FILTER: &str = "warn,candlekeep::ig::session=info,actix_http::h1=off";

/// Where panics are logged.
const PANICS: &str = "candlekeep::panic";
/// Where a summary of each bucket is logged.
pub const SUMMARY: &str = "candlekeep::summary";

/// The process's logger, once it has one.
static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Starts logging to stderr and turns panics into log lines. Later calls do nothing. `is_watched`:
/// somebody looks on, who is told of progress in other ways.
pub fn init(is_watched: bool) {
    let default = if is_watched { WATCHED_FILTER } else { DEFAULT_FILTER };
    let form = if std::io::stderr().is_terminal() {
        Form::Terminal { colored: wants_colors() }
    } else {
        Form::Journal
    };
    let clock = Clock::system();
    let lines = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(default))
        .format({
            let clock = clock.clone();
            move |out, record| writeln!(out, "{}", line(form, clock.wall(), record))
        })
        .target(env_logger::Target::Pipe(Box::new(AboveBars)))
        .build();
    let level = lines.filter();
    let logger = LOGGER.get_or_init(|| Logger { lines, repeats: Mutex::default(), clock });
    if log::set_logger(logger).is_ok() {
        log::set_max_level(level);
        log_panics();
    }
}

/// Tells what was held back, where its time has come. To be called now and then: without it, what was
/// held back is told with the next event.
pub fn beat() {
    if let Some(logger) = LOGGER.get() {
        logger.tell(&logger.repeats().sweep(logger.clock.monotonic()));
    }
}

/// Tells all that was held back, because the process ends.
pub fn finish() {
    if let Some(logger) = LOGGER.get() {
        logger.tell(&logger.repeats().finish());
    }
}

/// The usual wishes of users (<https://no-color.org>) and of terminals that cannot.
fn wants_colors() -> bool {
    anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never
}

/// Holds back what is repeated, has the rest written as lines.
struct Logger {
    lines: env_logger::Logger,
    repeats: Mutex<Repeats>,
    clock: Clock,
}

impl Logger {
    /// Never held while anything is written or formatted, so that nothing can wait for it in vain.
    fn repeats(&self) -> std::sync::MutexGuard<'_, Repeats> {
        self.repeats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, told: &[Told]) {
        for Told { kind, text, repeated } in told {
            let mut values: Vec<(Key<'_>, Value<'_>)> =
                kind.who.iter().map(|(key, value)| (Key::from(*key), Value::from(value.as_str()))).collect();
            values.push((Key::from("repeated"), Value::from(*repeated)));
            self.lines.log(
                &Record::builder()
                    .level(kind.level)
                    .target(&kind.target)
                    .args(format_args!("{text}"))
                    .key_values(&values.as_slice())
                    .build(),
            );
        }
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.lines.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.lines.matches(record) {
            return;
        }
        if record.level() <= Level::Info && !matches!(record.target(), PANICS | SUMMARY) {
            let (kind, text) = (kind(record), cut(&record.args().to_string()));
            let mut cause = Cause::default();
            // It fails for nobody.
            let _ = record.key_values().visit(&mut cause);
            let admitted = self.repeats().admit(kind, &cause.0, || text, self.clock.monotonic());
            self.tell(&admitted.told);
            if !admitted.shown {
                return;
            }
        }
        self.lines.log(record);
    }

    fn flush(&self) {
        self.lines.flush();
    }
}

/// What an event has in common with others like it.
fn kind(record: &Record<'_>) -> Kind {
    let template = match (record.args().as_str(), record.file(), record.line()) {
        (Some(text), ..) => cut(text),
        // Something is filled in: where it stands in the source says what remains.
        (None, Some(file), Some(line)) => format!("{file}:{line}"),
        (None, ..) => cut(&record.args().to_string()),
    };
    let mut who = Who::default();
    // It fails for nobody.
    let _ = record.key_values().visit(&mut who);
    Kind { level: record.level(), target: cut(record.target()), template, who: who.0 }
}

/// Collects the values that say whom an event is about.
#[derive(Default)]
struct Who(Vec<(&'static str, String)>);

impl<'kvs> VisitSource<'kvs> for Who {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        if let Some(key) = WHO.into_iter().find(|known| *known == key.as_str()) {
            self.0.push((key, cut(&value.to_string())));
        }
        Ok(())
    }
}

/// Collects the values that say why something has happened.
#[derive(Default)]
struct Cause(String);

impl<'kvs> VisitSource<'kvs> for Cause {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        if repeats::CAUSES.contains(&key.as_str()) {
            self.0.push_str(&cut(&value.to_string()));
        }
        Ok(())
    }
}

/// As much of a text as is remembered.
fn cut(text: &str) -> String {
    let ends = (0..=text.len().min(TEXT_BYTES_MAX)).rev().find(|end| text.is_char_boundary(*end));
    text[..ends.unwrap_or(0)].to_owned()
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

/// Whether stderr goes to the journal, where a line without a priority counts as information: a unit's does, which
/// is told so, and a socket leads nowhere else (`systemd-cat`).
pub fn is_journal() -> bool {
    let is_socket = || std::fs::metadata("/proc/self/fd/2").is_ok_and(|about| about.file_type().is_socket());
    std::env::var_os("JOURNAL_STREAM").is_some() || is_socket()
}

/// A panic is one line like everything else; its backtrace follows only where one was asked for.
fn log_panics() {
    let previous = std::panic::take_hook();
    let wants_backtrace = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    std::panic::set_hook(Box::new(move |info| {
        let thread = std::thread::current();
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        error!(
            target: PANICS,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(message: &str, line: u32, pairs: &[(&str, &str)]) -> Kind {
        let pairs: Vec<(Key, Value)> =
            pairs.iter().map(|(key, value)| (Key::from(*key), Value::from(*value))).collect();
        kind(
            &Record::builder()
                .level(Level::Warn)
                .target("candlekeep::ig::stream")
                .file(Some("src/x.rs"))
                .line(Some(line))
                .args(format_args!("{message}"))
                .key_values(&pairs.as_slice())
                .build(),
        )
    }

    #[test]
    fn what_a_peer_makes_up_makes_no_kind() {
        let garbage = |text: &str| kind_of(text, 1, &[("pair", "EUR_USD"), ("line", text)]);
        assert_eq!(garbage("U,1,1,x"), garbage("U,1,1,y"));
        assert_ne!(garbage("U"), kind_of("U", 1, &[("pair", "USD_JPY")]));
        assert_ne!(garbage("U"), kind_of("U", 2, &[("pair", "EUR_USD")]));
    }

    #[test]
    fn a_fixed_text_is_its_template() {
        let args = |text: std::fmt::Arguments<'_>| {
            kind(&Record::builder().file(Some("src/x.rs")).line(Some(1)).args(text).build()).template
        };
        assert_eq!(args(format_args!("rows come again")), "rows come again");
        let number = std::hint::black_box(7);
        assert_eq!(args(format_args!("{number} rows come again")), "src/x.rs:1");
    }

    #[test]
    fn what_is_remembered_is_bounded_in_bytes_not_characters() {
        assert_eq!(cut(&"ü".repeat(1_000)).len(), TEXT_BYTES_MAX);
        assert_eq!(cut("short"), "short");
    }
}
