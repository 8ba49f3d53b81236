//! IG's front desk: who may ask, how often, and how many bars.
//!
//! Logins and their tokens, the per-minute limits, the weekly allowance of data points. Pure:
//! time is an argument, the monotonic one for tokens and limits (a client's own timers run on
//! it), the virtual one for the week of the allowance.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::clock::Speed;
use crate::domain::Timestamp;

/// Logins kept at a time; the oldest go first.
const LOGINS_MAX: usize = 1_000;
/// Failed logins in a row after which the user is locked until the simulator ends.
const FAILURES_MAX: u32 = 5;
/// Length of an allowance period, from its first request on.
const ALLOWANCE_PERIOD_S: i64 = 7 * 24 * 3600;
/// Length of the window that requests are counted in.
const LIMIT_WINDOW: Duration = Duration::from_secs(60);

/// What an account may trade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountType {
    /// Contracts for difference: sees `.CFD.` and `.MINI.` epics.
    Cfd,
    /// Spread bets: sees `.TODAY.` and `.MINI.` epics.
    Spreadbet,
}

impl AccountType {
    /// How IG spells it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            AccountType::Cfd => "CFD",
            AccountType::Spreadbet => "SPREADBET",
        }
    }
}

/// One account of the simulated client.
#[derive(Clone, Debug)]
pub struct Account {
    /// Identifier; also the user of the stream.
    pub id: String,
    /// Display name.
    pub name: String,
    /// What it may trade.
    pub account_type: AccountType,
    /// Whether a login lands on it.
    pub preferred: bool,
}

/// Whom the simulator knows.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Login name.
    pub identifier: String,
    /// Password.
    pub password: String,
    /// API key.
    pub api_key: String,
    /// Accounts, at least one.
    pub accounts: Vec<Account>,
    /// Whether any key, name and password will do.
    pub accept_any: bool,
}

impl Default for Credentials {
    fn default() -> Self {
        let account = |id: &str, name: &str, account_type, preferred| Account {
            id: id.to_owned(),
            name: name.to_owned(),
            account_type,
            preferred,
        };
        Credentials {
            identifier: "demo-user".to_owned(),
            password: "demo-password".to_owned(),
            api_key: "demo-key".to_owned(),
            accounts: vec![
                account("SIM01", "Demo-CFD", AccountType::Cfd, true),
                account("SIM02", "Demo-SB", AccountType::Spreadbet, false),
            ],
            accept_any: false,
        }
    }
}

/// Requests that may be made in a (virtual) minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// With the API key.
    pub per_key: u32,
    /// By one account.
    pub per_account: u32,
}

impl Default for RequestLimits {
    fn default() -> Self {
        RequestLimits { per_key: 60, per_account: 30 }
    }
}

/// How long tokens live, in real time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenLifetimes {
    /// `CST` and `X-SECURITY-TOKEN` since their last use.
    pub idle: Duration,
    /// The same since the login.
    pub total: Duration,
    /// OAuth access token.
    pub access: Duration,
    /// OAuth refresh token.
    pub refresh: Duration,
}

impl Default for TokenLifetimes {
    fn default() -> Self {
        TokenLifetimes {
            idle: Duration::from_secs(6 * 3600),
            total: Duration::from_secs(72 * 3600),
            access: Duration::from_secs(60),
            refresh: Duration::from_secs(600),
        }
    }
}

/// Why a request is refused: IG's HTTP status and error code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub status: u16,
    pub code: String,
}

impl Refusal {
    pub fn new(status: u16, code: &str) -> Refusal {
        Refusal { status, code: code.to_owned() }
    }
}

/// What a request says of its sender, as in its headers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sender<'a> {
    pub api_key: Option<&'a str>,
    pub cst: Option<&'a str>,
    pub xst: Option<&'a str>,
    pub bearer: Option<&'a str>,
    pub account_id: Option<&'a str>,
}

/// An admitted sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Place of the account that the request acts on.
    pub account: usize,
    /// How it proved itself.
    proof: Proof,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Proof {
    Tokens(String),
    Bearer(String),
}

/// A pair of session tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub cst: String,
    pub xst: String,
}

