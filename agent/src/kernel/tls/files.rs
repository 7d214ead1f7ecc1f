//! Which files a process executes code of.
//!
//! In: a process id. Out: [`Mapped`] files, each openable whatever the process's mount namespace is, and though it may be
//! deleted. Called by [`super::probes`].

use std::{
    fs::File,
    io::{Error, ErrorKind, Result},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

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
    /// The mapping itself, which not everybody may open.
    mapping: PathBuf,
    /// Its path through the process's root, where by now another file may be; none if that is certain.
    by_path: Option<PathBuf>,
}

impl Mapped {
    /// As if somebody had mapped the file at a path.
    #[cfg(test)]
    pub fn at(path: &Path) -> Self {
        let key = ("fe:00".to_owned(), std::fs::metadata(path).expect("a file").ino());
        Self { key, path: path.display().to_string(), mapping: path.into(), by_path: None }
    }

    /// What the memory map calls it: the same for all processes that map it.
    pub fn key(&self) -> (&str, u64) {
        (&self.key.0, self.key.1)
    }

    /// Opens it, or fails: never another file that has its path now.
    pub fn open(&self) -> Result<(File, FileId)> {
        open(&self.mapping).or_else(|error| self.open_by_path().unwrap_or(Err(error)))
    }

    fn open_by_path(&self) -> Option<Result<(File, FileId)>> {
        let found = open(self.by_path.as_deref()?);
        // The device is not compared: some file systems call it otherwise in memory maps.
        let is_same = found.as_ref().is_ok_and(|(_, id)| id.inode == self.key.1);
        Some(if is_same { found } else { Err(ErrorKind::NotFound.into()) })
    }
}

/// What is there may be anything by now: a FIFO must not block.
fn open(path: &Path) -> Result<(File, FileId)> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(Error::from(ErrorKind::InvalidInput));
    }
    Ok((file, FileId { device: metadata.dev(), inode: metadata.ino() }))
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
    let (path, is_deleted) = path.strip_suffix(" (deleted)").map_or((path, false), |path| (path, true));
    // Without the zeros in front: with them the kernel does not know it (fs/proc/base.c).
    let range = range.split('-').map(|end| end.trim_start_matches('0')).collect::<Vec<_>>().join("-");
    let mapping = format!("/proc/{pid}/map_files/{range}").into();
    let by_path = (!is_deleted).then(|| format!("/proc/{pid}/root{path}").into());
    Some(Mapped { key: (device.to_owned(), inode), path: path.to_owned(), mapping, by_path })
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

    /// What may be opened by path only, for want of a capability.
    fn by_path(path: &Path, inode: u64) -> Mapped {
        let (key, nowhere) = (("fe:00".to_owned(), inode), "/nowhere".into());
        Mapped { key, path: path.display().to_string(), mapping: nowhere, by_path: Some(path.into()) }
    }

    #[test]
    fn another_file_that_has_the_path_now_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("library");
        std::fs::write(&path, "old").unwrap();
        let mapped = by_path(&path, std::fs::metadata(&path).unwrap().ino());
        assert_eq!(mapped.open().unwrap().1.inode, mapped.key.1);
        std::fs::rename(&path, folder.path().join("old")).unwrap();
        std::fs::write(&path, "new").unwrap();
        assert!(mapped.open().is_err());
    }

    #[test]
    fn a_fifo_that_has_the_path_now_does_not_block() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("library");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        assert!(by_path(&path, std::fs::metadata(&path).unwrap().ino()).open().is_err());
    }

    #[test]
    fn what_is_deleted_is_looked_for_in_memory_only() {
        let parsed = |line| parse(7, line).unwrap();
        let there = parsed("00400000-00401000 r-xp 00000000 fe:00 5 /opt/a");
        assert_eq!(there.mapping, Path::new("/proc/7/map_files/400000-401000"));
        assert_eq!(there.by_path, Some("/proc/7/root/opt/a".into()));
        assert_eq!(parsed("7f00-7f10 r-xp 00001000 fe:00 5 /opt/a b.so (deleted)").by_path, None);
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
