//! System calls that move bytes: noted at entry, told at return.
//!
//! Entry stores where the bytes are; whether the file is a TCP socket shows when a socket hook fires in between. At return
//! the kernel has just touched the buffers, so they are resident, and the result says how many bytes are real.
//!
//! Where sockets tell of calls (`offsets::by_sockets`), most calls are neither seen to be entered nor to return: a file's then cost
//! nothing. The first hook that fires inside notes the call ([`notice`]): a socket's, or the scheduler's where the thread goes to sleep. The
//! socket itself tells when it is done, a moment before the return ([`on_length`]). Of the calls that no single socket tells of, entry and
//! return are hooked as everywhere else ([`is_hooked`]).

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use agent_common::{
    header::kind,
    message::{CallRecord, TAIL_BYTES, WHOLE_CALL_BYTES, direction, flag as wire},
    settings::Settings,
};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated as helpers};

use crate::{
    arch::{number, regs},
    connection, datagram,
    emit::{self, now},
    ktls,
    maps::{self, SENDERS_AWAITED, Scratch, TASKS},
    message,
    offsets::{self, Checked, Memory},
    payload::{self, Captured},
    sched,
    select::{self, chosen},
    socket::{self, Kind},
    state::{Task, flag},
    tls, unix,
    walk::{self, Found},
};

/// `recv` with it leaves the bytes where they are.
pub const MSG_PEEK: u32 = 2;
const EAGAIN: i64 = -11;
const EINTR: i64 = -4;

/// `sys_enter`.
#[inline(always)]
pub fn on_enter<M: Memory>(pt_regs: u64, id: u64) {
    if id == number::CLOSE {
        if let Some(task) = who_looks_at_close() {
            let [fd] = M::words::<1>(pt_regs + (regs::FIRST + regs::ARG0 * 8) as u64);
            begin_close(task, fd);
        }
        return;
    }
    if !moves_bytes(id) {
        return;
    }
    let Some(settings) = select::settings() else { return };
    let Some(task) = select::current_task(settings) else { return };
    if select::hopeless(settings, task.mode) {
        return;
    }
    let registers = M::words::<{ regs::COUNT }>(pt_regs + regs::FIRST as u64);
    let arguments = [regs::ARG0, regs::ARG1, regs::ARG2, regs::ARG3, regs::ARG4].map(|index| registers[index]);
    begin(task, id, arguments, now());
    tls::note_goroutine(task, pt_regs);
}

/// `sys_enter` for the tracepoint form, whose arguments lie in the record itself.
#[inline(always)]
pub fn on_enter_arguments(id: u64, arguments: [u64; 5]) {
    if id == number::CLOSE {
        if let Some(task) = who_looks_at_close() {
            begin_close(task, arguments[0]);
        }
        return;
    }
    if !moves_bytes(id) {
        return;
    }
    let Some(settings) = select::settings() else { return };
    let Some(task) = select::current_task(settings) else { return };
    if select::hopeless(settings, task.mode) {
        return;
    }
    begin(task, id, arguments, now());
    tls::note_goroutine(task, registers());
}

/// Address of the registers with which the current thread entered the kernel.
#[inline(always)]
pub fn registers() -> u64 {
    // SAFETY: every thread has a place for them; that of a thread of the kernel holds zeroes.
    unsafe { helpers::bpf_task_pt_regs(helpers::bpf_get_current_task_btf()) as u64 }
}

