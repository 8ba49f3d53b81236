//! When a room is built anew, with whom, after which pause, and when that makes no sense any more. Pure.
//!
//! A room that has failed is built anew after a pause that doubles from failure to failure. Those that
//! rest on it ([`Room::takes_along`]) are ended first and built after it. Too many failures within a
//! while, of one room or of all, are not to be mended here: the process ends, and systemd starts it from
//! what is durable.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::room::Room;
use crate::backoff::Backoff;

/// Failures older than this count no more.
pub const WINDOW: Duration = Duration::from_secs(600);
/// A room is built anew this often within the window.
pub const RESTARTS_MAX: usize = 5;
/// All rooms together are built anew this often within the window.
pub const RESTARTS_OF_ALL_MAX: usize = 12;
/// A room is found stuck this often within this time: what hangs is found only after a while, so its failures lie far
/// apart.
pub const HANGS_MAX: usize = 3;
const HANGS_WINDOW: Duration = Duration::from_secs(6 * 3_600);
/// Pauses before a room is built anew.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LAST: Duration = Duration::from_secs(30);
/// A room that is told to end does so within this time.
const RETIRE_WITHIN: Duration = Duration::from_secs(5);

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Tell the room to end. [`Care::ended`] follows.
    Retire(Room),
    /// Build the room. [`Care::built`] follows.
    Build(Room),
    /// End the process: why.
    GiveUp(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Not part of this house.
    Absent,
    Up,
    /// To be told to end.
    Unwanted,
    Retiring {
        since: Instant,
    },
    Down,
    Building,
}

#[derive(Debug)]
struct Charge {
    standing: Standing,
    /// Not built anew before this.
    not_before: Instant,
    /// It was built though nobody needs it any more.
    is_left_over: bool,
    failures: VecDeque<Instant>,
    /// When it was found stuck.
    hangs: VecDeque<Instant>,
    backoff: Backoff,
}

/// Cares for the rooms.
#[derive(Debug)]
pub struct Care {
    rooms: [Charge; Room::ALL.len()],
    given_up: Option<String>,
}

impl Care {
    /// Nothing is built yet at `now`.
    pub fn new(now: Instant) -> Care {
        let charge = |_| Charge {
            standing: Standing::Absent,
            not_before: now,
            is_left_over: false,
            failures: VecDeque::new(),
            hangs: VecDeque::new(),
            backoff: Backoff::new(PAUSE_FIRST, 2.0, PAUSE_LAST),
        };
        Care { rooms: Room::ALL.map(charge), given_up: None }
    }

    /// The room is part of this house, and stands.
    pub fn begins(&mut self, room: Room) {
        self.rooms[room.ix()].standing = Standing::Up;
    }

    /// The room that was to be built stands. It is ended again where what it rests on has died meanwhile, or
    /// where it is needed no more.
    pub fn built(&mut self, room: Room) {
        let is_up = |below: &Room| self.rooms[below.ix()].standing == Standing::Up;
        let is_wanted = self.rooms[room.ix()].standing == Standing::Building;
        let rests_on_all = room.rests_on().iter().all(is_up);
        let charge = &mut self.rooms[room.ix()];
        match (is_wanted, rests_on_all) {
            (true, true) => charge.standing = Standing::Up,
            (true, false) => charge.standing = Standing::Unwanted,
            (false, _) => charge.is_left_over = true,
        }
    }

    /// The room is gone. Where nobody had told it to end that is a failure; the pause that follows.
    /// `random` is uniform in 0..1.
    pub fn ended(&mut self, room: Room, now: Instant, random: f64) -> Option<Duration> {
        match self.rooms[room.ix()].standing {
            Standing::Unwanted | Standing::Retiring { .. } => {
                self.rooms[room.ix()].standing = Standing::Down;
                None
            }
            Standing::Up | Standing::Building => {
                self.rooms[room.ix()].standing = Standing::Down;
                Some(self.count(room, now, random))
            }
            Standing::Absent | Standing::Down => None,
        }
    }

    /// The room is there and of no use: it is told to end, and built anew. Answers the pause before that,
    /// or nothing where that is under way already.
    pub fn failed(&mut self, room: Room, now: Instant, random: f64) -> Option<Duration> {
        if self.rooms[room.ix()].standing != Standing::Up {
            return None;
        }
        self.rooms[room.ix()].standing = Standing::Unwanted;
        let hangs = &mut self.rooms[room.ix()].hangs;
        hangs.retain(|at| now.saturating_duration_since(*at) < HANGS_WINDOW);
        hangs.push_back(now);
        let hangs = hangs.len();
        let pause = self.count(room, now, random);
        if hangs > HANGS_MAX {
            let hours = HANGS_WINDOW.as_secs() / 3_600;
            self.given_up =
                Some(format!("the {} room has hung {hangs} times within {hours} hours", room.name()));
        }
        Some(pause)
    }

