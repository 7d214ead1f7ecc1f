//! What became of requests since the agent started.
//!
//! Written by the receivers, read by status and metrics at any time. Every request whose headers arrived is counted once.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::senders::{Sender, TenantCounts};

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP/gRPC.
    OtlpGrpc,
    /// OTLP/HTTP with protobuf, and HTTP requests of which nothing is known.
    OtlpHttpProtobuf,
    /// OTLP/HTTP with JSON.
    OtlpHttpJson,
    /// Zipkin v2 with JSON.
    ZipkinJson,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All spans were taken.
    Ok,
    /// Some spans were taken, others rejected for good.
    Partial,
    /// Its bytes are no request.
    Malformed,
    /// Its token is missing or unknown.
    Unauthenticated,
    /// It claims to be of another tenant than its token.
    Forbidden,
    /// Larger than a request may be.
    TooLarge,
    /// No room, in the receivers or behind them; the sender was told to come again.
    RefusedFull,
    /// Beyond its tenant's quota; likewise.
    RefusedQuota,
    /// The spans could not be stored; likewise.
    Storage,
    /// It did not arrive in time.
    Timeout,
    /// Its sender went away before it had arrived.
    Cancelled,
    /// Another path, method, content type or compression than is received.
    Unsupported,
}

impl Protocol {
    /// Each one.
    pub const ALL: [Self; 4] = [Self::OtlpGrpc, Self::OtlpHttpProtobuf, Self::OtlpHttpJson, Self::ZipkinJson];

    /// As a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::OtlpGrpc => "otlp_grpc",
            Self::OtlpHttpProtobuf => "otlp_http_protobuf",
            Self::OtlpHttpJson => "otlp_http_json",
            Self::ZipkinJson => "zipkin_json",
        }
    }
}

impl Outcome {
    /// Each one.
    pub const ALL: [Self; 12] = [
        Self::Ok,
        Self::Partial,
        Self::Malformed,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::TooLarge,
        Self::RefusedFull,
        Self::RefusedQuota,
        Self::Storage,
        Self::Timeout,
        Self::Cancelled,
        Self::Unsupported,
    ];

    /// As a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Partial => "partial",
            Self::Malformed => "malformed",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::TooLarge => "too_large",
            Self::RefusedFull => "refused_full",
            Self::RefusedQuota => "refused_quota",
            Self::Storage => "storage",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Unsupported => "unsupported",
        }
    }
}

/// Counters of all receivers.
#[derive(Debug, Default)]
pub struct ReceiverStats {
    cells: [[Cell; Outcome::ALL.len()]; Protocol::ALL.len()],
    rejected: AtomicU64,
    connections: AtomicU64,
    accepted: AtomicU64,
    tls_failures: AtomicU64,
    reloads: AtomicU64,
    reload_failures: AtomicU64,
    tenants: OnceLock<Vec<Arc<Sender>>>,
}

#[derive(Debug, Default)]
struct Cell {
    requests: AtomicU64,
    spans: AtomicU64,
    bytes: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceiverCounts {
    /// By protocol and outcome; those without requests are left out.
    pub requests: Vec<RequestCount>,
    /// Spans that were rejected for good within requests whose other spans were taken.
    pub rejected: u64,
    /// Open connections.
    pub connections: u64,
    /// Connections that were accepted.
    pub connections_accepted: u64,
    /// TLS handshakes that failed.
    pub tls_failures: u64,
    /// Times that changed certificates or tokens were read and used.
    pub reloads: u64,
    /// Times that changed certificates or tokens could not be used; the previous ones stay.
    pub reload_failures: u64,
    /// By tenant, in the order of the configuration.
    pub tenants: Vec<TenantCounts>,
}

/// Requests of one protocol and outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestCount {
    /// How they came.
    pub protocol: Protocol,
    /// What became of them.
    pub outcome: Outcome,
    /// How many.
    pub requests: u64,
    /// Spans in them; those of requests that were refused unread are not known and not counted.
    pub spans: u64,
    /// Bytes of them as protobuf, decompressed; likewise.
    pub bytes: u64,
}

