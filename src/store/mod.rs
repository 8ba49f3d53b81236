//! The database's door: one [`Store`] is one connection. It keeps the data contract and the
//! rules of truth that concern what is stored already.
//!
//! | file | holds |
//! |---|---|
//! | `url`, `sqlite`, `postgres`, `migrate`, `error` | where the database is; opening, migrating and copying it; what can go wrong |
//! | `backend`, `many` | the seam between the databases: all that they spell differently |
//! | `schema`, `rows` | tables, and their rows to and from the domain |
//! | `bars`, `ledger`, `feeds`, `allowance`, `breaks`, `requests`, `attempts`, `settings` | the queries on each table |
//! | `freshness` | the view of that name, and what it reckons with |
//! | `identity`, `soundness` | which database it is; what is wrong with its file, what its server allows |
//! | `lease` | who collects, and the rule by which it is another's turn |
//! | `as_of`, `pages`, `import` | bars as they were at an earlier wall time; many bars, a page at a time; bars of the user's |
//! | `sequence` | every value that bars have had, in the order of commits |
//! | `copying` | every table into another database |
//! | `retention` | deleting what is old |
//! | `outset` | what a transaction that writes begins with, and one of facts ends with: few journeys to a server |
//! | `commit`, `shelf`, `correction` | one transaction of facts; the bars it comes across; which value a bar keeps (pure) |
//! | `handle` | a thread that owns a store, for those who must not block |

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use diesel::sqlite::SqliteConnection;

use crate::domain::coverage::Run;
use crate::domain::{Bar, BarKey, FactBatch, Mark, Pair, State, Timeframe, Timestamp};
use crate::failpoint;

mod allowance;
mod as_of;
mod attempts;
mod backend;
mod bars;
mod breaks;
mod commit;
mod copying;
mod correction;
mod error;
mod feeds;
mod freshness;
mod handle;
mod identity;
mod import;
mod lease;
mod ledger;
mod many;
mod migrate;
mod outset;
mod pages;
mod postgres;
mod requests;
mod retention;
mod rows;
mod schema;
mod sequence;
mod settings;
mod shelf;
mod soundness;
mod sqlite;
mod url;

pub use allowance::{AllowanceKey, AllowanceSeen, AllowanceState, Refusals, Spend, SpendId, SpendOn};
pub use attempts::{AttemptKey, AttemptRow};
pub use breaks::{BREAKS_MAX, StreamBreak};
pub use commit::CommitReport;
pub use copying::TableSum;
pub use correction::{Verdict, judge};
pub use error::StoreError;
pub use feeds::{Feed, WatchedFeed};
pub use freshness::{ExpectedBars, Freshness};
pub use handle::{QUEUED_MAX, StoreHandle};
pub use import::IMPORT_EVIDENCE;
pub use lease::{LEASE_S, Lease, LeaseState, SILENT_AFTER_S, Standby, Unchanged};
pub use requests::{FetchRequest, OPEN_REQUESTS_MAX, REOPENED_KEPT_S, REQUESTS_MAX, Reopened, RequestState};
pub use retention::Deleted;
pub use rows::{Revision, RevisionKind, StoredBar};
pub use sequence::{Among, LogEntry, LogPage, LogRead};
pub use soundness::ServerFacts;
pub use url::{DatabaseUrl, NotADatabaseUrl};

use backend::{Connection, lease_time};
use lease::Fence;
use outset::{Outset, Reach};
use url::Whereabouts;

/// Copies an SQLite database, as it is at one instant and while others write to it, to a file that is empty
/// or not there; checks the copy, and answers how many rows each table has.
///
/// # Errors
/// Those of opening and reading; [`StoreError::Busy`] where a writer keeps it for long.
pub fn back_up(url: &DatabaseUrl, target: &Path) -> Result<Vec<(String, i64)>, StoreError> {
    match url.place() {
        Whereabouts::File(path) => sqlite::backup::copy(path, target),
        Whereabouts::Server(_) => Err(StoreError::Unopenable {
            place: url.to_string(),
            why: "a server is backed up by its own means, pg_dump, or with `candlekeep copy`".to_owned(),
        }),
    }
}

/// The setting that says which environment the database belongs to.
const ENVIRONMENT: &str = "environment";

/// Which bars to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BarQuery {
    /// Bars that start at this instant or later.
    pub from: Option<Timestamp>,
    /// Bars that start before this instant.
    pub to: Option<Timestamp>,
    /// At most so many: the newest ones.
    pub count: Option<usize>,
}

/// One connection to the database.
pub struct Store {
    connection: Connection,
    /// Of an SQLite file that is written; dropped after the connection, which is what it is for.
    _anchor: Option<SqliteConnection>,
    log: Option<sqlite::Log>,
    /// The file whose lock decides who collects; none where the lease's expiry does.
    lock_path: Option<PathBuf>,
    /// Timeframes derived from 5-minute bars, shortest first.
    longer: Vec<Timeframe>,
    /// What `candles.feed_id` is to be, by pair.
    feed_ids: HashMap<Pair, i64>,
    /// Whose lease it must be for a write to be let in, once this one has taken it.
    fence: Option<Fence>,
    /// The highest `seq` that this connection has committed.
    last_seq: i64,
    /// Nobody has looked yet whether this is a copy that has given no `seq`, or it is one.
    may_be_copy: bool,
}

