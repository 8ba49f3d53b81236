//! What is recorded of one run is the market of another, and holds no secret.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use candlekeep::simulator::{Account, AccountType, Credentials, Options, Refusal};
use candlekeep::transcript::{Entry, SocketKind, Transcript};

use super::world::{DEPTH, Database, Holes, START, STEP, Service, World, market};

/// Whom the simulator knows. Every secret and every name has a mark.
fn marked() -> Credentials {
    let account = |id: &str, account_type, preferred| Account {
        id: id.to_owned(),
        name: format!("Name marked {id}"),
        account_type,
        preferred,
    };
    Credentials {
        identifier: "marked-user".to_owned(),
        password: "marked|pass&word%\"\\/é".to_owned(),
        api_key: "marked-key".to_owned(),
        accounts: vec![
            account("MARKED1", AccountType::Cfd, true),
            account("MARKED2", AccountType::Spreadbet, false),
        ],
        accept_any: false,
    }
}

/// Plays a file on a free port; the process, and where it serves.
fn play(file: &Path, folder: &Path) -> (Service, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_candlekeep"));
    command.args(["simulate", "--listen", "127.0.0.1:0", "--speed", "max", "--transcript"]).arg(file);
    let mut player = Service::spawn(command.current_dir(folder).env_clear().stdout(Stdio::piped()));
    let url = player.first_line();
    (player, url)
}

/// A text longer than any placeholder that looks made of random digits, as tokens do.
fn looks_random(text: &str) -> bool {
    text.split(|c: char| !c.is_ascii_hexdigit()).any(|run| run.len() >= 16)
}

/// What carries a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    WebSocket,
    Http,
    /// HTTP, after something on the way has refused a WebSocket.
    HttpAfterAll,
}

impl Over {
    /// The setting that has a client come so.
    fn setting(self) -> (&'static str, &'static str) {
        ("CANDLEKEEP_STREAM_TRANSPORT", if self == Over::Http { "http" } else { "" })
    }

    /// The first connections, as a transcript and a player call them.
    fn first(self) -> &'static [(SocketKind, &'static str)] {
        const ALL: [(SocketKind, &str); 2] =
            [(SocketKind::Ws, "over=websocket"), (SocketKind::Http, "over=http")];
        match self {
            Over::WebSocket => &ALL[..1],
            Over::Http => &ALL[1..],
            Over::HttpAfterAll => &ALL,
        }
    }
}

/// Records a run whose client uses this version of IG's login and comes over `recorded`, and has
/// it played to one that comes over `played`.
fn check(version: &str, recorded: Over, played: Over) {
    // In UTC: a bucket fetched to learn the zone would be another in each run.
    let world = World::new(Options { credentials: marked(), timezone_offset_hours: 0, ..market(3) });
    let cut = START.plus(10 * STEP)..START.plus(12 * STEP);
    world.simulator().control().schedule_outage(cut.start, cut.end);
    if recorded == Over::HttpAfterAll {
        world.simulator().control().refuse_upgrades(Some(Refusal::Status(403)));
    }
    // IG's own limits, so that it is asked for them.
    let limits = ("CANDLEKEEP_HISTORY_REQUESTS_PER_MINUTE", "");
    let variables = [
        ("CANDLEKEEP_SESSION_VERSION", version),
        ("IG_ACCOUNT_ID", "MARKED2"),
        limits,
        recorded.setting(),
        // So that an HTTP stream is used up and its session bound anew on the way.
        ("CANDLEKEEP_STREAM_CONTENT_LENGTH", "70000"),
    ];
    let mut service = world.start("run --record said.jsonl", &variables);
    // At this speed market time may be over before history is even known to be missing.
    let known = format!("SELECT count(DISTINCT pair || timeframe) FROM coverage WHERE from_ts < {}", START.0);
    world.wait(&mut service, "history", |world| world.number(&known) == 2 * 28);
    world.wait_complete(&mut service);
    let sessions = world.simulator().stream_sessions();
    service.stop();
    world.verify(Holes::None);

    let file = world.folder().join("said.jsonl");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&file).unwrap();
    let plain = percent_encoding::percent_decode_str(&text).decode_utf8_lossy().to_lowercase();
    for secret in ["marked", "100112233", "pass&word", "10000.0"] {
        assert!(!text.contains(secret) && !plain.contains(secret), "{secret} was recorded");
    }
    assert!(!sessions.is_empty() && sessions.iter().all(|(id, _)| !text.contains(id)));
    assert!(text.lines().all(|line| !looks_random(line)), "a token was recorded");
    for told in ["CST-1", "ACCOUNT-2", "STREAM-PASSWORD-1", "SESSION-2", "ADDRESS-1", "KEY-1", "USER-1"] {
        assert!(text.contains(told), "{told} is not in the transcript");
    }
    let transcript = Transcript::read(text.as_bytes()).unwrap();
    let kinds = transcript.lines.iter().filter_map(|line| match &line.entry {
        Entry::Opened(opened) => Some(opened.kind),
        _ => None,
    });
    let first = recorded.first().iter().map(|(kind, _)| *kind);
    assert!(kinds.take(recorded.first().len()).eq(first), "recorded over something else");
    let bound_anew = text.contains("LOOP,0") && text.contains("bind_session");
    assert_eq!(bound_anew, recorded != Over::WebSocket);
    assert!(matches!(transcript.lines.last().unwrap().entry, Entry::Ended { .. }));
    assert!(!transcript.lines.iter().any(|line| matches!(line.entry, Entry::Dropped { .. })));

    let (player, url) = play(&file, world.folder());
    let other = world.folder().join("played.db");
    let database = format!("sqlite:///{}", other.display());
    let variables = [
        ("CANDLEKEEP_SESSION_VERSION", version),
        ("IG_ACCOUNT_ID", "ACCOUNT-1"),
        ("IG_API_URL", url.as_str()),
        ("DATABASE_URL", database.as_str()),
        limits,
        played.setting(),
        // A stream is played once: on a busy machine too the client must not give up on one that
        // is being opened.
        ("CANDLEKEEP_STREAM_RETRY_MS", "3000"),
    ];
    let recorded = Database::open(&world.database()).unwrap();
    let mut service = world.start("run", &variables);
    let bars = "SELECT count(*) FROM candles";
    let expected = recorded.number(bars);
    let had = |other: &Path| Database::open(other).and_then(|database| database.number(bars));
    service.wait("the bars of the transcript", || had(&other) == expected);
    service.stop();
    let log: Vec<String> =
        player.log().into_iter().filter(|line| line.contains("playing a stream")).collect();
    let first = played.first().iter().map(|(_, over)| over);
    assert!(log.len() >= played.first().len());
    assert!(log.iter().zip(first).all(|(line, over)| line.contains(over)), "{log:#?}");
    player.stop();
    let played = Database::open(&other).unwrap();
    for timeframe in ["5", "15"] {
        let (recorded, played) = (recorded.bars(timeframe), played.bars(timeframe));
        assert_eq!(recorded.len(), 28);
        for (pair, bars) in recorded {
            let prices = |bars: &std::collections::BTreeMap<i64, super::world::StoredRow>| -> Vec<_> {
                bars.iter().map(|(start, row)| (*start, row.prices, row.volume, row.revision)).collect()
            };
            assert_eq!(prices(&bars), prices(&played[&pair]), "{pair} {timeframe}");
            assert!(bars.len() as i64 >= DEPTH, "{pair} {timeframe}: {} bars", bars.len());
        }
    }
}

