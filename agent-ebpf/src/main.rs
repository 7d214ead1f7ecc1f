//! The kernel programs of spantap: one per hook and attach type, each a line that calls its hook family.
//!
//! All logic takes plain addresses and reads kernel memory through checked helpers, so the same code serves BTF
//! tracepoints, raw tracepoints, tracepoints, fentry and kprobes. `agent/src/kernel/attach.rs` lists the hooks and their
//! ladders; names here are `<hook>__<rung>`.
#![no_std]
#![no_main]
// The target has atomic additions, but `core` offers them only where compare-and-swap exists too.
#![feature(core_intrinsics)]
#![allow(internal_features)]
// `<hook>__<rung>` keeps the kernel's own name of the hook readable.
#![allow(non_snake_case)]

mod arch;
mod call;
mod connection;
mod datagram;
mod emit;
mod maps;
mod message;
mod offsets;
mod process;
mod sched;
mod select;
mod softirq;
mod socket;
mod state;
mod walk;

use aya_ebpf::{
    EbpfContext,
    macros::{btf_tracepoint, fentry, kprobe, raw_tracepoint, tracepoint},
    maps::ProgramArray,
    programs::{BtfTracePointContext, FEntryContext, ProbeContext, RawTracePointContext, TracePointContext},
};

/// One hook as BTF tracepoint and as raw tracepoint: both have the tracepoint's own arguments.
macro_rules! hook {
    ($btf:ident, $raw:ident, $event:literal, |$context:ident| $body:expr) => {
        #[btf_tracepoint(function = $event)]
        pub fn $btf($context: BtfTracePointContext) -> i32 {
            $body;
            0
        }
        #[raw_tracepoint(tracepoint = $event)]
        pub fn $raw($context: RawTracePointContext) -> i32 {
            $body;
            0
        }
    };
}

hook!(sys_enter__tp_btf, sys_enter__raw_tp, "sys_enter", |context| call::on_enter(
    context.arg::<u64>(0),
    context.arg::<u64>(1)
));
hook!(inet_sock_set_state__tp_btf, inet_sock_set_state__raw_tp, "inet_sock_set_state", |context| {
    connection::on_state(context.arg::<u64>(0), context.arg::<u64>(1) as u8, context.arg::<u64>(2) as u8)
});
hook!(tcp_destroy_sock__tp_btf, tcp_destroy_sock__raw_tp, "tcp_destroy_sock", |context| connection::on_destroy(
    context.arg::<u64>(0)
));
hook!(tcp_sendmsg_locked__tp_btf, tcp_sendmsg_locked__raw_tp, "tcp_sendmsg_locked", |context| {
    if let Some(left) = message::message_left(context.arg::<u64>(1)) {
        message::on_send(context.arg::<u64>(0), left)
    }
});
hook!(tcp_probe__tp_btf, tcp_probe__raw_tp, "tcp_probe", |context| message::on_segment(
    context.arg::<u64>(0),
    context.arg::<u64>(1)
));
hook!(tcp_rcv_space_adjust__tp_btf, tcp_rcv_space_adjust__raw_tp, "tcp_rcv_space_adjust", |context| message::on_read(
    context.arg::<u64>(0)
));
hook!(net_dev_start_xmit__tp_btf, net_dev_start_xmit__raw_tp, "net_dev_start_xmit", |context| message::on_transmit(
    context.arg::<u64>(0)
));
hook!(sk_data_ready__tp_btf, sk_data_ready__raw_tp, "sk_data_ready", |context| socket::on_ready(context.arg::<u64>(0)));
hook!(sched_waking__tp_btf, sched_waking__raw_tp, "sched_waking", |context| sched::on_waking(context.arg::<u64>(0)));
hook!(sched_switch__tp_btf, sched_switch__raw_tp, "sched_switch", |context| sched::on_switch(
    context.arg::<u64>(0) & 1 != 0,
    context.arg::<u64>(1),
    context.arg::<u64>(2),
    context.arg::<u64>(3) & 0xffff_ffff
));
hook!(softirq_raise__tp_btf, softirq_raise__raw_tp, "softirq_raise", |context| softirq::on_raise(
    context.arg::<u64>(0) as u32
));
hook!(softirq_entry__tp_btf, softirq_entry__raw_tp, "softirq_entry", |context| softirq::on_entry(
    context.arg::<u64>(0) as u32
));
hook!(sched_process_fork__tp_btf, sched_process_fork__raw_tp, "sched_process_fork", |context| process::on_fork(
    context.arg::<u64>(0),
    context.arg::<u64>(1)
));
hook!(sched_process_exec__tp_btf, sched_process_exec__raw_tp, "sched_process_exec", |context| process::on_exec(
    context.arg::<u64>(2)
));
hook!(sched_process_exit__tp_btf, sched_process_exit__raw_tp, "sched_process_exit", |_context| process::on_exit());

