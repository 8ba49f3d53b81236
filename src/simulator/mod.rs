//! A stand-in for IG: its REST API and its Lightstreamer server on one TCP port.
//!
//! ```text
//! market, replay   what is true: ticks of every pair and bucket          pure
//! listing          which epics there are, and their scale                pure
//! desk             logins, tokens, limits, allowance                     pure
//! prices, rest     IG's REST API                                         rest: sockets
//! tlcp, feed, sent Lightstreamer: requests, sessions, rows               pure
//! outbox, stream   lines on their way to a socket                        stream: sockets
//! door             the addresses                                         sockets
//! clock, driver    virtual time
//! faults           what can go wrong, and scripts that say when                pure
//! control          the hand that makes things go wrong
//! transcript       instead of all this: a recorded conversation, played back
//! ```
//!
//! Stream, REST and [`Truth`] fold the same ticks, so whatever a client stores can be compared
//! with what was true. The protocol code is the simulator's own: it shares nothing with the
//! client's rooms but the vocabulary of `domain`.

mod clock;
mod control;
mod desk;
mod door;
mod driver;
pub mod faults;
mod feed;
mod listing;
mod market;
mod outbox;
mod prices;
mod replay;
mod rest;
mod sent;
mod stream;
mod tlcp;
pub mod transcript;

use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use tokio::sync::Notify;

pub use clock::{NotASpeed, Speed};
pub use control::{Address, Control, Cut, Refusal, RestGarbage, Rubbish};
pub use desk::{Account, AccountType, Credentials, RequestLimits, TokenLifetimes};
pub use feed::{Received, Unfiltered};
pub use listing::Product;
pub use prices::RequestZone;
pub use replay::ReplayError;
pub use tlcp::{Field, NotAVersion, TlcpVersion};

use crate::domain::{Bar, Pair, Timeframe, Timestamp};
use clock::monotonic;
use control::{Refusals, Refusing, RestFaults};
use desk::Desk;
use door::Door;
use driver::Gate;
use faults::{Plan, Script};
use feed::{Feed, FeedSettings};
use listing::Listing;
use market::{Market, SeededMarket, TICKS_MAX};
use outbox::Severed;
use prices::Zones;
use replay::ReplayMarket;

/// Rows of a bar where nothing is said: a seeded market has at most one a second, as IG.
const ROWS_PER_BAR_SEEDED: u32 = 300;
/// The same for a replay, whose ticks are made up anyway.
const ROWS_PER_BAR_REPLAY: u32 = 5;
/// Most ticks of a bar that can be asked for.
pub const TICKS_PER_BAR_MAX: u32 = TICKS_MAX;
/// Where a seeded market begins unless it runs at real speed: Monday 2024-01-15 06:00 UTC.
const SEEDED_START: Timestamp = Timestamp(1_705_298_400);
/// Points (of the last decimal) in a pip.
const POINTS_PER_PIP: f64 = 10.0;
/// Widest made-up spread of a replay.
const SPREAD_PIPS_MAX: f64 = 1_000.0;

/// Which market is simulated.
#[derive(Clone, Debug)]
pub enum MarketOptions {
    /// The default 28 pairs, computed from a seed.
    Seeded {
        /// Same seed, same market.
        seed: u64,
        /// Where virtual time begins; default: now at speed 1, else a fixed Monday.
        start: Option<Timestamp>,
    },
    /// Recorded bars.
    Replay {
        /// Folder of `<PAIR>.csv.gz`.
        dir: PathBuf,
        /// Where virtual time begins; default: at the first recorded bar. What was recorded before
        /// is history that REST serves.
        from: Option<Timestamp>,
        /// End of the last bucket to serve; default: after the last recorded.
        to: Option<Timestamp>,
        /// Distance of ask and bid where no ask was recorded.
        spread_pips: f64,
    },
}

