//! From a file descriptor of the current task to its socket.

use aya_ebpf::helpers::generated as helpers;

use crate::offsets::{self, read, read_at};

const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;

/// The `struct sock` behind `fd`; `None` if it is no socket.
///
/// `task -> files -> fdt -> fd[] -> file -> private_data = socket -> sk`, checked by the inode's type and by the
/// socket pointing back at the file.
#[inline(always)]
pub fn socket(fd: u64) -> Option<u64> {
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
    let inode: u64 = read(file, &offsets::FILE_INODE)?;
    if read::<u16>(inode, &offsets::INODE_MODE)? & S_IFMT != S_IFSOCK {
        return None;
    }
    let socket: u64 = read(file, &offsets::FILE_PRIVATE)?;
    if read::<u64>(socket, &offsets::SOCKET_FILE)? != file {
        return None;
    }
    read(socket, &offsets::SOCKET_SK).filter(|sk| *sk != 0)
}
