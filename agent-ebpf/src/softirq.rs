//! How long received packets waited for the softirq that brings them to TCP.
//!
//! The receive softirq is raised when a device (or loopback) has packets, and runs later on the same CPU. Both hooks fire
//! for every softirq of the host: anything but the receive softirq leaves after one comparison. Packets of one run may be
//! younger than its raise, so what is computed from it is derived.

use aya_ebpf::helpers::generated as helpers;

use crate::{
    emit::now,
    maps::SOFTIRQ,
    offsets::{self, Memory},
    state::Softirq,
};

/// `NET_RX_SOFTIRQ` (include/linux/interrupt.h).
const NET_RX: u32 = 3;
/// The kernel ends a run of it after two (`netdev_budget_usecs`), so an older one is not the current one.
const RUN_JIFFIES_MAX: u64 = 3;

#[inline(always)]
fn own_cpu() -> Option<&'static mut Softirq> {
    // SAFETY: this CPU's own value; a raise that interrupts the reader changes another field.
    SOFTIRQ.get_ptr_mut(0).map(|softirq| unsafe { &mut *softirq })
}

/// `softirq_raise`: asked for on this CPU.
#[inline(always)]
pub fn on_raise(vector: u32) {
    if vector != NET_RX {
        return;
    }
    if let Some(softirq) = own_cpu()
        && softirq.raised_ns == 0
    {
        softirq.raised_ns = now();
    }
}

/// `softirq_entry`: begins to run on this CPU.
#[inline(always)]
pub fn on_entry(vector: u32) {
    if vector != NET_RX {
        return;
    }
    if let Some(softirq) = own_cpu() {
        softirq.current_ns = softirq.raised_ns;
        softirq.raised_ns = 0;
        // SAFETY: the helper takes no arguments.
        softirq.entered_jiffies = unsafe { helpers::bpf_jiffies64() };
    }
}

/// When the softirq was raised that brings a segment to `sk` just now; 0 if it is not known, or if the segment waited
/// for the process that had the socket locked and is brought by that.
#[inline(always)]
pub fn raised<M: Memory>(sk: u64) -> u64 {
    let Some(softirq) = own_cpu() else { return 0 };
    // SAFETY: the helper takes no arguments.
    let age = unsafe { helpers::bpf_jiffies64() }.wrapping_sub(softirq.entered_jiffies);
    if age > RUN_JIFFIES_MAX || M::read::<u32>(sk, &offsets::SK_OWNED) != 0 {
        return 0;
    }
    softirq.current_ns
}
