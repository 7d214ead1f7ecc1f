//! The agent's own metrics as Prometheus text (OpenMetrics 1.0).
//!
//! In: a [`Snapshot`], taken by the wiring at each scrape. Out: text. Called by [`super::health`]. Counts nothing itself:
//! each figure is counted once, where it arises.

use std::fmt;

use crate::kernel::budget::BudgetFigures;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};

/// Every figure at one moment. Counters count from the start of the agent unless said otherwise.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Kernel records that were decoded.
    pub records_decoded: u64,
    /// Spans finished.
    pub spans_generated: u64,
    /// Connections followed now.
    pub connections: u64,
    /// Kernel-side losses.
    pub kernel_losses: Vec<KernelLossCount>,
    /// Losses in the agent itself, by reason.
    pub losses: Vec<(String, u64)>,
    /// Size of the span log.
    pub log_bytes: u64,
    /// Files of the span log.
    pub log_segments: u64,
    /// Spans that could not be written to the span log.
    pub log_spans_dropped: u64,
    /// Hooks by name, and whether each is attached.
    pub hooks: Vec<(String, bool)>,
    /// Destinations.
    pub destinations: Vec<DestinationFigures>,
    /// The budget.
    pub budget: BudgetFigures,
}

/// One reason on one CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelLossCount {
    /// Name of the reason.
    pub reason: &'static str,
    /// CPU.
    pub cpu: u32,
    /// How often.
    pub count: u64,
}

/// What became of the spans of one destination since its first one. generated = delivered + queued + dead + dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DestinationFigures {
    /// Its name.
    pub name: String,
    /// Spans it was to get.
    pub generated: u64,
    /// Spans it has taken.
    pub delivered: u64,
    /// Spans that wait.
    pub queued: u64,
    /// Spans that it has refused for good, alone or within a request.
    pub dead: u64,
    /// Spans that were deleted before they could be sent.
    pub dropped: u64,
    /// Requests, repeated ones included.
    pub requests: u64,
    /// Requests that were sent again.
    pub retries: u64,
    /// Whether the last request failed.
    pub failing: bool,
}

/// Media type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The snapshot as text.
pub fn render(snapshot: Snapshot) -> String {
    let mut registry = Registry::with_prefix("spantap");
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = text::encode(&mut text, &registry);
    text
}

