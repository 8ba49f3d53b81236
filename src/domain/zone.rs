//! What the clocks of a city show.

use std::sync::LazyLock;

use jiff::tz::{TimeZone, TimeZoneDatabase};

use super::Timestamp;

/// As built in: the machine's own may be old, or lacking.
static DATABASE: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// A time zone of the IANA database. Clones share one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Zone {
    /// Of this name, spelled as the database has it; none where that has none such.
    pub fn named(name: &str) -> Option<Zone> {
        let zone = DATABASE.get(name).ok()?;
        (zone.iana_name() == Some(name)).then_some(Zone(zone))
    }

    /// London's.
    pub fn london() -> Zone {
        Zone::named("Europe/London").expect("it is built in")
    }

    /// New York's.
    pub fn new_york() -> Zone {
        Zone::named("America/New_York").expect("it is built in")
    }

    /// What its clocks show at `time`, as seconds since they showed 1970-01-01 00:00.
    pub fn wall_s(&self, time: Timestamp) -> i64 {
        // Beyond the years that are known to it there is nothing to be right about.
        let offset_s = jiff::Timestamp::from_second(time.0).map_or(0, |at| self.0.to_offset(at).seconds());
        time.0.saturating_add(offset_s.into())
    }
}

#[cfg(test)]
mod tests {
    use chrono::{Offset, TimeZone as _};
    use chrono_tz::{TZ_VARIANTS, Tz};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_those_of_the_database_and_no_others() {
        let strange = ["", "Oslo", "europe/oslo", "Europe/Oslo ", "Etc/Unknown", "+01:00", "EST5EDT4"];
        for name in strange {
            assert_eq!(Zone::named(name), None, "{name}");
        }
        let lacking: Vec<_> = TZ_VARIANTS.iter().filter(|tz| Zone::named(tz.name()).is_none()).collect();
        assert!(lacking.is_empty(), "{lacking:?}");
    }

    proptest! {
        /// Another crate's reading of the database, of the years before 2026: of later ones the editions differ, as laws do.
        #[test]
        fn clocks_show_what_another_reading_of_the_database_has_them_show(
            tz in prop::sample::select(vec![
                Tz::UTC, Tz::Europe__London, Tz::America__New_York, Tz::America__St_Johns, Tz::Europe__Dublin,
                Tz::Africa__Casablanca, Tz::Asia__Kathmandu, Tz::Australia__Lord_Howe, Tz::Europe__Berlin,
            ]),
            time in 1_420_070_400_i64..1_767_225_600,
        ) {
            let time = Timestamp(time);
            let offset = tz.offset_from_utc_datetime(&time.utc().naive_utc()).fix().local_minus_utc();
            let zone = Zone::named(tz.name()).unwrap();
            prop_assert_eq!(zone.wall_s(time), time.plus(offset.into()).0);
        }
    }
}
