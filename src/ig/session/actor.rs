//! SessionActor: the one login.
//!
//! Everyone asks it for tokens; it logs in when there are none, switches to the wanted account,
//! refreshes what expires, and ends the session at the end. Requests are served one after the
//! other, so a storm of complaints about dead tokens leads to one login. A restart of this actor
//! loses the tokens and costs one login, whose spacing is kept in the database.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::Mutex;

use super::fingerprint::{self, in_database};
use super::tokens::{Bearer, Pair, REFRESH_EVERY, Tokens, login_wait};
use crate::clock::Clock;
use crate::config::Login;
use crate::domain::Timestamp;
use crate::ig::error::IgError;
use crate::ig::models::OauthToken;
use crate::ig::rest::RestClient;
use crate::messages::{GetTokens, LogOut, TokensRefused};
use crate::secret::Secret;
use crate::store::StoreHandle;
use crate::supervisor::Lifeline;

const SETTING_LAST_LOGIN: &str = "session.last_login";
const SETTING_REFUSED: &str = "session.refused_fingerprint";

/// What the session needs to know.
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
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tokens: Option<Arc<Tokens>>,
    generation: u64,
    /// IG complained about the current tokens.
    suspect: bool,
}

impl SessionActor {
    /// An actor that has not logged in yet.
    pub fn new(
        rest: RestClient,
        store: StoreHandle,
        clock: Clock,
        settings: SessionSettings,
        lifeline: Lifeline,
    ) -> SessionActor {
        let state = Mutex::new(State::default());
        SessionActor {
            session: Rc::new(Session { rest, store, clock, settings, state }),
            _lifeline: lifeline,
        }
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

impl Handler<GetTokens> for SessionActor {
    type Result = ResponseFuture<Result<Arc<Tokens>, IgError>>;

    fn handle(&mut self, GetTokens { validate }: GetTokens, _: &mut Self::Context) -> Self::Result {
        let session = self.session.clone();
        Box::pin(async move { session.tokens(validate).await })
    }
}

impl Handler<TokensRefused> for SessionActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, TokensRefused { generation }: TokensRefused, _: &mut Self::Context) -> Self::Result {
        let session = self.session.clone();
        Box::pin(async move {
            let mut state = session.state.lock().await;
            if state.generation == generation {
                state.suspect = true;
            }
        })
    }
}

impl Handler<LogOut> for SessionActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: LogOut, _: &mut Self::Context) -> Self::Result {
        let session = self.session.clone();
        Box::pin(async move {
            // A login under way, which may be waiting for its turn, has no session to end yet.
            let tokens = session.state.try_lock().ok().and_then(|mut state| state.tokens.take());
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
        let mut state = self.state.lock().await;
        if let Some(tokens) = state.tokens.clone() {
            match self.still_good(&mut state, tokens, validate).await {
                Ok(tokens) => return Ok(tokens),
                Err(IgError::Unauthorized(code)) => {
                    log::info!(code = code.as_str(); "tokens have ended, logging in again");
                    state.tokens = None;
                }
                Err(error) => return Err(error),
            }
        }
        let tokens = Arc::new(self.log_in(state.generation + 1).await?);
        *state = State { tokens: Some(tokens.clone()), generation: tokens.generation, suspect: false };
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
            self.rest.session(&tokens).await?;
            state.suspect = false;
        }
        Ok(tokens)
    }

    /// Renews the bearer token. A refresh token that IG no longer knows means a new login.
    async fn refresh(&self, state: &mut State, tokens: &Tokens) -> Result<Arc<Tokens>, IgError> {
        let Some(bearer) = &tokens.bearer else { return Ok(Arc::new(tokens.clone())) };
        let answer = match self.rest.refresh(&bearer.refresh).await {
            Err(IgError::Refused(code)) => Err(IgError::Unauthorized(code)),
            other => other,
        }?;
        let renewed = Arc::new(Tokens { bearer: Some(self.bearer(answer)), ..tokens.clone() });
        state.tokens = Some(renewed.clone());
        log::debug!("refreshed the access token");
        Ok(renewed)
    }

