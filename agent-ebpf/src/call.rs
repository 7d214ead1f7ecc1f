//! System calls that move bytes: noted at entry, told at return.
//!
//! Entry stores where the bytes are; whether the file is a TCP socket shows when a socket hook fires in between, so
//! ordinary file I/O costs two look-ups and no walk. At return the kernel has just touched the buffers, so they are
//! resident, and the result says how many bytes are real.

use core::ffi::c_void;

use agent_common::{
    header::kind,
    loss::KernelLoss,
    message::{CallRecord, PAYLOAD_BYTES_LIMIT, TAIL_BYTES, direction, flag as wire},
    settings::Settings,
};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user, generated as helpers};

use crate::{
    arch::{number, regs},
    connection, datagram,
    emit::{self, now},
    maps::{Copy, SCRATCH, Scratch, TASKS, Vector},
    message,
    offsets::{self, Memory},
    sched, select,
    socket::{self, Kind},
    state::{Task, flag},
    tls, unix, walk,
};

/// Buffers of one call that are looked at: as many as a call may have (`UIO_MAXIOV`).
const BUFFERS: u64 = 1024;
/// `recv` with it leaves the bytes where they are.
pub const MSG_PEEK: u32 = 2;
/// `recv` with it discards bytes instead of copying them.
const MSG_TRUNC: u32 = 0x20;
const EAGAIN: i64 = -11;
const EINTR: i64 = -4;

