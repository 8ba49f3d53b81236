//! Flags over environment over file over defaults, checked: [`load`] is pure and turns all of
//! them into one [`Config`] or one error that says where the mistake is. [`read()`] fetches what
//! it takes from the machine.

pub mod keys;
mod layers;
mod origin;
mod read;
mod template;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::NaiveDate;

use self::layers::{Given, Settings, cut};
pub use self::origin::{Access, Exposure, Origin, SecretFrom, exposures};
pub use self::read::{read, read_http};
pub use self::template::template;
use crate::clock::ClockKind;
use crate::domain::pair::MAJOR_PAIRS;
use crate::domain::scale::Scale;
use crate::domain::{Calendar, Epic, Pair, Timeframe, Timestamp, Zone};
use crate::exit::Failure;
use crate::secret::Secret;
use crate::store::DatabaseUrl;
use crate::tlcp::Transport;

/// IG's base addresses (IG's REST guide).
const DEMO_API_URL: &str = "https://demo-api.ig.com/gateway/deal";
const LIVE_API_URL: &str = "https://api.ig.com/gateway/deal";

/// IG streams at most this many items on one connection (IG's streaming guide).
pub const FEEDS_MAX: usize = 40;

/// The calendar every pair has unless the configuration names another.
pub const FOREX_CALENDAR: &str = "forex";

/// The file that `init` writes and that is looked for.
pub const FILE_NAME: &str = "candlekeep.toml";

/// What is said of an address with a password among a program's arguments.
pub const PASSWORD_IN_ARGUMENT: &str =
    "a password in an argument is there for all to see: leave it out and put it into ~/.pgpass";

/// Everything the service was told, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The broker.
    pub ig: Ig,
    /// What to log in with.
    pub credentials: Credentials,
    /// What to collect: the major pairs that were not removed, then added ones by name.
    pub feeds: Vec<FeedConfig>,
    /// Bar lengths to keep, shortest first; always has 5 minutes.
    pub timeframes: Vec<Timeframe>,
    /// Where the bars go.
    pub database: DatabaseUrl,
    /// What settles a bar in time.
    pub clock: ClockKind,
    /// Logins.
    pub session: Session,
    /// The stream.
    pub stream: Stream,
    /// Requests for history.
    pub history: History,
    /// How long bars are kept.
    pub retention: Retention,
    /// Writing.
    pub store: Store,
    /// The HTTP interface.
    pub http: Http,
    /// Calendars beside the built-in one, by name.
    pub calendars: BTreeMap<String, CalendarConfig>,
    /// Trading days on which the built-in calendar is closed besides.
    pub forex_closed: Vec<NaiveDate>,
    /// Which files it was read from; [`load`] leaves it empty.
    pub origin: Origin,
}

impl Config {
    /// The watched pairs, in the order of the feeds.
    pub fn pairs(&self) -> impl Iterator<Item = Pair> {
        self.feeds.iter().map(|feed| feed.pair)
    }

    /// The calendar of this name. The built-in one where there is none: a pair of earlier days may
    /// have had one that is configured no more.
    pub fn calendar(&self, name: &str) -> Calendar {
        match self.calendars.get(name) {
            Some(configured) => Calendar::from(configured),
            None => Calendar::forex().closed_on(self.forex_closed.iter().copied()),
        }
    }

    /// The calendar of a watched pair.
    pub fn calendar_of(&self, pair: Pair) -> Option<Calendar> {
        let feed = self.feeds.iter().find(|feed| feed.pair == pair)?;
        Some(self.calendar(&feed.calendar))
    }

    /// The calendar of each feed, in the order of the feeds; those of one name share it.
    pub fn feed_calendars(&self) -> Vec<Arc<Calendar>> {
        let mut known: BTreeMap<&str, Arc<Calendar>> = BTreeMap::new();
        let shared = |name| known.entry(name).or_insert_with(|| Arc::new(self.calendar(name))).clone();
        self.feeds.iter().map(|feed| feed.calendar.as_str()).map(shared).collect()
    }
}

/// Which of IG's worlds a database belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Environment {
    /// IG's demo host.
    Demo,
    /// IG's live host.
    Live,
    /// Another host: a simulator or proxy.
    Custom,
}

impl Environment {
    /// How the database spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Environment::Demo => "demo",
            Environment::Live => "live",
            Environment::Custom => "custom",
        }
    }
}

/// Whose money.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountType {
    /// Play money.
    Demo,
    /// Real money.
    Live,
}

impl AccountType {
    /// How the configuration and the database spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            AccountType::Demo => "demo",
            AccountType::Live => "live",
        }
    }
}

/// Which of IG's instruments for a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// By the account's type.
    Auto,
    /// `CS.D.EURUSD.CFD.IP`.
    Cfd,
    /// `CS.D.EURUSD.TODAY.IP`: spread bets.
    Today,
    /// `CS.D.EURUSD.MINI.IP`.
    Mini,
}

