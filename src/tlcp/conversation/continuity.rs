//! The law that all of this is for: whatever happens to connections, every row comes once and in
//! order, or the session ends and says so.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::{base, text};
use crate::tlcp::{
    Change, EndCause, Event, Lost, Options, SubscriptionSpec, TlcpSession, Transmit, Transport,
};

/// A session and a server that numbers its data lines and remembers all of them.
struct World {
    session: TlcpSession,
    now: Instant,
    /// Every data line of the session, whether it was sent or not.
    log: Vec<String>,
    /// How many of them the server takes as delivered.
    sent: usize,
    /// Whether server and session both think that they are connected.
    bound: bool,
    known: Vec<u32>,
    deleted: Vec<u32>,
    rows: u32,
    loop_wanted: bool,
    requests_get_lost: bool,
    /// How the next bind is answered.
    style: Style,
    received: Vec<String>,
    ended: Option<EndCause>,
    interruptions: u32,
}

/// What becomes of an attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Style {
    /// Repeats so many lines of a recovery.
    Sound(usize),
    Refused,
    Unreachable,
    /// The server is bound, but its answer does not come through.
    LostBind,
    /// Asks for another bind before it said where it goes on.
    LoopBeforeProg,
    /// Repeats so many, and asks for another bind after so many of these.
    LoopAmongRepeats(usize, usize),
    /// What is to be repeated is gone.
    Forgotten,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The server has rows, which stay on their way.
    Rows(u8),
    /// Everything on its way arrives, in pieces of so many bytes on HTTP.
    Arrive(usize),
    /// Only so many lines of it arrive, and of the next half; then the connection is gone.
    Cut(usize),
    Loop,
    /// Nothing arrives any more, though nobody says so.
    HalfOpen,
    Subscribe {
        lost: bool,
    },
    Connect(Style),
    Seconds(u8),
}

fn any_style() -> impl Strategy<Value = Style> {
    prop_oneof![
        12 => (0_usize..6).prop_map(Style::Sound),
        1 => Just(Style::Refused),
        1 => Just(Style::Unreachable),
        2 => Just(Style::LostBind),
        2 => Just(Style::LoopBeforeProg),
        4 => (0_usize..6, 0_usize..6).prop_map(|(repeated, of_them)| Style::LoopAmongRepeats(repeated, of_them)),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_u8..5).prop_map(Step::Rows),
        4 => (1_usize..40).prop_map(Step::Arrive),
        3 => (0_usize..8).prop_map(Step::Cut),
        2 => Just(Step::Loop),
        1 => Just(Step::HalfOpen),
        1 => any::<bool>().prop_map(|lost| Step::Subscribe { lost }),
        8 => any_style().prop_map(Step::Connect),
        2 => (1_u8..15).prop_map(Step::Seconds),
    ]
}

impl World {
    fn new(transport: Transport) -> World {
        let options = Options { transport, websocket_again: Duration::from_secs(20), ..Options::default() };
        let mut world = World {
            session: TlcpSession::new(options, String::new(), String::new()),
            now: base(),
            log: Vec::new(),
            sent: 0,
            bound: false,
            known: Vec::new(),
            deleted: Vec::new(),
            rows: 0,
            loop_wanted: false,
            requests_get_lost: false,
            style: Style::Sound(0),
            received: Vec::new(),
            ended: None,
            interruptions: 0,
        };
        world.subscribe();
        world.connect(Style::Sound(0));
        world.arrive(7);
        world
    }

    fn play(&mut self, step: Step) {
        match step {
            Step::Rows(count) => (0..count).for_each(|_| self.row()),
            Step::Arrive(bytes) => self.arrive(bytes),
            Step::Cut(lines) if self.bound => self.cut(lines),
            Step::Loop if self.bound => {
                self.loop_wanted = true;
                self.arrive(9);
            }
            Step::HalfOpen if self.bound => {
                (self.bound, self.sent) = (false, self.log.len());
                while let Some(at) = self.session.next_timeout().filter(|_| self.session.wanted().is_none()) {
                    self.now = self.now.max(at);
                    self.drive(|session, now, on_event| session.handle_timeout(now, on_event));
                }
            }
            Step::Cut(_) | Step::Loop | Step::HalfOpen => {}
            Step::Subscribe { lost } => {
                self.requests_get_lost = lost;
                self.subscribe();
                self.transmit();
                self.requests_get_lost = false;
            }
            Step::Connect(style) => self.connect(style),
            Step::Seconds(seconds) => (0..seconds).for_each(|_| self.second()),
        }
    }

    /// Lets everything heal.
    fn settle(&mut self) {
        for _ in 0..40 {
            self.connect(Style::Sound(1));
            self.row();
            self.second();
        }
    }

    fn subscribe(&mut self) {
        let tag = self.session.next_request_id() as u16;
        self.session.subscribe(SubscriptionSpec {
            group: format!("i{tag}"),
            schema: "N X".to_owned(),
            fields: 2,
            snapshot: true,
            unfiltered: false,
            tag,
        });
    }

