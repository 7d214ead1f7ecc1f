//! Destinations and a log that do as the tests say: in-process servers for OTLP/gRPC and OTLP/HTTP with scripted
//! answers, a source in memory, a CA.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io::Read,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tonic::{Code, Status, codec::CompressionEncoding, transport};
use tonic_types::{ErrorDetails, StatusExt};

use self::jaeger::PostSpans;
pub(super) use self::{
    net::{Proxy, raw},
    tls::Identity,
};
use super::{Batch, BatchSource, Limits, Queued, format::samples};
use crate::{
    config::{Destination, Interval},
    log::Fate,
};

mod jaeger;
mod net;
mod tls;

/// Waits until `holds`, and fails after a time that only a hang exceeds.
pub(super) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < give_up, "still not: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What a destination does with a request.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Take,
    Partial {
        rejected: i64,
        message: &'static str,
    },
    Grpc {
        code: Code,
        retry_after: Option<Duration>,
    },
    /// A gRPC status in a server's own words.
    Says {
        code: Code,
        message: &'static str,
    },
    Http {
        status: u16,
        retry_after: Option<&'static str>,
        body: &'static str,
    },
    /// A redirect of HTTP.
    Moved(&'static str),
    Hang,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub at: Instant,
    pub headers: HeaderMap,
    /// Decompressed.
    pub body: Bytes,
}

/// A running destination. Answers as scripted, and then takes everything.
pub(super) struct Fake {
    pub address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    script: Mutex<VecDeque<Answer>>,
    received: Mutex<Vec<Received>>,
    /// What is answered to a request with a span of this name.
    poison: Mutex<Option<(String, Answer)>>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    pub(super) fn received(&self) -> Vec<Received> {
        self.state.received.lock().unwrap().clone()
    }

    /// From now on a request with a span of this name is answered so.
    pub(super) fn poison(&self, name: &str, answer: Answer) {
        *self.state.poison.lock().unwrap() = Some((name.to_owned(), answer));
    }

    /// From now on everything is taken.
    pub(super) fn heal(&self) {
        *self.state.poison.lock().unwrap() = None;
    }

    pub(super) async fn grpc(script: &[Answer], tls: Option<&Identity>) -> Self {
        Self::grpc_on(([127, 0, 0, 1], 0).into(), script, tls).await
    }

    pub(super) async fn grpc_on(address: SocketAddr, script: &[Answer], tls: Option<&Identity>) -> Self {
        let (listener, address, state) = prepare(address, script).await;
        let service = TraceServiceServer::new(Service(Arc::clone(&state)))
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd)
            .send_compressed(CompressionEncoding::Gzip);
        let jaeger = PostSpans(Arc::clone(&state));
        let mut server = transport::Server::builder();
        if let Some(tls) = tls {
            let identity = transport::Identity::from_pem(&tls.certificate, &tls.key);
            let mut config = transport::ServerTlsConfig::new().identity(identity);
            if let Some(ca) = &tls.clients {
                config = config.client_ca_root(transport::Certificate::from_pem(ca));
            }
            server = server.tls_config(config).unwrap();
        }
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let task = tokio::spawn(async move {
            server.add_service(service).add_service(jaeger).serve_with_incoming(incoming).await.unwrap();
        });
        Self { address, state, task }
    }

    pub(super) async fn http(script: &[Answer], tls: Option<&Identity>) -> Self {
        let (listener, address, state) = prepare(([127, 0, 0, 1], 0).into(), script).await;
        let acceptor = tls.map(Identity::acceptor);
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, state) = (acceptor.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer_http(request, Arc::clone(&state)));
                    let server = http1::Builder::new();
                    match acceptor {
                        None => drop(server.serve_connection(TokioIo::new(stream), service).await),
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                drop(server.serve_connection(TokioIo::new(stream), service).await);
                            }
                        }
                    }
                });
            }
        });
        Self { address, state, task }
    }
}

async fn prepare(address: SocketAddr, script: &[Answer]) -> (TcpListener, SocketAddr, Arc<State>) {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let state = State { script: Mutex::new(script.iter().cloned().collect()), ..State::default() };
    (listener, address, Arc::new(state))
}

