//! What all protocols share: who sends, is there room, and handing over.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;

use super::{
    admission::{Admission, Place},
    answer::Refused,
    quota::span_count,
    senders::{Sender, Senders},
    stats::{Outcome, Protocol, ReceiverStats, Tally},
};
use crate::{
    capture::lock,
    config::Receive,
    intake::{Accepted, Refusal, Take},
    telemetry::log::RateLimit,
};

/// Between two messages about the same trouble of senders.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// The receivers' side of the intake.
pub(super) struct Front<T> {
    intake: T,
    senders: Arc<Senders>,
    pub admission: Arc<Admission>,
    pub stats: Arc<ReceiverStats>,
    /// Of a request, decompressed.
    pub bytes_max: usize,
    /// Of reading a request.
    pub timeout: Duration,
    pub idle_timeout: Duration,
    unsaid: Mutex<[RateLimit; Outcome::ALL.len()]>,
}

/// Who sent a request, as far as the socket says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub Option<SocketAddr>);

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("a unix socket"),
        }
    }
}

/// A request that was read.
pub(super) struct Ready {
    pub place: Place,
    pub sender: Arc<Sender>,
    /// Protobuf of an `ExportTraceServiceRequest`, as far as it is known.
    pub request: Bytes,
}

impl<T: Take> Front<T> {
    pub(super) fn new(receive: &Receive, intake: T, senders: Arc<Senders>, stats: Arc<ReceiverStats>) -> Self {
        Self {
            intake,
            senders,
            admission: Arc::new(Admission::new(receive.requests_max, receive.bytes_max.0)),
            stats,
            bytes_max: usize::try_from(receive.request_bytes_max.0).unwrap_or(usize::MAX),
            timeout: receive.timeout.0,
            idle_timeout: receive.idle_timeout.0,
            unsaid: Mutex::new(std::array::from_fn(|_| RateLimit::new(TELL_INTERVAL))),
        }
    }

    pub(super) fn tally(&self, protocol: Protocol) -> Tally {
        Tally::new(&self.stats, protocol)
    }

    /// Whose request it is, if its tenant may send now; before anything of its body is read.
    pub(super) fn sender(&self, headers: &HeaderMap) -> Result<Arc<Sender>, Refused> {
        let sender = self.senders.identify(headers)?;
        match sender.meter.wait() {
            None => Ok(sender),
            Some(retry_after) => Err(over_quota(&sender, retry_after)),
        }
    }

    /// Hands over what was read, or counts why nothing was.
    pub(super) async fn take(
        &self,
        tally: Tally,
        peer: Peer,
        read: Result<Ready, Refused>,
    ) -> Result<Accepted, Refused> {
        let result = match read {
            Ok(ready) => self.hand_over(tally, ready).await,
            Err(refused) => {
                tally.settle(refused.outcome(), 0);
                Err(refused)
            }
        };
        result.inspect_err(|refused| self.tell(refused, peer))
    }

    /// Tells the operator of what a sender does wrong, now and then; the counters have all of it.
    fn tell(&self, refused: &Refused, peer: Peer) {
        let reason = match refused {
            Refused::Unauthenticated(_) | Refused::Forbidden(_) | Refused::Unsupported { .. } => refused.message(),
            Refused::TooLarge { .. } | Refused::Timeout(_) => refused.message(),
            // Its message may have parts of the request.
            Refused::Malformed(_) => "the request is malformed; its sender was told why".into(),
            // These come and go by themselves.
            Refused::Full { .. } | Refused::Quota { .. } | Refused::Storage(_) | Refused::Gone => return,
        };
        let mut limits = lock(&self.unsaid);
        if let Some(unsaid) = limits[refused.outcome() as usize].allow() {
            tracing::warn!(%peer, outcome = refused.outcome().name(), unsaid, "refused a request: {reason}");
        }
    }

    async fn hand_over(&self, mut tally: Tally, ready: Ready) -> Result<Accepted, Refused> {
        let Ready { place, sender, request } = ready;
        tally.bytes = request.len() as u64;
        // The intake says so if the bytes are no request.
        tally.spans = span_count(&request).unwrap_or(0);
        let (spans, bytes) = (tally.spans, tally.bytes);
        // Again, because many may have been read at the same time.
        if let Some(retry_after) = sender.meter.wait() {
            tally.settle(Outcome::RefusedQuota, 0);
            return Err(over_quota(&sender, retry_after));
        }
        sender.meter.charge(spans, bytes);
        let intake = self.intake.clone();
        // On its own, so that it is settled and counted also if the sender goes away meanwhile.
        let working = tokio::spawn(async move {
            let result = intake.accept(request, &sender.name).await;
            note(&sender, tally, &result);
            drop(place);
            result.map_err(Refused::from)
        });
        working.await.unwrap_or_else(|_| Err(Refused::Storage("the request could not be worked on".into())))
    }
}

fn note(sender: &Sender, tally: Tally, result: &Result<Accepted, Refusal>) {
    let (spans, bytes) = (tally.spans, tally.bytes);
    match result {
        Ok(accepted) => {
            sender.spans_taken.fetch_add(spans.saturating_sub(accepted.rejected), Relaxed);
            let outcome = if accepted.rejected == 0 { Outcome::Ok } else { Outcome::Partial };
            tally.settle(outcome, accepted.rejected);
        }
        Err(refusal) => {
            sender.meter.give_back(spans, bytes);
            tally.settle(Refused::from(refusal.clone()).outcome(), 0);
        }
    }
}

fn over_quota(sender: &Sender, retry_after: Duration) -> Refused {
    sender.refused_quota.fetch_add(1, Relaxed);
    Refused::Quota { retry_after }
}
