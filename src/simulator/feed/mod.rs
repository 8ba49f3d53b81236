//! The Lightstreamer server without its sockets: sessions, subscriptions, and the rows that
//! virtual time brings.
//!
//! Requests come in as text, lines go out into each connection's [`Outbox`]. A session outlives
//! the connection it is bound to: what it was sent is kept, and what it would have been sent
//! waits. Virtual time stands still except in [`Feed::advance`], which moves it from event to
//! event; real time is an argument. No I/O, no clock.

mod candles;
mod control;
mod mischief;
mod session;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::desk::Desk;
use super::faults::Withheld;
use super::listing::Listing;
use super::market::Market;
#[cfg(test)]
use super::outbox::Parcel;
use super::outbox::{Framing, Outbox, Severed, Upkeep};
use super::tlcp::{Message, Params, TlcpVersion, code, is_data, plain, write_line};
use crate::domain::{Pair, Timestamp};
use candles::Candles;
use mischief::Mischief;
pub(crate) use mischief::Spell;
use session::{Item, Session};

/// Largest request in bytes, as IG announces it in `CONOK`.
pub(crate) const REQUEST_BYTES_MAX: usize = 50_000;
/// Shortest and longest keepalive a client may ask for, in milliseconds.
const KEEPALIVE_MS: std::ops::RangeInclusive<u64> = 500..=30_000;
/// Sessions that may live unbound at a time; the oldest go first.
const UNBOUND_MAX: usize = 100;
/// Requests that are remembered for those who ask what came.
const RECEIVED_MAX: usize = 10_000;
/// Longest wait of a polling client for data, in milliseconds.
const IDLE_MS_MAX: u64 = 30_000;
/// What ends a stream whose content length is used up.
const LOOP_AT_ONCE: &[u8] = b"LOOP,0\r\n";
/// The one identifier that self-made clients may use.
const OWN_CLIENT_ID: &str = "mgQkwtwdysogQz2BJ4Ji kOj2Bg";
/// What creates, but does not bind, a session.
const CREATE_ONLY: [&str; 7] = [
    "LS_cid",
    "LS_user",
    "LS_password",
    "LS_adapter_set",
    "LS_requested_max_bandwidth",
    "LS_supported_diffs",
    "LS_ttl_millis",
];
/// What has no place on a connection that polls, and what has none on one that does not.
const STREAMING_ONLY: [&str; 4] =
    ["LS_inactivity_millis", "LS_keepalive_millis", "LS_send_sync", "LS_content_length"];
const POLLING_ONLY: [&str; 2] = ["LS_polling_millis", "LS_idle_millis"];

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
    /// Bytes of sent data lines that a session keeps.
    pub recovery_bytes: usize,
    /// How long a session lives unbound, in real time.
    pub unbound_for: Duration,
}

/// What the connection's task has to do after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reaction {
    Stay,
    /// Close the socket once what is in the outbox is sent.
    Close,
}

/// Code and text of a refusal.
type Refused = (i32, String);

fn refuse(code: i32, text: &str) -> Refused {
    (code, text.to_owned())
}

/// What a session's lines go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// Lives on when the session leaves it.
    WebSocket,
    /// An HTTP response, which ends with the session's stay.
    Http,
}

/// The wishes of a client that asks again and again.
#[derive(Clone, Copy, Debug)]
struct Polling {
    /// Answered by then in any case.
    until: Instant,
    /// Told to come back after this.
    delay_ms: u64,
}

#[derive(Debug)]
struct Connection {
    version: TlcpVersion,
    client_ip: String,
    came_to: SocketAddr,
    transport: Transport,
    outbox: Arc<Outbox>,
    /// The session that is bound to it.
    session: Option<u64>,
    /// The session that was bound to it last: meant where a request names none.
    latest: Option<u64>,
    /// Bytes that it may still carry.
    budget: Option<u64>,
    polling: Option<Polling>,
}