impl Store {
    /// Opens the database for reading and writing. An SQLite file is created where absent, for
    /// the owner to write and the group to read; on a server the tables are. A schema that is behind is
    /// migrated, after a copy to `<file>.schema-N.bak`, or to a schema of its own. Where that
    /// fails, nothing half-made stays behind. Blocks, a server's answer included.
    ///
    /// # Errors
    /// [`StoreError::Unopenable`], [`StoreError::NotOurs`], [`StoreError::NewerSchema`];
    /// [`StoreError::Busy`] where another process holds it for long, [`StoreError::Unreachable`] where
    /// the server does not answer.
    pub fn open(url: &DatabaseUrl) -> Result<Store, StoreError> {
        Ok(match url.place() {
            Whereabouts::File(path) => {
                let connection = Connection::Sqlite(sqlite::open(path)?);
                let mut store = Store::over(connection, Some(sqlite::lock_path(path)));
                store._anchor = Some(sqlite::anchor(path)?);
                store.log = Some(sqlite::Log::of(path));
                store
            }
            Whereabouts::Server(target) => {
                let server = postgres::open(*target, &url.to_string())?;
                Store::over(Connection::Postgres(Box::new(server)), None)
            }
        })
    }

    /// Opens the database for reading, beside a process that writes. Never creates one. Of a server a
    /// replica will do.
    ///
    /// # Errors
    /// [`StoreError::Absent`] and [`StoreError::OlderSchema`] besides those of [`Store::open`].
    pub fn open_read_only(url: &DatabaseUrl) -> Result<Store, StoreError> {
        Ok(match url.place() {
            Whereabouts::File(path) => {
                let connection = Connection::Sqlite(sqlite::open_read_only(path)?);
                Store::over(connection, Some(sqlite::lock_path(path)))
            }
            Whereabouts::Server(target) => {
                let server = postgres::open_read_only(*target, &url.to_string())?;
                Store::over(Connection::Postgres(Box::new(server)), None)
            }
        })
    }

    fn over(connection: Connection, lock_path: Option<PathBuf>) -> Store {
        Store {
            connection,
            _anchor: None,
            log: None,
            lock_path,
            longer: vec![Timeframe::M15],
            feed_ids: HashMap::new(),
            fence: None,
            last_seq: 0,
            may_be_copy: true,
        }
    }

    /// Says which bars to derive from 5-minute ones from now on; 15 minutes if never said.
    /// 5 minutes may be among them and is no work.
    pub fn set_timeframes(&mut self, timeframes: &[Timeframe]) {
        self.longer = timeframes.iter().copied().filter(|timeframe| *timeframe != Timeframe::M5).collect();
        self.longer.sort();
        self.longer.dedup();
    }

    /// Says how long a write waits for another process's lock from now on, 5 seconds if never said.
    ///
    /// # Errors
    /// Those of any read.
    pub fn wait_for_others(&mut self, patience: Duration) -> Result<(), StoreError> {
        match &mut self.connection {
            Connection::Sqlite(connection) => sqlite::wait_for_others(connection, patience),
            Connection::Postgres(server) => {
                server.lock_timeout = patience;
                Ok(())
            }
        }
    }

    /// Takes the lease for a new holder, which is this process doing `command`, at wall time
    /// `now`. On SQLite whoever holds the lock beside the database has it, whatever the row
    /// says: one that was killed has given it back, one that is paused has not. On a server it is to be
    /// had once it has expired, by the server's clock. From here on every write of this store is refused
    /// once the lease is another's.
    ///
    /// # Errors
    /// [`StoreError::Leased`] where another has it, after half a second in which a reader that
    /// looks at the lock may be in the way; [`StoreError::Unopenable`] where there is no
    /// locking; those of any write.
    pub fn acquire_lease(&mut self, command: &str, now: Timestamp) -> Result<Lease, StoreError> {
        self.take_turn(&Standby::new(command, now)?, None, now)
    }

    /// Takes the lease for one that may have waited for it, as [`Store::acquire_lease`] does. The lease
    /// of one that has shown no sign of life for a whole lease's length has expired whatever the clocks say.
    ///
    /// # Errors
    /// Those of [`Store::acquire_lease`].
    pub fn take_turn(
        &mut self,
        standby: &Standby,
        unchanged: Option<Unchanged>,
        now: Timestamp,
    ) -> Result<Lease, StoreError> {
        let lock = match &self.lock_path {
            None => None,
            Some(path) => match sqlite::lock(path)? {
                Some(lock) => Some(lock),
                None => return Err(lease::leased(lease::find(&mut self.connection)?)),
            },
        };
        let lease = self.within(
            |connection| outset::begin(connection, None),
            |store, ()| {
                let now = lease_time(&mut store.connection, now)?;
                lease::take(&mut store.connection, standby, lock, now, unchanged)
            },
        )?;
        self.fence = Some(lease.fence());
        Ok(lease)
    }

    /// Number of the holder of the lease that writes here; 0 before this store has taken it.
    pub fn lease_epoch(&self) -> i64 {
        self.fence.as_ref().map_or(0, |fence| fence.epoch)
    }

    /// Whether several processes may wait for the lease of this database: where it expires by itself.
    pub fn has_standbys(&self) -> bool {
        self.lock_path.is_none()
    }

