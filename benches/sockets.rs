//! What `candlekeep run` costs as a process of its own, fed through real sockets by `candlekeep
//! simulate`: `cargo bench --bench sockets -- WHAT`. Linux only: it reads `/proc`.
//!
//! `fast [DAYS]` (also without words): 300 rows a bar, as fast as it takes them.
//! `replay DIR`: recorded bars, 5 rows each, as fast as it takes them.
//! `live [SECONDS]`: 28 pairs, a row a second each, at the speed of time; each whole 300 seconds
//! hold one close of all bars.
//!
//! All figures are of `run` alone, from its first rows to the last bar stored. Nothing is
//! backfilled: a first start's history is fetched at the pace that IG sets, for minutes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use candlekeep::domain::Timestamp;
use candlekeep::store::{DatabaseUrl, Store};

#[expect(dead_code, reason = "it is a part of the tests, which use the rest")]
#[path = "../tests/it/process.rs"]
mod process;

const BINARY: &str = env!("CARGO_BIN_EXE_candlekeep");
/// 2026-11-17 08:00 UTC, a Tuesday: a made-up market is open then, whatever today is.
const LIVE_FROM: Timestamp = Timestamp(1_794_902_400);
/// 2026-11-16 00:00 UTC, a Monday.
const FAST_FROM: Timestamp = Timestamp(1_794_787_200);
const DAY_S: i64 = 86_400;
/// The budget of the live load with HTTP off, % of a core, and a bound for what wakes it each second: a row, a timer of each room.
const SHARE_MAX: f64 = 0.1;
const WAKEUPS_MAX: f64 = 12.0;
/// What a start brings is no part of the live load.
const SETTLE: Duration = Duration::from_secs(5);
/// A run that used no processor for so long is done.
const IDLE: Duration = Duration::from_secs(1);
/// How often that is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

fn main() {
    // What cargo passes to every bench.
    let words: Vec<String> =
        std::env::args().skip(1).filter(|word| !["--bench", "--test"].contains(&word.as_str())).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let number = |word: &str| word.parse().expect("a number");
    match words[..] {
        [] | ["fast"] => fast(3),
        ["fast", days] => fast(number(days)),
        ["replay", dir] => at_full_speed(&["--replay", dir]),
        ["live"] => live(300),
        ["live", seconds] => live(number(seconds) as u64),
        _ => panic!("fast [DAYS], replay DIR or live [SECONDS]"),
    }
}

fn fast(days: i64) {
    let (from, to) = (FAST_FROM.to_string(), FAST_FROM.plus(days * DAY_S).to_string());
    at_full_speed(&["--rows-per-bar", "300", "--from", &from, "--to", &to]);
}

fn at_full_speed(market: &[&str]) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut pair = Pair::start(dir.path(), &[market, &["--speed", "max"]].concat());
    let (begun, before) = (now(), pair.run.cost().usage());
    let (mut ended, mut after) = (begun, before);
    while now() - ended < IDLE {
        sleep(LOOK_EVERY);
        let usage = pair.run.cost().usage();
        // The run's own ticks are no work: less than a hundredth of a core.
        if usage.cpu() - after.cpu() > LOOK_EVERY / 100 {
            ended = now();
        }
        after = usage;
    }
    let (wall, used) = (ended - begun, after.since(&before));
    let peak = pair.run.cost().status("VmHWM:");
    let rows = pair.simulate.wait_for_word("reached its end", "rows=");
    drop(pair);
    let url = DatabaseUrl::sqlite(dir.path().join("bars.db"));
    let counts = Store::open_read_only(&url).and_then(|mut store| store.counts()).expect("its bars");
    let bars: u64 = counts.iter().map(|(_, count)| count).sum();
    let per_second = |count: u64| count as f64 / wall.as_secs_f64();
    println!("{rows} rows, {bars} bars stored, in {:.2} s:", wall.as_secs_f64());
    println!("  {:.0} rows/s, {:.0} bars/s", per_second(rows), per_second(bars));
    println!(
        "  {:.2} CPU-seconds a million rows ({:.2} s user, {:.2} s system)",
        used.cpu().as_secs_f64() / rows as f64 * 1e6,
        used.user.as_secs_f64(),
        used.system.as_secs_f64()
    );
    println!("  peak resident {:.1} MiB", peak as f64 / 1024.0);
}

