//! The sockets of the Lightstreamer server.
//!
//! Each WebSocket has a task that reads requests into the [`Feed`](super::feed::Feed). What the
//! feed put into the connection's [`Outbox`] is drawn from it by the response that carries the
//! stream, whenever the socket takes more; it also keeps the connection alive. Over HTTP each
//! request comes by itself, and the response to a create or a bind is the stream.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_http::body::BodyStream;
use actix_http::ws::{OpCode, Parser, handshake};
use actix_web::dev::{Extensions, Payload};
use actix_web::http::StatusCode;
use actix_web::http::header::SEC_WEBSOCKET_PROTOCOL;
use actix_web::web::{Bytes, BytesMut};
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::{Stream, StreamExt};
use serde::Deserialize;
use socket2::{SockRef, Socket};

use super::Shared;
use super::clock::monotonic;
use super::control::Refusal;
use super::feed::{REQUEST_BYTES_MAX, Reaction, Transport};
use super::outbox::{Frame, FrameKind, Framing, Outbox, Parcel, Severed, Upkeep};
use super::tlcp::{Message, version_of_protocol, version_of_subprotocol};

/// Largest message that is sent in one piece; longer ones are cut between lines.
const MESSAGE_BYTES_MAX: usize = 32 * 1024;
/// Largest message that is read; the feed refuses what is above its own limit in words.
const RECEIVED_BYTES_MAX: usize = 2 * REQUEST_BYTES_MAX;
/// Real time between `SYNC` lines.
const SYNC_INTERVAL: Duration = Duration::from_secs(20);
/// What Lightstreamer says of its answers, although they are UTF-8.
const PLAIN: &str = "text/plain; charset=iso-8859-1";
const ENRICHED: &str = "text/enriched; charset=iso-8859-1";
/// Sleep of a socket that has no session and so nothing to keep alive.
const IDLE: Duration = Duration::from_secs(3600);

/// A hand on the socket below a connection, to reset it.
pub(crate) struct Wire(Option<Socket>);

impl Wire {
    /// Puts the hand where the connection's requests find it.
    pub fn attach(connection: &dyn std::any::Any, extensions: &mut Extensions) {
        let socket = connection.downcast_ref::<actix_rt::net::TcpStream>();
        let socket = socket.and_then(|socket| SockRef::from(socket).try_clone().ok());
        extensions.insert(Arc::new(Wire(socket)));
    }

    /// Makes the end of the connection a reset.
    fn reset_at_end(&self) {
        if let Some(Err(error)) = self.0.as_ref().map(|socket| socket.set_linger(Some(Duration::ZERO))) {
            log::warn!("cannot reset a connection: {error}");
        }
    }
}

/// The feed learns that a connection is gone from this alone, however its tasks end.
struct Plug {
    id: u64,
    shared: Arc<Shared>,
    outbox: Arc<Outbox>,
}

impl Drop for Plug {
    fn drop(&mut self) {
        self.outbox.close();
        self.shared.feed().disconnect(self.id, monotonic());
        self.shared.wake.notify_one();
    }
}

/// The peer is cut off: an error is what makes the server drop a socket as it is.
#[derive(Debug, thiserror::Error)]
#[error("cut off")]
struct CutOff;

