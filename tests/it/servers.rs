//! PostgreSQL's own side of the store: who is believed to be the server, schemas of other versions, a
//! server that comes and goes, replicas.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use candlekeep::domain::{Bar, BarKey, Fact, FactBatch, Ohlc, Price, Source, Timeframe, Timestamp};
use candlekeep::store::{BarQuery, CommitReport, DatabaseUrl, Feed, Store, StoreError};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustix::process::Signal;

use super::postgres::{self, Server, Session};
use super::world::{World, market, poll};

const NOON: Timestamp = Timestamp(1_583_755_200);
const NOW: Timestamp = Timestamp(1_600_000_000);
const EVERYTHING: BarQuery = BarQuery { from: None, to: None, count: None };

fn bar(slot: i64) -> Bar {
    let price = Price::parse("1.1", 0).unwrap();
    let side = Ohlc { open: price, high: price, low: price, close: price };
    let pair = "EURUSD".parse().unwrap();
    let key = BarKey { pair, timeframe: Timeframe::M5, start: NOON.plus(slot * 300) };
    Bar { key, bid: side, ask: side, volume: 7, source: Source::Stream }
}

fn commit(store: &mut Store, slot: i64) -> Result<CommitReport, StoreError> {
    let facts = vec![Fact::Settled(bar(slot))];
    store.commit(&[Arc::new(FactBatch { evidence: "test".into(), facts })], NOW)
}

fn stored(store: &mut Store) -> usize {
    store.bars("EURUSD".parse().unwrap(), Timeframe::M5, &EVERYTHING).unwrap().len()
}

