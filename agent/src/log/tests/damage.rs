//! Files that were damaged, and what that may cost: never more than what is damaged.

use super::*;
use crate::log::block::{BLOCK_HEADER_BYTES, BlockHeader, SEGMENT_HEADER_BYTES};

/// Has as many spans appended as make the log delete something, and takes everything that comes.
fn fill(log: &SpanLog, cursor: &mut Cursor) {
    for _ in 0..1_000 {
        log.append(&spans(0..100)).expect("nothing is waited for: the oldest go");
        while let Some(batch) = cursor.next_batch(1_000, 1 << 20).expect("readable") {
            cursor.settle(batch.first_block, Fate::default()).expect("saved");
        }
        if log.stats().spans_expired > 0 {
            return;
        }
    }
    panic!("nothing was deleted: {:?}", log.stats());
}

/// A log with one relayed block that a destination has, and three own ones that it has not; the length of the file after each.
fn log_of_four(fixture: &mut Fixture) -> Vec<usize> {
    fixture.config.bytes_max = 1 << 20;
    let log = fixture.open();
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    let mut ends = vec![SEGMENT_HEADER_BYTES];
    relay(&log, 1..3, Flags::default()).expect("appends");
    ends.push(log.stats().bytes as usize);
    let first = batch(&mut cursor);
    cursor.settle(first.first_block, Fate::default()).expect("saved");
    for number in 0..3 {
        log.append(&spans(number..number + 2)).expect("appends");
        ends.push(log.stats().bytes as usize);
    }
    ends
}

#[test]
fn a_damaged_header_keeps_no_segment() {
    for block in 0..4 {
        let mut fixture = Fixture::new();
        let ends = log_of_four(&mut fixture);
        let path = fixture.segments().remove(0);
        let mut bytes = fs::read(&path).expect("readable");
        bytes[ends[block] + 20] ^= 1;
        fs::write(&path, bytes).expect("writable");
        let log = fixture.open();
        let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
        fill(&log, &mut cursor);
    }
}

#[test]
fn a_torn_tail_keeps_no_segment() {
    for tail in [vec![0xB1; 1], vec![7; BLOCK_HEADER_BYTES - 1], vec![0; 1], vec![0; 300]] {
        let mut fixture = Fixture::new();
        log_of_four(&mut fixture);
        let path = fixture.segments().remove(0);
        let whole = fs::read(&path).expect("readable");
        fs::write(&path, [&whole[..], &tail].concat()).expect("writable");
        let log = fixture.open();
        assert_eq!(log.stats().bytes, whole.len() as u64);
        let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
        fill(&log, &mut cursor);
    }
}

#[test]
fn own_spans_behind_a_damaged_header_wait_for_nobody() {
    let mut fixture = Fixture::new();
    let ends = log_of_four(&mut fixture);
    let path = fixture.segments().remove(0);
    let mut bytes = fs::read(&path).expect("readable");
    bytes[ends[1] + 20] ^= 1;
    fs::write(&path, bytes).expect("writable");
    let log = fixture.open();
    let cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    // The destination takes nothing more; what was relayed it has.
    while log.stats().spans_expired == 0 {
        log.append(&spans(0..100)).expect("the oldest go");
    }
    assert_eq!(cursor.counts().dropped, log.stats().spans_expired - 2);
}

/// A log of three blocks with two spans each, whose last one a destination has not; the last block is changed by `damage`.
fn log_with_a_damaged_end(flags: Option<Flags>, damage: impl Fn(&mut Vec<u8>, usize)) -> (Fixture, SpanLog) {
    let fixture = Fixture::new();
    let log = fixture.open();
    let cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    log.append(&spans(0..2)).expect("appends");
    log.append(&spans(2..4)).expect("appends");
    let begin = log.stats().bytes as usize;
    match flags {
        Some(flags) => drop(relay(&log, 4..6, flags).expect("appends")),
        None => drop(log.append(&spans(4..6)).expect("appends")),
    }
    drop((cursor, log));
    let path = fixture.segments().remove(0);
    let mut bytes = fs::read(&path).expect("readable");
    damage(&mut bytes, begin);
    fs::write(&path, bytes).expect("writable");
    let log = fixture.open();
    (fixture, log)
}

/// What a destination gets, and its accounts then.
fn drain(log: &SpanLog) -> (Vec<u64>, DestinationCounts) {
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    let mut taken = Vec::new();
    while let Some(batch) = cursor.next_batch(1_000, 1 << 20).expect("readable") {
        taken.extend(batch_numbers(&batch));
        cursor.settle(batch.first_block, Fate::default()).expect("saved");
    }
    (taken, cursor.counts())
}