/// A hook fires for the current thread, perhaps inside a call that nobody saw it enter: notes that call.
///
/// Its entry is taken for now, and its totals for those of now: nothing of it was seen before. A call that was noticed when the thread lost its
/// CPU keeps those, if it is still the same.
#[inline(always)]
pub fn notice(task: &mut Task, late: bool, time_ns: impl FnOnce() -> u64) {
    // Where the return of a call is hooked, it may be unseen nevertheless.
    if !offsets::by_sockets() || (task.number != 0 && task.noticed == 0 && !is_hooked(task.number - 1)) {
        return;
    }
    let at = registers();
    let words = Checked::words::<{ regs::COUNT_WITH_CALL }>(at + regs::FIRST as u64);
    let id = words[regs::COUNT_WITH_CALL - 1];
    if words[regs::RESULT] != regs::IN_PROGRESS || !moves_bytes(id) {
        // The call that the thread is in and on its way out of is still to be told.
        if task.number != id + 1 {
            task.number = 0;
            task.noticed = 0;
        }
        return;
    }
    let [fd, buffer, count] = [regs::ARG0, regs::ARG1, regs::ARG2].map(|index| words[index]);
    if task.number != id + 1 || task.fd != fd || task.buffer != buffer || task.count != count {
        let arguments = [fd, buffer, count, words[regs::ARG3], words[regs::ARG4]];
        begin(task, id, arguments, time_ns());
        task.late = u32::from(late);
        tls::note_goroutine(task, at);
    }
    task.noticed = 0;
}

/// The same where the call may not be one of a socket, so that nobody tells of its end: the thread loses its CPU, or brings bytes to another
/// socket.
#[inline(always)]
pub fn notice_passing(task: &mut Task, time_ns: impl FnOnce() -> u64) {
    if offsets::by_sockets() {
        notice(task, false, time_ns);
        task.noticed = u32::from(task.number != 0);
    }
}

/// Bytes come to a unix socket: the current thread has just sent them, which no hook saw before.
#[inline(always)]
pub fn notice_sender() {
    if let Some(task) = unseen_sender() {
        notice_passing(task, now);
    }
}

/// A datagram of this socket leaves, perhaps in the call that sends it, of which no hook saw anything before; or in somebody else's, which is interrupted.
#[inline(always)]
pub fn notice_sender_of(sk: u64) {
    if let Some(task) = unseen_sender() {
        let [fd] = Checked::words::<1>(registers() + (regs::FIRST + regs::ARG0 * 8) as u64);
        if walk::socket(fd).is_some_and(|found| found.sk == sk) {
            notice_passing(task, now);
        }
    }
}

/// The current thread, if it is recorded, and nothing is known of a call of it.
#[inline(always)]
fn unseen_sender() -> Option<&'static mut Task> {
    if !offsets::by_sockets() {
        return None;
    }
    sched::watched(bpf_get_current_pid_tgid() as u32).filter(|task| task.number == 0 || task.noticed != 0)
}

/// The current thread, if it ever was seen to use a unix socket, or awaits an answer to a datagram: only then `close` is looked at.
#[inline(always)]
fn who_looks_at_close() -> Option<&'static mut Task> {
    let tid = bpf_get_current_pid_tgid() as u32;
    // SAFETY: a live map value of the current thread.
    TASKS.get_ptr_mut(&tid).map(|task| unsafe { &mut *task }).filter(|task| task.uses_unix != 0 || task.awaits != 0)
}

/// After the return the descriptor says nothing any more, so its socket is noted.
#[inline(always)]
fn begin_close(task: &mut Task, fd: u64) {
    let Some(found) = walk::socket(fd) else { return };
    if task.awaits == found.sk {
        datagram::closes(task, found);
    } else if unix::is_known(found) {
        task.number = number::CLOSE + 1;
        task.noticed = 0;
        task.tx_sock = 0;
        task.rx_sock = 0;
        task.other = found;
    }
}

#[inline(always)]
fn begin(task: &mut Task, id: u64, [fd, buffer, count, fourth, fifth]: [u64; 5], time_ns: u64) {
    task.enter_ns = time_ns;
    task.number = id + 1; // 0 means "in no call"
    task.noticed = 0;
    task.late = 0;
    task.fd = fd;
    task.buffer = buffer;
    task.count = count;
    sched::on_call(task);
    task.tx_sock = 0;
    task.rx_sock = 0;
    task.call_flags = 0;
    task.datagram = 0;
    task.message_flags = match id {
        number::RECVFROM | number::RECVMMSG => fourth as u32,
        number::RECVMSG => count as u32,
        _ => 0,
    };
    task.address = if id == number::SENDTO || id == number::RECVFROM { fifth } else { 0 };
}

