//! Table `lease`: which process collects into the database. One at a time logs in and spends.
//!
//! On SQLite the lock on a file beside the database decides (`sqlite::lock`), and the row says
//! whose it is: a lock ends with its process however that ends, and lasts while it is paused.
//! Where there is no such file the row decides, by its expiry ([`standing`]).

use std::fs::File;

use diesel::prelude::*;
use ring::rand::{SecureRandom, SystemRandom};

use super::backend::{Connection, on_backend, put_lease};
use super::error::{StoreError, cut};
use super::schema::lease;
use crate::domain::Timestamp;

/// How long a lease lasts from its last renewal, in seconds of wall time.
pub const LEASE_S: i64 = 15;

/// The one lease there is.
const COLLECTOR: &str = "collector";

/// The right to collect, for as long as this lives and is renewed.
#[derive(Debug)]
pub struct Lease {
    holder: String,
    command: String,
    host: String,
    pid: i64,
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
}

impl LeaseState {
    /// The process, for people: `run, pid 4711 on HOST`.
    pub fn who(&self) -> String {
        format!("{}, pid {} on {}", self.command, self.pid, self.host)
    }
}

/// A row of the table.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
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
        LeaseRow {
            name: COLLECTOR.to_owned(),
            holder: lease.holder.clone(),
            command: lease.command.clone(),
            host: lease.host.clone(),
            pid: lease.pid,
            epoch: lease.epoch,
            acquired_at: lease.acquired_at.0,
            renewed_at: renewed_at.0,
            expires_at: renewed_at.plus(lasts_s).0,
        }
    }

    fn is_released(&self) -> bool {
        self.expires_at <= self.renewed_at
    }

    fn state(self, alive: bool) -> LeaseState {
        LeaseState {
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
    command: &str,
    lock: Option<File>,
    now: Timestamp,
) -> Result<Lease, StoreError> {
    let (row, holder) = (find(connection)?, new_holder()?);
    if lock.is_none() && standing(row.as_ref(), &holder, now, 0) == Standing::Held {
        return Err(leased(row));
    }
    let lease = Lease {
        holder,
        command: command.to_owned(),
        host: cut(&rustix::system::uname().nodename().to_string_lossy()),
        pid: i64::from(std::process::id()),
        epoch: row.map_or(1, |row| row.epoch + 1),
        acquired_at: now,
        _lock: lock,
    };
    put_lease(connection, &LeaseRow::new(&lease, now, LEASE_S))?;
    Ok(lease)
}

/// The refusal of a lease that the row's holder has. A row that was given back, or none, is of
/// a process that has the lock and has not written who it is yet.
pub(super) fn leased(row: Option<LeaseRow>) -> StoreError {
    let by = row.filter(|row| !row.is_released()).map(|row| Box::new(row.state(true)));
    StoreError::Leased { by }
}

/// Makes the lease last from `now` on. A row that is gone is written anew.
pub(super) fn renew(connection: &mut Connection, lease: &Lease, now: Timestamp) -> Result<(), StoreError> {
    let row = find(connection)?;
    match row {
        Some(row) if row.holder != lease.holder => {
            Err(StoreError::LeaseLost { to: Box::new(row.state(true)) })
        }
        _ => Ok(put_lease(connection, &LeaseRow::new(lease, now, LEASE_S)).map(drop)?),
    }
}

/// Gives the lease back, unless it is another's by now. The row stays, for `status`.
pub(super) fn release(connection: &mut Connection, lease: &Lease, now: Timestamp) -> Result<(), StoreError> {
    if find(connection)?.is_some_and(|row| row.holder == lease.holder) {
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
        row.state(alive)
    }))
}

pub(super) fn find(connection: &mut Connection) -> Result<Option<LeaseRow>, StoreError> {
    Ok(on_backend!(connection, connection => {
        lease::table.find(COLLECTOR).select(LeaseRow::as_select()).get_result(connection).optional()
    })?)
}

/// A name that no other process has: 128 random bits.
fn new_holder() -> Result<String, StoreError> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| StoreError::NoRandomness)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
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
        check(Some(row(-14, 1)), "b", 14, Standing::Held);
        check(Some(row(-15, 0)), "b", 0, Standing::Expired);
        check(Some(row(-99, -84)), "b", 0, Standing::Expired);
        check(Some(row(-3, 12)), "a", 0, Standing::Own);
        check(Some(row(-99, -84)), "a", 99, Standing::Own);
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
        one.renew_lease(&first, NOW.plus(10)).unwrap();
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
