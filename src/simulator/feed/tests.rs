//! The server without its sockets: text in, text out.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::simulator::clock::{Speed, monotonic};
use crate::simulator::desk::{Credentials, RequestLimits, TokenLifetimes};
use crate::simulator::market::SeededMarket;
use crate::simulator::market::tests::at;

const UNBOUND_FOR: Duration = Duration::from_secs(30);

/// A server, and what its clients heard.
pub(crate) struct World {
    pub feed: Feed,
    desk: Desk,
    real: Instant,
    password: String,
    outboxes: BTreeMap<u64, Arc<Outbox>>,
    requests: u32,
}

impl World {
    pub fn new() -> World {
        World::with(16 * 1024 * 1024)
    }

    pub fn with(recovery_bytes: usize) -> World {
        let market = Market::Seeded(SeededMarket::new(7));
        let listing = Listing::new(market.pairs(), &[]);
        let settings = FeedSettings {
            rows_per_bar: 10,
            unfiltered: Unfiltered::Granted,
            max_tlcp_version: "2.4.0".parse().unwrap(),
            keepalive_ms: 5000,
            control_link: None,
            recovery_bytes,
            unbound_for: UNBOUND_FOR,
        };
        let feed = Feed::new(market, listing, settings, at("2024-01-17T10:02:30Z"));
        let (lifetimes, limits) = (TokenLifetimes::default(), RequestLimits::default());
        let mut desk = Desk::new(Credentials::default(), lifetimes, limits, Speed::Max, 100, 1);
        let real = monotonic();
        let (_, tokens) = desk.open_session(real);
        let password = format!("CST-{}%7CXST-{}", tokens.cst, tokens.xst);
        World { feed, desk, real, password, outboxes: BTreeMap::new(), requests: 0 }
    }

    pub fn open(&mut self, transport: Transport) -> u64 {
        let outbox = Arc::new(Outbox::default());
        let version = "2.4.0".parse().unwrap();
        let ip = "10.0.0.1".to_owned();
        let id =
            self.feed.connect(transport, version, ip, ([127, 0, 0, 1], 8018).into(), Arc::clone(&outbox));
        self.outboxes.insert(id, outbox);
        id
    }

    pub fn say(&mut self, id: u64, text: &str) -> Reaction {
        self.feed.receive(id, text, &mut self.desk, self.real)
    }

    /// Says something and tells what came back.
    pub fn ask(&mut self, id: u64, text: &str) -> Vec<String> {
        self.say(id, text);
        self.heard(id)
    }

    /// What a connection was sent since last asked.
    pub fn heard(&self, id: u64) -> Vec<String> {
        let mut heard = Vec::new();
        while let Some(parcel) = self.outboxes[&id].take() {
            match parcel {
                Parcel::Lines(lines) => {
                    let text = String::from_utf8(lines).unwrap();
                    assert!(text.ends_with("\r\n"), "{text}");
                    heard.extend(text.split_terminator("\r\n").map(str::to_owned));
                }
                Parcel::Frames(frames) => heard.push(format!("{frames:?}")),
            }
        }
        heard
    }

    pub fn is_closed(&self, id: u64) -> bool {
        self.outboxes[&id].is_closed()
    }

    pub fn create(&mut self, more: &str) -> (u64, String) {
        self.create_over(Transport::WebSocket, more)
    }

    pub fn create_over(&mut self, transport: Transport, more: &str) -> (u64, String) {
        let id = self.open(transport);
        let text = format!(
            "create_session\r\nLS_user=SIM01&LS_cid=mgQkwtwdysogQz2BJ4Ji%20kOj2Bg&LS_password={}{more}",
            self.password
        );
        self.say(id, &text);
        let session = self.feed.data_lines().last().map(|(name, _)| name.clone()).unwrap_or_default();
        (id, session)
    }

    /// Subscribes to pairs, one subscription each.
    pub fn subscribe(&mut self, id: u64, pairs: &str, more: &str) -> Vec<String> {
        let mut lines = "control".to_owned();
        for pair in pairs.split(' ') {
            self.requests += 1;
            let request = self.requests;
            lines += &format!(
                "\r\nLS_reqId=r{request}&LS_op=add&LS_subId={request}&LS_mode=MERGE&LS_snapshot=true\
                 &LS_group=CHART:CS.D.{pair}.CFD.IP:5MINUTE&LS_schema=UTM%20CONS_END%20BID_CLOSE%20OFR_CLOSE\
                 &LS_ack=false{more}"
            );
        }
        self.ask(id, &lines)
    }

    pub fn advance(&mut self, seconds: i64) {
        let until = self.feed.now().plus(seconds);
        while self.feed.now() < until {
            self.feed.advance(until, 1024, 100, self.real);
        }
    }

