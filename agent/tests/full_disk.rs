//! A disk that takes no more, by the kernel's own means: a limit on the size of this process's files. One test, because
//! the limit is the process's.

mod common;

use agent::log::{Fate, LogConfig, LogError, SpanLog, Wanted};

/// Sets the limit under which files may grow; the hard limit stays, so that it can be lifted again.
fn limit_file_bytes(bytes: libc::rlim_t) {
    // SAFETY: both calls get a pointer to a valid structure; SIGXFSZ is ignored so that writes fail instead.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        assert_eq!(libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit), 0);
        limit.rlim_cur = bytes.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
    }
}

#[test]
fn a_full_disk_drops_and_counts_and_the_log_recovers_by_itself() {
    let dir = tempfile::TempDir::new().expect("a temporary folder");
    let log = SpanLog::open(dir.path(), LogConfig::default()).expect("the log opens");
    let mut cursor = log.cursor("a", Wanted::default()).expect("a cursor");
    let mut generated = 0;
    let mut append = || {
        let spans: Vec<_> = (generated..generated + 50).map(|number| common::span(number, 10)).collect();
        generated += 50;
        log.append(&spans)
    };
    append().expect("there is room");
    limit_file_bytes(200_000);
    let error = (0..1_000).find_map(|_| append().err()).expect("the limit is reached");
    let LogError::Io { operation, path, .. } = &error else { panic!("{error}") };
    assert_eq!(*operation, "append to");
    assert!(path.starts_with(dir.path()), "{error}");
    assert!(append().is_err(), "still full");
    assert_eq!(log.stats().spans_dropped, 100);
    limit_file_bytes(libc::RLIM_INFINITY);
    append().expect("there is room again, without a restart");

    let mut delivered = 0;
    while let Some(batch) = cursor.next_batch(1_000, 1 << 20).expect("readable") {
        delivered += batch.span_count;
        cursor.settle(batch.first_block, Fate::default()).expect("saved");
    }
    let counts = cursor.counts();
    assert_eq!(delivered + 100, generated);
    assert_eq!((counts.delivered, counts.queued, counts.dead, counts.dropped), (delivered, 0, 0, 100));
    assert_eq!(counts.generated(), generated);
}