/// How the simulator behaves. [`Options::default`] is a seeded market on any free loopback port
/// at real speed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address to listen on; port 0 = any free one.
    pub listen: SocketAddr,
    /// Which market.
    pub market: MarketOptions,
    /// How fast virtual time goes.
    pub speed: Speed,
    /// Rows of one streamed 5-minute bar, the closing one included, 1 to 300; fewer where fewer
    /// ticks come. Default: 300 seeded, 5 replayed.
    pub rows_per_bar: Option<u32>,
    /// Ticks of every 5-minute bar of a seeded market, 1 to [`TICKS_PER_BAR_MAX`], spread evenly: with 300 each second has one.
    /// Default: as many as there would be at that time of the day, in some seconds of a thin one none.
    pub ticks_per_bar: Option<u32>,
    /// Subscribed items that virtual time waits for before it begins. Default: none for a seeded
    /// market at a fixed speed; else all served pairs, or what came within 3 real seconds.
    pub wait_for_items: Option<usize>,
    /// Where virtual time stops; a replay stops after its last bar.
    pub end: Option<Timestamp>,
    /// Whom the simulator knows.
    pub credentials: Credentials,
    /// How long tokens live.
    pub token_lifetimes: TokenLifetimes,
    /// Data points a week.
    pub allowance: u32,
    /// Requests a virtual minute; at [`Speed::Max`] there is no limit.
    pub requests_per_minute: RequestLimits,
    /// What happens to subscriptions that ask for unfiltered updates.
    pub unfiltered: Unfiltered,
    /// Newest protocol version that is spoken; newer ones are refused with `CONERR,65`.
    pub max_tlcp_version: TlcpVersion,
    /// Longest silence on a stream before a `PROBE`, in real milliseconds.
    pub keepalive_ms: u64,
    /// A second address to listen on, as the instance behind a load balancer has one.
    pub second_listen: Option<SocketAddr>,
    /// Control link in `CONOK`; default: the second address, where there is one, else `*`.
    pub control_link: Option<String>,
    /// Longest life of a Lightstreamer session that is bound to no connection, in real time.
    pub unbound_for: Duration,
    /// Bytes of sent data that a Lightstreamer session keeps for a recovery; the latter half of
    /// them at least.
    pub recovery_bytes: usize,
    /// Hours that the account's local time is ahead of UTC.
    pub timezone_offset_hours: i32,
    /// From when on it is ahead by so many, as when daylight saving begins or ends.
    pub timezone_change: Option<(Timestamp, i32)>,
    /// Zone of the dates in price requests.
    pub request_zone: RequestZone,
    /// Products that quote in points.
    pub in_points: Vec<Product>,
    /// What goes wrong, and when.
    pub faults: Script,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            market: MarketOptions::Seeded { seed: 1, start: None },
            speed: Speed::Times(1.0),
            rows_per_bar: None,
            ticks_per_bar: None,
            wait_for_items: None,
            end: None,
            credentials: Credentials::default(),
            token_lifetimes: TokenLifetimes::default(),
            allowance: 10_000,
            requests_per_minute: RequestLimits::default(),
            unfiltered: Unfiltered::Ignored,
            max_tlcp_version: TlcpVersion { major: 2, minor: 4, patch: 0 },
            keepalive_ms: 5_000,
            second_listen: None,
            control_link: None,
            unbound_for: Duration::from_secs(30),
            recovery_bytes: 16 * 1024 * 1024,
            timezone_offset_hours: 1,
            timezone_change: None,
            request_zone: RequestZone::AccountLocal,
            in_points: Vec::new(),
            faults: Script::default(),
        }
    }
}

/// Why the simulator cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// The recorded data cannot be served.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A fault is about a pair that has no market.
    #[error("entry {entry} of the faults: there is no market of {pair}")]
    NoMarket {
        /// Its number in the script.
        entry: usize,
        /// Which pair.
        pair: Pair,
    },
    /// A fault is about the second address, and there is none.
    #[error("entry {entry} of the faults: there is no second address")]
    NoSecondAddress {
        /// Its number in the script.
        entry: usize,
    },
    /// An option makes no sense.
    #[error("{0}")]
    BadOption(&'static str),
}

/// What all tasks of the simulator share. Locks are taken in the order feed, desk. The others are
/// leaves: under `listing`, `rest_faults`, `plan`, `refusing` and those of refusals and of an
/// outbox no other is taken.
#[derive(Debug)]
pub(crate) struct Shared {
    market: Market,
    /// As REST shows it; the feed has its own.
    listing: Mutex<Listing>,
    zones: Zones,
    access_token_s: u64,
    /// Its time goes as fast as the real one.
    in_real_time: bool,
    feed: Mutex<Feed>,
    desk: Mutex<Desk>,
    refusing: Mutex<Refusing>,
    /// What HTTP answers to upgrades, and to streams over HTTP, in the place of what they ask for.
    upgrades: Refusals,
    http_streams: Refusals,
    rest_faults: Mutex<RestFaults>,
    plan: Mutex<Plan>,
    now: AtomicI64,
    /// Market time goes no further than this.
    hold: AtomicI64,
    rest_requests: AtomicU64,
    rest_refusals: AtomicU64,
    logins: AtomicU64,
    points_spent: AtomicU64,
    stopping: AtomicBool,
    /// The address and the second one, once they are known.
    doors: OnceLock<Vec<Arc<Door>>>,
    /// Something happened that the driver may wait for.
    wake: Notify,
}

