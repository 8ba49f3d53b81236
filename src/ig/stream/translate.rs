//! What a Lightstreamer session tells, in the house's words: rows into candles, breaks into
//! breaks of continuity, refusals into later attempts. Pure: time and calendar are arguments.

use std::sync::Arc;
use std::time::Duration;

use super::chart::{self, ChartFault, ChartItem, Knowledge};
use super::probes::Probes;
use super::state::{Phase, StreamState};
use crate::clock::ClockKind;
use crate::domain::scale::Verdict;
use crate::domain::{
    Calendar, CandleUpdate, Expectation, FeedIx, Pair, Price, Reason, StreamEvent, Timeframe, Timestamp,
};
use crate::ig::error::cut;
use crate::ig::markets::Instrument;
use crate::stats::Stats;
use crate::store::StreamBreak;
use crate::tlcp::{Changes, EndCause, Event, SubscriptionSpec, Transport, Verdict as Refusal, Version};

/// Pauses before a refused subscription is tried again; the last one repeats.
const REFUSED_PAUSES_S: [u64; 4] = [5, 30, 120, 900];
/// Rows in a row that are too far from the system's clock before the clock is to blame.
const APART_ROWS_MAX: u32 = 5;
/// Old rows may be closes that are sent again, at the opening perhaps of every item, and a row far
/// ahead among good ones is just wrong: only when such rows have come for so long without a good
/// one is the clock to blame, seconds.
const APART_MAX_S: i64 = 60;
/// System clock and stream may differ by this much, seconds.
const CLOCK_APART_MAX_S: i64 = 3_600;
/// A subscription's first row shows the last candle there was, at most so many seconds ago: any
/// holiday is shorter.
const SNAPSHOT_AGE_MAX_S: i64 = 14 * 86_400;
/// With the clock that follows the stream, a row may be ahead of all others by this much.
const STREAM_LEAP_MAX_S: i64 = 60 * 86_400;

/// One feed's part in the stream.
#[derive(Debug)]
pub struct StreamItem {
    instrument: Instrument,
    chart: ChartItem,
    unfiltered: bool,
    /// The next row is the first of its subscription and may be old.
    first: bool,
    /// It was told that the scale is in doubt.
    doubted: bool,
    refusals: usize,
    rejected: u64,
    /// Event time of the last row.
    last_row: Option<Timestamp>,
    /// Start of the bucket whose end-of-candle row came last.
    last_close: Option<Timestamp>,
    /// Since when and why rows may be missing.
    broken: Option<(Timestamp, String)>,
}

impl StreamItem {
    /// An item that has told nothing yet.
    pub fn new(instrument: &Instrument) -> StreamItem {
        StreamItem {
            instrument: instrument.clone(),
            chart: ChartItem::new(instrument.pair, knowledge(instrument)),
            unfiltered: false,
            first: true,
            doubted: false,
            refusals: 0,
            rejected: 0,
            last_row: None,
            last_close: None,
            broken: None,
        }
    }

    /// What to subscribe to for it.
    pub fn spec(&self, feed: FeedIx) -> SubscriptionSpec {
        SubscriptionSpec {
            group: chart::group(&self.instrument.epic),
            schema: chart::SCHEMA.to_owned(),
            fields: chart::FIELDS,
            snapshot: true,
            unfiltered: true,
            tag: feed.0,
        }
    }

    /// Currency pair.
    pub fn pair(&self) -> Pair {
        self.instrument.pair
    }

    /// What is watched, where the scale of its prices is in doubt.
    pub fn in_doubt(&self) -> Option<&Instrument> {
        self.chart.in_doubt().then_some(&self.instrument)
    }

    /// REST says at which price it trades. Subscribe anew.
    pub fn confirm(&mut self, bid: Price) {
        self.chart.confirm(bid);
    }
}

