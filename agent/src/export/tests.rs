//! The whole exporter against servers on loopback: what arrives, what is repeated, what is settled.

use std::{
    convert::Infallible,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use prost::Message;
use tonic::Code;

use super::{
    Batch, BatchSource, Exporter, FailureKind, Fate, Limits, Queued,
    fakes::{self, Answer, Fake, Identity, Memory, block, eventually, names},
    format::samples,
};
use crate::{
    config::{Compression, Destination, Encoding, Export, HeaderValue, Interval, Match, Retry, Segments, Size},
    log::{DeadLetters, Letter, Which},
    otlp::{
        Encoder,
        tests::{safe, span},
    },
};

/// A destination that repeats at once and waits a short time for more spans.
fn destination(url: &str) -> Destination {
    let mut destination = fakes::destination(url);
    destination.name = url.to_owned();
    destination.batch.age = Interval::ms(5);
    destination.retry = Retry { initial: Interval::ms(1), max: Interval::ms(2), ..Retry::default() };
    destination
}

fn start(destination: Destination, source: &Memory) -> Exporter {
    start_with(destination, source, &letters())
}

fn start_with(destination: Destination, source: &Memory, letters: &DeadLetters) -> Exporter {
    let export = Export { destinations: vec![destination], shutdown_timeout: Interval::secs(5), ..Export::default() };
    Exporter::start(&export, letters, |_| Ok::<_, Infallible>(source.clone())).unwrap()
}

/// Dead letters in memory.
fn letters() -> DeadLetters {
    DeadLetters::open(Path::new(":memory:"), 1 << 20).unwrap()
}

fn all(letters: &DeadLetters) -> Vec<Letter> {
    letters.list(&Which::default(), 100).unwrap()
}

fn grpc_url(fake: &Fake) -> String {
    format!("otlp+grpc://{}", fake.address)
}

fn http_url(fake: &Fake) -> String {
    format!("otlp+http://{}/v1/traces", fake.address)
}

async fn delivered(source: &Memory, spans: u64) {
    eventually("delivered", || source.settled().delivered >= spans).await;
    assert_eq!(source.settled().delivered, spans);
}

#[tokio::test]
async fn blocks_arrive_in_order_by_either_protocol_however_compressed() {
    let compressions =
        [(Compression::None, None), (Compression::Gzip, Some("gzip")), (Compression::Zstd, Some("zstd"))];
    for (grpc, (compression, encoding_expected)) in
        compressions.iter().flat_map(|compression| [(true, *compression), (false, *compression)])
    {
        let fake = if grpc { Fake::grpc(&[], None).await } else { Fake::http(&[], None).await };
        let blocks = [block(&["a", "b"]), block(&["c"])];
        let source = Memory::new(&blocks);
        let mut to = destination(&if grpc { grpc_url(&fake) } else { http_url(&fake) });
        to.compression = compression;
        to.headers.insert("x-tenant".into(), HeaderValue::Text("blue".into()));
        let exporter = start(to, &source);
        delivered(&source, 3).await;
        let received = &fake.received()[0];
        assert_eq!(names(&received.body), ["a", "b", "c"]);
        assert_eq!(received.headers["x-tenant"], "blue");
        let encoding = received.headers.get(if grpc { "grpc-encoding" } else { "content-encoding" });
        assert_eq!(encoding.map(|value| value.to_str().unwrap()), encoding_expected);
        if !grpc {
            assert_eq!(received.headers["content-type"], "application/x-protobuf");
            assert_eq!(received.headers["x-path"], "/v1/traces");
            let sent: Vec<u8> = blocks.iter().flat_map(|block| block.0.to_vec()).collect();
            assert_eq!(received.body, sent, "the log's bytes are sent unmodified");
        }
        let counts = exporter.destinations()[0].counts();
        assert_eq!((counts.delivered, counts.requests, counts.retries, counts.last_error), (3, 1, 0, None));
    }
}

/// Panics when it is asked the first time.
#[derive(Clone)]
struct Faulty {
    memory: Memory,
    is_first: Arc<AtomicBool>,
}

impl BatchSource for Faulty {
    type Error = Infallible;

    fn queued(&self) -> Queued {
        self.memory.queued()
    }

    async fn appended(&mut self) {
        self.memory.appended().await;
    }

    async fn next(&mut self, limits: Limits) -> Result<Option<Batch>, Infallible> {
        assert!(!self.is_first.swap(false, Ordering::SeqCst), "the test says so");
        self.memory.next(limits).await
    }

    async fn settle(&mut self, id: u64, fate: Fate) -> Result<(), Infallible> {
        self.memory.settle(id, fate).await
    }

    async fn revive(&mut self, spans: u64) -> Result<(), Infallible> {
        self.memory.revive(spans).await
    }
}

#[tokio::test]
async fn a_destination_that_ended_by_a_mistake_goes_on_where_it_was() {
    let fake = Fake::http(&[], None).await;
    let source = Faulty { memory: Memory::new(&[block(&["a"])]), is_first: Arc::new(AtomicBool::new(true)) };
    let to = destination(&http_url(&fake));
    let export = Export { destinations: vec![to], ..Export::default() };
    let open = || Ok::<_, Infallible>(source.clone());
    let mut exporter = Exporter::start(&export, &letters(), |_| open()).unwrap();
    eventually("it has ended", || exporter.running[0].task.is_finished()).await;
    exporter.start_ended_anew(Duration::from_secs(3_600), |_| open()).unwrap();
    assert!(exporter.running[0].task.is_finished(), "it was tried lately");
    eventually("it is started and delivers", || {
        exporter.start_ended_anew(Duration::ZERO, |_| open()).unwrap();
        source.memory.settled().delivered == 1
    })
    .await;
    let counts = exporter.destinations()[0].counts();
    assert!(counts.last_error.is_some_and(|error| error.contains("mistake in spantap")));
    assert_eq!(names(&fake.received()[0].body), ["a"]);
}

#[tokio::test]
async fn what_leaves_is_counted_after_compression() {
    let (body, spans) = block(&["a"; 2_000]);
    let len = body.len() as u64;
    for (grpc, compression) in
        [(true, Compression::None), (true, Compression::Zstd), (false, Compression::None), (false, Compression::Gzip)]
    {
        let fake = if grpc { Fake::grpc(&[], None).await } else { Fake::http(&[], None).await };
        let mut to = destination(&if grpc { grpc_url(&fake) } else { http_url(&fake) });
        (to.compression, to.batch.spans) = (compression, 2_000);
        let source = Memory::new(&[(body.clone(), spans)]);
        let exporter = start(to, &source);
        delivered(&source, spans).await;
        let counts = exporter.destinations()[0].counts();
        assert_eq!(counts.bytes, len);
        let expected = if compression == Compression::None { len..len + 2_000 } else { 200..len / 4 };
        assert!(expected.contains(&counts.sent_bytes), "{grpc} {compression:?}: {} of {len}", counts.sent_bytes);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spans");
    let source = Memory::new(&[(body, spans)]);
    let exporter = start(destination(&format!("file://{}", path.display())), &source);
    delivered(&source, spans).await;
    assert_eq!(exporter.destinations()[0].counts().sent_bytes, std::fs::metadata(&path).unwrap().len());
}

#[tokio::test]
async fn failures_count_by_why_in_words() {
    let answer = |status| Answer::Http { status, retry_after: None, body: "" };
    let partial = Answer::Partial { rejected: 1, message: "" };
    // What is too large or refused is one span each: nothing is halved.
    let script = [503, 502, 401, 429, 404, 413, 400].map(answer).into_iter().chain([partial]);
    let fake = Fake::http(&script.collect::<Vec<_>>(), None).await;
    let mut to = destination(&http_url(&fake));
    to.batch.spans = 1;
    let source = Memory::new(&[block(&["a"]), block(&["b"]), block(&["c", "d"])]);
    let exporter = start(to, &source);
    eventually("settled", || source.settled().dead == 3).await;
    let failures = exporter.destinations()[0].counts().failures;
    let failures: Vec<_> = FailureKind::ALL.map(FailureKind::name).into_iter().zip(failures).collect();
    let expected = [
        ("unavailable", 2),
        ("timeout", 0),
        ("credentials", 1),
        ("quota", 1),
        ("address", 1),
        ("refused", 1),
        ("size", 1),
        ("partial", 1),
    ];
    assert_eq!(failures, expected);
}

#[tokio::test]
async fn segments_are_child_spans_only_where_the_configuration_says_so() {
    let block = Encoder::default().encode(&[safe(span(7))]).bytes;
    for (segments, expected) in
        [(Segments::Attributes, vec!["GET /orders"]), (Segments::Spans, vec!["GET /orders", "send", "remote", "send"])]
    {
        let fake = Fake::http(&[], None).await;
        let mut to = destination(&http_url(&fake));
        to.segments = segments;
        let source = Memory::new(&[(block.clone().into(), 1)]);
        let exporter = start(to, &source);
        delivered(&source, 1).await;
        let body = &fake.received()[0].body;
        assert_eq!(names(body), expected);
        assert_eq!(body == &block, segments == Segments::Attributes);
        // Only the log's spans are accounted for.
        assert_eq!(exporter.destinations()[0].counts().delivered, 1);
    }
}

#[tokio::test]
async fn tls_trusts_the_configured_ca_and_nothing_else() {
    let identity = Identity::new();
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, &identity.ca).unwrap();
    let other_ca_file = folder.path().join("other.pem");
    std::fs::write(&other_ca_file, Identity::new().ca).unwrap();
    let grpc = Fake::grpc(&[], Some(&identity)).await;
    let http = Fake::http(&[], Some(&identity)).await;
    for url in [
        format!("otlp+grpcs://localhost:{}", grpc.address.port()),
        format!("otlp+https://localhost:{}/v1/traces", http.address.port()),
    ] {
        let mut to = destination(&url);
        to.tls.ca_file = Some(ca_file.clone());
        let source = Memory::new(&[block(&["a"])]);
        let _exporter = start(to.clone(), &source);
        delivered(&source, 1).await;

        to.tls.ca_file = Some(other_ca_file.clone());
        let source = Memory::new(&[block(&["a"])]);
        let exporter = start(to, &source);
        let error = || exporter.destinations()[0].counts().last_error.unwrap_or_default();
        eventually("refused", || !error().is_empty()).await;
        assert!(error().contains("tls.ca_file"), "{url}: {}", error());
        assert_eq!((source.settled().delivered, source.left()), (0, 1));
    }
    assert_eq!((grpc.received().len(), http.received().len()), (1, 1));
}

#[tokio::test]
async fn what_may_be_retried_is_sent_again_until_it_is_taken() {
    let again = |code| Answer::Grpc { code, retry_after: None };
    let grpc = Fake::grpc(&[again(Code::Unavailable), again(Code::ResourceExhausted)], None).await;
    let busy = |status| Answer::Http { status, retry_after: None, body: "busy" };
    let http = Fake::http(&[busy(503), busy(429)], None).await;
    for (fake, url) in [(&grpc, grpc_url(&grpc)), (&http, http_url(&http))] {
        let source = Memory::new(&[block(&["a"])]);
        let exporter = start(destination(&url), &source);
        delivered(&source, 1).await;
        assert!(fake.received().iter().all(|received| names(&received.body) == ["a"]));
        let counts = exporter.destinations()[0].counts();
        assert_eq!((counts.requests, counts.retries, counts.attempted, counts.delivered), (3, 2, 3, 1));
        assert!(!counts.failing && counts.last_error.is_some());
    }
}

#[tokio::test]
async fn the_wait_that_a_destination_asks_for_is_kept() {
    let asked = Duration::from_millis(300);
    let grpc = Fake::grpc(&[Answer::Grpc { code: Code::Unavailable, retry_after: Some(asked) }], None).await;
    let http = Fake::http(&[Answer::Http { status: 503, retry_after: Some("1"), body: "" }], None).await;
    for (fake, url, asked) in [(&grpc, grpc_url(&grpc), asked), (&http, http_url(&http), Duration::from_secs(1))] {
        let source = Memory::new(&[block(&["a"])]);
        let _exporter = start(destination(&url), &source);
        delivered(&source, 1).await;
        let received = fake.received();
        let waited = received[1].at - received[0].at;
        assert!(waited >= asked, "{url}: {waited:?}");
    }
}

#[tokio::test]
async fn only_the_spans_that_are_refused_become_dead_letters_and_a_replay_delivers_them() {
    let grpc = Fake::grpc(&[], None).await;
    grpc.poison("c", Answer::Grpc { code: Code::InvalidArgument, retry_after: None });
    let http = Fake::http(&[], None).await;
    http.poison("c", Answer::Http { status: 400, retry_after: None, body: "no such tenant" });
    for (fake, url, part) in
        [(&grpc, grpc_url(&grpc), "InvalidArgument: as the test says"), (&http, http_url(&http), "no such tenant")]
    {
        let source = Memory::new(&[block(&["a", "b", "c", "d", "e"]), block(&["f"])]);
        let letters = letters();
        let exporter = start_with(destination(&url), &source, &letters);
        delivered(&source, 5).await;
        assert_eq!(source.settled().dead, 1);
        let dead = all(&letters);
        assert_eq!((dead.len(), dead[0].spans, dead[0].is_suspect), (1, 1, false));
        assert!(dead[0].reason.contains(part), "{dead:?}");
        assert!(dead[0].key.starts_with("memory-0/"), "{dead:?}");
        let payload = letters.get(dead[0].id).unwrap().unwrap().payload;
        assert_eq!(names(&payload.into()), ["c"]);
        let counts = || exporter.destinations()[0].counts();
        assert_eq!((counts().delivered, counts().dead, counts().retries), (5, 1, 0));
        // Each span has one fate, however often it was sent to find it out.
        assert!(counts().requests > 2 && counts().attempted == 6, "{:?}", counts());

        letters.replay(&Which::default()).unwrap();
        eventually("refused again", || all(&letters)[0].attempts == 2).await;
        assert_eq!(counts().attempted, 7);
        fake.heal();
        letters.replay(&Which::default()).unwrap();
        eventually("taken", || all(&letters).is_empty()).await;
        eventually("accounted for", || source.settled().revived == 1).await;
        assert_eq!(names(&fake.received().last().unwrap().body), ["c"]);
        assert_eq!((counts().attempted, counts().late, counts().replayed), (8, 0, 1));
    }
}

#[tokio::test]
async fn a_destination_that_refuses_spans_is_not_failing() {
    let poison = Fake::http(&[], None).await;
    poison.poison("b", Answer::Http { status: 400, retry_after: None, body: "no such tenant" });
    let partial = Fake::http(&[Answer::Partial { rejected: 1, message: "too old" }], None).await;
    for (fake, said) in [(&poison, "no such tenant"), (&partial, "too old")] {
        // Nothing is sent afterwards.
        let source = Memory::new(&[block(&["a", "b"])]);
        let exporter = start(destination(&http_url(fake)), &source);
        eventually("settled", || source.settled().dead == 1).await;
        let counts = exporter.destinations()[0].counts();
        assert!(counts.last_error.as_ref().is_some_and(|error| error.contains(said)), "{counts:?}");
        assert!(!counts.failing && counts.attempted == 2, "{counts:?}");
    }
}

#[tokio::test]
async fn replayed_spans_that_somebody_had_asked_for_count_with_those() {
    let fake = Fake::http(&[], None).await;
    let (to, letters, source) = (destination(&http_url(&fake)), letters(), Memory::new(&[]));
    let (payload, spans) = block(&["a", "b"]);
    let destination = to.name.clone();
    let letter =
        Letter { destination, key: "memory-late-1".into(), spans, payload: payload.into(), ..Letter::default() };
    letters.put(&letter).unwrap();
    let exporter = start_with(to, &source, &letters);
    letters.replay(&Which::default()).unwrap();
    eventually("taken", || exporter.destinations()[0].counts().late == 2).await;
    let counts = exporter.destinations()[0].counts();
    assert_eq!((counts.attempted, counts.replayed, source.settled().revived), (2, 2, 0));
}

#[tokio::test]
async fn a_destination_that_refuses_everything_is_not_asked_about_every_span() {
    let fake = Fake::http(&[], None).await;
    fake.poison("a", Answer::Http { status: 400, retry_after: None, body: "" });
    let mut to = destination(&http_url(&fake));
    to.batch.spans = 8;
    let blocks: Vec<_> = (0..10).map(|_| block(&["a"; 8])).collect();
    let source = Memory::new(&blocks);
    let letters = letters();
    let exporter = start_with(to, &source, &letters);
    eventually("settled", || source.settled().dead == 80).await;
    // The first three batches are halved down to the spans, 15 requests each.
    assert_eq!(exporter.destinations()[0].counts().requests, 3 * 15 + 7);
    assert_eq!(all(&letters).len(), 3 * 8 + 7);
}

/// A field of a message.
fn field(number: u8, body: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(body.len()).unwrap()], body].concat()
}

