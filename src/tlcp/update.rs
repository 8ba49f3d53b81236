//! The values of one update → one [`Change`] per field.
//!
//! Values are separated by `|` and say only what changed. A list that does not say exactly one
//! thing about every field is refused as a whole: half an update would leave a row that never
//! existed.

use std::borrow::Cow;

use memchr::memchr;

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
    /// `^` with something else than a count of at least 1, or with a difference, which we told
    /// the server not to send.
    #[error("bad or declined use of ^")]
    BadCaret,
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
#[inline]
pub fn decode<'a>(
    values: &'a str,
    fields: u16,
    first: bool,
    changes: &mut Vec<Change<'a>>,
) -> Result<(), UpdateFault> {
    let fields = usize::from(fields);
    changes.clear();
    changes.reserve(fields);
    let coded = memchr(b'%', values.as_bytes()).is_some();
    let mut start = 0;
    for end in memchr::memchr_iter(b'|', values.as_bytes()) {
        decode_token(&values[start..end], fields, first, coded, changes)?;
        start = end + 1;
    }
    decode_token(&values[start..], fields, first, coded, changes)?;
    if changes.len() == fields { Ok(()) } else { Err(UpdateFault::TooFew) }
}

#[inline]
fn decode_token<'a>(
    token: &'a str,
    fields: usize,
    first: bool,
    coded: bool,
    changes: &mut Vec<Change<'a>>,
) -> Result<(), UpdateFault> {
    if changes.len() >= fields {
        return Err(UpdateFault::TooMany);
    }
    changes.push(match token.as_bytes() {
        [] if first => return Err(UpdateFault::UnchangedInFirst),
        [] => Change::Unchanged,
        b"#" => Change::Null,
        b"$" => Change::Text(Cow::Borrowed("")),
        [b'^', count @ ..] => return decode_run(count, fields, first, changes),
        _ if coded => Change::Text(percent::decode(token)?),
        _ => Change::Text(Cow::Borrowed(token)),
    });
    Ok(())
}

fn decode_run(
    count: &[u8],
    fields: usize,
    first: bool,
    changes: &mut Vec<Change<'_>>,
) -> Result<(), UpdateFault> {
    let left = fields - changes.len();
    if count.is_empty() || !count.iter().all(u8::is_ascii_digit) {
        return Err(UpdateFault::BadCaret);
    }
    // No count that matters comes near the ceiling.
    let count = count
        .iter()
        .fold(0_usize, |sum, digit| sum.saturating_mul(10).saturating_add(usize::from(digit - b'0')));
    match count {
        0 => Err(UpdateFault::BadCaret),
        _ if first => Err(UpdateFault::UnchangedInFirst),
        _ if count > left => Err(UpdateFault::TooMany),
        _ => {
            changes.extend(std::iter::repeat_n(Change::Unchanged, count));
            Ok(())
        }
    }
}

/// Empties `changes` and frees it from what it borrowed, keeping its memory for the next message.
pub(super) fn recycle(mut changes: Vec<Change<'_>>) -> Vec<Change<'static>> {
    changes.clear();
    // Collecting an owned vector into one of equal layout reuses its memory.
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
            ("^P[]|b|c", BadCaret),
            ("^Td|b|c", BadCaret),
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
        assert_eq!((changes.as_ptr().addr(), changes.capacity(), changes.len()), (memory, capacity, 0));
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