    /// Says that a process lives and waits for the lease.
    ///
    /// # Errors
    /// Those of any write.
    pub fn stand_by(&mut self, standby: &Standby, now: Timestamp) -> Result<(), StoreError> {
        self.writing(|store| {
            let now = lease_time(&mut store.connection, now)?;
            lease::wait(&mut store.connection, standby, now)
        })
    }

    /// Says that a process waits for the lease no more.
    ///
    /// # Errors
    /// Those of any write.
    pub fn leave_standby(&mut self, standby: &Standby, now: Timestamp) -> Result<(), StoreError> {
        self.writing(|store| lease::leave(&mut store.connection, standby, now))
    }

    /// Who waits for the lease, longest first.
    ///
    /// # Errors
    /// Those of any read.
    pub fn standbys(&mut self, now: Timestamp) -> Result<Vec<LeaseState>, StoreError> {
        let now = lease_time(&mut self.connection, now)?;
        lease::standbys(&mut self.connection, now)
    }

    /// Says that the holder lives at wall time `now`: the lease lasts [`LEASE_S`] seconds more. Waits for no disk.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] where another has taken it; those of any write.
    pub fn renew_lease(&mut self, lease: &Lease, now: Timestamp) -> Result<(), StoreError> {
        self.within(outset::begin_sign_of_life, |store, ()| {
            let now = lease_time(&mut store.connection, now)?;
            lease::renew(&mut store.connection, lease, now)
        })
    }

    /// Writes down that the holder has ended in good order at wall time `now`. Its lock, where
    /// it has one, lasts until the lease is dropped. Does nothing to another's lease.
    ///
    /// # Errors
    /// Those of any write.
    pub fn release_lease(&mut self, lease: &Lease, now: Timestamp) -> Result<(), StoreError> {
        self.within(
            |connection| outset::begin(connection, None),
            |store, ()| {
                let now = lease_time(&mut store.connection, now)?;
                lease::release(&mut store.connection, lease, now)
            },
        )
    }

    /// Who collects at wall time `now`, or did last.
    ///
    /// # Errors
    /// Those of any read.
    pub fn lease(&mut self, now: Timestamp) -> Result<Option<LeaseState>, StoreError> {
        let locked = self.lock_path.as_deref().and_then(sqlite::is_locked);
        let now = lease_time(&mut self.connection, now)?;
        lease::state(&mut self.connection, locked, now)
    }

    /// Asks whoever collects to fetch these stretches; answers the ids of the requests, in
    /// order. One that asks for nothing that an open one does not ask for is that one.
    ///
    /// # Errors
    /// [`StoreError::TooManyRequests`], and then none is made; those of any write.
    ///
    /// # Panics
    /// If a stretch is empty.
    pub fn ask_fetch(
        &mut self,
        wanted: &[(Pair, Timeframe, Range<Timestamp>)],
        now: Timestamp,
    ) -> Result<Vec<i64>, StoreError> {
        self.writing(|store| requests::ask(&mut store.connection, wanted, now))
    }

    /// Requests asked or taken, in the order asked.
    ///
    /// # Errors
    /// Those of any read.
    pub fn open_requests(&mut self) -> Result<Vec<FetchRequest>, StoreError> {
        requests::open(&mut self.connection)
    }

    /// Every request of one pair and length that is remembered, in the order asked.
    ///
    /// # Errors
    /// Those of any read.
    pub fn requests_of(&mut self, pair: Pair, timeframe: Timeframe) -> Result<Vec<FetchRequest>, StoreError> {
        requests::of(&mut self.connection, pair, timeframe)
    }

    /// These requests, without those that are no longer remembered.
    ///
    /// # Errors
    /// Those of any read.
    pub fn requests(&mut self, ids: &[i64]) -> Result<Vec<FetchRequest>, StoreError> {
        let found = ids.iter().map(|id| requests::find(&mut self.connection, *id));
        found.filter_map(Result::transpose).collect()
    }

    /// The stretches of one pair and length in which requests have reopened lost buckets, as far as they
    /// may not be reopened at wall time `now`, in the order asked.
    ///
    /// # Errors
    /// Those of any read.
    pub fn reopened(
        &mut self,
        pair: Pair,
        timeframe: Timeframe,
        now: Timestamp,
    ) -> Result<Vec<Reopened>, StoreError> {
        requests::reopened(&mut self.connection, pair, timeframe, now.plus(-REOPENED_KEPT_S))
    }

    /// Writes down that a request has lost buckets asked for again.
    ///
    /// # Errors
    /// Those of any write.
    pub fn set_reopened(&mut self, id: i64, now: Timestamp) -> Result<(), StoreError> {
        self.writing(|store| requests::set_reopened(&mut store.connection, id, now))
    }

    /// Writes down what has become of a request, with a note for people, cut to a bound;
    /// answers whether there is such a request.
    ///
    /// # Errors
    /// Those of any write.
    pub fn set_request(
        &mut self,
        id: i64,
        state: RequestState,
        note: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.writing(|store| requests::set(&mut store.connection, id, state, note, now))
    }

    /// Every stretch that REST was asked about in vain, by pair, length and start.
    ///
    /// # Errors
    /// Those of any read.
    pub fn attempts(&mut self) -> Result<Vec<AttemptRow>, StoreError> {
        attempts::all(&mut self.connection)
    }

