//! The way from TCP to the device: when bytes of a write call are given to the device's queue, and when they leave it.
//!
//! These hooks may run without the socket lock, so they only write time stamps of their own.
//!
//! A packet may pass several devices that keep its socket (VLANs, bonds): it left when the last of them had it. What a tunnel
//! wraps it in is another packet, which is not looked at: then it left when the tunnel had it.

use crate::{
    call, connection,
    emit::now,
    message::{MASK, reached},
    offsets::{self, Memory, read, read_at},
    socket::{self, Kind},
    state::{Conn, SLOTS, TxSlot},
};

/// Bit of [`TxSlot::flags`], which is not told: the last byte was given to a device below the first. What the first does with later
/// bytes says nothing of it.
const BELOW: u32 = 1 << 16;

/// `net_dev_queue`: a buffer is given to the device's queue. Sees every packet of the host, so most return at once.
#[inline(always)]
pub fn on_queue<M: Memory>(skb: u64) {
    let sk = M::read::<u64>(skb, &offsets::SKB_SK);
    if sk == 0 {
        return;
    }
    let Some(conn) = connection::find(sk) else { return sends_datagram::<M>(sk) };
    let Some(Packet { start, end }) = in_flight::<M>(skb, conn) else { return };
    let time_ns = now();
    if !reached(conn.queued_end, end) {
        conn.queued_end = end;
        if conn.queue_since_ns == 0 {
            conn.queue_since_ns = time_ns;
        }
    } else if end == conn.queued_end {
        // TCP sends nothing again that is still in the queue: it was dropped there, and waits anew. Or this is the queue of another
        // device, below the first.
        conn.queue_since_ns = time_ns;
    }
    for step in 0..SLOTS {
        let index = conn.tx_tail.wrapping_add(step);
        if index == conn.tx_head {
            return;
        }
        let slot = &mut conn.tx[(index & MASK) as usize];
        if !reached(end, slot.end) {
            continue;
        }
        if slot.queued_ns == 0 {
            slot.queued_ns = time_ns;
        } else if slot.transmitted_ns != 0 && !reached(start, slot.end) && !resent(sk, slot) {
            slot.transmitted_ns = 0; // not yet
            slot.flags |= BELOW;
        }
    }
}

/// `net_dev_start_xmit`: a buffer leaves for the device. Sees every packet too. Buffers may have been cut up since they
/// were queued, so sequence numbers are compared, never buffers counted.
#[inline(always)]
pub fn on_transmit<M: Memory>(skb: u64) {
    let sk = M::read::<u64>(skb, &offsets::SKB_SK);
    if sk == 0 {
        return;
    }
    let Some(conn) = connection::find(sk) else { return };
    let Some(Packet { start, end }) = in_flight::<M>(skb, conn) else { return };
    let time_ns = now();
    if conn.queue_since_ns != 0 && reached(end, conn.queued_end) {
        conn.queue_busy_ns += time_ns.saturating_sub(conn.queue_since_ns);
        conn.queue_since_ns = 0;
    }
    let busy_ns = queue_busy(conn, time_ns);
    for step in 0..SLOTS {
        let index = conn.tx_tail.wrapping_add(step);
        if index == conn.tx_head {
            return;
        }
        let slot = &mut conn.tx[(index & MASK) as usize];
        let passed = reached(end, slot.end) && (slot.flags & BELOW == 0 || !reached(start, slot.end));
        if slot.transmitted_ns == 0 && passed {
            slot.transmitted_ns = time_ns;
            slot.queue_ns = busy_ns.saturating_sub(slot.queue_base_ns);
        }
    }
}

/// Whether TCP sent something again since the write call began: then a packet may be that.
#[inline(always)]
fn resent(sk: u64, slot: &TxSlot) -> bool {
    read::<u32>(sk, &offsets::TCP_TOTAL_RETRANS) != Some(slot.retrans)
}

/// The call that sends a datagram was not seen to begin, where sockets tell of calls; this is the first that is seen of it.
#[inline(always)]
fn sends_datagram<M: Memory>(sk: u64) {
    if offsets::by_sockets() && socket::kind::<M>(sk) == Some(Kind::Datagram) {
        call::notice_sender_of(sk);
    }
}

/// Sequence numbers of a packet's payload.
struct Packet {
    start: u32,
    end: u32,
}

/// What `skb` carries of the connection's payload, if that has write calls in flight.
#[inline(always)]
fn in_flight<M: Memory>(skb: u64, conn: &Conn) -> Option<Packet> {
    if conn.tx_tail == conn.tx_head {
        return None;
    }
    let (start, end) = payload::<M>(skb, (conn.local_port, conn.remote_port))?;
    Some(Packet { start, end })
}

/// The payload of the TCP segment(s) in `skb`, whose data starts at the link or network header; `None` if it carries none, or is
/// not between these ports. One of them may have been translated.
#[inline(always)]
fn payload<M: Memory>(skb: u64, (local_port, remote_port): (u16, u16)) -> Option<(u32, u32)> {
    let head: u64 = M::read(skb, &offsets::SKB_HEAD);
    let data: u64 = M::read(skb, &offsets::SKB_DATA);
    let length: u32 = M::read(skb, &offsets::SKB_LEN);
    let transport = head + u64::from(M::read::<u16>(skb, &offsets::SKB_TRANSPORT_HEADER));
    let [ports, seq, _, flags] = read_at::<[u32; 4]>(transport)?; // ports, seq, ack, data offset with flags and window
    let ports = u32::from_be(ports);
    if ports >> 16 != u32::from(local_port) && ports & 0xffff != u32::from(remote_port) {
        return None;
    }
    let headers = transport.wrapping_sub(data) as u32 + (u32::from_be(flags) >> 28) * 4;
    let bytes = length.wrapping_sub(headers);
    let start = u32::from_be(seq);
    (bytes != 0).then_some((start, start.wrapping_add(bytes)))
}

/// For how long bytes of the connection were in the device's queue, up to now.
#[inline(always)]
pub fn queue_busy(conn: &Conn, time_ns: u64) -> u64 {
    if conn.queue_since_ns == 0 {
        conn.queue_busy_ns
    } else {
        conn.queue_busy_ns + time_ns.saturating_sub(conn.queue_since_ns)
    }
}
