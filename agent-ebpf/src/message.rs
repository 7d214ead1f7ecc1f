//! Bytes on their way: write calls until they are acknowledged, arrivals until they are read.
//!
//! The three hooks here that take a `sk` and move cursors hold the socket lock; `on_transmit` does not and writes one
//! time stamp.

use agent_common::{
    connection::TcpSnapshot,
    header::kind,
    loss::KernelLoss,
    message::{ArrivalRecord, SendRecord, flag as wire},
};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel_buf};

use crate::{
    connection,
    emit::{self, now},
    offsets::{self, read, read_at},
    sched, select, softirq,
    state::{Conn, RxSlot, SLOTS, Task, TxSlot, flag},
};

const MASK: u32 = SLOTS - 1;
const TCP_FLAG_FIN: u8 = 1;
const MSG_PEEK: u32 = 2;

/// Whether sequence number `a` is at or after `b`.
#[inline(always)]
pub fn reached(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 >= 0
}

/// `tcp_sendmsg_locked`: TCP takes bytes of a write call. `left` bytes of the call are still to come.
///
/// Fires once per call (function entry) or per chunk and retry (tracepoint): the sequence number at which the call
/// would end is the same for all firings of one call, unless another writer came between.
#[inline(always)]
pub fn on_send(sk: u64, left: u32) {
    let Some(settings) = select::settings() else { return };
    let Some(task) = select::current_task(settings) else { return };
    if select::hopeless(settings, task.mode) {
        return;
    }
    let Some(conn) = connection::find_or_adopt(sk) else { return };
    let by_connection = select::connection_mode(settings, conn);
    if !select::records(select::combined(task.mode, by_connection)) {
        return;
    }
    connection::announce(sk, conn);
    if conn.flags & flag::CURSOR == 0 {
        set_cursor(sk, conn);
    }
    let Some(start) = read::<u32>(sk, &offsets::TCP_WRITE_SEQ) else { return };
    let end = start.wrapping_add(left);
    let tid = bpf_get_current_pid_tgid() as u32;
    if conn.tx_head != conn.tx_tail {
        let last = &mut conn.tx[((conn.tx_head.wrapping_sub(1)) & MASK) as usize];
        if last.tid == tid && last.end == end && task.tx_sock == sk {
            return; // the next chunk of the same call
        }
        if !reached(start, last.end) {
            last.end = start; // that call was cut short, or continues behind this one
        }
    }
    open_tx(sk, conn, task, tid, start, end);
}

#[inline(always)]
fn open_tx(sk: u64, conn: &mut Conn, task: &mut Task, tid: u32, start: u32, end: u32) {
    if conn.tx_head.wrapping_sub(conn.tx_tail) >= SLOTS {
        emit::lost(KernelLoss::SendSlotEvicted);
        retire(conn, &connection::snapshot(sk), 0, u32::from(wire::EVICTED));
    }
    if task.tx_sock != sk {
        task.tx_sock = sk;
        task.tx_start = start;
    } else if task.tx_end != start {
        task.call_flags |= u32::from(wire::INTERLEAVED);
        emit::lost(KernelLoss::WriteInterleaved);
    }
    task.tx_end = end;
    task.tx_index = conn.tx_head;
    conn.tx[(conn.tx_head & MASK) as usize] = TxSlot {
        enter_ns: task.enter_ns,
        locked_ns: now(),
        done_ns: 0,
        transmitted_ns: 0,
        run_queue_ns: task.run_queue_enter_ns,
        start,
        end,
        pid: task.pid,
        tid,
        retrans: read(sk, &offsets::TCP_TOTAL_RETRANS).unwrap_or(0),
        index: conn.tx_head,
        flags: if sched::complete(task) { u32::from(wire::SCHED) } else { 0 },
        padding: 0,
    };
    conn.tx_head = conn.tx_head.wrapping_add(1);
}

/// Reading starts at the stream's base, or, for a connection older than the agent, where it is now.
#[inline(always)]
fn set_cursor(sk: u64, conn: &mut Conn) {
    conn.read_cursor = if conn.flags & flag::PREEXISTING == 0 {
        conn.receive_base
    } else {
        read(sk, &offsets::TCP_COPIED_SEQ).unwrap_or(0)
    };
    conn.flags |= flag::CURSOR;
}

