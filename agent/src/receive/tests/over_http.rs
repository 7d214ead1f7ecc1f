//! OTLP/HTTP and Zipkin with hyper's client, and with requests that no client sends.

use std::io::Write;

use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;
use crate::receive::json::tests::EXAMPLE;

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");
const JSON: (&str, &str) = ("content-type", "application/json");
const GZIP: (&str, &str) = ("content-encoding", "gzip");
const ZSTD: (&str, &str) = ("content-encoding", "zstd");

pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

pub(super) async fn send(
    address: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Answer {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = http::Request::builder().method(method).uri(path).header("host", "h");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(Full::new(body.into())).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    Answer { status: parts.status, headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
}

pub(super) async fn post(address: SocketAddr, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
    send(address, Method::POST, "/v1/traces", headers, body).await
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    writer.write_all(plain).unwrap();
    writer.finish().unwrap()
}

fn status_of(answer: &Answer) -> (i32, String) {
    let status = tonic_types::Status::decode(answer.body.clone()).unwrap();
    (status.code, status.message)
}

#[tokio::test]
async fn protobuf_arrives_as_it_was_sent_with_and_without_compression() {
    let running = Running::with(&[]);
    let sent = request(&["a", &"b".repeat(300_000)]).encode_to_vec();
    let bodies = [
        (vec![PROTOBUF], sent.clone()),
        (vec![PROTOBUF, ("content-encoding", "identity")], sent.clone()),
        (vec![("content-type", "Application/X-Protobuf; x=y"), GZIP], gzip(&sent)),
        (vec![PROTOBUF, ZSTD], zstd::encode_all(&sent[..], 3).unwrap()),
    ];
    for (index, (headers, body)) in bodies.into_iter().enumerate() {
        let answer = post(running.http, &headers, body).await;
        assert_eq!(
            (answer.status, &answer.headers["content-type"]),
            (StatusCode::OK, &"application/x-protobuf".parse().unwrap())
        );
        assert_eq!(ExportTraceServiceResponse::decode(answer.body).unwrap().partial_success, None);
        assert_eq!(running.script.bytes()[index], sent);
    }
    assert_eq!(running.count(Protocol::OtlpHttpProtobuf, Outcome::Ok), 4);
}

#[tokio::test]
async fn json_becomes_protobuf_and_is_answered_in_json() {
    let partial = Accepted { rejected: 1, message: "no ids".into() };
    let warning = Accepted { rejected: 0, message: "careful".into() };
    let running = Running::with(&[Ok(Accepted::default()), Ok(partial), Ok(warning)]);
    for (encoding, body, expected) in [
        (None, EXAMPLE.as_bytes().to_vec(), "{}"),
        (Some(GZIP), gzip(EXAMPLE.as_bytes()), r#"{"partialSuccess":{"rejectedSpans":"1","errorMessage":"no ids"}}"#),
        (None, EXAMPLE.as_bytes().to_vec(), r#"{"partialSuccess":{"errorMessage":"careful"}}"#),
    ] {
        let headers: Vec<_> = [JSON].into_iter().chain(encoding).collect();
        let answer = post(running.http, &headers, body).await;
        assert_eq!(
            (answer.status, &answer.headers["content-type"]),
            (StatusCode::OK, &"application/json".parse().unwrap())
        );
        let (got, expected): (Value, Value) =
            (serde_json::from_slice(&answer.body).unwrap(), serde_json::from_str(expected).unwrap());
        assert_eq!(got, expected);
    }
    assert_eq!(running.script.taken()[0], ("default".into(), vec!["I'm a server span".into()]));
    assert_eq!(running.count(Protocol::OtlpHttpJson, Outcome::Partial), 1);
}

#[tokio::test]
async fn partial_success_is_told_in_protobuf() {
    let running = Running::with(&[Ok(Accepted { rejected: 2, message: "no ids".into() })]);
    let answer = post(running.http, &[PROTOBUF], request(&["a"; 3]).encode_to_vec()).await;
    let partial = ExportTraceServiceResponse::decode(answer.body).unwrap().partial_success.unwrap();
    assert_eq!((partial.rejected_spans, partial.error_message.as_str()), (2, "no ids"));
}

#[tokio::test]
async fn zipkin_is_taken_with_202() {
    let running = Running::with(&[Ok(Accepted::default()), Err(Refusal::Full { retry_after: Duration::from_secs(3) })]);
    let spans = r#"[{"traceId":"1","id":"2","name":"get"}]"#;
    let answer = send(running.http, Method::POST, "/api/v2/spans", &[JSON], spans).await;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::ACCEPTED, 0));
    assert_eq!(running.script.taken(), [("default".into(), vec!["get".into()])]);
    let answer = send(running.http, Method::POST, "/api/v2/spans", &[], spans).await;
    assert_eq!((answer.status, &answer.headers["retry-after"]), (StatusCode::TOO_MANY_REQUESTS, &"3".parse().unwrap()));
    let answer = send(running.http, Method::POST, "/api/v2/spans", &[JSON], "{}").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(String::from_utf8_lossy(&answer.body).contains("a list of spans"), "{:?}", answer.body);
    let answer = send(running.http, Method::POST, "/api/v2/spans", &[PROTOBUF], "").await;
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    for outcome in [Outcome::Ok, Outcome::RefusedFull, Outcome::Malformed, Outcome::Unsupported] {
        assert_eq!(running.count(Protocol::ZipkinJson, outcome), 1, "{outcome:?}");
    }
}

#[tokio::test]
async fn each_refusal_has_its_status_and_only_what_helps_again_has_retry_after() {
    let refusals = [
        (Refusal::Malformed("no request".into()), 400, None, 3, Outcome::Malformed),
        (Refusal::Full { retry_after: Duration::from_millis(2_500) }, 429, Some("3"), 8, Outcome::RefusedFull),
        (Refusal::Quota { retry_after: Duration::from_secs(7) }, 429, Some("7"), 8, Outcome::RefusedQuota),
        (Refusal::Storage("the disk is full".into()), 503, Some("1"), 14, Outcome::Storage),
    ];
    let twice: Vec<_> = refusals.iter().flat_map(|refusal| [Err(refusal.0.clone()), Err(refusal.0.clone())]).collect();
    let running = Running::with(&twice);
    for (refusal, status, retry_after, code, outcome) in refusals {
        let answer = post(running.http, &[PROTOBUF], request(&["a"]).encode_to_vec()).await;
        assert_eq!(answer.status, status, "{refusal:?}");
        assert_eq!(answer.headers.get("retry-after").map(|value| value.to_str().unwrap()), retry_after, "{refusal:?}");
        assert_eq!(status_of(&answer).0, code, "{refusal:?}");
        let answer = post(running.http, &[JSON], EXAMPLE).await;
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((answer.status.as_u16(), body["code"].as_i64()), (status, Some(code.into())), "{refusal:?}");
        assert!(!body["message"].as_str().unwrap().is_empty());
        assert_eq!(running.count(Protocol::OtlpHttpProtobuf, outcome), 1, "{refusal:?}");
        assert_eq!(running.count(Protocol::OtlpHttpJson, outcome), 1, "{refusal:?}");
    }
}

#[tokio::test]
async fn what_is_not_received_is_told() {
    let running = Running::with(&[]);
    let check = async |method: Method, path: &str, headers: &[(&str, &str)], status: u16, part: &str| {
        let answer = send(running.http, method, path, headers, "x").await;
        assert_eq!(answer.status, status, "{path} {headers:?}");
        assert!(String::from_utf8_lossy(&answer.body).contains(part), "{path} {headers:?}: {:?}", answer.body);
        answer.headers
    };
    check(Method::POST, "/v1/metrics", &[PROTOBUF], 404, "/v1/traces").await;
    check(Method::GET, "/", &[], 404, "/v1/traces").await;
    for (path, method) in [("/v1/traces", Method::GET), ("/v1/traces", Method::PUT), ("/api/v2/spans", Method::GET)] {
        assert_eq!(check(method, path, &[], 405, "POST").await["allow"], "POST");
    }
    for kind in ["text/plain", "application/octet-stream", "application/jsonx", ""] {
        check(Method::POST, "/v1/traces", &[("content-type", kind)], 415, "application/x-protobuf").await;
    }
    check(Method::POST, "/v1/traces", &[("content-type", "application/grpc")], 415, "4317").await;
    for encoding in ["deflate", "br", "gzip, zstd"] {
        let headers = check(Method::POST, "/v1/traces", &[PROTOBUF, ("content-encoding", encoding)], 415, "zstd").await;
        assert_eq!(headers["accept-encoding"], "gzip, zstd");
    }
    check(Method::POST, "/v1/traces", &[PROTOBUF, GZIP], 400, "decompress").await;
    check(Method::POST, "/v1/traces", &[JSON], 400, "line 1").await;
    assert_eq!(running.script.taken().len(), 0);
    assert_eq!(running.count(Protocol::OtlpHttpProtobuf, Outcome::Malformed), 1);
    assert_eq!(running.count(Protocol::OtlpHttpJson, Outcome::Malformed), 1);
}

#[tokio::test]
async fn only_known_tokens_are_let_in_and_only_as_their_tenant() {
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(Script::new(&[]), with_tenants(folder.path()));
    let send = async |headers: &[(&str, &str)]| {
        let all: Vec<_> = [PROTOBUF].into_iter().chain(headers.iter().copied()).collect();
        post(running.http, &all, request(&["a"]).encode_to_vec()).await
    };
    let red = ("authorization", "Bearer red-token");
    assert_eq!(send(&[red]).await.status, 200);
    assert_eq!(send(&[red, ("x-scope-orgid", "blue")]).await.status, 403);
    let answer = send(&[]).await;
    assert_eq!((answer.status.as_u16(), &answer.headers["www-authenticate"]), (401, &"Bearer".parse().unwrap()));
    let answer = send(&[("authorization", "Bearer green-token")]).await;
    assert_eq!((answer.status.as_u16(), status_of(&answer)), (401, (16, "the token is not known".into())));
    assert_eq!(running.script.taken(), [("red".into(), vec!["a".into()])]);
    assert_eq!(running.count(Protocol::OtlpHttpProtobuf, Outcome::Unauthenticated), 2);
    assert_eq!(running.count(Protocol::OtlpHttpProtobuf, Outcome::Forbidden), 1);
}

/// What comes back for a head, before any body is sent.
async fn first_answer(address: SocketAddr, head: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 1_024];
    let read = stream.read(&mut answer).await.unwrap();
    (stream, String::from_utf8_lossy(&answer[..read]).into_owned())
}

#[tokio::test]
async fn a_sender_that_asks_first_is_told_before_it_sends() {
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(Script::new(&[]), with_tenants(folder.path()));
    let body = request(&["a"]).encode_to_vec();
    let head = |length: usize, more: &str| {
        format!(
            "POST /v1/traces HTTP/1.1\r\nhost: h\r\ncontent-type: application/x-protobuf\r\nexpect: 100-continue\r\n\
             content-length: {length}\r\n{more}\r\n"
        )
    };
    let token = "authorization: Bearer blue-token\r\n";
    let (mut stream, answer) = first_answer(running.http, &head(body.len(), token)).await;
    assert!(answer.starts_with("HTTP/1.1 100 "), "{answer}");
    stream.write_all(&body).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    let (_, answer) = first_answer(running.http, &head(body.len(), "")).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    let (_, answer) = first_answer(running.http, &head(17 << 20, token)).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn heads_that_are_no_http_or_too_long_do_no_harm() {
    let running = Running::with(&[]);
    let long = format!("POST /v1/traces HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(200_000));
    for (head, status) in [("nonsense\r\n\r\n", "400"), (&long, "431")] {
        let mut stream = TcpStream::connect(running.http).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // What was not read may reset the connection behind the answer.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(
            answer.starts_with(format!("HTTP/1.1 {status}").as_bytes()),
            "{status}: {:?}",
            String::from_utf8_lossy(&answer)
        );
    }
    assert_eq!(post(running.http, &[PROTOBUF], request(&["a"]).encode_to_vec()).await.status, 200);
}
