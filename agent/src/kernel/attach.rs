//! The hooks and the ladder of means by which each can be attached.
//!
//! What works is found by loading and attaching, never by version numbers; only which of two that work is better may be known by
//! one. Each hook says what is lost without it.

use aya::{
    Btf, Ebpf,
    maps::ProgramArray,
    programs::{Program, TracePoint},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A means of attaching, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Rung {
    /// BTF tracepoint.
    TpBtf,
    /// Raw tracepoint.
    RawTp,
    /// Tracepoint through tracefs.
    Tracepoint,
    /// One tracepoint through tracefs for each system call that is watched, where there else is one for all of them.
    Syscalls,
    /// Function entry trampoline.
    Fentry,
    /// Kprobe.
    Kprobe,
    /// Probe in the code of applications. No choice: nothing else reaches there.
    #[value(skip)]
    Uprobe,
}

impl Rung {
    /// Name in flags and output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TpBtf => "tp_btf",
            Self::RawTp => "raw_tp",
            Self::Tracepoint => "tracepoint",
            Self::Syscalls => "syscalls",
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Uprobe => "uprobe",
        }
    }

    /// Suffix of the programs' names, and of the map with their parts.
    pub const fn suffix(self) -> &'static str {
        match self {
            // The events have the same layout, as far as the programs read it.
            Self::Syscalls => Self::Tracepoint.name(),
            _ => self.name(),
        }
    }

    /// Whether it reaches a function's entry instead of a tracepoint.
    pub const fn is_function(self) -> bool {
        matches!(self, Self::Fentry | Self::Kprobe)
    }

    /// The rung called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        let all =
            [Self::TpBtf, Self::RawTp, Self::Tracepoint, Self::Syscalls, Self::Fentry, Self::Kprobe, Self::Uprobe];
        all.into_iter().find(|rung| rung.name() == name)
    }
}

/// Which system calls run the programs at their entry and return.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum SyscallHooks {
    /// Only those that no single socket tells of; of the others sockets do. Files cost nothing. Needs Linux 6.3, without which it is `every`.
    #[default]
    Sockets,
    /// Every one.
    Every,
    /// Only those that move bytes: these cost more than with `every`, every other one less.
    Io,
}

impl SyscallHooks {
    /// The system calls of a hook that [`Rung::Syscalls`] attaches to, by the names of their tracepoints.
    fn calls(self, hook: &str) -> impl Iterator<Item = &'static str> {
        let (both, return_only) = match self {
            Self::Sockets => (OF_NO_SINGLE_SOCKET, BRING_SENDER),
            Self::Every | Self::Io => (MOVE_BYTES, &[][..]),
        };
        let more = if hook == "sys_exit" { return_only } else { &[] };
        both.iter().chain(more).copied()
    }
}

/// `agent-ebpf/src/call.rs` has the same (`is_hooked`), and looks at `close`.
const OF_NO_SINGLE_SOCKET: &[&str] =
    &["close", "connect", "accept", "accept4", "sendfile64", "splice", "recvmmsg", "sendmmsg"];

/// Sockets tell of these too, but not who sent a datagram.
const BRING_SENDER: &[&str] = &["recvfrom", "recvmsg"];

const MOVE_BYTES: &[&str] = &[
    "read",
    "write",
    "close",
    "readv",
    "writev",
    "sendfile64",
    "connect",
    "accept",
    "sendto",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "splice",
    "accept4",
    "recvmmsg",
    "sendmmsg",
    "preadv2",
    "pwritev2",
];

/// Every hook's name.
pub fn names() -> impl Iterator<Item = &'static str> {
    SOCKET_HOOKS.iter().chain(HOOKS).map(|hook| hook.name)
}

