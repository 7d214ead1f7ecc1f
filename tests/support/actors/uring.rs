//! Sending and receiving by io_uring: system calls that name no socket.
//!
//! In: a socket, bytes. Out: what the completion says. One operation at a time, on a ring of one entry; no library.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

const ENTRIES: u32 = 1;
const IORING_OFF_SQ_RING: i64 = 0;
const IORING_OFF_CQ_RING: i64 = 0x800_0000;
const IORING_OFF_SQES: i64 = 0x1000_0000;
const IORING_ENTER_GETEVENTS: u32 = 1;
const IORING_OP_SEND: u8 = 26;
const IORING_OP_RECV: u8 = 27;

/// `struct io_sqring_offsets` and `struct io_cqring_offsets` have this shape; the eighth word of one is not used here.
#[repr(C)]
#[derive(Default)]
struct Offsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    words: [u32; 4],
    user_addr: u64,
}

/// `struct io_uring_params`.
#[repr(C)]
#[derive(Default)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    sq_thread_cpu: u32,
    sq_thread_idle: u32,
    features: u32,
    wq_fd: u32,
    reserved: [u32; 3],
    submission: Offsets,
    completion: Offsets,
}

/// The head of `struct io_uring_sqe`, of 64 bytes.
#[repr(C)]
#[derive(Default)]
struct Entry {
    opcode: u8,
    flags: u8,
    priority: u16,
    fd: i32,
    offset: u64,
    address: u64,
    length: u32,
    message_flags: u32,
    rest: [u64; 4],
}

/// `struct io_uring_cqe`.
#[repr(C)]
struct Completion {
    user_data: u64,
    result: i32,
    flags: u32,
}

const _: () = assert!(size_of::<Params>() == 120 && size_of::<Entry>() == 64 && size_of::<Completion>() == 16);

/// A ring for one operation at a time.
pub struct Ring {
    fd: OwnedFd,
    params: Params,
    submission: *mut u8,
    completion: *mut u8,
    entries: *mut Entry,
}

// SAFETY: the mappings belong to this value alone, which one thread uses at a time.
unsafe impl Send for Ring {}

impl Ring {
    /// Sets one up. Its mappings stay until the process ends, as its few users do.
    pub fn new() -> io::Result<Self> {
        let mut params = Params::default();
        // SAFETY: `params` is a valid, zeroed `io_uring_params`.
        let fd = check(unsafe { libc::syscall(libc::SYS_io_uring_setup, ENTRIES, &mut params) })? as RawFd;
        // SAFETY: a fresh descriptor that nothing else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let map = |offset: i64, length: usize| {
            let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
            // SAFETY: a mapping of the ring at an offset that the kernel defines.
            let address = unsafe { libc::mmap(ptr::null_mut(), length, protection, flags, fd.as_raw_fd(), offset) };
            if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(address.cast::<u8>()) }
        };
        // `words[2]` is the array of the submission queue, `words[1]` the completions of the other (io_uring_setup(2)).
        let submission_bytes = params.submission.words[2] as usize + params.sq_entries as usize * 4;
        let completion_bytes =
            params.completion.words[1] as usize + params.cq_entries as usize * size_of::<Completion>();
        let submission = map(IORING_OFF_SQ_RING, submission_bytes)?;
        let completion = map(IORING_OFF_CQ_RING, completion_bytes)?;
        let entries = map(IORING_OFF_SQES, params.sq_entries as usize * size_of::<Entry>())?.cast();
        Ok(Self { fd, params, submission, completion, entries })
    }

    /// Sends all of `bytes`.
    pub fn send_all(&mut self, socket: RawFd, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = self.run(IORING_OP_SEND, socket, bytes.as_ptr() as u64, bytes.len())?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// Receives into `room`.
    pub fn receive(&mut self, socket: RawFd, room: &mut [u8]) -> io::Result<usize> {
        self.run(IORING_OP_RECV, socket, room.as_mut_ptr() as u64, room.len())
    }

    fn run(&mut self, opcode: u8, fd: RawFd, address: u64, length: usize) -> io::Result<usize> {
        let offsets = &self.params.submission;
        let message_flags = if opcode == IORING_OP_SEND { libc::MSG_NOSIGNAL as u32 } else { 0 };
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let entry = Entry { opcode, fd, address, length, message_flags, ..Entry::default() };
        // SAFETY: offsets that the kernel gave, within the mappings; the only entry is free, since each operation is
        // waited for; the buffer outlives the operation for the same reason.
        unsafe {
            let tail = &*self.submission.add(offsets.tail as usize).cast::<AtomicU32>();
            let mask = *self.submission.add(offsets.ring_mask as usize).cast::<u32>();
            let slot = tail.load(Ordering::Relaxed);
            self.entries.add((slot & mask) as usize).write(entry);
            let array = self.submission.add(offsets.words[2] as usize).cast::<u32>();
            array.add((slot & mask) as usize).write(slot & mask);
            tail.store(slot.wrapping_add(1), Ordering::Release);
            let ring = self.fd.as_raw_fd();
            let none = ptr::null::<u8>();
            check(libc::syscall(libc::SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, none, 0))?;
        }
        self.completed()
    }

    fn completed(&self) -> io::Result<usize> {
        let offsets = &self.params.completion;
        // SAFETY: as above; the entry is read before the head says so.
        let result = unsafe {
            let head = &*self.completion.add(offsets.head as usize).cast::<AtomicU32>();
            let mask = *self.completion.add(offsets.ring_mask as usize).cast::<u32>();
            let slot = head.load(Ordering::Relaxed);
            let all = self.completion.add(offsets.words[1] as usize).cast::<Completion>();
            let result = all.add((slot & mask) as usize).read().result;
            head.store(slot.wrapping_add(1), Ordering::Release);
            result
        };
        usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
    }
}

fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
