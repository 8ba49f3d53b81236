//! Conversations about a session that outlives its connections: breaks, `LOOP`, repeats, and what
//! becomes of requests in between.

use super::{BREAKS, LOOPS, active, add, bound, check, delete, rebound, recovering};

// Repeats.

#[test]
fn a_loop_before_prog_is_followed_by_another_recovery() {
    check(&active(
        &[7],
        &format!(
            "{BREAKS}{}
             S: LOOP,0
             E: interrupted, server asks for a new bind in 0ns
             W: recover over websocket in 4s
             +4s
             {}
             S: PROG,1⏎U,1,1,a|b⏎U,1,1,c|⏎
             E: recovered, 1 repeated
             E: 7 update item 1: \"c\" -
             count
             = data 3, skipped 0",
            recovering(2),
            recovering(2)
        ),
    ));
}

#[test]
fn skipping_goes_on_after_a_loop_among_the_repeats() {
    check(&active(
        &[7],
        &format!(
            "S: U,1,1,c|⏎U,1,1,d|⏎
             E: 7 update item 1: \"c\" -
             E: 7 update item 1: \"d\" -
             {BREAKS}{}
             S: PROG,1⏎U,1,1,a|b⏎LOOP,0⏎
             E: recovered, 3 repeated
             E: interrupted, server asks for a new bind in 0ns
             W: bind over websocket in 4s
             +4s
             {}
             S: PROG,2⏎U,1,1,c|⏎U,1,1,d|⏎U,1,1,e|⏎
             E: 7 update item 1: \"e\" -
             count
             = data 5, skipped 0",
            recovering(4),
            rebound()
        ),
    ));
}

#[test]
fn a_break_after_a_loop_among_the_repeats_recovers_from_what_was_processed() {
    check(&active(
        &[7],
        &format!(
            "{BREAKS}{}
             S: PROG,0⏎SUBOK,1,1,2⏎LOOP,0⏎
             E: recovered, 2 repeated
             E: interrupted, server asks for a new bind in 0ns
             W: bind over websocket in 4s
             {}
             closed
             E: interrupted, connection closed
             W: recover over websocket in 4s
             +4s
             {}
             S: PROG,2⏎U,1,1,c|⏎
             E: recovered, 0 repeated
             E: 7 update item 1: \"c\" -",
            recovering(2),
            rebound(),
            recovering(2)
        ),
    ));
}

#[test]
fn a_break_among_the_repeats_recovers_from_the_same_count() {
    check(&active(
        &[7],
        &format!(
            "{BREAKS}{}
             S: PROG,0⏎SUBOK,1,1,2⏎
             E: recovered, 2 repeated
             closed
             E: interrupted, connection closed
             W: recover over websocket in 4s
             +4s
             {}
             S: PROG,1⏎U,1,1,a|b⏎U,1,1,c|⏎
             E: recovered, 1 repeated
             E: 7 update item 1: \"c\" -
             count
             = data 3, skipped 0",
            recovering(2),
            recovering(2)
        ),
    ));
}

#[test]
fn what_is_not_data_is_obeyed_among_the_repeats() {
    let recovered = |lines: &str, events: &str| {
        check(&active(
            &[7],
            &format!(
                "subscribe 8 i8 A B
                 C: control⏎{}
                 {BREAKS}{}
                 S: PROG,0⏎SUBOK,1,1,2⏎{lines}⏎U,1,1,a|b⏎U,1,1,c|
                 E: recovered, 2 repeated
                 {events}",
                add(2, 2, 8),
                recovering(2),
            ),
        ));
    };
    let new = "E: 7 update item 1: \"c\" -";
    recovered("PROBE⏎SYNC,1⏎NOOP,x⏎SERVNAME,x⏎CLIENTIP,x⏎CONS,unlimited⏎REQOK,2", new);
    recovered("REQERR,2,-1,No", &format!("E: 8 refused -1 Adapter: No\n{new}"));
    recovered("HELLO", &format!("E: skipped, unknown tag: HELLO\n{new}"));
    recovered("END,48,Too old", "E: ended, session closed by the server: 48 Too old → AtOnce");
    recovered("ERROR,68,Oops", "E: ended, session void after a request: 68 Oops → Backoff");
    recovered("CONERR,4,Gone", "E: ended, session refused: 4 Gone → AtOnce");
    recovered("CONOK,S1,1,1,*", "E: ended, unexpected CONOK");
    recovered("PROG,3", "E: ended, server goes on from data notification 3, ours is 1");
    recovered(
        "LOOP,9",
        "E: interrupted, server asks for a new bind in 9ms
         W: bind over websocket in 4s",
    );
}

