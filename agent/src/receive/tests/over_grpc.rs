//! OTLP/gRPC with the client that opentelemetry-proto generates, and with frames that no client sends.

use http::HeaderMap;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use tokio::net::TcpStream;
use tonic::{
    Code, Request, Status,
    codec::CompressionEncoding,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

use super::*;

pub(super) async fn client(address: SocketAddr) -> TraceServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    TraceServiceClient::new(endpoint.connect().await.unwrap())
}

async fn refused(running: &Running) -> Status {
    client(running.grpc).await.export(request(&["a"])).await.unwrap_err()
}

fn delay(status: &Status) -> Option<Duration> {
    status.get_details_retry_info().and_then(|info| info.retry_delay)
}

#[tokio::test]
async fn requests_arrive_as_they_were_sent_with_and_without_compression() {
    let running = Running::with(&[]);
    let plain = client(running.grpc).await;
    let clients = [
        plain.clone(),
        plain.clone().send_compressed(CompressionEncoding::Gzip),
        plain.send_compressed(CompressionEncoding::Zstd),
    ];
    for (index, mut client) in clients.into_iter().enumerate() {
        let sent = request(&["a", &"b".repeat(300_000)]);
        let response = client.export(sent.clone()).await.unwrap().into_inner();
        assert_eq!(response.partial_success, None);
        assert_eq!(running.script.bytes()[index], sent.encode_to_vec());
    }
    assert_eq!(running.count(Protocol::OtlpGrpc, Outcome::Ok), 3);
    let counts = running.receivers.stats().counts();
    assert_eq!(counts.requests[0].spans, 6);
    assert_eq!(running.receivers.stats().counts().tenants[0].spans_taken, 6);
    assert_eq!(counts.connections_accepted, 1);
}

#[tokio::test]
async fn partial_success_is_told_exactly() {
    let running = Running::with(&[Ok(Accepted { rejected: 3, message: "3 spans without a trace id".into() })]);
    let response = client(running.grpc).await.export(request(&["a"; 7])).await.unwrap().into_inner();
    let partial = response.partial_success.unwrap();
    assert_eq!((partial.rejected_spans, partial.error_message.as_str()), (3, "3 spans without a trace id"));
    assert_eq!(running.count(Protocol::OtlpGrpc, Outcome::Partial), 1);
    assert_eq!(running.receivers.stats().counts().rejected, 3);
    assert_eq!(running.receivers.stats().counts().tenants[0].spans_taken, 4);
}

#[tokio::test]
async fn each_refusal_has_its_code_and_only_what_helps_again_has_retry_info() {
    let after = Duration::from_millis(2_500);
    let running = Running::with(&[
        Err(Refusal::Malformed("no request".into())),
        Err(Refusal::Full { retry_after: after }),
        Err(Refusal::Quota { retry_after: after }),
        Err(Refusal::Storage("the disk is full".into())),
    ]);
    for (code, expected, outcome) in [
        (Code::InvalidArgument, None, Outcome::Malformed),
        (Code::ResourceExhausted, Some(after), Outcome::RefusedFull),
        (Code::ResourceExhausted, Some(after), Outcome::RefusedQuota),
        (Code::Unavailable, Some(Duration::from_secs(1)), Outcome::Storage),
    ] {
        let status = refused(&running).await;
        assert_eq!((status.code(), delay(&status)), (code, expected), "{status:?}");
        assert_eq!(running.count(Protocol::OtlpGrpc, outcome), 1, "{outcome:?}");
    }
    assert_eq!(running.receivers.stats().counts().tenants[0].spans_taken, 0);
}

#[tokio::test]
async fn only_known_tokens_are_let_in_and_only_as_their_tenant() {
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(Script::new(&[]), with_tenants(folder.path()));
    let send = async |token: Option<&str>, claimed: Option<&str>| {
        let mut request = Request::new(request(&["a"]));
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        if let Some(claimed) = claimed {
            request.metadata_mut().insert("x-scope-orgid", claimed.parse().unwrap());
        }
        client(running.grpc).await.export(request).await.map_err(|status| status.code())
    };
    assert!(send(Some("red-token"), None).await.is_ok());
    assert!(send(Some("blue-token"), Some("blue")).await.is_ok());
    assert_eq!(send(None, None).await.unwrap_err(), Code::Unauthenticated);
    assert_eq!(send(None, Some("blue")).await.unwrap_err(), Code::Unauthenticated);
    assert_eq!(send(Some("green-token"), None).await.unwrap_err(), Code::Unauthenticated);
    assert_eq!(send(Some("red-token"), Some("blue")).await.unwrap_err(), Code::PermissionDenied);
    assert_eq!(running.script.taken(), [("red".into(), vec!["a".into()]), ("blue".into(), vec!["a".into()])]);
    assert_eq!(running.count(Protocol::OtlpGrpc, Outcome::Unauthenticated), 3);
    assert_eq!(running.count(Protocol::OtlpGrpc, Outcome::Forbidden), 1);
}

