//! Bar lengths. To add one: a variant here with its length; everything else reads this table.

use std::fmt;
use std::str::FromStr;

use super::Timestamp;

/// The length of a bar. The product's word throughout; the broker's own names for lengths
/// (REST resolutions, stream scales) stay in the broker's room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timeframe {
    /// 5 minutes: what is streamed and healed; every other length is folded from it.
    M5,
    /// 10 minutes.
    M10,
    /// 15 minutes.
    M15,
    /// 30 minutes.
    M30,
    /// 60 minutes.
    H1,
}

impl Timeframe {
    /// Every timeframe, shortest first.
    pub const ALL: [Timeframe; 5] =
        [Timeframe::M5, Timeframe::M10, Timeframe::M15, Timeframe::M30, Timeframe::H1];

    /// Length in minutes.
    pub const fn minutes(self) -> i64 {
        match self {
            Timeframe::M5 => 5,
            Timeframe::M10 => 10,
            Timeframe::M15 => 15,
            Timeframe::M30 => 30,
            Timeframe::H1 => 60,
        }
    }

    /// Length in seconds.
    pub const fn seconds(self) -> i64 {
        self.minutes() * 60
    }

    /// How the database spells it: minutes as text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Timeframe::M5 => "5",
            Timeframe::M10 => "10",
            Timeframe::M15 => "15",
            Timeframe::M30 => "30",
            Timeframe::H1 => "60",
        }
    }

    /// The start of the bucket of this length that holds `time`.
    pub fn bucket(self, time: Timestamp) -> Timestamp {
        time.floor(self.seconds())
    }
}

impl fmt::Display for Timeframe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no known timeframe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown timeframe \"{0}\": use 5, 10, 15, 30 or 60 (also 5m, 1h)")]
pub struct UnknownTimeframe(String);

impl FromStr for Timeframe {
    type Err = UnknownTimeframe;

    /// Accepts minutes (`5`), minutes with their unit (`5m`, `60m`) and `1h`, in any case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.trim().to_ascii_lowercase();
        let minutes = match lower.as_str() {
            "1h" => "60",
            other => other.strip_suffix('m').unwrap_or(other),
        };
        Timeframe::ALL
            .into_iter()
            .find(|timeframe| timeframe.as_str() == minutes)
            .ok_or_else(|| UnknownTimeframe(text.chars().take(20).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_spellings() {
        for (text, expected) in [
            ("5", Timeframe::M5),
            ("5m", Timeframe::M5),
            ("15M", Timeframe::M15),
            ("60", Timeframe::H1),
            ("1h", Timeframe::H1),
            ("1H", Timeframe::H1),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in ["", "m", "7m", "1d", "2h", "05", "５"] {
            assert!(text.parse::<Timeframe>().is_err(), "{text}");
        }
    }

    #[test]
    fn buckets_sit_on_the_hour() {
        let noon = Timestamp(1_583_668_800); // 2020-03-08 12:00:00
        for timeframe in Timeframe::ALL {
            assert_eq!(timeframe.bucket(noon), noon);
            assert_eq!(timeframe.bucket(noon.plus(timeframe.seconds() - 1)), noon);
        }
    }
}