#[test]
fn repeats_that_cannot_be_read_are_skipped_like_the_others() {
    check(&active(
        &[7],
        &format!(
            "{BREAKS}{}
             S: PROG,0⏎SUBOK,1,one⏎U,1,1,a⏎U,1,1,c|⏎
             E: recovered, 2 repeated
             E: 7 update item 1: \"c\" -
             count
             = data 3, skipped 0",
            recovering(2)
        ),
    ));
}

#[test]
fn push_notifications_and_messages_count_while_unknown_tags_do_not() {
    check(&active(
        &[],
        &format!(
            "S: MPNREG,a,b⏎MPNOK,1,b⏎MPNCONF,1⏎MPNDEL,1⏎MPNZERO,a⏎MSGDONE,*,1⏎MSGFAIL,*,2,33,x⏎MPNEW,1⏎UPDATE,1,1,a
             E: skipped, out of place: MPNREG,a,b
             E: skipped, out of place: MPNOK,1,b
             E: skipped, out of place: MPNCONF,1
             E: skipped, out of place: MPNDEL,1
             E: skipped, out of place: MPNZERO,a
             E: skipped, out of place: MSGDONE,*,1
             E: skipped, out of place: MSGFAIL,*,2,33,x
             E: skipped, unknown tag: MPNEW,1
             E: skipped, unknown tag: UPDATE,1,1,a
             {BREAKS}{}
             S: PROG,5⏎MSGDONE,*,1⏎MSGFAIL,*,2,33,x⏎EOS,4,1
             E: recovered, 2 repeated
             E: skipped, unknown subscription: EOS,4,1
             C: control⏎{}",
            recovering(7),
            delete(1, 4)
        ),
    ));
}

// What cannot be joined.

#[test]
fn a_recovery_that_cannot_be_joined_ends_the_session() {
    for (lines, end) in [
        ("PROG,3", "server goes on from data notification 3, ours is 2"),
        ("U,1,1,c|", "data before PROG in a recovery"),
        ("PROBE⏎U,1,1", "data before PROG in a recovery"),
        ("SUBOK,1,1,2", "data before PROG in a recovery"),
        ("CONOK,S1,50000,5000,*", "unexpected CONOK"),
    ] {
        check(&active(&[7], &format!("{BREAKS}{}S: {lines}\nE: ended, {end}", recovering(2))));
    }
}

#[test]
fn a_prog_that_cannot_be_read_joins_nothing() {
    check(&active(
        &[7],
        &format!(
            "{BREAKS}{}
             S: PROG,two⏎PROBE⏎U,1,1,c|
             E: skipped, bad number: PROG,two
             E: ended, data before PROG in a recovery",
            recovering(2)
        ),
    ));
}

#[test]
fn data_before_conok_ends_whatever_is_being_opened() {
    for line in ["U,1,1,c|d", "U,x", "SUBOK,1,1,2", "MPNZERO,x", "CONF"] {
        let end = "E: ended, data before CONOK";
        check(&format!(
            "subscribe 7 i7 A B
             open
             C: wsok
             C: create_session⏎LS_user=ABC12&LS_cid=mgQkwtwdysogQz2BJ4Ji%20kOj2Bg&LS_supported_diffs=&LS_send_sync=false&LS_password=CST-a%7CXST-b
             S: WSOK⏎{line}
             {end}"
        ));
        for (interruption, from) in [(LOOPS, ""), (BREAKS, "&LS_recovery_from=2")] {
            check(&active(
                &[7],
                &format!(
                    "{interruption}open
                     C: wsok
                     C: bind_session⏎LS_session=S1{from}&LS_keepalive_millis=5000&LS_send_sync=false
                     S: WSOK⏎{line}⏎CONOK,S1,50000,5000,*
                     {end}"
                ),
            ));
        }
    }
}