#[tokio::test]
async fn what_a_filter_cannot_read_is_not_sent_but_kept() {
    let fake = Fake::http(&[], None).await;
    let letters = letters();
    // The key of its attribute is longer than the attribute.
    let span = [field(5, b"odd"), field(9, &[0x0a, 0x7f])].concat();
    let odd = field(1, &field(2, &field(2, &span))).into();
    let source = Memory::new(&[(odd, 1), block(&["wanted"])]);
    let mut to = destination(&http_url(&fake));
    to.batch.spans = 1;
    let leave_out = Match { attributes: vec!["secret=*".into()], ..Match::default() };
    to.filter.exclude.push(leave_out);
    let _exporter = start_with(to, &source, &letters);
    delivered(&source, 1).await;
    eventually("settled", || source.settled().dead == 1).await;
    assert!(all(&letters)[0].reason.contains("cannot read it"), "{:?}", all(&letters));
    assert_eq!(fake.received().iter().flat_map(|received| names(&received.body)).collect::<Vec<_>>(), ["wanted"]);
}

#[tokio::test]
async fn while_dead_letters_are_full_the_destination_waits_and_loses_nothing() {
    let fake = Fake::http(&[], None).await;
    fake.poison("a", Answer::Http { status: 400, retry_after: None, body: "" });
    let source = Memory::new(&[block(&["a"])]);
    let full = DeadLetters::open(Path::new(":memory:"), 1).unwrap();
    let exporter = start_with(destination(&http_url(&fake)), &source, &full);
    let error = || exporter.destinations()[0].counts().last_error.unwrap_or_default();
    eventually("told", || error().contains("dead letters are full")).await;
    assert_eq!((source.left(), source.settled().dead), (1, 0));
}