    fn row(&mut self) {
        if !self.known.is_empty() {
            self.rows += 1;
            let sub_id = self.known[self.rows as usize % self.known.len()];
            self.log.push(format!("U,{sub_id},1,{}|x", self.rows));
        }
    }

    fn second(&mut self) {
        self.now += Duration::from_secs(1);
        if self.bound {
            self.arrive(11);
        }
        if self.bound {
            self.feed("PROBE\r\n", 3);
        }
        if self.session.next_timeout().is_some_and(|due| due <= self.now) {
            self.drive(|session, now, on_event| session.handle_timeout(now, on_event));
        }
    }

    /// What is on its way arrives, and what the server asks for at its end.
    fn arrive(&mut self, chunk: usize) {
        if !self.bound {
            return;
        }
        let mut lines: String = self.log[self.sent..].iter().flat_map(|line| [line, "\r\n"]).collect();
        self.sent = self.log.len();
        if std::mem::take(&mut self.loop_wanted) {
            self.bound = false;
            lines.push_str("LOOP,0\r\n");
        }
        self.feed(&lines, chunk);
    }

    fn cut(&mut self, lines: usize) {
        let on_its_way = self.log[self.sent..].to_vec();
        let whole = lines % (on_its_way.len() + 1);
        let mut arrived: String = on_its_way[..whole].iter().flat_map(|line| [line, "\r\n"]).collect();
        if let Some(next) = on_its_way.get(whole) {
            arrived.push_str(&next[..next.len() / 2 + 1]);
        }
        (self.bound, self.sent) = (false, self.log.len());
        self.feed(&arrived, 5);
        self.drive(|session, now, on_event| session.handle_closed(now, Lost::Closed, on_event));
    }

    fn feed(&mut self, lines: &str, chunk: usize) {
        match self.session.transport() {
            Transport::WebSocket => {
                self.drive(|session, now, on_event| session.handle_message(now, lines, on_event));
            }
            Transport::Http => {
                for piece in lines.as_bytes().chunks(chunk) {
                    self.drive(|session, now, on_event| session.handle_bytes(now, piece, on_event));
                }
            }
        }
    }

    fn connect(&mut self, style: Style) {
        let Some(wanted) = self.session.wanted() else { return };
        self.now = self.now.max(wanted.not_before.unwrap_or(self.now));
        (self.bound, self.style) = (false, style);
        self.session.handle_connecting(self.now);
        let lost = match style {
            Style::Refused => Some(Lost::Refused),
            Style::Unreachable => Some(Lost::Unreachable),
            _ => None,
        };
        if let Some(lost) = lost {
            return self.drive(|session, now, on_event| session.handle_closed(now, lost, on_event));
        }
        self.session.handle_open(self.now);
        self.transmit();
        if style == Style::LostBind {
            self.drive(|session, now, on_event| session.handle_closed(now, Lost::Closed, on_event));
        }
    }

