//! Reading blocks in order, from anywhere, while the log is written and old segments go.
//!
//! In: a place in the log. Out: blocks with their payload bytes, from memory where they still are there (`recent`), and how many spans are missing
//! before the place reached.
//! Called by [`Cursor`](super::Cursor) and the query server. Never blocks a writer for longer than it takes to copy a few numbers.
//! Limits: one window of [`WINDOW_BYTES_MAX`], or of one block if that is larger, in memory; it is kept for the next read while there is more.

use std::{collections::BTreeSet, fs::File, os::unix::fs::FileExt, sync::Arc};

use bytes::{Bytes, BytesMut};

use super::{
    Inner, LogError,
    block::{BLOCK_HEADER_BYTES, BlockHeader, Flags, Item, PAYLOAD_BYTES_MAX, SEGMENT_HEADER_BYTES, Walk},
    segment::SegmentMeta,
};

/// Spans and bytes that are well read at once by whoever looks at many.
pub const READ_SPANS: usize = 4_096;
/// Likewise.
pub const READ_BYTES: usize = 1 << 20;
/// Bytes read from a file at once: as many as there is room for, between these.
const WINDOW_BYTES_MIN: usize = 256 << 10;
/// Likewise.
const WINDOW_BYTES_MAX: usize = 1 << 20;

/// A block of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its header.
    pub header: BlockHeader,
    /// Protobuf of a `TracesData`, which is also that of an `ExportTraceServiceRequest`.
    pub payload: Bytes,
}

/// What one read found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// Blocks in order; none: there is no more for now.
    pub blocks: Vec<Block>,
    /// Spans that were deleted, damaged or never written, or of a tenant whose name was lost, before the place that was reached.
    pub lost_spans: u64,
    /// Spans of blocks that the reader does not want, before the place that was reached.
    pub passed_spans: u64,
}

/// Which blocks a reader wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Not those that are for this host only.
    pub not_local: bool,
    /// Only those of these tenants, by number; `None`: of all.
    pub tenants: Option<BTreeSet<u32>>,
}

impl Wanted {
    /// Whether it wants a block with these flags.
    pub fn wants(&self, flags: Flags) -> bool {
        !(self.not_local && flags.is_local)
            && self.tenants.as_ref().is_none_or(|tenants| tenants.contains(&flags.tenant))
    }

    /// Whether a block that it does not want is of a tenant of whom nobody knows any more who that was.
    fn may_want(&self, flags: Flags, unnamed: &BTreeSet<u32>) -> bool {
        !(self.not_local && flags.is_local) && unnamed.contains(&flags.tenant)
    }
}

/// A place in the log. Ordered like the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    /// The next block to be read.
    pub block: u64,
    /// The next span.
    pub span: u64,
}

/// Reads on from a place.
#[derive(Debug)]
pub struct Reader {
    inner: Arc<Inner>,
    position: Position,
    open: Option<Open>,
    /// For a reader of one segment: its number. Such a reader ends with the segment.
    only: Option<u64>,
    wanted: Wanted,
    /// The last window, whose room is used again when nobody has a block of it any more. It is longer than what was read last.
    window: Bytes,
}

/// The segment being read; its file stays readable after it was deleted.
#[derive(Debug)]
struct Open {
    /// Not opened yet, if what was read of it was in memory.
    file: Option<File>,
    meta: SegmentMeta,
    offset: u64,
}

/// Where to go on.
enum Place {
    /// In this segment, up to its `bytes`.
    Segment(SegmentMeta),
    /// Everything was read; what is missing up to this place was never written.
    End(Position),
}

impl Reader {
    pub(super) fn at(inner: Arc<Inner>, position: Position) -> Self {
        Self { inner, position, open: None, only: None, wanted: Wanted::default(), window: Bytes::new() }
    }

    pub(super) fn wanting(self, wanted: Wanted) -> Self {
        Self { wanted, ..self }
    }

    pub(super) fn oldest(inner: Arc<Inner>) -> Self {
        let position = {
            let state = inner.state();
            let end = Position { block: state.next_block, span: state.next_span };
            state.segments.first().map_or(end, SegmentMeta::start)
        };
        Self::at(inner, position)
    }

    pub(super) fn new_only(inner: Arc<Inner>) -> Self {
        let position = {
            let state = inner.state();
            Position { block: state.next_block, span: state.next_span }
        };
        Self::at(inner, position)
    }

