//! Connections: from their first sight to their end, and what the kernel says of them.

use agent_common::{
    connection::{ConnectionRecord, TcpSnapshot, change, flag as wire, role},
    header::kind,
    loss::KernelLoss,
    settings::mode,
};
use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id, generated as helpers},
};

use aya_log_ebpf::{debug, warn};

use crate::{
    emit::{self, NoContext, now},
    maps::{CONNECTIONS, EMPTY_CONNECTION},
    message,
    offsets::{self, read},
    select,
    state::{Conn, flag},
};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const IPPROTO_TCP: u16 = 6;
const ECONNRESET: i32 = 104;

/// TCP states (include/net/tcp_states.h).
pub mod tcp {
    pub const ESTABLISHED: u8 = 1;
    pub const SYN_SENT: u8 = 2;
    pub const SYN_RECV: u8 = 3;
    pub const FIN_WAIT1: u8 = 4;
    pub const CLOSE: u8 = 7;
    pub const CLOSE_WAIT: u8 = 8;
    pub const LAST_ACK: u8 = 9;
}

/// The connection of a socket, if it is known.
#[inline(always)]
pub fn find(sk: u64) -> Option<&'static mut Conn> {
    // SAFETY: a live map value; see `state` for who writes what.
    CONNECTIONS.get_ptr_mut(&sk).map(|conn| unsafe { &mut *conn })
}

/// The connection of a socket that moves data in the current task, made if it is older than the agent.
#[inline(always)]
pub fn find_or_adopt(sk: u64) -> Option<&'static mut Conn> {
    if let Some(conn) = find(sk) {
        return Some(conn);
    }
    let conn = create(sk)?;
    conn.flags |= flag::PREEXISTING;
    Some(conn)
}

#[inline(always)]
fn create(sk: u64) -> Option<&'static mut Conn> {
    if read::<u16>(sk, &offsets::SK_PROTOCOL)? != IPPROTO_TCP {
        return None;
    }
    let empty = EMPTY_CONNECTION.get_ptr(0)?;
    // SAFETY: `empty` is a live map value that nobody writes.
    if CONNECTIONS.insert(&sk, unsafe { &*empty }, u64::from(BPF_NOEXIST)).is_err() {
        emit::lost(KernelLoss::ConnectionTableFull);
        return None;
    }
    let conn = find(sk)?;
    let time_ns = now();
    // SAFETY: the helper takes no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    // One CPU creates at most one connection in a nanosecond.
    conn.id = (time_ns << 6) | u64::from(cpu & 63);
    conn.opened_ns = time_ns;
    if read_identity(sk, conn).is_none() {
        emit::lost(KernelLoss::KernelReadFailed);
    }
    Some(conn)
}

/// Addresses, ports and network namespace.
#[inline(always)]
fn read_identity(sk: u64, conn: &mut Conn) -> Option<()> {
    conn.family = read(sk, &offsets::SK_FAMILY)?;
    conn.local_port = read(sk, &offsets::SK_NUM)?;
    conn.remote_port = u16::from_be(read(sk, &offsets::SK_DPORT)?);
    let net: u64 = read(sk, &offsets::SK_NET)?;
    conn.netns = read(net, &offsets::NET_INUM)?;
    match conn.family {
        AF_INET => {
            let local: [u8; 4] = read(sk, &offsets::SK_RCV_SADDR)?;
            let remote: [u8; 4] = read(sk, &offsets::SK_DADDR)?;
            conn.local_address[..4].copy_from_slice(&local);
            conn.remote_address[..4].copy_from_slice(&remote);
        }
        AF_INET6 => {
            conn.local_address = read(sk, &offsets::SK_V6_RCV_SADDR)?;
            conn.remote_address = read(sk, &offsets::SK_V6_DADDR)?;
        }
        _ => return None,
    }
    Some(())
}

/// `inet_sock_set_state`: connections come into being, establish, half-close and fail.
#[inline(always)]
pub fn on_state(sk: u64, old: u8, new: u8) {
    match (old, new) {
        (_, tcp::SYN_SENT) => opened_by_connect(sk),
        (tcp::SYN_SENT, tcp::ESTABLISHED) => {
            if let Some(conn) = find(sk) {
                conn.established_ns = now();
                // The local address and port are chosen on the way to SYN_SENT or just after it.
                let _ = read_identity(sk, conn);
            }
        }
        (tcp::SYN_RECV, tcp::ESTABLISHED) => opened_by_peer(sk),
        (tcp::SYN_SENT, tcp::CLOSE) => changed(sk, change::CONNECT_FAILED, old, new),
        (_, tcp::CLOSE_WAIT) => changed(sk, change::REMOTE_CLOSED, old, new),
        (_, tcp::FIN_WAIT1 | tcp::LAST_ACK) => changed(sk, change::LOCAL_CLOSED, old, new),
        (_, tcp::CLOSE) => note_reset(sk),
        _ => {}
    }
}

