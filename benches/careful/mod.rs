//! A loop by hand that does the same with a chart's rows as the rooms do, in one pass and for this schema alone: no rooms
//! and no traits, but no row is taken on trust.
//!
//! The protocol's other lines are known and counted, repeats skipped, all ways to say "unchanged", "null" and "empty" read,
//! texts decoded, an update that does not cover its fields refused; numbers checked for range, prices put on their pair's
//! scale and watched for jumps and disorder; buckets settled, proved quiet, lost or late as the finalizer has it. What time
//! alone does is not in it, nor in the bench.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Instant;

use candlekeep::domain::digits::Digits;
use candlekeep::domain::pair::MAJOR_PAIRS;
use candlekeep::domain::scale::{self, Scale, Verdict};
use candlekeep::domain::{Calendar, Expectation, Pair, Price, Reason, State, Timestamp};

use super::{RawBar, STALE_S};

const FIELDS: usize = 12;
/// Bits of fields.
const UTM: u16 = 1;
const TICKS: u16 = 1 << 2;
const PRICES: u16 = 0xff0;
const STEP: i64 = 300;
/// Not dated, not there.
const NONE: i64 = i64::MIN;
const UNDATED: i64 = i64::MAX;
/// Units of the largest price.
const UNITS_MAX: u64 = 1_000_000_000_000_000;

/// A run of buckets without bars: whose, which, what they are and why.
pub type Marked = (usize, Range<i64>, State, Reason);

/// All that is known.
pub struct Careful {
    items: Vec<Item>,
    calendar: Calendar,
    /// Data notifications that were new, and those that the server takes as delivered.
    processed: u64,
    delivered: u64,
    last_heard: Instant,
    /// Lines of no use.
    pub skipped: u64,
    /// Data behind the last line end of a message.
    held: String,
    /// Event time.
    clock: i64,
    /// Latest bucket of which a row has come, and when the last one came.
    heard: (i64, i64),
    pub bars: Vec<RawBar>,
    pub marks: Vec<Marked>,
}

/// One item.
struct Item {
    pair: Pair,
    /// The candle under way, and which fields have no value.
    start: i64,
    ticks: u32,
    closed: bool,
    prices: [i64; 8],
    missing: u16,
    needed: u16,
    /// It had a whole row since it was subscribed.
    seen: bool,
    /// Decimals between the numbers sent and prices.
    shift: Option<u32>,
    last_close: i64,
    /// Bucket and ticks of the last good row of a bucket that is not closed.
    forming: (i64, u32),
    /// Where its close may be guessed: the last row of the bucket before.
    unclosed: Option<RawBar>,
    guesses: BTreeMap<i64, RawBar>,
    unfiltered: bool,
    tainted: bool,
    /// Buckets with prices that settled nothing.
    shown: BTreeSet<i64>,
    frontier: i64,
    first: i64,
    /// Since when rows follow each other without a break, [`UNDATED`] before the first.
    since: i64,
    lost_by: Reason,
    told: (i64, u32, bool),
    moved_at: i64,
    /// When the last silence ended that was too long.
    unproved_to: i64,
    hour: i64,
    longest_s: i64,
    usual_s: i64,
    longer: Longer,
}

/// A longer bar in the making.
#[derive(Clone, Copy, Default)]
struct Longer {
    start: i64,
    parts: [RawBar; 3],
    /// Slots known, and those with a bar.
    known: u8,
    filled: u8,
}

impl Careful {
    /// With the major pairs subscribed and confirmed, by ids from 1 on.
    pub fn new(now: Instant) -> Careful {
        let item = |pair: Pair| Item {
            pair,
            start: 0,
            ticks: 0,
            closed: false,
            prices: [1; 8],
            missing: u16::MAX,
            needed: UTM | PRICES,
            seen: false,
            shift: None,
            last_close: 0,
            forming: (NONE, 0),
            unclosed: None,
            guesses: BTreeMap::new(),
            unfiltered: false,
            tainted: false,
            shown: BTreeSet::new(),
            frontier: NONE,
            first: NONE,
            since: UNDATED,
            lost_by: Reason::Offline,
            told: (NONE, 0, false),
            moved_at: NONE,
            unproved_to: NONE,
            hour: 0,
            longest_s: 0,
            usual_s: 0,
            longer: Longer::default(),
        };
        Careful {
            items: MAJOR_PAIRS.map(item).into(),
            calendar: Calendar::forex(),
            processed: 0,
            delivered: 0,
            last_heard: now,
            skipped: 0,
            held: String::new(),
            clock: NONE,
            heard: (NONE, NONE),
            bars: Vec::new(),
            marks: Vec::new(),
        }
    }