/// Number of the call that returns.
#[inline(always)]
pub fn returning<M: Memory>(pt_regs: u64) -> u64 {
    let [id] = M::words::<1>(pt_regs + regs::CALL);
    id
}

/// `sys_exit` of a call: to look at its number costs every call that is not watched less than to look for the thread.
#[inline(always)]
pub fn on_exit(id: u64, result: i64) -> Next {
    if id != number::CLOSE && !moves_bytes(id) {
        return Next::Nothing;
    }
    let may_bring_sender = may_bring_sender(id);
    if offsets::by_sockets() && may_bring_sender && !is_any_sender_awaited() {
        return Next::Nothing; // its socket told of it
    }
    let Some(task) = task_in_call() else { return Next::Nothing };
    if may_bring_sender {
        await_sender(task, false);
    }
    sched::runs(task);
    if task.number != id + 1 {
        return Next::Nothing; // another one was noticed, whose end nobody saw
    }
    finish(task, id, result)
}

/// A socket is done with a call, or with one of its pieces.
#[inline(always)]
pub fn on_length(result: i64) -> Next {
    let Some(settings) = select::settings() else { return Next::Nothing };
    let Some(task) = select::task_inside(settings) else { return Next::Nothing };
    if select::hopeless(settings, task.mode) {
        // Nothing of what was noted is believed when it is recorded again.
        (task.number, task.noticed, task.tx_sock, task.rx_sock) = (0, 0, 0, 0);
        return Next::Nothing;
    }
    sched::runs(task);
    notice(task, true, now);
    // In no call: a socket of the kernel's own, or io_uring, of which other hooks told.
    if task.number == 0 || is_hooked(task.number - 1) {
        return Next::Nothing;
    }
    finish(task, task.number - 1, result)
}

/// The call that the thread is in, of that number, is done; if hooks at a TCP socket fired in it, it is told, or nothing is to be told.
#[inline(always)]
fn finish(task: &mut Task, id: u64, result: i64) -> Next {
    if task.tx_sock == 0 && task.rx_sock == 0 && !comes_again(result) {
        return Next::Elsewhere;
    }
    if let Some(settings) = select::settings() {
        select::renew(settings, task);
        // What a read sends is no bytes of the application's: it reads a file of the network's. `splice` goes both ways.
        if task.tx_sock != 0 && (id == number::SPLICE || !is_read(id)) {
            returned_from_send(settings, task, id, result);
        } else if task.rx_sock != 0 {
            returned_from_read(settings, task, id, result);
        }
    }
    task.tx_sock = 0;
    task.rx_sock = 0;
    task.enter_ns = 0;
    task.number = 0;
    Next::Nothing
}

/// Whether entry and return of the call are hooked where sockets tell of the others: it is of no single message of one socket. The return alone
/// is hooked of calls that may bring a datagram's sender.
#[inline(always)]
fn is_hooked(id: u64) -> bool {
    matches!(id, number::CONNECT | number::SENDFILE | number::SPLICE | number::RECVMMSG | number::SENDMMSG)
        || is_accept(id)
}

/// Whether the return of the call tells the application who sent a datagram.
#[inline(always)]
fn may_bring_sender(id: u64) -> bool {
    id == number::RECVFROM || id == number::RECVMSG
}

/// Whether any thread is between what a socket told of a datagram and the return that brings its sender. Of all other returns of `recvfrom` and
/// `recvmsg` nothing more is asked.
#[inline(always)]
pub fn is_any_sender_awaited() -> bool {
    // SAFETY: a live, aligned map value.
    SENDERS_AWAITED.get_ptr(0).is_none_or(|count| unsafe { count.read_volatile() } != 0)
}

