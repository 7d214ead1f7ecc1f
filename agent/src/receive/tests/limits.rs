//! Sizes, places, quotas and times.

use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, codec::CompressionEncoding};
use tonic_types::StatusExt;

use super::{
    over_grpc::client,
    over_http::{post, send},
    *,
};
use crate::config::{Interval, Quota, Size};

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");

fn limited(request_bytes_max: u64) -> Receive {
    Receive { request_bytes_max: Size(request_bytes_max), ..Receive::default() }
}

#[tokio::test]
async fn what_is_too_large_is_refused_for_good_at_the_limit() {
    let exact = request(&["a"; 100]).encode_to_vec();
    let running = Running::start(Script::new(&[]), limited(exact.len() as u64));
    let larger = request(&["a"; 101]);
    let compressed = zstd::encode_all(&larger.encode_to_vec()[..], 3).unwrap();
    let zstd = ("content-encoding", "zstd");
    assert_eq!(post(running.http, &[PROTOBUF], exact.clone()).await.status, 200);
    assert_eq!(post(running.http, &[PROTOBUF], larger.encode_to_vec()).await.status, 413);
    assert_eq!(post(running.http, &[PROTOBUF, zstd], compressed).await.status, 413);
    let mut plain = client(running.grpc).await;
    plain.export(request(&["a"; 100])).await.unwrap();
    let gzip = plain.clone().send_compressed(CompressionEncoding::Gzip);
    for mut client in [plain, gzip] {
        let status = client.export(larger.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert!(status.get_details_retry_info().is_none() && status.message().contains("larger than"), "{status:?}");
    }
    assert_eq!(running.count(Protocol::OtlpHttpProtobuf, Outcome::TooLarge), 2);
    assert_eq!(running.count(Protocol::OtlpGrpc, Outcome::TooLarge), 2);
    assert_eq!(running.script.taken().len(), 2);
}

/// An answer that does not wait for what the test holds up.
async fn soon<T>(answer: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), answer).await.expect("an answer soon")
}

/// The sender has not read the answer while it still writes: it must get it nonetheless.
#[tokio::test]
async fn a_large_body_of_unknown_length_is_answered_too() {
    let running = Running::start(Script::new(&[]), limited(1 << 20));
    let chunks = (0..48).map(|_| Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(vec![0; 32 << 10]))));
    let stream = TcpStream::connect(running.http).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("/v1/traces").header("host", "h").header(PROTOBUF.0, PROTOBUF.1);
    let request = request.body(StreamBody::new(tokio_stream::iter(chunks))).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 413);
    // The rest was read, so the connection goes on.
    sender.ready().await.unwrap();
}

#[tokio::test]
async fn bombs_cost_no_more_than_the_limit() {
    let running = Running::with(&[]);
    let bomb = zstd::encode_all(std::io::Read::take(std::io::repeat(0), 1 << 30), 3).unwrap();
    assert!(bomb.len() < 1 << 20);
    let answer = post(running.http, &[PROTOBUF, ("content-encoding", "zstd")], bomb).await;
    assert_eq!(answer.status, 413);
    assert_eq!(post(running.http, &[PROTOBUF], request(&["a"]).encode_to_vec()).await.status, 200);
}

#[tokio::test]
async fn beyond_the_limit_of_requests_senders_are_told_to_come_again() {
    let receive = Receive { requests_max: 2, ..Receive::default() };
    let running = Running::start(Script::closed(), receive);
    let (http, grpc) = (running.http, running.grpc);
    let held: Vec<_> = (0..2)
        .map(|_| tokio::spawn(async move { post(http, &[PROTOBUF], request(&["a"]).encode_to_vec()).await.status }))
        .collect();
    eventually("both are worked on", || running.script.bytes().len() == 2).await;
    let answer = soon(post(http, &[PROTOBUF], request(&["b"]).encode_to_vec())).await;
    assert_eq!((answer.status.as_u16(), &answer.headers["retry-after"]), (429, &"1".parse().unwrap()));
    let status = client(grpc).await.export(request(&["b"])).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.get_details_retry_info().is_some());
    running.script.gate.add_permits(3);
    for held in held {
        assert_eq!(held.await.unwrap(), 200);
    }
    assert_eq!(post(http, &[PROTOBUF], request(&["c"]).encode_to_vec()).await.status, 200);
    assert_eq!(running.count(Protocol::OtlpHttpProtobuf, Outcome::RefusedFull), 1);
    assert_eq!(running.count(Protocol::OtlpGrpc, Outcome::RefusedFull), 1);
}

