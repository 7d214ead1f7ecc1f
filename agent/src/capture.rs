//! The capture loop: ring buffer -> pipeline -> span log, on one thread of its own.
//!
//! In: kernel records. Out: finished spans in the log, and figures for `status` and metrics ([`Figures`]). Started and
//! stopped by `run`. Has process facts read when the pipeline asks for them, before short-lived processes are gone, on
//! another thread: a process that is stuck holds up facts, never records. Never blocks on a destination.

mod questions;
mod wall;

use std::{
    collections::HashSet,
    fs::File,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use agent_common::{
    header::{RecordHeader, kind},
    message::{CallRecord, flag},
    process::{ProcessRecord, change},
};
use agent_core::{config::PipelineConfig, pipeline::Pipeline, span::MonotonicNs};

pub use questions::Questions;
use wall::Wall;

use crate::{
    cost::threads::Counted,
    inventory::{process, reader::FactsReader},
    kernel::{
        ring::{Drained, Ring},
        select::Selection,
        tls::Follower,
    },
    log::SpanLog,
    telemetry::log::RateLimit,
};

/// Records taken before finished spans are passed on: few enough that their spans, and those as they are written, stay in the CPU's
/// second cache until they are.
const BATCH_RECORDS: usize = 512;
/// After a turn that took so many there is no nap.
const NAPLESS_RECORDS: usize = 2_048;
/// How long to sleep after each drain in a row that found nothing; a record ends the sleep at once. They end at the
/// longest time that something in the pipeline may wait.
const QUIET_SLEEPS_MS: &[u64] = &[10, 40, 150, 1_000];
/// While there are records, naps begin with this and double, up to [`NAP_MAX`]: each turn finds the CPU's caches cold, so the longer the better,
/// as long as whoever follows the spans does not notice.
const NAP_MIN: Duration = Duration::from_millis(1);
const NAP_MAX: Duration = Duration::from_millis(40);
/// A drain of more than this shortens the next nap, so that the ring never fills within one at twice the rate.
const BUSY_BYTES: usize = 384 << 10;
/// What the ring buffer adds to a record.
const RECORD_HEADER_BYTES: usize = 8;
/// How long the end waits for facts that were asked for.
const LAST_FACTS_WAIT: Duration = Duration::from_millis(200);
/// Most processes whose telling is remembered.
const FOLLOWED_MAX: usize = 8192;

/// What the loop counts, readable from anywhere.
#[derive(Debug, Default)]
pub struct Figures {
    /// Records taken from the ring.
    pub records: AtomicU64,
    /// Spans finished.
    pub spans: AtomicU64,
    /// Connections followed now.
    pub connections: AtomicU64,
    /// Losses in the pipeline, by reason.
    pub losses: Mutex<Vec<(&'static str, u64)>>,
    /// Most bytes that a drain found in the ring.
    pub ring_peak: Peak,
    /// The loop ended, by request or by itself.
    pub ended: AtomicBool,
}

/// The largest of what was noted since somebody last looked, for two who look at different times.
#[derive(Debug, Default)]
pub struct Peak([AtomicU64; 2]);

impl Peak {
    /// Notes a value.
    pub fn note(&self, value: u64) {
        for peak in &self.0 {
            peak.fetch_max(value, Ordering::Relaxed);
        }
    }

    /// The largest since the last look of this one (0 or 1).
    pub fn take(&self, looker: usize) -> u64 {
        self.0[looker & 1].swap(0, Ordering::Relaxed)
    }
}

impl Figures {
    /// `Err` with the reason if records are no longer taken.
    pub fn healthy(&self) -> Result<(), String> {
        if self.ended.load(Ordering::Acquire) { Err("the capture loop ended".into()) } else { Ok(()) }
    }
}

/// Tells the end of the loop, a panic included.
struct TellsEnd(Arc<Figures>);

impl Drop for TellsEnd {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
    }
}

/// The running loop.
pub struct CaptureLoop {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
    questions: Arc<Questions>,
    figures: Arc<Figures>,
}

struct Worker {
    ring: Ring,
    pipeline: Pipeline,
    facts: FactsReader,
    selection: Arc<Mutex<Selection>>,
    tls: Option<Arc<Follower>>,
    /// Selected processes that it was told of.
    followed: HashSet<u32>,
    log: SpanLog,
    figures: Arc<Figures>,
    stop: Arc<AtomicBool>,
    interrupt: OwnedFd,
    questions: Arc<Questions>,
    wall: Wall,
    append_failures: RateLimit,
}

impl CaptureLoop {
    /// Starts it.
    pub fn start(
        ring: Ring,
        selection: Arc<Mutex<Selection>>,
        tls: Option<Arc<Follower>>,
        log: SpanLog,
        config: PipelineConfig,
        node_name: Option<String>,
    ) -> std::io::Result<Self> {
        let interrupt = event_descriptor()?;
        let figures = Arc::new(Figures::default());
        let stop = Arc::new(AtomicBool::new(false));
        let questions = Arc::new(Questions::new(File::from(interrupt.try_clone()?)));
        let wall = Wall::now();
        let worker = Worker {
            ring,
            pipeline: Pipeline::new(config, wall.offset()),
            facts: FactsReader::start(move |pid| process::facts(pid, node_name.as_deref()))?,
            selection,
            tls,
            followed: HashSet::new(),
            log,
            figures: Arc::clone(&figures),
            stop: Arc::clone(&stop),
            interrupt,
            questions: Arc::clone(&questions),
            wall,
            append_failures: RateLimit::new(Duration::from_secs(10)),
        };
        let thread = std::thread::Builder::new().name("capture".into()).spawn(move || {
            let _counted = Counted::this_thread();
            worker.run();
        })?;
        Ok(Self { thread, stop, questions, figures })
    }

    /// What it counts.
    pub fn figures(&self) -> &Arc<Figures> {
        &self.figures
    }

    /// Where it can be asked.
    pub fn questions(&self) -> &Arc<Questions> {
        &self.questions
    }

    /// Whether it still works.
    pub fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Takes what is in the ring, finishes every exchange as known so far, and ends.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.questions.interrupt();
        if self.thread.join().is_err() {
            tracing::error!("the capture loop panicked; spans that it had not finished are lost");
        }
    }
}

