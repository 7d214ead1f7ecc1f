//! A destination's place in the span log, as the exporter wants it.
//!
//! The log is synchronous and touches files, so its work runs on blocking threads.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex},
};

use agent_core::relay::{Choice, apply_choices};
use bytes::{Bytes, BytesMut};
use tokio::sync::watch;

use super::{
    Batch, BatchSource, Limits, Pieces, Queued, SettledAndNext, Unreadable, blocking, bound,
    late::{LateNext, LateSource},
    tail::{Decided, TailFigures, TailLine},
};
use crate::{
    capture::lock,
    config::Destination,
    intake::NO_TENANT,
    log::{self, BlockChoices, Cursor, Fate, LogError, SpanLog, Wanted},
    query::api::hex,
};

/// Bytes of a span, until a batch shows how large they are here.
const SPAN_BYTES_GUESS: u64 = 1024;

/// A cursor of the span log.
#[derive(Debug)]
pub struct LogSource {
    log: SpanLog,
    cursor: Arc<Mutex<Cursor>>,
    appended: watch::Receiver<u64>,
    /// Names the log to destinations, in hexadecimal.
    log_id: String,
    span_bytes: u64,
    /// Batches that are not settled, by their id.
    given: HashMap<u64, Given>,
    late: Arc<Mutex<LateSource>>,
    asked: watch::Receiver<u64>,
    /// What is decided about whole traces; nothing if that is not sampled by.
    tail: Option<Arc<TailLine>>,
    decided: Option<watch::Receiver<Decided>>,
}

/// A batch that was given: number and spans of its blocks, and what was decided about its spans; empty: all are kept.
#[derive(Debug, Default)]
struct Given {
    numbers: Vec<(u64, u32)>,
    choices: Vec<Choice>,
}

impl LogSource {
    /// The place of a destination; a new one begins with the next span.
    pub fn open(log: &SpanLog, to: &Destination) -> Result<Self, LogError> {
        let appended = log.appended();
        let wanted = wanted(log, &to.tenants)?;
        let cursor = Arc::new(Mutex::new(log.cursor(&to.name, wanted.clone())?));
        let tail = TailLine::start(log, to, wanted).map(Arc::new);
        Ok(Self {
            log: log.clone(),
            cursor,
            appended,
            log_id: hex(&log.id()),
            span_bytes: SPAN_BYTES_GUESS,
            given: HashMap::new(),
            late: Arc::new(Mutex::new(LateSource::new(log, to))),
            asked: log.asked(),
            decided: tail.as_ref().map(|tail| tail.moved()),
            tail,
        })
    }

    /// The next batch, after another was settled.
    async fn settle_and_next_of(
        &mut self,
        settled: Option<(u64, Fate)>,
        limits: Limits,
    ) -> SettledAndNext<Batch, String> {
        let (tail, log) = (self.tail.clone(), self.log.clone());
        let done = self.blocking(move |cursor| {
            let (settled, next) = next(cursor, tail.as_deref(), settled, limits);
            if matches!(next, Ok(Some(_))) {
                log.force_places();
            }
            Ok((settled.map_err(|error| error.to_string()), next.map_err(|error| error.to_string())))
        });
        match done.await {
            Ok((settled, next)) => (settled, next.map(|next| next.map(|(chosen, batch)| self.batch(chosen, batch)))),
            // It panicked.
            Err(failure) => (Err(failure.clone()), Err(failure)),
        }
    }

    fn batch(&mut self, chosen: Chosen, batch: log::Batch) -> Batch {
        let left_out = chosen.left_out();
        let Chosen { body, choices, unreadable } = chosen;
        self.given.insert(batch.first_block, Given { numbers: batch.numbers, choices });
        self.span_bytes = batch.bytes as u64 / batch.span_count.max(1);
        Batch {
            id: batch.first_block,
            key: format!("{}-{}-{}", self.log_id, batch.first_block, batch.last_block),
            body,
            spans: batch.span_count,
            left_out,
            unreadable,
            may_be_duplicate: batch.may_be_duplicate,
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Cursor) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, String> {
        let cursor = Arc::clone(&self.cursor);
        blocking(move || work(&mut lock(&cursor))).await
    }
}

impl BatchSource for LogSource {
    type Error = String;

