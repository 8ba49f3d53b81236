//! How the last run of the service began and ended, for whoever asks later: one setting of the database, written once
//! the lease is taken, and again at the end. A process that is killed leaves a record without an end.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::domain::Timestamp;
use crate::exit::{Exit, Failure};
use crate::store::{Lease, LeaseState, Store, StoreError, StoreHandle};

/// Where it is kept. A copy into another database leaves it behind.
pub const SETTING: &str = "service.run";
/// Characters of a reason that are kept.
const WHY_MAX: usize = 600;
/// Longest that an end waits for its record: a database that is away learns nothing of it.
const KEPT_WITHIN: Duration = Duration::from_secs(1);
/// Why a run that was told to stop has ended.
const TOLD_TO_STOP: &str = "told to stop";

/// A run of the service, as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastRun {
    /// What was started: `run`, `demo`.
    pub command: String,
    /// Which holder of the lease it was.
    pub epoch: i64,
    /// Its process.
    pub pid: i64,
    /// When it had the lease, epoch seconds, UTC.
    pub began_at: i64,
    /// How it ended; none where it runs, or has left no word.
    pub end: Option<RunEnd>,
}

/// The end of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunEnd {
    /// When, epoch seconds, UTC.
    pub at: i64,
    /// The exit code.
    pub exit: u8,
    /// Why, in the words of the log's last line.
    pub why: String,
}

impl LastRun {
    /// One that begins with this lease.
    pub fn begun(lease: &Lease) -> LastRun {
        LastRun {
            command: lease.command().to_owned(),
            epoch: lease.epoch(),
            pid: i64::from(std::process::id()),
            began_at: lease.acquired_at().0,
            end: None,
        }
    }

    /// Reads what was kept; anything unreadable is as good as nothing.
    pub fn read(text: &str) -> Option<LastRun> {
        serde_json::from_str(text).ok()
    }

    /// As it is kept.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("plain numbers and texts make JSON")
    }

    /// The last run that a database knows of, beside its lease as it stands. Where a later holder of the lease was the
    /// service too and has left no record, nothing is known of the last run.
    ///
    /// # Errors
    /// Those of any read.
    pub fn find(store: &mut Store, lease: Option<&LeaseState>) -> Result<Option<LastRun>, StoreError> {
        let kept = store.setting(SETTING)?.and_then(|text| LastRun::read(&text));
        Ok(kept.filter(|run| !run.is_outdated(lease)))
    }

    fn is_outdated(&self, lease: Option<&LeaseState>) -> bool {
        lease.is_some_and(|lease| lease.command == self.command && lease.epoch != self.epoch)
    }

    /// Whether this is the run that has the lease, and lives.
    pub fn is_running(&self, lease: Option<&LeaseState>) -> bool {
        lease.is_some_and(|lease| lease.alive && lease.epoch == self.epoch)
    }

    /// Whether it has ended as it should.
    pub fn is_well(&self) -> bool {
        self.end.as_ref().is_some_and(|end| end.exit == Exit::Done.code())
    }

    /// How it went, of one that runs no more, for people: `the last run began …, ended … with exit 1: …`.
    pub fn in_words(&self, lease: Option<&LeaseState>) -> String {
        let began = Timestamp(self.began_at);
        if let Some(RunEnd { at, exit, why }) = &self.end {
            return format!("the last run began {began}, ended {} with exit {exit}: {why}", Timestamp(*at));
        }
        let seen = lease.filter(|lease| lease.epoch == self.epoch).map(|lease| lease.renewed_at);
        let seen = seen.map_or(String::new(), |at| format!(", last seen {at}"));
        format!("the last run began {began}, ended without a word{seen}: killed, or the machine went down")
    }

    /// The same for programs.
    pub fn json(&self, lease: Option<&LeaseState>) -> Value {
        let end = self.end.as_ref();
        json!({
            "command": self.command,
            "epoch": self.epoch,
            "pid": self.pid,
            "began_at": self.began_at,
            "running": self.is_running(lease),
            "ended_at": end.map(|end| end.at),
            "exit": end.map(|end| end.exit),
            "why": end.map(|end| end.why.as_str()),
        })
    }
}

/// The record of this process's run, from its beginning to its end. Clones are one.
#[derive(Clone)]
pub struct Chronicle {
    clock: Clock,
    run: Arc<Mutex<Option<(StoreHandle, LastRun)>>>,
}

impl fmt::Debug for Chronicle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Chronicle").field(&self.run().as_ref().map(|(_, run)| run)).finish()
    }
}

impl Chronicle {
    /// Nothing has begun yet, and there is nothing to record.
    pub fn new(clock: &Clock) -> Chronicle {
        Chronicle { clock: clock.clone(), run: Arc::default() }
    }

    /// The service has its lease. Who takes a lease for something else has no run to tell of.
    pub fn begins(&self, store: &StoreHandle, run: LastRun) {
        *self.run() = Some((store.clone(), run));
    }

    /// Whether the service has its lease, or had it.
    pub fn has_begun(&self) -> bool {
        self.run().is_some()
    }