#[tokio::test]
async fn a_destination_is_failing_until_there_is_room_for_its_dead_letters() {
    let fake = Fake::http(&[], None).await;
    fake.poison("a", Answer::Http { status: 400, retry_after: None, body: "" });
    let (source, to) = (Memory::new(&[block(&["a"])]), destination(&http_url(&fake)));
    let letters = DeadLetters::open(Path::new(":memory:"), block(&["a"]).0.len() as u64).unwrap();
    let before = Letter { destination: to.name.clone(), payload: vec![7], ..Letter::default() };
    letters.put(&before).unwrap();
    let exporter = start_with(to, &source, &letters);
    eventually("failing", || exporter.destinations()[0].counts().failing).await;
    letters.forget(&Which::default()).unwrap();
    eventually("settled", || source.settled().dead == 1).await;
    assert!(!exporter.destinations()[0].counts().failing);
}

#[tokio::test]
async fn a_repeated_request_has_the_same_key() {
    let fake = Fake::http(&[Answer::Http { status: 503, retry_after: None, body: "" }], None).await;
    let grpc = Fake::grpc(&[Answer::Grpc { code: Code::Unavailable, retry_after: None }], None).await;
    for (fake, url) in [(&fake, http_url(&fake)), (&grpc, grpc_url(&grpc))] {
        let source = Memory::new(&[block(&["a"])]);
        let _exporter = start(destination(&url), &source);
        delivered(&source, 1).await;
        let keys: Vec<_> = fake
            .received()
            .iter()
            .map(|received| received.headers["idempotency-key"].to_str().unwrap().to_owned())
            .collect();
        assert_eq!(keys, ["memory-0", "memory-0"]);
    }
}

