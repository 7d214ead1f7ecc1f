//! Network namespaces of a test's own, and links between them.
//!
//! In: nothing. Out: guards that remove the namespace, and with it every device in it. Uses `ip` from iproute2 and `nft`.

use std::{
    fs::{self, File},
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Once,
};

use crate::{
    process::{Launch, tool},
    temp,
};

/// A network namespace with loopback up.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// A fresh namespace.
    pub fn new() -> Self {
        static SWEPT: Once = Once::new();
        SWEPT.call_once(sweep);
        let name = format!("st{}-{}", std::process::id(), temp::unique());
        ip(["netns", "add", &name]);
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// Its name for `ip netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `ip` with these arguments inside.
    pub fn ip(&self, args: &[&str]) {
        ip(["-n", self.name.as_str()].iter().chain(args));
    }

    /// Loads a ruleset of `nft` inside.
    pub fn nft(&self, rules: &str) {
        Launch::new(tool("nft")).in_namespace(self).arg(rules).run();
    }

    /// Sets a parameter of the kernel inside, by its name for `sysctl`.
    pub fn sysctl(&self, name: &str, value: &str) {
        let path = PathBuf::from("/proc/sys").join(name.replace('.', "/"));
        self.enter(|| std::fs::write(&path, value))
            .unwrap_or_else(|error| panic!("write `{value}` to {}: {error}", path.display()));
    }

    /// Limits what leaves by `device` with a token bucket: the arguments of `tc`'s `tbf`.
    pub fn token_bucket(&self, device: &str, limits: &str) {
        let args = ["qdisc", "replace", "dev", device, "root", "tbf"].into_iter().chain(limits.split_whitespace());
        Launch::new(tool("tc")).in_namespace(self).args(args).run();
    }

    /// A counter of the kernel's inside, by group and name: `("Tcp", "RetransSegs")`, `("TcpExt", "ListenOverflows")`.
    pub fn counter(&self, group: &str, name: &str) -> u64 {
        // `/proc/net` is the namespace of the process's first thread; this is that of the calling one.
        let files = ["/proc/thread-self/net/snmp", "/proc/thread-self/net/netstat"];
        let texts = self.enter(|| files.map(|file| std::fs::read_to_string(file).expect("read the counters")));
        let found = texts.iter().find_map(|text| find_counter(text, group, name));
        found.unwrap_or_else(|| panic!("no counter {group} {name}"))
    }

    /// Joins two namespaces by a veth pair: 10.99.0.1 here, 10.99.0.2 there.
    pub fn join_by_veth(&self, other: &Self) {
        let (here, there) = (format!("va{}", temp::unique()), format!("vb{}", temp::unique()));
        self.ip(&["link", "add", &here, "type", "veth", "peer", "name", &there, "netns", &other.name]);
        for (namespace, device, address) in [(self, &here, "10.99.0.1/24"), (other, &there, "10.99.0.2/24")] {
            namespace.ip(&["addr", "add", address, "dev", device]);
            namespace.ip(&["link", "set", device, "up"]);
        }
    }

    /// Runs `work` on a thread of its own inside.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = self.file();
        std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    // SAFETY: a valid namespace file; only this short-lived thread changes namespace.
                    let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
                    assert_eq!(result, 0, "setns: {}", std::io::Error::last_os_error());
                    work()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub(crate) fn file(&self) -> OwnedFd {
        let path = self.path();
        File::open(&path).unwrap_or_else(|error| panic!("open {}: {error}", path.display())).into()
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        delete(&self.name);
    }
}

fn delete(name: &str) {
    let _ = std::process::Command::new("ip").args(["netns", "delete", name]).status();
}

/// Removes the namespaces of test processes that are gone: who is killed removes nothing.
fn sweep() {
    let names =
        fs::read_dir("/run/netns").into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    for name in names {
        let pid =
            name.strip_prefix("st").and_then(|rest| rest.split_once('-')).and_then(|(pid, _)| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            delete(&name);
        }
    }
}

/// Finds a counter in the pairs of lines, names and values, of `/proc/net/snmp`.
fn find_counter(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(": "));
    let index = lines.next()?.split(' ').position(|candidate| candidate == name)?;
    lines.next()?.split(' ').nth(index)?.parse().ok()
}

fn ip<'a>(args: impl IntoIterator<Item = impl AsRef<str> + 'a>) {
    let args: Vec<String> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
    Launch::new(tool("ip")).args(args).run();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_test_left_is_removed_and_what_others_use_is_not() {
        let own = Namespace::new();
        let mut gone = std::process::Command::new("true").spawn().expect("start `true`");
        gone.wait().expect("its end");
        let left = Namespace { name: format!("st{}-0", gone.id()) };
        ip(["netns", "add", &left.name]);
        assert!(left.path().exists());
        sweep();
        assert!(!left.path().exists() && own.path().exists());
        // There is nothing left for its guard.
        std::mem::forget(left);
    }

    #[test]
    fn a_counter_stands_under_its_name() {
        let text = "TcpExt: A ListenOverflows B\nTcpExt: 1 22 3\nIp: A\nIp: 9\n";
        assert_eq!(find_counter(text, "TcpExt", "ListenOverflows"), Some(22));
        assert_eq!(find_counter(text, "Ip", "A"), Some(9));
        assert_eq!(find_counter(text, "Tcp", "A"), None);
    }
}