fn knowledge(instrument: &Instrument) -> Knowledge {
    match instrument.scale {
        Verdict::Scale(scale) if instrument.scale_is_fixed => Knowledge::Fixed(scale),
        Verdict::Ambiguous => Knowledge::InDoubt,
        Verdict::Scale(_) | Verdict::NoPriceYet => Knowledge::ByPrice,
    }
}

/// What cannot be done while the session is being driven.
#[derive(Debug)]
pub enum FollowUp {
    /// Subscribe this feed again after a pause.
    Retry {
        /// Which feed.
        feed: FeedIx,
        /// For how long to wait.
        pause: Duration,
    },
    /// System and stream live in different times.
    ClocksApart {
        /// What the stream says.
        stream: Timestamp,
        /// What the system says.
        system: Timestamp,
    },
    /// Ask over REST at which price this feed trades: its scale is in doubt.
    ConfirmScale {
        /// Which feed.
        feed: FeedIx,
    },
    /// A break of continuity is over.
    Mended(StreamBreak),
    /// The session is over.
    Ended(EndCause),
}

/// How a session is carried, for the record.
#[derive(Clone, Copy, Debug)]
pub struct Carried {
    /// Version claimed.
    pub version: Version,
    /// Transport of the present connection.
    pub transport: Transport,
}

/// Everything that the translation knows across batches.
#[derive(Debug)]
pub struct Translator {
    /// By [`FeedIx`].
    pub items: Vec<StreamItem>,
    /// What was seen of the broker.
    pub probes: Probes,
    /// How the stream stands; its time is the keeper's business.
    pub state: StreamState,
    /// The hours of each feed's market, by [`FeedIx`].
    calendars: Vec<Arc<Calendar>>,
    clock_kind: ClockKind,
    /// Rows in a row whose time was too far from the system's, and when the first of them came.
    apart_rows: u32,
    apart_since: Option<Timestamp>,
    /// A row has come whose time fits the system's.
    fresh: bool,
    /// Event time of the last row of any item.
    last_row: Option<Timestamp>,
    /// Since when and why rows of every item may be missing.
    broken: Option<(Timestamp, String)>,
    /// Rows that moved a candle, since the session began.
    pub moving_rows: u64,
}

impl Translator {
    /// A translator for these instruments and the hours of their markets, in the order of their
    /// [`FeedIx`].
    pub fn new(
        instruments: &[Instrument],
        calendars: Vec<Arc<Calendar>>,
        clock_kind: ClockKind,
        probes: Probes,
    ) -> Translator {
        Translator {
            items: instruments.iter().map(StreamItem::new).collect(),
            probes,
            state: StreamState::default(),
            calendars,
            clock_kind,
            apart_rows: 0,
            apart_since: None,
            fresh: false,
            last_row: None,
            broken: None,
            moving_rows: 0,
        }
    }

    /// What the session has told is void from here on.
    pub fn session_over(&mut self, cause: &EndCause) {
        self.moving_rows = 0;
        if self.broken.is_none() {
            self.broken = self.last_row.map(|from| (from, cause.to_string()));
        }
    }

    /// No rows have come of this item, or of any, for so long that it is subscribed anew.
    pub fn silent(&mut self, feed: Option<FeedIx>) {
        const WHY: &str = "silent for long, subscribed anew";
        match feed {
            Some(feed) => {
                let item = &mut self.items[feed.ix()];
                item.broken = item.broken.take().or(item.last_row.map(|from| (from, WHY.to_owned())));
            }
            None => {
                self.broken = self.broken.take().or(self.last_row.map(|from| (from, WHY.to_owned())));
            }
        }
    }

    /// The breaks that no row has ended yet, as if they ended now.
    pub fn open_breaks(&self, now: Timestamp) -> Vec<StreamBreak> {
        let of_items = self.items.iter().map(|item| (Some(item.pair().to_string()), &item.broken));
        of_items
            .chain([(None, &self.broken)])
            .filter_map(|(pair, broken)| {
                let (from, cause) = broken.clone()?;
                Some(StreamBreak { pair, from, to: now, cause })
            })
            .collect()
    }

