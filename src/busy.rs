//! Whether a thread that does one piece of work after the other is still at the same one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts pieces of work begun and ended. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Busy(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Busy {
    /// Does a piece of work; it ends with a panic too.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        struct Ends<'a>(&'a AtomicU64);
        impl Drop for Ends<'_> {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::Release);
            }
        }
        self.0.begun.fetch_add(1, Ordering::Release);
        let _ends = Ends(&self.0.ended);
        work()
    }

    /// The number of the piece of work that is being done; none while there is none.
    pub fn at(&self) -> Option<u64> {
        let ended = self.0.ended.load(Ordering::Acquire);
        let begun = self.0.begun.load(Ordering::Acquire);
        (begun > ended).then_some(begun)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_piece_of_work_is_at_hand_until_it_ends_or_panics() {
        let busy = Busy::default();
        assert_eq!(busy.at(), None);
        assert_eq!(busy.during(|| busy.at()), Some(1));
        assert_eq!(busy.during(|| busy.at()), Some(2));
        assert!(catch_unwind(AssertUnwindSafe(|| busy.during(|| panic!("for the test")))).is_err());
        assert_eq!(busy.at(), None);
    }
}
