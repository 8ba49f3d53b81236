//! What is read of findings, by people and by programs.

use super::text::service_line;
use super::*;
use crate::domain::FeedIx;
use crate::healer::plan::{Now, Plan, Refused, Waiting, Why};
use crate::ig::session::failed::Failed;
use crate::ig::stream::state::Phase;
use crate::readiness::PairReadiness;
use crate::store::{AllowanceSeen, AllowanceState, Freshness, Refusals};
use crate::supervisor::chronicle::RunEnd;
use crate::supervisor::keeper::RoomFailures;

/// As it is read where there are no colours.
fn text(findings: &Findings, columns: Option<usize>) -> String {
    anstream::adapter::strip_str(&super::text(findings, columns)).to_string()
}

fn lease() -> LeaseState {
    LeaseState {
        command: "run".to_owned(),
        host: "castle".to_owned(),
        pid: 4711,
        epoch: 3,
        acquired_at: Timestamp(1_705_485_600),
        renewed_at: Timestamp(1_705_489_197),
        released: false,
        alive: true,
        read_at: Timestamp(1_705_489_200),
    }
}

fn last_run(end: Option<(u8, &str)>) -> LastRun {
    let end = end.map(|(exit, why)| RunEnd { at: 1_705_489_190, exit, why: why.to_owned() });
    LastRun { command: "run".to_owned(), epoch: 3, pid: 4711, began_at: 1_705_485_600, end }
}

#[test]
fn who_collects_or_how_the_last_one_ended_is_told() {
    let check = |lease: Option<LeaseState>, run: Option<LastRun>, expected| {
        assert_eq!(service_line(lease.as_ref(), run.as_ref()), expected);
    };
    check(None, None, "not running; never ran on this database");
    let running = "run, pid 4711 on castle, running since 2024-01-17T10:00:00Z";
    check(Some(lease()), Some(last_run(None)), running);
    check(Some(lease()), None, running);
    let dead = LeaseState { alive: false, ..lease() };
    check(
        Some(dead.clone()),
        Some(last_run(None)),
        "not running; the last run began 2024-01-17T10:00:00Z, ended without a word, \
         last seen 2024-01-17T10:59:57Z: killed, or the machine went down",
    );
    check(
        Some(LeaseState { released: true, ..dead.clone() }),
        Some(last_run(Some((1, "the disk is full")))),
        "not running; the last run began 2024-01-17T10:00:00Z, ended 2024-01-17T10:59:50Z with exit 1: \
         the disk is full",
    );
    // What an older version, or a command that fetches history, has left.
    check(
        Some(dead.clone()),
        None,
        "not running; last: run, was killed or lost power, last seen 2024-01-17T10:59:57Z",
    );
    check(
        Some(LeaseState { released: true, ..dead }),
        None,
        "not running; last: run, until 2024-01-17T10:59:57Z",
    );
}

#[test]
fn a_service_that_has_not_logged_in_yet_does_not_stream_and_says_when_it_may() {
    let mut findings = findings();
    // The process before has left this.
    findings.stream.as_mut().unwrap().epoch = lease().epoch - 1;
    findings.at = Some("logging in".to_owned());
    findings.logins.last = Some(findings.wall.plus(-20));
    findings.login_spacing = Duration::from_secs(61);
    let told = text(&findings, None);
    assert!(told.contains("\nstream    none yet; was interrupted when the process before ended\n"), "{told}");
    let next = findings.wall.plus(41);
    assert!(told.contains(&format!("\n          logging in, not before {next}\n")), "{told}");
    findings.logins.last = Some(findings.wall.plus(-61));
    assert!(text(&findings, None).contains("\n          logging in\n"));
}

