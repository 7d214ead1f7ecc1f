//! Bytes that moved through a socket: calls, what became of what they sent, and when what they read had arrived.
//!
//! All ranges are TCP sequence numbers `[start, end)` modulo 2^32, in the stream of their direction.

use crate::{Plain, connection::TcpSnapshot, header::RecordHeader, sched::BLOCKED};

/// Direction of a call, in [`CallRecord::direction`].
pub mod direction {
    /// The application read.
    pub const RECEIVE: u8 = 0;
    /// The application wrote.
    pub const SEND: u8 = 1;
}

/// Bits of [`CallRecord::flags`], [`SendRecord::flags`] and [`ArrivalRecord::flags`].
pub mod flag {
    /// Fewer bytes were captured than moved, by the payload limit. `CallRecord`
    pub const TRUNCATED: u16 = 1;
    /// The application's memory could not be read; nothing was captured. `CallRecord`
    pub const UNREADABLE: u16 = 2;
    /// The bytes never were in application memory (`sendfile`, `splice`). `CallRecord`
    pub const NO_BUFFER: u16 = 4;
    /// The range is not one piece: another writer came between. `CallRecord`
    pub const INTERLEAVED: u16 = 8;
    /// The range was computed from the result, not observed under the socket lock. `CallRecord`, `SendRecord`
    pub const INFERRED_RANGE: u16 = 16;
    /// Payload was wanted (the process or connection is selected). `CallRecord`
    pub const SELECTED: u16 = 32;
    /// The acknowledgement came on a segment with data. `SendRecord`
    pub const PIGGYBACKED: u16 = 64;
    /// The slot was needed for a newer call before the acknowledgement came. `SendRecord`
    pub const EVICTED: u16 = 128;
    /// The socket went away before the acknowledgement came. `SendRecord`
    pub const DESTROYED: u16 = 256;
    /// Several arrivals share this entry; its times are the first's and the last's. `ArrivalRecord`, `CallRecord`
    pub const MERGED: u16 = 512;
    /// Some bytes of the range arrived out of order. `ArrivalRecord`, `CallRecord`
    pub const OUT_OF_ORDER: u16 = 1024;
    /// End of stream: the call returned 0 because the peer had closed. `CallRecord`
    pub const END_OF_STREAM: u16 = 2048;
    /// Both scheduler hooks work, so the thread's run-queue times are complete. `CallRecord`, `SendRecord`
    pub const SCHED: u16 = 4096;
    /// Bytes moved outside a system call of their own (io_uring): entry, return and payload are not known. `CallRecord`,
    /// `SendRecord`
    pub const OUTSIDE_CALL: u16 = 8192;
    /// The kernel encrypted or decrypted what moved (kTLS): the range is of TLS records, and longer than what the application moved,
    /// of which nothing was captured. `CallRecord`
    pub const KERNEL_TLS: u16 = 16_384;
    /// With [`KERNEL_TLS`]: the record was no application data, but an alert or of a handshake. `CallRecord`
    pub const TLS_CONTROL: u16 = 32_768;
}

