//! One follower's connection: he is sent what comes by, or what is read for him, as fast as he takes it.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_rt::task::JoinHandle;
use actix_web::web::Bytes;
use futures_util::stream::{Stream, unfold};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};

use super::follower::{Follower, too_slow};
use super::forming::Shown;
use super::hub::{News, NoPlace, Push, Seat, Told};
use super::page::Wants;
use crate::api::asked::Follow;
use crate::api::pool::NoAnswer;
use crate::api::server::Grip;

/// Time without a word after which one is said.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Pause after the database could not be read for one who catches up.
const READ_AGAIN: Duration = Duration::from_secs(1);
/// Who takes nothing for so long is ended.
const TAKEN_WITHIN: Duration = Duration::from_secs(20);
/// How often that is looked for.
const LOOK: Duration = Duration::from_secs(5);

/// Why there is nothing to follow.
#[derive(Debug)]
pub enum NoStream {
    /// There are too many who do.
    NoPlace,
    /// The database gives no answer.
    NoAnswer(NoAnswer),
}

impl From<NoPlace> for NoStream {
    fn from(_: NoPlace) -> NoStream {
        NoStream::NoPlace
    }
}

/// What is handed to the connection, and since when it has not been taken.
#[derive(Debug, Default)]
struct Handed(Cell<Option<Instant>>);

/// A follower and his connection.
struct Line {
    push: Arc<Push>,
    seat: Seat,
    follower: Follower,
    news: broadcast::Receiver<News>,
    forming: watch::Receiver<Arc<Shown>>,
    /// The version of what is under way that he has seen.
    seen: u64,
    /// What he is told first.
    greeting: Option<Bytes>,
    handed: Rc<Handed>,
    /// Ends the connection of one who takes nothing, and ends with it.
    watching: JoinHandle<()>,
    grip: Option<Grip>,
    has_ended: bool,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.watching.abort();
        if let Some(grip) = &self.grip {
            // He need not take the rest.
            grip.let_go();
        }
    }
}

impl Push {
    /// What is sent to one who wants to follow, for as long as he takes it.
    ///
    /// # Errors
    /// Why he cannot.
    pub async fn follow(
        self: &Arc<Push>,
        asked: Follow,
        grip: Option<Grip>,
    ) -> Result<impl Stream<Item = Result<Bytes, Infallible>> + use<>, NoStream> {
        let Follow { pairs, timeframes, forming, after } = asked;
        let seat = self.seat(forming)?;
        // In this order: what is stored in between comes by.
        let (news, forming) = self.news();
        let last = self.last_seq().await.map_err(NoStream::NoAnswer)?;
        let (follower, greeting) = Follower::begin(Wants { pairs, timeframes }, &after, last);
        let handed = Rc::new(Handed::default());
        let watching = actix_rt::spawn(watch_taking(self.clone(), handed.clone(), grip.clone()));
        if let Some(grip) = &grip {
            grip.hold();
        }
        let line = Line {
            push: self.clone(),
            seat,
            follower,
            news,
            forming,
            seen: 0,
            greeting: Some(greeting),
            handed,
            watching,
            grip,
            has_ended: false,
        };
        Ok(unfold(line, |mut line| async move {
            let text = line.next().await?;
            Some((Ok(text), line))
        }))
    }
}

/// Ends the connection of one who takes nothing for too long.
async fn watch_taking(push: Arc<Push>, handed: Rc<Handed>, grip: Option<Grip>) {
    loop {
        actix_rt::time::sleep(LOOK).await;
        if handed.is_stuck(push.clock().monotonic()) {
            log::debug!(within_s = TAKEN_WITHIN.as_secs(); "a follower takes nothing, his connection is ended");
            if let Some(grip) = &grip {
                grip.end();
            }
            return;
        }
    }
}

impl Handed {
    fn is_stuck(&self, now: Instant) -> bool {
        self.0.get().is_some_and(|since| now.saturating_duration_since(since) > TAKEN_WITHIN)
    }
}

impl Line {
    /// What is to be sent next; none where it ends.
    async fn next(&mut self) -> Option<Bytes> {
        let was_stuck = self.handed.is_stuck(self.push.clock().monotonic());
        self.handed.0.set(None);
        if self.has_ended {
            return None;
        }
        let text = match self.greeting.take() {
            _ if was_stuck => {
                self.has_ended = true;
                too_slow(TAKEN_WITHIN.as_secs())
            }
            Some(greeting) => greeting,
            None => self.wait().await?,
        };
        self.handed.0.set(Some(self.push.clock().monotonic()));
        Some(text)
    }

    /// Waits for something to say.
    async fn wait(&mut self) -> Option<Bytes> {
        let mut silence = pin!(actix_rt::time::sleep(KEEPALIVE));
        loop {
            let text = if self.follower.is_behind() {
                tokio::select! {
                    text = catch_up(&self.push, &mut self.follower) => text,
                    () = &mut silence => return Some(self.follower.keepalive()),
                }
            } else {
                tokio::select! {
                    // A bar before what is under way after it.
                    biased;
                    news = self.news.recv() => match news {
                        Ok(News::Page(page)) => self.follower.hears(&page),
                        Ok(News::Look) | Err(RecvError::Lagged(_)) => {
                            self.follower.falls_behind();
                            None
                        }
                        Err(RecvError::Closed) => return None,
                    },
                    Ok(()) = self.forming.changed(), if self.seat.forming => {
                        let shown = self.forming.borrow_and_update().clone();
                        let seen = std::mem::replace(&mut self.seen, shown.version);
                        shown.since(seen, self.follower.wants())
                    }
                    () = &mut silence => {
                        self.push.keep_reading();
                        return Some(self.follower.keepalive());
                    }
                }
            };
            if text.is_some() {
                return text;
            }
        }
    }
}

/// What is read for one who is behind.
async fn catch_up(push: &Push, follower: &mut Follower) -> Option<Bytes> {
    match push.read(follower.at()).await {
        Ok(Told::Page(page)) => follower.catches_up(&page),
        Ok(Told::Lost(lost, last)) => Some(follower.is_lost(lost, last)),
        Err(error) => {
            log::debug!(error:? = error; "the log cannot be read for a follower, trying again");
            actix_rt::time::sleep(READ_AGAIN).await;
            None
        }
    }
}
