//! Metrics for Prometheus. Names and labels are part of what users rely on: they are added to, never renamed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};

use super::health::HealthReport;
use crate::clock::{Clock, ClockKind};
use crate::completeness::market_now;
use crate::config::Config;
use crate::domain::coverage::{Run, State};
use crate::domain::{Expectation, Pair, Source, Timeframe, Timestamp};
use crate::ig::session::logins::Logins;
use crate::ig::stream::state::Phase;
use crate::stats::{LAG_BOUNDS_MS, LagCounts, Stats};
use crate::store::{AllowanceState, Freshness, Store, StoreError};
use crate::writer::journal::JOURNAL_BYTES_MAX;

/// The format's name in `Content-Type`.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// What the database tells.
#[derive(Debug, Default)]
pub struct Stored {
    /// Start of the newest bar.
    pub last_bars: Vec<(Pair, Timeframe, Timestamp)>,
    /// When the next one ought to be durable, and whether it is owed by now.
    pub freshness: Vec<(Freshness, bool)>,
    /// 5-minute buckets by state.
    pub buckets: ByState,
    /// What is missing, by reason.
    pub missing: BTreeMap<&'static str, Missing>,
    /// The market's time when this was read.
    pub now: Timestamp,
    /// This process collects.
    pub lease_held: bool,
    /// Processes that wait to collect.
    pub standbys: usize,
    /// Points that are kept for new holes.
    pub reserve: u32,
    /// What is left of the week.
    pub allowance: AllowanceState,
    /// The last login, and those that led nowhere.
    pub logins: Logins,
    /// The time of all this.
    pub wall: Timestamp,
}

/// Runs of missing 5-minute buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// How many runs.
    pub gaps: u64,
    /// How many buckets in all.
    pub buckets: u64,
    /// Start of the oldest.
    pub oldest: Timestamp,
}

impl Stored {
    /// Reads it.
    ///
    /// # Errors
    /// Those of any read.
    pub fn read(
        store: &mut Store,
        config: &Config,
        clock: &Clock,
        sums: &Sums,
    ) -> Result<Stored, StoreError> {
        store.consistently(|store| {
            let wall = clock.wall();
            let missing = by_reason(&store.missing(Timeframe::M5)?);
            let now = market_now(store, config, wall)?;
            let account = store.latest_allowance_key(config.ig.environment.as_str())?;
            Ok(Stored {
                last_bars: store.last_bars()?,
                freshness: store.freshness()?.into_iter().map(|row| (row, row.is_fresh(now))).collect(),
                buckets: sums.read(store, &missing, clock.monotonic())?,
                missing,
                now,
                lease_held: store.lease(wall)?.is_some_and(|lease| lease.is_ours()),
                standbys: store.standbys(wall)?.len(),
                reserve: config.history.reserve,
                allowance: match account {
                    Some(account) => store.allowance(&account, wall)?,
                    None => AllowanceState::default(),
                },
                logins: Logins::read(store)?,
                wall,
            })
        })
    }
}

/// How many buckets are in each state.
type ByState = Vec<(State, u64)>;

/// For how long the sums of the ledger are good.
const SUMS_KEEP: Duration = Duration::from_secs(60);

/// The ledger summed by state. That walks all of it, some 40 ms on a processor with a year of bars, so it is kept for longer
/// than what else is read. What is missing is known anyway, and told as of now.
#[derive(Debug, Default)]
pub struct Sums(Mutex<Option<(Instant, ByState)>>);

impl Sums {
    fn read(
        &self,
        store: &mut Store,
        missing: &BTreeMap<&'static str, Missing>,
        now: Instant,
    ) -> Result<ByState, StoreError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_good = |at: Instant| now.saturating_duration_since(at) < SUMS_KEEP;
        let sums = match kept.take().filter(|(at, _)| is_good(*at)) {
            Some(good) => kept.insert(good),
            None => kept.insert((now, store.buckets_by_state(Timeframe::M5)?)),
        };
        let missing = missing.values().map(|missing| missing.buckets).sum();
        let told =
            sums.1.iter().map(|(state, sum)| (*state, if *state == State::Missing { missing } else { *sum }));
        Ok(told.collect())
    }
}

