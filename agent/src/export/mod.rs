//! Sends the span log to its destinations: one task, one place in the log and one retry state for each.
//!
//! In: batches of OTLP bytes from a [`BatchSource`], which the span log provides. Out: the same bytes, unmodified, over
//! OTLP/gRPC or OTLP/HTTP, and what became of them. Called by the wiring of `spantap run`. Never decodes or re-encodes
//! spans, never holds more than the configured number of batches per destination, never lets one destination wait for another.
//!
//! Delivery is at least once: a request whose answer was not seen is sent again, with the same key. What a destination refuses for
//! good becomes a dead letter (`log::DeadLetters`), the spans that it took beside it are delivered; of a request that it took in
//! part without saying which spans it refused, all are kept as suspects.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use crate::{
    config,
    log::{DeadLetters, Fate},
};

mod adapt;
mod answer;
mod client;
mod compress;
mod delivery;
mod explain;
mod file;
mod format;
mod gate;
mod grpc;
mod http;
mod pace;
mod retry;
mod secrets;
mod source;
mod stats;
mod taken;
mod worker;

#[cfg(test)]
mod fakes;
#[cfg(test)]
mod tests;

pub use self::{
    source::LogSource,
    stats::{Counts, DestinationStats, LATENCY_BOUNDS},
};

/// Some spans, as one OTLP `ExportTraceServiceRequest` in protobuf, without its compression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// What the source recognises it by.
    pub id: u64,
    /// What the destination may recognise it by: the same when it is sent again, also after a restart.
    pub key: String,
    /// The request. Concatenated requests are a valid request.
    pub body: Bytes,
    /// Number of spans in it.
    pub spans: u64,
    /// Whether it was given before the agent ended, so that the destination may have it already.
    pub may_be_duplicate: bool,
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
    /// Spans that are not settled.
    pub spans: u64,
    /// Those of them that were not given yet.
    pub unread: u64,
    /// Bytes of these; may be an estimate, it only tells when a request is full enough.
    pub unread_bytes: u64,
    /// Spans that ever came.
    pub generated: u64,
}

/// One destination's place in the span log.
///
/// The exporter asks for batches, several before it settles the first, and settles them in any order. If it never settles one, as
/// when the agent is killed, the source gives the same spans again after the next start.
pub trait BatchSource: Send + 'static {
    /// Why the log cannot be read or a place cannot be stored. The exporter tells it.
    type Error: std::fmt::Display + Send + Sync;

    /// What waits now.
    fn queued(&self) -> Queued;

    /// Completes when something was appended after the last call of [`Self::queued`]; may complete without that.
    /// Dropping the future loses nothing.
    fn appended(&mut self) -> impl Future<Output = ()> + Send;

    /// The next spans that were not given, up to the limits, or `None` if there are none.
    fn next(&mut self, limits: Limits) -> impl Future<Output = Result<Option<Batch>, Self::Error>> + Send;

    /// What became of a batch's spans: all that the fate does not name were delivered. After an error the place is remembered, and
    /// stored with the next one.
    fn settle(&mut self, id: u64, fate: Fate) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Spans that were settled as dead were delivered after all. Errors as in [`Self::settle`].
    fn revive(&mut self, spans: u64) -> impl Future<Output = Result<(), Self::Error>> + Send;
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
    /// Its filter or sampling cannot be used.
    #[error("destination {destination}: {cause}")]
    Shape {
        /// Name of the destination.
        destination: String,
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
    /// Starts a task for each destination. `open` gives a destination's place in the log, `letters` keep what it refuses. Nothing is
    /// connected yet: a destination that is down now is no error.
    pub fn start<S: BatchSource, E: std::fmt::Display>(
        export: &config::Export,
        letters: &DeadLetters,
        mut open: impl FnMut(&config::Destination) -> Result<S, E>,
    ) -> Result<Self, ExportError> {
        let (stop, stopped) = watch::channel(None);
        let mut ready = Vec::new();
        for destination in &export.destinations {
            let client = client::Client::new(destination)?;
            let source = open(destination).map_err(|cause| ExportError::Source {
                destination: destination.name.clone(),
                cause: cause.to_string(),
            })?;
            let stats = Arc::new(DestinationStats::new(&destination.name, &destination.url.to_string()));
            let line = delivery::Line::new(destination, client, stats, letters.clone())?;
            ready.push(worker::Worker::new(destination, line, source, stopped.clone()));
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
