//! One batch on its way: sent until the destination takes or refuses it, in parts if need be.
//!
//! In: a batch. Out: what became of its spans, the refused ones among the dead letters. Run by the worker, several at a time. A
//! request that is refused for good is halved until the spans that the destination does not want are alone: they become dead
//! letters, all others are delivered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use agent_core::{
    cause::words::{counted, verb},
    relay::{Choice, Threshold},
    wire::{self, Shape},
};
use bytes::Bytes;
use tokio::{
    sync::{OnceCell, watch},
    time::{Instant, sleep, sleep_until},
};
use tracing::{info, warn};

use super::{
    Batch, DestinationStats, ExportError, Pieces,
    adapt::Adapt,
    blocking,
    client::Client,
    gate::Gate,
    pace::Pace,
    retry::{AgainKind, Backoff, Outcome},
};
use crate::{
    capture::lock,
    config::{self, Destination, Retry, Sampling, Segments},
    log::{DeadLetters, Fate, Letter},
    otlp,
    telemetry::log::RateLimit,
};

/// Time between two messages about the same trouble.
const MESSAGE_INTERVAL: Duration = Duration::from_secs(60);
/// Single spans that are refused in a row before the rest of a batch is taken for refused as well.
const REFUSED_ALONE_MAX: u32 = 16;
/// After so many batches of which nothing was taken, refusals are not about single spans: only each so many-th is halved then.
const HOPELESS: u32 = 3;
const HOPELESS_TRIAL: u32 = 16;

/// What all requests of a destination share.
pub(super) struct Line {
    pub client: Client,
    pub gate: Gate,
    pub pace: Pace,
    pub stats: Arc<DestinationStats>,
    pub letters: DeadLetters,
    /// Which spans it gets.
    shape: Arc<Shape>,
    pub adapt: Adapt,
    /// Whether segments are sent as child spans.
    segment_spans: bool,
    retry: Retry,
    messages: std::sync::Mutex<RateLimit>,
    /// Batches in a row of which nothing was taken.
    refused: AtomicU32,
}

/// A part of a batch, as it stands in the log.
struct Part {
    key: String,
    body: Pieces,
    spans: u64,
    /// As it is sent, the same in every attempt.
    sent: OnceCell<Pieces>,
}

impl Part {
    fn new(key: String, body: impl Into<Pieces>, spans: u64) -> Self {
        Self { key, body: body.into(), spans, sent: OnceCell::new() }
    }
}

/// What became of a part.
enum Sent {
    Taken { rejected: u64 },
    Split(Box<[Part; 2]>),
    Refused { cause: String },
}

impl Line {
    pub(super) fn new(
        destination: &Destination,
        client: Client,
        stats: Arc<DestinationStats>,
        letters: DeadLetters,
    ) -> Result<Self, ExportError> {
        let Sampling { ratio, keep_errors, .. } = destination.sampling;
        // Of whole traces the source decides.
        let ratio = if destination.sampling.tail.is_some() { 1.0 } else { ratio };
        let shape = config::shape(&destination.filter, ratio, keep_errors)
            .map_err(|cause| ExportError::Shape { destination: destination.name.clone(), cause })?;
        let tail = destination.sampling.tail_config();
        tail.map_err(|cause| ExportError::Shape { destination: destination.name.clone(), cause })?;
        Ok(Self {
            shape: Arc::new(shape),
            adapt: Adapt::new(&destination.sampling),
            client,
            gate: Gate::new(&destination.retry),
            pace: Pace::new(&destination.pace),
            stats,
            letters,
            segment_spans: destination.segments == Segments::Spans,
            retry: destination.retry.clone(),
            messages: std::sync::Mutex::new(RateLimit::new(MESSAGE_INTERVAL)),
            refused: AtomicU32::new(0),
        })
    }

    /// Sends a batch until all of it is taken or among the dead letters; also says what was decided about each of its spans, unless
    /// all of it was sent. `None`: the deadline came first; nothing is settled.
    pub(super) async fn deliver(
        &self,
        batch: Batch,
        stop: &mut watch::Receiver<Option<Instant>>,
    ) -> Option<(Fate, Vec<Choice>)> {
        if batch.left_out > 0 {
            self.stats.count_shaped(0, batch.left_out);
        }
        let unreadable = self.bury_unreadable(&batch, stop).await?;
        let whole = Part::new(batch.key, batch.body, batch.spans.saturating_sub(batch.left_out + unreadable));
        let (part, choices) = match self.shaped(&whole).await {
            Ok(shaped) => shaped,
            Err(cause) => {
                let cause = format!("filter and sampling cannot read it: {cause}");
                self.bury(&whole, whole.spans, &cause, stop).await?;
                let fate = Fate { dead: whole.spans + unreadable, filtered: batch.left_out };
                return Some((fate, Vec::new()));
            }
        };
        let filtered = batch.spans.saturating_sub(part.spans + unreadable);
        let fate = self.deliver_part(part, stop).await?;
        Some((Fate { filtered, dead: fate.dead + unreadable }, choices))
    }

