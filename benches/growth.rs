//! Whether what a row costs, and the memory, grow: with the number of items, and with what is stored.
//! `cargo bench --bench growth`; with `-- --test` it is only seen that it runs.
//!
//! *Items.* 28, 280 and 2,800 of them (most made up) stream the same number of rows in all through the rooms without
//! I/O (a Lightstreamer session holds 1,000 subscriptions, so the last have three), and the store writes bars of theirs in
//! as many transactions, next to a bare upsert.
//!
//! *Stored.* A week, a month and a year of 28 pairs are written into SQLite, with breaks of the stream, quiet buckets and
//! weekends in the ledger, and what `run` writes and asks in its daily work is measured at each size, in a process of
//! its own. On PostgreSQL, where it is installed, it is one connection to each from the empty tables on, by the clock: there the
//! server makes its plans while it has seen nothing, and keeps them.
//!
//! A machine's speed may change by twice within seconds, so every single figure is measured at all sizes by turns, one at a time, and all
//! of that five times over: what has grown is told by the median of these.
//!
//! Databases go where `TMPDIR` says; a year takes 1.4 GB there, and as much again with PostgreSQL (`-- sqlite` leaves
//! that out, `-- postgres` all else). Linux only: it reads `/proc`. Ends with 1 where something grows.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Lines, Write as _};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use candlekeep::domain::pair::MAJOR_PAIRS;
use candlekeep::domain::{Calendar, Fact, FactBatch, Mark, Pair, Reason, State, Timeframe};
use candlekeep::healer::attempts::Attempts;
use candlekeep::healer::book::{Watched, pages};
use candlekeep::healer::plan::{Now, Purse, Terms, plan};
use candlekeep::store::{Among, BarQuery, DatabaseUrl, ExpectedBars, Feed, Store};

#[expect(dead_code, clippy::unwrap_used, reason = "it is a part of the tests, which use the rest")]
#[path = "../tests/it/postgres.rs"]
mod postgres;
#[expect(dead_code, reason = "it is a part of the tests, which use the rest")]
#[path = "../tests/it/process.rs"]
mod process;

mod bars;
mod budget;
mod rooms;
#[expect(dead_code, reason = "other benches use the rest")]
mod sides;
#[expect(dead_code, reason = "other benches use the rest")]
mod timing;

use bars::{START, bar, bars_of, pairs, start_of};
use budget::Budget;
use sides::{Sides, total};
use timing::{Cost, at, cost, cpu_time, now};

/// How many items, and rows in all whatever their number.
const ITEMS: [usize; 3] = [28, 280, 2_800];
const ROWS_PER_BAR: usize = 5;
const ROWS: usize = 2_800 * 3 * ROWS_PER_BAR;
/// How many times the rooms are made to see what they hold.
const ROOMS_HELD: usize = 32;
/// Passes over these rows.
const PASSES: usize = 31;
/// Buckets of one transaction, and transactions. As many for each number of items: each pair's ledger changes with each
/// transaction, so bars of more pairs in one cost more than more bars of one.
const BUCKETS_PER_COMMIT: i64 = 3;
const COMMITS: usize = 40;
const COMMITS_PER_TURN: usize = 20;

/// Weeks stored.
const WEEKS: [i64; 3] = [1, 4, 52];
/// Buckets of a week, those in which the market trades first, and of a day.
const WEEK: i64 = 7 * DAY;
const TRADED: i64 = 5 * DAY;
const DAY: i64 = 288;
/// Transactions of one bucket, at each size, and fetched ones of one pair with so many bars.
const LIVE: i64 = 200;
const FETCHED: i64 = 300;
/// Pairs that lack an hour when questions are asked.
const HOLES: i64 = 3;
/// How often all of it is written and asked at each size, and how many buckets later each time.
const ROUNDS: i64 = 5;
const ROUND: i64 = 600;
/// How often each question is asked.
const ASKED: usize = 25;

