//! The file: a header, then one JSON object a line.

use std::io::{self, BufRead};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Version of the format that is written, and the newest that is read.
pub const FORMAT_VERSION: u32 = 1;
/// Longest line read: above the longest answer and the longest message of a stream.
const LINE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The first line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the format; also what tells a transcript from other files.
    pub candlekeep_transcript: u32,
    /// Who wrote it.
    pub program: String,
    /// Wall time from which the lines count, ISO 8601, UTC.
    pub started: String,
    /// How the program was set up, without secrets.
    pub config: Value,
}

/// Any other line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Monotonic milliseconds since the start.
    pub ms: u64,
    /// What happened then.
    #[serde(flatten)]
    pub entry: Entry,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// A REST request went out.
    Request(Request),
    /// Its answer came.
    Answer(Answer),
    /// No answer came.
    Failure(Failure),
    /// A stream's connection was made.
    Opened(Opened),
    /// A request went out on a stream.
    Sent(Text),
    /// A message came in on a stream.
    Received(Text),
    /// A stream's connection ended.
    Closed(Closed),
    /// Here entries are missing, because the disk was slower than the stream.
    Dropped {
        /// How many.
        count: u64,
    },
    /// The recording ends here.
    Ended {
        /// Why.
        why: String,
    },
}

/// A REST request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Ties the answer to it.
    pub id: u64,
    /// Method.
    pub method: String,
    /// Path below the base address, with its query.
    pub path: String,
    /// Header `VERSION`.
    pub version: u8,
    /// Body.
    #[serde(flatten)]
    pub body: Body,
}

/// The answer to a REST request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The request's.
    pub id: u64,
    /// HTTP status.
    pub status: u16,
    /// The headers that matter.
    #[serde(flatten)]
    pub headers: Headers,
    /// Body.
    #[serde(flatten)]
    pub body: Body,
    /// Milliseconds from the request to the whole answer.
    pub took_ms: u64,
}

/// Headers of an answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Headers {
    /// `Date`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// `Content-Type`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// `CST`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cst: Option<String>,
    /// `X-SECURITY-TOKEN`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xst: Option<String>,
}

/// A body, as far as it may be shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Body {
    /// Its text; none where there was no body or it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Size of a body that is left out, because nobody can say what is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out_bytes: Option<usize>,
}

/// A REST request without an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// The request's.
    pub id: u64,
    /// Why.
    pub why: String,
    /// Milliseconds from the request on.
    pub took_ms: u64,
}

/// How a stream is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SocketKind {
    /// WebSocket.
    Ws,
    /// HTTP streaming.
    Http,
}

/// A stream's connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// Number of the connection.
    pub socket: u64,
    /// What it is.
    pub kind: SocketKind,
    /// Where it leads.
    pub url: String,
}

/// Words on a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Text {
    /// Number of the connection.
    pub socket: u64,
    /// The words: a message of a WebSocket; of HTTP, whole lines, but for one in which the
    /// connection broke. What is asked beside an HTTP stream, and the answers, stand here too, in
    /// the form that they would have on a WebSocket.
    pub text: String,
}

/// The end of a stream's connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Closed {
    /// Number of the connection.
    pub socket: u64,
    /// Why.
    pub why: String,
}

/// Writes one line, its end included.
pub fn write(value: &impl Serialize) -> String {
    let mut line = serde_json::to_string(value).expect("text, numbers and names of members make JSON");
    line.push('\n');
    line
}

/// A transcript in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Transcript {
    /// What stands at its head.
    pub header: Header,
    /// What happened, in order.
    pub lines: Vec<Line>,
    /// Whether the last line is cut off, as a killed program leaves it.
    pub cut_short: bool,
}

/// Why a file is no transcript.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error("line {line}: {source}")]
    Unreadable {
        /// Counted from 1.
        line: usize,
        /// Why.
        source: io::Error,
    },
    /// Its first line is something else.
    #[error("line 1: not the head of a transcript ({why})")]
    NotATranscript {
        /// What the reader of JSON says.
        why: String,
    },
    /// A later program wrote it.
    #[error("line 1: format version {found}, and this program reads {FORMAT_VERSION}")]
    Newer {
        /// Its version.
        found: u32,
    },
    /// A line is not as it should be.
    #[error("line {line}: {why}")]
    Malformed {
        /// Counted from 1.
        line: usize,
        /// What the reader of JSON says.
        why: String,
    },
    /// A line has no end.
    #[error("line {line}: longer than {LINE_BYTES_MAX} bytes")]
    TooLong {
        /// Counted from 1.
        line: usize,
    },
}

impl Transcript {
    /// Reads a whole transcript. Empty lines are passed over, and so is a last line that is cut off.
    ///
    /// # Errors
    /// [`ReadError`], with the number of the line.
    pub fn read(mut source: impl BufRead) -> Result<Transcript, ReadError> {
        let mut header = None;
        let mut lines = Vec::new();
        let mut cut_short = false;
        let mut bytes = Vec::new();
        for number in 1.. {
            bytes.clear();
            let mut limited = io::Read::take(&mut source, LINE_BYTES_MAX);
            let read = limited
                .read_until(b'\n', &mut bytes)
                .map_err(|source| ReadError::Unreadable { line: number, source })?;
            if read == 0 {
                break;
            }
            let is_whole = bytes.ends_with(b"\n");
            if !is_whole && read as u64 == LINE_BYTES_MAX {
                return Err(ReadError::TooLong { line: number });
            }
            if header.is_none() {
                header = Some(read_header(&bytes)?);
            } else if !bytes.trim_ascii().is_empty() {
                match serde_json::from_slice::<Line>(bytes.trim_ascii_end()) {
                    Ok(line) => lines.push(line),
                    Err(_) if !is_whole => cut_short = true,
                    Err(error) => {
                        return Err(ReadError::Malformed { line: number, why: json_says(&error) });
                    }
                }
            }
        }
        let header = header.ok_or(ReadError::NotATranscript { why: "it is empty".to_owned() })?;
        Ok(Transcript { header, lines, cut_short })
    }
}