    /// What cannot be judged may be what the destination must not get: it is kept as dead letters. Gives how many spans that are.
    async fn bury_unreadable(&self, batch: &Batch, stop: &mut watch::Receiver<Option<Instant>>) -> Option<u64> {
        let mut spans = 0;
        for block in &batch.unreadable {
            let part = Part::new(batch.key.clone(), block.body.clone(), block.spans);
            let cause = format!("what was decided about its traces cannot be applied to it: {}", block.cause);
            self.bury(&part, part.spans, &cause, stop).await?;
            spans += part.spans;
        }
        Some(spans)
    }

    /// Sends spans that were asked for, as they are. `None`: as in [`Self::deliver`].
    pub(super) async fn deliver_late(&self, batch: Batch, stop: &mut watch::Receiver<Option<Instant>>) -> Option<Fate> {
        let spans = batch.spans;
        let fate = self.deliver_part(Part::new(batch.key, batch.body, spans), stop).await?;
        self.stats.count_late(spans.saturating_sub(fate.dead));
        Some(fate)
    }

    async fn deliver_part(&self, part: Part, stop: &mut watch::Receiver<Option<Instant>>) -> Option<Fate> {
        let mut fate = Fate::default();
        let mut taken = 0;
        let mut parts = if part.spans > 0 { vec![part] } else { vec![] };
        let was_sent = !parts.is_empty();
        let mut refused_alone = 0;
        while let Some(part) = parts.pop() {
            let may_split = taken > 0 || refused_alone < REFUSED_ALONE_MAX;
            match self.send(&part, may_split, stop).await? {
                Sent::Taken { rejected } => {
                    taken += part.spans - rejected;
                    fate.dead += rejected;
                }
                Sent::Split(halves) => {
                    let [first, second] = *halves;
                    parts.extend([second, first]);
                }
                Sent::Refused { cause } => {
                    refused_alone += 1;
                    fate.dead += part.spans;
                    self.bury(&part, part.spans, &cause, stop).await?;
                }
            }
        }
        if was_sent {
            let refused = if taken > 0 { 0 } else { self.refused.load(Relaxed).saturating_add(1) };
            self.refused.store(refused, Relaxed);
        }
        Some(fate)
    }

    /// The spans that the destination gets, and what was decided about each unless it gets all. What cannot be judged may be what it
    /// must not get.
    async fn shaped(&self, part: &Part) -> Result<(Part, Vec<Choice>), String> {
        let at_least = self.adapt.threshold();
        if part.spans == 0 || self.shape.is_identity() && at_least == Threshold::ALWAYS {
            return Ok((Part::new(part.key.clone(), part.body.clone(), part.spans), Vec::new()));
        }
        let (shape, body) = (Arc::clone(&self.shape), part.body.clone());
        let shaped = blocking(move || {
            let body = body.joined();
            let mut choices = Vec::new();
            let (shaped, counts) = shape.apply_noting(&body, at_least, &mut choices)?;
            Ok::<_, wire::Malformed>((Bytes::copy_from_slice(&shaped), counts, choices))
        });
        let (body, counts, choices) = shaped.await?;
        self.stats.count_shaped(counts.filtered, counts.sampled_out);
        Ok((Part::new(part.key.clone(), body, counts.kept), choices))
    }

    /// Sends a dead letter again: whole, as it is. `None`: the deadline came first. `Err`: refused again.
    pub(super) async fn resend(
        &self,
        letter: &Letter,
        stop: &mut watch::Receiver<Option<Instant>>,
    ) -> Option<Result<(), String>> {
        let part = Part::new(letter.key.clone(), letter.payload.clone(), letter.spans);
        let fate = loop {
            match self.request(&part, stop).await? {
                Outcome::Delivered { rejected: 0, .. } => break Ok(()),
                Outcome::Delivered { rejected, message } => {
                    break Err(format!("{} refused: {message}", counted(rejected, "span")));
                }
                Outcome::Partly { spans, cause, .. } => {
                    break Err(format!("{} refused: {cause}", counted(spans, "span")));
                }
                Outcome::Never { cause } | Outcome::TooLarge { cause } => break Err(cause),
                Outcome::Again { .. } => {}
            }
        };
        self.stats.count_attempted(part.spans);
        Some(fate)
    }

