//! A server that sends what no client can use, without an end, in the place of the simulator.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use actix_http::ws::hash_key;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::proxy::{Proxy, StandIn};

/// What a REST API answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Headers without an end.
    Heads,
    /// Interim answers without an end.
    Interim,
    /// A head that comes by a byte a second.
    SlowHead,
    /// JSON without an end, in chunks.
    Endless,
    /// A gibibyte, announced and sent.
    Gibibyte,
    /// An array in arrays in arrays.
    Deep,
    /// Zeros, compressed to a thousandth.
    Zipped,
    /// A chunk of more bytes than there are.
    HugeChunk,
    /// A body that comes by a byte a second.
    SlowBody,
    /// Random bytes from the beginning.
    Noise,
}

/// What comes on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Messages of text without a line's end, as long as a client may be expected to take.
    LongMessages,
    /// A message in parts without a last one.
    Parts,
    /// The same, of a byte each.
    Crumbs,
    /// Messages of nothing but ends of lines.
    Newlines,
    /// Messages of nothing at all.
    Nothing,
    /// A frame that is announced with more bytes than there are.
    Huge,
    /// A frame that does not come to its end: a byte a second.
    Slow,
    /// Pings.
    Pings,
    /// Updates of items that are there, with random values.
    Updates,
    /// Notifications that are known, of things that are not, with numbers of every size.
    Notifications,
    /// Lines with unknown tags.
    Tags,
    /// Random bytes in the place of frames.
    Noise,
    /// The connection is closed when it has been made.
    Closed,
}

/// To whom what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hostile {
    /// To requests below the base address.
    Rest(Rest),
    /// On a stream over a WebSocket.
    WebSocket(Stream),
    /// On a stream over HTTP.
    Http(Stream),
}

/// Everything.
pub const REST: [Rest; 10] = [
    Rest::Heads,
    Rest::Interim,
    Rest::SlowHead,
    Rest::Endless,
    Rest::Gibibyte,
    Rest::Deep,
    Rest::Zipped,
    Rest::HugeChunk,
    Rest::SlowBody,
    Rest::Noise,
];
/// Everything that a WebSocket can bring.
pub const STREAM: [Stream; 13] = [
    Stream::LongMessages,
    Stream::Parts,
    Stream::Crumbs,
    Stream::Newlines,
    Stream::Nothing,
    Stream::Huge,
    Stream::Slow,
    Stream::Pings,
    Stream::Updates,
    Stream::Notifications,
    Stream::Tags,
    Stream::Noise,
    Stream::Closed,
];
/// Everything that a body over HTTP can bring.
pub const HTTP: [Stream; 8] = [
    Stream::LongMessages,
    Stream::Newlines,
    Stream::Huge,
    Stream::Slow,
    Stream::Updates,
    Stream::Notifications,
    Stream::Tags,
    Stream::Noise,
];

/// Bytes of a request's head that are looked at.
const HEAD_MAX: usize = 8 * 1024;
/// Longest frame that a client may be expected to take.
const FRAME: usize = 8 << 20;
/// Bytes that are written in one go.
const PIECE: usize = 64 << 10;
/// A client says within this what it wants.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Nothing is written for longer than this without a look whether it is over.
const WRITE_TIMEOUT: Duration = Duration::from_millis(200);
/// Pause of whoever is slow.
const SLOW: Duration = Duration::from_secs(1);

/// A network whose server can be taken over.
pub struct Siege {
    proxy: Proxy,
    over: Arc<AtomicBool>,
    seen: Arc<Seen>,
}

/// What has come of it.
#[derive(Debug, Default)]
pub struct Seen {
    /// Connections that were answered by it.
    pub connections: AtomicU64,
    /// Bytes that were sent.
    pub bytes: AtomicU64,
}

impl Siege {
    /// Leads to a port of this machine, with nothing wrong yet.
    pub fn new(server_port: u16) -> Siege {
        let over = Arc::new(AtomicBool::new(true));
        Siege { proxy: Proxy::start(server_port), over, seen: Arc::default() }
    }

    /// An address, by way of it.
    pub fn lead(&self, address: &str) -> String {
        self.proxy.lead(address)
    }

