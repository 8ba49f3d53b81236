//! The way to IG, the login, and what IG says. Pure.

use super::listed;
use crate::commands::doctor::check::Check;
use crate::commands::margin::lasting;
use crate::domain::Timestamp;
use crate::domain::scale::Verdict;
use crate::ig::IgError;
use crate::ig::markets::{Instrument, Listing};
use crate::ig::rest::{Hurdle, NoWay};
use crate::skew::WARN_FROM_MS;
use crate::store::AllowanceState;
use crate::tls::Mistrust;

/// A clock that differs from IG's by more than this ends the service (DESIGN, clocks), ms.
const CLOCK_OFF_MAX_MS: i64 = 3_600_000;

/// By how much the system's clock is ahead of IG's, between the two, ms.
pub fn clock_of_ig((low_ms, high_ms): (i64, i64)) -> Check {
    let mend = "sudo timedatectl set-ntp true, or set the clock";
    let off_ms = if low_ms > 0 { low_ms } else { high_ms.min(0) };
    let words =
        format!("{} {}", lasting(off_ms.abs() / 1_000), if off_ms > 0 { "ahead of" } else { "behind" });
    if off_ms.abs() >= CLOCK_OFF_MAX_MS {
        let state = format!("the system's clock is {words} IG's, with which the service does not run");
        return Check::fix("clock of IG", state, mend);
    }
    if off_ms.abs() > WARN_FROM_MS {
        return Check::warn(
            "clock of IG",
            format!("the system's clock is {words} IG's, which is corrected for"),
            mend,
        );
    }
    Check::ok("clock of IG", "agrees with the system's")
}

/// Whether there is a way to IG.
pub fn network(api_url: &str, outcome: Result<(), &NoWay>) -> Check {
    let NoWay { error, hurdle } = match outcome {
        Ok(()) if api_url.starts_with("https") => {
            return Check::ok("network", format!("{api_url} answers, its certificate is trusted"));
        }
        Ok(()) => return Check::ok("network", format!("{api_url} answers")),
        Err(no_way) => no_way,
    };
    let place = api_url.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or(api_url);
    let mend = match hurdle {
        Hurdle::Mistrust(Mistrust::Time) => {
            "date -u shows the clock, sudo timedatectl set-ntp true sets it".to_owned()
        }
        Hurdle::Mistrust(Mistrust::Name) | Hurdle::Redirect => {
            "is ig.api_url right, or does a proxy or a portal of this network step in?".to_owned()
        }
        Hurdle::Mistrust(Mistrust::Certificate) => {
            "openssl s_client -connect shows who has signed it; ig.ca_file trusts a proxy of your own"
                .to_owned()
        }
        Hurdle::Name => {
            let name = place.rsplit_once(':').map_or(place, |(name, _)| name);
            format!("getent hosts {name} asks once more; mend /etc/resolv.conf, or ig.api_url")
        }
        Hurdle::Mistrust(Mistrust::Protocol) | Hurdle::Other => {
            format!("curl -sSI {api_url}/session shows what is in the way: a firewall, a proxy, ig.api_url")
        }
    };
    Check::fix("network", error.to_string(), mend)
}

/// Why nobody logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoLogin {
    /// It is not wanted.
    Offline,
    /// The credentials are not all there, or were refused before.
    NoCredentials,
    /// Another process is logged in.
    Running(String),
    /// There is nothing to note a refusal in, for this reason.
    NoPlace(String),
    /// The database is this user's, who would leave files of another's beside it.
    OfAnother(String),
    /// The last login was so shortly before that it would take so many seconds, or the way to IG is not open.
    TooSoon(u64),
    /// There is no way to IG.
    NoWay,
}

/// The line about a login that was not made.
pub fn not_logged_in(why: &NoLogin) -> Check {
    let ok = |state: String| Check::ok("login", state);
    match why {
        NoLogin::Offline => ok("not tried (--offline)".to_owned()),
        NoLogin::NoCredentials => ok("not tried: see credentials".to_owned()),
        NoLogin::NoWay => ok("not tried: see network".to_owned()),
        NoLogin::Running(who) => ok(format!("not tried, since {who} has the login: what it knows follows")),
        NoLogin::NoPlace(why) => Check::warn(
            "login",
            format!("not tried, since a refusal could not be noted: {why}"),
            "mend database and permissions, and try again",
        ),
        NoLogin::OfAnother(name) => Check::warn(
            "login",
            format!(
                "not tried: the database is {name}'s, and files of another's beside it would be in its way"
            ),
            format!("sudo -u {name} candlekeep doctor"),
        ),
        NoLogin::TooSoon(wait_s) => Check::warn(
            "login",
            format!("not tried: IG is to be left alone for {wait_s} s after the last login"),
            "try again then",
        ),
    }
}

