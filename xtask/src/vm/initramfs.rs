//! An initial file system for the guest: a cpio archive ("newc", `Documentation/driver-api/early-userspace/buffer-format.rst`).
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::shell;

/// File type bits of `st_mode`.
const FOLDER: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive under construction.
#[derive(Clone)]
pub struct Initramfs {
    bytes: Vec<u8>,
    seen: BTreeSet<String>,
    inode: u32,
}

impl Initramfs {
    /// An archive with busybox, a console and the task's folder.
    pub fn with_busybox() -> Result<Self> {
        let busybox = shell::which("busybox").context("no busybox; fix: cargo xtask setup --tests")?;
        let mut files = Self { bytes: Vec::new(), seen: BTreeSet::new(), inode: 0 };
        super::elf::add_program(&mut files, &busybox, "/bin/busybox")?;
        files.folders("task/x");
        files.folders("dev/x");
        // The kernel opens /dev/console (5, 1) for init before devtmpfs is mounted.
        files.entry("dev/console", CHARACTER_DEVICE | 0o600, &[], (5, 1));
        Ok(files)
    }

    /// Adds a file of the host, with its permissions. Adding the same guest path twice keeps the first.
    pub fn file(&mut self, host: &Path, guest: &str) -> Result<()> {
        let data = fs::read(host).with_context(|| format!("read {}", host.display()))?;
        let mode = fs::metadata(host).with_context(|| format!("stat {}", host.display()))?.permissions().mode() & 0o777;
        self.data(guest, mode, &data);
        Ok(())
    }

    /// Adds a file with the given content.
    pub fn data(&mut self, guest: &str, mode: u32, data: &[u8]) {
        let name = guest.trim_start_matches('/');
        if self.seen.contains(name) {
            return;
        }
        self.folders(name);
        self.entry(name, REGULAR | mode, data, (0, 0));
    }

    /// Bytes so far.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Closes the archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[], (0, 0));
        self.bytes
    }

    /// Adds the folders above a name.
    fn folders(&mut self, name: &str) {
        for (at, _) in name.match_indices('/') {
            let folder = &name[..at];
            if !self.seen.contains(folder) {
                self.entry(folder, FOLDER | 0o755, &[], (0, 0));
            }
        }
    }

    /// One header of 110 bytes in hexadecimal, the name with a closing zero, then the data; each padded to four bytes.
    fn entry(&mut self, name: &str, mode: u32, data: &[u8], device: (u32, u32)) {
        self.inode += 1;
        let (size, name_size) = (data.len() as u32, name.len() as u32 + 1);
        let (uid, gid, links, mtime, host_device, checksum) = (0, 0, 1, 0, (0, 0), 0);
        let fields = [
            self.inode,
            mode,
            uid,
            gid,
            links,
            mtime,
            size,
            host_device.0,
            host_device.1,
            device.0,
            device.1,
            name_size,
            checksum,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
        self.seen.insert(name.to_owned());
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn an_archive_lists_and_extracts_with_an_independent_reader() {
        let mut files = Initramfs { bytes: Vec::new(), seen: BTreeSet::new(), inode: 0 };
        files.data("/a/b/three", 0o755, b"abc");
        files.data("/a/empty", 0o644, b"");
        files.data("/a/b/three", 0o644, b"second is ignored");
        let archive = files.finish();
        assert_eq!(archive.len() % 4, 0);
        let text = String::from_utf8_lossy(&archive);
        let order: Vec<_> = ["a\0", "a/b\0", "a/b/three\0", "a/empty\0", "TRAILER!!!\0"]
            .iter()
            .map(|n| text.find(n).unwrap())
            .collect();
        assert!(order.is_sorted(), "folders come before what is in them: {order:?}");
        assert!(!text.contains("second"));
        // Where a cpio is installed it must agree.
        let Some(cpio) = shell::which("cpio") else { return };
        let mut child =
            Command::new(cpio).args(["-t", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&archive).unwrap();
        let listing = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        assert_eq!(listing.lines().collect::<Vec<_>>(), ["a", "a/b", "a/b/three", "a/empty"]);
    }
}
