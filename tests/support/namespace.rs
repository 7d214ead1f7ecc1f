//! Network namespaces of a test's own, and links between them.
//!
//! In: nothing. Out: guards that remove the namespace, and with it every device in it. Uses `ip` from iproute2 and `nft`.

use std::{
    fs::File,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
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
        let _ = std::process::Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

fn ip<'a>(args: impl IntoIterator<Item = impl AsRef<str> + 'a>) {
    let args: Vec<String> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
    Launch::new(tool("ip")).args(args).run();
}
