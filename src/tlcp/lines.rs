//! Messages and chunks of bytes → whole lines.
//!
//! A line ends in LF or CR-LF; empty lines are skipped. On a WebSocket what is left at the end of
//! a message may be a line too, which [`rest_of_a_line`] tells of the next one, while in a byte
//! stream a line is whole only once its end arrived: the rest of a broken connection is not data.

use std::fmt;

use memchr::memchr;

use super::notification;

/// Longest line that is taken, in bytes without its line end. The longest we expect is well
/// under a kilobyte.
pub const LINE_BYTES_MAX: usize = 1 << 20;
/// A line that has not ended after so many bytes is taken for one without an end, behind which nothing else
/// would ever come.
pub const ENDLESS_BYTES_MIN: usize = 8 * LINE_BYTES_MAX;
/// How much of a line goes to a log, in bytes.
pub const EXCERPT_BYTES_MAX: usize = 200;

/// The start of a text from outside, safe to print: cut to [`EXCERPT_BYTES_MAX`], with control
/// characters and broken UTF-8 escaped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Excerpt<'a>(&'a [u8]);

impl<'a> Excerpt<'a> {
    /// Wraps `text`; nothing is copied until it is printed.
    pub fn of(text: &'a str) -> Excerpt<'a> {
        Excerpt(text.as_bytes())
    }

    /// Returns the bytes it was made of, neither cut nor escaped.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }
}

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = &self.0[..self.0.len().min(EXCERPT_BYTES_MAX)];
        for chunk in cut.utf8_chunks() {
            for character in chunk.valid().chars() {
                match character {
                    // Quotes need no escape: nothing is printed between quotes.
                    '"' | '\'' => fmt::Write::write_char(f, character)?,
                    _ => write!(f, "{}", character.escape_debug())?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        if cut.len() < self.0.len() { write!(f, "… ({} bytes)", self.0.len()) } else { Ok(()) }
    }
}

impl fmt::Debug for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a line cannot be read as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    /// Above [`LINE_BYTES_MAX`].
    #[error("line too long")]
    TooLong,
    /// Not UTF-8.
    #[error("line is not UTF-8")]
    NotUtf8,
}

/// One line, or why it cannot be read together with its start.
pub type Line<'a> = Result<&'a str, (BadLine, Excerpt<'a>)>;

/// Returns the lines of one WebSocket message, its unended tail included.
pub fn message_lines(message: &str) -> MessageLines<'_> {
    MessageLines { rest: message }
}

/// Returns the lines of a message that are ended, and what is left behind the last line end.
pub fn ended_lines(message: &str) -> (&str, &str) {
    message.split_at(message.rfind('\n').map_or(0, |end| end + 1))
}

/// Returns the first line of a message that begins like none of the protocol's, and so may be the
/// rest of the line before it.
pub fn rest_of_a_line(message: &str) -> Option<&str> {
    let line = message.split('\n').next()?;
    let line = line.strip_suffix('\r').unwrap_or(line);
    let tag = line.split(',').next()?;
    (!line.is_empty() && !notification::is_tag(tag.as_bytes())).then_some(line)
}

/// Where the next line begins, if the one before ends at `at`, with LF or CR-LF.
#[inline]
pub fn line_end(lines: &str, at: usize) -> Option<usize> {
    match lines.as_bytes().get(at..)? {
        [b'\r', b'\n', ..] => Some(at + 2),
        [b'\n', ..] => Some(at + 1),
        _ => None,
    }
}

/// Iterator over the lines of one WebSocket message; see [`message_lines`].
#[derive(Clone, Debug)]
pub struct MessageLines<'a> {
    rest: &'a str,
}

impl<'a> MessageLines<'a> {
    /// What is left of the message.
    #[inline]
    pub fn rest(&self) -> &'a str {
        self.rest
    }

    /// Passes over so many bytes, which were whole lines.
    #[inline]
    pub fn advance(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }
}

impl<'a> Iterator for MessageLines<'a> {
    type Item = Line<'a>;

