//! The real program's HTTP interface, spoken to over raw sockets, by the kind and by the hostile.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use candlekeep::simulator::{Options, Speed};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::postgres;
use super::process::Process;
use super::world::{Ended, Holes, Service, World, market};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// Time for an answer on a busy machine: longer than any limit of the server's.
const PATIENCE: Duration = Duration::from_secs(60);

/// An answer as it came.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let field = |line: &'_ str| -> Option<usize> {
            let (known, _) = line.split_once(':')?;
            known.eq_ignore_ascii_case(name).then_some(known.len() + 1)
        };
        self.head.lines().find_map(|line| Some(line[field(line)?..].trim()))
    }
}

/// A service that collects and whose HTTP interface is up, and where.
pub(super) fn serving(world: &World, variables: &[(&str, &str)]) -> (Service, SocketAddr) {
    let (mut service, address) = starting(world, variables);
    service.wait_said("collecting", 1);
    (service, address)
}

/// The same from the first moment on in which somebody listens.
fn starting(world: &World, variables: &[(&str, &str)]) -> (Service, SocketAddr) {
    let mut all = vec![("CANDLEKEEP_HTTP", "127.0.0.1:0")];
    all.extend(variables);
    let mut service = world.start("run", &all);
    let address = service.http_address();
    (service, address)
}

fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).expect("somebody listens");
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Sends this and reads to the end of the connection; none where nothing came.
pub(super) fn exchange(address: SocketAddr, text: &str) -> Option<Answer> {
    let mut socket = connect(address);
    // Who is refused early may not take the rest.
    let _ = socket.write_all(text.as_bytes());
    read_answer(socket)
}

