//! Reads facts of processes on a thread of its own.
//!
//! In: process ids. Out: their facts, some time later. Called by the capture loop, which never waits for it: reading
//! `/proc/PID/environ` or `cmdline` waits for the process's memory lock, which a stuck process may hold for long. One
//! thread, so that a stuck process holds up the facts of the others, but neither records nor memory.
//!
//! Limits: [`QUEUE_MAX`] processes wait; more are counted, and known by what the kernel's records say of them.

use std::{
    collections::VecDeque,
    io,
    sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel},
    time::{Duration, Instant},
};

use agent_core::span::ProcessFacts;

use crate::cost::threads::Counted;

/// Processes handed to the thread at once.
const CHANNEL_MAX: usize = 64;
/// Processes that wait to be handed over.
pub const QUEUE_MAX: usize = 4_096;

/// The thread that reads, seen from the capture loop.
#[derive(Debug)]
pub struct FactsReader {
    asking: SyncSender<u32>,
    answers: Receiver<ProcessFacts>,
    queue: VecDeque<u32>,
    /// Handed over and not answered yet.
    open: usize,
    unread: u64,
    /// Those for which there was no room: nobody shall wait for them.
    dropped: Vec<ProcessFacts>,
}

impl FactsReader {
    /// Starts the thread, which calls `read` for each process that is asked for.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(read: impl Fn(u32) -> ProcessFacts + Send + 'static) -> io::Result<Self> {
        let (asking, asked) = sync_channel(CHANNEL_MAX);
        let (answering, answers) = channel();
        // Not joined: it may be stuck, and ends with the channel.
        std::thread::Builder::new().name("facts".into()).spawn(move || answer(&asked, &answering, read))?;
        Ok(Self { asking, answers, queue: VecDeque::new(), open: 0, unread: 0, dropped: Vec::new() })
    }

    /// Asks for the facts of these processes. Never waits.
    pub fn ask(&mut self, pids: impl IntoIterator<Item = u32>) {
        for pid in pids {
            if self.queue.len() < QUEUE_MAX {
                self.queue.push_back(pid);
            } else {
                self.unread += 1;
                self.dropped.push(ProcessFacts { pid, ..ProcessFacts::default() });
            }
        }
        self.hand_over();
    }

    /// What was read since the last call. Never waits.
    pub fn answers(&mut self) -> Vec<ProcessFacts> {
        let mut answers: Vec<ProcessFacts> = self.answers.try_iter().collect();
        self.open -= answers.len();
        self.hand_over();
        answers.append(&mut self.dropped);
        answers
    }

    /// What is read of what was asked for, waiting at most `wait`. What is not read by then is counted.
    pub fn last_answers(&mut self, wait: Duration) -> Vec<ProcessFacts> {
        let deadline = Instant::now() + wait;
        let mut answers = self.answers();
        while self.open > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(facts) = self.answers.recv_timeout(left) else { break };
            self.open -= 1;
            answers.push(facts);
            self.hand_over();
        }
        self.unread += (self.open + self.queue.len()) as u64;
        self.queue.clear();
        answers
    }

    /// Processes whose facts were asked for and never came.
    pub fn unread(&self) -> u64 {
        self.unread
    }

    fn hand_over(&mut self) {
        while let Some(pid) = self.queue.pop_front() {
            match self.asking.try_send(pid) {
                Ok(()) => self.open += 1,
                Err(TrySendError::Full(pid)) => return self.queue.push_front(pid),
                // The thread panicked; the loop goes on without facts.
                Err(TrySendError::Disconnected(_)) => self.unread += 1,
            }
        }
    }
}

fn answer(asked: &Receiver<u32>, answering: &Sender<ProcessFacts>, read: impl Fn(u32) -> ProcessFacts) {
    let _counted = Counted::this_thread();
    for pid in asked {
        if answering.send(read(pid)).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn facts(pid: u32) -> ProcessFacts {
        ProcessFacts { pid, ..ProcessFacts::default() }
    }

    fn pids(facts: &[ProcessFacts]) -> Vec<u32> {
        facts.iter().map(|facts| facts.pid).collect()
    }

    #[test]
    fn every_process_is_answered_in_order_however_many_there_are() {
        let mut reader = FactsReader::start(facts).unwrap();
        let asked: Vec<u32> = (1..=1_000).collect();
        reader.ask(asked.clone());
        assert_eq!(pids(&reader.last_answers(LONG)), asked);
        assert_eq!(reader.unread(), 0);
    }

    #[test]
    fn a_stuck_process_holds_up_nobody_who_asks() {
        let (release, stuck) = channel::<()>();
        let read = move |pid| {
            // Ends when the sender is dropped.
            let _ = stuck.recv();
            facts(pid)
        };
        let mut reader = FactsReader::start(read).unwrap();
        // These calls return although nothing is ever answered meanwhile.
        let too_many = (QUEUE_MAX + CHANNEL_MAX + 10) as u32;
        reader.ask(0..too_many);
        let dropped = reader.answers();
        assert!(
            !dropped.is_empty() && dropped.iter().all(|facts| *facts == self::facts(facts.pid)),
            "nobody waits for them"
        );
        assert_eq!(reader.unread(), dropped.len() as u64, "what does not fit is counted");
        assert_eq!(pids(&reader.last_answers(Duration::ZERO)), [0; 0]);
        assert_eq!(reader.unread(), u64::from(too_many), "and so is what never came");
        drop(release);
    }

    #[test]
    fn answers_come_once_the_process_is_no_longer_stuck() {
        let (release, stuck) = channel::<()>();
        let read = move |pid| {
            let _ = stuck.recv();
            facts(pid)
        };
        let mut reader = FactsReader::start(read).unwrap();
        reader.ask([7, 8]);
        drop(release);
        assert_eq!(pids(&reader.last_answers(LONG)), [7, 8]);
    }

    #[test]
    fn a_thread_that_panics_is_counted_and_waits_for_nobody() {
        let read = |_| -> ProcessFacts { std::panic::resume_unwind(Box::new("unreadable")) };
        let mut reader = FactsReader::start(read).unwrap();
        reader.ask([1]);
        assert_eq!(pids(&reader.last_answers(LONG)), [0; 0]);
        reader.ask([2]);
        assert_eq!(reader.unread(), 2);
    }
}
