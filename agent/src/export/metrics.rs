//! Sends the agent's own metrics, by the clients of OTLP that spans have.

use bytes::Bytes;

use super::{
    ExportError,
    client::{Client, Signal},
    retry::Outcome,
};
use crate::{config::Push, run::unix_ns};

/// A client of a receiver of metrics.
pub struct MetricsClient {
    client: Client,
    name: String,
}

impl MetricsClient {
    /// Connects with the first request.
    ///
    /// # Errors
    /// The receiver cannot be served at all.
    pub fn new(push: &Push) -> Result<Self, ExportError> {
        let destination = push.destination();
        Ok(Self { client: Client::of(&destination, Signal::Metrics)?, name: destination.name })
    }

    /// The receiver, as it is shown to people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends an `ExportMetricsServiceRequest`, once.
    ///
    /// # Errors
    /// It was not taken, or not all of it; in words for people.
    pub async fn send(&self, request: Bytes) -> Result<(), String> {
        match self.client.send(request, &format!("metrics-{}", unix_ns())).await {
            Outcome::Delivered { rejected: 0, .. } => Ok(()),
            Outcome::Delivered { rejected, message: cause } | Outcome::Partly { spans: rejected, cause, .. } => {
                Err(format!("{rejected} values were refused: {cause}"))
            }
            Outcome::Never { cause } | Outcome::TooLarge { cause } | Outcome::Again { cause, .. } => Err(cause),
        }
    }
}
