//! How the allocator of the C library gives memory back.
//!
//! Called at the start of `spantap run`, and when the kernel programs are loaded. Requests, blocks and batches are buffers of some 100 KiB to a few MiB that live for
//! milliseconds. Left to itself glibc maps the large ones anew each time and gives the others back at once, so that every page of
//! each is faulted in again, and it keeps a heap for each thread, of which there are many that wait for files.

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

/// Gives back what is free by now.
#[cfg(target_env = "gnu")]
pub fn give_back() {
    // SAFETY: takes no pointers, and may be called at any time.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators have other habits.
#[cfg(not(target_env = "gnu"))]
pub fn keep_buffers() {}

/// Likewise.
#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}
