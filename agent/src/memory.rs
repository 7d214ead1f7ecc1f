//! How memory is given back: the allocator's of the C library, and the program's own code.
//!
//! Called at the start of `spantap run`, and when the kernel programs are loaded. Requests, blocks and batches are buffers of some 100 KiB to a few MiB that live for
//! milliseconds. Left to itself glibc maps the large ones anew each time and gives the others back at once, so that every page of
//! each is faulted in again, and it keeps a heap for each thread, of which there are many that wait for files.

use procfs::process::{MMPermissions, MemoryMap};

/// Buffers up to this size come from a heap, and are used again; as much may be free at the end of a heap.
#[cfg(target_env = "gnu")]
const REUSED_BYTES_MAX: libc::c_int = 4 << 20;
/// Heaps; as many threads as work at once.
#[cfg(target_env = "gnu")]
const HEAPS_MAX: libc::c_int = 2;

/// Keeps buffers for the next use.
#[cfg(target_env = "gnu")]
pub fn keep_buffers() {
    for (parameter, value) in [
        (libc::M_MMAP_THRESHOLD, REUSED_BYTES_MAX),
        (libc::M_TRIM_THRESHOLD, REUSED_BYTES_MAX),
        (libc::M_ARENA_MAX, HEAPS_MAX),
    ] {
        // SAFETY: takes no pointers, and may be called at any time. What it refuses stays as it was.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Gives back what is free by now, and of the program itself what only its start needed: more than half of the code, and the kernel
/// programs.
pub fn give_back() {
    free_heaps();
    unmap_program();
}

/// Lets go of the pages of the program's code and constants. They stay in the kernel's page cache; what is used is mapped again from there.
/// Breakpoints that a debugger has set by then are lost.
fn unmap_program() {
    let here = unmap_program as fn() as usize as u64;
    let Ok(maps) = procfs::process::Process::myself().and_then(|process| process.maps()) else { return };
    let Some(code) = maps.iter().find(|map| (map.address.0..map.address.1).contains(&here)) else { return };
    // Constants stand before the code; what is written when the program is started, which is not as in the file, stands behind it.
    let constant = |map: &&MemoryMap| map.pathname == code.pathname && map.address.0 <= code.address.0;
    for map in maps.iter().filter(constant).filter(|map| !map.perms.contains(MMPermissions::WRITE)) {
        let (from, to) = map.address;
        // SAFETY: the mapping is of the program's file, cannot be written to and was not, so each page that is used again is what it was.
        unsafe { libc::madvise(from as *mut libc::c_void, (to - from) as usize, libc::MADV_DONTNEED) };
    }
}

#[cfg(target_env = "gnu")]
fn free_heaps() {
    // SAFETY: takes no pointers, and may be called at any time.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators have other habits.
#[cfg(not(target_env = "gnu"))]
pub fn keep_buffers() {}

/// Likewise.
#[cfg(not(target_env = "gnu"))]
fn free_heaps() {}

#[cfg(test)]
mod tests {
    use procfs::process::{MemoryMap, Process};

    /// How the program's code is mapped, with how much of it is in memory.
    fn code() -> (MemoryMap, u64) {
        let here = super::unmap_program as fn() as usize as u64;
        let maps = Process::myself().and_then(|process| process.smaps()).expect("read the mappings");
        let code = maps.into_iter().find(|map| (map.address.0..map.address.1).contains(&here)).expect("the code");
        let resident = code.extension.map["Rss"];
        (code, resident)
    }

    #[test]
    fn what_was_given_back_of_the_program_is_there_again_when_it_is_used() {
        let (from, to) = code().0.address;
        for page in (from..to).step_by(4096) {
            // SAFETY: within the mapping, which can be read.
            unsafe { (page as *const u8).read_volatile() };
        }
        let (_, before) = code();
        super::unmap_program();
        let (_, after) = code();
        // Other tests go on and take some of it again.
        assert!(after < before / 2, "{after} of {before} bytes are left");
        assert_eq!(
            std::hint::black_box("1 2 3").split(' ').filter_map(|part| part.parse::<u32>().ok()).sum::<u32>(),
            6
        );
    }
}
