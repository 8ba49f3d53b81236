//! Rows a CPU-second from the wire's text to settled and folded bars, in memory, against a loop
//! written by hand for exactly these lines: `cargo bench --bench settle`.
//!
//! The service's side is the way of a row through the pure rooms: `TlcpSession`, `ChartItem`,
//! `Aggregation`, `fold`. Two loops read the same bytes in one pass and know the schema by heart.
//! The careful one ([`careful`]) does all that the rooms do with a row, and is checked to treat odd
//! rows alike. The bare one reads the start, the ticks, the end flag and eight exact prices, refuses
//! what is no number, merges, settles at the end flag and folds three bars into one; it lacks the
//! protocol's other lines and its count of them, its other ways to say "unchanged", nulls, checks
//! of order and scale, gaps and quiet buckets. All must come to the same bars.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Duration;

use candlekeep::domain::pair::MAJOR_PAIRS;
use candlekeep::domain::{Bar, Fact, Price, State, Timeframe};

mod budget;
mod careful;
mod rooms;
#[expect(dead_code, reason = "other benches use the rest")]
mod timing;
use budget::Budget;
use careful::{Careful, Marked};
use rooms::{FIELDS, Folds, Rooms, STALE_S, START, messages, service};
use timing::{cpu_time, now};

const ITEMS: usize = MAJOR_PAIRS.len();
/// Rows of a pass, about: some two megabytes of text, more than a core's own caches hold.
const ROWS: usize = 55_000;
/// Passes of either side, in turns, so that a noisy neighbour disturbs both.
const PASSES: usize = 101;
const PASSES_OF_TEST: usize = 3;
/// The budget: rows as a share of the careful loop's, and at 300 rows a bar, which is what streams, a CPU-second.
const SHARE_MIN: f64 = 70.0;
const MILLIONS_MIN: f64 = 8.0;

fn main() -> ExitCode {
    let mut budget = Budget::new();
    let passes = if budget.is_test() { PASSES_OF_TEST } else { PASSES };
    odd_rows();
    for rows_per_bar in [300, 5] {
        // A multiple of three, so that nothing is left to fold.
        let bars = ROWS / (ITEMS * rows_per_bar * 3) * 3;
        let messages = messages(ITEMS, bars, rows_per_bar);
        let rows = bars * rows_per_bar * ITEMS;
        let (mut by_service, mut by_careful, mut by_hand) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..passes {
            let (took, bars) = service(&MAJOR_PAIRS, &messages);
            by_service.push(took);
            let (took, raw) = hand(&messages);
            by_hand.push(took);
            let (took, careful) = by_careful_hand(&messages);
            by_careful.push(took);
            assert!(careful == raw && bars.iter().map(RawBar::of).eq(raw), "all must come to the same");
            assert_eq!(bars.len(), rows / rows_per_bar / 3 * 4);
        }
        let bytes: usize = messages.iter().map(String::len).sum();
        println!("{rows_per_bar} rows a bar, {rows} rows, {:.1} bytes a row:", bytes as f64 / rows as f64);
        let [service, careful, hand] = [by_service, by_careful, by_hand].map(median);
        let per_second = |took: Duration| rows as f64 / took.as_secs_f64() / 1e6;
        println!("  bare loop    {:>6.2} million rows a CPU-second", per_second(hand));
        println!("  careful loop {:>6.2} million rows a CPU-second", per_second(careful));
        let share = |of: Duration| 100.0 * of.as_secs_f64() / service.as_secs_f64();
        println!(
            "  service      {:>6.2} million rows a CPU-second, {:.0} % of the careful loop, {:.0} % of the bare one",
            per_second(service),
            share(careful),
            share(hand)
        );
        let what = format!("decode, merge, settle, fold; {rows_per_bar} rows a bar");
        budget.at_least(&what, share(careful), SHARE_MIN, "% of a careful loop");
        if rows_per_bar == 300 {
            budget.at_least("…", per_second(service), MILLIONS_MIN, "million rows/CPU-s");
        }
    }
    mids(passes);
    budget.end()
}

/// What the careful loop makes of all messages, and what that takes.
fn by_careful_hand(messages: &[String]) -> (Duration, Vec<RawBar>) {
    let now = now();
    let mut careful = Careful::new(now);
    let took = cpu_time(|| messages.iter().for_each(|message| careful.message(now, black_box(message))));
    (took, careful.bars)
}

