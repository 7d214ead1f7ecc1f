//! How long known threads wait for a CPU, and how long and in what they sleep.
//!
//! ```text
//!   running --sched_switch, asleep--> sleeping --sched_waking--> runnable --sched_switch--> running
//!   running --sched_switch, runnable-----------------------------^
//! ```
//!
//! A thread that loses its CPU is runnable if it was preempted or if `prev_state == 0` (being out of its time slice says
//! only the latter). What it sleeps in is told by the system call that it is in. Both hooks run host-wide: threads of which
//! nothing is recorded cost one look-up each.
//!
//! A waker is not held up by the switch: it may call while the thread is on its way to sleep ([`Task::woken_early`]). And a kernel
//! may not tell of a switch at all if it hides one of the two threads, such as those of a sandbox's supervisor: see [`runs`].

use agent_common::{
    sched::{BLOCKED, Blocked, NEVER_SLEPT},
    settings::shed,
};
use aya_ebpf::helpers::bpf_get_current_pid_tgid;

use crate::{
    arch::{blocked_in, regs},
    call,
    emit::now,
    maps::{SCHED_STATE, TASKS},
    offsets::{self, ABSENT, Memory, read, read_at},
    select,
    state::Task,
};

/// Entries of [`SCHED_STATE`].
const WAKING: u32 = 0;
const SWITCH: u32 = 1;
/// When the agent last made the hooks work again; times before are not complete. Written by the agent.
const SINCE: u32 = 2;

/// Sleeping states (include/linux/sched.h): the sleep cannot be interrupted; it does not count as load.
const TASK_UNINTERRUPTIBLE: u64 = 2;
const TASK_NOLOAD: u64 = 0x400;
/// Shorter waits for a CPU are told as amounts only, and not asked for throttling, which takes milliseconds.
const LONG_WAIT_NS: u64 = 100_000;

#[inline(always)]
fn state(entry: u32) -> u64 {
    // SAFETY: a live, aligned map value.
    SCHED_STATE.get_ptr(entry).map_or(0, |value| unsafe { value.read_volatile() })
}

/// Notes that a hook works. Written once, so that the line stays shared between CPUs.
#[inline(always)]
fn seen(hook: u32) {
    if state(hook) == 0
        && let Some(flag) = SCHED_STATE.get_ptr_mut(hook)
    {
        // SAFETY: a live, aligned map value that only ever becomes 1.
        unsafe { flag.write_volatile(1) };
    }
}

#[inline(always)]
fn is_shed() -> bool {
    // SAFETY: a live reference; the agent changes it at any time.
    select::settings().is_none_or(|settings| unsafe { (&raw const settings.shed).read_volatile() } & shed::SCHED != 0)
}

/// Of a thread of which not everything was seen.
pub const NEVER: u64 = u64::MAX;

/// Since when the times of every known thread are complete, as far as the hooks work.
#[inline(always)]
pub fn since() -> u64 {
    state(SINCE)
}

/// Whether both hooks work, and did so since before the thread's previous call: differences to its totals then hold.
#[inline(always)]
pub fn complete(task: &Task) -> bool {
    !is_shed() && state(WAKING) != 0 && state(SWITCH) != 0 && task.sched_complete != 0 && task.sched_since_ns == since()
}

/// The current thread runs. If it was not seen to get its CPU back, its sleep is known up to its wake-up, if that was seen;
/// the time since is not: it waited for a CPU for a part of it, and ran for the other.
#[inline(always)]
pub fn runs(task: &mut Task) {
    let slept = task.off_since_ns != 0;
    // A wake-up alone may come while a thread runs.
    if !slept && (task.runnable_ns == 0 || task.woken_from_sleep != 0) {
        return;
    }
    let since = since();
    let off_since_ns = core::mem::replace(&mut task.off_since_ns, 0);
    let runnable_ns = core::mem::replace(&mut task.runnable_ns, 0);
    task.woken_from_sleep = 0;
    task.woken_early = 0;
    let from_ns = if runnable_ns == 0 { off_since_ns } else { runnable_ns };
    if slept {
        // That it ran since is not known: `running_ns` stays behind.
        task.woken_ns = runnable_ns;
        if off_since_ns > since && runnable_ns > off_since_ns {
            sleep_ends(task, runnable_ns - off_since_ns);
        }
    }
    if from_ns > since {
        task.unseen_ns += now().saturating_sub(from_ns);
    }
}

