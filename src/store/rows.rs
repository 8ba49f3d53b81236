//! Rows of the tables, and their conversion to and from the domain. Prices are doubles here and
//! nowhere else.

use std::ops::Range;

use diesel::prelude::*;

use super::error::StoreError;
use super::schema::{allowance, candle_revisions, candles, coverage, feeds, settings};
use crate::domain::coverage::Run;
use crate::domain::{Bar, BarKey, Ohlc, Pair, Price, Timeframe, Timestamp};

/// A pair as the database spells it, `EUR_USD`, without an allocation per row.
#[derive(Clone, Copy)]
pub(super) struct PairText([u8; 7]);

impl PairText {
    pub(super) fn new(pair: Pair) -> PairText {
        let mut text = *b"BBB_QQQ";
        text[..3].copy_from_slice(pair.base().as_bytes());
        text[4..].copy_from_slice(pair.quote().as_bytes());
        PairText(text)
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a pair is made of ASCII letters")
    }
}

/// A row of `candles` to be written.
#[derive(Insertable, AsChangeset)]
#[diesel(table_name = candles, primary_key(pair, timeframe, timestamp))]
// Else a missing feed makes the statement's text depend on the row, and nothing can be cached.
#[diesel(treat_none_as_default_value = false, treat_none_as_null = true)]
pub(super) struct CandleRow<'a> {
    pub(super) pair: &'a str,
    pub(super) timeframe: &'static str,
    pub(super) timestamp: i64,
    pub(super) open: f64,
    pub(super) high: f64,
    pub(super) low: f64,
    pub(super) close: f64,
    pub(super) volume: i64,
    pub(super) source: &'static str,
    pub(super) created_at: i64,
    pub(super) bid_open: f64,
    pub(super) bid_high: f64,
    pub(super) bid_low: f64,
    pub(super) bid_close: f64,
    pub(super) ask_open: f64,
    pub(super) ask_high: f64,
    pub(super) ask_low: f64,
    pub(super) ask_close: f64,
    pub(super) revision: i32,
    pub(super) updated_at: i64,
    pub(super) seq: i64,
    pub(super) feed_id: Option<i64>,
}

impl<'a> CandleRow<'a> {
    pub(super) fn new(pair: &'a PairText, stored: &StoredBar) -> CandleRow<'a> {
        let bar = &stored.bar;
        let [open, high, low, close] = bar.mid().map(|mid| mid.to_f64());
        let [bid_open, bid_high, bid_low, bid_close] = bar.bid.prices().map(Price::to_f64);
        let [ask_open, ask_high, ask_low, ask_close] = bar.ask.prices().map(Price::to_f64);
        CandleRow {
            pair: pair.as_str(),
            timeframe: bar.key.timeframe.as_str(),
            timestamp: bar.key.start.0,
            open,
            high,
            low,
            close,
            volume: i64::from(bar.volume),
            source: bar.source.as_str(),
            created_at: stored.created_at.0,
            bid_open,
            bid_high,
            bid_low,
            bid_close,
            ask_open,
            ask_high,
            ask_low,
            ask_close,
            revision: i32::try_from(stored.revision).unwrap_or(i32::MAX),
            updated_at: stored.updated_at.0,
            seq: stored.seq,
            feed_id: stored.feed_id,
        }
    }
}

/// A bar with what the database keeps about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredBar {
    /// The bar.
    pub bar: Bar,
    /// When it was first stored.
    pub created_at: Timestamp,
    /// When it got its present value.
    pub updated_at: Timestamp,
    /// How often it was corrected.
    pub revision: u32,
    /// Place in the order of commits: unique, grows, renewed on revision.
    pub seq: i64,
    /// The watched instrument it is of, where known.
    pub feed_id: Option<i64>,
}

/// What is read of a row of `candles`; its pair and timeframe are known by then.
#[derive(Queryable, Selectable)]
#[diesel(table_name = candles)]
pub(super) struct ReadCandle {
    timestamp: i64,
    bid_open: f64,
    bid_high: f64,
    bid_low: f64,
    bid_close: f64,
    ask_open: f64,
    ask_high: f64,
    ask_low: f64,
    ask_close: f64,
    volume: i64,
    source: String,
    created_at: i64,
    revision: i32,
    updated_at: i64,
    seq: i64,
    feed_id: Option<i64>,
}

