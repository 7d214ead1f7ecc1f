//! Can the agent run here, and what would be missing?

use std::{os::unix::fs::MetadataExt, path::Path};

use super::{
    attach::{AttachOptions, HookState, is_by_sockets},
    btf::{self, Btf},
    load::{self, LoadError, LoadOptions},
    object, select,
};

/// One thing that was looked at.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What.
    pub name: &'static str,
    /// Whether it is as wanted.
    pub ok: bool,
    /// Whether the agent cannot work without it.
    pub required: bool,
    /// What was found, and what to do if it is not ok.
    pub detail: String,
}

/// Everything that was found.
#[derive(Debug, Default)]
pub struct Report {
    /// The host.
    pub findings: Vec<Finding>,
    /// The hooks, if they could be tried.
    pub hooks: Vec<HookState>,
}

impl Report {
    /// Whether the agent can work here.
    pub fn can_run(&self) -> bool {
        self.findings.iter().all(|finding| finding.ok || !finding.required)
            && self.hooks.iter().all(|hook| hook.rung.is_some() || !hook.required)
    }
}

/// Capabilities by bit number (include/uapi/linux/capability.h) and what each is for.
const CAPABILITIES: &[(u32, &str, &str)] = &[
    (39, "CAP_BPF", "load programs and create maps"),
    (38, "CAP_PERFMON", "attach to tracepoints and read kernel memory"),
    (19, "CAP_SYS_PTRACE", "read facts of other users' processes"),
];
const CAP_SYS_ADMIN: u32 = 21;

/// Looks at the host, and loads and attaches everything once for a moment, with nothing selected.
pub fn check(attach: AttachOptions) -> Report {
    let mut report = Report { findings: vec![kernel(), kernel_programs()], hooks: Vec::new() };
    report.findings.extend(capabilities());
    report.findings.extend([pid_namespace(), type_information(), cgroup_v2(), tracefs()]);
    match load::load(&LoadOptions { attach, ..LoadOptions::default() }) {
        Ok(loaded) => {
            let capture = &loaded.capture;
            report.findings.push(calls(is_by_sockets(capture.hooks()), capture.why_every_call()));
            report.hooks = loaded.capture.hooks().to_vec();
        }
        Err(LoadError::Stub | LoadError::Privilege(_) | LoadError::PidNamespace) => {} // said above
        Err(error) => {
            report.findings.push(Finding { name: "load", ok: false, required: true, detail: error.to_string() })
        }
    }
    report
}

/// Files are read and written by far more calls than sockets are.
fn calls(by_sockets: bool, why_every: Option<&str>) -> Finding {
    let detail = match why_every {
        _ if by_sockets => {
            "told by sockets: what reads and writes files runs no program, but for the scheduler's if it sleeps".into()
        }
        Some(why) => format!("every system call of the host runs a program, as sockets do not tell of calls: {why}"),
        None => "no hook tells of them".into(),
    };
    Finding { name: "calls", ok: by_sockets, required: false, detail }
}

fn release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default()
}

/// Whether programs at tracepoints may lose their CPU while they run: seen with Linux 7.3, not with 6.18; nothing in the kernel's
/// types says it.
pub(super) fn preempts_programs() -> bool {
    major(&release()).is_some_and(|major| major >= 7)
}

fn major(release: &str) -> Option<u32> {
    release.split('.').next()?.parse().ok()
}

fn kernel() -> Finding {
    let release = release();
    let lockdown = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    let lockdown = lockdown.split(['[', ']']).nth(1).unwrap_or("none").to_owned();
    let ok = lockdown != "confidentiality";
    let advice = if ok { "" } else { "; it forbids reading kernel memory: boot with lockdown=integrity or none" };
    Finding { name: "kernel", ok, required: true, detail: format!("{} (lockdown: {lockdown}){advice}", release.trim()) }
}

fn kernel_programs() -> Finding {
    let (ok, detail) = match object::embedded() {
        Some(bytes) => (true, format!("embedded, {} bytes", bytes.len())),
        None => (false, LoadError::Stub.to_string()),
    };
    Finding { name: "kernel programs", ok, required: true, detail }
}

/// Names of the capabilities that the kernel side needs and this process has not.
pub(super) fn missing_capabilities() -> Vec<&'static str> {
    capabilities().iter().filter(|finding| finding.required && !finding.ok).map(|finding| finding.name).collect()
}

