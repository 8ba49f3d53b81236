//! Reads the log once for all who follow.
//!
//! The reader runs while anybody follows: it goes along with the commits of this process, and looks by itself for
//! those of others. Candles under way are asked for only while somebody wants them. A restart loses nothing.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, broadcast, watch};
use tokio::time::MissedTickBehavior;

use super::follower::Lost;
use super::forming::{Shown, UnderWay};
use super::page::{Newest, Page};
use crate::api::pool::{NoAnswer, Open, Pool};
use crate::clock::Clock;
use crate::domain::coverage::has_no_bar;
use crate::domain::{Bar, Pair, Timeframe, Timestamp};
use crate::live::Live;
use crate::stats::Stats;
use crate::store::{Among, LogRead, Store, StoreError};

/// Who follows at a time; the rest of the connections is for questions.
pub const FOLLOWERS_MAX: usize = 100;
/// Values of one page: what a bucket of 28 pairs brings in two lengths, and some more.
const PAGE_MAX: usize = 128;
/// Pages kept for those who follow; who is further behind reads his own.
const PAGES_MAX: usize = 8;
/// Pages that were read last, kept for whoever comes to the same place: after an import all do.
const PAGES_KEPT: usize = 16;
/// Pages read for single followers at a time; who wants another waits for his turn. One, as there is one connection:
/// what is new to all waits for no more than that.
const TURNS: usize = 1;
/// Pieces of work that may wait for the connection: turns, the reader's own, and candles.
const READS_QUEUED_MAX: usize = TURNS + 2;
/// How often commits of other processes are looked for: of an import, or of the leader where this one stands by.
const LOOK: Duration = Duration::from_secs(2);
/// Time for which the log may not be readable before those who follow are told and ended.
pub(super) const AWAY_MAX: Duration = Duration::from_secs(30);
/// How often candles under way are told.
const FORMING_EVERY: Duration = Duration::from_secs(1);
/// Ticks between two attempts to learn what a longer candle began with.
const LEARN_EVERY: u32 = 5;

/// News for all who follow.
#[derive(Clone, Debug)]
pub(super) enum News {
    /// The next page.
    Page(Arc<Page>),
    /// Something is wrong with where the log was: each has to look for himself.
    Look,
    /// The log could not be read for long, and this is why: nobody can follow it.
    Away(Arc<str>),
}

/// What is read for one follower.
pub(super) enum Told {
    /// What comes next.
    Page(Arc<Page>),
    /// He cannot go on; the log ends with this `seq`.
    Lost(Lost, i64),
}

/// There are too many who follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPlace;

/// What is pushed to all who follow.
pub struct Push {
    live: Live,
    clock: Clock,
    timeframes: Vec<Timeframe>,
    pool: Pool,
    turns: Semaphore,
    news: broadcast::Sender<News>,
    forming: watch::Sender<Arc<Shown>>,
    followers: Mutex<Followers>,
    shelf: Arc<Shelf>,
    /// That the log cannot be read has been said, and not yet that it can again.
    is_away_said: AtomicBool,
    stats: Arc<Stats>,
}

#[derive(Debug, Default)]
struct Followers {
    all: usize,
    /// Those who want candles under way.
    forming: usize,
    has_reader: bool,
}

/// A follower's place, until it is dropped.
pub(super) struct Seat {
    push: Arc<Push>,
    pub(super) forming: bool,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut followers = self.push.followers();
        followers.all -= 1;
        followers.forming -= usize::from(self.forming);
        self.push.stats.forming_followers.set(followers.forming as u64);
    }
}

/// There is a reader, until this is dropped or it has said that it ends.
struct Reading {
    push: Arc<Push>,
    has_ended: bool,
}

impl Drop for Reading {
    fn drop(&mut self) {
        if !self.has_ended {
            self.push.followers().has_reader = false;
        }
    }
}