type Labels = Vec<(&'static str, String)>;

impl Collector for Snapshot {
    fn encode(&self, mut to: DescriptorEncoder) -> fmt::Result {
        self.encode_capture(&mut to)?;
        self.encode_budget(&mut to)?;
        self.encode_log(&mut to)?;
        self.encode_destinations(&mut to)
    }
}

impl Snapshot {
    fn encode_capture(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        gauges(to, "build_info", "Version of the agent", vec![(version, 1)])?;
        counters(to, "records_decoded", "Kernel records decoded", vec![(vec![], self.records_decoded)])?;
        counters(to, "spans_generated", "Spans finished", vec![(vec![], self.spans_generated)])?;
        gauges(to, "connections", "Connections followed now", vec![(vec![], self.connections)])?;
        let kernel = self
            .kernel_losses
            .iter()
            .map(|loss| (vec![("reason", loss.reason.to_owned()), ("cpu", loss.cpu.to_string())], loss.count));
        counters(to, "kernel_losses", "Losses on the kernel side", kernel.collect())?;
        let own = self.losses.iter().map(|(reason, count)| (vec![("reason", reason.clone())], *count));
        counters(to, "losses", "Losses in the agent", own.collect())?;
        let hooks = self.hooks.iter().map(|(hook, attached)| (vec![("hook", hook.clone())], u64::from(*attached)));
        gauges(to, "hook_attached", "Whether a kernel hook is attached", hooks.collect())
    }

    fn encode_budget(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let budget = &self.budget;
        if budget.cpu_percent_max == 0 {
            return Ok(());
        }
        let ppm = |percent: f64| vec![(vec![], (percent * 10_000.0) as u64)];
        gauges(
            to,
            "budget_cpu_ppm",
            "Most CPU time that capturing may take, of all CPUs",
            ppm(budget.cpu_percent_max.into()),
        )?;
        gauges(
            to,
            "budget_cost_cpu_ppm",
            "CPU time that capturing took when last measured",
            ppm(budget.cost.cpu_percent),
        )?;
        gauges(to, "budget_level", "Steps of detail that are left out", vec![(vec![], budget.level as u64)])?;
        counters(to, "budget_sheds", "Steps of detail that were left out", vec![(vec![], budget.sheds)])?;
        counters(to, "budget_restores", "Steps of detail that came back", vec![(vec![], budget.restores)])
    }

    fn encode_log(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        gauges(to, "log_bytes", "Size of the span log", vec![(vec![], self.log_bytes)])?;
        gauges(to, "log_segments", "Files of the span log", vec![(vec![], self.log_segments)])?;
        let dropped = vec![(vec![], self.log_spans_dropped)];
        counters(to, "log_spans_dropped", "Spans that could not be written to the span log", dropped)
    }

    fn encode_destinations(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let rows = |figure: fn(&DestinationFigures) -> u64| {
            let row = |d: &DestinationFigures| (vec![("destination", d.name.clone())], figure(d));
            self.destinations.iter().map(row).collect::<Vec<(Labels, u64)>>()
        };
        counters(to, "destination_spans_generated", "Spans that a destination was to get", rows(|d| d.generated))?;
        counters(to, "destination_spans_delivered", "Spans that a destination has taken", rows(|d| d.delivered))?;
        counters(to, "destination_spans_dead", "Spans that a destination has refused for good", rows(|d| d.dead))?;
        counters(to, "destination_spans_dropped", "Spans lost for a destination", rows(|d| d.dropped))?;
        gauges(to, "destination_spans_queued", "Spans that wait for a destination", rows(|d| d.queued))?;
        counters(to, "destination_requests", "Requests, repeated ones included", rows(|d| d.requests))?;
        counters(to, "destination_retries", "Requests that were sent again", rows(|d| d.retries))?;
        gauges(to, "destination_failing", "Whether the last request failed", rows(|d| d.failing.into()))
    }
}

fn counters(to: &mut DescriptorEncoder, name: &str, help: &str, rows: Vec<(Labels, u64)>) -> fmt::Result {
    family(to, name, help, MetricType::Counter, &rows, |mut row, value| {
        row.encode_counter::<NoLabelSet, _, u64>(&value, None)
    })
}

fn gauges(to: &mut DescriptorEncoder, name: &str, help: &str, rows: Vec<(Labels, u64)>) -> fmt::Result {
    family(to, name, help, MetricType::Gauge, &rows, |mut row, value| row.encode_gauge(&value))
}

fn family(
    to: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    kind: MetricType,
    rows: &[(Labels, u64)],
    encode: fn(MetricEncoder, u64) -> fmt::Result,
) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    let mut family = to.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in rows {
        if labels.is_empty() {
            return encode(family, *value);
        }
        encode(family.encode_family(labels)?, *value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(snapshot: Snapshot, expected: &[&str]) {
        let text = render(snapshot);
        for line in expected {
            assert!(text.lines().any(|got| got == *line), "{line} is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn every_figure_is_told_with_its_labels() {
        let destination = DestinationFigures {
            name: "otlp+grpc://\"h\"".into(),
            generated: 10,
            delivered: 4,
            queued: 3,
            dead: 2,
            dropped: 1,
            failing: true,
            ..DestinationFigures::default()
        };
        check(
            Snapshot {
                spans_generated: 10,
                records_decoded: 99,
                kernel_losses: vec![KernelLossCount { reason: "ring_full", cpu: 3, count: 7 }],
                losses: vec![("flow_evicted".into(), 5)],
                hooks: vec![("sys_exit".into(), false)],
                destinations: vec![destination],
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
                "spantap_destination_failing{destination=\"otlp+grpc://\\\"h\\\"\"} 1",
                "spantap_budget_cpu_ppm 50000",
                "spantap_budget_level 2",
                "spantap_budget_sheds_total 3",
                concat!("spantap_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            ],
        );
    }

    #[test]
    fn nothing_to_tell_is_still_a_valid_text() {
        check(Snapshot::default(), &["spantap_spans_generated_total 0"]);
    }
}
