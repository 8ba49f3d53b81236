//! Named places at which a test has the process die as if by `kill -9`. For tests alone; always
//! compiled in, so that what is tested is what is delivered. A place that is not armed costs one
//! relaxed load.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::process::{Signal, getpid, kill_process};

/// Every place, in the order in which a fact comes by.
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

static ARMED: AtomicBool = AtomicBool::new(false);
static POINT: OnceLock<Point> = OnceLock::new();

struct Point {
    name: &'static str,
    left: AtomicU64,
}

/// A text that names no place to die at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a failpoint: write NAME or NAME:N, NAME being one of {}", POINTS.join(", "))]
pub struct NotAFailpoint;

/// Has the process die when it comes by this place: `NAME`, or `NAME:N` for the N-th time.
/// Only the first call counts.
///
/// # Errors
/// Where there is no such place.
pub fn arm(text: &str) -> Result<(), NotAFailpoint> {
    let (name, count) = parse(text).ok_or(NotAFailpoint)?;
    if POINT.set(Point { name, left: AtomicU64::new(count) }).is_ok() {
        ARMED.store(true, Ordering::Release);
    }
    Ok(())
}

/// Dies here if that was armed.
pub fn reach(name: &'static str) {
    debug_assert!(POINTS.contains(&name), "a failpoint is on the list");
    if ARMED.load(Ordering::Relaxed) {
        pass(name);
    }
}

/// Whether the process is to die at this place, sooner or later: for work that is done in one
/// piece otherwise.
pub fn is_armed(name: &'static str) -> bool {
    ARMED.load(Ordering::Acquire) && POINT.get().is_some_and(|point| point.name == name)
}

#[cold]
fn pass(name: &'static str) {
    let armed = POINT.get().filter(|point| point.name == name);
    if armed.is_some_and(|point| point.left.fetch_sub(1, Ordering::Relaxed) == 1) {
        // Not `abort`: nothing of the process may come to its end in order.
        let _ = kill_process(getpid(), Signal::KILL);
        loop {
            std::thread::park();
        }
    }
}

fn parse(text: &str) -> Option<(&'static str, u64)> {
    let (name, count) = text.split_once(':').unwrap_or((text, "1"));
    let name = POINTS.into_iter().find(|point| *point == name)?;
    let count = count.parse().ok().filter(|count| *count > 0)?;
    Some((name, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_has_a_name_and_perhaps_a_count() {
        for (text, expected) in [
            ("journal.half", Some(("journal.half", 1))),
            ("commit.done:7", Some(("commit.done", 7))),
            ("commit.done:0", None),
            ("commit.done:", None),
            ("nowhere", None),
            ("", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn who_is_not_armed_lives() {
        for point in POINTS {
            reach(point);
        }
    }
}
