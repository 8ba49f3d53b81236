//! Which bars a stretch lacks, and why: what `gaps` and HTTP tell.

use std::cmp::Reverse;
use std::ops::Range;

use crate::clock::ClockKind;
use crate::config::{self, Config, Environment};
use crate::domain::coverage::Run;
use crate::domain::{BarKey, Calendar, Expectation, Pair, Reason, Source, State, Timeframe, Timestamp};
use crate::store::{Store, StoreError, WatchedFeed};

/// After its end a bucket is given so long to be settled before it counts as not accounted for.
pub const SETTLING_S: i64 = 60;
/// Why a bucket that the ledger does not reach has no bar.
const NOT_REACHED: &str = "not_reached";
/// Why one has none that was deleted for its age.
const DELETED: &str = "deleted";

/// A run of buckets without bars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Of which pair.
    pub pair: Pair,
    /// The length of its buckets: 5 minutes where parts of a longer one are missing.
    pub timeframe: Timeframe,
    /// From its first bucket to the end of its last.
    pub span: Range<Timestamp>,
    /// Missing or lost; possibly closed where a longer bar waits for proof.
    pub state: State,
    /// A word of the ledger's, or `not_reached` or `deleted`.
    pub reason: &'static str,
}

impl Gap {
    /// A run of the ledger's.
    pub fn of(pair: Pair, timeframe: Timeframe, run: &Run) -> Gap {
        Gap { pair, timeframe, span: run.span.clone(), state: run.state, reason: run.reason.as_str() }
    }

    /// Whether the ledger says nothing of it.
    pub fn is_not_reached(&self) -> bool {
        self.reason == NOT_REACHED
    }

    /// How many buckets it has.
    pub fn buckets(&self) -> i64 {
        self.span.end.since(self.span.start) / self.timeframe.seconds()
    }

    /// The reason in words.
    pub fn why(&self) -> &'static str {
        const BEYOND: &str = "the ledger does not reach it: the service is not running, or behind";
        if self.reason == DELETED {
            return "older than what retention.days keeps";
        }
        self.reason.parse().map_or(BEYOND, Reason::in_words)
    }
}

/// What time it is in the market, at wall time `wall`: where it goes by its own clock it is as old as its newest
/// bucket, and until there is one nobody knows.
///
/// # Errors
/// Those of any read.
pub fn market_now(store: &mut Store, config: &Config, wall: Timestamp) -> Result<Timestamp, StoreError> {
    Ok(match config.clock {
        ClockKind::System => wall,
        ClockKind::Stream => {
            // A bucket that the stream has told of needs no more time to be settled.
            let newest = store.covered_to(Timeframe::M5)?.into_values().max();
            newest.map_or(wall, |end| end.plus(Timeframe::M5.seconds() - 1))
        }
    })
}

/// Why of a stretch that begins so nothing can be known, at `now` of [`market_now`]: the same words wherever it is
/// asked for.
pub fn in_the_future(from: Timestamp, now: Timestamp, clock: ClockKind) -> Option<String> {
    (from > now).then(|| lies_ahead(from, now, clock))
}

/// A bar may end so much later than it is by this machine's clock, seconds: the service runs no further apart.
const AHEAD_MAX_S: i64 = 3_600;

/// A bar of the stream's may be stored so long after its end, seconds: the spool keeps it while a database is away.
const STORED_WITHIN_S: i64 = 7 * 86_400;

/// What about the newest bar that is stored can be of no market that goes by this machine's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherClock {
    /// It ends so many seconds after it.
    Ahead(i64),
    /// It came of a stream that is not IG's, and was first stored so many seconds after its end.
    Late(i64),
}

