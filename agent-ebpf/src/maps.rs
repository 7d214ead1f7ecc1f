//! Every map. Sizes are the defaults; the loader overrides those of `CONNECTIONS` and `TASKS` by configuration, those
//! of `RECORDS` and `SCRATCH` by the number of CPUs, and fills `RECORDS`.

use agent_common::{
    header::RecordHeader,
    loss::KERNEL_LOSSES,
    message::{CallRecord, TAIL_BYTES, WHOLE_CALL_BYTES},
    plaintext::PlaintextRecord,
    settings::{ExeKey, Settings},
};
use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{ArrayOfMaps, RingBuf},
    helpers::bpf_get_smp_processor_id,
    macros::{btf_map, map},
    maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray},
};

use crate::state::{Conn, DatagramSocket, InProcess, Softirq, Task, TlsCall, TlsSession, UnixStream};

/// Records to the agent, by CPU, so that none waits for another's. The loader makes the rings.
#[btf_map]
pub static RECORDS: ArrayOfMaps<Ring, 1> = ArrayOfMaps::new();
/// One of them; this size is only the template's.
pub type Ring = RingBuf<RecordHeader, { 64 << 10 }>;

/// Set by the agent before it sleeps: 1, so that the next record wakes it, or while it naps the bytes in a ring with which a record does. Who
/// wakes it sets this to 0.
#[map]
pub static WAKE: Array<u32> = Array::with_max_entries(1, 0);

/// Records tried, per CPU.
#[map]
pub static SEQUENCE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Losses by reason, per CPU.
#[map]
pub static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(KERNEL_LOSSES, 0);

/// Which scheduler hooks have fired, and since when their times are complete; see `sched`.
#[map]
pub static SCHED_STATE: Array<u64> = Array::with_max_entries(3, 0);

/// Receive softirqs, per CPU.
#[map]
pub static SOFTIRQ: PerCpuArray<Softirq> = PerCpuArray::with_max_entries(1, 0);

/// Settings; one entry.
#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

/// Connections by the address of their `struct sock`. A bounded hash rather than socket storage: its memory limit is
/// real, and the address is all that the system call path and raw tracepoints can offer.
#[map]
pub static CONNECTIONS: HashMap<u64, Conn> = HashMap::with_max_entries(5120, BPF_F_NO_PREALLOC);

/// Threads by their id.
#[map]
pub static TASKS: HashMap<u32, Task> = HashMap::with_max_entries(8192, BPF_F_NO_PREALLOC);

/// Datagram sockets by the address of their `struct sock`. No hook tells when one goes: see `socket`.
#[map]
pub static DATAGRAMS: HashMap<u64, DatagramSocket> = HashMap::with_max_entries(DATAGRAM_SOCKETS, BPF_F_NO_PREALLOC);
/// Most of them; a power of two.
pub const DATAGRAM_SOCKETS: u32 = 4096;
/// Which of them there are, for the hand that looks for those that went.
#[map]
pub static DATAGRAM_PLACES: Array<u64> = Array::with_max_entries(DATAGRAM_SOCKETS, 0);
/// Unix stream sockets, likewise.
#[map]
pub static UNIX_STREAMS: HashMap<u64, UnixStream> = HashMap::with_max_entries(UNIX_SOCKETS, BPF_F_NO_PREALLOC);
/// Most of them; a power of two.
pub const UNIX_SOCKETS: u32 = 4096;
/// Which of them there are.
#[map]
pub static UNIX_PLACES: Array<u64> = Array::with_max_entries(UNIX_SOCKETS, 0);

/// Connections of whose calls as much is captured as there is room for, by their id: messages begin within their calls. Written by
/// the agent, and at a first call that says so itself (`payload`); the kernel makes room for new ones.
#[map]
pub static WHOLE_CALLS: LruHashMap<u64, u32> = LruHashMap::with_max_entries(4096, 0);

/// TLS sessions of which the connection is known. Forgotten with the connection.
#[map]
pub static TLS_SESSIONS: HashMap<InProcess, TlsSession> = HashMap::with_max_entries(8192, BPF_F_NO_PREALLOC);
/// Calls of goroutines in progress: a goroutine may go on on another thread.
#[map]
pub static TLS_GOROUTINES: HashMap<InProcess, TlsCall> = HashMap::with_max_entries(8192, BPF_F_NO_PREALLOC);
/// `agent_common::plaintext::watch`: which goroutines are probed anywhere.
#[map]
pub static TLS_GO: Array<u32> = Array::with_max_entries(1, 0);

/// Where the hands of the tables are.
#[map]
pub static HANDS: Array<u64> = Array::with_max_entries(2, 0);

/// The programs that `sys_exit` goes on with. One map for each rung, because such a map holds programs of one type only.
#[map]
pub static PARTS_TP_BTF: ProgramArray = ProgramArray::with_max_entries(2, 0);
/// Likewise.
#[map]
pub static PARTS_RAW_TP: ProgramArray = ProgramArray::with_max_entries(2, 0);
/// Likewise.
#[map]
pub static PARTS_TRACEPOINT: ProgramArray = ProgramArray::with_max_entries(2, 0);