    /// Whether no candle that began at this time goes on: of each its last row was seen, or a later candle's, or none at all.
    pub fn have_ended(&self, begin: Timestamp) -> bool {
        !self.items.iter().any(|item| item.chart.goes_on(begin))
    }

    /// Whether rows of any feed are expected: the connection is silent when all of them are.
    pub fn market(&self, now: Timestamp) -> super::silence::Market {
        use super::silence::Market;
        let mut market = Market::Closed;
        for calendar in &self.calendars {
            if is_expected(calendar, now) {
                // Rows are missed from the first feed on that has been open for long.
                if is_expected(calendar, now.plus(-3_600)) {
                    return Market::Open;
                }
                market = Market::JustOpened;
            }
        }
        market
    }
}

/// One batch's translation.
pub struct Translation<'a> {
    /// What is known across batches.
    pub known: &'a mut Translator,
    /// Event time.
    pub now: Option<Timestamp>,
    /// The system's own time, uncorrected, where event time goes by it: where its clock has just been set, or the
    /// machine has slept, by either account ([`EventClock::uncorrected`](crate::clock::EventClock::uncorrected)).
    pub system_now: Option<(Timestamp, Timestamp)>,
    /// Whether that goes on by itself.
    pub steady: bool,
    /// How the session is carried.
    pub carried: Carried,
    /// Where counts go.
    pub stats: &'a Stats,
    /// Where the house's events go.
    pub told: &'a mut Vec<StreamEvent>,
    /// Where the rest goes.
    pub later: &'a mut Vec<FollowUp>,
}

