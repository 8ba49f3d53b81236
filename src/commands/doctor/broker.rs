//! The one login: through the same rooms as the service's, so with its spacing, its notes and its rules.

use std::cell::Cell;
use std::pin::pin;
use std::time::Duration;

use actix::{Actor, Addr};
use awc::Client;

use super::judge::LoggedIn;
use crate::clock::Clock;
use crate::commands::run::told_to_stop;
use crate::config::{Config, Login};
use crate::exit::Failure;
use crate::ig::IgError;
use crate::ig::markets;
use crate::ig::rest::RestClient;
use crate::ig::session::actor::{Desk, SessionActor, SessionSettings};
use crate::ig::session::logins::Logins;
use crate::messages::{GetTokens, LogOut};
use crate::store::{Store, StoreError, StoreHandle};
use crate::supervisor::notify::Standing;
use crate::supervisor::tenure::{self, Tenure};
use crate::supervisor::{Alarm, Lifeline, Room, Roster};

/// Longest that opening the database takes.
const OPEN_WITHIN: Duration = Duration::from_secs(20);
/// Longest that a login and what follows takes, its wait apart.
const LOGIN_WITHIN: Duration = Duration::from_secs(60);
/// Longest wait for a login that is under way when it is to end: without its tokens it cannot be logged out.
const LOGIN_UNDER_WAY_WITHIN: Duration = Duration::from_secs(4);
/// Longest that a logout takes.
const LOG_OUT_WITHIN: Duration = Duration::from_secs(4);
/// Longest wait for the turn of a login; who would have to wait longer is told so instead.
pub const WAIT_MAX: Duration = Duration::from_secs(65);

/// Why there was no login.
#[derive(Debug)]
pub enum NotDone {
    /// Another process has just begun to collect.
    Taken(String),
    /// The database cannot be written.
    NoPlace(String),
    /// IG, or the way there.
    Ig(IgError),
    /// It was told to stop meanwhile.
    Stopped,
}

impl From<StoreError> for NotDone {
    fn from(error: StoreError) -> NotDone {
        match error {
            StoreError::Leased { by } => {
                NotDone::Taken(by.map_or("a process that has just started".to_owned(), |by| by.who()))
            }
            error => NotDone::NoPlace(error.to_string()),
        }
    }
}

impl From<Failure> for NotDone {
    fn from(failure: Failure) -> NotDone {
        NotDone::NoPlace(failure.to_string())
    }
}

/// Logs in, asks, and logs out. Has the lease meanwhile, so that nobody else logs in beside it.
///
/// # Errors
/// Why not.
pub async fn log_in(
    config: &Config,
    login: &Login,
    client: Client,
    clock: &Clock,
) -> Result<LoggedIn, NotDone> {
    // Nobody is told how this stands.
    let standing = Standing::new(&Roster::new(clock.clone(), None));
    let late = || NotDone::NoPlace("the database does not answer".to_owned());
    let opened = tokio::time::timeout(OPEN_WITHIN, tenure::open(&config.database, &standing))
        .await
        .map_err(|_| late())??;
    let lease = tenure::acquire(&opened, "doctor", false, clock, &standing).await?;
    let (alarm, _alerts) = Alarm::new();
    let store = opened.store;
    let tenure = Tenure::begin(lease, store.clone(), clock.clone(), alarm.clone());
    let looked = look(config, login, client, &store, clock, alarm).await;
    tenure.end(&store, clock).await;
    // What is written is in the file, as after an orderly stop; where somebody reads just now, the next one sees to it.
    let _ = store.run(Store::fold_log).await;
    looked
}

async fn look(
    config: &Config,
    login: &Login,
    client: Client,
    store: &StoreHandle,
    clock: &Clock,
    alarm: Alarm,
) -> Result<LoggedIn, NotDone> {
    let rest = RestClient::new(client, &config.ig.api_url, login.api_key.clone());
    let settings = SessionSettings {
        credentials: login.clone(),
        api_url: config.ig.api_url.clone(),
        account_id: config.ig.account_id.clone(),
        version: config.session.version,
        login_spacing: config.session.login_spacing,
        retry_refused: false,
    };
    let session = SessionActor::new(
        rest.clone(),
        store.clone(),
        clock.clone(),
        settings,
        Desk::default(),
        Lifeline::alone(Room::Session, &alarm),
    )
    .start();
    let has_tokens = Cell::new(false);
    let mut looking = pin!(ask(config, &rest, &session, &has_tokens));
    // Listened to from here on, and no sooner: until then nothing would be left behind.
    let looked = tokio::select! {
        looked = tokio::time::timeout(LOGIN_WITHIN + WAIT_MAX, &mut looking) => {
            looked.unwrap_or_else(|_| Err(NotDone::Ig(IgError::Retryable("it takes too long".to_owned()))))
        }
        () = told_to_stop() => Err(NotDone::Stopped),
    };
    if matches!(looked, Err(NotDone::Stopped)) && !has_tokens.get() {
        let _ = tokio::time::timeout(LOGIN_UNDER_WAY_WITHIN, looking).await;
    }
    // However it has gone, there may be a session. The room may be gone only where it has logged out.
    let _ = tokio::time::timeout(LOG_OUT_WITHIN, session.send(LogOut)).await;
    if looked.is_ok() {
        // That was all that it was for. Where the note fails, the next login keeps a longer distance.
        let _ = store.run(Logins::note_stopped).await;
    }
    looked
}

/// Has the session room log in, and asks IG about the instruments.
async fn ask(
    config: &Config,
    rest: &RestClient,
    session: &Addr<SessionActor>,
    has_tokens: &Cell<bool>,
) -> Result<LoggedIn, NotDone> {
    let gone = |_| NotDone::Ig(IgError::Retryable("the session room is gone".to_owned()));
    let tokens = session.send(GetTokens { validate: false }).await.map_err(gone)?.map_err(NotDone::Ig)?;
    has_tokens.set(true);
    let surveyed = markets::survey(rest, &tokens, &config.feeds, config.ig.product).await;
    let (instruments, no_instruments) = match surveyed {
        Ok(instruments) => (instruments, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    let (account_type, is_chosen) = (tokens.account_type.clone(), config.ig.account_id.is_some());
    Ok(LoggedIn { account_type, is_chosen, instruments, no_instruments })
}
