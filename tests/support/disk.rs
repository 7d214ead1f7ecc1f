//! A slow disk: a loop device over a file, which a group of processes may read only so often.
//!
//! In: reads per second. Out: the device's path and the limit to start a process in. What the process reads with
//! `O_DIRECT` then waits in the block layer, which is what a throttled cloud disk does.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    cgroup::Limit,
    process::{Launch, tool},
    temp::TempDir,
};

const BYTES: usize = 16 << 20;

/// A loop device that goes with the guard.
pub struct SlowDisk {
    device: PathBuf,
    /// Processes in this group read slowly.
    pub limit: Limit,
    _folder: TempDir,
}

impl SlowDisk {
    /// Makes one of 16 MiB.
    pub fn new(reads_per_second: u32) -> Self {
        let folder = TempDir::new("disk");
        let image = folder.write("image", vec![0_u8; BYTES]);
        let text = Launch::new(tool("losetup")).args(["--find", "--show", "--direct-io=on"]).arg(&image).run();
        let device = PathBuf::from(text.trim());
        let name = device.file_name().expect("name of the loop device");
        let numbers = fs::read_to_string(PathBuf::from("/sys/block").join(name).join("dev")).expect("device numbers");
        Self { device, limit: Limit::disk_reads(numbers.trim(), reads_per_second), _folder: folder }
    }

    /// The device.
    pub fn device(&self) -> &str {
        self.device.to_str().expect("the path of a loop device is plain text")
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}

/// A small file system in memory that goes with the guard.
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// Mounts one of so many bytes.
    pub fn new(bytes: u64) -> Self {
        let folder = TempDir::new("small");
        let options = format!("size={bytes}");
        Launch::new(tool("mount")).args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder.path()).run();
        Self { folder }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Makes it larger or smaller.
    pub fn resize(&self, bytes: u64) {
        Launch::new(tool("mount")).args(["-o", &format!("remount,size={bytes}")]).arg(self.folder.path()).run();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: an agent that ends after this guard may still have files open.
        let _ = std::process::Command::new("umount").arg("--lazy").arg(self.folder.path()).status();
    }
}
