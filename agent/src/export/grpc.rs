//! gRPC: OTLP's `TraceService/Export` and `MetricsService/Export` with the request's bytes as they are, or Jaeger's
//! `CollectorService/PostSpans`.

use std::{error::Error, time::Duration};

use bytes::BufMut;
use http::{HeaderMap, HeaderValue, Uri, header, uri::PathAndQuery};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tonic::{
    Request, Response, Status,
    client::Grpc,
    codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;
use tower::Service;

use super::{
    ExportError, Pieces,
    answer::{Verdict, of_grpc},
    auth::Auth,
    client::{IDEMPOTENCY_KEY, Signal, USER_AGENT},
    compress::Compressor,
    connect::{Connector, Renewed, Target},
    explain::{no_answer, short, too_late, was_connected},
    format::Format,
    parts::Parts,
    retry::{AgainKind, Outcome},
    secrets, taken,
};
use crate::config::{Compression, Destination, Exhausted, Protocol};

const EXPORT: PathAndQuery = PathAndQuery::from_static("/opentelemetry.proto.collector.trace.v1.TraceService/Export");
const EXPORT_METRICS: PathAndQuery =
    PathAndQuery::from_static("/opentelemetry.proto.collector.metrics.v1.MetricsService/Export");
const POST_SPANS: PathAndQuery = PathAndQuery::from_static("/jaeger.api_v2.CollectorService/PostSpans");
/// While a request is on its way, so that a connection that a firewall forgot is noticed and replaced.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

pub(super) struct GrpcClient {
    grpc: Renewed<Grpc<Channel>>,
    auth: Auth,
    signal: Signal,
    format: Format,
    path: PathAndQuery,
    headers: HeaderMap,
    timeout: Duration,
    origin: String,
    exhausted: Exhausted,
}

impl GrpcClient {
    pub(super) fn new(destination: &Destination, signal: Signal) -> Result<Self, ExportError> {
        let endpoint = endpoint(destination)?;
        let (uri, compression) = (origin(destination)?, destination.compression);
        let grpc = Renewed::new(Target::new(destination, "h2"), move |connector| {
            grpc(endpoint.connect_with_connector_lazy(to(uri.clone(), connector)), compression)
        })?;
        let (format, path) = match (destination.url.protocol, signal) {
            (Protocol::Jaeger, _) => (Format::JaegerProto, POST_SPANS),
            (_, Signal::Spans) => (Format::Otlp, EXPORT),
            (_, Signal::Metrics) => (Format::Otlp, EXPORT_METRICS),
        };
        Ok(Self {
            grpc,
            auth: Auth::new(destination)?,
            signal,
            format,
            path,
            headers: secrets::headers(destination)?,
            timeout: destination.timeout.0,
            origin: destination.url.origin(),
            exhausted: destination.retry.resource_exhausted_without_retry_info,
        })
    }

    /// Bytes sent on all connections.
    pub(super) fn sent(&self) -> u64 {
        self.grpc.sent()
    }

    pub(super) async fn send(&self, body: Pieces, key: &str) -> Outcome {
        tokio::time::timeout(self.timeout, self.send_all(body, key)).await.unwrap_or_else(|_| self.late())
    }

    fn late(&self) -> Outcome {
        too_late(&self.origin, self.timeout)
    }

    async fn send_all(&self, request: Pieces, key: &str) -> Outcome {
        // tonic compresses.
        let mut parts = match self.format.prepare(&request, Compressor::new(Compression::None, None)).await {
            Ok(posts) => Parts::new(posts),
            Err(cause) => return Outcome::Never { cause },
        };
        while let Some(post) = parts.next() {
            let outcome = self.auth.attempt(|authorization| self.export(post.body.clone(), key, authorization)).await;
            if let Some(outcome) = parts.settle(outcome) {
                return outcome;
            }
        }
        parts.outcome()
    }

    async fn export(&self, body: Pieces, key: &str, authorization: Option<HeaderValue>) -> Outcome {
        match self.call(body, key, authorization).await {
            Ok(response) => taken::of_response(response.into_inner()),
            Err(status) => self.failed(&status),
        }
    }

    async fn call(
        &self,
        body: Pieces,
        key: &str,
        authorization: Option<HeaderValue>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut headers = self.headers.clone();
        if let Some(value) = authorization {
            headers.insert(header::AUTHORIZATION, value);
        }
        // Several requests of another format have parts of the same spans: a key would call them repetitions.
        if let (Format::Otlp, Ok(key)) = (self.format, HeaderValue::from_str(key)) {
            headers.insert(IDEMPOTENCY_KEY, key);
        }
        let mut request = Request::new(body);
        *request.metadata_mut() = MetadataMap::from_headers(headers);
        request.set_timeout(self.timeout);
        let mut grpc = self.grpc.get();
        grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
        grpc.unary(request, self.path.clone(), RequestBytes).await
    }

    /// A status with a source was made on this side because no answer came: it says nothing about the spans.
    fn failed(&self, status: &Status) -> Outcome {
        if let Some(source) = status.source() {
            let outcome = no_answer(&self.origin, source, was_connected(source));
            // tonic keeps the same time, and may be first.
            let late = matches!(&outcome, Outcome::Again { cause, .. } if cause.contains("Timeout expired"));
            return if late { self.late() } else { outcome };
        }
        let cause = format!("{} answered {:?}: {}", self.origin, status.code(), short(status.message()));
        let after = status.get_details_retry_info().and_then(|info| info.retry_delay);
        match of_grpc(status.code(), status.message()) {
            Verdict::TooLarge => Outcome::TooLarge { cause },
            Verdict::Never => Outcome::Never { cause },
            Verdict::Again(AgainKind::RateLimited) if after.is_none() && self.exhausted == Exhausted::DeadLetter => {
                Outcome::Never { cause }
            }
            Verdict::Again(kind) => Outcome::Again { kind, after, cause: with_hint(cause, kind, self.signal) },
        }
    }
}

fn with_hint(cause: String, kind: AgainKind, signal: Signal) -> String {
    let what = if signal == Signal::Spans { "spans" } else { "metrics" };
    match kind {
        AgainKind::Auth => format!("{cause}; {}", signal.hint_of_auth()),
        AgainKind::Misconfigured => format!("{cause}; no receiver of {what} by gRPC is there: correct the URL"),
        _ => cause,
    }
}

fn grpc(channel: Channel, compression: Compression) -> Grpc<Channel> {
    let grpc = Grpc::new(channel);
    let grpc = match compression {
        Compression::None => grpc,
        Compression::Gzip => grpc.send_compressed(CompressionEncoding::Gzip),
        Compression::Zstd => grpc.send_compressed(CompressionEncoding::Zstd),
    };
    grpc.accept_compressed(CompressionEncoding::Gzip).accept_compressed(CompressionEncoding::Zstd)
}

/// Connects to one place, whatever it is asked for. TLS is the connector's, which tonic does not know: to it the
/// connection is a plain one.
fn to(
    uri: Uri,
    connector: Connector,
) -> impl Service<Uri, Response = <Connector as Service<Uri>>::Response, Error = BoxError, Future: Send> {
    tower::service_fn(move |_: Uri| connector.clone().call(uri.clone()))
}

type BoxError = Box<dyn Error + Send + Sync>;

fn origin(destination: &Destination) -> Result<Uri, ExportError> {
    destination.url.origin().parse().map_err(|cause: http::uri::InvalidUri| unusable(destination, cause.to_string()))
}

fn unusable(destination: &Destination, cause: String) -> ExportError {
    ExportError::Url { destination: destination.name.clone(), url: destination.url.without_query(), cause }
}

fn endpoint(destination: &Destination) -> Result<Endpoint, ExportError> {
    let plain = format!("http://{}:{}", destination.url.host, destination.url.port);
    let endpoint = Endpoint::from_shared(plain)
        .and_then(|endpoint| endpoint.user_agent(USER_AGENT))
        .map_err(|cause| unusable(destination, cause.to_string()))?;
    Ok(endpoint
        .origin(origin(destination)?)
        .connect_timeout(destination.timeout.0)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE))
}

/// Sends bytes that are a request already.
#[derive(Clone, Copy)]
struct RequestBytes;

impl Codec for RequestBytes {
    type Encode = Pieces;
    type Decode = ExportTraceServiceResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RequestBytes {
    type Item = Pieces;
    type Error = Status;

    fn encode(&mut self, item: Pieces, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for RequestBytes {
    type Item = ExportTraceServiceResponse;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        // The spans were taken; an answer that cannot be read changes nothing about that.
        Ok(Some(ExportTraceServiceResponse::decode(from).unwrap_or_default()))
    }
}