impl Translation<'_> {
    /// Takes one event of the session.
    pub fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Update { tag, changes, first, .. } => self.row(FeedIx(tag), first, changes),
            Event::Established { session_id, keepalive, control_link, .. } => {
                let evidence: String = session_id.chars().take(24).collect();
                log::info!(
                    session = evidence.as_str(),
                    keepalive_ms = keepalive.as_millis() as u64,
                    version = self.carried.version.number(),
                    transport = self.carried.transport.as_str();
                    "streaming session begun"
                );
                self.stats.stream_sessions.add(1);
                self.streams();
                self.known.probes.session_made(
                    self.carried.version.number(),
                    self.carried.transport.as_str(),
                    keepalive,
                    control_link.is_some(),
                    self.carried.version >= Version::V2_4_0,
                );
                self.told.push(StreamEvent::SessionBegan { evidence: format!("ls:{evidence}").into() });
            }
            Event::Interrupted { cause: EndCause::Loop { .. } } => {
                self.stats.stream_loops.add(1);
                self.known.probes.loops += 1;
                log::debug!("the server asks for a new connection");
                self.told.push(StreamEvent::Interrupted);
            }
            Event::Interrupted { cause } => {
                self.stats.stream_breaks.add(1);
                self.known.state.enter(Phase::Interrupted, Some(cause.to_string()));
                log::warn!(cause:% = cause; "stream interrupted, trying to go on where it stopped");
                self.told.push(StreamEvent::Interrupted);
            }
            Event::Rebound { recovering, .. } => {
                self.streams();
                log::debug!(recovering; "stream bound to a new connection");
            }
            Event::Recovered { repeated } => {
                self.stats.stream_recoveries.add(1);
                let transport = self.carried.transport;
                match transport {
                    Transport::WebSocket => self.known.probes.recovered_websocket += 1,
                    Transport::Http => self.known.probes.recovered_http += 1,
                }
                log::info!(transport = transport.as_str(), repeated; "stream recovered, nothing was lost");
            }
            Event::Subscribed { tag, .. } => {
                let item = &mut self.known.items[usize::from(tag)];
                item.chart.reset();
                (item.first, item.doubted, item.refusals, item.unfiltered) = (true, false, 0, false);
                if !self.known.state.refused.is_empty() {
                    let pair = self.pair(tag).to_string();
                    self.known.state.refused.remove(&pair);
                }
                self.told.push(StreamEvent::Subscribed { feed: FeedIx(tag) });
            }
            Event::Configured { tag, unfiltered, frequency } => {
                log::debug!(feed = tag, unfiltered, frequency; "subscription configured");
                self.known.items[usize::from(tag)].unfiltered = unfiltered;
                match unfiltered {
                    true => self.known.probes.unfiltered_granted += 1,
                    false => self.known.probes.filtered += 1,
                }
                self.told.push(StreamEvent::Configured { feed: FeedIx(tag), unfiltered });
            }
            Event::Overflow { tag, dropped, .. } => {
                log::warn!(pair:% = self.pair(tag), dropped; "the server dropped rows");
                self.known.probes.rows_dropped += dropped;
                self.lost(tag, Reason::DecodeFault, "the server dropped rows");
                self.go_on(FeedIx(tag));
            }
            Event::Refused { tag, code, text, verdict } => {
                log::warn!(
                    pair:% = self.pair(tag), code, text = cut(text).as_str(), verdict:? = verdict;
                    "the server refuses a subscription, the others go on"
                );
                self.refused(tag, verdict, &format!("subscription refused: {code} {}", cut(text)));
            }
            Event::Unanswered { tag } => {
                log::warn!(pair:% = self.pair(tag); "a subscription stays unanswered");
                self.refused(tag, Refusal::RetryLater, "subscription unanswered");
            }
            Event::Unsubscribed { tag, asked } => {
                if !asked {
                    log::warn!(pair:% = self.pair(tag); "the server ended a subscription");
                    self.refused(tag, Refusal::RetryLater, "subscription ended by the server");
                }
            }
            Event::Fault { tag, reason, line } => {
                log::warn!(pair:% = self.pair(tag), reason:% = reason, line:% = line; "an update cannot be read, subscribing again");
                self.lost(tag, Reason::DecodeFault, "an update could not be read");
            }
            Event::Skipped { reason, line } => {
                self.stats.lines_skipped.add(1);
                log::debug!(reason:% = reason, line:% = line; "a line is of no use");
            }
            Event::Ended { cause } => self.later.push(FollowUp::Ended(cause)),
        }
    }

    fn row(&mut self, feed: FeedIx, first: bool, changes: &Changes<'_>) {
        let item = &mut self.known.items[feed.ix()];
        self.stats.rows.add(1);
        self.known.moving_rows += u64::from(!first);
        match item.chart.apply(changes) {
            Ok(Some(&candle)) => {
                let first = item.first;
                let calendar = &self.known.calendars[feed.ix()];
                let check = |now| implausible(self.known.clock_kind, candle.start, first, now, calendar);
                if let Some((now, otherwise)) = self.system_now
                    && let Some(apart) = check(now)
                    && check(otherwise).is_some()
                {
                    return self.apart(feed, candle, apart, now);
                }
                (self.known.apart_rows, self.known.apart_since) = (0, None);
                self.known.fresh |= !first;
                let now = self.now.unwrap_or(candle.start);
                // The clock that follows the stream has not seen this row yet.
                let now = now.max(candle.start);
                let is_snapshot = item.first;
                if is_snapshot || item.broken.is_some() || self.known.broken.is_some() {
                    self.first_row(feed, candle.start, now);
                }
                let item = &mut self.known.items[feed.ix()];
                if std::mem::replace(&mut item.doubted, false) {
                    log::info!(pair:% = item.pair(); "prices are plausible again");
                    self.go_on(feed);
                }
                let item = &mut self.known.items[feed.ix()];
                item.last_row = Some(now);
                self.known.last_row = Some(now);
                if candle.closed && !is_snapshot {
                    self.saw_close(feed, candle.start, now);
                }
                StreamEvent::push_candle(self.told, feed, &candle);
            }
            // A price is missing: what is known of the candle is not its last state.
            Ok(None) => self.hold_back(feed),
            Err(fault) => {
                if fault == ChartFault::ScaleInDoubt && !std::mem::replace(&mut item.doubted, true) {
                    log::error!(
                        pair:% = item.pair();
                        "prices are on another scale than before, or absurd: held back, nothing of them is stored, \
                         until they are plausible again or IG's REST API confirms them; or set the pair's scale"
                    );
                    self.lost(feed.0, Reason::ScaleInDoubt, "price scale in doubt");
                    self.later.push(FollowUp::ConfirmScale { feed });
                }
                self.reject(feed, &fault.to_string());
                match fault {
                    // Its buckets say so themselves, the quiet ones among them too.
                    ChartFault::ScaleInDoubt => self.told.push(StreamEvent::Rejected { feed, bucket: None }),
                    ChartFault::Unreadable | ChartFault::Disordered => self.hold_back(feed),
                }
            }
        }
    }

    /// A row's time does not fit the system's.
    #[cold]
    fn apart(&mut self, feed: FeedIx, candle: CandleUpdate, apart: Apart, now: Timestamp) {
        let known = &mut *self.known;
        if apart != Apart::Row {
            known.apart_rows += 1;
            let since = *known.apart_since.get_or_insert(now);
            let is_clear = apart == Apart::Clocks && !known.fresh || now.since(since) >= APART_MAX_S;
            if is_clear && known.apart_rows >= APART_ROWS_MAX {
                known.apart_rows = 0;
                self.later.push(FollowUp::ClocksApart { stream: candle.start, system: now });
            }
        }
        // One that is sent again among fresh ones. Where there are none it may be of another time.
        if apart == Apart::Old && self.known.fresh {
            return self.told.push(StreamEvent::Candle { feed, candle });
        }
        self.reject(feed, "its time is implausible");
        self.told.push(StreamEvent::Rejected { feed, bucket: None });
        self.undated(feed);
    }

    /// Of which bucket a row was is not known: from here on rows follow each other again.
    fn undated(&mut self, feed: FeedIx) {
        self.lost(feed.0, Reason::DecodeFault, "rows did not say of which bucket they are");
        self.go_on(feed);
    }

    /// A row is held back, and so may be the last of its bucket.
    fn hold_back(&mut self, feed: FeedIx) {
        let chart = &self.known.items[feed.ix()].chart;
        let (has_price, start) = (chart.has_price(), chart.start());
        // One that lies ahead is wrong about its time too. A clock that follows the stream knows
        // nothing yet of the rows before this one in the batch.
        let reached = self.now.max(self.known.last_row).map(|now| now.plus(Timeframe::M5.seconds()));
        let bucket = start.filter(|start| has_price && reached.is_none_or(|reached| *start <= reached));
        self.told.push(StreamEvent::Rejected { feed, bucket });
        if has_price && start.is_none() {
            self.undated(feed);
        }
    }

    /// After a break the subscription itself goes on: continuity begins anew here.
    fn go_on(&mut self, feed: FeedIx) {
        let unfiltered = self.known.items[feed.ix()].unfiltered;
        self.told.push(StreamEvent::Subscribed { feed });
        self.told.push(StreamEvent::Configured { feed, unfiltered });
    }

    /// The first good row of a subscription, or after a break.
    #[cold]
    fn first_row(&mut self, feed: FeedIx, start: Timestamp, now: Timestamp) {
        let known = &mut *self.known;
        let item = &mut known.items[feed.ix()];
        if std::mem::replace(&mut item.first, false) && self.steady {
            let forming = start.plus(Timeframe::M5.seconds()) > now;
            match forming {
                true => known.probes.snapshots_forming += 1,
                false => known.probes.snapshots_old += 1,
            }
        }
        let mended = |pair, (from, cause): (Timestamp, String)| {
            FollowUp::Mended(StreamBreak { pair, from, to: now, cause })
        };
        let pair = item.instrument.pair;
        self.later.extend(item.broken.take().map(|broken| mended(Some(pair.to_string()), broken)));
        self.later.extend(known.broken.take().map(|broken| mended(None, broken)));
    }

    #[cold]
    fn saw_close(&mut self, feed: FeedIx, start: Timestamp, now: Timestamp) {
        let item = &mut self.known.items[feed.ix()];
        if item.last_close.replace(start) == Some(start) {
            self.known.probes.closes_repeated += 1;
        } else if self.steady {
            self.known.probes.closed(start.plus(Timeframe::M5.seconds()), now);
        }
    }

    fn reject(&mut self, feed: FeedIx, why: &str) {
        let item = &mut self.known.items[feed.ix()];
        item.rejected += 1;
        self.stats.rows_rejected.add(1);
        // The first of a kind is told, then ever fewer.
        if item.rejected.is_power_of_two() {
            log::warn!(pair:% = item.pair(), why, times = item.rejected; "a row was held back");
        }
    }

    fn refused(&mut self, tag: u16, verdict: Refusal, why: &str) {
        self.lost(tag, Reason::Refused, why);
        self.known.state.refused.insert(self.pair(tag).to_string(), why.to_owned());
        let item = &mut self.known.items[usize::from(tag)];
        let pause_s = REFUSED_PAUSES_S[item.refusals.min(REFUSED_PAUSES_S.len() - 1)];
        item.refusals += 1;
        if verdict != Refusal::NewSession {
            self.later.push(FollowUp::Retry { feed: FeedIx(tag), pause: Duration::from_secs(pause_s) });
        }
    }

    fn lost(&mut self, tag: u16, reason: Reason, why: &str) {
        let item = &mut self.known.items[usize::from(tag)];
        if item.broken.is_none() {
            item.broken = item.last_row.map(|from| (from, why.to_owned()));
        }
        self.told.push(StreamEvent::Broken { feed: Some(FeedIx(tag)), reason });
    }

    fn streams(&mut self) {
        let state = &mut self.known.state;
        state.enter(Phase::Streaming, None);
        state.transport = Some(self.carried.transport.as_str().to_owned());
        state.version = Some(self.carried.version.number().to_owned());
    }

    fn pair(&self, tag: u16) -> Pair {
        self.known.items[usize::from(tag)].pair()
    }
}

