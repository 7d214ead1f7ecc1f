//! Calls of TLS libraries: what the application gave to, or got from, them in clear.
//!
//! A probe at the entry notes session, buffer and length; socket calls that return before the library does, on the same
//! thread or goroutine, say which connection it is; a probe at the return tells. What is read from the library's own buffer moves
//! nothing on a socket: then the session is known from before. An application that reads the socket itself and hands the
//! bytes to the library is known by its thread: the session that is read next, before any other, is the connection's.
//!
//! Other threads are never looked at: what is not known so is counted. Only records are made here; nothing is changed.
//! A thread may lose its CPU within these programs, so nothing is kept per CPU.

use agent_common::{
    header::kind,
    loss::KernelLoss,
    message::{PAYLOAD_BYTES_LIMIT, TAIL_BYTES, WHOLE_PLAINTEXT_BYTES, direction},
    plaintext::{PlaintextRecord, flag as wire, library, watch},
    settings::{Settings, mode, rule},
};
use aya_ebpf::{
    bindings::{BPF_ANY, pt_regs},
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user, generated as helpers},
};

use crate::{
    arch::regs,
    connection,
    emit::{self, now},
    maps::{PlaintextRoom, TLS_GO, TLS_GOROUTINES, TLS_SESSIONS},
    offsets::{self, Checked, Memory},
    payload, select,
    state::{Conn, InProcess, Task, TlsCall, TlsSession},
};

/// What an entry probe has to say.
pub struct Entered {
    pub session: u64,
    pub buffer: u64,
    pub wanted: u32,
    /// Where the library writes how much moved; 0 if it returns it.
    pub moved_at: u64,
    pub direction: u8,
    pub library: u8,
}

impl Entered {
    /// Arguments of C functions: session, buffer, length, and for some where the length that moved is written.
    #[inline(always)]
    pub fn c(registers: &pt_regs, direction: u8, library: u8, has_moved_at: bool) -> Self {
        Self {
            session: registers.rdi,
            buffer: registers.rsi,
            wanted: registers.rdx as u32,
            moved_at: if has_moved_at { registers.rcx } else { 0 },
            direction,
            library,
        }
    }

    /// Arguments of `PR_Writev`: session, buffers, their number. Only the first is looked at.
    #[inline(always)]
    pub fn vector(registers: &pt_regs) -> Option<Self> {
        // SAFETY: the helper checks the address.
        let [buffer, length] = unsafe { bpf_probe_read_user(registers.rsi as *const [u64; 2]) }.ok()?;
        let (session, wanted) = (registers.rdi, length as u32);
        Some(Self { session, buffer, wanted, moved_at: 0, direction: direction::SEND, library: library::NSPR })
    }

    /// Arguments of Go methods: receiver, and a slice (since Go 1.17).
    #[inline(always)]
    pub fn go(registers: &pt_regs, direction: u8) -> Self {
        Self {
            session: registers.rax,
            buffer: registers.rbx,
            wanted: registers.rcx as u32,
            moved_at: 0,
            direction,
            library: library::GO,
        }
    }

    /// The same before Go 1.17: on the stack, above the return address.
    #[inline(always)]
    pub fn go_on_stack(registers: &pt_regs, direction: u8) -> Option<Self> {
        // SAFETY: the helper checks the address.
        let arguments: [u64; 3] = unsafe { bpf_probe_read_user((registers.rsp + 8) as *const [u64; 3]) }.ok()?;
        let [session, buffer, wanted] = arguments;
        Some(Self { session, buffer, wanted: wanted as u32, moved_at: 0, direction, library: library::GO })
    }

    #[inline(always)]
    fn call(&self, stack: u64) -> TlsCall {
        TlsCall {
            enter_ns: now(),
            session: self.session,
            buffer: self.buffer,
            moved_at: self.moved_at,
            stack,
            sock: 0,
            connection_id: 0,
            socket_ns: 0,
            wanted: self.wanted,
            tcp_start: 0,
            tcp_end: 0,
            direction: self.direction,
            library: self.library,
            ambiguous: 0,
            handshake: 0,
        }
    }
}

/// The current thread, if what it does with TLS may be wanted.
#[inline(always)]
fn wanted_task(settings: &Settings) -> Option<&'static mut Task> {
    let task = select::current_task(settings)?;
    let by_connection = settings.rules & (rule::PORT | rule::NETNS) != 0 && task.mode != mode::EXCLUDE;
    (task.mode == mode::PAYLOAD || by_connection).then_some(task)
}