    /// Takes one message of the stream.
    pub fn message(&mut self, now: Instant, message: &str) {
        if !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            match message.bytes().next() {
                Some(b'A'..=b'Z') => self.line(&held),
                _ => self.skipped += 1,
            }
        }
        let mut at = 0;
        while at < message.len() {
            self.last_heard = now;
            at = match self.row(message.as_bytes(), at) {
                Some((ix, next)) => {
                    self.processed += 1;
                    self.delivered += 1;
                    self.judge(ix, false);
                    next
                }
                None => self.any_line(message, at),
            };
        }
    }

    /// Reads `U,<item>,1,<values>\r\n` at `at` into its item, if it is nothing but numbers, nulls and what is unchanged:
    /// whose it was, and where the next line begins. A row that is given up half-way is read again as any line, which sets
    /// the same or subscribes anew.
    #[inline]
    fn row(&mut self, bytes: &[u8], at: usize) -> Option<(usize, usize)> {
        let (id, at) = number(bytes, expect(bytes, at, b"U,")?)?;
        let mut at = expect(bytes, at, b",1,")?;
        let ix = (id as usize).wrapping_sub(1);
        let item = self.items.get_mut(ix).filter(|item| item.seen)?;
        let shift = item.shift?;
        if self.delivered != self.processed {
            return None;
        }
        let mut field = 0;
        loop {
            match *bytes.get(at)? {
                b'|' | b'\r' | b'\n' => {}
                b'0'..=b'9' => match field {
                    0 => {
                        let utm_ms;
                        (utm_ms, at) = number(bytes, at)?;
                        item.begin(utm_ms as i64);
                    }
                    1 => (_, at) = number(bytes, at)?,
                    2 => {
                        let ticks;
                        (ticks, at) = number(bytes, at)?;
                        item.ticks = u32::try_from(ticks).ok()?;
                        if item.ticks == 0 {
                            item.missing |= TICKS;
                        } else {
                            item.missing &= !TICKS;
                            item.needed |= TICKS;
                        }
                    }
                    3 => {
                        item.closed = match bytes[at] {
                            b'0' => false,
                            b'1' => true,
                            _ => return None,
                        };
                        at += 1;
                    }
                    _ => {
                        let units;
                        (units, at) = price(bytes, at, shift)?;
                        item.prices[field - 4] = units;
                        item.missing &= !(1 << field);
                    }
                },
                b'#' | b'$' => {
                    item.clear(field);
                    at += 1;
                }
                b'^' => {
                    let unchanged;
                    (unchanged, at) = number(bytes, at + 1)?;
                    field += (unchanged as usize).checked_sub(1)?;
                }
                _ => return None,
            }
            match *bytes.get(at)? {
                b'|' if field + 1 < FIELDS => (field, at) = (field + 1, at + 1),
                b'\r' if field + 1 == FIELDS => return Some((ix, expect(bytes, at, b"\r\n")?)),
                b'\n' if field + 1 == FIELDS => return Some((ix, at + 1)),
                _ => return None,
            }
        }
    }

    /// Takes the line that begins at `at`, whatever it is, and tells where the next one does.
    #[cold]
    fn any_line(&mut self, message: &str, at: usize) -> usize {
        let rest = &message[at..];
        match rest.split_once('\n') {
            Some((line, _)) => {
                self.line(line.strip_suffix('\r').unwrap_or(line));
                at + line.len() + 1
            }
            None if is_data(rest) => {
                self.held = rest.to_owned();
                message.len()
            }
            None => {
                self.line(rest);
                message.len()
            }
        }
    }

    #[cold]
    fn line(&mut self, line: &str) {
        if line.is_empty() {
            return;
        }
        if is_data(line) {
            let is_new = self.delivered == self.processed;
            self.delivered += 1;
            if !is_new {
                return;
            }
            self.processed += 1;
        }
        let args: Vec<&str> = line.splitn(4, ',').collect();
        let id = args.get(1).and_then(|id| id.parse::<usize>().ok());
        let item = id.and_then(|id| Some((id.checked_sub(1)?, self.items.get_mut(id.checked_sub(1)?)?)));
        match (args.as_slice(), item) {
            (["U", _, "1", values], Some((ix, item))) => match item.set_all(values) {
                Some(is_readable) => self.judge(ix, !is_readable),
                None => item.subscribe_anew(),
            },
            (["CONF", _, _, how], Some((_, item))) => item.unfiltered = *how == "unfiltered",
            (["OV" | "UNSUB" | "SUBOK", ..], Some((_, item))) => item.subscribe_anew(),
            (["PROBE" | "SYNC" | "NOOP" | "CONS" | "SERVNAME" | "CLIENTIP" | "PROG" | "REQOK", ..], _) => {}
            _ => self.skipped += 1,
        }
    }

    /// Whether an item's row is a candle, and what follows from it.
    #[inline]
    fn judge(&mut self, ix: usize, is_unreadable: bool) {
        let item = &mut self.items[ix];
        if is_unreadable || item.missing & item.needed != 0 {
            return item.hold_back();
        }
        if item.is_in_doubt() {
            return item.tainted = true;
        }
        if !item.is_ordered() {
            return item.hold_back();
        }
        item.last_close = item.prices[3];
        let Item { start, ticks, closed, .. } = *item;
        self.clock = self.clock.max(if closed { start + STEP } else { start });
        let now = self.clock;
        if self.heard.0 <= start {
            self.heard = (start, now);
        }
        if item.forming.0 == start
            && item.frontier == start
            && (start..start + STEP).contains(&now)
            && item.forming.1 <= ticks
            && !closed
            && item.since != UNDATED
            && item.shown.is_empty()
        {
            item.forming.1 = ticks;
            item.tainted = false;
            return item.moved((start, ticks, false), now, &self.calendar);
        }
        self.settle(ix, now);
    }

    /// Takes a row that does more than to move the candle under way.
    fn settle(&mut self, ix: usize, now: i64) {
        let item = &mut self.items[ix];
        let Item { start, ticks, closed, .. } = *item;
        let limit_s = (item.usual_s * 3).clamp(STALE_S, 3_600);
        let is_overdue = item.moved_at != NONE
            && now - item.moved_at > limit_s
            && watched_s(&self.calendar, item.moved_at, now) > limit_s;
        if is_overdue {
            item.unproved_to = now;
        }
        item.moved((start, ticks, closed), now, &self.calendar);
        if item.frontier == NONE {
            (item.frontier, item.first) = (start, start);
        }
        if start < item.frontier {
            return self.late(ix);
        }
        if item.since == UNDATED {
            item.since = (start + STEP).max(ceil(now));
        }
        if item.forming.0 != NONE && item.forming.0 < start {
            self.close_unseen(ix);
        }
        let item = &mut self.items[ix];
        if item.frontier < start {
            let seen_from = item.since.clamp(item.frontier, start);
            let (frontier, lost_by) = (std::mem::replace(&mut item.frontier, start), item.lost_by);
            let unproved_to = item.unproved_to;
            self.absent(ix, frontier..seen_from, Some(lost_by));
            // What began before the last silence ended is proved by no later row.
            let proved_from = match (is_overdue, unproved_to) {
                (true, _) => start,
                (false, NONE) => seen_from,
                (false, ended) => ceil(ended).clamp(seen_from, start),
            };
            self.absent(ix, seen_from..proved_from, Some(Reason::Stale));
            self.absent(ix, proved_from..start, None);
        }
        let item = &mut self.items[ix];
        if !item.shown.is_empty() {
            item.shown.remove(&start);
        }
        let is_less = item.forming.0 == start && ticks < item.forming.1;
        item.tainted = is_less && !closed;
        if closed {
            (item.forming.0, item.frontier) = (NONE, start + STEP);
            match is_less {
                true => self.mark(ix, start..start + STEP, State::Missing, Reason::UnconfirmedClose),
                false => self.bar(ix),
            }
        } else if !is_less {
            item.forming = (start, ticks);
        }
    }

    /// The bucket under way ended without its last row.
    #[cold]
    fn close_unseen(&mut self, ix: usize) {
        let item = &mut self.items[ix];
        let start = std::mem::replace(&mut item.forming.0, NONE);
        item.frontier = start + STEP;
        if item.unfiltered && item.since <= start && !item.tainted {
            // What it would have been is kept, to be compared with what REST will say: no guess is trusted yet.
            item.guesses.extend(item.unclosed.map(|bar| (start, bar)));
        }
        self.mark(ix, start..start + STEP, State::Missing, Reason::UnconfirmedClose);
    }

    /// A row of a bucket that is accounted for.
    #[cold]
    fn late(&mut self, ix: usize) {
        let Item { start, closed, first, .. } = self.items[ix];
        if closed {
            self.bar(ix);
        } else if first <= start {
            self.mark(ix, start..start + STEP, State::Missing, Reason::UnconfirmedClose);
        }
    }

    /// Buckets without a row: lost for this reason, or proved quiet.
    #[cold]
    fn absent(&mut self, ix: usize, span: Range<i64>, lost_by: Option<Reason>) {
        for (run, expectation) in self.calendar.runs(Timestamp(span.start)..Timestamp(span.end)) {
            let (state, reason) = match (expectation, lost_by) {
                (Expectation::Closed, _) => (State::Closed, Reason::Calendar),
                (_, None) => (State::Quiet, Reason::LaterRow),
                (Expectation::Possible, Some(reason)) if !reason.is_loss() => {
                    (State::Closed, Reason::PossiblyOpen)
                }
                (_, Some(reason)) => (State::Missing, reason),
            };
            self.mark(ix, run.start.0..run.end.0, state, reason);
        }
    }

    /// Tells of buckets without bars; of those that had prices that they are missing, whatever else is found.
    #[cold]
    fn mark(&mut self, ix: usize, span: Range<i64>, state: State, reason: Reason) {
        for start in span.step_by(STEP as usize) {
            let item = &mut self.items[ix];
            let (state, reason) = match item.shown.remove(&start) {
                true => (State::Missing, Reason::UnconfirmedClose),
                false => (state, reason),
            };
            self.marks.push((ix, start..start + STEP, state, reason));
            if state != State::Missing {
                self.bars.extend(item.longer.take(start, None));
            }
        }
    }

    fn bar(&mut self, ix: usize) {
        let item = &mut self.items[ix];
        let bar = RawBar { minutes: 5, start: item.start, ticks: item.ticks, prices: item.prices };
        self.bars.push(bar);
        self.bars.extend(item.longer.take(bar.start, Some(&bar)));
    }
}

