//! UDP: datagrams as calls send and receive them, and when those that are received had arrived.
//!
//! That a call touched a UDP socket shows at its return, by a walk from its descriptor: hooks at the socket's own calls
//! would cost every TCP message too. A socket is known from the first call of a recorded task on it.
//!
//! Arrivals are numbered by `sk_data_ready`. What a call took is numbered by what is still in the socket's queues after it, so
//! one arrival that was not noted, or one datagram that was dropped for its checksum, does not shift the others.
//!
//! That a socket is closed is told where somebody waits: an error that the network tells (port unreachable) is returned by
//! the next call, but glibc sees it in a poll and closes.
//!
//! Limits: the first [`DATAGRAMS_PER_CALL`] datagrams of one call; no io_uring, no `splice`.

use agent_common::{
    datagram::{DatagramRecord, flag as wire},
    header::kind,
    loss::KernelLoss,
    message::{CallRecord, PAYLOAD_BYTES_LIMIT, direction},
    settings::Settings,
};
use aya_ebpf::{
    bindings::BPF_ANY,
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user},
};
use core::intrinsics::{AtomicOrdering, atomic_xadd};

use crate::{
    arch::number,
    call,
    emit::{self, now},
    maps::{self, Copy, DATAGRAM_PLACES, DATAGRAM_SOCKETS, DATAGRAMS, Message, Scratch},
    offsets::{self, read},
    payload, sched, select,
    socket::{self, AF_INET, AF_INET6},
    state::{ARRIVALS, DatagramSocket, Task},
    walk::Found,
};

/// Datagrams of one `sendmmsg` or `recvmmsg` that are told; the others are counted.
const DATAGRAMS_PER_CALL: u32 = 8;
/// Port whose messages are captured whole: of a DNS answer cut short nobody knows the addresses.
const DNS: u16 = 53;
/// Number of this table's hand.
const HAND: u32 = 0;
/// `next` of a socket that was only just met: lower than any number.
const NOTHING_READ: i64 = i64::MIN / 2;
/// `struct mmsghdr`: a `msghdr` of 56 bytes, the length of the message, padding.
const MMSGHDR_BYTES: u64 = 64;
const MMSGHDR_LENGTH: u64 = 56;

/// `sk_data_ready` of a UDP socket.
#[inline(always)]
pub fn on_ready(sk: u64) {
    let Some(found) = DATAGRAMS.get_ptr_mut(&sk) else { return };
    // SAFETY: a live map value. Several CPUs may deliver at once, so each takes a number of its own.
    unsafe {
        let number = atomic_xadd::<u64, u64, { AtomicOrdering::AcqRel }>(&raw mut (*found).arrived, 1);
        (*found).times[(number & (ARRIVALS - 1)) as usize] = now();
    }
}

/// A call that moved datagrams, or failed to: tells of the one that is next. Returns whether another one is.
#[inline(always)]
pub fn returned(settings: &Settings, task: &mut Task, found: Found, id: u64, result: i64) -> bool {
    let sends = call::is_write(id);
    if !sends && task.message_flags & call::MSG_PEEK != 0 {
        return false;
    }
    let Some(scratch) = maps::scratch() else { return false };
    let many = id == number::SENDMMSG || id == number::RECVMMSG;
    let left = if many && result > 0 { (result as u32).wrapping_sub(task.datagram) } else { 1 };
    locate(scratch, task, id, result);
    let record = begin_record(scratch);
    // SAFETY: the record's place in the scratch; see `begin_record`.
    let record = unsafe { &mut *record };
    record.flags = 0;
    describe_ends(record, found.sk, scratch.message.name);
    let by_endpoint = select::endpoint_mode(settings, record.local_port, record.remote_port, record.netns);
    let combined = select::combined(task.mode, by_endpoint);
    if select::records(combined) {
        let Some(socket) = find_or_insert(found) else { return false };
        if result >= 0 {
            task.awaits = if sends { found.sk } else { 0 };
        }
        record.socket_id = socket.id;
        record.direction = if sends { direction::SEND } else { direction::RECEIVE };
        record.arrival_ns = if sends || result < 0 { 0 } else { take_arrival(socket, found.sk, left) };
        record.result = if result < 0 { result as i32 } else { 0 };
        tell(settings, task, scratch, record, select::payload(settings, combined));
    }
    task.datagram += 1;
    if left > 1 && task.datagram >= DATAGRAMS_PER_CALL {
        emit::lost_many(KernelLoss::DatagramOmitted, u64::from(left - 1));
        return false;
    }
    left > 1
}