/// `GET /lightstreamer`: upgrades to a WebSocket.
pub(crate) async fn upgrade(
    request: HttpRequest,
    body: web::Payload,
    shared: web::Data<Arc<Shared>>,
) -> Result<HttpResponse, actix_web::Error> {
    if shared.refuses_streams() {
        return Ok(HttpResponse::ServiceUnavailable().body("no streams at present"));
    }
    if let Some(refusal) = shared.upgrades.next() {
        return Ok(refused(refusal));
    }
    let offered = request.headers().get(SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok());
    let offered = offered.unwrap_or_default().split(',').map(str::trim);
    let Some((protocol, version)) =
        offered.clone().find_map(|name| version_of_subprotocol(name).map(|version| (name, version)))
    else {
        return Ok(HttpResponse::BadRequest().body("a TLCP subprotocol is needed"));
    };
    let mut response = match handshake(request.head()) {
        Ok(response) => response,
        Err(error) => return Ok(HttpResponse::BadRequest().body(error.to_string())),
    };
    response.insert_header((SEC_WEBSOCKET_PROTOCOL, protocol));
    let outbox = Arc::new(Outbox::default());
    let (ip, came_to) = ends(&request);
    let id = shared.feed().connect(Transport::WebSocket, version, ip, came_to, Arc::clone(&outbox));
    let plug = Plug { id, shared: Arc::clone(&shared), outbox: Arc::clone(&outbox) };
    actix_web::rt::spawn(read(plug, body.into_inner()));
    let writer = Writer::new(Transport::WebSocket, &request, outbox, None);
    Ok(response.message_body(BodyStream::new(writer.stream()))?.map_into_boxed_body().into())
}

fn refused(refusal: Refusal) -> HttpResponse {
    match refusal {
        Refusal::Status(status) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            HttpResponse::build(status).body("refused")
        }
        Refusal::Page => {
            HttpResponse::Ok().content_type("text/html").body("<html><body>Sign in</body></html>")
        }
    }
}

/// What the address of a request over HTTP says.
#[derive(Deserialize)]
pub(crate) struct Query {
    #[serde(rename = "LS_protocol")]
    protocol: Option<String>,
    #[serde(rename = "LS_session")]
    session: Option<String>,
}

/// `POST /lightstreamer/<name>.txt`: one request. A create or a bind is answered by the stream.
pub(crate) async fn post(
    request: HttpRequest,
    name: web::Path<String>,
    query: web::Query<Query>,
    body: web::Bytes,
    shared: web::Data<Arc<Shared>>,
) -> HttpResponse {
    if shared.refuses_streams() {
        return HttpResponse::ServiceUnavailable().body("no streams at present");
    }
    if let Some(refusal) = shared.http_streams.next() {
        return refused(refusal);
    }
    let Some(version) = query.protocol.as_deref().and_then(version_of_protocol) else {
        return HttpResponse::BadRequest().body("LS_protocol is needed in the address");
    };
    let Ok(body) = std::str::from_utf8(&body) else {
        return HttpResponse::BadRequest().body("a request is UTF-8");
    };
    let message = Message::of_body(&name, body);
    let session = query.session.as_deref();
    let (ip, came_to) = ends(&request);
    if !matches!(message.name, "create_session" | "bind_session") {
        let answer = shared.feed().answer(&message, session, came_to, monotonic());
        shared.wake.notify_one();
        return HttpResponse::Ok().content_type(PLAIN).body(answer);
    }
    let outbox = Arc::new(Outbox::default());
    let plug = {
        let mut feed = shared.feed();
        let mut desk = shared.desk();
        let id = feed.connect(Transport::Http, version, ip, came_to, Arc::clone(&outbox));
        feed.open(id, &message, session, &mut desk, monotonic());
        Plug { id, shared: Arc::clone(&shared), outbox: Arc::clone(&outbox) }
    };
    shared.wake.notify_one();
    let writer = Writer::new(Transport::Http, &request, outbox, Some(plug));
    HttpResponse::Ok().content_type(ENRICHED).streaming(writer.stream())
}

/// Where a request comes from, and which of our addresses it came to.
fn ends(request: &HttpRequest) -> (String, SocketAddr) {
    let ip = request.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
    (ip, request.app_config().local_addr())
}

