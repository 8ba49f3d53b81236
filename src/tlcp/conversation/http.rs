//! Conversations over HTTP: an endless answer for lines, one request each way for the rest, and
//! the way back to a WebSocket.

use super::{BREAKS, active, check};

const CREATE: &str = "C: /create_session.txt?LS_protocol=TLCP-2.4.0 LS_content_length=50000000&LS_user=ABC12&LS_cid=mgQkwtwdysogQz2BJ4Ji%20kOj2Bg&LS_supported_diffs=&LS_send_sync=false&LS_password=CST-a%7CXST-b";
const BIND: &str = "C: /bind_session.txt?LS_protocol=TLCP-2.4.0 LS_session=S1&LS_content_length=50000000&LS_keepalive_millis=5000&LS_send_sync=false";
const BIND_WEBSOCKET: &str =
    "C: wsok\nC: bind_session⏎LS_session=S1&LS_keepalive_millis=5000&LS_send_sync=false";

fn recover(count: u64) -> String {
    BIND.replace("LS_session=S1", &format!("LS_session=S1&LS_recovery_from={count}"))
}

fn control(lines: &str) -> String {
    format!("C: /control.txt?LS_protocol=TLCP-2.4.0&LS_session=S1 {lines}")
}

fn add(request_id: u32, sub_id: u32, tag: u16) -> String {
    format!(
        "LS_reqId={request_id}&LS_op=add&LS_subId={sub_id}&LS_mode=MERGE&LS_group=i{tag}&LS_schema=A%20B&LS_snapshot=true"
    )
}

/// A session over HTTP with the subscription 7 active; two data lines. `options` beyond the transport.
fn streaming(options: &str, conversation: &str) -> String {
    format!(
        "options transport=http {options}
         subscribe 7 i7 A B
         open
         {CREATE}
         H: CONOK,S1,50000,5000,*⏎
         E: established S1 keepalive 5s limit 50000 link here
         {}
         A: REQOK,1⏎
         H: SUBOK,1,1,2⏎U,1,1,a|b⏎
         E: 7 subscribed items 1 fields 2
         E: 7 first item 1: \"a\" \"b\"
         {conversation}",
        control(&add(1, 1, 7))
    )
}

#[test]
fn lines_come_in_any_pieces_behind_filler() {
    check(&format!(
        "options transport=http
         open
         {CREATE}
         H: NOOP,xxxxxxxx⏎NOOP,xx
         H: xx⏎CON
         H: OK,S1,500
         H: 00,5000,*⏎SERVNAME,x⏎CLIENTIP
         E: established S1 keepalive 5s limit 50000 link here
         H: ,1.2.3.4⏎U,9,1
         H: ,a⏎
         E: skipped, unknown subscription: U,9,1,a
         {}",
        control("LS_reqId=1&LS_op=delete&LS_subId=9")
    ));
}

#[test]
fn the_begun_line_of_a_broken_answer_is_no_data() {
    check(&streaming(
        "",
        &format!(
            "H: U,1,1,c|d⏎U,1,1,e|
             E: 7 update item 1: \"c\" \"d\"
             closed
             E: interrupted, connection closed
             W: recover over http
             open
             {}
             H: CONOK,S1,50000,5000,*⏎PROG,3⏎U,1,1,e|f⏎
             E: recovering keepalive 5s
             E: recovered, 0 repeated
             E: 7 update item 1: \"e\" \"f\"",
            recover(3)
        ),
    ));
}

#[test]
fn an_answer_that_is_used_up_is_bound_anew_without_recovery() {
    check(&streaming(
        "",
        &format!(
            "H: LOOP,0⏎U,1,1,x|y⏎CON
             E: interrupted, server asks for a new bind in 0ns
             W: bind over http
             closed
             H: OK
             open
             {BIND}
             H: CONOK,S1,50000,5000,*⏎U,1,1,c|⏎
             E: rebound keepalive 5s
             E: 7 update item 1: \"c\" -
             count
             = data 3, skipped 0"
        ),
    ));
}

#[test]
fn silence_ends_an_answer_too_and_answers_of_other_requests_do_not_break_it() {
    check(&streaming(
        "",
        "+9s
         A: REQOK⏎
         +9s
         E: interrupted, silent for 10s (after 1s)
         W: recover over http (after 1s)",
    ));
}

