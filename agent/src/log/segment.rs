//! The segment files: their names, their list, and what a start finds in them.
//!
//! In: a folder. Out: [`State`] with the segments there are, the last one without its torn tail. Called once, when the log is opened.
//! Reads only the headers, and the whole of the last one: damage elsewhere shows when it is read.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    LogError, State,
    block::{
        BLOCK_HEADER_BYTES, BlockHeader, Item, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentHeaderError, VERSION, Walk,
    },
};

const EXTENSION: &str = "spans";
/// Over a shorter time no rate is worth the name.
const RATE_SECONDS_MIN: f64 = 1.0;

/// A segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentMeta {
    pub path: PathBuf,
    /// Number of its first block; identifies it.
    pub first_block: u64,
    /// Number of its first span.
    pub first_span: u64,
    pub created_unix_ns: u64,
    /// Bytes that are written and whole; readers go no further.
    pub bytes: u64,
    /// Bytes of its relayed blocks: whoever sent them was told that they are safe. Too large rather than too small where the file
    /// cannot be read.
    pub relayed_bytes: u64,
    /// Number of the block behind the last of them; likewise, but no further than the segment.
    pub relayed_end: u64,
    /// Version of its format.
    pub version: u32,
}

/// The name of the segment that begins with this block. Names sort like their numbers.
pub(super) fn path(dir: &Path, first_block: u64) -> PathBuf {
    dir.join(format!("{first_block:020}.{EXTENSION}"))
}

/// Reads the list of segments and cuts the tail of the last one.
pub(super) fn open_all(dir: &Path) -> Result<State, LogError> {
    let mut state = State::default();
    let entries = std::fs::read_dir(dir).map_err(LogError::io("list", dir))?;
    for entry in entries {
        let path = entry.map_err(LogError::io("list", dir))?.path();
        if path.extension().is_none_or(|extension| extension != EXTENSION) {
            continue;
        }
        match open_one(&path).map_err(|cause| LogError::Segment { path, cause })? {
            Some((segment, tenants)) => {
                state.tenants.extend(tenants);
                state.segments.push(segment);
            }
            None => state.stats.foreign_files += 1,
        }
    }
    state.segments.sort_by_key(|segment| segment.first_block);
    if let Some(last) = state.segments.last().cloned() {
        cut(&last, &mut state)?;
    }
    bound_relayed(&mut state);
    Ok(state)
}

/// Where it is not known how far relayed spans go they end with the segment: no destination gets further, so more would keep it for ever.
fn bound_relayed(state: &mut State) {
    let begins: Vec<u64> = state.segments.iter().skip(1).map(|next| next.first_block).collect();
    let ends = begins.into_iter().chain([state.next_block]);
    for (segment, end) in state.segments.iter_mut().zip(ends) {
        segment.relayed_end = segment.relayed_end.min(end);
    }
}

