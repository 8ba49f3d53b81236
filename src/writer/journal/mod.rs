//! The spool: an append-only journal file in which facts wait while the database is away.
//!
//! | file | holds |
//! |---|---|
//! | `text` | facts as lines of text (pure) |
//! | `form` | header and records as bytes: checksums, generations, what a torn tail is (pure) |
//! | `place` | which file belongs to which database (pure) |
//! | `file` | the file: preallocated, appended to, read back, emptied |
//! | `handle` | a thread that owns the file, for those who must not block |

mod file;
mod form;
mod handle;
mod place;
mod text;

pub use file::{Chunk, JOURNAL_BYTES_MAX, Journal, JournalError, PREALLOCATED, Tail, facts_waiting};
pub use handle::JournalHandle;
pub use place::paths;
