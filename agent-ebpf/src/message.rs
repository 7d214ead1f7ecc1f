//! Bytes on their way: write calls until they are acknowledged, arrivals until they are read.
//!
//! All hooks here hold the socket lock, so they may open, move and retire slots.

use agent_common::{
    header::kind,
    loss::KernelLoss,
    message::{ArrivalRecord, CallRecord, SendRecord, direction, flag as wire},
    sched::{BLOCKED, NEVER_SLEPT},
    settings::mode,
};
use aya_ebpf::helpers::bpf_get_current_pid_tgid;

use crate::{
    call,
    connection::{self, tcp as state},
    device,
    emit::{self, now},
    ktls::{self, Reader, Way},
    offsets::{self, Memory},
    sched, select, snapshot, softirq,
    state::{Conn, RxSlot, SLOTS, Task, TxSlot, flag},
};

/// Takes a slot's number to its place.
pub const MASK: u32 = SLOTS - 1;
const TCP_FLAG_FIN: u8 = 1;

/// Whether sequence number `a` is at or after `b`.
#[inline(always)]
pub fn reached(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 >= 0
}

/// `tcp_sendmsg_locked`: TCP takes bytes of a write call. `left` bytes of the call are still to come.
///
/// Fires once per call (function entry) or, if `each_piece`, per chunk and retry (tracepoint): the sequence number at which
/// the call would end is the same for all firings of one call, unless another writer came between.
#[inline(always)]
pub fn on_send<M: Memory>(sk: u64, left: u32, each_piece: bool) {
    let Some(settings) = select::settings() else { return };
    let Some(task) = select::task_inside(settings) else { return };
    if select::hopeless(settings, task.mode) {
        return;
    }
    call::notice(task, true, now); // here, where the program's stack has room for it
    let Some(tcp) = M::tcp(sk) else { return };
    let Some(conn) = connection::find_or_adopt::<M>(sk, tcp) else { return };
    let by_connection = select::connection_mode(settings, conn);
    let combined = select::combined(task.mode, by_connection);
    if !select::records(combined) || connection::sampled_out(conn) {
        return;
    }
    let time_ns = now();
    connection::announce::<M>(tcp, conn);
    if conn.flags & flag::CURSOR == 0 {
        set_cursor::<M>(tcp, conn);
    }
    let start = M::read::<u32>(tcp, &offsets::TCP_WRITE_SEQ);
    let end = start.wrapping_add(left);
    let tid = bpf_get_current_pid_tgid() as u32;
    let outside = task.number == 0;
    if conn.tx_head != conn.tx_tail {
        let busy_ns = device::queue_busy(conn, time_ns);
        let last = &mut conn.tx[((conn.tx_head.wrapping_sub(1)) & MASK) as usize];
        let same = if outside {
            last.flags & u32::from(wire::OUTSIDE_CALL) != 0
        } else {
            last.tid == tid && task.tx_sock == sk
        };
        if same && last.end == end {
            // The next chunk of the same call.
            if each_piece {
                last.locked_last_ns = time_ns;
                last.queue_before_last_ns = busy_ns.saturating_sub(last.queue_base_ns);
            }
            return;
        }
        if !reached(start, last.end) {
            last.end = start; // that call was cut short, or continues behind this one
        }
    } else {
        // Nothing is in flight, so nothing is in the device's queue either.
        conn.queued_end = start;
        conn.queue_since_ns = 0;
    }
    if conn.tx_head.wrapping_sub(conn.tx_tail) >= SLOTS {
        emit::lost(KernelLoss::SendSlotEvicted);
        snapshot::take::<M>(tcp, conn, time_ns);
        retire(conn, 0, time_ns, u32::from(wire::EVICTED));
    }
    if !outside {
        note_send(task, sk, conn.tx_head, (start, end));
        if ktls::is_layered::<M>(tcp) {
            ktls::note(task);
        }
    }
    let retrans = M::read(tcp, &offsets::TCP_TOTAL_RETRANS);
    let zero_window_us = snapshot::closed_us::<M>(tcp, conn, time_ns);
    let locked_last_ns = if each_piece { time_ns } else { 0 };
    let slot = TxSlot { tid, start, end, retrans, zero_window_us, locked_ns: time_ns, locked_last_ns, ..EMPTY_TX };
    open_tx(conn, task, slot);
    if outside && combined == mode::PAYLOAD {
        let by_kernel = ktls::is_layered::<M>(tcp) && ktls::has_keys(sk, Way::Out);
        let moved = Outside { direction: direction::SEND, start, end, selected: true, by_kernel, time_ns };
        tell_outside(task, conn.id, &moved);
    }
}

