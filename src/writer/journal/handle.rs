//! A thread of its own for the journal: writing and syncing block.

use std::future::Future;
use std::io;
use std::thread::{self, JoinHandle};

use tokio::sync::{mpsc, oneshot};

use super::file::{Journal, JournalError};
use crate::busy::Busy;

/// Pieces of work that wait at most. The writer has one append and one reading under way.
const QUEUED_MAX: usize = 4;

type Work = Box<dyn FnOnce(&mut Journal) + Send>;

/// Hands work to the journal's thread, which does it in order. Once the last clone is dropped, the
/// thread ends after what was queued.
#[derive(Clone)]
pub struct JournalHandle {
    queue: mpsc::Sender<Work>,
    busy: Busy,
}

impl JournalHandle {
    /// Moves a journal to a thread of its own.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn spawn(name: &str, mut journal: Journal) -> io::Result<(JournalHandle, JoinHandle<()>)> {
        let (queue, mut waiting) = mpsc::channel::<Work>(QUEUED_MAX);
        let busy = Busy::default();
        let at_work = busy.clone();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            while let Some(work) = waiting.blocking_recv() {
                at_work.during(|| work(&mut journal));
            }
        })?;
        Ok((JournalHandle { queue, busy }, thread))
    }

    /// Whether the thread is at work.
    pub fn busy(&self) -> &Busy {
        &self.busy
    }

    /// Has `work` done and answers what it answers.
    ///
    /// # Errors
    /// Those of `work`; [`JournalError::Closed`] where the thread is gone, as after a panic of
    /// `work`.
    pub fn run<F, R>(&self, work: F) -> impl Future<Output = Result<R, JournalError>> + use<F, R>
    where
        F: FnOnce(&mut Journal) -> Result<R, JournalError> + Send + 'static,
        R: Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.clone();
        async move {
            let work: Work = Box::new(move |journal| {
                // Whoever asked may have gone.
                let _ = reply.send(work(journal));
            });
            queue.send(work).await.map_err(|_| JournalError::Closed)?;
            answer.await.unwrap_or(Err(JournalError::Closed))
        }
    }
}
