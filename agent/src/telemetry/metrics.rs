//! The agent's own metrics: every figure with its name, its labels and what it means.
//!
//! In: a [`Snapshot`], taken by the wiring each time that somebody wants it. Out: [`Family`]s, which [`super::text`] and [`super::otlp`]
//! write down. Counts nothing itself: each figure is counted once, where it arises.

use std::{collections::BTreeMap, time::Duration};

use agent_core::tail::Reason;

use super::family::{Buckets, Family, Kind, Labels, Value};
use crate::{
    export::{Counts, FailureKind, TailFigures, symptom::SymptomFigures},
    intake::IntakeCounts,
    kernel::budget::BudgetFigures,
    log::{DeadSum, DestinationCounts},
    receive::{ReceiverCounts, RequestCount, TenantCounts},
    reload::ReloadFigures,
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
    /// Dead letters, also of destinations that are no longer configured.
    pub letters: Vec<DeadSum>,
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
    /// When it started.
    pub started_unix_ns: u64,
    /// Pushes of these figures that were taken, and that were not or not whole.
    pub pushes: [u64; 2],
    /// Size at which the dead letters of a destination are full.
    pub dead_letters_bytes_max: u64,
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
}

impl Snapshot {
    /// All families that have something to tell, each once.
    pub fn families(&self) -> Vec<Family> {
        let mut all = self.all();
        all.retain(|family| !family.rows.is_empty());
        all
    }

    /// Also those that have no row.
    pub(super) fn all(&self) -> Vec<Family> {
        let mut to = Vec::new();
        self.of_capture(&mut to);
        self.of_budget(&mut to);
        self.of_log(&mut to);
        self.of_received(&mut to);
        self.of_process(&mut to);
        self.of_symptoms(&mut to);
        self.of_destinations(&mut to);
        to
    }

    fn of_capture(&self, to: &mut Vec<Family>) {
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        gauges(to, "build_info", "Version of the agent", vec![(version, 1)]);
        counters(to, "records_decoded", "Kernel records decoded", vec![(vec![], self.records_decoded)]);
        counters(to, "spans_generated", "Spans finished", vec![(vec![], self.spans_generated)]);
        gauges(to, "connections", "Connections followed now", vec![(vec![], self.connections)]);
        let kernel = self
            .kernel_losses
            .iter()
            .map(|loss| (vec![("reason", loss.reason.to_owned()), ("cpu", loss.cpu.to_string())], loss.count));
        counters(to, "kernel_losses", "Losses on the kernel side", kernel.collect());
        let own = self.losses.iter().map(|(reason, count)| (vec![("reason", reason.clone())], *count));
        counters(to, "losses", "Losses in the agent", own.collect());
        let hooks = self.hooks.iter().map(|(hook, attached)| (vec![("hook", hook.clone())], u64::from(*attached)));
        gauges(to, "hook_attached", "Whether a kernel hook is attached", hooks.collect());
    }

    fn of_budget(&self, to: &mut Vec<Family>) {
        let budget = &self.budget;
        if budget.cpu_percent_max == 0 {
            return;
        }
        let ppm = |percent: f64| vec![(vec![], (percent * 10_000.0) as u64)];
        gauges(
            to,
            "budget_cpu_ppm",
            "Most CPU time that capturing may take, of all CPUs",
            ppm(budget.cpu_percent_max.into()),
        );
        gauges(
            to,
            "budget_cost_cpu_ppm",
            "CPU time that capturing took when last measured",
            ppm(budget.cost.cpu_percent),
        );
        gauges(to, "budget_level", "Steps of detail that are left out", vec![(vec![], budget.level as u64)]);
        counters(to, "budget_sheds", "Steps of detail that were left out", vec![(vec![], budget.sheds)]);
        counters(to, "budget_restores", "Steps of detail that came back", vec![(vec![], budget.restores)]);
    }

