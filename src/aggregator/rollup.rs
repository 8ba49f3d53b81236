//! Three 5-minute slots become a 15-minute bar, and so on. Pure.

use crate::domain::{Bar, BarKey, Source, Timeframe, Timestamp};

/// What is known of one 5-minute slot of a longer bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot<'a> {
    /// Its bar is stored.
    Bar(&'a Bar),
    /// Quiet or closed: there is no bar to have.
    NoBar,
    /// Anything else: a bar may still come.
    Unknown,
}

/// Folds the 5-minute slots of the bucket that starts at `start` into its bar.
///
/// `None` while a slot is unknown, and where no slot has a bar: nothing is guessed and no flat
/// bar is made up. Bid and ask are folded each for itself, so that the mid of the result is the
/// mid of true extremes; volume is summed (DESIGN, rule of truth 3).
///
/// # Panics
/// If the slots are not exactly those of one bucket of `timeframe`.
pub fn fold(timeframe: Timeframe, start: Timestamp, slots: &[Slot<'_>]) -> Option<Bar> {
    let slots_expected = timeframe.seconds() / Timeframe::M5.seconds();
    assert_eq!(slots.len() as i64, slots_expected, "a bucket of {timeframe} minutes is folded whole");
    let mut folded: Option<Bar> = None;
    for slot in slots {
        let bar = match slot {
            Slot::Bar(bar) => bar,
            Slot::NoBar => continue,
            Slot::Unknown => return None,
        };
        match &mut folded {
            None => {
                let key = BarKey { pair: bar.key.pair, timeframe, start };
                folded = Some(Bar { key, source: Source::Derived, ..**bar });
            }
            Some(so_far) => {
                so_far.bid.extend(&bar.bid);
                so_far.ask.extend(&bar.ask);
                so_far.volume = so_far.volume.saturating_add(bar.volume);
            }
        }
    }
    folded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{Ohlc, Price};

    const START: Timestamp = Timestamp(1_583_668_800); // 2020-03-08 12:00:00

    fn ohlc(prices: [i64; 4]) -> Ohlc {
        Ohlc::from_prices(prices.map(|units| Price::from_units(units).unwrap()))
    }

    fn bar(slot: i64, bid: [i64; 4], ask: [i64; 4], volume: u32) -> Bar {
        let start = START.plus(slot * 300);
        Bar {
            key: BarKey { pair: "EURUSD".parse().unwrap(), timeframe: Timeframe::M5, start },
            bid: ohlc(bid),
            ask: ohlc(ask),
            volume,
            source: Source::Stream,
        }
    }

    #[test]
    fn bid_and_ask_are_folded_each_for_itself() {
        // The highest bid and the highest ask are in different slots.
        let bars = [
            bar(0, [50, 90, 40, 60], [52, 91, 42, 62], 7),
            bar(1, [60, 80, 30, 70], [62, 99, 45, 72], 8),
            bar(2, [70, 75, 65, 66], [72, 77, 41, 68], 9),
        ];
        let folded = fold(Timeframe::M15, START, &bars.each_ref().map(Slot::Bar)).unwrap();
        assert_eq!(folded.bid, ohlc([50, 90, 30, 66]));
        assert_eq!(folded.ask, ohlc([52, 99, 41, 68]));
        assert_eq!(folded.volume, 24);
        assert_eq!(folded.source, Source::Derived);
        assert_eq!(folded.key, BarKey { timeframe: Timeframe::M15, start: START, ..bars[0].key });
    }

    /// Slots as text: `b` a bar, `-` none to have, `?` unknown. Answers which bars open and close.
    fn check(slots: &str, expected: Option<(usize, usize)>) {
        let prices = |ix: usize| [10 + ix as i64; 4];
        let bars: Vec<Bar> = (0..slots.len()).map(|ix| bar(ix as i64, prices(ix), prices(ix), 1)).collect();
        let slots_of: Vec<Slot<'_>> = slots
            .chars()
            .zip(&bars)
            .map(|(letter, bar)| match letter {
                'b' => Slot::Bar(bar),
                '-' => Slot::NoBar,
                _ => Slot::Unknown,
            })
            .collect();
        let timeframe = Timeframe::ALL.into_iter().find(|tf| tf.minutes() == slots.len() as i64 * 5).unwrap();
        let folded = fold(timeframe, START, &slots_of);
        let ends =
            folded.map(|bar| (bar.bid.open.units() as usize - 10, bar.bid.close.units() as usize - 10));
        assert_eq!(ends, expected, "{slots}");
        if let Some(bar) = folded {
            assert_eq!(bar.key.start, START, "{slots}: named by its bucket, not by its first bar");
        }
    }

    #[test]
    fn a_bar_needs_every_slot_known_and_one_stored() {
        check("bbb", Some((0, 2)));
        check("-b-", Some((1, 1)));
        check("b--", Some((0, 0)));
        check("--b", Some((2, 2)));
        check("---", None);
        check("bb?", None);
        check("?bb", None);
        check("b?b", None);
        check("bb", Some((0, 1)));
        check("bbbbbb", Some((0, 5)));
        check("------------", None);
        check("-b--------b-", Some((1, 10)));
    }

    #[test]
    fn an_absurd_volume_does_not_wrap() {
        let bars = [bar(0, [5; 4], [5; 4], u32::MAX), bar(1, [5; 4], [5; 4], 1)];
        let folded = fold(Timeframe::M10, START, &bars.each_ref().map(Slot::Bar)).unwrap();
        assert_eq!(folded.volume, u32::MAX);
    }

    proptest! {
        /// Folding 5m bars into an hour equals folding them to 15m and those by hand.
        #[test]
        fn a_fold_of_folds_is_the_fold(
            values in proptest::collection::vec((proptest::array::uniform4(1i64..100), 0u32..9), 12),
        ) {
            let bars: Vec<Bar> = values
                .iter()
                .enumerate()
                .map(|(ix, (prices, volume))| bar(ix as i64, *prices, *prices, *volume))
                .collect();
            let slots: Vec<Slot<'_>> = bars.iter().map(Slot::Bar).collect();
            let hour = fold(Timeframe::H1, START, &slots).unwrap();
            let quarters: Vec<Bar> = slots
                .chunks(3)
                .map(|chunk| fold(Timeframe::M15, START, chunk).unwrap())
                .collect();
            let bid = quarters[1..].iter().fold(quarters[0].bid, |so_far, bar| so_far.then(&bar.bid));
            prop_assert_eq!(hour.bid, bid);
            prop_assert_eq!(hour.volume, quarters.iter().map(|bar| bar.volume).sum::<u32>());
        }
    }
}