impl ReceiverStats {
    /// The counters now.
    pub fn counts(&self) -> ReceiverCounts {
        let of = |(protocol, outcome): (Protocol, Outcome)| {
            let cell = &self.cells[protocol as usize][outcome as usize];
            let [requests, spans, bytes] = [&cell.requests, &cell.spans, &cell.bytes].map(|count| count.load(Relaxed));
            RequestCount { protocol, outcome, requests, spans, bytes }
        };
        let pairs = Protocol::ALL.into_iter().flat_map(|protocol| Outcome::ALL.map(|outcome| (protocol, outcome)));
        ReceiverCounts {
            requests: pairs.map(of).filter(|count| count.requests > 0).collect(),
            rejected: self.rejected.load(Relaxed),
            connections: self.connections.load(Relaxed),
            connections_accepted: self.accepted.load(Relaxed),
            tls_failures: self.tls_failures.load(Relaxed),
            reloads: self.reloads.load(Relaxed),
            reload_failures: self.reload_failures.load(Relaxed),
            tenants: self.tenants.get().into_iter().flatten().map(|tenant| tenant.counts()).collect(),
        }
    }

    /// Whose counters are told as well; once.
    pub(super) fn set_tenants(&self, tenants: Vec<Arc<Sender>>) {
        let _ = self.tenants.set(tenants);
    }

    pub(super) fn count_tls_failure(&self) {
        self.tls_failures.fetch_add(1, Relaxed);
    }

    pub(super) fn count_reload(&self, worked: bool) {
        let count = if worked { &self.reloads } else { &self.reload_failures };
        count.fetch_add(1, Relaxed);
    }

    /// Counts a connection as open until the guard goes.
    pub(super) fn connected(self: &Arc<Self>) -> Connected {
        self.accepted.fetch_add(1, Relaxed);
        self.connections.fetch_add(1, Relaxed);
        Connected(Arc::clone(self))
    }
}

impl ReceiverCounts {
    /// Requests of this outcome, of every protocol.
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.requests.iter().filter(|count| count.outcome == outcome).map(|count| count.requests).sum()
    }
}

/// An open connection.
pub(super) struct Connected(Arc<ReceiverStats>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}

/// One request that will be counted: by [`Self::settle`], or as cancelled if its work is dropped before.
pub(super) struct Tally {
    stats: Arc<ReceiverStats>,
    pub protocol: Protocol,
    pub spans: u64,
    pub bytes: u64,
    is_settled: bool,
}

impl Tally {
    pub(super) fn new(stats: &Arc<ReceiverStats>, protocol: Protocol) -> Self {
        Self { stats: Arc::clone(stats), protocol, spans: 0, bytes: 0, is_settled: false }
    }

    pub(super) fn settle(mut self, outcome: Outcome, rejected: u64) {
        self.stats.rejected.fetch_add(rejected, Relaxed);
        self.count(outcome);
    }

    fn count(&mut self, outcome: Outcome) {
        self.is_settled = true;
        let cell = &self.stats.cells[self.protocol as usize][outcome as usize];
        cell.requests.fetch_add(1, Relaxed);
        cell.spans.fetch_add(self.spans, Relaxed);
        cell.bytes.fetch_add(self.bytes, Relaxed);
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        if !self.is_settled {
            // A panic behind the receivers is no matter of the sender's.
            self.count(if std::thread::panicking() { Outcome::Storage } else { Outcome::Cancelled });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_own_cell() {
        let stats = Arc::new(ReceiverStats::default());
        for protocol in Protocol::ALL {
            for outcome in Outcome::ALL {
                Tally::new(&stats, protocol).settle(outcome, 1);
            }
        }
        let counts = stats.counts();
        assert_eq!(counts.requests.len(), 48);
        assert!(counts.requests.iter().all(|count| count.requests == 1));
        assert_eq!(counts.rejected, 48);
    }

    #[test]
    fn what_is_dropped_is_cancelled() {
        let stats = Arc::new(ReceiverStats::default());
        drop(Tally::new(&stats, Protocol::OtlpGrpc));
        assert_eq!(stats.counts().of(Outcome::Cancelled), 1);
    }
}
