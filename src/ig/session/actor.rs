//! SessionActor: the one login.
//!
//! Everyone asks it for tokens; it logs in when there are none, switches to the wanted account,
//! refreshes what expires, and ends the session at the end. Requests are served one after the
//! other, so a storm of complaints about dead tokens leads to one login. A restart of this actor
//! loses nothing: the tokens lie on a [`Desk`] outside, and are tested before they are used again.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::Mutex;

use super::complaints::Complaints;
use super::failed::{self, Failed};
use super::fingerprint::{self, in_database};
use super::tokens::{Bearer, Pair, REFRESH_EVERY, Tokens, login_wait};
use crate::clock::Clock;
use crate::config::Login;
use crate::domain::Timestamp;
use crate::exit::Exit;
use crate::failpoint;
use crate::ig::error::IgError;
use crate::ig::models::OauthToken;
use crate::ig::rest::RestClient;
use crate::messages::{GetTokens, LogOut, TokensRefused};
use crate::secret::Secret;
use crate::store::{Store, StoreError, StoreHandle};
use crate::supervisor::{Alarm, Lifeline, Pulse, watched_over};

/// A login takes so long at most, beside the distance that it keeps from the last: a few calls to IG, each
/// with its own limit.
const LOGGED_IN_WITHIN: Duration = Duration::from_secs(240);
/// How long a logout waits for a login or a test of tokens that is under way.
const LOG_OUT_WAIT: Duration = Duration::from_secs(2);
/// Where the time of the last login is kept, epoch seconds.
pub const SETTING_LAST_LOGIN: &str = "session.last_login";
/// Where the fingerprint of credentials that IG has refused is kept.
pub const SETTING_REFUSED: &str = "session.refused_fingerprint";

/// What the session needs to know.
#[derive(Clone)]
pub struct SessionSettings {
    /// API key, user name and password.
    pub credentials: Login,
    /// Base address, for the fingerprint.
    pub api_url: String,
    /// The account to stream on; `None`: the one the login lands on.
    pub account_id: Option<String>,
    /// 2 or 3.
    pub version: u8,
    /// Distance between logins.
    pub login_spacing: Duration,
    /// Try credentials again that IG has refused.
    pub retry_refused: bool,
}

/// Logs in and hands out tokens.
pub struct SessionActor {
    session: Rc<Session>,
    _lifeline: Lifeline,
}

struct Session {
    rest: RestClient,
    store: StoreHandle,
    clock: Clock,
    settings: SessionSettings,
    alarm: Alarm,
    pulse: Pulse,
    /// Refused credentials may be tried once more.
    retry_refused: Cell<bool>,
    state: Desk,
}

/// The tokens, which outlive the actor: one that is built anew tests them, which costs no login. Clones
/// are one, and whoever speaks to IG holds it, so that two actors never log in side by side.
#[derive(Clone, Default)]
pub struct Desk(Rc<Mutex<State>>);

impl Desk {
    /// Has the tokens tested before they are used again. Where somebody holds them they are in use.
    fn mistrust(&self) {
        if let Ok(mut state) = self.0.try_lock() {
            state.suspect = state.tokens.is_some();
        }
    }
}

#[derive(Default)]
struct State {
    tokens: Option<Arc<Tokens>>,
    generation: u64,
    /// IG complained about the current tokens.
    suspect: bool,
    complaints: Complaints,
}

impl SessionActor {
    /// An actor that has not logged in yet.
    pub fn new(
        rest: RestClient,
        store: StoreHandle,
        clock: Clock,
        settings: SessionSettings,
        state: Desk,
        lifeline: Lifeline,
    ) -> SessionActor {
        let retry_refused = Cell::new(settings.retry_refused);
        let (alarm, pulse) = (lifeline.alarm().clone(), lifeline.pulse().clone());
        state.mistrust();
        let session = Session { rest, store, clock, settings, alarm, pulse, retry_refused, state };
        SessionActor { session: Rc::new(session), _lifeline: lifeline }
    }
}

