//! What the agent tells the kernel side: what to trace, and how much of it. Changeable while running.

use crate::Plain;

/// What to do with a task or connection, in selection maps and [`Settings::unselected`].
pub mod mode {
    /// No rule names it. As [`super::Settings::unselected`]: nothing is recorded unless the connection or task is selected.
    pub const NONE: u32 = 0;
    /// A rule excludes it: nothing is recorded, whatever other rules say.
    pub const EXCLUDE: u32 = 1;
    /// Sizes and times, no payload.
    pub const TIMING: u32 = 2;
    /// Everything, payload included.
    pub const PAYLOAD: u32 = 3;
}

/// The one entry of the settings map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Changes with every change of selection, so that cached decisions are taken anew.
    pub generation: u32,
    /// [`mode`] of what no rule names.
    pub unselected: u32,
    /// Payload bytes captured per call; at most [`crate::message::PAYLOAD_BYTES_LIMIT`].
    pub payload_bytes_max: u32,
    /// Process id of the agent, which is never traced.
    pub agent_pid: u32,
    /// Bits of [`rule`]: which selection maps have entries.
    pub rules: u32,
    /// Bits of [`shed`]: detail that is left out while the host is busy.
    pub shed: u32,
    /// New connections are recorded only if this many low bits of a hash of theirs are 0; 0 records all.
    pub sample_bits: u32,
    /// Zero.
    pub padding: u32,
}

/// Detail that can be left out, in the order in which it is.
pub mod shed {
    /// No payload: what is selected is timed only.
    pub const PAYLOAD: u32 = 1;
    /// No run-queue and off-CPU times.
    pub const SCHED: u32 = 2;
}

/// Levels of cgroups that rules may name: the root is the first.
pub const CGROUP_LEVELS: u32 = 10;

/// Which selection maps are worth asking.
pub mod rule {
    /// By process id.
    pub const PID: u32 = 1;
    /// By cgroup v2 id of the task's cgroup or an ancestor.
    pub const CGROUP: u32 = 2;
    /// By executable file.
    pub const EXE: u32 = 4;
    /// By local or remote port.
    pub const PORT: u32 = 8;
    /// By network namespace.
    pub const NETNS: u32 = 16;
}

// SAFETY: repr(C), eight u32.
unsafe impl Plain for Settings {}
const _: () = assert!(size_of::<Settings>() == 32);

/// Key of the map of executables.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ExeKey {
    /// Inode number.
    pub inode: u64,
    /// Device, in the kernel's own encoding (`(major << 20) | minor`).
    pub device: u32,
    /// Zero.
    pub padding: u32,
}

// SAFETY: repr(C), 8 + 4 + 4 bytes.
unsafe impl Plain for ExeKey {}
const _: () = assert!(size_of::<ExeKey>() == 16);
