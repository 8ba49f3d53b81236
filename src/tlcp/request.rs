//! Requests → text: one WebSocket message each, or one HTTP POST each.
//!
//! Parameters stand in the order of the official clients, so that captures compare line by line.
//! The password is always last, and nothing here that holds it can be printed.

use std::fmt::{self, Write};
use std::time::Duration;

use super::percent;
use super::{SubId, Transport, Version};

/// What every self-made client must send as `LS_cid`.
pub const CLIENT_ID: &str = "mgQkwtwdysogQz2BJ4Ji kOj2Bg";

const LINE_END: &str = "\r\n";

/// What goes to the server. May hold the password, so it prints its name alone.
#[derive(Clone, PartialEq, Eq)]
pub enum Transmit {
    /// One text message on the WebSocket.
    Message(String),
    /// One HTTP request.
    Post(Post),
}

/// One HTTP request of the fallback transport.
#[derive(Clone, PartialEq, Eq)]
pub struct Post {
    /// Path and query below `/lightstreamer`, with a slash before it.
    pub path: String,
    /// Body, `text/plain`.
    pub body: String,
    /// Whether the answer's body is the stream; else it answers this request alone.
    pub opens_stream: bool,
}

impl fmt::Debug for Transmit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Transmit::Message(text) => text.lines().next(),
            Transmit::Post(Post { path, .. }) => path.split('?').next(),
        };
        write!(f, "Transmit({}…)", name.unwrap_or_default())
    }
}

/// A request, for either transport.
#[derive(Clone)]
pub struct Request {
    name: &'static str,
    lines: String,
}

impl Request {
    fn new(name: &'static str, line: ParameterLine) -> Request {
        Request { name, lines: line.0 }
    }

    /// Returns what goes out on the transport of `session`.
    pub fn transmit(self, session: Session<'_>) -> Transmit {
        match session.transport {
            // A lone name, or an empty parameter line with its line end.
            Transport::WebSocket if self.name == WSOK => Transmit::Message(self.name.to_owned()),
            Transport::WebSocket if self.lines.is_empty() => {
                Transmit::Message([self.name, LINE_END, LINE_END].concat())
            }
            Transport::WebSocket => Transmit::Message([self.name, LINE_END, &self.lines].concat()),
            Transport::Http => {
                let mut query = ParameterLine::default();
                query.add("LS_protocol", format_args!("TLCP-{}", session.version.number()));
                let opens_stream = matches!(self.name, CREATE_SESSION | BIND_SESSION);
                if !opens_stream {
                    query.add_coded("LS_session", session.id);
                }
                let path = format!("/{}.txt?{}", self.name, query.0);
                Transmit::Post(Post { path, body: self.lines, opens_stream })
            }
        }
    }
}

const WSOK: &str = "wsok";
const CREATE_SESSION: &str = "create_session";
const BIND_SESSION: &str = "bind_session";
const HEARTBEAT: &str = "heartbeat";
const CONTROL: &str = "control";

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
    /// Bytes after which the connection is to be bound anew; for HTTP alone.
    pub content_length: Option<u64>,
    /// Longest silence wanted from the server, if not its own choice.
    pub keepalive: Option<Duration>,
    /// Longest silence promised by us, if any is promised.
    pub inactivity: Option<Duration>,
    /// Whether the server shall send its clock.
    pub send_sync: bool,
}

impl Streaming {
    fn write_limits(&self, line: &mut ParameterLine) {
        if let Some(bytes) = self.content_length {
            line.add("LS_content_length", bytes);
        }
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
pub fn wsok() -> Request {
    Request { name: WSOK, lines: String::new() }
}

/// Returns `create_session`. Holds the password: not for any log.
pub fn create_session(
    version: Version,
    streaming: Streaming,
    adapter_set: Option<&str>,
    credentials: &Credentials,
) -> Request {
    let mut line = ParameterLine::default();
    streaming.write_limits(&mut line);
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
    Request::new(CREATE_SESSION, line)
}

/// Returns `bind_session`. With `recovery_from`, the count of data notifications received so far,
/// the server repeats what came after them; without, it takes everything as delivered.
pub fn bind_session(session_id: &str, recovery_from: Option<u64>, streaming: Streaming) -> Request {
    let mut line = ParameterLine::default();
    line.add_coded("LS_session", session_id);
    if let Some(count) = recovery_from {
        line.add("LS_recovery_from", count);
    }
    streaming.write_limits(&mut line);
    streaming.write_sync(&mut line);
    Request::new(BIND_SESSION, line)
}

/// Returns `heartbeat`, which any control request would serve as too.
pub fn heartbeat(session: Session<'_>) -> Request {
    let mut line = ParameterLine::default();
    if let Some(session_id) = session.named() {
        line.add_coded("LS_session", session_id);
    }
    Request::new(HEARTBEAT, line)
}

/// The session that a request is for, and how it is spoken to.
#[derive(Clone, Copy, Debug)]
pub struct Session<'a> {
    /// Version claimed for the connection.
    pub version: Version,
    /// Kind of the connection.
    pub transport: Transport,
    /// Id from `CONOK`; may be empty before that, except in 2.1.0.
    pub id: &'a str,
}

impl<'a> Session<'a> {
    /// The id where a parameter line must name it; elsewhere the connection or the query does.
    fn named(self) -> Option<&'a str> {
        (self.transport == Transport::WebSocket && !self.version.has_wsok()).then_some(self.id)
    }

