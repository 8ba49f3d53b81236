//! A month in which things go wrong at random, and whether the program is as small at its end as it was at its
//! beginning: `cargo bench --bench soak`; with `-- --test` a few days. Linux only: it reads `/proc`.
//!
//! `candlekeep run` is a process of its own, the simulator is in this one and goes as fast as it is listened to.
//! Faults are those of `tests/it/chaos.rs`, at instants of market time that a seed decides, but for the database,
//! which is locked now and then. Afterwards the database is compared with what happened.
//!
//! `CANDLEKEEP_SOAK_DAYS`, `CANDLEKEEP_SOAK_FAULTS` (a day, 0 for none, and no locks either) and `CANDLEKEEP_SOAK_SEED`
//! say how long and what; with `CANDLEKEEP_SOAK_HTTP=1` HTTP is on and asked all the time. Ends with 1 where
//! something grows.

use std::process::ExitCode;
use std::time::Duration;

use candlekeep::simulator::faults::Script;
use candlekeep::simulator::{MarketOptions, Options, Unfiltered};

mod asking;
mod budget;
#[expect(dead_code, reason = "it is a part of the tests, which use the rest")]
#[path = "../tests/it/chaos.rs"]
mod chaos;
#[expect(dead_code, clippy::unwrap_used, reason = "it is a part of the tests, which use the rest")]
#[path = "../tests/it/postgres.rs"]
mod postgres;
#[expect(dead_code, reason = "it is a part of the tests, which use the rest")]
#[path = "../tests/it/process.rs"]
mod process;
#[expect(dead_code, reason = "other benches use the rest")]
mod timing;
#[expect(dead_code, clippy::unwrap_used, reason = "it is a part of the tests, which use the rest")]
#[path = "../tests/it/world.rs"]
mod world;

use asking::Asking;
use budget::Budget;
use process::{Process, Usage};
use timing::now;
use world::{Holes, START, STEP, Service, World, market};

const DAY_S: i64 = 86_400;
/// Days, unless told; and where it is only to be seen that it runs.
const DAYS: i64 = 30;
const DAYS_OF_TEST: i64 = 3;
/// Faults a day.
const FAULTS_A_DAY: u64 = 6;
/// The database is locked each so many days, for so long in real time: longer than a write waits for it.
const LOCKED_EVERY_DAYS: i64 = 6;
const LOCKED_FOR: Duration = Duration::from_secs(7);
/// A third of fewer days than this is judged by nobody.
const JUDGED_FROM: usize = 4;
/// By how much its own memory may be more in the last third, at the median, than in the second, KiB. Of a month
/// these lie ten days or some 57,000 bars apart, so it is what 9 bytes a bar make.
const GROWTH_MAX_KIB: i64 = 512;
/// The budget of the live load with HTTP on, which the worst moment has to keep too, a frame of 8 MiB.
const PEAK_MAX_MIB: f64 = 25.0;
/// Market time that passes before the program is let come to rest.
const STRETCH_S: i64 = 4 * 3_600;
/// It is at rest that used no more than this between two looks, for so long: what its timers and HTTP cost is less.
const IDLE_CPU: Duration = Duration::from_millis(5);
const IDLE: Duration = Duration::from_millis(200);
/// How often HTTP is asked in real time: a market second is shorter than a real one.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Descriptors and threads by which two readings may differ: of connections that are just being made.
const STRAY_MAX: u64 = 8;

/// What the program was like at the end of a day.
struct Sample {
    /// Memory of its own: without pages of the program's file, which come in as its code is first needed.
    own_kib: u64,
    peak_kib: u64,
    descriptors: u64,
    threads: u64,
    usage: Usage,
    log_lines: usize,
}

