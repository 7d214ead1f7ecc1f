//! Symptoms in a real log, and what they have sent.

use std::convert::Infallible;

use agent_core::{
    relay::{Relay, RelayConfig},
    span::UnixNs,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status},
};
use prost::Message;

use super::*;
use crate::{
    config::{Destination, Interval},
    export::{
        Exporter, LogSource,
        fakes::{Fake, destination, eventually, names},
    },
    log::{Flags, LogConfig},
};

fn append(log: &SpanLog, service: &str, name: &str, count: usize, is_error: bool, ms: u64) {
    let end = unix_ns();
    let span = Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        name: name.into(),
        kind: 2,
        start_time_unix_nano: end - ms * 1_000_000,
        end_time_unix_nano: end,
        status: is_error.then(|| Status { code: 2, message: String::new() }),
        ..Span::default()
    };
    let text = AnyValue { value: Some(Value::StringValue(service.into())) };
    let attributes = vec![KeyValue { key: "service.name".into(), value: Some(text), ..KeyValue::default() }];
    let scope_spans = vec![ScopeSpans { spans: vec![span; count], ..ScopeSpans::default() }];
    let resource = Some(Resource { attributes, ..Resource::default() });
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }],
    };
    let relay = Relay::new(RelayConfig::untouched()).unwrap();
    let batch = relay.accept(&request.encode_to_vec(), UnixNs(end)).unwrap().kept.unwrap();
    log.append_relayed(&batch, Flags { is_local: true, ..Flags::default() }).unwrap();
}

/// A watched log with a destination; the time of quiet is longer than any test.
async fn watched(config: OnSymptom, folder: &tempfile::TempDir) -> (SpanLog, Exporter, Watcher, SharedFigures, Fake) {
    let fake = Fake::http(&[], None).await;
    let mut to = destination(&format!("otlp+http://{}/v1/traces", fake.address));
    to.name = "backend".into();
    let on_symptom = OnSymptom { destinations: vec!["backend".into()], ..config };
    let export = Export { destinations: vec![to], on_symptom, ..Export::default() };
    let log = SpanLog::open(folder.path(), LogConfig::default()).unwrap();
    let open = |to: &Destination| Ok::<_, Infallible>(LogSource::open(&log, to).unwrap());
    let exporter = Exporter::start(&export, log.dead_letters(), open).unwrap();
    let figures = SharedFigures::default();
    let watcher = Watcher::start(&log, &export, &figures);
    (log, exporter, watcher, figures, fake)
}

fn sent(fake: &Fake) -> Vec<String> {
    let mut all: Vec<String> = fake.received().iter().flat_map(|received| names(&received.body)).collect();
    all.sort();
    all.dedup();
    all
}

#[tokio::test]
async fn a_burst_of_errors_sends_what_was_left_out_of_its_service_before_and_after() {
    let folder = tempfile::tempdir().unwrap();
    // One window, whenever this runs.
    let config =
        OnSymptom { window: Interval::secs(1 << 30), errors: 5, after: Interval::secs(2), ..OnSymptom::default() };
    let (log, _exporter, _watcher, figures, fake) = watched(config, &folder).await;
    append(&log, "shop", "before", 50, false, 1);
    append(&log, "bank", "other", 50, false, 1);
    append(&log, "shop", "failed", 4, true, 1);
    tokio::time::sleep(LOOK_INTERVAL * 2).await;
    assert_eq!(lock(&figures).symptoms, 0, "four are too few");
    append(&log, "shop", "failed", 1, true, 1);
    eventually("seen", || lock(&figures).symptoms == 1).await;
    append(&log, "shop", "after", 5, true, 1);
    eventually("over", || log.late(None).unwrap()[0].is_done).await;
    let request = log.late(None).unwrap().remove(0);
    assert_eq!(
        (request.matched, request.delivered, sent(&fake)),
        (60, 60, ["after", "before", "failed"].map(Into::into).into())
    );
    assert!(request.reason.starts_with("errors of shop: 5 of 55 spans"), "{}", request.reason);
    let figures = lock(&figures).clone();
    assert_eq!((figures.symptoms, figures.last), (1, request.reason));
    assert!(figures.queued >= 55);
}

#[tokio::test]
async fn a_slow_percentile_is_a_symptom_when_its_window_ends() {
    let folder = tempfile::tempdir().unwrap();
    let config = OnSymptom {
        window: Interval::ms(500),
        p99: Interval::ms(200),
        p99_requests: 10,
        after: Interval::secs(0),
        all_services: true,
        ..OnSymptom::default()
    };
    let (log, _exporter, _watcher, figures, fake) = watched(config, &folder).await;
    append(&log, "bank", "other", 5, false, 1);
    append(&log, "shop", "GET /", 10, false, 100);
    append(&log, "shop", "GET /slow", 10, false, 300);
    eventually("seen", || lock(&figures).symptoms == 1).await;
    eventually("sent", || sent(&fake).len() == 3).await;
    assert!(lock(&figures).last.starts_with("slow requests of shop: p99 of GET /slow is "), "{:?}", lock(&figures));
}

#[tokio::test]
async fn after_a_panic_it_is_watched_on() {
    let folder = tempfile::tempdir().unwrap();
    let config = OnSymptom { window: Interval::secs(1 << 30), errors: 5, ..OnSymptom::default() };
    let (log, _exporter, _watcher, figures, _fake) = watched(config, &folder).await;
    lock(&figures).panics_next = true;
    append(&log, "shop", "first", 1, false, 1);
    eventually("it has panicked", || !lock(&figures).panics_next).await;
    // What comes before it is watched again is not seen.
    eventually("seen", || {
        append(&log, "shop", "failed", 5, true, 1);
        lock(&figures).symptoms == 1
    })
    .await;
}

#[tokio::test]
async fn without_destinations_nothing_is_watched() {
    let folder = tempfile::tempdir().unwrap();
    let log = SpanLog::open(folder.path(), LogConfig::default()).unwrap();
    let figures = SharedFigures::default();
    assert!(Watcher::start(&log, &Export::default(), &figures).task.is_none());
    assert!(!lock(&figures).is_watched);
}