#[inline(always)]
fn find_or_insert(found: Found) -> Option<&'static mut DatagramSocket> {
    if let Some(known) = DATAGRAMS.get_ptr_mut(&found.sk) {
        // SAFETY: a live map value.
        let known = unsafe { &mut *known };
        if known.inode == found.inode {
            return Some(known);
        }
    } else if socket::take_place(&DATAGRAM_PLACES, DATAGRAM_SOCKETS, HAND, found.sk, |sk, _| is_gone(sk)).is_none() {
        emit::lost(KernelLoss::DatagramTableFull);
        return None;
    }
    let id = socket::unique_id(now());
    let fresh =
        DatagramSocket { id, inode: found.inode, arrived: 0, next: NOTHING_READ, times: [0; ARRIVALS as usize] };
    if DATAGRAMS.insert(&found.sk, &fresh, u64::from(BPF_ANY)).is_err() {
        emit::lost(KernelLoss::DatagramTableFull);
        return None;
    }
    // SAFETY: a live map value.
    DATAGRAMS.get_ptr_mut(&found.sk).map(|socket| unsafe { &mut *socket })
}

/// The thread closes the socket on which it waits: tells so, with the error of which poll alone has told.
#[inline(always)]
pub fn closes(task: &mut Task, found: Found) {
    task.awaits = 0;
    let Some(known) = DATAGRAMS.get_ptr(&found.sk) else { return };
    // SAFETY: a live map value.
    let socket = unsafe { &*known };
    if socket.inode != found.inode {
        return;
    }
    let (id, result) = (socket.id, 0i32.wrapping_sub(read(found.sk, &offsets::SK_ERR).unwrap_or(0)));
    // Not in the scratch, which is for the returns of calls.
    emit::record::<DatagramRecord>(|place| {
        // SAFETY: the reserved entry of exactly this size. Integers only, all of which are written here.
        let record = unsafe { &mut *place };
        record.flags = wire::CLOSED;
        describe_ends(record, found.sk, 0);
        record.socket_id = id;
        record.direction = direction::RECEIVE;
        record.arrival_ns = 0;
        record.result = result;
        (record.length, record.index) = (0, 0);
        describe_call(record, task, 0);
        record.enter_ns = 0;
    });
}

/// Forgets the socket if it went.
#[inline(always)]
fn is_gone(sk: u64) -> bool {
    let Some(known) = DATAGRAMS.get_ptr(&sk) else { return true };
    // SAFETY: a live map value.
    if socket::inode(sk) == Some(unsafe { (*known).inode }) {
        return false;
    }
    let _ = DATAGRAMS.remove(&sk);
    true
}

/// When the first of the `count` datagrams that this call took and did not tell yet had arrived; 0 if that was not noted, or is
/// forgotten.
#[inline(always)]
fn take_arrival(socket: &mut DatagramSocket, sk: u64, count: u32) -> u64 {
    // struct sk_buff_head.qlen of the queue that softirqs fill and of the one that readers empty.
    let queued = u64::from(read::<u32>(sk, &offsets::SK_RECEIVE_QUEUE).unwrap_or(0))
        + u64::from(read::<u32>(sk, &offsets::UDP_READER_QUEUE).unwrap_or(0));
    // SAFETY: a live reference.
    let arrived = unsafe { (&raw const socket.arrived).read_volatile() } as i64;
    let by_queue = arrived.wrapping_sub(queued as i64).wrapping_sub(i64::from(count));
    // An arrival that was in the queue and is not noted yet makes `by_queue` too low.
    let number = if by_queue > socket.next { by_queue } else { socket.next };
    if number >= arrived {
        socket.next = arrived;
        return 0;
    }
    socket.next = number + 1;
    if number < 0 || arrived - number > ARRIVALS as i64 {
        return 0;
    }
    socket.times[(number as u64 & (ARRIVALS - 1)) as usize]
}

