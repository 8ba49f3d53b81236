//! Rows a CPU-second from the wire's text to settled and folded bars, in memory, against a loop
//! written by hand for exactly these lines: `cargo bench --bench settle`.
//!
//! The service's side is the way of a row through the pure rooms: [`TlcpSession`], [`ChartItem`],
//! [`Aggregation`], [`fold`]. The loop's side reads the same bytes in one pass, knows the schema
//! by heart and holds its rows in an array; it too reads the start, the ticks, the end flag and
//! eight exact prices, refuses what is no number, merges, settles at the end flag and folds three
//! bars into one. It lacks what a service needs beside that: the protocol's other lines and its
//! count of them, its other ways to say "unchanged", nulls, checks of order and scale, gaps and
//! quiet buckets. Both must come to the same bars.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candlekeep::aggregator::finalizer::Depth;
use candlekeep::aggregator::rollup::{Slot, fold};
use candlekeep::aggregator::{Aggregation, FeedStart};
use candlekeep::clock::{Clock, ClockKind, EventClock};
use candlekeep::domain::pair::MAJOR_PAIRS;
use candlekeep::domain::{Bar, Calendar, Fact, FeedIx, Pair, Price, StreamEvent, Timeframe};
use candlekeep::ig::stream::chart::{self, ChartItem, Knowledge};
use candlekeep::tlcp::{Event, Options, SubscriptionSpec, TlcpSession};
use rustix::time::{ClockId, clock_gettime};

/// 2020-01-06 00:00:00 UTC, a Monday.
const START: i64 = 1_578_268_800;
const ITEMS: usize = MAJOR_PAIRS.len();
const FIELDS: usize = chart::FIELDS as usize;
/// Rows of a pass, about: some two megabytes of text, more than a core's own caches hold.
const ROWS: usize = 50_000;
/// Passes of either side, in turns, so that a noisy neighbour disturbs both.
const PASSES: usize = 101;

fn main() {
    for rows_per_bar in [300, 5] {
        // A multiple of three, so that nothing is left to fold.
        let bars = ROWS / (ITEMS * rows_per_bar * 3) * 3;
        let messages = messages(bars, rows_per_bar);
        let rows = bars * rows_per_bar * ITEMS;
        let (mut by_service, mut by_hand) = (Vec::new(), Vec::new());
        for _ in 0..PASSES {
            let (took, bars) = service(&messages);
            by_service.push(took);
            let (took, raw) = hand(&messages);
            by_hand.push(took);
            assert_eq!(bars.iter().map(RawBar::of).collect::<Vec<_>>(), raw, "both must come to the same");
            assert_eq!(bars.len(), rows / rows_per_bar / 3 * 4);
        }
        let bytes: usize = messages.iter().map(String::len).sum();
        println!("{rows_per_bar} rows a bar, {rows} rows, {:.1} bytes a row:", bytes as f64 / rows as f64);
        let (service, hand) = (median(by_service), median(by_hand));
        let per_second = |took: Duration| rows as f64 / took.as_secs_f64() / 1e6;
        println!("  loop     {:>6.2} million rows a CPU-second", per_second(hand));
        println!(
            "  service  {:>6.2} million rows a CPU-second, {:.0} % of the loop",
            per_second(service),
            100.0 * hand.as_secs_f64() / service.as_secs_f64()
        );
    }
}

/// What streams: a message a second (or whenever rows are due) with a row of every item, changed
/// fields only, each bar ended by its end-of-candle row.
fn messages(bars: usize, rows_per_bar: usize) -> Vec<String> {
    let mut rng = fastrand::Rng::with_seed(28);
    let mut items: Vec<Walk> = (0..ITEMS).map(|ix| Walk::new(100_000 + ix as u32 * 1_000)).collect();
    let mut messages = Vec::with_capacity(bars * rows_per_bar);
    for bar in 0..bars {
        for row in 0..rows_per_bar {
            let mut message = String::new();
            for (ix, item) in items.iter_mut().enumerate() {
                write!(message, "U,{},1,", ix + 1).expect("a String takes any text");
                item.step(bar, row, row + 1 == rows_per_bar, &mut rng, &mut message);
                message += "\r\n";
            }
            messages.push(message);
        }
    }
    messages
}

/// One item's prices, in tenths of a point, and what was last sent of it.
struct Walk {
    bid: u32,
    sides: [[u32; 4]; 2],
    sent: [String; FIELDS],
}

impl Walk {
    fn new(bid: u32) -> Walk {
        Walk { bid, sides: [[0; 4]; 2], sent: Default::default() }
    }

