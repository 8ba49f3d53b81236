//! The Lightstreamer server without its sockets: sessions, subscriptions, and the rows that
//! virtual time brings.
//!
//! Requests come in as text, lines go out into each connection's [`Outbox`]. Time stands still
//! except in [`Feed::advance`], which moves it from event to event. No I/O, no clock.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use super::desk::{AccountType, Desk};
use super::listing::Listing;
use super::market::{BUCKET_S, Candle, Market, Tick};
use super::outbox::Outbox;
use super::tlcp::{Field, ItemState, Message, Params, Row, TlcpVersion, code, plain, write_line, write_row};
use crate::domain::{Pair, Timestamp};

/// Largest request in bytes, as IG announces it in `CONOK`.
pub(crate) const REQUEST_BYTES_MAX: usize = 50_000;
/// Items that one connection may subscribe to (IG's limit).
const ITEMS_MAX: usize = 40;
/// Shortest and longest keepalive a client may ask for, in milliseconds.
const KEEPALIVE_MS: std::ops::RangeInclusive<u64> = 500..=30_000;
/// Request ids remembered for the check that none comes twice; then the memory starts afresh.
const REQUEST_IDS_MAX: usize = 10_000;

/// What the server answers to a subscription that asks for `unfiltered` updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfiltered {
    /// `CONF` says `unfiltered`.
    Granted,
    /// `CONF` says `filtered` all the same.
    Ignored,
    /// The subscription is refused with code 26.
    Refused,
}

/// How the stream behaves.
#[derive(Clone, Debug)]
pub(crate) struct FeedSettings {
    pub rows_per_bar: u32,
    pub unfiltered: Unfiltered,
    pub max_tlcp_version: TlcpVersion,
    pub keepalive_ms: u64,
    pub control_link: Option<String>,
}

/// What the connection's task has to do after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reaction {
    Stay,
    /// Close the socket once what is in the outbox is sent.
    Close,
}

/// Ticks of one pair's current bucket, and how many of them time has passed.
#[derive(Debug)]
struct Tape {
    pair: Pair,
    bucket: Timestamp,
    ticks: Vec<Tick>,
    passed: usize,
}

/// One candle that moves: a pair's at one scale. Shared by all who subscribe to it.
#[derive(Debug)]
struct Series {
    tape: usize,
    length_s: i64,
    start: Timestamp,
    candle: Option<Candle>,
    /// Ticks came since the last row.
    stale: bool,
    watchers: usize,
    /// The row of the present step, if there is one.
    row: Option<Row>,
}

#[derive(Debug)]
struct Item {
    series: usize,
    decimals: usize,
    prefix: Vec<u8>,
    state: ItemState,
}

#[derive(Debug)]
struct Subscription {
    schema: Vec<Field>,
    unfiltered: bool,
    items: Vec<Item>,
}

/// A Lightstreamer session.
#[derive(Debug)]
struct Session {
    id: String,
    /// What its account may see; `None` for a client that named no user.
    account_type: Option<AccountType>,
    subscriptions: BTreeMap<u32, Subscription>,
    items: usize,
    highest_sub_id: u32,
    request_ids: HashSet<String>,
    /// Data notifications written since the session began, as a recovery counts them.
    data_lines: u64,
}

#[derive(Debug)]
struct Connection {
    version: TlcpVersion,
    client_ip: String,
    outbox: Arc<Outbox>,
    /// Lines of the current call, handed to the outbox at its end.
    lines: Vec<u8>,
    session: Option<Session>,
}

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FeedTotals {
    pub rows: u64,
    pub sessions: u64,
    pub requests: u64,
    pub refusals: u64,
}

/// The server's state.
#[derive(Debug)]
pub(crate) struct Feed {
    market: Market,
    listing: Listing,
    settings: FeedSettings,
    now: Timestamp,
    tapes: Vec<Tape>,
    series: Vec<Series>,
    connections: BTreeMap<u64, Connection>,
    connections_made: u64,
    /// Seconds of a bucket, 1 to 300, at which a row may be due.
    stops: Vec<u16>,
    totals: FeedTotals,
}

