//! A thread that sees to it that the rooms' thread is not blocked: then nothing on it could notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::chronicle::Chronicle;
use crate::clock;
use crate::exit::{Exit, Failure};

/// Seconds without a sign of life after which the process ends, and up to a look later. Sooner than systemd's watchdog,
/// which could not say why.
const BLOCKED_AFTER_S: u32 = 30;
/// They are as many looks in a row, or a few more. Looks are counted and not time, since a process that was stopped for long has not been
/// blocked for long.
const LOOKS: u32 = 6;
/// How long the last line, and its record in the database, may take: what blocks the other thread may be the log itself.
const LAST_LINE_WITHIN: Duration = Duration::from_secs(1);
/// Why it ends the process.
const BLOCKED: &str = "the thread of the rooms is blocked, ending the process";

/// Watches over the thread that this is called on, which runs an actix system, for as long as the process
/// lives. `blocked_after_s`: where the usual time is not meant. `chronicle` is told why it ends.
///
/// # Errors
/// Where the system gives no thread.
pub fn watch(blocked_after_s: Option<u32>, chronicle: Chronicle) -> std::io::Result<()> {
    let beats = Arc::new(AtomicU64::new(0));
    let seen = beats.clone();
    let limit_s = blocked_after_s.unwrap_or(BLOCKED_AFTER_S);
    // The rooms' thread shows at each beat that it lives, which counts as a second; it is not looked more often whether it does.
    let beats_a_look = (limit_s / LOOKS).max(1);
    thread::Builder::new().name("candlekeep-watch".to_owned()).spawn(move || {
        let mut count = Count::new(limit_s.div_ceil(beats_a_look));
        loop {
            thread::sleep(clock::BEAT * beats_a_look);
            if count.look(seen.load(Ordering::Relaxed)) {
                end(limit_s, &chronicle);
            }
        }
    })?;
    actix_rt::spawn(async move {
        loop {
            beats.fetch_add(1, Ordering::Relaxed);
            clock::beat(clock::BEAT).await;
        }
    });
    Ok(())
}

/// Looks in a row that have seen no sign of life.
struct Count {
    limit: u32,
    last: u64,
    looks: u32,
}

impl Count {
    fn new(limit: u32) -> Count {
        Count { limit, last: 0, looks: 0 }
    }

    /// Whether it is enough.
    fn look(&mut self, beats: u64) -> bool {
        self.looks = if beats == self.last { self.looks + 1 } else { 0 };
        self.last = beats;
        self.looks >= self.limit
    }
}

/// Ends the process, whatever its other threads are at: nothing that is durable is lost by that.
fn end(seconds: u32, chronicle: &Chronicle) -> ! {
    // The database has a thread of its own, which does it while the last line is waited for.
    drop(chronicle.ends(Err(&Failure::failed(BLOCKED))));
    // In a thread of its own, which nobody waits for.
    let told = thread::Builder::new().spawn(move || {
        log::error!(seconds; "{BLOCKED}");
    });
    if told.is_ok() {
        thread::sleep(LAST_LINE_WITHIN);
    }
    std::process::exit(Exit::Failed.code().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_enough_when_no_beat_has_come_for_so_many_looks_in_a_row() {
        let mut count = Count::new(3);
        let looks = [1, 1, 1, 2, 2, 2, 3, 4, 4, 4, 4];
        let enough = looks.map(|beats| count.look(beats));
        assert_eq!(enough.iter().position(|enough| *enough), Some(10));
    }
}
