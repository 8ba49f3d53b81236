//! One connection to a PostgreSQL server: made, set up, migrated, and made anew once it is lost.
//!
//! The protocol and TLS are spoken in Rust by `tokio-postgres`. One thread drives the sockets of all
//! connections; whoever asks something blocks until it is answered, which is the store's thread or a
//! command's, never that of the actors.

use std::cell::RefCell;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::dsl::sql;
use diesel::migration::{Migration, MigrationSource, MigrationVersion};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Text};
use diesel_async::AsyncPgConnection;
use diesel_async::async_connection_wrapper::{AsyncConnectionWrapper, BlockOn};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use tokio::runtime::Runtime;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::{StoreError, cut};
use super::migrate::{number, refuse_newer, refuse_older, versions_known};
use line::Line;

mod line;
mod passfile;
mod target;
mod tls;

pub(super) use target::Target;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/postgres");

/// What the advisory lock of a migration is called; it ends with its transaction.
const MIGRATING: i64 = 0x6361_6e64_6c65; // "candle"

/// How long the handshake may take beyond the time to connect.
const SHAKE_HANDS_WITHIN: Duration = Duration::from_secs(5);

/// How long one answer may take before the connection is given up, where somebody waits who cannot
/// press Ctrl-C. The kernel notices a machine that is gone; a server that hangs, or something between that
/// swallows what is sent, it takes for alive. Longer than the server itself lets a write wait for another.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// How long one answer may take before the connection is given up, of one that only reads: for all that somebody
/// waits for it who could press Ctrl-C, a script could not. Everything is read by the page or by the pair, so that
/// what takes longer is a lock, a server that hangs, or one that is past its strength.
pub(super) const READ_WITHIN: Duration = Duration::from_secs(60);

/// How long a write waits for another that has begun, unless told otherwise.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// What diesel's queries go through.
pub(super) type Wire = AsyncConnectionWrapper<AsyncPgConnection, Waiting>;

/// A connection, and what it takes to make it anew.
pub(super) struct Server {
    pub(super) wire: Wire,
    line: Arc<Line>,
    target: Target,
    /// How long an answer may take; none: as long as it takes.
    patience: Option<Duration>,
    /// How long a write waits for another that has begun.
    pub(super) lock_timeout: Duration,
    /// It was opened for reading only.
    pub(super) is_read_only: bool,
}

/// Blocks the calling thread until the one that drives the sockets has an answer. Not tokio's own
/// way, which panics on a thread that runs actors.
pub(super) struct Waiting(Arc<Line>);

thread_local! {
    /// Of the connection that this thread is about to wrap, since the wrapper makes its [`Waiting`] itself.
    static ABOUT_TO_WRAP: RefCell<Option<Arc<Line>>> = const { RefCell::new(None) };
}

impl BlockOn for Waiting {
    fn block_on<F: Future>(&self, future: F) -> F::Output {
        block_on(self.0.wait(future))
    }

    fn get_runtime() -> Waiting {
        Waiting(ABOUT_TO_WRAP.take().expect("whoever wraps a connection has said which"))
    }
}

/// Blocks until the future is done. Where the thread runs actors, tokio counts what a task of theirs awaits
/// and, once that is much, has it wait for its next turn, which never comes while this blocks: so nothing is
/// counted here.
fn block_on<F: Future>(future: F) -> F::Output {
    futures_executor::block_on(tokio::task::unconstrained(future))
}

fn wrap(connection: AsyncPgConnection, line: &Arc<Line>) -> Wire {
    ABOUT_TO_WRAP.set(Some(line.clone()));
    Wire::from(connection)
}

/// What drives the sockets.
fn driver() -> &'static Runtime {
    static DRIVER: OnceLock<Runtime> = OnceLock::new();
    DRIVER.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("candlekeep-pg")
            .enable_all()
            .build()
            .expect("the system gives a thread and a poll at the start of a process")
    })
}

