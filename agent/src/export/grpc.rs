//! OTLP/gRPC: `TraceService/Export` with the request's bytes as they are.

use std::{error::Error, time::Duration};

use bytes::{BufMut, Bytes};
use http::uri::PathAndQuery;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tonic::{
    Request, Response, Status,
    client::Grpc,
    codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use tonic_types::StatusExt;

use super::{
    ExportError,
    answer::{Verdict, of_grpc},
    client::{IDEMPOTENCY_KEY, USER_AGENT},
    explain::{explain, short},
    retry::{AgainKind, Outcome},
    secrets, taken,
};
use crate::config::{Compression, Destination, Exhausted};

const EXPORT: PathAndQuery = PathAndQuery::from_static("/opentelemetry.proto.collector.trace.v1.TraceService/Export");
/// While a request is on its way, so that a connection that a firewall forgot is noticed and replaced.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

pub(super) struct GrpcClient {
    grpc: Grpc<Channel>,
    headers: MetadataMap,
    timeout: Duration,
    origin: String,
    exhausted: Exhausted,
}

impl GrpcClient {
    pub(super) fn new(destination: &Destination) -> Result<Self, ExportError> {
        let origin = destination.url.origin();
        let mut grpc = Grpc::new(endpoint(destination)?.connect_lazy());
        match destination.compression {
            Compression::None => {}
            Compression::Gzip => grpc = grpc.send_compressed(CompressionEncoding::Gzip),
            Compression::Zstd => grpc = grpc.send_compressed(CompressionEncoding::Zstd),
        }
        Ok(Self {
            grpc: grpc.accept_compressed(CompressionEncoding::Gzip).accept_compressed(CompressionEncoding::Zstd),
            headers: MetadataMap::from_headers(secrets::headers(destination)?),
            timeout: destination.timeout.0,
            origin,
            exhausted: destination.retry.resource_exhausted_without_retry_info,
        })
    }

    pub(super) async fn send(&self, body: Bytes, key: &str) -> Outcome {
        match tokio::time::timeout(self.timeout, self.export(body, key)).await {
            Ok(Ok(response)) => taken::of_response(response.into_inner()),
            Ok(Err(status)) => self.failed(&status),
            Err(_) => self.no_answer(),
        }
    }

    fn no_answer(&self) -> Outcome {
        Outcome::again(AgainKind::Timeout, format!("no answer from {} within {:?}", self.origin, self.timeout))
    }

    async fn export(&self, body: Bytes, key: &str) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut request = Request::new(body);
        *request.metadata_mut() = self.headers.clone();
        if let Ok(key) = key.parse() {
            request.metadata_mut().insert(IDEMPOTENCY_KEY, key);
        }
        request.set_timeout(self.timeout);
        // A clone is a handle to the same connection.
        let mut grpc = self.grpc.clone();
        grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
        grpc.unary(request, EXPORT, RequestBytes).await
    }

    /// A status with a source was made on this side because no answer came: it says nothing about the spans.
    fn failed(&self, status: &Status) -> Outcome {
        if let Some(source) = status.source() {
            let cause = explain(&self.origin, source);
            // tonic keeps the same time, and may be first.
            let late = cause.to_lowercase().contains("timeout expired");
            return if late { self.no_answer() } else { Outcome::again(AgainKind::Unavailable, cause) };
        }
        let cause = format!("{} answered {:?}: {}", self.origin, status.code(), short(status.message()));
        let after = status.get_details_retry_info().and_then(|info| info.retry_delay);
        match of_grpc(status.code(), status.message()) {
            Verdict::TooLarge => Outcome::TooLarge { cause },
            Verdict::Never => Outcome::Never { cause },
            Verdict::Again(AgainKind::RateLimited) if after.is_none() && self.exhausted == Exhausted::DeadLetter => {
                Outcome::Never { cause }
            }
            Verdict::Again(kind) => Outcome::Again { kind, after, cause: with_hint(cause, kind) },
        }
    }
}

fn with_hint(cause: String, kind: AgainKind) -> String {
    match kind {
        AgainKind::Auth => format!("{cause}; correct `auth` or `headers`, the spans wait in the log"),
        AgainKind::Misconfigured => format!("{cause}; no receiver of spans by gRPC is there: correct the URL"),
        _ => cause,
    }
}

fn endpoint(destination: &Destination) -> Result<Endpoint, ExportError> {
    let unusable = |cause: tonic::transport::Error| ExportError::Url {
        destination: destination.name.clone(),
        url: destination.url.to_string(),
        cause: cause.to_string(),
    };
    let endpoint = Endpoint::from_shared(destination.url.origin())
        .and_then(|endpoint| endpoint.user_agent(USER_AGENT))
        .map_err(unusable)?
        .connect_timeout(destination.timeout.0)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    if !destination.url.tls {
        return Ok(endpoint);
    }
    let tls = match secrets::ca_pem(destination)? {
        Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    endpoint.tls_config(tls).map_err(|cause| ExportError::Tls {
        destination: destination.name.clone(),
        cause: cause.source().map_or_else(|| cause.to_string(), ToString::to_string),
    })
}

/// Sends bytes that are a request already.
#[derive(Clone, Copy)]
struct RequestBytes;

impl Codec for RequestBytes {
    type Encode = Bytes;
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
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
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
