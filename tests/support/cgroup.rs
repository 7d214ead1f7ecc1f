//! Cgroups of a test's own.
//!
//! [`Cgroup`] is of v2: selecting by it is what keeps the agent away from everything else on the host. [`Limit`] is of one
//! v1 controller, which is where limits are on hosts that mount both; a process is in one of each.

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

    /// Removes it, as is done with a service that ends. Its processes have ended.
    pub fn remove(&self) {
        let path = &self.0;
        clock::wait_for("nothing runs in the cgroup", Duration::from_secs(10), || fs::remove_dir(path).ok());
    }

    /// Makes it anew.
    pub fn make(&self) {
        fs::create_dir(&self.0).unwrap_or_else(|error| panic!("create cgroup {}: {error}", self.0.display()));
    }

    /// Processes in it.
    pub fn pids(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Moves a process here.
    pub fn adopt(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string())
            .unwrap_or_else(|error| panic!("move {pid} to {}: {error}", self.0.display()));
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
        writable(&self.0.join("cgroup.procs"))
    }
}

/// The most of a CPU that a group can claim against others; the usual claim is 1024.
const SHARES_MAX: &str = "262144";

/// A group of one cgroup v1 controller, removed with the guard. What runs in it must end first.
#[derive(Debug)]
pub struct Limit(PathBuf);

impl Limit {
    /// A group that may use `quota` of CPU time in each `period`, and gets that before others.
    pub fn cpu(quota: Duration, period: Duration) -> Self {
        let limit = Self::create("cpu");
        limit.set("cpu.cfs_period_us", &period.as_micros().to_string());
        limit.set("cpu.cfs_quota_us", &quota.as_micros().to_string());
        limit.set("cpu.shares", SHARES_MAX);
        limit
    }

    /// A group that gets CPU time before the host's other work. Niceness would not do: it counts within a session only
    /// where the kernel groups tasks by sessions.
    pub fn cpu_first() -> Self {
        let limit = Self::create("cpu");
        limit.set("cpu.shares", SHARES_MAX);
        limit
    }

    /// A group that may read from a block device, given as `major:minor`, `per_second` times.
    pub fn disk_reads(device: &str, per_second: u32) -> Self {
        let limit = Self::create("blkio");
        limit.set("blkio.throttle.read_iops_device", &format!("{device} {per_second}"));
        limit
    }

    /// A group that may take so many bytes of memory, page cache included; what needs more is killed.
    pub fn memory(bytes: u64) -> Self {
        let limit = Self::create("memory");
        limit.set("memory.limit_in_bytes", &bytes.to_string());
        limit
    }

    /// Memory that the group takes now, without page cache (`memory.stat`, `total_rss`).
    pub fn rss_bytes(&self) -> u64 {
        let text = fs::read_to_string(self.0.join("memory.stat")).expect("read memory.stat");
        let value = text.lines().find_map(|line| line.strip_prefix("total_rss ")).expect("total_rss");
        value.parse().expect("a number of bytes")
    }

    /// How long the group has been throttled so far, in nanoseconds (`cpu.stat`, `throttled_time`).
    pub fn throttled_ns(&self) -> u64 {
        let text = fs::read_to_string(self.0.join("cpu.stat")).expect("read cpu.stat");
        let value = text.lines().find_map(|line| line.strip_prefix("throttled_time ")).expect("throttled_time");
        value.parse().expect("a number of nanoseconds")
    }

    pub(crate) fn procs_file(&self) -> OwnedFd {
        writable(&self.0.join("cgroup.procs"))
    }

    fn create(controller: &str) -> Self {
        let folder = controller_mount(controller);
        let path = folder.join(format!("spantap-test-{}-{}", std::process::id(), temp::unique()));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("create cgroup {}: {error}", path.display()));
        Self(path)
    }

    fn set(&self, file: &str, value: &str) {
        let path = self.0.join(file);
        fs::write(&path, value).unwrap_or_else(|error| panic!("write `{value}` to {}: {error}", path.display()));
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        let is_gone = || fs::remove_dir(&self.0).is_ok() || !self.0.exists();
        let removed = clock::poll(Duration::from_secs(5), || is_gone().then_some(()));
        if removed.is_none() && !std::thread::panicking() {
            panic!("cgroup {} still has processes", self.0.display());
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Ok(mut kill) = File::options().write(true).open(self.0.join("cgroup.kill")) {
            let _ = kill.write_all(b"1");
        }
        let is_gone = || fs::remove_dir(&self.0).is_ok() || !self.0.exists();
        let removed = clock::poll(Duration::from_secs(5), || is_gone().then_some(()));
        if removed.is_none() && !std::thread::panicking() {
            panic!("cgroup {} still has processes {:?}", self.0.display(), self.pids());
        }
    }
}

/// Where cgroup v2 is mounted, alone or beside v1.
pub fn mount() -> PathBuf {
    mounted(|fields| fields[2] == "cgroup2")
        .expect("cgroup v2 is not mounted; `mount -t cgroup2 none /mnt/cgroup2` does it")
}

fn controller_mount(controller: &str) -> PathBuf {
    let has = |fields: &[&str]| fields[2] == "cgroup" && fields[3].split(',').any(|option| option == controller);
    mounted(has).unwrap_or_else(|| panic!("the cgroup v1 controller `{controller}` is not mounted"))
}

fn mounted(wanted: impl Fn(&[&str]) -> bool) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("read /proc/self/mounts");
    let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    lines.find(|fields| fields.len() > 3 && wanted(fields)).map(|fields| PathBuf::from(fields[1]))
}

fn writable(path: &Path) -> OwnedFd {
    let file = File::options().write(true).open(path);
    file.unwrap_or_else(|error| panic!("open {}: {error}", path.display())).into()
}
