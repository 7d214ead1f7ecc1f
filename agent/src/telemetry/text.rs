//! The agent's own metrics as text: OpenMetrics 1.0, or Prometheus' older format.
//!
//! In: a [`Snapshot`]. Out: text. Called by [`super::health`] at each scrape.

use std::{collections::HashSet, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::{
    family::{Family, Kind, Value},
    metrics::Snapshot,
};
use crate::export::LATENCY_BOUNDS;

/// Media type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Media type of [`plain`]'s text.
pub const PLAIN_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The snapshot as text.
pub fn render(snapshot: &Snapshot) -> String {
    let mut registry = Registry::with_prefix("spantap");
    registry.register_collector(Box::new(Families(snapshot.families())));
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = text::encode(&mut text, &registry);
    text
}

/// The same text in the older format of Prometheus (0.0.4), for those who do not ask for OpenMetrics: a counter is described by the name
/// of its sample there, and units and the end are not told.
pub fn plain(text: &str) -> String {
    let counter = |line: &str| line.strip_prefix("# TYPE ")?.strip_suffix(" counter").map(str::to_owned);
    let counters: HashSet<String> = text.lines().filter_map(counter).collect();
    let mut plain = String::with_capacity(text.len());
    for line in text.lines().filter(|line| *line != "# EOF" && !line.starts_with("# UNIT ")) {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", word, name, rest] if counters.contains(name) => plain += &format!("# {word} {name}_total {rest}"),
            _ => plain += line,
        }
        plain.push('\n');
    }
    plain
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut to: DescriptorEncoder) -> fmt::Result {
        self.0.iter().try_for_each(|family| encode(family, &mut to))
    }
}

fn encode(family: &Family, to: &mut DescriptorEncoder) -> fmt::Result {
    let kind = match family.kind {
        Kind::Counter | Kind::Account => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Histogram => MetricType::Histogram,
    };
    let unit = family.is_of_seconds().then_some(&Unit::Seconds);
    let mut to = to.encode_descriptor(family.name, family.help, unit, kind)?;
    for (labels, value) in &family.rows {
        if labels.is_empty() {
            encode_value(kind, value, &mut to)?;
        } else {
            encode_value(kind, value, &mut to.encode_family(labels)?)?;
        }
    }
    Ok(())
}

fn encode_value(kind: MetricType, value: &Value, to: &mut MetricEncoder) -> fmt::Result {
    match (value, kind) {
        (Value::Count(count), MetricType::Gauge) => to.encode_gauge(count),
        (Value::Seconds(seconds), MetricType::Gauge) => to.encode_gauge(seconds),
        (Value::Count(count), _) => to.encode_counter::<NoLabelSet, _, u64>(count, None),
        (Value::Seconds(seconds), _) => to.encode_counter::<NoLabelSet, _, u64>(seconds, None),
        (Value::Durations(durations), _) => {
            let bounds = LATENCY_BOUNDS.into_iter().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(durations.counts).collect();
            let (sum, count) = (durations.sum.as_secs_f64(), durations.counts.iter().sum());
            to.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        export::Counts,
        kernel::budget::BudgetFigures,
        log::{DeadSum, DestinationCounts},
        telemetry::metrics::{DestinationFigures, KernelLossCount},
    };

    fn check(snapshot: Snapshot, expected: &[&str]) {
        let text = render(&snapshot);
        for line in expected {
            assert!(text.lines().any(|got| got == *line), "{line} is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn every_figure_is_told_with_its_labels() {
        let mut counts = Counts {
            name: "otlp+grpc://\"h\"".into(),
            failing: true,
            latency_sum: Duration::from_millis(1_500),
            ..Counts::default()
        };
        (counts.latency[0], counts.latency[8]) = (2, 1);
        let mut accounts = DestinationCounts::default();
        (accounts.delivered, accounts.queued, accounts.dead, accounts.dropped) = (4, 3, 2, 1);
        let name = counts.name.clone();
        let letters = vec![DeadSum { destination: name, letters: 1, spans: 2, bytes: 300, ..DeadSum::default() }];
        let destination = DestinationFigures { accounts, counts };
        check(
            Snapshot {
                spans_generated: 10,
                records_decoded: 99,
                cpu_ns: 1_500_000_000,
                started_unix_ns: 1_738_324_800_250_000_000,
                kernel_losses: vec![KernelLossCount { reason: "ring_full", cpu: 3, count: 7 }],
                losses: vec![("flow_evicted".into(), 5)],
                hooks: vec![("sys_exit".into(), false)],
                destinations: vec![destination],
                letters,
                budget: BudgetFigures {
                    cpu_percent_max: 5,
                    level: 2,
                    sheds: 3,
                    restores: 1,
                    ..BudgetFigures::default()
                },
                ..Snapshot::default()
            },
            &[
                "# TYPE spantap_spans_generated counter",
                "spantap_spans_generated_total 10",
                "spantap_records_decoded_total 99",
                "spantap_kernel_losses_total{reason=\"ring_full\",cpu=\"3\"} 7",
                "spantap_losses_total{reason=\"flow_evicted\"} 5",
                "spantap_hook_attached{hook=\"sys_exit\"} 0",
                "spantap_destination_spans_delivered_total{destination=\"otlp+grpc://\\\"h\\\"\"} 4",
                "spantap_destination_spans_queued{destination=\"otlp+grpc://\\\"h\\\"\"} 3",
                "spantap_destination_spans_generated_total{destination=\"otlp+grpc://\\\"h\\\"\"} 10",
                "spantap_destination_dead_letter_bytes{destination=\"otlp+grpc://\\\"h\\\"\"} 300",
                "spantap_destination_request_duration_seconds_sum{destination=\"otlp+grpc://\\\"h\\\"\"} 1.5",
                "spantap_destination_request_duration_seconds_count{destination=\"otlp+grpc://\\\"h\\\"\"} 3",
                "spantap_destination_request_duration_seconds_bucket{le=\"1.0\",destination=\"otlp+grpc://\\\"h\\\"\"} 2",
                "spantap_destination_request_duration_seconds_bucket{le=\"+Inf\",destination=\"otlp+grpc://\\\"h\\\"\"} 3",
                "spantap_destination_failing{destination=\"otlp+grpc://\\\"h\\\"\"} 1",
                "spantap_cpu_seconds_total 1.5",
                "# TYPE spantap_start_time_seconds gauge",
                "spantap_start_time_seconds 1738324800.25",
                "spantap_budget_cpu_ppm 50000",
                "spantap_budget_level 2",
                "spantap_budget_sheds_total 3",
                concat!("spantap_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            ],
        );
    }

    #[test]
    fn the_older_format_describes_counters_by_their_samples() {
        let text = "# HELP a_b Of it\n# TYPE a_b counter\na_b_total{x=\"# EOF\"} 1\n# HELP c_s What\n# TYPE c_s gauge\n# UNIT c_s s\nc_s 2\n# EOF\n";
        let expected = "# HELP a_b_total Of it\n# TYPE a_b_total counter\na_b_total{x=\"# EOF\"} 1\n# HELP c_s What\n# TYPE c_s gauge\nc_s 2\n";
        assert_eq!(plain(text), expected);
    }

    #[test]
    fn nothing_to_tell_is_still_a_valid_text() {
        check(Snapshot::default(), &["spantap_spans_generated_total 0"]);
    }
}
