//! What the fuzzer calls: any bytes → use of this room, with everything asserted that must hold.
//!
//! The targets in `fuzz/` are thin shells around these functions, and a test replays their corpus.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use super::lines::{self, LineBuffer};
use super::notification::Notification;
use super::update::{self, Change, Changes};
use super::{Event, Lost, Options, SubscriptionSpec, TlcpSession, Transmit, Transport, Version};

/// Reads bytes as lines, as notifications, and as the values of an update: the first byte holds
/// the number of fields and whether it is the item's first update, the second where to cut.
///
/// # Panics
/// If chunking changes the lines, or the decoder and a plain one disagree.
pub fn decoder(bytes: &[u8]) {
    let [shape, cut, rest @ ..] = bytes else { return };
    let (fields, first) = (u16::from(shape & 15) + 1, shape & 16 != 0);
    let whole = stream([rest]);
    let (head, tail) = rest.split_at(usize::from(*cut) % (rest.len() + 1));
    assert_eq!(stream([head, tail]), whole, "chunking changes the lines");
    assert_eq!(stream(rest.chunks(usize::from(*cut).max(1))), whole, "chunking changes the lines");
    for line in rest.split(|&byte| byte == b'\n') {
        let text = String::from_utf8_lossy(line);
        match Notification::parse(&text) {
            Ok(notification) => {
                assert_eq!(notification.is_data(), super::notification::is_data(text.as_bytes()));
            }
            Err(error) => assert!(error.to_string().len() < 16 * lines::EXCERPT_BYTES_MAX),
        }
        let plain = plain_decode(&text, fields, first);
        let (mut changes, mut listed) = (vec![Change { field: 7, value: None }; usize::from(*cut)], None);
        let is_good = update::list(&text, fields, first, &mut changes)
            .and_then(|()| update::decoded(&changes, |changes| listed = Some(owned(&changes.into()))));
        assert_eq!(listed, plain, "{text:?} {is_good:?}");
        if let Some(changes) = update::plain(&text, fields) {
            assert_eq!(Some(owned(&changes)), plain_decode(&text, fields, false), "{text:?}");
        }
    }
    if let Ok(text) = str::from_utf8(rest) {
        let message: Vec<String> = lines::message_lines(text).map(|line| format!("{line:?}")).collect();
        let ended = [rest, b"\n"].concat();
        assert_eq!(message, stream([ended.as_slice()]), "a message is a stream with its last line ended");
    }
}

fn stream<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
    let (mut buffer, mut lines) = (LineBuffer::default(), Vec::new());
    chunks.into_iter().for_each(|chunk| buffer.push(chunk, &mut |line| lines.push(format!("{line:?}"))));
    lines
}

type Owned = Vec<(usize, Option<String>)>;

fn owned(changes: &Changes<'_>) -> Owned {
    changes.iter().map(|change| (change.field, change.value.map(str::to_owned))).collect()
}

/// The rules of an update's values, token by token.
fn plain_decode(values: &str, fields: u16, first: bool) -> Option<Owned> {
    let (mut changes, mut field) = (Vec::new(), 0);
    for token in values.split('|') {
        match token {
            "" => {}
            "#" => changes.push((field, None)),
            "$" => changes.push((field, Some(String::new()))),
            _ => match token.strip_prefix('^') {
                Some(digits) => {
                    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
                    let run = digits.trim_start_matches('0');
                    // Longer ones overrun any schema.
                    let run: usize = if run.len() < 9 { run.parse().ok()? } else { usize::from(fields) + 1 };
                    if !is_number || run > usize::from(fields) {
                        return None;
                    }
                    field += run - 1;
                }
                None => changes.push((field, Some(plain_text(token)?.into_owned()))),
            },
        }
        field += 1;
    }
    let is_whole = field == usize::from(fields) && !(first && changes.len() < field);
    is_whole.then_some(changes)
}

