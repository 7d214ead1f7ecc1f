//! The span log: every finished span, once, in bounded files; every destination and every query reads it from there.
//!
//! In: [`SafeSpan`]s of this host, a block per append, and relayed spans ([`SpanLog::append_relayed`]). Out: blocks of OTLP bytes, by durable [`Cursor`]s (one per destination) and by
//! [`Reader`]s (queries). Called by the run loop (append, [`SpanLog::maintain`]), the exporters and the query server. The
//! core is synchronous and thread-safe; async callers use `spawn_blocking`.
//!
//! Form: `segments/NUMBER.spans` files of framed blocks (see [`block`]), beside them `cursors.db` (SQLite), `tenants.json`, which has the
//! tenants' numbers once more, and a `lock`.
//!
//! Policy: the log never blocks the pipeline. When it is full or spans are too old, the oldest whole segment goes, even if a
//! destination has not read it yet; those spans are that destination's `dropped`. Segments with relayed spans that a destination
//! waits for stay, unless [`Overflow::DropOldest`] allows it: their sender was told that they are safe. If nothing can go, relayed spans
//! are refused, and this host's own are dropped; neither can take the part of the log that is the other's. Spans that cannot be appended (full disk) take their numbers with them, so that they
//! too are `dropped` at every destination, and the next append tries again. Thus, for each destination, always: generated =
//! delivered + queued + dead + dropped + filtered.
//!
//! Limits: [`LogConfig::bytes_max`] on disk, [`BLOCK_SPANS_MAX`] spans and [`BLOCK_BYTES_MAX`] bytes per block.

pub mod block;
mod choices;
mod commit;
mod cursor;
mod database;
mod dead;
mod error;
mod late;
mod lock;
mod reader;
mod recent;
mod segment;
mod store;
mod tenants;
#[cfg(test)]
mod tests;
mod wal;
mod writer;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use agent_core::{
    cause::words::counted,
    redact::{SafeBatch, SafeSpan},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use block::Flags;
pub use choices::BlockChoices;
pub use cursor::{Batch, Cursor, DestinationCounts, Fate};
pub use dead::{DeadLetters, Letter, Sum as DeadSum, Which};
pub use error::LogError;
pub use late::{BlockSpans, Got, LateExport, Sent};
pub use reader::{Block, READ_BYTES, READ_SPANS, Read, Reader, Wanted};

use crate::otlp::Encoder;
use commit::Committer;
use lock::InstanceLock;
use recent::Recent;
use segment::SegmentMeta;
use store::Store;
use writer::{Payload, Writer};

/// Most spans of a block.
pub const BLOCK_SPANS_MAX: usize = 512;
/// Payload bytes above which a block of several spans is halved: well under the 4 MiB that gRPC receivers accept.
pub const BLOCK_BYTES_MAX: usize = 1 << 20;
/// Bounds of a segment file's size; between them it is a sixty-fourth of the log.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = (256 << 10)..=(16 << 20);
/// A segment is closed after this part of the greatest age, so that age deletes little at a time.
const SEGMENT_AGE_PART: u32 = 24;

/// More blocks than a log can have lost that was not closed in order.
const LOST_BLOCKS_MAX: u64 = 1 << 20;
/// Most places of damage that are remembered; more are not counted apart.
const DAMAGE_MAX: usize = 10_000;
/// How often [`keep`] maintains the log.
const KEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Bounds and habits of the log.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Most bytes of segment files. At least 1 MiB is used.
    pub bytes_max: u64,
    /// Segments whose newest span is older go.
    pub age_max: Duration,
    /// How often written blocks are forced to the disk; `None`: only at shutdown. Spans not yet forced can be lost when the
    /// machine (not the agent) dies.
    pub sync_interval: Option<Duration>,
    /// `host.name` of every span of this host.
    pub host_name: Option<String>,
    /// `k8s.node.name` of every span of this host.
    pub node_name: Option<String>,
    /// What happens at the bound to relayed spans that a destination waits for.
    pub overflow: Overflow,
    /// Most of the log, in percent, that relayed spans which a destination waits for may take; the rest is for this host's own.
    pub relayed_percent_max: u32,
    /// Most bytes of dead letters; at the bound a destination that refuses spans waits with them.
    pub dead_letters_bytes_max: u64,
}

