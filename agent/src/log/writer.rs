//! The one writer: appends blocks to the last segment, begins new segments, deletes old ones.
//!
//! In: encoded spans. Out: bytes in files, and the [`State`] that tells readers how far they may read. Called by
//! [`Inner`] under its lock. A failed write leaves nothing behind that a reader could see, and the next append writes over it.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    BlockId, Inner, LogConfig, LogError, SEGMENT_AGE_PART, SEGMENT_BYTES, State,
    block::{BlockHeader, PAYLOAD_BYTES_MAX, SEGMENT_HEADER_BYTES, SegmentHeader},
    now_unix_ns, segment,
    segment::SegmentMeta,
};
use crate::otlp::Encoded;

#[derive(Debug)]
pub(super) struct Writer {
    dir: PathBuf,
    segment_bytes_max: u64,
    bytes_max: u64,
    age_max: Duration,
    active: Option<Active>,
    /// Closed segments and the folder, still to be forced to disk.
    unsynced: Vec<(Arc<File>, PathBuf)>,
    is_active_unsynced: bool,
    synced: Instant,
}

/// The segment that is being written; its meta is the last of the state's.
#[derive(Debug)]
struct Active {
    file: Arc<File>,
    path: PathBuf,
    bytes: u64,
    created_unix_ns: u64,
}