/// The broker.
#[derive(Clone, PartialEq, Eq)]
pub struct Ig {
    /// Follows from the base address.
    pub environment: Environment,
    /// Base address of the REST interface, without a slash at its end.
    pub api_url: String,
    /// Demo or live.
    pub account_type: AccountType,
    /// Account to stream on; `None`: the one the login lands on.
    pub account_id: Option<String>,
    /// Which of IG's instruments.
    pub product: Product,
    /// PEM file of authorities to believe besides those of the web.
    pub ca_file: Option<PathBuf>,
}

impl Ig {
    /// Whether passwords and tokens would cross a network in the clear.
    pub fn is_in_the_clear(&self) -> bool {
        leaves_machine_in_the_clear(&self.api_url)
    }
}

/// Whether what is said to this address leaves the machine without TLS.
fn leaves_machine_in_the_clear(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return false };
    let place = rest.split('/').next().unwrap_or_default();
    let name = match place.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        None => place.rsplit_once(':').map_or(place, |(name, _)| name),
    };
    let is_loopback = name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    !is_loopback && !name.eq_ignore_ascii_case("localhost")
}

impl fmt::Debug for Ig {
    /// Without the account's id, which belongs in no log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ig")
            .field("environment", &self.environment)
            .field("api_url", &self.api_url)
            .field("account_type", &self.account_type)
            .field("account_id", &self.account_id.as_ref().map(|_| format_args!("..")))
            .field("product", &self.product)
            .field("ca_file", &self.ca_file)
            .finish()
    }
}

/// What to log in with, as far as it was given. Commands that only read the database need none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// `IG_API_KEY`.
    pub api_key: Option<Secret>,
    /// `IG_USERNAME`.
    pub username: Option<Secret>,
    /// `IG_PASSWORD`.
    pub password: Option<Secret>,
    /// Variables that were set and look like one of the above misspelled.
    lookalikes: Vec<String>,
    /// A file of secrets that could not be read; told to who requires the secrets.
    problem: Option<ConfigError>,
}

/// Complete credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Identifies the application to IG.
    pub api_key: Secret,
    /// Identifies the user.
    pub username: Secret,
    /// Proves it.
    pub password: Secret,
}

impl Credentials {
    /// The credentials, if complete.
    ///
    /// # Errors
    /// One line that names every missing variable, or the file of secrets that could not be read.
    pub fn require(&self) -> Result<Login, ConfigError> {
        if let Some(problem) = &self.problem {
            return Err(problem.clone());
        }
        match (&self.api_key, &self.username, &self.password) {
            (Some(api_key), Some(username), Some(password)) => {
                Ok(Login { api_key: api_key.clone(), username: username.clone(), password: password.clone() })
            }
            given => {
                let given = [given.0, given.1, given.2];
                let missing: Vec<_> = keys::SECRETS
                    .into_iter()
                    .zip(given)
                    .filter_map(|(name, value)| value.is_none().then_some(name))
                    .collect();
                Err(ConfigError::MissingCredentials {
                    names: missing.join(", "),
                    hint: match self.lookalikes.as_slice() {
                        [] => String::new(),
                        names => format!("; {} is set but has no meaning", names.join(", ")),
                    },
                })
            }
        }
    }
}

/// One instrument to collect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedConfig {
    /// Currency pair.
    pub pair: Pair,
    /// IG's instrument; `None`: by pair and product.
    pub epic: Option<Epic>,
    /// Decimal or points.
    pub scale: ScaleSetting,
    /// Name of the calendar it trades by.
    pub calendar: String,
}

/// What the configuration says of a feed's scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleSetting {
    /// To be classified at start.
    Auto,
    /// Settled by the operator.
    Fixed(Scale),
}

/// Logins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Version of IG's login: 2 or 3.
    pub version: u8,
    /// Least time between two logins.
    pub login_spacing: Duration,
}

/// The stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Version of Lightstreamer's protocol, for example `2.4.0`.
    pub tlcp_version: String,
    /// Silence of one item, in event time, after which it is subscribed anew.
    pub stale: Duration,
    /// Silence of the whole connection in market hours after which something is done about it;
    /// `None`: nothing.
    pub silence: Option<Duration>,
    /// The only transport to use; `None`: a WebSocket, and HTTP where none is to be had.
    pub transport: Option<Transport>,
    /// Connect timeout, and first distance between attempts.
    pub retry: Duration,
    /// Longest silence wanted from the server; `None`: its own choice.
    pub keepalive: Option<Duration>,
    /// Grace after the server's keepalive.
    pub stalled: Duration,
    /// Further silence after which a connection is given up.
    pub reconnect: Duration,
    /// How long a broken connection is tried to be recovered.
    pub recovery: Duration,
    /// Longest silence that we promise; `None`: no promise.
    pub inactivity: Option<Duration>,
    /// Bytes after which an HTTP connection is to be bound anew.
    pub content_length: u64,
    /// Time on HTTP after which a WebSocket is tried again.
    pub websocket_again: Duration,
    /// Whether connections of a session go where the server's control link says.
    pub control_link: bool,
}