/// The thread is there, or not any more. One that is forgotten stays in the count, at the cost of a look-up for each return.
#[inline(always)]
pub fn await_sender(task: &mut Task, awaits: bool) {
    let awaits = u32::from(awaits);
    if task.awaits_sender != awaits
        && let Some(count) = SENDERS_AWAITED.get_ptr_mut(0)
    {
        task.awaits_sender = awaits;
        let change = if awaits == 0 { u64::MAX } else { 1 }; // -1
        // SAFETY: a live, aligned map value.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(count, change) };
    }
}

/// Whether nothing is said of a socket by this result: there was nothing to do, or a signal came. A call that a signal
/// interrupts returns here what the kernel knows only within itself (include/linux/errno.h: `ERESTARTSYS` to
/// `ERESTART_RESTARTBLOCK`).
#[inline(always)]
fn comes_again(result: i64) -> bool {
    result == EAGAIN || result == EINTR || (-516..=-512).contains(&result)
}

/// The current thread, if it is in a call that is watched.
#[inline(always)]
fn task_in_call() -> Option<&'static mut Task> {
    let tid = bpf_get_current_pid_tgid() as u32;
    // SAFETY: a live map value of the current thread.
    TASKS.get_ptr_mut(&tid).map(|task| unsafe { &mut *task }).filter(|task| task.number != 0)
}

/// Which program a call's return goes on with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// None: all is told.
    Nothing,
    /// [`on_exit_elsewhere`].
    Elsewhere,
    /// [`on_exit_unix`].
    Unix,
}

/// The second part of `sys_exit`, a program of its own for the verifier's sake: no TCP hook fired in the call. It tells of one
/// datagram at a time.
#[inline(always)]
pub fn on_exit_elsewhere(result: i64) -> Next {
    let Some(task) = task_in_call() else { return Next::Nothing };
    let Some(settings) = select::settings() else { return Next::Nothing };
    select::renew(settings, task);
    let next = returned_elsewhere(settings, task, task.number - 1, result);
    if next == Next::Nothing {
        end_call();
    }
    next
}

/// The second part of what [`on_length`] begins, likewise.
#[inline(always)]
pub fn on_length_elsewhere(sk: u64, result: i64) -> Next {
    let Some(task) = task_in_call() else { return Next::Nothing };
    let Some(settings) = select::settings() else { return Next::Nothing };
    select::renew(settings, task);
    let id = task.number - 1;
    let found = Found { sk, inode: socket::inode(sk).unwrap_or(0) };
    match socket::kind::<Checked>(sk) {
        Some(Kind::Unix) => {
            task.other = found;
            return Next::Unix;
        }
        Some(Kind::Tcp) if says_something(task, id, result) => returned_unseen(settings, task, sk, id, result),
        // Who sent it, the application is told only after this.
        Some(Kind::Datagram) if may_bring_sender(id) => {
            await_sender(task, true);
            return Next::Nothing;
        }
        Some(Kind::Datagram) => {
            datagram::returned(settings, task, found, id, result);
        }
        _ => {}
    }
    end_call();
    Next::Nothing
}

/// The third part, likewise, for unix stream sockets.
#[inline(always)]
pub fn on_exit_unix(result: i64) {
    let Some(task) = task_in_call() else { return };
    if let Some(settings) = select::settings() {
        returned_from_unix(settings, task, task.number - 1, result);
    }
    end_call();
}

/// The call is over, whatever it was.
#[inline(always)]
pub fn end_call() {
    if let Some(task) = task_in_call() {
        task.number = 0;
        task.enter_ns = 0;
    }
}

/// A read that met the end of the stream, or a call that failed for good.
#[inline(always)]
fn ended_or_failed(task: &Task, id: u64, result: i64) -> bool {
    let wanted_bytes = task.count != 0 || id == number::RECVMSG; // whose third argument is its flags
    result < 0 || (result == 0 && is_read(id) && wanted_bytes)
}

/// Whether a call moved bytes, met the end of the stream or failed.
#[inline(always)]
pub fn says_something(task: &Task, id: u64, result: i64) -> bool {
    result > 0 || ended_or_failed(task, id, result)
}

