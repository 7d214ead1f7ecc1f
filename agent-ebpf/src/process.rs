//! Process life: selection of children, executables, and forgetting.

use agent_common::{
    header::kind,
    loss::KernelLoss,
    process::{ProcessRecord, change},
    settings::{mode::EXCLUDE, rule},
};
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, generated as helpers};

use crate::{
    call,
    emit::{self, now},
    maps::{SELECT_PID, TASKS},
    offsets::{self, read, read_at},
    sched, select,
};

/// `sched_process_fork`: a selected process's child is selected too. Where nobody sees a call begin, the threads of those that are recorded are
/// known from their birth on: the first call of each may sleep before any hook fires in it.
#[inline(always)]
pub fn on_fork(parent: u64, child: u64) {
    let Some(settings) = select::settings() else { return };
    let known = if offsets::by_sockets() { sched::watched(bpf_get_current_pid_tgid() as u32) } else { None };
    if settings.rules & rule::PID == 0 && known.is_none() {
        return;
    }
    let (Some(parent_pid), Some(child_pid), Some(child_tid)) = (
        read::<u32>(parent, &offsets::TASK_TGID),
        read::<u32>(child, &offsets::TASK_TGID),
        read::<u32>(child, &offsets::TASK_PID),
    ) else {
        return;
    };
    if let Some(task) = known {
        select::inherit(task, child_pid, child_tid);
    }
    if settings.rules & rule::PID == 0 || child_pid != child_tid {
        return; // a thread
    }
    if let Some(inherited) = SELECT_PID.get_ptr(&parent_pid) {
        // SAFETY: a live map value.
        let inherited = unsafe { *inherited };
        if SELECT_PID.insert(&child_pid, &inherited, 0).is_err() {
            emit::lost(KernelLoss::SelectionTableFull);
        }
    }
}

/// `sched_process_exec`: the thread's cached decision is void, and the agent should look at the process. A thread that is not
/// the first had the number `old_tid` until now: nobody ends under that.
#[inline(always)]
pub fn on_exec(old_tid: u32, bprm: u64) {
    let tid = bpf_get_current_pid_tgid() as u32;
    if old_tid != tid {
        let _ = TASKS.remove(&old_tid);
    }
    if let Some(task) = TASKS.get_ptr_mut(&tid) {
        // SAFETY: a live map value of the current thread.
        unsafe { ((*task).generation, (*task).number, (*task).noticed) = (0, 0, 0) };
    }
    let Some(settings) = select::settings() else { return };
    let Some(task) = select::current_task(settings) else { return };
    if select::hopeless(settings, task.mode) && settings.rules & rule::EXE == 0 {
        return;
    }
    let filename = read::<u64>(bprm, &offsets::BPRM_FILENAME).unwrap_or(0);
    emit_process(change::EXEC, task.cgroup_id, filename);
}

/// `sched_process_exit` of the current thread. The last one of a process need not be one that ever moved bytes.
#[inline(always)]
pub fn on_exit() {
    let pid_tgid = bpf_get_current_pid_tgid();
    let (pid, tid) = ((pid_tgid >> 32) as u32, pid_tgid as u32);
    if process_ends() {
        tell_end(pid, tid);
        let _ = SELECT_PID.remove(&pid);
    }
    if call::is_any_sender_awaited()
        && let Some(task) = TASKS.get_ptr_mut(&tid)
    {
        // SAFETY: a live map value of the current thread.
        call::await_sender(unsafe { &mut *task }, false);
    }
    let _ = TASKS.remove(&tid);
}

/// What the process executed is gone by now (before Linux 6.16), so rules for executables only say anything if the thread was known
/// before. Of a process that the agent does not know, an end says nothing to it.
#[inline(always)]
fn tell_end(pid: u32, tid: u32) {
    let Some(settings) = select::settings() else { return };
    let (mode, cgroup_id, decided) = match TASKS.get_ptr(&tid) {
        // SAFETY: a live map value of the current thread.
        Some(task) => unsafe { ((*task).mode, (*task).cgroup_id, true) },
        // SAFETY: the helper takes no arguments.
        None => (select::decide_task(settings, pid), unsafe { helpers::bpf_get_current_cgroup_id() }, false),
    };
    let may_be_selected = !decided && settings.rules & rule::EXE != 0 && mode != EXCLUDE;
    if may_be_selected || !select::hopeless(settings, mode) {
        emit_process(change::EXIT, cgroup_id, 0);
    }
}

/// Whether the current thread is the last of its process; the first thread may end long before.
#[inline(always)]
fn process_ends() -> bool {
    // SAFETY: the helper takes no arguments.
    let task = unsafe { helpers::bpf_get_current_task() };
    let live = read::<u64>(task, &offsets::TASK_SIGNAL).and_then(|signal| read::<i32>(signal, &offsets::SIGNAL_LIVE));
    live == Some(0)
}

#[inline(always)]
fn emit_process(what: u8, cgroup_id: u64, filename: u64) {
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: the helper takes no arguments.
    let task = unsafe { helpers::bpf_get_current_task() };
    let parent_pid = read::<u64>(task, &offsets::TASK_PARENT)
        .and_then(|parent| read_at(parent + u64::from(offsets::TASK_TGID.load())));
    let comm = bpf_get_current_comm().unwrap_or_default();
    let header = emit::header(kind::PROCESS, now());
    emit::record::<ProcessRecord>(|record| {
        // SAFETY: `record` is the reserved entry of exactly this size, and every field of it is written.
        unsafe {
            (*record).header = header;
            (*record).cgroup_id = cgroup_id;
            (*record).pid = pid;
            (*record).parent_pid = parent_pid.unwrap_or(0);
            (*record).comm = comm;
            (*record).change = what;
            (*record).padding = [0; 7];
            (*record).filename = [0; 120];
            if filename != 0 {
                helpers::bpf_probe_read_kernel_str((&raw mut (*record).filename).cast(), 120, filename as *const _);
            }
        }
    });
}
