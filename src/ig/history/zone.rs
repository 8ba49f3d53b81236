//! The zone in which IG reads `from` and `to`. Pure.
//!
//! It is not documented; two hints say account-local time, so it is learnt from the first answer
//! to a range instead of assumed, and only where it makes a difference.

use std::ops::Range;

use crate::domain::Timestamp;

/// How the bounds of a range are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// Not learnt yet.
    Unknown,
    /// As account-local time.
    Local,
    /// As UTC.
    Utc,
}

/// `time` as text for a range parameter of IG's price API.
pub fn bound(time: Timestamp, zone: Zone, local_offset_s: i64) -> String {
    let shown = match zone {
        Zone::Utc => time,
        Zone::Local | Zone::Unknown => time.plus(local_offset_s),
    };
    shown.utc().format("%Y-%m-%dT%H:%M:%S").to_string()
}

/// Reads the zone off the bars answered to a range that was written in account-local time.
pub fn learn(asked: &Range<Timestamp>, answered: &[Timestamp], local_offset_s: i64) -> Zone {
    if local_offset_s == 0 {
        return Zone::Local; // both are the same
    }
    let lies_in = |shift: i64| {
        let shifted = asked.start.plus(shift)..asked.end.plus(shift);
        !answered.is_empty() && answered.iter().all(|start| shifted.contains(start))
    };
    match (lies_in(0), lies_in(local_offset_s)) {
        (true, false) => Zone::Local,
        (false, true) => Zone::Utc,
        // No bars, bars nowhere expected, or a range so long that both fit.
        _ => Zone::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Timestamp = Timestamp(1_579_089_600);

    #[test]
    fn bounds_are_written_in_the_zone() {
        assert_eq!(bound(NOON, Zone::Utc, 3600), "2020-01-15T12:00:00");
        assert_eq!(bound(NOON, Zone::Local, 3600), "2020-01-15T13:00:00");
        assert_eq!(bound(NOON, Zone::Unknown, -18_000), "2020-01-15T07:00:00");
    }

    #[test]
    fn the_answer_tells_the_zone() {
        let asked = NOON..NOON.plus(300);
        assert_eq!(learn(&asked, &[NOON], 3600), Zone::Local);
        assert_eq!(learn(&asked, &[NOON.plus(3600)], 3600), Zone::Utc);
        assert_eq!(learn(&asked, &[NOON.plus(-18_000)], -18_000), Zone::Utc);
        assert_eq!(learn(&asked, &[], 3600), Zone::Unknown);
        assert_eq!(learn(&asked, &[NOON.plus(600)], 3600), Zone::Unknown);
        assert_eq!(learn(&asked, &[], 0), Zone::Local);
        let long = NOON..NOON.plus(86_400);
        assert_eq!(learn(&long, &[NOON.plus(7200)], 3600), Zone::Unknown, "both would fit");
    }
}