#[test]
fn the_last_block_is_counted_when_it_is_lost() {
    let payload = |bytes: &mut Vec<u8>, begin: usize| bytes[begin + BLOCK_HEADER_BYTES + 5] ^= 1;
    let header = |bytes: &mut Vec<u8>, begin: usize| bytes[begin + 20] ^= 1;
    for damage in [payload, header] {
        for flags in [None, Some(Flags::default())] {
            let (fixture, log) = log_with_a_damaged_end(flags, damage);
            let bytes = fs::read(fixture.segments().remove(0)).expect("readable");
            assert_eq!((bytes.len() as u64, log.stats().torn_bytes), (log.stats().bytes, 0), "it can be looked at");
            log.append(&spans(6..9)).expect("appends");
            let (taken, counts) = drain(&log);
            assert_eq!(taken, [0, 1, 2, 3, 6, 7, 8]);
            check_counts(counts, 7, 0, 0, 2);
            assert_eq!((counts.generated(), log.stats().blocks_damaged), (9, 1));
        }
    }
}

#[test]
fn the_last_block_is_counted_also_if_nothing_comes_after_it() {
    let (_fixture, log) = log_with_a_damaged_end(None, |bytes, begin| bytes[begin + BLOCK_HEADER_BYTES + 5] ^= 1);
    let (taken, counts) = drain(&log);
    assert_eq!(taken, [0, 1, 2, 3]);
    check_counts(counts, 4, 0, 0, 2);
}

#[test]
fn of_a_block_that_was_not_written_to_its_end_own_spans_are_counted_and_relayed_ones_are_the_senders() {
    for (flags, dropped) in [(None, 2), (Some(Flags::default()), 0)] {
        let (fixture, log) = log_with_a_damaged_end(flags, |bytes, _| bytes.truncate(bytes.len() - 1));
        assert!(log.stats().torn_bytes > 64);
        let bytes = fs::metadata(fixture.segments().remove(0)).expect("there").len();
        assert_eq!(bytes, log.stats().bytes);
        log.append(&spans(6..7)).expect("appends");
        let (taken, counts) = drain(&log);
        assert_eq!(taken, [0, 1, 2, 3, 6]);
        check_counts(counts, 5, 0, 0, dropped);
    }
}

#[test]
fn a_segment_that_cannot_be_read_at_start_is_not_given_up() {
    let fixture = Fixture::new();
    let log = fixture.open();
    drop(log.cursor("a", Wanted::default()).expect("a cursor"));
    log.append(&spans(0..2)).expect("appends");
    log.inner.writer().leave(&log.inner);
    log.append(&spans(2..3)).expect("appends");
    drop(log);
    // Whatever the reason: a loop of links, a disk that fails, no descriptors left.
    let (path, aside) = (fixture.segments().remove(0), fixture.dir.path().join("aside"));
    fs::rename(&path, &aside).expect("renamed");
    std::os::unix::fs::symlink(&path, &path).expect("a link");
    let error = SpanLog::open(fixture.dir.path(), fixture.config.clone()).expect_err("it cannot be read");
    assert!(matches!(&error, LogError::Segment { path: told, .. } if *told == path), "{error}");
    fs::rename(&aside, &path).expect("renamed");
    let log = fixture.open();
    assert_eq!(log.stats().foreign_files, 0);
    let (taken, counts) = drain(&log);
    assert_eq!((taken, counts.dropped), (vec![0, 1, 2], 0));
}

/// A sender writes what looks like a block into a span, and of the block with that span the header is damaged.
#[test]
fn what_looks_like_a_block_within_damage_is_not_believed() {
    let fixture = Fixture::new();
    let log = fixture.open();
    drop(log.cursor("a", Wanted::default()).expect("a cursor"));
    log.append(&spans(0..2)).expect("appends");
    let begin = log.stats().bytes as usize;
    log.append(&spans(2..4)).expect("appends");
    log.append(&spans(4..6)).expect("appends");
    let path = fixture.segments().remove(0);
    let mut bytes = fs::read(&path).expect("readable");
    let payload = b"x";
    let forged = BlockHeader {
        payload_bytes: payload.len() as u32,
        payload_crc: crc32fast::hash(payload),
        span_count: 1,
        block: 1 << 40,
        first_span: 1 << 40,
        start_unix_ns_min: 1,
        end_unix_ns_max: 2,
        appended_unix_ns: 3,
        flags: Flags { is_relayed: true, is_local: false, tenant: 7 },
    };
    let forged = [&forged.encode()[..], payload].concat();
    bytes[begin] ^= 1;
    bytes[begin + BLOCK_HEADER_BYTES..][..forged.len()].copy_from_slice(&forged);
    fs::write(&path, bytes).expect("writable");
    let (taken, counts) = drain(&log);
    assert_eq!(taken, [0, 1, 4, 5]);
    check_counts(counts, 4, 0, 0, 2);
    assert!(log.stats().blocks_damaged > 0);
}