impl Item {
    /// Its time was told.
    #[inline]
    fn begin(&mut self, utm_ms: i64) {
        let start = utm_ms.div_euclid(STEP * 1_000) * STEP;
        if self.unfiltered && !self.tainted && self.forming.0 == self.start && start != self.start {
            self.unclosed =
                Some(RawBar { minutes: 5, start: self.start, ticks: self.ticks, prices: self.prices });
        }
        self.start = start;
        self.missing &= !UTM;
    }

    /// A field has no value.
    #[cold]
    fn clear(&mut self, field: usize) {
        self.missing |= 1 << field;
        match field {
            2 => self.ticks = 0,
            3 => self.closed = false,
            _ => {}
        }
    }

    /// Sets what any update says: whether all of it could be read. `None` where it does not cover its fields.
    #[cold]
    fn set_all(&mut self, values: &str) -> Option<bool> {
        let mut said = Vec::new();
        for token in values.split('|') {
            match token.as_bytes() {
                b"" => said.push(None),
                b"#" | b"$" => said.push(Some(String::new())),
                [b'^', count @ ..] if !count.is_empty() && count.iter().all(u8::is_ascii_digit) => {
                    let count = std::str::from_utf8(count)
                        .ok()?
                        .parse()
                        .ok()
                        .filter(|count| (1..=FIELDS).contains(count))?;
                    said.extend(vec![None; count]);
                }
                [b'^', ..] => return None,
                _ => said.push(Some(decoded(token)?)),
            }
        }
        if said.len() != FIELDS || !self.seen && said.contains(&None) {
            return None;
        }
        self.seen = true;
        let mut is_readable = true;
        for (field, text) in
            said.iter().enumerate().filter_map(|(field, text)| Some((field, text.as_deref()?)))
        {
            self.clear(field);
            is_readable &= text.is_empty() || self.set(field, text).is_some();
        }
        Some(is_readable)
    }