    /// Time has passed in which nobody could do anything: it does not count.
    pub fn excuse(&mut self, lost: Duration) {
        for charge in &mut self.rooms {
            if let Standing::Retiring { since } = &mut charge.standing {
                *since += lost;
            }
        }
    }

    /// The room is needed no more: when it ends, none follows.
    pub fn dismiss(&mut self, room: Room) {
        self.rooms[room.ix()].standing = Standing::Absent;
    }

    /// Failures of a room within the window, at `now`.
    pub fn failures(&self, room: Room, now: Instant) -> usize {
        self.rooms[room.ix()].failures.iter().filter(|at| is_recent(**at, now)).count()
    }

    /// What is to be done at `now`, until there is nothing.
    pub fn poll(&mut self, now: Instant) -> Option<Order> {
        if let Some(why) = self.given_up.take() {
            return Some(Order::GiveUp(why));
        }
        for room in Room::ALL {
            if std::mem::take(&mut self.rooms[room.ix()].is_left_over) {
                return Some(Order::Retire(room));
            }
            match self.rooms[room.ix()].standing {
                Standing::Unwanted => {
                    self.rooms[room.ix()].standing = Standing::Retiring { since: now };
                    return Some(Order::Retire(room));
                }
                Standing::Retiring { since } if since + RETIRE_WITHIN <= now => {
                    return Some(Order::GiveUp(format!(
                        "the {} room does not end when told to",
                        room.name()
                    )));
                }
                Standing::Down if self.rooms[room.ix()].not_before <= now && self.is_next(room) => {
                    self.rooms[room.ix()].standing = Standing::Building;
                    return Some(Order::Build(room));
                }
                _ => {}
            }
        }
        None
    }

    /// When to poll again though nothing has happened.
    pub fn next_timeout(&self) -> Option<Instant> {
        let due = Room::ALL.into_iter().filter_map(|room| match self.rooms[room.ix()].standing {
            Standing::Retiring { since } => Some(since + RETIRE_WITHIN),
            // Else it is for another room to stand, or to end.
            Standing::Down if self.is_next(room) => Some(self.rooms[room.ix()].not_before),
            _ => None,
        });
        due.min()
    }

    /// Whether the other rooms let it be built.
    fn is_next(&self, room: Room) -> bool {
        let standing = |room: &Room| self.rooms[room.ix()].standing;
        room.rests_on().iter().all(|below| standing(below) == Standing::Up)
            // Those of before are gone, so that they tell the new one nothing.
            && room.takes_along().iter().all(|up| matches!(standing(up), Standing::Down | Standing::Absent))
    }

    /// Counts a failure; the pause before the room is built anew.
    fn count(&mut self, room: Room, now: Instant, random: f64) -> Duration {
        for charge in &mut self.rooms {
            charge.failures.retain(|at| is_recent(*at, now));
        }
        let charge = &mut self.rooms[room.ix()];
        if charge.failures.is_empty() {
            charge.backoff.reset();
        }
        charge.failures.push_back(now);
        let own = charge.failures.len();
        let pause = charge.backoff.next_delay(random);
        charge.not_before = now + pause;
        for up in room.takes_along() {
            let up = &mut self.rooms[up.ix()];
            if up.standing == Standing::Up {
                up.standing = Standing::Unwanted;
                up.not_before = now;
            }
        }
        let all = self.rooms.iter().map(|charge| charge.failures.len()).sum::<usize>();
        let minutes = WINDOW.as_secs() / 60;
        if own > RESTARTS_MAX {
            let name = room.name();
            self.given_up = Some(format!("the {name} room has failed {own} times within {minutes} minutes"));
        } else if all > RESTARTS_OF_ALL_MAX {
            self.given_up = Some(format!("rooms have failed {all} times within {minutes} minutes"));
        }
        pause
    }
}