impl Writer {
    /// Goes on with the last segment, if there is one.
    pub fn open(dir: &Path, config: &LogConfig, state: &mut State) -> Result<Self, LogError> {
        let bytes_max = config.bytes_max.max(1 << 20);
        let active = match state.segments.last() {
            Some(last) => Some(Active::open(last)?),
            None => None,
        };
        Ok(Self {
            dir: dir.to_owned(),
            segment_bytes_max: (bytes_max / 64).clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end()),
            bytes_max,
            age_max: config.age_max,
            active,
            unsynced: Vec::new(),
            is_active_unsynced: false,
            synced: Instant::now(),
        })
    }

    /// Appends one block. If that fails its spans are counted as dropped, and their numbers are used up.
    pub fn append(&mut self, encoded: &Encoded, inner: &Inner) -> Result<BlockId, LogError> {
        let result = self.write(encoded, inner);
        let mut state = inner.state();
        state.next_span += u64::from(encoded.span_count);
        match result {
            Ok((id, bytes)) => {
                state.next_block = id.0 + 1;
                state.stats.spans_appended += u64::from(encoded.span_count);
                if let Some(segment) = state.segments.last_mut() {
                    segment.bytes = bytes;
                }
                Ok(id)
            }
            Err(error) => {
                state.stats.append_errors += 1;
                state.stats.spans_dropped += u64::from(encoded.span_count);
                state.stats.last_error = error.to_string();
                Err(error)
            }
        }
    }

    /// Writes one block; gives its number and the segment's new length.
    fn write(&mut self, encoded: &Encoded, inner: &Inner) -> Result<(BlockId, u64), LogError> {
        if encoded.bytes.len() > PAYLOAD_BYTES_MAX {
            return Err(LogError::SpanTooLarge { bytes: encoded.bytes.len(), max: PAYLOAD_BYTES_MAX });
        }
        let now = now_unix_ns();
        let header = self.header(encoded, inner, now).encode();
        let block_bytes = (header.len() + encoded.bytes.len()) as u64;
        self.roll_if_full(block_bytes, now, inner)?;
        let active = self.active.as_mut().expect("roll_if_full leaves a segment to write to");
        let payload_at = active.bytes + header.len() as u64;
        let header_written = active.file.write_all_at(&header, active.bytes);
        if let Err(cause) = header_written.and_then(|()| active.file.write_all_at(&encoded.bytes, payload_at)) {
            // A part may be there. Nobody reads it, and the next append writes over it; cutting it only saves a start the trouble.
            let _ = active.file.set_len(active.bytes);
            return Err(LogError::Io { operation: "append to", path: active.path.clone(), cause });
        }
        active.bytes += block_bytes;
        self.is_active_unsynced = true;
        Ok((BlockId(inner.state().next_block), active.bytes))
    }

    fn header(&self, encoded: &Encoded, inner: &Inner, now_unix_ns: u64) -> BlockHeader {
        let state = inner.state();
        BlockHeader {
            payload_bytes: encoded.bytes.len() as u32,
            payload_crc: crc32fast::hash(&encoded.bytes),
            span_count: encoded.span_count,
            block: state.next_block,
            first_span: state.next_span,
            start_unix_ns_min: encoded.start_unix_ns_min,
            end_unix_ns_max: encoded.end_unix_ns_max,
            appended_unix_ns: now_unix_ns,
            flags: 0,
        }
    }

    fn roll_if_full(&mut self, block_bytes: u64, now: u64, inner: &Inner) -> Result<(), LogError> {
        let segment_age_max = as_ns(self.age_max / SEGMENT_AGE_PART);
        let fits = self.active.as_ref().is_some_and(|active| {
            let is_empty = active.bytes == SEGMENT_HEADER_BYTES as u64;
            let is_young = now.saturating_sub(active.created_unix_ns) <= segment_age_max;
            is_empty || (is_young && active.bytes + block_bytes <= self.segment_bytes_max)
        });
        if fits { Ok(()) } else { self.roll(block_bytes, now, inner) }
    }

    /// Begins a new segment, after making room for it. The old one stays in use if that fails.
    fn roll(&mut self, block_bytes: u64, now: u64, inner: &Inner) -> Result<(), LogError> {
        let room = self.segment_bytes_max.max(SEGMENT_HEADER_BYTES as u64 + block_bytes);
        self.shrink(self.bytes_max.saturating_sub(room), inner)?;
        let (first_block, first_span) = {
            let state = inner.state();
            (state.next_block, state.next_span)
        };
        let header = SegmentHeader { first_block, first_span, created_unix_ns: now };
        let path = segment::path(&self.dir, first_block);
        let active = Active::create(&path, &header)?;
        let folder = File::open(&self.dir).map_err(LogError::io("open", &self.dir))?;
        inner.state().segments.push(SegmentMeta {
            path,
            first_block,
            first_span,
            created_unix_ns: now,
            bytes: active.bytes,
        });
        if let Some(old) = self.active.replace(active) {
            self.unsynced.push((old.file, old.path));
        }
        self.unsynced.push((Arc::new(folder), self.dir.clone()));
        Ok(())
    }

    /// Deletes closed segments, oldest first, until the rest takes at most `bytes`.
    fn shrink(&mut self, bytes: u64, inner: &Inner) -> Result<(), LogError> {
        loop {
            let total: u64 = inner.state().segments.iter().map(|segment| segment.bytes).sum();
            if total <= bytes || !self.delete_oldest(inner)? {
                return Ok(());
            }
        }
    }

    /// Deletes what is too old. The active segment is closed when it is, and goes the next time.
    pub fn expire(&mut self, inner: &Inner) -> Result<(), LogError> {
        let oldest_kept = now_unix_ns().saturating_sub(as_ns(self.age_max));
        loop {
            // A segment's last block was appended before the next segment was made.
            let is_old = inner.state().segments.get(1).is_some_and(|next| next.created_unix_ns < oldest_kept);
            if !is_old || !self.delete_oldest(inner)? {
                break;
            }
        }
        let is_stale = self
            .active
            .as_ref()
            .is_some_and(|active| active.created_unix_ns < oldest_kept && active.bytes > SEGMENT_HEADER_BYTES as u64);
        if is_stale { self.roll(0, now_unix_ns(), inner) } else { Ok(()) }
    }

    /// Deletes the oldest segment, unless it is the only one. Says whether it did.
    fn delete_oldest(&mut self, inner: &Inner) -> Result<bool, LogError> {
        let (path, spans, block) = {
            let state = inner.state();
            let [oldest, next, ..] = state.segments.as_slice() else { return Ok(false) };
            (oldest.path.clone(), next.first_span - oldest.first_span, next.first_block)
        };
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(LogError::Io { operation: "delete", path, cause: error });
            }
            _ => {}
        }
        {
            let mut state = inner.state();
            state.segments.remove(0);
            state.stats.spans_expired += spans;
        }
        self.unsynced.retain(|(_, unsynced)| *unsynced != path);
        // Rows about blocks that are gone do no harm: the next deletion takes them along.
        let _ = inner.store.forget_dead_before(block);
        Ok(true)
    }

    /// The files to be forced to disk now.
    pub fn take_unsynced(&mut self, everything: bool, interval: Option<Duration>) -> Vec<(Arc<File>, PathBuf)> {
        let is_due = interval.is_some_and(|interval| self.synced.elapsed() >= interval);
        if !everything && !is_due {
            return Vec::new();
        }
        self.synced = Instant::now();
        let mut files = std::mem::take(&mut self.unsynced);
        if std::mem::take(&mut self.is_active_unsynced) {
            files.extend(self.active.as_ref().map(|active| (Arc::clone(&active.file), active.path.clone())));
        }
        files
    }
}

impl Active {
    fn open(meta: &SegmentMeta) -> Result<Self, LogError> {
        let file = OpenOptions::new().write(true).open(&meta.path).map_err(LogError::io("open", &meta.path))?;
        Ok(Self {
            file: Arc::new(file),
            path: meta.path.clone(),
            bytes: meta.bytes,
            created_unix_ns: meta.created_unix_ns,
        })
    }

    fn create(path: &Path, header: &SegmentHeader) -> Result<Self, LogError> {
        if path.exists() {
            // Not in the list, so it is not ours to read (another version, or damaged): people may want to look at it.
            std::fs::rename(path, path.with_extension("foreign")).map_err(LogError::io("set aside", path))?;
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(path);
        let file = file.map_err(LogError::io("create", path))?;
        if let Err(cause) = file.write_all_at(&header.encode(), 0) {
            let _ = std::fs::remove_file(path);
            return Err(LogError::Io { operation: "write the header of", path: path.to_owned(), cause });
        }
        Ok(Self {
            file: Arc::new(file),
            path: path.to_owned(),
            bytes: SEGMENT_HEADER_BYTES as u64,
            created_unix_ns: header.created_unix_ns,
        })
    }
}

fn as_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
