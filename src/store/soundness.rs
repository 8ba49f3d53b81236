//! What `doctor` asks a database about itself: whether the file is sound, what the server is and what it
//! lets this user do.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text};

use super::backend::Connection;
use super::error::{StoreError, cut};

/// What is wrong with a file is told up to so many findings.
const FINDINGS_MAX: u32 = 3;

/// A PostgreSQL server, as it shows itself to this user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    /// `15.4`, and what else its builder says.
    pub version: String,
    /// The user may read and change the bars.
    pub may_write: bool,
    /// The user may make tables, which migrations do.
    pub may_create: bool,
    /// It is a replica, which takes no writes.
    pub is_replica: bool,
}

/// What is wrong with an SQLite file, a line each, at most a few; nothing for a server, which sees to that itself.
/// Reads the whole file.
pub(super) fn findings(connection: &mut Connection) -> Result<Vec<String>, StoreError> {
    let Connection::Sqlite(connection) = connection else { return Ok(Vec::new()) };
    // Not the pragma's own bound: as a function's argument it would be the name of a table.
    let all = format!("SELECT quick_check FROM pragma_quick_check LIMIT {FINDINGS_MAX}");
    let query = format!("(SELECT group_concat(quick_check, '; ') FROM ({all}))");
    let told: String = diesel::select(sql::<Text>(&query)).get_result(connection)?;
    Ok(if told == "ok" { Vec::new() } else { told.split("; ").map(cut).collect() })
}

/// What the server is; none for a file.
pub(super) fn server(connection: &mut Connection) -> Result<Option<ServerFacts>, StoreError> {
    let Connection::Postgres(server) = connection else { return Ok(None) };
    let (version, may_write, may_create, is_replica) = diesel::select((
        sql::<Text>("current_setting('server_version')"),
        sql::<Bool>(
            "has_table_privilege('candles', 'SELECT') AND has_table_privilege('candles', 'INSERT') \
             AND has_table_privilege('candles', 'UPDATE') AND has_table_privilege('candles', 'DELETE')",
        ),
        sql::<Bool>("coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)"),
        sql::<Bool>("pg_is_in_recovery()"),
    ))
    .get_result(&mut server.wire)?;
    Ok(Some(ServerFacts { version, may_write, may_create, is_replica }))
}