/// Why a row's time cannot be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Apart {
    /// This row is off.
    Row,
    /// This row is old: sent again, or of another time.
    Old,
    /// System and stream live in different times.
    Clocks,
}

/// Compares a candle's start with event time. The first row of a subscription may be old, since
/// a snapshot shows the last candle there was.
fn implausible(
    kind: ClockKind,
    start: Timestamp,
    first: bool,
    now: Timestamp,
    calendar: &Calendar,
) -> Option<Apart> {
    let ahead = start.since(now);
    match kind {
        ClockKind::Stream => (ahead > STREAM_LEAP_MAX_S || -ahead > SNAPSHOT_AGE_MAX_S).then_some(Apart::Row),
        ClockKind::System if ahead > CLOCK_APART_MAX_S => Some(Apart::Clocks),
        ClockKind::System if -ahead > SNAPSHOT_AGE_MAX_S => Some(Apart::Clocks),
        // At a weekend the last candle may be sent again.
        ClockKind::System if -ahead > CLOCK_APART_MAX_S + Timeframe::M5.seconds() => {
            (!first && is_expected(calendar, now)).then_some(Apart::Old)
        }
        ClockKind::System => None,
    }
}

fn is_expected(calendar: &Calendar, time: Timestamp) -> bool {
    calendar.expectation(time.floor(Timeframe::M5.seconds())) == Expectation::Expected
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tlcp::update;

    #[test]
    fn clocks_more_than_an_hour_apart_are_noticed() {
        let now = Timestamp(1_579_089_600);
        let calendar = Calendar::forex();
        let check = |kind, ahead: i64, first| implausible(kind, now.plus(ahead), first, now, &calendar);
        let saturday = now.plus(3 * 86_400);
        let friday = saturday.plus(-15 * 3600);
        assert_eq!(implausible(ClockKind::System, friday, false, saturday, &calendar), None, "sent again");
        assert_eq!(check(ClockKind::System, 3_601, true), Some(Apart::Clocks));
        assert_eq!(check(ClockKind::System, 300, true), None);
        assert_eq!(check(ClockKind::System, -3_900, false), None);
        assert_eq!(check(ClockKind::System, -3_901, false), Some(Apart::Old));
        assert_eq!(check(ClockKind::System, -200_000, true), None, "an old snapshot on a weekend");
        assert_eq!(check(ClockKind::System, -15 * 86_400, true), Some(Apart::Clocks), "a market of the past");
        assert_eq!(check(ClockKind::Stream, 40 * 86_400, false), None, "a replay skips weeks");
        assert_eq!(check(ClockKind::Stream, 61 * 86_400, false), Some(Apart::Row));
        assert_eq!(check(ClockKind::Stream, -13 * 86_400, false), None);
        assert_eq!(check(ClockKind::Stream, -15 * 86_400, false), Some(Apart::Row));
    }

    #[test]
    fn the_connection_is_silent_where_rows_of_any_feed_are_expected() {
        use super::super::silence::Market;
        // Open from 12:00 to 14:00 UTC on Wednesdays.
        let from = 3 * 24 * 60 + 12 * 60;
        let short =
            Arc::new(Calendar::new(crate::domain::Zone::named("UTC").unwrap(), from..from + 120, None));
        let closed = Arc::new(Calendar::new(crate::domain::Zone::named("UTC").unwrap(), 0..0, None));
        let forex = Arc::new(Calendar::forex());
        let market = |calendars: &[&Arc<Calendar>], hours: i64| {
            let calendars = calendars.iter().map(|calendar| (*calendar).clone()).collect();
            Translator::new(&[], calendars, ClockKind::System, Probes::default())
                .market(NOON.plus(hours * 3600))
        };
        assert_eq!(market(&[&closed, &short], -1), Market::Closed);
        assert_eq!(market(&[&closed, &short], 0), Market::JustOpened);
        assert_eq!(market(&[&closed, &short], 1), Market::Open);
        assert_eq!(market(&[&closed, &short], 2), Market::Closed);
        assert_eq!(market(&[&short, &forex], 0), Market::Open, "the other has been open for long");
        assert_eq!(market(&[&short, &forex], 2), Market::Open);
        assert_eq!(market(&[&short, &forex], 72), Market::Closed, "Saturday");
    }

    /// Wednesday 2020-01-15 12:00 UTC: bucket 0 of every script.
    const NOON: Timestamp = Timestamp(1_579_089_600);
    const STEP: i64 = Timeframe::M5.seconds();

    /// Runs a script against one GBP/USD item and tells what the house is told, as text. Words:
    /// `sub`, `unf` (`CONF` unfiltered), `ov` (overflow), `rN=P` a row of bucket N with all prices
    /// P, `cN=P` the same with `CONS_END`, `ok=P` REST tells this price.
    fn run(script: &str) -> (String, Vec<FollowUp>) {
        let instrument = Instrument {
            pair: "GBPUSD".parse().unwrap(),
            epic: "CS.D.GBPUSD.CFD.IP".parse().unwrap(),
            scale: Verdict::NoPriceYet,
            scale_is_fixed: false,
        };
        let mut known = Translator::new(
            &[instrument],
            vec![Arc::new(Calendar::forex())],
            ClockKind::System,
            Probes::default(),
        );
        let (mut told, mut later, stats) = (Vec::new(), Vec::new(), Stats::default());
        let mut now = NOON;
        for word in script.split_whitespace() {
            if let Some(price) = word.strip_prefix("ok=") {
                known.items[0].confirm(Price::parse(price, 0).unwrap());
                continue;
            }
            let mut translation = Translation {
                now: Some(now),
                system_now: Some((now, now)),
                steady: true,
                carried: Carried { version: Version::default(), transport: Transport::WebSocket },
                stats: &stats,
                known: &mut known,
                told: &mut told,
                later: &mut later,
            };
            match word {
                "sub" => translation.take(Event::Subscribed { tag: 0, items: 1, fields: chart::FIELDS }),
                "unf" => {
                    translation.take(Event::Configured { tag: 0, unfiltered: true, frequency: "unlimited" })
                }
                "ov" => translation.take(Event::Overflow { tag: 0, item: 1, dropped: 3 }),
                _ => {
                    let (bucket, price) = word[1..].split_once('=').unwrap();
                    let start = NOON.plus(STEP * bucket.parse::<i64>().unwrap());
                    now = now.max(start);
                    translation.now = Some(now);
                    let (utm, closed) = (start.0 * 1000, u8::from(word.starts_with('c')));
                    let row = format!("{utm}|1|1|{closed}|{}", [price; 8].join("|"));
                    let changes = update::plain(&row, chart::FIELDS).unwrap();
                    translation.take(Event::Update { tag: 0, item: 1, first: false, changes: &changes });
                }
            }
        }
        let told = told.iter().map(|event| match event {
            StreamEvent::Candle { candle, .. } => {
                let kind = if candle.closed { "close" } else { "row" };
                format!("{kind} {}", candle.start.since(NOON) / STEP)
            }
            StreamEvent::Broken { reason, .. } => format!("broken {reason}"),
            StreamEvent::Subscribed { .. } => "subscribed".to_owned(),
            StreamEvent::Configured { unfiltered: true, .. } => "unfiltered".to_owned(),
            StreamEvent::Configured { .. } => "filtered".to_owned(),
            StreamEvent::Rejected { .. } => "rejected".to_owned(),
            StreamEvent::Interrupted => "interrupted".to_owned(),
            StreamEvent::SessionBegan { .. } => "session".to_owned(),
        });
        (told.collect::<Vec<_>>().join(", "), later)
    }

    fn check(script: &str, expected: &str) -> Vec<FollowUp> {
        let (told, later) = run(script);
        assert_eq!(told, expected, "{script}");
        later
    }

    fn confirmations(later: &[FollowUp]) -> usize {
        later.iter().filter(|what| matches!(what, FollowUp::ConfirmScale { .. })).count()
    }

    #[test]
    fn a_jump_of_scale_breaks_continuity_once_and_asks_rest() {
        let later = check(
            "sub unf r0=13350 r0=1.3350 r1=1.3350 c1=1.3350",
            "subscribed, unfiltered, row 0, broken scale_in_doubt, rejected, rejected, rejected",
        );
        assert_eq!(confirmations(&later), 1);
    }

    #[test]
    fn continuity_begins_anew_with_the_first_plausible_row() {
        check(
            "sub unf r0=13350 r0=1.3350 r1=13350 c1=13351",
            "subscribed, unfiltered, row 0, broken scale_in_doubt, rejected, subscribed, unfiltered, row 1, close 1",
        );
    }

    #[test]
    fn a_new_scale_is_taken_when_rest_confirms_it_and_the_item_is_subscribed_again() {
        let later = check(
            "sub r0=13350 r0=1.3350 ok=1.3351 sub unf r0=1.3350 c0=1.3350",
            "subscribed, row 0, broken scale_in_doubt, rejected, subscribed, unfiltered, row 0, close 0",
        );
        assert_eq!(confirmations(&later), 1);
        // A subscription that settles nothing is in doubt again at its first row.
        let later = check(
            "sub r0=13350 r0=1.3350 sub r0=1.3350",
            "subscribed, row 0, broken scale_in_doubt, rejected, subscribed, broken scale_in_doubt, rejected",
        );
        assert_eq!(confirmations(&later), 2);
    }

    #[test]
    fn rows_that_the_server_dropped_break_continuity() {
        check(
            "sub unf r0=1.3 ov r0=1.3",
            "subscribed, unfiltered, row 0, broken decode_fault, subscribed, unfiltered, row 0",
        );
    }
}
