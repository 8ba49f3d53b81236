//! Bars as they are stored, over `GET /v1/stream`: clients that are cut, slow, many, or long away, against what the
//! database says in bare SQL.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use candlekeep::clock::Clock;
use candlekeep::simulator::faults::Script;
use candlekeep::simulator::{Options, Speed};
use rusqlite::Connection;
use serde_json::Value;
use socket2::SockRef;

use super::api::{ask, serving, slow_market};
use super::document::fits_named;
use super::moving::restore;
use super::postgres;
use super::world::{Database, START, STEP, World, market, poll};

/// Time for the next word on a busy machine: longer than the service is ever silent.
const PATIENCE: Duration = Duration::from_secs(60);
/// Who follows at a time.
const FOLLOWERS_MAX: usize = 100;

/// A value that a bar has or had.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    seq: i64,
    pair: String,
    timeframe: String,
    time: i64,
    /// Open, high, low, close: mid, bid, ask.
    prices: [[f64; 4]; 3],
    volume: i64,
    source: String,
    revision: i64,
}

/// All that the table has and had, in the order of commits.
fn log_of(world: &World) -> Vec<Told> {
    let columns = "seq, pair, timeframe, timestamp, open, high, low, close, bid_open, bid_high, bid_low, bid_close, \
         ask_open, ask_high, ask_low, ask_close, volume, source, revision";
    let query = format!(
        "SELECT {columns} FROM candles UNION ALL \
         SELECT {columns} FROM candle_revisions WHERE kind = 'superseded' ORDER BY seq"
    );
    let told = |row: Vec<String>| {
        let number = |ix: usize| row[ix].parse().unwrap();
        let side = |first: usize| std::array::from_fn(|ix| row[first + ix].parse().unwrap());
        Told {
            seq: number(0),
            pair: row[1].clone(),
            timeframe: row[2].clone(),
            time: number(3),
            prices: [side(4), side(8), side(12)],
            volume: number(16),
            source: row[17].clone(),
            revision: number(18),
        }
    };
    world.known().rows(&query).expect("the tables").into_iter().map(told).collect()
}

/// What an event's data says.
fn told(data: &Value) -> Told {
    let text = |name: &str| data[name].as_str().unwrap_or_else(|| panic!("{name}: {data}")).to_owned();
    let number = |name: &str| data[name].as_i64().unwrap_or_else(|| panic!("{name}: {data}"));
    Told {
        seq: number("seq"),
        pair: text("pair"),
        timeframe: text("timeframe"),
        time: number("time"),
        prices: [data, &data["bid"], &data["ask"]].map(prices),
        volume: number("volume"),
        source: text("source"),
        revision: number("revision"),
    }
}

fn prices(side: &Value) -> [f64; 4] {
    ["open", "high", "low", "close"].map(|name| side[name].as_f64().unwrap_or_else(|| panic!("{side}")))
}

/// What stands between two empty lines.
#[derive(Clone, Debug)]
struct Block {
    event: Option<String>,
    id: Option<i64>,
    data: Value,
    comment: String,
}

impl Block {
    fn parse(text: &str) -> Block {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        Block {
            event: field("event: ").map(str::to_owned),
            id: field("id: ").map(|id| id.parse().unwrap()),
            data: field("data: ").map_or(Value::Null, |data| serde_json::from_str(data).unwrap()),
            comment: field(": ").unwrap_or_default().to_owned(),
        }
    }

    fn is(&self, event: &str) -> bool {
        self.event.as_deref() == Some(event)
    }
}

/// A client of the stream, over a raw socket.
struct Client {
    socket: TcpStream,
    head: Option<String>,
    raw: Vec<u8>,
    text: Vec<u8>,
    /// Bytes that it takes before it hangs up.
    takes: usize,
}