    fn queued(&self) -> Queued {
        let (counts, unread, is_behind) = {
            let cursor = lock(&self.cursor);
            let (unread, is_behind) = match &self.tail {
                Some(tail) => {
                    let decided = tail.decided().span.saturating_sub(cursor.unread_from());
                    (decided.min(cursor.unread()), tail.is_behind())
                }
                None => (cursor.unread(), false),
            };
            (cursor.counts(), unread, is_behind)
        };
        let generated = counts.generated();
        let backlog = if is_behind { counts.queued } else { unread };
        Queued { spans: counts.queued, unread, backlog, unread_bytes: unread * self.span_bytes, generated }
    }

    fn rate_before(&self) -> f64 {
        self.log.rate_before()
    }

    async fn appended(&mut self) {
        let is_open = match &mut self.decided {
            Some(decided) => decided.changed().await.is_ok(),
            None => self.appended.changed().await.is_ok(),
        };
        if !is_open {
            // The log is closed: nothing will ever be appended.
            std::future::pending::<()>().await;
        }
    }

    async fn next(&mut self, limits: Limits) -> Result<Option<Batch>, String> {
        self.settle_and_next_of(None, limits).await.1
    }

    async fn settle_and_next(&mut self, id: u64, fate: Fate, limits: Limits) -> SettledAndNext<Batch, String> {
        self.given.remove(&id);
        self.settle_and_next_of(Some((id, fate)), limits).await
    }

    async fn note(&mut self, id: u64, choices: Vec<Choice>) -> Result<(), String> {
        let Some(given) = self.given.get(&id) else { return Ok(()) };
        let blocks = by_block(&given.numbers, &together(&given.choices, choices));
        if blocks.is_empty() {
            return Ok(());
        }
        self.blocking(move |cursor| cursor.note(&blocks)).await
    }

    async fn settle(&mut self, id: u64, fate: Fate) -> Result<(), String> {
        self.given.remove(&id);
        self.blocking(move |cursor| cursor.settle(id, fate)).await
    }

    async fn revive(&mut self, spans: u64) -> Result<(), String> {
        self.blocking(move |cursor| cursor.revive(spans)).await
    }

    fn tail(&self) -> Option<TailFigures> {
        self.tail.as_ref().map(|tail| tail.figures())
    }

    fn asked(&self) -> Option<watch::Receiver<u64>> {
        Some(self.asked.clone())
    }

    async fn next_late(&mut self, limits: Limits) -> Result<LateNext, String> {
        let late = Arc::clone(&self.late);
        blocking(move || lock(&late).next(limits)).await
    }

    async fn settle_late(&mut self, id: u64, fate: Fate, spans: u64, bytes: u64) -> Result<(), String> {
        let late = Arc::clone(&self.late);
        blocking(move || lock(&late).settle(id, fate, spans, bytes)).await
    }
}

/// The blocks that a destination of these tenants gets.
pub(super) fn wanted(log: &SpanLog, tenants: &[String]) -> Result<Wanted, LogError> {
    let tenants: BTreeSet<u32> = tenants.iter().map(|name| number(log, name)).collect::<Result<_, _>>()?;
    Ok(Wanted { not_local: true, tenants: (!tenants.is_empty()).then_some(tenants) })
}

/// What is sent of a batch, and what was decided about its spans; empty: all are kept.
#[derive(Debug, Default)]
struct Chosen {
    body: Pieces,
    choices: Vec<Choice>,
    unreadable: Vec<Unreadable>,
}

impl Chosen {
    /// Adds what is sent of a block to `body`. One that cannot be read is not sent: some of it may be what was left out.
    fn add(&mut self, body: &mut BytesMut, payload: &Bytes, own: &mut [Choice]) {
        match apply_choices(payload, own) {
            Ok((kept, _)) => body.extend_from_slice(&kept),
            Err(error) => {
                own.fill(Choice::LeftOut);
                let (body, spans, cause) = (payload.clone(), own.len() as u64, error.to_string());
                self.unreadable.push(Unreadable { body, spans, cause });
            }
        }
        self.choices.extend_from_slice(own);
    }