/// A pair of OAuth tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OauthTokens {
    pub access: String,
    pub refresh: String,
}

/// What remains of the week's data points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowance {
    pub remaining: u32,
    pub total: u32,
    pub expires_in_s: i64,
}

#[derive(Debug)]
struct Login {
    account: usize,
    xst: String,
    since: Instant,
    used: Instant,
}

#[derive(Debug)]
struct Oauth {
    refresh: String,
    since: Instant,
    /// Session tokens handed out to this login, so that asking again gives the same.
    tokens: Option<Tokens>,
}

/// The desk's books.
#[derive(Debug)]
pub(crate) struct Desk {
    credentials: Credentials,
    lifetimes: TokenLifetimes,
    limits: RequestLimits,
    speed: Speed,
    /// By `CST`.
    logins: HashMap<String, Login>,
    /// By access token.
    oauth: HashMap<String, Oauth>,
    failures: u32,
    requests_of_key: VecDeque<Instant>,
    requests_of_account: Vec<VecDeque<Instant>>,
    allowance_total: u32,
    allowance_spent: u32,
    allowance_ends: Option<Timestamp>,
    random: fastrand::Rng,
}

impl Desk {
    /// An open desk. `seed` makes its tokens repeatable.
    pub fn new(
        credentials: Credentials,
        lifetimes: TokenLifetimes,
        limits: RequestLimits,
        speed: Speed,
        allowance: u32,
        seed: u64,
    ) -> Desk {
        Desk {
            requests_of_account: vec![VecDeque::new(); credentials.accounts.len()],
            credentials,
            lifetimes,
            limits,
            speed,
            logins: HashMap::new(),
            oauth: HashMap::new(),
            failures: 0,
            requests_of_key: VecDeque::new(),
            allowance_total: allowance,
            allowance_spent: 0,
            allowance_ends: None,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    pub fn accounts(&self) -> &[Account] {
        &self.credentials.accounts
    }

    pub fn allowance_total(&self) -> u32 {
        self.allowance_total
    }

    /// Requests a real minute that a key and an account are granted at this speed.
    pub fn limits(&self) -> RequestLimits {
        let scaled = |limit: u32| match self.speed {
            Speed::Times(times) => (f64::from(limit) * times).max(1.0) as u32,
            Speed::Max => u32::MAX,
        };
        RequestLimits { per_key: scaled(self.limits.per_key), per_account: scaled(self.limits.per_account) }
    }

    /// Checks the API key and counts the request against it.
    ///
    /// # Errors
    /// Missing or unknown key; the key's minute is used up.
    pub fn admit_key(&mut self, sender: &Sender<'_>, real: Instant) -> Result<(), Refusal> {
        match sender.api_key {
            None | Some("") => return Err(Refusal::new(400, "error.security.api-key-missing")),
            Some(key) if key != self.credentials.api_key && !self.credentials.accept_any => {
                return Err(Refusal::new(403, "error.security.api-key-invalid"));
            }
            Some(_) => {}
        }
        let limit = self.limits().per_key;
        if count_request(&mut self.requests_of_key, limit, real) {
            Ok(())
        } else {
            Err(Refusal::new(403, "error.public-api.exceeded-api-key-allowance"))
        }
    }

    /// Checks tokens and counts the request against the account.
    ///
    /// # Errors
    /// Missing, unknown or expired tokens; the account's minute is used up.
    pub fn admit(&mut self, sender: &Sender<'_>, real: Instant) -> Result<Caller, Refusal> {
        let caller = self.identify(sender, real)?;
        let limit = self.limits().per_account;
        if count_request(&mut self.requests_of_account[caller.account], limit, real) {
            Ok(caller)
        } else {
            Err(Refusal::new(403, "error.public-api.exceeded-account-allowance"))
        }
    }

    fn identify(&mut self, sender: &Sender<'_>, real: Instant) -> Result<Caller, Refusal> {
        if let Some(bearer) = sender.bearer {
            let valid = self
                .oauth
                .get(bearer)
                .is_some_and(|login| real.saturating_duration_since(login.since) < self.lifetimes.access);
            if !valid {
                return Err(Refusal::new(401, "error.security.oauth-token-invalid"));
            }
            let account = sender.account_id.and_then(|id| self.account_of(id));
            let account =
                account.ok_or_else(|| Refusal::new(401, "error.public-api.failure.missing.credentials"))?;
            return Ok(Caller { account, proof: Proof::Bearer(bearer.to_owned()) });
        }
        let cst = sender.cst.ok_or_else(|| Refusal::new(401, "error.security.client-token-missing"))?;
        let xst = sender.xst.ok_or_else(|| Refusal::new(401, "error.security.account-token-missing"))?;
        let account = self.check_tokens(cst, xst, real)?;
        Ok(Caller { account, proof: Proof::Tokens(cst.to_owned()) })
    }

    /// The account that a pair of live tokens acts on; using them renews them.
    fn check_tokens(&mut self, cst: &str, xst: &str, real: Instant) -> Result<usize, Refusal> {
        let invalid = || Refusal::new(401, "error.security.client-token-invalid");
        let login = self.logins.get_mut(cst).ok_or_else(invalid)?;
        let age = |since: Instant| real.saturating_duration_since(since);
        if age(login.used) >= self.lifetimes.idle || age(login.since) >= self.lifetimes.total {
            self.logins.remove(cst);
            return Err(invalid());
        }
        if login.xst != xst {
            return Err(Refusal::new(401, "error.security.account-token-invalid"));
        }
        login.used = real;
        Ok(login.account)
    }

    /// Checks name and password.
    ///
    /// # Errors
    /// Malformed name, wrong credentials, or locked after too many failures.
    pub fn check_password(&mut self, identifier: &str, password: &str) -> Result<(), Refusal> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if identifier.is_empty() || identifier.len() > 30 || !identifier.chars().all(allowed) {
            return Err(Refusal::new(400, "validation.pattern.invalid.authenticationRequest.identifier"));
        }
        if self.failures >= FAILURES_MAX {
            return Err(Refusal::new(401, "error.security.too-many-failed-attempts"));
        }
        let known = identifier == self.credentials.identifier && password == self.credentials.password;
        if !known && !self.credentials.accept_any {
            self.failures += 1;
            return Err(Refusal::new(401, "error.security.invalid-details"));
        }
        self.failures = 0;
        Ok(())
    }

    /// Opens a session with tokens (login versions 1 and 2) on the preferred account.
    pub fn open_session(&mut self, real: Instant) -> (usize, Tokens) {
        let preferred = self.preferred();
        (preferred, self.issue_tokens(preferred, real))
    }

    /// Opens an OAuth session (login version 3).
    pub fn open_oauth(&mut self, real: Instant) -> (usize, OauthTokens) {
        (self.preferred(), self.issue_oauth(None, real))
    }

    /// Trades a refresh token for a new pair; the old pair is dead.
    ///
    /// # Errors
    /// Unknown or expired refresh token.
    pub fn refresh(&mut self, refresh: &str, real: Instant) -> Result<OauthTokens, Refusal> {
        let known = self.oauth.iter().find(|(_, login)| login.refresh == refresh);
        let access = known.map(|(access, _)| access.clone());
        let login = access.and_then(|access| self.oauth.remove(&access));
        match login {
            Some(login) if real.saturating_duration_since(login.since) < self.lifetimes.refresh => {
                Ok(self.issue_oauth(login.tokens, real))
            }
            _ => Err(Refusal::new(401, "error.security.oauth-token-invalid")),
        }
    }

    /// Session tokens of a caller: its own, or for an OAuth session a pair made on first asking.
    pub fn session_tokens(&mut self, caller: &Caller, real: Instant) -> Tokens {
        match &caller.proof {
            Proof::Tokens(cst) => {
                let xst = self.logins.get(cst).map(|login| login.xst.clone()).unwrap_or_default();
                Tokens { cst: cst.clone(), xst }
            }
            Proof::Bearer(access) => {
                let known = self.oauth.get(access).and_then(|login| login.tokens.clone());
                let alive = known
                    .filter(|tokens| self.check_tokens(&tokens.cst, &tokens.xst, real) == Ok(caller.account));
                let tokens = alive.unwrap_or_else(|| self.issue_tokens(caller.account, real));
                if let Some(login) = self.oauth.get_mut(access) {
                    login.tokens = Some(tokens.clone());
                }
                tokens
            }
        }
    }

    /// Makes another account the active one: a new account token, the old one is dead.
    ///
    /// # Errors
    /// Not a token session, no such account, or already there.
    pub fn switch(&mut self, caller: &Caller, account_id: &str) -> Result<Tokens, Refusal> {
        let Proof::Tokens(cst) = &caller.proof else {
            return Err(Refusal::new(401, "error.security.client-token-missing"));
        };
        let account =
            self.account_of(account_id).ok_or_else(|| Refusal::new(400, "error.switch.invalid-accountId"))?;
        if account == caller.account {
            return Err(Refusal::new(412, "error.switch.accountId-must-be-different"));
        }
        let xst = self.token();
        if let Some(login) = self.logins.get_mut(cst) {
            login.account = account;
            login.xst.clone_from(&xst);
        }
        Ok(Tokens { cst: cst.clone(), xst })
    }

    /// Ends the caller's session.
    pub fn close_session(&mut self, caller: &Caller) {
        match &caller.proof {
            Proof::Tokens(cst) => {
                self.logins.remove(cst);
            }
            Proof::Bearer(access) => {
                if let Some(tokens) = self.oauth.remove(access).and_then(|login| login.tokens) {
                    self.logins.remove(&tokens.cst);
                }
            }
        }
    }

    /// Forgets every session, as IG's weekend maintenance does.
    pub fn wipe_tokens(&mut self) {
        self.logins.clear();
        self.oauth.clear();
    }

    /// The account that the stream's user and password (`CST-…|XST-…`) stand for.
    pub fn stream_login(&mut self, user: &str, password: &str, real: Instant) -> Option<usize> {
        let (cst, xst) = password.strip_prefix("CST-")?.split_once("|XST-")?;
        let account = self.check_tokens(cst, xst, real).ok()?;
        (self.credentials.accounts[account].id == user).then_some(account)
    }

    /// Takes `points` from the week's allowance.
    ///
    /// # Errors
    /// That is more than remains; then nothing is taken.
    pub fn spend(&mut self, points: u32, now: Timestamp) -> Result<Allowance, Refusal> {
        let ends = self.allowance_week(now);
        let remaining = self.allowance_total.saturating_sub(self.allowance_spent);
        if points > remaining {
            let code = "error.public-api.exceeded-account-historical-data-allowance";
            return Err(Refusal::new(403, code));
        }
        self.allowance_spent += points;
        Ok(Allowance {
            remaining: remaining - points,
            total: self.allowance_total,
            expires_in_s: ends.since(now),
        })
    }

    /// When the week that it is ends; the first of a new one begins it.
    fn allowance_week(&mut self, now: Timestamp) -> Timestamp {
        let ends = match self.allowance_ends {
            Some(ends) if now < ends => ends,
            _ => {
                self.allowance_spent = 0;
                now.plus(ALLOWANCE_PERIOD_S)
            }
        };
        self.allowance_ends = Some(ends);
        ends
    }

    /// Leaves so many points of the week's, whoever has spent the others.
    pub fn leave_points(&mut self, left: u32, now: Timestamp) {
        self.allowance_week(now);
        self.allowance_spent = self.allowance_total.saturating_sub(left);
    }

    /// A number for identifiers that need not be secret.
    pub fn random_number(&mut self) -> u32 {
        self.random.u32(..)
    }

    fn preferred(&self) -> usize {
        self.accounts().iter().position(|account| account.preferred).unwrap_or(0)
    }

    fn account_of(&self, id: &str) -> Option<usize> {
        self.accounts().iter().position(|account| account.id == id)
    }

    fn issue_tokens(&mut self, account: usize, real: Instant) -> Tokens {
        let tokens = Tokens { cst: self.token(), xst: self.token() };
        make_room(&mut self.logins, |login| login.used);
        let login = Login { account, xst: tokens.xst.clone(), since: real, used: real };
        self.logins.insert(tokens.cst.clone(), login);
        tokens
    }

    fn issue_oauth(&mut self, tokens: Option<Tokens>, real: Instant) -> OauthTokens {
        let oauth = OauthTokens { access: self.token(), refresh: self.token() };
        make_room(&mut self.oauth, |login| login.since);
        let login = Oauth { refresh: oauth.refresh.clone(), since: real, tokens };
        self.oauth.insert(oauth.access.clone(), login);
        oauth
    }

    /// 64 hex digits, as long as IG's.
    fn token(&mut self) -> String {
        (0..4).map(|_| format!("{:016x}", self.random.u64(..))).collect()
    }
}

fn make_room<T>(logins: &mut HashMap<String, T>, used: impl Fn(&T) -> Instant) {
    if logins.len() >= LOGINS_MAX
        && let Some(oldest) = logins.iter().min_by_key(|(_, login)| used(login)).map(|(key, _)| key.clone())
    {
        logins.remove(&oldest);
    }
}

/// Counts a request if the window has room for it.
fn count_request(window: &mut VecDeque<Instant>, limit: u32, real: Instant) -> bool {
    if limit == u32::MAX {
        return true;
    }
    while window.front().is_some_and(|first| real.saturating_duration_since(*first) >= LIMIT_WINDOW) {
        window.pop_front();
    }
    if window.len() >= limit as usize {
        return false;
    }
    window.push_back(real);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::clock::monotonic;

    fn desk(speed: Speed) -> Desk {
        Desk::new(Credentials::default(), TokenLifetimes::default(), RequestLimits::default(), speed, 100, 1)
    }

    fn sender(tokens: &Tokens) -> Sender<'_> {
        Sender { cst: Some(&tokens.cst), xst: Some(&tokens.xst), ..Sender::default() }
    }

