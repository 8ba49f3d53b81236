//! From the arrival of the rows that end candles to bars that another connection sees.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use candlekeep::domain::pair::MAJOR_PAIRS;
use candlekeep::store::{DatabaseUrl, Store, StoredBar};

use super::budget::Budget;
use super::sides::{Floor, stored};
use super::timing::{at, now, shares, time};
use super::{DATABASE, FAST_FROM, PLAIN, Pair, YEAR_S, bars, filled, host, run, simulator};

/// The budget of rows that end candles: so many times the bare transaction, at the median and for 99 of 100.
const CLOSE_MEDIAN_MAX: f64 = 2.0;
const CLOSE_P99_MAX: f64 = 4.0;
/// Rows of all pairs are more bytes than this, and signs of life fewer.
const ROWS_BYTES_MIN: usize = 400;
/// Rows come within this, and where they end candles the bars are seen within that.
const ROWS_WITHIN: Duration = Duration::from_secs(30);
const SEEN_WITHIN: Duration = Duration::from_secs(30);
/// How long it takes from one look whether bars are there to the next, besides what the system makes of it: some 0.06 ms.
const ASK_AGAIN: Duration = Duration::from_micros(10);
/// Rows of a candle, 200 ms from each other; pieces nearer than this came at one moment.
const ROWS_OF_BAR: usize = 5;
const ONE_MOMENT: Duration = Duration::from_millis(20);
/// Rows that end candles of one bucket come within this of each other, and those of the next later.
const ONE_END: Duration = Duration::from_secs(30);
/// In the middle of a candle, after as much rest as the rows have that end the next.
const MIDDLE: Duration = Duration::from_secs(150);
/// How often a watch looks whether it is over.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A bucket of market time each second, so that there is rest between the rows, behind a year that is stored.
pub fn closes(buckets: usize, budget: &mut Budget) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let [database, floor] = [DATABASE, "floor.db"].map(|name| dir.path().join(name));
    filled::fill(&database, FAST_FROM, YEAR_S / 300);
    let mut floor = copied(&database, &floor);
    let from = FAST_FROM.to_string();
    let rows = ROWS_OF_BAR.to_string();
    let market = ["--rows-per-bar", &rows, "--ticks-per-bar", &rows, "--speed", "300", "--from", &from];
    let (simulate, address) = simulator(dir.path(), &market);
    let relay = Relay::start(&address, ROWS_OF_BAR);
    let run = run(dir.path(), &[("IG_API_URL", &relay.address), PLAIN[0], PLAIN[1]]);
    let pair = Pair { run, simulate };
    let mut seen = Seen::new(&database);
    // The floor goes on where what is stored ends, in both.
    let (mut seq, mut bucket) = (seen.last, FAST_FROM.since(bars::START) / 300);
    let [mut whole, mut bare] = [const { Vec::new() }; 2];
    let (mut between, mut last) = (0, None);
    while whole.len() <= buckets {
        let rows = relay.arrivals.recv_timeout(ROWS_WITHIN).expect("rows");
        // What follows at once is of the same moment.
        let is_same = |last: Rows| rows.at - last.at < ONE_MOMENT && (last.ends > 0 || rows.ends == 0);
        if rows.bytes < ROWS_BYTES_MIN || last.is_some_and(is_same) {
            continue;
        }
        last = Some(rows);
        if rows.ends > 0 {
            seen.wait_for_all();
            between = 0;
            whole.push(now() - rows.at);
        } else {
            between += 1;
            // Once a bucket, after as much rest as the rows have that end candles.
            if between == ROWS_OF_BAR / 2 {
                let rows = rows_of(bucket, seq);
                (seq, bucket) = (seq + 28, bucket + 1);
                bare.push(time(|| floor.upsert(&rows)));
            }
        }
    }
    // Each has a first time.
    for times in [&mut whole, &mut bare] {
        times.remove(0);
    }
    drop(pair);
    // The same without that rest, where all that it touches is in the processor's memory still: for comparison.
    let mut unrested: Vec<Duration> = (0..buckets as i64)
        .map(|ix| {
            let rows = rows_of(bucket + ix, seq + ix * 28);
            time(|| floor.upsert(&rows))
        })
        .collect();
    let each = [("bare commit", &mut bare), ("… without rest", &mut unrested), ("rows to bars", &mut whole)];
    for (name, times) in each {
        times.sort();
        println!("{name:<15} {} ({} of them)", shares(times), times.len());
    }
    for (which, share, most) in [("median", 0.5, CLOSE_MEDIAN_MAX), ("99 of 100", 0.99, CLOSE_P99_MAX)] {
        let factor = at(&whole, share).as_secs_f64() / at(&bare, share).as_secs_f64();
        let what = format!(
            "rows that end 28 candles, through sockets, to bars that another connection sees, {which}"
        );
        budget.at_most(&what, factor, most, "bare commits");
    }
}

/// A bare connection to a copy of this database.
pub fn copied(database: &Path, floor: &Path) -> Floor {
    fs::copy(database, floor).expect("a copy");
    drop(Store::open(&DatabaseUrl::sqlite(floor)).expect("one that writes ahead"));
    Floor::open(floor)
}