#[test]
fn a_check_of_the_count_after_a_loop_must_agree() {
    check(&active(&[7], &format!("{LOOPS}{}S: PROG,2\nS: PROBE", rebound())));
    for count in [0, 1, 3] {
        check(&active(
            &[7],
            &format!(
                "{LOOPS}{}S: PROG,{count}\nE: ended, server goes on from data notification {count}, ours is 2",
                rebound()
            ),
        ));
    }
}

#[test]
fn another_session_than_the_one_to_bind_ends_it() {
    for (interruption, from) in [(LOOPS, ""), (BREAKS, "&LS_recovery_from=2")] {
        check(&active(
            &[7],
            &format!(
                "{interruption}open
                 C: wsok
                 C: bind_session⏎LS_session=S1{from}&LS_keepalive_millis=5000&LS_send_sync=false
                 S: CONOK,S2,50000,5000,*
                 E: ended, bound to another session"
            ),
        ));
    }
}

#[test]
fn a_loop_before_the_bind_is_answered_ends_the_session() {
    check(&active(
        &[7],
        &format!(
            "{LOOPS}open
             C: wsok
             C: bind_session⏎LS_session=S1&LS_keepalive_millis=5000&LS_send_sync=false
             S: LOOP,0
             E: ended, server asks for a new bind in 0ns"
        ),
    ));
}

#[test]
fn nothing_behind_the_end_of_a_connection_counts() {
    check(&active(
        &[7],
        "S: LOOP,0⏎U,1,1,c|d⏎END,32,x⏎CONOK,S1,1,1,*
         E: interrupted, server asks for a new bind in 0ns
         W: bind over websocket
         S: U,1,1,c|d
         count
         = data 2, skipped 0",
    ));
    check(&active(
        &[7],
        "S: END,32,By hand⏎U,1,1,c|d⏎LOOP,0
         E: ended, session closed by the server: 32 By hand → Backoff
         count
         = data 2, skipped 0",
    ));
}

// Requests across a break and across a `LOOP`.

#[test]
fn an_add_lost_with_its_connection_is_made_again_ten_seconds_after_the_next() {
    for (interruption, next) in
        [(BREAKS, recovering(2) + "S: PROG,2\nE: recovered, 0 repeated"), (LOOPS, rebound())]
    {
        check(&active(
            &[7],
            &format!(
                "subscribe 8 i8 A B
                 C: control⏎{}
                 +9s
                 {interruption}{next}
                 +9s
                 S: PROBE
                 +1s
                 C: control⏎{}⏎{} (after 1s)
                 S: REQERR,3,19,No such subscription⏎SUBOK,3,1,2
                 E: 8 subscribed items 1 fields 2",
                add(2, 2, 8),
                delete(3, 2),
                add(4, 3, 8),
            ),
        ));
    }
}

#[test]
fn an_add_whose_answer_is_among_what_is_recovered_is_not_made_again() {
    check(&active(
        &[7],
        &format!(
            "subscribe 8 i8 A B
             C: control⏎{}
             {BREAKS}{}
             S: PROG,1⏎U,1,1,a|b⏎SUBOK,2,1,2⏎CONF,2,1.0,filtered⏎U,2,1,x|y⏎
             E: recovered, 1 repeated
             E: 8 subscribed items 1 fields 2
             E: 8 configured filtered 1.0
             E: 8 first item 1: \"x\" \"y\"
             +9s
             S: PROBE
             +9s",
            add(2, 2, 8),
            recovering(2)
        ),
    ));
}

#[test]
fn a_refusal_lost_with_its_connection_is_asked_for_again() {
    check(&active(
        &[7],
        &format!(
            "subscribe 8 i8 A B
             C: control⏎{}
             {BREAKS}{}
             S: PROG,2
             E: recovered, 0 repeated
             +9s
             S: PROBE
             +1s
             C: control⏎{}⏎{} (after 1s)
             S: REQERR,2,-1,late⏎REQERR,3,19,none⏎REQERR,4,-1,No
             E: 8 refused -1 Adapter: No",
            add(2, 2, 8),
            recovering(2),
            delete(3, 2),
            add(4, 3, 8),
        ),
    ));
}

