//! What `candlekeep run` costs as a process of its own, fed through real sockets by `candlekeep
//! simulate`: `cargo bench --bench sockets -- WHAT`. Linux only: it reads `/proc`.
//!
//! `fast [DAYS]` (also without words): 300 rows a bar, as fast as it takes them.
//! `replay DIR`: recorded bars, 5 rows each, as fast as it takes them.
//! `closes [BUCKETS]`: from the arrival of the rows that end 28 candles to bars that another connection sees, a bucket each second;
//! beside it bare transactions of 28 rows in the same folder, as a floor.
//! `live [SECONDS] [apart]`: 28 pairs, a row a second each, at the speed of time; each whole 300 seconds
//! hold one close of all bars. As in production: over TLS, by the system's clock while the market is open (else by the
//! stream's, with a market of another day), into a database of a year, after an outage of hours that was healed
//! over REST first. Ends of candles are timed as in `closes`. Unless `CANDLEKEEP_HTTP` is `off`, HTTP is asked each second for half as long again. All rows of a second come
//! in one frame just behind it, or with `apart` each in a frame of its own, all over the second: which IG does is not known, and
//! the second is the worst there can be.
//!
//! `RUN_UNDER` is a command, with its words, that becomes `run`; `benches/layout` names one. Under `live`, which has it end in order,
//! it can tell what it found.
//!
//! All figures are of `run` alone; those of `fast` and `replay` from its first rows to the last bar stored, with nothing
//! backfilled: history is fetched at the pace that IG sets, for minutes. Behind `replay`, the rows that it
//! stored are written into a bare database, as a floor. Ends with 1 where the budget is missed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::Duration;

use candlekeep::clock::Clock;
use candlekeep::domain::calendar::Expectation;
use candlekeep::domain::{Calendar, Timeframe, Timestamp};
use candlekeep::store::{DatabaseUrl, Store, StoredBar};
use candlekeep::writer::batch::FACTS_PER_COMMIT_MAX;
use rustix::process::{Pid, Signal, kill_process};

#[expect(dead_code, clippy::unwrap_used, reason = "it is a part of the tests, which use the rest")]
#[path = "../tests/it/front.rs"]
mod front;
#[expect(dead_code, reason = "it is a part of the tests, which use the rest")]
#[path = "../tests/it/process.rs"]
mod process;

mod asking;
#[expect(dead_code, reason = "other benches use the rest")]
mod bars;
mod budget;
mod closes;
mod filled;
#[expect(dead_code, reason = "other benches use the rest")]
mod sides;
#[expect(dead_code, reason = "other benches use the rest")]
mod timing;
use asking::Asking;
use budget::Budget;
use closes::{Relay, Watch, closes, copied};
use front::{Authority, Front, Valid};
use sides::Floor;
use timing::{now, time};

