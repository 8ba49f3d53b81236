//! Scripted conversations: each test is one transcript of what is done to a session and what it
//! answers, on virtual time.
//!
//! | line | meaning |
//! |---|---|
//! | `options version=2.1.0 inactivity=10s` | how the session is made; first line only |
//! | `connecting`, `open`, `destroy` | the calls of those names |
//! | `closed`, `closed unreachable`, `closed refused` | the connection is gone or could not be had |
//! | `subscribe 7 unfiltered ITEM A B C` | tag, optional words `unfiltered`, `bare` (no snapshot) and `again` (on probation), group, fields |
//! | `unsubscribe 7`, `resubscribe 7` | by tag |
//! | `S: WSOK⏎CONOK,S1,50000,5000,*` | one message from the server; `⏎` is CR-LF, and stands for itself at the end unless `…` does |
//! | `+5s`, `+1500ms` | time passes, with every timeout on the way |
//! | `unread` | the connection was not read until now |
//! | `count` | answered by `= data 15, skipped 0` |
//! | `H: …` | bytes of an HTTP stream; `⏎` is CR-LF |
//! | `A: …` | the answer to a request over HTTP |
//! | `C: …` | one message that the session sends; over HTTP its path and its body |
//! | `W: …` | the connection that it wants now, if that is another than before |
//! | `E: …` | one event; after time passed with the moment since the line's start |
//!
//! Lines of the last two kinds and `=` are answers: they must stand exactly where they come.

use std::collections::HashMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use super::lines::LINE_BYTES_MAX;
use super::session::Purpose;
use super::{
    Change, EndCause, Event, Lost, Options, Post, SubId, SubscriptionSpec, TlcpSession, Transmit, Transport,
    Version,
};

mod continuity;
mod hostile;
mod http;
mod recovering;
mod refusing;

/// Plays the stimuli of `transcript` and checks that playing them gives just that transcript.
fn check(transcript: &str) {
    let expected: Vec<&str> = transcript.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut stage = Stage::new(&expected);
    let is_stimulus = |line: &&&str| !["C:", "E:", "W:", "="].iter().any(|answer| line.starts_with(answer));
    expected.iter().filter(is_stimulus).for_each(|line| stage.play(line));
    let played: Vec<&str> = stage.transcript.lines().collect();
    assert!(played == expected, "played:\n{}\nexpected:\n{}", played.join("\n"), expected.join("\n"));
}

struct Stage {
    session: TlcpSession,
    now: Instant,
    handles: HashMap<u16, SubId>,
    /// The wish for a connection as told last.
    wanted: String,
    transcript: String,
}

impl Stage {
    fn new(script: &[&str]) -> Stage {
        let mut options = Options { first_retry_max: Duration::ZERO, ..Options::default() };
        let wanted = script.first().and_then(|line| line.strip_prefix("options")).unwrap_or("");
        for option in wanted.split_whitespace() {
            match option.split_once('=').expect("options are name=value") {
                ("version", number) => options.version = Version::parse(number).expect("a version"),
                ("inactivity", text) => options.inactivity = Some(duration(text)),
                ("keepalive", text) => options.keepalive = Some(duration(text)),
                ("adapter_set", name) => options.adapter_set = Some(name.to_owned()),
                ("recovery", text) => options.recovery = duration(text),
                ("websocket_again", text) => options.websocket_again = duration(text),
                ("content_length", bytes) => options.content_length = bytes.parse().expect("a number"),
                ("transport", "http") => options.transport = Transport::Http,
                ("only", transport) => {
                    options.both_transports = false;
                    options.transport =
                        if transport == "http" { Transport::Http } else { Transport::WebSocket };
                }
                ("first_request_id", id) => options.first_request_id = id.parse().expect("a number"),
                (name, _) => panic!("no option {name}"),
            }
        }
        Stage {
            session: TlcpSession::new(options, "ABC12".to_owned(), "CST-a|XST-b".to_owned()),
            now: base(),
            handles: HashMap::new(),
            wanted: String::new(),
            transcript: String::new(),
        }
    }

    fn play(&mut self, line: &str) {
        self.say(line);
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut events = Vec::new();
        let mut on_event = |event: Event<'_>| events.push(show(&event));
        match words.as_slice() {
            ["options", ..] => {}
            ["connecting"] => self.session.handle_connecting(self.now),
            ["open"] => self.session.handle_open(self.now),
            ["unread"] => self.session.excuse_silence(self.now),
            ["closed", how @ ..] => {
                let lost = match how {
                    [] => Lost::Closed,
                    ["unreachable"] => Lost::Unreachable,
                    ["refused"] => Lost::Refused,
                    _ => panic!("not understood: {line}"),
                };
                self.session.handle_closed(self.now, lost, &mut on_event);
            }
            ["destroy"] => self.session.destroy(),
            ["subscribe", tag, rest @ ..] => {
                let (words, rest) = rest.split_at(
                    rest.iter().take_while(|w| ["unfiltered", "bare", "again"].contains(w)).count(),
                );
                let tag = tag.parse().expect("a tag");
                let spec = SubscriptionSpec {
                    group: rest[0].to_owned(),
                    schema: rest[1..].join(" "),
                    fields: u16::try_from(rest.len() - 1).expect("few fields"),
                    snapshot: !words.contains(&"bare"),
                    unfiltered: words.contains(&"unfiltered"),
                    tag,
                };
                let handle = match words.contains(&"again") {
                    true => self.session.subscribe_on_probation(spec),
                    false => self.session.subscribe(spec),
                };
                assert!(self.session.holds(tag));
                self.handles.insert(tag, handle);
            }
            ["unsubscribe", tag] => self.session.unsubscribe(self.handles[&tag.parse().expect("a tag")]),
            ["resubscribe", tag] => {
                self.session.resubscribe(self.now, tag.parse().expect("a tag"));
            }
            ["S:", ..] => {
                let message = match line["S: ".len()..].strip_suffix('…') {
                    Some(unended) => unended.replace('⏎', "\r\n"),
                    None => line["S: ".len()..].trim_end_matches('⏎').replace('⏎', "\r\n") + "\r\n",
                };
                self.session.handle_message(self.now, &message, &mut on_event);
            }
            ["H:", ..] => {
                let bytes = line["H: ".len()..].replace('⏎', "\r\n");
                self.session.handle_bytes(self.now, bytes.as_bytes(), &mut on_event);
            }
            ["A:", ..] => {
                let answer = line["A: ".len()..].replace('⏎', "\r\n");
                self.session.handle_answer(self.now, &answer, &mut on_event);
            }
            ["count"] => {
                let (data, skipped) = (self.session.data_count(), self.session.skipped_count());
                self.say(&format!("= data {data}, skipped {skipped}"));
            }
            [time] if time.starts_with('+') => return self.pass(duration(&time[1..])),
            _ => panic!("not understood: {line}"),
        }
        self.answer(&events, "");
    }