    /// Writes down an attempt in vain, over what was known of the same stretch.
    ///
    /// # Errors
    /// Those of any write.
    pub fn put_attempt(&mut self, attempt: &AttemptRow) -> Result<(), StoreError> {
        self.writing(|store| attempts::put(&mut store.connection, attempt))
    }

    /// Forgets the attempts at these stretches, as far as there are any.
    ///
    /// # Errors
    /// Those of any write.
    pub fn forget_attempts(&mut self, keys: &[AttemptKey]) -> Result<(), StoreError> {
        self.writing(|store| attempts::forget(&mut store.connection, keys))
    }

    /// Binds the database to an environment (`demo`, `live`, `custom`) if it is bound to none
    /// yet, or if a change is accepted.
    ///
    /// # Errors
    /// [`StoreError::OtherEnvironment`] if it is bound to another.
    pub fn bind_environment(&mut self, environment: &str, accept_change: bool) -> Result<(), StoreError> {
        self.writing(|store| {
            store.check_whole()?;
            match store.setting(ENVIRONMENT)? {
                Some(bound) if bound == environment => Ok(()),
                Some(bound) if !accept_change => {
                    Err(StoreError::OtherEnvironment { bound, asked: environment.to_owned() })
                }
                _ => settings::set(&mut store.connection, ENVIRONMENT, environment),
            }
        })
    }

    /// Refuses a database that a copy has left half full.
    fn check_whole(&mut self) -> Result<(), StoreError> {
        match self.setting(copying::UNFINISHED)? {
            None => Ok(()),
            Some(from) => Err(StoreError::HalfCopied { from }),
        }
    }

    /// Makes `feeds` what is watched from `now` on; answers their ids in the same order. A feed
    /// that is watched already stays so from when it was. Bars are stored with these ids.
    ///
    /// # Errors
    /// Those of any write.
    pub fn watch_feeds(&mut self, feeds: &[Feed], now: Timestamp) -> Result<Vec<i64>, StoreError> {
        let ids = self.writing(|store| feeds::watch(&mut store.connection, feeds, now))?;
        self.feed_ids = feeds.iter().zip(&ids).map(|(feed, id)| (feed.pair, *id)).collect();
        Ok(ids)
    }

    /// The ids of these feeds, in the same order, for bars that are fetched of pairs that are not
    /// watched. Bars are stored with these ids.
    ///
    /// # Errors
    /// Those of any write.
    pub fn name_feeds(&mut self, feeds: &[Feed], now: Timestamp) -> Result<Vec<i64>, StoreError> {
        let ids = self.writing(|store| feeds::name(&mut store.connection, feeds, now))?;
        self.feed_ids = feeds.iter().zip(&ids).map(|(feed, id)| (feed.pair, *id)).collect();
        Ok(ids)
    }

    /// Every feed there ever was, in the order first watched.
    ///
    /// # Errors
    /// Those of any read.
    pub fn feeds(&mut self) -> Result<Vec<WatchedFeed>, StoreError> {
        feeds::all(&mut self.connection)
    }

    /// Says of which bars there ought to be new ones and when, in the place of what was said before.
    ///
    /// # Errors
    /// Those of any write.
    pub fn expect_bars(&mut self, expected: &ExpectedBars) -> Result<(), StoreError> {
        self.writing(|store| freshness::put(&mut store.connection, expected))
    }

    /// How fresh the newest bar of each watched pair and length is, by pair and length. Good for any later time too,
    /// until something is stored.
    ///
    /// # Errors
    /// Those of any read.
    pub fn freshness(&mut self) -> Result<Vec<Freshness>, StoreError> {
        freshness::all(&mut self.connection)
    }

    /// When the next bar of a pair and length ought to be durable at the latest, as the view `freshness` has it; none
    /// where there was never one, or none is watched for.
    ///
    /// # Errors
    /// Those of any read.
    pub fn expected_by(&mut self, pair: Pair, timeframe: Timeframe) -> Result<Option<Timestamp>, StoreError> {
        freshness::expected_by(&mut self.connection, pair, timeframe)
    }

    /// Where the ledger ends: the end of the latest bucket that anything is known of, by pair.
    ///
    /// # Errors
    /// Those of any read.
    pub fn covered_to(&mut self, timeframe: Timeframe) -> Result<BTreeMap<Pair, Timestamp>, StoreError> {
        ledger::ends(&mut self.connection, timeframe)
    }

    /// Stores what was learnt, in order and in one transaction: bars by rule of truth 4, the
    /// ledger, and the longer bars that these complete or change. When it returns, all of it is
    /// on the disk; when it fails, nothing is stored.
    ///
    /// # Errors
    /// Those of any write. [`StoreError::is_retryable`] tells which may pass.
    ///
    /// # Panics
    /// If a bar or mark does not lie on the grid of its timeframe.
    pub fn commit(&mut self, batches: &[Arc<FactBatch>], now: Timestamp) -> Result<CommitReport, StoreError> {
        let (fence, reach) = (self.fence.clone(), Reach::of(batches, &self.longer));
        let begin = |connection: &mut Connection| outset::begin_reading(connection, fence.as_ref(), reach);
        let report = self.within(begin, |store, outset| {
            failpoint::reach("commit.begun");
            let terms = commit::Terms {
                longer: &store.longer,
                feed_ids: &store.feed_ids,
                last_seq: store.last_seq,
                may_be_copy: store.may_be_copy,
                now,
            };
            let report = commit::apply(&mut store.connection, &terms, outset, batches)?;
            failpoint::reach("commit.applied");
            Ok(report)
        })?;
        failpoint::reach("commit.done");
        self.last_seq = report.last_seq;
        self.may_be_copy = report.is_copy;
        if let (Connection::Sqlite(connection), Some(log)) = (&mut self.connection, &mut self.log)
            && let Err(error) = log.keep_bounded(connection)
        {
            // What was to be stored is.
            log::warn!(error:% = error; "the database's log could not be folded in");
        }
        Ok(report)
    }

