//! Table `settings`: what the service must remember across restarts, a word each.

use diesel::prelude::*;

use super::backend::{Connection, on_backend, put_setting};
use super::error::StoreError;
use super::rows::SettingRow;
use super::schema::settings;

/// A setting's value.
pub(super) fn get(connection: &mut Connection, key: &str) -> Result<Option<String>, StoreError> {
    Ok(on_backend!(connection, connection => {
        settings::table.find(key).select(settings::value).get_result(connection).optional()
    })?)
}

/// Keys that begin so, with their values, in the order of the keys.
pub(super) fn under(connection: &mut Connection, prefix: &str) -> Result<Vec<(String, String)>, StoreError> {
    // `0` follows `/`, which every prefix ends in.
    let beyond = format!("{}0", prefix.trim_end_matches('/'));
    Ok(on_backend!(connection, connection => {
        settings::table
            .filter(settings::key.ge(prefix).and(settings::key.lt(beyond)))
            .order(settings::key)
            .select((settings::key, settings::value))
            .load(connection)
    })?)
}

/// Removes a setting, where it is there.
pub(super) fn remove(connection: &mut Connection, key: &str) -> Result<(), StoreError> {
    on_backend!(connection, connection => diesel::delete(settings::table.find(key)).execute(connection))?;
    Ok(())
}

/// Writes a setting over its old value.
pub(super) fn set(connection: &mut Connection, key: &str, value: &str) -> Result<(), StoreError> {
    put_setting(connection, &SettingRow { key, value })?;
    Ok(())
}