#[test]
fn a_refusal_comes_as_the_answer_to_its_request() {
    check(&streaming(
        "",
        &format!(
            "subscribe 8 i8 A B
             {}
             A: REQERR,2,-1,Insufficient permissions⏎NOOP,x⏎
             E: 8 refused -1 Adapter: Insufficient permissions
             unsubscribe 7
             {}
             A: REQERR,3,19,No such subscription
             E: 7 unsubscribed",
            control(&add(2, 2, 8)),
            control("LS_reqId=3&LS_op=delete&LS_subId=1")
        ),
    ));
}

#[test]
fn an_answer_can_void_the_session() {
    for (answer, end) in [
        ("ERROR,67,malformed", "67 malformed → Backoff"),
        ("ERROR,68,internal⏎ERROR,68,internal", "68 internal → Backoff"),
    ] {
        check(&streaming(
            "",
            &format!("A: {answer}\nE: ended, session void after a request: {end}\nA: {answer}"),
        ));
    }
}

#[test]
fn an_answer_that_is_none_is_ignored() {
    for answer in
        ["⏎", "<html>502 Bad Gateway</html>", "CONERR,1,x", "END,32,x", "LOOP,0", "U,1,1,x|y", "PROG,9"]
    {
        check(&streaming("", &format!("A: {answer}\ncount\n= data 2, skipped 0")));
    }
}

#[test]
fn a_request_lost_beside_the_stream_is_made_again() {
    check(&streaming(
        "",
        &format!(
            "subscribe 8 i8 A B
             {}
             unsubscribe 7
             {}
             +9s
             H: PROBE⏎
             +1s
             {} (after 1s)
             A: REQERR,5,19,No such subscription⏎REQOK,4⏎REQOK,6⏎
             H: UNSUB,1⏎SUBOK,3,1,2⏎
             E: 7 unsubscribed
             E: 8 subscribed items 1 fields 2",
            control(&add(2, 2, 8)),
            control("LS_reqId=3&LS_op=delete&LS_subId=1"),
            control(&format!(
                "LS_reqId=4&LS_op=delete&LS_subId=2⏎{}⏎LS_reqId=6&LS_op=delete&LS_subId=1",
                add(5, 3, 8)
            ))
        )
        .replace("REQERR,5,19", "REQERR,4,19")
        .replace("REQOK,4⏎", "REQOK,5⏎"),
    ));
}

#[test]
fn heartbeats_and_the_destruction_are_requests_of_their_own() {
    check(&format!(
        "options transport=http inactivity=10s
         open
         {}
         H: CONOK,S1,50000,5000,*⏎
         E: established S1 keepalive 5s limit 50000 link here
         +6s
         C: /heartbeat.txt?LS_protocol=TLCP-2.4.0&LS_session=S1  (after 5s)
         A: REQOK⏎
         destroy
         {}
         A: REQOK,1⏎
         H: END,31,x⏎
         E: ended, session destroyed",
        CREATE.replace("&LS_user", "&LS_inactivity_millis=10000&LS_user"),
        control("LS_reqId=1&LS_op=destroy&LS_close_socket=true")
    ));
}

#[test]
fn a_request_never_goes_out_before_the_session_is_made() {
    check(&format!(
        "options transport=http
         subscribe 7 i7 A B
         open
         {CREATE}
         destroy
         closed
         E: ended, session destroyed"
    ));
    check(&format!(
        "options transport=http\nopen\n{CREATE}\nclosed refused\nE: ended, connection refused by an HTTP answer"
    ));
    check(&format!(
        "options transport=http\nopen\n{CREATE}\nH: CONERR,5,Overloaded⏎\nE: ended, session refused: 5 Overloaded → Backoff"
    ));
    check(&format!(
        "options transport=http\nopen\n{CREATE}\n+4s\nE: ended, no session in time (WebSocket works: false) (after 4s)"
    ));
}

// The way back to a WebSocket.

/// After eight seconds on HTTP a WebSocket is asked for.
fn asked_for_websocket(conversation: &str) -> String {
    streaming(
        "websocket_again=8s",
        &format!(
            "+8s
             {} (after 8s)
             {conversation}",
            control("LS_reqId=2&LS_op=force_rebind")
        ),
    )
}

#[test]
fn a_new_bind_is_asked_for_and_made_over_a_websocket() {
    check(&asked_for_websocket(&format!(
        "A: REQOK,2⏎
         H: U,1,1,c|⏎LOOP,0⏎
         E: 7 update item 1: \"c\" -
         E: interrupted, server asks for a new bind in 0ns
         W: bind over websocket
         open
         {BIND_WEBSOCKET}
         S: WSOK⏎CONOK,S1,50000,5000,*
         E: rebound keepalive 5s
         S: U,1,1,d|
         E: 7 update item 1: \"d\" -
         +9s"
    )));
}