/// The first half, which goes on with `other_sockets` of the same rung where no TCP hook answered.
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit__tp_btf(context: BtfTracePointContext) -> i32 {
    if call::on_exit(context.arg::<i64>(1)) {
        go_on(&context, &maps::SECOND_HALF_TP_BTF);
    }
    0
}

/// Likewise.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn sys_exit__raw_tp(context: RawTracePointContext) -> i32 {
    if call::on_exit(context.arg::<i64>(1)) {
        go_on(&context, &maps::SECOND_HALF_RAW_TP);
    }
    0
}

/// The second half, which goes on with itself.
#[btf_tracepoint(function = "sys_exit")]
pub fn other_sockets__tp_btf(context: BtfTracePointContext) -> i32 {
    if call::on_exit_elsewhere(context.arg::<i64>(1)) {
        go_on(&context, &maps::SECOND_HALF_TP_BTF);
    }
    0
}

/// Likewise.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn other_sockets__raw_tp(context: RawTracePointContext) -> i32 {
    if call::on_exit_elsewhere(context.arg::<i64>(1)) {
        go_on(&context, &maps::SECOND_HALF_RAW_TP);
    }
    0
}

/// `raw_syscalls:sys_enter`: common fields 8 bytes, id 8, six arguments of 8.
#[tracepoint]
pub fn sys_enter__tracepoint(context: TracePointContext) -> u32 {
    // SAFETY: the offsets are those of the event's format, which is part of the kernel's interface.
    let fields = unsafe { (context.read_at::<u64>(8), context.read_at::<[u64; 5]>(16)) };
    if let (Ok(id), Ok(arguments)) = fields {
        call::on_enter_arguments(id, arguments);
    }
    0
}

/// `raw_syscalls:sys_exit`: common fields 8 bytes, id 8, result 8.
#[tracepoint]
pub fn sys_exit__tracepoint(context: TracePointContext) -> u32 {
    // SAFETY: the offset is that of the event's format, which is part of the kernel's interface.
    if let Ok(result) = unsafe { context.read_at::<i64>(16) }
        && call::on_exit(result)
    {
        go_on(&context, &maps::SECOND_HALF_TRACEPOINT);
    }
    0
}

/// The second half of it.
#[tracepoint]
pub fn other_sockets__tracepoint(context: TracePointContext) -> u32 {
    // SAFETY: as above.
    if let Ok(result) = unsafe { context.read_at::<i64>(16) }
        && call::on_exit_elsewhere(result)
    {
        go_on(&context, &maps::SECOND_HALF_TRACEPOINT);
    }
    0
}

/// Ends this program and runs the second half of `sys_exit`, if that is there: in one program, both are more than the
/// verifier follows, and so are several datagrams. The kernel allows 33 such steps.
#[inline(always)]
fn go_on(context: &impl EbpfContext, second_half: &ProgramArray) {
    // SAFETY: the second half has the same context; the verifier checks its type when the agent puts it there.
    let _ = unsafe { second_half.tail_call(context, 0) };
    call::end_call();
}

/// `tcp_sendmsg_locked(sk, msg, size)`: kernels before 6.16 have the function, not the tracepoint.
#[fentry(function = "tcp_sendmsg_locked")]
pub fn tcp_sendmsg_locked__fentry(context: FEntryContext) -> i32 {
    message::on_send(context.arg::<u64>(0), context.arg::<u64>(2) as u32);
    0
}

/// The same by kprobe.
#[kprobe(function = "tcp_sendmsg_locked")]
pub fn tcp_sendmsg_locked__kprobe(context: ProbeContext) -> u32 {
    if let (Some(sk), Some(size)) = (context.arg::<u64>(0), context.arg::<u64>(2)) {
        message::on_send(sk, size as u32);
    }
    0
}

/// `sock_def_readable(sk)`: what kernels before 6.3 have for `sk_data_ready`.
#[fentry(function = "sock_def_readable")]
pub fn sk_data_ready__fentry(context: FEntryContext) -> i32 {
    socket::on_ready(context.arg::<u64>(0));
    0
}

/// The same by kprobe.
#[kprobe(function = "sock_def_readable")]
pub fn sk_data_ready__kprobe(context: ProbeContext) -> u32 {
    if let Some(sk) = context.arg::<u64>(0) {
        socket::on_ready(sk);
    }
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // No program can reach this: the verifier refuses a program that loops for ever.
    loop {}
}

/// Helpers that read kernel memory are for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
