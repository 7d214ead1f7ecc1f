//! Connections that the kernel itself encrypts (kTLS).
//!
//! In: hooks that saw the socket within a call, and the call's return. Out: flags of the call's record: there what the application moved is
//! not what the connection did, and its bytes are no TLS records. Calls before the keys are handed over are as ever: as many bytes move as
//! the result says. From the first one on of which that is not so, the direction is the kernel's.

use agent_common::message::flag as wire;
use aya_ebpf::helpers::{bpf_probe_read_user, generated as helpers};

use crate::{
    arch::number,
    call,
    offsets::{self, Checked, Memory, read},
    state::{Conn, Task, flag},
    walk,
};

/// `SOL_TLS` (include/linux/socket.h).
const SOL_TLS: u32 = 282;
/// The content type of application data (RFC 8446, 5.1).
const APPLICATION_DATA: u8 = 23;

/// Whether there is anything between the application and TCP.
#[inline(always)]
pub fn is_layered<M: Memory>(tcp: u64) -> bool {
    M::read_optional::<u64>(tcp, &offsets::ICSK_ULP_OPS).is_some_and(|layer| layer != 0)
}

/// Whether that is TLS: there are others.
#[inline(always)]
pub fn is_tls(sk: u64) -> bool {
    let layer = Checked::read_optional::<u64>(sk, &offsets::ICSK_ULP_OPS).filter(|layer| *layer != 0);
    layer.is_some_and(|layer| Checked::read_optional::<[u8; 4]>(layer, &offsets::ULP_NAME) == Some(*b"tls\0"))
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
pub fn sent(task: &mut Task, conn: &mut Conn, id: u64, result: i64) -> Option<u32> {
    if task.call_flags & u32::from(wire::KERNEL_TLS) == 0 {
        return None;
    }
    let end = offsets::read::<u32>(task.tx_sock, &offsets::TCP_WRITE_SEQ).unwrap_or(task.tx_end);
    let moved = end.wrapping_sub(task.tx_start);
    settle(task, conn, task.tx_sock, flag::ENCRYPTS, moved, (id, result)).then_some(end)
}

/// A read returned: whether the kernel decrypted it.
#[inline(always)]
pub fn received(task: &mut Task, conn: &mut Conn, id: u64, result: i64) -> bool {
    let moved = task.rx_end.wrapping_sub(task.rx_start);
    task.call_flags & u32::from(wire::KERNEL_TLS) != 0
        && settle(task, conn, task.rx_sock, flag::DECRYPTS, moved, (id, result))
}

/// A call moved bytes, and no hook saw which of the connection's: whether the kernel encrypted or decrypted them.
#[inline(always)]
pub fn moved_unseen(task: &mut Task, conn: &mut Conn, sk: u64, id: u64) -> bool {
    if !is_tls(sk) {
        return false;
    }
    conn.flags |= if call::is_read(id) { flag::DECRYPTS } else { flag::ENCRYPTS };
    task.call_flags |= u32::from(wire::KERNEL_TLS | wire::INFERRED_RANGE);
    if is_control(task, id) {
        task.call_flags |= u32::from(wire::TLS_CONTROL);
    }
    true
}

#[inline(always)]
fn settle(task: &mut Task, conn: &mut Conn, sk: u64, direction: u32, moved: u32, (id, result): (u64, i64)) -> bool {
    let as_ever = if result <= 0 { moved == 0 } else { conn.flags & direction == 0 && moved == result as u32 };
    if as_ever || !is_tls(sk) {
        task.call_flags &= !u32::from(wire::KERNEL_TLS);
        return false;
    }
    conn.flags |= direction;
    // A record that the application did not get is none of its data.
    if result <= 0 || is_control(task, id) {
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
