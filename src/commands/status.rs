//! `candlekeep status`: how the service stands, as far as the database tells. Asks IG for nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use super::grid::{Grid, numbers, words as column};
use super::margin::{self, hang, lasting};
use super::market::Market;
use super::outlook::{self, Outlook, Wish, words};
use super::paint::{BAD, FAINT, GOOD, NAME, PLAIN, WARN, paint, paint_start};
use super::{say, watch};
use crate::aggregator::inference::{self, MATCHES_TO_EARN, Record};
use crate::api::{Place, place};
use crate::cli::{Report, Status};
use crate::clock::{Clock, ClockKind};
use crate::completeness::market_now;
use crate::config::{Config, FOREX_CALENDAR};
use crate::domain::{Pair, Timeframe, Timestamp};
use crate::exit::{Exit, Failure};
use crate::healer::actor;
use crate::healer::book::Scope;
use crate::ig::IgError;
use crate::ig::session::logins::Logins;
use crate::ig::stream::probes::{self, Probes};
use crate::ig::stream::state::{self, StreamState};
use crate::readiness::{self, Process, Readiness};
use crate::store::{LeaseState, SILENT_AFTER_S, Store, StreamBreak};
use crate::supervisor::chronicle::LastRun;
use crate::supervisor::house::{SETTING_AT, at_of};
use crate::supervisor::keeper::{Failures, SETTING_ROOMS};
use crate::writer::recovery;

/// Breaks of the stream that are shown.
const BREAKS_SHOWN: u32 = 5;

/// Where the text of a line begins, behind what it is about; of a break of the stream, and of what was found out.
const TEXT_AT: usize = 10;
const BREAK_AT: usize = 6;
const FOUND_AT: usize = 28;

/// With what lines begin, and how well that is.
const STATES: [(&str, anstyle::Style); 14] = [
    ("run", GOOD),
    ("not running", BAD),
    ("open", GOOD),
    ("closed", FAINT),
    ("streaming", GOOD),
    ("interrupted", WARN),
    ("connecting", WARN),
    ("waiting", WARN),
    ("none", WARN),
    ("never started", WARN),
    ("nothing is missing", GOOD),
    ("held up", WARN),
    ("yes", GOOD),
    ("no:", WARN),
];

/// What there is to tell.
struct Findings {
    /// The market's time, by which bars are old.
    now: Timestamp,
    /// The machine's.
    wall: Timestamp,
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
    let clock = Clock::system();
    let told = |columns| {
        let findings = find(config, clock.wall())?;
        Ok(match args.format {
            Report::Text => text(&findings, columns),
            Report::Json => json(&findings),
        })
    };
    if let Some(seconds) = args.watch {
        return watch::watch(Duration::from_secs(seconds.into()), told);
    }
    say(told(margin::columns())?.trim_end());
    Ok(Exit::Done)
}

/// The same for programs that ask over HTTP.
///
/// # Errors
/// When there is no database, or it cannot be read.
pub fn read_json(config: &Config, now: Timestamp) -> Result<String, Failure> {
    find(config, now).map(|findings| json(&findings))
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
    let collector = lease.as_ref().filter(|lease| lease.alive).map(|lease| lease.pid);
    let outlook = outlook::look(Some(&mut store), config, &Scope::default(), &Wish::default(), false)?;
    let wall = now;
    let (market_now, stream, bars) = store.consistently(|store| {
        let now = market_now(store, config, wall)?;
        let stream = store.setting(state::SETTING)?.and_then(|text| StreamState::read(&text));
        Ok((now, stream, readiness::read(store, config, now)?))
    })?;
    let process = Process {
        at: collector.is_none().then(|| "nobody collects".to_owned()),
        spooled: spooled.unwrap_or(0),
        stream: stream.clone(),
    };
    let trades = readiness::trades(config, market_now, |_| true);
    let readiness = Readiness::judge(bars, &process, trades, wall);
    let newest = pairs.values().filter_map(|state| state.last_bar).max().map(|start| start.plus(step));
    let now = newest.filter(|_| config.clock == ClockKind::Stream).unwrap_or(now);
    Ok(Findings {
        now,
        wall,
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
            .zip(collector)
            .and_then(|(kept, pid)| at_of(&kept, pid).map(str::to_owned)),
        http: store
            .setting(place::SETTING)?
            .and_then(|text| Place::read(&text))
            .filter(|place| collector == Some(place.pid.into())),
        logins: Logins::read(&mut store)?,
        login_spacing: config.session.login_spacing,
        trouble: store.setting(actor::SETTING_TROUBLE)?.and_then(|text| {
            let (since, what) = text.split_once(' ')?;
            Some((Timestamp(since.parse().ok()?), what.to_owned()))
        }),
        outlook,
    })
}

