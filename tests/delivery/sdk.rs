//! SDKs of others: what OpenTelemetry's for Python sends over each protocol is in the log as it was made.

use std::collections::BTreeMap;

use serde_json::Value;
use spantap_tests::{python, temp::TempDir, temp::free_port};

use crate::rig::Relay;

const SENDER: &str = include_str!("sdk_python.py");
const PROTOCOLS: [&str; 5] = ["grpc", "grpc-gzip", "http", "http-gzip", "zipkin"];
const SPANS_EACH: usize = 200;

fn sent(grpc: &str, relay: &Relay, token: &str) -> Vec<Value> {
    let output = python::script(SENDER).args([grpc, &relay.address().to_string(), token]).output();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn in_log(relay: &Relay) -> BTreeMap<String, Value> {
    let id = |span: &Value| format!("{}", span["span_id"]);
    relay.ask(&["spans", "--limit", "0"]).into_iter().map(|span| (id(&span), span)).collect()
}

#[test]
fn what_an_sdk_sends_over_each_protocol_is_in_the_log_as_it_was_made() {
    let folder = TempDir::new("sdk");
    folder.write("token", "hunter2\n");
    let grpc = format!("127.0.0.1:{}", free_port());
    let token = folder.join("token");
    let config = format!(
        "receive:\n  otlp_grpc: ['{grpc}']\n  tenants: [{{ name: blue, tokens: [{{ file: {} }}] }}]\n",
        token.display()
    );
    let relay = Relay::start(&[], &config);
    let refused = sent(&grpc, &relay, "wrong");
    assert!(refused.iter().all(|span| span["result"] == "FAILURE"), "{:?}", refused.first());
    assert_eq!(in_log(&relay).len(), 0);

    let sent = sent(&grpc, &relay, "hunter2");
    let log = in_log(&relay);
    for protocol in PROTOCOLS {
        let spans: Vec<_> = sent.iter().filter(|span| span["protocol"] == protocol).collect();
        assert_eq!(spans.len(), SPANS_EACH, "{protocol}");
        for span in spans {
            check(protocol, span, &log);
        }
    }
    assert_eq!(log.len(), SPANS_EACH * PROTOCOLS.len());
    assert!(!relay.messages().contains("hunter2"));
}

fn check(protocol: &str, sent: &Value, log: &BTreeMap<String, Value>) {
    assert_eq!(sent["result"], "SUCCESS", "{sent}");
    let got = log.get(&sent["span_id"].to_string()).unwrap_or_else(|| panic!("{protocol}: {sent} is not in the log"));
    for key in ["trace_id", "parent_span_id", "name", "kind"] {
        assert_eq!(got[key], sent[key], "{protocol} {key}: {got}");
    }
    assert_eq!(got["service"], format!("sdk-{protocol}"), "{got}");
    assert_eq!(got["status"] == "error", sent["status"] == "error", "{protocol}: {got}");
    // Zipkin has microseconds, and tags that are text.
    let is_zipkin = protocol == "zipkin";
    let unit = if is_zipkin { 1_000 } else { 1 };
    for key in ["start_unix_ns", "duration_ns"] {
        let of = |span: &Value| span[key].as_u64().expect("a number") / unit;
        assert!(of(got).abs_diff(of(sent)) <= u64::from(is_zipkin), "{protocol} {key}: {got} {sent}");
    }
    for (key, value) in sent["attributes"].as_object().expect("an object") {
        let expected = if is_zipkin { Value::from(text(value)) } else { value.clone() };
        assert_eq!(got["attributes"][key], expected, "{protocol} {key}: {got}");
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