    pub fn wait(&mut self, real: Duration) {
        self.real += real;
        self.feed.tend(self.real);
    }

    pub fn cut(&mut self) {
        self.feed.cut(Severed::Dropped, self.real);
    }
}

fn data(lines: &[String]) -> Vec<String> {
    lines.iter().filter(|line| is_data(line.as_bytes())).cloned().collect()
}

#[test]
fn a_recovery_gives_what_was_missed_and_what_came_meanwhile() {
    let mut world = World::new();
    let (first, session) = world.create("");
    world.heard(first);
    let mut all = world.subscribe(first, "EURUSD GBPUSD", "");
    world.advance(600);
    all.extend(world.heard(first));
    let received = all.len() as u64 - 3;
    world.cut();
    world.advance(300);
    let second = world.open(Transport::WebSocket);
    let bind = format!("bind_session\r\nLS_session={session}&LS_recovery_from={received}");
    let back = world.ask(second, &bind);
    assert_eq!(
        back[..5],
        [
            format!("CONOK,{session},50000,5000,*"),
            "SERVNAME,Simulated Lightstreamer Server".to_owned(),
            "CLIENTIP,10.0.0.1".to_owned(),
            "CONS,unlimited".to_owned(),
            format!("PROG,{received}"),
        ]
    );
    assert_eq!(back[5..8], all[received as usize..], "to the byte");
    assert!(back.len() > 8 + 10, "and what came meanwhile: {back:?}");
    world.advance(60);
    let later = world.heard(second);
    assert!(!later.is_empty() && later.iter().all(|line| line.starts_with("U,")), "{later:?}");
    let sent = received as usize + back.len() - 5 + later.len();
    assert_eq!(world.feed.data_lines(), [(session, sent as u64)]);
}

#[test]
fn rows_are_the_same_with_and_without_a_cut() {
    let run = |cut_after: Option<i64>| {
        let mut world = World::new();
        let (mut id, session) = world.create("");
        let mut all = data(&world.heard(id));
        all.extend(world.subscribe(id, "EURUSD USDJPY", ""));
        for minute in 0..15 {
            if cut_after == Some(minute) {
                world.cut();
                world.advance(60);
                id = world.open(Transport::WebSocket);
                let bind = format!("bind_session\r\nLS_session={session}&LS_recovery_from={}", all.len());
                all.extend(data(&world.ask(id, &bind)));
            } else {
                world.advance(60);
            }
            all.extend(data(&world.heard(id)));
        }
        all
    };
    let uncut = run(None);
    for minute in [0, 7, 14] {
        assert_eq!(run(Some(minute)), uncut, "cut in minute {minute}");
    }
}

proptest! {
    #[test]
    fn any_line_can_be_recovered_from(asked in 0_u64..60, resent in 0_u64..10) {
        let mut world = World::new();
        let (first, session) = world.create("");
        world.heard(first);
        let mut all = world.subscribe(first, "EURUSD GBPUSD", "");
        world.advance(900);
        all.extend(world.heard(first));
        prop_assert!(all.len() > 60);
        world.cut();
        world.feed.resend_at_next_recovery(resent);
        let second = world.open(Transport::WebSocket);
        let bind = format!("bind_session\r\nLS_session={session}&LS_recovery_from={asked}");
        let back = world.ask(second, &bind);
        let from = asked.saturating_sub(resent);
        prop_assert_eq!(&back[4], &format!("PROG,{from}"));
        prop_assert_eq!(&back[5..], &all[from as usize..]);
    }
}

#[test]
fn a_plain_bind_goes_on_behind_what_was_delivered() {
    let mut world = World::new();
    let (first, session) = world.create("");
    world.subscribe(first, "EURUSD", "");
    world.advance(100);
    world.heard(first);
    let rebind = "control\r\nLS_reqId=again1&LS_op=force_rebind&LS_polling_millis=70";
    assert_eq!(world.ask(first, rebind), ["REQOK,again1", "LOOP,70"]);
    assert!(!world.is_closed(first));
    world.advance(100);
    assert!(world.heard(first).is_empty(), "unbound");
    // The same socket, and no name: the session that was bound here last is meant.
    let back = world.ask(first, "bind_session\r\nLS_reduce_head=true&LS_send_sync=false");
    assert_eq!(back[0], format!("CONOK,{session},50000,5000,*"));
    assert!(back.len() > 2 && back[1..].iter().all(|line| line.starts_with("U,1,1,")), "{back:?}");

    // Handed to a socket that broke is delivered: a plain bind does not give it again.
    world.advance(100);
    world.cut();
    let second = world.open(Transport::WebSocket);
    let back = world.ask(second, &format!("bind_session\r\nLS_session={session}&LS_reduce_head=true"));
    assert_eq!(back, [format!("CONOK,{session},50000,5000,*")]);
}

