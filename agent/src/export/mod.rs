//! Sends the span log to its destinations: one task, one place in the log and one retry state for each.
//!
//! In: batches of OTLP bytes from a [`BatchSource`], which the span log provides. Out: the same bytes, unmodified, over
//! OTLP/gRPC or OTLP/HTTP, or what another format makes of them, and what became of them. Called by the wiring of `spantap run`.
//! Never decodes spans for OTLP, never holds more than one batch per destination, never lets one destination wait for another.
//!
//! Delivery is at least once: a request whose answer was not seen is sent again. What a destination refuses for good
//! is a dead letter, is counted and stays in the log as long as any other span; spans that it refuses within a request
//! that it took (partial success) count likewise, and are not sent again.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use crate::config;

mod answer;
mod auth;
mod client;
mod compress;
mod connect;
mod explain;
mod file;
mod format;
mod grpc;
mod http;
mod parts;
mod retry;
mod secrets;
mod source;
mod stats;
mod taken;
mod worker;

#[cfg(test)]
mod credentials;
#[cfg(test)]
mod fakes;
#[cfg(test)]
mod outcomes;
#[cfg(test)]
mod tests;

pub use self::{
    source::{LogSource, figures},
    stats::{Counts, DestinationStats},
};

/// Some spans, as one OTLP `ExportTraceServiceRequest` in protobuf, without its compression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// What the source recognises it by.
    pub id: u64,
    /// The request. Concatenated requests are a valid request.
    pub body: Bytes,
    /// Number of spans in it.
    pub spans: u64,
}

/// Bounds of a batch. The first block is always in it, however large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Spans.
    pub spans: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queued {
    /// Spans.
    pub spans: u64,
    /// Bytes; may be an estimate, it only tells when a request is full enough.
    pub bytes: u64,
}

/// One destination's place in the span log.
///
/// The exporter asks for a batch, and then says what became of it before it asks for the next. If it never says so, as
/// when the agent is killed, the source gives the same spans again after the next start.
pub trait BatchSource: Send + 'static {
    /// Why the log cannot be read or a place cannot be stored. The exporter tells it.
    type Error: std::fmt::Display + Send + Sync;

    /// What waits now, a batch that was given and not settled included.
    fn queued(&self) -> Queued;

    /// Completes when something was appended after the last call of [`Self::queued`]; may complete without that.
    /// Dropping the future loses nothing.
    fn appended(&mut self) -> impl Future<Output = ()> + Send;

    /// The next spans, up to the limits, or `None` if none wait.
    fn next(&mut self, limits: Limits) -> impl Future<Output = Result<Option<Batch>, Self::Error>> + Send;

    /// The destination has taken all but `rejected` of the spans, these for a `reason`; go on behind them. After an
    /// error the place is remembered, and stored with the next one.
    fn ack(
        &mut self,
        batch: &Batch,
        rejected: u64,
        reason: &str,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// The destination has refused the spans for good; mark them as a dead letter and go on behind them. Errors as in
    /// [`Self::ack`].
    fn dead(&mut self, batch: &Batch, reason: &str) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// Why a destination cannot be served at all.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A file named in the configuration cannot be read.
    #[error("destination {destination}: cannot read {key} {}: {cause}", path.display())]
    File {
        /// Name of the destination.
        destination: String,
        /// Key in the configuration.
        key: String,
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// A header cannot be made.
    #[error("destination {destination}: header {header}: {cause}")]
    Header {
        /// Name of the destination.
        destination: String,
        /// Name of the header.
        header: String,
        /// What is wrong.
        cause: String,
    },
    /// The certificates cannot be used.
    #[error("destination {destination}: TLS cannot be set up: {cause}")]
    Tls {
        /// Name of the destination.
        destination: String,
        /// What is wrong.
        cause: String,
    },
    /// The URL cannot be used.
    #[error("destination {destination}: {url} cannot be used: {cause}")]
    Url {
        /// Name of the destination.
        destination: String,
        /// The URL.
        url: String,
        /// What is wrong.
        cause: String,
    },
    /// The span log has no place for the destination.
    #[error("destination {destination}: cannot open its place in the span log: {cause}")]
    Source {
        /// Name of the destination.
        destination: String,
        /// What is wrong.
        cause: String,
    },
}

/// The running destinations.
pub struct Exporter {
    tasks: Vec<JoinHandle<()>>,
    stop: watch::Sender<Option<Instant>>,
    shutdown_timeout: Duration,
    stats: Vec<Arc<DestinationStats>>,
}

impl Exporter {
    /// Starts a task for each destination. `open` gives the place in the log by the destination's name. Nothing is
    /// connected yet: a destination that is down now is no error.
    pub fn start<S: BatchSource, E: std::fmt::Display>(
        export: &config::Export,
        mut open: impl FnMut(&str) -> Result<S, E>,
    ) -> Result<Self, ExportError> {
        let (stop, stopped) = watch::channel(None);
        let mut ready = Vec::new();
        for destination in &export.destinations {
            let client = client::Client::new(destination)?;
            let source = open(&destination.name).map_err(|cause| ExportError::Source {
                destination: destination.name.clone(),
                cause: cause.to_string(),
            })?;
            let stats = Arc::new(DestinationStats::new(&destination.name, &destination.url.to_string()));
            ready.push(worker::Worker::new(destination, client, source, stats, stopped.clone()));
        }
        let stats = ready.iter().map(|worker| Arc::clone(worker.stats())).collect();
        let tasks = ready.into_iter().map(|worker| tokio::spawn(worker.run())).collect();
        Ok(Self { tasks, stop, shutdown_timeout: export.shutdown_timeout.0, stats })
    }

    /// What became of the spans, in the order of the configuration.
    pub fn destinations(&self) -> &[Arc<DestinationStats>] {
        &self.stats
    }

    /// Sends what waits, for as long as the configuration allows, and stops. What is left waits in the log.
    pub async fn shutdown(self) {
        let deadline = Instant::now() + self.shutdown_timeout;
        // No receiver means no destination.
        let _ = self.stop.send(Some(deadline));
        for mut task in self.tasks {
            // A little longer, so that a task that ends at the deadline can settle its last batch.
            if timeout_at(deadline + Duration::from_millis(500), &mut task).await.is_err() {
                task.abort();
            }
        }
    }
}