/// What about the newest bar tells at wall time `wall` of a market that goes by another clock; nothing where that is
/// known, or it fits.
///
/// # Errors
/// Those of any read.
pub fn other_clock(
    store: &mut Store,
    clock: ClockKind,
    wall: Timestamp,
) -> Result<Option<OtherClock>, StoreError> {
    if clock == ClockKind::Stream {
        return Ok(None);
    }
    let mut last = store.last_bars()?;
    let ends = last.iter().map(|(_, timeframe, start)| start.plus(timeframe.seconds()));
    let ahead_s = ends.max().map(|end| end.since(wall)).filter(|ahead_s| *ahead_s > AHEAD_MAX_S);
    if let Some(ahead_s) = ahead_s {
        return Ok(Some(OtherClock::Ahead(ahead_s)));
    }
    if store.environment()?.as_deref() != Some(Environment::Custom.as_str()) {
        return Ok(None);
    }
    // What was fetched or imported is stored late by nature.
    last.retain(|(_, timeframe, _)| *timeframe == Timeframe::M5);
    last.sort_by_key(|(_, _, start)| Reverse(*start));
    for (pair, timeframe, start) in last {
        let stored = store.bar(BarKey { pair, timeframe, start })?;
        if let Some(stored) = stored.filter(|stored| stored.bar.source == Source::Stream) {
            let late_s = stored.created_at.since(start.plus(timeframe.seconds()));
            return Ok((late_s > STORED_WITHIN_S).then_some(OtherClock::Late(late_s)));
        }
    }
    Ok(None)
}

/// The words.
pub fn lies_ahead(from: Timestamp, now: Timestamp, clock: ClockKind) -> String {
    match clock {
        ClockKind::System => format!("{from} lies in the future"),
        ClockKind::Stream => format!(
            "{from} lies in the future: the market's own clock has come to {}",
            Timeframe::M5.bucket(now)
        ),
    }
}

/// The end of the last bucket that is over at `now` and has had its time to be settled.
pub fn settled_to(timeframe: Timeframe, now: Timestamp) -> Timestamp {
    timeframe.bucket(now.plus(-SETTLING_S))
}

/// Buckets behind the ledger's end that are over, and in which the market was expected to trade.
pub fn not_reached(pair: Pair, end: Timestamp, now: Timestamp, calendar: &Calendar) -> Vec<Gap> {
    unknown(pair, end..settled_to(Timeframe::M5, now).max(end), calendar).collect()
}

/// Buckets of which nothing is known and in which the market is expected to trade.
fn unknown(pair: Pair, span: Range<Timestamp>, calendar: &Calendar) -> impl Iterator<Item = Gap> {
    let expected = calendar.runs(span).into_iter();
    expected.filter(|(_, expectation)| *expectation == Expectation::Expected).map(move |(span, _)| Gap {
        pair,
        timeframe: Timeframe::M5,
        span,
        state: State::Missing,
        reason: NOT_REACHED,
    })
}

/// The calendar by which a pair is judged: the configuration's for it, else that of the last time it
/// was watched.
///
/// # Errors
/// Those of any read.
pub fn calendar_of(store: &mut Store, config: &Config, pair: Pair) -> Result<Calendar, StoreError> {
    match config.calendar_of(pair) {
        Some(calendar) => Ok(calendar),
        None => Ok(last_calendar(&store.feeds()?, config, pair)),
    }
}

/// The calendar by which a pair was judged when it was last watched.
fn last_calendar(feeds: &[WatchedFeed], config: &Config, pair: Pair) -> Calendar {
    let watched = feeds.iter().rfind(|watched| watched.feed.pair == pair);
    config.calendar(watched.map_or(config::FOREX_CALENDAR, |watched| &watched.feed.calendar))
}

/// What keeps a stretch from being complete, ascending: whatever is neither stored, quiet nor closed. What is still to
/// come is not there either. A longer bucket is what the ledger says of it; where that says nothing, it is complete when
/// its parts are, and what these lack is told in 5-minute buckets.
///
/// # Errors
/// Those of any read.
pub fn incomplete(
    store: &mut Store,
    pair: Pair,
    timeframe: Timeframe,
    span: &Range<Timestamp>,
    calendar: &Calendar,
) -> Result<Vec<Gap>, StoreError> {
    let step = timeframe.seconds();
    let whole = span.start.floor(step)..span.end.ceil(step);
    let short = store.coverage(pair, Timeframe::M5, whole.clone())?;
    let own = match timeframe {
        Timeframe::M5 => Vec::new(),
        _ => store.coverage(pair, timeframe, whole.clone())?,
    };
    let kept_from = store.deleted_before(Timeframe::M5)?;
    let known = Known { short: &short, own: &own, kept_from, calendar };
    Ok(lacking(pair, timeframe, whole, &known))
}

