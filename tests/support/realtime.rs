//! Running before everything that has no real-time priority.

/// Gives the calling thread `SCHED_FIFO` with this priority. The kernel leaves others 5 % of each second whatever it does.
pub fn take(priority: i32) {
    let parameter = libc::sched_param { sched_priority: priority };
    // SAFETY: a valid parameter for this thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameter) };
    assert_eq!(result, 0, "SCHED_FIFO: {}", std::io::Error::last_os_error());
}
