//! Connections that the kernel itself encrypts (kTLS).
//!
//! In: hooks that saw the socket within a call, and the call's return. Out: flags of the call's record: there what the application moved is
//! not what the connection did, and its bytes are no TLS records.
//!
//! That TLS lies above TCP says nothing yet: OpenSSL puts it there for every socket that it is given. Once the kernel has the keys of a
//! direction, the socket's own function for it is another one than that of plain sockets, which is learnt from the first of them.

use agent_common::message::flag as wire;
use aya_ebpf::helpers::{bpf_probe_read_user, generated as helpers};

use crate::{
    arch::number,
    call,
    maps::PLAIN_CALLS,
    offsets::{self, Checked, Memory, read},
    state::Task,
    walk,
};

/// `SOL_TLS` (include/linux/socket.h).
const SOL_TLS: u32 = 282;
/// The content type of application data (RFC 8446, 5.1).
const APPLICATION_DATA: u8 = 23;
const EAGAIN: i64 = -11;

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the network.
    Out,
    /// From it.
    In,
}

/// Learns what plain sockets move bytes with.
#[inline(always)]
pub fn learn<M: Memory>(sk: u64, tcp: u64) {
    let Some(known) = PLAIN_CALLS.get_ptr_mut(0) else { return };
    // SAFETY: a live, aligned map value; all that write it write the same.
    if unsafe { (&raw const (*known)[0]).read_volatile() } != 0 || is_layered::<M>(tcp) {
        return;
    }
    let ways = [functions(sk, Way::Out), functions(sk, Way::In)];
    // SAFETY: as above.
    unsafe { known.write_volatile(ways) };
}

#[inline(always)]
fn functions(sk: u64, way: Way) -> u64 {
    let protocol = read::<u64>(sk, &offsets::SK_PROT).unwrap_or(0);
    let at = if way == Way::Out { &offsets::PROTO_SENDMSG } else { &offsets::PROTO_RECVMSG };
    if protocol == 0 { 0 } else { read::<u64>(protocol, at).unwrap_or(0) }
}

/// Whether there is anything between the application and TCP.
#[inline(always)]
pub fn is_layered<M: Memory>(tcp: u64) -> bool {
    M::read_optional::<u64>(tcp, &offsets::ICSK_ULP_OPS).is_some_and(|layer| layer != 0)
}

/// Whether the kernel has the keys of that direction.
#[inline(always)]
pub fn has_keys(sk: u64, way: Way) -> bool {
    let Some(layer) = Checked::read_optional::<u64>(sk, &offsets::ICSK_ULP_OPS).filter(|layer| *layer != 0) else {
        return false;
    };
    let Some(known) = PLAIN_CALLS.get_ptr(0) else { return false };
    // SAFETY: a live, aligned map value.
    let plain = unsafe { (&raw const (*known)[if way == Way::Out { 0 } else { 1 }]).read_volatile() };
    let own = functions(sk, way);
    plain != 0
        && own != 0
        && own != plain
        && Checked::read_optional::<[u8; 4]>(layer, &offsets::ULP_NAME) == Some(*b"tls\0")
}

/// The call in progress moves bytes of a socket that may be one of these.
#[inline(always)]
pub fn note(task: &mut Task) {
    task.call_flags |= u32::from(wire::KERNEL_TLS);
}

/// Who takes bytes from a socket of these.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// A read call of the current thread.
    Call,
    /// The application, by other means (io_uring).
    Application,
    /// The layer itself, ahead of the application: bytes are collected when they arrive, in whatever thread that interrupts.
    Layer,
}

/// Who it is now.
#[inline(always)]
pub fn reader(task: &Task, sk: u64) -> Reader {
    if task.number != 0 {
        let reads = call::is_read(task.number - 1) && walk::socket(task.fd).is_some_and(|found| found.sk == sk);
        return if reads { Reader::Call } else { Reader::Layer };
    }
    // Whoever interrupts does not own the socket, and threads of the kernel have no memory of their own.
    let owned = Checked::read_optional::<u32>(sk, &offsets::SK_OWNED).is_some_and(|owned| owned != 0);
    // SAFETY: the helper takes no arguments.
    let current = unsafe { helpers::bpf_get_current_task() };
    let has_memory = read::<u64>(current, &offsets::TASK_MM).is_some_and(|mm| mm != 0);
    if owned && has_memory { Reader::Application } else { Reader::Layer }
}

/// A write returned: where it ended, if the kernel encrypted it.
#[inline(always)]
pub fn sent(task: &mut Task, id: u64, result: i64) -> Option<u32> {
    if !is_noted(task) || !settle(task, task.tx_sock, Way::Out, (id, result)) {
        return None;
    }
    offsets::read::<u32>(task.tx_sock, &offsets::TCP_WRITE_SEQ)
}

/// A read returned: whether the kernel decrypted it.
#[inline(always)]
pub fn received(task: &mut Task, id: u64, result: i64) -> bool {
    is_noted(task) && settle(task, task.rx_sock, Way::In, (id, result))
}

/// A call moved bytes, and no hook saw which of the connection's: whether the kernel encrypted or decrypted them.
#[inline(always)]
pub fn moved_unseen(task: &mut Task, sk: u64, id: u64) -> bool {
    let way = if call::is_read(id) { Way::In } else { Way::Out };
    if task.message_flags & call::MSG_PEEK != 0 || !has_keys(sk, way) {
        return false;
    }
    task.call_flags |= u32::from(wire::KERNEL_TLS | wire::INFERRED_RANGE);
    if is_control(task, id) {
        task.call_flags |= u32::from(wire::TLS_CONTROL);
    }
    true
}

#[inline(always)]
fn is_noted(task: &Task) -> bool {
    task.call_flags & u32::from(wire::KERNEL_TLS) != 0
}

#[inline(always)]
fn settle(task: &mut Task, sk: u64, way: Way, (id, result): (u64, i64)) -> bool {
    if !has_keys(sk, way) {
        task.call_flags &= !u32::from(wire::KERNEL_TLS);
        return false;
    }
    // A record that the application was refused is none of its data; of one that is not complete yet it may be.
    let refused = result <= 0 && result != EAGAIN;
    // Of what did not come nothing is written yet.
    if refused || (result > 0 && is_control(task, id)) {
        task.call_flags |= u32::from(wire::TLS_CONTROL);
    }
    true
}

/// Whether the call's control message names another content type than application data's.
#[inline(always)]
fn is_control(task: &Task, id: u64) -> bool {
    if id != number::SENDMSG && id != number::RECVMSG {
        return false;
    }
    // msghdr: name 8, namelen 4 + 4, iov 8, iovlen 8, control 8, controllen 8.
    // SAFETY: the helper checks the address.
    let Ok([control, length]) = (unsafe { bpf_probe_read_user((task.buffer + 32) as *const [u64; 2]) }) else {
        return false;
    };
    // cmsghdr: len 8, level 4, type 4; behind it one byte.
    if length < 17 {
        return false;
    }
    // SAFETY: the helper checks the address.
    let level = unsafe { bpf_probe_read_user((control + 8) as *const u32) };
    // SAFETY: as above.
    let content = unsafe { bpf_probe_read_user((control + 16) as *const u8) };
    level == Ok(SOL_TLS) && content.is_ok_and(|content| content != APPLICATION_DATA)
}