#[test]
fn what_is_asked_for_without_a_connection_waits_for_the_next() {
    for (interruption, next) in [(BREAKS, recovering(4)), (LOOPS, rebound())] {
        check(&active(
            &[7, 8],
            &format!(
                "{interruption}
                 subscribe 9 i9 A B
                 subscribe 10 i10 A B
                 unsubscribe 10
                 unsubscribe 8
                 resubscribe 7
                 {next}
                 C: control⏎{}⏎{}⏎{}⏎{}",
                delete(5, 2),
                delete(6, 1),
                add(7, 3, 9),
                add(8, 5, 7),
            ),
        ));
    }
}

#[test]
fn a_delete_without_an_answer_is_asked_for_again_on_the_next_connection() {
    for (interruption, next) in
        [(BREAKS, recovering(2) + "S: PROG,2\nE: recovered, 0 repeated"), (LOOPS, rebound())]
    {
        let (head, tail) = next.split_at(next.find("keepalive 5s\n").unwrap() + "keepalive 5s\n".len());
        check(&active(
            &[7],
            &format!(
                "unsubscribe 7
                 C: control⏎{}
                 {interruption}{head}
                 C: control⏎{}
                 {tail}
                 S: REQERR,2,19,late⏎UNSUB,1⏎REQERR,3,19,No such subscription
                 E: 7 unsubscribed",
                delete(2, 1),
                delete(3, 1),
            ),
        ));
    }
}

#[test]
fn an_unsub_among_what_is_recovered_confirms_the_delete_of_before() {
    check(&active(
        &[7],
        &format!(
            "unsubscribe 7
             C: control⏎{}
             {BREAKS}{}
             C: control⏎{}
             S: PROG,1⏎U,1,1,a|b⏎U,1,1,c|d⏎UNSUB,1⏎REQERR,3,19,No such subscription
             E: recovered, 1 repeated
             E: 7 unsubscribed
             count
             = data 4, skipped 0",
            delete(2, 1),
            recovering(2),
            delete(3, 1),
        ),
    ));
}

#[test]
fn a_delete_without_an_answer_is_asked_for_once_more() {
    check(&active(
        &[7],
        &format!(
            "unsubscribe 7
             C: control⏎{}
             +9s
             S: PROBE
             +9s
             C: control⏎{} (after 1s)
             S: PROBE
             +9s
             S: PROBE
             +9s
             S: UNSUB,1
             E: 7 unsubscribed",
            delete(2, 1),
            delete(3, 1)
        ),
    ));
}

#[test]
fn an_add_lost_with_its_connection_can_be_taken_back() {
    check(&bound(
        &[7],
        &format!(
            "{BREAKS}
             unsubscribe 7
             {}
             C: control⏎{}
             S: PROG,0⏎REQERR,3,19,No such subscription
             E: recovered, 0 repeated
             E: 7 unsubscribed",
            recovering(0),
            delete(3, 1)
        ),
    ));
}

#[test]
fn the_cure_of_a_fault_survives_a_break() {
    check(&active(
        &[7],
        &format!(
            "S: U,1,1,c
             E: 7 fault, too few values: U,1,1,c
             C: control⏎{}⏎{}
             {BREAKS}{}
             C: control⏎{}
             S: PROG,2⏎U,1,1,c⏎U,1,1,d|⏎UNSUB,1⏎SUBOK,2,1,2⏎U,2,1,d|e
             E: recovered, 1 repeated
             E: 7 subscribed items 1 fields 2
             E: 7 first item 1: \"d\" \"e\"
             count
             = data 7, skipped 0",
            delete(2, 1),
            add(3, 2, 7),
            recovering(3),
            delete(4, 1)
        ),
    ));
}