/// The call in progress moves `[start, end)`, in the slot `index`.
#[inline(always)]
fn note_send(task: &mut Task, sk: u64, index: u32, (start, end): (u32, u32)) {
    if task.tx_sock != sk {
        task.tx_sock = sk;
        task.tx_start = start;
    } else if task.tx_end != start {
        task.call_flags |= u32::from(wire::INTERLEAVED);
        emit::lost(KernelLoss::WriteInterleaved);
    }
    task.tx_end = end;
    task.tx_index = index;
}

const EMPTY_TX: TxSlot = TxSlot {
    enter_ns: 0,
    locked_ns: 0,
    locked_last_ns: 0,
    done_ns: 0,
    queued_ns: 0,
    transmitted_ns: 0,
    run_queue_ns: 0,
    queue_base_ns: 0,
    queue_before_last_ns: 0,
    queue_ns: 0,
    start: 0,
    end: 0,
    pid: 0,
    tid: 0,
    retrans: 0,
    index: 0,
    flags: 0,
    zero_window_us: 0,
};

#[inline(always)]
fn open_tx(conn: &mut Conn, task: &Task, slot: TxSlot) {
    let outside = task.number == 0;
    let mut flags = if sched::complete(task) { u32::from(wire::SCHED) } else { 0 };
    if outside {
        flags = u32::from(wire::OUTSIDE_CALL);
    }
    conn.tx[(conn.tx_head & MASK) as usize] = TxSlot {
        enter_ns: if outside { 0 } else { task.enter_ns },
        run_queue_ns: if outside { 0 } else { task.run_queue_enter_ns },
        queue_base_ns: device::queue_busy(conn, slot.locked_ns),
        pid: task.pid,
        index: conn.tx_head,
        flags,
        ..slot
    };
    conn.tx_head = conn.tx_head.wrapping_add(1);
}

/// Reading starts at the stream's base, or, for a connection older than the agent, where it is now.
#[inline(always)]
fn set_cursor<M: Memory>(tcp: u64, conn: &mut Conn) {
    conn.read_cursor =
        if conn.flags & flag::PREEXISTING == 0 { conn.receive_base } else { M::read(tcp, &offsets::TCP_COPIED_SEQ) };
    conn.flags |= flag::CURSOR;
}

/// `tcp_probe`: a segment arrived on an established connection, before TCP acts on it.
#[inline(always)]
pub fn on_segment<M: Memory>(sk: u64, skb: u64) {
    let Some(conn) = connection::find(sk) else { return };
    let Some(tcp) = M::tcp(sk) else { return };
    if is_unwanted::<M>(tcp, conn) {
        return snapshot::window_unknown(conn);
    }
    let cb = skb + u64::from(offsets::SKB_CB.load());
    let seq = M::read::<u32>(cb, &offsets::CB_SEQ);
    let end = M::read::<u32>(cb, &offsets::CB_END_SEQ);
    let ack = M::read::<u32>(cb, &offsets::CB_ACK_SEQ);
    let tcp_flags = M::read::<u8>(cb, &offsets::CB_TCP_FLAGS);
    let end = end.wrapping_sub(u32::from(tcp_flags & TCP_FLAG_FIN));
    let time_ns = now();
    let carries_data = end != seq;
    snapshot::watch_window(conn, M::read_optional(tcp, &offsets::TCP_SND_WND).unwrap_or(1), time_ns);
    acknowledge::<M>(tcp, conn, ack, time_ns, carries_data);
    if carries_data {
        // What was in order before this segment.
        let in_order = M::read::<u32>(tcp, &offsets::TCP_RCV_NXT);
        let opens = conn.rx_head;
        arrive::<M>(tcp, conn, (seq, end), in_order, time_ns);
        if conn.rx_head != opens {
            conn.rx[(opens & MASK) as usize].softirq_ns = softirq::raised::<M>(tcp);
        }
    }
}

/// Whether a process that nobody selected reads the connection: bytes were taken, and nothing was told of it. When further ones
/// arrive is not noted.
#[inline(always)]
fn is_unwanted<M: Memory>(tcp: u64, conn: &Conn) -> bool {
    conn.flags & flag::ANNOUNCED == 0
        && conn.tx_head == conn.tx_tail
        && conn.rx_head != conn.rx_tail
        && reached(M::read(tcp, &offsets::TCP_COPIED_SEQ), conn.rx[(conn.rx_tail & MASK) as usize].end)
}