fn capabilities() -> Vec<Finding> {
    let effective =
        procfs::process::Process::myself().and_then(|me| me.status()).map(|status| status.capeff).unwrap_or(0);
    let has = |bit: u32| effective >> bit & 1 == 1;
    let finding = |(bit, name, purpose): &(u32, &'static str, &str)| {
        let admin = has(CAP_SYS_ADMIN) && *bit != 19;
        let ok = has(*bit) || admin;
        let advice = "missing: run as root, or grant it (systemd AmbientCapabilities=, Kubernetes securityContext)";
        let detail = if ok { (*purpose).to_owned() } else { format!("{purpose}; {advice}") };
        Finding { name, ok, required: *bit != 19, detail }
    };
    CAPABILITIES.iter().map(finding).collect()
}

/// Number of the initial process id namespace (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Whether process ids here are the kernel's own: records, selection and the agent's exclusion of itself use them.
pub(super) fn pid_namespace() -> Finding {
    // Without the file the kernel has no such namespaces.
    pid_namespace_finding(std::fs::metadata("/proc/self/ns/pid").ok().map(|file| file.ino()))
}

fn pid_namespace_finding(inode: Option<u64>) -> Finding {
    let ok = inode.is_none_or(|inode| inode == INITIAL_PID_NAMESPACE);
    let detail = if ok { "the host's".to_owned() } else { LoadError::PidNamespace.to_string() };
    Finding { name: "process ids", ok, required: true, detail }
}

fn type_information() -> Finding {
    let found = Btf::from_running_kernel().and_then(|btf| btf::offsets(&btf).map(|offsets| offsets.len()));
    let (ok, detail) = match found {
        Ok(count) => (true, format!("{count} fields resolved")),
        Err(error) => (false, error.to_string()),
    };
    Finding { name: "BTF", ok, required: true, detail }
}

fn cgroup_v2() -> Finding {
    let (ok, detail) = match select::cgroup_mounts().first() {
        Some(path) => (true, format!("mounted at {}", path.display())),
        None => {
            (false, "not mounted: selection by cgroup is not available; mount -t cgroup2 none /sys/fs/cgroup".into())
        }
    };
    Finding { name: "cgroup v2", ok, required: false, detail }
}

fn tracefs() -> Finding {
    let mounted = tracefs_mounted();
    let detail = if mounted {
        "mounted".into()
    } else {
        "not mounted; the agent mounts it for itself where a hook needs it".into()
    };
    Finding { name: "tracefs", ok: true, required: false, detail }
}

fn tracefs_mounted() -> bool {
    ["/sys/kernel/tracing/events", "/sys/kernel/debug/tracing/events"].iter().any(|path| Path::new(path).exists())
}

/// Mounts tracefs in a mount namespace of the calling thread's own, if it is not mounted already.
pub(super) fn mount_private_tracefs() -> std::io::Result<()> {
    if tracefs_mounted() {
        return Ok(());
    }
    let check = |result: i32| if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) };
    // SAFETY: plain system calls with NUL-terminated constant strings; they affect this thread's view of mounts only.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS))?;
        let private = libc::MS_REC | libc::MS_PRIVATE;
        check(libc::mount(c"none".as_ptr(), c"/".as_ptr(), std::ptr::null(), private, std::ptr::null()))?;
        let target = c"/sys/kernel/tracing".as_ptr();
        check(libc::mount(c"tracefs".as_ptr(), target, c"tracefs".as_ptr(), 0, std::ptr::null()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_of_every_call_are_a_degradation_and_say_why() {
        let told = calls(true, None);
        assert!(told.ok && told.detail.contains("sockets"), "{told:?}");
        let every = calls(false, Some("sock_send_length: no such tracepoint"));
        assert!(!every.ok && !every.required && every.detail.ends_with("no such tracepoint"), "{every:?}");
        assert!(!calls(false, None).ok);
    }

    #[test]
    fn only_the_initial_pid_namespace_will_do() {
        let check = |inode, expected| assert_eq!(pid_namespace_finding(inode).ok, expected, "{inode:?}");
        check(Some(4_026_531_836), true);
        check(None, true);
        check(Some(4_026_532_200), false);
        let finding = pid_namespace_finding(Some(1));
        assert!(finding.required);
        assert!(finding.detail.contains("hostPID: true") && finding.detail.contains("--pid=host"), "{finding:?}");
    }
}
