//! The values of one update → one [`Change`] per field.
//!
//! Values are separated by `|` and say only what changed. A list that does not say exactly one
//! thing about every field is refused as a whole: half an update would leave a row that never
//! existed.

use std::borrow::Cow;

use super::percent::{self, BadPercent};

/// What an update says of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// As it was.
    Unchanged,
    /// Has no value now. Not the same as the empty text.
    Null,
    /// Has this value now; borrowed from the line unless it had to be decoded.
    Text(Cow<'a, str>),
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

/// Reads `values` into `changes`, one for each of `fields` fields. `first` says that the item had
/// no update yet.
///
/// # Errors
/// [`UpdateFault`]; what `changes` then holds means nothing.
pub fn decode<'a>(
    values: &'a str,
    fields: u16,
    first: bool,
    changes: &mut Vec<Change<'a>>,
) -> Result<(), UpdateFault> {
    // What the last update said still stands here; all of it is overwritten, or this one refused.
    changes.resize(usize::from(fields), Change::Unchanged);
    let (mut start, mut place, mut coded) = (0, 0, false);
    for (block, bytes) in values.as_bytes().chunks(BLOCK_BYTES).enumerate() {
        let marks = Marks::of(bytes);
        coded |= marks.coded;
        let mut separators = marks.separators;
        while separators != 0 {
            let end = block * BLOCK_BYTES + separators.trailing_zeros() as usize;
            separators &= separators - 1;
            place = decode_token(values, start, end, place, changes)?;
            start = end + 1;
        }
    }
    place = decode_token(values, start, values.len(), place, changes)?;
    if place < changes.len() {
        return Err(UpdateFault::TooFew);
    }
    if first && changes.contains(&Change::Unchanged) {
        return Err(UpdateFault::UnchangedInFirst);
    }
    // Hardly ever: numbers need no coding.
    if coded { decode_texts(changes) } else { Ok(()) }
}

/// Decodes the token at `start..end`, with a separator or nothing behind it, for the field at
/// `place`. Returns the place of the next.
#[inline]
fn decode_token<'a>(
    values: &'a str,
    start: usize,
    end: usize,
    place: usize,
    changes: &mut [Change<'a>],
) -> Result<usize, UpdateFault> {
    let token = &values[start..end];
    // Which fields change is anybody's guess, so nothing here branches on an empty token: of one
    // this looks at the separator.
    if values.as_bytes().get(start).is_some_and(|&byte| IS_SPECIAL[usize::from(byte)]) {
        return decode_special(token, place, changes);
    }
    let change = changes.get_mut(place).ok_or(UpdateFault::TooMany)?;
    *change = if start == end { Change::Unchanged } else { Change::Text(Cow::Borrowed(token)) };
    Ok(place + 1)
}

/// First bytes that may make a token something else than a text. A table, since comparisons would
/// be compiled to a branch that tells digits from separators.
static IS_SPECIAL: [bool; 256] = {
    let mut table = [false; 256];
    table[b'#' as usize] = true;
    table[b'$' as usize] = true;
    table[b'^' as usize] = true;
    table
};

#[cold]
fn decode_special<'a>(
    token: &'a str,
    place: usize,
    changes: &mut [Change<'a>],
) -> Result<usize, UpdateFault> {
    let change = match token.as_bytes() {
        [b'^', b'P' | b'T', ..] => return Err(UpdateFault::Difference),
        [b'^', count @ ..] => return decode_run(count, place, changes),
        b"#" => Change::Null,
        b"$" => Change::Text(Cow::Borrowed("")),
        _ => Change::Text(Cow::Borrowed(token)),
    };
    *changes.get_mut(place).ok_or(UpdateFault::TooMany)? = change;
    Ok(place + 1)
}

