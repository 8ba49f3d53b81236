//! The Lightstreamer client protocol (TLCP 2.1.0 to 2.5.0) as a pure room: text in, text and
//! events out.
//!
//! Nothing here opens a socket, reads a clock, or knows what the streamed fields mean. A shell
//! feeds WebSocket messages and the time into a [`TlcpSession`], sends what it asks to send, and
//! calls it back at [`TlcpSession::next_timeout`].
//!
//! ```text
//! message → lines → notification → update → Event
//! ```

pub mod code;
pub mod lines;
pub mod notification;
pub mod percent;
pub mod recovery;
pub mod request;
pub mod session;
pub mod update;
pub mod version;

#[cfg(test)]
mod conversation;

pub use code::{Policy, Step, Verdict};
pub use session::{EndCause, Event, Options, SubId, SubscriptionSpec, TlcpSession};
pub use update::Change;
pub use version::Version;