/// One place in the kernel.
struct Hook {
    /// The kernel's name of it.
    name: &'static str,
    /// Category, if it has a program for a tracepoint through tracefs.
    tracepoint: Option<&'static str>,
    /// The function that fentry and kprobe can reach instead, if there is one.
    function: Option<&'static str>,
    /// What program goes on with this one: it is not attached, but put where that looks for it.
    part_of: Option<Part>,
    /// Nothing works without it.
    required: bool,
    /// What is not known without it.
    gives: &'static str,
}

/// Where a program looks for the one that it goes on with.
#[derive(Clone, Copy)]
struct Part {
    /// Its hook.
    whole: &'static str,
    /// The map's name up to the rung.
    map: &'static str,
    index: u32,
}

const fn part(whole: &'static str, map: &'static str, index: u32) -> Option<Part> {
    Some(Part { whole, map, index })
}

const fn hook(name: &'static str, gives: &'static str) -> Hook {
    Hook { name, tracepoint: None, function: None, part_of: None, required: false, gives }
}

const UNSEEN: &str = "UDP, the end of streams, failed calls";
const UNIX: &str = "unix stream sockets";

/// The hooks by which sockets tell of calls: all of them or none.
const SOCKET_HOOKS: &[Hook] = &[
    hook("sock_send_length", "when writes were done, and payload"),
    Hook { part_of: part("sock_send_length", "SENT", 0), ..hook("sent_elsewhere", UNSEEN) },
    Hook { part_of: part("sock_send_length", "SENT", 1), ..hook("sent_unix", UNIX) },
    hook("sock_recv_length", "when reads were done, and payload"),
    Hook { part_of: part("sock_recv_length", "RECEIVED", 0), ..hook("received_elsewhere", UNSEEN) },
    Hook { part_of: part("sock_recv_length", "RECEIVED", 1), ..hook("received_unix", UNIX) },
];

/// Every other hook. Order of attaching: state first, so that no hook sees a connection before the ones that create it.
const HOOKS: &[Hook] = &[
    hook("tcp_destroy_sock", "the end of connections"),
    hook("inet_sock_set_state", "connect time, role and birth of connections"),
    hook("sched_process_exit", "the end of threads and processes"),
    hook("sched_process_fork", "selection of a selected process's children"),
    hook("sched_process_exec", "executables of short-lived processes"),
    hook("sched_switch", "run_queue and off_cpu"),
    hook("sched_waking", "run_queue after a wake-up, and where it ends off_cpu"),
    hook("softirq_raise", "softirq"),
    hook("softirq_entry", "softirq"),
    hook("net_dev_start_xmit", "the end of queue, the start of network"),
    hook("net_dev_queue", "the end of held, the start of queue"),
    hook("tcp_retransmit_skb", "which bytes were sent again, and why"),
    hook("tcp_send_reset", "resets that this end sent"),
    hook("tcp_receive_reset", "resets that arrived"),
    hook("tcp_probe", "arrival and acknowledgement times: network, remote, transfer, receive_buffer"),
    Hook { required: true, ..hook("tcp_rcv_space_adjust", "what was read") },
    Hook { function: Some("tcp_sendmsg_locked"), required: true, ..hook("tcp_sendmsg_locked", "what was written") },
    Hook {
        // Linux has the tracepoint since 6.3.
        function: Some("sock_def_readable"),
        ..hook("sk_data_ready", "arrival times of datagrams and on unix sockets: receive_buffer, wakeup")
    },
    Hook {
        tracepoint: Some("raw_syscalls"),
        required: true,
        ..hook("sys_enter", "when calls began, and their buffers")
    },
    Hook { tracepoint: Some("raw_syscalls"), required: true, ..hook("sys_exit", "when calls returned, and payload") },
    Hook {
        tracepoint: Some("raw_syscalls"),
        part_of: part("sys_exit", "PARTS", 0),
        ..hook("other_sockets", "UDP, the end of streams, failed calls, when connections were accepted")
    },
    Hook { tracepoint: Some("raw_syscalls"), part_of: part("sys_exit", "PARTS", 1), ..hook("unix_sockets", UNIX) },
];