impl Worker {
    fn run(mut self) {
        let _tells_end = TellsEnd(Arc::clone(&self.figures));
        let mut quiet = 0;
        let mut nap = NAP_MIN;
        while !self.stop.load(Ordering::Acquire) {
            let taken = self.turn();
            self.questions.answer(|| self.pipeline.connections_view());
            // Answering may have taken the interrupt of the stop.
            if self.stop.load(Ordering::Acquire) {
                break;
            }
            let interrupt = self.interrupt.as_raw_fd();
            match taken {
                Taken { records: 0, .. } => {
                    self.ring.sleep_until_record(Duration::from_millis(QUIET_SLEEPS_MS[quiet]), interrupt);
                    quiet = (quiet + 1).min(QUIET_SLEEPS_MS.len() - 1);
                    nap = NAP_MIN;
                }
                Taken { records, bytes } => {
                    quiet = 0;
                    nap = if bytes > BUSY_BYTES { nap / 2 } else { nap * 2 }.clamp(NAP_MIN, NAP_MAX);
                    if records < NAPLESS_RECORDS {
                        self.ring.nap(nap, interrupt);
                    }
                }
            }
        }
        while self.turn().records > 0 {}
        for facts in self.facts.last_answers(LAST_FACTS_WAIT) {
            self.pipeline.facts(facts);
        }
        self.pipeline.flush(MonotonicNs(monotonic_ns()));
        self.pass_on();
    }

    /// Takes what is in the rings by now, a batch at a time.
    fn turn(&mut self) -> Taken {
        self.wall.refresh();
        self.pipeline.set_clock(self.wall.offset());
        let now_ns = monotonic_ns();
        let mut taken = Taken { records: 0, bytes: 0 };
        loop {
            let batch = self.batch(now_ns);
            taken.records += batch.records;
            taken.bytes += batch.bytes;
            if batch.records < BATCH_RECORDS {
                break;
            }
        }
        self.figures.ring_peak.note(taken.bytes as u64);
        taken
    }

    fn batch(&mut self, now_ns: u64) -> Taken {
        let pipeline = &mut self.pipeline;
        let (mut bytes, mut programs, mut ended) = (0, Vec::new(), Vec::new());
        let follows = self.tls.is_some();
        let (mut users, mut last_user) = (Vec::new(), 0);
        let Drained { records, until_ns } = self.ring.drain(now_ns, BATCH_RECORDS, |record| {
            bytes += record.len() + RECORD_HEADER_BYTES;
            match changed_process(record) {
                Some((change::EXEC, pid)) => programs.push(pid),
                Some((change::EXIT, pid)) if follows => ended.push(pid),
                _ => {}
            }
            if let Some(pid) = selected_user(record).filter(|pid| follows && *pid != last_user) {
                last_user = pid;
                users.push(pid);
            }
            pipeline.record(record);
        });
        self.offer_executables(&programs);
        self.follow(&programs, &users, &ended);
        self.gather_facts();
        self.ask_whole_calls();
        // Not the time that it is by now: what has come since waits in the rings, and nothing may be given up for want of it.
        self.pipeline.tick(MonotonicNs(until_ns));
        self.figures.records.fetch_add(records as u64, Ordering::Relaxed);
        self.pass_on();
        Taken { records, bytes }
    }

    fn gather_facts(&mut self) {
        self.facts.ask(self.pipeline.wanted_facts());
        for facts in self.facts.answers() {
            self.pipeline.facts(facts);
        }
    }

