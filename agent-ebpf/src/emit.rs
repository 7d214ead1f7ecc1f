//! Reserve, number, submit, wake, and count what could not be emitted.

use core::{
    ffi::c_void,
    intrinsics::{AtomicOrdering, atomic_xadd},
};

use agent_common::{
    header::{LAYOUT_VERSION, RecordHeader},
    loss::KernelLoss,
};
use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_ringbuf_query},
};

use crate::maps::{LOSSES, RECORDS, Ring, SEQUENCE, WAKE};

/// What the logging macros take as context and do not use.
pub struct NoContext;

/// `CLOCK_MONOTONIC`.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper takes no arguments and cannot fail.
    unsafe { bpf_ktime_get_ns() }
}

/// Counts a loss on this CPU. Atomic because a softirq may interrupt a task-context hook.
#[inline(always)]
pub fn lost(reason: KernelLoss) {
    lost_many(reason, 1);
}

/// Counts `count` losses on this CPU.
#[inline(always)]
pub fn lost_many(reason: KernelLoss, count: u64) {
    if let Some(counter) = LOSSES.get_ptr_mut(reason as u32) {
        // SAFETY: a live, aligned map value.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, count) };
    }
}

/// A header with the next number of this CPU.
#[inline(always)]
pub fn header(kind: u8, time_ns: u64) -> RecordHeader {
    let sequence = match SEQUENCE.get_ptr_mut(0) {
        // With relaxed ordering LLVM 22 emits an addition that does not return the old value.
        // SAFETY: a live, aligned map value.
        Some(counter) => unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::AcqRel }>(counter, 1) as u32 },
        None => 0,
    };
    // SAFETY: the helper takes no arguments and cannot fail.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u16;
    RecordHeader { time_ns, sequence, cpu, kind, version: LAYOUT_VERSION }
}

/// Puts a fixed-size record into the ring; `fill` writes it in place. Answers whether there was room.
#[inline(always)]
pub fn record<T: 'static>(fill: impl FnOnce(*mut T)) -> bool {
    match ring().and_then(|ring| Some((ring, ring.reserve_untyped::<T>(0)?))) {
        Some((ring, mut entry)) => {
            fill(entry.as_mut_ptr());
            entry.submit(wake_flags(ring));
            true
        }
        None => {
            lost(KernelLoss::RingFull);
            false
        }
    }
}

/// Copies `length` bytes at `data` into the ring.
#[inline(always)]
pub fn bytes(data: *const u8, length: u64) {
    let Some(ring) = ring() else { return lost(KernelLoss::RingFull) };
    // SAFETY: the verifier checks that `data` has `length` readable bytes.
    let result = unsafe {
        aya_ebpf::helpers::generated::bpf_ringbuf_output(
            address(ring),
            data.cast_mut().cast(),
            length,
            wake_flags(ring),
        )
    };
    if result != 0 {
        lost(KernelLoss::RingFull);
    }
}

/// This CPU's ring.
#[inline(always)]
fn ring() -> Option<&'static Ring> {
    // SAFETY: the helper takes no arguments and cannot fail.
    RECORDS.get(unsafe { bpf_get_smp_processor_id() })
}

/// What helpers take a ring by.
#[inline(always)]
fn address(ring: &Ring) -> *mut c_void {
    let ring: *const Ring = ring;
    ring.cast_mut().cast()
}

/// A wake-up costs the traced program microseconds, so only the first record after the agent went to sleep makes one, or the first that finds
/// as much in the ring as the agent bargained for when it lay down for a nap.
#[inline(always)]
fn wake_flags(ring: &Ring) -> u64 {
    if let Some(armed) = WAKE.get_ptr_mut(0) {
        // SAFETY: a live, aligned map value, and a live ring; a race makes one wake-up too many.
        unsafe {
            let bytes = armed.read_volatile();
            if bytes == 1
                || (bytes != 0 && bpf_ringbuf_query(address(ring), u64::from(BPF_RB_AVAIL_DATA)) >= u64::from(bytes))
            {
                armed.write_volatile(0);
                return u64::from(BPF_RB_FORCE_WAKEUP);
            }
        }
    }
    u64::from(BPF_RB_NO_WAKEUP)
}