/// Requests for history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// Pace; `None`: by IG's own limits.
    pub requests_per_minute: Option<u32>,
    /// Data points that backfill and old holes leave untouched.
    pub reserve: u32,
    /// Most data points for one incident.
    pub incident_cap: u32,
    /// Bars to fetch on the first start.
    pub depth: Depth,
    /// Days after which an unhealed hole is lost.
    pub give_up_days: u32,
}

/// Bars of history to fetch, per pair and timeframe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Depth {
    default: u32,
    by_timeframe: BTreeMap<Timeframe, u32>,
}

impl Depth {
    /// How many bars of this length.
    pub fn bars(&self, timeframe: Timeframe) -> u32 {
        self.by_timeframe.get(&timeframe).copied().unwrap_or(self.default)
    }
}

/// How long bars are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    default: Option<u32>,
    by_timeframe: BTreeMap<Timeframe, u32>,
}

impl Retention {
    /// Days that bars of this length are kept; `None`: for ever.
    pub fn days(&self, timeframe: Timeframe) -> Option<u32> {
        self.by_timeframe.get(&timeframe).copied().or(self.default)
    }

    /// Where what is kept of this length begins at `now`, on the hour; `None`: everything is kept.
    pub fn limit(&self, timeframe: Timeframe, now: Timestamp) -> Option<Timestamp> {
        let days = self.days(timeframe)?;
        Some(now.plus(-i64::from(days) * 86_400).floor(Timeframe::H1.seconds()))
    }
}

/// Writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// Time to collect bars before writing; zero: write at once when nothing is under way.
    pub flush: Duration,
    /// Folder for bars while the database is away; `None`: beside it.
    pub spool_dir: Option<PathBuf>,
}

/// The HTTP interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// Where to listen; `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// File with the token clients must present.
    pub token_file: Option<PathBuf>,
    /// Host names, besides loopback, under which clients may call.
    pub allowed_hosts: Vec<String>,
}

/// The trading hours of a market, in one city's wall time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CalendarConfig {
    /// The city.
    pub zone: Zone,
    /// Opening, in minutes since Sunday 00:00.
    pub opens: u32,
    /// Close, in minutes since Sunday 00:00.
    pub closes: u32,
    /// Daily pause: first and last minute of the day, half-open.
    pub daily_break: Option<(u32, u32)>,
    /// Days without trading.
    pub closed: Vec<NaiveDate>,
}

impl From<&CalendarConfig> for Calendar {
    fn from(config: &CalendarConfig) -> Calendar {
        let daily_break = config.daily_break.map(|(from, to)| from..to);
        Calendar::new(config.zone.clone(), config.opens..config.closes, daily_break)
            .closed_on(config.closed.iter().copied())
    }
}

/// Why the configuration cannot be used. Every message is one line and shows no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A file that was named, or found, cannot be read.
    #[error("cannot read {path}: {reason}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system says, and who may read it.
        reason: String,
        /// The command that lets others read it, where that is what is lacking.
        mend: Option<String>,
    },
    /// The file is not TOML.
    #[error("{path}:{line}:{column}: not valid TOML: {message}")]
    Malformed {
        /// The file.
        path: String,
        /// Line, from 1.
        line: usize,
        /// Character in the line, from 1.
        column: usize,
        /// What the parser says.
        message: String,
    },
    /// A key that means nothing here.
    #[error("{place}: unknown key \"{key}\"; {meant}")]
    UnknownKey {
        /// Where it stands.
        place: String,
        /// The key.
        key: String,
        /// What was probably meant.
        meant: Meant,
    },
    /// A variable with our prefix that means nothing.
    #[error("unknown environment variable {name}; the nearest known one is {nearest}")]
    UnknownVariable {
        /// The variable.
        name: String,
        /// The variable that was probably meant.
        nearest: String,
    },
    /// A secret stands in the file.
    #[error("{place}: \"{key}\" is a secret and is refused in the file: set {variable} in the environment")]
    SecretInFile {
        /// Where it stands.
        place: String,
        /// The key.
        key: String,
        /// Where it belongs.
        variable: &'static str,
    },
    /// A value that cannot be used.
    #[error("{place}: {problem}")]
    Invalid {
        /// Where it stands.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Logging in takes secrets that nobody gave.
    #[error(
        "missing credentials: set {names} (or files named by the same with _FILE behind, or systemd's LoadCredential){hint}; `candlekeep demo` needs none"
    )]
    MissingCredentials {
        /// The missing variables.
        names: String,
        /// What was probably mistaken for them.
        hint: String,
    },
}

/// What somebody may have meant by a key that is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meant {
    /// This one, which is spelled nearly so.
    Nearest(String),
    /// One of those that there are in its section.
    OneOf(Vec<String>),
}