impl ReadCandle {
    pub(super) fn stored_bar(&self, pair: Pair, timeframe: Timeframe) -> Result<StoredBar, StoreError> {
        let key = BarKey { pair, timeframe, start: Timestamp(self.timestamp) };
        Ok(StoredBar {
            bar: bar(
                key,
                [self.bid_open, self.bid_high, self.bid_low, self.bid_close],
                [self.ask_open, self.ask_high, self.ask_low, self.ask_close],
                self.volume,
                &self.source,
            )?,
            created_at: Timestamp(self.created_at),
            updated_at: Timestamp(self.updated_at),
            revision: revision(key, self.revision)?,
            seq: self.seq,
            feed_id: self.feed_id,
        })
    }

    /// The same where its pair and timeframe were read with it.
    pub(super) fn bar_of(&self, pair: &str, timeframe: &str) -> Result<StoredBar, StoreError> {
        let (pair, timeframe) = read_key(self.seq, pair, timeframe)?;
        self.stored_bar(pair, timeframe)
    }
}

/// The pair and timeframe of a row, which is named by its `seq` where it has none that are known.
fn read_key(seq: i64, pair: &str, timeframe: &str) -> Result<(Pair, Timeframe), StoreError> {
    let pair = pair.parse().map_err(|error| StoreError::corrupt(format_args!("seq {seq}: {error}")))?;
    let timeframe =
        timeframe.parse().map_err(|error| StoreError::corrupt(format_args!("seq {seq}: {error}")))?;
    Ok((pair, timeframe))
}

fn revision(key: BarKey, number: i32) -> Result<u32, StoreError> {
    u32::try_from(number).map_err(|error| corrupt(key, &error))
}

/// That the row of a bar cannot be right.
fn corrupt(key: BarKey, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::corrupt(format!("{} {} {}: {error}", key.pair, key.timeframe, key.start))
}

fn bar(key: BarKey, bid: [f64; 4], ask: [f64; 4], volume: i64, source: &str) -> Result<Bar, StoreError> {
    let why = |error: &dyn std::fmt::Display| corrupt(key, error);
    let side = |[open, high, low, close]: [f64; 4]| {
        let price = |value| Price::from_f64(value).map_err(|error| why(&error));
        Ok::<Ohlc, StoreError>(Ohlc {
            open: price(open)?,
            high: price(high)?,
            low: price(low)?,
            close: price(close)?,
        })
    };
    Ok(Bar {
        key,
        bid: side(bid)?,
        ask: side(ask)?,
        volume: u32::try_from(volume).map_err(|error| why(&error))?,
        source: source.parse().map_err(|error| why(&error))?,
    })
}

/// What became of a value that is not, or no longer, in `candles`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevisionKind {
    /// It was stored until a correction came.
    Superseded,
    /// It was offered and not taken.
    Refused,
}

impl RevisionKind {
    /// How the database spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            RevisionKind::Superseded => "superseded",
            RevisionKind::Refused => "refused",
        }
    }
}

/// A value that a bar had before a correction, or that was offered for it in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revision {
    /// The value.
    pub bar: Bar,
    /// Which of the two.
    pub kind: RevisionKind,
    /// As it was in `candles`; of its own where refused.
    pub seq: i64,
    /// Revision of the bar while it had, or refused, this value.
    pub revision: u32,
    /// From when it was stored, or when it was refused.
    pub valid_from: Timestamp,
    /// Until when it was stored, exclusive: the same instant where refused.
    pub valid_to: Timestamp,
}

/// A row of `candle_revisions` to be written.
#[derive(Insertable)]
#[diesel(table_name = candle_revisions)]
pub(super) struct RevisionRow<'a> {
    pair: &'a str,
    timeframe: &'static str,
    timestamp: i64,
    seq: i64,
    kind: &'static str,
    open: f64,
    high: f64,
    low: f64,
    close: f64,
    volume: i64,
    source: &'static str,
    bid_open: f64,
    bid_high: f64,
    bid_low: f64,
    bid_close: f64,
    ask_open: f64,
    ask_high: f64,
    ask_low: f64,
    ask_close: f64,
    revision: i32,
    valid_from: i64,
    valid_to: i64,
}

