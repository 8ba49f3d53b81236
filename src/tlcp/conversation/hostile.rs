//! Laws that hold whatever the server says, and however what it says is cut.

use proptest::prelude::*;

use super::{base, show, text};
use crate::tlcp::{Event, Options, SubscriptionSpec, TlcpSession, Transport, fuzzing};

fn any_line() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "U,[0-5],[0-3],[a|^#$%123,]{0,8}",
        1 => "SUBOK,[0-5],[0-2],[1-3]",
        1 => "(CONF|OV|UNSUB|EOS|CS|SUBCMD),[0-5](,[0-9]{1,3}){0,3}",
        1 => "REQERR,[0-9],(26|19|-1|66|20),x",
        1 => "(REQOK|SYNC|CONERR|END|ERROR|MSGDONE)(,[0-9*]{1,3}){0,4}",
        1 => "(PROG|LOOP),[0-9]{1,2}",
        1 => "CONOK,S1,50000,[0-9]{1,4},\\*",
        1 => "\\PC{0,20}",
    ]
}

/// A step of [`fuzzing::session`].
fn any_step() -> impl Strategy<Value = String> {
    let lines = proptest::collection::vec(any_line(), 0..6).prop_map(|lines| lines.join("\r\n"));
    prop_oneof![
        6 => (prop_oneof![Just("S"), Just("H"), Just("A")], lines, "(\r\n){0,1}").prop_map(|(kind, lines, end)| kind.to_owned() + &lines + &end),
        3 => Just("o".to_owned()),
        2 => Just("SWSOK\r\nCONOK,S1,50000,5000,*\r\nPROG,0".to_owned()),
        2 => Just("HCONOK,S1,50000,5000,*\r\n".to_owned()),
        2 => "\\+[0-9]{3,5}",
        1 => "[curndq]",
        2 => "[sxy][0-9]",
    ]
}

fn session(transport: Transport) -> TlcpSession {
    let mut session =
        TlcpSession::new(Options { transport, ..Options::default() }, String::new(), String::new());
    for tag in 1..3 {
        session.subscribe(SubscriptionSpec {
            group: format!("i{tag}"),
            schema: "A B".to_owned(),
            fields: 2,
            snapshot: true,
            unfiltered: false,
            tag,
        });
    }
    session.handle_open(base());
    session
}

/// What a new session says to a stream that comes in these pieces.
fn said<'a>(transport: Transport, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
    let (now, mut session, mut said) = (base(), session(transport), Vec::new());
    for piece in pieces {
        let on_event = &mut |event: Event<'_>| said.push(show(&event));
        match transport {
            Transport::Http => session.handle_bytes(now, piece, on_event),
            Transport::WebSocket => {
                session.handle_message(now, str::from_utf8(piece).expect("whole lines"), on_event)
            }
        }
    }
    said.extend(std::iter::from_fn(|| session.poll_transmit()).map(text));
    said
}

/// The pieces of `bytes` between `cuts`.
fn pieces<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> =
        cuts.iter().map(|cut| cut % (bytes.len() + 1)).chain([0, bytes.len()]).collect();
    cuts.sort_unstable();
    cuts.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// No panic, one end at most, nothing sent where there is no connection, a timeout that moves
    /// on, and no more held than has a limit: see [`fuzzing::session`].
    #[test]
    fn no_server_can_break_it(
        options in "[h1f]{0,3}",
        steps in proptest::collection::vec(any_step(), 0..40),
    ) {
        let options = options.chars().map(String::from);
        let schedule: Vec<String> = options.chain(["s1", "s9", "o"].map(String::from)).chain(steps).collect();
        fuzzing::session(schedule.join("\0").as_bytes(), base());
    }

    #[test]
    fn any_chunking_of_a_stream_says_the_same(
        lines in proptest::collection::vec(any_line(), 0..12),
        cuts in proptest::collection::vec(any::<usize>(), 0..20),
    ) {
        let stream = format!("CONOK,S1,50000,5000,*\r\nSUBOK,1,1,2\r\n{}\r\n", lines.join("\r\n"));
        prop_assert_eq!(
            said(Transport::Http, pieces(stream.as_bytes(), &cuts)),
            said(Transport::Http, [stream.as_bytes()])
        );
    }

    #[test]
    fn any_grouping_of_lines_into_messages_says_the_same(
        lines in proptest::collection::vec(any_line(), 0..12),
        cuts in proptest::collection::vec(any::<usize>(), 0..10),
    ) {
        let lines = ["CONOK,S1,50000,5000,*", "SUBOK,1,1,2"].map(String::from).into_iter().chain(lines);
        // Behind a line without an end, what is no line would be the rest of it.
        let lines: Vec<String> = lines.map(|line| line + "\r\n").collect();
        let mut cuts: Vec<usize> =
            cuts.iter().map(|cut| cut % (lines.len() + 1)).chain([0, lines.len()]).collect();
        cuts.sort_unstable();
        let messages: Vec<String> = cuts.windows(2).map(|ends| lines[ends[0]..ends[1]].concat()).collect();
        prop_assert_eq!(
            said(Transport::WebSocket, messages.iter().map(String::as_bytes)),
            said(Transport::WebSocket, lines.iter().map(String::as_bytes))
        );
    }

    /// Cut where it may be, a row is told as it was sent or not at all.
    #[test]
    fn no_cutting_of_a_stream_into_messages_makes_a_row_that_was_not_sent(
        lines in proptest::collection::vec(prop_oneof![3 => "U,1,1,[0-9.|]{1,8}", 1 => Just("PROBE".to_owned())], 0..12),
        cuts in proptest::collection::vec(any::<usize>(), 0..6),
    ) {
        let start = "CONOK,S1,50000,5000,*\r\nSUBOK,1,1,2\r\nU,1,1,1|2\r\n".as_bytes();
        let rows = format!("{}\r\n", lines.join("\r\n"));
        let whole = said(Transport::WebSocket, [start, rows.as_bytes()]);
        let cut = said(Transport::WebSocket, [start].into_iter().chain(pieces(rows.as_bytes(), &cuts)));
        let of_the_item = |said: &[String]| -> Vec<String> {
            said.iter().filter(|said| said.starts_with("1 ")).cloned().collect()
        };
        let (told, sent) = (of_the_item(&cut), of_the_item(&whole));
        let is_over = cut.iter().any(|said| said == "ended, a line cut in two by the end of a message");
        prop_assert!(if is_over { sent.starts_with(&told) } else { sent == told }, "{told:?} of {sent:?}");
    }
}
