//! One recorded stream, played to a client that is not quite the recorded one. Pure.
//!
//! What came after a request in the recording comes after the client's own request of that kind,
//! and then at the recorded distance. The client numbers its subscriptions and requests as it
//! likes: recorded numbers are translated by what was subscribed.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::simulator::clock::Speed;
use crate::simulator::tlcp::{Message, Params};
use crate::transcript::format::{Closed, Entry, Line, Opened, Text};

/// How long a recorded subscription waits for the client to make it too, before what belongs to
/// it is left out.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest silence before a `PROBE` while the recording says none.
const KEEPALIVE_DEFAULT: Duration = Duration::from_secs(5);

/// What was said on one connection, with its time in milliseconds.
#[derive(Debug, Default)]
pub(super) struct Stream(Vec<(u64, Spoken)>);

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
    Other,
}

/// The recorded streams, in the order of their connections.
pub(super) fn streams(lines: &[Line]) -> Vec<Stream> {
    let mut streams: Vec<Stream> = Vec::new();
    let mut place: HashMap<u64, usize> = HashMap::new();
    for Line { ms, entry } in lines {
        let (socket, spoken) = match entry {
            Entry::Opened(Opened { socket, .. }) => {
                place.insert(*socket, streams.len());
                streams.push(Stream::default());
                (socket, Spoken::Opened)
            }
            Entry::Sent(Text { socket, text }) => (socket, Spoken::Sent(read(text))),
            Entry::Received(Text { socket, text }) => (socket, Spoken::Received(text.clone())),
            Entry::Closed(Closed { socket, .. }) => (socket, Spoken::Closed),
            _ => continue,
        };
        if let Some(stream) = place.get(socket) {
            streams[*stream].0.push((*ms, spoken));
        }
    }
    streams
}

/// Reads one message of a client.
fn read(text: &str) -> Vec<Said> {
    let message = Message::parse(text);
    let control = |line: &&str| {
        let Ok(params) = Params::parse(line) else { return Said::Other };
        let get = |name| params.get(name).unwrap_or_default().to_owned();
        let (sub_id, request_id) = (get("LS_subId"), get("LS_reqId"));
        match params.get("LS_op") {
            Some("add") => Said::Add { group: get("LS_group"), sub_id, request_id },
            Some("delete") => Said::Delete { sub_id, request_id },
            Some("destroy") => Said::Destroy { request_id },
            _ => Said::Other,
        }
    };
    match message.name {
        "wsok" => vec![Said::Hello],
        "create_session" => vec![Said::Create],
        "bind_session" => vec![Said::Bind],
        "control" => message.lines.iter().map(control).collect(),
        _ => vec![Said::Other],
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
    keepalive: Option<Duration>,
    last_said: Instant,
    sub_ids: SubIds,
    request_ids: HashMap<String, String>,
    /// What the client has asked for and the recording has not come to yet.
    begun: u32,
    adds: HashMap<String, VecDeque<(String, String)>>,
    deletes: HashMap<String, VecDeque<String>>,
    replies: VecDeque<String>,
    is_destroyed: bool,
}

impl<'a> Deck<'a> {
    /// Begins to play. `sub_ids` are those that the stream before left behind.
    pub fn new(stream: &'a Stream, speed: Speed, is_last: bool, sub_ids: SubIds, now: Instant) -> Deck<'a> {
        let opened_ms = stream.0.first().map_or(0, |(ms, _)| *ms);
        Deck {
            stream,
            next: 0,
            speed,
            is_last,
            anchor: (now, opened_ms),
            waiting_since: None,
            keepalive: None,
            last_said: now,
            sub_ids,
            request_ids: HashMap::new(),
            begun: 0,
            adds: HashMap::new(),
            deletes: HashMap::new(),
            replies: VecDeque::new(),
            is_destroyed: false,
        }
    }

    /// What the next stream has to know.
    pub fn into_sub_ids(self) -> SubIds {
        self.sub_ids
    }

    /// Whether all of it has been played.
    pub fn has_ended(&self) -> bool {
        match self.stream.0.get(self.next) {
            None | Some((_, Spoken::Closed)) => true,
            Some((_, Spoken::Sent(said))) => said.iter().any(|said| matches!(said, Said::Destroy { .. })),
            _ => false,
        }
    }

    /// The client said something.
    pub fn receive(&mut self, text: &str, now: Instant) {
        self.waiting_since = self.waiting_since.map(|_| now);
        for said in read(text) {
            match said {
                Said::Hello => self.replies.push_back("WSOK\r\n".to_owned()),
                Said::Create | Said::Bind => self.begun += 1,
                Said::Add { group, sub_id, request_id } => {
                    self.adds.entry(group).or_default().push_back((sub_id, request_id));
                }
                Said::Delete { sub_id, request_id } => {
                    self.deletes.entry(sub_id).or_default().push_back(request_id);
                }
                Said::Destroy { request_id } => {
                    self.replies
                        .push_back(format!("REQOK,{request_id}\r\nEND,31,Destroyed by the client\r\n"));
                    self.is_destroyed = true;
                }
                Said::Other => {}
            }
        }
    }

    /// What to do now. To be asked again after each step, and when the client has said something.
    pub fn poll(&mut self, now: Instant) -> Step {
        if let Some(reply) = self.replies.pop_front() {
            self.last_said = now;
            return Step::Say(reply);
        }
        if self.is_destroyed {
            return Step::Close;
        }
        let stream = self.stream;
        while let Some((ms, spoken)) = stream.0.get(self.next) {
            let wait = self.due(*ms).saturating_duration_since(now);
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
        let passed = Duration::from_millis(ms.saturating_sub(anchor_ms));
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
                    self.request_ids.insert(request_id.clone(), live_request);
                }
            }
            Said::Delete { sub_id, request_id } => {
                let live = self.sub_ids.get(sub_id).and_then(|live| self.deletes.get_mut(live));
                if let Some(live_request) = live.and_then(VecDeque::pop_front) {
                    self.request_ids.insert(request_id.clone(), live_request);
                }
            }
            Said::Hello | Said::Destroy { .. } | Said::Other => {}
        }
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
    use crate::transcript::format::SocketKind;

    /// `>` sent, `<` received, `x` closed, each with its time.
    fn recording(spoken: &[(u64, &str)]) -> Vec<Stream> {
        let opened = Opened { socket: 4, kind: SocketKind::Ws, url: String::new() };
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
        deck.receive("wsok", start);
        assert_eq!(play(&mut deck, start), says("WSOK;", Step::Wait(KEEPALIVE_DEFAULT)));
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
        deck.receive("control\r\nLS_reqId=13&LS_op=destroy", later);
        assert_eq!(play(&mut deck, later), says("REQOK,13;END,31,Destroyed by the client;", Step::Close));
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
