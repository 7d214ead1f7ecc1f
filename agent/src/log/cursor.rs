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
    reader::{Position, READ_BYTES, READ_SPANS, Read, Reader, Wanted},
    segment::SegmentMeta,
    store::{Saved, SavedBatch},
};

/// Most batches that are not settled, and runs of settled ones between them. All are saved with each step of the place.
const OPEN_MAX: usize = 1_024;

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
    /// Why the place could not be saved when the last batch was given out.
    unsaved: Option<LogError>,
}

/// A batch that was given out; or a place without anything to send, which is settled from the start. Settled neighbours are one.
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
            state.recent.read_to(name, saved.counts.next.block);
            (saved.counts, saved.open)
        };
        let reader = Reader::at(Arc::clone(&inner), counts.next).wanting(wanted);
        let mut cursor =
            Self { inner, name: name.to_owned(), reader, open: VecDeque::new(), again: joined(again), unsaved: None };
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
    /// now; wait on [`SpanLog::appended`](super::SpanLog::appended). So many may be open that there are none before one is settled.
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
        while !self.is_full() {
            let again = self.again.front().copied();
            let read = match again {
                Some(again) if again.fate.is_some() => {
                    self.pass(again)?;
                    continue;
                }
                Some(again) if again.last_block >= end_block => return Ok(None),
                Some(again) => self.reader.read_to(again.last_block)?,
                None => self.reader.read_before(end_block, spans_max, bytes_max)?,
            };
            self.inner.state().recent.read_to(&self.name, self.reader.next_block());
            self.again.pop_front();
            let batch = self.given(read, again.is_some());
            if batch.is_some() || (again.is_none() && self.again.is_empty()) {
                return Ok(batch);
            }
        }
        Ok(None)
    }

    /// Reads over a part of what was settled before the agent ended. There may be much of it: it is not kept in memory.
    fn pass(&mut self, again: SavedBatch) -> Result<(), LogError> {
        let read = self.reader.read_before(again.last_block.saturating_add(1), READ_SPANS, READ_BYTES)?;
        if read == Read::default() {
            self.again.pop_front();
            // What cannot be saved now is saved with the next.
            let _ = self.advance();
            return Ok(());
        }
        let Read { blocks, lost_spans: lost, passed_spans: passed } = read;
        let spans = blocks.iter().map(|block| u64::from(block.header.span_count)).sum();
        let (fate, rest) = again.fate.unwrap_or_default().split(spans);
        let numbers = blocks.first().zip(blocks.last());
        let (first_block, last_block) = numbers.map_or((0, 0), |(a, b)| (a.header.block, b.header.block));
        let end = self.reader.position();
        self.push(Open { first_block, last_block, end, spans, lost, passed, fate: Some(fate) });
        if let Some(front) = self.again.front_mut() {
            front.fate = Some(rest);
        }
        Ok(())
    }

    /// Notes what was read as given out; `None`: there is nothing to send in it.
    fn given(&mut self, read: Read, is_again: bool) -> Option<Batch> {
        let span_count = read.blocks.iter().map(|block| u64::from(block.header.span_count)).sum();
        let numbers = read.blocks.first().zip(read.blocks.last());
        let (first_block, last_block) = numbers.map_or((0, 0), |(a, b)| (a.header.block, b.header.block));
        let (lost, passed) = (read.lost_spans, read.passed_spans);
        let fate = numbers.is_none().then(Fate::default);
        if lost + passed + span_count > 0 {
            let end = self.reader.position();
            self.push(Open { first_block, last_block, end, spans: span_count, lost, passed, fate });
            // What cannot be saved now is saved with the next.
            self.unsaved = self.advance().err();
        }
        Some(Batch {
            span_count,
            bytes: read.blocks.iter().map(|block| block.payload.len()).sum(),
            oldest_appended_unix_ns: read.blocks.first()?.header.appended_unix_ns,
            first_block,
            last_block,
            may_be_duplicate: is_again,
            numbers: read.blocks.iter().map(|block| (block.header.block, block.header.span_count)).collect(),
            blocks: read.blocks.into_iter().map(|block| block.payload).collect(),
        })
    }

    /// Says what became of a batch. The place moves on over everything that is settled without a gap.
    ///
    /// # Errors
    /// The batch is not open; or the place could not be saved: it is kept in memory and saved with the next.
    pub fn settle(&mut self, first_block: u64, fate: Fate) -> Result<(), LogError> {
        self.note_settled(first_block, fate)?;
        self.advance()
    }

    /// As [`Cursor::settle`] and then [`Cursor::next_batch_before`], saved at once.
    ///
    /// # Errors
    /// As there, each its own.
    pub fn settle_and_next(
        &mut self,
        (first_block, fate): (u64, Fate),
        end_block: u64,
        spans_max: usize,
        bytes_max: usize,
    ) -> (Result<(), LogError>, Result<Option<Batch>, LogError>) {
        let settled = self.note_settled(first_block, fate);
        let next = self.next_batch_before(end_block, spans_max, bytes_max);
        let saved = match next {
            // When a batch is given out that is saved, with what was settled before.
            Ok(Some(_)) => self.unsaved.take().map_or(Ok(()), Err),
            _ => self.advance(),
        };
        (settled.and(saved), next)
    }

    fn note_settled(&mut self, first_block: u64, fate: Fate) -> Result<(), LogError> {
        let is_it = |open: &Open| open.first_block == first_block && open.fate.is_none();
        let Some(index) = self.open.iter().position(is_it) else {
            return Err(LogError::NotOpen { name: self.name.clone(), first: first_block });
        };
        let open = &mut self.open[index];
        open.fate = Some(fate.split(open.spans).0);
        self.merge(index + 1);
        self.merge(index);
        Ok(())
    }

    fn push(&mut self, open: Open) {
        if open.spans + open.lost + open.passed == 0 {
            return;
        }
        self.open.push_back(open);
        self.merge(self.open.len() - 1);
        if self.is_full() {
            tracing::error!(
                destination = self.name,
                open = self.open.len(),
                "so many batches are not settled that it gets no more before one is"
            );
        }
    }

    /// Joins the batch at this index and the one before it, if it is known what became of both.
    fn merge(&mut self, index: usize) {
        let is_settled = |index: usize| self.open.get(index).is_some_and(|open| open.fate.is_some());
        if index == 0 || !is_settled(index) || !is_settled(index - 1) {
            return;
        }
        if let Some(next) = self.open.remove(index) {
            self.open[index - 1].join(&next);
        }
    }

    /// Whether so many batches are open that no more are given out.
    pub fn is_full(&self) -> bool {
        self.open.len() >= OPEN_MAX
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

    /// Spans that were not given out yet; of what was appended since the last read, all. None, if no more are given out now.
    pub fn unread(&self) -> u64 {
        if self.is_full() {
            return 0;
        }
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
                counts.delivered += open.spans - fate.dead - fate.filtered;
                counts.dead += fate.dead;
                counts.dropped += open.lost;
                counts.filtered += open.passed + fate.filtered;
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

impl Fate {
    /// That of so many spans, and that of the others.
    fn split(self, spans: u64) -> (Self, Self) {
        let dead = self.dead.min(spans);
        let filtered = self.filtered.min(spans - dead);
        (Self { dead, filtered }, Self { dead: self.dead - dead, filtered: self.filtered - filtered })
    }

    fn and(self, other: Self) -> Self {
        Self { dead: self.dead + other.dead, filtered: self.filtered + other.filtered }
    }
}

impl Open {
    /// Takes what comes behind it; it is known what became of both.
    fn join(&mut self, next: &Self) {
        if self.spans == 0 {
            self.first_block = next.first_block;
        }
        if next.spans > 0 {
            self.last_block = next.last_block;
        }
        self.end = next.end;
        self.spans += next.spans;
        self.lost += next.lost;
        self.passed += next.passed;
        self.fate = Some(self.fate.unwrap_or_default().and(next.fate.unwrap_or_default()));
    }
}

/// Settled neighbours as one.
fn joined(batches: Vec<SavedBatch>) -> VecDeque<SavedBatch> {
    let mut joined: VecDeque<SavedBatch> = VecDeque::new();
    for next in batches {
        match (joined.back_mut(), next.fate) {
            (Some(SavedBatch { last_block, fate: Some(fate), .. }), Some(other)) => {
                *last_block = next.last_block;
                *fate = fate.and(other);
            }
            _ => joined.push_back(next),
        }
    }
    joined
}

impl Drop for Cursor {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        state.cursors.remove(&self.name);
        state.recent.closed(&self.name);
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