#[test]
fn a_service_that_shows_no_sign_of_life_is_warned_about() {
    let mut findings = findings();
    assert!(!text(&findings, None).contains("no sign of life"));
    assert!(json(&findings).contains(r#""silent_s":null"#));
    findings.lease.as_mut().unwrap().read_at = Timestamp(1_705_489_197 + 85);
    let expected =
        "\n          WARN: no sign of life for 85 s, 20 s are long: it is frozen, or cannot write\n";
    assert!(text(&findings, None).contains(expected), "{}", text(&findings, None));
    assert!(json(&findings).contains(r#""silent_s":85"#));
}

#[test]
fn a_frozen_service_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let database = Some(format!("sqlite://{}", folder.path().join("c.db").display()));
    let flags = crate::config::Flags { config: None, database };
    let config = crate::config::load(None, &BTreeMap::new(), &flags).unwrap();
    let mut store = Store::open(&config.database).unwrap();
    let began = Timestamp(1_705_485_600);
    let _lease = store.acquire_lease("run", began).unwrap();
    let why = |after_s| find(&config, began.plus(after_s)).unwrap().readiness.why;
    assert!(!why(20).iter().any(|why| why.contains("sign of life")), "{:?}", why(20));
    assert_eq!(why(37).first().map(String::as_str), Some("no sign of life for 37 s"));
    let told = find(&config, began.plus(37)).unwrap();
    assert!(text(&told, None).contains("\nready     no: no sign of life for 37 s"), "{}", text(&told, None));
    let told: serde_json::Value = serde_json::from_str(&json(&told)).unwrap();
    assert_eq!(told["readiness"]["ready"], false);
    assert_eq!(told["readiness"]["why"][0], "no sign of life for 37 s");
}

#[test]
fn while_another_command_has_the_lease_the_last_run_is_told_too() {
    let mut findings = findings();
    findings.last_run = Some(last_run(Some((77, "IG refuses the credentials"))));
    assert!(!text(&findings, None).contains("the last run"), "it is the one that runs");
    findings.lease = Some(LeaseState { command: "backfill".to_owned(), epoch: 4, ..lease() });
    let told =
        "          the last run began 2024-01-17T10:00:00Z, ended 2024-01-17T10:59:50Z with exit 77: IG";
    assert!(text(&findings, None).contains(told), "{}", text(&findings, None));
    let told: serde_json::Value = serde_json::from_str(&json(&findings)).unwrap();
    let run = &told["last_run"];
    assert_eq!(
        (&run["exit"], &run["running"], &run["ended_at"]),
        (&json!(77), &json!(false), &json!(1_705_489_190))
    );
}

#[test]
fn where_ig_has_said_that_the_points_are_spent_none_are_left() {
    let mut findings = findings();
    findings.outlook.allowance.refusals = Some(Refusals { times: 1, last_at: Timestamp(1_705_489_000) });
    findings.outlook.purse.refused = Some(Refused::Wait);
    let expected =
        "allowance no data points left, as IG said on Wed 10:56; renewed Fri 2024-01-19 21:33 UTC\n";
    assert!(text(&findings, None).contains(expected), "{}", text(&findings, None));
    let told = |findings: &Findings| {
        let told: serde_json::Value = serde_json::from_str(&json(findings)).unwrap();
        (told["allowance"]["remaining"].clone(), told["allowance"]["refused"]["times"].clone())
    };
    assert_eq!(told(&findings), (json!(0), json!(1)));
    // Its word of a week that is over counts no more.
    findings.outlook.purse.refused = None;
    assert_eq!(told(&findings), (json!(999), json!(null)));
}

#[test]
fn what_was_asked_for_in_vain_says_when_it_is_asked_for_again() {
    let mut findings = findings();
    findings.outlook.again_at = Some(findings.wall.plus(90));
    let told = text(&findings, None);
    let expected = format!(
        "missing; nothing can be asked for now; what came in vain is, from {} on\n",
        findings.wall.plus(90)
    );
    assert!(told.contains(&expected), "{told}");
}

#[test]
fn a_terminal_of_80_columns_is_wide_enough() {
    let text = text(&findings(), Some(80));
    for line in text.lines() {
        assert!(line.trim_end().chars().count() <= 80, "{line}");
    }
    let folded = "allowance 999 of 10000 data points left (IG, Wed 08:26), 1000 kept for holes of\n          the last day";
    assert!(text.contains(folded), "{text}");
}

#[test]
fn where_nothing_was_found_out_nothing_is_told_of_it() {
    let mut findings = findings();
    assert!(text(&findings, None).contains("what was found out about IG"));
    findings.records.clear();
    findings.probes = Some(Probes::default());
    assert!(!text(&findings, None).contains("what was found out about IG"));
}

fn stale(pair: &str, last: Option<Timestamp>, by: i64, why: &str) -> PairReadiness {
    let (pair, timeframe) = (pair.parse().unwrap(), Timeframe::M5);
    let row = Freshness { pair, timeframe, last, expected_by: Timestamp(by) };
    PairReadiness { row, why: Some(why.to_owned()), unreached: None }
}

fn findings() -> Findings {
    let mut stream = StreamState { epoch: lease().epoch, since: 1_705_485_600, ..StreamState::default() };
    stream.enter(Phase::Interrupted, Some("connection closed".to_owned()));
    (stream.transport, stream.version) = (Some("http".to_owned()), Some("2.3.0".to_owned()));
    stream.refused.insert("EUR_CHF".to_owned(), "subscription refused: -1 Invalid account type".to_owned());
    let last_bar = Some(Timestamp(1_705_485_300));
    let seen = AllowanceSeen { remaining: 1_200, total: 10_000, expires_at: Timestamp(1_705_700_000) };
    let waiting = |feed, buckets, why| Waiting { feed: FeedIx(feed), timeframe: Timeframe::M5, buckets, why };
    let outlook = Outlook {
        now: Now { event: Timestamp(1_705_489_200), wall: Timestamp(1_705_489_200) },
        pairs: vec!["EURUSD".parse().unwrap(), "EURCHF".parse().unwrap()],
        plan: Plan {
            waiting: vec![waiting(0, 300, Why::Points), waiting(1, 40, Why::Incident)],
            ..Plan::default()
        },
        allowance: AllowanceState {
            seen: Some((seen, Timestamp(1_705_480_000))),
            spent_since: 201,
            ..AllowanceState::default()
        },
        reserve: 1_000,
        missing: [(("EURUSD".parse().unwrap(), Timeframe::M5), 340)].into(),
        ..Outlook::default()
    };
    Findings {
        now: Timestamp(1_705_489_200),
        wall: Timestamp(1_705_489_200),
        other_clock: None,
        last_run: None,
        database: "sqlite://c.db".to_owned(),
        spooled: Some(56),
        at: Some("waiting for IG: no connection".to_owned()),
        rooms: Failures {
            since: 1_705_480_000,
            failed: [(
                "stream".to_owned(),
                RoomFailures { restarts: 2, last_at: 1_705_489_000, why: "died".to_owned() },
            )]
            .into(),
        },
        http: Some(Place {
            pid: 4711,
            address: Some("127.0.0.1:8017".to_owned()),
            since: 1_705_480_000,
            error: Some("address in use".to_owned()),
            epoch: 3,
        }),
        lease: Some(lease()),
        standbys: vec![LeaseState { host: "tower".to_owned(), epoch: 0, ..lease() }],
        market: Market::at(&crate::domain::Calendar::forex(), Timestamp(1_705_489_200)),
        readiness: Readiness {
            why: vec!["56 facts wait in the spool for the database".to_owned()],
            pairs: vec![stale("EURCHF", None, 0, "there is no bar yet"), {
                let owed = "no bar of 2024-01-17T10:00:00Z: the stream was broken";
                stale("EURUSD", last_bar, 1_705_485_960, owed)
            }],
        },
        stream: Some(stream),
        probes: None,
        timeframes: vec![Timeframe::M5, Timeframe::M15],
        pairs: [
            ("EURUSD".parse().unwrap(), PairState { last_bar, missing: Some(3) }),
            ("EURCHF".parse().unwrap(), PairState::default()),
        ]
        .into(),
        breaks: vec![StreamBreak {
            pair: None,
            from: Timestamp(1_705_485_600),
            to: Timestamp(1_705_485_630),
            cause: "silent for 10s".to_owned(),
        }],
        records: vec![Record {
            environment: "demo".to_owned(),
            matched: 57,
            granted: Some("unfiltered".to_owned()),
        }],
        outlook,
        logins: Logins { last: Some(Timestamp(0)), failed: Failed::default() },
        login_spacing: Duration::from_secs(61),
        trouble: Some((Timestamp(1_705_489_000), "IG is in trouble: system.error".to_owned())),
    }
}

#[test]
fn people_read_what_stands_and_what_is_missing() {
    let text = text(&findings(), None);
    for expected in [
        "database  sqlite://c.db\nspool     56 facts wait until the database takes them; the ledger lacks them so far\n\
         service   run, pid 4711 on castle, running since 2024-01-17T10:00:00Z\n\
         \x20         waiting for IG: no connection\n\
         \x20         stream restarted 2 times, last 2024-01-17T10:56:40Z: died\n\
         http      not served on 127.0.0.1:8017 since 2024-01-17T08:26:40Z: address in use\n\
         standby   run, pid 4711 on tower since 2024-01-17T10:00:00Z\nmarket    open, closes Fri 2024-01-19 22:00 UTC\n",
        "ready     no: 56 facts wait in the spool for the database; \
         EUR_CHF 5: there is no bar yet (2 of 2 lack their newest bar)\n",
        "stream    interrupted since 2024-01-17T10:00:00Z, http, TLCP 2.3.0 (connection closed)\n",
        "          EUR_CHF is not streamed: subscription refused: -1 Invalid account type\n",
        "allowance 999 of 10000 data points left (IG, Wed 08:26), 1000 kept for holes of the last day; \
         renewed Fri 2024-01-19 21:33 UTC\n",
        "healing   340 5-minute buckets missing; nothing can be asked for now\n",
        "          held up since 2024-01-17T10:56:40Z: IG is in trouble: system.error\n",
        "          300 buckets wait for points, until Fri 2024-01-19 21:33 UTC; backfill and old holes",
        "          40 buckets wait because their incident has had its share of the week",
        "EUR_USD  2024-01-17 09:55  60 min           3\n",
        "EUR_CHF  -                      -           -\n",
        "  2024-01-17T10:00:00Z to 2024-01-17T10:00:30Z  every pair  silent for 10s\n",
        "  session recovery          not seen yet\n",
        "  demo account              rows granted: unfiltered; 57 of 200 inferred closes have matched REST\n",
    ] {
        assert!(text.contains(expected), "{expected:?} in\n{text}");
    }
}

#[test]
fn programs_read_the_same() {
    let told: serde_json::Value = serde_json::from_str(&json(&findings())).unwrap();
    assert_eq!(told["stream"]["phase"], "interrupted");
    assert_eq!(told["spool"]["facts"], 56);
    assert_eq!(told["http"]["error"], "address in use");
    assert_eq!((&told["lease"]["pid"], &told["lease"]["alive"]), (&json!(4711), &json!(true)));
    assert_eq!(told["standbys"][0]["host"], "tower");
    assert_eq!(told["market"]["state"], "open");
    assert_eq!(told["readiness"]["ready"], false);
    assert_eq!(told["readiness"]["pairs"][0]["expected_by"], json!(null));
    assert_eq!(told["readiness"]["pairs"][1]["expected_by"], 1_705_485_960);
    assert_eq!(told["timeframes"], json!(["5", "15"]));
    assert_eq!(told["pairs"][1]["last_timestamp"], 1_705_485_300);
    assert_eq!(told["pairs"][1]["age_s"], 3_600);
    assert_eq!(told["breaks"][0]["cause"], "silent for 10s");
    assert_eq!(told["probes"]["loops"], 0);
    assert_eq!(told["accounts"][0]["matched"], 57);
    assert_eq!(told["allowance"]["remaining"], 999);
    assert_eq!(told["allowance"]["renews_at"], 1_705_700_000);
    assert_eq!(told["waiting"]["buckets"], 340);
    assert_eq!(told["waiting"]["by_pair"][1]["why"], "incident_cap");
}

#[test]
fn what_programs_read_is_as_the_document_says() {
    let document = serde_json::from_str(include_str!("../../api/openapi.json")).unwrap();
    let check = |findings: &Findings| {
        let told = serde_json::from_str(&json(findings)).unwrap();
        crate::api::document::fits_named(&document, "Status", &told);
    };
    let mut all = findings();
    all.last_run = Some(last_run(Some((77, "IG refuses the credentials"))));
    all.outlook.allowance.refusals = Some(Refusals { times: 1, last_at: Timestamp(1_705_489_000) });
    all.probes = Some(Probes { keepalive_ms: Some(5_000), ..Probes::default() });
    check(&all);
    check(&Findings {
        spooled: None,
        lease: None,
        standbys: Vec::new(),
        stream: None,
        at: None,
        http: None,
        logins: Logins::default(),
        trouble: None,
        ..findings()
    });
}

#[test]
fn bars_of_a_time_to_come_are_told_of_first() {
    assert!(!text(&findings(), None).contains("this machine's clock"));
    let ahead = Findings { other_clock: Some(OtherClock::Ahead(3 * 86_400)), ..findings() };
    let told = text(&ahead, None);
    let expected = "          WARN: the newest bar ends 3 days after this machine's clock: a simulated market goes by \
         its own with CANDLEKEEP_CLOCK=stream; else the clock is wrong";
    assert_eq!(told.lines().nth(1), Some(expected), "{told}");
    assert!(json(&ahead).contains(r#""ahead_s":259200"#), "{}", json(&ahead));
    let late = Findings { other_clock: Some(OtherClock::Late(700 * 86_400)), ..findings() };
    let expected = "          WARN: the newest bar was first stored 700 days after its end: a simulated market goes by its own \
         clock, with CANDLEKEEP_CLOCK=stream; else the clock was wrong then";
    assert_eq!(text(&late, None).lines().nth(1), Some(expected));
    assert!(json(&late).contains(r#""stored_late_s":60480000"#), "{}", json(&late));
}

#[test]
fn what_an_earlier_process_of_the_same_number_has_left_is_not_taken_for_the_present_ones() {
    let dir = tempfile::tempdir().unwrap();
    let database = Some(format!("sqlite://{}", dir.path().join("c.db").display()));
    let config =
        crate::config::load(None, &BTreeMap::new(), &crate::config::Flags { config: None, database })
            .unwrap();
    let mut store = Store::open(&config.database).unwrap();
    let now = Clock::system().wall();
    let mut told_of = |epoch: i64| {
        let place = Place { address: Some("127.0.0.1:8017".to_owned()), epoch, ..Place::off(now) };
        store.set_setting(place::SETTING, &place.text()).unwrap();
        store.set_setting(SETTING_AT, &format!("{epoch} logging in")).unwrap();
        let lease = store.acquire_lease("run", now).unwrap();
        let findings = find(&config, now).unwrap();
        assert_eq!(findings.lease.map(|lease| (lease.alive, lease.epoch)), Some((true, lease.epoch())));
        (lease.epoch(), findings.http.is_some(), findings.at.is_some())
    };
    assert_eq!([told_of(1), told_of(1), told_of(3)], [(1, true, true), (2, false, false), (3, true, true)]);
}

#[test]
fn failed_logins_are_told_with_when_the_next_may_be() {
    let mut findings = findings();
    assert!(!text(&findings, None).contains("login "), "all is well");
    let why = "IG is in trouble".to_owned();
    findings.logins.failed = Failed { count: 3, distance_s: 244, why, ..Failed::default() };
    let expected = "login     the last 3 failed: IG is in trouble; the next not before 1970-01-01T00:04:04Z";
    assert!(text(&findings, None).contains(expected), "{}", text(&findings, None));
    assert!(json(&findings).contains(r#""login":{"failed":3,"last":0,"next":244}"#), "{}", json(&findings));
    // Once the last has led to a stream, and no delay is owed, there is nothing to be alarmed at.
    let stream = findings.stream.as_mut().unwrap();
    // By the process's clock, behind the one that the lease goes by.
    (stream.phase, stream.since) = (Phase::Streaming, lease().acquired_at.0 - 1);
    assert!(!text(&findings, None).contains("login "), "{}", text(&findings, None));
    findings.logins.last = Some(findings.wall.plus(-243));
    assert!(text(&findings, None).contains("login     the last 3 failed"), "a delay is owed");
    findings.logins.last = Some(findings.wall.plus(-244));
    assert!(!text(&findings, None).contains("login "), "none is");
    let told = text(&findings, None);
    assert!(told.contains("\nstream    streaming since 2024-01-17T09:59:59Z"), "{told}");
    findings.stream.as_mut().unwrap().epoch -= 1;
    let told = text(&findings, None);
    assert!(told.contains("login     the last 3 failed"), "it was another process's stream");
    assert!(told.contains("\nstream    none yet; was streaming when the process before ended\n"), "{told}");
}
