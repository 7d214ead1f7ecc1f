//! Sockets that are not TCP: what they are, and how their state is kept.
//!
//! UDP and unix sockets have no hook that tells when one goes, on any kernel without kprobes. So their tables are
//! keyed by the address of `struct sock` like that of connections, but an entry is believed only if the socket at that
//! address still has the inode number that it had: the kernel gives each socket file a new one. What went is found by a
//! hand that goes round the places of a table, a few steps with each newcomer, like that of a clock. So a table is full
//! only if nearly all sockets in it are alive, and no living socket's state is ever thrown out.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::{helpers::bpf_get_smp_processor_id, maps::Array};

use crate::{
    call, datagram,
    maps::HANDS,
    message,
    offsets::{self, ABSENT, Memory, read},
    unix,
};

/// Address families.
pub const AF_UNIX: u16 = 1;
/// Likewise.
pub const AF_INET: u16 = 2;
/// Likewise.
pub const AF_INET6: u16 = 10;
const IPPROTO_TCP: u16 = 6;
const IPPROTO_UDP: u16 = 17;
const SOCK_STREAM: u16 = 1;
/// Places that one newcomer looks at.
const STEPS: u32 = 4;

/// What spantap follows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// TCP over IP.
    Tcp,
    /// UDP over IP.
    Datagram,
    /// A unix stream.
    Unix,
}

/// What kind of socket this is; `None` if it is another one.
#[inline(always)]
pub fn kind<M: Memory>(sk: u64) -> Option<Kind> {
    match M::read::<u16>(sk, &offsets::SK_FAMILY) {
        AF_INET | AF_INET6 => match M::read::<u16>(sk, &offsets::SK_PROTOCOL) {
            IPPROTO_TCP => Some(Kind::Tcp),
            IPPROTO_UDP => Some(Kind::Datagram),
            _ => None,
        },
        AF_UNIX if offsets::UNIX_PEER.load() != ABSENT => {
            (M::read::<u16>(sk, &offsets::SK_TYPE) == SOCK_STREAM).then_some(Kind::Unix)
        }
        _ => None,
    }
}

/// `sk_data_ready`: something is in a socket's queue now. Sees every arrival of the host, in softirq or in the sender.
#[inline(always)]
pub fn on_ready<M: Memory>(sk: u64) {
    match kind::<M>(sk) {
        Some(Kind::Datagram) => datagram::on_ready(sk),
        Some(Kind::Unix) => {
            call::notice_sender();
            unix::on_ready(sk);
        }
        // On established connections `tcp_probe` sees the segments themselves.
        Some(Kind::Tcp) => message::on_ready::<M>(sk),
        None => {}
    }
}

/// Inode number of the socket's file; `None` if it has none (any more).
#[inline(always)]
pub fn inode(sk: u64) -> Option<u64> {
    let socket: u64 = read(sk, &offsets::SK_SOCKET).filter(|socket| *socket != 0)?;
    read(socket + u64::from(offsets::SOCKET_ALLOC_INODE.load()), &offsets::INODE_NUMBER)
}

/// A number that no other socket had or will have.
#[inline(always)]
pub fn unique_id(time_ns: u64) -> u64 {
    // SAFETY: the helper takes no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    // One CPU creates at most one entry in a nanosecond.
    (time_ns << 6) | u64::from(cpu & 63)
}

/// Finds a place for `sk` among `count` (a power of two), going on from where hand number `hand` is. `is_gone` says whether a
/// place's socket went, which it then forgets, or has another place.
#[inline(always)]
pub fn take_place(
    places: &Array<u64>,
    count: u32,
    hand: u32,
    sk: u64,
    is_gone: impl Fn(u64, u32) -> bool,
) -> Option<u32> {
    let hand = HANDS.get_ptr_mut(hand)?;
    for _ in 0..STEPS {
        // SAFETY: a live, aligned map value.
        let at = unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::AcqRel }>(hand, 1) } as u32 & (count - 1);
        let place = places.get_ptr_mut(at)?;
        // SAFETY: a live, aligned map value; the hand gives it to nobody else for a whole round.
        let before = unsafe { place.read_volatile() };
        if before == 0 || is_gone(before, at) {
            // SAFETY: as above.
            unsafe { place.write_volatile(sk) };
            return Some(at);
        }
    }
    None
}