    /// Stores bars that a user brings, by [`Store::commit`]'s rules. Where one lies beyond the end of a
    /// watched pair's ledger, what `unseen` says of the time in between is written down with it.
    ///
    /// # Errors
    /// Those of any write.
    ///
    /// # Panics
    /// If a bar or mark does not lie on the grid of its timeframe.
    pub fn import(
        &mut self,
        bars: &[Bar],
        evidence: &str,
        unseen: &dyn Fn(Pair, Range<Timestamp>) -> Vec<Mark>,
        now: Timestamp,
    ) -> Result<CommitReport, StoreError> {
        self.writing(|store| {
            store.check_whole()?;
            let facts = import::facts(&mut store.connection, bars, unseen)?;
            let batches = [Arc::new(FactBatch { evidence: evidence.into(), facts })];
            let reach = Reach::of(&batches, &store.longer);
            let outset = Outset::read(&mut store.connection, reach)?;
            let terms = commit::Terms {
                longer: &store.longer,
                feed_ids: &store.feed_ids,
                last_seq: store.last_seq,
                may_be_copy: store.may_be_copy,
                now,
            };
            commit::apply(&mut store.connection, &terms, outset, &batches)
        })
    }

    /// Deletes the oldest bars of one timeframe that start before `limit`, what they were before, and what the
    /// ledger says of that time: about `rows_max` rows at most, in one transaction. The last bucket of a
    /// pair's 5-minute ledger stays, however old it is, since the next start goes on from there; so does
    /// the row with the highest `seq`.
    ///
    /// # Errors
    /// Those of any write.
    ///
    /// # Panics
    /// If `limit` does not lie on the grid of the timeframe.
    pub fn delete_before(
        &mut self,
        timeframe: Timeframe,
        limit: Timestamp,
        rows_max: u32,
    ) -> Result<Deleted, StoreError> {
        self.writing(|store| retention::delete_before(&mut store.connection, timeframe, limit, rows_max))
    }

    /// Before when bars of this timeframe have been deleted for their age.
    ///
    /// # Errors
    /// Those of any read.
    pub fn deleted_before(&mut self, timeframe: Timeframe) -> Result<Option<Timestamp>, StoreError> {
        retention::deleted_before(&mut self.connection, timeframe)
    }

    /// Bars of one pair and timeframe, ascending.
    ///
    /// # Errors
    /// Those of any read.
    pub fn bars(
        &mut self,
        pair: Pair,
        timeframe: Timeframe,
        query: &BarQuery,
    ) -> Result<Vec<StoredBar>, StoreError> {
        let span = query.from.unwrap_or(Timestamp(i64::MIN))..query.to.unwrap_or(Timestamp(i64::MAX));
        let count = query.count.unwrap_or(usize::MAX);
        let mut bars = bars::newest(&mut self.connection, pair, timeframe, span, count)?;
        bars.reverse();
        Ok(bars)
    }

    /// Bars of one pair and timeframe, ascending, as a reader would have seen them at wall time `at`:
    /// with the values of then, and without those that were first stored later.
    ///
    /// # Errors
    /// Those of any read.
    pub fn bars_as_of(
        &mut self,
        pair: Pair,
        timeframe: Timeframe,
        query: &BarQuery,
        at: Timestamp,
    ) -> Result<Vec<StoredBar>, StoreError> {
        let span = query.from.unwrap_or(Timestamp(i64::MIN))..query.to.unwrap_or(Timestamp(i64::MAX));
        let count = query.count.unwrap_or(usize::MAX);
        let mut bars = self
            .consistently(|store| as_of::newest(&mut store.connection, pair, timeframe, span, (at, count)))?;
        bars.reverse();
        Ok(bars)
    }

    /// The oldest `count_max` bars of one pair and timeframe that start within `span`, ascending: one
    /// page of those who walk through more bars than memory should hold.
    ///
    /// # Errors
    /// Those of any read.
    pub fn page(
        &mut self,
        pair: Pair,
        timeframe: Timeframe,
        span: Range<Timestamp>,
        count_max: u32,
    ) -> Result<Vec<StoredBar>, StoreError> {
        pages::oldest(&mut self.connection, pair, timeframe, span, count_max)
    }

    /// One bar.
    ///
    /// # Errors
    /// Those of any read.
    pub fn bar(&mut self, key: BarKey) -> Result<Option<StoredBar>, StoreError> {
        bars::find(&mut self.connection, key)
    }

