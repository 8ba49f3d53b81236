//! Keeps the rooms standing: hears of those that have ended, looks for those that are stuck, and has them
//! built anew as [`Care`] orders. No actor itself: whoever runs the house awaits it, so if it fails the
//! process ends.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedReceiver;

use super::care::{Care, Order};
use super::lifeline::Alert;
use super::pulse::Roster;
use super::room::{Ping, Retire, Room};
use crate::busy::Busy;
use crate::clock::{self, Clock};
use crate::exit::Failure;
use crate::store::StoreHandle;

/// How often it is looked who is stuck.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A look that comes so much too late says that the whole process was stopped, or its thread busy.
const LATE: Duration = Duration::from_secs(3);
/// A room deals with a message within this time.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);
/// More time for everybody where one room is found stuck, which others may have waited for.
const WAITED_FOR: Duration = Duration::from_secs(60);
/// The supervisor itself looks again within this time.
const LOOKS_WITHIN: Duration = Duration::from_secs(60);
/// A room that has ended, and those that it takes along, are built anew within this time after the pause; or the
/// watchdog is fed no more.
const ABSENT_WITHIN: Duration = Duration::from_secs(120);
/// A room is built within this time.
const BUILT_WITHIN: Duration = Duration::from_secs(60);
/// A thread that blocks on purpose comes to the end of a piece of work within this time.
const WORK_WITHIN: Duration = Duration::from_secs(600);
/// Where it is kept what has failed since the process began, for `status`.
pub const SETTING_ROOMS: &str = "supervisor.rooms";

/// How a room is spoken to, whatever it is.
pub struct Handles {
    ping: Recipient<Ping>,
    retire: Recipient<Retire>,
}

impl Handles {
    /// Of an actor.
    pub fn of<A>(actor: &Addr<A>) -> Handles
    where
        A: Actor<Context = Context<A>> + Handler<Ping> + Handler<Retire>,
    {
        Handles { ping: actor.clone().recipient(), retire: actor.clone().recipient() }
    }
}

/// Knows how to build rooms.
pub trait Builder {
    /// Builds the room anew, and leads its lines to it.
    ///
    /// # Errors
    /// Where that is impossible, and the process has to begin anew.
    fn build(self: Rc<Self>, room: Room) -> Pin<Box<dyn Future<Output = Result<Handles, Failure>>>>;
}

/// What `status` shows of the rooms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Failures {
    /// Since when the process runs, epoch seconds, UTC.
    pub since: i64,
    /// The rooms that have failed since then.
    pub failed: BTreeMap<String, RoomFailures>,
}

impl Failures {
    /// Reads what was kept; anything unreadable is as good as nothing.
    pub fn read(text: &str) -> Option<Failures> {
        serde_json::from_str(text).ok()
    }
}

/// How a room has failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoomFailures {
    /// How often it was built anew.
    pub restarts: u32,
    /// When it has failed last, epoch seconds, UTC.
    pub last_at: i64,
    /// How.
    pub why: String,
}

/// Whether a thread comes to the end of its work.
struct Watched {
    name: &'static str,
    busy: Busy,
    /// The piece of work that it was seen at, and since when.
    seen: Option<(u64, Instant)>,
}

/// A room that is being built.
type Building = (Room, Instant, Pin<Box<dyn Future<Output = Result<Handles, Failure>>>>);

/// The supervisor.
pub struct Keeper {
    care: Care,
    roster: Roster,
    clock: Clock,
    store: StoreHandle,
    alerts: UnboundedReceiver<Alert>,
    rooms: [Option<Handles>; Room::ALL.len()],
    /// Whether a room is asked for an answer already.
    asked: [Rc<Cell<bool>>; Room::ALL.len()],
    threads: Vec<Watched>,
    building: Option<Building>,
    next_look: Instant,
    failures: Failures,
}

impl Keeper {
    /// A keeper of rooms that are to be built.
    pub fn new(roster: Roster, clock: Clock, store: StoreHandle, alerts: UnboundedReceiver<Alert>) -> Keeper {
        let now = clock.monotonic();
        let failures = Failures { since: clock.wall().0, ..Failures::default() };
        let threads = vec![Watched { name: "database", busy: store.busy().clone(), seen: None }];
        Keeper {
            care: Care::new(now),
            roster,
            clock,
            store,
            alerts,
            rooms: Default::default(),
            asked: Default::default(),
            threads,
            building: None,
            next_look: now,
            failures,
        }
    }

