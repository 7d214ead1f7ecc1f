//! A destination's durable place in the log, and its accounts.
//!
//! In: the log. Out: batches of blocks, in order, several at a time; what became of each goes back in, in any order
//! ([`Cursor::settle`]). Called by the exporters, one task per cursor. Never loses its place: what was not settled is given out
//! again after a restart, in the same batches, marked as possible duplicates. Always: generated = delivered + queued + dead +
//! dropped + filtered, where generated counts from the cursor's first span.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    Inner, LogError, State,
    reader::{Position, Read, Reader, Wanted},
    segment::SegmentMeta,
    store::{Saved, SavedBatch},
};

/// A destination's accounts, in spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DestinationCounts {
    /// Acknowledged by the destination.
    pub delivered: u64,
    /// Still to be sent, or not yet looked at.
    pub queued: u64,
    /// Refused by it for good.
    pub dead: u64,
    /// Deleted, damaged or never written before they could be sent.
    pub dropped: u64,
    /// Not meant for it: of another tenant, for this host only, or left out by its own filter or sampling.
    pub filtered: u64,
    /// The first span that was meant for it.
    pub(super) start_span: u64,
    /// The first one that is not settled.
    pub(super) next: Position,
}

/// What became of a batch's spans. Together they are at most the batch's spans; the rest is delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// Refused for good.
    pub dead: u64,
    /// Left out by the destination's filter or sampling.
    pub filtered: u64,
}

/// Blocks to be sent together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Payloads; one after the other they are a valid `ExportTraceServiceRequest`.
    pub blocks: Vec<Bytes>,
    /// Number and spans of each.
    pub numbers: Vec<(u64, u32)>,
    /// Spans in them.
    pub span_count: u64,
    /// Bytes of them.
    pub bytes: usize,
    /// When the first of them was appended.
    pub oldest_appended_unix_ns: u64,
    /// Number of the first block.
    pub first_block: u64,
    /// Number of the last block.
    pub last_block: u64,
    /// Whether it was given out before the agent ended, so that the destination may have it already.
    pub may_be_duplicate: bool,
}

/// A destination's place in the log. Settles on drop nothing: what is open comes again.
#[derive(Debug)]
pub struct Cursor {
    pub(super) inner: Arc<Inner>,
    pub(super) name: String,
    reader: Reader,
    /// Given out and not settled up to its place, in order.
    open: VecDeque<Open>,
    /// Batches that were open when the agent ended.
    again: VecDeque<SavedBatch>,
}

/// A batch that was given out; or a place without anything to send, which is settled from the start.
#[derive(Debug)]
struct Open {
    first_block: u64,
    last_block: u64,
    end: Position,
    spans: u64,
    lost: u64,
    passed: u64,
    fate: Option<Fate>,
}

impl Cursor {
    pub(super) fn open(inner: Arc<Inner>, name: &str, wanted: Wanted) -> Result<Self, LogError> {
        let saved = inner.store.load(name)?;
        let is_new = saved.is_none();
        let (counts, again) = {
            let mut state = inner.state();
            if state.cursors.contains_key(name) {
                return Err(LogError::CursorOpen { name: name.to_owned() });
            }
            let saved = saved.unwrap_or_else(|| Saved::new(new_counts(&state, inner.store.rebuilt())));
            state.cursors.insert(name.to_owned(), saved.counts);
            (saved.counts, saved.open)
        };
        let reader = Reader::at(Arc::clone(&inner), counts.next).wanting(wanted);
        let mut cursor = Self { inner, name: name.to_owned(), reader, open: VecDeque::new(), again: again.into() };
        match cursor.save(counts) {
            // From here on it is meant to get every span: that must survive the machine.
            Ok(()) if is_new => cursor.inner.store.force()?,
            // A full disk is no reason not to drain it.
            Err(error) if !is_new => tracing::warn!(destination = name, %error, "its place cannot be saved now"),
            saved => saved?,
        }
        Ok(cursor)
    }

    /// The next blocks that were not given out: up to so many spans and bytes, but at least one block. `None`: there are no more for
    /// now; wait on [`SpanLog::appended`](super::SpanLog::appended).
    ///
    /// # Errors
    /// A segment file cannot be read. That the place cannot be saved is no error here: then at most more comes twice.
    pub fn next_batch(&mut self, spans_max: usize, bytes_max: usize) -> Result<Option<Batch>, LogError> {
        self.next_batch_before(u64::MAX, spans_max, bytes_max)
    }

    /// As [`Cursor::next_batch`], of the blocks before this one.
    ///
    /// # Errors
    /// As there.
    pub fn next_batch_before(
        &mut self,
        end_block: u64,
        spans_max: usize,
        bytes_max: usize,
    ) -> Result<Option<Batch>, LogError> {
        loop {
            if self.again.front().is_some_and(|again| again.last_block >= end_block) {
                return Ok(None);
            }
            let again = self.again.pop_front();
            let read = match again {
                Some(again) => self.reader.read_to(again.last_block)?,
                None => self.reader.read_before(end_block, spans_max, bytes_max)?,
            };
            let batch = self.given(read, again);
            if batch.is_some() || (again.is_none() && self.again.is_empty()) {
                return Ok(batch);
            }
        }
    }