    fn drive(&mut self, drive: impl FnOnce(&mut TlcpSession, Instant, &mut dyn FnMut(Event<'_>))) {
        let (received, ended, interruptions) = (&mut self.received, &mut self.ended, &mut self.interruptions);
        drive(&mut self.session, self.now, &mut |event| match event {
            Event::Update { changes, .. } => match changes.iter().next() {
                Some(Change { field: 0, value: Some(number) }) => received.push(number.to_owned()),
                other => panic!("every row has its number: {other:?}"),
            },
            Event::Interrupted { .. } => *interruptions += 1,
            Event::Ended { cause } => *ended = Some(cause),
            _ => {}
        });
        self.transmit();
    }

    // The server.

    fn transmit(&mut self) {
        while let Some(transmit) = self.session.poll_transmit() {
            let is_post = matches!(transmit, Transmit::Post(_));
            let request = text(transmit);
            let (name, lines) = request.split_once([' ', '\n']).unwrap_or((&request, ""));
            if name.contains("create_session") {
                self.bound = true;
                self.feed("CONOK,S1,50000,5000,*\r\n", 4);
            } else if name.contains("bind_session") {
                self.answer_bind(parameter(lines, "LS_recovery_from"));
            } else if name.contains("control") && !self.requests_get_lost {
                lines.lines().for_each(|line| self.control(line, is_post));
            }
        }
    }

    fn answer_bind(&mut self, from: Option<u32>) {
        let conok = "CONOK,S1,50000,5000,*\r\n";
        let repeated = |most: usize, from: usize| from - most.min(from);
        let from = from.map(|from| from as usize);
        match (self.style, from) {
            (Style::LostBind, Some(from)) => self.sent = from,
            // On a connection that brings nothing.
            (Style::LostBind, None) => self.sent = self.log.len(),
            (Style::Forgotten, Some(_)) => self.feed("CONERR,4,forgotten\r\n", 4),
            (Style::LoopBeforeProg, Some(from)) => {
                self.sent = repeated(2, from);
                self.feed(&format!("{conok}LOOP,0\r\n"), 4);
            }
            (Style::LoopAmongRepeats(most, of_them), Some(from)) => {
                let start = repeated(most, from);
                self.sent = (start + of_them).min(self.log.len());
                let repeats: String =
                    self.log[start..self.sent].iter().flat_map(|line| [line, "\r\n"]).collect();
                self.feed(&format!("{conok}PROG,{start}\r\n{repeats}LOOP,0\r\n"), 6);
            }
            (Style::Sound(most), Some(from)) => {
                (self.bound, self.sent) = (true, repeated(most, from));
                self.feed(&format!("{conok}PROG,{}\r\n", self.sent), 6);
            }
            (_, _) => {
                self.bound = true;
                self.feed(conok, 6);
            }
        }
    }

    fn control(&mut self, line: &str, is_post: bool) {
        let request_id = parameter(line, "LS_reqId").expect("every request has an id");
        let sub_id = parameter(line, "LS_subId").unwrap_or_default();
        let answer = if line.contains("LS_op=force_rebind") {
            self.loop_wanted = true;
            format!("REQOK,{request_id}")
        } else if line.contains("LS_op=add") {
            self.known.push(sub_id);
            self.log.extend([format!("SUBOK,{sub_id},1,2"), format!("CONF,{sub_id},unlimited,filtered")]);
            format!("REQOK,{request_id}")
        } else {
            self.deleted.push(sub_id);
            match self.known.iter().position(|&known| known == sub_id) {
                Some(at) => {
                    self.known.remove(at);
                    self.log.push(format!("UNSUB,{sub_id}"));
                    format!("REQOK,{request_id}")
                }
                None => format!("REQERR,{request_id},19,none"),
            }
        };
        if is_post {
            self.drive(|session, now, on_event| session.handle_answer(now, &answer, on_event));
        } else if answer.starts_with("REQERR") && self.bound {
            self.feed(&format!("{answer}\r\n"), 8);
        }
    }

    /// The rows among the first `lines` data lines, without those of what was given up.
    fn rows(&self, lines: usize) -> Vec<String> {
        let rows = self.log[..lines].iter().filter_map(|line| line.strip_prefix("U,"));
        rows.filter(|row| {
            let sub_id = row.split(',').next().and_then(|id| id.parse().ok());
            !sub_id.is_some_and(|id| self.deleted.contains(&id))
        })
        .filter_map(|row| row.split([',', '|']).nth(2).map(str::to_owned))
        .collect()
    }
}

fn parameter(line: &str, name: &str) -> Option<u32> {
    line.split(['&', '\r', '\n']).find_map(|part| part.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

/// Checks the law, and returns the world for what else is to be said of it.
fn check(transport: Transport, steps: &[Step]) -> World {
    let mut world = World::new(transport);
    for &step in steps {
        world.play(step);
        let count = usize::try_from(world.session.data_count()).expect("few");
        assert!(count <= world.log.len());
        assert_eq!(world.received, world.rows(count), "after {step:?}");
    }
    world.settle();
    match &world.ended {
        None => assert_eq!(world.received, world.rows(world.log.len())),
        // Neither of them a contradiction: the server does what it may.
        Some(EndCause::Unrecovered { .. }) => {}
        Some(EndCause::Refused { code: 4, .. }) => {}
        Some(other) => panic!("ended by {other}"),
    }
    world
}

#[test]
fn what_the_server_has_forgotten_ends_the_session() {
    let world = check(
        Transport::WebSocket,
        &[Step::Rows(3), Step::Arrive(1), Step::Rows(2), Step::Cut(1), Step::Connect(Style::Forgotten)],
    );
    assert!(matches!(world.ended, Some(EndCause::Refused { code: 4, .. })));
    assert_eq!(world.received.len(), 4);
}

#[test]
fn most_schedules_of_trouble_are_outlived() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let steps = proptest::collection::vec(any_step(), 20..60);
    let (mut outlived, mut interruptions) = (0, 0);
    for round in 0..200 {
        let transport = if round % 2 == 0 { Transport::WebSocket } else { Transport::Http };
        let tree = steps.new_tree(&mut runner).expect("steps");
        let world = check(transport, &tree.current());
        outlived += u32::from(world.ended.is_none());
        interruptions += world.interruptions;
    }
    println!("{outlived} of 200 outlived, {interruptions} interruptions");
    // The others are without a connection for longer than a recovery may take.
    assert!(outlived >= 100, "{outlived}");
    assert!(interruptions >= 1000, "{interruptions}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_row_comes_once_and_in_order_or_the_session_ends(
        http: bool,
        steps in proptest::collection::vec(any_step(), 0..60),
    ) {
        check(if http { Transport::Http } else { Transport::WebSocket }, &steps);
    }
}