    fn of_log(&self, to: &mut Vec<Family>) {
        gauges(to, "log_bytes", "Size of the span log", vec![(vec![], self.log_bytes)]);
        let awaited = vec![(vec![], self.log_awaited_bytes)];
        gauges(to, "log_awaited_bytes", "Size of the segments that some destination waits for", awaited);
        gauges(to, "log_bytes_max", "Bound of the span log's size", vec![(vec![], self.log_bytes_max)]);
        let letters = vec![(vec![], self.dead_letters_bytes_max)];
        gauges(to, "dead_letters_bytes_max", "Bound of the size of the dead letters of each destination", letters);
        gauges(to, "log_segments", "Files of the span log", vec![(vec![], self.log_segments)]);
        let dropped = vec![(vec![], self.log_spans_dropped)];
        counters(to, "log_spans_dropped", "Spans that could not be written to the span log", dropped);
        let failed = vec![(vec![], self.log_sync_errors)];
        counters(to, "log_sync_errors", "Times that the span log could not be forced to disk", failed);
    }

    fn of_received(&self, to: &mut Vec<Family>) {
        let rows = |figure: fn(&RequestCount) -> u64| {
            let labels = |count: &RequestCount| {
                vec![("protocol", count.protocol.name().to_owned()), ("outcome", count.outcome.name().to_owned())]
            };
            self.receivers.requests.iter().map(|count| (labels(count), figure(count))).collect::<Vec<(Labels, u64)>>()
        };
        counters(to, "received_requests", "Requests received, by what became of them", rows(|count| count.requests));
        counters(to, "received_spans", "Spans in these, where they were read", rows(|count| count.spans));
        counters(to, "received_bytes", "Bytes of these, decompressed", rows(|count| count.bytes));
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
            counters(to, name, help, vec![(vec![], count)]);
        }
        let of_tenants = |figure: fn(&TenantCounts) -> u64| {
            let row = |tenant: &TenantCounts| (vec![("tenant", tenant.name.clone())], figure(tenant));
            self.receivers.tenants.iter().map(row).collect::<Vec<(Labels, u64)>>()
        };
        counters(to, "tenant_spans", "Spans taken, by tenant", of_tenants(|tenant| tenant.spans_taken));
        let refused = of_tenants(|tenant| tenant.refused_quota);
        counters(to, "tenant_refused_quota", "Requests refused because of a tenant's quota", refused);
        gauges(to, "receiver_connections", "Open connections of senders", vec![(vec![], self.receivers.connections)]);
        counters(
            to,
            "receiver_tls_failures",
            "TLS handshakes that failed",
            vec![(vec![], self.receivers.tls_failures)],
        );
    }

    fn of_process(&self, to: &mut Vec<Family>) {
        let hash = vec![("hash", format!("{:016x}", self.reloads.hash))];
        gauges(to, "config_info", "The configuration in use, by a hash of its content", vec![(hash, 1)]);
        let outcomes = [("applied", self.reloads.applied), ("refused", self.reloads.refused)];
        let rows = outcomes.map(|(outcome, count)| (vec![("outcome", outcome.to_owned())], count));
        counters(to, "config_reloads", "Changes of the configuration while running", rows.to_vec());
        if self.pushes != [0, 0] {
            let rows = ["taken", "failed"].into_iter().zip(self.pushes);
            let rows = rows.map(|(outcome, count)| (vec![("outcome", outcome.to_owned())], count)).collect();
            counters(to, "metrics_pushes", "Requests with these figures, by what became of them", rows);
        }
        let start = Value::Seconds(Duration::from_nanos(self.started_unix_ns).as_secs_f64());
        push(to, "start_time", "When the agent started, as Unix time", Kind::Gauge, vec![(vec![], start)]);
        let cpu = Value::Seconds(self.cpu_ns as f64 / 1e9);
        push(to, "cpu", "CPU time of the agent itself", Kind::Counter, vec![(vec![], cpu)]);
        gauges(to, "resident_memory_bytes", "Resident memory of the agent", vec![(vec![], self.memory_bytes)]);
    }

    fn of_symptoms(&self, to: &mut Vec<Family>) {
        let SymptomFigures { is_watched: true, symptoms, queued, unwatched, .. } = self.symptoms else { return };
        for (name, help, count) in [
            ("symptoms", "Bursts of errors and slow percentiles that had left out spans sent", symptoms),
            ("symptom_spans_queued", "Spans that were queued when these were seen", queued),
            ("symptom_spans_unwatched", "Spans of services and names for which there was no room", unwatched),
        ] {
            counters(to, name, help, vec![(vec![], count)]);
        }
    }

    fn of_destinations(&self, to: &mut Vec<Family>) {
        let rows = |figure: fn(&DestinationFigures) -> u64| self.by_destination(figure);
        let info = |d: &DestinationFigures| {
            let scheme = d.counts.url.split(':').next().unwrap_or_default().to_owned();
            (vec![("destination", d.counts.name.clone()), ("scheme", scheme)], 1)
        };
        let info = self.destinations.iter().map(info).collect();
        gauges(to, "destination_info", "How it is sent to, by the scheme of its URL", info);
        accounts(to, "destination_spans_generated", "Spans made since its first", rows(|d| d.accounts.generated()));
        accounts(to, "destination_spans_delivered", "Spans that it has taken", rows(|d| d.accounts.delivered));
        accounts(to, "destination_spans_dead", "Spans that it has refused for good", rows(|d| d.accounts.dead));
        accounts(to, "destination_spans_dropped", "Spans lost for it", rows(|d| d.accounts.dropped));
        accounts(to, "destination_spans_filtered", "Spans not meant for it", rows(|d| d.accounts.filtered));
        gauges(to, "destination_spans_queued", "Spans that wait for it", rows(|d| d.accounts.queued));
        let sampled = rows(|d| d.counts.sampled_out);
        counters(to, "destination_spans_sampled_out", "Spans that its sampling left out", sampled);
        let ratio = rows(|d| d.counts.sampling_ppm);
        gauges(
            to,
            "destination_sampling_ppm",
            "Part of the traces that is to be sent, as configured or adapted, in millionths",
            ratio,
        );
        let attempted = rows(|d| d.counts.attempted);
        let help =
            "Spans in requests, repeated ones included; of what is refused and sent in parts, those of the parts";
        counters(to, "destination_spans_attempted", help, attempted);
        counters(to, "destination_requests", "Requests, repeated ones included", rows(|d| d.counts.requests));
        counters(to, "destination_retries", "Requests that were sent again", rows(|d| d.counts.retries));
        let auth = rows(|d| d.counts.auth_failures);
        counters(to, "destination_auth_failures", "Requests refused for their credentials", auth);
        let limited = rows(|d| d.counts.rate_limited);
        counters(to, "destination_rate_limited", "Requests that came too fast for it", limited);
        self.of_failures(to);
        counters(to, "destination_bytes", "Bytes of requests before compression", rows(|d| d.counts.bytes));
        let sent = rows(|d| d.counts.sent_bytes);
        let help =
            "Bytes sent to it, after compression and with all that protocols and TLS add; of a file, bytes written";
        counters(to, "destination_sent_bytes", help, sent);
        counters(
            to,
            "destination_spans_possible_duplicates",
            "Spans of requests that may have arrived before: their answer was not seen",
            rows(|d| d.counts.possible_duplicates),
        );
        let failing = rows(|d| d.counts.failing.into());
        let help = "Whether spans do not arrive: the last request failed, and not only because of its spans";
        gauges(to, "destination_failing", help, failing);
        let letters = |figure: fn(&DeadSum) -> u64| self.dead_letters(figure);
        let help = "Dead letters kept, also of destinations that are no longer configured";
        gauges(to, "destination_dead_letters", help, letters(|sum| sum.letters));
        gauges(to, "destination_dead_letter_spans", "Spans of these", letters(|sum| sum.spans));
        gauges(to, "destination_dead_letter_bytes", "Bytes of these", letters(|sum| sum.bytes));
        counters(to, "destination_spans_replayed", "Spans of dead letters that it took", rows(|d| d.counts.replayed));
        let late = rows(|d| d.counts.late);
        counters(to, "destination_spans_late", "Spans that it took on request, after they were left out", late);
        self.of_tail(to);
        self.of_latency(to);
    }

    fn of_failures(&self, to: &mut Vec<Family>) {
        let row = |counts: &Counts, kind: FailureKind| {
            let labels = vec![("destination", counts.name.clone()), ("kind", kind.name().to_owned())];
            (labels, counts.failures[kind as usize])
        };
        let rows = self.destinations.iter().flat_map(|d| FailureKind::ALL.map(|kind| row(&d.counts, kind)));
        counters(to, "destination_failures", "Requests that were not taken whole, by why", rows.collect());
    }

    fn of_tail(&self, to: &mut Vec<Family>) {
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
        counters(to, "destination_traces_kept", "Traces that its sampling kept, and why", kept.collect());
        let left_out = rows(|tail| tail.counts.left_out);
        counters(to, "destination_traces_left_out", "Traces that its sampling left out", left_out);
        let early = rows(|tail| tail.counts.early);
        counters(to, "destination_traces_early", "Traces that were decided before their time, for want of room", early);
        let late = rows(|tail| tail.counts.late_spans);
        counters(to, "destination_tail_late_spans", "Spans that came after their trace was decided", late);
        gauges(to, "destination_traces_waiting", "Traces that are not decided", rows(|tail| tail.waiting));
        gauges(to, "destination_tail_bytes", "Memory of decisions, about", rows(|tail| tail.bytes));
    }

    fn by_destination(&self, figure: fn(&DestinationFigures) -> u64) -> Vec<(Labels, u64)> {
        let row = |d: &DestinationFigures| (vec![("destination", d.counts.name.clone())], figure(d));
        self.destinations.iter().map(row).collect()
    }

    /// Of every destination that is configured or has some.
    fn dead_letters(&self, figure: fn(&DeadSum) -> u64) -> Vec<(Labels, u64)> {
        let configured = self.destinations.iter().map(|d| (d.counts.name.as_str(), 0));
        let kept = self.letters.iter().map(|sum| (sum.destination.as_str(), figure(sum)));
        // What comes later counts.
        let by_name: BTreeMap<&str, u64> = configured.chain(kept).collect();
        by_name.into_iter().map(|(name, count)| (vec![("destination", name.to_owned())], count)).collect()
    }

    fn of_latency(&self, to: &mut Vec<Family>) {
        let help = "Duration of requests, from sending to the answer";
        let row = |DestinationFigures { counts, .. }: &DestinationFigures| {
            let durations = Buckets { counts: counts.latency, sum: counts.latency_sum };
            (vec![("destination", counts.name.clone())], Value::Durations(durations))
        };
        let rows = self.destinations.iter().map(row).collect();
        push(to, "destination_request_duration", help, Kind::Histogram, rows);
    }
}