    fn set(&mut self, field: usize, text: &str) -> Option<()> {
        match field {
            0 => self.begin(text.parse().ok()?),
            1 => {}
            2 => {
                self.ticks = text.parse().ok()?;
                if self.ticks == 0 {
                    return Some(());
                }
                self.needed |= TICKS;
            }
            3 => self.closed = text.parse::<u8>().ok().filter(|flag| *flag <= 1 && text.len() == 1)? == 1,
            _ => {
                let shift = self.shift.or_else(|| self.recognise(text));
                self.prices[field - 4] = Price::parse(text, shift?).ok()?.units();
                self.shift = shift;
            }
        }
        self.missing &= !(1 << field);
        Some(())
    }

    fn recognise(&self, text: &str) -> Option<u32> {
        match scale::classify(self.pair, Price::parse(text, 0).ok(), None) {
            Verdict::Scale(scale @ (Scale::Decimal | Scale::Points(_))) => Some(scale.points_shift()),
            Verdict::NoPriceYet | Verdict::Ambiguous => None,
        }
    }

    /// Whether its prices may be on another scale than the last.
    #[inline]
    fn is_in_doubt(&self) -> bool {
        let apart = |one: i64, two: i64| one.max(two) >= one.min(two) * 5;
        let [_, high, low, close, _, ask_high, ask_low, _] = self.prices;
        let last = if self.last_close == 0 { low } else { self.last_close };
        apart(low.min(ask_low), high.max(ask_high)) || apart(last, close)
    }

