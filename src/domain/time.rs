//! Points in time as whole seconds.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};

const DAY_S: i64 = 86_400;

/// Seconds since 1970-01-01 00:00:00 UTC: the unit of every timestamp in the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The instant of a broker's millisecond stamp, fraction dropped.
    pub fn from_millis(millis: i64) -> Timestamp {
        Timestamp(millis.div_euclid(1000))
    }

    /// `seconds` later (or earlier, where negative).
    #[must_use]
    pub fn plus(self, seconds: i64) -> Timestamp {
        Timestamp(self.0.saturating_add(seconds))
    }

    /// Seconds from `earlier` to this instant.
    pub fn since(self, earlier: Timestamp) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The start of the slot of `length_s` seconds that holds this instant.
    #[must_use]
    pub fn floor(self, length_s: i64) -> Timestamp {
        Timestamp(self.0 - self.0.rem_euclid(length_s))
    }

    /// The first slot start at or after this instant.
    #[must_use]
    pub fn ceil(self, length_s: i64) -> Timestamp {
        self.plus(length_s - 1).floor(length_s)
    }

    /// The start of the trading week that holds this instant: Sunday 00:00 UTC, while the market is closed.
    #[must_use]
    pub fn week(self) -> Timestamp {
        // 1970-01-04 was a Sunday.
        self.plus(-3 * DAY_S).floor(7 * DAY_S).plus(3 * DAY_S)
    }

    /// The same instant as a calendar date and time. Instants beyond chrono's range (some
    /// 260,000 years away) come back as the epoch.
    pub fn utc(self) -> DateTime<Utc> {
        DateTime::from_timestamp(self.0, 0).unwrap_or_default()
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(time: DateTime<Utc>) -> Self {
        Timestamp(time.timestamp())
    }
}

impl fmt::Display for Timestamp {
    /// ISO 8601, UTC: `2020-03-08T21:00:00Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.utc().to_rfc3339_opts(SecondsFormat::Secs, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_half_open_and_named_by_their_start() {
        let start = Timestamp(1_583_701_200); // 2020-03-08 21:00:00
        assert_eq!(start.to_string(), "2020-03-08T21:00:00Z");
        assert_eq!(start.floor(300), start);
        assert_eq!(start.plus(299).floor(300), start);
        assert_eq!(start.plus(300).floor(300), start.plus(300));
        assert_eq!(start.ceil(300), start);
        assert_eq!(start.plus(1).ceil(300), start.plus(300));
        assert_eq!(Timestamp(-1).floor(300), Timestamp(-300));
    }

    #[test]
    fn a_week_begins_on_sunday() {
        let sunday = Timestamp(1_583_625_600); // 2020-03-08
        assert_eq!(sunday.to_string(), "2020-03-08T00:00:00Z");
        let week = |seconds: i64| sunday.plus(seconds).week().since(sunday) / DAY_S;
        assert_eq!([-1, 0, 1, 7 * DAY_S - 1, 7 * DAY_S].map(week), [-7, 0, 0, 0, 7]);
        assert_eq!(Timestamp(0).week(), Timestamp(-4 * DAY_S));
    }
}