impl State {
    fn receive(&self, headers: HeaderMap, body: Bytes) -> Answer {
        self.received.lock().unwrap().push(Received { at: Instant::now(), headers, body: body.clone() });
        let poison = self.poison.lock().unwrap().clone();
        if let Some((_, answer)) = poison.filter(|(name, _)| names(&body).contains(name)) {
            return answer;
        }
        self.script.lock().unwrap().pop_front().unwrap_or(Answer::Take)
    }
}

struct Service(Arc<State>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, Status> {
        let (metadata, _, body) = request.into_parts();
        match self.0.receive(metadata.into_headers(), body.encode_to_vec().into()) {
            Answer::Grpc { code, retry_after } => {
                let mut details = ErrorDetails::new();
                if retry_after.is_some() {
                    details.set_retry_info(retry_after);
                }
                Err(Status::with_error_details(code, "as the test says", details))
            }
            Answer::Says { code, message } => Err(Status::new(code, message)),
            Answer::Http { .. } | Answer::Moved(_) => panic!("an HTTP answer for gRPC"),
            Answer::Hang => std::future::pending().await,
            taken => Ok(tonic::Response::new(response(&taken))),
        }
    }
}

fn response(answer: &Answer) -> ExportTraceServiceResponse {
    let partial_success = match answer {
        Answer::Partial { rejected, message } => {
            Some(ExportTracePartialSuccess { rejected_spans: *rejected, error_message: (*message).to_owned() })
        }
        _ => None,
    };
    ExportTraceServiceResponse { partial_success }
}

async fn answer_http(request: Request<Incoming>, state: Arc<State>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let mut body = body.collect().await.unwrap().to_bytes();
    match parts.headers.get("content-encoding").map(HeaderValue::as_bytes) {
        Some(b"gzip") => body = decompressed(flate2::read::GzDecoder::new(&body[..])),
        Some(b"zstd") => body = decompressed(zstd::Decoder::new(&body[..]).unwrap()),
        _ => {}
    }
    let mut headers = parts.headers;
    headers.insert("x-path", parts.uri.path().parse().unwrap());
    Ok(match state.receive(headers, body) {
        Answer::Grpc { .. } | Answer::Says { .. } => panic!("a gRPC answer for HTTP"),
        Answer::Hang => std::future::pending().await,
        Answer::Moved(to) => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
            response.headers_mut().insert("location", HeaderValue::from_static(to));
            response
        }
        Answer::Http { status, retry_after, body } => {
            let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            if body.starts_with('<') {
                response.headers_mut().insert("content-type", HeaderValue::from_static("text/html"));
            }
            if let Some(value) = retry_after {
                response.headers_mut().insert("retry-after", value.parse().unwrap());
            }
            response
        }
        taken => Response::new(Full::new(response(&taken).encode_to_vec().into())),
    })
}

fn decompressed(mut from: impl Read) -> Bytes {
    let mut plain = Vec::new();
    from.read_to_end(&mut plain).unwrap();
    plain.into()
}

/// A destination that waits long for answers.
pub(super) fn destination(url: &str) -> Destination {
    let mut destination = Destination::to(url.parse().unwrap());
    destination.name = "backend".into();
    destination.timeout = Interval::secs(30);
    destination
}

/// A request with everything that a span may have.
pub(super) fn body() -> Bytes {
    samples::full().encode_to_vec().into()
}

/// One block: a request with spans of these names.
pub(super) fn block(names: &[&str]) -> (Bytes, u64) {
    let spans = names.iter().map(|name| Span { name: (*name).to_owned(), ..Span::default() }).collect();
    let scope = ScopeSpans { spans, ..ScopeSpans::default() };
    let resource = ResourceSpans { scope_spans: vec![scope], ..ResourceSpans::default() };
    let request = ExportTraceServiceRequest { resource_spans: vec![resource] };
    (request.encode_to_vec().into(), names.len() as u64)
}

