//! Connections: from their first sight to their end, and what the kernel says of them.

use agent_common::{
    connection::{ConnectionRecord, change, flag as wire, role},
    header::kind,
    loss::KernelLoss,
    settings::{Settings, mode},
};
use aya_ebpf::{
    Global,
    bindings::BPF_NOEXIST,
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id, generated as helpers},
};

use aya_log_ebpf::{debug, warn};

use crate::{
    call,
    emit::{self, NoContext, now},
    ktls,
    maps::{CONNECTIONS, EMPTY_CONNECTION},
    message,
    offsets::{self, Checked, Memory},
    select, snapshot,
    state::{Conn, flag},
    tls,
};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const ECONNRESET: i32 = 104;
/// `sk_shutdown`: of both directions (include/net/sock.h).
const SHUTDOWN_MASK: u8 = 3;

/// TCP states (include/net/tcp_states.h).
pub mod tcp {
    pub const ESTABLISHED: u8 = 1;
    pub const SYN_SENT: u8 = 2;
    pub const SYN_RECV: u8 = 3;
    pub const FIN_WAIT1: u8 = 4;
    pub const FIN_WAIT2: u8 = 5;
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
pub fn find_or_adopt<M: Memory>(sk: u64, tcp: u64) -> Option<&'static mut Conn> {
    if let Some(conn) = find(sk) {
        return Some(conn);
    }
    // TCP Fast Open sends before it connects (where the function's entry is seen): what comes is no older connection.
    if M::read::<u8>(tcp, &offsets::SK_STATE) == self::tcp::CLOSE {
        return None;
    }
    let conn = create::<M>(sk, tcp)?;
    conn.flags |= flag::PREEXISTING;
    conn.retrans_told = M::read(tcp, &offsets::TCP_TOTAL_RETRANS);
    Some(conn)
}

#[inline(always)]
fn create<M: Memory>(sk: u64, tcp: u64) -> Option<&'static mut Conn> {
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
    ktls::learn::<M>(sk, tcp);
    conn.opened_ns = time_ns;
    if select::settings().is_some_and(|settings| leaves_out(settings, conn.id)) {
        conn.flags |= flag::SAMPLED_OUT;
    }
    if read_identity::<M>(tcp, conn).is_none() {
        emit::lost(KernelLoss::KernelReadFailed);
    }
    Some(conn)
}

/// Whether sampling leaves out the connection of this id.
#[inline(always)]
fn leaves_out(settings: &Settings, id: u64) -> bool {
    // Fibonacci hashing: the upper bits of the product depend on all bits of the id.
    let hash = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    settings.sample_bits != 0 && hash & ((1u64 << (settings.sample_bits & 31)) - 1) != 0
}

/// Whether sampling left this one out; counted when there would first be something to tell.
#[inline(always)]
pub fn sampled_out(conn: &mut Conn) -> bool {
    if conn.flags & flag::SAMPLED_OUT == 0 {
        return false;
    }
    if conn.flags & flag::SAMPLING_COUNTED == 0 {
        conn.flags |= flag::SAMPLING_COUNTED;
        emit::lost(KernelLoss::ConnectionSampledOut);
    }
    true
}

/// Addresses, ports and network namespace.
#[inline(always)]
fn read_identity<M: Memory>(tcp: u64, conn: &mut Conn) -> Option<()> {
    conn.family = M::read(tcp, &offsets::SK_FAMILY);
    conn.local_port = M::read(tcp, &offsets::SK_NUM);
    conn.remote_port = u16::from_be(M::read(tcp, &offsets::SK_DPORT));
    let net: u64 = M::read(tcp, &offsets::SK_NET);
    conn.netns = M::read(net, &offsets::NET_INUM);
    match conn.family {
        AF_INET => {
            let local: u32 = M::read(tcp, &offsets::SK_RCV_SADDR);
            let remote: u32 = M::read(tcp, &offsets::SK_DADDR);
            conn.local_address[..4].copy_from_slice(&local.to_ne_bytes());
            conn.remote_address[..4].copy_from_slice(&remote.to_ne_bytes());
        }
        AF_INET6 => {
            conn.local_address = read_address::<M>(tcp, &offsets::SK_V6_RCV_SADDR);
            conn.remote_address = read_address::<M>(tcp, &offsets::SK_V6_DADDR);
        }
        _ => return None,
    }
    Some(())
}

