//! The relayed blocks that were appended last, in memory: a destination that keeps up gets them without reading back and checking what
//! the agent has only just written.
//!
//! In: each relayed block when readers may see it in its file; how far each open cursor has read. Out: the same bytes.
//! Belongs to [`State`](super::State) and is under its lock, so that a block is never here longer than its segment is. Kept is only
//! what some cursor is about to read. Who is further behind reads the files, as do queries of whole segments, and so does everyone
//! for this host's own spans: the room that they are encoded in is used again at once.
//!
//! Limits: [`BYTES_MAX`], [`BLOCKS_MAX`]. A block is not copied, so it keeps the buffer that its request came in, and counts as that; small ones,
//! of which many would keep buffers that are much larger, are copied.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
};

use bytes::Bytes;

use super::block::BlockHeader;

/// Most bytes that are kept.
pub(super) const BYTES_MAX: usize = 8 << 20;
/// Most blocks.
pub(super) const BLOCKS_MAX: usize = 1_024;
/// A cursor that is no more blocks than this behind the last one is about to have read all.
pub(super) const NEAR_BLOCKS: u64 = 64;
/// Blocks up to this size are copied.
const COPIED_BYTES_MAX: usize = 16 << 10;
/// The receivers' largest buffer that may have come in one piece; others count as their own length at least.
const BUFFER_BYTES_MAX: usize = 128 << 10;

/// A block that is kept.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub header: BlockHeader,
    /// Nothing: it is for this host only. Destinations pass it, and who wants it reads the file.
    pub payload: Option<Bytes>,
    /// The first block of its segment.
    pub segment: u64,
    /// Where in the segment it is.
    pub range: Range<u64>,
}

/// What is kept, oldest first.
#[derive(Debug, Default)]
pub(super) struct Recent {
    blocks: VecDeque<Kept>,
    bytes: usize,
    /// The next block of each open cursor.
    cursors: BTreeMap<String, u64>,
}

impl Recent {
    /// Keeps a block that was appended, if a cursor is near.
    pub fn push(&mut self, mut kept: Kept) {
        let number = kept.number();
        let first = self.blocks.front().map_or(number, Kept::number);
        if !self.cursors.values().any(|next| *next >= first || is_near(*next, number)) {
            self.blocks.clear();
            self.bytes = 0;
            return;
        }
        if let Some(payload) = kept.payload.as_mut().filter(|payload| payload.len() <= COPIED_BYTES_MAX) {
            *payload = Bytes::copy_from_slice(payload);
        }
        self.bytes += kept.bytes();
        self.blocks.push_back(kept);
        while self.bytes > BYTES_MAX || self.blocks.len() > BLOCKS_MAX {
            self.pop();
        }
    }

    /// The blocks from this one on, as far as each is followed by the next.
    pub fn from(&self, block: u64) -> impl Iterator<Item = &Kept> {
        let first = self.blocks.binary_search_by_key(&block, Kept::number).unwrap_or(self.blocks.len());
        self.blocks
            .range(first..)
            .zip(block..)
            .take_while(|(kept, number)| kept.number() == *number)
            .map(|(kept, _)| kept)
    }

    /// Where in a segment the next block behind `offset` begins that is kept.
    pub fn begin_behind(&self, segment: u64, offset: u64) -> Option<u64> {
        let mut begins = self.blocks.iter().filter(|kept| kept.segment == segment).map(|kept| kept.range.start);
        begins.find(|begin| *begin > offset)
    }

    /// A cursor has read up to this block. What all that are near have read goes.
    pub fn read_to(&mut self, cursor: &str, block: u64) {
        match self.cursors.get_mut(cursor) {
            Some(next) => *next = block,
            None => drop(self.cursors.insert(cursor.to_owned(), block)),
        }
        self.forget_read();
    }

    /// A cursor is closed.
    pub fn closed(&mut self, cursor: &str) {
        self.cursors.remove(cursor);
        self.forget_read();
    }

    /// Lets go of the blocks before this one: their segment is deleted.
    pub fn forget_before(&mut self, block: u64) {
        while self.blocks.front().is_some_and(|kept| kept.number() < block) {
            self.pop();
        }
    }

    fn forget_read(&mut self) {
        let Some(oldest) = self.blocks.front().map(Kept::number) else { return };
        let near = self.cursors.values().copied().filter(|next| is_near(*next, oldest));
        self.forget_before(near.min().unwrap_or(u64::MAX));
    }

    fn pop(&mut self) {
        if let Some(kept) = self.blocks.pop_front() {
            self.bytes -= kept.bytes();
        }
    }

    /// Bytes that are kept.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Kept {
    fn number(&self) -> u64 {
        self.header.block
    }

    /// What it takes.
    fn bytes(&self) -> usize {
        match self.payload.as_ref().map_or(0, Bytes::len) {
            copied @ ..=COPIED_BYTES_MAX => copied,
            length => length.max(BUFFER_BYTES_MAX),
        }
    }
}

/// Whether a cursor at `next` is about to read the block, or has read it.
fn is_near(next: u64, block: u64) -> bool {
    next.saturating_add(NEAR_BLOCKS) >= block
}