#[tokio::test]
async fn several_requests_are_on_their_way_and_settled_in_any_order() {
    let fake = Fake::http(&[Answer::Hang, Answer::Take, Answer::Take], None).await;
    let mut to = destination(&http_url(&fake));
    to.batch.spans = 1;
    to.concurrency = 3;
    // The first is never answered: sent again, it would be taken, and the others after it.
    to.timeout = Interval::secs(3_600);
    let source = Memory::new(&[block(&["a"]), block(&["b"]), block(&["c"])]);
    let _exporter = start(to, &source);
    delivered(&source, 2).await;
    assert_eq!(source.left(), 1);
}

#[tokio::test]
async fn partial_success_is_counted_exactly_and_not_repeated() {
    let script = [Answer::Partial { rejected: 2, message: "too old" }, Answer::Partial { rejected: 0, message: "" }];
    let grpc = Fake::grpc(&script, None).await;
    let http = Fake::http(&script, None).await;
    for (fake, url) in [(&grpc, grpc_url(&grpc)), (&http, http_url(&http))] {
        let mut to = destination(&url);
        to.batch.spans = 3;
        let source = Memory::new(&[block(&["a", "b", "c"]), block(&["d"])]);
        let letters = letters();
        let exporter = start_with(to, &source, &letters);
        delivered(&source, 2).await;
        assert_eq!(source.settled().dead, 2);
        let suspects = all(&letters);
        assert_eq!((suspects.len(), suspects[0].spans, suspects[0].is_suspect), (1, 2, true));
        let counts = exporter.destinations()[0].counts();
        assert_eq!((counts.delivered, counts.rejected, counts.requests, counts.retries), (2, 2, 2, 0));
        assert!(counts.last_error.unwrap().contains("2 of 3 spans were refused: too old"));
        assert_eq!(fake.received().len(), 2);
    }
}

