//! The hooks and the ladder of means by which each can be attached.
//!
//! What works is found by loading and attaching, never by version numbers. Each hook says what is lost without it.

use aya::{Btf, Ebpf, programs::Program};

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
    /// Function entry trampoline.
    Fentry,
    /// Kprobe.
    Kprobe,
}

impl Rung {
    /// Name in flags and output, and suffix of the program's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TpBtf => "tp_btf",
            Self::RawTp => "raw_tp",
            Self::Tracepoint => "tracepoint",
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
        }
    }

    /// The rung called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::TpBtf, Self::RawTp, Self::Tracepoint, Self::Fentry, Self::Kprobe].into_iter().find(|r| r.name() == name)
    }
}

/// One place in the kernel.
pub struct Hook {
    /// The kernel's name of it.
    pub name: &'static str,
    /// Category, if it has a program for a tracepoint through tracefs.
    tracepoint: Option<&'static str>,
    /// Whether it is a function that fentry and kprobe can reach.
    function: bool,
    /// Nothing works without it.
    pub required: bool,
    /// What is not known without it.
    pub gives: &'static str,
}

const fn hook(name: &'static str, gives: &'static str) -> Hook {
    Hook { name, tracepoint: None, function: false, required: false, gives }
}

/// Every hook. Order of attaching: state first, so that no hook sees a connection before the ones that create it.
pub const HOOKS: &[Hook] = &[
    hook("tcp_destroy_sock", "the end of connections"),
    hook("inet_sock_set_state", "connect time, role and birth of connections"),
    hook("sched_process_exit", "the end of threads and processes"),
    hook("sched_process_fork", "selection of a selected process's children"),
    hook("sched_process_exec", "executables of short-lived processes"),
    hook("sched_switch", "run_queue"),
    hook("sched_waking", "run_queue after a wake-up"),
    hook("net_dev_start_xmit", "the end of queue, the start of network"),
    hook("net_dev_queue", "the end of held, the start of queue"),
    hook("tcp_retransmit_skb", "which bytes were sent again, and why"),
    hook("tcp_send_reset", "resets that this end sent"),
    hook("tcp_receive_reset", "resets that arrived"),
    hook("tcp_probe", "arrival and acknowledgement times: network, remote, transfer, receive_buffer"),
    Hook { required: true, ..hook("tcp_rcv_space_adjust", "what was read") },
    Hook { function: true, required: true, ..hook("tcp_sendmsg_locked", "what was written") },
    Hook {
        tracepoint: Some("raw_syscalls"),
        required: true,
        ..hook("sys_enter", "when calls began, and their buffers")
    },
    Hook { tracepoint: Some("raw_syscalls"), required: true, ..hook("sys_exit", "when calls returned, and payload") },
];

impl Hook {
    fn has(&self, rung: Rung) -> bool {
        match rung {
            Rung::TpBtf | Rung::RawTp => true,
            Rung::Tracepoint => self.tracepoint.is_some(),
            Rung::Fentry | Rung::Kprobe => self.function,
        }
    }

    /// The rungs to try; a forced one stands alone where the hook has it.
    fn ladder(&self, forced: Option<Rung>) -> Vec<Rung> {
        if let Some(rung) = forced.filter(|rung| self.has(*rung)) {
            return vec![rung];
        }
        let all = [Rung::TpBtf, Rung::RawTp, Rung::Tracepoint, Rung::Fentry, Rung::Kprobe];
        all.into_iter().filter(|rung| self.has(*rung)).collect()
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
    /// Leave these hooks out.
    pub without: Vec<String>,
}

/// Attaches every hook by the first rung that works.
pub fn attach_all(ebpf: &mut Ebpf, btf: &Btf, options: &AttachOptions) -> Vec<HookState> {
    HOOKS.iter().map(|hook| attach(ebpf, btf, hook, options)).collect()
}

fn attach(ebpf: &mut Ebpf, btf: &Btf, hook: &Hook, options: &AttachOptions) -> HookState {
    let state = |rung, detail| HookState { name: hook.name, gives: hook.gives, rung, required: hook.required, detail };
    if options.without.iter().any(|name| name == hook.name) {
        return state(None, "left out by request".into());
    }
    let mut failures = Vec::new();
    for rung in hook.ladder(options.rung) {
        match attach_by(ebpf, btf, hook, rung) {
            Ok(()) => return state(Some(rung), failures.join("; ")),
            Err(error) => failures.push(format!("{}: {error}", rung.name())),
        }
    }
    state(None, failures.join("; "))
}

fn attach_by(ebpf: &mut Ebpf, btf: &Btf, hook: &Hook, rung: Rung) -> Result<(), String> {
    let name = format!("{}__{}", hook.name, rung.name());
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
        (Program::FEntry(p), Rung::Fentry) => {
            p.load(hook.name, btf).map_err(|e| reason(&e))?;
            p.attach().map(drop).map_err(|e| reason(&e))
        }
        (Program::KProbe(p), Rung::Kprobe) => {
            p.load().map_err(|e| reason(&e))?;
            p.attach(hook.name, 0).map(drop).map_err(|e| reason(&e))
        }
        _ => Err(format!("program {name} has another type")),
    }
}

/// The innermost cause, and the verifier's last words if it spoke.
fn reason(error: &(dyn std::error::Error + 'static)) -> String {
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
        assert_eq!(find("sys_enter").ladder(Some(Rung::Tracepoint)), [Rung::Tracepoint]);
        assert_eq!(find("tcp_probe").ladder(Some(Rung::Tracepoint)), [Rung::TpBtf, Rung::RawTp]);
        let sendmsg = find("tcp_sendmsg_locked").ladder(None);
        assert_eq!(sendmsg, [Rung::TpBtf, Rung::RawTp, Rung::Fentry, Rung::Kprobe]);
    }

    #[test]
    fn rung_names_round_trip() {
        for name in ["tp_btf", "raw_tp", "tracepoint", "fentry", "kprobe"] {
            assert_eq!(Rung::from_name(name).map(Rung::name), Some(name));
        }
        assert_eq!(Rung::from_name("magic"), None);
    }
}