fn text(findings: &Findings, columns: Option<usize>) -> String {
    let mut out = String::new();
    let mut folded = |text: String, indent: usize| {
        writeln!(out, "{}", hang(&text, indent, columns)).expect("a String takes any text");
    };
    // What a line is about, in front, stands out.
    let mut line = |text: String| {
        let (name, rest) = text.split_at(text.find(' ').unwrap_or(text.len()));
        folded(format!("{}{rest}", paint(NAME, name)), TEXT_AT);
    };
    line(format!("database  {}", findings.database));
    if let Some(facts) = findings.spooled.filter(|facts| *facts > 0) {
        line(format!(
            "spool     {facts} facts wait until the database takes them; the ledger lacks them so far"
        ));
    }
    let (lease, run) = (findings.lease.as_ref(), findings.last_run.as_ref());
    line(format!("service   {}", paint_start(&service_line(lease, run), &STATES)));
    if !lease.is_some_and(|lease| lease.alive) {
        line(
            "          to start it: `candlekeep run`, or `systemctl start candlekeep` where it is installed"
                .to_owned(),
        );
    }
    if let Some(silent_s) = lease.and_then(|lease| lease.silent_s(findings.wall)) {
        line(format!("          {}: {}", paint(WARN, "WARN"), no_sign_of_life(silent_s)));
    }
    if let Some(run) = run.filter(|run| lease.is_some_and(|lease| lease.alive) && !run.is_running(lease)) {
        line(format!("          {}", run.in_words(lease)));
    }
    // That it streams is told below, with more.
    if let Some(at) = findings.at.as_deref().filter(|at| !at.starts_with("streaming")) {
        let wait = findings.logins.wait(findings.login_spacing, findings.wall);
        let next = if at == "logging in" && !wait.is_zero() { logins_due(findings) } else { None };
        line(match next {
            Some(next) => format!("          {at}, not before {next}"),
            None => format!("          {at}"),
        });
    }
    for (room, failures) in &findings.rooms.failed {
        let (times, last_at) =
            (words::counted(failures.restarts as usize, "time"), Timestamp(failures.last_at));
        line(format!("          {room} restarted {times}, last {last_at}: {}", failures.why));
    }
    if let Some(http) = &findings.http {
        line(format!("http      {}", http.told()));
    }
    for standby in &findings.standbys {
        line(format!("standby   {} since {}", standby.who(), standby.acquired_at));
    }
    if let Some(failed) = logins_line(findings) {
        line(format!("login     {failed}"));
    }
    line(format!("market    {}", paint_start(&findings.market.to_string(), &STATES)));
    line(format!("ready     {}", paint_start(&findings.readiness.in_words(), &STATES)));
    line(format!("stream    {}", paint_start(&stream_line(findings), &STATES)));
    for (pair, why) in findings.stream.iter().flat_map(|stream| &stream.refused) {
        line(format!("          {} {why}", paint(WARN, format_args!("{pair} is not streamed:"))));
    }
    line(format!("allowance {}", words::allowance(&findings.outlook)));
    line(format!("healing   {}", paint_start(&healing_line(&findings.outlook), &STATES)));
    if let Some((since, what)) = &findings.trouble {
        line(format!("          {} since {since}: {what}", paint(WARN, "held up")));
    }
    for waiting in words::waiting(&findings.outlook) {
        line(format!("          {waiting}"));
    }
    let mut grid =
        Grid::new(&[column("pair"), column("last bar (UTC)"), numbers("age").extra(), numbers("missing 5m")]);
    for (pair, state) in &findings.pairs {
        let (last, age) = match state.last_bar {
            Some(start) => (minute(start), age(findings.now.since(start.plus(Timeframe::M5.seconds())))),
            None => ("-".to_owned(), "-".to_owned()),
        };
        let missing = match state.missing {
            None => paint(FAINT, "-"),
            Some(0) => paint(FAINT, 0),
            Some(missing) => paint(WARN, missing),
        };
        let style = if state.last_bar.is_none() { FAINT } else { PLAIN };
        grid.row([pair.to_string(), paint(style, last), paint(style, age), missing]);
    }
    folded(String::new(), 0);
    grid.lines_beside(columns).into_iter().for_each(|row| folded(row, 0));
    if !findings.breaks.is_empty() {
        folded(
            format!("\n{}", paint(NAME, "latest breaks of the stream, in which rows may have been lost:")),
            0,
        );
        for told in &findings.breaks {
            let who = told.pair.as_deref().unwrap_or("every pair");
            folded(format!("  {} to {}  {who}  {}", told.from, told.to, told.cause), BREAK_AT);
        }
    }
    let probes = findings.probes.as_ref().filter(|probes| **probes != Probes::default());
    if probes.is_none() && findings.records.is_empty() {
        return out;
    }
    folded(format!("\n{}", paint(NAME, "what was found out about IG:")), 0);
    for (about, known) in probes.cloned().unwrap_or_default().lines() {
        folded(format!("  {about:<25} {known}"), FOUND_AT);
    }
    for record in &findings.records {
        let granted = record.granted.as_deref().unwrap_or("not seen yet");
        let about = format!("{} account", record.environment);
        folded(
            format!(
                "  {about:<25} rows granted: {granted}; {} of {MATCHES_TO_EARN} inferred closes have matched REST",
                record.matched.min(MATCHES_TO_EARN)
            ),
            FOUND_AT,
        );
    }
    out
}

