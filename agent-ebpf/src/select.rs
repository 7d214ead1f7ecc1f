//! What to trace: decided per thread and per connection, cached until the settings change.
//!
//! A rule's value is a [`mode`]. Exclusion wins over selection; among the rest the most detailed mode wins.

use agent_common::settings::{ExeKey, Settings, mode, rule, shed};
use aya_ebpf::{
    bindings::BPF_ANY,
    helpers::{bpf_get_current_pid_tgid, generated as helpers},
};

use crate::{
    maps::{EMPTY_TASK, SELECT_CGROUP, SELECT_EXE, SELECT_NETNS, SELECT_PID, SELECT_PORT, SETTINGS, TASKS},
    offsets::{self, read},
    sched,
    state::{Conn, Task},
};

/// cgroup levels that are compared, of which the root is the first. The agent refuses rules for deeper ones.
const CGROUP_LEVELS: i32 = agent_common::settings::CGROUP_LEVELS as i32;

/// The settings; `None` never happens after load.
#[inline(always)]
pub fn settings() -> Option<&'static Settings> {
    // SAFETY: a live map value; the agent replaces it as a whole, and a torn read costs one late decision.
    SETTINGS.get_ptr(0).map(|settings| unsafe { &*settings })
}

#[inline(always)]
fn volatile_generation(settings: &Settings) -> u32 {
    // SAFETY: a live reference.
    unsafe { (&raw const settings.generation).read_volatile() }
}

/// The current thread's state for a hook that may fire inside a system call, at whose entry all was decided, unless the
/// settings changed while it waited.
#[inline(always)]
pub fn task_inside(settings: &Settings) -> Option<&'static mut Task> {
    task(settings, true)
}

/// The current thread's state, made on first use, with its mode up to date.
#[inline(always)]
pub fn current_task(settings: &Settings) -> Option<&'static mut Task> {
    task(settings, false)
}

/// Decides anew about the current thread if the settings changed since it entered the call that returns: what moved since may
/// be excluded.
#[inline(always)]
pub fn renew(settings: &Settings, task: &mut Task) {
    let generation = volatile_generation(settings);
    if task.generation != generation {
        decide_inside(settings, task, generation);
    }
}

/// A function of its own for the verifier: what follows at a call's return is long enough.
#[inline(never)]
fn decide_inside(settings: &Settings, task: &mut Task, generation: u32) {
    // SAFETY: the helper takes no arguments.
    task.cgroup_id = unsafe { helpers::bpf_get_current_cgroup_id() };
    decide(settings, task, generation);
}

#[inline(always)]
fn decide(settings: &Settings, task: &mut Task, generation: u32) {
    task.pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    task.mode = decide_task(settings, task.pid);
    let watched = !hopeless(settings, task.mode);
    if watched && task.watched == 0 {
        sched::begins(task);
    }
    task.watched = u32::from(watched);
    task.generation = generation;
}

#[inline(always)]
fn task(settings: &Settings, may_be_inside: bool) -> Option<&'static mut Task> {
    // Taken before deciding: a decision that straddles a change of settings is taken again.
    let generation = volatile_generation(settings);
    let pid_tgid = bpf_get_current_pid_tgid();
    let tid = pid_tgid as u32;
    let pid = (pid_tgid >> 32) as u32;
    let found = match TASKS.get_ptr_mut(&tid) {
        // SAFETY: a live map value. Another process: the thread of that number ended unseen.
        Some(task) if unsafe { (*task).pid == pid || (*task).pid == 0 } => task,
        // Of a call that it may be in, nothing was seen so far.
        _ => insert_task(tid, if may_be_inside { sched::NEVER } else { sched::since() })?,
    };
    // SAFETY: a live map value; only its own thread and the scheduler hooks (other fields) write it.
    let task = unsafe { &mut *found };
    if may_be_inside && task.number != 0 && task.noticed == 0 && task.generation == generation {
        return Some(task);
    }
    let cgroup_id = if settings.rules & rule::CGROUP != 0 || task.generation != generation {
        // SAFETY: the helper takes no arguments.
        unsafe { helpers::bpf_get_current_cgroup_id() }
    } else {
        task.cgroup_id
    };
    if task.generation != generation || task.cgroup_id != cgroup_id {
        task.cgroup_id = cgroup_id;
        decide(settings, task, generation);
    }
    Some(task)
}

/// A child of the current thread, which is `parent`, is recorded from its birth on as that is.
#[inline(always)]
pub fn inherit(parent: &Task, child_pid: u32, child_tid: u32) {
    let Some(task) = insert_task(child_tid, sched::since()) else { return };
    (task.pid, task.cgroup_id) = (child_pid, parent.cgroup_id);
    task.mode = parent.mode; // until it does something itself
}

/// A thread whose times are complete from `since_ns` on.
#[inline(always)]
fn insert_task(tid: u32, since_ns: u64) -> Option<&'static mut Task> {
    let empty = EMPTY_TASK.get_ptr(0)?;
    // SAFETY: `empty` is a live map value that nobody writes.
    if TASKS.insert(&tid, unsafe { &*empty }, u64::from(BPF_ANY)).is_err() {
        crate::emit::lost(agent_common::loss::KernelLoss::TaskTableFull);
    }
    // SAFETY: a live map value of the current thread, or of one that does not run yet.
    let task = TASKS.get_ptr_mut(&tid).map(|task| unsafe { &mut *task })?;
    task.sched_since_ns = since_ns;
    task.watched = 1;
    Some(task)
}

