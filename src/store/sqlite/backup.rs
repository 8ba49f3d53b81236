//! A copy of the whole database while others write to it.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use diesel::sqlite::SqliteConnection;

use super::{establish, open_read_only, unopenable};
use crate::store::backend::Connection;
use crate::store::error::StoreError;
use crate::store::sequence::COPIED;
use crate::store::settings;

/// How often it is looked whether the copying has begun.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Rows by table.
type Counts = Vec<(String, i64)>;

/// Copies the database, as it is at one instant, to `target`, which is empty or not there; answers how
/// many rows each table has. The copy is sound, and has as many rows as the database had then.
///
/// Writers are kept out until the copying has begun, a fraction of a second, so that another reader sees the very
/// state that is copied; then they go on.
pub(in crate::store) fn copy(path: &Path, target: &Path) -> Result<Counts, StoreError> {
    let mut witness = open_read_only(path)?;
    let mut gate = establish(path, "rw")?;
    gate.batch_execute("BEGIN IMMEDIATE")?;
    let (from, to) = (path.to_owned(), target.to_owned());
    let copying = thread::spawn(move || vacuum(&from, &to));
    // It reads from the moment it begins, and writes nothing before it reads.
    while !copying.is_finished() && fs::metadata(target).map_or(0, |known| known.len()) == 0 {
        thread::sleep(LOOK_EVERY);
    }
    // The first read is what the transaction sees to its end.
    let seen = witness.batch_execute("BEGIN DEFERRED; SELECT count(*) FROM settings");
    drop(gate);
    let copied = copying.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    copied?;
    seen?;
    let expected = counts(&mut witness)?;
    let mut copy = open_read_only(target)?;
    let found = counts(&mut copy)?;
    if found != expected {
        return Err(unopenable(target, "the copy has not as many rows as the database"));
    }
    drop(copy);
    mark(target).map_err(|error| unopenable(target, error))?;
    let mut copy = open_read_only(target)?;
    let verdict: String = diesel::select(sql::<Text>(
        "(SELECT group_concat(integrity_check) FROM (SELECT integrity_check FROM pragma_integrity_check LIMIT 5))",
    ))
    .get_result(&mut copy)?;
    if verdict != "ok" {
        return Err(StoreError::corrupt(format!("the copy is not sound: {verdict}")));
    }
    Ok(found)
}

/// Writes a compact copy in one go.
fn vacuum(path: &Path, target: &Path) -> Result<(), StoreError> {
    let mut connection = open_read_only(path)?;
    diesel::sql_query("VACUUM INTO ?")
        .bind::<Text, _>(target.to_string_lossy())
        .execute(&mut connection)
        .map(drop)
        .map_err(|error| unopenable(target, error))
}

/// Has a copy know that it is one.
pub(super) fn mark(target: &Path) -> Result<(), StoreError> {
    let mut connection = Connection::Sqlite(establish(target, "rw")?);
    settings::set(&mut connection, COPIED, "1")
}

fn counts(connection: &mut SqliteConnection) -> Result<Counts, StoreError> {
    diesel::table! {
        sqlite_master (name) {
            #[sql_name = "type"]
            kind -> Text,
            name -> Text,
        }
    }
    let names: Vec<String> = sqlite_master::table
        .filter(sqlite_master::kind.eq("table"))
        .filter(sqlite_master::name.not_like("sqlite_%"))
        .order(sqlite_master::name.asc())
        .select(sqlite_master::name)
        .load(connection)?;
    let mut counts = Vec::with_capacity(names.len());
    for name in names {
        let quoted = name.replace('"', "\"\"");
        let count: i64 = diesel::select(sql::<BigInt>(&format!("(SELECT count(*) FROM \"{quoted}\")")))
            .get_result(connection)?;
        counts.push((name, count));
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::store::sqlite::open;

    #[test]
    fn a_copy_is_one_state_while_another_writes_and_its_writes_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.db");
        let mut writer = open(&path).unwrap();
        // Enough that the copying takes its time.
        writer
            .batch_execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000) \
                 INSERT INTO settings SELECT 'filler ' || i, hex(randomblob(100)) FROM n",
            )
            .unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let told = ended.clone();
        let writing = thread::spawn(move || {
            let mut written = 0;
            // Two rows belong together.
            while !told.load(Ordering::SeqCst) {
                let text = format!(
                    "BEGIN IMMEDIATE; INSERT INTO settings VALUES ('a{written}', ''); \
                     INSERT INTO stream_breaks (from_ts, to_ts, cause, created_at) VALUES ({written}, 1, '', 1); COMMIT"
                );
                writer.batch_execute(&text).unwrap();
                written += 1;
                // Whoever asks without a pause can keep all others from SQLite's lock.
                thread::sleep(LOOK_EVERY);
            }
            written
        });
        for round in 0..3 {
            let target = dir.path().join(format!("copy{round}.db"));
            let counts = copy(&path, &target).unwrap();
            let of = |name: &str| counts.iter().find(|(known, _)| known == name).unwrap().1;
            assert_eq!(of("settings"), 60_000 + of("stream_breaks"));
            assert!(of("__diesel_schema_migrations") > 0);
        }
        ended.store(true, Ordering::SeqCst);
        assert!(writing.join().unwrap() > 20, "nothing was written meanwhile");
        let names =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let left: Vec<String> =
            names.filter(|name| name.starts_with("copy") && !name.ends_with(".db")).collect();
        assert_eq!(left, [""; 0], "a copy is one file");
    }
}
