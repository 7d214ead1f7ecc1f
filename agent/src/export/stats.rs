//! What became of the spans of one destination since the agent started. The accounts since its first span are the log's.
//!
//! Written by the destination's task, read by status and metrics at any time.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{
    late::Target,
    retry::{AgainKind, FailureKind, Outcome},
    tail::TailFigures,
};
use crate::{capture::lock, config::Destination, run::unix_ns};

/// Upper bounds of the latency buckets, in seconds; a last one has no bound.
pub const LATENCY_BOUNDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Counters of one destination.
#[derive(Debug, Default)]
pub struct DestinationStats {
    target: Target,
    url: String,
    queued: AtomicU64,
    counts: Mutex<Counts>,
}

/// The counters at one moment. All but `queued` since the agent started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Name of the destination.
    pub name: String,
    /// Its URL.
    pub url: String,
    /// Spans that it has taken.
    pub delivered: u64,
    /// Spans that it has refused within requests that it took (partial success); the log counts them as dead.
    pub rejected: u64,
    /// Spans that it has refused for good; they are among the dead letters.
    pub dead: u64,
    /// Spans of dead letters that it took when they were sent again.
    pub replayed: u64,
    /// Of those that it has taken, spans that were sent because somebody asked, after they had been left out.
    pub late: u64,
    /// Spans that wait, those on their way included.
    pub queued: u64,
    /// Spans that its filter left out.
    pub filtered: u64,
    /// Spans that its sampling left out; others stand for them.
    pub sampled_out: u64,
    /// Part of the traces that is sent now, in millionths.
    pub sampling_ppm: u64,
    /// Spans in all requests whose fate an answer, or that there was none, decided: as often as they were sent, but for requests that
    /// were refused and are sent in parts, whose spans count with these. What is asked for and replayed is among them.
    pub attempted: u64,
    /// Requests sent, repeated ones included.
    pub requests: u64,
    /// Requests that were not taken and are sent again.
    pub retries: u64,
    /// Of these, for missing, wrong or expired credentials.
    pub auth_failures: u64,
    /// Of these, because the destination wants less (429, `RESOURCE_EXHAUSTED`).
    pub rate_limited: u64,
    /// Requests that were not taken whole, by [`FailureKind`].
    pub failures: [u64; FailureKind::ALL.len()],
    /// Bytes of all requests, before compression.
    pub bytes: u64,
    /// Bytes sent, after compression, with all that protocols and TLS add.
    pub sent_bytes: u64,
    /// Spans of requests that may have arrived before: their answer was not seen.
    pub possible_duplicates: u64,
    /// Requests by their duration: up to each of [`LATENCY_BOUNDS`], and beyond. Not cumulative.
    pub latency: [u64; LATENCY_BOUNDS.len() + 1],
    /// Sum of these durations.
    pub latency_sum: Duration,
    /// What was decided about traces; nothing if that is not sampled by.
    pub tail: Option<TailFigures>,
    /// Whether its spans do not arrive: the last request was not answered, or is to come again, or there is no room for what was refused.
    pub failing: bool,
    /// The last failure, also after the destination has recovered, and also of single spans.
    pub last_error: Option<String>,
    /// When that was, nanoseconds since the epoch.
    pub last_error_unix_ns: u64,
}

impl DestinationStats {
    pub(super) fn new(to: &Destination) -> Self {
        Self { target: to.into(), url: to.url.without_query(), ..Self::default() }
    }

    /// The destination, as far as it matters for what it is sent.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The counters now.
    pub fn counts(&self) -> Counts {
        let counts = lock(&self.counts).clone();
        Counts { name: self.target.name.clone(), url: self.url.clone(), queued: self.queued.load(Relaxed), ..counts }
    }

    pub(super) fn name(&self) -> &str {
        &self.target.name
    }

    pub(super) fn set_queued(&self, spans: u64) {
        self.queued.store(spans, Relaxed);
    }

    pub(super) fn count_request(&self, outcome: &Outcome, bytes: u64, took: Duration) {
        let mut counts = lock(&self.counts);
        counts.requests += 1;
        counts.bytes += bytes;
        counts.latency_sum += took;
        let bucket = LATENCY_BOUNDS.iter().position(|bound| took.as_secs_f64() <= *bound);
        counts.latency[bucket.unwrap_or(LATENCY_BOUNDS.len())] += 1;
        if let Some(kind) = outcome.failure() {
            counts.failures[kind as usize] += 1;
        }
        if let Outcome::Again { kind, .. } = outcome {
            counts.retries += 1;
            match kind {
                AgainKind::Auth => counts.auth_failures += 1,
                AgainKind::RateLimited => counts.rate_limited += 1,
                AgainKind::Unavailable | AgainKind::Unanswered | AgainKind::Timeout | AgainKind::Misconfigured => {}
            }
        }
    }

    pub(super) fn set_sent_bytes(&self, bytes: u64) {
        lock(&self.counts).sent_bytes = bytes;
    }

    pub(super) fn count_attempted(&self, spans: u64) {
        lock(&self.counts).attempted += spans;
    }

    pub(super) fn count_delivered(&self, spans: u64, rejected: u64) {
        let mut counts = lock(&self.counts);
        counts.delivered += spans - rejected;
        counts.rejected += rejected;
    }

    pub(super) fn count_shaped(&self, filtered: u64, sampled_out: u64) {
        let mut counts = lock(&self.counts);
        counts.filtered += filtered;
        counts.sampled_out += sampled_out;
    }

    pub(super) fn set_sampling(&self, ratio: f64) {
        lock(&self.counts).sampling_ppm = (ratio * 1e6) as u64;
    }

    pub(super) fn set_tail(&self, tail: Option<TailFigures>) {
        lock(&self.counts).tail = tail;
    }

    pub(super) fn count_dead(&self, spans: u64) {
        lock(&self.counts).dead += spans;
    }

    pub(super) fn count_replayed(&self, spans: u64) {
        lock(&self.counts).replayed += spans;
    }

    pub(super) fn count_late(&self, spans: u64) {
        lock(&self.counts).late += spans;
    }

    pub(super) fn count_possible_duplicates(&self, spans: u64) {
        lock(&self.counts).possible_duplicates += spans;
    }

    pub(super) fn note_error(&self, error: &str) {
        let mut counts = lock(&self.counts);
        counts.last_error = Some(error.to_owned());
        counts.last_error_unix_ns = unix_ns();
    }

    pub(super) fn set_failing(&self, failing: bool) {
        lock(&self.counts).failing = failing;
    }
}
