//! What can be made to go wrong while the simulator runs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Deserialize;

use super::Shared;
use super::clock::monotonic;
use super::desk;
use super::door::Door;
use super::faults::{Fault, ScaledSide};
use super::feed::Spell;
use super::outbox::{Frame, FrameKind, Framing};
use crate::domain::{Pair, Timestamp};

/// How a connection ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// With a TCP reset.
    Reset,
    /// Without a word: FIN, and no close frame.
    #[default]
    Drop,
    /// With a close frame of this code, after what was written before; over HTTP the response
    /// ends.
    Close(u16),
}

/// Something on a stream that no client can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rubbish {
    /// A line with an unknown tag, in three frames.
    Line,
    /// A binary message.
    Binary,
    /// A text message that is not UTF-8.
    NotUtf8,
    /// A line with an unknown tag and so many bytes.
    Huge(usize),
}

impl Rubbish {
    fn frames(self) -> Vec<Frame> {
        let frame = |kind, is_last, bytes: &[u8]| Frame { kind, is_last, bytes: bytes.to_vec() };
        match self {
            Rubbish::Line => vec![
                frame(FrameKind::Text, false, b"NON"),
                frame(FrameKind::Continuation, false, b"SENSE,1\r"),
                frame(FrameKind::Continuation, true, b"\n"),
            ],
            Rubbish::Binary => vec![frame(FrameKind::Binary, true, b"\x00\x01")],
            Rubbish::NotUtf8 => vec![frame(FrameKind::Text, true, b"PROBE\xff\r\n")],
            Rubbish::Huge(bytes) => {
                let mut line = b"HUGE,".to_vec();
                line.resize(bytes.max(line.len()), b'x');
                line.extend_from_slice(b"\r\n");
                vec![frame(FrameKind::Text, true, &line)]
            }
        }
    }
}

/// One of the simulator's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Address {
    /// Where REST is, and the stream's sessions are created.
    First,
    /// The second one, where there is one.
    Second,
}

/// Whether new streams are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusing {
    Never,
    /// Until told otherwise.
    Always,
    /// Until virtual time reaches this.
    Until(Timestamp),
}

/// What is answered instead of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// This HTTP status.
    Status(u16),
    /// A page of HTML with status 200, as from a proxy that wants something from its user.
    Page,
}

impl Default for Refusal {
    fn default() -> Self {
        Refusal::Status(403)
    }
}

/// Requests of one kind that are to be refused.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<Option<(Refusal, u32)>>);

impl Refusals {
    /// Refuses the next so many; none from now on, where nothing is given.
    pub fn set(&self, refusals: Option<(Refusal, u32)>) {
        *self.0.lock().expect("nothing panics while holding this") = refusals.filter(|(_, times)| *times > 0);
    }

    /// What to answer to this one.
    pub fn next(&self) -> Option<Refusal> {
        let mut refusals = self.0.lock().expect("nothing panics while holding this");
        let (refusal, left) = (*refusals)?;
        *refusals = left.checked_sub(1).filter(|left| *left > 0).map(|left| (refusal, left));
        Some(refusal)
    }
}

/// What goes wrong over REST.
#[derive(Debug, Default)]
pub(crate) struct RestFaults {
    refusals: VecDeque<Due<desk::Refusal>>,
    garbage: VecDeque<Due<RestGarbage>>,
    /// How much of the present history lacks, in seconds, and until when.
    behind: Option<(i64, Timestamp)>,
    /// How many of the next answers about a pair have a null price; at most an entry a pair.
    null_legs: BTreeMap<Pair, u32>,
}

/// What an answer over REST is in place of what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestGarbage {
    /// Nothing at all.
    Empty,
    /// A page of HTML, as from a proxy.
    Page,
    /// Its first half.
    Half,
    /// JSON of another kind.
    Other,
    /// Bytes that are no text.
    Binary,
}

impl RestGarbage {
    /// The body that is sent in the place of this one.
    pub(crate) fn garble(self, body: &[u8]) -> Vec<u8> {
        match self {
            RestGarbage::Empty => Vec::new(),
            RestGarbage::Page => b"<html><body>Please sign in</body></html>".to_vec(),
            RestGarbage::Half => body[..body.len() / 2].to_vec(),
            RestGarbage::Other => br#"[{"prices": 7}]"#.to_vec(),
            RestGarbage::Binary => b"\x00\xff\xfe{\x80".to_vec(),
        }
    }
}

