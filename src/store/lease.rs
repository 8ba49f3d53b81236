//! Table `lease`: which process collects into the database, and which wait for their turn. One at a
//! time logs in and spends.
//!
//! On SQLite the lock on a file beside the database decides (`sqlite::lock`), and the row says
//! whose it is: a lock ends with its process however that ends, and lasts while it is paused.
//! On a server, which has no such file, the row decides, by its expiry on the server's clock
//! ([`standing`]). And every write looks whether the row is still the writer's ([`check`]), in its own
//! transaction and with the row locked there, so one that was paused past its expiry writes nothing.

use std::fs::File;

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use diesel_async::AsyncPgConnection;

use super::backend::{Connection, on_backend, put_lease};
use super::error::{StoreError, cut};
use super::identity::random_name;
use super::schema::lease;
use crate::domain::Timestamp;

/// How long a lease lasts from its last renewal, in seconds. Whoever waits looks every second, so
/// that one whose holder dies is another's within 15.
pub const LEASE_S: i64 = 10;

/// A holder that lives, and of whom nothing was heard for longer, seconds: six renewals have not come. It is frozen, or
/// cannot write.
pub const SILENT_AFTER_S: i64 = 2 * LEASE_S;

/// Rows of those who wait no more are removed once they are a day old.
const FORGET_STANDBY_S: i64 = 86_400;

/// The one lease there is.
const COLLECTOR: &str = "collector";
/// What the names of those begin with who wait for it.
const STANDBY: &str = "standby/";

/// A process, as the table tells it.
#[derive(Clone, Debug)]
struct Process {
    holder: String,
    command: String,
    host: String,
    pid: i64,
}

impl Process {
    /// This process, doing `command`.
    fn new(command: &str) -> Result<Process, StoreError> {
        Ok(Process {
            holder: random_name()?,
            command: command.to_owned(),
            host: this_host(),
            pid: this_pid(),
        })
    }
}

/// Name of this machine.
fn this_host() -> String {
    cut(&rustix::system::uname().nodename().to_string_lossy())
}

/// Number of this process on it.
fn this_pid() -> i64 {
    i64::from(std::process::id())
}

/// The right to collect, for as long as this lives and is renewed.
#[derive(Debug)]
pub struct Lease {
    process: Process,
    epoch: i64,
    acquired_at: Timestamp,
    /// Locked until it is dropped. None where expiry decides.
    _lock: Option<File>,
}

impl Lease {
    /// Number of this holder: one more than the last one's.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// What its holder does.
    pub fn command(&self) -> &str {
        &self.process.command
    }

    /// Since when it is this holder's.
    pub fn acquired_at(&self) -> Timestamp {
        self.acquired_at
    }

    /// By what its writes are known.
    pub(super) fn fence(&self) -> Fence {
        Fence { holder: self.process.holder.clone(), epoch: self.epoch }
    }
}

/// Whose lease it must be for a write to be let in.
#[derive(Clone, Debug)]
pub(super) struct Fence {
    holder: String,
    /// Number of this holder.
    pub(super) epoch: i64,
}

/// The last sign of life of a holder, and for how long there has been no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unchanged {
    /// Its epoch, and when it last renewed the lease.
    pub sign: (i64, Timestamp),
    /// Seconds of the asker's monotonic time.
    pub seconds: i64,
}

/// A process that waits for its turn to collect.
#[derive(Clone, Debug)]
pub struct Standby {
    process: Process,
    since: Timestamp,
}

impl Standby {
    /// This process, which wants to do `command` from `now` on.
    ///
    /// # Errors
    /// [`StoreError::NoRandomness`].
    pub fn new(command: &str, now: Timestamp) -> Result<Standby, StoreError> {
        Ok(Standby { process: Process::new(command)?, since: now })
    }

    fn name(&self) -> String {
        format!("{STANDBY}{}", self.process.holder)
    }
}

/// Who collects, or did last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseState {
    /// What was started: `run`, `demo`.
    pub command: String,
    /// Name of its machine.
    pub host: String,
    /// Its process there.
    pub pid: i64,
    /// Number of this holder, from 1 on.
    pub epoch: i64,
    /// Since when.
    pub acquired_at: Timestamp,
    /// When it was last known to live; when it ended, where released.
    pub renewed_at: Timestamp,
    /// It was given back in good order.
    pub released: bool,
    /// Its process lives.
    pub alive: bool,
    /// What time it was when this was read, by the clock of the other times here: on a server by the server's.
    pub read_at: Timestamp,
}

