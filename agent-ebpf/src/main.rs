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
mod device;
mod emit;
mod ktls;
mod maps;
mod message;
mod offsets;
mod payload;
mod process;
mod retransmit;
mod sched;
mod select;
mod snapshot;
mod socket;
mod softirq;
mod state;
mod tls;
mod unix;
mod walk;

use aya_ebpf::{
    EbpfContext,
    macros::{btf_tracepoint, fentry, kprobe, raw_tracepoint, tracepoint, uprobe, uretprobe},
    maps::ProgramArray,
    programs::{
        BtfTracePointContext, FEntryContext, ProbeContext, RawTracePointContext, RetProbeContext, TracePointContext,
    },
};

use agent_common::{message::direction, plaintext::library};

use crate::{
    call::Next,
    offsets::{Checked, Typed},
    state::flag,
    tls::Entered,
};

/// One hook as BTF tracepoint and as raw tracepoint: both have the tracepoint's own arguments, but only the first knows
/// their types. `M` is how each reaches kernel memory.
macro_rules! typed_hook {
    ($btf:ident, $raw:ident, $event:literal, |$context:ident| $body:expr) => {
        #[btf_tracepoint(function = $event)]
        pub fn $btf($context: BtfTracePointContext) -> i32 {
            type M = Typed;
            $body;
            0
        }
        #[raw_tracepoint(tracepoint = $event)]
        pub fn $raw($context: RawTracePointContext) -> i32 {
            type M = Checked;
            $body;
            0
        }
    };
}

/// Likewise, where nothing is gained by types.
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

typed_hook!(sys_enter__tp_btf, sys_enter__raw_tp, "sys_enter", |context| {
    call::on_enter::<M>(context.arg::<u64>(0), context.arg::<u64>(1))
});
typed_hook!(inet_sock_set_state__tp_btf, inet_sock_set_state__raw_tp, "inet_sock_set_state", |context| {
    connection::on_state::<M>(context.arg::<u64>(0), context.arg::<u64>(1) as u8, context.arg::<u64>(2) as u8)
});
typed_hook!(tcp_destroy_sock__tp_btf, tcp_destroy_sock__raw_tp, "tcp_destroy_sock", |context| {
    connection::on_destroy::<M>(context.arg::<u64>(0))
});
typed_hook!(tcp_sendmsg_locked__tp_btf, tcp_sendmsg_locked__raw_tp, "tcp_sendmsg_locked", |context| {
    message::on_send::<M>(context.arg::<u64>(0), message::message_left::<M>(context.arg::<u64>(1)), true)
});
typed_hook!(tcp_probe__tp_btf, tcp_probe__raw_tp, "tcp_probe", |context| {
    message::on_segment::<M>(context.arg::<u64>(0), context.arg::<u64>(1))
});
typed_hook!(tcp_rcv_space_adjust__tp_btf, tcp_rcv_space_adjust__raw_tp, "tcp_rcv_space_adjust", |context| {
    message::on_read::<M>(context.arg::<u64>(0))
});
typed_hook!(tcp_retransmit_skb__tp_btf, tcp_retransmit_skb__raw_tp, "tcp_retransmit_skb", |context| {
    retransmit::on_retransmit::<M>(context.arg::<u64>(0), context.arg::<u64>(1))
});
hook!(tcp_send_reset__tp_btf, tcp_send_reset__raw_tp, "tcp_send_reset", |context| connection::on_reset(
    context.arg::<u64>(0),
    flag::RESET_SENT
));
hook!(tcp_receive_reset__tp_btf, tcp_receive_reset__raw_tp, "tcp_receive_reset", |context| connection::on_reset(
    context.arg::<u64>(0),
    flag::RESET_RECEIVED
));
typed_hook!(sk_data_ready__tp_btf, sk_data_ready__raw_tp, "sk_data_ready", |context| {
    socket::on_ready::<M>(context.arg::<u64>(0))
});
typed_hook!(net_dev_queue__tp_btf, net_dev_queue__raw_tp, "net_dev_queue", |context| {
    device::on_queue::<M>(context.arg::<u64>(0))
});
typed_hook!(net_dev_start_xmit__tp_btf, net_dev_start_xmit__raw_tp, "net_dev_start_xmit", |context| {
    device::on_transmit::<M>(context.arg::<u64>(0))
});
typed_hook!(sched_waking__tp_btf, sched_waking__raw_tp, "sched_waking", |context| {
    sched::on_waking::<M>(context.arg::<u64>(0))
});
typed_hook!(sched_switch__tp_btf, sched_switch__raw_tp, "sched_switch", |context| {
    let previous_state = context.arg::<u64>(3) & 0xffff_ffff;
    let preempted = context.arg::<u64>(0) & 1 != 0;
    sched::on_switch::<M>(preempted, context.arg::<u64>(1), context.arg::<u64>(2), previous_state)
});
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
    context.arg::<u64>(1) as u32,
    context.arg::<u64>(2)
));
hook!(sched_process_exit__tp_btf, sched_process_exit__raw_tp, "sched_process_exit", |_context| process::on_exit());

