//! Named places at which a test has something go wrong: the process die as if by `kill -9`, a room
//! panic, end, hang, or block its thread. For tests alone; always compiled in, so that what is tested is
//! what is delivered. A place that is not armed costs one relaxed load.

use std::future;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use actix::prelude::*;
use rustix::process::{Signal, getpid, kill_process};

/// Places on the way to the disk, in the order in which a fact comes by. Here the process dies.
pub const POINTS: [&str; 13] = [
    "commit.begun",
    "commit.bars",
    "commit.applied",
    "commit.done",
    "spool.zeroed",
    "spool.created",
    "journal.half",
    "journal.written",
    "journal.synced",
    "drain.committed",
    "empty.half",
    "empty.written",
    "replay.committed",
];

/// Places in the rooms. All but `lease.renew` are named after their room.
pub const ROOMS: [&str; 13] = [
    "session.asked",
    "session.tokens",
    "writer.facts",
    "writer.flushed",
    "writer.appended",
    "aggregator.told",
    "aggregator.history",
    "stream.arrived",
    "stream.begin",
    "history.fetch",
    "healer.look",
    "retention.look",
    "lease.renew",
];

/// Points that can be armed at once.
const ARMED_MAX: usize = 8;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// The process is killed.
    Kill,
    /// A panic.
    Panic,
    /// The actor stops itself.
    Stop,
    /// It never comes further.
    Hang,
    /// Nor does anything else on its thread.
    Block,
}

static ARMED: AtomicBool = AtomicBool::new(false);
static ARMED_POINTS: OnceLock<Vec<Point>> = OnceLock::new();

#[derive(Debug)]
struct Point {
    name: &'static str,
    action: Action,
    /// Times that it is still passed by.
    left: AtomicU64,
    /// Whether it goes wrong each time from then on.
    always: bool,
}

impl Point {
    /// Somebody comes by: what goes wrong now.
    fn passed(&self) -> Option<Action> {
        let passed = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        let goes_wrong = match passed {
            Ok(left) => left == 1,
            Err(_) => self.always,
        };
        goes_wrong.then_some(self.action)
    }
}

/// A text that names no place, or nothing that can go wrong there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a failpoint: write NAME[:N[+]][=kill|panic|stop|hang|block], NAME being one of {}, {}",
    POINTS.join(", "), ROOMS.join(", ")
)]
pub struct NotAFailpoint;

/// Has something go wrong when the process comes by these places: `NAME`, or `NAME:N` for the N-th time,
/// or `NAME:N+` for each time from the N-th on; `=ACTION` says what, `kill` where it does not. Several are
/// separated by commas. Only the first call counts.
///
/// # Errors
/// Where there is no such place.
pub fn arm(text: &str) -> Result<(), NotAFailpoint> {
    let points = text.split(',').map(parse).collect::<Option<Vec<_>>>();
    let points = points.filter(|points| points.len() <= ARMED_MAX).ok_or(NotAFailpoint)?;
    if ARMED_POINTS.set(points).is_ok() {
        ARMED.store(true, Ordering::Release);
    }
    Ok(())
}

/// Dies here if that was armed.
pub fn reach(name: &'static str) {
    debug_assert!(POINTS.contains(&name), "a failpoint is on the list");
    if let Some(action) = passed(name) {
        act(action);
    }
}

/// Has go wrong what was armed for this place in a handler of an actor's.
pub fn in_room<A: Actor<Context = Context<A>>>(name: &'static str, ctx: &mut Context<A>) {
    debug_assert!(ROOMS.contains(&name), "a failpoint is on the list");
    match passed(name) {
        None => {}
        Some(Action::Stop) => ctx.stop(),
        Some(Action::Hang) => ctx.wait(fut::wrap_future(future::pending::<()>())),
        Some(action) => act(action),
    }
}

/// Has go wrong what was armed for this place in a task of an actor's.
pub async fn in_task(name: &'static str) {
    debug_assert!(ROOMS.contains(&name), "a failpoint is on the list");
    match passed(name) {
        None => {}
        Some(Action::Hang | Action::Stop) => future::pending().await,
        Some(action) => act(action),
    }
}

/// Whether the process is to die at this place, sooner or later: for work that is done in one
/// piece otherwise.
pub fn is_armed(name: &'static str) -> bool {
    ARMED.load(Ordering::Acquire) && armed(name).next().is_some()
}

/// All that was armed for this place: it may be come by several times, with something else each time.
fn armed(name: &'static str) -> impl Iterator<Item = &'static Point> {
    ARMED_POINTS.get().into_iter().flatten().filter(move |point| point.name == name)
}

/// What goes wrong here now.
fn passed(name: &'static str) -> Option<Action> {
    if !ARMED.load(Ordering::Relaxed) {
        return None;
    }
    // Each is counted, whichever of them it is the turn of.
    armed(name).fold(None, |found, point| {
        let now = point.passed();
        found.or(now)
    })
}

#[cold]
fn act(action: Action) {
    match action {
        Action::Kill => {
            // Not `abort`: nothing of the process may come to its end in order.
            let _ = kill_process(getpid(), Signal::KILL);
        }
        Action::Panic => panic!("a failpoint has been reached"),
        Action::Stop | Action::Hang | Action::Block => {}
    }
    loop {
        std::thread::park();
    }
}

fn parse(text: &str) -> Option<Point> {
    let (place, action) = text.split_once('=').unwrap_or((text, "kill"));
    let action = match action {
        "kill" => Action::Kill,
        "panic" => Action::Panic,
        "stop" => Action::Stop,
        "hang" => Action::Hang,
        "block" => Action::Block,
        _ => return None,
    };
    let (name, count) = place.split_once(':').unwrap_or((place, "1"));
    let name = POINTS.into_iter().chain(ROOMS).find(|point| *point == name)?;
    let (count, always) = count.strip_suffix('+').map_or((count, false), |count| (count, true));
    let left = count.parse().ok().filter(|count| *count > 0).map(AtomicU64::new)?;
    Some(Point { name, action, left, always })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_has_a_name_and_perhaps_a_count_and_an_action() {
        for (text, expected) in [
            ("journal.half", Some(("journal.half", 1, false, Action::Kill))),
            ("commit.done:7", Some(("commit.done", 7, false, Action::Kill))),
            ("aggregator.told:3+=panic", Some(("aggregator.told", 3, true, Action::Panic))),
            ("session.tokens=hang", Some(("session.tokens", 1, false, Action::Hang))),
            ("commit.done:0", None),
            ("commit.done:", None),
            ("commit.done=sleep", None),
            ("nowhere", None),
            ("", None),
        ] {
            let parsed = parse(text);
            let parsed = parsed
                .map(|point| (point.name, point.left.load(Ordering::Relaxed), point.always, point.action));
            assert_eq!(parsed, expected, "{text}");
        }
    }

    #[test]
    fn something_goes_wrong_the_nth_time_or_each_time_from_then_on() {
        let passed = |text: &str| {
            let point = parse(text).unwrap();
            (0..4).map(|_| point.passed().is_some()).collect::<Vec<_>>()
        };
        assert_eq!(passed("aggregator.told:2=panic"), [false, true, false, false]);
        assert_eq!(passed("aggregator.told:2+=panic"), [false, true, true, true]);
    }

    #[test]
    fn who_is_not_armed_lives() {
        for point in POINTS {
            reach(point);
        }
    }
}
