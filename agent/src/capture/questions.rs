//! Questions to the capture thread, which alone owns the pipeline.
//!
//! In: who wants to know. Out: a snapshot of the connections, taken between two turns of the loop. Asked by the query
//! server, on threads that may block. Limits: [`WAITING_MAX`] askers at a time.

use std::{
    fs::File,
    io::{Read, Write},
    sync::{
        Mutex,
        mpsc::{Sender, channel},
    },
    time::Duration,
};

use agent_core::flow::view::ConnectionView;

use super::lock;

/// Askers that may wait.
const WAITING_MAX: usize = 16;
/// How long an asker waits; the loop answers within its turn unless the machine has no time for it.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// Where questions wait for the capture thread.
#[derive(Debug)]
pub struct Questions {
    waiting: Mutex<Vec<Sender<Vec<ConnectionView>>>>,
    /// An event descriptor that ends the loop's sleep.
    interrupt: File,
}

impl Questions {
    pub(super) fn new(interrupt: File) -> Self {
        Self { waiting: Mutex::default(), interrupt }
    }

    /// The connections that are known now, and the last that closed. Blocks.
    ///
    /// # Errors
    /// The capture loop ended, or has no time.
    pub fn connections(&self) -> Result<Vec<ConnectionView>, &'static str> {
        let (sender, receiver) = channel();
        {
            let mut waiting = lock(&self.waiting);
            if waiting.len() >= WAITING_MAX {
                return Err("too many ask at once; ask again");
            }
            waiting.push(sender);
        }
        self.interrupt();
        receiver.recv_timeout(ANSWER_WAIT).map_err(|_| "the capture loop does not answer")
    }

    /// Ends the loop's sleep. If it fails, the sleep ends by itself within a second.
    pub(super) fn interrupt(&self) {
        let _ = (&self.interrupt).write_all(&1_u64.to_ne_bytes());
    }

    /// Answers who waits. Called by the capture thread.
    pub(super) fn answer(&self, connections: impl FnOnce() -> Vec<ConnectionView>) {
        // Before the look, so that who comes after it ends the next sleep. Nothing to read: nobody came.
        let _ = (&self.interrupt).read(&mut [0; 8]);
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        let Some((last, others)) = waiting.split_last() else { return };
        let views = connections();
        // Who gave up waiting needs no answer.
        for sender in others {
            let _ = sender.send(views.clone());
        }
        let _ = last.send(views);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn questions() -> Arc<Questions> {
        Arc::new(Questions::new(File::from(super::super::event_descriptor().expect("a descriptor"))))
    }

    #[test]
    fn every_asker_is_answered_by_one_snapshot() {
        let questions = questions();
        let asking: Vec<_> = (0..3)
            .map(|_| {
                let questions = Arc::clone(&questions);
                std::thread::spawn(move || questions.connections())
            })
            .collect();
        while lock(&questions.waiting).len() < 3 {
            std::thread::yield_now();
        }
        let mut taken = 0;
        questions.answer(|| {
            taken += 1;
            Vec::new()
        });
        assert_eq!(taken, 1);
        for asker in asking {
            assert_eq!(asker.join().expect("no panic"), Ok(Vec::new()));
        }
        questions.answer(|| unreachable!("nobody waits"));
    }

    #[test]
    fn askers_are_bounded_and_do_not_wait_for_ever() {
        let questions = questions();
        assert_eq!(questions.connections(), Err("the capture loop does not answer"));
        lock(&questions.waiting).extend((1..WAITING_MAX).map(|_| channel().0));
        assert_eq!(questions.connections(), Err("too many ask at once; ask again"));
    }
}