impl Actor for SessionActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if self.session.settings.version == 3 {
            ctx.run_interval(REFRESH_EVERY, |act, ctx| {
                let session = act.session.clone();
                ctx.spawn(async move { session.keep_fresh().await }.into_actor(act));
            });
        }
    }
}

watched_over!(SessionActor);

impl Handler<GetTokens> for SessionActor {
    // Ends with the actor, so that nobody who hangs holds the desk for ever.
    type Result = ResponseActFuture<Self, Result<Arc<Tokens>, IgError>>;

    fn handle(&mut self, GetTokens { validate }: GetTokens, _: &mut Self::Context) -> Self::Result {
        let session = self.session.clone();
        Box::pin(async move { session.tokens(validate).await }.into_actor(self))
    }
}

impl Handler<TokensRefused> for SessionActor {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, refused: TokensRefused, _: &mut Self::Context) -> Self::Result {
        let session = self.session.clone();
        let noting = async move {
            let mut state = session.state.0.lock().await;
            if state.generation == refused.generation {
                state.suspect = true;
                if state.complaints.is_believed(refused.certain, session.clock.monotonic()) {
                    state.tokens = None;
                }
            }
        };
        Box::pin(noting.into_actor(self))
    }
}

impl Handler<LogOut> for SessionActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: LogOut, _: &mut Self::Context) -> Self::Result {
        let session = self.session.clone();
        Box::pin(async move {
            // A login under way, which may be waiting for its turn, has no session to end yet.
            let state = tokio::time::timeout(LOG_OUT_WAIT, session.state.0.lock()).await;
            let tokens = state.ok().and_then(|mut state| state.tokens.take());
            if let Some(tokens) = tokens {
                match session.rest.log_out(&tokens).await {
                    Ok(()) => log::info!("logged out"),
                    Err(error) => log::warn!(error:% = error; "could not log out"),
                }
            }
        })
    }
}

impl Session {
    /// Tokens that work, as far as is known without asking or, with `validate`, by asking.
    async fn tokens(&self, validate: bool) -> Result<Arc<Tokens>, IgError> {
        let mut state = self.state.0.lock().await;
        self.pulse.step(LOGGED_IN_WITHIN + self.settings.login_spacing);
        failpoint::in_task("session.tokens").await;
        let tokens = self.tokens_of(&mut state, validate).await;
        self.pulse.rest();
        tokens
    }

    async fn tokens_of(&self, state: &mut State, validate: bool) -> Result<Arc<Tokens>, IgError> {
        if let Some(tokens) = state.tokens.clone() {
            match self.still_good(state, tokens, validate).await {
                Ok(tokens) => return Ok(tokens),
                // Whether the credentials themselves are refused is for a login to say, which knows
                // what follows then.
                Err(
                    error @ (IgError::Unauthorized(_)
                    | IgError::CredentialsRefused(_)
                    | IgError::Misconfigured(_)),
                ) => {
                    log::info!(error:% = error; "tokens have ended, logging in again");
                    state.tokens = None;
                }
                Err(error) => return Err(error),
            }
        }
        let tokens = Arc::new(self.log_in(state.generation + 1).await?);
        (state.tokens, state.generation, state.suspect) = (Some(tokens.clone()), tokens.generation, false);
        Ok(tokens)
    }

    async fn still_good(
        &self,
        state: &mut State,
        mut tokens: Arc<Tokens>,
        validate: bool,
    ) -> Result<Arc<Tokens>, IgError> {
        let now = self.clock.monotonic();
        if tokens.is_old(now) {
            return Err(IgError::Unauthorized("planned renewal".to_owned()));
        }
        if tokens.needs_refresh(now) {
            tokens = self.refresh(state, &tokens).await?;
        }
        if validate || state.suspect {
            tokens = self.validate(&tokens).await?;
            state.tokens = Some(tokens.clone());
            state.suspect = false;
        }
        Ok(tokens)
    }