#[inline(always)]
fn sleep_ends(task: &mut Task, slept_ns: u64) {
    task.off_cpu_ns[(task.off_in & 7) as usize] += slept_ns;
    task.off_cpu_total_ns += slept_ns;
    task.slept_in = task.off_in + 1;
}

/// What the thread does is recorded from now on: what was noted before it was left alone is old.
#[inline(always)]
pub fn begins(task: &mut Task) {
    task.sched_since_ns = NEVER;
    task.runnable_ns = 0;
    task.off_since_ns = 0;
    task.woken_ns = 0;
    task.woken_from_sleep = 0;
    task.woken_early = 0;
}

/// The thread enters a call.
#[inline(always)]
pub fn on_call(task: &mut Task) {
    runs(task);
    let since = since();
    task.sched_complete = u32::from(task.sched_since_ns == since);
    task.sched_since_ns = since;
    task.run_queue_enter_ns = task.run_queue_ns;
    task.throttled_enter_ns = task.throttled_ns;
    task.off_cpu_enter_ns = task.off_cpu_total_ns;
    task.unseen_enter_ns = task.unseen_ns;
}

/// Total time asleep, by [`Blocked`].
#[inline(always)]
pub fn off_cpu(task: &Task) -> [u64; BLOCKED] {
    let [lock, disk, socket, sleep, poll, other, ..] = task.off_cpu_ns;
    [lock, disk, socket, sleep, poll, other]
}

/// What the thread slept in last.
#[inline(always)]
pub fn slept_in(task: &Task) -> u8 {
    if task.slept_in == 0 { NEVER_SLEPT } else { (task.slept_in - 1) as u8 }
}

/// The thread, if what it does may be recorded.
#[inline(always)]
pub fn watched(tid: u32) -> Option<&'static mut Task> {
    // SAFETY: a live map value; the scheduler's own locking orders the hooks for one thread.
    TASKS.get_ptr_mut(&tid).map(|task| unsafe { &mut *task }).filter(|task| task.watched != 0)
}

/// `sched_waking`: about to be made runnable.
#[inline(always)]
pub fn on_waking<M: Memory>(task_struct: u64) {
    if is_shed() {
        return;
    }
    seen(WAKING);
    if let Some(task) = watched(M::read(task_struct, &offsets::TASK_PID))
        && task.runnable_ns == 0
    {
        task.runnable_ns = now();
        task.woken_from_sleep = 1;
        task.wait_queue = 0;
        if task.quota != 0 {
            begin_wait(task, task_struct);
        }
    }
}

/// `sched_switch`: `previous`, which is still the current thread, leaves the CPU, and `next` gets it.
#[inline(always)]
pub fn on_switch<M: Memory>(preempted: bool, previous: u64, next: u64, previous_state: u64) {
    if is_shed() {
        return;
    }
    seen(SWITCH);
    let previous_tid = bpf_get_current_pid_tgid() as u32;
    let mut time_ns = 0;
    // Number 0 is a CPU's idle thread.
    if previous_tid != 0
        && let Some(task) = watched(previous_tid)
    {
        time_ns = now();
        leave(task, previous, preempted || previous_state == 0, previous_state, time_ns);
    }
    let next_tid = M::read::<u32>(next, &offsets::TASK_PID);
    if next_tid != 0
        && let Some(task) = watched(next_tid)
    {
        arrive(task, next, if time_ns == 0 { now() } else { time_ns });
    }
}

#[inline(always)]
fn leave(task: &mut Task, task_struct: u64, runnable: bool, sleep_state: u64, time_ns: u64) {
    runs(task);
    // A wake-up that came while it still ran was consumed without sleeping, or came while it was going to sleep: in that case
    // no other will come.
    task.woken_early = u32::from(task.runnable_ns != 0);
    task.woken_from_sleep = 0;
    if runnable {
        task.runnable_ns = time_ns;
        task.off_since_ns = 0;
        begin_wait(task, task_struct);
    } else {
        task.runnable_ns = 0;
        task.off_since_ns = 0;
        call::notice_passing(task, || time_ns);
        task.off_since_ns = time_ns;
        task.off_in = blocked(task, sleep_state) as u32;
    }
}