    /// Whether a `REQOK` can be forgone, which is so on WebSockets alone.
    fn has_ack(self) -> bool {
        self.transport == Transport::WebSocket && self.version.has_ack()
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
    /// Has the server ask for a new bind, so that the transport can be changed without loss.
    ForceRebind,
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
                line.add_no_ack(session);
            }
            Control::Delete { sub_id } => {
                line.add("LS_op", "delete");
                line.add("LS_subId", sub_id);
                line.add_no_ack(session);
            }
            Control::ForceRebind => line.add("LS_op", "force_rebind"),
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
    lines: String,
    limit_bytes: usize,
}

impl ControlBatch {
    /// Starts a message of at most `limit_bytes`, its name included.
    pub fn new(limit_bytes: usize) -> ControlBatch {
        ControlBatch { lines: String::new(), limit_bytes }
    }

    /// Takes a parameter line if it still fits. The first is always taken: alone above the limit
    /// it is the server's to refuse.
    #[must_use]
    pub fn push(&mut self, line: &str) -> bool {
        if !self.lines.is_empty() {
            let grown = CONTROL.len() + 2 * LINE_END.len() + self.lines.len() + line.len();
            if grown > self.limit_bytes {
                return false;
            }
            self.lines.push_str(LINE_END);
        }
        self.lines.push_str(line);
        true
    }

    /// Returns the request.
    pub fn finish(self) -> Request {
        Request { name: CONTROL, lines: self.lines }
    }
}

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
    fn add_no_ack(&mut self, session: Session<'_>) {
        if session.has_ack() {
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

    fn session(version: Version) -> Session<'static> {
        Session { version, transport: Transport::WebSocket, id: "S1" }
    }

    fn text(request: Request) -> String {
        match request.transmit(session(Version::V2_4_0)) {
            Transmit::Message(text) => text,
            Transmit::Post(_) => unreachable!("a WebSocket takes messages"),
        }
    }

    fn post(request: Request) -> (String, String, bool) {
        match request.transmit(Session { transport: Transport::Http, ..session(Version::V2_4_0) }) {
            Transmit::Post(Post { path, body, opens_stream }) => (path, body, opens_stream),
            Transmit::Message(_) => unreachable!("HTTP takes posts"),
        }
    }

    #[test]
    fn creates_a_session_with_the_password_last() {
        assert_eq!(
            text(create_session(Version::V2_4_0, Streaming::default(), None, &credentials())),
            "create_session\r\nLS_user=ABC12&LS_cid=mgQkwtwdysogQz2BJ4Ji%20kOj2Bg&LS_supported_diffs=\
             &LS_send_sync=false&LS_password=CST-a%2Bb%7CXST-c%26d"
        );
        let streaming = Streaming {
            keepalive: Some(Duration::from_secs(5)),
            inactivity: Some(Duration::from_secs(10)),
            send_sync: true,
            content_length: None,
        };
        assert_eq!(
            text(create_session(Version::V2_3_0, streaming, Some("DEFAULT"), &credentials())),
            "create_session\r\nLS_keepalive_millis=5000&LS_inactivity_millis=10000&LS_adapter_set=DEFAULT\
             &LS_user=ABC12&LS_cid=mgQkwtwdysogQz2BJ4Ji%20kOj2Bg&LS_password=CST-a%2Bb%7CXST-c%26d"
        );
    }

    #[test]
    fn binds_with_and_without_recovery() {
        assert_eq!(
            text(bind_session("S1", Some(15), Streaming::default())),
            "bind_session\r\nLS_session=S1&LS_recovery_from=15&LS_send_sync=false"
        );
        let streaming = Streaming { send_sync: true, ..Streaming::default() };
        assert_eq!(text(bind_session("S=1", None, streaming)), "bind_session\r\nLS_session=S%3D1");
    }

    #[test]
    fn http_names_version_and_session_in_the_query() {
        let streaming = Streaming { content_length: Some(50_000_000), ..Streaming::default() };
        assert_eq!(
            post(bind_session("S1", Some(15), streaming)),
            (
                "/bind_session.txt?LS_protocol=TLCP-2.4.0".to_owned(),
                "LS_session=S1&LS_recovery_from=15&LS_content_length=50000000&LS_send_sync=false".to_owned(),
                true
            )
        );
        let http = Session { version: Version::V2_4_0, transport: Transport::Http, id: "S=1" };
        let mut batch = ControlBatch::new(50_000);
        assert!(batch.push(&Control::Delete { sub_id: SubId(2) }.line(http, 7)));
        let Transmit::Post(control) = batch.finish().transmit(http) else { panic!("HTTP takes posts") };
        assert_eq!(control.path, "/control.txt?LS_protocol=TLCP-2.4.0&LS_session=S%3D1");
        assert_eq!(control.body, "LS_reqId=7&LS_op=delete&LS_subId=2");
        assert!(!control.opens_stream);
        let (path, body, _) = post(heartbeat(http));
        assert_eq!(
            (path.as_str(), body.as_str()),
            ("/heartbeat.txt?LS_protocol=TLCP-2.4.0&LS_session=S1", "")
        );
    }

    fn add(unfiltered: bool) -> Control<'static> {
        Control::Add { sub_id: SubId(2), group: "CHART:X:5MINUTE", schema: "A B", snapshot: true, unfiltered }
    }

    #[test]
    fn controls_by_version() {
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
        assert_eq!(text(heartbeat(session(Version::V2_4_0))), "heartbeat\r\n\r\n");
        assert_eq!(text(heartbeat(session(Version::V2_1_0))), "heartbeat\r\nLS_session=S1");
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
            assert_eq!(text(batch.finish()), expected);
        }
    }

    #[test]
    fn credentials_do_not_print() {
        let create = create_session(Version::V2_4_0, Streaming::default(), None, &credentials());
        let shown = format!("{:?} {:?}", credentials(), create.transmit(session(Version::V2_4_0)));
        assert!(!shown.contains("ABC12") && !shown.contains("CST"), "{shown}");
    }
}
