//! What became of the spans of one destination since the agent started. The accounts since its first span are the log's.
//!
//! Written by the destination's task, read by status and metrics at any time.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// Counters of one destination.
#[derive(Debug, Default)]
pub struct DestinationStats {
    name: String,
    url: String,
    delivered: AtomicU64,
    rejected: AtomicU64,
    dead: AtomicU64,
    queued: AtomicU64,
    requests: AtomicU64,
    retries: AtomicU64,
    bytes: AtomicU64,
    failing: Mutex<Failing>,
}

#[derive(Debug, Default)]
struct Failing {
    now: bool,
    last_error: Option<String>,
}

/// The counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Name of the destination.
    pub name: String,
    /// Its URL.
    pub url: String,
    /// Spans that it has taken.
    pub delivered: u64,
    /// Spans that it has refused within requests that it took (partial success); the log counts them as dead.
    pub rejected: u64,
    /// Spans of requests that it has refused as a whole. They stay in the log.
    pub dead: u64,
    /// Spans that wait, those on their way included.
    pub queued: u64,
    /// Requests sent, repeated ones included.
    pub requests: u64,
    /// Requests that were sent again.
    pub retries: u64,
    /// Bytes delivered, before compression.
    pub bytes: u64,
    /// Whether the last request failed.
    pub failing: bool,
    /// The last failure, also after the destination has recovered.
    pub last_error: Option<String>,
}

impl DestinationStats {
    pub(super) fn new(name: &str, url: &str) -> Self {
        Self { name: name.to_owned(), url: url.to_owned(), ..Self::default() }
    }

    /// The counters now.
    pub fn counts(&self) -> Counts {
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        Counts {
            name: self.name.clone(),
            url: self.url.clone(),
            delivered: self.delivered.load(Relaxed),
            rejected: self.rejected.load(Relaxed),
            dead: self.dead.load(Relaxed),
            queued: self.queued.load(Relaxed),
            requests: self.requests.load(Relaxed),
            retries: self.retries.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            failing: failing.now,
            last_error: failing.last_error.clone(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn set_queued(&self, spans: u64) {
        self.queued.store(spans, Relaxed);
    }

    pub(super) fn count_request(&self, again: bool) {
        self.requests.fetch_add(1, Relaxed);
        self.retries.fetch_add(again.into(), Relaxed);
    }

    pub(super) fn count_delivered(&self, spans: u64, rejected: u64, bytes: u64) {
        self.delivered.fetch_add(spans - rejected, Relaxed);
        self.rejected.fetch_add(rejected, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn count_dead(&self, spans: u64) {
        self.dead.fetch_add(spans, Relaxed);
    }

    pub(super) fn note_error(&self, error: &str) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        failing.now = true;
        failing.last_error = Some(error.to_owned());
    }

    /// Returns whether it failed before.
    pub(super) fn note_success(&self) -> bool {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut failing.now)
    }
}