impl Server {
    /// Makes the connection anew where it is lost. What was prepared on it is gone, and so is a
    /// transaction that was open.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`], whatever the reason: it was right once.
    pub(super) fn revive(&mut self) -> Result<(), StoreError> {
        if !self.line.is_lost() {
            return Ok(());
        }
        (self.wire, self.line) = connect(&self.target).map_err(|refused| refused.for_now())?;
        self.line.wait_for(self.patience);
        Ok(())
    }

    /// The connection for questions that go out together: each is sent once it is polled, whatever others wait for, and
    /// the server answers them in that order. But a statement that is not prepared yet goes out only once it is.
    pub(super) fn shared(&self) -> &AsyncPgConnection {
        &self.wire
    }

    /// Blocks until what is asked through [`Server::shared`] is answered, all of it within the time of one answer.
    pub(super) fn together<F: Future>(&self, asked: F) -> F::Output {
        block_on(self.line.wait(asked))
    }

    /// Says how long an answer may take from now on before the connection is given up; none: as long as it
    /// takes.
    pub(super) fn wait_for(&mut self, patience: Option<Duration>) {
        self.patience = patience;
        self.line.wait_for(patience);
    }
}

/// Opens the database for reading and writing, and migrates it. `place` is its address for people.
pub(super) fn open(target: Target, place: &str) -> Result<Server, StoreError> {
    let mut server = reach(target, place)?;
    migrate(&mut server, place, &MIGRATIONS)?;
    server.wait_for(None);
    Ok(server)
}

/// Opens the database for reading; a replica will do.
pub(super) fn open_read_only(target: Target, place: &str) -> Result<Server, StoreError> {
    let mut server = reach(target, place)?;
    let known = versions_known::<Pg>(&MIGRATIONS).map_err(|why| unopenable(place, why))?;
    let applied = versions_applied(&mut server.wire)?;
    if applied.is_empty() {
        return Err(StoreError::Absent { place: place.to_owned() });
    }
    refuse_newer(place, &applied, &known)?;
    refuse_older(place, &applied, &known)?;
    server.is_read_only = true;
    server.wait_for(Some(READ_WITHIN));
    Ok(server)
}

fn reach(target: Target, place: &str) -> Result<Server, StoreError> {
    let (wire, line) = connect(&target).map_err(|refused| refused.at_first(place))?;
    let lock_timeout = LOCK_TIMEOUT;
    let mut server = Server { wire, line, target, patience: None, lock_timeout, is_read_only: false };
    server.wait_for(Some(ANSWER_WITHIN));
    Ok(server)
}

/// Why there is no connection.
struct Refused {
    why: String,
    /// Trying again may help.
    may_pass: bool,
}

impl Refused {
    fn for_now(self) -> StoreError {
        StoreError::Unreachable { why: self.why }
    }

    fn at_first(self, place: &str) -> StoreError {
        if self.may_pass { self.for_now() } else { unopenable(place, self.why) }
    }
}

fn connect(target: &Target) -> Result<(Wire, Arc<Line>), Refused> {
    let tls = tls::client_config(target).map_err(|why| Refused { why, may_pass: false })?;
    let (mut config, within) = (target.config.clone(), target.config.get_connect_timeout().copied());
    if config.get_password().is_none()
        && let Some(password) = passfile::password(&config, target.pass_file.as_deref())
    {
        config.password(password);
    }
    // Spawned, not blocked on: the calling thread may be one that runs actors.
    let connecting = driver().spawn(async move {
        let within = within.unwrap_or_default() + SHAKE_HANDS_WITHIN;
        let shaking = shake_hands(config, MakeRustlsConnect::new(tls));
        tokio::time::timeout(within, shaking).await.unwrap_or_else(|_| {
            Err(Refused { why: format!("no answer within {} s", within.as_secs()), may_pass: true })
        })
    });
    let connected = block_on(connecting);
    let (connection, line) =
        connected.map_err(|error| Refused { why: error.to_string(), may_pass: false })??;
    Ok((wrap(connection, &line), line))
}

