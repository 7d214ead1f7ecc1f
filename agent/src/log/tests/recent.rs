//! What destinations that keep up get from memory, and that it is what the files have.

use super::*;
use crate::log::recent::{BLOCKS_MAX, BYTES_MAX, NEAR_BLOCKS};

fn append(log: &SpanLog, numbers: std::ops::Range<u64>) {
    relay(log, numbers, Flags::default()).expect("appends");
}

fn kept_bytes(log: &SpanLog) -> usize {
    log.inner.state().recent.bytes()
}

/// Makes everything that the files have unreadable.
fn spoil(fixture: &Fixture) {
    for path in fixture.segments() {
        let bytes = fs::metadata(&path).expect("known").len();
        fs::write(&path, vec![0; bytes as usize]).expect("writable");
    }
}

/// All batches, settled.
fn drain(cursor: &mut Cursor) -> Vec<Batch> {
    let mut batches = Vec::new();
    while let Some(batch) = cursor.next_batch(500, 1 << 20).expect("readable") {
        cursor.settle(batch.first_block, Fate::default()).expect("saved");
        batches.push(batch);
    }
    batches
}

fn bytes(batches: &[Batch]) -> Vec<u8> {
    batches.iter().flat_map(|batch| &batch.blocks).flatten().copied().collect()
}

#[test]
fn a_cursor_that_keeps_up_does_not_read_the_file() {
    let fixture = Fixture::new();
    let log = fixture.open();
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    for round in 0..3 {
        let first = round * 20 + 1;
        append(&log, first..first + 10);
        append(&log, first + 10..first + 20);
        spoil(&fixture);
        let batch = batch(&mut cursor);
        assert_eq!(batch_numbers(&batch), (first..first + 20).collect::<Vec<_>>());
        assert_eq!(kept_bytes(&log), 0, "what all have read goes");
        cursor.settle(batch.first_block, Fate::default()).expect("saved");
    }
    check_counts(cursor.counts(), 60, 0, 0, 0);
    assert_eq!(log.stats().blocks_damaged, 0);
    assert_eq!(all(&log), Vec::<u64>::new(), "the file is spoilt indeed");
}

#[test]
fn a_cursor_that_is_behind_gets_the_same_bytes_from_the_file() {
    let fixture = Fixture::new();
    let log = fixture.open();
    let mut near = log.cursor("near", Wanted::default()).expect("a cursor");
    let mut behind = log.cursor("behind", Wanted::default()).expect("a cursor");
    let is_kept = |block| log.inner.state().recent.from(block).next().is_some();
    let mut of_near = Vec::new();
    let last = BLOCKS_MAX as u64 + 100;
    for number in 0..=last {
        append(&log, number * 10 + 1..number * 10 + 3);
        if number % 32 == 0 {
            // An own one is read from the file.
            log.append(&spans(number * 10 + 3..number * 10 + 5)).expect("appends");
            append(&log, number * 10 + 5..number * 10 + 7);
        }
        if number % 10 == 0 || number == last {
            of_near.extend(drain(&mut near));
        }
    }
    assert!(!is_kept(0) && !is_kept(NEAR_BLOCKS));
    let of_behind = drain(&mut behind);
    assert!(bytes(&of_near) == bytes(&of_behind));
    assert_eq!(of_behind.iter().map(|batch| batch.span_count).sum::<u64>(), log.stats().next_span);
    assert_eq!((near.counts().dropped, behind.counts().dropped, kept_bytes(&log)), (0, 0, 0));
}

#[test]
fn a_cursor_that_catches_up_goes_on_in_memory() {
    let fixture = Fixture::new();
    let log = fixture.open();
    let first = 2 * NEAR_BLOCKS;
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    let mut batch = |spans| {
        let batch = cursor.next_batch(spans, 1 << 20).expect("readable").expect("a batch");
        cursor.settle(batch.first_block, Fate::default()).expect("saved");
        batch_numbers(&batch)
    };
    // Of large ones few are kept.
    for _ in 0..first {
        append(&log, 1..200);
    }
    assert_eq!(kept_bytes(&log), 0, "it is too far behind");
    for _ in 0..NEAR_BLOCKS + 1 {
        assert_eq!(batch(1).len(), 199);
    }
    append(&log, 1..3);
    assert!(kept_bytes(&log) > 0);
    for _ in NEAR_BLOCKS + 1..first {
        assert_eq!(batch(1).len(), 199);
    }
    assert!(kept_bytes(&log) > 0);
    spoil(&fixture);
    assert_eq!(batch(1), [1, 2]);
    assert_eq!((kept_bytes(&log), log.stats().blocks_damaged, cursor.counts().dropped), (0, 0, 0));
}

#[test]
fn what_is_damaged_in_the_file_is_lost_for_who_has_to_read_it_there() {
    let fixture = Fixture::new();
    let log = fixture.open();
    let cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    append(&log, 1..3);
    drop(cursor);
    append(&log, 3..5);
    spoil(&fixture);
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    append(&log, 5..7);
    let batch = batch(&mut cursor);
    assert_eq!(batch_numbers(&batch), [5, 6]);
    cursor.settle(batch.first_block, Fate::default()).expect("saved");
    check_counts(cursor.counts(), 2, 0, 0, 4);
}

