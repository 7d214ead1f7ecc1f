//! Process life.

use crate::{Plain, header::RecordHeader};

/// What happened, in [`ProcessRecord::change`].
pub mod change {
    /// The process replaced its program.
    pub const EXEC: u8 = 1;
    /// The last thread of the process ended.
    pub const EXIT: u8 = 2;
}

/// One process event. 176 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessRecord {
    /// `kind` is `PROCESS`.
    pub header: RecordHeader,
    /// cgroup v2 id.
    pub cgroup_id: u64,
    /// Process (thread group) id in the initial namespace.
    pub pid: u32,
    /// Its parent, or who took its place when that ended; 0 if not known.
    pub parent_pid: u32,
    /// Command name, NUL-padded (`task_struct.comm`).
    pub comm: [u8; 16],
    /// EXEC: path as given to `execve`, NUL-padded, cut at the array's length; zero otherwise.
    pub filename: [u8; 120],
    /// One of [`change`].
    pub change: u8,
    /// Zero.
    pub padding: [u8; 7],
}

// SAFETY: repr(C), integers only; the size assertion below equals the sum of the fields.
unsafe impl Plain for ProcessRecord {}
const _: () = assert!(size_of::<ProcessRecord>() == 16 + 8 + 8 + 16 + 120 + 8);
