//! Opening an SQLite file: create, set up, migrate; or read only.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::dsl::sql;
use diesel::migration::{MigrationSource, MigrationVersion};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use diesel::sqlite::{Sqlite, SqliteConnection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::error::{StoreError, cut};
use super::migrate::{number, refuse_newer, refuse_older, versions_known};
use crate::files::{beside, create_for_group, sync_folder};

pub(super) mod backup;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// How long a statement waits for another process's write lock, in milliseconds.
const BUSY_TIMEOUT_MS: u32 = 5_000;
/// The log is folded in at this many bytes, and cut back to them should a long read have let it grow.
const LOG_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// How long folding the log in waits for readers, in milliseconds: nothing is written meanwhile.
const FOLD_TIMEOUT_MS: u32 = 200;
/// Pages of a file that a connection keeps which only reads, KiB; of itself it would come to keep 2,000. The system
/// has in memory what is read again and again, once for all connections.
const READER_CACHE_KIB: u32 = 512;
/// A reader that looks whether the lock is held holds it for an instant itself; whoever wants it
/// tries so often, this long apart, before taking it for another's.
const LOCK_TRIES: u32 = 25;
const LOCK_TRY_EVERY: Duration = Duration::from_millis(20);
/// What needs no escape in the path of a `file:` address.
const PATH_ESCAPES: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'_').remove(b'-').remove(b'~');

/// Opens the file for reading and writing, creates it where absent, and migrates it.
/// Where that fails, a file that it created is gone again.
pub(super) fn open(path: &Path) -> Result<SqliteConnection, StoreError> {
    let created = create_if_absent(path)?;
    let opened = set_up(path);
    // Busy: another process has just found the file and is filling it.
    if created && matches!(&opened, Err(error) if !matches!(error, StoreError::Busy { .. })) {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            // What cannot be removed is an empty file at worst, and the error below is the cause.
            let _ = fs::remove_file(beside(path, suffix));
        }
    }
    opened
}

/// A second connection, for reading, which keeps the log and its index beside the file when the one that
/// writes is closed: to be dropped after that one.
///
/// Closing the last connection that may write removes them, and then another user, who may read the
/// file but make none beside it, can open it no more. This one may not write, so its end removes nothing.
pub(super) fn anchor(path: &Path) -> Result<SqliteConnection, StoreError> {
    let mut connection = establish(path, "ro")?;
    // Holds the file from its first read on.
    is_empty(&mut connection, path)?;
    Ok(connection)
}

/// The write-ahead log of a file that is written, kept from growing without end.
pub(super) struct Log {
    path: PathBuf,
    /// Length at which it is folded in next, bytes.
    fold_at: u64,
}

impl Log {
    pub(super) fn of(path: &Path) -> Log {
        Log { path: beside(path, "-wal"), fold_at: u64::from(LOG_BYTES_MAX) }
    }

    /// Folds the log into the file where it has grown too long. SQLite does so by itself at every
    /// thousandth page, but then begins the log anew only if nobody reads just then; where bots read
    /// one after the other, somebody always does. Waits for them, a little.
    ///
    /// # Errors
    /// Those of any write, but for readers in the way.
    pub(super) fn keep_bounded(&mut self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let length = || fs::metadata(&self.path).map_or(0, |file| file.len());
        let grown_to = length();
        if grown_to < self.fold_at {
            return Ok(());
        }
        let patience_ms: i64 = diesel::select(sql::<BigInt>("(SELECT timeout FROM pragma_busy_timeout)"))
            .get_result(connection)?;
        connection.batch_execute(&format!("PRAGMA busy_timeout = {FOLD_TIMEOUT_MS}"))?;
        let folded = fold_log(connection);
        connection.batch_execute(&format!("PRAGMA busy_timeout = {patience_ms}"))?;
        match folded {
            // A reader in the way is told by the length that stays.
            Ok(()) | Err(StoreError::Busy { .. }) => {}
            Err(error) => return Err(error),
        }
        let left = length();
        if left < u64::from(LOG_BYTES_MAX) {
            self.fold_at = u64::from(LOG_BYTES_MAX);
            return Ok(());
        }
        if self.fold_at == u64::from(LOG_BYTES_MAX) {
            log::warn!(
                file:% = self.path.display(), bytes = left;
                "a reader keeps a transaction open: the log grows until it ends"
            );
        }
        self.fold_at = left + u64::from(LOG_BYTES_MAX) / 4;
        Ok(())
    }
}