    /// From now on this is what is sent. Connections that are there are closed.
    pub fn begin(&mut self, what: Hostile) {
        let (over, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Seen::default()));
        (self.over, self.seen) = (over.clone(), seen.clone());
        let stand_in: StandIn = Arc::new(move |client| {
            let attack = Attack { client, over: over.clone(), seen: seen.clone() };
            attack.take(what)
        });
        self.proxy.answer(Some(stand_in));
    }

    /// What was sent since it began, and to how many.
    pub fn seen(&self) -> (u64, u64) {
        (self.seen.connections.load(Ordering::SeqCst), self.seen.bytes.load(Ordering::SeqCst))
    }

    /// The server answers again.
    pub fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.proxy.answer(None);
    }
}

impl Drop for Siege {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

/// One connection under attack.
struct Attack {
    client: TcpStream,
    over: Arc<AtomicBool>,
    seen: Arc<Seen>,
}

impl Attack {
    /// Answers, where the connection is of the kind that is meant; else hands it back.
    fn take(mut self, what: Hostile) -> Option<(TcpStream, Vec<u8>)> {
        let head = self.head().ok()?;
        let text = String::from_utf8_lossy(&head).into_owned();
        let is_rest = text.lines().next().is_some_and(|line| line.contains(" /gateway/"));
        let is_websocket = header(&text, "sec-websocket-key").is_some();
        let is_meant = match what {
            Hostile::Rest(_) => is_rest,
            Hostile::WebSocket(_) => is_websocket,
            Hostile::Http(_) => !is_rest && !is_websocket,
        };
        if !is_meant {
            // A connection that was kept could bring anything next.
            let first =
                if is_rest { text.replacen("\r\n", "\r\nConnection: close\r\n", 1).into() } else { head };
            return Some((self.client, first));
        }
        self.seen.connections.fetch_add(1, Ordering::SeqCst);
        let _ = self.client.set_write_timeout(Some(WRITE_TIMEOUT));
        // An error is a client that has had enough.
        let _ = match what {
            Hostile::Rest(what) => self.rest(what),
            Hostile::WebSocket(what) => self.websocket(what, &text),
            Hostile::Http(what) => self.http(what, &text),
        };
        let _ = self.client.shutdown(Shutdown::Both);
        None
    }

