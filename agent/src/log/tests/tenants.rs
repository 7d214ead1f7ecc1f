//! The numbers of tenants, and what is lost with them.

use super::*;

/// Spans of two tenants and of none, which no destination had yet.
fn log_of_two_tenants() -> Fixture {
    let fixture = Fixture::new();
    let log = fixture.open();
    for (numbers, tenant) in [(1..3, "red"), (3..6, "blue")] {
        let tenant = log.tenant(tenant).expect("a number");
        relay(&log, numbers, Flags { tenant, ..Flags::default() }).expect("appends");
    }
    log.append(&spans(6..7)).expect("appends");
    fixture
}

fn blue(log: &SpanLog) -> (Vec<u64>, DestinationCounts) {
    let tenants = Some([log.tenant("blue").expect("a number")].into());
    let mut cursor = log.cursor("blue", Wanted { not_local: true, tenants }).expect("a cursor");
    let mut taken = Vec::new();
    while let Some(batch) = cursor.next_batch(1_000, 1 << 20).expect("readable") {
        taken.extend(batch_numbers(&batch));
        cursor.settle(batch.first_block, Fate::default()).expect("saved");
    }
    (taken, cursor.counts())
}

fn lose(fixture: &Fixture, names: &[&str]) {
    names.iter().for_each(|name| fs::remove_file(fixture.dir.path().join(name)).expect("removable"));
}

#[test]
fn tenants_have_their_spans_also_without_the_cursor_database() {
    let fixture = log_of_two_tenants();
    fs::write(fixture.dir.path().join("cursors.db"), vec![0x55; 8192]).expect("writable");
    let log = fixture.open();
    let (taken, counts) = blue(&log);
    assert_eq!(taken, [3, 4, 5]);
    assert_eq!((counts.delivered, counts.filtered, counts.dropped), (3, 3, 0));
    assert!(log.tenant("green").expect("a number") > log.tenant("blue").expect("a number"));
}

#[test]
fn a_log_of_an_older_agent_has_its_names_written() {
    let fixture = log_of_two_tenants();
    lose(&fixture, &["tenants.json"]);
    drop(fixture.open());
    lose(&fixture, &["cursors.db"]);
    assert_eq!(blue(&fixture.open()).0, [3, 4, 5]);
}

#[test]
fn spans_of_tenants_whose_names_were_lost_are_dropped_and_not_filtered() {
    let fixture = log_of_two_tenants();
    lose(&fixture, &["tenants.json", "cursors.db"]);
    let log = fixture.open();
    let (taken, counts) = blue(&log);
    assert_eq!((taken, counts.dropped, counts.filtered), (vec![], 5, 1), "they may be its own; this host's are not");
    let mut all = log.cursor("all", Wanted { not_local: true, tenants: None }).expect("a cursor");
    assert_eq!(batch_numbers(&batch(&mut all)), [1, 2, 3, 4, 5, 6]);
    let tenant = log.tenant("blue").expect("a number");
    assert_eq!(tenant, 3, "the others' numbers are not used again");
    drop((all, log));
    let log = fixture.open();
    relay(&log, 7..8, Flags { tenant, ..Flags::default() }).expect("appends");
    let (taken, counts) = blue(&log);
    assert_eq!((taken, counts.delivered, counts.dropped), (vec![7], 1, 5));
}

#[test]
fn a_damaged_file_of_names_is_set_aside_and_a_newer_one_refused() {
    let fixture = log_of_two_tenants();
    let path = fixture.dir.path().join("tenants.json");
    let whole = fs::read(&path).expect("readable");
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).expect("writable");
        drop(fixture.open());
        assert_eq!(fs::read(&path).expect("readable"), whole, "from the database");
    }
    fs::write(&path, r#"{"version":2,"tenants":["red"]}"#).expect("writable");
    let error = SpanLog::open(fixture.dir.path(), fixture.config.clone()).expect_err("it is newer");
    assert!(error.to_string().contains("version 2"), "{error}");
}