    /// Asks IG whether the tokens work. With a bearer token, the pair that streaming needs is
    /// fetched anew, since the bearer's life says nothing of the pair's.
    async fn validate(&self, tokens: &Arc<Tokens>) -> Result<Arc<Tokens>, IgError> {
        let Some(bearer) = &tokens.bearer else {
            self.rest.session(tokens).await?;
            return Ok(tokens.clone());
        };
        let (info, pair) = self.rest.fetch_session_tokens(bearer, &tokens.account_id).await?;
        let pair = if info.account_id == tokens.account_id {
            pair
        } else {
            self.switch(&pair, &tokens.account_id).await?
        };
        Ok(Arc::new(Tokens { pair, ..tokens.as_ref().clone() }))
    }

    /// Renews the bearer token. A refresh token that IG no longer knows means a new login.
    async fn refresh(&self, state: &mut State, tokens: &Tokens) -> Result<Arc<Tokens>, IgError> {
        let Some(bearer) = &tokens.bearer else { return Ok(Arc::new(tokens.clone())) };
        let answer = match self.rest.refresh(&bearer.refresh).await {
            Err(IgError::Refused(code) | IgError::Malformed(code)) => Err(IgError::Unauthorized(code)),
            other => other,
        }?;
        let renewed = Arc::new(Tokens { bearer: Some(self.bearer(answer)), ..tokens.clone() });
        state.tokens = Some(renewed.clone());
        log::debug!("refreshed the access token");
        Ok(renewed)
    }

    /// Keeps a version 3 session alive while nobody asks for tokens.
    async fn keep_fresh(&self) {
        let mut state = self.state.0.lock().await;
        let Some(tokens) = state.tokens.clone() else { return };
        self.pulse.step(LOGGED_IN_WITHIN);
        let refreshed = self.refresh(&mut state, &tokens).await;
        self.pulse.rest();
        match refreshed {
            Ok(_) => {}
            Err(IgError::Unauthorized(_)) => state.tokens = None,
            Err(error) => log::warn!(error:% = error; "could not refresh the access token"),
        }
    }

    fn bearer(&self, token: OauthToken) -> Bearer {
        let seconds = token.expires_in.seconds().filter(|seconds| seconds.is_finite()).unwrap_or(60.0);
        Bearer {
            access: Secret::new(token.access_token),
            refresh: Secret::new(token.refresh_token),
            expires_at: self.clock.monotonic() + Duration::from_secs_f64(seconds.clamp(0.0, 86_400.0)),
        }
    }

    /// Logs in. Where only an operator can help, the process is to end.
    async fn log_in(&self, generation: u64) -> Result<Tokens, IgError> {
        let result = self.try_log_in(generation).await;
        match &result {
            Err(error @ IgError::CredentialsRefused(_)) => {
                self.alarm.exit(Exit::CredentialsRefused, error.to_string());
            }
            Err(error @ IgError::Misconfigured(_)) => {
                self.alarm.exit(Exit::Configuration, error.to_string());
            }
            // Whoever asked for tokens tells of it, and when it tries again.
            Err(error) => log::debug!(error:% = error; "login failed"),
            Ok(tokens) => log::info!(
                version = self.settings.version,
                account_type = tokens.account_type.as_deref().unwrap_or("unknown");
                "logged in"
            ),
        }
        result
    }