#[inline(always)]
fn opened_by_connect(sk: u64) {
    if find(sk).is_some() {
        displace(sk);
    }
    let Some(settings) = select::settings() else { return };
    let Some(task) = select::current_task(settings) else { return };
    if select::hopeless(settings, task.mode) {
        return;
    }
    if let Some(conn) = create(sk) {
        conn.role = u16::from(role::CLIENT);
        conn.pid = task.pid;
        conn.cgroup_id = task.cgroup_id;
        conn.opener_mode = task.mode;
    }
}

/// Nobody saw the previous socket at this address go.
#[inline(always)]
fn displace(sk: u64) {
    warn!(&NoContext, "connection state left behind by another socket");
    emit::lost(KernelLoss::Collision);
    let _ = CONNECTIONS.remove(&sk);
}

#[inline(always)]
fn opened_by_peer(sk: u64) {
    if find(sk).is_some() {
        displace(sk);
    }
    // Softirq context: the current task has nothing to do with it.
    if let Some(conn) = create(sk) {
        conn.role = u16::from(role::SERVER);
        conn.established_ns = conn.opened_ns;
    }
}

#[inline(always)]
fn note_reset(sk: u64) {
    if let Some(conn) = find(sk)
        && read::<i32>(sk, &offsets::SK_ERR) == Some(ECONNRESET)
    {
        conn.flags |= flag::RESET;
    }
}

#[inline(always)]
fn changed(sk: u64, what: u8, old: u8, new: u8) {
    let Some(conn) = find(sk) else { return };
    let Some(settings) = select::settings() else { return };
    let by_connection = select::connection_mode(settings, conn);
    let announced = conn.flags & flag::ANNOUNCED != 0;
    let failed = what == change::CONNECT_FAILED && select::records(select::combined(conn.opener_mode, by_connection));
    if announced || failed {
        emit_change(sk, conn, what, old, new);
    }
}

/// `tcp_destroy_sock`: the socket goes; what is still open is told.
#[inline(always)]
pub fn on_destroy(sk: u64) {
    let Some(conn) = find(sk) else { return };
    if conn.flags & flag::ANNOUNCED != 0 {
        message::retire_all(sk, conn);
        let state = read::<u8>(sk, &offsets::SK_STATE).unwrap_or(tcp::CLOSE);
        emit_change(sk, conn, change::CLOSED, state, tcp::CLOSE);
    }
    let _ = CONNECTIONS.remove(&sk);
}

/// `accept` returned this socket to the current task.
#[inline(always)]
pub fn on_accepted(sk: u64, pid: u32, cgroup_id: u64) {
    if let Some(conn) = find(sk) {
        conn.accepted_ns = now();
        conn.pid = pid;
        conn.cgroup_id = cgroup_id;
    }
}

/// Tells the agent of the connection before the first record of its data. Called under the socket lock.
#[inline(always)]
pub fn announce(sk: u64, conn: &mut Conn) {
    if conn.flags & flag::ANNOUNCED != 0 {
        return;
    }
    if conn.pid == 0 {
        conn.pid = (bpf_get_current_pid_tgid() >> 32) as u32;
        // SAFETY: the helper takes no arguments.
        conn.cgroup_id = unsafe { helpers::bpf_get_current_cgroup_id() };
    }
    match read_bases(sk, conn) {
        Some(()) if conn.role != u16::from(role::UNKNOWN) => conn.flags |= flag::BASES,
        Some(()) => {} // which end sent the SYN decides about one byte
        None => emit::lost(KernelLoss::KernelReadFailed),
    }
    conn.flags |= flag::ANNOUNCED;
    debug!(&NoContext, "connection {} -> {} of process {}", conn.local_port, conn.remote_port, conn.pid);
    emit_change(sk, conn, change::OPENED, tcp::ESTABLISHED, tcp::ESTABLISHED);
}

