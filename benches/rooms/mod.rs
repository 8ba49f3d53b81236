//! What streams in benches of the rooms without I/O, and the way of a row through these rooms.

use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candlekeep::aggregator::finalizer::Depth;
use candlekeep::aggregator::rollup::{Slot, fold};
use candlekeep::aggregator::{Aggregation, FeedStart};
use candlekeep::clock::{Clock, ClockKind, EventClock};
use candlekeep::domain::{Bar, Calendar, Fact, FeedIx, Pair, StreamEvent, Timeframe};
use candlekeep::ig::stream::chart::{self, ChartItem, Knowledge};
use candlekeep::tlcp::{Event, Options, SubscriptionSpec, TlcpSession};

use super::timing::{cpu_time, now};

/// 2020-01-06 00:00:00 UTC, a Monday.
pub const START: i64 = 1_578_268_800;
pub const FIELDS: usize = chart::FIELDS as usize;
/// Items of one Lightstreamer session, which holds no more subscriptions: more items have several.
const ITEMS_MAX: usize = 1_000;

/// What streams: for each session a message a second (or whenever rows are due) with a row of every item, changed
/// fields only, each bar ended by its end-of-candle row.
pub fn messages(items: usize, bars: usize, rows_per_bar: usize) -> Vec<String> {
    let mut rng = fastrand::Rng::with_seed(28);
    let mut items: Vec<Walk> = (0..items).map(|ix| Walk::new(100_000 + ix as u32 % 1_000 * 1_000)).collect();
    let mut messages = Vec::with_capacity(bars * rows_per_bar);
    for bar in 0..bars {
        for row in 0..rows_per_bar {
            for items in items.chunks_mut(ITEMS_MAX) {
                let mut message = String::new();
                for (ix, item) in items.iter_mut().enumerate() {
                    write!(message, "U,{},1,", ix + 1).expect("a String takes any text");
                    item.step(bar, row, row + 1 == rows_per_bar, &mut rng, &mut message);
                    message += "\r\n";
                }
                messages.push(message);
            }
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
pub struct Rooms {
    sessions: Vec<TlcpSession>,
    /// Whose message is next.
    turn: usize,
    items: Vec<ChartItem>,
    core: Aggregation,
    clock: EventClock,
    now: Instant,
    told_last: usize,
}

impl Rooms {
    /// With an item of each pair subscribed.
    pub fn new(pairs: &[Pair]) -> Rooms {
        let now = now();
        let items = pairs.iter().map(|pair| ChartItem::new(*pair, Knowledge::ByPrice)).collect();
        let calendar = Arc::new(Calendar::forex());
        let feed = |pair: &Pair| FeedStart { pair: *pair, resume: None, calendar: calendar.clone() };
        let feeds: Vec<FeedStart> = pairs.iter().map(feed).collect();
        let mut core = Aggregation::new(&feeds, Depth { m5: 0, m15: 0 }, 600, 0);
        for feed in (0..pairs.len() as u16).map(FeedIx) {
            core.handle(&StreamEvent::Subscribed { feed }, None, false);
        }
        let clock = EventClock::new(ClockKind::Stream, Clock::system());
        Rooms { sessions: sessions(pairs.len(), now), turn: 0, items, core, clock, now, told_last: 0 }
    }

    /// What a message of the stream tells. Sessions are told theirs by turns, as [`messages`] has them.
    pub fn handle(&mut self, message: &str) -> Vec<Fact> {
        let Rooms { sessions, turn, items, core, clock, now, told_last } = self;
        let (session, first) = (*turn, *turn * ITEMS_MAX);
        *turn = (*turn + 1) % sessions.len();
        let mut told = Vec::with_capacity(*told_last);
        sessions[session].handle_message(*now, message, &mut |event| {
            if let Event::Update { tag, changes, .. } = event
                && let Some(candle) = items[first + usize::from(tag)].apply(changes).expect("good rows")
            {
                StreamEvent::push_candle(&mut told, FeedIx(first as u16 + tag), candle);
            }
        });
        *told_last = told.len();
        for event in &told {
            if let StreamEvent::Candle { candle, .. } = event {
                clock.observe(candle.start, candle.closed);
            }
            core.handle(event, clock.now(), clock.is_steady());
        }
        core.take_facts()
    }
}

/// What these rooms make of all messages, and what that takes.
pub fn service(pairs: &[Pair], messages: &[String]) -> (Duration, Vec<Bar>) {
    let mut rooms = Rooms::new(pairs);
    let mut parts = Parts::new(pairs);
    let mut bars = Vec::new();
    let took = cpu_time(|| {
        for message in messages {
            for fact in &rooms.handle(black_box(message)) {
                if let Fact::Settled(bar) = fact {
                    bars.push(*bar);
                    bars.extend(parts.settle(bar));
                }
            }
        }
    });
    (took, bars)
}

/// Bars that are not folded yet.
struct Parts {
    of: Vec<(Pair, [Option<Bar>; 3])>,
    /// Whose bar is expected: pairs settle in the order in which they are watched.
    next: usize,
}

impl Parts {
    fn new(pairs: &[Pair]) -> Parts {
        Parts { of: pairs.iter().map(|pair| (*pair, [None; 3])).collect(), next: 0 }
    }

    fn of(&mut self, pair: Pair) -> &mut [Option<Bar>; 3] {
        if self.of.get(self.next).is_none_or(|(expected, _)| *expected != pair) {
            self.next =
                self.of.iter().position(|(watched, _)| *watched == pair).expect("a pair that is watched");
        }
        self.next += 1;
        &mut self.of[self.next - 1].1
    }

    /// Keeps a bar. Returns the longer one that it completes.
    fn settle(&mut self, bar: &Bar) -> Option<Bar> {
        let start = Timeframe::M15.bucket(bar.key.start);
        let parts = self.of(bar.key.pair);
        parts[(bar.key.start.since(start) / 300) as usize] = Some(*bar);
        let slots = parts.each_ref().map(|part| part.as_ref().map_or(Slot::Unknown, Slot::Bar));
        let longer = fold(Timeframe::M15, start, &slots)?;
        *parts = [None; 3];
        Some(longer)
    }
}

/// Sessions with every item subscribed in one of them.
pub fn sessions(items: usize, now: Instant) -> Vec<TlcpSession> {
    let each = (0..items).step_by(ITEMS_MAX);
    each.map(|first| session((items - first).min(ITEMS_MAX), now)).collect()
}

fn session(items: usize, now: Instant) -> TlcpSession {
    let mut session = TlcpSession::new(Options::default(), "user".to_owned(), "password".to_owned());
    let mut start = "WSOK\r\nCONOK,S1,50000,5000,*\r\n".to_owned();
    for tag in 0..items as u16 {
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