    fn pass(&mut self, time: Duration) {
        let (start, end) = (self.now, self.now + time);
        while let Some(at) = self.session.next_timeout().filter(|&at| at <= end) {
            assert!(at > self.now || self.now == start, "a timeout must not come back at once");
            self.now = at.max(self.now);
            let mut events = Vec::new();
            self.session.handle_timeout(self.now, &mut |event| events.push(show(&event)));
            self.answer(&events, &format!(" (after {:?})", self.now - start));
        }
        self.now = end;
    }

    fn answer(&mut self, events: &[String], when: &str) {
        events.iter().for_each(|event| self.say(&format!("E: {event}{when}")));
        while let Some(transmit) = self.session.poll_transmit() {
            self.say(&format!("C: {}{when}", text(transmit).replace("\r\n", "⏎")));
        }
        let wanted = self.show_wanted();
        if !wanted.is_empty() && wanted != self.wanted {
            self.say(&format!("W: {wanted}{when}"));
        }
        self.wanted = wanted;
    }

    /// Purpose, transport, how long from now, and where to. The first wish of all goes without
    /// saying.
    fn show_wanted(&self) -> String {
        let Some(wanted) = self.session.wanted().filter(|wanted| wanted.purpose != Purpose::Create) else {
            return String::new();
        };
        let purpose = if wanted.purpose == Purpose::Bind { "bind" } else { "recover" };
        let wait = wanted.not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(self.now));
        let when = if wait.is_zero() { String::new() } else { format!(" in {wait:?}") };
        let link = wanted.control_link.map_or(String::new(), |link| format!(" at {link}"));
        format!("{purpose} over {}{when}{link}", wanted.transport.as_str())
    }

    fn say(&mut self, line: &str) {
        writeln!(self.transcript, "{line}").expect("a String takes any text");
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "an Instant has no other source; only distances from it matter"
)]
fn base() -> Instant {
    Instant::now()
}

/// What goes out, over HTTP as path, a space, and body.
fn text(transmit: Transmit) -> String {
    match transmit {
        Transmit::Message(text) => text,
        Transmit::Post(Post { path, body, .. }) => format!("{path} {body}"),
    }
}

fn duration(text: &str) -> Duration {
    match text.strip_suffix("ms") {
        Some(number) => Duration::from_millis(number.parse().expect("a number")),
        None => Duration::from_secs(text.strip_suffix('s').and_then(|n| n.parse().ok()).expect("seconds")),
    }
}

fn show(event: &Event<'_>) -> String {
    match event {
        Event::Established { session_id, keepalive, request_limit_bytes, control_link } => {
            let link = control_link.unwrap_or("here");
            format!(
                "established {session_id} keepalive {keepalive:?} limit {request_limit_bytes} link {link}"
            )
        }
        Event::Subscribed { tag, items, fields } => format!("{tag} subscribed items {items} fields {fields}"),
        Event::Configured { tag, unfiltered, frequency } => {
            format!("{tag} configured {} {frequency}", if *unfiltered { "unfiltered" } else { "filtered" })
        }
        Event::Update { tag, item, first, changes } => {
            // Nearly all of these items have two fields.
            let fields = changes.iter().last().map_or(2, |last| 2.max(last.field + 1));
            let changes =
                (0..fields).map(|field| match changes.iter().find(|change| change.field == field) {
                    None => "-".to_owned(),
                    Some(Change { value: None, .. }) => "null".to_owned(),
                    Some(Change { value: Some(text), .. }) => format!("{text:?}"),
                });
            let kind = if *first { "first" } else { "update" };
            format!("{tag} {kind} item {item}: {}", changes.collect::<Vec<_>>().join(" "))
        }
        Event::Overflow { tag, item, dropped } => format!("{tag} overflow item {item} dropped {dropped}"),
        Event::Refused { tag, code, text, verdict } => format!("{tag} refused {code} {verdict:?}: {text}"),
        Event::Unanswered { tag } => format!("{tag} unanswered"),
        Event::Unsubscribed { tag, asked } => {
            format!("{tag} unsubscribed{}", if *asked { "" } else { " by the server" })
        }
        Event::Fault { tag, reason, line } => format!("{tag} fault, {reason}: {line}"),
        Event::Skipped { reason, line } => format!("skipped, {reason}: {line}"),
        Event::Interrupted { cause } => format!("interrupted, {cause}"),
        Event::Rebound { keepalive, recovering, control_link } => {
            let how = if *recovering { "recovering" } else { "rebound" };
            let link = control_link.map_or(String::new(), |link| format!(" link {link}"));
            format!("{how} keepalive {keepalive:?}{link}")
        }
        Event::Recovered { repeated } => format!("recovered, {repeated} repeated"),
        Event::Ended { cause } => match cause {
            EndCause::Refused { policy, .. }
            | EndCause::Closed { policy, .. }
            | EndCause::Request { policy, .. } => {
                let alarm = policy.alarm_at.map_or(String::new(), |at| format!(", alarm at {at}"));
                format!("ended, {cause} → {:?}{alarm}", policy.step)
            }
            _ => format!("ended, {cause}"),
        },
    }
}

// The start.

