//! One recorded stream, played to a client that is not quite the recorded one. Pure.
//!
//! What came after a request in the recording comes after the client's own request of that kind,
//! and then at the recorded distance; requests over REST are counted for that. The client numbers its subscriptions and requests as it
//! likes: recorded numbers are translated by what was subscribed.
//!
//! Whether WebSocket or HTTP carried the recorded stream, and carries this one, makes no difference
//! but for answers to control requests. A client that makes one over HTTP is told at once what
//! became of the recorded one; for all others answers come where they stand in the recording.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use crate::simulator::clock::Speed;
use crate::simulator::tlcp::{Message, Params};
use crate::transcript::format::{Closed, Entry, Line, Opened, SocketKind, Text};

/// How long a recorded subscription waits for the client to make it too, before what belongs to
/// it is left out.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the stream waits for a client that asks less over REST than the recorded one, before
/// it goes on without regard to REST: a client that keeps IG's pace pauses for some seconds.
const REST_PATIENCE: Duration = Duration::from_secs(10);
/// Longest silence before a `PROBE` while the recording says none.
const KEEPALIVE_DEFAULT: Duration = Duration::from_secs(5);
/// Longest distance that is kept between two recorded moments, so that a made-up one stays within
/// what clocks can show.
const DISTANCE_MAX: Duration = Duration::from_secs(365 * 86_400);
/// Requests of the client that may wait until the recording comes to them; more are not minded.
const WAITING_MAX: usize = 10_000;

/// What was said on one connection, over HTTP together with the requests beside it.
#[derive(Debug, Default)]
pub(super) struct Stream {
    moments: Vec<Moment>,
    /// Code and text of each `REQERR`, by the request's id.
    refusals: HashMap<String, String>,
}

#[derive(Debug)]
struct Moment {
    /// Recorded milliseconds.
    ms: u64,
    /// REST requests that had been made before, of those that were answered.
    asked: u64,
    spoken: Spoken,
}

#[derive(Debug)]
enum Spoken {
    Opened,
    Sent(Vec<Said>),
    Received(String),
    Closed,
}

/// A request of a client, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Hello,
    /// `create_session`.
    Create,
    /// `bind_session`.
    Bind,
    Add {
        group: String,
        sub_id: String,
        request_id: String,
    },
    Delete {
        sub_id: String,
        request_id: String,
    },
    Destroy {
        request_id: String,
    },
    /// The id is empty where there is none, as in a heartbeat.
    Other {
        request_id: String,
    },
}

/// The recorded streams, in the order of their connections.
pub(super) fn streams(lines: &[Line]) -> Vec<Stream> {
    let mut streams: Vec<Stream> = Vec::new();
    let mut place: HashMap<u64, (usize, SocketKind)> = HashMap::new();
    let answer = |line: &Line| if let Entry::Answer(answer) = &line.entry { Some(answer.id) } else { None };
    let answered: HashSet<u64> = lines.iter().filter_map(answer).collect();
    let mut asked = 0;
    for Line { ms, entry } in lines {
        let (socket, spoken) = match entry {
            Entry::Opened(Opened { socket, kind, .. }) => {
                place.insert(*socket, (streams.len(), *kind));
                streams.push(Stream::default());
                (socket, Spoken::Opened)
            }
            Entry::Sent(Text { socket, text }) => (socket, Spoken::Sent(read(text))),
            Entry::Received(Text { socket, text }) => (socket, Spoken::Received(text.clone())),
            Entry::Closed(Closed { socket, .. }) => (socket, Spoken::Closed),
            Entry::Request(request) => {
                asked += u64::from(answered.contains(&request.id));
                continue;
            }
            _ => continue,
        };
        let Some((stream, kind)) = place.get(socket) else { continue };
        streams[*stream].push(Moment { ms: *ms, asked, spoken }, *kind);
    }
    streams
}

impl Stream {
    fn push(&mut self, mut moment: Moment, kind: SocketKind) {
        if let Spoken::Received(text) = &mut moment.spoken {
            if kind == SocketKind::Http {
                // The connection broke within a line, which the recorded client never had.
                text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
            }
            let refused = text.lines().filter_map(|line| line.strip_prefix("REQERR,")?.split_once(','));
            self.refusals.extend(refused.map(|(request_id, why)| (request_id.to_owned(), why.to_owned())));
            let rest = text.split_off(welcome_end(text));
            if !text.is_empty() {
                // A client gives up on a connection where it does not come soon.
                let welcome = Spoken::Received(std::mem::take(text));
                self.moments.push(Moment { asked: 0, spoken: welcome, ..moment });
            }
            *text = rest;
        }
        self.moments.push(moment);
    }
}