    /// At most `count_max` bars with a higher `seq`, in the order of commits: what a listener
    /// who has seen everything up to `seq` has missed.
    ///
    /// # Errors
    /// Those of any read.
    pub fn bars_after(&mut self, seq: i64, count_max: usize) -> Result<Vec<StoredBar>, StoreError> {
        bars::after(&mut self.connection, seq, count_max)
    }

    /// At most `count_max` values that bars have or had, in the order of commits: what a listener who has seen
    /// everything up to `seq` has missed, however often it was corrected meanwhile.
    ///
    /// # Errors
    /// Those of any read.
    pub fn log_after(&mut self, seq: i64, count_max: usize, among: Among) -> Result<LogRead, StoreError> {
        self.consistently(|store| sequence::after(&mut store.connection, seq, count_max, among))
    }

    /// The highest `seq` given so far, 0 before the first.
    ///
    /// # Errors
    /// Those of any read.
    pub fn last_seq(&mut self) -> Result<i64, StoreError> {
        self.consistently(|store| Ok(bars::last_seq(&mut store.connection)?))
    }

    /// What the bars that start within `span` were before, and what was refused for them,
    /// ascending by bar and `seq`.
    ///
    /// # Errors
    /// Those of any read.
    pub fn revisions(
        &mut self,
        pair: Pair,
        timeframe: Timeframe,
        span: Range<Timestamp>,
    ) -> Result<Vec<Revision>, StoreError> {
        bars::revisions(&mut self.connection, pair, timeframe, span)
    }

    /// What is known of the buckets within `span`, in runs cut to it, ascending.
    ///
    /// # Errors
    /// Those of any read.
    pub fn coverage(
        &mut self,
        pair: Pair,
        timeframe: Timeframe,
        span: Range<Timestamp>,
    ) -> Result<Vec<Run>, StoreError> {
        ledger::runs(&mut self.connection, pair, timeframe, span)
    }

    /// The same of several stretches, in their order.
    ///
    /// # Errors
    /// Those of any read.
    pub fn coverage_of_each(
        &mut self,
        stretches: &[(Pair, Timeframe, Range<Timestamp>)],
    ) -> Result<Vec<Vec<Run>>, StoreError> {
        ledger::runs_of_each(&mut self.connection, stretches)
    }

    /// Every missing run of one timeframe, by pair, ascending.
    ///
    /// # Errors
    /// Those of any read.
    pub fn missing(&mut self, timeframe: Timeframe) -> Result<Vec<(Pair, Run)>, StoreError> {
        self.runs_in_state(timeframe, State::Missing)
    }

    /// Everything known of 5-minute and 15-minute buckets of each pair that misses some, from about its
    /// oldest missing one of either on, ascending for each pair and length.
    ///
    /// # Errors
    /// Those of any read.
    pub fn since_oldest_missing(&mut self) -> Result<Vec<(Pair, Timeframe, Run)>, StoreError> {
        ledger::since_oldest_missing(&mut self.connection)
    }

    /// Every run of one timeframe in this state, by pair, ascending.
    ///
    /// # Errors
    /// Those of any read.
    pub fn runs_in_state(
        &mut self,
        timeframe: Timeframe,
        state: State,
    ) -> Result<Vec<(Pair, Run)>, StoreError> {
        ledger::runs_in_state(&mut self.connection, timeframe, state)
    }

    /// How many buckets of one timeframe are in each state; states without any are left out.
    ///
    /// # Errors
    /// Those of any read.
    pub fn buckets_by_state(&mut self, timeframe: Timeframe) -> Result<Vec<(State, u64)>, StoreError> {
        ledger::buckets_by_state(&mut self.connection, timeframe)
    }

    /// The pairs and timeframes of which anything is known, or bars are stored.
    ///
    /// # Errors
    /// Those of any read.
    pub fn known_keys(&mut self) -> Result<Vec<(Pair, Timeframe)>, StoreError> {
        let mut keys = ledger::keys(&mut self.connection)?;
        keys.extend(bars::keys(&mut self.connection)?);
        keys.sort();
        keys.dedup();
        Ok(keys)
    }

    /// Whether nobody has used it yet: it has neither bars nor anything known of them, no feeds, and belongs to no
    /// environment.
    ///
    /// # Errors
    /// Those of any read.
    pub fn is_blank(&mut self) -> Result<bool, StoreError> {
        Ok(self.environment()?.is_none() && self.feeds()?.is_empty() && self.known_keys()?.is_empty())
    }

    /// The starts of all bars of one pair and timeframe, ascending.
    ///
    /// # Errors
    /// Those of any read.
    pub fn bar_starts(&mut self, pair: Pair, timeframe: Timeframe) -> Result<Vec<Timestamp>, StoreError> {
        bars::starts(&mut self.connection, pair, timeframe)
    }

    /// Start of the newest bar of every pair and timeframe that has one.
    ///
    /// # Errors
    /// Those of any read.
    pub fn last_bars(&mut self) -> Result<Vec<(Pair, Timeframe, Timestamp)>, StoreError> {
        ledger::newest_bars(&mut self.connection)
    }

    /// Start of the newest bar of one pair and timeframe.
    ///
    /// # Errors
    /// Those of any read.
    pub fn last_start(&mut self, pair: Pair, timeframe: Timeframe) -> Result<Option<Timestamp>, StoreError> {
        Ok(bars::last_start(&mut self.connection, pair, timeframe)?)
    }