#[test]
fn good_start_sends_wsok_and_create_session_back_to_back_and_all_adds_in_one_message() {
    check(
        "subscribe 10 CHART:X:5MINUTE UTM BID
         subscribe 11 unfiltered CHART:Y:5MINUTE UTM BID
         subscribe 12 bare CHART:Z:5MINUTE UTM
         open
         C: wsok
         C: create_session⏎LS_user=ABC12&LS_cid=mgQkwtwdysogQz2BJ4Ji%20kOj2Bg&LS_supported_diffs=&LS_send_sync=false&LS_password=CST-a%7CXST-b
         S: WSOK⏎
         S: CONOK,S1,50000,5000,apd245f.marketdatasystems.com⏎SERVNAME,Lightstreamer HTTPS, NSE⏎CLIENTIP,172.28.3.205⏎CONS,unlimited⏎
         E: established S1 keepalive 5s limit 50000 link apd245f.marketdatasystems.com
         C: control⏎LS_reqId=1&LS_op=add&LS_subId=1&LS_mode=MERGE&LS_group=CHART%3AX%3A5MINUTE&LS_schema=UTM%20BID&LS_snapshot=true&LS_ack=false⏎LS_reqId=2&LS_op=add&LS_subId=2&LS_mode=MERGE&LS_group=CHART%3AY%3A5MINUTE&LS_schema=UTM%20BID&LS_snapshot=true&LS_requested_max_frequency=unfiltered&LS_ack=false⏎LS_reqId=3&LS_op=add&LS_subId=3&LS_mode=MERGE&LS_group=CHART%3AZ%3A5MINUTE&LS_schema=UTM&LS_snapshot=false&LS_ack=false
         S: SUBOK,1,1,2⏎CONF,1,20.0,filtered⏎SUBOK,2,1,2⏎U,1,1,1700000040000|1.0850⏎CONF,2,unlimited,unfiltered⏎
         E: 10 subscribed items 1 fields 2
         E: 10 configured filtered 20.0
         E: 11 subscribed items 1 fields 2
         E: 10 first item 1: \"1700000040000\" \"1.0850\"
         E: 11 configured unfiltered unlimited
         S: SUBOK,3,1,1⏎U,1,1,|1.0851⏎
         E: 12 subscribed items 1 fields 1
         E: 10 update item 1: - \"1.0851\"
         count
         = data 7, skipped 0",
    );
}

/// A bound session; subscriptions of `tags` to items named by their tag with fields A and B.
fn bound(tags: &[u16], conversation: &str) -> String {
    let mut script = String::from(
        "open
         C: wsok
         C: create_session⏎LS_user=ABC12&LS_cid=mgQkwtwdysogQz2BJ4Ji%20kOj2Bg&LS_supported_diffs=&LS_send_sync=false&LS_password=CST-a%7CXST-b
         S: WSOK⏎CONOK,S1,50000,5000,*⏎
         E: established S1 keepalive 5s limit 50000 link here\n",
    );
    for (at, tag) in tags.iter().enumerate() {
        writeln!(script, "subscribe {tag} i{tag} A B\nC: control⏎{}", add(at + 1, at + 1, *tag)).unwrap();
    }
    script + conversation
}

/// As [`bound`], with every subscription confirmed and one update received: `C` `D` hold 2 data
/// lines per tag.
fn active(tags: &[u16], conversation: &str) -> String {
    let mut script = String::new();
    for (at, tag) in tags.iter().enumerate() {
        let id = at + 1;
        writeln!(
            script,
            "S: SUBOK,{id},1,2⏎U,{id},1,a|b⏎
             E: {tag} subscribed items 1 fields 2
             E: {tag} first item 1: \"a\" \"b\""
        )
        .unwrap();
    }
    bound(tags, &(script + conversation))
}

/// The parameter line of an `add` of item `i{tag}`.
fn add(request_id: usize, sub_id: usize, tag: u16) -> String {
    format!(
        "LS_reqId={request_id}&LS_op=add&LS_subId={sub_id}&LS_mode=MERGE&LS_group=i{tag}&LS_schema=A%20B&LS_snapshot=true&LS_ack=false"
    )
}

fn delete(request_id: usize, sub_id: usize) -> String {
    format!("LS_reqId={request_id}&LS_op=delete&LS_subId={sub_id}&LS_ack=false")
}

const BREAKS: &str = "closed
    E: interrupted, connection closed
    W: recover over websocket\n";

const LOOPS: &str = "S: LOOP,0
    E: interrupted, server asks for a new bind in 0ns
    W: bind over websocket\n";

/// Opens the next WebSocket and has it bound, without or with a recovery from a count.
fn bind(from: Option<u64>) -> String {
    let (how, from) = match from {
        Some(count) => ("recovering", format!("&LS_recovery_from={count}")),
        None => ("rebound", String::new()),
    };
    format!(
        "open
         C: wsok
         C: bind_session⏎LS_session=S1{from}&LS_keepalive_millis=5000&LS_send_sync=false
         S: WSOK⏎CONOK,S1,50000,5000,*⏎
         E: {how} keepalive 5s\n"
    )
}

fn rebound() -> String {
    bind(None)
}

fn recovering(count: u64) -> String {
    bind(Some(count))
}

#[test]
fn older_versions_get_only_what_they_know() {
    check(
        "options version=2.1.0 adapter_set=DEFAULT first_request_id=41
         subscribe 1 i A
         open
         C: create_session⏎LS_adapter_set=DEFAULT&LS_user=ABC12&LS_cid=mgQkwtwdysogQz2BJ4Ji%20kOj2Bg&LS_send_sync=false&LS_password=CST-a%7CXST-b
         S: CONOK,S1,50000,5000,*⏎
         E: established S1 keepalive 5s limit 50000 link here
         C: control⏎LS_reqId=41&LS_session=S1&LS_op=add&LS_subId=1&LS_mode=MERGE&LS_group=i&LS_schema=A&LS_snapshot=true
         S: REQOK,41⏎SUBOK,1,1,1
         E: 1 subscribed items 1 fields 1
         destroy
         C: control⏎LS_reqId=42&LS_session=S1&LS_op=destroy&LS_close_socket=true",
    );
}

#[test]
fn adds_are_split_over_messages_at_the_request_limit() {
    let two = "control⏎".len() - 1 + add(1, 1, 1).len() + 2 + add(2, 2, 2).len();
    for (limit, expected) in [
        (two, format!("C: control⏎{}⏎{}\nC: control⏎{}", add(1, 1, 1), add(2, 2, 2), add(3, 3, 3))),
        (
            10,
            format!("C: control⏎{}\nC: control⏎{}\nC: control⏎{}", add(1, 1, 1), add(2, 2, 2), add(3, 3, 3)),
        ),
    ] {
        check(&format!(
            "subscribe 1 i1 A B
             subscribe 2 i2 A B
             subscribe 3 i3 A B
             open
             C: wsok
             C: create_session⏎LS_user=ABC12&LS_cid=mgQkwtwdysogQz2BJ4Ji%20kOj2Bg&LS_supported_diffs=&LS_send_sync=false&LS_password=CST-a%7CXST-b
             S: CONOK,S1,{limit},5000,*
             E: established S1 keepalive 5s limit {limit} link here
             {expected}",
        ));
    }
}

