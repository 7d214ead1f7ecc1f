//! What the kernel side remembers between hooks. Private to this crate: never copied to the agent as it is.
//!
//! Only hooks that hold the socket lock (`tcp_sendmsg_locked`, `tcp_probe`, `tcp_rcv_space_adjust`) open, move and
//! retire slots. Others write their own time stamp into a slot. Milestones of a stream are monotone, so one cursor per
//! direction suffices.
//!
//! ```text
//!   tx:  tail ..(written, not acknowledged).. head      one slot per write call
//!   rx:  tail ..(arrived, not read).......... head      one slot per arrival
//! ```

use agent_common::connection::TcpSnapshot;

use crate::walk::Found;

/// Slots per direction; a power of two.
pub const SLOTS: u32 = 8;

/// One write call: bytes `[start, end)` on their way to being acknowledged.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TxSlot {
    pub enter_ns: u64,
    pub locked_ns: u64,
    /// When TCP took the latest piece; 0 if only the first is observed.
    pub locked_last_ns: u64,
    pub done_ns: u64,
    pub queued_ns: u64,
    pub transmitted_ns: u64,
    pub run_queue_ns: u64,
    /// `Conn::queue_busy_ns` at `locked_ns`; what came on top until the latest piece (where
    /// only the function's entry is seen: until the call returned), and until `transmitted_ns`.
    pub queue_base_ns: u64,
    pub queue_before_last_ns: u64,
    pub queue_ns: u64,
    pub start: u32,
    /// Where the call will end if it is not cut short; corrected when it is.
    pub end: u32,
    pub pid: u32,
    pub tid: u32,
    pub retrans: u32,
    /// Which of all the connection's slots this is, to tell it from its successor at the same place.
    pub index: u32,
    pub flags: u32,
    /// How long the peer's window had been closed by `locked_ns`, microseconds.
    pub zero_window_us: u32,
}

/// Bytes `[start, end)` that arrived and were not read yet.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RxSlot {
    pub softirq_ns: u64,
    pub first_ns: u64,
    pub last_ns: u64,
    /// What was read of it is cut off.
    pub start: u32,
    pub end: u32,
    pub flags: u32,
    /// For how long after `first_ns` the byte at `start` was missing.
    pub behind_hole_us: u32,
}

/// Bits of [`Conn::flags`].
pub mod flag {
    use agent_common::connection::flag as wire;

    /// Those that are also `agent_common::connection::flag`, with the same values.
    pub const TOLD: u32 = PREEXISTING | BASES | RESET | RESET_SENT | RESET_RECEIVED;
    /// As there.
    pub const PREEXISTING: u32 = wire::PREEXISTING as u32;
    /// As there: `send_base` and `receive_base` are valid.
    pub const BASES: u32 = wire::BASES as u32;
    /// As there.
    pub const RESET: u32 = wire::RESET as u32;
    /// As there.
    pub const RESET_SENT: u32 = wire::RESET_SENT as u32;
    /// As there.
    pub const RESET_RECEIVED: u32 = wire::RESET_RECEIVED as u32;
    /// The agent was told of the connection.
    pub const ANNOUNCED: u32 = 1 << 16;
    /// `read_cursor` is valid.
    pub const CURSOR: u32 = 1 << 17;
    /// `connect` failed, and the agent was told or need not be.
    pub const FAILED: u32 = 1 << 18;
    /// `connect` failed; its result will say how.
    pub const FAILING: u32 = 1 << 19;
    /// Left out by sampling.
    pub const SAMPLED_OUT: u32 = 1 << 20;
    /// ... and counted.
    pub const SAMPLING_COUNTED: u32 = 1 << 21;
}

