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
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel::sql_types::{BigInt, Double, Integer, Nullable, Text};
use diesel::sqlite::{Sqlite, SqliteConnection};
use diesel::upsert::excluded;

use super::attempts::WriteAttempt;
use super::error::StoreError;
use super::lease::LeaseRow;
use super::many::CANDLE_COLUMNS;
use super::postgres::Server;
use super::rows::{CandleRow, CoverageRow, SettingRow};
use super::schema::{heal_attempts, lease, settings};
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

/// What a commit waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lasting {
    /// The disk: what was committed survives a power cut.
    Disk,
    /// Nothing: it survives the process, and goes to the disk with the next commit that waits. For signs of life, which
    /// nobody misses after a power cut.
    Process,
}

/// Begins a transaction on SQLite that may write: its write lock is taken now, so that a transaction once
/// begun does not fail for another writer halfway. What its commit waits for is said each time: whatever became of the
/// transaction before, none is hurried that ought to wait.
pub(super) fn begin_write(lasting: Lasting) -> &'static str {
    match lasting {
        Lasting::Disk => "PRAGMA synchronous = FULL; BEGIN IMMEDIATE",
        Lasting::Process => "PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE",
    }
}

/// What begins a transaction on PostgreSQL that may write, on a connection that is not known to be lost.
///
/// It waits for the one row that all writers lock, so that commit order is `seq` order and the lease
/// cannot change hands halfway; but not for ever, should the other be stuck. A process that is paused
/// in the middle loses its transaction, and with it the row. What it reads after that is read anew: under a
/// stricter isolation, which a role may have by default, the lease would be read as before the wait. And a commit is on the disk when it
/// returns, even where the server is set not to wait for that, unless it is not to be `lasting`.
pub(super) fn begin_write_on(server: &mut Server, lasting: Lasting) -> Result<String, StoreError> {
    if server.is_read_only {
        return Err(StoreError::Unwritable { why: "it was opened for reading only".to_owned() });
    }
    server.revive()?;
    let waits = match lasting {
        Lasting::Disk => {
            "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
        }
        Lasting::Process => "SET LOCAL synchronous_commit = off",
    };
    let (lock_ms, idle_ms) = (server.lock_timeout.as_millis().max(1), IDLE_TIMEOUT.as_millis());
    Ok(format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = {lock_ms}; SET LOCAL idle_in_transaction_session_timeout = {idle_ms}; \
         {waits}; \
         INSERT INTO lease VALUES ('writers', '', '', '', 0, 0, 0, 0, 0) ON CONFLICT DO NOTHING; \
         SELECT 1 FROM lease WHERE name = 'writers' FOR UPDATE"
    ))
}

/// A process that says nothing for so long in the middle of a transaction has lost it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

impl Connection {
    /// Begins a transaction whose reads all see the same state.
    pub(super) fn begin_read(&mut self) -> Result<(), StoreError> {
        self.revive()?;
        Ok(match self {
            Connection::Sqlite(connection) => connection.batch_execute("BEGIN DEFERRED"),
            Connection::Postgres(server) => {
                server.wire.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            }
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

/// A bar that is inserted into an SQLite file unless there is one with its key.
///
/// Spelled by hand, and found by its type among what is prepared. diesel's own insert asks each column over and over
/// whether it is there at all, and that of `ON CONFLICT DO NOTHING` is built anew for every row and looked up by its text.
struct InsertOrIgnore<'a>(&'a CandleRow<'a>);

impl QueryFragment<Sqlite> for InsertOrIgnore<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        let InsertOrIgnore(row) = self;
        macro_rules! bind {
            ($($column:ident: $kind:ty),*) => {$(
                out.push_sql(", ");
                out.push_bind_param::<$kind, _>(&row.$column)?;
            )*};
        }
        out.push_sql("INSERT OR IGNORE INTO candles (");
        out.push_sql(CANDLE_COLUMNS);
        out.push_sql(") VALUES (");
        out.push_bind_param::<Text, _>(row.pair)?;
        bind!(timeframe: Text, timestamp: BigInt, open: Double, high: Double, low: Double, close: Double);
        bind!(volume: BigInt, source: Text, created_at: BigInt);
        bind!(bid_open: Double, bid_high: Double, bid_low: Double, bid_close: Double);
        bind!(ask_open: Double, ask_high: Double, ask_low: Double, ask_close: Double);
        bind!(revision: Integer, updated_at: BigInt, seq: BigInt, feed_id: Nullable<BigInt>);
        out.push_sql(")");
        Ok(())
    }
}

impl QueryId for InsertOrIgnore<'_> {
    type QueryId = InsertOrIgnore<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl RunQueryDsl<SqliteConnection> for InsertOrIgnore<'_> {}

/// Inserts a bar into an SQLite file unless there is one with its key; answers how many rows that made.
pub(super) fn insert_candle_or_ignore(
    connection: &mut SqliteConnection,
    row: &CandleRow<'_>,
) -> QueryResult<usize> {
    InsertOrIgnore(row).execute(connection)
}

/// A run of the ledger that goes on in the state that it had. Spelled by hand, since diesel has every update prepared anew.
struct KeepRun<'a>(&'a CoverageRow<'a>);

impl QueryFragment<Sqlite> for KeepRun<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        let KeepRun(row) = self;
        out.push_sql("UPDATE coverage SET to_ts = ");
        out.push_bind_param::<BigInt, _>(&row.to_ts)?;
        out.push_sql(", reason = ");
        out.push_bind_param::<Text, _>(row.reason)?;
        out.push_sql(", evidence = ");
        out.push_bind_param::<Text, _>(row.evidence)?;
        out.push_sql(", updated_at = ");
        out.push_bind_param::<BigInt, _>(&row.updated_at)?;
        out.push_sql(" WHERE pair = ");
        out.push_bind_param::<Text, _>(row.pair)?;
        out.push_sql(" AND timeframe = ");
        out.push_bind_param::<Text, _>(row.timeframe)?;
        out.push_sql(" AND from_ts = ");
        out.push_bind_param::<BigInt, _>(&row.from_ts)
    }
}

impl QueryId for KeepRun<'_> {
    type QueryId = KeepRun<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl RunQueryDsl<SqliteConnection> for KeepRun<'_> {}

/// Writes a run of the ledger in an SQLite file over the one of its key, which is of the same state. Most are this: a run
/// goes on for another bucket. The index by state stays as it is, where to replace the row would be to take it out of all of them
/// and to put it in again.
pub(super) fn keep_run(connection: &mut SqliteConnection, row: &CoverageRow<'_>) -> QueryResult<usize> {
    KeepRun(row).execute(connection)
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