#[test]
fn the_code_of_a_refused_session_says_how_to_come_back() {
    for (line, expected) in [
        (
            "CONERR,1,User/password check failed",
            "session refused: 1 User/password check failed → LoginThenSlow, alarm at 2",
        ),
        ("CONERR,-1,Invalid, account", "session refused: -1 Invalid, account → LoginThenBackoff, alarm at 3"),
        ("CONERR,5,Overloaded", "session refused: 5 Overloaded → Backoff"),
        (
            "CONERR,65,Unsupported protocol version: 2.5.0",
            "session refused: 65 Unsupported protocol version: 2.5.0 → OlderVersion",
        ),
        ("CONERR,65,Bad value", "session refused: 65 Bad value → Slow, alarm at 1"),
        ("CONERR,8,%4Caden", "session refused: 8 Laden → Slow, alarm at 1"),
        (
            "END,48,Session duration expired",
            "session closed by the server: 48 Session duration expired → AtOnce",
        ),
        ("ERROR,67,malformed", "session void after a request: 67 malformed → Backoff"),
    ] {
        check(&format!(
            "open
             C: wsok
             C: create_session⏎LS_user=ABC12&LS_cid=mgQkwtwdysogQz2BJ4Ji%20kOj2Bg&LS_supported_diffs=&LS_send_sync=false&LS_password=CST-a%7CXST-b
             S: WSOK⏎{line}⏎PROBE⏎
             E: ended, {expected}
             S: CONOK,S1,50000,5000,*
             +60s
             closed"
        ));
    }
}

#[test]
fn no_conok_in_time_ends_it_and_tells_whether_the_websocket_works() {
    check(
        "open
         C: wsok
         C: create_session⏎LS_user=ABC12&LS_cid=mgQkwtwdysogQz2BJ4Ji%20kOj2Bg&LS_supported_diffs=&LS_send_sync=false&LS_password=CST-a%7CXST-b
         +3999ms
         +10s
         E: ended, no session in time (WebSocket works: false) (after 1ms)",
    );
    check(
        "open
         C: wsok
         C: create_session⏎LS_user=ABC12&LS_cid=mgQkwtwdysogQz2BJ4Ji%20kOj2Bg&LS_supported_diffs=&LS_send_sync=false&LS_password=CST-a%7CXST-b
         +3s
         S: WSOK⏎
         +3s
         E: ended, no session in time (WebSocket works: true) (after 1s)",
    );
}

#[test]
fn a_conok_that_cannot_be_read_or_was_not_asked_for_ends_it() {
    check(
        "open
         C: wsok
         C: create_session⏎LS_user=ABC12&LS_cid=mgQkwtwdysogQz2BJ4Ji%20kOj2Bg&LS_supported_diffs=&LS_send_sync=false&LS_password=CST-a%7CXST-b
         S: CONOK,S1,lots,5000,*
         E: ended, bad CONOK: bad number",
    );
    check(&bound(&[], "S: CONOK,S2,50000,5000,*\nE: ended, unexpected CONOK"));
}

// Subscriptions.

#[test]
fn one_refused_of_three_leaves_the_others_running() {
    check(&bound(
        &[10, 11, 12],
        "S: REQERR,2,-1,Insufficient permissions, sorry⏎SUBOK,1,1,2⏎SUBOK,3,1,2⏎U,3,1,a|b⏎U,1,1,c|d⏎
         E: 11 refused -1 Adapter: Insufficient permissions, sorry
         E: 10 subscribed items 1 fields 2
         E: 12 subscribed items 1 fields 2
         E: 12 first item 1: \"a\" \"b\"
         E: 10 first item 1: \"c\" \"d\"
         count
         = data 4, skipped 0
         +9s",
    ));
}

#[test]
fn a_refused_subscription_can_be_asked_for_again() {
    check(&bound(
        &[10],
        &format!(
            "S: REQERR,1,66,adapter%20down
             E: 10 refused 66 RetryLater: adapter down
             subscribe 10 i10 A B
             C: control⏎{}
             S: SUBOK,2,1,2
             E: 10 subscribed items 1 fields 2",
            add(2, 2, 10)
        ),
    ));
}

#[test]
fn unfiltered_refused_is_asked_for_once_more_without() {
    let unfiltered = add(1, 1, 7).replace("&LS_ack", "&LS_requested_max_frequency=unfiltered&LS_ack");
    for code in [26, 27, 28] {
        check(&bound(
            &[],
            &format!(
                "subscribe 7 unfiltered i7 A B
                 C: control⏎{unfiltered}
                 S: REQERR,1,{code},Unfiltered not allowed
                 C: control⏎{}
                 S: SUBOK,2,1,2⏎CONF,2,1.0,filtered
                 E: 7 subscribed items 1 fields 2
                 E: 7 configured filtered 1.0
                 resubscribe 7
                 C: control⏎{}⏎{}",
                add(2, 2, 7),
                delete(3, 2),
                add(4, 3, 7),
            ),
        ));
    }
}

#[test]
fn unfiltered_refused_in_spite_of_that_is_reported() {
    check(&bound(
        &[7],
        "S: REQERR,1,26,Unfiltered not allowed
         E: 7 refused 26 WithoutUnfiltered: Unfiltered not allowed",
    ));
}

#[test]
fn a_request_refused_for_the_sessions_sake_ends_the_session() {
    check(&bound(
        &[7],
        "S: REQERR,1,20,Session not found
         E: 7 refused 20 NewSession: Session not found
         E: ended, session void after a request: 20 Session not found → AtOnce",
    ));
}

#[test]
fn a_subok_that_does_not_fit_is_a_configuration_error() {
    check(&bound(
        &[7],
        &format!(
            "S: SUBOK,1,1,3
             E: 7 refused 61 Config: expected 2 fields, the server has 3 (items: 1)
             C: control⏎{}
             S: U,1,1,a|b|c⏎UNSUB,1⏎
             count
             = data 3, skipped 0",
            delete(2, 1)
        ),
    ));
}

#[test]
fn an_add_without_any_answer_is_made_again_once() {
    let script = |end: &str| {
        bound(
            &[7],
            &format!(
                "+4s
                 S: PROBE
                 +4s
                 S: PROBE
                 +4s
                 C: control⏎{}⏎{} (after 2s)
                 S: PROBE
                 {end}",
                delete(2, 1),
                add(3, 2, 7)
            ),
        )
    };
    check(&script(
        "S: SUBOK,1,1,2⏎U,1,1,x|y⏎UNSUB,1⏎SUBOK,2,1,2⏎U,2,1,a|b
         E: 7 subscribed items 1 fields 2
         E: 7 first item 1: \"a\" \"b\"",
    ));
    check(&script(&format!(
        "+4s
         S: PROBE
         +4s
         E: 7 unanswered (after 4s)
         C: control⏎{}⏎{} (after 4s)",
        delete(4, 2),
        delete(5, 1)
    )));
}

