//! WebSocket frames → whole messages. No I/O and no clock, but the frames are awc's: the part of
//! the socket that can be tested without one.

use actix_codec::{Decoder, Encoder};
use actix_http::ws::{Item, ProtocolError};
use awc::ws::{Codec, Frame, Message as WsMessage};
use bytes::{Bytes, BytesMut};

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

/// The codec of a connection, which refuses a frame that is too long by what its head announces. The codec itself
/// does so when it has all of it, however long it is.
pub struct Bounded {
    codec: Codec,
    frame_max: usize,
}

impl Bounded {
    /// Frames may hold so many bytes.
    pub fn new(codec: Codec, frame_max: usize) -> Bounded {
        Bounded { codec, frame_max }
    }
}

impl Decoder for Bounded {
    type Item = Frame;
    type Error = ProtocolError;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame>, ProtocolError> {
        match announced(bytes) {
            Some(length) if length > self.frame_max as u64 => Err(ProtocolError::Overflow),
            _ => self.codec.decode(bytes),
        }
    }
}

impl Encoder<WsMessage> for Bounded {
    type Error = ProtocolError;

    fn encode(&mut self, message: WsMessage, bytes: &mut BytesMut) -> Result<(), ProtocolError> {
        self.codec.encode(message, bytes)
    }
}

/// Returns how long the frame is that begins here, if that takes 64 bits to say and they are there (RFC 6455,
/// section 5.2). A shorter one is shorter than 64 KiB.
fn announced(bytes: &[u8]) -> Option<u64> {
    match bytes {
        [_, length, long @ ..] if length & 0x7f == 127 => {
            long.first_chunk().map(|length| u64::from_be_bytes(*length))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_refused_by_what_it_announces() {
        let max = MESSAGE_MAX as u64;
        let check = |length: u64, refused: bool| {
            let mut bytes = BytesMut::from(&[0x81, 127][..]);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(b"U,1,1,a");
            let mut codec = Bounded::new(Codec::new().client_mode(), MESSAGE_MAX);
            for cut in 0..10 {
                assert!(matches!(codec.decode(&mut BytesMut::from(&bytes[..cut])), Ok(None)), "{cut}");
            }
            let told = codec.decode(&mut bytes);
            match refused {
                true => assert!(matches!(told, Err(ProtocolError::Overflow)), "{length}: {told:?}"),
                false => assert!(matches!(told, Ok(None)), "{length}: {told:?}"),
            }
        };
        check(max, false);
        check(max + 1, true);
        check(1 << 62, true);
        check(u64::MAX, true);
    }

    #[test]
    fn a_frame_that_is_not_too_long_is_taken() {
        let mut codec = Bounded::new(Codec::new().client_mode().max_size(70_000), 70_000);
        let mut server = Codec::new();
        for length in [0, 125, 126, 65_535, 65_536, 70_000] {
            let (mut bytes, text) = (BytesMut::new(), "x".repeat(length));
            server.encode(WsMessage::Text(text.clone().into()), &mut bytes).unwrap();
            let told = codec.decode(&mut bytes).unwrap();
            assert_eq!(told, Some(Frame::Text(text.into())), "{length}");
            assert!(bytes.is_empty());
        }
    }

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
