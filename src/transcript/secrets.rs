//! Values that must not be seen, and the names that stand for them.

use std::borrow::Cow;
use std::collections::VecDeque;

/// A shorter value is replaced only where it stands as a word: `x` is a fine password for a
/// simulator, and half of all texts have an x.
const ANYWHERE_BYTES_MIN: usize = 5;
/// Values remembered for each kind. Beyond it the oldest is forgotten: a token from hundreds of
/// logins ago opens nothing.
const KNOWN_PER_KIND_MAX: usize = 500;

/// What a secret is, which its placeholder says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// API key.
    Key,
    /// Name that logs in.
    User,
    /// Password.
    Password,
    /// Client token.
    Cst,
    /// Account token.
    Xst,
    /// OAuth access token.
    Access,
    /// OAuth refresh token.
    Refresh,
    /// Account id, which is the stream's user too.
    Account,
    /// Client id.
    Client,
    /// Password of the stream.
    StreamPassword,
    /// Lightstreamer session.
    Session,
    /// Address of this machine.
    Address,
}

impl Kind {
    const ALL: [(Kind, &str); 12] = [
        (Kind::Key, "KEY"),
        (Kind::User, "USER"),
        (Kind::Password, "PASSWORD"),
        (Kind::Cst, "CST"),
        (Kind::Xst, "XST"),
        (Kind::Access, "ACCESS"),
        (Kind::Refresh, "REFRESH"),
        (Kind::Account, "ACCOUNT"),
        (Kind::Client, "CLIENT"),
        (Kind::StreamPassword, "STREAM-PASSWORD"),
        (Kind::Session, "SESSION"),
        (Kind::Address, "ADDRESS"),
    ];
}

/// The secrets seen so far. Two spellings that differ in case are one secret.
pub struct Secrets {
    /// By kind, oldest first.
    known: [VecDeque<Known>; Kind::ALL.len()],
    counts: [u32; Kind::ALL.len()],
    /// Bytes that a secret can begin with, in any of its encodings.
    starts: [bool; 256],
}

struct Known {
    value: Vec<u8>,
    placeholder: String,
}

impl Default for Secrets {
    fn default() -> Self {
        let mut starts = [false; 256];
        (starts[usize::from(b'%')], starts[usize::from(b'\\')]) = (true, true);
        Secrets { known: Default::default(), counts: Default::default(), starts }
    }
}

impl Secrets {
    /// Returns the name that stands for this value, and remembers the value. An empty one is no
    /// secret and stays empty.
    pub fn placeholder(&mut self, kind: Kind, value: &str) -> String {
        let same = |known: &&Known| known.value.eq_ignore_ascii_case(value.as_bytes());
        if value.is_empty() {
            return String::new();
        }
        if let Some(known) = self.known.iter().flatten().find(same) {
            return known.placeholder.clone();
        }
        let ix = kind as usize;
        self.counts[ix] += 1;
        let placeholder = format!("{}-{}", Kind::ALL[ix].1, self.counts[ix]);
        let first = value.as_bytes()[0];
        self.starts[usize::from(first.to_ascii_lowercase())] = true;
        self.starts[usize::from(first.to_ascii_uppercase())] = true;
        // A space may come as a plus.
        self.starts[usize::from(b'+')] |= first == b' ';
        if self.known[ix].len() == KNOWN_PER_KIND_MAX {
            self.known[ix].pop_front();
        }
        self.known[ix].push_back(Known { value: value.into(), placeholder: placeholder.clone() });
        placeholder
    }

