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
