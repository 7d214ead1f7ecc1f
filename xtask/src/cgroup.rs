//! A cgroup v2 of our own, removed when dropped.
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

/// A cgroup that this process made.
pub struct Cgroup {
    /// Its folder, as `--select-cgroup` takes it.
    pub path: PathBuf,
}

impl Cgroup {
    /// Makes a cgroup in the machine's v2 hierarchy.
    pub fn create(name: &str) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
        let root =
            v2_mount(&mounts).context("no cgroup v2 is mounted; fix: mount -t cgroup2 none /sys/fs/cgroup/unified")?;
        let path = root.join(format!("{name}-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("create cgroup {}", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel refuses while a member that was just ended is not yet gone.
        for _ in 0..100 {
            if fs::remove_dir(&self.path).is_ok() || !self.path.exists() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        eprintln!("cannot remove the cgroup {}: it still has members", self.path.display());
    }
}

/// The first cgroup v2 mount in the text of `/proc/self/mounts`.
pub fn v2_mount(mounts: &str) -> Option<PathBuf> {
    let mut fields = mounts.lines().map(|line| line.split(' '));
    fields.find_map(|mut line| {
        let (_device, path, kind) = (line.next()?, line.next()?, line.next()?);
        (kind == "cgroup2").then(|| Path::new(path).to_path_buf())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_v2_mount_is_found_beside_v1_hierarchies() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(v2_mount(mounts), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(v2_mount("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n"), None);
    }
}
