//! Spans arrive in a real OTLP receiver, by gRPC and by HTTP, in the trace that the application's `traceparent` names.
//!
//! Truth: the `traceparent` that curl sent, and what rotel prints.

use std::{collections::BTreeSet, time::Duration};

use spantap_tests::{
    clock,
    rotel::{ReceivedSpan, Rotel},
    span::{Span, only},
    tools::{PythonServer, curl},
    traced::Traced,
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const BOUND: Duration = Duration::from_secs(20);

fn check(url: impl Fn(&Rotel) -> String) {
    let rotel = Rotel::start();
    let traced = Traced::with("otlp", |options| options.flag("--export", url(&rotel)));
    let python = PythonServer::start(traced.place());
    let header = format!("traceparent: 00-{TRACE}-{PARENT}-01");
    curl(traced.place(), &["-H", &header, &format!("http://{}/with", python.address)]);
    curl(traced.place(), &[&format!("http://{}/without", python.address)]);

    let own = traced.agent.wait_for_http(4, BOUND);
    let received = clock::poll(BOUND, || Some(rotel.spans()).filter(|spans| spans.len() >= own.len()));
    let received =
        received.unwrap_or_else(|| panic!("rotel has:\n{}\nagent: {}", rotel.text(), traced.agent.messages()));
    assert_eq!(ids(&received), own.iter().map(|span| span.span_id.clone()).collect(), "each span arrives once");
    assert_eq!(received.len(), own.len(), "each span arrives once");
    for span in &own {
        assert_same(span, received.iter().find(|other| other.span_id == span.span_id).expect("ids are equal"));
    }
    for kind in ["client", "server"] {
        let span = only(&own, kind, "/with");
        assert_eq!((span.trace_id.as_str(), span.parent_span_id.as_deref()), (TRACE, Some(PARENT)), "{span:?}");
        assert_ne!(only(&own, kind, "/without").trace_id, TRACE);
    }
    traced.agent.stop();
}

fn ids(spans: &[ReceivedSpan]) -> BTreeSet<String> {
    spans.iter().map(|span| span.span_id.clone()).collect()
}

fn assert_same(own: &Span, received: &ReceivedSpan) {
    assert_eq!(received.trace_id, own.trace_id);
    assert_eq!(received.parent_id, own.parent_span_id.clone().unwrap_or_default());
    assert_eq!(received.name, own.name);
    assert_eq!(received.kind, format!("SPAN_KIND_{}", own.kind.to_uppercase()));
    assert_eq!((received.start_ns, received.end_ns), (own.start_unix_ns, own.start_unix_ns + own.duration_ns));
}

#[test]
fn spans_arrive_by_grpc() {
    check(Rotel::grpc_url);
}

#[test]
fn spans_arrive_by_http() {
    check(Rotel::http_url);
}