/// The same of several stretches, in their order, with as few queries as for one of them: whoever asks a server waits
/// for each.
///
/// # Errors
/// Those of any read.
pub fn incomplete_each(
    store: &mut Store,
    config: &Config,
    stretches: &[(Pair, Timeframe, Range<Timestamp>)],
) -> Result<Vec<Vec<Gap>>, StoreError> {
    if stretches.is_empty() {
        return Ok(Vec::new());
    }
    let whole = |timeframe: Timeframe, span: &Range<Timestamp>| {
        span.start.floor(timeframe.seconds())..span.end.ceil(timeframe.seconds())
    };
    let short = stretches.iter().map(|(pair, length, span)| (*pair, Timeframe::M5, whole(*length, span)));
    let own = stretches.iter().map(|(pair, length, span)| (*pair, *length, whole(*length, span)));
    let mut short = store.coverage_of_each(&short.chain(own).collect::<Vec<_>>())?;
    let own = short.split_off(stretches.len());
    let kept_from = store.deleted_before(Timeframe::M5)?;
    let is_configured = |pair| config.feeds.iter().any(|feed| feed.pair == pair);
    let feeds = match stretches.iter().all(|(pair, ..)| is_configured(*pair)) {
        true => Vec::new(),
        false => store.feeds()?,
    };
    let each = stretches.iter().zip(short.iter().zip(&own));
    let lacking = each.map(|((pair, timeframe, span), (short, own))| {
        let calendar = config.calendar_of(*pair).unwrap_or_else(|| last_calendar(&feeds, config, *pair));
        let known = Known { short, own, kept_from, calendar: &calendar };
        lacking(*pair, *timeframe, whole(*timeframe, span), &known)
    });
    Ok(lacking.collect())
}

/// What is known of a stretch.
struct Known<'a> {
    /// Of its 5-minute buckets, ascending.
    short: &'a [Run],
    /// Of its buckets of the length asked about, where that is longer.
    own: &'a [Run],
    /// Since when 5-minute bars are kept; none where none has been deleted.
    kept_from: Option<Timestamp>,
    calendar: &'a Calendar,
}

/// What is known of the bucket that holds `time`.
fn run_at(runs: &[Run], time: Timestamp) -> Option<&Run> {
    runs.get(runs.partition_point(|run| run.span.end <= time)).filter(|run| run.span.contains(&time))
}

/// Whether the ledger says itself what has become of a longer bucket, so that its parts need not be looked at.
fn is_told(run: &Run) -> bool {
    run.reason != Reason::PossiblyOpen
}

/// Starts of the buckets of `step` seconds in a span.
fn buckets(span: &Range<Timestamp>, step: i64) -> impl Iterator<Item = Timestamp> + use<> {
    (span.start.0..span.end.0).step_by(usize::try_from(step).unwrap_or(1)).map(Timestamp)
}

/// The parts of a run of 5-minute buckets that lie in longer buckets of which the ledger says nothing themselves, or no
/// more than that the market may be closed.
fn untold(gap: Gap, timeframe: Timeframe, own: &[Run]) -> Vec<Gap> {
    let step = timeframe.seconds();
    let (mut parts, mut from) = (Vec::new(), gap.span.start);
    for run in own.iter().filter(|run| is_told(run) && run.span.end > gap.span.start) {
        let end = run.span.start.floor(step).min(gap.span.end);
        if from < end {
            parts.push(Gap { span: from..end, ..gap.clone() });
        }
        from = from.max(run.span.end.ceil(step));
    }
    if from < gap.span.end {
        parts.push(Gap { span: from..gap.span.end, ..gap });
    }
    parts
}

