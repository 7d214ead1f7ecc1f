//! What the kernel side costs and holds: runs and run time of each program, memory of each map.
//!
//! The kernel counts run times only while somebody asks for it ([`count_run_time`]), because counting itself costs some
//! tens of nanoseconds per run. What it counts is the program's body; the way into it and out (the tracepoint's trampoline
//! and, for system calls, the slow entry path) is measured once at start by [`EmptyRun`].

use std::{
    fs,
    io::Error,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
};

use aya::{
    Btf, Ebpf,
    programs::Program,
    sys::{Stats, SyscallError, enable_stats},
};

use super::{attach::HookState, tls};
use crate::cost::threads;

/// What a run costs beside its body where it cannot be measured; see `docs` of [`EmptyRun`].
const EMPTY_RUN_NS: u64 = 35;
/// Batches of which the quickest is the least that a run takes.
const IDLE_BATCHES: usize = 10;

/// Hooks that run for every system call of the host.
pub const SYSCALL_HOOKS: [&str; 2] = ["sys_enter", "sys_exit"];

/// The attached programs.
pub struct Programs {
    programs: Vec<(&'static str, &'static str, OwnedFd)>,
    empty_run_ns: u64,
    idle_body_ns: u64,
}

/// One program's runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runs {
    /// Its hook.
    pub hook: &'static str,
    /// By which means it is attached.
    pub means: &'static str,
    /// How often it ran.
    pub runs: u64,
    /// For how long.
    pub run_ns: u64,
}

/// One map's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapMemory {
    /// Its name, which the kernel cuts at 15 bytes.
    pub name: String,
    /// Bytes in use, as the kernel accounts them (before Linux 6.4: most that it can use).
    pub bytes: u64,
    /// Most bytes that it can come to use, what the kernel adds to its entries included.
    pub bytes_max: u64,
}

/// What the kernel adds to an entry of a hash: its header (`struct htab_elem`), and a link while it is free.
const ENTRY_BYTES: u64 = 48 + 8;
/// A bucket of a hash (`struct bucket`), of which there are as many as entries, rounded up to a power of two.
const BUCKET_BYTES: u64 = 16;
/// Locks of a hash and a spare entry's pointer, of each CPU.
const CPU_BYTES: u64 = 4 * 8 + 8;
/// A map's own description; that of a hash is the largest.
const MAP_BYTES: u64 = 1024;
/// Pages of a ring buffer beside its data: positions of reader and writer, and its description.
const RING_PAGES: u64 = 3;

impl Programs {
    pub(super) fn new(ebpf: &Ebpf, hooks: &[HookState], empty_run_ns: Option<u64>) -> Self {
        let program = |hook: &HookState| {
            let rung = hook.rung?;
            let name = format!("{}__{}", hook.name, rung.suffix());
            let fd = ebpf.program(&name)?.fd().ok()?.as_fd().try_clone_to_owned().ok()?;
            Some((hook.name, rung.name(), fd))
        };
        let probe = |name: &&'static str| {
            let fd = ebpf.program(name)?.fd().ok()?.as_fd().try_clone_to_owned().ok()?;
            Some((*name, "uprobe", fd))
        };
        let programs = hooks.iter().filter_map(program).chain(tls::PROGRAMS.iter().filter_map(probe)).collect();
        let programs = Self { programs, empty_run_ns: empty_run_ns.unwrap_or(EMPTY_RUN_NS), idle_body_ns: 0 };
        Self { idle_body_ns: programs.measure_idle_body().unwrap_or(0), ..programs }
    }

    /// The least that a run of the hooks of system calls takes on average over a batch of calls that are none of anybody's, as the kernel
    /// counts it.
    fn measure_idle_body(&self) -> Option<u64> {
        let _counting = count_run_time().ok()?;
        let sums = || {
            let runs = self.runs().into_iter().filter(|runs| SYSCALL_HOOKS.contains(&runs.hook));
            runs.fold((0, 0), |(count, ns), it| (count + it.runs, ns + it.run_ns))
        };
        let batch = |_| {
            let (runs_before, ns_before) = sums();
            call_ns();
            let (runs, ns) = sums();
            (ns - ns_before).checked_div(runs - runs_before)
        };
        let least = (0..IDLE_BATCHES).filter_map(batch).min()?;
        EmptyRun::BELIEVED_NS.contains(&(least as f64)).then_some(least)
    }

    /// Where nothing is attached.
    pub fn none() -> Self {
        Self { programs: Vec::new(), empty_run_ns: 0, idle_body_ns: 0 }
    }

    /// Runs of each program for as long as run times were counted, by anybody.
    pub fn runs(&self) -> Vec<Runs> {
        let runs = |(hook, means, fd): &(&'static str, &'static str, OwnedFd)| {
            let text = fd_info(fd.as_raw_fd());
            let [runs, run_ns] = ["run_cnt", "run_time_ns"].map(|name| field(&text, name).unwrap_or(0));
            Runs { hook, means, runs, run_ns }
        };
        self.programs.iter().map(runs).collect()
    }

    /// How often the kernel did not run a program because the same one was running on that CPU already: it was interrupted, or
    /// preempted, and what happened meanwhile is not known. Counted by the kernel since Linux 5.12.
    pub fn skipped(&self) -> u64 {
        let skipped = |(.., fd): &(_, _, OwnedFd)| field(&fd_info(fd.as_raw_fd()), "recursion_misses").unwrap_or(0);
        self.programs.iter().map(skipped).sum()
    }

    /// What a run costs beside its body.
    pub fn empty_run_ns(&self) -> u64 {
        self.empty_run_ns
    }

    /// What the body of a hook of system calls takes at least, in nanoseconds; 0: it could not be measured.
    pub fn idle_body_ns(&self) -> u64 {
        self.idle_body_ns
    }
}