/// What happens when the log is full of relayed spans that destinations have not taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// New ones are refused, so that their senders keep them; this host's own spans are dropped, and counted.
    #[default]
    Refuse,
    /// The oldest go, although their senders were told that they are safe; they are counted as dropped.
    DropOldest,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            bytes_max: 1 << 30,
            age_max: Duration::from_secs(24 * 3600),
            sync_interval: Some(Duration::from_secs(1)),
            host_name: None,
            node_name: None,
            overflow: Overflow::Refuse,
            relayed_percent_max: 75,
            dead_letters_bytes_max: 256 << 20,
        }
    }
}

/// Number of a block; blocks are numbered in the order of their appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u64);

/// What the log did since it was opened, and what it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Bytes of the segment files.
    pub bytes: u64,
    /// Those of them that some destination waits for.
    pub awaited_bytes: u64,
    /// Their number.
    pub segments: u64,
    /// When the oldest was made; 0: there is none.
    pub oldest_unix_ns: u64,
    /// Number that the next span gets: spans ever generated.
    pub next_span: u64,
    /// Spans appended since the log was opened.
    pub spans_appended: u64,
    /// Spans that could not be appended.
    pub spans_dropped: u64,
    /// Appends that failed.
    pub append_errors: u64,
    /// Forcing to disk that failed.
    pub sync_errors: u64,
    /// Blocks (or runs of bytes) that readers skipped as damaged; each place counts once.
    pub blocks_damaged: u64,
    /// Bytes cut from a torn tail when the log was opened.
    pub torn_bytes: u64,
    /// Files among the segments that are not segments of this version.
    pub foreign_files: u64,
    /// Spans deleted by size or age, read or not.
    pub spans_expired: u64,
    /// Whether the cursor database was missing or damaged although there were spans, so that the destinations begin with the oldest
    /// span.
    pub cursors_rebuilt: bool,
    /// The last error of an append, sync or deletion.
    pub last_error: String,
}

/// The log. Clones are the same log.
#[derive(Clone, Debug)]
pub struct SpanLog {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    config: LogConfig,
    encoder: Encoder,
    /// Room for the next block of this host's own spans.
    room: Mutex<Vec<u8>>,
    /// Lock order: `writer`, then `state`. Readers take `state` only, and never hold it while they touch a file.
    writer: Mutex<Writer>,
    state: Mutex<State>,
    store: Store,
    id: [u8; 8],
    /// Numbers of tenants in the files whose names were lost. What blocks have them may be for any destination that chooses by tenant.
    unnamed: BTreeSet<u32>,
    appended: watch::Sender<u64>,
    /// Counts requests to send spans late.
    asked: watch::Sender<u64>,
    committer: Committer,
    letters: DeadLetters,
    _lock: InstanceLock,
}

/// What readers need to know of the files.
#[derive(Debug, Default)]
struct State {
    /// Oldest first; the last one is being written.
    segments: Vec<SegmentMeta>,
    next_block: u64,
    next_span: u64,
    stats: LogStats,
    cursors: BTreeMap<String, DestinationCounts>,
    recent: Recent,
    /// The numbers of tenants that were found in the files when the log was opened; 0 is none.
    tenants: BTreeSet<u32>,
    /// Spans per second that came while the files were written that were found.
    rate_before: f64,
    /// Guards that keep relayed spans.
    holds: u32,
    /// Places (segment, offset) of the damage that is counted already, up to [`DAMAGE_MAX`].
    damaged: BTreeSet<(u64, u64)>,
}

