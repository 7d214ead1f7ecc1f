//! Whole traces in a real log, for a destination that counts. Each trace is named by its spans' names.

use std::convert::Infallible;

use agent_core::{
    relay::{Relay, RelayConfig},
    span::UnixNs,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status},
};
use prost::Message;

use super::*;
use crate::{
    config::{Export, Interval, Sampling, TailSampling},
    export::{
        BatchSource, Exporter, LogSource,
        fakes::{Answer, Fake, destination, eventually, names},
        late::{self, Asked},
    },
    log::{Flags, LateExport, LogConfig},
};

/// Appends a block of spans: trace, name, whether it failed. Randomness is the trace's number, far below any ratio's threshold.
fn append(log: &SpanLog, spans: &[(u8, &str, bool)]) {
    let now = unix_ns();
    let span = |(trace, name, is_error): &(u8, &str, bool)| Span {
        trace_id: [vec![1; 8], u64::from(*trace).to_be_bytes().to_vec()].concat(),
        span_id: vec![2; 8],
        name: (*name).to_owned(),
        start_time_unix_nano: now - 1_000,
        end_time_unix_nano: now,
        status: is_error.then(|| Status { code: 2, message: String::new() }),
        ..Span::default()
    };
    let scope_spans = vec![ScopeSpans { spans: spans.iter().map(span).collect(), ..ScopeSpans::default() }];
    let request =
        ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }] };
    let relay = Relay::new(RelayConfig::untouched()).unwrap();
    let batch = relay.accept(&request.encode_to_vec(), UnixNs(now)).unwrap().kept.unwrap();
    log.append_relayed(&batch, Flags::default()).unwrap();
}

struct Fixture {
    folder: tempfile::TempDir,
    to: Destination,
}

impl Fixture {
    fn new(fake: &Fake, wait_ms: u64) -> Self {
        let mut to = destination(&format!("otlp+http://{}/v1/traces", fake.address));
        let tail = TailSampling { decision_wait: Interval::ms(wait_ms), ..TailSampling::default() };
        to.sampling = Sampling { ratio: 0.5, ratio_min: 0.5, tail: Some(tail), ..Sampling::default() };
        Self { folder: tempfile::tempdir().unwrap(), to }
    }

