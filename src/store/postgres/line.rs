//! What lies under a connection: the task that moves its bytes, and how long one waits for an answer.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::task::AbortHandle;

/// A connection's bytes in motion.
pub(super) struct Line {
    /// It moves none any more.
    lost: Arc<AtomicBool>,
    task: AbortHandle,
    /// How long an answer may take, milliseconds; 0: as long as it takes.
    patience_ms: AtomicU64,
}

/// Tells that the task is over, however it ends.
struct Ending(Arc<AtomicBool>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Line {
    /// Has `connection` driven, on the runtime that this is called on.
    pub(super) fn drive(connection: impl Future<Output = ()> + Send + 'static) -> Arc<Line> {
        let lost = Arc::new(AtomicBool::new(false));
        let ending = Ending(lost.clone());
        let task = tokio::spawn(async move {
            let _ending = ending;
            connection.await;
        });
        Arc::new(Line { lost, task: task.abort_handle(), patience_ms: AtomicU64::new(0) })
    }

    /// Whether nothing can be asked on it any more.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Says how long an answer may take from now on; none: as long as it takes.
    pub(super) fn wait_for(&self, patience: Option<Duration>) {
        let patience_ms = patience.map_or(0, |patience| patience.as_millis().max(1) as u64);
        self.patience_ms.store(patience_ms, Ordering::Relaxed);
    }

    /// Waits for an answer. Where it does not come in time, the connection is given up, and the answer is the
    /// error of whoever has lost it.
    pub(super) async fn wait<F: Future>(&self, answer: F) -> F::Output {
        let patience_ms = self.patience_ms.load(Ordering::Relaxed);
        if patience_ms == 0 {
            return answer.await;
        }
        let answer = pin!(answer);
        let patience = pin!(sleep(Duration::from_millis(patience_ms)));
        match select(answer, patience).await {
            Either::Left((answer, _)) => answer,
            Either::Right(((), answer)) => {
                log::warn!(timeout_ms = patience_ms; "no answer from the database, the connection is given up");
                self.lost.store(true, Ordering::Release);
                self.task.abort();
                answer.await
            }
        }
    }
}

/// On the clock of the thread that drives the sockets: the waiting one may have none.
async fn sleep(duration: Duration) {
    let sleep = {
        let _driven = super::driver().enter();
        tokio::time::sleep(duration)
    };
    sleep.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection on which an answer comes after so long, or when it ends.
    fn check(answers_after: Option<Duration>, patience: Duration, expected: &str) {
        let (ended, ends) = tokio::sync::oneshot::channel::<()>();
        let _driven = super::super::driver().enter();
        let line = Line::drive(async move {
            let _ended = ended;
            std::future::pending::<()>().await;
        });
        line.wait_for(Some(patience));
        let answered = async {
            match answers_after {
                Some(after) => sleep(after).await,
                None => std::future::pending().await,
            }
        };
        let answer = futures_executor::block_on(line.wait(async {
            match select(pin!(answered), pin!(ends)).await {
                Either::Left(_) => "answered",
                Either::Right(_) => "lost",
            }
        }));
        assert_eq!(answer, expected);
        assert_eq!(line.is_lost(), expected == "lost");
    }

    #[test]
    fn a_connection_without_an_answer_is_given_up() {
        check(None, Duration::from_millis(30), "lost");
        check(Some(Duration::from_millis(30)), Duration::from_secs(60), "answered");
        check(Some(Duration::ZERO), Duration::from_secs(60), "answered");
    }
}
