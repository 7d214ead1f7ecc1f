//! Running before everything that has no real-time priority.

/// Gives the calling thread `SCHED_FIFO` with this priority. The kernel leaves others 5 % of each second whatever it does.
pub fn take(priority: i32) {
    give(0, priority);
}

/// Gives it to another thread, 0 for the calling one; what that starts has it too.
pub fn give(tid: i32, priority: i32) {
    let parameter = libc::sched_param { sched_priority: priority };
    // SAFETY: a valid parameter; the kernel refuses a thread that is gone.
    let result = unsafe { libc::sched_setscheduler(tid, libc::SCHED_FIFO, &parameter) };
    assert_eq!(result, 0, "SCHED_FIFO for {tid}: {}", std::io::Error::last_os_error());
}
