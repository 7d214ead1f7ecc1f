//! CPU time of the threads whose work is less when detail is left out: capture, process facts, probes of TLS libraries.
//!
//! In: threads that say that they are such ([`Counted::this_thread`]). Out: what they have used together ([`cpu_ns`]). What the agent's
//! other threads do (answering queries, receiving, exporting, forcing to disk) is not in it: capturing less would not lower it.

use std::{marker::PhantomData, mem::MaybeUninit, sync::Mutex};

use crate::capture::lock;

static THREADS: Mutex<Threads> = Mutex::new(Threads { clocks: Vec::new(), ended_ns: 0 });

struct Threads {
    /// Of those that live.
    clocks: Vec<libc::clockid_t>,
    /// What those used that ended.
    ended_ns: u64,
}

/// Counts the thread that made it, which also drops it.
#[derive(Debug)]
pub struct Counted {
    clock: Option<libc::clockid_t>,
    /// Another thread's end would be taken for this one's.
    _stays: PhantomData<*const ()>,
}

impl Counted {
    /// Counts the calling thread from its begin to the end of the guard.
    pub fn this_thread() -> Self {
        let mut clock = MaybeUninit::uninit();
        // SAFETY: the calling thread lives, and `clock` is valid for writes; it is only read if it was written.
        let clock = unsafe {
            let result = libc::pthread_getcpuclockid(libc::pthread_self(), clock.as_mut_ptr());
            (result == 0).then(|| clock.assume_init())
        };
        lock(&THREADS).clocks.extend(clock);
        Self { clock, _stays: PhantomData }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Some(clock) = self.clock else { return };
        let mut threads = lock(&THREADS);
        threads.clocks.retain(|known| *known != clock);
        threads.ended_ns += clock_ns(clock);
    }
}

/// CPU time in nanoseconds that the counted threads have used since the agent started; those that ended are in it. One system call per thread.
pub fn cpu_ns() -> u64 {
    let threads = lock(&THREADS);
    threads.clocks.iter().map(|clock| clock_ns(*clock)).fold(threads.ended_ns, u64::saturating_add)
}

/// What a clock says; 0 if there is no such clock.
pub(crate) fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes; an unknown clock is refused and leaves it as it is.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    /// Has this thread use so much CPU time.
    fn burn(ns: u64) {
        let start = clock_ns(libc::CLOCK_THREAD_CPUTIME_ID);
        while clock_ns(libc::CLOCK_THREAD_CPUTIME_ID) - start < ns {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn only_counted_threads_count_and_what_they_used_stays_when_they_end() {
        const LONG_NS: u64 = 200_000_000;
        const SHORT_NS: u64 = 20_000_000;
        let before = cpu_ns();
        // Like a query: other tests count threads that use next to nothing.
        std::thread::spawn(|| burn(LONG_NS)).join().unwrap();
        let uncounted = cpu_ns() - before;
        assert!(uncounted < LONG_NS / 2, "{uncounted}");
        let (burnt, wait) = channel();
        let (end, ends) = channel::<()>();
        let thread = std::thread::spawn(move || {
            let _counted = Counted::this_thread();
            burn(SHORT_NS);
            burnt.send(()).unwrap();
            let _ = ends.recv();
        });
        wait.recv().unwrap();
        let alive = cpu_ns() - before;
        assert!(alive >= SHORT_NS, "{alive}");
        drop(end);
        thread.join().unwrap();
        assert!(cpu_ns() - before >= alive);
    }
}
