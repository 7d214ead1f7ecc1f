//! Offsets of kernel structure fields on the running kernel.
//!
//! Rust emits no CO-RE relocations, so the loader resolves these from the kernel's BTF and writes them before the
//! programs load; the verifier then sees constants. `agent/src/kernel/btf.rs` lists what each stands for.

use core::mem::MaybeUninit;

use aya_ebpf::{Global, helpers::generated};

macro_rules! offsets {
    ($($name:ident),* $(,)?) => { $( #[unsafe(no_mangle)] pub static $name: Global<u32> = Global::new(0); )* };
}

offsets! {
    // task -> file -> socket
    TASK_FILES, TASK_PID, TASK_TGID, TASK_MM, TASK_PARENT, TASK_SIGNAL, TASK_FSBASE, SIGNAL_LIVE,
    FILES_FDT, FDT_FD, FDT_MAX_FDS, FILE_PRIVATE, FILE_INODE, FILE_OPERATIONS, INODE_MODE, INODE_NUMBER, INODE_SUPER, SUPER_DEVICE,
    MM_EXE_FILE, BPRM_FILENAME, SOCKET_SK, SOCKET_FILE,
    // socket
    SK_FAMILY, SK_DPORT, SK_NUM, SK_DADDR, SK_RCV_SADDR, SK_V6_DADDR, SK_V6_RCV_SADDR, SK_NET, NET_INUM, SK_PROTOCOL,
    SK_STATE, SK_ERR, SK_SHUTDOWN, SK_SHUTDOWN_BITS, SK_ACK_BACKLOG, SK_MAX_ACK_BACKLOG, SK_PACING_RATE, SK_MAX_PACING_RATE, SK_PACING_STATUS,
    // TCP
    TCP_RCV_NXT, TCP_COPIED_SEQ, TCP_WRITE_SEQ, TCP_SND_UNA, TCP_SND_NXT, TCP_BYTES_RECEIVED, TCP_BYTES_ACKED,
    TCP_BYTES_SENT, TCP_BYTES_RETRANS, TCP_SRTT_US, TCP_RTT_MIN, TCP_SND_CWND, TCP_TOTAL_RETRANS, TCP_MDEV_US,
    TCP_RCV_OOOPACK, TCP_SND_WND, TCP_CHRONO_STAT, TCP_CHRONO_START, TCP_CHRONO_TYPE, TCP_CHRONO_TYPE_BITS,
    TCP_CWND_LIMITED, TCP_CWND_LIMITED_BITS, ICSK_CA_STATE, ICSK_CA_STATE_BITS, ICSK_PENDING, ICSK_ULP_OPS, ULP_NAME, SK_PROT,
    PROTO_SENDMSG, PROTO_RECVMSG,
    // buffers
    SKB_SK, SKB_CB, SKB_HEAD, SKB_DATA, SKB_LEN, SKB_TRANSPORT_HEADER, CB_SEQ, CB_END_SEQ, CB_ACK_SEQ, CB_TCP_FLAGS,
    MSG_COUNT,
    // scheduler
    TASK_CFS_RQ, CFS_THROTTLED_NS, SK_OWNED,
    // other sockets
    SK_TYPE, SK_SOCKET, SK_RECEIVE_QUEUE, SOCKET_ALLOC_INODE, UDP_READER_QUEUE, UNIX_ADDRESS, UNIX_PEER,
    UNIX_ADDRESS_LENGTH, UNIX_ADDRESS_NAME,
    // not offsets: length of the kernel's tick; 1 if sockets tell of calls, 0 if the hooks of system calls do
    JIFFY_NS, BY_SOCKETS,
}

/// Whether sockets tell of the calls that move bytes (`sock_send_length`, `sock_recv_length`): what is only for them is not there for the verifier
/// where they do not.
#[inline(always)]
pub fn by_sockets() -> bool {
    BY_SOCKETS.load() != 0
}

/// What the loader writes for a field that this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// How a program reaches kernel memory. One body serves both: what the hook was given decides.
pub trait Memory {
    /// The integer at `base + offset`; 0 if it is not readable, which for a live kernel object does not happen: a branch
    /// per field would multiply what the verifier has to follow.
    fn read<T: Copy>(base: u64, offset: &Global<u32>) -> T;

    /// `N` words at `address`, zeroes if they are not readable.
    fn words<const N: usize>(address: u64) -> [u64; N];

    /// The address by which the fields of `struct tcp_sock` are read, for the address of a `struct sock`; `None` if it is
    /// no TCP socket.
    fn tcp(sk: u64) -> Option<u64>;

    /// As `read`, of a field that not every kernel has.
    #[inline(always)]
    fn read_optional<T: Copy>(base: u64, offset: &Global<u32>) -> Option<T> {
        if offset.load() == ABSENT { None } else { Some(Self::read(base, offset)) }
    }

    /// A bit field of at most a byte. `bits`: how far it is from the byte's low end, and 256 times its width.
    #[inline(always)]
    fn read_bits(base: u64, offset: &Global<u32>, bits: &Global<u32>) -> u8 {
        let byte: u8 = Self::read_optional(base, offset).unwrap_or(0);
        let (shift, width) = (bits.load() & 7, bits.load() >> 8 & 15);
        (u32::from(byte) >> shift & ((1 << width) - 1)) as u8
    }
}

/// Plain addresses, read through the checked helper: about 8 ns each.
pub struct Checked;

/// Pointers whose type the verifier knows from the tracepoint: loads of its own, about 1 ns each. It refuses a field that
/// is not in the type, and the hook falls to the next rung.
pub struct Typed;

impl Memory for Checked {
    #[inline(always)]
    fn read<T: Copy>(base: u64, offset: &Global<u32>) -> T {
        let mut value = MaybeUninit::<T>::uninit();
        let address = base + u64::from(offset.load());
        // SAFETY: T is an integer; the helper writes all of it, zeroes if the address cannot be read.
        unsafe {
            generated::bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, address as *const _);
            value.assume_init()
        }
    }

    #[inline(always)]
    fn words<const N: usize>(address: u64) -> [u64; N] {
        read_at(address).unwrap_or([0; N])
    }

    #[inline(always)]
    fn tcp(sk: u64) -> Option<u64> {
        (read::<u16>(sk, &SK_PROTOCOL)? == IPPROTO_TCP).then_some(sk)
    }
}

impl Memory for Typed {
    #[inline(always)]
    fn read<T: Copy>(base: u64, offset: &Global<u32>) -> T {
        // SAFETY: the verifier checks the access against the pointer's type; a fault reads as 0. Volatile, so that no load
        // is widened beyond its field.
        unsafe { ((base + u64::from(offset.load())) as *const T).read_volatile() }
    }

    #[inline(always)]
    fn words<const N: usize>(address: u64) -> [u64; N] {
        // SAFETY: as above. Word by word: of a volatile array the compiler would make a copy through memory.
        core::array::from_fn(|index| unsafe { ((address + index as u64 * 8) as *const u64).read_volatile() })
    }

    #[inline(always)]
    fn tcp(sk: u64) -> Option<u64> {
        // SAFETY: the verifier checks that `sk` is a socket; the helper looks at what kind it is.
        let tcp = unsafe { generated::bpf_skc_to_tcp_sock(sk as *mut _) } as u64;
        (tcp != 0).then_some(tcp)
    }
}

const IPPROTO_TCP: u16 = 6;

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