impl SpanLog {
    /// Opens the log in `dir`, making what is missing. Damage in the files never keeps it from opening: a torn tail is cut and
    /// counted, a damaged block is skipped when it is read.
    ///
    /// # Errors
    /// Another agent has it open, or the folder, a segment or the database cannot be made or read.
    pub fn open(dir: &Path, config: LogConfig) -> Result<Self, LogError> {
        let segments_dir = dir.join("segments");
        // Spans tell who talks to whom: not for everyone on the host.
        let mut folders = std::fs::DirBuilder::new();
        folders.recursive(true).mode(0o750);
        folders.create(&segments_dir).map_err(LogError::io("create the folder", &segments_dir))?;
        let lock = InstanceLock::acquire(dir)?;
        let mut state = segment::open_all(&segments_dir)?;
        let store = Store::open(&dir.join("cursors.db"), !state.segments.is_empty())?;
        // A tail that a crash took must not have its numbers used again: a cursor may be past them.
        let (block, span) = store.furthest()?;
        state.next_block = state.next_block.max(block);
        state.next_span = state.next_span.max(span);
        // Blocks behind the ones that are there may have been sent, or be dead letters, under their numbers before the machine died.
        if store.closed_block()? != state.next_block {
            state.next_block += LOST_BLOCKS_MAX;
        }
        state.stats.cursors_rebuilt = store.rebuilt();
        let writer = Writer::open(&segments_dir, &config, &mut state)?;
        let encoder = Encoder::new(config.host_name.clone(), config.node_name.clone());
        let (appended, _) = watch::channel(state.next_block);
        #[cfg(test)]
        let committer = Committer::over(&segments_dir);
        #[cfg(not(test))]
        let committer = Committer::default();
        let id = store.log_id()?;
        let unnamed = unnamed(&state.tenants, &store)?;
        let letters = DeadLetters::open(&dir.join("dead_letters.db"), config.dead_letters_bytes_max)?;
        let inner = Inner {
            dir: dir.to_owned(),
            config,
            encoder,
            room: Mutex::default(),
            writer: Mutex::new(writer),
            state: Mutex::new(state),
            store,
            id,
            unnamed,
            appended,
            asked: watch::channel(0).0,
            committer,
            letters,
            _lock: lock,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Appends spans as one block (more, if they are many). `None`: there were none.
    ///
    /// # Errors
    /// The spans are lost and counted; the next append tries again.
    pub fn append(&self, spans: &[SafeSpan]) -> Result<Option<BlockId>, LogError> {
        let mut last = None;
        let mut failure = None;
        for chunk in spans.chunks(BLOCK_SPANS_MAX) {
            match self.inner.append_chunk(chunk) {
                Ok(id) => last = Some(id),
                Err(error) => failure = Some(error),
            }
        }
        if !spans.is_empty() {
            self.inner.appended.send_replace(self.inner.state().next_block);
        }
        failure.map_or(Ok(last), Err)
    }

    /// Appends relayed spans as one block. They are durable only when [`SpanLog::durable`] says so.
    ///
    /// # Errors
    /// Nothing was appended; the spans are still the sender's.
    pub fn append_relayed(&self, spans: &SafeBatch, flags: Flags) -> Result<BlockId, LogError> {
        let payload = Payload {
            bytes: spans.bytes(),
            span_count: spans.span_count(),
            start_unix_ns_min: spans.start_unix_ns_min(),
            end_unix_ns_max: spans.end_unix_ns_max(),
            flags: Flags { is_relayed: true, ..flags },
            crc: crc32fast::hash(spans.bytes()),
            kept: Some(spans.clone().into_bytes()),
        };
        let id = self.inner.writer().append(&payload, &self.inner)?;
        self.inner.appended.send_replace(self.inner.state().next_block);
        Ok(id)
    }

    /// Returns when the block survives a failure of the machine. Callers that wait at the same time share one force to disk, each on
    /// a thread that may wait for it.
    ///
    /// # Errors
    /// The disk refused. The block may still be delivered, and must not be acknowledged.
    pub fn durable(&self, block: BlockId) -> Result<(), LogError> {
        self.inner.make_durable(block)
    }

    /// The number of a tenant in [`Flags`]; the same in every life of the log.
    ///
    /// # Errors
    /// The database fails, or there are too many.
    pub fn tenant(&self, name: &str) -> Result<u32, LogError> {
        let used = self.inner.state().tenants.last().copied().unwrap_or(0);
        self.inner.store.tenant(name, used)
    }

    /// The number of a tenant that has one.
    ///
    /// # Errors
    /// The database fails.
    pub fn known_tenant(&self, name: &str) -> Result<Option<u32>, LogError> {
        self.inner.store.known_tenant(name)
    }

    /// What destinations refused for good.
    pub fn dead_letters(&self) -> &DeadLetters {
        &self.inner.letters
    }

    /// What tells this log from others.
    pub fn id(&self) -> [u8; 8] {
        self.inner.id
    }

    /// Spans per second that were appended, on average over what was in the log when it was opened; 0: it was empty.
    pub fn rate_before(&self) -> f64 {
        self.inner.state().rate_before
    }

    /// Changes whenever spans were appended; the value is the number of the next block.
    pub fn appended(&self) -> watch::Receiver<u64> {
        self.inner.appended.subscribe()
    }

    /// The durable cursor `name`, made if it is new: it then begins with the next span to be appended (or, if the cursor database was
    /// lost, with the oldest span there is: spans may come twice, but none is missed).
    ///
    /// # Errors
    /// It is open already, or the database fails.
    pub fn cursor(&self, name: &str, wanted: Wanted) -> Result<Cursor, LogError> {
        Cursor::open(Arc::clone(&self.inner), name, wanted)
    }

    /// A reader from the oldest block.
    pub fn read_oldest(&self) -> Reader {
        Reader::oldest(Arc::clone(&self.inner))
    }

    /// A reader of what is appended from now on.
    pub fn read_new(&self) -> Reader {
        Reader::new_only(Arc::clone(&self.inner))
    }

    /// Readers for whole segments, newest first, of which each gives its blocks oldest first and then ends. Segments whose spans all
    /// ended before `since_unix_ns` are left out.
    pub fn segments_newest_first(&self, since_unix_ns: u64) -> Vec<Reader> {
        Reader::segments_newest_first(&self.inner, since_unix_ns)
    }

    /// Forces what is due to the disk and deletes what is too old. To be called about once a second; see [`keep`].
    ///
    /// # Errors
    /// A file operation failed; it is counted, and tried again the next time.
    pub fn maintain(&self) -> Result<(), LogError> {
        self.inner.maintain(false)
    }

    /// Forces everything to the disk. For shutdown; the log stays usable.
    ///
    /// # Errors
    /// A file operation failed.
    pub fn sync(&self) -> Result<(), LogError> {
        self.inner.maintain(true)?;
        self.inner.store.close(self.inner.state().next_block)?;
        self.inner.store.force()
    }

    /// Forces the places of destinations to the disk, and what was noted of their spans. To be called before a batch is sent: then,
    /// when the machine dies, only batches that were on their way come again, as they were and under their keys. Whoever calls at the
    /// same time shares one force. A failure is counted and tried again, also by [`SpanLog::maintain`]; a batch need not wait for that: it
    /// may come twice.
    pub fn force_places(&self) {
        // Counted, with its reason.
        let _ = self.inner.force_places();
    }

    /// While the guard lives, nothing that was relayed is deleted: destinations are being changed, and those that are stopped still
    /// wait for their spans.
    pub fn hold(&self) -> Hold {
        self.inner.state().holds += 1;
        Hold { inner: Arc::clone(&self.inner) }
    }

    /// Every destination of the configuration is open: if their places had been lost, they have them again.
    ///
    /// # Errors
    /// The database fails; then the next start counts them as lost again, and new destinations begin with the oldest span.
    pub fn destinations_open(&self) -> Result<(), LogError> {
        if self.inner.store.rebuilt() { self.inner.store.settle_rebuilt() } else { Ok(()) }
    }

    /// Tells of places in the log that no destination has any more, as after another URL of one without a name: what waits there is not
    /// sent. A failure of the database is told elsewhere.
    pub fn tell_forgotten(&self) {
        let (open, first, end) = {
            let state = self.inner.state();
            let open: BTreeSet<String> = state.destinations().into_keys().collect();
            (open, state.segments.first().map_or(0, |segment| segment.first_span), state.next_span)
        };
        for (name, next) in self.inner.store.places().unwrap_or_default() {
            let spans = end.saturating_sub(next);
            if !open.contains(&name) && next >= first && spans > 0 {
                tracing::warn!(
                    destination = name,
                    "no destination has this name any more: nobody gets the {} since its last, and the log deletes what is old as if they were \
                     sent; a destination that has this name again goes on from there",
                    counted(spans, "span")
                );
            }
        }
    }

    /// Numbers.
    pub fn stats(&self) -> LogStats {
        let state = self.inner.state();
        LogStats {
            bytes: state.segments.iter().map(|segment| segment.bytes).sum(),
            awaited_bytes: state.awaited().map(|segment| segment.bytes).sum(),
            segments: state.segments.len() as u64,
            oldest_unix_ns: state.segments.first().map_or(0, |segment| segment.created_unix_ns),
            next_span: state.next_span,
            ..state.stats.clone()
        }
    }

    /// Counts of every open cursor, by name.
    pub fn destinations(&self) -> BTreeMap<String, DestinationCounts> {
        self.inner.state().destinations()
    }

    /// Most bytes that the log may take.
    pub fn bytes_max(&self) -> u64 {
        self.inner.config.bytes_max
    }

    /// The disk refuses the next force.
    #[cfg(test)]
    pub(crate) fn fail_next_force(&self) {
        self.inner.committer.fail_next();
    }

    /// The folder that it was opened in.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }
}

/// Maintains the log once a second, until the task is aborted. A failure is in [`LogStats::last_error`], and tried again.
pub async fn keep(log: SpanLog) {
    let mut ticks = tokio::time::interval(KEEP_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut said = String::new();
    loop {
        ticks.tick().await;
        let working = log.clone();
        let now = match tokio::task::spawn_blocking(move || working.maintain()).await {
            Ok(result) => result.err().map(|error| error.to_string()).unwrap_or_default(),
            Err(failure) if failure.is_panic() => {
                let error = failure.to_string();
                log.inner.state().stats.last_error.clone_from(&error);
                error
            }
            // The runtime ends.
            Err(_) => return,
        };
        // Once per kind of failure, not once a second.
        if !now.is_empty() && now != said {
            tracing::error!(error = %now, "the span log could not be maintained");
        }
        said = now;
    }
}

/// Keeps relayed spans; see [`SpanLog::hold`].
#[derive(Debug)]
pub struct Hold {
    inner: Arc<Inner>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.inner.state().holds -= 1;
    }
}

impl State {
    fn note_damage(&mut self, segment: u64, offset: u64) {
        if self.damaged.len() < DAMAGE_MAX && self.damaged.insert((segment, offset)) {
            self.stats.blocks_damaged += 1;
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // The state is changed in single steps that leave it whole; a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append_chunk(&self, spans: &[SafeSpan]) -> Result<BlockId, LogError> {
        let room = std::mem::take(&mut *self.room());
        let encoded = self.encoder.encode_into(room, spans);
        if encoded.bytes.len() > BLOCK_BYTES_MAX && spans.len() > 1 {
            let (left, right) = spans.split_at(spans.len() / 2);
            let left = self.append_chunk(left);
            let right = self.append_chunk(right);
            return left.and(right);
        }
        let payload = Payload {
            bytes: &encoded.bytes,
            span_count: encoded.span_count,
            start_unix_ns_min: encoded.start_unix_ns_min,
            end_unix_ns_max: encoded.end_unix_ns_max,
            flags: Flags::default(),
            // Before the lock: it takes as long as the write.
            crc: crc32fast::hash(&encoded.bytes),
            kept: None,
        };
        let appended = self.writer().append(&payload, self);
        if encoded.bytes.capacity() <= 2 * BLOCK_BYTES_MAX {
            *self.room() = encoded.bytes;
        }
        appended
    }

    fn room(&self) -> MutexGuard<'_, Vec<u8>> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn maintain(&self, everything: bool) -> Result<(), LogError> {
        #[cfg(test)]
        assert!(!self.committer.panics_next.swap(false, std::sync::atomic::Ordering::SeqCst), "the test says so");
        let is_forced = everything || self.config.sync_interval.is_some();
        let places = if is_forced { self.force_places() } else { Ok(()) };
        let result = self.sync_due(everything, None).and(places).and(self.writer().expire(self));
        if let Err(error) = &result {
            self.state().stats.last_error = error.to_string();
        }
        result
    }

    /// Forces the places of destinations to the disk.
    fn force_places(&self) -> Result<(), LogError> {
        self.store.force_commits().inspect_err(|error| {
            let mut state = self.state();
            state.stats.sync_errors += 1;
            state.stats.last_error = error.to_string();
        })
    }

    /// Forces what is due, or everything; nothing if the block that is `asked` about is settled meanwhile.
    fn sync_due(&self, everything: bool, asked: Option<BlockId>) -> Result<(), LogError> {
        let end = || self.state().next_block;
        self.committer.force(asked, end, || {
            let files = self.writer().take_unsynced(everything, self.config.sync_interval);
            let forced = !files.is_empty() || everything;
            let mut files = files.into_iter();
            while let Some((file, path)) = files.next() {
                // Outside of the locks for appending and reading: forcing may take long.
                if let Err(cause) = self.committer.sync(&file, &path) {
                    let mut writer = self.writer();
                    writer.put_back((file, path.clone()), files);
                    // Only what is written anew, elsewhere, can be trusted.
                    writer.leave(self);
                    drop(writer);
                    let error = LogError::Io { operation: "force to disk", path, cause };
                    let mut state = self.state();
                    state.stats.sync_errors += 1;
                    state.stats.last_error = error.to_string();
                    return Err(error);
                }
            }
            Ok(forced)
        })
    }
}

/// Which of these tenants have no name any more.
fn unnamed(found: &BTreeSet<u32>, store: &Store) -> Result<BTreeSet<u32>, LogError> {
    let named: BTreeSet<u32> = store.tenants()?.into_values().collect();
    let unnamed: BTreeSet<u32> =
        found.iter().copied().filter(|number| *number > 0 && !named.contains(number)).collect();
    if !unnamed.is_empty() {
        tracing::error!(
            tenants = unnamed.len(),
            "the log has spans of tenants whose names were lost with cursors.db and tenants.json: destinations that choose by tenant do \
             not get them, and count them as dropped"
        );
    }
    Ok(unnamed)
}

fn now_unix_ns() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}
