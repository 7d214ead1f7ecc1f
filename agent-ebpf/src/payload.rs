//! What is copied of the bytes that a call moved.
//!
//! In: a call that returned, whose buffers the kernel has just touched, so they are resident. Out: bytes in this CPU's scratch,
//! behind the room for the call's record.

use core::ffi::c_void;

use agent_common::{
    loss::KernelLoss,
    message::{PAYLOAD_BYTES_LIMIT, TAIL_BYTES, WHOLE_CALL_BYTES, WHOLE_PLAINTEXT_BYTES, flag as wire, whole},
    settings::Settings,
};
use aya_ebpf::{
    bindings::BPF_ANY,
    helpers::{bpf_probe_read_user, generated as helpers},
};

use crate::{
    arch::number,
    call::Call,
    emit,
    maps::{self, Copy, Scratch, Vector, WHOLE_CALLS},
    state::Task,
};

/// Buffers of one call that are looked at: as many as a call may have (`UIO_MAXIOV`).
const BUFFERS: u64 = 1024;
/// `recv` with it discards bytes instead of copying them.
const MSG_TRUNC: u32 = 0x20;

/// How much of a call's bytes is in the scratch: the first ones, and behind them the last ones.
pub struct Captured {
    pub length: u32,
    pub tail: u32,
}

/// Nothing of it.
pub const NOTHING: Captured = Captured { length: 0, tail: 0 };

/// Copies the first bytes that moved, and the last few if the middle is left out.
#[inline(always)]
pub fn capture(
    settings: &Settings,
    task: &mut Task,
    scratch: &mut Scratch,
    connection_id: u64,
    &Call { id, moved, .. }: &Call,
) -> Captured {
    if id == number::SENDFILE || id == number::SPLICE || task.message_flags & MSG_TRUNC != 0 {
        task.call_flags |= u32::from(wire::NO_BUFFER);
        return NOTHING;
    }
    let first = first_message(task, id, moved);
    scratch.copy = Copy { last_base: 0, last_size: 0, left: first, length: 0, failed: 0 };
    match buffers(task, id) {
        Some((base, count)) => {
            let limit = limit(settings, connection_id, base, count, moved);
            copy_buffers(limit, scratch, base, count, first);
        }
        None => scratch.copy.failed = 1,
    }
    let copy = volatile(&scratch.copy);
    if copy.failed != 0 {
        task.call_flags |= u32::from(wire::UNREADABLE);
        emit::lost(KernelLoss::PayloadUnreadable);
    }
    let start = (&raw const scratch.payload).cast::<[u8; START_BYTES]>();
    // SAFETY: the scratch has more bytes than these; what is behind `copy.length` is of an earlier call.
    let start = unsafe { start.read_volatile() };
    want_whole(connection_id, start, (copy.length, moved), whole::SOCKET);
    if copy.length >= moved {
        return Captured { length: copy.length, tail: 0 };
    }
    task.call_flags |= u32::from(wire::TRUNCATED);
    emit::lost(KernelLoss::PayloadTruncated);
    let tail = if first == moved { copy_tail(scratch, &copy, moved) } else { 0 };
    Captured { length: copy.length, tail }
}

/// How many of the bytes are in the first message's buffers: all, but for `recvmmsg` and `sendmmsg`.
#[inline(always)]
fn first_message(task: &Task, id: u64, moved: u32) -> u32 {
    if id != number::RECVMMSG && id != number::SENDMMSG {
        return moved;
    }
    // mmsghdr: msghdr 56, msg_len 4.
    // SAFETY: the helper checks the address.
    match unsafe { bpf_probe_read_user((task.buffer + 56) as *const u32) } {
        Ok(length) if length < moved => length,
        Ok(_) => moved,
        Err(_) => 0,
    }
}

