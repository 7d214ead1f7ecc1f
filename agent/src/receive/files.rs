//! Notices that files changed: by looking at them, so that it also works where a folder of symbolic links is exchanged, as in
//! Kubernetes, and on network file systems.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    time::{Duration, SystemTime},
};

/// Two writes within such a time may look the same.
const TICK: Duration = Duration::from_secs(2);

/// Device, inode, size, modification and change time in nanoseconds; none of a file that cannot be looked at.
type Signature = Option<(u64, u64, u64, i128, i128)>;

/// Some files as they were when they were read last.
#[derive(Debug)]
pub(super) struct Watched {
    paths: Vec<PathBuf>,
    seen: Vec<Signature>,
    /// They changed so shortly before that another change may look the same.
    is_fresh: bool,
}

impl Watched {
    /// Call it before the files are read for the first time.
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        let seen = signatures(&paths);
        let is_fresh = any_fresh(&seen);
        Self { paths, seen, is_fresh }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Whether the files may have changed since the last call.
    pub(super) fn changed(&mut self) -> bool {
        let now = signatures(&self.paths);
        let changed = now != self.seen || self.is_fresh;
        self.is_fresh = any_fresh(&now);
        self.seen = now;
        changed
    }
}

fn signatures(paths: &[PathBuf]) -> Vec<Signature> {
    let ns = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    let of = |path: &PathBuf| {
        let file = fs::metadata(path).ok()?;
        let times = (ns(file.mtime(), file.mtime_nsec()), ns(file.ctime(), file.ctime_nsec()));
        Some((file.dev(), file.ino(), file.size(), times.0, times.1))
    };
    paths.iter().map(of).collect()
}

fn any_fresh(signatures: &[Signature]) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_nanos() as i128);
    signatures.iter().flatten().any(|file| now - file.4 < TICK.as_nanos() as i128)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_replacements_and_removals_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, "a").unwrap();
        let mut watched = Watched::new(vec![path.clone()]);
        watched.is_fresh = false;
        fs::write(&path, "bc").unwrap();
        assert!(watched.changed());
        watched.is_fresh = false;
        assert!(!watched.changed());
        watched.is_fresh = false;
        let other = folder.path().join("other");
        fs::write(&other, "de").unwrap();
        fs::rename(&other, &path).unwrap();
        assert!(watched.changed());
        watched.is_fresh = false;
        fs::remove_file(&path).unwrap();
        assert!(watched.changed());
        assert!(!watched.changed());
    }

    #[test]
    fn a_file_that_was_just_written_is_looked_at_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, "a").unwrap();
        assert!(Watched::new(vec![path]).changed());
    }
}
