//! `candlekeep backup`: a checked copy of an SQLite database, also while `run` writes.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::whole_file::WholeFile;
use super::{say, ticking};
use crate::cli::{Backup, Report};
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::store::{self, StoreError};

/// For the owner to write and the group to read, as the database itself.
const MODE: u32 = 0o640;
/// How often somebody who waits sees that it goes on.
const TICK: Duration = Duration::from_millis(250);

/// Makes the copy.
///
/// # Errors
/// Where there is no SQLite database, the file is there already or cannot be written, or the copy is not
/// as it should be. Then nothing half-made is left.
pub fn execute(args: &Backup, config: &Config) -> Result<Exit, Failure> {
    let place = &args.file;
    let Some(database) = config.database.sqlite_path() else {
        return Err(Failure::usage(
            "backup copies an SQLite file: of PostgreSQL take pg_dump, or `candlekeep copy` into another database",
        ));
    };
    check_place(place, database, args.force)?;
    let cannot = |error| Failure::failed(format_args!("cannot write {}: {error}", place.display()));
    let file = WholeFile::create(place, MODE).map_err(cannot)?;
    let progress = ticking("copying and checking", TICK);
    let copied = store::back_up(&config.database, file.path());
    progress.finish_and_clear();
    let copied = copied.map_err(|error| match &error {
        // It is the copy that cannot be written: a full disk is nobody's configuration.
        StoreError::Unopenable { place, .. } if Path::new(place) == file.path() => Failure::failed(error),
        _ => error.into(),
    })?;
    let bytes = file.keep().map_err(cannot)?;
    let bars = copied.iter().find(|(name, _)| name == "candles").map_or(0, |(_, rows)| *rows);
    match args.format {
        Report::Text => {
            let (from, to) = (database.display(), place.display());
            let size = indicatif::HumanBytes(bytes);
            say(format_args!("backed up {from} to {to}: {bars} bars, {size}, checked"));
            say(format_args!(
                "to restore: stop the service; move {from} and its -wal and -shm files away; \
                 copy {to} to {from}; chown that to the service's user; start the service"
            ));
        }
        Report::Json => say(json!({
            "file": place.display().to_string(),
            "bytes": bytes,
            "bars": bars,
            "rows": copied.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        })),
    }
    Ok(Exit::Done)
}

/// Refuses a place in which something else would be lost.
fn check_place(place: &Path, database: &Path, replaces: bool) -> Result<(), Failure> {
    let real = |path: &Path| fs::canonicalize(path).ok();
    if real(place).is_some() && real(place) == real(database) {
        return Err(Failure::usage("this is the database itself: name another file"));
    }
    for ending in ["-wal", "-journal"] {
        let mut beside = place.as_os_str().to_owned();
        beside.push(ending);
        let beside = Path::new(&beside);
        if beside.exists() {
            return Err(Failure::failed(format_args!(
                "{} is there: it belongs to a database in that place, and would damage the copy; name another file",
                beside.display()
            )));
        }
    }
    match fs::symlink_metadata(place) {
        Ok(_) if !replaces => {
            Err(Failure::failed(format_args!("{} exists already: --force replaces it", place.display())))
        }
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Failure::failed(format_args!("cannot write {}: {error}", place.display())))
        }
        _ => Ok(()),
    }
}
