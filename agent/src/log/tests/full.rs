//! A disk that takes no more until something is deleted.

use super::*;

const SEGMENT_BYTES: u64 = 256 << 10;

/// Appends until the log has three segments and the next block needs a fourth one.
fn at_the_end_of_a_segment(log: &SpanLog, append: impl Fn() -> Result<(), LogError>) {
    let before = log.stats().bytes;
    append().expect("there is room");
    let block = log.stats().bytes - before;
    let is_there = || {
        let state = log.inner.state();
        state.segments.len() == 3 && state.segments[2].bytes + block > SEGMENT_BYTES
    };
    while !is_there() {
        append().expect("there is room");
    }
}

#[test]
fn on_a_full_disk_the_oldest_makes_room_for_a_new_segment() {
    let mut fixture = Fixture::new();
    fixture.config.bytes_max = 8 << 20;
    let log = fixture.open();
    at_the_end_of_a_segment(&log, || log.append(&spans(0..100)).map(drop));
    log.inner.writer().disk_is_full = true;
    log.append(&spans(0..100)).expect("the oldest goes");
    let stats = log.stats();
    assert_eq!((stats.segments, stats.spans_dropped, stats.append_errors), (3, 0, 0), "{stats:?}");
    assert!(stats.spans_expired > 0);
    // In the middle of a segment likewise.
    log.inner.writer().disk_is_full = true;
    log.append(&spans(0..100)).expect("the oldest goes");
    assert_eq!((log.stats().segments, log.stats().spans_dropped), (2, 0));
}

#[test]
fn on_a_full_disk_what_a_destination_waits_for_stays() {
    let mut fixture = Fixture::new();
    fixture.config.bytes_max = 8 << 20;
    let log = fixture.open();
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    let append = || relay(&log, 1..101, Flags::default()).map(drop);
    at_the_end_of_a_segment(&log, append);
    log.inner.writer().disk_is_full = true;
    let error = append().expect_err("full");
    assert!(matches!(&error, LogError::Io { operation: "create", .. }), "{error}");
    assert_eq!((log.stats().segments, log.stats().spans_dropped), (3, 0), "the sender has them");
    while let Some(batch) = cursor.next_batch(1_000, 1 << 20).expect("readable") {
        cursor.settle(batch.first_block, Fate::default()).expect("saved");
    }
    append().expect("what was taken makes room");
    assert_eq!(cursor.counts().dropped, 0);
}
