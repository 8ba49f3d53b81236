//! Nothing secret is written anywhere, whatever is done and whatever goes wrong: every secret has a mark, every command runs
//! with the most talkative log there is, and then all that was written is searched for the marks in any encoding.
//!
//! What a process was given in its environment stands in `/proc/PID/environ`, for its user and root to read: that is the
//! user's own matter, who can use files or systemd's credentials instead.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use candlekeep::simulator::{Account, AccountType, Credentials, Options, Refusal, Rubbish, Speed};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::api::ask;
use super::front::Front;
use super::postgres;
use super::proxy::Proxy;
use super::systemd::Manager;
use super::world::{Service, World, market};

const USER: &str = "zq-marked-user";
const PASSWORD: &str = "zq|pass w&o%\"\\/é";
const KEY: &str = "zq-marked-key-4711";
const WRONG: &str = "zq-wrong-password";
const ACCOUNTS: [&str; 2] = ["ZQMARK1", "ZQMARK2"];
const HTTP_TOKEN: &str = "zq-token-of-http-0123456789";
const SERVER_PASSWORD: &str = "zq-server-password";

fn marked() -> Credentials {
    let account = |id: &str, account_type, preferred| Account {
        id: id.to_owned(),
        name: format!("zq-name-of-{id}"),
        account_type,
        preferred,
    };
    Credentials {
        identifier: USER.to_owned(),
        password: PASSWORD.to_owned(),
        api_key: KEY.to_owned(),
        accounts: vec![
            account(ACCOUNTS[0], AccountType::Cfd, true),
            account(ACCOUNTS[1], AccountType::Spreadbet, false),
        ],
        accept_any: false,
    }
}

/// A value, and the bytes that would give it away, in whatever encoding.
struct Mark {
    value: String,
    forms: Vec<Vec<u8>>,
}

impl Mark {
    fn new(value: &str) -> Mark {
        let json = |text: &str| {
            let quoted = serde_json::to_string(text).unwrap();
            quoted[1..quoted.len() - 1].to_owned()
        };
        let percent = utf8_percent_encode(value, NON_ALPHANUMERIC).to_string();
        let hex: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
        let mut forms = vec![
            value.to_owned(),
            json(value),
            json(&json(value)),
            json(value).replace('/', "\\/"),
            format!("{value:?}").trim_matches('"').to_owned(),
            value.escape_default().to_string(),
            percent.to_lowercase(),
            utf8_percent_encode(&percent, NON_ALPHANUMERIC).to_string(),
            percent,
            hex.to_uppercase(),
            hex,
        ];
        // Wherever in a longer text it begins, the characters in the middle are the same.
        for before in 0..3 {
            let text = [&b"xxx"[..before], value.as_bytes()].concat();
            for coded in [STANDARD_NO_PAD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
                forms.push(coded[before.div_ceil(3) * 4..coded.len() - 4].to_owned());
            }
        }
        forms.sort();
        forms.dedup();
        Mark { value: value.to_owned(), forms: forms.into_iter().map(String::into_bytes).collect() }
    }

    /// Where it stands in these bytes.
    fn find(&self, bytes: &[u8]) -> Option<usize> {
        self.forms.iter().find_map(|form| memchr::memmem::find(bytes, form))
    }
}

/// Panics where one of the marks stands in this text.
#[track_caller]
fn search(marks: &[Mark], what: &str, bytes: &[u8]) {
    for mark in marks {
        if let Some(at) = mark.find(bytes) {
            let around = String::from_utf8_lossy(&bytes[at.saturating_sub(200)..bytes.len().min(at + 200)]);
            panic!("{:?} is in {what}:\n{around}", mark.value);
        }
    }
}

/// The tokens that were handed out, out of all that was said.
fn tokens(heard: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(heard);
    let mut found = Vec::new();
    for line in text.lines() {
        let header = line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.trim()));
        if let Some((name, value)) = header
            && (name == "cst" || name == "x-security-token")
        {
            found.push(value.to_owned());
        }
        for member in ["\"access_token\":\"", "\"refresh_token\":\""] {
            let values = line.split(member).skip(1).filter_map(|rest| rest.split('"').next());
            found.extend(values.map(str::to_owned));
        }
    }
    found.retain(|token| token.len() >= 12);
    found.sort();
    found.dedup();
    found
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let found = entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] });
    // A socket has nothing to be read.
    found.filter(|path| path.is_file()).collect()
}