/// What is to become of the next requests whose path begins so.
#[derive(Debug)]
struct Due<T> {
    times: u32,
    what: T,
    path: String,
}

/// Requests of one kind may be waiting for so many things to become of them.
const DUE_MAX: usize = 1_000;

impl<T: Clone> Due<T> {
    /// Has it happen to the next so many requests whose path begins so, with or without a slash.
    fn add(waiting: &mut VecDeque<Due<T>>, times: u32, what: T, path: &str) {
        if times > 0 && waiting.len() < DUE_MAX {
            waiting.push_back(Due { times, what, path: path.trim_start_matches('/').to_owned() });
        }
    }

    /// What becomes of a request for this path, behind the base address, if anything does.
    fn take(waiting: &mut VecDeque<Due<T>>, path: &str) -> Option<T> {
        let path = path.trim_start_matches('/');
        let place = waiting.iter().position(|due| path.starts_with(&due.path))?;
        let first = &mut waiting[place];
        first.times -= 1;
        let what = first.what.clone();
        if first.times == 0 {
            waiting.remove(place);
        }
        Some(what)
    }
}

impl RestFaults {
    /// Why a request for this path, behind the base address, is refused, if it is.
    pub fn refusal(&mut self, path: &str) -> Option<desk::Refusal> {
        Due::take(&mut self.refusals, path)
    }

    /// What is answered to it in the place of what it has brought about, if not that.
    pub fn garbage(&mut self, path: &str) -> Option<RestGarbage> {
        Due::take(&mut self.garbage, path)
    }

    /// History lacks so many seconds until then. Where it lacks some already, the greater lack
    /// and the later end count.
    fn fall_behind(&mut self, by_s: i64, until: Timestamp, now: Timestamp) {
        let already = self.behind.filter(|(_, ends)| now < *ends);
        self.behind = Some(already.map_or((by_s, until), |(by, ends)| (by.max(by_s), ends.max(until))));
    }

    /// What time history of bars of this length takes it to be: where it is behind, a time between
    /// two bars, since it lacks whole ones.
    pub fn history_now(&self, now: Timestamp, length_s: i64) -> Timestamp {
        match self.behind {
            Some((by_s, until)) if now < until => now.plus(-by_s).floor(length_s),
            _ => now,
        }
    }

    /// Whether an answer about this pair is to have a null price.
    pub fn has_null_leg(&mut self, pair: Pair) -> bool {
        let Some(left) = self.null_legs.get_mut(&pair) else { return false };
        let has = *left > 0;
        *left = left.saturating_sub(1);
        has
    }
}

/// A hand on the running simulator. Cheap to clone, usable from any thread.
#[derive(Clone, Debug)]
pub struct Control {
    shared: Arc<Shared>,
}

impl Control {
    pub(crate) fn new(shared: Arc<Shared>) -> Control {
        Control { shared }
    }

