//! The seam between the two databases.
//!
//! Every query is written once, in typed diesel, inside [`on_backend!`], which compiles it for
//! each kind of connection. What the databases spell differently stands in this file, one
//! function each. To add a database: a variant here, its arm in the macro and in these
//! functions, a folder in `migrations/`.

use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::result::QueryResult;
use diesel::sql_types::BigInt;
use diesel::sqlite::SqliteConnection;
use diesel::upsert::excluded;

use super::attempts::WriteAttempt;
use super::error::StoreError;
use super::lease::LeaseRow;
use super::postgres::Server;
use super::rows::{CandleRow, CoverageRow, SettingRow};
use super::schema::{candles, coverage, heal_attempts, lease, settings};
use crate::domain::Timestamp;

/// One connection to either database.
pub(super) enum Connection {
    Sqlite(SqliteConnection),
    Postgres(Box<Server>),
}

/// Runs one query text on whichever database the connection is to.
macro_rules! on_backend {
    ($connection:expr, $name:ident => $query:expr) => {
        match $connection {
            $crate::store::backend::Connection::Sqlite($name) => $query,
            $crate::store::backend::Connection::Postgres(server) => {
                let $name = &mut server.wire;
                $query
            }
        }
    };
}
pub(super) use on_backend;

/// Begins a transaction on PostgreSQL that may write.
///
/// It waits for the one row that all writers lock, so that commit order is `seq` order and the lease
/// cannot change hands halfway; but not for ever, should the other be stuck. A process that is paused
/// in the middle loses its transaction, and with it the row. What it reads after that is read anew: under a
/// stricter isolation, which a role may have by default, the lease would be read as before the wait. And a commit is on the disk when it
/// returns, even where the server is set not to wait for that.
fn begin_write_on_server(lock_timeout: Duration) -> String {
    let (lock_ms, idle_ms) = (lock_timeout.as_millis().max(1), IDLE_TIMEOUT.as_millis());
    format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = {lock_ms}; SET LOCAL idle_in_transaction_session_timeout = {idle_ms}; \
         SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'; \
         INSERT INTO lease VALUES ('writers', '', '', '', 0, 0, 0, 0, 0) ON CONFLICT DO NOTHING; \
         SELECT 1 FROM lease WHERE name = 'writers' FOR UPDATE"
    )
}

/// A process that says nothing for so long in the middle of a transaction has lost it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

impl Connection {
    /// Begins a transaction that may write: SQLite's write lock is taken now, so that a
    /// transaction once begun does not fail for another writer halfway; PostgreSQL's likewise.
    pub(super) fn begin_write(&mut self) -> Result<(), StoreError> {
        if matches!(self, Connection::Postgres(server) if server.is_read_only) {
            return Err(StoreError::Unwritable { why: "it was opened for reading only".to_owned() });
        }
        let on_server = match self {
            Connection::Sqlite(_) => String::new(),
            Connection::Postgres(server) => begin_write_on_server(server.lock_timeout),
        };
        self.begin("BEGIN IMMEDIATE", &on_server)
    }