/// Where the buffers are: a vector of `count`, or one buffer if `count` is `u64::MAX`.
#[inline(always)]
fn buffers(task: &Task, id: u64) -> Option<(u64, u64)> {
    match id {
        number::READ | number::WRITE | number::SENDTO | number::RECVFROM => Some((task.buffer, u64::MAX)),
        number::READV | number::WRITEV | number::PREADV2 | number::PWRITEV2 => Some((task.buffer, task.count)),
        _ => {
            // msghdr: name 8, namelen 4 + 4, iov 8, iovlen 8; mmsghdr starts with one.
            // SAFETY: the helper checks the address.
            let [base, count] = unsafe { bpf_probe_read_user((task.buffer + 16) as *const [u64; 2]).ok()? };
            Some((base, count))
        }
    }
}

/// Where the first buffer of the call in progress is.
#[inline(always)]
pub fn first_buffer(task: &Task) -> Option<u64> {
    let (base, count) = buffers(task, task.number.wrapping_sub(1))?;
    // SAFETY: the helper checks the address.
    if count == u64::MAX { Some(base) } else { unsafe { bpf_probe_read_user(base as *const u64) }.ok() }
}

/// How much of the call is captured: the configured limit, but as much as there is room for if the call looks as if it began a
/// message of a known protocol (a cut within a head hides where the body ends, and what is pipelined or multiplexed follows), or if the
/// agent asked for it, because on this connection messages begin within calls.
#[inline(always)]
fn limit(settings: &Settings, connection_id: u64, base: u64, count: u64, moved: u32) -> u32 {
    if moved <= settings.payload_bytes_max {
        return settings.payload_bytes_max;
    }
    let first = if count == u64::MAX {
        Ok(base)
    } else {
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_user(base as *const u64) }
    };
    let limit = first.map_or(settings.payload_bytes_max, |first| limit_at(settings, first));
    if moved > limit && is_wanted_whole(connection_id, whole::SOCKET) { WHOLE_CALL_BYTES as u32 } else { limit }
}

/// The same for what a TLS library was given, or gave.
#[inline(always)]
pub fn plaintext_limit(settings: &Settings, connection_id: u64, first: u64, moved: u32) -> u32 {
    if moved >= 8 {
        let mut start = [0; START_BYTES];
        let length = if moved < START_BYTES as u32 { 8 } else { START_BYTES as u32 };
        // SAFETY: the array has as many bytes; the helper checks the address.
        let read = unsafe { helpers::bpf_probe_read_user(start.as_mut_ptr().cast(), length, first as *const c_void) };
        if read == 0 {
            want_whole(connection_id, start, (length, length), whole::PLAINTEXT);
        }
    }
    if moved <= settings.payload_bytes_max {
        return settings.payload_bytes_max;
    }
    let limit = limit_at(settings, first);
    if moved > limit && is_wanted_whole(connection_id, whole::PLAINTEXT) { WHOLE_PLAINTEXT_BYTES as u32 } else { limit }
}

#[inline(always)]
fn limit_at(settings: &Settings, first: u64) -> u32 {
    // SAFETY: the helper checks the address.
    match unsafe { bpf_probe_read_user(first as *const [u8; 4]) } {
        Ok(start) if begins_message(start) => PAYLOAD_BYTES_LIMIT as u32,
        _ => settings.payload_bytes_max,
    }
}