fn main() -> ExitCode {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let mut budget = Budget::new();
    let of_itself = if budget.is_test() { DAYS_OF_TEST } else { DAYS };
    let days = number("CANDLEKEEP_SOAK_DAYS").map_or(of_itself, |days| days as i64);
    let seed = number("CANDLEKEEP_SOAK_SEED").unwrap_or_else(|| fastrand::u64(..));
    let faults = days as u64 * number("CANDLEKEEP_SOAK_FAULTS").unwrap_or(FAULTS_A_DAY);
    let is_asked = number("CANDLEKEEP_SOAK_HTTP").is_some_and(|on| on > 0);
    println!("{days} days, {faults} faults, seed {seed}, HTTP {}", if is_asked { "asked" } else { "off" });
    let world = World::new(a_month(days, faults, seed));
    let mut variables = chaos::QUICK.to_vec();
    if is_asked {
        variables.push(("CANDLEKEEP_HTTP", "127.0.0.1:0"));
    }
    let mut service = world.start("run", &variables);
    let asking = is_asked.then(|| Asking::start(service.http_address(), ASK_EVERY));
    let began = now();
    let samples = soak(&world, &mut service, days, faults > 0);
    world.wait_complete(&mut service);
    let wall = now() - began;
    if let Some(asking) = asking {
        println!("\n{} answers over HTTP", asking.end());
    }
    service.stop();
    let summary = world.verify(Holes::None);
    let bytes = std::fs::metadata(world.database()).map_or(0, |file| file.len());
    let rows = world.number("SELECT count(*) FROM candles");
    let holes = world.number("SELECT count(*) FROM coverage WHERE state = 'missing' AND reason <> 'silent'");
    let stats = world.simulator().stats();
    println!(
        "\n{faults} faults, {} sessions, {} logins, {} REST requests, {} breaks, in {:.0} s",
        stats.sessions,
        stats.logins,
        stats.rest_requests,
        world.number("SELECT count(*) FROM stream_breaks"),
        wall.as_secs_f64()
    );
    println!(
        "{rows} bars stored ({} of 5 minutes over REST), {holes} holes left, database {:.1} MiB",
        summary.bars("5", "ig_rest"),
        bytes as f64 / f64::from(1 << 20)
    );
    judge(&samples, &mut budget);
    budget.end()
}

/// A market with faults at instants that the seed decides.
fn a_month(days: i64, faults_wanted: u64, seed: u64) -> Options {
    let mut random = fastrand::Rng::with_seed(seed);
    // Within a bucket, so that a stream that comes back after the end still tells what time it is.
    let length_s = days * DAY_S + STEP / 2;
    let mut faults = Script::default();
    for _ in 0..faults_wanted {
        let after_s = random.i64(chaos::CALM_S..length_s - chaos::QUIET_S);
        for (later_s, fault) in chaos::fault(&mut random, Unfiltered::Granted) {
            faults.add(after_s + later_s, fault);
        }
    }
    Options {
        market: MarketOptions::Seeded { seed, start: Some(START) },
        end: Some(START.plus(length_s)),
        second_listen: Some(([127, 0, 0, 1], 0).into()),
        allowance: 100_000_000,
        faults,
        ..market(0)
    }
}

