//! Bars and what is known of their buckets, read from the database in one consistent look each.

use std::ops::Range;

use super::asked::{self, BarsFormat, Wrong};
use super::views::{BarView, BarsView, HoleView, LedgerView, RunView, line};
use crate::clock::{Clock, ClockKind};
use crate::columns::{self, doubles};
use crate::completeness::{calendar_of, incomplete, settled_to};
use crate::config::Config;
use crate::domain::{Pair, Timeframe, Timestamp};
use crate::store::{BarQuery, Store, StoreError, StoredBar};

/// What JSON is called.
const JSON: &str = "application/json";

/// An answer, or what is wrong with the question.
pub type Answer<T> = Result<Result<T, Wrong>, StoreError>;

/// The text of an answer.
#[derive(Debug)]
pub struct Text {
    /// What it is.
    pub content_type: &'static str,
    /// What it says.
    pub bytes: Vec<u8>,
    /// Whether the bars are complete, and whether they are fresh, which not every format can say.
    pub judged: Option<(bool, bool)>,
}

/// What bars are judged by.
#[derive(Clone, Copy)]
pub struct Judge<'a> {
    /// Which pairs and timeframes there are, and when their markets trade.
    pub config: &'a Config,
    /// The time, where that is the system's.
    pub clock: &'a Clock,
}

impl Judge<'_> {
    /// What time it is in the market: where it goes by its own clock it is as old as its newest bucket.
    pub(super) fn now(&self, store: &mut Store) -> Result<Timestamp, StoreError> {
        Ok(match self.config.clock {
            ClockKind::System => self.clock.wall(),
            ClockKind::Stream => {
                // A bucket that the stream has told of needs no more time to be settled.
                let newest = store.covered_to(Timeframe::M5)?.into_values().max();
                newest.map_or(Timestamp(0), |end| end.plus(Timeframe::M5.seconds() - 1))
            }
        })
    }

    /// Refuses what is neither watched nor kept, once nothing is known to be stored of it.
    pub(super) fn is_known(&self, pair: Pair, timeframe: Timeframe) -> Result<(), Wrong> {
        let watched: Vec<Pair> = self.config.pairs().collect();
        if !watched.contains(&pair) {
            return Err(Wrong::unknown_pair(pair, &watched));
        }
        if !self.config.timeframes.contains(&timeframe) {
            return Err(Wrong::unknown_timeframe(timeframe, &self.config.timeframes));
        }
        Ok(())
    }
}

/// Answers `/v1/candles`.
///
/// # Errors
/// Those of any read.
pub fn candles(store: &mut Store, judge: Judge<'_>, asked: &asked::Candles) -> Answer<Text> {
    let answer = store.consistently(|store| read_candles(store, judge, asked))?;
    Ok(answer.and_then(|(bars, judged)| write(asked, &bars, judged)))
}

/// What is said of the bars besides what they are.
struct Judged {
    missing: Vec<HoleView>,
    /// There are as many as were asked for, or all that the range has.
    is_whole: bool,
    fresh: bool,
}

fn read_candles(
    store: &mut Store,
    judge: Judge<'_>,
    asked: &asked::Candles,
) -> Answer<(Vec<StoredBar>, Judged)> {
    let asked::Candles { pair, timeframe, from, to, .. } = *asked;
    let now = judge.now(store)?;
    let end = to.map_or(now, |to| to.min(now));
    if let Some(from) = from
        && let Err(wrong) = asked::no_longer_than(&(from..end), asked::BUCKETS_MAX * timeframe.seconds())
    {
        return Ok(Err(wrong));
    }
    // One more tells that a range has more than an answer may.
    let count = asked.count.unwrap_or(asked::COUNT_MAX + 1) as usize;
    let bars = store.bars(pair, timeframe, &BarQuery { from, to, count: Some(count) })?;
    if bars.len() > asked::COUNT_MAX as usize {
        let reason = format_args!(
            "there are more than {} bars in that time: ask for a part at a time, or for the newest with count",
            asked::COUNT_MAX
        );
        return Ok(Err(Wrong::new(400, "too_many_bars", reason).with("limit", asked::COUNT_MAX.into())));
    }
    if bars.is_empty()
        && let Err(wrong) = judge.is_known(pair, timeframe)
    {
        return Ok(Err(wrong));
    }
    let calendar = calendar_of(store, judge.config, pair)?;
    let is_full = asked.count.is_some_and(|count| bars.len() == count as usize);
    let begin = match (bars.first(), from) {
        (Some(first), _) if is_full => first.bar.key.start,
        (_, Some(from)) => from.ceil(timeframe.seconds()),
        // What should be there of as many as were asked for.
        (first, None) => {
            let parts = timeframe.minutes() / Timeframe::M5.minutes();
            let buckets = asked.count.unwrap_or(asked::COUNT_DEFAULT) as usize * parts as usize;
            let start = timeframe.bucket(calendar.back_from(timeframe.bucket(end), buckets));
            first.map_or(start, |first| start.min(first.bar.key.start))
        }
    };
    let over = settled_to(timeframe, now);
    let last = match bars.last() {
        Some(last) if to.is_none() => Some(last.bar.key.start),
        _ => store.last_start(pair, timeframe)?,
    };
    let mut holes = |span: Range<Timestamp>| match span.start < span.end {
        true => incomplete(store, pair, timeframe, &span, &calendar),
        false => Ok(Vec::new()),
    };
    // A range that ends within a bucket has that bucket's bar.
    let gaps = holes(begin..to.map_or(over, |to| to.ceil(timeframe.seconds()).min(over)))?;
    let fresh = match last {
        None => false,
        Some(last) => holes(last.plus(timeframe.seconds())..over)?.is_empty(),
    };
    let missing: Vec<HoleView> = gaps.iter().map(HoleView::of).collect();
    let is_whole = asked.count.is_none() || is_full || from.is_some();
    Ok(Ok((bars, Judged { missing, is_whole, fresh })))
}