#[test]
fn an_unknown_subscription_is_deleted_again_after_a_break() {
    check(&active(
        &[],
        &format!(
            "S: U,9,1,x
             E: skipped, unknown subscription: U,9,1,x
             C: control⏎{}
             {BREAKS}{}
             C: control⏎{}
             S: PROG,1⏎U,9,1,y⏎UNSUB,9⏎U,9,1,z
             E: recovered, 0 repeated
             E: skipped, unknown subscription: U,9,1,y
             E: skipped, unknown subscription: U,9,1,z
             C: control⏎{}",
            delete(1, 9),
            recovering(1),
            delete(2, 9),
            delete(3, 9),
        ),
    ));
}

#[test]
fn a_delete_that_is_not_needed_any_more_is_not_sent() {
    check(&active(
        &[],
        "S: U,9,1,x⏎UNSUB,9
         E: skipped, unknown subscription: U,9,1,x",
    ));
    check(&bound(
        &[7],
        "S: SUBOK,1,1,3⏎UNSUB,1
         E: 7 refused 61 Config: expected 2 fields, the server has 3 (items: 1)",
    ));
}

// Time.

#[test]
fn a_connection_that_brought_data_starts_a_new_recovery_when_it_breaks() {
    let mut script = String::new();
    for count in 2..8 {
        let (from, till) = (recovering(count), count + 1);
        script += &format!(
            "{BREAKS}{from}
             S: PROG,{count}⏎U,1,1,x{till}|
             E: recovered, 0 repeated
             E: 7 update item 1: \"x{till}\" -
             +5s\n"
        );
    }
    check(&active(&[7], &script));
}

#[test]
fn connections_that_bring_no_data_are_spaced_and_given_up_in_the_end() {
    let again = |wait: &str| {
        format!(
            "{}S: PROG,2
             E: recovered, 0 repeated
             closed
             E: interrupted, connection closed
             W: recover over websocket{wait}
             +4s\n",
            recovering(2)
        )
    };
    let again = again(" in 4s");
    check(&active(
        &[7],
        &format!(
            "{BREAKS}{again}{again}{again}{}
             closed
             E: ended, not recovered in time after: connection closed",
            recovering(2)
        ),
    ));
}

#[test]
fn a_connection_without_data_proves_itself_by_its_age() {
    check(&active(
        &[7],
        &format!(
            "{BREAKS}{}
             S: PROG,2
             E: recovered, 0 repeated
             +8s
             S: PROBE
             +7s
             {BREAKS}",
            recovering(2)
        ),
    ));
}

#[test]
fn a_server_that_only_loops_is_bound_less_often() {
    let slow = "S: LOOP,0
         E: interrupted, server asks for a new bind in 0ns
         W: bind over websocket in 4s
         +4s\n";
    check(&active(&[7], &format!("{LOOPS}{}{slow}{}{slow}{}", rebound(), rebound(), rebound())));
}

#[test]
fn no_loop_is_waited_for_longer_than_the_server_would() {
    check(&active(
        &[7],
        "S: LOOP,86400000
         E: interrupted, server asks for a new bind in 30s
         W: bind over websocket in 30s
         +600s",
    ));
}

#[test]
fn a_half_open_connection_is_found_and_recovered_and_again_while_recovering() {
    check(&active(
        &[7],
        &format!(
            "+10s
             E: interrupted, silent for 10s (after 10s)
             W: recover over websocket (after 10s)
             open
             C: wsok
             C: bind_session⏎LS_session=S1&LS_recovery_from=2&LS_keepalive_millis=5000&LS_send_sync=false
             S: WSOK⏎CONOK,S1,50000,5000,*
             E: recovering keepalive 5s
             +10s
             E: interrupted, silent for 10s (after 10s)
             W: recover over websocket (after 10s)
             {}
             S: PROG,2⏎U,1,1,c|
             E: recovered, 0 repeated
             E: 7 update item 1: \"c\" -",
            recovering(2)
        ),
    ));
}

