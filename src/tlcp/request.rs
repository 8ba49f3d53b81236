//! Requests → the text of one WebSocket message each.
//!
//! Parameters stand in the order of the official clients, so that captures compare line by line.
//! The password is always last, and nothing here that holds it can be printed.

use std::fmt::{self, Write};
use std::time::Duration;

use super::percent;
use super::{SubId, Version};

/// What every self-made client must send as `LS_cid`.
pub const CLIENT_ID: &str = "mgQkwtwdysogQz2BJ4Ji kOj2Bg";

const LINE_END: &str = "\r\n";

/// User and password of a session. Prints neither.
#[derive(Clone)]
pub struct Credentials {
    user: String,
    password: String,
}

impl Credentials {
    /// Wraps a user and a password.
    pub fn new(user: String, password: String) -> Credentials {
        Credentials { user, password }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// What both `create_session` and `bind_session` say about a streaming connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Streaming {
    /// Longest silence wanted from the server, if not its own choice.
    pub keepalive: Option<Duration>,
    /// Longest silence promised by us, if any is promised.
    pub inactivity: Option<Duration>,
    /// Whether the server shall send its clock.
    pub send_sync: bool,
}

impl Streaming {
    fn write_silences(&self, line: &mut ParameterLine) {
        if let Some(keepalive) = self.keepalive {
            line.add("LS_keepalive_millis", keepalive.as_millis());
        }
        if let Some(inactivity) = self.inactivity {
            line.add("LS_inactivity_millis", inactivity.as_millis());
        }
    }

    fn write_sync(&self, line: &mut ParameterLine) {
        if !self.send_sync {
            line.add("LS_send_sync", false);
        }
    }
}

/// Returns `wsok`, which asks whether the WebSocket works at all.
pub fn wsok() -> String {
    "wsok".to_owned()
}

/// Returns `create_session`. Holds the password: not for any log.
pub fn create_session(
    version: Version,
    streaming: Streaming,
    adapter_set: Option<&str>,
    credentials: &Credentials,
) -> String {
    let mut line = ParameterLine::default();
    streaming.write_silences(&mut line);
    if let Some(adapter_set) = adapter_set {
        line.add_coded("LS_adapter_set", adapter_set);
    }
    line.add_coded("LS_user", &credentials.user);
    line.add_coded("LS_cid", CLIENT_ID);
    if version.has_diffs() {
        // Left out, it would allow every kind of difference.
        line.add("LS_supported_diffs", "");
    }
    streaming.write_sync(&mut line);
    line.add_coded("LS_password", &credentials.password);
    message("create_session", &line.0)
}

/// Returns `bind_session`. With `recovery_from`, the count of data notifications received so far,
/// the server repeats what came after them; without, it takes everything as delivered.
pub fn bind_session(session_id: &str, recovery_from: Option<u64>, streaming: Streaming) -> String {
    let mut line = ParameterLine::default();
    line.add_coded("LS_session", session_id);
    if let Some(count) = recovery_from {
        line.add("LS_recovery_from", count);
    }
    streaming.write_silences(&mut line);
    streaming.write_sync(&mut line);
    message("bind_session", &line.0)
}

/// Returns `heartbeat`, which any control request would serve as too.
pub fn heartbeat(session: Session<'_>) -> String {
    match session.named() {
        Some(session_id) => {
            let mut line = ParameterLine::default();
            line.add_coded("LS_session", session_id);
            message("heartbeat", &line.0)
        }
        // An empty parameter line must be there, with its line end.
        None => format!("heartbeat{LINE_END}{LINE_END}"),
    }
}

/// The session that a request is for, and the version spoken in it.
#[derive(Clone, Copy, Debug)]
pub struct Session<'a> {
    /// Version claimed for the connection.
    pub version: Version,
    /// Id from `CONOK`; may be empty before that, except in 2.1.0.
    pub id: &'a str,
}

