//! Which schema a database has, and which this program knows. The same for every kind of database.

use diesel::backend::Backend;
use diesel::migration::MigrationSource;

use super::error::StoreError;

/// The migrations that this program knows, ascending.
pub(super) fn versions_known<DB: Backend>(source: &dyn MigrationSource<DB>) -> Result<Vec<String>, String> {
    let migrations = source.migrations().map_err(|error| error.to_string())?;
    let mut versions: Vec<String> =
        migrations.iter().map(|migration| migration.name().version().to_string()).collect();
    versions.sort();
    Ok(versions)
}

/// Refuses a database that has had a migration that this program does not know.
pub(super) fn refuse_newer(place: &str, applied: &[String], known: &[String]) -> Result<(), StoreError> {
    match applied.iter().rev().find(|version| !known.contains(version)) {
        None => Ok(()),
        Some(found) => Err(StoreError::NewerSchema {
            place: place.to_owned(),
            found: found.clone(),
            known: known.last().cloned().unwrap_or_default(),
        }),
    }
}

/// Refuses a database that waits for a migration, where only reading is meant.
pub(super) fn refuse_older(place: &str, applied: &[String], known: &[String]) -> Result<(), StoreError> {
    if applied.len() < known.len() {
        return Err(StoreError::OlderSchema { place: place.to_owned() });
    }
    Ok(())
}

/// The number that a migration is known by: `4` of `0004`.
pub(super) fn number(version: &str) -> &str {
    match version.trim_start_matches('0') {
        "" => "0",
        number => number,
    }
}