    /// Watches over a thread besides that of the database.
    pub fn watch_thread(&mut self, name: &'static str, busy: Busy) {
        self.threads.push(Watched { name, busy, seen: None });
    }

    /// The room stands for the first time.
    pub fn stands(&mut self, room: Room, handles: Handles) {
        self.care.begins(room);
        self.welcome(room, handles);
    }

    /// From now on the rooms are kept standing.
    pub fn begins(&mut self) {
        self.next_look = self.clock.monotonic();
    }

    fn welcome(&mut self, room: Room, handles: Handles) {
        self.roster.answers(room).rest();
        self.asked[room.ix()] = Rc::default();
        self.rooms[room.ix()] = Some(handles);
    }

    /// The first thing that goes wrong, while nobody keeps the rooms standing yet.
    pub async fn first_failure(&mut self) -> Failure {
        match self.alerts.recv().await {
            Some(Alert::Exit { code, why }) => Failure::new(code, why),
            Some(Alert::Died { room, .. }) => Failure::failed(format!("the {} room died", room.name())),
            None => Failure::failed("every room died"),
        }
    }

    /// Keeps the rooms standing. Returns when the process has to end, and may be called again where it was
    /// dropped before that.
    pub async fn keep<B: Builder>(&mut self, builder: &Rc<B>) -> Failure {
        loop {
            let now = self.clock.monotonic();
            if now >= self.next_look
                && let Some(failure) = self.look(now)
            {
                return failure;
            }
            if self.building.is_none() {
                match self.care.poll(now) {
                    Some(Order::GiveUp(why)) => return Failure::failed(why),
                    Some(Order::Retire(room)) => {
                        self.retire(room);
                        continue;
                    }
                    Some(Order::Build(room)) => {
                        self.building = Some((room, now, builder.clone().build(room)));
                    }
                    None => {}
                }
            }
            let wake = self.care.next_timeout().filter(|_| self.building.is_none());
            let wake = wake.map_or(self.next_look, |due| due.min(self.next_look));
            tokio::select! {
                built = built(&mut self.building) => {
                    let room = self.building.take().map(|(room, ..)| room);
                    match (room, built) {
                        (Some(room), Ok(handles)) => {
                            log::info!(room = room.name(), restarts = self.roster.restarts(room); "a room stands again");
                            self.welcome(room, handles);
                            self.care.built(room);
                        }
                        (_, Err(failure)) => return failure,
                        (None, Ok(_)) => {}
                    }
                }
                alert = self.alerts.recv() => match alert {
                    Some(Alert::Exit { code, why }) => return Failure::new(code, why),
                    Some(Alert::Died { room, generation }) => self.died(room, generation),
                    None => return Failure::failed("every room died"),
                },
                () = actix_rt::time::sleep_until(wake.into()) => {}
            }
        }
    }

    fn died(&mut self, room: Room, generation: u32) {
        // Of one whose successor sits there already nobody need hear.
        if generation != self.roster.generation(room) {
            return;
        }
        self.rooms[room.ix()] = None;
        let now = self.clock.monotonic();
        let pause = self.care.ended(room, now, fastrand::f64());
        // One that is not built anew in time is no news to anybody but the watchdog.
        self.roster.answers(room).step(pause.unwrap_or_default() + ABSENT_WITHIN);
        if let Some(pause) = pause {
            let failures = self.care.failures(room, now);
            log::error!(room = room.name(), pause_ms = pause.as_millis() as u64, failures; "a room has died, building it anew");
            self.note(room, "died".to_owned());
        }
    }