impl<'a> RevisionRow<'a> {
    pub(super) fn new(pair: &'a PairText, revision: &Revision) -> RevisionRow<'a> {
        let bar = &revision.bar;
        let [open, high, low, close] = bar.mid().map(|mid| mid.to_f64());
        let [bid_open, bid_high, bid_low, bid_close] = bar.bid.prices().map(Price::to_f64);
        let [ask_open, ask_high, ask_low, ask_close] = bar.ask.prices().map(Price::to_f64);
        RevisionRow {
            pair: pair.as_str(),
            timeframe: bar.key.timeframe.as_str(),
            timestamp: bar.key.start.0,
            seq: revision.seq,
            kind: revision.kind.as_str(),
            open,
            high,
            low,
            close,
            volume: i64::from(bar.volume),
            source: bar.source.as_str(),
            bid_open,
            bid_high,
            bid_low,
            bid_close,
            ask_open,
            ask_high,
            ask_low,
            ask_close,
            revision: i32::try_from(revision.revision).unwrap_or(i32::MAX),
            valid_from: revision.valid_from.0,
            valid_to: revision.valid_to.0,
        }
    }
}

/// What is read of a row of `candle_revisions`.
#[derive(Queryable, Selectable)]
#[diesel(table_name = candle_revisions)]
pub(super) struct ReadRevision {
    timestamp: i64,
    seq: i64,
    kind: String,
    volume: i64,
    source: String,
    bid_open: f64,
    bid_high: f64,
    bid_low: f64,
    bid_close: f64,
    ask_open: f64,
    ask_high: f64,
    ask_low: f64,
    ask_close: f64,
    revision: i32,
    valid_from: i64,
    valid_to: i64,
}

impl ReadRevision {
    /// The value, where its pair and timeframe were read with it.
    pub(super) fn revision_of(&self, pair: &str, timeframe: &str) -> Result<Revision, StoreError> {
        let (pair, timeframe) = read_key(self.seq, pair, timeframe)?;
        self.revision(pair, timeframe)
    }

    pub(super) fn revision(&self, pair: Pair, timeframe: Timeframe) -> Result<Revision, StoreError> {
        let key = BarKey { pair, timeframe, start: Timestamp(self.timestamp) };
        let kind = [RevisionKind::Superseded, RevisionKind::Refused]
            .into_iter()
            .find(|kind| kind.as_str() == self.kind)
            .ok_or_else(|| corrupt(key, &format_args!("unknown kind of revision \"{}\"", self.kind)))?;
        Ok(Revision {
            bar: bar(
                key,
                [self.bid_open, self.bid_high, self.bid_low, self.bid_close],
                [self.ask_open, self.ask_high, self.ask_low, self.ask_close],
                self.volume,
                &self.source,
            )?,
            kind,
            seq: self.seq,
            revision: revision(key, self.revision)?,
            valid_from: Timestamp(self.valid_from),
            valid_to: Timestamp(self.valid_to),
        })
    }
}

/// A row of `coverage` to be written.
#[derive(Insertable)]
#[diesel(table_name = coverage)]
pub(super) struct CoverageRow<'a> {
    pub(super) pair: &'a str,
    pub(super) timeframe: &'static str,
    pub(super) from_ts: i64,
    pub(super) to_ts: i64,
    pub(super) state: &'static str,
    pub(super) reason: &'static str,
    pub(super) evidence: &'a str,
    pub(super) updated_at: i64,
}

impl<'a> CoverageRow<'a> {
    pub(super) fn new(pair: &'a PairText, timeframe: Timeframe, run: &'a Run, now: Timestamp) -> Self {
        CoverageRow {
            pair: pair.as_str(),
            timeframe: timeframe.as_str(),
            from_ts: run.span.start.0,
            to_ts: run.span.end.0,
            state: run.state.as_str(),
            reason: run.reason.as_str(),
            evidence: &run.evidence,
            updated_at: now.0,
        }
    }
}