    /// Whether high and low enclose open and close.
    #[inline]
    fn is_ordered(&self) -> bool {
        let [open, high, low, close, ask_open, ask_high, ask_low, ask_close] = self.prices;
        low <= open.min(close)
            && high >= open.max(close)
            && ask_low <= ask_open.min(ask_close)
            && ask_high >= ask_open.max(ask_close)
    }

    /// Its row is no candle, but shows that its bucket had prices.
    #[cold]
    fn hold_back(&mut self) {
        self.tainted = true;
        let has_price = self.missing & PRICES != PRICES && self.missing & UTM == 0;
        if has_price && self.frontier != NONE && self.frontier <= self.start && self.shown.len() < 64 {
            self.shown.insert(self.start);
        }
    }

    /// What comes next does not follow what came before.
    #[cold]
    fn subscribe_anew(&mut self) {
        (self.missing, self.ticks, self.closed) = (u16::MAX, 0, false);
        (self.seen, self.since) = (false, UNDATED);
        if self.forming.0 != NONE {
            self.shown.insert(std::mem::replace(&mut self.forming.0, NONE));
        }
    }

    /// A row came, which may end a silence.
    #[inline]
    fn moved(&mut self, told: (i64, u32, bool), now: i64, calendar: &Calendar) {
        if (self.told.0, self.told.1, self.told.2) == told {
            return;
        }
        (self.told.0, self.told.1, self.told.2) = told;
        if !(0..3_600).contains(&(now - self.hour)) {
            self.hour = now - now.rem_euclid(3_600);
            if self.longest_s > 0 {
                self.usual_s += (self.longest_s - self.usual_s) / 8;
                self.longest_s = 0;
            }
        }
        let silent_s = now.saturating_sub(self.moved_at);
        if self.moved_at != NONE
            && (self.longest_s + 1..=7_200).contains(&silent_s)
            && is_open(calendar, self.moved_at)
            && is_open(calendar, now)
        {
            self.longest_s = silent_s;
        }
        self.moved_at = now;
    }
}