/// One call with a body as it is: HTTP status, then status and headers of gRPC.
async fn raw(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> (u16, Option<Code>, HeaderMap, Bytes) {
    let stream = TcpStream::connect(address).await.unwrap();
    let http2 = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = http2.await.unwrap();
    tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://{address}{path}")).header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let mut all = parts.headers;
    all.extend(body.trailers().cloned().unwrap_or_default());
    let code = all.get("grpc-status").map(|status| Code::from_bytes(status.as_bytes()));
    (parts.status.as_u16(), code, all, body.to_bytes())
}

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const GRPC: (&str, &str) = ("content-type", "application/grpc");

fn framed(flag: u8, length: u32, message: &[u8]) -> Vec<u8> {
    [&[flag][..], &length.to_be_bytes(), message].concat()
}

#[tokio::test]
async fn broken_framing_is_refused_and_nothing_is_handed_over() {
    let running = Running::with(&[]);
    let check = async |headers: &[(&str, &str)], body: Vec<u8>, expected: Code| {
        let (status, code, _, _) = raw(running.grpc, EXPORT, headers, body.clone()).await;
        assert_eq!((status, code), (200, Some(expected)), "{headers:?} {body:?}");
    };
    let gzip = ("grpc-encoding", "gzip");
    check(&[GRPC], framed(7, 0, b""), Code::InvalidArgument).await;
    check(&[GRPC], [framed(0, 0, b""), framed(0, 0, b"")].concat(), Code::InvalidArgument).await;
    check(&[GRPC], framed(1, 3, b"abc"), Code::Internal).await;
    check(&[GRPC, gzip], framed(1, 3, b"abc"), Code::InvalidArgument).await;
    check(&[GRPC, ("grpc-encoding", "snappy")], framed(1, 3, b"abc"), Code::Unimplemented).await;
    for cut in 0..8 {
        check(&[GRPC], framed(0, 3, b"abc")[..cut].to_vec(), Code::InvalidArgument).await;
    }
    check(&[GRPC], framed(0, u32::MAX, b""), Code::ResourceExhausted).await;
    assert_eq!(running.script.taken().len(), 0);
    check(&[GRPC, gzip], framed(0, 0, b""), Code::Ok).await;
    assert_eq!(running.script.taken().len(), 1);
}

#[tokio::test]
async fn what_is_not_received_is_told() {
    let running = Running::with(&[]);
    let (_, code, headers, _) = raw(running.grpc, "/a.B/C", &[GRPC], framed(0, 0, b"")).await;
    assert_eq!(code, Some(Code::Unimplemented));
    assert!(headers["grpc-message"].to_str().unwrap().contains("TraceService"), "{headers:?}");
    let (_, _, headers, _) = raw(running.grpc, EXPORT, &[GRPC, ("grpc-encoding", "br")], framed(0, 0, b"")).await;
    assert_eq!(headers["grpc-accept-encoding"], "identity,gzip,zstd");
    let protobuf = ("content-type", "application/x-protobuf");
    let (status, code, _, body) = raw(running.grpc, "/v1/traces", &[protobuf], Vec::new()).await;
    assert_eq!((status, code), (415, None));
    assert!(String::from_utf8_lossy(&body).contains("4318"), "{body:?}");
    let (status, _, _, _) = raw(running.http, EXPORT, &[GRPC], framed(0, 0, b"")).await;
    assert_eq!(status, 404);
    assert_eq!(running.count(Protocol::OtlpGrpc, Outcome::Unsupported), 2);
}

#[tokio::test]
async fn it_says_that_it_serves() {
    let running = Running::with(&[]);
    let (status, code, _, body) = raw(running.grpc, "/grpc.health.v1.Health/Check", &[GRPC], framed(0, 0, b"")).await;
    assert_eq!((status, code, &body[..]), (200, Some(Code::Ok), &[0, 0, 0, 0, 2, 8, 1][..]));
}