/// `tcp_probe`: a segment arrived on an established connection, before TCP acts on it.
#[inline(always)]
pub fn on_segment(sk: u64, skb: u64) {
    let Some(conn) = connection::find(sk) else { return };
    let cb = skb + u64::from(offsets::SKB_CB.load());
    let (Some(seq), Some(end), Some(ack), Some(tcp_flags)) = (
        read::<u32>(cb, &offsets::CB_SEQ),
        read::<u32>(cb, &offsets::CB_END_SEQ),
        read::<u32>(cb, &offsets::CB_ACK_SEQ),
        read::<u8>(cb, &offsets::CB_TCP_FLAGS),
    ) else {
        return;
    };
    let end = end.wrapping_sub(u32::from(tcp_flags & TCP_FLAG_FIN));
    let time_ns = now();
    let carries_data = end != seq;
    acknowledge(sk, conn, ack, time_ns, carries_data);
    if carries_data {
        // What was in order before this segment.
        let Some(in_order) = read::<u32>(sk, &offsets::TCP_RCV_NXT) else { return };
        let opens = conn.rx_head;
        arrive(conn, (seq, end), in_order, time_ns);
        if conn.rx_head != opens {
            conn.rx[(opens & MASK) as usize].softirq_ns = softirq::raised(sk);
        }
    }
}

#[inline(always)]
fn acknowledge(sk: u64, conn: &mut Conn, ack: u32, time_ns: u64, carries_data: bool) {
    let flags = if carries_data { u32::from(wire::PIGGYBACKED) } else { 0 };
    if !acknowledges_oldest(conn, ack) {
        return;
    }
    // Read once: in the loop its outcomes would multiply per slot, beyond what Linux 6.1 verifies.
    let tcp = connection::snapshot(sk);
    for _ in 0..SLOTS {
        if !acknowledges_oldest(conn, ack) {
            return;
        }
        retire(conn, &tcp, time_ns, flags);
    }
}

/// Whether there is a write call in flight, and its last byte is acknowledged.
#[inline(always)]
fn acknowledges_oldest(conn: &Conn, ack: u32) -> bool {
    conn.tx_tail != conn.tx_head && reached(ack, conn.tx[(conn.tx_tail & MASK) as usize].end)
}

/// Tells of the oldest write call and frees its slot.
#[inline(always)]
fn retire(conn: &mut Conn, tcp: &TcpSnapshot, acked_ns: u64, flags: u32) {
    let slot: &TxSlot = &conn.tx[(conn.tx_tail & MASK) as usize];
    let header = emit::header(kind::SEND, now());
    let id = conn.id;
    emit::record::<SendRecord>(|record| {
        let value = SendRecord {
            header,
            connection_id: id,
            enter_ns: slot.enter_ns,
            locked_ns: slot.locked_ns,
            locked_last_ns: 0,
            done_ns: slot.done_ns,
            queued_ns: 0,
            queue_ns: 0,
            queue_before_last_ns: 0,
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
            tcp: *tcp,
        };
        // SAFETY: `record` is the reserved entry of exactly this size.
        unsafe { record.write(value) }
    });
    conn.tx_tail = conn.tx_tail.wrapping_add(1);
}

/// The socket goes: no acknowledgement will be seen any more.
#[inline(always)]
pub fn retire_all(sk: u64, conn: &mut Conn) {
    if conn.tx_tail == conn.tx_head {
        return;
    }
    let tcp = connection::snapshot(sk); // once, as above
    for _ in 0..SLOTS {
        if conn.tx_tail == conn.tx_head {
            return;
        }
        retire(conn, &tcp, 0, u32::from(wire::DESTROYED));
    }
}

/// Notes when bytes arrived; `in_order` is the next byte that TCP waits for. The slots stay in sequence order and without
/// holes between them: a slot that begins after a hole covers the hole. A slot beyond `in_order` cannot be read yet, so
/// its time of completeness is that of the latest segment that may have filled what was missing before it.
#[inline(always)]
fn arrive(conn: &mut Conn, (seq, end): (u32, u32), in_order: u32, time_ns: u64) {
    if reached(in_order, end) {
        return; // known already
    }
    let hole = if reached(in_order, seq) { 0 } else { u32::from(wire::OUT_OF_ORDER) };
    if conn.rx_head == conn.rx_tail {
        open_rx(conn, in_order, end, time_ns, hole);
        return;
    }
    let known_end = conn.rx[(conn.rx_head.wrapping_sub(1) & MASK) as usize].end;
    if reached(known_end, end) {
        fill(conn, in_order, time_ns);
        return;
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
        }
    }
}

#[inline(always)]
fn open_rx(conn: &mut Conn, start: u32, end: u32, time_ns: u64, flags: u32) {
    conn.rx[(conn.rx_head & MASK) as usize] =
        RxSlot { softirq_ns: 0, first_ns: time_ns, last_ns: time_ns, start, end, flags, padding: 0 };
    conn.rx_head = conn.rx_head.wrapping_add(1);
}

/// `tcp_rcv_space_adjust`: bytes were copied to the current task; also fires when nothing was consumed (`MSG_PEEK`).
#[inline(always)]
pub fn on_read(sk: u64) {
    let Some(settings) = select::settings() else { return };
    let Some(task) = select::current_task(settings) else { return };
    if select::hopeless(settings, task.mode) {
        return;
    }
    let Some(conn) = connection::find_or_adopt(sk) else { return };
    let by_connection = select::connection_mode(settings, conn);
    let Some(copied) = read::<u32>(sk, &offsets::TCP_COPIED_SEQ) else { return };
    let wanted = select::records(select::combined(task.mode, by_connection));
    if wanted {
        connection::announce(sk, conn);
    }
    consume(task, conn, sk, copied, wanted);
}