/// A library was entered by a thread.
#[inline(always)]
pub fn on_enter(stack: u64, entered: &Entered) {
    let Some(settings) = select::settings() else { return };
    let Some(task) = wanted_task(settings) else { return };
    let receives = entered.direction == direction::RECEIVE;
    bind_near(task, &in_process(entered.session), 0, receives);
    if task.tls.enter_ns == 0 || stack >= task.tls.stack {
        task.tls = entered.call(stack);
        task.tls_inside.enter_ns = 0;
    } else if task.tls.library != library::NSPR && (task.tls_inside.enter_ns == 0 || stack >= task.tls_inside.stack) {
        task.tls_inside = entered.call(stack);
    }
    // What NSPR calls inside is its own, lower layer.
}

/// A handshake begins or goes on.
#[inline(always)]
pub fn on_handshake(session: u64) {
    let Some(settings) = select::settings() else { return };
    let Some(task) = wanted_task(settings) else { return };
    bind_near(task, &in_process(session), 0, true);
}

/// It returned `result`: bytes, or whether it worked if the bytes are told elsewhere.
#[inline(always)]
pub fn on_return(stack: u64, result: i32) {
    let tid = bpf_get_current_pid_tgid() as u32;
    let Some(task) = crate::maps::TASKS.get_ptr_mut(&tid) else { return };
    // SAFETY: a live map value of the current thread.
    let task = unsafe { &mut *task };
    // The return address is gone from the stack.
    let inside = task.tls_inside.enter_ns != 0 && stack == task.tls_inside.stack + 8;
    if !inside && (task.tls.enter_ns == 0 || stack != task.tls.stack + 8) {
        return;
    }
    let call = if inside { task.tls_inside } else { task.tls };
    task.tls_inside.enter_ns = 0;
    if !inside {
        task.tls.enter_ns = 0;
    }
    let Some(settings) = select::settings() else { return };
    select::renew(settings, task);
    let mut moved = if result > 0 { result as u32 } else { 0 };
    if moved != 0 && call.moved_at != 0 {
        // SAFETY: the helper checks the address.
        moved = unsafe { bpf_probe_read_user(call.moved_at as *const u64) }.unwrap_or(0) as u32;
    }
    returned(settings, task, &call, moved);
}

/// Go's `crypto/tls` was entered by a goroutine.
#[inline(always)]
pub fn on_go_enter(goroutine: u64, entered: &Entered) {
    let Some(settings) = select::settings() else { return };
    if wanted_task(settings).is_none() {
        return;
    }
    // `g.stack` comes first: its bounds tell whether a buffer moves with the stack.
    // SAFETY: the helper checks the address.
    let stack: [u64; 2] = unsafe { bpf_probe_read_user(goroutine as *const [u64; 2]) }.unwrap_or([0; 2]);
    let on_stack = entered.buffer >= stack[0] && entered.buffer < stack[1];
    let call = entered.call(if on_stack { stack[0] } else { 0 });
    if TLS_GOROUTINES.insert(&in_process(goroutine), &call, u64::from(BPF_ANY)).is_err() {
        emit::lost(KernelLoss::TlsTableFull);
    }
}

/// A goroutine begins a handshake. Go reads as much as there is, so the first bytes of the application may be read by it.
#[inline(always)]
pub fn on_go_handshake(goroutine: u64, session: u64) {
    let Some(settings) = select::settings() else { return };
    let key = in_process(goroutine);
    // Inside a read or write it is that call which says the connection.
    if wanted_task(settings).is_none() || TLS_GOROUTINES.get_ptr(&key).is_some() {
        return;
    }
    let entered =
        Entered { session, buffer: 0, wanted: 0, moved_at: 0, direction: direction::RECEIVE, library: library::GO };
    let call = TlsCall { handshake: 1, ..entered.call(0) };
    if TLS_GOROUTINES.insert(&key, &call, u64::from(BPF_ANY)).is_err() {
        emit::lost(KernelLoss::TlsTableFull);
    }
}

/// It is about to return from there: from now on the session is the connection's of which bytes moved.
#[inline(always)]
pub fn on_go_handshaken(goroutine: u64) {
    let key = in_process(goroutine);
    let Some(call) = TLS_GOROUTINES.get_ptr_mut(&key) else { return };
    // SAFETY: a live map value; the goroutine that made it is the current one.
    let call = unsafe { &mut *call };
    if call.handshake == 0 {
        return;
    }
    if call.sock != 0 && call.ambiguous == 0 {
        bind(&in_process(call.session), call.sock, call.connection_id, false);
    }
    let _ = TLS_GOROUTINES.remove(&key);
}

