//! What the session does and leaves, with a database and a server that says what it is told to.

use super::*;
use crate::domain::Timestamp;
use crate::ig::rest::{fake, http_client};
use crate::ig::session::failed::{self, Failed};
use crate::ig::session::logins::SETTING_LAST_LOGIN;
use crate::store::{DatabaseUrl, Store};
use crate::supervisor::{Alert, Room};

const LOGIN: &str = r#"{"currentAccountId":"ABC12","lightstreamerEndpoint":"http://x"}"#;
const SESSION: &str = r#"{"accountId":"ABC12"}"#;
const DISABLED: &str = r#"{"errorCode":"error.security.api-key-disabled"}"#;
const BEGIN: Timestamp = Timestamp(1_700_000_000);
const SPACING: Duration = Duration::from_secs(61);

fn settings(base: &str, login_spacing: Duration) -> SessionSettings {
    let secret = || Secret::new("secret");
    SessionSettings {
        credentials: Login { api_key: secret(), username: secret(), password: secret() },
        api_url: base.to_owned(),
        account_id: None,
        version: 2,
        login_spacing,
        retry_refused: true,
    }
}

/// A session of a process that has just started.
fn session(store: &StoreHandle, clock: &Clock, settings: SessionSettings) -> Rc<Session> {
    session_of(store, clock, settings, &Alarm::new().0)
}

/// The same, which tells of what ends the process.
fn session_of(store: &StoreHandle, clock: &Clock, settings: SessionSettings, alarm: &Alarm) -> Rc<Session> {
    let rest = RestClient::new(http_client(), &settings.api_url, Secret::new("secret"));
    let lifeline = Lifeline::alone(Room::Session, alarm);
    SessionActor::new(rest, store.clone(), clock.clone(), settings, Desk::default(), lifeline).session.clone()
}

/// A database and an IG that answers so, one request after the other.
struct Stage {
    store: StoreHandle,
    clock: Clock,
    base: String,
    asked: Arc<std::sync::Mutex<Vec<String>>>,
    _dir: tempfile::TempDir,
}

impl Stage {
    fn new<'a>(answers: impl IntoIterator<Item = &'a (u16, &'a str)>) -> Stage {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&DatabaseUrl::sqlite(dir.path().join("c.db"))).unwrap();
        let (store, _) = StoreHandle::spawn("session-test", store).unwrap();
        let answers = answers.into_iter().map(|(status, body)| fake::answer(*status, body));
        let (base, asked) = fake::server(answers.collect());
        Stage { store, clock: Clock::simulated(BEGIN, 0), base, asked, _dir: dir }
    }

    /// A session of a process that has just started.
    fn session(&self, spacing: Duration) -> Rc<Session> {
        session(&self.store, &self.clock, settings(&self.base, spacing))
    }

