//! What receivers hand requests to, and what it says of each.
//!
//! In: one OTLP `ExportTraceServiceRequest` in protobuf, and whose it is. Out: [`Accepted`], which a sender may rely on, or a
//! [`Refusal`], which says whether sending again helps. Called by the receivers. Everything that is done with spans before they are
//! acknowledged is stateless (`agent_core::relay`), so that the log is the only place where they are: there is no journal before it.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use agent_core::{
    redact::SafeBatch,
    relay::{Relay, Relayed},
    span::UnixNs,
};
use bytes::Bytes;
use tokio::{sync::oneshot, task::spawn_blocking};

mod queue;

use self::queue::Queue;
use crate::{
    capture::lock,
    config::Durability,
    log::{BlockId, Flags, LogError, SpanLog},
    run::unix_ns,
};

/// When a sender may try again after the log was full: about as long as a destination needs to make room.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(5);
/// Most requests that one force to disk makes a worker's requests wait for.
const GROUP_MAX: usize = 16;
/// Of senders that gave no token: no tenant.
pub const NO_TENANT: &str = "default";

/// Takes requests. Clones take for the same log.
pub trait Take: Clone + Send + Sync + 'static {
    /// Takes the spans of `request`, an `ExportTraceServiceRequest` in protobuf, for `tenant`. Returns when the spans are as
    /// durable as configured, or when it is known that they are not taken. The future is not dropped before it ends, whatever
    /// the sender does.
    ///
    /// # Errors
    /// None of the spans was taken.
    fn accept(&self, request: Bytes, tenant: &str) -> impl Future<Output = Result<Accepted, Refusal>> + Send;
}

/// The spans of a request were taken, but for those that were rejected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Spans that were not taken and must not be sent again.
    pub rejected: u64,
    /// Why, for people. May also be a warning if nothing was rejected; empty: all is well.
    pub message: String,
}

/// No span of a request was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The bytes are no request; sending them again does not help.
    Malformed(String),
    /// There is no room; there may be later.
    Full {
        /// When to try again.
        retry_after: Duration,
    },
    /// The tenant has used up what it may send; it may send again later.
    Quota {
        /// When to try again.
        retry_after: Duration,
    },
    /// The spans could not be stored, now.
    Storage(String),
}

/// The intake of the agent: checks and redacts, appends to the span log, and waits until that is durable.
#[derive(Clone, Debug)]
pub struct Intake {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    log: SpanLog,
    relay: RwLock<Arc<Relay>>,
    durability: Durability,
    /// Numbers of tenants in the log.
    tenants: Mutex<HashMap<String, u32>>,
    counts: Mutex<IntakeCounts>,
    queue: Queue<Job>,
}

/// A request, and who waits for it.
#[derive(Debug)]
struct Job {
    request: Bytes,
    tenant: String,
    answer: oneshot::Sender<Result<Accepted, Refusal>>,
}

/// A request that is in the log.
struct Stored {
    accepted: Accepted,
    counts: IntakeCounts,
    /// Its blocks, last first: when they are on the disk it is acknowledged.
    blocks: [Option<BlockId>; 2],
}

/// What became of received spans since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IntakeCounts {
    /// Acknowledged; also those of the next.
    pub accepted: u64,
    /// Acknowledged, and kept on this host only because sampling does not send them away.
    pub local: u64,
    /// Refused for good, each by itself (no valid ids).
    pub rejected: u64,
    /// Acknowledged although their times cannot be true; they are marked.
    pub skewed: u64,
    /// Values that were taken out or replaced.
    pub redacted: u64,
    /// Requests that were not taken because there was no room, or the disk failed.
    pub refused: u64,
    /// Spans that were appended and not acknowledged, because forcing them to disk failed: their sender sends them again, so that
    /// they may come twice.
    pub possible_duplicates: u64,
}

