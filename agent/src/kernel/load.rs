//! Loads the kernel programs, attaches them, and owns them while the agent runs.

use std::sync::{Arc, Mutex};

use agent_common::{loss::KernelLoss, settings::Settings};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, MapData, PerCpuArray},
};

use super::{
    attach::{AttachOptions, HookState, SyscallHooks, attach_all, is_by_sockets, why_not_by_sockets},
    btf::{self, BtfError},
    object, ring,
    select::Selection,
    stats::{EmptyRun, Programs},
    tls::{self, Follower},
};
use crate::memory;

/// How to load.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Attaching.
    pub attach: AttachOptions,
    /// Size of all ring buffers together, in bytes; a power of two of at least a page.
    pub ring_bytes: u32,
    /// Connections tracked at once.
    pub connections_max: u32,
    /// Threads tracked at once.
    pub tasks_max: u32,
    /// Kernel-side diagnostics: 0 off (their code is then removed by the verifier) to 5.
    pub log_level: u8,
}

impl Default for LoadOptions {
    fn default() -> Self {
        let attach = AttachOptions::default();
        Self { attach, ring_bytes: 2 << 20, connections_max: 5120, tasks_max: 8192, log_level: 0 }
    }
}

/// Why the kernel side cannot run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Built without the kernel programs.
    #[error("this spantap was built without its kernel programs (a stub); build it with: cargo xtask build")]
    Stub,
    /// The kernel will refuse.
    #[error(
        "missing {}: run as root, or grant it (systemd AmbientCapabilities=, Kubernetes securityContext); see: spantap check",
        .0.join(", ")
    )]
    Privilege(Vec<&'static str>),
    /// Process ids are others' than the kernel's.
    #[error(
        "the agent runs in a process id namespace of its own, where it would take other processes for itself and for \
         each other; run it with hostPID: true (Kubernetes) or --pid=host (docker)"
    )]
    PidNamespace,
    /// No usable type information.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// aya could not read the kernel's BTF.
    #[error("cannot use the kernel's BTF: {0}")]
    KernelBtf(#[source] aya::BtfError),
    /// Maps could not be made.
    #[error("cannot create the kernel maps: {0}; see: spantap check")]
    Maps(#[source] Box<aya::EbpfError>),
    /// A map is missing or of another type.
    #[error("the kernel object has no usable map {0}; rebuild it with: cargo xtask build")]
    Map(&'static str, #[source] aya::maps::MapError),
    /// A hook that nothing works without could not be attached.
    #[error("cannot attach {name}, without which {gives} is unknown: {detail}; see: spantap check")]
    Required {
        /// Hook.
        name: &'static str,
        /// What it gives.
        gives: &'static str,
        /// Why.
        detail: String,
    },
}

/// The loaded kernel side. Dropping it detaches everything.
pub struct Capture {
    hooks: Vec<HookState>,
    losses: PerCpuArray<MapData, u64>,
    why_every_call: Option<String>,
    programs: Arc<Programs>,
    /// Keeps programs and links alive.
    _ebpf: Arc<Mutex<Ebpf>>,
    _logger: Option<std::thread::JoinHandle<()>>,
}

/// What [`load`] hands out.
pub struct Loaded {
    /// Keep it alive.
    pub capture: Capture,
    /// The records.
    pub records: ring::Records,
    /// Armed before sleeping; see [`super::ring`].
    pub wake: Array<MapData, u32>,
    /// What is traced.
    pub selection: Selection,
    /// Attaches to the TLS libraries of the processes that it is told of; `None` if nothing can be.
    pub tls: Option<Follower>,
}

/// Loads and attaches. Nothing is traced before [`Selection`] is given its first settings.
pub fn load(options: &LoadOptions) -> Result<Loaded, LoadError> {
    let loaded = load_and_attach(options);
    // The object and the kernel's types take some 15 MiB while they are read, which the allocator would keep.
    memory::give_back();
    loaded
}

fn load_and_attach(options: &LoadOptions) -> Result<Loaded, LoadError> {
    let bytes = object::embedded().ok_or(LoadError::Stub)?;
    let missing = super::preflight::missing_capabilities();
    if !missing.is_empty() {
        return Err(LoadError::Privilege(missing));
    }
    if !super::preflight::pid_namespace().ok {
        return Err(LoadError::PidNamespace);
    }
    let offsets = btf::offsets(&btf::Btf::from_running_kernel()?)?;
    let kernel_btf = Btf::from_sys_fs().map_err(LoadError::KernelBtf)?;
    let mut attach = AttachOptions { preemptible: super::preflight::preempts_programs(), ..options.attach.clone() };
    let mut why_every_call = None;
    if attach.syscalls == SyscallHooks::Sockets
        && let Some(why) = why_not_by_sockets(&attach)
    {
        attach.syscalls = every_instead(why);
        why_every_call = Some(why.to_owned());
    }
    let mut object = Object::load(bytes, &offsets, options, attach.syscalls)?;
    let empty_run_ns = EmptyRun::measure(&mut object.ebpf, &kernel_btf);
    let mut hooks = match attach_in_own_namespace(&mut object.ebpf, &kernel_btf, &attach) {
        Ok(hooks) => hooks,
        Err(why) => {
            attach.syscalls = every_instead(&why);
            why_every_call = Some(why);
            drop(object); // before it comes again, for its memory
            object = Object::load(bytes, &offsets, options, attach.syscalls)?;
            attach_in_own_namespace(&mut object.ebpf, &kernel_btf, &attach).unwrap_or_default()
        }
    };
    let Object { mut ebpf, records, places: _places } = object;
    if is_by_sockets(&hooks) && TELL_OF_DATAGRAMS.iter().any(|name| !is_attached(&hooks, name)) {
        // Nobody says when a sender is awaited, so one always is.
        let mut awaited: Array<MapData, u64> = take(&mut ebpf, "SENDERS_AWAITED")?;
        awaited.set(0, 1, 0).map_err(|error| LoadError::Map("SENDERS_AWAITED", error))?;
    }
    let (wake, losses) = (take(&mut ebpf, "WAKE")?, take(&mut ebpf, "LOSSES")?);
    let selection = Selection::new(&mut ebpf)?;
    hooks.push(tls::prepare(&mut ebpf, &options.attach.without));
    for hook in &hooks {
        let wanted = !options.attach.without.iter().any(|name| name == hook.name);
        if hook.rung.is_none() && hook.required && wanted {
            let HookState { name, gives, detail, .. } = hook.clone();
            return Err(LoadError::Required { name, gives, detail });
        }
    }
    let programs = Arc::new(Programs::new(&ebpf, &hooks, empty_run_ns));
    let logger = (options.log_level > 0).then(|| spawn_logger(&mut ebpf)).flatten();
    let ebpf = Arc::new(Mutex::new(ebpf));
    let tls = is_attached(&hooks, tls::HOOK).then(|| Follower::start(&ebpf));
    let tls =
        tls.transpose().inspect_err(|error| tracing::warn!(%error, "TLS libraries are not looked at")).ok().flatten();
    let capture = Capture { hooks, losses, why_every_call, programs, _ebpf: ebpf, _logger: logger };
    Ok(Loaded { capture, records, wake, selection, tls })
}

/// What tells of a datagram that its sender is still to come.
const TELL_OF_DATAGRAMS: [&str; 2] = ["sock_recv_length", "received_elsewhere"];

fn is_attached(hooks: &[HookState], name: &str) -> bool {
    hooks.iter().any(|hook| hook.name == name && hook.rung.is_some())
}

fn every_instead(why: &str) -> SyscallHooks {
    tracing::info!("sockets do not tell of calls here, so that every system call is hooked: {why}");
    SyscallHooks::Every
}

/// The kernel programs and maps, nothing of it attached.
struct Object {
    ebpf: Ebpf,
    records: ring::Records,
    /// Programs that are loaded later find it by its descriptor.
    places: ring::Rings,
}

impl Object {
    fn load(
        bytes: &[u8],
        offsets: &[(&'static str, u32)],
        options: &LoadOptions,
        syscalls: SyscallHooks,
    ) -> Result<Self, LoadError> {
        let mut loader = EbpfLoader::new();
        // It reads the kernel's types for relocations of the object, which has none: each time they take 12 MiB.
        loader.btf(None);
        for (name, offset) in offsets {
            // A field that no program reads is dropped from the object.
            loader.override_global(name, offset, false);
        }
        let jiffy_ns = jiffy_ns();
        let by_sockets = u32::from(syscalls == SyscallHooks::Sockets);
        let cpus = aya::util::nr_cpus().map_or(1, |cpus| cpus as u32);
        loader
            .override_global("JIFFY_NS", &jiffy_ns, false)
            .override_global("BY_SOCKETS", &by_sockets, false)
            .override_global("AYA_LOG_LEVEL", &options.log_level, false)
            .map_max_entries("RECORDS", cpus)
            .map_max_entries("SCRATCH", cpus)
            .map_max_entries("CONNECTIONS", options.connections_max)
            .map_max_entries("TASKS", options.tasks_max);
        let mut ebpf = loader.load(bytes).map_err(|error| LoadError::Maps(Box::new(error)))?;
        let mut places = take(&mut ebpf, "RECORDS")?;
        let records = ring::make(&mut places, options.ring_bytes).map_err(|error| LoadError::Map("RECORDS", error))?;
        Ok(Self { ebpf, records, places })
    }
}

/// Length of the kernel's tick: the resolution of its coarse clocks (`LOW_RES_NSEC`, include/linux/hrtimer.h). 4 ms, the
/// usual one, in the impossible case that the kernel does not say.
fn jiffy_ns() -> u32 {
    // SAFETY: all-zero is a valid `timespec`.
    let mut resolution: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: `resolution` is a valid place to write to.
    let failed = unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut resolution) } != 0;
    if failed { 4_000_000 } else { u32::try_from(resolution.tv_nsec).unwrap_or(4_000_000) }
}

/// Takes a map out of the object, as the type that the caller wants.
pub(super) fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, LoadError>
where
    T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    let missing = || aya::maps::MapError::InvalidName { name: name.into() };
    let map = ebpf.take_map(name).ok_or_else(|| LoadError::Map(name, missing()))?;
    T::try_from(map).map_err(|error| LoadError::Map(name, error))
}

/// Attaches on a thread with a mount namespace of its own, so that a missing tracefs can be mounted there without the
/// host noticing. BTF tracepoints need none of this.
fn attach_in_own_namespace(ebpf: &mut Ebpf, btf: &Btf, options: &AttachOptions) -> Result<Vec<HookState>, String> {
    std::thread::scope(|scope| {
        let attaching = scope.spawn(|| {
            if let Err(error) = super::preflight::mount_private_tracefs() {
                tracing::debug!(%error, "no tracefs; tracepoints through it cannot be attached");
            }
            attach_all(ebpf, btf, options)
        });
        attaching.join().unwrap_or(Ok(Vec::new()))
    })
}

/// Forwards kernel-side diagnostics to the agent's log.
fn spawn_logger(ebpf: &mut Ebpf) -> Option<std::thread::JoinHandle<()>> {
    match aya_log::EbpfLogger::init(ebpf) {
        Ok(mut logger) => std::thread::Builder::new()
            .name("kernel-log".into())
            .spawn(move || {
                loop {
                    logger.flush();
                    std::thread::sleep(std::time::Duration::from_millis(200));
                }
            })
            .ok(),
        Err(error) => {
            tracing::warn!(%error, "kernel-side diagnostics are not available");
            None
        }
    }
}

impl Capture {
    /// How each hook fared.
    pub fn hooks(&self) -> &[HookState] {
        &self.hooks
    }

    /// Why every system call is hooked, though sockets were to tell of calls; nothing if they do.
    pub fn why_every_call(&self) -> Option<&str> {
        self.why_every_call.as_deref()
    }

    /// The attached programs, for what they cost. They are detached with this, whoever still holds them.
    pub fn programs(&self) -> Arc<Programs> {
        Arc::clone(&self.programs)
    }

    /// Losses counted by the kernel side: per reason, per CPU.
    pub fn losses(&self) -> Vec<(KernelLoss, Vec<u64>)> {
        KernelLoss::ALL
            .iter()
            .map(|reason| {
                let counts = self.losses.get(&(*reason as u32), 0).map(|values| values.iter().copied().collect());
                (*reason, counts.unwrap_or_default())
            })
            .collect()
    }
}

/// `Settings` as aya wants it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct PodSettings(pub Settings);
// SAFETY: `Settings` is `Plain`: repr(C), integers only, no padding.
unsafe impl aya::Pod for PodSettings {}