/// It is about to return.
#[inline(always)]
pub fn on_go_return(goroutine: u64, result: i64) {
    let key = in_process(goroutine);
    let Some(call) = TLS_GOROUTINES.get_ptr_mut(&key) else { return };
    // Not copied: Linux 6.1 counts the stack of a program and of what it calls in steps of 32 bytes, 512 in all.
    // SAFETY: a live map value; the goroutine that made it is the current one.
    let call = unsafe { &mut *call };
    go_returned(goroutine, call, result);
    let _ = TLS_GOROUTINES.remove(&key);
}

#[inline(always)]
fn go_returned(goroutine: u64, call: &mut TlsCall, result: i64) {
    let Some(settings) = select::settings() else { return };
    let Some(task) = wanted_task(settings) else { return };
    if call.stack != 0 {
        // SAFETY: the helper checks the address.
        let low: u64 = unsafe { bpf_probe_read_user(goroutine as *const u64) }.unwrap_or(0);
        if low != call.stack {
            call.buffer = 0; // it moved with the stack
        }
    }
    let moved = if result > 0 { result as u32 } else { 0 };
    returned(settings, task, call, moved);
}

#[inline(always)]
fn in_process(address: u64) -> InProcess {
    InProcess { address, pid: bpf_get_current_pid_tgid() >> 32 }
}

/// A socket call of the current thread moved bytes of a TCP connection; it is about to return. `base`: of what it reads the first
/// sequence number, if that is known.
#[inline(always)]
pub fn moved(task: &mut Task, direction: u8, connection_id: u64, base: Option<u32>) {
    let receives = direction == direction::RECEIVE;
    let (sock, start, end) =
        if receives { (task.rx_sock, task.rx_start, task.rx_end) } else { (task.tx_sock, task.tx_start, task.tx_end) };
    let enter_ns = task.enter_ns;
    if task.tls.enter_ns != 0 && task.tls_inside.enter_ns != 0 {
        return note(&mut task.tls_inside, direction, (sock, connection_id), (start, end), enter_ns);
    }
    if task.tls.enter_ns != 0 {
        return note(&mut task.tls, direction, (sock, connection_id), (start, end), enter_ns);
    }
    if let Some(call) = goroutine_call(task.goroutine) {
        return note(call, direction, (sock, connection_id), (start, end), enter_ns);
    }
    if receives {
        if task.near_id != connection_id || task.near_session != 0 {
            task.near_start = start;
            task.near_begins = u32::from(base == Some(start) && begins_tls(task));
        }
        task.near_end = end;
        task.near_sock = sock;
        task.near_id = connection_id;
        task.near_session = 0;
    }
}

/// Whether the first byte that the call read is that of a handshake's record (RFC 8446, 5.1).
#[inline(always)]
fn begins_tls(task: &Task) -> bool {
    const HANDSHAKE: u8 = 22;
    // SAFETY: the helper checks the address.
    payload::first_buffer(task).is_some_and(|at| unsafe { bpf_probe_read_user(at as *const u8) } == Ok(HANDSHAKE))
}

/// A system call begins: which goroutine makes it? Go keeps it in a register (since 1.17), or the thread's own memory has it.
#[inline(always)]
pub fn note_goroutine(task: &mut Task, pt_regs: u64) {
    // SAFETY: a live map value.
    let watched = TLS_GO.get_ptr(0).map_or(0, |watched| unsafe { *watched });
    task.goroutine = 0;
    if watched & watch::REGISTER != 0 {
        task.goroutine = offsets::read_at(pt_regs + regs::GOROUTINE).unwrap_or(0);
    }
    if watched & watch::STACK != 0 && goroutine_call(task.goroutine).is_none() {
        task.goroutine = goroutine_of_thread().unwrap_or(0);
    }
}

/// The current goroutine, where Go before 1.17 keeps it: below the thread's own memory (runtime/asm_amd64.s: `settls`).
#[inline(always)]
pub fn goroutine_of_thread() -> Option<u64> {
    // SAFETY: always there.
    let task = unsafe { helpers::bpf_get_current_task() };
    let base = Checked::read_optional::<u64>(task, &offsets::TASK_FSBASE).filter(|base| *base != 0)?;
    user_word(base - 8)
}

/// A word of the application's.
#[inline(always)]
pub fn user_word(address: u64) -> Option<u64> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user(address as *const u64) }.ok()
}

/// The call that it is in.
#[inline(always)]
fn goroutine_call(goroutine: u64) -> Option<&'static mut TlsCall> {
    if goroutine == 0 {
        return None;
    }
    // SAFETY: a live map value; the goroutine that made it is the current one.
    TLS_GOROUTINES.get_ptr_mut(&in_process(goroutine)).map(|call| unsafe { &mut *call })
}

