//! 10,000 requests at a stated rate: each has exactly one client and one server span, and nothing else is there.
//!
//! Truth: the client's own list of requests with its own times around write and read, on the clock that the kernel side
//! uses.

use std::{collections::BTreeSet, time::Duration};

use spantap_tests::{
    http::Client,
    nginx::Nginx,
    span::{Span, by_path},
    stats::median,
    traced::Traced,
};

const REQUESTS: usize = 10_000;
const RATE: usize = 1_000;

#[test]
fn every_request_has_one_client_and_one_server_span_with_its_time() {
    let traced = Traced::new("exact");
    let nginx = Nginx::start(traced.place());
    let (count, rate) = (format!("count={REQUESTS}"), format!("rate={RATE}"));
    let client = Client::start(traced.place(), &nginx.address, &[&count, &rate]);
    let client_pid = client.pid();
    let own = client.finish();
    assert_eq!(own.len(), REQUESTS);

    let spans = traced.agent.wait_for_http(2 * REQUESTS, Duration::from_secs(30));
    assert_eq!(traced.agent.losses(), Default::default(), "no loss is to be expected at this rate");
    assert_eq!(spans.len(), 2 * REQUESTS, "spans of nobody's request: {:#?}", strangers(&spans));
    let ids: BTreeSet<&str> = spans.iter().map(|span| span.span_id.as_str()).collect();
    assert_eq!(ids.len(), spans.len(), "span ids are unique");

    let paths = by_path(&spans);
    let mut differences = Vec::with_capacity(REQUESTS);
    let mut own_times = Vec::with_capacity(REQUESTS);
    for exchange in &own {
        let pair = paths.get(exchange.path.as_str()).unwrap_or_else(|| panic!("no span of {}", exchange.path));
        let client = one(pair, "client", client_pid);
        let server = one(pair, "server", nginx.pid());
        assert_eq!(pair.len(), 2, "more than two spans of {}", exchange.path);
        assert_eq!((client.http_status(), server.http_status()), (Some(200), Some(200)), "{}", exchange.path);
        assert_eq!(client.trace_id, server.trace_id, "{}: both ends are one trace", exchange.path);
        let own_time = exchange.end_ns - exchange.start_ns;
        differences.push(client.duration_ns.abs_diff(own_time));
        own_times.push(own_time);
    }
    let (difference, allowed) = (median(&differences), (median(&own_times) / 10).max(10_000));
    println!("median |difference| {difference} ns of median {} ns, {allowed} ns allowed", median(&own_times));
    assert!(difference <= allowed, "median |difference| {difference} ns, {allowed} ns allowed");
}

fn one<'a>(spans: &[&'a Span], kind: &str, pid: u32) -> &'a Span {
    let mut found = spans.iter().filter(|span| span.kind == kind && span.pid == pid);
    let first = found.next().unwrap_or_else(|| panic!("no {kind} span of process {pid} among {spans:#?}"));
    assert!(found.next().is_none(), "two {kind} spans of one request: {spans:#?}");
    first
}

/// A few of the spans that have no path of the client's.
fn strangers(spans: &[Span]) -> Vec<&Span> {
    spans.iter().filter(|span| !span.path().starts_with("/r/")).take(5).collect()
}