/// One TCP connection, keyed by the address of its `struct sock`, from its first sight to `tcp_destroy_sock`.
///
/// What every message touches comes first: of a request that comes alone, each line of the cache is a miss.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Conn {
    pub id: u64,
    pub flags: u32,
    /// Mode by the connection's own rules, decided for `generation`.
    pub mode: u32,
    pub generation: u32,
    pub tx_head: u32,
    pub tx_tail: u32,
    pub rx_head: u32,
    pub rx_tail: u32,
    /// Just past the last byte that was read.
    pub read_cursor: u32,
    /// Sequence number just past the last byte that was ever given to the device's queue.
    pub queued_end: u32,
    pub local_port: u16,
    pub remote_port: u16,
    /// Since when bytes are in the device's queue; 0 if none are. And for how long there were in total before.
    pub queue_since_ns: u64,
    pub queue_busy_ns: u64,
    /// When the latest segment arrived.
    pub segment_ns: u64,
    /// Since when the peer's window is closed; 0 if it is open. And for how long it was in total before.
    pub zero_since_ns: u64,
    pub zero_ns: u64,
    /// Where the snapshot for the next record is put together.
    pub tcp: TcpSnapshot,
    pub receive_base: u32,
    pub tx: [TxSlot; SLOTS as usize],
    pub rx: [RxSlot; SLOTS as usize],
    pub opened_ns: u64,
    pub established_ns: u64,
    pub accepted_ns: u64,
    pub cgroup_id: u64,
    pub local_address: [u8; 16],
    pub remote_address: [u8; 16],
    pub family: u16,
    pub role: u16,
    pub netns: u32,
    pub pid: u32,
    pub send_base: u32,
    /// Mode of the task that opened it.
    pub opener_mode: u32,
    /// Segments retransmitted until it was established.
    pub handshake_retransmits: u32,
    /// `total_retrans` that the agent was told of.
    pub retrans_told: u32,
    pub accept_backlog: u32,
    pub accept_backlog_max: u32,
    pub padding: u32,
    /// The TLS session that was last known to be its, to be forgotten with it.
    pub tls: InProcess,
}

/// One thread that does socket or file I/O, from its first call to its exit.
///
/// What the scheduler's hooks touch comes first, then what every call does, for the reason that [`Conn`] gives.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Task {
    /// 1 if what it does may be recorded, as far as `generation` says; the scheduler hooks leave the others alone.
    pub watched: u32,
    /// 1 once its cgroup was seen to be throttled.
    pub quota: u32,
    /// Since when it is runnable without running; 0 if it is not.
    pub runnable_ns: u64,
    /// Since when it sleeps; 0 if it does not.
    pub off_since_ns: u64,
    /// 1 if it became runnable by a wake-up, 0 if by losing its CPU.
    pub woken_from_sleep: u32,
    /// 1 if it was woken while it was going to sleep.
    pub woken_early: u32,
    /// What it sleeps in, and what it slept in last (`NEVER_SLEPT` + 1 = 0: never).
    pub off_in: u32,
    pub slept_in: u32,
    /// Number of the call in progress, plus 1; 0 for none.
    pub number: u64,
    /// The run queue that it waits in and how long that had been throttled when the wait began; 0 if not looked at.
    pub wait_queue: u64,
    /// Total time on run queues.
    pub run_queue_ns: u64,
    /// Last wake-up from sleep, and when it got a CPU after it.
    pub woken_ns: u64,
    pub running_ns: u64,
    pub off_cpu_total_ns: u64,
    /// Total time asleep by `agent_common::sched::Blocked`; two more, so that three bits are always in range.
    pub off_cpu_ns: [u64; 8],
    // What was decided about it, and the call in progress.
    pub mode: u32,
    pub generation: u32,
    pub pid: u32,
    pub call_flags: u32,
    pub cgroup_id: u64,
    pub enter_ns: u64,
    pub fd: u64,
    pub buffer: u64,
    pub count: u64,
    /// `struct sock` that TCP bytes moved through in this call; 0 for none.
    pub tx_sock: u64,
    pub rx_sock: u64,
    /// Where the application wants or gives the other end's address; 0 for nowhere.
    pub address: u64,
    /// `MSG_*` flags.
    pub message_flags: u32,
    /// Which of the datagrams is next.
    pub datagram: u32,
    /// The goroutine that made the call; 0 if nobody asks, or it is not known.
    pub goroutine: u64,
    // Totals when it was entered, of those above and below.
    pub run_queue_enter_ns: u64,
    pub off_cpu_enter_ns: u64,
    pub throttled_enter_ns: u64,
    pub unseen_enter_ns: u64,
    /// `sched::since` when the last call was entered.
    pub sched_since_ns: u64,
    /// 1 if that had not changed since the call before it.
    pub sched_complete: u32,
    /// 1 once the thread used a unix stream socket.
    pub uses_unix: u32,
    /// 1 if the call in progress was noticed by a hook that may fire in calls that no socket tells of: it may be over unseen.
    pub noticed: u32,
    /// 1 if it was noticed only when bytes moved: it was entered no later than that, and before if the thread slept unseen.
    pub late: u32,
    /// Total time on run queues while its cgroup was throttled.
    pub throttled_ns: u64,
    /// Total time of which was not seen whether it slept, waited for a CPU or ran.
    pub unseen_ns: u64,
    /// The UDP socket that the thread sent something to last, if it read nothing from it since; else 0.
    pub awaits: u64,
    // What moved in it.
    pub tx_start: u32,
    pub tx_end: u32,
    pub tx_index: u32,
    pub rx_start: u32,
    pub rx_end: u32,
    pub arrival_end: u32,
    pub arrival_softirq_ns: u64,
    pub arrival_first_ns: u64,
    pub arrival_last_ns: u64,
    /// Bytes that had arrived when the call began to take its own, and segments out of order so far.
    pub receive_queue: u32,
    pub out_of_order: u32,
    pub wait_throttled_ns: u64,
    /// The last wait for a CPU that was long: from when to when, and the throttled part of it.
    pub queued_from_ns: u64,
    pub queued_until_ns: u64,
    pub queued_throttled_ns: u64,
    /// The unix socket that the call in progress is about.
    pub other: Found,
    /// The call of a TLS library in progress, and one inside it: a library may call the application back.
    pub tls: TlsCall,
    pub tls_inside: TlsCall,
    /// The connection that was read from last, outside any such call; 0 for none. And the session that was read after it.
    pub near_sock: u64,
    pub near_id: u64,
    pub near_session: u64,
    /// Sequence numbers of what was read since a session was read.
    pub near_start: u32,
    pub near_end: u32,
    /// 1 if that begins with the connection's first byte, which is TLS.
    pub near_begins: u32,
    /// As in the slot of the call's first arrival.
    pub behind_hole_us: u32,
    /// 1 if a socket told of a datagram that the thread is about to return with.
    pub awaits_sender: u32,
    pub padding: u32,
}

