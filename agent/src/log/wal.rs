//! Forcing to disk what a database has committed: its write-ahead log, by a descriptor of its own.
//!
//! In: that something was committed. Out: that it is on stable storage. Called by `store`. SQLite forces only when it moves the
//! write-ahead log into the database, or at each commit; this is between the two. Whoever forces does not hold up those who commit, and
//! who comes meanwhile has it done by the next force, together with all that were committed by then.

use std::{
    fs::{File, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use super::LogError;
use crate::capture::lock;

/// The write-ahead log of an open database. SQLite uses one file, from the first statement of a connection to its end.
#[derive(Debug)]
pub(super) struct Wal {
    path: PathBuf,
    file: File,
    /// Commits so far.
    committed: AtomicU64,
    forced: Mutex<Forced>,
    /// Bytes that it had when it was forced last: what is certain to be left of it when the machine dies.
    #[cfg(test)]
    forced_bytes: AtomicU64,
    /// Whether the next force fails as a broken disk does.
    #[cfg(test)]
    fails_next: std::sync::atomic::AtomicBool,
}

#[derive(Debug, Default)]
struct Forced {
    /// Commits that are on the disk.
    commits: u64,
    /// A force has failed: the kernel reports that once, and may then call the same pages clean.
    has_failed: bool,
}

impl Wal {
    /// Of the database at `path`, which a connection has open.
    pub fn open(path: &Path) -> Result<Self, LogError> {
        let mut name = path.as_os_str().to_owned();
        name.push("-wal");
        let path = PathBuf::from(name);
        let file = OpenOptions::new().write(true).open(&path).map_err(LogError::io("open", &path))?;
        let wal = Self {
            path,
            file,
            committed: AtomicU64::new(0),
            forced: Mutex::default(),
            #[cfg(test)]
            forced_bytes: AtomicU64::new(0),
            #[cfg(test)]
            fails_next: false.into(),
        };
        // The file may be new: that its name is in the folder must be on the disk too.
        let folder = wal.path.parent().and_then(|folder| File::open(folder).ok());
        let done = wal.file.sync_all().and_then(|()| folder.map_or(Ok(()), |folder| folder.sync_all()));
        if let Err(error) = done {
            tracing::warn!(path = %wal.path.display(), %error, "cannot be forced to disk");
        }
        Ok(wal)
    }

    /// Something was committed.
    pub fn committed(&self) {
        self.committed.fetch_add(1, SeqCst);
    }

    /// Returns when everything that was committed before the call is on the disk. After a failure `rewrite` is called, which writes
    /// all of it anew elsewhere: what could not be forced once is not trusted.
    pub fn force(&self, rewrite: impl FnOnce() -> Result<(), LogError>) -> Result<(), LogError> {
        let wanted = self.committed.load(SeqCst);
        let mut forced = lock(&self.forced);
        if forced.commits >= wanted && !forced.has_failed {
            return Ok(());
        }
        let commits = self.committed.load(SeqCst);
        if std::mem::replace(&mut forced.has_failed, true) {
            rewrite()?;
            #[cfg(test)]
            self.forced_bytes.store(0, SeqCst);
        } else {
            self.sync().map_err(LogError::io("force to disk", &self.path))?;
        }
        *forced = Forced { commits, has_failed: false };
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        if self.fails_next.swap(false, SeqCst) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.file.sync_data()?;
        #[cfg(test)]
        self.forced_bytes.store(self.file.metadata()?.len(), SeqCst);
        Ok(())
    }

    #[cfg(test)]
    pub fn fail_next(&self) {
        self.fails_next.store(true, SeqCst);
    }

    #[cfg(test)]
    pub fn forced_bytes(&self) -> u64 {
        self.forced_bytes.load(SeqCst)
    }
}