    /// Sends a part until it is taken or refused for good.
    async fn send(&self, part: &Part, may_split: bool, stop: &mut watch::Receiver<Option<Instant>>) -> Option<Sent> {
        loop {
            match self.request(part, stop).await? {
                Outcome::Delivered { rejected, message } => {
                    let rejected = rejected.min(part.spans);
                    if rejected > 0 {
                        let reason = format!(
                            "{rejected} of {} {} refused: {message}",
                            counted(part.spans, "span"),
                            verb(rejected, "was", "were")
                        );
                        self.trouble(&reason);
                        self.bury(part, rejected, &reason, stop).await?;
                    }
                    self.stats.count_attempted(part.spans);
                    self.stats.count_delivered(part.spans, rejected);
                    return Some(Sent::Taken { rejected });
                }
                Outcome::Partly { refused, spans, cause } => {
                    let spans = spans.min(part.spans);
                    self.bury(&Part::new(part.key.clone(), refused, spans), spans, &cause, stop).await?;
                    self.stats.count_attempted(part.spans);
                    self.stats.count_delivered(part.spans, spans);
                    return Some(Sent::Taken { rejected: spans });
                }
                Outcome::Never { cause } => {
                    let halves = if may_split && self.should_split(part) { halves(part) } else { None };
                    return Some(halves.unwrap_or_else(|| self.refused(part, cause)));
                }
                Outcome::TooLarge { cause } => {
                    let halves = if part.spans > 1 { halves(part) } else { None };
                    return Some(halves.unwrap_or_else(|| self.refused(part, cause)));
                }
                Outcome::Again { .. } => {}
            }
        }
    }

    fn refused(&self, part: &Part, cause: String) -> Sent {
        self.stats.count_attempted(part.spans);
        Sent::Refused { cause }
    }

    /// One request, as soon as the destination may be asked; its failures are told.
    async fn request(&self, part: &Part, stop: &mut watch::Receiver<Option<Instant>>) -> Option<Outcome> {
        let pass = before_stop(stop, self.gate.pass()).await?;
        let wait = self.pace.wait(part.spans, part.body.len() as u64);
        if !wait.is_zero() {
            before_stop(stop, sleep(wait)).await?;
        }
        let body = part.sent.get_or_init(|| self.as_sent(&part.body)).await.clone();
        let (bytes, began) = (body.len() as u64, Instant::now());
        let outcome = before_stop(stop, self.client.send(body, &part.key)).await?;
        self.stats.count_request(&outcome, bytes, began.elapsed());
        self.stats.set_sent_bytes(self.client.sent());
        match &outcome {
            Outcome::Again { kind, after, cause } => {
                match kind {
                    AgainKind::RateLimited => self.adapt.press(),
                    // It may have been taken.
                    AgainKind::Timeout | AgainKind::Unanswered => self.stats.count_possible_duplicates(part.spans),
                    _ => {}
                }
                pass.failed(*after);
                self.stats.count_attempted(part.spans);
                self.failing(cause);
            }
            Outcome::Delivered { .. } | Outcome::Partly { .. } | Outcome::Never { .. } | Outcome::TooLarge { .. } => {
                if let Some(failed_for) = pass.succeeded() {
                    self.pace.returned(failed_for);
                    info!(destination = self.stats.name(), ?failed_for, "destination answers again");
                }
                self.stats.set_failing(false);
            }
        }
        Some(outcome)
    }

    /// Of what the destination then refuses, at most the log's own spans count: nobody can say whether a refused one was a child.
    async fn as_sent(&self, body: &Pieces) -> Pieces {
        if !self.segment_spans {
            return body.clone();
        }
        let bytes = body.clone();
        match blocking(move || otlp::with_segment_spans(&bytes.joined())).await {
            Ok(shaped) => shaped.into(),
            Err(error) => {
                self.trouble(&format!("spans are sent without their segments as children: {error}"));
                body.clone()
            }
        }
    }

    fn should_split(&self, part: &Part) -> bool {
        let refused = self.refused.load(Relaxed);
        part.spans > 1 && (refused < HOPELESS || refused.is_multiple_of(HOPELESS_TRIAL))
    }

    /// Keeps spans as a dead letter. As long as that is impossible the destination waits: its spans are still in the log.
    async fn bury(
        &self,
        part: &Part,
        spans: u64,
        reason: &str,
        stop: &mut watch::Receiver<Option<Instant>>,
    ) -> Option<()> {
        let payload = part.body.to_vec();
        let letter = Letter {
            destination: self.stats.name().to_owned(),
            // Other spans may come under the same key: numbers of blocks begin anew when the log was lost, and filters change.
            key: format!("{}#{:08x}", part.key, crc32fast::hash(&payload)),
            reason: reason.to_owned(),
            spans,
            is_suspect: spans < part.spans,
            payload,
            ..Letter::default()
        };
        let letter = Arc::new(letter);
        let (mut backoff, mut has_waited) = (Backoff::new(&self.retry), false);
        loop {
            let (letters, letter) = (self.letters.clone(), Arc::clone(&letter));
            match blocking(move || letters.put(&letter)).await {
                Ok(()) => break,
                Err(error) => self.failing(&error),
            }
            has_waited = true;
            before_stop(stop, sleep(backoff.wait(None))).await?;
        }
        if has_waited {
            self.stats.set_failing(false);
        }
        let refused = format!("{} {} refused", counted(spans, "span"), verb(spans, "was", "were"));
        let kept = verb(spans, "is", "are");
        self.trouble(&format!("{refused} for good and {kept} kept as a dead letter: {reason}"));
        self.stats.count_dead(spans);
        Some(())
    }