impl Hook {
    fn has(&self, rung: Rung) -> bool {
        match rung {
            Rung::TpBtf | Rung::RawTp => true,
            Rung::Tracepoint | Rung::Syscalls => self.tracepoint.is_some(),
            Rung::Fentry | Rung::Kprobe => self.function.is_some(),
            Rung::Uprobe => false,
        }
    }

    /// Whether only single system calls are to run it: sockets tell of the others. A part goes with its whole.
    fn is_of_single(&self, options: &AttachOptions) -> bool {
        options.syscalls == SyscallHooks::Sockets && self.tracepoint.is_some() && self.part_of.is_none()
    }

    /// The rungs to try; a forced one stands alone where the hook has it.
    fn ladder(&self, forced: Option<Rung>, options: &AttachOptions) -> Vec<Rung> {
        if let Some(rung) = forced.filter(|rung| self.has(*rung) && !self.is_of_single(options)) {
            return vec![rung];
        }
        let all = [Rung::TpBtf, Rung::RawTp, Rung::Tracepoint, Rung::Fentry, Rung::Kprobe];
        let first = match options.syscalls {
            SyscallHooks::Io | SyscallHooks::Sockets => Some(Rung::Syscalls),
            SyscallHooks::Every => options.preemptible.then_some(Rung::Tracepoint),
        };
        first.into_iter().chain(all).filter(|rung| self.has(*rung)).collect()
    }
}

/// How a hook fared.
#[derive(Clone, Debug)]
pub struct HookState {
    /// The hook's name.
    pub name: &'static str,
    /// What it gives.
    pub gives: &'static str,
    /// The rung it is attached by, if it is.
    pub rung: Option<Rung>,
    /// Whether the agent can work without it.
    pub required: bool,
    /// Why the rungs above failed, or why it is detached.
    pub detail: String,
}

/// What the operator asked of attaching.
#[derive(Clone, Debug, Default)]
pub struct AttachOptions {
    /// Force this rung where a hook has it.
    pub rung: Option<Rung>,
    /// Which system calls to hook.
    pub syscalls: SyscallHooks,
    /// Leave these hooks out.
    pub without: Vec<String>,
    /// The kernel may take the CPU from a program of the first two rungs, and then skips the next run of it on that CPU. So programs
    /// of system calls, the longest ones, are rather attached by tracefs, where it does not.
    pub preemptible: bool,
}

/// Whether sockets tell of calls with these hooks.
pub fn is_by_sockets(states: &[HookState]) -> bool {
    states.iter().any(|state| state.name == SOCKET_HOOKS[0].name)
}

/// Why sockets cannot tell of calls, as far as that shows before anything is attached.
pub fn why_not_by_sockets(options: &AttachOptions) -> Option<&'static str> {
    if options.preemptible {
        Some("the kernel may take the CPU from a program")
    } else if options.rung.is_some_and(|rung| !SOCKET_HOOKS[0].has(rung)) {
        Some("another means is asked for")
    } else {
        None
    }
}

/// Attaches every hook by the first rung that works. Those by which sockets tell of calls are among them if they shall.
///
/// # Errors
/// Why sockets do not tell of calls. The object is of no use then: its programs are made for that.
pub fn attach_all(ebpf: &mut Ebpf, btf: &Btf, options: &AttachOptions) -> Result<Vec<HookState>, String> {
    let mut states = Vec::with_capacity(SOCKET_HOOKS.len() + HOOKS.len());
    if options.syscalls == SyscallHooks::Sockets {
        attach_each(ebpf, btf, SOCKET_HOOKS, options, &mut states);
        // But for those that are left out by request.
        let has_failed =
            |state: &&HookState| state.rung.is_none() && options.without.iter().all(|name| name != state.name);
        if let Some(failed) = states.iter().find(has_failed) {
            return Err(format!("{}: {}", failed.name, failed.detail));
        }
    }
    attach_each(ebpf, btf, HOOKS, options, &mut states);
    Ok(states)
}

