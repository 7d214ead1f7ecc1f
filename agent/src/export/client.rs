//! One destination's client, whatever its format and protocol.

use bytes::Bytes;

use super::{
    ExportError, file::FileClient, grpc::GrpcClient, http::HttpClient, kafka::KafkaClient, nats::NatsClient,
    retry::Outcome, s3::S3Client,
};
use crate::config::{Destination, Transport};

/// How requests say who sends them.
pub(super) const USER_AGENT: &str = concat!("spantap/", env!("CARGO_PKG_VERSION"));

/// The header (gRPC metadata) that a destination can recognise a repeated request by
/// (draft-ietf-httpapi-idempotency-key-header).
pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";

pub(super) enum Client {
    Grpc(Box<GrpcClient>),
    Http(Box<HttpClient>),
    File(FileClient),
    Kafka(Box<KafkaClient>),
    Nats(Box<NatsClient>),
    S3(Box<S3Client>),
}

impl Client {
    pub(super) fn new(destination: &Destination) -> Result<Self, ExportError> {
        Ok(match destination.url.transport {
            Transport::Grpc => Self::Grpc(Box::new(GrpcClient::new(destination)?)),
            Transport::Http => Self::Http(Box::new(HttpClient::new(destination)?)),
            Transport::File => Self::File(FileClient::new(destination)),
            Transport::Kafka => Self::Kafka(Box::new(KafkaClient::new(destination)?)),
            Transport::Nats => Self::Nats(Box::new(NatsClient::new(destination)?)),
            Transport::S3 => Self::S3(Box::new(S3Client::new(destination)?)),
        })
    }

    /// Sends one request; `key` is the same for the same spans. Takes at most the destination's timeout, except for a file, whose disk has none.
    pub(super) async fn send(&self, body: Bytes, key: &str) -> Outcome {
        match self {
            Self::Grpc(client) => client.send(body, key).await,
            Self::Http(client) => client.send(body, key).await,
            Self::File(client) => client.send(body).await,
            Self::Kafka(client) => client.send(body, key).await,
            Self::Nats(client) => client.send(body, key).await,
            Self::S3(client) => client.send(body, key).await,
        }
    }
}
