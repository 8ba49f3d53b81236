//! WebSocket frames → whole messages. No I/O and no clock, but the frames are awc's: the part of
//! the socket that can be tested without one.

use actix_http::ws::Item;
use awc::ws::{Frame, Message as WsMessage};
use bytes::Bytes;

use super::socket::MESSAGE_MAX;

/// What a frame comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Framed {
    /// A whole message of text, not yet known to be UTF-8.
    Message(Bytes),
    /// Nothing, or nothing yet.
    Nothing,
    /// A question of the connection's own, with its answer.
    Asked(WsMessage),
    /// The peer closes the connection, which is to be answered so.
    Closed(WsMessage),
    /// A message that cannot be read, and why. Lines may be hidden in it.
    Unreadable(&'static str),
}

/// The message that comes in several frames.
#[derive(Debug, Default)]
pub struct Frames {
    partial: Vec<u8>,
}

impl Frames {
    /// Takes the connection's next frame.
    pub fn take(&mut self, frame: Frame) -> Framed {
        match frame {
            Frame::Text(bytes) => Framed::Message(bytes),
            Frame::Continuation(Item::FirstText(bytes)) => {
                self.partial = bytes.to_vec();
                Framed::Nothing
            }
            // The first of a binary message has ended the connection.
            Frame::Continuation(Item::Continue(bytes) | Item::Last(bytes))
                if self.partial.len() + bytes.len() > MESSAGE_MAX =>
            {
                Framed::Unreadable("a message in parts is too long")
            }
            Frame::Continuation(Item::Continue(bytes)) => {
                self.partial.extend_from_slice(&bytes);
                Framed::Nothing
            }
            Frame::Continuation(Item::Last(bytes)) => {
                self.partial.extend_from_slice(&bytes);
                Framed::Message(std::mem::take(&mut self.partial).into())
            }
            Frame::Binary(_) | Frame::Continuation(Item::FirstBinary(_)) => {
                Framed::Unreadable("a message is binary")
            }
            Frame::Ping(bytes) => Framed::Asked(WsMessage::Pong(bytes)),
            Frame::Pong(_) => Framed::Nothing,
            Frame::Close(reason) => Framed::Closed(WsMessage::Close(reason)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PART: &[u8] = &[b'x'; MESSAGE_MAX / 2];

    fn check(frames: impl IntoIterator<Item = Frame>, last: Framed) {
        let mut held = Frames::default();
        let mut taken: Vec<Framed> = frames.into_iter().map(|frame| held.take(frame)).collect();
        assert_eq!(taken.pop(), Some(last));
        assert!(taken.iter().all(|framed| *framed == Framed::Nothing), "{taken:?}");
    }

    fn parts(items: impl IntoIterator<Item = Item>) -> Vec<Frame> {
        items.into_iter().map(Frame::Continuation).collect()
    }

    #[test]
    fn a_message_is_whole_with_its_last_part() {
        check([Frame::Text("U,1,1,a|b".into())], Framed::Message("U,1,1,a|b".into()));
        let mut three =
            parts([Item::FirstText("U".into()), Item::Continue(",1,1".into()), Item::Last(",a|b".into())]);
        three.insert(1, Frame::Pong("".into()));
        check(three, Framed::Message("U,1,1,a|b".into()));
    }

    #[test]
    fn a_message_that_hides_lines_is_not_passed_over() {
        check([Frame::Binary("U,1,1,a|b".into())], Framed::Unreadable("a message is binary"));
        check(parts([Item::FirstBinary("U".into())]), Framed::Unreadable("a message is binary"));
        let long = Framed::Unreadable("a message in parts is too long");
        let part = || Bytes::from_static(PART);
        check(parts([Item::FirstText(part()), Item::Continue(part()), Item::Last("x".into())]), long);
    }

    #[test]
    fn the_connections_own_business_is_answered() {
        check([Frame::Ping("x".into())], Framed::Asked(WsMessage::Pong("x".into())));
        check([Frame::Close(None)], Framed::Closed(WsMessage::Close(None)));
    }
}
