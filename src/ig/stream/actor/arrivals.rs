//! What a connection brings: frames into messages, messages into the session.

use std::str;
use std::time::Duration;

use actix::prelude::*;
use awc::ws::Frame;

use super::StreamActor;
use super::connections::{Connecting, Link};
use crate::domain::StreamEvent;
use crate::failpoint;
use crate::ig::error::cut;
use crate::ig::stream::calm;
use crate::ig::stream::frames::Framed;
use crate::ig::stream::socket::{Arrived, Piece};
use crate::ig::stream::state::Phase;
use crate::messages::StreamTold;
use crate::tlcp::session::Purpose;
use crate::tlcp::{Lost, Transport};

/// The aggregator takes what it is told at once, unless too much waits for the database.
const UNREAD_LONG: Duration = Duration::from_millis(500);

impl Handler<Arrived> for StreamActor {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, arrived: Arrived, ctx: &mut Self::Context) -> Self::Result {
        failpoint::in_room("stream.arrived", ctx);
        let mut told = Vec::with_capacity(self.told_last);
        if arrived.socket == self.socket {
            let bytes: usize = arrived.pieces.iter().map(Piece::size).sum();
            self.stats.stream_bytes.add(bytes as u64);
            for piece in arrived.pieces {
                self.piece(piece, &mut told, ctx);
            }
            if let Some((lost, why)) = arrived.lost.filter(|_| arrived.socket == self.socket) {
                let opening = self.link.as_ref().is_some_and(|link| link.session.opening().is_some());
                let level = if opening { log::Level::Warn } else { log::Level::Debug };
                log::log!(level, why = why.as_str(); "no connection to the stream");
                self.recorder.stream_closed(self.socket, &why);
                self.lose(&mut told, lost, ctx);
            }
        }
        self.told_last = told.len();
        if !told.is_empty() {
            self.begin_or_end_lull();
        }
        // Told before anything is sent: that the connection takes nothing any more is news that
        // belongs behind what it has still brought.
        let sending = (!told.is_empty()).then(|| self.aggregator.send(StreamTold(told)));
        self.pump(ctx);
        let Some(sending) = sending else { return Box::pin(fut::ready(())) };
        if self.untaken == 0 {
            self.untaken_since = self.clock.monotonic();
        }
        self.untaken += 1;
        // A dead aggregator takes this room along; nothing to do about that here.
        Box::pin(sending.into_actor(self).map(|_, act, _| {
            act.excuse_unread();
            act.untaken -= 1;
        }))
    }
}

impl StreamActor {
    /// Before a connection is asked for, which ends it: an opening takes several journeys, and has its time.
    pub(super) fn begin_or_end_lull(&self) {
        match self.may_wait() {
            Some(left_s) => self.clients.lull.until(self.clock.monotonic() + Duration::from_secs(left_s)),
            None => self.clients.lull.end(),
        }
    }

    /// For how many seconds rows may wait to be read.
    pub(super) fn may_wait(&self) -> Option<u64> {
        if !self.rows_may_wait {
            return None;
        }
        let (moment, state) = (self.event_clock.moment(), &self.known.state);
        let streaming_s = self.clock.wall().0 - state.since;
        let is_calm =
            moment.is_steady && state.phase == Phase::Streaming && self.stats.forming_followers.get() == 0;
        let have_ended = |begin| self.known.have_ended(begin);
        moment.now.filter(|_| is_calm).and_then(|now| calm::may_wait(now, streaming_s, have_ended))
    }

    /// Whether the connection has not been read for a while, because what was read last has not been
    /// taken.
    pub(super) fn is_unread(&self) -> bool {
        self.untaken > 0 && self.clock.monotonic() - self.untaken_since >= UNREAD_LONG
    }

    /// What was not read cannot have been missed.
    pub(super) fn excuse_unread(&mut self) {
        let now = self.clock.monotonic();
        if self.is_unread()
            && let Some(link) = &mut self.link
        {
            link.session.excuse_silence(now);
        }
    }

    fn piece(&mut self, piece: Piece, told: &mut Vec<StreamEvent>, ctx: &mut Context<Self>) {
        match piece {
            Piece::Frame(frame) => self.frame(frame, told, ctx),
            Piece::Bytes(bytes) => {
                self.recorder.stream_received(self.socket, &String::from_utf8_lossy(&bytes));
                self.drive(told, |session, now, on_event| session.handle_bytes(now, &bytes, on_event), ctx);
            }
            Piece::Answer(answer) => {
                self.recorder.stream_received(self.socket, &answer);
                self.drive(told, |session, now, on_event| session.handle_answer(now, &answer, on_event), ctx);
            }
        }
    }

    /// One frame: a whole message, a part of one, or the connection's own business.
    fn frame(&mut self, frame: Frame, told: &mut Vec<StreamEvent>, ctx: &mut Context<Self>) {
        let Some(Link { frames, connection, .. }) = &mut self.link else { return };
        match frames.take(frame) {
            Framed::Message(bytes) => self.message(&bytes, told, ctx),
            Framed::Nothing => {}
            Framed::Asked(answer) => {
                if let Some(connection) = connection {
                    connection.send_frame(answer);
                }
            }
            Framed::Closed(answer) => {
                if let Some(connection) = connection {
                    connection.send_frame(answer);
                }
                self.lose(told, Lost::Closed, ctx);
            }
            // How many lines were in it cannot be known. A recovery tells what they were.
            Framed::Unreadable(why) => {
                log::warn!(why; "a message cannot be read");
                self.lose(told, Lost::Closed, ctx);
            }
        }
    }

    fn message(&mut self, bytes: &[u8], told: &mut Vec<StreamEvent>, ctx: &mut Context<Self>) {
        match str::from_utf8(bytes) {
            Ok(text) => {
                self.recorder.stream_received(self.socket, text);
                self.drive(told, |session, now, on_event| session.handle_message(now, text, on_event), ctx);
            }
            Err(_) => {
                // As with one that is binary.
                log::warn!(text = cut(&String::from_utf8_lossy(bytes)).as_str(); "a message is not UTF-8");
                self.lose(told, Lost::Closed, ctx);
            }
        }
    }

    /// The connection is gone, or of no use.
    fn lose(&mut self, told: &mut Vec<StreamEvent>, lost: Lost, ctx: &mut Context<Self>) {
        let Some(link) = &mut self.link else { return };
        link.connecting = Connecting::No;
        // A WebSocket on which not even WSOK came is one that something in between only pretends.
        let session = &link.session;
        let hollow = session.transport() == Transport::WebSocket
            && session.opening() == Some(Purpose::Create)
            && !session.websocket_works()
            && link.connection.is_some();
        let lost = if hollow { Lost::Refused } else { lost };
        self.drive(told, |session, now, on_event| session.handle_closed(now, lost, on_event), ctx);
    }
}
