//! Group commit: many that wait for their blocks to be durable, one force to disk.
//!
//! In: the numbers of blocks. Out: when they are on stable storage, or that they are not. Called by
//! [`SpanLog::durable`](super::SpanLog::durable). Whoever comes first forces the disk, for all blocks that are there by then; who comes
//! meanwhile waits for the next force, which one of them does. No thread of its own, and no timer: the force itself gathers.

use std::{
    fs::File,
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use super::{BlockId, Inner, LogError};
use crate::capture::lock;

/// Most failures that are remembered; a block that waits is never older.
const FAILURES_MAX: usize = 64;

/// How far the log has been forced to disk.
#[derive(Debug, Default)]
pub(super) struct Committer {
    /// Held while files are forced: what one has taken to force is not durable for another before it has.
    turn: Mutex<()>,
    /// The blocks that could not be forced: the kernel reports a failure once, and may then call the same pages clean.
    failures: Mutex<Vec<Range<u64>>>,
    /// Blocks below are durable, or among the failures.
    settled: AtomicU64,
    /// Files that were forced.
    #[cfg(test)]
    forces: AtomicU64,
    /// Whether the next force fails as a broken disk does.
    #[cfg(test)]
    fails_next: std::sync::atomic::AtomicBool,
}

impl Committer {
    /// Forces by `force`, which says whether that was everything; `end` tells how far the log goes. Nothing is done if the block that
    /// is `asked` about is settled when it is this caller's turn.
    pub fn force(
        &self,
        asked: Option<BlockId>,
        end: impl Fn() -> u64,
        force: impl FnOnce() -> Result<bool, LogError>,
    ) -> Result<(), LogError> {
        let _turn = lock(&self.turn);
        if asked.is_some_and(|block| self.is_settled(block)) {
            return Ok(());
        }
        let before = end();
        let done = force();
        match &done {
            Ok(everything) if *everything => drop(self.settled.fetch_max(before, SeqCst)),
            Ok(_) => {}
            Err(_) => {
                let (failed, mut failures) = (end(), lock(&self.failures));
                failures.push(self.settled.fetch_max(failed, SeqCst)..failed);
                let surplus = failures.len().saturating_sub(FAILURES_MAX);
                failures.drain(..surplus);
            }
        }
        done.map(drop)
    }

    fn is_settled(&self, block: BlockId) -> bool {
        block.0 < self.settled.load(SeqCst)
    }

    pub fn sync(&self, file: &File) -> std::io::Result<()> {
        #[cfg(test)]
        {
            self.forces.fetch_add(1, SeqCst);
            if self.fails_next.swap(false, SeqCst) {
                return Err(std::io::Error::from_raw_os_error(libc::EIO));
            }
        }
        file.sync_data()
    }

    #[cfg(test)]
    pub fn fail_next(&self) {
        self.fails_next.store(true, SeqCst);
    }

    #[cfg(test)]
    pub fn forces(&self) -> u64 {
        self.forces.load(SeqCst)
    }
}

impl Inner {
    /// Returns when it is known what became of the block.
    pub fn make_durable(&self, block: BlockId) -> Result<(), LogError> {
        if !self.committer.is_settled(block) {
            // Whom a failure concerns is asked below.
            let _ = self.sync_due(true, Some(block));
        }
        self.outcome(&lock(&self.committer.failures), block)
    }

    /// Of a block that is settled.
    fn outcome(&self, failures: &[Range<u64>], block: BlockId) -> Result<(), LogError> {
        if failures.iter().any(|failed| failed.contains(&block.0)) {
            let cause = self.state().stats.last_error.clone();
            return Err(LogError::NotDurable { cause });
        }
        Ok(())
    }
}
