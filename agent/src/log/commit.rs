//! Group commit: many that wait for their blocks to be durable, one force to disk.
//!
//! In: the numbers of blocks. Out: when they are on stable storage, or that they are not. Called by
//! [`SpanLog::durable`](super::SpanLog::durable). Whoever comes first forces the disk, for all blocks that are there by then; who comes
//! meanwhile waits for the next force, which one of them does. No thread of its own, and no timer: the force itself gathers.

use std::{
    fs::File,
    ops::Range,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use super::{BlockId, Inner, LogError};
use crate::capture::lock;

/// Most ranges of failed blocks that are remembered apart.
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
    /// What is on the disk for sure.
    #[cfg(test)]
    disk: Mutex<super::tests::power::Disk>,
    /// Whether the next maintenance panics.
    #[cfg(test)]
    pub panics_next: std::sync::atomic::AtomicBool,
    /// One more than how many files are forced before one fails as on a broken disk; 0: none does.
    #[cfg(test)]
    fails_at: AtomicU64,
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
                remember(&mut failures, self.settled.fetch_max(failed, SeqCst)..failed);
            }
        }
        done.map(drop)
    }

    fn is_settled(&self, block: BlockId) -> bool {
        block.0 < self.settled.load(SeqCst)
    }

    pub fn sync(&self, file: &File, _path: &Path) -> std::io::Result<()> {
        #[cfg(test)]
        if self.fails_at.load(SeqCst) > 0 && self.fails_at.fetch_sub(1, SeqCst) == 1 {
            return Err(std::io::Error::from_raw_os_error(libc::EIO));
        }
        let done = file.sync_data();
        #[cfg(test)]
        if done.is_ok() {
            self.forces.fetch_add(1, SeqCst);
            lock(&self.disk).forced(_path);
        }
        done
    }

    #[cfg(test)]
    pub fn over(folder: &Path) -> Self {
        Self { disk: Mutex::new(super::tests::power::Disk::over(folder)), ..Self::default() }
    }

    #[cfg(test)]
    pub fn disk(&self) -> super::tests::power::Disk {
        lock(&self.disk).clone()
    }

    #[cfg(test)]
    pub fn fail_next(&self) {
        self.fail_after(0);
    }

    #[cfg(test)]
    pub fn fail_after(&self, files: u64) {
        self.fails_at.store(files + 1, SeqCst);
    }

    #[cfg(test)]
    pub fn set_disk(&self, disk: super::tests::power::Disk) {
        *lock(&self.disk) = disk;
    }

    #[cfg(test)]
    pub fn forces(&self) -> u64 {
        self.forces.load(SeqCst)
    }
}

/// Of too many, the oldest count as one: what lies between is then taken for failed too, and comes twice, but nothing is believed to be on
/// the disk that is not.
fn remember(failures: &mut Vec<Range<u64>>, failed: Range<u64>) {
    match failures.last_mut() {
        _ if failed.is_empty() => {}
        Some(last) if last.end == failed.start => last.end = failed.end,
        _ => failures.push(failed),
    }
    if failures.len() > FAILURES_MAX {
        let first = failures.remove(0);
        failures[0].start = first.start;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_failed_block_is_forgotten_however_many_there_are() {
        let mut failures = Vec::new();
        let ranges: Vec<Range<u64>> = (0..200).map(|number| number * 10 + 5..number * 10 + 8).collect();
        for range in &ranges {
            remember(&mut failures, range.clone());
        }
        assert_eq!(failures.len(), FAILURES_MAX);
        assert!(ranges.iter().flat_map(Clone::clone).all(|block| failures.iter().any(|range| range.contains(&block))));
        assert!(failures.iter().all(|range| !range.contains(&4) && !range.contains(&1998)));
        let known = failures.clone();
        remember(&mut failures, 1998..1998);
        assert_eq!(failures, known);
        remember(&mut failures, 1998..2000);
        assert_eq!(
            (failures.len(), failures.last()),
            (FAILURES_MAX, Some(&(1995..2000))),
            "one after the other is one"
        );
    }
}