#[test]
fn unsubscribing_waits_for_the_servers_word() {
    check(&active(
        &[7, 8],
        &format!(
            "unsubscribe 7
             C: control⏎{}
             S: U,1,1,c|d⏎UNSUB,1⏎U,2,1,c|d
             E: 7 unsubscribed
             E: 8 update item 1: \"c\" \"d\"
             count
             = data 7, skipped 0
             unsubscribe 7
             unsubscribe 8
             C: control⏎{}
             S: REQERR,4,19,Subscription not found
             E: 8 unsubscribed",
            delete(3, 1),
            delete(4, 2)
        ),
    ));
}

#[test]
fn unsubscribing_before_the_session_is_made_sends_nothing() {
    check(
        "subscribe 7 i7 A B
         unsubscribe 7
         open
         C: wsok
         C: create_session⏎LS_user=ABC12&LS_cid=mgQkwtwdysogQz2BJ4Ji%20kOj2Bg&LS_supported_diffs=&LS_send_sync=false&LS_password=CST-a%7CXST-b
         S: CONOK,S1,50000,5000,*
         E: established S1 keepalive 5s limit 50000 link here",
    );
}

#[test]
fn a_subscription_may_be_taken_away_by_the_server() {
    check(&active(&[7], "S: UNSUB,1\nE: 7 unsubscribed by the server\nunsubscribe 7\nresubscribe 7"));
}

#[test]
fn what_is_subscribed_to_is_not_subscribed_to_twice() {
    let add_again = "subscribe 7 i7 A B\n";
    // Before the session is made, while an answer is awaited, and after it.
    let made = format!(
        "C: control⏎{}
         {add_again}S: SUBOK,1,1,2⏎
         E: 7 subscribed items 1 fields 2
         {add_again}",
        add(1, 1, 7)
    );
    check(&[add_again, add_again, &bound(&[], &made)].concat());
    check(&bound(
        &[7],
        &format!(
            "S: REQERR,1,-1,no⏎
             E: 7 refused -1 Adapter: no
             {add_again}C: control⏎{}
             {add_again}unsubscribe 7
             C: control⏎{}",
            add(2, 2, 7),
            delete(3, 2)
        ),
    ));
}

#[test]
fn a_handle_stays_good_after_the_item_was_subscribed_anew() {
    check(&active(
        &[7],
        &format!(
            "resubscribe 7
             C: control⏎{}⏎{}
             S: UNSUB,1⏎SUBOK,2,1,2⏎U,2,1,a|b
             E: 7 subscribed items 1 fields 2
             E: 7 first item 1: \"a\" \"b\"
             unsubscribe 7
             C: control⏎{}
             S: UNSUB,2
             E: 7 unsubscribed",
            delete(2, 1),
            add(3, 2, 7),
            delete(4, 2)
        ),
    ));
}

// Data.

#[test]
fn lines_of_unknown_subscriptions_are_counted_and_deleted_once() {
    check(&active(
        &[7],
        &format!(
            "S: SUBOK,99,1,2⏎U,99,1,x|y⏎U,1,1,c|
             E: skipped, unknown subscription: SUBOK,99,1,2
             E: skipped, unknown subscription: U,99,1,x|y
             E: 7 update item 1: \"c\" -
             C: control⏎{}
             S: UNSUB,99
             count
             = data 6, skipped 2",
            delete(2, 99)
        ),
    ));
}

#[test]
fn unknown_and_malformed_lines_are_skipped_escaped_and_do_not_count_as_data() {
    check(&active(
        &[7],
        "S: HELLO,1⏎LOOP,soon⏎HELLO,a\tb⏎U,1,1,c|d
         E: skipped, unknown tag: HELLO,1
         E: skipped, bad number: LOOP,soon
         E: skipped, unknown tag: HELLO,a\\tb
         E: 7 update item 1: \"c\" \"d\"
         S: U,x,1,a|b⏎MSGDONE,*,x⏎
         E: skipped, bad number: U,x,1,a|b
         E: skipped, bad number: MSGDONE,*,x
         count
         = data 5, skipped 5",
    ));
}

#[test]
fn garbage_that_may_hide_a_data_line_is_recovered_from() {
    for garbage in ["probe", "a\tb", "\u{1}U,1,1,c|d", " U,1,1,c|d", "UPDATESXX,1", "<html>"] {
        let shown = garbage.escape_debug();
        check(&active(
            &[7],
            &format!(
                "S: {garbage}⏎U,1,1,e|f⏎
                 E: skipped, unknown tag: {shown}
                 E: interrupted, garbage on the connection
                 W: recover over websocket
                 open
                 C: wsok
                 C: bind_session⏎LS_session=S1&LS_recovery_from=2&LS_keepalive_millis=5000&LS_send_sync=false
                 S: CONOK,S1,50000,5000,*⏎PROG,2⏎U,1,1,c|d⏎U,1,1,e|f⏎
                 E: recovering keepalive 5s
                 E: recovered, 0 repeated
                 E: 7 update item 1: \"c\" \"d\"
                 E: 7 update item 1: \"e\" \"f\""
            ),
        ));
    }
}

#[test]
fn a_line_cut_in_two_by_the_end_of_a_message_ends_the_session_and_half_a_row_is_not_told() {
    // A row that looks whole, one that lacks fields, one without values, lines of other kinds.
    for (half, rest) in [
        ("U,1,1,c|1.0851", "2"),
        ("U,1,1,c|1.085", "|x"),
        ("U,1,1,c|", "1.0851"),
        ("U,1,1", ",c|1.0851"),
        ("U", ",1,1,c|1.0851"),
        ("CONF,1,unlimited,unfil", "tered"),
        ("SYNC,1", "2"),
    ] {
        check(&active(
            &[7],
            &format!(
                "S: {half}…
                 +1s
                 S: {rest}⏎U,1,1,e|f
                 E: skipped, unknown tag: {rest}
                 E: ended, a line cut in two by the end of a message
                 count
                 = data 2, skipped 1"
            ),
        ));
    }
    // Before a connection is bound it breaks the connection only: nothing is counted yet.
    check(&active(
        &[7],
        &format!(
            "{BREAKS}open
             C: wsok
             C: bind_session⏎LS_session=S1&LS_recovery_from=2&LS_keepalive_millis=5000&LS_send_sync=false
             S: WSOK…
             S: 2
             E: skipped, unknown tag: 2
             E: interrupted, garbage on the connection
             W: recover over http in 4s"
        ),
    ));
}