impl LeaseState {
    /// The process, for people: `run, pid 4711 on HOST`.
    pub fn who(&self) -> String {
        format!("{}, pid {} on {}", self.command, self.pid, self.host)
    }

    /// Whether it is this process that collects. Another machine may have one of the same number, and in containers
    /// most have.
    pub fn is_ours(&self) -> bool {
        self.alive && self.pid == this_pid() && self.host == this_host()
    }

    /// For how many seconds nothing was heard of one that lives; none while that is not long.
    pub fn silent_s(&self) -> Option<i64> {
        let silent_s = self.read_at.since(self.renewed_at);
        Some(silent_s).filter(|seconds| self.alive && *seconds > SILENT_AFTER_S)
    }
}

/// A row of the table.
#[derive(Clone, Debug, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = lease)]
pub(super) struct LeaseRow {
    name: String,
    holder: String,
    command: String,
    host: String,
    pid: i64,
    epoch: i64,
    acquired_at: i64,
    renewed_at: i64,
    expires_at: i64,
}

impl LeaseRow {
    fn new(lease: &Lease, renewed_at: Timestamp, lasts_s: i64) -> LeaseRow {
        let row = LeaseRow::of(&lease.process, lease.acquired_at, renewed_at, lasts_s);
        LeaseRow { name: COLLECTOR.to_owned(), epoch: lease.epoch, ..row }
    }

    fn of(process: &Process, since: Timestamp, renewed_at: Timestamp, lasts_s: i64) -> LeaseRow {
        LeaseRow {
            name: String::new(),
            holder: process.holder.clone(),
            command: process.command.clone(),
            host: process.host.clone(),
            pid: process.pid,
            epoch: 0,
            acquired_at: since.0,
            renewed_at: renewed_at.0,
            expires_at: renewed_at.plus(lasts_s).0,
        }
    }

    fn is_released(&self) -> bool {
        self.expires_at <= self.renewed_at
    }

    /// Of one that is refused or has lost: for whom the time does not matter.
    fn holder(self) -> Box<LeaseState> {
        let seen_at = Timestamp(self.renewed_at);
        Box::new(self.state(true, seen_at))
    }

    fn state(self, alive: bool, read_at: Timestamp) -> LeaseState {
        LeaseState {
            read_at,
            released: self.is_released(),
            command: self.command,
            host: self.host,
            pid: self.pid,
            epoch: self.epoch,
            acquired_at: Timestamp(self.acquired_at),
            renewed_at: Timestamp(self.renewed_at),
            alive,
        }
    }
}

/// What a row means to somebody who asks for the lease, where expiry decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Nobody has it: never taken, or given back.
    Free,
    /// Its holder has not renewed it in time.
    Expired,
    /// The asker has it.
    Own,
    /// Another has it.
    Held,
}

/// How the lease stands for `asker` at `now`, wall time.
///
/// `unchanged_s` says for how many seconds of monotonic time the asker has seen the row as it
/// is. A clock that was set back makes an expiry far ahead; a whole lease's length without a
/// renewal ends it all the same.
fn standing(row: Option<&LeaseRow>, asker: &str, now: Timestamp, unchanged_s: i64) -> Standing {
    match row {
        None => Standing::Free,
        Some(row) if row.is_released() => Standing::Free,
        Some(row) if row.holder == asker => Standing::Own,
        Some(row) if now.0 >= row.expires_at || unchanged_s >= LEASE_S => Standing::Expired,
        Some(_) => Standing::Held,
    }
}

/// Takes the lease for a new holder, number and all: from whomever, where `lock` is held, else
/// where the row lets it.
pub(super) fn take(
    connection: &mut Connection,
    asker: &Standby,
    lock: Option<File>,
    now: Timestamp,
    unchanged: Option<Unchanged>,
) -> Result<Lease, StoreError> {
    let row = find(connection)?;
    let unchanged_s = match (&row, unchanged) {
        (Some(row), Some(seen)) if seen.sign == (row.epoch, Timestamp(row.renewed_at)) => seen.seconds,
        // It has shown a sign of life meanwhile.
        _ => 0,
    };
    let standing = standing(row.as_ref(), &asker.process.holder, now, unchanged_s);
    if lock.is_none() && standing == Standing::Held {
        return Err(leased(row));
    }
    let epoch = row.map_or(1, |row| row.epoch + 1);
    let lease = Lease { process: asker.process.clone(), epoch, acquired_at: now, _lock: lock };
    put_lease(connection, &LeaseRow::new(&lease, now, LEASE_S))?;
    leave(connection, asker, now)?;
    Ok(lease)
}

