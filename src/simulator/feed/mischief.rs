//! What becomes of the rows of some items on their way to whoever subscribed. Pure.

use std::collections::BTreeMap;

use crate::domain::{Pair, Timestamp};
use crate::simulator::faults::Closing;
use crate::simulator::tlcp::{Field, Row};

/// Spells that may be cast at a time; what comes on top is left out.
const SPELLS_MAX: usize = 1_000;

/// What is done to a row.
#[derive(Clone, Debug)]
pub(crate) enum Spell {
    /// It is lost; with the last of so many, `OV` says so.
    Overflow(u32),
    /// It comes otherwise if it is a closing one, and the later one so many seconds after it.
    Closes(Closing, u32),
    /// Some of its fields have other texts.
    Values(BTreeMap<Field, Option<String>>),
    /// These values come in the place of its own.
    Raw(String),
}

/// How a row is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Telling {
    /// As it is.
    Plainly,
    /// This one instead, or none; and one more when its time has come.
    Instead { now: Option<Row>, later: Option<(Timestamp, Row)> },
    /// Not at all; with `OV` and a number, where it is the last of so many.
    Lost(Option<u32>),
    /// With other texts in some fields.
    Values(BTreeMap<Field, Option<String>>),
    /// To the letter.
    Raw(String),
}

/// Every spell that is cast, and how many rows of each pair it has left.
#[derive(Debug, Default)]
pub(crate) struct Mischief {
    spells: Vec<(Spell, BTreeMap<Pair, u32>)>,
}

impl Mischief {
    /// Casts a spell on the next so many rows of each of these pairs.
    pub fn cast(&mut self, spell: Spell, pairs: &[Pair], rows: u32) {
        if rows > 0 && self.spells.len() < SPELLS_MAX {
            self.spells.push((spell, pairs.iter().map(|pair| (*pair, rows)).collect()));
        }
    }

    /// Whether every row is told plainly.
    pub fn is_idle(&self) -> bool {
        self.spells.is_empty()
    }

    /// How a row is to be told: the eldest spell on its pair decides.
    pub fn telling(&mut self, pair: Pair, row: &Row, now: Timestamp) -> Telling {
        let closes = row[Field::ConsEnd as usize] == 1;
        let concerns = |(spell, left): &(Spell, BTreeMap<Pair, u32>)| {
            left.contains_key(&pair) && (closes || !matches!(spell, Spell::Closes(..)))
        };
        let Some(place) = self.spells.iter().position(concerns) else { return Telling::Plainly };
        let (spell, left) = &mut self.spells[place];
        let rows = left.get_mut(&pair).expect("the spell is on this pair");
        *rows -= 1;
        let is_last = *rows == 0;
        let telling = match spell {
            Spell::Overflow(count) => Telling::Lost(is_last.then_some(*count)),
            Spell::Closes(how, by_s) => close(*how, row, now.plus(i64::from(*by_s))),
            Spell::Values(fields) => Telling::Values(fields.clone()),
            Spell::Raw(values) => Telling::Raw(values.clone()),
        };
        if is_last {
            left.remove(&pair);
            if left.is_empty() {
                self.spells.remove(place);
            }
        }
        telling
    }
}

/// How a closing row comes, and the later one.
fn close(how: Closing, row: &Row, at: Timestamp) -> Telling {
    let (now, later) = match how {
        Closing::Drop => {
            let mut unmarked = *row;
            unmarked[Field::ConsEnd as usize] = 0;
            (Some(unmarked), None)
        }
        Closing::Merge => (None, None),
        Closing::Late => (None, Some(*row)),
        Closing::Repeat => (Some(*row), Some(*row)),
        Closing::Correct => (Some(wrong(row)), Some(*row)),
        Closing::Worsen => (Some(*row), Some(wrong(row))),
    };
    Telling::Instead { now, later: later.map(|row| (at, row)) }
}

/// The row before its last tick, as it might have been.
fn wrong(row: &Row) -> Row {
    let mut row = *row;
    row[Field::BidClose as usize] = row[Field::BidOpen as usize];
    row[Field::OfrClose as usize] = row[Field::OfrOpen as usize];
    row[Field::TickCount as usize] = (row[Field::TickCount as usize] - 1).max(0);
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::tlcp::FIELDS;

    fn pair(text: &str) -> Pair {
        text.parse().unwrap()
    }

    fn row(closes: bool) -> Row {
        let mut row = [7; FIELDS];
        row[Field::ConsEnd as usize] = i64::from(closes);
        row
    }

    #[test]
    fn a_spell_holds_for_so_many_rows_of_its_pairs() {
        let mut mischief = Mischief::default();
        mischief.cast(Spell::Overflow(2), &[pair("EURUSD")], 2);
        let mut tell = |of: &str| mischief.telling(pair(of), &row(false), Timestamp(0));
        assert_eq!(tell("GBPUSD"), Telling::Plainly);
        assert_eq!(tell("EURUSD"), Telling::Lost(None));
        assert_eq!(tell("EURUSD"), Telling::Lost(Some(2)));
        assert_eq!(tell("EURUSD"), Telling::Plainly);
        assert!(mischief.is_idle());
    }

    #[test]
    fn only_so_many_spells_are_kept() {
        let mut mischief = Mischief::default();
        for _ in 0..SPELLS_MAX + 1 {
            mischief.cast(Spell::Overflow(1), &[pair("EURUSD")], 1);
        }
        assert_eq!(mischief.spells.len(), SPELLS_MAX);
    }

    #[test]
    fn closing_rows_come_otherwise_and_others_do_not() {
        let tell = |how| {
            let mut mischief = Mischief::default();
            mischief.cast(Spell::Closes(how, 60), &[pair("EURUSD")], 1);
            let mut tell = |closes| mischief.telling(pair("EURUSD"), &row(closes), Timestamp(300));
            assert_eq!(tell(false), Telling::Plainly);
            tell(true)
        };
        let (closing, at) = (row(true), Timestamp(360));
        let instead = |now, later| Telling::Instead { now, later };
        assert_eq!(tell(Closing::Merge), instead(None, None));
        assert_eq!(tell(Closing::Drop), instead(Some(row(false)), None));
        assert_eq!(tell(Closing::Late), instead(None, Some((at, closing))));
        assert_eq!(tell(Closing::Repeat), instead(Some(closing), Some((at, closing))));
        assert_eq!(tell(Closing::Correct), instead(Some(wrong(&closing)), Some((at, closing))));
        assert_eq!(tell(Closing::Worsen), instead(Some(closing), Some((at, wrong(&closing)))));
        assert_ne!(wrong(&closing), closing);
    }
}