fn attach_each(
    ebpf: &mut Ebpf,
    btf: &Btf,
    hooks: &'static [Hook],
    options: &AttachOptions,
    states: &mut Vec<HookState>,
) {
    for hook in hooks {
        // A part has to be of the type of what goes on with it.
        let whole = states.iter().find(|state| hook.part_of.is_some_and(|part| part.whole == state.name));
        let rung = whole.map_or(options.rung, |state| state.rung);
        states.push(attach(ebpf, btf, hook, rung, options));
    }
}

fn attach(ebpf: &mut Ebpf, btf: &Btf, hook: &Hook, rung: Option<Rung>, options: &AttachOptions) -> HookState {
    let state = |rung, detail| HookState { name: hook.name, gives: hook.gives, rung, required: hook.required, detail };
    if options.without.iter().any(|name| name == hook.name) {
        return state(None, "left out by request".into());
    }
    let mut failures = Vec::new();
    for rung in hook.ladder(rung, options) {
        let result = match hook.part_of {
            Some(part) => append_by(ebpf, btf, hook, part, rung),
            None => attach_by(ebpf, btf, hook, rung, options.syscalls),
        };
        match result {
            Ok(()) => {
                if hook.is_of_single(options) && rung != Rung::Syscalls {
                    failures.push("so every system call of the host runs it".into());
                }
                return state(Some(rung), failures.join("; "));
            }
            Err(error) => failures.push(format!("{}: {error}", rung.name())),
        }
    }
    state(None, failures.join("; "))
}

fn attach_by(ebpf: &mut Ebpf, btf: &Btf, hook: &Hook, rung: Rung, syscalls: SyscallHooks) -> Result<(), String> {
    let name = format!("{}__{}", hook.name, rung.suffix());
    let program = ebpf.program_mut(&name).ok_or_else(|| format!("the object has no program {name}"))?;
    match (program, rung) {
        (Program::BtfTracePoint(p), Rung::TpBtf) => {
            p.load(hook.name, btf).map_err(|e| reason(&e))?;
            p.attach().map(drop).map_err(|e| reason(&e))
        }
        (Program::RawTracePoint(p), Rung::RawTp) => {
            p.load().map_err(|e| reason(&e))?;
            p.attach(hook.name).map(drop).map_err(|e| reason(&e))
        }
        (Program::TracePoint(p), Rung::Tracepoint) => {
            p.load().map_err(|e| reason(&e))?;
            p.attach(hook.tracepoint.unwrap_or_default(), hook.name).map(drop).map_err(|e| reason(&e))
        }
        (Program::TracePoint(p), Rung::Syscalls) => {
            p.load().map_err(|e| reason(&e))?;
            attach_to_each(p, hook.name, syscalls)
        }
        (Program::FEntry(p), Rung::Fentry) => {
            p.load(hook.function.unwrap_or_default(), btf).map_err(|e| reason(&e))?;
            p.attach().map(drop).map_err(|e| reason(&e))
        }
        (Program::KProbe(p), Rung::Kprobe) => {
            p.load().map_err(|e| reason(&e))?;
            p.attach(hook.function.unwrap_or_default(), 0).map(drop).map_err(|e| reason(&e))
        }
        _ => Err(format!("program {name} has another type")),
    }
}

/// All of them or none: a call of which only one end is seen would be mistaken for another.
fn attach_to_each(program: &mut TracePoint, hook: &str, syscalls: SyscallHooks) -> Result<(), String> {
    let mut links = Vec::new();
    let failure = syscalls.calls(hook).find_map(|call| match program.attach("syscalls", &format!("{hook}_{call}")) {
        Ok(link) => {
            links.push(link);
            None
        }
        Err(error) => Some(format!("{call}: {}", reason(&error))),
    });
    let Some(failure) = failure else { return Ok(()) };
    for link in links {
        program.detach(link).map_err(|error| reason(&error))?;
    }
    program.unload().map_err(|error| reason(&error))?;
    Err(failure)
}