    fn code<T: std::fmt::Debug>(result: Result<T, Refusal>) -> String {
        result.unwrap_err().code
    }

    #[test]
    fn tokens_live_while_used_but_no_longer_than_three_days() {
        let (mut desk, start) = (desk(Speed::Max), monotonic());
        let hours = |n: u64| start + Duration::from_secs(n * 3600);
        let (_, tokens) = desk.open_session(start);
        let (_, idle) = desk.open_session(start);
        for hour in (5..72).step_by(5) {
            assert!(desk.admit(&sender(&tokens), hours(hour)).is_ok(), "{hour}");
        }
        assert_eq!(code(desk.admit(&sender(&idle), hours(6))), "error.security.client-token-invalid");
        assert_eq!(code(desk.admit(&sender(&tokens), hours(72))), "error.security.client-token-invalid");
    }

    #[test]
    fn a_switch_kills_the_old_account_token_alone() {
        let (mut desk, now) = (desk(Speed::Max), monotonic());
        let (first, tokens) = desk.open_session(now);
        let caller = desk.admit(&sender(&tokens), now).unwrap();
        let switched = desk.switch(&caller, "SIM02").unwrap();
        assert_eq!(switched.cst, tokens.cst);
        assert_eq!(code(desk.admit(&sender(&tokens), now)), "error.security.account-token-invalid");
        let caller = desk.admit(&sender(&switched), now).unwrap();
        assert_ne!(caller.account, first);
        assert_eq!(code(desk.switch(&caller, "SIM02")), "error.switch.accountId-must-be-different");
        assert_eq!(code(desk.switch(&caller, "SIM03")), "error.switch.invalid-accountId");
        let password = format!("CST-{}|XST-{}", switched.cst, switched.xst);
        assert_eq!(desk.stream_login("SIM02", &password, now), Some(1));
        assert_eq!(desk.stream_login("SIM01", &password, now), None);
        desk.close_session(&caller);
        assert_eq!(desk.stream_login("SIM02", &password, now), None);
    }