// What a run costs beside its body is measured by these; see `agent/src/kernel/stats.rs`.
/// Nothing.
#[btf_tracepoint(function = "sys_enter")]
pub fn empty_enter(_context: BtfTracePointContext) -> i32 {
    0
}

/// Likewise.
#[btf_tracepoint(function = "sys_exit")]
pub fn empty_exit(_context: BtfTracePointContext) -> i32 {
    0
}

/// The first part, which goes on with `other_sockets` of the same rung where no TCP hook answered.
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit__tp_btf(context: BtfTracePointContext) -> i32 {
    let id = call::returning::<Typed>(context.arg::<u64>(0));
    go_on(&context, &maps::PARTS_TP_BTF, call::on_exit(id, context.arg::<i64>(1)));
    0
}

/// Likewise.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn sys_exit__raw_tp(context: RawTracePointContext) -> i32 {
    let id = call::returning::<Checked>(context.arg::<u64>(0));
    go_on(&context, &maps::PARTS_RAW_TP, call::on_exit(id, context.arg::<i64>(1)));
    0
}

/// The second part, which goes on with itself and with `unix_sockets`.
#[btf_tracepoint(function = "sys_exit")]
pub fn other_sockets__tp_btf(context: BtfTracePointContext) -> i32 {
    go_on(&context, &maps::PARTS_TP_BTF, call::on_exit_elsewhere(context.arg::<i64>(1)));
    0
}

/// Likewise.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn other_sockets__raw_tp(context: RawTracePointContext) -> i32 {
    go_on(&context, &maps::PARTS_RAW_TP, call::on_exit_elsewhere(context.arg::<i64>(1)));
    0
}

/// What a socket tells of a call: the first and second part likewise, by one rung. Arguments: the socket, and what it returns.
macro_rules! length_hook {
    ($attribute:meta, $context:ty, $parts:ident, $whole:ident, $elsewhere:ident) => {
        #[$attribute]
        pub fn $whole(context: $context) -> i32 {
            go_on(&context, &maps::$parts, call::on_length(i64::from(context.arg::<i32>(1))));
            0
        }
        #[$attribute]
        pub fn $elsewhere(context: $context) -> i32 {
            let next = call::on_length_elsewhere(context.arg::<u64>(0), i64::from(context.arg::<i32>(1)));
            go_on(&context, &maps::$parts, next);
            0
        }
    };
}
length_hook!(
    btf_tracepoint(function = "sock_send_length"),
    BtfTracePointContext,
    SENT_TP_BTF,
    sock_send_length__tp_btf,
    sent_elsewhere__tp_btf
);
length_hook!(
    raw_tracepoint(tracepoint = "sock_send_length"),
    RawTracePointContext,
    SENT_RAW_TP,
    sock_send_length__raw_tp,
    sent_elsewhere__raw_tp
);
length_hook!(
    btf_tracepoint(function = "sock_recv_length"),
    BtfTracePointContext,
    RECEIVED_TP_BTF,
    sock_recv_length__tp_btf,
    received_elsewhere__tp_btf
);
length_hook!(
    raw_tracepoint(tracepoint = "sock_recv_length"),
    RawTracePointContext,
    RECEIVED_RAW_TP,
    sock_recv_length__raw_tp,
    received_elsewhere__raw_tp
);
hook!(sent_unix__tp_btf, sent_unix__raw_tp, "sock_send_length", |context| call::on_exit_unix(i64::from(
    context.arg::<i32>(1)
)));
hook!(received_unix__tp_btf, received_unix__raw_tp, "sock_recv_length", |context| call::on_exit_unix(i64::from(
    context.arg::<i32>(1)
)));

hook!(unix_sockets__tp_btf, unix_sockets__raw_tp, "sys_exit", |context| call::on_exit_unix(context.arg::<i64>(1)));