/// What the floor writes of a bucket, numbered from the one behind `seq` on.
fn rows_of(bucket: i64, seq: i64) -> Vec<StoredBar> {
    MAJOR_PAIRS.into_iter().zip(1..).map(|(pair, n)| stored(bars::bar(pair, n, bucket), seq + n)).collect()
}

/// What another connection sees of the bars that the stream brings.
struct Seen {
    reader: rusqlite::Connection,
    /// The number of the last one, seen when all pairs had theirs.
    last: i64,
}

impl Seen {
    fn new(database: &Path) -> Seen {
        let reader = rusqlite::Connection::open(database).expect("a connection");
        let newest = "SELECT coalesce(max(seq), 0) FROM candles";
        let last = reader.query_row(newest, [], |row| row.get(0)).expect("a number");
        Seen { reader, last }
    }

    /// Waits until there are more of all pairs. It has to see what is committed, and so reads anew each time.
    fn wait_for_all(&mut self) {
        let behind = "SELECT count(*), max(seq) FROM candles WHERE seq > ? AND timeframe = '5' AND source = 'websocket'";
        let mut question = self.reader.prepare_cached(behind).expect("a question");
        let given_up = now() + SEEN_WITHIN;
        self.last = loop {
            let (count, newest): (i64, Option<i64>) =
                question.query_row([self.last], |row| Ok((row.get(0)?, row.get(1)?))).expect("an answer");
            if let Some(newest) = newest.filter(|_| count >= 28) {
                break newest;
            }
            assert!(now() < given_up, "no bars within {SEEN_WITHIN:?}");
            // Two processors may be one that is shared: to ask without a pause would slow down what is measured.
            sleep(ASK_AGAIN);
        };
    }
}

/// Waits for the ends of candles beside what else is measured.
pub struct Watch {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<[Vec<Duration>; 2]>,
}

impl Watch {
    /// From now on, of what goes through this relay into this database. The floor has the same but for what began at this bucket.
    pub fn start(relay: Relay, database: PathBuf, mut floor: Floor, bucket: i64) -> Watch {
        while relay.arrivals.try_recv().is_ok() {}
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let thread = std::thread::spawn(move || {
            let mut seen = Seen::new(&database);
            let (mut ends, mut last, mut ended) = (0, None, None);
            let [mut waits, mut bare] = [const { Vec::new() }; 2];
            let seq = floor.last_seq();
            while !over.load(Ordering::Relaxed) {
                if ended.is_some_and(|ended| now() - ended > MIDDLE) {
                    ended = None;
                    let n = bare.len() as i64;
                    let rows = rows_of(bucket + n, seq + n * 28);
                    bare.push(time(|| floor.upsert(&rows)));
                }
                let rows = match relay.arrivals.recv_timeout(LOOK_EVERY) {
                    Ok(rows) if rows.ends > 0 => rows,
                    Ok(_) | Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => break,
                };
                // Of a bucket of which it has not seen all it says nothing.
                if last.replace(rows.at).is_some_and(|last| rows.at - last > ONE_END) {
                    ends = 0;
                }
                ends += rows.ends;
                if ends >= 28 {
                    ends = 0;
                    seen.wait_for_all();
                    waits.push(now() - rows.at);
                    ended = Some(rows.at);
                }
            }
            [waits, bare]
        });
        Watch { is_over, thread }
    }

    /// How long it took each time from the last of the rows that end 28 candles to bars that another connection saw, and what a bare
    /// transaction took in the middle of the next ones.
    pub fn end(self) -> [Vec<Duration>; 2] {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().expect("all was seen")
    }
}

/// Stands before the simulator, and tells when rows went through.
pub struct Relay {
    pub address: String,
    arrivals: Receiver<Rows>,
}

/// A piece of the stream with rows in it: when it went through, and how many of them end candles.
#[derive(Clone, Copy)]
struct Rows {
    at: Instant,
    bytes: usize,
    ends: usize,
}

impl Relay {
    /// With so many rows a bar, and as many ticks.
    pub fn start(simulator: &str, rows_of_bar: usize) -> Relay {
        let to = host(simulator).to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (told, arrivals) = mpsc::channel();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(&to).expect("the simulator");
                for end in [&client, &server] {
                    end.set_nodelay(true).expect("a connection");
                }
                let (up, down) = ((copy_of(&client), copy_of(&server)), (server, client, told.clone()));
                std::thread::spawn(move || carry(up.0, up.1, |_| {}));
                std::thread::spawn(move || {
                    let (server, client, told) = down;
                    // As many ticks as rows, and the sign that the candle is over.
                    let sign = format!("|{rows_of_bar}|{rows_of_bar}|1|");
                    carry(server, client, |bytes| {
                        // An answer of REST has no such lines.
                        if memchr::memmem::find(bytes, b"U,").is_some() {
                            let ends = memchr::memmem::find_iter(bytes, sign.as_bytes()).count();
                            // Nobody may be waiting any more.
                            let _ = told.send(Rows { at: now(), bytes: bytes.len(), ends });
                        }
                    });
                });
            }
        });
        let address = simulator.replace(host(simulator), &format!("127.0.0.1:{port}"));
        Relay { address, arrivals }
    }
}

fn copy_of(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("another handle")
}

/// Passes on what comes, told of just before, until one end is gone.
fn carry(mut from: TcpStream, mut to: TcpStream, mut told: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        told(&buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    // It may be gone already.
    let _ = to.shutdown(Shutdown::Write);
}
