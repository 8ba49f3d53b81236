//! `candlekeep gaps`: every missing bar and why; whether a stretch is complete; whether the ledger
//! holds. Reads the database alone.

pub mod verify;

use std::collections::BTreeSet;
use std::ops::Range;

use serde_json::json;

use super::grid::{Grid, numbers, words as column};
use super::margin::{self, hang};
use super::outlook::{self, Wish, words};
use super::paint::{BAD, GOOD, NAME, WARN, paint};
use super::{check_pair, say, tell_other_clock};
use crate::cli::{self, Gaps, Report};
use crate::clock::{Clock, ClockKind};
use crate::completeness::{Gap, calendar_of, incomplete, not_reached};
use crate::config::Config;
use crate::domain::{Pair, State, Timeframe, Timestamp};
use crate::exit::{Exit, Failure};
use crate::healer::book::Scope;
use crate::store::Store;

/// Prints what was asked for.
///
/// # Errors
/// When there is no database, or it cannot be read; a wrong combination of arguments.
pub fn execute(args: &Gaps, config: &Config) -> Result<Exit, Failure> {
    let mut store = Store::open_read_only(&config.database)?;
    if args.verify {
        return verified(&verify::verify(&mut store)?, args.format);
    }
    tell_other_clock(&mut store, config)?;
    let now = (config.clock == ClockKind::System).then(|| Clock::system().wall());
    if let Some(words) = &args.complete {
        let (pair, timeframe, span) = asked(words)?;
        check_pair(&mut store, config, pair)?;
        let calendar = calendar_of(&mut store, config, pair)?;
        let gaps = incomplete(&mut store, pair, timeframe, &span, &calendar)?;
        let exit = if gaps.is_empty() { Exit::Done } else { Exit::Incomplete };
        match args.format {
            Report::Json => say(json!({ "complete": gaps.is_empty(), "missing": listed(&gaps) })),
            Report::Text if gaps.is_empty() => say(paint(GOOD, "complete")),
            Report::Text => say(table(&gaps, margin::columns())),
        }
        return Ok(exit);
    }
    args.pairs.iter().chain(&args.pair).try_for_each(|pair| check_pair(&mut store, config, *pair))?;
    if let (Some(from), Some(to)) = (args.from, args.to)
        && from >= to
    {
        return Err(Failure::usage(format_args!("--from {from} is not before --to {to}")));
    }
    let gaps = find(&mut store, config, now, args)?;
    match args.format {
        Report::Json => {
            say(json!({ "gaps": listed(&gaps), "buckets": gaps.iter().map(Gap::buckets).sum::<i64>() }))
        }
        Report::Text => {
            let columns = margin::columns();
            say(text(&gaps, columns));
            if !gaps.is_empty() {
                let (scope, wish) = (Scope::default(), Wish::default());
                let outlook = outlook::look(Some(&mut store), config, &scope, &wish, false)?;
                words::waiting(&outlook).iter().for_each(|line| say(hang(line, 0, columns)));
            }
        }
    }
    Ok(Exit::Done)
}

/// Reads `PAIR TIMEFRAME FROM TO`.
fn asked(words: &[String]) -> Result<(Pair, Timeframe, Range<Timestamp>), Failure> {
    let [pair, timeframe, from, to] = words else { return Err(Failure::usage("four values are needed")) };
    let time =
        |text: &str| cli::parse_time(text).map_err(|error| Failure::usage(format_args!("{text}: {error}")));
    let span = time(from)?..time(to)?;
    if span.start >= span.end {
        return Err(Failure::usage(format_args!("{} is not before {}", span.start, span.end)));
    }
    Ok((pair.parse().map_err(Failure::usage)?, timeframe.parse().map_err(Failure::usage)?, span))
}