const BINARY: &str = env!("CARGO_BIN_EXE_candlekeep");
const DATABASE: &str = "bars.db";
/// 2026-11-17 08:00 UTC, a Tuesday: a made-up market is open then, whatever today is.
const LIVE_FROM: Timestamp = Timestamp(1_794_902_400);
/// 2026-11-16 00:00 UTC, a Monday.
const FAST_FROM: Timestamp = Timestamp(1_794_787_200);
const DAY_S: i64 = 86_400;
/// The budget at 300 rows a bar.
const ROWS_PER_S_MIN: f64 = 1e6;
const CPU_S_MAX: f64 = 1.5;
/// The budget of recorded bars: those stored a second, as a share of the floor's.
const RECORDED_SHARE_MIN: f64 = 60.0;
/// By how much its own memory may be more in the last third of that than in the second, each at the median: how much is
/// under way at a time differs, and the length of the whole must not show.
const GROWN_MAX_KIB: f64 = 2_048.0;
/// The budget of the live load, HTTP off or not asked, % of a core, and a bound for what wakes it each second: the beat, and what the
/// database answers. With rows apart so does each of them around a candle's end, with HTTP what actix-http looks at.
const SHARE_MAX: f64 = 0.1;
const WAKEUPS_MAX: f64 = 5.0;
const WAKEUPS_MAX_APART: f64 = 7.0;
const WAKEUPS_MAX_WITH_HTTP: f64 = 10.0;
const WAKEUPS_MAX_WITH_HTTP_APART: f64 = 12.0;
/// A bar is there soon after the last row that ends it, whether rows may wait or not, ms: those that wait do so for up to a second.
const SEEN_MAX_MS: f64 = 100.0;
/// Rows apart by so many milliseconds: of 28, the last comes before the second is over, whatever the pauses are longer by.
const APART: &str = r#"[{"do": "framing", "single_lines": true, "apart_ms": 30}]"#;
/// The budget of its memory with HTTP off and on, MiB.
const PEAK_MAX: f64 = 15.0;
const PEAK_MAX_WITH_HTTP: f64 = 25.0;
/// What was stored before the live load, and how long nobody had collected since.
const YEAR_S: i64 = 365 * DAY_S;
const AWAY_S: i64 = 3 * 3_600;
/// That is healed at the pace that IG sets, all pairs within this.
const HEALED_WITHIN: Duration = Duration::from_secs(900);
/// A market that ticks each second in every pair, and so has 300 rows a bar.
const EVERY_SECOND: [&str; 4] = ["--rows-per-bar", "300", "--ticks-per-bar", "300"];
/// Looks at the memory of a run at full speed, of which each third has a median.
const SAMPLES_MIN: usize = 30;
/// How often HTTP is asked while it is on.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// What a start brings is no part of the live load.
const SETTLE: Duration = Duration::from_secs(5);
/// Told to, it ends within this.
const ENDED_WITHIN: Duration = Duration::from_secs(60);
/// A run that used no processor for so long is done.
const IDLE: Duration = Duration::from_secs(1);
/// How often that is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    let mut budget = Budget::new();
    // What cargo passes to every bench.
    let words: Vec<String> =
        std::env::args().skip(1).filter(|word| !["--bench", "--test"].contains(&word.as_str())).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let number = |word: &str| word.parse().expect("a number");
    match words[..] {
        [] | ["fast"] => fast(3, &mut budget),
        ["fast", days] => fast(number(days), &mut budget),
        ["replay", recorded] => replay(recorded, &mut budget),
        ["live"] => live(300, false, &mut budget),
        ["live", seconds] => live(number(seconds) as u64, false, &mut budget),
        ["live", seconds, "apart"] => live(number(seconds) as u64, true, &mut budget),
        ["closes"] => closes(300, &mut budget),
        ["closes", buckets] => closes(number(buckets) as usize, &mut budget),
        _ => panic!("fast [DAYS], replay DIR, closes [BUCKETS] or live [SECONDS] [apart]"),
    }
    budget.end()
}

fn fast(days: i64, budget: &mut Budget) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (from, to) = (FAST_FROM.to_string(), FAST_FROM.plus(days * DAY_S).to_string());
    let market = [&EVERY_SECOND[..], &["--from", &from, "--to", &to]].concat();
    let run = at_full_speed(dir.path(), &market);
    // Each bar has as many rows, and the market ends with a bar of each length.
    assert_eq!([run.settled * 300, run.longer * 900], [run.rows; 2], "bars, by their rows");
    budget.at_least(
        "through sockets, 300 rows a bar",
        run.rows_per_s / 1e6,
        ROWS_PER_S_MIN / 1e6,
        "million rows/s",
    );
    budget.at_most("… on a processor", run.cpu_s_a_million, CPU_S_MAX, "s a million rows");
    budget.at_most("… own memory, the last third above the second", run.grown_kib, GROWN_MAX_KIB, "KiB");
}