/// Percent-decodes every text.
#[cold]
fn decode_texts(changes: &mut [Change<'_>]) -> Result<(), UpdateFault> {
    for change in changes {
        if let Change::Text(Cow::Borrowed(text)) = *change {
            *change = Change::Text(percent::decode(text)?);
        }
    }
    Ok(())
}

fn decode_run(count: &[u8], place: usize, changes: &mut [Change<'_>]) -> Result<usize, UpdateFault> {
    if count.is_empty() || !count.iter().all(u8::is_ascii_digit) {
        return Err(UpdateFault::BadCaret);
    }
    // No count that matters comes near the ceiling.
    let count = count
        .iter()
        .fold(0_usize, |sum, digit| sum.saturating_mul(10).saturating_add(usize::from(digit - b'0')));
    if count == 0 {
        return Err(UpdateFault::BadCaret);
    }
    let end = place.saturating_add(count);
    changes.get_mut(place..end).ok_or(UpdateFault::TooMany)?.fill(Change::Unchanged);
    Ok(end)
}

/// Bytes that are looked at together.
const BLOCK_BYTES: usize = 64;
const WORD_BYTES: usize = size_of::<u64>();
const _: () = assert!(BLOCK_BYTES == u64::BITS as usize);

/// What matters about a block of at most [`BLOCK_BYTES`]. Values are so short that a vectorised
/// search for each one costs more than looking at eight bytes at a time, and a mask leaves the
/// branch predictor little to guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Marks {
    /// Where the separators are, one bit each, the first byte's lowest.
    separators: u64,
    /// Whether there is a `%`.
    coded: bool,
}

impl Marks {
    #[inline]
    fn of(block: &[u8]) -> Marks {
        let Some(last) = block.last_chunk() else {
            let separators = block.iter().rev().fold(0, |mask, &byte| mask << 1 | u64::from(byte == b'|'));
            return Marks { separators, coded: block.contains(&b'%') };
        };
        // The last word may overlap the one before, and then finds the same marks again.
        let mut separators = gathered(matches(*last, b'|')) << (block.len() - WORD_BYTES);
        let mut coded = matches(*last, b'%');
        for (place, word) in block.as_chunks().0.iter().enumerate() {
            separators |= gathered(matches(*word, b'|')) << (place * WORD_BYTES);
            coded |= matches(*word, b'%');
        }
        Marks { separators, coded: coded != 0 }
    }
}

/// Returns the highest bit of each byte of `word` that equals `byte`, and no other bit.
#[inline]
fn matches(word: [u8; WORD_BYTES], byte: u8) -> u64 {
    const LOW_BITS: u64 = u64::from_ne_bytes([0x7f; WORD_BYTES]);
    // Zero bytes where equal.
    let differs = u64::from_le_bytes(word) ^ u64::from_ne_bytes([byte; WORD_BYTES]);
    // The sum carries into no neighbour.
    !(((differs & LOW_BITS) + LOW_BITS) | differs | LOW_BITS)
}

/// Gathers the highest bits of all bytes in the lowest byte.
#[inline]
fn gathered(highest_bits: u64) -> u64 {
    (highest_bits >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

/// Frees `changes` from what it borrowed, keeping its memory for the next message.
pub(super) fn recycle(changes: Vec<Change<'_>>) -> Vec<Change<'static>> {
    // Collecting an owned vector into one of equal layout happens in place.
    changes.into_iter().map(|_| Change::Unchanged).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Decodes for a line of a test: `-` unchanged, `null`, and texts in quotes.
    fn decoded(values: &str, fields: u16, first: bool) -> Result<String, UpdateFault> {
        let mut changes = Vec::new();
        decode(values, fields, first, &mut changes)?;
        let shown = changes.iter().map(|change| match change {
            Change::Unchanged => "-".to_owned(),
            Change::Null => "null".to_owned(),
            Change::Text(text) => format!("{text:?}"),
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
            assert_eq!(decoded(values, fields, false).as_deref(), Ok(expected), "{values}");
        }
    }

    #[test]
    fn a_first_update_says_something_about_every_field() {
        assert_eq!(decoded("a|#|$", 3, true).as_deref(), Ok(r#""a" null """#));
        for values in ["a||c", "a|b|", "|b|c", "a|^2", "^3", "||"] {
            assert_eq!(decoded(values, 3, true), Err(UpdateFault::UnchangedInFirst), "{values}");
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
            assert_eq!(decoded(values, 3, false), Err(fault), "{values}");
        }
        assert_eq!(decoded("", 0, false), Err(TooMany));
    }

    #[test]
    fn finds_every_mark_and_nothing_else() {
        let check = |block: &[u8]| {
            let separators = block.iter().rev().fold(0, |mask, &byte| mask << 1 | u64::from(byte == b'|'));
            assert_eq!(Marks::of(block), Marks { separators, coded: block.contains(&b'%') }, "{block:?}");
        };
        for byte in 0..=255 {
            // Neighbours that differ from a separator in one bit, and in the highest only.
            check(&[byte, b'|', byte, b'}', b'|' | 0x80, b'|', b'|', byte]);
            check(&[byte; BLOCK_BYTES]);
        }
        for length in 0..=BLOCK_BYTES {
            check(&[b'|'; BLOCK_BYTES][..length]);
            check(&b"1.08512|17|||x|".repeat(5)[..length]);
            check(&[vec![b'1'; BLOCK_BYTES - length], vec![b'%'; length.min(1)]].concat());
        }
    }

    #[test]
    fn a_plain_update_borrows_every_text() {
        let mut changes = Vec::new();
        decode("1.1|#|$|x", 4, true, &mut changes).unwrap();
        assert!(changes.iter().all(|change| !matches!(change, Change::Text(Cow::Owned(_)))));
    }

    #[test]
    fn recycling_keeps_the_memory() {
        let mut changes = Vec::with_capacity(40);
        decode("a|b%41|c", 3, true, &mut changes).unwrap();
        let (memory, capacity) = (changes.as_ptr().addr(), changes.capacity());
        let changes = recycle(changes);
        assert_eq!((changes.as_ptr().addr(), changes.capacity()), (memory, capacity));
    }

    /// The server's side, for these tests only. `runs` chooses how unchanged fields are told.
    fn encode(row: &[Change<'_>], runs: bool) -> String {
        let mut tokens: Vec<String> = Vec::new();
        let mut unchanged = 0;
        for (place, change) in row.iter().enumerate() {
            match change {
                Change::Unchanged if runs => {
                    unchanged += 1;
                    if !matches!(row.get(place + 1), Some(Change::Unchanged)) {
                        tokens.push(format!("^{unchanged}"));
                        unchanged = 0;
                    }
                }
                Change::Unchanged => tokens.push(String::new()),
                Change::Null => tokens.push("#".to_owned()),
                Change::Text(text) if text.is_empty() => tokens.push("$".to_owned()),
                Change::Text(text) => {
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

    fn any_change() -> impl Strategy<Value = Change<'static>> {
        prop_oneof![
            Just(Change::Unchanged),
            Just(Change::Null),
            "[0-9.]{0,9}|[#$^|%,a-c\r\né]{0,6}|.{0,8}"
                .prop_map(|text: String| Change::Text(Cow::Owned(text))),
        ]
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(row in proptest::collection::vec(any_change(), 1..20), runs: bool) {
            let values = encode(&row, runs);
            let mut changes = Vec::new();
            let fields = u16::try_from(row.len()).unwrap();
            prop_assert_eq!(decode(&values, fields, false, &mut changes), Ok(()), "{}", values);
            prop_assert_eq!(&changes, &row);
            let whole = !row.contains(&Change::Unchanged);
            prop_assert_eq!(decode(&values, fields, true, &mut changes).is_ok(), whole);
        }

        #[test]
        fn what_is_taken_has_one_change_per_field(values in "[|^#$%0-9a-f]{0,30}", fields in 0_u16..12, first: bool) {
            let mut changes = Vec::new();
            if decode(&values, fields, first, &mut changes).is_ok() {
                prop_assert_eq!(changes.len(), usize::from(fields));
                prop_assert!(!(first && changes.contains(&Change::Unchanged)));
            }
        }
    }
}