/// What became of the login.
pub fn login(outcome: Result<&LoggedIn, &IgError>) -> Check {
    match outcome {
        Ok(LoggedIn { account_type, is_chosen, .. }) => {
            let account = account_type.as_deref().unwrap_or("unknown");
            let which = if *is_chosen { "the one of ig.account_id" } else { "where the login lands" };
            Check::ok("login", format!("IG takes these credentials; account {which}, type {account}"))
        }
        Err(error @ IgError::CredentialsRefused(_)) => Check::fix(
            "login",
            format!("{error}; this is noted, and they are not tried again"),
            "change IG_API_KEY, IG_USERNAME or IG_PASSWORD",
        ),
        Err(error @ IgError::Misconfigured(_)) => {
            Check::fix("login", error.to_string(), "change ig.account_id or ig.api_url")
        }
        Err(error) => Check::warn("login", error.to_string(), "try again in a few minutes"),
    }
}

/// What a login has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoggedIn {
    /// `CFD`, `SPREADBET`, where IG told it.
    pub account_type: Option<String>,
    /// The account is the configured one, and not where the login lands.
    pub is_chosen: bool,
    /// What IG says of each epic.
    pub instruments: Vec<(Instrument, Listing)>,
    /// Why nothing is known of these.
    pub no_instruments: Option<IgError>,
}

/// What IG says of the configured instruments.
pub fn epics(instruments: &[(Instrument, Listing)]) -> Vec<Check> {
    let those = |which: &dyn Fn(&Instrument, Listing) -> bool| -> Vec<String> {
        let found = instruments.iter().filter(|(instrument, listing)| which(instrument, *listing));
        found.map(|(instrument, _)| format!("{} ({})", instrument.pair, instrument.epic)).collect()
    };
    let mut checks = Vec::new();
    let mut fix = |names: Vec<String>, what: &str, mend: &str| {
        if !names.is_empty() {
            checks.push(Check::fix("epics", format!("{what}: {}", listed(&names)), mend));
        }
    };
    let unknown = those(&|_, listing| listing == Listing::Unknown);
    fix(
        unknown,
        "IG does not know on this account",
        "ig.product, or pairs.NAME = \"EPIC\", or pairs.NAME = false",
    );
    let silent = those(&|_, listing| listing == Listing::NotStreamed);
    fix(
        silent,
        "IG does not stream",
        "pairs.NAME = \"EPIC\" names another, pairs.NAME = false leaves it out",
    );
    let doubtful = those(&|instrument, _| instrument.scale == Verdict::Ambiguous);
    fix(doubtful, "price scale in doubt", "pairs.NAME = { scale = \"decimal\" } or \"points\"");
    if checks.is_empty() {
        let waiting = those(&|instrument, _| instrument.scale == Verdict::NoPriceYet).len();
        let later = match waiting {
            0 => String::new(),
            count => format!("; {count} without a price yet, whose scale shows later"),
        };
        checks.push(Check::ok("epics", format!("IG knows and streams all {}{later}", instruments.len())));
    }
    checks
}

/// Data points left, as far as is known.
pub fn allowance(known: Option<&AllowanceState>, reserve: u32, now: Timestamp) -> Check {
    let Some(state) = known else {
        return Check::ok("allowance", "not known before the first request for history");
    };
    let (remaining, renews) = (state.remaining(now), state.renews_at(now));
    let renews = renews.map_or(String::new(), |at| format!("; renewed {at}"));
    let told = format!("{remaining} data points left{renews}");
    if remaining <= reserve {
        return Check::warn(
            "allowance",
            format!("{told}: backfill and holes older than a day wait"),
            "wait, or lower history.reserve",
        );
    }
    Check::ok("allowance", told)
}
