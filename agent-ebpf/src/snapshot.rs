//! The congestion and loss state that the kernel keeps for a socket.

use agent_common::connection::{TcpSnapshot, tcp_flag};
use aya_ebpf::helpers::generated as helpers;

use crate::{
    offsets::{self, Memory},
    state::Conn,
};

/// Takes the kernel's view of the path. It is left in the connection, and read back from there where records are made: in
/// registers, Linux 6.1 would follow its many outcomes through the loops over slots.
#[inline(always)]
pub fn take<M: Memory>(tcp: u64, conn: &mut Conn, time_ns: u64) {
    let window: Option<u32> = M::read_optional(tcp, &offsets::TCP_SND_WND);
    let closed = is_closed(window, conn);
    let (rwnd_limited_ms, sndbuf_limited_ms) = limited::<M>(tcp);
    let rate = M::read_optional::<u64>(tcp, &offsets::SK_PACING_RATE).unwrap_or(u64::MAX);
    let srtt_us = M::read::<u32>(tcp, &offsets::TCP_SRTT_US) >> 3;
    let deviation: u32 = M::read_optional(tcp, &offsets::TCP_MDEV_US).unwrap_or(0);
    let value = TcpSnapshot {
        srtt_us,
        min_rtt_us: M::read(tcp, &offsets::TCP_RTT_MIN),
        cwnd: M::read(tcp, &offsets::TCP_SND_CWND),
        total_retrans: M::read(tcp, &offsets::TCP_TOTAL_RETRANS),
        rttvar_us: if srtt_us == 0 { 0 } else { deviation >> 2 }, // before the first sample it is an assumption
        out_of_order: M::read_optional(tcp, &offsets::TCP_RCV_OOOPACK).unwrap_or(0),
        rwnd_limited_ms,
        sndbuf_limited_ms,
        zero_window_us: zero_window_us(conn, closed, time_ns),
        send_window: window.unwrap_or(0),
        pacing_rate_kib: if rate == u64::MAX { 0 } else { saturated(rate >> 10) },
        ca_state: M::read_bits(tcp, &offsets::ICSK_CA_STATE, &offsets::ICSK_CA_STATE_BITS),
        flags: flags::<M>(tcp, closed),
        padding: 0,
    };
    // SAFETY: a live reference.
    unsafe { (&raw mut conn.tcp).write_volatile(value) }
}

/// During the handshake the window is not known.
#[inline(always)]
fn is_closed(window: Option<u32>, conn: &Conn) -> bool {
    window == Some(0) && conn.segment_ns != 0
}

/// For how long the peer's window was closed so far, microseconds.
#[inline(always)]
pub fn closed_us<M: Memory>(tcp: u64, conn: &Conn, time_ns: u64) -> u32 {
    zero_window_us(conn, is_closed(M::read_optional(tcp, &offsets::TCP_SND_WND), conn), time_ns)
}

/// What was taken last.
#[inline(always)]
pub fn taken(conn: &Conn) -> TcpSnapshot {
    // SAFETY: a live reference.
    unsafe { (&raw const conn.tcp).read_volatile() }
}

#[inline(always)]
fn flags<M: Memory>(tcp: u64, closed: bool) -> u8 {
    let mut flags = 0;
    if M::read_bits(tcp, &offsets::TCP_CWND_LIMITED, &offsets::TCP_CWND_LIMITED_BITS) != 0 {
        flags |= tcp_flag::CWND_LIMITED;
    }
    if M::read_optional::<u32>(tcp, &offsets::SK_PACING_STATUS).unwrap_or(0) != 0 {
        flags |= tcp_flag::PACED;
    }
    if M::read_optional::<u64>(tcp, &offsets::SK_MAX_PACING_RATE).unwrap_or(u64::MAX) != u64::MAX {
        flags |= tcp_flag::PACED_BY_APPLICATION;
    }
    if closed {
        flags |= tcp_flag::ZERO_WINDOW;
    }
    flags
}

/// For how long the peer's window, and the send buffer, limited sending, milliseconds: what the kernel added up, and
/// what is still running (`tcp_chrono_start`).
#[inline(always)]
fn limited<M: Memory>(tcp: u64) -> (u32, u32) {
    const RWND_LIMITED: u8 = 2;
    const SNDBUF_LIMITED: u8 = 3;
    // chrono_stat[0] is the time in which there was anything to send.
    let mut rwnd: u32 = M::read_optional(tcp + 4, &offsets::TCP_CHRONO_STAT).unwrap_or(0);
    let mut sndbuf: u32 = M::read_optional(tcp + 8, &offsets::TCP_CHRONO_STAT).unwrap_or(0);
    let running = M::read_bits(tcp, &offsets::TCP_CHRONO_TYPE, &offsets::TCP_CHRONO_TYPE_BITS);
    if running == RWND_LIMITED || running == SNDBUF_LIMITED {
        let since: u32 = M::read_optional(tcp, &offsets::TCP_CHRONO_START).unwrap_or(0);
        // SAFETY: the helper takes no arguments.
        let passed = (unsafe { helpers::bpf_jiffies64() } as u32).wrapping_sub(since);
        if running == RWND_LIMITED {
            rwnd = rwnd.wrapping_add(passed);
        } else {
            sndbuf = sndbuf.wrapping_add(passed);
        }
    }
    (milliseconds(rwnd), milliseconds(sndbuf))
}

#[inline(always)]
fn milliseconds(jiffies: u32) -> u32 {
    saturated(u64::from(jiffies) * u64::from(offsets::JIFFY_NS.load()) / 1_000_000)
}

#[inline(always)]
fn saturated(value: u64) -> u32 {
    if value > u64::from(u32::MAX) { u32::MAX } else { value as u32 }
}

/// `window` is the peer's window as the previous segment left it.
#[inline(always)]
pub fn watch_window(conn: &mut Conn, window: u32, time_ns: u64) {
    if window == 0 {
        if conn.zero_since_ns == 0 {
            conn.zero_since_ns = conn.segment_ns; // 0 if no segment was seen yet: then from the next one on
        }
    } else if conn.zero_since_ns != 0 {
        conn.zero_ns += conn.segment_ns.saturating_sub(conn.zero_since_ns);
        conn.zero_since_ns = 0;
    }
    conn.segment_ns = time_ns;
}

/// The next segment is the first one that is seen.
#[inline(always)]
pub fn window_unknown(conn: &mut Conn) {
    if conn.segment_ns != 0 {
        conn.segment_ns = 0;
        conn.zero_since_ns = 0;
    }
}

/// For how long the peer's window was closed, microseconds; `closed` is whether it is now.
#[inline(always)]
fn zero_window_us(conn: &Conn, closed: bool, time_ns: u64) -> u32 {
    let since = if conn.zero_since_ns == 0 && closed { conn.segment_ns } else { conn.zero_since_ns };
    let until = if closed { time_ns } else { conn.segment_ns };
    let running = if since == 0 { 0 } else { until.saturating_sub(since) };
    ((conn.zero_ns + running) / 1000) as u32
}
