//! Start, unix sockets, senders that go away, and the end.

use std::os::unix::fs::PermissionsExt;

use http_body_util::Full;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UnixStream},
};
use tonic::transport::Endpoint;

use super::{over_grpc::client, over_http::post, *};
use crate::{config::Interval, receive::Bound};

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");

fn unix(path: &std::path::Path) -> Receive {
    Receive { otlp_unix: vec![path.to_owned()], ..Receive::default() }
}

async fn over_http(path: &std::path::Path) -> u16 {
    let stream = TokioIo::new(UnixStream::connect(path).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let body = Full::new(Bytes::from(request(&["http"]).encode_to_vec()));
    let request = http::Request::post("/v1/traces").header("host", "h").header(PROTOBUF.0, PROTOBUF.1).body(body);
    sender.send_request(request.unwrap()).await.unwrap().status().as_u16()
}

#[tokio::test]
async fn one_unix_socket_takes_every_protocol() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/otlp.sock");
    let script = Script::new(&[]);
    let receivers = Receivers::start(&unix(&path), script.clone()).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    assert_eq!(over_http(&path).await, 200);
    let endpoint = Endpoint::from_shared(format!("unix:{}", path.display())).unwrap();
    let mut client = TraceServiceClient::new(endpoint.connect().await.unwrap());
    client.export(request(&["grpc"])).await.unwrap();
    let names: Vec<_> = script.taken().into_iter().flat_map(|(_, names)| names).collect();
    assert_eq!(names, ["http", "grpc"]);
    drop(client);
    receivers.shutdown().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_dead_socket_is_replaced_and_a_live_one_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("otlp.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let first = Receivers::start(&unix(&path), Script::new(&[])).unwrap();
    let error = Receivers::start(&unix(&path), Script::new(&[])).err().unwrap().to_string();
    assert!(error.contains("receive.otlp_unix") && error.contains("in use"), "{error}");
    assert_eq!(over_http(&path).await, 200);
    drop(first);
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Bound::bind(&unix(&file)).err().unwrap().to_string();
    assert!(error.contains(&file.display().to_string()) && error.contains("not a socket"), "{error}");
}

#[tokio::test]
async fn a_busy_address_is_named_with_its_key() {
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap();
    let receive = Receive { otlp_http: vec![Address::Tcp(address)], ..Receive::default() };
    let error = Bound::bind(&receive).err().unwrap().to_string();
    assert!(error.contains("receive.otlp_http") && error.contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn senders_may_connect_before_anything_is_answered() {
    let receive = Receive { otlp_http: vec![Address::Tcp(([127, 0, 0, 1], 0).into())], ..Receive::default() };
    let bound = Bound::bind(&receive).unwrap();
    let Address::Tcp(address) = bound.addresses()[0] else { panic!() };
    let early = tokio::spawn(async move { post(address, &[PROTOBUF], request(&["a"]).encode_to_vec()).await.status });
    tokio::task::yield_now().await;
    let _receivers = bound.serve(Script::new(&[]));
    assert_eq!(early.await.unwrap(), 200);
}

/// The sender sends half a request, or a whole one whose answer it does not wait for.
#[tokio::test]
async fn what_the_intake_has_begun_is_settled_and_counted_even_if_the_sender_is_gone() {
    let running = Running::start(Script::closed(), Receive::default());
    let head = "POST /v1/traces HTTP/1.1\r\nhost: h\r\ncontent-type: application/x-protobuf\r\ncontent-length";
    let body = request(&["a"]).encode_to_vec();
    let mut half = TcpStream::connect(running.http).await.unwrap();
    half.write_all(format!("{head}: {}\r\n\r\n", body.len() + 1).as_bytes()).await.unwrap();
    half.write_all(&body).await.unwrap();
    let mut whole = TcpStream::connect(running.http).await.unwrap();
    whole.write_all(format!("{head}: {}\r\n\r\n", body.len()).as_bytes()).await.unwrap();
    whole.write_all(&body).await.unwrap();
    eventually("the whole one is worked on", || running.script.bytes().len() == 1).await;
    let mut client = client(running.grpc).await;
    let call = tokio::spawn(async move { client.export(request(&["b"])).await });
    eventually("the call is worked on", || running.script.bytes().len() == 2).await;
    call.abort();
    drop((half, whole));
    eventually("the half one is counted", || running.count(Protocol::OtlpHttpProtobuf, Outcome::Cancelled) == 1).await;
    eventually("all are gone", || running.receivers.stats().counts().connections == 0).await;
    running.script.gate.add_permits(2);
    eventually("the whole one is counted", || running.count(Protocol::OtlpHttpProtobuf, Outcome::Ok) == 1).await;
    eventually("the call is counted", || running.count(Protocol::OtlpGrpc, Outcome::Ok) == 1).await;
    assert_eq!(running.receivers.stats().counts().requests.iter().map(|count| count.requests).sum::<u64>(), 3);
}

#[derive(Clone)]
struct Broken;

impl Take for Broken {
    async fn accept(&self, _: Bytes, _: &str) -> Result<Accepted, Refusal> {
        panic!("the intake is broken, as the test wants");
    }
}

#[tokio::test]
async fn a_broken_intake_acknowledges_nothing() {
    let receive = Receive { otlp_http: vec![Address::Tcp(([127, 0, 0, 1], 0).into())], ..Receive::default() };
    let receivers = Receivers::start(&receive, Broken).unwrap();
    let Address::Tcp(address) = receivers.addresses()[0] else { panic!() };
    assert_eq!(post(address, &[PROTOBUF], request(&["a"]).encode_to_vec()).await.status, 503);
    assert_eq!(receivers.stats().counts().of(Outcome::Storage), 1);
}

#[tokio::test]
async fn the_end_waits_for_what_is_under_way() {
    let running = Running::start(Script::closed(), Receive::default());
    let (http, mut client) = (running.http, client(running.grpc).await);
    let over_http = tokio::spawn(async move { post(http, &[PROTOBUF], request(&["a"]).encode_to_vec()).await.status });
    let over_grpc = tokio::spawn(async move { client.export(request(&["b"])).await });
    eventually("both are worked on", || running.script.bytes().len() == 2).await;
    let ending = tokio::spawn(running.receivers.shutdown());
    // Nobody is let in any more.
    let give_up = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(http).await.is_ok() {
        assert!(Instant::now() < give_up, "still listening");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!ending.is_finished());
    running.script.gate.add_permits(2);
    assert_eq!(over_http.await.unwrap(), 200);
    over_grpc.await.unwrap().unwrap();
    ending.await.unwrap();
}

#[tokio::test]
async fn the_end_waits_no_longer_than_configured() {
    let running =
        Running::start(Script::closed(), Receive { shutdown_timeout: Interval::ms(50), ..Receive::default() });
    let http = running.http;
    let held = tokio::spawn(async move {
        let stream = TcpStream::connect(http).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let body = Full::new(Bytes::from(request(&["a"]).encode_to_vec()));
        let request = http::Request::post("/v1/traces").header("host", "h").header(PROTOBUF.0, PROTOBUF.1).body(body);
        sender.send_request(request.unwrap()).await.is_ok()
    });
    eventually("it is worked on", || running.script.bytes().len() == 1).await;
    running.receivers.shutdown().await;
    assert!(!held.await.unwrap(), "nothing was acknowledged");
}