impl Push {
    /// Pushes what `open` has the log of, and what is shown to be under way, in these lengths.
    pub fn new(
        open: Open,
        live: Live,
        clock: Clock,
        timeframes: &[Timeframe],
        stats: Arc<Stats>,
    ) -> Arc<Push> {
        Arc::new(Push {
            live,
            clock,
            timeframes: timeframes.to_vec(),
            // A connection of its own: whoever catches up with much does not keep others from their answers.
            pool: Pool::new("candlekeep-http-push", 1, READS_QUEUED_MAX, true, open),
            turns: Semaphore::new(TURNS),
            news: broadcast::channel(PAGES_MAX).0,
            forming: watch::channel(Arc::default()).0,
            followers: Mutex::default(),
            shelf: Arc::default(),
            is_away_said: AtomicBool::new(false),
            stats,
        })
    }

    /// What comes behind `after` could not be read for one alone, who is ended. Where nobody can be told anything that
    /// has been said; else something is wrong with that stretch, which does not pass by itself.
    pub(super) fn ends_unread(&self, after: i64, error: &NoAnswer) {
        if self.is_away_said.load(Ordering::Relaxed) {
            log::info!(error:% = error, after; "the log cannot be read for a follower, his connection is ended");
            return;
        }
        self.stats.followers_unread.add(1);
        log::warn!(
            error:% = error, after;
            "bars that a follower is to be told of cannot be read, his connection is ended; who comes behind them can \
             be told of later ones"
        );
    }

    /// The time.
    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    fn followers(&self) -> MutexGuard<'_, Followers> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more.
    pub(super) fn seat(self: &Arc<Push>, forming: bool) -> Result<Seat, NoPlace> {
        let mut followers = self.followers();
        if followers.all >= FOLLOWERS_MAX {
            return Err(NoPlace);
        }
        followers.all += 1;
        followers.forming += usize::from(forming);
        self.stats.forming_followers.set(followers.forming as u64);
        Ok(Seat { push: self.clone(), forming })
    }

    /// What comes by from now on.
    pub(super) fn news(self: &Arc<Push>) -> (broadcast::Receiver<News>, watch::Receiver<Arc<Shown>>) {
        let news = (self.news.subscribe(), self.forming.subscribe());
        self.keep_reading();
        news
    }

    /// Has the log read where nobody does: the first follower has come, or the reader has failed.
    pub(super) fn keep_reading(self: &Arc<Push>) {
        if std::mem::replace(&mut self.followers().has_reader, true) {
            return;
        }
        actix_rt::spawn(read_on(Reading { push: self.clone(), has_ended: false }));
    }

    /// Whether somebody reads the log for all.
    #[cfg(test)]
    pub(super) fn is_read(&self) -> bool {
        self.followers().has_reader
    }

    /// The `seq` that the log ends with.
    pub(super) async fn last_seq(&self) -> Result<i64, NoAnswer> {
        self.in_turn(Store::last_seq).await
    }

    /// What comes behind `after`, for one alone.
    pub(super) async fn read(&self, after: i64, among: Among) -> Result<Told, NoAnswer> {
        if let Some(page) = self.shelf.page(after, among) {
            return Ok(Told::Page(page));
        }
        let shelf = self.shelf.clone();
        self.in_turn(move |store| shelf.read(store, after, among)).await
    }

    async fn in_turn<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, NoAnswer> {
        let _turn = self.turns.acquire().await.expect("it is never closed");
        self.pool.run(work).await
    }
}

/// Pages that were read last. Full ones: nothing comes into them any more.
#[derive(Debug, Default)]
struct Shelf(Mutex<VecDeque<(Among, Arc<Page>)>>);

impl Shelf {
    fn pages(&self) -> MutexGuard<'_, VecDeque<(Among, Arc<Page>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The page that begins behind `after`, if it is there. One that nothing was missing from is good for everybody.
    fn page(&self, after: i64, among: Among) -> Option<Arc<Page>> {
        let is_it = |of: &Among, page: &Page| page.after == after && (*of == Among::All || *of == among);
        self.pages().iter().find(|(of, page)| is_it(of, page)).map(|(_, page)| page.clone())
    }