#[test]
fn a_row_without_a_line_end_is_told_when_a_line_follows_or_its_missing_end() {
    for (follows, told) in [
        ("…", ""),
        ("⏎", "E: 7 update item 1: \"e\" \"1.0851\"\n"),
        ("PROBE", "E: 7 update item 1: \"e\" \"1.0851\"\n"),
        ("U,1,1,|f", "E: 7 update item 1: \"e\" \"1.0851\"\nE: 7 update item 1: - \"f\"\n"),
        ("U,1,1,|f…", "E: 7 update item 1: \"e\" \"1.0851\"\n"),
    ] {
        check(&active(&[7], &format!("S: U,1,1,e|1.0851…\nS: {follows}\n{told}")));
    }
    // Garbage behind its missing end is garbage, and not the rest of it.
    check(&active(
        &[7],
        "S: U,1,1,e|1.0851…
         S: ⏎2
         E: 7 update item 1: \"e\" \"1.0851\"
         E: skipped, unknown tag: 2
         E: interrupted, garbage on the connection
         W: recover over websocket",
    ));
    // It is traffic even so, and counted when it is told.
    check(&active(
        &[7],
        "+9s
         S: U,1,1,c|d…
         +9s
         count
         = data 2, skipped 0
         S: PROBE
         E: 7 update item 1: \"c\" \"d\"
         count
         = data 3, skipped 0",
    ));
}

#[test]
fn a_row_whose_end_never_came_is_for_the_recovery_to_bring() {
    for half in ["U,1,1,c|1.08", "U,1,1,c|1.0851"] {
        check(&active(
            &[7],
            &format!(
                "S: {half}…
                 {BREAKS}{}S: PROG,2⏎U,1,1,c|1.0851
                 E: recovered, 0 repeated
                 E: 7 update item 1: \"c\" \"1.0851\"
                 count
                 = data 3, skipped 0",
                recovering(2)
            ),
        ));
    }
}

#[test]
fn a_faulty_update_is_applied_nowhere_and_its_item_subscribed_anew() {
    for (values, reason) in [
        ("1,c", "too few values"),
        ("1,c|d|e", "too many values"),
        ("1,^3", "too many values"),
        ("1,c|^0", "bad use of ^"),
        ("1,c|^Pxyz", "a difference, which was declined"),
        ("1,^Tdz|d", "a difference, which was declined"),
        ("1,c|%4", "bad percent-coding"),
        ("0,c|d", "no such item"),
        ("2,c|d", "no such item"),
        ("1", "too few arguments"),
        ("one,c|d", "bad number"),
    ] {
        check(&active(
            &[7, 8],
            &format!(
                "S: U,1,{values}⏎U,1,1,e|f⏎U,2,1,g|h⏎
                 E: 7 fault, {reason}: U,1,{values}
                 E: 8 update item 1: \"g\" \"h\"
                 C: control⏎{}⏎{}
                 S: U,1,1,i|⏎UNSUB,1⏎SUBOK,3,1,2⏎U,3,1,k|l
                 E: 7 subscribed items 1 fields 2
                 E: 7 first item 1: \"k\" \"l\"
                 count
                 = data 11, skipped 0",
                delete(3, 1),
                add(4, 3, 7),
            ),
        ));
    }
}

#[test]
fn nothing_can_be_unchanged_in_a_first_update() {
    for values in ["a|", "^2", "|"] {
        check(&bound(
            &[7],
            &format!(
                "S: SUBOK,1,1,2⏎U,1,1,{values}
                 E: 7 subscribed items 1 fields 2
                 E: 7 fault, unchanged value in the first update: U,1,1,{values}
                 C: control⏎{}⏎{}",
                delete(2, 1),
                add(3, 2, 7)
            ),
        ));
    }
}

#[test]
fn a_second_fault_of_the_same_item_within_a_minute_ends_the_session() {
    let first = |rest: &str| {
        active(
            &[7, 8],
            &format!(
                "S: U,1,1,c⏎U,2,1,c⏎
                 E: 7 fault, too few values: U,1,1,c
                 E: 8 fault, too few values: U,2,1,c
                 C: control⏎{}⏎{}⏎{}⏎{}
                 S: UNSUB,1⏎SUBOK,3,1,2⏎UNSUB,2⏎SUBOK,4,1,2⏎
                 E: 7 subscribed items 1 fields 2
                 E: 8 subscribed items 1 fields 2
                 {rest}",
                delete(3, 1),
                add(4, 3, 7),
                delete(5, 2),
                add(6, 4, 8),
            ),
        )
    };
    check(&first(
        "+9s
         S: U,3,1,c
         E: 7 fault, too few values: U,3,1,c
         E: ended, subscription 7 faulty again: too few values",
    ));
    check(&first(&format!(
        "{}S: U,3,1,c
         E: 7 fault, too few values: U,3,1,c
         C: control⏎{}⏎{}",
        "+9s\nS: PROBE\n".repeat(7),
        delete(7, 3),
        add(8, 5, 7)
    )));
}

#[test]
fn on_probation_a_second_fault_turns_an_item_off_and_the_others_go_on() {
    check(&active(
        &[8],
        &format!(
            "subscribe 7 again i7 A B
             C: control⏎{}
             S: SUBOK,2,1,2⏎U,2,1,a⏎
             E: 7 subscribed items 1 fields 2
             E: 7 fault, too few values: U,2,1,a
             C: control⏎{}⏎{}
             S: UNSUB,2⏎SUBOK,3,1,2⏎U,3,1,a⏎U,1,1,c|d⏎
             E: 7 subscribed items 1 fields 2
             E: 7 fault, too few values: U,3,1,a
             E: 7 refused 61 Faulty: too few values
             E: 8 update item 1: \"c\" \"d\"
             C: control⏎{}
             S: U,3,1,b⏎UNSUB,3⏎U,1,1,e|f⏎
             E: 8 update item 1: \"e\" \"f\"
             resubscribe 7
             count
             = data 11, skipped 0",
            add(2, 2, 7),
            delete(3, 2),
            add(4, 3, 7),
            delete(5, 3)
        ),
    ));
}

#[test]
fn an_update_before_its_subok_is_counted_but_not_applied() {
    check(&bound(
        &[7],
        "S: U,1,1,a|b⏎OV,1,1,3⏎SUBOK,1,1,2⏎U,1,1,c|d⏎SUBOK,1,1,2⏎
         E: skipped, out of place: U,1,1,a|b
         E: skipped, out of place: OV,1,1,3
         E: 7 subscribed items 1 fields 2
         E: 7 first item 1: \"c\" \"d\"
         E: skipped, out of place: SUBOK,1,1,2
         count
         = data 5, skipped 3",
    ));
}

