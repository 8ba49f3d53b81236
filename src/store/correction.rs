//! Rule of truth 4: nothing worse overwrites. Pure.

use crate::domain::{Bar, Source};

/// What becomes of a bar that is offered where one is stored already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It says nothing new.
    Unchanged,
    /// It takes the place of the stored one, which is kept as a revision.
    Supersede,
    /// The stored one stays; what was offered is kept as refused.
    Refuse,
}

/// Judges a bar offered for the key of a stored one (DESIGN, rule of truth 4).
///
/// A streamed bar with no lower tick count is a correction. REST's answer never changes a
/// settled bar; that it counts ticks differently is no news. An import yields to all but an
/// older import. A derived bar follows its parts, and yields to what the broker said of the
/// longer bucket itself.
pub fn judge(stored: &Bar, offered: &Bar) -> Verdict {
    if offered.same_values(stored) {
        return Verdict::Unchanged;
    }
    if stored.source == Source::Import {
        return Verdict::Supersede;
    }
    match offered.source {
        Source::Stream if offered.volume >= stored.volume => Verdict::Supersede,
        Source::Stream => Verdict::Refuse,
        Source::Derived if stored.source == Source::Derived => Verdict::Supersede,
        Source::Rest | Source::Import | Source::Derived if offered.same_prices(stored) => Verdict::Unchanged,
        Source::Rest | Source::Import | Source::Derived => Verdict::Refuse,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{BarKey, Ohlc, Price, Timeframe, Timestamp};

    /// A bar as text: source, price, ticks.
    fn bar(text: &str) -> Bar {
        let [source, price, ticks] = text.split(' ').collect::<Vec<_>>()[..] else {
            panic!("three words: {text}")
        };
        let price = Price::parse(price, 0).unwrap();
        let side = Ohlc { open: price, high: price, low: price, close: price };
        let source = match source {
            "stream" => Source::Stream,
            "rest" => Source::Rest,
            "derived" => Source::Derived,
            "import" => Source::Import,
            other => panic!("{other}"),
        };
        let key = BarKey { pair: "EURUSD".parse().unwrap(), timeframe: Timeframe::M5, start: Timestamp(0) };
        Bar { key, bid: side, ask: side, volume: ticks.parse().unwrap(), source }
    }

    fn check(stored: &str, offered: &str, expected: Verdict) {
        assert_eq!(judge(&bar(stored), &bar(offered)), expected, "{stored} offered {offered}");
    }

    #[test]
    fn the_same_values_change_nothing_whatever_their_source() {
        for stored in ["stream", "rest", "derived", "import"] {
            for offered in ["stream", "rest", "derived", "import"] {
                check(&format!("{stored} 1.1 9"), &format!("{offered} 1.1 9"), Verdict::Unchanged);
            }
        }
    }

    #[test]
    fn a_streamed_bar_with_no_fewer_ticks_is_a_correction() {
        for stored in ["stream", "rest"] {
            check(&format!("{stored} 1.1 9"), "stream 1.2 9", Verdict::Supersede);
            check(&format!("{stored} 1.1 9"), "stream 1.2 10", Verdict::Supersede);
            check(&format!("{stored} 1.1 9"), "stream 1.1 10", Verdict::Supersede);
            check(&format!("{stored} 1.1 9"), "stream 1.2 8", Verdict::Refuse);
            check(&format!("{stored} 1.1 9"), "stream 1.1 8", Verdict::Refuse);
        }
    }

    #[test]
    fn rest_never_changes_a_settled_bar() {
        for stored in ["stream", "rest", "derived"] {
            check(&format!("{stored} 1.1 9"), "rest 1.2 99", Verdict::Refuse);
            check(&format!("{stored} 1.1 9"), "rest 1.1 99", Verdict::Unchanged);
            check(&format!("{stored} 1.1 9"), "rest 1.1 1", Verdict::Unchanged);
        }
    }

    #[test]
    fn an_import_yields_to_all() {
        for stored in ["stream", "rest", "derived"] {
            check(&format!("{stored} 1.1 9"), "import 1.2 9", Verdict::Refuse);
            check(&format!("{stored} 1.1 9"), "import 1.1 0", Verdict::Unchanged);
        }
        for offered in ["stream", "rest", "derived", "import"] {
            check("import 1.1 9", &format!("{offered} 1.2 1"), Verdict::Supersede);
            check("import 1.1 9", &format!("{offered} 1.1 1"), Verdict::Supersede);
        }
    }

    #[test]
    fn a_derived_bar_follows_its_parts_and_yields_to_the_broker() {
        check("derived 1.1 9", "derived 1.2 3", Verdict::Supersede);
        check("derived 1.1 9", "derived 1.1 3", Verdict::Supersede);
        for stored in ["rest", "stream"] {
            check(&format!("{stored} 1.1 9"), "derived 1.2 9", Verdict::Refuse);
            check(&format!("{stored} 1.1 9"), "derived 1.1 3", Verdict::Unchanged);
        }
    }
}