    /// Has a fault happen now.
    pub fn apply(&self, fault: Fault) {
        let shared = &self.shared;
        let market = shared.market.pairs();
        let all = |pairs: Vec<Pair>| if pairs.is_empty() { market.to_vec() } else { pairs };
        let later = |seconds: u32| shared.now().plus(i64::from(seconds));
        match fault {
            Fault::Cut { how } => self.cut_connections(how),
            Fault::HalfOpen {} => self.half_open(),
            Fault::Outage { for_s } => {
                let until = later(for_s);
                self.refuse_streams_until(shared.outage_ends().map_or(until, |ends| ends.max(until)));
                self.cut_streams();
            }
            Fault::Restart {} => {
                self.wipe_tokens();
                self.cut_streams();
            }
            Fault::RefuseWebsockets { with, times } => shared.upgrades.set(Some((with, times))),
            Fault::RefuseHttp { with, times } => shared.http_streams.set(Some((with, times))),
            Fault::Shut { address } => self.set_open(address, false),
            Fault::Open { address } => self.set_open(address, true),
            Fault::Framing { fragment_bytes, single_lines, apart_ms } => {
                let apart = Duration::from_millis(apart_ms.into());
                let framing = Framing { fragment_bytes: fragment_bytes as usize, single_lines, apart };
                shared.feed().set_framing(framing);
            }
            Fault::Garbage { what } => self.send_rubbish(what),
            Fault::Loop { delay_ms } => self.rebind_sessions(delay_ms),
            Fault::End { code, text } => self.end_sessions(code, &text),
            Fault::RefuseCreates { times, code, text } => self.refuse_creates(times, code, &text),
            Fault::RefuseBinds { times, code, text } => self.refuse_binds(times, code, &text),
            Fault::Resend { lines } => self.resend_at_next_recovery(lines),
            Fault::WrongProg { lines } => shared.feed().claim_too_much_at_next_recovery(lines),
            Fault::Withhold { what, times } => shared.feed().withhold(what, times),
            Fault::ControlLink { link } => self.set_control_link(Some(link)),
            Fault::TlcpVersion { newest } => shared.feed().set_max_tlcp_version(newest),
            Fault::WipeTokens {} => self.wipe_tokens(),
            Fault::RefuseItems { pairs, times, code, text } => {
                shared.feed().refuse_items(&all(pairs), times, code, &text);
            }
            Fault::Overflow { pairs, rows } => {
                shared.feed().cast(Spell::Overflow(rows), &all(pairs), rows);
            }
            Fault::Stall { pairs, for_s, cured_by_subscribing } => {
                shared.feed().stall(&all(pairs), later(for_s), cured_by_subscribing);
            }
            Fault::Closes { pairs, how, bars, by_s } => {
                shared.feed().cast(Spell::Closes(how, by_s), &all(pairs), bars);
            }
            Fault::Values { pairs, fields, rows } => {
                shared.feed().cast(Spell::Values(fields), &all(pairs), rows);
            }
            Fault::Raw { pairs, values, rows } => shared.feed().cast(Spell::Raw(values), &all(pairs), rows),
            Fault::OldSnapshot { times } => shared.feed().show_old_snapshots(times),
            Fault::Scale { pairs, in_points, side } => {
                let pairs = all(pairs);
                if side != ScaledSide::Rest {
                    shared.feed().set_scale(&pairs, in_points);
                }
                if side != ScaledSide::Stream {
                    shared.listing().set_scale(&pairs, in_points);
                }
            }
            Fault::RefuseRest { times, status, code, path } => {
                let refusal = desk::Refusal::new(status, &code);
                Due::add(&mut shared.rest_faults().refusals, times, refusal, &path);
            }
            Fault::GarbageRest { what, times, path } => {
                Due::add(&mut shared.rest_faults().garbage, times, what, &path);
            }
            Fault::RestBehind { by_s, for_s } => {
                shared.rest_faults().fall_behind(i64::from(by_s), later(for_s), shared.now());
            }
            Fault::Allowance { left } => shared.desk().leave_points(left, shared.now()),
            Fault::NullLegs { pairs, times } => {
                let mut faults = shared.rest_faults();
                for pair in all(pairs) {
                    let left = faults.null_legs.entry(pair).or_default();
                    *left = left.saturating_add(times);
                }
            }
        }
    }

    /// Has a fault happen when virtual time reaches `at`.
    pub fn schedule(&self, at: Timestamp, fault: Fault) {
        self.shared.plan().add(at, 0, 1, fault);
        self.shared.wake.notify_one();
    }

    /// Drops every stream's socket without a word and forgets the Lightstreamer sessions.
    pub fn cut_streams(&self) {
        self.shared.cut(Cut::Drop, true);
    }

    /// Ends every stream's connection. The Lightstreamer sessions live on and can be bound again.
    pub fn cut_connections(&self, how: Cut) {
        self.shared.cut(how, false);
    }

    /// Every stream falls silent, both ways, while its socket stays open. The Lightstreamer
    /// sessions live on and can be bound again.
    pub fn half_open(&self) {
        self.shared.feed().half_open(monotonic());
        self.shared.wake.notify_one();
    }

    /// Sends `LOOP,<delay>` to every bound session, which is unbound then. WebSockets stay open.
    pub fn rebind_sessions(&self, delay_ms: u64) {
        self.shared.feed().rebind_all(delay_ms, monotonic());
        self.shared.wake.notify_one();
    }

    /// Ends every session with `END,<code>,<text>`. WebSockets stay open.
    pub fn end_sessions(&self, code: i32, text: &str) {
        self.shared.feed().end_all(code, text);
        self.shared.wake.notify_one();
    }

    /// Answers the next so many `create_session` with `CONERR,<code>,<text>`.
    pub fn refuse_creates(&self, times: u32, code: i32, text: &str) {
        self.shared.feed().refuse_creates(times, code, text);
    }

    /// Answers the next so many `bind_session` with `CONERR,<code>,<text>`. The session they name
    /// is forgotten.
    pub fn refuse_binds(&self, times: u32, code: i32, text: &str) {
        self.shared.feed().refuse_binds(times, code, text);
    }