/// Refusals that are to come, whoever asks.
#[derive(Debug, Default)]
struct Refusals {
    times: u32,
    code: i32,
    text: String,
}

impl Refusals {
    fn next(&mut self) -> Option<Refused> {
        self.times = self.times.checked_sub(1)?;
        Some((self.code, self.text.clone()))
    }
}

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FeedTotals {
    pub rows: u64,
    pub sessions: u64,
    pub requests: u64,
    pub refusals: u64,
}

/// A request that came on a stream's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Virtual time.
    pub at: Timestamp,
    /// Number of the connection, from 1 on; 0 for a request over HTTP beside a stream.
    pub connection: u64,
    /// Which of the simulator's addresses it came to.
    pub came_to: SocketAddr,
    /// Name and parameter lines as they came, but for the password.
    pub text: String,
}

/// The server's state.
#[derive(Debug)]
pub(crate) struct Feed {
    listing: Listing,
    settings: FeedSettings,
    candles: Candles,
    sessions: BTreeMap<u64, Session>,
    connections: BTreeMap<u64, Connection>,
    connections_made: u64,
    received: VecDeque<Received>,
    refused_creates: Refusals,
    refused_binds: Refusals,
    /// By pair.
    refused_items: BTreeMap<Pair, Refusals>,
    /// Lines that the next recovery sends although they were not asked for.
    resent_lines: u64,
    /// Lines that the next recovery claims to leave out.
    unsent_lines: u64,
    /// How many answers do not come: `WSOK`, and `CONOK`.
    withheld: [u32; 2],
    /// Snapshots that are to show the candle before.
    old_snapshots: u32,
    /// Pairs whose new subscriptions bring nothing until then.
    stalled: BTreeMap<Pair, Timestamp>,
    mischief: Mischief,
    framing: Framing,
    totals: FeedTotals,
}

impl Feed {
    pub fn new(market: Market, listing: Listing, settings: FeedSettings, start: Timestamp) -> Feed {
        Feed {
            listing,
            candles: Candles::new(market, settings.rows_per_bar, start),
            settings,
            sessions: BTreeMap::new(),
            connections: BTreeMap::new(),
            connections_made: 0,
            received: VecDeque::new(),
            refused_creates: Refusals::default(),
            refused_binds: Refusals::default(),
            refused_items: BTreeMap::new(),
            resent_lines: 0,
            unsent_lines: 0,
            withheld: [0; 2],
            old_snapshots: 0,
            stalled: BTreeMap::new(),
            mischief: Mischief::default(),
            framing: Framing::default(),
            totals: FeedTotals::default(),
        }
    }

    /// Virtual time.
    pub fn now(&self) -> Timestamp {
        self.candles.now()
    }

    pub fn totals(&self) -> FeedTotals {
        self.totals
    }

    /// Items that somebody listens to: those of all sessions that are bound to a connection.
    pub fn items(&self) -> usize {
        self.sessions.values().filter(|session| session.bound.is_some()).map(Session::items).sum()
    }

    /// Data notifications that each living session has been sent.
    pub fn data_lines(&self) -> Vec<(String, u64)> {
        self.sessions.values().map(|session| (session.id.clone(), session.sent.count())).collect()
    }

    /// The latest requests.
    pub fn received(&self) -> Vec<Received> {
        self.received.iter().cloned().collect()
    }

    /// The sockets that rows go to.
    pub fn outboxes(&self) -> Vec<Arc<Outbox>> {
        self.connections.values().map(|connection| Arc::clone(&connection.outbox)).collect()
    }

    /// What `CONOK` says from now on.
    pub fn set_control_link(&mut self, link: Option<String>) {
        self.settings.control_link = link;
    }

    /// The next so many `create_session` are refused.
    pub fn refuse_creates(&mut self, times: u32, code: i32, text: &str) {
        self.refused_creates = Refusals { times, code, text: text.to_owned() };
    }

    /// The next so many `bind_session` are refused, and the sessions they name forgotten.
    pub fn refuse_binds(&mut self, times: u32, code: i32, text: &str) {
        self.refused_binds = Refusals { times, code, text: text.to_owned() };
    }