#[test]
fn values_keep_their_commas_and_lose_their_coding() {
    check(&active(
        &[7],
        "S: U,1,1,a,b%7Cc,|%23⏎U,1,1,#|$⏎U,1,1,é€%C3%A9|+%2B⏎U,1,1,^2
         E: 7 update item 1: \"a,b|c,\" \"#\"
         E: 7 update item 1: null \"\"
         E: 7 update item 1: \"é€é\" \"++\"
         E: 7 update item 1: - -",
    ));
}

#[test]
fn every_item_of_a_group_has_its_own_first_update() {
    check(&bound(
        &[7],
        "S: SUBOK,1,2,2⏎U,1,2,a|b⏎U,1,1,c|d⏎U,1,2,|e
         E: 7 subscribed items 2 fields 2
         E: 7 first item 2: \"a\" \"b\"
         E: 7 first item 1: \"c\" \"d\"
         E: 7 update item 2: - \"e\"",
    ));
}

#[test]
fn dropped_updates_are_told() {
    check(&active(&[7], "S: OV,1,1,3\nE: 7 overflow item 1 dropped 3"));
}

#[test]
fn the_worked_example_of_the_specification_counts_fifteen() {
    let updates = "U,1,1,a|b⏎PROBE⏎SYNC,5⏎".repeat(13);
    let events =
        format!("E: 7 first item 1: \"a\" \"b\"\n{}", "E: 7 update item 1: \"a\" \"b\"\n".repeat(12));
    check(&bound(
        &[7],
        &format!(
            "S: SUBOK,1,1,2⏎CONF,1,unlimited,filtered⏎NOOP,x⏎{updates}
             E: 7 subscribed items 1 fields 2
             E: 7 configured filtered unlimited
             {events}
             count
             = data 15, skipped 0
             S: PROG,15
             S: PROG,14
             E: ended, server goes on from data notification 14, ours is 15"
        ),
    ));
}

#[test]
fn line_ends_may_be_bare_or_missing() {
    check(&active(
        &[7],
        "S: U,1,1,c|d⏎⏎U,1,1,e|
         E: 7 update item 1: \"c\" \"d\"
         E: 7 update item 1: \"e\" -
         S: U,1,1,|f
         E: 7 update item 1: - \"f\"",
    ));
    let mut stage = Stage::new(&[]);
    stage.session.handle_open(stage.now);
    let mut events = Vec::new();
    let message = "WSOK\nCONOK,S1,50000,5000,*\n\nPROBE\n";
    stage.session.handle_message(stage.now, message, &mut |event| events.push(show(&event)));
    assert_eq!(events, ["established S1 keepalive 5s limit 50000 link here"]);
}

#[test]
fn a_line_too_long_faults_its_own_subscription_only() {
    let mut stage = Stage::new(&[]);
    for line in ["subscribe 7 i7 A B", "open", "S: CONOK,S1,50000,5000,*", "S: SUBOK,1,1,2"] {
        stage.play(line);
    }
    let mut events = Vec::new();
    let message = format!("U,1,1,{}|b\r\nPROBE", "x".repeat(LINE_BYTES_MAX));
    stage.session.handle_message(stage.now, &message, &mut |event| events.push(show(&event)));
    assert_eq!(events.len(), 1);
    assert!(events[0].starts_with("7 fault, line too long: U,1,1,xxx"), "{}", events[0]);
    assert!(events[0].ends_with("… (1048585 bytes)"), "{}", events[0]);
}

#[test]
fn a_line_without_an_end_ends_the_connection() {
    let mut stage = Stage::new(&["options transport=http"]);
    for line in ["open", "H: CONOK,S1,50000,5000,*⏎"] {
        stage.play(line);
    }
    let (chunk, mut chunks, mut events) = (vec![b'x'; LINE_BYTES_MAX / 4], 0, Vec::new());
    while events.is_empty() && chunks < 64 {
        stage.session.handle_bytes(stage.now, &chunk, &mut |event| events.push(show(&event)));
        chunks += 1;
    }
    assert_eq!((&events[..], chunks), (&["interrupted, connection closed".to_owned()][..], 32));
    // What still comes of it is nobody's.
    stage.session.handle_bytes(stage.now, b"x\r\nU,1,1,a|b\r\n", &mut |event| events.push(show(&event)));
    assert_eq!(events.len(), 1, "{events:?}");
}

// The end.

#[test]
fn silence_interrupts_it_after_keepalive_and_both_graces() {
    check(&active(
        &[7],
        "+9999ms
         +1ms
         E: interrupted, silent for 10s (after 1ms)
         W: recover over websocket (after 1ms)",
    ));
}

#[test]
fn any_line_keeps_it_alive_even_a_bad_one() {
    check(&active(
        &[7],
        "+9s
         S: PROBE⏎
         +9s
         S: WHAT
         E: skipped, unknown tag: WHAT
         +9s
         S: ⏎
         +1s
         E: interrupted, silent for 10s (after 1s)
         W: recover over websocket (after 1s)",
    ));
}

#[test]
fn what_is_not_read_is_no_silence() {
    check(&active(
        &[7],
        "+9s
         unread
         +9999ms
         unread
         +9s
         +1s
         E: interrupted, silent for 10s (after 1s)
         W: recover over websocket (after 1s)",
    ));
}

#[test]
fn a_closed_connection_is_recovered_from_the_count_and_repeats_are_skipped() {
    check(&active(
        &[7],
        "S: U,1,1,c|d⏎
         E: 7 update item 1: \"c\" \"d\"
         closed
         E: interrupted, connection closed
         W: recover over websocket
         closed
         connecting
         open
         C: wsok
         C: bind_session⏎LS_session=S1&LS_recovery_from=3&LS_keepalive_millis=5000&LS_send_sync=false
         S: WSOK⏎CONOK,S1,50000,5000,*⏎
         E: recovering keepalive 5s
         S: PROBE⏎PROG,1⏎U,1,1,a|b⏎SYNC,1⏎U,1,1,c|d⏎U,1,1,e|
         E: recovered, 2 repeated
         E: 7 update item 1: \"e\" -
         count
         = data 4, skipped 0",
    ));
}

#[test]
fn a_loop_is_followed_to_the_control_link_without_recovery() {
    check(
        "open
         C: wsok
         C: create_session⏎LS_user=ABC12&LS_cid=mgQkwtwdysogQz2BJ4Ji%20kOj2Bg&LS_supported_diffs=&LS_send_sync=false&LS_password=CST-a%7CXST-b
         S: CONOK,S1,50000,5000,host.com:90⏎
         E: established S1 keepalive 5s limit 50000 link host.com:90
         +5s
         S: CONF,9,1,filtered⏎LOOP,250⏎U,1,1,e|f⏎
         E: skipped, unknown subscription: CONF,9,1,filtered
         E: interrupted, server asks for a new bind in 250ms
         W: bind over websocket in 250ms at host.com:90
         open
         C: wsok
         C: bind_session⏎LS_session=S1&LS_keepalive_millis=5000&LS_send_sync=false
         S: CONOK,S1,50000,5000,*⏎
         E: rebound keepalive 5s link host.com:90
         C: control⏎LS_reqId=2&LS_op=delete&LS_subId=9&LS_ack=false",
    );
}