fn counters(to: &mut Vec<Family>, name: &'static str, help: &'static str, rows: Vec<(Labels, u64)>) {
    counts(to, name, help, Kind::Counter, rows);
}

fn gauges(to: &mut Vec<Family>, name: &'static str, help: &'static str, rows: Vec<(Labels, u64)>) {
    counts(to, name, help, Kind::Gauge, rows);
}

/// Counters that the span log keeps.
fn accounts(to: &mut Vec<Family>, name: &'static str, help: &'static str, rows: Vec<(Labels, u64)>) {
    counts(to, name, help, Kind::Account, rows);
}

fn counts(to: &mut Vec<Family>, name: &'static str, help: &'static str, kind: Kind, rows: Vec<(Labels, u64)>) {
    push(to, name, help, kind, rows.into_iter().map(|(labels, count)| (labels, Value::Count(count))).collect());
}

fn push(to: &mut Vec<Family>, name: &'static str, help: &'static str, kind: Kind, rows: Vec<(Labels, Value)>) {
    to.push(Family { name, help, kind, rows });
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::telemetry::text::render;

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

    /// Something of everything that has a label.
    pub fn one_of_each() -> Snapshot {
        let counts = Counts { tail: Some(TailFigures::default()), ..Counts::default() };
        let destination = DestinationFigures { counts, ..DestinationFigures::default() };
        let request = RequestCount {
            protocol: crate::receive::Protocol::OtlpGrpc,
            outcome: crate::receive::Outcome::Ok,
            requests: 1,
            spans: 1,
            bytes: 1,
        };
        Snapshot {
            kernel_losses: vec![KernelLossCount { reason: "ring_full", cpu: 0, count: 1 }],
            destinations: vec![destination],
            receivers: ReceiverCounts {
                requests: vec![request],
                tenants: vec![TenantCounts { name: "blue".into(), spans_taken: 1, refused_quota: 1 }],
                ..ReceiverCounts::default()
            },
            symptoms: SymptomFigures { is_watched: true, ..SymptomFigures::default() },
            losses: vec![("flow_evicted".into(), 1)],
            hooks: vec![("sys_exit".into(), true)],
            pushes: [1, 1],
            budget: BudgetFigures { cpu_percent_max: 5, ..BudgetFigures::default() },
            ..Snapshot::default()
        }
    }

    #[test]
    fn rules_and_dashboards_ask_only_for_what_there_is() {
        let known = names(&render(&one_of_each()));
        let deploy = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        let dashboards =
            std::fs::read_dir(deploy.join("grafana")).expect("the dashboards").map(|file| file.expect("a file").path());
        for path in dashboards.chain([deploy.join("prometheus/rules.yaml")]) {
            let asked = names(&std::fs::read_to_string(&path).expect("readable"));
            let unknown: Vec<&String> = asked.difference(&known).collect();
            assert!(asked.len() > 10 && unknown.is_empty(), "{}: {unknown:?}", path.display());
        }
    }

    #[test]
    fn dead_letters_are_told_whatever_the_configuration_says() {
        let configured = |name: &str| DestinationFigures {
            counts: Counts { name: name.into(), ..Counts::default() },
            ..DestinationFigures::default()
        };
        let letter =
            |name: &str| DeadSum { destination: name.into(), letters: 2, spans: 3, bytes: 4, ..DeadSum::default() };
        let snapshot = Snapshot {
            destinations: vec![configured("kept"), configured("none")],
            letters: vec![letter("kept"), letter("removed")],
            ..Snapshot::default()
        };
        let text = render(&snapshot);
        for (name, counts) in [("kept", [2, 3, 4]), ("none", [0; 3]), ("removed", [2, 3, 4])] {
            for (figure, count) in ["letters", "letter_spans", "letter_bytes"].into_iter().zip(counts) {
                let line = format!("spantap_destination_dead_{figure}{{destination=\"{name}\"}} {count}\n");
                assert_eq!(text.matches(&line).count(), 1, "{line} in {text}");
            }
        }
    }

    /// Whose values are the configuration's, or one of a few words of the agent. Services and span names are those of others, without number.
    #[test]
    fn labels_are_few_and_none_comes_from_spans() {
        let families = one_of_each().families();
        let labels = families.iter().flat_map(|family| &family.rows).flat_map(|(labels, _)| labels);
        let found: std::collections::BTreeSet<&str> = labels.map(|(name, _)| *name).collect();
        let of_configuration = ["destination", "scheme", "tenant", "hash", "version"];
        let words = ["cpu", "hook", "kind", "outcome", "protocol", "reason"];
        assert_eq!(found, of_configuration.into_iter().chain(words).collect());
    }
}