#[inline(always)]
fn read_address<M: Memory>(tcp: u64, offset: &Global<u32>) -> [u8; 16] {
    let halves: [u64; 2] = [M::read(tcp, offset), M::read(tcp + 8, offset)];
    let mut address = [0; 16];
    address[..8].copy_from_slice(&halves[0].to_ne_bytes());
    address[8..].copy_from_slice(&halves[1].to_ne_bytes());
    address
}

/// `inet_sock_set_state`: connections come into being, establish, half-close and fail.
#[inline(always)]
pub fn on_state<M: Memory>(sk: u64, old: u8, new: u8) {
    match (old, new) {
        (_, tcp::SYN_SENT) => opened_by_connect::<M>(sk),
        (tcp::SYN_SENT, tcp::ESTABLISHED) => established::<M>(sk),
        (tcp::SYN_RECV, tcp::ESTABLISHED) => opened_by_peer::<M>(sk),
        (tcp::SYN_SENT, tcp::CLOSE) => connect_failed::<M>(sk),
        (_, tcp::CLOSE_WAIT) => remote_closed::<M>(sk, old, new),
        // From a state to the same: the application closes what it had shut down before. To `CLOSE`: it closes with bytes that it
        // had not read, or with `SO_LINGER` 0, and no FIN leaves.
        (_, tcp::FIN_WAIT1 | tcp::LAST_ACK)
        | (tcp::FIN_WAIT2, tcp::FIN_WAIT2)
        | (tcp::ESTABLISHED | tcp::CLOSE_WAIT, tcp::CLOSE) => local_closed::<M>(sk, old, new),
        (_, tcp::CLOSE) => note_reset::<M>(sk),
        _ => {}
    }
}

#[inline(always)]
fn opened_by_connect<M: Memory>(sk: u64) {
    if let Some(conn) = find(sk) {
        displace(sk, conn);
    }
    let Some(settings) = select::settings() else { return };
    let Some(task) = select::current_task(settings) else { return };
    if select::hopeless(settings, task.mode) {
        return;
    }
    let Some(tcp) = M::tcp(sk) else { return };
    if let Some(conn) = create::<M>(sk, tcp) {
        conn.role = u16::from(role::CLIENT);
        conn.pid = task.pid;
        conn.cgroup_id = task.cgroup_id;
        conn.opener_mode = task.mode;
    }
}

/// Removes what is known of the previous connection at this address. Nobody saw it go, unless its `connect` failed and the
/// same socket connects again.
#[inline(always)]
fn displace(sk: u64, conn: &Conn) {
    if conn.flags & flag::FAILED == 0 {
        warn!(&NoContext, "connection state left behind by another socket");
        emit::lost(KernelLoss::Collision);
    }
    let _ = CONNECTIONS.remove(&sk);
}

#[inline(always)]
fn established<M: Memory>(sk: u64) {
    let Some(conn) = find(sk) else { return };
    let Some(tcp) = M::tcp(sk) else { return };
    conn.established_ns = now();
    note_handshake::<M>(tcp, conn);
    // The local address and port are chosen on the way to SYN_SENT or just after it.
    let _ = read_identity::<M>(tcp, conn);
}

#[inline(always)]
fn opened_by_peer<M: Memory>(sk: u64) {
    if let Some(conn) = find(sk) {
        displace(sk, conn);
    }
    // Softirq context: the current task has nothing to do with it.
    let Some(tcp) = M::tcp(sk) else { return };
    if let Some(conn) = create::<M>(sk, tcp) {
        conn.role = u16::from(role::SERVER);
        conn.established_ns = conn.opened_ns;
        note_handshake::<M>(tcp, conn); // the request's count is handed down to its child
    }
}

#[inline(always)]
fn note_handshake<M: Memory>(tcp: u64, conn: &mut Conn) {
    conn.handshake_retransmits = M::read(tcp, &offsets::TCP_TOTAL_RETRANS);
    conn.retrans_told = conn.handshake_retransmits;
}

/// The peer refused or never answered, the application gave up, or no SYN could be sent.
#[inline(always)]
fn connect_failed<M: Memory>(sk: u64) {
    let Some(conn) = find(sk) else { return };
    let Some(tcp) = M::tcp(sk) else { return };
    let errno = M::read::<i32>(tcp, &offsets::SK_ERR);
    conn.handshake_retransmits = M::read(tcp, &offsets::TCP_TOTAL_RETRANS);
    if errno == 0 && call::in_connect() {
        conn.flags |= flag::FAILING; // the call's result says why
    } else {
        tell_failed::<M>(tcp, conn, errno as u32);
    }
}