    /// Begins a transaction whose reads all see the same state.
    pub(super) fn begin_read(&mut self) -> Result<(), StoreError> {
        self.begin("BEGIN DEFERRED", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    }

    fn begin(&mut self, on_sqlite: &str, on_postgres: &str) -> Result<(), StoreError> {
        self.revive()?;
        Ok(match self {
            Connection::Sqlite(connection) => connection.batch_execute(on_sqlite),
            Connection::Postgres(server) => server.wire.batch_execute(on_postgres),
        }?)
    }

    pub(super) fn commit(&mut self) -> QueryResult<()> {
        on_backend!(self, connection => connection.batch_execute("COMMIT"))
    }

    /// Undoes the open transaction. That there is none is no failure: SQLite undoes a
    /// transaction by itself when the disk is full or fails, PostgreSQL when the connection is lost.
    pub(super) fn roll_back(&mut self) {
        // The error tells nothing that the failure before it has not told.
        let _ = on_backend!(self, connection => connection.batch_execute("ROLLBACK"));
    }

    /// Connects anew to a server that the connection to is lost.
    pub(super) fn revive(&mut self) -> Result<(), StoreError> {
        match self {
            Connection::Sqlite(_) => Ok(()),
            Connection::Postgres(server) => server.revive(),
        }
    }

    /// Whether bars are better written many at a time: each statement is a journey to a server.
    pub(super) fn is_remote(&self) -> bool {
        matches!(self, Connection::Postgres(_))
    }

    /// What a failed write means: PostgreSQL words its errors in the language that it is set to, so one
    /// of no kind that diesel knows is taken to pass once somebody has done something about it.
    pub(super) fn judge(&self, error: StoreError) -> StoreError {
        match (self, error) {
            (
                Connection::Postgres(_),
                StoreError::Statement(diesel::result::Error::DatabaseError(
                    diesel::result::DatabaseErrorKind::Unknown,
                    info,
                )),
            ) => StoreError::Unwritable { why: super::error::cut(info.message()) },
            (_, error) => error,
        }
    }
}

/// The time that leases go by: that of the server, where several machines ask for one, else `now`.
pub(super) fn lease_time(connection: &mut Connection, now: Timestamp) -> QueryResult<Timestamp> {
    match connection {
        Connection::Sqlite(_) => Ok(now),
        Connection::Postgres(server) => {
            let seconds = sql::<BigInt>("floor(extract(epoch FROM clock_timestamp()))::bigint");
            diesel::select(seconds).get_result(&mut server.wire).map(Timestamp)
        }
    }
}

/// Inserts a bar unless there is one with its key; answers how many rows that made.
///
/// On SQLite `INSERT OR IGNORE` and not `ON CONFLICT DO NOTHING`, which diesel builds anew and looks
/// up by its whole text for every row; this one it finds by its type.
pub(super) fn insert_candle_or_ignore(
    connection: &mut Connection,
    row: &CandleRow<'_>,
) -> QueryResult<usize> {
    match connection {
        Connection::Sqlite(connection) => {
            diesel::insert_or_ignore_into(candles::table).values(row).execute(connection)
        }
        Connection::Postgres(server) => {
            diesel::insert_into(candles::table).values(row).on_conflict_do_nothing().execute(&mut server.wire)
        }
    }
}

/// Writes runs over whatever began at the same buckets.
pub(super) fn put_runs(connection: &mut Connection, rows: &[CoverageRow<'_>]) -> QueryResult<()> {
    match connection {
        Connection::Sqlite(connection) => rows.iter().try_for_each(|row| {
            diesel::replace_into(coverage::table).values(row).execute(connection).map(drop)
        }),
        Connection::Postgres(server) => super::many::put_runs(&mut server.wire, rows),
    }
}

/// Removes runs by pair, timeframe and start.
pub(super) fn remove_runs(connection: &mut Connection, keys: &[(&str, &str, i64)]) -> QueryResult<()> {
    match connection {
        Connection::Sqlite(connection) => keys
            .iter()
            .try_for_each(|key| diesel::delete(coverage::table.find(*key)).execute(connection).map(drop)),
        Connection::Postgres(server) => super::many::remove_runs(&mut server.wire, keys),
    }
}

/// Writes a setting over its old value.
pub(super) fn put_setting(connection: &mut Connection, row: &SettingRow<'_>) -> QueryResult<usize> {
    match connection {
        Connection::Sqlite(connection) => {
            diesel::replace_into(settings::table).values(row).execute(connection)
        }
        Connection::Postgres(server) => diesel::insert_into(settings::table)
            .values(row)
            .on_conflict(settings::key)
            .do_update()
            .set(settings::value.eq(excluded(settings::value)))
            .execute(&mut server.wire),
    }
}

/// Writes the lease over its last holder's.
pub(super) fn put_lease(connection: &mut Connection, row: &LeaseRow) -> QueryResult<usize> {
    match connection {
        Connection::Sqlite(connection) => diesel::replace_into(lease::table).values(row).execute(connection),
        Connection::Postgres(server) => diesel::insert_into(lease::table)
            .values(row)
            .on_conflict(lease::name)
            .do_update()
            .set(row)
            .execute(&mut server.wire),
    }
}

/// Writes an attempt over what was known of the same stretch.
pub(super) fn put_attempt(connection: &mut Connection, row: &WriteAttempt<'_>) -> QueryResult<usize> {
    match connection {
        Connection::Sqlite(connection) => {
            diesel::replace_into(heal_attempts::table).values(row).execute(connection)
        }
        Connection::Postgres(server) => diesel::insert_into(heal_attempts::table)
            .values(row)
            .on_conflict((
                heal_attempts::pair,
                heal_attempts::timeframe,
                heal_attempts::from_ts,
                heal_attempts::to_ts,
            ))
            .do_update()
            .set((
                heal_attempts::times.eq(excluded(heal_attempts::times)),
                heal_attempts::next_at.eq(excluded(heal_attempts::next_at)),
            ))
            .execute(&mut server.wire),
    }
}
