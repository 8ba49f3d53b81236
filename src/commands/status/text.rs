//! How the service stands, for people. Pure.

use std::fmt::Write as _;

use super::Findings;
use crate::aggregator::inference::MATCHES_TO_EARN;
use crate::commands::grid::{Grid, numbers, words as column};
use crate::commands::margin::{hang, lasting};
use crate::commands::of_other_clock;
use crate::commands::outlook::{Outlook, words};
use crate::commands::paint::{BAD, FAINT, GOOD, NAME, PLAIN, WARN, paint, paint_start};
use crate::domain::{Timeframe, Timestamp};
use crate::ig::IgError;
use crate::ig::session::logins::Logins;
use crate::ig::stream::probes::Probes;
use crate::store::{LeaseState, SILENT_AFTER_S};
use crate::supervisor::chronicle::LastRun;

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

/// What there is to tell, for people, given the columns there are.
pub fn text(findings: &Findings, columns: Option<usize>) -> String {
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
    if let Some(other) = findings.other_clock {
        line(format!("          {}: {}", paint(WARN, "WARN"), of_other_clock(other)));
    }
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
    if let Some(silent_s) = lease.and_then(|lease| lease.silent_s()) {
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
    if !findings.logins.are_told(streams(findings), findings.login_spacing, findings.wall) {
        return None;
    }
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

/// Whether the process that collects streams now.
fn streams(Findings { lease, stream, .. }: &Findings) -> bool {
    let lease = lease.as_ref().filter(|lease| lease.alive);
    lease.zip(stream.as_ref()).is_some_and(|(lease, stream)| stream.streams_of(lease))
}

/// When the next login may be, where some have failed.
pub(super) fn logins_next(findings: &Findings) -> Option<Timestamp> {
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
pub(in crate::commands) fn no_sign_of_life(silent_s: i64) -> String {
    let silence = lasting(silent_s);
    format!("no sign of life for {silence}, {SILENT_AFTER_S} s are long: it is frozen, or cannot write")
}

/// Who collects, or how the last run ended.
pub(in crate::commands) fn service_line(lease: Option<&LeaseState>, run: Option<&LastRun>) -> String {
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
    if findings.lease.as_ref().is_some_and(|lease| !stream.is_of(lease)) {
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
