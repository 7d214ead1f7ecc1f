//! The machine's power goes: of blocks, of the names of files and of the places of destinations there is what was forced.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::*;

/// What of the segments is on the disk for sure.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    /// Files whose names are.
    names: BTreeSet<PathBuf>,
    /// How much of them.
    bytes: BTreeMap<PathBuf, u64>,
}

impl Disk {
    /// Of a folder that nobody writes to: all of it.
    pub fn over(folder: &Path) -> Self {
        let mut disk = Self::default();
        disk.forced(folder);
        let names = disk.names.clone();
        names.iter().for_each(|path| disk.forced(path));
        disk
    }

    /// A file or a folder was forced.
    pub fn forced(&mut self, path: &Path) {
        let known = fs::metadata(path).expect("there");
        if known.is_dir() {
            self.names = fs::read_dir(path).expect("readable").map(|entry| entry.expect("an entry").path()).collect();
        } else {
            self.bytes.insert(path.to_owned(), known.len());
        }
    }

    /// How much of a file is there when the power has gone; `None`: not even its name.
    fn left(&self, path: &Path) -> Option<u64> {
        self.names.contains(path).then(|| self.bytes.get(path).copied().unwrap_or(0))
    }
}

impl SpanLog {
    /// A copy of the folder as the disk is certain to have it if the power goes now: only what was forced.
    pub(crate) fn after_power_failure(&self) -> TempDir {
        let copy = TempDir::new().expect("a temporary folder");
        fs::create_dir(copy.path().join("segments")).expect("a folder");
        let disk = self.inner.committer.disk();
        for folder in ["", "segments"] {
            for entry in fs::read_dir(self.dir().join(folder)).expect("readable") {
                let path = entry.expect("an entry").path();
                let left = if folder.is_empty() { Some(u64::MAX) } else { disk.left(&path) };
                let Some(left) = left.filter(|_| path.is_file()) else { continue };
                let to = copy.path().join(folder).join(path.file_name().expect("a name"));
                fs::copy(&path, &to).expect("copied");
                cut(&to, left);
            }
        }
        cut(&copy.path().join("cursors.db-wal"), self.inner.store.wal().forced_bytes());
        // Its index is no file to be relied on.
        let _ = fs::remove_file(copy.path().join("cursors.db-shm"));
        copy
    }

    /// Forces all blocks to the disk, and no places.
    pub(crate) fn force_blocks(&self) {
        self.inner.sync_due(true, None).expect("forced");
    }
}

fn cut(path: &Path, bytes: u64) {
    let file = fs::OpenOptions::new().write(true).open(path).expect("it is there");
    let bytes = file.metadata().expect("known").len().min(bytes);
    file.set_len(bytes).expect("cut");
}

/// What comes again after the power went, and whether it is said to be a repetition.
fn again(log: &SpanLog) -> (Vec<u64>, bool, u64) {
    let folder = log.after_power_failure();
    let log = SpanLog::open(folder.path(), LogConfig::default()).expect("the log opens");
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    let delivered = cursor.counts().delivered;
    let batch = cursor.next_batch(2, 1 << 20).expect("readable");
    let (numbers, is_repetition) =
        batch.map(|batch| (batch_numbers(&batch), batch.may_be_duplicate)).unwrap_or_default();
    (numbers, is_repetition, delivered)
}

fn log_of_six(fixture: &Fixture) -> (SpanLog, Cursor) {
    let log = fixture.open();
    let cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    for number in 0..6 {
        log.append(&spans(number..number + 1)).expect("appends");
    }
    log.force_blocks();
    (log, cursor)
}

#[test]
fn after_a_power_failure_only_what_was_on_its_way_comes_again() {
    let fixture = Fixture::new();
    let (log, mut cursor) = log_of_six(&fixture);
    let mut two = || cursor.next_batch(2, 1 << 20).expect("readable").expect("a batch");
    let first = two();
    log.force_places();
    assert_eq!(again(&log), (vec![0, 1], true, 0), "on its way");
    cursor.settle(first.first_block, Fate::default()).expect("saved");
    assert_eq!(again(&log), (vec![0, 1], true, 0), "settled, and not forced yet");
    let second = cursor.next_batch(2, 1 << 20).expect("readable").expect("a batch");
    log.force_places();
    assert_eq!(again(&log), (vec![2, 3], true, 2), "the same batch again, and none before it");
    cursor.settle(second.first_block, Fate::default()).expect("saved");
    log.maintain().expect("maintains");
    assert_eq!(again(&log), (vec![4, 5], false, 4), "forced once a second as well");
}