impl<'a> Session<'a> {
    /// The id where it must be named; elsewhere the connection stands for it.
    fn named(self) -> Option<&'a str> {
        (!self.version.has_wsok()).then_some(self.id)
    }
}

/// A control request.
#[derive(Clone, Copy, Debug)]
pub enum Control<'a> {
    /// Subscribes in MERGE mode.
    Add {
        /// Id on the wire.
        sub_id: SubId,
        /// Item group, for literal metadata adapters a list separated by spaces.
        group: &'a str,
        /// Field schema, likewise.
        schema: &'a str,
        /// Whether the current row is wanted first.
        snapshot: bool,
        /// Whether merging is forbidden.
        unfiltered: bool,
    },
    /// Unsubscribes.
    Delete {
        /// Id on the wire.
        sub_id: SubId,
    },
    /// Ends the session and the connection.
    Destroy,
}

impl Control<'_> {
    /// Returns the parameter line of this request.
    pub fn line(&self, session: Session<'_>, request_id: u64) -> String {
        let mut line = ParameterLine::default();
        line.add("LS_reqId", request_id);
        if let Some(session_id) = session.named() {
            line.add_coded("LS_session", session_id);
        }
        match *self {
            Control::Add { sub_id, group, schema, snapshot, unfiltered } => {
                line.add("LS_op", "add");
                line.add("LS_subId", sub_id);
                line.add("LS_mode", "MERGE");
                line.add_coded("LS_group", group);
                line.add_coded("LS_schema", schema);
                line.add("LS_snapshot", snapshot);
                if unfiltered {
                    line.add("LS_requested_max_frequency", "unfiltered");
                }
                line.add_no_ack(session.version);
            }
            Control::Delete { sub_id } => {
                line.add("LS_op", "delete");
                line.add("LS_subId", sub_id);
                line.add_no_ack(session.version);
            }
            Control::Destroy => {
                line.add("LS_op", "destroy");
                line.add("LS_close_socket", true);
            }
        }
        line.0
    }
}

/// Several control requests in one message, within the server's limit for a request.
#[derive(Debug)]
pub struct ControlBatch {
    text: String,
    limit_bytes: usize,
    empty: bool,
}

impl ControlBatch {
    /// Starts a message of at most `limit_bytes`.
    pub fn new(limit_bytes: usize) -> ControlBatch {
        ControlBatch { text: "control".to_owned(), limit_bytes, empty: true }
    }

    /// Takes a parameter line if it still fits. The first is always taken: alone above the limit
    /// it is the server's to refuse.
    #[must_use]
    pub fn push(&mut self, line: &str) -> bool {
        let grown = self.text.len() + LINE_END.len() + line.len();
        if !self.empty && grown > self.limit_bytes {
            return false;
        }
        self.text.push_str(LINE_END);
        self.text.push_str(line);
        self.empty = false;
        true
    }

    /// Returns the message.
    pub fn finish(self) -> String {
        self.text
    }
}

fn message(name: &str, line: &str) -> String {
    [name, line].join(LINE_END)
}

/// `name=value` pairs joined by `&`.
#[derive(Default)]
struct ParameterLine(String);

impl ParameterLine {
    /// Adds a value that needs no coding.
    fn add(&mut self, name: &str, value: impl fmt::Display) {
        let joint = if self.0.is_empty() { "" } else { "&" };
        write!(self.0, "{joint}{name}={value}").expect("a String takes any text");
    }

    fn add_coded(&mut self, name: &str, value: &str) {
        self.add(name, "");
        percent::encode_into(&mut self.0, value);
    }