/// An authority, and a certificate for one name that it vouches for, as files: `ca.pem`, `NAME.pem`, `NAME.key`.
fn certify(folder: &Path, authority: &str, name: &str) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let root = params.self_signed(&key).unwrap();
    fs::write(folder.join(authority), root.pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
    fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

#[test]
fn a_server_is_believed_as_far_as_sslmode_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    certify(folder.path(), "other.pem", "elsewhere");
    certify(folder.path(), "ca.pem", "localhost");
    let settings = [
        "ssl = on".to_owned(),
        "ssl_cert_file = 'server.pem'".to_owned(),
        "ssl_key_file = 'server.key'".to_owned(),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let Some(server) = Server::start_with(&settings, |data| {
        for (from, to) in [("localhost.pem", "server.pem"), ("localhost.key", "server.key")] {
            fs::copy(folder.path().join(from), data.join(to)).unwrap();
            fs::set_permissions(data.join(to), fs::Permissions::from_mode(0o600)).unwrap();
        }
    }) else {
        return;
    };
    let open = |host: &str, parameters: &str| {
        let url = format!("postgres://candlekeep@{host}:{}/postgres?{parameters}", server.port());
        Store::open(&url.parse().unwrap())
    };
    let encrypted = |host: &str, parameters: &str| {
        let mut store = open(host, parameters).unwrap_or_else(|error| panic!("{host} {parameters}: {error}"));
        store.set_setting("key", "value").unwrap();
        let ours = "SELECT bool_or(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                    WHERE application_name = 'candlekeep'";
        postgres::query(&server.address("postgres"), ours).unwrap()[0][0] == "t"
    };
    let (ca, other) = (path("ca.pem"), path("other.pem"));
    assert!(!encrypted("127.0.0.1", "sslmode=disable"));
    assert!(encrypted("127.0.0.1", ""), "what is offered is taken");
    assert!(encrypted("127.0.0.1", "sslmode=require"));
    assert!(encrypted("localhost", &format!("sslmode=verify-full&sslrootcert={ca}")));
    // By its number it has another name than the certificate's.
    assert!(encrypted("127.0.0.1", &format!("sslmode=verify-ca&sslrootcert={ca}")));
    for (host, parameters, says) in [
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={ca}"), "certificate not valid for name"),
        ("localhost", format!("sslmode=verify-full&sslrootcert={other}"), "invalid peer certificate"),
        ("127.0.0.1", format!("sslmode=verify-ca&sslrootcert={other}"), "invalid peer certificate"),
        ("localhost", format!("sslmode=require&sslrootcert={other}"), "invalid peer certificate"),
        ("localhost", "sslmode=verify-full".to_owned(), "invalid peer certificate: UnknownIssuer"),
        ("localhost", format!("sslmode=verify-full&sslrootcert={}", path("none.pem")), "sslrootcert"),
        ("localhost", format!("sslmode=verify-full&sslrootcert={}", path("localhost.key")), "no certificate"),
    ] {
        let refused = open(host, &parameters).map(drop).unwrap_err();
        assert!(matches!(refused, StoreError::Unopenable { .. }), "{host} {parameters}: {refused:?}");
        assert!(refused.to_string().contains(says), "{host} {parameters}: {refused}");
    }
}

#[test]
fn a_server_without_tls_is_refused_where_tls_is_asked_for() {
    let Some(server) = postgres::shared() else { return };
    for mode in ["require", "verify-full"] {
        let url = format!("{}?sslmode={mode}", server.address("postgres"));
        let refused = Store::open(&url.parse().unwrap()).map(drop).unwrap_err();
        assert!(matches!(refused, StoreError::Unopenable { .. }), "{refused:?}");
        assert!(refused.to_string().contains("server does not support TLS"), "{refused}");
    }
}

#[test]
fn who_is_refused_is_told_why_and_no_password() {
    let Some(server) = postgres::shared() else { return };
    server.run("CREATE ROLE reader LOGIN PASSWORD 'secret'");
    let check = |url: String, may_pass: bool, says: &str| {
        let refused = Store::open(&url.parse().unwrap()).map(drop).unwrap_err();
        assert_eq!(refused.is_retryable(), may_pass, "{refused:?}");
        assert!(refused.to_string().contains(says) && !refused.to_string().contains("secret"), "{refused}");
    };
    let port = server.port();
    check(
        format!("postgres://nobody:secret@127.0.0.1:{port}/postgres"),
        false,
        r#"role "nobody" does not exist"#,
    );
    check(server.address("nowhere"), false, r#"database "nowhere" does not exist"#);
    check(format!("postgres://reader:secret@127.0.0.1:{port}/postgres"), false, "permission denied");
    check("postgres://me:secret@127.0.0.1:1/postgres".to_owned(), true, "Connection refused");
    check("postgres://me:secret@nowhere.invalid/postgres".to_owned(), true, "lookup");
    check("postgres:///postgres?host=/nowhere".to_owned(), true, "No such file");
}

/// The migrations up to one, as an older release has made them.
fn migrate_to(address: &str, last: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/postgres");
    let mut steps: Vec<_> = fs::read_dir(folder).unwrap().map(|step| step.unwrap().path()).collect();
    steps.sort();
    let mut script = "CREATE TABLE __diesel_schema_migrations (version VARCHAR(50) PRIMARY KEY, \
                      run_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP);"
        .to_owned();
    for step in steps {
        let version = step.file_name().unwrap().to_str().unwrap()[..4].to_owned();
        if *version <= *last {
            script += &fs::read_to_string(step.join("up.sql")).unwrap();
            script += &format!("INSERT INTO __diesel_schema_migrations VALUES ('{version}');");
        }
    }
    postgres::query(address, &script).unwrap();
}

fn feed(epic: &str) -> Feed {
    Feed {
        pair: "EURUSD".parse().unwrap(),
        epic: epic.to_owned(),
        environment: "demo".to_owned(),
        account_type: "CFD".to_owned(),
        scale: "1".to_owned(),
        calendar: "forex".to_owned(),
    }
}

#[test]
fn an_older_schema_is_copied_and_migrated_and_a_newer_one_refused() {
    let Some(server) = postgres::shared() else { return };
    let address = server.place();
    let url: DatabaseUrl = address.parse().unwrap();
    migrate_to(&address, "0002");
    let rows = "INSERT INTO settings VALUES ('key', 'value'); \
                INSERT INTO feeds (pair, epic, environment, account_type, scale, calendar, watched_from) \
                SELECT 'EUR_USD', epic, 'demo', 'CFD', '1', 'forex', 0 FROM (VALUES ('1'), ('2')) AS of (epic)";
    postgres::query(&address, rows).unwrap();
    let older = Store::open_read_only(&url).map(drop).unwrap_err();
    assert!(matches!(older, StoreError::OlderSchema { .. }), "{older:?}");
    let mut store = Store::open(&url).unwrap();
    assert_eq!(store.setting("key").unwrap().as_deref(), Some("value"));
    commit(&mut store, 0).unwrap();
    assert_eq!(store.lease(NOW).unwrap(), None, "a table of the newer schema");
    // The copy is a database of its own: an older program would go on with it.
    let schema = address.rsplit("%3D").next().unwrap();
    let copy = format!("{}?options=-csearch_path%3Dcandlekeep_{schema}_schema_2", server.address("postgres"));
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()";
    assert_eq!(postgres::query(&copy, tables).unwrap(), [["8"]], "those of then");
    let mut copied = Store::open(&copy.parse().unwrap()).unwrap();
    assert_eq!(copied.setting("key").unwrap().as_deref(), Some("value"));
    assert_eq!(copied.watch_feeds(&[feed("3")], NOW).unwrap(), [3], "numbered on");
    commit(&mut copied, 0).unwrap();
    postgres::query(&address, "INSERT INTO __diesel_schema_migrations VALUES ('9999')").unwrap();
    for opened in [Store::open(&url), Store::open_read_only(&url)] {
        let newer = opened.map(drop).unwrap_err();
        assert!(matches!(newer, StoreError::NewerSchema { .. }), "{newer:?}");
        assert!(newer.to_string().contains("has schema 9999"), "{newer}");
    }
}

#[test]
fn tables_of_others_are_left_alone_and_reading_makes_none() {
    let Some(server) = postgres::shared() else { return };
    let empty = server.place();
    let absent = Store::open_read_only(&empty.parse().unwrap()).map(drop).unwrap_err();
    assert!(matches!(absent, StoreError::Absent { .. }), "{absent:?}");
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()";
    assert_eq!(postgres::query(&empty, tables).unwrap(), [["0"]]);
    let theirs = server.place();
    postgres::query(&theirs, "CREATE TABLE candles (wax TEXT)").unwrap();
    let refused = Store::open(&theirs.parse().unwrap()).map(drop).unwrap_err();
    assert!(matches!(refused, StoreError::NotOurs { .. }), "{refused:?}");
    assert_eq!(postgres::query(&theirs, tables).unwrap(), [["1"]]);
}

#[test]
fn two_that_start_at_once_make_one_schema() {
    let Some(server) = postgres::shared() else { return };
    let url = server.url();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| Store::open(&url).unwrap());
        }
    });
}

