//! How long it takes from the row that ends a candle to a bar that another connection sees: `cargo bench --bench latency`;
//! with `-- --test` it is only seen that it runs.
//!
//! Each of 28 pairs gets the last row of its candle, in one message. The time goes from its text through the rooms
//! without I/O and to the thread that owns the store, until another connection has read the bars. Next to it, by turns and in
//! the same folder, a bare `fdatasync` of a page that is written over, and a bare transaction of 28 rows,
//! `synchronous=FULL`. Sockets and mailboxes are no part of it. Databases go where `TMPDIR` says. Ends with 1 where the
//! budget is missed.

use std::io::{Seek, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use candlekeep::domain::pair::MAJOR_PAIRS;
use candlekeep::domain::{FactBatch, Timestamp};
use candlekeep::store::{DatabaseUrl, Store, StoreHandle, StoredBar};

#[expect(dead_code, reason = "other benches use the rest")]
mod bars;
mod budget;
#[expect(dead_code, reason = "other benches use the rest")]
mod rooms;
#[expect(dead_code, reason = "other benches use the rest")]
mod sides;
#[expect(dead_code, reason = "other benches use the rest")]
mod timing;

use bars::bar;
use budget::Budget;
use rooms::{Rooms, messages};
use sides::{Floor, stored};
use timing::{at, shares, time};

/// Candles that end, and of those how many on one side before it is the next one's turn.
const BUCKETS: usize = 600;
const BUCKETS_OF_TEST: usize = 20;
const PER_TURN: usize = 20;
/// Rows of each candle.
const ROWS_PER_BAR: usize = 5;
/// The budget: so many times the bare transaction, at the median and for 99 of 100.
const MEDIAN_MAX: f64 = 2.0;
const P99_MAX: f64 = 4.0;
/// Bytes that are synced alone.
const PAGE: usize = 4096;

fn main() -> ExitCode {
    let mut budget = Budget::new();
    let buckets = if budget.is_test() { BUCKETS_OF_TEST } else { BUCKETS };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let url = DatabaseUrl::sqlite(dir.path().join("store.db"));
    let floor = dir.path().join("floor.db");
    drop(Store::open(&DatabaseUrl::sqlite(&floor)).expect("its tables"));
    let mut page = tempfile::tempfile_in(dir.path()).expect("a file");
    page.write_all(&[0; PAGE]).and_then(|()| page.sync_all()).expect("a page");

    let messages = messages(MAJOR_PAIRS.len(), buckets, ROWS_PER_BAR);
    let mut rooms = Rooms::new(&MAJOR_PAIRS);
    let [mut whole, mut bare, mut synced] = [const { Vec::new() }; 3];
    let mut seq = 0;
    for turn in messages.chunks(PER_TURN * ROWS_PER_BAR) {
        let store = Store::open(&url).expect("a store");
        // It has to see what is committed, and so reads anew each time.
        let mut reader = Store::open_read_only(&url).expect("a reader");
        let mut last = reader.last_seq().expect("a number");
        let (handle, thread) = StoreHandle::spawn("bench-store", store).expect("a thread");
        for rows in turn.chunks(ROWS_PER_BAR) {
            let [before @ .., end] = rows else { unreachable!("a candle has rows") };
            before.iter().for_each(|row| assert!(rooms.handle(row).is_empty(), "it goes on"));
            whole.push(time(|| {
                let batch = Arc::new(FactBatch { evidence: "session 1".into(), facts: rooms.handle(end) });
                let commit = handle.run(move |store| store.commit(&[batch], Timestamp(1_578_268_800)));
                futures_executor::block_on(commit).expect("a commit");
                let seen = reader.bars_after(last, usize::MAX).expect("its bars");
                assert!(seen.len() >= MAJOR_PAIRS.len(), "{} bars are seen", seen.len());
                last = seen[seen.len() - 1].seq;
            }));
        }
        drop(handle);
        thread.join().expect("it ends");
        let mut floor = Floor::open(&floor);
        for _ in 0..PER_TURN {
            seq += 28;
            let pairs = MAJOR_PAIRS.into_iter().zip(0..);
            let rows: Vec<StoredBar> = pairs.map(|(pair, n)| stored(bar(pair, n, seq), seq + n)).collect();
            bare.push(time(|| floor.upsert(&rows)));
            synced.push(time(|| {
                page.rewind().and_then(|()| page.write_all(&[1; PAGE])).expect("a page");
                page.sync_data().expect("it is on the disk");
            }));
        }
    }
    for (name, times) in
        [("bare fdatasync", &mut synced), ("bare commit", &mut bare), ("row to bar", &mut whole)]
    {
        times.sort();
        println!("{name:<15} {}", shares(times));
        histogram(times);
    }
    for (which, share, most) in [("median", 0.5, MEDIAN_MAX), ("99 of 100", 0.99, P99_MAX)] {
        let factor = at(&whole, share).as_secs_f64() / at(&bare, share).as_secs_f64();
        let what = format!("last row of 28 candles to bars that another connection sees, {which}");
        budget.at_most(&what, factor, most, "bare commits");
    }
    budget.end()
}

/// How many took how long, in steps of a doubling.
fn histogram(sorted: &[Duration]) {
    let mut rest = sorted;
    let mut to = Duration::from_micros(125);
    while !rest.is_empty() {
        let (within, later) = rest.split_at(rest.partition_point(|took| *took < to));
        if !within.is_empty() {
            let bar = "#".repeat((within.len() * 50).div_ceil(sorted.len()));
            println!("  < {:>8.2} ms {:>5} {bar}", to.as_secs_f64() * 1e3, within.len());
        }
        (rest, to) = (later, to * 2);
    }
}
