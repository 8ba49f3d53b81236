//! The writer's course, step by step, and against a model that fails as it likes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::batch::Batch;
use super::modes::{Modes, News, RETRY_LAST, STOP_PATIENCE, Step};
use crate::domain::{Fact, FactBatch, Mark, Reason, State, Timeframe, Timestamp};

const PATIENCE: Duration = Duration::from_secs(15);

#[expect(clippy::disallowed_methods, reason = "an Instant has no other origin; only differences count")]
fn start() -> Instant {
    Instant::now()
}

/// A batch of one fact, told by its number.
fn batch(number: i64) -> Arc<FactBatch> {
    let mark = Mark {
        pair: "EURUSD".parse().unwrap(),
        timeframe: Timeframe::M5,
        span: Timestamp(number * 300)..Timestamp(number * 300 + 300),
        state: State::Quiet,
        reason: Reason::LaterRow,
    };
    Arc::new(FactBatch { evidence: "ls:1".into(), facts: vec![Fact::Marked(mark)] })
}

fn number(batch: &FactBatch) -> i64 {
    match &batch.facts[0] {
        Fact::Marked(mark) => mark.span.start.0 / 300,
        Fact::Settled(_) => panic!("there are marks only"),
    }
}

/// A writer's core between a database and a journal whose answers the test gives.
struct Desk {
    modes: Modes,
    now: Instant,
    next: i64,
    acknowledged: usize,
}

impl Desk {
    fn new(has_journal: bool) -> Desk {
        let modes = Modes::new(Batch::new(Duration::ZERO), has_journal, PATIENCE);
        Desk { modes, now: start(), next: 0, acknowledged: 0 }
    }

    fn offer(&mut self, count: i64) {
        for number in self.next..self.next + count {
            self.modes.offer(batch(number), self.now).unwrap();
        }
        self.next += count;
    }

    /// What is to be done, by the numbers of its batches.
    fn step(&mut self) -> String {
        let numbers = |batches: &[Arc<FactBatch>]| {
            batches.iter().map(|batch| number(batch).to_string()).collect::<Vec<_>>().join(",")
        };
        match self.modes.poll(self.now) {
            None => "nothing".to_owned(),
            Some(Step::Flush(batches)) => format!("flush {}", numbers(&batches)),
            Some(Step::Append(batches)) => format!("append {}", numbers(&batches)),
            Some(Step::Drain(_)) => "drain".to_owned(),
            Some(Step::Empty) => "empty".to_owned(),
        }
    }