#[inline(always)]
fn consume(task: &mut Task, conn: &mut Conn, sk: u64, copied: u32, wanted: bool) {
    let known = conn.flags & flag::CURSOR != 0 || conn.flags & flag::PREEXISTING == 0;
    if conn.flags & flag::CURSOR == 0 {
        conn.read_cursor = if known && wanted { conn.receive_base } else { copied };
        conn.flags |= flag::CURSOR;
    }
    let start = conn.read_cursor;
    if start == copied && (known || task.message_flags & MSG_PEEK != 0) {
        return;
    }
    if task.number == 0 && wanted {
        emit::lost(KernelLoss::ReadOutsideCall);
    }
    conn.read_cursor = copied;
    if task.rx_sock != sk {
        task.rx_sock = sk;
        task.rx_start = start;
        task.arrival_end = start;
        task.arrival_softirq_ns = 0;
        task.arrival_first_ns = 0;
        task.arrival_last_ns = 0;
    }
    task.rx_end = copied;
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
            return; // the rest of it is read later
        }
        conn.rx_tail = conn.rx_tail.wrapping_add(1);
    }
}

/// The first arrival of a call travels in the call's own record, further ones in theirs.
#[inline(always)]
fn describe_arrival(task: &mut Task, connection_id: u64, slot: &RxSlot) {
    if task.arrival_first_ns == 0 {
        task.arrival_softirq_ns = slot.softirq_ns;
        task.arrival_first_ns = slot.first_ns;
        task.arrival_last_ns = slot.last_ns;
        task.arrival_end = slot.end;
        task.call_flags |= slot.flags;
        return;
    }
    if slot.end == task.arrival_end {
        return; // the same slot, at the next firing of the same call
    }
    let header = emit::header(kind::ARRIVAL, now());
    emit::record::<ArrivalRecord>(|record| {
        let value = ArrivalRecord {
            header,
            connection_id,
            softirq_ns: slot.softirq_ns,
            first_ns: slot.first_ns,
            last_ns: slot.last_ns,
            start: slot.start,
            end: slot.end,
            flags: slot.flags as u16,
            padding: [0; 3],
        };
        // SAFETY: `record` is the reserved entry of exactly this size.
        unsafe { record.write(value) }
    });
}

/// `net_dev_start_xmit`: a buffer leaves for the device. Sees every packet of the host, so most return at once.
#[inline(always)]
pub fn on_transmit(skb: u64) {
    let Some(sk) = read::<u64>(skb, &offsets::SKB_SK).filter(|sk| *sk != 0) else { return };
    let Some(conn) = connection::find(sk) else { return };
    if conn.tx_tail == conn.tx_head {
        return;
    }
    let Some(end) = payload_end(skb) else { return };
    let time_ns = now();
    for step in 0..SLOTS {
        let index = conn.tx_tail.wrapping_add(step);
        if index == conn.tx_head {
            return;
        }
        let slot = &mut conn.tx[(index & MASK) as usize];
        if slot.transmitted_ns == 0 && reached(end, slot.end) {
            slot.transmitted_ns = time_ns;
        }
    }
}

/// Sequence number just past the payload of the TCP segment(s) in `skb`, whose data starts at the link or network header.
#[inline(always)]
fn payload_end(skb: u64) -> Option<u32> {
    let head: u64 = read(skb, &offsets::SKB_HEAD)?;
    let data: u64 = read(skb, &offsets::SKB_DATA)?;
    let length: u32 = read(skb, &offsets::SKB_LEN)?;
    let transport = head + u64::from(read::<u16>(skb, &offsets::SKB_TRANSPORT_HEADER)?);
    let mut tcp = [0u8; 14];
    // SAFETY: the helper checks the source; the destination is on our stack.
    unsafe { bpf_probe_read_kernel_buf(transport as *const u8, &mut tcp).ok()? };
    let seq = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
    let headers = transport.wrapping_sub(data) as u32 + u32::from(tcp[12] >> 4) * 4;
    Some(seq.wrapping_add(length.wrapping_sub(headers)))
}

/// A slot of the current call, once it returned: when, and where it really ended.
#[inline(always)]
pub fn finish_send(conn: &mut Conn, task: &Task, end: u32, time_ns: u64) {
    let slot = &mut conn.tx[(task.tx_index & MASK) as usize];
    if slot.index != task.tx_index {
        return;
    }
    slot.done_ns = time_ns;
    if !reached(end, slot.end) {
        slot.end = end;
    }
}

/// Bytes still to come of a message that is being sent.
#[inline(always)]
pub fn message_left(msg: u64) -> Option<u32> {
    read_at::<u64>(msg + u64::from(offsets::MSG_COUNT.load())).map(|count| count as u32)
}
