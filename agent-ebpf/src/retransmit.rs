//! What TCP sends again.

use agent_common::{
    header::kind,
    message::{RetransmitRecord, retransmit},
};

use crate::{
    connection::{self, tcp as state},
    emit::{self, now},
    offsets::{self, Memory},
    state::flag,
};

/// `tcp_retransmit_skb`: TCP sent a buffer again, or tried to. One firing may cover many segments, so they are counted by
/// the kernel's own total. The agent learns of those of the handshake with the connection.
#[inline(always)]
pub fn on_retransmit<M: Memory>(sk: u64, skb: u64) {
    let Some(conn) = connection::find(sk) else { return };
    if conn.flags & flag::ANNOUNCED == 0 {
        return;
    }
    let Some(tcp) = M::tcp(sk) else { return };
    let cb = skb + u64::from(offsets::SKB_CB.load());
    let total = M::read::<u32>(tcp, &offsets::TCP_TOTAL_RETRANS);
    let start = M::read::<u32>(cb, &offsets::CB_SEQ);
    let end = M::read::<u32>(cb, &offsets::CB_END_SEQ);
    let state = M::read::<u8>(tcp, &offsets::SK_STATE);
    let segments = total.wrapping_sub(conn.retrans_told);
    if segments == 0 {
        return;
    }
    let ca_state = M::read_bits(tcp, &offsets::ICSK_CA_STATE, &offsets::ICSK_CA_STATE_BITS);
    let pending = M::read_optional::<u8>(tcp, &offsets::ICSK_PENDING).unwrap_or(0);
    let reason = retransmit_reason(state, ca_state, pending);
    let header = emit::header(kind::RETRANSMIT, now());
    let connection_id = conn.id;
    let told = emit::record::<RetransmitRecord>(|record| {
        let value =
            RetransmitRecord { header, connection_id, start, end, segments, reason, state, ca_state, padding: 0 };
        // SAFETY: `record` is the reserved entry of exactly this size.
        unsafe { record.write(value) }
    });
    // Else the next one tells of these as well.
    if told {
        conn.retrans_told = total;
    }
}

/// The timer enters the loss state before it sends; the probe is still pending while it sends.
#[inline(always)]
fn retransmit_reason(state: u8, ca_state: u8, pending: u8) -> u8 {
    const CA_RECOVERY: u8 = 3;
    const CA_LOSS: u8 = 4;
    const PENDING_LOSS_PROBE: u8 = 5;
    if state == state::SYN_SENT || state == state::SYN_RECV {
        retransmit::SYN
    } else if ca_state == CA_LOSS {
        retransmit::TIMEOUT
    } else if ca_state == CA_RECOVERY {
        retransmit::FAST
    } else if pending == PENDING_LOSS_PROBE {
        retransmit::TAIL_LOSS_PROBE
    } else {
        retransmit::UNKNOWN
    }
}