    pub(super) fn segments_newest_first(inner: &Arc<Inner>, since_unix_ns: u64) -> Vec<Self> {
        let state = inner.state();
        let mut readers = Vec::new();
        // A segment's last span ended before it was appended, which was before the next segment was made.
        let mut closed_unix_ns = u64::MAX;
        for segment in state.segments.iter().rev() {
            if closed_unix_ns < since_unix_ns {
                break;
            }
            closed_unix_ns = segment.created_unix_ns;
            let only = Some(segment.first_block);
            readers.push(Self { only, ..Self::at(Arc::clone(inner), segment.start()) });
        }
        readers
    }

    /// Number of the next span to be read.
    pub fn next_span(&self) -> u64 {
        self.position.span
    }

    /// Number of the next block to be read.
    pub fn next_block(&self) -> u64 {
        self.position.block
    }

    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// Reads up to so many spans and payload bytes, but at least one block if there is one.
    ///
    /// # Errors
    /// A segment file cannot be opened or read.
    pub fn read(&mut self, spans_max: usize, bytes_max: usize) -> Result<Read, LogError> {
        self.read_into(Room { spans: spans_max, bytes: bytes_max, block_max: u64::MAX, is_empty: true })
    }

    /// As [`Reader::read`], but no block from this number on.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub fn read_before(&mut self, end_block: u64, spans_max: usize, bytes_max: usize) -> Result<Read, LogError> {
        if end_block <= self.position.block {
            return Ok(Read::default());
        }
        self.read_into(Room { spans: spans_max, bytes: bytes_max, block_max: end_block - 1, is_empty: true })
    }

    /// Reads up to and including the block of this number.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub(super) fn read_to(&mut self, block_max: u64) -> Result<Read, LogError> {
        self.read_into(Room { spans: usize::MAX, bytes: usize::MAX, block_max, is_empty: true })
    }

    fn read_into(&mut self, mut room: Room) -> Result<Read, LogError> {
        let mut read = Read::default();
        while !room.is_full() {
            match self.read_recent(&mut read, &mut room) {
                Some(true) => continue,
                Some(false) => break,
                None => {}
            }
            match self.place() {
                Place::Segment(meta) => {
                    match self.read_segment(meta, &mut read, &mut room) {
                        Ok(true) => {}
                        Ok(false) => break,
                        Err(error) if read == Read::default() => return Err(error),
                        // What was read before it counts; who reads on is told.
                        Err(_) => break,
                    }
                }
                Place::End(position) => {
                    read.lost_spans += position.span.saturating_sub(self.position.span);
                    self.position = self.position.max(position);
                    self.window = Bytes::new();
                    break;
                }
            }
        }
        Ok(read)
    }

    /// Takes what is still in memory from the place on. `None`: nothing is; `false`: there is no room for the next block.
    fn read_recent(&mut self, read: &mut Read, room: &mut Room) -> Option<bool> {
        if self.only.is_some() {
            return None;
        }
        let inner = Arc::clone(&self.inner);
        let state = inner.state();
        let mut reached = None;
        let mut has_room = true;
        for kept in state.recent.from(self.position.block) {
            if kept.payload.is_none() && self.wanted.wants(kept.header.flags) {
                break;
            }
            let Some(is_wanted) = self.take(&kept.header, read, room) else {
                has_room = false;
                break;
            };
            if let Some(payload) = kept.payload.clone().filter(|_| is_wanted) {
                read.blocks.push(Block { header: kept.header, payload });
            }
            reached = Some((kept.segment, kept.range.end));
        }
        let Some((segment, offset)) = reached else { return (!has_room).then_some(false) };
        match &mut self.open {
            Some(open) if open.meta.first_block == segment => open.offset = offset,
            open => {
                let meta = state.segments.iter().rev().find(|meta| meta.first_block == segment).cloned();
                *open = meta.map(|meta| Open { file: None, meta, offset });
            }
        }
        self.window = Bytes::new();
        Some(has_room)
    }

    /// Goes behind a block; says whether it is wanted. `None`: there is no room for it.
    fn take(&mut self, header: &BlockHeader, read: &mut Read, room: &mut Room) -> Option<bool> {
        let is_wanted = self.wanted.wants(header.flags);
        if !room.take(header, is_wanted) {
            return None;
        }
        read.lost_spans += header.first_span.saturating_sub(self.position.span);
        self.position = Position { block: header.block + 1, span: header.end_span() };
        if !is_wanted {
            let is_lost = self.wanted.may_want(header.flags, &self.inner.unnamed);
            *(if is_lost { &mut read.lost_spans } else { &mut read.passed_spans }) += u64::from(header.span_count);
        }
        Some(is_wanted)
    }

    /// Finds the segment to read on in, and jumps over what was deleted.
    fn place(&mut self) -> Place {
        let inner = Arc::clone(&self.inner);
        let state = inner.state();
        let end = Position { block: state.next_block, span: state.next_span };
        let current = self.open.as_ref().map(|open| (open.meta.first_block, open.offset));
        let unread = |segment: &&SegmentMeta| match current {
            Some((first_block, offset)) if first_block == segment.first_block => offset < segment.bytes,
            Some((first_block, _)) => segment.first_block > first_block,
            None => true,
        };
        if let Some(only) = self.only {
            let segment = state.segments.iter().find(|segment| segment.first_block == only).filter(unread);
            return segment.cloned().map_or(Place::End(self.position), Place::Segment);
        }
        let from = match current {
            Some((first_block, _)) => first_block,
            // The last segment that can hold the place; earlier ones end before it.
            None => {
                let holds = |segment: &&SegmentMeta| segment.first_block <= self.position.block;
                state.segments.iter().rev().find(holds).map_or(0, |segment| segment.first_block)
            }
        };
        let segment = state.segments.iter().filter(|segment| segment.first_block >= from).find(unread);
        let Some(mut segment) = segment.cloned() else { return Place::End(end) };
        // What is in memory need not be read.
        let offset = current
            .filter(|(first_block, _)| *first_block == segment.first_block)
            .map_or(SEGMENT_HEADER_BYTES as u64, |(_, offset)| offset);
        segment.bytes = state.recent.begin_behind(segment.first_block, offset).unwrap_or(segment.bytes);
        Place::Segment(segment)
    }

    /// Goes on behind a segment that was deleted since it was looked up; `false`: there is nothing behind it.
    fn skip(&mut self, meta: &SegmentMeta, read: &mut Read) -> bool {
        let inner = Arc::clone(&self.inner);
        let state = inner.state();
        let next = state.segments.iter().find(|segment| segment.first_block > meta.first_block);
        let Some(next) = next.filter(|_| self.only.is_none()) else { return false };
        read.lost_spans += next.first_span.saturating_sub(self.position.span);
        self.position = self.position.max(next.start());
        true
    }

    /// Reads on in a segment; `false`: the next block is there, but there is no room for it.
    fn read_segment(&mut self, meta: SegmentMeta, read: &mut Read, room: &mut Room) -> Result<bool, LogError> {
        let mut open = match self.open.take() {
            Some(open) if open.meta.first_block == meta.first_block => Open { meta, ..open },
            _ => Open { file: None, meta, offset: SEGMENT_HEADER_BYTES as u64 },
        };
        if open.file.is_none() {
            match File::open(&open.meta.path) {
                Ok(file) => open.file = Some(file),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(self.skip(&open.meta, read)),
                Err(cause) => {
                    let path = open.meta.path.clone();
                    self.open = Some(open);
                    return Err(LogError::Io { operation: "open", path, cause });
                }
            }
        }
        let done = self.read_open(&mut open, read, room);
        self.open = Some(open);
        done
    }

    /// As [`Self::read_segment`], of an open file.
    fn read_open(&mut self, open: &mut Open, read: &mut Read, room: &mut Room) -> Result<bool, LogError> {
        // What there is no room for need not be read as a whole to see that.
        if !room.is_empty && !has_room_for_next(open, &self.wanted, room)? {
            return Ok(false);
        }
        let spare = std::mem::take(&mut self.window);
        let (room_of_window, filled) = window(open, room.bytes.clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX), spare)?;
        let window = room_of_window.slice(..filled);
        self.window = room_of_window;
        let mut walk = Walk::new(&window);
        let end_block = self.inner.state().next_block;
        let mut taken = 0;
        let mut has_room = true;
        while let Some(item) = walk.next() {
            let end = open.offset + walk.position() as u64;
            let note_damage = |bytes| self.inner.state().note_damage(open.meta.first_block, end - bytes);
            match item {
                Item::Damaged { bytes } => note_damage(bytes as u64),
                Item::Block { header, .. } if header.block < self.position.block => {}
                // Never written by this log: it stood in a span, and what was before it is damaged.
                Item::Block { header, .. } if header.block >= end_block => note_damage(header.bytes()),
                Item::Block { header, payload, payload_at } => {
                    let Some(is_wanted) = self.take(&header, read, room) else {
                        has_room = false;
                        break;
                    };
                    if is_wanted {
                        let payload = window.slice(payload_at..payload_at + payload.len());
                        read.blocks.push(Block { header, payload });
                    }
                }
            }
            taken = walk.position();
        }
        // No whole block up to the end: the file is shorter or worse than it was when it was written.
        let is_stuck = has_room && taken == 0;
        if is_stuck {
            self.inner.state().note_damage(open.meta.first_block, open.offset);
        }
        open.offset = if is_stuck { open.meta.bytes } else { open.offset + taken as u64 };
        Ok(has_room)
    }
}

