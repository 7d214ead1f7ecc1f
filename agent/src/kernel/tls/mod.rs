//! Probes of TLS libraries in the processes that are selected.
//!
//! The kernel side's programs (`agent-ebpf/src/tls.rs`) are loaded with all others; here they are attached to the files that
//! selected processes map, by a thread of its own: [`Follower`]. It looks at a process when the kernel side tells of it, some
//! times soon after, as a new program maps its libraries, and about once a second from then on.

#[cfg(test)]
mod elf;
pub mod files;
pub mod functions;
mod golang;
mod lease;
mod limits;
mod probes;
pub mod reasons;
pub mod selected;
pub mod survey;

use std::{
    num::NonZeroU32,
    sync::{
        Arc, Mutex, Weak,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use agent_common::plaintext::watch;
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapError},
    programs::{
        Program, UProbe,
        uprobe::{UProbeAttachLocation, UProbeLinkId, UProbeScope},
    },
};

pub use self::probes::Coverage;
use self::{
    files::Mapped,
    functions::Point,
    probes::{Attach, Probes},
};
use super::attach::{HookState, Rung};
use crate::{capture::lock, cost::threads::Counted};

/// Name of the hook, in flags and output.
pub const HOOK: &str = "tls_libraries";
/// What it gives.
pub const GIVES: &str = "what is inside TLS connections";
/// The programs.
pub const PROGRAMS: &[&str] = &[
    "tls_read",
    "tls_write",
    "tls_read_ex",
    "tls_write_ex",
    "nspr_read",
    "nspr_write",
    "nspr_writev",
    "tls_handshake",
    "go_read",
    "go_write",
    "go_return",
    "go_handshake",
    "go_handshaken",
    "go_stack_read",
    "go_stack_write",
    "go_stack_return",
    "go_stack_handshake",
    "go_stack_handshaken",
    RETURN,
];
const RETURN: &str = "tls_return";
/// Processes that wait to be looked at.
const QUEUE_MAX: usize = 1024;
/// How long the thread sleeps at most.
const SLEEP_MAX: Duration = Duration::from_millis(500);

/// Loads the programs, and tries whether one can be attached.
pub(super) fn prepare(ebpf: &mut Ebpf, without: &[String]) -> HookState {
    let state = |rung, detail| HookState { name: HOOK, gives: GIVES, rung, required: false, detail };
    if without.iter().any(|name| name == HOOK) {
        return state(None, "left out by request".into());
    }
    match load(ebpf).and_then(|()| attach_to_self(ebpf)) {
        Ok(()) => state(Some(Rung::Uprobe), String::new()),
        Err(error) => state(None, format!("uprobe: {error}")),
    }
}