    fn expect(&mut self, expected: &str) {
        assert_eq!(self.step(), expected);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn durable(&mut self) -> usize {
        self.acknowledged += self.modes.take_durable();
        self.acknowledged
    }

    fn news(&mut self) -> Vec<News> {
        std::iter::from_fn(|| self.modes.take_news()).collect()
    }
}

fn busy() -> String {
    "busy".to_owned()
}

#[test]
fn one_flush_at_a_time_and_what_comes_meanwhile_joins_the_next() {
    let mut desk = Desk::new(true);
    desk.offer(1);
    desk.expect("flush 0");
    desk.offer(2);
    desk.expect("nothing");
    desk.modes.flushed(Ok(()), desk.now);
    assert_eq!(desk.durable(), 1);
    desk.expect("flush 1,2");
    desk.modes.flushed(Ok(()), desk.now);
    assert_eq!(desk.durable(), 3);
    desk.expect("nothing");
    assert_eq!((desk.news(), desk.modes.next_timeout()), (vec![], None));
}

#[test]
fn while_the_database_is_away_everything_goes_through_the_journal_in_order() {
    let mut desk = Desk::new(true);
    desk.offer(2);
    desk.expect("flush 0,1");
    desk.offer(1);
    desk.modes.flushed(Err(busy()), desk.now);
    assert_eq!(desk.news(), [News::Away(busy())]);
    desk.expect("append 0,1");
    assert_eq!(desk.durable(), 0, "not before it is in the journal");
    desk.modes.appended(Ok(()), desk.now);
    assert_eq!((desk.durable(), desk.modes.spooled()), (2, 2));
    desk.expect("append 2");
    desk.modes.appended(Ok(()), desk.now);
    desk.pass(RETRY_LAST);
    desk.expect("drain");
    desk.offer(1);
    desk.expect("append 3");
    desk.modes.drained(Err(busy()), desk.now);
    desk.modes.appended(Ok(()), desk.now);
    assert_eq!(desk.news(), [], "one line for all of it");
    desk.pass(RETRY_LAST * 2);
    desk.expect("drain");
    desk.modes.drained(Ok(3), desk.now);
    desk.expect("drain");
    desk.modes.drained(Ok(1), desk.now);
    // What comes now waits for the journal to be empty, else it could be overtaken by its replay.
    desk.offer(1);
    desk.expect("empty");
    desk.expect("nothing");
    desk.modes.emptied(desk.now);
    assert_eq!(desk.news(), [News::Back { kept: 4, after: RETRY_LAST * 3 }]);
    desk.expect("flush 4");
    desk.modes.flushed(Ok(()), desk.now);
    assert_eq!((desk.durable(), desk.modes.spooled()), (5, 0));
}

#[test]
fn a_flush_that_is_not_answered_is_given_up() {
    let mut desk = Desk::new(true);
    desk.offer(1);
    desk.expect("flush 0");
    assert_eq!(desk.modes.next_timeout(), Some(desk.now + PATIENCE));
    desk.pass(PATIENCE - Duration::from_millis(1));
    desk.expect("nothing");
    desk.pass(Duration::from_millis(1));
    desk.expect("append 0");
    desk.modes.appended(Ok(()), desk.now);
    desk.offer(1);
    desk.expect("append 1");
    desk.modes.appended(Ok(()), desk.now);
    desk.pass(RETRY_LAST * 9);
    desk.expect("nothing");
    assert_eq!(desk.durable(), 2);
    // It succeeds after all: nobody is answered twice, and the journal is drained all the same.
    desk.modes.flushed(Ok(()), desk.now);
    assert_eq!(desk.durable(), 2);
    desk.expect("drain");
    desk.modes.drained(Ok(2), desk.now);
    desk.expect("empty");
}

#[test]
fn one_that_is_given_up_and_answered_before_the_journal_has_it_is_not_lost() {
    for journal_works in [true, false] {
        let mut desk = Desk::new(true);
        desk.offer(1);
        desk.expect("flush 0");
        desk.pass(PATIENCE);
        desk.expect("append 0");
        desk.modes.flushed(Err(busy()), desk.now);
        desk.modes.appended(if journal_works { Ok(()) } else { Err("full".to_owned()) }, desk.now);
        desk.pass(RETRY_LAST * 2);
        desk.expect(if journal_works { "drain" } else { "append 0" });
    }
}

#[test]
fn a_process_that_ends_does_not_wait_long() {
    let mut desk = Desk { modes: Modes::new(Batch::new(PATIENCE), true, PATIENCE), ..Desk::new(true) };
    desk.offer(1);
    desk.expect("nothing");
    desk.modes.hurry();
    desk.expect("flush 0");
    desk.pass(STOP_PATIENCE);
    desk.expect("append 0");
}

#[test]
fn without_a_journal_it_is_held_and_tried_again() {
    for has_journal in [true, false] {
        let mut desk = Desk::new(has_journal);
        desk.offer(1);
        desk.expect("flush 0");
        desk.offer(1);
        desk.modes.flushed(Err(busy()), desk.now);
        if has_journal {
            desk.expect("append 0");
            desk.modes.appended(Err("disk full".to_owned()), desk.now);
            assert_eq!(desk.news(), [News::Away(busy()), News::NoJournal("disk full".to_owned())]);
        }
        desk.expect("nothing");
        desk.pass(RETRY_LAST * 2);
        if has_journal {
            // The journal is tried again too, and fails again.
            desk.expect("append 0");
            desk.modes.appended(Err("disk full".to_owned()), desk.now);
        }
        desk.expect("flush 0");
        desk.modes.flushed(Ok(()), desk.now);
        assert_eq!(desk.durable(), 1);
        desk.expect("flush 1");
    }
}

/// What the world answers next, and how long it takes.
#[derive(Clone, Copy, Debug)]
enum Turn {
    Offer,
    Database { works: bool },
    Journal { works: bool },
    Pass { ms: u64 },
    Crash,
}

fn any_turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        4 => Just(Turn::Offer),
        5 => prop::bool::weighted(0.6).prop_map(|works| Turn::Database { works }),
        5 => prop::bool::weighted(0.8).prop_map(|works| Turn::Journal { works }),
        3 => (1u64..20_000).prop_map(|ms| Turn::Pass { ms }),
        1 => Just(Turn::Crash),
    ]
}

/// Database and journal as lists of numbers.
#[derive(Default)]
struct World {
    stored: Vec<i64>,
    journal: Vec<i64>,
    drained: usize,
    at_database: Option<Step>,
    at_journal: Option<Step>,
}

