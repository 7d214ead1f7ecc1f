//! `cargo xtask doctor`: what this machine has and lacks, with the fix for each.
//!
//! Prints facts only and always succeeds: whether a lack matters depends on what one wants to do.
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::apt::{self, Package};
use crate::cgroup;
use crate::repo::Repo;
use crate::setup::{TEST_PACKAGES, has_python_package};
use crate::shell;
use crate::toolchain::{BPF_LINKER_VERSION, DEBIAN_COMPILER, DEBIAN_LINKER, Route, Toolchain};

/// One line of the report.
struct Finding {
    what: &'static str,
    /// What is there, or what is missing and how to get it.
    state: Result<String, String>,
}

/// Prints the report.
pub fn doctor(repo: &Repo) -> Result<()> {
    println!("Building");
    building(repo).iter().for_each(Finding::print);
    println!("Running");
    running().iter().for_each(Finding::print);
    println!("Testing");
    testing(repo).iter().for_each(Finding::print);
    Ok(())
}

impl Finding {
    fn print(&self) {
        match &self.state {
            Ok(state) => println!("  ok       {:<22} {state}", self.what),
            Err(fix) => println!("  missing  {:<22} {fix}", self.what),
        }
    }
}

fn finding(what: &'static str, found: Option<String>, fix: &str) -> Finding {
    Finding { what, state: found.ok_or_else(|| fix.to_owned()) }
}

fn building(repo: &Repo) -> Vec<Finding> {
    let used = Toolchain::find(None);
    let route = |route| Toolchain::find(Some(route)).map(|toolchain| toolchain.describe());
    let linker =
        used.as_ref().filter(|toolchain| toolchain.has_linker(repo)).and_then(|toolchain| toolchain.linker(repo).ok());
    let object = fs::metadata(repo.object()).ok().map(|meta| format!("{} bytes", meta.len()));
    vec![
        finding(
            "rustc",
            shell::output(Command::new("rustc").arg("-V")).ok().map(|v| v.trim().into()),
            "install Rust (rustup)",
        ),
        finding(
            "route: nightly",
            route(Route::Nightly),
            "no rustup nightly with rust-src (one of the two routes is enough)",
        ),
        finding("route: debian", route(Route::Debian), &missing(DEBIAN_COMPILER, "(one of the two routes is enough)")),
        finding("route used", used.map(|toolchain| toolchain.label().into()), "cargo xtask setup"),
        finding(
            "bpf-linker",
            linker.map(|path| format!("{BPF_LINKER_VERSION}, {}", repo.shown(&path))),
            "cargo xtask setup",
        ),
        finding(
            "LLVM for the linker",
            installed(DEBIAN_LINKER),
            &missing(DEBIAN_LINKER, "(debian route; cargo xtask setup)"),
        ),
        finding("kernel object", object, "cargo xtask build"),
    ]
}

fn running() -> Vec<Finding> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| text.trim().to_owned());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounted = |kind: &str| {
        let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some(kind))?;
        line.split(' ').nth(1).map(str::to_owned)
    };
    let btf = Path::new("/sys/kernel/btf/vmlinux");
    let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").ok().map(|text| text.trim().to_owned());
    vec![
        finding("kernel", release, "no /proc"),
        finding("BTF", btf.is_file().then(|| btf.display().to_string()), "a kernel with CONFIG_DEBUG_INFO_BTF=y"),
        finding(
            "capabilities",
            capabilities(),
            "run as root, or with CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_SYS_PTRACE",
        ),
        finding(
            "tracefs",
            mounted("tracefs"),
            "mount -t tracefs none /sys/kernel/tracing (only the fallback rungs need it)",
        ),
        finding("bpffs", mounted("bpf"), "mount -t bpf none /sys/fs/bpf (not needed to run)"),
        finding(
            "cgroup v2",
            cgroup::v2_mount(&mounts).map(|path| path.display().to_string()),
            "mount -t cgroup2 none /sys/fs/cgroup/unified",
        ),
        finding("lockdown", lockdown, "unknown (no securityfs)"),
    ]
}

fn testing(repo: &Repo) -> Vec<Finding> {
    let pip = repo.cache("venv/bin/pip");
    let clippy = shell::succeeds(shell::cargo().args(["clippy", "--version"]));
    let rustfmt = shell::succeeds(shell::cargo().args(["fmt", "--version"]));
    let tun = Path::new("/dev/net/tun");
    vec![
        finding("root", shell::is_root().then(|| "yes".into()), &shell::as_root("test")),
        finding("clippy, rustfmt", (clippy && rustfmt).then(|| "yes".into()), "rustup component add clippy rustfmt"),
        finding("packages", installed(TEST_PACKAGES), &missing(TEST_PACKAGES, "(cargo xtask setup --tests)")),
        finding(
            "OTLP receiver",
            has_python_package(&pip, "rotel").then(|| "rotel".into()),
            "cargo xtask setup --tests",
        ),
        finding("TUN device", tun.exists().then(|| tun.display().to_string()), "modprobe tun"),
    ]
}

/// Which of the capabilities that the agent uses this process has, if any of the first two.
fn capabilities() -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?.trim();
    let mask = u64::from_str_radix(hex, 16).ok()?;
    let names = held(mask);
    (names.contains(&"BPF") && names.contains(&"PERFMON")).then(|| names.join(" "))
}

/// Names of the capabilities in a mask (`linux/capability.h`), of those that matter here.
fn held(mask: u64) -> Vec<&'static str> {
    let known =
        [(12, "NET_ADMIN"), (19, "SYS_PTRACE"), (21, "SYS_ADMIN"), (24, "SYS_RESOURCE"), (38, "PERFMON"), (39, "BPF")];
    known.into_iter().filter(|(bit, _)| mask & (1 << bit) != 0).map(|(_, name)| name).collect()
}

fn installed(packages: &[Package]) -> Option<String> {
    apt::missing(packages).is_empty().then(|| format!("all {}", packages.len()))
}

fn missing(packages: &[Package], note: &str) -> String {
    let names: Vec<_> = apt::missing(packages).iter().map(|package| package.name).collect();
    format!("apt-get install {} {note}", names.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_named_from_the_mask() {
        assert_eq!(held(1 << 39 | 1 << 12), ["NET_ADMIN", "BPF"]);
        assert!(held(0).is_empty());
    }
}