fn live(seconds: u64) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let from = LIVE_FROM.to_string();
    let pair = Pair::start(dir.path(), &["--speed", "1", "--rows-per-bar", "300", "--from", &from]);
    sleep(SETTLE);
    let (begun, on_cpu, wakeups) = (now(), pair.run.cost().on_cpu(), pair.run.cost().wakeups());
    sleep(Duration::from_secs(seconds));
    let wall = (now() - begun).as_secs_f64();
    let share = (pair.run.cost().on_cpu() - on_cpu).as_secs_f64() / wall;
    let cost = pair.run.cost();
    let wakeups = (cost.wakeups() - wakeups) as f64 / wall;
    let [peak, own] = ["VmHWM:", "RssAnon:"].map(|key| cost.status(key) as f64 / 1024.0);
    let with_http = !std::env::var("CANDLEKEEP_HTTP").is_ok_and(|place| place == "off");
    let (share_max, peak_max) = if with_http { (None, 25.0) } else { (Some(SHARE_MAX), 15.0) };
    println!("{wall:.0} s of 28 pairs, a row a second each:");
    println!("  {:.3} % of a core{}", 100.0 * share, verdict(100.0 * share, share_max));
    println!("  {wakeups:.1} wake-ups a second{}", verdict(wakeups, (!with_http).then_some(WAKEUPS_MAX)));
    println!(
        "  peak resident {peak:.1} MiB{}; its own at the end {own:.1} MiB",
        verdict(peak, Some(peak_max))
    );
    println!("  {} threads", cost.status("Threads:"));
}

/// Whether a figure is within its budget, if there is one.
fn verdict(figure: f64, most: Option<f64>) -> String {
    match most {
        Some(most) if figure <= most => format!(" (met: at most {most})"),
        Some(most) => format!(" (MISSED: at most {most})"),
        None => String::new(),
    }
}

/// Both processes. They end with it.
struct Pair {
    run: Process,
    simulate: Process,
}

impl Pair {
    /// Starts the simulator and then `run`, and waits until that streams.
    fn start(dir: &Path, market: &[&str]) -> Pair {
        let mut simulate = Command::new(BINARY);
        simulate.args(["simulate", "--listen", "127.0.0.1:0"]).args(market).stdout(Stdio::piped());
        let mut simulate = Process::start(dir, "simulate", &mut simulate);
        // Left open behind the first line: there is more that it wants to say.
        let stdout = simulate.child.stdout.as_mut().expect("it is piped");
        let address = BufReader::new(stdout).lines().next().expect("an address").expect("a readable one");
        let mut run = Command::new(BINARY);
        run.arg("run")
            .envs([("IG_API_KEY", "key"), ("IG_USERNAME", "user"), ("IG_PASSWORD", "password")])
            .env("IG_API_URL", &address)
            .env("DATABASE_URL", format!("sqlite://{}/bars.db", dir.display()))
            .env("CANDLEKEEP_CLOCK", "stream")
            .env("CANDLEKEEP_HISTORY_DEPTH", "0");
        let mut run = Process::start(dir, "run", &mut run);
        run.wait_for_word("streaming session begun", "session=");
        Pair { run, simulate }
    }
}

struct Process {
    child: Child,
    log: std::path::PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    fn start(dir: &Path, name: &str, command: &mut Command) -> Process {
        let log = dir.join(format!("{name}.log"));
        let stderr = fs::File::create(&log).expect("a log file");
        // It knows every variable of that kind, and this one is for tests.
        command.env_remove("CANDLEKEEP_TEST_DATA");
        let child = command.current_dir(dir).stderr(stderr).spawn().expect("a process");
        Process { child, log }
    }

    /// Waits for a log line that holds `text`; answers the digits behind `key` in it.
    fn wait_for_word(&mut self, text: &str, key: &str) -> u64 {
        loop {
            let log = fs::read_to_string(&self.log).expect("a log");
            if let Some((line, _)) = log.split_once(text).and_then(|(_, rest)| rest.split_once('\n')) {
                let value = line.split_once(key).map_or("", |(_, value)| value);
                let digits = value.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(value.len());
                return value[..digits].parse().unwrap_or(0);
            }
            assert!(self.child.try_wait().expect("a process of ours").is_none(), "it ended:\n{log}");
            sleep(LOOK_EVERY);
        }
    }

    /// What it costs.
    fn cost(&self) -> process::Process {
        process::Process(self.child.id())
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures the machine's time")]
fn now() -> Instant {
    Instant::now()
}