    #[test]
    fn an_access_token_lives_a_minute_and_its_refresh_token_ten() {
        let (mut desk, start) = (desk(Speed::Max), monotonic());
        let seconds = |n| start + Duration::from_secs(n);
        let (_, oauth) = desk.open_oauth(start);
        let bearer = |access: &str, account: Option<&str>, desk: &mut Desk, real| {
            let sender = Sender { bearer: Some(access), account_id: account, ..Sender::default() };
            desk.admit(&sender, real)
        };
        assert!(bearer(&oauth.access, Some("SIM01"), &mut desk, seconds(59)).is_ok());
        let refused = bearer(&oauth.access, None, &mut desk, seconds(59));
        assert_eq!(code(refused), "error.public-api.failure.missing.credentials");
        let refused = bearer(&oauth.access, Some("SIM01"), &mut desk, seconds(60));
        assert_eq!(code(refused), "error.security.oauth-token-invalid");
        let renewed = desk.refresh(&oauth.refresh, seconds(599)).unwrap();
        assert_eq!(code(desk.refresh(&oauth.refresh, seconds(599))), "error.security.oauth-token-invalid");
        let caller = bearer(&renewed.access, Some("SIM02"), &mut desk, seconds(600)).unwrap();
        let tokens = desk.session_tokens(&caller, seconds(600));
        assert_eq!(desk.session_tokens(&caller, seconds(600)), tokens);
        assert!(desk.admit(&sender(&tokens), seconds(600)).is_ok());
        assert_eq!(code(desk.refresh(&renewed.refresh, seconds(1200))), "error.security.oauth-token-invalid");
    }

