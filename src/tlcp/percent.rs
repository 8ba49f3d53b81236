//! Percent-coding as both ends of the protocol use it: over UTF-8 bytes, and `+` is only a plus.

use std::borrow::Cow;

use memchr::memchr;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What JavaScript's `encodeURIComponent` leaves alone, which is what official clients send.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');

/// A `%` without two hex digits behind it, or bytes that are no UTF-8 once decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad percent-coding")]
pub struct BadPercent;

/// Appends `value` to `text`, coded for a request.
pub fn encode_into(text: &mut String, value: &str) {
    text.extend(utf8_percent_encode(value, ENCODED));
}

/// Returns what `text` stands for; borrows it when there is nothing to decode.
///
/// # Errors
/// [`BadPercent`]; nothing is passed through on a guess.
pub fn decode(text: &str) -> Result<Cow<'_, str>, BadPercent> {
    match memchr(b'%', text.as_bytes()) {
        None => Ok(Cow::Borrowed(text)),
        Some(first) => decode_from(text, first).map(Cow::Owned),
    }
}

fn decode_from(text: &str, first: usize) -> Result<String, BadPercent> {
    let (plain, mut coded) = text.as_bytes().split_at(first);
    let mut bytes = Vec::with_capacity(text.len());
    bytes.extend_from_slice(plain);
    while let Some((&byte, rest)) = coded.split_first() {
        if byte == b'%' {
            let &[high, low, ref rest @ ..] = rest else { return Err(BadPercent) };
            bytes.push(hex(high)? << 4 | hex(low)?);
            coded = rest;
        } else {
            bytes.push(byte);
            coded = rest;
        }
    }
    String::from_utf8(bytes).map_err(|_| BadPercent)
}

fn hex(digit: u8) -> Result<u8, BadPercent> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(BadPercent),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(value: &str) -> String {
        let mut text = String::new();
        encode_into(&mut text, value);
        text
    }

    #[test]
    fn encodes_like_encode_uri_component() {
        for (value, expected) in [
            ("CST-a|XST-b", "CST-a%7CXST-b"),
            ("mgQkwtwdysogQz2BJ4Ji kOj2Bg", "mgQkwtwdysogQz2BJ4Ji%20kOj2Bg"),
            ("a+b&c=d%e", "a%2Bb%26c%3Dd%25e"),
            ("CHART:X.IP:5MINUTE", "CHART%3AX.IP%3A5MINUTE"),
            ("-_.!~*'()", "-_.!~*'()"),
            ("\r\n", "%0D%0A"),
            ("é€", "%C3%A9%E2%82%AC"),
        ] {
            assert_eq!(encoded(value), expected);
        }
    }

    #[test]
    fn decodes_either_case_and_leaves_a_plus_alone() {
        for (text, expected) in [
            ("", Ok("")),
            ("plain", Ok("plain")),
            ("a+b", Ok("a+b")),
            ("%7C%7c", Ok("||")),
            ("x%2Cy", Ok("x,y")),
            ("%C3%A9 é", Ok("é é")),
            ("%", Err(BadPercent)),
            ("a%2", Err(BadPercent)),
            ("%2x", Err(BadPercent)),
            ("%+1", Err(BadPercent)),
            ("%C3", Err(BadPercent)),
            ("%é", Err(BadPercent)),
        ] {
            assert_eq!(decode(text).as_deref(), expected.as_ref().copied(), "{text}");
        }
    }

    #[test]
    fn borrows_what_needs_no_decoding() {
        assert!(matches!(decode("1.1045"), Ok(Cow::Borrowed("1.1045"))));
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(value in "\\PC*|.*") {
            let text = encoded(&value);
            prop_assert_eq!(decode(&text), Ok(Cow::Borrowed(value.as_str())));
        }
    }
}