/// Whether these may be the first four bytes of a message. Not sure at all, and it need not be: userspace judges, this only
/// says where capturing more is worth its time. Text that goes on, and compressed or encrypted bytes, hardly ever look like it.
#[inline(always)]
fn begins_message(start: [u8; 4]) -> bool {
    /// HTTP/1 and HTTP/2's preface, memcached, NATS.
    const WORDS: [&[u8; 4]; 22] = [
        b"HTTP", b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI", b"PATC", b"CONN", b"PRI ", b"get ", b"gets",
        b"set ", b"add ", b"VALU", b"STOR", b"PUB ", b"HPUB", b"SUB ", b"MSG ", b"HMSG", b"INFO",
    ];
    let word = u32::from_be_bytes(start);
    let mut found = false;
    for known in WORDS {
        found |= word == u32::from_be_bytes(*known);
    }
    let [first, second, third, _] = start;
    // Lengths of frames: in front (HTTP/2, Kafka), behind a type (PostgreSQL, AMQP), least significant byte first (MySQL, MongoDB).
    found |= first == 0 || second == 0 || third == 0;
    // RESP's arrays, maps, sets, pushes and bulk strings.
    found |= matches!(first, b'*' | b'$' | b'%' | b'~' | b'>') && matches!(second, b'0'..=b'9' | b'-');
    // memcached's binary protocol.
    found | matches!(first, 0x80 | 0x81)
}

/// Bytes of a call's begin by which whole calls are asked for.
const START_BYTES: usize = 16;

/// From now on as much as there is room for is captured of this connection's calls, if this call shows that it matters. Now and
/// not when the agent has found out, which is some calls later. Of `start` only `length` bytes are the call's, of `moved`.
#[inline(always)]
fn want_whole(connection_id: u64, start: [u8; START_BYTES], (length, moved): (u32, u32), which: u32) {
    let packs = length >= 8 && length >= moved && packs_messages(start);
    if packs || (length >= START_BYTES as u32 && asks_model(start)) {
        let _ = WHOLE_CALLS.insert(&connection_id, &which, u64::from(BPF_ANY));
    }
}

/// Whether whole calls were asked for.
#[inline(always)]
fn is_wanted_whole(connection_id: u64, which: u32) -> bool {
    // SAFETY: a live map value.
    WHOLE_CALLS.get_ptr(&connection_id).is_some_and(|wanted| unsafe { wanted.read_volatile() } & which != 0)
}

/// Whether this looks like the begin of a connection on which many messages will be put into one call: HTTP/2's preface, AMQP 0-9-1's
/// protocol header, the greeting of a NATS server, CONNECT of MQTT with a length of one byte.
#[inline(always)]
fn packs_messages([a, b, c, d, e, f, ..]: [u8; START_BYTES]) -> bool {
    let word = u32::from_be_bytes([a, b, c, d]);
    let mqtt = a == 0x10 && c == 0 && matches!((d, e, f), (4, b'M', b'Q') | (6, b'M', b'Q'));
    let packs = [*b"PRI ", *b"AMQP", *b"INFO"].map(u32::from_be_bytes);
    word == packs[0] || word == packs[1] || word == packs[2] || mqtt
}

/// Whether this is a call of a language model's API as OpenAI and Anthropic have them, and who speaks like them: what it took
/// stands at the end of the answer.
#[inline(always)]
fn asks_model(start: [u8; START_BYTES]) -> bool {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, ..] = start;
    let version = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    let path = u64::from_be_bytes([0, 0, i, j, k, l, m, n]);
    let [chat, messages, responses, completions, embeddings] =
        [*b"\0\0/chat/", *b"\0\0/messa", *b"\0\0/respo", *b"\0\0/compl", *b"\0\0/embed"].map(u64::from_be_bytes);
    version == u64::from_be_bytes(*b"POST /v1")
        && (path == chat || path == messages || path == responses || path == completions || path == embeddings)
}

/// Copies up to `limit` of the `moved` bytes that are in the buffers; how it went is in `scratch.copy`.
#[inline(always)]
pub fn copy_buffers(limit: u32, scratch: &mut Scratch, base: u64, count: u64, moved: u32) {
    if count == u64::MAX {
        copy_piece(limit, scratch, [base, u64::from(moved)]);
    } else {
        scratch.vector = Vector { base, limit, padding: 0, piece: [0; 2] };
        // A loop of its own for the verifier, which follows a plain one through every buffer and for each way that leads here.
        // SAFETY: the function has the signature that the helper wants.
        unsafe { helpers::bpf_loop(count.min(BUFFERS) as u32, copy_next as *mut c_void, core::ptr::null_mut(), 0) };
    }
    let copy = volatile(&scratch.copy);
    if copy.left != 0 && copy.failed == 0 {
        emit::lost(KernelLoss::TooManyBuffers);
    }
}