/// Refuses who has lost the lease of an SQLite file. In a transaction that writes, nobody can take it meanwhile.
pub(super) fn check(file: &mut SqliteConnection, fence: &Fence) -> Result<(), StoreError> {
    let row = of_collector().get_result(file).optional()?;
    row.map_or(Ok(()), |row| admit(row, fence))
}

/// The same on a server, together with what else is asked. There nobody has it while its row is gone: whoever had
/// it writes it anew with the next renewal.
pub(super) async fn check_on(mut server: &AsyncPgConnection, fence: &Fence) -> Result<(), StoreError> {
    let row = diesel_async::RunQueryDsl::get_result(of_collector(), &mut server).await.optional()?;
    let gone = || StoreError::Busy { why: "the row of the lease is gone, it is written anew".to_owned() };
    admit(row.ok_or_else(gone)?, fence)
}

fn admit(row: LeaseRow, fence: &Fence) -> Result<(), StoreError> {
    if row.holder == fence.holder {
        return Ok(());
    }
    Err(StoreError::LeaseLost { to: row.holder() })
}

/// Writes down that somebody waits for the lease.
pub(super) fn wait(connection: &mut Connection, standby: &Standby, now: Timestamp) -> Result<(), StoreError> {
    let row = LeaseRow::of(&standby.process, standby.since, now, LEASE_S);
    Ok(put_lease(connection, &LeaseRow { name: standby.name(), ..row }).map(drop)?)
}

/// Writes down that somebody waits no more, and forgets those of whom nothing was heard for long.
pub(super) fn leave(
    connection: &mut Connection,
    standby: &Standby,
    now: Timestamp,
) -> Result<(), StoreError> {
    let (name, long_ago) = (standby.name(), now.plus(-FORGET_STANDBY_S).0);
    on_backend!(connection, connection => {
        diesel::delete(lease::table.filter(
            lease::name.eq(name).or(lease::name.like(format!("{STANDBY}%")).and(lease::renewed_at.lt(long_ago))),
        ))
        .execute(connection)
    })?;
    Ok(())
}

/// Who waits for the lease, longest first.
pub(super) fn standbys(connection: &mut Connection, now: Timestamp) -> Result<Vec<LeaseState>, StoreError> {
    let rows: Vec<LeaseRow> = on_backend!(connection, connection => {
        lease::table
            .filter(lease::name.like(format!("{STANDBY}%")))
            .filter(lease::expires_at.gt(now.0))
            .order((lease::acquired_at.asc(), lease::name.asc()))
            .select(LeaseRow::as_select())
            .load(connection)
    })?;
    Ok(rows.into_iter().map(|row| row.state(true, now)).collect())
}

/// The refusal of a lease that the row's holder has. A row that was given back, or none, is of
/// a process that has the lock and has not written who it is yet.
pub(super) fn leased(row: Option<LeaseRow>) -> StoreError {
    let by = row.filter(|row| !row.is_released()).map(LeaseRow::holder);
    StoreError::Leased { by }
}

/// Makes the lease last from `now` on. A row that is gone is written anew.
pub(super) fn renew(connection: &mut Connection, lease: &Lease, now: Timestamp) -> Result<(), StoreError> {
    if let Some(row) = find(connection)?.filter(|row| row.holder != lease.process.holder) {
        return Err(StoreError::LeaseLost { to: row.holder() });
    }
    Ok(put_lease(connection, &LeaseRow::new(lease, now, LEASE_S)).map(drop)?)
}

/// Gives the lease back, unless it is another's by now. The row stays, for `status`.
pub(super) fn release(connection: &mut Connection, lease: &Lease, now: Timestamp) -> Result<(), StoreError> {
    if find(connection)?.is_some_and(|row| row.holder == lease.process.holder) {
        put_lease(connection, &LeaseRow::new(lease, now, 0))?;
    }
    Ok(())
}

/// Who collects, or did last. `locked` says whether the lock is held; none where expiry decides.
pub(super) fn state(
    connection: &mut Connection,
    locked: Option<bool>,
    now: Timestamp,
) -> Result<Option<LeaseState>, StoreError> {
    Ok(find(connection)?.map(|row| {
        let alive = match locked {
            Some(locked) => locked && !row.is_released(),
            None => standing(Some(&row), "", now, 0) == Standing::Held,
        };
        row.state(alive, now)
    }))
}