    /// Keeps a version 3 session alive while nobody asks for tokens.
    async fn keep_fresh(&self) {
        let mut state = self.state.lock().await;
        let Some(tokens) = state.tokens.clone() else { return };
        match self.refresh(&mut state, &tokens).await {
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

    async fn log_in(&self, generation: u64) -> Result<Tokens, IgError> {
        let fingerprint = self.check_not_refused_before().await?;
        let last_login = self.wait_for_turn().await?;
        let result = match self.settings.version {
            3 => self.log_in_v3(generation).await,
            _ => self.log_in_v2(generation).await,
        };
        match &result {
            Ok(tokens) => log::info!(
                version = self.settings.version,
                account_type = tokens.account_type.as_deref().unwrap_or("unknown");
                "logged in"
            ),
            Err(IgError::CredentialsRefused(_)) => {
                self.save(SETTING_REFUSED, fingerprint).await?;
            }
            // No login was made, so the next need not keep its distance from it.
            Err(IgError::Unreachable(_)) => self.note_login(last_login).await?,
            // Whoever asked for tokens tells of it, and when it tries again.
            Err(error) => log::debug!(error:% = error; "login failed"),
        }
        result
    }

    async fn log_in_v2(&self, generation: u64) -> Result<Tokens, IgError> {
        let (answer, pair) = self.rest.log_in_v2(&self.settings.credentials).await?;
        // IG may hand out cached tokens that are dead already; only a call with them tells.
        self.rest.session_of(&pair).await.map_err(dead_on_arrival)?;
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
            self.rest.fetch_session_tokens(&bearer, &account_id).await.map_err(dead_on_arrival)?;
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
            Err(IgError::Refused(code)) if code.contains("invalid-accountId") => {
                Err(IgError::CredentialsRefused(format!(
                    "{code}: IG_ACCOUNT_ID is none of this client's accounts"
                )))
            }
            Err(error) => Err(error),
        }
    }

    /// Fails where IG has refused exactly these credentials before.
    async fn check_not_refused_before(&self) -> Result<String, IgError> {
        let key = fingerprint::key(&self.store).await?;
        let (settings, login) = (&self.settings, &self.settings.credentials);
        let parts = [&login.api_key, &login.username, &login.password].map(Secret::expose);
        let print = fingerprint::of(&key, &[&[settings.api_url.as_str()], &parts[..]].concat());
        if !settings.retry_refused && self.load(SETTING_REFUSED).await?.as_ref() == Some(&print) {
            return Err(IgError::CredentialsRefused(
                "refused before and not tried again, since IG locks accounts; change them or use --retry-credentials"
                    .to_owned(),
            ));
        }
        Ok(print)
    }

    /// Waits until a login keeps its distance from the last, and takes note of this one before
    /// it is made. Answers the one before.
    async fn wait_for_turn(&self) -> Result<Option<Timestamp>, IgError> {
        let last = self.load(SETTING_LAST_LOGIN).await?.and_then(|text| text.parse().ok()).map(Timestamp);
        let wait = login_wait(last, self.settings.login_spacing, self.clock.wall());
        if !wait.is_zero() {
            log::info!(wait_s = wait.as_secs(); "waiting before the next login");
            actix_rt::time::sleep(wait).await;
        }
        self.note_login(Some(self.clock.wall())).await?;
        Ok(last)
    }

    async fn note_login(&self, at: Option<Timestamp>) -> Result<(), IgError> {
        let at = at.map(|at| at.0.to_string()).unwrap_or_default();
        self.save(SETTING_LAST_LOGIN, at).await
    }

    async fn load(&self, key: &'static str) -> Result<Option<String>, IgError> {
        self.store.run(move |store| store.setting(key)).await.map_err(in_database)
    }

    async fn save(&self, key: &'static str, value: String) -> Result<(), IgError> {
        self.store.run(move |store| store.set_setting(key, &value)).await.map_err(in_database)
    }
}

fn dead_on_arrival(error: IgError) -> IgError {
    match error {
        IgError::Unauthorized(code) => {
            IgError::Retryable(format!("the login gave tokens that are dead already ({code})"))
        }
        other => other,
    }
}

fn offset_s(hours: Option<f64>) -> i64 {
    (hours.unwrap_or(0.0).clamp(-24.0, 24.0) * 3600.0) as i64
}
