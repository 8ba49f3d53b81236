//! The seam between the two databases.
//!
//! Every query is written once, in typed diesel, inside [`on_backend!`], which compiles it for
//! each kind of connection. What the databases spell differently stands in this file, one
//! function each. To add a database: a variant here, its arm in the macro and in these
//! functions, a folder in `migrations/`.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::result::QueryResult;
use diesel::sqlite::SqliteConnection;

use super::attempts::WriteAttempt;
use super::lease::LeaseRow;
use super::rows::{CandleRow, CoverageRow, SettingRow};
use super::schema::{candles, coverage, heal_attempts, lease, settings};

/// One connection to either database.
pub(super) enum Connection {
    Sqlite(SqliteConnection),
}

/// Runs one query text on whichever database the connection is to.
macro_rules! on_backend {
    ($connection:expr, $name:ident => $query:expr) => {
        match $connection {
            $crate::store::backend::Connection::Sqlite($name) => $query,
        }
    };
}
pub(super) use on_backend;

impl Connection {
    /// Begins a transaction that may write: SQLite's write lock is taken now, so that a
    /// transaction once begun does not fail for another writer halfway.
    pub(super) fn begin_write(&mut self) -> QueryResult<()> {
        match self {
            Connection::Sqlite(connection) => connection.batch_execute("BEGIN IMMEDIATE"),
        }
    }

    /// Begins a transaction whose reads all see the same state.
    pub(super) fn begin_read(&mut self) -> QueryResult<()> {
        match self {
            Connection::Sqlite(connection) => connection.batch_execute("BEGIN DEFERRED"),
        }
    }

    pub(super) fn commit(&mut self) -> QueryResult<()> {
        on_backend!(self, connection => connection.batch_execute("COMMIT"))
    }

    /// Undoes the open transaction. That there is none is no failure: SQLite undoes a
    /// transaction by itself when the disk is full or fails.
    pub(super) fn roll_back(&mut self) {
        // The error tells nothing that the failure before it has not told.
        let _ = on_backend!(self, connection => connection.batch_execute("ROLLBACK"));
    }
}

/// Inserts a bar unless there is one with its key; answers how many rows that made.
///
/// `INSERT OR IGNORE` and not `ON CONFLICT DO NOTHING`, which diesel builds anew and looks up by
/// its whole text for every row; this one it finds by its type.
pub(super) fn insert_candle_or_ignore(
    connection: &mut Connection,
    row: &CandleRow<'_>,
) -> QueryResult<usize> {
    match connection {
        Connection::Sqlite(connection) => {
            diesel::insert_or_ignore_into(candles::table).values(row).execute(connection)
        }
    }
}

/// Writes a run over whatever began at the same bucket.
pub(super) fn put_run(connection: &mut Connection, row: &CoverageRow<'_>) -> QueryResult<usize> {
    match connection {
        Connection::Sqlite(connection) => {
            diesel::replace_into(coverage::table).values(row).execute(connection)
        }
    }
}

/// Writes a setting over its old value.
pub(super) fn put_setting(connection: &mut Connection, row: &SettingRow<'_>) -> QueryResult<usize> {
    match connection {
        Connection::Sqlite(connection) => {
            diesel::replace_into(settings::table).values(row).execute(connection)
        }
    }
}

/// Writes the lease over its last holder's.
pub(super) fn put_lease(connection: &mut Connection, row: &LeaseRow) -> QueryResult<usize> {
    match connection {
        Connection::Sqlite(connection) => diesel::replace_into(lease::table).values(row).execute(connection),
    }
}

/// Writes an attempt over what was known of the same stretch.
pub(super) fn put_attempt(connection: &mut Connection, row: &WriteAttempt<'_>) -> QueryResult<usize> {
    match connection {
        Connection::Sqlite(connection) => {
            diesel::replace_into(heal_attempts::table).values(row).execute(connection)
        }
    }
}