/// Reads until the peer closes, or the feed wants the socket closed.
async fn read(plug: Plug, mut payload: Payload) {
    let (mut bytes, mut message) = (BytesMut::new(), BytesMut::new());
    loop {
        let (is_last, kind, frame) = match Parser::parse(&mut bytes, true, RECEIVED_BYTES_MAX) {
            Ok(Some(frame)) => frame,
            Ok(None) => match payload.next().await {
                Some(Ok(chunk)) => {
                    bytes.extend_from_slice(&chunk);
                    continue;
                }
                _ => return,
            },
            Err(_) => return,
        };
        let frame = frame.unwrap_or_default();
        match kind {
            OpCode::Text | OpCode::Continue if message.len() + frame.len() <= RECEIVED_BYTES_MAX => {
                message.unsplit(frame);
            }
            OpCode::Ping => {
                plug.outbox.ping(frame.freeze());
                continue;
            }
            OpCode::Pong => continue,
            // TLCP is text; what is not closes the socket.
            _ => return,
        }
        if !is_last {
            continue;
        }
        let message = message.split();
        let Ok(text) = std::str::from_utf8(&message) else { return };
        let reaction = {
            // The desk is locked after the feed, here and everywhere.
            let mut feed = plug.shared.feed();
            let mut desk = plug.shared.desk();
            feed.receive(plug.id, text, &mut desk, monotonic())
        };
        plug.shared.wake.notify_one();
        if reaction == Reaction::Close {
            return;
        }
    }
}

/// Makes bytes of what waits in an outbox, as the socket takes them.
struct Writer {
    transport: Transport,
    outbox: Arc<Outbox>,
    wire: Option<Arc<Wire>>,
    timers: Option<Timers>,
    /// Lines that did not fit into the last message.
    rest: Vec<u8>,
    ended: bool,
    /// Kept until the response has ended, where that is the connection's end.
    _plug: Option<Plug>,
}

impl Writer {
    fn new(transport: Transport, request: &HttpRequest, outbox: Arc<Outbox>, plug: Option<Plug>) -> Writer {
        let wire = request.conn_data::<Arc<Wire>>().map(Arc::clone);
        Writer { transport, outbox, wire, timers: None, rest: Vec::new(), ended: false, _plug: plug }
    }

    fn stream(self) -> impl Stream<Item = Result<Bytes, CutOff>> {
        futures_util::stream::unfold(self, async |mut writer| {
            let bytes = writer.next().await?;
            Some((bytes, writer))
        })
    }

    /// The next bytes: what waits, else `PROBE` after a keepalive's silence and `SYNC` at its
    /// times. `None` once the outbox is closed and empty, an error where it was severed.
    async fn next(&mut self) -> Option<Result<Bytes, CutOff>> {
        loop {
            let apart = self.outbox.framing().apart;
            if !self.rest.is_empty() && !apart.is_zero() {
                actix_web::rt::time::sleep(apart).await;
            }
            if let Some(how) = self.outbox.severed() {
                if how == Severed::Reset
                    && let Some(wire) = &self.wire
                {
                    wire.reset_at_end();
                }
                return Some(Err(CutOff));
            }
            // Asked before taking, so that lines pushed before the close still go out.
            let closed = self.outbox.is_closed();
            let parcel = match self.rest.is_empty() {
                true => self.outbox.take(),
                false => Some(Parcel::Lines(std::mem::take(&mut self.rest))),
            };
            match parcel {
                Some(Parcel::Lines(lines)) => {
                    if let Some(timers) = &mut self.timers {
                        timers.last_line = monotonic();
                    }
                    return Some(Ok(self.message(lines)));
                }
                Some(Parcel::Frames(frames)) => return Some(Ok(self.frames(&frames))),
                None => {}
            }
            if closed {
                return if std::mem::replace(&mut self.ended, true) { None } else { self.farewell() };
            }
            if let Some(payload) = self.outbox.take_ping() {
                return Some(Ok(framed(OpCode::Pong, true, &payload)));
            }
            if self.outbox.upkeep() != self.timers.as_ref().map(|timers| timers.upkeep) {
                self.timers = self.outbox.upkeep().map(|upkeep| Timers::new(upkeep, monotonic()));
            }
            let due = self.timers.as_mut().map(|timers| timers.poll(monotonic()));
            match due.unwrap_or(Due::In(IDLE)) {
                Due::Line(line) => {
                    self.outbox.count_upkeep(line.len());
                    return Some(Ok(self.message(line.into_bytes())));
                }
                // Timed out or woken: either way the loop looks at everything again.
                Due::In(wait) => {
                    let _ = actix_web::rt::time::timeout(wait, self.outbox.changed()).await;
                }
            }
        }
    }