/// `sk_data_ready` where `tcp_probe` is silent: after this end closed its sending side. `[.., rcv_nxt)` is there.
#[inline(always)]
pub fn on_ready<M: Memory>(sk: u64) {
    let state = M::read::<u8>(sk, &offsets::SK_STATE);
    if state == state::ESTABLISHED {
        return;
    }
    let Some(conn) = connection::find(sk) else { return };
    let Some(tcp) = M::tcp(sk) else { return };
    let next = M::read::<u32>(tcp, &offsets::TCP_RCV_NXT);
    let copied = M::read::<u32>(tcp, &offsets::TCP_COPIED_SEQ);
    // In the other states the peer's FIN was received, and has a number of its own.
    let fin = u32::from(state != state::FIN_WAIT1 && state != state::FIN_WAIT2);
    let end = next.wrapping_sub(fin);
    let known =
        if conn.rx_head == conn.rx_tail { copied } else { conn.rx[(conn.rx_head.wrapping_sub(1) & MASK) as usize].end };
    if !reached(known, end) {
        arrive::<M>(tcp, conn, (known, end), known, now());
    }
}

#[inline(always)]
fn acknowledge<M: Memory>(tcp: u64, conn: &mut Conn, ack: u32, time_ns: u64, carries_data: bool) {
    let flags = if carries_data { u32::from(wire::PIGGYBACKED) } else { 0 };
    if !acknowledges_oldest(conn, ack) {
        return;
    }
    // Read once: in the loop its outcomes would multiply per slot, beyond what Linux 6.1 verifies.
    snapshot::take::<M>(tcp, conn, time_ns);
    for _ in 0..SLOTS {
        if !acknowledges_oldest(conn, ack) {
            return;
        }
        retire(conn, time_ns, time_ns, flags);
    }
}

/// Whether there is a write call in flight, and its last byte is acknowledged.
#[inline(always)]
fn acknowledges_oldest(conn: &Conn, ack: u32) -> bool {
    conn.tx_tail != conn.tx_head && reached(ack, conn.tx[(conn.tx_tail & MASK) as usize].end)
}

/// Tells of the oldest write call and frees its slot.
#[inline(always)]
fn retire(conn: &mut Conn, acked_ns: u64, time_ns: u64, flags: u32) {
    let tcp = snapshot::taken(conn);
    let slot: &TxSlot = &conn.tx[(conn.tx_tail & MASK) as usize];
    let header = emit::header(kind::SEND, time_ns);
    let id = conn.id;
    emit::record::<SendRecord>(|record| {
        let value = SendRecord {
            header,
            connection_id: id,
            enter_ns: slot.enter_ns,
            locked_ns: slot.locked_ns,
            locked_last_ns: slot.locked_last_ns,
            done_ns: slot.done_ns,
            queued_ns: slot.queued_ns,
            queue_ns: slot.queue_ns,
            queue_before_last_ns: slot.queue_before_last_ns,
            transmitted_ns: slot.transmitted_ns,
            acked_ns,
            run_queue_enter_ns: slot.run_queue_ns,
            start: slot.start,
            end: slot.end,
            pid: slot.pid,
            tid: slot.tid,
            retransmits: tcp.total_retrans.wrapping_sub(slot.retrans),
            flags: (slot.flags | flags) as u16,
            padding: 0,
            zero_window_us: tcp.zero_window_us.saturating_sub(slot.zero_window_us),
            reserved: 0,
            tcp,
        };
        // SAFETY: `record` is the reserved entry of exactly this size.
        unsafe { record.write(value) }
    });
    conn.tx_tail = conn.tx_tail.wrapping_add(1);
}

/// The socket goes: no acknowledgement will be seen any more.
#[inline(always)]
pub fn retire_all<M: Memory>(tcp: u64, conn: &mut Conn, time_ns: u64) {
    if conn.tx_tail == conn.tx_head {
        return;
    }
    snapshot::take::<M>(tcp, conn, time_ns); // once, as above
    for _ in 0..SLOTS {
        if conn.tx_tail == conn.tx_head {
            return;
        }
        retire(conn, 0, time_ns, u32::from(wire::DESTROYED));
    }
}