#[test]
fn a_place_that_cannot_be_forced_is_counted_and_written_anew() {
    let fixture = Fixture::new();
    let (log, mut cursor) = log_of_six(&fixture);
    let first = cursor.next_batch(2, 1 << 20).expect("readable").expect("a batch");
    cursor.settle(first.first_block, Fate::default()).expect("saved");
    log.inner.store.wal().fail_next();
    log.force_places();
    assert_eq!((log.stats().sync_errors, again(&log).2), (1, 0));
    assert!(log.stats().last_error.contains("cursors.db-wal"), "{}", log.stats().last_error);
    let written = || fs::metadata(fixture.dir.path().join("cursors.db-wal")).expect("there").len();
    assert!(written() > 0);
    log.force_places();
    assert_eq!((written(), log.stats().sync_errors, again(&log).2), (0, 1, 2), "in the database by now");
    cursor.next_batch(2, 1 << 20).expect("readable").expect("a batch");
    assert_eq!(again(&log), (vec![2, 3], false, 2), "given out, and not forced");
    log.force_places();
    assert_eq!(again(&log), (vec![2, 3], true, 2));
}

/// What is in the log after the power went.
fn left(log: &SpanLog) -> Vec<u64> {
    let folder = log.after_power_failure();
    all(&SpanLog::open(folder.path(), LogConfig::default()).expect("the log opens"))
}

#[tokio::test]
async fn what_was_said_to_be_durable_is_there_after_a_power_failure() {
    let fixture = Fixture::new();
    let log = fixture.open();
    relay(&log, 1..2, Flags::default()).expect("appends");
    let second = relay(&log, 2..3, Flags::default()).expect("appends");
    assert_eq!(left(&log), Vec::<u64>::new(), "nobody was told");
    log.durable(second).expect("durable");
    relay(&log, 3..4, Flags::default()).expect("appends");
    assert_eq!(left(&log), [1, 2]);
    // The next one has the end of one segment and the begin of another, whose name is new.
    log.inner.writer().leave(&log.inner);
    let last = relay(&log, 4..5, Flags::default()).expect("appends");
    log.durable(last).expect("durable");
    assert_eq!(left(&log), [1, 2, 3, 4]);
}

#[tokio::test]
async fn what_was_left_unforced_by_a_failure_is_forced_before_the_next_is_durable() {
    // The first, second and third of: the segment before, the folder, the segment in use, which may be empty.
    for (failing, is_empty) in [(0, false), (1, false), (2, false), (0, true), (1, true)] {
        let fixture = Fixture::new();
        let log = fixture.open();
        let first = relay(&log, 1..2, Flags::default()).expect("appends");
        log.durable(first).expect("durable");
        let second = relay(&log, 2..3, Flags::default()).expect("appends");
        log.inner.writer().leave(&log.inner);
        let last = if is_empty { second } else { relay(&log, 3..4, Flags::default()).expect("appends") };
        log.inner.committer.fail_after(failing);
        log.durable(last).expect_err("it may be lost");
        let next = relay(&log, 5..6, Flags::default()).expect("appends");
        log.durable(next).expect("durable");
        let left = left(&log);
        assert!([1, 5].iter().all(|span| left.contains(span)), "{failing} failed, empty {is_empty}: {left:?}");
        if failing > 0 {
            assert!(left.contains(&2), "{failing} failed, empty {is_empty}: {left:?}");
        }
    }
}

#[tokio::test]
async fn what_an_agent_that_was_killed_had_not_forced_is_forced_by_the_next_one() {
    let fixture = Fixture::new();
    let log = fixture.open();
    relay(&log, 1..2, Flags::default()).expect("appends");
    // The disk has nothing of it, whatever the next agent sees.
    let nothing = log.inner.committer.disk();
    drop(log);
    let log = fixture.open();
    log.inner.committer.set_disk(nothing);
    let second = relay(&log, 2..3, Flags::default()).expect("appends");
    log.durable(second).expect("durable");
    assert_eq!(left(&log), [1, 2]);
}
