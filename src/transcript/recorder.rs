//! The handle that rooms speak into, and the thread that redacts and writes.
//!
//! Speaking never waits for the disk. What finds the queue full is dropped, and the file says how
//! much is missing and where. REST and requests on streams are redacted at once, so that a secret
//! is known before it can turn up anywhere else; what streams bring, which is most, by the thread.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::format::{
    Answer, Body, Closed, Entry, FORMAT_VERSION, Failure, Header, Headers, Line, Opened, Request, SocketKind,
    Text, write,
};
use super::redact::Redactor;
use super::secrets::Kind;
use crate::clock::Clock;

/// Entries that may wait for the disk.
const QUEUE_MAX: usize = 16 * 1024;
/// Bytes that may wait for the disk.
const QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Largest file.
const FILE_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Space kept for the line that says that the file is full.
const LAST_WORDS_BYTES: u64 = 256;
/// Longest time that what was said stays in memory.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for the disk at the end.
const FINISH_WITHIN: Duration = Duration::from_secs(3);

/// Why nothing can be recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// There is something already, which is not overwritten.
    #[error("{} exists already: a recording needs a new file", .path.display())]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// The file cannot be made.
    #[error("cannot record to {}: {source}", .path.display())]
    Uncreatable {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// How much may wait and how much may be written.
#[derive(Clone, Copy, Debug)]
struct Limits {
    queue: usize,
    queue_bytes: usize,
    file_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { queue: QUEUE_MAX, queue_bytes: QUEUE_BYTES_MAX, file_bytes: FILE_BYTES_MAX }
    }
}

/// What rooms speak into; clones share one file. The default one is off and costs a branch.
#[derive(Clone, Default)]
pub struct Recorder(Option<Arc<Tape>>);

struct Tape {
    clock: Clock,
    started: Instant,
    queue: SyncSender<Queued>,
    limits: Limits,
    waiting_bytes: AtomicUsize,
    /// Entries dropped since the last one that was queued.
    dropped: AtomicU64,
    /// Nothing is written any more: the file is full, or the disk refuses.
    is_over: AtomicBool,
    next_request: AtomicU64,
    redactor: Mutex<Redactor>,
}

struct Queued {
    ms: u64,
    bytes: usize,
    /// How many were dropped before this one.
    dropped: u64,
    what: What,
}

enum What {
    /// Fit to be seen.
    Shown(Entry),
    /// Still to be redacted.
    Raw(Entry),
    Finish,
}

/// A REST request that is being recorded.
pub struct Asked<'a> {
    tape: &'a Tape,
    id: u64,
    since: Instant,
}

/// A recording under way; whoever holds it brings it to its end.
pub struct Recording {
    recorder: Recorder,
    finished: Receiver<()>,
}

impl Recording {
    /// Creates the file, readable by its owner alone, and the thread that writes it. `secrets` are
    /// what the user has configured; `config` is told in the header.
    ///
    /// # Errors
    /// A file that is there and not empty, or cannot be made.
    pub fn start(
        path: &Path,
        clock: Clock,
        secrets: &[(Kind, &str)],
        config: Value,
    ) -> Result<Recording, RecordError> {
        Recording::start_within(Limits::default(), path, clock, secrets, config)
    }