/// Notes when bytes arrived; `in_order` is the next byte that TCP waits for. The slots stay in sequence order and without
/// holes between them: a slot that begins after a hole covers the hole. A slot beyond `in_order` cannot be read yet, so
/// its time of completeness is that of the latest segment that may have filled what was missing before it, and so is the time
/// at which its first byte can be read.
#[inline(always)]
fn arrive<M: Memory>(tcp: u64, conn: &mut Conn, (seq, end): (u32, u32), in_order: u32, time_ns: u64) {
    if reached(in_order, end) {
        return; // known already
    }
    let hole = if reached(in_order, seq) { 0 } else { u32::from(wire::OUT_OF_ORDER) };
    if conn.rx_head == conn.rx_tail {
        open_rx(conn, in_order, end, time_ns, hole);
        return;
    }
    let known_end = conn.rx[(conn.rx_head.wrapping_sub(1) & MASK) as usize].end;
    let beyond = !reached(known_end, end);
    if !beyond || (!reached(in_order, known_end) && reached(in_order, seq)) {
        if beyond {
            // Sent again together with what follows: all of it is in order now.
            conn.rx[(conn.rx_head.wrapping_sub(1) & MASK) as usize].end = end;
        }
        fill(conn, in_order, time_ns);
        return;
    }
    if conn.rx_head.wrapping_sub(conn.rx_tail) >= SLOTS {
        // Whose reads are not followed any more keeps nothing.
        forget_arrivals(conn, M::read(tcp, &offsets::TCP_COPIED_SEQ));
    }
    if conn.rx_head.wrapping_sub(conn.rx_tail) >= SLOTS {
        let last: &mut RxSlot = &mut conn.rx[(conn.rx_head.wrapping_sub(1) & MASK) as usize];
        last.end = end;
        last.last_ns = time_ns;
        last.flags |= u32::from(wire::MERGED) | hole;
        if conn.flags & flag::ANNOUNCED != 0 {
            emit::lost(KernelLoss::ArrivalMerged); // of others nobody will ever ask
        }
        return;
    }
    let late = if reached(known_end, seq) { 0 } else { u32::from(wire::OUT_OF_ORDER) };
    open_rx(conn, known_end, end, time_ns, late);
}

/// A retransmission, perhaps of what was missing.
#[inline(always)]
fn fill(conn: &mut Conn, in_order: u32, time_ns: u64) {
    for step in 0..SLOTS {
        let index = conn.rx_tail.wrapping_add(step);
        if index == conn.rx_head {
            return;
        }
        let slot = &mut conn.rx[(index & MASK) as usize];
        if !reached(in_order, slot.end) {
            slot.last_ns = time_ns;
            slot.flags |= u32::from(wire::OUT_OF_ORDER);
            if reached(slot.start, in_order) {
                slot.behind_hole_us = (time_ns.wrapping_sub(slot.first_ns) / 1000) as u32;
            }
        }
    }
}

#[inline(always)]
fn open_rx(conn: &mut Conn, start: u32, end: u32, time_ns: u64, flags: u32) {
    conn.rx[(conn.rx_head & MASK) as usize] =
        RxSlot { softirq_ns: 0, first_ns: time_ns, last_ns: time_ns, start, end, flags, behind_hole_us: 0 };
    conn.rx_head = conn.rx_head.wrapping_add(1);
}

/// `tcp_rcv_space_adjust`: bytes were copied to the current task; also fires when nothing was consumed (`MSG_PEEK`).
#[inline(always)]
pub fn on_read<M: Memory>(sk: u64) {
    let Some(settings) = select::settings() else { return };
    let Some(task) = select::task_inside(settings) else { return };
    if select::hopeless(settings, task.mode) {
        return;
    }
    let Some(tcp) = M::tcp(sk) else { return };
    // Who interrupts the thread to read does not own the socket.
    if M::read_optional::<u32>(tcp, &offsets::SK_OWNED).is_none_or(|owned| owned != 0) {
        call::notice(task, true, now);
    }
    let by_kernel = ktls::is_layered::<M>(tcp) && ktls::has_keys(sk, Way::In);
    if by_kernel && ktls::reader(task, sk) == Reader::Layer {
        return; // told when the application reads
    }
    let Some(conn) = connection::find_or_adopt::<M>(sk, tcp) else { return };
    let by_connection = select::connection_mode(settings, conn);
    let combined = select::combined(task.mode, by_connection);
    let copied = M::read::<u32>(tcp, &offsets::TCP_COPIED_SEQ);
    let wanted = select::records(combined) && !connection::sampled_out(conn);
    if wanted {
        connection::announce::<M>(tcp, conn);
    }
    let Some(start) = advance(task, conn, copied, wanted) else { return };
    let outside = task.number == 0;
    if outside || task.rx_sock != sk {
        task.rx_sock = sk;
        task.rx_start = start;
        task.arrival_end = start;
        task.forget_arrival();
        task.receive_queue = arrived::<M>(tcp).wrapping_sub(start);
        task.out_of_order = M::read_optional(tcp, &offsets::TCP_RCV_OOOPACK).unwrap_or(0);
    }
    task.rx_end = copied;
    if outside {
        task.call_flags = 0;
    }
    if by_kernel {
        ktls::note(task);
    }
    consume(task, conn, copied, wanted);
    if outside {
        task.rx_sock = 0;
        if wanted {
            emit::lost(KernelLoss::ReadOutsideCall);
            let selected = combined == mode::PAYLOAD;
            let (direction, time_ns) = (direction::RECEIVE, now());
            let moved = Outside { direction, start, end: copied, selected, by_kernel, time_ns };
            tell_outside(task, conn.id, &moved);
        }
    }
}