/// Names of the spans of a request.
pub(super) fn names(body: &Bytes) -> Vec<String> {
    let request = ExportTraceServiceRequest::decode(body.clone()).unwrap();
    let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    scopes.flat_map(|scope| scope.spans).map(|span| span.name).collect()
}

/// A log in memory.
#[derive(Clone)]
pub(super) struct Memory {
    inner: Arc<Mutex<Inner>>,
    appended: Arc<watch::Sender<u64>>,
    seen: watch::Receiver<u64>,
}

#[derive(Default)]
struct Inner {
    /// What was not given yet.
    blocks: VecDeque<(Bytes, u64)>,
    /// Ids and spans of the batches that are not settled.
    given: Vec<(u64, u64)>,
    next_id: u64,
    settled: Settled,
}

/// What the exporter said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    pub delivered: u64,
    pub dead: u64,
    pub filtered: u64,
    pub revived: u64,
    pub batches: Vec<u64>,
}

impl Memory {
    pub(super) fn new(blocks: &[(Bytes, u64)]) -> Self {
        let (appended, seen) = watch::channel(0);
        let memory = Self { inner: Arc::default(), appended: Arc::new(appended), seen };
        memory.append(blocks);
        memory
    }

    pub(super) fn append(&self, blocks: &[(Bytes, u64)]) {
        self.inner.lock().unwrap().blocks.extend(blocks.iter().cloned());
        self.appended.send_modify(|count| *count += 1);
    }

    pub(super) fn settled(&self) -> Settled {
        self.inner.lock().unwrap().settled.clone()
    }

    /// Spans that are not settled.
    pub(super) fn left(&self) -> u64 {
        let inner = self.inner.lock().unwrap();
        inner.blocks.iter().map(|block| block.1).sum::<u64>() + inner.given.iter().map(|batch| batch.1).sum::<u64>()
    }
}

impl BatchSource for Memory {
    type Error = Infallible;

    fn queued(&self) -> Queued {
        let spans = self.left();
        let inner = self.inner.lock().unwrap();
        let unread = inner.blocks.iter().map(|block| block.1).sum();
        Queued {
            spans,
            unread,
            backlog: unread,
            unread_bytes: inner.blocks.iter().map(|block| block.0.len() as u64).sum(),
            generated: spans + inner.settled.batches.iter().sum::<u64>(),
        }
    }

    async fn appended(&mut self) {
        self.seen.changed().await.unwrap();
    }

    async fn next(&mut self, limits: Limits) -> Result<Option<Batch>, Infallible> {
        let mut inner = self.inner.lock().unwrap();
        let (mut body, mut spans) = (Vec::new(), 0);
        while let Some((bytes, count)) = inner.blocks.front().cloned() {
            let fits = spans + count <= limits.spans && (body.len() + bytes.len()) as u64 <= limits.bytes;
            if spans > 0 && !fits {
                break;
            }
            body.extend_from_slice(&bytes);
            spans += count;
            inner.blocks.pop_front();
        }
        if spans == 0 {
            return Ok(None);
        }
        let id = inner.next_id;
        inner.next_id += 1;
        inner.given.push((id, spans));
        Ok(Some(Batch {
            id,
            key: format!("memory-{id}"),
            body: body.into(),
            spans,
            left_out: 0,
            unreadable: Vec::new(),
            may_be_duplicate: false,
        }))
    }

    async fn settle(&mut self, id: u64, fate: Fate) -> Result<(), Infallible> {
        let mut inner = self.inner.lock().unwrap();
        let place = inner.given.iter().position(|batch| batch.0 == id).expect("it was given and not settled");
        let (_, spans) = inner.given.remove(place);
        inner.settled.batches.push(spans);
        inner.settled.delivered += spans - fate.dead - fate.filtered;
        inner.settled.dead += fate.dead;
        inner.settled.filtered += fate.filtered;
        Ok(())
    }

    async fn revive(&mut self, spans: u64) -> Result<(), Infallible> {
        self.inner.lock().unwrap().settled.revived += spans;
        Ok(())
    }
}
