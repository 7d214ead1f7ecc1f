//! One destination's client, whatever its format and protocol.

use bytes::Bytes;

use super::{ExportError, file::FileClient, grpc::GrpcClient, http::HttpClient, retry::Outcome};
use crate::config::{Destination, Protocol, Transport};

/// How requests say who sends them.
pub(super) const USER_AGENT: &str = concat!("spantap/", env!("CARGO_PKG_VERSION"));

/// The header (gRPC metadata) that a destination can recognise a repeated request by
/// (draft-ietf-httpapi-idempotency-key-header).
pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";

pub(super) enum Client {
    Grpc(GrpcClient),
    Http(HttpClient),
    File(FileClient),
}

impl Client {
    pub(super) fn new(destination: &Destination) -> Result<Self, ExportError> {
        supported(destination)?;
        Ok(match destination.url.transport {
            Transport::Grpc => Self::Grpc(GrpcClient::new(destination)?),
            Transport::Http => Self::Http(HttpClient::new(destination)?),
            Transport::File => Self::File(FileClient::new(destination)),
        })
    }

    /// Sends one request; `key` is the same for the same spans. Takes at most the destination's timeout, except for a file, whose disk has none.
    pub(super) async fn send(&self, body: Bytes, key: &str) -> Outcome {
        match self {
            Self::Grpc(client) => client.send(body, key).await,
            Self::Http(client) => client.send(body, key).await,
            Self::File(client) => client.send(body).await,
        }
    }
}

/// Refuses what is configured and cannot be done yet.
fn supported(destination: &Destination) -> Result<(), ExportError> {
    let formats = matches!(destination.url.protocol, Protocol::Otlp | Protocol::Zipkin);
    let settings = destination.auth.is_none() && destination.proxy.is_none() && destination.tls.cert_file.is_none();
    if formats && settings {
        return Ok(());
    }
    Err(ExportError::Url {
        destination: destination.name.clone(),
        url: destination.url.to_string(),
        cause: "the format, or auth, proxy or tls.cert_file, is not supported yet".into(),
    })
}