/// Folds the write-ahead log into the file and empties it. A reader in the way leaves a part of
/// it for the next checkpoint, which is no error.
pub(super) fn fold_log(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    Ok(connection.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)")?)
}

/// Has statements wait so long for another process's write lock.
pub(super) fn wait_for_others(
    connection: &mut SqliteConnection,
    patience: Duration,
) -> Result<(), StoreError> {
    Ok(connection.batch_execute(&format!("PRAGMA busy_timeout = {}", patience.as_millis()))?)
}

/// The file whose lock says that a process collects into this database. Not the database itself:
/// closing any handle on that would give up the locks that SQLite has on it. Two names of one
/// database have one lock. It is never deleted, else two processes could each lock one.
pub(super) fn lock_path(path: &Path) -> PathBuf {
    beside(&fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()), ".lock")
}

/// Locks the file for as long as what is returned lives, and creates it where absent. None where
/// another process, or another part of this one, has the lock.
///
/// # Errors
/// [`StoreError::Unopenable`] where it cannot be made, or its file system knows no locks.
pub(super) fn lock(path: &Path) -> Result<Option<File>, StoreError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
    let file = options.open(path).map_err(|error| unopenable(path, error))?;
    for tried in 1..=LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) if tried < LOCK_TRIES => thread::sleep(LOCK_TRY_EVERY),
            Err(TryLockError::WouldBlock) => break,
            Err(TryLockError::Error(error)) => return Err(unopenable(path, error)),
        }
    }
    Ok(None)
}

/// Whether a process has the file locked; none where that cannot be told. Never creates it.
pub(super) fn is_locked(path: &Path) -> Option<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(false),
        Err(_) => return None,
    };
    // Closing the file gives the lock back.
    match file.try_lock_shared() {
        Ok(()) => Some(false),
        Err(TryLockError::WouldBlock) => Some(true),
        Err(TryLockError::Error(_)) => None,
    }
}

fn set_up(path: &Path) -> Result<SqliteConnection, StoreError> {
    let mut connection = establish(path, "rw")?;
    migrate(&mut connection, path, MIGRATIONS)?;
    Ok(connection)
}

/// Has a commit on the disk when it returns (FULL), and no reader wait for it (WAL).
fn make_durable(connection: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    connection
        .batch_execute(&format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA journal_size_limit = {LOG_BYTES_MAX}"
        ))
        .map_err(|error| in_opening(path, error))?;
    let journal_mode: String = diesel::select(sql::<Text>("(SELECT journal_mode FROM pragma_journal_mode)"))
        .get_result(connection)
        .map_err(|error| in_opening(path, error))?;
    if journal_mode == "wal" {
        Ok(())
    } else {
        Err(unopenable(path, "its file system does not support SQLite's write-ahead log"))
    }
}

/// Opens the file for reading, beside whatever process is writing it. Never creates one.
pub(super) fn open_read_only(path: &Path) -> Result<SqliteConnection, StoreError> {
    if !path.try_exists().map_err(|error| unopenable(path, error))? {
        // Relative to what, is what one wants to know.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        return Err(StoreError::Absent { place: path.display().to_string() });
    }
    let mut connection = establish(path, "ro")?;
    let known = versions_known::<Sqlite>(&MIGRATIONS).map_err(|why| unopenable(path, why))?;
    let applied = versions_applied(&mut connection, path)?;
    let place = path.display().to_string();
    refuse_newer(&place, &applied, &known)?;
    refuse_older(&place, &applied, &known)?;
    connection
        .batch_execute(&format!("PRAGMA cache_size = -{READER_CACHE_KIB}"))
        .map_err(|error| in_opening(path, error))?;
    Ok(connection)
}

/// Makes an empty file where there is none; answers whether it did.
fn create_if_absent(path: &Path) -> Result<bool, StoreError> {
    match create_for_group(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(unopenable(path, error)),
    }
}