    /// Spans do not arrive until something changes.
    pub(super) fn failing(&self, what: &str) {
        self.stats.set_failing(true);
        self.trouble(what);
    }

    /// Something is wrong that does not keep spans from arriving, or only some.
    pub(super) fn trouble(&self, what: &str) {
        self.stats.note_error(what);
        if let Some(unsaid) = lock(&self.messages).allow() {
            warn!(destination = self.stats.name(), unsaid, "{what}");
        }
    }
}

/// The halves of a part; `None` if its bytes cannot be split.
fn halves(part: &Part) -> Option<Sent> {
    let first = part.spans / 2;
    let (left, right) = wire::split(&part.body.joined(), u32::try_from(first).ok()?).ok()?;
    let half = |place: u32, body: Vec<u8>, spans| Part::new(format!("{}/{place}", part.key), body, spans);
    Some(Sent::Split(Box::new([half(0, left, first), half(1, right, part.spans - first)])))
}

/// What the future gives; `None`: the deadline of a stop came first.
pub(super) async fn before_stop<T>(
    stop: &mut watch::Receiver<Option<Instant>>,
    future: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        done = future => Some(done),
        () = stopped(stop) => None,
    }
}

/// Completes at the deadline of a stop.
pub(super) async fn stopped(stop: &mut watch::Receiver<Option<Instant>>) {
    // The sender is gone: stop now.
    let Ok(deadline) = stop.wait_for(Option::is_some).await.map(|deadline| *deadline) else { return };
    if let Some(deadline) = deadline {
        sleep_until(deadline).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        export::{
            Unreadable,
            fakes::{Answer, Fake, block, destination, names},
        },
        log::Which,
    };

    #[tokio::test]
    async fn spans_that_somebody_asked_for_count_as_attempted_and_late() {
        let fake = Fake::http(&[Answer::Http { status: 503, retry_after: None, body: "" }], None).await;
        let to = destination(&format!("otlp+http://{}/v1/traces", fake.address));
        let letters = DeadLetters::open(std::path::Path::new(":memory:"), 1 << 20).unwrap();
        let stats = Arc::new(DestinationStats::new(&to));
        let line = Line::new(&to, Client::new(&to).unwrap(), Arc::clone(&stats), letters).unwrap();
        let (_stop, mut stopped) = watch::channel(None);
        let (body, spans) = block(&["a", "b"]);
        let (key, body, unreadable) = ("log-late-1".into(), body.into(), Vec::new());
        let batch = Batch { id: 0, key, body, spans, left_out: 0, unreadable, may_be_duplicate: false };
        line.deliver_late(batch, &mut stopped).await.unwrap();
        // One attempt failed.
        assert_eq!((stats.counts().attempted, stats.counts().late), (4, 2));
    }

    #[tokio::test]
    async fn what_cannot_be_judged_is_kept_as_a_dead_letter_and_the_rest_is_sent() {
        let fake = Fake::http(&[], None).await;
        let to = destination(&format!("otlp+http://{}/v1/traces", fake.address));
        let letters = DeadLetters::open(std::path::Path::new(":memory:"), 1 << 20).unwrap();
        let stats = Arc::new(DestinationStats::new(&to));
        let line = Line::new(&to, Client::new(&to).unwrap(), stats, letters.clone()).unwrap();
        let (_stop, mut stopped) = watch::channel(None);
        let unreadable = Unreadable { body: Bytes::from_static(&[0xff; 9]), spans: 3, cause: "truncated".into() };
        let batch = Batch {
            id: 0,
            key: "log-0-1".into(),
            body: block(&["kept"]).0.into(),
            spans: 5,
            left_out: 1,
            unreadable: vec![unreadable],
            may_be_duplicate: false,
        };
        let (fate, _) = line.deliver(batch, &mut stopped).await.unwrap();
        assert_eq!((fate.dead, fate.filtered), (3, 1));
        assert_eq!(names(&fake.received()[0].body), ["kept"]);
        let kept = letters.list(&Which::default(), 10).unwrap();
        assert_eq!((kept[0].spans, kept[0].bytes), (3, 9), "{kept:?}");
        assert!(kept[0].reason.contains("truncated"), "{}", kept[0].reason);
    }
}
