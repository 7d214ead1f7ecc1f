//! Connections that the kernel itself encrypts (kTLS).
//!
//! In: hooks that saw the socket within a call, and the call's return. Out: flags of the call's record: there what the application moved is
//! not what the connection did, and its bytes are no TLS records. Calls before the keys are handed over are as ever.

use agent_common::message::flag as wire;
use aya_ebpf::helpers::bpf_probe_read_user;

use crate::{
    arch::number,
    offsets::{self, Checked, Memory},
    state::Task,
    walk,
};

/// `SOL_TLS` (include/linux/socket.h).
const SOL_TLS: u32 = 282;
/// The content type of application data (RFC 8446, 5.1).
const APPLICATION_DATA: u8 = 23;

/// The call in progress moves bytes of this socket, which may be one of these.
#[inline(always)]
pub fn note<M: Memory>(task: &mut Task, tcp: u64) {
    if is_layered::<M>(tcp) {
        task.call_flags |= u32::from(wire::KERNEL_TLS);
    }
}

/// Whether there is anything between the application and TCP.
#[inline(always)]
fn is_layered<M: Memory>(tcp: u64) -> bool {
    M::read_optional::<u64>(tcp, &offsets::ICSK_ULP_OPS).is_some_and(|layer| layer != 0)
}

/// Whether bytes of this socket are taken by the layer above it, and not by a call of the current thread: they are collected when they
/// arrive, in whatever thread that interrupts.
#[inline(always)]
pub fn reads_ahead<M: Memory>(task: &Task, tcp: u64, sk: u64) -> bool {
    is_layered::<M>(tcp) && (task.number == 0 || walk::socket(task.fd).is_none_or(|found| found.sk != sk))
}

/// A write returned: whether the kernel encrypted it.
#[inline(always)]
pub fn sent(task: &mut Task, id: u64, result: i64) -> bool {
    if task.call_flags & u32::from(wire::KERNEL_TLS) == 0 {
        return false;
    }
    let written = offsets::read::<u32>(task.tx_sock, &offsets::TCP_WRITE_SEQ).unwrap_or(task.tx_start);
    settle(task, task.tx_sock, written.wrapping_sub(task.tx_start), (id, result))
}

/// A read returned: whether the kernel decrypted it.
#[inline(always)]
pub fn received(task: &mut Task, id: u64, result: i64) -> bool {
    task.call_flags & u32::from(wire::KERNEL_TLS) != 0
        && settle(task, task.rx_sock, task.rx_end.wrapping_sub(task.rx_start), (id, result))
}

/// A call moved bytes, and no hook saw which of the connection's: whether the kernel encrypted or decrypted them.
#[inline(always)]
pub fn moved_unseen(task: &mut Task, sk: u64, id: u64) -> bool {
    if !is_tls(sk) {
        return false;
    }
    task.call_flags |= u32::from(wire::KERNEL_TLS | wire::INFERRED_RANGE);
    if is_control(task, id) {
        task.call_flags |= u32::from(wire::TLS_CONTROL);
    }
    true
}

/// Records are longer than what is inside.
#[inline(always)]
fn settle(task: &mut Task, sk: u64, moved: u32, (id, result): (u64, i64)) -> bool {
    if result <= 0 || moved <= result as u32 || !is_tls(sk) {
        task.call_flags &= !u32::from(wire::KERNEL_TLS);
        return false;
    }
    if is_control(task, id) {
        task.call_flags |= u32::from(wire::TLS_CONTROL);
    }
    true
}

/// Whether the layer above TCP is this one: there are others.
#[inline(always)]
fn is_tls(sk: u64) -> bool {
    let Some(layer) = Checked::read_optional::<u64>(sk, &offsets::ICSK_ULP_OPS) else { return false };
    Checked::read_optional::<[u8; 4]>(layer, &offsets::ULP_NAME) == Some(*b"tls\0")
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
