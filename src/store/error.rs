//! Why the store could not do what was asked, by what the caller will do about it.

use diesel::result::{DatabaseErrorKind, Error as DieselError};

use super::lease::LeaseState;

/// Longest text of the database's that is carried along, in characters.
const WHY_CHARS_MAX: usize = 300;

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is nothing to read yet. Read commands never create a database.
    #[error("no database at {place}")]
    Absent {
        /// The file, or the server's address without its password.
        place: String,
    },
    /// It cannot be created, opened or set up: the operator must change something.
    #[error("cannot open the database {place}: {why}")]
    Unopenable {
        /// The file, or the server's address without its password.
        place: String,
        /// What the system or the database said.
        why: String,
    },
    /// It belongs to something else and is left as it is.
    #[error("{place} is not a database of candlekeep: {why}")]
    NotOurs {
        /// The file, or the server's address without its password.
        place: String,
        /// How that shows.
        why: String,
    },
    /// A newer program has written it: this one could misread it.
    #[error("the database {place} has schema {found}, this program knows none newer than {known}")]
    NewerSchema {
        /// The file, or the server's address without its password.
        place: String,
        /// Newest schema of the database.
        found: String,
        /// Newest schema of this program.
        known: String,
    },
    /// It awaits a migration, which opening it for writing does.
    #[error("the database {place} has an older schema: start `candlekeep run` once to migrate it")]
    OlderSchema {
        /// The file, or the server's address without its password.
        place: String,
    },
    /// It holds bars of another environment, which are not to be mixed with these.
    #[error(
        "the database is bound to environment \"{bound}\", not to \"{asked}\" (--accept-feed-change overrides)"
    )]
    OtherEnvironment {
        /// What it was bound to at its first write.
        bound: String,
        /// What was asked for now.
        asked: String,
    },
    /// Another process collects into it; there is one login and one spender.
    #[error("another process collects into this database: {}; stop it first", in_words(by.as_deref()))]
    Leased {
        /// Who; none where it has not said so yet.
        by: Option<Box<LeaseState>>,
    },
    /// Another process has taken over what this one was collecting.
    #[error("the lease of the database is lost to another process: {}", in_words(Some(to)))]
    LeaseLost {
        /// Which.
        to: Box<LeaseState>,
    },
    /// As many stretches are waiting to be fetched as may.
    #[error("{most} requests to fetch are open already, and no more are taken: try again once some are done")]
    TooManyRequests {
        /// So many may be open.
        most: usize,
    },
    /// Something is to be copied into it, and it is not empty.
    #[error(
        "the database that is to be copied into is not empty: {table} has {rows} rows (--replace empties it)"
    )]
    NotEmpty {
        /// Where there is something.
        table: &'static str,
        /// How much.
        rows: u64,
    },
    /// A copy into it has begun and not ended, so that it holds a part of what it should.
    #[error(
        "a copy of {from} into this database was not finished: run `candlekeep copy` again, which begins anew"
    )]
    HalfCopied {
        /// The other database.
        from: String,
    },
    /// What was copied reads otherwise than what it was copied from.
    #[error("the copy is not what it should be: {table} differs")]
    CopyDiffers {
        /// Where.
        table: &'static str,
    },
    /// What was committed is not there any more: another has taken its place that was behind, or a backup.
    #[error(
        "the database has gone back to an earlier state: commit {known} is not there, its last is {found}; \
         the next start goes on from there"
    )]
    WentBack {
        /// The last `seq` that was committed.
        known: i64,
        /// The last that is there.
        found: i64,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    NoRandomness,
    /// The server does not answer. The same call may succeed later.
    #[error("the database does not answer: {why}")]
    Unreachable {
        /// What was met instead.
        why: String,
    },
    /// Another process holds the database. The same call may succeed later.
    #[error("the database is busy: {why}")]
    Busy {
        /// What the database said.
        why: String,
    },
    /// It takes no writes now: full, read-only or failing. The same call may succeed later.
    #[error("the database cannot be written: {why}")]
    Unwritable {
        /// What the database said.
        why: String,
    },
    /// What is in the database cannot be right.
    #[error("the database is damaged: {why}")]
    Corrupt {
        /// What was found.
        why: String,
    },
    /// A statement of ours failed for another reason.
    #[error("the database refused a statement: {0}")]
    Statement(#[source] DieselError),
    /// Work on the store's thread panicked; what it had not committed is undone.
    #[error("work on the store panicked: {why}")]
    Panicked {
        /// The panic's message.
        why: String,
    },
    /// The store's thread is gone.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether the same call may succeed later without anyone changing the configuration.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            StoreError::Busy { .. } | StoreError::Unwritable { .. } | StoreError::Unreachable { .. }
        )
    }

    pub(super) fn corrupt(why: impl std::fmt::Display) -> StoreError {
        StoreError::Corrupt { why: cut(&why.to_string()) }
    }
}

impl From<DieselError> for StoreError {
    /// Diesel passes SQLite's message on but not its code; the messages are those of
    /// `sqlite3_errstr` and have not changed in years. Of PostgreSQL's errors it passes on what a
    /// program can do something about as a kind.
    fn from(error: DieselError) -> StoreError {
        let DieselError::DatabaseError(kind, info) = &error else {
            return match &error {
                DieselError::DeserializationError(why) => StoreError::corrupt(why),
                _ => StoreError::Statement(error),
            };
        };
        let message = info.message();
        match kind {
            DatabaseErrorKind::UnableToSendCommand | DatabaseErrorKind::ClosedConnection => {
                return StoreError::Unreachable { why: cut(message) };
            }
            DatabaseErrorKind::ReadOnlyTransaction => return StoreError::Unwritable { why: cut(message) },
            DatabaseErrorKind::SerializationFailure => return StoreError::Busy { why: cut(message) },
            _ => {}
        }
        let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
        let why = cut(message);
        if says(&["is locked", "locking protocol", "lock timeout", "deadlock detected"]) {
            StoreError::Busy { why }
        } else if says(&[
            "disk is full",
            "readonly database",
            "disk I/O error",
            "unable to open database file",
            "No space left on device",
            "recovery mode",
        ]) {
            StoreError::Unwritable { why }
        } else if says(&["terminating connection", "the database system is", "too many clients"]) {
            StoreError::Unreachable { why }
        } else if says(&["malformed", "not a database"]) {
            StoreError::Corrupt { why }
        } else {
            StoreError::Statement(error)
        }
    }
}

fn in_words(holder: Option<&LeaseState>) -> String {
    holder.map_or("one that has just started".to_owned(), |state| {
        format!("{}, since {}", state.who(), state.acquired_at)
    })
}

pub(super) fn cut(text: &str) -> String {
    text.chars().take(WHY_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(message: &str, retryable: bool) {
        let error = DieselError::DatabaseError(DatabaseErrorKind::Unknown, Box::new(message.to_owned()));
        assert_eq!(StoreError::from(error).is_retryable(), retryable, "{message}");
    }

    #[test]
    fn what_may_pass_by_itself_is_retryable() {
        check("database is locked", true);
        check("database table is locked", true);
        check("database or disk is full", true);
        check("attempt to write a readonly database", true);
        check("disk I/O error", true);
        check("database disk image is malformed", false);
        check("no such table: candles", false);
    }
}
