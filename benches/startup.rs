//! How long `candlekeep run` takes from its start to ready, and what memory that takes, on a database of five million bars:
//! `cargo bench --bench startup`; with `-- --test` it is only seen that it runs, on one of few.
//!
//! The simulator is in this process and answers at once. Ready is what systemd is told (`READY=1`). The floor is the same
//! start on a database of a day, by turns in the same run; and, for what the database alone may cost, a bare connection
//! that opens the file and reads its newest bar. Goes where `TMPDIR` says and takes 0.9 GB there; `-- BARS` has it be
//! others. Linux only: it reads `/proc`. Ends with 1 where five million bars cost more than they may.

use std::os::unix::net::UnixDatagram;
use std::process::ExitCode;
use std::time::Duration;

use candlekeep::simulator::{Options, Speed};

mod budget;
mod filled;
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

use budget::Budget;
use process::Process;
use timing::{now, time};
use world::{START, STEP, World, market};

/// Bars, the derived ones among them, and of the smaller database.
const BARS: i64 = 5_000_000;
const BARS_OF_TEST: i64 = 50_000;
const BARS_OF_FLOOR: i64 = 28 * 288 * 4 / 3;
/// Starts of each, after one that does not count: it finds a database that nobody has collected into.
const STARTS: usize = 9;
const STARTS_OF_TEST: usize = 1;
/// What five million bars may cost: time, and memory: that of SQLite's cache, which a small database does not fill.
const BESIDE_MAX: Duration = Duration::from_millis(50);
const GROWN_MAX_KIB: f64 = 2_048.0;
/// What a start may take, whatever is stored.
const READY_MAX: Duration = Duration::from_millis(100);
/// A start that takes longer has failed.
const READY_WITHIN: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let mut budget = Budget::new();
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let bars = match words.first().map(String::as_str) {
        Some("--test") => BARS_OF_TEST,
        Some(number) => number.parse().expect("a number of bars"),
        None => BARS,
    };
    let (mut large, mut small) = (Side::new("large", bars), Side::new("small", BARS_OF_FLOOR));
    for side in [&mut large, &mut small] {
        side.start();
        side.starts.clear();
    }
    for _ in 0..if budget.is_test() { STARTS_OF_TEST } else { STARTS } {
        large.start();
        small.start();
    }
    let [of_large, of_small] = [&large, &small].map(Side::told);
    let bare = large.bare();
    println!("  a bare connection opens the large one and reads its newest bar in {bare:.1?}");
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    budget.at_most(
        &format!("start-up on {bars} bars, above that on a day of them"),
        ms(of_large.ready) - ms(of_small.ready),
        ms(BESIDE_MAX),
        "ms",
    );
    budget.at_most(&format!("start-up on {bars} bars"), ms(of_large.ready), ms(READY_MAX), "ms");
    let grown_kib = of_large.own_kib as f64 - of_small.own_kib as f64;
    budget.at_most("… own memory, above that on a day of them", grown_kib, GROWN_MAX_KIB, "KiB");
    budget.end()
}

/// A market, and a database of what came before it.
struct Side {
    name: &'static str,
    world: World,
    manager: UnixDatagram,
    socket: String,
    starts: Vec<Start>,
}

#[derive(Clone, Copy)]
struct Start {
    ready: Duration,
    peak_kib: u64,
    own_kib: u64,
}

impl Side {
    fn new(name: &'static str, bars: i64) -> Side {
        // A bucket of all pairs a second.
        let options = Options { speed: Speed::Times(STEP as f64), rows_per_bar: Some(20), ..market(240) };
        let world = World::new(options);
        let took = time(|| filled::fill(&world.database(), START, bars / 28 * 3 / 4));
        let size = std::fs::metadata(world.database()).map_or(0, |file| file.len() >> 20);
        println!("{name}: {bars} bars, {size} MiB, made in {took:.1?}");
        let socket = world.folder().join("notify");
        let manager = UnixDatagram::bind(&socket).expect("a socket");
        manager.set_read_timeout(Some(READY_WITHIN)).expect("a patience");
        let socket = socket.to_str().expect("a path of text").to_owned();
        Side { name, world, manager, socket, starts: Vec::new() }
    }

    /// Starts the program and stops it once it is ready.
    fn start(&mut self) {
        let variables = [("NOTIFY_SOCKET", self.socket.as_str()), ("CANDLEKEEP_HISTORY_DEPTH", "0")];
        let began = now();
        let service = self.world.start("run", &variables);
        let mut buffer = [0; 4_096];
        loop {
            let length = self.manager.recv(&mut buffer).expect("it tells how it goes");
            if String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line == "READY=1") {
                break;
            }
        }
        let ready = now() - began;
        let process = Process(service.pid());
        let [peak_kib, own_kib] = ["VmHWM:", "RssAnon:"].map(|key| process.status(key));
        self.starts.push(Start { ready, peak_kib, own_kib });
        service.terminate().orderly();
        // What its end has told is not the next one's.
        self.manager.set_nonblocking(true).expect("a socket of ours");
        while self.manager.recv(&mut buffer).is_ok() {}
        self.manager.set_nonblocking(false).expect("a socket of ours");
    }

    /// The median of each figure.
    fn told(&self) -> Start {
        let middle = self.starts.len() / 2;
        let median = |of: &dyn Fn(&Start) -> u64| {
            let mut values: Vec<u64> = self.starts.iter().map(of).collect();
            values.sort_unstable();
            values[middle]
        };
        let start = Start {
            ready: Duration::from_micros(median(&|start| start.ready.as_micros() as u64)),
            peak_kib: median(&|start| start.peak_kib),
            own_kib: median(&|start| start.own_kib),
        };
        let Start { ready, peak_kib, own_kib } = start;
        println!(
            "{}: ready after {ready:.1?}; peak resident {peak_kib} KiB, its own {own_kib} KiB",
            self.name
        );
        start
    }

    fn bare(&self) -> Duration {
        time(|| {
            let file = rusqlite::Connection::open(self.world.database()).expect("a connection");
            let newest = "SELECT close FROM candles WHERE seq = (SELECT max(seq) FROM candles)";
            file.query_row(newest, [], |row| row.get::<_, f64>(0)).expect("a bar");
        })
    }
}