/// What became of logins that failed, and when the next may be.
fn logins_line(findings: &Findings) -> Option<String> {
    let next = logins_next(findings)?;
    let failed = &findings.logins.failed;
    let refused = IgError::CredentialsRefused(String::new()).to_string();
    if failed.why.starts_with(refused.trim_end()) {
        return Some(format!(
            "{}; not tried again until they change, or with --retry-credentials",
            failed.in_words()
        ));
    }
    Some(format!("{}; the next not before {next}", failed.in_words()))
}

/// When the next login may be, where some have failed.
fn logins_next(findings: &Findings) -> Option<Timestamp> {
    logins_due(findings).filter(|_| findings.logins.failed.is_told())
}

/// When the next login may be, once there was one.
fn logins_due(findings: &Findings) -> Option<Timestamp> {
    let Logins { last, failed } = &findings.logins;
    Some(last.as_ref()?.plus(failed.distance(findings.login_spacing).as_secs() as i64))
}

/// What is missing, and what is asked for next.
fn healing_line(outlook: &Outlook) -> String {
    let missing = outlook.missing_in_words();
    match outlook.plan.requests.len() {
        0 if outlook.buckets_missing() == 0 => "nothing is missing".to_owned(),
        0 => format!("{missing} missing; {}", words::nothing_now(outlook)),
        requests => format!(
            "{missing} missing; {} to come, at most {} data points, about {} min",
            words::counted(requests, "request"),
            outlook.plan.points(),
            outlook.minutes()
        ),
    }
}

/// What is told of a process that has the lease and shows no sign of life.
pub(super) fn no_sign_of_life(silent_s: i64) -> String {
    let silence = lasting(silent_s);
    format!("no sign of life for {silence}, {SILENT_AFTER_S} s are long: it is frozen, or cannot write")
}

/// Who collects, or how the last run ended.
pub(super) fn service_line(lease: Option<&LeaseState>, run: Option<&LastRun>) -> String {
    if let Some(lease) = lease.filter(|lease| lease.alive) {
        return format!("{}, running since {}", lease.who(), lease.acquired_at);
    }
    if let Some(run) = run {
        return format!("not running; {}", run.in_words(lease));
    }
    match lease {
        None => "not running; never ran on this database".to_owned(),
        Some(lease) if lease.released => {
            format!("not running; last: {}, until {}", lease.command, lease.renewed_at)
        }
        Some(lease) => format!(
            "not running; last: {}, was killed or lost power, last seen {}",
            lease.command, lease.renewed_at
        ),
    }
}

fn stream_line(findings: &Findings) -> String {
    let Some(stream) = &findings.stream else { return "never started on this database".to_owned() };
    let (phase, since) = (stream.phase.as_str(), Timestamp(stream.since));
    if !findings.lease.as_ref().is_none_or(|lease| lease.alive) {
        return format!("none; was {phase} when the service ended");
    }
    if findings.lease.as_ref().is_some_and(|lease| since < lease.acquired_at) {
        return format!("none yet; was {phase} when the process before ended");
    }
    let mut told = format!("{phase} since {since}");
    if let (Some(transport), Some(version)) = (&stream.transport, &stream.version) {
        write!(told, ", {transport}, TLCP {version}").expect("a String takes any text");
    }
    if let Some(cause) = &stream.cause {
        write!(told, " ({cause})").expect("a String takes any text");
    }
    told
}