/// How much more it may be than at the smallest size: as a factor, or where that is more, beside it for each question or
/// transaction, since a short one differs by as much on a busy machine.
const FACTOR_MAX: f64 = 1.5;
const BESIDE_MAX_US: f64 = 10.0;
/// The same for a server, whose answers wait for a processor that others have.
const SERVER_BESIDE_MAX_US: f64 = 100.0;
/// Memory that may come on top with a year, and an item's, KiB.
const GROWN_MAX_KIB: f64 = 1_024.0;
const ITEM_MAX_KIB: f64 = 8.0;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["items", count, commits] => told(&items(number(count), number(commits), &mut hand_on)),
        ["fill", place, from, to] => {
            fill(&mut open(place), number(from) as i64, number(to) as i64);
            ExitCode::SUCCESS
        }
        ["ask", place, weeks] => {
            let before = own_kib();
            let (mut store, weeks) = (open(place), number(weeks) as i64);
            let mut known = ask(&mut store, weeks, 0, |cost| cost.cpu, 0.5, &mut hand_on);
            known.push(Figure::new(MEMORY, (own_kib() - before) as f64, 1.0));
            told(&known)
        }
        [] => judged(&[of_items, in_a_file, on_a_server], &SCALE),
        ["sqlite"] => judged(&[of_items, in_a_file], &SCALE),
        ["postgres"] => judged(&[on_a_server], &SCALE),
        ["--test"] => judged(&[of_items, in_a_file], &Scale { items: &[28, 280], weeks: &[1], commits: 2 }),
        _ => panic!("nothing, sqlite or postgres"),
    }
}

fn number(word: &str) -> usize {
    word.parse().expect("a number")
}

fn open(place: &str) -> Store {
    Store::open(&place.parse().expect("an address")).expect("a store")
}

/// What was measured.
struct Figure {
    name: String,
    /// Of each row, or of the whole, in each round.
    values: Vec<f64>,
    /// How many rows a question or transaction has, where it is of each.
    rows: f64,
}

impl Figure {
    fn new(name: &str, value: f64, rows: f64) -> Figure {
        Figure { name: name.to_owned(), values: vec![value], rows }
    }

    fn least(&self) -> f64 {
        self.values.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// How many times that of another size it is, of the same round each: at the median.
    fn above(&self, other: &Figure) -> f64 {
        let mut each: Vec<f64> =
            self.values.iter().zip(&other.values).map(|(one, other)| one / other).collect();
        each.sort_by(f64::total_cmp);
        each[each.len() / 2]
    }
}

type Figures = Vec<Figure>;

const WRITE: &str = "write, three buckets a transaction";
/// What writing is held against; that it grows is SQLite's matter.
const FLOOR: &str = "… a bare upsert of the same rows";
/// How many times the floor writing is: that must not grow either.
const IN_FLOORS: &str = "write, in bare upserts";
/// Of the rooms without I/O.
const ITEM: &str = "own memory an item, KiB";
/// A sum of the whole ledger, which `/metrics` asks for at most every minute: known to grow.
const BY_STATE: &str = "buckets by state (walks the ledger)";
/// The plan rests on all that is known since the oldest hole, and so does what it costs.
const OLD_HOLE: &str = "the same, with a hole before the first week";
/// A process's own memory, beside figures in µs.
const MEMORY: &str = "own memory, KiB";

fn told(figures: &Figures) -> ExitCode {
    figures.iter().for_each(|figure| println!("{}\t{}\t{}", figure.name, figure.least(), figure.rows));
    ExitCode::SUCCESS
}

/// This program with other words.
fn child(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(words);
    command
}

/// Called by who measures when it is another's turn: comes back when all others have had theirs.
type Turn<'a> = &'a mut dyn FnMut();

/// What a process says that hands on. It goes on when it is told a line.
const HANDED_ON: &str = "handed on";

fn hand_on() {
    println!("{HANDED_ON}");
    let told = std::io::stdin().read_line(&mut String::new()).expect("a turn");
    assert_ne!(told, 0, "nobody gives turns any more");
}

/// Measures in a process of its own: what another has left of its memory is no matter there.
struct Measuring {
    process: std::process::Child,
    turns: ChildStdin,
    told: Lines<BufReader<ChildStdout>>,
    figures: Figures,
}

impl Measuring {
    fn start(words: &[&str]) -> Measuring {
        let mut command = child(words);
        let process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut process = process.expect("a process of ours");
        let turns = process.stdin.take().expect("it is piped");
        let mut told = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        let first = told.next().expect("a word").expect("text");
        assert_eq!(first, HANDED_ON, "it waits for its first turn");
        Measuring { process, turns, told, figures: Figures::new() }
    }