#[test]
fn a_websocket_refused_on_the_way_back_is_followed_by_a_recovery_over_http() {
    for (how, what) in
        [("closed refused", "connection refused by an HTTP answer"), ("closed", "connection closed")]
    {
        check(&asked_for_websocket(&format!(
            "H: LOOP,0⏎
             E: interrupted, server asks for a new bind in 0ns
             W: bind over websocket
             connecting
             {how}
             E: interrupted, {what}
             W: recover over http
             open
             {}
             H: CONOK,S1,50000,5000,*⏎PROG,1⏎U,1,1,a|b⏎U,1,1,c|⏎
             E: recovering keepalive 5s
             E: recovered, 1 repeated
             E: 7 update item 1: \"c\" -
             +8s
             {} (after 8s)",
            recover(2),
            control("LS_reqId=3&LS_op=force_rebind")
        )));
    }
}

#[test]
fn a_websocket_that_answers_nothing_on_the_way_back_is_given_up_in_time() {
    check(&asked_for_websocket(&format!(
        "H: LOOP,0⏎
         E: interrupted, server asks for a new bind in 0ns
         W: bind over websocket
         open
         {BIND_WEBSOCKET}
         +4s
         E: interrupted, no session in time (WebSocket works: false) (after 4s)
         W: recover over http (after 4s)
         open
         {}",
        recover(2)
    )));
}

#[test]
fn a_new_bind_that_the_server_does_not_want_is_asked_for_again_later() {
    for answer in ["A: REQERR,2,66,No", "A: REQOK,2⏎", "A: <html>"] {
        check(&asked_for_websocket(&format!(
            "{answer}
             H: PROBE⏎
             +8s
             {} (after 8s)",
            control("LS_reqId=3&LS_op=force_rebind")
        )));
    }
}

#[test]
fn a_break_before_the_new_bind_is_recovered_over_http() {
    check(&asked_for_websocket(&format!(
        "closed
         E: interrupted, connection closed
         W: recover over http
         open
         {}
         H: CONOK,S1,50000,5000,*⏎PROG,2⏎CS,1,1⏎LOOP,0⏎
         E: recovering keepalive 5s
         E: recovered, 0 repeated
         E: skipped, out of place: CS,1,1
         E: interrupted, server asks for a new bind in 0ns
         W: bind over http",
        recover(2)
    )));
}

#[test]
fn a_wish_for_a_websocket_that_did_not_go_out_is_no_wish_of_the_next_connection() {
    // Due while nobody takes what is to be sent: the recovery starts without it.
    check(&streaming(
        "websocket_again=5s",
        &format!(
            "+5s
             {} (after 5s)
             destroy
             {}
             H: PROBE⏎
             +8s",
            control("LS_reqId=2&LS_op=force_rebind"),
            control("LS_reqId=3&LS_op=destroy&LS_close_socket=true")
        ),
    ));
}

#[test]
fn one_transport_alone_is_never_left() {
    check(
        &streaming(
            "websocket_again=8s",
            &format!(
                "+9s
                 closed
                 E: interrupted, connection closed
                 W: recover over http
                 open
                 {}
                 closed refused
                 E: interrupted, connection refused by an HTTP answer
                 W: recover over http in 4s",
                recover(2)
            ),
        )
        .replace("transport=http", "only=http"),
    );
    let websocket = active(
        &[7],
        &format!(
            "{BREAKS}connecting
             closed refused
             E: interrupted, connection refused by an HTTP answer
             W: recover over websocket in 4s"
        ),
    );
    check(&format!("options only=websocket\n{websocket}"));
}

#[test]
fn a_session_that_came_down_to_http_in_a_recovery_goes_back_as_well() {
    let down = active(
        &[7],
        &format!(
            "{BREAKS}connecting
             closed refused
             E: interrupted, connection refused by an HTTP answer
             W: recover over http in 4s
             +4s
             open
             {}
             H: CONOK,S1,50000,5000,*⏎PROG,2⏎U,1,1,c|⏎
             E: recovering keepalive 5s
             E: recovered, 0 repeated
             E: 7 update item 1: \"c\" -
             +8s
             {} (after 8s)
             H: LOOP,0⏎
             E: interrupted, server asks for a new bind in 0ns
             W: bind over websocket",
            recover(2),
            control("LS_reqId=2&LS_op=force_rebind")
        ),
    );
    check(&format!("options websocket_again=8s\n{down}"));
}