    fn step(&mut self, bar: usize, row: usize, last: bool, rng: &mut fastrand::Rng, message: &mut String) {
        // Most seconds bring a few tenths of a point, some nothing.
        self.bid = self.bid + rng.u32(0..=10) - 5;
        for (side, spread) in self.sides.iter_mut().zip([0, 9 + rng.u32(0..3)]) {
            let price = self.bid + spread;
            let [open, high, low, _] = if row == 0 { [price; 4] } else { *side };
            *side = [open, high.max(price), low.min(price), price];
        }
        let mut fields = vec![
            ((START + bar as i64 * 300) * 1_000).to_string(),
            (row + 1).to_string(),
            (row + 1).to_string(),
            u32::from(last).to_string(),
        ];
        fields.extend(self.sides.iter().flatten().map(|price| format!("{}.{}", price / 10, price % 10)));
        for (ix, (sent, field)) in self.sent.iter_mut().zip(fields).enumerate() {
            if ix > 0 {
                message.push('|');
            }
            if *sent != field {
                *message += &field;
                *sent = field;
            }
        }
    }
}

/// The pure rooms, one after the other, as the actors move things between them.
fn service(messages: &[String]) -> (Duration, Vec<Bar>) {
    #[expect(clippy::disallowed_methods, reason = "a bench is its own clock")]
    let now = Instant::now();
    let mut session = session(now);
    let mut items: Vec<ChartItem> =
        MAJOR_PAIRS.iter().map(|pair| ChartItem::new(*pair, Knowledge::ByPrice)).collect();
    let calendar = Arc::new(Calendar::forex());
    let feed = |pair: &Pair| FeedStart { pair: *pair, resume: None, calendar: calendar.clone() };
    let feeds: Vec<FeedStart> = MAJOR_PAIRS.iter().map(feed).collect();
    let mut core = Aggregation::new(&feeds, Depth { m5: 0, m15: 0 }, 600, 0);
    let clock = EventClock::new(ClockKind::Stream, Clock::system());
    for feed in (0..ITEMS as u16).map(FeedIx) {
        core.handle(&StreamEvent::Subscribed { feed }, None, false);
    }
    let mut parts = Parts::new();
    let mut bars = Vec::new();
    let took = cpu_time(|| {
        let mut told_last = 0;
        for message in messages {
            let mut told = Vec::with_capacity(told_last);
            session.handle_message(now, black_box(message), &mut |event| {
                if let Event::Update { tag, changes, .. } = event
                    && let Some(candle) = items[usize::from(tag)].apply(changes).expect("good rows")
                {
                    told.push(StreamEvent::Candle { feed: FeedIx(tag), candle: *candle });
                }
            });
            told_last = told.len();
            for event in &told {
                if let StreamEvent::Candle { candle, .. } = event {
                    clock.observe(candle.start, candle.closed);
                }
                core.handle(event, clock.now(), clock.is_steady());
            }
            for fact in core.take_facts() {
                if let Fact::Settled(bar) = fact {
                    settle(bar, &mut parts, &mut bars);
                }
            }
        }
    });
    (took, bars)
}

/// Bars of each pair that are not folded yet.
type Parts = BTreeMap<Pair, [Option<Bar>; 3]>;

/// Keeps a bar, and the longer one that it completes.
fn settle(bar: Bar, parts: &mut Parts, bars: &mut Vec<Bar>) {
    bars.push(bar);
    let start = Timeframe::M15.bucket(bar.key.start);
    let parts = parts.entry(bar.key.pair).or_default();
    parts[(bar.key.start.since(start) / 300) as usize] = Some(bar);
    let slots = parts.each_ref().map(|part| part.as_ref().map_or(Slot::Unknown, Slot::Bar));
    if let Some(longer) = fold(Timeframe::M15, start, &slots) {
        bars.push(longer);
        *parts = [None; 3];
    }
}

/// A session with every item subscribed.
fn session(now: Instant) -> TlcpSession {
    let mut session = TlcpSession::new(Options::default(), "user".to_owned(), "password".to_owned());
    let mut start = "WSOK\r\nCONOK,S1,50000,5000,*\r\n".to_owned();
    for tag in 0..ITEMS as u16 {
        session.subscribe(SubscriptionSpec {
            group: format!("CHART:ITEM{tag}:5MINUTE"),
            schema: chart::SCHEMA.to_owned(),
            fields: chart::FIELDS,
            snapshot: true,
            unfiltered: true,
            tag,
        });
        write!(start, "SUBOK,{},1,{FIELDS}\r\n", tag + 1).expect("a String takes any text");
    }
    session.handle_open(now);
    session.handle_message(now, &start, &mut |_| {});
    while session.poll_transmit().is_some() {}
    session
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

/// What this thread was on a processor for: waiting for one is the neighbours' doing.
fn cpu_time(work: impl FnOnce()) -> Duration {
    let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("time goes on");
    let start = now();
    work();
    now() - start
}
