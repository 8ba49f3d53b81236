//! Metrics for Prometheus. Names and labels are part of what users rely on: they are added to, never renamed.

use std::fmt;

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};

use super::health::HealthReport;
use crate::domain::coverage::State;
use crate::domain::{Pair, Source, Timeframe, Timestamp};
use crate::stats::{LAG_BOUNDS_MS, LagCounts, Stats};
use crate::store::{Store, StoreError};

/// The format's name in `Content-Type`.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// What the database tells.
#[derive(Debug, Default)]
pub struct Stored {
    /// Start of the newest bar.
    pub last_bars: Vec<(Pair, Timeframe, Timestamp)>,
    /// 5-minute buckets by state.
    pub buckets: Vec<(State, u64)>,
}

impl Stored {
    /// Reads it.
    ///
    /// # Errors
    /// Those of any read.
    pub fn read(store: &mut Store) -> Result<Stored, StoreError> {
        Ok(Stored { last_bars: store.last_bars()?, buckets: store.buckets_by_state(Timeframe::M5)? })
    }
}

/// All of it as text. Without the database what it would tell is left out.
pub fn text(
    stats: &Stats,
    health: &HealthReport,
    stored: Option<&Stored>,
) -> Result<Vec<u8>, prometheus::Error> {
    let mut families = Families::default();
    families.of_the_process(stats, health);
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
            ("candlekeep_stream_sessions_total", "Streaming sessions begun.", &stats.stream_sessions),
            ("candlekeep_stream_breaks_total", "Streaming connections that broke.", &stats.stream_breaks),
            (
                "candlekeep_stream_recoveries_total",
                "Breaks after which nothing was lost.",
                &stats.stream_recoveries,
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
        self.gauges(
            "candlekeep_facts_spooled",
            "Facts that wait in the spool for the database.",
            vec![(Vec::new(), stats.facts_spooled.get() as f64)],
        );
        self.gauges(
            "candlekeep_allowance_remaining_points",
            "Data points of IG's weekly allowance that are left.",
            stats.allowance_remaining.get().map(|points| (Vec::new(), points as f64)).into_iter().collect(),
        );
        self.histogram(
            "candlekeep_close_to_durable_seconds",
            "From the end of a streamed candle to its bar's being durable.",
            &stats.close_to_durable.counts(),
        );
    }

    fn of_the_database(&mut self, stored: &Stored) {
        let last_bars = stored.last_bars.iter().map(|(pair, timeframe, start)| {
            let pair = format!("{}_{}", pair.base(), pair.quote());
            (labels(&[("pair", &pair), ("timeframe", &timeframe.as_str())]), start.0 as f64)
        });
        self.gauges(
            "candlekeep_last_bar_timestamp_seconds",
            "Start of the newest stored bar.",
            last_bars.collect(),
        );
        let buckets = stored.buckets.iter();
        self.gauges(
            "candlekeep_coverage_buckets",
            "Watched 5-minute buckets by what is known of them.",
            buckets.map(|(state, buckets)| (labels(&[("state", state)]), *buckets as f64)).collect(),
        );
    }

    fn counters(&mut self, name: &str, help: &str, values: Vec<(Vec<LabelPair>, u64)>) {
        self.family(name, help, MetricType::COUNTER, values, |metric, value| {
            let mut counter = Counter::default();
            counter.set_value(value as f64);
            metric.set_counter(counter);
        });
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
    use std::time::Duration;

    use super::*;

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
        };
        let told =
            |stored| String::from_utf8(text(&stats, &HealthReport::default(), stored).unwrap()).unwrap();
        let whole = told(Some(&stored));
        for expected in [
            "# HELP candlekeep_build_info Which version this is.\n# TYPE candlekeep_build_info gauge\n",
            "\ncandlekeep_bars_settled_total{source=\"websocket\"} 28\n",
            "\ncandlekeep_bars_settled_total{source=\"ig_rest\"} 2\n",
            "\ncandlekeep_last_bar_timestamp_seconds{pair=\"EUR_USD\",timeframe=\"5\"} 1705485600\n",
            "\ncandlekeep_coverage_buckets{state=\"missing\"} 3\n",
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
}