    /// The request's head, and what of its body has come.
    fn head(&mut self) -> io::Result<Vec<u8>> {
        let (mut head, mut bytes) = (Vec::new(), [0; HEAD_MAX]);
        self.client.set_read_timeout(Some(READ_TIMEOUT))?;
        while memchr::memmem::find(&head, b"\r\n\r\n").is_none() {
            let length = self.read(&mut bytes)?;
            head.extend_from_slice(&bytes[..length]);
        }
        Ok(head)
    }

    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self.client.read(bytes)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            length => Ok(length),
        }
    }

    /// Writes all of it, unless it is over.
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.over.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            match self.client.write(bytes) {
                Ok(written) => {
                    self.seen.bytes.fetch_add(written as u64, Ordering::SeqCst);
                    bytes = &bytes[written..];
                }
                Err(error)
                    if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind()) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes it again and again.
    fn for_ever(&mut self, mut piece: impl FnMut() -> Vec<u8>) -> io::Result<()> {
        loop {
            let piece = piece();
            self.write(&piece)?;
        }
    }

    /// Writes a byte a second, until there are no more.
    fn slowly(&mut self, bytes: &[u8]) -> io::Result<()> {
        for byte in bytes {
            self.write(&[*byte])?;
            thread::sleep(SLOW);
        }
        Ok(())
    }

    fn rest(&mut self, what: Rest) -> io::Result<()> {
        const JSON: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
        match what {
            Rest::Heads => {
                self.write(JSON)?;
                let mut count = 0;
                self.for_ever(|| {
                    count += 1;
                    format!("X-Header-{count}: {}\r\n", "x".repeat(100)).into_bytes()
                })
            }
            Rest::Interim => self.for_ever(|| b"HTTP/1.1 100 Continue\r\n\r\n".repeat(1_000)),
            Rest::SlowHead => {
                let head = [JSON, b"Content-Length: 2\r\n\r\n{}"].concat();
                self.slowly(&head.repeat(100))
            }
            Rest::Endless => {
                self.write(JSON)?;
                self.write(b"Transfer-Encoding: chunked\r\n\r\n9\r\n{\"list\":[\r\n")?;
                let numbers = b"1,".repeat(PIECE / 2);
                let chunk = [format!("{:x}\r\n", numbers.len()).as_bytes(), &numbers, b"\r\n"].concat();
                self.for_ever(|| chunk.clone())
            }
            Rest::Gibibyte => {
                self.write(JSON)?;
                self.write(b"Content-Length: 1073741824\r\n\r\n")?;
                for _ in 0..(1 << 30) / PIECE {
                    self.write(&[b' '; PIECE])?;
                }
                Ok(())
            }
            Rest::Deep => {
                let deep = b"[".repeat(1 << 20);
                self.write(JSON)?;
                self.write(format!("Content-Length: {}\r\n\r\n", deep.len()).as_bytes())?;
                self.write(&deep)
            }
            Rest::Zipped => {
                let mut zipped = GzEncoder::new(Vec::new(), Compression::best());
                for _ in 0..(256 << 20) / PIECE {
                    zipped.write_all(&[b' '; PIECE])?;
                }
                let zipped = zipped.finish()?;
                self.write(JSON)?;
                let head = format!("Content-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", zipped.len());
                self.write(head.as_bytes())?;
                self.write(&zipped)
            }
            Rest::HugeChunk => {
                self.write(JSON)?;
                self.write(b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffff0\r\n")?;
                self.for_ever(|| vec![b' '; PIECE])
            }
            Rest::SlowBody => {
                self.write(JSON)?;
                self.write(b"Content-Length: 1000\r\n\r\n")?;
                self.slowly(&[b' '; 1000])
            }
            Rest::Noise => self.noise(),
        }
    }

    fn noise(&mut self) -> io::Result<()> {
        let mut random = fastrand::Rng::with_seed(1);
        self.for_ever(|| (0..PIECE).map(|_| random.u8(..)).collect())
    }

    /// A WebSocket on which a session is made first.
    fn websocket(&mut self, what: Stream, head: &str) -> io::Result<()> {
        let accept = hash_key(header(head, "sec-websocket-key").unwrap_or_default().as_bytes());
        let switched = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: {}\r\n\r\n",
            String::from_utf8_lossy(&accept),
            header(head, "sec-websocket-protocol").unwrap_or_default()
        );
        self.write(switched.as_bytes())?;
        self.write(&frame(TEXT, true, b"WSOK\r\n"))?;
        let mut said = String::new();
        let mut bytes = [0; HEAD_MAX];
        while !said.contains("_session") {
            let length = self.read(&mut bytes)?;
            said.push_str(&unmasked(&bytes[..length]));
        }
        let begun = if said.contains("bind_session") { REFUSED } else { CREATED };
        self.write(&frame(TEXT, true, begun))?;
        match what {
            _ if begun == REFUSED => Ok(()),
            Stream::LongMessages => {
                let message = frame(TEXT, true, &vec![b'x'; FRAME]);
                self.for_ever(|| message.clone())
            }
            Stream::Parts | Stream::Crumbs => {
                self.write(&frame(TEXT, false, b"U,1,1,"))?;
                let (size, count) = if what == Stream::Parts { (PIECE, 1) } else { (1, 1_000) };
                let part = frame(CONTINUATION, false, &vec![b'x'; size]).repeat(count);
                self.for_ever(|| part.clone())
            }
            Stream::Huge => {
                self.write(&[0x80 | TEXT, 127])?;
                self.write(&(1_u64 << 62).to_be_bytes())?;
                self.for_ever(|| vec![b'x'; PIECE])
            }
            Stream::Slow => {
                self.write(&[0x80 | TEXT, 127])?;
                self.write(&(FRAME as u64).to_be_bytes())?;
                self.slowly(&[b'x'; 1_000])
            }
            Stream::Pings => {
                let pings = frame(PING, true, &[b'x'; 125]).repeat(500);
                self.for_ever(|| pings.clone())
            }
            Stream::Nothing => {
                let nothing = frame(TEXT, true, b"").repeat(10_000);
                self.for_ever(|| nothing.clone())
            }
            Stream::Noise => self.noise(),
            Stream::Closed => Ok(()),
            lines => {
                let mut lines = lines_of(lines);
                self.for_ever(|| frame(TEXT, true, &lines()))
            }
        }
    }

    /// A stream over HTTP on which a session is made first; what is asked beside it is answered by the rest.
    fn http(&mut self, what: Stream, head: &str) -> io::Result<()> {
        self.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/enriched\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        let begun = if head.contains("/bind_session") { REFUSED } else { CREATED };
        if head.contains("_session.txt") {
            self.write(&chunk(begun))?;
        }
        match what {
            _ if begun == REFUSED => self.write(b"0\r\n\r\n"),
            Stream::LongMessages => self.for_ever(|| chunk(&[b'x'; PIECE])),
            Stream::Huge => {
                self.write(b"fffffffffffffff0\r\n")?;
                self.for_ever(|| vec![b'x'; PIECE])
            }
            Stream::Slow => {
                self.write(b"1000\r\n")?;
                self.slowly(&[b'x'; 1_000])
            }
            Stream::Noise => self.noise(),
            lines => {
                let mut lines = lines_of(lines);
                self.for_ever(|| chunk(&lines()))
            }
        }
    }
}

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const PING: u8 = 9;
/// What makes a session of a connection.
const CREATED: &[u8] = b"CONOK,Shostile,50000,5000,*\r\n";
/// What ends one that the true server has made.
const REFUSED: &[u8] = b"CONERR,20,Session not found\r\n";