/// Linux 6.16 and stable series after it ask for more than for all other hooks.
fn refused(error: &(dyn std::error::Error + 'static)) -> String {
    let reason = super::attach::reason(error);
    let denied = std::io::Error::from_raw_os_error(libc::EACCES).to_string();
    if reason == denied { format!("{reason}; this kernel wants CAP_SYS_ADMIN for it") } else { reason }
}

fn load(ebpf: &mut Ebpf) -> Result<(), String> {
    for name in PROGRAMS {
        program(ebpf, name)?.load().map_err(|error| super::attach::reason(&error))?;
    }
    Ok(())
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut UProbe, String> {
    match ebpf.program_mut(name) {
        Some(Program::UProbe(program)) => Ok(program),
        _ => Err(format!("the object has no program {name}")),
    }
}

/// At the agent's own entry point, which runs no second time.
fn attach_to_self(ebpf: &mut Ebpf) -> Result<(), String> {
    let own = std::fs::File::open("/proc/self/exe").map_err(|error| error.to_string())?;
    let entry = functions::entry(&own).ok_or("the agent's own program has no entry point")?;
    let scope = NonZeroU32::new(std::process::id()).map_or(UProbeScope::CallingProcess, UProbeScope::OneProcess);
    let program = program(ebpf, PROGRAMS[0])?;
    let link = program.attach(UProbeAttachLocation::AbsoluteOffset(entry), "/proc/self/exe", scope);
    let link = link.map_err(|error| refused(&error))?;
    program.detach(link).map_err(|error| super::attach::reason(&error))
}

/// Attaches the programs of a loaded object, for as long as that is there.
struct Object(Weak<Mutex<Ebpf>>);

impl Attach for Object {
    type Link = (&'static str, UProbeLinkId);

    fn attach(&mut self, path: &str, point: &Point) -> Result<Vec<Self::Link>, String> {
        let ebpf = self.0.upgrade().ok_or("the kernel programs are detached")?;
        let mut ebpf = lock(&ebpf);
        if point.program.starts_with("go_") {
            let on_stack = point.program.starts_with("go_stack_");
            watch_goroutines(&mut ebpf, if on_stack { watch::STACK } else { watch::REGISTER })?;
        }
        let mut links = Vec::new();
        // The return first: an entry whose return is not seen would stay open.
        for name in point.returns.then_some(RETURN).into_iter().chain([point.program]) {
            let location = UProbeAttachLocation::AbsoluteOffset(point.offset);
            let attached = program(&mut ebpf, name).and_then(|program| {
                program.attach(location, path, UProbeScope::AllProcesses).map_err(|error| super::attach::reason(&error))
            });
            match attached {
                Ok(link) => links.push((name, link)),
                Err(error) => {
                    links.drain(..).for_each(|(name, link)| take_away(&mut ebpf, name, link));
                    return Err(error);
                }
            }
        }
        Ok(links)
    }

    fn detach(&mut self, (name, link): Self::Link) {
        if let Some(ebpf) = self.0.upgrade() {
            take_away(&mut lock(&ebpf), name, link);
        }
    }

    fn forget_goroutines(&mut self, pid: u32) {
        let Some(ebpf) = self.0.upgrade() else { return };
        if let Err(error) = forget_goroutines(&mut lock(&ebpf), pid) {
            tracing::warn!(pid, error, "calls of goroutines of a process that ended cannot be forgotten");
        }
    }
}

/// Takes the calls of a process's goroutines out of the kernel side's table.
fn forget_goroutines(ebpf: &mut Ebpf, pid: u32) -> Result<(), String> {
    let map = ebpf.map_mut("TLS_GOROUTINES").ok_or("the object has no map TLS_GOROUTINES")?;
    // Address and process id; what is known of the call is the kernel side's own.
    let calls: Result<HashMap<_, [u64; 2], [u64; 10]>, MapError> = map.try_into();
    let mut calls = calls.map_err(|error| error.to_string())?;
    let left: Vec<[u64; 2]> = calls.keys().filter_map(Result::ok).filter(|key| key[1] == u64::from(pid)).collect();
    for key in left {
        match calls.remove(&key) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}

/// Has the kernel side note which goroutine makes a system call, those of one more kind.
fn watch_goroutines(ebpf: &mut Ebpf, kind: u32) -> Result<(), String> {
    let map = ebpf.map_mut("TLS_GO").ok_or("the object has no map TLS_GO")?;
    let mut watched: Array<_, u32> = map.try_into().map_err(|error: MapError| error.to_string())?;
    let before = watched.get(&0, 0).map_err(|error| error.to_string())?;
    watched.set(0, before | kind, 0).map_err(|error| error.to_string())
}

fn take_away(ebpf: &mut Ebpf, name: &str, link: UProbeLinkId) {
    let result = program(ebpf, name).and_then(|program| program.detach(link).map_err(|error| error.to_string()));
    if let Err(error) = result {
        tracing::warn!(name, error, "a probe cannot be detached");
    }
}

/// Follows selected processes. Handing over a process never blocks.
pub struct Follower {
    asking: SyncSender<u32>,
    probes: Arc<Mutex<Probes<Object>>>,
    _thread: JoinHandle<()>,
}

impl Follower {
    /// Starts the thread; it ends with the object, or with this.
    pub(super) fn start(ebpf: &Arc<Mutex<Ebpf>>) -> std::io::Result<Self> {
        limits::raise();
        let (asking, asked) = sync_channel(QUEUE_MAX);
        let probes = Arc::new(Mutex::new(Probes::new(Object(Arc::downgrade(ebpf)))));
        let (shared, object) = (Arc::clone(&probes), Arc::downgrade(ebpf));
        let (guarded, gone) = (Arc::clone(&probes), Weak::clone(&object));
        let listener = lease::listen(SLEEP_MAX, move || give_way(&guarded, &gone))?;
        lock(&probes).set_listener(listener);
        let thread = std::thread::Builder::new().name("tls-probes".into());
        let thread = thread.spawn(move || follow(&shared, &asked, &object))?;
        Ok(Self { asking, probes, _thread: thread })
    }

    /// A selected process was seen, replaced its program, or ended. Answers whether it is taken.
    pub fn see(&self, pid: u32) -> bool {
        !matches!(self.asking.try_send(pid), Err(TrySendError::Full(_)))
    }

    /// Looks at processes now: before they are asked to do anything.
    pub fn see_now(&self, pids: &[u32]) {
        for pid in pids {
            // Each by itself: somebody may wait to write to a file that is probed.
            lock(&self.probes).see(*pid, Instant::now());
        }
    }

    /// How far what a process sends and receives by TLS is seen; `None` if it is not looked at.
    pub fn coverage(&self, pid: u32) -> Option<Coverage> {
        lock(&self.probes).coverage(pid)
    }

    /// Why nothing was seen of it.
    pub fn not_covered(&self, pid: u32) -> String {
        let coverage = self.coverage(pid).unwrap_or_default();
        if !coverage.failed.is_empty() {
            return coverage.failed.join("; ");
        }
        let by: Vec<String> = coverage.by.iter().map(|(stack, path)| format!("{stack} {path}")).collect();
        let is_probed = |mapped: &Mapped| coverage.by.iter().any(|(_, path)| *path == mapped.path);
        let unused = format!("no call of {} was seen to use it", by.join(", "));
        match (by.is_empty(), reasons::of(pid, is_probed)) {
            (true, Some(reason)) => reason,
            (true, None) if files::of(pid).is_empty() => "its process is gone".to_owned(),
            (true, None) => "no TLS library with symbols".to_owned(),
            (false, Some(reason)) => format!("{unused}; {reason}"),
            (false, None) => unused,
        }
    }

    /// Files that could not be probed for want of room, since the start.
    pub fn refused(&self) -> u64 {
        lock(&self.probes).refused()
    }

    /// Every process of which something is probed, or would be.
    pub fn processes(&self) -> Vec<(u32, Coverage)> {
        let probes = lock(&self.probes);
        let coverage =
            |pid| Some((pid, probes.coverage(pid)?)).filter(|(_, coverage)| *coverage != Coverage::default());
        probes.pids().filter_map(coverage).collect()
    }
}

/// Takes probes from files that change, while there are any.
fn give_way(probes: &Mutex<Probes<Object>>, object: &Weak<Mutex<Ebpf>>) -> bool {
    let mut probes = lock(probes);
    if object.strong_count() == 0 {
        probes.let_go();
        return false;
    }
    probes.give_way(Instant::now());
    true
}

fn follow(probes: &Mutex<Probes<Object>>, asked: &Receiver<u32>, object: &Weak<Mutex<Ebpf>>) {
    let _counted = Counted::this_thread();
    let mut due = None;
    loop {
        let now = Instant::now();
        let wait = due.map_or(SLEEP_MAX, |due: Instant| due.saturating_duration_since(now)).min(SLEEP_MAX);
        let asked = asked.recv_timeout(wait);
        if object.strong_count() == 0 {
            return;
        }
        let mut probes = lock(probes);
        match asked {
            Ok(pid) if !probes.see(pid, Instant::now()) => tracing::debug!(pid, "too many processes to look at"),
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        due = probes.turn(Instant::now());
    }
}