impl World {
    fn take(&mut self, desk: &mut Desk) {
        while let Some(step) = desk.modes.poll(desk.now) {
            let place = match step {
                Step::Flush(_) | Step::Drain(_) => &mut self.at_database,
                Step::Append(_) | Step::Empty => &mut self.at_journal,
            };
            assert!(place.replace(step).is_none(), "one thing at a time");
        }
    }

    fn database(&mut self, desk: &mut Desk, works: bool) {
        match self.at_database.take() {
            Some(Step::Flush(batches)) => {
                if works {
                    self.store(&batches.iter().map(|batch| number(batch)).collect::<Vec<_>>());
                }
                desk.modes.flushed(works.then_some(()).ok_or_else(busy), desk.now);
            }
            Some(Step::Drain(_)) => {
                let chunk = self.journal[self.drained..].iter().copied().take(2).collect::<Vec<_>>();
                if works {
                    self.store(&chunk);
                    self.drained += chunk.len();
                }
                desk.modes.drained(works.then_some(chunk.len() as u64).ok_or_else(busy), desk.now);
            }
            _ => {}
        }
    }

    fn journal(&mut self, desk: &mut Desk, works: bool) {
        match self.at_journal.take() {
            Some(Step::Append(batches)) => {
                if works {
                    self.journal.extend(batches.iter().map(|batch| number(batch)));
                }
                desk.modes.appended(works.then_some(()).ok_or_else(busy), desk.now);
            }
            Some(Step::Empty) => {
                assert_eq!(self.drained, self.journal.len(), "what is dropped is stored");
                self.journal.clear();
                self.drained = 0;
                desk.modes.emptied(desk.now);
            }
            _ => {}
        }
    }

    /// What is new to the database is the next in order.
    fn store(&mut self, numbers: &[i64]) {
        for number in numbers {
            if !self.stored.contains(number) {
                assert_eq!(*number, self.stored.len() as i64, "in the order learnt");
                self.stored.push(*number);
            }
        }
    }

    fn is_kept(&self, number: i64) -> bool {
        self.stored.contains(&number) || self.journal.contains(&number)
    }
}

proptest! {
    #[test]
    fn whatever_fails_nothing_acknowledged_is_lost_and_the_order_is_kept(
        turns in prop::collection::vec(any_turn(), 0..80), has_journal in any::<bool>(),
    ) {
        let (mut desk, mut world) = (Desk::new(has_journal), World::default());
        for turn in turns {
            match turn {
                Turn::Offer => desk.offer(1),
                Turn::Database { works } => world.database(&mut desk, works),
                Turn::Journal { works } => world.journal(&mut desk, works),
                Turn::Pass { ms } => desk.pass(Duration::from_millis(ms)),
                Turn::Crash => {
                    let acknowledged = desk.durable() as i64;
                    // The next process stores what the journal has, and learns the rest again.
                    let journal = std::mem::take(&mut world.journal);
                    world.store(&journal);
                    (world.drained, world.at_database, world.at_journal) = (0, None, None);
                    prop_assert!(world.stored.len() as i64 >= acknowledged);
                    let (next, now) = (world.stored.len() as i64, desk.now);
                    desk = Desk { next, now, acknowledged: next as usize, ..Desk::new(has_journal) };
                }
            }
            world.take(&mut desk);
            let acknowledged = desk.durable() as i64;
            prop_assert!((0..acknowledged).all(|number| world.is_kept(number)), "{acknowledged} acknowledged");
            prop_assert_eq!(desk.modes.spooled(), (world.journal.len() - world.drained) as u64);
            // It waits for an answer, or knows when to go on, or has nothing to do.
            let waits = world.at_database.is_some() || world.at_journal.is_some();
            prop_assert!(waits || desk.modes.next_timeout().is_some() || acknowledged == desk.next);
        }
        // Once all works again, everything is stored.
        for _ in 0..400 {
            desk.pass(RETRY_LAST);
            world.take(&mut desk);
            world.database(&mut desk, true);
            world.journal(&mut desk, true);
        }
        world.take(&mut desk);
        desk.durable();
        prop_assert_eq!(world.stored.len() as i64, desk.next);
        prop_assert_eq!(desk.acknowledged as i64, desk.next);
        prop_assert!(world.journal.is_empty() && world.at_database.is_none());
        // Between two absences it says that it is back.
        let news = desk.news();
        let aways = news.iter().filter(|news| matches!(news, News::Away(_))).count();
        let backs = news.iter().filter(|news| matches!(news, News::Back { .. })).count();
        prop_assert_eq!(aways, backs);
    }
}