#[test]
fn the_keepalive_of_the_latest_bind_counts_and_is_asked_for_the_next_time() {
    check(&active(
        &[7],
        &format!(
            "{LOOPS}open
             C: wsok
             C: bind_session⏎LS_session=S1&LS_keepalive_millis=5000&LS_send_sync=false
             S: CONOK,S1,50000,20000,*
             E: rebound keepalive 20s
             +24999ms
             +1ms
             E: interrupted, silent for 25s (after 1ms)
             W: recover over websocket (after 1ms)
             open
             C: wsok
             C: bind_session⏎LS_session=S1&LS_recovery_from=2&LS_keepalive_millis=20000&LS_send_sync=false"
        ),
    ));
}

#[test]
fn the_first_try_goes_another_way_only_after_something_answered() {
    for (how, what, next) in [
        ("closed unreachable", "server unreachable", "recover over websocket"),
        ("closed", "connection closed", "recover over http"),
        ("closed refused", "connection refused by an HTTP answer", "recover over http"),
    ] {
        check(&active(
            &[7],
            &format!(
                "{BREAKS}connecting
                 {how}
                 E: interrupted, {what}
                 W: {next} in 4s"
            ),
        ));
    }
}

#[test]
fn a_bind_that_cannot_be_had_after_a_loop_becomes_a_recovery() {
    check(&active(
        &[7],
        &format!(
            "{LOOPS}connecting
             closed unreachable
             E: interrupted, server unreachable
             W: recover over websocket
             {}
             S: PROG,2
             E: recovered, 0 repeated",
            recovering(2)
        ),
    ));
}

#[test]
fn nobody_connecting_within_the_time_for_recovery_ends_it() {
    check(&active(
        &[7],
        &format!(
            "{BREAKS}+14999ms\n+1ms\nE: ended, not recovered in time after: connection closed (after 1ms)"
        ),
    ));
}

#[test]
fn without_recovery_a_break_ends_the_session_and_a_loop_does_not() {
    let script = |what: &str| {
        format!(
            "options recovery=0s
             open
             C: wsok
             C: create_session⏎LS_user=ABC12&LS_cid=mgQkwtwdysogQz2BJ4Ji%20kOj2Bg&LS_supported_diffs=&LS_send_sync=false&LS_password=CST-a%7CXST-b
             S: CONOK,S1,50000,5000,*
             E: established S1 keepalive 5s limit 50000 link here
             {what}"
        )
    };
    check(&script("closed\nE: ended, connection closed"));
    check(&script("+10s\nE: ended, silent for 10s (after 10s)"));
    check(&script(&format!("{LOOPS}{}", rebound())));
    check(&script(&format!(
        "{LOOPS}connecting\nclosed refused\nE: ended, connection refused by an HTTP answer"
    )));
}

#[test]
fn heartbeats_pause_with_the_connection() {
    check(
        "options inactivity=4s keepalive=60s
         open
         C: wsok
         C: create_session⏎LS_keepalive_millis=60000&LS_inactivity_millis=4000&LS_user=ABC12&LS_cid=mgQkwtwdysogQz2BJ4Ji%20kOj2Bg&LS_supported_diffs=&LS_send_sync=false&LS_password=CST-a%7CXST-b
         S: CONOK,S1,50000,60000,*
         E: established S1 keepalive 60s limit 50000 link here
         +3s
         C: heartbeat⏎⏎ (after 2s)
         closed
         E: interrupted, connection closed
         W: recover over websocket
         +5s
         open
         C: wsok
         C: bind_session⏎LS_session=S1&LS_recovery_from=0&LS_keepalive_millis=60000&LS_inactivity_millis=4000&LS_send_sync=false
         +1s
         S: CONOK,S1,50000,60000,*
         E: recovering keepalive 60s
         +2s
         C: heartbeat⏎⏎ (after 2s)",
    );
}

// Where to.