impl SegmentMeta {
    fn start(&self) -> Position {
        Position { block: self.first_block, span: self.first_span }
    }
}

/// Whether the next block, if there is a whole header, would be taken.
fn has_room_for_next(open: &Open, wanted: &Wanted, room: &Room) -> Result<bool, LogError> {
    let (header, filled) = read_at(open, BLOCK_HEADER_BYTES, Bytes::new())?;
    Ok(BlockHeader::parse(&header[..filled]).is_none_or(|header| room.has(&header, wanted.wants(header.flags))))
}

/// Reads from the place on: `bytes`, and enough for at least one block, if a whole one is there. Gives how much of what it gives was read.
fn window(open: &Open, bytes: usize, spare: Bytes) -> Result<(Bytes, usize), LogError> {
    let rest = usize::try_from(open.meta.bytes.saturating_sub(open.offset)).unwrap_or(usize::MAX);
    let (window, filled) = read_at(open, rest.min(bytes), spare)?;
    let bytes = &window[..filled];
    // A block that is there as a whole is checked later, and need not be twice.
    let begins_whole = BlockHeader::parse(bytes)
        .is_some_and(|header| bytes.len() - BLOCK_HEADER_BYTES >= header.payload_bytes as usize);
    if bytes.len() == rest || begins_whole || Walk::new(bytes).next().is_some() {
        return Ok((window, filled));
    }
    let wanted = match BlockHeader::parse(bytes) {
        Some(header) => BLOCK_HEADER_BYTES + header.payload_bytes as usize,
        // Damage longer than the window: look as far as the largest block reaches.
        None => BLOCK_HEADER_BYTES + PAYLOAD_BYTES_MAX,
    };
    read_at(open, rest.min(wanted), window)
}