fn write(asked: &asked::Candles, bars: &[StoredBar], judged: Judged) -> Result<Text, Wrong> {
    let (complete, fresh) = (judged.is_whole && judged.missing.is_empty(), judged.fresh);
    let (content_type, bytes) = match asked.format {
        BarsFormat::Csv => {
            ("text/csv; charset=utf-8; header=present", columns::csv(bars, asked.price).into_bytes())
        }
        BarsFormat::Arrow => arrow(asked, bars, complete, fresh)?,
        BarsFormat::Json => {
            let candles = bars.iter().map(|stored| BarView::of(stored, doubles(stored, asked.price)));
            let view = BarsView {
                pair: asked.pair.to_string(),
                timeframe: asked.timeframe.as_str(),
                price: asked.price.as_str(),
                candles: candles.collect(),
                complete,
                missing: judged.missing,
                fresh,
            };
            (JSON, line(&view))
        }
    };
    Ok(Text { content_type, bytes, judged: Some((complete, fresh)) })
}

#[cfg(feature = "parquet")]
fn arrow(
    asked: &asked::Candles,
    bars: &[StoredBar],
    complete: bool,
    fresh: bool,
) -> Result<(&'static str, Vec<u8>), Wrong> {
    use super::arrow;
    let prices: Vec<[f64; 4]> = bars.iter().map(|stored| doubles(stored, asked.price)).collect();
    let told = [
        ("pair", asked.pair.to_string()),
        ("timeframe", asked.timeframe.to_string()),
        ("price", asked.price.as_str().to_owned()),
        ("complete", complete.to_string()),
        ("fresh", fresh.to_string()),
    ];
    let told = told.map(|(name, value)| (name.to_owned(), value));
    let bytes = arrow::stream(bars, &prices, told).map_err(|error| Wrong::new(500, "failed", error))?;
    Ok((arrow::CONTENT_TYPE, bytes))
}

#[cfg(not(feature = "parquet"))]
fn arrow(_: &asked::Candles, _: &[StoredBar], _: bool, _: bool) -> Result<(&'static str, Vec<u8>), Wrong> {
    let reason = "this candlekeep is built without Arrow: take json or csv, \
                  or build it with `cargo install --path . --features parquet`";
    Err(Wrong::new(406, "no_arrow", reason))
}

/// Answers `/v1/coverage`.
///
/// # Errors
/// Those of any read.
pub fn coverage(store: &mut Store, judge: Judge<'_>, asked: &asked::Ledger) -> Answer<Text> {
    let asked::Ledger { pair, timeframe, from, to } = *asked;
    store.consistently(|store| {
        let to = match to {
            Some(to) => to,
            None => judge.now(store)?,
        };
        let span = from.unwrap_or(to.plus(-asked::LEDGER_DEFAULT_S))..to;
        if let Err(wrong) = asked::no_longer_than(&span, asked::LEDGER_MAX_S) {
            return Ok(Err(wrong));
        }
        let runs = store.coverage(pair, timeframe, span.clone())?;
        if runs.is_empty()
            && store.last_start(pair, timeframe)?.is_none()
            && let Err(wrong) = judge.is_known(pair, timeframe)
        {
            return Ok(Err(wrong));
        }
        let view = LedgerView {
            pair: pair.to_string(),
            timeframe: timeframe.as_str(),
            from: span.start.0,
            to: span.end.0,
            runs: runs.iter().map(RunView::of).collect(),
        };
        Ok(Ok(Text { content_type: JSON, bytes: line(&view), judged: None }))
    })
}