#[tokio::test]
async fn a_slow_destination_does_not_hold_up_another() {
    let slow = Fake::grpc(&[Answer::Hang], None).await;
    let fast = Fake::http(&[], None).await;
    let export = Export {
        destinations: vec![destination(&grpc_url(&slow)), destination(&http_url(&fast))],
        ..Export::default()
    };
    let (slow_source, fast_source) = (Memory::new(&[block(&["a"])]), Memory::new(&[block(&["a"])]));
    let _exporter = Exporter::start(&export, &letters(), |to| {
        Ok::<_, Infallible>(if to.name.contains("grpc") { slow_source.clone() } else { fast_source.clone() })
    })
    .unwrap();
    eventually("slow one is asked", || slow.received().len() == 1).await;
    delivered(&fast_source, 1).await;
    fast_source.append(&[block(&["b"])]);
    delivered(&fast_source, 2).await;
    assert_eq!(slow_source.settled().delivered, 0);
}

#[tokio::test]
async fn a_request_is_full_by_spans_or_bytes_and_sent_early_when_old() {
    let one = block(&["a"]);
    let many: Vec<_> = (0..100).map(|_| one.clone()).collect();
    for (spans, bytes, expected) in [(30, 1 << 20, vec![30, 30, 30]), (1000, one.0.len() as u64 * 50, vec![50, 50])] {
        let fake = Fake::http(&[], None).await;
        let mut to = destination(&http_url(&fake));
        to.batch.spans = spans;
        to.batch.bytes = Size(bytes);
        to.batch.age = Interval::secs(3600);
        let source = Memory::new(&many);
        let exporter = start(to, &source);
        let full = expected.iter().sum();
        delivered(&source, full).await;
        exporter.shutdown().await;
        assert_eq!(source.settled().batches[..expected.len()], expected);
        assert_eq!(source.settled().delivered, 100, "the rest is sent at shutdown");
    }
    let fake = Fake::http(&[], None).await;
    let source = Memory::new(&[]);
    let _exporter = start(destination(&http_url(&fake)), &source);
    source.append(&[one]);
    delivered(&source, 1).await;
}

