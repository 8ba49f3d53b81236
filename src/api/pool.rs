//! Threads that have a connection to the database each, for requests that cannot share an answer.
//!
//! However many ask, there are so many connections and no more, and while the database hangs nothing piles up: a
//! request beyond the queue's bound is refused at once, one that has waited too long is told so, and its work is not
//! done any more once its turn comes.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::store::{Store, StoreError};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Opens a connection.
pub type Open = Arc<dyn Fn() -> Result<Store, StoreError> + Send + Sync>;

/// Does something with a connection; none where it could not be opened, and why.
type Work = Box<dyn FnOnce(Result<&mut Store, StoreError>) -> Fate + Send>;

/// What becomes of a connection after work.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is good for more.
    Kept,
    /// It may be lost: the next request opens another.
    Closed,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum NoAnswer {
    /// Too many wait already.
    Full,
    /// None came in time.
    Late,
    /// The database says why.
    Store(StoreError),
    /// It failed in a way that nobody thought of.
    Failed(String),
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoAnswer::Full => f.write_str("too many requests wait for the database"),
            NoAnswer::Late => f.write_str("the database gave no answer in time"),
            NoAnswer::Store(error) => error.fmt(f),
            NoAnswer::Failed(why) => f.write_str(why),
        }
    }
}

/// Threads with a connection each. They start when the first request comes.
pub struct Pool {
    name: &'static str,
    threads: usize,
    queued_max: usize,
    keeps: bool,
    open: Open,
    queue: Mutex<Option<SyncSender<Work>>>,
}

impl Pool {
    /// A pool of so many threads of this name, at whose door so many requests may wait. Where it does not keep its
    /// connections each request has one of its own.
    pub fn new(name: &'static str, threads: usize, queued_max: usize, keeps: bool, open: Open) -> Pool {
        Pool { name, threads, queued_max, keeps, open, queue: Mutex::new(None) }
    }

    /// Has `work` done, and answers with what it answers.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn run<R, F>(&self, work: F) -> Result<R, NoAnswer>
    where
        R: Send + 'static,
        F: FnOnce(&mut Store) -> Result<R, StoreError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let keeps = self.keeps;
        let work: Work = Box::new(move |store| {
            if reply.is_closed() {
                // Nobody waits for it any more.
                return Fate::Kept;
            }
            let outcome = store.and_then(work);
            let fate = if keeps && outcome.is_ok() { Fate::Kept } else { Fate::Closed };
            let _ = reply.send(outcome);
            fate
        });
        match self.queue()?.try_send(work) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(NoAnswer::Full),
            Err(TrySendError::Disconnected(_)) => {
                return Err(NoAnswer::Failed("no thread is left".to_owned()));
            }
        }
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(outcome)) => outcome.map_err(NoAnswer::Store),
            // It panicked, which is in the log.
            Ok(Err(_)) => Err(NoAnswer::Failed("reading failed".to_owned())),
            Err(_) => Err(NoAnswer::Late),
        }
    }

    fn queue(&self) -> Result<SyncSender<Work>, NoAnswer> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = &*queue {
            return Ok(queue.clone());
        }
        let (sender, waiting) = sync_channel(self.queued_max);
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..self.threads {
            let (waiting, open) = (waiting.clone(), self.open.clone());
            let thread =
                thread::Builder::new().name(self.name.to_owned()).spawn(move || serve(&waiting, &open));
            // Those that are there end when the sender is dropped.
            thread.map_err(|error| NoAnswer::Failed(format!("no thread to read on: {error}")))?;
        }
        *queue = Some(sender.clone());
        Ok(sender)
    }
}