impl fmt::Display for Meant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Meant::Nearest(key) => write!(f, "the nearest known key is \"{key}\""),
            Meant::OneOf(keys) => write!(f, "known here are {}", keys.join(", ")),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        match &error {
            ConfigError::Unreadable { mend: Some(mend), .. } => {
                Failure::configuration(format_args!("{error}; {mend}"))
            }
            _ => Failure::configuration(error),
        }
    }
}

/// A configuration file and what stands in it.
#[derive(Clone, Copy, Debug)]
pub struct FileText<'a> {
    /// Its name, for errors.
    pub path: &'a Path,
    /// Its text.
    pub text: &'a str,
}

/// What the command line says on configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--database`.
    pub database: Option<String>,
}

/// Puts the layers together and checks the whole.
///
/// # Errors
/// The first mistake found, with its place.
pub fn load(
    file: Option<FileText<'_>>,
    env: &BTreeMap<String, String>,
    flags: &Flags,
) -> Result<Config, ConfigError> {
    let mut settings = Settings::default();
    if let Some(file) = &file {
        settings.add_file(file)?;
    }
    settings.add_environment(env)?;
    settings.add_flags(flags);
    let settings = &settings;

    let (calendars, forex_closed) = calendars(settings)?;
    let history = History {
        requests_per_minute: match settings.get("history.requests_per_minute") {
            Some(given) => Some(given.whole(1..=REQUESTS_PER_MINUTE_MAX)?),
            None => None,
        },
        reserve: whole(settings, "history.reserve", 1000, POINTS_MAX)?,
        incident_cap: whole(settings, "history.incident_cap", 3000, POINTS_MAX)?,
        depth: depth(settings)?,
        give_up_days: match settings.get("history.give_up_days") {
            Some(given) => given.whole(1..=GIVE_UP_DAYS_MAX)?,
            None => 28,
        },
    };
    Ok(Config {
        ig: ig(settings)?,
        credentials: credentials(env),
        feeds: feeds(settings, &calendars)?,
        timeframes: timeframes(settings)?,
        database: match settings.get("database.url") {
            Some(given) => {
                let url: DatabaseUrl = given.parsed()?;
                if url.has_password() && given.place == "--database" {
                    return Err(given.invalid(PASSWORD_IN_ARGUMENT));
                }
                url
            }
            None => DatabaseUrl::sqlite("candlekeep.db"),
        },
        clock: one_of(settings, "clock", &[("system", ClockKind::System), ("stream", ClockKind::Stream)])?,
        session: Session {
            version: one_of(settings, "session.version", &[("2", 2), ("3", 3)])?,
            login_spacing: seconds(settings, "session.login_spacing_s", 61, 0, SECONDS_MAX)?,
        },
        stream: Stream {
            tlcp_version: tlcp_version(settings)?,
            stale: seconds(settings, "stream.stale_s", 600, 1, SECONDS_MAX)?,
            silence: silence(settings)?,
            transport: one_of(
                settings,
                "stream.transport",
                &[("auto", None), ("websocket", Some(Transport::WebSocket)), ("http", Some(Transport::Http))],
            )?,
            retry: millis(settings, "stream.retry_ms", 4000, 10)?,
            keepalive: optional_millis(settings, "stream.keepalive_ms")?,
            stalled: millis(settings, "stream.stalled_ms", 2000, 0)?,
            reconnect: millis(settings, "stream.reconnect_ms", 3000, 0)?,
            recovery: millis(settings, "stream.recovery_ms", 15_000, 0)?,
            inactivity: optional_millis(settings, "stream.inactivity_ms")?,
            content_length: match settings.get("stream.content_length") {
                Some(given) => given.whole(CONTENT_LENGTH_MIN..=u32::MAX)?.into(),
                None => 50_000_000,
            },
            websocket_again: seconds(settings, "stream.websocket_again_s", 600, 1, SECONDS_MAX)?,
            control_link: one_of(settings, "stream.control_link", &[("follow", true), ("ignore", false)])?,
        },
        retention: retention(settings, &history)?,
        history,
        store: Store {
            flush: Duration::from_millis(whole(settings, "store.flush_ms", 0, FLUSH_MS_MAX)?.into()),
            spool_dir: path(settings, "store.spool_dir")?,
        },
        http: http(settings)?,
        calendars,
        forex_closed,
        origin: Origin::default(),
    })
}

/// What file and environment say of the HTTP interface, and whether they say where it is to listen. Nothing else is
/// checked than that every key is known.
///
/// # Errors
/// The first mistake found, with its place.
pub fn load_http(
    file: Option<FileText<'_>>,
    env: &BTreeMap<String, String>,
) -> Result<(Http, bool), ConfigError> {
    let mut settings = Settings::default();
    if let Some(file) = &file {
        settings.add_file(file)?;
    }
    settings.add_environment(env)?;
    Ok((http(&settings)?, settings.get("http.listen").is_some()))
}

