//! The log as its callers see it, over real files.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use agent_core::{
    redact::SafeSpan,
    relay::{Relay, RelayConfig},
    span::UnixNs,
};
use tempfile::TempDir;

use super::{Batch, Cursor, DestinationCounts, Fate, Flags, LogConfig, LogError, Overflow, SpanLog, Wanted};
use crate::otlp::{
    self, Encoder,
    tests::{safe, span},
};

mod damage;
mod full;
mod open;
pub(super) mod power;
mod reading;
mod recent;
mod tenants;

struct Fixture {
    dir: TempDir,
    config: LogConfig,
}

impl Fixture {
    fn new() -> Self {
        Self { dir: TempDir::new().expect("a temporary folder"), config: LogConfig::default() }
    }

    fn open(&self) -> SpanLog {
        SpanLog::open(self.dir.path(), self.config.clone()).expect("the log opens")
    }

    fn segments(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir.path().join("segments")).expect("the folder is there");
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
        paths.sort();
        paths
    }
}

fn spans(numbers: std::ops::Range<u64>) -> Vec<SafeSpan> {
    numbers.map(|number| safe(span(number))).collect()
}

/// The span numbers in payload bytes.
fn numbers(payload: &[u8]) -> Vec<u64> {
    let views = otlp::decode(payload).expect("a block");
    views.iter().map(|view| u64::from_be_bytes(view.span_id.as_slice().try_into().expect("8 bytes"))).collect()
}

fn all(log: &SpanLog) -> Vec<u64> {
    let read = log.read_oldest().read(usize::MAX, usize::MAX).expect("readable");
    read.blocks.iter().flat_map(|block| numbers(&block.payload)).collect()
}

fn batch(cursor: &mut Cursor) -> Batch {
    cursor.next_batch(1_000, 1 << 20).expect("readable").expect("a batch")
}

fn batch_numbers(batch: &Batch) -> Vec<u64> {
    batch.blocks.iter().flat_map(|block| numbers(block)).collect()
}

#[track_caller]
fn check_counts(counts: DestinationCounts, delivered: u64, queued: u64, dead: u64, dropped: u64) {
    let actual = (counts.delivered, counts.queued, counts.dead, counts.dropped);
    assert_eq!(actual, (delivered, queued, dead, dropped), "delivered, queued, dead, dropped");
}

#[test]
fn what_was_appended_is_read_in_order_also_after_a_restart() {
    let fixture = Fixture::new();
    let log = fixture.open();
    log.append(&spans(0..3)).expect("appends");
    log.append(&spans(3..4)).expect("appends");
    assert_eq!(all(&log), [0, 1, 2, 3]);
    drop(log);
    let log = fixture.open();
    log.append(&spans(4..6)).expect("appends");
    assert_eq!(all(&log), [0, 1, 2, 3, 4, 5]);
    assert_eq!(log.stats().next_span, 6);
}

#[test]
fn many_spans_become_several_blocks() {
    let fixture = Fixture::new();
    let log = fixture.open();
    log.append(&spans(0..2_000)).expect("appends");
    let read = log.read_oldest().read(usize::MAX, usize::MAX).expect("readable");
    assert!(read.blocks.iter().all(|block| block.header.span_count as usize <= super::BLOCK_SPANS_MAX));
    assert_eq!(all(&log), (0..2_000).collect::<Vec<_>>());
}