#[tokio::test]
async fn beyond_the_limit_of_bytes_senders_are_told_to_come_again() {
    let body = request(&[&"x".repeat(60_000)]).encode_to_vec();
    let receive = Receive { bytes_max: Size(100_000), request_bytes_max: Size(100_000), ..Receive::default() };
    let running = Running::start(Script::closed(), receive);
    let (http, large) = (running.http, body.clone());
    let held = tokio::spawn(async move { post(http, &[PROTOBUF], large).await.status });
    eventually("it is worked on", || running.script.bytes().len() == 1).await;
    assert_eq!(soon(post(http, &[PROTOBUF], body)).await.status, 429);
    running.script.gate.add_permits(1);
    assert_eq!(held.await.unwrap(), 200);
}

#[tokio::test]
async fn a_tenant_beyond_its_quota_comes_again_and_others_are_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let mut receive = with_tenants(folder.path());
    receive.tenants[0].quota = Some(Quota { spans_per_second: 1, bytes_per_second: Size(0) });
    let running = Running::start(Script::new(&[]), receive);
    let send = async |token: &str, spans: usize| {
        let token = format!("Bearer {token}");
        let headers = [PROTOBUF, ("authorization", token.as_str())];
        post(running.http, &headers, request(&vec!["a"; spans]).encode_to_vec()).await
    };
    assert_eq!(send("blue-token", 1_000).await.status, 200);
    let answer = send("blue-token", 1).await;
    assert_eq!(answer.status, 429);
    let after: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((900..=1_001).contains(&after), "{after}");
    assert_eq!(send("red-token", 1_000).await.status, 200);
    let tenants = running.receivers.stats().counts().tenants;
    assert_eq!((tenants[0].name.as_str(), tenants[0].spans_taken, tenants[0].refused_quota), ("blue", 1_000, 1));
    assert_eq!((tenants[1].name.as_str(), tenants[1].spans_taken, tenants[1].refused_quota), ("red", 1_000, 0));
}

#[tokio::test]
async fn what_is_not_taken_is_not_charged() {
    let receive = Receive { quota: Quota { spans_per_second: 1, bytes_per_second: Size(0) }, ..Receive::default() };
    let full = Err(Refusal::Full { retry_after: Duration::from_secs(1) });
    let running = Running::start(Script::new(&[full]), receive);
    let body = request(&["a"; 1_000]).encode_to_vec();
    assert_eq!(post(running.http, &[PROTOBUF], body.clone()).await.status, 429);
    assert_eq!(post(running.http, &[PROTOBUF], body.clone()).await.status, 200);
    assert_eq!(post(running.http, &[PROTOBUF], body).await.status, 429);
    assert_eq!(running.count(Protocol::OtlpHttpProtobuf, Outcome::RefusedQuota), 1);
}

#[tokio::test]
async fn a_request_that_does_not_arrive_in_time_is_ended() {
    let receive = Receive { timeout: Interval::ms(200), ..Receive::default() };
    let running = Running::start(Script::new(&[]), receive);
    let mut stream = TcpStream::connect(running.http).await.unwrap();
    let head =
        "POST /v1/traces HTTP/1.1\r\nhost: h\r\ncontent-type: application/x-protobuf\r\ncontent-length: 10\r\n\r\nabc";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1\r\n"), "{answer}");
    assert_eq!(running.count(Protocol::OtlpHttpProtobuf, Outcome::Timeout), 1);
    // Who says nothing at all, or nothing whole, is closed too.
    for begin in ["", "POST /v1/tra", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut stream = TcpStream::connect(running.http).await.unwrap();
        stream.write_all(begin.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
    }
    eventually("all are closed", || running.receivers.stats().counts().connections == 0).await;
}

#[tokio::test]
async fn silent_connections_are_closed_and_busy_ones_are_not() {
    let receive = Receive { idle_timeout: Interval::ms(100), ..Receive::default() };
    let running = Running::start(Script::closed(), receive);
    let mut client: TraceServiceClient<_> = client(running.grpc).await;
    let mut sending = client.clone();
    let sent = tokio::spawn(async move { sending.export(request(&["a"])).await });
    eventually("it is worked on", || running.script.bytes().len() == 1).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    running.script.gate.add_permits(2);
    sent.await.unwrap().unwrap();
    eventually("it is closed", || running.receivers.stats().counts().connections == 0).await;
    client.export(request(&["b"])).await.unwrap();
}

#[tokio::test]
async fn more_connections_than_allowed_wait() {
    let receive = Receive { connections_max: 1, ..Receive::default() };
    let running = Running::start(Script::new(&[]), receive);
    let first = TcpStream::connect(running.http).await.unwrap();
    eventually("it has the place", || running.receivers.stats().counts().connections == 1).await;
    let http = running.http;
    let second = tokio::spawn(async move {
        send(http, http::Method::POST, "/v1/traces", &[PROTOBUF], request(&["a"]).encode_to_vec()).await.status
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!second.is_finished());
    drop(first);
    assert_eq!(second.await.unwrap(), 200);
}