#[test]
fn a_thread_that_runs_actors_may_ask_much() {
    let Some(server) = postgres::shared() else { return };
    let url = server.url();
    let (done, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // All of it in one turn of one task.
        actix::System::new().block_on(async {
            let mut store = Store::open(&url).unwrap();
            for slot in 0..100 {
                commit(&mut store, slot).unwrap();
            }
            done.send(stored(&mut store)).unwrap();
        });
    });
    assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok(100));
}

#[test]
fn a_connection_that_is_lost_is_made_anew() {
    let Some(mut server) = Server::start(&[]) else { return };
    let url: DatabaseUrl = server.address("postgres").parse().unwrap();
    let (mut store, mut reader) = (Store::open(&url).unwrap(), Store::open_read_only(&url).unwrap());
    for (round, signal) in ["INT", "QUIT", "KILL"].into_iter().enumerate() {
        commit(&mut store, round as i64).unwrap();
        server.stop(signal);
        for _ in 0..2 {
            let away = commit(&mut store, 9).unwrap_err();
            assert!(away.is_retryable(), "{away:?}");
        }
        server.resume();
        // The first to ask may find the broken connection; nobody after that.
        assert!(commit(&mut store, round as i64).is_ok_and(|report| report.unchanged == 1));
        assert_eq!(stored(&mut store), round + 1);
        assert_eq!(reader.consistently(|reader| Ok(stored(reader))).unwrap(), round + 1);
    }
}

/// A role or a server may have a stricter isolation by default, under which what is read after a wait is as
/// before it.
#[test]
fn who_waits_while_the_lease_changes_hands_writes_nothing() {
    let Some(server) = Server::start(&["default_transaction_isolation = 'repeatable read'"]) else { return };
    let address = server.address("postgres");
    let mut store = Store::open(&address.parse().unwrap()).unwrap();
    let _lease = store.acquire_lease("run", NOW).unwrap();
    commit(&mut store, 0).unwrap();
    let another = Session::begin(&address);
    another.run("BEGIN; SELECT 1 FROM lease WHERE name = 'writers' FOR UPDATE");
    another.run("UPDATE lease SET holder = 'another', epoch = 2 WHERE name = 'collector'");
    let refused = std::thread::scope(|scope| {
        let committing = scope.spawn(|| commit(&mut store, 1));
        let waits = "SELECT count(*) FROM pg_stat_activity \
                     WHERE wait_event_type = 'Lock' AND application_name = 'candlekeep'";
        while postgres::query(&address, waits).unwrap() != [["1"]] {
            std::thread::yield_now();
        }
        another.run("COMMIT");
        committing.join().unwrap().unwrap_err()
    });
    assert!(matches!(refused, StoreError::LeaseLost { .. }), "{refused:?}");
    assert_eq!(stored(&mut store), 1);
}