/// Sequence numbers of the first data bytes of both directions.
///
/// `R0 = rcv_nxt - bytes_received`. `S0 = snd_una - bytes_acked + 1 if this end sent the SYN`, because `bytes_acked`
/// then counts the SYN. For connections older than the agent the same difference is found by comparing with the
/// sending side; it is 0 or 1.
#[inline(always)]
fn read_bases(sk: u64, conn: &mut Conn) -> Option<()> {
    let received = read::<u64>(sk, &offsets::TCP_BYTES_RECEIVED)? as u32;
    conn.receive_base = read::<u32>(sk, &offsets::TCP_RCV_NXT)?.wrapping_sub(received);
    let acked = read::<u64>(sk, &offsets::TCP_BYTES_ACKED)? as u32;
    let base = read::<u32>(sk, &offsets::TCP_SND_UNA)?.wrapping_sub(acked);
    if conn.flags & flag::PREEXISTING != 0 {
        let sent = read::<u64>(sk, &offsets::TCP_BYTES_SENT)? as u32;
        let resent = read::<u64>(sk, &offsets::TCP_BYTES_RETRANS)? as u32;
        let first = read::<u32>(sk, &offsets::TCP_SND_NXT)?.wrapping_sub(sent.wrapping_sub(resent));
        match first.wrapping_sub(base) {
            0 => conn.role = u16::from(role::SERVER),
            1 => conn.role = u16::from(role::CLIENT),
            _ => {} // half-closed: stays unknown
        }
    }
    let active = u32::from(conn.role == u16::from(role::CLIENT));
    conn.send_base = base.wrapping_add(active);
    Some(())
}

/// The kernel's view of the path.
#[inline(always)]
pub fn snapshot(sk: u64) -> TcpSnapshot {
    TcpSnapshot {
        srtt_us: read::<u32>(sk, &offsets::TCP_SRTT_US).unwrap_or(0) >> 3,
        min_rtt_us: read(sk, &offsets::TCP_RTT_MIN).unwrap_or(u32::MAX),
        cwnd: read(sk, &offsets::TCP_SND_CWND).unwrap_or(0),
        total_retrans: read(sk, &offsets::TCP_TOTAL_RETRANS).unwrap_or(0),
        rttvar_us: 0,
        out_of_order: 0,
        rwnd_limited_ms: 0,
        sndbuf_limited_ms: 0,
        zero_window_us: 0,
        send_window: 0,
        pacing_rate_kib: 0,
        ca_state: 0,
        flags: 0,
        padding: 0,
    }
}

#[inline(always)]
fn emit_change(sk: u64, conn: &Conn, what: u8, old: u8, new: u8) {
    let time_ns = now();
    let mut flags = if conn.generation != 0 && conn.mode == mode::PAYLOAD { wire::SELECTED } else { 0 };
    if conn.flags & flag::PREEXISTING != 0 {
        flags |= wire::PREEXISTING;
    }
    if conn.flags & flag::BASES != 0 {
        flags |= wire::BASES;
    }
    if conn.flags & flag::RESET != 0 {
        flags |= wire::RESET;
    }
    let preexisting = conn.flags & flag::PREEXISTING != 0;
    let errno = if what == change::CONNECT_FAILED { read::<i32>(sk, &offsets::SK_ERR).unwrap_or(0) as u32 } else { 0 };
    let send_end = read(sk, &offsets::TCP_WRITE_SEQ).unwrap_or(0);
    let receive_end = read(sk, &offsets::TCP_COPIED_SEQ).unwrap_or(0);
    let tcp = snapshot(sk);
    let header = emit::header(kind::CONNECTION, time_ns);
    emit::record::<ConnectionRecord>(|record| {
        let value = ConnectionRecord {
            header,
            connection_id: conn.id,
            cgroup_id: conn.cgroup_id,
            opened_ns: if preexisting { 0 } else { conn.opened_ns },
            established_ns: conn.established_ns,
            accepted_ns: conn.accepted_ns,
            changed_ns: time_ns,
            local_address: conn.local_address,
            remote_address: conn.remote_address,
            local_port: conn.local_port,
            remote_port: conn.remote_port,
            family: conn.family,
            flags,
            netns: conn.netns,
            pid: conn.pid,
            send_base: conn.send_base,
            receive_base: conn.receive_base,
            send_end,
            receive_end,
            errno,
            role: conn.role as u8,
            change: what,
            old_state: old,
            new_state: new,
            tcp,
            handshake_retransmits: 0,
            accept_backlog: 0,
            accept_backlog_max: 0,
            path_len: 0,
            path: [[0; 16]; 7],
        };
        // SAFETY: `record` is the reserved entry of exactly this size.
        unsafe { record.write(value) }
    });
}
