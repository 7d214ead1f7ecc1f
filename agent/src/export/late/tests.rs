//! Requests for what sampling left out, over a real log and a destination that counts.

use std::convert::Infallible;

use agent_core::{
    relay::{LATE, Relay, RelayConfig},
    span::UnixNs,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message;

use super::*;
use crate::{
    config::{Export, Filter, Interval, Match, Sampling},
    export::{
        Exporter, LogSource,
        fakes::{Answer, Fake, destination, eventually, names},
    },
    log::{Flags, LogConfig},
};

/// When all spans end.
const END: u64 = 1_764_000_000_000_000_000;

fn request(names: &[String]) -> Vec<u8> {
    let span = |name: &String| Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        name: name.clone(),
        start_time_unix_nano: END - 5,
        end_time_unix_nano: END,
        ..Span::default()
    };
    let scope_spans = vec![ScopeSpans { spans: names.iter().map(span).collect(), ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

struct Fixture {
    folder: tempfile::TempDir,
    to: Destination,
}

impl Fixture {
    /// A destination whose sampling leaves out everything.
    fn new(fake: &Fake) -> Self {
        let mut to = destination(&format!("otlp+http://{}/v1/traces", fake.address));
        to.name = "backend".into();
        to.sampling = Sampling { ratio: 0.0, ratio_min: 0.0, keep_errors: false, tail: None };
        Self { folder: tempfile::tempdir().unwrap(), to }
    }

    fn open(&self) -> (SpanLog, Exporter) {
        let log = SpanLog::open(self.folder.path(), LogConfig::default()).unwrap();
        let export =
            Export { destinations: vec![self.to.clone()], shutdown_timeout: Interval::ms(200), ..Export::default() };
        let open = |to: &Destination| Ok::<_, Infallible>(LogSource::open(&log, to).unwrap());
        let exporter = Exporter::start(&export, log.dead_letters(), open).unwrap();
        (log, exporter)
    }

    fn target(&self) -> Target {
        (&self.to).into()
    }
}

fn append(log: &SpanLog, names: &[&str], flags: Flags) {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let relay = Relay::new(RelayConfig::untouched()).unwrap();
    let batch = relay.accept(&request(&names), UnixNs(END)).unwrap().kept.unwrap();
    log.append_relayed(&batch, flags).unwrap();
}

fn local() -> Flags {
    Flags { is_local: true, ..Flags::default() }
}

async fn settled(log: &SpanLog) {
    eventually("everything is decided", || log.destinations()["backend"].queued == 0).await;
}

async fn done(log: &SpanLog, id: u64) -> LateExport {
    let find = || log.late(None).unwrap().into_iter().find(|request| request.id == id && request.is_done);
    eventually("the request is over", || find().is_some()).await;
    find().unwrap()
}

fn asked() -> Asked {
    Asked { since_unix_ns: END - 10, until_unix_ns: END + 10, ..Asked::default() }
}

fn sent(fake: &Fake) -> Vec<String> {
    let mut all: Vec<String> = fake.received().iter().flat_map(|received| names(&received.body)).collect();
    all.sort();
    all
}

#[tokio::test]
async fn what_was_left_out_is_sent_once_whoever_left_it_out() {
    let fake = Fake::http(&[], None).await;
    let mut fixture = Fixture::new(&fake);
    let noise = Match { name: Some("noise".into()), ..Match::default() };
    fixture.to.filter = Filter { exclude: vec![noise], ..Filter::default() };
    let (log, _exporter) = fixture.open();
    append(&log, &["a", "b", "noise"], Flags::default());
    append(&log, &["c"], local());
    settled(&log).await;
    assert_eq!(sent(&fake), [""; 0], "sampling leaves out everything");
    let counts = log.destinations()["backend"];

    let only = |name: &str| Asked { matches: vec![Match { name: Some(name.into()), ..Match::default() }], ..asked() };
    let (id, found) = ask(&log, &fixture.target(), &only("[ab]"), "a test").unwrap();
    assert_eq!((found.matched, found.queued), (0, 0), "globs have no brackets");
    done(&log, id).await;
    let (id, found) = ask(&log, &fixture.target(), &only("a"), "a test").unwrap();
    assert_eq!((found.matched, found.queued), (1, 1));
    done(&log, id).await;
    assert_eq!(sent(&fake), ["a"]);

    let (id, found) = ask(&log, &fixture.target(), &asked(), "a test").unwrap();
    assert_eq!(found, Found { matched: 3, sent: 1, waiting: 0, queued: 2, bytes: found.bytes });
    let ended = done(&log, id).await;
    assert_eq!((ended.matched, ended.sent, ended.delivered, ended.dead, ended.gone), (3, 1, 2, 0, 0));
    assert_eq!((sent(&fake), ended.bytes), (vec!["a".into(), "b".into(), "c".into()], found.bytes));
    for received in fake.received() {
        assert!(memchr::memmem::find(&received.body, LATE.as_bytes()).is_some());
        assert!(received.headers["idempotency-key"].to_str().unwrap().contains("-late-"));
    }
    assert_eq!(log.destinations()["backend"], counts, "the accounts of what is sampled stay");

    let (_, found) = ask(&log, &fixture.target(), &asked(), "a test").unwrap();
    assert_eq!((found.matched, found.sent, found.queued), (3, 3, 0));
    let (_, found) = ask(&log, &fixture.target(), &Asked { all: true, ..asked() }, "a test").unwrap();
    assert_eq!((found.matched, found.sent, found.queued), (3, 3, 3));
}

#[tokio::test]
async fn a_request_goes_on_after_a_restart_with_the_same_key() {
    let hanging = Fake::http(&[Answer::Hang, Answer::Hang], None).await;
    let mut fixture = Fixture::new(&hanging);
    let (log, exporter) = fixture.open();
    append(&log, &["a"], local());
    append(&log, &["b"], Flags::default());
    settled(&log).await;
    let (id, _) = ask(&log, &fixture.target(), &asked(), "a test").unwrap();
    eventually("on its way", || hanging.received().len() == 1).await;
    exporter.shutdown().await;
    drop(log);

    let fake = Fake::http(&[], None).await;
    fixture.to.url = format!("otlp+http://{}/v1/traces", fake.address).parse().unwrap();
    let (log, exporter) = fixture.open();
    let ended = done(&log, id).await;
    assert_eq!((ended.matched, ended.delivered), (2, 2));
    assert_eq!(sent(&fake), ["a", "b"]);
    let key = |fake: &Fake| fake.received()[0].headers["idempotency-key"].clone();
    assert_eq!(key(&fake), key(&hanging));
    assert_eq!(exporter.destinations()[0].counts().possible_duplicates, 2);
}

#[tokio::test]
async fn a_request_for_what_comes_waits_for_it_and_leaves_out_what_is_sent_anyway() {
    let fake = Fake::http(&[], None).await;
    let mut fixture = Fixture::new(&fake);
    fixture.to.sampling = Sampling::default();
    let (log, _exporter) = fixture.open();
    let until_unix_ns = unix_ns() + 300_000_000;
    let (id, _) = ask(&log, &fixture.target(), &Asked { until_unix_ns, ..asked() }, "a test").unwrap();
    append(&log, &["anyway"], Flags::default());
    append(&log, &["kept here"], local());
    let ended = done(&log, id).await;
    assert!(unix_ns() >= until_unix_ns);
    assert_eq!((ended.matched, ended.sent, ended.delivered), (2, 1, 1));
    assert_eq!(sent(&fake), ["anyway", "kept here"]);
}

#[tokio::test]
async fn what_is_refused_becomes_a_dead_letter_and_its_replay_leaves_the_accounts_alone() {
    let refuse = || Answer::Http { status: 400, retry_after: None, body: "no" };
    let fake = Fake::http(&[refuse()], None).await;
    let fixture = Fixture::new(&fake);
    let (log, exporter) = fixture.open();
    append(&log, &["a"], local());
    let (id, _) = ask(&log, &fixture.target(), &asked(), "a test").unwrap();
    let ended = done(&log, id).await;
    assert_eq!((ended.delivered, ended.dead), (0, 1));
    log.dead_letters().replay(&crate::log::Which::default()).unwrap();
    eventually("replayed", || exporter.destinations()[0].counts().replayed == 1).await;
    assert_eq!(log.destinations()["backend"].delivered, 0);
}

#[tokio::test]
async fn for_a_file_what_no_destination_got_is_picked() {
    let fake = Fake::http(&[], None).await;
    let mut fixture = Fixture::new(&fake);
    fixture.to.sampling = Sampling::default();
    fixture.to.filter =
        Filter { exclude: vec![Match { name: Some("noise".into()), ..Match::default() }], ..Filter::default() };
    let (log, _exporter) = fixture.open();
    append(&log, &["a", "noise"], Flags::default());
    append(&log, &["b"], local());
    settled(&log).await;
    let picked = |asked: &Asked, targets: &[Target]| {
        let mut all = Vec::new();
        let keep = |body: Bytes| {
            all.extend(names(&body));
            Ok::<_, Infallible>(())
        };
        pick(&log, targets, asked, keep).unwrap().unwrap();
        all
    };
    assert_eq!(picked(&asked(), &[fixture.target()]), ["noise", "b"]);
    assert_eq!(picked(&asked(), &[]), ["a", "noise", "b"]);
    assert_eq!(picked(&Asked { all: true, ..asked() }, &[fixture.target()]), ["a", "noise", "b"]);
    let unknown = Asked { tenant: Some("nobody".into()), ..asked() };
    let error = count(&log, &fixture.target(), &unknown).unwrap_err();
    assert!(error.to_string().contains("nobody"), "{error}");
}
