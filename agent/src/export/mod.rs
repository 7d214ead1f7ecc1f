//! Sends the span log to its destinations: one task, one place in the log and one retry state for each.
//!
//! In: batches of OTLP bytes from a [`BatchSource`], which the span log provides. Out: the same bytes, unmodified, over
//! OTLP/gRPC or OTLP/HTTP, to Kafka, NATS or a bucket, or what another format makes of them, and what became of them. Called by the wiring of `spantap run`.
//! Never decodes spans for OTLP, never holds more than the configured batches per destination, never lets one destination wait for another.
//!
//! Delivery is at least once: a request whose answer was not seen is sent again, with the same key. What a destination refuses for
//! good becomes a dead letter (`log::DeadLetters`), the spans that it took beside it are delivered; of a request that it took in
//! part without saying which spans it refused, all are kept as suspects.

use std::{
    future::ready,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use agent_core::{
    cause::words::{counted, verb},
    relay::Choice,
};
use bytes::Bytes;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use crate::{
    capture::lock,
    config,
    log::{DeadLetters, Fate},
};

mod adapt;
mod answer;
mod auth;
mod client;
mod compress;
mod connect;
mod counted;
mod delivery;
mod explain;
mod file;
mod format;
mod gate;
mod grpc;
mod http;
mod kafka;
pub mod late;
mod metrics;
mod nats;
mod pace;
mod parts;
mod pieces;
pub mod probe;
mod retry;
mod s3;
mod secrets;
mod source;
mod stats;
pub mod symptom;
mod tail;
mod taken;
mod worker;
pub(crate) mod writable;

#[cfg(test)]
mod credentials;
#[cfg(test)]
mod fakes;
#[cfg(test)]
mod hour;
#[cfg(test)]
mod outcomes;
#[cfg(test)]
mod tests;

use self::{delivery::Line, late::LateNext};
pub use self::{
    metrics::MetricsClient,
    pieces::Pieces,
    retry::FailureKind,
    source::LogSource,
    stats::{Counts, DestinationStats, LATENCY_BOUNDS},
    tail::TailFigures,
};

/// Some spans, as one OTLP `ExportTraceServiceRequest` in protobuf, without its compression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// What the source recognises it by.
    pub id: u64,
    /// What the destination may recognise it by: the same when it is sent again, also after a restart.
    pub key: String,
    /// The request. Concatenated requests are a valid request.
    pub body: Pieces,
    /// Number of spans that it is about.
    pub spans: u64,
    /// Those of them that are not in the request: it was decided to leave them out.
    pub left_out: u64,
    /// Those of them that are not in the request because it cannot be seen which of them were decided to be left out.
    pub unreadable: Vec<Unreadable>,
    /// Whether it was given before the agent ended, so that the destination may have it already.
    pub may_be_duplicate: bool,
}

/// Spans of which some are not to be sent, and nobody can say which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// As they stand in the log.
    pub body: Bytes,
    /// Number of spans that it is about.
    pub spans: u64,
    /// What is wrong with them.
    pub cause: String,
}

/// Bounds of a batch. The first block is always in it, however large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Spans.
    pub spans: u64,
    /// Bytes.
    pub bytes: u64,
}

/// As a number of things in memory.
fn bound(limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// What waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queued {
    /// Spans that are not settled.
    pub spans: u64,
    /// Those of them that were not given yet.
    pub unread: u64,
    /// The same, and those that wait only because the log has not been looked at so far.
    pub backlog: u64,
    /// Bytes of those that were not given yet; may be an estimate, it only tells when a request is full enough.
    pub unread_bytes: u64,
    /// Spans that ever came.
    pub generated: u64,
}

/// Whether a batch was settled, and the next one.
pub type SettledAndNext<B, E> = (Result<(), E>, Result<Option<B>, E>);