/// A read or write call that returned, at its return, followed by `payload_len` bytes of payload: the first
/// bytes that moved, then, if `tail_len` is not 0, the last `tail_len` bytes that moved (after a gap).
///
/// Emitted for selected tasks and connections for each call that moved bytes, met the end of the stream or failed; for
/// others only for reads, without payload.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallRecord {
    /// `kind` is `CALL`; `time_ns` is the call's return.
    pub header: RecordHeader,
    /// As in the connection's `ConnectionRecord`.
    pub connection_id: u64,
    /// When the call was entered.
    pub enter_ns: u64,
    /// When the softirq that brought the first byte was raised; reads only; 0 if not observed.
    pub softirq_ns: u64,
    /// When the first byte of the range had arrived from the network; reads only; 0 if not observed.
    pub arrival_first_ns: u64,
    /// When the last byte of `[start, arrival_end)` had arrived; reads only; 0 if not observed.
    pub arrival_last_ns: u64,
    /// When the thread was last made runnable after sleeping; 0 if not observed.
    pub woken_ns: u64,
    /// When it last got a CPU after that; 0 if not observed.
    pub running_ns: u64,
    /// The thread's total time on run queues up to `enter_ns`; valid with [`flag::SCHED`].
    pub run_queue_enter_ns: u64,
    /// The same up to the return.
    pub run_queue_exit_ns: u64,
    /// The part of `run_queue_enter_ns` in which its cgroup was throttled (`cpu.max`).
    pub throttled_enter_ns: u64,
    /// The same up to the return.
    pub throttled_exit_ns: u64,
    /// The thread's total time up to `enter_ns` in which it slept, waited for a CPU or ran, and it was not seen which: a
    /// switch that would have told was hidden. Valid with [`flag::SCHED`].
    pub unseen_enter_ns: u64,
    /// The same up to the return.
    pub unseen_exit_ns: u64,
    /// The thread's last long wait for a CPU: when it began; 0 if there was none.
    pub queued_from_ns: u64,
    /// When that ended.
    pub queued_until_ns: u64,
    /// The part of it in which its cgroup was throttled.
    pub queued_throttled_ns: u64,
    /// The thread's total time asleep up to the return, by [`crate::sched::Blocked`]; valid with [`flag::SCHED`].
    pub off_cpu_ns: [u64; BLOCKED],
    /// How long it slept inside the call.
    pub off_cpu_inside_ns: u64,
    /// When the last byte of a write left for the device, if that was before the return; else 0.
    pub transmitted_ns: u64,
    /// The thread's cgroup v2 id.
    pub cgroup_id: u64,
    /// First byte moved.
    pub start: u32,
    /// Just past the last byte moved; equal to `start` for none.
    pub end: u32,
    /// Reads: the arrival times above hold for `[start, arrival_end)`; `ArrivalRecord`s came before for the rest.
    pub arrival_end: u32,
    /// What the call returned: bytes, or a negative errno.
    pub result: i32,
    /// Bytes that had arrived and were not read when a read began to take its own; 0 for writes.
    pub receive_queue: u32,
    /// Segments that arrived out of order in the connection's life, so far; reads only.
    pub out_of_order: u32,
    /// Process (thread group) id in the initial namespace.
    pub pid: u32,
    /// Thread id in the initial namespace.
    pub tid: u32,
    /// Bits of [`flag`].
    pub flags: u16,
    /// Captured bytes that follow, `tail_len` included.
    pub payload_len: u16,
    /// How many of them are the range's last bytes.
    pub tail_len: u16,
    /// System call number of this architecture.
    pub syscall: u16,
    /// One of [`direction`].
    pub direction: u8,
    /// What the thread slept in before it was last woken: a [`crate::sched::Blocked`], or
    /// [`crate::sched::NEVER_SLEPT`].
    pub slept_in: u8,
    /// 1 if the process or the connection is selected, also if its payload was left out to save CPU ([`flag::SELECTED`] is not set
    /// then).
    pub is_selected: u8,
    /// Zero.
    pub padding: u8,
    /// As in [`ArrivalRecord::behind_hole_us`], of `[start, arrival_end)`.
    pub behind_hole_us: u32,
}

// SAFETY: repr(C), integers only; the size assertion below equals the sum of the fields.
unsafe impl Plain for CallRecord {}
const _: () = assert!(size_of::<CallRecord>() == 16 + 10 * 8 + (7 + BLOCKED + 2) * 8 + 8 * 4 + 4 * 2 + 8);

/// What became of the bytes of one write call: emitted when they were acknowledged, or can no longer be watched.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendRecord {
    /// `kind` is `SEND`.
    pub header: RecordHeader,
    /// As in the connection's `ConnectionRecord`.
    pub connection_id: u64,
    /// When the write call was entered; 0 if it was not seen (io_uring).
    pub enter_ns: u64,
    /// When TCP took the first byte.
    pub locked_ns: u64,
    /// When TCP began to take the last piece; 0 if only the call's begin is observed (function entry).
    pub locked_last_ns: u64,
    /// When the call returned; 0 if it had not yet or that was not observed.
    pub done_ns: u64,
    /// When the last byte of the range was given to the device's queue; 0 if not observed.
    pub queued_ns: u64,
    /// For how long, between `locked_ns` and `transmitted_ns`, bytes of the connection were in the device's queue.
    pub queue_ns: u64,
    /// The part of it up to `locked_last_ns`, or, if that is 0, up to `done_ns`.
    pub queue_before_last_ns: u64,
    /// When the last byte of the range left for the device; 0 if not observed.
    pub transmitted_ns: u64,
    /// When the acknowledgement of the last byte arrived; 0 if not observed.
    pub acked_ns: u64,
    /// The thread's total time on run queues up to `enter_ns`; valid with [`flag::SCHED`].
    pub run_queue_enter_ns: u64,
    /// First byte.
    pub start: u32,
    /// Just past the last byte.
    pub end: u32,
    /// Process (thread group) id in the initial namespace.
    pub pid: u32,
    /// Thread id in the initial namespace.
    pub tid: u32,
    /// Segments that the connection retransmitted between the write and this record.
    pub retransmits: u32,
    /// Bits of [`flag`].
    pub flags: u16,
    /// Zero.
    pub padding: u16,
    /// For how long the peer's window was closed between `locked_ns` and this record, microseconds.
    pub zero_window_us: u32,
    /// Zero.
    pub reserved: u32,
    /// The kernel's view of the path, before this acknowledgement was counted.
    pub tcp: TcpSnapshot,
}

