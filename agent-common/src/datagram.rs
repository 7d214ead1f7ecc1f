//! Datagrams: UDP.

use crate::{Plain, header::RecordHeader, sched::BLOCKED};

/// Bits of [`DatagramRecord::flags`].
pub mod flag {
    /// Fewer bytes were captured than the datagram has.
    pub const TRUNCATED: u16 = 1;
    /// The application's memory could not be read; nothing was captured.
    pub const UNREADABLE: u16 = 2;
    /// Payload was wanted (the process, port or namespace is selected).
    pub const SELECTED: u16 = 4;
    /// Both scheduler hooks work, so the thread's run-queue and off-CPU times are complete.
    pub const SCHED: u16 = 8;
    /// The socket is connected to the remote address.
    pub const CONNECTED: u16 = 16;
    /// The remote address is not known: it was neither in the socket nor given with the call.
    pub const NO_REMOTE: u16 = 32;
    /// Several arrivals share this time; it is that of the first of them.
    pub const MERGED: u16 = 64;
    /// No datagram: a thread closes the socket that it sent something to and read nothing from since. If the network had told an
    /// error that no call returned, that is in [`super::DatagramRecord::result`].
    pub const CLOSED: u16 = 128;
}

/// One datagram that a call sent or received, a call that failed, or the end of a wait ([`flag::CLOSED`]); followed by `payload_len` bytes of payload.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatagramRecord {
    /// `kind` is `DATAGRAM`; `time_ns` is the call's return.
    pub header: RecordHeader,
    /// Unique on this host since boot; the same for all datagrams of one socket.
    pub socket_id: u64,
    /// When the call was entered; 0 if it was not seen (io_uring).
    pub enter_ns: u64,
    /// Received: when the datagram was put into the socket's queue; 0 if not observed.
    pub arrival_ns: u64,
    /// Sent: when it left for the device; 0 if not observed.
    pub transmitted_ns: u64,
    /// When the thread was last made runnable after sleeping; 0 if not observed.
    pub woken_ns: u64,
    /// When it last got a CPU after that; 0 if not observed.
    pub running_ns: u64,
    /// The thread's total time on run queues up to `enter_ns`; valid with [`flag::SCHED`].
    pub run_queue_enter_ns: u64,
    /// The same up to the return.
    pub run_queue_exit_ns: u64,
    /// The thread's total time asleep up to the return, by [`crate::sched::Blocked`]; valid with [`flag::SCHED`].
    pub off_cpu_ns: [u64; BLOCKED],
    /// How long it slept inside the call.
    pub off_cpu_inside_ns: u64,
    /// The thread's cgroup v2 id.
    pub cgroup_id: u64,
    /// Local address; IPv4 in the first 4 bytes. Network byte order. Zero if the socket is bound to any.
    pub local_address: [u8; 16],
    /// Remote address, likewise.
    pub remote_address: [u8; 16],
    /// Local port.
    pub local_port: u16,
    /// Remote port.
    pub remote_port: u16,
    /// `AF_INET` (2) or `AF_INET6` (10).
    pub family: u16,
    /// Bits of [`flag`].
    pub flags: u16,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Process (thread group) id in the initial namespace.
    pub pid: u32,
    /// Thread id in the initial namespace.
    pub tid: u32,
    /// Length of the datagram, as far as the call tells; 0 if it failed.
    pub length: u32,
    /// 0, or the negative errno of a call that failed.
    pub result: i32,
    /// Captured bytes that follow.
    pub payload_len: u16,
    /// Which of the datagrams of one `sendmmsg` or `recvmmsg` this is, from 0.
    pub index: u16,
    /// One of [`crate::message::direction`].
    pub direction: u8,
    /// What the thread slept in before it was last woken: a [`crate::sched::Blocked`], or
    /// [`crate::sched::NEVER_SLEPT`].
    pub slept_in: u8,
    /// Zero.
    pub padding: [u8; 6],
}

// SAFETY: repr(C), integers only; the size assertion below equals the sum of the fields.
unsafe impl Plain for DatagramRecord {}
const _: () = assert!(size_of::<DatagramRecord>() == 16 + 8 * 8 + 6 * 8 + 2 * 8 + 32 + 4 * 2 + 5 * 4 + 2 * 2 + 8);