impl Client {
    /// One that has asked; none where nobody listens.
    fn ask(address: SocketAddr, query: &str, last_id: Option<&str>) -> Option<Client> {
        let mut socket = TcpStream::connect(address).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let last_id = last_id.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        let request = format!("GET /v1/stream{query} HTTP/1.1\r\nHost: localhost\r\n{last_id}\r\n");
        socket.write_all(request.as_bytes()).ok()?;
        Some(Client { socket, head: None, raw: Vec::new(), text: Vec::new(), takes: usize::MAX })
    }

    fn open(address: SocketAddr, query: &str, last_id: Option<&str>) -> Client {
        Client::ask(address, query, last_id).expect("somebody listens")
    }

    /// The next block; none where the connection ends.
    fn next(&mut self) -> Option<Block> {
        loop {
            if let Some(end) = find(&self.text, b"\n\n") {
                let block: Vec<u8> = self.text.drain(..end + 2).collect();
                return Some(Block::parse(std::str::from_utf8(&block).unwrap()));
            }
            let mut bytes = [0; 4_096];
            let room = self.takes.min(bytes.len());
            if room == 0 {
                // Not to be asked of a socket, which waits all the same.
                return None;
            }
            let read = match self.socket.read(&mut bytes[..room]) {
                Ok(0) => return None,
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing comes: {error}"),
            };
            self.takes -= read;
            self.raw.extend_from_slice(&bytes[..read]);
            self.unpack();
        }
    }

    /// Takes the head off, then whole chunks.
    fn unpack(&mut self) {
        if self.head.is_none() {
            let Some(end) = find(&self.raw, b"\r\n\r\n") else { return };
            let head: Vec<u8> = self.raw.drain(..end + 4).collect();
            let head = String::from_utf8(head).unwrap();
            if !head.starts_with("HTTP/1.1 200 ") {
                // Nothing of it is an event.
                self.takes = 0;
                self.raw.clear();
            }
            self.head = Some(head);
        }
        while let Some(end) = find(&self.raw, b"\r\n") {
            let length = usize::from_str_radix(std::str::from_utf8(&self.raw[..end]).unwrap(), 16).unwrap();
            let whole = end + 2 + length + 2;
            if self.raw.len() < whole {
                return;
            }
            self.text.extend_from_slice(&self.raw[end + 2..end + 2 + length]);
            self.raw.drain(..whole);
        }
    }

    /// The next block of which this is true.
    fn until(&mut self, mut is_it: impl FnMut(&Block) -> bool) -> Block {
        loop {
            let block = self.next().expect("the stream goes on");
            if is_it(&block) {
                return block;
            }
        }
    }

    /// The next bar, as stored or corrected.
    fn bar(&mut self) -> Told {
        let block = self.until(|block| block.is("candle") || block.is("revision"));
        let told = told(&block.data);
        assert_eq!((block.id, told.revision > 0), (Some(told.seq), block.is("revision")), "{block:?}");
        told
    }
}

