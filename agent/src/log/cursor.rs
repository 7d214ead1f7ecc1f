//! A destination's durable place in the log, and its accounts.
//!
//! In: the log. Out: batches of blocks, in order; what became of each goes back in ([`Cursor::ack`], [`Cursor::dead`]). Called by the
//! exporters, one task per cursor. Never loses its place: a batch that was not settled is given out again, also after a
//! restart. Always: generated = delivered + queued + dead + dropped, where generated counts from the cursor's first span.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Inner, LogError, State,
    reader::{Position, Reader},
    store::DeadLetter,
};

/// A destination's accounts, in spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DestinationCounts {
    /// Acknowledged by the destination.
    pub delivered: u64,
    /// Still to be sent.
    pub queued: u64,
    /// Refused by it for good.
    pub dead: u64,
    /// Deleted, damaged or never written before they could be sent.
    pub dropped: u64,
    /// The first span that was meant for it.
    pub(super) start_span: u64,
    /// The first one that is not settled.
    pub(super) next: Position,
}

/// Blocks to be sent together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Payloads; one after the other they are a valid `ExportTraceServiceRequest`.
    pub blocks: Vec<Bytes>,
    /// Spans in them.
    pub span_count: u64,
    /// Bytes of them.
    pub bytes: usize,
    /// When the first of them was appended.
    pub oldest_appended_unix_ns: u64,
    first_block: u64,
    start: Position,
    end: Position,
    lost_spans: u64,
}

/// A destination's place in the log. Settles on drop nothing: what is open comes again.
#[derive(Debug)]
pub struct Cursor {
    inner: Arc<Inner>,
    name: String,
    reader: Reader,
    settled: Position,
}

impl Cursor {
    pub(super) fn open(inner: Arc<Inner>, name: &str) -> Result<Self, LogError> {
        let saved = inner.store.load(name)?;
        let counts = {
            let mut state = inner.state();
            if state.cursors.contains_key(name) {
                return Err(LogError::CursorOpen { name: name.to_owned() });
            }
            let counts = saved.unwrap_or_else(|| new_counts(&state, inner.store.rebuilt()));
            state.cursors.insert(name.to_owned(), counts);
            counts
        };
        let cursor = Self {
            reader: Reader::at(Arc::clone(&inner), counts.next),
            name: name.to_owned(),
            settled: counts.next,
            inner,
        };
        cursor.inner.store.save(name, &counts, None)?;
        Ok(cursor)
    }

    /// The next blocks that are not settled: up to so many spans and bytes, but at least one block. The same ones again, until they are
    /// settled. `None`: everything is settled; wait on [`SpanLog::appended`](super::SpanLog::appended).
    ///
    /// # Errors
    /// A segment file cannot be read.
    pub fn next_batch(&mut self, spans_max: usize, bytes_max: usize) -> Result<Option<Batch>, LogError> {
        self.reader.seek(self.settled);
        let read = self.reader.read(spans_max, bytes_max)?;
        let end = self.reader.position();
        let Some(first) = read.blocks.first() else {
            // Nothing to send, but spans that never got into the log may have been passed.
            if read.lost_spans > 0 {
                self.settle(end, |counts| counts.dropped += read.lost_spans, None)?;
            }
            return Ok(None);
        };
        Ok(Some(Batch {
            span_count: read.blocks.iter().map(|block| u64::from(block.header.span_count)).sum(),
            bytes: read.blocks.iter().map(|block| block.payload.len()).sum(),
            oldest_appended_unix_ns: first.header.appended_unix_ns,
            first_block: first.header.block,
            start: self.settled,
            end,
            lost_spans: read.lost_spans,
            blocks: read.blocks.into_iter().map(|block| block.payload).collect(),
        }))
    }