fn lacking(pair: Pair, timeframe: Timeframe, whole: Range<Timestamp>, known: &Known<'_>) -> Vec<Gap> {
    let step = timeframe.seconds();
    let (mut gaps, mut from) = (Vec::new(), whole.start);
    for run in known.short {
        gaps.extend(unknown(pair, from..run.span.start, known.calendar));
        if matches!(run.state, State::Missing | State::Lost) {
            gaps.push(Gap::of(pair, Timeframe::M5, run));
        }
        from = run.span.end;
    }
    gaps.extend(unknown(pair, from..whole.end, known.calendar));
    for gap in gaps.iter_mut().filter(|gap| gap.reason == NOT_REACHED) {
        if known.kept_from.is_some_and(|kept_from| gap.span.start < kept_from) {
            gap.reason = DELETED;
        }
    }
    if timeframe != Timeframe::M5 {
        gaps = gaps.into_iter().flat_map(|gap| untold(gap, timeframe, known.own)).collect();
        let own = known.own.iter().filter(|run| matches!(run.state, State::Missing | State::Lost));
        gaps.extend(own.map(|run| Gap::of(pair, timeframe, run)));
        // A longer bar is folded from proof alone: not where a part is only possibly without a bar.
        let is_half_told = |start: Timestamp| {
            let mut parts = buckets(&(start..start.plus(step)), Timeframe::M5.seconds());
            !run_at(known.own, start).is_some_and(is_told)
                && parts.any(|part| run_at(known.short, part).is_some_and(|run| run.state == State::Stored))
        };
        for run in known.short.iter().filter(|run| run.reason == Reason::PossiblyOpen) {
            if buckets(&(run.span.start.floor(step)..run.span.end), step).any(is_half_told) {
                gaps.push(Gap::of(pair, Timeframe::M5, run));
            }
        }
        gaps.sort_by_key(|gap| gap.span.start);
    }
    gaps
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{FileText, Flags};
    use crate::store::{DatabaseUrl, Feed};

    #[test]
    fn a_pair_is_judged_by_its_calendar_also_when_it_is_watched_no_more() {
        let text = "[calendars.nordic]\nzone = \"Europe/Oslo\"\nweek = \"Mon 09:00 - Fri 17:00\"\n\
                    [calendars.forex]\nclosed = [2026-12-28]\n\
                    [pairs]\nUSD_SEK = { calendar = \"nordic\" }\nEUR_USD = false\n";
        let file = FileText { path: Path::new("candlekeep.toml"), text };
        let config = config::load(Some(file), &Default::default(), &Flags::default()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(&DatabaseUrl::sqlite(dir.path().join("c.db"))).unwrap();
        let feed = |pair: &str, calendar: &str| Feed {
            pair: pair.parse().unwrap(),
            epic: format!("CS.D.{pair}.CFD.IP"),
            environment: "demo".to_owned(),
            account_type: "CFD".to_owned(),
            scale: "decimal".to_owned(),
            calendar: calendar.to_owned(),
        };
        store.watch_feeds(&[feed("USDNOK", "forex"), feed("EURUSD", "gone")], Timestamp(0)).unwrap();
        store.watch_feeds(&[feed("USDNOK", "nordic")], Timestamp(1)).unwrap();
        store.watch_feeds(&[], Timestamp(2)).unwrap();
        let (nordic, forex) = (config.calendar("nordic"), config.calendar("forex"));
        assert_ne!(nordic, forex);
        for (pair, expected) in [
            ("USDSEK", &nordic),
            ("USDNOK", &nordic),
            ("EURUSD", &forex),
            ("GBPUSD", &forex),
            ("EURNOK", &forex),
        ] {
            assert_eq!(calendar_of(&mut store, &config, pair.parse().unwrap()).unwrap(), *expected, "{pair}");
        }
    }
}
