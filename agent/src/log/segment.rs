//! The segment files: their names, their list, and what a start finds in them.
//!
//! In: a folder. Out: [`State`] with the segments there are, the last one cut to its last whole block. Called once, when the
//! log is opened. Reads only the header of each segment, and the whole of the last one: damage elsewhere shows when it is read.

use std::{
    fs::{File, OpenOptions},
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
    /// is damaged.
    pub relayed_bytes: u64,
    /// Number of the block behind the last of them; likewise.
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
        match open_one(&path) {
            Some((segment, tenant_max)) => {
                state.tenant_max = state.tenant_max.max(tenant_max);
                state.segments.push(segment);
            }
            None => state.stats.foreign_files += 1,
        }
    }
    state.segments.sort_by_key(|segment| segment.first_block);
    if let Some(last) = state.segments.last().cloned() {
        cut(&last, &mut state)?;
    }
    Ok(state)
}

/// `None`: unreadable, or not a segment of this version. Such a file is left for people to look at. Also gives the highest number of a
/// tenant in it.
fn open_one(path: &Path) -> Option<(SegmentMeta, u32)> {
    let file = File::open(path).ok()?;
    let mut header = [0; SEGMENT_HEADER_BYTES];
    file.read_exact_at(&mut header, 0).ok()?;
    let header = match SegmentHeader::parse(&header) {
        Ok(header) => header,
        Err(SegmentHeaderError::NotASegment) => guessed_header(path)?,
        Err(SegmentHeaderError::Version(_)) => return None,
    };
    let bytes = file.metadata().ok()?.len();
    let Relayed { bytes: relayed_bytes, end: relayed_end, tenant_max } =
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
    Some((segment, tenant_max))
}

/// A damaged header costs nothing if blocks follow: the file's name has the number of the first one.
fn guessed_header(path: &Path) -> Option<SegmentHeader> {
    let first_block = path.file_stem()?.to_str()?.parse().ok()?;
    let bytes = std::fs::read(path).ok()?;
    let first = Walk::new(bytes.get(SEGMENT_HEADER_BYTES..)?).find_map(|item| match item {
        Item::Block { header, .. } => Some(header),
        Item::Damaged { .. } => None,
    })?;
    Some(SegmentHeader {
        first_block,
        first_span: first.first_span,
        created_unix_ns: first.appended_unix_ns,
        version: VERSION,
    })
}

/// What of a segment was relayed, and the highest number of a tenant in it.
#[derive(Default)]
struct Relayed {
    bytes: u64,
    end: u64,
    tenant_max: u32,
}

/// From one block's header to the next; behind a damaged one everything counts as relayed.
fn relayed(file: &File, bytes: u64) -> Relayed {
    let mut offset = SEGMENT_HEADER_BYTES as u64;
    let mut relayed = Relayed::default();
    while offset < bytes {
        let mut header = [0; BLOCK_HEADER_BYTES];
        let read = file.read_exact_at(&mut header, offset);
        let Some(header) = read.ok().and_then(|()| BlockHeader::parse(&header)) else {
            return Relayed { bytes: relayed.bytes + bytes - offset, end: u64::MAX, ..relayed };
        };
        relayed.tenant_max = relayed.tenant_max.max(header.flags.tenant);
        let block_bytes = BLOCK_HEADER_BYTES as u64 + u64::from(header.payload_bytes);
        if header.flags.is_relayed {
            relayed.bytes += block_bytes;
            relayed.end = header.block + 1;
        }
        offset += block_bytes;
    }
    relayed
}

/// Finds the end of the last segment, cuts what is torn, and takes the next numbers from there.
fn cut(last: &SegmentMeta, state: &mut State) -> Result<(), LogError> {
    let bytes = std::fs::read(&last.path).map_err(LogError::io("read", &last.path))?;
    state.next_block = last.first_block;
    state.next_span = last.first_span;
    let mut walk = Walk::new(&bytes[SEGMENT_HEADER_BYTES..]);
    let mut appended_unix_ns = last.created_unix_ns;
    for item in &mut walk {
        match item {
            Item::Block { header, .. } => {
                state.next_block = state.next_block.max(header.block + 1);
                state.next_span = state.next_span.max(header.end_span());
                appended_unix_ns = appended_unix_ns.max(header.appended_unix_ns);
            }
            // Its readers count it.
            Item::Damaged { .. } => {}
        }
    }
    if let Some(first) = state.segments.first() {
        let seconds = Duration::from_nanos(appended_unix_ns.saturating_sub(first.created_unix_ns)).as_secs_f64();
        state.rate_before = state.next_span.saturating_sub(first.first_span) as f64 / seconds.max(RATE_SECONDS_MIN);
    }
    let end = (SEGMENT_HEADER_BYTES + walk.position()) as u64;
    let torn = bytes.len() as u64 - end;
    if torn > 0 {
        let file = OpenOptions::new().write(true).open(&last.path).map_err(LogError::io("open", &last.path))?;
        file.set_len(end).map_err(LogError::io("cut the torn tail of", &last.path))?;
        state.stats.torn_bytes = torn;
    }
    if let Some(segment) = state.segments.last_mut() {
        segment.bytes = end;
        segment.relayed_bytes = segment.relayed_bytes.min(end);
    }
    Ok(())
}