/// Copies the buffer at `index` of the scratch's vector; 1 ends the loop.
unsafe extern "C" fn copy_next(index: u64, _: *const c_void) -> i64 {
    // The caller does not touch it while it waits here.
    let Some(scratch) = maps::scratch() else { return 1 };
    if volatile(&scratch.copy).left == 0 {
        return 1;
    }
    let vector = &raw mut scratch.vector;
    // SAFETY: our own scratch; the helper checks the address that it reads from.
    let (limit, read, piece) = unsafe {
        let from = (&raw const (*vector).base).read_volatile() + index * 16;
        let read = helpers::bpf_probe_read_user((&raw mut (*vector).piece).cast(), 16, from as *const c_void);
        ((&raw const (*vector).limit).read_volatile(), read, (&raw const (*vector).piece).read_volatile())
    };
    if read != 0 {
        scratch.copy.failed = 1;
        return 1;
    }
    copy_piece(limit, scratch, piece);
    0
}

#[inline(always)]
fn copy_piece(limit: u32, scratch: &mut Scratch, [base, size]: [u64; 2]) {
    let mut copy = volatile(&scratch.copy);
    let piece = if size < u64::from(copy.left) { size as u32 } else { copy.left };
    copy.left -= piece;
    copy.last_base = base;
    copy.last_size = piece;
    let at = copy.length;
    if at < limit && at < WHOLE_CALL_BYTES as u32 && copy.failed == 0 {
        let room = limit - at;
        let mut size = if piece < room { piece } else { room };
        if size > WHOLE_CALL_BYTES as u32 {
            size = WHOLE_CALL_BYTES as u32; // only if the settings are out of range
        }
        // SAFETY: at < LIMIT and size <= LIMIT, and the payload has twice LIMIT bytes.
        let to = unsafe { scratch.payload.as_mut_ptr().add(at as usize) };
        if size != 0 {
            // SAFETY: as above; the helper checks the source.
            match unsafe { helpers::bpf_probe_read_user(to.cast(), size, base as *const _) } {
                0 => copy.length = at + size,
                _ => copy.failed = 1,
            }
        }
    }
    // SAFETY: our own scratch.
    unsafe { (&raw mut scratch.copy).write_volatile(copy) };
}

/// The last bytes that moved, behind those copied; 0 if they are not in one known piece or were copied already.
#[inline(always)]
fn copy_tail(scratch: &mut Scratch, copy: &Copy, moved: u32) -> u32 {
    let tail = TAIL_BYTES as u32;
    if copy.failed != 0 || copy.left != 0 || copy.last_size < tail || moved - copy.length < tail {
        return 0;
    }
    let from = copy.last_base + u64::from(copy.last_size - tail);
    // Linux 6.1 forgets the bounds of a 32-bit comparison when the value comes back from the stack: compare all 64 bits,
    // on the very value that is used.
    let at = core::hint::black_box(u64::from(copy.length));
    if at > WHOLE_CALL_BYTES as u64 {
        return 0;
    }
    // SAFETY: at <= LIMIT and tail <= LIMIT, and the payload has twice LIMIT bytes; the helper checks the source.
    let result = unsafe {
        helpers::bpf_probe_read_user(scratch.payload.as_mut_ptr().add(at as usize).cast(), tail, from as *const _)
    };
    if result == 0 { tail } else { 0 }
}

/// The state of the copy as the map has it.
#[inline(always)]
pub fn volatile(copy: &Copy) -> Copy {
    // SAFETY: a live reference.
    unsafe { core::ptr::from_ref(copy).read_volatile() }
}