async fn shake_hands(
    target: tokio_postgres::Config,
    tls: MakeRustlsConnect,
) -> Result<(AsyncPgConnection, Arc<Line>), Refused> {
    let (client, connection) = target.connect(tls).await.map_err(|error| refused(&error))?;
    let line = Line::drive(async move {
        if let Err(error) = connection.await {
            log::debug!(error:% = error; "the connection to the database has ended");
        }
    });
    let connection = AsyncPgConnection::try_from(client).await;
    Ok((connection.map_err(|error| Refused { why: cut(&error.to_string()), may_pass: true })?, line))
}

/// A server that refuses who asks, or proves not to be the one that is meant, goes on doing so until
/// somebody changes something; one that is not there, starting or full may be there later.
fn refused(error: &tokio_postgres::Error) -> Refused {
    let mut why = error.to_string();
    let mut cause = std::error::Error::source(error);
    let mut is_wrong_server = why.starts_with("invalid configuration");
    while let Some(deeper) = cause {
        let said = deeper.to_string();
        let wrong = ["invalid peer certificate", "server does not support TLS"];
        is_wrong_server |= wrong.iter().any(|wrong| said.contains(wrong));
        if !why.contains(&said) {
            why = format!("{why}: {said}");
        }
        cause = deeper.source();
    }
    if why.contains("password missing") {
        why += ": put it into ~/.pgpass, which nobody else may read, or into PGPASSWORD";
    }
    // Classes of PostgreSQL's error codes (manual, appendix A): authorization, no such database, no privilege.
    let is_refusal = error
        .code()
        .is_some_and(|code| ["28", "3D", "42"].iter().any(|class| code.code().starts_with(class)));
    Refused { why: cut(&why), may_pass: !is_wrong_server && !is_refusal }
}

/// Brings the schema up to date in one transaction, after a copy of what is there to a schema of its
/// own. Nothing is changed before the tables are known to be ours.
fn migrate<M: MigrationSource<Pg>>(
    server: &mut Server,
    place: &str,
    migrations: &M,
) -> Result<(), StoreError> {
    let wire = &mut server.wire;
    let known = versions_known::<Pg>(migrations).map_err(|why| unopenable(place, why))?;
    let applied = versions_applied(wire)?;
    refuse_newer(place, &applied, &known)?;
    if applied.len() == known.len() {
        return Ok(());
    }
    // How long it takes to copy and change all that is there, nobody knows.
    server.line.wait_for(None);
    let outcome = wire.transaction(|wire| {
        // Another process may be at it, or have done it by the time that it lets this one; and nobody writes
        // while tables are copied one after the other.
        diesel::select(advisory_lock(MIGRATING)).execute(wire)?;
        if has_table(wire, "lease")? {
            wire.batch_execute("SELECT 1 FROM lease WHERE name = 'writers' FOR UPDATE")?;
        }
        let applied = versions_applied(wire)?;
        refuse_newer(place, &applied, &known)?;
        match applied.last() {
            Some(version) if applied.len() < known.len() => copy_to_schema(wire, number(version))?,
            Some(_) => return Ok(()),
            None if has_table(wire, "candles")? => {
                let why = "it has a table candles that is not ours".to_owned();
                return Err(Undone(StoreError::NotOurs { place: place.to_owned(), why }));
            }
            None => {}
        }
        let migrated = wire.run_pending_migrations(ByRef(migrations));
        migrated.map(drop).map_err(|why| {
            // Whoever has lost the connection meanwhile may have it migrated the next time.
            let is_lost = wire.batch_execute("SELECT 1").map_err(StoreError::from);
            Undone(match is_lost {
                Err(lost @ StoreError::Unreachable { .. }) => lost,
                _ => unopenable(place, format!("its migration failed: {why}")),
            })
        })
    });
    outcome.map_err(|Undone(error)| match error {
        StoreError::Statement(error) => unopenable(place, error),
        error => error,
    })?;
    if let (Some(from), Some(to)) = (applied.last(), known.last()) {
        log::info!(database = place, from = number(from), to = number(to); "schema migrated, with a copy of before in a schema of its own");
    }
    Ok(())
}