fn by_reason(runs: &[(Pair, Run)]) -> BTreeMap<&'static str, Missing> {
    let mut missing: BTreeMap<&'static str, Missing> = BTreeMap::new();
    for (_, run) in runs {
        let start = run.span.start;
        let entry =
            missing.entry(run.reason.as_str()).or_insert(Missing { gaps: 0, buckets: 0, oldest: start });
        entry.gaps += 1;
        entry.buckets += (run.span.end.since(start) / Timeframe::M5.seconds()).unsigned_abs();
        entry.oldest = entry.oldest.min(start);
    }
    missing
}

/// Calendars of watched pairs, and whether their markets are sure to trade.
pub type Markets = BTreeMap<String, bool>;

/// How the markets stand, at wall time `wall` or when `stored` was read. Without the database nobody knows it of those
/// that go by their own clock.
pub fn markets(config: &Config, wall: Timestamp, stored: Option<&Stored>) -> Markets {
    let now = match (stored, config.clock) {
        (Some(stored), _) => stored.now,
        (None, ClockKind::System) => wall,
        (None, ClockKind::Stream) => return Markets::new(),
    };
    let bucket = Timeframe::M5.bucket(now);
    let calendars = config.feeds.iter().map(|feed| feed.calendar.clone()).zip(config.feed_calendars());
    calendars.map(|(name, calendar)| (name, calendar.expectation(bucket) == Expectation::Expected)).collect()
}

/// All of it as text. Without the database what it would tell is left out.
pub fn text(
    stats: &Stats,
    health: &HealthReport,
    is_ready: bool,
    markets: &Markets,
    stored: Option<&Stored>,
) -> Result<Vec<u8>, prometheus::Error> {
    let mut families = Families::default();
    families.of_the_process(stats, health);
    families.gauge(
        "candlekeep_ready",
        "1 where /readyz answers 200: what is stored is fit to trade on.",
        is_ready,
    );
    families.gauges(
        "candlekeep_market_open",
        "1 while the market of this calendar is sure to trade.",
        markets
            .iter()
            .map(|(name, open)| (labels(&[("calendar", name)]), f64::from(u8::from(*open))))
            .collect(),
    );
    if let Some(stored) = stored {
        families.of_the_database(stored);
    }
    let mut families = families.0;
    // Nothing to tell is no family.
    families.retain(|family| !family.get_metric().is_empty());
    families.extend(ProcessCollector::for_self().collect());
    let mut out = Vec::new();
    TextEncoder::new().encode(&families, &mut out)?;
    Ok(out)
}

#[derive(Default)]
struct Families(Vec<MetricFamily>);

