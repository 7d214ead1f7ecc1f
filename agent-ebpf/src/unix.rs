//! Unix stream sockets, told like TCP connections: a record when one is first used, one per call, one when it ends.
//!
//! Their bytes have no sequence numbers, so calls are counted from 0 at `connect` and `accept`; of a socket that was
//! met later (`PREEXISTING`: older than the agent or its selection, or from `socketpair`) from where it was met. Which end this
//! is shows the same calls, else who has the address. There is no network: what is written is in the other end's queue at
//! once, and `sk_data_ready` there is its arrival.
//!
//! When one goes, no hook tells: `close` asks whether its socket is still there (since Linux 6.5; the kernel lets go
//! later before), and the hand of `socket` finds the others, so the end may be told late.
//!
//! Limits: no datagrams, `SOCK_SEQPACKET`, `sendmmsg`, `recvmmsg`, io_uring, nor bytes spliced into a socket. Of several
//! arrivals between two reads only the first and the last are kept.

use agent_common::{
    connection::{ConnectionRecord, TcpSnapshot, change, flag as wire, role},
    header::kind,
    loss::KernelLoss,
    message::{direction, flag as call_flag},
    settings::Settings,
};
use aya_ebpf::{bindings::BPF_ANY, helpers::generated as helpers};

use crate::{
    arch::number,
    call::{self, Call},
    emit::{self, now},
    maps::{EMPTY_UNIX_STREAM, UNIX_PLACES, UNIX_SOCKETS, UNIX_STREAMS},
    offsets::{self, read},
    select,
    socket::{self, AF_UNIX},
    state::{Arrived, Task, UnixStream},
    walk::Found,
};

/// Number of this table's hand.
const HAND: u32 = 1;
/// `sun_family` of `struct sockaddr_un`.
const FAMILY_BYTES: u32 = 2;
const PATH_BYTES: u32 = 108;

/// Bits of [`UnixStream::flags`].
mod flag {
    pub const PREEXISTING: u32 = 1;
    pub const ANNOUNCED: u32 = 2;
    pub const REMOTE_CLOSED: u32 = 4;
}

/// `sk_data_ready`: bytes, or the end of the stream, are in this socket's queue. Its `accept` may be still to come: then the
/// sender keeps the times for it.
#[inline(always)]
pub fn on_ready(sk: u64) {
    if let Some(stream) = known(sk) {
        return note(&mut stream.arrived);
    }
    if let Some(sender) = known_peer(sk) {
        note(&mut sender.delivered);
    }
}

#[inline(always)]
fn note(arrived: &mut Arrived) {
    let time_ns = now();
    if arrived.count == 0 {
        arrived.first_ns = time_ns;
    }
    arrived.last_ns = time_ns;
    arrived.count += 1;
}

/// `connect` succeeded.
#[inline(always)]
pub fn on_connected(settings: &Settings, task: &Task, found: Found) {
    if let Some(stream) = meet(settings, task, found, role::CLIENT) {
        stream.opened_ns = task.enter_ns;
        stream.established_ns = now();
    }
}

/// `accept` returned this socket.
#[inline(always)]
pub fn on_accepted(settings: &Settings, task: &Task, found: Found) {
    if let Some(stream) = meet(settings, task, found, role::SERVER) {
        stream.accepted_ns = now();
        if let Some(sender) = known_peer(found.sk) {
            stream.arrived = sender.delivered;
            stream.opened_ns = sender.opened_ns;
            stream.established_ns = sender.established_ns;
        }
    }
}

/// A connection from its beginning on.
#[inline(always)]
fn meet(settings: &Settings, task: &Task, found: Found, role: u8) -> Option<&'static mut UnixStream> {
    if !select::records(mode(settings, task, found.sk)) {
        return None;
    }
    let stream = insert(task, found, known(found.sk).is_some())?;
    stream.role = u32::from(role);
    stream.flags = 0;
    Some(stream)
}

/// What is recorded: by the task, and by the network namespace, which unix sockets have too.
#[inline(always)]
fn mode(settings: &Settings, task: &Task, sk: u64) -> u32 {
    select::combined(task.mode, select::endpoint_mode(settings, 0, 0, netns(sk)))
}

#[inline(always)]
fn netns(sk: u64) -> u32 {
    read::<u64>(sk, &offsets::SK_NET).and_then(|net| read(net, &offsets::NET_INUM)).unwrap_or(0)
}