    fn start_within(
        limits: Limits,
        path: &Path,
        clock: Clock,
        secrets: &[(Kind, &str)],
        mut config: Value,
    ) -> Result<Recording, RecordError> {
        let uncreatable = |source| RecordError::Uncreatable { path: path.to_owned(), source };
        let file = create(path)?;
        let mut redactor = Redactor::default();
        secrets.iter().for_each(|(kind, value)| redactor.learn(*kind, value));
        redactor.conceal_all(&mut config);
        let header = Header {
            candlekeep_transcript: FORMAT_VERSION,
            program: concat!("candlekeep ", env!("CARGO_PKG_VERSION")).to_owned(),
            started: clock.wall().to_string(),
            config,
        };
        let (queue, queued) = sync_channel(limits.queue);
        let tape = Arc::new(Tape {
            started: clock.monotonic(),
            clock,
            queue,
            limits,
            waiting_bytes: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            next_request: AtomicU64::new(1),
            redactor: Mutex::new(redactor),
        });
        let mut writer = Writer { out: BufWriter::new(file), written: 0, tape: Arc::clone(&tape) };
        writer.line(&header).and_then(|()| writer.out.flush()).map_err(uncreatable)?;
        let (finishing, finished) = sync_channel(1);
        let run = move || {
            writer.run(&queued);
            // Nobody listens where the wait for it was too long.
            let _ = finishing.send(());
        };
        std::thread::Builder::new().name("candlekeep-recorder".to_owned()).spawn(run).map_err(uncreatable)?;
        Ok(Recording { recorder: Recorder(Some(tape)), finished })
    }

    /// What rooms speak into.
    pub fn recorder(&self) -> Recorder {
        self.recorder.clone()
    }

    /// Writes what waits and closes the file; gives up on a disk that does not take it in time.
    pub fn finish(self) {
        let Recorder(Some(tape)) = &self.recorder else { return };
        let finish = Queued { ms: tape.now_ms(), bytes: 0, dropped: 0, what: What::Finish };
        // With a full queue the thread looks at the flag below when it has come through.
        let _ = tape.queue.try_send(finish);
        tape.is_over.store(true, Ordering::Release);
        if self.finished.recv_timeout(FINISH_WITHIN).is_err() {
            log::warn!("the recording could not be written to its end");
        }
    }
}

fn create(path: &Path) -> Result<File, RecordError> {
    let uncreatable = |source| RecordError::Uncreatable { path: path.to_owned(), source };
    let exists = || RecordError::Exists { path: path.to_owned() };
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // Opening something else, a pipe for one, could wait for ever.
            if !std::fs::metadata(path).map_err(uncreatable)?.is_file() {
                return Err(exists());
            }
            let file = OpenOptions::new().write(true).open(path).map_err(uncreatable)?;
            if file.metadata().map_err(uncreatable)?.len() > 0 {
                return Err(exists());
            }
            file.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(uncreatable)?;
            Ok(file)
        }
        other => other.map_err(uncreatable),
    }
}

impl Recorder {
    /// Whether anything is written down, so that when it came matters.
    pub fn is_recording(&self) -> bool {
        self.tape().is_some()
    }

    /// A REST request goes out; `path` is below the base address, with its query. The answer is
    /// told to what this returns.
    pub fn asked(&self, method: &str, path: &str, version: u8, body: Option<&str>) -> Option<Asked<'_>> {
        let tape = self.tape()?;
        let id = tape.next_request.fetch_add(1, Ordering::Relaxed);
        let body = Body { body: body.map(str::to_owned), left_out_bytes: None };
        tape.push_shown(Entry::Request(Request {
            id,
            method: method.to_owned(),
            path: path.to_owned(),
            version,
            body,
        }));
        Some(Asked { tape, id, since: tape.clock.monotonic() })
    }

    /// A stream's connection was made. `socket` is a number that no other connection of this
    /// process has.
    pub fn stream_opened(&self, socket: u64, kind: SocketKind, url: &str) {
        if let Some(tape) = self.tape() {
            tape.push(What::Raw(Entry::Opened(Opened { socket, kind, url: url.to_owned() })));
        }
    }

    /// A request went out on a stream.
    pub fn stream_sent(&self, socket: u64, text: &str) {
        if let Some(tape) = self.tape() {
            tape.push_shown(Entry::Sent(Text { socket, text: text.to_owned() }));
        }
    }

    /// A message came in on a WebSocket, or any piece of an HTTP stream.
    pub fn stream_received(&self, socket: u64, text: &str) {
        if let Some(tape) = self.tape() {
            tape.push(What::Raw(Entry::Received(Text { socket, text: text.to_owned() })));
        }
    }

    /// A stream's connection ended.
    pub fn stream_closed(&self, socket: u64, why: &str) {
        if let Some(tape) = self.tape() {
            tape.push(What::Raw(Entry::Closed(Closed { socket, why: why.to_owned() })));
        }
    }

    /// The tape, while it runs.
    fn tape(&self) -> Option<&Tape> {
        self.0.as_deref().filter(|tape| !tape.is_over.load(Ordering::Relaxed))
    }
}

