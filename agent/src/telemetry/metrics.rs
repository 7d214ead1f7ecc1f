//! The agent's own metrics as Prometheus text (OpenMetrics 1.0).
//!
//! In: a [`Snapshot`], taken by the wiring at each scrape. Out: text. Called by [`super::health`]. Counts nothing itself:
//! each figure is counted once, where it arises.

use std::{collections::HashSet, fmt};

use agent_core::tail::Reason;

use crate::{
    export::{Counts, LATENCY_BOUNDS, TailFigures, symptom::SymptomFigures},
    intake::IntakeCounts,
    kernel::budget::BudgetFigures,
    log::{DeadSum, DestinationCounts},
    receive::{ReceiverCounts, RequestCount, TenantCounts},
    reload::ReloadFigures,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::{Registry, Unit},
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
    /// Of this, what some destination waits for.
    pub log_awaited_bytes: u64,
    /// Its bound.
    pub log_bytes_max: u64,
    /// Files of the span log.
    pub log_segments: u64,
    /// Spans that could not be written to the span log.
    pub log_spans_dropped: u64,
    /// How often something of it could not be forced to disk.
    pub log_sync_errors: u64,
    /// Hooks by name, and whether each is attached.
    pub hooks: Vec<(String, bool)>,
    /// What became of received spans.
    pub intake: IntakeCounts,
    /// What became of received requests.
    pub receivers: ReceiverCounts,
    /// Destinations.
    pub destinations: Vec<DestinationFigures>,
    /// The budget.
    pub budget: BudgetFigures,
    /// The configuration.
    pub reloads: ReloadFigures,
    /// Symptoms.
    pub symptoms: SymptomFigures,
    /// CPU time of the agent itself.
    pub cpu_ns: u64,
    /// Its resident memory.
    pub memory_bytes: u64,
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

/// One destination: the log's accounts since its first span, and the exporter's counters since the agent started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DestinationFigures {
    /// generated = delivered + queued + dead + dropped + filtered.
    pub accounts: DestinationCounts,
    /// Requests, failures and times.
    pub counts: Counts,
    /// Its dead letters.
    pub letters: DeadSum,
}