/// Whether a file gives the database's address with a password in it, whatever other layers say.
fn has_password(file: &FileText<'_>) -> bool {
    let mut settings = Settings::default();
    let read = settings.add_file(file).is_ok();
    let url = settings.get("database.url").and_then(|given| given.parsed::<DatabaseUrl>().ok());
    read && url.is_some_and(|url| url.has_password())
}

/// Bounds that keep a slip of the pen from becoming a silent outage.
const STREAM_MS_MAX: u32 = 600_000;
const STREAM_MS_MIN: u32 = 100;
const CONTENT_LENGTH_MIN: u32 = 1_000;
const SECONDS_MAX: u32 = 86_400;
const REQUESTS_PER_MINUTE_MAX: u32 = 10_000;
const POINTS_MAX: u32 = 1_000_000;
const DEPTH_BARS_MAX: u32 = 100_000;
const GIVE_UP_DAYS_MAX: u32 = 3_650;
const RETENTION_DAYS_MAX: u32 = 36_500;
const FLUSH_MS_MAX: u32 = 60_000;

fn whole(settings: &Settings, path: &str, default: u32, most: u32) -> Result<u32, ConfigError> {
    settings.get(path).map_or(Ok(default), |given| given.whole(0..=most))
}

fn seconds(
    settings: &Settings,
    path: &str,
    default: u32,
    least: u32,
    most: u32,
) -> Result<Duration, ConfigError> {
    let seconds = settings.get(path).map_or(Ok(default), |given| given.whole(least..=most))?;
    Ok(Duration::from_secs(seconds.into()))
}

/// One of the words; the first is the default.
fn one_of<T: Copy>(settings: &Settings, path: &str, words: &[(&str, T)]) -> Result<T, ConfigError> {
    settings.get(path).map_or(Ok(words[0].1), |given| given.one_of(words))
}

fn path(settings: &Settings, path: &str) -> Result<Option<PathBuf>, ConfigError> {
    let Some(given) = settings.get(path) else { return Ok(None) };
    match given.text()? {
        "" => Err(given.invalid("expected a path, found nothing")),
        text => Ok(Some(PathBuf::from(text))),
    }
}

fn ig(settings: &Settings) -> Result<Ig, ConfigError> {
    let account_type =
        one_of(settings, "ig.account_type", &[("demo", AccountType::Demo), ("live", AccountType::Live)])?;
    let api_url = match settings.get("ig.api_url") {
        Some(given) => api_url(given)?,
        None => match account_type {
            AccountType::Demo => DEMO_API_URL.to_owned(),
            AccountType::Live => LIVE_API_URL.to_owned(),
        },
    };
    let environment = match api_url.as_str() {
        DEMO_API_URL => Environment::Demo,
        LIVE_API_URL => Environment::Live,
        _ => Environment::Custom,
    };
    if let (Some(given), AccountType::Live) = (settings.get("ig.api_url"), account_type)
        && leaves_machine_in_the_clear(&api_url)
    {
        return Err(
            given.invalid("a live account's password does not go over a network in the clear: use https")
        );
    }
    if let (Some(given), Environment::Demo, AccountType::Live)
    | (Some(given), Environment::Live, AccountType::Demo) =
        (settings.get("ig.api_url"), environment, account_type)
    {
        return Err(given.invalid(format_args!(
            "this is IG's {} host, but ig.account_type is {}",
            environment.as_str(),
            account_type.as_str()
        )));
    }
    let account_id = settings.get("ig.account_id").map(account_id).transpose()?;
    let products =
        [("auto", Product::Auto), ("cfd", Product::Cfd), ("today", Product::Today), ("mini", Product::Mini)];
    Ok(Ig {
        environment,
        api_url,
        account_type,
        account_id,
        product: one_of(settings, "ig.product", &products)?,
        ca_file: path(settings, "ig.ca_file")?,
    })
}

fn api_url(given: &Given) -> Result<String, ConfigError> {
    let text = given.text()?.trim().trim_end_matches('/');
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match rest {
        Some(rest)
            if !rest.is_empty()
                && !rest.starts_with('/')
                && !rest.contains(|c: char| c.is_whitespace() || c.is_control() || "@?#".contains(c)) =>
        {
            Ok(text.to_owned())
        }
        // The text is not repeated: an address with a user in it holds a password too.
        _ => {
            Err(given.invalid("expected an address such as https://host/gateway/deal, without user or query"))
        }
    }
}

/// IG's pattern for account ids. The id is not repeated in the error.
fn account_id(given: &Given) -> Result<String, ConfigError> {
    let text = given.text()?.trim();
    if (1..=30).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        Ok(text.to_owned())
    } else {
        Err(given.invalid("expected an account id: up to 30 letters, digits and dashes"))
    }
}