#[inline(always)]
fn returned_from_send(settings: &Settings, task: &mut Task, id: u64, result: i64) {
    let Some(conn) = connection::find(task.tx_sock) else { return };
    let time_ns = now();
    if let Some(end) = ktls::sent(task, id, result) {
        task.tx_end = end;
    } else if result > 0 && id != number::SENDMMSG {
        task.tx_end = task.tx_start.wrapping_add(result as u32);
    } else if result <= 0 {
        task.tx_end = task.tx_start;
    }
    let transmitted_ns = message::finish_send(conn, task, task.tx_end, time_ns);
    tls::moved(task, direction::SEND, conn.id, None);
    let by_connection = select::connection_mode(settings, conn);
    if !select::payload(settings, select::combined(task.mode, by_connection)) {
        return; // the slot's record says it all
    }
    let moved = task.tx_end.wrapping_sub(task.tx_start);
    let from = (task.tx_start, task.tx_end);
    task.call_flags |= chosen::SELECTED | chosen::PAYLOAD;
    let call = Call { id, result, direction: direction::SEND, range: from, moved, time_ns, transmitted_ns };
    tell(settings, task, conn.id, call);
}

#[inline(always)]
fn returned_from_read(settings: &Settings, task: &mut Task, id: u64, result: i64) {
    let Some(conn) = connection::find(task.rx_sock) else { return };
    let time_ns = now();
    // The cursor was not followed before (adopted, or selected only now): the result says how much this call read.
    let by_kernel = ktls::received(task, id, result);
    // Of what the kernel decrypted more has moved, if that was followed.
    let followed = by_kernel && task.rx_start != task.rx_end;
    if !followed && result > 0 && id != number::RECVMMSG && task.rx_end.wrapping_sub(task.rx_start) != result as u32 {
        task.rx_start = task.rx_end.wrapping_sub(result as u32);
        task.call_flags |= u32::from(wire::INFERRED_RANGE);
        // What had arrived is of bytes that others may have read long ago.
        task.forget_arrival();
        task.arrival_end = task.rx_start;
    }
    let base = (conn.flags & flag::BASES != 0).then_some(conn.receive_base);
    tls::moved(task, direction::RECEIVE, conn.id, base);
    let by_connection = select::connection_mode(settings, conn);
    let combined = select::combined(task.mode, by_connection);
    if !select::records(combined) {
        return;
    }
    let moved = task.rx_end.wrapping_sub(task.rx_start);
    let range = (task.rx_start, task.rx_end);
    task.call_flags |= select::chosen(settings, combined);
    if task.late != 0 && !sched::complete(task) {
        task.enter_ns = 0; // it may have slept before, unseen
    }
    let direction = direction::RECEIVE;
    let call = Call { id, result, direction, range, moved, time_ns, transmitted_ns: 0 };
    tell(settings, task, conn.id, call);
}

/// No TCP hook fired, so the descriptor has to say what this was.
#[inline(always)]
fn returned_elsewhere(settings: &Settings, task: &mut Task, id: u64, result: i64) -> Next {
    if id == number::CLOSE {
        return Next::Unix;
    }
    let accepts = is_accept(id);
    if accepts && result < 0 {
        return Next::Nothing;
    }
    let Some(found) = walk::socket(if accepts { result as u64 } else { task.fd }) else { return Next::Nothing };
    match socket::kind::<Checked>(found.sk) {
        Some(Kind::Unix) => {
            task.other = found;
            return Next::Unix;
        }
        Some(Kind::Tcp) if accepts => {
            let listener = walk::socket(task.fd).map(|listener| listener.sk);
            connection::on_accepted(found.sk, listener, task.pid, task.cgroup_id);
        }
        Some(Kind::Tcp) if id == number::CONNECT && result < 0 => {
            connection::on_connect_failed(found.sk, -result as u32);
        }
        _ if accepts || id == number::CONNECT => {}
        Some(Kind::Tcp) if says_something(task, id, result) => {
            returned_unseen(settings, task, found.sk, id, result);
        }
        Some(Kind::Datagram) if datagram::returned(settings, task, found, id, result) => return Next::Elsewhere,
        _ => {}
    }
    Next::Nothing
}