    /// Lets the next recovery begin so many data lines before the one that it asks for: what was
    /// sent is sent again.
    pub fn resend_at_next_recovery(&self, lines: u64) {
        self.shared.feed().resend_at_next_recovery(lines);
    }

    /// What `CONOK` gives as control link from now on; `None` = `*`.
    pub fn set_control_link(&self, link: Option<String>) {
        self.shared.feed().set_control_link(link);
    }

    /// Sends rubbish on every connection, between what else is sent.
    pub fn send_rubbish(&self, rubbish: Rubbish) {
        for outbox in self.shared.feed().outboxes() {
            outbox.push_frames(rubbish.frames());
        }
    }

    /// Opens an address or shuts it, soon: [`Control::is_open`] tells when it is done. Shut, it
    /// refuses connections and has dropped those that came through it.
    pub fn set_open(&self, address: Address, open: bool) {
        if let Some(door) = self.door(address) {
            door.set_open(open);
        }
    }

    /// Whether an address accepts connections.
    pub fn is_open(&self, address: Address) -> bool {
        self.door(address).is_some_and(|door| door.is_open())
    }

    fn door(&self, address: Address) -> Option<&Arc<Door>> {
        self.shared.doors().get(address as usize)
    }

    /// Refuses WebSockets, while streams over HTTP are accepted; `None` accepts them again.
    pub fn refuse_upgrades(&self, refusal: Option<Refusal>) {
        self.shared.upgrades.set(refusal.map(|refusal| (refusal, u32::MAX)));
    }

    /// Refuses streams over HTTP, while WebSockets are accepted; `None` accepts them again.
    pub fn refuse_http_streams(&self, refusal: Option<Refusal>) {
        self.shared.http_streams.set(refusal.map(|refusal| (refusal, u32::MAX)));
    }

    /// Refuses new streams with HTTP 503, or accepts them again.
    pub fn refuse_streams(&self, refuse: bool) {
        self.shared.set_refusing(if refuse { Refusing::Always } else { Refusing::Never });
    }

    /// Refuses new streams until virtual time reaches `until`. At [`Speed::Max`] time, which
    /// otherwise waits for subscribers, goes there at once: the outage costs exactly its bars.
    ///
    /// [`Speed::Max`]: super::Speed::Max
    pub fn refuse_streams_until(&self, until: Timestamp) {
        self.shared.set_refusing(Refusing::Until(until));
        self.shared.wake.notify_one();
    }

    /// Has market time stand still once it is `at`; streams stay open. None lets it go on to its end.
    pub fn hold_at(&self, at: Option<Timestamp>) {
        self.shared.hold.store(at.map_or(i64::MAX, |at| at.0), Ordering::Release);
        self.shared.wake.notify_one();
    }

    /// Cuts every stream when virtual time reaches `at`, and refuses new ones until it reaches
    /// `until`.
    pub fn schedule_outage(&self, at: Timestamp, until: Timestamp) {
        let for_s = u32::try_from(until.since(at)).unwrap_or(0);
        self.schedule(at, Fault::Outage { for_s });
    }

    /// Invalidates every token, as weekend maintenance does. Open streams go on.
    pub fn wipe_tokens(&self) {
        self.shared.desk().wipe_tokens();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_refused_with_or_without_its_slash() {
        for path in ["prices", "/prices"] {
            let mut faults = RestFaults::default();
            Due::add(&mut faults.refusals, 1, desk::Refusal::new(500, "system.error"), path);
            assert!(faults.refusal("session").is_none(), "{path}");
            assert!(faults.refusal("prices/CS.D.EURUSD.CFD.IP").is_some(), "{path}");
            assert!(faults.refusal("prices/CS.D.EURUSD.CFD.IP").is_none(), "{path}");
        }
    }

    #[test]
    fn of_two_times_that_history_is_behind_the_later_end_counts() {
        let mut faults = RestFaults::default();
        let seen = |faults: &mut RestFaults, now| faults.history_now(Timestamp(now), 1).0 - now;
        faults.fall_behind(600, Timestamp(4_600), Timestamp(1_000));
        faults.fall_behind(60, Timestamp(1_100), Timestamp(1_000));
        assert_eq!([1_000, 1_100, 4_599, 4_600].map(|now| seen(&mut faults, now)), [-600, -600, -600, 0]);
        faults.fall_behind(60, Timestamp(6_000), Timestamp(5_000));
        assert_eq!(seen(&mut faults, 5_000), -60, "what is over does not count");
    }
}