#[inline(always)]
fn note(call: &mut TlsCall, direction: u8, (sock, id): (u64, u64), (start, end): (u32, u32), socket_ns: u64) {
    if call.sock == 0 {
        call.sock = sock;
        call.connection_id = id;
    } else if call.connection_id != id {
        call.ambiguous = 1;
        return;
    }
    call.socket_ns = socket_ns;
    if direction == call.direction {
        if call.tcp_start == call.tcp_end {
            call.tcp_start = start;
        }
        call.tcp_end = end;
    }
}

/// A call returned, with `moved` bytes of plaintext.
#[inline(always)]
fn returned(settings: &Settings, task: &mut Task, call: &TlsCall, moved: u32) {
    let receives = call.direction == direction::RECEIVE;
    let key = in_process(call.session);
    let inside = call.sock != 0 && call.ambiguous == 0;
    if inside {
        bind(&key, call.sock, call.connection_id, false);
    } else if receives && call.library != library::GO {
        bind_near(task, &key, moved, true); // a goroutine is no thread, and reads the socket itself
    }
    if moved == 0 && !inside {
        return;
    }
    let Some((session, conn)) = known(&key) else {
        if moved != 0 && call.library != library::NSPR {
            emit::lost(KernelLoss::TlsConnectionUnknown);
        }
        return;
    };
    let start = if receives { session.received } else { session.sent };
    let end = start.wrapping_add(moved);
    if receives {
        session.received = end;
    } else {
        session.sent = end;
    }
    let by_connection = select::connection_mode(settings, conn);
    let combined = select::combined(task.mode, by_connection);
    if connection::sampled_out(conn) || !select::payload(settings, combined) {
        return;
    }
    let flags = if inside {
        wire::INSIDE
    } else if session.near != 0 {
        wire::NEAR
    } else {
        0
    };
    let mut tcp = (call.tcp_start, call.tcp_end);
    if flags == wire::NEAR && receives && task.near_id == conn.id {
        tcp = (task.near_start, task.near_end);
    }
    tell(settings, task.pid, call, Told { tcp, connection_id: conn.id, start, end, moved, flags });
}

/// The session's connection, if it still is there.
#[inline(always)]
fn known(key: &InProcess) -> Option<(&'static mut TlsSession, &'static mut Conn)> {
    // SAFETY: a live map value; a session is used by one thread at a time.
    let session = TLS_SESSIONS.get_ptr_mut(key).map(|session| unsafe { &mut *session })?;
    let conn = connection::find(session.sock).filter(|conn| conn.id == session.connection_id)?;
    Some((session, conn))
}

/// From now on the session is this connection's.
#[inline(always)]
fn bind(key: &InProcess, sock: u64, connection_id: u64, near: bool) {
    if let Some(session) = TLS_SESSIONS.get_ptr_mut(key) {
        // SAFETY: a live map value.
        let session = unsafe { &mut *session };
        if session.connection_id == connection_id {
            session.near &= u32::from(near);
            return;
        }
    }
    let Some(conn) = connection::find(sock).filter(|conn| conn.id == connection_id) else { return };
    conn.tls = InProcess { address: key.address, pid: key.pid };
    let session = TlsSession { sock, connection_id, sent: 0, received: 0, near: u32::from(near), padding: 0 };
    if TLS_SESSIONS.insert(key, &session, u64::from(BPF_ANY)).is_err() {
        emit::lost(KernelLoss::TlsTableFull);
    }
}

/// The application reads sockets itself: the first session that is used after a connection was read is that connection's. What
/// was believed before is given up only by bytes, while there were none, or by a connection's very first bytes, if they are of TLS:
/// those begin a session, at an address where another one may have been. What is known by bytes inside a call is never given up so,
/// as long as that connection is there.
#[inline(always)]
fn bind_near(task: &mut Task, key: &InProcess, moved: u32, receives: bool) {
    if task.near_sock == 0 || (task.near_session != 0 && task.near_session != key.address) {
        return;
    }
    task.near_session = key.address;
    let Some(conn) = connection::find(task.near_sock).filter(|conn| conn.id == task.near_id) else { return };
    let begins = receives && task.near_begins != 0;
    let others = conn.tls.address != 0 && conn.tls.address != key.address;
    if others && moved == 0 && !begins {
        return;
    }
    // SAFETY: a live map value.
    let believed = TLS_SESSIONS.get_ptr(key).map(|session| unsafe { *session });
    let keeps = believed.is_some_and(|session| {
        let another = session.connection_id != task.near_id;
        session.near == 0 || (!(begins && another) && moved == 0 && session.sent | session.received != 0)
    });
    if !keeps || known(key).is_none() {
        bind(key, task.near_sock, task.near_id, true);
    }
}

