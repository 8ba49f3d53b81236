//! The values of one update → a [`Change`] for each field of which it says something.
//!
//! Values are separated by `|` and say only what changed. A list that does not say exactly one
//! thing about every field is refused as a whole: half an update would leave a row that never
//! existed.

use std::borrow::Cow;

use super::percent::{self, BadPercent};

/// A field of which an update says something. Those of which it says nothing stay as they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// Its place in the schema, from 0.
    pub field: usize,
    /// Its value now; `None` where it has none, which is not the same as the empty text.
    pub value: Option<&'a str>,
}

/// What an update says: a [`Change`] at most for each field, in the order of the schema.
#[derive(Clone, Copy, Debug)]
pub struct Changes<'a>(Told<'a>);

#[derive(Clone, Copy, Debug)]
enum Told<'a> {
    /// Nothing but plain texts.
    Plain(Plain<'a>),
    /// Everything else.
    Listed(&'a [Change<'a>]),
}

impl<'a> Changes<'a> {
    /// Each change.
    #[inline]
    pub fn iter(&self) -> Iter<'a> {
        match self.0 {
            Told::Plain(plain) => Iter::Plain(plain.text, plain.spans()),
            Told::Listed(changes) => Iter::Listed(changes),
        }
    }

    /// The same where it is nothing but plain texts, none of them empty.
    #[inline]
    pub fn plain(&self) -> Option<&Plain<'a>> {
        match &self.0 {
            Told::Plain(plain) => Some(plain),
            Told::Listed(_) => None,
        }
    }
}

/// An update of nothing but plain texts.
#[derive(Clone, Copy, Debug)]
pub struct Plain<'a> {
    text: &'a str,
    /// Where in it the values begin.
    values_at: usize,
    /// Where, from there on, texts begin and end (the byte behind them).
    starts: Places,
    ends: Places,
}

impl<'a> Plain<'a> {
    /// That in which the values stand, and what comes before them there.
    #[inline]
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// The fields that have a text, and where in [`Plain::text`].
    #[inline]
    pub fn spans(&self) -> Spans {
        // One by one: what was just written word by word is not there yet to be read in larger pieces.
        let (starts, ends) = (self.starts, self.ends);
        Spans {
            starts: Places { head: starts.head, tail: starts.tail },
            ends: Places { head: ends.head, tail: ends.tail },
            field: 0,
            at: 0,
            values_at: self.values_at,
        }
    }
}

/// Iterator over the texts of an update; see [`Plain::spans`].
#[derive(Clone, Debug)]
pub struct Spans {
    /// Those that are left.
    starts: Places,
    ends: Places,
    /// The field whose token begins at this byte of the values.
    field: usize,
    at: usize,
    values_at: usize,
}

impl Iterator for Spans {
    type Item = (usize, (usize, usize));

    #[inline]
    fn next(&mut self) -> Option<(usize, (usize, usize))> {
        let (start, end) = (self.starts.take_first()?, self.ends.take_first()?);
        // Between two texts there are separators only, each of which ends an empty token.
        let field = self.field + (start - self.at);
        (self.field, self.at) = (field + 1, end + 1);
        Some((field, (self.values_at + start, self.values_at + end)))
    }
}

/// Iterator over the changes of one update; see [`Changes::iter`].
#[derive(Clone, Debug)]
pub enum Iter<'a> {
    /// What is left of plain texts.
    Plain(&'a str, Spans),
    /// What is left of a list.
    Listed(&'a [Change<'a>]),
}

impl<'a> Iterator for Iter<'a> {
    type Item = Change<'a>;

    #[inline]
    fn next(&mut self) -> Option<Change<'a>> {
        match self {
            Iter::Plain(text, spans) => {
                let (field, (start, end)) = spans.next()?;
                Some(Change { field, value: Some(&text[start..end]) })
            }
            Iter::Listed(changes) => {
                let (first, rest) = changes.split_first()?;
                *changes = rest;
                Some(*first)
            }
        }
    }
}