/// Has the kernel count run times while the result lives. Needs `CAP_SYS_ADMIN`.
///
/// # Errors
/// The kernel refuses.
pub fn count_run_time() -> Result<OwnedFd, SyscallError> {
    enable_stats(Stats::RunTime)
}

/// Every map that this process holds, by size.
pub fn maps() -> Vec<MapMemory> {
    let mut maps: Vec<(u64, MapMemory)> = Vec::new();
    for fd in open_descriptors() {
        let text = fd_info(fd);
        let Some(id) = field(&text, "map_id") else { continue };
        if maps.iter().all(|(known, _)| *known != id) {
            maps.push((id, map_memory(fd, &text)));
        }
    }
    let mut maps: Vec<MapMemory> = maps.into_iter().map(|(_, map)| map).collect();
    maps.sort_by(|a, b| b.bytes_max.cmp(&a.bytes_max).then_with(|| a.name.cmp(&b.name)));
    maps
}

/// Types of maps (include/uapi/linux/bpf.h).
mod map_type {
    pub const PERCPU_HASH: u64 = 5;
    pub const PERCPU_ARRAY: u64 = 6;
    pub const LRU_PERCPU_HASH: u64 = 10;
    pub const HASH: u64 = 1;
    pub const ARRAY: u64 = 2;
    pub const LRU_HASH: u64 = 9;
    pub const RINGBUF: u64 = 27;
}

fn map_memory(fd: RawFd, text: &str) -> MapMemory {
    let get = |name| field(text, name).unwrap_or(0);
    let (kind, key, value, entries) = (get("map_type"), get("key_size"), get("value_size"), get("max_entries"));
    let bytes = get("memlock");
    MapMemory {
        name: map_name(fd).unwrap_or_else(|| format!("map {}", get("map_id"))),
        bytes,
        // What is in use is no more than can be, however much this kernel adds.
        bytes_max: bytes_max(kind, key, value, entries, possible_cpus()).max(bytes),
    }
}

/// As the kernel accounts it (`map_mem_usage` of each type, since Linux 6.4), rounded up.
fn bytes_max(kind: u64, key: u64, value: u64, entries: u64, cpus: u64) -> u64 {
    let (key, value) = (key.next_multiple_of(8), value.next_multiple_of(8));
    let hash = |each: u64| {
        let elements = entries.saturating_add(cpus).saturating_mul(key + each + ENTRY_BYTES);
        elements + entries.next_power_of_two() * BUCKET_BYTES + cpus * CPU_BYTES
    };
    let content = match kind {
        map_type::RINGBUF => entries + RING_PAGES * page_bytes(),
        map_type::ARRAY => entries * value,
        map_type::PERCPU_ARRAY => entries * (value * cpus + 8),
        map_type::HASH | map_type::LRU_HASH => hash(value),
        map_type::PERCPU_HASH | map_type::LRU_PERCPU_HASH => hash(value * cpus + 16),
        // Of programs and the like: a pointer each.
        _ => entries * value.max(8),
    };
    content + MAP_BYTES
}

fn page_bytes() -> u64 {
    // SAFETY: takes no pointers.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Name of a map: `bpf_map_info.name`, 16 bytes after six words.
fn map_name(fd: RawFd) -> Option<String> {
    const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
    let mut info = [0u8; 40];
    // `bpf_attr.info`: descriptor, length, address.
    let attributes = [u64::from(fd as u32) | (info.len() as u64) << 32, info.as_mut_ptr() as u64];
    // SAFETY: both arrays live as long as the call, which writes at most the length given into `info`.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, OBJ_GET_INFO_BY_FD, attributes.as_ptr(), size_of_val(&attributes)) };
    let name = &info[24..];
    let length = name.iter().position(|byte| *byte == 0)?;
    (result == 0 && length > 0).then(|| String::from_utf8_lossy(&name[..length]).into_owned())
}

fn open_descriptors() -> Vec<RawFd> {
    let folder = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let is_map = |entry: &fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|to| to.ends_with("anon_inode:bpf-map"));
    folder.filter(is_map).filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn fd_info(fd: RawFd) -> String {
    fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default()
}

/// The value of `name:` in a descriptor's information.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().parse().ok()
}