    /// How many bars are stored, by timeframe. Walks an index from end to end, so it is for
    /// people, not for every scrape.
    ///
    /// # Errors
    /// Those of any read.
    pub fn counts(&mut self) -> Result<Vec<(Timeframe, u64)>, StoreError> {
        bars::counts(&mut self.connection)
    }

    /// A setting's value.
    ///
    /// # Errors
    /// Those of any read.
    pub fn setting(&mut self, key: &str) -> Result<Option<String>, StoreError> {
        settings::get(&mut self.connection, key)
    }

    /// The settings whose keys begin with `prefix`, which ends in a slash.
    ///
    /// # Errors
    /// Those of any read.
    pub fn settings_under(&mut self, prefix: &str) -> Result<Vec<(String, String)>, StoreError> {
        settings::under(&mut self.connection, prefix)
    }

    /// Writes a setting over its old value.
    ///
    /// # Errors
    /// Those of any write.
    pub fn set_setting(&mut self, key: &str, value: &str) -> Result<(), StoreError> {
        self.writing(|store| settings::set(&mut store.connection, key, value))
    }

    /// Writes down a time in which rows of the stream may have been lost.
    ///
    /// # Errors
    /// Those of any write.
    pub fn record_break(&mut self, told: &StreamBreak, now: Timestamp) -> Result<(), StoreError> {
        self.writing(|store| breaks::record(&mut store.connection, told, now))
    }

    /// The newest breaks of the stream, newest first.
    ///
    /// # Errors
    /// Those of any read.
    pub fn newest_breaks(&mut self, count: u32) -> Result<Vec<StreamBreak>, StoreError> {
        breaks::newest(&mut self.connection, i64::from(count))
    }

    /// Books points that are about to be spent. Until settled they count as spent.
    ///
    /// # Errors
    /// Those of any write.
    pub fn book_spend(
        &mut self,
        account: &AllowanceKey,
        points: u32,
        on: &SpendOn,
        now: Timestamp,
    ) -> Result<SpendId, StoreError> {
        self.writing(|store| allowance::book(&mut store.connection, account, points, on, now))
    }

    /// The account whose spend was booked last in an environment: whose allowance readers that log
    /// in nowhere show.
    ///
    /// # Errors
    /// Those of any read.
    pub fn latest_allowance_key(&mut self, environment: &str) -> Result<Option<AllowanceKey>, StoreError> {
        allowance::latest_key(&mut self.connection, environment)
    }

    /// The number of the spend booked last, 0 where there is none.
    ///
    /// # Errors
    /// Those of any read.
    pub fn last_spend(&mut self) -> Result<i64, StoreError> {
        allowance::last(&mut self.connection)
    }

    /// Points of the spends booked after the one of this number, as booked or as charged: of all, or of
    /// those on a bucket of these pairs within this span.
    ///
    /// # Errors
    /// Those of any read.
    pub fn points_after(
        &mut self,
        id: i64,
        only: Option<&(Vec<Pair>, Option<Range<Timestamp>>)>,
    ) -> Result<u32, StoreError> {
        allowance::points_after(&mut self.connection, id, only)
    }

    /// A spend by the number that a piece of evidence names, if it is still kept.
    ///
    /// # Errors
    /// Those of any read.
    pub fn spend(&mut self, id: i64) -> Result<Option<Spend>, StoreError> {
        allowance::find(&mut self.connection, id)
    }

    /// Writes down what a spend came to, and the broker's numbers if its answer told them.
    ///
    /// # Errors
    /// Those of any write.
    pub fn settle_spend(
        &mut self,
        id: SpendId,
        points: u32,
        seen: Option<AllowanceSeen>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.writing(|store| allowance::settle(&mut store.connection, id, points, seen, now))
    }

    /// Writes down that the broker refused a spend for want of points, with its code.
    ///
    /// # Errors
    /// Those of any write.
    pub fn refuse_spend(&mut self, id: SpendId, code: &str, now: Timestamp) -> Result<(), StoreError> {
        self.writing(|store| allowance::refuse(&mut store.connection, id, code, now))
    }

    /// Writes down that nothing told what a spend came to, and why: its points count as spent.
    ///
    /// # Errors
    /// Those of any write.
    pub fn give_up_spend(&mut self, id: SpendId, why: &str, now: Timestamp) -> Result<(), StoreError> {
        self.writing(|store| allowance::give_up(&mut store.connection, id, why, now))
    }

    /// Gives up every spend of the account that is still booked, and answers how many. For the
    /// start of a process: those of the last one will never be settled.
    ///
    /// # Errors
    /// Those of any write.
    pub fn give_up_booked_spends(
        &mut self,
        account: &AllowanceKey,
        now: Timestamp,
    ) -> Result<usize, StoreError> {
        self.writing(|store| allowance::give_up_all(&mut store.connection, account, now))
    }

    /// The broker's numbers as last seen, and what was spent since.
    ///
    /// # Errors
    /// Those of any read.
    pub fn allowance(
        &mut self,
        account: &AllowanceKey,
        now: Timestamp,
    ) -> Result<AllowanceState, StoreError> {
        allowance::state(&mut self.connection, account, now)
    }

    /// What is wrong with an SQLite file, in words, at most a few; nothing for a server. Reads the whole file.
    ///
    /// # Errors
    /// Those of any read.
    pub fn findings(&mut self) -> Result<Vec<String>, StoreError> {
        soundness::findings(&mut self.connection)
    }