/// Where the datagram that is next lies in the application's memory: into `scratch.message`. In registers and on the stack
/// its variants would multiply what the verifier follows.
#[inline(always)]
fn locate(scratch: &mut Scratch, task: &Task, id: u64, result: i64) {
    let length = if result > 0 { result as u32 } else { 0 };
    let message = &mut scratch.message;
    *message = Message { name: task.address, base: task.buffer, count: u64::MAX, length, failed: 0 };
    match id {
        number::READ | number::WRITE | number::SENDTO | number::RECVFROM => {}
        number::READV | number::WRITEV | number::PREADV2 | number::PWRITEV2 => message.count = task.count,
        number::SENDMSG | number::RECVMSG | number::SENDMMSG | number::RECVMMSG => {
            let many = id == number::SENDMMSG || id == number::RECVMMSG;
            if read_header(message, task.buffer + u64::from(task.datagram) * MMSGHDR_BYTES, many && result > 0)
                .is_none()
            {
                *message = Message { name: 0, base: 0, count: 0, length, failed: 1 };
            }
        }
        _ => message.failed = 1,
    }
}

#[inline(always)]
fn read_header(message: &mut Message, header: u64, has_length: bool) -> Option<()> {
    // msghdr: name 8, namelen 4 + 4, iov 8, iovlen 8.
    // SAFETY: the helper checks the address, here and below.
    let [name, name_length, base, count] = unsafe { bpf_probe_read_user(header as *const [u64; 4]).ok()? };
    message.name = if name_length as u32 == 0 { 0 } else { name };
    message.base = base;
    message.count = count;
    if has_length {
        // SAFETY: as above.
        message.length = unsafe { bpf_probe_read_user((header + MMSGHDR_LENGTH) as *const u32).ok()? };
    }
    Some(())
}

#[inline(always)]
fn tell(settings: &Settings, task: &Task, scratch: &mut Scratch, record: &mut DatagramRecord, selected: bool) {
    let mut captured = 0;
    if scratch.message.failed != 0 {
        record.flags |= wire::UNREADABLE;
    } else if selected && settings.payload_bytes_max != 0 && scratch.message.length != 0 {
        let whole = record.remote_port == DNS || record.local_port == DNS;
        let limit = if whole { PAYLOAD_BYTES_LIMIT as u32 } else { settings.payload_bytes_max };
        captured = capture(scratch, record, limit);
    }
    if selected {
        record.flags |= wire::SELECTED;
    }
    if sched::complete(task) {
        record.flags |= wire::SCHED;
    }
    record.length = scratch.message.length;
    record.index = task.datagram as u16;
    describe_call(record, task, captured);
    emit_record(record, captured);
}

#[inline(always)]
fn describe_call(record: &mut DatagramRecord, task: &Task, captured: u32) {
    record.header = emit::header(kind::DATAGRAM, now());
    record.enter_ns = task.enter_ns;
    record.transmitted_ns = 0;
    record.woken_ns = task.woken_ns;
    record.running_ns = task.running_ns;
    record.run_queue_enter_ns = task.run_queue_enter_ns;
    record.run_queue_exit_ns = task.run_queue_ns;
    record.off_cpu_ns = sched::off_cpu(task);
    record.off_cpu_inside_ns = task.off_cpu_total_ns.wrapping_sub(task.off_cpu_enter_ns);
    record.cgroup_id = task.cgroup_id;
    record.pid = task.pid;
    record.tid = bpf_get_current_pid_tgid() as u32;
    record.payload_len = captured as u16;
    record.slept_in = sched::slept_in(task);
    record.padding = [0; 6];
}

/// The place of a record right before the scratch's payload, so that both go out as one piece.
#[inline(always)]
fn begin_record(scratch: &mut Scratch) -> *mut DatagramRecord {
    const { assert!(size_of::<DatagramRecord>() <= size_of::<CallRecord>()) };
    const { assert!((size_of::<CallRecord>() - size_of::<DatagramRecord>()).is_multiple_of(8)) };
    let before = size_of::<CallRecord>() - size_of::<DatagramRecord>();
    // SAFETY: within `scratch.call`, by the assertions.
    unsafe { (&raw mut scratch.call).cast::<u8>().add(before).cast() }
}