fn possible_cpus() -> u64 {
    let text = fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    // `0-7`, or `0,2-3`: the highest number counts, as the kernel keeps a copy per number.
    text.trim().split(['-', ',']).next_back().and_then(|last| last.parse::<u64>().ok()).map_or(1, |last| last + 1)
}

/// Measures what a run costs beside its body, by closing what is not open: its time with an empty program at the entry and at the return
/// of system calls, less its time without, divided by the two runs. That system calls take a longer way then is a part of it, so it is an upper
/// bound by some nanoseconds. Batches' minimum: whatever else the host does only adds.
pub(super) struct EmptyRun;

impl EmptyRun {
    const BATCHES: usize = 50;
    const CALLS: u32 = 200;
    /// What is believed; outside of it something else happened.
    const BELIEVED_NS: std::ops::RangeInclusive<f64> = 1.0..=500.0;
    /// Programs, and what they are attached to meanwhile.
    const PROGRAMS: [(&str, &str); 2] = [("empty_enter", "sys_enter"), ("empty_exit", "sys_exit")];

    /// To be called while nothing is attached.
    pub(super) fn measure(ebpf: &mut Ebpf, btf: &Btf) -> Option<u64> {
        let before_ns = call_ns();
        let attached = Self::PROGRAMS.map(|(name, event)| attach_empty(ebpf, btf, name, event).is_some());
        let after_ns = call_ns();
        for (name, _) in Self::PROGRAMS {
            if let Some(Program::BtfTracePoint(program)) = ebpf.program_mut(name) {
                // It may not be loaded.
                let _ = program.unload();
            }
        }
        let run_ns = (after_ns - before_ns) / 2.0;
        (attached == [true; 2] && Self::BELIEVED_NS.contains(&run_ns)).then_some(run_ns.round() as u64)
    }
}

fn attach_empty(ebpf: &mut Ebpf, btf: &Btf, name: &str, event: &str) -> Option<()> {
    let Program::BtfTracePoint(program) = ebpf.program_mut(name)? else { return None };
    program.load(event, btf).ok()?;
    program.attach().ok().map(drop)
}

fn call_ns() -> f64 {
    let batch = || {
        let start = std::time::Instant::now();
        for _ in 0..EmptyRun::CALLS {
            // SAFETY: takes no pointers, and no descriptor has this number.
            unsafe { libc::syscall(libc::SYS_close, -1) };
        }
        start.elapsed().as_nanos() as f64 / f64::from(EmptyRun::CALLS)
    };
    (0..EmptyRun::BATCHES).map(|_| batch()).fold(f64::MAX, f64::min)
}

/// CPU time that this process has used.
pub fn own_cpu_ns() -> u64 {
    threads::clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// Memory of this process that is resident.
pub fn own_memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * page_bytes()
}

/// CPUs of the host.
pub fn cpus() -> u64 {
    // SAFETY: takes no pointers.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).ok().filter(|cpus| *cpus > 0).unwrap_or(1)
}

/// Why run times are not counted, in the words of an operator.
pub fn not_counted(error: &SyscallError) -> String {
    if error.io_error.raw_os_error() == Some(libc::EPERM) {
        return "the kernel counts run times of its programs only for CAP_SYS_ADMIN".into();
    }
    Error::from(error.io_error.kind()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "pos:\t0\nmap_type:\t27\nmax_entries:\t4096\nmemlock:\t8536\nrun_time_ns:\t7\n";
        let found = ["map_type", "memlock", "run_time_ns", "run_time", "key_size"].map(|name| field(text, name));
        assert_eq!(found, [Some(27), Some(8536), Some(7), None, None]);
    }

    #[test]
    fn a_map_may_use_what_its_entries_take_with_all_that_the_kernel_adds() {
        // A hash of 1000 entries of 8 and 20 bytes, on 4 CPUs: 1004 elements, 1024 buckets.
        assert_eq!(bytes_max(map_type::HASH, 8, 20, 1000, 4), 1004 * (8 + 24 + 56) + 1024 * 16 + 4 * 40 + 1024);
        let on = |kind| bytes_max(kind, 4, 100, 10, 4);
        assert!(on(map_type::PERCPU_HASH) > on(map_type::HASH) && on(map_type::PERCPU_ARRAY) >= 10 * 104 * 4);
        assert!(bytes_max(map_type::RINGBUF, 0, 0, 4096, 4) >= 8536, "as a kernel says of such a ring");
    }

    #[test]
    fn this_process_uses_time_and_memory() {
        assert!(own_cpu_ns() > 0 && own_memory_bytes() > 0 && cpus() > 0);
        assert!(call_ns() > 0.0);
    }
}