fn read_header(bytes: &[u8]) -> Result<Header, ReadError> {
    /// What every version has.
    #[derive(Deserialize)]
    struct Versioned {
        candlekeep_transcript: u32,
    }
    let not_a_transcript = |error: serde_json::Error| ReadError::NotATranscript { why: json_says(&error) };
    let Versioned { candlekeep_transcript: found } =
        serde_json::from_slice(bytes.trim_ascii_end()).map_err(not_a_transcript)?;
    if found > FORMAT_VERSION {
        return Err(ReadError::Newer { found });
    }
    serde_json::from_slice(bytes.trim_ascii_end()).map_err(not_a_transcript)
}

/// The reader of JSON counts lines of its own, and has never seen more than one.
fn json_says(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: &str = r#"{"candlekeep_transcript":1,"program":"candlekeep 0.1.0","started":"2026-01-05T00:00:00Z","config":{}}"#;

    #[test]
    fn lines_look_like_this() {
        let body = Body { body: Some("{}".to_owned()), left_out_bytes: None };
        let headers = Headers { cst: Some("CST-1".to_owned()), ..Headers::default() };
        for (entry, expected) in [
            (
                Entry::Request(Request {
                    id: 1,
                    method: "GET".into(),
                    path: "/session".into(),
                    version: 1,
                    body: Body::default(),
                }),
                r#"{"ms":7,"request":{"id":1,"method":"GET","path":"/session","version":1}}"#,
            ),
            (
                Entry::Answer(Answer { id: 1, status: 200, headers, body, took_ms: 12 }),
                r#"{"ms":7,"answer":{"id":1,"status":200,"cst":"CST-1","body":"{}","took_ms":12}}"#,
            ),
            (
                Entry::Failure(Failure { id: 2, why: "timeout".into(), took_ms: 30_000 }),
                r#"{"ms":7,"failure":{"id":2,"why":"timeout","took_ms":30000}}"#,
            ),
            (
                Entry::Opened(Opened {
                    socket: 1,
                    kind: SocketKind::Ws,
                    url: "wss://h/lightstreamer".into(),
                }),
                r#"{"ms":7,"opened":{"socket":1,"kind":"ws","url":"wss://h/lightstreamer"}}"#,
            ),
            (
                Entry::Sent(Text { socket: 1, text: "wsok".into() }),
                r#"{"ms":7,"sent":{"socket":1,"text":"wsok"}}"#,
            ),
            (
                Entry::Received(Text { socket: 1, text: "WSOK\r\n".into() }),
                r#"{"ms":7,"received":{"socket":1,"text":"WSOK\r\n"}}"#,
            ),
            (
                Entry::Closed(Closed { socket: 1, why: "cut".into() }),
                r#"{"ms":7,"closed":{"socket":1,"why":"cut"}}"#,
            ),
            (Entry::Dropped { count: 3 }, r#"{"ms":7,"dropped":{"count":3}}"#),
            (Entry::Ended { why: "told to stop".into() }, r#"{"ms":7,"ended":{"why":"told to stop"}}"#),
        ] {
            let line = Line { ms: 7, entry };
            assert_eq!(write(&line), format!("{expected}\n"));
            assert_eq!(serde_json::from_str::<Line>(expected).unwrap(), line);
        }
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let outcome = match Transcript::read(text.as_bytes()) {
            Ok(read) => {
                format!("{} lines{}", read.lines.len(), if read.cut_short { ", cut short" } else { "" })
            }
            Err(error) => error.to_string(),
        };
        assert!(outcome.starts_with(expected), "{outcome}");
    }

    #[test]
    fn what_is_wrong_is_told_with_the_number_of_the_line() {
        let dropped = r#"{"ms":1,"dropped":{"count":1}}"#;
        check(HEAD, "0 lines");
        check(&format!("{HEAD}\n{dropped}\r\n\n{dropped}"), "2 lines");
        check(&format!("{HEAD}\n{dropped}\n{{\"ms\":2,\"rece"), "1 lines, cut short");
        check("", "line 1: not the head of a transcript (it is empty)");
        check("pair,time_ms\n", "line 1: not the head of a transcript (expected value");
        check("{\"ms\":1}\n", "line 1: not the head of a transcript (missing field `candlekeep_transcript`");
        check(
            "{\"candlekeep_transcript\":2,\"new\":1}\n",
            "line 1: format version 2, and this program reads 1",
        );
        check(&format!("{HEAD}\n{dropped}\n\n{{\"ms\":2,\"rece\n{dropped}\n"), "line 4: EOF");
        check(&format!("{HEAD}\n{{\"ms\":2,\"heard\":{{}}}}\n"), "line 2: ");
        check(&format!("{HEAD}\n{{\"ms\":-1,\"dropped\":{{\"count\":1}}}}\n"), "line 2: invalid value");
    }

    proptest! {
        #[test]
        fn any_text_is_one_line_and_comes_back(text in any::<String>(), ms in any::<u64>()) {
            let line = Line { ms, entry: Entry::Received(Text { socket: 9, text }) };
            let written = write(&line);
            prop_assert_eq!(written.matches('\n').count(), 1);
            let read = Transcript::read(format!("{HEAD}\n{written}").as_bytes()).unwrap();
            prop_assert_eq!(read.lines, vec![line]);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in any::<Vec<u8>>()) {
            let _ = Transcript::read([HEAD.as_bytes(), b"\n", &bytes].concat().as_slice());
        }
    }
}