#[inline(always)]
fn emit_record(record: *const DatagramRecord, captured: u32) {
    let mut length = core::hint::black_box(captured);
    if length > PAYLOAD_BYTES_LIMIT as u32 {
        length = PAYLOAD_BYTES_LIMIT as u32; // never; for the verifier
    }
    emit::bytes(record.cast(), size_of::<DatagramRecord>() as u64 + u64::from(length));
}

/// Fills in both ends, and how the remote one is known.
#[inline(always)]
fn describe_ends(record: &mut DatagramRecord, sk: u64, name: u64) {
    record.netns = 0;
    if let Some(net) = read::<u64>(sk, &offsets::SK_NET) {
        record.netns = read(net, &offsets::NET_INUM).unwrap_or(0);
    }
    record.family = read(sk, &offsets::SK_FAMILY).unwrap_or(0);
    record.local_port = read(sk, &offsets::SK_NUM).unwrap_or(0);
    record.remote_port = u16::from_be(read(sk, &offsets::SK_DPORT).unwrap_or(0));
    record.local_address = [0; 16];
    record.remote_address = [0; 16];
    if record.family == AF_INET {
        let local: [u8; 4] = read(sk, &offsets::SK_RCV_SADDR).unwrap_or_default();
        let remote: [u8; 4] = read(sk, &offsets::SK_DADDR).unwrap_or_default();
        record.local_address[..4].copy_from_slice(&local);
        record.remote_address[..4].copy_from_slice(&remote);
    } else {
        record.local_address = read(sk, &offsets::SK_V6_RCV_SADDR).unwrap_or_default();
        record.remote_address = read(sk, &offsets::SK_V6_DADDR).unwrap_or_default();
    }
    if record.remote_port != 0 {
        record.flags |= wire::CONNECTED;
    }
    if given_address(record, name).is_none() && record.remote_port == 0 {
        record.flags |= wire::NO_REMOTE;
    }
}

/// The remote address as the application gave it or was given it: a `sockaddr_in` or `sockaddr_in6`.
#[inline(always)]
fn given_address(record: &mut DatagramRecord, name: u64) -> Option<()> {
    if name == 0 {
        return None;
    }
    // SAFETY: the helper checks the addresses, here and below.
    let [family, port] = unsafe { bpf_probe_read_user(name as *const [u16; 2]).ok()? };
    if family == AF_INET6 {
        // SAFETY: as above. Port 2, flow information 4.
        record.remote_address = unsafe { bpf_probe_read_user((name + 8) as *const [u8; 16]).ok()? };
    } else {
        // SAFETY: as above.
        let address = unsafe { bpf_probe_read_user((name + 4) as *const [u8; 4]).ok()? };
        record.remote_address = [0; 16];
        if record.family == AF_INET6 {
            record.remote_address[10..12].copy_from_slice(&[0xff; 2]); // as such a socket names IPv4 itself
            record.remote_address[12..].copy_from_slice(&address);
        } else {
            record.remote_address[..4].copy_from_slice(&address);
        }
    }
    record.remote_port = u16::from_be(port);
    Some(())
}

/// Copies the datagram's first bytes behind the record; returns how many.
#[inline(always)]
fn capture(scratch: &mut Scratch, record: &mut DatagramRecord, limit: u32) -> u32 {
    let Message { base, count, length, .. } = scratch.message;
    scratch.copy = Copy { last_base: 0, last_size: 0, left: length, length: 0, failed: 0 };
    payload::copy_buffers(limit, scratch, base, count, length);
    let copy = payload::volatile(&scratch.copy);
    if copy.failed != 0 {
        record.flags |= wire::UNREADABLE;
        emit::lost(KernelLoss::PayloadUnreadable);
    } else if copy.length < length {
        record.flags |= wire::TRUNCATED;
        emit::lost(KernelLoss::PayloadTruncated);
    }
    copy.length
}
