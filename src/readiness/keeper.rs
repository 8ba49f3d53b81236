//! Has the database know the hours of the markets weeks ahead, for those who read it when nobody collects.

use std::time::Duration;

use super::{Watched, is_outdated};
use crate::clock::{self, EventClock};
use crate::domain::Timestamp;
use crate::store::StoreHandle;

/// How often it is looked whether they are to be worked out anew.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pause after the database refused.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Writes them at once, and whenever a day has passed; never returns. A market that goes by its own clock is waited
/// for until it shows the time.
pub async fn keep(watched: Watched, event_clock: EventClock, store: StoreHandle) {
    let mut known_to: Option<Timestamp> = None;
    loop {
        if let Some(now) = event_clock.now()
            && known_to.is_none_or(|known_to| is_outdated(known_to, now))
        {
            let expected = watched.expected(now);
            let hours_to = expected.hours_to;
            match store.run(move |store| store.expect_bars(&expected)).await {
                Ok(()) => {
                    log::debug!(until:% = hours_to; "hours of the markets written down");
                    known_to = Some(hours_to);
                }
                Err(error) => {
                    log::warn!(error:% = error, again_s = TRY_AGAIN_AFTER.as_secs(); "hours of the markets could not be written down");
                    actix_rt::time::sleep(TRY_AGAIN_AFTER).await;
                }
            }
        }
        clock::beat(LOOK_EVERY).await;
    }
}