    /// Writes down how the run ends; `Ok` is for one that was told to stop. Does nothing where it has not begun, or this
    /// is written. It is handed to the database's thread at once; the answer is waited for no longer than a second.
    pub fn ends(&self, outcome: Result<(), &Failure>) -> impl Future<Output = ()> + use<> {
        let (exit, why) = match outcome {
            Ok(()) => (Exit::Done, TOLD_TO_STOP.to_owned()),
            Err(failure) => (failure.exit(), failure.to_string()),
        };
        let end =
            RunEnd { at: self.clock.wall().0, exit: exit.code(), why: why.chars().take(WHY_MAX).collect() };
        let writing = self.run().as_mut().and_then(|(store, run)| {
            let is_written =
                run.end.as_ref().is_some_and(|kept| (kept.exit, &kept.why) == (end.exit, &end.why));
            if is_written {
                return None;
            }
            run.end = Some(end);
            let text = run.text();
            // Of a lease that is another's by now the store refuses it: that one's run is the last.
            Some(store.run(move |store| store.set_setting(SETTING, &text)))
        });
        async move {
            let Some(writing) = writing else { return };
            match tokio::time::timeout(KEPT_WITHIN, writing).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => log::debug!(error:% = error; "how the run ended could not be written down"),
                Err(_) => log::debug!("how the run ended could not be written down in time"),
            }
        }
    }

    fn run(&self) -> MutexGuard<'_, Option<(StoreHandle, LastRun)>> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::DatabaseUrl;

    const NOON: Timestamp = Timestamp(1_705_492_800);

    fn run(end: Option<(u8, &str)>) -> LastRun {
        let end = end.map(|(exit, why)| RunEnd { at: NOON.0 + 60, exit, why: why.to_owned() });
        LastRun { command: "run".to_owned(), epoch: 3, pid: 4711, began_at: NOON.0, end }
    }

    fn lease(command: &str, epoch: i64, alive: bool) -> LeaseState {
        LeaseState {
            command: command.to_owned(),
            host: "castle".to_owned(),
            pid: 4711,
            epoch,
            acquired_at: NOON,
            renewed_at: NOON.plus(30),
            released: false,
            alive,
            read_at: NOON.plus(30),
        }
    }

    #[test]
    fn how_a_run_ended_is_told_in_words() {
        let check = |run: &LastRun, lease: &LeaseState, expected| {
            assert_eq!(run.in_words(Some(lease)), expected);
            assert_eq!(LastRun::read(&run.text()).as_ref(), Some(run));
        };
        check(
            &run(Some((1, "the disk is full"))),
            &lease("run", 3, false),
            "the last run began 2024-01-17T12:00:00Z, ended 2024-01-17T12:01:00Z with exit 1: the disk is full",
        );
        check(
            &run(None),
            &lease("run", 3, false),
            "the last run began 2024-01-17T12:00:00Z, ended without a word, last seen 2024-01-17T12:00:30Z: \
             killed, or the machine went down",
        );
        // Who took the lease after it says nothing of when it was last seen.
        check(
            &run(None),
            &lease("doctor", 4, false),
            "the last run began 2024-01-17T12:00:00Z, ended without a word: killed, or the machine went down",
        );
        assert_eq!(LastRun::read("nonsense"), None);
    }

    #[test]
    fn only_the_holder_of_the_lease_runs_and_a_later_service_makes_a_record_old() {
        let check = |lease: Option<LeaseState>, is_running: bool, is_outdated: bool| {
            let (run, lease) = (run(None), lease.as_ref());
            assert_eq!(
                (run.is_running(lease), run.is_outdated(lease)),
                (is_running, is_outdated),
                "{lease:?}"
            );
        };
        check(None, false, false);
        check(Some(lease("run", 3, true)), true, false);
        check(Some(lease("run", 3, false)), false, false);
        check(Some(lease("run", 4, true)), false, true);
        check(Some(lease("doctor", 4, true)), false, false);
        assert!(run(Some((0, "told to stop"))).is_well());
        assert!(!run(Some((1, "x"))).is_well() && !run(None).is_well());
    }

    #[actix::test]
    async fn an_end_is_kept_unless_nothing_has_begun_or_the_lease_is_anothers() {
        let dir = tempfile::tempdir().unwrap();
        let url = DatabaseUrl::sqlite(dir.path().join("c.db"));
        let mut other = Store::open(&url).unwrap();
        let mut store = Store::open(&url).unwrap();
        let lease = store.acquire_lease("run", NOON).unwrap();
        let (store, _thread) = StoreHandle::spawn("store", store).unwrap();
        let clock = Clock::simulated(NOON.plus(60), 0);
        let chronicle = Chronicle::new(&clock);
        let full = Failure::failed("the disk is full");
        chronicle.ends(Err(&full)).await;
        assert_eq!(LastRun::find(&mut other, None).unwrap(), None);

        chronicle.begins(&store, LastRun::begun(&lease));
        chronicle.ends(Ok(())).await;
        let kept = LastRun::find(&mut other, None).unwrap().unwrap();
        assert_eq!(kept.end, Some(RunEnd { at: NOON.0 + 60, exit: 0, why: "told to stop".to_owned() }));
        chronicle.ends(Err(&full)).await;
        let kept = LastRun::find(&mut other, None).unwrap().unwrap();
        assert_eq!(kept.end.map(|end| (end.exit, end.why)), Some((1, "the disk is full".to_owned())));

        drop(lease);
        std::fs::remove_file(dir.path().join("c.db.lock")).unwrap();
        let _theirs = other.acquire_lease("run", NOON).unwrap();
        other.set_setting(SETTING, "theirs").unwrap();
        chronicle.ends(Ok(())).await;
        assert_eq!(other.setting(SETTING).unwrap().as_deref(), Some("theirs"));
    }
}
