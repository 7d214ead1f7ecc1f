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
    /// Index of the fourth argument.
    pub const ARG3: usize = 0;
    /// Index of the third argument.
    pub const ARG2: usize = 5;
    /// Index of the second argument.
    pub const ARG1: usize = 6;
    /// Index of the first argument.
    pub const ARG0: usize = 7;
}

/// System call numbers (arch/x86/entry/syscalls/syscall_64.tbl).
#[allow(missing_docs)]
pub mod number {
    pub const READ: u64 = 0;
    pub const WRITE: u64 = 1;
    pub const READV: u64 = 19;
    pub const WRITEV: u64 = 20;
    pub const SENDFILE: u64 = 40;
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