    fn keep(&self, among: Among, page: &Arc<Page>) {
        let mut pages = self.pages();
        pages.truncate(PAGES_KEPT - 1);
        pages.push_front((among, page.clone()));
    }

    /// Another log may begin, or nobody wants this one.
    fn clear(&self) {
        self.pages().clear();
    }

    /// What comes behind `after`, from here or from the database.
    fn read(&self, store: &mut Store, after: i64, among: Among) -> Result<Told, StoreError> {
        if let Some(page) = self.page(after, among) {
            return Ok(Told::Page(page));
        }
        Ok(match store.log_after(after, PAGE_MAX, among)? {
            LogRead::Page(page) => {
                let newest = match page.entries.is_empty() {
                    true => Newest::new(),
                    false => newest(store)?,
                };
                let page = Arc::new(Page::of(after, &page, &newest));
                // What it calls the newest would not be so for long.
                if page.has_more && !page.has_newest {
                    self.keep(among, &page);
                }
                Told::Page(page)
            }
            LogRead::Deleted { to, last } => Told::Lost(Lost::Deleted(to), last),
            LogRead::Unknown { last } => {
                self.clear();
                Told::Lost(Lost::Unknown, last)
            }
        })
    }
}

/// The newest bars of what is watched, by one statement: later ones than a page has that was read before may be
/// among them.
fn newest(store: &mut Store) -> Result<Newest, StoreError> {
    let rows = store.freshness()?.into_iter();
    Ok(rows.filter_map(|row| Some(((row.pair, row.timeframe), row.last?))).collect())
}

/// Reads while anybody follows.
async fn read_on(mut reading: Reading) {
    let push = reading.push.clone();
    let mut reader = Reader { push: &push, at: None, under_way: None, ticks: 0, away_since: None };
    let mut commits = push.live.commits();
    let (mut look, mut tick) = (actix_rt::time::interval(LOOK), actix_rt::time::interval(FORMING_EVERY));
    for timer in [&mut look, &mut tick] {
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    loop {
        let wants_forming = {
            let mut followers = push.followers();
            if followers.all == 0 {
                // While nobody can come in between.
                followers.has_reader = false;
                reading.has_ended = true;
                push.shelf.clear();
                return;
            }
            followers.forming > 0
        };
        if !wants_forming {
            reader.under_way = None;
        }
        tokio::select! {
            told = commits.changed() => {
                told.expect("what is shown outlives who looks");
                reader.read().await;
            }
            _ = look.tick() => reader.read().await,
            _ = tick.tick(), if wants_forming => reader.form().await,
        }
    }
}

/// Where the reader is.
struct Reader<'a> {
    push: &'a Push,
    /// It has told everything up to this `seq`.
    at: Option<i64>,
    /// None while nobody wants it.
    under_way: Option<UnderWay>,
    ticks: u32,
    /// Since when the log could not be read, if it could not the last time.
    away_since: Option<Instant>,
}

