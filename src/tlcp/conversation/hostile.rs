//! Laws that hold whatever the server says.

use std::time::Duration;

use proptest::prelude::*;

use super::{Stage, text};
use crate::tlcp::{Event, Lost};

fn any_line() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "U,[0-5],[0-3],[a|^#$%123,]{0,8}",
        1 => "SUBOK,[0-5],[0-2],[1-3]",
        1 => "(CONF|OV|UNSUB|EOS|CS|SUBCMD),[0-5](,[0-9]{1,3}){0,3}",
        1 => "REQERR,[0-9],(26|19|-1|66|20),x",
        1 => "(REQOK|PROG|SYNC|LOOP|CONOK|CONERR|END|ERROR|MSGDONE)(,[0-9*]{1,3}){0,4}",
        1 => "\\PC{0,20}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Whatever the server says: no panic, exactly one end at most, one change per field, requests
    /// of our own only, and a timeout that moves on.
    #[test]
    fn no_server_can_break_it(
        steps in proptest::collection::vec((proptest::collection::vec(any_line(), 0..6), 0_u64..12, 0_u8..12), 0..30),
        greeted: bool,
    ) {
        let mut stage = Stage::new(&[]);
        stage.play("subscribe 1 i1 A B");
        stage.play("subscribe 2 unfiltered i2 A B");
        stage.play("open");
        if greeted {
            stage.play("S: WSOK⏎CONOK,S1,50000,5000,*");
        }
        let mut ended = 0;
        for (lines, seconds, action) in steps {
            let mut on_event = |event: Event<'_>| {
                assert_eq!(ended, 0, "nothing follows the end");
                match event {
                    Event::Update { changes, .. } => assert_eq!(changes.len(), 2),
                    Event::Ended { .. } => ended += 1,
                    _ => {}
                }
            };
            stage.session.handle_message(stage.now, &lines.join("\r\n"), &mut on_event);
            match action {
                0 => { stage.session.resubscribe(stage.now, 1); }
                1 => stage.session.unsubscribe(stage.handles[&2]),
                2 => stage.session.destroy(),
                3 => stage.session.handle_closed(stage.now, Lost::Closed, &mut on_event),
                4 => stage.session.handle_closed(stage.now, Lost::Refused, &mut on_event),
                5 => stage.session.handle_open(stage.now),
                _ => while let Some(sent) = stage.session.poll_transmit() {
                    assert!(text(sent).len() <= 50000);
                },
            }
            stage.now += Duration::from_secs(seconds);
            stage.session.handle_timeout(stage.now, &mut on_event);
            if let Some(at) = stage.session.next_timeout() {
                assert!(at > stage.now, "what was due is done");
            }
        }
        prop_assert_eq!(stage.session.is_ended(), ended == 1);
    }
}