fn plain_text(token: &str) -> Option<Cow<'_, str>> {
    let mut parts = token.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (code, rest) = (part.get(..2)?, &part[2..]);
        if !code.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(code, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// Drives a session by a schedule of steps, separated by a zero byte. The first byte of a step
/// says what it is, the others are its argument:
///
/// | first | step |
/// |---|---|
/// | `S`, `H`, `A` | a message, bytes of a stream, an answer |
/// | `+` | so many milliseconds pass, with the timeouts on the way |
/// | `c`, `u`, `r` | the connection is lost: closed, unreachable, refused |
/// | `n`, `o` | a connection is being made, is there |
/// | `s`, `x`, `y` | subscribe, unsubscribe, subscribe anew, by the argument's first byte |
/// | `d` | destroy |
/// | `q` | from now on nobody takes what is to be sent, or again |
/// | `h`, `1`, `f` | options, where they begin the schedule: HTTP, version 2.1.0, one transport alone |
///
/// # Panics
/// If something does not hold that must.
pub fn session(bytes: &[u8], now: Instant) {
    let mut steps = bytes.split(|&byte| byte == 0).peekable();
    let mut options = Options { inactivity: Some(Duration::from_secs(10)), ..Options::default() };
    options.websocket_again = Duration::from_secs(20);
    while let Some([option @ (b'h' | b'1' | b'f')]) = steps.peek() {
        match option {
            b'h' => options.transport = Transport::Http,
            b'1' => options.version = Version::V2_1_0,
            _ => options.both_transports = false,
        }
        steps.next();
    }
    let mut play = Play {
        session: TlcpSession::new(options, "user".to_owned(), "password".to_owned()),
        now,
        told: Told::default(),
        handles: Vec::new(),
        is_stuck: false,
    };
    for step in steps {
        if let [kind, argument @ ..] = step {
            play.step(*kind, argument);
            play.check();
        }
    }
}

struct Play {
    session: TlcpSession,
    now: Instant,
    told: Told,
    handles: Vec<super::SubId>,
    is_stuck: bool,
}

#[derive(Default)]
struct Told {
    ended: bool,
    data_before: u64,
}

impl Told {
    fn take(&mut self, event: &Event<'_>) {
        assert!(!self.ended, "nothing follows the end");
        match event {
            // As many fields as its tag says.
            Event::Update { tag, changes, item, first } => {
                let fields = usize::from(tag % 4 + 1);
                assert!(changes.iter().is_sorted_by(|one, next| one.field < next.field));
                assert!(changes.iter().all(|change| change.field < fields));
                assert!(*item > 0 && !(*first && changes.iter().count() < fields));
            }
            Event::Ended { .. } => self.ended = true,
            _ => {}
        }
    }
}

impl Play {
    fn step(&mut self, kind: u8, argument: &[u8]) {
        let Play { session, now, told, handles, is_stuck } = self;
        let tag = argument.first().map_or(0, |&byte| u16::from(byte % 16));
        let on_event = &mut |event: Event<'_>| told.take(&event);
        match kind {
            b'S' => session.handle_message(*now, &String::from_utf8_lossy(argument), on_event),
            b'A' => session.handle_answer(*now, &String::from_utf8_lossy(argument), on_event),
            b'H' => session.handle_bytes(*now, argument, on_event),
            b'c' => session.handle_closed(*now, Lost::Closed, on_event),
            b'u' => session.handle_closed(*now, Lost::Unreachable, on_event),
            b'r' => session.handle_closed(*now, Lost::Refused, on_event),
            b'n' => session.handle_connecting(*now),
            b'o' => session.handle_open(*now),
            b's' => handles.push(session.subscribe(SubscriptionSpec {
                group: format!("i{tag}"),
                schema: "A B C D"[..usize::from(tag % 4) * 2 + 1].to_owned(),
                fields: tag % 4 + 1,
                snapshot: tag & 4 != 0,
                unfiltered: tag & 8 != 0,
                tag,
            })),
            b'x' => handles.get(usize::from(tag)).into_iter().for_each(|&handle| session.unsubscribe(handle)),
            b'y' => {
                session.resubscribe(*now, tag);
            }
            b'd' => session.destroy(),
            b'q' => *is_stuck = !*is_stuck,
            b'+' => self.pass(argument),
            _ => {}
        }
        if !self.is_stuck {
            self.transmit();
        }
    }

    /// At most a minute.
    fn pass(&mut self, millis: &[u8]) {
        let digits = millis.iter().take_while(|byte| byte.is_ascii_digit());
        let millis = digits.take(6).fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
        let end = self.now + Duration::from_millis(millis.min(60_000));
        while let Some(at) = self.session.next_timeout().filter(|&at| at <= end) {
            self.now = at.max(self.now);
            self.session.handle_timeout(self.now, &mut |event| self.told.take(&event));
            assert!(self.session.next_timeout().is_none_or(|next| next > self.now), "what was due is done");
            if !self.is_stuck {
                self.transmit();
            }
        }
        self.now = end;
    }

    fn transmit(&mut self) {
        while let Some(transmit) = self.session.poll_transmit() {
            assert!(self.session.wanted().is_none() && !self.session.is_ended(), "nobody could take it");
            let transport = match transmit {
                Transmit::Message(_) => Transport::WebSocket,
                Transmit::Post(_) => Transport::Http,
            };
            assert_eq!(transport, self.session.transport());
        }
    }

    fn check(&mut self) {
        self.session.assert_sound();
        let data = self.session.data_count();
        assert!(data >= self.told.data_before, "the count of data never falls");
        self.told.data_before = data;
        assert_eq!(self.session.is_ended(), self.told.ended, "the end is told");
        assert!(
            !self.told.ended || (self.session.wanted().is_none() && self.session.next_timeout().is_none())
        );
        let shown = format!("{:?}", self.session);
        assert!(!shown.contains("password"));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "an Instant has no other source; only distances matter")]
    fn base() -> Instant {
        Instant::now()
    }

    /// Plays every file of a target's corpus, and returns how many there are.
    fn replay(target: &str, play: impl Fn(&[u8])) -> usize {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let files = fs::read_dir(corpus).expect("the corpus is part of the repository");
        files
            .map(|file| {
                let path = file.expect("a file").path();
                println!("{}", path.display());
                play(&fs::read(path).expect("readable"));
            })
            .count()
    }

    #[test]
    fn the_whole_corpus_holds() {
        assert!(replay("decoder", decoder) >= 24);
        assert!(replay("session", |bytes| session(bytes, base())) >= 24);
    }
}