#[test]
fn what_a_commit_reads_does_not_grow_with_what_is_stored() {
    let Some(server) = postgres::shared() else { return };
    let address = server.place();
    let mut store = Store::open(&address.parse().unwrap()).unwrap();
    // The server plans what is prepared while there is next to nothing, and keeps to it.
    for slot in 0..20 {
        commit(&mut store, slot).unwrap();
    }
    let history = (20..2_020).map(|slot| Fact::Settled(bar(slot))).collect();
    store.commit(&[Arc::new(FactBatch { evidence: "test".into(), facts: history })], NOW).unwrap();
    for slot in 2_020..2_070 {
        commit(&mut store, slot).unwrap();
    }
    drop(store);
    let ask = |what: &str| postgres::query(&address, what).unwrap()[0][0].parse::<u64>().unwrap();
    // A connection's sums are told when it ends.
    let told = "SELECT n_tup_ins FROM pg_stat_user_tables WHERE schemaname = current_schema() AND relname = 'candles'";
    let bars = 2_070 + 2_070 / 3;
    assert!(poll(|| ask(told) >= bars), "the sums of the connection are not told");
    let read = ask(
        "SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_user_tables WHERE schemaname = current_schema()",
    ) + ask(
        "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE schemaname = current_schema()",
    );
    assert!(read < 20_000, "{read} rows and entries read for 71 commits");
}

#[test]
fn a_replica_is_enough_to_read() {
    let Some(server) = Server::start(&["wal_level = replica", "max_wal_senders = 4"]) else { return };
    let world = World::new(market(2)).on_server(server.address("postgres"));
    let mut service = world.run();
    world.wait_complete(&mut service);
    service.stop();
    let replica = server.replica();
    let newest = "SELECT max(seq) FROM candles";
    let wanted = world.number(newest).to_string();
    world.wait_for("the replica", |_| {
        postgres::query(&replica.address("postgres"), newest).is_ok_and(|told| told == [[wanted.clone()]])
    });
    drop(server);
    let address = replica.address("postgres");
    for line in [
        "status",
        "candles EURUSD 5m --count 5",
        "gaps",
        "gaps --verify",
        "explain EURUSD 2024-01-17T10:05Z",
        "backfill --plan",
    ] {
        let output = world.output(line, &[("DATABASE_URL", &address)]);
        assert!(output.status.success(), "{line}: {output:?}");
    }
    let url: DatabaseUrl = address.parse().unwrap();
    let refused = Store::open(&url).and_then(|mut store| commit(&mut store, 0)).unwrap_err();
    assert!(refused.is_retryable(), "it may be made the primary: {refused:?}");
}

#[test]
fn a_start_waits_for_a_server_that_is_not_there_yet() {
    let Some(mut server) = Server::start(&[]) else { return };
    server.stop("INT");
    let world = World::new(market(2)).on_server(server.address("postgres"));
    let mut service = world.run();
    service.wait_said("the database is away, waiting for it", 2);
    server.resume();
    world.wait_complete(&mut service);
    // And one that is told to stop meanwhile stops.
    service.stop();
    server.stop("INT");
    let mut service = world.run();
    service.wait_said("the database is away, waiting for it", 1);
    service.stop();
}

#[test]
fn a_server_that_answers_nothing_is_given_up() {
    let Some(server) = Server::start(&[]) else { return };
    server.signal(Signal::STOP);
    let url = format!("{}?connect_timeout=1", server.address("postgres"));
    let given_up = Store::open(&url.parse().unwrap()).map(drop).unwrap_err();
    server.signal(Signal::CONT);
    assert!(given_up.is_retryable(), "{given_up:?}");
    assert!(given_up.to_string().contains("no answer within 6 s"), "{given_up}");
}
