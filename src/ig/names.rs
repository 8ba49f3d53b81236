//! Names to addresses by the system's own resolver, which blocks and may take half a minute where no name server
//! answers.
//!
//! Each question has a thread of its own that nobody waits for: neither whoever asks, for longer than a bound, nor
//! the end of the process. (The runtime's pool for such work is waited for when that ends.)

use std::error::Error;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use actix_tls::connect::Resolve;
use futures_util::future::LocalBoxFuture;
use tokio::sync::oneshot;

/// Longest wait for an answer. Within the time that a connection may take, so that it is the names that are blamed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(6);
/// Questions that may be open at a time; the system gives each up by itself.
const OPEN_MAX: usize = 8;

type LookUp = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

/// Asks the system. Clones have one bound.
#[derive(Clone)]
pub struct Names {
    look_up: LookUp,
    timeout: Duration,
    open: Arc<AtomicUsize>,
}

impl Default for Names {
    fn default() -> Names {
        let look_up: LookUp = |host, port| Ok((host, port).to_socket_addrs()?.collect());
        Names { look_up, timeout: ANSWER_TIMEOUT, open: Arc::default() }
    }
}

/// A question that is open until this is dropped.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Names {
    async fn ask(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let open = Open(self.open.clone());
        if self.open.fetch_add(1, Ordering::AcqRel) >= OPEN_MAX {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "earlier questions are still without an answer",
            ));
        }
        let (answer, answered) = oneshot::channel();
        let (look_up, host) = (self.look_up, host.to_owned());
        thread::Builder::new().name("candlekeep-name".to_owned()).spawn(move || {
            let _open = open;
            // Nobody may be waiting any more.
            let _ = answer.send(look_up(&host, port));
        })?;
        let in_time = tokio::time::timeout(self.timeout, answered).await;
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no name server answers");
        in_time.map_err(late)?.unwrap_or_else(|_| Err(io::Error::other("the question was given up")))
    }
}

impl Resolve for Names {
    fn lookup<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> LocalBoxFuture<'a, Result<Vec<SocketAddr>, Box<dyn Error>>> {
        Box::pin(async move { Ok(self.ask(host, port).await?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(look_up: LookUp) -> Names {
        Names { look_up, ..Names::default() }
    }

    #[actix::test]
    async fn what_the_system_says_is_answered() {
        let addresses = Names::default().ask("localhost", 80).await.unwrap();
        assert!(addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 80));
        assert!(!addresses.is_empty());
        let known = names(|_, _| Err(io::Error::other("no such name")));
        assert_eq!(known.ask("x", 80).await.unwrap_err().to_string(), "no such name");
    }

    #[actix::test]
    async fn silence_costs_neither_the_asker_s_time_nor_ever_more_threads() {
        let silence: LookUp = |_, _| {
            loop {
                thread::park();
            }
        };
        let silent = Names { timeout: Duration::from_millis(20), ..names(silence) };
        for _ in 0..OPEN_MAX {
            assert_eq!(silent.ask("x", 80).await.unwrap_err().to_string(), "no name server answers");
        }
        let refused = silent.ask("x", 80).await.unwrap_err();
        assert!(refused.to_string().contains("earlier questions"), "{refused}");
        assert_eq!(silent.open.load(Ordering::Acquire), OPEN_MAX);
    }

    #[actix::test]
    async fn questions_that_were_answered_are_not_open_any_more() {
        let failing = names(|_, _| Err(io::Error::other("no such name")));
        for _ in 0..3 * OPEN_MAX {
            let error = failing.ask("x", 80).await.unwrap_err();
            if error.kind() == io::ErrorKind::TimedOut {
                panic!("{error}");
            }
            // The thread answers before it ends.
            while failing.open.load(Ordering::Acquire) > 0 {
                thread::yield_now();
            }
        }
    }

    #[actix::test]
    async fn a_question_that_cannot_be_answered_by_its_thread_is_closed() {
        let failing = names(|_, _| panic!("a defect below"));
        assert!(failing.ask("x", 80).await.is_err());
        while failing.open.load(Ordering::Acquire) > 0 {
            thread::yield_now();
        }
    }
}