#[test]
fn no_more_is_kept_than_the_bounds_and_nothing_for_nobody() {
    let fixture = Fixture::new();
    let log = fixture.open();
    append(&log, 1..3);
    assert_eq!(kept_bytes(&log), 0, "no destination");
    let cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    let small: usize = (0..3)
        .map(|_| {
            append(&log, 1..3);
            kept_bytes(&log)
        })
        .sum();
    assert!(small < 6 * 4_096, "small ones count as their length: {small}");
    for number in 3..=NEAR_BLOCKS {
        append(&log, 1..200);
        assert!((1..=BYTES_MAX).contains(&kept_bytes(&log)), "{number}");
    }
    while log.inner.state().recent.from(0).next().is_some() {
        append(&log, 1..200);
        assert!(kept_bytes(&log) <= BYTES_MAX);
    }
    append(&log, 1..3);
    assert_eq!(kept_bytes(&log), 0, "it is too far behind");
    let mut other = log.cursor("b", Wanted::default()).expect("a cursor");
    append(&log, 1..3);
    assert!(kept_bytes(&log) > 0);
    assert_eq!(batch_numbers(&batch(&mut other)), [1, 2]);
    assert_eq!(kept_bytes(&log), 0, "who is too far behind is not waited for");
    append(&log, 1..3);
    drop((cursor, other));
    assert_eq!(kept_bytes(&log), 0, "they are closed");
}

#[test]
fn what_was_deleted_is_not_there_any_more() {
    let mut fixture = Fixture::new();
    fixture.config.bytes_max = 1 << 20;
    fixture.config.overflow = Overflow::DropOldest;
    let log = fixture.open();
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    for _ in 0..40 {
        append(&log, 1..101);
    }
    assert!(log.stats().spans_expired > 0, "{:?}", log.stats());
    let sent: u64 = drain(&mut cursor).iter().map(|batch| batch.span_count).sum();
    let counts = cursor.counts();
    assert_eq!((counts.delivered, counts.dropped), (sent, log.stats().spans_expired));
    assert_eq!(counts.generated(), 40 * 100);
}

#[test]
fn what_could_not_be_written_is_not_there() {
    let fixture = Fixture::new();
    let log = fixture.open();
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    append(&log, 1..3);
    log.inner.writer().disk_is_full = true;
    relay(&log, 3..5, Flags::default()).expect_err("full");
    log.append(&spans(5..8)).expect_err("full");
    log.inner.writer().disk_is_full = false;
    append(&log, 8..10);
    spoil(&fixture);
    assert_eq!(batch_numbers(&batch(&mut cursor)), [1, 2, 8, 9]);
    assert_eq!(cursor.counts().dropped + cursor.counts().queued, 3 + 4, "this host's own have used their numbers up");
}

#[test]
fn what_is_not_for_a_destination_is_passed_in_memory_too() {
    let fixture = Fixture::new();
    let log = fixture.open();
    let (blue, red) = (log.tenant("blue").expect("a number"), log.tenant("red").expect("a number"));
    let wanted = Wanted { not_local: true, tenants: Some([blue].into()) };
    let mut cursor = log.cursor("a", wanted).expect("a cursor");
    relay(&log, 1..3, Flags { tenant: red, ..Flags::default() }).expect("appends");
    relay(&log, 3..4, Flags { tenant: blue, ..Flags::default() }).expect("appends");
    relay(&log, 4..7, Flags { tenant: blue, is_local: true, ..Flags::default() }).expect("appends");
    assert_eq!(all(&log), [1, 2, 3, 4, 5, 6], "who wants what is for this host only has it from the file");
    spoil(&fixture);
    let batch = cursor.next_batch(1, 1).expect("readable").expect("a batch");
    assert_eq!(batch_numbers(&batch), [3]);
    cursor.settle(batch.first_block, Fate::default()).expect("saved");
    assert_eq!(cursor.next_batch(10, 10).expect("readable"), None);
    let counts = cursor.counts();
    assert_eq!((counts.delivered, counts.filtered, counts.dropped, counts.queued), (1, 5, 0, 0));
}

#[test]
fn batches_from_memory_keep_their_bounds() {
    let fixture = Fixture::new();
    let log = fixture.open();
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    for number in 0..6 {
        append(&log, number * 2 + 1..number * 2 + 3);
    }
    let mut next = |spans, bytes| {
        let batch = cursor.next_batch(spans, bytes).expect("readable").expect("a batch");
        (batch.first_block, batch.last_block)
    };
    assert_eq!(next(4, 1 << 20), (0, 1));
    assert_eq!(next(1, 1), (2, 2), "at least one");
    assert_eq!(next(5, 1 << 20), (3, 4));
    assert_eq!(next(5, 1 << 20), (5, 5));
    drop(cursor);
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    assert_eq!(cursor.next_batch_before(2, 100, 1 << 20).expect("readable").map(|batch| batch.last_block), Some(1));
}
