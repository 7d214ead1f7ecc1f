//! The task of one destination: waits for a batch, sends it until its fate is known, settles it with the log.
//!
//! Owns the client, the place in the log and the retry state of the destination. Messages about a failing destination
//! are at most one a minute.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tracing::{info, warn};

use super::{
    Batch, BatchSource, DestinationStats, Limits,
    client::Client,
    retry::{Backoff, Outcome},
};
use crate::{
    config::{Destination, Retry, Segments},
    otlp,
    telemetry::log::RateLimit,
};

/// Time between two messages about the same trouble.
const MESSAGE_INTERVAL: Duration = Duration::from_secs(60);

pub(super) struct Worker<S> {
    client: Client,
    source: S,
    limits: Limits,
    age: Duration,
    /// Whether segments are sent as child spans.
    segment_spans: bool,
    retry: Retry,
    stats: Arc<DestinationStats>,
    stop: watch::Receiver<Option<Instant>>,
    messages: RateLimit,
    /// When the oldest span that waits is old enough.
    due: Option<Instant>,
}

/// How much larger a request may get by child spans: a few segments of a span are together about as large as it is.
const GROWTH: u64 = 4;

/// What happened to a batch, as far as the loop cares.
enum Sent {
    Settled,
    /// The deadline came first; the log still has it.
    Left,
}

impl<S: BatchSource> Worker<S> {
    pub(super) fn new(
        destination: &Destination,
        client: Client,
        source: S,
        stats: Arc<DestinationStats>,
        stop: watch::Receiver<Option<Instant>>,
    ) -> Self {
        let segment_spans = destination.segments == Segments::Spans;
        let bytes = destination.batch.bytes.0 / if segment_spans { GROWTH } else { 1 };
        let limits = Limits { spans: destination.batch.spans as u64, bytes };
        let retry = destination.retry.clone();
        let messages = RateLimit::new(MESSAGE_INTERVAL);
        let age = destination.batch.age.0;
        Self { client, source, limits, age, segment_spans, retry, stats, stop, messages, due: None }
    }

    pub(super) fn stats(&self) -> &Arc<DestinationStats> {
        &self.stats
    }

    /// Ends when told to stop and nothing waits, or at the deadline.
    pub(super) async fn run(mut self) {
        self.work().await;
        let left = self.source.queued().spans;
        self.stats.set_queued(left);
        if left > 0 {
            warn!(destination = self.stats.name(), "{left} spans wait in the log for the next start");
        }
    }

    async fn work(&mut self) {
        let mut backoff = Backoff::new(&self.retry);
        loop {
            self.fill().await;
            if self.deadline().is_some_and(|deadline| deadline <= Instant::now()) {
                return;
            }
            match self.source.next(self.limits).await {
                Ok(Some(batch)) => {
                    backoff = Backoff::new(&self.retry);
                    let batch = self.shaped(batch).await;
                    if matches!(self.deliver(&batch).await, Sent::Left) {
                        return;
                    }
                    self.stats.set_queued(self.source.queued().spans);
                }
                Ok(None) if self.deadline().is_some() => return,
                Ok(None) => {}
                Err(error) => {
                    self.trouble(&format!("the span log cannot be read: {error}"));
                    if !self.pause(backoff.wait(None)).await {
                        return;
                    }
                }
            }
        }
    }

    /// When to be done, if told to stop. Nobody left to tell counts as now.
    fn deadline(&self) -> Option<Instant> {
        if self.stop.has_changed().is_err() {
            return Some(Instant::now());
        }
        *self.stop.borrow()
    }

    /// Waits until a batch is full, or old enough, or the agent stops. What a full batch left behind is not younger
    /// than that, so it keeps its time.
    async fn fill(&mut self) {
        while self.deadline().is_none() {
            let queued = self.source.queued();
            self.stats.set_queued(queued.spans);
            if queued.spans >= self.limits.spans || queued.bytes >= self.limits.bytes {
                return;
            }
            self.due = (queued.spans > 0).then(|| self.due.unwrap_or_else(|| Instant::now() + self.age));
            tokio::select! {
                () = self.source.appended() => {}
                () = sleep_until(self.due.unwrap_or_else(Instant::now)), if self.due.is_some() => return,
                changed = self.stop.changed() => if changed.is_err() { return },
            }
        }
    }