impl Longer {
    /// Takes what is known of the bucket that starts at `start`. Returns the longer bar that it completes.
    fn take(&mut self, start: i64, bar: Option<&RawBar>) -> Option<RawBar> {
        let slot = start.rem_euclid(3 * STEP) / STEP;
        let longer = start - slot * STEP;
        if longer != self.start {
            if longer < self.start {
                return None;
            }
            (self.start, self.known, self.filled) = (longer, 0, 0);
        }
        self.known |= 1 << slot;
        self.filled &= !(1 << slot);
        if let Some(bar) = bar {
            self.parts[slot as usize] = *bar;
            self.filled |= 1 << slot;
        }
        if self.known != 0b111 {
            return None;
        }
        let filled = self.filled;
        (self.known, self.filled) = (0, 0);
        let mut parts = self.parts.iter().enumerate().filter(|(slot, _)| filled & 1 << slot != 0);
        let mut whole = RawBar { minutes: 15, start: longer, ..*parts.next()?.1 };
        parts.for_each(|(_, part)| whole.extend(part));
        Some(whole)
    }
}

fn is_open(calendar: &Calendar, time: i64) -> bool {
    calendar.expectation(Timestamp(time).floor(STEP)) == Expectation::Expected
}

/// Seconds of a silence that lie in expected hours.
#[cold]
fn watched_s(calendar: &Calendar, since: i64, now: i64) -> i64 {
    let runs = calendar.runs(Timestamp(since).floor(STEP)..Timestamp(now)).into_iter();
    let expected = runs.filter(|(_, expectation)| *expectation == Expectation::Expected);
    expected.map(|(run, _)| run.end.0.min(now) - run.start.0.max(since)).sum()
}

fn ceil(time: i64) -> i64 {
    Timestamp(time).ceil(STEP).0
}

/// Whether the server counts a line.
fn is_data(line: &str) -> bool {
    let tag = line.split(',').next().unwrap_or(line);
    matches!(tag, "U" | "SUBOK" | "SUBCMD" | "UNSUB" | "EOS" | "CS" | "OV" | "CONF" | "MSGDONE" | "MSGFAIL")
        || tag.starts_with("MPN")
}

/// A text without its percent-coding.
fn decoded(token: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), token.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[inline]
fn expect(bytes: &[u8], at: usize, text: &[u8]) -> Option<usize> {
    bytes.get(at..)?.starts_with(text).then_some(at + text.len())
}

/// A whole number, and where what follows begins.
#[inline]
fn number(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let (mut end, mut number) = (at, 0_u64);
    while let Some(digit) = bytes.get(end).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
        number = number.wrapping_mul(10).wrapping_add(u64::from(digit));
        end += 1;
    }
    // More would not fit.
    (at < end && end - at <= 18).then_some((number, end))
}

/// A price in units of 10⁻⁸, and where what follows begins. `None` for those of more than seven bytes too.
#[inline]
fn price(bytes: &[u8], at: usize, shift: u32) -> Option<(i64, usize)> {
    const POWERS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];
    let length = match bytes.get(at..)?.first_chunk() {
        Some(word) => {
            // The highest bit of each byte that is neither from `.` to `9`.
            let (word, low) = (u64::from_le_bytes(*word), u64::from_ne_bytes([0x7f; 8]));
            let (point, colon) = (u64::from_ne_bytes([0x80 - b'.'; 8]), u64::from_ne_bytes([0x80 - b':'; 8]));
            let others = (!((word & low) + point) | ((word & low) + colon) | word) & !low;
            others.trailing_zeros() as usize / 8
        }
        None => bytes[at..].iter().take_while(|byte| matches!(byte, b'.'..=b'9')).count(),
    };
    let (number, decimals) = Digits::before(bytes, at + length, length).filter(|_| length < 8)?.decimal()?;
    let units = number * POWERS[8_usize.checked_sub((decimals + shift) as usize)?];
    (1..=UNITS_MAX).contains(&units).then_some((units as i64, at + length))
}