impl Asked<'_> {
    /// The answer came.
    pub fn answered(self, status: u16, headers: Headers, body: &[u8]) {
        let body = Body { body: Some(String::from_utf8_lossy(body).into_owned()), left_out_bytes: None };
        let took_ms = self.took_ms();
        self.tape.push_shown(Entry::Answer(Answer { id: self.id, status, headers, body, took_ms }));
    }

    /// No answer came.
    pub fn failed(self, why: &str) {
        let took_ms = self.took_ms();
        self.tape.push_shown(Entry::Failure(Failure { id: self.id, why: why.to_owned(), took_ms }));
    }

    fn took_ms(&self) -> u64 {
        milliseconds(self.tape.clock.monotonic().saturating_duration_since(self.since))
    }
}

impl Tape {
    fn now_ms(&self) -> u64 {
        milliseconds(self.clock.monotonic().saturating_duration_since(self.started))
    }

    /// Redacts at once.
    fn push_shown(&self, entry: Entry) {
        let mut shown = Vec::new();
        self.redact(entry, &mut shown);
        shown.into_iter().for_each(|entry| self.push(What::Shown(entry)));
    }

    /// Queues, or drops and counts.
    fn push(&self, what: What) {
        let bytes = size(&what);
        let ms = self.now_ms();
        let dropped = self.dropped.swap(0, Ordering::AcqRel);
        let waiting = self.waiting_bytes.fetch_add(bytes, Ordering::AcqRel);
        // One entry is taken whatever its size.
        let has_room = waiting == 0 || waiting + bytes <= self.limits.queue_bytes;
        if !has_room || self.queue.try_send(Queued { ms, bytes, dropped, what }).is_err() {
            self.waiting_bytes.fetch_sub(bytes, Ordering::AcqRel);
            self.dropped.fetch_add(dropped + 1, Ordering::AcqRel);
        }
    }