impl Feed {
    pub fn new(market: Market, listing: Listing, settings: FeedSettings, start: Timestamp) -> Feed {
        let mut feed = Feed {
            market,
            listing,
            settings,
            now: start,
            tapes: Vec::new(),
            series: Vec::new(),
            connections: BTreeMap::new(),
            connections_made: 0,
            stops: Vec::new(),
            totals: FeedTotals::default(),
        };
        feed.plan_stops();
        feed
    }

    /// Virtual time.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    pub fn totals(&self) -> FeedTotals {
        self.totals
    }

    /// Items that are subscribed to, over all connections.
    pub fn items(&self) -> usize {
        self.sessions().map(|session| session.items).sum()
    }

    /// Data notifications that each living session has been sent.
    pub fn data_lines(&self) -> Vec<(String, u64)> {
        self.sessions().map(|session| (session.id.clone(), session.data_lines)).collect()
    }

    /// The sockets that rows go to.
    pub fn outboxes(&self) -> Vec<Arc<Outbox>> {
        self.connections.values().map(|connection| Arc::clone(&connection.outbox)).collect()
    }

    fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.connections.values().filter_map(|connection| connection.session.as_ref())
    }

    // ---- connections ----

    /// A socket was opened; the returned number names it from now on.
    pub fn connect(&mut self, version: TlcpVersion, client_ip: String, outbox: Arc<Outbox>) -> u64 {
        self.connections_made += 1;
        let connection = Connection { version, client_ip, outbox, lines: Vec::new(), session: None };
        self.connections.insert(self.connections_made, connection);
        self.connections_made
    }

    /// A socket is gone, and its session with it.
    pub fn disconnect(&mut self, id: u64) {
        if let Some(session) = self.connections.remove(&id).and_then(|connection| connection.session) {
            self.forget(session);
        }
    }

    /// Every socket is dropped without a word and every session forgotten.
    pub fn cut(&mut self) {
        for id in self.connections.keys().copied().collect::<Vec<_>>() {
            if let Some(connection) = self.connections.get(&id) {
                connection.outbox.cut();
            }
            self.disconnect(id);
        }
    }

    /// Handles one message of a client.
    pub fn receive(&mut self, id: u64, text: &str, desk: &mut Desk, real: Instant) -> Reaction {
        // Taken out while it is worked on, so that the rest of the feed can be changed.
        let Some(mut connection) = self.connections.remove(&id) else { return Reaction::Close };
        self.totals.requests += 1;
        let reaction = self.answer(&mut connection, text, desk, real);
        connection.outbox.push(&mut connection.lines);
        self.connections.insert(id, connection);
        reaction
    }

    fn answer(
        &mut self,
        connection: &mut Connection,
        text: &str,
        desk: &mut Desk,
        real: Instant,
    ) -> Reaction {
        if text.len() > REQUEST_BYTES_MAX {
            return self.error(connection, code::MALFORMED, "Request too large");
        }
        let message = Message::parse(text);
        match message.name {
            "wsok" if message.lines.is_empty() => write_line(&mut connection.lines, format_args!("WSOK")),
            "heartbeat" => {}
            "create_session" => return self.create_session(connection, &message, desk, real),
            "bind_session" => {
                let text = "Session not found";
                write_line(&mut connection.lines, format_args!("CONERR,{},{text}", code::SESSION_UNKNOWN));
                self.totals.refusals += 1;
            }
            "control" => {
                for line in &message.lines {
                    if self.control(connection, line) == Reaction::Close {
                        return Reaction::Close;
                    }
                }
            }
            _ => return self.error(connection, code::MALFORMED, "Unknown request"),
        }
        Reaction::Stay
    }

    /// A request that names no id to answer to.
    fn error(&mut self, connection: &mut Connection, code: i32, text: &str) -> Reaction {
        self.totals.refusals += 1;
        write_line(&mut connection.lines, format_args!("ERROR,{code},{}", plain(text)));
        Reaction::Stay
    }

    fn create_session(
        &mut self,
        connection: &mut Connection,
        message: &Message<'_>,
        desk: &mut Desk,
        real: Instant,
    ) -> Reaction {
        match self.check_create(connection, message, desk, real) {
            Ok((session, params)) => {
                let keepalive_ms = params
                    .get("LS_keepalive_millis")
                    .and_then(|wish| wish.parse().ok())
                    .map_or(self.settings.keepalive_ms, |wish: u64| {
                        wish.clamp(*KEEPALIVE_MS.start(), *KEEPALIVE_MS.end())
                    });
                let link = self.settings.control_link.as_deref().unwrap_or("*");
                let lines = &mut connection.lines;
                let id = &session.id;
                write_line(lines, format_args!("CONOK,{id},{REQUEST_BYTES_MAX},{keepalive_ms},{link}"));
                if !params.is_true("LS_reduce_head") {
                    write_line(lines, format_args!("SERVNAME,Simulated Lightstreamer Server"));
                    write_line(lines, format_args!("CLIENTIP,{}", connection.client_ip));
                    write_line(lines, format_args!("CONS,unlimited"));
                }
                connection.outbox.bind(keepalive_ms, !params.is_false("LS_send_sync"));
                connection.session = Some(session);
                self.totals.sessions += 1;
                Reaction::Stay
            }
            Err((code, text)) => {
                self.totals.refusals += 1;
                write_line(&mut connection.lines, format_args!("CONERR,{code},{}", plain(&text)));
                // A server that refuses a session also ends the connection it came on.
                Reaction::Close
            }
        }
    }

    fn check_create(
        &mut self,
        connection: &Connection,
        message: &Message<'_>,
        desk: &mut Desk,
        real: Instant,
    ) -> Result<(Session, Params), (i32, String)> {
        let refuse = |code: i32, text: &str| (code, text.to_owned());
        if connection.version > self.settings.max_tlcp_version {
            let text = format!("Unsupported protocol version: {}", connection.version);
            return Err((code::BAD_VALUE, text));
        }
        if connection.session.is_some() {
            return Err(refuse(code::ALREADY_STREAMING, "Streaming already in place on this socket"));
        }
        let [line] = message.lines[..] else {
            return Err(refuse(code::MALFORMED, "One parameter line expected"));
        };
        let params = Params::parse(line).map_err(|error| (code::MALFORMED, error.to_string()))?;
        if params.get("LS_cid").is_none_or(str::is_empty) {
            return Err(refuse(code::MALFORMED, "Missing LS_cid"));
        }
        let account_type = match params.get("LS_user").filter(|user| !user.is_empty()) {
            None => None,
            Some(user) => {
                let password = params.get("LS_password").unwrap_or_default();
                let account = desk
                    .stream_login(user, password, real)
                    .ok_or_else(|| refuse(code::CREDENTIALS, "User/password check failed"))?;
                Some(desk.accounts()[account].account_type)
            }
        };
        let session = Session {
            id: format!("S{:08x}T{}", desk.random_number(), self.connections_made),
            account_type,
            subscriptions: BTreeMap::new(),
            items: 0,
            highest_sub_id: 0,
            request_ids: HashSet::new(),
            data_lines: 0,
        };
        Ok((session, params))
    }

    // ---- control requests ----

    fn control(&mut self, connection: &mut Connection, line: &str) -> Reaction {
        let params = match Params::parse(line) {
            Ok(params) => params,
            Err(error) => return self.error(connection, code::MALFORMED, &error.to_string()),
        };
        let valid = |id: &&str| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let Some(request) = params.get("LS_reqId").filter(valid) else {
            return self.error(connection, code::MALFORMED, "Missing or bad LS_reqId");
        };
        let Some(mut session) = connection.session.take() else {
            self.refuse(&mut connection.lines, request, code::SESSION_UNKNOWN, "Session not found");
            return Reaction::Stay;
        };
        let outcome = self.control_session(&mut session, &mut connection.lines, &params, request);
        match outcome {
            Ok(Reaction::Stay) => connection.session = Some(session),
            Ok(Reaction::Close) => {
                self.forget(session);
                connection.outbox.unbind();
                if params.is_true("LS_close_socket") {
                    return Reaction::Close;
                }
            }
            Err((code, text)) => {
                connection.session = Some(session);
                self.refuse(&mut connection.lines, request, code, &text);
            }
        }
        Reaction::Stay
    }

    fn refuse(&mut self, lines: &mut Vec<u8>, request: &str, code: i32, text: &str) {
        self.totals.refusals += 1;
        write_line(lines, format_args!("REQERR,{request},{code},{}", plain(text)));
    }

    /// Carries out one control request. `Close` means that the session has ended.
    fn control_session(
        &mut self,
        session: &mut Session,
        lines: &mut Vec<u8>,
        params: &Params,
        request: &str,
    ) -> Result<Reaction, (i32, String)> {
        if params.get("LS_session").is_some_and(|id| id != session.id) {
            return Err((code::SESSION_UNKNOWN, "Session not found".to_owned()));
        }
        if session.request_ids.len() >= REQUEST_IDS_MAX {
            session.request_ids.clear();
        }
        if !session.request_ids.insert(request.to_owned()) {
            return Err((code::BAD_VALUE, "LS_reqId already used".to_owned()));
        }
        match params.get("LS_op") {
            Some("add") => self.add(session, lines, params, request)?,
            Some("delete") => {
                let (sub_id, subscription) = find_subscription(session, params)?;
                let items = subscription.items.len();
                if let Some(subscription) = session.subscriptions.remove(&sub_id) {
                    session.items -= items;
                    self.unwatch(&subscription);
                }
                acknowledge(lines, params, request);
                write_line(lines, format_args!("UNSUB,{sub_id}"));
                session.data_lines += 1;
            }
            Some("reconf") => {
                let (sub_id, subscription) = find_subscription(session, params)?;
                if subscription.unfiltered {
                    return Err((code::RECONF_UNFILTERED, "Subscription is unfiltered".to_owned()));
                }
                let frequency = frequency(params)?;
                acknowledge(lines, params, request);
                write_line(lines, format_args!("CONF,{sub_id},{frequency},filtered"));
                session.data_lines += 1;
            }
            Some("constrain") => {
                acknowledge(lines, params, request);
                write_line(lines, format_args!("CONS,unlimited"));
            }
            Some("destroy") => {
                acknowledge(lines, params, request);
                let code = params.get("LS_cause_code").and_then(|code| code.parse().ok());
                let text = params.get("LS_cause_message").unwrap_or("Session closed by the client");
                let code: i32 = code.filter(|code| *code <= 0).unwrap_or(code::DESTROYED);
                write_line(lines, format_args!("END,{code},{}", plain(text)));
                return Ok(Reaction::Close);
            }
            Some(other) => return Err((code::BAD_VALUE, format!("Unsupported LS_op {other:.40}"))),
            None => return Err((code::BAD_VALUE, "Missing LS_op".to_owned())),
        }
        Ok(Reaction::Stay)
    }

    fn add(
        &mut self,
        session: &mut Session,
        lines: &mut Vec<u8>,
        params: &Params,
        request: &str,
    ) -> Result<(), (i32, String)> {
        let refuse = |code: i32, text: &str| (code, text.to_owned());
        let sub_id = sub_id(params)?;
        if sub_id <= session.highest_sub_id {
            return Err(refuse(code::BAD_VALUE, "LS_subId must grow"));
        }
        let mode = params.get("LS_mode").ok_or_else(|| refuse(code::BAD_VALUE, "Missing LS_mode"))?;
        let schema = params.get("LS_schema").unwrap_or_default();
        let schema: Vec<Field> = schema
            .split(' ')
            .map(|name| Field::named(name).ok_or_else(|| refuse(code::BAD_SCHEMA, "Invalid schema")))
            .collect::<Result<_, _>>()?;
        let group: Vec<&str> = params.get("LS_group").unwrap_or_default().split(' ').collect();
        if !matches!(params.get("LS_data_adapter"), None | Some("DEFAULT")) {
            return Err(refuse(code::BAD_DATA_ADAPTER, "Data Adapter not found"));
        }
        let snapshot = match params.get("LS_snapshot") {
            Some("true") => true,
            None | Some("false") => false,
            Some(_) => return Err(refuse(code::BAD_VALUE, "Bad LS_snapshot")),
        };
        let account_type =
            session.account_type.ok_or_else(|| refuse(code::ADAPTER, "Invalid account type"))?;
        let wanted = group
            .iter()
            .map(|item| self.check_item(item, mode, account_type))
            .collect::<Result<Vec<_>, _>>()?;
        if session.items + wanted.len() > ITEMS_MAX {
            return Err(refuse(code::ADAPTER, "Subscription limit exceeded"));
        }
        let wants_unfiltered = params.get("LS_requested_max_frequency") == Some("unfiltered");
        let unfiltered = match (wants_unfiltered, self.settings.unfiltered) {
            (true, Unfiltered::Refused) => {
                return Err(refuse(code::UNFILTERED_REFUSED, "Unfiltered dispatching not allowed"));
            }
            (wants, setting) => wants && setting == Unfiltered::Granted,
        };
        let frequency = if wants_unfiltered { "unlimited".to_owned() } else { frequency(params)? };

        acknowledge(lines, params, request);
        write_line(lines, format_args!("SUBOK,{sub_id},{},{}", wanted.len(), schema.len()));
        let filtered = if unfiltered { "unfiltered" } else { "filtered" };
        write_line(lines, format_args!("CONF,{sub_id},{frequency},{filtered}"));
        session.data_lines += 2;

        self.pass_ticks(self.now);
        let mut items: Vec<Item> = Vec::with_capacity(wanted.len());
        for (place, (pair, length_s, decimals)) in wanted.into_iter().enumerate() {
            let series = self.watch(pair, length_s);
            let prefix = format!("U,{sub_id},{},", place + 1).into_bytes();
            let mut item = Item { series, decimals, prefix, state: ItemState::default() };
            // An item without a price yet has no snapshot; its first update will look like one.
            if snapshot && let Some(row) = self.series[series].forming_row() {
                write_row(lines, &item.prefix, &schema, &row, decimals, &mut item.state);
                session.data_lines += 1;
                self.totals.rows += 1;
            }
            items.push(item);
        }
        session.highest_sub_id = sub_id;
        session.items += items.len();
        session.subscriptions.insert(sub_id, Subscription { schema, unfiltered, items });
        self.plan_stops();
        Ok(())
    }

    /// Pair, candle length in seconds, and decimals of an item that may be subscribed to.
    fn check_item(
        &self,
        item: &str,
        mode: &str,
        account: AccountType,
    ) -> Result<(Pair, i64, usize), (i32, String)> {
        let bad_group = || (code::BAD_GROUP, "Invalid group".to_owned());
        let mut parts = item.split(':');
        let (Some("CHART"), Some(epic), Some(scale), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad_group());
        };
        let instrument = self.listing.find(epic).ok_or_else(bad_group)?;
        let length_s = match scale {
            "SECOND" => 1,
            "1MINUTE" => 60,
            "5MINUTE" => BUCKET_S,
            "HOUR" => 3600,
            // Single ticks come in DISTINCT mode, which the simulator does not serve.
            "TICK" if mode == "MERGE" => {
                return Err((code::BAD_MODE, "Invalid mode for these items".to_owned()));
            }
            _ => return Err(bad_group()),
        };
        if mode != "MERGE" {
            return Err((code::BAD_MODE, "Invalid mode for these items".to_owned()));
        }
        if !instrument.product.seen_by(account) {
            return Err((code::ADAPTER, "Invalid account type".to_owned()));
        }
        Ok((instrument.pair, length_s, instrument.decimals))
    }

    /// The series of a pair at a scale, standing where time stands.
    fn watch(&mut self, pair: Pair, length_s: i64) -> usize {
        let tape = match self.tapes.iter().position(|tape| tape.pair == pair) {
            Some(tape) => tape,
            None => {
                self.tapes.push(Tape { pair, bucket: Timestamp(i64::MIN), ticks: Vec::new(), passed: 0 });
                self.tapes.len() - 1
            }
        };
        self.wind(tape);
        let known = self.series.iter().position(|one| one.tape == tape && one.length_s == length_s);
        let place = known.unwrap_or_else(|| {
            let start = Timestamp(i64::MIN);
            let (candle, stale, watchers, row) = (None, false, 0, None);
            self.series.push(Series { tape, length_s, start, candle, stale, watchers, row });
            self.series.len() - 1
        });
        let series = &mut self.series[place];
        if series.watchers == 0 {
            series.start = self.now.floor(length_s);
            series.candle = self.market.candle(pair, series.start, self.now);
            series.stale = false;
        }
        series.watchers += 1;
        place
    }

    /// Brings a tape that may have lain unused to the present bucket and second.
    fn wind(&mut self, tape: usize) {
        let tape = &mut self.tapes[tape];
        let bucket = self.now.floor(BUCKET_S);
        if tape.bucket != bucket {
            tape.bucket = bucket;
            self.market.ticks(tape.pair, bucket, &mut tape.ticks);
            let elapsed = self.now.since(bucket);
            tape.passed = tape.ticks.partition_point(|tick| i64::from(tick.offset_s) < elapsed);
        }
    }

    fn forget(&mut self, session: Session) {
        for subscription in session.subscriptions.values() {
            self.unwatch(subscription);
        }
    }

    fn unwatch(&mut self, subscription: &Subscription) {
        for item in &subscription.items {
            self.series[item.series].watchers -= 1;
        }
        self.plan_stops();
    }

    // ---- time ----

    /// Moves time towards `until`, event by event, writing the rows that it brings. Returns early
    /// once a connection has `bytes_max` waiting or `events_max` events have passed.
    pub fn advance(&mut self, until: Timestamp, bytes_max: usize, events_max: usize) {
        for _ in 0..events_max {
            let next = self.next_stop();
            if next > until {
                // Nothing happens before `until`: time may pass without a row.
                self.now = self.now.max(until);
                break;
            }
            self.step(next);
            if self.connections.values().any(|connection| connection.lines.len() >= bytes_max) {
                break;
            }
        }
        for connection in self.connections.values_mut() {
            connection.outbox.push(&mut connection.lines);
        }
    }

    /// The next second at which a row may be due or a bucket begins.
    fn next_stop(&self) -> Timestamp {
        let bucket = self.now.floor(BUCKET_S);
        let elapsed = self.now.since(bucket) as u16;
        let place = self.stops.partition_point(|stop| *stop <= elapsed);
        bucket.plus(self.stops.get(place).map_or(BUCKET_S, |stop| i64::from(*stop)))
    }

    /// Seconds at which anything can be due: the grid of rows, and the ends of watched candles.
    fn plan_stops(&mut self) {
        let rows = i64::from(self.settings.rows_per_bar).clamp(1, BUCKET_S);
        let mut stops: Vec<i64> = vec![BUCKET_S];
        let watched = || self.series.iter().filter(|series| series.watchers > 0);
        if watched().next().is_some() {
            stops.extend((1..rows).map(|row| row * BUCKET_S / rows));
        }
        for series in watched().filter(|series| series.length_s < BUCKET_S) {
            stops.extend((1..BUCKET_S).filter(|second| second % series.length_s == 0));
        }
        stops.sort_unstable();
        stops.dedup();
        self.stops = stops.into_iter().map(|stop| stop as u16).collect();
    }

    /// Moves time to `next`, a stop, and tells what happened.
    fn step(&mut self, next: Timestamp) {
        self.pass_ticks(next);
        self.now = next;
        self.make_rows();
        self.tell_rows();
        if next.floor(BUCKET_S) == next {
            for tape in 0..self.tapes.len() {
                if self.series.iter().any(|series| series.tape == tape && series.watchers > 0) {
                    self.wind(tape);
                }
            }
        }
    }

    /// Takes the ticks before `until`, at most the end of the present bucket, into their candles.
    fn pass_ticks(&mut self, until: Timestamp) {
        for series in self.series.iter_mut().filter(|series| series.watchers > 0) {
            let tape = &self.tapes[series.tape];
            let elapsed = until.since(tape.bucket);
            let new = tape.ticks[tape.passed..].iter().take_while(|tick| i64::from(tick.offset_s) < elapsed);
            for tick in new {
                Candle::fold(&mut series.candle, tick);
                series.stale = true;
            }
        }
        for tape in &mut self.tapes {
            let elapsed = until.since(tape.bucket);
            tape.passed += tape.ticks[tape.passed..]
                .iter()
                .take_while(|tick| i64::from(tick.offset_s) < elapsed)
                .count();
        }
    }

    /// Works out each watched series' row for the present second: the closing one at a candle's
    /// end, else a forming one where ticks came.
    fn make_rows(&mut self) {
        let now = self.now;
        for series in self.series.iter_mut().filter(|series| series.watchers > 0) {
            series.row = if now.floor(series.length_s) == now {
                let closed = series.candle.take().map(|candle| row_of(series.start, &candle, true));
                series.start = now;
                series.stale = false;
                closed
            } else if std::mem::take(&mut series.stale) {
                series.forming_row()
            } else {
                None
            };
        }
    }

    fn tell_rows(&mut self) {
        for connection in self.connections.values_mut() {
            let Some(session) = &mut connection.session else { continue };
            let lines = &mut connection.lines;
            let mut told = 0;
            for subscription in session.subscriptions.values_mut() {
                let schema = &subscription.schema;
                for item in &mut subscription.items {
                    let Some(row) = &self.series[item.series].row else { continue };
                    told += u64::from(write_row(
                        lines,
                        &item.prefix,
                        schema,
                        row,
                        item.decimals,
                        &mut item.state,
                    ));
                }
            }
            session.data_lines += told;
            self.totals.rows += told;
        }
    }
}

