//! One destination's client, whatever its format and protocol.

use super::{
    ExportError, Pieces, file::FileClient, grpc::GrpcClient, http::HttpClient, kafka::KafkaClient, nats::NatsClient,
    retry::Outcome, s3::S3Client,
};
use crate::config::{Destination, Transport};

/// How requests say who sends them.
pub(super) const USER_AGENT: &str = concat!("spantap/", env!("CARGO_PKG_VERSION"));

/// The header (gRPC metadata) that a destination can recognise a repeated request by
/// (draft-ietf-httpapi-idempotency-key-header).
pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Spans,
    /// The agent's own; only by OTLP.
    Metrics,
}

impl Signal {
    /// What is to be done where the credentials are refused.
    pub(super) fn hint_of_auth(self) -> &'static str {
        match self {
            Self::Spans => "correct `auth` or `headers`, the spans wait in the log",
            Self::Metrics => "correct `auth` or `headers`",
        }
    }
}

pub(super) enum Client {
    Grpc(Box<GrpcClient>),
    Http(Box<HttpClient>),
    File(FileClient),
    Kafka(Box<KafkaClient>),
    Nats(Box<NatsClient>),
    S3(Box<S3Client>),
}

impl Client {
    /// Of spans.
    pub(super) fn new(destination: &Destination) -> Result<Self, ExportError> {
        Self::of(destination, Signal::Spans)
    }

    pub(super) fn of(destination: &Destination, signal: Signal) -> Result<Self, ExportError> {
        Ok(match destination.url.transport {
            Transport::Grpc => Self::Grpc(Box::new(GrpcClient::new(destination, signal)?)),
            Transport::Http => Self::Http(Box::new(HttpClient::new(destination, signal)?)),
            Transport::File => Self::File(FileClient::new(destination)),
            Transport::Kafka => Self::Kafka(Box::new(KafkaClient::new(destination)?)),
            Transport::Nats => Self::Nats(Box::new(NatsClient::new(destination)?)),
            Transport::S3 => Self::S3(Box::new(S3Client::new(destination)?)),
        })
    }

    /// Bytes sent since it was made: on connections with all that protocols and TLS add, after compression; to a file as they are written.
    pub(super) fn sent(&self) -> u64 {
        match self {
            Self::Grpc(client) => client.sent(),
            Self::Http(client) => client.sent(),
            Self::File(client) => client.sent(),
            Self::Kafka(client) => client.sent(),
            Self::Nats(client) => client.sent(),
            Self::S3(client) => client.sent(),
        }
    }

    /// Sends one request; `key` is the same for the same spans. Takes at most the destination's timeout, except for a file, whose disk has none.
    pub(super) async fn send(&self, body: impl Into<Pieces>, key: &str) -> Outcome {
        let body = body.into();
        match self {
            Self::Grpc(client) => client.send(body, key).await,
            Self::Http(client) => client.send(body, key).await,
            Self::File(client) => client.send(body.joined()).await,
            Self::Kafka(client) => client.send(body.joined(), key).await,
            Self::Nats(client) => client.send(body.joined(), key).await,
            Self::S3(client) => client.send(body.joined(), key).await,
        }
    }
}
