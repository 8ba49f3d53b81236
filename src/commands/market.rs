//! When a market opens or closes next. Pure.

use std::fmt;

use serde_json::{Value, json};

use crate::domain::{Calendar, Expectation, Timeframe, Timestamp};

/// How far ahead a change is looked for: past any holidays.
const AHEAD_S: i64 = 14 * 24 * 3600;

/// How a market stands, and what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Market {
    now: Expectation,
    /// What comes next, and when it begins; none where nothing does for two weeks.
    next: Option<(Expectation, Timestamp)>,
}

impl Market {
    /// How the market of this calendar stands at `now`. Hours that one account of them has and
    /// another has not count as neither open nor closed: an open market closes, and a closed one
    /// opens, when all accounts begin to say so or cease to.
    pub fn at(calendar: &Calendar, now: Timestamp) -> Market {
        let step = Timeframe::M5.seconds();
        let first = now.floor(step);
        let stands = calendar.expectation(first);
        let ends = |expectation| match stands {
            Expectation::Expected => expectation != Expectation::Expected,
            Expectation::Closed => expectation == Expectation::Expected,
            Expectation::Possible => expectation != Expectation::Possible,
        };
        let next = (1..=AHEAD_S / step)
            .map(|bucket| first.plus(bucket * step))
            .map(|start| (calendar.expectation(start), start))
            .find(|(expectation, _)| ends(*expectation));
        Market { now: stands, next }
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let state = match self.now {
            Expectation::Expected => "open",
            Expectation::Possible => "possible",
            Expectation::Closed => "closed",
        };
        let when = |wanted: bool| self.next.filter(|next| opens(*next) == wanted).map(|(_, start)| start.0);
        json!({ "calendar": "forex", "state": state, "opens": when(true), "closes": when(false) })
    }
}

fn opens((expectation, _): (Expectation, Timestamp)) -> bool {
    expectation == Expectation::Expected
}

impl fmt::Display for Market {
    /// `open, closes Fri 2026-11-27 22:00 UTC`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.now {
            Expectation::Expected => "open",
            Expectation::Possible => "open by some accounts of its hours",
            Expectation::Closed => "closed",
        })?;
        match self.next {
            Some(next @ (_, start)) => {
                let word = if opens(next) { "opens" } else { "closes" };
                write!(f, ", {word} {}", start.utc().format("%a %Y-%m-%d %H:%M UTC"))
            }
            None => f.write_str(" for two weeks at least"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(now: &str, expected: &str) {
        let now = Timestamp::from(now.parse::<chrono::DateTime<chrono::Utc>>().unwrap());
        assert_eq!(Market::at(&Calendar::forex(), now).to_string(), expected, "{now}");
    }

    #[test]
    fn an_open_market_closes_and_a_closed_one_opens() {
        // Winter: London and New York agree on the close; New York opens an hour later.
        check("2026-11-25T12:34:56Z", "open, closes Fri 2026-11-27 22:00 UTC");
        check("2026-11-27T21:59:59Z", "open, closes Fri 2026-11-27 22:00 UTC");
        check("2026-11-27T22:00:00Z", "closed, opens Sun 2026-11-29 22:00 UTC");
        check("2026-11-29T20:59:59Z", "closed, opens Sun 2026-11-29 22:00 UTC");
        check("2026-11-29T22:00:00Z", "open, closes Fri 2026-12-04 22:00 UTC");
    }

    #[test]
    fn hours_in_dispute_are_neither() {
        check("2026-11-29T21:00:00Z", "open by some accounts of its hours, opens Sun 2026-11-29 22:00 UTC");
        // In these weeks of March only New York has summer time: it closes an hour earlier.
        check("2020-03-13T20:59:00Z", "open, closes Fri 2020-03-13 21:00 UTC");
        check("2020-03-13T21:00:00Z", "open by some accounts of its hours, closes Fri 2020-03-13 22:00 UTC");
    }

    #[test]
    fn programs_read_when() {
        let json = |now| Market::at(&Calendar::forex(), Timestamp(now)).json();
        // 2026-11-25 12:00, a Wednesday, and the Saturday after.
        let wednesday = 1_795_608_000;
        assert_eq!(
            json(wednesday),
            json!({ "calendar": "forex", "state": "open", "opens": null, "closes": wednesday + 58 * 3_600 })
        );
        assert_eq!(
            json(wednesday + 72 * 3_600),
            json!({ "calendar": "forex", "state": "closed", "opens": wednesday + 106 * 3_600, "closes": null })
        );
    }
}