impl Series {
    fn forming_row(&self) -> Option<Row> {
        self.candle.as_ref().map(|candle| row_of(self.start, candle, false))
    }
}

fn row_of(start: Timestamp, candle: &Candle, closed: bool) -> Row {
    let (bid, ask) = (&candle.bid, &candle.ask);
    let price = |points: i32| i64::from(points);
    // In the order of `Field`.
    [
        start.0 * 1000,
        i64::from(closed),
        i64::from(candle.ticks),
        price(bid.open),
        price(bid.high),
        price(bid.low),
        price(bid.close),
        price(ask.open),
        price(ask.high),
        price(ask.low),
        price(ask.close),
    ]
}

fn acknowledge(lines: &mut Vec<u8>, params: &Params, request: &str) {
    if !params.is_false("LS_ack") {
        write_line(lines, format_args!("REQOK,{request}"));
    }
}

fn sub_id(params: &Params) -> Result<u32, (i32, String)> {
    params
        .get("LS_subId")
        .and_then(|id| id.parse().ok())
        .filter(|id| *id > 0)
        .ok_or_else(|| (code::BAD_VALUE, "Missing or bad LS_subId".to_owned()))
}

fn find_subscription<'a>(
    session: &'a Session,
    params: &Params,
) -> Result<(u32, &'a Subscription), (i32, String)> {
    let id = sub_id(params)?;
    let unknown = || (code::SUBSCRIPTION_UNKNOWN, "Subscription not found".to_owned());
    session.subscriptions.get(&id).map(|subscription| (id, subscription)).ok_or_else(unknown)
}

/// The frequency that `CONF` confirms: the wish, since rows are rarer than any sensible one.
fn frequency(params: &Params) -> Result<String, (i32, String)> {
    match params.get("LS_requested_max_frequency") {
        None | Some("unlimited") => Ok("unlimited".to_owned()),
        Some(wish) => match wish.parse::<f64>() {
            Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(wish.to_owned()),
            _ => Err((code::BAD_VALUE, "Bad LS_requested_max_frequency".to_owned())),
        },
    }
}