/// Media type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Media type of [`plain`]'s text.
pub const PLAIN_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The snapshot as text.
pub fn render(snapshot: Snapshot) -> String {
    let mut registry = Registry::with_prefix("spantap");
    registry.register_collector(Box::new(snapshot));
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

type Labels = Vec<(&'static str, String)>;

impl Collector for Snapshot {
    fn encode(&self, mut to: DescriptorEncoder) -> fmt::Result {
        self.encode_capture(&mut to)?;
        self.encode_budget(&mut to)?;
        self.encode_log(&mut to)?;
        self.encode_received(&mut to)?;
        self.encode_process(&mut to)?;
        self.encode_symptoms(&mut to)?;
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
        let awaited = vec![(vec![], self.log_awaited_bytes)];
        gauges(to, "log_awaited_bytes", "Size of the segments that some destination waits for", awaited)?;
        gauges(to, "log_bytes_max", "Bound of the span log's size", vec![(vec![], self.log_bytes_max)])?;
        gauges(to, "log_segments", "Files of the span log", vec![(vec![], self.log_segments)])?;
        let dropped = vec![(vec![], self.log_spans_dropped)];
        counters(to, "log_spans_dropped", "Spans that could not be written to the span log", dropped)?;
        let failed = vec![(vec![], self.log_sync_errors)];
        counters(to, "log_sync_errors", "Times that the span log could not be forced to disk", failed)
    }

    fn encode_received(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let rows = |figure: fn(&RequestCount) -> u64| {
            let labels = |count: &RequestCount| {
                vec![("protocol", count.protocol.name().to_owned()), ("outcome", count.outcome.name().to_owned())]
            };
            self.receivers.requests.iter().map(|count| (labels(count), figure(count))).collect::<Vec<(Labels, u64)>>()
        };
        counters(to, "received_requests", "Requests received, by what became of them", rows(|count| count.requests))?;
        counters(to, "received_spans", "Spans in these, where they were read", rows(|count| count.spans))?;
        counters(to, "received_bytes", "Bytes of these, decompressed", rows(|count| count.bytes))?;
        let IntakeCounts { accepted, local, rejected, skewed, redacted, refused, possible_duplicates } = self.intake;
        for (name, help, count) in [
            ("relayed_spans_accepted", "Spans that were acknowledged to their senders", accepted),
            ("relayed_spans_local", "Of these, kept on this host only by sampling", local),
            ("relayed_spans_rejected", "Spans refused for good, each by itself", rejected),
            ("relayed_spans_skewed", "Spans whose times cannot be true", skewed),
            ("relayed_values_redacted", "Values taken out or replaced", redacted),
            ("relayed_requests_refused", "Requests not taken for want of room, or by the disk", refused),
            ("relayed_spans_possible_duplicates", "Spans stored but not acknowledged", possible_duplicates),
        ] {
            counters(to, name, help, vec![(vec![], count)])?;
        }
        let of_tenants = |figure: fn(&TenantCounts) -> u64| {
            let row = |tenant: &TenantCounts| (vec![("tenant", tenant.name.clone())], figure(tenant));
            self.receivers.tenants.iter().map(row).collect::<Vec<(Labels, u64)>>()
        };
        counters(to, "tenant_spans", "Spans taken, by tenant", of_tenants(|tenant| tenant.spans_taken))?;
        let refused = of_tenants(|tenant| tenant.refused_quota);
        counters(to, "tenant_refused_quota", "Requests refused because of a tenant's quota", refused)?;
        gauges(to, "receiver_connections", "Open connections of senders", vec![(vec![], self.receivers.connections)])?;
        counters(to, "receiver_tls_failures", "TLS handshakes that failed", vec![(vec![], self.receivers.tls_failures)])
    }

    fn encode_process(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let hash = vec![("hash", format!("{:016x}", self.reloads.hash))];
        gauges(to, "config_info", "The configuration in use, by a hash of its content", vec![(hash, 1)])?;
        let outcomes = [("applied", self.reloads.applied), ("refused", self.reloads.refused)];
        let rows = outcomes.map(|(outcome, count)| (vec![("outcome", outcome.to_owned())], count));
        counters(to, "config_reloads", "Changes of the configuration while running", rows.to_vec())?;
        let mut cpu =
            to.encode_descriptor("cpu", "CPU time of the agent itself", Some(&Unit::Seconds), MetricType::Counter)?;
        cpu.encode_counter::<NoLabelSet, _, u64>(&(self.cpu_ns as f64 / 1e9), None)?;
        gauges(to, "resident_memory_bytes", "Resident memory of the agent", vec![(vec![], self.memory_bytes)])
    }

    fn encode_symptoms(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let SymptomFigures { is_watched: true, symptoms, queued, unwatched, .. } = self.symptoms else { return Ok(()) };
        for (name, help, count) in [
            ("symptoms", "Bursts of errors and slow percentiles that had left out spans sent", symptoms),
            ("symptom_spans_queued", "Spans that were queued when these were seen", queued),
            ("symptom_spans_unwatched", "Spans of services and names for which there was no room", unwatched),
        ] {
            counters(to, name, help, vec![(vec![], count)])?;
        }
        Ok(())
    }

    fn encode_destinations(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let rows = |figure: fn(&DestinationFigures) -> u64| self.by_destination(figure);
        counters(to, "destination_spans_generated", "Spans made since its first", rows(|d| d.accounts.generated()))?;
        counters(to, "destination_spans_delivered", "Spans that it has taken", rows(|d| d.accounts.delivered))?;
        counters(to, "destination_spans_dead", "Spans that it has refused for good", rows(|d| d.accounts.dead))?;
        counters(to, "destination_spans_dropped", "Spans lost for it", rows(|d| d.accounts.dropped))?;
        counters(to, "destination_spans_filtered", "Spans not meant for it", rows(|d| d.accounts.filtered))?;
        gauges(to, "destination_spans_queued", "Spans that wait for it", rows(|d| d.accounts.queued))?;
        let sampled = rows(|d| d.counts.sampled_out);
        counters(to, "destination_spans_sampled_out", "Spans that its sampling left out", sampled)?;
        let ratio = rows(|d| d.counts.sampling_ppm);
        gauges(to, "destination_sampling_ppm", "Part of the traces that is sent, in millionths", ratio)?;
        counters(to, "destination_spans_attempted", "Spans in all requests", rows(|d| d.counts.attempted))?;
        counters(to, "destination_requests", "Requests, repeated ones included", rows(|d| d.counts.requests))?;
        counters(to, "destination_retries", "Requests that were sent again", rows(|d| d.counts.retries))?;
        let auth = rows(|d| d.counts.auth_failures);
        counters(to, "destination_auth_failures", "Requests refused for their credentials", auth)?;
        let limited = rows(|d| d.counts.rate_limited);
        counters(to, "destination_rate_limited", "Requests that came too fast for it", limited)?;
        counters(to, "destination_bytes", "Bytes of requests before compression", rows(|d| d.counts.bytes))?;
        counters(
            to,
            "destination_spans_possible_duplicates",
            "Spans sent again after the agent ended without seeing the answer",
            rows(|d| d.counts.possible_duplicates),
        )?;
        gauges(to, "destination_failing", "Whether the last request failed", rows(|d| d.counts.failing.into()))?;
        gauges(to, "destination_dead_letters", "Dead letters kept", rows(|d| d.letters.letters))?;
        gauges(to, "destination_dead_letter_spans", "Spans of these", rows(|d| d.letters.spans))?;
        gauges(to, "destination_dead_letter_bytes", "Bytes of these", rows(|d| d.letters.bytes))?;
        counters(to, "destination_spans_replayed", "Spans of dead letters that it took", rows(|d| d.counts.replayed))?;
        let late = rows(|d| d.counts.late);
        counters(to, "destination_spans_late", "Spans that it took on request, after they were left out", late)?;
        self.encode_tail(to)?;
        self.encode_latency(to)
    }

    fn encode_tail(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let rows = |figure: fn(&TailFigures) -> u64| {
            let row = |d: &DestinationFigures| {
                let tail = d.counts.tail?;
                Some((vec![("destination", d.counts.name.clone())], figure(&tail)))
            };
            self.destinations.iter().filter_map(row).collect::<Vec<(Labels, u64)>>()
        };
        let kept = self.destinations.iter().filter_map(|d| Some((&d.counts.name, d.counts.tail?)));
        let kept = kept.flat_map(|(name, tail)| {
            let row = |reason: Reason| {
                let labels = vec![("destination", name.clone()), ("reason", reason.name().to_owned())];
                (labels, tail.counts.kept[reason as usize])
            };
            Reason::ALL.map(row)
        });
        counters(to, "destination_traces_kept", "Traces that its sampling kept, and why", kept.collect())?;
        let left_out = rows(|tail| tail.counts.left_out);
        counters(to, "destination_traces_left_out", "Traces that its sampling left out", left_out)?;
        let early = rows(|tail| tail.counts.early);
        counters(
            to,
            "destination_traces_early",
            "Traces that were decided before their time, for want of room",
            early,
        )?;
        let late = rows(|tail| tail.counts.late_spans);
        counters(to, "destination_tail_late_spans", "Spans that came after their trace was decided", late)?;
        gauges(to, "destination_traces_waiting", "Traces that are not decided", rows(|tail| tail.waiting))?;
        gauges(to, "destination_tail_bytes", "Memory of decisions, about", rows(|tail| tail.bytes))
    }

    fn by_destination(&self, figure: fn(&DestinationFigures) -> u64) -> Vec<(Labels, u64)> {
        let row = |d: &DestinationFigures| (vec![("destination", d.counts.name.clone())], figure(d));
        self.destinations.iter().map(row).collect()
    }

    fn encode_latency(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        if self.destinations.is_empty() {
            return Ok(());
        }
        let help = "Duration of requests, from sending to the answer";
        let unit = Unit::Seconds;
        let mut family =
            to.encode_descriptor("destination_request_duration", help, Some(&unit), MetricType::Histogram)?;
        for DestinationFigures { counts, .. } in &self.destinations {
            let bounds = LATENCY_BOUNDS.into_iter().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(counts.latency).collect();
            let labels = [("destination", counts.name.as_str())];
            let sum = counts.latency_sum.as_secs_f64();
            let count = counts.latency.iter().sum();
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
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
    use std::time::Duration;

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
        let mut counts = Counts {
            name: "otlp+grpc://\"h\"".into(),
            failing: true,
            latency_sum: Duration::from_millis(1_500),
            ..Counts::default()
        };
        (counts.latency[0], counts.latency[8]) = (2, 1);
        let mut accounts = DestinationCounts::default();
        (accounts.delivered, accounts.queued, accounts.dead, accounts.dropped) = (4, 3, 2, 1);
        let destination = DestinationFigures {
            accounts,
            letters: DeadSum { letters: 1, spans: 2, bytes: 300, ..DeadSum::default() },
            counts,
        };
        check(
            Snapshot {
                spans_generated: 10,
                records_decoded: 99,
                cpu_ns: 1_500_000_000,
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
                "spantap_destination_spans_generated_total{destination=\"otlp+grpc://\\\"h\\\"\"} 10",
                "spantap_destination_dead_letter_bytes{destination=\"otlp+grpc://\\\"h\\\"\"} 300",
                "spantap_destination_request_duration_seconds_sum{destination=\"otlp+grpc://\\\"h\\\"\"} 1.5",
                "spantap_destination_request_duration_seconds_count{destination=\"otlp+grpc://\\\"h\\\"\"} 3",
                "spantap_destination_request_duration_seconds_bucket{le=\"1.0\",destination=\"otlp+grpc://\\\"h\\\"\"} 2",
                "spantap_destination_request_duration_seconds_bucket{le=\"+Inf\",destination=\"otlp+grpc://\\\"h\\\"\"} 3",
                "spantap_destination_failing{destination=\"otlp+grpc://\\\"h\\\"\"} 1",
                "spantap_cpu_seconds_total 1.5",
                "spantap_budget_cpu_ppm 50000",
                "spantap_budget_level 2",
                "spantap_budget_sheds_total 3",
                concat!("spantap_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            ],
        );
    }

    /// Names in the text that follow `spantap_`, without what the text format adds.
    fn names(text: &str) -> std::collections::BTreeSet<String> {
        let name = |rest: &str| {
            let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(rest.len());
            let name = &rest[..end];
            ["_total", "_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .unwrap_or(name)
                .to_owned()
        };
        text.split("spantap_").skip(1).map(name).collect()
    }

    #[test]
    fn rules_and_dashboard_ask_only_for_what_there_is() {
        let destination = DestinationFigures::default();
        let request = RequestCount {
            protocol: crate::receive::Protocol::OtlpGrpc,
            outcome: crate::receive::Outcome::Ok,
            requests: 1,
            spans: 1,
            bytes: 1,
        };
        let known = names(&render(Snapshot {
            kernel_losses: vec![KernelLossCount { reason: "ring_full", cpu: 0, count: 1 }],
            destinations: vec![destination],
            receivers: ReceiverCounts { requests: vec![request], ..ReceiverCounts::default() },
            budget: BudgetFigures { cpu_percent_max: 5, ..BudgetFigures::default() },
            ..Snapshot::default()
        }));
        for path in ["prometheus/rules.yaml", "grafana/spantap.json"] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path);
            let asked = names(&std::fs::read_to_string(&path).expect("readable"));
            let unknown: Vec<&String> = asked.difference(&known).collect();
            assert!(asked.len() > 10 && unknown.is_empty(), "{}: {unknown:?}", path.display());
        }
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
