//! Conversations about codes: every refusal of a bind and of a request.

use super::{BREAKS, LOOPS, active, bound, check};

/// Every code of the table for `CONERR` and `END`, with how to come back from it.
const SESSION_CODES: [(i32, &str); 31] = [
    (-7, "LoginThenBackoff, alarm at 3"),
    (0, "LoginThenBackoff, alarm at 3"),
    (1, "LoginThenSlow, alarm at 2"),
    (2, "Slow, alarm at 1"),
    (3, "Backoff"),
    (4, "AtOnce"),
    (5, "Backoff"),
    (6, "Backoff"),
    (7, "Slow, alarm at 1"),
    (8, "Slow, alarm at 1"),
    (9, "Slow, alarm at 1"),
    (10, "Backoff"),
    (11, "Slow, alarm at 1"),
    (20, "AtOnce"),
    (21, "Backoff, alarm at 2"),
    (31, "Backoff"),
    (32, "Backoff"),
    (33, "Backoff"),
    (34, "Backoff"),
    (35, "Slow, alarm at 1"),
    (40, "Backoff"),
    (41, "AtOnce"),
    (48, "AtOnce"),
    (60, "Slow, alarm at 1"),
    (64, "Slow, alarm at 1"),
    (66, "Backoff"),
    (67, "Slow, alarm at 1"),
    (68, "Backoff"),
    (69, "AtOnce"),
    (70, "Slow, alarm at 1"),
    (99, "Backoff"),
];

#[test]
fn a_bind_refused_with_whatever_code_ends_the_session_and_says_how_to_come_back() {
    for (code, policy) in SESSION_CODES {
        for (interruption, from) in [(LOOPS, ""), (BREAKS, "&LS_recovery_from=2")] {
            check(&active(
                &[7],
                &format!(
                    "{interruption}open
                     C: wsok
                     C: bind_session⏎LS_session=S1{from}&LS_keepalive_millis=5000&LS_send_sync=false
                     S: WSOK⏎CONERR,{code},No, thanks⏎
                     E: ended, session refused: {code} No, thanks → {policy}
                     closed"
                ),
            ));
        }
    }
}

#[test]
fn an_end_with_whatever_code_ends_the_session_before_and_after_the_bind_is_answered() {
    for (code, policy) in SESSION_CODES {
        check(&active(
            &[7],
            &format!(
                "S: END,{code},Over
                 E: ended, session closed by the server: {code} Over → {policy}"
            ),
        ));
        check(&active(
            &[7],
            &format!(
                "{BREAKS}open
                 C: wsok
                 C: bind_session⏎LS_session=S1&LS_recovery_from=2&LS_keepalive_millis=5000&LS_send_sync=false
                 S: END,{code},Over
                 E: ended, session closed by the server: {code} Over → {policy}"
            ),
        ));
    }
}

#[test]
fn an_add_refused_with_a_code_about_itself_leaves_the_session_alone() {
    for (code, verdict) in [
        (-1, "Adapter"),
        (0, "Adapter"),
        (15, "Config"),
        (17, "Config"),
        (21, "Config"),
        (25, "Config"),
        (29, "Off"),
        (30, "Off"),
        (65, "Off"),
        (66, "RetryLater"),
        (68, "RetryLater"),
        (99, "RetryLater"),
    ] {
        check(&bound(
            &[7, 8],
            &format!(
                "S: REQERR,1,{code},No⏎SUBOK,2,1,2
                 E: 7 refused {code} {verdict}: No
                 E: 8 subscribed items 1 fields 2"
            ),
        ));
    }
}

#[test]
fn a_request_refused_with_a_code_about_the_session_ends_it() {
    for (code, verdict, policy) in [
        (3, "NewSession", "Backoff"),
        (11, "NewSession", "Backoff, alarm at 2"),
        (20, "NewSession", "AtOnce"),
        (67, "Off", "Backoff, alarm at 1"),
    ] {
        check(&bound(
            &[7],
            &format!(
                "S: REQERR,1,{code},No
                 E: 7 refused {code} {verdict}: No
                 E: ended, session void after a request: {code} No → {policy}"
            ),
        ));
    }
}

#[test]
fn an_answer_to_a_request_of_another_session_is_ignored() {
    check(&active(&[7], "S: REQERR,900,20,Session not found⏎REQERR,x1,20,?⏎REQOK,7⏎REQOK⏎PROBE"));
}