impl Families {
    fn of_the_process(&mut self, stats: &Stats, health: &HealthReport) {
        let version = labels(&[("version", &env!("CARGO_PKG_VERSION"))]);
        self.gauges("candlekeep_build_info", "Which version this is.", vec![(version, 1.0)]);
        self.counters(
            "candlekeep_bars_settled_total",
            "Bars settled since the start, corrections included.",
            [(Source::Stream, stats.bars_streamed.get()), (Source::Rest, stats.bars_fetched.get())]
                .map(|(source, bars)| (labels(&[("source", &source)]), bars))
                .into(),
        );
        for (name, help, counter) in [
            ("candlekeep_rows_total", "Candle rows taken from the stream.", &stats.rows),
            ("candlekeep_rows_rejected_total", "Rows that could not be trusted.", &stats.rows_rejected),
            ("candlekeep_lines_skipped_total", "Lines that were not understood.", &stats.lines_skipped),
            (
                "candlekeep_buckets_missed_total",
                "Buckets found missing, healed since or not.",
                &stats.buckets_missed,
            ),
            (
                "candlekeep_items_stale_total",
                "Items subscribed again because they were silent.",
                &stats.items_stale,
            ),
            (
                "candlekeep_followers_unread_total",
                "Clients of /v1/stream that were ended since bars for them alone could not be read.",
                &stats.followers_unread,
            ),
            ("candlekeep_stream_sessions_total", "Streaming sessions begun.", &stats.stream_sessions),
            ("candlekeep_stream_breaks_total", "Streaming connections that broke.", &stats.stream_breaks),
            (
                "candlekeep_stream_recoveries_total",
                "Breaks after which nothing was lost.",
                &stats.stream_recoveries,
            ),
            (
                "candlekeep_stream_attempts_failed_total",
                "Attempts to stream that came to nothing.",
                &stats.stream_attempts_failed,
            ),
            (
                "candlekeep_stream_loops_total",
                "Times that IG asked for a new connection, which costs nothing.",
                &stats.stream_loops,
            ),
            (
                "candlekeep_stream_received_bytes_total",
                "Bytes of text that came over streaming connections.",
                &stats.stream_bytes,
            ),
            (
                "candlekeep_buckets_quiet_total",
                "Buckets that proved to be without a price.",
                &stats.buckets_quiet,
            ),
            (
                "candlekeep_bars_while_closed_total",
                "Bars that came while the calendar has the market closed.",
                &stats.bars_out_of_hours,
            ),
            ("candlekeep_rows_stored_total", "Rows written or changed in the database.", &stats.rows_stored),
        ] {
            self.counters(name, help, vec![(Vec::new(), counter.get())]);
        }
        self.counters(
            "candlekeep_restarts_total",
            "How often a room was built anew.",
            health.rooms.iter().map(|room| (labels(&[("room", &room.name)]), room.restarts.into())).collect(),
        );
        let streams = Phase::numbered(stats.stream_phase.get()) == Phase::Streaming;
        for (name, help, value) in [
            (
                "candlekeep_starting",
                "1 while the process does not collect yet.",
                u64::from(health.is_starting),
            ),
            (
                "candlekeep_logged_in",
                "1 while there is a session with IG that nobody complains about.",
                stats.logged_in.get(),
            ),
            ("candlekeep_streaming", "1 while the stream is up.", u64::from(streams)),
            (
                "candlekeep_writer_held_batches",
                "Batches of findings that wait until they are durable.",
                stats.writer_holds.get(),
            ),
            (
                "candlekeep_store_queue_length",
                "Pieces of work that wait for the database's thread.",
                stats.store_waiting.get(),
            ),
            (
                "candlekeep_facts_spooled",
                "Facts that wait in the spool for the database.",
                stats.facts_spooled.get(),
            ),
            ("candlekeep_spool_used_bytes", "Bytes of the spool that are in use.", stats.spool_bytes.get()),
            ("candlekeep_spool_max_bytes", "Bytes that the spool can have.", JOURNAL_BYTES_MAX),
        ] {
            self.gauge(name, help, value as f64);
        }
        self.gauges(
            "candlekeep_allowance_remaining_points",
            "Data points of IG's weekly allowance that are left.",
            stats.allowance_remaining.get().map(|points| (Vec::new(), points as f64)).into_iter().collect(),
        );
        self.histogram(
            "candlekeep_close_to_durable_seconds",
            "From when a streamed candle was found to be over to its bar's being durable.",
            &stats.close_to_durable.counts(),
        );
        self.histogram(
            "candlekeep_database_commit_seconds",
            "How long the writer waited for an answer of the database, be it a refusal.",
            &stats.database_commit.counts(),
        );
    }