    async fn try_log_in(&self, generation: u64) -> Result<Tokens, IgError> {
        let fingerprint = self.check_not_refused_before().await?;
        let before = self.wait_for_turn().await?;
        let result = match self.settings.version {
            3 => self.log_in_v3(generation).await,
            _ => self.log_in_v2(generation).await,
        };
        let result = match result {
            Ok(tokens) => match stays_in_tls(&self.settings.api_url, tokens.clone()) {
                Err(error) => {
                    // The session that IG has made is of no use to anybody.
                    let _ = self.rest.log_out(&tokens).await;
                    Err(error)
                }
                kept => kept,
            },
            failed => failed,
        };
        match &result {
            Ok(_) => self.note_success().await.unwrap_or_else(|error| {
                // The login is made, and is not thrown away for a note.
                log::warn!(error:% = error; "that these credentials work now could not be noted");
            }),
            Err(IgError::CredentialsRefused(_)) => {
                self.retry_refused.set(false);
                self.save(SETTING_REFUSED, fingerprint).await.unwrap_or_else(|error| {
                    log::warn!(error:% = error; "the next process will not know that these credentials were refused");
                });
            }
            // No login was made, so the next need not keep its distance from it.
            Err(IgError::Unreachable(_)) => self.note(&before).await.unwrap_or_else(|error| {
                log::warn!(error:% = error; "that no login was made could not be noted");
            }),
            Err(_) => {}
        }
        if let Err(error) = &result
            && !matches!(error, IgError::Unreachable(_))
        {
            // What IG has answered stands, whatever becomes of the note.
            self.note_failure(error).await.unwrap_or_else(|error| {
                log::warn!(error:% = error; "why a login failed could not be noted");
            });
        }
        result
    }

    /// Keeps why a login has failed; counted it is already.
    async fn note_failure(&self, error: &IgError) -> Result<(), IgError> {
        let failed = self.logins().await?.failed;
        self.save(failed::SETTING, Failed { why: error.to_string(), ..failed }.write()).await
    }

    async fn note_success(&self) -> Result<(), IgError> {
        self.save(SETTING_REFUSED, String::new()).await?;
        self.save(failed::SETTING, String::new()).await
    }

    async fn log_in_v2(&self, generation: u64) -> Result<Tokens, IgError> {
        let (answer, pair) = self.rest.log_in_v2(&self.settings.credentials).await?;
        // IG may hand out cached tokens that are dead already; only a call with them tells.
        self.rest.session_of(&pair).await.map_err(after_login)?;
        let account_id = answer.current_account_id;
        let type_of = |id: &str| {
            let account = answer.accounts.iter().find(|account| account.account_id == id);
            account.and_then(|account| account.account_type.clone())
        };
        let (account_type, landed) =
            (type_of(&account_id).or(answer.account_type.clone()), account_id.clone());
        let mut tokens = Tokens {
            generation,
            pair,
            bearer: None,
            account_id,
            account_type,
            lightstreamer_endpoint: answer.lightstreamer_endpoint,
            timezone_offset_s: offset_s(answer.timezone_offset),
            since: self.clock.monotonic(),
        };
        if let Some(wanted) = self.settings.account_id.as_ref().filter(|wanted| **wanted != landed) {
            tokens.pair = self.switch(&tokens.pair, wanted).await?;
            tokens.account_type = type_of(wanted);
            tokens.account_id.clone_from(wanted);
        }
        Ok(tokens)
    }

    async fn log_in_v3(&self, generation: u64) -> Result<Tokens, IgError> {
        let answer = self.rest.log_in_v3(&self.settings.credentials).await?;
        let bearer = self.bearer(answer.oauth_token);
        let account_id = self.settings.account_id.clone().unwrap_or(answer.account_id);
        let (info, mut pair) =
            self.rest.fetch_session_tokens(&bearer, &account_id).await.map_err(after_login)?;
        if info.account_id != account_id {
            pair = self.switch(&pair, &account_id).await?;
        }
        let mut tokens = Tokens {
            generation,
            pair,
            bearer: Some(bearer),
            account_id,
            account_type: None,
            lightstreamer_endpoint: answer.lightstreamer_endpoint,
            timezone_offset_s: offset_s(answer.timezone_offset),
            since: self.clock.monotonic(),
        };
        // The version 3 login does not tell the account's type; nothing depends on it for good.
        if let Ok(list) = self.rest.accounts(&tokens).await {
            let account = list.accounts.into_iter().find(|account| account.account_id == tokens.account_id);
            tokens.account_type = account.and_then(|account| account.account_type);
        }
        Ok(tokens)
    }