/// A row of `coverage` as read.
#[derive(Queryable, Selectable)]
#[diesel(table_name = coverage)]
pub(super) struct ReadCoverage {
    pair: String,
    timeframe: String,
    from_ts: i64,
    to_ts: i64,
    state: String,
    reason: String,
    evidence: String,
}

impl ReadCoverage {
    pub(super) fn starts(&self) -> i64 {
        self.from_ts
    }

    pub(super) fn ends(&self) -> Timestamp {
        Timestamp(self.to_ts)
    }

    pub(super) fn run(&self) -> Result<(Pair, Timeframe, Run), StoreError> {
        let run = Run {
            span: Range { start: Timestamp(self.from_ts), end: Timestamp(self.to_ts) },
            state: self.state.parse().map_err(StoreError::corrupt)?,
            reason: self.reason.parse().map_err(StoreError::corrupt)?,
            evidence: self.evidence.as_str().into(),
        };
        if run.span.is_empty() {
            return Err(StoreError::corrupt(format!("an empty run of {} at {}", self.pair, run.span.start)));
        }
        Ok((pair(&self.pair)?, timeframe(&self.timeframe)?, run))
    }
}

pub(super) fn pair(text: &str) -> Result<Pair, StoreError> {
    text.parse().map_err(StoreError::corrupt)
}

pub(super) fn timeframe(text: &str) -> Result<Timeframe, StoreError> {
    text.parse().map_err(StoreError::corrupt)
}

/// A row of `feeds` to be written; the database gives its id.
#[derive(Insertable)]
#[diesel(table_name = feeds)]
pub(super) struct FeedRow<'a> {
    pub(super) pair: &'a str,
    pub(super) epic: &'a str,
    pub(super) environment: &'a str,
    pub(super) account_type: &'a str,
    pub(super) scale: &'a str,
    pub(super) calendar: &'a str,
    pub(super) watched_from: i64,
}

/// A row of `feeds` as read.
#[derive(Queryable, Selectable)]
#[diesel(table_name = feeds)]
pub(super) struct ReadFeed {
    pub(super) id: i64,
    pub(super) pair: String,
    pub(super) epic: String,
    pub(super) environment: String,
    pub(super) account_type: String,
    pub(super) scale: String,
    pub(super) calendar: String,
    pub(super) watched_from: i64,
    pub(super) watched_to: Option<i64>,
}

/// A row of `allowance` to be written; the database gives its id.
#[derive(Insertable)]
#[diesel(table_name = allowance)]
pub(super) struct SpendRow<'a> {
    pub(super) environment: &'a str,
    pub(super) account: &'a str,
    pub(super) key_fingerprint: &'a str,
    pub(super) what: &'a str,
    pub(super) state: &'static str,
    pub(super) points: i64,
    pub(super) booked_at: i64,
    pub(super) pair: &'a str,
    pub(super) timeframe: &'static str,
    pub(super) from_ts: i64,
    pub(super) to_ts: i64,
    pub(super) incident_from: Option<i64>,
    pub(super) incident_to: Option<i64>,
}

/// What a row of `allowance` gets when the answer is there.
#[derive(AsChangeset)]
#[diesel(table_name = allowance, treat_none_as_null = true)]
pub(super) struct SettleRow {
    pub(super) state: &'static str,
    pub(super) points: i64,
    pub(super) settled_at: Option<i64>,
    pub(super) seen_remaining: Option<i64>,
    pub(super) seen_total: Option<i64>,
    pub(super) seen_expires_at: Option<i64>,
}

/// What is read of a row of `allowance`.
#[derive(Queryable, Selectable)]
#[diesel(table_name = allowance)]
pub(super) struct ReadSpend {
    pub(super) id: i64,
    pub(super) state: String,
    pub(super) points: i64,
    pub(super) booked_at: i64,
    pub(super) settled_at: Option<i64>,
    pub(super) seen_remaining: Option<i64>,
    pub(super) seen_total: Option<i64>,
    pub(super) seen_expires_at: Option<i64>,
    pub(super) incident_from: Option<i64>,
    pub(super) incident_to: Option<i64>,
}

/// A row of `settings` to be written.
#[derive(Insertable)]
#[diesel(table_name = settings)]
pub(super) struct SettingRow<'a> {
    pub(super) key: &'a str,
    pub(super) value: &'a str,
}