impl PartialEq for Changes<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<'a> From<&'a [Change<'a>]> for Changes<'a> {
    /// The caller has seen to their order.
    fn from(changes: &'a [Change<'a>]) -> Changes<'a> {
        Changes(Told::Listed(changes))
    }
}

/// Why the values of an update cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateFault {
    /// Says nothing about the last fields.
    #[error("too few values")]
    TooFew,
    /// Says more than there are fields, or skips beyond the last.
    #[error("too many values")]
    TooMany,
    /// `^` with something else than a count of at least 1.
    #[error("bad use of ^")]
    BadCaret,
    /// A difference to the value before, which we told the server not to send.
    #[error("a difference, which was declined")]
    Difference,
    /// A broken escape.
    #[error(transparent)]
    BadPercent(#[from] BadPercent),
    /// A field that stays as it was, before it ever had a value.
    #[error("unchanged value in the first update")]
    UnchangedInFirst,
}

/// Reads `values` where that is as simple as it nearly always is: texts of digits, points and the
/// like, and separators between `fields` fields. `None` where there is more to it, see [`list`].
#[inline]
pub fn plain(values: &str, fields: u16) -> Option<Changes<'_>> {
    plain_at(values, 0, fields).filter(|(_, end)| *end == values.len()).map(|(changes, _)| changes)
}

/// As [`plain`], of values that begin at `at` and end before the first byte that is neither plain nor a separator.
/// Tells where that is.
#[inline(always)]
pub fn plain_at(text: &str, at: usize, fields: u16) -> Option<(Changes<'_>, usize)> {
    let Marks { separators, length } = Marks::of(text.as_bytes(), at)?;
    let (starts, ends) = separators.texts(length);
    let plain = Plain { text, values_at: at, starts, ends };
    (separators.count() + 1 == u32::from(fields)).then_some((Changes(Told::Plain(plain)), at + length))
}

/// Reads `values` of `fields` fields into `changes`, texts as they are coded. `first` says that the
/// item had no update yet.
///
/// # Errors
/// [`UpdateFault`]; what `changes` then holds means nothing.
pub fn list<'a>(
    values: &'a str,
    fields: u16,
    first: bool,
    changes: &mut Vec<Change<'a>>,
) -> Result<(), UpdateFault> {
    let fields = usize::from(fields);
    changes.clear();
    let mut field = 0;
    for token in values.split('|') {
        let (said_of, value) = match token.as_bytes() {
            [b'^', b'P' | b'T', ..] => return Err(UpdateFault::Difference),
            [b'^', count @ ..] => (run(count)?, None),
            b"" => (1, None),
            b"#" => (1, Some(None)),
            b"$" => (1, Some(Some(""))),
            _ => (1, Some(Some(token))),
        };
        if said_of > fields - field {
            return Err(UpdateFault::TooMany);
        }
        changes.extend(value.map(|value| Change { field, value }));
        field += said_of;
    }
    if field < fields {
        return Err(UpdateFault::TooFew);
    }
    if first && changes.len() < fields {
        return Err(UpdateFault::UnchangedInFirst);
    }
    Ok(())
}

/// Percent-decodes the texts of `changes` and hands the outcome to `take`.
///
/// # Errors
/// [`UpdateFault::BadPercent`]; `take` is not called then.
pub fn decoded(changes: &[Change<'_>], take: impl FnOnce(&[Change<'_>])) -> Result<(), UpdateFault> {
    // Hardly ever: numbers need no coding.
    let is_coded = |change: &Change<'_>| change.value.is_some_and(|text| text.contains('%'));
    if !changes.iter().any(is_coded) {
        take(changes);
        return Ok(());
    }
    let texts = changes.iter().map(|change| change.value.map(percent::decode).transpose());
    let texts: Vec<Option<Cow<'_, str>>> = texts.collect::<Result<_, _>>()?;
    let decoded = changes.iter().zip(&texts);
    let decoded = decoded.map(|(change, text)| Change { field: change.field, value: text.as_deref() });
    take(&decoded.collect::<Vec<_>>());
    Ok(())
}