#[test]
fn a_session_that_is_not_recovered_in_time_is_over() {
    check(&active(
        &[7],
        "closed
         E: interrupted, connection closed
         W: recover over websocket
         open
         C: wsok
         C: bind_session⏎LS_session=S1&LS_recovery_from=2&LS_keepalive_millis=5000&LS_send_sync=false
         +4s
         E: interrupted, no session in time (WebSocket works: false) (after 4s)
         W: recover over http (after 4s)
         open
         C: /bind_session.txt?LS_protocol=TLCP-2.4.0 LS_session=S1&LS_recovery_from=2&LS_content_length=50000000&LS_keepalive_millis=5000&LS_send_sync=false
         +1s
         closed refused
         E: interrupted, connection refused by an HTTP answer
         W: recover over websocket in 3s
         +3s
         connecting
         closed unreachable
         E: interrupted, server unreachable
         W: recover over websocket in 4s
         +4s
         connecting
         closed unreachable
         E: ended, not recovered in time after: connection closed
         closed
         destroy
         resubscribe 7
         +60s",
    ));
}

#[test]
fn a_destroyed_session_ends_as_destroyed_however_it_ends() {
    for (last, when) in
        [("S: END,31,destroyed", ""), ("closed", ""), ("S: LOOP,0", ""), ("+10s", " (after 10s)")]
    {
        check(&active(
            &[7],
            &format!(
                "destroy
                 C: control⏎LS_reqId=2&LS_op=destroy&LS_close_socket=true
                 destroy
                 {last}
                 E: ended, session destroyed{when}"
            ),
        ));
    }
    check(&active(
        &[7],
        "S: END,31,Destroyed by somebody
         E: ended, session closed by the server: 31 Destroyed by somebody → Backoff",
    ));
}

#[test]
fn a_promised_inactivity_is_kept_by_heartbeats_at_half_of_it() {
    check(
        "options inactivity=10s keepalive=60s
         open
         C: wsok
         C: create_session⏎LS_keepalive_millis=60000&LS_inactivity_millis=10000&LS_user=ABC12&LS_cid=mgQkwtwdysogQz2BJ4Ji%20kOj2Bg&LS_supported_diffs=&LS_send_sync=false&LS_password=CST-a%7CXST-b
         S: CONOK,S1,50000,60000,*
         E: established S1 keepalive 60s limit 50000 link here
         +11s
         C: heartbeat⏎⏎ (after 5s)
         C: heartbeat⏎⏎ (after 10s)",
    );
}

#[test]
fn no_debug_print_holds_user_or_password() {
    let mut stage = Stage::new(&[]);
    stage.session.handle_open(stage.now);
    let shown = format!("{:?}", stage.session);
    assert!(shown.contains("CreateSession"), "{shown}");
    assert!(!shown.contains("ABC12") && !shown.contains("CST"), "{shown}");
}

#[test]
fn hostile_strays_and_faults_do_not_grow_what_is_held() {
    let mut stage = Stage::new(&[]);
    for line in ["subscribe 7 i7 A B", "open", "S: CONOK,S1,50000,5000,*"] {
        stage.play(line);
    }
    let mut flood = String::new();
    (100..10_000).for_each(|id| writeln!(flood, "U,{id},1,a|b").unwrap());
    stage.session.handle_message(stage.now, &flood, &mut |_| {});
    let deletes: usize = std::iter::from_fn(|| stage.session.poll_transmit())
        .map(|sent| text(sent).matches("delete").count())
        .sum();
    assert_eq!(deletes, super::session::STRAYS_MAX);
    for _ in 0..3 * super::session::LEAVING_MAX {
        stage.session.resubscribe(stage.now, 7);
        while stage.session.poll_transmit().is_some() {}
    }
    assert!(format!("{:?}", stage.session).contains(&format!("leaving: {}", super::session::LEAVING_MAX)));
}

/// What matters of the events, with updates in full.
fn updates_and_others(lines: &str) -> (Vec<String>, u64) {
    let mut stage = Stage::new(&[]);
    for line in ["subscribe 7 i7 A B", "subscribe 8 i8 A B C D", "open", "S: CONOK,S1,50000,5000,*"] {
        stage.play(line);
    }
    let mut told = Vec::new();
    let begin = "SUBOK,1,1,2\r\nSUBOK,2,2,4\r\nU,1,1,5|6\r\nU,2,1,1|2|3|4\r\n";
    for message in [begin, lines] {
        stage.session.handle_message(stage.now, message, &mut |event| {
            told.push(match event {
                Event::Update { tag, item, first, changes } => {
                    format!("{tag} {item} {first} {:?}", changes.iter().collect::<Vec<_>>())
                }
                // Not the line, which is written otherwise.
                Event::Fault { tag, reason, .. } => format!("{tag} {reason:?}"),
                Event::Skipped { reason, .. } => format!("{reason:?}"),
                other => format!("{other:?}"),
            });
        });
    }
    (told, stage.session.data_count())
}

proptest::proptest! {
    /// Updates of plain texts go a way of their own, of which a subscription that is not written plainly keeps them off.
    #[test]
    fn plain_updates_are_taken_as_all_others_are(
        lines in proptest::collection::vec(
            "U,[1-3],[1-3],[0-9.]{0,8}[|][0-9.]{0,8}|U,2,[12],([0-9.-]{0,20}[|]){3}[0-9.]{0,20}|U,[12],1,[0-9#^|]{1,8}|PROBE|SYNC,3|\
             EOS,2,1|CS,2,1|OV,1,1,4|UNSUB,1|U,1|SUBOK,1,1,2|x|END,31,x|LOOP,0",
            0..20,
        ),
        ends in proptest::collection::vec("\r\n|\n", 20),
    ) {
        let joined = |text: fn(&str) -> String| -> String {
            lines.iter().zip(&ends).map(|(line, end)| text(line) + end).collect()
        };
        let long = joined(|line| match line.strip_prefix("U,") {
            Some(rest) => format!("U,00000{rest}"),
            None => line.to_owned(),
        });
        proptest::prop_assert_eq!(updates_and_others(&joined(str::to_owned)), updates_and_others(&long));
    }
}
