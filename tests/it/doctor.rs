//! `candlekeep doctor` in good states and bad ones: what it says, what it leaves, and that it never brings an
//! account into danger.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use candlekeep::simulator::{Options, Speed};
use serde_json::Value;

use super::front::Front;
use super::postgres;
use super::world::{STOP_WITHIN, World, market};

/// No interface that another program on this machine may have taken.
const NO_HTTP: (&str, &str) = ("CANDLEKEEP_HTTP", "off");

/// Ten hours of market time that last ten minutes: longer than any test.
fn world() -> World {
    World::new(Options { speed: Speed::Times(60.0), ..market(10) })
}

/// What a doctor has said, and how it ended.
struct Report {
    code: Option<i32>,
    told: Value,
    stderr: String,
}

impl Report {
    fn of(output: Output) -> Report {
        let stderr = String::from_utf8(output.stderr).unwrap();
        let told = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {stderr} {}", String::from_utf8_lossy(&output.stdout)));
        Report { code: output.status.code(), told, stderr }
    }

    fn all(&self, name: &str) -> Vec<&Value> {
        let checks = self.told["checks"].as_array().unwrap();
        checks.iter().filter(|check| check["name"] == name).collect()
    }

    /// Expects that one of the checks of this name is at this level, with these words in it.
    fn expect(&self, name: &str, level: &str, words: &[&str]) {
        let fits = |check: &Value| {
            let text = format!("{} {}", check["state"], check["fix"]);
            check["level"] == level && words.iter().all(|word| text.contains(word))
        };
        let found = self.all(name);
        assert!(
            found.iter().any(|check| fits(check)),
            "{level} {words:?}, found {found:#?}\n{}",
            self.stderr
        );
        if level == "fix" {
            assert_eq!((self.code, &self.told["ok"]), (Some(1), &Value::Bool(false)));
        }
    }

    /// Expects that nothing is to be mended but what has one of these names.
    fn expect_well_but(&self, names: &[&str]) {
        let checks = self.told["checks"].as_array().unwrap();
        let bad: Vec<_> = checks.iter().filter(|check| check["level"] == "fix").collect();
        assert!(bad.iter().all(|check| names.contains(&check["name"].as_str().unwrap())), "{bad:#?}");
        assert_eq!(self.code, Some(i32::from(!bad.is_empty())), "{:#?}", self.told);
    }
}

fn doctor_with(world: &World, flags: &str, variables: &[(&str, &str)]) -> Report {
    let variables = [&[NO_HTTP], variables].concat();
    Report::of(world.output(&format!("doctor --format json {flags}"), &variables))
}