/// Watches it to the end of market time, and takes the database away from it now and then.
fn soak(world: &World, service: &mut Service, days: i64, is_locked: bool) -> Vec<Sample> {
    let process = Process(service.pid());
    let mut samples: Vec<Sample> = Vec::new();
    println!(
        "{:>4} {:>12} {:>9} {:>10} {:>12} {:>8} {:>9} {:>6}",
        "day", "resident KiB", "own KiB", "peak KiB", "descriptors", "threads", "CPU s", "lines"
    );
    for day in 1..=days {
        let end = START.plus(day * DAY_S);
        if is_locked && day % LOCKED_EVERY_DAYS == LOCKED_EVERY_DAYS / 2 {
            // The market goes on meanwhile, or there is nothing that waits.
            world.simulator().control().hold_at(Some(end.plus(STRETCH_S - DAY_S)));
            lock(world, service);
        }
        // A stretch at a time, or what is measured is how far the market is ahead of the disk. Each has the patience
        // of one: while a weekend's market is silent nothing shows that a session works, and each end of one is
        // followed by a pause of up to a minute.
        for left_s in (0..DAY_S / STRETCH_S).rev().map(|left| left * STRETCH_S) {
            let reached = end.plus(-left_s);
            world.simulator().control().hold_at(Some(reached));
            world.wait(service, &reached.to_string(), |world| world.simulator().now() >= reached);
            rest(service, process);
        }
        let sample = Sample {
            own_kib: process.status("RssAnon:"),
            peak_kib: process.status("VmHWM:"),
            descriptors: process.descriptors() as u64,
            threads: process.status("Threads:"),
            usage: process.usage(),
            log_lines: service.log().len(),
        };
        let before = samples.last();
        let cpu = before.map_or(sample.usage.cpu(), |before| sample.usage.since(&before.usage).cpu());
        println!(
            "{day:>4} {:>12} {:>9} {:>10} {:>12} {:>8} {:>9.2} {:>6}",
            process.status("VmRSS:"),
            sample.own_kib,
            sample.peak_kib,
            sample.descriptors,
            sample.threads,
            cpu.as_secs_f64(),
            sample.log_lines - before.map_or(0, |before| before.log_lines)
        );
        samples.push(sample);
    }
    world.simulator().control().hold_at(None);
    samples
}

/// Waits until it has nothing more to do.
fn rest(service: &mut Service, process: Process) {
    let (mut used, mut since) = (process.on_cpu(), now());
    service.wait("it to be at rest", || {
        let (before, at) = (std::mem::replace(&mut used, process.on_cpu()), now());
        if used.saturating_sub(before) > IDLE_CPU {
            since = at;
        }
        at - since >= IDLE
    });
}

/// Has the database to itself for a while.
fn lock(world: &World, service: &mut Service) {
    let connection = rusqlite::Connection::open(world.database()).expect("there is a database");
    connection.busy_timeout(LOCKED_FOR).expect("a time to wait");
    connection.execute_batch("BEGIN EXCLUSIVE").expect("a lock");
    let began = now();
    service.wait("the lock's end", || now() - began >= LOCKED_FOR);
    connection.execute_batch("ROLLBACK").expect("a lock that was there");
}

/// Whether it stays as it was: the first third is for it to warm up, the others are compared.
fn judge(samples: &[Sample], budget: &mut Budget) {
    let third = samples.len() / 3;
    if third < JUDGED_FROM {
        return println!("too short to say whether it grows");
    }
    let settled = &samples[samples.len() - 2 * third..];
    let (second, last) = settled.split_at(third);
    let growth_kib = level(last) - level(second);
    let range = |of: fn(&Sample) -> u64| {
        let (least, most) = (settled.iter().map(of).min(), settled.iter().map(of).max());
        most.unwrap_or(0) - least.unwrap_or(0)
    };
    let what = format!("own memory of {} days with faults, the last third above the second", samples.len());
    budget.at_most(&what, growth_kib as f64, GROWTH_MAX_KIB as f64, "KiB");
    let peak_kib = samples.iter().map(|sample| sample.peak_kib).max().unwrap_or(0);
    budget.at_most("… peak resident", peak_kib as f64 / 1024.0, PEAK_MAX_MIB, "MiB");
    let strays = [range(|sample| sample.descriptors), range(|sample| sample.threads)];
    for (what, differ) in ["descriptors", "threads"].into_iter().zip(strays) {
        budget.at_most(&format!("… {what} differ by"), differ as f64, STRAY_MAX as f64, "of them");
    }
}

/// Memory of its own over these days, at the median: a peak of one day is no level.
fn level(samples: &[Sample]) -> i64 {
    let mut sizes: Vec<u64> = samples.iter().map(|sample| sample.own_kib).collect();
    sizes.sort_unstable();
    sizes[sizes.len() / 2] as i64
}