/// `raw_syscalls:sys_enter`: common fields 8 bytes, id 8, six arguments of 8. In `syscalls:sys_enter_*` the id has 4 bytes
/// and 4 without meaning behind it, and so have the arguments that a call does not have. The kernel attaches no program with loads of its own
/// beyond the arguments that the call has.
#[tracepoint]
pub fn sys_enter__tracepoint(context: TracePointContext) -> u32 {
    // SAFETY: the offsets are those of the event's format, which is part of the kernel's interface; the kernel has room for
    // six arguments whatever the call.
    if let Ok([id, arguments @ ..]) = unsafe { context.read_at::<[u64; 6]>(8) } {
        call::on_enter_arguments(id & 0xffff_ffff, arguments);
    }
    0
}

/// `raw_syscalls:sys_exit` and `syscalls:sys_exit_*`: common fields 8 bytes, id 8, result 8.
#[tracepoint]
pub fn sys_exit__tracepoint(context: TracePointContext) -> u32 {
    let id = field::<8>(&context) & 0xffff_ffff;
    go_on(&context, &maps::PARTS_TRACEPOINT, call::on_exit(id, field::<16>(&context) as i64));
    0
}

/// The second part of it.
#[tracepoint]
pub fn other_sockets__tracepoint(context: TracePointContext) -> u32 {
    go_on(&context, &maps::PARTS_TRACEPOINT, call::on_exit_elsewhere(field::<16>(&context) as i64));
    0
}

/// The third part of it.
#[tracepoint]
pub fn unix_sockets__tracepoint(context: TracePointContext) -> u32 {
    call::on_exit_unix(field::<16>(&context) as i64);
    0
}

/// Eight bytes of an event's record, as its format has them. A load of the program's own, where the crate's `read_at` calls a helper.
#[inline(always)]
fn field<const OFFSET: usize>(context: &TracePointContext) -> u64 {
    // SAFETY: the verifier checks that the place is one of a record's, and the kernel, when it attaches the program, that it is one of this event's.
    unsafe { context.as_ptr().add(OFFSET).cast::<u64>().read_volatile() }
}

/// Ends this program and runs the next part of `sys_exit`, if that is there: in one program, all parts are more than the
/// verifier follows, and so are several datagrams. The kernel allows 33 such steps.
#[inline(always)]
fn go_on(context: &impl EbpfContext, parts: &ProgramArray, next: Next) {
    let part = match next {
        Next::Nothing => return,
        Next::Elsewhere => 0,
        Next::Unix => 1,
    };
    // SAFETY: all parts have the same context; the kernel checks their type when the agent puts them there.
    let _ = unsafe { parts.tail_call(context, part) };
    call::end_call();
}

/// `tcp_sendmsg_locked(sk, msg, size)`: kernels before 6.16 have the function, not the tracepoint.
#[fentry(function = "tcp_sendmsg_locked")]
pub fn tcp_sendmsg_locked__fentry(context: FEntryContext) -> i32 {
    message::on_send::<Typed>(context.arg::<u64>(0), context.arg::<u64>(2) as u32, false);
    0
}

/// The same by kprobe.
#[kprobe(function = "tcp_sendmsg_locked")]
pub fn tcp_sendmsg_locked__kprobe(context: ProbeContext) -> u32 {
    if let (Some(sk), Some(size)) = (context.arg::<u64>(0), context.arg::<u64>(2)) {
        message::on_send::<Checked>(sk, size as u32, false);
    }
    0
}

/// `sock_def_readable(sk)`: what kernels before 6.3 have for `sk_data_ready`.
#[fentry(function = "sock_def_readable")]
pub fn sk_data_ready__fentry(context: FEntryContext) -> i32 {
    socket::on_ready::<Checked>(context.arg::<u64>(0));
    0
}

/// The same by kprobe.
#[kprobe(function = "sock_def_readable")]
pub fn sk_data_ready__kprobe(context: ProbeContext) -> u32 {
    if let Some(sk) = context.arg::<u64>(0) {
        socket::on_ready::<Checked>(sk);
    }
    0
}

/// Entries of C functions of TLS libraries: direction, library, and whether the fourth argument says where the length goes.
macro_rules! tls_entry {
    ($name:ident, $direction:ident, $library:ident, $has_moved_at:literal) => {
        #[uprobe]
        pub fn $name(context: ProbeContext) -> u32 {
            // SAFETY: the context is the thread's registers.
            let registers = unsafe { &*context.regs };
            let entered = Entered::c(registers, direction::$direction, library::$library, $has_moved_at);
            tls::on_enter(registers.rsp, &entered);
            0
        }
    };
}
tls_entry!(tls_read, RECEIVE, TLS, false);
tls_entry!(tls_write, SEND, TLS, false);
tls_entry!(tls_read_ex, RECEIVE, TLS, true);
tls_entry!(tls_write_ex, SEND, TLS, true);
tls_entry!(nspr_read, RECEIVE, NSPR, false);
tls_entry!(nspr_write, SEND, NSPR, false);