    /// Whole lines as one message of bounded size.
    fn message(&mut self, mut lines: Vec<u8>) -> Bytes {
        let Framing { fragment_bytes, single_lines, .. } = self.outbox.framing();
        let first_line = single_lines.then(|| memchr::memchr(b'\n', &lines)).flatten();
        let end = first_line.map_or_else(|| message_end(&lines), |end| end + 1);
        match (self.transport, fragment_bytes) {
            (Transport::WebSocket, 0) => {
                self.rest = lines.split_off(end);
                framed(OpCode::Text, true, &lines)
            }
            (Transport::WebSocket, bytes) => {
                self.rest = lines.split_off(end);
                fragmented(&lines, bytes)
            }
            (Transport::Http, bytes) => {
                let whole = if single_lines { end } else { lines.len() };
                self.rest = lines.split_off(if bytes == 0 { whole } else { bytes.min(whole) });
                lines.into()
            }
        }
    }

    fn frames(&self, frames: &[Frame]) -> Bytes {
        let mut bytes = BytesMut::new();
        for frame in frames {
            match (self.transport, frame.kind) {
                (Transport::Http, _) => bytes.extend_from_slice(&frame.bytes),
                (_, FrameKind::Text) => write_frame(&mut bytes, OpCode::Text, frame.is_last, &frame.bytes),
                (_, FrameKind::Binary) => {
                    write_frame(&mut bytes, OpCode::Binary, frame.is_last, &frame.bytes)
                }
                (_, FrameKind::Continuation) => {
                    write_frame(&mut bytes, OpCode::Continue, frame.is_last, &frame.bytes);
                }
            }
        }
        bytes.freeze()
    }

    fn farewell(&self) -> Option<Result<Bytes, CutOff>> {
        match self.transport {
            Transport::WebSocket => {
                let code = self.outbox.close_code().map(u16::to_be_bytes);
                Some(Ok(framed(OpCode::Close, true, code.as_ref().map_or(&[], |code| &code[..]))))
            }
            Transport::Http => None,
        }
    }
}

fn write_frame(out: &mut BytesMut, kind: OpCode, is_last: bool, bytes: &[u8]) {
    Parser::write_message(out, bytes, kind, is_last, false);
}

/// A text message in frames of at most so many bytes.
fn fragmented(text: &[u8], bytes: usize) -> Bytes {
    let mut out = BytesMut::new();
    let last = text.len().div_ceil(bytes).saturating_sub(1);
    for (place, piece) in text.chunks(bytes).enumerate() {
        let kind = if place == 0 { OpCode::Text } else { OpCode::Continue };
        write_frame(&mut out, kind, place == last, piece);
    }
    out.freeze()
}

fn framed(kind: OpCode, is_last: bool, bytes: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    write_frame(&mut out, kind, is_last, bytes);
    out.freeze()
}

/// When a bound connection must send something by itself.
struct Timers {
    upkeep: Upkeep,
    bound: Instant,
    last_line: Instant,
    last_sync: Instant,
}

enum Due {
    Line(String),
    In(Duration),
}

impl Timers {
    fn new(upkeep: Upkeep, now: Instant) -> Timers {
        Timers { upkeep, bound: now, last_line: now, last_sync: now }
    }