impl Shared {
    fn feed(&self) -> MutexGuard<'_, Feed> {
        self.feed.lock().expect("a panic in the feed is a bug that must not be hidden")
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().expect("a panic at the desk is a bug that must not be hidden")
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.now.load(Ordering::Acquire))
    }

    fn set_now(&self, now: Timestamp) {
        self.now.store(now.0, Ordering::Release);
    }

    fn hold(&self) -> Timestamp {
        Timestamp(self.hold.load(Ordering::Acquire))
    }

    fn set_refusing(&self, refusing: Refusing) {
        *self.refusing.lock().expect("nothing panics while holding this") = refusing;
    }

    fn refuses_streams(&self) -> bool {
        match *self.refusing.lock().expect("nothing panics while holding this") {
            Refusing::Never => false,
            Refusing::Always => true,
            Refusing::Until(until) => self.now() < until,
        }
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().expect("nothing panics while holding this")
    }

    fn rest_faults(&self) -> MutexGuard<'_, RestFaults> {
        self.rest_faults.lock().expect("nothing panics while holding this")
    }

    fn listing(&self) -> MutexGuard<'_, Listing> {
        self.listing.lock().expect("nothing panics while holding this")
    }

    /// Has everything happen whose time has come; answers when the next thing does.
    fn apply_due(self: &Arc<Self>, now: Timestamp) -> Option<Timestamp> {
        loop {
            let due = {
                let mut plan = self.plan();
                match plan.due(now) {
                    Some(fault) => fault,
                    None => return plan.next(),
                }
            };
            log::info!(market_time:% = now, fault:? = due; "a fault happens");
            Control::new(Arc::clone(self)).apply(due);
        }
    }

    /// Virtual end of an announced outage.
    fn outage_ends(&self) -> Option<Timestamp> {
        match *self.refusing.lock().expect("nothing panics while holding this") {
            Refusing::Until(until) => Some(until),
            _ => None,
        }
    }

    /// Ends every stream's connection, and with `forget` the sessions too.
    fn cut(&self, how: Cut, forget: bool) {
        let mut feed = self.feed();
        match how {
            Cut::Reset => feed.cut(Severed::Reset, monotonic()),
            Cut::Drop => feed.cut(Severed::Dropped, monotonic()),
            Cut::Close(code) => feed.close(code, monotonic()),
        }
        if forget {
            feed.forget_sessions();
        }
        drop(feed);
        self.wake.notify_one();
    }

    fn doors(&self) -> &[Arc<Door>] {
        self.doors.get().map_or(&[], Vec::as_slice)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Candle rows written to streams.
    pub rows: u64,
    /// Lightstreamer sessions opened.
    pub sessions: u64,
    /// Requests received on streams.
    pub stream_requests: u64,
    /// Requests on streams that were refused.
    pub stream_refusals: u64,
    /// Items of the Lightstreamer sessions that are bound to a connection at present.
    pub items: usize,
    /// REST requests received.
    pub rest_requests: u64,
    /// REST requests that were refused.
    pub rest_refusals: u64,
    /// Login requests received.
    pub logins: u64,
    /// Data points charged.
    pub points_spent: u64,
}

/// What really happened in the simulated market, whoever was listening.
#[derive(Clone, Debug)]
pub struct Truth {
    market: Market,
}

impl Truth {
    /// The pairs that have a market.
    pub fn pairs(&self) -> &[Pair] {
        self.market.pairs()
    }

    /// The complete bar of the bucket that starts at `start`, `None` where it has no tick.
    pub fn bar(&self, pair: Pair, timeframe: Timeframe, start: Timestamp) -> Option<Bar> {
        self.market.bar(pair, timeframe, start)
    }

