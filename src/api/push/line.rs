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
use tokio::sync::{Notify, broadcast, watch};

use super::follower::{Follower, too_slow, unavailable};
use super::forming::Shown;
use super::hub::{AWAY_MAX, News, NoPlace, Push, Seat, Told};
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
/// How often that is looked for, and whether he has hung up.
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

/// What is handed to the connection.
#[derive(Debug, Default)]
struct Handed {
    /// Since when it has not been taken.
    since: Cell<Option<Instant>>,
    /// The client has hung up, which nobody notices while there is nothing to tell him.
    is_left: Notify,
}

/// A follower and his connection.
struct Line {
    push: Arc<Push>,
    seat: Seat,
    follower: Follower,
    news: broadcast::Receiver<News>,
    forming: watch::Receiver<Arc<Shown>>,
    /// What he is told first.
    greeting: Option<Bytes>,
    handed: Rc<Handed>,
    /// Ends the connection of one who takes nothing, and ends with it.
    watching: JoinHandle<()>,
    grip: Option<Grip>,
    /// Since when he waits for what is to be read for him, and why the last attempt failed.
    unread: Option<(Instant, NoAnswer)>,
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
            greeting: Some(greeting),
            handed,
            watching,
            grip,
            unread: None,
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
        if let Some(grip) = grip.as_ref().filter(|grip| grip.is_left()) {
            handed.is_left.notify_one();
            return grip.end();
        }
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
        self.since.get().is_some_and(|since| now.saturating_duration_since(since) > TAKEN_WITHIN)
    }
}

impl Line {
    /// What is to be sent next; none where it ends.
    async fn next(&mut self) -> Option<Bytes> {
        let was_stuck = self.handed.is_stuck(self.push.clock().monotonic());
        self.handed.since.set(None);
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
        self.handed.since.set(Some(self.push.clock().monotonic()));
        Some(text)
    }