fn doctor(world: &World, variables: &[(&str, &str)]) -> Report {
    doctor_with(world, "", variables)
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn where_all_is_well_it_logs_in_once_looks_at_every_epic_and_logs_out() {
    let world = world();
    let report = doctor(&world, &[]);
    report.expect_well_but(&[]);
    report.expect("network", "ok", &["answers"]);
    report.expect("login", "ok", &["IG takes these credentials", "CFD"]);
    report.expect("epics", "ok", &["knows and streams all 28"]);
    report.expect("credentials", "ok", &["from the environment"]);
    assert_eq!(world.simulator().stats().logins, 1);
    // It has made the database in which a refusal would have been noted, as the service would have.
    let mode = fs::metadata(world.database()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    assert_eq!(world.number("SELECT expires_at <= renewed_at FROM lease"), 1, "its lease is given back");
    // Each line of text is one, with the level first.
    let output = world.output("doctor", &[NO_HTTP]);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = text.split("\n\n").next().unwrap().lines().collect();
    let levels = ["ok    ", "WARN  ", "FIX   "];
    let each = lines.iter().all(|line| levels.iter().any(|level| line.starts_with(level)));
    assert!(lines.len() > 12 && each, "{text}");
    assert!(text.starts_with("ok    configuration  no file, "), "{text}");
    // And the service begins on what was left.
    let mut service = world.run();
    service.wait_said("collecting", 1);
    service.stop();
}

#[test]
fn twenty_doctors_with_wrong_credentials_make_one_login_attempt() {
    let world = world();
    let wrong = [("IG_PASSWORD", "wrong")];
    let first = doctor(&world, &wrong);
    first.expect("login", "fix", &["wrong user name or password", "not tried again", "change IG_API_KEY"]);
    let asked = world.simulator().stats().rest_refusals;
    for _ in 1..20 {
        let report = doctor(&world, &wrong);
        report.expect("credentials", "fix", &["refused exactly these before", "--retry-credentials"]);
        report.expect("login", "ok", &["not tried: see credentials"]);
    }
    // One refusal a doctor is that of its question without a key, and one more was the login's.
    let later = world.simulator().stats().rest_refusals;
    assert_eq!((world.simulator().stats().logins, asked, later), (1, 2, 21));
    // The service knows as well, and the account is not locked: the right ones work.
    let ended = world.start("run", &wrong).ended();
    assert_eq!(
        (ended.code, world.simulator().stats().rest_refusals),
        (Some(77), later),
        "{}",
        ended.reason()
    );
    doctor(&world, &[]).expect("login", "ok", &["IG takes these credentials"]);
}

#[test]
fn beside_a_service_it_tells_what_that_knows_and_does_not_log_in() {
    let world = world();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let http = [("CANDLEKEEP_HTTP", address.as_str())];
    doctor(&world, &http).expect("http", "fix", &["another program listens", "ss -ltnp", "http.listen"]);
    let logins = world.simulator().stats().logins;
    let mut service = world.run();
    service.wait_said("collecting", 1);
    world.wait(&mut service, "bars", |world| world.stored() > 100);
    let report = doctor(&world, &http);
    report.expect("login", "ok", &["not tried, since run, pid", &service.pid().to_string(), "has the login"]);
    report.expect("service", "ok", &["run, pid"]);
    report.expect("stream", "ok", &["streaming since"]);
    report.expect("integrity", "ok", &["sound"]);
    report.expect("ledger", "ok", &["accounted for once"]);
    report.expect("http", "warn", &["another program listens", "http.listen"]);
    assert_eq!(world.simulator().stats().logins, logins + 1);
    service.kill();
    doctor(&world, &[]).expect("service", "warn", &["ended without a word", "candlekeep run"]);
}

#[test]
fn offline_it_asks_nobody_and_makes_nothing() {
    let world = world();
    let report = doctor_with(&world, "--offline", &[]);
    report.expect_well_but(&[]);
    report.expect("login", "ok", &["--offline"]);
    report.expect("database", "ok", &["none yet"]);
    assert_eq!(report.all("network").len(), 0);
    let report = doctor_with(&world, "--offline", &[("DATABASE_URL", "postgres://me@192.0.2.1/candles")]);
    report.expect("database", "ok", &["not asked"]);
    assert_eq!(world.simulator().stats().rest_requests, 0);
    assert_eq!(fs::read_dir(world.folder()).unwrap().count(), 0);
}

#[test]
fn a_mistake_in_the_configuration_is_told_with_the_key_to_change() {
    let world = world();
    let file = world.folder().join("candlekeep.toml");
    let check = |text: &str, words: &[&str]| {
        fs::write(&file, text).unwrap();
        doctor(&world, &[]).expect("configuration", "fix", words);
    };
    check(
        "[history]\nreserv = 5\n",
        &["candlekeep.toml:2", "write history.reserve in place of history.reserv"],
    );
    check("[ig\n", &["not valid TOML", "mend line 1 of candlekeep.toml"]);
    check("password = \"hunter2\"\n", &["is a secret", "set IG_PASSWORD"]);
    check("[history]\nreserve = -5\n", &["change history.reserve"]);
    fs::remove_file(&file).unwrap();
    doctor(&world, &[("CANDLEKEEP_CLOK", "stream")]).expect(
        "configuration",
        "fix",
        &["set CANDLEKEEP_CLOCK"],
    );
    let absent = doctor_with(&world, "--config nowhere.toml", &[]);
    absent.expect("configuration", "fix", &["cannot read nowhere.toml", "--config"]);
    doctor(&world, &[("IG_PASSWORD", "")]).expect(
        "credentials",
        "fix",
        &["missing: IG_PASSWORD", "IG_PASSWORD"],
    );
    assert_eq!(world.simulator().stats().logins, 0);
}

#[test]
fn files_with_secrets_that_others_read_are_warned_about_by_doctor_and_service() {
    let world = world();
    let (file, secret) = (world.folder().join("candlekeep.toml"), world.folder().join("password"));
    fs::write(&file, "database.url = \"postgres://me:hunter2@127.0.0.1:1/candles\"\n").unwrap();
    fs::write(&secret, "demo-password\n").unwrap();
    chmod(&file, 0o644);
    chmod(&secret, 0o604);
    let path = secret.display().to_string();
    let variables = [("IG_PASSWORD", ""), ("IG_PASSWORD_FILE", path.as_str())];
    let report = doctor(&world, &variables);
    report.expect(
        "permissions",
        "warn",
        &["candlekeep.toml holds the database's password", "everybody", "chmod"],
    );
    report.expect("permissions", "warn", &["password holds IG_PASSWORD", "mode 604", "chmod"]);
    report.expect("credentials", "ok", &["IG_PASSWORD from ", &path]);
    assert!(!report.told.to_string().contains("hunter2"));

    let mut service = world.start("run", &variables);
    service.wait_said("a file with a secret can be read by others", 2);
    service.wait_said("collecting", 1);
    let log = service.stop();
    let told: Vec<_> = log.iter().filter(|line| line.contains("can be read by others")).collect();
    assert!(told[0].starts_with("<4>") && told[0].contains("chmod "), "{told:?}");

    chmod(&file, 0o600);
    chmod(&secret, 0o600);
    let report = doctor(&world, &variables);
    assert!(report.all("permissions").iter().all(|check| check["level"] == "ok"), "{:#?}", report.told);
}

#[test]
fn a_folder_that_is_not_there_and_a_damaged_database_are_told() {
    let world = world();
    let report = doctor(&world, &[("DATABASE_URL", "sqlite://no/such/c.db")]);
    report.expect("permissions", "fix", &["no folder", "mkdir -p"]);
    report.expect("login", "warn", &["no database can be made in"]);

    fs::write(world.database(), "this is not a database, but a letter to a friend, and a long one at that")
        .unwrap();
    let report = doctor(&world, &[]);
    report.expect("database", "fix", &["database.url"]);
    report.expect("login", "warn", &["not tried, since a refusal could not be noted"]);
    fs::remove_file(world.database()).unwrap();

    let mut service = world.run();
    service.wait_said("collecting", 1);
    world.wait(&mut service, "bars", |world| world.stored() > 300);
    service.stop();
    // Half of its pages are overwritten, as a failing disk might do, so that none of them need be in use.
    let mut bytes = fs::read(world.database()).unwrap();
    let page = 4_096;
    let quarter = bytes.len() / page / 4 * page;
    bytes[quarter..3 * quarter].fill(0x5a);
    fs::write(world.database(), bytes).unwrap();
    let report = doctor(&world, &[]);
    // It shows wherever the first read comes by.
    let shows_at_once = report.all("integrity").is_empty();
    report.expect(if shows_at_once { "database" } else { "integrity" }, "fix", &["damaged", "put a backup"]);
}

#[test]
fn what_is_wrong_with_epics_and_account_is_told() {
    let world = world();
    let report = doctor(&world, &[("CANDLEKEEP_PAIRS", r#"{ EUR_USD = "CS.D.NOSUCH.CFD.IP" }"#)]);
    report.expect("epics", "fix", &["IG does not know", "EUR_USD (CS.D.NOSUCH.CFD.IP)", "pairs.NAME"]);
    let report = doctor(&world, &[("IG_ACCOUNT_ID", "NOSUCH1")]);
    report.expect("login", "fix", &["none of this client's accounts", "ig.account_id"]);
    assert!(!report.told.to_string().contains("NOSUCH1"), "account ids are told to nobody");
    doctor(&world, &[("IG_ACCOUNT_ID", "SIM02")]).expect("login", "ok", &["SPREADBET", "ig.account_id"]);
}

#[test]
fn a_login_that_would_have_to_wait_for_long_is_not_made() {
    let world = world();
    doctor(&world, &[]).expect_well_but(&[]);
    let report = doctor(&world, &[("CANDLEKEEP_SESSION_LOGIN_SPACING_S", "600")]);
    report.expect("login", "warn", &["left alone for", "try again then"]);
    assert_eq!(world.simulator().stats().logins, 1);
}

#[test]
fn a_server_is_asked_what_it_is_and_what_it_allows() {
    let Some(server) = postgres::shared() else { return postgres::say_skipped("doctor on a server") };
    let world = world().on_server(server.place());
    let report = doctor(&world, &[]);
    report.expect("login", "ok", &["IG takes these credentials"]);
    let report = doctor(&world, &[]);
    report.expect_well_but(&[]);
    report.expect("server", "ok", &["PostgreSQL ", "all that is needed"]);
    report.expect("ledger", "ok", &["accounted for once"]);
    assert!(report.all("integrity").is_empty() && report.all("readers").is_empty());
}

#[test]
fn one_that_is_told_to_stop_logs_out_what_it_has_logged_in() {
    let world = world();
    let front = Front::start(world.simulator().address(), None);
    let url = front.api_url();
    // Logged in, it waits for what IG says of the instruments, which never comes.
    front.swallow("/markets");
    for (round, interrupts) in [(1, true), (2, false)] {
        let mut doctor = world.start("doctor", &[NO_HTTP, ("IG_API_URL", &url)]);
        doctor.wait("the question after the login", || front.asked("GET /gateway/deal/markets") == round);
        let ended = if interrupts { doctor.interrupt() } else { doctor.terminate() };
        assert!(ended.took < STOP_WITHIN, "{:?}", ended.took);
        assert_eq!(ended.code, Some(1), "{}", ended.reason());
        assert!(ended.reason().contains("told to stop; it has logged out"), "{}", ended.reason());
        let logins = front.asked("POST /gateway/deal/session");
        assert_eq!((logins, front.asked("DELETE /gateway/deal/session")), (round, round));
        assert_eq!(world.number("SELECT expires_at <= renewed_at FROM lease"), 1, "its lease is given back");
    }
}