/// All that programs have said.
#[derive(Default)]
struct Said(Vec<(String, Vec<u8>)>);

impl Said {
    fn service(&mut self, what: &str, log: &[String]) {
        self.0.push((what.to_owned(), log.join("\n").into_bytes()));
    }

    /// What a service answers to whoever has the token, and to whoever has not.
    fn http(&mut self, service: &mut Service) {
        let address = service.http_address();
        let token = format!("Authorization: Bearer {HTTP_TOKEN}\r\n");
        for (path, headers) in ["/healthz", "/v1/status", "/metrics", "/nothing"]
            .iter()
            .flat_map(|path| [(path, &*token), (path, "")])
        {
            let answer = ask(address, &format!("GET {path}"), headers);
            assert_eq!(answer.status == 401, headers.is_empty(), "{path}: {answer:?}");
            self.0.push((format!("{path} over HTTP"), [answer.head, answer.body].concat().into_bytes()));
        }
    }

    /// Runs a command that ends by itself, and keeps what it says.
    fn command(&mut self, world: &World, line: &str, variables: &[(&str, &str)]) {
        let output = world.output(line, variables);
        assert_ne!(output.status.code(), Some(2), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        self.0.push((format!("stdout of {line}"), output.stdout));
        self.0.push((format!("stderr of {line}"), output.stderr));
    }
}

/// A process's arguments, which everybody on the machine can read.
fn arguments(service: &Service) -> Vec<u8> {
    fs::read(format!("/proc/{}/cmdline", service.pid())).unwrap()
}

const TALKATIVE: [(&str, &str); 4] = [
    ("RUST_LOG", "trace"),
    ("RUST_BACKTRACE", "1"),
    ("CANDLEKEEP_HTTP", "off"),
    ("IG_ACCOUNT_ID", ACCOUNTS[1]),
];

#[test]
fn no_secret_is_written_anywhere() {
    let world = World::new(Options { credentials: marked(), speed: Speed::Times(120.0), ..market(40) });
    let front = Front::start(world.simulator().address(), None);
    let url = front.api_url();
    let with = |more: &[(&'static str, &'static str)]| {
        let mut all: Vec<(&str, &str)> = vec![("IG_API_URL", url.as_str())];
        all.extend(TALKATIVE);
        all.extend(more);
        all
    };
    let mut said = Said::default();
    let mut cmdlines = Vec::new();

    // Wrong credentials, found out by doctor, and not tried by the service.
    said.command(&world, "doctor", &with(&[("IG_PASSWORD", WRONG)]));
    let refused = world.start("run", &with(&[("IG_PASSWORD", WRONG)])).ended();
    assert_eq!(refused.code, Some(77));
    said.service("a run that is refused", &refused.log);

    // Everything that can go wrong between the service and IG.
    let mut service = world.start("run --record said.jsonl", &with(&[]));
    cmdlines.push(arguments(&service));
    service.wait_said("streaming session begun", 1);
    let control = world.simulator().control();
    for rubbish in [Rubbish::Binary, Rubbish::NotUtf8] {
        control.send_rubbish(rubbish);
    }
    control.wipe_tokens();
    control.end_sessions(31, "ended");
    service.wait_said("streaming session begun", 2);
    control.refuse_creates(1, 1, "User/password check failed");
    control.cut_streams();
    control.end_sessions(31, "ended");
    service.wait_said("streaming session begun", 3);
    front.point("/gateway", "http://localhost:1/elsewhere");
    control.end_sessions(31, "ended");
    service.wait_said("never followed", 1);
    front.point_nowhere();
    service.wait_said("streaming session begun", 4);
    control.refuse_upgrades(Some(Refusal::Status(403)));
    control.end_sessions(31, "ended");
    service.wait_said("transport=http", 1);
    control.refuse_upgrades(None);

    // Beside it, what only reads.
    for line in [
        "doctor",
        "doctor --format json",
        "doctor --offline",
        "status",
        "status --format json",
        "gaps",
        "gaps --verify",
        "explain EUR_USD 2024-01-17T09:30",
        "candles EUR_USD 5",
        "candles EUR_USD 5 --fetch --from 2024-01-17T09:00 --to 2024-01-17T09:30",
        "backfill",
        "backfill --plan",
        "export --output export.csv",
        "backup copy.db",
        "export --output -",
        "import export.csv",
        "import --dry-run export.csv",
        "copy sqlite://candlekeep.db sqlite://copied.db",
        "man",
        "man pages",
        "completions bash",
        "init",
    ] {
        said.command(&world, line, &with(&[]));
    }
    // A database that takes nothing.
    let lock = rusqlite::Connection::open(world.database()).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    service.wait_said("spool", 1);
    drop(lock);
    said.service("run", &service.stop());

    // Another version of the login, with tokens of its own; killed in the middle of a commit.
    let mut service =
        world.start("run --failpoint commit.applied:3", &with(&[("CANDLEKEEP_SESSION_VERSION", "3")]));
    cmdlines.push(arguments(&service));
    service.wait_said("logged in", 1);
    said.service("a run that is killed", &service.ended().log);

    // A history fetched without a service, by a login of its own.
    said.command(
        &world,
        "backfill --pairs EUR_USD --from 2024-01-16T10:00 --to 2024-01-16T11:00",
        &with(&[]),
    );

    // The demonstration, whose own simulator and database are none of the user's.
    let own = [("TMPDIR", world.folder().to_str().unwrap())];
    said.command(&world, "demo --exit", &[&own, &*with(&[])].concat());

    // The simulator itself, which is told nothing of the kind and would keep quiet.
    let mut command = Command::new(env!("CARGO_BIN_EXE_candlekeep"));
    command.args(["simulate", "--listen", "127.0.0.1:0"]).current_dir(world.folder()).env_clear();
    command.envs(TALKATIVE).envs([("IG_PASSWORD", PASSWORD), ("IG_API_KEY", KEY)]).stdout(Stdio::piped());
    let mut simulator = Service::spawn(&mut command);
    let first_line = simulator.first_line();
    said.0.push(("stdout of simulate".to_owned(), first_line.into_bytes()));
    said.service("simulate", &simulator.stop());

    let mut values = vec![USER, PASSWORD, KEY, WRONG].into_iter().map(str::to_owned).collect::<Vec<_>>();
    let handed_out = tokens(&front.heard());
    assert!(handed_out.len() >= 6, "the tokens are not found: {handed_out:?}");
    values.extend(handed_out);
    let marks: Vec<Mark> = values.iter().map(|value| Mark::new(value)).collect();
    let accounts: Vec<Mark> = ACCOUNTS.iter().map(|id| Mark::new(id)).collect();
    // The search finds what is there.
    assert!(marks.iter().take(3).all(|mark| mark.find(&front.heard()).is_some()), "nothing was sent");
    assert!(
        said.0.iter().any(|(_, text)| memchr::memmem::find(text, b"<7>").is_some()),
        "it was not talkative"
    );
    for (what, text) in said
        .0
        .iter()
        .chain(cmdlines.into_iter().map(|text| ("arguments".to_owned(), text)).collect::<Vec<_>>().iter())
    {
        search(&marks, what, text);
        search(&accounts, what, text);
    }
    let written = files(world.folder());
    for name in
        ["candlekeep.db", "candlekeep.db.spool", "said.jsonl", "export.csv", "copy.db", "candlekeep.toml"]
    {
        assert!(written.iter().any(|path| path.ends_with(name)), "{name} is not among {written:?}");
    }
    for path in written {
        let bytes = fs::read(&path).unwrap();
        search(&marks, &path.display().to_string(), &bytes);
        // Whose allowance it is stands in the database (table `allowance`), and nowhere else.
        let is_database =
            path.to_string_lossy().contains(".db") && path.extension().is_none_or(|end| end != "spool");
        if !is_database {
            search(&accounts, &path.display().to_string(), &bytes);
        }
    }
}

#[test]
fn an_answer_of_another_shape_gives_nothing_away() {
    const TOKEN: &str = "zq-token-out-of-its-place";
    const ACCOUNT: &str = "ZQACCOUNTOUTOFPLACE";
    let of_v3 = format!(r#"{{"accountId":"ABC12","oauthToken":"{TOKEN}"}}"#);
    let of_v2 = format!(r#"{{"currentAccountId":"ABC12","accounts":"{ACCOUNT}"}}"#);
    for (version, body) in [("3", of_v3), ("2", of_v2)] {
        let world = World::new(Options { credentials: marked(), ..market(1) });
        let proxy = Proxy::start(world.simulator().address().port());
        let url = proxy.lead(&world.simulator().api_url());
        proxy.answer(Some(Arc::new(move |mut client| {
            let mut head = [0; 8 * 1024];
            let length = client.read(&mut head).ok()?;
            if !head[..length].starts_with(b"POST /gateway/deal/session ") {
                return Some((client, head[..length].to_vec()));
            }
            let head =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
            client.write_all([head.as_bytes(), body.as_bytes()].concat().as_slice()).ok()?;
            None
        })));
        let mut all = TALKATIVE.to_vec();
        all.extend([("IG_API_URL", url.as_str()), ("CANDLEKEEP_SESSION_VERSION", version)]);
        let mut said = Said::default();
        let mut service = world.start("run --record said.jsonl", &all);
        service.wait_said("JSON of another shape", 1);
        for line in ["status", "doctor", "backfill --pairs EUR_USD"] {
            said.command(&world, line, &all);
        }
        said.service("run", &service.stop());
        let marks = [TOKEN, ACCOUNT].map(Mark::new);
        for (what, text) in &said.0 {
            search(&marks, what, text);
        }
        for path in files(world.folder()) {
            search(&marks, &path.display().to_string(), &fs::read(&path).unwrap());
        }
    }
}

#[test]
fn no_secret_is_written_where_rooms_panic_or_asked_for_over_http_or_told_to_systemd() {
    let world = World::new(Options { credentials: marked(), speed: Speed::Times(300.0), ..market(40) });
    let front = Front::start(world.simulator().address(), None);
    let url = front.api_url();
    let token_place = tempfile::tempdir().unwrap();
    let token_file = token_place.path().join("token");
    fs::write(&token_file, HTTP_TOKEN).unwrap();
    let with = |more: &[(&'static str, &'static str)]| {
        let mut all: Vec<(&str, &str)> = vec![("IG_API_URL", url.as_str())];
        all.extend(TALKATIVE);
        all.extend([
            ("CANDLEKEEP_HTTP", "127.0.0.1:0"),
            ("CANDLEKEEP_HTTP_TOKEN_FILE", token_file.to_str().unwrap()),
        ]);
        all.extend(more);
        all
    };
    let mut manager = Manager::new(&world);
    let mut said = Said::default();

    // IG is away, and what is waited for is told to everybody who asks.
    let mut service =
        manager.start(&world, "run", &with(&[("IG_API_URL", "http://127.0.0.1:9/gateway/deal")]));
    manager.wait(&mut service, "STATUS=waiting for IG: ");
    said.http(&mut service);
    said.service("a run that waits", &service.stop());
    // IG is in trouble, and says so in its own words.
    front.point("/gateway", "http://localhost:1/elsewhere");
    let mut service = manager.start(&world, "run", &with(&[]));
    manager.wait(&mut service, "STATUS=waiting for IG: ");
    said.http(&mut service);
    said.service("a run that is led elsewhere", &service.stop());
    front.point_nowhere();

    // Rooms that die.
    let points = "session.tokens:9=panic,stream.arrived:40=panic,aggregator.told:90=panic,\
                  writer.facts:60=panic,history.fetch:5=panic";
    let line = format!("run --failpoint {}", points.replace(' ', ""));
    let mut service = manager.start(&world, &line, &with(&[]));
    let address = service.http_address();
    let token = format!("Authorization: Bearer {HTTP_TOKEN}\r\n");
    service.wait("all of them to be built anew", || {
        let health = ask(address, "GET /healthz", &token).json();
        let again =
            health["rooms"].as_array().unwrap().iter().filter(|room| room["restarts"].as_u64() > Some(0));
        again.count() == ["session", "stream", "aggregator", "writer", "history"].len()
    });
    said.http(&mut service);
    said.command(&world, "status", &with(&[]));
    let log = service.stop();
    assert!(log.iter().filter(|line| line.contains("stack backtrace")).count() >= 5, "{log:#?}");
    said.service("a run whose rooms die", &log);
    // One that is given up.
    let given_up = manager.start(&world, "run --failpoint stream.arrived:3+=panic", &with(&[])).ended();
    assert_eq!(given_up.code, Some(1));
    assert!(given_up.reason().contains("the stream room has failed"), "{}", given_up.reason());
    said.service("a run that gives up", &given_up.log);
    for _ in 0..50 {
        manager.hear();
    }
    let told: Vec<&str> = manager.told.iter().map(|(_, line)| line.as_str()).collect();
    said.0.push(("what systemd is told".to_owned(), told.join("\n").into_bytes()));

    let mut values = vec![USER, PASSWORD, KEY, HTTP_TOKEN].into_iter().map(str::to_owned).collect::<Vec<_>>();
    let handed_out = tokens(&front.heard());
    assert!(handed_out.len() >= 4, "the tokens are not found: {handed_out:?}");
    values.extend(handed_out);
    values.extend(ACCOUNTS.map(str::to_owned));
    let marks: Vec<Mark> = values.iter().map(|value| Mark::new(value)).collect();
    for (what, text) in &said.0 {
        search(&marks, what, text);
    }
}

#[test]
fn the_password_of_a_server_is_in_no_log_and_no_error() {
    let mark = [Mark::new(SERVER_PASSWORD)];
    let world = World::new(Options { speed: Speed::Times(60.0), ..market(10) });
    let mut said = Said::default();
    let given = |place: &str| format!("postgres://me:{SERVER_PASSWORD}@{place}");
    let talkative = |url: &str, line: &str, said: &mut Said| {
        said.command(&world, line, &[&[("DATABASE_URL", url)], &TALKATIVE[..3]].concat());
    };
    // Nobody there, no such host, and addresses that are none.
    for place in ["127.0.0.1:1/candles", "no.such.host.invalid/candles", "127.0.0.1:port/x", "h/d?sslmode=no"]
    {
        for line in ["status", "doctor", "doctor --format json", "gaps", "backfill --plan"] {
            talkative(&given(place), line, &mut said);
        }
    }
    let mut manager = Manager::new(&world);
    let away = given("127.0.0.1:1/c");
    let variables =
        [&[("DATABASE_URL", away.as_str())], &TALKATIVE[..2], &[("CANDLEKEEP_HTTP", "127.0.0.1:0")]];
    let mut service = manager.start(&world, "run", &variables.concat());
    service.wait_said("the database is away", 2);
    manager.wait(&mut service, "STATUS=waiting for the database: ");
    for (_, line) in &manager.told {
        said.0.push(("what systemd is told".to_owned(), line.clone().into_bytes()));
    }
    let address = service.http_address();
    for path in ["/healthz", "/v1/status", "/metrics"] {
        said.0.push((path.to_owned(), ask(address, &format!("GET {path}"), "").body.into_bytes()));
    }
    said.0.push(("arguments".to_owned(), arguments(&service)));
    said.service("run", &service.stop());
    // As an argument it is refused, and not repeated.
    let output = world.output(&format!("status --database {}", given("h/d")), &[]);
    said.0.push(("stderr".to_owned(), output.stderr));
    // In a file, and in a variable of PostgreSQL's own.
    fs::write(world.folder().join("c.toml"), format!("database.url = \"{}\"\n", given("127.0.0.1:1/c")))
        .unwrap();
    said.command(&world, "doctor --config c.toml", &[&[("DATABASE_URL", "")], &TALKATIVE[..3]].concat());
    if let Some(server) = postgres::shared() {
        let url =
            server.address("postgres").replace("candlekeep@", &format!("candlekeep:{SERVER_PASSWORD}@"));
        assert!(url.contains(SERVER_PASSWORD), "{url}");
        for line in ["status", "doctor"] {
            talkative(&url, line, &mut said);
        }
        let address = server.address("postgres");
        let variables = [("DATABASE_URL", address.as_str()), ("PGPASSWORD", SERVER_PASSWORD)];
        said.command(&world, "doctor", &[&variables[..], &TALKATIVE[..3]].concat());
    }
    fs::remove_file(world.folder().join("c.toml")).unwrap();
    for (what, text) in &said.0 {
        search(&mark, what, text);
    }
    for path in files(world.folder()) {
        search(&mark, &path.display().to_string(), &fs::read(&path).unwrap());
    }
}

#[test]
fn no_image_is_made_of_a_process_s_memory() {
    let world = World::new(Options { speed: Speed::Times(60.0), ..market(10) });
    let mut service = world.run();
    service.wait_said("collecting", 1);
    let proc = format!("/proc/{}", service.pid());
    let limits = fs::read_to_string(format!("{proc}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(line.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{line}");
    // Root can look into it all the same, and its own user cannot.
    let is_seen = fs::read(format!("{proc}/environ")).is_ok();
    assert_eq!(is_seen, rustix::process::getuid().is_root());
    service.stop();
}

#[test]
fn another_process_of_the_same_user_cannot_look_into_one() {
    const NOBODY: u32 = 65_534;
    if !rustix::process::getuid().is_root() {
        return postgres::say_skipped("NOT RUN: only root can start a program as another user");
    }
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let binary = folder.path().join("candlekeep");
    fs::copy(env!("CARGO_BIN_EXE_candlekeep"), &binary).unwrap();
    let mut command = Command::new(binary);
    command.args(["simulate", "--listen", "127.0.0.1:0"]).uid(NOBODY).gid(NOBODY);
    let mut process = Service::spawn(command.current_dir(folder.path()).env_clear().stdout(Stdio::piped()));
    // By then it has done what it does before all else.
    process.first_line();
    let environ = fs::metadata(format!("/proc/{}/environ", process.pid())).unwrap();
    assert_eq!(environ.uid(), 0, "it can be looked into by whoever it runs as");
    process.stop();
}

/// What is planted where it may be seen.
const PLANTED: &str = "zq-planted-5150";

#[test]
fn what_is_planted_is_found_in_each_kind_of_output() {
    let world = World::new(Options { speed: Speed::Times(60.0), ..market(10) });
    let url = format!("sqlite:///{}", world.folder().join(PLANTED).display());
    let token_file = world.folder().join("token");
    fs::write(&token_file, HTTP_TOKEN).unwrap();
    let variables = [
        &TALKATIVE[..2],
        &[("CANDLEKEEP_HTTP", "127.0.0.1:0"), ("CANDLEKEEP_HTTP_TOKEN_FILE", token_file.to_str().unwrap())],
    ]
    .concat();
    let mut service = world.start(&format!("run --database {url} --record {PLANTED}.jsonl"), &variables);
    service.wait_said("collecting", 1);
    let mut said = Said::default();
    said.http(&mut service);
    said.0.push(("arguments".to_owned(), arguments(&service)));
    said.command(&world, &format!("status --database {url}"), &variables);
    said.command(&world, &format!("gaps --database {url}.none"), &variables);
    said.service("run", &service.stop());
    let database = world.folder().join(PLANTED);
    let planting = rusqlite::Connection::open(&database).unwrap();
    planting.execute("INSERT INTO settings VALUES (?1, ?1)", [PLANTED]).unwrap();
    drop(planting);
    let read = |path: &Path| (path.display().to_string(), fs::read(path).unwrap());
    said.0.extend(files(world.folder()).iter().filter(|path| **path == database).map(|path| read(path)));
    let mark = [Mark::new(PLANTED)];
    for kind in [
        "run",
        "arguments",
        "/v1/status over HTTP",
        &format!("stdout of status --database {url}"),
        &format!("stderr of gaps --database {url}.none"),
        &database.display().to_string(),
    ] {
        let of_kind: Vec<_> = said.0.iter().filter(|(what, _)| what == kind).collect();
        assert!(!of_kind.is_empty(), "nothing is said of {kind}");
        let finds = |(what, text): &&(String, Vec<u8>)| {
            std::panic::catch_unwind(|| search(&mark, what, text)).is_err()
        };
        assert!(of_kind.iter().any(finds), "what was planted is not found in {kind}");
    }
}

#[test]
fn a_mark_is_found_in_every_encoding() {
    let mark = Mark::new(PASSWORD);
    for text in [
        PASSWORD.to_owned(),
        format!("{{\"password\":{}}}", serde_json::to_string(PASSWORD).unwrap()),
        utf8_percent_encode(PASSWORD, NON_ALPHANUMERIC).to_string(),
        base64::engine::general_purpose::STANDARD.encode(format!("me:{PASSWORD}!")),
        base64::engine::general_purpose::STANDARD.encode(format!("user:{PASSWORD}")),
        base64::engine::general_purpose::STANDARD.encode(format!("u:1{PASSWORD}. ")),
        format!("{:?}", Some(PASSWORD)),
    ] {
        assert!(mark.find(format!("before {text} after").as_bytes()).is_some(), "{text}");
    }
    assert_eq!(mark.find(b"nothing of the kind"), None);
}
