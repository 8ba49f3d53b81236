//! `candlekeep status`: how the service stands, as far as the database tells. Asks IG for nothing.

mod json;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use self::json::json;
use self::text::text;
use super::margin;
use super::market::Market;
use super::outlook::{self, Outlook, Wish};
use super::paint::{BAD, FAINT, paint};
use super::{say, watch};
use crate::aggregator::inference::{self, Record};
use crate::api::{Place, place};
use crate::cli::{Report, Status};
use crate::clock::{Clock, ClockKind};
use crate::completeness::{OtherClock, market_now, other_clock};
use crate::config::{Config, FOREX_CALENDAR};
use crate::domain::{Pair, Timeframe, Timestamp};
use crate::exit::{Exit, Failure};
use crate::healer::actor;
use crate::healer::book::Scope;
use crate::ig::session::logins::Logins;
use crate::ig::stream::probes::{self, Probes};
use crate::ig::stream::state::{self, StreamState};
use crate::readiness::{self, Process, Readiness};
use crate::store::{LeaseState, Store, StreamBreak};
use crate::supervisor::chronicle::LastRun;
use crate::supervisor::house::{SETTING_AT, at_of};
use crate::supervisor::keeper::{Failures, SETTING_ROOMS};
use crate::writer::recovery;

pub(super) use self::text::{no_sign_of_life, service_line};

/// Breaks of the stream that are shown.
const BREAKS_SHOWN: u32 = 5;

/// What there is to tell.
struct Findings {
    /// The market's time, by which bars are old.
    now: Timestamp,
    /// The machine's.
    wall: Timestamp,
    /// What tells that the market does not go by it.
    other_clock: Option<OtherClock>,
    database: String,
    /// Facts that wait for the database; none where there is no spool, or it cannot be read.
    spooled: Option<u64>,
    lease: Option<LeaseState>,
    /// The service's last run, where it has left a record.
    last_run: Option<LastRun>,
    /// Who would collect next.
    standbys: Vec<LeaseState>,
    market: Market,
    readiness: Readiness,
    stream: Option<StreamState>,
    probes: Option<Probes>,
    /// How long the bars are that are kept.
    timeframes: Vec<Timeframe>,
    pairs: BTreeMap<Pair, PairState>,
    breaks: Vec<StreamBreak>,
    records: Vec<Record>,
    outlook: Outlook,
    /// Parts of the service that had to be built anew.
    rooms: Failures,
    /// What the service is at, in its own words.
    at: Option<String>,
    /// Where HTTP is served, or why it is not.
    http: Option<Place>,
    /// The last login, and those that led nowhere since one has led somewhere.
    logins: Logins,
    /// The least time between logins.
    login_spacing: Duration,
    /// What keeps the healer from healing, and since when.
    trouble: Option<(Timestamp, String)>,
}

#[derive(Default)]
struct PairState {
    last_bar: Option<Timestamp>,
    /// 5-minute buckets; `None` while nothing at all is known of the pair.
    missing: Option<u64>,
}

/// Prints the report.
///
/// # Errors
/// When there is no database, or it cannot be read.
pub fn execute(args: &Status, config: &Config) -> Result<Exit, Failure> {
    let report = Reported { format: args.format, config: config.clone(), clock: Clock::system() };
    if let Some(seconds) = args.watch {
        return watch::watch(Duration::from_secs(seconds.into()), report);
    }
    say(report.told(margin::columns())?.trim_end());
    Ok(Exit::Done)
}

/// The report, as often as it is asked for.
struct Reported {
    format: Report,
    config: Config,
    clock: Clock,
}

impl Reported {
    fn told(&self, columns: Option<usize>) -> Result<String, Failure> {
        let findings = find(&self.config, self.clock.wall())?;
        Ok(match self.format {
            Report::Text => text(&findings, columns),
            Report::Json => json(&findings),
        })
    }

    /// Above what is watched: numbers that stand still are as old as this says.
    fn head(&self) -> String {
        paint(FAINT, self.clock.wall().utc().format("at %H:%M:%S UTC"))
    }
}

impl watch::Watched for Reported {
    fn draw(&self, columns: Option<usize>) -> Result<String, Failure> {
        let told = self.told(columns)?;
        Ok(match self.format {
            Report::Text => format!("{}\n{told}", self.head()),
            Report::Json => told,
        })
    }

    fn draw_failure(&self, failure: &Failure) -> String {
        match self.format {
            Report::Text => format!("{}\n{} {failure}", self.head(), paint(BAD, "cannot be told now:")),
            Report::Json => json!({ "error": failure.to_string() }).to_string(),
        }
    }
}

