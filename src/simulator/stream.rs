//! The sockets of the Lightstreamer server.
//!
//! Each connection has two tasks: one reads requests into the [`Feed`](super::feed::Feed), one
//! writes what the feed put into the connection's [`Outbox`] and keeps the connection alive.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::http::header::SEC_WEBSOCKET_PROTOCOL;
use actix_web::{HttpRequest, HttpResponse, web};
use actix_ws::{AggregatedMessage, AggregatedMessageStream};
use futures_util::future::select;

use super::Shared;
use super::clock::monotonic;
use super::feed::{REQUEST_BYTES_MAX, Reaction};
use super::outbox::{Outbox, Upkeep};
use super::tlcp::version_of_subprotocol;

/// Largest message that is sent in one piece; longer ones are cut between lines.
const MESSAGE_BYTES_MAX: usize = 32 * 1024;
/// Largest frame that is read; the feed refuses what is above its own limit in words.
const FRAME_BYTES_MAX: usize = 2 * REQUEST_BYTES_MAX;
/// Real time between `SYNC` lines.
const SYNC_INTERVAL: Duration = Duration::from_secs(20);
/// Sleep of a socket that has no session and so nothing to keep alive.
const IDLE: Duration = Duration::from_secs(3600);

/// `GET /lightstreamer`: upgrades to a WebSocket.
pub(crate) async fn handle(
    request: HttpRequest,
    body: web::Payload,
    shared: web::Data<Arc<Shared>>,
) -> Result<HttpResponse, actix_web::Error> {
    if shared.refuses_streams() {
        return Ok(HttpResponse::ServiceUnavailable().body("no streams at present"));
    }
    let offered = request.headers().get(SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok());
    let offered = offered.unwrap_or_default().split(',').map(str::trim);
    let Some((protocol, version)) =
        offered.clone().find_map(|name| version_of_subprotocol(name).map(|version| (name, version)))
    else {
        return Ok(HttpResponse::BadRequest().body("a TLCP subprotocol is needed"));
    };
    let (response, session, messages) = actix_ws::handle_with_protocols(&request, body, &[protocol])?;
    let client_ip = request.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
    let outbox = Arc::new(Outbox::default());
    let id = shared.feed().connect(version, client_ip, Arc::clone(&outbox));
    let messages = messages
        .max_frame_size(FRAME_BYTES_MAX)
        .aggregate_continuations()
        .max_continuation_size(FRAME_BYTES_MAX);
    actix_web::rt::spawn(read(id, Arc::clone(&shared), messages, Arc::clone(&outbox)));
    actix_web::rt::spawn(write(session, outbox));
    Ok(response)
}

/// Reads until the peer closes, or the feed wants the socket closed.
async fn read(id: u64, shared: Arc<Shared>, mut messages: AggregatedMessageStream, outbox: Arc<Outbox>) {
    while let Some(Ok(message)) = messages.recv().await {
        match message {
            AggregatedMessage::Text(text) => {
                let reaction = {
                    // The desk is locked after the feed, here and everywhere.
                    let mut feed = shared.feed();
                    let mut desk = shared.desk();
                    feed.receive(id, &text, &mut desk, monotonic())
                };
                shared.wake.notify_one();
                if reaction == Reaction::Close {
                    break;
                }
            }
            AggregatedMessage::Ping(payload) => outbox.ping(payload),
            AggregatedMessage::Pong(_) => {}
            // TLCP is text; what is not closes the socket.
            AggregatedMessage::Binary(_) | AggregatedMessage::Close(_) => break,
        }
    }
    outbox.close();
    shared.feed().disconnect(id);
    shared.wake.notify_one();
}

/// Writes until the socket is closed or cut. Dropping the session ends the connection.
async fn write(session: actix_ws::Session, outbox: Arc<Outbox>) {
    let writing = pin!(write_lines(session, &outbox));
    let cut = pin!(outbox.until_cut());
    select(writing, cut).await;
    outbox.close();
}

/// Writes what waits; sends `PROBE` after a keepalive's silence and `SYNC` at its times. Ends
/// when the peer is gone, or with a close frame once the outbox is closed and empty.
async fn write_lines(mut session: actix_ws::Session, outbox: &Outbox) {
    let mut timers: Option<Timers> = None;
    loop {
        // Asked before taking, so that lines pushed before the close still go out.
        let closed = outbox.is_closed();
        let lines = outbox.take();
        if !lines.is_empty() {
            if send(&mut session, lines).await.is_err() {
                return;
            }
            outbox.sent();
            if let Some(timers) = &mut timers {
                timers.last_line = monotonic();
            }
            continue;
        }
        if closed {
            // Fails where the peer is gone already: then there is nobody to tell.
            let _ = session.close(None).await;
            return;
        }
        if let Some(payload) = outbox.take_ping()
            && session.pong(&payload).await.is_err()
        {
            return;
        }
        if outbox.upkeep() != timers.as_ref().map(|timers| timers.upkeep) {
            timers = outbox.upkeep().map(|upkeep| Timers::new(upkeep, monotonic()));
        }
        let due = timers.as_mut().map(|timers| timers.poll(monotonic()));
        match due.unwrap_or(Due::In(IDLE)) {
            Due::Line(line) => {
                if send(&mut session, line.into_bytes()).await.is_err() {
                    return;
                }
            }
            // Timed out or woken: either way the loop looks at everything again.
            Due::In(wait) => {
                let _ = actix_web::rt::time::timeout(wait, outbox.changed()).await;
            }
        }
    }
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

/// Sends whole lines in messages of bounded size.
async fn send(session: &mut actix_ws::Session, mut lines: Vec<u8>) -> Result<(), actix_ws::Closed> {
    while !lines.is_empty() {
        let rest = lines.split_off(message_end(&lines));
        let message = String::from_utf8(lines).expect("lines are made of strings and digits");
        session.text(message).await?;
        lines = rest;
    }
    Ok(())
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
    use super::*;

    #[test]
    fn long_messages_are_cut_between_lines() {
        let line = |length: usize| [vec![b'x'; length - 2], b"\r\n".to_vec()].concat();
        assert_eq!(message_end(&line(100).repeat(3)), 300);
        assert_eq!(message_end(&line(1000).repeat(40)), 32_000);
        assert_eq!(message_end(&[line(40_000), line(100)].concat()), 40_000);
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