#[test]
fn a_run_is_recorded_without_secrets_and_played_back() {
    check("2", Over::WebSocket, Over::WebSocket);
}

#[test]
fn so_is_a_run_with_oauth_tokens() {
    check("3", Over::WebSocket, Over::WebSocket);
}

#[test]
fn what_came_over_http_is_played_over_a_websocket() {
    check("2", Over::Http, Over::WebSocket);
}

#[test]
fn what_came_over_a_websocket_is_played_over_http() {
    check("2", Over::WebSocket, Over::Http);
}

#[test]
fn what_came_over_http_is_played_over_http() {
    check("2", Over::Http, Over::Http);
}

#[test]
fn a_refused_websocket_is_played_too_and_then_the_stream_over_http() {
    check("2", Over::HttpAfterAll, Over::HttpAfterAll);
}

/// Posts `body` to `path` of a player; status and body of the answer.
fn post(address: &str, path: &str, body: &[u8]) -> (u16, String) {
    let mut socket = TcpStream::connect(address).unwrap();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    socket.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn what_a_player_cannot_answer_over_http_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("said.jsonl");
    let lines = [
        r#"{"candlekeep_transcript":1,"program":"a test","started":"2026-01-05T00:00:00Z","config":{}}"#,
        r#"{"ms":1,"request":{"id":1,"method":"GET","path":"/session","version":1}}"#,
        r#"{"ms":2,"answer":{"id":1,"status":200,"body":"{}","took_ms":1}}"#,
    ];
    std::fs::write(&file, lines.join("\n")).unwrap();
    let (player, url) = play(&file, folder.path());
    let address = url.strip_prefix("http://").and_then(|url| url.split('/').next()).unwrap();
    let add = "LS_reqId=1&LS_op=add&LS_subId=1&LS_group=A";
    for (name, query, body, expected) in [
        ("create_session", "", "LS_user=x".as_bytes(), (400, "LS_protocol is needed in the address")),
        ("create_session", "LS_protocol=TLCP-2.4.0", b"", (503, "the transcript has no more streams")),
        ("control", "LS_protocol=TLCP-2.4.0", add.as_bytes(), (503, "no stream is being played over HTTP")),
        ("control", "LS_protocol=TLCP-2.4.0", b"\xff", (400, "Can not decode body")),
        (
            "poll",
            "LS_protocol=TLCP-2.4.0",
            b"",
            (404, "a player answers create_session, bind_session, control and heartbeat"),
        ),
    ] {
        let (status, answer) = post(address, &format!("/lightstreamer/{name}.txt?{query}"), body);
        assert_eq!((status, answer.as_str()), expected, "{name}?{query}");
    }
    player.stop();
}

#[test]
fn a_recording_overwrites_nothing_and_what_is_no_transcript_is_not_played() {
    let world = World::new(market(1));
    std::fs::write(world.folder().join("precious.txt"), "precious\n").unwrap();
    let recording = world.output("run --record precious.txt", &[]);
    let error = String::from_utf8(recording.stderr).unwrap();
    assert_eq!((recording.status.code(), error.lines().count()), (Some(78), 1), "{error}");
    assert!(error.contains("precious.txt exists already: a recording needs a new file"), "{error}");
    assert_eq!(std::fs::read(world.folder().join("precious.txt")).unwrap(), b"precious\n");
    assert!(!world.database().exists() && world.simulator().stats().rest_requests == 0);

    let playing = world.output("simulate --transcript precious.txt", &[]);
    let error = String::from_utf8(playing.stderr).unwrap();
    assert_eq!((playing.status.code(), error.lines().count()), (Some(78), 1), "{error}");
    assert!(error.contains("precious.txt, line 1: not the head of a transcript"), "{error}");
}