    /// The destination took the batch, except for `rejected` spans that it refused for good, for a `reason`.
    ///
    /// # Errors
    /// The batch is not the last one given out; or the place could not be saved: it is kept in memory and saved with the next.
    pub fn ack(&mut self, batch: Batch, rejected: u64, reason: &str) -> Result<(), LogError> {
        let rejected = rejected.min(batch.span_count);
        let dead = (rejected > 0).then(|| batch.dead_letter(rejected, reason));
        self.settle_batch(&batch, batch.span_count - rejected, rejected, dead)
    }

    /// The destination refused the whole batch for good. Its spans stay in the log as long as any others.
    ///
    /// # Errors
    /// As [`Cursor::ack`].
    pub fn dead(&mut self, batch: Batch, reason: &str) -> Result<(), LogError> {
        let dead = batch.dead_letter(batch.span_count, reason);
        self.settle_batch(&batch, 0, batch.span_count, Some(dead))
    }

    /// The accounts now.
    pub fn counts(&self) -> DestinationCounts {
        let state = self.inner.state();
        state.cursors.get(&self.name).map_or_else(DestinationCounts::default, |counts| state.account(counts))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn settle_batch(
        &mut self,
        batch: &Batch,
        delivered: u64,
        dead: u64,
        letter: Option<DeadLetter<'_>>,
    ) -> Result<(), LogError> {
        if batch.start != self.settled {
            let (first, last) = (batch.first_block, batch.end.block - 1);
            return Err(LogError::BatchOrder { name: self.name.clone(), first, last });
        }
        let add = |counts: &mut DestinationCounts| {
            counts.delivered += delivered;
            counts.dead += dead;
            counts.dropped += batch.lost_spans;
        };
        self.settle(batch.end, add, letter)
    }

    fn settle(
        &mut self,
        end: Position,
        add: impl FnOnce(&mut DestinationCounts),
        letter: Option<DeadLetter<'_>>,
    ) -> Result<(), LogError> {
        self.settled = end;
        let counts = {
            let mut state = self.inner.state();
            let counts = state.cursors.entry(self.name.clone()).or_default();
            counts.next = end;
            add(counts);
            *counts
        };
        self.inner.store.save(&self.name, &counts, letter)
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        self.inner.state().cursors.remove(&self.name);
    }
}

impl Batch {
    /// Number of its first and of its last block.
    pub fn id(&self) -> (u64, u64) {
        (self.first_block, self.end.block - 1)
    }

    fn dead_letter<'a>(&self, spans: u64, reason: &'a str) -> DeadLetter<'a> {
        let (first_block, last_block) = self.id();
        DeadLetter { first_block, last_block, spans, reason }
    }
}

impl DestinationCounts {
    /// Spans that were meant for the destination.
    pub fn generated(&self) -> u64 {
        self.delivered + self.queued + self.dead + self.dropped
    }
}

impl State {
    /// The accounts of every open cursor.
    pub(super) fn destinations(&self) -> std::collections::BTreeMap<String, DestinationCounts> {
        self.cursors.iter().map(|(name, counts)| (name.clone(), self.account(counts))).collect()
    }

    /// Splits what is not settled into what is still there and what was deleted in the meantime.
    fn account(&self, counts: &DestinationCounts) -> DestinationCounts {
        let oldest = self.segments.first().map_or(self.next_span, |segment| segment.first_span);
        let first = counts.next.span.max(oldest.min(self.next_span));
        DestinationCounts {
            queued: self.next_span.saturating_sub(first),
            dropped: counts.dropped + (first - counts.next.span),
            ..*counts
        }
    }
}

/// A new destination gets what comes from now on, unless its place was lost: then everything that is there.
fn new_counts(state: &State, is_rebuilt: bool) -> DestinationCounts {
    let end = Position { block: state.next_block, span: state.next_span };
    let oldest =
        state.segments.first().map_or(end, |segment| Position { block: segment.first_block, span: segment.first_span });
    let next = if is_rebuilt { oldest } else { end };
    DestinationCounts { start_span: next.span, next, ..Default::default() }
}