    /// The batch as this destination wants it. Of what it then refuses, at most the log's own spans count: nobody can
    /// say whether a refused one was a child.
    async fn shaped(&mut self, batch: Batch) -> Batch {
        if !self.segment_spans {
            return batch;
        }
        let bytes = batch.body.clone();
        let body = tokio::task::spawn_blocking(move || otlp::with_segment_spans(&bytes)).await;
        match body.map_err(|failure| failure.to_string()).and_then(|body| body.map_err(|error| error.to_string())) {
            Ok(body) => Batch { body: body.into(), ..batch },
            Err(error) => {
                self.trouble(&format!("spans are sent without their segments as children: {error}"));
                batch
            }
        }
    }

    /// Sends a batch until the destination takes or refuses it.
    async fn deliver(&mut self, batch: &Batch) -> Sent {
        let mut backoff = Backoff::new(&self.retry);
        let mut again = false;
        loop {
            self.stats.count_request(again);
            again = true;
            let Some(outcome) = self.send(batch).await else { return Sent::Left };
            let after = match outcome {
                Outcome::Delivered { rejected, message } => {
                    self.delivered(batch, rejected, &message).await;
                    return Sent::Settled;
                }
                Outcome::Never { cause } | Outcome::TooLarge { cause } => {
                    self.refused(batch, &cause).await;
                    return Sent::Settled;
                }
                Outcome::Again { after, cause, .. } => {
                    self.trouble(&cause);
                    after
                }
            };
            if !self.pause(backoff.wait(after)).await {
                return Sent::Left;
            }
        }
    }

    /// One request; `None` if the deadline came before the answer.
    async fn send(&mut self, batch: &Batch) -> Option<Outcome> {
        tokio::select! {
            outcome = self.client.send(batch.body.clone()) => Some(outcome),
            () = stopped(&mut self.stop) => None,
        }
    }

    /// Waits; `false` if the deadline came first. A stop during the wait ends the wait: the time left is short.
    async fn pause(&mut self, wait: Duration) -> bool {
        if self.deadline().is_some() {
            let mut stop = self.stop.clone();
            return tokio::select! {
                () = sleep(wait) => true,
                () = stopped(&mut stop) => false,
            };
        }
        tokio::select! {
            () = sleep(wait) => {}
            _ = self.stop.changed() => {}
        }
        true
    }

    async fn delivered(&mut self, batch: &Batch, rejected: u64, message: &str) {
        let rejected = rejected.min(batch.spans);
        if rejected > 0 || !message.is_empty() {
            self.trouble(&format!("{rejected} of {} spans were refused: {message}", batch.spans));
        }
        if self.stats.note_success() && rejected == 0 {
            info!(destination = self.stats.name(), "destination takes spans again");
        }
        self.stats.count_delivered(batch.spans, rejected, batch.body.len() as u64);
        let settled = self.source.ack(batch, rejected, message).await;
        self.settled(settled);
    }

    async fn refused(&mut self, batch: &Batch, cause: &str) {
        self.trouble(&format!("{} spans were refused for good and are kept as dead letters: {cause}", batch.spans));
        self.stats.count_dead(batch.spans);
        let settled = self.source.dead(batch, cause).await;
        self.settled(settled);
    }

    fn settled(&mut self, result: Result<(), S::Error>) {
        if let Err(error) = result {
            self.trouble(&format!("the place in the span log cannot be stored now, spans may come twice: {error}"));
        }
    }

    fn trouble(&mut self, what: &str) {
        self.stats.note_error(what);
        if let Some(unsaid) = self.messages.allow() {
            warn!(destination = self.stats.name(), unsaid, "{what}");
        }
    }
}

/// Completes at the deadline of a stop.
async fn stopped(stop: &mut watch::Receiver<Option<Instant>>) {
    // The sender is gone: stop now.
    let Ok(deadline) = stop.wait_for(Option::is_some).await.map(|deadline| *deadline) else { return };
    if let Some(deadline) = deadline {
        sleep_until(deadline).await;
    }
}
