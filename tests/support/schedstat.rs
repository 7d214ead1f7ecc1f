//! The scheduler's own account of waiting: the truth about `run_queue`.
//!
//! Source: `/proc/<pid>/task/<tid>/schedstat`, second field: nanoseconds spent runnable and not running.

use std::fs;

/// Nanoseconds that the live threads of a process have waited for a CPU so far.
pub fn run_delay_ns(pid: u32) -> u64 {
    tasks(pid).iter().filter_map(|tid| field(&format!("/proc/{pid}/task/{tid}/schedstat"), 1)).sum()
}

/// Nanoseconds that the calling thread has waited for a CPU so far.
pub fn own_run_delay_ns() -> u64 {
    field("/proc/thread-self/schedstat", 1).expect("the scheduler's account of this thread")
}

/// How often the live threads of a process have gone to sleep of their own accord.
pub fn voluntary_switches(pid: u32) -> u64 {
    tasks(pid).iter().filter_map(|tid| voluntary(&format!("/proc/{pid}/task/{tid}/status"))).sum()
}

/// User and system CPU time of a process so far, in clock ticks turned into nanoseconds.
pub fn cpu_ns(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_else(|error| panic!("stat of {pid}: {error}"));
    // The command in parentheses may hold spaces; fields are counted behind it (proc(5): utime is 14, stime 15).
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().filter_map(|&index| fields.get(index)?.parse::<u64>().ok()).sum();
    // SAFETY: no pointers.
    let ticks_per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as u64;
    ticks * 1_000_000_000 / ticks_per_second
}

/// CPU time of the live threads of a process in nanoseconds, from `schedstat`'s first field: finer than clock ticks.
pub fn running_ns(pid: u32) -> u64 {
    tasks(pid).iter().filter_map(|tid| field(&format!("/proc/{pid}/task/{tid}/schedstat"), 0)).sum()
}

fn tasks(pid: u32) -> Vec<String> {
    let folder = fs::read_dir(format!("/proc/{pid}/task"));
    let folder = folder.unwrap_or_else(|error| panic!("threads of process {pid}: {error}"));
    folder.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

fn field(path: &str, index: usize) -> Option<u64> {
    fs::read_to_string(path).ok()?.split_whitespace().nth(index)?.parse().ok()
}

fn voluntary(path: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()
}
