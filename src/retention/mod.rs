//! How long bars are kept. [`due`] says what is to be deleted; the actor has it deleted, a little at a time.

pub mod actor;

use crate::config::Retention;
use crate::domain::{Timeframe, Timestamp};

/// What is to be deleted at event time `now`: for each timeframe of which not everything is kept, where that
/// begins, unless it was seen to already.
pub fn due(
    retention: &Retention,
    now: Timestamp,
    done: &[(Timeframe, Timestamp)],
) -> Vec<(Timeframe, Timestamp)> {
    Timeframe::ALL
        .into_iter()
        .filter_map(|timeframe| Some((timeframe, retention.limit(timeframe, now)?)))
        .filter(|(timeframe, limit)| {
            !done.iter().any(|(known, before)| known == timeframe && before >= limit)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{self, Flags};

    #[test]
    fn each_timeframe_is_due_once_an_hour() {
        let variable = ("CANDLEKEEP_RETENTION_DAYS".to_owned(), "{ 5 = 50, 60 = 100 }".to_owned());
        let config = config::load(None, &BTreeMap::from([variable]), &Flags::default()).unwrap();
        let now = Timestamp(1_583_755_200); // 2020-03-09 12:00:00
        let all = [(Timeframe::M5, now.plus(-50 * 86_400)), (Timeframe::H1, now.plus(-100 * 86_400))];
        assert_eq!(due(&config.retention, now, &[]), all);
        assert_eq!(due(&config.retention, now.plus(3_599), &[]), all);
        assert_eq!(due(&config.retention, now.plus(3_599), &all), []);
        assert_eq!(due(&config.retention, now.plus(-9_000), &all), [], "the clock was set back");
        let next = all.map(|(timeframe, limit)| (timeframe, limit.plus(3_600)));
        assert_eq!(due(&config.retention, now.plus(3_600), &all), next);
        assert_eq!(due(&Retention::default(), now, &[]), []);
    }
}