fn credentials(env: &BTreeMap<String, String>) -> Credentials {
    let secret = |name: &str| env.get(name).filter(|value| !value.is_empty()).map(Secret::new);
    let lookalikes = env
        .iter()
        .filter(|(name, value)| name.starts_with("IG_") && !value.is_empty() && !is_ig_variable(name))
        .map(|(name, _)| name.clone())
        .take(3)
        .collect();
    let [api_key, username, password] = keys::SECRETS.map(secret);
    Credentials { api_key, username, password, lookalikes, problem: None }
}

fn is_ig_variable(name: &str) -> bool {
    let secret = name.strip_suffix("_FILE").unwrap_or(name);
    keys::SECRETS.contains(&secret) || keys::find_by_variable(name).is_some()
}

fn timeframes(settings: &Settings) -> Result<Vec<Timeframe>, ConfigError> {
    let Some(given) = settings.get("timeframes") else { return Ok(vec![Timeframe::M5, Timeframe::M15]) };
    let mut timeframes = Vec::new();
    for item in given.list()? {
        timeframes.push(timeframe(&item)?);
    }
    timeframes.sort_unstable();
    timeframes.dedup();
    if timeframes.first() != Some(&Timeframe::M5) {
        return Err(given.invalid("5 must be among the timeframes: the longer ones are folded from it"));
    }
    Ok(timeframes)
}

fn timeframe(given: &Given) -> Result<Timeframe, ConfigError> {
    match &given.raw {
        layers::Raw::Whole(minutes) => minutes.to_string().parse().map_err(|error| given.invalid(error)),
        _ => given.parsed(),
    }
}

fn depth(settings: &Settings) -> Result<Depth, ConfigError> {
    let mut depth = Depth { default: 100, by_timeframe: BTreeMap::new() };
    let Some(given) = settings.get("history.depth") else { return Ok(depth) };
    match given.table() {
        None => depth.default = given.whole(0..=DEPTH_BARS_MAX)?,
        Some(entries) => {
            for (key, bars) in entries {
                let timeframe = key.parse().map_err(|error| bars.invalid(error))?;
                depth.by_timeframe.insert(timeframe, bars.whole(0..=DEPTH_BARS_MAX)?);
            }
        }
    }
    Ok(depth)
}

/// What may still be healed or fetched at first must not be deleted under the healer's hands.
fn retention(settings: &Settings, history: &History) -> Result<Retention, ConfigError> {
    let mut retention = Retention::default();
    let Some(given) = settings.get("retention.days") else { return Ok(retention) };
    let days = |given: &Given, timeframes: &[Timeframe]| {
        let days = given.whole(1..=RETENTION_DAYS_MAX)?;
        let least = timeframes.iter().map(|timeframe| least_days(history, *timeframe)).max().unwrap_or(1);
        if days < least {
            return Err(given.invalid(format_args!(
                "{days} days are too few: history.give_up_days and history.depth reach back {least} days"
            )));
        }
        Ok(days)
    };
    match given.table() {
        None => retention.default = Some(days(given, &Timeframe::ALL)?),
        Some(entries) => {
            for (key, given) in entries {
                let timeframe = key.parse().map_err(|error| given.invalid(error))?;
                retention.by_timeframe.insert(timeframe, days(&given, &[timeframe])?);
            }
        }
    }
    Ok(retention)
}

/// How far back bars of this length may be asked for: until they are given up, and on the first start over
/// weekends and holidays.
fn least_days(history: &History, timeframe: Timeframe) -> u32 {
    let minutes = u64::from(history.depth.bars(timeframe)) * timeframe.minutes().unsigned_abs();
    let first = (minutes * 7).div_ceil(5 * 24 * 60) + 7;
    history.give_up_days.saturating_add(u32::try_from(first).unwrap_or(u32::MAX))
}

fn tlcp_version(settings: &Settings) -> Result<String, ConfigError> {
    let Some(given) = settings.get("stream.tlcp_version") else { return Ok("2.4.0".to_owned()) };
    let text = given.text()?.trim();
    let parts: Vec<_> = text.split('.').collect();
    let numeric = |part: &&str| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    if parts.len() == 3 && parts.iter().all(numeric) {
        Ok(text.to_owned())
    } else {
        Err(given.invalid("expected a version such as 2.4.0"))
    }
}

/// Two minutes by the system's clock. Simulated markets may end, and their silence is no trouble.
fn silence(settings: &Settings) -> Result<Option<Duration>, ConfigError> {
    let Some(given) = settings.get("stream.silence_s") else {
        let clock =
            one_of(settings, "clock", &[("system", ClockKind::System), ("stream", ClockKind::Stream)])?;
        return Ok((clock == ClockKind::System).then_some(Duration::from_secs(120)));
    };
    let seconds = given.whole(0..=SECONDS_MAX)?;
    Ok((seconds > 0).then_some(Duration::from_secs(seconds.into())))
}