fn replay(recorded: &str, budget: &mut Budget) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let run = at_full_speed(dir.path(), &["--replay", recorded]);
    // Buckets of few ticks have fewer rows, the last of each pair has not ended, and a longer one needs all its parts.
    let (due, settled) = (run.rows / 5, run.settled);
    assert!((due - due / 100 - 28..=due + due / 10).contains(&settled), "{settled} bars of {due}");
    assert!(run.longer >= settled * 3 / 10, "{} longer bars of {settled}", run.longer);
    // The rows that came of it, in the order written, are what the floor writes.
    let url = DatabaseUrl::sqlite(dir.path().join(DATABASE));
    let stored = Store::open_read_only(&url).and_then(|mut store| store.bars_after(0, usize::MAX));
    let stored = stored.expect("its bars");
    let floor = dir.path().join("floor.db");
    drop(Store::open(&DatabaseUrl::sqlite(&floor)).expect("its tables"));
    let mut floor = Floor::open(&floor);
    let took = time(|| stored.chunks(FACTS_PER_COMMIT_MAX).for_each(|rows: &[StoredBar]| floor.upsert(rows)));
    let floor = stored.len() as f64 / took.as_secs_f64();
    println!("  {floor:.0} bars/s by a bare upsert, {FACTS_PER_COMMIT_MAX} a transaction");
    let what = "recorded weeks through sockets into SQLite, bars/s";
    budget.at_least(what, 100.0 * run.bars_per_s / floor, RECORDED_SHARE_MIN, "% of a bare upsert");
    budget.at_most("… own memory, the last third above the second", run.grown_kib, GROWN_MAX_KIB, "KiB");
}

/// What a run at full speed came to.
struct FullSpeed {
    rows: u64,
    /// 5-minute bars, and longer ones.
    settled: u64,
    longer: u64,
    rows_per_s: f64,
    bars_per_s: f64,
    cpu_s_a_million: f64,
    /// Its own memory in the last third of the time above that in the second.
    grown_kib: f64,
}

fn at_full_speed(dir: &Path, market: &[&str]) -> FullSpeed {
    let mut pair = Pair::start(dir, &[market, &["--speed", "max"]].concat());
    let (begun, before) = (now(), pair.run.cost().usage());
    let (mut ended, mut after, mut own_kib) = (begun, before, Vec::new());
    while now() - ended < IDLE {
        sleep(LOOK_EVERY);
        let usage = pair.run.cost().usage();
        // The run's own ticks are no work: less than a hundredth of a core.
        if usage.cpu() - after.cpu() > LOOK_EVERY / 100 {
            ended = now();
            own_kib.push(pair.run.cost().status("RssAnon:"));
        }
        after = usage;
    }
    let peak_kib = pair.run.cost().status("VmHWM:");
    let (wall, used) = (ended - begun, after.since(&before));
    let rows = pair.simulate.wait_for_word("reached its end", "rows=");
    drop(pair);
    let url = DatabaseUrl::sqlite(dir.join(DATABASE));
    let counts = counts(&url);
    let bars: u64 = counts.values().sum();
    let settled = counts.get(&Timeframe::M5).copied().unwrap_or(0);
    let per_second = |count: u64| count as f64 / wall.as_secs_f64();
    println!("{rows} rows, {bars} bars stored, in {:.2} s:", wall.as_secs_f64());
    let (rows_per_s, bars_per_s) = (per_second(rows), per_second(bars));
    let cpu_s_a_million = used.cpu().as_secs_f64() / rows as f64 * 1e6;
    println!("  {rows_per_s:.0} rows/s, {bars_per_s:.0} bars/s");
    println!(
        "  {cpu_s_a_million:.2} CPU-seconds a million rows ({:.2} s user, {:.2} s system)",
        used.user.as_secs_f64(),
        used.system.as_secs_f64()
    );
    assert!(own_kib.len() >= SAMPLES_MIN, "{} looks at its memory are too few", own_kib.len());
    let third = own_kib.len() / 3;
    let [warm, second, last] = [0, third, own_kib.len() - third].map(|from| {
        let of_third = &mut own_kib[from..from + third];
        of_third.sort_unstable();
        of_third.get(third / 2).map_or(0.0, |kib| *kib as f64)
    });
    println!(
        "  peak resident {:.1} MiB, its own {:.1}, {:.1} and {:.1} MiB at the median of each third",
        peak_kib as f64 / 1024.0,
        warm / 1024.0,
        second / 1024.0,
        last / 1024.0
    );
    let (longer, grown_kib) = (bars - settled, last - second);
    FullSpeed { rows, settled, longer, rows_per_s, bars_per_s, cpu_s_a_million, grown_kib }
}