pub(super) fn find(connection: &mut Connection) -> Result<Option<LeaseRow>, StoreError> {
    Ok(on_backend!(connection, connection => of_collector().get_result(connection).optional())?)
}

/// The row of the lease.
#[diesel::dsl::auto_type]
fn of_collector() -> _ {
    let name: &'static str = COLLECTOR;
    lease::table.find(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{DatabaseUrl, Store};

    const NOW: Timestamp = Timestamp(1_600_000_000);

    /// A row of holder `a`, renewed and expiring so many seconds from now.
    fn row(renewed: i64, expires: i64) -> LeaseRow {
        LeaseRow {
            name: COLLECTOR.to_owned(),
            holder: "a".to_owned(),
            command: "run".to_owned(),
            host: "host".to_owned(),
            pid: 4711,
            epoch: 3,
            acquired_at: NOW.plus(-1_000).0,
            renewed_at: NOW.plus(renewed).0,
            expires_at: NOW.plus(expires).0,
        }
    }

    fn check(row: Option<LeaseRow>, asker: &str, unchanged_s: i64, expected: Standing) {
        assert_eq!(
            standing(row.as_ref(), asker, NOW, unchanged_s),
            expected,
            "{row:?} {asker} {unchanged_s}"
        );
    }

    #[test]
    fn expiry_decides_where_no_lock_does() {
        check(None, "b", 0, Standing::Free);
        check(Some(row(-3, -3)), "b", 0, Standing::Free);
        check(Some(row(5, 5)), "b", 0, Standing::Free); // given back by a clock ahead of ours
        check(Some(row(-3, 12)), "b", 0, Standing::Held);
        check(Some(row(-9, 1)), "b", 9, Standing::Held);
        check(Some(row(-10, 0)), "b", 0, Standing::Expired);
        check(Some(row(-99, -84)), "b", 0, Standing::Expired);
        check(Some(row(-3, 12)), "a", 0, Standing::Own);
        check(Some(row(-99, -84)), "a", 99, Standing::Own);
    }

    #[test]
    fn a_process_of_the_same_number_on_another_machine_is_another() {
        let ours = LeaseRow { host: this_host(), pid: this_pid(), ..row(-3, 12) };
        assert!(ours.clone().state(true, NOW).is_ours());
        assert!(!ours.clone().state(false, NOW).is_ours());
        assert!(!LeaseRow { host: "another".to_owned(), ..ours.clone() }.state(true, NOW).is_ours());
        assert!(!LeaseRow { pid: this_pid() + 1, ..ours }.state(true, NOW).is_ours());
    }

    #[test]
    fn a_clock_that_was_set_back_makes_no_lease_eternal() {
        let year = 365 * 86_400;
        check(Some(row(year, year + LEASE_S)), "b", 0, Standing::Held);
        check(Some(row(year, year + LEASE_S)), "b", LEASE_S - 1, Standing::Held);
        check(Some(row(year, year + LEASE_S)), "b", LEASE_S, Standing::Expired);
    }

    /// As a database without a lock file: the row alone decides.
    fn by_expiry(path: &std::path::Path) -> Store {
        let mut store = Store::open(&DatabaseUrl::sqlite(path)).unwrap();
        store.lock_path = None;
        store
    }

    #[test]
    fn without_a_lock_a_lease_is_taken_once_it_has_expired() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.db");
        let (mut one, mut two) = (by_expiry(&path), by_expiry(&path));
        let first = one.acquire_lease("run", NOW).unwrap();
        one.renew_lease(&first, NOW.plus(15)).unwrap();
        let refused = two.acquire_lease("run", NOW.plus(24)).unwrap_err();
        assert!(matches!(refused, StoreError::Leased { by: Some(_) }), "{refused}");
        assert!(two.lease(NOW.plus(24)).unwrap().unwrap().alive);
        assert!(!two.lease(NOW.plus(25)).unwrap().unwrap().alive);

        let second = two.acquire_lease("run", NOW.plus(25)).unwrap();
        assert_eq!((first.epoch(), second.epoch()), (1, 2));
        let lost = one.renew_lease(&first, NOW.plus(26)).unwrap_err();
        assert!(matches!(lost, StoreError::LeaseLost { .. }), "{lost}");
        // Who has lost it does not give it back.
        one.release_lease(&first, NOW.plus(27)).unwrap();
        assert!(two.lease(NOW.plus(27)).unwrap().unwrap().alive);
        two.release_lease(&second, NOW.plus(28)).unwrap();
        assert_eq!(one.acquire_lease("run", NOW.plus(28)).unwrap().epoch(), 3);
    }
}