    async fn switch(&self, pair: &Pair, account_id: &str) -> Result<Pair, IgError> {
        match self.rest.switch_account(pair, account_id).await {
            Ok(pair) => {
                log::info!("switched to the configured account");
                Ok(pair)
            }
            // Already there.
            Err(IgError::Refused(code)) if code.contains("must-be-different") => Ok(pair.clone()),
            Err(IgError::Refused(code)) if code.contains("invalid-accountId") => Err(IgError::Misconfigured(
                format!("IG_ACCOUNT_ID is none of this client's accounts ({code})"),
            )),
            Err(error) => Err(after_login(error)),
        }
    }

    /// Fails where IG has refused exactly these credentials before, unless they are to be tried
    /// once more, which lasts until IG has answered about them.
    async fn check_not_refused_before(&self) -> Result<String, IgError> {
        let key = fingerprint::key(&self.store).await?;
        let settings = &self.settings;
        let print = fingerprint::of_login(&key, &settings.api_url, &settings.credentials);
        if !self.retry_refused.get() && self.load(SETTING_REFUSED).await?.as_ref() == Some(&print) {
            return Err(IgError::CredentialsRefused(
                "refused before and not tried again, since IG locks accounts; change them or use --retry-credentials"
                    .to_owned(),
            ));
        }
        Ok(print)
    }

    /// Waits until a login keeps its distance from the last, and takes note of this one before it is made:
    /// as one that failed, so that a process that is killed meanwhile leaves no gap in the count. Answers what
    /// was noted before.
    ///
    /// # Errors
    /// [`IgError::LoginLater`] where it would have to wait for longer than the spacing.
    async fn wait_for_turn(&self) -> Result<Logins, IgError> {
        let spacing = self.settings.login_spacing;
        let mut before = self.logins().await?;
        let now = self.clock.wall();
        if before.last.is_some_and(|last| last > now) {
            // The clock was set back: from now on the distance passes.
            before.last = Some(now);
            self.note(&before).await?;
        }
        let wait = before.wait(spacing, now);
        if wait > spacing {
            let at = now.plus(wait.as_secs() as i64);
            return Err(IgError::LoginLater { at, wait, why: before.failed.in_words() });
        }
        if !wait.is_zero() {
            log::info!(wait_s = wait.as_secs(); "waiting before the next login");
            actix_rt::time::sleep(wait).await;
        }
        let failed = before.failed.and_one(spacing, fastrand::f64());
        self.note(&Logins { last: Some(self.clock.wall()), failed }).await?;
        Ok(before)
    }

    async fn logins(&self) -> Result<Logins, IgError> {
        self.store.run(Logins::read).await.map_err(in_database)
    }

    async fn note(&self, logins: &Logins) -> Result<(), IgError> {
        self.save(failed::SETTING, logins.failed.write()).await?;
        self.save(SETTING_LAST_LOGIN, logins.last.map(|at| at.0.to_string()).unwrap_or_default()).await
    }

    async fn load(&self, key: &'static str) -> Result<Option<String>, IgError> {
        self.store.run(move |store| store.setting(key)).await.map_err(in_database)
    }

    async fn save(&self, key: &'static str, value: String) -> Result<(), IgError> {
        self.store.run(move |store| store.set_setting(key, &value)).await.map_err(in_database)
    }
}

/// What the database knows of logins.
#[derive(Clone, Debug, Default)]
pub struct Logins {
    /// The last one.
    pub last: Option<Timestamp>,
    /// Those since one succeeded.
    pub failed: Failed,
}

impl Logins {
    /// Reads it.
    ///
    /// # Errors
    /// Those of reading.
    pub fn read(store: &mut Store) -> Result<Logins, StoreError> {
        let last = store.setting(SETTING_LAST_LOGIN)?.and_then(|text| text.parse().ok()).map(Timestamp);
        let failed = store.setting(failed::SETTING)?.map(|text| Failed::read(&text)).unwrap_or_default();
        Ok(Logins { last, failed })
    }

    /// How long there is to be no other.
    pub fn wait(&self, spacing: Duration, now: Timestamp) -> Duration {
        login_wait(self.last, self.failed.distance(spacing), now)
    }
}

