//! A hundred thousand ordinary requests: what cannot be explained is little, and how much is derived is printed.
//!
//! Truth: the tiles themselves, whose sum is exact for every span. The requests come at a fixed rate over veth, on eight
//! keep-alive connections.

use std::time::Duration;

use spantap_tests::{
    clock,
    http::{Server, request},
    namespace::Namespace,
    span::Span,
    stats::percentile,
    traced::Traced,
};

const CONNECTIONS: usize = 8;
const REQUESTS: usize = 100_000;
const RATE: usize = 4_000;

#[test]
fn little_of_a_hundred_thousand_requests_is_unexplained() {
    let (client, server) = (Namespace::new(), Namespace::new());
    client.join_by_veth(&server);
    let traced = Traced::new("many");
    let listener = Server::start_with(traced.place().namespace(&server), "10.99.0.2:8080", &[]);
    let args = [
        format!("connections={CONNECTIONS}"),
        format!("count={}", REQUESTS / CONNECTIONS),
        format!("rate={}", RATE / CONNECTIONS),
    ];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let own = request(traced.place().namespace(&client), &listener.address, &args);
    assert_eq!(own.len(), REQUESTS);
    let total = || traced.agent.status()["spans_total"].as_u64();
    let all = clock::poll(Duration::from_secs(20), || (total() >= Some(2 * REQUESTS as u64)).then_some(()));
    println!("{:?} spans of {REQUESTS} requests, losses {:?}", total(), traced.agent.losses());
    assert!(all.is_some(), "spans are missing");

    for kind in ["client", "server"] {
        let spans = traced.agent.spans_where(&["--kind", kind]);
        assert_eq!(spans.len(), REQUESTS, "{kind}");
        let unexplained: Vec<u64> = spans.iter().map(|span| permille(span, |s| s.total_ns("unexplained"))).collect();
        let (median, p99) = (percentile(&unexplained, 0.5), percentile(&unexplained, 0.99));
        println!("{kind}: unexplained {} % at the median, {} % at p99", median as f64 / 10.0, p99 as f64 / 10.0);
        println!("{kind}: derived {:.1} % of the time", derived_percent(&spans));
        assert!(median < 20, "{kind}: {median} permille of a usual span are unexplained");
        assert!(p99 < 100, "{kind}: {p99} permille are unexplained at p99");
    }
}

fn permille(span: &Span, part: impl Fn(&Span) -> u64) -> u64 {
    part(span) * 1000 / span.duration_ns.max(1)
}

fn derived_percent(spans: &[Span]) -> f64 {
    let total: u64 = spans.iter().map(|span| span.duration_ns).sum();
    let derived = |span: &Span| -> u64 {
        span.segments.iter().filter(|segment| segment.evidence == "derived").map(|segment| segment.duration_ns).sum()
    };
    spans.iter().map(derived).sum::<u64>() as f64 * 100.0 / total.max(1) as f64
}