fn serve(waiting: &Mutex<Receiver<Work>>, open: &Open) {
    let mut connection: Option<Store> = None;
    loop {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(work) = next else { return };
        // Unwind safe: what was half done goes with its connection.
        let fate = catch_unwind(AssertUnwindSafe(|| match &mut connection {
            Some(store) => work(Ok(store)),
            None => match open() {
                Ok(store) => work(Ok(connection.insert(store))),
                Err(error) => work(Err(error)),
            },
        }));
        if !matches!(fate, Ok(Fate::Kept)) {
            connection = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;
    use crate::store::DatabaseUrl;

    /// A pool over an empty database, and how often it has connected.
    fn pool(threads: usize, queued_max: usize, keeps: bool) -> (tempfile::TempDir, Pool, Arc<AtomicUsize>) {
        let dir = tempfile::tempdir().unwrap();
        let url = DatabaseUrl::sqlite(dir.path().join("c.db"));
        drop(Store::open(&url).unwrap());
        let opened = Arc::new(AtomicUsize::new(0));
        let count = opened.clone();
        let open = move || {
            count.fetch_add(1, Ordering::SeqCst);
            Store::open_read_only(&url)
        };
        (dir, Pool::new("test-reader", threads, queued_max, keeps, Arc::new(open)), opened)
    }

    #[actix_web::test]
    async fn a_connection_serves_many_and_a_broken_one_is_made_anew() {
        let (_dir, pool, opened) = pool(1, 4, true);
        for _ in 0..3 {
            pool.run(|store| store.setting("key")).await.unwrap();
        }
        assert_eq!(opened.load(Ordering::SeqCst), 1);
        let failed = pool.run(|_| Err::<(), _>(StoreError::Closed)).await;
        assert!(matches!(failed, Err(NoAnswer::Store(StoreError::Closed))));
        pool.run(|store| store.setting("key")).await.unwrap();
        assert_eq!(opened.load(Ordering::SeqCst), 2);
        let panicked = pool.run(|_| -> Result<(), _> { panic!("in the middle") }).await;
        assert!(matches!(panicked, Err(NoAnswer::Failed(_))));
        pool.run(|store| store.setting("key")).await.unwrap();
        assert_eq!(opened.load(Ordering::SeqCst), 3);
    }

    #[actix_web::test]
    async fn one_that_keeps_nothing_connects_for_each() {
        let (_dir, pool, opened) = pool(1, 4, false);
        for _ in 0..3 {
            pool.run(|store| store.setting("key")).await.unwrap();
        }
        assert_eq!(opened.load(Ordering::SeqCst), 3);
    }

    #[actix_web::test]
    async fn while_the_database_hangs_the_queue_has_a_bound_and_who_left_costs_nothing() {
        let (_dir, pool, _) = pool(1, 2, true);
        let (go, gone) = mpsc::channel::<()>();
        let (begun, beginning) = mpsc::channel();
        let done = Arc::new(AtomicUsize::new(0));
        let hangs = pool.run(move |_| {
            begun.send(()).unwrap();
            gone.recv().unwrap();
            Ok(())
        });
        let mut hangs = std::pin::pin!(hangs);
        assert!(futures_util::poll!(&mut hangs).is_pending());
        beginning.recv().unwrap();
        let count = |done: &Arc<AtomicUsize>| {
            let done = done.clone();
            pool.run(move |_| Ok(done.fetch_add(1, Ordering::SeqCst)))
        };
        let (mut leaves, mut stays) = (Box::pin(count(&done)), Box::pin(count(&done)));
        assert!(
            futures_util::poll!(&mut leaves).is_pending() && futures_util::poll!(&mut stays).is_pending()
        );
        assert!(matches!(count(&done).await, Err(NoAnswer::Full)));
        drop(leaves);
        go.send(()).unwrap();
        hangs.await.unwrap();
        assert_eq!(stays.await.unwrap(), 0, "what the other wanted was done for nobody");
    }

    #[actix_web::test]
    async fn as_many_are_served_at_a_time_as_there_are_threads() {
        let (_dir, pool, opened) = pool(2, 4, true);
        let barrier = Arc::new(std::sync::Barrier::new(2));
        let meet = |_| {
            let barrier = barrier.clone();
            pool.run(move |_| {
                barrier.wait();
                Ok(())
            })
        };
        for met in futures_util::future::join_all((0..2).map(meet)).await {
            met.unwrap();
        }
        assert_eq!(opened.load(Ordering::SeqCst), 2);
    }
}