/// What a stretch of the live load cost.
struct Stretch {
    /// Of a core, percent.
    share: f64,
    wakeups_per_s: f64,
}

impl Stretch {
    fn of(pair: &Pair, seconds: u64, what: &str) -> Stretch {
        let before = (now(), pair.run.cost().on_cpu(), pair.run.cost().wakeups());
        sleep(Duration::from_secs(seconds));
        let wall = (now() - before.0).as_secs_f64();
        let share = 100.0 * (pair.run.cost().on_cpu() - before.1).as_secs_f64() / wall;
        let wakeups_per_s = (pair.run.cost().wakeups() - before.2) as f64 / wall;
        let [resident, own] = ["VmRSS:", "RssAnon:"].map(|key| pair.run.cost().status(key) as f64 / 1024.0);
        let threads = pair.run.cost().status("Threads:");
        println!("{what}, {wall:.0} s of 28 pairs, a row a second each:");
        println!(
            "  {share:.3} % of a core, {wakeups_per_s:.1} wake-ups a second, {threads} threads; resident {resident:.1} MiB, its own {own:.1} MiB"
        );
        Stretch { share, wakeups_per_s }
    }
}

/// Which clock `run` goes by, and the market's first second where it is not now.
fn clock_for(seconds: u64) -> (&'static str, Timestamp) {
    let (now, calendar) = (Clock::system().wall(), Calendar::forex());
    let needed = now.plus(-AWAY_S)..now.plus(HEALED_WITHIN.as_secs() as i64 + 2 * seconds as i64);
    match calendar.runs(needed)[..] {
        [(_, Expectation::Expected)] => ("system", now),
        _ => ("stream", LIVE_FROM),
    }
}

fn live(seconds: u64, apart: bool, budget: &mut Budget) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (clock, from) = clock_for(seconds);
    if apart && clock != "system" {
        let why = "the market is closed, and by its own clock each row is read as it comes";
        return budget.not_today("live, rows apart", why);
    }
    let database = dir.path().join(DATABASE);
    let end = from.plus(-AWAY_S).floor(900);
    filled::fill(&database, end, YEAR_S / 300);
    let floor = copied(&database, &dir.path().join("floor.db"));
    let size = fs::metadata(&database).map_or(0, |file| file.len() >> 20);
    let (mut pair, relay) = Pair::in_production(dir.path(), clock, from, apart);
    let began = now();
    pair.heal(&database);
    println!(
        "by the {clock}'s clock over TLS, {size} MiB stored before; {:.1} hours healed in {:.0} s; {:.2} s on a processor and {:.1} MiB resident at the peak since the start",
        AWAY_S as f64 / 3_600.0,
        (now() - began).as_secs_f64(),
        pair.run.cost().on_cpu().as_secs_f64(),
        pair.run.cost().status("VmHWM:") as f64 / 1024.0
    );
    let with_http = !std::env::var("CANDLEKEEP_HTTP").is_ok_and(|place| place == "off");
    sleep(SETTLE);
    let watch = Watch::start(relay, database.clone(), floor, end.since(bars::START) / 300);
    let (before, watched) = (newest(&database), now());
    let mut what = format!("live, HTTP {}", if with_http { "on" } else { "off" });
    what += if apart { ", rows apart" } else { "" };
    what += if clock == "system" { "" } else { ", by the stream's clock" };
    let what = what.as_str();
    let cost = Stretch::of(&pair, seconds, what);
    budget.at_most(what, cost.share, SHARE_MAX, "% of a core");
    let most = match (with_http, apart) {
        (true, true) => WAKEUPS_MAX_WITH_HTTP_APART,
        (true, false) => WAKEUPS_MAX_WITH_HTTP,
        (false, true) => WAKEUPS_MAX_APART,
        (false, false) => WAKEUPS_MAX,
    };
    budget.at_most(&format!("{what}: wake-ups"), cost.wakeups_per_s, most, "a second");
    if with_http {
        let asking = Asking::start(pair.run.http_address(), ASK_EVERY);
        Stretch::of(&pair, seconds / 2, "live, HTTP asked for three things each second");
        println!("  {} answers", asking.end());
    }
    let peak = pair.run.cost().status("VmHWM:") as f64 / 1024.0;
    let rows = pair.rows_of_buckets();
    let (bars, watched, [seen, bare]) = (streamed_since(&database, before), now() - watched, watch.end());
    pair.run.stop();
    drop(pair);
    // Each whole 300 seconds hold one close of all bars.
    let ended = watched.as_secs() / 300;
    assert!(bars >= 28 * ended as i64, "{bars} bars in {watched:.0?}");
    // A row a second of each pair, but in the bucket in which it was subscribed to; the last has not ended. They are counted at a
    // beat, at which those of the last second may have been read or not.
    let whole = rows.get(1..).unwrap_or_default();
    let (sum, due) = (whole.iter().sum::<u64>(), whole.len() as u64 * 300 * 28);
    let are_there = sum + 28 >= due && whole.iter().all(|rows| rows + 28 >= 300 * 28);
    assert!(whole.len() as u64 + 1 >= ended && are_there, "{rows:?} rows a bucket");
    assert!(seen.len() as u64 >= ended, "{seen:?} seen in {watched:.0?}");
    let most = if with_http { PEAK_MAX_WITH_HTTP } else { PEAK_MAX };
    budget.at_most(&format!("{what}: peak resident"), peak, most, "MiB");
    println!(
        "  from the last row that ends 28 candles to bars that another connection sees: {seen:.1?}; bare commits after as much rest: {bare:.1?}"
    );
    if let Some(latest) = seen.into_iter().max() {
        let what = format!("{what}: rows that end 28 candles to bars seen, the latest");
        budget.at_most(&what, latest.as_secs_f64() * 1e3, SEEN_MAX_MS, "ms");
    }
}

