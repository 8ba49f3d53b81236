//! `GET /v1/stream`: bars as they are stored and corrected, and candles under way, as server-sent events.
//!
//! | file | what it is | pure |
//! |---|---|:-:|
//! | `page.rs` | a page of the log as text, made once for all | ✓ |
//! | `follower.rs` | what one follower is sent: the log from where he is on, without a hole | ✓ |
//! | `forming.rs` | candles under way, as events | ✓ |
//! | `hub.rs` | reads the log once for all who follow | |
//! | `line.rs` | one follower's connection | |
//!
//! The database is the log: every value that a bar has had stands there in the order of commits
//! (`store/sequence.rs`), so nobody's place has to be kept, and a process that is killed loses none. One reader goes
//! along with the commits and hands pages to all; who has missed one, or comes with an old id, reads pages of his own
//! until he has caught up. What a client takes decides how fast it is sent to him: nothing is queued for him but the
//! few pages that all share.

mod follower;
mod forming;
mod hub;
mod line;
mod page;

pub use hub::Push;
pub use line::NoStream;