/// The connection goes, and with it what is known of its session.
#[inline(always)]
pub fn forget(sock: u64, conn: &Conn) {
    if conn.tls.address == 0 {
        return;
    }
    let key = InProcess { address: conn.tls.address, pid: conn.tls.pid };
    // SAFETY: a live map value. It may be another connection's by now.
    if TLS_SESSIONS
        .get_ptr(&key)
        .is_some_and(|session| unsafe { (*session).sock == sock && (*session).connection_id == conn.id })
    {
        let _ = TLS_SESSIONS.remove(&key);
    }
}

/// What is told of a call beside the call itself.
struct Told {
    connection_id: u64,
    start: u32,
    end: u32,
    moved: u32,
    flags: u16,
    /// Bytes of the connection that moved inside the call, or, if it is known by the read before, that did then.
    tcp: (u32, u32),
}

/// Takes as little room as the payload needs: it is copied where it is read from.
#[inline(always)]
fn tell(settings: &Settings, pid: u32, call: &TlsCall, told: Told) {
    // Of several buffers only the first is known.
    let mut wanted = if call.wanted < told.moved { call.wanted } else { told.moved };
    if wanted != 0 {
        let limit = match settings.payload_bytes_max {
            0 => 0,
            _ => payload::plaintext_limit(settings, told.connection_id, call.buffer, wanted),
        };
        if wanted > limit {
            wanted = limit;
        }
    }
    if wanted <= 256 {
        tell_in::<256>(pid, call, &told, wanted);
    } else if wanted <= 1024 {
        tell_in::<1024>(pid, call, &told, wanted);
    } else if wanted <= PAYLOAD_BYTES_LIMIT as u32 {
        tell_in::<PAYLOAD_BYTES_LIMIT>(pid, call, &told, wanted);
    } else {
        tell_in::<WHOLE_PLAINTEXT_BYTES>(pid, call, &told, wanted);
    }
}

#[inline(always)]
fn tell_in<const N: usize>(pid: u32, call: &TlsCall, told: &Told, wanted: u32) {
    let header = emit::header(kind::PLAINTEXT, now());
    emit::record::<PlaintextRoom<N>>(|room| {
        let mut flags = told.flags;
        // SAFETY: `room` is the reserved entry of exactly this size.
        let payload = unsafe { (&raw mut (*room).payload).cast::<u8>() };
        let mut length = core::hint::black_box(u64::from(wanted));
        if length > N as u64 {
            length = N as u64; // never; for the verifier
        }
        // SAFETY: the payload has `N` bytes; the helper checks the source.
        if length != 0
            && unsafe { helpers::bpf_probe_read_user(payload.cast(), length as u32, call.buffer as *const _) } != 0
        {
            flags |= wire::UNREADABLE;
            length = 0;
            emit::lost(KernelLoss::PayloadUnreadable);
        }
        let mut tail = 0;
        let hidden = told.moved.wrapping_sub(length as u32);
        if hidden != 0 {
            flags |= wire::TRUNCATED;
            emit::lost(KernelLoss::PayloadTruncated);
            if length != 0 && hidden >= TAIL_BYTES as u32 && told.moved <= call.wanted {
                let from = call.buffer + u64::from(told.moved - TAIL_BYTES as u32);
                // Not behind what was copied: Linux 6.1 does not follow the bounds of such an address.
                // SAFETY: the tail is part of the reserved entry; the helper checks the source.
                let result = unsafe {
                    helpers::bpf_probe_read_user((&raw mut (*room).tail).cast(), TAIL_BYTES as u32, from as *const _)
                };
                if result == 0 {
                    tail = TAIL_BYTES as u16;
                }
            }
        }
        let record = PlaintextRecord {
            header,
            connection_id: told.connection_id,
            session: call.session,
            enter_ns: call.enter_ns,
            socket_ns: call.socket_ns,
            start: told.start,
            end: told.end,
            tcp_start: told.tcp.0,
            tcp_end: told.tcp.1,
            wanted: call.wanted,
            pid,
            tid: bpf_get_current_pid_tgid() as u32,
            flags,
            payload_len: length as u16 + tail,
            tail_len: tail,
            direction: call.direction,
            library: call.library,
            tail_at: N as u16,
            padding: [0; 2],
        };
        // SAFETY: as above.
        unsafe { (&raw mut (*room).record).write(record) }
    });
}
