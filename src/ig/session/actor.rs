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
use tokio::sync::{Mutex, Notify};

use super::complaints::Complaints;
use super::fingerprint::{self, in_database};
use super::logins::{Logins, SETTING_REFUSED};
use super::tokens::{Bearer, Pair, REFRESH_EVERY, Tokens};
use crate::clock::Clock;
use crate::config::Login;
use crate::exit::Exit;
use crate::failpoint;
use crate::ig::error::IgError;
use crate::ig::models::OauthToken;
use crate::ig::rest::RestClient;
use crate::messages::{GetTokens, LogOut, TokensRefused};
use crate::secret::Secret;
use crate::store::StoreHandle;
use crate::supervisor::{Alarm, Lifeline, Pulse, watched_over};

/// A login takes so long at most, beside the distance that it keeps from the last: a few calls to IG, each
/// with its own limit.
const LOGGED_IN_WITHIN: Duration = Duration::from_secs(240);
/// How long a logout waits for a login or a test of tokens that is under way, so that IG has as long again to
/// hear of it.
const LOG_OUT_WAIT: Duration = Duration::from_secs(1);

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
    desk: Desk,
}

/// The tokens, which outlive the actor: one that is built anew tests them, which costs no login. Clones
/// are one, and whoever speaks to IG holds it, so that two actors never log in side by side.
#[derive(Clone, Default)]
pub struct Desk {
    state: Rc<Mutex<State>>,
    /// The process ends: nobody gets tokens any more.
    is_closed: Rc<Cell<bool>>,
    closing: Rc<Notify>,
}

impl Desk {
    /// Nobody gets tokens any more, nor goes on waiting for them.
    fn close(&self) {
        self.is_closed.set(true);
        self.closing.notify_waiters();
    }

    /// # Errors
    /// Once it is closed.
    fn open(&self) -> Result<(), IgError> {
        match self.is_closed.get() {
            true => Err(IgError::Retryable("logged out, since the process ends".to_owned())),
            false => Ok(()),
        }
    }

    /// Whether there are tokens that nobody complains about; none while somebody sees to them.
    pub fn is_logged_in(&self) -> Option<bool> {
        self.state.try_lock().ok().map(|state| state.tokens.is_some() && !state.suspect)
    }

    /// Has the tokens tested before they are used again. Where somebody holds them they are in use.
    fn mistrust(&self) {
        if let Ok(mut state) = self.state.try_lock() {
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
        desk: Desk,
        lifeline: Lifeline,
    ) -> SessionActor {
        let retry_refused = Cell::new(settings.retry_refused);
        let (alarm, pulse) = (lifeline.alarm().clone(), lifeline.pulse().clone());
        desk.mistrust();
        let session = Session { rest, store, clock, settings, alarm, pulse, retry_refused, desk };
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

    fn handle(&mut self, GetTokens { validate }: GetTokens, ctx: &mut Self::Context) -> Self::Result {
        failpoint::in_room("session.asked", ctx);
        let session = self.session.clone();
        Box::pin(async move { session.tokens(validate).await }.into_actor(self))
    }
}

impl Handler<TokensRefused> for SessionActor {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, refused: TokensRefused, _: &mut Self::Context) -> Self::Result {
        let session = self.session.clone();
        let noting = async move {
            let mut state = session.desk.state.lock().await;
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
        session.desk.close();
        Box::pin(async move {
            let Ok(mut state) = tokio::time::timeout(LOG_OUT_WAIT, session.desk.state.lock()).await else {
                log::warn!("IG has not answered a login or a question yet; a session there ends by itself");
                return;
            };
            if let Some(tokens) = state.tokens.take() {
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
        let mut state = self.desk.state.lock().await;
        self.desk.open()?;
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
                // IG is out of reach, in trouble or busy, which says nothing of the tokens.
                Err(
                    error @ (IgError::Retryable(_)
                    | IgError::Unreachable(_)
                    | IgError::Broken(_)
                    | IgError::RateLimited(_)
                    | IgError::AllowanceSpent(_)
                    | IgError::LoginLater { .. }),
                ) => return Err(error),
                // Whether the credentials themselves are refused is for a login to say, which knows
                // what follows then. An answer that nobody expects might come for as long as the tokens
                // are kept; a login mends that or is told of, and keeps its distance.
                Err(
                    error @ (IgError::Unauthorized(_)
                    | IgError::CredentialsRefused(_)
                    | IgError::Misconfigured(_)
                    | IgError::Refused(_)
                    | IgError::NotIg(_)
                    | IgError::Malformed(_)),
                ) => {
                    log::info!(error:% = error; "tokens have ended, logging in again");
                    state.tokens = None;
                }
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
        let mut state = self.desk.state.lock().await;
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
            Ok(_) => self.store.run(Logins::note_granted).await.unwrap_or_else(|error| {
                // The login is made, and is not thrown away for a note.
                log::warn!(error:% = error; "that these credentials work now could not be noted");
            }),
            Err(IgError::CredentialsRefused(_)) => {
                self.retry_refused.set(false);
                let noting = self.store.run(move |store| store.set_setting(SETTING_REFUSED, &fingerprint));
                noting.await.unwrap_or_else(|error| {
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
            let why = error.to_string();
            self.store.run(move |store| Logins::note_failed(store, why)).await.unwrap_or_else(|error| {
                log::warn!(error:% = error; "why a login failed could not be noted");
            });
        }
        result
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
        let refused = self.store.run(|store| store.setting(SETTING_REFUSED)).await.map_err(in_database)?;
        if !self.retry_refused.get() && refused.as_ref() == Some(&print) {
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
            self.desk.open()?;
            log::info!(wait_s = wait.as_secs(); "waiting before the next login");
            tokio::select! {
                () = actix_rt::time::sleep(wait) => {}
                () = self.desk.closing.notified() => {}
            }
        }
        self.desk.open()?;
        let rest = before.last.map_or(Duration::MAX, |last| duration_s(self.clock.wall().since(last)));
        let failed = before.failed.clone().after(rest).and_one(spacing, fastrand::f64());
        self.note(&Logins { last: Some(self.clock.wall()), failed }).await?;
        Ok(before)
    }

    async fn logins(&self) -> Result<Logins, IgError> {
        self.store.run(Logins::read).await.map_err(in_database)
    }

    async fn note(&self, logins: &Logins) -> Result<(), IgError> {
        let logins = logins.clone();
        self.store.run(move |store| logins.note(store)).await.map_err(in_database)
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

/// Nothing where the clock has gone back.
fn duration_s(seconds: i64) -> Duration {
    Duration::from_secs(seconds.max(0).cast_unsigned())
}

fn offset_s(hours: Option<f64>) -> i64 {
    (hours.unwrap_or(0.0).clamp(-24.0, 24.0) * 3600.0) as i64
}

#[cfg(test)]
#[path = "actor_tests.rs"]
mod tests;
