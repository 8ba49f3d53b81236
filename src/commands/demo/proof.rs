//! What is in the database, compared with what really happened in the simulated market.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::config::Config;
use crate::domain::{Calendar, Pair, Reason, State, Timeframe, Timestamp};
use crate::exit::Failure;
use crate::simulator::{Simulator, Truth};
use crate::store::{BarQuery, Store, StoreError};

/// Differences that are printed; the rest is counted.
const SHOWN_MAX: usize = 10;

/// The comparison, and what else a person wants to know.
#[derive(Debug, Default)]
pub struct Findings {
    per_timeframe: Vec<Compared>,
    coverage: Vec<(State, i64)>,
    /// Buckets still to be healed, or that nothing at all is known of.
    left: u64,
    points_spent: u64,
    rest_requests: u64,
    differences: Vec<String>,
    /// Real time that the demonstration took.
    pub took: Duration,
    /// Buckets that were missing at some time after the first start.
    pub buckets_missed: u64,
    /// Candle rows that came over the stream.
    pub rows: u64,
    /// Streaming sessions.
    pub stream_sessions: u64,
}

/// One timeframe's bars.
#[derive(Debug)]
struct Compared {
    timeframe: Timeframe,
    stored: usize,
    derived: usize,
    different: usize,
    missing: usize,
}

impl Findings {
    /// Whether nothing is missing and nothing different.
    pub fn is_sound(&self) -> bool {
        self.left == 0
            && self
                .per_timeframe
                .iter()
                .all(|compared| compared.stored > 0 && compared.different == 0 && compared.missing == 0)
    }

    /// The same for programs.
    pub fn json(&self, config: &Config) -> Value {
        let bars: Vec<Value> = self
            .per_timeframe
            .iter()
            .map(|compared| {
                json!({
                    "timeframe": compared.timeframe.as_str(),
                    "stored": compared.stored,
                    "derived": compared.derived,
                    "different": compared.different,
                    "missing": compared.missing,
                })
            })
            .collect();
        let buckets: BTreeMap<&str, i64> =
            self.coverage.iter().map(|(state, buckets)| (state.as_str(), *buckets)).collect();
        json!({
            "ok": self.is_sound(),
            "database": config.database.to_string(),
            "took_ms": u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
            "rows": self.rows,
            "stream_sessions": self.stream_sessions,
            "rest_requests": self.rest_requests,
            "points": self.points_spent,
            "bars": bars,
            "buckets": buckets,
            "buckets_missed": self.buckets_missed,
            "buckets_left": self.left,
            "differences": self.differences.iter().take(SHOWN_MAX).collect::<Vec<_>>(),
            "differences_count": self.differences.len(),
        })
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        writeln!(
            f,
            "Streamed {} candle rows in {seconds:.1} s over {} streaming sessions; {} REST requests, {} data points.",
            self.rows, self.stream_sessions, self.rest_requests, self.points_spent
        )?;
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::UTF8_FULL_CONDENSED);
        table.set_header([
            "timeframe",
            "bars stored",
            "of these derived",
            "compared with the market",
            "different",
            "missing",
        ]);
        for row in &self.per_timeframe {
            table.add_row([
                format!("{} min", row.timeframe),
                row.stored.to_string(),
                row.derived.to_string(),
                row.stored.to_string(),
                row.different.to_string(),
                row.missing.to_string(),
            ]);
        }
        for column in table.column_iter_mut() {
            column.set_cell_alignment(comfy_table::CellAlignment::Right);
        }
        writeln!(f, "{table}")?;
        let coverage: Vec<String> =
            self.coverage.iter().map(|(state, buckets)| format!("{buckets} {state}")).collect();
        writeln!(f, "Every 5-minute bucket accounted for: {}.", coverage.join(", "))?;
        writeln!(
            f,
            "Holes after the cut and unseen closes: {} buckets found, {} healed, {} left.",
            self.buckets_missed,
            self.buckets_missed.saturating_sub(self.left),
            self.left
        )?;
        for difference in self.differences.iter().take(SHOWN_MAX) {
            writeln!(f, "  {difference}")?;
        }
        if self.differences.len() > SHOWN_MAX {
            writeln!(f, "  and {} more", self.differences.len() - SHOWN_MAX)?;
        }
        f.write_str(if self.is_sound() {
            "Every stored bar is what happened in the market, and nothing is missing."
        } else {
            "FAILED: the database is not what happened in the market."
        })
    }
}

/// Runs `look` on a reader of the database, off this thread.
async fn reading<R: Send + 'static>(
    config: &Config,
    look: impl FnOnce(&mut Store) -> Result<R, StoreError> + Send + 'static,
) -> Result<R, Failure> {
    let url = config.database.clone();
    let looked = actix_rt::task::spawn_blocking(move || {
        let mut store = Store::open_read_only(&url)?;
        store.consistently(look)
    });
    Ok(looked.await.map_err(|_| Failure::failed("the comparison panicked"))??)
}