// SAFETY: repr(C), integers only; the size assertion below equals the sum of the fields.
unsafe impl Plain for SendRecord {}
const _: () = assert!(size_of::<SendRecord>() == 16 + 11 * 8 + 5 * 4 + 4 + 8 + 48);

/// When bytes that a call is about to return had arrived, for those that its [`CallRecord`] does not describe itself.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArrivalRecord {
    /// `kind` is `ARRIVAL`.
    pub header: RecordHeader,
    /// As in the connection's `ConnectionRecord`.
    pub connection_id: u64,
    /// When the softirq that brought the first byte was raised; 0 if not observed.
    pub softirq_ns: u64,
    /// When the first byte had arrived.
    pub first_ns: u64,
    /// When the last byte had arrived and nothing before it was missing.
    pub last_ns: u64,
    /// First byte.
    pub start: u32,
    /// Just past the last byte.
    pub end: u32,
    /// Bits of [`flag`].
    pub flags: u16,
    /// Zero.
    pub padding: u16,
    /// For how long after `first_ns` the first byte was missing: what came lay behind a hole, where nothing can be read.
    pub behind_hole_us: u32,
}

// SAFETY: repr(C), integers only; the size assertion below equals the sum of the fields.
unsafe impl Plain for ArrivalRecord {}
const _: () = assert!(size_of::<ArrivalRecord>() == 16 + 4 * 8 + 2 * 4 + 8);

/// Why TCP retransmitted, in [`RetransmitRecord::reason`].
pub mod retransmit {
    /// Not known.
    pub const UNKNOWN: u8 = 0;
    /// The SYN was not answered.
    pub const SYN: u8 = 1;
    /// Tail loss probe (RFC 8985, 7).
    pub const TAIL_LOSS_PROBE: u8 = 2;
    /// Fast retransmit, in recovery.
    pub const FAST: u8 = 3;
    /// The retransmission timer (RFC 6298) expired.
    pub const TIMEOUT: u8 = 4;
}

/// Segments that TCP sent again.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetransmitRecord {
    /// `kind` is `RETRANSMIT`.
    pub header: RecordHeader,
    /// As in the connection's `ConnectionRecord`.
    pub connection_id: u64,
    /// First byte of the buffer that was sent again; the SYN's own sequence number for a SYN.
    pub start: u32,
    /// Past its last byte.
    pub end: u32,
    /// Segments that this connection sent again since its last such record: usually those of this buffer.
    pub segments: u32,
    /// One of [`retransmit`].
    pub reason: u8,
    /// TCP state.
    pub state: u8,
    /// `TCP_CA_*`.
    pub ca_state: u8,
    /// Zero.
    pub padding: u8,
}

// SAFETY: repr(C), integers only; the size assertion below equals the sum of the fields.
unsafe impl Plain for RetransmitRecord {}
const _: () = assert!(size_of::<RetransmitRecord>() == 16 + 8 + 3 * 4 + 4);

/// Most payload bytes that are captured of one call, whatever the settings say, but for [`WHOLE_CALL_BYTES`].
pub const PAYLOAD_BYTES_LIMIT: usize = 8192;
/// Most payload bytes of a call of a connection on which messages begin within calls.
pub const WHOLE_CALL_BYTES: usize = 32_768;
/// The same of what a TLS library gave, which is at most what a record holds, or was given.
pub const WHOLE_PLAINTEXT_BYTES: usize = 16_384;

/// Of which calls of a connection more is captured; bits of `WHOLE_CALLS`.
pub mod whole {
    /// Those that move its bytes.
    pub const SOCKET: u32 = 1;
    /// Those of a TLS library: of the encrypted bytes themselves nothing more is wanted.
    pub const PLAINTEXT: u32 = 2;
}

/// Most bytes of the range's end that are captured after a gap.
pub const TAIL_BYTES: usize = 16;