#[test]
fn the_latest_control_link_is_followed_by_binds_and_recoveries() {
    check(
        "open
         C: wsok
         C: create_session⏎LS_user=ABC12&LS_cid=mgQkwtwdysogQz2BJ4Ji%20kOj2Bg&LS_supported_diffs=&LS_send_sync=false&LS_password=CST-a%7CXST-b
         S: CONOK,S1,50000,5000,a.com
         E: established S1 keepalive 5s limit 50000 link a.com
         +16s
         E: interrupted, silent for 10s (after 10s)
         W: recover over websocket at a.com (after 10s)
         open
         C: wsok
         C: bind_session⏎LS_session=S1&LS_recovery_from=0&LS_keepalive_millis=5000&LS_send_sync=false
         S: CONOK,S1,50000,5000,b.com
         E: recovering keepalive 5s link b.com
         S: PROG,0⏎CS,3,1⏎LOOP,0
         E: recovered, 0 repeated
         E: skipped, unknown subscription: CS,3,1
         E: interrupted, server asks for a new bind in 0ns
         W: bind over websocket at b.com
         open
         C: wsok
         C: bind_session⏎LS_session=S1&LS_keepalive_millis=5000&LS_send_sync=false
         S: CONOK,S1,50000,5000,*
         E: rebound keepalive 5s link b.com
         C: control⏎LS_reqId=2&LS_op=delete&LS_subId=3&LS_ack=false",
    );
}

#[test]
fn a_version_without_wsok_names_the_session_in_every_request() {
    check(
        "options version=2.1.0
         subscribe 7 i A
         open
         C: create_session⏎LS_user=ABC12&LS_cid=mgQkwtwdysogQz2BJ4Ji%20kOj2Bg&LS_send_sync=false&LS_password=CST-a%7CXST-b
         S: CONOK,S1,50000,5000,*
         E: established S1 keepalive 5s limit 50000 link here
         C: control⏎LS_reqId=1&LS_session=S1&LS_op=add&LS_subId=1&LS_mode=MERGE&LS_group=i&LS_schema=A&LS_snapshot=true
         S: SUBOK,1,1,1
         E: 7 subscribed items 1 fields 1
         closed
         E: interrupted, connection closed
         W: recover over websocket
         open
         C: bind_session⏎LS_session=S1&LS_recovery_from=1&LS_keepalive_millis=5000&LS_send_sync=false
         destroy
         S: CONOK,S1,50000,5000,*
         E: recovering keepalive 5s
         C: control⏎LS_reqId=2&LS_session=S1&LS_op=destroy&LS_close_socket=true",
    );
}

// The end.

#[test]
fn it_can_be_destroyed_in_every_phase() {
    // Before there was any connection.
    check("destroy\nconnecting\nopen\n+60s");
    // While one is made, and right behind the request for the session.
    check("connecting\ndestroy\nclosed unreachable\nE: ended, session destroyed");
    check(
        "open
         C: wsok
         C: create_session⏎LS_user=ABC12&LS_cid=mgQkwtwdysogQz2BJ4Ji%20kOj2Bg&LS_supported_diffs=&LS_send_sync=false&LS_password=CST-a%7CXST-b
         destroy
         C: control⏎LS_reqId=1&LS_op=destroy&LS_close_socket=true
         S: CONOK,S1,50000,5000,*⏎END,31,x
         E: established S1 keepalive 5s limit 50000 link here
         E: ended, session destroyed",
    );
    // Between connections: there is nobody to tell.
    check(&active(&[7], &format!("{BREAKS}destroy\nopen\n+1s\nE: ended, session destroyed (after 0ns)")));
    check(&active(
        &[7],
        &format!("{LOOPS}destroy\nconnecting\n+1s\nE: ended, session destroyed (after 0ns)"),
    ));
    // While it is recovered.
    check(&active(
        &[7],
        &format!(
            "unsubscribe 7
             C: control⏎{}
             {BREAKS}open
             C: wsok
             C: bind_session⏎LS_session=S1&LS_recovery_from=2&LS_keepalive_millis=5000&LS_send_sync=false
             destroy
             C: control⏎LS_reqId=3&LS_op=destroy&LS_close_socket=true
             subscribe 8 i8 A B
             S: CONOK,S1,50000,5000,*⏎PROG,2⏎U,5,1,x
             E: recovering keepalive 5s
             E: recovered, 0 repeated
             E: skipped, unknown subscription: U,5,1,x
             closed
             E: ended, session destroyed",
            delete(2, 1)
        ),
    ));
}