/// Everything missing or lost, as asked for, oldest first by pair.
fn find(
    store: &mut Store,
    config: &Config,
    now: Option<Timestamp>,
    args: &Gaps,
) -> Result<Vec<Gap>, Failure> {
    let span = args.from.unwrap_or(Timestamp(i64::MIN))..args.to.unwrap_or(Timestamp(i64::MAX));
    let asked: Vec<Pair> = args.pairs.iter().chain(&args.pair).copied().collect();
    let wanted = |pair: Pair| asked.is_empty() || asked.contains(&pair);
    let mut gaps = Vec::new();
    let named: BTreeSet<Timeframe> = args.timeframes.iter().chain(&args.length).copied().collect();
    let kept = config.timeframes.iter().copied().filter(|_| named.is_empty());
    for timeframe in kept.chain(named.iter().copied()) {
        for state in [State::Missing, State::Lost] {
            let runs = store.runs_in_state(timeframe, state)?;
            gaps.extend(runs.iter().map(|(pair, run)| Gap::of(*pair, timeframe, run)));
        }
        if let (Timeframe::M5, Some(now)) = (timeframe, now) {
            let ends = store.covered_to(timeframe)?;
            let watched = store.feeds()?.into_iter().filter(|feed| feed.watched_to.is_none());
            for pair in watched.map(|feed| feed.feed.pair) {
                let Some(end) = ends.get(&pair) else { continue };
                gaps.extend(not_reached(pair, *end, now, &calendar_of(store, config, pair)?));
            }
        }
    }
    gaps.retain(|gap| wanted(gap.pair) && gap.span.end > span.start && gap.span.start < span.end);
    for gap in &mut gaps {
        gap.span = gap.span.start.max(span.start)..gap.span.end.min(span.end);
    }
    gaps.sort_by_key(|gap| (gap.pair, gap.timeframe, gap.span.start));
    Ok(gaps)
}

fn listed(gaps: &[Gap]) -> Vec<serde_json::Value> {
    gaps.iter()
        .map(|gap| {
            json!({
                "pair": gap.pair.to_string(),
                "timeframe": gap.timeframe.as_str(),
                "from": gap.span.start.0,
                "to": gap.span.end.0,
                "buckets": gap.buckets(),
                "state": gap.state.as_str(),
                "reason": gap.reason,
            })
        })
        .collect()
}

fn table(gaps: &[Gap], columns: Option<usize>) -> String {
    let mut grid = Grid::new(&[
        column("pair"),
        numbers("tf"),
        column("from (UTC)"),
        column("to"),
        numbers("buckets").extra(),
        column("state"),
        column("why"),
    ]);
    for gap in gaps {
        let style = if gap.state == State::Lost { BAD } else { WARN };
        grid.row([
            gap.pair.to_string(),
            gap.timeframe.as_str().to_owned(),
            time(gap.span.start),
            time(gap.span.end),
            gap.buckets().to_string(),
            paint(style, gap.state),
            gap.why().to_owned(),
        ]);
    }
    grid.lines(columns).join("\n")
}

fn text(gaps: &[Gap], columns: Option<usize>) -> String {
    if gaps.is_empty() {
        return paint(GOOD, "nothing is missing");
    }
    let short = || gaps.iter().filter(|gap| gap.timeframe == Timeframe::M5);
    let of = |state: State| short().filter(|gap| gap.state == state).map(Gap::buckets).sum::<i64>();
    let (missing, lost) = (of(State::Missing), of(State::Lost));
    let sum = format!(
        "{} 5-minute buckets missing, {} lost. A missing one is asked for over REST while `candlekeep run` runs, \
         newest first, as the allowance allows.",
        paint(NAME, missing),
        paint(NAME, lost)
    );
    format!("{}\n\n{}", table(gaps, columns), hang(&sum, 0, columns))
}

fn time(at: Timestamp) -> String {
    at.utc().format("%Y-%m-%d %H:%M").to_string()
}

fn verified(verdict: &verify::Verdict, format: Report) -> Result<Exit, Failure> {
    let holds = verdict.count == 0;
    match format {
        Report::Json => say(json!({
            "holds": holds,
            "bars": verdict.bars,
            "buckets": verdict.buckets,
            "violations": verdict.violations,
            "violations_count": verdict.count,
        })),
        Report::Text => {
            let buckets: Vec<String> =
                verdict.buckets.iter().map(|(state, count)| format!("{count} {state}")).collect();
            say(format_args!(
                "5-minute buckets: {}; bars of all lengths: {}",
                buckets.join(", "),
                verdict.bars
            ));
            for violation in &verdict.violations {
                say(format_args!("{}  {violation}", paint(BAD, "VIOLATED")));
            }
            if verdict.count as usize > verdict.violations.len() {
                say(format_args!("… and {} more", verdict.count as usize - verdict.violations.len()));
            }
            if holds {
                say(
                    "The ledger holds: every bucket is accounted for once, and longer bars are the fold of their parts.",
                );
            }
        }
    }
    Ok(if holds { Exit::Done } else { Exit::Failed })
}