impl Reader<'_> {
    /// Tells all that is new, while anybody follows.
    async fn read(&mut self) {
        while self.read_page().await == Some(true) && self.push.followers().all > 0 {}
    }

    /// Tells the next page, and answers whether there is more; none where it cannot be read.
    async fn read_page(&mut self) -> Option<bool> {
        let (at, shelf) = (self.at, self.push.shelf.clone());
        let work = move |store: &mut Store| {
            // Who has come before this begins is told of an end that he may not have come to.
            let at = at.map_or_else(|| store.last_seq(), Ok)?;
            shelf.read(store, at, Among::All)
        };
        let told = match self.push.pool.run(work).await {
            Ok(told) => told,
            Err(error) => {
                self.misses(&error);
                return None;
            }
        };
        self.away_since = None;
        if self.push.is_away_said.swap(false, Ordering::Relaxed) {
            log::info!("what is stored can be told again to those who follow");
        }
        match told {
            Told::Page(page) => {
                let (has_more, is_news) = (page.has_more, self.at != Some(page.upto));
                self.at = Some(page.upto);
                if is_news {
                    self.settle(&page);
                    // Nobody may follow any more.
                    let _ = self.push.news.send(News::Page(page));
                }
                Some(has_more)
            }
            Told::Lost(_, last) => {
                self.at = Some(last);
                if let Some(under_way) = &mut self.under_way {
                    under_way.is_at(last);
                }
                let _ = self.push.news.send(News::Look);
                Some(false)
            }
        }
    }

    /// The log could not be read. Who follows is told when that has lasted: bars may have been stored.
    fn misses(&mut self, error: &NoAnswer) {
        let now = self.push.clock.monotonic();
        let since = *self.away_since.get_or_insert(now);
        let away = now.saturating_duration_since(since);
        if away < AWAY_MAX {
            log::debug!(error:% = error; "what is stored cannot be told to those who follow");
            return;
        }
        if !self.push.is_away_said.swap(true, Ordering::Relaxed) {
            let away_s = away.as_secs();
            log::warn!(error:% = error, away_s; "what is stored cannot be told, those who follow are ended");
        }
        let _ = self.push.news.send(News::Away(error.to_string().into()));
    }

    /// What is stored is no longer under way, before anybody hears that it is stored.
    fn settle(&mut self, page: &Page) {
        let Some(under_way) = &mut self.under_way else { return };
        for bar in page.bars() {
            under_way.settled(bar);
        }
        under_way.is_at(page.upto);
        self.push.forming.send_replace(under_way.shown());
    }

    /// Tells what is under way.
    async fn form(&mut self) {
        let shown = self.push.live.ask_forming();
        let Some(under_way) = &mut self.under_way else {
            // What is shown now was asked for by those before.
            let timeframes = &self.push.timeframes;
            let mut under_way = UnderWay::following(&self.push.forming.borrow(), timeframes);
            under_way.is_at(self.at.unwrap_or(0));
            self.under_way = Some(under_way);
            self.ticks = 0;
            return;
        };
        let Some(forming) = shown else { return };
        if self.ticks.is_multiple_of(LEARN_EVERY) {
            let lacks = under_way.lacks(&forming);
            if !lacks.is_empty()
                && let Ok(learnt) = self.push.pool.run(move |store| learn(store, &lacks)).await
            {
                for Learnt { pair, bars, empty } in learnt {
                    under_way.learns(pair, bars, &empty);
                }
            }
        }
        self.ticks = self.ticks.wrapping_add(1);
        if under_way.takes(&forming) {
            self.push.forming.send_replace(under_way.shown());
        }
    }
}

/// What is known of 5-minute buckets of a pair.
struct Learnt {
    pair: Pair,
    bars: Vec<Bar>,
    /// Where there is no bar to have.
    empty: Vec<Range<Timestamp>>,
}

fn learn(store: &mut Store, lacks: &[(Pair, Range<Timestamp>)]) -> Result<Vec<Learnt>, StoreError> {
    store.consistently(|store| {
        let learn = |(pair, span): &(Pair, Range<Timestamp>)| {
            let bars = store.page(*pair, Timeframe::M5, span.clone(), PAGE_MAX as u32)?;
            let runs = store.coverage(*pair, Timeframe::M5, span.clone())?;
            let empty = runs.into_iter().filter(|run| has_no_bar(run.state, run.reason));
            let empty = empty.map(|run| run.span.start.max(span.start)..run.span.end.min(span.end));
            let bars = bars.into_iter().map(|stored| stored.bar).collect();
            Ok(Learnt { pair: *pair, bars, empty: empty.collect() })
        };
        lacks.iter().map(learn).collect()
    })
}
