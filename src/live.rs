//! What the house shows while it works, to those who follow it: how far its commits have come, and the candles under
//! way, which are written down only where somebody has asked for them since the last time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::domain::{CandleUpdate, Pair};

/// The candles of 5 minutes under way, one of a pair at most.
pub type Forming = Vec<(Pair, CandleUpdate)>;

/// What is shown. Clones are one.
#[derive(Clone, Debug)]
pub struct Live(Arc<Shown>);

#[derive(Debug)]
struct Shown {
    committed: watch::Sender<i64>,
    is_asked: AtomicBool,
    forming: Mutex<Option<Forming>>,
}

impl Default for Live {
    fn default() -> Live {
        let (committed, _) = watch::channel(0);
        Live(Arc::new(Shown { committed, is_asked: AtomicBool::new(false), forming: Mutex::new(None) }))
    }
}

impl Live {
    /// Everything up to this `seq` is committed.
    pub fn committed(&self, seq: i64) {
        self.0.committed.send_if_modified(|known| std::mem::replace(known, seq) != seq);
    }

    /// Tells of commits of this process from now on.
    pub fn commits(&self) -> watch::Receiver<i64> {
        self.0.committed.subscribe()
    }

    /// Asks for the candles under way, and answers what was shown since the last time; none where that is nothing.
    pub fn ask_forming(&self) -> Option<Forming> {
        let shown = self.0.forming.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.0.is_asked.store(true, Ordering::Release);
        shown
    }

    /// Shows the candles under way if somebody has asked for them. A flag is all that it costs where nobody has.
    pub fn show_forming(&self, forming: impl FnOnce() -> Forming) {
        if self.0.is_asked.load(Ordering::Acquire) && self.0.is_asked.swap(false, Ordering::AcqRel) {
            *self.0.forming.lock().unwrap_or_else(PoisonError::into_inner) = Some(forming());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candles_are_shown_once_for_each_time_that_they_are_asked_for() {
        let live = Live::default();
        live.show_forming(|| panic!("nobody asks"));
        assert_eq!(live.ask_forming(), None);
        live.show_forming(Vec::new);
        live.show_forming(|| panic!("that was answered"));
        assert_eq!(live.ask_forming(), Some(Vec::new()));
        assert_eq!(live.ask_forming(), None, "nothing is told twice");
    }

    #[test]
    fn who_waits_for_commits_is_woken_by_news_alone() {
        let live = Live::default();
        let mut commits = live.commits();
        live.committed(7);
        assert!(commits.has_changed().unwrap());
        assert_eq!(*commits.borrow_and_update(), 7);
        live.committed(7);
        assert!(!commits.has_changed().unwrap());
    }
}