/// Where the answer to a create or a bind ends that this text begins with, perhaps behind `WSOK`;
/// 0 where it begins with something else.
fn welcome_end(text: &str) -> usize {
    let mut end = 0;
    for line in text.split_inclusive('\n') {
        end += line.len();
        match line.trim_end().split(',').next() {
            Some("WSOK") => {}
            Some("CONOK" | "CONERR") => return end,
            _ => break,
        }
    }
    0
}

/// Reads one message of a client.
fn read(text: &str) -> Vec<Said> {
    let message = Message::parse(text);
    let control = |line: &&str| {
        let Ok(params) = Params::parse(line) else { return Said::Other { request_id: String::new() } };
        let get = |name| params.get(name).unwrap_or_default().to_owned();
        let (sub_id, request_id) = (get("LS_subId"), get("LS_reqId"));
        match params.get("LS_op") {
            Some("add") => Said::Add { group: get("LS_group"), sub_id, request_id },
            Some("delete") => Said::Delete { sub_id, request_id },
            Some("destroy") => Said::Destroy { request_id },
            _ => Said::Other { request_id },
        }
    };
    match message.name {
        "wsok" => vec![Said::Hello],
        "create_session" => vec![Said::Create],
        "bind_session" => vec![Said::Bind],
        "control" => message.lines.iter().map(control).collect(),
        _ => vec![Said::Other { request_id: String::new() }],
    }
}

/// What a WebSocket is answered besides what was recorded.
fn greeting(said: &Said) -> String {
    match said {
        Said::Hello => "WSOK\r\n".to_owned(),
        Said::Destroy { request_id } => accepted(request_id),
        _ => String::new(),
    }
}

fn accepted(request_id: &str) -> String {
    match request_id {
        "" => "REQOK\r\n".to_owned(),
        id => format!("REQOK,{id}\r\n"),
    }
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Send this.
    Say(String),
    /// Nothing for so long, unless the client says something.
    Wait(Duration),
    /// Close the connection.
    Close,
}

/// Live numbers of subscriptions by recorded ones. They outlive a connection, as the session does.
pub(super) type SubIds = HashMap<String, String>;

/// A stream while it is played.
#[derive(Debug)]
pub(super) struct Deck<'a> {
    stream: &'a Stream,
    next: usize,
    speed: Speed,
    /// Nothing comes after this stream, so it stays open at its end.
    is_last: bool,
    /// When, in real time, a recorded time was.
    anchor: (Instant, u64),
    /// Since when the client is waited for.
    waiting_since: Option<Instant>,
    /// How often the client has asked over REST, and since when; none once that is given up.
    rest: Option<(u64, Instant)>,
    keepalive: Option<Duration>,
    last_said: Instant,
    sub_ids: SubIds,
    request_ids: HashMap<String, String>,
    /// What the client has asked for and the recording has not come to yet.
    begun: u32,
    adds: HashMap<String, VecDeque<(String, RequestId)>>,
    deletes: HashMap<String, VecDeque<RequestId>>,
    /// How many are in those two.
    waiting: usize,
    is_destroyed: bool,
    has_said_end: bool,
}

/// Id of a request of the client; none where it has been answered.
type RequestId = Option<String>;

