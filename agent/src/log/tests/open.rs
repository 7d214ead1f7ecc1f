//! One batch stays open for long while others are settled.

use super::*;

/// A batch of one block that is given out and stays open, and so many that are settled behind it; every tenth of these has a dead span
/// and every fifth a filtered one.
fn log_with_one_open(count: u64) -> (Fixture, SpanLog, Cursor) {
    let fixture = Fixture::new();
    let log = fixture.open();
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    for number in 0..=count {
        log.append(&spans(number * 2..number * 2 + 2)).expect("appends");
        let batch = batch(&mut cursor);
        if number > 0 {
            let fate = Fate { dead: u64::from(number % 10 == 0), filtered: u64::from(number % 5 == 0) };
            cursor.settle(batch.first_block, fate).expect("saved");
        }
    }
    (fixture, log, cursor)
}

fn rows(log: &SpanLog) -> usize {
    log.inner.store.load("a").expect("readable").expect("saved").open.len()
}

#[test]
fn what_is_settled_behind_an_open_batch_is_one_thing_to_save() {
    let (fixture, log, mut cursor) = log_with_one_open(200);
    assert_eq!(rows(&log), 2);
    check_counts(cursor.counts(), 0, 402, 0, 0);
    cursor.settle(0, Fate::default()).expect("saved");
    check_counts(cursor.counts(), 402 - 60, 0, 20, 0);
    assert_eq!((cursor.counts().filtered, rows(&log)), (40, 0));
    drop((fixture, cursor));
}

#[test]
fn what_is_settled_behind_an_open_batch_is_not_sent_again_after_a_restart() {
    let (fixture, log, cursor) = log_with_one_open(200);
    drop((cursor, log));
    let log = fixture.open();
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    log.append(&spans(402..403)).expect("appends");
    let first = cursor.next_batch(1_000, 1 << 20).expect("readable").expect("a batch");
    assert_eq!((batch_numbers(&first), first.may_be_duplicate), (vec![0, 1], true));
    let new = cursor.next_batch(1_000, 1 << 20).expect("readable").expect("a batch");
    assert_eq!((batch_numbers(&new), new.may_be_duplicate), (vec![402], false));
    cursor.settle(new.first_block, Fate::default()).expect("saved");
    assert_eq!(rows(&log), 2);
    cursor.settle(first.first_block, Fate::default()).expect("saved");
    check_counts(cursor.counts(), 403 - 60, 0, 20, 0);
    assert_eq!((cursor.counts().filtered, cursor.counts().generated()), (40, 403));
}

#[test]
fn rows_of_an_older_agent_are_read_one_by_one_as_well() {
    let (fixture, log, cursor) = log_with_one_open(50);
    let mut saved = log.inner.store.load("a").expect("readable").expect("saved");
    let fate = saved.open[1].fate.expect("settled");
    saved.open.truncate(1);
    for block in 1..=50 {
        let own = Fate { dead: u64::from(block % 10 == 0), filtered: u64::from(block % 5 == 0) };
        saved.open.push(super::super::store::SavedBatch { first_block: block, last_block: block, fate: Some(own) });
    }
    drop(cursor);
    log.inner.store.save("a", &saved).expect("saved");
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    let first = batch(&mut cursor);
    assert_eq!(cursor.next_batch(1_000, 1 << 20).expect("readable"), None);
    assert_eq!(rows(&log), 2);
    cursor.settle(first.first_block, Fate::default()).expect("saved");
    check_counts(cursor.counts(), 102 - fate.dead - fate.filtered, 0, 5, 0);
    drop(fixture);
}

#[test]
fn at_the_bound_of_open_batches_no_more_are_given_out() {
    let fixture = Fixture::new();
    let log = fixture.open();
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    for number in 0..1_100 {
        log.append(&spans(number..number + 1)).expect("appends");
    }
    let mut given = Vec::new();
    while let Some(batch) = cursor.next_batch(1, 1 << 20).expect("readable") {
        given.push(batch.first_block);
    }
    assert_eq!((given.len(), cursor.unread()), (1_024, 0), "nobody need ask again before one is settled");
    cursor.settle(given[0], Fate::default()).expect("saved");
    assert!(cursor.unread() > 0 && cursor.next_batch(1, 1 << 20).expect("readable").is_some());
}

#[test]
fn what_was_read_before_an_error_is_given_out() {
    let fixture = Fixture::new();
    let log = fixture.open();
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    log.append(&spans(0..2)).expect("appends");
    log.inner.writer().leave(&log.inner);
    log.append(&spans(2..3)).expect("appends");
    let (path, aside) = (fixture.segments().remove(1), fixture.dir.path().join("aside"));
    fs::rename(&path, &aside).expect("renamed");
    std::os::unix::fs::symlink(&path, &path).expect("a link");
    let first = batch(&mut cursor);
    assert_eq!(batch_numbers(&first), [0, 1]);
    assert!(matches!(cursor.next_batch(1_000, 1 << 20), Err(LogError::Io { operation: "open", .. })));
    fs::rename(&aside, &path).expect("renamed");
    let second = batch(&mut cursor);
    assert_eq!(batch_numbers(&second), [2]);
    for batch in [first, second] {
        cursor.settle(batch.first_block, Fate::default()).expect("saved");
    }
    check_counts(cursor.counts(), 3, 0, 0, 0);
}
