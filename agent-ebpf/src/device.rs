//! The way from TCP to the device: when bytes of a write call are given to the device's queue, and when they leave it.
//!
//! These hooks may run without the socket lock, so they only write time stamps of their own.

use crate::{
    connection,
    emit::now,
    message::{MASK, reached},
    offsets::{self, Memory, read_at},
    state::{Conn, SLOTS},
};

/// `net_dev_queue`: a buffer is given to the device's queue. Sees every packet of the host, so most return at once.
#[inline(always)]
pub fn on_queue<M: Memory>(skb: u64) {
    let Some((conn, end)) = in_flight::<M>(skb) else { return };
    let time_ns = now();
    if !reached(conn.queued_end, end) {
        conn.queued_end = end;
        if conn.queue_since_ns == 0 {
            conn.queue_since_ns = time_ns;
        }
    } else if end == conn.queued_end && conn.queue_since_ns != 0 {
        // TCP sends nothing again that is still in the queue: it was dropped there, and waits anew.
        conn.queue_since_ns = time_ns;
    }
    for step in 0..SLOTS {
        let index = conn.tx_tail.wrapping_add(step);
        if index == conn.tx_head {
            return;
        }
        let slot = &mut conn.tx[(index & MASK) as usize];
        if slot.queued_ns == 0 && reached(end, slot.end) {
            slot.queued_ns = time_ns;
        }
    }
}

/// `net_dev_start_xmit`: a buffer leaves for the device. Sees every packet too. Buffers may have been cut up since they
/// were queued, so sequence numbers are compared, never buffers counted.
#[inline(always)]
pub fn on_transmit<M: Memory>(skb: u64) {
    let Some((conn, end)) = in_flight::<M>(skb) else { return };
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
        if slot.transmitted_ns == 0 && reached(end, slot.end) {
            slot.transmitted_ns = time_ns;
            slot.queue_ns = busy_ns.saturating_sub(slot.queue_base_ns);
        }
    }
}

/// The connection that `skb` carries payload of, if it has write calls in flight, and the payload's end.
#[inline(always)]
fn in_flight<M: Memory>(skb: u64) -> Option<(&'static mut Conn, u32)> {
    let sk = M::read::<u64>(skb, &offsets::SKB_SK);
    if sk == 0 {
        return None;
    }
    let conn = connection::find(sk)?;
    if conn.tx_tail == conn.tx_head {
        return None;
    }
    payload_end::<M>(skb).map(|end| (conn, end))
}

/// Sequence number just past the payload of the TCP segment(s) in `skb`, whose data starts at the link or network header;
/// `None` if it carries none.
#[inline(always)]
fn payload_end<M: Memory>(skb: u64) -> Option<u32> {
    let head: u64 = M::read(skb, &offsets::SKB_HEAD);
    let data: u64 = M::read(skb, &offsets::SKB_DATA);
    let length: u32 = M::read(skb, &offsets::SKB_LEN);
    let transport = head + u64::from(M::read::<u16>(skb, &offsets::SKB_TRANSPORT_HEADER));
    let [_, seq, _, flags] = read_at::<[u32; 4]>(transport)?; // ports, seq, ack, data offset with flags and window
    let headers = transport.wrapping_sub(data) as u32 + (u32::from_be(flags) >> 28) * 4;
    let payload = length.wrapping_sub(headers);
    (payload != 0).then_some(u32::from_be(seq).wrapping_add(payload))
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