    /// Notes what was read as given out; `None`: there is nothing to send in it.
    fn given(&mut self, read: Read, again: Option<SavedBatch>) -> Option<Batch> {
        let span_count = read.blocks.iter().map(|block| u64::from(block.header.span_count)).sum();
        let numbers = read.blocks.first().zip(read.blocks.last());
        let (first_block, last_block) = numbers.map_or((0, 0), |(a, b)| (a.header.block, b.header.block));
        let (lost, passed) = (read.lost_spans, read.passed_spans);
        let settled = again.and_then(|again| again.fate);
        let fate = settled.or(numbers.is_none().then(Fate::default));
        if lost + passed + span_count > 0 {
            let end = self.reader.position();
            self.open.push_back(Open { first_block, last_block, end, spans: span_count, lost, passed, fate });
            // What cannot be saved now is saved with the next.
            let _ = self.advance();
        }
        if settled.is_some() {
            return None;
        }
        Some(Batch {
            span_count,
            bytes: read.blocks.iter().map(|block| block.payload.len()).sum(),
            oldest_appended_unix_ns: read.blocks.first()?.header.appended_unix_ns,
            first_block,
            last_block,
            may_be_duplicate: again.is_some(),
            numbers: read.blocks.iter().map(|block| (block.header.block, block.header.span_count)).collect(),
            blocks: read.blocks.into_iter().map(|block| block.payload).collect(),
        })
    }

    /// Says what became of a batch. The place moves on over everything that is settled without a gap.
    ///
    /// # Errors
    /// The batch is not open; or the place could not be saved: it is kept in memory and saved with the next.
    pub fn settle(&mut self, first_block: u64, fate: Fate) -> Result<(), LogError> {
        let open = self.open.iter_mut().find(|open| open.first_block == first_block && open.fate.is_none());
        let Some(open) = open else { return Err(LogError::NotOpen { name: self.name.clone(), first: first_block }) };
        open.fate = Some(fate);
        self.advance()
    }

    /// Spans that were settled as dead were delivered after all.
    ///
    /// # Errors
    /// The accounts could not be saved: they are kept in memory and saved with the next.
    pub fn revive(&mut self, spans: u64) -> Result<(), LogError> {
        let counts = {
            let mut state = self.inner.state();
            let counts = state.cursors.entry(self.name.clone()).or_default();
            let revived = spans.min(counts.dead);
            counts.dead -= revived;
            counts.delivered += revived;
            *counts
        };
        self.save(counts)
    }

    /// The accounts now.
    pub fn counts(&self) -> DestinationCounts {
        let state = self.inner.state();
        state.cursors.get(&self.name).map_or_else(DestinationCounts::default, |counts| state.account(counts))
    }

    /// The first span that was not given out yet.
    pub fn unread_from(&self) -> u64 {
        self.reader.next_span()
    }

    /// Spans that were not given out yet; of what was appended since the last read, all.
    pub fn unread(&self) -> u64 {
        self.inner.state().next_span.saturating_sub(self.reader.position().span)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn advance(&mut self) -> Result<(), LogError> {
        let counts = {
            let mut state = self.inner.state();
            let counts = state.cursors.entry(self.name.clone()).or_default();
            while let Some((open, fate)) = self.open.front().and_then(|open| Some((open, open.fate?))) {
                let dead = fate.dead.min(open.spans);
                let filtered = fate.filtered.min(open.spans - dead);
                counts.delivered += open.spans - dead - filtered;
                counts.dead += dead;
                counts.dropped += open.lost;
                counts.filtered += open.passed + filtered;
                counts.next = open.end;
                self.open.pop_front();
            }
            *counts
        };
        self.save(counts)
    }

    fn save(&mut self, counts: DestinationCounts) -> Result<(), LogError> {
        let saved =
            |open: &Open| SavedBatch { first_block: open.first_block, last_block: open.last_block, fate: open.fate };
        let given = self.open.iter().filter(|open| open.spans > 0).map(saved);
        let open = given.chain(self.again.iter().copied()).collect();
        self.inner.store.save(&self.name, &Saved { counts, open })
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        self.inner.state().cursors.remove(&self.name);
    }
}

impl DestinationCounts {
    /// Spans that were made since the destination's first.
    pub fn generated(&self) -> u64 {
        self.delivered + self.queued + self.dead + self.dropped + self.filtered
    }
}

impl State {
    /// The accounts of every open cursor.
    pub(super) fn destinations(&self) -> BTreeMap<String, DestinationCounts> {
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

    /// Segments that some destination has not settled yet.
    pub(super) fn awaited(&self) -> impl Iterator<Item = &SegmentMeta> {
        let slowest = self.slowest_block();
        let ends = self.segments.iter().skip(1).map(|next| next.first_block).chain([self.next_block]);
        self.segments.iter().zip(ends).filter(move |(_, end)| slowest < *end).map(|(segment, _)| segment)
    }

    /// The first block that some destination has not settled.
    pub(super) fn slowest_block(&self) -> u64 {
        self.cursors.values().map(|counts| counts.next.block).min().unwrap_or(u64::MAX)
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
