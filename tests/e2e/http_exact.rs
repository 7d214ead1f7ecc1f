//! 10,000 requests at a stated rate: each has exactly one client and one server span, and nothing else is there.
//!
//! Truth: the client's own list of requests with its own times around write and read, on the clock that the kernel side
//! uses. Between the two there are entering and leaving the kernel, and tracing, which on a slow machine take more than a tenth of a
//! request on loopback: no span of the client is longer than its own time, and at the median it lacks at most a fifth of that, or
//! 10 us. A server's may go on after the client has its answer.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;
use spantap_tests::{
    http::Client,
    nginx::Nginx,
    span::{Span, by_path},
    stats::median,
    traced::Traced,
};

const REQUESTS: usize = 10_000;
const RATE: usize = 1_000;
/// How far off percentiles of `spantap top` may be, as it says.
const PERCENTILE_ERROR_PERCENT: f64 = 6.25;

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
        let peers = [client, server].map(|span| span.text("service.peer.name"));
        assert_eq!(peers, [server.service.as_str(), &client.service], "{}: each end names the other", exchange.path);
        // The first one waited for its connection.
        let start = exchange.connect.as_ref().map_or(exchange.start_ns, |connect| connect.connect_ns);
        let own_time = exchange.end_ns - start;
        let lacking = own_time.checked_sub(client.duration_ns);
        differences.push(lacking.unwrap_or_else(|| panic!("longer than {own_time} ns: {client:#?}")));
        own_times.push(own_time);
    }
    check_top(&traced, &spans);
    let (difference, allowed) = (median(&differences), (median(&own_times) / 5).max(10_000));
    println!("median difference {difference} ns of median {} ns, {allowed} ns allowed", median(&own_times));
    assert!(difference <= allowed, "median difference {difference} ns, {allowed} ns allowed");
}

/// `spantap top` says of all of them together what each says of itself.
fn check_top(traced: &Traced, spans: &[Span]) {
    let answer = traced.agent.answer(["top", "--by", "kind,name", "--protocol", "http", "--json"]);
    let groups: Vec<Value> = answer.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(groups.len(), 2, "one route, both ends: {answer}");
    for group in groups {
        let kind = group["group"]["kind"].as_str().expect("a kind");
        let mut durations: Vec<u64> =
            spans.iter().filter(|span| span.kind == kind).map(|span| span.duration_ns).collect();
        durations.sort_unstable();
        let told = &group["duration_ns"];
        assert_eq!((&group["spans"], &group["errors"]), (&REQUESTS.into(), &0.into()), "{group}");
        assert_eq!(told["total"], durations.iter().sum::<u64>(), "{group}");
        assert_eq!(told["max"], durations[REQUESTS - 1], "{group}");
        for (name, rank) in [("p50", REQUESTS / 2), ("p90", REQUESTS * 9 / 10), ("p99", REQUESTS * 99 / 100)] {
            let (told, truth) = (told[name].as_u64().expect("a number") as f64, durations[rank - 1] as f64);
            assert!(
                (told / truth - 1.0).abs() * 100.0 <= PERCENTILE_ERROR_PERCENT,
                "{name} of {kind}: {told} for {truth}"
            );
        }
        let tiled: u64 =
            group["segments"].as_array().expect("a list").iter().filter_map(|sum| sum["total_ns"].as_u64()).sum();
        assert_eq!(tiled, durations.iter().sum::<u64>(), "segments tile the spans: {group}");
    }
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