/// `connect` returned an error to the current task.
#[inline(always)]
pub fn on_connect_failed(sk: u64, errno: u32) {
    if let Some(conn) = find(sk)
        && conn.flags & flag::FAILING != 0
    {
        tell_failed::<Checked>(sk, conn, errno);
    }
}

#[inline(always)]
fn tell_failed<M: Memory>(tcp: u64, conn: &mut Conn, errno: u32) {
    conn.flags = (conn.flags | flag::FAILED) & !flag::FAILING;
    let Some(settings) = select::settings() else { return };
    let by_connection = select::connection_mode(settings, conn);
    let combined = select::combined(conn.opener_mode, by_connection);
    if select::records(combined) && !sampled_out(conn) {
        let flags = if combined == mode::PAYLOAD { 0 } else { wire::UNSELECTED };
        let change = Change::new(change::CONNECT_FAILED, tcp::SYN_SENT, tcp::CLOSE);
        emit_change::<M>(tcp, conn, Change { errno, flags, ..change });
    }
}

/// The application closed the socket or shut down its sending side; or, from a state in which data moves to `CLOSE`, the connection
/// ended otherwise.
#[inline(always)]
fn local_closed<M: Memory>(sk: u64, old: u8, new: u8) {
    if new == tcp::CLOSE {
        note_reset::<M>(sk);
    }
    let Some(conn) = announced(sk) else { return };
    let Some(tcp) = M::tcp(sk) else { return };
    // `close` and `shutdown` note what they shut before they change the state, all else afterwards. 0: not known.
    let shut = M::read_bits(tcp, &offsets::SK_SHUTDOWN, &offsets::SK_SHUTDOWN_BITS);
    // The peer's FIN had shut the other direction, whatever shuts this one.
    let whole = shut == SHUTDOWN_MASK && (old, new) != (tcp::CLOSE_WAIT, tcp::LAST_ACK);
    if whole {
        message::tell_unread::<M>(tcp, conn);
    } else if new == tcp::CLOSE {
        return;
    }
    let flags = if whole { wire::CLOSED_WHOLE } else { 0 };
    emit_change::<M>(tcp, conn, Change { flags, ..Change::new(change::LOCAL_CLOSED, old, new) });
}

#[inline(always)]
fn note_reset<M: Memory>(sk: u64) {
    if let Some(conn) = find(sk)
        && let Some(tcp) = M::tcp(sk)
        && M::read::<i32>(tcp, &offsets::SK_ERR) == ECONNRESET
    {
        conn.flags |= flag::RESET;
    }
}

/// `tcp_send_reset` (whose socket may be missing) and `tcp_receive_reset`.
#[inline(always)]
pub fn on_reset(sk: u64, by: u32) {
    if sk != 0
        && let Some(conn) = find(sk)
    {
        conn.flags |= flag::RESET | by;
    }
}

#[inline(always)]
fn remote_closed<M: Memory>(sk: u64, old: u8, new: u8) {
    if let Some(conn) = announced(sk)
        && let Some(tcp) = M::tcp(sk)
    {
        emit_change::<M>(tcp, conn, Change::new(change::REMOTE_CLOSED, old, new));
    }
}

/// The connection, if the agent was told of it.
#[inline(always)]
fn announced(sk: u64) -> Option<&'static mut Conn> {
    find(sk).filter(|conn| conn.flags & flag::ANNOUNCED != 0)
}

/// `tcp_destroy_sock`: the socket goes; what is still open is told.
#[inline(always)]
pub fn on_destroy<M: Memory>(sk: u64) {
    let Some(conn) = find(sk) else { return };
    if let Some(tcp) = M::tcp(sk) {
        if conn.flags & flag::ANNOUNCED != 0 {
            message::retire_all::<M>(tcp, conn, now());
            let state = M::read::<u8>(tcp, &offsets::SK_STATE);
            emit_change::<M>(tcp, conn, Change::new(change::CLOSED, state, tcp::CLOSE));
        } else if conn.flags & flag::FAILING != 0 {
            tell_failed::<M>(tcp, conn, 0);
        }
    }
    tls::forget(sk, conn);
    let _ = CONNECTIONS.remove(&sk);
}

/// `accept` on the listening socket `listener`, if that is known, returned this socket to the current task.
#[inline(always)]
pub fn on_accepted(sk: u64, listener: Option<u64>, pid: u32, cgroup_id: u64) {
    let Some(conn) = find(sk) else { return };
    conn.accepted_ns = now();
    conn.pid = pid;
    conn.cgroup_id = cgroup_id;
    if let Some(listener) = listener {
        conn.accept_backlog = Checked::read(listener, &offsets::SK_ACK_BACKLOG);
        conn.accept_backlog_max = Checked::read(listener, &offsets::SK_MAX_ACK_BACKLOG);
    }
}

