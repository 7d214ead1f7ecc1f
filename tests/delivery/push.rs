//! The agent's own metrics, pushed by OTLP: OpenTelemetry's own types read them, and they are what the sink counted.

use serde_json::Value;
use spantap_tests::{clock::wait_for, temp::free_port};

use crate::{
    RATE,
    judge::Judge,
    rig::{BOUND, Relay},
    sender::Sender,
    sink::{Behaviour, Sink},
    to,
};

/// A metric of the last request that came by this way.
fn metric(judge: &Judge, way: &str, name: &str) -> Option<Value> {
    let request = judge.ask(&format!("last {way}"));
    let metrics = request["resourceMetrics"][0]["scopeMetrics"][0]["metrics"].as_array()?.clone();
    metrics.into_iter().find(|metric| metric["name"] == name)
}

/// The only number of a sum or gauge.
fn number(metric: &Value, kind: &str) -> Option<u64> {
    let points = metric[kind]["dataPoints"].as_array()?;
    assert_eq!(points.len(), 1, "{metric}");
    points[0]["asInt"].as_str()?.parse().ok()
}

fn resource(judge: &Judge, way: &str, key: &str) -> Value {
    let request = judge.ask(&format!("last {way}"));
    let attributes = request["resourceMetrics"][0]["resource"]["attributes"].as_array().cloned().unwrap_or_default();
    let found = attributes.into_iter().find(|attribute| attribute["key"] == key);
    found.unwrap_or_default()["value"]["stringValue"].clone()
}

/// What came by this way is what the sink counted.
fn check(judge: &Judge, way: &str, acknowledged: u64, sink: &Sink) {
    let told = |name: &str, kind: &str| number(&metric(judge, way, name)?, kind);
    for (name, truth) in [
        ("spantap_relayed_spans_accepted", acknowledged),
        ("spantap_destination_spans_delivered", sink.taken().0),
        ("spantap_destination_requests", sink.requests()),
    ] {
        wait_for(&format!("{name} by {way} is {truth}"), BOUND, || (told(name, "sum") == Some(truth)).then_some(()));
        let sum = metric(judge, way, name).expect("it was there")["sum"].clone();
        assert_eq!(sum["aggregationTemporality"], "AGGREGATION_TEMPORALITY_CUMULATIVE");
        assert_eq!(sum["isMonotonic"], true);
    }
    assert_eq!(told("spantap_destination_spans_queued", "gauge"), Some(0));
    let durations = metric(judge, way, "spantap_destination_request_duration").expect("a histogram");
    let point = &durations["histogram"]["dataPoints"][0];
    let counts: u64 = point["bucketCounts"].as_array().expect("a list").iter().map(whole).sum();
    assert_eq!((counts, whole(&point["count"])), (sink.requests(), sink.requests()), "{durations}");
    assert_eq!(durations["unit"], "s");
    assert_eq!(resource(judge, way, "service.name"), "spantap");
    assert_eq!(resource(judge, way, "host.name"), "here");
}

#[test]
fn metrics_that_are_pushed_are_cumulative_and_what_the_sink_counted() {
    let (grpc, http) = (free_port(), free_port());
    let judge = Judge::start("venv", "metrics.py", &[grpc.to_string(), http.to_string()]);
    let sink = Sink::start(Behaviour::Take);
    // By HTTP only a first and a last one.
    let config = format!(
        "host_name: here\nmetrics:\n  push:\n    - {{ url: 'otlp+grpc://127.0.0.1:{grpc}', interval: 200ms }}\n    \
         - {{ url: 'otlp+http://127.0.0.1:{http}', interval: 1d, compression: gzip, headers: {{ x-key: k }} }}\n    \
         - {{ url: 'otlp+http://127.0.0.1:{http}', interval: 200ms }}\n"
    );
    let mut relay = Relay::start(&[to("sink", &sink)], &config);
    let acknowledged = Sender::start(relay.address(), RATE, RATE / 2).finish();
    relay.drained("sink");
    check(&judge, "grpc", acknowledged, &sink);
    let said = || relay.messages();
    wait_for("who refuses is told", BOUND, || said().contains("metrics were not taken").then_some(()));
    assert!(said().contains("401 Unauthorized"), "{}", said());
    relay.terminate();
    check(&judge, "http", acknowledged, &sink);
}

fn whole(text: &Value) -> u64 {
    text.as_str().expect("64-bit numbers are text in JSON").parse().expect("a number")
}
