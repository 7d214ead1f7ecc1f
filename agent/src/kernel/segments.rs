//! By which hooks each segment is measured on this kernel, or how it is degraded.
//!
//! In: how the hooks fared. Out: one line per segment, for `spantap check`. Pure.

use super::attach::{HookState, is_by_sockets};

/// How a segment is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentMeans {
    /// Its name.
    pub segment: &'static str,
    /// Whether everything that measures it is there.
    pub complete: bool,
    /// By which hooks and means; what is missing, and what that makes of it.
    pub detail: String,
}

/// What a segment needs.
struct Needs {
    segment: &'static str,
    /// All of these.
    hooks: &'static [&'static str],
    /// All of these instead where sockets tell of calls, if it is others.
    by_sockets: &'static [&'static str],
    /// What it is without one of them.
    without: &'static str,
    /// What is never measured of it, whatever the kernel has; may be empty.
    always: &'static str,
}

const fn needs(segment: &'static str, hooks: &'static [&'static str], without: &'static str) -> Needs {
    Needs { segment, hooks, by_sockets: &[], without, always: "" }
}

const SOCKETS: &[&str] = &["sock_send_length", "sock_recv_length"];

/// In the order of a request.
const SEGMENTS: &[Needs] = &[
    Needs {
        by_sockets: &["sent_elsewhere", "received_elsewhere"],
        ..needs("dns", &["sys_enter", "sys_exit", "other_sockets"], "not known: a part of what precedes the request")
    },
    needs("connect", &["inet_sock_set_state"], "not known: a part of what precedes the request"),
    needs(
        "accept_queue",
        &["inet_sock_set_state", "tcp_probe", "other_sockets"],
        "not known: it is not a part of spans",
    ),
    Needs { by_sockets: SOCKETS, ..needs("tls", &["sys_enter", "sys_exit"], "not known") },
    Needs {
        by_sockets: &["tcp_sendmsg_locked", "sock_send_length"],
        ..needs("send", &["sys_enter", "tcp_sendmsg_locked"], "not known")
    },
    needs("held", &["tcp_sendmsg_locked", "net_dev_queue", "net_dev_start_xmit"], "not told from queue and network"),
    needs("queue", &["net_dev_queue", "net_dev_start_xmit"], "not told from held"),
    Needs {
        always: "derived where the acknowledgement came with data and the other end is not on this host",
        ..needs("network", &["net_dev_start_xmit", "tcp_probe"], "unexplained")
    },
    Needs {
        always: "derived where network is",
        ..needs("remote", &["net_dev_start_xmit", "tcp_probe"], "unexplained")
    },
    needs("transfer", &["tcp_probe"], "unexplained"),
    Needs {
        always: "derived: the packet may be younger than the raise",
        ..needs("softirq", &["softirq_raise", "softirq_entry", "tcp_probe"], "a part of network or transfer")
    },
    needs("receive_buffer", &["tcp_probe", "tcp_rcv_space_adjust"], "unexplained"),
    needs("wakeup", &["tcp_probe", "sched_switch", "sched_waking"], "a part of receive_buffer"),
    needs("run_queue", &["sched_switch", "sched_waking"], "a part of receive_buffer and application"),
    needs("off_cpu", &["sched_switch", "sched_waking"], "a part of application"),
    Needs {
        by_sockets: &["sock_send_length", "sock_recv_length", "tcp_rcv_space_adjust", "tcp_sendmsg_locked"],
        ..needs("application", &["sys_enter", "sys_exit", "tcp_rcv_space_adjust", "tcp_sendmsg_locked"], "not known")
    },
];

/// How each segment is known with these hooks.
pub fn means(hooks: &[HookState]) -> Vec<SegmentMeans> {
    SEGMENTS.iter().map(|needs| segment_means(needs, hooks)).collect()
}

fn segment_means(needs: &Needs, hooks: &[HookState]) -> SegmentMeans {
    let rung = |name: &str| hooks.iter().find(|hook| hook.name == name).and_then(|hook| hook.rung);
    let others = is_by_sockets(hooks) && !needs.by_sockets.is_empty();
    let needed = if others { needs.by_sockets } else { needs.hooks };
    let missing: Vec<&str> = needed.iter().copied().filter(|name| rung(name).is_none()).collect();
    let mut detail = if missing.is_empty() {
        let by = |name: &&str| rung(name).map(|rung| format!("{name} ({})", rung.name()));
        format!("by {}", needed.iter().filter_map(by).collect::<Vec<_>>().join(", "))
    } else {
        format!("without {}: {}", missing.join(", "), needs.without)
    };
    let entry_only = rung("tcp_sendmsg_locked").is_some_and(|rung| rung.is_function());
    let derived = if entry_only { without_pieces(needs.segment) } else { "" };
    detail.push_str(derived);
    if !needs.always.is_empty() && missing.is_empty() {
        detail.push_str(&format!("; {}", needs.always));
    }
    SegmentMeans { segment: needs.segment, complete: missing.is_empty() && derived.is_empty(), detail }
}

/// What is different about a segment where the function's entry is seen and not each piece that TCP takes.
fn without_pieces(segment: &str) -> &'static str {
    match segment {
        "send" => {
            "; derived: it ends where the last byte was given to the device or the call returned, since only the function's \
             entry is seen, not each chunk"
        }
        "held" => "; derived: it begins where send ends",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::{super::attach::Rung, *};

    fn hook(name: &'static str, rung: Option<Rung>) -> HookState {
        HookState { name, gives: "", rung, required: false, detail: String::new() }
    }

    fn all(rung: Rung) -> Vec<HookState> {
        let mut names: Vec<&str> = SEGMENTS.iter().flat_map(|needs| needs.hooks).copied().collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter().map(|name| hook(name, Some(rung))).collect()
    }

    fn detail(hooks: &[HookState], segment: &str) -> (bool, String) {
        let found = means(hooks).into_iter().find(|means| means.segment == segment).unwrap();
        (found.complete, found.detail)
    }

    #[test]
    fn with_every_hook_every_segment_is_complete_and_names_its_means() {
        let hooks = all(Rung::TpBtf);
        assert!(means(&hooks).iter().all(|means| means.complete));
        assert_eq!(detail(&hooks, "transfer"), (true, "by tcp_probe (tp_btf)".into()));
    }

    #[test]
    fn a_missing_hook_degrades_what_it_gives_and_nothing_else() {
        let mut hooks = all(Rung::TpBtf);
        hooks.iter_mut().filter(|hook| hook.name == "sched_waking").for_each(|hook| hook.rung = None);
        assert_eq!(detail(&hooks, "off_cpu"), (false, "without sched_waking: a part of application".into()));
        let degraded: Vec<&str> =
            means(&hooks).iter().filter(|means| !means.complete).map(|means| means.segment).collect();
        assert_eq!(degraded, ["wakeup", "run_queue", "off_cpu"]);
    }

    #[test]
    fn where_sockets_tell_of_calls_these_hooks_are_named_and_needed() {
        let mut hooks = all(Rung::TpBtf);
        hooks.extend(["sock_send_length", "sock_recv_length"].map(|name| hook(name, Some(Rung::TpBtf))));
        assert_eq!(detail(&hooks, "tls"), (true, "by sock_send_length (tp_btf), sock_recv_length (tp_btf)".into()));
        let (complete, text) = detail(&hooks, "dns");
        assert!(!complete && text.starts_with("without sent_elsewhere, received_elsewhere: "), "{text}");
    }

    #[test]
    fn a_function_entry_sees_the_begin_of_a_send_only() {
        let mut hooks = all(Rung::TpBtf);
        hooks
            .iter_mut()
            .filter(|hook| hook.name == "tcp_sendmsg_locked")
            .for_each(|hook| hook.rung = Some(Rung::Kprobe));
        let (complete, words) = detail(&hooks, "send");
        assert!(!complete && words.contains("; derived: it ends where"), "{words}");
        let degraded: Vec<&str> =
            means(&hooks).iter().filter(|means| !means.complete).map(|means| means.segment).collect();
        assert_eq!(degraded, ["send", "held"]);
    }

    #[test]
    fn every_segment_has_a_line() {
        let names: Vec<&str> = means(&[]).iter().map(|means| means.segment).collect();
        let all = agent_core::span::SegmentName::ALL.iter().map(|name| name.name());
        let expected: Vec<&str> = all.filter(|name| *name != "unexplained").collect();
        assert_eq!(names, expected);
    }
}