/// Trouble right after a login that IG has granted: the login was made, whatever follows.
fn after_login(error: IgError) -> IgError {
    match error {
        IgError::Unauthorized(code) => {
            IgError::Retryable(format!("the login gave tokens that are dead already ({code})"))
        }
        IgError::Unreachable(why) => IgError::Retryable(why),
        other => other,
    }
}

/// Refuses to take tokens that were got over TLS to a stream without.
fn stays_in_tls(api_url: &str, tokens: Tokens) -> Result<Tokens, IgError> {
    let is_tls =
        |url: &str| url.trim_start().get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"));
    let plain = tokens.lightstreamer_endpoint.contains("://") && !is_tls(&tokens.lightstreamer_endpoint);
    if is_tls(api_url) && plain {
        return Err(IgError::Misconfigured(
            "IG names a stream without TLS, to which tokens are not sent: is ig.api_url right?".to_owned(),
        ));
    }
    Ok(tokens)
}

fn offset_s(hours: Option<f64>) -> i64 {
    (hours.unwrap_or(0.0).clamp(-24.0, 24.0) * 3600.0) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ig::rest::{fake, http_client};
    use crate::store::DatabaseUrl;
    use crate::supervisor::{Alert, Room};

    const LOGIN: &str = r#"{"currentAccountId":"ABC12","lightstreamerEndpoint":"http://x"}"#;
    const SESSION: &str = r#"{"accountId":"ABC12"}"#;
    const DISABLED: &str = r#"{"errorCode":"error.security.api-key-disabled"}"#;

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
        let (alarm, _) = Alarm::new();
        let rest = RestClient::new(http_client(), &settings.api_url, Secret::new("secret"));
        let lifeline = Lifeline::alone(Room::Session, &alarm);
        SessionActor::new(rest, store.clone(), clock.clone(), settings, Desk::default(), lifeline)
            .session
            .clone()
    }

    /// How often a day of processes that each live for one attempt asks for a login, with IG answering so.
    async fn logins_a_day(answers: &[(u16, &str)]) -> usize {
        const SPACING: Duration = Duration::from_secs(61);
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&DatabaseUrl::sqlite(dir.path().join("c.db"))).unwrap();
        let (store, _) = StoreHandle::spawn("session-test", store).unwrap();
        let answers = answers.iter().map(|(status, json)| fake::answer(*status, json));
        let (base, asked) = fake::server(answers.cycle().take(1_000).collect());
        let begin = Timestamp(1_700_000_000);
        let clock = Clock::simulated(begin, 0);
        let logins = || asked.lock().unwrap().iter().filter(|asked| *asked == "POST /session").count();
        while clock.wall().since(begin) < 24 * 3_600 {
            let before = logins();
            let told = session(&store, &clock, settings(&base, SPACING)).tokens(true).await.unwrap_err();
            assert_eq!(logins(), before + 1, "{told:?}");
            let wait = store.run(Logins::read).await.unwrap().wait(SPACING, clock.wall());
            assert!(wait >= SPACING, "{wait:?}");
            // Whoever starts meanwhile leaves IG alone, and says until when.
            if wait > SPACING {
                let early = session(&store, &clock, settings(&base, SPACING)).tokens(true).await.unwrap_err();
                assert_eq!(early.pause(), wait, "{early}");
                assert!(early.to_string().ends_with(&told.to_string()), "{early}");
                assert_eq!(logins(), before + 1);
            }
            clock.advance(wait);
        }
        logins()
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
        ] {
            let logins = logins_a_day(&[(status, &answer)]).await;
            println!("{status} {answer}: {logins} logins a day");
            assert!((40..=65).contains(&logins), "{status} {answer}: {logins}");
        }
        // A login that is granted with tokens that are dead.
        assert!(logins_a_day(&[(200, LOGIN), (401, dead)]).await <= 65);
    }

    #[actix::test]
    async fn a_login_that_succeeds_forgets_those_before_and_a_clock_set_back_does_not_hold_it_up() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&DatabaseUrl::sqlite(dir.path().join("c.db"))).unwrap();
        let (store, _) = StoreHandle::spawn("session-test", store).unwrap();
        let failed = Failed { count: 7, distance_s: 1_800, why: "x".to_owned() };
        let now = Timestamp(1_700_000_000);
        let (text, future) = (failed.write(), now.plus(86_400).0.to_string());
        store.run(move |store| store.set_setting(failed::SETTING, &text)).await.unwrap();
        store.run(move |store| store.set_setting(SETTING_LAST_LOGIN, &future)).await.unwrap();
        let (base, asked) = fake::server([LOGIN, SESSION].map(fake::ok).to_vec());
        let clock = Clock::simulated(now, 0);
        let session = session(&store, &clock, settings(&base, Duration::from_secs(61)));
        let early = session.tokens(true).await.unwrap_err();
        assert_eq!(early.pause().as_secs(), 1_800);
        clock.advance(Duration::from_secs(1_800));
        session.tokens(true).await.unwrap();
        assert_eq!(*asked.lock().unwrap(), ["POST /session", "GET /session"]);
        assert_eq!(store.run(Logins::read).await.unwrap().failed, Failed::default());
    }

    #[actix::test]
    async fn a_login_that_never_reached_ig_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&DatabaseUrl::sqlite(dir.path().join("c.db"))).unwrap();
        let (store, _) = StoreHandle::spawn("session-test", store).unwrap();
        let clock = Clock::simulated(Timestamp(1_700_000_000), 0);
        // Nobody listens there.
        let session = session(&store, &clock, settings("http://127.0.0.1:1", Duration::from_secs(61)));
        for _ in 0..3 {
            let told = session.tokens(true).await.unwrap_err();
            assert!(matches!(told, IgError::Unreachable(_)), "{told}");
        }
        let logins = store.run(Logins::read).await.unwrap();
        assert_eq!((logins.last, logins.failed), (None, Failed::default()));
    }

    /// A session that logs in and then has its tokens tested, with IG answering so; what came of
    /// the test, what was asked, and with which codes the process was asked to end.
    async fn tested(answers: &[(u16, &str)]) -> (Result<u64, IgError>, Vec<String>, Vec<Exit>) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&DatabaseUrl::sqlite(dir.path().join("c.db"))).unwrap();
        let (store, _) = StoreHandle::spawn("session-test", store).unwrap();
        let begin = [(200, LOGIN), (200, SESSION)];
        let answers = begin.iter().chain(answers).map(|(status, json)| fake::answer(*status, json)).collect();
        let (base, asked) = fake::server(answers);
        let settings = settings(&base, Duration::ZERO);
        let (alarm, mut alerts) = Alarm::new();
        let rest = RestClient::new(http_client(), &base, Secret::new("secret"));
        let lifeline = Lifeline::alone(Room::Session, &alarm);
        let actor = SessionActor::new(rest, store, Clock::system(), settings, Desk::default(), lifeline);
        let session = actor.session.clone();
        assert_eq!(session.tokens(true).await.unwrap().generation, 1);
        let told = session.tokens(true).await.map(|tokens| tokens.generation);
        if told.is_err() {
            let asked_before = asked.lock().unwrap().len();
            assert!(session.tokens(true).await.is_err());
            assert_eq!(asked.lock().unwrap().len(), asked_before, "refused credentials are tried once");
        }
        let mut exits = Vec::new();
        while let Ok(alert) = alerts.try_recv() {
            if let Alert::Exit { code, .. } = alert {
                exits.push(code);
            }
        }
        let asked = asked.lock().unwrap()[2..].to_vec();
        (told, asked, exits)
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
    async fn a_test_of_tokens_that_is_refused_leaves_the_verdict_to_a_login() {
        let (told, asked, exits) = tested(&[(403, DISABLED), (200, LOGIN), (200, SESSION)]).await;
        assert_eq!(told, Ok(2));
        assert_eq!(asked, ["GET /session", "POST /session", "GET /session"]);
        assert_eq!(exits, []);
    }
}
