//! A thread of its own for the store. Diesel blocks; whoever runs an event loop hands its work
//! over here and awaits the answer.

use std::any::Any;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, JoinHandle};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::Store;
use super::error::{StoreError, cut};
use crate::busy::Busy;

/// Pieces of work that wait at most; whoever brings another waits for room.
pub const QUEUED_MAX: usize = 64;

type Work = Box<dyn FnOnce(&mut Store) + Send>;

/// Hands work to a store's thread, which does it in the order queued. Once the last clone is dropped, the thread ends
/// after what was queued.
#[derive(Clone)]
pub struct StoreHandle {
    queue: mpsc::Sender<Work>,
    busy: Busy,
}

impl StoreHandle {
    /// Moves a store to a thread of its own, of this name. From now on it does not wait for ever for an
    /// answer of a server's.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn spawn(name: &str, mut store: Store) -> io::Result<(StoreHandle, JoinHandle<()>)> {
        let (queue, mut waiting) = mpsc::channel::<Work>(QUEUED_MAX);
        store.bound_answers();
        let busy = Busy::default();
        let at_work = busy.clone();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            while let Some(work) = waiting.blocking_recv() {
                at_work.during(|| work(&mut store));
            }
        })?;
        Ok((StoreHandle { queue, busy }, thread))
    }

    /// Whether the thread is at work.
    pub fn busy(&self) -> &Busy {
        &self.busy
    }

    /// Pieces of work that wait to be done.
    pub fn waiting(&self) -> usize {
        QUEUED_MAX - self.queue.capacity()
    }

    /// Whether nothing waits to be done. What is being done does not wait.
    pub fn is_idle(&self) -> bool {
        self.waiting() == 0
    }

    /// Queues `work` and answers with what it answers. It is queued at once where there is room,
    /// else as soon as there is while the future is polled. Dropping the future does not take
    /// back work that is queued.
    ///
    /// # Errors
    /// Those of `work`; [`StoreError::Panicked`] where it panicked, with its transaction undone;
    /// [`StoreError::Closed`] where the thread is gone.
    pub fn run<F, R>(&self, work: F) -> impl Future<Output = Result<R, StoreError>> + Send + use<F, R>
    where
        F: FnOnce(&mut Store) -> Result<R, StoreError> + Send + 'static,
        R: Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let work: Work = Box::new(move |store| {
            // Unwind safe: a transaction is undone as a whole, and the store holds nothing else
            // that could be half changed.
            let outcome = catch_unwind(AssertUnwindSafe(|| store.revive().and_then(|()| work(store))));
            let outcome = outcome.unwrap_or_else(|panic| {
                store.roll_back();
                Err(StoreError::Panicked { why: message(panic.as_ref()) })
            });
            // Whoever asked may have gone.
            let _ = reply.send(outcome);
        });
        let queued = match self.queue.try_send(work) {
            Ok(()) => Ok(None),
            Err(TrySendError::Full(work)) => Ok(Some((work, self.queue.clone()))),
            Err(TrySendError::Closed(_)) => Err(StoreError::Closed),
        };
        async move {
            if let Some((work, queue)) = queued? {
                queue.send(work).await.map_err(|_| StoreError::Closed)?;
            }
            answer.await.unwrap_or(Err(StoreError::Closed))
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
    cut(&text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;

    use super::*;
    use crate::store::DatabaseUrl;

    fn spawn() -> (tempfile::TempDir, StoreHandle, JoinHandle<()>) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&DatabaseUrl::sqlite(dir.path().join("c.db"))).unwrap();
        let (handle, thread) = StoreHandle::spawn("store", store).unwrap();
        (dir, handle, thread)
    }

    #[test]
    fn work_is_done_in_order_and_what_finds_no_room_waits() {
        let (_dir, handle, thread) = spawn();
        let done = Arc::new(AtomicUsize::new(0));
        let futures: Vec<_> = (0..QUEUED_MAX * 3)
            .map(|_| {
                let done = done.clone();
                handle.run(move |_| Ok(done.fetch_add(1, Ordering::SeqCst)))
            })
            .collect();
        drop(handle);
        let mut order: Vec<usize> =
            block_on(join_all(futures)).into_iter().map(|answer| answer.unwrap()).collect();
        assert!(order[..QUEUED_MAX].is_sorted(), "{order:?}");
        order.sort();
        assert_eq!(order, (0..QUEUED_MAX * 3).collect::<Vec<_>>());
        thread.join().unwrap();
    }

    #[test]
    fn what_is_queued_is_done_though_every_handle_is_gone() {
        let (_dir, handle, thread) = spawn();
        let done = Arc::new(AtomicUsize::new(0));
        for _ in 0..10 {
            let done = done.clone();
            drop(handle.run(move |_| Ok(done.fetch_add(1, Ordering::SeqCst))));
        }
        drop(handle);
        thread.join().unwrap();
        assert_eq!(done.load(Ordering::SeqCst), 10);
    }

    #[test]
    fn a_panic_undoes_its_transaction_and_the_store_goes_on() {
        let (_dir, handle, _thread) = spawn();
        let panicked = block_on(handle.run(|store| -> Result<(), StoreError> {
            store.consistently(|store| {
                store.setting("key")?;
                panic!("half way")
            })
        }));
        assert!(matches!(&panicked, Err(StoreError::Panicked { why }) if why == "half way"), "{panicked:?}");
        block_on(handle.run(|store| store.set_setting("key", "value"))).unwrap();
        assert_eq!(block_on(handle.run(|store| store.setting("key"))).unwrap().as_deref(), Some("value"));
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }
}