/// Takes the stronger of what is known and what a rule says.
#[inline(always)]
fn stronger(known: u32, found: Option<*const u32>) -> u32 {
    match found {
        // SAFETY: a live map value.
        Some(value) => match (known, unsafe { *value }) {
            (mode::EXCLUDE, _) | (_, mode::EXCLUDE) => mode::EXCLUDE,
            (a, b) if a > b => a,
            (_, b) => b,
        },
        None => known,
    }
}

/// What the rules for processes say of the current one.
#[inline(always)]
pub fn decide_task(settings: &Settings, pid: u32) -> u32 {
    if pid == settings.agent_pid {
        return mode::EXCLUDE;
    }
    let mut decided = settings.unselected;
    if settings.rules & rule::PID != 0 {
        decided = stronger(decided, SELECT_PID.get_ptr(&pid));
    }
    if settings.rules & rule::CGROUP != 0 {
        for level in 0..CGROUP_LEVELS {
            // SAFETY: the helper accepts any level and returns 0 beyond the last.
            let id = unsafe { helpers::bpf_get_current_ancestor_cgroup_id(level) };
            if id == 0 {
                break;
            }
            decided = stronger(decided, SELECT_CGROUP.get_ptr(&id));
        }
    }
    if settings.rules & rule::EXE != 0
        && let Some(key) = current_exe()
    {
        decided = stronger(decided, SELECT_EXE.get_ptr(&key));
    }
    decided
}

/// The file that the current process executes.
#[inline(always)]
fn current_exe() -> Option<ExeKey> {
    // SAFETY: the helper takes no arguments.
    let task = unsafe { helpers::bpf_get_current_task() };
    let mm: u64 = read(task, &offsets::TASK_MM)?;
    if mm == 0 {
        return None; // a kernel thread
    }
    let file: u64 = read(mm, &offsets::MM_EXE_FILE)?;
    let inode: u64 = read(file, &offsets::FILE_INODE)?;
    let super_block: u64 = read(inode, &offsets::INODE_SUPER)?;
    let device: u32 = read(super_block, &offsets::SUPER_DEVICE)?;
    Some(ExeKey { inode: read(inode, &offsets::INODE_NUMBER)?, device, padding: 0 })
}

/// The mode by the connection's own rules.
#[inline(always)]
pub fn connection_mode(settings: &Settings, conn: &mut Conn) -> u32 {
    let generation = volatile_generation(settings);
    if conn.generation == generation {
        return conn.mode;
    }
    conn.mode = endpoint_mode(settings, conn.local_port, conn.remote_port, conn.netns);
    conn.generation = generation;
    conn.mode
}

/// The mode by the rules for ports and network namespaces.
#[inline(always)]
pub fn endpoint_mode(settings: &Settings, local_port: u16, remote_port: u16, netns: u32) -> u32 {
    let mut decided = mode::NONE;
    if settings.rules & rule::PORT != 0 {
        decided = stronger(decided, SELECT_PORT.get_ptr(&u32::from(local_port)));
        decided = stronger(decided, SELECT_PORT.get_ptr(&u32::from(remote_port)));
    }
    if settings.rules & rule::NETNS != 0 {
        decided = stronger(decided, SELECT_NETNS.get_ptr(&netns));
    }
    decided
}

/// What to record of bytes that a task moves through a connection.
#[inline(always)]
pub fn combined(task_mode: u32, connection_mode: u32) -> u32 {
    if task_mode == mode::EXCLUDE || connection_mode == mode::EXCLUDE {
        mode::EXCLUDE
    } else if task_mode > connection_mode {
        task_mode
    } else {
        connection_mode
    }
}

/// What a call's record says of its selection: bits of [`Task::call_flags`] above those that are told as they are. The programs have no
/// room on their stacks for it.
pub mod chosen {
    /// The process or the connection is selected.
    pub const SELECTED: u32 = 1 << 16;
    /// Its payload is wanted.
    pub const PAYLOAD: u32 = 1 << 17;
}

/// What a combined mode wants: bits of [`chosen`].
#[inline(always)]
pub fn chosen(settings: &Settings, combined: u32) -> u32 {
    if combined != mode::PAYLOAD {
        0
    } else if payload(settings, combined) {
        chosen::SELECTED | chosen::PAYLOAD
    } else {
        chosen::SELECTED
    }
}

/// Whether a combined mode wants payload, and the budget leaves room for it.
#[inline(always)]
pub fn payload(settings: &Settings, combined: u32) -> bool {
    if combined != mode::PAYLOAD {
        return false;
    }
    if settings.shed & shed::PAYLOAD != 0 {
        crate::emit::lost(agent_common::loss::KernelLoss::PayloadShed);
        return false;
    }
    true
}

/// Whether a combined mode records anything.
#[inline(always)]
pub fn records(combined: u32) -> bool {
    combined >= mode::TIMING
}

/// Whether a thread of this mode can be skipped at once: nothing that it does could be recorded.
#[inline(always)]
pub fn hopeless(settings: &Settings, task_mode: u32) -> bool {
    task_mode == mode::EXCLUDE || (task_mode == mode::NONE && settings.rules & (rule::PORT | rule::NETNS) == 0)
}