/// Moves the read cursor to `copied`; where it was, if it moved.
#[inline(always)]
fn advance(task: &Task, conn: &mut Conn, copied: u32, wanted: bool) -> Option<u32> {
    let known = conn.flags & flag::CURSOR != 0 || conn.flags & flag::PREEXISTING == 0;
    if conn.flags & flag::CURSOR == 0 {
        conn.read_cursor = if known && wanted { conn.receive_base } else { copied };
        conn.flags |= flag::CURSOR;
    }
    let start = conn.read_cursor;
    if start == copied && (known || task.message_flags & call::MSG_PEEK != 0) {
        return None;
    }
    conn.read_cursor = copied;
    Some(start)
}

/// Just past the last byte that arrived in order.
#[inline(always)]
fn arrived<M: Memory>(tcp: u64) -> u32 {
    let next = M::read::<u32>(tcp, &offsets::TCP_RCV_NXT);
    let state = M::read::<u8>(tcp, &offsets::SK_STATE);
    let open = state == state::ESTABLISHED || state == state::FIN_WAIT1 || state == state::FIN_WAIT2;
    next.wrapping_sub(u32::from(!open)) // the FIN has a number of its own
}

/// Describes and frees the arrivals that end before `copied`.
#[inline(always)]
fn consume(task: &mut Task, conn: &mut Conn, copied: u32, wanted: bool) {
    for _ in 0..SLOTS {
        if conn.rx_tail == conn.rx_head {
            return;
        }
        let slot = conn.rx[(conn.rx_tail & MASK) as usize];
        if reached(slot.start, copied) {
            return;
        }
        if wanted {
            describe_arrival(task, conn.id, &slot);
        }
        if !reached(copied, slot.end) {
            // The rest of it is read later. If nothing more is there, it waits for what is missing at its begin.
            conn.rx[(conn.rx_tail & MASK) as usize].start = copied;
            return;
        }
        conn.rx_tail = conn.rx_tail.wrapping_add(1);
    }
}

/// What arrived before `read` was read by now, and nothing is told of it.
#[inline(always)]
fn forget_arrivals(conn: &mut Conn, read: u32) {
    for _ in 0..SLOTS {
        if conn.rx_tail == conn.rx_head || !reached(read, conn.rx[(conn.rx_tail & MASK) as usize].end) {
            return;
        }
        conn.rx_tail = conn.rx_tail.wrapping_add(1);
    }
}

/// Bytes that moved while the thread was in no call that moves bytes.
struct Outside {
    direction: u8,
    start: u32,
    end: u32,
    selected: bool,
    by_kernel: bool,
    time_ns: u64,
}