#[test]
fn binds_are_refused_with_their_reason() {
    let mut world = World::with(2_000);
    let (first, session) = world.create("");
    world.subscribe(first, "EURUSD", "");
    world.advance(7_200);
    let sent = world.feed.data_lines()[0].1;
    let mut check = |parameters: String, answer: &str| {
        let id = world.open(Transport::WebSocket);
        assert_eq!(world.ask(id, &format!("bind_session\r\n{parameters}")), [answer], "{parameters}");
    };
    check(format!("LS_session={session}&LS_recovery_from=x"), "CONERR,65,Bad LS_recovery_from");
    check(format!("LS_session={session}&LS_user=x"), "CONERR,67,Misplaced LS_user");
    check("LS_session=S1".to_owned(), "CONERR,20,Session not found");
    check("LS_send_sync=false".to_owned(), "CONERR,20,Session not found");
    check(
        format!("LS_session={session}&LS_polling=true&LS_keepalive_millis=1000"),
        "CONERR,67,Misplaced LS_keepalive_millis",
    );
    check(format!("LS_session={session}&LS_idle_millis=1"), "CONERR,67,Misplaced LS_idle_millis");
    let gone = "CONERR,4,Requested recovery point no longer available";
    check(format!("LS_session={session}&LS_recovery_from=1"), gone);
    assert!(sent > 100);
    check(format!("LS_session={session}&LS_recovery_from={sent}"), "CONERR,20,Session not found");
}

#[test]
fn more_than_was_sent_cannot_be_recovered_from() {
    let mut world = World::new();
    let (first, session) = world.create("");
    world.subscribe(first, "EURUSD", "");
    world.cut();
    let second = world.open(Transport::WebSocket);
    let bind = format!("bind_session\r\nLS_session={session}&LS_recovery_from=4");
    assert_eq!(world.ask(second, &bind), ["CONERR,4,Requested recovery point no longer available"]);
}

#[test]
fn a_session_lives_unbound_for_a_while() {
    let mut world = World::new();
    let (first, session) = world.create("");
    world.subscribe(first, "EURUSD", "");
    assert_eq!(world.feed.items(), 1);
    world.cut();
    assert_eq!(world.feed.items(), 0, "nobody listens");
    world.wait(UNBOUND_FOR - Duration::from_millis(1));
    let second = world.open(Transport::WebSocket);
    let bind = format!("bind_session\r\nLS_session={session}");
    assert!(world.ask(second, &bind)[0].starts_with("CONOK,"));
    assert_eq!(world.feed.items(), 1);
    world.wait(2 * UNBOUND_FOR);
    world.cut();
    world.wait(UNBOUND_FOR);
    let third = world.open(Transport::WebSocket);
    assert_eq!(world.ask(third, &bind), ["CONERR,20,Session not found"]);
}

#[test]
fn a_second_bind_ends_the_first() {
    let mut world = World::new();
    let (first, session) = world.create("");
    world.subscribe(first, "EURUSD", "");
    world.heard(first);
    let second = world.open(Transport::WebSocket);
    let back = world.ask(second, &format!("bind_session\r\nLS_session={session}&LS_reduce_head=true"));
    assert_eq!(back, [format!("CONOK,{session},50000,5000,*")]);
    assert_eq!(world.heard(first), ["END,40,Session rebound elsewhere"]);
    world.advance(60);
    assert!(world.heard(first).is_empty() && !world.heard(second).is_empty());
    let (third, _) = world.create("");
    let bind = format!("bind_session\r\nLS_session={session}");
    world.heard(third);
    assert_eq!(world.ask(third, &bind), ["CONERR,69,Streaming already in place on this socket"]);
}

#[test]
fn a_half_open_connection_neither_speaks_nor_hears() {
    let mut world = World::new();
    let (first, session) = world.create("");
    world.heard(first);
    let received = world.subscribe(first, "EURUSD", "").len();
    world.feed.half_open(world.real);
    world.advance(60);
    assert_eq!(world.say(first, "wsok"), Reaction::Stay);
    assert!(world.heard(first).is_empty() && !world.is_closed(first));
    let second = world.open(Transport::WebSocket);
    let bind = format!("bind_session\r\nLS_session={session}&LS_recovery_from={received}");
    assert!(world.ask(second, &bind).iter().any(|line| line.starts_with("U,1,1,")));
    assert!(world.heard(first).is_empty());
}

