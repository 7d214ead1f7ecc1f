//! Cost of a relayed span, per step. Requests of 200 spans of 10 attributes, as SDKs send them; `prost` is what decoding and encoding
//! them again alone costs.

use agent_core::{
    relay::{
        Action, Filter, HeadSampling, Redaction, Relay, RelayConfig, Renames, Shape, ShapeConfig, SpanMatch, Threshold,
    },
    span::UnixNs,
    wire,
};
use divan::{
    Bencher,
    counter::{BytesCount, ItemsCount},
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message;

const SPANS: u64 = 200;
const NOW: u64 = 1_764_000_000_000_000_000;

fn main() {
    divan::main();
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..Default::default() }
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key, Value::StringValue(value.into()))
}

/// A server's span of a request; `secrets`: with three attributes that have something to hide.
fn span(number: u64, secrets: bool) -> Span {
    let mut attributes = vec![
        text("http.request.method", "GET"),
        pair("http.response.status_code", Value::IntValue(200)),
        text("url.scheme", "https"),
        text("url.path", &format!("/api/v1/orders/{number}/items")),
        text("http.route", "/api/v1/orders/{id}/items"),
        text("server.address", "shop.example.internal"),
        pair("server.port", Value::IntValue(8443)),
    ];
    attributes.extend(if secrets {
        [
            text("http.request.header.authorization", "Basic am9lOmh1bnRlcjI="),
            text("url.full", "https://shop.example.internal/api/v1/orders?customer=4711&page=2"),
            text("enduser.id", "jane.doe@example.com"),
        ]
    } else {
        [
            text("user_agent.original", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
            text("network.protocol.version", "1.1"),
            text("client.address", "10.17.3.204"),
        ]
    });
    let id = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    Span {
        trace_id: [id, id].concat(),
        span_id: id.to_vec(),
        parent_span_id: vec![9; 8],
        flags: 0x101,
        name: "GET /api/v1/orders/{id}/items".into(),
        kind: 2,
        start_time_unix_nano: NOW + number,
        end_time_unix_nano: NOW + number + 1_000_000,
        attributes,
        ..Span::default()
    }
}

/// A span as `cargo xtask bench -- what=relay` sends it: a secret, a query string and a statement among ten attributes.
fn bench_span(number: u64) -> Span {
    let attributes = vec![
        text("http.request.method", "GET"),
        text("http.route", "/orders/{id}"),
        text("url.full", &format!("https://shop.example/orders/{number}?user={}&page=2", number % 977)),
        pair("http.response.status_code", Value::IntValue(200)),
        text("server.address", "shop.example"),
        text("user_agent.original", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/126.0"),
        text("db.query.text", &format!("SELECT * FROM orders WHERE id = {number} AND state = 'open'")),
        text("http.request.header.authorization", "Bearer hunter2"),
        text("app.customer", &format!("{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))),
        pair("app.items", Value::IntValue(number as i64 % 17)),
    ];
    Span { name: "GET /orders/{id}".into(), parent_span_id: vec![], flags: 0, attributes, ..span(number, false) }
}

fn request(secrets: bool) -> Vec<u8> {
    request_of(|number| span(number, secrets))
}

fn request_of(span: impl Fn(u64) -> Span) -> Vec<u8> {
    let spans = (1..=SPANS).map(span).collect();
    let attributes = vec![text("service.name", "shop"), text("service.version", "1.2.3"), text("host.name", "node-7")];
    let resource = Resource { attributes, ..Default::default() };
    let scope_spans = vec![ScopeSpans { spans, ..Default::default() }];
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { resource: Some(resource), scope_spans, ..Default::default() }],
    }
    .encode_to_vec()
}

fn bench<R>(bencher: Bencher<'_, '_>, request: &[u8], run: impl Fn(&[u8]) -> R) {
    let bencher = bencher.counter(ItemsCount::new(SPANS)).counter(BytesCount::of_slice(request));
    bencher.bench_local(|| run(divan::black_box(request)));
}

fn accept(bencher: Bencher<'_, '_>, request: &[u8], config: RelayConfig) {
    let relay = Relay::new(config).expect("a valid configuration");
    bench(bencher, request, |request| relay.accept(request, UnixNs(NOW)).expect("a valid request"));
}

#[divan::bench]
fn summary(bencher: Bencher<'_, '_>) {
    bench(bencher, &request(false), |request| wire::summary(request).expect("a valid request"));
}

#[divan::bench]
fn split(bencher: Bencher<'_, '_>) {
    bench(bencher, &request(false), |request| wire::split(request, SPANS as u32 / 2).expect("a valid request"));
}

#[divan::bench]
fn accept_untouched(bencher: Bencher<'_, '_>) {
    accept(bencher, &request(false), RelayConfig::untouched());
}

#[divan::bench]
fn accept_default_nothing_found(bencher: Bencher<'_, '_>) {
    accept(bencher, &request(false), RelayConfig::default());
}

#[divan::bench]
fn accept_default_three_found(bencher: Bencher<'_, '_>) {
    accept(bencher, &request(true), RelayConfig::default());
}

#[divan::bench]
fn accept_untouched_of_the_whole_benchmark(bencher: Bencher<'_, '_>) {
    accept(bencher, &request_of(bench_span), RelayConfig::untouched());
}

#[divan::bench]
fn accept_default_of_the_whole_benchmark(bencher: Bencher<'_, '_>) {
    accept(bencher, &request_of(bench_span), RelayConfig::default());
}

#[divan::bench]
fn accept_enriched_sampled_of_the_whole_benchmark(bencher: Bencher<'_, '_>) {
    let added = [("deployment.environment.name", "production"), ("host.name", "bench"), ("cloud.region", "none")];
    let config = RelayConfig {
        resource_attributes: added.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        sampling: Some(HeadSampling { threshold: Threshold::from_probability(0.5), keep_errors: true }),
        renames: Renames { semantic_conventions: true, keys: vec![] },
        ..RelayConfig::default()
    };
    accept(bencher, &request_of(bench_span), config);
}

#[divan::bench]
fn accept_three_redactions_enriched_sampled(bencher: Bencher<'_, '_>) {
    let config = RelayConfig {
        redact: Redaction { deny: vec![("enduser.*".into(), Action::Hash)], ..Redaction::default() },
        resource_attributes: vec![
            ("deployment.environment.name".into(), "test".into()),
            ("cloud.region".into(), "x".into()),
        ],
        sampling: Some(HeadSampling { threshold: Threshold::from_probability(0.5), keep_errors: true }),
        renames: Renames { semantic_conventions: true, keys: vec![] },
        ..RelayConfig::default()
    };
    accept(bencher, &request(true), config);
}

#[divan::bench]
fn shape_filtered_sampled(bencher: Bencher<'_, '_>) {
    let include = vec![SpanMatch { service: Some("shop*".into()), duration_ns_min: Some(1), ..SpanMatch::default() }];
    let sampling = Some(HeadSampling { threshold: Threshold::from_probability(0.5), keep_errors: true });
    let config = ShapeConfig { filter: Filter { include, exclude: vec![] }, sampling, ..ShapeConfig::default() };
    let shape = Shape::new(config).expect("a valid configuration");
    bench(bencher, &request(false), |request| shape.apply(request, Threshold::ALWAYS).expect("a valid request").1);
}

#[divan::bench]
fn prost(bencher: Bencher<'_, '_>) {
    bench(bencher, &request(false), |request| {
        ExportTraceServiceRequest::decode(request).expect("a valid request").encode_to_vec()
    });
}

#[divan::bench]
fn prost_of_the_whole_benchmark(bencher: Bencher<'_, '_>) {
    bench(bencher, &request_of(bench_span), |request| {
        ExportTraceServiceRequest::decode(request).expect("a valid request").encode_to_vec()
    });
}