    #[inline]
    fn next(&mut self) -> Option<Line<'a>> {
        while !self.rest.is_empty() {
            let line = match memchr(b'\n', self.rest.as_bytes()) {
                Some(end) => {
                    let line = &self.rest[..end];
                    self.rest = &self.rest[end + 1..];
                    line
                }
                None => std::mem::take(&mut self.rest),
            };
            if line.len() > LINE_BYTES_MAX {
                return Some(Err((BadLine::TooLong, Excerpt::of(line))));
            }
            let line = line.strip_suffix('\r').unwrap_or(line);
            if !line.is_empty() {
                return Some(Ok(line));
            }
        }
        None
    }
}

/// Cuts a stream of bytes, arriving in chunks of any size, into lines. Holds at most
/// [`LINE_BYTES_MAX`] bytes and one chunk.
#[derive(Debug, Default)]
pub struct LineBuffer {
    /// The line that has begun but not ended; once too long, only its start.
    begun: Vec<u8>,
    /// Bytes of that line so far, those no longer held included.
    begun_bytes: usize,
}

impl LineBuffer {
    /// Takes the next chunk and hands every line that it completes to `on_line`, in order.
    pub fn push(&mut self, mut chunk: &[u8], on_line: &mut dyn FnMut(Line<'_>)) {
        while let Some(end) = memchr(b'\n', chunk) {
            let (head, rest) = (&chunk[..end], &chunk[end + 1..]);
            chunk = rest;
            if self.begun_bytes == 0 {
                emit(head, head.len(), on_line);
            } else {
                self.hold(head);
                emit(&self.begun, self.begun_bytes, on_line);
                self.begun.clear();
                self.begun_bytes = 0;
            }
        }
        self.hold(chunk);
    }

    /// Whether the line that has begun does not end.
    pub fn is_endless(&self) -> bool {
        self.begun_bytes >= ENDLESS_BYTES_MIN
    }

    fn hold(&mut self, bytes: &[u8]) {
        self.begun_bytes += bytes.len();
        if self.begun_bytes <= LINE_BYTES_MAX {
            self.begun.extend_from_slice(bytes);
        } else {
            // Enough for a log and for the tag; the line will be refused whatever follows.
            let room = EXCERPT_BYTES_MAX.saturating_sub(self.begun.len()).min(bytes.len());
            self.begun.extend_from_slice(&bytes[..room]);
            self.begun.truncate(EXCERPT_BYTES_MAX);
        }
    }
}

fn emit(line: &[u8], whole_bytes: usize, on_line: &mut dyn FnMut(Line<'_>)) {
    if whole_bytes > LINE_BYTES_MAX {
        let head = &line[..line.len().min(EXCERPT_BYTES_MAX)];
        return on_line(Err((BadLine::TooLong, Excerpt(head))));
    }
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return;
    }
    match std::str::from_utf8(line) {
        Ok(line) => on_line(Ok(line)),
        Err(_) => on_line(Err((BadLine::NotUtf8, Excerpt(line)))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(text: &str) -> Vec<String> {
        message_lines(text).map(|line| line.expect("no line of these tests is bad").to_owned()).collect()
    }

    /// Lines of a byte stream that arrives in `chunks`, bad ones as their error and excerpt.
    fn stream<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
        let (mut buffer, mut lines) = (LineBuffer::default(), Vec::new());
        for chunk in chunks {
            buffer.push(chunk, &mut |line| {
                lines.push(match line {
                    Ok(line) => line.to_owned(),
                    Err((why, head)) => format!("{why}: {head}"),
                })
            });
        }
        lines
    }

    #[test]
    fn a_message_may_hold_many_lines_and_needs_no_last_line_end() {
        for (text, expected) in [
            ("", vec![]),
            ("\r\n", vec![]),
            ("\n\r\n\n", vec![]),
            ("PROBE", vec!["PROBE"]),
            ("PROBE\r\n", vec!["PROBE"]),
            ("PROBE\n", vec!["PROBE"]),
            ("WSOK\r\nCONOK,S,1,2,*\r\n", vec!["WSOK", "CONOK,S,1,2,*"]),
            ("A\r\n\r\nB\nC", vec!["A", "B", "C"]),
            ("A\r\r\nB", vec!["A\r", "B"]),
            ("A\rB\r\n", vec!["A\rB"]),
            ("é\r\n€", vec!["é", "€"]),
        ] {
            assert_eq!(message(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_line_ends_with_one_of_two_ends() {
        let next = |lines: &str| line_end(lines, 2);
        assert_eq!([next("ab\r\nc"), next("ab\nc"), next("ab\r\n")], [Some(4), Some(3), Some(4)]);
        assert_eq!([next("ab"), next("abc\n"), next("ab\r"), next("ab\r\r\n"), next("a")], [None; 5]);
    }

    #[test]
    fn the_rest_of_a_line_begins_with_no_tag() {
        for (message, rest) in [
            ("2\r\nU,1,1,c|d\r\n", Some("2")),
            ("|1.0851", Some("|1.0851")),
            (",1,1,a|b\n", Some(",1,1,a|b")),
            ("mited,filtered", Some("mited,filtered")),
            ("U,1,1,c|d", None),
            ("PROBE\r\n", None),
            ("HELLO", None),
            ("\r\n2\r\n", None),
            ("\n2", None),
            ("", None),
        ] {
            assert_eq!(rest_of_a_line(message), rest, "{message:?}");
        }
    }

    #[test]
    fn a_stream_holds_back_a_line_without_its_end() {
        assert_eq!(stream([b"A\r\nB".as_slice()]), ["A"]);
        assert_eq!(stream([b"A\r".as_slice(), b"\nB\r\n"]), ["A", "B"]);
        assert_eq!(stream([b"\xc3".as_slice(), b"\xa9\n"]), ["é"]);
    }

    #[test]
    fn a_bad_line_does_not_hide_the_next() {
        assert_eq!(stream([b"\xff,1\nB\n".as_slice()]), ["line is not UTF-8: \\xff,1", "B"]);
        let long = format!("U,{}\nB\n", "x".repeat(LINE_BYTES_MAX));
        for chunk_bytes in [1 << 10, 1 << 19, long.len()] {
            let lines = stream(long.as_bytes().chunks(chunk_bytes));
            assert_eq!(lines.len(), 2);
            assert!(lines[0].starts_with("line too long: U,xxx"), "{}", lines[0]);
            assert_eq!(lines[1], "B");
        }
        let mut lines = message_lines(&long);
        assert!(matches!(lines.next(), Some(Err((BadLine::TooLong, _)))));
        assert_eq!(lines.next(), Some(Ok("B")));
    }

    #[test]
    fn a_line_of_just_the_maximum_is_taken() {
        let line = format!("{}\n", "x".repeat(LINE_BYTES_MAX));
        assert_eq!(stream([line.as_bytes()])[0].len(), LINE_BYTES_MAX);
        assert_eq!(message(&line)[0].len(), LINE_BYTES_MAX);
    }

    #[test]
    fn an_excerpt_is_cut_and_printable() {
        assert_eq!(
            Excerpt::of("a\r\n\u{1b}[31m\"é\"\u{202e}").to_string(),
            "a\\r\\n\\u{1b}[31m\"é\"\\u{202e}"
        );
        let long = "é".repeat(150);
        assert_eq!(Excerpt::of(&long).to_string(), format!("{}… (300 bytes)", "é".repeat(100)));
    }

    proptest! {
        #[test]
        fn any_chunking_yields_the_same_lines(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b','), any::<u8>()], 0..200),
            cuts in proptest::collection::vec(0_usize..200, 0..20),
        ) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunked = stream(cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]));
            prop_assert_eq!(chunked, stream([bytes.as_slice()]));
        }

        #[test]
        fn a_message_and_a_stream_agree_once_every_line_is_ended(text in "([A-Zé,\r\n]{0,40}\n)?") {
            prop_assert_eq!(message(&text), stream([text.as_bytes()]));
        }
    }
}