#[inline(always)]
fn returned_from_unix(settings: &Settings, task: &mut Task, id: u64, result: i64) {
    let found = task.other;
    if id == number::CLOSE {
        return unix::on_closed(found.sk);
    }
    task.uses_unix = 1;
    if is_accept(id) {
        unix::on_accepted(settings, task, found);
    } else if id != number::CONNECT {
        unix::returned(settings, task, found, id, result);
    } else if result == 0 {
        unix::on_connected(settings, task, found);
    }
}

/// A call on a TCP connection that the agent knows moved nothing; or the kernel encrypted what it wrote, and passed that on by a way that
/// no hook is on (before Linux 6.5), or had decrypted before what it read.
#[inline(always)]
fn returned_unseen(settings: &Settings, task: &mut Task, sk: u64, id: u64, result: i64) {
    // A connection that never moved a byte was never told of, and its end says nothing about a request.
    let Some(conn) = connection::find(sk).filter(|conn| conn.flags & flag::ANNOUNCED != 0) else { return };
    let by_connection = select::connection_mode(settings, conn);
    let combined = select::combined(task.mode, by_connection);
    let has_moved = result > 0;
    if !select::records(combined) || (has_moved && !ktls::moved_unseen(task, sk, id)) {
        return;
    }
    let time_ns = now();
    let reading = is_read(id);
    if result == 0 {
        task.call_flags |= u32::from(wire::END_OF_STREAM);
    }
    task.forget_arrival();
    let (start, end) = match (reading, has_moved) {
        (true, false) => (conn.read_cursor, conn.read_cursor),
        (true, true) => {
            let start = conn.read_cursor;
            let end = offsets::read(sk, &offsets::TCP_COPIED_SEQ).unwrap_or(start);
            if start == end || conn.flags & flag::CURSOR == 0 {
                return; // what was left of an earlier record
            }
            // The layer collected them before. When they arrived is not told, and forgotten when the place is needed.
            conn.read_cursor = end;
            (start, end)
        }
        (false, _) => {
            let end = offsets::read::<u32>(sk, &offsets::TCP_WRITE_SEQ).unwrap_or(0);
            // Records are longer than what is inside; by how much, is not known here.
            (if has_moved { end.wrapping_sub(result as u32) } else { end }, end)
        }
    };
    task.arrival_end = start;
    let direction = if reading { direction::RECEIVE } else { direction::SEND };
    task.call_flags |= select::chosen(settings, combined);
    task.receive_queue = 0;
    task.out_of_order = 0;
    let (range, moved) = ((start, end), 0);
    let call = Call { id, result, direction, range, moved, time_ns, transmitted_ns: 0 };
    tell_bare(task, conn.id, &call);
}

/// A call as it is told.
pub struct Call {
    pub id: u64,
    pub result: i64,
    pub direction: u8,
    pub range: (u32, u32),
    pub moved: u32,
    pub time_ns: u64,
    /// When the last byte of a write left, if it had by the return.
    pub transmitted_ns: u64,
}

/// Tells of a call, with its payload if that is wanted.
#[inline(always)]
pub fn tell(settings: &Settings, task: &mut Task, connection_id: u64, call: Call) {
    let Some(scratch) = maps::scratch() else { return };
    let mut captured = payload::NOTHING;
    let readable = task.call_flags & u32::from(wire::KERNEL_TLS) == 0;
    if task.call_flags & chosen::PAYLOAD != 0 && readable && call.moved != 0 && settings.payload_bytes_max != 0 {
        captured = payload::capture(settings, task, scratch, connection_id, &call);
    }
    put(task, scratch, connection_id, &call, captured);
}

/// The same without payload.
#[inline(always)]
fn tell_bare(task: &mut Task, connection_id: u64, call: &Call) {
    if let Some(scratch) = maps::scratch() {
        put(task, scratch, connection_id, call, payload::NOTHING);
    }
}