/// A call on a unix stream socket returned.
#[inline(always)]
pub fn returned(settings: &Settings, task: &mut Task, found: Found, id: u64, result: i64) {
    let sends = call::is_write(id);
    let ignored = id == number::SENDMMSG || id == number::RECVMMSG;
    if ignored || (!sends && task.message_flags & call::MSG_PEEK != 0) || !call::says_something(task, id, result) {
        return;
    }
    let mode = mode(settings, task, found.sk);
    if !select::records(mode) {
        return;
    }
    let Some(stream) = find_or_insert(task, found) else { return };
    if stream.flags & flag::ANNOUNCED == 0 && emit_change(found.sk, stream, change::OPENED) {
        stream.flags |= flag::ANNOUNCED;
    }
    let time_ns = now();
    let moved = if result > 0 { result as u32 } else { 0 };
    let position = if sends { &mut stream.sent } else { &mut stream.received };
    let start = *position;
    let end = start.wrapping_add(moved);
    *position = end;
    if !sends {
        task.receive_queue = 0;
        task.out_of_order = 0;
        if moved != 0 {
            describe_arrival(task, stream, found.sk, end);
        } else {
            task.arrival_first_ns = 0;
            task.arrival_last_ns = 0;
            task.arrival_end = start;
        }
        if result == 0 {
            task.call_flags |= u32::from(call_flag::END_OF_STREAM);
        }
    }
    // Only TCP has these.
    (task.arrival_softirq_ns, task.receive_queue, task.out_of_order, task.behind_hole_us) = (0, 0, 0, 0);
    let direction = if sends { direction::SEND } else { direction::RECEIVE };
    task.call_flags |= select::chosen(settings, mode);
    let range = (start, end);
    let call = Call { id, result, direction, range, moved, time_ns, transmitted_ns: 0 };
    call::tell(settings, task, stream.id, call);
    if result == 0 && !sends && stream.flags & flag::REMOTE_CLOSED == 0 {
        stream.flags |= flag::REMOTE_CLOSED;
        emit_change(found.sk, stream, change::REMOTE_CLOSED);
    }
}

/// When what was just read had arrived. Of what is left in the queue only the last time is known.
#[inline(always)]
fn describe_arrival(task: &mut Task, stream: &mut UnixStream, sk: u64, end: u32) {
    let arrived = stream.arrived;
    task.arrival_softirq_ns = 0;
    task.arrival_first_ns = arrived.first_ns;
    task.arrival_last_ns = arrived.last_ns;
    task.arrival_end = end;
    if arrived.count > 1 {
        task.call_flags |= u32::from(call_flag::MERGED);
    }
    stream.arrived = if read::<u32>(sk, &offsets::SK_RECEIVE_QUEUE) == Some(0) {
        Arrived { first_ns: 0, last_ns: 0, count: 0 }
    } else {
        Arrived { first_ns: arrived.last_ns, ..arrived }
    };
}

/// `close` of a descriptor begins; returns whether its return matters.
#[inline(always)]
pub fn is_known(found: Found) -> bool {
    known(found.sk).is_some_and(|stream| stream.inode == found.inode)
}

/// A descriptor of this socket was closed: perhaps the last one.
#[inline(always)]
pub fn on_closed(sk: u64) {
    if let Some(stream) = known(sk) {
        forget_gone(sk, stream);
    }
}

#[inline(always)]
fn known(sk: u64) -> Option<&'static mut UnixStream> {
    // SAFETY: a live map value. Two threads in one socket's calls may race; one call's range is then wrong.
    UNIX_STREAMS.get_ptr_mut(&sk).map(|stream| unsafe { &mut *stream })
}

/// What is known of the other end, if that is the socket of which it is known, and not one that came to its address since.
#[inline(always)]
fn known_peer(sk: u64) -> Option<&'static mut UnixStream> {
    let peer = peer(sk)?;
    known(peer).filter(|stream| socket::inode(peer) == Some(stream.inode))
}

#[inline(always)]
fn find_or_insert(task: &Task, found: Found) -> Option<&'static mut UnixStream> {
    let mut occupied = false;
    if let Some(stream) = known(found.sk) {
        if stream.inode == found.inode {
            return Some(stream);
        }
        occupied = true;
    }
    let stream = insert(task, found, occupied)?;
    stream.flags = flag::PREEXISTING;
    // The end that was bound listened; the one that connected seldom has a name.
    stream.role = match (has_name(found.sk), peer(found.sk).is_some_and(has_name)) {
        (true, false) => u32::from(role::SERVER),
        (false, true) => u32::from(role::CLIENT),
        _ => u32::from(role::UNKNOWN),
    };
    Some(stream)
}

/// Makes an entry; if there is one already, that of a socket that went, in its place.
#[inline(always)]
fn insert(task: &Task, found: Found, occupied: bool) -> Option<&'static mut UnixStream> {
    let place = if occupied {
        let stream = known(found.sk)?;
        end(found.sk, stream);
        stream.place
    } else {
        let Some(place) = socket::take_place(&UNIX_PLACES, UNIX_SOCKETS, HAND, found.sk, is_free) else {
            emit::lost(KernelLoss::ConnectionTableFull);
            return None;
        };
        place
    };
    let empty = EMPTY_UNIX_STREAM.get_ptr(0)?;
    // SAFETY: `empty` is a live map value that nobody writes. On the stack it would not fit beside a call's.
    if UNIX_STREAMS.insert(&found.sk, unsafe { &*empty }, u64::from(BPF_ANY)).is_err() {
        emit::lost(KernelLoss::ConnectionTableFull);
        return None;
    }
    let stream = known(found.sk)?;
    stream.id = socket::unique_id(now());
    stream.inode = found.inode;
    stream.cgroup_id = task.cgroup_id;
    stream.pid = task.pid;
    stream.place = place;
    Some(stream)
}