/// io_uring, and readers in the kernel: neither entry nor return nor payload is known.
#[inline(always)]
fn tell_outside(task: &Task, connection_id: u64, moved: &Outside) {
    let receives = moved.direction == direction::RECEIVE;
    let header = emit::header(kind::CALL, moved.time_ns);
    let tid = bpf_get_current_pid_tgid() as u32;
    let mut flags = wire::OUTSIDE_CALL;
    if receives {
        flags |= task.call_flags as u16;
    }
    if moved.selected {
        flags |= wire::SELECTED;
    }
    if moved.by_kernel {
        flags |= wire::KERNEL_TLS;
    }
    emit::record::<CallRecord>(|record| {
        let value = CallRecord {
            header,
            connection_id,
            enter_ns: 0,
            softirq_ns: 0,
            arrival_first_ns: if receives { task.arrival_first_ns } else { 0 },
            arrival_last_ns: if receives { task.arrival_last_ns } else { 0 },
            woken_ns: 0,
            running_ns: 0,
            run_queue_enter_ns: 0,
            run_queue_exit_ns: 0,
            throttled_enter_ns: 0,
            throttled_exit_ns: 0,
            unseen_enter_ns: 0,
            unseen_exit_ns: 0,
            queued_from_ns: 0,
            queued_until_ns: 0,
            queued_throttled_ns: 0,
            off_cpu_ns: [0; BLOCKED],
            off_cpu_inside_ns: 0,
            transmitted_ns: 0,
            cgroup_id: task.cgroup_id,
            start: moved.start,
            end: moved.end,
            arrival_end: if receives { task.arrival_end } else { moved.start },
            result: moved.end.wrapping_sub(moved.start) as i32,
            receive_queue: if receives { task.receive_queue } else { 0 },
            out_of_order: if receives { task.out_of_order } else { 0 },
            pid: task.pid,
            tid,
            flags,
            payload_len: 0,
            tail_len: 0,
            syscall: u16::MAX,
            direction: moved.direction,
            slept_in: NEVER_SLEPT,
            is_selected: u8::from(moved.selected),
            padding: 0,
            behind_hole_us: if receives { task.behind_hole_us } else { 0 },
        };
        // SAFETY: `record` is the reserved entry of exactly this size.
        unsafe { record.write(value) }
    });
}

/// The first arrival of a call travels in the call's own record, further ones in theirs.
#[inline(always)]
fn describe_arrival(task: &mut Task, connection_id: u64, slot: &RxSlot) {
    if task.arrival_first_ns == 0 {
        task.arrival_softirq_ns = slot.softirq_ns;
        task.arrival_first_ns = slot.first_ns;
        task.arrival_last_ns = slot.last_ns;
        task.behind_hole_us = slot.behind_hole_us;
        task.arrival_end = slot.end;
        task.call_flags |= slot.flags;
        return;
    }
    if slot.end == task.arrival_end {
        return; // the same slot, at the next firing of the same call
    }
    tell_arrival(connection_id, slot, slot.start);
}

/// The application closes: tells when the first bytes arrived that it did not read, if there are any.
#[inline(always)]
pub fn tell_unread<M: Memory>(tcp: u64, conn: &mut Conn) {
    let copied = M::read::<u32>(tcp, &offsets::TCP_COPIED_SEQ);
    forget_arrivals(conn, copied);
    if conn.rx_tail == conn.rx_head {
        return;
    }
    let slot = conn.rx[(conn.rx_tail & MASK) as usize];
    // Before a hole nothing could be read.
    if !reached(slot.start, M::read(tcp, &offsets::TCP_RCV_NXT)) {
        tell_arrival(conn.id, &slot, if reached(copied, slot.start) { copied } else { slot.start });
    }
}

/// The arrival of the slot's bytes from `start` on.
#[inline(always)]
fn tell_arrival(connection_id: u64, slot: &RxSlot, start: u32) {
    let header = emit::header(kind::ARRIVAL, now());
    emit::record::<ArrivalRecord>(|record| {
        let value = ArrivalRecord {
            header,
            connection_id,
            softirq_ns: slot.softirq_ns,
            first_ns: slot.first_ns,
            last_ns: slot.last_ns,
            start,
            end: slot.end,
            flags: slot.flags as u16,
            padding: 0,
            behind_hole_us: slot.behind_hole_us,
        };
        // SAFETY: `record` is the reserved entry of exactly this size.
        unsafe { record.write(value) }
    });
}

/// A slot of the current call, once it returned: when, and where it really ended. When its last byte left, if it had.
#[inline(always)]
pub fn finish_send(conn: &mut Conn, task: &Task, end: u32, time_ns: u64) -> u64 {
    let busy_ns = device::queue_busy(conn, time_ns);
    let slot = &mut conn.tx[(task.tx_index & MASK) as usize];
    if slot.index != task.tx_index {
        return 0;
    }
    slot.done_ns = time_ns;
    if slot.locked_last_ns == 0 {
        // Only the function's entry is seen: at the latest now TCP has the last piece.
        slot.queue_before_last_ns = busy_ns.saturating_sub(slot.queue_base_ns);
    }
    if !reached(end, slot.end) {
        slot.end = end;
    }
    slot.transmitted_ns
}

/// Bytes still to come of a message that is being sent.
#[inline(always)]
pub fn message_left<M: Memory>(msg: u64) -> u32 {
    M::read::<u64>(msg, &offsets::MSG_COUNT) as u32
}