/// One destination's place in the span log.
///
/// The exporter asks for batches, several before it settles the first, and settles them in any order. If it never settles one, as
/// when the agent is killed, the source gives the same spans again after the next start.
pub trait BatchSource: Send + 'static {
    /// Why the log cannot be read or a place cannot be stored. The exporter tells it.
    type Error: std::fmt::Display + Send + Sync;

    /// What waits now.
    fn queued(&self) -> Queued;

    /// Spans per second that came before the agent started; 0: that is not known.
    fn rate_before(&self) -> f64 {
        0.0
    }

    /// Completes when something was appended after the last call of [`Self::queued`]; may complete without that.
    /// Dropping the future loses nothing.
    fn appended(&mut self) -> impl Future<Output = ()> + Send;

    /// The next spans that were not given, up to the limits, or `None` if there are none.
    fn next(&mut self, limits: Limits) -> impl Future<Output = Result<Option<Batch>, Self::Error>> + Send;

    /// What became of a batch's spans: all that the fate does not name were delivered. After an error the place is remembered, and
    /// stored with the next one.
    fn settle(&mut self, id: u64, fate: Fate) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// [`Self::settle`] and then [`Self::next`], in one step if that is less work.
    fn settle_and_next(
        &mut self,
        id: u64,
        fate: Fate,
        limits: Limits,
    ) -> impl Future<Output = SettledAndNext<Batch, Self::Error>> + Send {
        async move {
            let settled = self.settle(id, fate).await;
            (settled, self.next(limits).await)
        }
    }

    /// What was decided about each of a batch's spans, before it is settled: what was left out may be asked for later. Errors as in
    /// [`Self::settle`].
    fn note(&mut self, _id: u64, _choices: Vec<Choice>) -> impl Future<Output = Result<(), Self::Error>> + Send {
        ready(Ok(()))
    }
    /// Spans that were settled as dead were delivered after all. Errors as in [`Self::settle`].
    fn revive(&mut self, spans: u64) -> impl Future<Output = Result<(), Self::Error>> + Send;
    /// What was decided about traces; nothing if that is not sampled by.
    fn tail(&self) -> Option<TailFigures> {
        None
    }
    /// Changes when spans that were left out are asked for after all; nothing: they never are.
    fn asked(&self) -> Option<watch::Receiver<u64>> {
        None
    }
    /// The next spans that were asked for, if the ones before are settled.
    fn next_late(&mut self, _limits: Limits) -> impl Future<Output = Result<LateNext, Self::Error>> + Send {
        ready(Ok(LateNext::Nothing))
    }
    /// What became of them, how many they were and their bytes. Errors as in [`Self::settle`].
    fn settle_late(
        &mut self,
        _id: u64,
        _fate: Fate,
        _spans: u64,
        _bytes: u64,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send {
        ready(Ok(()))
    }
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

impl ExportError {
    fn source(destination: &config::Destination, cause: &impl std::fmt::Display) -> Self {
        Self::Source { destination: destination.name.clone(), cause: cause.to_string() }
    }
}

/// The running destinations.
pub struct Exporter {
    running: Vec<Running>,
    letters: DeadLetters,
    shutdown_timeout: Duration,
    stats: AllStats,
}

/// Counters of all destinations that run now, in the order of the configuration.
pub type AllStats = Arc<Mutex<Vec<Arc<DestinationStats>>>>;

/// One of them.
struct Running {
    config: config::Destination,
    stats: Arc<DestinationStats>,
    stop: watch::Sender<Option<Instant>>,
    task: JoinHandle<()>,
    started: Instant,
}

impl Running {
    fn start<S: BatchSource>(config: config::Destination, line: Line, source: S) -> Self {
        let (stop, stopped) = watch::channel(None);
        let worker = worker::Worker::new(&config, line, source, stopped);
        let stats = Arc::clone(worker.stats());
        Self { config, stats, stop, task: tokio::spawn(worker.run()), started: Instant::now() }
    }
}

impl Exporter {
    /// Starts a task for each destination. `open` gives a destination's place in the log, `letters` keep what it refuses. Nothing is
    /// connected yet: a destination that is down now is no error.
    ///
    /// # Errors
    /// A destination cannot be served at all; then none is.
    pub fn start<S: BatchSource, E: std::fmt::Display>(
        export: &config::Export,
        letters: &DeadLetters,
        open: impl FnMut(&config::Destination) -> Result<S, E>,
    ) -> Result<Self, ExportError> {
        let mut exporter = Self {
            running: Vec::new(),
            letters: letters.clone(),
            shutdown_timeout: export.shutdown_timeout.0,
            stats: AllStats::default(),
        };
        let lines = exporter.lines(&export.destinations)?;
        exporter.run(lines, open)?;
        Ok(exporter)
    }

    /// Serves other destinations from now on. Those that are the same in both configurations do not notice; others are stopped within
    /// their part of `shutdown_timeout`, and go on from their place if their name stays.
    ///
    /// # Errors
    /// A destination cannot be served at all. Unless its place cannot be opened, which is known last, nothing was changed.
    pub async fn apply<S: BatchSource, E: std::fmt::Display>(
        &mut self,
        export: &config::Export,
        open: impl FnMut(&config::Destination) -> Result<S, E>,
    ) -> Result<(), ExportError> {
        let is_new = |to: &&config::Destination| !self.running.iter().any(|running| running.config == **to);
        let lines = self.lines(&export.destinations.iter().filter(is_new).cloned().collect::<Vec<_>>())?;
        self.shutdown_timeout = export.shutdown_timeout.0;
        let running = std::mem::take(&mut self.running);
        let (stay, go) = running.into_iter().partition(|running| export.destinations.contains(&running.config));
        self.running = stay;
        stop(go, self.shutdown_timeout, |config| {
            let comes_back = export.destinations.iter().any(|to| to.name == config.name);
            comes_back.then_some(COMES_BACK)
        })
        .await;
        let result = self.run(lines, open);
        let order = |running: &Running| export.destinations.iter().position(|to| *to == running.config);
        self.running.sort_by_key(order);
        self.tell();
        result
    }

    /// Everything that can be wrong with destinations, before anything is started.
    fn lines(&self, destinations: &[config::Destination]) -> Result<Vec<(config::Destination, Line)>, ExportError> {
        let line = |to: &config::Destination| {
            let client = client::Client::new(to)?;
            let stats = Arc::new(DestinationStats::new(to));
            Ok((to.clone(), Line::new(to, client, stats, self.letters.clone())?))
        };
        destinations.iter().map(line).collect()
    }

    fn run<S: BatchSource, E: std::fmt::Display>(
        &mut self,
        lines: Vec<(config::Destination, Line)>,
        mut open: impl FnMut(&config::Destination) -> Result<S, E>,
    ) -> Result<(), ExportError> {
        let mut ready = Vec::new();
        for (config, line) in lines {
            let source = open(&config).map_err(|cause| ExportError::source(&config, &cause))?;
            ready.push((config, line, source));
        }
        self.running.extend(ready.into_iter().map(|(config, line, source)| Running::start(config, line, source)));
        self.tell();
        Ok(())
    }

    /// Starts those destinations anew that ended though nobody stopped them, because of a mistake in this program: from their place in the
    /// log, which nothing holds until then, so that what was on its way comes again. Not those for which that was tried less than `after` ago.
    ///
    /// # Errors
    /// One cannot be served now; it is still among those that ended.
    pub fn start_ended_anew<S: BatchSource, E: std::fmt::Display>(
        &mut self,
        after: Duration,
        mut open: impl FnMut(&config::Destination) -> Result<S, E>,
    ) -> Result<(), ExportError> {
        for place in 0..self.running.len() {
            let ended = &mut self.running[place];
            if !ended.task.is_finished() || ended.started.elapsed() < after {
                continue;
            }
            ended.started = Instant::now();
            let config = ended.config.clone();
            for line in self.lines(std::slice::from_ref(&config))? {
                let source = open(&config).map_err(|cause| ExportError::source(&config, &cause))?;
                line.1.trouble("it ended by a mistake in spantap, and was started again where it was");
                self.running[place] = Running::start(line.0, line.1, source);
            }
            self.tell();
        }
        Ok(())
    }

    fn tell(&self) {
        *lock(&self.stats) = self.running.iter().map(|running| Arc::clone(&running.stats)).collect();
    }

    /// What becomes of the spans, now and after changes.
    pub fn stats(&self) -> &AllStats {
        &self.stats
    }

    /// What became of the spans, in the order of the configuration.
    pub fn destinations(&self) -> Vec<Arc<DestinationStats>> {
        lock(&self.stats).clone()
    }

    /// Sends what waits, for as long as the configuration allows, and stops. What is left waits in the log.
    pub async fn shutdown(self) {
        stop(self.running, self.shutdown_timeout, |_| Some(AT_NEXT_START)).await;
    }
}

/// A request as a line of OTLP JSON, without its end.
///
/// # Errors
/// The bytes are no request.
pub fn json_line(request: Vec<u8>) -> Result<Vec<u8>, String> {
    Ok(format::otlp_json(&format::decode(&request.into())?))
}

/// Does work on files or of the processor where it holds up nobody; a panic in it is an error like others.
async fn blocking<T: Send + 'static, E: std::fmt::Display + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|failure| failure.to_string())?;
    done.map_err(|error| error.to_string())
}

/// What becomes of spans that a stopped destination has not got.
const AT_NEXT_START: &str = "in the log for the next start";
const COMES_BACK: &str = "in the log until it goes on with its new configuration, at once";
/// `left`: where, and for what, the spans wait that a destination has not got; `None`: of one that is gone the log tells.
async fn stop(running: Vec<Running>, within: Duration, left: impl Fn(&config::Destination) -> Option<&'static str>) {
    let deadline = Instant::now() + within;
    for running in &running {
        // No receiver means that the task has ended.
        let _ = running.stop.send(Some(deadline));
    }
    for mut running in running {
        // A little longer, so that a task that ends at the deadline can settle its last batch.
        if timeout_at(deadline + Duration::from_millis(500), &mut running.task).await.is_err() {
            running.task.abort();
            // Its place in the log is free only when it is gone, and what it does with files is not stopped by that.
            let _ = running.task.await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let queued = running.stats.counts().queued;
        if let Some(left) = left(&running.config).filter(|_| queued > 0) {
            let (spans, wait) = (counted(queued, "span"), verb(queued, "waits", "wait"));
            tracing::warn!(destination = running.config.name, "{spans} {wait} {left}");
        }
    }
}