    /// Returns the text with every known secret replaced, be it plain, percent-encoded or escaped
    /// as in JSON.
    pub fn conceal<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let bytes = text.as_bytes();
        let mut concealed = String::new();
        let (mut copied, mut at) = (0, 0);
        while at < bytes.len() {
            let found = if self.starts[usize::from(bytes[at])] { self.longest_at(bytes, at) } else { None };
            match found {
                Some((end, placeholder)) => {
                    concealed.push_str(&text[copied..at]);
                    concealed.push_str(placeholder);
                    (at, copied) = (end, end);
                }
                None => at += 1,
            }
        }
        if copied == 0 {
            return Cow::Borrowed(text);
        }
        concealed.push_str(&text[copied..]);
        Cow::Owned(concealed)
    }

    /// The longest secret that begins here: where it ends, and its name.
    fn longest_at(&self, text: &[u8], at: usize) -> Option<(usize, &str)> {
        let found = self.known.iter().flatten().filter_map(|known| {
            let ends = ENCODINGS.iter().filter_map(|encoding| encoding.match_end(text, at, &known.value));
            let end = ends.max()?;
            let is_word = || !is_word_byte(text, at.checked_sub(1)) && !is_word_byte(text, Some(end));
            (known.value.len() >= ANYWHERE_BYTES_MIN || is_word()).then_some((end, &*known.placeholder))
        });
        found.max_by_key(|(end, _)| *end)
    }
}

fn is_word_byte(text: &[u8], at: Option<usize>) -> bool {
    at.and_then(|at| text.get(at)).is_some_and(|byte| byte.is_ascii_alphanumeric() || !byte.is_ascii())
}

/// In which ways a text may be encoded.
#[derive(Clone, Copy)]
struct Encoding {
    percent: bool,
    json: bool,
}

const ENCODINGS: [Encoding; 4] = [
    Encoding { percent: false, json: false },
    Encoding { percent: true, json: false },
    Encoding { percent: false, json: true },
    Encoding { percent: true, json: true },
];

impl Encoding {
    /// Where `secret` ends if it begins at `at`. Each of its characters may be encoded or not.
    fn match_end(self, text: &[u8], mut at: usize, mut secret: &[u8]) -> Option<usize> {
        while let Some(wanted) = secret.first() {
            let byte = *text.get(at)?;
            let mut decoded = [byte; 4];
            let (length, width) = match byte {
                b'%' if self.percent => percent_escape(&text[at..], &mut decoded),
                b'+' if self.percent && *wanted == b' ' => {
                    decoded[0] = b' ';
                    Some((1, 1))
                }
                b'\\' if self.json => json_escape(&text[at..], &mut decoded),
                _ => None,
            }
            .unwrap_or((1, 1));
            let (head, rest) = secret.split_at_checked(length)?;
            if !head.eq_ignore_ascii_case(&decoded[..length]) {
                return None;
            }
            (at, secret) = (at + width, rest);
        }
        Some(at)
    }
}

/// `%7C`: how many bytes it stands for, and how many it takes.
fn percent_escape(text: &[u8], decoded: &mut [u8; 4]) -> Option<(usize, usize)> {
    decoded[0] = u8::try_from(hex(text.get(1..3)?)?).ok()?;
    Some((1, 3))
}

