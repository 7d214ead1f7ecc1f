//! What happened to a connection as a whole.

use crate::{Plain, header::RecordHeader};

/// Which end of the connection this socket is, in [`ConnectionRecord::role`].
pub mod role {
    /// Not known: the connection is older than the agent and gave no hint.
    pub const UNKNOWN: u8 = 0;
    /// This end sent the SYN.
    pub const CLIENT: u8 = 1;
    /// This end accepted the connection.
    pub const SERVER: u8 = 2;
}

/// Why a connection record was emitted, in [`ConnectionRecord::change`].
pub mod change {
    /// First record of a connection, before any of its data records. Carries the stream bases.
    pub const OPENED: u8 = 1;
    /// The peer's FIN arrived; nothing more will be received.
    pub const REMOTE_CLOSED: u8 = 2;
    /// The application closed or shut down its sending side.
    pub const LOCAL_CLOSED: u8 = 3;
    /// The socket is gone. Last record of the connection.
    pub const CLOSED: u8 = 4;
    /// `connect` failed; `errno` says how if the call's result was seen. A `CLOSED` may follow.
    pub const CONNECT_FAILED: u8 = 5;
}

/// Bits of [`ConnectionRecord::flags`].
pub mod flag {
    /// The connection existed before the agent looked; times before first use are unknown.
    pub const PREEXISTING: u16 = 1;
    /// Payload is captured because of the connection itself (port, network namespace).
    pub const SELECTED: u16 = 2;
    /// The stream bases are known.
    pub const BASES: u16 = 4;
    /// The connection ended by a reset.
    pub const RESET: u16 = 8;
}

/// The congestion and loss state that the kernel keeps for the socket, read when the record was made.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpSnapshot {
    /// Smoothed round-trip time, microseconds; 0 before the first sample.
    pub srtt_us: u32,
    /// Smallest round-trip time of the kernel's window (5 minutes), microseconds; `u32::MAX` before the first sample.
    pub min_rtt_us: u32,
    /// Congestion window, segments.
    pub cwnd: u32,
    /// Segments retransmitted in the connection's life (`tcp_sock.total_retrans`).
    pub total_retrans: u32,
}

/// One connection event. 152 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionRecord {
    /// `kind` is `CONNECTION`.
    pub header: RecordHeader,
    /// Unique on this host since boot; never reused.
    pub connection_id: u64,
    /// cgroup v2 id of the task that opened or first used it.
    pub cgroup_id: u64,
    /// When the SYN was about to leave (client) or the connection was first seen.
    pub opened_ns: u64,
    /// When it became ESTABLISHED; 0 if not observed.
    pub established_ns: u64,
    /// When `accept` returned it; 0 if not observed.
    pub accepted_ns: u64,
    /// When the event of `change` happened.
    pub changed_ns: u64,
    /// Local address; IPv4 in the first 4 bytes. Network byte order.
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
    /// Process (thread group) id, in the initial namespace, of the task that opened or first used it; 0 if none did yet.
    pub pid: u32,
    /// Sequence number of the first byte sent by this end; valid with [`flag::BASES`].
    pub send_base: u32,
    /// Sequence number of the first byte received.
    pub receive_base: u32,
    /// Sequence number just past the last byte that the application wrote, when the record was made.
    pub send_end: u32,
    /// Sequence number just past the last byte that the application read, when the record was made.
    pub receive_end: u32,
    /// Positive errno of the failed `connect`, or 0.
    pub errno: u32,
    /// One of [`role`].
    pub role: u8,
    /// One of [`change`].
    pub change: u8,
    /// TCP state before the event (`TCP_*` of the kernel).
    pub old_state: u8,
    /// TCP state after it.
    pub new_state: u8,
    /// The kernel's view of the path.
    pub tcp: TcpSnapshot,
}

// SAFETY: repr(C), integers only; the size assertion below equals the sum of the fields.
unsafe impl Plain for ConnectionRecord {}
const _: () = assert!(size_of::<ConnectionRecord>() == 152);