/// A source of migrations that is wanted again after it was used.
struct ByRef<'a, M>(&'a M);

impl<M: MigrationSource<Pg>> MigrationSource<Pg> for ByRef<'_, M> {
    fn migrations(&self) -> diesel::migration::Result<Vec<Box<dyn Migration<Pg>>>> {
        self.0.migrations()
    }
}

/// Why a migration's transaction was undone.
struct Undone(StoreError);

impl From<StoreError> for Undone {
    fn from(error: StoreError) -> Self {
        Undone(error)
    }
}

impl From<diesel::result::Error> for Undone {
    fn from(error: diesel::result::Error) -> Self {
        Undone(error.into())
    }
}

#[declare_sql_function]
extern "SQL" {
    /// Waits for a lock that ends with the transaction.
    #[sql_name = "pg_advisory_xact_lock"]
    fn advisory_lock(key: BigInt);
}

/// Whether the search path leads to a table of this name. Not by `to_regclass`, which within one
/// transaction may go on saying that there is none.
fn has_table(wire: &mut Wire, name: &str) -> QueryResult<bool> {
    let known = sql::<Bool>(
        "EXISTS (SELECT 1 FROM pg_tables WHERE schemaname = ANY (current_schemas(false)) AND tablename = ",
    );
    diesel::select(known.bind::<Text, _>(name).sql(")")).get_result(wire)
}

/// Which migrations a database has had, ascending; none where it has none of our tables.
fn versions_applied(wire: &mut Wire) -> Result<Vec<String>, StoreError> {
    diesel::table! {
        __diesel_schema_migrations (version) {
            version -> Text,
        }
    }
    if !has_table(wire, "__diesel_schema_migrations")? {
        return Ok(Vec::new());
    }
    let versions = __diesel_schema_migrations::table
        .select(__diesel_schema_migrations::version)
        .order(__diesel_schema_migrations::version.asc())
        .load::<MigrationVersion<'static>>(wire)?;
    Ok(versions.iter().map(ToString::to_string).collect())
}

/// Copies every table of ours, keys and numbering too, to a schema of its own, in the place of an older copy:
/// `candlekeep_S_schema_N`, where S is the schema that the tables are in.
fn copy_to_schema(wire: &mut Wire, version: &str) -> QueryResult<()> {
    let schema = sql::<Text>("quote_ident('candlekeep_' || current_schema() || '_schema_' || ");
    let schema: String = diesel::select(schema.bind::<Text, _>(version).sql(")")).get_result(wire)?;
    let mut script = format!("DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema};");
    for table in super::schema::TABLES.iter().chain(&["__diesel_schema_migrations"]) {
        // One that a later migration makes is not there yet.
        if !has_table(wire, table)? {
            continue;
        }
        script += &format!(
            "CREATE TABLE {schema}.{table} (LIKE {table} INCLUDING ALL); \
             INSERT INTO {schema}.{table} OVERRIDING SYSTEM VALUE SELECT * FROM {table};"
        );
        if super::schema::NUMBERED_TABLES.contains(table) {
            script += &number_on(&format!("{schema}.{table}"));
        }
    }
    wire.batch_execute(&script)
}

/// A statement after which a table whose rows came with their numbers goes on behind them.
pub(super) fn number_on(table: &str) -> String {
    format!(
        "SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT coalesce(max(id), 0) + 1 FROM {table}), false);"
    )
}

fn unopenable(place: &str, why: impl ToString) -> StoreError {
    StoreError::Unopenable { place: place.to_owned(), why: cut(&why.to_string()) }
}