impl Task {
    /// Nothing is known of how the bytes arrived that the call in progress reads.
    #[inline(always)]
    pub fn forget_arrival(&mut self) {
        self.arrival_softirq_ns = 0;
        self.arrival_first_ns = 0;
        self.arrival_last_ns = 0;
        self.behind_hole_us = 0;
    }
}

/// One call of a TLS library, by a thread or a goroutine.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TlsCall {
    /// 0: none is in progress.
    pub enter_ns: u64,
    pub session: u64,
    pub buffer: u64,
    /// Where the library writes how much moved; 0 if it returns it.
    pub moved_at: u64,
    /// Stack pointer at the entry: tells a call inside from one whose return was not seen.
    pub stack: u64,
    /// The connection whose bytes moved inside; 0 for none.
    pub sock: u64,
    pub connection_id: u64,
    /// When the last socket call inside was entered.
    pub socket_ns: u64,
    pub wanted: u32,
    /// Sequence numbers of the bytes that moved inside, in the call's own direction.
    pub tcp_start: u32,
    pub tcp_end: u32,
    pub direction: u8,
    pub library: u8,
    /// 1 if bytes of more than one connection moved inside.
    pub ambiguous: u8,
    /// 1 if it is a handshake, of which nothing is told.
    pub handshake: u8,
}

/// What names a TLS session, or a goroutine, on this host.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct InProcess {
    pub address: u64,
    pub pid: u64,
}

/// One TLS session of which the connection is known.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TlsSession {
    pub sock: u64,
    pub connection_id: u64,
    /// Plaintext told so far.
    pub sent: u32,
    pub received: u32,
    /// 1 if the connection is known only by the read before a call.
    pub near: u32,
    pub padding: u32,
}

/// The receive softirq of one CPU.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Softirq {
    /// When the next run was first asked for; 0 if it was not.
    pub raised_ns: u64,
    /// The same of the run that began last.
    pub current_ns: u64,
    /// When that began.
    pub entered_jiffies: u64,
}

/// What arrived since the queue was last seen empty.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Arrived {
    pub first_ns: u64,
    pub last_ns: u64,
    pub count: u64,
}

/// One unix stream socket that a recorded task used.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UnixStream {
    pub id: u64,
    /// Inode number of its file: another socket at the same address has another one.
    pub inode: u64,
    pub cgroup_id: u64,
    pub opened_ns: u64,
    pub established_ns: u64,
    pub accepted_ns: u64,
    pub arrived: Arrived,
    /// What arrived at the other end while nobody knew that.
    pub delivered: Arrived,
    /// Bytes so far.
    pub sent: u32,
    pub received: u32,
    pub pid: u32,
    pub flags: u32,
    pub role: u32,
    /// Which of `UNIX_PLACES` it has.
    pub place: u32,
}

/// Arrivals whose times a datagram socket keeps; a power of two.
pub const ARRIVALS: u64 = 8;

/// One datagram socket that a recorded task used.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct DatagramSocket {
    pub id: u64,
    /// Inode number of its file: another socket at the same address has another one.
    pub inode: u64,
    /// Datagrams that arrived since it is known; those that were in its queue before have negative numbers.
    pub arrived: u64,
    /// Number of the next datagram to be read, as far as known.
    pub next: i64,
    /// When the last [`ARRIVALS`] of them arrived, by number.
    pub times: [u64; ARRIVALS as usize],
}
