//! Each client against each kind of answer: what it says about the request, in which words.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tonic::Code;

use super::{
    client::Client,
    fakes::{Answer, Fake, Identity, Proxy, block, body, destination, raw},
    format::samples,
    retry::{AgainKind, Outcome},
    stats::DestinationStats,
};
use crate::config::{self, Basic, Destination, Exhausted, Interval, Secret};

/// Formats by HTTP.
const HTTP: [&str; 4] = ["otlp+http", "zipkin+http", "jaeger+http", "datadog+http"];

async fn sent(destination: &Destination) -> Outcome {
    Client::new(destination).unwrap().send(body(), "key").await
}

fn taken() -> Outcome {
    Outcome::Delivered { rejected: 0, message: String::new() }
}

/// Checks kind and words of what may be sent again.
#[track_caller]
fn check_again(outcome: &Outcome, kind: AgainKind, parts: &[&str]) {
    let Outcome::Again { kind: found, cause, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(*found, kind, "{cause}");
    for part in parts {
        assert!(cause.contains(part), "{part}: {cause}");
    }
}

fn http(status: u16, body: &'static str) -> Answer {
    Answer::Http { status, retry_after: None, body }
}

#[tokio::test]
async fn answers_by_http_are_told_apart_for_every_format() {
    for scheme in HTTP {
        let script = [
            http(202, ""),
            http(401, "expired"),
            http(403, "forbidden"),
            Answer::Http { status: 429, retry_after: Some("7"), body: "slow down" },
            http(503, "busy"),
            http(413, "too much"),
            http(400, "bad span"),
            http(302, ""),
            http(404, ""),
            http(200, "<html>"),
        ];
        let fake = Fake::http(&script, None).await;
        let client = Client::new(&destination(&format!("{scheme}://{}", fake.address))).unwrap();
        assert_eq!(client.send(body(), "key").await, taken(), "{scheme}");
        check_again(&client.send(body(), "key").await, AgainKind::Auth, &["401", "expired", "wait in the log"]);
        check_again(&client.send(body(), "key").await, AgainKind::Auth, &["403", "forbidden"]);
        let outcome = client.send(body(), "key").await;
        check_again(&outcome, AgainKind::RateLimited, &["429", "slow down"]);
        assert!(matches!(outcome, Outcome::Again { after: Some(after), .. } if after == Duration::from_secs(7)));
        check_again(&client.send(body(), "key").await, AgainKind::Unavailable, &["503", "busy"]);
        let Outcome::TooLarge { cause } = client.send(body(), "key").await else { panic!("{scheme}") };
        assert!(cause.contains("413") && cause.contains("too much"));
        let Outcome::Never { cause } = client.send(body(), "key").await else { panic!("{scheme}") };
        assert!(cause.contains("400") && cause.contains("bad span"));
        check_again(&client.send(body(), "key").await, AgainKind::Misconfigured, &["302"]);
        check_again(&client.send(body(), "key").await, AgainKind::Misconfigured, &["404", "the usual path is /"]);
        check_again(&client.send(body(), "key").await, AgainKind::Misconfigured, &["a web page"]);
    }
}

#[tokio::test]
async fn the_query_of_a_url_is_never_shown() {
    let moved = Answer::Moved("https://elsewhere/v1/traces?api_key=hunter2#hunter2");
    let fake = Fake::http(&[http(401, "expired"), http(200, "<html>"), moved], None).await;
    let to: Destination = destination(&format!("otlp+http://{}/v1/traces?api_key=hunter2", fake.address));
    let client = Client::new(&to).unwrap();
    for _ in 0..3 {
        let Outcome::Again { cause, .. } = client.send(body(), "key").await else { panic!("taken") };
        assert!(cause.contains("/v1/traces") && !cause.contains("hunter2"), "{cause}");
    }
    assert!(!to.url.without_query().contains("hunter2"));
    assert!(!DestinationStats::new(&to).counts().url.contains("hunter2"));
    for wrong in ["otlp+htp://h/?api_key=hunter2", "otlp+http://h:x/?api_key=hunter2", "h?api_key=hunter2"] {
        let error = wrong.parse::<config::Url>().unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn answers_by_grpc_are_told_apart_for_every_format() {
    for scheme in ["otlp+grpc", "jaeger+grpc"] {
        let status = |code| Answer::Grpc { code, retry_after: None };
        let script = [
            Answer::Take,
            status(Code::Unauthenticated),
            status(Code::PermissionDenied),
            status(Code::ResourceExhausted),
            status(Code::Unavailable),
            status(Code::Unimplemented),
            status(Code::InvalidArgument),
            Answer::Says { code: Code::ResourceExhausted, message: "grpc: received message larger than max (9 vs. 4)" },
        ];
        let fake = Fake::grpc(&script, None).await;
        let client = Client::new(&destination(&format!("{scheme}://{}", fake.address))).unwrap();
        assert_eq!(client.send(body(), "key").await, taken());
        check_again(&client.send(body(), "key").await, AgainKind::Auth, &["Unauthenticated", "wait in the log"]);
        check_again(&client.send(body(), "key").await, AgainKind::Auth, &["PermissionDenied"]);
        check_again(&client.send(body(), "key").await, AgainKind::RateLimited, &["ResourceExhausted"]);
        check_again(&client.send(body(), "key").await, AgainKind::Unavailable, &["Unavailable", "as the test says"]);
        check_again(&client.send(body(), "key").await, AgainKind::Misconfigured, &["correct the URL"]);
        assert!(matches!(client.send(body(), "key").await, Outcome::Never { .. }));
        let Outcome::TooLarge { cause } = client.send(body(), "key").await else { panic!("{scheme}") };
        assert!(cause.contains("9 vs. 4"));
    }
}

#[tokio::test]
async fn what_resource_exhausted_means_is_configurable_unless_the_server_says_when() {
    let exhausted = |retry_after| Answer::Grpc { code: Code::ResourceExhausted, retry_after };
    let fake = Fake::grpc(&[exhausted(None), exhausted(Some(Duration::from_secs(1)))], None).await;
    let mut to = destination(&format!("otlp+grpc://{}", fake.address));
    to.retry.resource_exhausted_without_retry_info = Exhausted::DeadLetter;
    let client = Client::new(&to).unwrap();
    assert!(matches!(client.send(body(), "key").await, Outcome::Never { .. }));
    check_again(&client.send(body(), "key").await, AgainKind::RateLimited, &[]);
}

#[tokio::test]
async fn a_request_that_jaeger_gets_in_parts_is_not_repeated_where_it_was_taken() {
    let fake = Fake::http(&[Answer::Take, http(503, "busy"), Answer::Take, Answer::Take], None).await;
    let mut request = samples::full();
    for service in ["b", "c"] {
        let spans = request.resource_spans[0].scope_spans[0].spans.clone();
        let more = samples::of(vec![samples::text("service.name", service)], spans);
        request.resource_spans.extend(more.resource_spans);
    }
    let client = Client::new(&destination(&format!("jaeger+http://{}", fake.address))).unwrap();
    let body = Bytes::from(request.encode_to_vec());
    check_again(&client.send(body.clone(), "key").await, AgainKind::Unavailable, &["busy"]);
    assert_eq!(client.send(body, "key").await, taken());
    let received = fake.received();
    let bodies: Vec<_> = received.iter().map(|received| received.body.clone()).collect();
    assert_eq!((bodies.len(), &bodies[1]), (4, &bodies[2]));
    assert!(bodies[0] != bodies[1] && bodies[2] != bodies[3]);
    assert_eq!(received[0].headers["content-type"], "application/x-thrift");
    assert_eq!(received[0].headers["x-path"], "/api/traces");
}

#[tokio::test]
async fn a_datadog_agent_is_told_how_many_traces_come() {
    let fake = Fake::http(&[], None).await;
    assert_eq!(sent(&destination(&format!("datadog+http://{}", fake.address))).await, taken());
    let headers = &fake.received()[0].headers;
    for (name, value) in [
        ("x-datadog-trace-count", "1"),
        ("content-type", "application/msgpack"),
        ("x-path", "/v0.4/traces"),
        ("datadog-meta-lang", "rust"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
}

#[tokio::test]
async fn no_answer_in_time_is_told() {
    let (grpc, http) = (Fake::grpc(&[Answer::Hang], None).await, Fake::http(&[Answer::Hang], None).await);
    for url in [format!("otlp+grpc://{}", grpc.address), format!("otlp+http://{}", http.address)] {
        let mut to = destination(&url);
        to.timeout = Interval::ms(100);
        check_again(&sent(&to).await, AgainKind::Timeout, &["no answer from", "within 100ms"]);
    }
}

#[tokio::test]
async fn garbage_and_broken_answers_lose_nothing() {
    for answer in [&b"\x00\x01garbage\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\ncontent-le", b""] {
        let address = raw(answer).await;
        for scheme in ["otlp+grpc", "otlp+http", "zipkin+http"] {
            let outcome = sent(&destination(&format!("{scheme}://{address}"))).await;
            // There was a connection: the spans may have been taken.
            check_again(&outcome, AgainKind::Unanswered, &["cannot send to http://127.0.0.1"]);
        }
    }
    let address = raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncut").await;
    let outcome = sent(&destination(&format!("otlp+http://{address}"))).await;
    check_again(&outcome, AgainKind::Unanswered, &["the answer is cut"]);
}

#[tokio::test]
async fn an_unknown_host_is_told() {
    for scheme in ["otlp+grpc", "otlp+http"] {
        let outcome = sent(&destination(&format!("{scheme}://no-such-host.invalid:4317"))).await;
        check_again(&outcome, AgainKind::Unavailable, &["no-such-host.invalid", "does not resolve"]);
    }
}

#[tokio::test]
async fn bad_certificates_and_schemes_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let expired = Identity::with(&["localhost"], 2020);
    let other = Identity::with(&["other.example"], 2100);
    for (identity, part) in [(&expired, "too old"), (&other, "for another name")] {
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, &identity.ca).unwrap();
        let (grpc, http) = (Fake::grpc(&[], Some(identity)).await, Fake::http(&[], Some(identity)).await);
        for (scheme, fake) in [("otlp+grpcs", &grpc), ("otlp+https", &http)] {
            let mut to = destination(&format!("{scheme}://localhost:{}", fake.address.port()));
            to.tls.ca_file = Some(ca_file.clone());
            check_again(&sent(&to).await, AgainKind::Unavailable, &[part]);
        }
        // TLS is spoken there, but not here.
        let outcome = sent(&destination(&format!("otlp+http://localhost:{}", http.address.port()))).await;
        check_again(&outcome, AgainKind::Unanswered, &[]);
    }
    let plain = Fake::http(&[], None).await;
    let mut to = destination(&format!("otlp+https://{}", plain.address));
    to.tls.ca_file = Some(folder.path().join("ca.pem"));
    check_again(&sent(&to).await, AgainKind::Unavailable, &["does not speak TLS"]);
}

#[tokio::test]
async fn a_proxy_makes_the_connection_for_those_it_knows() {
    let identity = Identity::new();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("ca.pem"), &identity.ca).unwrap();
    std::fs::write(path("password"), "open sesame").unwrap();
    let (grpc, http) = (Fake::grpc(&[], None).await, Fake::http(&[], Some(&identity)).await);
    let proxy = Proxy::start(Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")).await;
    for url in [format!("otlp+grpc://{}", grpc.address), format!("otlp+https://localhost:{}", http.address.port())] {
        let mut to = destination(&url);
        to.tls.ca_file = to.url.tls.then(|| path("ca.pem"));
        to.proxy = Some(format!("http://{}", proxy.address));
        check_again(&sent(&to).await, AgainKind::Auth, &["proxy_auth"]);
        let password = Secret::File { file: path("password") };
        to.proxy_auth = Some(Basic { username: "Aladdin".into(), password });
        assert_eq!(sent(&to).await, taken(), "{url}");
    }
    assert_eq!((grpc.received().len(), http.received().len()), (1, 1));
    let first = proxy.requests.lock().unwrap()[0].clone();
    assert!(first.starts_with(&format!("CONNECT {} HTTP/1.1", grpc.address)), "{first}");
}

#[tokio::test]
async fn spans_without_ids_are_refused_by_formats_that_need_them() {
    let (grpc, http) = (Fake::grpc(&[], None).await, Fake::http(&[], None).await);
    for (scheme, address) in [
        ("jaeger+grpc", grpc.address),
        ("jaeger+http", http.address),
        ("zipkin+http", http.address),
        ("datadog+http", http.address),
    ] {
        let client = Client::new(&destination(&format!("{scheme}://{address}"))).unwrap();
        let Outcome::Delivered { rejected, message } = client.send(block(&["a", "b"]).0, "key").await else { panic!() };
        assert_eq!((rejected, message.as_str()), (2, "2 spans have no valid ids"));
        assert!(matches!(client.send(Bytes::from_static(b"\xff"), "key").await, Outcome::Never { .. }));
    }
    assert!(grpc.received().is_empty() && http.received().is_empty());
}