impl<'a> Deck<'a> {
    /// Begins to play. `sub_ids` are those that the stream before left behind.
    pub fn new(stream: &'a Stream, speed: Speed, is_last: bool, sub_ids: SubIds, now: Instant) -> Deck<'a> {
        let opened_ms = stream.moments.first().map_or(0, |moment| moment.ms);
        Deck {
            stream,
            next: 0,
            speed,
            is_last,
            anchor: (now, opened_ms),
            waiting_since: None,
            rest: Some((0, now)),
            keepalive: None,
            last_said: now,
            sub_ids,
            request_ids: HashMap::new(),
            begun: 0,
            adds: HashMap::new(),
            deletes: HashMap::new(),
            waiting: 0,
            is_destroyed: false,
            has_said_end: false,
        }
    }

    /// What the next stream has to know.
    pub fn into_sub_ids(self) -> SubIds {
        self.sub_ids
    }

    /// Whether all of it has been played.
    pub fn has_ended(&self) -> bool {
        match self.stream.moments.get(self.next).map(|moment| &moment.spoken) {
            None | Some(Spoken::Closed) => true,
            Some(Spoken::Sent(said)) => said.iter().any(|said| matches!(said, Said::Destroy { .. })),
            _ => false,
        }
    }

    /// The client said something where the stream goes. Returns what is answered at once.
    pub fn receive(&mut self, text: &str, now: Instant) -> String {
        self.take(text, false, now)
    }

    /// The client made a request over HTTP beside the stream. Returns the whole answer.
    pub fn receive_beside(&mut self, text: &str, now: Instant) -> String {
        self.take(text, true, now)
    }

    fn take(&mut self, text: &str, beside: bool, now: Instant) -> String {
        self.waiting_since = self.waiting_since.map(|_| now);
        let mut answer = String::new();
        for said in read(text) {
            answer.push_str(&if beside { self.verdict(&said) } else { greeting(&said) });
            // What is answered already is not answered by the recording too.
            let unanswered = |request_id| (!beside).then_some(request_id);
            match said {
                Said::Create | Said::Bind => self.begun = self.begun.saturating_add(1),
                Said::Add { .. } | Said::Delete { .. } if self.waiting >= WAITING_MAX => {}
                Said::Add { group, sub_id, request_id } => {
                    self.adds.entry(group).or_default().push_back((sub_id, unanswered(request_id)));
                    self.waiting += 1;
                }
                Said::Delete { sub_id, request_id } => {
                    self.deletes.entry(sub_id).or_default().push_back(unanswered(request_id));
                    self.waiting += 1;
                }
                Said::Destroy { .. } => self.is_destroyed = true,
                Said::Hello | Said::Other { .. } => {}
            }
        }
        answer
    }

    /// The answer to a request beside the stream: that of the recorded one that it stands for, as
    /// far as it is a refused subscription.
    fn verdict(&self, said: &Said) -> String {
        match said {
            Said::Hello | Said::Create | Said::Bind => String::new(),
            Said::Add { group, request_id, .. } => match self.refusal(group) {
                Some(why) => format!("REQERR,{request_id},{why}\r\n"),
                None => accepted(request_id),
            },
            Said::Delete { request_id, .. } | Said::Destroy { request_id } | Said::Other { request_id } => {
                accepted(request_id)
            }
        }
    }

    /// Code and text of what the next subscription to this group was refused with.
    fn refusal(&self, group: &str) -> Option<&String> {
        let Stream { moments, refusals } = self.stream;
        // Spares most streams the search.
        if refusals.is_empty() {
            return None;
        }
        let to_come = moments.iter().skip(self.next).filter_map(|moment| match &moment.spoken {
            Spoken::Sent(said) => Some(said),
            _ => None,
        });
        let mut same = to_come.flatten().filter_map(|said| match said {
            Said::Add { group: recorded, request_id, .. } if recorded == group => Some(request_id),
            _ => None,
        });
        refusals.get(same.nth(self.adds.get(group).map_or(0, VecDeque::len))?)
    }

    /// The client has asked so often over REST.
    pub fn asked(&mut self, count: u64, now: Instant) {
        if let Some(rest) = self.rest.as_mut().filter(|(known, _)| *known < count) {
            *rest = (count, now);
        }
    }

    /// What to do now. To be asked again after each step, and when the client has said something.
    pub fn poll(&mut self, now: Instant) -> Step {
        if self.is_destroyed {
            return match std::mem::replace(&mut self.has_said_end, true) {
                false => Step::Say("END,31,Destroyed by the client\r\n".to_owned()),
                true => Step::Close,
            };
        }
        let stream = self.stream;
        while let Some(Moment { ms, asked, spoken }) = stream.moments.get(self.next) {
            let mut wait = self.due(*ms).saturating_duration_since(now);
            if wait.is_zero()
                && matches!(spoken, Spoken::Received(_))
                && let Some(patience) = self.waits_for_rest(*asked, now)
            {
                // The distances count from when it goes on.
                self.anchor = (now, *ms);
                wait = patience;
            }
            match spoken {
                Spoken::Opened => {}
                Spoken::Sent(said) => {
                    if let Some(wait) = self.waits_for(said, now) {
                        return self.wait(wait, now);
                    }
                    self.waiting_since = None;
                    said.iter().for_each(|said| self.pass(said));
                    self.anchor = (now, *ms);
                }
                Spoken::Closed if self.is_last => break,
                Spoken::Received(_) | Spoken::Closed if !wait.is_zero() => return self.wait(wait, now),
                Spoken::Closed => return Step::Close,
                Spoken::Received(text) => {
                    let text = self.translate(text);
                    if !text.is_empty() {
                        self.next += 1;
                        self.last_said = now;
                        return Step::Say(text);
                    }
                }
            }
            self.next += 1;
        }
        if self.is_last { self.wait(Duration::MAX, now) } else { Step::Close }
    }

    /// Real time of a recorded one.
    fn due(&self, ms: u64) -> Instant {
        let (real, anchor_ms) = self.anchor;
        let passed = Duration::from_millis(ms.saturating_sub(anchor_ms)).min(DISTANCE_MAX);
        match self.speed {
            Speed::Max => real,
            Speed::Times(times) => real + passed.div_f64(times),
        }
    }

    /// Silence, broken by a `PROBE` where the client would take it for a dead connection.
    fn wait(&mut self, wait: Duration, now: Instant) -> Step {
        let Some(keepalive) = self.keepalive else { return Step::Wait(wait.min(KEEPALIVE_DEFAULT)) };
        let probe_in = keepalive.saturating_sub(now.saturating_duration_since(self.last_said));
        if probe_in.is_zero() {
            self.last_said = now;
            return Step::Say("PROBE\r\n".to_owned());
        }
        Step::Wait(wait.min(probe_in))
    }

    /// How long the stream still waits for the client to ask over REST; `None`: no longer.
    fn waits_for_rest(&mut self, asked: u64, now: Instant) -> Option<Duration> {
        let (count, since) = self.rest.filter(|(count, _)| *count < asked)?;
        let patience = REST_PATIENCE.saturating_sub(now.saturating_duration_since(since));
        if patience.is_zero() {
            log::info!(asked = count, recorded = asked; "the client asks less over REST than was recorded, going on");
            self.rest = None;
            return None;
        }
        Some(patience)
    }

    /// How long these recorded requests still wait for the client's own; `None`: no longer.
    fn waits_for(&mut self, said: &[Said], now: Instant) -> Option<Duration> {
        let mut wait = None;
        let since = *self.waiting_since.get_or_insert(now);
        let patience = PATIENCE.saturating_sub(now.saturating_duration_since(since));
        for said in said {
            let missing = match said {
                Said::Create | Said::Bind if self.begun == 0 => return Some(Duration::MAX),
                Said::Destroy { .. } if self.is_last => return Some(Duration::MAX),
                Said::Add { group, .. } => self.adds.get(group).is_none_or(VecDeque::is_empty),
                Said::Delete { sub_id, .. } => {
                    let live = self.sub_ids.get(sub_id);
                    live.is_some_and(|live| self.deletes.get(live).is_none_or(VecDeque::is_empty))
                }
                _ => false,
            };
            if missing && !patience.is_zero() {
                wait = Some(patience);
            }
        }
        wait
    }

    /// A recorded request has found the client's own, or is given up.
    fn pass(&mut self, said: &Said) {
        match said {
            Said::Create => {
                self.begun -= 1;
                self.sub_ids.clear();
            }
            Said::Bind => self.begun -= 1,
            Said::Add { group, sub_id, request_id } => {
                let live = self.adds.get_mut(group).and_then(VecDeque::pop_front);
                if let Some((live_sub, live_request)) = live {
                    self.sub_ids.insert(sub_id.clone(), live_sub);
                    self.found(request_id, live_request);
                }
            }
            Said::Delete { sub_id, request_id } => {
                let live = self.sub_ids.get(sub_id).and_then(|live| self.deletes.get_mut(live));
                if let Some(live_request) = live.and_then(VecDeque::pop_front) {
                    self.found(request_id, live_request);
                }
            }
            Said::Hello | Said::Destroy { .. } | Said::Other { .. } => {}
        }
    }

    /// A request of the client that waited has found the recorded one.
    fn found(&mut self, recorded: &str, live: RequestId) {
        self.waiting -= 1;
        self.request_ids.extend(live.map(|live| (recorded.to_owned(), live)));
    }

    /// A recorded message in the client's numbers, without what concerns others.
    fn translate(&mut self, text: &str) -> String {
        let mut said = String::with_capacity(text.len());
        for line in text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)) {
            let (tag, arguments) = line.split_once(',').unwrap_or((line, ""));
            let (first, rest) = arguments.split_at(arguments.find(',').unwrap_or(arguments.len()));
            let numbers = match tag {
                // Answered when the client asks.
                "" | "WSOK" => continue,
                "SUBOK" | "SUBCMD" | "CONF" | "U" | "EOS" | "CS" | "OV" | "UNSUB" => &self.sub_ids,
                "REQOK" | "REQERR" => &self.request_ids,
                _ => {
                    said.push_str(&if tag == "CONOK" { self.welcome(line) } else { line.to_owned() });
                    said.push_str("\r\n");
                    continue;
                }
            };
            if let Some(live) = numbers.get(first) {
                said.extend([tag, ",", live, rest, "\r\n"]);
            }
        }
        said
    }

    /// `CONOK` without a control link, which would lead the client away from here.
    fn welcome(&mut self, line: &str) -> String {
        let mut arguments: Vec<&str> = line.splitn(5, ',').collect();
        let keepalive = arguments.get(3).and_then(|text| text.parse().ok()).map(Duration::from_millis);
        self.keepalive = keepalive.filter(|keepalive| !keepalive.is_zero()).or(Some(KEEPALIVE_DEFAULT));
        if let Some(link) = arguments.get_mut(4) {
            *link = "*";
        }
        arguments.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::clock::monotonic;
    use crate::transcript::format::{Answer, Body, Headers, Request, SocketKind};

    fn recording(spoken: &[(u64, &str)]) -> Vec<Stream> {
        recording_over(SocketKind::Ws, spoken)
    }

    /// `>` sent, `<` received, `x` closed, each with its time.
    fn recording_over(kind: SocketKind, spoken: &[(u64, &str)]) -> Vec<Stream> {
        let opened = Opened { socket: 4, kind, url: String::new() };
        let mut lines = vec![Line { ms: 0, entry: Entry::Opened(opened) }];
        for (ms, text) in spoken {
            let (mark, text) = text.split_at(1);
            let text = Text { socket: 4, text: text.replace('\n', "\r\n") };
            let entry = match mark {
                ">" => Entry::Sent(text),
                "<" => Entry::Received(text),
                _ => Entry::Closed(Closed { socket: 4, why: String::new() }),
            };
            lines.push(Line { ms: *ms, entry });
        }
        streams(&lines)
    }

    const ADD_A: &str = "LS_reqId=1&LS_op=add&LS_subId=1&LS_group=A";
    const ADD_B: &str = "LS_reqId=2&LS_op=add&LS_subId=2&LS_group=B%3A5";

    fn session() -> Vec<Stream> {
        recording(&[
            (10, ">wsok"),
            (10, ">create_session\nLS_user=ACCOUNT-1"),
            (20, "<WSOK\n"),
            (30, "<CONOK,SESSION-1,50000,5000,link.example\nSERVNAME,x\n"),
            (40, &format!(">control\n{ADD_A}\n{ADD_B}")),
            (50, "<SUBOK,1,1,2\nSUBOK,2,1,2\n"),
            (60, "<REQERR,2,-1,no, never\nU,1,1,a|b,c\n"),
            (1060, "<U,2,1,late"),
            (2000, "x"),
        ])
    }

    /// Plays until the deck wants to wait; what it said, and what it does then.
    fn play(deck: &mut Deck<'_>, now: Instant) -> (String, Step) {
        let mut said = String::new();
        loop {
            match deck.poll(now) {
                Step::Say(text) => said.push_str(&text.replace("\r\n", ";")),
                step => return (said, step),
            }
        }
    }

    fn says(text: &str, step: Step) -> (String, Step) {
        (text.to_owned(), step)
    }

    #[test]
    fn what_came_after_a_request_waits_for_the_clients_own_and_speaks_its_numbers() {
        let (streams, start) = (session(), monotonic());
        let mut deck = Deck::new(&streams[0], Speed::Max, true, SubIds::new(), start);
        assert_eq!(play(&mut deck, start), says("", Step::Wait(KEEPALIVE_DEFAULT)));
        assert_eq!(deck.receive("wsok", start), "WSOK\r\n");
        assert_eq!(play(&mut deck, start), says("", Step::Wait(KEEPALIVE_DEFAULT)));
        deck.receive("create_session\r\nLS_user=x", start);
        assert_eq!(
            play(&mut deck, start),
            says("CONOK,SESSION-1,50000,5000,*;SERVNAME,x;", Step::Wait(PATIENCE))
        );
        deck.receive("control\r\nLS_reqId=11&LS_op=add&LS_subId=7&LS_group=B%3A5", start);
        assert_eq!(play(&mut deck, start), says("", Step::Wait(PATIENCE)));
        deck.receive("control\r\nLS_reqId=12&LS_op=add&LS_subId=8&LS_group=A", start);
        let expected = "SUBOK,8,1,2;SUBOK,7,1,2;REQERR,11,-1,no, never;U,8,1,a|b,c;U,7,1,late;";
        assert_eq!(play(&mut deck, start), says(expected, Step::Wait(KEEPALIVE_DEFAULT)));
        assert!(deck.has_ended());
        let later = start + Duration::from_secs(5);
        assert_eq!(play(&mut deck, later), says("PROBE;", Step::Wait(KEEPALIVE_DEFAULT)));
        assert_eq!(deck.receive("control\r\nLS_reqId=13&LS_op=destroy", later), "REQOK,13\r\n");
        assert_eq!(play(&mut deck, later), says("END,31,Destroyed by the client;", Step::Close));
    }

    #[test]
    fn a_request_beside_the_stream_is_told_what_became_of_the_recorded_one_and_the_stream_is_silent_of_it() {
        let (streams, start) = (session(), monotonic());
        let mut deck = Deck::new(&streams[0], Speed::Max, true, SubIds::new(), start);
        assert_eq!(deck.receive("create_session\r\nLS_user=x", start), "");
        play(&mut deck, start);
        let adds = "control\r\nLS_reqId=11&LS_op=add&LS_subId=7&LS_group=B%3A5\r\nLS_reqId=12&LS_op=add&LS_subId=8&LS_group=A";
        assert_eq!(deck.receive_beside(adds, start), "REQERR,11,-1,no, never\r\nREQOK,12\r\n");
        let again = "control\r\nLS_reqId=13&LS_op=add&LS_subId=9&LS_group=B%3A5\r\nno parameters";
        assert_eq!(deck.receive_beside(again, start), "REQOK,13\r\nREQOK\r\n", "refused but once");
        assert_eq!(deck.receive_beside("heartbeat\r\n", start), "REQOK\r\n");
        let expected = "SUBOK,8,1,2;SUBOK,7,1,2;U,8,1,a|b,c;U,7,1,late;";
        assert_eq!(play(&mut deck, start), says(expected, Step::Wait(KEEPALIVE_DEFAULT)));
        assert_eq!(deck.receive_beside("control\r\nLS_reqId=14&LS_op=destroy", start), "REQOK,14\r\n");
        assert_eq!(play(&mut deck, start), says("END,31,Destroyed by the client;", Step::Close));
    }

    #[test]
    fn a_line_that_an_http_stream_broke_off_in_is_left_out() {
        let start = monotonic();
        let spoken =
            [(1, ">create_session\n"), (2, "<CONOK,S,50000,5000,*\nPROBE\nPRO"), (3, "<BE"), (4, "x")];
        for (kind, expected) in [
            (SocketKind::Http, "CONOK,S,50000,5000,*;PROBE;"),
            (SocketKind::Ws, "CONOK,S,50000,5000,*;PROBE;PRO;BE;"),
        ] {
            let streams = recording_over(kind, &spoken);
            let mut deck = Deck::new(&streams[0], Speed::Max, false, SubIds::new(), start);
            deck.receive("create_session\r\n", start);
            assert_eq!(play(&mut deck, start), says(expected, Step::Close));
        }
    }

    #[test]
    fn made_up_times_and_any_number_of_requests_are_borne() {
        let start = monotonic();
        let streams = recording(&[
            (0, ">create_session\n"),
            (u64::MAX, "<PROBE\n"),
            (u64::MAX, &format!(">control\n{ADD_A}")),
        ]);
        let mut deck = Deck::new(&streams[0], Speed::Times(0.001), true, SubIds::new(), start);
        deck.receive("create_session\r\n", start);
        assert_eq!(play(&mut deck, start), says("", Step::Wait(KEEPALIVE_DEFAULT)));
        for _ in 0..=WAITING_MAX {
            assert_eq!(deck.receive_beside(&format!("control\r\n{ADD_A}"), start), "REQOK,1\r\n");
        }
        assert_eq!(deck.waiting, WAITING_MAX);
    }

    #[test]
    fn what_the_client_does_not_subscribe_to_is_left_out() {
        let (streams, start) = (session(), monotonic());
        let mut deck = Deck::new(&streams[0], Speed::Max, true, SubIds::new(), start);
        deck.receive("create_session\r\n", start);
        deck.receive(&format!("control\r\n{ADD_B}"), start);
        play(&mut deck, start);
        assert_eq!(
            play(&mut deck, start + PATIENCE),
            says("SUBOK,2,1,2;REQERR,2,-1,no, never;U,2,1,late;", Step::Wait(KEEPALIVE_DEFAULT))
        );
    }

    #[test]
    fn distances_are_as_recorded_divided_by_the_speed() {
        let (streams, start) = (session(), monotonic());
        let at = |ms| start + Duration::from_millis(ms);
        let wait = |ms| Step::Wait(Duration::from_millis(ms));
        let mut deck = Deck::new(&streams[0], Speed::Times(2.0), false, SubIds::new(), start);
        deck.receive("create_session\r\n", at(500));
        assert_eq!(play(&mut deck, at(500)), says("", wait(5)), "WSOK, which is not repeated");
        assert_eq!(play(&mut deck, at(505)), says("", wait(5)), "20 ms after the request");
        assert_eq!(play(&mut deck, at(510)).1, Step::Wait(PATIENCE));
        deck.receive(&format!("control\r\n{ADD_A}\r\n{ADD_B}"), at(1000));
        assert_eq!(play(&mut deck, at(1000)).1, wait(5));
        assert_eq!(
            play(&mut deck, at(1010)),
            says("SUBOK,1,1,2;SUBOK,2,1,2;REQERR,2,-1,no, never;U,1,1,a|b,c;", wait(500))
        );
        assert_eq!(play(&mut deck, at(1510)), says("U,2,1,late;", wait(470)));
        assert_eq!(play(&mut deck, at(1980)), says("", Step::Close));
    }

    #[test]
    fn subscriptions_outlive_a_connection_and_end_with_the_session() {
        let start = monotonic();
        let bound =
            recording(&[(1, ">bind_session\nLS_session=SESSION-1"), (2, "<U,1,1,x\nUNSUB,2\n"), (3, "x")]);
        let sub_ids = SubIds::from([("1".to_owned(), "5".to_owned())]);
        let mut deck = Deck::new(&bound[0], Speed::Max, false, sub_ids.clone(), start);
        deck.receive("bind_session\r\nLS_session=SESSION-1", start);
        assert_eq!(play(&mut deck, start), says("U,5,1,x;", Step::Close));
        assert_eq!(deck.into_sub_ids(), sub_ids);
        let created = recording(&[(1, ">create_session\n"), (2, "<U,1,1,x\n"), (3, "x")]);
        let mut deck = Deck::new(&created[0], Speed::Max, false, sub_ids, start);
        deck.receive("create_session\r\n", start);
        assert_eq!(play(&mut deck, start), says("", Step::Close));
    }

    #[test]
    fn the_recorded_clients_own_end_is_not_played_to_one_that_stays() {
        let start = monotonic();
        let stopped = recording(&[
            (1, ">create_session\n"),
            (2, ">control\nLS_reqId=9&LS_op=destroy"),
            (3, "<END,31,bye\n"),
            (4, "x"),
        ]);
        let mut deck = Deck::new(&stopped[0], Speed::Max, true, SubIds::new(), start);
        deck.receive("create_session\r\n", start);
        assert_eq!(play(&mut deck, start), says("", Step::Wait(KEEPALIVE_DEFAULT)));
        assert!(deck.has_ended());
    }

    #[test]
    fn the_stream_does_not_run_ahead_of_what_is_asked_over_rest() {
        let start = monotonic();
        let request =
            |id| Request { id, method: "GET".into(), path: "/a".into(), version: 1, body: Body::default() };
        let answer =
            |id| Answer { id, status: 200, headers: Headers::default(), body: Body::default(), took_ms: 1 };
        let text = |text: &str| Text { socket: 1, text: text.to_owned() };
        let entries = [
            Entry::Request(request(1)),
            Entry::Answer(answer(1)),
            Entry::Opened(Opened { socket: 1, kind: SocketKind::Ws, url: String::new() }),
            Entry::Sent(text("create_session\r\n")),
            Entry::Received(text("a")),
            Entry::Request(request(2)),
            Entry::Request(request(3)),
            Entry::Received(text("b")),
            Entry::Answer(answer(3)),
            Entry::Request(request(4)),
            Entry::Answer(answer(4)),
            Entry::Received(text("c")),
        ];
        let lines: Vec<Line> = (0..).step_by(10).zip(entries).map(|(ms, entry)| Line { ms, entry }).collect();
        let streams = streams(&lines);
        let mut deck = Deck::new(&streams[0], Speed::Max, true, SubIds::new(), start);
        deck.receive("create_session\r\n", start);
        assert_eq!(play(&mut deck, start), says("", Step::Wait(KEEPALIVE_DEFAULT)));
        deck.asked(1, start);
        assert_eq!(play(&mut deck, start), says("a;", Step::Wait(KEEPALIVE_DEFAULT)));
        deck.asked(2, start);
        assert_eq!(
            play(&mut deck, start),
            says("b;", Step::Wait(KEEPALIVE_DEFAULT)),
            "one was never answered"
        );
        let later = start + REST_PATIENCE - Duration::from_secs(1);
        assert_eq!(play(&mut deck, later), says("", Step::Wait(Duration::from_secs(1))));
        assert_eq!(play(&mut deck, start + REST_PATIENCE), says("c;", Step::Wait(KEEPALIVE_DEFAULT)));
    }

    #[test]
    fn what_begins_a_stream_does_not_wait_for_rest() {
        let start = monotonic();
        let request =
            Request { id: 1, method: "GET".into(), path: "/a".into(), version: 1, body: Body::default() };
        let answer =
            Answer { id: 1, status: 200, headers: Headers::default(), body: Body::default(), took_ms: 1 };
        for (told, at_once, later) in [
            ("CONOK,S,50000,5000,*\r\nPROG,1\r\n", "CONOK,S,50000,5000,*;", "PROG,1;"),
            ("WSOK\r\nCONERR,20,gone", "CONERR,20,gone;", ""),
            ("PROG,1\r\nCONOK,S,50000,5000,*\r\n", "", "PROG,1;CONOK,S,50000,5000,*;"),
        ] {
            let text = |text: &str| Text { socket: 1, text: text.to_owned() };
            let entries = [
                Entry::Request(request.clone()),
                Entry::Answer(answer.clone()),
                Entry::Opened(Opened { socket: 1, kind: SocketKind::Ws, url: String::new() }),
                Entry::Sent(text("bind_session\r\n")),
                Entry::Received(text(told)),
            ];
            let streams = streams(&entries.map(|entry| Line { ms: 0, entry }));
            let mut deck = Deck::new(&streams[0], Speed::Max, true, SubIds::new(), start);
            deck.receive("bind_session\r\n", start);
            assert_eq!(play(&mut deck, start), says(at_once, Step::Wait(KEEPALIVE_DEFAULT)));
            deck.asked(1, start);
            assert_eq!(play(&mut deck, start), says(later, Step::Wait(KEEPALIVE_DEFAULT)));
        }
    }

    #[test]
    fn a_new_subscription_of_a_group_follows_the_clients_new_one() {
        let start = monotonic();
        let again = recording(&[
            (1, ">create_session\n"),
            (2, &format!(">control\n{ADD_A}")),
            (3, "<U,1,1,x\n"),
            (4, ">control\nLS_reqId=5&LS_op=delete&LS_subId=1"),
            (5, "<UNSUB,1\nREQOK,5\n"),
            (6, ">control\nLS_reqId=6&LS_op=add&LS_subId=3&LS_group=A"),
            (7, "<U,3,1,y\n"),
        ]);
        let mut deck = Deck::new(&again[0], Speed::Max, true, SubIds::new(), start);
        deck.receive("create_session\r\n", start);
        deck.receive(&format!("control\r\n{ADD_A}"), start);
        assert_eq!(play(&mut deck, start), says("U,1,1,x;", Step::Wait(PATIENCE)));
        deck.receive(
            "control\r\nLS_reqId=25&LS_op=delete&LS_subId=1\r\nLS_reqId=26&LS_op=add&LS_subId=2&LS_group=A",
            start,
        );
        assert_eq!(play(&mut deck, start), says("UNSUB,1;REQOK,25;U,2,1,y;", Step::Wait(KEEPALIVE_DEFAULT)));
    }
}