/// The rooms and the careful loop must treat odd rows alike: find the same bars, and the same of buckets without one.
fn odd_rows() {
    let first = |ix: usize, bucket: i64| {
        let utm_ms = (START + bucket * 300) * 1_000;
        format!("U,{ix},1,{utm_ms}|1|1|0|11000|11002.5|10999|11001|11001|11003|11000.25|11002\r\n")
    };
    let at = |bucket: i64| (START + bucket * 300) * 1_000;
    let messages = [
        (1..=4).map(|ix| first(ix, 0)).collect::<String>() + "PROBE\r\nCONF,1,unlimited,filtered\r\n",
        // Unchanged fields in a run, nulls and what follows them, an end, lines of no use, codes, a falling count, one of zero.
        "U,1,1,|2|2|^4|11002|^4\r\nU,2,1,|||||#||||||\nU,2,1,||3|1||||||||\r\nHELLO\r\n".to_owned(),
        "U,2,1,||4|||11004||||||\r\nU,2,1,||5|1||||||||\r\nU,3,1,||9|||||||||\r\nU,3,1,||8|||||||||\r\n"
            .to_owned(),
        "U,1,1,|3|3|1|%31%31000|11002.5|^6\r\nU,3,1,||7|1||||||||\r\nU,4,1,||0|1||||||||\r\n".to_owned(),
        "U,4,1,||2|1||||||||\r\n\r\n".to_owned(),
        // What cannot be read, a jump, disorder, and a good row again.
        format!("U,1,1,{}|1|1|0||||many||||\r\nU,1,1,|||||||11001||||\r\n", at(1)),
        "U,1,1,|||||||1.1||||\r\nU,1,1,|||||||11005||||\r\nU,1,1,||6|1||||11002||||\r\nSYNC,5\r\n".to_owned(),
        // A gap of two buckets, whose longer bar is complete by that, and buckets that are never closed.
        format!("U,4,1,{}|1|1|0||||||||\r\nU,2,1,{}|1|1|0||||||||\r\n", at(3), at(1)),
        format!("U,4,1,|2|2|1||||||||\r\nU,2,1,{}|1|1|1||||||||\r\n", at(2)),
        // More digits than are kept, a late close, and a gap that lasts too long to be known as quiet.
        format!("U,4,1,{}|1|1|1|||||||11000.3|11002.0000000004\r\nU,2,1,{}|1|1|1||||||||\r\n", at(4), at(1)),
        format!("U,4,1,{}|1|1|1||||||||\r\n", at(8)),
        // Over the weekend, and again what was before it.
        format!("U,4,1,{}|1|1|1||||||||\r\nU,4,1,{}|1|1|0||||||||\r\n", at(1_700), at(5)),
        format!("U,4,1,{}|2|2|1||||||||\nU,3,1,{}|1|1|1||||||||\r\n", at(1_701), at(1_701)),
        // Too long a silence of one that is heard again with a late row: the next one does not prove it quiet.
        format!("U,4,1,{}|1|1|1||||||||\r\nU,2,1,{}|1|1|1||||||||\r\n", at(2_100), at(2_114)),
        format!("U,4,1,{}|2|2|1||||||||\r\nU,4,1,{}|1|1|1||||||||\r\n", at(2_100), at(2_114)),
    ];
    let (mut rooms, mut folds, mut bars) = (Rooms::new(&MAJOR_PAIRS), Folds::new(&MAJOR_PAIRS), Vec::new());
    let (mut marks, mut careful) = (Vec::new(), Careful::new(now()));
    for message in &messages {
        for fact in rooms.handle(message) {
            folds.take(&fact, &mut bars);
            if let Fact::Marked(mark) = fact {
                let ix =
                    MAJOR_PAIRS.iter().position(|pair| *pair == mark.pair).expect("a pair that is watched");
                marks.push((ix, mark.span.start.0..mark.span.end.0, mark.state, mark.reason));
            }
        }
        careful.message(now(), message);
        let by_bucket = |marks: &[Marked]| -> Vec<Marked> {
            let each = marks.iter().flat_map(|(ix, span, state, reason)| {
                let starts = span.clone().step_by(300);
                starts.map(|start| (*ix, start..start + 300, *state, *reason))
            });
            each.collect()
        };
        assert_eq!(bars.iter().map(RawBar::of).collect::<Vec<_>>(), careful.bars, "after {message}");
        assert_eq!(by_bucket(&marks), by_bucket(&careful.marks), "after {message}");
    }
    let has = |state| marks.iter().any(|mark: &Marked| mark.2 == state);
    let longer = bars.iter().filter(|bar| bar.key.timeframe == Timeframe::M15).count();
    assert!(
        has(State::Quiet) && has(State::Closed) && has(State::Missing) && longer > 1 && careful.skipped == 1
    );
}

/// The mids of all bars: [`Bar::mid`], exact, against an average of floating-point numbers, which is not.
fn mids(passes: usize) {
    let bars = service(&MAJOR_PAIRS, &messages(ITEMS, 30, 5)).1;
    let floats: Vec<[[f64; 4]; 2]> =
        bars.iter().map(|bar| [bar.bid, bar.ask].map(|side| side.prices().map(Price::to_f64))).collect();
    let (mut exact, mut average) = (Vec::new(), Vec::new());
    for _ in 0..passes {
        exact.push(cpu_time(|| {
            bars.iter().for_each(|bar| _ = black_box(black_box(bar).mid().map(|mid| mid.to_f64())));
        }));
        average.push(cpu_time(|| {
            for [bid, ask] in black_box(&floats) {
                black_box::<[f64; 4]>(std::array::from_fn(|field| (bid[field] + ask[field]) / 2.0));
            }
        }));
    }
    let per_bar = |times| median(times).as_secs_f64() * 1e9 / bars.len() as f64;
    println!("mid prices: {:.1} ns a bar, {:.1} ns not exact", per_bar(exact), per_bar(average));
}