/// `sys_enter`.
#[inline(always)]
pub fn on_enter<M: Memory>(pt_regs: u64, id: u64) {
    if id == number::CLOSE {
        if let Some(task) = user_of_unix_sockets() {
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
    begin(task, id, arguments);
    tls::note_goroutine(task, pt_regs);
}

/// `sys_enter` for the tracepoint form, whose arguments lie in the record itself.
#[inline(always)]
pub fn on_enter_arguments(id: u64, arguments: [u64; 5]) {
    if id == number::CLOSE {
        if let Some(task) = user_of_unix_sockets() {
            begin_close(task, arguments[0]);
        }
        return;
    }
    if !moves_bytes(id) {
        return;
    }
    let Some(settings) = select::settings() else { return };
    let Some(task) = select::current_task(settings) else { return };
    if !select::hopeless(settings, task.mode) {
        task.goroutine = 0;
        begin(task, id, arguments);
    }
}

/// The current thread, if it ever was seen to use a unix socket: only then `close` is looked at.
#[inline(always)]
fn user_of_unix_sockets() -> Option<&'static mut Task> {
    let tid = bpf_get_current_pid_tgid() as u32;
    // SAFETY: a live map value of the current thread.
    TASKS.get_ptr_mut(&tid).map(|task| unsafe { &mut *task }).filter(|task| task.uses_unix != 0)
}

/// After the return the descriptor says nothing any more, so its socket is noted.
#[inline(always)]
fn begin_close(task: &mut Task, fd: u64) {
    if let Some(found) = walk::socket(fd)
        && unix::is_known(found)
    {
        task.number = number::CLOSE + 1;
        task.tx_sock = 0;
        task.rx_sock = 0;
        task.other = found;
    }
}

#[inline(always)]
fn begin(task: &mut Task, id: u64, [fd, buffer, count, fourth, fifth]: [u64; 5]) {
    task.enter_ns = now();
    task.number = id + 1; // 0 means "in no call"
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

/// Whether the call that returns is one that [`on_enter`] may have noted: to look at its number costs every other call of
/// the host less than to look for the thread.
#[inline(always)]
pub fn is_watched<M: Memory>(pt_regs: u64) -> bool {
    let [id] = M::words::<1>(pt_regs + regs::CALL);
    id == number::CLOSE || moves_bytes(id)
}

/// `sys_exit`.
#[inline(always)]
pub fn on_exit(result: i64) -> Next {
    let Some(task) = task_in_call() else { return Next::Nothing };
    sched::runs(task);
    let id = task.number - 1;
    if task.tx_sock == 0 && task.rx_sock == 0 && !comes_again(result) {
        return Next::Elsewhere;
    }
    task.number = 0;
    let Some(settings) = select::settings() else { return Next::Nothing };
    if task.tx_sock != 0 {
        returned_from_send(settings, task, id, result);
    } else if task.rx_sock != 0 {
        returned_from_read(settings, task, id, result);
    }
    task.tx_sock = 0;
    task.rx_sock = 0;
    task.enter_ns = 0;
    Next::Nothing
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
    let next = returned_elsewhere(settings, task, task.number - 1, result);
    if next == Next::Nothing {
        end_call();
    }
    next
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
    if result > 0 && id != number::SENDMMSG {
        task.tx_end = task.tx_start.wrapping_add(result as u32);
    } else if result <= 0 {
        task.tx_end = task.tx_start;
    }
    let transmitted_ns = message::finish_send(conn, task, task.tx_end, time_ns);
    tls::moved(task, direction::SEND, conn.id);
    let by_connection = select::connection_mode(settings, conn);
    if !select::payload(settings, select::combined(task.mode, by_connection)) {
        return; // the slot's record says it all
    }
    let moved = task.tx_end.wrapping_sub(task.tx_start);
    let from = (task.tx_start, task.tx_end);
    tell(
        settings,
        task,
        conn.id,
        Call { id, result, direction: direction::SEND, range: from, moved, selected: true, time_ns, transmitted_ns },
    );
}

#[inline(always)]
fn returned_from_read(settings: &Settings, task: &mut Task, id: u64, result: i64) {
    let Some(conn) = connection::find(task.rx_sock) else { return };
    let time_ns = now();
    // The cursor was not followed before (adopted, or selected only now): the result says how much this call read.
    if result > 0 && id != number::RECVMMSG && task.rx_end.wrapping_sub(task.rx_start) != result as u32 {
        task.rx_start = task.rx_end.wrapping_sub(result as u32);
        task.call_flags |= u32::from(wire::INFERRED_RANGE);
        // What had arrived is of bytes that others may have read long ago.
        task.arrival_softirq_ns = 0;
        task.arrival_first_ns = 0;
        task.arrival_last_ns = 0;
        task.arrival_end = task.rx_start;
    }
    tls::moved(task, direction::RECEIVE, conn.id);
    let by_connection = select::connection_mode(settings, conn);
    let combined = select::combined(task.mode, by_connection);
    if !select::records(combined) {
        return;
    }
    let moved = task.rx_end.wrapping_sub(task.rx_start);
    let range = (task.rx_start, task.rx_end);
    let selected = select::payload(settings, combined);
    let direction = direction::RECEIVE;
    let call = Call { id, result, direction, range, moved, selected, time_ns, transmitted_ns: 0 };
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
    match socket::kind::<offsets::Checked>(found.sk) {
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
        Some(Kind::Tcp) if ended_or_failed(task, id, result) => returned_empty(settings, task, found.sk, id, result),
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

/// A call on a TCP connection that the agent knows moved nothing.
#[inline(always)]
fn returned_empty(settings: &Settings, task: &mut Task, sk: u64, id: u64, result: i64) {
    // A connection that never moved a byte was never told of, and its end says nothing about a request.
    let Some(conn) = connection::find(sk).filter(|conn| conn.flags & flag::ANNOUNCED != 0) else { return };
    let by_connection = select::connection_mode(settings, conn);
    let combined = select::combined(task.mode, by_connection);
    if !select::records(combined) {
        return;
    }
    let time_ns = now();
    let reading = is_read(id);
    if result == 0 {
        task.call_flags |= u32::from(wire::END_OF_STREAM);
    }
    task.arrival_softirq_ns = 0;
    task.arrival_first_ns = 0;
    task.arrival_last_ns = 0;
    let at = if reading { conn.read_cursor } else { offsets::read(sk, &offsets::TCP_WRITE_SEQ).unwrap_or(0) };
    task.arrival_end = at;
    let direction = if reading { direction::RECEIVE } else { direction::SEND };
    let selected = select::payload(settings, combined);
    task.receive_queue = 0;
    task.out_of_order = 0;
    let call = Call { id, result, direction, range: (at, at), moved: 0, selected, time_ns, transmitted_ns: 0 };
    tell(settings, task, conn.id, call);
}

/// A call as it is told.
pub struct Call {
    pub id: u64,
    pub result: i64,
    pub direction: u8,
    pub range: (u32, u32),
    pub moved: u32,
    pub selected: bool,
    pub time_ns: u64,
    /// When the last byte of a write left, if it had by the return.
    pub transmitted_ns: u64,
}

/// Tells of a call, with its payload if that is wanted.
#[inline(always)]
pub fn tell(settings: &Settings, task: &mut Task, connection_id: u64, call: Call) {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own scratch; see `maps::SCRATCH`.
    let scratch = unsafe { &mut *scratch };
    let mut captured = Captured { length: 0, tail: 0 };
    if call.selected && call.moved != 0 && settings.payload_bytes_max != 0 {
        captured = capture(settings, task, scratch, call.id, call.moved);
    }
    let receives = call.direction == direction::RECEIVE;
    let mut flags = task.call_flags as u16;
    if call.selected {
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
        padding: [0; 6],
    };
    let mut length = core::hint::black_box(captured.length + captured.tail);
    if length > (PAYLOAD_BYTES_LIMIT + TAIL_BYTES) as u32 {
        length = (PAYLOAD_BYTES_LIMIT + TAIL_BYTES) as u32; // never; for the verifier
    }
    emit::bytes((scratch as *const Scratch).cast(), size_of::<CallRecord>() as u64 + u64::from(length));
}

struct Captured {
    length: u32,
    tail: u32,
}

const NOTHING: Captured = Captured { length: 0, tail: 0 };

/// Copies the first bytes that moved, and the last few if the middle is left out.
#[inline(always)]
fn capture(settings: &Settings, task: &mut Task, scratch: &mut Scratch, id: u64, moved: u32) -> Captured {
    if id == number::SENDFILE || id == number::SPLICE || task.message_flags & MSG_TRUNC != 0 {
        task.call_flags |= u32::from(wire::NO_BUFFER);
        return NOTHING;
    }
    let first = first_message(task, id, moved);
    scratch.copy = Copy { last_base: 0, last_size: 0, left: first, length: 0, failed: 0 };
    match buffers(task, id) {
        Some((base, count)) => {
            let limit = limit(settings, base, count, moved);
            copy_buffers(limit, scratch, base, count, first);
        }
        None => scratch.copy.failed = 1,
    }
    let copy = volatile(&scratch.copy);
    if copy.failed != 0 {
        task.call_flags |= u32::from(wire::UNREADABLE);
        emit::lost(KernelLoss::PayloadUnreadable);
    }
    if copy.length >= moved {
        return Captured { length: copy.length, tail: 0 };
    }
    task.call_flags |= u32::from(wire::TRUNCATED);
    emit::lost(KernelLoss::PayloadTruncated);
    let tail = if first == moved { copy_tail(scratch, &copy, moved) } else { 0 };
    Captured { length: copy.length, tail }
}

/// How many of the bytes are in the first message's buffers: all, but for `recvmmsg` and `sendmmsg`.
#[inline(always)]
fn first_message(task: &Task, id: u64, moved: u32) -> u32 {
    if id != number::RECVMMSG && id != number::SENDMMSG {
        return moved;
    }
    // mmsghdr: msghdr 56, msg_len 4.
    // SAFETY: the helper checks the address.
    match unsafe { bpf_probe_read_user((task.buffer + 56) as *const u32) } {
        Ok(length) if length < moved => length,
        Ok(_) => moved,
        Err(_) => 0,
    }
}

/// Where the buffers are: a vector of `count`, or one buffer if `count` is `u64::MAX`.
#[inline(always)]
fn buffers(task: &Task, id: u64) -> Option<(u64, u64)> {
    match id {
        number::READ | number::WRITE | number::SENDTO | number::RECVFROM => Some((task.buffer, u64::MAX)),
        number::READV | number::WRITEV | number::PREADV2 | number::PWRITEV2 => Some((task.buffer, task.count)),
        _ => {
            // msghdr: name 8, namelen 4 + 4, iov 8, iovlen 8; mmsghdr starts with one.
            // SAFETY: the helper checks the address.
            let [base, count] = unsafe { bpf_probe_read_user((task.buffer + 16) as *const [u64; 2]).ok()? };
            Some((base, count))
        }
    }
}

/// How much of the call is captured: the configured limit, but as much as there is room for if the call looks as if it began a
/// message of a known protocol: a cut within a head hides where the body ends, and what is pipelined or multiplexed follows.
#[inline(always)]
fn limit(settings: &Settings, base: u64, count: u64, moved: u32) -> u32 {
    if moved <= settings.payload_bytes_max {
        return settings.payload_bytes_max;
    }
    let first = if count == u64::MAX {
        Ok(base)
    } else {
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_user(base as *const u64) }
    };
    first.map_or(settings.payload_bytes_max, |first| limit_at(settings, first))
}

/// The same for bytes at one address.
#[inline(always)]
pub fn limit_at_most(settings: &Settings, first: u64, moved: u32) -> u32 {
    if moved <= settings.payload_bytes_max { settings.payload_bytes_max } else { limit_at(settings, first) }
}

#[inline(always)]
fn limit_at(settings: &Settings, first: u64) -> u32 {
    // SAFETY: the helper checks the address.
    match unsafe { bpf_probe_read_user(first as *const [u8; 4]) } {
        Ok(start) if begins_message(start) => PAYLOAD_BYTES_LIMIT as u32,
        _ => settings.payload_bytes_max,
    }
}

/// Whether these may be the first four bytes of a message. Not sure at all, and it need not be: userspace judges, this only
/// says where capturing more is worth its time. Text that goes on, and compressed or encrypted bytes, hardly ever look like it.
#[inline(always)]
fn begins_message(start: [u8; 4]) -> bool {
    /// HTTP/1 and HTTP/2's preface, memcached, NATS.
    const WORDS: [&[u8; 4]; 22] = [
        b"HTTP", b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI", b"PATC", b"CONN", b"PRI ", b"get ", b"gets",
        b"set ", b"add ", b"VALU", b"STOR", b"PUB ", b"HPUB", b"SUB ", b"MSG ", b"HMSG", b"INFO",
    ];
    let word = u32::from_be_bytes(start);
    let mut found = false;
    for known in WORDS {
        found |= word == u32::from_be_bytes(*known);
    }
    let [first, second, third, _] = start;
    // Lengths of frames: in front (HTTP/2, Kafka), behind a type (PostgreSQL, AMQP), least significant byte first (MySQL, MongoDB).
    found |= first == 0 || second == 0 || third == 0;
    // RESP's arrays, maps, sets, pushes and bulk strings.
    found |= matches!(first, b'*' | b'$' | b'%' | b'~' | b'>') && matches!(second, b'0'..=b'9' | b'-');
    // memcached's binary protocol.
    found | matches!(first, 0x80 | 0x81)
}

/// Copies up to `limit` of the `moved` bytes that are in the buffers; how it went is in `scratch.copy`.
#[inline(always)]
pub fn copy_buffers(limit: u32, scratch: &mut Scratch, base: u64, count: u64, moved: u32) {
    if count == u64::MAX {
        copy_piece(limit, scratch, [base, u64::from(moved)]);
    } else {
        scratch.vector = Vector { base, limit, padding: 0, piece: [0; 2] };
        // A loop of its own for the verifier, which follows a plain one through every buffer and for each way that leads here.
        // SAFETY: the function has the signature that the helper wants.
        unsafe { helpers::bpf_loop(count.min(BUFFERS) as u32, copy_next as *mut c_void, core::ptr::null_mut(), 0) };
    }
    let copy = volatile(&scratch.copy);
    if copy.left != 0 && copy.failed == 0 {
        emit::lost(KernelLoss::TooManyBuffers);
    }
}

/// Copies the buffer at `index` of the scratch's vector; 1 ends the loop.
unsafe extern "C" fn copy_next(index: u64, _: *const c_void) -> i64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return 1 };
    // SAFETY: this CPU's own scratch, which the caller does not touch while it waits here.
    let scratch = unsafe { &mut *scratch };
    if volatile(&scratch.copy).left == 0 {
        return 1;
    }
    let vector = &raw mut scratch.vector;
    // SAFETY: our own scratch; the helper checks the address that it reads from.
    let (limit, read, piece) = unsafe {
        let from = (&raw const (*vector).base).read_volatile() + index * 16;
        let read = helpers::bpf_probe_read_user((&raw mut (*vector).piece).cast(), 16, from as *const c_void);
        ((&raw const (*vector).limit).read_volatile(), read, (&raw const (*vector).piece).read_volatile())
    };
    if read != 0 {
        scratch.copy.failed = 1;
        return 1;
    }
    copy_piece(limit, scratch, piece);
    0
}

#[inline(always)]
fn copy_piece(limit: u32, scratch: &mut Scratch, [base, size]: [u64; 2]) {
    let mut copy = volatile(&scratch.copy);
    let piece = if size < u64::from(copy.left) { size as u32 } else { copy.left };
    copy.left -= piece;
    copy.last_base = base;
    copy.last_size = piece;
    let at = copy.length;
    if at < limit && at < PAYLOAD_BYTES_LIMIT as u32 && copy.failed == 0 {
        let room = limit - at;
        let mut size = if piece < room { piece } else { room };
        if size > PAYLOAD_BYTES_LIMIT as u32 {
            size = PAYLOAD_BYTES_LIMIT as u32; // only if the settings are out of range
        }
        // SAFETY: at < LIMIT and size <= LIMIT, and the payload has twice LIMIT bytes.
        let to = unsafe { scratch.payload.as_mut_ptr().add(at as usize) };
        if size != 0 {
            // SAFETY: as above; the helper checks the source.
            match unsafe { helpers::bpf_probe_read_user(to.cast(), size, base as *const _) } {
                0 => copy.length = at + size,
                _ => copy.failed = 1,
            }
        }
    }
    // SAFETY: our own scratch.
    unsafe { (&raw mut scratch.copy).write_volatile(copy) };
}

/// The last bytes that moved, behind those copied; 0 if they are not in one known piece or were copied already.
#[inline(always)]
fn copy_tail(scratch: &mut Scratch, copy: &Copy, moved: u32) -> u32 {
    let tail = TAIL_BYTES as u32;
    if copy.failed != 0 || copy.left != 0 || copy.last_size < tail || moved - copy.length < tail {
        return 0;
    }
    let from = copy.last_base + u64::from(copy.last_size - tail);
    // Linux 6.1 forgets the bounds of a 32-bit comparison when the value comes back from the stack: compare all 64 bits,
    // on the very value that is used.
    let at = core::hint::black_box(u64::from(copy.length));
    if at > PAYLOAD_BYTES_LIMIT as u64 {
        return 0;
    }
    // SAFETY: at <= LIMIT and tail <= LIMIT, and the payload has twice LIMIT bytes; the helper checks the source.
    let result = unsafe {
        helpers::bpf_probe_read_user(scratch.payload.as_mut_ptr().add(at as usize).cast(), tail, from as *const _)
    };
    if result == 0 { tail } else { 0 }
}

/// The state of the copy as the map has it.
#[inline(always)]
pub fn volatile(copy: &Copy) -> Copy {
    // SAFETY: a live reference.
    unsafe { core::ptr::from_ref(copy).read_volatile() }
}

#[inline(always)]
fn is_read(id: u64) -> bool {
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
