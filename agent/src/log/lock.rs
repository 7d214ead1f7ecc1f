//! The instance lock: at most one agent per data folder.
//!
//! In: the folder. Out: a guard; the lock is the kernel's (`flock`), so it ends with the process however that ends. Called by
//! [`SpanLog::open`](super::SpanLog::open) only.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Write},
    path::Path,
};

use super::LogError;

/// Holds the lock while it lives.
#[derive(Debug)]
pub(super) struct InstanceLock {
    _file: File,
}

impl InstanceLock {
    /// Takes the lock of the folder `dir`, and writes who holds it for the next one to read.
    pub fn acquire(dir: &Path) -> Result<Self, LogError> {
        let path = dir.join("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(LogError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LogError::InUse { holder: holder(&mut file), path }),
            Err(TryLockError::Error(cause)) => return Err(LogError::Io { operation: "lock", path, cause }),
        }
        // Best effort: a full disk must not keep the agent from starting.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "pid {}", std::process::id()));
        Ok(Self { _file: file })
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    // A lock file is one short line; anything longer is not ours.
    match file.take(64).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => "pid unknown".to_owned(),
    }
}
