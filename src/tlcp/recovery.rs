//! The count of data notifications, on which session recovery rests.

/// Counts the data notifications of one session, from its beginning and across connections.
///
/// Two counters make repeats after a recovery harmless, even when a `LOOP` comes between: what we
/// processed, and what the server takes as delivered. While the second lags, lines are repeats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DataCount {
    processed: u64,
    delivered: u64,
}

/// `delivered` while the server has not said from where it goes on. Far beyond any real count.
const AWAITED: u64 = u64::MAX;

/// The server says that it goes on from a point that cannot be joined to what we have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("server goes on from data notification {server}, ours is {ours}")]
pub struct OutOfStep {
    /// The server's count, from `PROG`.
    pub server: u64,
    /// Ours.
    pub ours: u64,
}

impl DataCount {
    /// Takes the next data notification into account. Returns whether it is new; a repeat must
    /// not be processed again.
    #[inline]
    pub fn take(&mut self) -> bool {
        let new = self.delivered == self.processed;
        self.delivered = self.delivered.saturating_add(1);
        self.processed += u64::from(new);
        new
    }

    /// Takes the next data notification into account if it is new. Returns whether it was.
    #[inline]
    pub fn take_new(&mut self) -> bool {
        self.delivered == self.processed && self.take()
    }

    /// Returns the data notifications processed since the session began: the value for
    /// `LS_recovery_from`.
    pub fn processed(self) -> u64 {
        self.processed
    }

    /// A recovery was asked for: until it is answered, no line can be told from a repeat.
    pub fn await_recovery(&mut self) {
        self.delivered = AWAITED;
    }

    /// Whether a recovery was asked for and is not answered yet.
    pub fn is_awaiting_recovery(self) -> bool {
        self.delivered == AWAITED
    }

    /// Takes the answer to a recovery: the server repeats everything after its `count`-th.
    ///
    /// # Errors
    /// [`OutOfStep`] if lines were lost in between; only a new session helps.
    pub fn recover_from(&mut self, count: u64) -> Result<(), OutOfStep> {
        if count > self.processed {
            return Err(OutOfStep { server: count, ours: self.processed });
        }
        self.delivered = count;
        Ok(())
    }

    /// Compares with a `PROG` outside a recovery, where it is only a check.
    ///
    /// # Errors
    /// [`OutOfStep`] if the counts differ.
    pub fn check(self, count: u64) -> Result<(), OutOfStep> {
        if count == self.delivered { Ok(()) } else { Err(OutOfStep { server: count, ours: self.delivered }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(lines: u64) -> DataCount {
        let mut count = DataCount::default();
        (0..lines).for_each(|_| assert!(count.take()));
        count
    }

    #[test]
    fn repeats_after_a_recovery_are_not_new() {
        let mut count = after(4);
        count.recover_from(2).unwrap();
        assert!(!count.take_new(), "it is for another to take");
        assert_eq!([count.take(), count.take(), count.take_new()], [false, false, true]);
        assert_eq!(count.processed(), 5);
    }

    #[test]
    fn nothing_repeats_when_the_counts_agree() {
        let mut count = after(4);
        count.recover_from(4).unwrap();
        assert!(count.take());
    }

    #[test]
    fn a_second_break_among_the_repeats_still_counts_each_line_once() {
        let mut count = after(4);
        count.recover_from(1).unwrap();
        assert!(!count.take());
        assert_eq!(count.processed(), 4);
        count.recover_from(3).unwrap();
        assert_eq!([count.take(), count.take()], [false, true]);
    }

    #[test]
    fn a_point_beyond_ours_cannot_be_joined() {
        assert_eq!(after(4).recover_from(5), Err(OutOfStep { server: 5, ours: 4 }));
    }

    #[test]
    fn nothing_is_new_while_a_recovery_is_unanswered() {
        let mut count = after(4);
        count.await_recovery();
        assert!(count.is_awaiting_recovery() && !count.take() && count.is_awaiting_recovery());
        count.recover_from(4).unwrap();
        assert!(!count.is_awaiting_recovery() && count.take());
        assert_eq!(count.processed(), 5);
    }

    #[test]
    fn outside_a_recovery_the_counts_must_agree() {
        assert_eq!(after(4).check(4), Ok(()));
        assert!(after(4).check(3).is_err());
        assert!(after(4).check(5).is_err());
    }
}
