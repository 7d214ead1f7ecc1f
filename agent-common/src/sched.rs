//! What a thread waits for when it sleeps.

/// Why a thread left its CPU without staying runnable: index into [`crate::message::CallRecord::off_cpu_ns`]. Told by the
/// system call that it sleeps in and by the state of its sleep.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// `futex`.
    Lock = 0,
    /// Uninterruptible sleep in file I/O or at a page fault.
    Disk = 1,
    /// A call that reads, writes, connects or accepts.
    Socket = 2,
    /// `nanosleep`, `clock_nanosleep`.
    Sleep = 3,
    /// `poll`, `select`, `epoll_wait`, `io_uring_enter` and the like.
    Poll = 4,
    /// Anything else.
    Other = 5,
}

/// Number of reasons.
pub const BLOCKED: usize = 6;

impl Blocked {
    /// Every reason, in index order.
    pub const ALL: [Self; BLOCKED] = [Self::Lock, Self::Disk, Self::Socket, Self::Sleep, Self::Poll, Self::Other];
}

/// In [`crate::message::CallRecord::slept_in`]: the thread was not seen to sleep.
pub const NEVER_SLEPT: u8 = 255;