    /// Looks who is stuck, and asks everybody for an answer. A thread that is stuck ends the process.
    fn look(&mut self, now: Instant) -> Option<Failure> {
        let late = now.saturating_duration_since(self.next_look);
        if late > LATE {
            // Who was stopped with us has had no time either.
            self.roster.excuse(late);
            self.care.excuse(late);
            self.threads.iter_mut().for_each(|thread| thread.excuse(late));
            if let Some((_, since, _)) = &mut self.building {
                *since += late;
            }
        }
        self.next_look = now + clock::until_beat(LOOK_EVERY);
        self.roster.supervisor().step(LOOKS_WITHIN);
        if let Some((room, how)) = self.roster.stuck(now)
            && let Some(pause) = self.care.failed(room, now, fastrand::f64())
        {
            // The others may have waited for this one: they get more time.
            self.roster.excuse(WAITED_FOR);
            self.roster.pulse(room).rest();
            self.roster.answers(room).rest();
            log::error!(room = room.name(), how = how.as_str(), pause_ms = pause.as_millis() as u64; "a room is stuck, building it anew");
            self.note(room, how);
        }
        for room in Room::ALL {
            self.ask(room);
        }
        if let Some((room, since, _)) = &self.building
            && now.saturating_duration_since(*since) > BUILT_WITHIN
        {
            return Some(Failure::failed(format!("the {} room cannot be built anew", room.name())));
        }
        let within = self.roster.at_most(WORK_WITHIN);
        self.threads.iter_mut().find_map(|thread| thread.look(now, within))
    }

    fn ask(&self, room: Room) {
        let Some(handles) = &self.rooms[room.ix()] else { return };
        let (answers, asked) = (self.roster.answers(room), self.asked[room.ix()].clone());
        if asked.replace(true) {
            return;
        }
        answers.step(ANSWERS_WITHIN);
        let asking = handles.ping.send(Ping);
        actix_rt::spawn(async move {
            // Of one that is gone the supervisor hears otherwise; its successor is asked anew.
            if asking.await.is_ok() {
                answers.rest();
                asked.set(false);
            }
        });
    }

    /// Writes down what has failed, for `status`.
    fn note(&mut self, room: Room, why: String) {
        let failures = self.failures.failed.entry(room.name().to_owned()).or_default();
        failures.restarts += 1;
        (failures.last_at, failures.why) = (self.clock.wall().0, why);
        self.keep_failures();
    }

    /// Has `status` know how the rooms have fared since the process began.
    pub fn keep_failures(&self) {
        let text = serde_json::to_string(&self.failures).expect("plain numbers and texts make JSON");
        let saving = self.store.run(move |store| store.set_setting(SETTING_ROOMS, &text));
        actix_rt::spawn(async move {
            if let Err(error) = saving.await {
                log::debug!(error:% = error; "how the rooms fare could not be written down");
            }
        });
    }

    /// The room is needed no more: it is not built anew.
    pub fn dismiss(&mut self, room: Room) {
        self.care.dismiss(room);
    }

    /// Tells the room to end.
    pub fn retire(&self, room: Room) {
        if let Some(handles) = &self.rooms[room.ix()] {
            handles.retire.do_send(Retire);
        }
    }
}

/// Returns when the start, of which the rooms are no part yet, makes no progress any more.
pub async fn start_is_stuck(roster: &Roster, clock: &Clock) -> Failure {
    let mut next_look = clock.monotonic();
    loop {
        let late = clock.monotonic().saturating_duration_since(next_look);
        if late > LATE {
            roster.excuse(late);
        }
        // A session that hangs is found too; nobody could build it anew yet.
        if !roster.is_well(clock.monotonic()) {
            return Failure::failed("the start makes no progress");
        }
        next_look = clock.monotonic() + clock::until_beat(LOOK_EVERY);
        actix_rt::time::sleep_until(next_look.into()).await;
    }
}

/// The room that is being built, if any.
async fn built(building: &mut Option<Building>) -> Result<Handles, Failure> {
    match building {
        Some((_, _, building)) => building.await,
        None => std::future::pending().await,
    }
}

impl Watched {
    fn excuse(&mut self, lost: Duration) {
        if let Some((_, since)) = &mut self.seen {
            *since += lost;
        }
    }

    fn look(&mut self, now: Instant, within: Duration) -> Option<Failure> {
        let Some(at) = self.busy.at() else {
            self.seen = None;
            return None;
        };
        match self.seen {
            Some((seen, since)) if seen == at => {
                let seconds = now.saturating_duration_since(since);
                (seconds > within).then(|| {
                    let (name, seconds) = (self.name, seconds.as_secs());
                    Failure::failed(format!("the thread of the {name} has been stuck for {seconds} s"))
                })
            }
            _ => {
                self.seen = Some((at, now));
                None
            }
        }
    }
}