/// Tells the agent of the connection before the first record of its data, or later if there was no room then: what is not told
/// of has no spans. Called under the socket lock.
#[inline(always)]
pub fn announce<M: Memory>(tcp: u64, conn: &mut Conn) {
    if conn.flags & flag::ANNOUNCED != 0 {
        return;
    }
    if conn.pid == 0 {
        conn.pid = (bpf_get_current_pid_tgid() >> 32) as u32;
        // SAFETY: the helper takes no arguments.
        conn.cgroup_id = unsafe { helpers::bpf_get_current_cgroup_id() };
    }
    read_bases::<M>(tcp, conn);
    if conn.role != u16::from(role::UNKNOWN) {
        conn.flags |= flag::BASES; // else which end sent the SYN decides about one byte
    }
    debug!(&NoContext, "connection {} -> {} of process {}", conn.local_port, conn.remote_port, conn.pid);
    if emit_change::<M>(tcp, conn, Change::new(change::OPENED, tcp::ESTABLISHED, tcp::ESTABLISHED)) {
        conn.flags |= flag::ANNOUNCED;
    }
}

/// Sequence numbers of the first data bytes of both directions.
///
/// `R0 = rcv_nxt - bytes_received`. `S0 = snd_una - bytes_acked + 1 if this end sent the SYN`, because `bytes_acked`
/// then counts the SYN. For connections older than the agent the same difference is found by comparing with the
/// sending side; it is 0 or 1.
#[inline(always)]
fn read_bases<M: Memory>(tcp: u64, conn: &mut Conn) {
    let received = M::read::<u64>(tcp, &offsets::TCP_BYTES_RECEIVED) as u32;
    conn.receive_base = M::read::<u32>(tcp, &offsets::TCP_RCV_NXT).wrapping_sub(received);
    let acked = M::read::<u64>(tcp, &offsets::TCP_BYTES_ACKED) as u32;
    let base = M::read::<u32>(tcp, &offsets::TCP_SND_UNA).wrapping_sub(acked);
    if conn.flags & flag::PREEXISTING != 0 {
        let sent = M::read::<u64>(tcp, &offsets::TCP_BYTES_SENT) as u32;
        let resent = M::read::<u64>(tcp, &offsets::TCP_BYTES_RETRANS) as u32;
        let first = M::read::<u32>(tcp, &offsets::TCP_SND_NXT).wrapping_sub(sent.wrapping_sub(resent));
        match first.wrapping_sub(base) {
            0 => conn.role = u16::from(role::SERVER),
            1 => conn.role = u16::from(role::CLIENT),
            _ => {} // half-closed: stays unknown
        }
    }
    let active = u32::from(conn.role == u16::from(role::CLIENT));
    conn.send_base = base.wrapping_add(active);
}

/// A change as it is told.
struct Change {
    what: u8,
    old: u8,
    new: u8,
    errno: u32,
    /// Bits of [`wire`] that are of this change alone.
    flags: u16,
}

impl Change {
    #[inline(always)]
    fn new(what: u8, old: u8, new: u8) -> Self {
        Self { what, old, new, errno: 0, flags: 0 }
    }
}

#[inline(always)]
fn emit_change<M: Memory>(tcp: u64, conn: &mut Conn, change: Change) -> bool {
    let time_ns = now();
    let selected = if conn.generation != 0 && conn.mode == mode::PAYLOAD { wire::SELECTED } else { 0 };
    let flags = selected | (conn.flags & flag::TOLD) as u16 | change.flags;
    let preexisting = conn.flags & flag::PREEXISTING != 0;
    let send_end = M::read(tcp, &offsets::TCP_WRITE_SEQ);
    let receive_end = M::read(tcp, &offsets::TCP_COPIED_SEQ);
    snapshot::take::<M>(tcp, conn, time_ns);
    let tcp = snapshot::taken(conn);
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
            errno: change.errno,
            role: conn.role as u8,
            change: change.what,
            old_state: change.old,
            new_state: change.new,
            tcp,
            handshake_retransmits: conn.handshake_retransmits,
            accept_backlog: conn.accept_backlog,
            accept_backlog_max: conn.accept_backlog_max,
            path_len: 0,
            path: [[0; 16]; 7],
        };
        // SAFETY: `record` is the reserved entry of exactly this size.
        unsafe { record.write(value) }
    })
}