/// Whether a place can be taken: its socket went, or was met anew since and has another one.
#[inline(always)]
fn is_free(sk: u64, place: u32) -> bool {
    known(sk).is_none_or(|stream| stream.place != place || forget_gone(sk, stream))
}

/// Forgets the socket if it went, and tells that.
#[inline(always)]
fn forget_gone(sk: u64, stream: &UnixStream) -> bool {
    if socket::inode(sk) == Some(stream.inode) {
        return false;
    }
    end(sk, stream);
    let _ = UNIX_STREAMS.remove(&sk);
    true
}

#[inline(always)]
fn end(sk: u64, stream: &UnixStream) {
    if stream.flags & flag::ANNOUNCED != 0 {
        emit_change(sk, stream, change::CLOSED);
    }
}

#[inline(always)]
fn peer(sk: u64) -> Option<u64> {
    read(sk, &offsets::UNIX_PEER).filter(|peer| *peer != 0)
}

#[inline(always)]
fn has_name(sk: u64) -> bool {
    read::<u64>(sk, &offsets::UNIX_ADDRESS).is_some_and(|address| address != 0)
}

/// The address of the listening end: an accepted socket has its listener's.
#[inline(always)]
fn name(sk: u64) -> Option<u64> {
    let own = read::<u64>(sk, &offsets::UNIX_ADDRESS).filter(|address| *address != 0);
    own.or_else(|| read::<u64>(peer(sk)?, &offsets::UNIX_ADDRESS).filter(|address| *address != 0))
}

/// Bytes of the number that stands for an end in its record's address.
#[inline(always)]
fn address(inode: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&inode.to_ne_bytes());
    bytes
}

/// A function of its own for the verifier: it is called from many places.
#[inline(never)]
fn emit_change(sk: u64, stream: &UnixStream, what: u8) -> bool {
    let closed = what == change::CLOSED;
    // Of a socket that went, nothing can be read any more.
    let other = if closed { None } else { peer(sk).and_then(socket::inode) };
    let name = if closed { None } else { name(sk) };
    let netns = if closed { 0 } else { netns(sk) };
    let time_ns = now();
    let header = emit::header(kind::CONNECTION, time_ns);
    let preexisting = stream.flags & flag::PREEXISTING != 0;
    emit::record::<ConnectionRecord>(|record| {
        let value = ConnectionRecord {
            header,
            connection_id: stream.id,
            cgroup_id: stream.cgroup_id,
            opened_ns: stream.opened_ns,
            established_ns: stream.established_ns,
            accepted_ns: stream.accepted_ns,
            changed_ns: time_ns,
            local_address: address(stream.inode),
            remote_address: address(other.unwrap_or(0)),
            local_port: 0,
            remote_port: 0,
            family: AF_UNIX,
            flags: if preexisting { wire::PREEXISTING } else { wire::BASES },
            netns,
            pid: stream.pid,
            send_base: 0,
            receive_base: 0,
            send_end: stream.sent,
            receive_end: stream.received,
            errno: 0,
            role: stream.role as u8,
            change: what,
            old_state: 0,
            new_state: 0,
            tcp: TcpSnapshot::default(),
            handshake_retransmits: 0,
            accept_backlog: 0,
            accept_backlog_max: 0,
            path_len: 0,
            path: [[0; 16]; 7],
        };
        // SAFETY: `record` is the reserved entry of exactly this size, and so is its path.
        unsafe {
            record.write(value);
            if let Some(name) = name {
                (*record).path_len = copy_path((&raw mut (*record).path).cast(), name);
            }
        }
    })
}

/// Copies the path of a `struct unix_address` to where `PATH_BYTES` fit; returns its length.
#[inline(always)]
fn copy_path(to: *mut u8, address: u64) -> u32 {
    let length = read::<u32>(address, &offsets::UNIX_ADDRESS_LENGTH).unwrap_or(0);
    let mut length = core::hint::black_box(length.saturating_sub(FAMILY_BYTES));
    if length > PATH_BYTES {
        length = PATH_BYTES;
    }
    let from = address + u64::from(offsets::UNIX_ADDRESS_NAME.load()) + u64::from(FAMILY_BYTES);
    // SAFETY: `to` has `PATH_BYTES`; the helper checks the source.
    if length == 0 || unsafe { helpers::bpf_probe_read_kernel(to.cast(), length, from as *const _) } != 0 {
        return 0;
    }
    length
}
