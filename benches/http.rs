//! Bars over HTTP while bars are written: `cargo bench --bench http`; with `-- --test` it is only seen that it runs.
//!
//! The database has a million bars, `candlekeep run` is a process of its own, and a market goes so fast that 28 bars
//! are written each second. Clients ask for the last 100 bars, 500 times a second in all, at times that are set
//! beforehand: who is answered late is late for the next one too, and all of that is counted. The floor is `/healthz`,
//! asked the same way in the same run: what sockets, threads and neighbours cost. Ends with 1 where the budget is missed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use candlekeep::domain::Timeframe;
use candlekeep::domain::pair::MAJOR_PAIRS;
use candlekeep::simulator::{Options, Speed};
use candlekeep::store::{BarQuery, DatabaseUrl, Store};

#[expect(dead_code, reason = "other benches use the rest")]
mod bars;
mod budget;
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

use bars::bars_of;
use budget::Budget;
use process::Process;
use timing::{at, now, time};
use world::{START, STEP, World, market};

/// Bars in the database, of 5 minutes; the derived ones come on top.
const BARS: i64 = 1_000_000;
const BARS_OF_TEST: i64 = 28_000;
/// Requests a second, and on how many connections.
const RATE: u32 = 500;
const CONNECTIONS: u32 = 8;
/// How long is asked, for the floor and for bars.
const ASKED_FOR: Duration = Duration::from_secs(20);
const ASKED_FOR_OF_TEST: Duration = Duration::from_secs(1);
/// The budget for 99 of 100 answers.
const P99_MAX: Duration = Duration::from_millis(5);
/// The budget for them in process, at the median.
const IN_PROCESS_MAX: Duration = Duration::from_micros(100);
/// Buckets that are stored in one transaction beforehand.
const BUCKETS_AT_ONCE: i64 = 500;

fn main() -> ExitCode {
    let mut budget = Budget::new();
    let is_test = budget.is_test();
    let (bars, asked_for) = if is_test { (BARS_OF_TEST, ASKED_FOR_OF_TEST) } else { (BARS, ASKED_FOR) };
    // A bucket of all pairs a second.
    let world =
        World::new(Options { speed: Speed::Times(STEP as f64), rows_per_bar: Some(20), ..market(240) });
    let url = DatabaseUrl::sqlite(world.database());
    fill(&url, bars);
    let what = format!("last 100 bars of a pair, of {bars}, in process, median");
    budget.at_most(&what, micros(in_process(&url)), micros(IN_PROCESS_MAX), "µs");
    let mut service = world.start("run", &[("CANDLEKEEP_HTTP", "127.0.0.1:0")]);
    let address = service.http_address();
    let process = Process(service.pid());
    let before = world.stored();
    world.wait(&mut service, "bars of the stream", |world| world.stored() > before);

    println!(
        "{:<28} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "", "answers/s", "p50 ms", "p99 ms", "p99.9 ms", "worst ms", "CPU %"
    );
    measure("floor: /healthz", address, process, asked_for, 0, |_| "/healthz".to_owned());
    let stored = world.stored();
    let pairs = MAJOR_PAIRS;
    let target = move |number: u32| {
        let (pair, timeframe) = (pairs[number as usize % pairs.len()], ["5", "15"][number as usize / 28 % 2]);
        format!("/v1/candles?pair={pair}&timeframe={timeframe}&count=100")
    };
    let measured = measure("last 100 bars", address, process, asked_for, 100, target);
    let written = world.stored() - stored;
    println!("{written} bars of 5 minutes were written meanwhile; resident {} KiB", process.status("VmRSS:"));
    drop(service);
    let what = "… over HTTP, 500 requests a second, while bars are written, 99 of 100";
    budget.at_most(what, micros(measured) / 1e3, micros(P99_MAX) / 1e3, "ms");
    let due = MAJOR_PAIRS.len() as i64 * (asked_for.as_secs() as i64 - 2);
    budget.at_least("… bars of 5 minutes written meanwhile", written as f64, due as f64, "of them");
    budget.end()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Stores so many bars of all pairs, up to the beginning of the market.
fn fill(url: &DatabaseUrl, bars: i64) {
    let mut store = Store::open(url).expect("a database");
    let buckets = bars / MAJOR_PAIRS.len() as i64;
    let to = START.since(bars::START) / STEP;
    let mut from = (START.plus(-buckets * STEP).floor(900)).since(bars::START) / STEP;
    while from < to {
        let count = BUCKETS_AT_ONCE.min(to - from);
        store.commit(&[bars_of(&MAJOR_PAIRS, from, count)], START).expect("bars are stored");
        from += count;
    }
}

/// How long it takes to read the last 100 bars of a pair, at the median of all pairs, over and over for about a second.
fn in_process(url: &DatabaseUrl) -> Duration {
    let mut store = Store::open_read_only(url).expect("a database");
    let query = BarQuery { count: Some(100), ..BarQuery::default() };
    let mut times: Vec<Duration> = (0..400)
        .flat_map(|_| MAJOR_PAIRS)
        .map(|pair| time(|| assert_eq!(store.bars(pair, Timeframe::M5, &query).expect("bars").len(), 100)))
        .collect();
    times.sort_unstable();
    at(&times, 0.5)
}

/// Asks at the rate for so many bars each time, prints what came of it, and answers the time within which 99 of 100 answers came.
fn measure(
    what: &str,
    address: SocketAddr,
    process: Process,
    asked_for: Duration,
    bars: usize,
    target: impl Fn(u32) -> String + Clone + Send + 'static,
) -> Duration {
    let used = process.usage();
    let began = now() + Duration::from_millis(50);
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|client| {
            let target = target.clone();
            std::thread::spawn(move || ask(address, began, asked_for, client, bars, target))
        })
        .collect();
    let mut waits: Vec<Duration> =
        clients.into_iter().flat_map(|client| client.join().expect("all was answered")).collect();
    let took = now() - began;
    waits.sort_unstable();
    let within = |share: f64| at(&waits, share);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "{what:<28} {:>9.0} {:>9.2} {:>9.2} {:>9.2} {:>9.2} {:>9.1}",
        waits.len() as f64 / took.as_secs_f64(),
        ms(within(0.5)),
        ms(within(0.99)),
        ms(within(0.999)),
        ms(within(1.0)),
        process.usage().since(&used).cpu().as_secs_f64() / took.as_secs_f64() * 100.0
    );
    within(0.99)
}