    async fn logins(&self) -> Logins {
        self.store.run(Logins::read).await.unwrap()
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn asked_to_log_in(&self) -> usize {
        self.asked().iter().filter(|asked| *asked == "POST /session").count()
    }
}

/// How often a day of processes that each live for one attempt asks for a login, with IG answering so.
async fn logins_a_day(answers: &[(u16, &str)]) -> usize {
    let stage = Stage::new(answers.iter().cycle().take(1_000));
    while stage.clock.wall().since(BEGIN) < 24 * 3_600 {
        let before = stage.asked_to_log_in();
        let told = stage.session(SPACING).tokens(true).await.unwrap_err();
        assert_eq!(stage.asked_to_log_in(), before + 1, "{told:?}");
        // Which would be remembered, and end the service for good.
        assert!(!matches!(told, IgError::CredentialsRefused(_)), "{told:?}");
        let wait = stage.logins().await.wait(SPACING, stage.clock.wall());
        assert!(wait >= SPACING, "{wait:?}");
        // Whoever starts meanwhile leaves IG alone, and says until when.
        if wait > SPACING {
            let early = stage.session(SPACING).tokens(true).await.unwrap_err();
            assert_eq!(early.pause(), wait, "{early}");
            assert!(early.to_string().ends_with(&told.to_string()), "{early}");
            assert_eq!(stage.asked_to_log_in(), before + 1);
        }
        stage.clock.advance(wait);
    }
    stage.asked_to_log_in()
}

#[actix::test]
async fn whatever_a_day_of_logins_fails_with_there_are_few() {
    let dead = r#"{"errorCode":"error.security.account-token-invalid"}"#;
    let code = |code: &str| format!(r#"{{"errorCode":"{code}"}}"#);
    for (status, answer) in [
        (401, code("error.security.generic")),
        (403, code("error.public-api.exceeded-api-key-allowance")),
        (403, code("error.public-api.exceeded-account-allowance")),
        (403, code("some.new.code")),
        (429, String::new()),
        (500, code("system.error")),
        (500, code("error.security.get.session.timeout")),
        (503, "<html>maintenance</html>".to_owned()),
        (504, code("error.security.authentication.timeout")),
        (200, "{}".to_owned()),
        (200, "<html>welcome to this network</html>".to_owned()),
        (200, String::new()),
        // Pages of whatever stands in between, and codes that are none of IG's.
        (400, "<html>bad request</html>".to_owned()),
        (400, r#"{"errorCode":""}"#.to_owned()),
        (401, "<html>who are you? api-key-invalid</html>".to_owned()),
        (401, r#"{"message":"Unauthorized"}"#.to_owned()),
        (401, String::new()),
        (403, "<html>blocked</html>".to_owned()),
        (404, "<html>not here</html>".to_owned()),
        (407, "<html>proxy</html>".to_owned()),
    ] {
        let logins = logins_a_day(&[(status, &answer)]).await;
        println!("{status} {answer}: {logins} logins a day");
        assert!((40..=65).contains(&logins), "{status} {answer}: {logins}");
    }
    // A login that is granted with tokens that are dead.
    assert!(logins_a_day(&[(200, LOGIN), (401, dead)]).await <= 65);
}

#[actix::test]
async fn a_day_of_processes_that_die_after_their_login_has_few_logins() {
    let stage = Stage::new([(200, LOGIN), (200, SESSION)].iter().cycle().take(1_000));
    while stage.clock.wall().since(BEGIN) < 24 * 3_600 {
        stage.session(SPACING).tokens(true).await.unwrap();
        let wait = stage.logins().await.wait(SPACING, stage.clock.wall());
        assert!(wait >= SPACING, "{wait:?}");
        stage.clock.advance(wait);
    }
    let logins = stage.asked_to_log_in();
    assert!((40..=65).contains(&logins), "{logins}");
}

#[actix::test]
async fn what_a_granted_login_leads_to_decides_whether_those_before_count() {
    let granted = [(200, LOGIN), (200, SESSION)];
    let busy = (403, r#"{"errorCode":"error.public-api.exceeded-api-key-allowance"}"#);
    let stage = Stage::new(granted.iter().chain(&granted).chain([&busy]).chain(&granted));
    let log_in = async || {
        stage.clock.advance(stage.logins().await.wait(SPACING, stage.clock.wall()));
        stage.session(SPACING).tokens(true).await
    };
    let lasts = async || {
        stage.store.run(Logins::note_lasting).await.unwrap();
        stage.logins().await.failed
    };
    log_in().await.unwrap();
    log_in().await.unwrap();
    let failed = stage.logins().await.failed;
    assert_eq!((failed.count, failed.granted), (2, true));
    assert!(failed.distance(SPACING) > SPACING);
    assert_eq!(lasts().await, Failed::default());
    // One that has failed since speaks for itself.
    log_in().await.unwrap_err();
    let failed = lasts().await;
    assert_eq!((failed.count, failed.granted), (1, false));
    log_in().await.unwrap();
    assert_eq!(stage.logins().await.failed.count, 2);
    assert_eq!(lasts().await, Failed::default());
}

#[actix::test]
async fn a_clock_set_back_does_not_hold_a_login_up() {
    let stage = Stage::new(&[(200, LOGIN), (200, SESSION)]);
    let failed = Failed { count: 7, distance_s: 1_800, ..Failed::default() };
    let (text, future) = (failed.write(), BEGIN.plus(86_400).0.to_string());
    stage.store.run(move |store| store.set_setting(failed::SETTING, &text)).await.unwrap();
    stage.store.run(move |store| store.set_setting(SETTING_LAST_LOGIN, &future)).await.unwrap();
    let session = stage.session(SPACING);
    let early = session.tokens(true).await.unwrap_err();
    assert_eq!(early.pause().as_secs(), 1_800);
    stage.clock.advance(Duration::from_secs(1_800));
    session.tokens(true).await.unwrap();
    assert_eq!(stage.asked(), ["POST /session", "GET /session"]);
}

#[actix::test]
async fn a_refusal_stands_where_the_database_takes_no_note_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.db");
    let store = Store::open(&DatabaseUrl::sqlite(path.clone())).unwrap();
    let (store, _) = StoreHandle::spawn("session-test", store).unwrap();
    // It takes the note of a login that is begun, and none of what came of it.
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute_batch(&format!(
            "CREATE TRIGGER full BEFORE INSERT ON settings \
             WHEN NEW.key = '{SETTING_REFUSED}' OR NEW.key = '{}' AND NEW.value NOT LIKE '%not known%' \
             BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END",
            failed::SETTING
        ))
        .unwrap();
    let refusal = r#"{"errorCode":"error.security.invalid-details"}"#;
    let (base, asked) = fake::server(vec![fake::answer(401, refusal)]);
    let (alarm, mut alerts) = Alarm::new();
    let rest = RestClient::new(http_client(), &base, Secret::new("secret"));
    let (settings, lifeline) = (settings(&base, Duration::ZERO), Lifeline::alone(Room::Session, &alarm));
    let actor = SessionActor::new(rest, store.clone(), Clock::system(), settings, Desk::default(), lifeline);
    let told = actor.session.tokens(true).await.unwrap_err();
    assert!(matches!(&told, IgError::CredentialsRefused(code) if code.contains("invalid-details")), "{told}");
    let alert = alerts.try_recv();
    assert!(matches!(&alert, Ok(Alert::Exit { code: Exit::CredentialsRefused, .. })), "{told}");
    assert_eq!(*asked.lock().unwrap(), ["POST /session"]);
    // Neither note is there: it was the database that failed, twice.
    let (refused, failed) = (
        store.run(|store| store.setting(SETTING_REFUSED)).await.unwrap(),
        store.run(Logins::read).await.unwrap().failed,
    );
    assert_eq!((refused, failed.count), (None, 1));
    assert!(!failed.why.contains("invalid-details"), "{}", failed.why);
}

#[actix::test]
async fn nobody_logs_in_again_after_the_logout() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&DatabaseUrl::sqlite(dir.path().join("c.db"))).unwrap();
    let (store, _) = StoreHandle::spawn("session-test", store).unwrap();
    let (base, asked) = fake::server([LOGIN, SESSION, "", LOGIN, SESSION].map(fake::ok).to_vec());
    let (alarm, _) = Alarm::new();
    let rest = RestClient::new(http_client(), &base, Secret::new("secret"));
    let (settings, lifeline) = (settings(&base, Duration::ZERO), Lifeline::alone(Room::Session, &alarm));
    let desk = Desk::default();
    let session = SessionActor::new(rest, store.clone(), Clock::system(), settings, desk, lifeline).start();
    session.send(GetTokens { validate: false }).await.unwrap().unwrap();
    // Asked for while the logout is under way, as by a request for history that was about to be made.
    let (_, late) = tokio::join!(session.send(LogOut), session.send(GetTokens { validate: false }));
    assert!(late.unwrap().is_err());
    assert!(session.send(GetTokens { validate: true }).await.unwrap().is_err());
    assert_eq!(*asked.lock().unwrap(), ["POST /session", "GET /session", "DELETE /session"]);
}

#[actix::test]
async fn who_waits_for_a_turn_to_log_in_hears_of_the_end_at_once_and_never_does() {
    let stage = Stage::new(&[(200, LOGIN), (200, SESSION)]);
    stage.session(SPACING).tokens(true).await.unwrap();
    let last = stage.logins().await.last;
    // The next process.
    let (settings, desk) = (settings(&stage.base, SPACING), Desk::default());
    let rest = RestClient::new(http_client(), &stage.base, Secret::new("secret"));
    let lifeline = Lifeline::alone(Room::Session, &Alarm::new().0);
    let (store, clock) = (stage.store.clone(), stage.clock.clone());
    let session = SessionActor::new(rest, store, clock, settings, desk.clone(), lifeline).start();
    let asking = session.send(GetTokens { validate: false });
    let ending = async {
        // Each question to the database is answered in its turn: it has long asked its own then.
        for _ in 0..500 {
            stage.logins().await;
            tokio::task::yield_now().await;
        }
        assert!(desk.state.try_lock().is_err(), "it waits");
        session.send(LogOut).await.unwrap();
    };
    let both = async { tokio::join!(asking, ending) };
    let (told, ()) = tokio::time::timeout(SPACING / 2, both).await.expect("long before its turn");
    assert!(told.unwrap().is_err());
    assert_eq!(stage.asked_to_log_in(), 1);
    assert_eq!(stage.logins().await.last, last);
}

#[actix::test]
async fn a_login_that_never_reached_ig_does_not_count() {
    let stage = Stage::new(&[]);
    // Nobody listens there.
    let session = session(&stage.store, &stage.clock, settings("http://127.0.0.1:1", SPACING));
    for _ in 0..3 {
        let told = session.tokens(true).await.unwrap_err();
        assert!(matches!(told, IgError::Unreachable(_)), "{told}");
    }
    let logins = stage.logins().await;
    assert_eq!((logins.last, logins.failed), (None, Failed::default()));
}

/// A session that logs in and then has its tokens tested, with IG answering so; what came of
/// the test, what was asked, and with which codes the process was asked to end.
async fn tested(answers: &[(u16, &str)]) -> (Result<u64, IgError>, Vec<String>, Vec<Exit>) {
    let stage = Stage::new([(200, LOGIN), (200, SESSION)].iter().chain(answers));
    let (alarm, mut alerts) = Alarm::new();
    let session = session_of(&stage.store, &stage.clock, settings(&stage.base, Duration::ZERO), &alarm);
    assert_eq!(session.tokens(true).await.unwrap().generation, 1);
    let told = session.tokens(true).await.map(|tokens| tokens.generation);
    if told.is_err() {
        let asked_before = stage.asked().len();
        assert!(session.tokens(true).await.is_err());
        assert_eq!(stage.asked().len(), asked_before, "refused credentials are tried once");
    }
    let mut exits = Vec::new();
    while let Ok(alert) = alerts.try_recv() {
        if let Alert::Exit { code, .. } = alert {
            exits.push(code);
        }
    }
    (told, stage.asked()[2..].to_vec(), exits)
}

#[actix::test]
async fn a_key_that_is_refused_between_logins_ends_the_process() {
    let (told, asked, exits) = tested(&[(403, DISABLED), (403, DISABLED)]).await;
    assert!(matches!(told, Err(IgError::CredentialsRefused(_))), "{told:?}");
    assert_eq!(asked, ["GET /session", "POST /session"]);
    // The second is that of refused credentials, which are not tried again.
    assert_eq!(exits, [Exit::CredentialsRefused; 2]);
}

#[actix::test]
async fn tokens_whose_test_has_an_answer_that_nobody_expects_are_replaced() {
    for (status, answer) in [
        (400, r#"{"errorCode":"some.new.code"}"#),
        (403, r#"{"errorCode":"some.new.code"}"#),
        (403, "<html>blocked</html>"),
        (404, r#"{"errorCode":"invalid.url"}"#),
        (200, "<html>welcome to this network</html>"),
        (200, r#"{"account":"ABC12"}"#),
    ] {
        let (told, asked, exits) = tested(&[(status, answer), (200, LOGIN), (200, SESSION)]).await;
        assert_eq!((told, exits), (Ok(2), vec![]), "{status} {answer}");
        assert_eq!(asked, ["GET /session", "POST /session", "GET /session"], "{status} {answer}");
    }
}

#[actix::test]
async fn tokens_whose_test_tells_of_trouble_are_kept() {
    for (status, answer) in [
        (500, r#"{"errorCode":"system.error"}"#),
        (503, "<html>maintenance</html>"),
        (403, r#"{"errorCode":"error.public-api.exceeded-api-key-allowance"}"#),
        (429, ""),
    ] {
        let stage = Stage::new(&[(200, LOGIN), (200, SESSION), (status, answer), (200, SESSION)]);
        let session = stage.session(Duration::ZERO);
        session.tokens(true).await.unwrap();
        session.tokens(true).await.unwrap_err();
        assert_eq!(session.tokens(true).await.unwrap().generation, 1, "{status} {answer}");
    }
}

#[actix::test]
async fn a_test_of_tokens_that_is_refused_leaves_the_verdict_to_a_login() {
    let (told, asked, exits) = tested(&[(403, DISABLED), (200, LOGIN), (200, SESSION)]).await;
    assert_eq!(told, Ok(2));
    assert_eq!(asked, ["GET /session", "POST /session", "GET /session"]);
    assert_eq!(exits, []);
}