    /// The next recovery begins so many lines before the one that it asks for.
    pub fn resend_at_next_recovery(&mut self, lines: u64) {
        self.resent_lines = lines;
    }

    /// The next recovery claims to begin so many lines after the one that it asks for.
    pub fn claim_too_much_at_next_recovery(&mut self, lines: u64) {
        self.unsent_lines = lines;
    }

    /// The next so many answers of a kind do not come.
    pub fn withhold(&mut self, what: Withheld, times: u32) {
        self.withheld[what as usize] = times;
    }

    /// Newer versions are refused from now on.
    pub fn set_max_tlcp_version(&mut self, version: TlcpVersion) {
        self.settings.max_tlcp_version = version;
    }

    /// How messages are cut from now on.
    pub fn set_framing(&mut self, framing: Framing) {
        self.framing = framing;
        for connection in self.connections.values() {
            connection.outbox.set_framing(framing);
        }
    }

    /// The next so many subscriptions of each of these pairs are refused.
    pub fn refuse_items(&mut self, pairs: &[Pair], times: u32, code: i32, text: &str) {
        for pair in pairs {
            self.refused_items.insert(*pair, Refusals { times, code, text: text.to_owned() });
        }
    }

    /// The next so many snapshots show the candle before.
    pub fn show_old_snapshots(&mut self, times: u32) {
        self.old_snapshots = times;
    }

    /// Nothing is told of these pairs before `until`, nor to new subscribers unless they are cured.
    /// A stall that ends later goes on.
    pub fn stall(&mut self, pairs: &[Pair], until: Timestamp, cured_by_subscribing: bool) {
        for item in self.every_item(pairs) {
            item.stalled_until = item.stalled_until.max(Some(until));
        }
        for pair in pairs.iter().filter(|_| !cured_by_subscribing) {
            let ends = self.stalled.entry(*pair).or_insert(until);
            *ends = until.max(*ends);
        }
    }

    /// Something happens to the next so many rows of each of these pairs.
    pub fn cast(&mut self, spell: Spell, pairs: &[Pair], rows: u32) {
        self.mischief.cast(spell, pairs, rows);
    }

    /// Prices of these pairs change their scale.
    pub fn set_scale(&mut self, pairs: &[Pair], in_points: bool) {
        self.listing.set_scale(pairs, in_points);
        for item in self.every_item(pairs) {
            item.rescale(Listing::decimals(item.pair, in_points));
        }
    }

    fn every_item(&mut self, pairs: &[Pair]) -> impl Iterator<Item = &mut Item> {
        let subscriptions = self.sessions.values_mut().flat_map(|session| session.subscriptions.values_mut());
        let items = subscriptions.flat_map(|subscription| &mut subscription.items);
        items.filter(|item| pairs.contains(&item.pair))
    }

    /// Whether an answer does not come, this time.
    fn withholds(&mut self, what: Withheld) -> bool {
        let left = &mut self.withheld[what as usize];
        let withholds = *left > 0;
        *left = left.saturating_sub(1);
        withholds
    }

    // ---- connections ----

    /// A connection was opened; the returned number names it from now on.
    pub fn connect(
        &mut self,
        transport: Transport,
        version: TlcpVersion,
        client_ip: String,
        came_to: SocketAddr,
        outbox: Arc<Outbox>,
    ) -> u64 {
        self.connections_made += 1;
        outbox.set_framing(self.framing);
        let (session, latest, budget, polling) = (None, None, None, None);
        let connection =
            Connection { version, client_ip, came_to, transport, outbox, session, latest, budget, polling };
        self.connections.insert(self.connections_made, connection);
        self.connections_made
    }

    /// A connection is gone. Its session lives on, unbound.
    pub fn disconnect(&mut self, id: u64, real: Instant) {
        if let Some(serial) = self.connections.remove(&id).and_then(|connection| connection.session)
            && let Some(session) = self.sessions.get_mut(&serial)
        {
            session.unbind(real);
        }
    }

