//! What takes its time to read: read on a thread of its own, which stays, and kept for a while.
//!
//! However many ask, the database is asked once, and while it hangs nothing piles up: those who wait are told so.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::Shared;
use tokio::sync::oneshot;

use crate::clock::Clock;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

type Outcome<T> = Result<Arc<T>, Arc<str>>;
type Reading<T> = Shared<oneshot::Receiver<Outcome<T>>>;

/// A reading that is shared by all who ask for it.
pub struct Cached<T> {
    read: Arc<dyn Fn() -> Result<T, String> + Send + Sync>,
    keep: Duration,
    clock: Clock,
    state: Arc<Mutex<State<T>>>,
}

struct State<T> {
    last: Option<(Instant, Outcome<T>)>,
    reading: Option<Reading<T>>,
    /// To the thread that reads, once there is one. A thread for each reading would have the allocator hand out one
    /// arena after the other, and memory would grow with whatever happens to overlap.
    reader: Option<SyncSender<oneshot::Sender<Outcome<T>>>>,
}

impl<T: Send + Sync + 'static> Cached<T> {
    /// What `read` reads is good for as long as `keep`.
    pub fn new(
        keep: Duration,
        clock: Clock,
        read: impl Fn() -> Result<T, String> + Send + Sync + 'static,
    ) -> Cached<T> {
        let state = Arc::new(Mutex::new(State { last: None, reading: None, reader: None }));
        Cached { read: Arc::new(read), keep, clock, state }
    }

    /// What was read lately, or is read now.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub async fn get(&self) -> Outcome<T> {
        let reading = {
            let mut state = locked(&self.state);
            if let Some((at, outcome)) = &state.last
                && self.clock.monotonic().saturating_duration_since(*at) < self.keep
            {
                return outcome.clone();
            }
            match &state.reading {
                Some(reading) => reading.clone(),
                None => {
                    let reading = self.begin(&mut state)?;
                    state.reading = Some(reading.clone());
                    reading
                }
            }
        };
        match tokio::time::timeout(PATIENCE, reading.clone()).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => {
                // It panicked, which is in the log; the next one tries again.
                let mut state = locked(&self.state);
                if state.reading.as_ref().is_some_and(|current| current.ptr_eq(&reading)) {
                    state.reading = None;
                }
                Err("reading failed".into())
            }
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs()).into()),
        }
    }

    fn begin(&self, state: &mut State<T>) -> Result<Reading<T>, Arc<str>> {
        let reader = match &state.reader {
            Some(reader) => reader,
            None => state.reader.insert(self.reader()?),
        };
        let (answer, reading) = oneshot::channel();
        reader.try_send(answer).map_err(|error| format!("the thread that reads: {error}"))?;
        Ok(reading.shared())
    }

    /// Starts a thread that reads for as long as somebody may ask.
    fn reader(&self) -> Result<SyncSender<oneshot::Sender<Outcome<T>>>, Arc<str>> {
        let (asks, asked) = sync_channel::<oneshot::Sender<Outcome<T>>>(1);
        let (read, clock, state) = (self.read.clone(), self.clock.clone(), Arc::downgrade(&self.state));
        let work = move || {
            for answer in asked {
                // Unwind safe: what was half read is given to nobody. Who waits is told by the answer that is dropped.
                let Ok(read) = catch_unwind(AssertUnwindSafe(|| read())) else { continue };
                let outcome: Outcome<T> = read.map(Arc::new).map_err(Arc::from);
                let Some(state) = state.upgrade() else { return };
                let mut state = locked(&state);
                state.last = Some((clock.monotonic(), outcome.clone()));
                state.reading = None;
                drop(state);
                // Nobody may be waiting any more.
                let _ = answer.send(outcome);
            }
        };
        let thread = thread::Builder::new().name("candlekeep-http-read".to_owned()).spawn(work);
        thread.map_err(|error| format!("no thread to read on: {error}"))?;
        Ok(asks)
    }
}

fn locked<T>(state: &Mutex<State<T>>) -> MutexGuard<'_, State<T>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;

    use super::*;
    use crate::domain::Timestamp;

    const KEEP: Duration = Duration::from_secs(1);

    #[actix_web::test]
    async fn many_who_ask_cause_one_reading_which_is_kept() {
        let clock = Clock::simulated(Timestamp(0), 0);
        let readings = Arc::new(AtomicU32::new(0));
        let (go, gone) = mpsc::channel();
        let gone = Mutex::new(gone);
        let cached = Cached::new(KEEP, clock.clone(), {
            let readings = readings.clone();
            move || {
                gone.lock().unwrap().recv().unwrap();
                Ok(readings.fetch_add(1, Ordering::Relaxed))
            }
        });
        let asked = futures_util::future::join_all((0..50).map(|_| cached.get()));
        go.send(()).unwrap();
        assert!(asked.await.into_iter().all(|outcome| *outcome.unwrap() == 0));
        assert_eq!(*cached.get().await.unwrap(), 0);
        clock.advance(2 * KEEP);
        go.send(()).unwrap();
        assert_eq!(*cached.get().await.unwrap(), 1);
        assert_eq!(readings.load(Ordering::Relaxed), 2);
    }

    #[actix_web::test]
    async fn a_reading_that_panics_is_told_and_tried_again() {
        let clock = Clock::simulated(Timestamp(0), 0);
        let first = AtomicU32::new(0);
        let cached = Cached::new(KEEP, clock, move || {
            assert!(first.fetch_add(1, Ordering::Relaxed) > 0, "the first time");
            Ok(7)
        });
        assert_eq!(cached.get().await.unwrap_err().as_ref(), "reading failed");
        assert_eq!(*cached.get().await.unwrap(), 7);
    }
}