/// `None`: not a segment of this version. Such a file is left for people to look at. Also gives the numbers of tenants in it.
/// That a file cannot be read now says nothing of what is in it: its spans are not given up for that.
fn open_one(path: &Path) -> io::Result<Option<(SegmentMeta, BTreeSet<u32>)>> {
    let file = File::open(path)?;
    let mut header = [0; SEGMENT_HEADER_BYTES];
    match file.read_exact_at(&mut header, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let header = match SegmentHeader::parse(&header) {
        Ok(header) => Some(header),
        Err(SegmentHeaderError::NotASegment) => guessed_header(path)?,
        Err(SegmentHeaderError::Version(_)) => None,
    };
    let Some(header) = header else { return Ok(None) };
    let bytes = file.metadata()?.len();
    let Relayed { bytes: relayed_bytes, end: relayed_end, tenants } =
        if header.version == VERSION { relayed(&file, bytes) } else { Relayed::default() };
    let segment = SegmentMeta {
        path: path.to_owned(),
        first_block: header.first_block,
        first_span: header.first_span,
        created_unix_ns: header.created_unix_ns,
        bytes,
        relayed_bytes,
        relayed_end,
        version: header.version,
    };
    Ok(Some((segment, tenants)))
}

/// A damaged header costs nothing if blocks follow: the file's name has the number of the first one.
fn guessed_header(path: &Path) -> io::Result<Option<SegmentHeader>> {
    let number = path.file_stem().and_then(|name| name.to_str()?.parse().ok());
    let bytes = std::fs::read(path)?;
    let first = Walk::new(bytes.get(SEGMENT_HEADER_BYTES..).unwrap_or_default()).find_map(|item| match item {
        Item::Block { header, .. } => Some(header),
        Item::Damaged { .. } => None,
    });
    Ok(number.zip(first).map(|(first_block, first)| SegmentHeader {
        first_block,
        first_span: first.first_span,
        created_unix_ns: first.appended_unix_ns,
        version: VERSION,
    }))
}

/// What of a segment was relayed, and the numbers of tenants in it.
#[derive(Default)]
struct Relayed {
    bytes: u64,
    end: u64,
    tenants: BTreeSet<u32>,
}

impl Relayed {
    fn add(&mut self, header: &BlockHeader) {
        self.tenants.insert(header.flags.tenant);
        if header.flags.is_relayed {
            self.bytes += header.bytes();
            self.end = header.block + 1;
        }
    }
}

/// From one block's header to the next. Behind a damaged one the blocks are looked for: what cannot be read can be delivered to nobody,
/// and need not be kept. If the disk fails everything counts as relayed.
fn relayed(file: &File, bytes: u64) -> Relayed {
    let mut offset = SEGMENT_HEADER_BYTES as u64;
    let mut relayed = Relayed::default();
    while offset < bytes {
        let mut header = [0; BLOCK_HEADER_BYTES];
        let read = file.read_exact_at(&mut header, offset);
        let Some(header) = read.ok().and_then(|()| BlockHeader::parse(&header)) else {
            let mut rest = vec![0; usize::try_from(bytes - offset).unwrap_or(0)];
            if file.read_exact_at(&mut rest, offset).is_err() {
                return Relayed { bytes: relayed.bytes + bytes - offset, end: u64::MAX, ..relayed };
            }
            Walk::new(&rest).for_each(|item| {
                if let Item::Block { header, .. } = item {
                    relayed.add(&header)
                }
            });
            return relayed;
        };
        relayed.add(&header);
        offset += header.bytes();
    }
    relayed
}

/// Finds the end of the last segment, cuts what is torn, and takes the next numbers from there: also the numbers of what is lost, so that
/// they stay a gap that is counted.
fn cut(last: &SegmentMeta, state: &mut State) -> Result<(), LogError> {
    let bytes = std::fs::read(&last.path).map_err(LogError::io("read", &last.path))?;
    let blocks = bytes.get(SEGMENT_HEADER_BYTES..).unwrap_or_default();
    state.next_block = last.first_block;
    state.next_span = last.first_span;
    let mut walk = Walk::new(blocks);
    let mut appended_unix_ns = last.created_unix_ns;
    while let Some(item) = walk.next() {
        let header = match item {
            Item::Block { header, .. } => Some(header),
            // Its readers count it; mostly its header still says which numbers it had.
            Item::Damaged { bytes } => BlockHeader::parse(&blocks[walk.position() - bytes..]),
        };
        let Some(header) = header else { continue };
        use_up(&header, state);
        appended_unix_ns = appended_unix_ns.max(header.appended_unix_ns);
    }
    if let Some(first) = state.segments.first() {
        let seconds = Duration::from_nanos(appended_unix_ns.saturating_sub(first.created_unix_ns)).as_secs_f64();
        state.rate_before = state.next_span.saturating_sub(first.first_span) as f64 / seconds.max(RATE_SECONDS_MIN);
    }
    let tail = &blocks[walk.position()..];
    let is_kept = match BlockHeader::parse(tail) {
        // Its end was never written, so nobody was told that it is safe: whoever sent it still has it.
        Some(header) if header.flags.is_relayed => false,
        Some(header) => {
            use_up(&header, state);
            false
        }
        None => may_be_a_block(tail),
    };
    if is_kept {
        state.next_span += spans_behind_header(tail);
        tracing::error!(path = %last.path.display(), bytes = tail.len(), "the log's last block is damaged, it stays where it is");
        return Ok(());
    }
    let end = (bytes.len() - tail.len()) as u64;
    if !tail.is_empty() {
        let file = OpenOptions::new().write(true).open(&last.path).map_err(LogError::io("open", &last.path))?;
        file.set_len(end).map_err(LogError::io("cut the torn tail of", &last.path))?;
        state.stats.torn_bytes = tail.len() as u64;
    }
    if let Some(segment) = state.segments.last_mut() {
        segment.bytes = end;
        segment.relayed_bytes = segment.relayed_bytes.min(end);
    }
    Ok(())
}

/// Gives the numbers of a block to nobody else.
fn use_up(header: &BlockHeader, state: &mut State) {
    state.next_block = state.next_block.max(header.block + 1);
    state.next_span = state.next_span.max(header.end_span());
}

/// Whether this may have been a whole block, now without its header: people may want to look at it. Zeros are what a file system leaves
/// of a write that did not get to the disk.
fn may_be_a_block(tail: &[u8]) -> bool {
    tail.len() > BLOCK_HEADER_BYTES && tail.iter().any(|byte| *byte != 0)
}

/// How many spans a block without its header has; 0: nobody can say.
fn spans_behind_header(tail: &[u8]) -> u64 {
    let spans = tail.get(BLOCK_HEADER_BYTES..).map(crate::otlp::decode);
    spans.and_then(Result::ok).map_or(0, |spans| spans.len() as u64)
}
