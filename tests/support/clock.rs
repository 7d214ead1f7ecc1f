//! Time as the kernel side sees it, and bounded waiting.
//!
//! In: deadlines. Out: nanoseconds of `CLOCK_MONOTONIC`; conditions that came true. Never waits without a bound.

use std::time::{Duration, Instant};

const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Nanoseconds of `CLOCK_MONOTONIC`, the clock of the agent's kernel side.
pub fn monotonic_ns() -> u64 {
    now_ns(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds for which the calling thread has run so far.
pub fn thread_ran_ns() -> u64 {
    now_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn now_ns(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec to write to.
    let result = unsafe { libc::clock_gettime(clock, &mut now) };
    assert_eq!(result, 0, "clock_gettime({clock}) failed");
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Returns at `deadline_ns` of `CLOCK_MONOTONIC`, or at once if that has passed. For pacing a load and delaying packets,
/// never for waiting until something is done.
pub fn pace_until_ns(deadline_ns: u64) {
    // A timer that has expired takes the kernel tens of microseconds on a virtual machine.
    if monotonic_ns() >= deadline_ns {
        return;
    }
    let deadline = libc::timespec {
        tv_sec: (deadline_ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (deadline_ns % 1_000_000_000) as libc::c_long,
    };
    // SAFETY: `deadline` is a valid timespec; no remainder is asked for.
    while unsafe { libc::clock_nanosleep(libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &deadline, std::ptr::null_mut()) }
        == libc::EINTR
    {}
}

/// Returns after `length`. For work that takes that long by design, such as a slow route of a server.
pub fn pace(length: Duration) {
    pace_until_ns(monotonic_ns() + length.as_nanos() as u64);
}

/// Asks `condition` until it gives something, at most for `bound`.
pub fn poll<T>(bound: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + bound;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        pace(POLL_INTERVAL);
    }
}

/// Like [`poll`], but a condition that stays false fails the test with `what`.
pub fn wait_for<T>(what: &str, bound: Duration, condition: impl FnMut() -> Option<T>) -> T {
    poll(bound, condition).unwrap_or_else(|| panic!("{what}: not within {bound:?}"))
}