    /// What the server is and lets this user do; none for a file.
    ///
    /// # Errors
    /// Those of any read.
    pub fn server_facts(&mut self) -> Result<Option<ServerFacts>, StoreError> {
        soundness::server(&mut self.connection)
    }

    /// Which environment the database belongs to, if to one yet.
    ///
    /// # Errors
    /// Those of any read.
    pub fn environment(&mut self) -> Result<Option<String>, StoreError> {
        self.setting(ENVIRONMENT)
    }

    /// How many rows each table has that a copy would hold, and what they sum up to: the same where they say the
    /// same, in every kind of database. Reads everything.
    ///
    /// # Errors
    /// Those of any read.
    pub fn table_sums(&mut self) -> Result<Vec<TableSum>, StoreError> {
        let mut sums = copying::Sums::default();
        self.consistently(|store| copying::walk(&mut store.connection, &mut sums))?;
        Ok(sums.0)
    }

    /// Copies every table into `target`, whose lease is held, as they are at one instant, but for the lease
    /// itself; reads the copy, and answers what each table has. `told` hears of each table and how many of
    /// its rows are written. `from` is what this database is called to people; `replaces` says that all that
    /// the target holds may go.
    ///
    /// # Errors
    /// [`StoreError::NotEmpty`] where the target holds anything but an unfinished copy;
    /// [`StoreError::CopyDiffers`]; those of reading and writing. What is half written then is marked so:
    /// nobody collects into it, and the next copy removes it.
    pub fn copy_to(
        &mut self,
        target: &mut Store,
        from: &str,
        replaces: bool,
        told: &mut dyn FnMut(&'static str, u64),
    ) -> Result<Vec<TableSum>, StoreError> {
        target.writing(|target| copying::prepare(&mut target.connection, from, replaces))?;
        let sums = self.consistently(|source| {
            let mut copy = copying::Copying { target, sums: copying::Sums::default(), told };
            copying::walk(&mut source.connection, &mut copy)?;
            Ok(copy.sums.0)
        })?;
        let found = target.table_sums()?;
        if let Some((table, _)) = sums.iter().zip(&found).find(|(source, target)| source != target) {
            return Err(StoreError::CopyDiffers { table: table.table });
        }
        target.writing(|target| copying::finish(&mut target.connection))?;
        Ok(sums)
    }

    /// Folds SQLite's write-ahead log into the file, as far as readers allow, so that after an
    /// orderly stop the file alone holds everything.
    ///
    /// # Errors
    /// Those of any write.
    pub fn fold_log(&mut self) -> Result<(), StoreError> {
        match &mut self.connection {
            Connection::Sqlite(connection) => sqlite::fold_log(connection),
            Connection::Postgres(_) => Ok(()),
        }
    }

    /// Runs several reads that all see the same state of the database. Not to be nested, and not
    /// for writes.
    ///
    /// # Errors
    /// Those of `reads`.
    pub fn consistently<R>(
        &mut self,
        reads: impl FnOnce(&mut Store) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        self.within(Connection::begin_read, |store, ()| reads(store))
    }

    /// Counts the statements that are sent to the database from now on, but for those that begin and end transactions.
    #[cfg(test)]
    pub(crate) fn count_statements(&mut self) -> Arc<std::sync::atomic::AtomicUsize> {
        use diesel::connection::{Connection as _, InstrumentationEvent};
        let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = count.clone();
        let count_one = move |event: InstrumentationEvent<'_>| {
            if let InstrumentationEvent::StartQuery { query, .. } = event
                && !["BEGIN", "COMMIT"].iter().any(|word| query.to_string().starts_with(word))
            {
                counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        };
        backend::on_backend!(&mut self.connection, connection => connection.set_instrumentation(count_one));
        count
    }

    /// Has a server's connection given up from now on where an answer takes too long: for those who would
    /// wait for ever. A statement fails then with [`StoreError::Unreachable`], and may have been done.
    pub fn bound_answers(&mut self) {
        if let Connection::Postgres(server) = &mut self.connection {
            server.wait_for(Some(postgres::ANSWER_WITHIN));
        }
    }

    /// Connects anew to a server that the connection to is lost.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`].
    pub(super) fn revive(&mut self) -> Result<(), StoreError> {
        self.connection.revive()
    }

    /// Runs writes in one transaction. Who has had the lease writes only while it has.
    fn writing<R>(
        &mut self,
        writes: impl FnOnce(&mut Store) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        let fence = self.fence.clone();
        self.within(|connection| outset::begin(connection, fence.as_ref()), |store, ()| writes(store))
    }

    /// Runs `work` in a transaction, which is undone where `work` or its commit fails.
    fn within<B, R>(
        &mut self,
        begin: impl FnOnce(&mut Connection) -> Result<B, StoreError>,
        work: impl FnOnce(&mut Store, B) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        let outcome = begin(&mut self.connection).and_then(|begun| {
            let answer = work(self, begun)?;
            self.connection.commit()?;
            Ok(answer)
        });
        outcome.map_err(|error| {
            self.roll_back();
            self.connection.judge(error)
        })
    }

    /// Undoes what a panic has left open.
    fn roll_back(&mut self) {
        self.connection.roll_back();
    }
}
