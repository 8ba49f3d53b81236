//! The system's clock: wrong, and set while the program runs. In real time, on a clock that
//! libfaketime makes up for the program alone (Debian's package faketime).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use candlekeep::clock::Clock;
use candlekeep::simulator::{Options, RequestLimits, Speed};

use super::world::{Holes, START, STEP, Service, World, market};

/// Where Debian and others put the library.
const LIBRARIES: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib64/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
];
/// Market time at the start: so many seconds before a bucket ends. Longer than a program takes to
/// subscribe on a busy machine.
const BEFORE_CLOSE_S: i64 = 30;
/// A day, seconds.
const DAY_S: i64 = 86_400;
/// Programs start one after the other, since market time goes on meanwhile.
static STARTING: Mutex<()> = Mutex::new(());

/// The library. CI has it; where it is missing otherwise the tests say that they did not run.
pub fn library() -> Option<&'static str> {
    let found = LIBRARIES.into_iter().find(|path| Path::new(path).exists());
    assert!(found.is_some() || std::env::var_os("CI").is_none(), "libfaketime is missing");
    if found.is_none() {
        eprintln!("NOT RUN: tests of a wrong clock need libfaketime (Debian: apt-get install faketime)");
    }
    found
}

/// The file that says by how much the clock of a program is ahead of the real time.
pub(super) struct Dial(PathBuf);

impl Dial {
    pub(super) fn new(world: &World) -> Dial {
        Dial(world.folder().join("clock"))
    }

    /// It is so many seconds ahead from now on.
    pub(super) fn set(&self, ahead_s: i64) {
        let mut text = String::new();
        writeln!(text, "{ahead_s:+}").unwrap();
        // Replaced in one go, since the program may read it at any time.
        let new = self.0.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &self.0).unwrap();
    }

    /// What has a program go by it.
    pub(super) fn variables<'a>(&'a self, library: &'a str) -> [(&'a str, &'a str); 4] {
        [
            ("LD_PRELOAD", library),
            ("FAKETIME_TIMESTAMP_FILE", self.0.to_str().expect("the folder's name is text")),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ]
    }
}

/// A world in real time, and what its program takes the time to be.
struct Watch {
    world: World,
    /// What has to be added to the real time to give the market's.
    ahead_s: i64,
    dial: Dial,
}

impl Watch {
    fn new() -> Watch {
        // It ends within a bucket, so that a row of the next one comes before the end.
        let start = START.plus(STEP - BEFORE_CLOSE_S);
        let world = World::with_start(
            start,
            Options {
                speed: Speed::Times(1.0),
                rows_per_bar: Some(300),
                wait_for_items: Some(0),
                end: Some(START.plus(STEP + 45)),
                requests_per_minute: RequestLimits { per_key: 100_000, per_account: 100_000 },
                ..market(0)
            },
        );
        let ahead_s = world.simulator().now().since(Clock::system().wall());
        let dial = Dial::new(&world);
        Watch { world, ahead_s, dial }
    }

    /// The program's clock is so many seconds ahead of the market's from now on.
    fn set(&self, off_s: i64) {
        self.dial.set(self.ahead_s + off_s);
    }

    fn run(&self, library: &str) -> Service {
        let mut variables = vec![("CANDLEKEEP_CLOCK", "system"), ("TZ", "UTC")];
        variables.extend(self.dial.variables(library));
        self.world.start("run", &variables)
    }

    /// A world whose program, with a clock that is so many seconds ahead, has subscribed while the
    /// bucket that the market began in was under way.
    fn started(library: &str, off_s: i64) -> (Watch, Service) {
        let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        let watch = Watch::new();
        watch.set(off_s);
        let mut service = watch.run(library);
        watch.world.wait(&mut service, "subscriptions", |world| world.simulator().stats().items == 28);
        let now = watch.world.simulator().now();
        assert!(now < START.plus(STEP), "the machine is too slow: subscribed at {now}");
        (watch, service)
    }

    /// Waits for the end, and compares. Answers the program's log.
    fn verify(&self, mut service: Service) -> Vec<String> {
        self.world.wait_complete(&mut service);
        let log = service.stop();
        self.world.verify(Holes::None);
        log
    }
}

fn said(log: &[String], text: &str) -> bool {
    log.iter().any(|line| line.contains(text))
}

#[test]
fn a_clock_that_is_wrong_by_minutes_settles_nothing_wrongly() {
    let Some(library) = library() else { return };
    std::thread::scope(|scope| {
        for off_s in [0, 120, -120, 1_800] {
            scope.spawn(move || {
                let (watch, service) = Watch::started(library, off_s);
                let log = watch.verify(service);
                let corrected = said(&log, "the system's clock differs from IG's");
                assert_eq!(corrected, off_s != 0, "{off_s}: {log:#?}");
                // Nothing of the bucket under way was asked of REST before it was over.
                let fetched = format!(
                    "SELECT count(*) FROM candles WHERE timestamp >= {} AND source = 'ig_rest'",
                    START.0
                );
                assert_eq!(watch.world.number(&fetched), 0, "{off_s}");
            });
        }
    });
}

#[test]
fn a_clock_that_is_set_while_it_runs_settles_nothing_wrongly() {
    let Some(library) = library() else { return };
    std::thread::scope(|scope| {
        for step_s in [600, -600, DAY_S, -DAY_S] {
            scope.spawn(move || {
                let (watch, mut service) = Watch::started(library, 0);
                watch.world.wait(&mut service, "history", |world| world.stored() > 28 * 8);
                watch.set(step_s);
                let log = watch.verify(service);
                assert!(
                    said(&log, "the system's clock was set, or the machine has slept"),
                    "{step_s}: {log:#?}"
                );
            });
        }
    });
}

#[test]
fn a_clock_that_is_wrong_by_hours_ends_the_program_and_names_the_setting() {
    let Some(library) = library() else { return };
    std::thread::scope(|scope| {
        for off_s in [2 * 3_600, DAY_S, -DAY_S] {
            scope.spawn(move || {
                let watch = Watch::new();
                watch.set(off_s);
                let ended = watch.run(library).ended();
                assert_eq!(ended.code, Some(78), "{off_s}: {:#?}", ended.log);
                assert!(ended.reason().contains("CANDLEKEEP_CLOCK=stream"), "{off_s}: {}", ended.reason());
                let streamed = "SELECT count(*) FROM candles WHERE source = 'websocket'";
                assert_eq!(watch.world.number(streamed), 0, "{off_s}");
            });
        }
    });
}