    fn of_the_database(&mut self, stored: &Stored) {
        let key = |pair: &Pair, timeframe: &Timeframe| {
            labels(&[("pair", &pair.to_string()), ("timeframe", &timeframe.as_str())])
        };
        let last_bars = stored.last_bars.iter();
        self.gauges(
            "candlekeep_last_bar_timestamp_seconds",
            "Start of the newest stored bar.",
            last_bars.map(|(pair, timeframe, start)| (key(pair, timeframe), start.0 as f64)).collect(),
        );
        let freshness = stored.freshness.iter();
        self.gauges(
            "candlekeep_bar_expected_by_timestamp_seconds",
            "When the next bar ought to be durable at the latest; 0 where there was never one.",
            freshness
                .clone()
                .map(|(row, _)| (key(&row.pair, &row.timeframe), row.expected_by.0 as f64))
                .collect(),
        );
        self.gauges(
            "candlekeep_bar_fresh",
            "1 while the newest bar is the newest that there should be; a closed market is fresh.",
            freshness
                .map(|(row, fresh)| (key(&row.pair, &row.timeframe), f64::from(u8::from(*fresh))))
                .collect(),
        );
        let missing = |value: fn(&Missing) -> f64| {
            let missing = stored.missing.iter();
            missing.map(|(reason, missing)| (labels(&[("reason", reason)]), value(missing))).collect()
        };
        self.gauges(
            "candlekeep_gaps_open",
            "Runs of missing 5-minute buckets by why they are missing.",
            missing(|missing| missing.gaps as f64),
        );
        self.gauges(
            "candlekeep_missing_buckets",
            "Missing 5-minute buckets by why they are missing.",
            missing(|missing| missing.buckets as f64),
        );
        self.gauges(
            "candlekeep_oldest_gap_timestamp_seconds",
            "Start of the oldest missing bucket by why it is missing.",
            missing(|missing| missing.oldest.0 as f64),
        );
        self.gauge(
            "candlekeep_lease_held",
            "1 while this process is the one that collects.",
            stored.lease_held,
        );
        self.gauge(
            "candlekeep_standbys",
            "Processes that wait to collect into the same database.",
            stored.standbys as f64,
        );
        let Stored { allowance, logins, wall, .. } = stored;
        let known = |value: Option<f64>| value.map(|value| (Vec::new(), value)).into_iter().collect();
        self.gauges(
            "candlekeep_allowance_total_points",
            "Data points of IG's weekly allowance, as IG last said.",
            known(allowance.seen.map(|(seen, _)| seen.total.into())),
        );
        self.gauge(
            "candlekeep_allowance_reserve_points",
            "Data points that are kept for holes of the last day (history.reserve).",
            stored.reserve,
        );
        self.gauges(
            "candlekeep_allowance_renews_timestamp_seconds",
            "When IG's weekly allowance is renewed, as IG last said.",
            known(allowance.renews_at(*wall).map(|at| at.0 as f64)),
        );
        self.gauges(
            "candlekeep_last_login_timestamp_seconds",
            "When IG was last asked for a session.",
            known(logins.last.map(|at| at.0 as f64)),
        );
        self.gauge(
            "candlekeep_logins_failed",
            "Logins since the last that led somewhere.",
            logins.failed.count as f64,
        );
        // What there is none of yet is told too: that it becomes some is news.
        let buckets = State::ALL.map(|state| {
            let known = stored.buckets.iter().find(|(known, _)| *known == state);
            (labels(&[("state", &state)]), known.map_or(0.0, |(_, buckets)| *buckets as f64))
        });
        self.gauges(
            "candlekeep_coverage_buckets",
            "Watched 5-minute buckets by what is known of them.",
            buckets.into(),
        );
    }

    fn counters(&mut self, name: &str, help: &str, values: Vec<(Vec<LabelPair>, u64)>) {
        self.family(name, help, MetricType::COUNTER, values, |metric, value| {
            let mut counter = Counter::default();
            counter.set_value(value as f64);
            metric.set_counter(counter);
        });
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Into<f64>) {
        self.gauges(name, help, vec![(Vec::new(), value.into())]);
    }