#[test]
fn sessions_are_unbound_and_ended_on_demand() {
    let mut world = World::new();
    let (first, session) = world.create("");
    world.subscribe(first, "EURUSD", "");
    world.feed.rebind_all(250, world.real);
    assert_eq!(world.heard(first).last().unwrap(), "LOOP,250");
    let bind = format!("bind_session\r\nLS_session={session}");
    assert!(world.ask(first, &bind)[0].starts_with("CONOK,"));
    world.feed.end_all(48, "Session duration expired");
    assert_eq!(world.heard(first).last().unwrap(), "END,48,Session duration expired");
    assert_eq!(world.ask(first, &bind), ["CONERR,20,Session not found"]);
    assert!(!world.is_closed(first));
}

#[test]
fn creates_and_binds_are_refused_on_demand() {
    let mut world = World::new();
    world.feed.refuse_creates(1, 5, "Server overloaded");
    let (first, _) = world.create("");
    assert_eq!(world.heard(first), ["CONERR,5,Server overloaded"]);
    let (second, session) = world.create("");
    assert!(world.heard(second)[0].starts_with("CONOK,"));
    world.feed.refuse_binds(1, 21, "Other instance");
    let third = world.open(Transport::WebSocket);
    let bind = format!("bind_session\r\nLS_session={session}");
    assert_eq!(world.ask(third, &bind), ["CONERR,21,Other instance"]);
    assert_eq!(world.ask(third, &bind), ["CONERR,20,Session not found"]);
}

#[test]
fn the_control_link_is_told_at_create_and_at_bind() {
    let mut world = World::new();
    world.feed.set_control_link(Some("a.example.com:90".to_owned()));
    let (first, session) = world.create("");
    assert_eq!(world.heard(first)[0], format!("CONOK,{session},50000,5000,a.example.com:90"));
    world.feed.set_control_link(None);
    world.cut();
    let second = world.open(Transport::WebSocket);
    let back = world.ask(second, &format!("bind_session\r\nLS_session={session}"));
    assert_eq!(back[0], format!("CONOK,{session},50000,5000,*"));
}

#[test]
fn requests_are_remembered_without_passwords() {
    let mut world = World::new();
    let (first, _) = world.create("&LS_send_sync=false");
    world.say(first, "heartbeat\r\n\r\n");
    let texts: Vec<_> = world.feed.received().into_iter().map(|one| (one.connection, one.text)).collect();
    let create = "create_session\r\nLS_user=SIM01&LS_cid=mgQkwtwdysogQz2BJ4Ji%20kOj2Bg&LS_password=***&LS_send_sync=false";
    assert_eq!(texts, [(first, create.to_owned()), (first, "heartbeat\r\n\r\n".to_owned())]);
}

#[test]
fn a_recovery_that_claims_as_much_as_can_be_claimed_is_answered() {
    let mut world = World::new();
    let (_, session) = world.create("");
    world.cut();
    world.feed.claim_too_much_at_next_recovery(u64::MAX);
    world.feed.resend_at_next_recovery(u64::MAX);
    let id = world.open(Transport::WebSocket);
    let bind = format!("bind_session\r\nLS_session={session}&LS_recovery_from=0");
    assert!(world.ask(id, &bind).contains(&format!("PROG,{}", u64::MAX)));
}

#[test]
fn a_recovery_that_claims_too_much_is_noticed_also_where_lines_are_sent_again() {
    let mut world = World::new();
    let (id, session) = world.create("");
    world.subscribe(id, "EURUSD", "");
    world.cut();
    world.feed.resend_at_next_recovery(2);
    world.feed.claim_too_much_at_next_recovery(1);
    let id = world.open(Transport::WebSocket);
    let bind = format!("bind_session\r\nLS_session={session}&LS_recovery_from=3");
    assert!(world.ask(id, &bind).contains(&"PROG,4".to_owned()), "more than the client has");
}

#[test]
fn a_shorter_stall_does_not_end_a_longer_one() {
    let mut world = World::new();
    let (id, _) = world.create("");
    world.subscribe(id, "EURUSD", "");
    let (pairs, now) = (["EURUSD".parse().unwrap()], world.feed.now());
    world.feed.stall(&pairs, now.plus(600), false);
    world.feed.stall(&pairs, now.plus(60), true);
    world.heard(id);
    world.advance(599);
    assert_eq!(data(&world.heard(id)), [""; 0]);
    let (other, _) = world.create("");
    world.subscribe(other, "EURUSD", "");
    world.heard(other);
    world.feed.stall(&pairs, now.plus(610), true);
    world.advance(10);
    assert_eq!(data(&world.heard(id)), [""; 0]);
    world.advance(300);
    assert_ne!(data(&world.heard(id)), [""; 0]);
}