/// One client: each request at its time, and how long after that its answer was there.
fn ask(
    address: SocketAddr,
    began: Instant,
    asked_for: Duration,
    client: u32,
    bars: usize,
    target: impl Fn(u32) -> String,
) -> Vec<Duration> {
    let every = Duration::from_secs(1) / RATE;
    let mut connection = None;
    let mut waits = Vec::new();
    for number in (client..).step_by(CONNECTIONS as usize) {
        let due = every * number;
        if due >= asked_for {
            break;
        }
        let due = began + due;
        std::thread::sleep(due.saturating_duration_since(now()));
        let socket = connection.get_or_insert_with(|| {
            let socket = TcpStream::connect(address).expect("somebody listens");
            socket.set_nodelay(true).expect("a socket");
            BufReader::new(socket)
        });
        let request = format!("GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", target(number));
        socket.get_mut().write_all(request.as_bytes()).expect("it is read");
        let (body, is_last) = take_answer(socket);
        waits.push(now() - due);
        assert_eq!(memchr::memmem::find_iter(&body, "\"time\":").count(), bars, "{}", target(number));
        if is_last {
            connection = None;
        }
    }
    waits
}

/// Reads an answer; its body, and whether the connection ends with it.
fn take_answer(socket: &mut BufReader<TcpStream>) -> (Vec<u8>, bool) {
    let (mut length, mut is_last, mut line) = (0, false, String::new());
    loop {
        line.clear();
        socket.read_line(&mut line).expect("an answer");
        let field = line.trim_end().to_ascii_lowercase();
        if field.starts_with("http/1.1") {
            assert!(field.starts_with("http/1.1 200"), "{field}");
        } else if let Some(bytes) = field.strip_prefix("content-length:") {
            length = bytes.trim().parse().expect("a length");
        } else if field == "connection: close" {
            is_last = true;
        } else if field.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body).expect("a whole answer");
    (body, is_last)
}
