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

use bytes::Bytes;

use super::{
    BlockId, Inner, LogConfig, LogError, Overflow, SEGMENT_AGE_PART, SEGMENT_BYTES, State,
    block::{BlockHeader, Flags, PAYLOAD_BYTES_MAX, SEGMENT_HEADER_BYTES, SegmentHeader, VERSION},
    now_unix_ns,
    recent::Kept,
    segment,
    segment::SegmentMeta,
};

/// A block to be appended.
#[derive(Clone, Debug)]
pub(super) struct Payload<'a> {
    /// Protobuf of a `TracesData`.
    pub bytes: &'a [u8],
    pub span_count: u32,
    pub start_unix_ns_min: u64,
    pub end_unix_ns_max: u64,
    pub flags: Flags,
    /// CRC-32 of the bytes.
    pub crc: u32,
    /// The bytes, if they may be kept in memory for those who read them next.
    pub kept: Option<Bytes>,
}

/// A file or folder that is not forced to disk yet, and its path.
pub(super) type Unsynced = (Arc<File>, PathBuf);

#[derive(Debug)]
pub(super) struct Writer {
    dir: PathBuf,
    segment_bytes_max: u64,
    bytes_max: u64,
    age_max: Duration,
    overflow: Overflow,
    relayed_bytes_max: u64,
    /// Most bytes of this host's own spans where nothing can be deleted.
    own_bytes_max: u64,
    active: Option<Active>,
    /// Closed segments and the folder, still to be forced to disk.
    unsynced: Vec<Unsynced>,
    is_active_unsynced: bool,
    synced: Instant,
    /// Nothing more can be written until something is deleted.
    #[cfg(test)]
    pub disk_is_full: bool,
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
        let segment_bytes_max = (bytes_max / 64).clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end());
        let relayed_bytes_max = bytes_max / 100 * u64::from(config.relayed_percent_max.min(100));
        let active = match state.segments.last() {
            Some(last) if last.version == VERSION => Some(Active::open(last)?),
            _ => None,
        };
        // Its last blocks and its name may not be on the disk yet, if the agent was killed.
        let folder = File::open(dir).map_err(LogError::io("open", dir))?;
        Ok(Self {
            dir: dir.to_owned(),
            segment_bytes_max,
            bytes_max,
            age_max: config.age_max,
            overflow: config.overflow,
            relayed_bytes_max,
            // A new segment needs room for the whole of it.
            own_bytes_max: bytes_max.saturating_sub(relayed_bytes_max + segment_bytes_max).max(segment_bytes_max),
            is_active_unsynced: active.is_some(),
            active,
            unsynced: vec![(Arc::new(folder), dir.to_owned())],
            synced: Instant::now(),
            #[cfg(test)]
            disk_is_full: false,
        })
    }

    /// Appends one block. If that fails, spans of this host are counted as dropped and their numbers are used up; relayed ones
    /// are still the sender's.
    pub fn append(&mut self, payload: &Payload<'_>, inner: &Inner) -> Result<BlockId, LogError> {
        let result = self.write(payload, inner);
        let mut state = inner.state();
        let spans = u64::from(payload.span_count);
        match result {
            Ok((header, bytes)) => {
                let id = BlockId(header.block);
                state.next_span += spans;
                state.next_block = id.0 + 1;
                state.stats.spans_appended += spans;
                if let Some(segment) = state.segments.last_mut() {
                    let range = segment.bytes..bytes;
                    let added = range.end - range.start;
                    segment.bytes = bytes;
                    if payload.flags.is_relayed {
                        segment.relayed_bytes += added;
                        segment.relayed_end = id.0 + 1;
                    }
                    let segment = segment.first_block;
                    if let Some(payload) = payload.kept.clone() {
                        let payload = (!header.flags.is_local).then_some(payload);
                        state.recent.push(Kept { header, payload, segment, range });
                    }
                }
                Ok(id)
            }
            Err(error) => {
                state.stats.append_errors += 1;
                state.stats.last_error = error.to_string();
                if !payload.flags.is_relayed {
                    state.next_span += spans;
                    state.stats.spans_dropped += spans;
                }
                Err(error)
            }
        }
    }

    /// Writes one block; gives its header and the segment's new length.
    fn write(&mut self, payload: &Payload<'_>, inner: &Inner) -> Result<(BlockHeader, u64), LogError> {
        if payload.bytes.len() > PAYLOAD_BYTES_MAX {
            return Err(LogError::SpanTooLarge { bytes: payload.bytes.len(), max: PAYLOAD_BYTES_MAX });
        }
        let now = now_unix_ns();
        let block = header(payload, inner, now);
        let header = block.encode();
        let block_bytes = (header.len() + payload.bytes.len()) as u64;
        if self.overflow == Overflow::Refuse {
            let (state, is_relayed) = (inner.state(), payload.flags.is_relayed);
            let (bytes, max) = if is_relayed {
                (state.awaited_relayed_bytes(), self.relayed_bytes_max)
            } else {
                (state.pinned_own_bytes(), self.own_bytes_max)
            };
            // Neither takes the part of the other.
            if bytes + block_bytes > max {
                return Err(LogError::Full { bytes, max });
            }
        }
        let mut written = self.try_write(&header, payload.bytes, now, inner);
        // What all destinations have taken makes room, a segment at a time; also for a new segment.
        if written.as_ref().is_err_and(is_disk_full) && self.delete_oldest(inner)? {
            written = self.try_write(&header, payload.bytes, now, inner);
        }
        written?;
        let active = self.active.as_mut().expect("roll_if_full leaves a segment to write to");
        active.bytes += block_bytes;
        self.is_active_unsynced = true;
        Ok((block, active.bytes))
    }

    /// To the active segment, or to a new one if that is full.
    fn try_write(&mut self, header: &[u8], payload: &[u8], now: u64, inner: &Inner) -> Result<(), LogError> {
        self.roll_if_full((header.len() + payload.len()) as u64, now, inner)?;
        self.put(header, payload).map_err(|cause| {
            let path = self.active.as_ref().map_or(&self.dir, |active| &active.path).clone();
            LogError::Io { operation: "append to", path, cause }
        })
    }

    /// Header and payload behind what the active segment has.
    fn put(&self, header: &[u8], payload: &[u8]) -> io::Result<()> {
        let active = self.active.as_ref().expect("roll_if_full leaves a segment to write to");
        let payload_at = active.bytes + header.len() as u64;
        #[cfg(test)]
        self.check_disk()?;
        let written = active.file.write_all_at(header, active.bytes);
        written.and_then(|()| active.file.write_all_at(payload, payload_at)).inspect_err(|_| {
            // A part may be there. Nobody reads it, and the next append writes over it; cutting it only saves a start the trouble.
            let _ = active.file.set_len(active.bytes);
        })
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
        let left = self.shrink(self.bytes_max.saturating_sub(room), inner)?;
        if left > self.bytes_max.saturating_sub(room) && block_bytes > 0 {
            return Err(LogError::Full { bytes: left, max: self.bytes_max });
        }
        let (first_block, first_span) = {
            let state = inner.state();
            (state.next_block, state.next_span)
        };
        let header = SegmentHeader { first_block, first_span, created_unix_ns: now, version: VERSION };
        let path = segment::path(&self.dir, first_block);
        #[cfg(test)]
        self.check_disk().map_err(LogError::io("create", &path))?;
        let active = Active::create(&path, &header)?;
        let folder = File::open(&self.dir).map_err(LogError::io("open", &self.dir))?;
        inner.state().segments.push(SegmentMeta {
            path,
            first_block,
            first_span,
            created_unix_ns: now,
            bytes: active.bytes,
            relayed_bytes: 0,
            relayed_end: 0,
            version: VERSION,
        });
        if let Some(old) = self.active.replace(active) {
            self.unsynced.push((old.file, old.path));
        }
        self.unsynced.push((Arc::new(folder), self.dir.clone()));
        Ok(())
    }

    /// Deletes closed segments, oldest first, until the rest takes at most `bytes` or must stay. Gives what the rest takes.
    fn shrink(&mut self, bytes: u64, inner: &Inner) -> Result<u64, LogError> {
        loop {
            // One segment alone is never too much: a log smaller than that is none.
            let total: u64 = match inner.state().segments.as_slice() {
                [] | [_] => 0,
                segments => segments.iter().map(|segment| segment.bytes).sum(),
            };
            if total <= bytes || !self.delete_oldest(inner)? {
                return Ok(total);
            }
        }
    }

    /// Begins a new segment with the next append. What was written to the old one and could not be forced to disk may be lost by
    /// the kernel without another word.
    pub fn leave(&mut self, inner: &Inner) {
        let is_used = self.active.as_ref().is_some_and(|active| active.bytes > SEGMENT_HEADER_BYTES as u64);
        if is_used && self.roll(0, now_unix_ns(), inner).is_err() {
            self.active = None;
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

    /// Deletes the oldest segment, unless it is the only one, or has relayed spans that a destination still waits for. Says
    /// whether it did.
    fn delete_oldest(&mut self, inner: &Inner) -> Result<bool, LogError> {
        let (path, spans) = {
            let state = inner.state();
            let [oldest, next, ..] = state.segments.as_slice() else { return Ok(false) };
            if state.must_stay(oldest, state.slowest_block()) && self.overflow == Overflow::Refuse {
                return Ok(false);
            }
            (oldest.path.clone(), next.first_span - oldest.first_span)
        };
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(LogError::Io { operation: "delete", path, cause: error });
            }
            _ => {}
        }
        #[cfg(test)]
        {
            self.disk_is_full = false;
        }
        {
            let mut state = inner.state();
            state.segments.remove(0);
            let left = state.segments.first().map_or(u64::MAX, |segment| segment.first_block);
            state.recent.forget_before(left);
            state.stats.spans_expired += spans;
        }
        self.unsynced.retain(|(_, unsynced)| *unsynced != path);
        Ok(true)
    }

    #[cfg(test)]
    fn check_disk(&self) -> io::Result<()> {
        if self.disk_is_full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    /// One file could not be forced to disk, and others were to be after it: they are the next time. So is the folder itself, for the
    /// sake of the names of files.
    pub fn put_back(&mut self, failed: Unsynced, others: impl Iterator<Item = Unsynced>) {
        let folder = Some(failed).filter(|(_, path)| *path == self.dir);
        self.unsynced.extend(folder.into_iter().chain(others));
    }

    /// The files to be forced to disk now.
    pub fn take_unsynced(&mut self, everything: bool, interval: Option<Duration>) -> Vec<Unsynced> {
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

fn header(payload: &Payload<'_>, inner: &Inner, now_unix_ns: u64) -> BlockHeader {
    let state = inner.state();
    BlockHeader {
        payload_bytes: payload.bytes.len() as u32,
        payload_crc: payload.crc,
        span_count: payload.span_count,
        block: state.next_block,
        first_span: state.next_span,
        start_unix_ns_min: payload.start_unix_ns_min,
        end_unix_ns_max: payload.end_unix_ns_max,
        appended_unix_ns: now_unix_ns,
        flags: payload.flags,
    }
}

impl State {
    /// Of relayed spans, counted by whole segments that some destination still waits for.
    fn awaited_relayed_bytes(&self) -> u64 {
        self.awaited().map(|segment| segment.relayed_bytes).sum()
    }

    /// Of this host's own spans behind a segment that must stay: there is no way to make room among them, since the oldest goes first.
    fn pinned_own_bytes(&self) -> u64 {
        let slowest = self.slowest_block();
        let pinned = self.segments.iter().skip_while(|segment| !self.must_stay(segment, slowest));
        pinned.map(|segment| segment.bytes.saturating_sub(segment.relayed_bytes)).sum()
    }

    /// Whether a segment has relayed spans that a destination waits for, or that are held.
    fn must_stay(&self, segment: &SegmentMeta, slowest: u64) -> bool {
        segment.relayed_bytes > 0 && (self.holds > 0 || slowest < segment.relayed_end)
    }
}

/// No room on the disk, or no more of it for whoever runs the agent.
fn is_disk_full(error: &LogError) -> bool {
    let LogError::Io { cause, .. } = error else { return false };
    matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn as_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
