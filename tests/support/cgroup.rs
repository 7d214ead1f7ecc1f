//! A cgroup (v2) of a test's own.
//!
//! Selecting by it is what keeps the agent away from everything else on the host.

use std::{
    fs::{self, File},
    io::Write,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{clock, temp};

/// A cgroup that is emptied by killing its processes, and removed, with the guard.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// A fresh cgroup below the root of the cgroup v2 mount.
    pub fn new(label: &str) -> Self {
        Self::create(mount().join(format!("spantap-test-{label}-{}-{}", std::process::id(), temp::unique())))
    }

    /// A fresh cgroup below this one.
    pub fn child(&self, label: &str) -> Self {
        Self::create(self.0.join(label))
    }

    fn create(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap_or_else(|error| panic!("create cgroup {}: {error}", path.display()));
        Self(path)
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Processes in it.
    pub fn pids(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// CPU time of all its processes so far, also of ended ones (`cpu.stat`, `usage_usec`).
    pub fn cpu_usec(&self) -> u64 {
        let path = self.0.join("cpu.stat");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        text.lines()
            .find_map(|line| line.strip_prefix("usage_usec "))
            .and_then(|value| value.parse().ok())
            .unwrap_or_else(|| panic!("no usage_usec in {}", path.display()))
    }

    pub(crate) fn procs_file(&self) -> OwnedFd {
        let path = self.0.join("cgroup.procs");
        let file = File::options().write(true).open(&path);
        file.unwrap_or_else(|error| panic!("open {}: {error}", path.display())).into()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Ok(mut kill) = File::options().write(true).open(self.0.join("cgroup.kill")) {
            let _ = kill.write_all(b"1");
        }
        let removed = clock::poll(Duration::from_secs(5), || fs::remove_dir(&self.0).ok());
        if removed.is_none() && !std::thread::panicking() {
            panic!("cgroup {} still has processes {:?}", self.0.display(), self.pids());
        }
    }
}

/// Where cgroup v2 is mounted, alone or beside v1.
pub fn mount() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("read /proc/self/mounts");
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .map(|fields| PathBuf::from(fields[1]))
        .expect("cgroup v2 is not mounted; `mount -t cgroup2 none /mnt/cgroup2` does it")
}