/// The highest number of a bar in a file.
fn newest(database: &Path) -> i64 {
    asked(database, "SELECT max(seq) FROM candles WHERE seq > ?", 0)
}

/// 5-minute bars in a file that were settled from the stream since that number.
fn streamed_since(database: &Path, seq: i64) -> i64 {
    let bars = "SELECT count(*) FROM candles WHERE source = 'websocket' AND timeframe = '5' AND seq > ?";
    asked(database, bars, seq)
}

fn asked(database: &Path, question: &str, seq: i64) -> i64 {
    let reader = rusqlite::Connection::open(database).expect("a connection");
    reader.query_row(question, [seq], |row| row.get(0)).expect("a number")
}

/// Host and port of an address.
fn host(url: &str) -> &str {
    url.split('/').nth(2).expect("a scheme and a host")
}

/// Bars stored, by timeframe.
fn counts(url: &DatabaseUrl) -> BTreeMap<Timeframe, u64> {
    let counts = Store::open_read_only(url).and_then(|mut store| store.counts());
    counts.expect("its bars").into_iter().collect()
}

/// Both processes. They end with it.
struct Pair {
    run: Process,
    simulate: Process,
}

impl Pair {
    /// Starts the simulator and then `run`, and waits until that streams.
    fn start(dir: &Path, market: &[&str]) -> Pair {
        let (simulate, address) = simulator(dir, market);
        let run = run(dir, &[("IG_API_URL", &address), PLAIN[0], PLAIN[1]]);
        Pair { run, simulate }
    }

    /// The same with TLS between them and a history to fetch.
    fn in_production(dir: &Path, clock: &str, from: Timestamp, apart: bool) -> (Pair, Relay) {
        let (from, script) = (from.to_string(), dir.join("faults.json"));
        fs::write(&script, if apart { APART } else { "[]" }).expect("a file");
        let script = script.display().to_string();
        let mut market = [&EVERY_SECOND[..], &["--speed", "1", "--faults", &script]].concat();
        if clock == "stream" {
            market.extend(["--from", &from]);
        }
        let (simulate, address) = simulator(dir, &market);
        let (authority, file) = (Authority::new("bench"), dir.join("ca.pem"));
        authority.write(&file);
        let tls = authority.certify("127.0.0.1", Valid::Now);
        // Behind who takes TLS off.
        let relay = Relay::start(&address, 300);
        let front = Front::start(host(&relay.address).parse().expect("an address"), Some(tls));
        let file = file.display().to_string();
        let variables = [
            ("IG_API_URL", front.api_url()),
            ("CANDLEKEEP_IG_CA_FILE", file),
            ("CANDLEKEEP_CLOCK", clock.to_owned()),
        ];
        let run = run(dir, &variables.each_ref().map(|(name, value)| (*name, value.as_str())));
        (Pair { run, simulate }, relay)
    }