    /// Waits for something to say.
    async fn wait(&mut self) -> Option<Bytes> {
        let mut silence = pin!(actix_rt::time::sleep(KEEPALIVE));
        loop {
            let text = if self.follower.is_behind() {
                let now = self.push.clock().monotonic();
                let (since, why) = self.unread.get_or_insert((now, NoAnswer::Late));
                if now.saturating_duration_since(*since) >= AWAY_MAX {
                    self.push.ends_unread(self.follower.at(), why);
                    self.has_ended = true;
                    return Some(unavailable(&why.to_string()));
                }
                tokio::select! {
                    text = catch_up(&self.push, &mut self.follower, &mut self.unread) => text,
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
                        Ok(News::Away(why)) => {
                            self.has_ended = true;
                            Some(unavailable(&why))
                        }
                        Err(RecvError::Closed) => return None,
                    },
                    Ok(()) = self.forming.changed(), if self.seat.forming => {
                        let shown = self.forming.borrow_and_update().clone();
                        self.follower.sees(&shown)
                    }
                    () = self.handed.is_left.notified() => return None,
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
async fn catch_up(
    push: &Push,
    follower: &mut Follower,
    unread: &mut Option<(Instant, NoAnswer)>,
) -> Option<Bytes> {
    match push.read(follower.at(), follower.among()).await {
        Ok(told) => {
            *unread = None;
            match told {
                Told::Page(page) => follower.catches_up(&page),
                Told::Lost(lost, last) => Some(follower.is_lost(lost, last)),
            }
        }
        Err(error) => {
            log::debug!(error:% = error; "the log cannot be read for a follower, trying again");
            if let Some((_, why)) = unread {
                *why = error;
            }
            actix_rt::time::sleep(READ_AGAIN).await;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use futures_util::{FutureExt, StreamExt};

    use super::super::page::testing::short;
    use super::*;
    use crate::api::asked::After;
    use crate::clock::Clock;
    use crate::domain::{Bar, BarKey, Fact, FactBatch, Ohlc, Price, Source, Timeframe, Timestamp};
    use crate::live::Live;
    use crate::stats::Stats;
    use crate::store::{DatabaseUrl, Store};

    type Events = Pin<Box<dyn Stream<Item = Result<Bytes, Infallible>>>>;

    /// A database, and those who follow it.
    struct Scene {
        folder: tempfile::TempDir,
        url: DatabaseUrl,
        store: Store,
        live: Live,
        clock: Clock,
        push: Arc<Push>,
        stats: Arc<Stats>,
        slot: i64,
    }

    impl Scene {
        fn new() -> Scene {
            let folder = tempfile::tempdir().unwrap();
            let url = DatabaseUrl::sqlite(folder.path().join("c.db"));
            let (store, live) = (Store::open(&url).unwrap(), Live::default());
            let clock = Clock::simulated(Timestamp(0), 0);
            let of = url.clone();
            let open = Arc::new(move || Store::open_read_only(&of));
            let stats = Arc::<Stats>::default();
            let push = Push::new(open, live.clone(), clock.clone(), &[Timeframe::M5], stats.clone());
            Scene { folder, url, store, live, clock, push, stats, slot: 0 }
        }

        /// Stores so many more bars, none of which has company in its quarter.
        fn commit(&mut self, bars: i64) {
            let side = Ohlc::from_prices([Price::parse("1.1", 0).unwrap(); 4]);
            let bar = |slot: i64| {
                let start = Timestamp(slot * 900);
                let key = BarKey { pair: "EURUSD".parse().unwrap(), timeframe: Timeframe::M5, start };
                Fact::Settled(Bar { key, bid: side, ask: side, volume: 1, source: Source::Stream })
            };
            let facts = (self.slot..self.slot + bars).map(bar).collect();
            self.slot += bars;
            let batch = Arc::new(FactBatch { evidence: "test".into(), facts });
            self.store.commit(&[batch], Timestamp(0)).unwrap();
            self.live.committed(self.store.last_seq().unwrap());
        }

        /// Has another client of the database do something with it.
        fn run(&self, sql: &str) {
            rusqlite::Connection::open(self.folder.path().join("c.db")).unwrap().execute_batch(sql).unwrap();
        }

        async fn follow(&self, after: After) -> Result<Events, NoStream> {
            let asked = Follow { pairs: Vec::new(), timeframes: Vec::new(), forming: false, after };
            Ok(Box::pin(self.push.follow(asked, None).await?))
        }
    }

    async fn heard(events: &mut Events) -> String {
        let next =
            tokio::time::timeout(Duration::from_secs(60), events.next()).await.expect("something comes");
        short(&next.expect("it goes on").unwrap())
    }

    /// The numbers in what is heard until this one.
    async fn until(events: &mut Events, last: i64) -> Vec<i64> {
        let mut seqs: Vec<i64> = Vec::new();
        while seqs.last() != Some(&last) {
            let text = heard(events).await;
            seqs.extend(
                text.split(", ").map(|event| event.strip_prefix("candle ").unwrap().parse::<i64>().unwrap()),
            );
        }
        seqs
    }

    #[actix_web::test]
    async fn what_is_committed_comes_to_all_who_follow_once() {
        let mut scene = Scene::new();
        scene.commit(2);
        let mut new = scene.follow(After::Now).await.unwrap();
        assert_eq!(heard(&mut new).await, "2 what is stored after 2 follows");
        let mut old = scene.follow(After::Seq(1)).await.unwrap();
        assert_eq!(heard(&mut old).await, "1 what is stored after 1 follows");
        scene.commit(1);
        assert_eq!(until(&mut new, 3).await, [3]);
        assert_eq!(until(&mut old, 3).await, [2, 3]);
        scene.commit(2);
        assert_eq!((until(&mut new, 5).await, until(&mut old, 5).await), (vec![4, 5], vec![4, 5]));
    }

    #[actix_web::test]
    async fn of_bars_that_come_late_the_last_alone_is_called_the_newest() {
        let mut scene = Scene::new();
        scene.run("INSERT INTO watched_bars VALUES ('EUR_USD', '5', 'forex', 0)");
        scene.slot = 5;
        scene.commit(3);
        let mut events = scene.follow(After::Seq(0)).await.unwrap();
        heard(&mut events).await;
        let mut told = Vec::new();
        // Missed, then as it is stored, then healed.
        for (slot, bars, expected) in
            [(8, 0, vec![false, false, true]), (8, 1, vec![true]), (1, 2, vec![false, false])]
        {
            scene.slot = slot;
            scene.commit(bars);
            while told.len() < expected.len() {
                let text = tokio::time::timeout(Duration::from_secs(60), events.next()).await.unwrap();
                let text = String::from_utf8(text.unwrap().unwrap().to_vec()).unwrap();
                let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
                told.extend(
                    data.map(|data| {
                        serde_json::from_str::<serde_json::Value>(data).unwrap()["newest"] == true
                    }),
                );
            }
            assert_eq!(std::mem::take(&mut told), expected, "{slot}");
        }
    }

    #[actix_web::test]
    async fn who_does_not_take_what_comes_by_is_told_from_the_database_and_misses_nothing() {
        let mut scene = Scene::new();
        let mut quick = scene.follow(After::Now).await.unwrap();
        let mut slow = scene.follow(After::Now).await.unwrap();
        let _greetings = (heard(&mut quick).await, heard(&mut slow).await);
        scene.commit(1);
        assert_eq!(until(&mut slow, 1).await, [1]);
        // Far more than is kept for those who follow.
        for _ in 0..10 {
            scene.commit(300);
            let told = until(&mut quick, scene.slot).await;
            assert_eq!(told.last(), Some(&scene.slot));
        }
        assert_eq!(until(&mut slow, scene.slot).await, (2..=scene.slot).collect::<Vec<_>>());
        scene.commit(1);
        assert_eq!(until(&mut slow, scene.slot).await, [scene.slot], "and goes on with the others");
    }

    #[actix_web::test]
    async fn a_page_that_was_read_for_one_is_there_for_all_who_come_to_its_place() {
        let mut scene = Scene::new();
        scene.commit(300);
        let mut lines = Vec::new();
        for _ in 0..3 {
            let mut events = scene.follow(After::Seq(0)).await.unwrap();
            let _greeting = heard(&mut events).await;
            lines.push(events);
        }
        let first = heard(&mut lines[0]).await;
        assert!(first.starts_with("candle 1, candle 2, "), "{first}");
        scene.run("ALTER TABLE candles RENAME TO taken");
        assert_eq!((heard(&mut lines[1]).await, heard(&mut lines[2]).await), (first.clone(), first));
        scene.run("ALTER TABLE taken RENAME TO candles");
        for events in &mut lines {
            assert_eq!(until(events, 300).await, (129..=300).collect::<Vec<_>>(), "each goes on from there");
        }
    }

    #[actix_web::test]
    async fn where_all_have_left_nothing_more_is_read() {
        let mut scene = Scene::new();
        let mut events = scene.follow(After::Now).await.unwrap();
        let _greeting = heard(&mut events).await;
        scene.commit(1);
        assert_eq!(heard(&mut events).await, "candle 1");
        let (mut news, _) = scene.push.news();
        scene.commit(6_000);
        assert!(matches!(news.recv().await, Ok(News::Page(_))));
        drop(events);
        while scene.push.is_read() {
            actix_rt::task::yield_now().await;
        }
        let mut pages = 1;
        loop {
            match news.try_recv() {
                Ok(_) => pages += 1,
                Err(broadcast::error::TryRecvError::Lagged(missed)) => pages += missed,
                Err(_) => break,
            }
        }
        assert!(pages < 20, "{pages} of 47");
    }

    /// Two who follow, and have heard of all that was stored.
    async fn two(scene: &mut Scene) -> [Events; 2] {
        let mut lines = [scene.follow(After::Now).await.unwrap(), scene.follow(After::Now).await.unwrap()];
        for events in &mut lines {
            let _greeting = heard(events).await;
        }
        scene.commit(5);
        for events in &mut lines {
            assert_eq!(until(events, 5).await, [1, 2, 3, 4, 5]);
        }
        lines
    }

    #[actix_web::test]
    async fn a_database_that_goes_back_while_they_follow_is_told_to_all_and_followed_from_there() {
        let mut scene = Scene::new();
        let mut lines = two(&mut scene).await;
        scene.run("DELETE FROM candles WHERE seq > 2");
        // One who has written further would not write on.
        scene.store = Store::open(&scene.url).unwrap();
        scene.live.committed(2);
        for events in &mut lines {
            assert_eq!(heard(events).await, "reset 2");
        }
        // As far as it was before, where nothing would be new to one who is still there.
        scene.commit(3);
        for events in &mut lines {
            assert_eq!(until(events, 5).await, [3, 4, 5]);
        }
    }

    #[actix_web::test]
    async fn what_is_deleted_before_they_heard_of_it_is_told_to_all_who_follow() {
        let mut scene = Scene::new();
        let mut lines = two(&mut scene).await;
        // Of what is stored next, 6 and 7 were old and are deleted already.
        scene.store.set_setting("retention/seq", "7").unwrap();
        scene.commit(4);
        for events in &mut lines {
            assert_eq!(heard(events).await, "reset 9");
        }
        scene.commit(1);
        for events in &mut lines {
            assert_eq!(heard(events).await, "candle 10");
        }
    }

    #[actix_web::test]
    async fn one_who_takes_nothing_for_long_is_told_so_and_ended() {
        let mut scene = Scene::new();
        let mut events = scene.follow(After::Now).await.unwrap();
        let _greeting = heard(&mut events).await;
        // Time in which there was nothing to take does not count.
        assert!(events.next().now_or_never().is_none());
        scene.clock.advance(2 * TAKEN_WITHIN);
        scene.commit(1);
        assert_eq!(heard(&mut events).await, "candle 1");
        scene.clock.advance(TAKEN_WITHIN + Duration::from_millis(1));
        assert_eq!(heard(&mut events).await, "error");
        assert!(events.next().await.is_none());
    }

    #[actix_web::test]
    async fn places_are_given_back_and_nothing_is_read_while_nobody_follows() {
        let mut scene = Scene::new();
        let mut lines = Vec::new();
        for _ in 0..super::super::hub::FOLLOWERS_MAX {
            lines.push(scene.follow(After::Now).await.unwrap());
        }
        assert!(matches!(scene.follow(After::Now).await, Err(NoStream::NoPlace)));
        lines.truncate(1);
        let mut other = scene.follow(After::Now).await.unwrap();
        drop(lines);
        scene.commit(1);
        let _greeting = heard(&mut other).await;
        assert_eq!(heard(&mut other).await, "candle 1");
        drop(other);
        assert!(scene.push.is_read());
        scene.commit(1);
        while scene.push.is_read() {
            actix_rt::task::yield_now().await;
        }
        let mut again = scene.follow(After::Seq(1)).await.unwrap();
        let _greeting = heard(&mut again).await;
        assert_eq!(until(&mut again, 2).await, [2]);
        scene.commit(1);
        assert_eq!(until(&mut again, 3).await, [3]);
    }

    /// The last words to one who follows, while time flies.
    async fn last_words(clock: &Clock, mut events: Events) -> String {
        for _ in 0..600 {
            match tokio::time::timeout(Duration::from_millis(100), events.next()).await {
                Ok(Some(text)) if text.as_ref().unwrap().starts_with(b": keepalive") => {}
                Ok(text) => {
                    assert!(events.next().await.is_none(), "it ends");
                    return String::from_utf8(text.expect("a word").unwrap().to_vec()).unwrap();
                }
                Err(_) => clock.advance(AWAY_MAX / 10),
            }
        }
        panic!("he follows for ever");
    }

    #[actix_web::test]
    async fn where_the_log_cannot_be_read_for_long_all_who_follow_are_told_and_ended() {
        let mut scene = Scene::new();
        scene.commit(2);
        let mut new = scene.follow(After::Now).await.unwrap();
        let mut old = scene.follow(After::Seq(1)).await.unwrap();
        let _greetings = (heard(&mut new).await, heard(&mut old).await);
        scene.run("ALTER TABLE candles RENAME TO taken");
        let (new, old) = tokio::join!(last_words(&scene.clock, new), last_words(&scene.clock, old));
        let expected =
            "event: error\ndata: {\"error\":\"unavailable\",\"reason\":\"what is stored cannot be told: ";
        for words in [new, old] {
            assert!(words.starts_with(expected) && words.contains("no such table"), "{words}");
        }
        assert!(matches!(scene.follow(After::Now).await.err(), Some(NoStream::NoAnswer(_))));
        scene.run("ALTER TABLE taken RENAME TO candles");
        let mut again = scene.follow(After::Seq(1)).await.unwrap();
        let _greeting = heard(&mut again).await;
        assert_eq!(heard(&mut again).await, "candle 2");
        scene.commit(1);
        assert_eq!(heard(&mut again).await, "candle 3");
    }

    #[actix_web::test]
    async fn a_row_that_cannot_be_read_is_named_to_those_whom_it_keeps_from_going_on() {
        for (damage, named) in [
            ("UPDATE candles SET volume = -7 WHERE seq = 2", "EUR_USD 5 1970-01-01T00:15:00Z: "),
            ("UPDATE candles SET revision = -1 WHERE seq = 2", "EUR_USD 5 1970-01-01T00:15:00Z: "),
            ("UPDATE candles SET pair = 'nothing' WHERE seq = 2", "damaged: seq 2: "),
            ("UPDATE candles SET timeframe = '7' WHERE seq = 2", "damaged: seq 2: "),
        ] {
            let mut scene = Scene::new();
            scene.commit(3);
            scene.run(damage);
            let mut old = scene.follow(After::Seq(1)).await.unwrap();
            let _greeting = heard(&mut old).await;
            let words = last_words(&scene.clock, old).await;
            assert!(words.contains("unavailable") && words.contains(named), "{words}");
            assert_eq!(scene.stats.followers_unread.get(), 1, "{damage}");
            // Who is past it is not concerned.
            let mut new = scene.follow(After::Now).await.unwrap();
            let _greeting = heard(&mut new).await;
            scene.commit(1);
            assert_eq!(until(&mut new, 4).await, [4]);
        }
    }

    #[actix_web::test]
    async fn where_the_database_is_away_nobody_is_told_that_he_follows() {
        let url = DatabaseUrl::sqlite("/nowhere/c.db");
        let open = Arc::new(move || Store::open_read_only(&url));
        let push = Push::new(open, Live::default(), Clock::system(), &[Timeframe::M5], Arc::default());
        let asked = Follow { pairs: Vec::new(), timeframes: Vec::new(), forming: false, after: After::Now };
        assert!(matches!(push.follow(asked, None).await.err(), Some(NoStream::NoAnswer(_))));
    }
}