/// The data of the first event of this name that is told.
pub(super) fn data_of(address: SocketAddr, query: &str, last_id: Option<&str>, event: &str) -> Value {
    Client::open(address, query, last_id).until(|block| block.is(event)).data
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// A client that is cut again and again, at random, and goes on from the last id, until it has heard of `until`.
struct Restless {
    address: Arc<Mutex<SocketAddr>>,
    until: Arc<AtomicI64>,
    query: &'static str,
    seed: u64,
}

impl Restless {
    /// All that it hears, and how often it was cut.
    fn start(self) -> JoinHandle<(Vec<Told>, usize)> {
        std::thread::spawn(move || {
            let mut random = fastrand::Rng::with_seed(self.seed);
            let (mut heard, mut last_id, mut cuts) = (Vec::new(), 0, 0);
            while last_id < self.until.load(Ordering::SeqCst) {
                let address = *self.address.lock().unwrap();
                let mut client = None;
                let id = last_id.to_string();
                poll(|| {
                    client = Client::ask(*self.address.lock().unwrap(), self.query, Some(&id));
                    client.is_some()
                });
                let Some(mut client) = client else { panic!("nobody listens at {address}") };
                client.takes = random.usize(1..60_000);
                cuts += 1;
                while last_id < self.until.load(Ordering::SeqCst)
                    && let Some(block) = client.next()
                {
                    assert!(!block.is("reset"), "{block:?}");
                    if block.is("candle") || block.is("revision") {
                        heard.push(told(&block.data));
                    }
                    last_id = block.id.unwrap_or(last_id);
                }
            }
            (heard, cuts)
        })
    }
}

#[test]
fn who_is_cut_again_and_again_hears_exactly_what_is_stored_though_the_service_is_killed() {
    // Corrections of bars that are stored, and folded into longer ones.
    let script = r#"[{"do": "closes", "how": "correct", "pairs": ["EUR_USD"], "bars": 3, "after_s": 600, "by_s": 280}]"#;
    let options = || Options {
        faults: Script::parse(script).unwrap(),
        speed: Speed::Times(600.0),
        rows_per_bar: Some(20),
        // A lease on a server lasts for some hours of it.
        ..market(8)
    };
    let mut worlds = vec![World::new(options())];
    worlds.extend(postgres::shared().map(|server| World::new(options()).on_server(server.place())));
    for world in worlds {
        let (mut service, address) = serving(&world, &[]);
        let address = Arc::new(Mutex::new(address));
        let until = Arc::new(AtomicI64::new(i64::MAX));
        let clients = [("", 1), ("", 2), ("?pairs=EUR_USD,GBP_USD&timeframes=15", 3)].map(|(query, seed)| {
            Restless { address: address.clone(), until: until.clone(), query, seed }.start()
        });
        // None comes twice, so one that came to nobody would be lost.
        let revised = "SELECT count(*) FROM candle_revisions WHERE timeframe = '5'";
        world.wait(&mut service, "all corrections", |world| world.number(revised) == 3);
        service.kill();
        let (mut service, again) = serving(&world, &[]);
        *address.lock().unwrap() = again;
        world.wait_complete(&mut service);
        let log = log_of(&world);
        until.store(log.last().unwrap().seq, Ordering::SeqCst);
        let [all, too, some] = clients.map(|client| client.join().unwrap());
        let document = ask(again, "GET /v1/openapi.json", "").json();
        fits_named(&document, "StreamBar", &data_of(again, "", Some("0"), "revision"));
        service.stop();
        world.verify_revised();
        assert!(log.len() > 1_000 && log.iter().any(|told| told.revision == 1), "{}", log.len());
        assert!(all.1 > 5 && too.1 > 5, "cut {} and {} times", all.1, too.1);
        assert_same(&all.0, &log);
        assert_same(&too.0, &log);
        let wanted: Vec<Told> = log
            .into_iter()
            .filter(|told| ["EUR_USD", "GBP_USD"].contains(&&*told.pair) && told.timeframe == "15")
            .collect();
        assert_same(&some.0, &wanted);
    }
}

fn assert_same(heard: &[Told], stored: &[Told]) {
    for (heard, stored) in heard.iter().zip(stored) {
        assert_eq!(heard, stored);
    }
    assert_eq!(heard.len(), stored.len());
}

#[test]
fn a_hundred_follow_beside_one_who_takes_nothing_and_one_more_is_told_that_there_is_no_place() {
    let world = slow_market();
    let (mut service, address) = serving(&world, &[("RUST_LOG", "info,candlekeep::api::push=debug")]);
    world.wait(&mut service, "bars", |world| world.stored() > 600);
    // One who takes nothing of what is more than lies on the way.
    let stuck = Client::open(address, "?after=0", None);
    SockRef::from(&stuck.socket).set_recv_buffer_size(4_096).unwrap();
    let clients: Vec<JoinHandle<Vec<Told>>> = (0..FOLLOWERS_MAX - 1)
        .map(|_| {
            // Each is heard before the next one comes.
            let mut client = Client::open(address, "?after=0", None);
            let first = client.bar();
            std::thread::spawn(move || {
                let mut heard = vec![first];
                while heard.len() < 1_500 {
                    heard.push(client.bar());
                }
                heard
            })
        })
        .collect();
    let refused = ask(address, "GET /v1/stream", "");
    assert_eq!((refused.status, refused.header("Retry-After")), (503, Some("15")), "{refused:?}");
    assert_eq!(refused.json()["error"], "too_many_streams");
    assert_eq!(ask(address, "GET /healthz", "").status, 200, "others are answered");
    let heard: Vec<Vec<Told>> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    service.wait_said("a follower takes nothing, his connection is ended", 1);
    let mut stuck = stuck;
    let mut count = 0;
    while stuck.next().is_some() {
        count += 1;
    }
    assert!(count < 1_500, "he is not sent what he does not take");
    // Who has left is noticed when there is something to tell him.
    service.wait("a place to be free again", || Client::open(address, "?after=0", None).next().is_some());
    let log = log_of(&world);
    for heard in heard {
        assert_same(&heard, &log[..1_500]);
    }
    service.stop();
}

#[test]
fn an_id_that_is_not_known_or_too_old_is_reset_with_the_reason() {
    let world = World::new(Options { rows_per_bar: Some(20), speed: Speed::Times(600.0), ..market(4) });
    let old = START.plus(-400 * 86_400).floor(86_400);
    let mut file = "pair,timeframe,timestamp,open,high,low,close\n".to_owned();
    for slot in [0, 1, 3] {
        file.push_str(&format!("EUR_USD,5,{},1.1,1.2,1.0,1.1\n", old.plus(slot * STEP).0));
    }
    std::fs::write(world.folder().join("old.csv"), file).unwrap();
    assert!(world.output("import old.csv", &[]).status.success());
    let (service, address) = serving(&world, &[]);
    // Nothing is deleted yet.
    let mut client = Client::open(address, "", Some("0"));
    assert_eq!((client.bar().seq, client.bar().time), (1, old.plus(STEP).0));
    // The last of all is never deleted.
    client.until(|block| block.id.is_some_and(|id| id > 28));
    service.stop();

    let (mut service, address) = serving(&world, &[("CANDLEKEEP_RETENTION_DAYS", "{ 5 = 100 }")]);
    service.wait_said("old bars deleted timeframe=5 bars=3 ", 1);
    for (last_id, word, reason) in [
        ("1", "deleted", "bars after 1 have been deleted for their age, the last of them 3;"),
        ("2", "deleted", "bars after 2 have been deleted for their age, the last of them 3;"),
        ("123456789", "unknown_id", "there is no 123456789 yet: this may be another database;"),
        ("of another", "unknown_id", "\"of another\" is no id of this stream:"),
    ] {
        let mut client = Client::open(address, "", Some(last_id));
        let reset = client.until(|block| block.is("reset"));
        assert_eq!(reset.data["error"], word, "{last_id}: {reset:?}");
        assert!(reset.data["reason"].as_str().unwrap().starts_with(reason), "{last_id}: {reset:?}");
        let seq = reset.data["seq"].as_i64().unwrap();
        assert_eq!(reset.id, Some(seq), "a browser goes on from there by itself");
        assert!(seq > 3);
        let next = client.bar();
        let stored = log_of(&world);
        assert_eq!(Some(&next), stored.iter().find(|told| told.seq > seq), "{last_id}");
    }
    // All that is deleted was known, or nothing is.
    for after in [3, 0] {
        let mut client = Client::open(address, &format!("?after={after}"), None);
        assert_eq!((client.next().unwrap().id, client.bar().seq), (Some(after), 4));
    }
    service.stop();
}

#[test]
fn who_heard_of_bars_that_a_restored_backup_lacks_begins_anew() {
    let world = World::new(Options { rows_per_bar: Some(20), speed: Speed::Times(600.0), ..market(6) });
    let (mut service, address) = serving(&world, &[]);
    let newest = "SELECT max(seq) FROM candles";
    world.wait(&mut service, "bars", |world| world.number(newest) > 10);
    assert!(world.output("backup monday.db", &[]).status.success());
    let backup = world.folder().join("monday.db");
    let kept = Database::open(&backup).unwrap().number(newest).unwrap();
    let mut client = Client::open(address, "", None);
    let heard = client.until(|block| block.id.is_some_and(|id| id > kept + 30)).id.unwrap();
    service.kill();
    restore(&world, &backup);
    let (mut service, address) = serving(&world, &[]);
    // As many bars are stored anew before he is back.
    let since = format!("SELECT count(*) FROM candles WHERE seq > {kept}");
    world.wait(&mut service, "bars again", |world| world.number(&since) > heard - kept);
    let mut client = Client::open(address, "", Some(&heard.to_string()));
    let reset = client.until(|block| block.is("reset"));
    assert_eq!(reset.data["error"], "unknown_id", "{reset:?}");
    assert!(reset.data["seq"].as_i64().unwrap() > kept + (1 << 20), "{reset:?}");
    // Who has heard of no more than the backup has goes on.
    let mut client = Client::open(address, "", Some(&kept.to_string()));
    let next = client.bar();
    assert_eq!(Some(&next), log_of(&world).iter().find(|told| told.seq > kept));
    service.stop();
}

#[test]
fn what_is_asked_wrongly_of_the_stream_is_told_precisely() {
    let world = slow_market();
    let (service, address) = serving(&world, &[]);
    for (query, status, word) in [
        ("?pairs=USD_SEK", 404, "unknown_pair"),
        ("?pairs=EUR_USD,EUR", 400, "bad_pair"),
        ("?timeframes=60", 404, "unknown_timeframe"),
        ("?timeframes=5,7", 400, "bad_timeframe"),
        ("?forming=maybe", 400, "bad_forming"),
        ("?after=x", 400, "bad_after"),
        ("?pair=EUR_USD", 400, "unknown_parameter"),
    ] {
        let answer = ask(address, &format!("GET /v1/stream{query}"), "");
        assert_eq!((answer.status, answer.json()["error"].as_str()), (status, Some(word)), "{query}");
    }
    let head = ask(address, "HEAD /v1/stream", "");
    assert_eq!((head.status, head.header("Content-Type")), (200, Some("text/event-stream")));
    let other = ask(address, "POST /v1/stream", "Content-Length: 0\r\n");
    assert_eq!((other.status, other.header("Allow")), (405, Some("GET, HEAD")));
    service.stop();
}

#[test]
fn a_stream_outlives_other_connections_in_silence_says_where_it_is_and_ends_with_the_service() {
    let world = World::new(market(1));
    let (mut service, address) = serving(&world, &[]);
    world.wait_complete(&mut service);
    let began = Clock::system().monotonic();
    let mut client = Client::open(address, "?pairs=EUR_USD", None);
    let greeting = client.next().unwrap();
    let last = log_of(&world).last().unwrap().seq;
    assert_eq!(greeting.id, Some(last), "{greeting:?}");
    assert!(client.head.as_ref().unwrap().contains("content-type: text/event-stream"), "{:?}", client.head);
    // Of a pair that it does not want.
    let old = START.plus(-40 * 86_400);
    let file = format!("pair,timeframe,timestamp,open,high,low,close\nGBP_USD,5,{},1.1,1.2,1.0,1.1\n", old.0);
    std::fs::write(world.folder().join("old.csv"), file).unwrap();
    assert!(world.output("import old.csv", &[]).status.success());
    let keepalive = client.next().unwrap();
    assert_eq!((keepalive.event, &*keepalive.comment, keepalive.id), (None, "keepalive", Some(last + 1)));
    // Longer than a connection of any other kind lasts.
    while Clock::system().monotonic() - began < Duration::from_secs(50) {
        let keepalive = client.next().expect("it lasts");
        assert_eq!((&*keepalive.comment, keepalive.id), ("keepalive", None), "nothing is new");
    }
    // Who hangs up gives his place back although there is nothing to tell him.
    let others: Vec<Client> = (1..FOLLOWERS_MAX)
        .map(|_| {
            let mut client = Client::open(address, "", None);
            assert!(client.next().is_some());
            client
        })
        .collect();
    let is_free = || Client::open(address, "", None).next().is_some();
    assert!(!is_free());
    let left = Clock::system().monotonic();
    drop(others);
    service.wait("a place", is_free);
    let took = Clock::system().monotonic() - left;
    assert!(took < Duration::from_secs(12), "{took:?}");
    // What another process stores is found.
    let file = format!("pair,timeframe,timestamp,open,high,low,close\nEUR_USD,5,{},1.1,1.2,1.0,1.1\n", old.0);
    std::fs::write(world.folder().join("old.csv"), file).unwrap();
    assert!(world.output("import old.csv", &[]).status.success());
    let bar = client.bar();
    assert_eq!((bar.time, bar.seq, &*bar.source), (old.0, last + 2, "import"));
    let ended = service.terminate();
    assert!(ended.took < Duration::from_secs(5), "took {:?}", ended.took);
    ended.orderly();
    assert!(client.next().is_none());
}

#[test]
fn who_follows_what_cannot_be_read_is_kept_for_half_a_minute_told_why_and_ended() {
    let world = World::new(market(1));
    let (mut service, address) = serving(&world, &[]);
    world.wait_complete(&mut service);
    let run = |sql: &str| Connection::open(world.database()).unwrap().execute_batch(sql).unwrap();
    // One is behind, where something cannot be read, and one waits for more until nothing can be.
    run("UPDATE candles SET source = 'nobody' WHERE seq = 2");
    let began = Clock::system().monotonic();
    let mut clients = ["?after=1", ""].map(|query| {
        let mut client = Client::open(address, query, None);
        assert!(client.next().unwrap().id.is_some());
        client
    });
    run("ALTER TABLE candles RENAME TO taken");
    for client in &mut clients {
        let keepalive = client.next().unwrap();
        assert_eq!((keepalive.event, &*keepalive.comment), (None, "keepalive"));
        let error = client.until(|block| block.event.is_some());
        assert!(error.is("error"), "{error:?}");
        assert_eq!(error.data["error"], "unavailable");
        assert!(error.data["reason"].as_str().unwrap().contains("no such table"), "{error:?}");
        assert!(client.next().is_none());
    }
    let took = Clock::system().monotonic() - began;
    assert!(took > Duration::from_secs(29), "{took:?}");
    let refused = ask(address, "GET /v1/stream", "");
    assert!(refused.status >= 500, "{refused:?}");
    run("ALTER TABLE taken RENAME TO candles");
    let mut client = Client::open(address, "", None);
    assert!(client.next().unwrap().id.is_some());
    service.wait_said("what is stored can be told again to those who follow", 1);
    let warned = "what is stored cannot be told, those who follow are ended";
    let log = service.log();
    assert_eq!(log.iter().filter(|line| line.contains(warned)).count(), 1, "{log:#?}");
    service.stop();
}

#[test]
fn a_bar_is_pushed_when_it_is_stored_and_not_when_somebody_looks() {
    // Buckets end each two and a half seconds, and commits of others are looked for each second one.
    let world = World::new(Options { rows_per_bar: Some(20), speed: Speed::Times(120.0), ..market(2) });
    let (mut service, address) = serving(&world, &[]);
    let mut client = Client::open(address, "?timeframes=5", None);
    let newest = |world: &World| world.number("SELECT max(seq) FROM candles WHERE timeframe = '5'");
    let (mut last, mut lags) = (client.next().unwrap().id.unwrap(), Vec::new());
    for _ in 0..9 {
        world.wait(&mut service, "a bar", |world| newest(world) > last);
        let (stored, seen) = (newest(&world), Clock::system().monotonic());
        while last < stored {
            last = client.bar().seq;
        }
        lags.push(Clock::system().monotonic() - seen);
    }
    lags.sort();
    assert!(lags[lags.len() / 2] < Duration::from_millis(500), "{lags:?}");
    service.stop();
}

#[test]
fn a_standby_pushes_what_its_leader_stores() {
    let Some(server) = postgres::shared() else { return };
    let world = slow_market().on_server(server.place());
    let mut leader = world.run();
    leader.wait_said("collecting", 1);
    let mut standby = world.start("run", &[("CANDLEKEEP_HTTP", "127.0.0.1:0")]);
    let address = standby.http_address();
    world.wait(&mut leader, "bars", |world| world.stored() > 0);
    let mut client = Client::open(address, "", None);
    let heard: Vec<Told> = (0..56).map(|_| client.bar()).collect();
    let stored = log_of(&world).into_iter().filter(|told| told.seq >= heard[0].seq).take(56);
    assert_same(&heard, &stored.collect::<Vec<_>>());
    standby.stop();
    leader.stop();
}

#[test]
fn a_candle_under_way_is_told_once_a_second_at_most_and_never_after_its_bar() {
    // A bucket lasts five seconds.
    let world = World::new(Options { rows_per_bar: Some(60), speed: Speed::Times(60.0), ..market(2) });
    let (service, address) = serving(&world, &[]);
    let document = ask(address, "GET /v1/openapi.json", "").json();
    let began = Clock::system().monotonic();
    let mut client = Client::open(address, "?forming=true&pairs=EUR_USD,USD_JPY", None);
    let mut plain = Client::open(address, "", None);
    let mut forming: BTreeMap<(String, String, i64), Vec<Value>> = BTreeMap::new();
    let mut settled: BTreeSet<(String, String, i64)> = BTreeSet::new();
    let key = |data: &Value| {
        let text = |name: &str| data[name].as_str().unwrap().to_owned();
        (text("pair"), text("timeframe"), data["time"].as_i64().unwrap())
    };
    let is_whole = |settled: &BTreeSet<(String, String, i64)>| {
        settled.iter().filter(|(_, timeframe, _)| timeframe == "15").count() >= 4
    };
    while !is_whole(&settled) {
        let block = client.next().expect("the stream goes on");
        if block.is("forming") {
            fits_named(&document, "FormingBar", &block.data);
            assert_eq!(block.id, None, "nobody goes on from what still moves");
            let key = key(&block.data);
            assert!(!settled.contains(&key), "{key:?} is stored");
            assert!(["EUR_USD", "USD_JPY"].contains(&&*key.0));
            forming.entry(key).or_default().push(block.data);
        } else if block.is("candle") && block.data["time"].as_i64() >= Some(START.0) {
            settled.insert(key(&block.data));
            let before = forming.get(&key(&block.data));
            for data in before.into_iter().flatten() {
                assert!(data["volume"].as_i64() <= block.data["volume"].as_i64(), "{data} {:?}", block.data);
                assert!(prices(data)[1] <= prices(&block.data)[1], "{data} {:?}", block.data);
                assert_eq!(data["open"], block.data["open"]);
            }
        }
    }
    let seconds = (Clock::system().monotonic() - began).as_secs() as usize + 2;
    for pair in ["EUR_USD", "USD_JPY"] {
        for timeframe in ["5", "15"] {
            let of = forming.iter().filter(|((of, length, _), _)| of == pair && length == timeframe);
            let count: usize = of.map(|(_, told)| told.len()).sum();
            assert!((5..=seconds).contains(&count), "{pair} {timeframe}: {count} in {seconds} s");
        }
    }
    // A quarter begins before its last part does.
    assert!(forming.values().any(|told| told[0]["timeframe"] == "15" && told.len() > 7), "{forming:?}");
    let last = log_of(&world).last().unwrap().seq;
    let mut told = 0;
    while told < last {
        let block = plain.until(|block| block.event.is_some());
        assert!(block.is("candle"), "nobody gets them who has not asked: {block:?}");
        told = block.id.unwrap();
    }
    service.stop();
}