/// Connects to an existing file. `mode` is `rw` or `ro`; neither creates it.
fn establish(path: &Path, mode: &str) -> Result<SqliteConnection, StoreError> {
    let text = path.to_str().ok_or_else(|| unopenable(path, "the path is not UTF-8"))?;
    let address = format!("file:{}?mode={mode}", utf8_percent_encode(text, PATH_ESCAPES));
    let mut connection = SqliteConnection::establish(&address).map_err(|error| unopenable(path, error))?;
    connection
        .batch_execute(&format!("PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}"))
        .map_err(|error| in_opening(path, error))?;
    Ok(connection)
}

/// Brings the schema up to date. A database that has one already is copied first, to
/// `<file>.schema-N.bak`. Nothing is changed before the file is known to be ours.
fn migrate<M: MigrationSource<Sqlite>>(
    connection: &mut SqliteConnection,
    path: &Path,
    migrations: M,
) -> Result<(), StoreError> {
    let known = versions_known(&migrations).map_err(|why| unopenable(path, why))?;
    let applied = if is_empty(connection, path)? { Vec::new() } else { versions_applied(connection, path)? };
    refuse_newer(&path.display().to_string(), &applied, &known)?;
    make_durable(connection, path)?;
    if applied.len() == known.len() {
        return Ok(());
    }
    if let Some(version) = applied.last() {
        back_up(connection, path, version)?;
    }
    connection
        .exclusive_transaction(|connection| {
            // Another process may have done it while this one waited for the lock.
            connection.run_pending_migrations(migrations).map(drop).map_err(Failed::Migration)
        })
        .map_err(|failed| match failed {
            Failed::Statement(error) => in_opening(path, error),
            Failed::Migration(why) => unopenable(path, format!("its migration failed: {why}")),
        })?;
    if let (Some(from), Some(to)) = (applied.last(), known.last()) {
        let copy = backup_of(path, from);
        log::info!(database:% = path.display(), from = number(from), to = number(to), copy:% = copy.display(); "schema migrated");
    }
    Ok(())
}

/// Where the copy of before a migration from this version lies.
fn backup_of(path: &Path, version: &str) -> PathBuf {
    beside(path, &format!(".schema-{}.bak", number(version)))
}

/// Why a migration's transaction was undone.
enum Failed {
    Statement(diesel::result::Error),
    Migration(Box<dyn std::error::Error + Send + Sync>),
}

impl From<diesel::result::Error> for Failed {
    fn from(error: diesel::result::Error) -> Self {
        Failed::Statement(error)
    }
}

fn back_up(connection: &mut SqliteConnection, path: &Path, version: &str) -> Result<(), StoreError> {
    let backup = backup_of(path, version);
    let half_done = beside(path, &format!(".schema-{}.tmp", number(version)));
    let failed = |why: &dyn std::fmt::Display| {
        unopenable(path, format!("its copy before the migration, {}, failed: {why}", backup.display()))
    };
    match fs::remove_file(&half_done) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&error)),
        _ => {}
    }
    let file = create_for_group(&half_done).map_err(|error| failed(&error))?;
    diesel::sql_query("VACUUM INTO ?")
        .bind::<Text, _>(half_done.to_string_lossy())
        .execute(connection)
        .map_err(|error| failed(&error))?;
    backup::mark(&half_done).map_err(|error| failed(&error))?;
    // On the disk before anything is changed that it is a copy of.
    let kept = file.sync_all().and_then(|()| fs::rename(&half_done, &backup));
    kept.and_then(|()| sync_folder(&backup)).map_err(|error| failed(&error))
}

fn is_empty(connection: &mut SqliteConnection, path: &Path) -> Result<bool, StoreError> {
    let objects: i64 = diesel::select(sql::<BigInt>("(SELECT count(*) FROM sqlite_master)"))
        .get_result(connection)
        .map_err(|error| in_opening(path, error))?;
    Ok(objects == 0)
}