    /// Spans that are left out because that was decided.
    fn left_out(&self) -> u64 {
        let unreadable: u64 = self.unreadable.iter().map(|block| block.spans).sum();
        let left_out = self.choices.iter().filter(|choice| !choice.is_kept()).count() as u64;
        left_out.saturating_sub(unreadable)
    }
}

/// Settles a batch, and takes the next one as far as all is decided about it.
fn next(
    cursor: &mut Cursor,
    tail: Option<&TailLine>,
    settled: Option<(u64, Fate)>,
    limits: Limits,
) -> SettledAndNext<(Chosen, log::Batch), LogError> {
    let (spans, bytes) = (bound(limits.spans), bound(limits.bytes));
    let end_block = tail.map_or(u64::MAX, |tail| tail.decided().block);
    let before = cursor.unread_from();
    let (settled, next) = match settled {
        Some(settled) => cursor.settle_and_next(settled, end_block, spans, bytes),
        None => (Ok(()), cursor.next_batch_before(end_block, spans, bytes)),
    };
    // Also what was settled before the agent ended: it looks no further than some way ahead of that.
    if let Some(tail) = tail.filter(|_| next.is_ok() && cursor.unread_from() > before) {
        tail.taken(cursor.unread_from());
    }
    let chosen = next.map(|batch| {
        batch.map(|mut batch| match tail {
            Some(tail) => (decided(&batch, cursor, tail), batch),
            None => (Chosen { body: std::mem::take(&mut batch.blocks).into(), ..Chosen::default() }, batch),
        })
    });
    (settled, chosen)
}

/// What is sent of a batch whose traces are decided. The choices are noted, so that a repetition sends the same.
fn decided(batch: &log::Batch, cursor: &Cursor, tail: &TailLine) -> Chosen {
    let (mut chosen, mut body) = (Chosen::default(), BytesMut::with_capacity(batch.bytes));
    let mut blocks = Vec::new();
    for (payload, (number, spans)) in batch.blocks.iter().zip(&batch.numbers) {
        let mut own = tail.take(*number);
        if batch.may_be_duplicate {
            let noted = cursor.noted(*number).unwrap_or_default();
            own = if noted.is_empty() { own } else { noted };
        }
        own.resize(*spans as usize, Choice::Kept);
        chosen.add(&mut body, payload, &mut own);
        blocks.push((*number, own));
    }
    if let Err(error) = cursor.note(&blocks) {
        tracing::warn!(destination = cursor.name(), %error, "what was decided about traces cannot be noted");
    }
    Chosen { body: body.freeze().into(), ..chosen }
}

/// What became of spans by two decisions; the second is about those that the first kept. Empty: nothing was left out by the second.
fn together(first: &[Choice], second: Vec<Choice>) -> Vec<Choice> {
    if first.is_empty() || second.is_empty() {
        return second;
    }
    let mut second = second.into_iter();
    let both = |choice: &Choice| match choice {
        Choice::LeftOut => Choice::LeftOut,
        kept if second.next().is_none_or(Choice::is_kept) => *kept,
        _ => Choice::LeftOut,
    };
    first.iter().map(both).collect()
}

/// What was decided about a batch, for those of its blocks of which something was left out.
fn by_block(blocks: &[(u64, u32)], choices: &[Choice]) -> Vec<BlockChoices> {
    let mut rest = choices;
    let mut all = Vec::new();
    for (number, spans) in blocks {
        let (own, others) = rest.split_at((*spans as usize).min(rest.len()));
        rest = others;
        if own.iter().any(|choice| !choice.is_kept()) {
            all.push((*number, own.to_vec()));
        }
    }
    all
}

/// Spans of senders that gave no token have no tenant.
fn number(log: &SpanLog, tenant: &str) -> Result<u32, LogError> {
    if tenant == NO_TENANT { Ok(0) } else { log.tenant(tenant) }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, net::SocketAddr, path::Path};

    use agent_core::{
        redact::{RedactConfig, Redactor, SafeSpan},
        span::{ProcessFacts, Protocol, Span, SpanId, SpanKind, Status, TraceId, UnixNs},
    };

    use super::*;
    use crate::{
        config::{Destination, Export, Interval},
        export::{
            Exporter,
            fakes::{Answer, Fake, block, eventually, names},
        },
        log::LogConfig,
    };

    fn span(id: u8) -> SafeSpan {
        let span = Span {
            trace_id: TraceId([id; 16]),
            span_id: SpanId([id; 8]),
            parent_span_id: None,
            kind: SpanKind::Client,
            name: "GET".into(),
            process: Arc::new(ProcessFacts::default()),
            start: UnixNs(1_700_000_000_000_000_000),
            duration_ns: 1_000,
            status: Status::Ok,
            protocol: Protocol::Http1,
            local: SocketAddr::from(([127, 0, 0, 1], 1)).into(),
            peer: SocketAddr::from(([127, 0, 0, 1], 2)).into(),
            unix_path: None,
            attributes: Vec::new(),
            segments: Vec::new(),
            cause: None,
            links: Vec::new(),
        };
        Redactor::new(RedactConfig::default()).redact(span)
    }