    fn gauges(&mut self, name: &str, help: &str, values: Vec<(Vec<LabelPair>, f64)>) {
        self.family(name, help, MetricType::GAUGE, values, |metric, value| {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        });
    }

    fn histogram(&mut self, name: &str, help: &str, lags: &LagCounts) {
        self.family(name, help, MetricType::HISTOGRAM, vec![(Vec::new(), lags)], |metric, lags| {
            let mut histogram = Histogram::default();
            histogram.set_sample_count(lags.total());
            histogram.set_sample_sum(lags.sum_us as f64 / 1e6);
            let mut so_far = 0;
            let bucket = |(bound_ms, count): (u64, u64)| {
                so_far += count;
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(bound_ms as f64 / 1e3);
                bucket.set_cumulative_count(so_far);
                bucket
            };
            histogram.set_bucket(LAG_BOUNDS_MS.into_iter().zip(lags.counts).map(bucket).collect());
            metric.set_histogram(histogram);
        });
    }

    fn family<V>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        values: Vec<(Vec<LabelPair>, V)>,
        mut set: impl FnMut(&mut Metric, V),
    ) {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        let metric = |(labels, value)| {
            let mut metric = Metric::from_label(labels);
            set(&mut metric, value);
            metric
        };
        family.set_metric(values.into_iter().map(metric).collect());
        self.0.push(family);
    }
}