/// Loads a part and puts it where what goes on with it looks.
fn append_by(ebpf: &mut Ebpf, btf: &Btf, hook: &Hook, part: Part, rung: Rung) -> Result<(), String> {
    let name = format!("{}__{}", hook.name, rung.suffix());
    let program = ebpf.program_mut(&name).ok_or_else(|| format!("the object has no program {name}"))?;
    match program {
        Program::BtfTracePoint(p) => p.load(part.whole, btf).map_err(|e| reason(&e))?,
        Program::RawTracePoint(p) => p.load().map_err(|e| reason(&e))?,
        Program::TracePoint(p) => p.load().map_err(|e| reason(&e))?,
        _ => return Err(format!("program {name} has another type")),
    }
    let loaded = program.fd().map_err(|e| reason(&e))?.try_clone().map_err(|e| reason(&e))?;
    let place = format!("{}_{}", part.map, rung.suffix().to_uppercase());
    let map = ebpf.map_mut(&place).ok_or_else(|| format!("the object has no map {place}"))?;
    let mut places = ProgramArray::try_from(map).map_err(|e| reason(&e))?;
    places.set(part.index, &loaded, 0).map_err(|e| reason(&e))
}

/// The innermost cause, and the verifier's last words if it spoke.
pub(super) fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let mut text = cause.to_string();
    if let Some(aya::programs::ProgramError::LoadError { verifier_log, .. }) =
        error.downcast_ref::<aya::programs::ProgramError>()
    {
        let log = verifier_log.to_string();
        let mut last: Vec<&str> = log.lines().rev().filter(|line| !line.starts_with("processed ")).take(3).collect();
        last.reverse();
        text = format!("{text}: {}", last.join(" | "));
        tracing::debug!(verifier_log = %log, "the kernel refused a program");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forced_rung_stands_alone_only_where_the_hook_has_it() {
        let find = |name| HOOKS.iter().find(|hook| hook.name == name).unwrap();
        let check = |name, forced, syscalls, expected: &[Rung]| {
            let options = AttachOptions { syscalls, ..AttachOptions::default() };
            assert_eq!(find(name).ladder(forced, &options), expected, "{name} {forced:?} {syscalls:?}");
        };
        let (sockets, every, io) = (SyscallHooks::Sockets, SyscallHooks::Every, SyscallHooks::Io);
        check("sys_enter", Some(Rung::Tracepoint), every, &[Rung::Tracepoint]);
        check("tcp_probe", Some(Rung::Tracepoint), every, &[Rung::TpBtf, Rung::RawTp]);
        check("tcp_sendmsg_locked", None, every, &[Rung::TpBtf, Rung::RawTp, Rung::Fentry, Rung::Kprobe]);
        check("tcp_probe", None, io, &[Rung::TpBtf, Rung::RawTp]);
        check("sys_exit", None, io, &[Rung::Syscalls, Rung::TpBtf, Rung::RawTp, Rung::Tracepoint]);
        check("sys_exit", None, sockets, &[Rung::Syscalls, Rung::TpBtf, Rung::RawTp, Rung::Tracepoint]);
        let preemptible = AttachOptions { preemptible: true, syscalls: every, ..AttachOptions::default() };
        assert_eq!(find("sys_exit").ladder(None, &preemptible)[..2], [Rung::Tracepoint, Rung::TpBtf]);
        assert_eq!(find("tcp_probe").ladder(None, &preemptible), [Rung::TpBtf, Rung::RawTp]);
    }

    #[test]
    fn rung_names_round_trip() {
        for name in ["tp_btf", "raw_tp", "tracepoint", "syscalls", "fentry", "kprobe"] {
            assert_eq!(Rung::from_name(name).map(Rung::name), Some(name));
        }
        assert_eq!(Rung::from_name("magic"), None);
    }
}