    fn open(folder: &Path) -> SpanLog {
        SpanLog::open(folder, LogConfig::default()).unwrap()
    }

    fn start(log: &SpanLog, fake: &Fake) -> Exporter {
        let mut to = Destination::to(format!("otlp+grpc://{}", fake.address).parse().unwrap());
        to.name = "backend".into();
        to.batch.age = Interval::ms(5);
        let export = Export { destinations: vec![to], shutdown_timeout: Interval::ms(200), ..Export::default() };
        Exporter::start(&export, log.dead_letters(), |to| Ok::<_, Infallible>(LogSource::open(log, to).unwrap()))
            .unwrap()
    }

    #[tokio::test]
    async fn the_place_in_the_log_outlives_the_agent_and_the_accounts_balance() {
        let folder = tempfile::tempdir().unwrap();
        let accounts = |log: &SpanLog| log.destinations()["backend"];

        let hanging = Fake::grpc(&[Answer::Take, Answer::Hang, Answer::Hang], None).await;
        let log = open(folder.path());
        let exporter = start(&log, &hanging);
        log.append(&[span(1), span(2)]).unwrap();
        eventually("delivered", || accounts(&log).delivered == 2).await;
        log.append(&[span(3)]).unwrap();
        eventually("on its way", || hanging.received().len() == 2).await;
        assert_eq!((accounts(&log).queued, accounts(&log).generated()), (1, 3));
        exporter.shutdown().await;
        drop(log);

        let fake = Fake::grpc(&[Answer::Partial { rejected: 1, message: "no" }], None).await;
        let log = open(folder.path());
        let exporter = start(&log, &fake);
        eventually("settled", || accounts(&log).dead == 1).await;
        log.append(&[span(4)]).unwrap();
        eventually("delivered", || accounts(&log).delivered == 3).await;
        let sent: usize = fake.received().iter().map(|received| names(&received.body).len()).sum();
        assert_eq!(sent, 2, "delivered spans are not sent again");
        let counts = accounts(&log);
        assert_eq!((counts.delivered, counts.queued, counts.dead, counts.dropped), (3, 0, 1, 0));
        assert_eq!(counts.generated(), 4);
        assert_eq!(exporter.destinations()[0].counts().possible_duplicates, 1, "the one that hung");
    }

    #[tokio::test]
    async fn after_a_power_failure_only_the_batch_on_its_way_comes_again() {
        let folder = tempfile::tempdir().unwrap();
        let fake = Fake::grpc(&[Answer::Take, Answer::Take, Answer::Hang], None).await;
        let log = open(folder.path());
        let _exporter = start(&log, &fake);
        for id in 1..=3 {
            log.append(&[span(id)]).unwrap();
            eventually("sent", || fake.received().len() == usize::from(id)).await;
        }
        // The destination has the third: whatever happens to the machine from here on.
        log.force_blocks();
        let left = log.after_power_failure();
        let log = open(left.path());
        let mut cursor = log.cursor("backend", Wanted::default()).unwrap();
        let again = cursor.next_batch(10, 1 << 20).unwrap().unwrap();
        assert_eq!((cursor.counts().delivered, again.span_count, again.may_be_duplicate), (2, 1, true));
        assert_eq!(cursor.next_batch(10, 1 << 20).unwrap(), None);
    }

    #[test]
    fn a_block_that_choices_cannot_be_applied_to_is_not_sent() {
        let (good, spans) = block(&["kept", "left out"]);
        let (mut chosen, mut body) = (Chosen::default(), BytesMut::new());
        chosen.add(&mut body, &good, &mut [Choice::Kept, Choice::LeftOut]);
        chosen.add(&mut body, &Bytes::from_static(&[0xff; 9]), &mut [Choice::Kept; 3]);
        assert_eq!((spans, names(&body.freeze())), (2, vec!["kept".to_owned()]));
        assert_eq!((chosen.left_out(), chosen.choices.len()), (1, 5), "those that cannot be read are not left out");
        let unreadable: Vec<(usize, u64)> =
            chosen.unreadable.iter().map(|block| (block.body.len(), block.spans)).collect();
        assert_eq!(unreadable, [(9, 3)]);
    }
}