fn millis(settings: &Settings, path: &str, default: u32, least: u32) -> Result<Duration, ConfigError> {
    let millis = match settings.get(path) {
        Some(given) => given.whole(least..=STREAM_MS_MAX)?,
        None => default,
    };
    Ok(Duration::from_millis(millis.into()))
}

fn optional_millis(settings: &Settings, path: &str) -> Result<Option<Duration>, ConfigError> {
    let millis = settings.get(path).map(|given| given.whole(STREAM_MS_MIN..=STREAM_MS_MAX)).transpose()?;
    Ok(millis.map(|millis| Duration::from_millis(millis.into())))
}

fn http(settings: &Settings) -> Result<Http, ConfigError> {
    let listen = match settings.get("http.listen") {
        None => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8017))),
        Some(given) => listen(given)?,
    };
    let token_file = path(settings, "http.token_file")?;
    if let (Some(given), Some(address), None) = (settings.get("http.listen"), listen, &token_file)
        && !address.ip().is_loopback()
    {
        return Err(given.invalid(format_args!("{address} is not loopback: http.token_file is required")));
    }
    let allowed_hosts = match settings.get("http.allowed_hosts") {
        None => Vec::new(),
        Some(given) => given
            .list()?
            .iter()
            .map(|host| host.text().map(|text| text.trim().to_ascii_lowercase()))
            .collect::<Result<_, _>>()?,
    };
    Ok(Http { listen, token_file, allowed_hosts })
}

fn listen(given: &Given) -> Result<Option<SocketAddr>, ConfigError> {
    if given.raw == layers::Raw::Switch(false) {
        return Ok(None);
    }
    let text = given.text()?.trim();
    if text.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    let numeric = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    numeric.parse().map(Some).map_err(|_| {
        given.invalid(format_args!(
            "expected ADDRESS:PORT such as 127.0.0.1:8017, or \"off\", found \"{}\"",
            cut(text)
        ))
    })
}

fn feeds(
    settings: &Settings,
    calendars: &BTreeMap<String, CalendarConfig>,
) -> Result<Vec<FeedConfig>, ConfigError> {
    let default = |pair| FeedConfig {
        pair,
        epic: None,
        scale: ScaleSetting::Auto,
        calendar: FOREX_CALENDAR.to_owned(),
    };
    let listed = settings.get(layers::PAIRS).map(listed_pairs).transpose()?;
    let mut feeds: Vec<_> = match &listed {
        Some(pairs) => pairs.iter().copied().map(default).collect(),
        None => MAJOR_PAIRS.map(default).into(),
    };
    for (name, given) in settings.under("pairs.") {
        let pair: Pair = name.parse().map_err(|error| given.invalid(error))?;
        let feed = feed(pair, given)?;
        // A list is of all: beside it an entry says only how a pair of it is collected.
        match (&listed, &feed) {
            (Some(pairs), _) if !pairs.contains(&pair) => continue,
            (Some(_), None) => return Err(given.invalid("pairs lists it: take it out of one of them")),
            _ => {}
        }
        match feed {
            None => feeds.retain(|feed| feed.pair != pair),
            Some(feed) => {
                if feed.calendar != FOREX_CALENDAR && !calendars.contains_key(&feed.calendar) {
                    let known: Vec<_> =
                        [FOREX_CALENDAR].into_iter().chain(calendars.keys().map(String::as_str)).collect();
                    return Err(given.invalid(format_args!(
                        "unknown calendar \"{}\"; known: {}",
                        cut(&feed.calendar),
                        known.join(", ")
                    )));
                }
                match feeds.iter_mut().find(|existing| existing.pair == pair) {
                    Some(existing) => *existing = feed,
                    None => feeds.push(feed),
                }
            }
        }
    }
    let problem = match feeds.len() {
        0 => "no pair is left to watch".to_owned(),
        n if n > FEEDS_MAX => format!("{n} pairs are more than the {FEEDS_MAX} that IG streams at once"),
        _ => return Ok(feeds),
    };
    Err(ConfigError::Invalid { place: "pairs".to_owned(), problem })
}

/// The pairs of a list, each once.
fn listed_pairs(given: &Given) -> Result<Vec<Pair>, ConfigError> {
    let mut pairs: Vec<Pair> = Vec::new();
    for item in given.list()? {
        let pair: Pair = item.parsed()?;
        if pairs.contains(&pair) {
            return Err(item.invalid(format_args!("{pair} is named twice")));
        }
        pairs.push(pair);
    }
    Ok(pairs)
}