    /// Waits until nothing is missing that REST has.
    fn heal(&mut self, database: &Path) {
        let reader = rusqlite::Connection::open(database).expect("a connection");
        reader.busy_timeout(LOOK_EVERY).expect("a time to wait");
        let missing = "SELECT count(*) FROM coverage WHERE state = 'missing' AND reason <> 'silent'";
        let healed = "SELECT count(DISTINCT pair) FROM candles WHERE source = 'ig_rest'";
        let number = |query: &str| reader.query_row(query, [], |row| row.get::<_, i64>(0)).unwrap_or(-1);
        let until = now() + HEALED_WITHIN;
        while number(missing) != 0 || number(healed) != 28 {
            assert!(now() < until, "not healed: {} stretches missing", number(missing));
            sleep(SETTLE / 5);
        }
    }

    /// Rows of each bucket that has ended, as `run` says it.
    fn rows_of_buckets(&self) -> Vec<u64> {
        let log = fs::read_to_string(&self.run.log).expect("a log");
        let told = log.lines().filter(|line| line.contains(" collected "));
        let rows = |line: &str| line.split_once(" rows=")?.1.split(' ').next()?.parse().ok();
        told.map(|line| rows(line).unwrap_or_else(|| panic!("no rows in {line}"))).collect()
    }
}

/// Without TLS, by the stream's clock, and without a history.
const PLAIN: [(&str, &str); 2] = [("CANDLEKEEP_CLOCK", "stream"), ("CANDLEKEEP_HISTORY_DEPTH", "0")];

/// Starts the simulator; answers its address too.
fn simulator(dir: &Path, market: &[&str]) -> (Process, String) {
    let mut simulate = Command::new(BINARY);
    simulate.args(["simulate", "--listen", "127.0.0.1:0"]).args(market).stdout(Stdio::piped());
    let mut simulate = Process::start(dir, "simulate", &mut simulate);
    // Left open behind the first line: there is more that it wants to say.
    let stdout = simulate.child.stdout.as_mut().expect("it is piped");
    let address = BufReader::new(stdout).lines().next().expect("an address").expect("a readable one");
    (simulate, address)
}

/// Starts `run`, and waits until it streams.
fn run(dir: &Path, variables: &[(&str, &str)]) -> Process {
    let mut run = match std::env::var("RUN_UNDER") {
        Ok(under) => {
            let mut words = under.split_whitespace();
            let mut run = Command::new(words.next().expect("a program"));
            run.args(words).arg(BINARY);
            run
        }
        Err(_) => Command::new(BINARY),
    };
    run.arg("run")
        .envs([("IG_API_KEY", "key"), ("IG_USERNAME", "user"), ("IG_PASSWORD", "password")])
        .env("DATABASE_URL", format!("sqlite://{}/{DATABASE}", dir.display()))
        .envs(variables.iter().copied());
    let mut run = Process::start(dir, "run", &mut run);
    run.wait_for_word("streaming session begun", "session=");
    run
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

    /// Where it serves HTTP.
    fn http_address(&mut self) -> std::net::SocketAddr {
        let port = self.wait_for_word("serving HTTP", "address=127.0.0.1:");
        ([127, 0, 0, 1], u16::try_from(port).expect("a port")).into()
    }

    /// Has it end in order, by which what it runs under can tell what it found.
    fn stop(&mut self) {
        let id = Pid::from_child(&self.child);
        kill_process(id, Signal::TERM).expect("it runs");
        let until = now() + ENDED_WITHIN;
        let end = loop {
            match self.child.try_wait().expect("its state") {
                Some(end) => break end,
                None => assert!(now() < until, "it does not end"),
            }
            sleep(LOOK_EVERY);
        };
        assert!(end.success(), "{end}");
    }

    /// What it costs.
    fn cost(&self) -> process::Process {
        process::Process(self.child.id())
    }
}