fn is_recent(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < WINDOW
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "instants to count from")]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const RANDOM: f64 = 0.5;
    const MS: Duration = Duration::from_millis(1);

    /// A house in which every room stands, and its time.
    fn house() -> (Care, Instant) {
        let now = Instant::now();
        let mut care = Care::new(now);
        Room::ALL.into_iter().for_each(|room| care.begins(room));
        (care, now)
    }

    fn orders(care: &mut Care, now: Instant) -> Vec<Order> {
        std::iter::from_fn(|| care.poll(now)).collect()
    }

    #[test]
    fn a_room_that_rests_on_nobody_is_built_alone_after_a_pause() {
        for room in Room::ALL.into_iter().filter(|room| *room != Room::Aggregator) {
            let (mut care, now) = house();
            assert_eq!(care.ended(room, now, RANDOM), Some(PAUSE_FIRST));
            assert_eq!(orders(&mut care, now), []);
            assert_eq!(care.next_timeout(), Some(now + PAUSE_FIRST));
            assert_eq!(orders(&mut care, now + PAUSE_FIRST), [Order::Build(room)]);
            care.built(room);
            assert_eq!((orders(&mut care, now + WINDOW), care.next_timeout()), (vec![], None));
        }
    }

    #[test]
    fn an_aggregator_takes_the_stream_along_which_ends_before_it_is_built_and_is_built_after_it() {
        let (mut care, now) = house();
        care.ended(Room::Aggregator, now, RANDOM);
        assert_eq!(orders(&mut care, now), [Order::Retire(Room::Stream)]);
        let later = now + 2 * PAUSE_FIRST;
        assert_eq!(orders(&mut care, later), [], "the stream is still there");
        assert_eq!(care.ended(Room::Stream, later, RANDOM), None, "it was told to end");
        assert_eq!(orders(&mut care, later), [Order::Build(Room::Aggregator)]);
        care.built(Room::Aggregator);
        assert_eq!(orders(&mut care, later), [Order::Build(Room::Stream)]);
        assert_eq!(care.failures(Room::Stream, later), 0);
    }

    #[test]
    fn a_stream_that_has_died_with_the_aggregator_waits_for_it() {
        let (mut care, now) = house();
        care.ended(Room::Stream, now, RANDOM);
        care.ended(Room::Aggregator, now, RANDOM);
        let later = now + PAUSE_FIRST;
        assert_eq!(orders(&mut care, later), [Order::Build(Room::Aggregator)]);
        assert_eq!(orders(&mut care, later), []);
        care.built(Room::Aggregator);
        assert_eq!(orders(&mut care, later), [Order::Build(Room::Stream)]);
    }

    #[test]
    fn a_room_of_no_use_is_told_to_end_and_the_process_ends_if_it_does_not() {
        let (mut care, now) = house();
        assert_eq!(care.failed(Room::Writer, now, RANDOM), Some(PAUSE_FIRST));
        assert_eq!(care.failed(Room::Writer, now, RANDOM), None, "once is enough");
        assert_eq!(orders(&mut care, now), [Order::Retire(Room::Writer)]);
        let mut obeys = care.ended(Room::Writer, now + MS, RANDOM);
        assert_eq!(obeys.take(), None);
        assert_eq!(orders(&mut care, now + PAUSE_FIRST), [Order::Build(Room::Writer)]);

        let (mut care, now) = house();
        care.failed(Room::Writer, now, RANDOM);
        orders(&mut care, now);
        assert!(matches!(&orders(&mut care, now + RETIRE_WITHIN - MS)[..], []));
        let told = care.poll(now + RETIRE_WITHIN);
        assert_eq!(told, Some(Order::GiveUp("the writer room does not end when told to".to_owned())));
    }

    /// Fails, is built, fails ... with so much time in between; how often it was built.
    fn builds(rooms: &[Room], apart: Duration) -> (usize, Option<String>) {
        let (mut care, mut now) = house();
        let mut builds = 0;
        for round in 0..100 {
            care.ended(rooms[round % rooms.len()], now, RANDOM);
            loop {
                match care.poll(now) {
                    Some(Order::Build(room)) => {
                        care.built(room);
                        builds += 1;
                    }
                    Some(Order::Retire(room)) => drop(care.ended(room, now, RANDOM)),
                    Some(Order::GiveUp(why)) => return (builds, Some(why)),
                    None => match care.next_timeout() {
                        Some(due) => now = now.max(due),
                        None => break,
                    },
                }
            }
            now += apart;
        }
        (builds, None)
    }

    #[test]
    fn a_room_that_fails_again_and_again_ends_the_process_one_that_fails_now_and_then_does_not() {
        let why = "the history room has failed 6 times within 10 minutes".to_owned();
        assert_eq!(builds(&[Room::History], MS), (RESTARTS_MAX, Some(why)));
        assert_eq!(builds(&[Room::History], WINDOW / 4), (100, None));
        let rooms = [Room::History, Room::Session, Room::Writer, Room::Healer];
        let why = "rooms have failed 13 times within 10 minutes".to_owned();
        assert_eq!(builds(&rooms, MS), (RESTARTS_OF_ALL_MAX, Some(why)));
    }

    #[test]
    fn pauses_double_and_begin_anew_after_a_quiet_while() {
        let (mut care, mut now) = house();
        let mut pauses = Vec::new();
        for _ in 0..3 {
            pauses.extend(care.ended(Room::Stream, now, RANDOM));
            now += Duration::from_secs(1);
            orders(&mut care, now);
            care.built(Room::Stream);
        }
        now += WINDOW;
        pauses.extend(care.ended(Room::Stream, now, RANDOM));
        assert_eq!(pauses, [1, 2, 4, 1].map(|times| times * PAUSE_FIRST));
    }

    #[test]
    fn a_stream_that_is_built_while_the_aggregator_dies_is_ended_again() {
        let (mut care, now) = house();
        care.ended(Room::Stream, now, RANDOM);
        let now = now + PAUSE_FIRST;
        assert_eq!(orders(&mut care, now), [Order::Build(Room::Stream)]);
        care.ended(Room::Aggregator, now, RANDOM);
        care.built(Room::Stream);
        let now = now + PAUSE_FIRST;
        assert_eq!(orders(&mut care, now), [Order::Retire(Room::Stream)]);
        care.ended(Room::Stream, now, RANDOM);
        assert_eq!(orders(&mut care, now), [Order::Build(Room::Aggregator)]);
    }

    #[test]
    fn a_room_that_is_built_though_it_was_dismissed_is_ended() {
        let (mut care, now) = house();
        care.ended(Room::Stream, now, RANDOM);
        assert_eq!(orders(&mut care, now + PAUSE_FIRST), [Order::Build(Room::Stream)]);
        care.dismiss(Room::Stream);
        care.built(Room::Stream);
        assert_eq!(orders(&mut care, now + WINDOW), [Order::Retire(Room::Stream)]);
        assert_eq!(care.ended(Room::Stream, now, RANDOM), None);
        assert_eq!(orders(&mut care, now + WINDOW).len(), 0);
    }

    #[test]
    fn a_room_that_hangs_now_and_again_ends_the_process_though_it_takes_long() {
        let (mut care, mut now) = house();
        for _ in 0..HANGS_MAX {
            care.failed(Room::History, now, RANDOM);
            assert_eq!(orders(&mut care, now), [Order::Retire(Room::History)]);
            care.ended(Room::History, now, RANDOM);
            now += 3 * WINDOW;
            assert_eq!(orders(&mut care, now), [Order::Build(Room::History)]);
            care.built(Room::History);
        }
        care.failed(Room::History, now, RANDOM);
        let why = "the history room has hung 4 times within 6 hours".to_owned();
        assert_eq!(care.poll(now), Some(Order::GiveUp(why)));
    }

    #[test]
    fn time_in_which_nobody_could_end_does_not_count() {
        let (mut care, now) = house();
        care.failed(Room::Writer, now, RANDOM);
        orders(&mut care, now);
        care.excuse(WINDOW);
        assert_eq!(orders(&mut care, now + WINDOW), []);
        assert!(matches!(care.poll(now + WINDOW + RETIRE_WITHIN), Some(Order::GiveUp(_))));
    }

    proptest! {
        /// Whatever fails, in whatever order, also while another is being built: in the end every room stands,
        /// or the process ends; and no aggregator is ever built beside a stream of before.
        #[test]
        fn every_house_stands_again_or_falls(
            events in prop::collection::vec((0usize..7, 0u8..3, 0u64..40_000), 0..60)
        ) {
            let (mut care, mut now) = house();
            let mut standing: BTreeSet<Room> = Room::ALL.into();
            let mut building: Option<Room> = None;
            let mut events = events.into_iter();
            let mut gone = false;
            loop {
                // One at a time is built, and meanwhile nobody asks for orders.
                while building.is_none() && let Some(order) = care.poll(now) {
                    match order {
                        Order::Retire(room) => {
                            prop_assert!(standing.remove(&room));
                            care.ended(room, now, RANDOM);
                        }
                        Order::Build(room) => {
                            prop_assert!(!standing.contains(&room), "{room:?} is there already");
                            prop_assert!(room != Room::Aggregator || !standing.contains(&Room::Stream));
                            building = Some(room);
                        }
                        Order::GiveUp(_) => { gone = true; break }
                    }
                }
                if gone { break }
                let event = events.next();
                // It stands at some time, the rest of the events or none later.
                if let Some(room) = building.filter(|_| event.is_none_or(|(_, kind, _)| kind == 2)) {
                    building = None;
                    standing.insert(room);
                    care.built(room);
                    continue;
                }
                if let Some((ix, kind, after_ms)) = event {
                    now += after_ms as u32 * MS;
                    let room = Room::ALL[ix];
                    if !standing.contains(&room) {
                        continue;
                    }
                    if kind == 0 {
                        standing.remove(&room);
                        care.ended(room, now, RANDOM);
                    } else if kind == 1 {
                        care.failed(room, now, RANDOM);
                    }
                } else if let Some(due) = care.next_timeout() {
                    now = now.max(due);
                } else {
                    break;
                }
            }
            prop_assert!(gone || standing.len() == Room::ALL.len(), "{standing:?}");
        }
    }
}
