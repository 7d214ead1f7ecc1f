//! Which files a process executes code of.
//!
//! In: a process id. Out: [`Mapped`] files, each openable whatever the process's mount namespace is, and though it may be
//! deleted. Called by [`super::probes`].

use std::{fs::File, os::unix::fs::MetadataExt, path::PathBuf};

/// What names a file, whatever its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// Device of the file system.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

/// A file of which a process has executable memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Device and inode as the memory map says.
    key: (String, u64),
    /// Path as the process sees it.
    pub path: String,
    /// Where it can be opened: the mapping itself, else by path through the process's root.
    places: [PathBuf; 2],
}

impl Mapped {
    /// What the memory map calls it: the same for all processes that map it.
    pub fn key(&self) -> (&str, u64) {
        (&self.key.0, self.key.1)
    }

    /// Opens it.
    pub fn open(&self) -> std::io::Result<(File, FileId)> {
        let file = File::open(&self.places[0]).or_else(|_| File::open(&self.places[1]))?;
        let metadata = file.metadata()?;
        Ok((file, FileId { device: metadata.dev(), inode: metadata.ino() }))
    }
}

/// The files of a process; none if it is gone.
pub fn of(pid: u32) -> Vec<Mapped> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let mut files: Vec<Mapped> = Vec::new();
    for mapped in text.lines().filter_map(|line| parse(pid, line)) {
        if !files.iter().any(|known| known.key == mapped.key) {
            files.push(mapped);
        }
    }
    files
}

/// `start-end perms offset device inode path` (proc_pid_maps(5)).
fn parse(pid: u32, line: &str) -> Option<Mapped> {
    let mut rest = line;
    let mut word = || {
        let (word, after) = rest.trim_start().split_once(' ')?;
        rest = after;
        Some(word)
    };
    let (range, permissions, _, device, inode) = (word()?, word()?, word()?, word()?, word()?);
    let path = rest.trim_start();
    let inode = inode.parse().ok().filter(|inode| *inode != 0)?;
    if permissions.as_bytes().get(2) != Some(&b'x') || !path.starts_with('/') {
        return None;
    }
    let path = path.trim_end_matches(" (deleted)").to_owned();
    let places = [format!("/proc/{pid}/map_files/{range}").into(), format!("/proc/{pid}/root{path}").into()];
    Some(Mapped { key: (device.to_owned(), inode), path, places })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_executable_memory_of_files_counts() {
        let check = |line: &str, expected: Option<(&str, u64)>| {
            let found = parse(7, line);
            assert_eq!(found.as_ref().map(|mapped| (mapped.path.as_str(), mapped.key.1)), expected, "{line}");
        };
        check("7f00-7f10 r-xp 00001000 fe:00 1234    /usr/lib/libssl.so.3", Some(("/usr/lib/libssl.so.3", 1234)));
        check("7f00-7f10 r-xp 00001000 fe:00 5 /opt/a b.so (deleted)", Some(("/opt/a b.so", 5)));
        check("7f00-7f10 r--p 00001000 fe:00 1234    /usr/lib/libssl.so.3", None);
        check("7f00-7f10 r-xp 00000000 00:00 0       [vdso]", None);
        check("7f00-7f10 rwxp 00000000 00:00 0 ", None);
        check("", None);
    }

    #[test]
    fn our_own_program_is_found_and_can_be_opened() {
        let files = of(std::process::id());
        let own = std::fs::metadata("/proc/self/exe").unwrap();
        let found = files.iter().find(|mapped| mapped.open().is_ok_and(|(_, id)| id.inode == own.ino()));
        assert!(found.is_some(), "{files:?}");
        assert!(of(u32::MAX).is_empty());
    }
}