    /// The complete bars of the buckets that start inside a span, ascending.
    pub fn bars(&self, pair: Pair, timeframe: Timeframe, span: Range<Timestamp>) -> Vec<Bar> {
        let first = span.start.ceil(timeframe.seconds());
        (first.0..span.end.0)
            .step_by(timeframe.seconds() as usize)
            .filter_map(|start| self.bar(pair, timeframe, Timestamp(start)))
            .collect()
    }
}

/// A running simulator. Dropping it stops virtual time; [`Simulator::stop`] also frees the port.
#[derive(Debug)]
pub struct Simulator {
    end: Option<Timestamp>,
    shared: Arc<Shared>,
    keepers: Vec<actix_rt::task::JoinHandle<()>>,
    driver: actix_rt::Arbiter,
}

/// Starts a simulator inside the running actix system: one worker for the sockets, one thread
/// that drives virtual time.
///
/// # Errors
/// Data that cannot be read, an address that cannot be bound, an option out of its range.
pub fn start(options: Options) -> Result<Simulator, SimulatorError> {
    if options.credentials.accounts.is_empty() {
        return Err(SimulatorError::BadOption("at least one account is needed"));
    }
    if options.rows_per_bar.is_some_and(|rows| !(1..=300).contains(&rows)) {
        return Err(SimulatorError::BadOption("rows per bar must be 1 to 300"));
    }
    if options.ticks_per_bar.is_some_and(|ticks| !(1..=TICKS_PER_BAR_MAX).contains(&ticks)) {
        return Err(SimulatorError::BadOption("ticks per bar must be 1 to 1200"));
    }
    let built = build_market(&options)?;
    if let Some((entry, pair)) = options.faults.unknown_pair(built.market.pairs()) {
        return Err(SimulatorError::NoMarket { entry, pair });
    }
    if let (None, Some(entry)) = (options.second_listen, options.faults.second_address()) {
        return Err(SimulatorError::NoSecondAddress { entry });
    }
    let end = options.end.or(built.end);
    let shared = Arc::new(share(&options, built));
    let served = shared.market.pairs().len();
    let seeded = matches!(shared.market, Market::Seeded(_));
    let gate = Gate::new(options.speed, options.wait_for_items, served, seeded);

    let (mut doors, mut keepers) = (Vec::new(), Vec::new());
    for address in [Some(options.listen), options.second_listen].into_iter().flatten() {
        let (server, address) =
            door::listen(address, &shared).map_err(|source| SimulatorError::Listen { address, source })?;
        let door = Arc::new(Door::new(address));
        doors.push(Arc::clone(&door));
        keepers.push(actix_rt::spawn(door::keep(door, Arc::clone(&shared), server)));
    }
    if let (None, Some(second)) = (&options.control_link, doors.get(1)) {
        shared.feed().set_control_link(Some(second.address.to_string()));
    }
    shared.doors.set(doors).expect("they are set once");

    let driver = actix_rt::Arbiter::new();
    driver.spawn(driver::drive(Arc::clone(&shared), options.speed, gate, end));
    Ok(Simulator { end, shared, keepers, driver })
}

struct Built {
    market: Market,
    start: Timestamp,
    end: Option<Timestamp>,
    rows_per_bar: u32,
}

fn build_market(options: &Options) -> Result<Built, SimulatorError> {
    match &options.market {
        MarketOptions::Seeded { seed, start } => {
            let default = match options.speed {
                Speed::Times(1.0) => clock::wall(),
                _ => SEEDED_START,
            };
            let start = start.unwrap_or(default);
            let rows_per_bar = options.rows_per_bar.unwrap_or(ROWS_PER_BAR_SEEDED);
            let market = SeededMarket::new(*seed).with_ticks(options.ticks_per_bar);
            Ok(Built { market: Market::Seeded(market), start, end: None, rows_per_bar })
        }
        MarketOptions::Replay { dir, from, to, spread_pips } => {
            if !(0.0..=SPREAD_PIPS_MAX).contains(spread_pips) {
                return Err(SimulatorError::BadOption("the spread must be 0 to 1000 pips"));
            }
            let rows_per_bar = options.rows_per_bar.unwrap_or(ROWS_PER_BAR_REPLAY);
            let before = to.unwrap_or(Timestamp(i64::MAX));
            let spread_points = (spread_pips * POINTS_PER_PIP).round() as i32;
            let replay = ReplayMarket::load(dir, before, spread_points, rows_per_bar)?;
            let recorded = replay.span();
            let start = from.unwrap_or(recorded.start);
            let end = Some(to.unwrap_or(recorded.end));
            Ok(Built { market: Market::Replay(Arc::new(replay)), start, end, rows_per_bar })
        }
    }
}