/// How many fields in a row stay as they were.
fn run(count: &[u8]) -> Result<usize, UpdateFault> {
    if count.is_empty() || !count.iter().all(u8::is_ascii_digit) {
        return Err(UpdateFault::BadCaret);
    }
    // No count that matters comes near the ceiling.
    let count = count
        .iter()
        .fold(0_usize, |sum, digit| sum.saturating_mul(10).saturating_add(usize::from(digit - b'0')));
    if count == 0 { Err(UpdateFault::BadCaret) } else { Ok(count) }
}

/// Bytes whose marks one word has bits for.
const BLOCK_BYTES: usize = 64;
const _: () = assert!(BLOCK_BYTES == u64::BITS as usize);

/// Two blocks hold any row of candles, and a bit for its end.
#[cfg(test)]
const PLAIN_BYTES_MAX: usize = 2 * BLOCK_BYTES - 1;

/// Where values end, and their separators. Values are so short that a vectorised search for each
/// one costs more than looking at eight bytes at a time, and a mask leaves the branch predictor
/// little to guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Marks {
    separators: Places,
    /// Bytes before the first that is no separator and not from `-` to `9`, which always stand for themselves.
    length: usize,
}

impl Marks {
    /// The marks of `text` from `at` on. `None` where more bytes are plain than there are bits for.
    #[inline]
    fn of(text: &[u8], at: usize) -> Option<Marks> {
        let (head, length) = Marks::of_block(text, at);
        if let Some(length) = length {
            return Some(Marks { separators: Places { head, tail: 0 }, length });
        }
        let (tail, length) = Marks::of_block(text, at + BLOCK_BYTES);
        Some(Marks { separators: Places { head, tail }, length: BLOCK_BYTES + length? })
    }

    /// The separators of one block, and where in it the values end.
    #[inline(always)]
    fn of_block(text: &[u8], at: usize) -> (u64, Option<usize>) {
        let mut separators = 0;
        for place in (0..BLOCK_BYTES).step_by(WORD_BYTES) {
            let (marks, others) = separators_and_others(word_at(text, at + place));
            separators |= gathered(marks) << place;
            if others != 0 {
                let length = place + others.trailing_zeros() as usize / 8;
                return (separators & ((1 << length) - 1), Some(length));
            }
        }
        (separators, None)
    }
}