#[tokio::test]
async fn shutdown_sends_what_waits() {
    let fake = Fake::grpc(&[Answer::Grpc { code: Code::Unavailable, retry_after: None }], None).await;
    let mut to = destination(&grpc_url(&fake));
    to.batch.age = Interval::secs(3600);
    let source = Memory::new(&[block(&["a"]), block(&["b"])]);
    let exporter = start(to, &source);
    exporter.shutdown().await;
    assert_eq!((source.settled().delivered, source.left()), (2, 0));
}

#[tokio::test]
async fn shutdown_is_bounded_and_leaves_the_rest_in_the_log() {
    let fake = Fake::grpc(&vec![Answer::Hang; 10], None).await;
    let source = Memory::new(&[block(&["a"])]);
    let export = Export {
        destinations: vec![destination(&grpc_url(&fake))],
        shutdown_timeout: Interval::ms(50),
        ..Export::default()
    };
    let exporter = Exporter::start(&export, &letters(), |_| Ok::<_, Infallible>(source.clone())).unwrap();
    let stats = exporter.destinations()[0].clone();
    eventually("asked", || fake.received().len() == 1).await;
    tokio::time::timeout(Duration::from_secs(60), exporter.shutdown()).await.expect("shutdown ends");
    assert_eq!((source.settled().batches.len(), source.left(), stats.counts().queued), (0, 1, 1));
}