fn share(options: &Options, built: Built) -> Shared {
    let listing = Listing::new(built.market.pairs(), &options.in_points);
    let settings = FeedSettings {
        rows_per_bar: built.rows_per_bar,
        unfiltered: options.unfiltered,
        max_tlcp_version: options.max_tlcp_version,
        keepalive_ms: options.keepalive_ms,
        control_link: options.control_link.clone(),
        recovery_bytes: options.recovery_bytes,
        unbound_for: options.unbound_for,
    };
    let feed = Feed::new(built.market.clone(), listing.clone(), settings, built.start);
    let desk = Desk::new(
        options.credentials.clone(),
        options.token_lifetimes,
        options.requests_per_minute,
        options.speed,
        options.allowance,
        fastrand::u64(..),
    );
    Shared {
        market: built.market,
        listing: Mutex::new(listing),
        zones: Zones {
            offset_hours: options.timezone_offset_hours,
            change: options.timezone_change,
            requests: options.request_zone,
        },
        access_token_s: options.token_lifetimes.access.as_secs(),
        in_real_time: options.speed == Speed::Times(1.0),
        feed: Mutex::new(feed),
        desk: Mutex::new(desk),
        refusing: Mutex::new(Refusing::Never),
        upgrades: Refusals::default(),
        http_streams: Refusals::default(),
        rest_faults: Mutex::default(),
        plan: Mutex::new(options.faults.plan(built.start)),
        now: AtomicI64::new(built.start.0),
        hold: AtomicI64::new(i64::MAX),
        rest_requests: AtomicU64::new(0),
        rest_refusals: AtomicU64::new(0),
        logins: AtomicU64::new(0),
        points_spent: AtomicU64::new(0),
        stopping: AtomicBool::new(false),
        doors: OnceLock::new(),
        wake: Notify::new(),
    }
}

impl Simulator {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.shared.doors()[0].address
    }

    /// Where else it listens.
    pub fn second_address(&self) -> Option<SocketAddr> {
        self.shared.doors().get(1).map(|door| door.address)
    }

    /// Base address of the REST API, as `ig.api_url` takes it.
    pub fn api_url(&self) -> String {
        format!("http://{}{}", self.address(), rest::BASE_PATH)
    }

    /// Virtual time.
    pub fn now(&self) -> Timestamp {
        self.shared.now()
    }

    /// Whether virtual time has reached its end.
    pub fn has_ended(&self) -> bool {
        self.end.is_some_and(|end| self.now() >= end)
    }

    /// What really happened.
    pub fn truth(&self) -> Truth {
        Truth { market: self.shared.market.clone() }
    }

    /// The means to make things go wrong.
    pub fn control(&self) -> Control {
        Control::new(Arc::clone(&self.shared))
    }

    /// Totals since the start.
    pub fn stats(&self) -> Stats {
        let feed = self.shared.feed();
        let totals = feed.totals();
        Stats {
            rows: totals.rows,
            sessions: totals.sessions,
            stream_requests: totals.requests,
            stream_refusals: totals.refusals,
            items: feed.items(),
            rest_requests: self.shared.rest_requests.load(Ordering::Relaxed),
            rest_refusals: self.shared.rest_refusals.load(Ordering::Relaxed),
            logins: self.shared.logins.load(Ordering::Relaxed),
            points_spent: self.shared.points_spent.load(Ordering::Relaxed),
        }
    }

    /// Identifier of each living Lightstreamer session and how many data notifications it was
    /// sent, as a recovery counts them.
    pub fn stream_sessions(&self) -> Vec<(String, u64)> {
        self.shared.feed().data_lines()
    }

    /// The latest requests on streams, at most ten thousand.
    pub fn stream_requests(&self) -> Vec<Received> {
        self.shared.feed().received()
    }

    /// Closes every socket, stops virtual time and frees the port.
    pub async fn stop(mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.cut(Cut::Drop, true);
        for (door, keeper) in self.shared.doors().iter().zip(std::mem::take(&mut self.keepers)) {
            door.end();
            if keeper.await.is_err() {
                log::warn!("the keeper of {} has failed", door.address);
            }
        }
        self.driver.stop();
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.wake.notify_one();
        self.driver.stop();
    }
}

#[cfg(test)]
mod tests;
