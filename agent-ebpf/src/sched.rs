//! How long known threads wait for a CPU.
//!
//! A thread is on a run queue from `sched_waking` to the `sched_switch` that gives it a CPU, and from a `sched_switch`
//! that takes its CPU while it stays runnable (`prev_state == 0`; `preempt` says something else) to the next that
//! gives it back. Both hooks run host-wide: the look-up in the table of threads comes first.

use crate::{
    emit::now,
    maps::{SCHED_SEEN, TASKS},
    offsets::{self, read},
    state::Task,
};

const WAKING: u32 = 0;
const SWITCH: u32 = 1;

/// Notes that a hook works. Written once, so that the line stays shared between CPUs.
#[inline(always)]
fn seen(hook: u32) {
    if let Some(flag) = SCHED_SEEN.get_ptr_mut(hook) {
        // SAFETY: a live, aligned map value that only ever becomes 1.
        unsafe {
            if flag.read_volatile() == 0 {
                flag.write_volatile(1);
            }
        }
    }
}

/// Whether both hooks work, so that the times of every known thread can be believed.
#[inline(always)]
pub fn works() -> bool {
    // SAFETY: live, aligned map values.
    let seen = |hook| SCHED_SEEN.get_ptr(hook).is_some_and(|flag| unsafe { flag.read_volatile() } != 0);
    seen(WAKING) && seen(SWITCH)
}

#[inline(always)]
fn known(task_struct: u64) -> Option<&'static mut Task> {
    let tid: u32 = read(task_struct, &offsets::TASK_PID)?;
    // SAFETY: a live map value; the scheduler's own locking orders the hooks for one thread.
    TASKS.get_ptr_mut(&tid).map(|task| unsafe { &mut *task })
}

/// `sched_waking`: about to be made runnable.
#[inline(always)]
pub fn on_waking(task_struct: u64) {
    seen(WAKING);
    if let Some(task) = known(task_struct)
        && task.runnable_ns == 0
    {
        task.runnable_ns = now();
        task.woken_from_sleep = 1;
    }
}

/// `sched_switch`: `previous` leaves the CPU, `next` gets it.
#[inline(always)]
pub fn on_switch(previous: u64, next: u64, previous_state: u64) {
    seen(SWITCH);
    if let Some(task) = known(previous) {
        // A wake-up that came while it still ran was consumed without sleeping.
        task.runnable_ns = if previous_state == 0 { now() } else { 0 };
        task.woken_from_sleep = 0;
    }
    if let Some(task) = known(next) {
        if task.runnable_ns != 0 {
            let time_ns = now();
            task.run_queue_ns += time_ns - task.runnable_ns;
            if task.woken_from_sleep == 1 {
                task.woken_ns = task.runnable_ns;
                task.running_ns = time_ns;
            }
            task.runnable_ns = 0;
            task.woken_from_sleep = 0;
        }
    }
}