    /// Spares us the `REQOK`; errors come anyway.
    fn add_no_ack(&mut self, version: Version) {
        if version.has_ack() {
            self.add("LS_ack", false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials() -> Credentials {
        Credentials::new("ABC12".to_owned(), "CST-a+b|XST-c&d".to_owned())
    }

    #[test]
    fn creates_a_session_with_the_password_last() {
        assert_eq!(
            create_session(Version::V2_4_0, Streaming::default(), None, &credentials()),
            "create_session\r\nLS_user=ABC12&LS_cid=mgQkwtwdysogQz2BJ4Ji%20kOj2Bg&LS_supported_diffs=\
             &LS_send_sync=false&LS_password=CST-a%2Bb%7CXST-c%26d"
        );
        let streaming = Streaming {
            keepalive: Some(Duration::from_secs(5)),
            inactivity: Some(Duration::from_secs(10)),
            send_sync: true,
        };
        assert_eq!(
            create_session(Version::V2_3_0, streaming, Some("DEFAULT"), &credentials()),
            "create_session\r\nLS_keepalive_millis=5000&LS_inactivity_millis=10000&LS_adapter_set=DEFAULT\
             &LS_user=ABC12&LS_cid=mgQkwtwdysogQz2BJ4Ji%20kOj2Bg&LS_password=CST-a%2Bb%7CXST-c%26d"
        );
    }

    #[test]
    fn binds_with_and_without_recovery() {
        assert_eq!(
            bind_session("S1", Some(15), Streaming::default()),
            "bind_session\r\nLS_session=S1&LS_recovery_from=15&LS_send_sync=false"
        );
        let streaming = Streaming { send_sync: true, ..Streaming::default() };
        assert_eq!(bind_session("S=1", None, streaming), "bind_session\r\nLS_session=S%3D1");
    }

    fn add(unfiltered: bool) -> Control<'static> {
        Control::Add { sub_id: SubId(2), group: "CHART:X:5MINUTE", schema: "A B", snapshot: true, unfiltered }
    }

    #[test]
    fn controls_by_version() {
        let session = |version| Session { version, id: "S1" };
        for (control, version, expected) in [
            (
                add(false),
                Version::V2_4_0,
                "LS_reqId=7&LS_op=add&LS_subId=2&LS_mode=MERGE&LS_group=CHART%3AX%3A5MINUTE&LS_schema=A%20B\
                 &LS_snapshot=true&LS_ack=false",
            ),
            (
                add(true),
                Version::V2_3_0,
                "LS_reqId=7&LS_op=add&LS_subId=2&LS_mode=MERGE&LS_group=CHART%3AX%3A5MINUTE&LS_schema=A%20B\
                 &LS_snapshot=true&LS_requested_max_frequency=unfiltered&LS_ack=false",
            ),
            (
                Control::Delete { sub_id: SubId(2) },
                Version::V2_5_0,
                "LS_reqId=7&LS_op=delete&LS_subId=2&LS_ack=false",
            ),
            (
                Control::Delete { sub_id: SubId(2) },
                Version::V2_1_0,
                "LS_reqId=7&LS_session=S1&LS_op=delete&LS_subId=2",
            ),
            (Control::Destroy, Version::V2_4_0, "LS_reqId=7&LS_op=destroy&LS_close_socket=true"),
        ] {
            assert_eq!(control.line(session(version), 7), expected);
        }
        assert_eq!(heartbeat(session(Version::V2_4_0)), "heartbeat\r\n\r\n");
        assert_eq!(heartbeat(session(Version::V2_1_0)), "heartbeat\r\nLS_session=S1");
    }

    #[test]
    fn a_batch_stays_within_the_limit_line_ends_included() {
        let whole = "control\r\naaaa\r\nbbbb";
        for (limit, expected) in
            [(whole.len(), whole), (whole.len() - 1, "control\r\naaaa"), (1, "control\r\naaaa")]
        {
            let mut batch = ControlBatch::new(limit);
            assert!(batch.push("aaaa"));
            assert_eq!(batch.push("bbbb"), expected == whole);
            assert_eq!(batch.finish(), expected);
        }
    }

    #[test]
    fn credentials_do_not_print() {
        let shown = format!("{:?}", credentials());
        assert!(!shown.contains("ABC12") && !shown.contains("CST"), "{shown}");
    }
}