/// The eight bytes from `at` on, with zeros in place of those beyond the end.
#[inline]
fn word_at(text: &[u8], at: usize) -> u64 {
    let text = text.get(at..).unwrap_or_default();
    match text.first_chunk() {
        Some(word) => u64::from_le_bytes(*word),
        None => text.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

/// Some bytes of two blocks, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Places {
    head: u64,
    tail: u64,
}

impl Places {
    /// Where texts begin and end between these separators, and the end of all. An empty one does both at once.
    #[inline]
    fn texts(self, length: usize) -> (Places, Places) {
        let Places { head, tail } = self;
        let (starts, ends) = (head << 1 | 1, head | 1_u64.checked_shl(length as u32).unwrap_or(0));
        if length < BLOCK_BYTES {
            let (starts, ends) = (starts & !ends, ends & !starts);
            return (Places { head: starts, tail: 0 }, Places { head: ends, tail: 0 });
        }
        let (starts_tail, ends_tail) = (tail << 1 | head >> 63, tail | 1 << (length - BLOCK_BYTES));
        (
            Places { head: starts & !ends, tail: starts_tail & !ends_tail },
            Places { head: ends & !starts, tail: ends_tail & !starts_tail },
        )
    }

    #[inline]
    fn count(self) -> u32 {
        let tail = if self.tail == 0 { 0 } else { self.tail.count_ones() };
        self.head.count_ones() + tail
    }

    #[inline]
    fn take_first(&mut self) -> Option<usize> {
        if self.head != 0 {
            let first = self.head.trailing_zeros() as usize;
            self.head &= self.head - 1;
            Some(first)
        } else if self.tail != 0 {
            let first = self.tail.trailing_zeros() as usize;
            self.tail &= self.tail - 1;
            Some(BLOCK_BYTES + first)
        } else {
            None
        }
    }
}

const WORD_BYTES: usize = size_of::<u64>();
/// Highest and other bits of each byte of a word.
const HIGH_BITS: u64 = u64::from_ne_bytes([0x80; WORD_BYTES]);
const LOW_BITS: u64 = !HIGH_BITS;

/// Returns the highest bit of each byte that is a separator, and of each byte that is neither a separator nor from `-` to
/// `9`. A byte that is not ASCII may be among the first, but is among the others too.
#[inline]
fn separators_and_others(word: u64) -> (u64, u64) {
    // What makes a byte reach its highest bit from `least` on.
    const fn from(least: u8) -> u64 {
        u64::from_ne_bytes([0x80 - least; WORD_BYTES])
    }
    // No sum carries into a neighbour.
    let low = word & LOW_BITS;
    let outside = !(low + from(b'-')) | (low + from(b'9' + 1));
    let differs = (low ^ u64::from_ne_bytes([b'|'; WORD_BYTES])) + LOW_BITS;
    (!differs & HIGH_BITS, (outside & differs | word) & HIGH_BITS)
}

/// Gathers the highest bits of all bytes in the lowest byte.
#[inline]
fn gathered(highest_bits: u64) -> u64 {
    (highest_bits >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

/// Frees `changes` from what it borrowed, keeping its memory for the next message.
pub(super) fn recycle(mut changes: Vec<Change<'_>>) -> Vec<Change<'static>> {
    changes.clear();
    // Collecting an owned vector into one of equal layout happens in place.
    changes.into_iter().map(|_| Change { field: 0, value: None }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One change a field; the outer `None` is unchanged, the inner null.
    type Row = Vec<Option<Option<String>>>;

    fn row_of(changes: &Changes<'_>, fields: u16) -> Row {
        assert!(changes.iter().is_sorted_by(|one, next| one.field < next.field), "{changes:?}");
        let mut row = vec![None; usize::from(fields)];
        for Change { field, value } in changes.iter() {
            row[field] = Some(value.map(str::to_owned));
        }
        row
    }

    /// Decodes by the list, and checks the short way wherever that is taken.
    fn decode(values: &str, fields: u16, first: bool) -> Result<Row, UpdateFault> {
        let row = listed(values, fields, first);
        if let Some(changes) = plain(values, fields) {
            assert_eq!(listed(values, fields, false), Ok(row_of(&changes, fields)), "{values}");
        }
        row
    }

    fn listed(values: &str, fields: u16, first: bool) -> Result<Row, UpdateFault> {
        let (mut changes, mut row) = (Vec::new(), Row::new());
        list(values, fields, first, &mut changes)?;
        decoded(&changes, |changes| row = row_of(&changes.into(), fields))?;
        Ok(row)
    }

    /// Decodes for a line of a test: `-` unchanged, `null`, and texts in quotes.
    fn shown(values: &str, fields: u16, first: bool) -> Result<String, UpdateFault> {
        let row = decode(values, fields, first)?;
        let shown = row.iter().map(|change| match change {
            None => "-".to_owned(),
            Some(None) => "null".to_owned(),
            Some(Some(text)) => format!("{text:?}"),
        });
        Ok(shown.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn tells_unchanged_null_and_empty_apart() {
        for (values, fields, expected) in [
            ("a|b|c", 3, r#""a" "b" "c""#),
            ("", 1, "-"),
            ("||", 3, "- - -"),
            ("a|b|", 3, r#""a" "b" -"#),
            ("#|$|", 3, r#"null "" -"#),
            ("#1|$5|a#", 3, r##""#1" "$5" "a#""##),
            ("##|$$", 2, r###""##" "$$""###),
            ("%23|%24|%5E2", 3, r##""#" "$" "^2""##),
            ("20:06:10|3.05|0.32|^7", 10, r#""20:06:10" "3.05" "0.32" - - - - - - -"#),
            ("^3", 3, "- - -"),
            ("^1|^1|x", 3, r#"- - "x""#),
            ("^02|x", 3, r#"- - "x""#),
            ("|x|^1", 3, r#"- "x" -"#),
            ("a,b|c d|e+f", 3, r#""a,b" "c d" "e+f""#),
            ("a%7Cb|%25|x", 3, r#""a|b" "%" "x""#),
            ("%C3%A9|é|€", 3, r#""é" "é" "€""#),
            ("a^3|b|c", 3, r#""a^3" "b" "c""#),
        ] {
            assert_eq!(shown(values, fields, false).as_deref(), Ok(expected), "{values}");
        }
    }

    #[test]
    fn a_first_update_says_something_about_every_field() {
        assert_eq!(shown("a|#|$", 3, true).as_deref(), Ok(r#""a" null """#));
        for values in ["a||c", "a|b|", "|b|c", "a|^2", "^3", "||"] {
            assert_eq!(shown(values, 3, true), Err(UpdateFault::UnchangedInFirst), "{values}");
        }
    }

    #[test]
    fn refuses_whatever_does_not_cover_the_fields_exactly() {
        use UpdateFault::*;
        let percent = BadPercent(percent::BadPercent);
        for (values, fault) in [
            ("", TooFew),
            ("a|b", TooFew),
            ("^2", TooFew),
            ("a|b|c|d", TooMany),
            ("a|b|c|", TooMany),
            ("^4", TooMany),
            ("a|^3", TooMany),
            ("^3|", TooMany),
            ("^3|^1", TooMany),
            ("^99999999999999999999999|a", TooMany),
            ("^", BadCaret),
            ("^0|a|b|c", BadCaret),
            ("^-1|a", BadCaret),
            ("^+2|a", BadCaret),
            ("^2x|a", BadCaret),
            ("^P[]|b|c", Difference),
            ("a|^Td|c", Difference),
            ("^X|b|c", BadCaret),
            ("a%|b|c", percent),
            ("a%2|b|c", percent),
            ("a|b|%zz", percent),
            ("a|b|%ff", percent),
        ] {
            assert_eq!(shown(values, 3, false), Err(fault), "{values}");
        }
        assert_eq!(shown("", 0, false), Err(TooMany));
    }

    #[test]
    fn finds_every_mark_and_nothing_else() {
        let check = |block: &[u8]| {
            let is_plain = |byte: &u8| b"|-./0123456789".contains(byte);
            let length = block.iter().position(|byte| !is_plain(byte)).unwrap_or(block.len());
            let separators = block[..length.min(BLOCK_BYTES)].iter().rev();
            let head = separators.fold(0, |mask, &byte| mask << 1 | u64::from(byte == b'|'));
            let separators = Places { head, tail: 0 };
            assert_eq!(Marks::of(block, 0), Some(Marks { separators, length }), "{block:?}");
            let behind = [b"U,1,1,", block].concat();
            assert_eq!(Marks::of(&behind, 6), Some(Marks { separators, length }), "{block:?}");
        };
        for byte in 0..=255 {
            // Neighbours that differ from a separator in one bit, and in the highest only.
            check(&[byte, b'|', byte, b'}', b'|' | 0x80, b'|', b'|', byte]);
            check(&[byte, b'|', b'-', b'.', b'/', b'0', b'9', b'|', byte]);
            check(&[byte; BLOCK_BYTES]);
        }
        for length in 0..=BLOCK_BYTES {
            check(&[b'|'; BLOCK_BYTES][..length]);
            check(&b"1.08512|17|||x|".repeat(5)[..length]);
            check(&[vec![b'1'; BLOCK_BYTES - length], vec![b'%'; length.min(1)]].concat());
        }
    }

    #[test]
    fn plain_numbers_go_the_short_way_however_long_the_row_and_nothing_else_does() {
        for bytes in 2..=2 * PLAIN_BYTES_MAX {
            // Texts across the end of a block among them.
            for values in [format!("{}|{}", "1".repeat(bytes / 2), "2".repeat(bytes - bytes / 2 - 1)), {
                format!("|{}", "1.5|".repeat(bytes / 4))
            }] {
                let fields = u16::try_from(values.split('|').count()).unwrap();
                let is_short = values.len() <= PLAIN_BYTES_MAX;
                assert_eq!(plain(&values, fields).is_some(), is_short, "{values}");
                assert!(decode(&values, fields, false).is_ok());
                assert_eq!(plain(&values, fields + 1), None);
                assert_eq!(plain(&values, fields - 1), None);
            }
        }
        for values in ["#|1", "1|$", "^1|1", "%31|1", "a|1", "1|€", "1| ", "1|1\0"] {
            assert_eq!(plain(values, 2), None, "{values}");
        }
    }

    #[test]
    fn recycling_keeps_the_memory() {
        let mut changes = Vec::with_capacity(40);
        list("a|b%41|c", 3, true, &mut changes).unwrap();
        let (memory, capacity) = (changes.as_ptr().addr(), changes.capacity());
        let changes = recycle(changes);
        assert_eq!((changes.as_ptr().addr(), changes.capacity()), (memory, capacity));
    }

    /// The server's side, for these tests only. `runs` chooses how unchanged fields are told.
    fn encode(row: &Row, runs: bool) -> String {
        let mut tokens: Vec<String> = Vec::new();
        let mut unchanged = 0;
        for (place, change) in row.iter().enumerate() {
            match change.as_ref().map(Option::as_deref) {
                None if runs => {
                    unchanged += 1;
                    if !matches!(row.get(place + 1), Some(None)) {
                        tokens.push(format!("^{unchanged}"));
                        unchanged = 0;
                    }
                }
                None => tokens.push(String::new()),
                Some(None) => tokens.push("#".to_owned()),
                Some(Some("")) => tokens.push("$".to_owned()),
                Some(Some(text)) => {
                    let mut token = String::new();
                    for (at, character) in text.chars().enumerate() {
                        match character {
                            '|' | '%' | '\r' | '\n' => token += &format!("%{:02X}", u32::from(character)),
                            '#' | '$' | '^' if at == 0 => token += &format!("%{:02x}", u32::from(character)),
                            _ => token.push(character),
                        }
                    }
                    tokens.push(token);
                }
            }
        }
        tokens.join("|")
    }

    fn any_change() -> impl Strategy<Value = Option<Option<String>>> {
        prop_oneof![
            Just(None),
            Just(Some(None)),
            "[0-9.]{0,9}|[#$^|%,a-c\r\né]{0,6}|.{0,8}".prop_map(|text: String| Some(Some(text))),
        ]
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(row in proptest::collection::vec(any_change(), 1..20), runs: bool) {
            let values = encode(&row, runs);
            let fields = u16::try_from(row.len()).unwrap();
            prop_assert_eq!(decode(&values, fields, true).is_ok(), !row.contains(&None));
            prop_assert_eq!(decode(&values, fields, false), Ok(row), "{}", values);
        }

        #[test]
        fn what_is_taken_has_a_place_in_the_schema(values in "[|^#$%0-9a-f]{0,30}", fields in 0_u16..12, first: bool) {
            if let Ok(row) = decode(&values, fields, first) {
                prop_assert!(!(first && row.contains(&None)));
            }
        }

        #[test]
        fn either_way_of_reading_comes_to_the_same(values in "[|0-9.-]{0,140}", fields in 0_u16..40) {
            let _ = decode(&values, fields, false);
            let separators = u16::try_from(values.split('|').count()).unwrap();
            prop_assert_eq!(plain(&values, separators).is_some(), values.len() <= PLAIN_BYTES_MAX);
            prop_assert!(decode(&values, separators, false).is_ok());
        }
    }
}