    fn redactor(&self) -> MutexGuard<'_, Redactor> {
        self.redactor.lock().expect("redacting does not panic")
    }

    fn redact(&self, entry: Entry, shown: &mut Vec<Entry>) {
        self.redactor().redact(entry, shown);
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// About how much memory an entry takes.
fn size(what: &What) -> usize {
    let text = match what {
        What::Shown(Entry::Answer(Answer { body, .. })) => body.body.as_ref().map_or(0, String::len),
        What::Shown(Entry::Sent(Text { text, .. })) | What::Raw(Entry::Received(Text { text, .. })) => {
            text.len()
        }
        // Small, as far as they occur at all.
        What::Shown(_) | What::Raw(_) | What::Finish => 0,
    };
    text + size_of::<Queued>()
}

/// The writing half.
struct Writer {
    out: BufWriter<File>,
    written: u64,
    tape: Arc<Tape>,
}

/// Why writing ended.
enum Stop {
    Full,
    Refused(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Refused(error)
    }
}

impl Writer {
    /// Writes until it is told to finish, the file is full, or the disk refuses.
    fn run(mut self, queued: &Receiver<Queued>) {
        let ended = self.write_all(queued);
        self.tape.is_over.store(true, Ordering::Release);
        let ms = self.tape.now_ms();
        let why = match ended {
            Ok(()) => "told to stop".to_owned(),
            Err(Stop::Full) => {
                log::warn!(bytes_max = self.tape.limits.file_bytes; "the recording is full and ends here");
                format!("largest size reached: {} bytes", self.tape.limits.file_bytes)
            }
            Err(Stop::Refused(error)) => {
                log::error!(error:% = error; "the recording cannot be written and ends here");
                return;
            }
        };
        let last_words = self.line(&Line { ms, entry: Entry::Ended { why } }).and_then(|()| self.out.flush());
        if let Err(error) = last_words {
            log::warn!(error:% = error; "the recording's end cannot be written");
        }
    }

    fn write_all(&mut self, queued: &Receiver<Queued>) -> Result<(), Stop> {
        let mut shown = Vec::new();
        let mut flushed = self.tape.clock.monotonic();
        loop {
            let unflushed = self.tape.clock.monotonic().saturating_duration_since(flushed);
            match queued.recv_timeout(FLUSH_EVERY.saturating_sub(unflushed)) {
                Ok(Queued { ms, bytes, dropped, what }) => {
                    self.tape.waiting_bytes.fetch_sub(bytes, Ordering::AcqRel);
                    if dropped > 0 {
                        self.tape.redactor().skip_gap();
                        shown.push(Entry::Dropped { count: dropped });
                    }
                    match what {
                        What::Shown(entry) => shown.push(entry),
                        What::Raw(entry) => self.tape.redact(entry, &mut shown),
                        What::Finish => return self.rest(),
                    }
                    for entry in shown.drain(..) {
                        self.entry(ms, entry)?;
                    }
                }
                Err(RecvTimeoutError::Timeout) if self.tape.is_over.load(Ordering::Acquire) => {
                    return self.rest();
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.rest(),
            }
            let now = self.tape.clock.monotonic();
            if now.saturating_duration_since(flushed) >= FLUSH_EVERY {
                self.out.flush()?;
                flushed = now;
            }
        }
    }

    /// What was dropped after the last entry.
    fn rest(&mut self) -> Result<(), Stop> {
        match self.tape.dropped.swap(0, Ordering::AcqRel) {
            0 => Ok(()),
            count => self.entry(self.tape.now_ms(), Entry::Dropped { count }),
        }
    }

    fn entry(&mut self, ms: u64, entry: Entry) -> Result<(), Stop> {
        let line = write(&Line { ms, entry });
        if self.written + line.len() as u64 + LAST_WORDS_BYTES > self.tape.limits.file_bytes {
            return Err(Stop::Full);
        }
        self.written += line.len() as u64;
        Ok(self.out.write_all(line.as_bytes())?)
    }

    fn line(&mut self, value: &impl serde::Serialize) -> io::Result<()> {
        let line = write(value);
        self.written += line.len() as u64;
        self.out.write_all(line.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::transcript::Transcript;

    fn start(path: &Path, limits: Limits) -> Result<Recording, RecordError> {
        let secrets = [(Kind::User, "marked-user"), (Kind::Password, "marked-password")];
        let config = json!({"pairs": ["EUR_USD"], "note": "of marked-user"});
        Recording::start_within(limits, path, Clock::system(), &secrets, config)
    }

    fn read(path: &Path) -> Transcript {
        Transcript::read(std::fs::read(path).unwrap().as_slice()).unwrap()
    }

    fn dropped(transcript: &Transcript) -> u64 {
        let count = |line: &Line| if let Entry::Dropped { count } = line.entry { count } else { 0 };
        transcript.lines.iter().map(count).sum()
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_was_said_is_in_the_file_in_order_and_without_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.jsonl");
        let recording = start(&path, Limits::default()).unwrap();
        let recorder = recording.recorder();
        let asked = recorder.asked("POST", "/session", 2, Some(r#"{"identifier":"marked-user"}"#)).unwrap();
        let headers = Headers { cst: Some("marked-token".into()), ..Headers::default() };
        asked.answered(200, headers, br#"{"currentAccountId":"MARKED1"}"#);
        recorder.asked("GET", "/accounts", 1, None).unwrap().failed("no marked-token");
        recorder.stream_opened(1, SocketKind::Http, "http://h/MARKED1");
        recorder.stream_sent(1, "create_session\r\nLS_user=MARKED1");
        recorder.stream_received(1, "CONOK,marked-");
        recorder.stream_received(1, "session,50000,5000,*\r\n");
        recorder.stream_closed(1, "marked-session is over");
        recording.finish();

        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.to_lowercase().contains("marked"), "{text}");
        let read = read(&path);
        assert_eq!(read.header.config, json!({"pairs": ["EUR_USD"], "note": "of USER-1"}));
        let kinds: Vec<&str> = text.lines().skip(1).map(|line| line.split('"').nth(3).unwrap()).collect();
        let expected =
            ["request", "answer", "request", "failure", "opened", "sent", "received", "closed", "ended"];
        assert_eq!(kinds, expected);
        assert!(read.lines.is_sorted_by_key(|line| line.ms));
        assert_eq!(mode(&path), 0o600);
        assert!(recorder.asked("GET", "/accounts", 1, None).is_none(), "the recording is over");
    }

    #[test]
    fn a_file_that_is_there_is_kept_unless_it_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.jsonl");
        std::fs::write(&path, "precious").unwrap();
        let error = start(&path, Limits::default()).err().unwrap().to_string();
        assert!(error.ends_with("t.jsonl exists already: a recording needs a new file"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        start(&path, Limits::default()).unwrap().finish();
        assert_eq!((mode(&path), read(&path).lines.len()), (0o600, 1));
        assert!(matches!(start(folder.path(), Limits::default()), Err(RecordError::Exists { .. })));
        let nowhere = start(&folder.path().join("no/t.jsonl"), Limits::default());
        assert!(matches!(nowhere, Err(RecordError::Uncreatable { .. })));
    }

    #[test]
    fn what_the_disk_cannot_follow_is_dropped_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.jsonl");
        let recording =
            start(&path, Limits { queue: 4, queue_bytes: 2_000_000, ..Limits::default() }).unwrap();
        let recorder = recording.recorder();
        recorder.stream_opened(1, SocketKind::Http, "http://h/");
        let tape = recorder.0.as_deref().unwrap();
        // The thread waits here, as it would for the disk.
        let redacting = tape.redactor();
        for n in 0..50 {
            recorder.stream_received(1, &format!("{n}\r\n"));
        }
        drop(redacting);
        recording.finish();
        let lines = read(&path).lines;
        let received = lines.iter().filter(|line| matches!(line.entry, Entry::Received(_))).count() as u64;
        let dropped = dropped(&read(&path));
        assert!(dropped > 0 && received < 10, "{received} received, {dropped} dropped");
        assert_eq!(received + dropped, 50, "{lines:?}");
    }

    #[test]
    fn the_bytes_that_wait_are_bounded_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.jsonl");
        let recording = start(&path, Limits { queue_bytes: 1000, ..Limits::default() }).unwrap();
        let recorder = recording.recorder();
        let tape = recorder.0.as_deref().unwrap();
        let redacting = tape.redactor();
        (0..50).for_each(|_| recorder.stream_received(1, &"x".repeat(600)));
        assert!(tape.waiting_bytes.load(Ordering::Acquire) <= 1000);
        drop(redacting);
        recording.finish();
        assert!(dropped(&read(&path)) >= 47);
    }

    #[test]
    fn a_full_file_says_so_and_recording_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.jsonl");
        let recording = start(&path, Limits { file_bytes: 2000, ..Limits::default() }).unwrap();
        let recorder = recording.recorder();
        (0..100).for_each(|n| recorder.stream_received(1, &format!("line {n}")));
        recording.finish();
        assert!(std::fs::metadata(&path).unwrap().len() <= 2000);
        let lines = read(&path).lines;
        let last = &lines.last().unwrap().entry;
        assert!(
            matches!(last, Entry::Ended { why } if why == "largest size reached: 2000 bytes"),
            "{last:?}"
        );
        assert!(lines.len() > 10, "{}", lines.len());
        assert!(recorder.tape().is_none());
    }

    #[test]
    fn off_is_the_default_and_does_nothing() {
        let recorder = Recorder::default();
        assert!(recorder.asked("GET", "/", 1, None).is_none());
        recorder.stream_opened(1, SocketKind::Ws, "");
        recorder.stream_received(1, "");
    }
}