/// The same of several buffers.
#[uprobe]
pub fn nspr_writev(context: ProbeContext) -> u32 {
    // SAFETY: the context is the thread's registers.
    let registers = unsafe { &*context.regs };
    if let Some(entered) = Entered::vector(registers) {
        tls::on_enter(registers.rsp, &entered);
    }
    0
}

/// Handshakes, of which nothing is told.
#[uprobe]
pub fn tls_handshake(context: ProbeContext) -> u32 {
    // SAFETY: the context is the thread's registers.
    tls::on_handshake(unsafe { (*context.regs).rdi });
    0
}

/// The return of all of them.
#[uretprobe]
pub fn tls_return(context: RetProbeContext) -> u32 {
    // SAFETY: the context is the thread's registers.
    let registers = unsafe { &*context.regs };
    tls::on_return(registers.rsp, registers.rax as i32);
    0
}

/// Entries of Go's methods: with arguments in registers, and on the stack.
macro_rules! go_entry {
    ($name:ident, $direction:ident) => {
        #[uprobe]
        pub fn $name(context: ProbeContext) -> u32 {
            // SAFETY: the context is the thread's registers.
            let registers = unsafe { &*context.regs };
            tls::on_go_enter(registers.r14, &Entered::go(registers, direction::$direction));
            0
        }
    };
}
go_entry!(go_read, RECEIVE);
go_entry!(go_write, SEND);

/// Each place where they return: a return probe would replace the return address, which Go looks at when it moves a stack.
#[uprobe]
pub fn go_return(context: ProbeContext) -> u32 {
    // SAFETY: the context is the thread's registers.
    let registers = unsafe { &*context.regs };
    tls::on_go_return(registers.r14, registers.rax as i64);
    0
}

/// The same of Go before 1.17, whose arguments are on the stack, above the return address. The probe lies where the prologue has
/// the goroutine in `rcx`.
macro_rules! go_stack_entry {
    ($name:ident, $direction:ident) => {
        #[uprobe]
        pub fn $name(context: ProbeContext) -> u32 {
            // SAFETY: the context is the thread's registers.
            let registers = unsafe { &*context.regs };
            if let Some(entered) = Entered::go_on_stack(registers, direction::$direction) {
                tls::on_go_enter(registers.rcx, &entered);
            }
            0
        }
    };
}
go_stack_entry!(go_stack_read, RECEIVE);
go_stack_entry!(go_stack_write, SEND);

/// Likewise: the results are on the stack, behind the arguments.
#[uprobe]
pub fn go_stack_return(context: ProbeContext) -> u32 {
    // SAFETY: the context is the thread's registers.
    let at = unsafe { (*context.regs).rsp } + 40;
    if let (Some(goroutine), Some(result)) = (tls::goroutine_of_thread(), tls::user_word(at)) {
        tls::on_go_return(goroutine, result as i64);
    }
    0
}

/// Likewise.
#[uprobe]
pub fn go_stack_handshake(context: ProbeContext) -> u32 {
    // SAFETY: the context is the thread's registers.
    let registers = unsafe { &*context.regs };
    if let Some(session) = tls::user_word(registers.rsp + 8) {
        tls::on_go_handshake(registers.rcx, session);
    }
    0
}

/// Likewise.
#[uprobe]
pub fn go_stack_handshaken(_context: ProbeContext) -> u32 {
    if let Some(goroutine) = tls::goroutine_of_thread() {
        tls::on_go_handshaken(goroutine);
    }
    0
}

/// A handshake of Go's; it may be inside a read or write.
#[uprobe]
pub fn go_handshake(context: ProbeContext) -> u32 {
    // SAFETY: the context is the thread's registers.
    let registers = unsafe { &*context.regs };
    tls::on_go_handshake(registers.r14, registers.rax);
    0
}

/// Each place where that returns.
#[uprobe]
pub fn go_handshaken(context: ProbeContext) -> u32 {
    // SAFETY: the context is the thread's registers.
    tls::on_go_handshaken(unsafe { (*context.regs).r14 });
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
