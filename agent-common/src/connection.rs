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
    /// This end sent the reset.
    pub const RESET_SENT: u16 = 16;
    /// A reset arrived.
    pub const RESET_RECEIVED: u16 = 32;
    /// One of those that were left out by sampling while the host is busy; nothing but this is told of it.
    pub const SAMPLED_OUT: u16 = 64;
    /// Of `CONNECT_FAILED`: neither who tried to connect nor the connection is selected.
    pub const UNSELECTED: u16 = 256;
    /// Of `LOCAL_CLOSED`: the application closed the socket, or shut down both directions, so that it will read nothing more. Else
    /// it shut down its sending side only and may wait for an answer, or which of both it was is not known.
    pub const CLOSED_WHOLE: u16 = 128;
}

/// Bits of [`TcpSnapshot::flags`].
pub mod tcp_flag {
    /// The congestion window was what limited sending (`tcp_sock.is_cwnd_limited`).
    pub const CWND_LIMITED: u8 = 1;
    /// TCP paces (`sk_pacing_status`).
    pub const PACED: u8 = 2;
    /// The application limited the pacing rate (`SO_MAX_PACING_RATE`).
    pub const PACED_BY_APPLICATION: u8 = 4;
    /// The peer's window was closed.
    pub const ZERO_WINDOW: u8 = 8;
}

/// The congestion and loss state that the kernel keeps for the socket, read when the record was made. Counters and times
/// are totals of the connection's life; differences of two records are what happened between them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpSnapshot {
    /// Smoothed round-trip time, microseconds; 0 before the first sample.
    pub srtt_us: u32,
    /// Smallest round-trip time of the kernel's window (5 minutes), microseconds; `u32::MAX` before the first sample.
    pub min_rtt_us: u32,
    /// Congestion window, segments.
    pub cwnd: u32,
    /// Segments retransmitted in the connection's life (`tcp_sock.total_retrans`), of the handshake too.
    pub total_retrans: u32,
    /// Mean deviation of the round-trip time, microseconds.
    pub rttvar_us: u32,
    /// Segments that arrived out of order (`tcp_sock.rcv_ooopack`).
    pub out_of_order: u32,
    /// How long the peer's window was what limited sending, milliseconds, to the kernel's tick.
    pub rwnd_limited_ms: u32,
    /// How long the send buffer was, likewise.
    pub sndbuf_limited_ms: u32,
    /// How long the peer's window was closed altogether, microseconds, from one segment to another.
    pub zero_window_us: u32,
    /// The peer's window, bytes.
    pub send_window: u32,
    /// Pacing rate, KiB per second, saturating; 0 if not known.
    pub pacing_rate_kib: u32,
    /// `TCP_CA_*`: 0 open, 1 disorder, 2 cwr, 3 recovery, 4 loss.
    pub ca_state: u8,
    /// Bits of [`tcp_flag`].
    pub flags: u8,
    /// Zero.
    pub padding: u16,
}

/// One connection event.
///
/// Unix stream sockets are connections too: `family` is 1, the first 8 bytes of both addresses are the inode numbers of
/// this and the other socket (host byte order), sequence numbers count from 0, and there is no `tcp`.
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
    /// `AF_INET` (2), `AF_INET6` (10) or `AF_UNIX` (1).
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
    /// Segments retransmitted until it was established: SYN at the client, SYN-ACK at the server.
    pub handshake_retransmits: u32,
    /// Connections that waited for `accept` when it returned this one.
    pub accept_backlog: u32,
    /// Most that may; 0 if not observed.
    pub accept_backlog_max: u32,
    /// Length of `path`.
    pub path_len: u32,
    /// Unix: the name that the listening end is bound to; begins with 0 if it is abstract.
    pub path: [[u8; 16]; 7],
}

const _: () = assert!(size_of::<TcpSnapshot>() == 48);

// SAFETY: repr(C), integers only; the size assertion below equals the sum of the fields.
unsafe impl Plain for ConnectionRecord {}
const _: () = assert!(size_of::<ConnectionRecord>() == 136 + 48 + 16 + 112);