    /// Every connection is dropped without a word. Sessions live on, unbound.
    pub fn cut(&mut self, how: Severed, real: Instant) {
        for id in self.connections.keys().copied().collect::<Vec<_>>() {
            self.connections[&id].outbox.sever(how);
            self.disconnect(id, real);
        }
    }

    /// Every WebSocket is closed with a close frame. Sessions live on, unbound.
    pub fn close(&mut self, close_code: u16, real: Instant) {
        for id in self.connections.keys().copied().collect::<Vec<_>>() {
            self.connections[&id].outbox.close_with(close_code);
            self.disconnect(id, real);
        }
    }

    /// Every connection goes silent both ways while its socket stays open. Sessions live on,
    /// unbound.
    pub fn half_open(&mut self, real: Instant) {
        for connection in self.connections.values_mut() {
            connection.outbox.mute();
            let serial = connection.session.take();
            if let Some(session) = serial.and_then(|serial| self.sessions.get_mut(&serial)) {
                session.unbind(real);
            }
        }
    }

    /// Every session is forgotten, without a word to its client.
    pub fn forget_sessions(&mut self) {
        for serial in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.forget(serial);
        }
    }

    /// Every bound session is unbound and its client told to come back after a delay.
    pub fn rebind_all(&mut self, delay_ms: u64, real: Instant) {
        for serial in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.unbind_with_loop(serial, delay_ms, real);
        }
    }

    /// Every session ends, and its client is told why.
    pub fn end_all(&mut self, code: i32, text: &str) {
        for serial in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.end(serial, code, text);
        }
    }

    /// Takes a request that came on a WebSocket.
    pub fn receive(&mut self, id: u64, text: &str, desk: &mut Desk, real: Instant) -> Reaction {
        let Some(connection) = self.connections.get(&id) else { return Reaction::Close };
        if connection.outbox.is_muted() {
            return Reaction::Stay;
        }
        let (latest, came_to) = (connection.latest, connection.came_to);
        self.note(id, came_to, text);
        if text.len() > REQUEST_BYTES_MAX {
            let error = self.error(code::MALFORMED, "Request too large");
            self.write_to(id, error);
            return Reaction::Stay;
        }
        let message = Message::parse(text);
        match message.name {
            "wsok" if message.lines.is_empty() => {
                if !self.withholds(Withheld::Wsok) {
                    self.write_to(id, line(format_args!("WSOK")));
                }
            }
            "heartbeat" => {}
            "create_session" | "bind_session" => return self.begin(id, &message, latest, desk, real),
            "control" => {
                for line in &message.lines {
                    let (answer, touched) = self.control(line, latest, Transport::WebSocket);
                    self.write_to(id, answer);
                    self.finish(touched, real);
                }
            }
            _ => {
                let error = self.error(code::MALFORMED, "Unknown request");
                self.write_to(id, error);
            }
        }
        Reaction::Stay
    }

    /// Takes a create or a bind that came over HTTP: the connection is its response.
    pub fn open(
        &mut self,
        id: u64,
        message: &Message<'_>,
        session: Option<&str>,
        desk: &mut Desk,
        real: Instant,
    ) {
        let came_to = self.connections[&id].came_to;
        self.note(id, came_to, &format!("{}\r\n{}", message.name, message.lines.join("\r\n")));
        let default = session.and_then(|name| self.find_session(Some(name), None));
        self.begin(id, message, default, desk, real);
    }

    /// Answers any other request that came over HTTP. What it leads to goes to the stream.
    pub fn answer(
        &mut self,
        message: &Message<'_>,
        session: Option<&str>,
        came_to: SocketAddr,
        real: Instant,
    ) -> Vec<u8> {
        // On its own connection, which is none of a stream's.
        self.note(0, came_to, &format!("{}\r\n{}", message.name, message.lines.join("\r\n")));
        let default = session.and_then(|name| self.find_session(Some(name), None));
        let size = message.lines.iter().map(|line| line.len() + 2).sum::<usize>();
        match message.name {
            _ if size > REQUEST_BYTES_MAX => self.error(code::MALFORMED, "Request too large"),
            "heartbeat" => line(format_args!("REQOK")),
            "control" if !message.lines.is_empty() => {
                let mut answers = Vec::new();
                for line in &message.lines {
                    let (answer, touched) = self.control(line, default, Transport::Http);
                    answers.extend(answer);
                    self.finish(touched, real);
                }
                answers
            }
            _ => self.error(code::MALFORMED, "Unknown request"),
        }
    }

    fn note(&mut self, connection: u64, came_to: SocketAddr, text: &str) {
        self.totals.requests += 1;
        if self.received.len() >= RECEIVED_MAX {
            self.received.pop_front();
        }
        let text = without_password(text);
        self.received.push_back(Received { at: self.now(), connection, came_to, text });
    }

    fn write_to(&self, id: u64, mut lines: Vec<u8>) {
        if let Some(connection) = self.connections.get(&id) {
            connection.outbox.push(&mut lines);
        }
    }

    /// A request that names no id to answer to.
    fn error(&mut self, code: i32, text: &str) -> Vec<u8> {
        self.totals.refusals += 1;
        line(format_args!("ERROR,{code},{}", plain(text)))
    }

    // ---- sessions ----

    /// Opens or binds a session on a connection.
    fn begin(
        &mut self,
        id: u64,
        message: &Message<'_>,
        latest: Option<u64>,
        desk: &mut Desk,
        real: Instant,
    ) -> Reaction {
        if self.withholds(Withheld::Conok) {
            return Reaction::Stay;
        }
        let creates = message.name == "create_session";
        let begun = Params::of(message)
            .map_err(|error| refuse(code::MALFORMED, &error.to_string()))
            .and_then(|params| {
                self.check_connection(id, &params)?;
                if creates {
                    self.create(id, &params, desk, real)
                } else {
                    self.bind(id, &params, latest, real)
                }
            });
        let Err((code, text)) = begun else { return Reaction::Stay };
        self.totals.refusals += 1;
        self.write_to(id, line(format_args!("CONERR,{code},{}", plain(&text))));
        let connection = &self.connections[&id];
        if connection.transport == Transport::Http {
            connection.outbox.close();
        }
        // A server that refuses a session also ends the connection it came on.
        if creates { Reaction::Close } else { Reaction::Stay }
    }

    fn check_connection(&self, id: u64, params: &Params) -> Result<(), Refused> {
        let connection = &self.connections[&id];
        if connection.version > self.settings.max_tlcp_version {
            let text = format!("Unsupported protocol version: {}", connection.version);
            return Err((code::BAD_VALUE, text));
        }
        if connection.session.is_some() {
            return Err(refuse(code::ALREADY_STREAMING, "Streaming already in place on this socket"));
        }
        let polls = params.is_true("LS_polling");
        let misplaced: &[&str] = if polls { &STREAMING_ONLY } else { &POLLING_ONLY };
        match misplaced.iter().find(|name| params.get(name).is_some()) {
            Some(name) => Err((code::MALFORMED, format!("Misplaced {name}"))),
            None => Ok(()),
        }
    }

    fn create(&mut self, id: u64, params: &Params, desk: &mut Desk, real: Instant) -> Result<(), Refused> {
        if let Some(refused) = self.refused_creates.next() {
            return Err(refused);
        }
        match params.get("LS_cid") {
            None | Some("") => return Err(refuse(code::MALFORMED, "Missing LS_cid")),
            // Official clients have others, which nobody publishes; the own one misspelt is found.
            Some(cid) if cid != OWN_CLIENT_ID && cid.starts_with(&OWN_CLIENT_ID[..4]) => {
                return Err(refuse(code::CLIENT_NOT_SUPPORTED, "Client type not supported"));
            }
            Some(_) => {}
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
        self.totals.sessions += 1;
        let serial = self.totals.sessions;
        let name = format!("S{:08x}T{serial}", desk.random_number());
        let session = Session::new(name, account_type, self.settings.recovery_bytes);
        self.sessions.insert(serial, session);
        self.settle_on(id, serial, params, real);
        self.flush(serial, real);
        Ok(())
    }

    fn bind(&mut self, id: u64, params: &Params, latest: Option<u64>, real: Instant) -> Result<(), Refused> {
        if let Some(name) = CREATE_ONLY.iter().find(|name| params.get(name).is_some()) {
            return Err((code::MALFORMED, format!("Misplaced {name}")));
        }
        let serial = self
            .find_session(params.get("LS_session"), latest)
            .ok_or_else(|| refuse(code::SESSION_UNKNOWN, "Session not found"))?;
        if let Some(refused) = self.refused_binds.next() {
            self.forget(serial);
            return Err(refused);
        }
        let session = &self.sessions[&serial];
        let recovers_from = match params.get("LS_recovery_from").map(str::parse::<u64>) {
            None => None,
            Some(Ok(number)) => Some(number),
            Some(Err(_)) => return Err(refuse(code::BAD_VALUE, "Bad LS_recovery_from")),
        };
        let from = match recovers_from {
            Some(number) => number.saturating_sub(std::mem::take(&mut self.resent_lines)),
            None => session.delivered,
        };
        let Some(parts) = session.sent.after(from) else {
            self.forget(serial);
            return Err(refuse(code::RECOVERY_IMPOSSIBLE, "Requested recovery point no longer available"));
        };
        let backlog = parts.concat();
        if let Some(elsewhere) = session.bound {
            self.write_to(elsewhere, line(format_args!("END,{},Session rebound elsewhere", code::REBOUND)));
            self.release(elsewhere);
        }
        self.settle_on(id, serial, params, real);
        let session = self.sessions.get_mut(&serial).expect("it was found above");
        if let Some(asked) = recovers_from {
            // Too much by what was asked for, also where lines are sent again: else the client could not notice.
            let unsent = std::mem::take(&mut self.unsent_lines);
            let claimed = if unsent > 0 { asked.saturating_add(unsent) } else { from };
            write_line(&mut session.lines, format_args!("PROG,{claimed}"));
        }
        session.lines.extend_from_slice(&backlog);
        session.delivered = from;
        self.flush(serial, real);
        Ok(())
    }

    /// The session of this name; where none is named, the default.
    fn find_session(&self, name: Option<&str>, default: Option<u64>) -> Option<u64> {
        match name {
            Some(name) => {
                self.sessions.iter().find(|(_, session)| session.id == name).map(|(serial, _)| *serial)
            }
            None => default.filter(|serial| self.sessions.contains_key(serial)),
        }
    }

    /// Binds a session to a connection and writes the head of its stay there.
    fn settle_on(&mut self, id: u64, serial: u64, params: &Params, real: Instant) {
        let connection = self.connections.get_mut(&id).expect("requests come on living connections");
        let session = self.sessions.get_mut(&serial).expect("it was just found or made");
        let millis = |name: &str| params.get(name).and_then(|wish| wish.parse::<u64>().ok());
        let polling = params.is_true("LS_polling").then(|| Polling {
            until: real + Duration::from_millis(millis("LS_idle_millis").unwrap_or(0).min(IDLE_MS_MAX)),
            delay_ms: millis("LS_polling_millis").unwrap_or(0),
        });
        let (silence_ms, upkeep) = match polling {
            Some(polling) => (polling.until.saturating_duration_since(real).as_millis() as u64, None),
            None => {
                let keepalive_ms = millis("LS_keepalive_millis").map_or(self.settings.keepalive_ms, |wish| {
                    wish.clamp(*KEEPALIVE_MS.start(), *KEEPALIVE_MS.end())
                });
                (keepalive_ms, Some(Upkeep { keepalive_ms, sync: !params.is_false("LS_send_sync") }))
            }
        };
        let lines = &mut session.lines;
        if connection.transport == Transport::Http {
            write_line(lines, format_args!("NOOP,{}", "sending data to fill the buffers of proxies"));
        }
        let link = self.settings.control_link.as_deref().unwrap_or("*");
        write_line(lines, format_args!("CONOK,{},{REQUEST_BYTES_MAX},{silence_ms},{link}", session.id));
        if !params.is_true("LS_reduce_head") {
            write_line(lines, format_args!("SERVNAME,Simulated Lightstreamer Server"));
            write_line(lines, format_args!("CLIENTIP,{}", connection.client_ip));
            write_line(lines, format_args!("CONS,unlimited"));
        }
        let content_length = millis("LS_content_length");
        connection.budget = content_length.filter(|_| connection.transport == Transport::Http);
        connection.polling = polling;
        (connection.session, connection.latest) = (Some(serial), Some(serial));
        connection.outbox.bind(upkeep);
        (session.bound, session.unbound_since) = (Some(id), None);
    }

    /// The session's stay on a connection is over. A response ends with it.
    fn release(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        (connection.session, connection.budget, connection.polling) = (None, None, None);
        connection.outbox.unbind();
        if connection.transport == Transport::Http {
            connection.outbox.close();
        }
    }

    fn unbind_with_loop(&mut self, serial: u64, delay_ms: u64, real: Instant) -> Option<u64> {
        self.flush(serial, real);
        let session = self.sessions.get_mut(&serial)?;
        let id = session.bound?;
        session.unbind(real);
        self.write_to(id, line(format_args!("LOOP,{delay_ms}")));
        self.release(id);
        Some(id)
    }

    fn end(&mut self, serial: u64, code: i32, text: &str) -> Option<u64> {
        let id = self.sessions.get(&serial)?.bound;
        self.forget(serial);
        self.write_to(id?, line(format_args!("END,{code},{}", plain(text))));
        self.release(id?);
        id
    }

    fn forget(&mut self, serial: u64) {
        let Some(session) = self.sessions.remove(&serial) else { return };
        for series in session.series() {
            self.candles.unwatch(series);
        }
        // What was written before it ended still goes out.
        if let Some(connection) = session.bound.and_then(|id| self.connections.get_mut(&id)) {
            let mut lines = session.lines;
            connection.outbox.push(&mut lines);
            connection.session = None;
        }
    }

    /// Does what real time asks for: ends polls that waited long enough and streams that are used
    /// up, forgets sessions that were unbound for too long.
    pub fn tend(&mut self, real: Instant) {
        let limited = |connection: &Connection| connection.polling.is_some() || connection.budget.is_some();
        let limited = self.connections.values().filter(|connection| limited(connection));
        for serial in limited.filter_map(|connection| connection.session).collect::<Vec<_>>() {
            self.flush(serial, real);
        }
        let mut unbound: Vec<(Instant, u64)> = self
            .sessions
            .iter()
            .filter_map(|(serial, session)| session.unbound_since.map(|since| (since, *serial)))
            .collect();
        unbound.sort_unstable();
        let too_many = unbound.len().saturating_sub(UNBOUND_MAX);
        for (place, (since, serial)) in unbound.into_iter().enumerate() {
            if place < too_many || real.saturating_duration_since(since) >= self.settings.unbound_for {
                self.forget(serial);
            }
        }
    }

    /// Hands the lines of a session to the connection it is bound to. Where there is none they
    /// wait among what was sent.
    fn flush(&mut self, serial: u64, real: Instant) {
        let Some(session) = self.sessions.get_mut(&serial) else { return };
        let bound = session.bound.and_then(|id| Some((id, self.connections.get_mut(&id)?)));
        let Some((id, connection)) = bound else {
            session.lines.clear();
            return;
        };
        let has_data = session.delivered < session.sent.count();
        let mut is_over = None;
        if let Some(budget) = &mut connection.budget {
            let left = budget.saturating_sub(connection.outbox.upkeep_bytes());
            let room = (left as usize).saturating_sub(LOOP_AT_ONCE.len());
            let end = end_within(&session.lines, room);
            let rest = session.lines.split_off(end);
            *budget -= end.min(*budget as usize) as u64;
            session.delivered = session.sent.count() - data_lines(&rest);
            if !rest.is_empty() || room < LOOP_AT_ONCE.len() {
                is_over = Some(0);
            }
        } else {
            session.delivered = session.sent.count();
        }
        connection.outbox.push(&mut session.lines);
        if let Some(polling) = connection.polling
            && (has_data || real >= polling.until)
        {
            is_over = Some(polling.delay_ms);
        }
        if let Some(delay_ms) = is_over {
            session.unbind(real);
            self.write_to(id, line(format_args!("LOOP,{delay_ms}")));
            self.release(id);
        }
    }

    // ---- time ----

    /// Moves time towards `until`, event by event, writing the rows that it brings. Returns early
    /// once a connection has `bytes_max` waiting or `events_max` events have passed.
    pub fn advance(&mut self, until: Timestamp, bytes_max: usize, events_max: usize, real: Instant) {
        for _ in 0..events_max {
            let next = self.candles.next_stop();
            if next > until {
                // Nothing happens before `until`: time may pass without a row.
                self.candles.idle_until(until);
                break;
            }
            self.candles.step(next);
            self.tell_rows();
            self.candles.turn();
            if self.sessions.values().any(|session| session.lines.len() >= bytes_max) {
                break;
            }
        }
        for serial in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.flush(serial, real);
        }
    }

    fn tell_rows(&mut self) {
        let now = self.candles.now();
        for session in self.sessions.values_mut() {
            let begin = session.lines.len();
            let mut told = 0;
            // A session that nobody listens to would use up what is meant for one that somebody does.
            let mut none = Mischief::default();
            let mischief = if session.bound.is_some() { &mut self.mischief } else { &mut none };
            for subscription in session.subscriptions.values_mut() {
                let schema = &subscription.schema;
                for item in &mut subscription.items {
                    let (lines, row) = (&mut session.lines, self.candles.row(item.series));
                    told += if item.is_plain() && mischief.is_idle() {
                        row.map_or(0, |row| u64::from(item.tell(lines, schema, row)))
                    } else {
                        item.tell_oddly(lines, schema, row, now, mischief)
                    };
                }
            }
            session.sent.append(&session.lines[begin..], told);
            self.totals.rows += told;
        }
    }
}