/// Reads so many bytes, if there are, into the room of `spare`, if it has no other owner; gives how many there were. What is behind them
/// is of no meaning: clearing it would cost as much as reading.
fn read_at(open: &Open, bytes: usize, spare: Bytes) -> Result<(Bytes, usize), LogError> {
    let mut buffer = spare.try_into_mut().unwrap_or_default();
    if buffer.len() < bytes {
        buffer = BytesMut::zeroed(bytes);
    }
    let Some(file) = &open.file else { return Ok((buffer.freeze(), 0)) };
    let mut filled = 0;
    while filled < bytes {
        let at = open.offset + filled as u64;
        match file.read_at(&mut buffer[filled..bytes], at) {
            // Someone cut the file; what is missing is noticed by the span numbers.
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(LogError::Io { operation: "read", path: open.meta.path.clone(), cause }),
        }
    }
    Ok((buffer.freeze(), filled))
}

/// How much more may be read.
struct Room {
    spans: usize,
    bytes: usize,
    /// The last block to be read.
    block_max: u64,
    is_empty: bool,
}

impl Room {
    /// Takes the block's room, if it fits or is the first; what is not wanted takes none.
    fn take(&mut self, header: &BlockHeader, is_wanted: bool) -> bool {
        if !self.has(header, is_wanted) {
            return false;
        }
        if is_wanted {
            self.is_empty = false;
            self.spans = self.spans.saturating_sub(header.span_count as usize);
            self.bytes = self.bytes.saturating_sub(header.payload_bytes as usize);
        }
        true
    }

    /// Whether [`Self::take`] would take the block.
    fn has(&self, header: &BlockHeader, is_wanted: bool) -> bool {
        let (spans, bytes) = (header.span_count as usize, header.payload_bytes as usize);
        let fits = self.is_empty || (spans <= self.spans && bytes <= self.bytes);
        header.block <= self.block_max && (!is_wanted || fits)
    }

    fn is_full(&self) -> bool {
        !self.is_empty && (self.spans == 0 || self.bytes == 0)
    }
}
