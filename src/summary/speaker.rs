//! Asks the summary whether there is something to say, and says it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::{Line, Summary, Totals};
use crate::clock::{self, Clock, EventClock};
use crate::domain::Calendar;
use crate::logging;
use crate::stats::Stats;

/// How often it is asked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Speaks until it is dropped.
#[derive(Debug)]
pub struct Speaking {
    speaker: Rc<Speaker>,
    task: actix_rt::task::JoinHandle<()>,
}

impl Speaking {
    /// Says what came since the last line.
    pub fn finish(self) {
        let Speaker { summary, stats, event_clock, .. } = &*self.speaker;
        let line = summary.borrow().last(event_clock.now(), &Totals::read(stats));
        if let Some(line) = line {
            say(&line, stats);
        }
    }
}

impl Drop for Speaking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
struct Speaker {
    summary: RefCell<Summary>,
    stats: Arc<Stats>,
    clock: Clock,
    event_clock: EventClock,
}

/// Says once a bucket what these counters have counted, on the thread that calls; and has what the log holds back
/// told in time.
pub fn spawn(
    stats: Arc<Stats>,
    clock: Clock,
    event_clock: EventClock,
    calendars: Vec<Arc<Calendar>>,
) -> Speaking {
    let summary = RefCell::new(Summary::new(calendars, clock.monotonic()));
    let speaker = Rc::new(Speaker { summary, stats, clock, event_clock });
    let task = actix_rt::spawn({
        let speaker = speaker.clone();
        async move {
            let Speaker { summary, stats, clock, event_clock } = &*speaker;
            loop {
                clock::beat(LOOK_EVERY).await;
                logging::beat();
                let totals = Totals::read(stats);
                let line = summary.borrow_mut().tick(event_clock.now(), &totals, clock.monotonic());
                if let Some(line) = line {
                    say(&line, stats);
                }
            }
        }
    });
    Speaking { speaker, task }
}

fn say(line: &Line, stats: &Stats) {
    match line {
        Line::Collected { to, buckets, done } => log::info!(
            target: logging::SUMMARY,
            to:% = to, buckets, bars = done.bars, quiet = done.quiet, healed = done.healed,
            missing = done.missing, still_missing:% = known(stats.buckets_missing.get()), rows = done.rows,
            durable_ms_median:% = known(done.lag.median_ms()), durable_ms_max:% = known(done.lag.max_ms()),
            spooled = stats.facts_spooled.get(), points_left:% = known(stats.allowance_remaining.get());
            "collected"
        ),
        Line::Closed { opens } => log::info!(
            target: logging::SUMMARY,
            opens:% = opens.map_or("unknown".to_owned(), |opens| opens.to_string());
            "the market is closed, nothing to collect"
        ),
    }
}

/// A number, or a dash.
fn known(number: Option<u64>) -> String {
    number.map_or("-".to_owned(), |number| number.to_string())
}
