//! A destination's place in the span log, as the exporter wants it.
//!
//! The log is synchronous and touches files, so its work runs on blocking threads.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::{sync::watch, task::spawn_blocking};

use super::{Batch, BatchSource, Counts, Limits, Queued};
use crate::{
    log::{self, Cursor, DestinationCounts, LogError, SpanLog},
    telemetry::metrics::DestinationFigures,
};

/// Bytes of a span, until a batch shows how large they are here.
const SPAN_BYTES_GUESS: u64 = 1024;

/// A cursor of the span log.
#[derive(Debug)]
pub struct LogSource {
    cursor: Arc<Mutex<Cursor>>,
    appended: watch::Receiver<u64>,
    /// Given and not settled.
    open: Option<log::Batch>,
    span_bytes: u64,
}

impl LogSource {
    /// The place of the destination `name`; a new one begins with the next span.
    pub fn open(log: &SpanLog, name: &str) -> Result<Self, LogError> {
        let appended = log.appended();
        let cursor = Arc::new(Mutex::new(log.cursor(name)?));
        Ok(Self { cursor, appended, open: None, span_bytes: SPAN_BYTES_GUESS })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Cursor) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, String> {
        let cursor = Arc::clone(&self.cursor);
        let done = spawn_blocking(move || work(&mut locked(&cursor))).await;
        done.map_err(|failure| failure.to_string())?.map_err(|error| error.to_string())
    }
}

impl BatchSource for LogSource {
    type Error = String;

    fn queued(&self) -> Queued {
        let spans = locked(&self.cursor).counts().queued;
        Queued { spans, bytes: spans * self.span_bytes }
    }

    async fn appended(&mut self) {
        if self.appended.changed().await.is_err() {
            // The log is closed: nothing will ever be appended.
            std::future::pending::<()>().await;
        }
    }

    async fn next(&mut self, limits: Limits) -> Result<Option<Batch>, String> {
        let bound = |limit: u64| usize::try_from(limit).unwrap_or(usize::MAX);
        let (spans, bytes) = (bound(limits.spans), bound(limits.bytes));
        self.open = self.blocking(move |cursor| cursor.next_batch(spans, bytes)).await?;
        Ok(self.open.as_ref().map(|batch| {
            self.span_bytes = batch.bytes as u64 / batch.span_count.max(1);
            Batch { id: batch.id().0, body: joined(&batch.blocks), spans: batch.span_count }
        }))
    }

    async fn ack(&mut self, _: &Batch, rejected: u64, reason: &str) -> Result<(), String> {
        let Some(batch) = self.open.take() else { return Ok(()) };
        let reason = reason.to_owned();
        self.blocking(move |cursor| cursor.ack(batch, rejected, &reason)).await
    }

    async fn dead(&mut self, _: &Batch, reason: &str) -> Result<(), String> {
        let Some(batch) = self.open.take() else { return Ok(()) };
        let reason = reason.to_owned();
        self.blocking(move |cursor| cursor.dead(batch, &reason)).await
    }
}

/// A destination's metrics, from the exporter's counters and the log's accounts.
pub fn figures(counts: &Counts, accounts: &DestinationCounts) -> DestinationFigures {
    DestinationFigures {
        name: counts.name.clone(),
        generated: accounts.generated(),
        delivered: accounts.delivered,
        queued: accounts.queued,
        dead: accounts.dead,
        dropped: accounts.dropped,
        requests: counts.requests,
        retries: counts.retries,
        failing: counts.failing,
    }
}

fn locked(cursor: &Mutex<Cursor>) -> MutexGuard<'_, Cursor> {
    // The cursor's steps leave it whole; a panic in one does not spoil it.
    cursor.lock().unwrap_or_else(PoisonError::into_inner)
}

fn joined(blocks: &[Bytes]) -> Bytes {
    match blocks {
        [one] => one.clone(),
        many => {
            let mut body = BytesMut::with_capacity(many.iter().map(Bytes::len).sum());
            many.iter().for_each(|block| body.extend_from_slice(block));
            body.freeze()
        }
    }
}