/// One entry of `pairs`; `None` removes the pair.
fn feed(pair: Pair, given: &Given) -> Result<Option<FeedConfig>, ConfigError> {
    use layers::Raw;
    let mut feed =
        FeedConfig { pair, epic: None, scale: ScaleSetting::Auto, calendar: FOREX_CALENDAR.to_owned() };
    match &given.raw {
        Raw::Switch(true) => {}
        Raw::Switch(false) => return Ok(None),
        // The environment knows only text.
        Raw::Text(text) if text.eq_ignore_ascii_case("false") => return Ok(None),
        Raw::Text(text) if text.eq_ignore_ascii_case("true") => {}
        Raw::Text(_) => feed.epic = Some(given.parsed()?),
        Raw::Table(_) => {
            let entries = given.table_of(&["epic", "scale", "calendar"])?;
            if let Some(epic) = entries.get("epic") {
                feed.epic = Some(epic.parsed()?);
            }
            if let Some(scale) = entries.get("scale") {
                feed.scale = scale.one_of(&[
                    ("auto", ScaleSetting::Auto),
                    ("decimal", ScaleSetting::Fixed(Scale::Decimal)),
                    ("points", ScaleSetting::Fixed(Scale::points(pair))),
                ])?;
            }
            if let Some(calendar) = entries.get("calendar") {
                feed.calendar = calendar.text()?.trim().to_ascii_lowercase();
            }
        }
        _ => return Err(given.invalid("expected false, an epic, or { epic, scale, calendar }")),
    }
    Ok(Some(feed))
}

/// The calendars by name, and the dates on which the built-in one is closed.
fn calendars(settings: &Settings) -> Result<(BTreeMap<String, CalendarConfig>, Vec<NaiveDate>), ConfigError> {
    let (mut calendars, mut forex_closed) = (BTreeMap::new(), Vec::new());
    for (name, given) in settings.under("calendars.") {
        if name == FOREX_CALENDAR {
            forex_closed = forex_dates(given)?;
        } else {
            calendars.insert(name.to_owned(), calendar(given)?);
        }
    }
    Ok((calendars, forex_closed))
}

/// The dates that are given for the built-in calendar, which can be given nothing else.
fn forex_dates(given: &Given) -> Result<Vec<NaiveDate>, ConfigError> {
    let entries = given.table().unwrap_or_default();
    match entries.get("closed") {
        Some(dates) if entries.len() == 1 => closed(dates),
        _ => Err(given.invalid(
            "this calendar is built in, only `closed` may be given for it: choose another name for other hours",
        )),
    }
}

fn closed(dates: &Given) -> Result<Vec<NaiveDate>, ConfigError> {
    let date = |given: &Given| {
        given.text()?.trim().parse().map_err(|_| given.invalid("expected dates such as \"2026-12-25\""))
    };
    dates.list()?.iter().map(date).collect()
}

fn calendar(given: &Given) -> Result<CalendarConfig, ConfigError> {
    let entries = given.table_of(&["zone", "week", "daily_break", "closed"])?;
    let required =
        |key: &str| entries.get(key).ok_or_else(|| given.invalid(format_args!("{key} is missing")));
    let zone = required("zone")?;
    let week = required("week")?;
    let span =
        week.text()?.split_once('-').and_then(|(from, to)| Some((week_minute(from)?, week_minute(to)?)));
    let Some((opens, closes)) = span.filter(|(opens, closes)| opens < closes) else {
        return Err(week.invalid("expected a week such as \"Sun 22:00 - Fri 22:00\", from Sunday on"));
    };
    let daily_break = match entries.get("daily_break") {
        None => None,
        Some(pause) => {
            let span = pause
                .text()?
                .split_once('-')
                .and_then(|(from, to)| Some((day_minute(from)?, day_minute(to)?)));
            let Some(span) = span.filter(|(from, to)| from < to) else {
                return Err(pause.invalid("expected a pause within one day such as \"22:00 - 22:05\""));
            };
            Some(span)
        }
    };
    let closed = entries.get("closed").map(closed).transpose()?.unwrap_or_default();
    Ok(CalendarConfig {
        zone: Zone::named(zone.text()?.trim())
            .ok_or_else(|| zone.invalid("expected a time zone such as \"Europe/London\""))?,
        opens,
        closes,
        daily_break,
        closed,
    })
}

const MINUTES_PER_DAY: u32 = 24 * 60;

/// `Sun 22:00` as minutes since Sunday 00:00.
fn week_minute(text: &str) -> Option<u32> {
    let (day, time) = text.trim().split_once(' ')?;
    let day = day.to_ascii_lowercase();
    let days = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    let index = days.iter().position(|known| day.starts_with(known))?;
    Some(u32::try_from(index).ok()? * MINUTES_PER_DAY + day_minute(time)?)
}

/// `22:05` as minutes since midnight; `24:00` is the end of the day.
fn day_minute(text: &str) -> Option<u32> {
    let (hour, minute) = text.trim().split_once(':')?;
    let number = |part: &str| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse::<u32>().ok())?;
    let (hour, minute) = (number(hour)?, number(minute)?);
    let total = hour.checked_mul(60)?.checked_add(minute)?;
    (minute < 60 && total <= MINUTES_PER_DAY).then_some(total)
}

#[cfg(test)]
mod tests;