/// A frame as a server sends it.
fn frame(code: u8, is_last: bool, bytes: &[u8]) -> Vec<u8> {
    let mut frame = vec![u8::from(is_last) << 7 | code];
    match bytes.len() {
        length @ 0..126 => frame.push(length as u8),
        length @ 126..65_536 => {
            frame.push(126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(bytes);
    frame
}

/// What a header says.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let headers = head.lines().filter_map(|line| line.split_once(": "));
    let mut found = headers.filter(|(known, _)| known.eq_ignore_ascii_case(name));
    found.next().map(|(_, value)| value.trim())
}

/// What short frames of a client say.
fn unmasked(mut frames: &[u8]) -> String {
    let mut text = Vec::new();
    while let [_, length, ..] = frames {
        let (length, mask_at) = match length & 0x7f {
            126 if frames.len() >= 4 => (usize::from(u16::from_be_bytes([frames[2], frames[3]])), 4),
            length => (usize::from(length), 2),
        };
        let Some(bytes) = frames.get(mask_at + 4..mask_at + 4 + length) else { break };
        let mask = &frames[mask_at..mask_at + 4];
        text.extend(bytes.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frames = &frames[mask_at + 4 + length..];
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// Lines of one kind, in messages of some kilobytes.
fn lines_of(what: Stream) -> impl FnMut() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(2);
    move || {
        let mut lines = String::new();
        while lines.len() < 16 * 1024 {
            lines.push_str(&line(what, &mut random));
            lines.push_str("\r\n");
        }
        lines.into_bytes()
    }
}

fn line(what: Stream, random: &mut fastrand::Rng) -> String {
    const TEXTS: [&str; 10] =
        ["", "#", "$", "1.1", "-1", "NaN", "1e308", "99999999999999999999", "^3", "1700000000000"];
    let some_text = |random: &mut fastrand::Rng| TEXTS[random.usize(..TEXTS.len())];
    match what {
        Stream::Newlines => String::new(),
        Stream::Updates => {
            let values: Vec<&str> = (0..random.usize(0..14)).map(|_| some_text(random)).collect();
            format!("U,{},{},{}", random.u32(0..30), random.u32(0..3), values.join("|"))
        }
        Stream::Notifications => {
            const TAGS: [&str; 16] = [
                "SUBOK", "SUBCMD", "UNSUB", "EOS", "CS", "OV", "CONF", "SYNC", "PROG", "NOOP", "PROBE",
                "CLIENTIP", "SERVNAME", "CONS", "REQOK", "REQERR",
            ];
            let arguments: Vec<&str> = (0..random.usize(0..6)).map(|_| some_text(random)).collect();
            format!("{},{}", TAGS[random.usize(..TAGS.len())], arguments.join(","))
        }
        _ => {
            let tag: String = (0..random.usize(1..12)).map(|_| random.uppercase()).collect();
            format!("{tag},{}", "x".repeat(random.usize(0..200)))
        }
    }
}