#[inline(always)]
fn arrive(task: &mut Task, task_struct: u64, time_ns: u64) {
    let since = since();
    let mut runnable_ns = core::mem::replace(&mut task.runnable_ns, 0);
    let off_since_ns = core::mem::replace(&mut task.off_since_ns, 0);
    let mut woken = core::mem::replace(&mut task.woken_from_sleep, 0) == 1;
    let woken_early = core::mem::replace(&mut task.woken_early, 0) == 1;
    if runnable_ns == 0 && off_since_ns == 0 {
        return;
    }
    if runnable_ns == 0 && woken_early {
        // It did not sleep.
        runnable_ns = off_since_ns;
        woken = true;
    }
    if off_since_ns != 0 && !woken {
        // The wake-up from this sleep was not seen; that from an older one says nothing of it.
        task.woken_ns = 0;
    }
    // What began before the hooks were made to work again may have ended unseen since.
    if runnable_ns > since {
        task.run_queue_ns += time_ns.saturating_sub(runnable_ns);
        if woken {
            task.woken_ns = runnable_ns;
            task.running_ns = time_ns;
        }
        let waited_ns = time_ns.saturating_sub(runnable_ns);
        if waited_ns >= LONG_WAIT_NS {
            let throttled_ns = end_wait(task, task_struct, waited_ns);
            task.throttled_ns += throttled_ns;
            (task.queued_from_ns, task.queued_until_ns) = (runnable_ns, time_ns);
            task.queued_throttled_ns = throttled_ns;
        }
    }
    // Without a wake-up in sight the wait for the CPU is a part of the sleep.
    let until_ns = if runnable_ns == 0 { time_ns } else { runnable_ns };
    if off_since_ns > since && until_ns > off_since_ns {
        sleep_ends(task, until_ns - off_since_ns);
    }
}

/// The run queue of a thread's cgroup, and how long it has been throttled so far; zeros if not known. No `Option`: of the
/// absent value the compiler would compare what a failed read leaves, which the verifier refuses.
#[inline(always)]
fn throttled(task_struct: u64) -> (u64, u64) {
    if offsets::TASK_CFS_RQ.load() == ABSENT || offsets::CFS_THROTTLED_NS.load() == ABSENT {
        return (0, 0);
    }
    let Some(queue) = read::<u64>(task_struct, &offsets::TASK_CFS_RQ) else { return (0, 0) };
    match read::<u64>(queue, &offsets::CFS_THROTTLED_NS) {
        Some(total_ns) => (queue, total_ns),
        None => (0, 0),
    }
}

#[inline(always)]
fn begin_wait(task: &mut Task, task_struct: u64) {
    (task.wait_queue, task.wait_throttled_ns) = throttled(task_struct);
}

/// The throttled part of a long wait: the total of the queue that it began in has grown by it, also if the thread came to
/// another CPU since.
#[inline(always)]
fn end_wait(task: &mut Task, task_struct: u64, waited_ns: u64) -> u64 {
    if task.wait_queue == 0 {
        // A wake-up's wait is looked at only in cgroups that are throttled at times.
        task.quota = u32::from(throttled(task_struct).1 != 0);
        return 0;
    }
    let Some(total_ns) = read::<u64>(task.wait_queue, &offsets::CFS_THROTTLED_NS) else { return 0 };
    if total_ns != 0 {
        task.quota = 1;
    }
    let grown_ns = total_ns.saturating_sub(task.wait_throttled_ns);
    // What was throttled when the wait began is told as a whole when it ends.
    if grown_ns < waited_ns { grown_ns } else { waited_ns }
}

/// What the current thread goes to sleep in.
#[inline(always)]
fn blocked(task: &Task, sleep_state: u64) -> Blocked {
    let number = if task.number != 0 { task.number - 1 } else { current_call() };
    let uninterruptible = sleep_state & (TASK_UNINTERRUPTIBLE | TASK_NOLOAD) == TASK_UNINTERRUPTIBLE;
    // No call at all: a page fault.
    let class = if number < blocked_in::CALLS { blocked_in::TABLE[number as usize] } else { blocked_in::FILE };
    match (class, uninterruptible) {
        (blocked_in::LOCK, _) => Blocked::Lock,
        (blocked_in::SLEEP, _) => Blocked::Sleep,
        (blocked_in::POLL, _) => Blocked::Poll,
        (blocked_in::SOCKET, _) | (blocked_in::STREAM, false) => Blocked::Socket,
        (blocked_in::STREAM | blocked_in::FILE, true) => Blocked::Disk,
        _ => Blocked::Other,
    }
}

/// Number of the system call that the current thread is in.
#[inline(always)]
fn current_call() -> u64 {
    read_at(call::registers() + regs::CALL).unwrap_or(u64::MAX)
}