#[test]
fn blocks_of_large_spans_are_halved() {
    let fixture = Fixture::new();
    let log = fixture.open();
    let large = |number| {
        let mut span = span(number);
        span.links = vec![span.links[0].clone(); 1_000];
        safe(span)
    };
    log.append(&(0..100).map(large).collect::<Vec<_>>()).expect("appends");
    let read = log.read_oldest().read(usize::MAX, usize::MAX).expect("readable");
    assert!(read.blocks.len() > 1);
    assert!(read.blocks.iter().all(|block| block.payload.len() <= super::BLOCK_BYTES_MAX));
    assert_eq!(all(&log), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_second_instance_is_refused_with_the_name_of_the_first() {
    let fixture = Fixture::new();
    let _log = fixture.open();
    let error = SpanLog::open(fixture.dir.path(), LogConfig::default()).expect_err("it is in use");
    assert!(matches!(error, LogError::InUse { .. }));
    assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
}

#[test]
fn a_tail_torn_at_any_byte_costs_only_the_torn_block() {
    let fixture = Fixture::new();
    let log = fixture.open();
    log.append(&spans(0..2)).expect("appends");
    let whole = log.stats().bytes;
    log.append(&spans(2..3)).expect("appends");
    drop(log);
    let path = fixture.segments().remove(0);
    let bytes = fs::read(&path).expect("readable");
    for length in whole as usize..bytes.len() {
        fs::write(&path, &bytes[..length]).expect("writable");
        let log = fixture.open();
        assert_eq!(log.stats().torn_bytes, length as u64 - whole, "cut at {length}");
        assert_eq!(all(&log), [0, 1], "cut at {length}");
        log.append(&spans(7..8)).expect("appends");
        assert_eq!(all(&log), [0, 1, 7], "cut at {length}");
    }
}

#[test]
fn a_segment_cut_inside_its_header_does_not_keep_the_log_from_opening() {
    let fixture = Fixture::new();
    let log = fixture.open();
    log.append(&spans(0..2)).expect("appends");
    drop(log);
    let path = fixture.segments().remove(0);
    let bytes = fs::read(&path).expect("readable");
    for length in 0..64 {
        fs::write(&path, &bytes[..length]).expect("writable");
        let log = fixture.open();
        assert_eq!(log.stats().foreign_files, 1);
        log.append(&spans(5..6)).expect("appends");
        assert_eq!(all(&log), [5]);
        drop(log);
        for path in fixture.segments() {
            fs::remove_file(path).expect("removable");
        }
    }
}

#[test]
fn a_flipped_byte_costs_its_block_and_is_counted_at_each_destination() {
    let fixture = Fixture::new();
    let log = fixture.open();
    let cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    log.append(&spans(0..2)).expect("appends");
    let first = log.stats().bytes as usize;
    log.append(&spans(2..5)).expect("appends");
    log.append(&spans(5..6)).expect("appends");
    drop((cursor, log));
    let path = fixture.segments().remove(0);
    let mut bytes = fs::read(&path).expect("readable");
    bytes[first + 100] ^= 1;
    fs::write(&path, bytes).expect("writable");
    let log = fixture.open();
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    let batch = batch(&mut cursor);
    assert_eq!(batch_numbers(&batch), [0, 1, 5]);
    cursor.settle(batch.first_block, Fate::default()).expect("saved");
    check_counts(cursor.counts(), 3, 0, 0, 3);
    all(&log);
    assert_eq!(log.stats().blocks_damaged, 1, "however often it is met");
}

#[test]
fn a_cursor_goes_on_where_it_was_settled() {
    let fixture = Fixture::new();
    let log = fixture.open();
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    for number in 0..4 {
        log.append(&spans(number..number + 1)).expect("appends");
    }
    let mut two = || cursor.next_batch(2, 1 << 20).expect("readable").expect("a batch");
    let (first, second) = (two(), two());
    assert_eq!((batch_numbers(&first), batch_numbers(&second)), (vec![0, 1], vec![2, 3]));
    cursor.settle(first.first_block, Fate::default()).expect("saved");
    assert!(matches!(cursor.settle(first.first_block, Fate::default()), Err(LogError::NotOpen { .. })));
    drop((cursor, log));
    let log = fixture.open();
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    let rest = batch(&mut cursor);
    assert_eq!(batch_numbers(&rest), [2, 3], "what was not settled comes again");
    assert!(rest.may_be_duplicate && !first.may_be_duplicate);
    check_counts(cursor.counts(), 2, 2, 0, 0);
    cursor.settle(rest.first_block, Fate::default()).expect("saved");
    assert_eq!(cursor.next_batch(10, 10).expect("readable"), None);
    check_counts(cursor.counts(), 4, 0, 0, 0);
}

#[test]
fn a_batch_has_at_least_one_block_and_respects_its_bounds() {
    let fixture = Fixture::new();
    let log = fixture.open();
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    log.append(&spans(0..10)).expect("appends");
    log.append(&spans(10..11)).expect("appends");
    let first = cursor.next_batch(1, 1).expect("readable").expect("a batch");
    assert_eq!(first.span_count, 10);
    assert_eq!((first.first_block, first.last_block), (0, 0));
    cursor.settle(first.first_block, Fate::default()).expect("saved");
    assert_eq!(batch(&mut cursor).span_count, 1);
}

#[test]
fn batches_are_settled_in_any_order_and_the_place_moves_without_gaps() {
    let fixture = Fixture::new();
    let log = fixture.open();
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    for number in 0..3 {
        log.append(&spans(number * 2..number * 2 + 2)).expect("appends");
    }
    let mut two = || cursor.next_batch(2, 1 << 20).expect("readable").expect("a batch");
    let (_first, second, third) = (two(), two(), two());
    cursor.settle(third.first_block, Fate { dead: 1, filtered: 0 }).expect("saved");
    cursor.settle(second.first_block, Fate { dead: 0, filtered: 1 }).expect("saved");
    check_counts(cursor.counts(), 0, 6, 0, 0);
    drop((cursor, log));

    let log = fixture.open();
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    log.append(&spans(6..7)).expect("appends");
    let again = cursor.next_batch(1_000, 1 << 20).expect("readable").expect("a batch");
    assert_eq!(batch_numbers(&again), [0, 1], "the same batch, whatever fits by now");
    cursor.settle(again.first_block, Fate { dead: 1, filtered: 1 }).expect("saved");
    let rest = batch(&mut cursor);
    assert_eq!((batch_numbers(&rest), rest.may_be_duplicate), (vec![6], false), "what was settled does not come again");
    cursor.settle(rest.first_block, Fate::default()).expect("saved");
    check_counts(cursor.counts(), 3, 0, 2, 0);
    assert_eq!((cursor.counts().filtered, cursor.counts().generated()), (2, 7));
    cursor.revive(1).expect("saved");
    check_counts(cursor.counts(), 4, 0, 1, 0);
}

fn relay(log: &SpanLog, numbers: std::ops::Range<u64>, flags: Flags) -> Result<super::BlockId, LogError> {
    let request = Encoder::default().encode(&spans(numbers)).bytes;
    let relay = Relay::new(RelayConfig::untouched()).expect("usable");
    let batch = relay.accept(&request, UnixNs(0)).expect("a request").kept.expect("spans");
    log.append_relayed(&batch, flags)
}

#[test]
fn a_cursor_passes_what_is_not_for_its_destination() {
    let fixture = Fixture::new();
    let log = fixture.open();
    let (blue, red) = (log.tenant("blue").expect("a number"), log.tenant("red").expect("a number"));
    assert_eq!((log.tenant("blue").expect("a number"), blue == red), (blue, false));
    let wanted = Wanted { not_local: true, tenants: Some([blue].into()) };
    let mut cursor = log.cursor("a", wanted).expect("a cursor");
    relay(&log, 1..3, Flags { tenant: red, ..Flags::default() }).expect("appends");
    relay(&log, 3..4, Flags { tenant: blue, ..Flags::default() }).expect("appends");
    relay(&log, 4..7, Flags { tenant: blue, is_local: true, ..Flags::default() }).expect("appends");
    let only = batch(&mut cursor);
    assert_eq!(batch_numbers(&only), [3]);
    cursor.settle(only.first_block, Fate::default()).expect("saved");
    assert_eq!(cursor.next_batch(10, 10).expect("readable"), None);
    check_counts(cursor.counts(), 1, 0, 0, 0);
    assert_eq!((cursor.counts().filtered, cursor.counts().generated()), (5, 6));
    assert_eq!(all(&log), [1, 2, 3, 4, 5, 6], "the queries see everything");
}

#[test]
fn relayed_spans_that_a_destination_waits_for_are_not_evicted_but_refused() {
    let mut fixture = Fixture::new();
    fixture.config.bytes_max = 2 << 20;
    for overflow in [Overflow::Refuse, Overflow::DropOldest] {
        fixture.config.overflow = overflow;
        let log = fixture.open();
        let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
        let mut accepted = 0;
        let refused = (0..200).find_map(|_| {
            let next = log.stats().next_span + 1;
            let error = relay(&log, next..next + 100, Flags::default()).err();
            accepted += u64::from(error.is_none()) * 100;
            error
        });
        if overflow == Overflow::DropOldest {
            assert!(refused.is_none() && cursor.counts().dropped > 0, "{refused:?}");
            continue;
        }
        assert!(matches!(refused, Some(LogError::Full { .. })), "{refused:?}");
        assert!(log.stats().bytes > 1 << 20 && log.stats().bytes <= 2 << 20);
        // The rest is for this host's own spans, until that is full too.
        let own = (0..200).take_while(|_| log.append(&spans(0..100)).is_ok()).count() as u64 * 100;
        assert!(own > 0 && log.stats().spans_dropped == 100, "{own}");
        let mut sent = 0;
        while let Some(batch) = cursor.next_batch(1_000, 1 << 20).expect("readable") {
            sent += batch.span_count;
            cursor.settle(batch.first_block, Fate::default()).expect("saved");
        }
        assert_eq!(sent, accepted + own, "nothing that was accepted is missing");
        assert!(relay(&log, 1..101, Flags::default()).is_ok(), "there is room again");
        assert_eq!(cursor.counts().dropped, 100);
    }
}

#[test]
fn behind_relayed_spans_that_must_stay_own_ones_take_only_their_part() {
    let mut fixture = Fixture::new();
    fixture.config.bytes_max = 4 << 20;
    let log = fixture.open();
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    relay(&log, 1..2, Flags::default()).expect("appends");
    let own = (0..1_000).take_while(|_| log.append(&spans(0..100)).is_ok()).count() as u64 * 100;
    assert!(own > 0 && log.stats().spans_dropped == 100, "{own}");
    assert!(log.stats().bytes <= 1 << 20, "a quarter of the log: {}", log.stats().bytes);
    let mut relayed = 1;
    while relay(&log, 1..101, Flags::default()).is_ok() {
        relayed += 100;
    }
    assert!(log.stats().bytes > 3 << 20, "relayed ones have three quarters: {}", log.stats().bytes);
    let mut sent = 0;
    while let Some(batch) = cursor.next_batch(1_000, 1 << 20).expect("readable") {
        sent += batch.span_count;
        cursor.settle(batch.first_block, Fate::default()).expect("saved");
    }
    assert_eq!((sent, cursor.counts().dropped), (relayed + own, 100));
    for _ in 0..200 {
        log.append(&spans(0..100)).expect("nothing must stay any more: the oldest go");
    }
    assert!(log.stats().spans_expired > 0 && log.stats().bytes <= 4 << 20, "{:?}", log.stats());
}

#[test]
fn a_disk_that_refuses_once_is_told_to_all_that_wait_and_trusted_only_with_a_new_file() {
    let fixture = Fixture::new();
    let log = fixture.open();
    let first = relay(&log, 1..2, Flags::default()).expect("appends");
    log.durable(first).expect("durable");
    let (second, third) = (relay(&log, 2..3, Flags::default()), relay(&log, 3..4, Flags::default()));
    log.inner.committer.fail_next();
    // The one second's maintenance may be the first to hear of it.
    log.inner.sync_due(true, None).expect_err("the disk refuses");
    for block in [second, third] {
        let error = log.durable(block.expect("appends")).expect_err("it may be lost");
        assert!(matches!(error, LogError::NotDurable { .. }), "{error}");
    }
    log.durable(first).expect("what was durable stays so");
    let before = fixture.segments().len();
    let fourth = relay(&log, 4..5, Flags::default()).expect("appends");
    log.durable(fourth).expect("durable");
    assert_eq!((before, fixture.segments().len()), (2, 2), "written to another file since the failure");
    assert_eq!(log.stats().sync_errors, 1);
}

#[test]
fn many_that_wait_share_a_force() {
    let fixture = Fixture::new();
    let log = fixture.open();
    let waits: Vec<_> = (0..50)
        .map(|number| {
            let log = log.clone();
            std::thread::spawn(move || {
                let block = relay(&log, number + 1..number + 2, Flags::default()).expect("appends");
                log.durable(block)
            })
        })
        .collect();
    for wait in waits {
        wait.join().expect("no panic").expect("durable");
    }
    assert!((1..50).contains(&log.inner.committer.forces()), "{}", log.inner.committer.forces());
}

#[tokio::test]
async fn the_log_is_maintained_on_after_a_panic() {
    let mut fixture = Fixture::new();
    fixture.config.sync_interval = Some(Duration::ZERO);
    let log = fixture.open();
    log.append(&spans(0..1)).expect("appends");
    log.inner.committer.panics_next.store(true, std::sync::atomic::Ordering::SeqCst);
    let keeping = tokio::spawn(super::keep(log.clone()));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while log.inner.committer.forces() == 0 {
        assert!(tokio::time::Instant::now() < deadline && !keeping.is_finished(), "nothing is forced any more");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(log.stats().last_error.contains("panic"), "{}", log.stats().last_error);
    keeping.abort();
}

#[test]
fn destinations_do_not_wait_for_each_other_and_new_ones_begin_now() {
    let fixture = Fixture::new();
    let log = fixture.open();
    let mut fast = log.cursor("fast", Wanted::default()).expect("a cursor");
    log.append(&spans(0..2)).expect("appends");
    let slow = log.cursor("slow", Wanted::default()).expect("a cursor");
    log.append(&spans(2..3)).expect("appends");
    let first = batch(&mut fast);
    fast.settle(first.first_block, Fate::default()).expect("saved");
    check_counts(fast.counts(), 3, 0, 0, 0);
    check_counts(slow.counts(), 0, 1, 0, 0);
    assert!(matches!(log.cursor("slow", Wanted::default()), Err(LogError::CursorOpen { .. })));
    let names: Vec<String> = log.destinations().into_keys().collect();
    assert_eq!(names, ["fast", "slow"]);
    drop(slow);
    assert!(log.cursor("slow", Wanted::default()).is_ok(), "a cursor can be opened again after it was dropped");
}

#[test]
fn size_deletes_the_oldest_and_counts_it_as_dropped() {
    let mut fixture = Fixture::new();
    fixture.config.bytes_max = 1 << 20;
    let log = fixture.open();
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    let mut appended = 0;
    while log.stats().spans_expired == 0 {
        log.append(&spans(appended..appended + 100)).expect("appends");
        appended += 100;
    }
    assert!(log.stats().bytes <= 1 << 20);
    let on_disk: u64 = fixture.segments().iter().map(|path| fs::metadata(path).expect("there").len()).sum();
    assert_eq!(on_disk, log.stats().bytes);
    let expired = log.stats().spans_expired;
    check_counts(cursor.counts(), 0, appended - expired, 0, expired);
    let kept: Vec<u64> = (expired..appended).collect();
    assert_eq!(all(&log), kept);
    let mut sent = Vec::new();
    while let Some(batch) = cursor.next_batch(1_000, 1 << 20).expect("readable") {
        sent.extend(batch_numbers(&batch));
        cursor.settle(batch.first_block, Fate::default()).expect("saved");
    }
    assert_eq!(sent, kept);
    check_counts(cursor.counts(), appended - expired, 0, 0, expired);
}

#[test]
fn age_deletes_closed_segments() {
    let mut fixture = Fixture::new();
    fixture.config.age_max = Duration::ZERO;
    let log = fixture.open();
    let cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    log.append(&spans(0..2)).expect("appends");
    // The first call closes the segment; what it deletes depends on the clock's resolution, so ask until it is gone.
    let gone = (0..1_000).any(|_| {
        log.maintain().expect("maintains");
        log.stats().spans_expired == 2
    });
    assert!(gone, "{:?}", log.stats());
    assert_eq!(all(&log), Vec::<u64>::new());
    check_counts(cursor.counts(), 0, 0, 0, 2);
}

#[test]
fn a_damaged_cursor_database_is_set_aside_and_destinations_begin_with_the_oldest_span() {
    let fixture = Fixture::new();
    let log = fixture.open();
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    log.append(&spans(0..2)).expect("appends");
    let first = batch(&mut cursor);
    cursor.settle(first.first_block, Fate::default()).expect("saved");
    drop((cursor, log));
    fs::write(fixture.dir.path().join("cursors.db"), vec![0x55; 8192]).expect("writable");
    let log = fixture.open();
    assert!(log.stats().cursors_rebuilt);
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    assert_eq!(batch_numbers(&batch(&mut cursor)), [0, 1]);
    let names: Vec<String> = fs::read_dir(fixture.dir.path())
        .expect("the folder is there")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    assert!(names.iter().any(|name| name.starts_with("cursors.db.damaged-")), "{names:?}");
}

#[test]
fn numbers_are_not_used_again_after_the_segments_were_lost() {
    let fixture = Fixture::new();
    let log = fixture.open();
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    log.append(&spans(0..5)).expect("appends");
    let first = batch(&mut cursor);
    cursor.settle(first.first_block, Fate::default()).expect("saved");
    drop((cursor, log));
    fs::remove_file(fixture.segments().remove(0)).expect("removable");
    let log = fixture.open();
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    log.append(&spans(5..6)).expect("appends");
    assert_eq!(batch_numbers(&batch(&mut cursor)), [5]);
    check_counts(cursor.counts(), 5, 1, 0, 0);
}

#[test]
fn places_that_were_lost_are_lost_until_the_destinations_have_them_again() {
    let fixture = Fixture::new();
    let log = fixture.open();
    log.append(&spans(0..2)).expect("appends");
    drop(log);
    fs::remove_file(fixture.dir.path().join("cursors.db")).expect("removable");
    // A start that fails before any destination is open.
    drop(fixture.open());
    let log = fixture.open();
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    log.destinations_open().expect("noted");
    assert_eq!(batch_numbers(&batch(&mut cursor)), [0, 1]);
    drop((cursor, log));
    let log = fixture.open();
    let mut late = log.cursor("b", Wanted::default()).expect("a cursor");
    assert_eq!(late.next_batch(10, 1 << 20).expect("readable"), None, "a new destination begins with new spans");
}

#[test]
fn a_damaged_segment_header_costs_nothing() {
    let fixture = Fixture::new();
    let log = fixture.open();
    log.append(&spans(0..2)).expect("appends");
    log.append(&spans(2..3)).expect("appends");
    drop(log);
    let path = fixture.segments().remove(0);
    let mut bytes = fs::read(&path).expect("readable");
    bytes[20] ^= 1;
    fs::write(&path, &bytes).expect("writable");
    let log = fixture.open();
    log.append(&spans(3..4)).expect("appends");
    assert_eq!((all(&log), log.stats().foreign_files, log.stats().next_span), (vec![0, 1, 2, 3], 0, 4));
}

#[test]
fn numbers_of_blocks_are_not_used_again_after_a_crash() {
    let fixture = Fixture::new();
    let log = fixture.open();
    let first = log.append(&spans(0..1)).expect("appends").expect("a block");
    log.sync().expect("closed in order");
    drop(log);
    let log = fixture.open();
    let second = log.append(&spans(1..2)).expect("appends").expect("a block");
    assert_eq!(second.0, first.0 + 1);
    drop(log);
    let log = fixture.open();
    let third = log.append(&spans(2..3)).expect("appends").expect("a block");
    assert!(third.0 > second.0 + 1_000, "what came behind the second may have been sent under its number");
}

#[test]
fn a_newer_database_is_refused_and_left_as_it_is() {
    let fixture = Fixture::new();
    drop(fixture.open());
    for name in ["cursors.db", "dead_letters.db"] {
        let path = fixture.dir.path().join(name);
        let newer = rusqlite::Connection::open(&path).expect("a database");
        newer.pragma_update(None, "user_version", 99).expect("writable");
        drop(newer);
        let error = SpanLog::open(fixture.dir.path(), fixture.config.clone()).expect_err("it is newer");
        assert!(error.to_string().contains("version 99"), "{error}");
        fs::remove_file(path).expect("still there");
    }
}

#[test]
fn files_of_another_version_are_left_alone() {
    let fixture = Fixture::new();
    drop(fixture.open());
    let foreign = fixture.dir.path().join("segments").join("00000000000000000000.spans");
    let bytes = super::block::SegmentHeader { first_block: 0, first_span: 0, created_unix_ns: 0, version: 9 };
    let bytes = bytes.encode();
    fs::write(&foreign, bytes).expect("writable");
    let log = fixture.open();
    assert_eq!(log.stats().foreign_files, 1);
    log.append(&spans(0..1)).expect("appends");
    assert_eq!(all(&log), [0]);
    assert_eq!(fs::read(foreign.with_extension("foreign")).expect("set aside"), bytes);
}

#[test]
fn a_reader_survives_the_deletion_of_its_segment() {
    let mut fixture = Fixture::new();
    fixture.config.bytes_max = 1 << 20;
    let log = fixture.open();
    log.append(&spans(0..10)).expect("appends");
    log.append(&spans(10..11)).expect("appends");
    let mut reader = log.read_oldest();
    let first = reader.read(10, 1 << 20).expect("readable");
    assert_eq!(first.blocks.len(), 1);
    let mut appended = 11;
    while log.stats().spans_expired == 0 {
        log.append(&spans(appended..appended + 100)).expect("appends");
        appended += 100;
    }
    let mut read = 10;
    let mut lost = 0;
    loop {
        let next = reader.read(1_000, 1 << 20).expect("readable");
        lost += next.lost_spans;
        if next.blocks.is_empty() {
            break;
        }
        read += next.blocks.iter().map(|block| u64::from(block.header.span_count)).sum::<u64>();
    }
    assert_eq!(read + lost, appended);
}

#[test]
fn readers_and_a_writer_at_once_see_every_span_once() {
    const COUNT: u64 = 3_000;
    let fixture = Fixture::new();
    let log = fixture.open();
    let mut cursors: Vec<Cursor> =
        ["a", "b"].iter().map(|name| log.cursor(name, Wanted::default()).expect("a cursor")).collect();
    let follow = |cursor: &mut Cursor| {
        let mut seen = Vec::new();
        while (seen.len() as u64) < COUNT {
            match cursor.next_batch(100, 1 << 16).expect("readable") {
                Some(batch) => {
                    seen.extend(batch_numbers(&batch));
                    cursor.settle(batch.first_block, Fate::default()).expect("saved");
                }
                None => std::thread::yield_now(),
            }
        }
        seen
    };
    let expected: Vec<u64> = (0..COUNT).collect();
    std::thread::scope(|scope| {
        let followers: Vec<_> = cursors.iter_mut().map(|cursor| scope.spawn(move || follow(cursor))).collect();
        for number in (0..COUNT).step_by(10) {
            log.append(&spans(number..number + 10)).expect("appends");
        }
        for follower in followers {
            assert_eq!(follower.join().expect("no panic"), expected);
        }
    });
}

#[test]
fn appending_tells_who_waits() {
    let fixture = Fixture::new();
    let log = fixture.open();
    let mut appended = log.appended();
    assert!(!appended.has_changed().expect("the log lives"));
    log.append(&[]).expect("appends");
    assert!(!appended.has_changed().expect("the log lives"), "nothing is no news");
    log.append(&spans(0..1)).expect("appends");
    assert_eq!(*appended.borrow_and_update(), 1);
}

#[test]
fn random_damage_to_a_whole_log_never_keeps_it_from_working() {
    let fixture = Fixture::new();
    let log = fixture.open();
    for number in 0..20 {
        log.append(&spans(number * 3..number * 3 + 3)).expect("appends");
    }
    drop(log);
    let path = fixture.segments().remove(0);
    let original = fs::read(&path).expect("readable");
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..200 {
        let mut bytes = original.clone();
        for _ in 0..random.usize(1..8) {
            let at = random.usize(64..bytes.len());
            match random.u8(..3) {
                0 => bytes[at] ^= 1 << random.u8(..8),
                1 => bytes.truncate(at),
                _ => bytes[at..].fill(0),
            }
        }
        fs::write(&path, &bytes).expect("writable");
        let log = fixture.open();
        let before = all(&log);
        let mut counts = BTreeMap::new();
        before.iter().for_each(|number| *counts.entry(number).or_insert(0) += 1);
        assert!(counts.iter().all(|(number, count)| **number < 60 && *count == 1), "round {round}: {before:?}");
        log.append(&spans(100..101)).expect("appends");
        let after = all(&log);
        assert_eq!(after, [before, vec![100]].concat(), "round {round}");
    }
}
