//! Every layout that the kernel programs and the agent share, once.
//!
//! In: nothing. Out: fixed-size `repr(C)` types and the one unsafe read that turns ring-buffer bytes into them.
//! Sized integers only, explicit padding, const size assertions. Multi-byte fields are in host byte order unless
//! a field says otherwise. Times are nanoseconds of `CLOCK_MONOTONIC`; 0 means "not observed".
//!
//! `no_std`, no dependency, no logic beyond reading a record.
#![no_std]

pub mod connection;
pub mod datagram;
pub mod header;
pub mod loss;
pub mod message;
pub mod plaintext;
pub mod process;
pub mod sched;
pub mod settings;

/// A type whose every bit pattern is valid and that has no padding.
///
/// # Safety
/// The implementer is `repr(C)`, holds only integers and arrays of them, and has no implicit padding.
pub unsafe trait Plain: Copy {}

/// Reads a `T` from the start of `bytes`; `None` if `bytes` is too short.
///
/// Alignment of `bytes` does not matter.
pub fn read<T: Plain>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: the length was checked, `T: Plain` accepts any bit pattern, and the read is unaligned.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// The bytes of `value`, as the kernel side would emit them.
pub fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: `T: Plain` has no padding, so every byte is initialised; the lifetime is that of `value`.
    unsafe { core::slice::from_raw_parts((value as *const T).cast(), size_of::<T>()) }
}
