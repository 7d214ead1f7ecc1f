//! Sampling by whole traces for one destination: looks at the log ahead of the destination's place, and lets the place move on only
//! over blocks of which all is decided.
//!
//! In: the log, from the destination's place on. Out: how far all is decided, and what. Because the place stays before what is not
//! decided, a killed agent decides it again; what was decided before is noted beside the place, so that spans of the same traces
//! that come later follow. One task per such destination, ended with its [`TailLine`]. Read ahead are at most [`AHEAD_SPANS_MAX`]
//! spans: a destination that is down longer finds the rest undecided.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use agent_core::{
    relay::Choice,
    tail::{Tail, TailCounts},
};
use tokio::{sync::watch, task::JoinHandle};

use super::blocking;
use crate::{
    capture::lock,
    config::Destination,
    log::{Got, LogError, READ_BYTES, READ_SPANS, Reader, Sent, SpanLog, Wanted},
    run::unix_ns,
};

/// Most spans that are decided before the destination takes them, each two bytes or so.
const AHEAD_SPANS_MAX: u64 = 2_000_000;
/// Time between two looks, at least and at most.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
const IDLE_INTERVAL: Duration = Duration::from_millis(500);
/// Time before the log is read again after that failed.
const TROUBLE_INTERVAL: Duration = Duration::from_secs(10);

/// Up to where all is decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Decided {
    /// The first block of which something is not.
    pub block: u64,
    /// Its first span.
    pub span: u64,
}

/// Figures of one destination's decisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TailFigures {
    /// What was decided since the destination was started.
    pub counts: TailCounts,
    /// Traces that wait.
    pub waiting: u64,
    /// Bytes that this takes, about.
    pub bytes: u64,
}

/// The decisions for one destination.
#[derive(Debug)]
pub(super) struct TailLine {
    state: Arc<Mutex<State>>,
    decided: watch::Receiver<Decided>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    tail: Tail,
    /// Blocks that were looked at and are not decided, with their first spans.
    undecided: VecDeque<Decided>,
    /// The first span that the destination has not taken.
    taken: u64,
    /// Whether there is more in the log than was looked at.
    is_behind: bool,
}

impl Drop for TailLine {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl TailLine {
    /// Looks ahead of the destination's place; nothing if it does not sample by traces.
    pub fn start(log: &SpanLog, to: &Destination, wanted: Wanted) -> Option<Self> {
        // What cannot be used was refused before.
        let config = to.sampling.tail_config().ok().flatten()?;
        let sent = log.sent_to(&to.name, wanted.clone());
        let place = sent.place();
        let state = State { tail: Tail::new(config), undecided: VecDeque::new(), taken: 0, is_behind: true };
        let state = Arc::new(Mutex::new(state));
        let (tell, decided) = watch::channel(Decided::default());
        let looking = Looking {
            name: to.name.clone(),
            reader: log.read_around(place),
            wanted,
            place,
            sent,
            state: Arc::clone(&state),
            tell,
        };
        let task = tokio::spawn(looking.run(log.appended()));
        Some(Self { state, decided, task })
    }

    /// Up to where all is decided.
    pub fn decided(&self) -> Decided {
        *self.decided.borrow()
    }

    /// Whether spans wait that have not even been looked at.
    pub fn is_behind(&self) -> bool {
        lock(&self.state).is_behind
    }

    /// Tells when that moves.
    pub fn moved(&self) -> watch::Receiver<Decided> {
        self.decided.clone()
    }

    /// What was decided of a block, once; of one that was not looked at, all is kept.
    pub fn take(&self, block: u64) -> Vec<Choice> {
        lock(&self.state).tail.take(block).unwrap_or_default()
    }

    /// The destination has taken spans up to this one.
    pub fn taken(&self, span: u64) {
        lock(&self.state).taken = span;
    }

    pub fn figures(&self) -> TailFigures {
        let tail = &lock(&self.state).tail;
        TailFigures { counts: tail.counts(), waiting: tail.waiting() as u64, bytes: tail.bytes() }
    }
}

struct Looking {
    name: String,
    reader: Reader,
    wanted: Wanted,
    /// The first block that is to be decided; those before were.
    place: u64,
    sent: Sent,
    state: Arc<Mutex<State>>,
    tell: watch::Sender<Decided>,
}

impl Looking {
    async fn run(mut self, mut appended: watch::Receiver<u64>) {
        loop {
            appended.mark_unchanged();
            let looked = blocking(move || {
                let looked = self.look();
                Ok::<_, LogError>((self, looked))
            });
            // Only a panic fails here; it was told. The destination then waits for the next start.
            let Ok((this, looked)) = looked.await else { return };
            self = this;
            match looked {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(destination = self.name, %error, "traces cannot be decided now");
                    tokio::time::sleep(TROUBLE_INTERVAL).await;
                }
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
            // Whether something came or not, the time goes on.
            let _ = tokio::time::timeout(self.wait(), appended.changed()).await;
        }
    }

    /// Until the next trace is due.
    fn wait(&self) -> Duration {
        let due = lock(&self.state).tail.next_deadline_ns();
        let left = due.map(|due| Duration::from_nanos(due.saturating_sub(unix_ns())));
        left.map_or(IDLE_INTERVAL, |left| left.min(IDLE_INTERVAL))
    }

    /// Looks at what came. Whether there is more.
    fn look(&mut self) -> Result<bool, LogError> {
        let taken = lock(&self.state).taken;
        if taken > 0 && self.reader.next_span().saturating_sub(taken) > AHEAD_SPANS_MAX {
            // What nobody can take, because it waits for spans that are not looked at, does not wait for them.
            if self.tell.borrow().span <= taken {
                lock(&self.state).tail.tick(unix_ns());
                self.publish();
            }
            return Ok(false);
        }
        let read = self.reader.read(READ_SPANS, READ_BYTES)?;
        for block in &read.blocks {
            if self.wanted.wants(block.header.flags) {
                self.block(block)?;
            }
        }
        let has_more = !read.blocks.is_empty();
        let mut state = lock(&self.state);
        state.is_behind = has_more;
        if !has_more {
            state.tail.tick(unix_ns());
        }
        drop(state);
        self.publish();
        Ok(has_more)
    }

    fn block(&mut self, block: &crate::log::Block) -> Result<(), LogError> {
        let header = &block.header;
        if header.block < self.place {
            if let Got::Some(choices) = self.sent.ordinarily(header)? {
                lock(&self.state).tail.remember(&block.payload, &choices);
            }
            return Ok(());
        }
        let mut state = lock(&self.state);
        state.undecided.push_back(Decided { block: header.block, span: header.first_span });
        state.tail.add(header.block, &block.payload, header.appended_unix_ns);
        Ok(())
    }

    fn publish(&mut self) {
        let mut state = lock(&self.state);
        let end = Decided { block: self.reader.next_block(), span: self.reader.next_span() };
        let first = state.tail.undecided();
        while state.undecided.front().is_some_and(|block| first.is_none_or(|first| block.block < first)) {
            state.undecided.pop_front();
        }
        let decided = state.undecided.front().copied().unwrap_or(end);
        drop(state);
        self.tell.send_if_modified(|told| std::mem::replace(told, decided) != decided);
    }
}

#[cfg(test)]
mod tests;