/// `\n`, `\u00e9` and pairs of surrogates, likewise.
fn json_escape(text: &[u8], decoded: &mut [u8; 4]) -> Option<(usize, usize)> {
    let plain = match text.get(1)? {
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'u' => {
            let unit = |at: usize| hex(text.get(at..at + 4)?)?.try_into().ok();
            let first: u16 = unit(2)?;
            let second = text.get(6..8).filter(|next| *next == b"\\u").and_then(|_| unit(8));
            let mut chars = char::decode_utf16([first].into_iter().chain(second));
            let c = chars.next()?.ok()?;
            return Some((c.encode_utf8(decoded).len(), 6 * c.len_utf16()));
        }
        same @ (b'"' | b'\\' | b'/') => *same,
        _ => return None,
    };
    decoded[0] = plain;
    Some((1, 2))
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |number, digit| Some(number * 16 + char::from(*digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;

    fn knowing(secrets: &[(Kind, &str)]) -> Secrets {
        let mut known = Secrets::default();
        secrets.iter().for_each(|(kind, value)| drop(known.placeholder(*kind, value)));
        known
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let known = knowing(&[
            (Kind::Account, "ABC12"),
            (Kind::Password, "p|w d\"/é😀"),
            (Kind::Cst, "tok%25en"),
            (Kind::Cst, "tok%25en-and-more"),
            (Kind::User, "me"),
        ]);
        assert_eq!(known.conceal(text), expected, "{text}");
    }

    #[test]
    fn a_secret_is_found_in_every_spelling() {
        for (text, expected) in [
            ("nothing", "nothing"),
            ("", ""),
            ("ABC12", "ACCOUNT-1"),
            ("xABC12ABC12y", "xACCOUNT-1ACCOUNT-1y"),
            ("abc12", "ACCOUNT-1"),
            ("ABC1", "ABC1"),
            ("%41BC%312", "ACCOUNT-1"),
            ("\\u0041BC12", "ACCOUNT-1"),
            ("a p|w d\"/é😀 b", "a PASSWORD-1 b"),
            ("p%7Cw%20d%22%2F%C3%A9%F0%9F%98%80", "PASSWORD-1"),
            ("p%7cw+d%22/é😀", "PASSWORD-1"),
            ("p|w d\\\"/é😀", "PASSWORD-1"),
            ("p|w d\\\"\\/\\u00e9\\ud83d\\ude00", "PASSWORD-1"),
            ("tok%25en", "CST-1"),
            ("tok%2525en!", "CST-1!"),
            ("tok%25en-and-more", "CST-2"),
            ("% %4 \\ \\u00 \\ud83d", "% %4 \\ \\u00 \\ud83d"),
        ] {
            check(text, expected);
        }
    }

    #[test]
    fn a_short_secret_is_replaced_as_a_word_only() {
        for (text, expected) in [
            ("me", "USER-1"),
            ("\"me\"", "\"USER-1\""),
            ("some time", "some time"),
            ("é me", "é USER-1"),
            ("émé", "émé"),
        ] {
            check(text, expected);
        }
    }

    #[test]
    fn one_value_has_one_name() {
        let mut known = Secrets::default();
        assert_eq!(known.placeholder(Kind::Account, "ABC12"), "ACCOUNT-1");
        assert_eq!(known.placeholder(Kind::Account, "ABC13"), "ACCOUNT-2");
        assert_eq!(known.placeholder(Kind::User, "abc12"), "ACCOUNT-1");
        assert_eq!(known.placeholder(Kind::User, ""), "");
        assert_eq!(known.placeholder(Kind::User, "someone"), "USER-1");
    }

    #[test]
    fn memory_is_bounded_and_what_the_user_configured_is_not_forgotten() {
        let mut known = knowing(&[(Kind::Key, "the-key")]);
        (0..2 * KNOWN_PER_KIND_MAX).for_each(|n| drop(known.placeholder(Kind::Cst, &format!("token{n}end"))));
        assert_eq!(known.conceal("token0end"), "token0end");
        assert_eq!(known.conceal("token999end the-key"), "CST-1000 KEY-1");
    }

    /// A secret that cannot come about by chance, from characters that encodings change.
    fn secret() -> impl Strategy<Value = String> {
        "[a-z%|\"\\\\/&=+ é😀]{0,12}".prop_map(|middle| format!("zqq{middle}qz"))
    }

    proptest! {
        #[test]
        fn no_encoding_hides_a_secret(
            secret in secret(), before in "[A-Y%\\\\u0-9é,]{0,8}", after in "[A-Y%\\\\u0-9é,]{0,8}", twice in any::<bool>(),
        ) {
            let json = serde_json::to_string(&secret).unwrap();
            let json = &json[1..json.len() - 1];
            let percent = utf8_percent_encode(&secret, NON_ALPHANUMERIC).to_string();
            let known = knowing(&[(Kind::Cst, &secret)]);
            for form in [secret.as_str(), json, &json.replace('/', "\\/"), &percent, &percent.to_lowercase()] {
                let text = if twice { format!("{before}{form}{after}{form}") } else { format!("{before},{form}{after}") };
                let concealed = known.conceal(&text);
                prop_assert!(!concealed.contains(form), "{text} became {concealed}");
                prop_assert!(concealed.contains("CST-1"), "{text} became {concealed}");
                prop_assert!(concealed.starts_with(&before), "{text} became {concealed}");
            }
        }

        #[test]
        fn text_without_secrets_stays_as_it_is(text in any::<String>()) {
            let known = knowing(&[(Kind::Cst, "a secret that is not in there")]);
            prop_assert_eq!(known.conceal(&text), text.as_str());
        }
    }
}