    fn poll(&mut self, now: Instant) -> Due {
        let keepalive = Duration::from_millis(self.upkeep.keepalive_ms);
        let sync_in = match self.upkeep.sync {
            true => SYNC_INTERVAL.saturating_sub(now.saturating_duration_since(self.last_sync)),
            false => Duration::MAX,
        };
        let probe_in = keepalive.saturating_sub(now.saturating_duration_since(self.last_line));
        if sync_in.is_zero() {
            (self.last_sync, self.last_line) = (now, now);
            return Due::Line(format!("SYNC,{}\r\n", now.saturating_duration_since(self.bound).as_secs()));
        }
        if probe_in.is_zero() {
            self.last_line = now;
            return Due::Line("PROBE\r\n".to_owned());
        }
        Due::In(probe_in.min(sync_in))
    }
}

/// Where the next message ends: after the last line that fits, or after an overlong one.
fn message_end(lines: &[u8]) -> usize {
    if lines.len() <= MESSAGE_BYTES_MAX {
        return lines.len();
    }
    let fits = memchr::memrchr(b'\n', &lines[..MESSAGE_BYTES_MAX]);
    let end = fits.or_else(|| memchr::memchr(b'\n', lines));
    end.map_or(lines.len(), |place| place + 1)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn long_messages_are_cut_between_lines() {
        let line = |length: usize| [vec![b'x'; length - 2], b"\r\n".to_vec()].concat();
        assert_eq!(message_end(&line(100).repeat(3)), 300);
        assert_eq!(message_end(&line(1000).repeat(40)), 32_000);
        assert_eq!(message_end(&[line(40_000), line(100)].concat()), 40_000);
    }

    /// With two lines that wait.
    fn writer(framing: Framing) -> Writer {
        let outbox = Arc::new(Outbox::default());
        outbox.set_framing(framing);
        let (wire, timers, rest) = (None, None, b"PROBE\r\nSYNC,1\r\n".to_vec());
        Writer { transport: Transport::Http, outbox, wire, timers, rest, ended: false, _plug: None }
    }

    #[actix_web::test]
    async fn lines_apart_wait_for_each_other() {
        let mut at_once = writer(Framing { single_lines: true, ..Framing::default() });
        assert!(at_once.next().now_or_never().is_some());
        let apart = Duration::from_secs(60);
        let mut waiting = writer(Framing { single_lines: true, apart, ..Framing::default() });
        assert!(waiting.next().now_or_never().is_none());
    }

    #[test]
    fn over_http_pieces_are_lines_or_of_so_many_bytes_or_both() {
        let check = |fragment_bytes, single_lines, expected: &[&str]| {
            let mut writer = writer(Framing { fragment_bytes, single_lines, ..Framing::default() });
            let mut pieces = Vec::new();
            while !writer.rest.is_empty() {
                let lines = std::mem::take(&mut writer.rest);
                pieces.push(writer.message(lines));
            }
            assert_eq!(pieces, expected, "{fragment_bytes} {single_lines}");
        };
        check(0, false, &["PROBE\r\nSYNC,1\r\n"]);
        check(0, true, &["PROBE\r\n", "SYNC,1\r\n"]);
        check(10, false, &["PROBE\r\nSYN", "C,1\r\n"]);
        check(5, true, &["PROBE", "\r\n", "SYNC,", "1\r\n"]);
    }

    #[test]
    fn silence_is_broken_by_a_probe_and_sync_keeps_its_own_time() {
        let start = monotonic();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = Timers::new(Upkeep { keepalive_ms: 5000, sync: true }, start);
        let mut lines = Vec::new();
        let mut now = 0;
        while now < 41_000 {
            match timers.poll(at(now)) {
                Due::Line(line) => lines.push((now, line)),
                Due::In(wait) => now += wait.as_millis() as u64,
            }
        }
        let shape: Vec<_> = lines.iter().map(|(ms, line)| (ms / 1000, line.trim_end())).collect();
        let (probe, sync) = ("PROBE", "SYNC,20");
        assert_eq!(
            shape,
            [
                (5, probe),
                (10, probe),
                (15, probe),
                (20, sync),
                (25, probe),
                (30, probe),
                (35, probe),
                (40, "SYNC,40"),
            ]
        );
    }
}
