//! The agent's figures as Prometheus sees them: its own linter takes the text and the rules, it scrapes a running agent, and its query
//! API has each figure of `docs/reference-coverage.md`, with the values that the sink counted.

mod counts;

use std::{net::SocketAddr, path::PathBuf};

use serde_json::{Value, json};
use spantap_tests::{
    agent::repository,
    clock::{poll, wait_for},
    http::get,
    otlp,
    process::{Launch, Process, tool},
    temp::{TempDir, free_port},
};

use crate::{
    RATE,
    rig::{BOUND, Relay},
    sender::Sender,
    sink::{Behaviour, Sink},
    to,
};

/// Each figure of the reference and what it is asked by. A query that is about nothing has no result.
const FIGURES: &[(&str, &str)] = &[
    ("F4", "spantap_destination_failures_total{kind=\"refused\"} > 0"),
    ("F4", "spantap_destination_failures_total{kind=\"credentials\"} > 0"),
    (
        "M1",
        "(spantap_destination_spans_delivered_total + spantap_destination_spans_late_total) / spantap_destination_spans_attempted_total",
    ),
    ("M1", "spantap:export_success:ratio5m"),
    ("M1", "spantap:export_success:ratio2m"),
    ("M2", "histogram_quantile(0.99, spantap_destination_request_duration_seconds_bucket) > 0"),
    ("M2", "spantap:export_duration_seconds:p99_5m"),
    ("M3", "spantap_destination_spans_queued"),
    ("M4", "spantap_cpu_seconds_total > 0"),
    ("M5", "spantap_resident_memory_bytes > 1000000"),
    ("M6", "spantap_destination_rate_limited_total > 0"),
    ("M7", "spantap_destination_spans_dropped_total + on (instance) spantap_log_spans_dropped_total"),
    ("M8", "spantap_destination_retries_total > 0"),
    ("M9", "spantap_relayed_spans_skewed_total"),
    ("M10", "spantap_destination_spans_possible_duplicates_total"),
    ("M10", "spantap_relayed_spans_possible_duplicates_total"),
    ("M11", "spantap_destination_auth_failures_total > 0"),
    ("M11", "spantap_received_requests_total{outcome=\"unauthenticated\"} == 1"),
    ("M12", "spantap_destination_spans_attempted_total / spantap_destination_requests_total > 1"),
    ("M13", "spantap_destination_bytes_total > 0"),
    ("M13", "spantap_destination_sent_bytes_total > spantap_destination_bytes_total / 100"),
    ("M14", "spantap_destination_dead_letters == 1"),
    ("M14", "spantap_destination_dead_letter_spans == 1"),
    ("M14", "spantap_destination_dead_letter_bytes > 0"),
    ("M15", "spantap_destination_sampling_ppm == 1000000"),
    ("M15", "spantap:sampling_observed:ratio5m"),
    ("M15", "spantap_destination_spans_sampled_out_total + on (instance) spantap_relayed_spans_local_total"),
];

/// A running Prometheus with the rules of `deploy/`, and its query API.
struct Prometheus {
    process: Process,
    folder: TempDir,
    address: SocketAddr,
}

impl Prometheus {
    fn scraping(target: SocketAddr) -> Self {
        let folder = TempDir::new("prometheus");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let config = format!(
            "global: {{ scrape_interval: 200ms, evaluation_interval: 200ms }}\nrule_files: ['{}']\n\
             scrape_configs: [{{ job_name: spantap, static_configs: [{{ targets: ['{target}'] }}] }}]\n",
            rules().display()
        );
        let config = folder.write("prometheus.yml", config);
        Launch::new(tool("promtool")).args(["check", "config"]).arg(&config).run();
        let process = Launch::new(tool("prometheus"))
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout_to(&folder.join("stdout"))
            .stderr_to(&folder.join("stderr"))
            .spawn();
        Self { process, folder, address }
    }

    /// What a query gives now; `None`: nothing, or it does not answer yet.
    fn ask(&mut self, query: &str) -> Option<Vec<Value>> {
        let said = || std::fs::read_to_string(self.folder.join("stderr")).unwrap_or_default();
        assert!(self.process.ended().is_none(), "Prometheus ended: {}", said());
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = get(self.address, &format!("/api/v1/query?query={encoded}")).ok()?;
        let answer: Value = serde_json::from_str(&answer).ok()?;
        assert_ne!(answer["status"], "error", "{query}: {answer}");
        let result = answer["data"]["result"].as_array()?.clone();
        (!result.is_empty()).then_some(result)
    }

    /// The value of the only series that a query gives.
    fn number(&mut self, query: &str) -> Option<u64> {
        self.ask(query)?.first()?["value"][1].as_str()?.parse().ok()
    }
}

fn rules() -> PathBuf {
    repository().join("deploy/prometheus/rules.yaml")
}