impl Intake {
    /// An intake for the log.
    pub fn new(log: SpanLog, relay: Relay, durability: Durability) -> Self {
        let inner = Inner {
            log,
            relay: RwLock::new(Arc::new(relay)),
            durability,
            tenants: Mutex::default(),
            counts: Mutex::default(),
            queue: Queue::new(durability == Durability::Fsync),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What is done with spans from now on.
    pub fn set_relay(&self, relay: Relay) {
        *self.inner.relay.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(relay);
    }

    /// The counters now.
    pub fn counts(&self) -> IntakeCounts {
        *lock(&self.inner.counts)
    }

    async fn take(&self, request: Bytes, tenant: String) -> Result<Accepted, Refusal> {
        let (answer, answered) = oneshot::channel();
        if self.inner.queue.push(Job { request, tenant, answer }) {
            let this = self.clone();
            spawn_blocking(move || this.work());
        }
        answered.await.unwrap_or_else(|_| Err(not_worked_on()))
    }

    /// Stores what waits, until nothing does.
    fn work(&self) {
        let mut group = Vec::new();
        loop {
            let job = self.inner.queue.next(!group.is_empty());
            let is_over = job.is_none();
            if let Some(Job { request, tenant, answer }) = job {
                // Others wait for this worker too.
                let stored = catch_unwind(AssertUnwindSafe(|| self.store(&request, &tenant)));
                match stored.unwrap_or_else(|_| Err(not_worked_on())) {
                    Ok(stored) => group.push((stored, answer)),
                    // Nobody left to hear it is no matter.
                    Err(refusal) => drop(answer.send(Err(refusal))),
                }
            } else if group.is_empty() {
                return;
            }
            if is_over || group.len() >= GROUP_MAX || self.inner.durability == Durability::Written {
                for (stored, answer) in group.drain(..) {
                    let acknowledged = catch_unwind(AssertUnwindSafe(|| self.acknowledged(stored)));
                    drop(answer.send(acknowledged.unwrap_or_else(|_| Err(not_worked_on()))));
                }
            }
        }
    }

    /// What to answer, when what was stored is as durable as configured. Whoever asks first has the blocks of all forced.
    fn acknowledged(&self, stored: Stored) -> Result<Accepted, Refusal> {
        if self.inner.durability == Durability::Fsync {
            // Each by itself: that of the first may have failed before the second was there.
            let forced = stored.blocks.into_iter().flatten().try_for_each(|block| self.inner.log.durable(block));
            if let Err(error) = forced {
                lock(&self.inner.counts).possible_duplicates += stored.counts.accepted;
                return Err(Refusal::Storage(error.to_string()));
            }
        }
        lock(&self.inner.counts).add(&stored.counts);
        Ok(stored.accepted)
    }

    /// Checks, redacts and appends.
    fn store(&self, request: &Bytes, tenant: &str) -> Result<Stored, Refusal> {
        let relay = Arc::clone(&self.inner.relay.read().unwrap_or_else(PoisonError::into_inner));
        let tenant = Some(tenant).filter(|tenant| *tenant != NO_TENANT);
        let relayed = relay.accept_from(request, tenant, UnixNs(unix_ns()));
        let relayed = relayed.map_err(|malformed| Refusal::Malformed(malformed.to_string()))?;
        let number = tenant.map_or(Ok(0), |tenant| self.number(tenant)).map_err(refusal)?;
        let mut blocks = [None, None];
        // What stays here first: if the second fails the sender sends both again, and only this host has spans twice.
        for (batch, is_local) in [(&relayed.local, true), (&relayed.kept, false)] {
            let Some(batch) = batch else { continue };
            let flags = Flags { is_relayed: true, is_local, tenant: number };
            blocks[usize::from(is_local)] = Some(self.inner.log.append_relayed(batch, flags).map_err(refusal)?);
        }
        let counts = IntakeCounts::of(&relayed);
        Ok(Stored { accepted: Accepted { rejected: relayed.rejected, message: relayed.reason }, counts, blocks })
    }

    fn number(&self, tenant: &str) -> Result<u32, LogError> {
        if let Some(number) = lock(&self.inner.tenants).get(tenant) {
            return Ok(*number);
        }
        let number = self.inner.log.tenant(tenant)?;
        lock(&self.inner.tenants).insert(tenant.to_owned(), number);
        Ok(number)
    }
}

impl IntakeCounts {
    /// Of a request that was appended.
    fn of(relayed: &Relayed) -> Self {
        let spans = |batch: &Option<SafeBatch>| batch.as_ref().map_or(0, |batch| u64::from(batch.span_count()));
        let local = spans(&relayed.local);
        Self {
            accepted: local + spans(&relayed.kept),
            local,
            rejected: relayed.rejected,
            skewed: relayed.skewed,
            redacted: relayed.redacted,
            ..Self::default()
        }
    }

    fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.local += other.local;
        self.rejected += other.rejected;
        self.skewed += other.skewed;
        self.redacted += other.redacted;
    }
}

impl Take for Intake {
    async fn accept(&self, request: Bytes, tenant: &str) -> Result<Accepted, Refusal> {
        let result = self.take(request, tenant.to_owned()).await;
        if matches!(result, Err(Refusal::Full { .. } | Refusal::Storage(_))) {
            lock(&self.inner.counts).refused += 1;
        }
        result
    }
}

fn not_worked_on() -> Refusal {
    Refusal::Storage("the request could not be worked on".into())
}

fn refusal(error: LogError) -> Refusal {
    match error {
        LogError::Full { .. } => Refusal::Full { retry_after: FULL_RETRY_AFTER },
        LogError::SpanTooLarge { .. } => Refusal::Malformed(error.to_string()),
        other => {
            // Paths of this host are not for senders; the log itself says what is wrong with it.
            tracing::debug!(error = %other, "spans could not be stored");
            Refusal::Storage("the spans could not be stored; this agent's own log says why".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use agent_core::relay::RelayConfig;
    use opentelemetry_proto::tonic::{
        collector::trace::v1::ExportTraceServiceRequest,
        trace::v1::{ResourceSpans, ScopeSpans, Span},
    };
    use prost::Message;

    use super::*;
    use crate::log::LogConfig;

    fn request(spans: u64) -> Bytes {
        let span = |number: u64| Span {
            trace_id: [7, number].map(u64::to_be_bytes).concat(),
            span_id: (number + 1).to_be_bytes().to_vec(),
            start_time_unix_nano: unix_ns(),
            end_time_unix_nano: unix_ns(),
            ..Span::default()
        };
        let scope = ScopeSpans { spans: (0..spans).map(span).collect(), ..ScopeSpans::default() };
        let resource = ResourceSpans { scope_spans: vec![scope], ..ResourceSpans::default() };
        ExportTraceServiceRequest { resource_spans: vec![resource] }.encode_to_vec().into()
    }

    #[tokio::test]
    async fn what_the_disk_refuses_to_keep_is_not_acknowledged_and_counted_as_what_may_come_twice() {
        let folder = tempfile::tempdir().unwrap();
        let log = SpanLog::open(folder.path(), LogConfig::default()).unwrap();
        let intake = Intake::new(log.clone(), Relay::new(RelayConfig::default()).unwrap(), Durability::Fsync);
        intake.accept(request(2), NO_TENANT).await.expect("taken");
        log.fail_next_force();
        let refused = intake.accept(request(3), NO_TENANT).await.expect_err("it may be lost");
        assert!(matches!(refused, Refusal::Storage(_)), "{refused:?}");
        intake.accept(request(3), NO_TENANT).await.expect("taken when it is sent again");
        let IntakeCounts { accepted, refused, possible_duplicates, .. } = intake.counts();
        assert_eq!((accepted, refused, possible_duplicates), (5, 1, 3));
    }

    /// Of what one part of was stored, and could not be forced, before the other one was there.
    #[test]
    fn each_part_of_a_request_has_to_be_on_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let log = SpanLog::open(folder.path(), LogConfig::default()).unwrap();
        let intake = Intake::new(log.clone(), Relay::new(RelayConfig::default()).unwrap(), Durability::Fsync);
        let stored = || intake.store(&request(2), NO_TENANT).expect("appended");
        let [failed, _] = stored().blocks;
        log.fail_next_force();
        log.durable(failed.expect("a block")).expect_err("the test says so");
        let [forced, _] = stored().blocks;
        intake.acknowledged(Stored { blocks: [forced, failed], ..stored() }).expect_err("one part may be lost");
        intake.acknowledged(Stored { blocks: [forced, None], ..stored() }).expect("that is there");
    }
}