#[inline(always)]
fn put(task: &mut Task, scratch: &mut Scratch, connection_id: u64, call: &Call, captured: Captured) {
    let receives = call.direction == direction::RECEIVE;
    let mut flags = task.call_flags as u16;
    if task.call_flags & chosen::PAYLOAD != 0 {
        flags |= wire::SELECTED;
    }
    if sched::complete(task) {
        flags |= wire::SCHED;
    }
    scratch.call = CallRecord {
        header: emit::header(kind::CALL, call.time_ns),
        connection_id,
        enter_ns: task.enter_ns,
        softirq_ns: if receives { task.arrival_softirq_ns } else { 0 },
        arrival_first_ns: if receives { task.arrival_first_ns } else { 0 },
        arrival_last_ns: if receives { task.arrival_last_ns } else { 0 },
        woken_ns: task.woken_ns,
        running_ns: task.running_ns,
        run_queue_enter_ns: task.run_queue_enter_ns,
        run_queue_exit_ns: task.run_queue_ns,
        throttled_enter_ns: task.throttled_enter_ns,
        throttled_exit_ns: task.throttled_ns,
        unseen_enter_ns: task.unseen_enter_ns,
        unseen_exit_ns: task.unseen_ns,
        queued_from_ns: task.queued_from_ns,
        queued_until_ns: task.queued_until_ns,
        queued_throttled_ns: task.queued_throttled_ns,
        off_cpu_ns: sched::off_cpu(task),
        off_cpu_inside_ns: task.off_cpu_total_ns.wrapping_sub(task.off_cpu_enter_ns),
        transmitted_ns: call.transmitted_ns,
        cgroup_id: task.cgroup_id,
        start: call.range.0,
        end: call.range.1,
        arrival_end: if receives { task.arrival_end } else { call.range.0 },
        result: call.result as i32,
        receive_queue: if receives { task.receive_queue } else { 0 },
        out_of_order: if receives { task.out_of_order } else { 0 },
        pid: task.pid,
        tid: bpf_get_current_pid_tgid() as u32,
        flags,
        payload_len: (captured.length + captured.tail) as u16,
        tail_len: captured.tail as u16,
        syscall: call.id as u16,
        direction: call.direction,
        slept_in: sched::slept_in(task),
        is_selected: u8::from(task.call_flags & chosen::SELECTED != 0),
        padding: 0,
        behind_hole_us: if receives { task.behind_hole_us } else { 0 },
    };
    let mut length = core::hint::black_box(captured.length + captured.tail);
    if length > (WHOLE_CALL_BYTES + TAIL_BYTES) as u32 {
        length = (WHOLE_CALL_BYTES + TAIL_BYTES) as u32; // never; for the verifier
    }
    emit::bytes((scratch as *const Scratch).cast(), size_of::<CallRecord>() as u64 + u64::from(length));
}

/// Whether a system call reads.
#[inline(always)]
pub fn is_read(id: u64) -> bool {
    matches!(
        id,
        number::READ
            | number::READV
            | number::RECVFROM
            | number::RECVMSG
            | number::RECVMMSG
            | number::PREADV2
            | number::SPLICE
    )
}

#[inline(always)]
pub fn is_write(id: u64) -> bool {
    matches!(
        id,
        number::WRITE
            | number::WRITEV
            | number::SENDTO
            | number::SENDMSG
            | number::SENDMMSG
            | number::PWRITEV2
            | number::SENDFILE
    )
}

#[inline(always)]
fn moves_bytes(id: u64) -> bool {
    is_read(id) || is_write(id) || is_accept(id) || id == number::CONNECT
}

#[inline(always)]
fn is_accept(id: u64) -> bool {
    id == number::ACCEPT || id == number::ACCEPT4
}

/// Whether the current thread is in `connect`.
#[inline(always)]
pub fn in_connect() -> bool {
    let tid = bpf_get_current_pid_tgid() as u32;
    // SAFETY: a live map value.
    TASKS.get_ptr(&tid).is_some_and(|task| unsafe { (*task).number } == number::CONNECT + 1)
}