#[test]
fn rules_page_for_what_needs_somebody_and_not_for_a_short_outage() {
    let tests = repository().join("deploy/prometheus/rules_test.yaml");
    let output = Launch::new(tool("promtool")).args(["test", "rules"]).arg(tests).output();
    let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat();
    assert!(output.status.success(), "{said}");
}

/// Whether Grafana shows a panel as it is meant, nobody here can say; whether Prometheus can answer it, its own tool can.
#[test]
fn prometheus_can_answer_each_panel_of_the_dashboards() {
    let folder = TempDir::new("dashboards");
    let mut dashboards = 0;
    for file in std::fs::read_dir(repository().join("deploy/grafana")).expect("the dashboards") {
        let path = file.expect("a file").path();
        let text = std::fs::read_to_string(&path).expect("read the dashboard");
        let dashboard: Value = serde_json::from_str(&text).expect("JSON");
        let panels = dashboard["panels"].as_array().into_iter().flatten();
        let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
        let expressions = targets.map(|target| target["expr"].as_str().expect("an expression"));
        // What Grafana fills in.
        let filled = |expression: &str| {
            let values = [("$__range", "1h"), ("$price_per_gib", "0.1"), ("$instance", ".*"), ("$destination", ".*")];
            values.iter().fold(expression.to_owned(), |text, (name, value)| text.replace(name, value))
        };
        let rules: Vec<Value> = expressions
            .enumerate()
            .map(|(n, text)| json!({ "record": format!("panel:{n}"), "expr": filled(text) }))
            .collect();
        assert!(rules.len() >= 10, "{}: {} expressions", path.display(), rules.len());
        let rules = json!({ "groups": [{ "name": "panels", "rules": rules }] });
        let rules = folder.write("panels.yaml", rules.to_string());
        let output = Launch::new(tool("promtool")).args(["check", "rules"]).arg(rules).output();
        let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat();
        assert!(output.status.success(), "{}: {said}", path.display());
        dashboards += 1;
    }
    assert_eq!(dashboards, 3);
}

#[test]
fn prometheus_takes_text_and_rules_and_has_every_figure() {
    let folder = TempDir::new("figures");
    let token = folder.write("token", "hunter2\n");
    let metrics = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let config = format!(
        "metrics: {{ address: '{metrics}' }}\nreceive: {{ tenants: [{{ name: blue, tokens: [{{ file: '{}' }}] }}] }}\n",
        token.display()
    );
    let sink = Sink::start(Behaviour::Take);
    let relay = Relay::start(&[to("sink", &sink)], &config);
    let mut prometheus = Prometheus::scraping(metrics);

    let wrong = otlp::post_with("authorization: Bearer wrong\r\n", b"");
    let answered = otlp::exchange(&mut None, relay.address(), &wrong, BOUND).expect("an answer");
    assert_eq!(answered, Some(401));
    let sender = Sender::start_with("authorization: Bearer hunter2\r\n", relay.address(), RATE, RATE);
    for behaviour in [Behaviour::Exhausted(None), Behaviour::Token("another".into())] {
        sink.set(behaviour);
        wait_for("requests are refused", BOUND, || (sink.met() > 1).then_some(()));
    }
    sink.set(Behaviour::Poison(vec![RATE - 7]));
    let acknowledged = sender.finish();
    wait_for("the poison is dead", BOUND, || (relay.destination("sink")["dead"] == 1).then_some(()));
    relay.drained("sink");

    let mut missing = FIGURES.to_vec();
    let all = poll(BOUND, || {
        missing.retain(|(_, query)| prometheus.ask(query).is_none());
        missing.is_empty().then_some(())
    });
    let missing: Vec<String> = missing.iter().map(|(figure, query)| format!("{figure}: {query}")).collect();
    assert!(all.is_some(), "Prometheus does not have\n{}", missing.join("\n"));
    for (query, truth) in [
        ("spantap_relayed_spans_accepted_total", acknowledged),
        ("spantap_destination_spans_delivered_total", sink.taken().0),
        ("spantap_destination_requests_total", sink.requests()),
        ("count(ALERTS_FOR_STATE{alertname=\"SpantapDeadLetters\"})", 1),
        ("up", 1),
    ] {
        wait_for(&format!("{query} is {truth}"), BOUND, || (prometheus.number(query) == Some(truth)).then_some(()));
    }
    let text = folder.write("metrics", get(metrics, "/metrics").expect("an answer"));
    let linted = Launch::new(tool("sh")).args(["-c", "promtool check metrics <\"$0\" 2>&1"]).arg(&text).output();
    assert!(linted.status.success(), "{}", String::from_utf8_lossy(&linted.stdout));
    Launch::new(tool("promtool")).args(["check", "rules"]).arg(rules()).run();
}
