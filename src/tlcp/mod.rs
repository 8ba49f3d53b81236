//! The Lightstreamer client protocol (TLCP 2.1.0 to 2.5.0) as a pure room: text in, text and
//! events out.
//!
//! Nothing here opens a socket, reads a clock, or knows what the streamed fields mean. A shell
//! brings the connections that a [`TlcpSession`] wants, feeds what they bring and the time into
//! it, sends what it asks to send, and calls it back at [`TlcpSession::next_timeout`].
//! [`reconnect`] says when the next session may be tried, and how.
//!
//! ```text
//! message → lines → notification → update → Event
//! ```

pub mod address;
pub mod code;
pub mod event;
pub mod lines;
pub mod notification;
pub mod percent;
pub mod reconnect;
pub mod recovery;
pub mod request;
pub mod session;
pub mod update;
pub mod version;

#[cfg(test)]
mod conversation;
#[doc(hidden)]
#[cfg(any(test, fuzzing))]
pub mod fuzzing;

pub use code::{Policy, Step, Verdict};
pub use event::{EndCause, Event, Lost, Options, SubId, SubscriptionSpec};
pub use request::{Post, Transmit};
pub use session::{TlcpSession, Wanted};
pub use update::{Change, Changes, Plain};
pub use version::Version;

/// What carries requests and lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A WebSocket for both ways.
    #[default]
    WebSocket,
    /// An endless HTTP answer for lines, and one HTTP request each way for the rest.
    Http,
}

impl Transport {
    /// The other one.
    pub fn other(self) -> Transport {
        match self {
            Transport::WebSocket => Transport::Http,
            Transport::Http => Transport::WebSocket,
        }
    }

    /// Its name in logs and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Transport::WebSocket => "websocket",
            Transport::Http => "http",
        }
    }
}