/// A bar of the loop: sides as open, high, low and close in units of 10⁻⁸.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct RawBar {
    minutes: i64,
    start: i64,
    ticks: u32,
    prices: [i64; 8],
}

impl RawBar {
    fn of(bar: &Bar) -> RawBar {
        let [bid, ask] = [bar.bid, bar.ask].map(|side| side.prices().map(Price::units));
        let mut prices = [0; 8];
        prices[..4].copy_from_slice(&bid);
        prices[4..].copy_from_slice(&ask);
        let key = bar.key;
        RawBar { minutes: key.timeframe.minutes(), start: key.start.0, ticks: bar.volume, prices }
    }

    fn extend(&mut self, next: &RawBar) {
        self.ticks += next.ticks;
        for side in [0, 4] {
            self.prices[side + 1] = self.prices[side + 1].max(next.prices[side + 1]);
            self.prices[side + 2] = self.prices[side + 2].min(next.prices[side + 2]);
            self.prices[side + 3] = next.prices[side + 3];
        }
    }
}

/// One item of the loop.
#[derive(Clone, Copy, Default)]
struct RawItem {
    row: RawBar,
    closed: bool,
    /// Decimals that make units of this pair's points.
    decimals: usize,
    longer: RawBar,
}

/// The loop.
fn hand(messages: &[String]) -> (Duration, Vec<RawBar>) {
    let mut items = [RawItem::default(); ITEMS];
    for (item, pair) in items.iter_mut().zip(MAJOR_PAIRS) {
        item.row.minutes = 5;
        item.decimals = if pair.is_jpy_quoted() { 6 } else { 4 };
    }
    let mut bars = Vec::new();
    let took = cpu_time(|| {
        for message in messages {
            let bytes = black_box(message).as_bytes();
            let mut at = 0;
            while at < bytes.len() {
                at = hand_line(bytes, at, &mut items, &mut bars).expect("good rows");
            }
        }
    });
    (took, bars)
}

/// Reads `U,<item>,1,<values>\r\n` at `at`, returns where the next line begins.
fn hand_line(bytes: &[u8], at: usize, items: &mut [RawItem], bars: &mut Vec<RawBar>) -> Option<usize> {
    let mut at = expect(bytes, at, b"U,")?;
    let item = items.get_mut(usize::try_from(digits(bytes, &mut at)?).ok()?.checked_sub(1)?)?;
    at = expect(bytes, at, b",1,")?;
    for field in 0..FIELDS {
        let end = if field + 1 < FIELDS { b'|' } else { b'\r' };
        if *bytes.get(at)? != end {
            match field {
                0 => item.row.start = digits(bytes, &mut at)? / 1_000,
                1 => drop(digits(bytes, &mut at)?),
                2 => item.row.ticks = u32::try_from(digits(bytes, &mut at)?).ok()?,
                3 => item.closed = digits(bytes, &mut at)? == 1,
                price => item.row.prices[price - 4] = decimal(bytes, &mut at, item.decimals)?,
            }
        }
        at = expect(bytes, at, &[end])?;
    }
    at = expect(bytes, at, b"\n")?;
    if item.closed {
        bars.push(item.row);
        match item.row.start % 900 {
            0 => item.longer = RawBar { minutes: 15, ..item.row },
            _ => item.longer.extend(&item.row),
        }
        if item.row.start % 900 == 600 {
            bars.push(item.longer);
        }
    }
    Some(at)
}

fn expect(bytes: &[u8], at: usize, text: &[u8]) -> Option<usize> {
    bytes.get(at..)?.starts_with(text).then_some(at + text.len())
}

/// A whole number, which ends at the first byte that is no digit.
fn digits(bytes: &[u8], at: &mut usize) -> Option<i64> {
    let (start, mut number) = (*at, 0_i64);
    while let Some(digit) = bytes.get(*at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
        number = number.wrapping_mul(10).wrapping_add(i64::from(digit));
        *at += 1;
    }
    // More would not fit.
    (start < *at && *at - start <= 18).then_some(number)
}

/// A decimal number as a whole one of so many decimals.
fn decimal(bytes: &[u8], at: &mut usize, decimals: usize) -> Option<i64> {
    let mut number = digits(bytes, at)?;
    let mut missing = decimals;
    if bytes.get(*at) == Some(&b'.') {
        *at += 1;
        let start = *at;
        let fraction = digits(bytes, at)?;
        missing = decimals.checked_sub(*at - start)?;
        number = number.checked_mul(10_i64.pow((*at - start) as u32))?.checked_add(fraction)?;
    }
    number.checked_mul(10_i64.pow(missing as u32))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
