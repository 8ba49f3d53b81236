//! What was said between the program and IG, in a file that can be shown to anybody.
//!
//! ```text
//! format     lines of the file: written, read                               pure
//! secrets    values that must not be seen, found again in any text          pure
//! redact     where secrets stand, and what of an answer may be kept         pure
//! recorder   the handle that rooms speak into, and the thread that writes   file
//! ```
//!
//! Redaction works by place and by value. What stands where a secret is known to stand is replaced
//! by a name such as `ACCOUNT-1` and remembered; from then on the same value is replaced
//! wherever it turns up. Of answers about the account only known, harmless members are kept.

pub mod format;
pub mod recorder;

pub mod redact;
pub mod secrets;

pub use format::{Entry, Header, Line, ReadError, SocketKind, Transcript};
pub use recorder::{RecordError, Recorder, Recording};