    /// Its turn, of which each begins with a line; whether it wants another.
    fn go_on(&mut self) -> bool {
        writeln!(self.turns).expect("it waits");
        for line in &mut self.told {
            let line = line.expect("text");
            if line == HANDED_ON {
                return true;
            }
            let [name, value, rows] = line.split('\t').collect::<Vec<_>>()[..] else {
                panic!("a figure: {line}")
            };
            let number = |text: &str| text.parse().expect("a number");
            self.figures.push(Figure::new(name, number(value), number(rows)));
        }
        assert!(self.process.wait().expect("a process of ours").success(), "it failed");
        false
    }
}

/// Has each go on until it hands on, over and over, as long as they want to.
fn in_turn(mut each: Vec<impl FnMut() -> bool>) {
    while each.iter_mut().map(|go_on| go_on()).fold(false, |any, wants| any | wants) {}
}

/// The figures of processes with these words, by turns.
fn each_alone(words: &[Vec<&str>]) -> Vec<Figures> {
    let mut each: Vec<Measuring> = words.iter().map(|words| Measuring::start(words)).collect();
    in_turn(each.iter_mut().map(|one| move || one.go_on()).collect());
    each.into_iter().map(|one| one.figures).collect()
}

/// The figures of stores in this process, by turns.
fn each_of(
    stores: &mut [Store],
    measure: impl Fn(&mut Store, usize, Turn<'_>) -> Figures + Sync,
) -> Vec<Figures> {
    let measure = &measure;
    std::thread::scope(|scope| {
        let start = |(ix, store): (usize, _)| {
            let ((go, turn), (hand_on, handed_on)) = (sync_channel(0), sync_channel(0));
            let thread = scope.spawn(move || {
                let wait = || turn.recv().expect("a turn");
                wait();
                measure(store, ix, &mut || {
                    hand_on.send(()).expect("somebody gives turns");
                    wait();
                })
            });
            let go_on = move || {
                go.send(()).expect("it waits");
                // Who is through hands on no more.
                handed_on.recv().is_ok()
            };
            (thread, go_on)
        };
        let (threads, each): (Vec<_>, Vec<_>) = stores.iter_mut().enumerate().map(start).unzip();
        in_turn(each);
        threads.into_iter().map(|thread| thread.join().expect("its figures")).collect()
    })
}

fn own_kib() -> i64 {
    process::Process(std::process::id()).status("RssAnon:") as i64
}

/// How far it goes.
struct Scale {
    items: &'static [usize],
    weeks: &'static [i64],
    commits: usize,
}

const SCALE: Scale = Scale { items: &ITEMS, weeks: &WEEKS, commits: COMMITS };

fn judged(parts: &[fn(&Scale, &mut Budget)], scale: &Scale) -> ExitCode {
    let mut budget = Budget::new();
    parts.iter().for_each(|part| part(scale, &mut budget));
    budget.end()
}

fn of_items(&Scale { items, commits, .. }: &Scale, budget: &mut Budget) {
    let (names, commits) = (items.iter().map(ToString::to_string).collect::<Vec<_>>(), commits.to_string());
    let words: Vec<_> = names.iter().map(|count| vec!["items", count.as_str(), commits.as_str()]).collect();
    let mut each = in_rounds(|_| each_alone(&words));
    each.iter_mut().for_each(in_floors);
    println!("µs a row on a processor, by the number of items:");
    let most = items[items.len() - 1];
    table(&names, &each);
    let (memory, costs): (Vec<usize>, Vec<usize>) =
        (0..each[0].len()).filter(|ix| each[0][*ix].name != FLOOR).partition(|ix| each[0][*ix].name == ITEM);
    for ix in memory {
        let kib = each[each.len() - 1][ix].least();
        budget.at_most(
            &format!("own memory of the rooms, of each of {most} items"),
            kib,
            ITEM_MAX_KIB,
            "KiB",
        );
    }
    for ix in costs {
        let (first, last) = (&each[0][ix], &each[each.len() - 1][ix]);
        let what = format!("{}; a row of {most} items, above one of {}", first.name, items[0]);
        budget.at_most(&what, last.above(first), FACTOR_MAX, "times");
    }
}

/// Adds what writing is in floors, in each round.
fn in_floors(figures: &mut Figures) {
    let of = |name| &figures.iter().find(|figure| figure.name == name).expect("it was measured").values;
    let values = of(WRITE).iter().zip(of(FLOOR)).map(|(store, floor)| store / floor).collect();
    figures.push(Figure { name: IN_FLOORS.to_owned(), values, rows: 1.0 });
}

fn by_weeks(weeks: &[i64]) -> Vec<String> {
    weeks.iter().map(|weeks| format!("weeks: {weeks}")).collect()
}

fn most_above_least(weeks: &[i64]) -> String {
    format!("with {} weeks stored, above {}", weeks[weeks.len() - 1], weeks[0])
}

fn in_a_file(&Scale { weeks, .. }: &Scale, budget: &mut Budget) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let names = by_weeks(weeks);
    let place = |name: &str| DatabaseUrl::sqlite(dir.path().join(name)).to_string();
    let mut stored = 0;
    let filled: Vec<String> = weeks
        .iter()
        .map(|weeks| {
            let [from, to] = [stored, *weeks].map(|weeks| weeks.to_string());
            let end = child(&["fill", &place("grown.db"), &from, &to]).status();
            assert!(end.expect("a process of ours").success(), "it is not filled");
            stored = *weeks;
            let copy = format!("{weeks}.db");
            copied(dir.path(), "grown.db", &copy);
            copy
        })
        .collect();
    let asked: Vec<String> = filled.iter().map(|file| format!("asked-{file}")).collect();
    let places: Vec<(String, String)> =
        asked.iter().zip(weeks).map(|(file, weeks)| (place(file), weeks.to_string())).collect();
    let words: Vec<_> =
        places.iter().map(|(place, weeks)| vec!["ask", place.as_str(), weeks.as_str()]).collect();
    let each = in_rounds(|_| {
        filled.iter().zip(&asked).for_each(|(from, to)| copied(dir.path(), from, to));
        each_alone(&words)
    });
    println!(
        "\nSQLite, 28 pairs, {}: µs on a processor",
        size_of(&dir.path().join(&filled[filled.len() - 1]))
    );
    table(&names, &each);
    let what = most_above_least(weeks);
    judge(budget, &format!("SQLite {what}"), &each, &bounded(&each), BESIDE_MAX_US);
    let own = each
        .iter()
        .map(|figures| figures.iter().find(|figure| figure.name == MEMORY).map_or(0.0, Figure::least));
    let own: Vec<f64> = own.collect();
    budget.at_most(&format!("own memory {what}"), own[own.len() - 1] - own[0], GROWN_MAX_KIB, "KiB");
}

fn on_a_server(&Scale { weeks, .. }: &Scale, budget: &mut Budget) {
    let what = format!("PostgreSQL {}", most_above_least(weeks));
    let settings = ["shared_buffers = 128MB", "max_wal_size = 1GB"];
    if let Some(server) = postgres::Server::start(&settings) {
        let mut stores: Vec<Store> = weeks
            .iter()
            .map(|weeks| {
                let mut store = Store::open(&server.url()).expect("a store");
                // The plans of empty tables are made, and kept.
                ask(&mut store, 0, 0, |cost| cost.wall, 0.1, &mut || {});
                fill(&mut store, 0, *weeks);
                store
            })
            .collect();
        let each = in_rounds(|round| {
            each_of(&mut stores, |store, ix, turn| ask(store, weeks[ix], round, |cost| cost.wall, 0.1, turn))
        });
        println!("\nPostgreSQL, 28 pairs: µs by the clock, the fastest tenth");
        table(&by_weeks(weeks), &each);
        judge(budget, &what, &each, &bounded(&each), SERVER_BESIDE_MAX_US);
    } else {
        budget.not_measured(&what, "there is no server");
    }
}

/// Measures all sizes so many times.
fn in_rounds(mut measure: impl FnMut(i64) -> Vec<Figures>) -> Vec<Figures> {
    let mut known = measure(0);
    for round in 1..ROUNDS {
        for (known, figures) in known.iter_mut().zip(measure(round)) {
            assert_eq!(known.len(), figures.len(), "each round has the same figures");
            known.iter_mut().zip(figures).for_each(|(known, one)| known.values.extend(one.values));
        }
    }
    known
}

/// The places of what must not grow with what is stored; memory has a bound of its own.
fn bounded(each: &[Figures]) -> Vec<usize> {
    let bounded = |ix: &usize| ![BY_STATE, OLD_HOLE, MEMORY].contains(&each[0][*ix].name.as_str());
    (0..each[0].len()).filter(bounded).collect()
}

/// Judges by what has grown most from the first size to the last. What it may come to `beside` the first counts as nothing.
fn judge(budget: &mut Budget, what: &str, each: &[Figures], places: &[usize], beside: f64) {
    let growth = |ix: usize| {
        let (first, last) = (&each[0][ix], &each[each.len() - 1][ix]);
        let counts = last.least() > first.least() + beside / first.rows;
        (if counts { last.above(first) } else { 1.0 }, last.name.as_str())
    };
    let (factor, name) =
        places.iter().map(|ix| growth(*ix)).max_by(|one, other| one.0.total_cmp(&other.0)).expect("figures");
    let most = if factor > 1.0 { format!(" (most of all: {name})") } else { String::new() };
    budget.at_most(&format!("{what}{most}"), factor, FACTOR_MAX, "times");
}

/// Prints the figures side by side, the least of all rounds.
fn table(heads: &[String], each: &[Figures]) {
    let mut line = format!("  {:<44}", "");
    heads.iter().for_each(|head| write!(line, "{head:>12}").expect("a String takes any text"));
    println!("{line}");
    for (ix, Figure { name, .. }) in each[0].iter().enumerate() {
        let mut line = format!("  {name:<44}");
        let figures = each.iter().map(|figures| figures[ix].least());
        figures.for_each(|figure| write!(line, "{figure:>12.2}").expect("a String takes any text"));
        println!("{line}");
    }
}

fn size_of(file: &Path) -> String {
    format!("{} MiB", std::fs::metadata(file).expect("a file").len() >> 20)
}

/// Puts a copy of a database that nobody has open in the place of another.
fn copied(folder: &Path, from: &str, to: &str) {
    for suffix in ["", "-wal", "-shm"] {
        let (from, to) = (folder.join(format!("{from}{suffix}")), folder.join(format!("{to}{suffix}")));
        // Where there was none, or is none to be copied.
        let _ = std::fs::remove_file(&to);
        if from.exists() && suffix != "-shm" {
            std::fs::copy(&from, &to).expect("a copy");
        }
    }
}

/// What a row costs with so many items.
fn items(count: usize, commits: usize, turn: Turn<'_>) -> Figures {
    turn();
    let pairs = pairs(count);
    let bars = ROWS / (ROWS_PER_BAR * count);
    let messages = rooms::messages(count, bars, ROWS_PER_BAR);
    // Several, so that what the heap has left over of the above does not hide them.
    let before = own_kib();
    let held: Vec<rooms::Rooms> = (0..ROOMS_HELD)
        .map(|_| {
            let mut rooms = rooms::Rooms::new(&pairs);
            messages.iter().for_each(|message| drop(rooms.handle(message)));
            rooms
        })
        .collect();
    let grown = (own_kib() - before) as f64 / held.len() as f64;
    drop(held);
    let (mut decode, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..PASSES {
        turn();
        let now = now();
        let mut sessions = rooms::sessions(count, now);
        let number = sessions.len();
        decode.push(cpu_time(|| {
            for (ix, message) in messages.iter().enumerate() {
                sessions[ix % number].handle_message(now, black_box(message), &mut |_| {});
            }
        }));
        whole.push(rooms::service(&pairs, &messages).0);
    }
    [&mut decode, &mut whole].into_iter().for_each(|times| times.sort());
    let rows = bars * ROWS_PER_BAR * count;
    let per_row = |times: &[Duration]| at(times, 0.5).as_secs_f64() * 1e6 / rows as f64;

    let dir = tempfile::tempdir().expect("a temporary directory");
    let batches: Vec<Arc<FactBatch>> =
        (0..commits as i64).map(|ix| bars_of(&pairs, ix * BUCKETS_PER_COMMIT, BUCKETS_PER_COMMIT)).collect();
    let (mut sides, mut turns) = (Sides::new(dir.path()), Vec::new());
    for batches in batches.chunks(COMMITS_PER_TURN) {
        turn();
        turns.extend(sides.write(batches, usize::MAX));
    }
    let written: usize = turns.iter().map(|turn| turn.rows).sum();
    let [store, floor] = total(&turns, |cost| cost.cpu).map(|took| took.as_secs_f64() * 1e6 / written as f64);
    [
        ("decode", per_row(&decode)),
        ("decode, merge, settle, fold", per_row(&whole)),
        (WRITE, store),
        (FLOOR, floor),
        (ITEM, grown / count as f64),
    ]
    .map(|(name, value)| Figure::new(name, value, 1.0))
    .into()
}

/// Writes the weeks from the one to before the other, a day a transaction.
fn fill(store: &mut Store, from: i64, to: i64) {
    if from == 0 {
        let feed = |pair: Pair| Feed {
            pair,
            epic: format!("CS.D.{}.CFD.IP", pair.letters()),
            environment: "demo".to_owned(),
            account_type: "CFD".to_owned(),
            scale: "1".to_owned(),
            calendar: "forex".to_owned(),
        };
        store.watch_feeds(&MAJOR_PAIRS.map(feed), START).expect("its feeds");
    }
    for day in (from * 7..to * 7).filter(|day| day % 7 < 5) {
        let (first, evidence) = (day * DAY, format!("session {}", day * 7_919));
        let mut facts = Vec::new();
        for (pair, n) in MAJOR_PAIRS.into_iter().zip(0..) {
            // Each day has buckets without a tick, elsewhere for each pair.
            let quiet: Vec<i64> = (1..4).map(|time| first + (time * 83 + n * 7) % DAY).collect();
            // The last hour of the week is lacking, of some: they get a hole there.
            let end = if day % 7 == 4 && n < HOLES { first + DAY - 12 } else { first + DAY };
            let traded = (first..end).filter(|bucket| !quiet.contains(bucket));
            facts.extend(traded.map(|bucket| Fact::Settled(bar(pair, n, bucket))));
            let quiet = quiet.iter().filter(|bucket| **bucket < end);
            facts.extend(quiet.map(|bucket| mark(pair, *bucket, bucket + 1, State::Quiet, Reason::LaterRow)));
            if day % 7 == 4 {
                let (from, to) = (first + DAY, first + DAY * 3);
                facts.push(mark(pair, from, to, State::Closed, Reason::Calendar));
            }
        }
        let batch = Arc::new(FactBatch { evidence: evidence.into(), facts });
        store.commit(&[batch], start_of(first + DAY)).expect("a day is stored");
    }
}

fn mark(pair: Pair, from: i64, to: i64, state: State, reason: Reason) -> Fact {
    let span = start_of(from)..start_of(to);
    Fact::Marked(Mark { pair, timeframe: Timeframe::M5, span, state, reason })
}

/// What is asked, for the so-manieth time.
type Question<'a> = &'a mut dyn FnMut(&mut Store, usize);

/// What is written and asked in daily work when so many weeks are stored, µs each.
fn ask(
    store: &mut Store,
    weeks: i64,
    round: i64,
    of: impl Fn(&Cost) -> Duration,
    share: f64,
    turn: Turn<'_>,
) -> Figures {
    turn();
    let mut figures = Figures::new();
    let mut note = |name: &str, each: f64, mut costs: Vec<Duration>| {
        costs.sort();
        figures.push(Figure::new(name, at(&costs, share).as_secs_f64() * 1e6 / each, each));
    };
    // In the last weekend, which the next weeks lie behind: two markets trade on, one misses an hour of it.
    let end = if weeks == 0 { 0 } else { (weeks - 1) * WEEK + TRADED } + round * ROUND;
    let now = start_of(end + LIVE);
    let calendar = Arc::new(Calendar::forex());
    let hours = calendar.runs(start_of(end - WEEK)..start_of(end + 2 * WEEK)).into_iter();
    let expected = ExpectedBars {
        pairs: MAJOR_PAIRS.map(|pair| (pair, "forex".to_owned())).to_vec(),
        timeframes: vec![Timeframe::M5, Timeframe::M15],
        hours: BTreeMap::from([("forex".to_owned(), hours.map(|(span, _)| span).collect())]),
        hours_to: start_of(end + 2 * WEEK),
    };
    store.expect_bars(&expected).expect("its hours");
    let commits = (0..LIVE).map(|ix| {
        let batch = [bars_of(&MAJOR_PAIRS, end + ix, 1)];
        of(&cost(|| _ = store.commit(&batch, now).expect("a commit")))
    });
    // Every third completes the longer bars, and is the dearest.
    let commits: Vec<Duration> = commits.collect();
    let of_three = commits.chunks_exact(3).map(|three| three.iter().sum()).collect();
    note("write a bucket of 28 pairs, a row of three", 28.0 * 4.0, of_three);
    turn();
    // What REST brings comes pair by pair.
    let fetched = MAJOR_PAIRS.iter().zip(0..).map(|(pair, n)| {
        let from = end + LIVE;
        let facts = (from..from + FETCHED).map(|bucket| Fact::Settled(bar(*pair, n, bucket))).collect();
        let batch = [Arc::new(FactBatch { evidence: "allowance 1".into(), facts })];
        of(&cost(|| _ = store.commit(&batch, now).expect("a commit")))
    });
    note("write what is fetched of a pair, a row", FETCHED as f64 * 4.0 / 3.0, fetched.collect());
    turn();
    let one = MAJOR_PAIRS.iter().zip(0..).map(|(pair, n)| {
        let facts = vec![Fact::Settled(bar(*pair, n, end + LIVE + FETCHED))];
        let batch = [Arc::new(FactBatch { evidence: "session 1".into(), facts })];
        of(&cost(|| _ = store.commit(&batch, now).expect("a commit")))
    });
    note("write one bar", 1.0, one.collect());
    turn();
    let again = (0..ASKED as i64).map(|ix| {
        let batch = [bars_of(&MAJOR_PAIRS, ix * 10, 10)];
        of(&cost(|| _ = store.commit(&batch, now).expect("a commit")))
    });
    note("oldest bars come again, a row", 280.0, again.collect());
    let hole = |pair, state, reason| mark(pair, end - 12, end, state, reason);
    let holes = MAJOR_PAIRS[..HOLES as usize].iter();
    let missing = holes.clone().map(|pair| hole(*pair, State::Missing, Reason::Offline)).collect();
    let batch = Arc::new(FactBatch { evidence: "restart".into(), facts: missing });
    store.commit(&[batch], now).expect("holes");

    let feeds = MAJOR_PAIRS.map(|pair| Watched { pair, calendar: calendar.clone() });
    let terms = Terms { reserve: 0, incident_cap: 2_500, bars_max: 400, quarters: true, reaching_now: 0 };
    let purse = Purse { remaining: 10_000, ..Purse::default() };
    let a_day = start_of(end - DAY)..start_of(end);
    let last_hundred = BarQuery { count: Some(100), ..BarQuery::default() };
    let seq = store.last_seq().expect("a number");
    let stretches = MAJOR_PAIRS.map(|pair| (pair, Timeframe::M5, a_day.clone()));
    let questions: [(&str, Question<'_>); 14] = [
        ("last 100 bars", &mut |store, ix| {
            let pair = MAJOR_PAIRS[ix % MAJOR_PAIRS.len()];
            drop(store.bars(pair, Timeframe::M5, &last_hundred).expect("bars"));
        }),
        ("one bar", &mut |store, ix| {
            let key = bar(MAJOR_PAIRS[ix % MAJOR_PAIRS.len()], 0, end - 20).key;
            _ = store.bar(key).expect("a bar");
        }),
        ("last 100 values committed", &mut |store, _| {
            drop(store.log_after(seq - 100, 100, Among::All).expect("values"));
        }),
        ("corrections of a day", &mut |store, ix| {
            let pair = MAJOR_PAIRS[ix % MAJOR_PAIRS.len()];
            drop(store.revisions(pair, Timeframe::M5, a_day.clone()).expect("corrections"));
        }),
        ("the ledger of a pair, last day", &mut |store, ix| {
            let pair = MAJOR_PAIRS[ix % MAJOR_PAIRS.len()];
            drop(store.coverage(pair, Timeframe::M5, a_day.clone()).expect("runs"));
        }),
        ("the ledger of all pairs, last day", &mut |store, _| {
            drop(store.coverage_of_each(&stretches).expect("runs"));
        }),
        ("the ledger of a pair, an hour long ago", &mut |store, ix| {
            let pair = MAJOR_PAIRS[ix % MAJOR_PAIRS.len()];
            drop(store.coverage_of_each(&[(pair, Timeframe::M5, START..start_of(12))]).expect("runs"));
        }),
        ("where the ledger ends", &mut |store, _| drop(store.covered_to(Timeframe::M5).expect("ends"))),
        ("what is missing", &mut |store, _| drop(store.missing(Timeframe::M5).expect("runs"))),
        ("all since the oldest missing, and the plan", &mut |store, _| {
            let pages = pages(store.since_oldest_missing().expect("runs"), &feeds);
            let now = Now { event: now, wall: now };
            let plan = plan(&pages, &Attempts::default(), &purse, &terms, now);
            assert!(weeks == 0 || plan.points() > 0, "three pairs lack an hour");
        }),
        ("freshness", &mut |store, _| drop(store.freshness().expect("rows"))),
        ("the newest bar of each", &mut |store, _| drop(store.last_bars().expect("starts"))),
        (BY_STATE, &mut |store, _| drop(store.buckets_by_state(Timeframe::M5).expect("counts"))),
        ("highest number", &mut |store, _| _ = store.last_seq().expect("a number")),
    ];
    for (name, question) in questions {
        turn();
        let costs = (0..ASKED).map(|ix| of(&cost(|| question(store, ix)))).collect();
        note(name, 1.0, costs);
    }
    // Before all that is known, where nothing better stands in its way: not where the last one was healed either.
    let hour = -24 * (weeks + round + 1);
    let old = |state, reason| {
        let fact = mark(MAJOR_PAIRS[0], hour, hour + 12, state, reason);
        [Arc::new(FactBatch { evidence: "restart".into(), facts: vec![fact] })]
    };
    store.commit(&old(State::Missing, Reason::Offline), now).expect("a hole");
    let oldest = store.missing(Timeframe::M5).expect("runs").into_iter().map(|(_, run)| run.span.start).min();
    assert_eq!(oldest, Some(start_of(hour)), "there is a hole that old");
    turn();
    let costs = (0..ASKED).map(|_| {
        of(&cost(|| {
            let pages = pages(store.since_oldest_missing().expect("runs"), &feeds);
            _ = black_box(plan(&pages, &Attempts::default(), &purse, &terms, Now { event: now, wall: now }));
        }))
    });
    note(OLD_HOLE, 1.0, costs.collect());
    store.commit(&old(State::Quiet, Reason::LaterRow), now).expect("no hole");
    // The holes are healed before the next weeks.
    let quiet = holes.map(|pair| hole(*pair, State::Quiet, Reason::LaterRow)).collect();
    let batch = Arc::new(FactBatch { evidence: "session 2".into(), facts: quiet });
    store.commit(&[batch], now).expect("no holes");
    figures
}
