//! What differs between processor architectures: registers of a system call and system call numbers.
//!
//! x86-64 only so far. 32-bit system calls of 64-bit kernels have other numbers and are not recognised.

/// Offsets into `struct pt_regs` (arch/x86/include/asm/ptrace.h), of which the part from `r10` to `rdi` is read at
/// once.
pub mod regs {
    /// Offset of the part that is read.
    pub const FIRST: usize = 56;
    /// Number of 8-byte registers read from there: r10 r9 r8 rax rcx rdx rsi rdi.
    pub const COUNT: usize = 8;
    /// With what stands behind them: the number of the system call.
    pub const COUNT_WITH_CALL: usize = 9;
    /// Index of the register that gets the result.
    pub const RESULT: usize = 3;
    /// What that holds while the call is in progress, in which alone the thread may still be in it: `-ENOSYS`.
    pub const IN_PROGRESS: u64 = -38i64 as u64;
    /// Index of the fifth argument.
    pub const ARG4: usize = 2;
    /// Index of the fourth argument.
    pub const ARG3: usize = 0;
    /// Index of the third argument.
    pub const ARG2: usize = 5;
    /// Index of the second argument.
    pub const ARG1: usize = 6;
    /// Index of the first argument.
    pub const ARG0: usize = 7;
    /// Offset of the number of the system call that the thread is in; -1 for none.
    pub const CALL: u64 = 120;
    /// Offset of the register in which Go keeps the address of the current goroutine (r14; Go's ABIInternal).
    pub const GOROUTINE: u64 = 8;
}

/// System call numbers (arch/x86/entry/syscalls/syscall_64.tbl).
#[allow(missing_docs)]
pub mod number {
    pub const READ: u64 = 0;
    pub const WRITE: u64 = 1;
    pub const READV: u64 = 19;
    pub const WRITEV: u64 = 20;
    pub const SENDFILE: u64 = 40;
    pub const CLOSE: u64 = 3;
    pub const CONNECT: u64 = 42;
    pub const ACCEPT: u64 = 43;
    pub const SENDTO: u64 = 44;
    pub const RECVFROM: u64 = 45;
    pub const SENDMSG: u64 = 46;
    pub const RECVMSG: u64 = 47;
    pub const SPLICE: u64 = 275;
    pub const ACCEPT4: u64 = 288;
    pub const RECVMMSG: u64 = 299;
    pub const SENDMMSG: u64 = 307;
    pub const PREADV2: u64 = 327;
    pub const PWRITEV2: u64 = 328;
}

/// How a thread that sleeps in a system call is blocked.
pub mod blocked_in {
    /// By nothing that has a name of its own.
    pub const OTHER: u8 = 0;
    /// By a lock.
    pub const LOCK: u8 = 1;
    /// By itself.
    pub const SLEEP: u8 = 2;
    /// By many descriptors at once.
    pub const POLL: u8 = 3;
    /// By a socket.
    pub const SOCKET: u8 = 4;
    /// By a disk if the sleep cannot be interrupted, else by a socket, pipe or the like.
    pub const STREAM: u8 = 5;
    /// By a disk if the sleep cannot be interrupted.
    pub const FILE: u8 = 6;
    /// Numbers in [`TABLE`].
    pub const CALLS: u64 = 512;

    const LOCKS: [usize; 3] = [202, 449, 455];
    const SLEEPS: [usize; 2] = [35, 230];
    /// poll select io_getevents epoll_wait pselect6 ppoll epoll_pwait io_pgetevents io_uring_enter epoll_pwait2
    const POLLS: [usize; 10] = [7, 23, 208, 232, 270, 271, 281, 333, 426, 441];
    /// connect accept sendto recvfrom sendmsg recvmsg accept4 recvmmsg sendmmsg
    const SOCKETS: [usize; 9] = [42, 43, 44, 45, 46, 47, 288, 299, 307];
    /// read write readv writev sendfile splice tee vmsplice preadv2 pwritev2
    const STREAMS: [usize; 10] = [0, 1, 19, 20, 40, 275, 276, 278, 327, 328];
    /// Calls that take paths, and those that read, write and sync files at an offset.
    const FILES: [usize; 56] = [
        2, 3, 4, 5, 6, 8, 17, 18, 21, 26, 28, 59, 74, 75, 76, 77, 78, 80, 82, 83, 84, 85, 86, 87, 88, 89, 90, 92, 137,
        138, 162, 187, 191, 209, 217, 221, 257, 258, 262, 263, 264, 265, 266, 267, 269, 277, 285, 295, 296, 306, 316,
        322, 326, 332, 437, 439,
    ];

    /// One of the constants above per system call number.
    pub static TABLE: [u8; CALLS as usize] = table();

    const fn table() -> [u8; CALLS as usize] {
        let table = [OTHER; CALLS as usize];
        let table = put(put(put(table, &LOCKS, LOCK), &SLEEPS, SLEEP), &POLLS, POLL);
        put(put(put(table, &SOCKETS, SOCKET), &STREAMS, STREAM), &FILES, FILE)
    }

    const fn put(mut table: [u8; CALLS as usize], numbers: &[usize], class: u8) -> [u8; CALLS as usize] {
        let mut index = 0;
        while index < numbers.len() {
            table[numbers[index]] = class;
            index += 1;
        }
        table
    }
}