#[tokio::test]
async fn an_unreachable_destination_is_explained_and_served_once_it_is_there() {
    let address = Fake::grpc(&[], None).await.address;
    let source = Memory::new(&[block(&["a"])]);
    let exporter = start(destination(&format!("otlp+grpc://{address}")), &source);
    let counts = || exporter.destinations()[0].counts();
    eventually("explained", || counts().last_error.unwrap_or_default().contains("nothing listens there")).await;
    assert!(counts().last_error.unwrap().contains(&address.to_string()));
    assert_eq!((counts().queued, counts().failing), (1, true));
    let _fake = Fake::grpc_on(address, &[], None).await;
    delivered(&source, 1).await;
    eventually("recovered", || !counts().failing && counts().queued == 0).await;
}

#[tokio::test]
async fn the_wrong_protocol_is_named_and_loses_nothing() {
    let grpc = Fake::grpc(&[], None).await;
    let http = Fake::http(&[], None).await;
    for url in [format!("otlp+grpc://{}", http.address), format!("otlp+http://{}", grpc.address)] {
        let source = Memory::new(&[block(&["a"])]);
        let exporter = start(destination(&url), &source);
        let error = || exporter.destinations()[0].counts().last_error.unwrap_or_default();
        eventually("told", || !error().is_empty()).await;
        assert!(error().contains("the other protocol"), "{url}: {}", error());
        assert_eq!(source.left(), 1, "{url}");
    }
}

#[tokio::test]
async fn json_and_zipkin_arrive_as_what_they_are() {
    let fake = Fake::http(&[], None).await;
    let mut json = destination(&http_url(&fake));
    json.encoding = Encoding::Json;
    let mut zipkin = destination(&format!("zipkin+http://{}", fake.address));
    zipkin.compression = Compression::Gzip;
    for to in [json, zipkin] {
        let source = Memory::new(&[(samples::full().encode_to_vec().into(), 1)]);
        let _exporter = start(to, &source);
        delivered(&source, 1).await;
    }
    let received = fake.received();
    let text = |place: usize| serde_json::from_slice::<serde_json::Value>(&received[place].body).unwrap();
    assert_eq!(text(0)["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"], "GET /a");
    assert_eq!(text(1)[0]["localEndpoint"]["serviceName"], "shop");
    assert!(received.iter().all(|received| received.headers["content-type"] == "application/json"));
    assert_eq!(
        (&received[0].headers["x-path"], &received[1].headers["x-path"]),
        (&"/v1/traces".parse().unwrap(), &"/api/v2/spans".parse().unwrap())
    );
}

#[tokio::test]
async fn spans_that_a_format_cannot_say_count_as_refused() {
    let fake = Fake::http(&[], None).await;
    // The blocks of these tests have no ids.
    let source = Memory::new(&[block(&["a", "b"])]);
    let exporter = start(destination(&format!("zipkin+http://{}", fake.address)), &source);
    eventually("settled", || source.settled().dead == 2).await;
    assert!(exporter.destinations()[0].counts().last_error.unwrap().contains("2 spans have no valid ids"));
    assert!(fake.received().is_empty());
}

#[tokio::test]
async fn a_web_page_a_redirect_and_a_wrong_path_lose_nothing() {
    let answer = |status, body| Answer::Http { status, retry_after: None, body };
    let script = [answer(302, ""), answer(404, "nothing here"), answer(401, "expired"), answer(200, "<html>")];
    let fake = Fake::http(&script, None).await;
    let source = Memory::new(&[block(&["a"])]);
    let exporter = start(destination(&http_url(&fake)), &source);
    delivered(&source, 1).await;
    assert_eq!(fake.received().len(), 5);
    assert_eq!(exporter.destinations()[0].counts().dead, 0);
}
