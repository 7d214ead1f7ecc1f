//! From a file descriptor of the current task to its socket.

use aya_ebpf::helpers::generated as helpers;

use crate::{
    maps::SOCKET_OPERATIONS,
    offsets::{self, read, read_at},
};

const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;

/// A socket behind a descriptor.
#[derive(Clone, Copy)]
pub struct Found {
    /// Address of its `struct sock`.
    pub sk: u64,
    /// Inode number of its file, which is what `/proc/PID/fd` shows.
    pub inode: u64,
}

/// The socket behind `fd`; `None` if it is no socket.
///
/// `task -> files -> fdt -> fd[] -> file -> private_data = socket -> sk`. Ordinary files are told by their table of
/// operations, one more read than the file itself: that of sockets is learnt from the first file whose inode is a socket
/// and whose socket points back at it.
#[inline(always)]
pub fn socket(fd: u64) -> Option<Found> {
    // SAFETY: the helper takes no arguments.
    let task = unsafe { helpers::bpf_get_current_task() };
    let files: u64 = read(task, &offsets::TASK_FILES)?;
    let table: u64 = read(files, &offsets::FILES_FDT)?;
    let size: u32 = read(table, &offsets::FDT_MAX_FDS)?;
    if fd >= u64::from(size) {
        return None;
    }
    let array: u64 = read(table, &offsets::FDT_FD)?;
    let file: u64 = read_at(array + fd * 8)?;
    if file == 0 {
        return None;
    }
    let operations: u64 = read(file, &offsets::FILE_OPERATIONS)?;
    let of_sockets = SOCKET_OPERATIONS.get_ptr_mut(0)?;
    // SAFETY: a live, aligned map value that only ever becomes the one address.
    let known = unsafe { of_sockets.read_volatile() };
    if known != 0 && known != operations {
        return None;
    }
    let inode: u64 = read(file, &offsets::FILE_INODE)?;
    if known == 0 && read::<u16>(inode, &offsets::INODE_MODE)? & S_IFMT != S_IFSOCK {
        return None;
    }
    let socket: u64 = read(file, &offsets::FILE_PRIVATE)?;
    if read::<u64>(socket, &offsets::SOCKET_FILE)? != file {
        return None;
    }
    if known == 0 {
        // SAFETY: as above.
        unsafe { of_sockets.write_volatile(operations) };
    }
    let sk = read(socket, &offsets::SOCKET_SK).filter(|sk| *sk != 0)?;
    Some(Found { sk, inode: read(inode, &offsets::INODE_NUMBER)? })
}