/// The same for programs that ask over HTTP.
///
/// # Errors
/// When there is no database, or it cannot be read.
pub fn read_json(config: &Config, now: Timestamp) -> Result<String, Failure> {
    find(config, now).map(|findings| json(&findings))
}

/// What the service is at, where it cannot be collecting: one that is frozen says nothing of itself.
fn instead_of_collecting(lease: Option<&LeaseState>) -> Option<String> {
    match lease.filter(|lease| lease.alive) {
        None => Some("nobody collects".to_owned()),
        Some(lease) => {
            lease.silent_s().map(|silent_s| format!("no sign of life for {}", margin::lasting(silent_s)))
        }
    }
}

fn find(config: &Config, now: Timestamp) -> Result<Findings, Failure> {
    let spooled = recovery::facts_waiting(&config.database, config.store.spool_dir.as_deref());
    let mut store = Store::open_read_only(&config.database).map_err(|error| match spooled {
        Some(facts) if facts > 0 && error.is_retryable() => {
            Failure::failed(format_args!("{error}; {facts} facts wait for it in the spool"))
        }
        _ => error.into(),
    })?;
    let mut pairs: BTreeMap<Pair, PairState> =
        config.pairs().map(|pair| (pair, PairState::default())).collect();
    for (pair, timeframe, start) in store.last_bars()? {
        if timeframe == Timeframe::M5 {
            pairs.entry(pair).or_default().last_bar = Some(start);
        }
    }
    let step = Timeframe::M5.seconds();
    for pair in store.covered_to(Timeframe::M5)?.into_keys() {
        pairs.entry(pair).or_default().missing = Some(0);
    }
    for (pair, run) in store.missing(Timeframe::M5)? {
        let buckets = (run.span.end.since(run.span.start) / step) as u64;
        *pairs.entry(pair).or_default().missing.get_or_insert(0) += buckets;
    }
    // A market that goes by its own clock is as old as its newest bar.
    let lease = store.lease(now)?;
    let last_run = LastRun::find(&mut store, lease.as_ref())?;
    let standbys = store.standbys(now)?;
    let collector = lease.clone().filter(|lease| lease.alive);
    let outlook = outlook::look(Some(&mut store), config, &Scope::default(), &Wish::default(), false)?;
    let wall = now;
    let (market_now, stream, bars) = store.consistently(|store| {
        let now = market_now(store, config, wall)?;
        let stream = store.setting(state::SETTING)?.and_then(|text| StreamState::read(&text));
        Ok((now, stream, readiness::read(store, config, now)?))
    })?;
    let process = Process {
        at: instead_of_collecting(lease.as_ref()),
        spooled: spooled.unwrap_or(0),
        stream: stream.clone(),
        is_silent: lease.as_ref().is_some_and(|lease| lease.silent_s().is_some()),
    };
    let trades = readiness::trades(config, market_now, |_| true);
    let readiness = Readiness::judge(bars, &process, trades, wall);
    let newest = pairs.values().filter_map(|state| state.last_bar).max().map(|start| start.plus(step));
    let now = newest.filter(|_| config.clock == ClockKind::Stream).unwrap_or(now);
    Ok(Findings {
        now,
        wall,
        other_clock: other_clock(&mut store, config.clock, wall)?,
        database: config.database.to_string(),
        spooled,
        lease,
        last_run,
        standbys,
        market: Market::at(&config.calendar(FOREX_CALENDAR), now),
        readiness,
        stream,
        probes: store.setting(probes::SETTING)?.map(|text| Probes::read(&text)),
        timeframes: config.timeframes.clone(),
        pairs,
        breaks: store.newest_breaks(BREAKS_SHOWN)?,
        records: inference::records(
            &store.settings_under(inference::SETTINGS_MATCHED)?,
            &store.settings_under(inference::SETTINGS_GRANTED)?,
        ),
        rooms: store.setting(SETTING_ROOMS)?.and_then(|text| Failures::read(&text)).unwrap_or_default(),
        at: store
            .setting(SETTING_AT)?
            .zip(collector.as_ref())
            .and_then(|(kept, lease)| at_of(&kept, lease.epoch).map(str::to_owned)),
        http: store
            .setting(place::SETTING)?
            .and_then(|text| Place::read(&text))
            .filter(|place| collector.is_some_and(|lease| place.is_of(&lease))),
        logins: Logins::read(&mut store)?,
        login_spacing: config.session.login_spacing,
        trouble: store.setting(actor::SETTING_TROUBLE)?.and_then(|text| {
            let (since, what) = text.split_once(' ')?;
            Some((Timestamp(since.parse().ok()?), what.to_owned()))
        }),
        outlook,
    })
}
