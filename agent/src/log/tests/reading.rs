//! What readers give, whatever they read before.

use super::*;

#[test]
fn room_that_is_used_again_holds_nothing_of_what_was_read_before() {
    let fixture = Fixture::new();
    let log = fixture.open();
    let mut first = 0;
    for count in [40, 1, 30, 2, 20, 3] {
        log.append(&spans(first..first + count)).expect("appends");
        first += count;
    }
    let mut reader = log.read_oldest();
    for count in [40, 1, 30, 2, 20, 3] {
        let read = reader.read(1, usize::MAX).expect("readable");
        assert_eq!(read.blocks.iter().map(|block| block.header.span_count).collect::<Vec<_>>(), [count]);
        assert_eq!(read.lost_spans, 0);
    }
    assert_eq!(reader.read(1, usize::MAX).expect("readable"), crate::log::Read::default());
    log.append(&spans(first..first + 5)).expect("appends");
    let read = reader.read(1, usize::MAX).expect("readable");
    assert_eq!(numbers(&read.blocks[0].payload), (first..first + 5).collect::<Vec<_>>());
    assert_eq!(log.stats().blocks_damaged, 0);
}

#[test]
fn settling_one_batch_and_taking_the_next_is_saved_as_both() {
    let fixture = Fixture::new();
    let log = fixture.open();
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    for number in 0..2 {
        log.append(&spans(number * 2..number * 2 + 2)).expect("appends");
    }
    let first = cursor.next_batch(2, 1 << 20).expect("readable").expect("a batch");
    let dead = Fate { dead: 1, filtered: 0 };
    let (settled, second) = cursor.settle_and_next((first.first_block, dead), u64::MAX, 2, 1 << 20);
    settled.expect("saved");
    assert_eq!(batch_numbers(&second.expect("readable").expect("a batch")), [2, 3]);
    drop((cursor, log));
    let log = fixture.open();
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    let again = batch(&mut cursor);
    assert_eq!((batch_numbers(&again), again.may_be_duplicate), (vec![2, 3], true));
    check_counts(cursor.counts(), 1, 2, 1, 0);
    let (settled, none) = cursor.settle_and_next((again.first_block, Fate::default()), u64::MAX, 2, 1 << 20);
    settled.expect("saved, though nothing follows");
    assert_eq!(none.expect("readable"), None);
    drop((cursor, log));
    let log = fixture.open();
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    check_counts(cursor.counts(), 3, 0, 1, 0);
    log.append(&spans(4..5)).expect("appends");
    let (settled, next) = cursor.settle_and_next((again.first_block, Fate::default()), u64::MAX, 2, 1 << 20);
    assert!(matches!(settled, Err(LogError::NotOpen { .. })), "{settled:?}");
    assert_eq!(batch_numbers(&next.expect("readable").expect("a batch")), [4]);
}