/// One line of the server's.
fn line(text: std::fmt::Arguments<'_>) -> Vec<u8> {
    let mut line = Vec::new();
    write_line(&mut line, text);
    line
}

/// The end of the whole lines that fit; of the first line at least, or nothing would ever go on.
fn end_within(lines: &[u8], room: usize) -> usize {
    if lines.len() <= room {
        return lines.len();
    }
    let fits = memchr::memrchr(b'\n', &lines[..room]).map(|end| end + 1);
    let first_data = memchr::memchr_iter(b'\n', lines).map(|end| end + 1).scan(0, |begin, end| {
        let line = &lines[std::mem::replace(begin, end)..end];
        Some((end, is_data(line)))
    });
    let least = first_data.into_iter().find(|(_, is_data)| *is_data).map_or(lines.len(), |(end, _)| end);
    fits.unwrap_or(0).max(least)
}

/// How many lines count for a recovery.
fn data_lines(lines: &[u8]) -> u64 {
    lines.split_inclusive(|byte| *byte == b'\n').filter(|line| is_data(line)).count() as u64
}

fn without_password(text: &str) -> String {
    const NAME: &str = "LS_password=";
    match text.split_once(NAME) {
        Some((before, after)) => {
            let end = after.find(['&', '\r', '\n']).unwrap_or(after.len());
            format!("{before}{NAME}***{}", &after[end..])
        }
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
