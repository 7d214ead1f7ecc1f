//! The machine's power goes: of the places of destinations there is what was forced.

use super::*;

impl SpanLog {
    /// A copy of the folder as the disk is certain to have it if the power goes now: of the places only what was forced.
    pub(crate) fn after_power_failure(&self) -> TempDir {
        let copy = TempDir::new().expect("a temporary folder");
        fs::create_dir(copy.path().join("segments")).expect("a folder");
        for folder in ["", "segments"] {
            for entry in fs::read_dir(self.dir().join(folder)).expect("readable") {
                let path = entry.expect("an entry").path();
                if path.is_file() {
                    let name = path.file_name().expect("a name");
                    fs::copy(&path, copy.path().join(folder).join(name)).expect("copied");
                }
            }
        }
        let wal = fs::OpenOptions::new().write(true).open(copy.path().join("cursors.db-wal")).expect("it is there");
        let bytes = wal.metadata().expect("known").len().min(self.inner.store.wal().forced_bytes());
        wal.set_len(bytes).expect("cut");
        // Its index is no file to be relied on.
        let _ = fs::remove_file(copy.path().join("cursors.db-shm"));
        copy
    }
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
