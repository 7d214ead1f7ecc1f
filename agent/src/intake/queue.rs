//! Requests that wait to be stored, and who stores them.
//!
//! In: jobs. Out: the same, one at a time, to about as many workers at once as there are processors, each on a thread that may wait for files.
//! A worker that is awake takes what comes meanwhile, so that many requests cost few wake-ups, and one force to disk is for all that
//! it took. Has no bound of its own: each job is a request that the receivers let in, and those have one.

use std::{collections::VecDeque, sync::Mutex};

use crate::capture::lock;

/// One forces to disk while the other reads what comes.
const WORKERS_MIN: usize = 2;

#[derive(Debug)]
pub(super) struct Queue<J> {
    workers_max: usize,
    state: Mutex<State<J>>,
}

#[derive(Debug)]
struct State<J> {
    waiting: VecDeque<J>,
    workers: usize,
}

impl<J> Queue<J> {
    /// With workers that wait for the disk, or not. Those that do not leave a processor to what is received and sent meanwhile: where one
    /// can store what the others bring, two would only get in each other's way.
    pub fn new(waits_for_disk: bool) -> Self {
        let processors = std::thread::available_parallelism().map_or(WORKERS_MIN, usize::from);
        Self::with(if waits_for_disk { processors.max(WORKERS_MIN) } else { (processors - 1).max(1) })
    }

    fn with(workers_max: usize) -> Self {
        Self { workers_max, state: Mutex::new(State { waiting: VecDeque::new(), workers: 0 }) }
    }

    /// Adds a job; true: the caller has to start another worker.
    pub fn push(&self, job: J) -> bool {
        let mut state = lock(&self.state);
        state.waiting.push_back(job);
        let is_started = state.workers < self.workers_max;
        state.workers += usize::from(is_started);
        is_started
    }

    /// The next job of a worker. Without one the worker ends, and is no longer counted, if it has nothing else to do.
    pub fn next(&self, has_more_to_do: bool) -> Option<J> {
        let mut state = lock(&self.state);
        let job = state.waiting.pop_front();
        if job.is_none() && !has_more_to_do {
            state.workers -= 1;
        }
        job
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nobody_waits_for_the_disk_there_is_a_worker_less_but_always_one() {
        let (waiting, others) = (Queue::<()>::new(true), Queue::<()>::new(false));
        assert!(waiting.workers_max >= 2 && others.workers_max >= 1);
        assert!(others.workers_max < waiting.workers_max);
    }

    #[test]
    fn there_is_a_worker_for_every_job_and_never_too_many() {
        let queue = Queue::with(2);
        assert_eq!([1, 2, 3].map(|job| queue.push(job)), [true, true, false]);
        assert_eq!((queue.next(false), queue.next(true), queue.next(false)), (Some(1), Some(2), Some(3)));
        assert_eq!((queue.next(true), queue.next(false)), (None, None));
        assert!(queue.push(4), "one has ended");
        assert!(!queue.push(5), "the other has not: it takes this one too");
        assert_eq!(
            (queue.next(true), queue.next(true), queue.next(false), queue.next(false)),
            (Some(4), Some(5), None, None)
        );
        assert!(queue.push(6), "all have ended");
    }
}
