//! Offsets of kernel structure fields on the running kernel.
//!
//! Rust emits no CO-RE relocations, so the loader resolves these from the kernel's BTF and writes them before the
//! programs load; the verifier then sees constants. `agent/src/kernel/btf.rs` lists what each stands for.

use aya_ebpf::Global;

macro_rules! offsets {
    ($($name:ident),* $(,)?) => { $( #[unsafe(no_mangle)] pub static $name: Global<u32> = Global::new(0); )* };
}

offsets! {
    // task -> file -> socket
    TASK_FILES, TASK_PID, TASK_TGID, TASK_MM, TASK_PARENT, TASK_SIGNAL, SIGNAL_LIVE,
    FILES_FDT, FDT_FD, FDT_MAX_FDS, FILE_PRIVATE, FILE_INODE, FILE_OPERATIONS, INODE_MODE, INODE_NUMBER, INODE_SUPER, SUPER_DEVICE,
    MM_EXE_FILE, BPRM_FILENAME, SOCKET_SK, SOCKET_FILE,
    // socket
    SK_FAMILY, SK_DPORT, SK_NUM, SK_DADDR, SK_RCV_SADDR, SK_V6_DADDR, SK_V6_RCV_SADDR, SK_NET, NET_INUM, SK_PROTOCOL,
    SK_STATE, SK_ERR,
    // TCP
    TCP_RCV_NXT, TCP_COPIED_SEQ, TCP_WRITE_SEQ, TCP_SND_UNA, TCP_SND_NXT, TCP_BYTES_RECEIVED, TCP_BYTES_ACKED,
    TCP_BYTES_SENT, TCP_BYTES_RETRANS, TCP_SRTT_US, TCP_RTT_MIN, TCP_SND_CWND, TCP_TOTAL_RETRANS,
    // buffers
    SKB_SK, SKB_CB, SKB_HEAD, SKB_DATA, SKB_LEN, SKB_TRANSPORT_HEADER, CB_SEQ, CB_END_SEQ, CB_ACK_SEQ, CB_TCP_FLAGS,
    MSG_COUNT,
    // scheduler
    TASK_CFS_RQ, CFS_THROTTLED_NS, SK_OWNED,
    // other sockets
    SK_TYPE, SK_SOCKET, SK_RECEIVE_QUEUE, SOCKET_ALLOC_INODE, UDP_READER_QUEUE, UNIX_ADDRESS, UNIX_PEER,
    UNIX_ADDRESS_LENGTH, UNIX_ADDRESS_NAME,
}

/// Value of an offset whose field the running kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// Reads a `T` at `base + offset`; `None` if that is not readable kernel memory.
#[inline(always)]
pub fn read<T>(base: u64, offset: &Global<u32>) -> Option<T> {
    read_at(base + u64::from(offset.load()))
}

/// Reads a `T` at `address`.
#[inline(always)]
pub fn read_at<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address and fails on a fault; T is an integer or an array of them in all callers.
    unsafe { aya_ebpf::helpers::bpf_probe_read_kernel(address as *const T).ok() }
}