    fn ask_whole_calls(&mut self) {
        let wanted = self.pipeline.wanted_whole();
        if wanted.is_empty() {
            return;
        }
        let mut selection = lock(&self.selection);
        for (id, which) in wanted {
            // The calls are then captured as before, and what is cut is counted.
            if let Err(error) = selection.capture_whole_calls(id, which) {
                tracing::debug!(%error, connection = id, "no more of its calls can be captured");
            }
        }
    }

    /// Processes whose TLS libraries are looked at: new programs, and who else uses connections. Of one that ended probes may
    /// have to go at once.
    fn follow(&mut self, programs: &[u32], users: &[u32], ended: &[u32]) {
        let Some(tls) = &self.tls else { return };
        if self.followed.len() >= FOLLOWED_MAX {
            self.followed.clear(); // they are told of again
        }
        for pid in programs {
            if tls.see(*pid) {
                self.followed.insert(*pid);
            }
        }
        for pid in users {
            if !self.followed.contains(pid) && tls.see(*pid) {
                self.followed.insert(*pid);
            }
        }
        for pid in ended {
            // Another process may get the number.
            if self.followed.remove(pid) {
                tls.see(*pid);
            }
        }
    }

    /// A new program may be one that the selection names.
    fn offer_executables(&mut self, pids: &[u32]) {
        if pids.is_empty() {
            return;
        }
        let mut selection = lock(&self.selection);
        if !selection.has_executable_rules() {
            return;
        }
        for pid in pids {
            let path = std::path::PathBuf::from(format!("/proc/{pid}/exe"));
            let applied =
                selection.offer_executable(&path).and_then(|new| if new { selection.refresh() } else { Ok(()) });
            if let Err(error) = applied {
                tracing::warn!(%error, pid, "cannot select an executable");
            }
        }
    }

    fn pass_on(&mut self) {
        let spans = self.pipeline.drain();
        self.figures.spans.fetch_add(spans.len() as u64, Ordering::Relaxed);
        self.figures.connections.store(self.pipeline.connections() as u64, Ordering::Relaxed);
        let losses = self.pipeline.losses().iter().map(|(_, name, count)| (name, count));
        *lock(&self.figures.losses) = losses.chain([("process_facts_unread", self.facts.unread())]).collect();
        if spans.is_empty() {
            return;
        }
        // The log counts what it cannot take.
        if let Err(error) = self.log.append(&spans)
            && let Some(suppressed) = self.append_failures.allow()
        {
            tracing::error!(%error, spans = spans.len(), suppressed, "spans could not be written to the span log and are dropped");
        }
    }
}

/// What was taken from the rings.
struct Taken {
    records: usize,
    bytes: usize,
}

/// The process that uses a connection, if it or that is selected.
fn selected_user(record: &[u8]) -> Option<u32> {
    let header: RecordHeader = agent_common::read(record)?;
    if header.kind != kind::CALL {
        return None;
    }
    let call: CallRecord = agent_common::read(record)?;
    (call.flags & flag::SELECTED != 0).then_some(call.pid)
}

/// How a process changed, and which, if the record says so.
fn changed_process(record: &[u8]) -> Option<(u8, u32)> {
    let header: RecordHeader = agent_common::read(record)?;
    if header.kind != kind::PROCESS {
        return None;
    }
    let event: ProcessRecord = agent_common::read(record)?;
    Some((event.change, event.pid))
}

/// A poisoned lock holds plain values that are valid at every moment.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn event_descriptor() -> std::io::Result<OwnedFd> {
    // SAFETY: eventfd takes no pointers; a non-negative result is a descriptor that nobody else owns.
    unsafe {
        match libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) {
            -1 => Err(std::io::Error::last_os_error()),
            descriptor => Ok(OwnedFd::from_raw_fd(descriptor)),
        }
    }
}

/// `CLOCK_MONOTONIC`, the clock of the kernel's records.
pub(crate) fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes, and this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_two_sees_the_peak_since_its_own_last_look() {
        let peak = Peak::default();
        peak.note(5);
        peak.note(3);
        assert_eq!(peak.take(0), 5);
        peak.note(4);
        assert_eq!((peak.take(0), peak.take(1), peak.take(1)), (4, 5, 0));
    }

    #[test]
    fn the_end_of_the_loop_is_told_even_if_it_panics() {
        let figures = Arc::new(Figures::default());
        assert_eq!(figures.healthy(), Ok(()));
        let tells_end = TellsEnd(Arc::clone(&figures));
        let looping = std::thread::spawn(move || {
            let _tells_end = tells_end;
            std::panic::resume_unwind(Box::new("the loop panics"));
        });
        assert!(looping.join().is_err());
        assert!(figures.healthy().is_err());
    }
}
