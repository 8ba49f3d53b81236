//! What streams in benches of the rooms without I/O, and the way of a row through these rooms.

use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candlekeep::aggregator::finalizer::Depth;
use candlekeep::aggregator::rollup::{Slot, fold};
use candlekeep::aggregator::{Aggregation, FeedStart};
use candlekeep::clock::{Clock, ClockKind, EventClock};
use candlekeep::domain::{Bar, Calendar, Fact, FeedIx, Pair, State, StreamEvent, Timeframe, Timestamp};
use candlekeep::ig::stream::chart::{self, ChartFault, ChartItem, Knowledge};
use candlekeep::tlcp::{Event, Options, SubscriptionSpec, TlcpSession};

use super::timing::{cpu_time, now};

/// 2020-01-06 00:00:00 UTC, a Monday.
pub const START: i64 = 1_578_268_800;
/// The least silence of an item that is too long, seconds.
pub const STALE_S: i64 = 600;
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
        let mut core = Aggregation::new(&feeds, Depth { m5: 0, m15: 0 }, STALE_S, 0);
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
            let Event::Update { tag, changes, .. } = event else { return };
            let (feed, item) = (FeedIx(first as u16 + tag), &mut items[first + usize::from(tag)]);
            match item.apply(changes) {
                Ok(Some(candle)) => StreamEvent::push_candle(&mut told, feed, candle),
                Err(ChartFault::ScaleInDoubt) => told.push(StreamEvent::Rejected { feed, bucket: None }),
                Ok(None) | Err(ChartFault::Unreadable | ChartFault::Disordered) => {
                    let bucket = item.start().filter(|_| item.has_price());
                    told.push(StreamEvent::Rejected { feed, bucket });
                }
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
    let (mut rooms, mut folds, mut bars) = (Rooms::new(pairs), Folds::new(pairs), Vec::new());
    let took = cpu_time(|| {
        for message in messages {
            rooms.handle(black_box(message)).iter().for_each(|fact| folds.take(fact, &mut bars));
        }
    });
    (took, bars)
}

/// Folds three bars of each pair into one.
pub struct Folds {
    of: Vec<(Pair, Part)>,
    /// Whose bar is expected: pairs settle in the order in which they are watched.
    next: usize,
}

/// A longer bar in the making: of each slot `None` where nothing is known, and no bar where there is none to have.
#[derive(Clone, Copy, Default)]
struct Part {
    start: Timestamp,
    slots: [Option<Option<Bar>>; 3],
}

impl Folds {
    pub fn new(pairs: &[Pair]) -> Folds {
        Folds { of: pairs.iter().map(|pair| (*pair, Part::default())).collect(), next: 0 }
    }

    /// Keeps the bar that a fact tells of, and longer ones that it completes.
    pub fn take(&mut self, fact: &Fact, bars: &mut Vec<Bar>) {
        match fact {
            Fact::Settled(bar) => {
                bars.push(*bar);
                bars.extend(self.of(bar.key.pair).take(bar.key.start, Some(bar)));
            }
            Fact::Marked(mark) if mark.state == State::Missing => {}
            Fact::Marked(mark) => {
                let starts = (mark.span.start.0..mark.span.end.0).step_by(300).map(Timestamp);
                let part = self.of(mark.pair);
                bars.extend(starts.filter_map(|start| part.take(start, None)));
            }
        }
    }

    fn of(&mut self, pair: Pair) -> &mut Part {
        if self.of.get(self.next).is_none_or(|(expected, _)| *expected != pair) {
            self.next =
                self.of.iter().position(|(watched, _)| *watched == pair).expect("a pair that is watched");
        }
        self.next += 1;
        &mut self.of[self.next - 1].1
    }
}

impl Part {
    /// Takes what is known of a slot. Returns the longer bar that it completes.
    fn take(&mut self, start: Timestamp, bar: Option<&Bar>) -> Option<Bar> {
        let longer = Timeframe::M15.bucket(start);
        if longer < self.start {
            return None;
        }
        if longer > self.start {
            *self = Part { start: longer, slots: [None; 3] };
        }
        self.slots[(start.since(longer) / 300) as usize] = Some(bar.copied());
        let slots = self.slots.each_ref().map(|slot| match slot {
            None => Slot::Unknown,
            Some(None) => Slot::NoBar,
            Some(Some(bar)) => Slot::Bar(bar),
        });
        let folded = fold(Timeframe::M15, longer, &slots);
        if !slots.contains(&Slot::Unknown) {
            self.slots = [None; 3];
        }
        folded
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
