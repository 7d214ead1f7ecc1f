//! What an application gave to, or got from, a TLS library.

use crate::{Plain, header::RecordHeader};

/// Bits of [`PlaintextRecord::flags`].
pub mod flag {
    /// Fewer bytes were captured than moved, by the payload limit.
    pub const TRUNCATED: u16 = 1;
    /// The application's memory could not be read; nothing was captured.
    pub const UNREADABLE: u16 = 2;
    /// Bytes of the connection moved inside the call, on the same thread or goroutine: that is how the connection is known.
    pub const INSIDE: u16 = 4;
    /// The connection is known from the read before the call on the same thread: the application hands the library what it
    /// reads itself.
    pub const NEAR: u16 = 8;
}

/// What was probed, in [`PlaintextRecord::library`].
pub mod library {
    /// OpenSSL, GnuTLS and what has the same functions: the bytes are those of a TLS session.
    pub const TLS: u8 = 0;
    /// NSPR, whose functions also move what is not encrypted.
    pub const NSPR: u8 = 1;
    /// Go's `crypto/tls`.
    pub const GO: u8 = 2;
}

/// Which goroutines are to be noted: bits of the kernel side's switch.
pub mod watch {
    /// Those of Go since 1.17, by a register.
    pub const REGISTER: u32 = 1;
    /// Those of Go before, by the thread's own memory.
    pub const STACK: u32 = 2;
}

/// A call of a TLS library that returned, followed by plaintext: the first bytes that moved, and, if `tail_len` is not 0, the last
/// `tail_len` bytes that moved (after a gap), at `tail_at`.
///
/// Emitted for selected tasks and connections, if the connection is known.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlaintextRecord {
    /// `kind` is `PLAINTEXT`; `time_ns` is the call's return.
    pub header: RecordHeader,
    /// As in the connection's `ConnectionRecord`.
    pub connection_id: u64,
    /// Names the TLS session within its process: an address there, never read.
    pub session: u64,
    /// When the call was entered.
    pub enter_ns: u64,
    /// When the last socket call inside it was entered; 0 if there was none.
    pub socket_ns: u64,
    /// Plaintext of this session and direction that was told before; wraps.
    pub start: u32,
    /// The same behind this call; equal to `start` if the call moved none.
    pub end: u32,
    /// Sequence number of the first byte of the connection that moved inside the call, in its direction; with [`flag::NEAR`] of
    /// a read, that was read before it.
    pub tcp_start: u32,
    /// Just past the last; equal to `tcp_start` if none did.
    pub tcp_end: u32,
    /// Bytes that the application offered, or has room for; of several buffers (`PR_Writev`) in the first.
    pub wanted: u32,
    /// Process (thread group) id in the initial namespace.
    pub pid: u32,
    /// Thread id in the initial namespace, at the return.
    pub tid: u32,
    /// Bits of [`flag`].
    pub flags: u16,
    /// Captured bytes, `tail_len` included.
    pub payload_len: u16,
    /// How many of them are the last bytes that moved.
    pub tail_len: u16,
    /// One of [`crate::message::direction`].
    pub direction: u8,
    /// One of [`library`].
    pub library: u8,
    /// Where the last bytes are, counted from the record's end.
    pub tail_at: u16,
    /// Zero.
    pub padding: [u8; 2],
}

// SAFETY: repr(C), integers only; the size assertion below equals the sum of the fields.
unsafe impl Plain for PlaintextRecord {}
const _: () = assert!(size_of::<PlaintextRecord>() == 16 + 4 * 8 + 7 * 4 + 3 * 2 + 2 + 2 + 2);