    #[test]
    fn wrong_passwords_lock_the_user() {
        let mut desk = desk(Speed::Max);
        for _ in 0..FAILURES_MAX {
            assert_eq!(code(desk.check_password("demo-user", "wrong")), "error.security.invalid-details");
        }
        let locked = desk.check_password("demo-user", "demo-password");
        assert_eq!(code(locked), "error.security.too-many-failed-attempts");
        let dotted = desk.check_password("demo.user", "demo-password");
        assert_eq!(code(dotted), "validation.pattern.invalid.authenticationRequest.identifier");
    }

    #[test]
    fn anyone_may_log_in_where_that_is_wanted() {
        let mut desk = desk(Speed::Max);
        desk.credentials.accept_any = true;
        let sender = Sender { api_key: Some("whatever"), ..Sender::default() };
        assert_eq!(desk.admit_key(&sender, monotonic()), Ok(()));
        assert_eq!(desk.check_password("someone", "something"), Ok(()));
        assert!(desk.check_password("some.one", "something").is_err());
    }

    #[test]
    fn a_minute_grants_a_key_and_an_account_their_requests_scaled_by_speed() {
        let (mut desk, start) = (desk(Speed::Times(2.0)), monotonic());
        let (_, tokens) = desk.open_session(start);
        for _ in 0..60 {
            assert!(desk.admit(&sender(&tokens), start).is_ok());
        }
        let refused = desk.admit(&sender(&tokens), start + Duration::from_secs(59));
        assert_eq!(code(refused), "error.public-api.exceeded-account-allowance");
        assert!(desk.admit(&sender(&tokens), start + Duration::from_secs(60)).is_ok());

        let key = Sender { api_key: Some("demo-key"), ..Sender::default() };
        for _ in 0..120 {
            assert!(desk.admit_key(&key, start).is_ok());
        }
        assert_eq!(code(desk.admit_key(&key, start)), "error.public-api.exceeded-api-key-allowance");
        assert_eq!(code(desk.admit_key(&Sender::default(), start)), "error.security.api-key-missing");
    }

    #[test]
    fn the_allowance_is_refused_whole_and_renewed_after_a_week() {
        let mut desk = desk(Speed::Max);
        let allowance = |remaining, expires_in_s| Allowance { remaining, total: 100, expires_in_s };
        assert_eq!(desk.spend(60, Timestamp(1000)), Ok(allowance(40, 604_800)));
        let refused = desk.spend(41, Timestamp(1000));
        assert_eq!(code(refused), "error.public-api.exceeded-account-historical-data-allowance");
        assert_eq!(desk.spend(40, Timestamp(2000)), Ok(allowance(0, 603_800)));
        assert!(desk.spend(1, Timestamp(605_799)).is_err());
        assert_eq!(desk.spend(1, Timestamp(605_800)), Ok(allowance(99, 604_800)));
        desk.leave_points(7, Timestamp(605_800));
        assert_eq!(desk.spend(3, Timestamp(605_800)), Ok(allowance(4, 604_800)));
    }
}