fn json(findings: &Findings) -> String {
    let pairs: Vec<_> = findings
        .pairs
        .iter()
        .map(|(pair, state)| {
            json!({
                "pair": pair.to_string(),
                "last_timestamp": state.last_bar.map(|start| start.0),
                "age_s": state.last_bar.map(|start| findings.now.since(start.plus(Timeframe::M5.seconds()))),
                "missing": state.missing,
            })
        })
        .collect();
    let breaks: Vec<_> = findings
        .breaks
        .iter()
        .map(|told| json!({ "pair": told.pair, "from": told.from.0, "to": told.to.0, "cause": told.cause }))
        .collect();
    let accounts: Vec<_> = findings
        .records
        .iter()
        .map(|record| {
            json!({
                "environment": record.environment,
                "granted": record.granted,
                "matched": record.matched,
                "to_earn": MATCHES_TO_EARN,
            })
        })
        .collect();
    let process = |lease: &LeaseState| {
        json!({
            "command": lease.command,
            "host": lease.host,
            "pid": lease.pid,
            "epoch": lease.epoch,
            "acquired_at": lease.acquired_at.0,
            "renewed_at": lease.renewed_at.0,
            "released": lease.released,
            "alive": lease.alive,
            "silent_s": lease.silent_s(findings.wall),
        })
    };
    json!({
        "now": findings.now.0,
        "database": findings.database,
        "spool": { "facts": findings.spooled },
        "lease": findings.lease.as_ref().map(process),
        "last_run": findings.last_run.as_ref().map(|run| run.json(findings.lease.as_ref())),
        "standbys": findings.standbys.iter().map(process).collect::<Vec<_>>(),
        "login": {
            "last": findings.logins.last.map(|last| last.0),
            "failed": if findings.logins.failed.is_told() { findings.logins.failed.count } else { 0 },
            "next": logins_next(findings).map(|next| next.0),
        },
        "at": findings.at,
        "rooms": findings.rooms,
        "http": findings.http,
        "market": findings.market.json(),
        "readiness": findings.readiness.json(),
        "stream": findings.stream,
        "timeframes": findings.timeframes.iter().map(|timeframe| timeframe.as_str()).collect::<Vec<_>>(),
        "pairs": pairs,
        "breaks": breaks,
        "accounts": accounts,
        "allowance": words::allowance_json(&findings.outlook),
        "waiting": words::waiting_json(&findings.outlook),
        "trouble": findings.trouble.as_ref().map(|(since, what)| json!({ "since": since.0, "what": what })),
        "planned": {
            "requests": findings.outlook.plan.requests.len(),
            "points": findings.outlook.plan.points(),
            "minutes": findings.outlook.minutes(),
        },
        "probes": findings.probes.clone().unwrap_or_default(),
    })
    .to_string()
}

fn minute(at: Timestamp) -> String {
    at.utc().format("%Y-%m-%d %H:%M").to_string()
}

/// Seconds as the largest unit that says enough.
fn age(seconds: i64) -> String {
    match seconds {
        ..0 => "ahead of the clock".to_owned(),
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
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
        findings.stream.as_mut().unwrap().since = lease().acquired_at.0 - 5;
        findings.at = Some("logging in".to_owned());
        findings.logins.last = Some(findings.wall.plus(-20));
        findings.login_spacing = Duration::from_secs(61);
        let told = text(&findings, None);
        assert!(
            told.contains("\nstream    none yet; was interrupted when the process before ended\n"),
            "{told}"
        );
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
        findings.wall = Timestamp(1_705_489_197 + 85);
        let expected =
            "\n          WARN: no sign of life for 85 s, 20 s are long: it is frozen, or cannot write\n";
        assert!(text(&findings, None).contains(expected), "{}", text(&findings, None));
        assert!(json(&findings).contains(r#""silent_s":85"#));
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
        PairReadiness { row, why: Some(why.to_owned()) }
    }

    fn findings() -> Findings {
        let mut stream = StreamState { since: 1_705_485_600, ..StreamState::default() };
        stream.enter(Phase::Interrupted, Some("connection closed".to_owned()));
        (stream.transport, stream.version) = (Some("http".to_owned()), Some("2.3.0".to_owned()));
        stream
            .refused
            .insert("EUR_CHF".to_owned(), "subscription refused: -1 Invalid account type".to_owned());
        let last_bar = Some(Timestamp(1_705_485_300));
        let seen = AllowanceSeen { remaining: 1_200, total: 10_000, expires_at: Timestamp(1_705_700_000) };
        let waiting =
            |feed, buckets, why| Waiting { feed: FeedIx(feed), timeframe: Timeframe::M5, buckets, why };
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
    fn failed_logins_are_told_with_when_the_next_may_be() {
        let mut findings = findings();
        assert!(!text(&findings, None).contains("login "), "all is well");
        let why = "IG is in trouble".to_owned();
        findings.logins.failed = Failed { count: 3, distance_s: 244, why, ..Failed::default() };
        let expected =
            "login     the last 3 failed: IG is in trouble; the next not before 1970-01-01T00:04:04Z";
        assert!(text(&findings, None).contains(expected), "{}", text(&findings, None));
        assert!(
            json(&findings).contains(r#""login":{"failed":3,"last":0,"next":244}"#),
            "{}",
            json(&findings)
        );
    }
}