/// The same of `sock_send_length`.
#[map]
pub static SENT_TP_BTF: ProgramArray = ProgramArray::with_max_entries(2, 0);
/// Likewise.
#[map]
pub static SENT_RAW_TP: ProgramArray = ProgramArray::with_max_entries(2, 0);
/// The same of `sock_recv_length`.
#[map]
pub static RECEIVED_TP_BTF: ProgramArray = ProgramArray::with_max_entries(2, 0);
/// Likewise.
#[map]
pub static RECEIVED_RAW_TP: ProgramArray = ProgramArray::with_max_entries(2, 0);

/// The address of the kernel's `socket_file_ops`, once a socket was seen.
#[map]
pub static SOCKET_OPERATIONS: Array<u64> = Array::with_max_entries(1, 0);

/// How many threads are between what a socket told of a datagram and the return of the call that brings its sender.
#[map]
pub static SENDERS_AWAITED: Array<u64> = Array::with_max_entries(1, 0);

/// With what plain TCP sockets send and receive: addresses of two functions, once such a socket was seen.
#[map]
pub static PLAIN_CALLS: Array<[u64; 2]> = Array::with_max_entries(1, 0);

/// Zeroes, to insert into tables from. Never written.
#[map]
pub static EMPTY_CONNECTION: Array<Conn> = Array::with_max_entries(1, 0);
/// Likewise.
#[map]
pub static EMPTY_UNIX_STREAM: Array<UnixStream> = Array::with_max_entries(1, 0);
/// Likewise.
#[map]
pub static EMPTY_TASK: Array<Task> = Array::with_max_entries(1, 0);

/// Modes by process id.
#[map]
pub static SELECT_PID: HashMap<u32, u32> = HashMap::with_max_entries(8192, BPF_F_NO_PREALLOC);
/// Modes by cgroup v2 id.
#[map]
pub static SELECT_CGROUP: HashMap<u64, u32> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);
/// Modes by executable file.
#[map]
pub static SELECT_EXE: HashMap<ExeKey, u32> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);
/// Modes by port.
#[map]
pub static SELECT_PORT: HashMap<u32, u32> = HashMap::with_max_entries(256, BPF_F_NO_PREALLOC);
/// Modes by network namespace.
#[map]
pub static SELECT_NETNS: HashMap<u32, u32> = HashMap::with_max_entries(256, BPF_F_NO_PREALLOC);

/// Where a call's record is put together. The payload may end anywhere up to the limit, and each copy into it may be as
/// long as the limit, hence twice that size: the verifier bounds both separately.
#[repr(C)]
pub struct Scratch {
    pub call: CallRecord,
    pub payload: [u8; WHOLE_CALL_BYTES * 2],
    pub copy: Copy,
    pub vector: Vector,
    pub message: Message,
}

/// Buffers that are copied one after the other. Here and not on the stack, of which Linux 6.1 allows 512 bytes for a program
/// and the loop that it calls.
#[repr(C)]
pub struct Vector {
    /// Address of the first one's address and length.
    pub base: u64,
    /// How many bytes are copied at most.
    pub limit: u32,
    pub padding: u32,
    /// Address and length of the one in turn.
    pub piece: [u64; 2],
}

/// One datagram in the application's memory.
#[repr(C)]
pub struct Message {
    /// Address of the other end's address, or 0.
    pub name: u64,
    /// A vector of `count` buffers, or one buffer if `count` is `u64::MAX`.
    pub base: u64,
    pub count: u64,
    pub length: u32,
    /// Nonzero: application memory could not be read.
    pub failed: u32,
}

/// A copy in progress. Lives in the map and is accessed volatile, so that the verifier sees the same unknown state at each
/// turn of the loop over buffers and prunes; in registers it would follow every combination.
#[repr(C)]
pub struct Copy {
    /// Address and length of the piece walked over last.
    pub last_base: u64,
    pub last_size: u32,
    /// Bytes that moved and were not walked over yet.
    pub left: u32,
    /// Bytes copied.
    pub length: u32,
    /// Nonzero: application memory could not be read.
    pub failed: u32,
}

/// By CPU; the loader gives it as many entries. Used at the return of system calls only. There preemption is off, or (Linux 7)
/// the kernel skips a program that already runs on this CPU, so nothing nests.
/// An entry is larger than the kernel allows in a map per CPU.
#[map]
static SCRATCH: Array<Scratch> = Array::with_max_entries(1, 0);

/// This CPU's own scratch.
#[inline(always)]
pub fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: a live map value that only this CPU uses, for one call at a time; see `SCRATCH`.
    SCRATCH.get_ptr_mut(unsafe { bpf_get_smp_processor_id() }).map(|scratch| unsafe { &mut *scratch })
}

/// Room for a plaintext record with `N` bytes of payload, and as many more as may follow a gap.
#[repr(C)]
pub struct PlaintextRoom<const N: usize> {
    pub record: PlaintextRecord,
    pub payload: [u8; N],
    pub tail: [u8; TAIL_BYTES],
}