fn read_answer(mut socket: TcpStream) -> Option<Answer> {
    let mut text = Vec::new();
    if let Err(error) = socket.read_to_end(&mut text) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// Asks for a path, with more header lines.
pub(super) fn ask(address: SocketAddr, line: &str, headers: &str) -> Answer {
    let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    exchange(address, &request).unwrap_or_else(|| panic!("no answer to {request:?}"))
}

/// A market that takes as long as a test.
pub(super) fn slow_market() -> World {
    World::new(Options { speed: Speed::Times(300.0), rows_per_bar: Some(20), ..market(48) })
}

#[test]
fn it_tells_how_the_service_stands_in_json_and_metrics() {
    let world = slow_market();
    let (mut service, address) = serving(&world, &[]);
    world.wait(&mut service, "some bars", |world| world.stored() > 28);

    let health = ask(address, "GET /healthz", "");
    assert_eq!((health.status, health.json()["status"].as_str()), (200, Some("ok")));
    for (name, expected) in [
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Cache-Control", "no-store"),
        ("Content-Type", "application/json"),
    ] {
        assert_eq!(health.header(name), Some(expected), "{name}");
    }
    assert!(health.header("Content-Security-Policy").unwrap().starts_with("default-src 'self';"));
    assert_eq!(health.header("Access-Control-Allow-Origin"), None);

    let status = ask(address, "GET /v1/status", "");
    let told = status.json();
    let printed: Value =
        serde_json::from_slice(&world.output("status --format json", &[]).stdout).expect("it is JSON");
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!((status.status, keys(&told)), (200, keys(&printed)));
    assert_eq!(told["lease"]["pid"].as_u64(), Some(service.pid().into()));

    let told_of = |name: &str| ask(address, "GET /metrics", "").body.lines().any(|line| line == name);
    service.wait("the stream", || told_of("candlekeep_streaming 1") && told_of("candlekeep_logged_in 1"));
    service.wait("its bytes", || !told_of("candlekeep_stream_received_bytes_total 0"));
    service.wait("a commit", || !told_of("candlekeep_database_commit_seconds_count 0"));
    let metrics = ask(address, "GET /metrics", "");
    assert_eq!(metrics.header("Content-Type"), Some("text/plain; version=0.0.4"));
    for name in [
        "candlekeep_build_info{version=",
        "candlekeep_last_bar_timestamp_seconds{pair=\"EUR_USD\",timeframe=\"5\"}",
        "candlekeep_bars_settled_total{source=\"websocket\"}",
        "candlekeep_coverage_buckets{state=\"stored\"}",
        "candlekeep_allowance_remaining_points",
        "candlekeep_close_to_durable_seconds_count",
        "candlekeep_restarts_total{room=",
        "candlekeep_stream_breaks_total 0",
        "candlekeep_logged_in 1",
        "candlekeep_streaming 1",
        "candlekeep_lease_held 1",
        "candlekeep_starting 0",
        "candlekeep_database_commit_seconds_count ",
        "candlekeep_market_open{calendar=\"forex\"} 1",
        "candlekeep_last_login_timestamp_seconds ",
        "candlekeep_allowance_renews_timestamp_seconds ",
        "process_resident_memory_bytes",
    ] {
        assert!(metrics.body.lines().any(|line| line.starts_with(name)), "{name}: {}", metrics.body);
    }

    let head = ask(address, "HEAD /healthz", "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let other = ask(address, "DELETE /healthz", "");
    assert_eq!((other.status, other.header("Allow")), (405, Some("GET, HEAD")));
    assert_eq!(other.json()["error"], "other_method");
    let absent = ask(address, "GET /nothing", "");
    assert_eq!((absent.status, absent.header("X-Content-Type-Options")), (404, Some("nosniff")));
    let routes = absent.json()["routes"].as_array().unwrap().clone();
    assert!(routes.len() >= 3);
    for route in routes {
        // What wants to be told more says so; a stream has no end.
        let method = if route == "/v1/stream" { "HEAD" } else { "GET" };
        let answer = ask(address, &format!("{method} {}", route.as_str().unwrap()), "");
        let wants_more =
            ["missing_parameter", "unknown_fetch", "unknown_file", "other_method", "\"ready\":false"]
                .into_iter()
                .any(|word| answer.body.contains(word));
        assert!(answer.status == 200 || wants_more, "{route}: {answer:?}");
    }
    service.stop();
}

#[test]
fn strangers_are_refused_with_a_reason() {
    let world = slow_market();
    let (service, address) = serving(&world, &[("CANDLEKEEP_HTTP_ALLOWED_HOSTS", "bars.example")]);
    let refused = |request: &str, status: u16, word: &str| {
        let answer = exchange(address, request).unwrap_or_else(|| panic!("no answer to {request:.80}"));
        assert_eq!((answer.status, answer.json()["error"].as_str()), (status, Some(word)), "{request:.80}");
        assert_eq!(answer.header("X-Content-Type-Options"), Some("nosniff"), "{request:.80}");
        assert!(answer.json()["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
    };
    refused("GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421, "other_host");
    refused("GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 421, "other_host");
    refused(
        "GET /healthz HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: localhost\r\nForwarded: host=localhost\r\n\r\n",
        421,
        "other_host",
    );
    refused(
        &format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: {}\r\n\r\n", "x".repeat(9_000)),
        431,
        "long_head",
    );
    refused(
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n",
        413,
        "long_body",
    );
    refused(
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
        413,
        "long_body",
    );
    refused(
        "POST /healthz HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site\r\nContent-Length: 0\r\n\r\n",
        403,
        "other_site",
    );
    assert_eq!(
        exchange(address, "GET /healthz HTTP/1.1\r\nHost: bars.example:80\r\nConnection: close\r\n\r\n")
            .unwrap()
            .status,
        200
    );

    for nameless in [
        "GET /healthz HTTP/1.0\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    ] {
        assert_eq!(exchange(address, nameless).map(|answer| answer.status), Some(400), "{nameless}");
    }

    // A head without end, and what is no request at all, end the connection before they cost much.
    let endless = exchange(address, &format!("GET /healthz HTTP/1.1\r\nX: {}", "x".repeat(400_000)));
    assert!(endless.is_none_or(|answer| (400..500).contains(&answer.status)));
    let nonsense = exchange(address, &format!("{}\r\n\r\n", "\u{1}\u{2}\u{3}".repeat(1_000)));
    assert!(nonsense.is_none_or(|answer| (400..500).contains(&answer.status)));
    assert_eq!(ask(address, "GET /healthz", "").status, 200);
    let log = service.stop();
    assert!(log.iter().all(|line| !line.starts_with("<3>") && !line.starts_with("<4>")), "{log:#?}");
}

#[test]
fn the_dashboard_is_not_sent_twice() {
    let world = slow_market();
    let (service, address) = serving(&world, &[]);
    for path in ["/", "/assets/main.js"] {
        let first = ask(address, &format!("GET {path}"), "");
        assert_eq!((first.status, first.header("Cache-Control")), (200, Some("no-cache")), "{path}");
        let tag = first.header("ETag").unwrap();
        let again = ask(address, &format!("GET {path}"), &format!("If-None-Match: {tag}\r\n"));
        assert_eq!((again.status, again.body.as_str()), (304, ""), "{path}");
        let other = ask(address, &format!("GET {path}"), "If-None-Match: \"another\"\r\n");
        assert_eq!((other.status, other.body), (200, first.body), "{path}");
    }
    let chart = ask(address, "HEAD /assets/plotly.js", "");
    assert_eq!((chart.status, chart.header("Content-Encoding")), (200, Some("gzip")));
    let length: usize = chart.header("Content-Length").unwrap().parse().unwrap();
    assert!((1..2 << 20).contains(&length), "{length} bytes are sent");
    service.stop();
}

#[test]
fn the_token_opens_and_nothing_else_does() {
    let world = slow_market();
    let file = world.folder().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let variables =
        [("CANDLEKEEP_HTTP", "0.0.0.0:0"), ("CANDLEKEEP_HTTP_TOKEN_FILE", file.to_str().unwrap())];
    let (service, mut address) = serving(&world, &variables);
    address.set_ip([127, 0, 0, 1].into());
    for (headers, expected) in [
        ("".to_owned(), 401),
        ("Authorization: Bearer 0123456789abcdef0123456789abcdee\r\n".to_owned(), 401),
        (format!("Authorization: Basic {TOKEN}\r\n"), 401),
        (format!("Authorization: Bearer {TOKEN}\r\n"), 200),
    ] {
        for path in ["/healthz", "/v1/status", "/metrics"] {
            let answer = ask(address, &format!("GET {path}"), &headers);
            assert_eq!(answer.status, expected, "{path} {headers}");
            assert_eq!(answer.header("WWW-Authenticate").is_some(), expected == 401);
        }
    }
    for path in ["/nothing", "/assets/nothing.js", "/assets/../v1/status", "/assets/%2e%2e/v1/status", "//"] {
        assert_eq!(ask(address, &format!("GET {path}"), "").status, 401, "{path}: nor is told what there is");
    }
    for path in ["/", "/assets/main.js"] {
        assert_eq!(ask(address, &format!("GET {path}"), "").status, 200, "{path} tells nothing");
        assert_eq!(ask(address, &format!("POST {path}"), "").status, 401, "{path} is read alone");
    }
    let log = service.stop();
    assert!(
        log.iter().any(|line| line.starts_with("<4>")
            && line.contains("a file with a secret can be read by others")
            && line.contains("token")),
        "{log:#?}"
    );
    assert!(log.iter().all(|line| !line.contains(TOKEN)));
}

#[test]
fn off_loopback_without_a_usable_token_nothing_starts() {
    let world = slow_market();
    let short = world.folder().join("short");
    std::fs::write(&short, "secret\n").unwrap();
    for (token_file, expected) in [
        ("", "http.token_file is required"),
        ("/nowhere/token", "/nowhere/token: No such file"),
        (short.to_str().unwrap(), "a token has 16 to 1024 characters"),
    ] {
        let variables = [("CANDLEKEEP_HTTP", "0.0.0.0:0"), ("CANDLEKEEP_HTTP_TOKEN_FILE", token_file)];
        let ended: Ended = world.start("run", &variables).ended();
        assert_eq!(ended.code, Some(78), "{:?}", ended.log);
        assert!(
            ended.reason().contains(expected) && !ended.reason().contains("secret"),
            "{}",
            ended.reason()
        );
    }
    assert_eq!(world.simulator().stats().logins, 0, "nobody logged in for that");
}

#[test]
fn off_listens_to_nobody_and_a_taken_address_is_waited_for() {
    if !postgres::sees_descriptors() {
        return;
    }
    let world = slow_market();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let text = address.to_string();
    let mut service = world.start("run", &[("CANDLEKEEP_HTTP", "off")]);
    world.wait(&mut service, "bars", |world| world.stored() > 0);
    let listening = listening_sockets(service.pid());
    let log = service.stop();
    assert_eq!(listening, 0);
    assert!(log.iter().all(|line| !line.contains("HTTP")), "{log:#?}");

    let mut service = world.start("run", &[("CANDLEKEEP_HTTP", &text)]);
    service.wait_said("HTTP cannot be served, trying again", 1);
    let before = world.stored();
    world.wait(&mut service, "more bars", |world| world.stored() > before);
    let status = || String::from_utf8(world.output("status", &[]).stdout).unwrap();
    let told = status();
    assert!(told.contains(&format!("\nhttp      not served on {text} since ")), "{told}");
    drop(taken);
    service.wait_said("serving HTTP", 1);
    assert_eq!(ask(address, "GET /healthz", "").status, 200);
    world.wait(&mut service, "the news in status", |_| {
        status().contains(&format!("\nhttp      http://{text} since "))
    });
    let log = service.stop();
    // However often it has tried.
    assert_eq!(log.iter().filter(|line| line.contains("HTTP cannot be served")).count(), 1, "{log:#?}");
}

#[test]
fn the_second_account_s_service_on_one_address_collects_without_it_and_says_so() {
    let (first, second) = (slow_market(), slow_market());
    let (one, address) = serving(&first, &[]);
    let http = [("CANDLEKEEP_HTTP", &*address.to_string())];
    let mut two = second.start("run", &http);
    two.wait_said("HTTP cannot be served, trying again", 1);
    second.wait(&mut two, "bars", |world| world.stored() > 28);
    let doctor = |world: &World| {
        let report = world.output("doctor --offline --format json", &http).stdout;
        let report: Value = serde_json::from_slice(&report).unwrap();
        let checks = report["checks"].as_array().unwrap();
        checks.iter().find(|check| check["name"] == "http").unwrap().clone()
    };
    let (owner, other) = (doctor(&first), doctor(&second));
    let told = format!("{address} is the service's, pid {}", one.pid());
    assert_eq!((&owner["level"], &owner["state"]), (&"ok".into(), &told.into()));
    let told = format!("the service of another database, pid {}, listens on {address}", one.pid());
    assert_eq!((&other["level"], &other["state"]), (&"warn".into(), &told.into()), "{other}");
    one.stop();
    two.wait_said("serving HTTP", 1);
    assert_eq!(ask(address, "GET /healthz", "").json()["pid"], two.pid());
    two.stop();
}

#[test]
fn a_service_that_waits_says_over_http_for_what() {
    let world = slow_market();
    // IG is away: nothing answers where it should be.
    let away = [("IG_API_URL", "http://127.0.0.1:9/gateway/deal")];
    let (mut service, address) = starting(&world, &away);
    waits_for(&mut service, address, "waiting for IG: ");
    assert_eq!(ask(address, "GET /metrics", "").status, 200);
    assert_eq!(ask(address, "GET /v1/status", "").status, 200);
    service.stop();
    // The database is away: another program has it for itself.
    let lock = rusqlite::Connection::open(world.database()).unwrap();
    lock.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE").unwrap();
    let (mut service, address) = starting(&world, &[]);
    waits_for(&mut service, address, "waiting for the database: ");
    drop(lock);
    service.wait("the rooms", || ask(address, "GET /healthz", "").json()["status"] == "ok");
    service.stop();
    let Some(server) = postgres::shared() else { return };
    let world = slow_market().on_server(server.place());
    let mut leader = world.run();
    leader.wait_said("collecting", 1);
    let (mut standby, address) = starting(&world, &[]);
    waits_for(&mut standby, address, "standing by");
    // What the leader does is in the database for both.
    let status = ask(address, "GET /v1/status", "").json();
    assert_eq!(status["lease"]["pid"], leader.pid());
    standby.stop();
    leader.stop();
}

/// Waits until somebody who asks how it is hears that it starts, and for what it waits.
fn waits_for(service: &mut Service, address: SocketAddr, what: &str) {
    service.wait(what, || {
        let health = ask(address, "GET /healthz", "");
        let told = health.json();
        assert_eq!((health.status, &told["status"]), (200, &"starting".into()), "{told}");
        assert_eq!(ask(address, "GET /readyz", "").status, 503);
        told["at"].as_str().unwrap().starts_with(what)
    });
}

/// How what a client says may be answered.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// With this status; of ours, and of the framework's own, who says no more.
    Status(u16),
    /// With this status and our word for it.
    Word(u16, &'static str),
}

#[test]
fn no_way_of_putting_a_request_leads_past_the_guard() {
    use Expected::{Status, Word};
    let world = slow_market();
    let (service, address) = serving(&world, &[("CANDLEKEEP_HTTP_ALLOWED_HOSTS", "bars.example")]);
    let get = |host: &str| format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let target =
        |target: &str| format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let headers = |method: &str, headers: &str| {
        format!("{method} /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n")
    };
    let other = Word(421, "other_host");
    let smuggled = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for (request, expected) in [
        // Hosts.
        (get("LOCALHOST"), Status(200)),
        (get("localhost."), Status(200)),
        (get("localhost:"), Status(200)),
        (get("[::1]"), Status(200)),
        (get("[::ffff:127.0.0.1]:8017"), Status(200)),
        (get("BARS.example.:80"), Status(200)),
        (get(""), other),
        (get("[::1"), other),
        (get("::1]"), other),
        (get("[[::1]]"), other),
        (get("[127.0.0.1]"), other),
        (get("[::1%25lo]"), other),
        (get("localhost.."), other),
        (get("localhost@evil.example"), other),
        (get("evil.example@localhost"), other),
        (get("localhost:80:80"), other),
        (get("localhost/evil.example"), other),
        (get("localhost, evil.example"), other),
        (get("evil.example#localhost"), other),
        (get("2130706433"), other),
        (get("0x7f.1"), other),
        (get("127.1"), other),
        (get("b\u{e4}rs.example"), other),
        (get("evil.example\r\nHost: localhost"), Status(400)),
        (get("localhost\r\nhost: localhost"), Status(400)),
        ("GET /healthz HTTP/1.0\r\n\r\n".to_owned(), Word(400, "bad_host")),
        ("GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n".to_owned(), Status(200)),
        ("GET /healthz HTTP/1.0\r\nHost: evil.example\r\n\r\n".to_owned(), other),
        // Targets.
        (target("http://localhost/healthz"), Status(200)),
        (target("http://bars.example:80/healthz"), Status(200)),
        (target("http://evil.example/healthz"), other),
        (target("http://evil.example:80/healthz"), other),
        (target("http://localhost@evil.example/healthz"), other),
        (target("http://localhost:80@evil.example/healthz"), other),
        (target("//evil.example/healthz"), Word(404, "not_found")),
        (target("/../healthz"), Word(404, "not_found")),
        (target("/v1%2fstatus"), Word(404, "not_found")),
        (target("/healthz%00"), Word(404, "not_found")),
        (target("/healthz?x=1"), Status(200)),
        (target("/%68ealthz"), Status(200)),
        // Methods.
        (headers("HEAD", ""), Status(200)),
        (headers("OPTIONS", ""), Word(405, "other_method")),
        (headers("TRACE", ""), Word(405, "other_method")),
        (headers("get", ""), Word(405, "other_method")),
        (
            "OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(),
            Word(404, "not_found"),
        ),
        ("CONNECT evil.example:80 HTTP/1.1\r\nHost: evil.example:80\r\n\r\n".to_owned(), other),
        ("CONNECT evil.example:80 HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), other),
        ("CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n".to_owned(), Word(404, "not_found")),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), Status(400)),
        // Bodies that two could take for one, or one for two.
        (headers("POST", "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n") + smuggled, Status(400)),
        (headers("POST", "Content-Length: 1\r\nContent-Length: 2\r\n") + smuggled, Status(400)),
        (headers("POST", "Content-Length: +1\r\n") + smuggled, Status(400)),
        (headers("POST", "Content-Length: 1, 1\r\n") + smuggled, Status(400)),
        (headers("POST", "Transfer-Encoding: chunked, identity\r\n") + smuggled, Status(400)),
        (headers("POST", "Transfer-Encoding: xchunked\r\n") + smuggled, Status(400)),
        (
            headers("POST", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n") + smuggled,
            Status(400),
        ),
        (headers("POST", "Transfer-Encoding : chunked\r\n") + smuggled, Status(400)),
        (headers("POST", " Transfer-Encoding: chunked\r\n") + smuggled, Status(400)),
        (
            headers("GET", &format!("Content-Length: {}\r\n", smuggled.len())) + smuggled,
            Word(413, "long_body"),
        ),
        (headers("POST", "Transfer-Encoding: chunked\r\n") + "0\r\n\r\n", Word(413, "long_body")),
        (headers("GET", "Upgrade: websocket\r\nConnection: Upgrade\r\n") + smuggled, Status(200)),
        (headers("GET", "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"), Status(200)),
    ] {
        let shown = format!("{request:.200?}");
        let answer = exchange(address, &request).unwrap_or_else(|| panic!("no answer to {shown}"));
        let (status, word) = match expected {
            Status(status) => (status, None),
            Word(status, word) => (status, Some(word)),
        };
        assert_eq!(answer.status, status, "{shown}: {answer:?}");
        if let Some(word) = word {
            assert_eq!(answer.json()["error"], word, "{shown}");
        }
        assert_eq!(answer.body.matches("HTTP/1.1 ").count(), 0, "{shown} was answered twice: {answer:?}");
        assert!(!answer.body.contains("candlekeep_build_info"), "{shown} has led to what it hid");
    }
    let log = service.stop();
    assert!(log.iter().all(|line| !line.starts_with("<3>") && !line.starts_with("<4>")), "{log:#?}");
}

#[test]
fn who_takes_no_answer_or_ends_no_second_request_loses_his_place() {
    if !postgres::sees_descriptors() {
        return;
    }
    let world = slow_market();
    let (mut service, address) = serving(&world, &[]);
    let pid = service.pid();
    let before = sockets(pid, ESTABLISHED);
    // Takes nothing of many long answers.
    let slow = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    slow.set_recv_buffer_size(4 * 1024).unwrap();
    slow.connect(&address.into()).unwrap();
    slow.set_nonblocking(true).unwrap();
    let mut slow = TcpStream::from(slow);
    let requests = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(1_000);
    service.wait("a full way", || slow.write(requests.as_bytes()).is_err());
    // A second request that never comes to its end.
    let mut second = connect(address);
    second.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /healthz HTTP/1.1\r\nHo").unwrap();
    service.wait("their places", || sockets(pid, ESTABLISHED) >= before + 2);
    // A client that behaves is told to come again.
    let mut kept = connect(address);
    let mut closes = false;
    service.wait("the last answer on this connection", || {
        kept.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut head = [0; 4_096];
        let length = kept.read(&mut head).unwrap();
        assert!(length > 0, "it was not told that this ends");
        closes = String::from_utf8_lossy(&head[..length]).contains("connection: close\r\n");
        closes
    });
    service.wait("their places again", || sockets(pid, ESTABLISHED) <= before);
    service.stop();
}

/// States of a socket, as the kernel tells them.
const LISTEN: &str = "0A";
const ESTABLISHED: &str = "01";

/// How many sockets a process listens on.
fn listening_sockets(pid: u32) -> usize {
    sockets(pid, LISTEN)
}

/// How many TCP sockets a process has in this state.
fn sockets(pid: u32, state: &str) -> usize {
    let folder = format!("/proc/{pid}/fd");
    let own: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .filter_map(|entry| Some(std::fs::read_link(entry.ok()?.path()).ok()?.to_str()?.to_owned()))
        .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    // The tenth column is the inode.
    ["tcp", "tcp6"]
        .iter()
        .flat_map(|table| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .filter(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            columns.get(3) == Some(&state) && own.iter().any(|inode| columns.get(9) == Some(&inode.as_str()))
        })
        .count()
}

/// Connections that are served at a time (`api/server.rs`), and descriptors of the service itself by which `doctor` judges.
const CONNECTIONS_MAX: usize = 128;
const DESCRIPTORS_OWN: usize = 64;

#[test]
fn idle_and_slow_clients_cost_little_and_end_and_collecting_goes_on() {
    if !postgres::sees_descriptors() {
        return;
    }
    let world = World::new(Options { speed: Speed::Times(600.0), rows_per_bar: Some(20), ..market(4) });
    let (mut service, address) = serving(&world, &[]);
    let (process, before) = (Process(service.pid()), memory_kib(service.pid()));
    let own = process.descriptors();
    // As many as the system takes, far more than are served at a time; each begins a request that it never ends.
    let open = |_| {
        let mut socket = TcpStream::connect_timeout(&address, Duration::from_millis(500)).ok()?;
        let _ = socket.write_all(b"GET /healthz HTTP/1.1\r\nHost: loc");
        Some(socket)
    };
    let mut idle: Vec<TcpStream> = (0..2_000).map_while(open).collect();
    assert!(idle.len() > CONNECTIONS_MAX, "{} connections", idle.len());
    // What `doctor` says is enough for the service and its clients is so: two a connection.
    let mut most = 0;
    service.wait("all places to be taken", || {
        most = most.max(process.descriptors());
        most >= own + 2 * CONNECTIONS_MAX - 8
    });
    let bars = world.stored();
    world.wait(&mut service, "more bars", |world| {
        most = most.max(process.descriptors());
        world.stored() >= bars + 28
    });
    println!("{own} descriptors without clients, {most} with as many as are let in");
    assert!(own <= DESCRIPTORS_OWN && most <= DESCRIPTORS_OWN + 2 * CONNECTIONS_MAX, "{own}, {most}");
    // They are told to go, a batch at a time.
    let first = idle.swap_remove(0);
    first.set_read_timeout(Some(PATIENCE)).unwrap();
    let ended = read_answer(first);
    assert!(ended.is_none_or(|answer| answer.status == 408), "it is not waited for");
    let grown = memory_kib(service.pid()).saturating_sub(before);
    assert!(grown < 24 * 1024, "{grown} KiB more");
    drop(idle);
    service.wait("an answer", || {
        let answer =
            exchange(address, "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        answer.is_some_and(|answer| answer.status == 200)
    });
    world.wait_complete(&mut service);
    service.stop();
    world.verify(Holes::None);
}

/// Resident memory of a process.
fn memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}