fn labels(pairs: &[(&str, &dyn fmt::Display)]) -> Vec<LabelPair> {
    let label = |(name, value): &(&str, &dyn fmt::Display)| {
        let mut label = LabelPair::default();
        label.set_name((*name).to_owned());
        label.set_value(value.to_string());
        label
    };
    pairs.iter().map(label).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Flags};
    use crate::domain::{Fact, FactBatch, Mark, Reason};
    use crate::store::DatabaseUrl;

    fn missing(start: i64, buckets: i64, reason: Reason) -> (Pair, Run) {
        let span = Timestamp(start)..Timestamp(start + buckets * 300);
        ("EURUSD".parse().unwrap(), Run { span, state: State::Missing, reason, evidence: "e".into() })
    }

    #[test]
    fn what_is_counted_is_told_in_the_text_format() {
        let stats = Stats::default();
        stats.bars_streamed.add(28);
        stats.bars_fetched.add(2);
        stats.close_to_durable.add(Duration::from_millis(4), 28);
        stats.close_to_durable.add(Duration::from_millis(40), 1);
        let stored = Stored {
            last_bars: vec![("EURUSD".parse().unwrap(), Timeframe::M5, Timestamp(1_705_485_600))],
            buckets: vec![(State::Missing, 3)],
            missing: by_reason(&[
                missing(1_705_485_600, 2, Reason::Stale),
                missing(1_705_400_100, 1, Reason::Stale),
            ]),
            ..Stored::default()
        };
        let told = |stored| {
            String::from_utf8(text(&stats, &HealthReport::default(), true, &Markets::new(), stored).unwrap())
                .unwrap()
        };
        let whole = told(Some(&stored));
        for expected in [
            "# HELP candlekeep_build_info Which version this is.\n# TYPE candlekeep_build_info gauge\n",
            "\ncandlekeep_bars_settled_total{source=\"websocket\"} 28\n",
            "\ncandlekeep_bars_settled_total{source=\"ig_rest\"} 2\n",
            "\ncandlekeep_last_bar_timestamp_seconds{pair=\"EUR_USD\",timeframe=\"5\"} 1705485600\n",
            "\ncandlekeep_coverage_buckets{state=\"missing\"} 3\n",
            "\ncandlekeep_coverage_buckets{state=\"lost\"} 0\n",
            "\ncandlekeep_gaps_open{reason=\"stale\"} 2\n",
            "\ncandlekeep_missing_buckets{reason=\"stale\"} 3\n",
            "\ncandlekeep_oldest_gap_timestamp_seconds{reason=\"stale\"} 1705400100\n",
            "\ncandlekeep_ready 1\n",
            "\ncandlekeep_close_to_durable_seconds_bucket{le=\"0.003\"} 0\n",
            "\ncandlekeep_close_to_durable_seconds_bucket{le=\"0.005\"} 28\n",
            "\ncandlekeep_close_to_durable_seconds_bucket{le=\"+Inf\"} 29\n",
            "\ncandlekeep_close_to_durable_seconds_sum 0.152\n",
            "\nprocess_resident_memory_bytes ",
        ] {
            assert!(whole.contains(expected), "{expected:?} in\n{whole}");
        }
        assert!(!whole.contains("allowance_remaining"), "it is not known yet");
        stats.allowance_remaining.set(4_857);
        assert!(told(None).contains("\ncandlekeep_allowance_remaining_points 4857\n"));
        assert!(!told(None).contains("candlekeep_coverage_buckets"));
    }

    #[test]
    fn the_ledger_is_summed_once_a_minute_and_what_is_missing_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&DatabaseUrl::sqlite(folder.path().join("bars.db"))).unwrap();
        let clock = Clock::simulated(Timestamp(1_705_485_600), 0);
        let config = config::load(None, &BTreeMap::new(), &Flags::default()).unwrap();
        let sums = Sums::default();
        let mut told = |seconds: u64, state: State, bucket: i64| {
            clock.advance(Duration::from_secs(seconds));
            let span = Timestamp(bucket * 300)..Timestamp((bucket + 1) * 300);
            let (pair, timeframe, reason) = ("EURUSD".parse().unwrap(), Timeframe::M5, Reason::Offline);
            let facts = vec![Fact::Marked(Mark { pair, timeframe, span, state, reason })];
            let batch = FactBatch { evidence: "restart".into(), facts };
            store.commit(&[batch.into()], clock.wall()).unwrap();
            let stored = Stored::read(&mut store, &config, &clock, &sums).unwrap();
            [State::Missing, State::Lost]
                .map(|state| stored.buckets.iter().find(|(known, _)| *known == state).map_or(0, |sum| sum.1))
        };
        assert_eq!(told(0, State::Missing, 100), [1, 0]);
        assert_eq!(told(1, State::Lost, 101), [1, 0]);
        assert_eq!(told(58, State::Missing, 102), [2, 0]);
        assert_eq!(told(1, State::Missing, 103), [3, 1]);
    }

    #[test]
    fn whether_the_market_is_open_is_told_without_the_database_too() {
        // A Wednesday's morning, and a Saturday's.
        let (open, closed) = (Timestamp(1_705_485_600), Timestamp(1_705_744_800));
        let check = |clock: &str, stored: Option<&Stored>, expected: &str| {
            let variables = BTreeMap::from([("CANDLEKEEP_CLOCK".to_owned(), clock.to_owned())]);
            let config = config::load(None, &variables, &Flags::default()).unwrap();
            for (now, expected) in [(open, expected.replace('?', "1")), (closed, expected.replace('?', "0"))]
            {
                let stored = stored.map(|_| Stored { now, ..Stored::default() });
                // What was read counts as of then.
                let wall = if stored.is_some() { closed.plus(open.since(now)) } else { now };
                let markets = markets(&config, wall, stored.as_ref());
                let told = text(&Stats::default(), &HealthReport::default(), true, &markets, None).unwrap();
                let told = String::from_utf8(told).unwrap();
                let told: Vec<_> =
                    told.lines().filter(|line| line.starts_with("candlekeep_market")).collect();
                assert_eq!(told.join(" "), expected, "{clock} {now}");
            }
        };
        let forex = "candlekeep_market_open{calendar=\"forex\"} ?";
        check("system", None, forex);
        check("system", Some(&Stored::default()), forex);
        check("stream", Some(&Stored::default()), forex);
        check("stream", None, "");
    }
}