    async fn open(&self) -> (SpanLog, Exporter) {
        let mut log = SpanLog::open(self.folder.path(), LogConfig::default());
        // A look at the log that was under way ends soon.
        for _ in 0..1_000 {
            if log.is_ok() {
                break;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
            log = SpanLog::open(self.folder.path(), LogConfig::default());
        }
        let log = log.unwrap();
        let destinations = vec![self.to.clone()];
        let export = Export { destinations, shutdown_timeout: Interval::ms(200), ..Export::default() };
        let open = |to: &Destination| Ok::<_, Infallible>(LogSource::open(&log, to).unwrap());
        let exporter = Exporter::start(&export, log.dead_letters(), open).unwrap();
        (log, exporter)
    }

    fn reach(&mut self, fake: &Fake) {
        self.to.url = format!("otlp+http://{}/v1/traces", fake.address).parse().unwrap();
    }
}

async fn settled(log: &SpanLog) {
    eventually("everything is decided", || log.destinations()["backend"].queued == 0).await;
}

fn sent(fake: &Fake) -> Vec<String> {
    fake.received().iter().flat_map(|received| names(&received.body)).collect()
}

#[tokio::test]
async fn whole_traces_are_kept_or_left_out_and_late_spans_follow_also_after_a_restart() {
    let fake = Fake::http(&[], None).await;
    let fixture = Fixture::new(&fake, 1_000);
    let (log, exporter) = fixture.open().await;
    append(&log, &[(1, "bad 1", false), (2, "good 1", false)]);
    append(&log, &[(1, "bad 2", true)]);
    assert_eq!(log.destinations()["backend"].queued, 3, "nothing is decided yet");
    settled(&log).await;
    assert_eq!(sent(&fake), ["bad 1", "bad 2"]);
    append(&log, &[(1, "bad 3", false), (2, "good 2", true)]);
    settled(&log).await;
    assert_eq!(sent(&fake), ["bad 1", "bad 2", "bad 3"]);
    let counts = log.destinations()["backend"];
    assert_eq!((counts.delivered, counts.filtered, counts.queued), (3, 2, 0));
    let figures = exporter.destinations()[0].counts();
    let tail = figures.tail.unwrap();
    assert_eq!((figures.sampled_out, tail.counts.left_out, tail.counts.late_spans), (2, 1, 2));
    exporter.shutdown().await;
    drop(log);

    let (log, _exporter) = fixture.open().await;
    append(&log, &[(1, "bad 4", false), (2, "good 3", true), (3, "new", false)]);
    settled(&log).await;
    assert_eq!(sent(&fake), ["bad 1", "bad 2", "bad 3", "bad 4"]);
}

#[tokio::test]
async fn what_was_not_decided_when_the_agent_ended_is_decided_again() {
    let fake = Fake::http(&[], None).await;
    let mut fixture = Fixture::new(&fake, 60_000);
    let (log, exporter) = fixture.open().await;
    append(&log, &[(1, "bad 1", false), (2, "good 1", false)]);
    let looked_at = || exporter.destinations()[0].counts().tail.is_some_and(|tail| tail.waiting == 2);
    eventually("looked at", looked_at).await;
    exporter.shutdown().await;
    drop(log);
    assert_eq!(sent(&fake), [""; 0]);

    fixture.to.sampling.tail.as_mut().unwrap().decision_wait = Interval::ms(300);
    let (log, _exporter) = fixture.open().await;
    append(&log, &[(4, "bad 4", true)]);
    settled(&log).await;
    assert_eq!(sent(&fake), ["bad 4"], "the first ones had their time");
    let counts = log.destinations()["backend"];
    assert_eq!((counts.delivered, counts.filtered), (1, 2));
}

#[tokio::test]
async fn what_waits_when_the_agent_starts_is_a_backlog_although_nothing_of_it_is_decided() {
    let fake = Fake::http(&[], None).await;
    let fixture = Fixture::new(&fake, 60_000);
    let log = SpanLog::open(fixture.folder.path(), LogConfig::default()).unwrap();
    drop(LogSource::open(&log, &fixture.to).unwrap());
    append(&log, &[(1, "bad 1", true), (2, "good 1", false)]);
    let source = LogSource::open(&log, &fixture.to).unwrap();
    let queued = source.queued();
    assert_eq!((queued.spans, queued.unread, queued.backlog), (2, 0, 2));
    eventually("looked at", || source.queued().backlog == 0).await;
    assert_eq!((source.queued().spans, source.queued().unread), (2, 0), "they wait for their traces");
}

#[tokio::test]
async fn what_was_on_its_way_is_sent_again_as_it_was_whatever_would_be_decided_now() {
    let hanging = Fake::http(&[Answer::Hang, Answer::Hang], None).await;
    let mut fixture = Fixture::new(&hanging, 100);
    let (log, exporter) = fixture.open().await;
    append(&log, &[(1, "bad 1", true), (2, "good 1", false)]);
    eventually("on its way", || hanging.received().len() == 1).await;
    exporter.shutdown().await;
    drop(log);

    let fake = Fake::http(&[], None).await;
    fixture.reach(&fake);
    fixture.to.sampling.ratio = 1.0;
    let (log, _exporter) = fixture.open().await;
    settled(&log).await;
    let (first, second) = (hanging.received().remove(0), fake.received().remove(0));
    assert_eq!(first.headers["idempotency-key"], second.headers["idempotency-key"]);
    assert_eq!((names(&second.body), first.body == second.body), (vec!["bad 1".to_owned()], true));
}

#[tokio::test]
async fn what_a_trace_sampling_left_out_can_be_asked_for() {
    let fake = Fake::http(&[], None).await;
    let fixture = Fixture::new(&fake, 100);
    let (log, _exporter) = fixture.open().await;
    append(&log, &[(1, "bad 1", true), (2, "good 1", false)]);
    settled(&log).await;
    let asked = Asked { until_unix_ns: u64::MAX >> 1, ..Asked::default() };
    let found = late::count(&log, &(&fixture.to).into(), &asked).unwrap();
    assert_eq!((found.matched, found.sent, found.queued), (2, 1, 1));
    let asked = Asked { until_unix_ns: unix_ns(), ..asked };
    let (id, _) = late::ask(&log, &(&fixture.to).into(), &asked, "a test").unwrap();
    let is_done = |request: &LateExport| request.id == id && request.is_done;
    eventually("sent", || log.late(None).unwrap().iter().any(is_done)).await;
    assert_eq!(sent(&fake), ["bad 1", "good 1"]);
}