/// Whether the ledger lists nothing that is still to be healed and the stream has been written
/// down to its end.
pub async fn nothing_left_to_heal(config: &Config, simulator: &Simulator) -> Result<bool, Failure> {
    let (truth, end) = (simulator.truth(), simulator.now());
    reading(config, move |store| {
        for timeframe in [Timeframe::M5, Timeframe::M15] {
            if store.missing(timeframe)?.iter().any(|(_, run)| run.reason != Reason::Silent) {
                return Ok(false);
            }
        }
        for pair in truth.pairs() {
            // Silence at the very end is never proved, so the last bar is what counts.
            let last = last_bar(&truth, *pair, end);
            let bars = store.bars(
                *pair,
                Timeframe::M5,
                &BarQuery { from: last, count: Some(1), ..BarQuery::default() },
            )?;
            if bars.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .await
}

fn last_bar(truth: &Truth, pair: Pair, end: Timestamp) -> Option<Timestamp> {
    let day = end.plus(-86_400)..end;
    truth.bars(pair, Timeframe::M5, day).last().map(|bar| bar.key.start)
}

/// Compares everything. `start` is when market time began, before which only the backfill has been.
pub async fn examine(config: &Config, simulator: &Simulator, start: Timestamp) -> Result<Findings, Failure> {
    let (truth, end, stats) = (simulator.truth(), simulator.now(), simulator.stats());
    let timeframes = config.timeframes.clone();
    let depth = config.history.depth.clone();
    let mut findings = reading(config, move |store| {
        let mut findings = Findings::default();
        for timeframe in timeframes {
            let expected_from = Calendar::forex()
                .back_from(start, depth.bars(timeframe) as usize * (timeframe.minutes() / 5) as usize)
                .ceil(timeframe.seconds());
            findings.compare(store, &truth, timeframe, expected_from..end)?;
        }
        findings.account(store, &truth, end)?;
        Ok(findings)
    })
    .await?;
    (findings.points_spent, findings.rest_requests) = (stats.points_spent, stats.rest_requests);
    Ok(findings)
}

impl Findings {
    fn compare(
        &mut self,
        store: &mut Store,
        truth: &Truth,
        timeframe: Timeframe,
        span: std::ops::Range<Timestamp>,
    ) -> Result<(), StoreError> {
        let mut compared = Compared { timeframe, stored: 0, derived: 0, different: 0, missing: 0 };
        for pair in truth.pairs() {
            let stored = store.bars(*pair, timeframe, &BarQuery::default())?;
            compared.stored += stored.len();
            for stored in &stored {
                compared.derived += usize::from(stored.bar.source == crate::domain::Source::Derived);
                let happened = truth.bar(*pair, timeframe, stored.bar.key.start);
                if !happened.is_some_and(|happened| happened.same_values(&stored.bar)) {
                    compared.different += 1;
                    self.differences.push(format!(
                        "{pair} {timeframe} {}: stored {:?}, in the market {happened:?}",
                        stored.bar.key.start, stored.bar
                    ));
                }
            }
            let has = |start| stored.binary_search_by_key(&start, |stored| stored.bar.key.start).is_ok();
            // A longer bar at the very end waits for its last part to be proved quiet.
            let last = span.end.plus(-timeframe.seconds());
            for bar in truth.bars(*pair, timeframe, span.clone()) {
                let start = bar.key.start;
                if start <= last && !has(start) && self.is_due(truth, *pair, timeframe, start, span.end) {
                    compared.missing += 1;
                    self.differences.push(format!("{pair} {timeframe} {start} is missing"));
                }
            }
        }
        self.per_timeframe.push(compared);
        Ok(())
    }

    /// A longer bar is due once the stream has shown that its last parts are there or quiet.
    fn is_due(
        &self,
        truth: &Truth,
        pair: Pair,
        timeframe: Timeframe,
        start: Timestamp,
        end: Timestamp,
    ) -> bool {
        timeframe == Timeframe::M5
            || last_bar(truth, pair, end)
                .is_some_and(|last| last.plus(Timeframe::M5.seconds()) >= start.plus(timeframe.seconds()))
    }

    fn account(&mut self, store: &mut Store, truth: &Truth, end: Timestamp) -> Result<(), StoreError> {
        let step = Timeframe::M5.seconds();
        let everything = Timestamp(0)..end;
        let mut states =
            [State::Stored, State::Quiet, State::Closed, State::Missing, State::Lost].map(|state| (state, 0));
        for pair in truth.pairs() {
            let last = last_bar(truth, *pair, end);
            let runs = store.coverage(*pair, Timeframe::M5, everything.clone())?;
            for pair_of_runs in runs.windows(2) {
                if pair_of_runs[0].span.end != pair_of_runs[1].span.start {
                    self.left += 1;
                    self.differences
                        .push(format!("{pair}: nothing is known from {}", pair_of_runs[0].span.end));
                }
            }
            for run in runs {
                let buckets = run.span.end.since(run.span.start) / step;
                if let Some((_, count)) = states.iter_mut().find(|(state, _)| *state == run.state) {
                    *count += buckets;
                }
                match run.state {
                    // Silence at the very end is never proved.
                    State::Missing if run.reason != Reason::Silent || Some(run.span.start) <= last => {
                        self.left += buckets as u64;
                    }
                    _ => {}
                }
            }
        }
        self.coverage = states.into_iter().filter(|(_, buckets)| *buckets > 0).collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Flags};

    #[test]
    fn programs_read_what_was_proved() {
        let config = config::load(None, &BTreeMap::new(), &Flags::default()).unwrap();
        let compared =
            |missing| Compared { timeframe: Timeframe::M5, stored: 9, derived: 0, different: 0, missing };
        let mut findings = Findings { per_timeframe: vec![compared(0)], ..Findings::default() };
        findings.coverage = vec![(State::Stored, 9)];
        findings.differences = vec!["x".to_owned(); SHOWN_MAX + 1];
        let told = findings.json(&config);
        assert_eq!((&told["ok"], &told["buckets"]["stored"]), (&json!(true), &json!(9)));
        assert_eq!((&told["bars"][0]["timeframe"], &told["bars"][0]["stored"]), (&json!("5"), &json!(9)));
        assert_eq!(told["differences"].as_array().unwrap().len(), SHOWN_MAX);
        assert_eq!(told["differences_count"], SHOWN_MAX + 1);
        findings.per_timeframe.push(compared(1));
        assert_eq!(findings.json(&config)["ok"], false);
    }
}