/// Which migrations a database has had, ascending. Asks without diesel's harness, which would
/// create its table where there is none.
fn versions_applied(connection: &mut SqliteConnection, path: &Path) -> Result<Vec<String>, StoreError> {
    diesel::table! {
        __diesel_schema_migrations (version) {
            version -> Text,
        }
    }
    let versions = __diesel_schema_migrations::table
        .select(__diesel_schema_migrations::version)
        .order(__diesel_schema_migrations::version.asc())
        .load::<MigrationVersion<'static>>(connection)
        .map_err(|error| in_opening(path, error))?;
    if versions.is_empty() {
        return Err(StoreError::NotOurs {
            place: path.display().to_string(),
            why: "it has no schema of ours".to_owned(),
        });
    }
    Ok(versions.iter().map(ToString::to_string).collect())
}

fn unopenable(path: &Path, why: impl ToString) -> StoreError {
    let (place, why) = (path.display().to_string(), cut(&why.to_string()));
    // It is ours, and what is wrong with it is neither its place nor who may read it.
    if why.contains("malformed") {
        return StoreError::corrupt(format_args!("{place}: {why}"));
    }
    StoreError::Unopenable { place, why }
}

/// What a failed statement means while the file is being opened.
fn in_opening(path: &Path, error: diesel::result::Error) -> StoreError {
    let why = error.to_string();
    match StoreError::from(error) {
        busy @ StoreError::Busy { .. } => busy,
        _ if why.contains("not a database") || why.contains("no such table: __diesel") => {
            StoreError::NotOurs { place: path.display().to_string(), why: cut(&why) }
        }
        _ => unopenable(path, why),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use diesel::connection::BoxableConnection;
    use diesel::migration::{Migration, MigrationMetadata, MigrationName, Result as MigrationResult};

    use super::*;
    use crate::domain::pair::MAJOR_PAIRS;
    use crate::domain::{Bar, BarKey, Fact, FactBatch, Ohlc, Price, Source, Timeframe, Timestamp};
    use crate::store::{DatabaseUrl, Store};

    /// The real migrations and one more, as a later release would have.
    #[derive(Clone, Copy)]
    struct Next(&'static str);
    struct NextMigration(&'static str);
    struct NextName;

    impl MigrationSource<Sqlite> for Next {
        fn migrations(&self) -> MigrationResult<Vec<Box<dyn Migration<Sqlite>>>> {
            let mut all: Vec<Box<dyn Migration<Sqlite>>> = MIGRATIONS.migrations()?;
            all.push(Box::new(NextMigration(self.0)));
            Ok(all)
        }
    }

    impl Migration<Sqlite> for NextMigration {
        fn run(&self, connection: &mut dyn BoxableConnection<Sqlite>) -> MigrationResult<()> {
            Ok(connection.batch_execute(self.0)?)
        }
        fn revert(&self, _: &mut dyn BoxableConnection<Sqlite>) -> MigrationResult<()> {
            Ok(())
        }
        fn metadata(&self) -> &dyn MigrationMetadata {
            &NextName
        }
        fn name(&self) -> &dyn MigrationName {
            &NextName
        }
    }

    impl MigrationMetadata for NextName {}
    impl MigrationName for NextName {
        fn version(&self) -> MigrationVersion<'_> {
            "9999".into()
        }
    }
    impl std::fmt::Display for NextName {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("9999_next")
        }
    }

    fn database() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("with space?.db");
        open(&path).unwrap().batch_execute("INSERT INTO settings VALUES ('a', 'b')").unwrap();
        (dir, path)
    }

    fn files(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_connection_that_only_reads_keeps_few_pages() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.db");
        let kept = |connection: &mut SqliteConnection| {
            let asked = diesel::select(sql::<BigInt>("(SELECT cache_size FROM pragma_cache_size)"));
            asked.get_result::<i64>(connection).unwrap()
        };
        // Less than nothing is KiB.
        assert_eq!(kept(&mut open(&path).unwrap()), -2_000);
        assert_eq!(kept(&mut open_read_only(&path).unwrap()), -512);
    }

    /// A bar of each pair in the n-th bucket.
    fn bucket(n: i64) -> Arc<FactBatch> {
        let bar = |pair| {
            let price = Price::from_units(100_000_000).unwrap();
            let ohlc = Ohlc { open: price, high: price, low: price, close: price };
            // A Tuesday.
            let start = Timestamp(1_705_968_000 + n * 300);
            let key = BarKey { pair, timeframe: Timeframe::M5, start };
            Fact::Settled(Bar { key, bid: ohlc, ask: ohlc, volume: 9, source: Source::Stream })
        };
        Arc::new(FactBatch { evidence: format!("session {n}").into(), facts: MAJOR_PAIRS.map(bar).into() })
    }

    #[test]
    fn a_bucket_of_all_pairs_is_written_with_few_pages_beside_those_of_its_bars() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.db");
        let mut store = Store::open(&DatabaseUrl::sqlite(&path)).unwrap();
        // Bars and runs of each pair, a run a bucket, are more than a page has room for.
        for n in 0..90 {
            store.commit(&[bucket(n)], Timestamp(0)).unwrap();
        }
        let log = beside(&path, "-wal");
        let pages = || (fs::metadata(&log).unwrap().len() / (24 + 4_096)) as usize;
        let mut written = Vec::new();
        for n in 90..99 {
            let emptied = "PRAGMA wal_checkpoint(TRUNCATE)";
            establish(&path, "rw").unwrap().batch_execute(emptied).unwrap();
            assert_eq!(pages(), 0);
            // No news: the last run of each pair goes on.
            let facts = bucket(n).facts.clone();
            store
                .commit(&[Arc::new(FactBatch { evidence: "session 89".into(), facts })], Timestamp(0))
                .unwrap();
            written.push(pages());
        }
        written.sort_unstable();
        // At the median no longer bar is made.
        let of_bars = MAJOR_PAIRS.len();
        assert!((of_bars..of_bars + 14).contains(&written[4]), "{written:?} pages");
    }

    #[test]
    fn the_ledger_is_the_same_behind_its_move_into_rows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.db");
        let mut store = Store::open(&DatabaseUrl::sqlite(&path)).unwrap();
        for n in [0, 1, 2, 5] {
            store.commit(&[bucket(n)], Timestamp(0)).unwrap();
        }
        drop(store);
        let mut connection = establish(&path, "rw").unwrap();
        let told = |connection: &mut SqliteConnection| {
            let rows = "(SELECT count(*) || ' ' || group_concat(row, char(10)) FROM (SELECT pair || timeframe || ' ' || from_ts \
                        || ' ' || to_ts || state || reason || evidence || updated_at AS row FROM coverage \
                        ORDER BY pair, timeframe, from_ts))";
            diesel::select(sql::<Text>(rows)).get_result::<String>(connection).unwrap()
        };
        let before = told(&mut connection);
        assert!(before.starts_with("140 "), "{before}");
        let indexes = "(SELECT group_concat(name) FROM (SELECT name FROM sqlite_master WHERE tbl_name = 'coverage' \
                       AND type = 'index' ORDER BY name))";
        let found = |connection: &mut SqliteConnection| {
            diesel::select(sql::<Text>(indexes)).get_result::<String>(connection).unwrap()
        };
        let known = found(&mut connection);
        // As an older program left it, which a newer one finds.
        let down = include_str!("../../migrations/sqlite/0006_ledger_in_rows/down.sql");
        connection.batch_execute(down).unwrap();
        connection.batch_execute("DELETE FROM __diesel_schema_migrations WHERE version = '0006'").unwrap();
        assert_eq!(told(&mut connection), before);
        drop(connection);
        let mut connection = open(&path).unwrap();
        assert_eq!((told(&mut connection), found(&mut connection)), (before, known));
        let fresh = diesel::select(sql::<BigInt>("(SELECT count(*) FROM freshness)"));
        fresh.get_result::<i64>(&mut connection).unwrap();
    }

    #[test]
    fn a_migration_leaves_a_copy_of_what_was_before() {
        let (_dir, path) = database();
        let mut connection = establish(&path, "rw").unwrap();
        migrate(&mut connection, &path, Next("CREATE TABLE later (id INTEGER)")).unwrap();
        connection.batch_execute("SELECT * FROM later").unwrap();

        let backup = beside(&path, ".schema-6.bak");
        #[cfg(unix)]
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&backup).unwrap().permissions()) & 0o137,
            0,
            "as private as the database"
        );
        let mut old = open_read_only(&backup).unwrap();
        assert!(old.batch_execute("SELECT * FROM later").is_err());
        let value: String =
            diesel::select(sql::<Text>("(SELECT value FROM settings)")).get_result(&mut old).unwrap();
        assert_eq!(value, "b");
        // Once more finds nothing to do.
        migrate(&mut connection, &path, Next("CREATE TABLE later (id INTEGER)")).unwrap();
    }

    #[test]
    fn a_newer_schema_is_refused_for_reading_and_writing() {
        let (_dir, path) = database();
        let mut connection = establish(&path, "rw").unwrap();
        migrate(&mut connection, &path, Next("CREATE TABLE later (id INTEGER)")).unwrap();
        for opened in [open(&path), open_read_only(&path)] {
            match opened.map(drop) {
                Err(StoreError::NewerSchema { found, known, .. }) => {
                    assert_eq!((found.as_str(), known.as_str()), ("9999", "0006"));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_failed_migration_changes_nothing() {
        let (_dir, path) = database();
        let mut connection = establish(&path, "rw").unwrap();
        let failed = migrate(&mut connection, &path, Next("CREATE TABLE later (id INTEGER); nonsense"));
        assert!(matches!(failed, Err(StoreError::Unopenable { .. })), "{failed:?}");
        drop(connection);
        let mut connection = open(&path).unwrap();
        assert!(connection.batch_execute("SELECT * FROM later").is_err());
    }

    #[test]
    fn a_first_start_that_fails_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        // A directory in the place of the log: the file can be created but not set up.
        let path = dir.path().join("new.db");
        fs::create_dir(beside(&path, "-wal")).unwrap();
        let failed = open(&path).map(drop);
        assert!(failed.is_err(), "{failed:?}");
        assert_eq!(files(dir.path()), ["new.db-wal"]);
    }

    #[test]
    fn what_belongs_to_others_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().join("text.db");
        fs::write(&text, "dear diary, ".repeat(100)).unwrap();
        let other = dir.path().join("other.db");
        let mut theirs = SqliteConnection::establish(other.to_str().unwrap()).unwrap();
        theirs.batch_execute("CREATE TABLE theirs (id INTEGER)").unwrap();
        drop(theirs);
        for path in [&text, &other] {
            let before = fs::read(path).unwrap();
            for opened in [open(path), open_read_only(path)] {
                let failed = opened.map(drop);
                assert!(matches!(failed, Err(StoreError::NotOurs { .. })), "{failed:?}");
            }
            assert_eq!(fs::read(path).unwrap(), before);
        }
    }

    /// `.cargo/config.toml` says so to the compiler of SQLite, and what it says can be passed over without a word.
    #[test]
    fn the_bundled_library_is_built_as_meant() {
        let (_dir, path) = database();
        let mut connection = open(&path).unwrap();
        let options = "(SELECT group_concat(compile_options, ' ') FROM pragma_compile_options)";
        let options: String = diesel::select(sql::<Text>(options)).get_result(&mut connection).unwrap();
        let has = |option: &str| options.split(' ').any(|built| built.starts_with(option));
        assert!(has("THREADSAFE=2") && has("DEFAULT_MEMSTATUS=0"), "{options}");
        for gone in [
            "ENABLE_MEMORY_MANAGEMENT",
            "ENABLE_API_ARMOR",
            "ENABLE_STAT4",
            "ENABLE_FTS",
            "ENABLE_RTREE",
            "SOUNDEX",
        ] {
            assert!(!has(gone), "{gone} in {options}");
        }
    }

    #[test]
    fn an_unmigrated_database_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty.db");
        fs::write(&path, "").unwrap();
        let failed = open_read_only(&path).map(drop);
        assert!(matches!(failed, Err(StoreError::NotOurs { .. })), "{failed:?}");
    }

    #[cfg(unix)]
    #[test]
    fn others_cannot_read_the_file() {
        use std::os::unix::fs::PermissionsExt;
        let (_dir, path) = database();
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o137, 0);
    }
}
